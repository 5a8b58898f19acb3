//! The state that the routes of the Job API work on.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::engine::pool::Pool;
use crate::jobs::api::auth::TokenVerifier;
use crate::jobs::inserter::Inserter;
use crate::jobs::meter::JobMeter;
use crate::jobs::notify::Notifier;
use crate::jobs::notify::watch::Watch;
use crate::jobs::storage::{Claim, Storage};
use crate::jobs::worker::maintenance::Maintenance;
use crate::jobs::worker::{Queue, Wakeup};

pub(super) struct JobSystem {
    pub(super) storage: Arc<Storage>,
    pub(super) inserter: Inserter,
    pub(super) verifier: TokenVerifier,
    pub(super) meter: Arc<JobMeter>,
    pub(super) watch: Watch,
    /// `None` if only other processes run jobs.
    pub(super) queue: Option<Arc<Queue>>,
    pub(super) pool: Pool,
    pub(super) maintenance: Maintenance,
    /// `None` if there can be no other processes.
    pub(super) notifier: Option<Arc<Notifier>>,
    pub(super) wakeup: Wakeup,
    pub(super) listener: Mutex<Option<JoinHandle<()>>>,
    pub(super) stopping: Arc<AtomicBool>,
}

impl JobSystem {
    /// Jobs may be due.
    pub(super) fn wake(&self) {
        (self.wakeup)();
    }

    /// Stops the run of a cancelled claim, in whichever process it runs.
    pub(super) fn cancel_run(&self, claim: Claim) {
        if let Some(queue) = &self.queue {
            queue.cancel_run(claim);
        }
        if let Some(notifier) = &self.notifier {
            notifier.cancelled(claim);
        }
    }

    /// Whether any duty of this process finds the database unavailable.
    pub(super) fn is_away(&self) -> bool {
        let queue = self.queue.as_ref();
        self.storage.availability.is_away()
            || self.maintenance.is_away()
            || queue.is_some_and(|queue| queue.is_away())
    }
}
