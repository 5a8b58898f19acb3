//! Writes down what attempts have come to: that they began, their reports, their ends.
//!
//! [`reports`] has what attempts say while they run. What comes while a batch is written is the next batch. An attempt that is over at once needs one write: its end tells
//! of its begin too. At the stop the completer writes what is left, and gives back the rest.

mod reports;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use uuid::Uuid;

use crate::jobs::database::{DatabaseError, Duty};
use crate::jobs::storage::work::{End, Release};
use crate::jobs::storage::{Claim, Done};
use crate::jobs::worker::Shared;
use crate::jobs::worker::backoff::Backoff;
use crate::jobs::worker::presence::WORK_AFTER;
use crate::jobs::worker::run::JobRun;

/// The most written at once.
const MAX_BATCH: usize = 2_000;

/// How often reports and pauses are written, where that is easy.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How long it is careful after it has met a row that somebody else holds.
const CAREFUL_FOR: Duration = Duration::from_secs(5);

/// How long a suspect waits whose row somebody holds, or which has paused or gone on since the last write.
const AGAIN: Duration = Duration::from_millis(5);

/// How long it waits where there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// What the completer hears.
pub(super) enum Event {
    /// Its executor was called.
    Begun(Arc<JobRun>),
    /// It pauses, or is at work again.
    Paused(Arc<JobRun>),
    /// It has a report that was not taken.
    Reported(Arc<JobRun>),
    Ended(End),
    /// Nothing more will come, and this is the time until when all is to be written.
    Stop(Stop),
}

#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// Whether no executor can still be at work.
    pub(super) all_ended: bool,
    pub(super) deadline: Instant,
}

pub(super) struct Completer {
    shared: Arc<Shared>,
    /// Not yet written.
    ends: Vec<End>,
    begun: Vec<Arc<JobRun>>,
    reported: Vec<Arc<JobRun>>,
    /// The first so many of those are being written, in parts.
    reports_left: usize,
    /// What the parts before have taken.
    reports_took: Duration,
    /// When the next ones are to be written.
    reports_due: Instant,
    /// Their executors pause, or are at work again.
    paused: Vec<Arc<JobRun>>,
    pauses_due: Instant,
    /// Suspects are among those.
    has_suspects: bool,
    /// Until when ends are written without waiting for rows that somebody holds.
    careful_until: Option<Instant>,
    stop: Option<Stop>,
    backoff: Backoff,
}

impl Completer {
    pub(super) fn new(shared: Arc<Shared>) -> Completer {
        Completer {
            shared,
            ends: Vec::new(),
            begun: Vec::new(),
            reported: Vec::new(),
            reports_left: 0,
            reports_took: Duration::ZERO,
            reports_due: Instant::now(),
            paused: Vec::new(),
            pauses_due: Instant::now(),
            has_suspects: false,
            careful_until: None,
            stop: None,
            backoff: Backoff::new("completer"),
        }
    }

    pub(super) fn run(mut self, events: &Receiver<Event>) {
        loop {
            let round = self.round();
            let pause = match &round {
                Ok(()) => self.until_due(),
                Err(error) => {
                    self.backoff.complain(error);
                    self.backoff.pause()
                }
            };
            match self.stop {
                Some(stop) if round.is_ok() || Instant::now() + pause >= stop.deadline => {
                    return self.give_back(stop.all_ended);
                }
                Some(_) => std::thread::sleep(pause),
                None => self.listen(events, pause),
            }
        }
    }

    /// Takes what comes within `pause`, and what is there besides. During an backoff it goes on listening.
    fn listen(&mut self, events: &Receiver<Event>, pause: Duration) {
        let mut end = Instant::now() + pause;
        let is_away = self.shared.completing.is_away();
        while let Ok(event) = events.recv_deadline(end) {
            let mut due = self.take(event);
            while self.ends.len() < MAX_BATCH
                && let Ok(event) = events.try_recv()
            {
                due = due.min(self.take(event));
            }
            if !is_away {
                end = end.min(due);
            }
            if self.stop.is_some() || Instant::now() >= end {
                return;
            }
        }
    }

    /// Notes what has happened; when it is to be written.
    fn take(&mut self, event: Event) -> Instant {
        let now = Instant::now();
        match event {
            Event::Begun(run) => {
                let due = due_at(&run);
                self.begun.push(run);
                due
            }
            Event::Paused(run) => {
                let is_suspect = run.is_suspect();
                self.has_suspects |= is_suspect;
                self.paused.push(run);
                match is_suspect {
                    true => now,
                    false => self.pauses_due,
                }
            }
            Event::Reported(run) => {
                self.reported.push(run);
                self.reports_due
            }
            Event::Ended(end) => {
                self.ends.push(end);
                now
            }
            Event::Stop(stop) => {
                self.stop = Some(stop);
                now
            }
        }
    }

