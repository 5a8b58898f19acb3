//! Runs that pause, and the time limits of attempts, in the order in which they are due.
//!
//! One thread sleeps until the next deadline and is woken only by an earlier one. Cancelled entries
//! are removed immediately.
//!
//! A run holds a user's executor, whose `Drop` may take long or panic. So cancelled runs are returned
//! to the caller, which sends them to a worker.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::engine::remote::Lease;
use crate::engine::run::{AttemptHandle, Run};
use crate::task::TaskId;

/// A deadline, and a number that keeps entries with the same deadline in order.
type Slot = (Instant, u64);

/// What the timer keeps.
pub(super) enum Due {
    /// A run whose pause is over at its time.
    Slice(Box<Run>),
    /// An attempt that has used up its time limit.
    Limit(Arc<dyn AttemptHandle>, Duration),
    /// A lease whose time may be over.
    Lease(Arc<Lease>),
    /// A job that no worker outside this process may have claimed.
    Unclaimed((TaskId, u32)),
}

#[derive(Default)]
pub(super) struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: BTreeMap<Slot, Due>,
    /// Each attempt's slots: its next slice, its time limit.
    slots: HashMap<(TaskId, u32), [Option<Slot>; 2]>,
    next_number: u64,
    stopped: bool,
}

const SLICE: usize = 0;
const LIMIT: usize = 1;

impl Timer {
    /// Keeps the run until it is due. Returns it after the stop.
    #[must_use]
    pub(super) fn wait(&self, run: Box<Run>) -> Option<Box<Run>> {
        let owner = run.attempt.id();
        let back = self.insert(run.due, owner, SLICE, Due::Slice(run));
        back.and_then(Due::into_run)
    }

    /// Ends the attempt after `limit`, unless it is cancelled before.
    pub(super) fn limit(&self, attempt: Arc<dyn AttemptHandle>, limit: Duration) {
        // A limit beyond what the clock can express is none.
        if let Some(at) = Instant::now().checked_add(limit) {
            let owner = attempt.id();
            self.insert(at, owner, LIMIT, Due::Limit(attempt, limit));
        }
    }

    /// Looks at the lease at this time, in the place of the attempt's next slice.
    pub(super) fn lease(&self, lease: Arc<Lease>, until: Instant) {
        self.insert(until, lease.id(), SLICE, Due::Lease(lease));
    }

    /// Looks at this time whether a worker has claimed the job, in the place of the attempt's next slice.
    pub(super) fn unclaimed(&self, id: (TaskId, u32), until: Instant) {
        self.insert(until, id, SLICE, Due::Unclaimed(id));
    }

    /// Cancels what waits for this attempt, except its time limit.
    pub(super) fn forget_slice(&self, id: (TaskId, u32)) {
        let mut state = self.state.lock();
        let slot = state.slots.get(&id).and_then(|slots| slots[SLICE]);
        if let Some(slot) = slot {
            state.queue.remove(&slot);
            state.clear(id, slot);
        }
    }

    /// Cancels all that waits for this attempt, and returns its run if that waits.
    #[must_use]
    pub(super) fn forget(&self, id: (TaskId, u32)) -> Option<Box<Run>> {
        let mut state = self.state.lock();
        let slots = state.slots.remove(&id)?;
        let gone = slots.map(|slot| slot.and_then(|slot| state.queue.remove(&slot)));
        drop(state);
        gone.into_iter().flatten().find_map(Due::into_run)
    }

    /// Takes out the run of this attempt, if it waits for a wake. Its time limit stays.
    #[must_use]
    pub(super) fn wake(&self, id: (TaskId, u32)) -> Option<Box<Run>> {
        let mut state = self.state.lock();
        let slot = state.slots.get(&id)?[SLICE]?;
        match state.queue.get(&slot) {
            Some(Due::Slice(run)) if run.waits => {}
            _ => return None,
        }
        let due = state.queue.remove(&slot)?;
        state.clear(id, slot);
        due.into_run()
    }

    /// Ends the thread, and returns the runs that wait.
    pub(super) fn stop(&self) -> impl Iterator<Item = Box<Run>> {
        let mut state = self.state.lock();
        state.stopped = true;
        let gone = std::mem::take(&mut state.queue);
        state.slots.clear();
        self.changed.notify_all();
        drop(state);
        gone.into_values().filter_map(Due::into_run)
    }

    /// Keeps `due`. Returns it after the stop.
    fn insert(&self, at: Instant, owner: (TaskId, u32), which: usize, due: Due) -> Option<Due> {
        let mut state = self.state.lock();
        if state.stopped {
            return Some(due);
        }
        let slot = (at, state.next_number);
        state.next_number += 1;
        let earliest = state.queue.first_key_value().is_none_or(|(k, _)| slot < *k);
        state.queue.insert(slot, due);
        state.slots.entry(owner).or_default()[which] = Some(slot);
        if earliest {
            self.changed.notify_one();
        }
        None
    }

    /// Waits for the next entries that are due. Returns `None` at the stop.
    pub(super) fn next(&self) -> Option<Vec<Due>> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            match state.queue.first_key_value().map(|(&(at, _), _)| at) {
                Some(at) if at <= now => return Some(state.take_until(now)),
                Some(at) => {
                    self.changed.wait_until(&mut state, at);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }
}

impl State {
    fn take_until(&mut self, now: Instant) -> Vec<Due> {
        let later = self.queue.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.queue, later);
        for (slot, due) in &due {
            let owner = match due {
                Due::Slice(run) => run.attempt.id(),
                Due::Limit(attempt, _) => attempt.id(),
                Due::Lease(lease) => lease.id(),
                Due::Unclaimed(id) => *id,
            };
            self.clear(owner, *slot);
        }
        due.into_values().collect()
    }

    /// Forgets a slot whose entry has left the queue.
    fn clear(&mut self, owner: (TaskId, u32), slot: Slot) {
        let Some(slots) = self.slots.get_mut(&owner) else {
            return;
        };
        for own in slots.iter_mut().filter(|own| **own == Some(slot)) {
            *own = None;
        }
        if slots.iter().all(Option::is_none) {
            self.slots.remove(&owner);
        }
    }
}

impl Due {
    fn into_run(self) -> Option<Box<Run>> {
        match self {
            Due::Slice(run) => Some(run),
            Due::Limit(..) | Due::Lease(_) | Due::Unclaimed(_) => None,
        }
    }
}
