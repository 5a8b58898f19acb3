//! The job types that this process runs, in the groups in which the fetcher claims them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use crate::executor::ExecutorRegistry;
use crate::jobs::job::Place;
use crate::jobs::storage::work::KindMark;

/// Types that are claimed together: all types without a limit, or one type with a limit.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) kinds: Vec<KindMark>,
    /// Until then, claims start behind the marks.
    pub(super) spare_until: Option<Instant>,
    limit: Option<Limit>,
}

#[derive(Clone)]
struct Limit {
    most: usize,
    held: Arc<AtomicUsize>,
}

/// Counts one claimed job of a type with a limit, until it is dropped.
pub(super) struct Counted {
    held: Arc<AtomicUsize>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Group {
    /// The group of types without a limit, then each type with one.
    pub(super) fn all(registry: &ExecutorRegistry) -> Vec<Group> {
        let mark = |kind: &str| KindMark {
            kind: kind.to_owned(),
            after: Place::START,
        };
        let is_free = |kind: &&str| registry.limits().all(|(limited, _)| limited != *kind);
        let free = registry.types().filter(is_free).map(mark).collect();
        let limited = registry.limits().map(|(kind, most)| {
            let held = Arc::default();
            Group::new(vec![mark(kind)], Some(Limit { most, held }))
        });
        std::iter::once(Group::new(free, None))
            .chain(limited)
            .collect()
    }

    fn new(kinds: Vec<KindMark>, limit: Option<Limit>) -> Group {
        Group {
            kinds,
            spare_until: None,
            limit,
        }
    }

    /// How many more jobs of the group may be claimed. No more are claimed ahead than can run: other processes may
    /// have places for them.
    pub(super) fn room(&self, room: usize) -> usize {
        match &self.limit {
            _ if self.kinds.is_empty() => 0,
            Some(limit) => room.min(limit.most.saturating_sub(limit.held.load(SeqCst))),
            None => room,
        }
    }

    /// Counts a claimed job. `wake` is called once the job holds its place no more.
    pub(super) fn count(&self, wake: impl Fn() + Send + Sync + 'static) -> Option<Counted> {
        let held = self.limit.as_ref()?.held.clone();
        held.fetch_add(1, SeqCst);
        let wake = Box::new(wake);
        Some(Counted { held, wake })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.fetch_sub(1, SeqCst);
        (self.wake)();
    }
}
