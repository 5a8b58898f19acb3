//! Idempotency keys: a repeated request gets the stored response and adds nothing.
//!
//! The database stores the response in the same commit as the jobs. After a crash it has both or neither, and every
//! front end can replay the response.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::jobs::job::Job;

/// The key of a request, with its user.
#[derive(Clone, Serialize)]
pub(crate) struct IdempotencyKey {
    pub(crate) user: String,
    pub(crate) key: String,
    /// A hash of the request's path and body.
    pub(crate) fingerprint: String,
}

/// The stored response to the first request with a key.
#[derive(Deserialize)]
pub(crate) struct StoredResponse {
    /// The fingerprint of the first request.
    pub(crate) fingerprint: String,
    #[serde(flatten)]
    pub(crate) response: FirstResponse,
}

#[derive(Deserialize)]
pub(crate) struct FirstResponse {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: String,
}

/// The idempotency key of a request, and how to build the response to store.
pub(crate) struct Idempotency {
    pub(crate) key: IdempotencyKey,
    /// Returns `None` if there is nothing to store.
    pub(crate) response: Box<BuildResponse>,
}

pub(crate) type BuildResponse = dyn Fn(&[(Job, bool)]) -> Option<FirstResponse> + Send;

impl IdempotencyKey {
    pub(crate) fn new(user: &str, key: &str, path: &str, body: &[u8]) -> IdempotencyKey {
        // A fixed hash, because other processes and later versions must compute the same value.
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
