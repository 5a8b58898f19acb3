//! Lists and counts. Their cost does not grow with the number of finished jobs.
//!
//! The database keeps counts of jobs for each user, type and status. A list takes the types from the counts, reads
//! one page from an index for each type and status, and merges the pages.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::jobs::database::Duty;
use crate::jobs::job::{Job, JobStatus};
use crate::jobs::storage::{Done, Storage, User, parse};

pub(crate) struct JobQuery {
    /// Empty: any status.
    pub(crate) statuses: Vec<JobStatus>,
    pub(crate) kind: Option<String>,
    pub(crate) cursor: Option<Uuid>,
    pub(crate) limit: usize,
}

/// The number of jobs of one type and status. Pending and processing jobs are counted together.
#[derive(Deserialize)]
struct Count {
    kind: String,
    status: u8,
    jobs: u64,
}

/// The status under which pending and processing jobs are counted.
const LIVE: u8 = JobStatus::Pending as u8;

impl JobQuery {
    fn wants(&self, status: JobStatus) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&status)
    }
}

impl Storage {
    /// Returns a page, newest first, and the total. If more jobs follow, the page has one more than its limit.
    pub(crate) fn list(&self, user: &User, query: &JobQuery) -> Done<(Vec<Job>, u64)> {
        let mut counts = self.counts(user)?;
        counts.retain(|count| query.kind.as_ref().is_none_or(|kind| *kind == count.kind));
        let is_all = user.admin && query.statuses.is_empty() && query.kind.is_none();
        let (sql, document) = match is_all {
            true => (&self.requests.list_all, page(query)),
            false => self.places(user, query, &counts)?,
        };
        let mut jobs: Vec<Job> = parse(&self.read(Duty::List, sql, &document)?)?;
        jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
        Ok((jobs, self.total(user, query, &counts)?))
    }

    /// Returns the user's newest job.
    pub(crate) fn newest(&self, user: &str) -> Done<Option<Job>> {
        let user = User {
            name: user.to_owned(),
            admin: false,
        };
        let query = JobQuery {
            statuses: Vec::new(),
            kind: None,
            cursor: None,
            limit: 1,
        };
        Ok(self.list(&user, &query)?.0.into_iter().next())
    }

    /// Returns the number of jobs for each status.
    pub(crate) fn stats(&self, user: &User) -> Done<Vec<(JobStatus, u64)>> {
        // Read this before the counts. A job that begins or finishes in between may be missed, but is not counted
        // twice.
        let processing = self.processing(user, None)?;
        let counts = self.counts(user)?;
        let sum = |status: JobStatus| -> u64 {
            let of_status = counts.iter().filter(|count| count.status == status as u8);
            of_status.map(|count| count.jobs).sum()
        };
        let live = sum(JobStatus::Pending);
        let processing = processing.min(live);
        let each = JobStatus::ALL.into_iter().map(|status| match status {
            JobStatus::Pending => (status, live - processing),
            JobStatus::Processing => (status, processing),
            ended => (ended, sum(ended)),
        });
        Ok(each.collect())
    }

    /// Returns the statement and its document, which names the types and statuses to read.
    fn places(&self, user: &User, query: &JobQuery, counts: &[Count]) -> Done<(&String, Value)> {
        // Every type is combined with every status, because a job may change its status between the two statements.
        let kinds: BTreeSet<_> = counts.iter().map(|count| &count.kind).collect();
        let ended = JobStatus::ALL.into_iter();
        let ended = ended.filter(|status| status.is_final() && query.wants(*status));
        let ended = ended.flat_map(|status| {
            let of_kind = kinds.iter();
            of_kind.map(move |kind| json!({ "xkind": kind, "xstatus": status as u8 }))
        });
        let ended: Vec<Value> = ended.collect();
        let pending = match (query.wants(JobStatus::Pending), user.admin) {
            (false, _) => Vec::new(),
            (true, false) => {
                let of_kind = kinds.iter();
                of_kind
                    .map(|kind| json!({ "xuser": user.name, "xkind": kind }))
                    .collect()
            }
            (true, true) => self.live(query)?,
        };
        let mut document = page(query);
        document["ended"] = ended.into();
        document["pending"] = pending.into();
        document["user"] = json!(user.name);
        document["kind"] = json!(query.kind);
        // Jobs that are claimed ahead still count as pending.
        let (least, most) = match (
            query.wants(JobStatus::Processing),
            query.wants(JobStatus::Pending),
        ) {
            (true, true) => (0, 1),
            (true, false) => (0, 0),
            (false, true) => (1, 1),
            (false, false) => (2, 2),
        };
        document["least_ahead"] = json!(least);
        document["most_ahead"] = json!(most);
        let sql = match user.admin {
            true => &self.requests.list_some,
            false => &self.requests.list_of_user,
        };
        Ok((sql, document))
    }

    /// The users and types of unfinished jobs.
    fn live(&self, query: &JobQuery) -> Done<Vec<Value>> {
        let document = json!({ "kind": query.kind });
        parse(&self.read(Duty::List, &self.requests.live, &document)?)
    }

    fn counts(&self, user: &User) -> Done<Vec<Count>> {
        let sql = match user.admin {
            true => &self.requests.counts,
            false => &self.requests.counts_of_user,
        };
        let document = json!({ "user": user.name });
        parse(&self.read(Duty::List, sql, &document)?)
    }

    /// Counts the running jobs. There are few, so the rows are counted.
    fn processing(&self, user: &User, kind: Option<&str>) -> Done<u64> {
        let sql = match user.admin {
            true => &self.requests.processing,
            false => &self.requests.processing_of_user,
        };
        let document = json!({ "user": user.name, "kind": kind });
        let rows = self.read(Duty::List, sql, &document)?;
        Ok(rows.first().and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    fn total(&self, user: &User, query: &JobQuery, counts: &[Count]) -> Done<u64> {
        let sum = |is_wanted: &dyn Fn(u8) -> bool| -> u64 {
            let matching = counts.iter().filter(|count| is_wanted(count.status));
            matching.map(|count| count.jobs).sum()
        };
        let wanted = |status: u8| query.statuses.iter().any(|other| *other as u8 == status);
        let ended = sum(&|status| status != LIVE && (query.statuses.is_empty() || wanted(status)));
        let live = sum(&|status| status == LIVE);
        let pending = query.wants(JobStatus::Pending);
        let live = match (pending, query.wants(JobStatus::Processing)) {
            (true, true) => live,
            (false, false) => 0,
            (is_pending, _) => {
                let processing = self.processing(user, query.kind.as_deref())?.min(live);
                if is_pending {
                    live - processing
                } else {
                    processing
                }
            }
        };
        Ok(ended + live)
    }
}

fn page(query: &JobQuery) -> Value {
    // Without a cursor, the greatest id serves as one, so that the index always has a bound.
    json!({ "cursor": query.cursor.unwrap_or(Uuid::max()), "limit": query.limit + 1 })
}
