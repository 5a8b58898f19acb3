//! `Idempotency-Key`: a repeated request is answered again, and creates nothing.
//!
//! Tasks' keys live in their session; jobs keep theirs in the database.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::field_error::FieldError;
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
        let Some(key) = key_of(request)? else {
            return create();
        };
        let body = request.body()?;
        let fingerprint = self.fingerprints.hash_one((target(request), body));
        match self.tasks.once(session, key, fingerprint, body.len())? {
            Once::Repeat(answer) => Ok(repeat(201, answer.location.clone(), answer.body.clone())),
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

/// What a repeat has in common with the first request, besides its body. `watch` counts: it starts a task.
pub(crate) fn target<'r>(request: &'r Request<'_>) -> Cow<'r, str> {
    let path = request.path();
    match request.query_value("watch") {
        Some(watch) => format!("{path}?watch={watch}").into(),
        None => path.into(),
    }
}

/// The request's key, if it has one.
///
/// # Errors
///
/// It is too short or too long, or not ASCII.
pub(crate) fn key_of<'r>(request: &Request<'r>) -> Result<Option<&'r str>, Problem> {
    let name = "Idempotency-Key";
    match request.header(name) {
        Some(key) if !is_key(key) => {
            let message =
                "Idempotency-Key must have 1 to 255 characters, all of them visible ASCII";
            Err(Problem::invalid(vec![FieldError::new(name, message)]))
        }
        key => Ok(key),
    }
}

fn is_key(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The first answer, once more.
pub(crate) fn repeat(status: u16, location: Option<String>, body: Vec<u8>) -> Response {
    let mut response = Response::json_bytes(status, body);
    if let Some(location) = location {
        response = response.with("Location", location);
    }
    response.with("Idempotency-Replayed", "true")
}
