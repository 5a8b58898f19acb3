//! The pool: workers that run executors, the timer that wakes them, and what keeps both going.
//!
//! It runs assignments, and does not know where they are kept: the Task System's are in memory,
//! the Job API's in a database.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendError, Sender};
use parking_lot::{Mutex, RwLock};

use crate::engine::blocking_limit::BlockingLimit;
use crate::engine::timer::{self, Timer};
use crate::engine::watchdog::{self, Watchdog};
use crate::engine::worker;
use crate::executor::{ExecutorRegistry, Registration, Report, TaskExecutor, TaskInput};
use crate::metrics::Exposition;
use crate::semaphore::Permit;
use crate::store::{AttemptResult, DEFAULT_KIND};
use crate::task::TaskId;
use crate::threads;

/// One attempt, wherever it is kept.
pub(crate) trait AttemptHandle: Report + Send + Sync {
    /// What tells it from every other attempt.
    fn id(&self) -> (TaskId, u32);

    /// Its type; `None` where it is gone.
    fn kind(&self) -> Option<Arc<str>>;

    /// It is about to run: what to work on, and for how long at most. `None` where it is no
    /// longer awaited.
    fn begin(&self) -> Option<(TaskInput, Option<Duration>)>;

    /// Its executor has returned, and is to be called again.
    fn pause(&self) {}

    /// Its executor is about to be called again. Whether it is still awaited.
    fn resume(&self) -> bool {
        true
    }

    /// Its end. Where it was over already nothing happens.
    fn finish(&self, ending: AttemptResult);
}

/// One attempt on its way through channel, worker and timer.
pub(super) struct Run {
    pub(super) attempt: Arc<dyn AttemptHandle>,
    /// When this slice was to begin.
    pub(super) due: Instant,
    /// `None` until the first slice.
    pub(super) work: Option<Work>,
    /// Its place among the active ones, until it is over.
    permit: Option<Permit>,
}

pub(super) struct Work {
    pub(super) input: TaskInput,
    pub(super) executor: Box<dyn TaskExecutor>,
    pub(super) blocking: bool,
}

/// What its threads share.
pub(super) struct Shared {
    pub(super) registry: ExecutorRegistry,
    pub(super) workers: usize,
    pub(super) max_result_bytes: usize,
    /// `None` once stopped: the workers end when the channel closes.
    runs: RwLock<Option<Sender<Box<Run>>>>,
    pub(super) timer: Timer,
    pub(super) blocking_limit: BlockingLimit<Box<Run>>,
    pub(super) watchdog: Watchdog,
}

impl Shared {
    /// With the end of the channel that the workers take their runs from.
    fn new(
        registry: ExecutorRegistry,
        workers: usize,
        max_result_bytes: usize,
    ) -> (Shared, Receiver<Box<Run>>) {
        let (runs, queue) = crossbeam_channel::unbounded();
        let shared = Shared {
            registry,
            workers,
            max_result_bytes,
            runs: RwLock::new(Some(runs)),
            timer: Timer::default(),
            blocking_limit: BlockingLimit::new(workers),
            watchdog: Watchdog::default(),
        };
        (shared, queue)
    }

    /// What runs this type: its own registration, or that of the default type.
    pub(super) fn registration(&self, kind: &str) -> Option<&Registration> {
        let registry = &self.registry;
        registry.get(kind).or_else(|| registry.get(DEFAULT_KIND))
    }

    /// Hands a run to the workers. After the stop it is dropped: it is called off by then.
    pub(super) fn send(&self, run: Box<Run>) {
        let runs = self.runs.read();
        let refused = match &*runs {
            // Never blocks: the channel is unbounded.
            Some(runs) => runs.send(run).err().map(SendError::into_inner),
            None => Some(run),
        };
        drop(runs);
        if let Some(work) = refused.and_then(|run| run.work) {
            worker::drop_quietly(work);
        }
    }

    /// Lets go of what waits for this attempt, which is over.
    pub(super) fn forget(&self, id: (TaskId, u32)) {
        if let Some(run) = self.timer.forget(id) {
            self.drop_on_worker(run);
        }
    }

    /// Has a worker drop a run whose attempt is over. Its place is free at once.
    fn drop_on_worker(&self, mut run: Box<Run>) {
        run.permit = None;
        self.send(run);
    }

    /// Ends the attempt, and only then forgets what waits for it: a pause that begins in between
    /// either sees the end, or is found here.
    pub(super) fn finish(&self, attempt: &dyn AttemptHandle, ending: AttemptResult) {
        attempt.finish(ending);
        self.forget(attempt.id());
    }

    pub(super) fn time_out(&self, attempt: &dyn AttemptHandle, limit: Duration) {
        let why = format!("timed out after {} ms", limit.as_millis());
        self.finish(attempt, AttemptResult::Failed(why));
    }
}

/// What a pool is doing at a moment.
pub(crate) struct PoolStats {
    /// Workers, without spare workers.
    pub(crate) workers: usize,
    /// Workers that go on for those that are held.
    pub(crate) spare_workers: usize,
    /// Workers and spare workers within a slice.
    pub(crate) busy: usize,
    /// Slices run so far.
    pub(crate) slices: u64,
    /// Runs that wait for a worker.
    pub(crate) waiting: usize,
}

