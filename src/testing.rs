//! Tests of executors without a system around them: no thread, no clock, no port.
//!
//! ```
//! use async_task_system::testing::TestRun;
//! use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
//! use serde_json::json;
//!
//! #[derive(serde::Deserialize)]
//! struct Mailing { recipients: Vec<String> }
//!
//! let mut registry = ExecutorRegistry::new();
//! registry.typed("mailing", |mailing: &mut Mailing, ctx: &mut TaskContext<'_>| {
//!     ctx.each("Sending", &mailing.recipients, |_| Ok(()))?;
//!     Ok(Outcome::done(json!({ "sent": mailing.recipients.len() })))
//! });
//!
//! let arguments = json!({ "recipients": ["ann", "bob"] });
//! let run = TestRun::of_type(&registry, "mailing").arguments(&arguments).run();
//! assert_eq!(run.percents(), [0, 50]);
//! assert_eq!(run.reports[1].step, "Sending");
//! assert_eq!(run.result?, Some(json!({ "sent": 2 })));
//! # Ok::<(), async_task_system::TaskError>(())
//! ```

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::to_raw_value;

use crate::executor::{
    ExecutorRegistry, Outcome, Report, StopHandle, TaskContext, TaskError, TaskExecutor, TaskInput,
    Waker,
};
use crate::plain_text::log_lines;
use crate::task::{LogStream, TaskId};

/// An executor that is not done after so many slices never will be.
const MAX_SLICES: usize = 100_000;

type Factory = Box<dyn FnOnce(&TaskInput) -> Result<Box<dyn TaskExecutor>, TaskError>>;

/// One attempt, run on this thread from its first slice to its end. Pauses are noted and not waited
/// for; a panic of the executor is one of the test.
///
/// ```
/// use async_task_system::testing::TestRun;
/// use async_task_system::{Outcome, TaskContext};
///
/// let run = TestRun::of(|ctx: &mut TaskContext<'_>| {
///     ctx.progress(50, "Greeting", "half-way")?;
///     Ok(Outcome::done("hello".into()))
/// })
/// .run();
/// assert_eq!((run.percents(), run.result?), (vec![50], Some("hello".into())));
/// # Ok::<(), async_task_system::TaskError>(())
/// ```
#[must_use = "it does nothing until `run` is called"]
pub struct TestRun {
    factory: Factory,
    input: TaskInput,
    stop_after: usize,
}

impl TestRun {
    /// Runs this executor.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{Outcome, TaskContext};
    /// let run = TestRun::of(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))).run();
    /// assert!(run.reports.is_empty());
    /// ```
    pub fn of(executor: impl TaskExecutor + 'static) -> TestRun {
        TestRun::of_factory(|_| Ok(executor))
    }

    /// Runs the executor that `factory` makes of the input, as one that is registered with
    /// [`ExecutorRegistry::register`].
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{Outcome, TaskContext, TaskError, TaskExecutor};
    /// #[derive(serde::Deserialize)]
    /// struct Lines(Vec<String>);
    ///
    /// impl TaskExecutor for Lines {
    ///     fn run(&mut self, _: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///         Ok(Outcome::done(self.0.len().into()))
    ///     }
    /// }
    ///
    /// let run = TestRun::of_factory(|input| input.arguments::<Lines>());
    /// let run = run.arguments(&serde_json::json!(["a", "b"])).run();
    /// assert_eq!(run.result?, Some(2.into()));
    /// # Ok::<(), TaskError>(())
    /// ```
    pub fn of_factory<F, E>(factory: F) -> TestRun
    where
        F: FnOnce(&TaskInput) -> Result<E, TaskError> + 'static,
        E: TaskExecutor + 'static,
    {
        TestRun::new("test", Box::new(|input| Ok(Box::new(factory(input)?))))
    }

