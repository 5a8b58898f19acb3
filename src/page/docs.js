/** The page that shows the API's document. */

import { $, h } from './dom.js';
import { number, quote } from './format.js';

/** The tasks, of the session that the reader comes from. */
const session = new URLSearchParams(location.search).get('session');
const home = session ? '/?session=' + encodeURIComponent(session) : '/';
let api;

/** `code` and **bold** in a line of text. */
const prose = (text = '') => text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) =>
  part[0] === '`' ? h('code', {}, part.slice(1, -1)) : part.startsWith('**') ? h('b', {}, part.slice(2, -2)) : part);

/** What a `$ref` leads to, with what stands beside it. */
function resolve(value) {
  if (!value?.$ref) return value ?? {};
  const { $ref, ...beside } = value;
  const base = resolve($ref.slice(2).split('/').reduce((at, key) => at[key], api));
  return {
    ...base, ...beside,
    ...(base.properties && { properties: { ...base.properties, ...merge(base.properties, beside.properties) } }),
    ...(base.properties && { required: [...(base.required ?? []), ...(beside.required ?? [])] }),
  };
}

const merge = (base, more = {}) => Object.fromEntries(Object.entries(more).map(([name, value]) => [name, { ...base[name], ...value }]));

const nameOf = (schema) => schema.$ref?.split('/').pop();

/** A schema in a few words. */
function type(given) {
  const schema = resolve(given);
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.filter((value) => value !== '').map((value) => JSON.stringify(value)).join(' | ');
  if (schema.anyOf) return schema.anyOf.map(type).join(', or ');
  const types = [schema.type ?? 'any'].flat().filter((name) => name !== 'null');
  let text = types.join(' or ');
  if (text === 'array') text = schema.items && Object.keys(schema.items).length ? `array of ${nameOf(schema.items) ?? type(schema.items)}` : 'array';
  if (schema.format) text = schema.format;
  const [low, high] = [schema.minimum ?? schema.minItems ?? schema.minLength, schema.maximum ?? schema.maxItems ?? schema.maxLength];
  if (low != null && high != null) text += `, ${number(low)} to ${number(high)}`;
  else if (high != null) text += `, up to ${number(high)}${schema.maxLength ? ' characters' : ''}`;
  else if (low != null) text += `, from ${number(low)}`;
  if (schema.default !== undefined) text += `; ${JSON.stringify(schema.default)} if absent`;
  return text;
}

/** A row for each field, those of objects within objects behind a dot. */
function rows(given, word, prefix = '', depth = 0) {
  const schema = resolve(given);
  return Object.entries(schema.properties ?? {}).flatMap(([name, value]) => {
    const full = resolve(value);
    const must = schema.required?.includes(name);
    const own = h('tr', {},
      h('td', {}, h('code', {}, prefix + name), ' ', must && h('span', { className: 'must' }, word)),
      // In a body null is as good as nothing; in an answer it says something.
      h('td', { className: 'type' }, type(value) + (must && full.type?.includes('null') ? ', or null' : '')),
      h('td', {}, prose(full.description)));
    const inner = full.type === 'array' ? resolve(full.items) : full;
    const below = depth < 3 && inner.properties ? rows(inner, word, `${prefix}${name}${full.type === 'array' ? '[]' : ''}.`, depth + 1) : [];
    return [own, ...below];
  });
}

function table(head, body) {
  if (!body.length) return null;
  return h('div', { className: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, head.map((text) => h('th', { scope: 'col' }, text)))), h('tbody', {}, body)));
}

/** A table of a schema's fields; `word` marks those that must be there. */
function fields(schema, word) {
  const choices = resolve(schema).anyOf?.filter((choice) => resolve(choice).properties);
  if (choices) return choices.map((choice) => fields(choice, word));
  return table(['Field', 'Type', 'Meaning'], rows(schema, word));
}

