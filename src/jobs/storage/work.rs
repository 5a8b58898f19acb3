//! What workers ask of the database.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::jobs::clock::since_boot;
use crate::jobs::database::{DatabaseError, Dialect, Duty, Session};
use crate::jobs::job::{Claimed, JobStatus, Place};
use crate::jobs::storage::sql::work as sql;
use crate::jobs::storage::{Claim, Done, Storage, id_rows, ids, parse, read};

/// The newest percent and step of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Progress {
    #[serde(rename = "xprogress")]
    pub(crate) progress: u8,
    #[serde(rename = "xstep", skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    #[serde(rename = "xdetail", skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// The executor of this claim was called so many ms ago.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Begin {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(rename = "xage")]
    pub(crate) age: u64,
    /// It has returned since then, to be called again.
    #[serde(rename = "xpaused")]
    pub(crate) is_paused: u8,
}

/// Whether this claim's executor is on no thread, to be called again.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Pause {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(rename = "xpaused")]
    pub(crate) is_paused: u8,
}

/// The newest latest of this claim.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reported {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(flatten)]
    pub(crate) latest: Progress,
}

/// How an attempt ended: the row that is written of it.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionRow {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    /// Milliseconds since its executor was called.
    #[serde(rename = "xage")]
    pub(crate) age: u64,
    #[serde(flatten)]
    pub(crate) latest: Progress,
    #[serde(rename = "xstatus")]
    pub(crate) status: u8,
    #[serde(rename = "xresult", skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<String>,
    /// JSON: an object with a message.
    #[serde(rename = "xerror", skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// JSON: the message alone.
    #[serde(rename = "xmessage", skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// Milliseconds to the next attempt, where there is to be one.
    #[serde(rename = "xagain", skip_serializing_if = "Option::is_none")]
    pub(crate) again: Option<u64>,
}

/// An end that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct Completion {
    pub(crate) claim: Claim,
    /// A [`CompletionRow`], put into JSON by the thread that ran the attempt: a single one writes all of them.
    row: Box<RawValue>,
    /// For the meter, as is the time from begin to end.
    pub(crate) status: JobStatus,
    pub(crate) kind: String,
    pub(crate) ran: Duration,
}

impl Completion {
    pub(crate) fn new(
        row: &CompletionRow,
        kind: String,
        status: JobStatus,
        ran: Duration,
    ) -> Completion {
        Completion {
            claim: row.claim,
            row: to_raw_value(row).expect("numbers and texts are JSON"),
            status,
            kind,
            ran,
        }
    }

    /// The same as a failure, with words that every database can hold in place of the executor's.
    pub(crate) fn without_texts(&self, why: &str) -> Done<Completion> {
        let mut row: Map<String, Value> = serde_json::from_str(self.row.get())?;
        for column in ["xstep", "xdetail", "xresult"] {
            row.remove(column);
        }
        row.insert("xstatus".to_owned(), json!(JobStatus::Failed as u8));
        let error = json!({ "message": why }).to_string();
        row.insert("xerror".to_owned(), json!(error));
        row.insert("xmessage".to_owned(), json!(json!(why).to_string()));
        Ok(Completion {
            row: to_raw_value(&row)?,
            status: JobStatus::Failed,
            ..self.clone()
        })
    }
}

/// A claim to be prolonged.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Renewal {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(rename = "xlease")]
    pub(crate) lease: u64,
    /// 1: its executor has ended, and its end waits to be written.
    #[serde(rename = "xdone")]
    pub(crate) is_done: u8,
}

/// What became of rows that were to be written. A job that is in neither was taken from this worker.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) done: HashSet<Uuid>,
    /// Somebody else was writing to it: to be written the next time.
    pub(crate) locked: HashSet<Uuid>,
}

impl Written {
    pub(crate) fn extend(&mut self, more: Written) {
        self.done.extend(more.done);
        self.locked.extend(more.locked);
    }

