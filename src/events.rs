//! The hub: it sends the events of a session, or of one of its tasks, to their watchers.
//!
//! A session has one hub, which is called under the session's lock. So events have the order of the history. For the
//! same reason nothing here may block. Both kinds of watchers have a bounded channel:
//!
//! - The channel of a *task's* watcher has room for one signal without content. The watcher reads the events from the
//!   history, so a slow watcher misses nothing.
//! - The channel of a *session's* watcher holds events, which all watchers of the session share. When it is full, the
//!   watcher gets no more events until it has emptied the channel. Then it learns that it has missed some.
//!
//! Publishing without watchers costs a look at two empty lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::task::{EventKind, HistoryEvent, LogLine, Millis, Task, TaskId, TaskStatus};

/// How many events wait for a session's watcher before it counts as slow.
const SESSION_BACKLOG: usize = 256;

/// An event of the history, with the state of the task after it.
///
/// ```
/// use async_task_system::store::{WatchUpdate, Limits};
/// use async_task_system::{EventKind, NewTask, SessionKey, TaskManager};
/// use std::time::Duration;
///
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = tasks.create(&session, NewTask::new("Report"))?.id;
/// // From the start of its history on.
/// let WatchUpdate::Events(events) = tasks.watch(&session, id, Some(0))?.next(Duration::ZERO) else {
///     panic!("it has one");
/// };
/// assert_eq!((events[0].task, events[0].seq, events[0].kind), (id, 1, EventKind::Created));
/// assert_eq!(events[0].snapshot.progress, 0);
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskEvent {
    /// The task.
    pub task: TaskId,
    /// The event's number in the task's history.
    pub seq: u32,
    /// When it happened.
    pub at: Millis,
    /// What happened.
    pub kind: EventKind,
    /// The attempt it belongs to.
    pub attempt: u32,
    /// The state of the task after the event.
    pub snapshot: TaskSnapshot,
}

/// The state of a task, as a poll shows it.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::events::TaskSnapshot;
/// # use async_task_system::{TaskStatus, NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let task = tasks.create(&session, NewTask::new("Report"))?;
/// let snapshot = TaskSnapshot::of(&task);
/// assert_eq!((snapshot.status, snapshot.progress), (TaskStatus::Pending, 0));
/// assert_eq!((snapshot.step, snapshot.error), (None, None));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub struct TaskSnapshot {
    pub status: TaskStatus,
    /// Percent.
    pub progress: u8,
    pub step: Option<Box<str>>,
    pub step_description: Option<Box<str>>,
    pub started_at: Option<Millis>,
    pub completed_at: Option<Millis>,
    pub error: Option<Box<str>>,
    /// It waits for a person.
    pub waiting: bool,
    /// It is held between two slices.
    pub paused: bool,
}

impl TaskSnapshot {
    /// The state of `task` now.
    ///
    /// ```
    /// # use async_task_system::events::TaskSnapshot;
    /// # use async_task_system::{NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Default::default(), Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let task = system.tasks().create(&session, NewTask::new("Report"))?;
    /// let before = TaskSnapshot::of(&task);
    /// let after = TaskSnapshot::of(&system.execution().cancel(&session, task.id)?);
    /// assert_eq!((before.completed_at, after.completed_at.is_some()), (None, true));
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(task: &Task) -> TaskSnapshot {
        TaskSnapshot {
            status: task.status,
            progress: task.progress,
            step: task.step.clone(),
            step_description: task.step_description.clone(),
            started_at: task.started_at,
            completed_at: task.completed_at,
            error: task.error.clone(),
            waiting: task.waiting,
            paused: task.paused,
        }
    }

    /// A task before its first event.
    pub(crate) fn initial() -> TaskSnapshot {
        TaskSnapshot {
            status: TaskStatus::Pending,
            progress: 0,
            step: None,
            step_description: None,
            started_at: None,
            completed_at: None,
            error: None,
            waiting: false,
            paused: false,
        }
    }

    /// Changes the snapshot as this event changed the task.
    pub(crate) fn follow(&mut self, event: &HistoryEvent<'_>) {
        let owned = |text: Option<&str>| text.map(Into::into);
        match event.kind {
            EventKind::Created | EventKind::Queued => {}
            EventKind::Retried => *self = TaskSnapshot::initial(),
            EventKind::Started => self.started_at = Some(event.at),
            EventKind::Progress => {
                self.step = owned(event.step);
                self.step_description = owned(event.message);
            }
            EventKind::Completed | EventKind::Failed | EventKind::Cancelled => {
                self.completed_at = Some(event.at);
                self.error = owned(event.message);
                self.waiting = false;
                self.paused = false;
            }
            EventKind::Waiting => self.waiting = true,
            EventKind::Advanced => self.waiting = false,
            EventKind::Paused => self.paused = true,
            EventKind::Resumed => self.paused = false,
        }
        self.status = event.status;
        self.progress = event.progress;
    }
}

impl TaskEvent {
    pub(crate) fn new(task: TaskId, event: &HistoryEvent<'_>, snapshot: TaskSnapshot) -> TaskEvent {
        TaskEvent {
            task,
            seq: event.seq,
            at: event.at,
            kind: event.kind,
            attempt: event.attempt,
            snapshot,
        }
    }
}

