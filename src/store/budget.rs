//! The store's memory limit: a counter that never passes its limit.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes in use against bytes allowed. What is charged is given back with the same number, so
/// that the counter always equals the sum over what the store holds.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Budget {
        Budget {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    /// Bytes in use now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Takes `bytes`, or nothing and false where they would pass the limit.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        self.used
            .fetch_update(Relaxed, Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .is_ok()
    }

    /// Gives `bytes` back.
    pub(crate) fn refund(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Relaxed);
        debug_assert!(before >= bytes, "refunded more than was charged");
    }

    /// Moves a charge from `before` to `after` bytes; false and unchanged where it won't fit.
    pub(crate) fn adjust(&self, before: usize, after: usize) -> bool {
        match after.checked_sub(before) {
            Some(more) => self.charge(more),
            None => {
                self.refund(before - after);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_from_many_threads() {
        let budget = Budget::new(1_000);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| budget.charge(7)).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .sum()
        });
        assert_eq!((taken, budget.used()), (142, 994));
        assert!(budget.adjust(994, 1_000) && !budget.adjust(0, 1));
        budget.refund(1_000);
        assert_eq!(budget.used(), 0);
    }
}
