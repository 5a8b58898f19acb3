//! Where an attempt's reports go, and what comes back.

use crate::executor::{StopHandle, TaskError};
use crate::task::LogStream;

/// Takes an attempt's reports. The engine implements it over memory.
///
/// ```
/// use async_task_system::{NewTask, Outcome, Report, TaskContext, TaskError, TaskExecutor, TaskInput};
///
/// /// A task that was cancelled meanwhile.
/// struct Cancelled;
///
/// impl Report for Cancelled {
///     fn progress(&self, _: u8, _: &str, _: &str) -> Result<(), TaskError> {
///         Err(TaskError::stopped())
///     }
///
///     fn is_stopped(&self) -> bool {
///         true
///     }
/// }
///
/// let mut executor = |ctx: &mut TaskContext<'_>| {
///     ctx.progress(10, "Begun", "")?;
///     Ok(Outcome::Done(None))
/// };
/// let input = TaskInput::from(&NewTask::new("Report"));
/// let error = executor.run(&mut TaskContext::new(&input, &Cancelled)).expect_err("nobody waits");
/// assert!(error.is_stopped());
/// ```
pub trait Report {
    /// Records progress.
    ///
    /// # Errors
    ///
    /// [`TaskError::stopped`] once the attempt is over.
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError>;

    /// Adds lines to the task's log. By default they are dropped.
    ///
    /// # Errors
    ///
    /// [`TaskError::stopped`] once the attempt is over.
    fn log(&self, stream: LogStream, text: &str) -> Result<(), TaskError> {
        let _ = (stream, text);
        Ok(())
    }

    /// What a person has said since the attempt waits for one. If nothing, it waits from now on. By default nobody says
    /// anything.
    fn signal(&self) -> Option<Signal> {
        None
    }

    /// Whether the attempt is over.
    fn is_stopped(&self) -> bool;

    /// A handle that tells other threads the same. By default it tells what is so now.
    fn stop_handle(&self) -> StopHandle {
        let is_stopped = self.is_stopped();
        StopHandle::new(move || is_stopped)
    }
}

/// What a person has said to an attempt that waited for one.
///
/// ```
/// use async_task_system::executor::Signal;
///
/// assert_eq!(Signal::new("the budget is fine").note, "the budget is fine");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signal {
    /// The person's words; empty for none.
    pub note: String,
}

impl Signal {
    /// A signal with these words, for tests of executors.
    ///
    /// ```
    /// # use async_task_system::executor::Signal;
    /// assert!(Signal::new("").note.is_empty());
    /// ```
    pub fn new(note: &str) -> Signal {
        Signal {
            note: note.to_owned(),
        }
    }
}
