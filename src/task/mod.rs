//! What a task is: plain values, and the transitions between its states.
//!
//! ```text
//! created ─▶ pending ─start▶ pending (queued) ─▶ running ─▶ completed
//!               │               │                  ├──────▶ failed ────┐
//!               └────cancel─────┴──────cancel──────┴──────▶ cancelled ─┤
//!                               ▲                                      │
//!                               └──────────────── retry ───────────────┘
//! ```
//!
//! Nothing here locks, allocates an id or writes history: the [store](crate::store) does that
//! around these transitions, so that they can be read and tested on their own.

mod log_line;
mod parse_error;
mod session_key;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use uuid::Uuid;

pub use log_line::{LogLine, LogStream};
pub use parse_error::ParseError;
pub use session_key::{MAX_SESSION_KEY, SessionKey};
pub use status::{EventKind, HistoryEvent, TaskStatus};

/// A task's id: a UUID version 7, so that the order of ids is the order of creation.
///
/// ```
/// use async_task_system::TaskId;
///
/// let (first, second) = (TaskId::now_v7(), TaskId::now_v7());
/// assert!(first < second);
/// assert_eq!(TaskId::parse_str(&first.to_string()), Ok(first));
/// ```
pub type TaskId = Uuid;

/// A moment, in milliseconds since the Unix epoch.
///
/// ```
/// use async_task_system::task::Millis;
/// use std::time::{Duration, SystemTime};
///
/// let created_at: Millis = 1_767_225_600_000;
/// let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(created_at);
/// assert_eq!(httpdate::fmt_http_date(moment), "Thu, 01 Jan 2026 00:00:00 GMT");
/// ```
pub type Millis = u64;

/// The type of a task that names none.
///
/// ```
/// use async_task_system::{NewTask, TaskInput, store::DEFAULT_KIND};
///
/// assert_eq!(&*TaskInput::from(&NewTask::new("Report")).kind, DEFAULT_KIND);
/// ```
pub const DEFAULT_KIND: &str = "sample";

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum AttemptResult {
    Completed(Option<Box<RawValue>>),
    Failed(String),
    /// Another attempt would not mend it.
    FailedForGood(String),
}

/// The moment it is now, by the system's clock.
pub(crate) fn now_ms() -> Millis {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as Millis)
}

/// `from` plus `by`, which is capped at one year so that the addition cannot overflow.
pub(crate) fn later(from: Instant, by: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
    from + by.min(YEAR)
}

/// A task as it stands. A copy: changing it changes nothing in the store.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::{NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let created = tasks.create(&session, NewTask::new("Report").description("of June"))?;
///
/// assert_eq!((&*created.name, created.description.as_deref()), ("Report", Some("of June")));
/// assert_eq!((&*created.kind, created.attempt, created.progress), ("sample", 1, 0));
/// assert_eq!(created.created_at, created.updated_at);
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The session it belongs to.
    pub session: SessionKey,
    /// What people call it.
    pub name: Box<str>,
    /// More words about it.
    pub description: Option<Box<str>>,
    /// Where it stands.
    pub status: TaskStatus,
    /// Percent done, 0 to 100; never falls within an attempt.
    pub progress: u8,
    /// The step last reported.
    pub step: Option<Box<str>>,
    /// That step's description.
    pub step_description: Option<Box<str>>,
    /// When it was created.
    pub created_at: Millis,
    /// When anything about it last changed.
    pub updated_at: Millis,
    /// When the current attempt began to run.
    pub started_at: Option<Millis>,
    /// When it reached a final status.
    pub completed_at: Option<Millis>,
    /// Why it failed or was stopped.
    pub error: Option<Box<str>>,
    /// What its executor returned.
    pub result: Option<Box<RawValue>>,
    /// The client's own JSON object, to the letter.
    pub metadata: Option<Box<RawValue>>,
    /// The type, which names the executor.
    pub kind: Arc<str>,
    /// 1 on the first run, one more for each retry.
    pub attempt: u32,
    /// How long an attempt may run, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Whether it is `pending` and already in the workers' queue.
    pub queued: bool,
    /// Whether it waits for a person: see [`TaskContext::signal`](crate::TaskContext::signal).
    pub waiting: bool,
    /// Whether it is held between two slices.
    pub paused: bool,
    /// Rises with each change of what a poll tells; two equal versions tell the same.
    pub version: u64,
}

