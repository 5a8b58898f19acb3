//! The session-sharded store: every task of every session, its limits and its counters.
//!
//! # Locks
//!
//! 1. a *shard's* lock guards which sessions exist,
//! 2. a *session's* lock guards all that the session holds,
//! 3. the share links' lock guards where each token leads.
//!
//! They are taken in this order, and a handler holds at most one of each. The observer and the
//! session's hub are called under the session's lock and must not block. Nothing else is called under
//! a lock. Counters over all sessions (bytes, sessions) are atomics that never pass their limits.
//!
//! A session that leaves the store is marked `dropped` under both locks. A caller that found it
//! before looks it up again, so a task is never created in a session that is gone.

mod attempt;
mod budget;
mod clean;
mod history;
mod holding;
mod idempotency;
mod limits;
mod list;
mod logs;
mod meter;
#[cfg(test)]
mod model;
mod new_ids;
mod new_task;
#[cfg(test)]
mod races;
mod record;
mod scenes;
mod session;
mod sessions;
mod shared;
mod shares;
mod task_log;
mod varint;
mod watch;
#[cfg(test)]
mod watch_races;
mod watch_session;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use parking_lot::RwLock;

use new_ids::NewIds;

pub(crate) use attempt::Hold;
pub(crate) use budget::Budget;
pub use clean::Cleaned;
pub(crate) use idempotency::Once;
pub use limits::{Limits, StoreError};
pub use list::{ListQuery, Page};
pub use logs::LogPart;
pub use new_task::NewTask;
pub use record::ShareToken;
pub use session::Stats;
pub(crate) use session::{Answer, Attempt, Scenes};
pub use shared::Observer;
pub(crate) use shared::OnRemoval;
pub(crate) use task_log::LogMark;
#[cfg(feature = "jobs")]
pub(crate) use task_log::{NewLine, TaskLog};
pub use watch::{TaskWatch, Wait, WatchUpdate};
pub use watch_session::{SessionUpdate, SessionWatch};

pub use crate::task::DEFAULT_KIND;

use crate::metrics::WorkMeter;
use crate::task::{HistoryEvent, SessionKey, Task, TaskId};
use history::Mark;
use new_task::new_task;
use record::Record;
use session::Session;
use shared::Shared;

/// Creates, reads, lists, counts and cleans tasks. A cheap handle: clones share one store.
///
/// Starting and cancelling, which need workers, are the
/// [`TaskExecutionService`](crate::engine::TaskExecutionService)'s.
///
/// ```
/// use async_task_system::store::Limits;
/// use async_task_system::{ListQuery, NewTask, StoreError, SessionKey, TaskManager, TaskStatus};
///
/// let tasks = TaskManager::new(Limits::default(), None);
/// let (mine, yours) = (SessionKey::parse("me").unwrap(), SessionKey::parse("you").unwrap());
/// let id = tasks.create(&mine, NewTask::new("Monthly report"))?.id;
///
/// assert_eq!(tasks.get(&mine, id)?.status, TaskStatus::Pending);
/// assert_eq!(tasks.get(&yours, id).err(), Some(StoreError::TaskNotFound));
/// assert_eq!(tasks.stats(&mine).pending, 1);
///
/// let page = tasks.list(&mine, &ListQuery::default(), |task| task.name.clone());
/// assert_eq!((page.items, page.total), (vec!["Monthly report".into()], 1));
///
/// let events = tasks.history(&mine, id, |events| {
///     events.map(|event| (event.seq, event.kind.as_str())).collect::<Vec<_>>()
/// })?;
/// assert_eq!(events, [(1, "created")]);
/// # Ok::<(), StoreError>(())
/// ```
#[derive(Clone)]
pub struct TaskManager {
    shared: Arc<Shared>,
    shards: Arc<Shards>,
}

/// The sessions, spread over many locks.
struct Shards {
    shards: [RwLock<Shard>; 32],
    hasher: RandomState,
}

type Shard = HashMap<SessionKey, Arc<Session>>;

