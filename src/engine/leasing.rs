//! How runs become leases, and how leases end: what the scheduler does for workers outside this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::remote::{ClaimQuery, Claimed, Lease, OverReason, Said};
use crate::engine::run::{AttemptHandle, Begun, Run};
use crate::engine::scheduler::Scheduler;
use crate::task::TaskId;

/// The lease of an attempt that its worker brought itself.
const ADOPTED_FOR: Duration = Duration::from_secs(30);

/// A job was claimed for a worker that called for one. If it has not come for it after this time, other processes may
/// have workers for it.
const UNCLAIMED_FOR: Duration = Duration::from_secs(2);

impl Scheduler {
    /// Leaves a run to workers outside, if its type is theirs. Otherwise returns it.
    pub(super) fn offer(&self, run: Box<Run>) -> Option<Box<Run>> {
        if run.work.is_some() || !self.registry().has_remote() {
            return Some(run);
        }
        let Some(kind) = run.attempt.kind() else {
            return Some(run);
        };
        if self.lease_length(&kind).is_none() {
            return Some(run);
        }
        let attempt = run.attempt.clone();
        if attempt.can_be_put_back() {
            let until = Instant::now() + UNCLAIMED_FOR;
            self.timer.unclaimed(attempt.id(), until);
        }
        self.remote.offer(run, &kind);
        // A cancel may have come before the queue had the run.
        if attempt.is_over() {
            self.forget(attempt.id(), OverReason::Cancelled);
        }
        None
    }

    /// The time is over in which a worker could claim the job here.
    pub(super) fn put_back_unclaimed(&self, id: (TaskId, u32)) {
        if let Some(run) = self.remote.unclaimed(id) {
            run.attempt.put_back();
        }
    }

    fn lease_length(&self, kind: &str) -> Option<Duration> {
        self.registry().get(kind)?.remote
    }

    /// Claims attempts for a worker. Waits as `query` says.
    pub(super) fn claim(&self, query: &ClaimQuery<'_>) -> Vec<Claimed> {
        loop {
            let runs = self.remote.take(query);
            let was_none = runs.is_empty();
            let begin = |run: Box<Run>| {
                let length = run.attempt.kind().and_then(|kind| self.lease_length(&kind));
                self.begin_lease(run, length.unwrap_or(ADOPTED_FOR))
            };
            let claims: Vec<_> = runs.into_iter().filter_map(begin).collect();
            // What was taken may have been cancelled in this moment: then look again.
            if was_none || !claims.is_empty() {
                return claims;
            }
        }
    }

    /// Whether only the program that has brought a task of this type can run it.
    pub(super) fn is_adopted(&self, kind: &str) -> bool {
        self.registry().get(kind).is_none() && self.remote.is_adopted(kind)
    }

    /// Leases an attempt that its worker brought itself.
    pub(super) fn adopt(&self, run: Box<Run>) -> Option<Claimed> {
        self.begin_lease(run, ADOPTED_FOR)
    }

    /// Begins the attempt, unless it was released by another worker, and leases it. `None` if it is over.
    fn begin_lease(&self, mut run: Box<Run>, length: Duration) -> Option<Claimed> {
        let attempt = run.attempt.clone();
        let begun = match run.begun.take() {
            Some(begun) => begun,
            None => {
                let begun = self.begin_attempt(&attempt)?;
                run.counted = Some(self.running.count(begun.input.kind.clone()));
                begun
            }
        };
        run.begun = Some(begun.clone());
        let noun = attempt.noun();
        let lease = self.remote.lease(run, length);
        self.timer.lease(lease.clone(), lease.until());
        // A cancel or the time limit may have come before the lease was there.
        if attempt.is_stopped() {
            self.forget(attempt.id(), OverReason::Cancelled);
            return None;
        }
        Some(Claimed {
            lease: lease.name,
            lease_for: length,
            noun,
            input: begun.input,
            timeout: begun.timeout,
        })
    }

    fn begin_attempt(&self, attempt: &Arc<dyn AttemptHandle>) -> Option<Begun> {
        let (input, timeout) = attempt.begin()?;
        let timeout = self.time_limit(&input.kind, timeout);
        if let Some(limit) = timeout {
            self.timer.limit(attempt.clone(), limit);
        }
        let input = Arc::new(input);
        Some(Begun { input, timeout })
    }

    /// Ends a lease as its worker says.
    pub(super) fn end_lease(&self, lease: &Lease, said: &Said) -> Result<(), OverReason> {
        let Some(ending) = said.ending() else {
            return self.release_lease(lease);
        };
        lease.finish(said.clone(), |attempt| attempt.finish(ending))?;
        self.forget(lease.id(), OverReason::Ended);
        Ok(())
    }

    /// Puts the attempt back, for another worker. It stays the same attempt.
    fn release_lease(&self, lease: &Lease) -> Result<(), OverReason> {
        lease.finish(Said::Released, |attempt| !attempt.is_stopped())?;
        self.timer.forget_slice(lease.id());
        let Some(run) = self.remote.release(lease) else {
            return Ok(());
        };
        match run.attempt.can_be_put_back() {
            true => run.attempt.put_back(),
            false => self.send(run),
        }
        Ok(())
    }

    /// The time of a lease may be over.
    pub(super) fn expire_lease(&self, lease: Arc<Lease>) {
        match lease.expire() {
            Err(until) => self.timer.lease(lease, until),
            Ok(None) => {}
            Ok(Some(attempt)) => {
                self.remote.note_lost();
                attempt.lose();
                self.forget(attempt.id(), OverReason::Expired);
            }
        }
    }
}
