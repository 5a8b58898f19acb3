//! The life cycle of a claim, in one place.
//!
//! ```text
//!            begin           end            written
//!  ahead ───────────▶ running ─────▶ done ───────────▶ gone
//!    │                   │             │ another worker took it
//!    └─────────┬─────────┘             ▼
//!              ▼ the lease expires, the job is cancelled or rescued, or the server stops
//!             over
//! ```
//!
//! Only this file adds claims to the table, removes them, and compares leases with the clock. A claim that is over
//! stays over and is not renewed. A done claim has no executor any more. It is held until its result is written,
//! however long that takes, so that no other worker runs the job meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::jobs::clock::{LeaseClock, Millis};
use crate::jobs::storage::Claim;
use crate::jobs::storage::sql::work::LANES;

/// The most claims held at once, including those of paused jobs.
const MAX_HELD: usize = 10_000;

/// How many suspects of each lane may run or be ahead. A suspect is a job whose worker was lost before; each loss
/// moves it one lane on. Only a job that kills every worker reaches the last lane, where it runs alone. Few jobs get
/// that far, so nobody waits long.
const MAX_SUSPECTS: [usize; LANES as usize - 1] = [1_000, 64, 8, 1];

/// A suspect that has run this long counts as harmless, and other jobs of its lane may begin.
pub(super) const PROVEN_AFTER: Duration = Duration::from_secs(2);

/// The lane of jobs that only their own worker may run. When it no longer does, nobody releases them: their lease
/// expires, and they fail.
pub(super) const ADOPTED: u8 = 0;

const AHEAD: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;
const OVER: u8 = 3;

/// One claim. Its run asks [`Claims`] whether it may continue.
pub(super) struct Held {
    pub(super) claim: Claim,
    lane: u8,
    /// Changed only under the lock of the table.
    phase: AtomicU8,
    has_begun: AtomicBool,
    begun_at: AtomicU64,
    /// The executor has returned and will be called again later.
    is_paused: AtomicBool,
    /// Lease end on this worker's clock. No other worker may claim the job earlier.
    lease_until: AtomicU64,
}

/// The claims of this process.
pub(super) struct Claims {
    clock: Box<dyn LeaseClock>,
    /// Do not take another lock while holding this one.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// One claim per job: ahead, running or done. After `close`, also the claims that must be released.
    held: HashMap<Uuid, Arc<Held>>,
    ahead: usize,
    is_closed: bool,
    /// Claims that are over, but whose executor may still run because it has not noticed.
    lingering: HashMap<Uuid, Weak<Held>>,
    /// Claims that the heartbeat still has to release in the database.
    lapsed: Vec<Lapsed>,
}

/// The work of one heartbeat: leases to renew, and claims to release because their lease expired.
#[derive(Default)]
pub(super) struct Round {
    /// The claim and whether it is done.
    pub(super) renew: Vec<(Claim, bool)>,
    pub(super) lapsed: Vec<Lapsed>,
}

/// A claim to release in the database.
pub(super) struct Lapsed {
    pub(super) claim: Claim,
    /// Its lease expired. Otherwise it was put back.
    pub(super) is_expired: bool,
}