impl Default for Shards {
    fn default() -> Shards {
        Shards {
            shards: Default::default(),
            hasher: RandomState::new(),
        }
    }
}

impl Shards {
    fn of(&self, key: &SessionKey) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(key) as usize % self.shards.len()]
    }
}

impl TaskManager {
    /// An empty store. `observer` is told of every history event, under a lock: it must not
    /// block.
    ///
    /// ```
    /// use async_task_system::store::Limits;
    /// use async_task_system::{HistoryEvent, NewTask, SessionKey, TaskId, TaskManager};
    /// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    ///
    /// static EVENTS: AtomicU32 = AtomicU32::new(0);
    /// let count = |_: &SessionKey, _: TaskId, _: &HistoryEvent<'_>| {
    ///     EVENTS.fetch_add(1, Relaxed);
    /// };
    /// let tasks = TaskManager::new(Limits::default(), Some(Box::new(count)));
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// tasks.create(&session, NewTask::new("Report"))?;
    /// assert_eq!(EVENTS.load(Relaxed), 1);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn new(limits: Limits, observer: Option<Box<Observer>>) -> TaskManager {
        TaskManager::observed(limits, observer, None, None)
    }

    /// As [`new`](Self::new), with all observers.
    pub(crate) fn observed(
        limits: Limits,
        observer: Option<Box<Observer>>,
        on_removal: Option<Box<OnRemoval>>,
        meter: Option<WorkMeter>,
    ) -> TaskManager {
        TaskManager {
            shared: Arc::new(Shared {
                budget: Budget::new(limits.max_store_bytes),
                limits,
                sessions: AtomicUsize::new(0),
                stopping: AtomicBool::new(false),
                epoch: Instant::now(),
                ids: NewIds::default(),
                observer,
                on_removal,
                meter,
                shares: RwLock::default(),
            }),
            shards: Arc::default(),
        }
    }

    /// Creates a task that waits to be started.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{TaskStatus, NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let task = tasks.create(&session, NewTask::new("Report"))?;
    /// assert_eq!(task.status, TaskStatus::Pending);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A limit that is reached, or `Stopping`; nothing is created then.
    pub fn create(&self, key: &SessionKey, new: NewTask) -> Result<Task, StoreError> {
        self.insert(key, new, false).map(|(task, _)| task)
    }

    /// Creates a task, queued or not.
    pub(crate) fn insert(
        &self,
        key: &SessionKey,
        new: NewTask,
        queued: bool,
    ) -> Result<(Task, Attempt), StoreError> {
        let shared = &*self.shared;
        loop {
            let session = self.find_or_create(key)?;
            let mut state = session.state.write();
            if state.dropped {
                continue;
            }
            self.check_open()?;
            if state.len() >= shared.limits.max_tasks_per_session {
                let limit = shared.limits.max_tasks_per_session;
                return Err(StoreError::SessionTaskLimit(limit));
            }
            // The id is drawn under the lock, so the session's newest task has the highest id.
            let task = new_task(shared.ids.above(state.newest), key, new, queued);
            let record = Record::create(task.clone(), &shared.budget)
                .ok_or(StoreError::StoreFull(shared.limits.max_store_bytes))?;
            state.insert(shared, key, record);
            drop(state);
            let attempt = Attempt {
                session,
                task: task.id,
                number: 1,
            };
            return Ok((task, attempt));
        }
    }

    /// The task as it stands.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// assert_eq!(tasks.get(&session, id)?.id, id);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, also for another session's task.
    pub fn get(&self, key: &SessionKey, id: TaskId) -> Result<Task, StoreError> {
        self.inspect(key, id, Task::clone)
    }

    /// Reads a task in place, without a copy. `read` runs under the session's lock: keep it
    /// short, and call nothing of the store in it.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// assert_eq!(tasks.inspect(&session, id, |task| task.progress)?, 0);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn inspect<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        read: impl FnOnce(&Task) -> R,
    ) -> Result<R, StoreError> {
        self.with_record(key, id, |record| read(&record.task))
    }

    /// Reads a task's history in place, oldest first; as [`inspect`](Self::inspect).
    ///
    /// ```
    /// use async_task_system::store::Limits;
    /// use async_task_system::{EventKind, NewTask, SessionKey, TaskManager};
    ///
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// let kinds: Vec<_> = tasks.history(&session, id, |entries| entries.map(|e| e.kind).collect())?;
    /// assert_eq!(kinds, [EventKind::Created]);
    /// assert_eq!(tasks.stats(&session).pending, 1);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn history<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        read: impl FnOnce(&mut dyn Iterator<Item = HistoryEvent<'_>>) -> R,
    ) -> Result<R, StoreError> {
        self.with_record(key, id, |record| read(&mut record.history.iter()))
    }

    /// Part of a task's history, beginning at `from` or at its start: calls `read` under the session's
    /// lock until it returns false. Returns the place behind the last entry.
    pub(crate) fn history_part(
        &self,
        key: &SessionKey,
        id: TaskId,
        from: Option<Mark>,
        mut read: impl FnMut(&HistoryEvent<'_>) -> bool,
    ) -> Result<(Mark, bool), StoreError> {
        self.with_record(key, id, |record| {
            let from = from.unwrap_or_else(|| record.history.start());
            let mut events = record.history.since(from);
            let stopped = events.by_ref().any(|event| !read(&event));
            (events.mark(), stopped)
        })
    }

    fn with_record<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        read: impl FnOnce(&Record) -> R,
    ) -> Result<R, StoreError> {
        let session = self.find(key).ok_or(StoreError::TaskNotFound)?;
        let state = session.state.read();
        state.get(id).map(read).ok_or(StoreError::TaskNotFound)
    }

    /// The session, unless it has expired.
    fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let session = self.shards.of(key).read().get(key).cloned()?;
        let now = self.clock();
        if self.is_expired_at(&session, now) && self.drop_expired(&session) {
            return None;
        }
        session.touch(now);
        Some(session)
    }

    fn is_expired_at(&self, session: &Session, now: u64) -> bool {
        let timeout = self.shared.limits.session_timeout.as_millis() as u64;
        session.idle_for(now) >= timeout
    }

    /// Milliseconds of the store's own monotonic clock.
    fn clock(&self) -> u64 {
        self.shared.epoch.elapsed().as_millis() as u64
    }

    /// The session's counters.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// assert_eq!(tasks.stats(&session).total, 0, "also for a session that is not there");
    /// tasks.create(&session, NewTask::new("Report"))?;
    /// assert_eq!(tasks.stats(&session).pending, 1);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn stats(&self, key: &SessionKey) -> Stats {
        let Some(session) = self.find(key) else {
            return Stats::default();
        };
        session.state.read().stats()
    }

    /// Bytes in use.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let before = tasks.bytes();
    /// tasks.create(&session, NewTask::new("Report"))?;
    /// assert!((before + 1..=tasks.limits().max_store_bytes).contains(&tasks.bytes()));
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn bytes(&self) -> usize {
        self.shared.budget.used()
    }

    /// The session's newest task.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// assert_eq!(tasks.newest(&session), None);
    /// let task = tasks.create(&session, NewTask::new("Report"))?;
    /// assert_eq!(tasks.newest(&session), Some(task.id));
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn newest(&self, key: &SessionKey) -> Option<TaskId> {
        let session = self.find(key)?;
        let state = session.state.read();
        state.newest(None).next().map(|record| record.task.id)
    }

    /// The limits it was made with.
    ///
    /// ```
    /// # use async_task_system::{TaskManager, store::Limits};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// assert_eq!(tasks.limits().max_tasks_per_session, 10_000);
    /// ```
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    fn change<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        change: impl FnOnce(&mut Record) -> Result<R, StoreError>,
    ) -> Result<(Arc<Session>, R), StoreError> {
        let session = self.find(key).ok_or(StoreError::TaskNotFound)?;
        let answer = session
            .state
            .write()
            .change(&self.shared, key, id, change)
            .ok_or(StoreError::TaskNotFound)??;
        Ok((session, answer))
    }
}
