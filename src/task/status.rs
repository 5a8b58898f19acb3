//! Where a task stands, and what brought it there.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::task::{Millis, ParseError};

/// Where a task stands. There are these five and no others, so that a `match` needs no `_`.
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
    ///
    /// ```
    /// use async_task_system::TaskStatus;
    ///
    /// assert_eq!(TaskStatus::ALL.map(TaskStatus::as_str).join(" "), "pending running completed failed cancelled");
    /// ```
    pub const ALL: [TaskStatus; 5] = [
        TaskStatus::Pending,
        TaskStatus::Running,
        TaskStatus::Completed,
        TaskStatus::Failed,
        TaskStatus::Cancelled,
    ];

    /// The name on the wire.
    ///
    /// ```
    /// # use async_task_system::TaskStatus;
    /// assert_eq!(TaskStatus::Failed.as_str(), "failed");
    /// ```
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
    ///
    /// ```
    /// # use async_task_system::TaskStatus;
    /// assert_eq!(TaskStatus::parse("failed"), Some(TaskStatus::Failed));
    /// assert_eq!(TaskStatus::parse("Failed"), None);
    /// ```
    pub fn parse(name: &str) -> Option<TaskStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether the task has come to its end (which a retry may undo).
    ///
    /// ```
    /// # use async_task_system::TaskStatus;
    /// assert!(TaskStatus::Cancelled.is_final());
    /// assert!(!TaskStatus::Running.is_final());
    /// ```
    pub fn is_final(self) -> bool {
        matches!(
            self,
            TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled
        )
    }
}

/// ```
/// # use async_task_system::TaskStatus;
/// assert_eq!("failed".parse(), Ok(TaskStatus::Failed));
/// ```
impl FromStr for TaskStatus {
    type Err = ParseError;

    fn from_str(name: &str) -> Result<TaskStatus, ParseError> {
        TaskStatus::parse(name).ok_or(ParseError("the name of a status"))
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Declares the kinds, each with its name on the wire and the status that a task has right after it.
/// A kind that is declared is in `ALL`, at the place of its number: a history is read back by it.
macro_rules! event_kinds {
    ($($(#[$doc:meta])+ $kind:ident = $name:literal, $status:ident;)+) => {
        /// What one entry of a task's history tells.
        ///
        /// ```
        /// use async_task_system::{EventKind, TaskStatus};
        ///
        /// assert_eq!(EventKind::Retried.as_str(), "retried");
        /// assert_eq!(EventKind::Completed.status(), TaskStatus::Completed);
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum EventKind {
            $($(#[$doc])+ $kind,)+
        }

        impl EventKind {
            /// Every kind; a kind's place is its number in the stored form.
            ///
            /// ```
            /// use async_task_system::EventKind;
            ///
            /// let ends = EventKind::ALL.iter().filter(|kind| kind.status().is_final());
            /// let names: Vec<_> = ends.map(|kind| kind.as_str()).collect();
            /// assert_eq!(names, ["completed", "failed", "cancelled"]);
            /// ```
            pub const ALL: &[EventKind] = &[$(EventKind::$kind,)+];

            /// The name on the wire.
            ///
            /// ```
            /// # use async_task_system::EventKind;
            /// assert_eq!(EventKind::Queued.as_str(), "queued");
            /// ```
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(EventKind::$kind => $name,)+
                }
            }

            /// The status that a task has right after such an event.
            ///
            /// ```
            /// # use async_task_system::{EventKind, TaskStatus};
            /// assert_eq!(EventKind::Retried.status(), TaskStatus::Pending);
            /// ```
            pub const fn status(self) -> TaskStatus {
                match self {
                    $(EventKind::$kind => TaskStatus::$status,)+
                }
            }
        }
    };
}

event_kinds! {
    /// The task came to be.
    Created = "created", Pending;
    /// It was handed to the workers.
    Queued = "queued", Pending;
    /// A worker began an attempt.
    Started = "started", Running;
    /// The executor reported a new percent or step.
    Progress = "progress", Running;
    /// The attempt ended well.
    Completed = "completed", Completed;
    /// The attempt ended badly.
    Failed = "failed", Failed;
    /// The task was called off.
    Cancelled = "cancelled", Cancelled;
    /// A new attempt was asked for.
    Retried = "retried", Pending;
    /// The executor waits for a person.
    Waiting = "waiting", Running;
    /// A person let it go on.
    Advanced = "advanced", Running;
    /// It is held between two slices.
    Paused = "paused", Running;
    /// It is held no more.
    Resumed = "resumed", Running;
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One entry of a task's history: the audit trail's unit, and the live event.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::{NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = tasks.create(&session, NewTask::new("Report"))?.id;
///
/// let first = tasks.history(&session, id, |events| {
///     events.next().map(|event| serde_json::to_value(event).expect("plain values"))
/// })?;
/// let first = first.expect("every task was created");
/// assert_eq!((&first["seq"], &first["event"]), (&1.into(), &"created".into()));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
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
    /// The step's description, why the task failed or was cancelled, or the note of who held it or let it go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
}
