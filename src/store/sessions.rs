//! How sessions begin and end: created, evicted, expired, removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::store::session::{SESSION_WEIGHT, Session, State};
use crate::store::{Shard, StoreError, TaskManager};
use crate::task::{SessionKey, TaskId};

impl TaskManager {
    pub(crate) fn find_or_create(&self, key: &SessionKey) -> Result<Arc<Session>, StoreError> {
        if let Some(session) = self.find(key) {
            return Ok(session);
        }
        self.reserve_session()?;
        let mut shard = self.shards.of(key).write();
        if let Some(session) = shard.get(key) {
            self.release_session();
            return Ok(session.clone());
        }
        let session = Arc::new(Session::new(key.clone(), self.clock()));
        shard.insert(key.clone(), session.clone());
        Ok(session)
    }

    /// Reserves a place and the bytes for one more session. If all places are taken, the session that
    /// has been idle longest is evicted.
    pub(super) fn reserve_session(&self) -> Result<(), StoreError> {
        let limits = &self.shared.limits;
        self.check_open()?;
        loop {
            let taken =
                self.shared
                    .sessions
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                        (n < limits.max_sessions).then_some(n + 1)
                    });
            if taken.is_ok() {
                break;
            }
            if !self.evict_longest_idle() {
                return Err(StoreError::TooManySessions(limits.max_sessions));
            }
        }
        if !self.shared.budget.charge(SESSION_WEIGHT) {
            self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
            return Err(StoreError::StoreFull(limits.max_store_bytes));
        }
        Ok(())
    }

    fn release_session(&self) {
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
        self.shared.budget.refund(SESSION_WEIGHT);
    }

    /// Returns false if no session can be evicted.
    fn evict_longest_idle(&self) -> bool {
        let now = self.clock();
        let idlest = self
            .sessions()
            .into_iter()
            .filter(|session| session.state.read().is_quiet())
            .map(|session| (session.last_used_at(now), session))
            .min_by_key(|(last_used, _)| *last_used);
        let Some((last_used, session)) = idlest else {
            return false;
        };
        // If it was used in between, it stays, and the caller's next try finds another.
        self.drop_session(&session, "session made room", |s| {
            s.last_used_at(now) == last_used
        });
        true
    }

    pub(super) fn is_expired(&self, session: &Session) -> bool {
        self.is_expired_at(session, self.clock())
    }

    /// Takes the session out of the store if it is still expired.
    pub(super) fn drop_expired(&self, session: &Session) -> bool {
        self.drop_session(session, "session expired", |s| self.is_expired(s))
    }

    /// Takes the session out of the store if it has no work in flight and `still` holds.
    pub(super) fn drop_session(
        &self,
        session: &Session,
        reason: &str,
        still: impl Fn(&Session) -> bool,
    ) -> bool {
        let mut shard = self.shards.of(&session.key).write();
        let mut state = session.state.write();
        if state.dropped || !state.is_quiet() || !still(session) {
            return state.dropped;
        }
        let gone = self.take_out(session, &mut shard, &mut state);
        drop(state);
        drop(shard);
        self.discard(session, gone, reason);
        true
    }

    /// Cancels what is queued or running, and takes the session and its contents out of the store.
    /// Returns the cancelled attempts, or `None` if there is no such session.
    pub(crate) fn remove_session(&self, key: &SessionKey) -> Option<Vec<(TaskId, u32)>> {
        let session = self.shards.of(key).read().get(key).cloned()?;
        let mut shard = self.shards.of(key).write();
        let mut state = session.state.write();
        if state.dropped {
            return None;
        }
        let cancelled = self.cancel_active(&session, &mut state, "session removed");
        let gone = self.take_out(&session, &mut shard, &mut state);
        drop(state);
        drop(shard);
        self.discard(&session, gone, "session removed");
        Some(cancelled)
    }

    fn take_out(&self, session: &Session, shard: &mut Shard, state: &mut State) -> State {
        let gone = state.take_contents(&self.shared.budget);
        shard.remove(&session.key);
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
        gone
    }

    /// Called without locks, since freeing thousands of tasks takes a while.
    fn discard(&self, session: &Session, gone: State, reason: &str) {
        for record in gone.records() {
            self.shared.removed(&session.key, record, reason);
        }
    }

    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        let shards = self.shards.shards.iter();
        shards
            .flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        match self.shared.stopping.load(Ordering::SeqCst) {
            true => Err(StoreError::Stopping),
            false => Ok(()),
        }
    }
}
