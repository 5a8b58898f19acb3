/**
 * Streams of events, without the DOM. A browser has six connections for one server, so all of its tabs share a hub,
 * which a shared worker runs (`hub.js`); where there is none, each tab has its own.
 */

/** So many streams are open at once: the rest of the connections are for requests. */
const PLACES = 4;
/** The server says something every 15 s: a connection that is silent for longer is dead. */
const SILENCE = 20_000;
/** A page says every 30 s that it is there. One that was not heard of at so many looks in turn has gone; a machine that sleeps does not look. */
const LOOK = 10_000, LOOKS = 15;

const sleep = (ms, signal) => new Promise((go) => {
  const timer = setTimeout(go, ms);
  signal.addEventListener('abort', () => { clearTimeout(timer); go(); }, { once: true });
});

/** One stream, and who listens to it. Comes back by itself until the server says no, or the stream has ended. */
class Feed {
  constructor(hub, { url, resume }) {
    Object.assign(this, { hub, url, resume, listeners: new Set(), attempt: new AbortController(), isOpen: false, isOver: false, pause: 1000, last: resume });
    this.run();
  }

  tell(message) { for (const listener of this.listeners) listener(message); }

  async run() {
    // Whoever has asked for it listens by then.
    await null;
    while (!this.isOver) {
      this.attempt = new AbortController();
      const outcome = this.hub.open < PLACES ? await this.once() : { type: 'lost', code: 'no_place' };
      this.isOpen = false;
      if (this.isOver) return;
      this.tell(outcome);
      if (outcome.type !== 'lost') return this.close();
      this.waiting = new AbortController();
      await sleep(this.pause, this.waiting.signal);
      this.pause = Math.min(this.pause * 2, 15_000);
    }
  }

  /** One connection, from its begin to its end. */
  async once() {
    this.hub.open += 1;
    const watchdog = { timer: 0, feed: () => {
      clearTimeout(watchdog.timer);
      watchdog.timer = setTimeout(() => this.attempt.abort(), SILENCE);
    } };
    try {
      watchdog.feed();
      const headers = { Accept: 'application/x-ndjson' };
      if (this.last != null) headers['Last-Event-ID'] = String(this.last);
      const response = await fetch(this.url, { headers, signal: this.attempt.signal, cache: 'no-store' });
      if (response.status === 204) return { type: 'end' };
      if (!response.ok) {
        const problem = await response.json().catch(() => ({}));
        return { type: response.status < 500 ? 'refused' : 'lost', status: response.status, code: problem.code, message: problem.message };
      }
      this.isOpen = true;
      this.pause = 1000;
      this.tell({ type: 'open' });
      await this.read(response.body, watchdog);
      return { type: this.resume === undefined ? 'lost' : 'end' };
    } catch {
      return { type: 'lost' };
    } finally {
      clearTimeout(watchdog.timer);
      this.attempt.abort();
      this.hub.open -= 1;
    }
  }

  async read(body, watchdog) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      watchdog.feed();
      const lines = (text + value).split('\n');
      text = lines.pop();
      // An empty line says only that the server is there.
      const events = lines.filter(Boolean).map((line) => JSON.parse(line));
      if (!events.length) continue;
      if (this.resume !== undefined) this.last = events.at(-1).id;
      this.tell({ type: 'events', events });
    }
  }

  /** Gives the connection up and tries anew, at once. */
  renew() {
    this.pause = 1000;
    this.attempt.abort();
    this.waiting?.abort();
  }

  close() {
    this.isOver = true;
    this.renew();
    this.hub.feeds.delete(this.url);
  }
}

export class Hub {
  constructor() {
    this.feeds = new Map();   // url → the feed that is shared
    this.all = new Set();
    this.open = 0;
    addEventListener('online', () => { for (const feed of this.all) feed.renew(); });
    addEventListener('offline', () => { for (const feed of this.all) feed.attempt.abort(); });
  }

  /**
   * Tells `listener` what a stream says, until the function that it returns is called. `resume` is the last event seen of a
   * stream that ends by itself, or null where none was; without it the stream is one that goes on for ever, and is shared with others.
   */
  listen(options, listener) {
    let feed = options.resume === undefined ? this.feeds.get(options.url) : undefined;
    if (feed?.isOpen) queueMicrotask(() => listener({ type: 'joined' }));
    feed ??= new Feed(this, options);
    feed.listeners.add(listener);
    this.all.add(feed);
    if (options.resume === undefined && !feed.isOver) this.feeds.set(options.url, feed);
    return () => {
      feed.listeners.delete(listener);
      if (feed.listeners.size) return;
      feed.close();
      this.all.delete(feed);
    };
  }

  /** Serves the page behind a port. */
  serve(port) {
    const open = new Map();
    let missed = 0;
    const timer = setInterval(() => {
      missed += 1;
      if (missed < LOOKS) return;
      clearInterval(timer);
      for (const stop of open.values()) stop();
    }, LOOK);
    port.onmessage = ({ data: { id, open: options, close } }) => {
      missed = 0;
      if (options) open.set(id, this.listen(options, (message) => port.postMessage({ id, message })));
      if (close) { open.get(id)?.(); open.delete(id); }
    };
  }
}

/** The hub of this browser's worker, by the same method. */
class Remote {
  constructor(worker) {
    this.port = worker.port;
    this.listeners = new Map();
    this.last = 0;
    this.port.onmessage = ({ data: { id, message } }) => this.listeners.get(id)?.(message);
    setInterval(() => this.listeners.size && this.port.postMessage({}), 30_000);
    addEventListener('pagehide', () => { for (const id of this.listeners.keys()) this.port.postMessage({ id, close: true }); });
  }

  listen(options, listener) {
    const id = ++this.last;
    this.listeners.set(id, listener);
    this.port.postMessage({ id, open: options });
    return () => {
      this.listeners.delete(id);
      this.port.postMessage({ id, close: true });
    };
  }
}

let hub;
function theHub() {
  if (hub) return hub;
  try {
    hub = new Remote(new SharedWorker(new URL('hub.js', import.meta.url), { type: 'module' }));
  } catch {
    hub = new Hub();
  }
  return hub;
}

/** How long a page that nobody sees keeps its streams. */
const UNSEEN = 5_000;

/**
 * A stream that is open while somebody sees the page. `options()` is asked at each begin, so that it can tell what has been
 * seen by then; null is no stream. `hidden` is told as a message too.
 */
export function whileVisible(options, listener) {
  let stop = null, timer = 0;
  const start = () => {
    const wanted = options();
    if (wanted) stop = theHub().listen(wanted, (message) => stop && listener(message));
  };
  const end = () => { stop?.(); stop = null; };
  const look = () => {
    clearTimeout(timer);
    if (!document.hidden) return stop || start();
    timer = setTimeout(() => { if (stop) { end(); listener({ type: 'hidden' }); } }, UNSEEN);
  };
  document.addEventListener('visibilitychange', look);
  // A page that comes back out of the browser's memory has told the hub farewell.
  const back = (event) => { if (event.persisted) { end(); look(); } };
  addEventListener('pageshow', back);
  if (!document.hidden) start();
  return {
    restart() { end(); look(); },
    stop() {
      clearTimeout(timer);
      end();
      document.removeEventListener('visibilitychange', look);
      removeEventListener('pageshow', back);
    },
  };
}