/// A change that the task's present state forbids.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::task::TransitionError;
/// # use async_task_system::{NewTask, StoreError, SessionKey, TaskStatus, TaskSystem};
/// let system = TaskSystem::start(&Default::default(), Default::default())?;
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
/// system.execution().cancel(&session, id)?;
///
/// let again = system.execution().cancel(&session, id).expect_err("it has ended");
/// assert_eq!(again, StoreError::TransitionError(TransitionError::AlreadyFinished(TaskStatus::Cancelled)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransitionError {
    /// `start` of a task that is queued or running, or has ended.
    NotStartable(TaskStatus),
    /// `cancel` of a task that has ended.
    AlreadyFinished(TaskStatus),
    /// `retry` of a task that has neither failed nor been cancelled.
    NotRetryable(TaskStatus),
    /// `advance` of a task that does not wait for a person.
    NotWaiting,
    /// `pause` or `fail` of a task that does not run.
    NotRunning(TaskStatus),
    /// `resume` of a task that is not paused.
    NotPaused,
}

/// How a report changed a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Neither percent nor step is new.
    Nothing,
    /// A new step within the same percent.
    Step,
    /// A higher percent.
    Percent,
}

impl Task {
    /// Whether `start` is allowed now.
    pub(crate) fn check_queue(&self) -> Result<(), TransitionError> {
        match self.status {
            TaskStatus::Pending if !self.queued => Ok(()),
            other => Err(TransitionError::NotStartable(other)),
        }
    }

    /// `pending` → queued; after [`check_queue`](Self::check_queue).
    pub(crate) fn queue(&mut self, now: Millis) {
        debug_assert!(self.check_queue().is_ok());
        self.queued = true;
        self.updated_at = now;
    }

    /// Queued → `running`; false where this is not the attempt that was queued.
    pub(crate) fn begin(&mut self, now: Millis, attempt: u32) -> bool {
        let awaited = self.queued && self.attempt == attempt;
        if awaited {
            self.queued = false;
            self.status = TaskStatus::Running;
            self.started_at = Some(now);
            self.updated_at = now;
        }
        awaited
    }

    /// Whether `attempt` is running now, so that its reports count.
    pub(crate) fn is_running(&self, attempt: u32) -> bool {
        self.status == TaskStatus::Running && self.attempt == attempt
    }

    /// What a report of `percent`, `step` and `description` would change.
    pub(crate) fn compare(&self, percent: u8, step: &str, description: &str) -> Change {
        if percent > self.progress {
            Change::Percent
        } else if self.step.as_deref().unwrap_or_default() != step
            || self.step_description.as_deref().unwrap_or_default() != description
        {
            Change::Step
        } else {
            Change::Nothing
        }
    }

    /// Puts a step in place of the one before; empty texts are left out.
    pub(crate) fn set_step(&mut self, step: &str, description: &str) {
        let text = |text: &str| (!text.is_empty()).then(|| text.into());
        self.step = text(step);
        self.step_description = text(description);
    }

    /// To a final status; a completed task is at 100 %.
    pub(crate) fn finish(&mut self, now: Millis, status: TaskStatus) {
        debug_assert!(status.is_final());
        if status == TaskStatus::Completed {
            self.progress = 100;
        }
        self.status = status;
        self.queued = false;
        self.waiting = false;
        self.paused = false;
        self.completed_at = Some(now);
        self.updated_at = now;
    }

