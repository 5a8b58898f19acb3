//! Share links: an unguessable token that leads to one task, for as long as the task lives.

use std::collections::HashMap;

use parking_lot::RwLock;
use uuid::Uuid;

use crate::store::record::Record;
use crate::store::{StoreError, TaskManager};
use crate::task::{ParseError, SessionKey, TaskId};

/// 122 random bits; its text is 32 hexadecimal digits.
///
/// ```
/// use async_task_system::store::{Limits, ShareToken};
/// use async_task_system::{NewTask, SessionKey, TaskManager};
///
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = tasks.create(&session, NewTask::new("Report"))?.id;
/// let text = tasks.share(&session, id)?.to_string();
/// assert_eq!(text.len(), 32);
/// let token = ShareToken::parse(&text).expect("it was ours");
/// assert_eq!(tasks.shared_task(token), Some((session, id)));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareToken(Uuid);

impl ShareToken {
    /// The token of that text.
    ///
    /// ```
    /// use async_task_system::store::ShareToken;
    ///
    /// assert!(ShareToken::parse("0123456789abcdef0123456789abcdef").is_some());
    /// assert!(ShareToken::parse("me").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<ShareToken> {
        // The other spellings of a UUID would be other addresses of the same page.
        let plain = text.len() == 32 && !text.bytes().any(|b| b.is_ascii_uppercase());
        let id = plain.then(|| Uuid::try_parse(text).ok())?;
        id.map(ShareToken)
    }
}

/// ```
/// use async_task_system::store::ShareToken;
///
/// let token: ShareToken = "0123456789abcdef0123456789abcdef".parse()?;
/// assert_eq!(token.to_string(), "0123456789abcdef0123456789abcdef");
/// # Ok::<(), async_task_system::task::ParseError>(())
/// ```
impl std::str::FromStr for ShareToken {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<ShareToken, ParseError> {
        ShareToken::parse(text).ok_or(ParseError("32 lower-case hexadecimal digits"))
    }
}

impl std::fmt::Display for ShareToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// Where each token leads. Its lock is taken last, also under a session's, and nothing is
/// called under it.
#[derive(Default)]
pub(crate) struct Shares(RwLock<HashMap<ShareToken, (SessionKey, TaskId)>>);

impl Shares {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Forgets the tokens of records that have left the store.
    pub(crate) fn forget<'r>(&self, gone: impl Iterator<Item = &'r Record>) {
        for token in gone.filter_map(|record| record.share) {
            self.0.write().remove(&token);
        }
    }
}

impl TaskManager {
    /// A token that leads to this task; the same one each time.
    ///
    /// ```
    /// use async_task_system::store::Limits;
    /// use async_task_system::{NewTask, SessionKey, TaskManager};
    ///
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// let token = tasks.share(&session, id)?;
    /// assert_eq!(tasks.shared_task(token), Some((session, id)));
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, or `StoreFull`.
    pub fn share(&self, key: &SessionKey, id: TaskId) -> Result<ShareToken, StoreError> {
        let shared = &*self.shared;
        let share = |record: &mut Record| {
            let token = record
                .share(&shared.budget, || ShareToken(Uuid::new_v4()))
                .ok_or(StoreError::StoreFull(shared.limits.max_store_bytes))?;
            // Under the session's lock: a record that leaves takes its token with it.
            let mut links = shared.shares.0.write();
            links.entry(token).or_insert_with(|| (key.clone(), id));
            Ok(token)
        };
        self.change(key, id, share).map(|(_, token)| token)
    }

    /// The session and task that a token leads to; `None` once the task has left.
    ///
    /// ```
    /// # use async_task_system::{Config, NewTask, SessionKey, TaskSystem};
    /// let config = Config::from_pairs([("MAX_CANCELLED_TASKS", "0")])?;
    /// let system = TaskSystem::start(&config, Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// let token = system.tasks().share(&session, id)?;
    /// assert_eq!(system.tasks().shared_task(token), Some((session.clone(), id)));
    ///
    /// system.execution().cancel(&session, id)?;
    /// system.cleanup().run(&session);
    /// assert_eq!(system.tasks().shared_task(token), None);
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shared_task(&self, token: ShareToken) -> Option<(SessionKey, TaskId)> {
        self.shared.shares.0.read().get(&token).cloned()
    }
}
