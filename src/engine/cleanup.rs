//! The thread that removes surplus finished tasks and idle sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender};
use parking_lot::Mutex;

use crate::store::TaskManager;
use crate::task::{Millis, SessionKey, later, now_ms};
use crate::threads::{self, join_until};

/// Runs cleanups, on its own thread by the clock and for a session when asked. A cheap handle.
///
/// ```
/// use async_task_system::{Config, ExecutorRegistry, NewTask, SessionKey, TaskSystem};
///
/// let config = Config::from_pairs([("MAX_CANCELLED_TASKS", "1")])?;
/// let system = TaskSystem::start(&config, ExecutorRegistry::new())?;
/// let session = SessionKey::parse("me").expect("a valid key");
/// for name in ["older", "newer", "newest"] {
///     let task = system.tasks().create(&session, NewTask::new(name))?;
///     system.execution().cancel(&session, task.id)?;
/// }
/// assert_eq!(system.cleanup().run(&session), 2, "all but the newest");
/// system.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TaskCleanupService {
    shared: Arc<Shared>,
}

struct Shared {
    tasks: TaskManager,
    interval: Duration,
    running: AtomicUsize,
    active: AtomicBool,
    last_at: AtomicU64,
    next_at: AtomicU64,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

/// What the service is doing.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::{SessionKey, TaskCleanupService, TaskManager};
/// # use std::time::{Duration, Instant};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let service = TaskCleanupService::start(tasks, Duration::from_secs(300))?;
/// let status = service.status();
/// assert!(status.active && !status.running);
/// assert_eq!((status.interval, status.last_at), (Duration::from_secs(300), None));
/// service.stop(Instant::now() + Duration::from_secs(1));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanupStatus {
    /// A cleanup is going on right now.
    pub running: bool,
    /// The thread is on duty.
    pub active: bool,
    /// How often it runs.
    pub interval: Duration,
    /// When it last ran.
    pub last_at: Option<Millis>,
    /// When it runs next.
    pub next_at: Option<Millis>,
}

impl TaskCleanupService {
    /// Starts the thread, which cleans every `interval`.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{SessionKey, TaskCleanupService, TaskManager};
    /// # use std::time::{Duration, Instant};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let service = TaskCleanupService::start(tasks, Duration::from_secs(300))?;
    /// service.stop(Instant::now() + Duration::from_secs(1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(tasks: TaskManager, interval: Duration) -> std::io::Result<TaskCleanupService> {
        let shared = Arc::new(Shared {
            tasks,
            interval,
            running: AtomicUsize::new(0),
            active: AtomicBool::new(true),
            last_at: AtomicU64::new(0),
            next_at: AtomicU64::new(millis_later(now_ms(), interval)),
            thread: Mutex::new(None),
        });
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let inside = shared.clone();
        let thread = threads::spawn("cleanup", move || {
            let tick = inside.tick();
            let mut due = later(Instant::now(), inside.interval);
            while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                let expired = inside.tasks.expire();
                if expired > 0 {
                    log::info!("Dropped {expired} idle sessions");
                }
                if Instant::now() >= due {
                    due = later(Instant::now(), inside.interval);
                    inside.clean_all();
                }
            }
        })?;
        *shared.thread.lock() = Some((stop, thread));
        Ok(TaskCleanupService { shared })
    }

    /// Cleans one session, now; the number of tasks removed.
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
    pub fn run(&self, key: &SessionKey) -> usize {
        self.shared.by_hand(key, || self.shared.tasks.clean(key))
    }

    /// Removes all finished tasks of one session, now; how many there were.
    ///
    /// ```
    /// # use async_task_system::{NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Default::default(), Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// system.execution().cancel(&session, id)?;
    /// assert_eq!(system.cleanup().run_all(&session), 1);
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_all(&self, key: &SessionKey) -> usize {
        self.shared
            .by_hand(key, || self.shared.tasks.clean_all_ended(key))
    }

    /// What it is doing.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{SessionKey, TaskCleanupService, TaskManager};
    /// # use std::time::{Duration, Instant};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let service = TaskCleanupService::start(tasks, Duration::from_secs(300))?;
    /// assert!(service.status().next_at.is_some());
    /// service.stop(Instant::now() + Duration::from_secs(1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn status(&self) -> CleanupStatus {
        let shared = &self.shared;
        let moment = |at: &AtomicU64| Some(at.load(Relaxed)).filter(|&at| at > 0);
        let active = shared.active.load(Relaxed);
        CleanupStatus {
            running: shared.running.load(Relaxed) > 0,
            active,
            interval: shared.interval,
            last_at: moment(&shared.last_at),
            next_at: moment(&shared.next_at).filter(|_| active),
        }
    }

    /// Ends the thread. Harmless when repeated.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{SessionKey, TaskCleanupService, TaskManager};
    /// # use std::time::{Duration, Instant};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let service = TaskCleanupService::start(tasks, Duration::from_secs(300))?;
    /// service.stop(Instant::now() + Duration::from_secs(1));
    /// assert!(!service.status().active);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self, deadline: Instant) {
        self.shared.active.store(false, Relaxed);
        if let Some((stop, thread)) = self.shared.thread.lock().take() {
            drop(stop);
            join_until(thread, deadline);
        }
    }
}

impl Shared {
    /// How often to look: sessions expire between cleanups too.
    fn tick(&self) -> Duration {
        let timeout = self.tasks.limits().session_timeout;
        (timeout / 2)
            .clamp(Duration::from_millis(50), Duration::from_secs(60))
            .min(self.interval)
    }

    fn clean_all(&self) {
        let removed = self.while_running(|| self.tasks.clean_all());
        let now = now_ms();
        self.last_at.store(now, Relaxed);
        self.next_at
            .store(millis_later(now, self.interval), Relaxed);
        if removed > 0 {
            log::info!("Cleaned up {}", finished_tasks(removed));
        }
    }

    /// A cleanup that somebody asked for.
    fn by_hand(&self, key: &SessionKey, clean: impl FnOnce() -> usize) -> usize {
        let removed = self.while_running(clean);
        log::info!("Cleaned up {} of session {key}", finished_tasks(removed));
        removed
    }

    fn while_running<R>(&self, body: impl FnOnce() -> R) -> R {
        self.running.fetch_add(1, Relaxed);
        let answer = body();
        self.running.fetch_sub(1, Relaxed);
        answer
    }
}

fn finished_tasks(count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} finished task{plural}")
}

fn millis_later(from: Millis, by: Duration) -> Millis {
    from.saturating_add(Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Limits;

    #[test]
    fn an_interval_without_end_is_none_to_stumble_over() {
        let tasks = TaskManager::new(Limits::default(), None);
        let service = TaskCleanupService::start(tasks, Duration::MAX).expect("a thread");
        assert_eq!(service.status().next_at, Some(Millis::MAX));
        service.shared.clean_all();
        assert_eq!(service.status().next_at, Some(Millis::MAX));
        service.stop(Instant::now() + Duration::from_secs(10));
    }
}