    /// Runs what `registry` has for the type `kind`, after its checks. Arguments that a check refuses,
    /// and a type that is not registered, are the run's error.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
    /// #[derive(serde::Deserialize)]
    /// struct Report { month: u8 }
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry.typed("report", |_: &mut Report, _: &mut TaskContext<'_>| Ok(Outcome::Done(None)));
    /// let refused = TestRun::of_type(&registry, "report").run().result.unwrap_err();
    /// assert_eq!(refused.to_string(), "month is required");
    /// ```
    pub fn of_type(registry: &ExecutorRegistry, kind: &str) -> TestRun {
        let registration = registry.get(kind).cloned();
        let factory = move |input: &TaskInput| {
            let registration = registration
                .ok_or_else(|| TaskError::new(format!("no such type: {}", input.kind)))?;
            registration.check_task(input).map_err(|errors| {
                let messages = errors.into_iter().map(|error| error.message);
                TaskError::new(messages.collect::<Vec<_>>().join("; "))
            })?;
            (registration.factory)(input)
        };
        TestRun::new(kind, Box::new(factory))
    }

    fn new(kind: &str, factory: Factory) -> TestRun {
        TestRun {
            factory,
            input: TaskInput::new(TaskId::now_v7(), kind.into(), "A test".into(), 1, None),
            stop_after: usize::MAX,
        }
    }

    /// Gives it these arguments.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{Outcome, TaskContext};
    /// let run = TestRun::of(|ctx: &mut TaskContext<'_>| Ok(Outcome::done(ctx.arguments()?)));
    /// let arguments = serde_json::json!({ "month": 6 });
    /// assert_eq!(run.arguments(&arguments).run().result?, Some(arguments));
    /// # Ok::<(), async_task_system::TaskError>(())
    /// ```
    pub fn arguments(mut self, arguments: &Value) -> TestRun {
        // A Value can always be written.
        self.input.arguments = to_raw_value(arguments).ok();
        self
    }

    /// Runs it as this attempt; without it, as the first.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{Outcome, TaskContext};
    /// let run = TestRun::of(|ctx: &mut TaskContext<'_>| Ok(Outcome::done(ctx.input().attempt.into())));
    /// assert_eq!(run.attempt(3).run().result?, Some(3.into()));
    /// # Ok::<(), async_task_system::TaskError>(())
    /// ```
    pub fn attempt(mut self, number: u32) -> TestRun {
        self.input.attempt = number;
        self
    }

    /// Stops the attempt once it has reported so many times, as a cancel would.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{Outcome, TaskContext};
    /// let run = TestRun::of(|ctx: &mut TaskContext<'_>| {
    ///     for percent in 0..100 {
    ///         ctx.progress(percent, "Counting", "")?;
    ///     }
    ///     Ok(Outcome::Done(None))
    /// });
    /// let run = run.stop_after(2).run();
    /// assert_eq!(run.percents(), [0, 1]);
    /// assert!(run.result.unwrap_err().is_stopped());
    /// ```
    pub fn stop_after(mut self, reports: usize) -> TestRun {
        self.stop_after = reports;
        self
    }

    /// Runs it to its end.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{Outcome, TaskContext, TaskError};
    /// let run = TestRun::of(|_: &mut TaskContext<'_>| -> Result<Outcome, TaskError> {
    ///     Err(TaskError::new("the disk is full"))
    /// });
    /// assert_eq!(run.run().result.unwrap_err().to_string(), "the disk is full");
    /// ```
    pub fn run(self) -> Finished {
        let notes = Notes {
            reports: Arc::default(),
            log: Mutex::default(),
            stop_after: self.stop_after,
        };
        let mut pauses = Vec::new();
        let made = (self.factory)(&self.input);
        let result = made
            .and_then(|mut executor| run_to_end(&mut *executor, &self.input, &notes, &mut pauses));
        let reports = std::mem::take(&mut *notes.reports.lock());
        Finished {
            reports,
            log: notes.log.into_inner(),
            pauses,
            result,
        }
    }
}

/// Calls the executor as the engine would, without its pauses.
fn run_to_end(
    executor: &mut dyn TaskExecutor,
    input: &TaskInput,
    notes: &Notes,
    pauses: &mut Vec<Duration>,
) -> Result<Option<Value>, TaskError> {
    let (woken, wakes) = crossbeam_channel::bounded(1);
    let waker = Waker::new(move || {
        let _ = woken.try_send(());
    });
    let make_waker = || waker.clone();
    while pauses.len() < MAX_SLICES {
        let mut ctx = TaskContext::with_waker(input, notes, &make_waker);
        match executor.run(&mut ctx)? {
            Outcome::Done(result) => return Ok(result),
            Outcome::Again(pause) => pauses.push(pause),
            // Other threads work meanwhile, so this waits as the engine does.
            Outcome::Wait(at_most) => {
                let _ = wakes.recv_timeout(at_most);
                pauses.push(at_most);
            }
        }
        // The engine calls an executor no more whose task is over.
        if notes.is_stopped() {
            return Err(TaskError::stopped());
        }
    }
    let message = format!("it is not done after {MAX_SLICES} slices");
    Err(TaskError::new(message))
}

/// What a [`TestRun`] came to.
///
/// ```
/// # use async_task_system::testing::{Finished, TestRun};
/// # use async_task_system::{Outcome, TaskContext};
/// # use std::time::Duration;
/// let mut slices = 0;
/// let run: Finished = TestRun::of(move |_: &mut TaskContext<'_>| {
///     slices += 1;
///     Ok(match slices {
///         3 => Outcome::Done(None),
///         _ => Outcome::Again(Duration::from_secs(60)),
///     })
/// })
/// .run();
/// assert_eq!(run.pauses, [Duration::from_secs(60); 2]);
/// assert_eq!(run.result?, None);
/// # Ok::<(), async_task_system::TaskError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished {
    /// What it reported, in order.
    pub reports: Vec<Reported>,
    /// The lines of its log, in order.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{LogStream, Outcome, TaskContext};
    /// let run = TestRun::of(|ctx: &mut TaskContext<'_>| {
    ///     ctx.log_from(LogStream::Out, "one\ntwo\n")?;
    ///     Ok(Outcome::Done(None))
    /// });
    /// let [one, two] = &run.run().log[..] else { panic!("two lines") };
    /// assert_eq!(one, &(LogStream::Out, "one".to_owned()));
    /// ```
    pub log: Vec<(LogStream, String)>,
    /// The pauses that it asked for, one a slice except for the last.
    pub pauses: Vec<Duration>,
    /// Its result, or why it failed.
    pub result: Result<Option<Value>, TaskError>,
}

