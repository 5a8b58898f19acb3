//! Adding jobs: each is new, or the one that has its unique key; a request with an idempotency key
//! adds its jobs together with its receipt.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use crate::jobs::database::{DatabaseError, Session};
use crate::jobs::job::{Added, Job, NewJob};
use crate::jobs::receipts::{First, Receipt, RepeatKey};
use crate::jobs::storage::{Done, Storage, parse};

/// How often a key may change hands while a job that wants it is added.
const MAX_ROUNDS: usize = 100;

impl Storage {
    /// Adds jobs, all or none, to be [settled](Self::settle); in their order, each new or the one
    /// that has its unique key.
    pub(super) fn insert(&self, jobs: &[NewJob]) -> Done<Vec<(Job, bool)>> {
        let mut added = Addition::default();
        if jobs.iter().all(|new| new.unique_key.is_none()) {
            added.take_new(&self.write(&self.sql.insert, &jobs)?)?;
        } else {
            self.database.transact(&mut |session| {
                added = self.insert_keyed(session, jobs)?;
                Ok(())
            })?;
        }
        added.in_order(jobs)
    }

    fn insert_keyed(&self, session: &mut dyn Session, jobs: &[NewJob]) -> Done<Addition> {
        let mut added = Addition::default();
        let mut missing: Vec<&NewJob> = jobs.iter().collect();
        // Those who add the same keys wait for each other: in one order, never in a circle.
        missing.sort_by_key(|new| (&new.unique_key, &new.user));
        for _ in 0..MAX_ROUNDS {
            let document = serde_json::to_string(&missing)?;
            added.take_new(&session.run(&self.sql.insert, &document)?)?;
            missing.retain(|new| !added.has(new));
            if !missing.is_empty() {
                // A key's holder may end before it is looked up; then the key is free again.
                let document = serde_json::to_string(&missing)?;
                added.take_held(&session.run(&self.sql.by_unique_key, &document)?)?;
                missing.retain(|new| !added.has(new));
            }
            if missing.is_empty() {
                return Ok(added);
            }
        }
        Err(DatabaseError::new("a unique key changes hands too fast"))
    }

    /// As [`insert`](Self::insert), and keeps the receipt that `answer` makes of it, all or nothing;
    /// unless the key was answered before.
    pub(super) fn insert_once(
        &self,
        jobs: &[NewJob],
        key: &RepeatKey,
        answer: &mut First<'_>,
    ) -> Done<Once> {
        for _ in 0..MAX_ROUNDS {
            let (mut added, mut is_late) = (Vec::new(), false);
            let done = self.database.transact(&mut |session| {
                added = self.insert_keyed(session, jobs)?.in_order(jobs)?;
                if let Some(receipt) = answer(&added) {
                    is_late = !self.keep(session, key, &receipt)?;
                }
                // What was added here goes with the transaction.
                let late = || DatabaseError::new("the key was answered meanwhile");
                (!is_late).then_some(()).ok_or_else(late)
            });
            if !is_late {
                done?;
            }
            let is_new = added.iter().any(|(_, is_new)| *is_new);
            if is_new && !is_late {
                return Ok(Once::Added(added));
            }
            // Who found a job by its unique key may be late as well.
            match self.receipt(key)? {
                Some(receipt) => return Ok(Once::Repeated(receipt)),
                None if is_late => {}
                None => return Ok(Once::Added(added)),
            }
        }
        let text = "an idempotency key changes hands too fast";
        Err(DatabaseError::new(text))
    }

    /// False where the key has a receipt already.
    fn keep(&self, session: &mut dyn Session, key: &RepeatKey, receipt: &Receipt) -> Done<bool> {
        let row = json!([{
            "xuser": key.user, "xkey": key.key, "xfingerprint": receipt.fingerprint,
            "xlocation": receipt.location, "xbody": receipt.body,
        }]);
        let kept = session.run(&self.sql.keep_receipt, &row.to_string())?;
        Ok(!kept.is_empty())
    }
}

/// What became of a request with an idempotency key.
pub(super) enum Once {
    /// It was the first.
    Added(Vec<(Job, bool)>),
    /// It is answered with this, and has added nothing.
    Repeated(Receipt),
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
        let rows = parse::<Added>(rows)?;
        self.new.extend(rows.into_iter().map(|row| (row.id, row)));
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

    fn in_order(&self, jobs: &[NewJob]) -> Done<Vec<(Job, bool)>> {
        let one = |new: &NewJob| match (self.new.get(&new.id), self.held.get(&new.id)) {
            (Some(row), _) => Ok((Job::added(new, row), true)),
            (None, Some(job)) => Ok((job.clone(), false)),
            (None, None) => Err(DatabaseError::new("an added job was not given back")),
        };
        jobs.iter().map(one).collect()
    }
}
