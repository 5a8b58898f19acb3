//! One claimed job on its way through the pool.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::engine::pool::AttemptHandle;
use crate::executor::{Report, StopHandle, TaskError, TaskInput};
use crate::jobs::job::{Claimed, JobStatus, Progress};
use crate::jobs::storage::Claim;
use crate::jobs::storage::end::{End, Finish};
use crate::jobs::storage::work::{Begin, Pause, Reported};
use crate::jobs::worker::Shared;
use crate::jobs::worker::claims::{Held, PROVEN_AFTER};
use crate::jobs::worker::presence::Presence;
use crate::task::AttemptResult;

/// The longest step and message kept, in bytes.
const MAX_STEP: usize = 400;
const MAX_MESSAGE: usize = 2_000;

/// A job that loses its worker so often stays a suspect, however long it has run.
const MANY_LOSSES: u32 = 4;

/// The first pause after a failed attempt; each further one is twice as long.
const BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(3_600);

/// A claimed job: what its executor is given, and what it says. Whether that counts, its claim knows.
pub(super) struct JobRun {
    pub(super) held: Arc<Held>,
    job: Claimed,
    shared: Arc<Shared>,
    claimed: Instant,
    begun: OnceLock<Instant>,
    /// When its executor was first called: a suspect waits before.
    called: OnceLock<Instant>,
    pub(super) presence: Presence,
    news: Mutex<News>,
    /// Itself, for the completer.
    me: std::sync::Weak<JobRun>,
}

/// What its executor has reported.
#[derive(Default)]
struct News {
    latest: Progress,
    /// The completer knows that there is something to take.
    is_told: bool,
}

impl JobRun {
    pub(super) fn new(job: Claimed, held: Arc<Held>, shared: Arc<Shared>) -> Arc<JobRun> {
        Arc::new_cyclic(|me| JobRun {
            presence: Presence::new(),
            held,
            job,
            shared,
            claimed: Instant::now(),
            begun: OnceLock::new(),
            called: OnceLock::new(),
            news: Mutex::default(),
            me: me.clone(),
        })
    }

    /// How the log names this run. Who ran it can have chosen the type's name.
    fn name(&self) -> String {
        let (id, kind) = (self.job.id, crate::log_safe::LogSafe(&self.job.kind));
        let (attempt, max) = (self.attempt(), self.job.max);
        format!("job {id} ({kind}), attempt {attempt} of {max}")
    }

    /// Which attempt this is.
    fn attempt(&self) -> u32 {
        self.job.attempts + 1
    }

    fn claim(&self) -> Claim {
        self.held.claim
    }

    /// That it has begun, where this is still to be written, and it has not ended meanwhile.
    pub(super) fn unwritten_begin(&self) -> Option<Begin> {
        let is_written = self.presence.is_begin_written();
        (!is_written && self.held.is_running()).then(|| self.begin_entry())
    }

    /// That it pauses, or is at work again, where this is still to be written.
    pub(super) fn take_pause(&self) -> Option<Pause> {
        if !self.held.is_running() {
            return None;
        }
        self.presence
            .take(self.is_suspect())
            .map(|is_paused| Pause {
                claim: self.claim(),
                is_paused: u8::from(is_paused),
            })
    }

    /// Whether its executor is called only after it is written that it is at work, so that a job which ends its worker
    /// at once is blamed all the same. That costs much, and so ends soon for those that were blamed for no loss.
    pub(super) fn is_suspect(&self) -> bool {
        let called = self.called.get();
        let is_proven = called.is_some_and(|at| at.elapsed() >= PROVEN_AFTER);
        let is_blamed = self.job.lane > 2 || self.job.losses >= MANY_LOSSES;
        self.job.lane > 1 && (is_blamed || !is_proven)
    }

    /// Returns when it is written that its executor is at work, where it is a suspect; whether it may still run.
    fn wait_until_written(&self) -> bool {
        let is_over = || !self.is_suspect() || self.is_stopped();
        self.presence.wait(is_over);
        !self.is_stopped()
    }

    fn set_paused(&self, is_paused: bool) {
        self.held.set_paused(is_paused);
        if self.presence.set_paused(is_paused)
            && let Some(me) = self.me.upgrade()
        {
            self.shared.paused(me);
        }
    }

    fn begin_entry(&self) -> Begin {
        Begin {
            claim: self.claim(),
            age: self.ran().as_millis() as u64,
            is_paused: u8::from(self.presence.is_paused()),
        }
    }

