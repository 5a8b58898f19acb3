//! Watching one task as it changes.
//!
//! A watch subscribes to the session's [hub](crate::events) and waits without a lock. While it is open
//! its session does not count as idle.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::events::{TaskEvent, TaskSnapshot, WatcherId};
use crate::store::history::{History, Mark};
use crate::store::logs::LogPart;
use crate::store::record::Record;
use crate::store::session::Session;
use crate::store::task_log::LogMark;
use crate::store::{StoreError, TaskManager};
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

/// A place among a session's watchers; `drop` releases it.
pub(super) struct Subscription {
    pub(super) session: Arc<Session>,
    pub(super) id: WatcherId,
}

impl Subscription {
    pub(super) fn new(session: &Arc<Session>, id: WatcherId) -> Subscription {
        session.watching.fetch_add(1, SeqCst);
        Subscription {
            session: session.clone(),
            id,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.session.state.write().hub.leave(self.id);
        self.session.watching.fetch_sub(1, SeqCst);
    }
}

/// Signals each change of one task.
pub(crate) struct ChangeSignal {
    subscription: Subscription,
    changes: Receiver<()>,
}

impl ChangeSignal {
    /// Waits for a change since the last call, for at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Wait {
        match self.changes.recv_timeout(timeout) {
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
    signal: ChangeSignal,
    task: TaskId,
    mark: Mark,
    /// The task as the events told so far left it.
    snapshot: TaskSnapshot,
    /// The state at the start, where that was asked for.
    first: Option<TaskEvent>,
    /// The place in the log, where that is asked for.
    log: Option<LogMark>,
    /// Events that are told after the lines that were read with them.
    events: Vec<TaskEvent>,
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
    /// More of the log, where [`TaskWatch::with_log`] asked for it.
    Log(LogPart),
    /// Nothing, in that time.
    Nothing,
    /// The task has ended and all was told, or it is gone.
    Over,
}

impl TaskWatch {
    fn new(signal: ChangeSignal, record: &Record, after: Option<u32>) -> TaskWatch {
        let (task, history) = (&record.task, &record.history);
        let mut watch = TaskWatch {
            signal,
            task: task.id,
            mark: history.end(),
            snapshot: TaskSnapshot::of(task),
            first: None,
            log: None,
            events: Vec::new(),
            over: task.status.is_final(),
        };
        let newest = history.end().seq();
        match after {
            Some(seq) if seq < newest => watch.rewind(history, seq),
            Some(seq) if seq == newest => {}
            // There is no number, or it is beyond this task's history, so it is another task's.
            _ => {
                let state = |event| TaskEvent::new(task.id, &event, TaskSnapshot::of(task));
                watch.first = history.newest().map(state);
            }
        }
        watch
    }

    /// Moves the mark to the place behind the entry of this number.
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

    /// Tells the log too, from the line behind number `after`. Of what was read at once, lines are told before events, so
    /// that nothing comes after the task's end.
    ///
    /// ```
    /// use async_task_system::store::{Limits, WatchUpdate};
    /// use async_task_system::{NewTask, SessionKey, TaskManager};
    /// use std::time::Duration;
    ///
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// let mut watch = tasks.watch(&session, id, Some(1))?.with_log(0);
    /// assert_eq!(watch.next(Duration::ZERO), WatchUpdate::Nothing, "nobody has said anything");
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn with_log(mut self, after: u64) -> TaskWatch {
        let subscription = &self.signal.subscription;
        let mut state = subscription.session.state.write();
        state.hub.with_log(subscription.id);
        let log = state.get(self.task).and_then(Record::task_log);
        self.log = Some(log.map_or(LogMark::default(), |log| log.mark_after(after)));
        drop(state);
        self
    }

    /// The number of the event that was told last, at the start.
    pub(crate) fn seq(&self) -> u32 {
        self.mark.seq() - u32::from(self.first.is_some())
    }

    pub(crate) fn task(&self) -> TaskId {
        self.task
    }

    /// The number of the line that was told last.
    pub(crate) fn line(&self) -> Option<u64> {
        self.log.map(LogMark::n)
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
        self.over && self.first.is_none() && self.events.is_empty() && !self.has_lines()
    }

