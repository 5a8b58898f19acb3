//! The operations of workers.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::jobs::clock::since_boot;
use crate::jobs::database::{DatabaseError, Dialect, Duty, Session};
use crate::jobs::job::{Claimed, JobStatus, NewJob, Place, Progress};
use crate::jobs::storage::addition::AddedJobs;
use crate::jobs::storage::completion::{Completion, document_of};
use crate::jobs::storage::sql::work as sql;
use crate::jobs::storage::{Claim, Done, Storage, Written, id_rows, ids, logs, parse, read};

/// A begin: the executor was called `age` milliseconds ago.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Begin {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(rename = "xage")]
    pub(crate) age: u64,
    /// 1: the executor has paused since then.
    #[serde(rename = "xpaused")]
    pub(crate) is_paused: u8,
}

/// Whether the executor of this claim is paused.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Pause {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(rename = "xpaused")]
    pub(crate) is_paused: u8,
}

/// The newest report of a claim.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reported {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(flatten)]
    pub(crate) latest: Progress,
}

/// A lease to extend.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Renewal {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    #[serde(rename = "xlease")]
    pub(crate) lease: u64,
    /// 1: the executor has finished, and its result waits to be written.
    #[serde(rename = "xdone")]
    pub(crate) is_done: u8,
}

/// A claim to release.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Release {
    #[serde(flatten)]
    pub(crate) claim: Claim,
    /// Milliseconds until the job may be claimed again.
    #[serde(rename = "xdelay")]
    pub(crate) delay: u64,
    /// JSON: the message in the history if the executor had been called.
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

/// A job whose worker was lost: pending again, or failed if it has lost too many workers.
#[derive(Deserialize)]
pub(crate) struct Rescued {
    pub(crate) kind: String,
    pub(crate) status: JobStatus,
}

pub(crate) struct ClaimQuery<'a> {
    /// 1, or more for jobs whose worker was lost.
    pub(crate) lane: u8,
    pub(crate) kinds: &'a [KindMark],
    pub(crate) count: usize,
    pub(crate) lease: Duration,
}

/// A type, and the position in the order of its due jobs after which a claim starts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KindMark {
    #[serde(rename = "xkind")]
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) after: Place,
}

impl Storage {
    /// Claims due jobs until their leases expire. Returns them in the order in which they must run.
    pub(crate) fn claim(&self, query: &ClaimQuery<'_>) -> Done<Vec<Claimed>> {
        let document = json!({
            "lane": query.lane, "kinds": query.kinds, "count": query.count, "lease": millis(query.lease),
        });
        let rows = self.write(Duty::Claim, &self.work.claim, &document)?;
        let readable = |row: &String| match read(row, Claimed::parse) {
            Ok(job) => Some(job),
            // Another program has written to the table. The other jobs can still be claimed.
            Err(error) => {
                log::error!("A claimed job cannot be read: {error}");
                None
            }
        };
        let mut jobs: Vec<Claimed> = rows.iter().filter_map(readable).collect();
        // Databases do not return updated rows in order.
        jobs.sort_by_key(Claimed::place);
        Ok(jobs)
    }

    /// Adds a job that its worker already runs. Until its lease expires nobody else may have it, and afterwards it fails.
    pub(crate) fn adopt(&self, new: &NewJob, lease: Duration) -> Done<(AddedJobs, Claimed)> {
        let document = json!({ "id": new.id, "lease": millis(lease) }).to_string();
        let mut adopted = None;
        self.transact(&mut |session| {
            let added = self.insert_in(session, new)?;
            let rows = session.run(&self.work.adopt, &document)?;
            let job = read(rows.first().map_or("", |row| row), Claimed::parse)?;
            let begin = Begin {
                claim: Claim {
                    id: job.id,
                    token: job.claim,
                },
                age: 0,
                is_paused: 0,
            };
            session.run(&self.work.begin, &serde_json::to_string(&[begin])?)?;
            adopted = Some((added, job));
            Ok(())
        })?;
        self.sync()?;
        let lost =
            || DatabaseError::Internal("the database did not return an adopted job".to_owned());
        adopted.ok_or_else(lost)
    }

    /// Makes delayed jobs ready if they are due.
    pub(crate) fn promote(&self) -> Done<()> {
        self.write(Duty::Claim, &self.work.promote, &()).map(drop)
    }

    /// Returns the time until the next delayed job is due.
    pub(crate) fn next_run(&self) -> Done<Option<Duration>> {
        let rows = self.read(Duty::Claim, &self.work.next_run, &())?;
        let wait = rows.first().and_then(|ms| ms.parse::<i64>().ok());
        Ok(wait.map(|ms| Duration::from_millis(ms.max(0) as u64)))
    }

    /// Writes that attempts have begun.
    pub(crate) fn begin(&self, begins: &[Begin]) -> Done<Written> {
        let rows = self.write(Duty::Complete, &self.work.begin, &begins)?;
        self.written(&rows, begins.iter().map(|begin| begin.claim))
    }

    /// Writes which executors have paused or run again.
    pub(crate) fn pause(&self, pauses: &[Pause]) -> Done<Written> {
        let rows = self.write(Duty::Complete, &self.work.pause, &pauses)?;
        self.written(&rows, pauses.iter().map(|pause| pause.claim))
    }

    /// Writes progress reports to the jobs and to their history.
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

