//! Keeps blocking executors from taking the last worker.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// At most all workers but one (and at least one) run blocking executors at a time; the other
/// runs wait here, in order.
pub(super) struct BlockingLane<R> {
    places: usize,
    state: Mutex<Lane<R>>,
}

struct Lane<R> {
    busy: usize,
    waiting: VecDeque<R>,
}

impl<R> BlockingLane<R> {
    pub(super) fn new(workers: usize) -> BlockingLane<R> {
        BlockingLane {
            places: workers.saturating_sub(1).max(1),
            state: Mutex::new(Lane {
                busy: 0,
                waiting: VecDeque::new(),
            }),
        }
    }

    /// The run back where there is a place for it; else it waits.
    pub(super) fn enter(&self, run: R) -> Option<R> {
        let mut lane = self.state.lock();
        if lane.busy < self.places {
            lane.busy += 1;
            return Some(run);
        }
        lane.waiting.push_back(run);
        None
    }

    /// Hands the place to the run that waited longest, and gives it back where none does.
    ///
    /// What is popped has the place already. Were it to enter once more, one that no longer asks
    /// for a place would take the turn of all behind it with it.
    pub(super) fn leave(&self) -> Option<R> {
        let mut lane = self.state.lock();
        let next = lane.waiting.pop_front();
        if next.is_none() {
            lane.busy -= 1;
        }
        next
    }

    /// How many runs wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// All that wait, who do so no longer.
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
        let lane = BlockingLane::new(3);
        assert_eq!(lane.enter(1), Some(1));
        assert_eq!(lane.enter(2), Some(2));
        for waits in 3..=4 {
            assert_eq!(lane.enter(waits), None, "the last worker is not for it");
        }
        assert_eq!(lane.leave(), Some(3));
        assert_eq!(lane.enter(5), None, "3 has the place, before it has begun");
        assert_eq!((lane.leave(), lane.leave()), (Some(4), Some(5)));
        assert_eq!((lane.leave(), lane.leave()), (None, None));
        assert_eq!((lane.enter(6), lane.enter(7)), (Some(6), Some(7)));
        assert_eq!(lane.enter(8), None);
    }

    #[test]
    fn a_single_worker_has_a_place_all_the_same() {
        let lane = BlockingLane::new(1);
        assert_eq!((lane.enter(1), lane.enter(2)), (Some(1), None));
        assert_eq!((lane.leave(), lane.leave()), (Some(2), None));
    }
}
