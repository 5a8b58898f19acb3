//! Runs that wait for something, in order, each of which can be taken out by its attempt.

use std::collections::{BTreeMap, HashMap};

use crate::engine::run::Run;
use crate::task::TaskId;

#[derive(Default)]
pub(super) struct Waiting {
    runs: BTreeMap<u64, Box<Run>>,
    numbers: HashMap<(TaskId, u32), u64>,
}

impl Waiting {
    /// Adds a run. `number` is its place in the order.
    pub(super) fn insert(&mut self, number: u64, run: Box<Run>) {
        self.numbers.insert(run.attempt.id(), number);
        self.runs.insert(number, run);
    }

    /// The number of the first run.
    pub(super) fn first(&self) -> Option<u64> {
        self.runs.first_key_value().map(|(number, _)| *number)
    }

    pub(super) fn pop_first(&mut self) -> Option<Box<Run>> {
        let (_, run) = self.runs.pop_first()?;
        self.numbers.remove(&run.attempt.id());
        Some(run)
    }

    pub(super) fn remove(&mut self, id: (TaskId, u32)) -> Option<Box<Run>> {
        let number = self.numbers.remove(&id)?;
        self.runs.remove(&number)
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Takes out all runs.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Box<Run>> + use<> {
        std::mem::take(self).runs.into_values()
    }
}
