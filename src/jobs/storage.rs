//! What can be done with jobs in a database.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::jobs::database::{Database, DatabaseError, Session};
use crate::jobs::job::{Claimed, Entry, Job, JobStatus, ReportRow};
use crate::jobs::receipts::{Receipt, RepeatKey};
use crate::jobs::sql::Statements;

/// The queue's table, and its statements.
pub(super) struct Storage {
    pub(super) database: Box<dyn Database>,
    pub(super) sql: Statements,
}

/// Who asks: an admin sees every job, others their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) admin: bool,
}

/// Which jobs to list.
pub(super) struct JobQuery {
    pub(super) statuses: Vec<JobStatus>,
    pub(super) kind: Option<String>,
    pub(super) cursor: Option<Uuid>,
    pub(super) limit: usize,
}

/// A claim that holds: which job, and its fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Claim {
    #[serde(rename = "xid")]
    pub(super) id: Uuid,
    #[serde(rename = "xclaim")]
    pub(super) token: i64,
}

/// The newest percent and step of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Standing {
    #[serde(rename = "xprogress")]
    pub(super) progress: u8,
    #[serde(rename = "xstep")]
    pub(super) step: Option<String>,
    #[serde(rename = "xdetail")]
    pub(super) detail: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finish {
    #[serde(flatten)]
    pub(super) claim: Claim,
    #[serde(flatten)]
    pub(super) standing: Standing,
    #[serde(rename = "xstatus")]
    pub(super) status: u8,
    #[serde(rename = "xresult")]
    pub(super) result: Option<String>,
    /// JSON: an object with a message.
    #[serde(rename = "xerror")]
    pub(super) error: Option<String>,
    /// JSON: the message alone.
    #[serde(rename = "xmessage")]
    pub(super) message: Option<String>,
    /// Milliseconds to the next attempt, where there is to be one.
    #[serde(rename = "xagain")]
    pub(super) again: Option<u64>,
    /// For the meter, as is the time from begin to end.
    #[serde(skip)]
    pub(super) kind: String,
    #[serde(skip)]
    pub(super) ran: Option<Duration>,
}

/// A job whose worker was lost: pending again, or failed after its last attempt.
#[derive(Deserialize)]
pub(super) struct Rescued {
    pub(super) kind: String,
    pub(super) status: JobStatus,
}

#[derive(Serialize)]
struct Reported<'a> {
    #[serde(flatten)]
    claim: Claim,
    #[serde(flatten)]
    standing: &'a Standing,
}

pub(super) type Done<T> = Result<T, DatabaseError>;

impl Storage {
    pub(super) fn new(database: Box<dyn Database>) -> Storage {
        let sql = Statements::new(database.dialect());
        Storage { database, sql }
    }

    pub(super) fn write(&self, sql: &str, document: &impl Serialize) -> Done<Vec<String>> {
        self.database.write(sql, &serde_json::to_string(document)?)
    }

    /// As [`write`](Self::write), and safe from a power failure.
    fn write_durably(&self, sql: &str, document: &impl Serialize) -> Done<Vec<String>> {
        let rows = self.write(sql, document)?;
        self.settle()?;
        Ok(rows)
    }

    /// Returns when what was written before is safe from a power failure. What it takes back of claims
    /// and reports is done again, so that they need not wait for this.
    pub(super) fn settle(&self) -> Done<()> {
        self.database.settle()
    }

    fn read(&self, sql: &str, document: &impl Serialize) -> Done<Vec<String>> {
        self.database.read(sql, &serde_json::to_string(document)?)
    }

    /// The first answer to this key of the last day, where there is one.
    pub(super) fn receipt(&self, key: &RepeatKey) -> Done<Option<Receipt>> {
        Ok(parse(&self.read(&self.sql.receipt, key)?)?.pop())
    }

    pub(super) fn get(&self, id: Uuid) -> Done<Option<Job>> {
        let rows = self.read(&self.sql.get, &json!({ "id": id }))?;
        Ok(parse(&rows)?.pop())
    }