/// Lines that a task has logged.
///
/// ```
/// # use async_task_system::store::{SessionUpdate, SessionWatch};
/// # use std::time::Duration;
/// fn print(watch: &mut SessionWatch) {
///     if let SessionUpdate::Lines(of) = watch.next(Duration::from_secs(15)) {
///         of.lines.iter().for_each(|line| println!("{} {}: {}", of.task, line.n, line.text));
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskLines {
    /// The task.
    pub task: TaskId,
    /// The lines, in order.
    pub lines: Vec<LogLine<'static>>,
}

/// What the channel of a session's watcher holds.
#[derive(Clone)]
pub(crate) enum Message {
    Event(Arc<TaskEvent>),
    Lines(Arc<TaskLines>),
    /// Only wakes the watcher.
    Wake,
}

/// The number of a watcher in its hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatcherId(u64);

/// All watchers of one session.
#[derive(Default)]
pub(crate) struct Broadcaster {
    tasks: Vec<TaskWatcher>,
    sessions: Vec<(WatcherId, Subscriber)>,
    last: u64,
    closed: bool,
}

/// The hub's side of a task's watcher.
struct TaskWatcher {
    id: WatcherId,
    task: TaskId,
    /// If it is full, a signal is waiting. The watcher then sees this change together with the one before.
    bell: Sender<()>,
    /// Whether the watcher wants lines of the log too.
    with_log: bool,
}

/// The hub's side of a session's watcher.
struct Subscriber {
    events: Sender<Message>,
    missed: Arc<AtomicBool>,
    /// Whether the watcher wants lines of logs too.
    with_log: bool,
}

/// The watcher's side of its [`Subscriber`].
pub(crate) struct EventQueue {
    pub(crate) events: Receiver<Message>,
    /// The hub sets this when it drops an event. The watcher clears it under the session's lock.
    pub(crate) missed: Arc<AtomicBool>,
}

impl Broadcaster {
    fn next_id(&mut self) -> WatcherId {
        self.last += 1;
        WatcherId(self.last)
    }

    /// The receiver gets a signal for each change of `task`. Several changes may share a signal.
    pub(crate) fn watch_task(&mut self, task: TaskId) -> (WatcherId, Receiver<()>) {
        let id = self.next_id();
        let (bell, signals) = bounded(1);
        self.tasks.push(TaskWatcher {
            id,
            task,
            bell,
            with_log: false,
        });
        (id, signals)
    }

    /// This watcher gets lines of logs too from now on.
    pub(crate) fn with_log(&mut self, id: WatcherId) {
        let tasks = self.tasks.iter_mut().filter(|watcher| watcher.id == id);
        tasks.for_each(|watcher| watcher.with_log = true);
        let sessions = self.sessions.iter_mut().filter(|(other, _)| *other == id);
        sessions.for_each(|(_, feed)| feed.with_log = true);
    }

    /// The log of `task` has more lines. `read` is called only if a session's watcher gets them.
    pub(crate) fn publish_lines(&self, task: TaskId, read: impl FnOnce() -> Vec<LogLine<'static>>) {
        let feeds = || {
            let feeds = self.sessions.iter().map(|(_, feed)| feed);
            feeds.filter(|feed| feed.with_log && feed.is_told())
        };
        if feeds().next().is_some() {
            let lines = Arc::new(TaskLines {
                task,
                lines: read(),
            });
            feeds().for_each(|feed| feed.tell(Message::Lines(lines.clone())));
        }
        let watchers = self.tasks.iter();
        for watcher in watchers.filter(|watcher| watcher.with_log && watcher.task == task) {
            let _ = watcher.bell.try_send(());
        }
    }

    /// The queue gets the events of every task of the session.
    pub(crate) fn watch_session(&mut self) -> (WatcherId, EventQueue) {
        let id = self.next_id();
        let (sender, events) = bounded(SESSION_BACKLOG);
        let missed = Arc::<AtomicBool>::default();
        let feed = Subscriber {
            events: sender,
            missed: missed.clone(),
            with_log: false,
        };
        self.sessions.push((id, feed));
        (id, EventQueue { events, missed })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.sessions.is_empty()
    }

    pub(crate) fn leave(&mut self, id: WatcherId) {
        self.tasks.retain(|watcher| watcher.id != id);
        self.sessions.retain(|(other, _)| *other != id);
    }

    /// A change of `task` has made these events.
    pub(crate) fn publish<'e>(&self, task: &Task, events: impl Iterator<Item = HistoryEvent<'e>>) {
        for watcher in self.tasks.iter().filter(|watcher| watcher.task == task.id) {
            let _ = watcher.bell.try_send(());
        }
        let feeds = || self.sessions.iter().map(|(_, feed)| feed);
        if !feeds().any(Subscriber::is_told) {
            return;
        }
        for event in events {
            // All events of one change carry the state after the whole change.
            let event = Arc::new(TaskEvent::new(task.id, &event, TaskSnapshot::of(task)));
            feeds().for_each(|feed| feed.tell(Message::Event(event.clone())));
        }
    }

    /// Tells every session's watcher that more has changed than single events can say.
    pub(crate) fn mark_lagged(&self) {
        for (_, feed) in &self.sessions {
            feed.missed.store(true, SeqCst);
            let _ = feed.events.try_send(Message::Wake);
        }
    }

    /// Whether all watches have ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends every watch.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.tasks.clear();
        self.sessions.clear();
    }
}

impl Subscriber {
    /// After a dropped event, the hub drops the next ones too. So the sent events have no gap.
    fn is_told(&self) -> bool {
        !self.missed.load(SeqCst)
    }

    fn tell(&self, message: Message) {
        if self.is_told() && self.events.try_send(message).is_err() {
            self.missed.store(true, SeqCst);
        }
    }
}
