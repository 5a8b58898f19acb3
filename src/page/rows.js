/** The list of tasks: a row for each task of the store's page. */

import { call, curl, serverTime } from './api.js';
import { $, attempt, curlButton, deafen, drawMeter, front, h, icon, meterParts, once, set } from './dom.js';
import { heldBy, number, statusText, stepText, timeText } from './format.js';
import { PAGE } from './store.js';
import { go, view } from './address.js';

const rows = new Map();        // id → the elements of its row
const dirty = new Set();       // ids to draw in the next frame
let store = null, isMoved = false, frame = 0;

export function prepareRows(of) {
  store = of;
  // For the mouse a row is one big button; everyone else has its name.
  $('#list').onclick = ({ target }) => {
    const row = target.closest('.task');
    if (!row || target.closest('button') || !getSelection().isCollapsed) return;
    $('.name', row).focus();
    go({ task: row.dataset.id });
  };
  $('#older').onclick = once(async () => turn([...trail(), view().before], store.older));
  $('#newer').onclick = once(async () => turn(trail().slice(0, -1), trail().at(-1) ?? ''));
  $('#newest').onclick = once(async () => turn([], ''));
}

/** The cursors of the pages that lead to this one. */
const trail = () => (view().before && history.state?.trail) || [];

function turn(to, before) {
  go({ before });
  history.replaceState({ trail: to }, '');
  $('#tasks-title').scrollIntoView({ block: 'nearest' });
  drawSoon();
}

/** Draws a task in the next frame; without one, the page, whose tasks are others by now. */
export function drawSoon(id) {
  if (id) dirty.add(id); else isMoved = true;
  frame ||= requestAnimationFrame(() => { frame = 0; draw(); });
}

/** So many rows are made in one frame, so that none takes long. */
const AT_ONCE = 30;

function draw() {
  let made = 0;
  for (const id of dirty) {
    const task = store.tasks.get(id);
    if (task && !rows.has(id) && ++made > AT_ONCE) continue;
    dirty.delete(id);
    if (!task) continue;
    if (!rows.has(id)) { makeRow(task); isMoved = true; }
    drawRow(task, rows.get(id));
  }
  if (isMoved) arrange();
  isMoved = false;
  if (dirty.size) drawSoon([...dirty][0]);
}

/** Puts the rows in order, and away those that are no longer of the page. */
function arrange() {
  for (const [id, { row }] of rows) if (!store.tasks.has(id)) { row.remove(); rows.delete(id); }
  let place = $('#list').firstElementChild;
  for (const id of store.ids()) {
    const row = rows.get(id)?.row;
    if (!row) continue;
    if (row === place) place = place.nextElementSibling;
    else $('#list').insertBefore(row, place);
  }
  drawRest();
}

/** What stands around the rows. */
function drawRest() {
  const { status, search, before } = store.filter;
  const [shown, isFiltered] = [store.tasks.size, Boolean(status || search)];
  const first = trail().length * PAGE + 1;
  const all = number(Math.max(store.total, shown));
  set($('#shown'), !shown ? '' : shown >= store.total ? `${all} shown` : `${number(first)} to ${number(first + shown - 1)} of ${all}`);
  $('#empty').hidden = shown > 0 || !store.isLoaded;
  $('#first').hidden = $('#empty-text').hidden = isFiltered || Boolean(before);
  set($('#empty-title'), isFiltered ? 'No task matches' : before ? 'No older tasks' : 'Nothing here yet');
  $('#older').hidden = !store.older;
  $('#newer').hidden = $('#newest').hidden = !before;
  $('#pages').hidden = $('#older').hidden && $('#newer').hidden;
}

/** What rows of tasks and of jobs have in common. */
export function rowParts(name) {
  const part = {
    ...meterParts(name),
    status: h('span', { className: 'status' }),
    time: h('div', { className: 'time num soft' }),
    acts: h('div', { className: 'acts' }),
    error: h('p', { className: 'error', role: 'alert' }),
  };
  part.mid = h('div', { className: 'mid' }, part.meter, part.percent, part.step);
  return part;
}

function makeRow(task) {
  const part = rowParts(task.name);
  part.name = h('span', { textContent: task.name, dir: 'auto' });
  part.row = h('li', { className: task.isFresh ? 'task fresh' : 'task' },
    h('div', { className: 'state cut' },
      h('button', { type: 'button', className: 'name', title: task.name, onclick: () => go({ task: task.id }) }, part.name),
      h('div', { className: 'cut small soft' }, part.status, ' · ', h('bdi', {}, task.type))),
    part.mid, part.time, part.acts, part.error);
  part.row.dataset.id = task.id;
  rows.set(task.id, part);
}

function drawRow(task, part) {
  const looks = `${task.status} ${task.attempt} ${task.queued} ${heldBy(task)}`;
  if (part.looks !== looks) {
    part.looks = looks;
    part.row.dataset.status = task.status;
    part.row.dataset.held = heldBy(task);
    set(part.status, statusText(task));
    fillActions(part.acts, task, part.error);
  }
  drawMeter(part, task.progress, stepText(task));
  set(part.time, timeText(task, serverTime()));
}

/** Moves the clocks of what runs. */
export function tick() {
  for (const task of store.tasks.values()) {
    if (task.status === 'running') { const part = rows.get(task.id); if (part) set(part.time, timeText(task, serverTime())); }
  }
}

const KINDS = { failed: ['retry'], cancelled: ['retry'], completed: [] };
const LOOKS = { start: ['Start', 'play'], advance: ['Go on', 'play'], resume: ['Resume', 'play'], cancel: ['Cancel', 'stop'], retry: ['Retry', 'again'] };

/** The buttons that the state of a task allows, with their curl commands; of a job where `job` does what they say. */
export function fillActions(place, task, error, job) {
  const path = (verb) => `/tasks/${task.id}/${verb}`;
  const first = task.status === 'pending' ? !job && !task.queued && 'start' : { waiting: 'advance', paused: 'resume' }[heldBy(task)];
  const verbs = KINDS[task.status] ?? [first, 'cancel'].filter(Boolean);
  if (place.dataset.verbs === String(verbs)) return;
  const isChange = 'verbs' in place.dataset;
  place.dataset.verbs = verbs;
  // The focus stays where it was, on whatever button is there next.
  const focused = place.contains(document.activeElement);
  place.replaceChildren(...verbs.map((verb) => {
    const [word, look] = LOOKS[verb];
    const act = once(() => attempt(error, () => (job ? job(verb) : call('POST', path(verb)))));
    const button = h('button', { type: 'button', onclick: act, ariaLabel: `${word} ${task.name}` }, icon(look), word);
    // Whoever has pressed what stood here before does not mean this one.
    if (isChange) deafen(button);
    return h('span', { className: job ? '' : 'pair' }, button, job ? null : curlButton(`${word} ${task.name}`, () => curl('POST', path(verb))));
  }));
  if (focused) ($('button', place) ?? place.closest('li')?.querySelector('.name') ?? $('.top button:last-child', front()))?.focus();
}
