//! What an attempt is given: its input, and the way to report.

use std::any::Any;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::executor::{Report, Signal, StopHandle, TaskError, Waker};
use crate::task::{LogStream, SessionKey, TaskId};

/// What an attempt is given to work on.
///
/// ```
/// use async_task_system::{NewTask, TaskInput};
///
/// let input = TaskInput::from(&NewTask::new("Import").kind("import"));
/// assert_eq!((&*input.name, &*input.kind, input.attempt), ("Import", "import", 1));
/// assert!(input.arguments.is_none());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct TaskInput {
    /// The task's id.
    pub id: TaskId,
    /// The task's type.
    pub kind: Arc<str>,
    /// The task's name.
    pub name: Box<str>,
    /// 1 on the first run, one more for each retry.
    pub attempt: u32,
    /// The arguments: a task's `metadata`, a job's `arguments`.
    pub arguments: Option<Box<RawValue>>,
    /// The session of a task; `None` for a job.
    pub session: Option<SessionKey>,
    /// The user of a job; `None` for a job of the system, and for a task.
    pub user: Option<Box<str>>,
    /// Its place among the attempts of its type, if that has a limit. Whoever keeps a clone keeps it occupied.
    pub(crate) place: Option<Arc<dyn Any + Send + Sync>>,
}

impl TaskInput {
    pub(crate) fn new(
        id: TaskId,
        kind: Arc<str>,
        name: Box<str>,
        attempt: u32,
        arguments: Option<Box<RawValue>>,
    ) -> TaskInput {
        TaskInput {
            id,
            kind,
            name,
            attempt,
            arguments,
            session: None,
            user: None,
            place: None,
        }
    }

    /// The arguments as a type of your own; absent arguments read as `{}`.
    ///
    /// ```
    /// use async_task_system::{NewTask, TaskInput};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Report { month: String }
    ///
    /// let arguments = serde_json::json!({ "month": "2026-10" });
    /// let input = TaskInput::from(&NewTask::new("Report").metadata(&arguments));
    /// assert_eq!(input.arguments::<Report>()?.month, "2026-10");
    ///
    /// let none = TaskInput::from(&NewTask::new("Report"));
    /// let why = none.arguments::<Report>().err().expect("month is missing").to_string();
    /// assert!(why.starts_with("the arguments do not fit: missing field `month`"));
    /// # Ok::<(), async_task_system::TaskError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Says what is missing or wrong, in serde's words.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        serde_json::from_str(self.arguments_json())
            .map_err(|error| TaskError::new(format!("the arguments do not fit: {error}")))
    }

    pub(super) fn arguments_json(&self) -> &str {
        self.arguments.as_deref().map_or("{}", RawValue::get)
    }
}

/// An executor's view of its attempt: what to work on, and where to report.
///
/// ```
/// use async_task_system::{Outcome, TaskContext, TaskError};
///
/// #[derive(serde::Deserialize)]
/// struct Arguments { files: Vec<String> }
///
/// fn copy(ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
///     let Arguments { files } = ctx.arguments()?;
///     for (done, file) in files.iter().enumerate() {
///         ctx.progress((done * 100 / files.len()) as u8, "Copying", file)?;
///     }
///     Ok(Outcome::Done(None))
/// }
/// ```
pub struct TaskContext<'a> {
    input: &'a TaskInput,
    report: &'a dyn Report,
    make_waker: &'a dyn Fn() -> Waker,
}