    /// Whether `cancel` is allowed now.
    pub(crate) fn check_cancel(&self) -> Result<(), TransitionError> {
        match self.status {
            TaskStatus::Pending | TaskStatus::Running => Ok(()),
            other => Err(TransitionError::AlreadyFinished(other)),
        }
    }

    /// Whether `retry` is allowed now.
    pub(crate) fn check_retry(&self) -> Result<(), TransitionError> {
        match self.status {
            TaskStatus::Failed | TaskStatus::Cancelled => Ok(()),
            other => Err(TransitionError::NotRetryable(other)),
        }
    }

    /// `failed` or `cancelled` → queued, as a new attempt with a clean slate; after
    /// [`check_retry`](Self::check_retry).
    pub(crate) fn retry(&mut self, now: Millis) {
        debug_assert!(self.check_retry().is_ok());
        self.status = TaskStatus::Pending;
        self.queued = true;
        self.attempt += 1;
        self.progress = 0;
        self.step = None;
        self.step_description = None;
        self.error = None;
        self.result = None;
        self.started_at = None;
        self.completed_at = None;
        self.updated_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(status: TaskStatus, queued: bool) -> Task {
        Task {
            id: Uuid::nil(),
            session: SessionKey::parse("s").expect("valid"),
            name: "t".into(),
            description: None,
            status,
            progress: 40,
            step: Some("Step".into()),
            step_description: None,
            created_at: 1,
            updated_at: 1,
            started_at: Some(1),
            completed_at: None,
            error: Some("why".into()),
            result: None,
            metadata: None,
            kind: "sample".into(),
            attempt: 1,
            timeout_ms: None,
            queued,
            waiting: false,
            paused: false,
            version: 0,
        }
    }

    #[test]
    fn only_the_contracts_transitions_exist() {
        use TaskStatus::*;
        for status in TaskStatus::ALL {
            for queued in [false, true] {
                if queued && status != Pending {
                    continue;
                }
                let fresh = || task(status, queued);
                assert_eq!(
                    fresh().check_queue().is_ok(),
                    status == Pending && !queued,
                    "start from {status}"
                );
                assert_eq!(
                    fresh().begin(2, 1),
                    status == Pending && queued,
                    "begin from {status}"
                );
                assert_eq!(
                    fresh().check_cancel().is_ok(),
                    matches!(status, Pending | Running),
                    "cancel from {status}"
                );
                assert_eq!(
                    fresh().check_retry().is_ok(),
                    matches!(status, Failed | Cancelled),
                    "retry from {status}"
                );
            }
        }
    }

    #[test]
    fn a_retry_clears_what_the_attempt_left() {
        let mut task = task(TaskStatus::Failed, false);
        task.retry(9);
        assert_eq!((task.attempt, task.progress, task.queued), (2, 0, true));
        assert!(task.step.is_none() && task.error.is_none());
        assert!(task.started_at.is_none() && task.completed_at.is_none());
    }

    #[test]
    fn another_attempt_does_not_begin() {
        let mut task = task(TaskStatus::Pending, true);
        assert!(!task.begin(2, 2));
        assert!(task.begin(2, 1));
        assert!(task.is_running(1) && !task.is_running(2));
    }

    #[test]
    fn progress_only_rises() {
        let task = task(TaskStatus::Running, false);
        assert_eq!(task.compare(41, "Step", ""), Change::Percent);
        assert_eq!(task.compare(40, "Step", ""), Change::Nothing);
        assert_eq!(task.compare(10, "Step", ""), Change::Nothing);
        assert_eq!(task.compare(10, "Next", ""), Change::Step);
    }

    #[test]
    fn session_keys_take_only_what_the_contract_lists() {
        for good in ["a", "A-z.0_9:x", &"k".repeat(128)] {
            assert!(SessionKey::parse(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", "a\n", &"k".repeat(129)] {
            assert!(SessionKey::parse(bad).is_none(), "{bad}");
        }
    }
}
