//! Limits how many attempts of one type are at work at once.
//!
//! An attempt that finds no place waits here, before it begins: its task is still pending, and no thread waits with it.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::engine::run::{Run, RunQueue};
use crate::engine::waiting::Waiting;
use crate::task::TaskId;

/// The places of one type, and the runs that wait for one, in order.
pub(super) struct TypeLimit {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    places: usize,
    busy: usize,
    waiting: Waiting,
    next_number: u64,
}

/// A place. Dropping it hands it to the run that has waited longest.
struct Place {
    limit: Arc<TypeLimit>,
    queue: Weak<dyn RunQueue>,
}

impl TypeLimit {
    pub(super) fn new(places: usize) -> TypeLimit {
        let state = State {
            places,
            ..State::default()
        };
        TypeLimit {
            state: Mutex::new(state),
        }
    }

    /// Changes the number of places. What has one keeps it.
    pub(super) fn set_places(self: &Arc<TypeLimit>, places: usize, queue: &Weak<dyn RunQueue>) {
        self.state.lock().places = places;
        while let Some(run) = self.next() {
            self.send(run, queue);
        }
    }

    /// Takes a place, if there is one, for the run that has waited longest.
    fn next(&self) -> Option<Box<Run>> {
        let mut state = self.state.lock();
        let has_place = state.busy < state.places;
        let next = has_place.then(|| state.waiting.pop_first()).flatten()?;
        state.busy += 1;
        Some(next)
    }

    /// Without a queue the program ends, and nothing is run any more.
    fn send(self: &Arc<TypeLimit>, mut run: Box<Run>, queue: &Weak<dyn RunQueue>) {
        if let Some(to) = queue.upgrade() {
            run.place = Some(self.place(queue.clone()));
            to.send(run);
        }
    }

    /// Returns the run with a place, or keeps it until there is one.
    pub(super) fn enter(
        self: &Arc<TypeLimit>,
        mut run: Box<Run>,
        queue: Weak<dyn RunQueue>,
    ) -> Option<Box<Run>> {
        let mut state = self.state.lock();
        if state.busy < state.places {
            state.busy += 1;
            drop(state);
            run.place = Some(self.place(queue));
            return Some(run);
        }
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.insert(number, run);
        None
    }

    fn place(self: &Arc<TypeLimit>, queue: Weak<dyn RunQueue>) -> Arc<Place> {
        let limit = self.clone();
        Arc::new(Place { limit, queue })
    }

    /// How many runs wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Takes out the run of this attempt, which is over.
    pub(super) fn forget(&self, id: (TaskId, u32)) -> Option<Box<Run>> {
        self.state.lock().waiting.remove(id)
    }

    /// Takes out all runs that wait.
    pub(super) fn clear(&self) -> impl Iterator<Item = Box<Run>> + use<> {
        self.state.lock().waiting.take()
    }

    /// Frees a place, and takes it for the run that has waited longest, which is returned.
    fn leave(&self) -> Option<Box<Run>> {
        self.state.lock().busy -= 1;
        self.next()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(run) = self.limit.leave() {
            self.limit.send(run, &self.queue);
        }
    }
}
