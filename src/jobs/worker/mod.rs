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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::engine::pool::Pool;
use crate::engine::remote::OverReason;
use crate::jobs::clock::BootClock;
use crate::jobs::meter::JobMeter;
use crate::jobs::storage::completion::Completion;
use crate::jobs::storage::{Claim, Storage};
use crate::jobs::worker::backoff::DutyState;
use crate::jobs::worker::claims::{Claims, Held};
use crate::jobs::worker::completer::{Completer, Event, Stop};
use crate::jobs::worker::fetcher::Fetcher;
use crate::jobs::worker::run::{JobRun, pool_id};
use crate::metrics::Exposition;
use crate::store::Budget;
use crate::threads::{self, join_until};

/// The longest interval between two polls for due jobs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// If more results wait to be written, the fetcher claims nothing: after a crash, every unwritten attempt would run
/// again.
const MAX_UNWRITTEN: usize = 4_000;

/// Wakes workers after jobs were added. Never blocks.
pub(super) type Wakeup = Arc<dyn Fn() + Send + Sync>;

/// The settings of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueOptions {
    pub(super) workers: usize,
    /// If a worker dies, its jobs are claimed again within this time.
    pub(super) rescue_within: Duration,
    pub(super) retention: Duration,
}

impl QueueOptions {
    /// Shorter than `rescue_within`, to leave time to detect the expired lease and to claim the job again.
    pub(super) fn lease(&self) -> Duration {
        self.rescue_within.mul_f64(0.6)
    }

    /// How often the fetcher polls if nothing wakes it.
    pub(super) fn look_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.2).min(LOOK_EVERY)
    }

    pub(super) fn renew_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.15)
    }

    /// The time limit of a worker's statement. A lease must survive one lost statement and its repetition.
    pub(super) fn statement_within(&self) -> Duration {
        let part = self.lease().mul_f64(0.3);
        part.clamp(Duration::from_millis(500), Duration::from_secs(5))
    }
}

/// State that the runs and the threads of a worker share.
struct Shared {
    claims: Claims,
    storage: Arc<Storage>,
    pool: Pool,
    options: QueueOptions,
    meter: Arc<JobMeter>,
    events: Sender<Event>,
    wake: Sender<()>,
    renew: Sender<()>,
    /// If fewer claims than this are ahead, the fetcher is woken.
    low: AtomicUsize,
    /// The last claim was full, so more jobs may be due. Added jobs wake the fetcher on their own.
    has_more: AtomicBool,
    /// Jobs were added without a notification to other processes, because this process expected to claim them all.
    has_unannounced: AtomicBool,
    /// Wakes the workers of other processes. Never blocks.
    notify_others: Wakeup,
    /// The number of results that wait to be written.
    unwritten: AtomicUsize,
    /// For unwritten lines of logs.
    log_budget: Arc<Budget>,
    /// The fetcher stopped because too many results wait to be written; `written` then wakes it.
    is_full: AtomicBool,
    /// Jobs whose worker was lost may be due.
    has_suspects: AtomicBool,
    stopping: AtomicBool,
    claiming: DutyState,
    completing: DutyState,
    renewing: DutyState,
}

impl Shared {
    /// Returns whether the executor of this claim may be called now.
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

    fn logged(&self, run: Arc<JobRun>) {
        let _ = self.events.send(Event::Logged(run));
    }

    /// `run` is given if it has unwritten lines.
    fn finished(&self, completion: Completion, run: Option<Arc<JobRun>>) {
        self.unwritten.fetch_add(1, SeqCst);
        let _ = self.events.send(Event::Finished(completion, run));
    }

    /// The results of these claims are written, or another worker holds the job now.
    fn written(&self, claims: impl ExactSizeIterator<Item = Claim>) {
        self.unwritten.fetch_sub(claims.len(), SeqCst);
        self.claims.written(claims);
        if self.is_full.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// How many more jobs of this lane may be claimed, if at most `window` claims may be ahead.
    fn room(&self, lane: u8, window: usize) -> usize {
        // Set the flag before the check. Otherwise a result that is written in between would wake nobody.
        self.is_full.store(true, SeqCst);
        if self.unwritten.load(SeqCst) >= MAX_UNWRITTEN || self.is_behind() {
            return 0;
        }
        self.is_full.store(false, SeqCst);
        self.claims.room(lane, window)
    }

    /// Whether the completer or the heartbeat has been blocked for so long that leases may expire. New claims could
    /// then not be kept.
    fn is_behind(&self) -> bool {
        let longest = self.options.lease().mul_f64(0.5);
        [&self.completing, &self.renewing]
            .iter()
            .any(|duty| duty.is_late(longest))
    }

    /// Jobs may be due. Never blocks.
    fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// Jobs were added. Other processes are notified unless this process is idle and can claim the jobs itself.
    fn added(&self) {
        let (_, ahead) = self.claims.stats();
        let is_idle = ahead == 0 && !self.has_more.load(SeqCst) && self.pool.has_free_worker();
        match is_idle && !self.is_away() {
            true => self.has_unannounced.store(true, SeqCst),
            false => (self.notify_others)(),
        }
        self.wake();
    }

    /// This process has claimed all due jobs, so other processes need no notification.
    fn all_claimed(&self) {
        self.has_unannounced.store(false, SeqCst);
    }

    /// This process may not be able to claim all due jobs. Notifies other processes if that has not been done yet.
    fn leave_to_others(&self) {
        if self.has_unannounced.swap(false, SeqCst) {
            (self.notify_others)();
        }
    }

    /// The database no longer knows this claim: the job was cancelled or another worker has it.
    fn lose(&self, claim: Claim) {
        if self.claims.lose(claim) {
            self.pool.forget(pool_id(claim), OverReason::Cancelled);
            log::info!("This worker has lost its claim on job {}", claim.id);
        }
    }

    /// Leaves a claimed job to any process that can run it.
    fn put_back(&self, held: &Arc<Held>) {
        self.claims.put_back(held);
        let _ = self.renew.try_send(());
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    fn is_away(&self) -> bool {
        let duties = [&self.claiming, &self.completing, &self.renewing];
        duties.iter().any(|duty| duty.is_away())
    }
}

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
