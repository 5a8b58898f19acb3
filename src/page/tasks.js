/** The page of a session's tasks: what is put together from its parts. */

import { call, curl, onTokenWanted, server, streamPath } from './api.js';
import { $, attempt, copyLink, curlButton, h, once, prepareDialogs, say, set, show, throttled, toast } from './dom.js';
import { EVENTS, STATUSES, count, number } from './format.js';
import { Store } from './store.js';
import { whileVisible } from './stream.js';
import { drawSoon, prepareRows, tick } from './rows.js';
import { prepareDetail, refreshDetail, showDetail, tellDetail, tickDetail } from './detail.js';
import { drawTypes, prepareLaunch } from './launch.js';
import { prepareJobs, showJobs } from './jobs.js';
import { go, onView, view } from './address.js';

server.session = $('meta[name=session]').content;
/** The session of an address that names none. */
const home = view().session ? '' : server.session;
const PAUSE = 2000;

// --- What is known ---

const store = new Store({
  get: (path) => call('GET', path),
  session: () => server.session,
  told(what, task) {
    if (what === 'ended') announce(task);
    if (what === 'retried') askAttempt(task.id);
    drawSoon(task?.id);
  },
});

const load = () => attempt($('#list-error'), () => store.load());
/** One request for many tasks that others have made. */
const loadSoon = throttled(500, () => store.load().catch(() => null));

/** Events do not tell the attempt, and a list may count it already. */
const retried = new Set();
function askAttempt(id) { retried.add(id); askAttempts(); }
const askAttempts = throttled(300, async () => {
  const ids = [...retried];
  retried.clear();
  if (ids.length > 10) return load();
  for (const id of ids) {
    const answer = await call('GET', '/tasks/' + id).catch(() => null);
    if (answer && store.tasks.has(id)) {
      const task = store.tasks.get(id);
      task.attempt = Math.max(task.attempt, answer.task.attempt);
      drawSoon(id);
    }
  }
  return undefined;
});

let outcomes = [];
const sayOutcomes = throttled(1500, () => {
  say(outcomes.length > 3 ? `${outcomes.length} tasks have ended` : outcomes.join('. '));
  outcomes = [];
});
function announce(task) { outcomes.push(`${task.name} ${task.status}`); sayOutcomes(); }

// --- Counters ---

const tiles = new Map();
for (const [key, word] of [['', 'All tasks'], ...Object.entries(STATUSES)]) {
  const value = h('b', { textContent: '0' });
  const tile = h('button', { type: 'button', className: 'tile', onclick: () => go({ status: key, search: $('#search').value.trim(), before: '' }) }, value, h('span', {}, word));
  tile.dataset.status = key;
  tiles.set(key || 'total', value);
  $('#tiles').append(tile);
}

const parts = Object.keys(STATUSES).map((key) => {
  const part = h('i');
  part.dataset.status = key;
  return part;
});
$('#spread').append(...parts);

let stats = null;
function drawStats(now) {
  stats = now;
  for (const [key, value] of tiles) set(value, number(now[key]));
  for (const part of parts) {
    part.style.flexGrow = now[part.dataset.status];
    part.hidden = !now[part.dataset.status];
  }
  if (!store.filter.search) { store.total = now[store.filter.status || 'total']; drawSoon(); }
  const told = [now.running && `${number(now.running)} running`, now.failed && `${number(now.failed)} failed`].filter(Boolean);
  document.title = told.concat('Async Task System').join(' – ');
  $('link[rel=icon]').href = favicon(now);
}

const favicon = ({ running, failed }) => {
  const dot = failed ? '#d33' : running ? '#5c8' : '';
  return 'data:image/svg+xml,' + encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#2563d9"/><path d="M7 11h18M7 21h11" stroke="#fff" stroke-width="4" stroke-linecap="round"/>${dot && `<circle cx="25" cy="24" r="7" fill="${dot}" stroke="#fff" stroke-width="2"/>`}</svg>`);
};

async function askStats() {
  const asked = server.session;
  const answer = await call('GET', '/tasks/stats');
  if (asked === server.session) drawStats(answer.stats);
}
// Where the server has gone, the stream tells the counters when it is back.
const refreshStats = throttled(300, () => askStats().catch(() => isLive && setTimeout(refreshStats, PAUSE)));

// --- The stream ---

let searchTimer = 0;
let stream = null, isLive = false, wasLost = false, before = null;

function live(text, yes) {
  isLive = yes;
  set($('#live'), text);
  document.body.dataset.live = $('#live').dataset.live = yes ? 'yes' : 'no';
}

function notice(text) {
  set($('#notice'), text);
  $('#notice').hidden = !text;
}

/** All that is shown, anew. The types first: what comes above the list would move it under the pointer. */
async function refresh() {
  await drawTypes();
  await load();
  refreshDetail();
}

function hear({ type, events, code, message }) {
  if (type === 'open') return undefined;
  if (type === 'events') return hearEvents(events);
  if (type === 'joined') {
    live('Live', true);
    wasLost = false;
    set($('#list-error'), '');
    askStats().catch(() => null);
    return refresh();
  }
  if (type === 'hidden') return live('Paused', false);
  if (type === 'refused') { live('Not connected', false); return set($('#list-error'), message ?? 'The server refuses'); }
  if (isLive) before = stats;
  wasLost = true;
  live('Reconnecting…', false);
  // The server, or this browser, may have no stream left for us: then each attempt shows what is.
  return lookAgain(code);
}

