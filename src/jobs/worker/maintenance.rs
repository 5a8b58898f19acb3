//! Keeps the tables in order, in every process: folds counts and deletes old jobs. In processes with workers it also
//! rescues jobs whose worker was lost.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::jobs::database::Duty;
use crate::jobs::storage::work::Rescued;
use crate::jobs::storage::{Claim, Done, Storage};
use crate::jobs::worker::backoff::{Backoff, DutyState};
use crate::jobs::worker::shared::Shared;
use crate::threads::{self, join_until};

/// How often maintenance runs, unless the workers need it more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const PURGE_EVERY: Duration = Duration::from_secs(3_600);

/// How often the database may free unused space.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// The time limit for one series of deletions, because lost jobs wait meanwhile.
const PURGE_FOR: Duration = Duration::from_millis(100);

pub(in crate::jobs) struct Maintenance {
    stop: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    state: Arc<DutyState>,
}

/// Maintenance for the workers of this process.
pub(in crate::jobs) struct Rescuer {
    shared: Arc<Shared>,
}

struct MaintenanceLoop {
    storage: Arc<Storage>,
    rescuer: Option<Rescuer>,
    state: Arc<DutyState>,
    purged: Option<Instant>,
    tidied: Instant,
    /// When the database was last unavailable.
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
        let maintenance = MaintenanceLoop {
            storage,
            rescuer,
            state: state.clone(),
            purged: None,
            tidied: Instant::now(),
            away: None,
            backoff: Backoff::new("maintenance"),
        };
        let thread = threads::spawn("maintenance", move || maintenance.run(&stopped))?;
        Ok(Maintenance {
            stop: Mutex::new(Some(stop)),
            thread: Mutex::new(Some(thread)),
            state,
        })
    }

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

impl MaintenanceLoop {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let pause = match self.round() {
                Ok(()) => self.look_every(),
                Err(error) => {
                    self.backoff.log_refusal(&error);
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

    /// If the database refuses one step, the other steps still run.
    fn round(&mut self) -> Done<()> {
        if self.backoff.is_on() {
            self.away = Some(Instant::now());
        }
        for step in [
            MaintenanceLoop::follow_clock,
            MaintenanceLoop::rescue,
            MaintenanceLoop::purge,
            MaintenanceLoop::fold,
            MaintenanceLoop::tidy,
        ] {
            match step(self) {
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => self.backoff.log_refusal(&error),
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
        // After an outage, live workers first release their expired claims themselves.
        let grace = rescuer.shared.options.renew_every() * 2;
        if self.away.is_some_and(|at| at.elapsed() < grace) {
            // A successful statement ends the outage, so send one.
            return self.backoff.watch(&state, || storage.lapsed()).map(drop);
        }
        self.backoff.watch(&state, || rescuer.rescue(&storage))
    }

    /// Runs before any step that depends on the clock. SQLite uses the system clock, which somebody may have set.
    fn follow_clock(&mut self) -> Done<()> {
        // Without a statement, nothing is known about the outage.
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
            let responses = self.backoff.watch(&state, || storage.purge_responses())?;
            // Each statement deletes a limited number, so repeat until nothing is left.
            self.purged = (jobs + responses == 0).then(Instant::now);
        }
        Ok(())
    }
}

impl Rescuer {
    pub(super) fn new(shared: Arc<Shared>) -> Rescuer {
        Rescuer { shared }
    }

    /// Requeues jobs whose lease expired, except those that this process still handles.
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
            log::warn!("{} jobs have lost their worker", rescued.len());
            self.shared.meter.rescued(&rescued);
            self.shared
                .has_suspects
                .store(true, std::sync::atomic::Ordering::SeqCst);
            self.shared.wake();
        }
        Ok(())
    }
}

/// The database refuses one of the claims. Rescues the others without it.
fn rescue_each(storage: &Storage, lost: &[Claim]) -> Done<Vec<Rescued>> {
    let mut all = Vec::new();
    for claim in lost {
        match storage.rescue(std::slice::from_ref(claim)) {
            Ok(rescued) => all.extend(rescued),
            Err(error) if error.is_outage() => return Err(error),
            Err(error) => log::error!("Job {} cannot be rescued: {error}", claim.id),
        }
    }
    Ok(all)
}
