//! Inserts jobs. If a unique key is taken, the insert returns the job that has it. The response of a request with an
//! idempotency key is stored in the same transaction as its jobs.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use crate::jobs::database::{DatabaseError, Duty, Session};
use crate::jobs::job::{Added, Job, NewJob};
use crate::jobs::storage::idempotency::{Idempotency, StoredResponse};
use crate::jobs::storage::{Done, Storage, read};

/// How often an insert is repeated because its key was released and taken again meanwhile.
const MAX_ROUNDS: usize = 100;

/// The jobs of one request.
pub(crate) struct InsertRequest {
    pub(crate) jobs: Vec<NewJob>,
    /// Set if the request has an idempotency key.
    pub(crate) idempotency: Option<Idempotency>,
}

/// Jobs, each with whether it is new.
pub(crate) type AddedJobs = Vec<(Job, bool)>;

pub(crate) enum InsertOutcome {
    Added(AddedJobs),
    /// The key has a stored response, so nothing was added.
    Replayed(StoredResponse),
}

impl Storage {
    /// Adds the jobs of one request, all or none. Call [`sync`](Self::sync) to make them durable.
    pub(crate) fn add(&self, request: &InsertRequest) -> Done<InsertOutcome> {
        for _ in 0..MAX_ROUNDS {
            if let Some(added) = self.add_all(&[request])? {
                return Ok(InsertOutcome::Added(added.into_iter().flatten().collect()));
            }
            if let Some(stored) = self.stored_before(request)? {
                return Ok(InsertOutcome::Replayed(stored));
            }
        }
        let text = "an idempotency key is taken and released too fast";
        Err(DatabaseError::Internal(text.to_owned()))
    }

    /// Adds the jobs of several requests in one commit and returns the jobs of each request in order. Returns `None`,
    /// and adds nothing, if one of the requests has a stored response.
    pub(crate) fn add_all(&self, requests: &[&InsertRequest]) -> Done<Option<Vec<AddedJobs>>> {
        let jobs: Vec<&NewJob> = requests.iter().flat_map(|request| &request.jobs).collect();
        let has_keys = jobs.iter().any(|new| new.unique_key.is_some());
        if !has_keys && requests.iter().all(|request| request.idempotency.is_none()) {
            let mut insertion = Insertion::default();
            insertion.take_new(&self.write(Duty::Request, &self.requests.insert, &jobs)?)?;
            if jobs.iter().all(|new| insertion.has(new)) {
                return insertion.in_order(requests).map(Some);
            }
        }
        let (mut added, mut has_stored) = (Vec::new(), false);
        let done = self.transact(&mut |session| {
            added = self.insert(session, &jobs)?.in_order(requests)?;
            has_stored = !self.store_responses(session, requests, &added)?;
            match has_stored {
                // The error rolls the inserts back.
                true => Err(DatabaseError::Internal(
                    "an idempotency key has a stored response".to_owned(),
                )),
                false => Ok(()),
            }
        });
        match has_stored {
            true => Ok(None),
            false => done.map(|()| Some(added)),
        }
    }

    /// Adds one job in a transaction of the caller.
    pub(super) fn insert_in(&self, session: &mut dyn Session, new: &NewJob) -> Done<AddedJobs> {
        let inserted = self.insert(session, &[new])?;
        inserted.of([new])
    }

    fn insert(&self, session: &mut dyn Session, jobs: &[&NewJob]) -> Done<Insertion> {
        let mut added = Insertion::default();
        let mut missing = jobs.to_vec();
        // Inserts of the same keys wait for each other. One common order avoids deadlocks.
        missing.sort_by_key(|new| (&new.unique_key, &new.user));
        for _ in 0..MAX_ROUNDS {
            let document = serde_json::to_string(&missing)?;
            added.take_new(&session.run(&self.requests.insert, &document)?)?;
            missing.retain(|new| !added.has(new));
            if !missing.is_empty() {
                let document = serde_json::to_string(&missing)?;
                // An earlier commit may have added these jobs although its response was lost.
                added.take_new(&session.run(&self.requests.own, &document)?)?;
                // The job that has the key may finish before it is looked up. The key is then free, so insert again.
                added.take_existing(&session.run(&self.requests.by_unique_key, &document)?)?;
                missing.retain(|new| !added.has(new));
            }
            if missing.is_empty() {
                return Ok(added);
            }
        }
        Err(DatabaseError::Internal(
            "a unique key is taken and released too fast".to_owned(),
        ))
    }

    /// Returns false if one of the keys already has a stored response.
    fn store_responses(
        &self,
        session: &mut dyn Session,
        requests: &[&InsertRequest],
        added: &[AddedJobs],
    ) -> Done<bool> {
        let mut rows = Vec::new();
        for (request, added) in requests.iter().zip(added) {
            if let Some(idempotency) = &request.idempotency
                && let Some(response) = (idempotency.response)(added)
            {
                let key = &idempotency.key;
                rows.push(json!({
                    "xuser": key.user, "xkey": key.key, "xfingerprint": key.fingerprint,
                    "xstatus": response.status, "xlocation": response.location, "xbody": response.body,
                }));
            }
        }
        if rows.is_empty() {
            return Ok(true);
        }
        // One common order avoids deadlocks, as for unique keys.
        rows.sort_by_cached_key(|row| (row["xuser"].to_string(), row["xkey"].to_string()));
        let kept = session.run(
            &self.requests.store_response,
            &serde_json::to_string(&rows)?,
        )?;
        Ok(kept.len() == rows.len())
    }

    fn stored_before(&self, request: &InsertRequest) -> Done<Option<StoredResponse>> {
        let idempotency = request.idempotency.as_ref();
        let before = idempotency.map(|it| self.stored(&it.key)).transpose()?;
        Ok(before.flatten())
    }
}

/// The results of an insert.
#[derive(Default)]
struct Insertion {
    new: HashMap<Uuid, Added>,
    /// By the id of a rejected job: the existing job with the same unique key.
    existing: HashMap<Uuid, Job>,
}

impl Insertion {
    fn take_new(&mut self, rows: &[String]) -> Done<()> {
        for line in rows.iter().flat_map(|row| row.lines()) {
            let added = read(line, Added::parse)?;
            self.new.insert(added.id, added);
        }
        Ok(())
    }

    fn take_existing(&mut self, rows: &[String]) -> Done<()> {
        for row in rows {
            let (id, job) = row.split_once(' ').unwrap_or_default();
            self.existing
                .insert(id.parse()?, serde_json::from_str(job)?);
        }
        Ok(())
    }

    fn has(&self, new: &NewJob) -> bool {
        self.new.contains_key(&new.id) || self.existing.contains_key(&new.id)
    }

    /// Returns the jobs of each request.
    fn in_order(&self, requests: &[&InsertRequest]) -> Done<Vec<AddedJobs>> {
        let each = requests.iter();
        each.map(|request| self.of(&request.jobs)).collect()
    }

    fn of<'n>(&self, jobs: impl IntoIterator<Item = &'n NewJob>) -> Done<AddedJobs> {
        let one = |new: &NewJob| match (self.new.get(&new.id), self.existing.get(&new.id)) {
            (Some(row), _) => Ok((Job::added(new, row), true)),
            (None, Some(job)) => Ok((job.clone(), false)),
            (None, None) => Err(DatabaseError::Internal(
                "the database did not return an inserted job".to_owned(),
            )),
        };
        jobs.into_iter().map(one).collect()
    }
}
