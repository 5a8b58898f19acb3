//! Wakes of waiting runs.
//!
//! A wake may come at any time: before the wait, during it, or long after the attempt. `woken` is set first, then
//! the timer is asked for the run. A worker does it in the other order: the run goes to the timer first, then the
//! worker looks at `woken`. So one of the two finds the run, and the timer gives it to one only.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

use crate::engine::scheduler::Scheduler;
use crate::executor::Waker;
use crate::task::TaskId;

/// The wakes of one run. Most runs never ask for a waker, so the flag is made with the first one.
#[derive(Clone, Default)]
pub(super) struct Wakes {
    woken: OnceLock<Arc<AtomicBool>>,
}

impl Wakes {
    /// A waker of the run of this attempt.
    pub(super) fn waker(&self, id: (TaskId, u32), scheduler: &Arc<Scheduler>) -> Waker {
        let woken = self.woken.get_or_init(Arc::default).clone();
        let scheduler: Weak<Scheduler> = Arc::downgrade(scheduler);
        Waker::new(move || {
            if !woken.swap(true, SeqCst)
                && let Some(scheduler) = scheduler.upgrade()
            {
                scheduler.wake(id);
            }
        })
    }

    /// Whether the run was woken since its executor was last called.
    pub(super) fn is_woken(&self) -> bool {
        self.woken.get().is_some_and(|woken| woken.load(SeqCst))
    }

    /// The executor is called now, and will see what it was woken for.
    pub(super) fn clear(&self) {
        if let Some(woken) = self.woken.get() {
            woken.store(false, SeqCst);
        }
    }
}
