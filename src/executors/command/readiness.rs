//! Wakes executors when there is something to read or to write, or when a process has ended: one `epoll` for all.
//!
//! What has fired is silent until it is armed again. So a command that floods its output wakes its executor once for
//! each time that the executor has read, and no more.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::executor::Waker;

/// The key of what interrupts the wait.
const INTERRUPT: u64 = 0;

pub(super) struct Readiness {
    epoll: OwnedFd,
    interrupt: OwnedFd,
    wakers: Mutex<HashMap<u64, Waker>>,
    last_key: AtomicU64,
}

/// What one executor waits for, until this is dropped.
pub(super) struct Watch {
    readiness: Arc<Readiness>,
    key: u64,
}

#[derive(Clone, Copy)]
pub(super) enum For {
    Reading,
    Writing,
}

impl Readiness {
    pub(super) fn new() -> io::Result<Readiness> {
        let readiness = Readiness {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            interrupt: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            wakers: Mutex::default(),
            last_key: AtomicU64::new(INTERRUPT),
        };
        let key = epoll::EventData::new_u64(INTERRUPT);
        epoll::add(
            &readiness.epoll,
            &readiness.interrupt,
            key,
            epoll::EventFlags::IN,
        )?;
        Ok(readiness)
    }

    pub(super) fn watch(self: &Arc<Readiness>, waker: Waker) -> Watch {
        let key = self.last_key.fetch_add(1, Relaxed) + 1;
        self.wakers.lock().insert(key, waker);
        let readiness = self.clone();
        Watch { readiness, key }
    }

    /// Waits, for at most this long, and wakes the executors whose time has come.
    pub(super) fn wait(&self, at_most: Option<Duration>) {
        let mut events = Vec::with_capacity(64);
        let at_most = at_most.and_then(|time| Timespec::try_from(time).ok());
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), at_most.as_ref());
        for event in events {
            let key = event.data.u64();
            if key == INTERRUPT {
                let _ = rustix::io::read(&self.interrupt, &mut [0; 8]);
            }
            let waker = self.wakers.lock().get(&key).cloned();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Ends the wait.
    pub(super) fn interrupt(&self) {
        let _ = rustix::io::write(&self.interrupt, &1_u64.to_ne_bytes());
    }

    /// Wakes all executors.
    pub(super) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.wakers.lock().values().cloned().collect();
        wakers.iter().for_each(Waker::wake);
    }
}

impl Watch {
    /// Arms a descriptor for the first time. It leaves by itself when it is closed.
    pub(super) fn add(&self, fd: impl AsFd, what: For) -> io::Result<()> {
        let (epoll, key) = (&self.readiness.epoll, epoll::EventData::new_u64(self.key));
        Ok(epoll::add(epoll, fd, key, flags(what))?)
    }

    /// Arms a descriptor again that may have fired.
    pub(super) fn again(&self, fd: impl AsFd, what: For) {
        let (epoll, key) = (&self.readiness.epoll, epoll::EventData::new_u64(self.key));
        let _ = epoll::modify(epoll, fd, key, flags(what));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.readiness.wakers.lock().remove(&self.key);
    }
}

fn flags(what: For) -> epoll::EventFlags {
    let flag = match what {
        For::Reading => epoll::EventFlags::IN,
        For::Writing => epoll::EventFlags::OUT,
    };
    flag | epoll::EventFlags::ONESHOT
}
