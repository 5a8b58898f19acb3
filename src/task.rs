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

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A task's id: a UUID version 7, so that the order of ids is the order of creation.
pub type TaskId = Uuid;

/// A moment, in milliseconds since the Unix epoch.
pub type Millis = u64;

/// The moment it is now, by the system's clock.
pub(crate) fn now_ms() -> Millis {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as Millis)
}

/// The longest session key, in characters.
pub const MAX_SESSION_KEY: usize = 128;

/// The name of one visitor's isolated world. Every task belongs to exactly one.
///
/// 1 to 128 characters of `A-Z a-z 0-9 . _ : -`. Cheap to clone.
///
/// ```
/// use async_task_system::SessionKey;
///
/// assert!(SessionKey::parse("customer-42").is_some());
/// assert!(SessionKey::parse("no spaces").is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    /// The key, or `None` where `text` is empty, too long or has another character.
    pub fn parse(text: &str) -> Option<SessionKey> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        let sane = (1..=MAX_SESSION_KEY).contains(&text.len()) && text.bytes().all(allowed);
        sane.then(|| SessionKey(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SessionKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Where a task stands.
///
/// ```
/// use async_task_system::TaskStatus;
///
/// assert_eq!(TaskStatus::parse("running"), Some(TaskStatus::Running));
/// let open = TaskStatus::ALL.into_iter().filter(|status| !status.is_final());
/// assert!(open.eq([TaskStatus::Pending, TaskStatus::Running]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum TaskStatus {
    /// Created, and not yet started or waiting for a worker. Leaves by a worker or `cancel`.
    Pending,
    /// A worker has taken it. Leaves by its executor's outcome, its time limit or `cancel`.
    Running,
    /// The executor returned. Final.
    Completed,
    /// The executor gave up, panicked or ran out of time. Leaves only by `retry`.
    Failed,
    /// Somebody called it off. Leaves only by `retry`.
    Cancelled,
}

impl TaskStatus {
    /// Every status, in the order of a task's life.
    pub const ALL: [TaskStatus; 5] = [
        TaskStatus::Pending,
        TaskStatus::Running,
        TaskStatus::Completed,
        TaskStatus::Failed,
        TaskStatus::Cancelled,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskStatus::Pending => "pending",
            TaskStatus::Running => "running",
            TaskStatus::Completed => "completed",
            TaskStatus::Failed => "failed",
            TaskStatus::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<TaskStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether the task has come to its end (which a retry may undo).
    pub fn is_final(self) -> bool {
        matches!(
            self,
            TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled
        )
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one entry of a task's history tells.
///
/// ```
/// use async_task_system::{EventKind, TaskStatus};
///
/// assert_eq!(EventKind::Retried.as_str(), "retried");
/// assert_eq!(EventKind::Completed.status(), TaskStatus::Completed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum EventKind {
    /// The task came to be.
    Created,
    /// It was handed to the workers.
    Queued,
    /// A worker began an attempt.
    Started,
    /// The executor reported a new percent or step.
    Progress,
    /// The attempt ended well.
    Completed,
    /// The attempt ended badly.
    Failed,
    /// The task was called off.
    Cancelled,
    /// A new attempt was asked for.
    Retried,
}

impl EventKind {
    /// Every kind; a kind's place is its number in the stored form.
    pub const ALL: [EventKind; 8] = [
        EventKind::Created,
        EventKind::Queued,
        EventKind::Started,
        EventKind::Progress,
        EventKind::Completed,
        EventKind::Failed,
        EventKind::Cancelled,
        EventKind::Retried,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Created => "created",
            EventKind::Queued => "queued",
            EventKind::Started => "started",
            EventKind::Progress => "progress",
            EventKind::Completed => "completed",
            EventKind::Failed => "failed",
            EventKind::Cancelled => "cancelled",
            EventKind::Retried => "retried",
        }
    }

    /// The status that a task has right after such an event.
    pub fn status(self) -> TaskStatus {
        match self {
            EventKind::Created | EventKind::Queued | EventKind::Retried => TaskStatus::Pending,
            EventKind::Started | EventKind::Progress => TaskStatus::Running,
            EventKind::Completed => TaskStatus::Completed,
            EventKind::Failed => TaskStatus::Failed,
            EventKind::Cancelled => TaskStatus::Cancelled,
        }
    }
}

/// One entry of a task's history: the audit trail's unit, and the live event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryEvent<'a> {
    /// 1 for the task's first entry, one more for each that follows, without a gap.
    pub seq: u32,
    /// When it happened; never before the entry ahead of it.
    pub at: Millis,
    /// What happened.
    #[serde(rename = "event")]
    pub kind: EventKind,
    /// The attempt it belongs to.
    pub attempt: u32,
    /// The status right after it.
    pub status: TaskStatus,
    /// The percent right after it.
    pub progress: u8,
    /// The step that was reported with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<&'a str>,
    /// The step's description, or why the task failed or was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
}

/// A task as it stands. A copy: changing it changes nothing in the store.
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
    /// Rises with each change of what a poll tells; two equal versions tell the same.
    pub version: u64,
}

/// A change that the task's present state forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// `start` of a task that is queued or running, or has ended.
    NotStartable(TaskStatus),
    /// `cancel` of a task that has ended.
    AlreadyFinished(TaskStatus),
    /// `retry` of a task that has neither failed nor been cancelled.
    NotRetryable(TaskStatus),
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
    pub(crate) fn check_queue(&self) -> Result<(), Forbidden> {
        match self.status {
            TaskStatus::Pending if !self.queued => Ok(()),
            other => Err(Forbidden::NotStartable(other)),
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
        // The clock may have been set back meanwhile.
        let now = self.started_at.map_or(now, |started| now.max(started));
        self.completed_at = Some(now);
        self.updated_at = now;
    }

    /// Whether `cancel` is allowed now.
    pub(crate) fn check_cancel(&self) -> Result<(), Forbidden> {
        match self.status {
            TaskStatus::Pending | TaskStatus::Running => Ok(()),
            other => Err(Forbidden::AlreadyFinished(other)),
        }
    }

    /// Whether `retry` is allowed now.
    pub(crate) fn check_retry(&self) -> Result<(), Forbidden> {
        match self.status {
            TaskStatus::Failed | TaskStatus::Cancelled => Ok(()),
            other => Err(Forbidden::NotRetryable(other)),
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
    fn a_clock_set_back_ends_no_task_before_its_start() {
        let mut task = task(TaskStatus::Running, false);
        task.started_at = Some(1_000);
        task.finish(10, TaskStatus::Completed);
        assert_eq!(task.completed_at, Some(1_000));
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
