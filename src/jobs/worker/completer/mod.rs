//! Writes begins, reports and results of attempts.
//!
//! Events that arrive while one batch is written form the next batch. A short attempt needs one write, because its
//! result includes its begin. During shutdown the completer writes what is left and releases unfinished claims.
//! [`reports`] writes what attempts report while they run.

mod reports;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use uuid::Uuid;

use crate::jobs::database::{DatabaseError, Dialect, Duty};
use crate::jobs::storage::completion::Completion;
use crate::jobs::storage::work::Release;
use crate::jobs::storage::{Claim, Done};
use crate::jobs::worker::backoff::Backoff;
use crate::jobs::worker::presence::WORK_AFTER;
use crate::jobs::worker::run::{Event, JobRun, Stop};
use crate::jobs::worker::shared::Shared;

/// The largest batch.
const MAX_BATCH: usize = 2_000;

/// How often reports and pauses are written, unless the database is slow.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How long locked rows are skipped after a write has met one.
const SKIP_LOCKED_FOR: Duration = Duration::from_secs(5);

/// The retry interval for the state of a suspect: its row was locked, or it has changed again since the last write.
const RETRY: Duration = Duration::from_millis(5);

/// The wait if there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

pub(super) struct Completer {
    shared: Arc<Shared>,
    /// Results to write.
    completions: Vec<Completion>,
    begun: Vec<Arc<JobRun>>,
    reported: Vec<Arc<JobRun>>,
    /// How many of `reported` still have to be written in this series.
    reports_left: usize,
    /// The time that this series has taken so far.
    reports_took: Duration,
    /// When the next series begins.
    reports_due: Instant,
    /// Runs with lines to write.
    logged: Vec<Arc<JobRun>>,
    logs_due: Instant,
    /// Runs whose executor has paused or runs again.
    paused: Vec<Arc<JobRun>>,
    pauses_due: Instant,
    /// `paused` contains suspects.
    has_suspects: bool,
    /// Until then, results are written without waiting for locked rows.
    skip_locked_until: Option<Instant>,
    stop: Option<Stop>,
    backoff: Backoff,
}

