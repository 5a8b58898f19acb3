//! A refusal: RFC 9457 problem details, with a sentence for a person and a code for a program.

use std::borrow::Cow;

use serde::Serialize;

use crate::field_error::FieldError;
use crate::http::response::{Response, reason_phrase};

/// Nobody reads more, and an answer stays in proportion to what was asked.
const MAX_ERRORS: usize = 100;

/// An answer that says no, and what to do.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    code: &'static str,
    message: String,
    errors: Vec<FieldError>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    title: &'a str,
    status: u16,
    success: bool,
    message: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Problem {
        debug_assert!((400..600).contains(&status));
        Problem {
            status,
            code,
            message: message.into(),
            errors: Vec::new(),
            headers: Vec::new(),
            reason: None,
        }
    }

    /// Fields that do not fit; the message tells them all, up to a hundred.
    pub(crate) fn invalid(mut errors: Vec<FieldError>) -> Problem {
        errors.truncate(MAX_ERRORS);
        let messages: Vec<_> = errors.iter().map(|e| e.message.as_str()).collect();
        let mut problem = Problem::new(400, "invalid_request", messages.join("; "));
        problem.errors = errors;
        problem
    }

    /// Tells one of the reasons that the code can have.
    pub(crate) fn because(mut self, reason: &'static str) -> Problem {
        self.reason = Some(reason);
        self
    }

    /// Names the one field that is meant.
    pub(crate) fn about(mut self, field: &str) -> Problem {
        self.errors = vec![FieldError::new(field, self.message.clone())];
        self
    }

    pub(crate) fn with(
        mut self,
        name: &'static str,
        value: impl Into<Cow<'static, str>>,
    ) -> Problem {
        self.headers.push((name, value.into()));
        self
    }

    /// What a person is told.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn into_response(self, request_id: &str) -> Response {
        let body = Body {
            title: reason_phrase(self.status),
            status: self.status,
            success: false,
            message: &self.message,
            code: self.code,
            request_id,
            reason: self.reason,
            errors: &self.errors,
        };
        let mut response = Response::json(self.status, &body);
        response.headers = vec![("Content-Type", "application/problem+json".into())];
        response.headers.extend(self.headers);
        response
    }
}
