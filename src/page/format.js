/** Words and numbers, without the DOM. */

export const STATUSES = { pending: 'Pending', running: 'Running', completed: 'Completed', failed: 'Failed', cancelled: 'Cancelled' };
export const FINAL = new Set(['completed', 'failed', 'cancelled']);
export const EVENTS = new Set(['created', 'queued', 'started', 'progress', 'waiting', 'advanced', 'paused', 'resumed', 'completed', 'failed', 'cancelled', 'retried']);

export const number = (n) => n.toLocaleString('en');

export const count = (n, word) => `${number(n)} ${word}${n === 1 ? '' : 's'}`;

export function duration(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 0.05) return '< 0.1 s';
  if (s < 9.95) return s.toFixed(1) + ' s';
  if (s < 60) return Math.floor(s) + ' s';
  const pad = (n) => String(Math.floor(n)).padStart(2, '0');
  return s < 3600 ? `${Math.floor(s / 60)}:${pad(s % 60)}` : `${Math.floor(s / 3600)}:${pad(s / 60 % 60)}:${pad(s % 60)}`;
}

/** The time of day; with the date where that is not today's. */
export function clockTime(ms, now = Date.now()) {
  const at = new Date(ms);
  return at.toDateString() === new Date(now).toDateString() ? at.toLocaleTimeString() : at.toLocaleString();
}

/** Why a running task does not go on; '' where it does. */
export const heldBy = ({ waiting, paused }) => (waiting ? 'waiting' : paused ? 'paused' : '');

export function statusText(task) {
  const held = { waiting: ', waits for a person', paused: ', paused' }[heldBy(task)] ?? '';
  return STATUSES[task.status] + (task.attempt > 1 ? `, attempt ${task.attempt}` : '') + held;
}

export function stepText(task) {
  if (task.error) return task.error;
  if (task.status === 'pending') return task.queued ? 'Queued' : 'Waiting';
  const parts = [task.currentStep, task.currentStepDescription].filter(Boolean);
  return parts.join(': ') || (task.status === 'running' ? 'Working…' : '');
}

/** How long it has run by `now`, the server's time. */
export function timeText(task, now) {
  if (!task.startedAt) return '';
  return duration((task.completedAt ?? now) - task.startedAt);
}

/** A text for a shell that takes nothing in it for special. */
export const quote = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

/** The names of the steps that are to come, where the task was given them. */
export function plannedSteps({ metadata }) {
  const steps = Array.isArray(metadata?.steps) ? metadata.steps : [];
  return steps.map((step) => step?.name).filter((name) => typeof name === 'string');
}

/** Undefined where nobody has told when it began. */
const spent = (from, to) => (from === undefined || to === undefined ? undefined : to - from);

/**
 * Each step of the newest attempt: done, running, to come, or where it ended otherwise. `reports` are the attempt's
 * progress entries `{step, at}`, `plan` the names that are known ahead, in order.
 */
export function checklist(plan, reports, task, now) {
  const { status, completedAt } = task;
  const begun = [];
  for (const { step, at } of reports) if (step && begun.at(-1)?.name !== step) begun.push({ name: step, at });
  const steps = begun.map(({ name, at }, i) => ({ name, state: 'done', ms: spent(at, begun[i + 1]?.at ?? completedAt ?? now) }));
  if (steps.length && status !== 'completed') steps.at(-1).state = heldBy(task) || (status === 'pending' ? 'running' : status);
  // A name may come twice: what is to come begins behind as many as have begun.
  const rest = plan.slice(begun.length).map((name) => ({ name, state: status === 'completed' ? 'done' : 'todo' }));
  return [...steps, ...rest];
}
