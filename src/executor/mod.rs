//! What runs a task: the trait that users implement, and what it is given.
//!
//! An executor knows neither HTTP nor where its task is kept. It talks to a [`TaskContext`],
//! which talks to [`Report`]; whoever runs executors implements that narrow trait.
//!
//! Choose how an executor runs by what it does while it waits:
//!
//! - **Sliced**: do a little, return [`Outcome::Again`] with a pause, keep the state in `self`.
//!   The pause holds no thread, so four workers carry thousands of such tasks. Right for
//!   polling, pacing, waiting for others. Register with [`ExecutorRegistry::register`].
//! - **Blocking**: do it all in one call. Right for computing, reading files, calling a blocking
//!   client. One that runs longer than about a tenth of a second belongs under
//!   [`ExecutorRegistry::register_blocking`]: such executors together never take the last
//!   worker, so that sliced ones keep their pace beside them.

mod context;
mod registry;

use std::any::Any;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

pub use context::{Report, TaskContext, TaskInput};
pub(crate) use registry::Registration;
pub use registry::{ExecutorRegistry, FieldError};

/// Work that can be shown while it happens. One value serves one attempt.
///
/// ```
/// use async_task_system::{Outcome, TaskContext, TaskError, TaskExecutor};
/// use serde_json::json;
/// use std::time::Duration;
///
/// struct Countdown { left: u8 }
///
/// impl TaskExecutor for Countdown {
///     fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
///         if self.left == 0 {
///             return Ok(Outcome::done(json!({ "lifted": "off" })));
///         }
///         ctx.progress(100 - self.left * 10, &format!("T minus {}", self.left), "")?;
///         self.left -= 1;
///         Ok(Outcome::Again(Duration::from_secs(1)))
///     }
/// }
/// ```
pub trait TaskExecutor: Send {
    /// Does the work, or a slice of it.
    ///
    /// # Errors
    ///
    /// Any error fails the attempt with its text. The error that [`TaskContext::progress`]
    /// returns means that the attempt is over already (cancelled, timed out, superseded):
    /// hand it on with `?` and clean up in `Drop`.
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError>;
}

/// A closure is an executor too.
///
/// ```
/// use async_task_system::{Outcome, TaskContext, TaskExecutor};
///
/// fn takes(_: impl TaskExecutor) {}
/// takes(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None)));
/// ```
impl<F> TaskExecutor for F
where
    F: FnMut(&mut TaskContext<'_>) -> Result<Outcome, TaskError> + Send,
{
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        self(ctx)
    }
}

/// How one call of [`TaskExecutor::run`] ended.
///
/// ```
/// use async_task_system::Outcome;
///
/// let result = serde_json::json!({ "rows": 3 });
/// assert_eq!(Outcome::done(result.clone()), Outcome::Done(Some(result)));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The work is done, perhaps with a result.
    Done(Option<Value>),
    /// Call again after this pause, counted from when this call was due, so that a paced
    /// executor does not drift. One that is late is called at once. More than a year is a year.
    Again(Duration),
}

impl Outcome {
    /// Done, with a result that clients will read as JSON.
    ///
    /// ```
    /// # use async_task_system::Outcome;
    /// let outcome = Outcome::done(serde_json::json!({ "rows": 3 }));
    /// assert_ne!(outcome, Outcome::Done(None));
    /// ```
    pub fn done(result: Value) -> Outcome {
        Outcome::Done(Some(result))
    }
}

/// Why an attempt ended without an outcome.
///
/// Every standard error turns into one with `?`. Its text is shown to clients and logged.
///
/// ```
/// use async_task_system::TaskError;
///
/// fn read(text: &str) -> Result<u32, TaskError> {
///     match text.parse()? {
///         0 => Err(TaskError::new("nothing to do")),
///         number => Ok(number),
///     }
/// }
///
/// assert_eq!(read("x").unwrap_err().to_string(), "invalid digit found in string");
/// assert!(!read("0").unwrap_err().is_stopped());
/// ```
pub struct TaskError(Cause);

enum Cause {
    Stopped,
    Failed(String),
}

impl TaskError {
    /// A failure with a message for the task's owner.
    ///
    /// ```
    /// # use async_task_system::TaskError;
    /// assert_eq!(TaskError::new("the disk is full").to_string(), "the disk is full");
    /// ```
    pub fn new(message: impl Into<String>) -> TaskError {
        TaskError(Cause::Failed(message.into()))
    }

    /// The attempt is over and nobody waits for it: cancelled, timed out or superseded.
    ///
    /// ```
    /// # use async_task_system::TaskError;
    /// assert!(TaskError::stopped().is_stopped());
    /// ```
    pub fn stopped() -> TaskError {
        TaskError(Cause::Stopped)
    }

    /// Whether this says that the attempt was stopped from outside.
    ///
    /// ```
    /// # use async_task_system::TaskError;
    /// assert!(!TaskError::new("no such file").is_stopped());
    /// ```
    pub fn is_stopped(&self) -> bool {
        matches!(self.0, Cause::Stopped)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Stopped => f.write_str("the attempt was stopped"),
            Cause::Failed(message) => f.write_str(message),
        }
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskError({self})")
    }
}

impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> TaskError {
        TaskError::new(error.to_string())
    }
}

/// What a panic said, for the log only: clients never see it.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
