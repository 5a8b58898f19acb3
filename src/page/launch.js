/** What starts tasks: the demos, the server's own types, and the forms. */

import { call, curl } from './api.js';
import { $, attempt, copy, curlButton, h, icon, once, set, show } from './dom.js';
import { clockTime } from './format.js';

let add = () => {};
const option = (id) => { const text = $('#' + id).value; return text === '' ? undefined : Number(text); };
const seconds = () => option('delayMs') ?? 5;

function common() {
  const failAt = option('failAt');
  return { speed: option('speed'), failAt, failAttempts: failAt === undefined ? undefined : option('failAttempts') };
}

/** How much faster a demo of a fixed length goes, so that it takes as long as the options say. */
const paced = (ms) => {
  const { speed = 1, ...rest } = common();
  const wanted = option('delayMs');
  const factor = wanted === undefined ? speed : speed * ms / Math.max(1, wanted * 1000);
  return { ...rest, speed: Math.min(1000, Math.max(0.1, Number(factor.toFixed(4)))) };
};

const DEMOS = [
  ['sample', 'play', 'Sample', 'Ten equal steps', () => ({ delayMs: Math.round(seconds() * 1000), ...common() })],
  ['file-processing', 'file', 'File', 'Six steps', () => ({ filePath: '/data/report.csv', fileSize: 1048576, ...paced(6000) })],
  ['api-call', 'globe', 'API call', 'Four steps', () => ({ endpoint: 'https://api.example.com/orders', method: 'POST', ...paced(2000) })],
  ['batch', 'rows', 'Batch', 'Twenty items', () => ({ items: Array.from({ length: 20 }, (_, i) => i + 1), itemDelayMs: Math.round(seconds() * 50), ...common() })],
];

function forgive() {
  for (const input of document.querySelectorAll('[aria-invalid]')) input.removeAttribute('aria-invalid');
  set($('#launch-error'), '');
}

async function launch(path, body, place = $('#launch-error')) {
  forgive();
  return attempt(place, async () => {
    const { task } = await call('POST', path, body);
    // It was meant for this one.
    if (body.failAt !== undefined) $('#failAt').value = '';
    add({ ...task, queued: path !== '/tasks' || body.start });
    return task;
  });
}

/** A button with a picture, a word and a line about it. */
function demo(id, look, word, line, action, command) {
  return h('div', { className: 'demo' },
    h('button', { type: 'button', id, className: id === 'demo-sample' ? 'main' : '', onclick: action }, h('span', { className: 'look' }, icon(look)), h('b', {}, word), h('small', {}, line)),
    command && curlButton(word, command));
}

function openWorkflow() {
  const { speed, failAt } = common();
  const told = [speed !== undefined && speed !== 1 && `${speed} times as fast`, failAt !== undefined && `failing at ${failAt} %`].filter(Boolean);
  set($('#workflow-options'), told.length ? `As the options say: ${told.join(', ')}.` : '');
  show($('#workflow'));
}

// --- Types of one's own ---

const isObject = (value) => Object.prototype.toString.call(value) === '[object Object]';

/** A field for a member of a type's example; `read` gives its value in the example's type. */
function exampleField(name, value) {
  const id = 'metadata.' + name;
  if (typeof value === 'boolean') {
    const input = h('input', { type: 'checkbox', id, checked: value });
    return { element: h('label', { className: 'check' }, input, name), read: () => input.checked };
  }
  if (typeof value === 'string') {
    const input = h(value.includes('\n') ? 'textarea' : 'input', { id, value, dir: 'auto' });
    return { element: h('label', {}, name, input), read: () => input.value };
  }
  if (typeof value === 'number') {
    const input = h('input', { type: 'number', step: 'any', id, value });
    return { element: h('label', {}, name, input), read: () => (input.value === '' ? undefined : Number(input.value)) };
  }
  return jsonField(id, name, JSON.stringify(value));
}

/** A field for any JSON; empty stands for nothing. */
function jsonField(id, name, value, mustBeObject) {
  const input = h('textarea', { id, value, rows: 2, className: 'mono', spellcheck: false });
  const read = () => (input.value.trim() === '' ? undefined : JSON.parse(input.value));
  input.oninput = () => {
    let wrong = '';
    try {
      const given = read();
      if (mustBeObject && given !== undefined && !isObject(given)) wrong = 'This must be a JSON object, such as {"a": 1}';
    } catch { wrong = 'This must be JSON, such as ["a", 1] or {"a": 1}'; }
    input.setCustomValidity(wrong);
  };
  return { element: h('label', {}, name + ' (JSON)', input), read };
}

/** Reads the form of the type that is shown. */
let readRun = null;