impl Completer {
    pub(super) fn new(shared: Arc<Shared>) -> Completer {
        Completer {
            shared,
            completions: Vec::new(),
            begun: Vec::new(),
            reported: Vec::new(),
            reports_left: 0,
            reports_took: Duration::ZERO,
            reports_due: Instant::now(),
            logged: Vec::new(),
            logs_due: Instant::now(),
            paused: Vec::new(),
            pauses_due: Instant::now(),
            has_suspects: false,
            skip_locked_until: None,
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
                    self.backoff.log_refusal(error);
                    self.backoff.pause()
                }
            };
            match self.stop {
                Some(stop) if round.is_ok() || Instant::now() + pause >= stop.deadline => {
                    return self.release_unfinished(stop.all_ended);
                }
                Some(_) => std::thread::sleep(pause),
                None => self.listen(events, pause),
            }
        }
    }

    /// Collects the events that arrive within `pause`. During an outage it keeps collecting for the whole pause.
    fn listen(&mut self, events: &Receiver<Event>, pause: Duration) {
        let mut until = Instant::now() + pause;
        let is_away = self.shared.completing.is_away();
        while let Ok(event) = events.recv_deadline(until) {
            let mut due = self.take(event);
            while self.completions.len() < MAX_BATCH
                && let Ok(event) = events.try_recv()
            {
                due = due.min(self.take(event));
            }
            if !is_away {
                until = until.min(due);
            }
            if self.stop.is_some() || Instant::now() >= until {
                return;
            }
        }
    }

    /// Records an event and returns when it must be written.
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
            Event::Logged(run) => {
                self.logged.push(run);
                self.logs_due
            }
            Event::Finished(mut completion, run) => {
                completion.log = run.and_then(|run| run.log.take());
                self.completions.push(completion);
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
            return RETRY;
        }
        let begin = self.begun.iter().map(due_at).min();
        let report = (!self.reported.is_empty()).then_some(self.reports_due);
        let pause = (!self.paused.is_empty()).then_some(self.pauses_due);
        let log = (!self.logged.is_empty()).then_some(self.logs_due);
        let next = [begin, report, log, pause].into_iter().flatten().min();
        next.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()))
    }

    fn round(&mut self) -> Done<()> {
        let completions = self.write_completions();
        // If the rows of all remaining results are locked, the other writes continue.
        if !matches!(completions, Ok(()) | Err(DatabaseError::Busy(_))) {
            return completions;
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
        if now >= self.logs_due || self.stop.is_some() {
            self.write_logs()?;
        }
        if self.backoff.is_on() {
            // After an outage nothing is claimed until a write succeeds. There may be nothing left to write, so try
            // an empty one.
            let shared = self.shared.clone();
            let finish = || shared.storage.finish(&[]);
            self.backoff.watch(&shared.completing, finish)?;
        }
        completions
    }

    fn write_completions(&mut self) -> Done<()> {
        while !self.completions.is_empty() {
            let count = self.completions.len().min(MAX_BATCH);
            if self
                .skip_locked_until
                .is_some_and(|until| Instant::now() < until)
            {
                self.write_unlocked(count)?;
                continue;
            }
            let (shared, completions) = (self.shared.clone(), &self.completions[..count]);
            let finish = || shared.storage.finish(completions);
            match self.backoff.watch(&shared.completing, finish) {
                Ok(written) => self.mark_written(count, &written),
                // One row is locked. The other results must not wait for it.
                Err(DatabaseError::Busy(_)) => {
                    self.skip_locked_until = Some(Instant::now() + SKIP_LOCKED_FOR);
                }
                Err(error) if !error.is_outage() => self.write_one_by_one(count)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_unlocked(&mut self, count: usize) -> Done<()> {
        let (shared, completions) = (self.shared.clone(), &self.completions[..count]);
        let finish = || shared.storage.finish_unlocked(completions);
        let (unlocked, written) = self.backoff.watch(&shared.completing, finish)?;
        let is_unlocked = |completion: &Completion| unlocked.contains(&completion.claim.id);
        self.completions[..count].sort_by_key(|completion| !is_unlocked(completion));
        let count = self.completions[..count]
            .iter()
            .filter(|completion| is_unlocked(completion))
            .count();
        self.mark_written(count, &written);
        if count == 0 {
            let why = "the rows of all results are locked";
            return Err(DatabaseError::Busy(why.to_owned()));
        }
        Ok(())
    }

    /// The database refuses one of the results. Writes the others without it, and this one without its texts.
    fn write_one_by_one(&mut self, count: usize) -> Done<()> {
        for _ in 0..count {
            let written = match self.write_completion(&self.completions[0].clone()) {
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => {
                    log::error!("A result cannot be written, so its job runs again: {error}");
                    Vec::new()
                }
                Ok(written) => written,
            };
            self.mark_written(1, &written);
        }
        Ok(())
    }

    fn write_completion(&mut self, completion: &Completion) -> Done<Vec<Uuid>> {
        let shared = self.shared.clone();
        let mut finish = |completion: &Completion| {
            let finish = || shared.storage.finish(std::slice::from_ref(completion));
            self.backoff.watch(&shared.completing, finish)
        };
        let id = completion.claim.id;
        let mut written = finish(completion);
        if let Err(error) = &written
            && !error.is_outage()
            && completion.log.is_some()
        {
            log::error!("The database refuses the result of job {id} with its log: {error}");
            written = finish(&completion.without_log());
        }
        match written {
            Err(error) if !error.is_outage() => {
                log::error!("The database refuses the result of job {id}: {error}");
                finish(&without_texts(completion, &error, shared.storage.dialect()))
            }
            written => written,
        }
    }

    /// The first `count` results are finished. Those in `written` were still claimed by this process.
    fn mark_written(&mut self, count: usize, written: &[Uuid]) {
        let completions: Vec<_> = self.completions.drain(..count).collect();
        self.shared.meter.finished(&completions, written);
        self.shared
            .written(completions.iter().map(|completion| completion.claim));
        // The result is visible before it is synced, so readers do not wait for the disk.
        if let Err(error) = self.shared.storage.sync() {
            self.backoff.log_refusal(&error);
        }
    }

    fn release_unfinished(&mut self, all_ended: bool) {
        let shared = self.shared.clone();
        let claims = shared.claims.to_release(all_ended);
        let release = |claim: &Claim| Release::new(*claim, Duration::ZERO, "server stopped");
        let releases: Vec<_> = claims.iter().map(release).collect();
        if releases.is_empty() {
            return;
        }
        match shared.storage.release(Duty::Complete, &releases) {
            Ok(released) => {
                shared.claims.written(claims);
                log::info!(
                    "Released {released} unfinished job{}",
                    if released == 1 { "" } else { "s" }
                );
            }
            Err(error) => log::warn!("Unfinished jobs cannot be released: {error}"),
        }
    }
}

/// When the begin must be written at the latest.
fn due_at(run: &Arc<JobRun>) -> Instant {
    let begun = run.begun().unwrap_or_else(Instant::now);
    match run.is_suspect() {
        true => begun,
        false => begun + WORK_AFTER,
    }
}

/// Replaces the executor's texts by an ASCII message, which every database can store.
fn without_texts(completion: &Completion, error: &DatabaseError, dialect: Dialect) -> Completion {
    let why = format!("the database refuses the texts of this attempt: {error}");
    let why: String = why.chars().filter(char::is_ascii).take(500).collect();
    completion.without_texts(&why, dialect)
}
