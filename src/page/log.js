/** The log of the task in the drawer. */

import { call, curl, streamPath } from './api.js';
import { $, attempt, copyLink, curlButton, h, once, set, throttled, toast } from './dom.js';
import { FINAL, clockTime, count, number } from './format.js';
import { whileVisible } from './stream.js';

/** So many lines are known, and so many of them are drawn: a page that is open for days stays small. */
const KEPT = 5000, DRAWN = 2000;
const log = {};
const pane = $('#log-lines');
let shown = () => null;
let id = '';

function reset() {
  Object.assign(log, { stream: null, isOver: false, isDue: false, last: 0, attempt: 1, lines: [], waiting: [], follows: true, wanted: '', frame: 0, top: 0 });
}
reset();

export function openLog(of) {
  closeLog();
  reset();
  id = of;
  pane.replaceChildren();
  $('#log').hidden = true;
  $('#log-search').value = '';
  log.stream = whileVisible(() => ({ url: streamPath(`/tasks/${id}/events?log=1`), resume: null }), hear);
}

export function closeLog() {
  log.stream?.stop();
  log.stream = null;
}

/** The task is tried again, and its log goes on; where its stream has not ended yet, once it has. */
export function reopenLog() {
  log.isDue = !log.isOver;
  if (log.isDue) return;
  log.isOver = false;
  log.stream?.restart();
}

/** Each stream begins with the first line; what comes twice is dropped. */
function hear({ type, events }) {
  if (type === 'events') for (const event of events) { if (event.event === 'log') hearLine(event); }
  if (type !== 'end' && type !== 'refused') return undefined;
  // The end of the task is the end of its stream. Anything else is tried again.
  log.isOver = true;
  if (log.isDue) return reopenLog();
  const stream = log.stream;
  if (type === 'end' && !FINAL.has(shown()?.status)) setTimeout(() => log.stream === stream && log.isOver && reopenLog(), 3000);
  return undefined;
}

function hearLine(line) {
  if (line.n <= log.last) return;
  if (line.n > log.last + 1) note(`${number(line.n - log.last - 1)} lines were dropped`);
  if (line.attempt > log.attempt) note(`Attempt ${log.attempt = line.attempt}`);
  log.last = line.n;
  keep(line);
}

function note(text) { keep({ note: text, text: '' }); }

function keep(line) {
  for (const list of [log.lines, log.waiting]) if (list.push(line) > KEPT) list.splice(0, KEPT / 10);
  log.frame ||= requestAnimationFrame(() => { log.frame = 0; draw(); });
}

const isWanted = (line) => !log.wanted || line.text.toLowerCase().includes(log.wanted);

/** Adds the lines that have come. Whoever has scrolled up is not disturbed. */
function draw() {
  $('#log').hidden = log.lines.length === 0;
  if (log.follows) {
    const more = log.waiting.filter(isWanted).slice(-DRAWN);
    log.waiting = [];
    pane.append(...more.map(lineElement));
    while (pane.childElementCount > DRAWN) pane.firstElementChild.remove();
    showEnd();
  }
  drawCount();
}

const drawCount = throttled(200, () => {
  set($('#log-follow'), log.follows || !log.waiting.length ? 'Follow' : `${number(log.waiting.length)} new`);
  $('#log-follow').ariaPressed = String(log.follows);
  const found = log.wanted && number(log.lines.filter((line) => !line.note && isWanted(line)).length);
  set($('#log-count'), log.wanted ? `${found} found` : count(log.last, 'line'));
});

function lineElement(line) {
  const element = h('div', { textContent: line.note ?? line.text, className: line.note ? 'note' : line.stream === 'err' ? 'err' : '' });
  element.line = line;
  return element;
}

function followNewest(yes) {
  if (log.follows === yes) return;
  log.follows = yes;
  if (yes) draw(); else drawCount();
}

function showEnd() {
  pane.scrollTop = pane.scrollHeight;
  log.top = pane.scrollTop;
}

const isAtEnd = () => pane.scrollHeight - pane.scrollTop - pane.clientHeight < 8;

function wrap(yes) {
  pane.classList.toggle('unwrapped', !yes);
  $('#log-wrap').ariaPressed = String(yes);
  if (log.follows) showEnd();
}

async function copyLines() {
  const lines = log.lines.filter((line) => !line.note && isWanted(line));
  try {
    await navigator.clipboard.writeText(lines.map((line) => line.text + '\n').join(''));
    toast(`${count(lines.length, 'line')} copied`);
  } catch {
    // Without https there may be no clipboard: the lines are selected, ready to be copied.
    getSelection().selectAllChildren(pane);
    toast('The lines are selected: copy them');
  }
}

let searchTimer = 0;
function search(text) {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(() => {
    log.wanted = text.trim().toLowerCase();
    log.waiting = [...log.lines];
    log.follows = true;
    pane.replaceChildren();
    draw();
  }, 120);
}

/** `task()` tells the task in the drawer. */
export function prepareLog(task) {
  shown = task;
  pane.onscroll = () => {
    if (isAtEnd()) followNewest(true);
    else if (pane.scrollTop < log.top) followNewest(false);
    log.top = pane.scrollTop;
  };
  // The end stays in sight where the pane or its lines change their size.
  new ResizeObserver(() => { if (log.follows) showEnd(); }).observe(pane);
  pane.onmouseover = ({ target }) => {
    const { line, title } = target;
    if (line?.at && !title) target.title = `${clockTime(line.at)}, line ${line.n}`;
  };
  $('#log-follow').onclick = () => followNewest(!log.follows);
  $('#log-search').oninput = (event) => search(event.target.value);
  $('#log-wrap').onclick = () => {
    const yes = pane.classList.contains('unwrapped');
    localStorage.logWrap = yes ? 'yes' : 'no';
    wrap(yes);
  };
  wrap(localStorage.logWrap !== 'no');
  $('#log-copy').onclick = copyLines;
  $('#log-copy').after(curlButton('log', () => curl('GET', `/tasks/${id}/log?follow=1`)));
  $('#log-share').onclick = once(() => attempt($('#drawer-error'), async () => {
    const { url } = await call('POST', `/tasks/${id}/share`, { log: true });
    await copyLink(location.origin + url, 'Link for bystanders, with the log');
  }));
}