    pub(crate) fn holds(&self, claim: Claim) -> bool {
        self.done.contains(&claim.id) || self.locked.contains(&claim.id)
    }
}

/// A claim to be given back.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Release {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    /// Milliseconds that nobody may claim the job for.
    #[serde(rename = "xdelay")]
    pub(crate) delay: u64,
    /// JSON: what the history tells where the executor was called.
    #[serde(rename = "xwhy")]
    why: String,
}

impl Release {
    pub(crate) fn new(claim: Claim, delay: Duration, why: &str) -> Release {
        Release {
            claim,
            delay: millis(delay),
            why: json!(why).to_string(),
        }
    }
}

/// A job whose worker was lost: pending again, or failed since it was lost too often.
#[derive(Deserialize)]
pub(crate) struct Rescued {
    pub(crate) kind: String,
    pub(crate) status: JobStatus,
}

/// What to claim.
pub(crate) struct ClaimQuery<'a> {
    /// How careful to be: 1, or more for jobs whose worker was lost.
    pub(crate) lane: u8,
    pub(crate) kinds: &'a [KindMark],
    pub(crate) count: usize,
    pub(crate) lease: Duration,
}

/// A type, and the place in the order of its due jobs that a claim looks behind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KindMark {
    #[serde(rename = "xkind")]
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) after: Place,
}

impl Storage {
    /// Takes due jobs, for their lease at most without a renewal, in the order in which they are to run.
    pub(crate) fn claim(&self, query: &ClaimQuery<'_>) -> Done<Vec<Claimed>> {
        let document = json!({
            "lane": query.lane, "kinds": query.kinds, "count": query.count, "lease": millis(query.lease),
        });
        let rows = self.write(Duty::Claim, &self.work.claim, &document)?;
        let readable = |row: &String| match read(row, Claimed::parse) {
            Ok(job) => Some(job),
            // Somebody else wrote into it. No reason to leave the others alone.
            Err(error) => {
                log::error!("A job cannot be claimed: {error}");
                None
            }
        };
        let mut jobs: Vec<Claimed> = rows.iter().filter_map(readable).collect();
        // No database promises to give back in any order.
        jobs.sort_by_key(Claimed::place);
        Ok(jobs)
    }

    /// Makes jobs ready whose time has come.
    pub(crate) fn promote(&self) -> Done<()> {
        self.write(Duty::Claim, &self.work.promote, &()).map(drop)
    }

    /// How long until the next job that is not due yet.
    pub(crate) fn next_run(&self) -> Done<Option<Duration>> {
        let rows = self.read(Duty::Claim, &self.work.next_run, &())?;
        let wait = rows.first().and_then(|ms| ms.parse::<i64>().ok());
        Ok(wait.map(|ms| Duration::from_millis(ms.max(0) as u64)))
    }

    /// Writes down that attempts have begun.
    pub(crate) fn begin(&self, begins: &[Begin]) -> Done<Written> {
        let rows = self.write(Duty::Complete, &self.work.begin, &begins)?;
        self.written(&rows, begins.iter().map(|begin| begin.claim))
    }

    /// Writes down who pauses, and who is at work again.
    pub(crate) fn pause(&self, pauses: &[Pause]) -> Done<Written> {
        let rows = self.write(Duty::Complete, &self.work.pause, &pauses)?;
        self.written(&rows, pauses.iter().map(|pause| pause.claim))
    }

    /// Writes standings down, and into the history.
    pub(crate) fn report(&self, reports: &[Reported]) -> Done<Written> {
        let document = serde_json::to_string(reports)?;
        let mut rows = Vec::new();
        self.database.transact(Duty::Complete, &mut |session| {
            rows = session.run(&self.work.report, &document)?;
            let done: HashSet<Uuid> = ids(&rows)?.into_iter().collect();
            let claims = reports.iter().map(|report| report.claim);
            let done: Vec<Claim> = claims.filter(|claim| done.contains(&claim.id)).collect();
            let document = serde_json::to_string(&done)?;
            session.run(&self.work.log_reports, &document)?;
            session.run(&self.work.trim_reports, &document).map(drop)
        })?;
        self.written(&rows, reports.iter().map(|report| report.claim))
    }

