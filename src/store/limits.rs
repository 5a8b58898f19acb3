//! How much the store may hold, and how it refuses.

use std::fmt;
use std::time::Duration;

use crate::executor::FieldError;
use crate::task::{TaskStatus, TransitionError};

/// How much the store may hold, and for how long.
///
/// ```
/// use async_task_system::store::Limits;
/// use async_task_system::{NewTask, StoreError, SessionKey, TaskManager};
///
/// let mut limits = Limits::default();
/// limits.max_tasks_per_session = 1;
/// let tasks = TaskManager::new(limits, None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// tasks.create(&session, NewTask::new("One"))?;
/// let refused = tasks.create(&session, NewTask::new("Two")).expect_err("one too many");
/// assert_eq!(refused, StoreError::SessionTaskLimit(1));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Sessions at once.
    pub max_sessions: usize,
    /// A session without work in flight is dropped after this long without a request.
    pub session_timeout: Duration,
    /// Tasks in one session.
    pub max_tasks_per_session: usize,
    /// Bytes of all tasks, with their history.
    pub max_store_bytes: usize,
    /// Bytes of one task's log; its oldest lines leave.
    pub max_log_bytes: usize,
    /// Completed tasks that a cleanup keeps in each session.
    pub max_completed_tasks: usize,
    /// Failed tasks that a cleanup keeps in each session.
    pub max_failed_tasks: usize,
    /// Cancelled tasks that a cleanup keeps in each session.
    pub max_cancelled_tasks: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_sessions: 1_000,
            session_timeout: Duration::from_secs(30 * 60),
            max_tasks_per_session: 10_000,
            max_store_bytes: 256 << 20,
            max_log_bytes: 65_536,
            max_completed_tasks: 50,
            max_failed_tasks: 20,
            max_cancelled_tasks: 20,
        }
    }
}

/// Why the store did not do what was asked. Nothing has changed.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::{StoreError, NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let nobody = async_task_system::TaskId::nil();
/// let refused = tasks.get(&session, nobody).expect_err("no such task");
/// assert_eq!(refused, StoreError::TaskNotFound);
/// assert_eq!(refused.to_string(), "Task not found");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// No such task in this session.
    TaskNotFound,
    /// The task's state forbids it.
    TransitionError(TransitionError),
    /// The task's type does not take its arguments.
    InvalidArguments(Vec<FieldError>),
    /// The session has as many tasks as it may have.
    SessionTaskLimit(usize),
    /// The store holds as many bytes as it may.
    StoreFull(usize),
    /// As many tasks are queued or running as may be.
    QueueFull(usize),
    /// As many sessions as may be have work in flight.
    TooManySessions(usize),
    /// This idempotency key came with another request before.
    IdempotencyKeyReused,
    /// The first request with this idempotency key is still being answered.
    IdempotencyKeyInUse,
    /// The server is stopping.
    Stopping,
}

impl From<TransitionError> for StoreError {
    fn from(forbidden: TransitionError) -> StoreError {
        StoreError::TransitionError(forbidden)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::TaskNotFound => f.write_str("Task not found"),
            StoreError::TransitionError(TransitionError::NotStartable(status)) => match status {
                TaskStatus::Pending | TaskStatus::Running => f.write_str("Task is already running"),
                ended => write!(f, "Task is already {ended}"),
            },
            StoreError::TransitionError(TransitionError::AlreadyFinished(status)) => {
                write!(f, "Task has already finished: it is {status}")
            }
            StoreError::TransitionError(TransitionError::NotWaiting) => {
                f.write_str("Task does not wait for a person")
            }
            StoreError::TransitionError(TransitionError::NotRunning(status)) => {
                write!(f, "Task is {status}, not running")
            }
            StoreError::TransitionError(TransitionError::NotPaused) => {
                f.write_str("Task is not paused")
            }
            StoreError::TransitionError(TransitionError::NotRetryable(status)) => write!(
                f,
                "Only failed or cancelled tasks can be retried; this one is {status}"
            ),
            StoreError::InvalidArguments(errors) => {
                let messages: Vec<_> = errors.iter().map(|error| &*error.message).collect();
                f.write_str(&messages.join("; "))
            }
            StoreError::SessionTaskLimit(max) => write!(
                f,
                "This session already has {max} tasks; clean up or use another session"
            ),
            StoreError::StoreFull(max) => {
                write!(f, "The task store is full ({max} bytes); try again later")
            }
            StoreError::QueueFull(max) => {
                write!(f, "{max} tasks are queued or running; try again later")
            }
            StoreError::TooManySessions(max) => {
                write!(f, "All {max} sessions have work in flight; try again later")
            }
            StoreError::IdempotencyKeyReused => {
                f.write_str("This idempotency key was used with another request; use a new one")
            }
            StoreError::IdempotencyKeyInUse => f.write_str(
                "The first request with this idempotency key is still being answered; try again",
            ),
            StoreError::Stopping => f.write_str("The server is stopping; try again later"),
        }
    }
}

impl std::error::Error for StoreError {}
