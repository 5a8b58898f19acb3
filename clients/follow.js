// Starts a task, follows it live with fetch, gives its result. For a page that the server itself
// serves, or one whose origin stands in CORS_ALLOWED_ORIGINS:
//
//     import { follow } from './follow.js';
//     const result = await follow('http://localhost:3000', (now) => bar.value = now.progress);
export async function follow(server, show) {
  const session = `browser-${Math.random().toString(36).slice(2)}`;

  async function call(path, options = {}) {
    const headers = { 'X-App-Session': session, ...options.headers };
    const answer = await fetch(`${server}/api/v1${path}`, { ...options, headers });
    if (!answer.ok) throw new Error((await answer.json()).message);
    return answer;
  }

  const created = await call('/demo/tasks/batch', {
    method: 'POST',
    // With a key of its own, the request can be sent again without a second task.
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': session },
    body: JSON.stringify({ items: ['one', 'two', 'three', 'four'], itemDelayMs: 500 }),
  });
  const { task } = await created.json();

  // One line of JSON a change; an empty one every 15 s keeps the connection awake.
  const events = await call(`/tasks/${task.id}/events`, { headers: { Accept: 'application/x-ndjson' } });
  const reader = events.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ''; ;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    lines.filter(Boolean).forEach((line) => show(JSON.parse(line)));
  }

  const ended = (await (await call(`/tasks/${task.id}`)).json()).task;
  if (ended.status !== 'completed') throw new Error(ended.error ?? ended.status);
  return ended.result;
}
