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
use crate::jobs::meter::JobMeter;
use crate::jobs::storage::completion::{Completion, CompletionRow};
use crate::jobs::storage::work::{Begin, Pause, Reported};
use crate::jobs::storage::{Claim, Storage};
use crate::jobs::worker::claims::{Claims, Held, PROVEN_AFTER};
use crate::jobs::worker::kinds::Counted;
use crate::jobs::worker::presence::Presence;
use crate::jobs::worker::run_log::RunLog;
use crate::store::Budget;
use crate::task::{AttemptResult, LogStream};

const MAX_STEP: usize = 400;
const MAX_MESSAGE: usize = 2_000;

/// A job that has lost its worker this often stays a suspect, however long it runs.
const MANY_LOSSES: u32 = 4;

/// The pause after the first failed attempt. Each further pause is twice as long.
const BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(3_600);

/// What a run needs of its worker.
pub(super) trait RunHost: Send + Sync {
    fn claims(&self) -> &Claims;

    fn storage(&self) -> &Storage;

    fn meter(&self) -> &JobMeter;

    fn log_budget(&self) -> Arc<Budget>;

    /// Returns whether the executor of this claim may be called now.
    fn begin(&self, held: &Arc<Held>) -> bool;

    /// Has the completer write what has happened.
    fn tell(&self, event: Event);

    /// `run` is given if it has unwritten lines.
    fn finished(&self, completion: Completion, run: Option<Arc<JobRun>>);

    /// Leaves a claimed job to any process that can run it.
    fn put_back(&self, held: &Arc<Held>);
}

/// What the completer writes.
pub(super) enum Event {
    /// The executor was called.
    Begun(Arc<JobRun>),
    /// The executor has paused or runs again.
    Paused(Arc<JobRun>),
    /// There is a report to write.
    Reported(Arc<JobRun>),
    /// There are lines to write.
    Logged(Arc<JobRun>),
    /// The run is given if it has unwritten lines.
    Finished(Completion, Option<Arc<JobRun>>),
    /// No more events follow. Everything must be written before the deadline.
    Stop(Stop),
}

#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// Whether no executor can still be running.
    pub(super) all_ended: bool,
    pub(super) deadline: Instant,
}

/// A claimed job: the input of its executor, and the executor's reports. Its claim decides whether the reports count.
pub(super) struct JobRun {
    pub(super) held: Arc<Held>,
    job: Claimed,
    host: Arc<dyn RunHost>,
    claimed: Instant,
    begun: OnceLock<Instant>,
    /// When the executor was first called. For a suspect this is later than `begun`.
    called: OnceLock<Instant>,
    pub(super) presence: Presence,
    reports: Mutex<Reports>,
    pub(super) log: RunLog,
    /// A reference to itself, to pass on to the completer.
    me: std::sync::Weak<JobRun>,
    /// Counted as long as it takes one of its type's places.
    counted: Mutex<Option<Counted>>,
}

/// The executor's reports.
#[derive(Default)]
struct Reports {
    latest: Progress,
    /// The completer already knows that there is a new report.
    is_announced: bool,
}

impl JobRun {
    pub(super) fn new(
        job: Claimed,
        held: Arc<Held>,
        host: Arc<dyn RunHost>,
        counted: Option<Counted>,
    ) -> Arc<JobRun> {
        let (budget, max) = (host.log_budget(), host.storage().max_log_bytes);
        Arc::new_cyclic(|me| JobRun {
            log: RunLog::new(held.claim, job.attempts + 1, budget, max),
            presence: Presence::new(),
            held,
            job,
            host,
            claimed: Instant::now(),
            begun: OnceLock::new(),
            called: OnceLock::new(),
            reports: Mutex::default(),
            me: me.clone(),
            counted: Mutex::new(counted),
        })
    }

    /// The name of this run in log lines. A client may have chosen the type's name, so it is escaped.
    fn name(&self) -> String {
        let (id, kind) = (self.job.id, crate::log_safe::LogSafe(&self.job.kind));
        let (attempt, max) = (self.attempt(), self.job.max);
        format!("job {id} ({kind}), attempt {attempt} of {max}")
    }