impl Claims {
    pub(super) fn new(clock: Box<dyn LeaseClock>) -> Claims {
        Claims {
            clock,
            table: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Millis {
        self.clock.now()
    }

    /// How many more jobs of this lane may be claimed, if at most `window` claims may be ahead.
    pub(super) fn room(&self, lane: u8, window: usize) -> usize {
        let now = self.now();
        let table = self.table.lock();
        let room = window.saturating_sub(table.ahead);
        let room = room.min(MAX_HELD.saturating_sub(table.held.len()));
        let Some(most) = lane.checked_sub(2).map(|n| MAX_SUSPECTS[usize::from(n)]) else {
            return room;
        };
        let held = table.held.values();
        let suspects = held.filter(|held| held.lane == lane && held.is_suspect(now));
        room.min(most.saturating_sub(suspects.count()))
    }

    /// Adds a claim that lasts until `lease_until`. Returns `None` if an earlier run of the same job may still be
    /// running here: one process never runs a job twice at once.
    pub(super) fn take(&self, claim: Claim, lane: u8, lease_until: Millis) -> Option<Arc<Held>> {
        let held = Arc::new(Held {
            claim,
            lane,
            phase: AtomicU8::new(AHEAD),
            has_begun: AtomicBool::new(false),
            begun_at: AtomicU64::new(0),
            is_paused: AtomicBool::new(false),
            lease_until: AtomicU64::new(lease_until),
        });
        let mut table = self.table.lock();
        // A newer claim proves that the older one is over.
        if let Some(before) = table.held.get(&claim.id).cloned() {
            table.end(&before);
        }
        if table.lingers(claim.id) {
            return None;
        }
        table.held.insert(claim.id, held.clone());
        match table.is_closed {
            // `to_release` returns it.
            true => held.phase.store(OVER, SeqCst),
            false => table.ahead += 1,
        }
        Some(held)
    }

    /// Returns whether the executor may be called now, and how many claims are still ahead.
    pub(super) fn begin(&self, held: &Arc<Held>) -> (bool, usize) {
        let now = self.now();
        let mut table = self.table.lock();
        if held.phase() == AHEAD && held.has_lapsed(now) {
            table.lapse(held);
        }
        let begins = held.phase() == AHEAD;
        if begins {
            table.ahead -= 1;
            held.begun_at.store(now, SeqCst);
            held.has_begun.store(true, SeqCst);
            held.phase.store(RUNNING, SeqCst);
        }
        (begins, table.ahead)
    }

    /// Whether the run must stop: later reports are ignored.
    pub(super) fn is_over(&self, held: &Arc<Held>) -> bool {
        let phase = held.phase();
        if phase >= DONE {
            return true;
        }
        if !held.has_lapsed(self.now()) {
            return false;
        }
        self.table.lock().lapse(held);
        true
    }

    /// As [`is_over`](Self::is_over), without changing the state.
    #[cfg(test)]
    pub(super) fn would_be_over(&self, held: &Held) -> bool {
        held.phase() >= DONE || held.has_lapsed(self.now())
    }

    /// The executor has finished. Returns whether this process may write the result; the claim is then held until it
    /// is written.
    pub(super) fn end(&self, held: &Arc<Held>) -> bool {
        let now = self.now();
        let mut table = self.table.lock();
        if held.phase() <= RUNNING && held.has_lapsed(now) {
            table.lapse(held);
        }
        let is_ours = held.phase() == RUNNING;
        if is_ours {
            held.phase.store(DONE, SeqCst);
        }
        is_ours
    }

    /// The worker outside this process that had the job is lost. The claim is not renewed any more, so the database
    /// counts a loss when the lease expires.
    pub(super) fn abandon(&self, held: &Arc<Held>) {
        let mut table = self.table.lock();
        if held.phase() <= RUNNING {
            table.end(held);
        }
    }

    /// This process will not run the job, or no longer. The heartbeat releases it.
    pub(super) fn put_back(&self, held: &Arc<Held>) {
        let mut table = self.table.lock();
        if held.phase() <= RUNNING {
            table.release(held, false);
        }
    }

    /// The results of these claims are written, or another worker holds the job now.
    pub(super) fn written(&self, claims: impl IntoIterator<Item = Claim>) {
        let mut table = self.table.lock();
        for claim in claims {
            if let Some(held) = table.find(claim) {
                held.phase.store(OVER, SeqCst);
                table.held.remove(&claim.id);
            }
        }
    }

    /// This claim was cancelled, or another worker has the job. Returns whether the claim could still have run. A
    /// done claim stays until its result is written, because the database decides then.
    pub(super) fn lose(&self, claim: Claim) -> bool {
        let mut table = self.table.lock();
        let Some(held) = table.find(claim) else {
            return false;
        };
        let might_run = held.phase() <= RUNNING;
        if might_run {
            table.end(&held);
        }
        might_run
    }

    /// Returns the leases to renew and the claims whose lease expired since the last call. An expired lease is not
    /// renewed.
    pub(super) fn round(&self) -> Round {
        let now = self.now();
        let mut table = self.table.lock();
        let mut round = Round::default();
        let all: Vec<_> = table.held.values().cloned().collect();
        for held in all {
            match held.phase() {
                DONE => round.renew.push((held.claim, true)),
                AHEAD | RUNNING if !held.has_lapsed(now) => round.renew.push((held.claim, false)),
                AHEAD | RUNNING => table.lapse(&held),
                _ => {}
            }
        }
        round.lapsed = std::mem::take(&mut table.lapsed);
        table.lingering.retain(|_, held| held.strong_count() > 0);
        round
    }

    /// These leases were renewed. A claim that is over stays over.
    pub(super) fn extend(&self, claims: impl IntoIterator<Item = Claim>, until: Millis) {
        let now = self.now();
        let table = self.table.lock();
        for claim in claims {
            if let Some(held) = table.find(claim)
                && !held.has_lapsed(now)
            {
                held.lease_until.fetch_max(until, SeqCst);
            }
        }
    }

    /// Filters out the jobs that this process still handles. It must not count its own worker as lost while the
    /// executor may run or the result waits to be written.
    pub(super) fn not_here(&self, mut claims: Vec<Claim>) -> Vec<Claim> {
        let table = self.table.lock();
        claims.retain(|claim| !table.held.contains_key(&claim.id) && !table.lingers(claim.id));
        claims
    }

    /// Stops all claims that are ahead or running and returns them. They stay in the table until they are released.
    /// Done claims stay until they are written.
    pub(super) fn close(&self) -> Vec<Claim> {
        let mut table = self.table.lock();
        table.is_closed = true;
        table.ahead = 0;
        let mut open = Vec::new();
        table.held.retain(|_, held| {
            if held.phase() > RUNNING {
                return true;
            }
            held.phase.store(OVER, SeqCst);
            open.push(held.claim);
            held.lane != ADOPTED
        });
        open
    }

    /// Returns the claims to release after [`close`](Self::close). A claim that has begun is included only if no
    /// executor can still be running.
    pub(super) fn to_release(&self, all_ended: bool) -> Vec<Claim> {
        let table = self.table.lock();
        let held = table.held.values();
        let released =
            held.filter(|held| held.phase() == OVER && (all_ended || !held.has_begun.load(SeqCst)));
        released.map(|held| held.claim).collect()
    }

    /// Returns the number of held claims and how many of them are ahead.
    pub(super) fn stats(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.held.len(), table.ahead)
    }
}

impl Table {
    /// Marks the claim as over and removes it from the table. Its executor may not have noticed yet. During shutdown
    /// the claim stays in the table so that it can be released.
    fn end(&mut self, held: &Arc<Held>) {
        let phase = held.phase.swap(OVER, SeqCst);
        if phase == AHEAD {
            self.ahead -= 1;
        }
        if phase != OVER && self.find(held.claim).is_some() {
            self.held.remove(&held.claim.id);
        }
        if phase == RUNNING {
            self.lingering.insert(held.claim.id, Arc::downgrade(held));
        }
    }

