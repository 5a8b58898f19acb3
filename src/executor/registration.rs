//! One type: how it runs, what its arguments must be, and what is told of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::executor::{TaskError, TaskExecutor, TaskInput};
use crate::field_error::FieldError;

/// Says what is wrong with arguments before their task or job is created.
type Check = dyn Fn(&TaskInput) -> Result<(), Vec<FieldError>> + Send + Sync;

/// Makes an attempt's executor.
pub(crate) type Factory =
    dyn Fn(&TaskInput) -> Result<Box<dyn TaskExecutor>, TaskError> + Send + Sync;

/// Who has brought a type, in the order in which types are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// The operator, as a command.
    Command,
    /// The operator; workers outside this process run it.
    Remote,
    /// The program that embeds the server.
    Program,
    Demo,
}

/// How a type runs, and what its arguments must be; [`ExecutorRegistry::register`](crate::ExecutorRegistry::register) returns it.
///
/// ```
/// use async_task_system::{ExecutorRegistry, FieldError, Outcome, TaskContext};
///
/// let mut registry = ExecutorRegistry::new();
/// registry
///     .register("report", |_input| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))))
///     .check(|input| match input.arguments.is_some() {
///         true => Ok(()),
///         false => Err(vec![FieldError::new("month", "month is required")]),
///     });
/// ```
#[derive(Clone)]
pub struct Registration {
    pub(crate) source: Source,
    pub(crate) description: Option<String>,
    pub(crate) example: Option<Value>,
    pub(crate) factory: Arc<Factory>,
    pub(crate) blocking: bool,
    checks: Vec<Arc<Check>>,
    /// A task of this type may have any metadata.
    only_jobs: bool,
    pub(crate) concurrency: Option<usize>,
    /// An attempt that takes longer fails.
    pub(crate) time_limit: Option<Duration>,
    /// Workers outside this process run it; how long one of their leases lasts.
    pub(crate) remote: Option<Duration>,
}

impl Registration {
    /// A type without checks, of the program's own.
    pub(crate) fn new(factory: Arc<Factory>, blocking: bool) -> Registration {
        Registration {
            source: Source::Program,
            description: None,
            example: None,
            factory,
            blocking,
            checks: Vec::new(),
            only_jobs: false,
            concurrency: None,
            time_limit: None,
            remote: None,
        }
    }

    /// Adds a check of the arguments: what is wrong is answered with 400 and the fields' names when
    /// a task or a job is created, instead of failing each attempt.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, FieldError, Outcome, TaskContext};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Report { month: u8 }
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry
    ///     .typed("report", |_: &mut Report, _: &mut TaskContext<'_>| Ok(Outcome::Done(None)))
    ///     .check(|input| match input.arguments::<Report>()?.month {
    ///         1..=12 => Ok(()),
    ///         _ => Err(vec![FieldError::new("month", "month must be a number from 1 to 12")]),
    ///     });
    /// ```
    ///
    /// It runs on the thread of the request, so it should be quick. Checks run in the order in which
    /// they were added, until one refuses.
    pub fn check<F>(&mut self, check: F) -> &mut Registration
    where
        F: Fn(&TaskInput) -> Result<(), Vec<FieldError>> + Send + Sync + 'static,
    {
        self.checks.push(Arc::new(check));
        self
    }

    /// Lets at most this many attempts of the type run at once in this process, tasks and jobs together. The others
    /// stay pending, and hold no worker. 0 counts as 1.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry
    ///     .register("print", |_| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))))
    ///     .concurrency(1);
    /// ```
    pub fn concurrency(&mut self, most: usize) -> &mut Registration {
        self.concurrency = Some(most.max(1));
        self
    }

    /// Says what the type does, in a few words for people: on the page, and at `GET /api/v1/executors`.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry
    ///     .register("thumbnails", |_| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))))
    ///     .description("Makes thumbnails of a folder")
    ///     .example(serde_json::json!({ "folder": "photos", "width": 200 }));
    /// ```
    pub fn description(&mut self, text: &str) -> &mut Registration {
        self.description = Some(text.to_owned());
        self
    }

    /// Shows what the arguments can be: an object, as a task's `metadata` or a job's `arguments`. The page makes a
    /// form from it.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry
    ///     .register("resize", |_| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))))
    ///     .example(serde_json::json!({ "width": 200 }));
    /// ```
    pub fn example(&mut self, arguments: Value) -> &mut Registration {
        self.example = Some(arguments);
        self
    }

    pub(crate) fn source(&mut self, source: Source) -> &mut Registration {
        self.source = source;
        self
    }

    /// Leaves tasks unchecked: their metadata may be anything.
    pub(crate) fn only_jobs(&mut self) {
        self.only_jobs = true;
    }

    pub(crate) fn check_job(&self, input: &TaskInput) -> Result<(), Vec<FieldError>> {
        self.checks.iter().try_for_each(|check| check(input))
    }

    /// Whether it has checks that tasks have to pass.
    pub(crate) fn checks_tasks(&self) -> bool {
        !self.only_jobs && !self.checks.is_empty()
    }

    pub(crate) fn check_task(&self, input: &TaskInput) -> Result<(), Vec<FieldError>> {
        match self.checks_tasks() {
            true => self.check_job(input),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("blocking", &self.blocking)
            .field("checks", &self.checks.len())
            .finish_non_exhaustive()
    }
}

/// Arguments that cannot be read are wrong as a whole.
impl From<TaskError> for Vec<FieldError> {
    fn from(error: TaskError) -> Vec<FieldError> {
        vec![FieldError::new("", error.to_string())]
    }
}
