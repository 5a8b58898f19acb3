//! The session-sharded store: every task of every session, its limits and its counters.
//!
//! # Locks
//!
//! 1. a *shard's* lock guards which sessions exist,
//! 2. a *session's* lock guards all that the session holds,
//! 3. the share links' lock guards where each token leads.
//!
//! They are taken in this order, and a handler holds at most one of each. The observer and the
//! session's hub are told of events under the session's lock and must not block; nothing else is
//! called under a lock.
//! Counters that span sessions (bytes, sessions) are atomics that never pass their limits.
//!
//! A session that leaves is marked `dropped` under both locks. Whoever had found it before looks
//! again, so that a task is never created in a session that is gone.

mod budget;
mod history;
mod list;
#[cfg(test)]
mod races;
mod receipts;
mod record;
mod session;
mod shares;
mod watch;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde_json::value::RawValue;
use uuid::Uuid;

pub use list::{ListQuery, Page};
pub use receipts::Answer;
pub(crate) use receipts::{First, Once};
pub(crate) use record::Ending;
pub use session::Observer;
pub use shares::ShareToken;
pub use watch::{Heard, SessionHeard, SessionWatch, TaskWatch, Wait};

use crate::executor::{TaskError, TaskInput};
use crate::task::{Forbidden, HistoryEvent, Millis, SessionKey, Task, TaskId, TaskStatus, now_ms};
use budget::Budget;
use record::Record;
use session::{SESSION_WEIGHT, Session, State};
use shares::Shares;

const SHARDS: usize = 32;

/// The most tasks taken out under one hold of a session's lock.
const CLEAN_BATCH: usize = 1_000;

/// How much the store may hold, and for how long.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Sessions at once.
    pub max_sessions: usize,
    /// A session without work in flight is dropped after this long without a request.
    pub session_timeout: Duration,
    /// Tasks in one session.
    pub max_tasks_per_session: usize,
    /// Bytes of all tasks, with their history.
    pub max_store_bytes: usize,
    /// Completed tasks that a cleanup keeps in each session.
    pub max_completed_tasks: usize,
    /// Failed tasks that a cleanup keeps in each session.
    pub max_failed_tasks: usize,
    /// Cancelled tasks that a cleanup keeps in each session.
    pub max_cancelled_tasks: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_sessions: 1_000,
            session_timeout: Duration::from_secs(30 * 60),
            max_tasks_per_session: 10_000,
            max_store_bytes: 256 << 20,
            max_completed_tasks: 50,
            max_failed_tasks: 20,
            max_cancelled_tasks: 20,
        }
    }
}

/// Why the store did not do what was asked. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// No such task in this session.
    TaskNotFound,
    /// The task's state forbids it.
    Forbidden(Forbidden),
    /// The session has as many tasks as it may have.
    SessionTaskLimit(usize),
    /// The store holds as many bytes as it may.
    StoreFull(usize),
    /// As many tasks are queued or running as may be.
    QueueFull(usize),
    /// As many sessions as may be have work in flight.
    TooManySessions(usize),
    /// This idempotency key came with another request before.
    IdempotencyKeyReused,
    /// The first request with this idempotency key is still being answered.
    IdempotencyKeyInUse,
    /// The server is stopping.
    Stopping,
}