    fn attempt(&self) -> u32 {
        self.job.attempts + 1
    }

    fn claim(&self) -> Claim {
        self.held.claim
    }

    /// Returns the begin entry, if it is not written yet and the attempt still runs.
    pub(super) fn unwritten_begin(&self) -> Option<Begin> {
        let is_written = self.presence.is_begin_written();
        (!is_written && self.held.is_running()).then(|| self.begin_entry())
    }

    /// Returns the change between paused and running, if it is not written yet.
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

    /// Whether the database must record that the executor runs before it is called. Only then can the database blame
    /// a job that kills its worker at once. This is slow, so it ends early for jobs that were never blamed for a
    /// loss.
    pub(super) fn is_suspect(&self) -> bool {
        let called = self.called.get();
        let is_proven = called.is_some_and(|at| at.elapsed() >= PROVEN_AFTER);
        let is_blamed = self.job.lane > 2 || self.job.losses >= MANY_LOSSES;
        self.job.lane > 1 && (is_blamed || !is_proven)
    }

    /// For a suspect, waits until the database records that the executor runs. Returns whether the run may continue.
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
            self.host.tell(Event::Paused(me));
        }
    }

    fn begin_entry(&self) -> Begin {
        Begin {
            claim: self.claim(),
            age: self.ran().as_millis() as u64,
            is_paused: u8::from(self.presence.is_paused()),
        }
    }

    /// When the attempt began. The executor is called then, or for a suspect once the begin is written.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun.get().copied()
    }

    /// Returns the newest report, if it still counts.
    pub(super) fn report(&self) -> Option<Reported> {
        let latest = self.reports.lock().latest.clone();
        self.held.is_running().then(|| Reported {
            claim: self.claim(),
            latest,
        })
    }

    /// `written` is now in the database. Returns whether there is a newer report; if not, the next report notifies
    /// the completer.
    pub(super) fn has_newer_report(&self, written: &Progress) -> bool {
        let mut reports = self.reports.lock();
        reports.is_announced = reports.latest != *written;
        reports.is_announced
    }

    fn completion(&self, ending: AttemptResult) -> Completion {
        let mut latest = self.reports.lock().latest.clone();
        let attempt = self.attempt();
        let is_for_good = matches!(ending, AttemptResult::FailedForGood(_));
        let (status, result, message) = match ending {
            AttemptResult::Completed(result) => {
                latest.progress = 100;
                (JobStatus::Completed, result, None)
            }
            AttemptResult::Failed(why) | AttemptResult::FailedForGood(why) => {
                (JobStatus::Failed, None, Some(clean(&why, MAX_MESSAGE)))
            }
        };
        // An attempt that ended because its worker was lost is not a failure.
        let failures = attempt.saturating_sub(self.job.losses);
        let retry = status == JobStatus::Failed && failures < self.job.max && !is_for_good;
        let error = message
            .as_ref()
            .map(|message| json!({ "message": message, "attempt": attempt }).to_string());
        let ran = self.ran();
        let row = CompletionRow {
            claim: self.claim(),
            age: ran.as_millis() as u64,
            latest,
            status: status as u8,
            result: result.map(|json| json.get().to_owned()),
            error,
            message: message.map(|message| json!(message).to_string()),
            again: retry.then(|| back_off(failures).as_millis() as u64),
        };
        let dialect = self.host.storage().dialect();
        Completion::new(row, dialect, self.job.kind.clone(), status, ran)
    }

    /// The time since the attempt began.
    fn ran(&self) -> Duration {
        self.begun.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// The pool's id of a run. Claim tokens are never reused; attempt numbers are.
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

    fn is_over(&self) -> bool {
        self.is_stopped()
    }

    fn begin(&self) -> Option<(TaskInput, Option<Duration>)> {
        if !self.host.begin(&self.held) {
            return None;
        }
        self.begun.get_or_init(Instant::now);
        if let Some(me) = self.me.upgrade() {
            self.host.tell(Event::Begun(me));
        }
        if !self.wait_until_written() {
            return None;
        }
        self.called.get_or_init(Instant::now);
        let mut counted = self.counted.lock();
        if counted.as_ref().is_some_and(Counted::is_until_begin) {
            counted.take();
        }
        drop(counted);
        log::debug!("Starting execution of job {}", self.job.id);
        let until_claimed = Duration::from_millis(self.job.waited.max(0) as u64);
        let waited = until_claimed + self.claimed.elapsed();
        self.host.meter().begun(&self.job.kind, waited);
        let arguments = self.job.arguments.clone();
        let mut input = TaskInput::new(
            self.job.id,
            self.job.kind.as_str().into(),
            self.job.kind.as_str().into(),
            self.attempt(),
            arguments.and_then(|json| RawValue::from_string(json).ok()),
        );
        input.user = self.job.user.as_deref().map(Into::into);
        Some((input, self.job.timeout.map(Duration::from_millis)))
    }

    fn pause(&self) {
        self.set_paused(true);
    }

    fn resume(&self) -> bool {
        self.set_paused(false);
        self.wait_until_written()
    }

    fn finish(&self, ending: AttemptResult) -> bool {
        if !self.host.claims().end(&self.held) {
            return false;
        }
        match &ending {
            AttemptResult::Completed(_) => log::info!("Completed execution of {}", self.name()),
            AttemptResult::Failed(why) | AttemptResult::FailedForGood(why) => {
                log::warn!(
                    "Failed execution of {}: {}",
                    self.name(),
                    crate::log_safe::LogSafe(why)
                );
            }
        }
        let run = self.me.upgrade().filter(|run| !run.log.is_empty());
        self.host.finished(self.completion(ending), run);
        true
    }

    fn noun(&self) -> &'static str {
        "job"
    }

    fn lose(&self) {
        self.host.claims().abandon(&self.held);
        log::warn!("The worker of {} was lost", self.name());
    }

    fn can_be_put_back(&self) -> bool {
        true
    }

    fn put_back(&self) {
        self.host.put_back(&self.held);
    }
}

