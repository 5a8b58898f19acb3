//! Claims jobs for the pool: few if jobs take long, up to two thousand if they are short.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::executor::ExecutorRegistry;
use crate::jobs::database::Duty;
use crate::jobs::job::{Claimed, Place};
use crate::jobs::storage::sql::work::LANES;
use crate::jobs::storage::work::{ClaimQuery, Release};
use crate::jobs::storage::{Claim, Done};
use crate::jobs::worker::backoff::Backoff;
use crate::jobs::worker::kinds::Group;
use crate::jobs::worker::run::JobRun;
use crate::jobs::worker::shared::Shared;

/// The most claims that may be ahead.
const MAX_WINDOW: usize = 2_000;

/// A claim from the start of the order that takes longer is scanning dead rows. The database cannot remove those
/// while a transaction holds an old snapshot.
const SLOW: Duration = Duration::from_millis(15);

/// After a slow claim, such claims pause for this many times as long as it took.
const SLOW_PAUSE: u32 = 10;

/// If an earlier run of the job is still running here, the claim is released with this delay.
const STILL_RUNNING: Duration = Duration::from_millis(250);

/// The wait after a claim before the fetcher asks when the next job is due. The claimed jobs run first.
const SETTLE: Duration = Duration::from_millis(10);

/// The interval between claims of suspects, if more of them wait than may begin.
const SUSPECTS_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Fetcher {
    shared: Arc<Shared>,
    /// The executors from which the groups were made.
    registry: Arc<ExecutorRegistry>,
    /// The job types that this process has executors for. The first group has those without a limit.
    groups: Vec<Group>,
    /// How many claims may be ahead.
    window: usize,
    /// When the window was last filled completely.
    filled: Option<Instant>,
    promoted: Option<Instant>,
    /// When suspects were last claimed.
    looked: Option<Instant>,
    /// Jobs of types with a limit may wait in the lanes of suspects, for a place or for a worker.
    are_suspects_left: bool,
    backoff: Backoff,
}

/// Which due jobs of types with a limit are left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    /// A type had no place, so nobody has looked.
    Unknown,
    More,
}

impl Fetcher {
    pub(super) fn new(shared: Arc<Shared>) -> Fetcher {
        let registry = shared.pool.registry();
        Fetcher {
            groups: Group::all(&registry, &shared.pool, &[]),
            registry,
            window: shared.options.workers,
            filled: None,
            promoted: None,
            looked: None,
            are_suspects_left: false,
            backoff: Backoff::new("fetcher"),
            shared,
        }
    }

    pub(super) fn run(mut self, woken: &Receiver<()>) {
        while !self.shared.is_stopping() {
            let next = self.round(woken).unwrap_or_else(|error| {
                self.backoff.log_refusal(&error);
                self.shared.leave_to_others();
                self.backoff.pause()
            });
            let _ = woken.recv_timeout(next);
            // This round has served all earlier wake-ups.
            while woken.try_recv().is_ok() {}
        }
    }

    /// Claims as many jobs as there is room for. Returns the time until the next round.
    fn round(&mut self, woken: &Receiver<()>) -> Done<Duration> {
        let registry = self.shared.pool.registry();
        if !Arc::ptr_eq(&self.registry, &registry) {
            self.groups = Group::all(&registry, &self.shared.pool, &self.groups);
            self.registry = registry;
        }
        let look_every = self.shared.options.look_every();
        if self.promoted.is_none_or(|at| at.elapsed() >= look_every) {
            let shared = self.shared.clone();
            self.backoff
                .watch(&shared.claiming, || shared.storage.promote())?;
            self.promoted = Some(Instant::now());
            // Another process may have rescued jobs.
            shared.has_suspects.store(true, SeqCst);
        }
        self.claim_suspects()?;
        let has_room = self.claim_others()?;
        let next = match has_room {
            false => look_every,
            true if woken.recv_timeout(SETTLE).is_ok() => Duration::ZERO,
            true => self.until_next(look_every)?,
        };
        Ok(match self.shared.has_suspects.load(SeqCst) {
            true => next.min(SUSPECTS_EVERY),
            false => next,
        })
    }

    fn until_next(&mut self, look_every: Duration) -> Done<Duration> {
        let shared = self.shared.clone();
        let next = self
            .backoff
            .watch(&shared.claiming, || shared.storage.next_run())?;
        if next.is_some_and(|next| next < look_every) {
            self.promoted = None;
        }
        Ok(next.unwrap_or(look_every).min(look_every))
    }

    /// Claims jobs that never lost a worker. Returns whether there is room for more.
    fn claim_others(&mut self) -> Done<bool> {
        while !self.shared.is_stopping() {
            // Set the flag before claiming, so that a run that begins meanwhile wakes the fetcher.
            self.shared.has_more.store(true, SeqCst);
            let left = self.claim_limited(1)?;
            let room = self.shared.room(1, self.window);
            if room == 0 {
                self.shared.leave_to_others();
                return Ok(false);
            }
            let claimed = self.claim(0, 1, room)?;
            self.adapt(claimed == room);
            if claimed == room {
                self.shared.leave_to_others();
                continue;
            }
            match left {
                Left::Nothing => self.shared.all_claimed(),
                Left::More | Left::Unknown => self.shared.leave_to_others(),
            }
            self.shared.has_more.store(false, SeqCst);
            break;
        }
        Ok(true)
    }