async function lookAgain(code) {
  try {
    await askStats();
    await drawTypes();
    await load();
    if (code && !isLive) set($('#list-error'), 'There is no live stream to spare: what is shown is brought up to date every few seconds');
  } catch (error) {
    if (!isLive) set($('#list-error'), error.message + '; it is tried again every few seconds');
  }
}

function hearEvents(events) {
  for (const data of events) {
    const name = data.event;
    if (name === 'state') hearState(data.stats);
    else if (EVENTS.has(name)) {
      if (name !== 'progress' && name !== 'queued') refreshStats();
      if (!store.hear(name, data)) loadSoon();
      tellDetail(data.taskId, name, data);
    }
  }
}

function hearState(now) {
  live(wasLost ? 'Live again' : 'Live', true);
  if (wasLost) {
    toast('Reconnected to the server');
    set($('#list-error'), '');
    askWhetherItIsNew(now);
  }
  wasLost = false;
  drawStats(now);
  refresh();
}

/** Tasks live in memory: a server that has just started has none, and somebody may wonder. */
async function askWhetherItIsNew(now) {
  if (!before?.total || now.total) return;
  const { uptimeMs } = await call('GET', '/health').catch(() => ({}));
  const since = uptimeMs === undefined ? '' : ` ${Math.round(uptimeMs / 1000)} s ago`;
  notice(`The server was restarted${since}: ${count(before.total, 'task')} of this session lived in its memory, and ${before.total === 1 ? 'is' : 'are'} forgotten. Jobs in the database are still there.`);
  before = null;
}

setInterval(() => {
  // Whether they still run, only the stream knows.
  if (!isLive) return;
  tick();
  tickDetail();
}, 250);

// --- The view ---

function enter(key) {
  server.session = key;
  stats = before = null;
  wasLost = false;
  set($('#list-error'), '');
  notice('');
  set($('#session .key'), key);
  $('#switch [name=key]').value = key;
  $('#api').href = '/docs' + (key === home ? '' : '?session=' + encodeURIComponent(key));
}

function drawView(now) {
  clearTimeout(searchTimer);
  const key = now.session || home || server.session;
  const isSwitch = key !== server.session;
  if (isSwitch) enter(key);
  const { status, search, before: cursor } = now;
  const filter = store.filter;
  const isOther = status !== filter.status || search !== filter.search || cursor !== filter.before;
  if (isSwitch || isOther) {
    store.reset({ status, search, before: cursor }, isSwitch);
    for (const tile of $('#tiles').children) tile.ariaPressed = String(tile.dataset.status === status);
    if ($('#search') !== document.activeElement) $('#search').value = search;
  }
  if (isSwitch) stream.restart();
  else if (isOther) load();
  showDetail(now.task, store.tasks.get(now.task));
  showJobs(now.view === 'jobs');
}

$('#search').oninput = ({ target }) => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(() => go({ search: target.value.trim(), before: '' }, true), 150);
};

// --- Session, token and theme ---

const sessionLink = () => `${location.origin}/?session=${encodeURIComponent(server.session)}`;

$('#session').onclick = () => show($('#switch'));
$('#share-session').onclick = () => copyLink(sessionLink(), 'Link to the session');
$('#new-session').onclick = () => {
  $('#switch [name=key]').value = 'demo-' + crypto.getRandomValues(new Uint32Array(2)).reduce((text, n) => text + n.toString(36), '');
};
$('#switch form').onsubmit = (event) => {
  event.preventDefault();
  const key = event.target.elements.key.value.trim();
  const wrong = /^[A-Za-z0-9._:-]{1,128}$/.test(key) ? '' : 'A key has 1 to 128 characters of A-Z a-z 0-9 . _ : -';
  set($('.error', event.target), wrong);
  if (wrong) return;
  $('#switch').close();
  go({ session: key, task: '', status: '', search: '', before: '', view: '', job: '' });
};

onTokenWanted((why) => new Promise((go) => {
  const dialog = $('#token'), form = $('form', dialog);
  form.reset();
  set($('.error', form), why);
  show(dialog);
  let given = null;
  form.onsubmit = () => { given = form.elements.token.value.trim().replace(/^Bearer\s+/i, ''); };
  dialog.addEventListener('close', () => go(given), { once: true });
}));

$('#theme').onclick = () => {
  const dark = getComputedStyle(document.body).backgroundColor === 'rgb(12, 17, 24)';
  localStorage.theme = document.documentElement.dataset.theme = dark ? 'light' : 'dark';
};

$('#clean').onclick = once(() => attempt($('#list-error'), async () => {
  const { cleanedCount } = await call('POST', '/tasks/cleanup/run');
  toast(cleanedCount ? `${cleanedCount} finished tasks removed` : 'Nothing to clean up: finished tasks are few enough to keep');
}));
$('#clean').after(curlButton('Clean up', () => curl('POST', '/tasks/cleanup/run')));

// --- Begin ---

prepareDialogs();
prepareRows(store);
prepareDetail();
prepareLaunch((task) => store.add(task));
prepareJobs(announce);
onView(drawView);
enter(server.session);
store.filter = { status: view().status, search: view().search, before: view().before };
$('#search').value = view().search;
for (const tile of $('#tiles').children) tile.ariaPressed = String(tile.dataset.status === view().status);
live('Connecting…', false);
stream = whileVisible(() => ({ url: streamPath('/tasks/events') }), hear);
drawView(view());
