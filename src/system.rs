//! The engine without HTTP, put together: store, workers, timer, cleanup, audit log.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::demo;
use crate::engine::audit::{self, Audit};
use crate::engine::{EngineOptions, TaskCleanupService, TaskExecutionService};
use crate::executor::ExecutorRegistry;
use crate::executors::OwnTypes;
use crate::metrics::WorkMeter;
use crate::store::{Limits, TaskManager};

/// How long the stop waits for executors; its other threads have half a second more to end.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(4);

/// Commands that are left at the stop are killed so long before its end.
const COMMANDS_BEFORE: Duration = Duration::from_secs(1);

/// The engine without HTTP: store, workers, timer, cleanup. A cheap handle; clones share it. Its
/// threads end with [`stop`](TaskSystem::stop), not with the last handle.
///
/// ```
/// use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
///
/// let config = Config::from_pairs([("WORKER_THREADS", "2")])?;
/// let system = TaskSystem::start(&config, ExecutorRegistry::new())?;
/// let session = SessionKey::parse("me").expect("a valid key");
/// let task = system.execution().submit(&session, NewTask::new("Demo").kind("sample"))?;
/// assert_eq!(system.tasks().get(&session, task.id)?.name.as_ref(), "Demo");
/// system.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TaskSystem {
    execution: TaskExecutionService,
    cleanup: TaskCleanupService,
    audit: Option<Arc<Audit>>,
    /// Those of `EXECUTORS`.
    own_types: Option<Arc<OwnTypes>>,
}

impl TaskSystem {
    /// Starts the threads. The demo executors are registered too, where `registry` does not
    /// have their types.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, TaskSystem};
    /// let config = Config::from_pairs([("WORKER_THREADS", "2"), ("AUDIT_LOG", "")])?;
    /// let system = TaskSystem::start(&config, ExecutorRegistry::new())?;
    /// system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The audit log cannot be opened, or a thread cannot be started.
    pub fn start(config: &Config, registry: ExecutorRegistry) -> io::Result<TaskSystem> {
        let system = TaskSystem::start_threads(config, registry)?;
        say_initialized();
        Ok(system)
    }

    pub(crate) fn start_threads(
        config: &Config,
        mut registry: ExecutorRegistry,
    ) -> io::Result<TaskSystem> {
        demo::register(&mut registry);
        let audit = match &config.audit_log {
            None => None,
            Some(path) => Some(Arc::new(Audit::start(path).map_err(|error| {
                io::Error::new(error.kind(), audit::told(path, &error))
            })?)),
        };
        let limits = Limits {
            max_sessions: config.max_sessions,
            session_timeout: config.session_timeout,
            max_tasks_per_session: config.max_tasks_per_session,
            max_store_bytes: config.max_store_bytes,
            max_log_bytes: config.max_log_bytes,
            max_completed_tasks: config.max_completed_tasks,
            max_failed_tasks: config.max_failed_tasks,
            max_cancelled_tasks: config.max_cancelled_tasks,
        };
        let options = EngineOptions {
            workers: config.worker_threads,
            max_active_tasks: config.max_active_tasks,
            max_result_bytes: config.max_result_bytes,
        };
        let own_types = match &config.executors {
            None => None,
            Some(path) => {
                let max_result_bytes = config.max_result_bytes;
                let started = OwnTypes::start(path, &mut registry, max_result_bytes);
                Some(Arc::new(started?))
            }
        };
        let observer = audit.as_deref().map(Audit::observer);
        let meter = config.metrics.then(|| WorkMeter::new(registry.types()));
        let on_removal = audit.as_deref().map(Audit::on_removal);
        let tasks = TaskManager::observed(limits, observer, on_removal, meter);
        let execution = TaskExecutionService::start_threads(tasks.clone(), registry, options)?;
        let cleanup = TaskCleanupService::start(tasks, config.task_cleanup_interval)?;
        Ok(TaskSystem {
            execution,
            cleanup,
            audit,
            own_types,
        })
    }

    /// The store: create, read, list, count.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// system.tasks().create(&session, NewTask::new("Report"))?;
    /// assert_eq!(system.tasks().stats(&session).pending, 1);
    /// system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tasks(&self) -> &TaskManager {
        self.execution.tasks()
    }

    /// The engine: submit, start, cancel, retry.
    ///
    /// ```
    /// # use async_task_system::{NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Default::default(), Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.execution().submit(&session, NewTask::new("Report"))?.id;
    /// system.execution().cancel(&session, id)?;
    /// assert_eq!(system.execution().retry(&session, id)?.attempt, 2);
    /// system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn execution(&self) -> &TaskExecutionService {
        &self.execution
    }

    /// The cleanup service.
    ///
    /// ```
    /// # use async_task_system::{Config, NewTask, SessionKey, TaskSystem};
    /// let config = Config::from_pairs([("MAX_CANCELLED_TASKS", "1")])?;
    /// let system = TaskSystem::start(&config, Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// for name in ["older", "newer"] {
    ///     let id = system.tasks().create(&session, NewTask::new(name))?.id;
    ///     system.execution().cancel(&session, id)?;
    /// }
    /// assert_eq!(system.cleanup().run(&session), 1);
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cleanup(&self) -> &TaskCleanupService {
        &self.cleanup
    }

    /// Cancels what is queued or running with `server stopped`, writes that to history and
    /// audit log, and ends the threads, within five seconds. Harmless when repeated.
    ///
    /// ```
    /// # use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Config::default(), ExecutorRegistry::new())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// system.stop();
    /// assert!(system.execution().submit(&session, NewTask::new("Late")).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop(&self) {
        self.stop_until(Instant::now() + STOP_WITHIN);
    }

    /// Opens the audit log anew, after somebody has moved it away, and reads the file of `EXECUTORS` anew.
    pub(crate) fn reopen_files(&self) {
        let pool = self.execution.pool();
        let types = self.own_types.as_deref();
        if let Some(registry) = types.and_then(|types| types.reload(&pool.registry())) {
            if let Some(meter) = self.tasks().meter() {
                meter.add(registry.types());
            }
            pool.replace_registry(registry);
        }
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }

    /// Takes no more tasks, and cancels those that are queued or running.
    pub(crate) fn close(&self) {
        self.execution.close();
        if let Some(types) = &self.own_types {
            types.close();
        }
    }

    pub(crate) fn stop_until(&self, deadline: Instant) {
        self.execution.stop(deadline);
        if let Some(types) = &self.own_types {
            // Jobs are given back afterwards, when their commands have ended.
            types.stop(deadline - COMMANDS_BEFORE);
        }
        self.cleanup.stop(deadline);
        if let Some(audit) = &self.audit {
            audit.stop(deadline);
        }
    }
}

/// Said once, when everything has started.
pub(crate) fn say_initialized() {
    log::info!("Task system initialized successfully");
}
