//! The one integration binary: a real server on a free port, seen only from outside.

/// Removal of finished tasks, by the clock and when asked.
mod cleanup;
/// What configurations are accepted, and `.env.example`.
mod config;
/// The five demo routes and what their tasks show.
mod demo;
/// Refusals: their form, the methods, the bodies and the limits.
mod errors;
/// How executors run: panics, time limits, slices, results, stale attempts.
mod execution;
/// `Idempotency-Key`.
mod idempotency;
/// The binary: arguments, environment, log, signals.
mod process;
/// Which session a request belongs to, and how long a session lives.
mod sessions;
/// The server, client and waits that all of them use.
mod support;
/// The life of a task through its routes: create, list, start, cancel, retry, history.
mod tasks;
