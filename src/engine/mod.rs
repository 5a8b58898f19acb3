//! Runs tasks: a fixed pool of workers, one timer, and the service that starts, cancels and
//! retries.
//!
//! A run travels: job channel → worker → (timer → job channel → worker …) → end. It carries its
//! attempt, and whoever takes it up asks the store whether that attempt still counts; a run
//! that does not is simply dropped. So a cancel changes the store and needs no worker.
//!
//! The job channel has no bound of its own, because its length has one: every run holds a
//! `Permit`, of which there are `max_active_tasks`.

pub(crate) mod audit;
mod cleanup;
mod overseer;
mod timer;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

pub use cleanup::TaskCleanupService;

use crate::executor::{ExecutorRegistry, TaskExecutor, TaskInput};
use crate::permits::{Permit, Permits};
use crate::store::{Attempt, Ending, NewTask, Refused, TaskManager};
use crate::task::{SessionKey, Task, TaskId};
use overseer::Overseer;
use timer::Timer;
use worker::BlockingLane;

/// How the engine runs.
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

/// The number of cores, at least 4.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4))
}

/// One attempt on its way through channel, worker and timer.
struct Run {
    attempt: Attempt,
    /// When this slice was to begin.
    due: Instant,
    /// `None` until the first slice.
    work: Option<Work>,
    _permit: Permit,
}

struct Work {
    input: TaskInput,
    executor: Box<dyn TaskExecutor>,
    blocking: bool,
}

struct Engine {
    tasks: TaskManager,
    registry: ExecutorRegistry,
    options: EngineOptions,
    active: Permits,
    /// `None` once stopped: the workers end when the channel closes.
    jobs: RwLock<Option<Sender<Box<Run>>>>,
    timer: Timer,
    lane: BlockingLane,
    overseer: Overseer,
}

impl Engine {
    fn permit(&self) -> Result<Permit, Refused> {
        let full = Refused::QueueFull(self.active.max());
        self.active.take().ok_or(full)
    }

    /// Hands a run to the workers. After the stop it is dropped: its task is cancelled by then.
    fn send(&self, run: Box<Run>) {
        if let Some(jobs) = &*self.jobs.read() {
            // Never blocks: the channel is unbounded.
            let _ = jobs.send(run);
        }
    }

    fn launch(&self, attempt: Attempt, permit: Permit) {
        self.send(Box::new(Run {
            attempt,
            due: Instant::now(),
            work: None,
            _permit: permit,
        }));
    }

    fn finish(&self, attempt: &Attempt, ending: Ending) {
        self.timer.forget(attempt);
        let Some(task) = self.tasks.finish(attempt, ending) else {
            return;
        };
        match task.error {
            Some(why) => log::warn!("Task {} failed: {}", task.id, crate::LogSafe(&why)),
            None => log::info!(
                "Completed execution of task {} for session {}",
                task.id,
                attempt.session()
            ),
        }
    }

    fn time_out(&self, attempt: &Attempt, limit: Duration) {
        let why = format!("timed out after {} ms", limit.as_millis());
        self.finish(attempt, Ending::Failed(why));
    }
}

