//! How many attempts of each type run now, tasks and jobs together.
//!
//! An attempt counts from its begin until its run is dropped, pauses included. So does one that is cancelled while its
//! executor still works.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The numbers, by type. A type of which nothing runs is not in it.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<Arc<str>, usize>>>);

/// One attempt that runs, until this is dropped.
pub(super) struct Counted {
    running: Running,
    kind: Arc<str>,
}

impl Running {
    pub(super) fn count(&self, kind: Arc<str>) -> Counted {
        *self.0.lock().entry(kind.clone()).or_default() += 1;
        let running = self.clone();
        Counted { running, kind }
    }

    pub(super) fn of(&self, kind: &str) -> usize {
        self.0.lock().get(kind).copied().unwrap_or(0)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut numbers = self.running.0.lock();
        match numbers.get_mut(&self.kind) {
            Some(number) if *number > 1 => *number -= 1,
            _ => drop(numbers.remove(&self.kind)),
        }
    }
}
