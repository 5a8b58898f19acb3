//! Writes to claimed rows: leases, reports, ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use uuid::Uuid;

use crate::engine::pool::{Assignment, Pool};
use crate::jobs::desk::Desk;
use crate::jobs::outage::Outage;
use crate::jobs::queue::QueueOptions;
use crate::jobs::storage::{Claim, Finish, Storage};

/// The most ends written at once.
const MAX_BATCH: usize = 1_000;

/// How often reports are written.
const REPORT_EVERY: Duration = Duration::from_millis(250);

pub(super) struct Scribe {
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
    pub(super) fn new(
        desk: Arc<Desk>,
        storage: Arc<Storage>,
        pool: Pool,
        options: QueueOptions,
    ) -> Scribe {
        Scribe {
            desk,
            storage,
            pool,
            options,
            ends: Vec::new(),
            reported: Instant::now(),
            renewed: Instant::now(),
            outage: Outage::new("The scribe"),
        }
    }

    pub(super) fn run(mut self, written: &Receiver<Finish>) {
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
            self.desk.written(self.ends.drain(..));
            // Shown, then made safe: nobody waits for the disk to learn of an end.
            self.outage.check(self.storage.settle())?;
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
        let news = self.desk.runs().into_iter().filter_map(|run| {
            let report = (run.claim, run.take_report()?);
            Some((run, report))
        });
        let (runs, reports): (Vec<_>, Vec<_>) = news.unzip();
        if reports.is_empty() {
            return Ok(());
        }
        let written = self.storage.report(&reports);
        if written.is_err() {
            // They are told when the database is back.
            runs.iter().for_each(|run| run.keep_report());
        }
        let holding = self.outage.check(written)?;
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
        let holding: HashSet<_> = holding.iter().collect();
        for claim in claims.filter(|claim| !holding.contains(&claim.id)) {
            // One that ends just now is the next round's.
            if let Some(run) = self.desk.run_of(claim)
                && run.end()
            {
                self.desk.let_go(&run);
                self.pool.forget(run.id());
                log::info!("Job {} was taken from this worker", claim.id);
            }
        }
    }
}
