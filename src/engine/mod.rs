//! Runs tasks: a fixed pool of workers, one timer, and the service that starts, cancels and
//! retries.
//!
//! A run goes: run channel → worker → (timer → run channel → worker …) → end. It carries its
//! attempt. The worker that takes it asks the store whether that attempt still counts, and drops the
//! run if it does not. So a cancel changes the store and needs no worker.
//!
//! The run channel is unbounded, but its length is not: every task's run holds a `Permit`, and there
//! are `max_active_tasks` of them. A run that is cancelled during its pause releases its permit and
//! goes to a worker once more, which drops its executor: a user's `Drop` runs on no other thread.

mod assignment;
pub(crate) mod audit;
mod blocking_limit;
mod cleanup;
mod leasing;
pub(crate) mod pool;
pub(crate) mod remote;
mod run;
mod running;
mod scheduler;
mod timer;
mod type_limit;
mod waiting;
mod wakes;
mod watchdog;
mod worker;

use std::sync::Arc;
use std::time::Instant;

pub use cleanup::TaskCleanupService;

pub use crate::config::default_workers;

use crate::executor::{ExecutorRegistry, FieldError, TaskInput};
use crate::log_safe::LogSafe;
use crate::semaphore::{Permit, Semaphore};
use crate::store::{Attempt, Hold, NewTask, StoreError, TaskManager};
use crate::task::{SessionKey, Task, TaskId};
use assignment::TaskAssignment;
use pool::{Pool, PoolStats};
use remote::{Claimed, OverReason};

/// How the engine runs.
///
/// ```
/// use async_task_system::engine::{EngineOptions, default_workers};
///
/// let mut options = EngineOptions::default();
/// assert_eq!(options.workers, default_workers());
/// options.max_result_bytes = 1_024;
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Threads that run executors.
    pub workers: usize,
    /// Queued and running tasks at once, over all sessions.
    pub max_active_tasks: usize,
    /// The largest result kept, in bytes of JSON; a larger one fails its task.
    pub max_result_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            workers: default_workers(),
            max_active_tasks: 100_000,
            max_result_bytes: 65_536,
        }
    }
}

/// Starts, cancels and retries tasks, and runs them on its pool. A cheap handle: clones share
/// one engine.
///
/// ```
/// use async_task_system::engine::EngineOptions;
/// use async_task_system::store::{WatchUpdate, Limits};
/// use async_task_system::{
///     ExecutorRegistry, NewTask, Outcome, StoreError, SessionKey, TaskContext,
///     TaskExecutionService, TaskManager, TaskStatus,
/// };
/// use std::time::{Duration, Instant};
///
/// let mut registry = ExecutorRegistry::new();
/// registry.register("waits", |input| {
///     // The first attempt waits, the second one does not.
///     let first = input.attempt == 1;
///     Ok(move |_: &mut TaskContext<'_>| {
///         Ok(if first { Outcome::Again(Duration::from_secs(60)) } else { Outcome::Done(None) })
///     })
/// });
/// let tasks = TaskManager::new(Limits::default(), None);
/// let service = TaskExecutionService::start_threads(tasks, registry, EngineOptions::default())?;
/// let session = SessionKey::parse("me").expect("a valid key");
///
/// let id = service.submit(&session, NewTask::new("Wait").kind("waits"))?.id;
/// assert!(matches!(service.start(&session, id), Err(StoreError::TransitionError(_))), "it is started");
/// assert_eq!(service.cancel(&session, id)?.status, TaskStatus::Cancelled);
/// assert_eq!(service.retry(&session, id)?.attempt, 2);
///
/// let mut watch = service.tasks().watch(&session, id, Some(0))?;
/// while let WatchUpdate::Events(_) = watch.next(Duration::from_secs(10)) {}
/// assert_eq!(service.tasks().get(&session, id)?.status, TaskStatus::Completed);
/// service.stop(Instant::now() + Duration::from_secs(4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TaskExecutionService {
    tasks: TaskManager,
    pool: Pool,
    active: Semaphore,
}

