//! A job, as the database stores it and as clients see it.

use std::str::FromStr;

use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use crate::store::NewTask;

/// The status of a job. The database stores these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobStatus {
    Pending = 1,
    Processing = 2,
    Completed = 3,
    Failed = 4,
    Cancelled = 5,
}

impl JobStatus {
    pub(super) const ALL: [JobStatus; 5] = [
        JobStatus::Pending,
        JobStatus::Processing,
        JobStatus::Completed,
        JobStatus::Failed,
        JobStatus::Cancelled,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            JobStatus::Pending => "pending",
            JobStatus::Processing => "processing",
            JobStatus::Completed => "completed",
            JobStatus::Failed => "failed",
            JobStatus::Cancelled => "cancelled",
        }
    }

    pub(super) fn is_final(self) -> bool {
        self as u8 > JobStatus::Processing as u8
    }
}

impl<'de> Deserialize<'de> for JobStatus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<JobStatus, D::Error> {
        let number = u8::deserialize(from)?;
        let found = JobStatus::ALL.into_iter().find(|s| *s as u8 == number);
        found.ok_or_else(|| serde::de::Error::custom("not a job's status"))
    }
}

/// Milliseconds since 1970 on the database's clock.
pub(super) type DbMillis = i64;

/// A job's row.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Job {
    pub(super) id: Uuid,
    /// `None`: a system job.
    pub(super) user: Option<String>,
    pub(super) kind: String,
    pub(super) status: JobStatus,
    progress: u8,
    step: Option<String>,
    detail: Option<String>,
    /// JSON, exactly as the client sent it.
    pub(super) arguments: Option<String>,
    result: Option<String>,
    error: Option<String>,
    attempts: u32,
    max: u32,
    priority: i32,
    run: DbMillis,
    created: DbMillis,
    updated: DbMillis,
    started: Option<DbMillis>,
    completed: Option<DbMillis>,
    timeout: Option<u64>,
    /// The number of history entries. It also serves as a version.
    pub(super) seq: u32,
    /// The token of the newest claim.
    pub(super) claim: i64,
}

/// RFC 3339 with milliseconds.
pub(super) fn rfc3339(at: DbMillis) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .ok()
        .and_then(|at| at.format(format).ok())
        .unwrap_or_default()
}

fn raw(text: Option<&str>) -> Option<Box<RawValue>> {
    RawValue::from_string(text?.to_owned()).ok()
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut job = to.serialize_struct("Job", 19)?;
        job.serialize_field("id", &self.id)?;
        job.serialize_field("userId", &self.user)?;
        job.serialize_field("type", &self.kind)?;
        job.serialize_field("status", self.status.as_str())?;
        job.serialize_field("progress", &self.progress)?;
        job.serialize_field("currentStep", &self.step)?;
        job.serialize_field("currentStepDescription", &self.detail)?;
        job.serialize_field("meta", &raw(self.arguments.as_deref()))?;
        job.serialize_field("result", &raw(self.result.as_deref()))?;
        job.serialize_field("error", &raw(self.error.as_deref()))?;
        job.serialize_field("attempts", &self.attempts)?;
        job.serialize_field("maxAttempts", &self.max)?;
        job.serialize_field("priority", &self.priority)?;
        job.serialize_field("runAt", &rfc3339(self.run))?;
        job.serialize_field("createdAt", &rfc3339(self.created))?;
        job.serialize_field("updatedAt", &rfc3339(self.updated))?;
        job.serialize_field("startedAt", &self.started.map(rfc3339))?;
        job.serialize_field("completedAt", &self.completed.map(rfc3339))?;
        job.serialize_field("timeoutMs", &self.timeout)?;
        job.end()
    }
}

/// What a poll tells of a job.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusView<'a> {
    job_id: Uuid,
    status: &'static str,
    progress: u8,
    current_step: Option<&'a str>,
    current_step_description: Option<&'a str>,
    attempts: u32,
    max_attempts: u32,
    run_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    error: Option<Box<RawValue>>,
}

impl Job {
    pub(super) fn status_view(&self) -> StatusView<'_> {
        StatusView {
            job_id: self.id,
            status: self.status.as_str(),
            progress: self.progress,
            current_step: self.step.as_deref(),
            current_step_description: self.detail.as_deref(),
            attempts: self.attempts,
            max_attempts: self.max,
            run_at: rfc3339(self.run),
            started_at: self.started.map(rfc3339),
            completed_at: self.completed.map(rfc3339),
            error: raw(self.error.as_deref()),
        }
    }
}

/// A job to insert.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct NewJob {
    #[serde(rename = "xid")]
    pub(super) id: Uuid,
    #[serde(rename = "xuser", skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(rename = "xkind")]
    pub(super) kind: String,
    #[serde(rename = "xarguments", skip_serializing_if = "Option::is_none")]
    pub(super) arguments: Option<String>,
    #[serde(rename = "xtries")]
    pub(super) max_attempts: u32,
    #[serde(rename = "xpriority")]
    pub(super) priority: i32,
    /// The earliest time to run. If it is `None`, the job is due after `delay` milliseconds.
    #[serde(rename = "xrun", skip_serializing_if = "Option::is_none")]
    pub(super) run_at: Option<DbMillis>,
    #[serde(rename = "xdelay")]
    pub(super) delay: u64,
    #[serde(rename = "xkey", skip_serializing_if = "Option::is_none")]
    pub(super) unique_key: Option<String>,
    #[serde(rename = "xtimeout", skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<u64>,
}