impl PoolStats {
    /// Writes them, with names that begin with `noun`: `task_system`.
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
    shared: Arc<Shared>,
    /// Workers and spare workers: an executor may hold them.
    counts: Arc<Mutex<Vec<JoinHandle<()>>>>,
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
        let (shared, queue) = Shared::new(registry, workers, max_result_bytes);
        let shared = Arc::new(shared);
        let pool = Pool {
            shared: shared.clone(),
            counts: Arc::default(),
            others: Arc::default(),
        };
        for n in 1..=workers {
            pool.start_worker(format!("worker-{n}"), &queue, |queue| queue.recv().ok())?;
        }
        let inside = pool.clone();
        let watchdog = threads::spawn("watchdog", move || watchdog::watch(&inside, &queue))?;
        pool.others.lock().push(watchdog);
        let timer = threads::spawn("timer", move || timer::run(&shared))?;
        pool.others.lock().push(timer);
        Ok(pool)
    }

    pub(super) fn start_worker(
        &self,
        name: String,
        queue: &Receiver<Box<Run>>,
        next: fn(&Receiver<Box<Run>>) -> Option<Box<Run>>,
    ) -> io::Result<()> {
        let (shared, queue) = (self.shared.clone(), queue.clone());
        let thread = threads::spawn(name, move || worker::work(&shared, || next(&queue)))?;
        let mut counts = self.counts.lock();
        counts.retain(|thread| !thread.is_finished());
        counts.push(thread);
        Ok(())
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Queues an attempt. The permit is given back when its run is over.
    pub(crate) fn enqueue(&self, attempt: Arc<dyn AttemptHandle>, permit: Option<Permit>) {
        self.shared.send(Box::new(Run {
            attempt,
            due: Instant::now(),
            work: None,
            permit,
        }));
    }

    /// Lets go of what waits for this attempt. It has been called off; its executor, where it
    /// runs, learns it at its next report.
    pub(crate) fn forget(&self, id: (TaskId, u32)) {
        self.shared.forget(id);
    }

    /// Which executors it has.
    pub(crate) fn registry(&self) -> &ExecutorRegistry {
        &self.shared.registry
    }

    /// Whether, after the stop, no executor can still be at work.
    #[cfg(feature = "jobs")]
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.watchdog.counts().workers == 0
    }

    /// What it is doing, for whoever counts.
    pub(crate) fn stats(&self) -> PoolStats {
        let shared = &self.shared;
        let counts = shared.watchdog.counts();
        let channel = shared.runs.read().as_ref().map_or(0, Sender::len);
        PoolStats {
            workers: counts.workers.min(shared.workers),
            spare_workers: counts.workers.saturating_sub(shared.workers),
            busy: counts.busy,
            slices: counts.slices,
            waiting: channel + shared.blocking_limit.waiting(),
        }
    }

    /// Whether a worker takes a run that comes now.
    #[cfg(feature = "jobs")]
    pub(crate) fn has_free_worker(&self) -> bool {
        let stats = self.stats();
        stats.waiting == 0 && stats.busy < stats.workers
    }

    /// Ends the threads, and waits for them until `deadline`; an executor that still blocks
    /// then is left behind. All attempts are over by now: the workers drop what still waits.
    /// Harmless when repeated.
    pub(crate) fn stop(&self, deadline: Instant) {
        let shared = &self.shared;
        for run in shared.timer.stop().chain(shared.blocking_limit.clear()) {
            shared.drop_on_worker(run);
        }
        shared.runs.write().take();
        shared.watchdog.stop();
        for thread in std::mem::take(&mut *self.counts.lock()) {
            threads::join_by(thread, deadline);
        }
        for thread in std::mem::take(&mut *self.others.lock()) {
            threads::join_until(thread, deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;
    use crate::executor::TaskError;

    /// A worker puts it into the timer in the very moment before it ends.
    struct Late {
        me: Weak<Late>,
        pool: Arc<Shared>,
        over: AtomicBool,
    }

    impl AttemptHandle for Late {
        fn id(&self) -> (TaskId, u32) {
            (TaskId::nil(), 1)
        }

        fn kind(&self) -> Option<Arc<str>> {
            None
        }

        fn begin(&self) -> Option<(TaskInput, Option<Duration>)> {
            None
        }

        fn finish(&self, _: AttemptResult) {
            let run = Run {
                attempt: self.me.upgrade().expect("it is in use"),
                due: Instant::now() + Duration::from_secs(3_600),
                work: None,
                permit: None,
            };
            assert!(self.pool.timer.wait(Box::new(run)).is_none());
            self.over.store(true, SeqCst);
        }
    }

    impl Report for Late {
        fn progress(&self, _: u8, _: &str, _: &str) -> Result<(), TaskError> {
            Ok(())
        }

        fn is_stopped(&self) -> bool {
            self.over.load(SeqCst)
        }
    }

    #[test]
    fn a_pause_that_begins_while_the_attempt_ends_is_forgotten_with_it() {
        let (shared, queue) = Shared::new(ExecutorRegistry::new(), 1, 0);
        let pool = Arc::new(shared);
        let attempt = Arc::new_cyclic(|me| Late {
            me: me.clone(),
            pool: pool.clone(),
            over: AtomicBool::new(false),
        });
        pool.time_out(&*attempt, Duration::ZERO);
        let run = queue.try_recv().expect("a worker is to drop it");
        assert!(run.attempt.is_stopped());
    }
}
