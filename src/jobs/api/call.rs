//! What the handlers share: one call, its job, and how what it adds is answered.

use std::sync::Arc;

use uuid::Uuid;

use crate::http::fields::Fields;
use crate::http::response::Body;
use crate::http::router::{Answer, LATEST};
use crate::http::{Problem, Request, Response};
use crate::idempotency::{key_of, repeat, target};
use crate::jobs::api::body::JobParser;
use crate::jobs::database::DatabaseError;
use crate::jobs::job::{Job, NewJob};
use crate::jobs::storage::User;
use crate::jobs::storage::addition::{InsertOutcome, InsertRequest};
use crate::jobs::storage::idempotency::{
    FirstResponse, Idempotency, IdempotencyKey, StoredResponse,
};
use crate::jobs::system::JobSystem;
use crate::semaphore::Semaphore;
use crate::store::StoreError;

/// A request to a route, with its authenticated user.
pub(super) struct Call<'a> {
    pub(super) system: &'a Arc<JobSystem>,
    pub(super) streams: &'a Semaphore,
    pub(super) request: &'a Request<'a>,
    pub(super) user: User,
    pub(super) parameter: &'a str,
}

impl Call<'_> {
    fn parser(&self) -> JobParser<'_> {
        JobParser {
            registry: self.system.pool.registry(),
            user: &self.user,
        }
    }

    /// Adds the jobs that `parse` reads from the body and responds. With an idempotency key, a repeated request gets
    /// the stored response.
    pub(super) fn add(
        &self,
        parse: impl FnOnce(&JobParser<'_>, &mut Fields<'_>) -> Result<Vec<NewJob>, Problem>,
        response: fn(&[(Job, bool)]) -> Option<Response>,
    ) -> Answer {
        let lost = || {
            Problem::from(DatabaseError::Internal(
                "the database did not return an inserted job".to_owned(),
            ))
        };
        let (system, request) = (self.system, self.request);
        let body = request.body()?;
        let key = key_of(request)?
            .map(|key| IdempotencyKey::new(&self.user.name, key, &target(request), body));
        if let Some(key) = &key
            && let Some(before) = system.storage.stored(key)?
        {
            // The commit that stored it may not be synced yet.
            system.storage.sync()?;
            return replay(key, before);
        }
        let mut fields = Fields::parse(request)?;
        let jobs = parse(&self.parser(), &mut fields)?;
        fields.finish()?;
        let idempotency = key.clone().map(|key| Idempotency {
            key,
            response: Box::new(move |added| first_response(&response(added)?)),
        });
        match (
            system.inserter.add(InsertRequest { jobs, idempotency })?,
            key,
        ) {
            (InsertOutcome::Added(added), _) => response(&added).ok_or_else(lost),
            (InsertOutcome::Replayed(stored), Some(key)) => replay(&key, stored),
            (InsertOutcome::Replayed(_), None) => Err(lost()),
        }
    }

    /// Returns the job in the path, which may be `latest`, if the user may see it.
    pub(super) fn job(&self) -> Result<Job, Problem> {
        let text = self.parameter;
        if text == LATEST {
            let message = "You have no job yet, so there is no latest one";
            let none = || Problem::new(404, "job_not_found", message);
            return self
                .system
                .storage
                .newest(&self.user.name)?
                .ok_or_else(none);
        }
        match text.parse() {
            Ok(id) => self.job_of(id),
            Err(_) => Err(not_found()),
        }
    }

    /// Returns the job of this id, if the user may see it.
    pub(super) fn job_of(&self, id: Uuid) -> Result<Job, Problem> {
        let job = self.system.storage.get(id)?.ok_or_else(not_found)?;
        if self.user.admin || job.user.as_ref() == Some(&self.user.name) {
            return Ok(job);
        }
        let message = "This job belongs to another user";
        Err(Problem::new(403, "access_denied", message))
    }
}

fn not_found() -> Problem {
    Problem::new(404, "job_not_found", "Job not found")
}

/// The response to the client. The log has the details, once per outage.
impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Problem {
        let (code, message) = match error {
            DatabaseError::Unavailable(_) | DatabaseError::Busy(_) => (
                "database_unavailable",
                "The database is unavailable; try again",
            ),
            DatabaseError::Overloaded => (
                "queue_full",
                "Too many requests wait for the database; try again",
            ),
            DatabaseError::Stopping => ("server_stopping", "The server is stopping; try again"),
            DatabaseError::Duplicate(_)
            | DatabaseError::Refused(_)
            | DatabaseError::Internal(_) => {
                log::error!("The database refuses a request: {error}");
                let message = "The database refuses this request; the server's log has the reason";
                return Problem::new(500, "database_refused", message);
            }
        };
        Problem::new(503, code, message).with("Retry-After", "2")
    }
}

/// Returns the stored response if the request is the same.
fn replay(key: &IdempotencyKey, stored: StoredResponse) -> Answer {
    match key.fingerprint == stored.fingerprint {
        true => Ok(repeat(
            stored.response.status,
            stored.response.location,
            stored.response.body.into_bytes(),
        )),
        false => Err(StoreError::IdempotencyKeyReused.into()),
    }
}

/// Returns the parts of a response to store.
fn first_response(first: &Response) -> Option<FirstResponse> {
    match &first.body {
        Body::Bytes(body) => Some(FirstResponse {
            status: first.status,
            location: first.header("Location").map(str::to_owned),
            body: String::from_utf8_lossy(body).into_owned(),
        }),
        _ => None,
    }
}
