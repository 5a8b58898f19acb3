//! Watching a task or a session as it changes.
//!
//! A watch subscribes to the session's [hub](crate::events) and waits outside of every lock.
//! While one is open its session does not count as idle.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::events::{EventQueue, TaskEvent, TaskSnapshot, WatcherId};
use crate::store::history::{History, Mark};
use crate::store::record::Record;
use crate::store::session::Session;
use crate::store::{Stats, StoreError, TaskManager};
use crate::task::{SessionKey, TaskId, later};

/// The most events read under one hold of the session's lock.
const BATCH: usize = 256;

/// What a wait came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Something has changed.
    Changed,
    /// Nothing has, in that time.
    Quiet,
    /// Nothing will any more: the session is gone, or the server stops.
    Over,
}

/// A place among a session's watchers, given back on drop.
struct Subscription {
    session: Arc<Session>,
    id: WatcherId,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.session.state.write().hub.leave(self.id);
        self.session.watching.fetch_sub(1, SeqCst);
    }
}

/// Rings whenever one task changes.
pub(crate) struct ChangeSignal {
    seat: Subscription,
    signals: Receiver<()>,
}

impl ChangeSignal {
    /// Waits for a change since the last call, for at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Wait {
        match self.signals.recv_timeout(timeout) {
            Ok(()) => Wait::Changed,
            Err(RecvTimeoutError::Timeout) => Wait::Quiet,
            Err(RecvTimeoutError::Disconnected) => Wait::Over,
        }
    }
}

/// Reads a task's events as they happen, from any place in its history, losing and repeating nothing.
///
/// ```
/// use async_task_system::store::{WatchUpdate, Limits};
/// use async_task_system::{EventKind, NewTask, SessionKey, TaskManager};
/// use std::time::Duration;
///
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = tasks.create(&session, NewTask::new("Report"))?.id;
/// let mut watch = tasks.watch(&session, id, None)?;
/// let WatchUpdate::Events(events) = watch.next(Duration::ZERO) else { panic!("it tells the state now") };
/// assert_eq!(events[0].kind, EventKind::Created);
/// assert_eq!(watch.next(Duration::ZERO), WatchUpdate::Nothing);
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
pub struct TaskWatch {
    bell: ChangeSignal,
    task: TaskId,
    mark: Mark,
    /// The task as the events told so far left it.
    snapshot: TaskSnapshot,
    /// The state at the start, where that was asked for.
    first: Option<TaskEvent>,
    over: bool,
}

/// What a [`TaskWatch`] has to tell.
///
/// ```
/// # use async_task_system::store::{WatchUpdate, TaskWatch};
/// # use std::time::Duration;
/// fn follow(mut watch: TaskWatch) {
///     loop {
///         match watch.next(Duration::from_secs(15)) {
///             WatchUpdate::Events(events) => println!("now at {:?} %", events.last().map(|e| e.snapshot.progress)),
///             WatchUpdate::Nothing => println!("still at it"),
///             _ => return,
///         }
///     }
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchUpdate {
    /// These events, one or more, in order.
    Events(Vec<TaskEvent>),
    /// Nothing, in that time.
    Nothing,
    /// The task has ended and all was told, or it is gone.
    Over,
}

impl TaskWatch {
    fn new(bell: ChangeSignal, record: &Record, after: Option<u32>) -> TaskWatch {
        let (task, history) = (&record.task, &record.history);
        let mut watch = TaskWatch {
            bell,
            task: task.id,
            mark: history.end(),
            snapshot: TaskSnapshot::of(task),
            first: None,
            over: task.status.is_final(),
        };
        let newest = history.end().seq();
        match after {
            Some(seq) if seq < newest => watch.rewind(history, seq),
            Some(seq) if seq == newest => {}
            // Without a number, or with one that this task has not come to yet: some other task's.
            _ => {
                let state = |event| TaskEvent::new(task.id, &event, TaskSnapshot::of(task));
                watch.first = history.newest().map(state);
            }
        }
        watch
    }

    /// Goes back to the place behind the entry of this number.
    fn rewind(&mut self, history: &History, seq: u32) {
        self.mark = history.start();
        self.snapshot = TaskSnapshot::initial();
        self.over = false;
        let mut events = history.iter();
        while self.mark.seq() < seq
            && let Some(event) = events.next()
        {
            self.snapshot.follow(&event);
            self.mark = events.mark();
        }
    }

    /// Whether the task has ended and all of its events were told.
    ///
    /// ```
    /// # use async_task_system::{NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Default::default(), Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// let mut watch = system.tasks().watch(&session, id, Some(1))?;
    /// system.execution().cancel(&session, id)?;
    /// assert!(!watch.is_over(), "its end is still to be told");
    /// watch.next(std::time::Duration::ZERO);
    /// assert!(watch.is_over());
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_over(&self) -> bool {
        self.over && self.first.is_none()
    }

