//! Idempotency keys: a repeated request gets the first response again and creates nothing.

use std::sync::Arc;
use std::time::Instant;

use crate::store::session::{Answer, Session, State, StoredResponse};
use crate::store::shared::Shared;
use crate::store::{StoreError, TaskManager};
use crate::task::SessionKey;

/// The own size of a stored response, its map slot and the allocator's overhead.
const FIXED: usize = 160;

/// What to do with a request that carries an idempotency key.
pub(crate) enum Once {
    /// Send this response again.
    Repeat(Arc<Answer>),
    /// Handle the request, and [`keep`](First::keep) the response.
    First(First),
}

/// The reservation of a key. If it is dropped without [`keep`](Self::keep), it frees the key, so that a
/// refused request can be corrected and sent again.
pub(crate) struct First {
    shared: Arc<Shared>,
    session: Arc<Session>,
    key: Box<str>,
    kept: bool,
}

impl First {
    /// Claims `key` in `session` for the request with this `fingerprint`. The room for the response is
    /// estimated from the request's `size`.
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

    /// Stores the response for repeated requests with this key.
    pub(crate) fn keep(mut self, answer: Answer) {
        let mut state = self.session.state.write();
        let location = answer.location.as_ref().map_or(0, String::len);
        let weight = FIXED + self.key.len() + location + answer.body.len();
        if let Some(stored) = state.idempotency.get_mut(&self.key) {
            // The reservation is an upper estimate. If it was too small, keep the response anyway: a few
            // bytes over budget are better than a duplicate.
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

fn release(shared: &Shared, state: &mut State, key: &str) {
    if let Some(stored) = state.idempotency.remove(key) {
        shared.budget.refund(stored.weight);
    }
}

impl TaskManager {
    /// Claims an idempotency key; see [`First`].
    pub(crate) fn once(
        &self,
        key: &SessionKey,
        idempotency_key: &str,
        fingerprint: u64,
        size: usize,
    ) -> Result<Once, StoreError> {
        loop {
            let session = self.find_or_create(key)?;
            let once = First::claim(&self.shared, &session, idempotency_key, fingerprint, size);
            if !session.state.read().dropped {
                return once;
            }
        }
    }
}