    fn until_due(&self) -> Duration {
        if self.reports_left > 0 {
            return Duration::ZERO;
        }
        if self.has_suspects {
            return AGAIN;
        }
        let begin = self.begun.iter().map(due_at).min();
        let report = (!self.reported.is_empty()).then_some(self.reports_due);
        let pause = (!self.paused.is_empty()).then_some(self.pauses_due);
        let next = [begin, report, pause].into_iter().flatten().min();
        next.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()))
    }

    fn round(&mut self) -> Done<()> {
        let ends = self.write_ends();
        // Somebody holds the rows of all that is left: no reason for the rest to wait.
        if !matches!(ends, Ok(()) | Err(DatabaseError::Busy(_))) {
            return ends;
        }
        let now = Instant::now();
        if self.reports_left == 0 && now >= self.reports_due {
            self.reports_left = self.reported.len();
        }
        self.write_begins(self.reports_left > 0)?;
        if now >= self.pauses_due {
            self.write_pauses(true)?;
            self.pauses_due = now + REPORT_EVERY;
        } else if self.has_suspects {
            self.write_pauses(false)?;
        }
        self.write_reports()?;
        if self.backoff.is_on() {
            // What could not be written has become nobody's, and nothing is claimed before something gets through.
            let shared = self.shared.clone();
            let finish = || shared.storage.finish(&[]);
            self.backoff.watch(&shared.completing, finish)?;
        }
        ends
    }

    fn write_ends(&mut self) -> Done<()> {
        while !self.ends.is_empty() {
            let count = self.ends.len().min(MAX_BATCH);
            if self
                .careful_until
                .is_some_and(|until| Instant::now() < until)
            {
                self.write_free_ends(count)?;
                continue;
            }
            let (shared, ends) = (self.shared.clone(), &self.ends[..count]);
            let finish = || shared.storage.finish(ends);
            match self.backoff.watch(&shared.completing, finish) {
                Ok(written) => self.are_written(count, &written),
                // Somebody holds one of the rows: that is no reason for the others to wait.
                Err(DatabaseError::Busy(_)) => {
                    self.careful_until = Some(Instant::now() + CAREFUL_FOR);
                }
                Err(error) if !error.is_outage() => self.write_each_end(count)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_free_ends(&mut self, count: usize) -> Done<()> {
        let (shared, ends) = (self.shared.clone(), &self.ends[..count]);
        let finish = || shared.storage.finish_free(ends);
        let (free, written) = self.backoff.watch(&shared.completing, finish)?;
        let is_free = |end: &End| free.contains(&end.claim.id);
        self.ends[..count].sort_by_key(|end| !is_free(end));
        let count = self.ends[..count].iter().filter(|end| is_free(end)).count();
        self.are_written(count, &written);
        if count == 0 {
            let why = "somebody holds the rows of all that is to be written";
            return Err(DatabaseError::Busy(why.to_owned()));
        }
        Ok(())
    }

    /// One of the ends is refused for good: the others are written without it, and it without what is refused.
    fn write_each_end(&mut self, count: usize) -> Done<()> {
        for _ in 0..count {
            let written = match self.write_end(&self.ends[0].clone()) {
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => {
                    log::error!("An end cannot be written, and its job runs again: {error}");
                    Vec::new()
                }
                Ok(written) => written,
            };
            self.are_written(1, &written);
        }
        Ok(())
    }

    fn write_end(&mut self, end: &End) -> Done<Vec<Uuid>> {
        let shared = self.shared.clone();
        let mut finish = |end: &End| {
            let finish = || shared.storage.finish(std::slice::from_ref(end));
            self.backoff.watch(&shared.completing, finish)
        };
        match finish(end) {
            Err(error) if !error.is_outage() => {
                let id = end.claim.id;
                log::error!("The database refuses what job {id} ended with: {error}");
                finish(&without_texts(end, &error)?)
            }
            written => written,
        }
    }

    /// The first `count` ends are off the list: those of `written` were ours, the others nobody's any more.
    fn are_written(&mut self, count: usize, written: &[Uuid]) {
        let ends: Vec<_> = self.ends.drain(..count).collect();
        self.shared.meter.finished(&ends, written);
        self.shared.written(ends.iter().map(|end| end.claim));
        // Shown, then made safe: nobody waits for the disk to learn of an end.
        if let Err(error) = self.shared.storage.sync() {
            self.backoff.complain(&error);
        }
    }

    /// Gives back what has not been run to its end.
    fn give_back(&mut self, all_ended: bool) {
        let shared = self.shared.clone();
        let claims = shared.claims.to_release(all_ended);
        let release = |claim: &Claim| Release::new(*claim, Duration::ZERO, "server stopped");
        let releases: Vec<_> = claims.iter().map(release).collect();
        if releases.is_empty() {
            return;
        }
        match shared.storage.release(Duty::Complete, &releases) {
            Ok(given) => {
                shared.claims.written(claims);
                log::info!(
                    "Released {given} unfinished job{}",
                    if given == 1 { "" } else { "s" }
                );
            }
            Err(error) => log::warn!("Jobs cannot be given back: {error}"),
        }
    }
}

/// When its begin is to be written at the latest.
fn due_at(run: &Arc<JobRun>) -> Instant {
    let begun = run.begun().unwrap_or_else(Instant::now);
    match run.is_suspect() {
        true => begun,
        false => begun + WORK_AFTER,
    }
}

/// The end, with words that every database can hold in place of the executor's.
fn without_texts(end: &End, error: &DatabaseError) -> Done<End> {
    let why = format!("the database refuses what this attempt has to say: {error}");
    let why: String = why.chars().filter(char::is_ascii).take(500).collect();
    end.without_texts(&why)
}
