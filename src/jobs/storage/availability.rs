//! Logs an outage of the database that requests have met: once, with a count at its end.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::jobs::database::DatabaseError;

/// If no statement fails for this long, the outage has ended.
const QUIET: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Availability(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u64,
    last: Option<Instant>,
    /// The newest statement failed.
    is_away: bool,
}

impl Availability {
    /// Records whether a statement has reached the database.
    pub(crate) fn note<T>(&self, done: &Result<T, DatabaseError>) {
        let mut state = self.0.lock();
        match done {
            Err(error) if error.is_outage() => {
                state.is_away = true;
                state.last = Some(Instant::now());
                state.failures += 1;
                let is_first = state.failures == 1;
                drop(state);
                if is_first {
                    log::error!(
                        "Requests are refused because the database cannot be used: {error}"
                    );
                }
            }
            // A refusal is also a response: the database is available.
            _ => {
                state.is_away = false;
                if state.last.is_none_or(|last| last.elapsed() < QUIET) {
                    return;
                }
                state.last = None;
                let failures = std::mem::take(&mut state.failures);
                drop(state);
                log::info!(
                    "The database serves requests again, after {failures} failed statements"
                );
            }
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.0.lock().is_away
    }
}