function openRun({ type, source, description, example }) {
  set($('#run-title'), type);
  set($('#run-workers'), '');
  if (source === 'remote') drawWorkers(type);
  set($('#run-about'), description ?? '');
  set($('#run .error'), '');
  $('#run [name=name]').value = type;
  const fields = isObject(example) ? Object.entries(example).map(([name, value]) => [name, exampleField(name, value)]) : null;
  const whole = fields ? null : jsonField('metadata', 'Metadata', '', true);
  $('#run-fields').replaceChildren(...(fields ?? [[, whole]]).map(([, field]) => field.element));
  readRun = () => ({
    name: $('#run [name=name]').value, type, start: true,
    metadata: whole ? whole.read() : Object.fromEntries(fields.map(([name, field]) => [name, field.read()])),
  });
  show($('#run'));
  $('#run-fields :is(input, textarea)').focus();
}

const getTypes = async () => (await call('GET', '/executors')).executors;

/** Shows what the server has now: after a restart it may have other types. */
let shownTypes = '';
export const drawTypes = () => attempt($('#launch-error'), async () => {
  const types = await getTypes();
  const own = types.filter(({ source }) => source !== 'demo');
  const text = JSON.stringify(own, (key, value) => (key === 'running' || key === 'workers' ? undefined : value));
  if (text === shownTypes) return;
  shownTypes = text;
  $('#own').replaceChildren(...own.map((one) => demo('own-' + one.type, 'gear', one.type + '…', one.description ?? (one.source === 'remote' ? 'Run by workers' : 'Your own'), () => openRun(one))));
  $('#own').hidden = $('#demos-title').hidden = !own.length;
  $('#types').replaceChildren(...types.map(({ type }) => h('option', { value: type })));
});

/** Who would run it. */
async function drawWorkers(type) {
  const workers = (await getTypes().catch(() => [])).find((one) => one.type === type)?.workers ?? [];
  const seen = workers.map(({ name, lastCallAt }) => `${name} at ${clockTime(lastCallAt)}`);
  set($('#run-workers'), seen.length ? `Workers, and when they called last: ${seen.join(', ')}.` : 'No worker has called by name yet: it waits for one.');
}

// --- Forms ---

/** A form that posts: `path`, and the body that it stands for now. It is sent once, however often it is submitted meanwhile. */
function posting(dialog, path, body) {
  const form = $('form', dialog);
  const send = $('.main', form);
  $('[data-curl]', form).onclick = () => form.reportValidity() && copy(curl('POST', path, body(form)), 'Command');
  form.onsubmit = (event) => {
    event.preventDefault();
    once(async () => { if (await launch(path, body(form), $('.error', form))) dialog.close(); })({ currentTarget: send });
  };
}

function addStep(name, time) {
  const steps = $('#steps');
  const place = steps.children.length + 1;
  const step = h('div', { className: 'step' },
    h('label', {}, `Step ${place}`, h('input', { required: true, maxLength: 200, value: name, dir: 'auto' })),
    h('label', {}, 'Seconds', h('input', { type: 'number', min: 0, max: 3600, step: 'any', required: true, value: time })),
    h('button', { type: 'button', className: 'icon', ariaLabel: `Remove step ${place}`, onclick: () => {
      if (steps.children.length > 1) step.remove();
      [...steps.children].forEach((other, i) => {
        other.querySelector('label').firstChild.textContent = `Step ${i + 1}`;
        other.querySelector('button').ariaLabel = `Remove step ${i + 1}`;
      });
      $('#add-step').focus();
    } }, icon('stop')));
  steps.append(step);
  return step;
}

function prepareForms() {
  posting($('#run'), '/tasks', () => readRun());
  posting($('#create'), '/tasks', ({ elements: { name, description, type, start } }) => ({
    name: name.value, description: description.value || undefined, type: type.value || undefined, start: start.checked,
  }));
  posting($('#workflow'), '/demo/tasks/workflow', (form) => ({
    name: form.elements.name.value,
    steps: [...$('#steps').children].map((step) => {
      const [name, time] = step.querySelectorAll('input');
      return { name: name.value, durationMs: Math.round(Number(time.value) * 1000) };
    }),
    ...common(),
  }));
  [['Check the stock', 2], ['Charge the card', 3], ['Pack the parcel', 4], ['Hand it to the courier', 2]].forEach(([name, time]) => addStep(name, time));
  $('#add-step').onclick = () => addStep('', 2).querySelector('input').focus();
}

/** `added` is told of each task that was created here. */
export function prepareLaunch(added) {
  add = added;
  $('#demos').append(
    ...DEMOS.map(([kind, look, word, line, body]) => demo('demo-' + kind, look, word, line,
      once(() => launch('/demo/tasks/' + kind, body())), () => curl('POST', '/demo/tasks/' + kind, body()))),
    demo('open-workflow', 'flow', 'Workflow…', 'Your own steps', openWorkflow),
    demo('open-create', 'plus', 'New task…', 'Now or later', () => show($('#create'))));
  prepareForms();
  // What is being put right is no longer held against anybody.
  $('#options').oninput = forgive;
  const wide = matchMedia('(min-width: 1101px)');
  wide.onchange = () => { $('#options').open = wide.matches; };
  wide.onchange();
  $('#first').onclick = () => $('#demo-sample').click();
}