    /// As [`end`](Self::end). The heartbeat releases the job.
    fn release(&mut self, held: &Arc<Held>, is_expired: bool) {
        self.end(held);
        if held.lane != ADOPTED {
            let claim = held.claim;
            self.lapsed.push(Lapsed { claim, is_expired });
        }
    }

    /// As [`end`](Self::end), because the lease expired. The heartbeat releases the job unless another worker has it
    /// by then.
    fn lapse(&mut self, held: &Arc<Held>) {
        if held.phase() <= RUNNING {
            self.release(held, true);
        }
    }

    fn find(&self, claim: Claim) -> Option<Arc<Held>> {
        let held = self.held.get(&claim.id);
        held.filter(|held| held.claim == claim).cloned()
    }

    fn lingers(&self, id: Uuid) -> bool {
        let held = self.lingering.get(&id);
        held.is_some_and(|held| held.strong_count() > 0)
    }
}

impl Held {
    fn phase(&self) -> u8 {
        self.phase.load(SeqCst)
    }

    fn has_lapsed(&self, now: Millis) -> bool {
        now >= self.lease_until.load(SeqCst)
    }

    fn is_suspect(&self, now: Millis) -> bool {
        let begun = self.begun_at.load(SeqCst);
        let is_harmless = self.phase() > RUNNING || self.is_paused.load(SeqCst);
        let ran = Duration::from_millis(now.saturating_sub(begun));
        !is_harmless && (begun == 0 || ran < PROVEN_AFTER)
    }

    pub(super) fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, SeqCst);
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase() == RUNNING
    }
}
