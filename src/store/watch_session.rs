//! Watching all of a session's tasks as they change.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use crate::events::{EventQueue, Message, TaskEvent, TaskLines};
use crate::store::watch::Subscription;
use crate::store::{Stats, StoreError, TaskManager};
use crate::task::{SessionKey, later};

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
    subscription: Subscription,
    queue: EventQueue,
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
    /// Lines of one task's log, where [`SessionWatch::with_log`] asked for them.
    Lines(Arc<TaskLines>),
    /// Nothing, in that time.
    Nothing,
    /// The session is gone, or the server stops.
    Over,
}

impl SessionWatch {
    /// Tells the lines that tasks log from now on too. Their numbers show what a slow reader has missed.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let watch = tasks.watch_session(&session)?.with_log();
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn with_log(self) -> SessionWatch {
        let Subscription { session, id } = &self.subscription;
        session.state.write().hub.with_log(*id);
        self
    }

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
            let waited = match self.queue.events.try_recv() {
                Ok(message) => Ok(message),
                Err(_) if self.queue.missed.load(SeqCst) => match self.resync() {
                    Some(stats) => return SessionUpdate::State(stats),
                    None => continue,
                },
                Err(_) => self.queue.events.recv_deadline(deadline),
            };
            match waited {
                Ok(Message::Event(event)) => return SessionUpdate::Event(event),
                Ok(Message::Lines(lines)) => return SessionUpdate::Lines(lines),
                Ok(Message::Wake) => {}
                Err(RecvTimeoutError::Timeout) => return SessionUpdate::Nothing,
                Err(RecvTimeoutError::Disconnected) => return SessionUpdate::Over,
            }
        }
    }

    /// The counters, and after them every event again; `None` if an event has come meanwhile that
    /// belongs before them.
    fn resync(&self) -> Option<Stats> {
        // Events are published under the write lock, so none comes while this lock is held.
        let state = self.subscription.session.state.read();
        self.queue.events.is_empty().then(|| {
            self.queue.missed.store(false, SeqCst);
            state.stats()
        })
    }
}

impl TaskManager {
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
            let (watcher, queue) = state.hub.watch_session();
            // The first thing to tell is the state now.
            queue.missed.store(true, SeqCst);
            return Ok(SessionWatch {
                subscription: Subscription::new(&session, watcher),
                queue,
            });
        }
    }
}
