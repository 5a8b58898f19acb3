//! Wakes of waiting runs.
//!
//! A wake may come at any time: before the wait, during it, or long after the attempt. It sets the flag first, then
//! takes the run from the timer. A worker does it in the other order: it gives the run to the timer first, then it
//! looks at the flag. So one of the two finds the run, and the timer gives it to one only.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use crate::executor::Waker;

/// Whether a run was woken. Most runs never ask for a waker, so the flag is made with the first one.
#[derive(Clone, Default)]
pub(super) struct Wakes {
    woken: OnceLock<Arc<AtomicBool>>,
}

impl Wakes {
    /// A waker that calls `wake` for the first wake since the executor was last called.
    pub(super) fn waker(&self, wake: impl Fn() + Send + Sync + 'static) -> Waker {
        let woken = self.woken.get_or_init(Arc::default).clone();
        Waker::new(move || {
            if !woken.swap(true, SeqCst) {
                wake();
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
