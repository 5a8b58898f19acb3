//! Idempotency keys: a repeated request is answered as the first, and adds nothing.
//!
//! The answer is kept in the database, in the same commit as the jobs: whichever front end a client
//! comes back to, and whatever has crashed meanwhile, there is either both of them or neither.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::jobs::job::Job;

/// Whose key it is, and of which request.
#[derive(Clone, Serialize)]
pub(crate) struct IdempotencyKey {
    pub(crate) user: String,
    pub(crate) key: String,
    /// Of its path and body.
    pub(crate) fingerprint: String,
}

/// The answer that a repeat gets again.
#[derive(Deserialize)]
pub(crate) struct StoredResponse {
    /// Of the request that it answers.
    pub(crate) fingerprint: String,
    #[serde(flatten)]
    pub(crate) answer: FirstAnswer,
}

/// What the first request was told.
#[derive(Deserialize)]
pub(crate) struct FirstAnswer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: String,
}

/// A request to be answered once.
pub(crate) struct Asked {
    pub(crate) key: IdempotencyKey,
    /// What to keep of what it has got; `None` where that is nothing at all.
    pub(crate) answer: Box<Answering>,
}

pub(crate) type Answering = dyn Fn(&[(Job, bool)]) -> Option<FirstAnswer> + Send;

impl IdempotencyKey {
    /// The key that came with a request of `user`.
    pub(crate) fn new(user: &str, key: &str, path: &str, body: &[u8]) -> IdempotencyKey {
        // Other processes, and later ones, have to come to the same.
        let mut hash = Sha256::new();
        hash.update(path);
        hash.update(b"\n");
        hash.update(body);
        IdempotencyKey {
            user: user.to_owned(),
            key: key.to_owned(),
            fingerprint: format!("{:x}", hash.finalize()),
        }
    }
}
