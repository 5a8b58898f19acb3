//! Keeps blocking executors from taking the last worker.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// At most all workers but one (and at least one) run blocking executors at a time; the other
/// runs wait here, in order.
pub(super) struct BlockingLimit<R> {
    places: usize,
    state: Mutex<Lane<R>>,
}

struct Lane<R> {
    busy: usize,
    waiting: VecDeque<R>,
}

impl<R> BlockingLimit<R> {
    pub(super) fn new(workers: usize) -> BlockingLimit<R> {
        BlockingLimit {
            places: workers.saturating_sub(1).max(1),
            state: Mutex::new(Lane {
                busy: 0,
                waiting: VecDeque::new(),
            }),
        }
    }

    /// Returns the run if there is a place for it; else the run waits here.
    pub(super) fn enter(&self, run: R) -> Option<R> {
        let mut blocking_limit = self.state.lock();
        if blocking_limit.busy < self.places {
            blocking_limit.busy += 1;
            return Some(run);
        }
        blocking_limit.waiting.push_back(run);
        None
    }

    /// Passes the place to the run that has waited longest, or frees it if none waits.
    ///
    /// The popped run inherits the place. If it re-acquired instead, a cancelled run would strand all
    /// runs queued behind it.
    pub(super) fn leave(&self) -> Option<R> {
        let mut blocking_limit = self.state.lock();
        let next = blocking_limit.waiting.pop_front();
        if next.is_none() {
            blocking_limit.busy -= 1;
        }
        next
    }

    /// How many runs wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Takes out all runs that wait.
    #[must_use]
    pub(super) fn clear(&self) -> VecDeque<R> {
        std::mem::take(&mut self.state.lock().waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_handed_on_in_order_and_given_back_at_last() {
        let blocking_limit = BlockingLimit::new(3);
        assert_eq!(blocking_limit.enter(1), Some(1));
        assert_eq!(blocking_limit.enter(2), Some(2));
        for waits in 3..=4 {
            assert_eq!(
                blocking_limit.enter(waits),
                None,
                "the last worker is not for it"
            );
        }
        assert_eq!(blocking_limit.leave(), Some(3));
        assert_eq!(
            blocking_limit.enter(5),
            None,
            "3 has the place, before it has begun"
        );
        assert_eq!(
            (blocking_limit.leave(), blocking_limit.leave()),
            (Some(4), Some(5))
        );
        assert_eq!(
            (blocking_limit.leave(), blocking_limit.leave()),
            (None, None)
        );
        assert_eq!(
            (blocking_limit.enter(6), blocking_limit.enter(7)),
            (Some(6), Some(7))
        );
        assert_eq!(blocking_limit.enter(8), None);
    }

    #[test]
    fn a_single_worker_has_a_place_all_the_same() {
        let blocking_limit = BlockingLimit::new(1);
        assert_eq!(
            (blocking_limit.enter(1), blocking_limit.enter(2)),
            (Some(1), None)
        );
        assert_eq!(
            (blocking_limit.leave(), blocking_limit.leave()),
            (Some(2), None)
        );
    }
}