impl TaskExecutionService {
    /// Starts the workers and the timer.
    ///
    /// ```
    /// use async_task_system::engine::EngineOptions;
    /// use async_task_system::store::Limits;
    /// use async_task_system::{ExecutorRegistry, TaskExecutionService, TaskManager};
    /// use std::time::Instant;
    ///
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let options = EngineOptions::default();
    /// let service = TaskExecutionService::start_threads(tasks, ExecutorRegistry::new(), options)?;
    /// service.stop(Instant::now());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn start_threads(
        tasks: TaskManager,
        registry: ExecutorRegistry,
        options: EngineOptions,
    ) -> std::io::Result<TaskExecutionService> {
        Ok(TaskExecutionService {
            tasks,
            pool: Pool::start(registry, options.workers, options.max_result_bytes)?,
            active: Semaphore::new(options.max_active_tasks),
        })
    }

    fn permit(&self) -> Result<Permit, StoreError> {
        let full = StoreError::QueueFull(self.active.max());
        self.active.take().ok_or(full)
    }

    fn enqueue(&self, attempt: Attempt, permit: Permit) {
        let tasks = self.tasks.clone();
        let handle = Arc::new(TaskAssignment { tasks, attempt });
        self.pool.enqueue(handle, Some(permit));
    }

    /// Creates a task and starts it at once. The task is returned as created: `pending`.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let task = system.execution().submit(&session, NewTask::new("Report").kind("sample"))?;
    /// let mut watch = system.tasks().watch(&session, task.id, None)?;
    /// assert!(!watch.is_over(), "the demo takes ten seconds");
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`TaskManager::create`], `InvalidArguments` and `QueueFull`; nothing is created then.
    pub fn submit(&self, key: &SessionKey, new: NewTask) -> Result<Task, StoreError> {
        self.check(&new).map_err(StoreError::InvalidArguments)?;
        self.submit_checked(key, new)
    }

    /// Whether the task's type takes its arguments. [`submit`](Self::submit) asks the same.
    ///
    /// ```
    /// # use async_task_system::{ExecutorRegistry, NewTask, Outcome, TaskContext, TaskSystem};
    /// #[derive(serde::Deserialize)]
    /// struct Report { month: u8 }
    ///
    /// let mut registry = ExecutorRegistry::new();
    /// registry.typed("report", |_: &mut Report, _: &mut TaskContext<'_>| Ok(Outcome::Done(None)));
    /// let system = TaskSystem::start(&Default::default(), registry)?;
    /// let errors = system.execution().check(&NewTask::new("Report").kind("report")).unwrap_err();
    /// assert_eq!((&*errors[0].field, &*errors[0].message), ("month", "month is required"));
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the type's [checks](crate::Registration::check) have against them.
    pub fn check(&self, new: &NewTask) -> Result<(), Vec<FieldError>> {
        match self.pool.registration(&new.kind) {
            // The input's id takes a system call.
            Some(registration) if registration.checks_tasks() => {
                registration.check_task(&TaskInput::from(new))
            }
            _ => Ok(()),
        }
    }

    /// As [`submit`](Self::submit), for arguments that have been checked.
    pub(crate) fn submit_checked(
        &self,
        key: &SessionKey,
        new: NewTask,
    ) -> Result<Task, StoreError> {
        let permit = self.permit()?;
        let (task, attempt) = self.tasks.insert(key, new, true)?;
        self.enqueue(attempt, permit);
        Ok(task)
    }

    /// Starts a pending task.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// system.execution().start(&session, id)?;
    /// assert!(system.execution().start(&session, id).is_err(), "once is enough");
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, `TransitionError(NotStartable)`, or a limit that is reached.
    pub fn start(&self, key: &SessionKey, id: TaskId) -> Result<(), StoreError> {
        let permit = self.permit_for(key, id)?;
        let attempt = self.tasks.queue(key, id)?;
        self.enqueue(attempt, permit);
        Ok(())
    }

    /// Queues a failed or cancelled task again, as a new attempt.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// system.execution().cancel(&session, id)?;
    /// assert_eq!(system.execution().retry(&session, id)?.attempt, 2);
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, `TransitionError(NotRetryable)`, or a limit that is reached.
    pub fn retry(&self, key: &SessionKey, id: TaskId) -> Result<Task, StoreError> {
        let permit = self.permit_for(key, id)?;
        let (task, attempt) = self.tasks.retry(key, id)?;
        self.enqueue(attempt, permit);
        Ok(task)
    }

    /// A permit. If the queue is full and there is no such task, the error is `TaskNotFound`.
    fn permit_for(&self, key: &SessionKey, id: TaskId) -> Result<Permit, StoreError> {
        self.permit()
            .or_else(|full| self.tasks.inspect(key, id, |_| Err(full))?)
    }

    /// Cancels a pending or running task. Its executor learns it at its next report.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// assert!(system.execution().cancel(&session, id)?.status.is_final());
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TaskNotFound` or `TransitionError(AlreadyFinished)`.
    pub fn cancel(&self, key: &SessionKey, id: TaskId) -> Result<Task, StoreError> {
        self.cancel_for(key, id, "")
    }

    /// As [`cancel`](Self::cancel), with a reason that the history tells.
    pub(crate) fn cancel_for(
        &self,
        key: &SessionKey,
        id: TaskId,
        reason: &str,
    ) -> Result<Task, StoreError> {
        let task = self.tasks.cancel(key, id, reason)?;
        self.pool.forget((id, task.attempt), OverReason::Cancelled);
        log::info!("Cancelled task {id} for session {key}");
        Ok(task)
    }

    /// Holds a running task, or lets it go on.
    pub(crate) fn hold(
        &self,
        key: &SessionKey,
        id: TaskId,
        note: &str,
        hold: Hold,
    ) -> Result<Task, StoreError> {
        let task = self.tasks.hold(key, id, note, hold)?;
        if hold != Hold::Pause {
            self.pool.wake((id, task.attempt));
        }
        Ok(task)
    }

    /// Fails the running attempt of a task. Its executor learns it at its next report.
    pub(crate) fn fail(&self, key: &SessionKey, id: TaskId, why: &str) -> Result<Task, StoreError> {
        let task = self.tasks.fail(key, id, why)?;
        self.pool.forget((id, task.attempt), OverReason::Ended);
        log::warn!("Task {id} failed: {}", LogSafe(why));
        Ok(task)
    }

    /// Cancels what is queued or running in a session, and removes the session with all its tasks and
    /// links; whether it was there.
    ///
    /// ```
    /// # use async_task_system::{NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Default::default(), Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// system.execution().submit(&session, NewTask::new("Report"))?;
    /// assert!(system.execution().remove_session(&session));
    /// assert_eq!(system.tasks().stats(&session).total, 0);
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_session(&self, key: &SessionKey) -> bool {
        let Some(cancelled) = self.tasks.remove_session(key) else {
            return false;
        };
        for attempt in cancelled {
            self.pool.forget(attempt, OverReason::Cancelled);
        }
        log::info!("Removed session {key}");
        true
    }

    /// Creates a task that its caller runs, and leases it to the caller. `None` if it was cancelled at once.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub(crate) fn adopt(
        &self,
        key: &SessionKey,
        new: NewTask,
    ) -> Result<Option<Claimed>, StoreError> {
        let permit = self.permit()?;
        let (_, attempt) = self.tasks.insert(key, new, true)?;
        let tasks = self.tasks.clone();
        let handle = Arc::new(TaskAssignment { tasks, attempt });
        let claimed = self.pool.adopt(handle, Some(permit));
        if claimed.is_none() {
            // What the stop has cancelled, nobody has called off.
            self.tasks.check_open()?;
        }
        Ok(claimed)
    }

    /// The executors by type.
    pub(crate) fn registry(&self) -> Arc<ExecutorRegistry> {
        self.pool.registry()
    }

    /// The pool, which jobs share.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What its pool does now.
    pub(crate) fn stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// How many tasks are queued or running, and the limit.
    pub(crate) fn active(&self) -> (usize, usize) {
        (self.active.taken(), self.active.max())
    }

    /// The store that it works on.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// assert_eq!(system.execution().tasks().stats(&session).total, 0);
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tasks(&self) -> &TaskManager {
        &self.tasks
    }

    /// Takes no more tasks, and cancels all queued or running ones with `server stopped`.
    pub(crate) fn close(&self) {
        self.pool.remote().close();
        let cancelled = self.tasks.close("server stopped");
        if cancelled > 0 {
            let plural = if cancelled == 1 { "" } else { "s" };
            log::info!("Cancelled {cancelled} task{plural}: server stopped");
        }
    }

    /// Cancels what is queued or running, with `server stopped`, and ends the threads. Waits
    /// for them until `deadline`; an executor that still blocks then is left behind. Harmless
    /// when repeated.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// use std::time::{Duration, Instant};
    ///
    /// system.execution().stop(Instant::now() + Duration::from_secs(1));
    /// assert!(system.tasks().create(&session, NewTask::new("Late")).is_err(), "it takes no more");
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop(&self, deadline: Instant) {
        self.close();
        self.pool.stop(deadline);
    }
}
