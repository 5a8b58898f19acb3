//! What can be done with jobs in a database.

pub(crate) mod addition;
mod availability;
pub(crate) mod idempotency;
pub(crate) mod lists;
pub(crate) mod sql;
pub(crate) mod work;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::jobs::clock::boot_id;
use crate::jobs::database::{Database, DatabaseError, Dialect, Duty, Work};
use crate::jobs::job::{Entry, Job, ReportRow};
use crate::jobs::storage::availability::Availability;
use crate::jobs::storage::idempotency::{IdempotencyKey, StoredResponse};
use crate::jobs::storage::sql::{RequestStatements, WorkStatements};

/// The queue's tables, and their statements. What requests ask of it is here and in `addition` and `lists`, what
/// workers ask in `work`.
pub(crate) struct Storage {
    pub(crate) database: Box<dyn Database>,
    pub(crate) requests: RequestStatements,
    pub(crate) work: WorkStatements,
    /// Of requests; workers keep their own.
    pub(crate) availability: Availability,
    /// What tells this run of the system from any other, where the database has no clock of its own.
    pub(crate) boot: Option<String>,
}

/// Who asks: an admin sees every job, others their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) admin: bool,
}

/// A claim: which job, and its fencing token. No other claim of any job has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Claim {
    #[serde(rename = "xid")]
    pub(crate) id: Uuid,
    #[serde(rename = "xclaim")]
    pub(crate) token: i64,
}

pub(crate) type Done<T> = Result<T, DatabaseError>;

impl Storage {
    pub(crate) fn new(database: Box<dyn Database>) -> Storage {
        let dialect = database.dialect();
        let has_local_clock = dialect == Dialect::Sqlite;
        Storage {
            requests: RequestStatements::new(dialect),
            work: WorkStatements::new(dialect),
            availability: Availability::default(),
            boot: has_local_clock.then(boot_id).flatten(),
            database,
        }
    }

    pub(crate) fn write(
        &self,
        duty: Duty,
        sql: &str,
        document: &impl Serialize,
    ) -> Done<Vec<String>> {
        let document = serde_json::to_string(document)?;
        self.noted(duty, self.database.write(duty, sql, &document))
    }

    pub(crate) fn read(
        &self,
        duty: Duty,
        sql: &str,
        document: &impl Serialize,
    ) -> Done<Vec<String>> {
        let document = serde_json::to_string(document)?;
        self.noted(duty, self.database.read(duty, sql, &document))
    }

    /// What is done within one transaction, for a request.
    pub(crate) fn transact(&self, work: &mut Work<'_>) -> Done<()> {
        self.noted(Duty::Request, self.database.transact(Duty::Request, work))
    }

    fn noted<T>(&self, duty: Duty, done: Done<T>) -> Done<T> {
        if matches!(duty, Duty::Request | Duty::List) {
            self.availability.note(&done);
        }
        done
    }

    /// As [`write`](Self::write) for a request, and safe from a power failure.
    fn write_durably(&self, sql: &str, document: &impl Serialize) -> Done<Vec<String>> {
        let rows = self.write(Duty::Request, sql, document)?;
        self.sync()?;
        Ok(rows)
    }

    /// Returns when what was written before is safe from a power failure. What it takes back of claims
    /// and reports is done again, so that they need not wait for this.
    pub(crate) fn sync(&self) -> Done<()> {
        self.noted(Duty::Request, self.database.sync())
    }

    /// The first answer to this key of the last day, where there is one.
    pub(crate) fn stored(&self, key: &IdempotencyKey) -> Done<Option<StoredResponse>> {
        let rows = self.read(Duty::Request, &self.requests.stored, key)?;
        Ok(parse(&rows)?.pop())
    }

    pub(crate) fn get(&self, id: Uuid) -> Done<Option<Job>> {
        let rows = self.read(Duty::Request, &self.requests.get, &json!({ "id": id }))?;
        Ok(parse(&rows)?.pop())
    }

    /// Its history, oldest first; of the reports, those after entry `after`. Empty where there is
    /// no such job.
    pub(crate) fn history(&self, duty: Duty, id: Uuid, after: u32) -> Done<Vec<Entry>> {
        let document = json!({ "id": id, "after": after });
        let rows = self.read(duty, &self.requests.history, &document)?;
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
    pub(crate) fn versions(&self, jobs: &[Uuid]) -> Done<HashMap<Uuid, u32>> {
        let rows = self.read(Duty::Watch, &self.requests.versions, &id_rows(jobs))?;
        let versions = rows.iter().map(|row| {
            let (id, seq) = row.split_once(' ').unwrap_or_default();
            let seq = seq
                .parse()
                .map_err(|_| DatabaseError::Broken("a version is no number".to_owned()))?;
            Ok((id.parse()?, seq))
        });
        versions.collect()
    }

    /// The job as cancelled; `None` where it had ended.
    pub(crate) fn cancel(&self, id: Uuid) -> Done<Option<Job>> {
        let rows = self.write_durably(&self.requests.cancel, &json!({ "id": id }))?;
        Ok(parse(&rows)?.pop())
    }

    /// The job as pending again; `None` where it has not ended badly.
    pub(crate) fn retry(&self, id: Uuid) -> Done<Option<Job>> {
        match self.write_durably(&self.requests.retry, &json!({ "id": id })) {
            Ok(rows) => Ok(parse(&rows)?.pop()),
            // Another job took its unique key in this moment.
            Err(DatabaseError::Taken(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn notify(&self, message: &str) -> Done<()> {
        self.database.notify(Duty::Watch, message)
    }
}

pub(crate) fn parse<T: for<'de> Deserialize<'de>>(rows: &[String]) -> Done<Vec<T>> {
    let rows = rows.iter().map(|row| serde_json::from_str(row));
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Reads words, which this program's own statement has given.
pub(crate) fn read<T>(words: &str, parse: impl Fn(&str) -> Option<T>) -> Done<T> {
    parse(words)
        .ok_or_else(|| DatabaseError::Broken(format!("an answer cannot be read: {words:.80}")))
}

pub(crate) fn ids(rows: &[String]) -> Done<Vec<Uuid>> {
    let lines = rows.iter().flat_map(|row| row.lines());
    let ids = lines.map(str::parse);
    Ok(ids.collect::<Result<_, _>>()?)
}

pub(crate) fn id_rows(ids: &[Uuid]) -> Vec<serde_json::Value> {
    ids.iter().map(|id| json!({ "xid": id })).collect()
}
