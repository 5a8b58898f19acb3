/** The jobs in the server's database: the newest ones, and one in detail. */

import { call, serverTime } from './api.js';
import { $, drawMeter, h, set, show } from './dom.js';
import { FINAL, clockTime, duration, number, stepText, timeText } from './format.js';
import { fillActions, rowParts } from './rows.js';
import { go, view } from './address.js';

const rows = new Map();        // id → the elements of its row
/** A server without them says what to set, and needs no token for that. */
const areOn = $('meta[name=jobs]').content === 'on';
let token = sessionStorage.token ?? '', look = 0, timer = 0;
let announce = () => {};

function setToken(text) {
  token = text;
  if (token) sessionStorage.token = token; else delete sessionStorage.token;
  set($('#job-stats'), '');
  rows.clear();
  $('#job-list').replaceChildren();
  $('#jobs form').reset();
  lookAtJobs();
}

/** Shows the jobs, and looks again each second while somebody sees them; only the newest look counts. */
async function lookAtJobs() {
  const mine = ++look;
  clearTimeout(timer);
  $('#forget-token').hidden = !token;
  $('#jobs form').hidden = Boolean(token) || !areOn;
  if (!$('#jobs').open || document.hidden || (areOn && !token)) return;
  try {
    const [{ jobs }, { stats }] = await Promise.all(['/jobs?limit=20', '/jobs/stats'].map((path) => call('GET', path, undefined, token || 'none')));
    if (mine !== look) return;
    set($('#jobs-error'), '');
    set($('#job-stats'), Object.entries(stats).map(([name, n]) => `${number(n)} ${name}`).join(' · '));
    await drawJobs(jobs, mine);
  } catch (error) {
    if (mine !== look) return;
    if (error.code === 'unauthorized') return refuseToken();
    set($('#jobs-error'), error.message);
    if (error.code === 'jobs_disabled') return;
  }
  timer = setTimeout(lookAtJobs, 1000);
}

async function drawJobs(jobs, mine) {
  const { job: opened } = view();
  if (opened && !jobs.some(({ id }) => id === opened)) {
    const found = await call('GET', `/jobs/${encodeURIComponent(opened)}`, undefined, token).catch((error) => set($('#jobs-error'), error.message));
    if (mine !== look) return;
    if (found) jobs.unshift(found);
  }
  const present = new Set(jobs.map(({ id }) => id));
  for (const [id, part] of rows) if (!present.has(id)) { part.row.remove(); rows.delete(id); }
  for (const job of jobs) drawJob(job, opened);
}

function refuseToken() {
  setToken('');
  set($('#jobs-error'), 'The server does not accept this token: it is not valid, or no longer');
  $('#jobs input').focus();
}

function makeRow(job) {
  const part = rowParts('job ' + job.type);
  part.facts = h('dl', { className: 'facts', hidden: true });
  part.row = h('li', { className: 'task' },
    h('div', { className: 'state cut', title: job.id },
      h('button', { type: 'button', className: 'name', onclick: () => go({ job: view().job === job.id ? '' : job.id }) }, h('span', { textContent: job.type })),
      h('div', { className: 'small' }, part.status)),
    part.mid, part.time, part.acts, part.error, part.facts);
  part.row.dataset.id = job.id;
  rows.set(job.id, part);
  let next = $('#job-list').firstElementChild;
  while (next && next.dataset.id > job.id) next = next.nextElementSibling;
  $('#job-list').insertBefore(part.row, next);
  return part;
}

const at = (time) => time && Date.parse(time);

function drawJob(job, opened) {
  const part = rows.get(job.id) ?? makeRow(job);
  const status = job.status === 'processing' ? 'running' : job.status;
  const isDue = at(job.runAt) <= serverTime();
  const task = { ...job, status, name: 'job ' + job.type, error: status === 'running' ? null : job.error?.message, queued: isDue, startedAt: at(job.startedAt), completedAt: at(job.completedAt) };
  const was = part.row.dataset.status;
  part.row.dataset.status = status;
  if (was && was !== status && FINAL.has(status)) announce(task);
  fillActions(part.acts, task, part.error, async (verb) => { await call('POST', `/jobs/${job.id}/${verb}`, undefined, token); lookAtJobs(); });
  set(part.status, `${job.status[0].toUpperCase()}${job.status.slice(1)}, attempt ${job.attempts} of ${job.maxAttempts}`);
  const isWaiting = status === 'pending' && !isDue;
  drawMeter(part, job.progress, isWaiting ? `Due at ${clockTime(at(job.runAt))}, in ${duration(at(job.runAt) - serverTime())}` : stepText(task));
  set(part.time, `${clockTime(at(job.createdAt))}\n${status === 'pending' ? '' : timeText(task, serverTime())}`);
  $('.name', part.row).ariaExpanded = String(job.id === opened);
  part.facts.hidden = job.id !== opened;
  if (!part.facts.hidden) drawFacts(part, job);
}

function drawFacts(part, job) {
  const text = JSON.stringify(job);
  if (part.told === text) return;
  part.told = text;
  const spell = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));
  const isTime = (name, value) => name.endsWith('At') && !Number.isNaN(Date.parse(value));
  part.facts.replaceChildren(...Object.entries(job).filter(([, value]) => value !== null && value !== undefined).flatMap(([name, value]) =>
    [h('dt', {}, name), h('dd', { dir: 'auto' }, isTime(name, value) ? new Date(value).toLocaleString() : spell(value))]));
}

/** Opens or closes the panel, as the address says. */
export function showJobs(isShown) {
  if (isShown && !$('#jobs').open) show($('#jobs'));
  if (!isShown) $('#jobs').close();
  lookAtJobs();
}

/** `ended` is told of each job that ends while it is seen. */
export function prepareJobs(ended) {
  announce = ended;
  $('#open-jobs').onclick = () => go({ view: 'jobs' });
  $('#jobs').addEventListener('close', ({ target }) => { if (view().view === 'jobs' && !target.open) go({ view: '', job: '' }); });
  document.addEventListener('visibilitychange', lookAtJobs);
  $('#forget-token').onclick = () => { set($('#jobs-error'), ''); setToken(''); $('#jobs input').focus(); };
  $('#jobs form').onsubmit = (event) => {
    event.preventDefault();
    const text = event.target.elements.token.value.trim().replace(/^Bearer\s+/i, '');
    set($('#jobs-error'), '');
    // What cannot be a token cannot be a header either.
    if (!/^[\w.-]+$/.test(text)) return refuseToken();
    setToken(text);
    $('#forget-token').focus();
  };
}
