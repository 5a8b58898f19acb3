//! Which executor runs which type.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::executor::registration::{Registration, Source};
use crate::executor::typed::{self, Typed};
use crate::executor::{Outcome, TaskContext, TaskError, TaskExecutor, TaskInput};
use crate::spelling::nearest;
use crate::task::DEFAULT_KIND;

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
    types: HashMap<Box<str>, Arc<Registration>>,
    /// Types that were registered once. What is left of them must not run as something else.
    retired: HashSet<Box<str>>,
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
    pub fn register<F, E>(&mut self, kind: &str, factory: F) -> &mut Registration
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
    pub fn register_blocking<F, E>(&mut self, kind: &str, factory: F) -> &mut Registration
    where
        F: Fn(&TaskInput) -> Result<E, TaskError> + Send + Sync + 'static,
        E: TaskExecutor + 'static,
    {
        self.insert(kind, factory, true)
    }

    /// Runs tasks of type `kind` with `work`, which is given the arguments as a type of its own. They
    /// are read once an attempt; a task or a job whose arguments do not fit is refused when it is
    /// created, with the field's name.
    ///
    /// `work` is called until it is done, each time with the same value, so that state between
    /// slices can live there.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskError};
    /// use std::time::Duration;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Countdown { from: u8 }
    ///
    /// impl Countdown {
    ///     fn tick(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    ///         if self.from == 0 {
    ///             return Ok(Outcome::Done(None));
    ///         }
    ///         ctx.progress(0, &format!("T minus {}", self.from), "")?;
    ///         self.from -= 1;
    ///         Ok(Outcome::Again(Duration::from_secs(1)))
    ///     }
    /// }
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry.typed("countdown", Countdown::tick);
    /// ```
    pub fn typed<T, F>(&mut self, kind: &str, work: F) -> &mut Registration
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(&mut T, &mut TaskContext<'_>) -> Result<Outcome, TaskError> + Send + Sync + 'static,
    {
        self.insert_typed(kind, work, false)
    }

    /// As [`typed`](Self::typed), for executors that hold their worker for long.
    ///
    /// ```
    /// use async_task_system::{ExecutorRegistry, NewTask, Outcome, SessionKey, StoreError, TaskContext, TaskSystem};
    /// use serde_json::json;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Checksum { rounds: u64 }
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry.typed_blocking("checksum", |args: &mut Checksum, ctx: &mut TaskContext<'_>| {
    ///     ctx.progress(0, "Computing", "")?;
    ///     let sum = (0..args.rounds).fold(0_u64, |sum, round| sum.rotate_left(5) ^ round);
    ///     Ok(Outcome::done(json!({ "sum": sum })))
    /// });
    ///
    /// let system = TaskSystem::start(&Default::default(), registry)?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let task = NewTask::new("Sum").kind("checksum").metadata(&json!({ "rounds": "many" }));
    /// let refused = system.execution().submit(&session, task).expect_err("no number");
    /// let StoreError::InvalidArguments(errors) = refused else { panic!("{refused}") };
    /// assert_eq!(errors[0].field, "rounds");
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn typed_blocking<T, F>(&mut self, kind: &str, work: F) -> &mut Registration
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(&mut T, &mut TaskContext<'_>) -> Result<Outcome, TaskError> + Send + Sync + 'static,
    {
        self.insert_typed(kind, work, true)
    }

    fn insert_typed<T, F>(&mut self, kind: &str, work: F, blocking: bool) -> &mut Registration
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(&mut T, &mut TaskContext<'_>) -> Result<Outcome, TaskError> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let factory = move |input: &TaskInput| Typed::<T, F>::new(input, work.clone());
        self.insert(kind, factory, blocking)
            .check(typed::check::<T>)
    }

    fn insert<F, E>(&mut self, kind: &str, factory: F, blocking: bool) -> &mut Registration
    where
        F: Fn(&TaskInput) -> Result<E, TaskError> + Send + Sync + 'static,
        E: TaskExecutor + 'static,
    {
        let factory = Arc::new(move |input: &TaskInput| {
            Ok(Box::new(factory(input)?) as Box<dyn TaskExecutor>)
        });
        let registration = Arc::new(Registration::new(factory, blocking));
        let entry = self.types.entry(kind.into()).insert_entry(registration);
        Arc::make_mut(entry.into_mut())
    }

    /// Registers a type that workers outside this process run: they claim its attempts over HTTP
    /// (`POST /api/v1/work/claim`). An attempt whose worker does not report for as long as `lease` is taken from it.
    ///
    /// ```
    /// use async_task_system::ExecutorRegistry;
    /// use std::time::Duration;
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry.register_remote("ocr", Duration::from_secs(30)).concurrency(4);
    /// ```
    pub fn register_remote(&mut self, kind: &str, lease: Duration) -> &mut Registration {
        let refuse = |_: &TaskInput| -> Result<Remote, TaskError> {
            Err(TaskError::new("workers outside this process run this type"))
        };
        let registration = self.insert(kind, refuse, false);
        registration.remote = Some(lease);
        registration.source(Source::Remote)
    }

    /// The types that workers outside this process run.
    pub(crate) fn remote_types(&self) -> impl Iterator<Item = &str> {
        let remote = self
            .types
            .iter()
            .filter(|(_, registration)| registration.remote.is_some());
        remote.map(|(kind, _)| &**kind)
    }

    /// Whether any type is run by workers outside this process.
    pub(crate) fn has_remote(&self) -> bool {
        self.types
            .values()
            .any(|registration| registration.remote.is_some())
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

    /// All types with their registrations, in the order in which they are listed: the operator's own first, the demos
    /// last.
    pub(crate) fn listed(&self) -> Vec<(&str, &Registration)> {
        let types = self.types.iter();
        let mut listed: Vec<_> = types.map(|(kind, one)| (&**kind, &**one)).collect();
        listed.sort_unstable_by_key(|(kind, one)| (one.source, *kind));
        listed
    }

    /// What is wrong with a type that is not registered. A typo must not complete as if work had been done.
    pub(crate) fn unknown(&self, kind: &str) -> Option<String> {
        if self.types.contains_key(kind) {
            return None;
        }
        let mut known: Vec<&str> = self.types().collect();
        known.sort_unstable();
        let hint = match nearest(kind, known.iter().copied()) {
            Some(name) => format!("; did you mean {name}?"),
            None => String::new(),
        };
        Some(format!("type must be one of {}{hint}", known.join(", ")))
    }

    /// The types that have a limit, with the limit.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (&str, usize)> {
        let limit =
            |(kind, registration): (_, &Arc<Registration>)| Some((kind, registration.concurrency?));
        self.types
            .iter()
            .map(|(kind, registration)| (&**kind, registration))
            .filter_map(limit)
    }

    pub(crate) fn get_mut(&mut self, kind: &str) -> Option<&mut Registration> {
        self.types.get_mut(kind).map(Arc::make_mut)
    }

    pub(crate) fn get(&self, kind: &str) -> Option<&Arc<Registration>> {
        self.types.get(kind)
    }

    /// What runs an attempt of this type: without a registration of its own that of the default type.
    pub(crate) fn for_attempt(&self, kind: &str) -> Option<&Arc<Registration>> {
        match self.retired.contains(kind) {
            true => None,
            false => self.get(kind).or_else(|| self.get(DEFAULT_KIND)),
        }
    }

    /// Takes the place of `before`: its types that are not here are gone.
    pub(crate) fn succeed(&mut self, before: &ExecutorRegistry) {
        let once = before.retired.iter().chain(before.types.keys());
        let gone = once.filter(|kind| !self.types.contains_key(*kind));
        self.retired = gone.cloned().collect();
    }
}

/// A remote type has no executor in this process.
enum Remote {}

impl TaskExecutor for Remote {
    fn run(&mut self, _: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        match *self {}
    }
}

impl fmt::Debug for ExecutorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.types()).finish()
    }
}
