//! The pool: worker threads that run executors, the timer's thread and the watchdog's.
//!
//! It runs attempts, and does not know where they are kept: tasks are in memory, jobs in a
//! database.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::engine::remote::{ClaimQuery, Claimed, Lease, OverReason, Remote, Said};
pub(crate) use crate::engine::run::AttemptHandle;
use crate::engine::run::Run;
use crate::engine::scheduler::Scheduler;
use crate::engine::worker;
use crate::executor::{ExecutorRegistry, Registration};
use crate::metrics::Exposition;
use crate::semaphore::Permit;
use crate::task::TaskId;
use crate::threads;

/// What a pool is doing at a moment.
pub(crate) struct PoolStats {
    /// Workers, without spare workers.
    pub(crate) workers: usize,
    /// Workers that replace those that are held.
    pub(crate) spare_workers: usize,
    /// Workers and spare workers within a slice.
    pub(crate) busy: usize,
    /// Slices run so far.
    pub(crate) slices: u64,
    /// Runs that wait for a worker.
    pub(crate) waiting: usize,
}

impl PoolStats {
    /// Writes the numbers, with names that begin with `noun`: `task_system`.
    pub(crate) fn write(&self, noun: &str, out: &mut Exposition) {
        let name = |rest: &str| format!("{noun}_{rest}");
        let help = "Runs that wait for a worker.";
        out.gauge(&name("queue_depth"), help, self.waiting);
        let help = "Worker threads, without spare workers.";
        out.gauge(&name("workers"), help, self.workers);
        let help = "Workers and spare workers within a slice.";
        out.gauge(&name("workers_busy"), help, self.busy);
        let help = "Threads that go on for workers whose executors do not return.";
        out.gauge(&name("spare_workers"), help, self.spare_workers);
        let slices = name("slices_total");
        out.family(&slices, "counter", "Calls of executors.");
        out.sample(&slices, &[], self.slices);
    }
}