    /// Its history, oldest first; of the reports, those after entry `after`. Empty where there is
    /// no such job.
    pub(super) fn history(&self, id: Uuid, after: u32) -> Done<Vec<Entry>> {
        let document = json!({ "id": id, "after": after });
        let rows = self.read(&self.sql.history, &document)?;
        let (reports, trail): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.starts_with('{'));
        let transitions = trail.iter().flat_map(|trail| trail.lines());
        let mut entries: Vec<Entry> = transitions.filter_map(Entry::parse).collect();
        for report in reports {
            entries.push(serde_json::from_str::<ReportRow>(report)?.into());
        }
        entries.sort_by_key(|entry| entry.seq);
        Ok(entries)
    }

    /// The newest entry of each one's history; nothing of those that are not there.
    pub(super) fn versions(&self, jobs: &[Uuid]) -> Done<HashMap<Uuid, u32>> {
        let rows: Vec<_> = jobs.iter().map(|id| json!({ "xid": id })).collect();
        let rows = self.read(&self.sql.versions, &rows)?;
        let versions = rows.iter().map(|row| {
            let (id, seq) = row.split_once(' ').unwrap_or_default();
            Ok((id.parse()?, seq.parse()?))
        });
        versions.collect()
    }

    /// A page, newest first, one more than its limit where there are more; and how many there
    /// are in all.
    pub(super) fn list(&self, user: &User, query: &JobQuery) -> Done<(Vec<Job>, usize)> {
        let statuses = (!query.statuses.is_empty()).then(|| {
            let numbers = query.statuses.iter().map(|s| (*s as u8).to_string());
            format!(",{},", numbers.collect::<Vec<_>>().join(","))
        });
        let document = json!({
            "admin": if user.admin { "yes" } else { "no" }, "user": user.name, "statuses": statuses,
            "kind": query.kind, "cursor": query.cursor, "limit": query.limit + 1,
        });
        let jobs = parse(&self.read(&self.sql.list, &document)?)?;
        let total = self.read(&self.sql.count, &document)?;
        let total = total.first().and_then(|total| total.parse().ok());
        Ok((jobs, total.unwrap_or(0)))
    }

    /// How many jobs have each status.
    pub(super) fn stats(&self, user: &User) -> Done<Vec<(JobStatus, u64)>> {
        #[derive(Deserialize)]
        struct Row {
            status: JobStatus,
            count: u64,
        }
        let document = json!({ "admin": if user.admin { "yes" } else { "no" }, "user": user.name });
        let rows: Vec<Row> = parse(&self.read(&self.sql.stats, &document)?)?;
        Ok(rows.iter().map(|row| (row.status, row.count)).collect())
    }

    /// The job as cancelled; `None` where it had ended.
    pub(super) fn cancel(&self, id: Uuid) -> Done<Option<Job>> {
        let rows = self.write_durably(&self.sql.cancel, &json!({ "id": id }))?;
        Ok(parse(&rows)?.pop())
    }

    /// The job as pending again; `None` where it has not ended badly.
    pub(super) fn retry(&self, id: Uuid) -> Done<Option<Job>> {
        match self.write_durably(&self.sql.retry, &json!({ "id": id })) {
            Ok(rows) => Ok(parse(&rows)?.pop()),
            // Another job took its unique key in this moment.
            Err(error) if error.is_taken() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes up to `count` jobs of these types that are due, for `lease` at most without a
    /// renewal.
    pub(super) fn claim(
        &self,
        kinds: &[String],
        count: usize,
        lease: Duration,
    ) -> Done<Vec<Claimed>> {
        let document = json!({
            "kinds": kinds, "count": count, "lease": lease.as_millis() as u64,
        });
        let mut jobs: Vec<Claimed> = parse(&self.write(&self.sql.claim, &document)?)?;
        // No database promises to give back in any order.
        jobs.sort_by_key(Claimed::rank);
        Ok(jobs)
    }

    /// Makes jobs ready whose time has come.
    pub(super) fn promote(&self) -> Done<()> {
        self.write(&self.sql.promote, &()).map(drop)
    }

    /// Takes back jobs whose worker was lost: each one's type, and as what it stands now.
    pub(super) fn rescue(&self) -> Done<Vec<Rescued>> {
        parse(&self.write(&self.sql.rescue, &())?)
    }

    /// How long until the next job that is not due yet.
    pub(super) fn next_run(&self) -> Done<Option<Duration>> {
        let rows = self.read(&self.sql.next_run, &())?;
        let wait = rows.first().and_then(|ms| ms.parse::<i64>().ok());
        Ok(wait.map(|ms| Duration::from_millis(ms.max(0) as u64)))
    }

    /// Prolongs claims; those that still hold.
    pub(super) fn renew(&self, claims: &[Claim], lease: Duration) -> Done<Vec<Uuid>> {
        let lease = lease.as_millis() as u64;
        let rows: Vec<_> = claims
            .iter()
            .map(|claim| json!({ "xid": claim.id, "xclaim": claim.token, "xlease": lease }))
            .collect();
        ids(self.write(&self.sql.renew, &rows)?)
    }

    /// Writes standings down; the jobs whose claims still hold.
    pub(super) fn report(&self, reports: &[(Claim, Standing)]) -> Done<Vec<Uuid>> {
        let rows: Vec<_> = reports
            .iter()
            .map(|(claim, standing)| Reported {
                claim: *claim,
                standing,
            })
            .collect();
        let document = serde_json::to_string(&rows)?;
        let mut holding = Vec::new();
        let mut work = |session: &mut dyn Session| {
            holding = session.run(&self.sql.report, &document)?;
            session.run(&self.sql.log_reports, &document)?;
            session.run(&self.sql.trim_reports, &document).map(drop)
        };
        self.database.transact(&mut work)?;
        ids(holding)
    }

    /// Writes ends down, to be [settled](Self::settle); the jobs whose claims still held.
    pub(super) fn finish(&self, ends: &[Finish]) -> Done<Vec<Uuid>> {
        ids(self.write(&self.sql.finish, &ends)?)
    }

    /// Gives claims back unused: the attempt does not count.
    pub(super) fn release(&self, claims: &[Claim]) -> Done<Vec<Uuid>> {
        ids(self.write_durably(&self.sql.release, &claims)?)
    }

    /// Deletes some of the jobs that ended longer ago than `age`; how many.
    pub(super) fn purge(&self, age: Duration) -> Done<usize> {
        let document = json!({ "before": first_id(age), "age": age.as_millis() as u64 });
        let gone = self.write(&self.sql.purge, &document)?;
        let rows: Vec<_> = gone.iter().map(|id| json!({ "xid": id })).collect();
        if !rows.is_empty() {
            self.write(&self.sql.purge_progress, &rows)?;
        }
        Ok(gone.len())
    }

    /// Deletes some of the receipts that are over; how many.
    pub(super) fn purge_receipts(&self) -> Done<usize> {
        Ok(self.write(&self.sql.purge_receipts, &())?.len())
    }

    pub(super) fn notify(&self, message: &str) -> Done<()> {
        self.database.notify(message)
    }
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(rows: &[String]) -> Done<Vec<T>> {
    let rows = rows.iter().map(|row| serde_json::from_str(row));
    Ok(rows.collect::<Result<_, _>>()?)
}

fn ids(rows: Vec<String>) -> Done<Vec<Uuid>> {
    let ids = rows.iter().map(|row| row.parse());
    Ok(ids.collect::<Result<_, _>>()?)
}

/// The first id that a job could have that is younger than `age`. Only a hint where to stop
/// looking: what counts is the database's clock.
fn first_id(age: Duration) -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = now.unwrap_or_default().saturating_sub(age).as_millis();
    Uuid::from_u128(at << 80)
}