    /// `rows` are written. Of the others: do they hold?
    fn written(&self, rows: &[String], claims: impl Iterator<Item = Claim>) -> Done<Written> {
        let done: HashSet<Uuid> = ids(rows)?.into_iter().collect();
        let others: Vec<Claim> = claims.filter(|claim| !done.contains(&claim.id)).collect();
        let locked = match others.is_empty() {
            true => Vec::new(),
            false => ids(&self.read(Duty::Complete, &self.work.holding, &others)?)?,
        };
        Ok(Written {
            done,
            locked: locked.into_iter().collect(),
        })
    }

    /// Writes ends down, to be [settled](Self::sync); the jobs whose claims held.
    pub(crate) fn finish(&self, completions: &[Completion]) -> Done<Vec<Uuid>> {
        let rows: Vec<&RawValue> = completions
            .iter()
            .map(|completion| &*completion.row)
            .collect();
        ids(&self.write(Duty::Complete, &self.work.finish, &rows)?)
    }

    /// As [`finish`](Self::finish), but waits for no row that somebody else has locked. Also the jobs
    /// that it found free; the ends of the others are still to be written.
    pub(crate) fn finish_unlocked(
        &self,
        completions: &[Completion],
    ) -> Done<(HashSet<Uuid>, Vec<Uuid>)> {
        let claims: Vec<Claim> = completions
            .iter()
            .map(|completion| completion.claim)
            .collect();
        let document = serde_json::to_string(&claims)?;
        let (mut free, mut written) = (HashSet::new(), Vec::new());
        self.database.transact(Duty::Complete, &mut |session| {
            free = ids(&session.run(&self.work.free, &document)?)?
                .into_iter()
                .collect();
            let of_free = completions
                .iter()
                .filter(|completion| free.contains(&completion.claim.id));
            let rows: Vec<&RawValue> = of_free.map(|completion| &*completion.row).collect();
            let document = serde_json::to_string(&rows)?;
            written = ids(&session.run(&self.work.finish, &document)?)?;
            Ok(())
        })?;
        Ok((free, written))
    }

    /// Prolongs claims. One that somebody is writing to just now holds, and is prolonged next time.
    pub(crate) fn renew(&self, renewals: &[Renewal]) -> Done<Written> {
        let document = serde_json::to_string(renewals)?;
        let rows = self.in_true_time(Duty::Renew, Some((&self.work.renew, &document)))?;
        let done: HashSet<Uuid> = ids(&rows)?.into_iter().collect();
        let others = renewals.iter();
        let others: Vec<_> = others
            .filter(|renewal| !done.contains(&renewal.claim.id))
            .collect();
        let mut locked = HashSet::new();
        if !others.is_empty() {
            let rows = self.read(Duty::Renew, &self.work.holding, &others)?;
            locked.extend(ids(&rows)?);
        }
        Ok(Written { done, locked })
    }

    /// Gives claims back. What had begun is told, and does not count as an attempt.
    pub(crate) fn release(&self, duty: Duty, claims: &[Release]) -> Done<usize> {
        let released = self.write(duty, &self.work.release, &claims)?.len();
        self.sync()?;
        Ok(released)
    }

    /// Claims whose lease is over.
    pub(crate) fn lapsed(&self) -> Done<Vec<Claim>> {
        parse(&self.read(Duty::Maintain, &self.work.lapsed, &())?)
    }

    /// Takes these claims from their workers, which were lost.
    pub(crate) fn rescue(&self, claims: &[Claim]) -> Done<Vec<Rescued>> {
        let document = serde_json::to_string(claims)?;
        parse(&self.in_true_time(Duty::Maintain, Some((&self.work.rescue, &document)))?)
    }

