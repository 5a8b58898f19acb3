//! Idempotency keys: a repeated request gets the first answer again and creates nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::session::Session;
use crate::store::{Shared, StoreError};

/// How long a key is remembered.
pub(crate) const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The own size of a stored response, its map slot and the allocator's overhead.
const FIXED: usize = 160;

/// The answer that a repeat gets again: opaque to the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Where the created thing is found.
    pub(crate) location: Option<String>,
    /// The body, to the letter.
    pub(crate) body: Vec<u8>,
}

/// One remembered key.
pub(crate) struct StoredResponse {
    fingerprint: u64,
    at: Instant,
    /// `None` while the first request is still being answered.
    answer: Option<Arc<Answer>>,
    weight: usize,
}

impl StoredResponse {
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn is_over(&self) -> bool {
        self.answer.is_some() && self.at.elapsed() >= LIFETIME
    }
}

/// What to do with a request that carries an idempotency key.
pub(crate) enum Once {
    /// Answer this again.
    Repeat(Arc<Answer>),
    /// Do it, and [`keep`](First::keep) the answer.
    First(First),
}

/// The right to answer a key for the first time. Dropped without
/// [`keep`](Self::keep), it frees the key, so that a refused request can be mended and sent again.
pub(crate) struct First {
    shared: Arc<Shared>,
    session: Arc<Session>,
    key: Box<str>,
    kept: bool,
}

impl First {
    /// Claims `key` in `session` for the request with this `fingerprint`; `size` is the
    /// request's, from which the room for the answer is estimated.
    pub(crate) fn claim(
        shared: &Arc<Shared>,
        session: &Arc<Session>,
        key: &str,
        fingerprint: u64,
        size: usize,
    ) -> Result<Once, StoreError> {
        let mut state = session.state.write();
        if state
            .idempotency
            .get(key)
            .is_some_and(StoredResponse::is_over)
        {
            release(shared, &mut state, key);
        }
        if let Some(stored) = state.idempotency.get(key) {
            if stored.fingerprint != fingerprint {
                return Err(StoreError::IdempotencyKeyReused);
            }
            let answer = stored.answer.clone();
            return answer
                .map(Once::Repeat)
                .ok_or(StoreError::IdempotencyKeyInUse);
        }
        let weight = FIXED + key.len() + size + 2_048;
        if !shared.budget.charge(weight) {
            return Err(StoreError::StoreFull(shared.limits.max_store_bytes));
        }
        let stored = StoredResponse {
            fingerprint,
            at: Instant::now(),
            answer: None,
            weight,
        };
        state.idempotency.insert(key.into(), stored);
        Ok(Once::First(First {
            shared: shared.clone(),
            session: session.clone(),
            key: key.into(),
            kept: false,
        }))
    }

    /// Remembers the answer for the next one who asks with this key.
    pub(crate) fn keep(mut self, answer: Answer) {
        let mut state = self.session.state.write();
        let location = answer.location.as_ref().map_or(0, String::len);
        let weight = FIXED + self.key.len() + location + answer.body.len();
        if let Some(stored) = state.idempotency.get_mut(&self.key) {
            // The estimate was generous. Were it not, a few bytes unaccounted for do less harm
            // than a repeat that creates twice.
            if self.shared.budget.adjust(stored.weight, weight) {
                stored.weight = weight;
            }
            stored.answer = Some(Arc::new(answer));
            self.kept = true;
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if !self.kept {
            release(&self.shared, &mut self.session.state.write(), &self.key);
        }
    }
}

fn release(shared: &Shared, state: &mut crate::store::session::State, key: &str) {
    if let Some(stored) = state.idempotency.remove(key) {
        shared.budget.refund(stored.weight);
    }
}