    /// The events since the last call; waits for one for at most `timeout`.
    ///
    /// ```
    /// # use async_task_system::store::{WatchUpdate, Limits};
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// let mut watch = tasks.watch(&session, id, None)?;
    /// assert!(matches!(watch.next(std::time::Duration::ZERO), WatchUpdate::Events(now) if now.len() == 1));
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn next(&mut self, timeout: Duration) -> WatchUpdate {
        if let Some(first) = self.first.take() {
            return WatchUpdate::Events(vec![first]);
        }
        let deadline = later(Instant::now(), timeout);
        loop {
            if self.over {
                return WatchUpdate::Over;
            }
            match self.read() {
                Some(events) if !events.is_empty() => return WatchUpdate::Events(events),
                Some(_) => {}
                None => return WatchUpdate::Over,
            }
            match self.bell.wait(deadline - Instant::now().min(deadline)) {
                Wait::Changed => {}
                Wait::Quiet => return WatchUpdate::Nothing,
                // One more look: the last event may have come right before the end.
                Wait::Over => {
                    return self
                        .read()
                        .filter(|e| !e.is_empty())
                        .map_or(WatchUpdate::Over, WatchUpdate::Events);
                }
            }
        }
    }

    /// What the history has beyond the mark; `None` where the task is gone.
    fn read(&mut self) -> Option<Vec<TaskEvent>> {
        let state = self.bell.seat.session.state.read();
        let record = state.get(self.task)?;
        let newest = record.history.end().seq();
        let mut events = Vec::new();
        let mut unread = record.history.since(self.mark);
        while events.len() < BATCH
            && let Some(event) = unread.next()
        {
            self.snapshot.follow(&event);
            if event.seq == newest {
                // The task itself may know more than its history: a step that was not added.
                self.snapshot = TaskSnapshot::of(&record.task);
                self.over = event.status.is_final();
            }
            events.push(TaskEvent::new(self.task, &event, self.snapshot.clone()));
        }
        self.mark = unread.mark();
        Some(events)
    }
}

/// Reads the events of all of a session's tasks as they happen.
///
/// ```
/// use async_task_system::store::{Limits, SessionUpdate};
/// use async_task_system::{NewTask, SessionKey, TaskManager};
/// use std::time::Duration;
///
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let mut watch = tasks.watch_session(&session)?;
/// assert!(matches!(watch.next(Duration::ZERO), SessionUpdate::State(stats) if stats.total == 0));
/// let task = tasks.create(&session, NewTask::new("Report"))?;
/// let SessionUpdate::Event(event) = watch.next(Duration::from_secs(1)) else { panic!("an event") };
/// assert_eq!(event.task, task.id);
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
pub struct SessionWatch {
    seat: Subscription,
    backlog: EventQueue,
}

/// What a [`SessionWatch`] has to tell.
///
/// ```
/// # use async_task_system::store::{Limits, SessionUpdate};
/// # use async_task_system::{NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let mut watch = tasks.watch_session(&session)?;
/// let first = watch.next(std::time::Duration::ZERO);
/// assert!(matches!(first, SessionUpdate::State(stats) if stats.total == 0));
/// assert_eq!(watch.next(std::time::Duration::ZERO), SessionUpdate::Nothing);
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionUpdate {
    /// The counters now. The first thing told; later, it says that the tasks have changed in a
    /// way not told singly: events were missed by a slow reader, or a cleanup removed tasks.
    State(Stats),
    /// One event.
    Event(Arc<TaskEvent>),
    /// Nothing, in that time.
    Nothing,
    /// The session is gone, or the server stops.
    Over,
}

impl SessionWatch {
    /// What happens next; waits for it for at most `timeout`.
    ///
    /// ```
    /// # use async_task_system::store::{Limits, SessionUpdate};
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let mut watch = tasks.watch_session(&session)?;
    /// watch.next(std::time::Duration::ZERO);
    /// tasks.create(&session, NewTask::new("Report"))?;
    /// let next = watch.next(std::time::Duration::from_secs(1));
    /// assert!(matches!(next, SessionUpdate::Event(event) if event.seq == 1));
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn next(&mut self, timeout: Duration) -> SessionUpdate {
        let deadline = later(Instant::now(), timeout);
        loop {
            let waited = match self.backlog.events.try_recv() {
                Ok(message) => Ok(message),
                Err(_) if self.backlog.missed.load(SeqCst) => match self.resync() {
                    Some(stats) => return SessionUpdate::State(stats),
                    None => continue,
                },
                Err(_) => self.backlog.events.recv_deadline(deadline),
            };
            match waited {
                Ok(Some(event)) => return SessionUpdate::Event(event),
                Ok(None) => {}
                Err(RecvTimeoutError::Timeout) => return SessionUpdate::Nothing,
                Err(RecvTimeoutError::Disconnected) => return SessionUpdate::Over,
            }
        }
    }

