//! One session: its tasks, the indexes over them, its counters and its idempotency keys.
//!
//! The session's one lock guards everything here. Every change of a record goes through
//! [`State::change`], which updates the indexes and counters and tells the observer and the hub. So
//! the counters are always right, and events have the order of the history.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::events::Broadcaster;
use crate::metrics::WorkMeter;
use crate::store::budget::Budget;
use crate::store::record::Record;
use crate::store::shared::Shared;
use crate::store::task_log::{NewLine, TaskLog};
use crate::task::{LogLine, LogStream, Millis, SessionKey, Task, TaskId, TaskStatus, now_ms};

/// How many tasks a session has.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::{NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// tasks.create(&session, NewTask::new("Report"))?;
/// let stats = tasks.stats(&session);
/// assert_eq!((stats.total, stats.pending, stats.running), (1, 1, 0));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
#[non_exhaustive]
pub struct Stats {
    pub total: usize,
    pub pending: usize,
    pub running: usize,
    pub completed: usize,
    pub failed: usize,
    pub cancelled: usize,
}

/// What an empty session costs.
pub(crate) const SESSION_WEIGHT: usize = 1_024;

pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) state: RwLock<State>,
    /// When it was last used, in milliseconds of the store's own clock.
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

    /// When it was last used. A session that is watched is in use.
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

/// One attempt of one task. Reports carry it, and reports of an older attempt are ignored. It holds no
/// lock.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(super) session: Arc<Session>,
    pub(crate) task: TaskId,
    pub(crate) number: u32,
}

impl Attempt {
    pub(crate) fn session(&self) -> &SessionKey {
        &self.session.key
    }
}

/// How long a key is remembered.
pub(crate) const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The response that a repeated request gets again. The store does not look into it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The `Location` header.
    pub(crate) location: Option<String>,
    /// The body, byte by byte.
    pub(crate) body: Vec<u8>,
}

/// An idempotency key and the response to its first request.
pub(crate) struct StoredResponse {
    pub(super) fingerprint: u64,
    pub(super) at: Instant,
    /// `None` while the first request is still being answered.
    pub(super) answer: Option<Arc<Answer>>,
    pub(super) weight: usize,
}

impl StoredResponse {
    pub(crate) fn is_over(&self) -> bool {
        self.answer.is_some() && self.at.elapsed() >= LIFETIME
    }
}

/// Scenes by name, each as it was written.
pub(crate) type Scenes = BTreeMap<Box<str>, Box<str>>;

/// The bytes that a scene is charged: its texts, its place in the map and the allocator's overhead.
pub(super) fn scene_weight(name: &str, document: &str) -> usize {
    96 + name.len() + document.len()
}

#[derive(Default)]
pub(crate) struct State {
    records: BTreeMap<TaskId, Box<Record>>,
    by_status: [BTreeSet<TaskId>; 5],
    /// The id of the task that was created last, also when it was removed.
    pub(crate) newest: TaskId,
    /// Tasks that are queued or running.
    active: usize,
    /// Set when the session leaves the store. A caller that still holds it must look it up again.
    pub(crate) dropped: bool,
    pub(crate) idempotency: HashMap<Box<str>, StoredResponse>,
    pub(super) scenes: Scenes,
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
        self.newest = self.newest.max(id);
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
                record_transition(meter, &record.task, changed_at);
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

    /// Adds lines to the log of a running attempt; false where it is over.
    pub(crate) fn add_lines(
        &mut self,
        shared: &Shared,
        attempt: &Attempt,
        stream: LogStream,
        lines: &[Cow<'_, str>],
    ) -> bool {
        let record = self.records.get_mut(&attempt.task);
        let Some(record) = record.filter(|record| record.task.is_running(attempt.number)) else {
            return false;
        };
        let at = now_ms();
        let before = record.task_log().map(TaskLog::end).unwrap_or_default();
        for text in lines {
            let line = NewLine {
                at,
                attempt: attempt.number,
                stream,
                text,
            };
            record.add_line(&line, shared.limits.max_log_bytes, &shared.budget);
        }
        if let Some(meter) = &shared.meter {
            meter.of(&record.task.kind).lines.add(lines.len() as u64);
        }
        self.hub.publish_lines(attempt.task, || {
            let log = record.task_log().map(|log| log.since(before));
            log.into_iter().flatten().map(LogLine::into_owned).collect()
        });
        true
    }

    /// Takes a record out if it still has `status`.
    pub(crate) fn remove(&mut self, id: TaskId, status: TaskStatus) -> Option<Box<Record>> {
        if !self.by_status[status as usize].remove(&id) {
            return None;
        }
        self.records.remove(&id)
    }

    /// The bytes that the session and its contents are charged.
    pub(crate) fn weight(&self) -> usize {
        let records: usize = self.records().map(Record::weight).sum();
        let idempotency: usize = self.idempotency.values().map(|stored| stored.weight).sum();
        let scenes = self.scenes.iter();
        let scenes: usize = scenes
            .map(|(name, document)| scene_weight(name, document))
            .sum();
        SESSION_WEIGHT + records + idempotency + scenes
    }

    /// Marks the session as dropped and takes out its contents, to be freed without the lock.
    pub(crate) fn take_contents(&mut self, budget: &Budget) -> State {
        budget.refund(self.weight());
        let gone = std::mem::take(self);
        self.dropped = true;
        gone
    }
}

/// Counts a change of status. `before` is when the task had changed last.
fn record_transition(meter: &WorkMeter, task: &Task, before: Millis) {
    let kind = meter.of(&task.kind);
    let ended = match task.status {
        TaskStatus::Pending => return,
        TaskStatus::Running => {
            // Nothing happens between being queued and being started.
            return kind.wait.observe(between(Some(before), task.started_at));
        }
        TaskStatus::Completed => &kind.completed,
        TaskStatus::Failed => &kind.failed,
        TaskStatus::Cancelled => &kind.cancelled,
    };
    ended.increment();
    if task.started_at.is_some() {
        kind.run
            .observe(between(task.started_at, task.completed_at));
    }
}

fn between(from: Option<Millis>, to: Option<Millis>) -> Duration {
    let millis = to
        .unwrap_or_default()
        .saturating_sub(from.unwrap_or_default());
    Duration::from_millis(millis)
}
