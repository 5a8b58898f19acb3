//! The workers' side: claims jobs into the pool, keeps their leases, writes their reports and ends
//! down in batches.
//!
//! The *dispatcher* claims as many jobs as the pool can begin soon: few where jobs take long, up to
//! a thousand where they are over at once. The *scribe* alone writes to claimed rows, so that its
//! statements never wait for each other. Every write carries the claim's token; one that is not
//! the newest changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::engine::join_until;
use crate::engine::pool::{Assignment, Pool};
use crate::jobs::meter::JobMeter;
use crate::jobs::run::{Clock, JobRun};
use crate::jobs::storage::{Claim, Finish, Storage};
use crate::metrics::Exposition;

/// The most jobs claimed ahead.
const MAX_WINDOW: usize = 1_000;

/// The most jobs claimed at once, running and pausing ones included.
const MAX_HELD: usize = 10_000;

/// The most ends written at once.
const MAX_BATCH: usize = 1_000;

/// How often reports are written.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// The longest time between two looks for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often old jobs are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// The longest pause between two tries at a database that is away.
const MAX_PAUSE: Duration = Duration::from_secs(5);

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
    fn lease(&self) -> Duration {
        self.rescue_within.mul_f64(0.6)
    }

    /// How often the dispatcher looks, though nobody has called it.
    fn look_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.2).min(LOOK_EVERY)
    }

    fn renew_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.15)
    }
}

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
    stopping: AtomicBool,
    /// The dispatcher waits for its database.
    is_away: AtomicBool,
    pub(super) meter: Arc<JobMeter>,
}

impl Desk {
    pub(super) fn clock(&self) -> u64 {
        self.clock.now()
    }

    pub(super) fn started(&self) {
        if self.ahead.fetch_sub(1, SeqCst) <= self.low.load(SeqCst) {
            self.wake();
        }
    }

    pub(super) fn finish(&self, end: Finish) {
        let _ = self.ends.send(end);
    }

    /// Something may be due. Never blocks.
    pub(super) fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// This run is over, and its end is not ours to write.
    pub(super) fn let_go(&self, run: &JobRun) {
        run.end();
        remove(&mut self.held.lock(), run.claim);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    fn runs(&self) -> Vec<Arc<JobRun>> {
        self.held.lock().values().cloned().collect()
    }
}

/// Forgets a claim; not a newer one of the same job, which may have come back meanwhile.
fn remove(held: &mut HashMap<Uuid, Arc<JobRun>>, claim: Claim) {
    if held.get(&claim.id).is_some_and(|own| own.claim == claim) {
        held.remove(&claim.id);
    }
}

/// The running queue.
pub(super) struct Queue {
    desk: Arc<Desk>,
    pool: Pool,
    storage: Arc<Storage>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Queue {
    pub(super) fn start(
        storage: Arc<Storage>,
        pool: Pool,
        options: QueueOptions,
        meter: Arc<JobMeter>,
    ) -> std::io::Result<Queue> {
        let (ends, written) = crossbeam_channel::unbounded();
        let (wake, called) = crossbeam_channel::bounded(1);
        let desk = Arc::new(Desk {
            clock: Clock::default(),
            held: Mutex::default(),
            ends,
            wake,
            ahead: AtomicUsize::new(0),
            low: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            meter,
        });
        let queue = Queue {
            desk: desk.clone(),
            pool: pool.clone(),
            storage: storage.clone(),
            threads: Mutex::default(),
        };
        let dispatcher = Dispatcher {
            desk: desk.clone(),
            storage: storage.clone(),
            pool: pool.clone(),
            options,
            kinds: pool.registry().types().map(str::to_owned).collect(),
            window: options.workers,
            filled: None,
            tended: None,
            purged: None,
            outage: Outage::new("The job queue"),
        };
        queue.spawn("dispatcher", move || dispatcher.run(&called))?;
        let scribe = Scribe {
            desk,
            storage,
            pool,
            options,
            ends: Vec::new(),
            reported: Instant::now(),
            renewed: Instant::now(),
            outage: Outage::new("The scribe"),
        };
        queue.spawn("scribe", move || scribe.run(&written))?;
        Ok(queue)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.threads.lock().push(thread.spawn(body)?);
        Ok(())
    }

    /// Something may be due.
    pub(super) fn wake(&self) {
        self.desk.wake();
    }

    /// Calls a job off, where it runs here.
    pub(super) fn cancel(&self, id: Uuid) {
        let run = self.desk.held.lock().remove(&id);
        if let Some(run) = run {
            run.end();
            self.pool.forget(run.id());
        }
    }

    /// Writes what it holds, with names that begin with `noun`.
    pub(super) fn write(&self, noun: &str, out: &mut Exposition) {
        let held = self.desk.held.lock().len();
        let help = "Jobs that this process has claimed: ahead, running and pausing ones.";
        out.gauge(&format!("{noun}_held"), help, held);
        let ahead = self.desk.ahead.load(SeqCst);
        let help = "Those that have not begun.";
        out.gauge(&format!("{noun}_ahead"), help, ahead);
        let is_away = u8::from(self.desk.is_away.load(SeqCst));
        let help = "1 while the queue waits for its database, else 0.";
        out.gauge(&format!("{noun}_database_away"), help, is_away);
    }

    /// Claims no more, and tells the executors that it is over.
    pub(super) fn close(&self) {
        self.desk.stopping.store(true, SeqCst);
        self.desk.wake();
        for run in self.desk.runs() {
            // An end that is written already stays one.
            if run.end() {
                self.pool.forget(run.id());
            }
        }
    }

    /// After the pool's end: writes what is left to write, and gives back what has not been
    /// run to its end, unless an executor may still be at it (`all_ended`).
    pub(super) fn stop(&self, all_ended: bool, deadline: Instant) {
        self.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            join_until(thread, deadline);
        }
        let claims: Vec<Claim> = self.desk.runs().iter().map(|run| run.claim).collect();
        if !all_ended || claims.is_empty() {
            return;
        }
        match self.storage.release(&claims) {
            Ok(given) => log::info!("Gave {} unfinished jobs back", given.len()),
            Err(error) => log::warn!("{} jobs wait for their lease: {error}", claims.len()),
        }
        self.desk.held.lock().clear();
    }
}

struct Dispatcher {
    desk: Arc<Desk>,
    storage: Arc<Storage>,
    pool: Pool,
    options: QueueOptions,
    /// The types that this process can run.
    kinds: Vec<String>,
    /// How many jobs to have claimed ahead.
    window: usize,
    /// When the window was last filled to the brim.
    filled: Option<Instant>,
    tended: Option<Instant>,
    purged: Option<Instant>,
    outage: Outage,
}

impl Dispatcher {
    fn run(mut self, called: &Receiver<()>) {
        while !self.desk.is_stopping() {
            let round = self.round();
            self.desk.is_away.store(round.is_err(), SeqCst);
            let next = round.unwrap_or_else(|pause| pause);
            let _ = called.recv_timeout(next);
            // Whoever called before this round is served by it.
            while called.try_recv().is_ok() {}
        }
    }