impl Finished {
    /// The percents of its reports.
    ///
    /// ```
    /// # use async_task_system::testing::TestRun;
    /// # use async_task_system::{Outcome, TaskContext};
    /// let run = TestRun::of(|ctx: &mut TaskContext<'_>| {
    ///     ctx.each("Copying", ["a", "b", "c"], |_| Ok(()))?;
    ///     Ok(Outcome::Done(None))
    /// });
    /// assert_eq!(run.run().percents(), [0, 33, 66]);
    /// ```
    pub fn percents(&self) -> Vec<u8> {
        self.reports.iter().map(|report| report.percent).collect()
    }
}

/// One report of a [`TestRun`].
///
/// ```
/// # use async_task_system::testing::TestRun;
/// # use async_task_system::{Outcome, TaskContext};
/// let run = TestRun::of(|ctx: &mut TaskContext<'_>| {
///     ctx.progress(40, "Reading", "file 2 of 5")?;
///     Ok(Outcome::Done(None))
/// })
/// .run();
/// let report = &run.reports[0];
/// assert_eq!((report.percent, &*report.step, &*report.description), (40, "Reading", "file 2 of 5"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reported {
    /// The percent.
    pub percent: u8,
    /// The step's name.
    pub step: String,
    /// The step's description.
    pub description: String,
}

/// Takes a run's reports, and stops it after so many.
struct Notes {
    reports: Arc<Mutex<Vec<Reported>>>,
    log: Mutex<Vec<(LogStream, String)>>,
    stop_after: usize,
}

impl Report for Notes {
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError> {
        let mut reports = self.reports.lock();
        if reports.len() >= self.stop_after {
            return Err(TaskError::stopped());
        }
        reports.push(Reported {
            percent,
            step: step.to_owned(),
            description: description.to_owned(),
        });
        Ok(())
    }

    fn log(&self, stream: LogStream, text: &str) -> Result<(), TaskError> {
        if self.is_stopped() {
            return Err(TaskError::stopped());
        }
        let lines = log_lines(text).map(|line| (stream, line.into_owned()));
        self.log.lock().extend(lines);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.reports.lock().len() >= self.stop_after
    }

    fn stop_handle(&self) -> StopHandle {
        let (reports, stop_after) = (self.reports.clone(), self.stop_after);
        StopHandle::new(move || reports.lock().len() >= stop_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_told_to_other_threads() {
        let run = TestRun::of(|ctx: &mut TaskContext<'_>| {
            let stop = ctx.stop_handle();
            let before = stop.is_stopped();
            ctx.progress(1, "Begun", "")?;
            Ok(Outcome::done(serde_json::json!([
                before,
                stop.is_stopped()
            ])))
        });
        let result = run.stop_after(1).run().result.expect("it returned");
        assert_eq!(result, Some(serde_json::json!([false, true])));
    }

    #[test]
    fn an_executor_that_is_never_done_ends() {
        let again = |_: &mut TaskContext<'_>| Ok(Outcome::Again(Duration::from_secs(1)));
        let run = TestRun::of(again).run();
        assert_eq!(run.pauses.len(), MAX_SLICES);
        assert!(!run.result.expect_err("it is never done").is_stopped());
        let stopped = TestRun::of(again).stop_after(0).run();
        assert!(stopped.result.expect_err("it is stopped").is_stopped());
    }
}
