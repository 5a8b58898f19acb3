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

use crate::jobs::storage::{Storage, Version};
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
    /// What the watcher knows of.
    known: Version,
    /// Whether it is told of lines too.
    with_log: bool,
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

    /// Watches a job whose history is known up to entry `seq`, and its log up to a line, if that is given.
    pub(crate) fn watch(&self, job: Uuid, seq: u32, line: Option<u64>) -> Watcher {
        let (signal, changed) = crossbeam_channel::bounded(1);
        let mut watchers = self.watchers.lock();
        watchers.last += 1;
        let number = watchers.last;
        // After `close`, the dropped signal tells the watcher at once.
        if !watchers.is_closed {
            let subscription = Subscription {
                job,
                known: Version {
                    seq,
                    line: line.unwrap_or(0),
                },
                with_log: line.is_some(),
                signal,
            };
            watchers.all.insert(number, subscription);
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
            let jobs = watchers.lock().jobs();
            if jobs.is_empty() {
                break;
            }
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
    /// The jobs that are watched, and whether their logs are.
    fn jobs(&self) -> HashMap<Uuid, bool> {
        let mut jobs = HashMap::new();
        for watched in self.all.values() {
            *jobs.entry(watched.job).or_default() |= watched.with_log;
        }
        jobs
    }

    /// Never blocks: if a signal is still waiting, it stands for this change too.
    fn signal(&mut self, versions: &HashMap<Uuid, Version>) {
        for watched in self.all.values_mut() {
            // A deleted job counts as changed.
            let mut now = versions.get(&watched.job).copied().unwrap_or(Version::GONE);
            if !watched.with_log {
                now.line = watched.known.line;
            }
            if now != watched.known {
                watched.known = now;
                let _ = watched.signal.try_send(());
            }
        }
    }
}
