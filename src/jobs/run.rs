//! One claimed job on its way through the pool.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::engine::pool::Assignment;
use crate::executor::{Report, TaskError, TaskInput};
use crate::jobs::desk::Desk;
use crate::jobs::job::{Claimed, JobStatus};
use crate::jobs::storage::{Claim, Finish, Standing};
use crate::store::Ending;

/// The longest step and message kept, in bytes.
const MAX_STEP: usize = 400;
const MAX_MESSAGE: usize = 2_000;

/// The first pause after a failed attempt; each further one is twice as long.
const BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(3_600);

/// A claimed job. Whoever holds one may run it as long as its lease holds.
pub(super) struct JobRun {
    pub(super) claim: Claim,
    job: Claimed,
    desk: Arc<Desk>,
    /// It is called off, lost, or at its end: nothing that its executor says counts any more.
    over: AtomicBool,
    /// Milliseconds of the desk's clock: nobody else runs it before.
    lease_until: AtomicU64,
    standing: Mutex<(Standing, bool)>,
    claimed: Instant,
    begun: OnceLock<Instant>,
}

impl JobRun {
    pub(super) fn new(job: Claimed, desk: Arc<Desk>, lease_until: u64) -> JobRun {
        JobRun {
            claim: Claim {
                id: job.id,
                token: job.claim,
            },
            job,
            desk,
            over: AtomicBool::new(false),
            lease_until: AtomicU64::new(lease_until),
            standing: Mutex::default(),
            claimed: Instant::now(),
            begun: OnceLock::new(),
        }
    }

    /// Takes the run out of everybody's hands; false where that was done before.
    pub(super) fn end(&self) -> bool {
        !self.over.swap(true, SeqCst)
    }

    pub(super) fn prolong(&self, until: u64) {
        self.lease_until.store(until, SeqCst);
    }

    fn holds(&self) -> bool {
        self.desk.clock() < self.lease_until.load(SeqCst)
    }

    /// The newest report, where it has not been taken before.
    pub(super) fn take_report(&self) -> Option<Standing> {
        let mut standing = self.standing.lock();
        std::mem::take(&mut standing.1).then(|| standing.0.clone())
    }

    /// The newest report could not be written, and is to be taken again.
    pub(super) fn keep_report(&self) {
        self.standing.lock().1 = true;
    }

    /// Whether its executor has been called, or may be.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.get().is_some()
    }

    fn finish_with(&self, ending: Ending) -> Finish {
        let mut standing = self.standing.lock().0.clone();
        let (status, result, message) = match ending {
            Ending::Completed(result) => {
                standing.progress = 100;
                (JobStatus::Completed, result, None)
            }
            Ending::Failed(why) => (JobStatus::Failed, None, Some(clean(&why, MAX_MESSAGE))),
        };
        let retry = status == JobStatus::Failed && self.job.attempts < self.job.max;
        let error = message
            .as_ref()
            .map(|message| json!({ "message": message, "attempt": self.job.attempts }).to_string());
        Finish {
            claim: self.claim,
            standing,
            status: status as u8,
            result: result.map(|json| json.get().to_owned()),
            error,
            message: message.map(|message| json!(message).to_string()),
            again: retry.then(|| back_off(self.job.attempts).as_millis() as u64),
            kind: self.job.kind.clone(),
            ran: self.begun.get().map(Instant::elapsed),
        }
    }
}

impl Assignment for JobRun {
    fn id(&self) -> (Uuid, u32) {
        // The token, unlike the attempt, is never used twice.
        (self.claim.id, self.claim.token as u32)
    }

    fn kind(&self) -> Option<Arc<str>> {
        Some(self.job.kind.as_str().into())
    }

    fn begin(&self) -> Option<(TaskInput, Option<Duration>)> {
        self.desk.started();
        // Before the look at the stop: what has not begun by then is given back, and never begins.
        self.begun.get_or_init(Instant::now);
        if self.is_stopped() {
            self.desk.let_go(self);
            return None;
        }
        log::debug!("Starting execution of job {}", self.job.id);
        let until_claimed = Duration::from_millis(self.job.waited.max(0) as u64);
        let waited = until_claimed + self.claimed.elapsed();
        self.desk.meter.begun(&self.job.kind, waited);
        let arguments = self.job.arguments.clone();
        let input = TaskInput::new(
            self.job.id,
            self.job.kind.as_str().into(),
            self.job.kind.as_str().into(),
            self.job.attempts,
            arguments.and_then(|json| RawValue::from_string(json).ok()),
        );
        Some((input, self.job.timeout.map(Duration::from_millis)))
    }

    fn finish(&self, ending: Ending) {
        // An attempt whose lease is over is no longer ours to end.
        if !self.holds() {
            self.desk.let_go(self);
        }
        if !self.end() {
            return;
        }
        match &ending {
            Ending::Completed(_) => log::debug!("Completed execution of job {}", self.job.id),
            Ending::Failed(why) => {
                log::warn!(
                    "Job {} failed: {}",
                    self.job.id,
                    crate::log_safe::LogSafe(why)
                );
            }
        }
        self.desk.finish(self.finish_with(ending));
    }
}

impl Report for JobRun {
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError> {
        if self.is_stopped() {
            return Err(TaskError::stopped());
        }
        let text = |text: &str, max| (!text.is_empty()).then(|| clean(text, max));
        let mut guard = self.standing.lock();
        let (standing, news) = &mut *guard;
        let new = Standing {
            progress: percent.max(standing.progress),
            step: text(step, MAX_STEP),
            detail: text(description, MAX_MESSAGE),
        };
        if new != *standing {
            *standing = new;
            *news = true;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.over.load(SeqCst) || !self.holds()
    }
}

/// Cut to `max` bytes, between characters; and without what PostgreSQL's text cannot hold.
fn clean(text: &str, max: usize) -> String {
    let cut = &text[..text.floor_char_boundary(max)];
    cut.replace('\0', "\u{fffd}")
}

/// 1 s, 2 s, 4 s …, a quarter more or less, so that what failed together does not return together.
fn back_off(attempt: u32) -> Duration {
    let doubled = BACK_OFF.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
    doubled.min(MAX_BACK_OFF).mul_f64(0.75 + spread / 2.0)
}

/// The clock that leases are kept by: it goes on while the process is frozen.
#[derive(Debug)]
pub(super) struct Clock(Instant);

impl Default for Clock {
    fn default() -> Clock {
        Clock(Instant::now())
    }
}

impl Clock {
    pub(super) fn now(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}
