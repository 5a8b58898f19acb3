//! Lists and counts, at a cost that does not grow with the jobs that have ended.
//!
//! The database keeps how many jobs there are of each user, type and status. They give the counts, and tell a list
//! where to look: for each type and status it takes a page from an index in the list's order, and merges.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::jobs::database::Duty;
use crate::jobs::job::{Job, JobStatus};
use crate::jobs::storage::{Done, Storage, User, parse};

/// Which jobs to list.
pub(crate) struct JobQuery {
    /// Empty: any.
    pub(crate) statuses: Vec<JobStatus>,
    pub(crate) kind: Option<String>,
    pub(crate) cursor: Option<Uuid>,
    pub(crate) limit: usize,
}

/// So many jobs of one type and status; pending and processing are one.
#[derive(Deserialize)]
struct Count {
    kind: String,
    status: u8,
    jobs: u64,
}

/// What the counts call a job that has not ended.
const LIVE: u8 = JobStatus::Pending as u8;

impl JobQuery {
    fn wants(&self, status: JobStatus) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&status)
    }
}

impl Storage {
    /// A page, newest first, one more than its limit where there are more; and how many there
    /// are in all.
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

    /// How many jobs have each status.
    pub(crate) fn stats(&self, user: &User) -> Done<Vec<(JobStatus, u64)>> {
        // Before the counts: what begins or ends meanwhile is missed here, and not counted twice.
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

    /// The statement and the places where the jobs of a list can be.
    fn places(&self, user: &User, query: &JobQuery, counts: &[Count]) -> Done<(&String, Value)> {
        // Each status of every type: a job may take its next one between two statements.
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
        // What is claimed ahead is pending still.
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

    /// Whose jobs of which types have not ended.
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

    /// How many have begun and not ended: so few that they are counted.
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
        let sum = |is_meant: &dyn Fn(u8) -> bool| -> u64 {
            let meant = counts.iter().filter(|count| is_meant(count.status));
            meant.map(|count| count.jobs).sum()
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
    // No id is greater: so the cursor is always a bound of the index.
    json!({ "cursor": query.cursor.unwrap_or(Uuid::max()), "limit": query.limit + 1 })
}