    /// When it began: then its executor is called, that of a suspect when this is written.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun.get().copied()
    }

    /// The newest report, where it still counts.
    pub(super) fn report(&self) -> Option<Reported> {
        let latest = self.news.lock().latest.clone();
        self.held.is_running().then(|| Reported {
            claim: self.claim(),
            latest,
        })
    }

    /// This is written. Whether there is a newer report; if not, the completer is told of the next one.
    pub(super) fn has_newer_report(&self, written: &Progress) -> bool {
        let mut news = self.news.lock();
        news.is_told = news.latest != *written;
        news.is_told
    }

    fn end_with(&self, ending: AttemptResult) -> End {
        let mut latest = self.news.lock().latest.clone();
        let attempt = self.attempt();
        let (status, result, message) = match ending {
            AttemptResult::Completed(result) => {
                latest.progress = 100;
                (JobStatus::Completed, result, None)
            }
            AttemptResult::Failed(why) => (JobStatus::Failed, None, Some(clean(&why, MAX_MESSAGE))),
        };
        // An attempt that ended with its worker is not one that failed.
        let failures = attempt.saturating_sub(self.job.losses);
        let retry = status == JobStatus::Failed && failures < self.job.max;
        let error = message
            .as_ref()
            .map(|message| json!({ "message": message, "attempt": attempt }).to_string());
        let ran = self.ran();
        let finish = Finish {
            claim: self.claim(),
            age: ran.as_millis() as u64,
            latest,
            status: status as u8,
            result: result.map(|json| json.get().to_owned()),
            error,
            message: message.map(|message| json!(message).to_string()),
            again: retry.then(|| back_off(failures).as_millis() as u64),
        };
        let dialect = self.shared.storage.dialect();
        End::new(finish, dialect, self.job.kind.clone(), status, ran)
    }

    /// How long ago it began.
    fn ran(&self) -> Duration {
        self.begun.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// What the pool tells an attempt by. The token, unlike the attempt's number, is never used twice.
pub(super) fn pool_id(claim: Claim) -> (Uuid, u32) {
    (claim.id, claim.token as u32)
}

impl AttemptHandle for JobRun {
    fn id(&self) -> (Uuid, u32) {
        pool_id(self.claim())
    }

    fn kind(&self) -> Option<Arc<str>> {
        Some(self.job.kind.as_str().into())
    }

    fn begin(&self) -> Option<(TaskInput, Option<Duration>)> {
        if !self.shared.begin(&self.held) {
            return None;
        }
        self.begun.get_or_init(Instant::now);
        if let Some(me) = self.me.upgrade() {
            self.shared.begun(me);
        }
        if !self.wait_until_written() {
            return None;
        }
        self.called.get_or_init(Instant::now);
        log::debug!("Starting execution of job {}", self.job.id);
        let until_claimed = Duration::from_millis(self.job.waited.max(0) as u64);
        let waited = until_claimed + self.claimed.elapsed();
        self.shared.meter.begun(&self.job.kind, waited);
        let arguments = self.job.arguments.clone();
        let input = TaskInput::new(
            self.job.id,
            self.job.kind.as_str().into(),
            self.job.kind.as_str().into(),
            self.attempt(),
            arguments.and_then(|json| RawValue::from_string(json).ok()),
        );
        Some((input, self.job.timeout.map(Duration::from_millis)))
    }

    fn pause(&self) {
        self.set_paused(true);
    }

    fn resume(&self) -> bool {
        self.set_paused(false);
        self.wait_until_written()
    }

    fn finish(&self, ending: AttemptResult) {
        if !self.shared.claims.end(&self.held) {
            return;
        }
        match &ending {
            AttemptResult::Completed(_) => log::info!("Completed execution of {}", self.name()),
            AttemptResult::Failed(why) => {
                log::warn!(
                    "Failed execution of {}: {}",
                    self.name(),
                    crate::log_safe::LogSafe(why)
                );
            }
        }
        self.shared.ended(self.end_with(ending));
    }
}

impl Report for JobRun {
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError> {
        if self.is_stopped() {
            return Err(TaskError::stopped());
        }
        let text = |text: &str, max| (!text.is_empty()).then(|| clean(text, max));
        let mut news = self.news.lock();
        let new = Progress {
            progress: percent.max(news.latest.progress),
            step: text(step, MAX_STEP),
            detail: text(description, MAX_MESSAGE),
        };
        if new == news.latest {
            return Ok(());
        }
        news.latest = new;
        let is_first = !std::mem::replace(&mut news.is_told, true);
        drop(news);
        if is_first && let Some(me) = self.me.upgrade() {
            self.shared.reported(me);
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.shared.claims.is_over(&self.held)
    }

    fn stop_handle(&self) -> StopHandle {
        let me = self.me.clone();
        StopHandle::new(move || me.upgrade().is_none_or(|run| run.is_stopped()))
    }
}

/// Cut to `max` bytes, between characters; and without what PostgreSQL's text cannot hold.
fn clean(text: &str, max: usize) -> String {
    let cut = &text[..text.floor_char_boundary(max)];
    cut.replace('\0', "\u{fffd}")
}

/// 1 s, 2 s, 4 s …, a quarter more or less, so that what failed together does not return together.
fn back_off(failures: u32) -> Duration {
    let doubled = BACK_OFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
    doubled.min(MAX_BACK_OFF).mul_f64(0.75 + spread / 2.0)
}
