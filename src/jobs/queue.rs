//! The workers' side: claims jobs into the pool, keeps their leases, writes their reports and ends
//! down in batches.
//!
//! The *dispatcher* claims as many jobs as the pool can begin soon: few where jobs take long, up to
//! a thousand where they are over at once. The *scribe* alone writes to claimed rows, so that its
//! statements never wait for each other. Every write carries the claim's token; one that is not
//! the newest changes nothing.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::engine::pool::{Assignment, Pool};
use crate::jobs::desk::Desk;
use crate::jobs::dispatcher::Dispatcher;
use crate::jobs::meter::JobMeter;
use crate::jobs::scribe::Scribe;
use crate::jobs::storage::{Claim, Storage};
use crate::metrics::Exposition;
use crate::threads::{self, join_until};

/// The longest time between two looks for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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

    /// How often the dispatcher looks, though nobody has called it.
    pub(super) fn look_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.2).min(LOOK_EVERY)
    }

    pub(super) fn renew_every(&self) -> Duration {
        self.rescue_within.mul_f64(0.15)
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
        let (desk, calls) = Desk::new(meter);
        let desk = Arc::new(desk);
        let queue = Queue {
            desk: desk.clone(),
            pool: pool.clone(),
            storage: storage.clone(),
            threads: Mutex::default(),
        };
        let dispatcher = Dispatcher::new(desk.clone(), storage.clone(), pool.clone(), options);
        queue.spawn("dispatcher", move || dispatcher.run(&calls.wake))?;
        let scribe = Scribe::new(desk, storage, pool, options);
        queue.spawn("scribe", move || scribe.run(&calls.ends))?;
        Ok(queue)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.lock().push(threads::spawn(name, body)?);
        Ok(())
    }

    /// Something may be due.
    pub(super) fn wake(&self) {
        self.desk.wake();
    }

    /// Calls a job off, where it runs here.
    pub(super) fn cancel(&self, id: Uuid) {
        if let Some(run) = self.desk.call_off(id) {
            self.pool.forget(run.id());
        }
    }

    /// Writes what it holds, with names that begin with `noun`.
    pub(super) fn write(&self, noun: &str, out: &mut Exposition) {
        self.desk.write(noun, out);
    }

    /// Claims no more, and tells the executors that it is over.
    pub(super) fn close(&self) {
        self.desk.stop();
        for run in self.desk.runs() {
            // An end that is written already stays one.
            if run.end() {
                self.pool.forget(run.id());
            }
        }
    }

    /// After the pool's end: writes what is left to write, and gives back what has not been
    /// run to its end; of what has begun only where no executor can still be at it (`all_ended`).
    pub(super) fn stop(&self, all_ended: bool, deadline: Instant) {
        self.close();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            join_until(thread, deadline);
        }
        let runs = self.desk.runs();
        let unfinished = runs.iter().filter(|run| all_ended || !run.has_begun());
        let claims: Vec<Claim> = unfinished.map(|run| run.claim).collect();
        if claims.is_empty() {
            return;
        }
        match self.storage.release(&claims) {
            Ok(given) => log::info!("Gave {} unfinished jobs back", given.len()),
            Err(error) => log::warn!("{} jobs wait for their lease: {error}", claims.len()),
        }
        self.desk.clear();
    }
}
