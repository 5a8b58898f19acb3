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
//!
//! With [`ExecutorRegistry::typed`] and [`ExecutorRegistry::typed_blocking`] the arguments are a type of
//! your own, and what does not fit is refused when the task is created.

mod context;
mod registration;
mod registry;
mod report;
mod stop;
mod typed;
mod waker;

use std::fmt;
use std::iter::successors;
use std::time::Duration;

use serde_json::Value;

pub use context::{TaskContext, TaskInput};
pub use registration::Registration;
pub(crate) use registration::Source;
pub use registry::ExecutorRegistry;
pub use report::{Report, Signal};
pub use stop::StopHandle;
pub use waker::Waker;

pub use crate::field_error::FieldError;

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
#[non_exhaustive]
pub enum Outcome {
    /// The work is done, perhaps with a result.
    Done(Option<Value>),
    /// Call again after this pause, counted from when this call was due, so that a paced
    /// executor does not drift. One that is late is called at once. More than a year is a year.
    Again(Duration),
    /// Keep the executor, and call it again when its [`Waker`] is woken, at the latest after this time. It holds no
    /// thread meanwhile.
    Wait(Duration),
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
/// Every standard error turns into one with `?`, with its causes: `message: cause: cause`. Its text
/// is shown to clients and logged.
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
    FailedForGood(String),
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

    /// A failure that another attempt would not mend: a job is not tried again.
    ///
    /// ```
    /// # use async_task_system::TaskError;
    /// let error = TaskError::permanent("there is no such customer");
    /// assert!(error.is_permanent() && !error.is_stopped());
    /// ```
    pub fn permanent(message: impl Into<String>) -> TaskError {
        TaskError(Cause::FailedForGood(message.into()))
    }

    /// Whether another attempt would not mend this.
    ///
    /// ```
    /// # use async_task_system::TaskError;
    /// assert!(!TaskError::new("the disk is full").is_permanent());
    /// ```
    pub fn is_permanent(&self) -> bool {
        matches!(self.0, Cause::FailedForGood(_))
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
            Cause::Failed(message) | Cause::FailedForGood(message) => f.write_str(message),
        }
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskError({self})")
    }
}

/// More causes than an honest error has; some errors are their own cause.
const MAX_CAUSES: usize = 10;

/// The error's text, and after it each cause that says something new: `message: cause: cause`.
impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> TaskError {
        let mut message = error.to_string();
        let causes = successors(error.source(), |cause| cause.source());
        for cause in causes.take(MAX_CAUSES) {
            let text = cause.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
        }
        TaskError::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Told(String, Option<Box<Told>>);

    impl fmt::Display for Told {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl std::error::Error for Told {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    /// An error with these texts, each the cause of the one before it.
    fn chain<'a>(texts: impl DoubleEndedIterator<Item = &'a str>) -> Option<Box<Told>> {
        texts.rev().fold(None, |cause, text| {
            Some(Box::new(Told(text.to_owned(), cause)))
        })
    }

    #[test]
    fn an_error_keeps_its_causes_and_says_nothing_twice() {
        let told = |texts: &[&str]| {
            let error = chain(texts.iter().copied()).expect("a text");
            TaskError::from(*error).to_string()
        };
        assert_eq!(told(&["a"]), "a");
        assert_eq!(
            told(&["no report", "no file", "denied"]),
            "no report: no file: denied"
        );
        assert_eq!(
            told(&["no file: denied", "denied", "disk"]),
            "no file: denied: disk"
        );
    }

    #[test]
    fn a_chain_of_causes_without_end_has_one() {
        let texts: Vec<String> = (1_000..2_000).map(|n| n.to_string()).collect();
        let error = chain(texts.iter().map(String::as_str)).expect("a text");
        let text = TaskError::from(*error).to_string();
        assert_eq!(text.split(": ").count(), 1 + MAX_CAUSES);
    }
}
