//! Back-off of one duty while the database is unavailable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::jobs::clock::since_boot;
use crate::jobs::database::DatabaseError;
use crate::jobs::storage::Done;

/// The first and the longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// A statement that takes longer has probably lost its connection.
const SLOW: Duration = Duration::from_secs(2);

/// The state of a duty, for other threads.
#[derive(Default)]
pub(super) struct DutyState {
    /// When the oldest unanswered statement began, or the first failure in a row; 0 if nothing is pending.
    waiting_since: AtomicU64,
    is_failing: AtomicBool,
}

impl DutyState {
    pub(super) fn is_late(&self, longest: Duration) -> bool {
        let since = self.waiting_since.load(SeqCst);
        since != 0 && now().saturating_sub(since) > longest.as_millis() as u64
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_failing.load(SeqCst) || self.is_late(SLOW)
    }
}

/// Milliseconds; never 0, because 0 means "not waiting".
fn now() -> u64 {
    since_boot().as_millis() as u64 + 1
}

/// Logs an outage once, counts its failures, and pauses longer after each failure.
pub(super) struct Backoff {
    duty: &'static str,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(duty: &'static str) -> Backoff {
        Backoff { duty, failures: 0 }
    }

    /// Runs `work` and records whether the database was available.
    pub(super) fn watch<T>(
        &mut self,
        state: &DutyState,
        work: impl FnOnce() -> Done<T>,
    ) -> Done<T> {
        let _ = state
            .waiting_since
            .compare_exchange(0, now(), SeqCst, SeqCst);
        let done = work();
        match &done {
            Err(error) if error.is_outage() => {
                state.is_failing.store(true, SeqCst);
                self.failures += 1;
                if self.failures == 1 {
                    log::error!("The {} waits for the database: {error}", self.duty);
                }
            }
            // A refusal is also a response: the database is available.
            _ => {
                state.waiting_since.store(0, SeqCst);
                state.is_failing.store(false, SeqCst);
                let failures = std::mem::take(&mut self.failures);
                if failures > 0 {
                    log::info!(
                        "The {} can use the database again, after {failures} failures",
                        self.duty
                    );
                }
            }
        }
        done
    }

    /// Whether the last statement failed because of an outage.
    pub(super) fn is_on(&self) -> bool {
        self.failures > 0
    }

    /// The pause before the next attempt.
    pub(super) fn pause(&self) -> Duration {
        let doubled = FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(self.failures.saturating_sub(1).min(10)));
        doubled.min(MAX_PAUSE)
    }

    /// Logs an error that is not an outage.
    pub(super) fn log_refusal(&self, error: &DatabaseError) {
        if !error.is_outage() {
            log::error!(
                "The database refuses a statement of the {}: {error}",
                self.duty
            );
        }
    }
}
