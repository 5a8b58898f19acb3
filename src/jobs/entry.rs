//! An entry of a job's trail.

use serde::Deserialize;
use uuid::Uuid;

use crate::jobs::job::{DbMillis, rfc3339};

#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) seq: u32,
    pub(super) at: String,
    pub(super) event: String,
    pub(super) attempt: u32,
    pub(super) progress: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

/// An entry as the event stream sends it.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntryOf<'a> {
    job_id: Uuid,
    #[serde(flatten)]
    entry: &'a Entry,
}

impl Entry {
    pub(super) fn of(&self, job_id: Uuid) -> EntryOf<'_> {
        EntryOf {
            job_id,
            entry: self,
        }
    }

    /// Whether this entry is the last one so far. If a failed attempt is retried, a `retried` entry follows in the
    /// same transaction.
    pub(super) fn is_end(&self) -> bool {
        matches!(&*self.event, "completed" | "failed" | "cancelled")
    }

    /// Parses a line of the trail: number, time, event, attempt, percent, and either a message as JSON or nothing.
    pub(super) fn parse(line: &str) -> Option<Entry> {
        let mut words = line.splitn(6, ' ');
        let mut next = || words.next();
        Some(Entry {
            seq: next()?.parse().ok()?,
            at: rfc3339(next()?.parse().ok()?),
            event: next()?.to_owned(),
            attempt: next()?.parse().ok()?,
            progress: next()?.parse().ok()?,
            step: None,
            message: next().and_then(|json| serde_json::from_str(json).ok()),
        })
    }
}

/// A progress report, as the database returns it.
#[derive(Deserialize)]
pub(super) struct ReportRow {
    seq: u32,
    at: DbMillis,
    attempt: u32,
    progress: u8,
    step: Option<String>,
    detail: Option<String>,
}

impl From<ReportRow> for Entry {
    fn from(row: ReportRow) -> Entry {
        Entry {
            seq: row.seq,
            at: rfc3339(row.at),
            event: "progress".to_owned(),
            attempt: row.attempt,
            progress: row.progress,
            step: row.step,
            message: row.detail,
        }
    }
}
