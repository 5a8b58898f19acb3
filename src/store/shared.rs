//! What all handles of a store share.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use parking_lot::RwLock;

use crate::metrics::WorkMeter;
use crate::store::Limits;
use crate::store::budget::Budget;
use crate::store::session::{Observer, Session};
use crate::store::shares::Shares;
use crate::task::{HistoryEvent, SessionKey, TaskId};

pub(super) const SHARDS: usize = 32;

pub(super) type Shard = HashMap<SessionKey, Arc<Session>>;

/// Told of each task that leaves the store, and why.
pub(crate) type OnRemoval = dyn Fn(&SessionKey, TaskId, &str) + Send + Sync;

pub(crate) struct Shared {
    pub(super) shards: Vec<RwLock<Shard>>,
    pub(super) hasher: RandomState,
    pub(super) limits: Limits,
    pub(super) budget: Budget,
    pub(super) sessions: AtomicUsize,
    pub(super) stopping: AtomicBool,
    pub(super) epoch: Instant,
    pub(super) observer: Option<Box<Observer>>,
    pub(super) on_removal: Option<Box<OnRemoval>>,
    pub(super) meter: Option<WorkMeter>,
    pub(super) shares: Shares,
}

impl Shared {
    pub(super) fn observe(&self, key: &SessionKey, id: TaskId, event: &HistoryEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(key, id, event);
        }
    }

    pub(super) fn removed(&self, key: &SessionKey, id: TaskId, reason: &str) {
        if let Some(on_removal) = &self.on_removal {
            on_removal(key, id, reason);
        }
    }

    /// Milliseconds on the store's own clock, which nobody sets back.
    pub(super) fn clock(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    pub(super) fn shard(&self, key: &SessionKey) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}
