//! One session: its tasks, the indexes over them, its counters and its idempotency idempotency.
//!
//! Everything here is guarded by the session's one lock. Every change of a record goes through
//! [`State::change`], which moves the indexes and counters with it and tells observer and hub,
//! so that counters equal a recount, and the order of events is the order of history.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::RwLock;

use crate::events::Broadcaster;
use crate::store::budget::Budget;
use crate::store::idempotency::StoredResponse;
use crate::store::meter;
use crate::store::record::Record;
use crate::store::{Shared, Stats};
use crate::task::{HistoryEvent, Millis, SessionKey, TaskId, TaskStatus};

/// Told of each history event as it happens, under the session's lock: must not block.
///
/// ```
/// use async_task_system::store::{Limits, Observer};
/// use async_task_system::{NewTask, SessionKey, TaskManager};
///
/// let (tell, told) = std::sync::mpsc::channel();
/// let observer: Box<Observer> = Box::new(move |session, id, event| {
///     // Never waits: the channel has no bound.
///     let _ = tell.send(format!("{session}: {} of {id}", event.kind.as_str()));
/// });
/// let tasks = TaskManager::new(Limits::default(), Some(observer));
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = tasks.create(&session, NewTask::new("Report"))?.id;
/// assert_eq!(told.recv(), Ok(format!("me: created of {id}")));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
pub type Observer = dyn Fn(&SessionKey, TaskId, &HistoryEvent<'_>) + Send + Sync;

/// What an empty session costs.
pub(crate) const SESSION_WEIGHT: usize = 1_024;

pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) state: RwLock<State>,
    /// When somebody last asked for it, in milliseconds of the store's own clock.
    pub(crate) last_used: AtomicU64,
    /// How many watches are open.
    pub(crate) watching: AtomicUsize,
}

impl Session {
    pub(crate) fn new(key: SessionKey, now: u64) -> Session {
        Session {
            key,
            state: RwLock::default(),
            last_used: AtomicU64::new(now),
            watching: AtomicUsize::new(0),
        }
    }

    pub(crate) fn touch(&self, now: u64) {
        self.last_used.store(now, Relaxed);
    }

    /// When it was last used; being watched is being used.
    pub(crate) fn last_used_at(&self, now: u64) -> u64 {
        if self.watching.load(Relaxed) > 0 {
            self.touch(now);
        }
        self.last_used.load(Relaxed)
    }

    /// Milliseconds since it was last used.
    pub(crate) fn idle_for(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_used_at(now))
    }
}

#[derive(Default)]
pub(crate) struct State {
    records: BTreeMap<TaskId, Box<Record>>,
    by_status: [BTreeSet<TaskId>; 5],
    /// Tasks that are queued or running.
    active: usize,
    /// Set when the session leaves the store: whoever still holds it must look again.
    pub(crate) dropped: bool,
    pub(crate) idempotency: HashMap<Box<str>, StoredResponse>,
    pub(crate) cleaned: u64,
    pub(crate) cleaned_at: Option<Millis>,
    pub(crate) hub: Broadcaster,
}

impl State {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn count(&self, status: TaskStatus) -> usize {
        self.by_status[status as usize].len()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            total: self.len(),
            pending: self.count(TaskStatus::Pending),
            running: self.count(TaskStatus::Running),
            completed: self.count(TaskStatus::Completed),
            failed: self.count(TaskStatus::Failed),
            cancelled: self.count(TaskStatus::Cancelled),
        }
    }

    /// No queued or running task: it may be dropped.
    pub(crate) fn is_quiet(&self) -> bool {
        self.active == 0
    }

    pub(crate) fn get(&self, id: TaskId) -> Option<&Record> {
        self.records.get(&id).map(|record| &**record)
    }

    pub(crate) fn ids(&self, status: TaskStatus) -> &BTreeSet<TaskId> {
        &self.by_status[status as usize]
    }

    pub(crate) fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.values().map(|record| &**record)
    }

    /// The records below `before` (all where `None`), newest first.
    pub(crate) fn newest(&self, before: Option<TaskId>) -> impl Iterator<Item = &Record> {
        let range = match before {
            Some(id) => self.records.range(..id),
            None => self.records.range(..),
        };
        range.rev().map(|(_, record)| &**record)
    }

    pub(crate) fn insert(&mut self, shared: &Shared, key: &SessionKey, record: Record) {
        let id = record.task.id;
        self.active += usize::from(record.is_active());
        self.by_status[record.task.status as usize].insert(id);
        if let Some(meter) = &shared.meter {
            meter.of(&record.task.kind).created.increment();
        }
        for event in record.history.iter() {
            shared.observe(key, id, &event);
        }
        self.hub.publish(&record.task, record.history.iter());
        self.records.insert(id, Box::new(record));
    }

    /// Changes a record, its indexes and the counters together; `None` for an unknown id.
    pub(crate) fn change<R>(
        &mut self,
        shared: &Shared,
        key: &SessionKey,
        id: TaskId,
        change: impl FnOnce(&mut Record) -> R,
    ) -> Option<R> {
        let record = self.records.get_mut(&id)?;
        let (status, active) = (record.task.status, record.is_active());
        let (mark, version) = (record.history.end(), record.task.version);
        let changed_at = record.task.updated_at;
        let answer = change(record);
        let now = record.task.status;
        if now != status {
            self.by_status[status as usize].remove(&id);
            self.by_status[now as usize].insert(id);
            if let Some(meter) = &shared.meter {
                meter::moved(meter, &record.task, changed_at);
            }
        }
        self.active = self.active + usize::from(record.is_active()) - usize::from(active);
        // The only sends under a lock, and they never block: event order is history order.
        for event in record.history.since(mark) {
            shared.observe(key, id, &event);
        }
        if record.task.version != version {
            self.hub.publish(&record.task, record.history.since(mark));
        }
        Some(answer)
    }

    /// Takes a record out, where it (still) has `status`.
    pub(crate) fn remove(&mut self, id: TaskId, status: TaskStatus) -> Option<Box<Record>> {
        if !self.by_status[status as usize].remove(&id) {
            return None;
        }
        self.records.remove(&id)
    }

    /// What the session and all in it are charged.
    pub(crate) fn weight(&self) -> usize {
        let records: usize = self.records().map(Record::weight).sum();
        let idempotency: usize = self.idempotency.values().map(StoredResponse::weight).sum();
        SESSION_WEIGHT + records + idempotency
    }

    /// Marks the session as gone and takes out all it held, to be freed without the lock.
    pub(crate) fn take_contents(&mut self, budget: &Budget) -> State {
        budget.refund(self.weight());
        let gone = std::mem::take(self);
        self.dropped = true;
        gone
    }
}