    /// Whether there are lines to be told.
    fn has_lines(&self) -> bool {
        self.log.is_some_and(|mark| {
            let state = self.signal.subscription.session.state.read();
            let log = state.get(self.task).and_then(Record::task_log);
            log.is_some_and(|log| log.is_behind(mark))
        })
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
        if !self.events.is_empty() {
            return WatchUpdate::Events(std::mem::take(&mut self.events));
        }
        // The state of a task that has ended is the last to be told.
        let is_due = !self.over || !self.has_lines();
        if let Some(first) = self.first.take_if(|_| is_due) {
            return WatchUpdate::Events(vec![first]);
        }
        let deadline = later(Instant::now(), timeout);
        loop {
            if self.over && !self.has_lines() {
                return WatchUpdate::Over;
            }
            match self.read() {
                Some(WatchUpdate::Nothing) => {}
                Some(update) => return update,
                None => return WatchUpdate::Over,
            }
            match self.signal.wait(deadline - Instant::now().min(deadline)) {
                Wait::Changed => {}
                Wait::Quiet => return WatchUpdate::Nothing,
                // Read once more: the last event may have come right before the end.
                Wait::Over => {
                    return self
                        .read()
                        .filter(|update| *update != WatchUpdate::Nothing)
                        .unwrap_or(WatchUpdate::Over);
                }
            }
        }
    }

    /// What is beyond the marks; `None` if the task is gone.
    fn read(&mut self) -> Option<WatchUpdate> {
        let state = self.signal.subscription.session.state.read();
        let record = state.get(self.task)?;
        let log = self.log.as_mut().zip(record.task_log());
        let (part, more) =
            log.map_or_else(Default::default, |(mark, log)| LogPart::read(log, mark));
        let newest = record.history.end().seq();
        let mut unread = record.history.since(self.mark);
        let mut events = Vec::new();
        while events.len() < BATCH
            && let Some(event) = unread.next()
        {
            if more && event.status.is_final() {
                break;
            }
            self.mark = unread.mark();
            self.snapshot.follow(&event);
            if event.seq == newest {
                // The task may know more than its history: a step that there was no room for.
                self.snapshot = TaskSnapshot::of(&record.task);
                self.over = event.status.is_final();
            }
            events.push(TaskEvent::new(self.task, &event, self.snapshot.clone()));
        }
        drop(state);
        Some(match (part.is_empty(), events.is_empty()) {
            (true, true) => WatchUpdate::Nothing,
            (true, false) => WatchUpdate::Events(events),
            (false, _) => {
                self.events = events;
                WatchUpdate::Log(part)
            }
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
        self.watch_task(key, id, |signal, record| {
            TaskWatch::new(signal, record, after)
        })
    }

    /// A signal of each change of the task.
    pub(crate) fn change_signal(
        &self,
        key: &SessionKey,
        id: TaskId,
    ) -> Result<ChangeSignal, StoreError> {
        self.watch_task(key, id, |signal, _| signal)
    }

    fn watch_task<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        begin: impl FnOnce(ChangeSignal, &Record) -> R,
    ) -> Result<R, StoreError> {
        let session = self.find(key).ok_or(StoreError::TaskNotFound)?;
        let mut state = session.state.write();
        // The stop closes the hub when it has ended this session's tasks. Until then there are events.
        if state.hub.is_closed() {
            return Err(StoreError::Stopping);
        }
        let (watcher, changes) = state.hub.watch_task(id);
        let Some(record) = state.get(id) else {
            state.hub.leave(watcher);
            return Err(StoreError::TaskNotFound);
        };
        let signal = ChangeSignal {
            subscription: Subscription::new(&session, watcher),
            changes,
        };
        Ok(begin(signal, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Limits, NewTask, SessionUpdate};

    #[test]
    fn a_maximal_wait_does_not_overflow() {
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
    fn a_signal_taken_during_the_stop_ends_with_it() {
        let tasks = TaskManager::new(Limits::default(), None);
        let key = SessionKey::parse("k").expect("a valid key");
        let id = tasks.create(&key, NewTask::new("n")).expect("room").id;
        // The flag is set, and no session was visited yet.
        tasks.shared.stopping.store(true, SeqCst);
        let signal = tasks.change_signal(&key, id).expect("still to come");
        assert_eq!(signal.wait(Duration::ZERO), Wait::Quiet);
        tasks.close("server stopped");
        assert_eq!(signal.wait(Duration::ZERO), Wait::Over);
        assert_eq!(
            tasks.change_signal(&key, id).err(),
            Some(StoreError::Stopping)
        );
    }
}
