//! The job types that this process runs, in the groups in which the fetcher claims them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use crate::engine::pool::Pool;
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
    /// How many jobs may run at once.
    most: usize,
    /// Workers outside this process run the type. A job is then claimed for each call that waits for one.
    remote: Option<Pool>,
    /// The claimed jobs; of a remote type those that no worker has yet.
    held: Arc<AtomicUsize>,
}

/// Counts one claimed job of a type with a limit, until it is dropped.
pub(super) struct Counted {
    held: Arc<AtomicUsize>,
    is_until_begin: bool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Group {
    /// The group of types without a limit, then each type with one. What is claimed counts as it did in the groups
    /// `before`.
    pub(super) fn all(registry: &ExecutorRegistry, pool: &Pool, before: &[Group]) -> Vec<Group> {
        let held = |kind: &str| {
            let same = |group: &&Group| group.limit.is_some() && group.kinds[0].kind == kind;
            let before = before
                .iter()
                .find(same)
                .and_then(|group| group.limit.as_ref());
            before.map_or_else(Arc::default, |limit| limit.held.clone())
        };
        let mut limits: BTreeMap<&str, Limit> = BTreeMap::new();
        for (kind, most) in registry.limits() {
            limits.insert(kind, Limit::new(most, None, held(kind)));
        }
        for kind in registry.remote_types() {
            limits.insert(kind, Limit::new(usize::MAX, Some(pool.clone()), held(kind)));
        }
        let mark = |kind: &str| KindMark {
            kind: kind.to_owned(),
            after: Place::START,
        };
        let free = registry.types().filter(|kind| !limits.contains_key(kind));
        let free = Group::new(free.map(mark).collect(), None);
        let limited = limits.iter();
        let limited =
            limited.map(|(kind, limit)| Group::new(vec![mark(kind)], Some(limit.clone())));
        std::iter::once(free).chain(limited).collect()
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
            Some(limit) => room.min(limit.room(&self.kinds[0].kind)),
            None => room,
        }
    }

    /// Counts a claimed job. `wake` is called once the job holds its place no more.
    pub(super) fn count(&self, wake: impl Fn() + Send + Sync + 'static) -> Option<Counted> {
        let limit = self.limit.as_ref()?;
        let held = limit.held.clone();
        held.fetch_add(1, SeqCst);
        Some(Counted {
            held,
            is_until_begin: limit.remote.is_some(),
            wake: Box::new(wake),
        })
    }
}

impl Limit {
    fn new(most: usize, remote: Option<Pool>, held: Arc<AtomicUsize>) -> Limit {
        Limit { most, remote, held }
    }

    fn room(&self, kind: &str) -> usize {
        let wanted = self.remote.as_ref().map(|pool| pool.remote().demand(kind));
        let most = wanted.map_or(self.most, |wanted| wanted.min(self.most));
        most.saturating_sub(self.held.load(SeqCst))
    }
}

impl Counted {
    /// Whether the job is counted only until its executor is called.
    pub(super) fn is_until_begin(&self) -> bool {
        self.is_until_begin
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.fetch_sub(1, SeqCst);
        (self.wake)();
    }
}
