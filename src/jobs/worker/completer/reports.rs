//! Writes what attempts report while they run: begins, pauses and progress.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Completer, MAX_BATCH, REPORT_EVERY, due_at};
use crate::jobs::storage::Written;
use crate::jobs::storage::{Claim, Done, Storage};
use crate::jobs::worker::run::JobRun;

/// The most reports per write, because suspects wait meanwhile.
const MAX_REPORTS: usize = 500;

/// After a series of reports, the pause is this many times as long as the series took.
const REPORT_PAUSE: u32 = 4;
const MAX_REPORT_EVERY: Duration = Duration::from_secs(5);

/// The most runs whose lines are written at once.
const MAX_LOGS: usize = 64;

/// The pause after writes that took so long.
fn pause_after(took: Duration) -> Duration {
    (took * REPORT_PAUSE).clamp(REPORT_EVERY, MAX_REPORT_EVERY)
}

impl Completer {
    /// Writes begins of attempts that have run for a while, or of all attempts with reports if `all`.
    pub(super) fn write_begins(&mut self, all: bool) -> Done<()> {
        let shared = self.shared.clone();
        let reporting: HashSet<Claim> = match all {
            true => self.reported.iter().map(|run| run.held.claim).collect(),
            false => HashSet::new(),
        };
        self.begun.retain(|run| run.unwritten_begin().is_some());
        let now = Instant::now();
        let is_due = |run: &Arc<JobRun>| due_at(run) <= now || reporting.contains(&run.held.claim);
        let due: Vec<_> = self
            .begun
            .iter()
            .filter(|run| is_due(run))
            .cloned()
            .collect();
        for part in due.chunks(MAX_BATCH) {
            let begun = part.iter();
            let begun = begun.filter_map(|run| Some((run, run.unwritten_begin()?)));
            let (runs, begins): (Vec<_>, Vec<_>) = begun.unzip();
            if begins.is_empty() {
                continue;
            }
            let written = self.write(&begins, |begin| begin.claim, Storage::begin)?;
            for (run, begin) in runs.iter().zip(&begins) {
                if written.done.contains(&begin.claim.id) {
                    run.presence.is_written(begin.is_paused == 1);
                } else if !written.holds(begin.claim) {
                    shared.lose(begin.claim);
                }
            }
        }
        Ok(())
    }

    /// Writes which attempts have paused or run again: of suspects only, or of `all`.
    pub(super) fn write_pauses(&mut self, all: bool) -> Done<()> {
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.paused)
            .into_iter()
            .partition(|run| all || run.is_suspect());
        self.paused = later;
        let mut written = Ok(());
        for part in due.chunks(MAX_BATCH) {
            written = self.write_pauses_of(part);
            if written.is_err() {
                break;
            }
        }
        due.retain(|run| run.held.is_running() && run.presence.stays());
        self.paused.append(&mut due);
        self.has_suspects = self.paused.iter().any(|run| run.is_suspect());
        written
    }

    fn write_pauses_of(&mut self, runs: &[Arc<JobRun>]) -> Done<()> {
        let news = runs.iter();
        let news = news.filter_map(|run| Some((run, run.take_pause()?)));
        let (runs, pauses): (Vec<_>, Vec<_>) = news.unzip();
        if pauses.is_empty() {
            return Ok(());
        }
        let written = self.write(&pauses, |pause| pause.claim, Storage::pause)?;
        for (run, pause) in runs.iter().zip(&pauses) {
            if written.done.contains(&pause.claim.id) {
                run.presence.is_written(pause.is_paused == 1);
            }
        }
        Ok(())
    }

    /// Writes some of the due reports.
    pub(super) fn write_reports(&mut self) -> Done<()> {
        let begun = Instant::now();
        let count = self.reports_left.min(MAX_REPORTS);
        if count == 0 {
            return Ok(());
        }
        let reports = self.reported[..count].iter();
        let reports: Vec<_> = reports.filter_map(|run| run.report()).collect();
        let written = self.write(&reports, |report| report.claim, Storage::report)?;
        let reports: HashMap<_, _> = reports
            .into_iter()
            .map(|report| (report.claim, report))
            .collect();
        for run in self.reported.drain(..count).collect::<Vec<_>>() {
            let Some(report) = reports.get(&run.held.claim) else {
                continue;
            };
            let is_done = written.done.contains(&report.claim.id);
            if !written.holds(report.claim) {
                self.shared.lose(report.claim);
            } else if !is_done || run.has_newer_report(&report.latest) {
                self.reported.push(run);
            }
        }
        self.reports_left -= count;
        self.reports_took += begun.elapsed();
        if self.reports_left == 0 {
            let took = std::mem::take(&mut self.reports_took);
            self.reports_due = Instant::now() + pause_after(took);
        }
        Ok(())
    }

    /// Writes lines of logs.
    pub(super) fn write_logs(&mut self) -> Done<()> {
        let begun = Instant::now();
        let mut due = std::mem::take(&mut self.logged);
        let mut written = Ok(());
        while !due.is_empty() && written.is_ok() {
            let count = due.len().min(MAX_LOGS);
            written = self.write_logs_of(&due[..count]);
            if written.is_ok() {
                due.drain(..count);
            }
        }
        self.logged.append(&mut due);
        self.logs_due = Instant::now() + pause_after(begun.elapsed());
        written
    }

    fn write_logs_of(&mut self, runs: &[Arc<JobRun>]) -> Done<()> {
        let (mut logs, mut marks) = (Vec::new(), Vec::new());
        for run in runs {
            let (rows, mark) = run.log.next_rows();
            if !rows.is_empty() {
                logs.push((run.held.claim, rows));
                marks.push((run, mark));
            }
        }
        if logs.is_empty() {
            return Ok(());
        }
        let written = self.write(&logs, |(claim, _)| *claim, Storage::log)?;
        for (run, mark) in marks {
            let claim = run.held.claim;
            let is_done = written.done.contains(&claim.id);
            if !written.holds(claim) {
                self.shared.lose(claim);
            } else if !is_done || run.log.mark_written(mark) {
                self.logged.push(run.clone());
            }
        }
        Ok(())
    }

    /// Writes rows together. If the database refuses one of them, writes them one by one. The refused row counts as
    /// written, because nobody must wait for it.
    fn write<T>(
        &mut self,
        rows: &[T],
        claim: fn(&T) -> Claim,
        write: fn(&Storage, &[T]) -> Done<Written>,
    ) -> Done<Written> {
        let shared = self.shared.clone();
        let mut watched = |rows: &[T]| {
            let write = || write(&shared.storage, rows);
            self.backoff.watch(&shared.completing, write)
        };
        match watched(rows) {
            Err(error) if !error.is_outage() => {}
            written => return written,
        }
        let mut all = Written::default();
        for row in rows {
            match watched(std::slice::from_ref(row)) {
                Ok(written) => all.extend(written),
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => {
                    let id = claim(row).id;
                    log::error!("The database refuses a report of job {id}: {error}");
                    all.done.insert(id);
                }
            }
        }
        Ok(all)
    }
}
