//! Sees to it that there is always a worker who can go on.
//!
//! An executor that spins or sleeps in one slice holds its worker, and nothing can take a thread
//! away from it. When every worker is held like that and runs wait, a stand-in is started; it
//! ends when it has had nothing to do for a while. So the pool keeps its size in what it can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::{Condvar, Mutex};

use crate::engine::pool::{Pool, Run};

/// A slice that takes longer holds its worker.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// How often the workers are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The most stand-ins at once: an executor that never ends costs a thread for ever.
const MAX_STAND_INS: usize = 64;

/// How long a stand-in waits for something to do.
const STAND_IN_IDLE: Duration = Duration::from_secs(5);

/// What one worker is doing.
#[derive(Default)]
pub(super) struct Pulse {
    /// Since when its slice runs, in milliseconds; 0 between slices.
    since: AtomicU64,
    /// How many slices it has run. Only the worker itself writes.
    slices: AtomicU64,
}

/// The pulses of all workers, and the stop of the thread that watches them.
pub(super) struct Overseer {
    epoch: Instant,
    state: Mutex<State>,
    stopping: Condvar,
}

#[derive(Default)]
struct State {
    pulses: Vec<Arc<Pulse>>,
    /// Slices of workers that have left.
    slices: u64,
    stopped: bool,
}

/// The workers at a moment.
pub(super) struct Crew {
    /// How many there are, stand-ins included.
    pub(super) workers: usize,
    /// How many are within a slice.
    pub(super) busy: usize,
    /// Slices run so far.
    pub(super) slices: u64,
}

impl Default for Overseer {
    fn default() -> Overseer {
        Overseer {
            epoch: Instant::now(),
            state: Mutex::default(),
            stopping: Condvar::new(),
        }
    }
}

impl Overseer {
    fn clock(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    /// A worker joins; its pulse is to be handed back to [`leave`](Self::leave).
    pub(super) fn join(&self) -> Arc<Pulse> {
        let pulse = Arc::<Pulse>::default();
        self.state.lock().pulses.push(pulse.clone());
        pulse
    }

    pub(super) fn leave(&self, pulse: &Arc<Pulse>) {
        let mut state = self.state.lock();
        state.pulses.retain(|other| !Arc::ptr_eq(other, pulse));
        state.slices += pulse.slices.load(Relaxed);
    }

    pub(super) fn crew(&self) -> Crew {
        let state = self.state.lock();
        let slices = state.pulses.iter().map(|pulse| pulse.slices.load(Relaxed));
        let busy = |pulse: &&Arc<Pulse>| pulse.since.load(Relaxed) > 0;
        Crew {
            workers: state.pulses.len(),
            busy: state.pulses.iter().filter(busy).count(),
            slices: state.slices + slices.sum::<u64>(),
        }
    }

    pub(super) fn begin(&self, pulse: &Pulse) {
        pulse.since.store(self.clock(), Relaxed);
    }

    pub(super) fn end(&self, pulse: &Pulse) {
        pulse.since.store(0, Relaxed);
        let slices = pulse.slices.load(Relaxed) + 1;
        pulse.slices.store(slices, Relaxed);
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.stopping.notify_all();
    }

    /// Waits for the next look; `None` at the stop. How many workers there are, and whether all
    /// of them are held.
    fn look(&self) -> Option<(usize, bool)> {
        let mut state = self.state.lock();
        if !state.stopped {
            self.stopping.wait_for(&mut state, LOOK);
        }
        let now = self.clock();
        let is_held = |pulse: &Arc<Pulse>| {
            let since = pulse.since.load(Relaxed);
            since > 0 && now.saturating_sub(since) > HELD_AFTER.as_millis() as u64
        };
        let held = state.pulses.iter().all(is_held);
        (!state.stopped).then_some((state.pulses.len(), held))
    }
}

/// The overseer's thread.
pub(super) fn watch(pool: &Pool, runs: &Receiver<Box<Run>>) {
    let most = pool.shared().workers + MAX_STAND_INS;
    while let Some((workers, all_held)) = pool.shared().overseer.look() {
        if !all_held || runs.is_empty() || workers >= most {
            continue;
        }
        log::warn!(
            "All {workers} workers are held by executors that do not return; a stand-in goes on"
        );
        let name = format!("stand-in-{workers}");
        // As a worker, until nothing has come for a while.
        let until_idle = |runs: &Receiver<_>| runs.recv_timeout(STAND_IN_IDLE).ok();
        if let Err(error) = pool.start_worker(name, runs, until_idle) {
            log::error!("A stand-in cannot be started: {error}");
        }
    }
}