/// The pool. A cheap handle.
#[derive(Clone)]
pub(crate) struct Pool {
    scheduler: Arc<Scheduler>,
    /// Workers and spare workers: an executor may hold them.
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// The timer's and the watchdog's.
    others: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Pool {
    /// Starts the workers, the timer and the watchdog.
    pub(crate) fn start(
        registry: ExecutorRegistry,
        workers: usize,
        max_result_bytes: usize,
    ) -> io::Result<Pool> {
        let (scheduler, queue) = Scheduler::new(registry, workers, max_result_bytes);
        let scheduler = Arc::new(scheduler);
        let pool = Pool {
            scheduler: scheduler.clone(),
            threads: Arc::default(),
            others: Arc::default(),
        };
        for n in 1..=workers {
            pool.start_worker(format!("worker-{n}"), &queue, |queue| queue.recv().ok())?;
        }
        let inside = pool.clone();
        let watchdog = threads::spawn("watchdog", move || {
            let watchdog = &inside.scheduler.watchdog;
            let is_waiting = || !queue.is_empty();
            watchdog.run(workers, is_waiting, |name, idle| {
                // It ends when no run has come for a while.
                inside.start_worker(name, &queue, move |queue| queue.recv_timeout(idle).ok())
            });
        })?;
        pool.others.lock().push(watchdog);
        let timer = threads::spawn("timer", move || scheduler.run_timer())?;
        pool.others.lock().push(timer);
        Ok(pool)
    }

    /// The registration of this type, or else that of the default type.
    pub(crate) fn registration(&self, kind: &str) -> Option<Arc<Registration>> {
        self.scheduler.registration(kind)
    }

    /// What runs a task of this type here; `None` if only the program that has brought it can.
    pub(crate) fn own_registration(&self, kind: &str) -> Option<Arc<Registration>> {
        let is_adopted = self.scheduler.is_adopted(kind);
        (!is_adopted).then(|| self.registration(kind))?
    }

    fn start_worker(
        &self,
        name: String,
        queue: &Receiver<Box<Run>>,
        next: impl Fn(&Receiver<Box<Run>>) -> Option<Box<Run>> + Send + 'static,
    ) -> io::Result<()> {
        let (scheduler, queue) = (self.scheduler.clone(), queue.clone());
        let thread = threads::spawn(name, move || worker::work(&scheduler, || next(&queue)))?;
        let mut workers = self.threads.lock();
        workers.retain(|thread| !thread.is_finished());
        workers.push(thread);
        Ok(())
    }

    /// Queues an attempt. The permit is released when its run is over.
    pub(crate) fn enqueue(&self, attempt: Arc<dyn AttemptHandle>, permit: Option<Permit>) {
        self.scheduler.send(Run::new(attempt, permit));
    }

    /// Cancels what waits for this attempt, which has been cancelled. An executor that runs learns it
    /// at its next report.
    pub(crate) fn forget(&self, id: (TaskId, u32), why: OverReason) {
        self.scheduler.forget(id, why);
    }

    /// Lets an attempt go on that waits for a person or was paused, if it waits now.
    pub(crate) fn wake(&self, id: (TaskId, u32)) {
        self.scheduler.wake(id);
    }

    /// What waits for workers outside this process, and what they hold.
    pub(crate) fn remote(&self) -> &Remote {
        &self.scheduler.remote
    }

    /// Claims attempts for a worker outside this process.
    pub(crate) fn claim(&self, query: &ClaimQuery<'_>) -> Vec<Claimed> {
        self.scheduler.claim(query)
    }

    /// Notes that workers bring tasks of this type. Returns false if there are too many such types.
    pub(crate) fn note_adopted(&self, kind: &str) -> bool {
        self.scheduler.remote.note_adopted(kind)
    }

    /// Begins an attempt that a worker outside this process runs.
    pub(crate) fn adopt(
        &self,
        attempt: Arc<dyn AttemptHandle>,
        permit: Option<Permit>,
    ) -> Option<Claimed> {
        self.scheduler.adopt(Run::new(attempt, permit))
    }

    /// Ends a lease as its worker says.
    pub(crate) fn end_lease(&self, lease: &Lease, said: &Said) -> Result<(), OverReason> {
        self.scheduler.end_lease(lease, said)
    }

    /// The executors that it runs, as they are now.
    pub(crate) fn registry(&self) -> Arc<ExecutorRegistry> {
        self.scheduler.registry()
    }

    /// Lets attempts that begin from now on use these executors.
    pub(crate) fn replace_registry(&self, registry: ExecutorRegistry) {
        self.scheduler.replace_registry(registry);
    }

    /// How many attempts of this type run now, pauses included.
    pub(crate) fn running(&self, kind: &str) -> usize {
        self.scheduler.running.of(kind)
    }

    /// Whether, after the stop, no executor can still be at work.
    #[cfg(feature = "jobs")]
    pub(crate) fn has_ended(&self) -> bool {
        self.scheduler.watchdog.counts().workers == 0
    }

    /// What it is doing now.
    pub(crate) fn stats(&self) -> PoolStats {
        let scheduler = &self.scheduler;
        let counts = scheduler.watchdog.counts();
        let channel = scheduler.runs.read().as_ref().map_or(0, Sender::len);
        PoolStats {
            workers: counts.workers.min(scheduler.workers),
            spare_workers: counts.workers.saturating_sub(scheduler.workers),
            busy: counts.busy,
            slices: counts.slices,
            waiting: channel + scheduler.waiting_for_places(),
        }
    }

    /// Whether a worker is free for a new run.
    #[cfg(feature = "jobs")]
    pub(crate) fn has_free_worker(&self) -> bool {
        let stats = self.stats();
        stats.waiting == 0 && stats.busy < stats.workers
    }

    /// Ends the threads and waits for them until `deadline`. An executor that still blocks then is
    /// left behind. All attempts are over by now, so the workers drop the runs that still wait.
    /// Harmless when repeated.
    pub(crate) fn stop(&self, deadline: Instant) {
        let scheduler = &self.scheduler;
        for run in scheduler
            .timer
            .stop()
            .chain(scheduler.blocking_limit.clear())
            .chain(scheduler.clear_type_limits())
            .chain(scheduler.remote.clear())
        {
            scheduler.drop_on_worker(run);
        }
        scheduler.runs.write().take();
        scheduler.watchdog.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            threads::join_by(thread, deadline);
        }
        for thread in std::mem::take(&mut *self.others.lock()) {
            threads::join_until(thread, deadline);
        }
    }
}