    /// Claims suspects, few at a time, so that a job that kills its worker takes few others with it.
    fn claim_suspects(&mut self) -> Done<()> {
        let is_early = self.looked.is_some_and(|at| at.elapsed() < SUSPECTS_EVERY);
        let has_place = || self.groups[1..].iter().any(|group| group.room(1) > 0);
        let may_wait = self.are_suspects_left && has_place();
        if is_early || !(self.shared.has_suspects.swap(false, SeqCst) || may_wait) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        self.are_suspects_left = false;
        for lane in 2..=LANES {
            let room = self.shared.room(lane, self.window);
            let is_full = room == 0 || self.claim(0, lane, room)? == room;
            let left = self.claim_limited(lane)?;
            if is_full || left == Left::More {
                // More may wait until these have finished or have proved harmless.
                self.shared.has_suspects.store(true, SeqCst);
            }
            self.are_suspects_left |= left == Left::Unknown;
        }
        Ok(())
    }

    /// Claims jobs of each type that has a limit, as many as may run. The window is not for them: else a backlog of
    /// other jobs would leave them no room.
    fn claim_limited(&mut self, lane: u8) -> Done<Left> {
        let mut left = Left::Nothing;
        for group in 1..self.groups.len() {
            let room = self.shared.room(lane, usize::MAX);
            let room = self.groups[group].room(room);
            if room == 0 {
                left = left.max(Left::Unknown);
            } else if self.claim(group, lane, room)? == room {
                left = Left::More;
            }
        }
        Ok(left)
    }

    /// Claims up to `room` jobs of a group for the pool and returns their number.
    fn claim(&mut self, group: usize, lane: u8, room: usize) -> Done<usize> {
        if self.groups[group].kinds.is_empty() {
            return Ok(0);
        }
        let shared = self.shared.clone();
        let lease = shared.options.lease();
        // Taken before the claim: this worker's lease ends before the database's, however long the round trip takes.
        let until = shared.claims.now() + lease.as_millis() as u64;
        let spare_until = self.groups[group].spare_until;
        let is_spare = lane == 1 && spare_until.is_some_and(|until| Instant::now() < until);
        let mut kinds = self.groups[group].kinds.clone();
        if !is_spare {
            kinds.iter_mut().for_each(|mark| mark.after = Place::START);
        }
        let query = ClaimQuery {
            lane,
            kinds: &kinds,
            count: room,
            lease,
        };
        let begun = Instant::now();
        let claim = || shared.storage.claim(&query);
        let jobs = self.backoff.watch(&shared.claiming, claim)?;
        if lane == 1 {
            self.groups[group].kinds = kinds;
            self.measure(group, is_spare, begun.elapsed(), &jobs);
        }
        let count = jobs.len();
        self.enqueue(group, jobs, lane, until)?;
        Ok(count)
    }

    /// If claims from the start of the order are slow, most claims start behind the last claimed job. A job that
    /// sorts earlier is then found a little later.
    fn measure(&mut self, group: usize, is_spare: bool, took: Duration, jobs: &[Claimed]) {
        let group = &mut self.groups[group];
        let usual = SLOW + Duration::from_micros(100) * jobs.len() as u32;
        if !is_spare {
            let pause = (took * SLOW_PAUSE).min(self.shared.options.look_every());
            group.spare_until = (took > usual).then(|| Instant::now() + pause);
        }
        for mark in &mut group.kinds {
            let own = jobs.iter().filter(|job| job.kind == mark.kind);
            if let Some(last) = own.map(Claimed::place).max() {
                mark.after = mark.after.max(last);
            }
        }
    }

    fn enqueue(&mut self, group: usize, jobs: Vec<Claimed>, lane: u8, until: u64) -> Done<()> {
        let shared = &self.shared;
        let mut refused = Vec::new();
        for job in jobs {
            let claim = Claim {
                id: job.id,
                token: job.claim,
            };
            let Some(held) = shared.claims.take(claim, lane, until) else {
                let why = "an earlier run is still running here";
                refused.push(Release::new(claim, STILL_RUNNING, why));
                continue;
            };
            let waking = shared.clone();
            let counted = self.groups[group].count(move || waking.wake());
            let run = JobRun::new(job, held, shared.clone(), counted);
            if !shared.is_stopping() {
                shared.pool.enqueue(run, None);
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let release = || shared.storage.release(Duty::Claim, &refused);
        self.backoff.watch(&shared.claiming, release).map(drop)
    }

    /// Doubles the window if it was used up within 100 ms and halves it if it lasted more than a second. Other
    /// workers cannot run the jobs that this one has claimed ahead.
    fn adapt(&mut self, full: bool) {
        if let Some(filled) = self.filled.take() {
            if filled.elapsed() < Duration::from_millis(100) {
                self.window = (self.window * 2).min(MAX_WINDOW);
            } else if filled.elapsed() > Duration::from_secs(1) {
                self.window = (self.window / 2).max(self.shared.options.workers);
            }
        }
        self.filled = full.then(Instant::now);
        // Must not be 0: with one worker no run would wake the fetcher.
        self.shared.low.store(self.window.div_ceil(2), SeqCst);
    }
}
