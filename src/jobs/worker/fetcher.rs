//! Claims jobs into the pool: few where jobs take long, up to two thousand where they are over at once.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::jobs::database::Duty;
use crate::jobs::job::{Claimed, Place};
use crate::jobs::storage::sql::work::LANES;
use crate::jobs::storage::work::{ClaimQuery, KindMark, Release};
use crate::jobs::storage::{Claim, Done};
use crate::jobs::worker::Shared;
use crate::jobs::worker::backoff::Backoff;
use crate::jobs::worker::run::JobRun;

/// The most jobs claimed ahead.
const MAX_WINDOW: usize = 2_000;

/// A claim from the first due job on that takes longer walks over dead rows, which the database cannot remove while
/// somebody holds an old snapshot.
const SLOW: Duration = Duration::from_millis(15);

/// Of the time, this part at most goes into such claims.
const SLOW_PART: u32 = 10;

/// How long a job is left alone whose earlier run has not heard yet that it is over.
const STILL_RUNNING: Duration = Duration::from_millis(250);

/// How long after a claim it is asked when the next job is due: what was claimed goes first.
const SETTLE: Duration = Duration::from_millis(10);

/// How often jobs whose worker was lost are looked for while there are more than may begin.
const SUSPECTS_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Fetcher {
    shared: Arc<Shared>,
    /// The types that this process can run.
    kinds: Vec<KindMark>,
    /// How many jobs to have claimed ahead.
    window: usize,
    /// When the window was last filled to the brim.
    filled: Option<Instant>,
    promoted: Option<Instant>,
    /// When it last looked for jobs whose worker was lost.
    looked: Option<Instant>,
    /// Until when claims look behind the marks only.
    spare_until: Option<Instant>,
    backoff: Backoff,
}

impl Fetcher {
    pub(super) fn new(shared: Arc<Shared>) -> Fetcher {
        let mark = |kind: &str| KindMark {
            kind: kind.to_owned(),
            after: Place::START,
        };
        Fetcher {
            kinds: shared.pool.registry().types().map(mark).collect(),
            window: shared.options.workers,
            filled: None,
            promoted: None,
            looked: None,
            spare_until: None,
            backoff: Backoff::new("fetcher"),
            shared,
        }
    }

    pub(super) fn run(mut self, called: &Receiver<()>) {
        while !self.shared.is_stopping() {
            let next = self.round(called).unwrap_or_else(|error| {
                self.backoff.complain(&error);
                self.shared.leave_to_others();
                self.backoff.pause()
            });
            let _ = called.recv_timeout(next);
            // Whoever called before this round is served by it.
            while called.try_recv().is_ok() {}
        }
    }

    /// Claims what there is room for; how long until the next look.
    fn round(&mut self, called: &Receiver<()>) -> Done<Duration> {
        let look_every = self.shared.options.look_every();
        if self.promoted.is_none_or(|at| at.elapsed() >= look_every) {
            let shared = self.shared.clone();
            self.backoff
                .watch(&shared.claiming, || shared.storage.promote())?;
            self.promoted = Some(Instant::now());
            // Another process may have come upon some.
            shared.has_suspects.store(true, SeqCst);
        }
        self.claim_suspects()?;
        let has_room = self.claim_others()?;
        let next = match has_room {
            false => look_every,
            true if called.recv_timeout(SETTLE).is_ok() => Duration::ZERO,
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

    /// Claims jobs whose worker was never lost; whether there is room for more.
    fn claim_others(&mut self) -> Done<bool> {
        while !self.shared.is_stopping() {
            // Before it looks: what is seen to begin meanwhile calls it.
            self.shared.has_more.store(true, SeqCst);
            let room = self.shared.room(1, self.window);
            if room == 0 {
                self.shared.leave_to_others();
                return Ok(false);
            }
            let claimed = self.claim(1, room)?;
            self.adapt(claimed == room);
            if claimed == room {
                self.shared.leave_to_others();
            } else {
                self.shared.all_claimed();
                self.shared.has_more.store(false, SeqCst);
                break;
            }
        }
        Ok(true)
    }

    /// Claims jobs whose worker was lost, few of them, so that one that kills its worker takes few with it.
    fn claim_suspects(&mut self) -> Done<()> {
        let is_early = self.looked.is_some_and(|at| at.elapsed() < SUSPECTS_EVERY);
        if is_early || !self.shared.has_suspects.swap(false, SeqCst) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        for lane in 2..=LANES {
            let room = self.shared.room(lane, self.window);
            if room == 0 || self.claim(lane, room)? == room {
                // There may be more, for when these have ended or are proven.
                self.shared.has_suspects.store(true, SeqCst);
            }
        }
        Ok(())
    }

    /// Claims up to `room` jobs into the pool; how many there were.
    fn claim(&mut self, lane: u8, room: usize) -> Done<usize> {
        let shared = self.shared.clone();
        let lease = shared.options.lease();
        // From before the claim: ours ends first, whatever the way took.
        let until = shared.claims.now() + lease.as_millis() as u64;
        let is_spare = lane == 1 && self.spare_until.is_some_and(|until| Instant::now() < until);
        let mut kinds = self.kinds.clone();
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
            self.kinds = kinds;
            self.note_pace(is_spare, begun.elapsed(), &jobs);
        }
        let count = jobs.len();
        self.enqueue(jobs, lane, until)?;
        Ok(count)
    }

    /// Where claims from the start are slow, most of them start behind what was claimed before. A job that
    /// comes before that is found a little later.
    fn note_pace(&mut self, is_spare: bool, took: Duration, jobs: &[Claimed]) {
        let usual = SLOW + Duration::from_micros(100) * jobs.len() as u32;
        if !is_spare {
            let pause = (took * SLOW_PART).min(self.shared.options.look_every());
            self.spare_until = (took > usual).then(|| Instant::now() + pause);
        }
        for mark in &mut self.kinds {
            let own = jobs.iter().filter(|job| job.kind == mark.kind);
            if let Some(last) = own.map(Claimed::place).max() {
                mark.after = mark.after.max(last);
            }
        }
    }

    fn enqueue(&mut self, jobs: Vec<Claimed>, lane: u8, until: u64) -> Done<()> {
        let shared = &self.shared;
        let mut refused = Vec::new();
        for job in jobs {
            let claim = Claim {
                id: job.id,
                token: job.claim,
            };
            let Some(held) = shared.claims.take(claim, lane, until) else {
                let why = "its earlier run has not ended";
                refused.push(Release::new(claim, STILL_RUNNING, why));
                continue;
            };
            let run = JobRun::new(job, held, shared.clone());
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

    /// A window that was used up at once was too small; one that lasted was too large: what is
    /// claimed here nobody else can run.
    fn adapt(&mut self, full: bool) {
        if let Some(filled) = self.filled.take() {
            if filled.elapsed() < Duration::from_millis(100) {
                self.window = (self.window * 2).min(MAX_WINDOW);
            } else if filled.elapsed() > Duration::from_secs(1) {
                self.window = (self.window / 2).max(self.shared.options.workers);
            }
        }
        self.filled = full.then(Instant::now);
        // Never 0: with one worker nobody would call, and the next job wait for the next look.
        self.shared.low.store(self.window.div_ceil(2), SeqCst);
    }
}
