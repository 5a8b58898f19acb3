//! Attempts that workers outside this process run, over HTTP.
//!
//! ```text
//!            claim                 complete, fail
//!  queued ──────────▶ leased ─────────────────────▶ over
//!    ▲                   │  │  the lease runs out, a cancel, a time limit
//!    └───── release ─────┘  └──────────────────────────▶ over
//! ```
//!
//! A queued attempt has not begun: its task is pending. A claim begins it, and makes a [`Lease`], whose name is the
//! only way to report on it. Two locks: the one of the queue, and one for each lease. No lock of this folder is taken
//! under another one of it.

mod lease;
mod queue;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

pub(crate) use self::lease::{Claimed, Lease, OverReason, Said, WorkerReport};
use self::queue::Queue;
use crate::engine::run::Run;
use crate::metrics::Exposition;
use crate::task::{Millis, TaskId, now_ms};

/// How many leases that are over are remembered, to say why and to answer what is said again.
const MAX_OVER: usize = 10_000;

/// How many workers are remembered by name.
const MAX_WORKERS: usize = 1_000;

/// How many types workers may bring themselves.
const MAX_ADOPTED_TYPES: usize = 1_000;

/// What a worker asks for.
pub(crate) struct ClaimQuery<'a> {
    pub(crate) types: &'a [String],
    pub(crate) limit: usize,
    pub(crate) wait: Duration,
    /// Whether the worker has gone away.
    pub(crate) is_gone: &'a dyn Fn() -> bool,
}

/// What waits for workers, and what they hold.
#[derive(Default)]
pub(crate) struct Remote {
    queue: Mutex<Queue>,
    leases: Mutex<Leases>,
    workers: Mutex<HashMap<String, Seen>>,
    /// Types of tasks that their workers have brought.
    adopted: Mutex<HashSet<String>>,
    /// Called when a claim begins to wait: jobs may be due in the database.
    on_demand: OnceLock<Box<dyn Fn() + Send + Sync>>,
    claims: AtomicU64,
    lost: AtomicU64,
}

#[derive(Default)]
struct Leases {
    by_name: HashMap<Uuid, Arc<Lease>>,
    by_attempt: HashMap<(TaskId, u32), Uuid>,
    /// In the order in which they were over.
    over: VecDeque<Uuid>,
}

struct Seen {
    types: Vec<String>,
    last_call: Millis,
}

impl Remote {
    /// Keeps a run until a worker claims it.
    pub(super) fn offer(&self, run: Box<Run>, kind: &str) {
        let waiter = self.queue.lock().add(run, kind);
        if let Some(waiter) = waiter {
            let _ = waiter.try_send(());
        }
    }