impl From<Forbidden> for Refused {
    fn from(forbidden: Forbidden) -> Refused {
        Refused::Forbidden(forbidden)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::TaskNotFound => f.write_str("Task not found"),
            Refused::Forbidden(Forbidden::NotStartable(status)) => match status {
                TaskStatus::Pending | TaskStatus::Running => f.write_str("Task is already running"),
                ended => write!(f, "Task is already {ended}"),
            },
            Refused::Forbidden(Forbidden::AlreadyFinished(status)) => {
                write!(f, "Task has already finished: it is {status}")
            }
            Refused::Forbidden(Forbidden::NotRetryable(status)) => write!(
                f,
                "Only failed or cancelled tasks can be retried; this one is {status}"
            ),
            Refused::SessionTaskLimit(max) => write!(
                f,
                "This session already has {max} tasks; clean up with POST \
                 /api/v1/tasks/cleanup/run or use another session"
            ),
            Refused::StoreFull(max) => {
                write!(f, "The task store is full ({max} bytes); try again later")
            }
            Refused::QueueFull(max) => {
                write!(f, "{max} tasks are queued or running; try again later")
            }
            Refused::TooManySessions(max) => {
                write!(f, "All {max} sessions have work in flight; try again later")
            }
            Refused::IdempotencyKeyReused => {
                f.write_str("This Idempotency-Key was used with another request; use a new key")
            }
            Refused::IdempotencyKeyInUse => f.write_str(
                "The first request with this Idempotency-Key is still being answered; try again",
            ),
            Refused::Stopping => f.write_str("The server is stopping; try again later"),
        }
    }
}

impl std::error::Error for Refused {}

/// A task to be created.
///
/// ```
/// use async_task_system::NewTask;
/// use std::time::Duration;
///
/// let task = NewTask::new("Monthly report")
///     .kind("report")
///     .metadata(&serde_json::json!({ "month": "2026-10" }))
///     .timeout(Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct NewTask {
    pub(crate) name: Box<str>,
    pub(crate) description: Option<Box<str>>,
    pub(crate) kind: Arc<str>,
    pub(crate) metadata: Option<Box<RawValue>>,
    pub(crate) timeout_ms: Option<u64>,
}

/// The type of a task that names none.
pub const DEFAULT_KIND: &str = "sample";

impl NewTask {
    /// A task of this name, of type `sample`.
    pub fn new(name: &str) -> NewTask {
        NewTask {
            name: name.into(),
            description: None,
            kind: DEFAULT_KIND.into(),
            metadata: None,
            timeout_ms: None,
        }
    }

    /// Sets the type, which names the executor.
    pub fn kind(mut self, kind: &str) -> NewTask {
        self.kind = kind.into();
        self
    }

    /// Sets the description.
    pub fn description(mut self, description: &str) -> NewTask {
        self.description = Some(description.into());
        self
    }

    /// Sets the metadata, which the executor reads as its arguments.
    pub fn metadata(mut self, metadata: &serde_json::Value) -> NewTask {
        // A Value always serialises; were it otherwise, the task simply has no metadata.
        self.metadata = serde_json::value::to_raw_value(metadata).ok();
        self
    }

    /// Sets how long an attempt may run.
    pub fn timeout(mut self, timeout: Duration) -> NewTask {
        self.timeout_ms = Some(timeout.as_millis() as u64);
        self
    }
}

/// How many tasks a session has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Stats {
    pub total: usize,
    pub pending: usize,
    pub running: usize,
    pub completed: usize,
    pub failed: usize,
    pub cancelled: usize,
}

/// What a session's cleanups have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Tasks removed so far.
    pub total: u64,
    /// When a cleanup last went through the session.
    pub last_at: Option<Millis>,
}

/// One attempt of one task, for whoever runs it: reports carry it, and a stale one counts for
/// nothing. Holding it keeps no lock.
#[derive(Clone)]
pub(crate) struct Attempt {
    session: Arc<Session>,
    pub(crate) task: TaskId,
    pub(crate) number: u32,
}

impl Attempt {
    pub(crate) fn session(&self) -> &SessionKey {
        &self.session.key
    }
}

pub(crate) struct Shared {
    shards: Vec<RwLock<HashMap<SessionKey, Arc<Session>>>>,
    hasher: RandomState,
    limits: Limits,
    budget: Budget,
    sessions: AtomicUsize,
    stopping: AtomicBool,
    epoch: Instant,
    observer: Option<Box<Observer>>,
    shares: Shares,
}