    /// Claims what there is room for; how long until the next look.
    fn round(&mut self) -> Result<Duration, Duration> {
        let storage = self.storage.clone();
        let look_every = self.options.look_every();
        if self.tended.is_none_or(|at| at.elapsed() >= look_every) {
            self.tended = Some(Instant::now());
            self.outage.check(storage.tend())?;
            self.purge()?;
        }
        loop {
            let held = self.desk.held.lock().len();
            let room = self.window.saturating_sub(self.desk.ahead.load(SeqCst));
            let room = room.min(MAX_HELD.saturating_sub(held));
            if room == 0 || self.desk.is_stopping() {
                return Ok(look_every);
            }
            let lease = self.options.lease();
            // From before the claim: ours ends first, whatever the way took.
            let until = self.desk.clock() + lease.as_millis() as u64;
            let jobs = self.outage.check(storage.claim(&self.kinds, room, lease))?;
            let full = jobs.len() == room;
            self.adapt(full);
            for job in jobs {
                let run = Arc::new(JobRun::new(job, self.desk.clone(), until));
                self.desk.held.lock().insert(run.claim.id, run.clone());
                self.desk.ahead.fetch_add(1, SeqCst);
                self.pool.launch(run, None);
            }
            if !full {
                let next = self.outage.check(storage.next_run())?;
                if next.is_some_and(|next| next < look_every) {
                    self.tended = None;
                }
                return Ok(next.unwrap_or(look_every).min(look_every));
            }
        }
    }

    /// A window that was used up at once was too small; one that lasted was too large: what is
    /// claimed here nobody else can run.
    fn adapt(&mut self, full: bool) {
        if let Some(filled) = self.filled.take() {
            if filled.elapsed() < Duration::from_millis(100) {
                self.window = (self.window * 2).min(MAX_WINDOW);
            } else if filled.elapsed() > Duration::from_secs(1) {
                self.window = (self.window / 2).max(self.options.workers);
            }
        }
        self.filled = full.then(Instant::now);
        // Never 0: with one worker nobody would call, and the next job wait for the next look.
        self.desk.low.store(self.window.div_ceil(2), SeqCst);
    }

