/** A share link: one task, live, for anyone who has the link, to look at only. */

import { noteClock, serverTime } from './api.js';
import { $, drawChecklist, drawMeter, h, meterParts, set } from './dom.js';
import { FINAL, checklist, clockTime, duration, heldBy, statusText, timeText } from './format.js';
import { change } from './store.js';
import { whileVisible } from './stream.js';

const NOTES = { completed: 'It is done.', failed: 'It stopped at this point.', cancelled: 'It was stopped at this point.' };
const bar = meterParts('the task');
$('#bar').append(bar.meter);

let task = null, reports = [], seen = 0, heardAt = 0, stream = null, isOver = false, timer = 0;

const isEnded = () => FINAL.has(task?.status);

function draw() {
  $('#task').dataset.status = task.status;
  $('#task').dataset.held = heldBy(task);
  set($('#name'), task.name);
  set($('#description'), task.description ?? '');
  set($('#percent'), task.progress + ' %');
  drawMeter(bar, task.progress, '');
  set($('#step'), task.error ?? [task.currentStep, task.currentStepDescription].filter(Boolean).join(': '));
  document.title = `${task.progress} % – ${task.name}`;
  drawClock();
}

function drawClock() {
  const steps = checklist(task.steps ?? [], reports.length ? reports : assumed(), task, serverTime());
  drawChecklist($('#checklist'), steps.length > 30 ? [] : steps, duration);
  set($('#time'), timeText(task, serverTime()));
}

/** Without a stream nobody tells of the steps before: they are done. */
function assumed() {
  const plan = task.steps ?? [];
  return plan.slice(0, plan.indexOf(task.currentStep) + 1).map((step) => ({ step }));
}

/** Whether what is shown is so now. Clocks stand still where nobody knows. */
function live(yes, why) {
  $('#task').dataset.live = yes || isEnded() ? 'yes' : 'no';
  if (!task) return set($('#status'), why ?? 'Connecting…');
  set($('#status'), statusText(task) + (yes || isEnded() ? '' : ' when last heard of'));
  set($('#note'), NOTES[task.status] ?? (yes ? 'Live: it moves by itself, to look at only.' : `${why} This is how it stood at ${clockTime(heardAt)}.`));
  return undefined;
}

function gone() {
  stop();
  task = null;
  for (const part of ['#percent', '#bar', '#checklist', '#log', '#step', '#time', '#description']) $(part).hidden = true;
  set($('#name'), 'This link has ended');
  set($('#status'), '');
  set($('#note'), 'Its task has been cleaned up, the server was restarted, or the link was never one.');
  document.title = 'This link has ended';
}

function stop() {
  clearTimeout(timer);
  stream?.stop();
  stream = null;
}

/** How the task stands; its name, attempt and planned steps are told here alone. */
async function ask() {
  const response = await fetch(location.pathname, { headers: { Accept: 'application/json' }, cache: 'no-store' }).catch(() => null);
  if (response?.status === 404) { gone(); return false; }
  if (!response?.ok) { live(false, 'The server cannot be reached; it is asked again every few seconds.'); return true; }
  noteClock(response);
  task = (await response.json()).task;
  heardAt = Date.now();
  draw();
  live(true);
  return true;
}

function hear({ type, events, code }) {
  isOver = type === 'end';
  if (type === 'open') return task ? live(true) : ask();
  if (type === 'events') return hearEvents(events);
  if (type === 'refused') return gone();
  if (type === 'hidden') return live(false, 'Paused while nobody looks.');
  // Lost, or at an end: without a stream it is asked now and then, also whether somebody has it tried again.
  clearTimeout(timer);
  timer = setTimeout(askOn, isEnded() ? 10_000 : 1_000);
  if (type === 'lost' && task && !code) live(false, 'The connection is lost; it is tried again by itself.');
  return undefined;
}

async function askOn() {
  if (document.hidden) { timer = setTimeout(askOn, 2_000); return; }
  if (!await ask()) return;
  // A stream that is lost comes back by itself; one that was at its end does where the task goes on.
  if (isOver && !isEnded()) stream.restart();
  timer = setTimeout(askOn, isEnded() ? 10_000 : 1_500);
}

function hearEvents(events) {
  heardAt = Date.now();
  clearTimeout(timer);
  for (const event of events) {
    if (event.event === 'log') hearLine(event); else hearEvent(event);
  }
  isReplay = false;
  if (!task) return;
  draw();
  live(true);
}

/** The stream begins with all that was; events do not tell when they happened, but those that come now do. */
let isReplay = true;

function hearEvent(event) {
  const number = Number.parseInt(event.id, 10);
  if (number <= seen) return;
  seen = number;
  if (event.event === 'retried') { reports = []; if (!isReplay) ask(); }
  if (event.event === 'progress') reports.push({ step: event.currentStep, at: isReplay ? undefined : serverTime() });
  if (task) change(task, event.event, event);
}

let lastLine = 0, waiting = [];

/** Lines come only by links that show the log. The newest thousand are drawn, and follow the end unless somebody reads above. */
function hearLine(line) {
  if (line.n <= lastLine) return;
  lastLine = line.n;
  if (waiting.push(line.text) > 1000) waiting.shift();
  if (waiting.length === 1) requestAnimationFrame(drawLines);
}

function drawLines() {
  const log = $('#log');
  log.hidden = false;
  log.tabIndex = 0;
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8;
  for (const text of waiting) log.append(h('div', { textContent: text }));
  waiting = [];
  while (log.childElementCount > 1000) log.firstElementChild.remove();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

async function begin() {
  if (!await ask()) return;
  stream = whileVisible(() => ({ url: location.pathname, resume: 0 }), hear);
}

setInterval(() => { if (task && $('#task').dataset.live === 'yes' && !isEnded()) drawClock(); }, 250);
begin();
