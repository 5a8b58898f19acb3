//! The life of a claim, in one place.
//!
//! ```text
//!            begin           end            written
//!  ahead ───────────▶ running ─────▶ done ───────────▶ gone
//!    │                   │             │ another took it
//!    └─────────┬─────────┘             ▼
//!              ▼ its lease is over, somebody cancelled or rescued it, the server stops
//!             over
//! ```
//!
//! Nothing else adds to what this process holds or takes from it, and nothing else asks the clock whether a lease
//! is over. Once over, a claim stays over, and is not renewed. One that is done has no executor any more, and is held
//! until its end is written, however long that takes: nobody else is to run the job meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::jobs::clock::{LeaseClock, Millis};
use crate::jobs::storage::Claim;
use crate::jobs::storage::sql::work::LANES;

/// The most jobs held at once, pausing ones included.
const MAX_HELD: usize = 10_000;

/// How many jobs of a lane may be at work or ahead: of those that were lost once, twice, and so on. Only a job that kills
/// its worker each time comes to the last lane, and there it takes nobody with it. Few come that far, so nobody waits long.
const SUSPECTS: [usize; LANES as usize - 1] = [1_000, 64, 8, 1];

/// A job that has run for so long without harm is no suspect any more: others of its lane may begin.
pub(super) const PROVEN_AFTER: Duration = Duration::from_secs(2);

const AHEAD: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;
const OVER: u8 = 3;

/// One claim. Whoever runs its job asks [`Claims`] whether that may go on.
pub(super) struct Held {
    pub(super) claim: Claim,
    lane: u8,
    /// Changes under the lock of the table only.
    phase: AtomicU8,
    has_begun: AtomicBool,
    begun_at: AtomicU64,
    /// Its executor is on no thread, and will be called again.
    is_paused: AtomicBool,
    /// Nobody else runs it before.
    lease_until: AtomicU64,
}

/// What this process has claimed.
pub(super) struct Claims {
    clock: Box<dyn LeaseClock>,
    /// No other lock is taken under it.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Of each job the claim that is ahead, running or done; after the stop also those to be given back.
    held: HashMap<Uuid, Arc<Held>>,
    ahead: usize,
    is_closed: bool,
    /// Claims that are over and may still have an executor at work, which has not heard of it.
    lingering: HashMap<Uuid, Weak<Held>>,
    /// Claims whose lease was over, and which the database has not heard of.
    lapsed: Vec<Claim>,
}

/// What there is to renew, and what to give back, since its lease was over.
#[derive(Default)]
pub(super) struct Round {
    /// Each claim, and whether it is done.
    pub(super) renew: Vec<(Claim, bool)>,
    pub(super) lapsed: Vec<Claim>,
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

    /// How many more jobs of this lane may be claimed, where `window` may be ahead.
    pub(super) fn room(&self, lane: u8, window: usize) -> usize {
        let now = self.now();
        let table = self.table.lock();
        let room = window.saturating_sub(table.ahead);
        let room = room.min(MAX_HELD.saturating_sub(table.held.len()));
        let Some(most) = lane.checked_sub(2).map(|n| SUSPECTS[usize::from(n)]) else {
            return room;
        };
        let held = table.held.values();
        let suspects = held.filter(|held| held.lane == lane && held.is_suspect(now));
        room.min(most.saturating_sub(suspects.count()))
    }

    /// Holds a claim until `lease_until`. `None` where an earlier run of the same job may still be at work here:
    /// one process never runs a job twice at once.
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
        // A claim that is newer says that the one before it is over.
        if let Some(before) = table.held.get(&claim.id).cloned() {
            table.end(&before);
        }
        if table.lingers(claim.id) {
            return None;
        }
        table.held.insert(claim.id, held.clone());
        match table.is_closed {
            // It stays to be given back.
            true => held.phase.store(OVER, SeqCst),
            false => table.ahead += 1,
        }
        Some(held)
    }

    /// The executor is about to be called, where that is true. Also how many are still ahead.
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

    /// Whether nothing that its executor says counts any more.
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

    /// As [`is_over`](Self::is_over), and changes nothing.
    #[cfg(test)]
    pub(super) fn would_be_over(&self, held: &Held) -> bool {
        held.phase() >= DONE || held.has_lapsed(self.now())
    }

    /// The executor has ended. Whether its end is ours to write: then the claim is held until that is done.
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

    /// These ends are written, or are nobody's any more.
    pub(super) fn written(&self, claims: impl IntoIterator<Item = Claim>) {
        let mut table = self.table.lock();
        for claim in claims {
            if let Some(held) = table.find(claim) {
                held.phase.store(OVER, SeqCst);
                table.held.remove(&claim.id);
            }
        }
    }

    /// This claim, and no other of the same job, was cancelled, or is another's. Whether it might have run on. One
    /// that is done stays until its end is written: the database then says whose it is.
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

    /// What to renew now, and what has run out since the last time: that is lost here, and not renewed.
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

    /// These were renewed. One that is over by now stays over.
    pub(super) fn prolong(&self, claims: impl IntoIterator<Item = Claim>, until: Millis) {
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

    /// Of these claims, those whose job this process does not have in hand. No lease counts as lost here while its
    /// executor may be at work here, or its end waits to be written.
    pub(super) fn not_here(&self, mut claims: Vec<Claim>) -> Vec<Claim> {
        let table = self.table.lock();
        claims.retain(|claim| !table.held.contains_key(&claim.id) && !table.lingers(claim.id));
        claims
    }

    /// No claim runs on, and none begins. They stay to be given back; done ones to be written. The claims that were
    /// ahead or running.
    pub(super) fn close(&self) -> Vec<Claim> {
        let mut table = self.table.lock();
        table.is_closed = true;
        table.ahead = 0;
        let open = table.held.values().filter(|held| held.phase() <= RUNNING);
        open.map(|held| {
            held.phase.store(OVER, SeqCst);
            held.claim
        })
        .collect()
    }

    /// After [`close`](Self::close): what to give back. What has begun only where no executor can be at it any more.
    pub(super) fn to_release(&self, all_ended: bool) -> Vec<Claim> {
        let table = self.table.lock();
        let held = table.held.values();
        let back =
            held.filter(|held| held.phase() == OVER && (all_ended || !held.has_begun.load(SeqCst)));
        back.map(|held| held.claim).collect()
    }

    /// How many are held, and how many of them are ahead.
    pub(super) fn stats(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.held.len(), table.ahead)
    }
}

impl Table {
    /// The claim is over, and is not held any more. Its executor may not have heard of it yet. At the stop
    /// it stays to be given back.
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

    /// As [`end`](Self::end), since its lease is over: the job is to be given back, unless another has it by then.
    fn lapse(&mut self, held: &Arc<Held>) {
        if held.phase() <= RUNNING {
            self.end(held);
            self.lapsed.push(held.claim);
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

    /// Whether it may still run or be written.
    pub(super) fn is_running(&self) -> bool {
        self.phase() == RUNNING
    }
}
