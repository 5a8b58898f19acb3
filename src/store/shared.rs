//! What the whole store shares: its limits, its budget, and who is told of changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use parking_lot::RwLock;

use crate::metrics::WorkMeter;
use crate::store::budget::Budget;
use crate::store::limits::Limits;
use crate::store::new_ids::NewIds;
use crate::store::record::{Record, ShareToken};
use crate::task::{HistoryEvent, SessionKey, TaskId};

/// Called for each history event as it happens, under the session's lock. It must not block.
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

/// Called for each task that leaves the store, with the reason.
pub(crate) type OnRemoval = dyn Fn(&SessionKey, TaskId, &str) + Send + Sync;

pub(crate) struct Shared {
    pub(super) limits: Limits,
    pub(super) budget: Budget,
    pub(super) sessions: AtomicUsize,
    pub(super) stopping: AtomicBool,
    pub(super) epoch: Instant,
    pub(super) ids: NewIds,
    pub(super) observer: Option<Box<Observer>>,
    pub(super) on_removal: Option<Box<OnRemoval>>,
    pub(super) meter: Option<WorkMeter>,
    /// Where each share link leads. Its lock is taken last, and nothing is called under it.
    pub(super) shares: RwLock<HashMap<ShareToken, Shown>>,
}

/// What a share link shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) session: SessionKey,
    pub(crate) task: TaskId,
    pub(crate) with_log: bool,
}

impl Shared {
    pub(super) fn observe(&self, key: &SessionKey, id: TaskId, event: &HistoryEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(key, id, event);
        }
    }

    /// Forgets the share link of a record that has left the store, and tells `on_removal`.
    pub(super) fn removed(&self, key: &SessionKey, record: &Record, reason: &str) {
        for token in record.shares.iter().flatten() {
            self.shares.write().remove(token);
        }
        if let Some(on_removal) = &self.on_removal {
            on_removal(key, record.task.id, reason);
        }
    }
}
