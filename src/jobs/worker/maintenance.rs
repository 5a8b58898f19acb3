//! What keeps the tables in order, in every process: counts are folded, old jobs deleted. Where there are workers,
//! also: what other workers have lost is taken back.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::jobs::database::Duty;
use crate::jobs::storage::work::Rescued;
use crate::jobs::storage::{Claim, Done, Storage};
use crate::jobs::worker::Shared;
use crate::jobs::worker::backoff::{Backoff, DutyState};
use crate::threads::{self, join_until};

/// How often it looks, where no worker wants it more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often old jobs are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// How often the database may give back what it does not need.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// How long they are deleted at a stretch: what is lost waits meanwhile.
const PURGE_FOR: Duration = Duration::from_millis(100);

/// The running maintenance.
pub(in crate::jobs) struct Maintenance {
    stop: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    state: Arc<DutyState>,
}

/// What it does for the workers of this process.
pub(in crate::jobs) struct Rescuer {
    shared: Arc<Shared>,
}

struct Upkeep {
    storage: Arc<Storage>,
    rescuer: Option<Rescuer>,
    state: Arc<DutyState>,
    purged: Option<Instant>,
    tidied: Instant,
    /// When the database was last found to be away.
    away: Option<Instant>,
    backoff: Backoff,
}

impl Maintenance {
    pub(in crate::jobs) fn start(
        storage: Arc<Storage>,
        rescuer: Option<Rescuer>,
    ) -> std::io::Result<Maintenance> {
        let (stop, stopped) = bounded(0);
        let state = Arc::<DutyState>::default();
        let upkeep = Upkeep {
            storage,
            rescuer,
            state: state.clone(),
            purged: None,
            tidied: Instant::now(),
            away: None,
            backoff: Backoff::new("maintenance"),
        };
        let thread = threads::spawn("maintenance", move || upkeep.run(&stopped))?;
        Ok(Maintenance {
            stop: Mutex::new(Some(stop)),
            thread: Mutex::new(Some(thread)),
            state,
        })
    }

    /// Whether it waits for the database.
    pub(in crate::jobs) fn is_away(&self) -> bool {
        self.state.is_away()
    }

    pub(in crate::jobs) fn stop(&self, deadline: Instant) {
        self.stop.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
        }
    }
}

impl Upkeep {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let pause = match self.round() {
                Ok(()) => self.look_every(),
                Err(error) => {
                    self.backoff.complain(&error);
                    self.backoff.pause()
                }
            };
            if let Err(RecvTimeoutError::Disconnected) = stopped.recv_timeout(pause) {
                return;
            }
        }
    }

    fn look_every(&self) -> Duration {
        let wanted = self.rescuer.as_ref();
        wanted.map_or(LOOK_EVERY, |rescuer| rescuer.shared.options.look_every())
    }

    /// What the database refuses in one step is no reason to leave out the others.
    fn round(&mut self) -> Done<()> {
        if self.backoff.is_on() {
            self.away = Some(Instant::now());
        }
        for step in [
            Upkeep::follow_clock,
            Upkeep::rescue,
            Upkeep::purge,
            Upkeep::fold,
            Upkeep::tidy,
        ] {
            match step(self) {
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => self.backoff.complain(&error),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn fold(&mut self) -> Done<()> {
        let (storage, state) = (self.storage.clone(), self.state.clone());
        self.backoff
            .watch(&state, || storage.fold_counts())
            .map(drop)
    }

    fn tidy(&mut self) -> Done<()> {
        if self.tidied.elapsed() < TIDY_EVERY {
            return Ok(());
        }
        self.tidied = Instant::now();
        let (storage, state) = (self.storage.clone(), self.state.clone());
        self.backoff.watch(&state, || storage.database.tidy())
    }

    fn rescue(&mut self) -> Done<()> {
        let (storage, state) = (self.storage.clone(), self.state.clone());
        let Some(rescuer) = &self.rescuer else {
            return Ok(());
        };
        // After an backoff workers that live give back themselves what they could not keep.
        let grace = rescuer.shared.options.renew_every() * 2;
        if self.away.is_some_and(|at| at.elapsed() < grace) {
            // An backoff is over when something has been asked.
            return self.backoff.watch(&state, || storage.lapsed()).map(drop);
        }
        self.backoff.watch(&state, || rescuer.rescue(&storage))
    }

    /// Before anything is judged by the clock: where that is this system's own, somebody may have set it.
    fn follow_clock(&mut self) -> Done<()> {
        // What asks no database says nothing of an backoff.
        if self.storage.boot.is_none() {
            return Ok(());
        }
        let (storage, state) = (self.storage.clone(), self.state.clone());
        self.backoff
            .watch(&state, || storage.follow_clock(Duty::Maintain))
    }

    fn purge(&mut self) -> Done<()> {
        let (storage, state) = (self.storage.clone(), self.state.clone());
        let Some(rescuer) = &self.rescuer else {
            return Ok(());
        };
        let retention = rescuer.shared.options.retention;
        let begun = Instant::now();
        while self.purged.is_none_or(|at| at.elapsed() >= PURGE_EVERY)
            && begun.elapsed() < PURGE_FOR
        {
            let jobs = self.backoff.watch(&state, || storage.purge(retention))?;
            let idempotency = self.backoff.watch(&state, || storage.purge_receipts())?;
            // Some at a time, until there are none.
            self.purged = (jobs + idempotency == 0).then(Instant::now);
        }
        Ok(())
    }
}

impl Rescuer {
    pub(super) fn new(shared: Arc<Shared>) -> Rescuer {
        Rescuer { shared }
    }

    /// Takes back what other processes have lost. What this one has in hand it does not take from itself.
    fn rescue(&self, storage: &Storage) -> Done<()> {
        let lapsed = storage.lapsed()?;
        let lost = self.shared.claims.not_here(lapsed);
        if lost.is_empty() {
            return Ok(());
        }
        let rescued = match storage.rescue(&lost) {
            Err(error) if !error.is_outage() => rescue_each(storage, &lost)?,
            rescued => rescued?,
        };
        if !rescued.is_empty() {
            log::warn!("The workers of {} jobs were lost", rescued.len());
            self.shared.meter.rescued(&rescued);
            self.shared
                .has_suspects
                .store(true, std::sync::atomic::Ordering::SeqCst);
            self.shared.wake();
        }
        Ok(())
    }
}

/// The database refuses one of them for good: the others are taken back without it.
fn rescue_each(storage: &Storage, lost: &[Claim]) -> Done<Vec<Rescued>> {
    let mut all = Vec::new();
    for claim in lost {
        match storage.rescue(std::slice::from_ref(claim)) {
            Ok(rescued) => all.extend(rescued),
            Err(error) if error.is_outage() => return Err(error),
            Err(error) => log::error!("Job {} cannot be taken back: {error}", claim.id),
        }
    }
    Ok(all)
}
