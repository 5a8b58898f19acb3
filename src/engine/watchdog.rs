//! Starts spare workers while all others are held.
//!
//! An executor that spins or sleeps in one slice holds its worker, because a thread cannot be taken
//! away from it. When every worker is held and runs wait, a spare worker is started. It ends when it
//! has been idle for a while. This keeps the number of available workers constant.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A worker counts as held if its slice takes longer.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// How often the workers are checked.
const LOOK: Duration = Duration::from_millis(250);

/// The most spare workers at once. An executor that never returns holds its thread for ever.
const MAX_SPARE_WORKERS: usize = 64;

/// How long a spare worker waits for a run before it ends.
const SPARE_IDLE: Duration = Duration::from_secs(5);

/// What one worker is doing.
#[derive(Default)]
pub(super) struct Heartbeat {
    /// Since when its slice runs, in milliseconds; 0 between slices.
    since: AtomicU64,
    /// How many slices it has run. Only the worker itself writes.
    slices: AtomicU64,
}

/// The heartbeats of all workers, and the stop of the thread that watches them.
pub(super) struct Watchdog {
    epoch: Instant,
    state: Mutex<State>,
    stopping: Condvar,
}

#[derive(Default)]
struct State {
    heartbeats: Vec<Arc<Heartbeat>>,
    /// Slices of workers that have left.
    slices: u64,
    stopped: bool,
}

/// The workers at a moment.
pub(super) struct WorkerCounts {
    /// How many there are, spare workers included.
    pub(super) workers: usize,
    /// How many are within a slice.
    pub(super) busy: usize,
    /// Slices run so far.
    pub(super) slices: u64,
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog {
            epoch: Instant::now(),
            state: Mutex::default(),
            stopping: Condvar::new(),
        }
    }
}

impl Watchdog {
    fn clock(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    /// Adds a worker. It must pass its heartbeat to [`leave`](Self::leave) at its end.
    pub(super) fn join(&self) -> Arc<Heartbeat> {
        let heartbeat = Arc::<Heartbeat>::default();
        self.state.lock().heartbeats.push(heartbeat.clone());
        heartbeat
    }

    pub(super) fn leave(&self, heartbeat: &Arc<Heartbeat>) {
        let mut state = self.state.lock();
        state
            .heartbeats
            .retain(|other| !Arc::ptr_eq(other, heartbeat));
        state.slices += heartbeat.slices.load(Relaxed);
    }

    pub(super) fn counts(&self) -> WorkerCounts {
        let state = self.state.lock();
        let slices = state
            .heartbeats
            .iter()
            .map(|heartbeat| heartbeat.slices.load(Relaxed));
        let busy = |heartbeat: &&Arc<Heartbeat>| heartbeat.since.load(Relaxed) > 0;
        WorkerCounts {
            workers: state.heartbeats.len(),
            busy: state.heartbeats.iter().filter(busy).count(),
            slices: state.slices + slices.sum::<u64>(),
        }
    }

    pub(super) fn begin(&self, heartbeat: &Heartbeat) {
        heartbeat.since.store(self.clock(), Relaxed);
    }

    pub(super) fn end(&self, heartbeat: &Heartbeat) {
        heartbeat.since.store(0, Relaxed);
        let slices = heartbeat.slices.load(Relaxed) + 1;
        heartbeat.slices.store(slices, Relaxed);
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.stopping.notify_all();
    }

    /// Waits for the next look. Returns how many workers there are and whether all of them are held,
    /// or `None` at the stop.
    fn look(&self) -> Option<(usize, bool)> {
        let mut state = self.state.lock();
        if !state.stopped {
            self.stopping.wait_for(&mut state, LOOK);
        }
        let now = self.clock();
        let is_held = |heartbeat: &Arc<Heartbeat>| {
            let since = heartbeat.since.load(Relaxed);
            since > 0 && now.saturating_sub(since) > HELD_AFTER.as_millis() as u64
        };
        let held = state.heartbeats.iter().all(is_held);
        (!state.stopped).then_some((state.heartbeats.len(), held))
    }

    /// The watchdog's thread. `start` gets a spare worker's name, and how long it may be idle before
    /// it ends.
    pub(super) fn run(
        &self,
        workers: usize,
        is_waiting: impl Fn() -> bool,
        start: impl Fn(String, Duration) -> io::Result<()>,
    ) {
        let most = workers + MAX_SPARE_WORKERS;
        while let Some((workers, all_held)) = self.look() {
            if !all_held || !is_waiting() || workers >= most {
                continue;
            }
            log::warn!(
                "All {workers} workers are held by executors that do not return; a spare worker goes on"
            );
            if let Err(error) = start(format!("spare-{workers}"), SPARE_IDLE) {
                log::error!("A spare worker cannot be started: {error}");
            }
        }
    }
}