impl<'a> TaskContext<'a> {
    /// A context over `report`; tests of executors bring their own.
    ///
    /// ```
    /// use async_task_system::{NewTask, Report, TaskContext, TaskError, TaskInput};
    /// use std::cell::RefCell;
    ///
    /// #[derive(Default)]
    /// struct Reports(RefCell<Vec<u8>>);
    ///
    /// impl Report for Reports {
    ///     fn progress(&self, percent: u8, _: &str, _: &str) -> Result<(), TaskError> {
    ///         self.0.borrow_mut().push(percent);
    ///         Ok(())
    ///     }
    ///
    ///     fn is_stopped(&self) -> bool {
    ///         false
    ///     }
    /// }
    ///
    /// let (input, reports) = (TaskInput::from(&NewTask::new("A test")), Reports::default());
    /// TaskContext::new(&input, &reports).progress(200, "Late", "")?;
    /// assert_eq!(reports.0.take(), [100]);
    /// # Ok::<(), TaskError>(())
    /// ```
    pub fn new(input: &'a TaskInput, report: &'a dyn Report) -> TaskContext<'a> {
        TaskContext::with_waker(input, report, &|| Waker::new(|| {}))
    }

    pub(crate) fn with_waker(
        input: &'a TaskInput,
        report: &'a dyn Report,
        make_waker: &'a dyn Fn() -> Waker,
    ) -> TaskContext<'a> {
        TaskContext {
            input,
            report,
            make_waker,
        }
    }

    /// Reports `percent` (0 to 100, higher counts as 100; a lower one than before keeps the
    /// old), the current step's name, and more words about it (either may be empty).
    ///
    /// Cheap: one lock, no I/O. A report that says nothing new is free.
    ///
    /// ```
    /// # use async_task_system::{NewTask, Report, TaskContext, TaskError, TaskInput};
    /// # struct Nowhere;
    /// # impl Report for Nowhere {
    /// #     fn progress(&self, _: u8, _: &str, _: &str) -> Result<(), TaskError> { Ok(()) }
    /// #     fn is_stopped(&self) -> bool { false }
    /// # }
    /// let input = TaskInput::from(&NewTask::new("Report"));
    /// let mut ctx = TaskContext::new(&input, &Nowhere);
    /// ctx.progress(40, "Reading", "file 2 of 5")?;
    /// ctx.progress(100, "Done", "")?;
    /// # Ok::<(), TaskError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::stopped`] once the task was cancelled, timed out or superseded by a
    /// retry. Return it with `?`.
    pub fn progress(
        &mut self,
        percent: u8,
        step: &str,
        description: &str,
    ) -> Result<(), TaskError> {
        self.report.progress(percent.min(100), step, description)
    }

    /// Adds to the task's log; each line of `text` is a line of its own.
    ///
    /// Cheap: one lock, no I/O. A task keeps the newest lines, up to `MAX_LOG_BYTES`.
    ///
    /// ```
    /// use async_task_system::{Outcome, TaskContext, TaskError};
    ///
    /// fn import(ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///     ctx.log("3 rows have no date; they are left out")?;
    ///     Ok(Outcome::Done(None))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::stopped`] once the task is over, as for [`progress`](Self::progress).
    pub fn log(&mut self, text: &str) -> Result<(), TaskError> {
        self.log_from(LogStream::Log, text)
    }

    /// As [`log`](Self::log), for the output of another program.
    ///
    /// ```
    /// use async_task_system::{LogStream, Outcome, TaskContext, TaskError};
    /// use std::process::Command;
    ///
    /// fn disk(ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///     let output = Command::new("df").output()?;
    ///     ctx.log_from(LogStream::Out, &String::from_utf8_lossy(&output.stdout))?;
    ///     Ok(Outcome::Done(None))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::stopped`] once the task is over.
    pub fn log_from(&mut self, stream: LogStream, text: &str) -> Result<(), TaskError> {
        self.report.log(stream, text)
    }

    /// Does `work` for each item, and reports before each the share of items that are done, under the
    /// step `step`.
    ///
    /// ```
    /// use async_task_system::testing::TestRun;
    /// use async_task_system::{Outcome, TaskContext};
    ///
    /// let run = TestRun::of(|ctx: &mut TaskContext<'_>| {
    ///     let mut bytes = 0;
    ///     ctx.each("Reading", ["a.txt", "b.txt"], |file| {
    ///         bytes += file.len();
    ///         Ok(())
    ///     })?;
    ///     Ok(Outcome::done(bytes.into()))
    /// })
    /// .run();
    /// assert_eq!(run.percents(), [0, 50]);
    /// assert_eq!((&*run.reports[1].step, &*run.reports[1].description), ("Reading", "2 of 2"));
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::stopped`] before the next item, once the task is over; and the first error of `work`.
    pub fn each<I>(
        &mut self,
        step: &str,
        items: I,
        mut work: impl FnMut(I::Item) -> Result<(), TaskError>,
    ) -> Result<(), TaskError>
    where
        I: IntoIterator<IntoIter: ExactSizeIterator>,
    {
        let items = items.into_iter();
        let count = items.len() as u64;
        for (done, item) in (0..count).zip(items) {
            let percent = (done * 100 / count) as u8;
            self.progress(percent, step, &format!("{} of {count}", done + 1))?;
            work(item)?;
        }
        Ok(())
    }

    /// Whether to give up, for loops that have nothing to report.
    ///
    /// ```
    /// use async_task_system::{Outcome, TaskContext, TaskError};
    ///
    /// fn sum(ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///     let mut sum = 0_u64;
    ///     for block in 0..1_000 {
    ///         if ctx.is_stopped() {
    ///             return Err(TaskError::stopped());
    ///         }
    ///         sum += (block * 1_000..(block + 1) * 1_000).sum::<u64>();
    ///     }
    ///     Ok(Outcome::done(sum.into()))
    /// }
    /// ```
    pub fn is_stopped(&self) -> bool {
        self.report.is_stopped()
    }

    /// As [`is_stopped`](Self::is_stopped), for another thread, or for a wait that reports nothing.
    ///
    /// ```
    /// use async_task_system::{Outcome, TaskContext, TaskError};
    /// use std::thread;
    ///
    /// /// Two threads search; each gives up when the task is cancelled.
    /// fn search(ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///     let halves = [0..500_u64, 500..1_000].map(|half| {
    ///         let stop = ctx.stop_handle();
    ///         thread::spawn(move || half.take_while(|_| !stop.is_stopped()).filter(|n| n % 7 == 0).count())
    ///     });
    ///     let mut found = 0;
    ///     for half in halves {
    ///         found += half.join().map_err(|_| TaskError::new("a search failed"))?;
    ///     }
    ///     Ok(Outcome::done(found.into()))
    /// }
    /// ```
    pub fn stop_handle(&self) -> StopHandle {
        self.report.stop_handle()
    }

    /// What ends this executor's next [`Outcome::Wait`](crate::Outcome::Wait). Give a clone to whatever it waits for.
    ///
    /// ```
    /// use async_task_system::{Outcome, TaskContext, TaskError};
    /// use std::{fs, thread, time::Duration};
    ///
    /// /// Reads a file from a slow disk, and holds no worker meanwhile.
    /// fn read(ctx: &mut TaskContext<'_>, job: &mut Option<thread::JoinHandle<usize>>) -> Result<Outcome, TaskError> {
    ///     let waker = ctx.waker();
    ///     let job = job.get_or_insert_with(|| {
    ///         thread::spawn(move || {
    ///             let size = fs::read("/etc/hosts").map_or(0, |bytes| bytes.len());
    ///             waker.wake();
    ///             size
    ///         })
    ///     });
    ///     if job.is_finished() {
    ///         return Ok(Outcome::Done(None));
    ///     }
    ///     Ok(Outcome::Wait(Duration::from_secs(1)))
    /// }
    /// ```
    pub fn waker(&self) -> Waker {
        (self.make_waker)()
    }

    /// What a person has said: `POST /tasks/:id/advance`. If nothing, the task is shown as waiting for a person; return
    /// [`Outcome::Wait`](crate::Outcome::Wait) then, and ask again in the next call. Each signal is given once.
    ///
    /// ```
    /// use async_task_system::{Outcome, TaskContext, TaskError};
    /// use std::time::Duration;
    ///
    /// fn approve(ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///     ctx.progress(50, "Approval", "The manager looks at the budget")?;
    ///     let Some(signal) = ctx.signal() else {
    ///         return Ok(Outcome::Wait(Duration::from_secs(86_400)));
    ///     };
    ///     ctx.log(&format!("approved: {}", signal.note))?;
    ///     Ok(Outcome::Done(None))
    /// }
    /// ```
    pub fn signal(&mut self) -> Option<Signal> {
        self.report.signal()
    }

    /// What to work on.
    ///
    /// ```
    /// # use async_task_system::{NewTask, Report, TaskContext, TaskError, TaskInput};
    /// # struct Nowhere;
    /// # impl Report for Nowhere {
    /// #     fn progress(&self, _: u8, _: &str, _: &str) -> Result<(), TaskError> { Ok(()) }
    /// #     fn is_stopped(&self) -> bool { false }
    /// # }
    /// let input = TaskInput::from(&NewTask::new("Report"));
    /// assert_eq!(&*TaskContext::new(&input, &Nowhere).input().name, "Report");
    /// ```
    pub fn input(&self) -> &'a TaskInput {
        self.input
    }

    /// Short for `input().arguments()`.
    ///
    /// ```
    /// # use async_task_system::{NewTask, Report, TaskContext, TaskError, TaskInput};
    /// # struct Nowhere;
    /// # impl Report for Nowhere {
    /// #     fn progress(&self, _: u8, _: &str, _: &str) -> Result<(), TaskError> { Ok(()) }
    /// #     fn is_stopped(&self) -> bool { false }
    /// # }
    /// #[derive(serde::Deserialize)]
    /// struct Arguments { files: Vec<String> }
    ///
    /// let arguments = serde_json::json!({ "files": ["a.txt", "b.txt"] });
    /// let input = TaskInput::from(&NewTask::new("Copy").metadata(&arguments));
    /// let Arguments { files } = TaskContext::new(&input, &Nowhere).arguments()?;
    /// assert_eq!(files, ["a.txt", "b.txt"]);
    /// # Ok::<(), TaskError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`TaskInput::arguments`].
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        self.input.arguments()
    }
}