    fn purge(&mut self) -> Result<(), Duration> {
        if self.purged.is_none_or(|at| at.elapsed() >= PURGE_EVERY) {
            let gone = self
                .outage
                .check(self.storage.purge(self.options.retention))?;
            // Some at a time, until there are none.
            self.purged = (gone == 0).then(Instant::now);
        }
        Ok(())
    }
}

struct Scribe {
    desk: Arc<Desk>,
    storage: Arc<Storage>,
    pool: Pool,
    options: QueueOptions,
    /// Not yet written.
    ends: Vec<Finish>,
    reported: Instant,
    renewed: Instant,
    outage: Outage,
}

impl Scribe {
    fn run(mut self, written: &Receiver<Finish>) {
        loop {
            let stopping = self.desk.is_stopping();
            let pause = match self.round() {
                Ok(()) => REPORT_EVERY,
                Err(_) if stopping => return,
                Err(pause) => {
                    // Ends go on coming in; they are written when the database is back.
                    std::thread::sleep(pause);
                    Duration::ZERO
                }
            };
            match written.recv_timeout(pause) {
                Ok(end) => self.ends.push(end),
                Err(RecvTimeoutError::Timeout) if stopping => return,
                Err(_) => {}
            }
            while self.ends.len() < MAX_BATCH
                && let Ok(end) = written.try_recv()
            {
                self.ends.push(end);
            }
        }
    }

    fn round(&mut self) -> Result<(), Duration> {
        if !self.ends.is_empty() {
            let written = self.outage.check(self.storage.finish(&self.ends))?;
            self.desk.meter.finished(&self.ends, &written);
            let mut held = self.desk.held.lock();
            let was_full = held.len() >= MAX_HELD;
            for end in self.ends.drain(..) {
                remove(&mut held, end.claim);
            }
            drop(held);
            if was_full {
                self.desk.wake();
            }
        }
        if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            self.report()?;
        }
        if self.renewed.elapsed() >= self.options.renew_every() {
            self.renew()?;
            self.renewed = Instant::now();
        }
        Ok(())
    }

    fn report(&mut self) -> Result<(), Duration> {
        let runs = self.desk.runs();
        let reports: Vec<_> = runs
            .iter()
            .filter_map(|run| Some((run.claim, run.take_report()?)))
            .collect();
        if reports.is_empty() {
            return Ok(());
        }
        let holding = self.outage.check(self.storage.report(&reports))?;
        let lost = reports.iter().map(|(claim, _)| *claim);
        self.give_up(lost, &holding);
        Ok(())
    }

    fn renew(&mut self) -> Result<(), Duration> {
        let runs = self.desk.runs();
        if runs.is_empty() {
            return Ok(());
        }
        let lease = self.options.lease();
        let until = self.desk.clock() + lease.as_millis() as u64;
        let claims: Vec<Claim> = runs.iter().map(|run| run.claim).collect();
        let holding = self.outage.check(self.storage.renew(&claims, lease))?;
        for run in &runs {
            run.prolong(until);
        }
        self.give_up(claims.into_iter(), &holding);
        Ok(())
    }

    /// What does not hold any more was cancelled, or rescued by somebody else.
    fn give_up(&self, claims: impl Iterator<Item = Claim>, holding: &[Uuid]) {
        let holding: std::collections::HashSet<_> = holding.iter().collect();
        for claim in claims.filter(|claim| !holding.contains(&claim.id)) {
            let run = self.desk.held.lock().get(&claim.id).cloned();
            if let Some(run) = run.filter(|run| run.claim == claim)
                // One that ends just now is the next round's.
                && run.end()
            {
                self.desk.let_go(&run);
                self.pool.forget(run.id());
                log::info!("Job {} was taken from this worker", claim.id);
            }
        }
    }
}

/// A database that is away: said once, tried again after longer and longer pauses.
struct Outage {
    who: &'static str,
    pause: Option<Duration>,
}

impl Outage {
    fn new(who: &'static str) -> Outage {
        Outage { who, pause: None }
    }

    /// The answer, or how long to wait before the next try.
    fn check<T, E: std::fmt::Display>(&mut self, answer: Result<T, E>) -> Result<T, Duration> {
        match answer {
            Ok(answer) => {
                if self.pause.take().is_some() {
                    log::info!("{} has its database again", self.who);
                }
                Ok(answer)
            }
            Err(error) => {
                if self.pause.is_none() {
                    log::error!("{} waits for its database: {error}", self.who);
                }
                let pause = self.pause.unwrap_or(Duration::from_millis(50)) * 2;
                self.pause = Some(pause.min(MAX_PAUSE));
                Err(pause.min(MAX_PAUSE))
            }
        }
    }
}