/** The command that asks for it. */
function curl(path, verb, operation) {
  const streams = Object.keys(resolve(operation.responses[200])?.content ?? {}).some((kind) => kind.includes('event-stream')) || path.endsWith('/watch');
  const words = [`curl ${streams ? '-N' : '-s'}`];
  const body = resolve(operation.requestBody).content?.['application/json'];
  if (verb === 'post' && !body) words.push('-X POST');
  words.push(location.origin + path.replace(/\{(\w+)\}/g, (_, name) => '$' + name.toUpperCase()));
  if (operation.security?.some((one) => one.worker)) words.push('\\\n  -H "Authorization: Bearer $WORKER_TOKEN"');
  if (operation.security?.some((one) => one.bearer)) words.push('\\\n  -H "Authorization: Bearer $TOKEN"');
  if (body) words.push(`\\\n  -H 'Content-Type: application/json' \\\n  -d ${quote(JSON.stringify(body.example))}`);
  return words.join(' ');
}

function copyable(text) {
  const button = h('button', { type: 'button', onclick: async () => {
    const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    if (!copied) getSelection().selectAllChildren(code);
    button.textContent = copied ? 'Copied' : 'Selected';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  } }, 'Copy');
  const code = h('code', {}, text);
  return h('div', { className: 'curl' }, h('pre', {}, code), button);
}

function parameters(operation) {
  const all = (operation.parameters ?? []).map(resolve);
  return table(['Parameter', 'Type', 'Meaning'], all.map((one) => h('tr', {},
    h('td', {}, h('code', {}, one.name), ' ', h('span', { className: 'soft' }, one.in), ' ', one.required && h('span', { className: 'must' }, 'required')),
    h('td', { className: 'type' }, type(one.schema)),
    h('td', {}, prose(one.description)))));
}

/** Each status with what it says; codes for those that refuse. */
function answers(operation, refused) {
  const list = Object.entries(operation.responses).filter(([status]) => (status >= 400 || status === 'default') === refused);
  return h('dl', {}, list.flatMap(([status, given]) => {
    const answer = resolve(given);
    const content = Object.entries(answer.content ?? {});
    const about = [h('div', {}, prose(answer.description), !refused && content.map(([kind]) => [' ', h('code', {}, kind)]))];
    if (refused) {
      const problem = answer.content['application/problem+json'].schema;
      const cases = nameOf(problem) === 'Refusal' ? resolve(problem).oneOf.map((one) => `${one.properties.status.const} ${one.properties.code.const}`)
        : [problem.properties.code.const ?? problem.properties.code.enum].flat();
      about.push(h('div', {}, cases.flatMap((code) => [h('code', {}, code), ' '])));
    } else {
      const headers = Object.entries(answer.headers ?? {}).map(([name, header]) => h('tr', {}, h('td', {}, h('code', {}, name)), h('td', {}, prose(resolve(header).description))));
      const parts = content.flatMap(([kind, media]) => {
        const found = fields(media['x-item-schema'] ?? media.schema, 'always');
        return found ? [content.length > 1 && h('p', {}, h('code', {}, kind)), found] : [];
      });
      if (parts.length) about.push(h('details', {}, h('summary', {}, content.some(([, media]) => media['x-item-schema']) ? 'Fields of each event' : 'Fields'), parts));
      if (headers.length) about.push(h('details', {}, h('summary', {}, 'Headers'), table(['Header', 'Meaning'], headers)));
    }
    return [h('dt', { className: refused ? 'no' : '' }, status === 'default' ? 'other' : status), h('dd', {}, about)];
  }));
}

