//! A database that is away, as one duty sees it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::jobs::clock::since_boot;
use crate::jobs::database::DatabaseError;
use crate::jobs::storage::Done;

/// The first and the longest pause between two tries at a database that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// A statement that takes longer has probably lost its connection.
const SLOW: Duration = Duration::from_secs(2);

/// How a duty gets on, for others to see.
#[derive(Default)]
pub(super) struct DutyState {
    /// Since when it waits for an answer, or for the first good one after failures; 0: it does not.
    waiting_since: AtomicU64,
    is_failing: AtomicBool,
}

impl DutyState {
    /// Whether it has waited for longer than this.
    pub(super) fn is_late(&self, longest: Duration) -> bool {
        let since = self.waiting_since.load(SeqCst);
        since != 0 && now().saturating_sub(since) > longest.as_millis() as u64
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_failing.load(SeqCst) || self.is_late(SLOW)
    }
}

/// Milliseconds, never 0.
fn now() -> u64 {
    since_boot().as_millis() as u64 + 1
}

/// An backoff is told once, with a count at its end, and waited for with longer and longer pauses.
pub(super) struct Backoff {
    who: &'static str,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(who: &'static str) -> Backoff {
        Backoff { who, failures: 0 }
    }

    /// Does `work`, and notes how it went.
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
                    log::error!("The {} waits for the database: {error}", self.who);
                }
            }
            // A refusal is an answer too.
            _ => {
                state.waiting_since.store(0, SeqCst);
                state.is_failing.store(false, SeqCst);
                let failures = std::mem::take(&mut self.failures);
                if failures > 0 {
                    log::info!(
                        "The {} has its database again, after {failures} failures",
                        self.who
                    );
                }
            }
        }
        done
    }

    /// Whether it waits for its database.
    pub(super) fn is_on(&self) -> bool {
        self.failures > 0
    }

    /// How long to wait before the next try.
    pub(super) fn pause(&self) -> Duration {
        let doubled = FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(self.failures.saturating_sub(1).min(10)));
        doubled.min(MAX_PAUSE)
    }

    /// Says what no backoff explains.
    pub(super) fn complain(&self, error: &DatabaseError) {
        if !error.is_outage() {
            log::error!("The {} was refused by the database: {error}", self.who);
        }
    }
}
