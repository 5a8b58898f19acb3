//! The operations on jobs in a database.

pub(crate) mod addition;
mod availability;
pub(crate) mod completion;
pub(crate) mod idempotency;
pub(crate) mod lists;
pub(crate) mod logs;
pub(crate) mod sql;
pub(crate) mod work;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::jobs::clock::boot_id;
use crate::jobs::database::{Database, DatabaseError, Dialect, Duty, Work};
use crate::jobs::entry::{Entry, ReportRow};
use crate::jobs::job::Job;
use crate::jobs::storage::availability::Availability;
use crate::jobs::storage::idempotency::{IdempotencyKey, StoredResponse};
use crate::jobs::storage::sql::{RequestStatements, WorkStatements};

/// The statements and the database. Operations for requests are here, in `addition` and in `lists`; those for workers
/// are in `work`.
pub(crate) struct Storage {
    pub(crate) database: Box<dyn Database>,
    pub(crate) requests: RequestStatements,
    pub(crate) work: WorkStatements,
    /// For requests only; each worker duty has its own back-off.
    pub(crate) availability: Availability,
    /// Identifies this boot of the system, if the database uses the system's clock.
    pub(crate) boot: Option<String>,
    /// The largest log of a job.
    pub(crate) max_log_bytes: usize,
}

/// The user of a request. An admin sees all jobs, others see their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) admin: bool,
}

/// A claim, identified by its job and its fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Claim {
    #[serde(rename = "xid")]
    pub(crate) id: Uuid,
    #[serde(rename = "xclaim")]
    pub(crate) token: i64,
}

/// The numbers of a job's newest history entry and of the newest line of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) seq: u32,
    pub(crate) line: u64,
}

impl Version {
    /// Of a job that is deleted.
    pub(crate) const GONE: Version = Version {
        seq: u32::MAX,
        line: 0,
    };
}

/// The results of a write. A job in neither set belongs to another worker, or was cancelled.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) done: HashSet<Uuid>,
    /// Another transaction has locked the row; write it again later.
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

pub(crate) type Done<T> = Result<T, DatabaseError>;

impl Storage {
    pub(crate) fn new(database: Box<dyn Database>, max_log_bytes: usize) -> Storage {
        let dialect = database.dialect();
        let has_local_clock = dialect == Dialect::Sqlite;
        Storage {
            requests: RequestStatements::new(dialect),
            work: WorkStatements::new(dialect),
            availability: Availability::default(),
            boot: has_local_clock.then(boot_id).flatten(),
            database,
            max_log_bytes,
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

    /// Runs a request's transaction.
    pub(crate) fn transact(&self, work: &mut Work<'_>) -> Done<()> {
        self.noted(Duty::Request, self.database.transact(Duty::Request, work))
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.database.dialect()
    }

    fn noted<T>(&self, duty: Duty, done: Done<T>) -> Done<T> {
        if matches!(duty, Duty::Request | Duty::List) {
            self.availability.note(&done);
        }
        done
    }

    /// As [`write`](Self::write), for a request; also survives a power failure.
    fn write_durably(&self, sql: &str, document: &impl Serialize) -> Done<Vec<String>> {
        let rows = self.write(Duty::Request, sql, document)?;
        self.sync()?;
        Ok(rows)
    }

    /// Makes earlier writes survive a power failure. Claims and reports do not need this: if they are lost, they are
    /// done again.
    pub(crate) fn sync(&self) -> Done<()> {
        self.noted(Duty::Request, self.database.sync())
    }

    /// The response stored for this key within the last day.
    pub(crate) fn stored(&self, key: &IdempotencyKey) -> Done<Option<StoredResponse>> {
        let rows = self.read(Duty::Request, &self.requests.stored, key)?;
        Ok(parse(&rows)?.pop())
    }

    pub(crate) fn get(&self, id: Uuid) -> Done<Option<Job>> {
        let rows = self.read(Duty::Request, &self.requests.get, &json!({ "id": id }))?;
        Ok(parse(&rows)?.pop())
    }

    /// Returns the history, oldest entry first, with the reports after entry `after`. Empty if the job does not
    /// exist.
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

    /// Returns the version of each job that exists, with its newest line only if that is asked for.
    pub(crate) fn versions(&self, jobs: &HashMap<Uuid, bool>) -> Done<HashMap<Uuid, Version>> {
        let row =
            |(id, with_log): (&Uuid, &bool)| json!({ "xid": id, "xlog": u8::from(*with_log) });
        let document: Vec<_> = jobs.iter().map(row).collect();
        let rows = self.read(Duty::Watch, &self.requests.versions, &document)?;
        let version = |row: &String| {
            read(row, |row| {
                let mut words = row.split(' ');
                let id = words.next()?.parse().ok()?;
                let seq = words.next()?.parse().ok()?;
                let line = words.next()?.parse().ok()?;
                Some((id, Version { seq, line }))
            })
        };
        rows.iter().map(version).collect()
    }

    /// Returns the cancelled job; `None` if the job had already finished.
    pub(crate) fn cancel(&self, id: Uuid) -> Done<Option<Job>> {
        let rows = self.write_durably(&self.requests.cancel, &json!({ "id": id }))?;
        Ok(parse(&rows)?.pop())
    }

    /// Returns the job, pending again; `None` if it is neither failed nor cancelled.
    pub(crate) fn retry(&self, id: Uuid) -> Done<Option<Job>> {
        match self.write_durably(&self.requests.retry, &json!({ "id": id })) {
            Ok(rows) => Ok(parse(&rows)?.pop()),
            // Another job took the unique key at this moment.
            Err(DatabaseError::Duplicate(_)) => Ok(None),
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

/// Parses a row of one of this program's own statements.
pub(crate) fn read<T>(words: &str, parse: impl Fn(&str) -> Option<T>) -> Done<T> {
    parse(words)
        .ok_or_else(|| DatabaseError::Internal(format!("a row cannot be parsed: {words:.80}")))
}

pub(crate) fn ids(rows: &[String]) -> Done<Vec<Uuid>> {
    let lines = rows.iter().flat_map(|row| row.lines());
    let ids = lines.map(str::parse);
    Ok(ids.collect::<Result<_, _>>()?)
}

pub(crate) fn id_rows(ids: &[Uuid]) -> Vec<serde_json::Value> {
    ids.iter().map(|id| json!({ "xid": id })).collect()
}