impl Shared {
    fn observe(&self, key: &SessionKey, id: TaskId, event: &HistoryEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(key, id, event);
        }
    }

    /// Milliseconds on the store's own clock, which nobody sets back.
    fn clock(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn shard(&self, key: &SessionKey) -> &RwLock<HashMap<SessionKey, Arc<Session>>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

/// Creates, reads, lists, counts and cleans tasks. A cheap handle: clones share one store.
///
/// Starting and cancelling, which need workers, are the
/// [`TaskExecutionService`](crate::engine::TaskExecutionService)'s.
#[derive(Clone)]
pub struct TaskManager {
    shared: Arc<Shared>,
}

impl TaskManager {
    /// An empty store. `observer` is told of every history event, under a lock: it must not
    /// block.
    pub fn new(limits: Limits, observer: Option<Box<Observer>>) -> TaskManager {
        TaskManager {
            shared: Arc::new(Shared {
                shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
                hasher: RandomState::new(),
                budget: Budget::new(limits.max_store_bytes),
                limits,
                sessions: AtomicUsize::new(0),
                stopping: AtomicBool::new(false),
                epoch: Instant::now(),
                observer,
                shares: Shares::default(),
            }),
        }
    }

    /// Creates a task that waits to be started.
    ///
    /// # Errors
    ///
    /// A limit that is reached, or `Stopping`; nothing is created then.
    pub fn create(&self, key: &SessionKey, new: NewTask) -> Result<Task, Refused> {
        self.insert(key, new, false).map(|(task, _)| task)
    }

    /// Creates a task, queued or not.
    pub(crate) fn insert(
        &self,
        key: &SessionKey,
        new: NewTask,
        queued: bool,
    ) -> Result<(Task, Attempt), Refused> {
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
                return Err(Refused::SessionTaskLimit(limit));
            }
            // The id is drawn under the lock, so that the session's newest has the highest.
            let task = new_task(Uuid::now_v7(), key, new, queued);
            let record = Record::create(task.clone(), &shared.budget)
                .ok_or(Refused::StoreFull(shared.limits.max_store_bytes))?;
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
    /// # Errors
    ///
    /// `TaskNotFound`, also for another session's task.
    pub fn get(&self, key: &SessionKey, id: TaskId) -> Result<Task, Refused> {
        self.inspect(key, id, Task::clone)
    }

    /// Reads a task in place, without a copy. `read` runs under the session's lock: keep it
    /// short, and call nothing of the store in it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn inspect<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        read: impl FnOnce(&Task) -> R,
    ) -> Result<R, Refused> {
        self.with_record(key, id, |record| read(&record.task))
    }

    /// Reads a task's history in place, oldest first; as [`inspect`](Self::inspect).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn history<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        read: impl FnOnce(&mut dyn Iterator<Item = HistoryEvent<'_>>) -> R,
    ) -> Result<R, Refused> {
        self.with_record(key, id, |record| read(&mut record.history.iter()))
    }

    fn with_record<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        read: impl FnOnce(&Record) -> R,
    ) -> Result<R, Refused> {
        let session = self.find(key).ok_or(Refused::TaskNotFound)?;
        let state = session.state.read();
        state.get(id).map(read).ok_or(Refused::TaskNotFound)
    }

    /// The session's counters.
    pub fn stats(&self, key: &SessionKey) -> Stats {
        let Some(session) = self.find(key) else {
            return Stats::default();
        };
        session.state.read().stats()
    }

    /// A page of the session's tasks, newest first, each turned into an `R` by `read`, which
    /// runs under the session's lock.
    pub fn list<R>(
        &self,
        key: &SessionKey,
        query: &ListQuery,
        read: impl FnMut(&Task) -> R,
    ) -> Page<R> {
        match self.find(key) {
            Some(session) => list::page(&session, query, read),
            None => Page::empty(),
        }
    }

    /// Removes the session's oldest finished tasks beyond the numbers to keep.
    pub fn clean(&self, key: &SessionKey) -> usize {
        self.find(key)
            .map_or(0, |session| self.clean_session(&session))
    }

    /// What cleanups have done in the session.
    pub fn cleaned(&self, key: &SessionKey) -> Cleaned {
        let Some(session) = self.find(key) else {
            return Cleaned::default();
        };
        let state = session.state.read();
        Cleaned {
            total: state.cleaned,
            last_at: state.cleaned_at,
        }
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.shared.budget.used()
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    // For the engine: one attempt's life.

    pub(crate) fn queue(&self, key: &SessionKey, id: TaskId) -> Result<Attempt, Refused> {
        self.requeue(key, id, Record::queue).map(|(_, run)| run)
    }

    pub(crate) fn retry(&self, key: &SessionKey, id: TaskId) -> Result<(Task, Attempt), Refused> {
        self.requeue(key, id, Record::retry)
    }

    fn requeue(
        &self,
        key: &SessionKey,
        id: TaskId,
        transition: fn(&mut Record, Millis, &Budget) -> Result<bool, Forbidden>,
    ) -> Result<(Task, Attempt), Refused> {
        let (session, task) = self.change(key, id, |record| {
            self.check_open()?;
            if transition(record, now_ms(), &self.shared.budget)? {
                Ok(record.task.clone())
            } else {
                Err(Refused::StoreFull(self.shared.limits.max_store_bytes))
            }
        })?;
        let attempt = Attempt {
            session,
            task: id,
            number: task.attempt,
        };
        Ok((task, attempt))
    }

    pub(crate) fn cancel(&self, key: &SessionKey, id: TaskId) -> Result<Task, Refused> {
        let cancel = |record: &mut Record| {
            record.cancel(now_ms(), "", &self.shared.budget)?;
            Ok(record.task.clone())
        };
        self.change(key, id, cancel).map(|(_, task)| task)
    }

    fn change<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        change: impl FnOnce(&mut Record) -> Result<R, Refused>,
    ) -> Result<(Arc<Session>, R), Refused> {
        let session = self.find(key).ok_or(Refused::TaskNotFound)?;
        let answer = session
            .state
            .write()
            .change(&self.shared, key, id, change)
            .ok_or(Refused::TaskNotFound)??;
        Ok((session, answer))
    }

    /// The type of an attempt's task.
    pub(crate) fn kind_of(&self, attempt: &Attempt) -> Option<Arc<str>> {
        let state = attempt.session.state.read();
        state
            .get(attempt.task)
            .map(|record| record.task.kind.clone())
    }

    /// Queued → running, where `attempt` is still awaited. What to run, and its time limit.
    pub(crate) fn begin(&self, attempt: &Attempt) -> Option<(TaskInput, Option<Duration>)> {
        self.on_attempt(attempt, |record| {
            if !record.begin(now_ms(), attempt.number) {
                return None;
            }
            let task = &record.task;
            let input = TaskInput::new(
                task.id,
                task.kind.clone(),
                task.name.clone(),
                task.attempt,
                task.metadata.clone(),
            );
            Some((input, task.timeout_ms.map(Duration::from_millis)))
        })
        .flatten()
    }

    /// Takes a report of the running attempt.
    pub(crate) fn report(
        &self,
        attempt: &Attempt,
        percent: u8,
        step: &str,
        description: &str,
    ) -> Result<(), TaskError> {
        let taken = self.on_attempt(attempt, |record| {
            let counts = record.task.is_running(attempt.number);
            if counts {
                record.report(now_ms(), percent, step, description, &self.shared.budget);
            }
            counts
        });
        match taken {
            Some(true) => Ok(()),
            _ => Err(TaskError::stopped()),
        }
    }

    /// Whether `attempt` still runs, so that its reports count.
    pub(crate) fn is_running(&self, attempt: &Attempt) -> bool {
        let state = attempt.session.state.read();
        state
            .get(attempt.task)
            .is_some_and(|record| record.task.is_running(attempt.number))
    }

    /// The running attempt's end; the status it came to, `None` where it was over already.
    pub(crate) fn finish(&self, attempt: &Attempt, ending: Ending) -> Option<Task> {
        self.on_attempt(attempt, |record| {
            record.task.is_running(attempt.number).then(|| {
                record.finish(now_ms(), ending, &self.shared.budget);
                record.task.clone()
            })
        })
        .flatten()
    }

    fn on_attempt<R>(&self, attempt: &Attempt, change: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let session = &attempt.session;
        let now = self.shared.clock();
        let mut state = session.state.write();
        session.touch(now);
        state.change(&self.shared, &session.key, attempt.task, change)
    }

    /// Refuses new work from now on, and cancels what is queued or running, with `reason`.
    pub(crate) fn close(&self, reason: &str) -> usize {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let mut cancelled = 0;
        for session in self.sessions() {
            let mut state = session.state.write();
            let active: Vec<TaskId> = [TaskStatus::Pending, TaskStatus::Running]
                .into_iter()
                .flat_map(|status| state.ids(status))
                .copied()
                .filter(|&id| state.get(id).is_some_and(Record::is_active))
                .collect();
            for id in active {
                state.change(&self.shared, &session.key, id, |record| {
                    let done = record.cancel(now_ms(), reason, &self.shared.budget);
                    cancelled += usize::from(done.is_ok());
                });
            }
            state.hub.close();
        }
        cancelled
    }

    // For the cleanup service.

    /// Cleans every session; the number of tasks removed.
    pub(crate) fn clean_all(&self) -> usize {
        self.sessions()
            .iter()
            .map(|session| self.clean_session(session))
            .sum()
    }

    /// Drops the sessions whose time is over, and forgets old idempotency keys.
    pub(crate) fn expire(&self) -> usize {
        let mut expired = 0;
        for session in self.sessions() {
            if self.is_expired(&session) {
                expired += usize::from(self.drop_session(&session, |s| self.is_expired(s)));
            } else {
                let mut state = session.state.write();
                let budget = &self.shared.budget;
                state.receipts.retain(|_, receipt| {
                    let keep = !receipt.is_over();
                    if !keep {
                        budget.refund(receipt.weight());
                    }
                    keep
                });
            }
        }
        expired
    }

    fn clean_session(&self, session: &Session) -> usize {
        let limits = &self.shared.limits;
        let removed = [
            (TaskStatus::Completed, limits.max_completed_tasks),
            (TaskStatus::Failed, limits.max_failed_tasks),
            (TaskStatus::Cancelled, limits.max_cancelled_tasks),
        ]
        .into_iter()
        .map(|(status, keep)| self.clean_status(session, status, keep))
        .sum();
        let mut state = session.state.write();
        state.cleaned += removed as u64;
        state.cleaned_at = Some(now_ms());
        if removed > 0 {
            state.hub.unsettle();
        }
        removed
    }

    fn clean_status(&self, session: &Session, status: TaskStatus, keep: usize) -> usize {
        let doomed = oldest_beyond(&session.state.read(), status, keep);
        let mut removed = 0;
        for batch in doomed.chunks(CLEAN_BATCH) {
            let mut state = session.state.write();
            // One that was retried meanwhile has another status now, and stays.
            let gone: Vec<_> = batch
                .iter()
                .filter_map(|&id| state.remove(id, status))
                .collect();
            drop(state);
            self.shared
                .shares
                .forget(gone.iter().map(|record| &**record));
            let bytes = gone.iter().map(|record| record.weight()).sum();
            self.shared.budget.refund(bytes);
            removed += gone.len();
        }
        removed
    }

    // Sessions.

    fn find(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let session = self.shared.shard(key).read().get(key).cloned()?;
        if self.is_expired(&session) && self.drop_session(&session, |s| self.is_expired(s)) {
            return None;
        }
        session.touch(self.shared.clock());
        Some(session)
    }

    pub(crate) fn find_or_create(&self, key: &SessionKey) -> Result<Arc<Session>, Refused> {
        if let Some(session) = self.find(key) {
            return Ok(session);
        }
        self.reserve_session()?;
        let mut shard = self.shared.shard(key).write();
        if let Some(session) = shard.get(key) {
            self.release_session();
            return Ok(session.clone());
        }
        let session = Arc::new(Session::new(key.clone(), self.shared.clock()));
        shard.insert(key.clone(), session.clone());
        Ok(session)
    }

    /// Takes a place and the bytes for one more session; the longest idle one makes room.
    fn reserve_session(&self) -> Result<(), Refused> {
        let limits = &self.shared.limits;
        self.check_open()?;
        loop {
            let taken =
                self.shared
                    .sessions
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                        (n < limits.max_sessions).then_some(n + 1)
                    });
            if taken.is_ok() {
                break;
            }
            if !self.evict_longest_idle() {
                return Err(Refused::TooManySessions(limits.max_sessions));
            }
        }
        if !self.shared.budget.charge(SESSION_WEIGHT) {
            self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::StoreFull(limits.max_store_bytes));
        }
        Ok(())
    }

    fn release_session(&self) {
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
        self.shared.budget.refund(SESSION_WEIGHT);
    }

    /// True where it may be worth asking for a place again.
    fn evict_longest_idle(&self) -> bool {
        let now = self.shared.clock();
        let idlest = self
            .sessions()
            .into_iter()
            .filter(|session| session.state.read().is_quiet())
            .max_by_key(|session| session.idle_for(now));
        let Some(session) = idlest else {
            return false;
        };
        self.drop_session(&session, |_| true);
        true
    }

    fn is_expired(&self, session: &Session) -> bool {
        let timeout = self.shared.limits.session_timeout.as_millis() as u64;
        session.idle_for(self.shared.clock()) >= timeout
    }

    /// Takes the session out of the store, where it has no work in flight and `still` holds.
    fn drop_session(&self, session: &Session, still: impl Fn(&Session) -> bool) -> bool {
        let mut shard = self.shared.shard(&session.key).write();
        let mut state = session.state.write();
        if state.dropped || !state.is_quiet() || !still(session) {
            return state.dropped;
        }
        let gone = state.dismantle(&self.shared.budget);
        shard.remove(&session.key);
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        drop(shard);
        self.shared.shares.forget(gone.records());
        // Freeing thousands of tasks takes a while, and needs no lock.
        drop(gone);
        true
    }

    fn sessions(&self) -> Vec<Arc<Session>> {
        let shards = self.shared.shards.iter();
        shards
            .flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    fn check_open(&self) -> Result<(), Refused> {
        match self.shared.stopping.load(Ordering::SeqCst) {
            true => Err(Refused::Stopping),
            false => Ok(()),
        }
    }

    /// Claims an idempotency key; see [`First`].
    pub(crate) fn once(
        &self,
        key: &SessionKey,
        idempotency_key: &str,
        fingerprint: u64,
        size: usize,
    ) -> Result<Once, Refused> {
        loop {
            let session = self.find_or_create(key)?;
            let once = First::claim(&self.shared, &session, idempotency_key, fingerprint, size);
            if !session.state.read().dropped {
                return once;
            }
        }
    }
}

fn new_task(id: TaskId, key: &SessionKey, new: NewTask, queued: bool) -> Task {
    let now = now_ms();
    Task {
        id,
        session: key.clone(),
        name: new.name,
        description: new.description,
        status: TaskStatus::Pending,
        progress: 0,
        step: None,
        step_description: None,
        created_at: now,
        updated_at: now,
        started_at: None,
        completed_at: None,
        error: None,
        result: None,
        metadata: new.metadata,
        kind: new.kind,
        attempt: 1,
        timeout_ms: new.timeout_ms,
        queued,
        version: 0,
    }
}

/// The tasks of a final `status` that ended before the newest `keep`.
fn oldest_beyond(state: &State, status: TaskStatus, keep: usize) -> Vec<TaskId> {
    let ids = state.ids(status);
    let surplus = ids.len().saturating_sub(keep);
    if surplus == 0 {
        return Vec::new();
    }
    let mut ended: Vec<(Option<Millis>, TaskId)> = ids
        .iter()
        .filter_map(|&id| Some((state.get(id)?.task.completed_at, id)))
        .collect();
    ended.sort_unstable();
    ended.into_iter().take(surplus).map(|(_, id)| id).collect()
}
