//! Signals changes of jobs to streams, whichever process runs the jobs. One statement polls for all streams of this
//! process.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::jobs::storage::Storage;
use crate::threads::{self, join_until};

/// The polling interval while there are watchers.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// The pause after a failed statement.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The watchers. Do not take another lock while holding this one.
#[derive(Default)]
struct Watchers {
    last: u64,
    all: HashMap<u64, Subscription>,
    is_closed: bool,
}

struct Subscription {
    job: Uuid,
    /// The newest history entry that the watcher knows of.
    seq: u32,
    signal: Sender<()>,
}

/// Polls the database for the watchers.
pub(crate) struct Watch {
    watchers: Arc<Mutex<Watchers>>,
    /// Wakes the thread for the first watcher. The thread ends when this is dropped.
    wake: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A stream's subscription. Dropping it removes the subscription.
pub(crate) struct Watcher {
    watchers: Arc<Mutex<Watchers>>,
    number: u64,
    changed: Receiver<()>,
}

/// The server is stopping.
pub(crate) struct Stopped;

impl Watch {
    pub(crate) fn start(storage: Arc<Storage>) -> io::Result<Watch> {
        let watchers = Arc::<Mutex<Watchers>>::default();
        let (wake, woken) = crossbeam_channel::bounded(1);
        let shared = watchers.clone();
        let thread = threads::spawn("job-watch", move || poll_loop(&storage, &shared, &woken))?;
        Ok(Watch {
            watchers,
            wake: Mutex::new(Some(wake)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Watches a job whose history is known up to entry `seq`.
    pub(crate) fn watch(&self, job: Uuid, seq: u32) -> Watcher {
        let (signal, changed) = crossbeam_channel::bounded(1);
        let mut watchers = self.watchers.lock();
        watchers.last += 1;
        let number = watchers.last;
        // After `close`, the dropped signal tells the watcher at once.
        if !watchers.is_closed {
            watchers
                .all
                .insert(number, Subscription { job, seq, signal });
        }
        drop(watchers);
        if let Some(wake) = &*self.wake.lock() {
            let _ = wake.try_send(());
        }
        Watcher {
            watchers: self.watchers.clone(),
            number,
            changed,
        }
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        let mut watchers = self.watchers.lock();
        watchers.is_closed = true;
        watchers.all.clear();
        drop(watchers);
        self.wake.lock().take();
    }

    pub(crate) fn stop(&self, deadline: Instant) {
        self.close();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
        }
    }
}

impl Watcher {
    /// Returns whether the job changed within `patience`; an error if the server is stopping.
    pub(crate) fn changed(&self, patience: Duration) -> Result<bool, Stopped> {
        match self.changed.recv_timeout(patience) {
            Ok(()) => Ok(true),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(Stopped),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.lock().all.remove(&self.number);
    }
}

fn poll_loop(storage: &Storage, watchers: &Mutex<Watchers>, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        loop {
            let mut jobs: Vec<Uuid> = watchers.lock().all.values().map(|w| w.job).collect();
            if jobs.is_empty() {
                break;
            }
            jobs.sort_unstable();
            jobs.dedup();
            let pause = match storage.versions(&jobs) {
                Ok(versions) => {
                    watchers.lock().signal(&versions);
                    POLL_EVERY
                }
                Err(_) => RETRY_AFTER,
            };
            std::thread::sleep(pause);
        }
    }
}

impl Watchers {
    /// Never blocks: if a signal is still waiting, it stands for this change too.
    fn signal(&mut self, versions: &HashMap<Uuid, u32>) {
        for watched in self.all.values_mut() {
            // A deleted job counts as changed.
            let seq = versions.get(&watched.job).copied().unwrap_or(u32::MAX);
            if seq != watched.seq {
                watched.seq = seq;
                let _ = watched.signal.try_send(());
            }
        }
    }
}
