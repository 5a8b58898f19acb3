//! Tasks and sessions, counted for `/metrics`.

use crate::metrics::{Kinds, WorkMeter};
use crate::store::TaskManager;

/// How many tasks of a session are counted under one hold of its lock.
const PART: usize = 1_000;

impl TaskManager {
    /// What is counted, where anything is.
    pub(crate) fn meter(&self) -> Option<&WorkMeter> {
        self.shared.meter.as_ref()
    }

    /// How many sessions there are.
    pub(crate) fn session_count(&self) -> usize {
        self.shared
            .sessions
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// How many tasks there are of each of these types, by status. Looked up task by task,
    /// so that nobody has to keep count.
    pub(crate) fn count_by_type(&self, kinds: &Kinds) -> Vec<[usize; 5]> {
        let mut counts = vec![[0; 5]; kinds.names().len()];
        for session in self.sessions() {
            let mut last = None;
            loop {
                let state = session.state.read();
                let mut seen = 0;
                for record in state.newest(last).take(PART) {
                    let task = &record.task;
                    counts[kinds.place(&task.kind)][task.status as usize] += 1;
                    (last, seen) = (Some(task.id), seen + 1);
                }
                if seen < PART {
                    break;
                }
            }
        }
        counts
    }
}
