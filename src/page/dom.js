/** Small helpers for elements, which all pages share. */

export const $ = (selector, root = document) => root.querySelector(selector);

/** An element. Text goes in as text: nothing that a client stored is ever read as markup. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== 'list') element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', '#' + name);
  svg.setAttribute('class', 'i');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

export function set(element, text) { if (element.textContent !== text) element.textContent = text; }

/** Runs `action` soon, and at most once in `pause` milliseconds. */
export function throttled(pause, action) {
  let timer = 0, last = 0;
  return () => {
    if (timer) return;
    timer = setTimeout(() => { timer = 0; last = Date.now(); action(); }, Math.max(0, last + pause - Date.now()));
  };
}

/** A bar, its percent and its step, of a task or a job. */
export function meterParts(name) {
  const part = { fill: h('i'), percent: h('span', { className: 'num' }), step: h('span', { className: 'cut step', dir: 'auto' }) };
  part.meter = h('div', { className: 'meter', role: 'progressbar', ariaLabel: `Progress of ${name}`, ariaValueMin: 0, ariaValueMax: 100 }, part.fill);
  return part;
}

export function drawMeter(part, progress, step) {
  if (part.progress !== progress) {
    part.progress = progress;
    part.fill.style.transform = `translateX(${progress - 100}%)`;
    part.meter.ariaValueNow = progress;
    set(part.percent, progress + ' %');
  }
  set(part.step, step);
}

/** Steps as a list that is ticked off. */
export function drawChecklist(list, steps, spell) {
  while (list.children.length > steps.length) list.lastChild.remove();
  steps.forEach(({ name, state, ms }, i) => {
    const item = list.children[i] ?? list.appendChild(h('li', {}, h('span', { className: 'sr' }), h('span', { className: 'what', dir: 'auto' }), h('span', { className: 'num soft' })));
    item.dataset.state = state;
    const [word, what, time] = item.children;
    set(word, { done: 'Done: ', running: 'Running: ', waiting: 'Waits for a person: ', paused: 'Paused: ', todo: 'To come: ', failed: 'Failed: ', cancelled: 'Cancelled: ' }[state]);
    set(what, name);
    set(time, ms === undefined ? '' : spell(ms));
  });
  list.hidden = steps.length === 0;
}

// --- Actions ---

/** A button that has changed its meaning, or has just been pressed, is dead for so long. */
const DEAD = 500;

/** Makes a button deaf until `until` is over, and for a moment at least. */
export async function deafen(button, until) {
  button.ariaDisabled = 'true';
  await Promise.allSettled([until, new Promise((go) => setTimeout(go, DEAD))]);
  button.ariaDisabled = null;
}

/** A listener that does its action once, however often its button is pressed meanwhile. */
export const once = (action) => (event) => {
  const button = event.currentTarget;
  if (button.ariaDisabled === 'true') return undefined;
  const done = action(event);
  deafen(button, done);
  return done;
};

// A key that is held down presses once.
addEventListener('keydown', (event) => {
  const presses = event.key === 'Enter' || event.key === ' ';
  if (event.repeat && presses && event.target.closest?.('button, summary, input:not([type=search])')) event.preventDefault();
}, true);

/** Runs an action; what goes wrong is shown in `place`. */
export async function attempt(place, action) {
  set(place, '');
  try {
    return await action();
  } catch (error) {
    set(place, error.message);
    for (const { field } of error.fields ?? []) {
      const input = document.getElementById(field);
      input?.setAttribute('aria-invalid', 'true');
      const fold = input?.closest('details');
      if (fold) fold.open = true;
    }
    return undefined;
  }
}

// --- What is said ---

export const front = () => $('dialog[open]') ?? document.body;

export function say(text) { set($('#said'), text); }

let toastTimer = 0;
export function toast(text, code, note) {
  const box = $('#toast');
  const isLink = code?.startsWith(location.origin);
  box.replaceChildren(text, ...(note ? [' ', h('span', {}, note)] : []), ...(code ? [h('code', {}, isLink ? h('a', { href: code, target: '_blank' }, code) : code)] : []));
  // Within an open dialog, since all else is out of reach then.
  if (box.matches(':popover-open')) box.hidePopover();
  front().append(box);
  box.showPopover();
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.hidePopover(), code ? 9000 : 4000);
  say(note ? `${text} ${note}` : text);
}

/** Without https a browser may have no clipboard: then the text is shown, ready to be selected. */
export async function copy(text, what, note) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`, text, note);
  } catch {
    toast(`${what}: select and copy it`, text, note);
  }
}

const LOOPBACK = /^(localhost|127\.|\[::1\])/;
/** A link for others; one to this machine would lead them to theirs. */
export const copyLink = (link, what) => copy(link, what, LOOPBACK.test(location.hostname) ? 'It works on this machine only: open the page by the machine’s name for one that others can follow.' : undefined);

export function curlButton(label, command) {
  return h('button', { type: 'button', className: 'icon', title: 'Copy curl', ariaLabel: `Copy the curl command: ${label}`,
    onclick: (event) => { event.stopPropagation(); copy(command(), 'Command'); } }, icon('curl'));
}

// --- Dialogs ---

/** Opens a dialog. What is said must be within it: all else is out of reach meanwhile. */
export function show(dialog) {
  $('#toast').hidePopover();
  dialog.showModal();
  dialog.append($('#said'));
}

export function prepareDialogs() {
  for (const dialog of document.querySelectorAll('dialog')) {
    $('.top', dialog).append(h('button', { className: 'icon', 'data-close': '', type: 'button', ariaLabel: 'Close', onclick: () => dialog.close() }, icon('stop')));
    dialog.addEventListener('close', () => {
      if (dialog.contains($('#toast'))) $('#toast').hidePopover();
      front().append($('#said'), $('#toast'));
    });
  }
}
