//! The workers' side: claims jobs into the pool, keeps their leases, writes down what becomes of them.
//!
//! Each duty has a thread and a connection of its own, so that none waits for another. The *fetcher* claims as many
//! jobs as the pool can begin soon. The *completer* alone writes what attempts have come to: that they began, their
//! reports, their ends. The *heartbeat* renews leases. *Maintenance* takes back what other workers have lost. What is
//! held, and whether it may run on, [`claims`] alone decides; every write carries the claim's token, and one that is
//! not the newest changes nothing.

mod backoff;
pub(super) mod claims;
mod completer;
mod fetcher;
mod heartbeat;
pub(super) mod maintenance;
#[cfg(test)]
mod model;
mod presence;
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::engine::pool::Pool;
use crate::jobs::clock::BootClock;
use crate::jobs::meter::JobMeter;
use crate::jobs::storage::work::End;
use crate::jobs::storage::{Claim, Storage};
use crate::jobs::worker::backoff::DutyState;
use crate::jobs::worker::claims::{Claims, Held};
use crate::jobs::worker::completer::{Completer, Event, Stop};
use crate::jobs::worker::fetcher::Fetcher;
use crate::jobs::worker::run::{JobRun, pool_id};
use crate::metrics::Exposition;
use crate::threads::{self, join_until};

/// The longest time between two looks for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most ends that wait to be written: no more is claimed before. What has run and is not written
/// would run again after a crash.
const MAX_UNWRITTEN: usize = 4_000;

/// Calls workers, since jobs were added. Never blocks.
pub(super) type Wakeup = Arc<dyn Fn() + Send + Sync>;

/// How the queue runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueOptions {
    pub(super) workers: usize,
    /// A job whose worker died is claimed again within this time.
    pub(super) rescue_within: Duration,
    pub(super) retention: Duration,
}

impl QueueOptions {
    /// Short enough that a lost job is found and claimed again in time.
    pub(super) fn lease(&self) -> Duration {
        self.rescue_within.mul_f64(0.6)
    }

    /// How often the fetcher looks, though nobody has called it.
    pub(super) fn look_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.2).min(LOOK_EVERY)
    }

    pub(super) fn renew_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.15)
    }

    /// How long a worker's statement may take: a lease outlives one that is lost, and the next.
    pub(super) fn statement_within(&self) -> Duration {
        let part = self.lease().mul_f64(0.3);
        part.clamp(Duration::from_millis(500), Duration::from_secs(5))
    }
}

/// What the runs and the threads of a worker share.
struct Shared {
    claims: Claims,
    storage: Arc<Storage>,
    pool: Pool,
    options: QueueOptions,
    meter: Arc<JobMeter>,
    events: Sender<Event>,
    wake: Sender<()>,
    renew: Sender<()>,
    /// The fetcher is called when fewer than this are ahead.
    low: AtomicUsize,
    /// The last claim took as many as it might, so that there may be more. Whoever adds some calls as well.
    has_more: AtomicBool,
    /// Something was added that others were not told of: this process was thought to claim all of it.
    is_untold: AtomicBool,
    /// Calls the workers of other processes. Never blocks.
    call_others: Wakeup,
    /// Ends that wait to be written.
    unwritten: AtomicUsize,
    /// The fetcher found no room but for what is being written.
    is_full: AtomicBool,
    /// There may be jobs whose worker was lost.
    has_suspects: AtomicBool,
    stopping: AtomicBool,
    claiming: DutyState,
    completing: DutyState,
    renewing: DutyState,
}

impl Shared {
    /// Whether this claim's executor may be called now.
    fn begin(&self, held: &Arc<Held>) -> bool {
        let (begins, ahead) = self.claims.begin(held);
        if ahead < self.low.load(SeqCst) && self.has_more.load(SeqCst) {
            self.wake();
        }
        begins
    }

    fn begun(&self, run: Arc<JobRun>) {
        let _ = self.events.send(Event::Begun(run));
    }

    fn paused(&self, run: Arc<JobRun>) {
        let _ = self.events.send(Event::Paused(run));
    }

    fn reported(&self, run: Arc<JobRun>) {
        let _ = self.events.send(Event::Reported(run));
    }

    fn ended(&self, end: End) {
        self.unwritten.fetch_add(1, SeqCst);
        let _ = self.events.send(Event::Ended(end));
    }