    /// Takes runs for a worker, the oldest first; waits for one if there is none. Returns none after the wait, if the
    /// worker has gone, or if the server stops.
    #[allow(clippy::vec_box, reason = "runs are handed on in their boxes")]
    pub(super) fn take(&self, query: &ClaimQuery<'_>) -> Vec<Box<Run>> {
        let deadline = Instant::now() + query.wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut queue = self.queue.lock();
            let taken = queue.take(query.types, query.limit);
            if !taken.is_empty() || left.is_zero() {
                return taken;
            }
            let Some(waiter) = queue.wait(query.types, query.limit) else {
                return Vec::new();
            };
            drop(queue);
            if let Some(on_demand) = self.on_demand.get() {
                on_demand();
            }
            if !waiter.wait(deadline, query.is_gone) {
                self.queue.lock().leave(waiter.number);
                return Vec::new();
            }
            self.queue.lock().forget(waiter.number);
        }
    }

    /// Ends what waits or is leased of this attempt, which is over. Returns the run.
    pub(super) fn forget(&self, id: (TaskId, u32), why: OverReason) -> Option<Box<Run>> {
        let queued = self.queue.lock().remove(id);
        if queued.is_some() {
            return queued;
        }
        let lease = self.lease_of(id)?;
        let run = lease.end(why);
        self.note_over(&lease);
        run
    }

    /// Takes the attempt out of the queue, if no worker has claimed it.
    pub(super) fn unclaimed(&self, id: (TaskId, u32)) -> Option<Box<Run>> {
        self.queue.lock().remove(id)
    }

    /// This attempt is about to be ended, for this reason.
    pub(super) fn expect(&self, id: (TaskId, u32), why: OverReason) {
        if let Some(lease) = self.lease_of(id) {
            lease.expect(why);
        }
    }

    fn lease_of(&self, id: (TaskId, u32)) -> Option<Arc<Lease>> {
        let leases = self.leases.lock();
        let name = leases.by_attempt.get(&id)?;
        leases.by_name.get(name).cloned()
    }

    /// Leases a run that has begun.
    pub(super) fn lease(&self, run: Box<Run>, length: Duration) -> Arc<Lease> {
        let lease = Arc::new(Lease::new(run, length));
        let mut leases = self.leases.lock();
        leases.by_attempt.insert(lease.id(), lease.name);
        leases.by_name.insert(lease.name, lease.clone());
        self.claims.fetch_add(1, Relaxed);
        lease
    }

    /// The lease of this name, also when it is over.
    pub(crate) fn find(&self, name: Uuid) -> Option<Arc<Lease>> {
        self.leases.lock().by_name.get(&name).cloned()
    }

    /// The lease is over, but not its attempt. Returns the run.
    pub(super) fn release(&self, lease: &Lease) -> Option<Box<Run>> {
        let run = lease.end(OverReason::Ended);
        self.note_over(lease);
        run
    }

    /// The lease is over: it is remembered for a while.
    pub(super) fn note_over(&self, lease: &Lease) {
        let mut leases = self.leases.lock();
        if leases.by_attempt.get(&lease.id()) != Some(&lease.name) {
            return;
        }
        leases.by_attempt.remove(&lease.id());
        leases.over.push_back(lease.name);
        if leases.over.len() > MAX_OVER
            && let Some(oldest) = leases.over.pop_front()
        {
            leases.by_name.remove(&oldest);
        }
    }

    /// Notes that workers bring tasks of this type. Returns false if there are too many such types.
    pub(super) fn note_adopted(&self, kind: &str) -> bool {
        let mut adopted = self.adopted.lock();
        if adopted.contains(kind) {
            return true;
        }
        let has_room = adopted.len() < MAX_ADOPTED_TYPES;
        has_room && adopted.insert(kind.to_owned())
    }

    /// Whether workers have brought tasks of this type: nobody else can run one of them again.
    pub(super) fn is_adopted(&self, kind: &str) -> bool {
        self.adopted.lock().contains(kind)
    }

    pub(super) fn note_lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    /// A worker has called.
    pub(crate) fn note_worker(&self, name: &str, types: &[String]) {
        let mut workers = self.workers.lock();
        if workers.len() >= MAX_WORKERS && !workers.contains_key(name) {
            let oldest = workers.iter().min_by_key(|(_, seen)| seen.last_call);
            let oldest = oldest.map(|(name, _)| name.clone());
            workers.remove(&oldest.unwrap_or_default());
        }
        let types = types.to_vec();
        let last_call = now_ms();
        workers.insert(name.to_owned(), Seen { types, last_call });
    }

    /// The workers that have asked for this type, and when each has called last.
    pub(crate) fn workers(&self, kind: &str) -> Vec<(String, Millis)> {
        let workers = self.workers.lock();
        let own = workers
            .iter()
            .filter(|(_, seen)| seen.types.iter().any(|k| k == kind));
        let mut own: Vec<_> = own
            .map(|(name, seen)| (name.clone(), seen.last_call))
            .collect();
        own.sort_unstable();
        own
    }

    /// How many more attempts of this type waiting claims would take.
    #[cfg(feature = "jobs")]
    pub(crate) fn demand(&self, kind: &str) -> usize {
        self.queue.lock().demand(kind)
    }

    /// Sets what is called when a claim begins to wait.
    #[cfg(feature = "jobs")]
    pub(crate) fn on_demand(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_demand.set(Box::new(call));
    }

    /// Sends all waiting claims away, and ends all leases: for a worker that is no cancel, but the loss of its server.
    pub(super) fn close(&self) {
        self.queue.lock().close();
        let held: Vec<_> = self.leases.lock().by_name.values().cloned().collect();
        for lease in held {
            lease.end(OverReason::Expired);
        }
    }

    /// Takes out all runs that wait for a worker.
    pub(super) fn clear(&self) -> impl Iterator<Item = Box<Run>> {
        let runs: Vec<_> = self.queue.lock().clear().collect();
        runs.into_iter()
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    /// Writes the metrics of workers over HTTP.
    pub(crate) fn write(&self, out: &mut Exposition) {
        let leases = self.leases.lock().by_attempt.len();
        out.gauge(
            "work_leases",
            "Attempts that workers over HTTP hold.",
            leases,
        );
        let waiting = self.queue.lock().waiters();
        out.gauge("work_claims_waiting", "Calls that wait for work.", waiting);
        let mut count = |name: &str, help: &str, value: &AtomicU64| {
            out.family(name, "counter", help);
            out.sample(name, &[], value.load(Relaxed));
        };
        count(
            "work_claims_total",
            "Attempts claimed by workers over HTTP.",
            &self.claims,
        );
        count("work_leases_lost_total", "Leases that ran out.", &self.lost);
    }
}
