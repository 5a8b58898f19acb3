//! Which executor runs which type, and what its arguments must be.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::executor::{TaskError, TaskExecutor, TaskInput};
use crate::field_error::FieldError;

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
    ///
    /// ```
    /// # use async_task_system::ExecutorRegistry;
    /// assert_eq!(ExecutorRegistry::new().types().count(), 0);
    /// ```
    pub fn new() -> ExecutorRegistry {
        ExecutorRegistry::default()
    }

    /// Runs tasks of type `kind` with what `factory` makes, one value for each attempt. The
    /// factory runs on a worker; its error fails the attempt. A second registration of a type
    /// replaces the first.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskError, TaskExecutor};
    ///
    /// struct Lines(Vec<String>);
    ///
    /// impl TaskExecutor for Lines {
    ///     fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///         ctx.progress(50, "Counting", "")?;
    ///         Ok(Outcome::done(self.0.len().into()))
    ///     }
    /// }
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// // Arguments that do not fit fail the attempt, with serde's words.
    /// registry.register("lines", |input| Ok(Lines(input.arguments()?)));
    /// ```
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
    /// type takes it away; without a registration it is not kept, and the log says so. Tasks are not
    /// checked.
    pub fn check<F>(&mut self, kind: &str, check: F) -> &mut Self
    where
        F: Fn(&TaskInput) -> Result<(), Vec<FieldError>> + Send + Sync + 'static,
    {
        match self.types.get_mut(kind) {
            Some(registration) => registration.check = Some(Arc::new(check)),
            None => log::warn!("The check of {kind} is lost: register the type before it"),
        }
        self
    }

    /// The registered types, in no order.
    ///
    /// ```
    /// # use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
    /// let mut registry = ExecutorRegistry::new();
    /// registry.register("noop", |_| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))));
    /// assert!(registry.types().eq(["noop"]));
    /// ```
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

/// Arguments that cannot be read are wrong as a whole.
impl From<TaskError> for Vec<FieldError> {
    fn from(error: TaskError) -> Vec<FieldError> {
        vec![FieldError::new("", error.to_string())]
    }
}
