//! Claims jobs into the pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::engine::pool::Pool;
use crate::jobs::desk::Desk;
use crate::jobs::outage::Outage;
use crate::jobs::queue::QueueOptions;
use crate::jobs::run::JobRun;
use crate::jobs::storage::Storage;

/// The most jobs claimed ahead.
const MAX_WINDOW: usize = 1_000;

/// How often old jobs are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// How long they are deleted at a stretch: jobs that are due wait meanwhile.
const PURGE_FOR: Duration = Duration::from_millis(100);

pub(super) struct Dispatcher {
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
    pub(super) fn new(
        desk: Arc<Desk>,
        storage: Arc<Storage>,
        pool: Pool,
        options: QueueOptions,
    ) -> Dispatcher {
        Dispatcher {
            kinds: pool.registry().types().map(str::to_owned).collect(),
            window: options.workers,
            filled: None,
            tended: None,
            purged: None,
            outage: Outage::new("The job queue"),
            desk,
            storage,
            pool,
            options,
        }
    }

    pub(super) fn run(mut self, called: &Receiver<()>) {
        while !self.desk.is_stopping() {
            let round = self.round();
            self.desk.set_away(round.is_err());
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
            self.outage.check(storage.promote())?;
            self.rescue()?;
            self.purge()?;
        }
        loop {
            let room = self.desk.room(self.window);
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
                self.desk.claimed(run.clone());
                if self.desk.is_stopping() {
                    // It stays to be given back.
                    run.end();
                    continue;
                }
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
        self.desk.call_below(self.window.div_ceil(2));
    }

    fn rescue(&mut self) -> Result<(), Duration> {
        let lost = self.outage.check(self.storage.rescue())?;
        if !lost.is_empty() {
            log::warn!("The workers of {} jobs were lost", lost.len());
            self.desk.meter.rescued(&lost);
        }
        Ok(())
    }

    fn purge(&mut self) -> Result<(), Duration> {
        let begun = Instant::now();
        while self.purged.is_none_or(|at| at.elapsed() >= PURGE_EVERY)
            && begun.elapsed() < PURGE_FOR
        {
            let jobs = self
                .outage
                .check(self.storage.purge(self.options.retention))?;
            let receipts = self.outage.check(self.storage.purge_receipts())?;
            // Some at a time, until there are none.
            self.purged = (jobs + receipts == 0).then(Instant::now);
        }
        Ok(())
    }
}