impl NewJob {
    /// A job that its worker already runs.
    pub(super) fn adopted(user: &str, new: NewTask) -> NewJob {
        NewJob {
            id: Uuid::now_v7(),
            user: Some(user.to_owned()),
            kind: new.kind.to_string(),
            arguments: new.metadata.map(|json| json.get().to_owned()),
            max_attempts: 1,
            priority: 0,
            run_at: None,
            delay: 0,
            unique_key: None,
            timeout: None,
        }
    }
}

/// The database's response for an inserted job.
pub(super) struct Added {
    pub(super) id: Uuid,
    created: DbMillis,
    run: DbMillis,
}

impl Added {
    /// Parses `ID CREATED RUN`.
    pub(super) fn parse(row: &str) -> Option<Added> {
        let mut words = row.split(' ');
        Some(Added {
            id: next(&mut words)?,
            created: next(&mut words)?,
            run: next(&mut words)?,
        })
    }
}

fn next<'a, T: FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    words.next()?.parse().ok()
}

/// A job's position in the order of due jobs of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Place {
    #[serde(rename = "xrank")]
    pub(super) rank: i64,
    #[serde(rename = "xrun")]
    pub(super) run: i64,
    #[serde(rename = "xid")]
    pub(super) id: Uuid,
}

impl Place {
    /// Before every job.
    pub(super) const START: Place = Place {
        rank: i64::MIN,
        run: i64::MIN,
        id: Uuid::nil(),
    };
}

/// The newest progress of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Progress {
    #[serde(rename = "xprogress")]
    pub(super) progress: u8,
    #[serde(rename = "xstep", skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<String>,
    #[serde(rename = "xdetail", skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
}

/// A claimed job, with the columns that a worker needs.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) kind: String,
    /// `None`: a system job.
    pub(super) user: Option<String>,
    /// JSON, exactly as the client sent it.
    pub(super) arguments: Option<String>,
    /// 1 for a job that never lost its worker, plus 1 for each time that it did.
    pub(super) lane: u8,
    pub(super) attempts: u32,
    /// Attempts that ended because the worker was lost.
    pub(super) losses: u32,
    pub(super) max: u32,
    pub(super) timeout: Option<u64>,
    /// The fencing token.
    pub(super) claim: i64,
    /// The time from when the job was due to this claim, in milliseconds.
    pub(super) waited: i64,
    priority: i32,
    run: DbMillis,
}

impl Claimed {
    /// The first line has the numbers in the statement's order, then the type as a JSON string. The user, as a JSON
    /// string or empty, and the arguments follow on lines of their own.
    pub(super) fn parse(row: &str) -> Option<Claimed> {
        let mut lines = row.splitn(3, '\n');
        let (line, user) = (lines.next()?, lines.next()?);
        let user = match user.trim_end() {
            "" => None,
            json => Some(serde_json::from_str(json).ok()?),
        };
        let mut words = line.splitn(11, ' ');
        let words = &mut words;
        Some(Claimed {
            id: next(words)?,
            claim: next(words)?,
            lane: next(words)?,
            attempts: next(words)?,
            losses: next(words)?,
            max: next(words)?,
            // -1 means none.
            timeout: u64::try_from(next::<i64>(words)?).ok(),
            waited: next(words)?,
            priority: next(words)?,
            run: next(words)?,
            kind: serde_json::from_str(words.next()?).ok()?,
            user,
            arguments: lines.next().map(str::to_owned),
        })
    }

    /// The order of jobs: by priority, then by due time and id.
    pub(super) fn place(&self) -> Place {
        Place {
            rank: -i64::from(self.priority),
            run: self.run,
            id: self.id,
        }
    }
}

impl Job {
    /// The job right after its insertion.
    pub(super) fn added(new: &NewJob, row: &Added) -> Job {
        Job {
            id: new.id,
            user: new.user.clone(),
            kind: new.kind.clone(),
            status: JobStatus::Pending,
            progress: 0,
            step: None,
            detail: None,
            arguments: new.arguments.clone(),
            result: None,
            error: None,
            attempts: 0,
            max: new.max_attempts,
            priority: new.priority,
            run: row.run,
            created: row.created,
            updated: row.created,
            started: None,
            completed: None,
            timeout: new.timeout,
            seq: 1,
            claim: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_row_is_read_whatever_its_type_and_arguments_are() {
        let id = Uuid::from_u128(7);
        for kind in ["dummy", "of two words", "a \"quoted\"\none"] {
            for arguments in [None, Some("{\n  \"a\": \"b c\"\n}"), Some("")] {
                let quoted = serde_json::json!(kind);
                let tail = arguments.map_or(String::new(), |text| format!(" \n{text}"));
                let row = format!("{id} 5 2 1 0 3 -1 -40 -9 1700000000000 {quoted} \n");
                let job = Claimed::parse(&format!("{row}{tail}")).expect("it is whole");
                assert_eq!(job.user, None);
                let job = Claimed::parse(&format!("{row}\"al\\nice\"{tail}")).expect("it is whole");
                assert_eq!(job.user.as_deref(), Some("al\nice"));
                assert_eq!(
                    (job.kind.as_str(), job.arguments.as_deref()),
                    (kind, arguments)
                );
                assert_eq!((job.id, job.claim, job.lane, job.attempts), (id, 5, 2, 1));
                assert_eq!(
                    (job.losses, job.max, job.timeout, job.waited),
                    (0, 3, None, -40)
                );
                assert_eq!((job.priority, job.run), (-9, 1_700_000_000_000));
            }
        }
        assert!(Claimed::parse(&format!("{id} 5 2 -1 0 3 -1 0 0 0 \"dummy\" \n")).is_none());
    }
}
