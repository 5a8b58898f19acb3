//! `Idempotency-Key`: a repeated request is answered again, and creates nothing.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::executor::FieldError;
use crate::http::response::Body;
use crate::http::router::Answer;
use crate::http::{Problem, Request, Response};
use crate::store::{self, Once, TaskManager};
use crate::task::SessionKey;

/// Knows the first answers, for a day, in the memory of this process.
pub(crate) struct Idempotency {
    tasks: TaskManager,
    fingerprints: RandomState,
}

impl Idempotency {
    pub(crate) fn new(tasks: TaskManager) -> Idempotency {
        Idempotency {
            tasks,
            fingerprints: RandomState::new(),
        }
    }

    /// Runs a creating handler, once for each key of the session.
    pub(crate) fn once(
        &self,
        session: &SessionKey,
        request: &Request<'_>,
        create: impl FnOnce() -> Answer,
    ) -> Answer {
        let Some(key) = request.header("Idempotency-Key") else {
            return create();
        };
        if !(1..=255).contains(&key.len()) {
            let message = "Idempotency-Key must have 1 to 255 characters";
            return Err(Problem::invalid(vec![FieldError::new(
                "Idempotency-Key",
                message,
            )]));
        }
        let body = request.body;
        let fingerprint = self.fingerprints.hash_one((request.path(), body));
        match self.tasks.once(session, key, fingerprint, body.len())? {
            Once::Repeat(answer) => {
                let mut response = Response::json_bytes(201, answer.body.clone());
                if let Some(location) = &answer.location {
                    response = response.with("Location", location.clone());
                }
                Ok(response.with("Idempotency-Replayed", "true"))
            }
            Once::First(first) => {
                let response = create()?;
                // Where nothing was created a repeat does no harm.
                if response.status == 201
                    && let Body::Bytes(body) = &response.body
                {
                    first.keep(store::Answer {
                        location: response.header("Location").map(str::to_owned),
                        body: body.clone(),
                    });
                }
                Ok(response)
            }
        }
    }
}
