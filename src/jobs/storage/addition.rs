//! Adding jobs: each is new, or the one that has its unique key; a request with an idempotency key
//! adds its jobs together with the response that is stored for it.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use crate::jobs::database::{DatabaseError, Duty, Session};
use crate::jobs::job::{Added, Job, NewJob};
use crate::jobs::storage::idempotency::{Asked, StoredResponse};
use crate::jobs::storage::{Done, Storage, read};

/// How often a key may change hands while a job that wants it is added.
const MAX_ROUNDS: usize = 100;

/// What a request wants added.
pub(crate) struct InsertRequest {
    pub(crate) jobs: Vec<NewJob>,
    /// Where it has an idempotency key.
    pub(crate) asked: Option<Asked>,
}

/// Jobs, and whether each is new.
pub(crate) type AddedJobs = Vec<(Job, bool)>;

/// What became of it.
pub(crate) enum Outcome {
    Added(AddedJobs),
    /// It was answered before, and has added nothing.
    Repeated(StoredResponse),
}

impl Storage {
    /// Adds what one request wishes for, all or nothing, to be [settled](Self::sync).
    pub(crate) fn add(&self, wish: &InsertRequest) -> Done<Outcome> {
        for _ in 0..MAX_ROUNDS {
            if let Some(added) = self.add_all(&[wish])? {
                return Ok(Outcome::Added(added.into_iter().flatten().collect()));
            }
            if let Some(stored) = self.stored_before(wish)? {
                return Ok(Outcome::Repeated(stored));
            }
        }
        let text = "an idempotency key changes hands too fast";
        Err(DatabaseError::Broken(text.to_owned()))
    }

    /// The same for several in one commit: what each has got, in order. `None`, and nothing is added,
    /// where one of them was answered before.
    pub(crate) fn add_all(&self, wishes: &[&InsertRequest]) -> Done<Option<Vec<AddedJobs>>> {
        let jobs: Vec<&NewJob> = wishes.iter().flat_map(|wish| &wish.jobs).collect();
        let has_keys = jobs.iter().any(|new| new.unique_key.is_some());
        if !has_keys && wishes.iter().all(|wish| wish.asked.is_none()) {
            let mut addition = Addition::default();
            addition.take_new(&self.write(Duty::Request, &self.requests.insert, &jobs)?)?;
            if jobs.iter().all(|new| addition.has(new)) {
                return addition.in_order(wishes).map(Some);
            }
        }
        let (mut added, mut is_late) = (Vec::new(), false);
        let done = self.transact(&mut |session| {
            added = self.insert(session, &jobs)?.in_order(wishes)?;
            is_late = !self.keep_receipts(session, wishes, &added)?;
            match is_late {
                // What was added here goes with the transaction.
                true => Err(DatabaseError::Broken(
                    "an idempotency key was answered before".to_owned(),
                )),
                false => Ok(()),
            }
        });
        match is_late {
            true => Ok(None),
            false => done.map(|()| Some(added)),
        }
    }

    fn insert(&self, session: &mut dyn Session, jobs: &[&NewJob]) -> Done<Addition> {
        let mut added = Addition::default();
        let mut missing = jobs.to_vec();
        // Those who add the same keys wait for each other: in one order, never in a circle.
        missing.sort_by_key(|new| (&new.unique_key, &new.user));
        for _ in 0..MAX_ROUNDS {
            let document = serde_json::to_string(&missing)?;
            added.take_new(&session.run(&self.requests.insert, &document)?)?;
            missing.retain(|new| !added.has(new));
            if !missing.is_empty() {
                let document = serde_json::to_string(&missing)?;
                // Added already, by a commit whose answer was lost.
                added.take_new(&session.run(&self.requests.own, &document)?)?;
                // A key's holder may end before it is looked up; then the key is free again.
                added.take_held(&session.run(&self.requests.by_unique_key, &document)?)?;
                missing.retain(|new| !added.has(new));
            }
            if missing.is_empty() {
                return Ok(added);
            }
        }
        Err(DatabaseError::Broken(
            "a unique key changes hands too fast".to_owned(),
        ))
    }

    /// False if a response is stored for a key already.
    fn keep_receipts(
        &self,
        session: &mut dyn Session,
        wishes: &[&InsertRequest],
        added: &[AddedJobs],
    ) -> Done<bool> {
        let mut rows = Vec::new();
        for (wish, added) in wishes.iter().zip(added) {
            if let Some(asked) = &wish.asked
                && let Some(answer) = (asked.answer)(added)
            {
                let key = &asked.key;
                rows.push(json!({
                    "xuser": key.user, "xkey": key.key, "xfingerprint": key.fingerprint,
                    "xstatus": answer.status, "xlocation": answer.location, "xbody": answer.body,
                }));
            }
        }
        if rows.is_empty() {
            return Ok(true);
        }
        // In one order, as unique keys.
        rows.sort_by_cached_key(|row| (row["xuser"].to_string(), row["xkey"].to_string()));
        let kept = session.run(&self.requests.keep_receipt, &serde_json::to_string(&rows)?)?;
        Ok(kept.len() == rows.len())
    }

    fn stored_before(&self, wish: &InsertRequest) -> Done<Option<StoredResponse>> {
        let asked = wish.asked.as_ref();
        let before = asked.map(|asked| self.stored(&asked.key)).transpose()?;
        Ok(before.flatten())
    }
}

/// What became of jobs that are being added.
#[derive(Default)]
struct Addition {
    new: HashMap<Uuid, Added>,
    /// The job that has its unique key, by the id of the one that does not.
    held: HashMap<Uuid, Job>,
}

impl Addition {
    fn take_new(&mut self, rows: &[String]) -> Done<()> {
        for line in rows.iter().flat_map(|row| row.lines()) {
            let added = read(line, Added::parse)?;
            self.new.insert(added.id, added);
        }
        Ok(())
    }

    fn take_held(&mut self, rows: &[String]) -> Done<()> {
        for row in rows {
            let (id, job) = row.split_once(' ').unwrap_or_default();
            self.held.insert(id.parse()?, serde_json::from_str(job)?);
        }
        Ok(())
    }

    fn has(&self, new: &NewJob) -> bool {
        self.new.contains_key(&new.id) || self.held.contains_key(&new.id)
    }

    /// What each wish has got.
    fn in_order(&self, wishes: &[&InsertRequest]) -> Done<Vec<AddedJobs>> {
        let one = |new: &NewJob| match (self.new.get(&new.id), self.held.get(&new.id)) {
            (Some(row), _) => Ok((Job::added(new, row), true)),
            (None, Some(job)) => Ok((job.clone(), false)),
            (None, None) => Err(DatabaseError::Broken(
                "an added job was not given back".to_owned(),
            )),
        };
        let each = wishes.iter();
        each.map(|wish| wish.jobs.iter().map(one).collect())
            .collect()
    }
}