function route(path, verb, operation) {
  const body = resolve(operation.requestBody).content?.['application/json'];
  const parts = path.split(/(\{\w+\})/).map((part) => part[0] === '{' ? h('i', {}, part) : part);
  return h('details', { className: 'route', id: operation.operationId },
    h('summary', {}, h('span', { className: 'verb', 'data-verb': verb }, verb.toUpperCase()),
      h('h3', {}, h('code', { className: 'path' }, parts), h('span', { className: 'what' }, operation.summary))),
    h('div', { className: 'body' },
      operation.description && h('p', {}, prose(operation.description)),
      copyable(curl(path, verb, operation)),
      h('h4', {}, 'Parameters'), parameters(operation),
      body && [h('h4', {}, operation.requestBody.required ? 'Body' : 'Body, if any'), fields(body.schema, 'required')],
      h('h4', {}, 'Answers'), answers(operation, false),
      h('h4', {}, 'Refusals'), answers(operation, true)));
}

function filter() {
  const words = $('#filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const one of document.querySelectorAll('.route')) {
    const text = one.firstChild.textContent.toLowerCase();
    one.hidden = !words.every((word) => text.includes(word));
    $(`nav a[href="#${one.id}"]`).hidden = one.hidden;
    shown += !one.hidden;
  }
  for (const tag of document.querySelectorAll('.tag, nav > div')) tag.hidden = !tag.querySelector('.route:not([hidden]), a:not([hidden])');
  $('#none').hidden = shown > 0;
}

function go() {
  const target = document.getElementById(location.hash.slice(1));
  for (const link of document.querySelectorAll('nav a')) link.toggleAttribute('aria-current', link.hash === location.hash);
  if (!target?.matches('.route')) return;
  target.open = true;
  target.scrollIntoView();
}

function draw() {
  $('#version').textContent = api.info.version;
  $('#intro').replaceChildren(
    h('p', {}, prose(api.info.description.split('\n\n')[0])),
    ...api.info.description.split('\n\n').slice(1).map((text) => h('p', {}, prose(text))),
    h('p', {}, 'The same for programs: ', h('a', { href: '/api/v1/openapi.json' }, 'openapi.json'), '. ', h('a', { href: home }, 'Back to the tasks'), '.'));
  for (const tag of api.tags) {
    const all = Object.entries(api.paths).flatMap(([path, item]) => Object.entries(item).filter(([, operation]) => operation.tags.includes(tag.name)).map(([verb, operation]) => [path, verb, operation]));
    $('#routes').append(h('section', { className: 'tag' }, h('h2', { id: tag.name }, tag.name), h('p', {}, prose(tag.description)), all.map((one) => route(...one))));
    $('#nav').append(h('div', {}, h('b', {}, tag.name), all.map(([path, verb, operation]) =>
      h('a', { href: '#' + operation.operationId, title: operation.summary }, h('span', { className: 'verb', 'data-verb': verb }, verb.toUpperCase()), path.replace(/^\/api\/v1/, '')))));
  }
  go();
}

/** The types that this server has. */
function drawTypes(executors) {
  const row = ({ type, source, description, example, running }) => h('tr', {},
    h('td', {}, h('code', {}, type)), h('td', { className: 'type' }, source, running ? `, ${running} running` : ''),
    h('td', {}, description, example !== undefined && [' ', h('code', {}, JSON.stringify(example))]));
  $('#types').append(table(['Type', 'From', 'Meaning, and an example of its arguments'], executors.map(row)));
  $('#types').hidden = false;
}

$('#filter').addEventListener('input', filter);
$('#all').addEventListener('click', () => {
  const open = $('#all').getAttribute('aria-pressed') === 'false';
  $('#all').setAttribute('aria-pressed', open);
  $('#all').textContent = open ? 'Close all' : 'Open all';
  for (const one of document.querySelectorAll('.route')) one.open = open;
});
addEventListener('hashchange', go);
addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.target.matches('input')) return;
  event.preventDefault();
  $('#filter').focus();
});

fetch('/api/v1/executors').then((response) => response.json()).then(({ executors }) => drawTypes(executors)).catch(console.error);
fetch('/api/v1/openapi.json').then((response) => response.json()).then((found) => { api = found; draw(); })
  .catch((error) => {
    console.error(error);
    $('#intro').replaceChildren(h('p', { role: 'alert' }, 'The document could not be read. Reload the page to try again.'));
  });
