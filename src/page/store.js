/** The page of tasks that is shown, kept up to date by lists and events, without the DOM. */

import { FINAL } from './format.js';

/** So many tasks are shown at once. The server has the others, and finds them. */
export const PAGE = 100;

export class Store {
  /** `get(path)` asks the server; `told(what, task)` hears of changes: `task`, `page`, `ended`, `retried`. */
  constructor({ get, session, told }) {
    Object.assign(this, { get, session, told });
    this.filter = { status: '', search: '', before: '' };
    this.tasks = new Map();
    this.reset(this.filter);
  }

  /** Another session, whose tasks are others, or another filter: then what is shown stays until the answer. */
  reset(filter, isOtherSession) {
    this.filter = filter;
    if (isOtherSession) this.tasks.clear();
    this.underWay = new Set();
    this.asked = this.answered = 0;
    this.total = 0;
    this.older = null;
    this.isLoaded = false;
    this.told('page');
  }

  /** Newest first: an id begins with its time. */
  ids() { return [...this.tasks.keys()].sort().reverse(); }

  matches(task) {
    const { status, before } = this.filter;
    return (!status || task.status === status) && (!before || task.id < before);
  }

  query() {
    const { status, search, before } = this.filter;
    const query = new URLSearchParams({ limit: PAGE });
    if (status) query.set('status', status);
    if (search) query.set('search', search);
    if (before) query.set('cursor', before);
    return '/tasks?' + query;
  }

  /** The page anew. What happens while the list is under way is told again over it. */
  async load() {
    const [underWay, number, later] = [this.underWay, ++this.asked, []];
    underWay.add(later);
    try {
      const answer = await this.get(this.query());
      // Of another session or filter by now, or older than what is shown.
      if (underWay !== this.underWay || number < this.answered) return;
      this.answered = number;
      const listed = new Set(answer.tasks.map((task) => task.id));
      for (const id of this.tasks.keys()) if (!listed.has(id)) this.drop(id);
      for (const task of answer.tasks) this.take(task);
      this.total = answer.total;
      this.older = answer.nextCursor;
      this.isLoaded = true;
      underWay.delete(later);
      for (const repeat of later) repeat();
      this.told('page');
    } finally {
      underWay.delete(later);
    }
  }

  /** Takes in a task as the server has told it. */
  take(task) {
    if (task.sessionKey !== this.session()) return;
    const known = this.tasks.get(task.id);
    // Attempts only grow; the list may be older than what is known.
    // What it lacks is no longer so.
    if (known) Object.assign(known, { waiting: false, paused: false }, task, { attempt: Math.max(known.attempt, task.attempt) });
    else this.tasks.set(task.id, { ...task, isFresh: this.isLoaded });
    this.told('task', this.tasks.get(task.id));
  }

  /** A task that was just created here; the stream may have told more of it already. */
  add(task) {
    const put = () => {
      if (this.tasks.has(task.id) || !this.matches(task) || this.filter.search) return;
      this.take(task);
      this.total += 1;
      this.trim();
      this.told('page');
    };
    for (const later of this.underWay) later.push(put);
    put();
  }

  trim() {
    const ids = this.ids();
    for (const id of ids.slice(PAGE)) this.drop(id);
    if (ids.length > PAGE) this.older = ids[PAGE - 1];
  }

  drop(id) { this.tasks.delete(id); }

  /** Takes in an event of the stream; false where the page is to be loaded anew for it. */
  hear(name, data) {
    for (const later of this.underWay) later.push(() => this.apply(name, data));
    if (this.tasks.has(data.taskId)) return this.apply(name, data);
    return !this.concerns(name, data);
  }

  /** Whether a task that is not shown may have its place on this page. */
  concerns(name, { taskId: id, status }) {
    if (!this.isLoaded || !this.matches({ id, status })) return false;
    const oldest = this.older && this.ids().at(-1);
    if (oldest && id < oldest) return false;
    // A search finds what the page cannot know; a task's name never changes, its step may.
    return name !== 'progress' || !this.filter.search;
  }

  /** False where the task leaves the page, which has a place then. */
  apply(name, data) {
    const task = this.tasks.get(data.taskId);
    if (!task) return true;
    const was = task.status;
    change(task, name, data);
    if (name === 'retried') this.told('retried', task);
    if (was !== task.status && FINAL.has(task.status)) this.told('ended', task);
    this.told('task', task);
    if (this.matches(task)) return true;
    this.drop(task.id);
    this.total = Math.max(0, this.total - 1);
    this.told('page');
    return false;
  }
}

/** What an event tells of its task. */
export function change(task, name, data) {
  task.currentStep = data.currentStep;
  task.currentStepDescription = data.currentStepDescription;
  for (const member of ['status', 'progress', 'startedAt', 'completedAt', 'error', 'waiting', 'paused']) task[member] = data[member];
  task.queued = name === 'queued' || name === 'retried';
}
