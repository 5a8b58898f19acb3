//! `Idempotency-Key`: a repeated request is answered as the first, and adds nothing.
//!
//! The answer is kept in the database, in the same commit as the jobs: whichever front end a client
//! comes back to, and whatever has crashed meanwhile, there is either both of them or neither.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::http::response::Body;
use crate::http::router::Answer;
use crate::http::{Problem, Request, Response};
use crate::idempotency::{key_of, repeat};
use crate::jobs::job::Job;
use crate::store::Refused;

/// Whose key it is, and of which request.
#[derive(Clone, Serialize)]
pub(super) struct RepeatKey {
    pub(super) user: String,
    pub(super) key: String,
    /// Of its path and body.
    fingerprint: String,
}

/// The answer that a repeat gets again.
#[derive(Deserialize)]
pub(super) struct Receipt {
    pub(super) fingerprint: String,
    pub(super) location: Option<String>,
    pub(super) body: String,
}

/// Answers a request whose jobs are added.
pub(super) type Answering = fn(&[(Job, bool)]) -> Option<Response>;

/// A request to be answered once.
pub(super) struct Asked {
    pub(super) key: RepeatKey,
    pub(super) answer: Answering,
}

impl Asked {
    /// What to keep of the first answer; nothing where it has created nothing.
    pub(super) fn receipt(&self, added: &[(Job, bool)]) -> Option<Receipt> {
        let first = (self.answer)(added)?;
        match &first.body {
            Body::Bytes(body) if first.status == 201 => Some(Receipt {
                fingerprint: self.key.fingerprint.clone(),
                location: first.header("Location").map(str::to_owned),
                body: String::from_utf8_lossy(body).into_owned(),
            }),
            _ => None,
        }
    }
}

impl RepeatKey {
    /// The key of a request, where it has one.
    ///
    /// # Errors
    ///
    /// It is no key.
    pub(super) fn of(request: &Request<'_>, user: &str) -> Result<Option<RepeatKey>, Problem> {
        let Some(key) = key_of(request)? else {
            return Ok(None);
        };
        // Other processes, and later ones, have to come to the same.
        let mut hash = Sha256::new();
        hash.update(request.path());
        hash.update(b"\n");
        hash.update(request.body);
        Ok(Some(RepeatKey {
            user: user.to_owned(),
            key: key.to_owned(),
            fingerprint: format!("{:x}", hash.finalize()),
        }))
    }

    /// The first answer again, to the same request.
    pub(super) fn repeat(&self, receipt: Receipt) -> Answer {
        match self.fingerprint == receipt.fingerprint {
            true => Ok(repeat(receipt.location, receipt.body.into_bytes())),
            false => Err(Refused::IdempotencyKeyReused.into()),
        }
    }
}
