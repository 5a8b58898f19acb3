//! Share links: an unguessable token that leads to one task, for as long as the task lives.

use uuid::Uuid;

use crate::store::record::{Record, ShareToken};
use crate::store::shared::Shown;
use crate::store::{StoreError, TaskManager};
use crate::task::{SessionKey, TaskId};

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
        self.token(key, id, false)
    }

    /// As [`share`](Self::share), and whoever has this token sees the task's log too.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// assert_ne!(tasks.share_with_log(&session, id)?, tasks.share(&session, id)?);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `TaskNotFound`, or `StoreFull`.
    pub fn share_with_log(&self, key: &SessionKey, id: TaskId) -> Result<ShareToken, StoreError> {
        self.token(key, id, true)
    }

    fn token(
        &self,
        key: &SessionKey,
        id: TaskId,
        with_log: bool,
    ) -> Result<ShareToken, StoreError> {
        let shared = &*self.shared;
        let share = |record: &mut Record| {
            let token = record
                .share(&shared.budget, with_log, || ShareToken(Uuid::new_v4()))
                .ok_or(StoreError::StoreFull(shared.limits.max_store_bytes))?;
            // This is under the session's lock, so the record cannot leave without its token.
            let mut links = shared.shares.write();
            links.entry(token).or_insert_with(|| Shown {
                session: key.clone(),
                task: id,
                with_log,
            });
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
        let shown = self.shown(token)?;
        Some((shown.session, shown.task))
    }

    /// What a token shows.
    pub(crate) fn shown(&self, token: ShareToken) -> Option<Shown> {
        self.shared.shares.read().get(&token).cloned()
    }
}