    /// The counters, from which on every event is told again; `None` where one has come
    /// meanwhile that belongs before them.
    fn resync(&self) -> Option<Stats> {
        // Events are published under the write lock: none comes while this is held.
        let state = self.seat.session.state.read();
        self.backlog.events.is_empty().then(|| {
            self.backlog.missed.store(false, SeqCst);
            state.stats()
        })
    }
}

impl TaskManager {
    /// Watches a task. Without `after`, the first event tells its state now; with it, events
    /// follow from the one behind that number of the history.
    ///
    /// ```
    /// # use async_task_system::store::{WatchUpdate, Limits};
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// let mut watch = tasks.watch(&session, id, Some(0))?;
    /// let WatchUpdate::Events(all) = watch.next(std::time::Duration::ZERO) else { panic!("it has some") };
    /// assert_eq!(all[0].seq, 1);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, or `Stopping`.
    pub fn watch(
        &self,
        key: &SessionKey,
        id: TaskId,
        after: Option<u32>,
    ) -> Result<TaskWatch, StoreError> {
        self.watch_task(key, id, |bell, record| TaskWatch::new(bell, record, after))
    }

    /// A bell that rings at each change of the task.
    pub(crate) fn bell(&self, key: &SessionKey, id: TaskId) -> Result<ChangeSignal, StoreError> {
        self.watch_task(key, id, |bell, _| bell)
    }

    fn watch_task<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        begin: impl FnOnce(ChangeSignal, &Record) -> R,
    ) -> Result<R, StoreError> {
        let session = self.find(key).ok_or(StoreError::TaskNotFound)?;
        let mut state = session.state.write();
        // Not before the stop has come to this session: its tasks still have an end to tell.
        if state.hub.is_closed() {
            return Err(StoreError::Stopping);
        }
        let (watcher, signals) = state.hub.watch_task(id);
        let Some(record) = state.get(id) else {
            state.hub.leave(watcher);
            return Err(StoreError::TaskNotFound);
        };
        let bell = ChangeSignal {
            seat: Subscription::take(&session, watcher),
            signals,
        };
        Ok(begin(bell, record))
    }

    /// Watches all of a session's tasks; the session is made where there is none yet.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let watch = tasks.watch_session(&session)?;
    /// // As long as it is open, the session does not count as idle.
    /// drop(watch);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TooManySessions`, `StoreFull` or `Stopping`.
    pub fn watch_session(&self, key: &SessionKey) -> Result<SessionWatch, StoreError> {
        loop {
            let session = self.find_or_create(key)?;
            let mut state = session.state.write();
            if state.dropped {
                continue;
            }
            self.check_open()?;
            let (watcher, backlog) = state.hub.watch_session();
            // The first thing to tell is the state now.
            backlog.missed.store(true, SeqCst);
            return Ok(SessionWatch {
                seat: Subscription::take(&session, watcher),
                backlog,
            });
        }
    }
}

impl Subscription {
    fn take(session: &Arc<Session>, id: WatcherId) -> Subscription {
        session.watching.fetch_add(1, SeqCst);
        Subscription {
            session: session.clone(),
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Limits, NewTask};

    #[test]
    fn a_wait_without_end_is_none_to_stumble_over() {
        let tasks = TaskManager::new(Limits::default(), None);
        let key = SessionKey::parse("k").expect("a valid key");
        let id = tasks.create(&key, NewTask::new("n")).expect("room").id;
        let mut task = tasks.watch(&key, id, Some(0)).expect("there");
        assert!(matches!(task.next(Duration::MAX), WatchUpdate::Events(_)));
        let mut session = tasks.watch_session(&key).expect("there");
        assert!(matches!(
            session.next(Duration::MAX),
            SessionUpdate::State(_)
        ));
    }

    #[test]
    fn who_asks_while_the_stop_is_on_its_way_hears_of_it() {
        let tasks = TaskManager::new(Limits::default(), None);
        let key = SessionKey::parse("k").expect("a valid key");
        let id = tasks.create(&key, NewTask::new("n")).expect("room").id;
        // The flag is up, and no session was visited yet.
        tasks.shared.stopping.store(true, SeqCst);
        let bell = tasks.bell(&key, id).expect("still to come");
        assert_eq!(bell.wait(Duration::ZERO), Wait::Quiet);
        tasks.close("server stopped");
        assert_eq!(bell.wait(Duration::ZERO), Wait::Over);
        assert_eq!(tasks.bell(&key, id).err(), Some(StoreError::Stopping));
    }
}
