// A worker: claims tasks and jobs of one type, and runs them: WORKER_TOKEN=… node worker.js http://localhost:3000 count
const [url, kind] = process.argv.slice(2);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
/** Cancelled, timed out, or taken by another worker: stop working on it. */
class LeaseOver extends Error {}
/** Posts until the server answers: it may be restarted meanwhile. */
async function call(path, body, wait = 10_000) {
  const headers = { Authorization: `Bearer ${process.env.WORKER_TOKEN}`, 'Content-Type': 'application/json' };
  for (;; await pause(1_000)) {
    try {
      const options = { method: 'POST', headers, body: JSON.stringify(body), signal: AbortSignal.timeout(wait) };
      const answer = await fetch(`${url}/api/v1/work/${path}`, options);
      const said = await answer.json();
      if (answer.ok) return said;
      if (answer.status === 410) throw new LeaseOver(said.reason);
      if (answer.status < 500 || said.code === 'workers_disabled') { console.error(said.message); process.exit(1); }
    } catch (error) {
      if (error instanceof LeaseOver) throw error;
      console.error('waiting for the server:', error.cause?.message ?? error.message);
    }
  }
}

/** Yours: the input is task.input; report as often as you like; what you return is the result. */
async function work(task, report) {
  const { steps = 10, delayMs = 500 } = task.input ?? {};
  for (let step = 0; step < steps; step++) {
    await report({ progress: Math.floor(step * 100 / steps), step: `Step ${step + 1} of ${steps}`, log: `did ${step + 1}` });
    await pause(delayMs);
  }
  return { steps };
}
for (;;) for (const task of (await call('claim', { types: [kind], worker: `node-${process.pid}`, waitMs: 30_000 }, 40_000)).claims) {
  // An empty report keeps the lease while the work is silent.
  const beat = setInterval(() => call(`${task.lease}/progress`, {}).catch(() => clearInterval(beat)), task.leaseMs / 3);
  const end = work(task, (said) => call(`${task.lease}/progress`, said)).then(
    (result) => call(`${task.lease}/complete`, { result }),
    (error) => { if (error instanceof LeaseOver) throw error; return call(`${task.lease}/fail`, { error: error.message || 'it failed' }); });
  await end.catch((why) => console.error('stopped:', why.message)).finally(() => clearInterval(beat));
}