impl Report for JobRun {
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError> {
        if self.is_stopped() {
            return Err(TaskError::stopped());
        }
        let text = |text: &str, max| (!text.is_empty()).then(|| clean(text, max));
        let mut reports = self.reports.lock();
        let new = Progress {
            progress: percent.max(reports.latest.progress),
            step: text(step, MAX_STEP),
            detail: text(description, MAX_MESSAGE),
        };
        if new == reports.latest {
            return Ok(());
        }
        reports.latest = new;
        let is_first = !std::mem::replace(&mut reports.is_announced, true);
        drop(reports);
        if is_first && let Some(me) = self.me.upgrade() {
            self.host.tell(Event::Reported(me));
        }
        Ok(())
    }

    fn log(&self, stream: LogStream, text: &str) -> Result<(), TaskError> {
        if self.is_stopped() {
            return Err(TaskError::stopped());
        }
        let (lines, is_first) = self.log.add(stream, text);
        self.host.meter().logged(&self.job.kind, lines);
        if is_first && let Some(me) = self.me.upgrade() {
            self.host.tell(Event::Logged(me));
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.host.claims().is_over(&self.held)
    }

    fn stop_handle(&self) -> StopHandle {
        let me = self.me.clone();
        StopHandle::new(move || me.upgrade().is_none_or(|run| run.is_stopped()))
    }
}

/// Cuts text to `max` bytes at a character boundary, and replaces NUL, which PostgreSQL cannot store.
fn clean(text: &str, max: usize) -> String {
    let cut = &text[..text.floor_char_boundary(max)];
    cut.replace('\0', "\u{fffd}")
}

/// 1 s, 2 s, 4 s and so on, plus or minus a quarter, so that jobs that failed together are not retried together.
fn back_off(failures: u32) -> Duration {
    let doubled = BACK_OFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
    doubled.min(MAX_BACK_OFF).mul_f64(0.75 + spread / 2.0)
}
