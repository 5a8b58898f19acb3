//! A fixed number of places, taken and given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The places of one kind. A cheap handle: clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Semaphore {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// One place; dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Semaphore {
    pub(crate) fn new(max: usize) -> Semaphore {
        Semaphore {
            taken: Arc::default(),
            max,
        }
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many are taken now.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// A place, or `None` where all are taken.
    pub(crate) fn take(&self) -> Option<Permit> {
        let one_more = |taken| (taken < self.max).then_some(taken + 1);
        let taken = self.taken.fetch_update(Relaxed, Relaxed, one_more);
        taken.ok().map(|_| Permit(self.taken.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
