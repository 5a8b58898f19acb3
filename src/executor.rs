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

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::task::TaskId;

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
    /// executor does not drift. One that is late is called at once.
    Again(Duration),
}

impl Outcome {
    /// Done, with a result that clients will read as JSON.
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
    pub fn new(message: impl Into<String>) -> TaskError {
        TaskError(Cause::Failed(message.into()))
    }

    /// The attempt is over and nobody waits for it: cancelled, timed out or superseded.
    pub fn stopped() -> TaskError {
        TaskError(Cause::Stopped)
    }

    /// Whether this says that the attempt was stopped from outside.
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

/// What an attempt is given to work on.
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
    /// assert!(why.starts_with("the task's arguments do not fit: missing field `month`"));
    /// # Ok::<(), async_task_system::TaskError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Says what is missing or wrong, in serde's words.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        let text = self.arguments.as_deref().map_or("{}", RawValue::get);
        serde_json::from_str(text)
            .map_err(|error| TaskError::new(format!("the task's arguments do not fit: {error}")))
    }
}

/// Takes an attempt's reports. The engine implements it over memory.
pub trait Report {
    /// Records progress.
    ///
    /// # Errors
    ///
    /// [`TaskError::stopped`] once the attempt is over.
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError>;

    /// Whether the attempt is over.
    fn is_stopped(&self) -> bool;
}

/// An executor's view of its attempt: what to work on, and where to report.
pub struct TaskContext<'a> {
    input: &'a TaskInput,
    report: &'a dyn Report,
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
        TaskContext { input, report }
    }

    /// Reports `percent` (0 to 100, higher counts as 100; a lower one than before keeps the
    /// old), the current step's name, and more words about it (either may be empty).
    ///
    /// Cheap: one lock, no I/O. A report that says nothing new is free.
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

    /// Whether to give up, for loops that have nothing to report.
    pub fn is_stopped(&self) -> bool {
        self.report.is_stopped()
    }

    /// What to work on.
    pub fn input(&self) -> &'a TaskInput {
        self.input
    }

    /// Short for `input().arguments()`.
    ///
    /// # Errors
    ///
    /// As [`TaskInput::arguments`].
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        self.input.arguments()
    }
}

/// What is wrong with one field: of the arguments, a body or a query.
///
/// ```
/// use async_task_system::FieldError;
///
/// let error = FieldError::new("steps[2].name", "name must not be empty");
/// let json = serde_json::to_value(&error)?;
/// assert_eq!(json["field"], "steps[2].name");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field, as in `steps[2].name`; empty where the whole is meant.
    pub field: String,
    /// What it must be instead, for a person.
    pub message: String,
}

impl FieldError {
    /// `message` tells what `field` must be.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> FieldError {
        FieldError {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Arguments that cannot be read are wrong as a whole.
impl From<TaskError> for Vec<FieldError> {
    fn from(error: TaskError) -> Vec<FieldError> {
        vec![FieldError::new("", error.to_string())]
    }
}

/// Says what is wrong with the arguments of a job before it is added.
type Check = dyn Fn(&TaskInput) -> Result<(), Vec<FieldError>> + Send + Sync;

/// Makes an attempt's executor.
type Factory = dyn Fn(&TaskInput) -> Result<Box<dyn TaskExecutor>, TaskError> + Send + Sync;

/// A type's factory, and whether its executors block their worker.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) factory: Arc<Factory>,
    pub(crate) blocking: bool,
    pub(crate) check: Option<Arc<Check>>,
}

/// Which executor runs which type.
///
/// ```
/// use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
///
/// let mut registry = ExecutorRegistry::new();
/// registry.register("hello", |_input| {
///     Ok(|ctx: &mut TaskContext<'_>| {
///         ctx.progress(50, "Greeting", "half-way")?;
///         Ok(Outcome::Done(None))
///     })
/// });
/// ```
#[derive(Clone, Default)]
pub struct ExecutorRegistry {
    types: HashMap<Box<str>, Registration>,
}

impl ExecutorRegistry {
    /// An empty registry.
    pub fn new() -> ExecutorRegistry {
        ExecutorRegistry::default()
    }

    /// Runs tasks of type `kind` with what `factory` makes, one value for each attempt. The
    /// factory runs on a worker; its error fails the attempt. A second registration of a type
    /// replaces the first.
    pub fn register<F, E>(&mut self, kind: &str, factory: F) -> &mut Self
    where
        F: Fn(&TaskInput) -> Result<E, TaskError> + Send + Sync + 'static,
        E: TaskExecutor + 'static,
    {
        self.insert(kind, factory, false)
    }

    /// As [`register`](Self::register), for executors that hold their worker for long.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, NewTask, Outcome, SessionKey, TaskContext, TaskSystem};
    /// use std::{thread, time::Duration};
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry.register_blocking("slow", |_input| {
    ///     Ok(|ctx: &mut TaskContext<'_>| {
    ///         // A call that takes its time. The last worker is never given to such a one.
    ///         thread::sleep(Duration::from_millis(20));
    ///         ctx.progress(100, "Called", "")?;
    ///         Ok(Outcome::Done(None))
    ///     })
    /// });
    /// let system = TaskSystem::start(&Default::default(), registry)?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// system.execution().submit(&session, NewTask::new("Call").kind("slow"))?;
    /// system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn register_blocking<F, E>(&mut self, kind: &str, factory: F) -> &mut Self
    where
        F: Fn(&TaskInput) -> Result<E, TaskError> + Send + Sync + 'static,
        E: TaskExecutor + 'static,
    {
        self.insert(kind, factory, true)
    }

    fn insert<F, E>(&mut self, kind: &str, factory: F, blocking: bool) -> &mut Self
    where
        F: Fn(&TaskInput) -> Result<E, TaskError> + Send + Sync + 'static,
        E: TaskExecutor + 'static,
    {
        let factory = Arc::new(move |input: &TaskInput| {
            Ok(Box::new(factory(input)?) as Box<dyn TaskExecutor>)
        });
        let registration = Registration {
            factory,
            blocking,
            check: None,
        };
        self.types.insert(kind.into(), registration);
        self
    }

    /// Checks the arguments of jobs of the registered type `kind` when they are added: what is
    /// wrong is answered at once, with 400 and the fields' names, instead of failing each attempt.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, FieldError, Outcome, TaskContext};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Report { month: u8 }
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry
    ///     .register("report", |_input| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))))
    ///     .check("report", |input| match input.arguments::<Report>()?.month {
    ///         1..=12 => Ok(()),
    ///         _ => Err(vec![FieldError::new("month", "month must be a number from 1 to 12")]),
    ///     });
    /// ```
    ///
    /// It runs on the thread of the request, so it should be quick. A later registration of the
    /// type takes it away; without a registration it is not kept.
    pub fn check<F>(&mut self, kind: &str, check: F) -> &mut Self
    where
        F: Fn(&TaskInput) -> Result<(), Vec<FieldError>> + Send + Sync + 'static,
    {
        if let Some(registration) = self.types.get_mut(kind) {
            registration.check = Some(Arc::new(check));
        }
        self
    }

    /// The registered types, in no order.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(|kind| &**kind)
    }

    pub(crate) fn get(&self, kind: &str) -> Option<&Registration> {
        self.types.get(kind)
    }
}

impl fmt::Debug for ExecutorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.types()).finish()
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