    /// Deletes some of the jobs that ended longer ago than `age`, with their reports; how many.
    pub(crate) fn purge(&self, age: Duration) -> Done<usize> {
        let document = json!({ "before": first_id(age), "age": millis(age) }).to_string();
        let mut count = 0;
        self.database.transact(Duty::Maintain, &mut |session| {
            let gone = ids(&session.run(&self.work.purge, &document)?)?;
            count = gone.len();
            match gone.is_empty() {
                true => Ok(()),
                false => {
                    let rows = serde_json::to_string(&id_rows(&gone))?;
                    session.run(&self.work.purge_progress, &rows).map(drop)
                }
            }
        })?;
        Ok(count)
    }

    /// Deletes some of the idempotency that are over; how many.
    pub(crate) fn purge_responses(&self) -> Done<usize> {
        let gone = self.write(Duty::Maintain, &self.work.purge_receipts, &())?;
        Ok(gone.len())
    }

    /// Adds to the counts what has changed since the last time; how many changes there were.
    pub(crate) fn fold_counts(&self) -> Done<usize> {
        if self.database.dialect() == Dialect::Sqlite {
            return Ok(0);
        }
        let rows = self.database.write(Duty::Maintain, sql::FOLD, "")?;
        Ok(rows.first().and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    /// Where the clock that leases and delays are kept by is this system's own and somebody has set it, moves them
    /// with it.
    pub(crate) fn follow_clock(&self, duty: Duty) -> Done<()> {
        self.in_true_time(duty, None).map(drop)
    }

    /// Runs a statement that judges by the clock, after [`follow_clock`](Self::follow_clock) in one transaction.
    fn in_true_time(&self, duty: Duty, statement: Option<(&str, &str)>) -> Done<Vec<String>> {
        let Some(boot) = &self.boot else {
            let write = |(sql, document)| self.database.write(duty, sql, document);
            return statement.map_or(Ok(Vec::new()), write);
        };
        let (mut moved, mut rows) = (0, Vec::new());
        self.database.transact(duty, &mut |session| {
            moved = shift(session, boot)?;
            if let Some((sql, document)) = statement {
                rows = session.run(sql, document)?;
            }
            Ok(())
        })?;
        if moved != 0 {
            log::warn!(
                "The system's clock was set by {moved} ms; leases and delays were moved with it"
            );
        }
        Ok(rows)
    }
}

/// A clock that runs a little faster or slower is nobody's setting.
const MIN_SHIFT: u64 = 500;

/// By how many ms leases and delays were moved.
fn shift(session: &mut dyn Session, boot: &str) -> Result<i64, DatabaseError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ahead = now.unwrap_or_default().as_millis() as i64 - since_boot().as_millis() as i64;
    let kept = session.run(sql::CLOCK, "")?;
    let kept = kept.first().and_then(|row| {
        let (boot, ahead) = row.rsplit_once(' ')?;
        Some((boot.to_owned(), ahead.parse::<i64>().ok()?))
    });
    let of_this_boot = kept.filter(|(other, _)| other == boot);
    let moved = of_this_boot.map(|(_, before)| ahead - before);
    if moved.is_some_and(|moved| moved.unsigned_abs() < MIN_SHIFT) {
        return Ok(0);
    }
    if let Some(moved) = moved {
        let moved = moved.to_string();
        session.run(sql::SHIFT_LEASES, &moved)?;
        session.run(sql::SHIFT_DELAYS, &moved)?;
    }
    session.run(sql::FORGET_CLOCK, "")?;
    let kept = json!({ "boot": boot, "ahead": ahead }).to_string();
    session.run(sql::KEEP_CLOCK, &kept)?;
    Ok(moved.unwrap_or(0))
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// The first id that a job could have that is younger than `age`. Only a hint where to stop
/// looking: what counts is the database's clock.
fn first_id(age: Duration) -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = now.unwrap_or_default().saturating_sub(age).as_millis();
    Uuid::from_u128(at << 80)
}
