//! What a worker process has claimed, and how its threads call each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::jobs::meter::JobMeter;
use crate::jobs::run::{Clock, JobRun};
use crate::jobs::storage::{Claim, Finish};
use crate::metrics::Exposition;

/// The most jobs claimed at once, running and pausing ones included.
const MAX_HELD: usize = 10_000;

/// The most ends that wait to be written: no more is claimed before. What has run and is not written
/// would run again after a crash.
const MAX_UNWRITTEN: usize = 2_000;

/// What runs, dispatcher and scribe share.
pub(super) struct Desk {
    clock: Clock,
    /// The claimed jobs. No other lock is taken under it.
    held: Mutex<HashMap<Uuid, Arc<JobRun>>>,
    ends: Sender<Finish>,
    wake: Sender<()>,
    /// Claimed, and not yet begun.
    ahead: AtomicUsize,
    /// The dispatcher is called when fewer than this are ahead.
    low: AtomicUsize,
    /// The dispatcher found no room but for what is being written.
    is_full: AtomicBool,
    stopping: AtomicBool,
    /// The dispatcher waits for its database.
    is_away: AtomicBool,
    pub(super) meter: Arc<JobMeter>,
}

/// What the dispatcher and the scribe hear.
pub(super) struct Calls {
    pub(super) wake: Receiver<()>,
    pub(super) ends: Receiver<Finish>,
}

impl Desk {
    pub(super) fn new(meter: Arc<JobMeter>) -> (Desk, Calls) {
        let (ends, written) = crossbeam_channel::unbounded();
        let (wake, called) = crossbeam_channel::bounded(1);
        let desk = Desk {
            clock: Clock::default(),
            held: Mutex::default(),
            ends,
            wake,
            ahead: AtomicUsize::new(0),
            low: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            meter,
        };
        let calls = Calls {
            wake: called,
            ends: written,
        };
        (desk, calls)
    }

    pub(super) fn clock(&self) -> u64 {
        self.clock.now()
    }

    /// How many more jobs may be claimed, where `window` may be ahead.
    pub(super) fn room(&self, window: usize) -> usize {
        // First, so that an end written meanwhile is not overlooked.
        self.is_full.store(true, SeqCst);
        let held = self.held.lock().len();
        if held >= MAX_HELD || self.ends.len() >= MAX_UNWRITTEN {
            return 0;
        }
        self.is_full.store(false, SeqCst);
        let window = window.saturating_sub(self.ahead.load(SeqCst));
        window.min(MAX_HELD - held)
    }

    /// The dispatcher is called when fewer than this have not begun.
    pub(super) fn call_below(&self, low: usize) {
        self.low.store(low, SeqCst);
    }

    /// A job was claimed.
    pub(super) fn claimed(&self, run: Arc<JobRun>) {
        self.held.lock().insert(run.claim.id, run);
        self.ahead.fetch_add(1, SeqCst);
    }

    /// A claimed job begins.
    pub(super) fn started(&self) {
        if self.ahead.fetch_sub(1, SeqCst) <= self.low.load(SeqCst) {
            self.wake();
        }
    }

    pub(super) fn finish(&self, end: Finish) {
        let _ = self.ends.send(end);
    }

    /// These ends are written: their claims are over.
    pub(super) fn written(&self, ends: impl Iterator<Item = Finish>) {
        let mut held = self.held.lock();
        ends.for_each(|end| forget(&mut held, end.claim));
        drop(held);
        if self.is_full.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// This run is over, and its end is not ours to write. At the stop its claim stays here, to
    /// be given back.
    pub(super) fn let_go(&self, run: &JobRun) {
        run.end();
        if !self.is_stopping() {
            forget(&mut self.held.lock(), run.claim);
        }
    }

    /// The claims that are left, all given back.
    pub(super) fn clear(&self) {
        self.held.lock().clear();
    }

    /// As [`let_go`](Self::let_go), for whatever holds the job here.
    pub(super) fn call_off(&self, id: Uuid) -> Option<Arc<JobRun>> {
        let run = self.held.lock().remove(&id)?;
        run.end();
        Some(run)
    }

    /// Something may be due. Never blocks.
    pub(super) fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.wake();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, SeqCst);
    }

    pub(super) fn runs(&self) -> Vec<Arc<JobRun>> {
        self.held.lock().values().cloned().collect()
    }

    /// Who runs under this claim.
    pub(super) fn run_of(&self, claim: Claim) -> Option<Arc<JobRun>> {
        let run = self.held.lock().get(&claim.id).cloned();
        run.filter(|run| run.claim == claim)
    }

    /// Writes what it holds, with names that begin with `noun`.
    pub(super) fn write(&self, noun: &str, out: &mut Exposition) {
        let held = self.held.lock().len();
        let help = "Jobs that this process has claimed: ahead, running and pausing ones.";
        out.gauge(&format!("{noun}_held"), help, held);
        let ahead = self.ahead.load(SeqCst);
        let help = "Those that have not begun.";
        out.gauge(&format!("{noun}_ahead"), help, ahead);
        let is_away = u8::from(self.is_away.load(SeqCst));
        let help = "1 while the queue waits for its database, else 0.";
        out.gauge(&format!("{noun}_database_away"), help, is_away);
    }
}

/// Forgets a claim; not a newer one of the same job, which may have come back meanwhile.
fn forget(held: &mut HashMap<Uuid, Arc<JobRun>>, claim: Claim) {
    if held.get(&claim.id).is_some_and(|own| own.claim == claim) {
        held.remove(&claim.id);
    }
}
