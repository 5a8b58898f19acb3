//! In place of `readiness` where there is no `epoll`: executors look from time to time, and nothing wakes them.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::executor::Waker;

#[derive(Default)]
pub(super) struct Readiness {
    is_interrupted: Mutex<bool>,
    changed: Condvar,
}

pub(super) struct Watch;

#[derive(Clone, Copy)]
pub(super) enum For {
    Reading,
    Writing,
}

impl Readiness {
    pub(super) fn new() -> io::Result<Readiness> {
        Ok(Readiness::default())
    }

    pub(super) fn watch(self: &Arc<Readiness>, _: Waker) -> Watch {
        Watch
    }

    /// Waits until it is interrupted, for at most this long, and never so long that the end of the guardian's shell
    /// would stay unseen.
    pub(super) fn wait(&self, at_most: Option<Duration>) {
        let at_most = at_most.unwrap_or(Duration::from_secs(1));
        let mut is_interrupted = self.is_interrupted.lock();
        if !*is_interrupted {
            self.changed.wait_for(&mut is_interrupted, at_most);
        }
        *is_interrupted = false;
    }

    pub(super) fn interrupt(&self) {
        *self.is_interrupted.lock() = true;
        self.changed.notify_one();
    }

    pub(super) fn wake_all(&self) {}
}

impl Watch {
    pub(super) fn add(&self, _: impl AsFd, _: For) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn again(&self, _: impl AsFd, _: For) {}
}
