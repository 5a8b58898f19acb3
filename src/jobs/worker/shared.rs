//! What the threads and the runs of a worker share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::engine::pool::Pool;
use crate::engine::remote::OverReason;
use crate::jobs::meter::JobMeter;
use crate::jobs::storage::completion::Completion;
use crate::jobs::storage::{Claim, Storage};
use crate::jobs::worker::backoff::DutyState;
use crate::jobs::worker::claims::{Claims, Held};
use crate::jobs::worker::run::{Event, JobRun, RunHost, pool_id};
use crate::store::Budget;

/// The longest interval between two polls for due jobs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// If more results wait to be written, the fetcher claims nothing: after a crash, every unwritten attempt would run
/// again.
const MAX_UNWRITTEN: usize = 4_000;

/// Wakes workers after jobs were added. Never blocks.
pub(crate) type Wakeup = Arc<dyn Fn() + Send + Sync>;

/// The settings of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueOptions {
    pub(crate) workers: usize,
    /// If a worker dies, its jobs are claimed again within this time.
    pub(crate) rescue_within: Duration,
    pub(crate) retention: Duration,
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
    pub(crate) fn statement_within(&self) -> Duration {
        let part = self.lease().mul_f64(0.3);
        part.clamp(Duration::from_millis(500), Duration::from_secs(5))
    }
}

/// State that the runs and the threads of a worker share.
pub(super) struct Shared {
    pub(super) claims: Claims,
    pub(super) storage: Arc<Storage>,
    pub(super) pool: Pool,
    pub(super) options: QueueOptions,
    pub(super) meter: Arc<JobMeter>,
    pub(super) events: Sender<Event>,
    pub(super) wake: Sender<()>,
    pub(super) renew: Sender<()>,
    /// If fewer claims than this are ahead, the fetcher is woken.
    pub(super) low: AtomicUsize,
    /// The last claim was full, so more jobs may be due. Added jobs wake the fetcher on their own.
    pub(super) has_more: AtomicBool,
    /// Jobs were added without a notification to other processes, because this process expected to claim them all.
    pub(super) has_unannounced: AtomicBool,
    /// Wakes the workers of other processes. Never blocks.
    pub(super) notify_others: Wakeup,
    /// The number of results that wait to be written.
    pub(super) unwritten: AtomicUsize,
    /// For unwritten lines of logs.
    pub(super) log_budget: Arc<Budget>,
    /// The fetcher stopped because too many results wait to be written; `written` then wakes it.
    pub(super) is_full: AtomicBool,
    /// Jobs whose worker was lost may be due.
    pub(super) has_suspects: AtomicBool,
    pub(super) stopping: AtomicBool,
    pub(super) claiming: DutyState,
    pub(super) completing: DutyState,
    pub(super) renewing: DutyState,
}

impl Shared {
    /// The results of these claims are written, or another worker holds the job now.
    pub(super) fn written(&self, claims: impl ExactSizeIterator<Item = Claim>) {
        self.unwritten.fetch_sub(claims.len(), SeqCst);
        self.claims.written(claims);
        if self.is_full.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// How many more jobs of this lane may be claimed, if at most `window` claims may be ahead.
    pub(super) fn room(&self, lane: u8, window: usize) -> usize {
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
    pub(super) fn is_behind(&self) -> bool {
        let longest = self.options.lease().mul_f64(0.5);
        [&self.completing, &self.renewing]
            .iter()
            .any(|duty| duty.is_late(longest))
    }

    /// Jobs may be due. Never blocks.
    pub(super) fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// Jobs were added. Other processes are notified unless this process is idle and can claim the jobs itself.
    pub(super) fn added(&self) {
        let (_, ahead) = self.claims.stats();
        let is_idle = ahead == 0 && !self.has_more.load(SeqCst) && self.pool.has_free_worker();
        match is_idle && !self.is_away() {
            true => self.has_unannounced.store(true, SeqCst),
            false => (self.notify_others)(),
        }
        self.wake();
    }

    /// This process has claimed all due jobs, so other processes need no notification.
    pub(super) fn all_claimed(&self) {
        self.has_unannounced.store(false, SeqCst);
    }

    /// This process may not be able to claim all due jobs. Notifies other processes if that has not been done yet.
    pub(super) fn leave_to_others(&self) {
        if self.has_unannounced.swap(false, SeqCst) {
            (self.notify_others)();
        }
    }

    /// The database no longer knows this claim: the job was cancelled or another worker has it.
    pub(super) fn lose(&self, claim: Claim) {
        if self.claims.lose(claim) {
            self.pool.forget(pool_id(claim), OverReason::Cancelled);
            log::info!("This worker has lost its claim on job {}", claim.id);
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    pub(super) fn is_away(&self) -> bool {
        let duties = [&self.claiming, &self.completing, &self.renewing];
        duties.iter().any(|duty| duty.is_away())
    }
}

impl RunHost for Shared {
    fn claims(&self) -> &Claims {
        &self.claims
    }

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn meter(&self) -> &JobMeter {
        &self.meter
    }

    fn log_budget(&self) -> Arc<Budget> {
        self.log_budget.clone()
    }

    fn begin(&self, held: &Arc<Held>) -> bool {
        let (begins, ahead) = self.claims.begin(held);
        if ahead < self.low.load(SeqCst) && self.has_more.load(SeqCst) {
            self.wake();
        }
        begins
    }

    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn finished(&self, completion: Completion, run: Option<Arc<JobRun>>) {
        self.unwritten.fetch_add(1, SeqCst);
        let _ = self.events.send(Event::Finished(completion, run));
    }

    fn put_back(&self, held: &Arc<Held>) {
        self.claims.put_back(held);
        let _ = self.renew.try_send(());
    }
}