    /// `rows` were written. Of the other claims, finds those that are still valid.
    pub(super) fn written(
        &self,
        rows: &[String],
        claims: impl Iterator<Item = Claim>,
    ) -> Done<Written> {
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

    /// Writes completions and returns the jobs whose claims were valid. Call [`sync`](Self::sync) to make them
    /// durable.
    pub(crate) fn finish(&self, completions: &[Completion]) -> Done<Vec<Uuid>> {
        let document = document_of(completions.iter(), self.database.dialect());
        if completions
            .iter()
            .all(|completion| completion.log.is_none())
        {
            let rows = self
                .database
                .write(Duty::Complete, &self.work.finish, &document)?;
            return ids(&rows);
        }
        let mut written = Vec::new();
        self.database.transact(Duty::Complete, &mut |session| {
            written = self.finish_in(session, completions, &document)?;
            Ok(())
        })?;
        Ok(written)
    }

    /// Finishes attempts, and adds what is left of the logs of those whose claims were valid.
    fn finish_in(
        &self,
        session: &mut dyn Session,
        completions: &[Completion],
        document: &str,
    ) -> Done<Vec<Uuid>> {
        let written = ids(&session.run(&self.work.finish, document)?)?;
        let logged = completions.iter().filter_map(|completion| {
            let log = completion.log.as_ref()?;
            written.contains(&completion.claim.id).then_some(log)
        });
        let rows: Vec<_> = logged.flat_map(|log| &log.rows).collect();
        logs::insert(self, session, &rows, self.max_log_bytes)?;
        Ok(written)
    }

    /// As [`finish`](Self::finish), but skips locked rows. Also returns the jobs whose rows were not locked; the
    /// others must be written again later.
    pub(crate) fn finish_unlocked(
        &self,
        completions: &[Completion],
    ) -> Done<(HashSet<Uuid>, Vec<Uuid>)> {
        let claims: Vec<Claim> = completions
            .iter()
            .map(|completion| completion.claim)
            .collect();
        let document = serde_json::to_string(&claims)?;
        let dialect = self.database.dialect();
        let (mut free, mut written) = (HashSet::new(), Vec::new());
        self.database.transact(Duty::Complete, &mut |session| {
            free = ids(&session.run(&self.work.lock_free, &document)?)?
                .into_iter()
                .collect();
            let of_free = completions
                .iter()
                .filter(|completion| free.contains(&completion.claim.id));
            let document = document_of(of_free, dialect);
            written = self.finish_in(session, completions, &document)?;
            Ok(())
        })?;
        Ok((free, written))
    }

    /// Renews leases. If a row is locked, its claim stays valid and is renewed next time.
    pub(crate) fn renew(&self, renewals: &[Renewal]) -> Done<Written> {
        let document = serde_json::to_string(renewals)?;
        let rows = self.with_clock(Duty::Renew, Some((&self.work.renew, &document)))?;
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

    /// Releases claims. If the attempt had begun, the history says so, and the attempt does not count.
    pub(crate) fn release(&self, duty: Duty, claims: &[Release]) -> Done<usize> {
        let released = self.write(duty, &self.work.release, &claims)?.len();
        self.sync()?;
        Ok(released)
    }

    /// Returns claims whose lease has expired.
    pub(crate) fn lapsed(&self) -> Done<Vec<Claim>> {
        parse(&self.read(Duty::Maintain, &self.work.lapsed, &())?)
    }

    /// Requeues these jobs, because their workers were lost.
    pub(crate) fn rescue(&self, claims: &[Claim]) -> Done<Vec<Rescued>> {
        let document = serde_json::to_string(claims)?;
        parse(&self.with_clock(Duty::Maintain, Some((&self.work.rescue, &document)))?)
    }

    /// Deletes some of the jobs that finished longer ago than `age`, with their reports. Returns the number.
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

    /// Deletes some of the stored responses that have expired. Returns the number.
    pub(crate) fn purge_responses(&self) -> Done<usize> {
        let gone = self.write(Duty::Maintain, &self.work.purge_responses, &())?;
        Ok(gone.len())
    }

    /// Folds the latest changes into the counts. Returns the number of changes.
    pub(crate) fn fold_counts(&self) -> Done<usize> {
        if self.database.dialect() == Dialect::Sqlite {
            return Ok(0);
        }
        let rows = self.database.write(Duty::Maintain, sql::FOLD, "")?;
        Ok(rows.first().and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    /// If the database uses the system's clock and somebody has set it, moves leases and delays by the same amount.
    pub(crate) fn follow_clock(&self, duty: Duty) -> Done<()> {
        self.with_clock(duty, None).map(drop)
    }

    /// Runs [`follow_clock`](Self::follow_clock), then a statement that depends on the clock, in one transaction.
    fn with_clock(&self, duty: Duty, statement: Option<(&str, &str)>) -> Done<Vec<String>> {
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
                "The system clock was changed by {moved} ms; leases and delays were moved by the same amount"
            );
        }
        Ok(rows)
    }
}

/// Smaller differences are clock drift, not a setting.
const MIN_SHIFT: u64 = 500;

/// Returns by how many milliseconds leases and delays were moved.
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

/// The smallest id of a job younger than `age`. It only limits the search; the database's clock decides.
fn first_id(age: Duration) -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = now.unwrap_or_default().saturating_sub(age).as_millis();
    Uuid::from_u128(at << 80)
}
