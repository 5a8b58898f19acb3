//! The workers' side: claims jobs for the pool, renews their leases and writes their results.
//!
//! Each duty has its own thread and its own connection, so that no duty waits for another. The *fetcher* claims as
//! many jobs as the pool can begin soon. The *completer* alone writes begins, reports and results of attempts. The
//! *heartbeat* renews leases. *Maintenance* requeues jobs whose worker was lost. Only [`claims`] decides what this
//! process holds and whether a run may continue. Every write carries the claim's token; a write with an old token
//! changes nothing.

mod backoff;
pub(super) mod claims;
mod completer;
mod fetcher;
mod heartbeat;
mod kinds;
pub(super) mod maintenance;
#[cfg(test)]
mod model;
mod presence;
mod run;
mod run_log;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded, unbounded};
use parking_lot::Mutex;

use crate::engine::pool::Pool;
use crate::engine::remote::{Claimed, OverReason};
use crate::executor::Report;
use crate::jobs::clock::BootClock;
use crate::jobs::job::NewJob;
use crate::jobs::meter::JobMeter;
use crate::jobs::storage::{Claim, Done, Storage};
use crate::jobs::worker::backoff::DutyState;
use crate::jobs::worker::claims::{ADOPTED, Claims};
use crate::jobs::worker::completer::Completer;
use crate::jobs::worker::fetcher::Fetcher;
use crate::jobs::worker::run::{Event, JobRun, Stop, pool_id};
use crate::jobs::worker::shared::Shared;
pub(super) use crate::jobs::worker::shared::{QueueOptions, Wakeup};
use crate::metrics::Exposition;
use crate::store::Budget;
use crate::threads::{self, join_until};

pub(super) struct Queue {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Queue {
    pub(super) fn start(
        storage: Arc<Storage>,
        pool: Pool,
        options: QueueOptions,
        meter: Arc<JobMeter>,
        notify_others: Wakeup,
    ) -> std::io::Result<Queue> {
        let (events, received) = unbounded();
        let (wake, woken) = bounded(1);
        let (renew, renew_now) = bounded(1);
        let shared = Arc::new(Shared {
            claims: Claims::new(Box::new(BootClock)),
            storage,
            pool,
            options,
            meter,
            events,
            wake,
            renew,
            low: AtomicUsize::new(0),
            has_more: AtomicBool::new(true),
            has_unannounced: AtomicBool::new(false),
            notify_others,
            unwritten: AtomicUsize::new(0),
            log_budget: Arc::new(Budget::new(run_log::MAX_UNWRITTEN)),
            is_full: AtomicBool::new(false),
            has_suspects: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            claiming: DutyState::default(),
            completing: DutyState::default(),
            renewing: DutyState::default(),
        });
        let woken_by_demand = Arc::downgrade(&shared);
        shared.pool.remote().on_demand(move || {
            if let Some(shared) = woken_by_demand.upgrade() {
                shared.wake();
            }
        });
        let queue = Queue {
            shared: shared.clone(),
            threads: Mutex::default(),
        };
        queue.start_threads(&woken, renew_now, received)?;
        Ok(queue)
    }

    fn start_threads(
        &self,
        woken: &Receiver<()>,
        renew_now: Receiver<()>,
        received: Receiver<Event>,
    ) -> std::io::Result<()> {
        let shared = || self.shared.clone();
        let (fetching, woken) = (Fetcher::new(shared()), woken.clone());
        self.spawn("fetcher", move || fetching.run(&woken))?;
        let completing = Completer::new(shared());
        self.spawn("completer", move || completing.run(&received))?;
        let beating = shared();
        self.spawn("heartbeat", move || heartbeat::run(&beating, &renew_now))
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.lock().push(threads::spawn(name, body)?);
        Ok(())
    }

    /// The part of maintenance that rescues jobs for this queue's workers.
    pub(super) fn rescuer(&self) -> maintenance::Rescuer {
        maintenance::Rescuer::new(self.shared.clone())
    }

    /// Jobs may be due.
    pub(super) fn wake(&self) {
        self.shared.wake();
    }

    /// Jobs were added here. This process claims them or notifies others.
    pub(super) fn added(&self) {
        self.shared.added();
    }

    /// Adds a job that a worker outside this process already runs, and leases it to that worker. `None` if this process
    /// stops.
    ///
    /// A job has no name, so `name` is its first step.
    pub(super) fn adopt(&self, new: &NewJob, name: &str) -> Done<Option<Claimed>> {
        let shared = &self.shared;
        let lease = shared.options.lease();
        // Taken before the claim, as the fetcher does.
        let until = shared.claims.now() + lease.as_millis() as u64;
        let (added, mut job) = shared.storage.adopt(new, lease)?;
        shared.meter.added(&added);
        job.lane = ADOPTED;
        let claim = Claim {
            id: job.id,
            token: job.claim,
        };
        let held = shared.claims.take(claim, ADOPTED, until);
        let Some(held) = held else {
            return Ok(None);
        };
        let run = JobRun::new(job, held, shared.clone(), None);
        let claimed = shared.pool.adopt(run.clone(), None);
        // A run that is over takes no report.
        let _ = run.progress(0, name, "");
        Ok(claimed)
    }

    /// Stops the run of a cancelled claim, if it runs in this process.
    pub(super) fn cancel_run(&self, claim: Claim) {
        if self.shared.claims.lose(claim) {
            self.shared
                .pool
                .forget(pool_id(claim), OverReason::Cancelled);
        }
    }

    /// An unnamed claim was cancelled: the next renewal finds it, so renew now.
    pub(super) fn renew_now(&self) {
        let _ = self.shared.renew.try_send(());
    }

    /// Whether any duty waits for the database.
    pub(super) fn is_away(&self) -> bool {
        self.shared.is_away()
    }

    /// Writes the metrics of the queue. Their names begin with `prefix`.
    pub(super) fn write(&self, prefix: &str, out: &mut Exposition) {
        let (held, ahead) = self.shared.claims.stats();
        let help = "Jobs that this process has claimed: ahead, running, paused, and those whose result \
                    waits to be written.";
        out.gauge(&format!("{prefix}_held"), help, held);
        let help = "Claimed jobs that have not begun.";
        out.gauge(&format!("{prefix}_ahead"), help, ahead);
        let help = "Claimed jobs whose result waits to be written.";
        let unwritten = self.shared.unwritten.load(SeqCst);
        out.gauge(&format!("{prefix}_unwritten"), help, unwritten);
        let help = "Bytes of log lines that wait to be written.";
        let bytes = self.shared.log_budget.used();
        out.gauge(&format!("{prefix}_unwritten_log_bytes"), help, bytes);
    }

    /// Stops claiming and tells all running executors to stop.
    pub(super) fn close(&self) {
        let shared = &self.shared;
        shared.stopping.store(true, SeqCst);
        shared.wake();
        for claim in shared.claims.close() {
            shared.pool.forget(pool_id(claim), OverReason::Expired);
        }
    }

    /// Call this after the pool has stopped. Writes the remaining results, then releases unfinished claims. A claim
    /// that has begun is released only if no executor can still be running (`all_ended`).
    pub(super) fn stop(&self, all_ended: bool, deadline: Instant) {
        self.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() {
            return;
        }
        let _ = self.shared.events.send(Event::Stop(Stop {
            all_ended,
            deadline,
        }));
        let _ = self.shared.renew.try_send(());
        for thread in threads {
            join_until(thread, deadline);
        }
        let (left, _) = self.shared.claims.stats();
        if left > 0 {
            log::warn!("{left} jobs were not released; they run again after their leases expire");
        }
    }
}