/// Starts, cancels and retries tasks, and runs them on its pool. A cheap handle: clones share
/// one engine.
#[derive(Clone)]
pub struct TaskExecutionService {
    engine: Arc<Engine>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl TaskExecutionService {
    /// Starts the workers and the timer.
    ///
    /// # Errors
    ///
    /// The system's, where a thread cannot be started.
    pub fn start_threads(
        tasks: TaskManager,
        registry: ExecutorRegistry,
        options: EngineOptions,
    ) -> std::io::Result<TaskExecutionService> {
        let (jobs, queue) = crossbeam_channel::unbounded();
        let engine = Arc::new(Engine {
            tasks,
            registry,
            options,
            active: Permits::new(options.max_active_tasks),
            jobs: RwLock::new(Some(jobs)),
            timer: Timer::default(),
            lane: BlockingLane::new(options.workers),
            overseer: Overseer::default(),
        });
        let service = TaskExecutionService {
            engine: engine.clone(),
            threads: Arc::default(),
        };
        for n in 1..=options.workers {
            let (engine, queue) = (engine.clone(), queue.clone());
            service.spawn(format!("worker-{n}"), move || {
                worker::work(&engine, || queue.recv().ok());
            })?;
        }
        let (inside, jobs) = (service.clone(), queue);
        service.spawn("overseer".to_owned(), move || {
            overseer::watch(&inside, &jobs)
        })?;
        service.spawn("timer".to_owned(), move || timer::run(&engine))?;
        Ok(service)
    }

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name).spawn(body)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Creates a task and starts it at once. The task is returned as created: `pending`.
    ///
    /// # Errors
    ///
    /// As [`TaskManager::create`], and `QueueFull`; nothing is created then.
    pub fn submit(&self, key: &SessionKey, new: NewTask) -> Result<Task, Refused> {
        let permit = self.engine.permit()?;
        let (task, attempt) = self.engine.tasks.insert(key, new, true)?;
        self.engine.launch(attempt, permit);
        Ok(task)
    }

    /// Starts a pending task.
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, `Forbidden(NotStartable)`, or a limit that is reached.
    pub fn start(&self, key: &SessionKey, id: TaskId) -> Result<(), Refused> {
        let permit = self.permit_for(key, id)?;
        let attempt = self.engine.tasks.queue(key, id)?;
        self.engine.launch(attempt, permit);
        Ok(())
    }

    /// Queues a failed or cancelled task again, as a new attempt.
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, `Forbidden(NotRetryable)`, or a limit that is reached.
    pub fn retry(&self, key: &SessionKey, id: TaskId) -> Result<Task, Refused> {
        let permit = self.permit_for(key, id)?;
        let (task, attempt) = self.engine.tasks.retry(key, id)?;
        self.engine.launch(attempt, permit);
        Ok(task)
    }

    /// A permit; a full queue does not hide that the task is not there at all.
    fn permit_for(&self, key: &SessionKey, id: TaskId) -> Result<Permit, Refused> {
        self.engine
            .permit()
            .or_else(|full| self.engine.tasks.inspect(key, id, |_| Err(full))?)
    }

    /// Calls a pending or running task off. Its executor learns it at its next report.
    ///
    /// # Errors
    ///
    /// `TaskNotFound` or `Forbidden(AlreadyFinished)`.
    pub fn cancel(&self, key: &SessionKey, id: TaskId) -> Result<Task, Refused> {
        let task = self.engine.tasks.cancel(key, id)?;
        self.engine.timer.forget_task(id, task.attempt);
        log::info!("Cancelled task {id} for session {key}");
        Ok(task)
    }

    /// The store that it works on.
    pub fn tasks(&self) -> &TaskManager {
        &self.engine.tasks
    }

    /// Takes no more tasks, and cancels what is queued or running, with `server stopped`.
    pub(crate) fn close(&self) {
        let cancelled = self.engine.tasks.close("server stopped");
        if cancelled > 0 {
            log::info!("Cancelled {cancelled} tasks: server stopped");
        }
    }

    /// Cancels what is queued or running, with `server stopped`, and ends the threads. Waits
    /// for them until `deadline`; an executor that still blocks then is left behind. Harmless
    /// when repeated.
    pub fn stop(&self, deadline: Instant) {
        self.close();
        self.engine.jobs.write().take();
        self.engine.lane.clear();
        self.engine.timer.stop();
        self.engine.overseer.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            join_until(thread, deadline);
        }
    }
}

/// Joins `thread`, or leaves it where it has not ended by `deadline`.
pub(crate) fn join_until(thread: JoinHandle<()>, deadline: Instant) {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            let name = thread.thread().name().unwrap_or("?");
            log::warn!("Thread {name} did not end in time and is left behind");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    if thread.join().is_err() {
        log::error!("A thread panicked");
    }
}
