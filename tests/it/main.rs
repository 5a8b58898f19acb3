//! The one integration binary: a real server on a free port, seen only from outside.

/// Arguments that are read into a type: what does not fit, and its field.
mod arguments;
/// What bodies are taken: their form, their fields, their size.
mod bodies;
/// A real Chromium, for `page`.
mod browser;
/// What pages from elsewhere may do: nothing.
mod browsers;
/// Removal of finished tasks, by the clock and when asked.
mod cleanup;
/// The commands of the client.
mod client;
/// The example clients, in Python, in a shell and in a browser.
mod clients;
/// Commands of `EXECUTORS`: their output, their end, and what hostile ones do.
mod commands;
/// What configurations are accepted, and `.env.example`.
mod config;
/// Limits and deadlines of connections, and clients that test them.
mod connections;
/// The five demo routes and what their tasks show.
mod demo;
/// Which types there are, creations that are watched, and `latest`.
mod discovery;
/// Sessions that are emptied, and what the audit log says of it.
mod emptying;
/// Refusals: their form, the methods, the queries and the limits.
mod errors;
/// `exec`: commands that run here and are shown on a server.
mod exec;
/// `exec` with servers that are silent, slow or forgetful.
mod exec_trouble;
/// How executors run: panics, time limits, blocking ones, results.
mod execution;
/// What the machine may lack: descriptors, threads, room on the disk; and the stop under load.
mod faults;
/// How a task's type is judged, and how numbers and answers are written.
mod forms;
/// `Idempotency-Key`.
mod hold;
/// `/`: the text for terminals, the page's own rules.
mod home;
mod idempotency;
/// Imports in `src/`: downwards only, and no circles.
mod imports;
/// The Job API.
#[cfg(feature = "jobs")]
mod jobs;
/// Limits that many threads reach at once.
mod limits;
/// Lists, their pages and filters, and the statistics.
mod lists;
/// Streams: events, resume, limits, readers that are slow or gone.
mod live;
/// Logs of tasks: their forms, their bounds, following them.
mod logs;
/// `/metrics`.
mod metrics;
/// The API's document and its page.
mod openapi;
/// The page and the page of a share link, in a browser.
mod page;
/// What becomes of executors that are called off while they run or pause.
mod pauses;
/// Requests one behind the other, in pieces: where one ends and the next begins.
mod pipelining;
/// ETags, conditional and long polls.
mod polling;
/// The binary: arguments, environment, log, signals.
mod process;
/// Requests that are malformed or ambiguous.
mod protocol;
/// The README's tour, line by line.
mod readme;
/// SIGHUP and SIGUSR1: files that were moved away.
mod recordings;
mod rotation;
/// Which session a request belongs to, and how long a session lives.
mod scenes;
mod sessions;
/// Share links.
mod share;
/// How a start, and `--check`, judge the configuration.
mod start;
/// The server, client and waits that all of them use.
mod support;
/// The life of a task through its routes: create, start, cancel, retry, status, history.
mod tasks;
/// The progress bar for terminals.
mod terminal;
/// What real clients send, and what they see of a refusal.
mod tolerance;
/// Executors that wait for a wake, and types with a limit.
mod waits;
/// Workers over HTTP.
mod work;
/// The example workers, in Python, node and shells.
mod workers;
