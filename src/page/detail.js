/** One task in the drawer: how it stands, its steps, its log and its history. */

import { call, curl, serverTime } from './api.js';
import { $, attempt, copy, copyLink, curlButton, drawChecklist, drawMeter, h, icon, meterParts, once, set, show, throttled } from './dom.js';
import { checklist, clockTime, duration, heldBy, plannedSteps, statusText, stepText, timeText } from './format.js';
import { change } from './store.js';
import { closeLog, openLog, prepareLog, reopenLog } from './log.js';
import { fillActions } from './rows.js';
import { go } from './address.js';

let task = null;               // the one that is shown
let opened = '';               // its id
let now = null;                // the elements that show how it stands
let past = [];                 // its history

export function prepareDetail() {
  $('#drawer').addEventListener('close', ({ target }) => {
    // The event comes late: by now another task may be shown.
    if (opened && !target.open) go({ task: '' });
  });
  prepareLog(() => task);
}

/** Shows a task, or none. `known` is what the list tells of it. */
export function showDetail(id, known) {
  if (id === opened) return;
  opened = id;
  task = known ? { ...known } : null;
  now = null;
  past = [];
  closeLog();
  if (!id) { $('#drawer').close(); return; }
  set($('#drawer-error'), '');
  for (const part of ['#trail', '#drawer-facts', '#drawer-data', '#drawer-now', '#drawer-acts', '#checklist']) $(part).replaceChildren();
  $('#checklist').hidden = true;
  set($('#drawer-name'), task?.name ?? 'Task');
  set($('#drawer-id'), id);
  draw();
  refresh();
  openLog(id);
  if (!$('#drawer').open) show($('#drawer'));
}

/** What the session's stream or its list tells of a task. */
export function tellDetail(id, name, data) {
  if (id !== opened || !task) return;
  change(task, name, data);
  draw();
  refresh();
  if (name === 'retried') reopenLog();
}

/** A stream that has had a gap: all anew. */
export function refreshDetail() { if (opened) refresh(); }

export function tickDetail() { if (task?.status === 'running' && now) drawClocks(); }

const refresh = throttled(250, async () => {
  const id = opened;
  if (!id) return;
  const got = await attempt($('#drawer-error'), () => Promise.all([call('GET', `/tasks/${id}`), call('GET', `/tasks/${id}/history`)]));
  if (!got || opened !== id) return;
  const queued = task?.queued;
  task = { ...got[0].task, queued: got[0].task.status === 'pending' && queued };
  past = got[1].history;
  draw();
  drawFacts();
  const trail = $('#trail');
  // Only what is new is added: history is never rewritten.
  for (const entry of past.slice(trail.children.length)) trail.append(trailEntry(entry, past[0].at));
});

function draw() {
  if (!task) return;
  if (!now) {
    now = { ...meterParts(task.name), status: h('span', { className: 'status' }), time: h('span', { className: 'num' }) };
    $('#drawer-now').replaceChildren(h('div', { className: 'below' }, now.status, now.time), now.meter, h('div', { className: 'below' }, now.step, now.percent));
  }
  set($('#drawer-name'), task.name);
  $('#drawer-now').dataset.status = task.status;
  $('#drawer-now').dataset.held = heldBy(task);
  drawMeter(now, task.progress, stepText(task));
  set(now.status, statusText(task));
  drawClocks();
  const looks = `${task.status} ${task.queued} ${heldBy(task)}`;
  if (now.looks !== looks) {
    now.looks = looks;
    drawActs();
  }
}

function drawClocks() {
  set(now.time, timeText(task, serverTime()));
  const newest = past.at(-1)?.attempt ?? 1;
  const reports = past.filter(({ event, attempt: of }) => event === 'progress' && of === newest);
  const plan = plannedSteps(task);
  const steps = checklist(plan, reports, task, serverTime());
  // A batch of hundreds is no list to tick off.
  drawChecklist($('#checklist'), steps.length > 30 ? [] : steps, duration);
}

function drawActs() {
  let acts = $('#drawer-acts > .acts');
  if (!acts) {
    acts = h('span', { className: 'acts' });
    const path = `/tasks/${task.id}`;
    $('#drawer-acts').replaceChildren(acts,
      h('span', { className: 'pair' },
        h('button', { type: 'button', id: 'share', onclick: once(shareTask) }, icon('link'), 'Share'),
        curlButton('Share', () => curl('POST', `${path}/share`))),
      h('button', { type: 'button', title: 'Copy the command that watches it in a terminal', onclick: () => copy(`${curl('GET', `${path}/watch`)} -G -d width=\${COLUMNS:-80}`, 'Command') }, icon('terminal'), 'Terminal'),
      h('button', { type: 'button', title: 'Copy the curl command that reads it', onclick: () => copy(curl('GET', path), 'Command') }, icon('curl'), 'JSON'));
  }
  fillActions(acts, task, $('#drawer-error'));
}

const shareTask = () => attempt($('#drawer-error'), async () => {
  const { url } = await call('POST', `/tasks/${opened}/share`);
  await copyLink(location.origin + url, 'Link for bystanders');
});

const json = (value) => h('pre', { tabIndex: 0, textContent: JSON.stringify(value, null, 2) });

function drawFacts() {
  const facts = [['Type', task.type], ['Created', clockTime(task.createdAt)], task.startedAt && ['Started', clockTime(task.startedAt)],
    task.completedAt && ['Ended', clockTime(task.completedAt)], task.timeoutMs && ['Time limit', duration(task.timeoutMs)], task.description && ['About', task.description]];
  $('#drawer-facts').replaceChildren(
    h('h3', {}, 'Details'), h('dl', {}, ...facts.filter(Boolean).flatMap(([name, value]) => [h('dt', {}, name), h('dd', { dir: 'auto' }, value)])),
    ...(task.result === undefined ? [] : [h('h3', {}, 'Result'), json(task.result)]));
  const data = $('#drawer-data');
  if (task.metadata !== undefined && !data.firstChild) {
    const text = json(task.metadata);
    data.append(h('details', { open: text.textContent.length < 600 }, h('summary', {}, 'Metadata'), text));
  }
}

function trailEntry(entry, begun) {
  const isStep = entry.event === 'progress';
  const word = isStep ? entry.step ?? 'Progress' : entry.event[0].toUpperCase() + entry.event.slice(1);
  const item = h('li', { className: isStep ? '' : entry.event === 'retried' ? 'turn again' : 'turn' },
    h('span', { dir: 'auto' }, h('b', {}, word), entry.message ? h('span', { className: 'soft' }, ': ' + entry.message) : null, entry.event === 'retried' ? `, attempt ${entry.attempt}` : ''),
    h('span', { className: 'num soft', title: clockTime(entry.at) }, entry.at - begun < 50 ? '' : '+' + duration(entry.at - begun)),
    h('span', { className: 'num' }, entry.progress + ' %'));
  item.dataset.status = entry.status;
  return item;
}
