/** Calls of the server, without the DOM. */

import { quote } from './format.js';

const API = '/api/v1';

/** Whose tasks are shown, and how far the server's clock is ahead of ours, in milliseconds. */
export const server = { session: '', ahead: 0 };

export const serverTime = () => Date.now() + server.ahead;

/** What the server says no to; without a code where it does not answer. */
export class Refusal extends Error {
  constructor(problem) {
    super(problem.message);
    this.code = problem.code;
    this.fields = problem.errors ?? [];
  }
}

/** Asks somebody for the token of the operator's commands; set by the page. */
let askForToken = async () => null;
export function onTokenWanted(ask) { askForToken = ask; }

const held = () => globalThis.sessionStorage?.executorsToken ?? '';
function hold(token) {
  if (token) sessionStorage.executorsToken = token; else delete sessionStorage.executorsToken;
}

/** Keys of creations whose answer never came: the same once more gets the same key, and is done once. */
const unanswered = new Map();
const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join('-');

function headersOf(method, path, text, token) {
  const headers = token ? { Authorization: 'Bearer ' + token } : { 'X-App-Session': server.session };
  if (text) headers['Content-Type'] = 'application/json';
  if (method === 'POST' && !token) {
    if (held()) headers.Authorization = 'Bearer ' + held();
    const what = JSON.stringify([server.session, path, text]);
    if (!unanswered.has(what)) unanswered.set(what, newKey());
    headers['Idempotency-Key'] = unanswered.get(what);
  }
  return headers;
}

async function send(method, path, text, token) {
  const headers = headersOf(method, path, text, token);
  let response;
  try {
    response = await fetch(API + path, { method, headers, body: text });
  } catch {
    throw new Refusal({ message: method === 'GET' ? 'The server cannot be reached' : 'The server cannot be reached: try again' });
  }
  unanswered.delete(JSON.stringify([server.session, path, text]));
  noteClock(response);
  const answer = await response.json().catch(() => ({ message: `The server answered ${response.status}` }));
  if (!response.ok) throw new Refusal(answer);
  return answer;
}

/** The answer's data. `token` is that of jobs; tasks belong to the session. */
export async function call(method, path, body, token) {
  const text = body && JSON.stringify(body);
  for (;;) {
    try {
      return await send(method, path, text, token);
    } catch (error) {
      if (error.code !== 'unauthorized' || token || method === 'GET') throw error;
      const given = await askForToken(held() ? 'The server does not accept this token' : '');
      if (!given) throw error;
      hold(given);
    }
  }
}

/** Clocks that differ by seconds would make running times wrong. */
export function noteClock(response) {
  const date = Date.parse(response.headers.get('Date'));
  if (Math.abs(date - Date.now()) > 2000) server.ahead = date - Date.now();
}

/** The same call, as a line for a shell. */
export function curl(method, path, body) {
  const parts = ['curl', path.endsWith('/watch') || path.includes('follow=1') ? '-N' : '-s'];
  if (method !== 'GET') parts.push('-X', method);
  parts.push(quote(location.origin + API + path), '-H', quote('X-App-Session: ' + server.session));
  if (method !== 'GET' && held()) parts.push('-H', '"Authorization: Bearer $EXECUTORS_TOKEN"');
  if (body) parts.push('-H', quote('Content-Type: application/json'), '-d', quote(JSON.stringify(body)));
  return parts.join(' ');
}

export const streamPath = (path) => `${API}${path}${path.includes('?') ? '&' : '?'}session=${encodeURIComponent(server.session)}`;
