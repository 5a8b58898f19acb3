// Starts a task, follows it live, gives its result; for a page of the server's own, or of CORS_ALLOWED_ORIGINS:
//     const result = await follow('http://localhost:3000', (now) => bar.value = now.progress);
export async function follow(server, show) {
  const session = `browser-${Math.random().toString(36).slice(2)}`;
  async function call(path, headers, body) {
    const options = { method: body ? 'POST' : 'GET', headers: { 'X-App-Session': session, ...headers }, body };
    const answer = await fetch(`${server}/api/v1${path}`, options);
    if (!answer.ok) throw new Error((await answer.json()).message);
    return answer;
  }

  // With a key of its own, the request can be sent again without a second task.
  const once = { 'Content-Type': 'application/json', 'Idempotency-Key': session };
  const batch = JSON.stringify({ items: ['one', 'two', 'three', 'four'], itemDelayMs: 500 });
  const { task } = await (await call('/demo/tasks/batch', once, batch)).json();

  // One line of JSON a change; an empty one every 15 s keeps the connection awake.
  const events = await call(`/tasks/${task.id}/events`, { Accept: 'application/x-ndjson' });
  const reader = events.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = '', part; !(part = await reader.read()).done;) {
    const lines = (rest + part.value).split('\n');
    rest = lines.pop();
    lines.filter(Boolean).forEach((line) => show(JSON.parse(line)));
  }

  const ended = (await (await call(`/tasks/${task.id}`)).json()).task;
  if (ended.status !== 'completed') throw new Error(ended.error ?? ended.status);
  return ended.result;
}
