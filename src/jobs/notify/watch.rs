//! Tells streams that their jobs have moved, whichever process runs them: one statement looks for
//! all streams of this process.

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

/// The pause between two looks, while anybody watches.
const LOOK: Duration = Duration::from_millis(100);

/// The pause after a database that was away.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who watches which job. Its lock is a leaf.
#[derive(Default)]
struct Watchers {
    last: u64,
    all: HashMap<u64, Subscription>,
    is_closed: bool,
}

struct Subscription {
    job: Uuid,
    /// The newest entry of its history that the watcher was told of.
    seq: u32,
    signal: Sender<()>,
}

/// The running look-out.
pub(crate) struct Watch {
    watchers: Arc<Mutex<Watchers>>,
    /// Calls the thread when the first watcher comes; dropped, it ends it.
    call: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A stream's place; gone when it is dropped.
pub(crate) struct Watcher {
    watchers: Arc<Mutex<Watchers>>,
    number: u64,
    moved: Receiver<()>,
}

/// The server stops: nobody looks any more.
pub(crate) struct Stopped;

impl Watch {
    pub(crate) fn start(storage: Arc<Storage>) -> io::Result<Watch> {
        let watchers = Arc::<Mutex<Watchers>>::default();
        let (call, called) = crossbeam_channel::bounded(1);
        let shared = watchers.clone();
        let thread = threads::spawn("job-watch", move || poll_loop(&storage, &shared, &called))?;
        Ok(Watch {
            watchers,
            call: Mutex::new(Some(call)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Watches a job whose history is known up to entry `seq`.
    pub(crate) fn watch(&self, job: Uuid, seq: u32) -> Watcher {
        let (signal, moved) = crossbeam_channel::bounded(1);
        let mut watchers = self.watchers.lock();
        watchers.last += 1;
        let number = watchers.last;
        // After the end, the dropped signal says so at once.
        if !watchers.is_closed {
            watchers
                .all
                .insert(number, Subscription { job, seq, signal });
        }
        drop(watchers);
        if let Some(call) = &*self.call.lock() {
            let _ = call.try_send(());
        }
        Watcher {
            watchers: self.watchers.clone(),
            number,
            moved,
        }
    }

    /// Ends every stream.
    pub(crate) fn close(&self) {
        let mut watchers = self.watchers.lock();
        watchers.is_closed = true;
        watchers.all.clear();
        drop(watchers);
        self.call.lock().take();
    }

    pub(crate) fn stop(&self, deadline: Instant) {
        self.close();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
        }
    }
}

impl Watcher {
    /// Whether the job moved within `patience`; an error where the server stops.
    pub(crate) fn moved(&self, patience: Duration) -> Result<bool, Stopped> {
        match self.moved.recv_timeout(patience) {
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

fn poll_loop(storage: &Storage, watchers: &Mutex<Watchers>, called: &Receiver<()>) {
    while called.recv().is_ok() {
        loop {
            let mut jobs: Vec<Uuid> = watchers.lock().all.values().map(|w| w.job).collect();
            if jobs.is_empty() {
                break;
            }
            jobs.sort_unstable();
            jobs.dedup();
            let pause = match storage.versions(&jobs) {
                Ok(versions) => {
                    watchers.lock().tell(&versions);
                    LOOK
                }
                Err(_) => LOOK_AGAIN,
            };
            std::thread::sleep(pause);
        }
    }
}

impl Watchers {
    /// Never blocks: a signal that was not heard yet stands for this one too.
    fn tell(&mut self, versions: &HashMap<Uuid, u32>) {
        for watched in self.all.values_mut() {
            // One that is not there any more has moved as well.
            let seq = versions.get(&watched.job).copied().unwrap_or(u32::MAX);
            if seq != watched.seq {
                watched.seq = seq;
                let _ = watched.signal.try_send(());
            }
        }
    }
}