    /// The ends of these claims are written, or not ours to write.
    fn written(&self, claims: impl ExactSizeIterator<Item = Claim>) {
        self.unwritten.fetch_sub(claims.len(), SeqCst);
        self.claims.written(claims);
        if self.is_full.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// How many more jobs of this lane may be claimed, where `window` may be ahead.
    fn room(&self, lane: u8, window: usize) -> usize {
        // First, so that an end written meanwhile is not overlooked.
        self.is_full.store(true, SeqCst);
        if self.unwritten.load(SeqCst) >= MAX_UNWRITTEN || self.is_behind() {
            return 0;
        }
        self.is_full.store(false, SeqCst);
        self.claims.room(lane, window)
    }

    /// Whether what renews or writes has not got through for so long that leases may end of it: what is claimed
    /// now could not be kept.
    fn is_behind(&self) -> bool {
        let longest = self.options.lease().mul_f64(0.5);
        [&self.completing, &self.renewing]
            .iter()
            .any(|duty| duty.is_late(longest))
    }

    /// Something may be due. Never blocks.
    fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// Something was added. Others are called where this process has enough to do, or finds more than it can take.
    fn added(&self) {
        let (_, ahead) = self.claims.stats();
        let is_idle = ahead == 0 && !self.has_more.load(SeqCst) && self.pool.has_free_worker();
        match is_idle && !self.is_away() {
            true => self.is_untold.store(true, SeqCst),
            false => (self.call_others)(),
        }
        self.wake();
    }

    /// All that was due is claimed: others need not be called.
    fn all_claimed(&self) {
        self.is_untold.store(false, SeqCst);
    }

    /// There may be more than this process can claim: others are called, where they were not before.
    fn leave_to_others(&self) {
        if self.is_untold.swap(false, SeqCst) {
            (self.call_others)();
        }
    }

    /// This claim is another's, or nobody's.
    fn lose(&self, claim: Claim) {
        if self.claims.lose(claim) {
            self.pool.forget(pool_id(claim));
            log::info!("Job {} was taken from this worker", claim.id);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    fn is_away(&self) -> bool {
        let duties = [&self.claiming, &self.completing, &self.renewing];
        duties.iter().any(|duty| duty.is_away())
    }
}

/// The running queue.
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
        call_others: Wakeup,
    ) -> std::io::Result<Queue> {
        let (events, happened) = unbounded();
        let (wake, called) = bounded(1);
        let (renew, hurried) = bounded(1);
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
            is_untold: AtomicBool::new(false),
            call_others,
            unwritten: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
            has_suspects: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            claiming: DutyState::default(),
            completing: DutyState::default(),
            renewing: DutyState::default(),
        });
        let queue = Queue {
            shared: shared.clone(),
            threads: Mutex::default(),
        };
        queue.start_threads(&called, hurried, happened)?;
        Ok(queue)
    }

    fn start_threads(
        &self,
        called: &Receiver<()>,
        hurried: Receiver<()>,
        happened: Receiver<Event>,
    ) -> std::io::Result<()> {
        let shared = || self.shared.clone();
        let (fetching, called) = (Fetcher::new(shared()), called.clone());
        self.spawn("fetcher", move || fetching.run(&called))?;
        let completing = Completer::new(shared());
        self.spawn("completer", move || completing.run(&happened))?;
        let beating = shared();
        self.spawn("heartbeat", move || heartbeat::run(&beating, &hurried))
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.lock().push(threads::spawn(name, body)?);
        Ok(())
    }

    /// What maintenance does for workers.
    pub(super) fn rescuer(&self) -> maintenance::Rescuer {
        maintenance::Rescuer::new(self.shared.clone())
    }

    /// Something may be due.
    pub(super) fn wake(&self) {
        self.shared.wake();
    }

    /// Something was added here: this process claims it, or calls others.
    pub(super) fn added(&self) {
        self.shared.added();
    }

    /// This claim was cancelled: its run is called off, where that is here.
    pub(super) fn call_off(&self, claim: Claim) {
        if self.shared.claims.lose(claim) {
            self.shared.pool.forget(pool_id(claim));
        }
    }

    /// Some claim was cancelled, and nobody says which: the next renewal tells.
    pub(super) fn renew_now(&self) {
        let _ = self.shared.renew.try_send(());
    }

    /// Whether it waits for its database.
    pub(super) fn is_away(&self) -> bool {
        self.shared.is_away()
    }

    /// Writes what it holds, with names that begin with `noun`.
    pub(super) fn write(&self, noun: &str, out: &mut Exposition) {
        let (held, ahead) = self.shared.claims.stats();
        let help = "Jobs that this process has claimed: ahead, running and pausing ones, and those whose end \
                    waits to be written.";
        out.gauge(&format!("{noun}_held"), help, held);
        let help = "Those that have not begun.";
        out.gauge(&format!("{noun}_ahead"), help, ahead);
        let help = "Those whose end waits to be written.";
        let unwritten = self.shared.unwritten.load(SeqCst);
        out.gauge(&format!("{noun}_unwritten"), help, unwritten);
    }

    /// Claims no more, and tells the executors that it is over.
    pub(super) fn close(&self) {
        let shared = &self.shared;
        shared.stopping.store(true, SeqCst);
        shared.wake();
        for claim in shared.claims.close() {
            shared.pool.forget(pool_id(claim));
        }
    }

    /// After the pool's end: writes what is left to write, and gives back what has not been
    /// run to its end; of what has begun only where no executor can still be at it (`all_ended`).
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
            log::warn!("{left} jobs were not given back, and wait for the end of their leases");
        }
    }
}
