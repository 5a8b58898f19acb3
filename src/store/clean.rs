//! What leaves the store by itself: surplus finished tasks, idle sessions, old idempotency keys.

use crate::store::TaskManager;
use crate::store::session::{Session, State};
use crate::task::{Millis, SessionKey, TaskId, TaskStatus, now_ms};

/// The most tasks taken out under one hold of a session's lock.
const CLEAN_BATCH: usize = 1_000;

/// What a session's cleanups have done.
///
/// ```
/// # use async_task_system::store::Limits;
/// # use async_task_system::{NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// assert_eq!(tasks.cleaned(&session).total, 0);
/// tasks.create(&session, NewTask::new("Report"))?;
/// tasks.clean(&session);
/// let cleaned = tasks.cleaned(&session);
/// assert_eq!(cleaned.total, 0, "it has not ended");
/// assert!(cleaned.last_at.is_some());
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Tasks removed so far.
    pub total: u64,
    /// When a cleanup last went through the session.
    pub last_at: Option<Millis>,
}

impl TaskManager {
    /// Removes the session's oldest finished tasks beyond the numbers to keep.
    ///
    /// ```
    /// # use async_task_system::{Config, NewTask, SessionKey, TaskSystem};
    /// let config = Config::from_pairs([("MAX_CANCELLED_TASKS", "0")])?;
    /// let system = TaskSystem::start(&config, Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// system.execution().cancel(&session, id)?;
    /// assert_eq!(system.tasks().clean(&session), 1);
    /// assert_eq!(system.tasks().stats(&session).total, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clean(&self, key: &SessionKey) -> usize {
        self.find(key)
            .map_or(0, |session| self.clean_session(&session))
    }

    /// Removes all of the session's finished tasks.
    ///
    /// ```
    /// # use async_task_system::{NewTask, SessionKey, TaskSystem};
    /// let system = TaskSystem::start(&Default::default(), Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// system.execution().cancel(&session, id)?;
    /// assert_eq!(system.tasks().clean(&session), 0, "one is kept");
    /// assert_eq!(system.tasks().clean_all_ended(&session), 1);
    /// # system.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clean_all_ended(&self, key: &SessionKey) -> usize {
        let none = [
            TaskStatus::Completed,
            TaskStatus::Failed,
            TaskStatus::Cancelled,
        ];
        self.find(key).map_or(0, |session| {
            self.clean_to(&session, none.map(|status| (status, 0)))
        })
    }

    /// What cleanups have done in the session.
    ///
    /// ```
    /// # use async_task_system::{Config, NewTask, SessionKey, TaskSystem};
    /// let config = Config::from_pairs([("MAX_CANCELLED_TASKS", "0")])?;
    /// let system = TaskSystem::start(&config, Default::default())?;
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = system.tasks().create(&session, NewTask::new("Report"))?.id;
    /// system.execution().cancel(&session, id)?;
    /// system.tasks().clean(&session);
    /// assert_eq!(system.tasks().cleaned(&session).total, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cleaned(&self, key: &SessionKey) -> Cleaned {
        let Some(session) = self.find(key) else {
            return Cleaned::default();
        };
        let state = session.state.read();
        Cleaned {
            total: state.cleaned,
            last_at: state.cleaned_at,
        }
    }

    // For the cleanup service.

    /// Cleans every session; the number of tasks removed.
    pub(crate) fn clean_all(&self) -> usize {
        self.sessions()
            .iter()
            .map(|session| self.clean_session(session))
            .sum()
    }

    /// Drops expired sessions and old idempotency keys.
    pub(crate) fn expire(&self) -> usize {
        let mut expired = 0;
        for session in self.sessions() {
            if self.is_expired(&session) {
                expired += usize::from(self.drop_expired(&session));
            } else {
                let mut state = session.state.write();
                let budget = &self.shared.budget;
                state.idempotency.retain(|_, stored| {
                    let keep = !stored.is_over();
                    if !keep {
                        budget.refund(stored.weight);
                    }
                    keep
                });
            }
        }
        expired
    }

    pub(super) fn clean_session(&self, session: &Session) -> usize {
        let limits = &self.shared.limits;
        self.clean_to(
            session,
            [
                (TaskStatus::Completed, limits.max_completed_tasks),
                (TaskStatus::Failed, limits.max_failed_tasks),
                (TaskStatus::Cancelled, limits.max_cancelled_tasks),
            ],
        )
    }

    /// Keeps so many of each status.
    fn clean_to(&self, session: &Session, kept: [(TaskStatus, usize); 3]) -> usize {
        let removed = kept
            .into_iter()
            .map(|(status, keep)| self.clean_status(session, status, keep))
            .sum();
        let mut state = session.state.write();
        state.cleaned += removed as u64;
        state.cleaned_at = Some(now_ms());
        if removed > 0 {
            state.hub.mark_lagged();
        }
        removed
    }

    fn clean_status(&self, session: &Session, status: TaskStatus, keep: usize) -> usize {
        let to_remove = oldest_beyond(&session.state.read(), status, keep);
        let mut removed = 0;
        for batch in to_remove.chunks(CLEAN_BATCH) {
            let mut state = session.state.write();
            // A task that was retried meanwhile has another status now, and stays.
            let gone: Vec<_> = batch
                .iter()
                .filter_map(|&id| state.remove(id, status))
                .collect();
            drop(state);
            for record in &gone {
                self.shared.removed(&session.key, record, "cleanup");
            }
            let bytes = gone.iter().map(|record| record.weight()).sum();
            self.shared.budget.refund(bytes);
            removed += gone.len();
        }
        removed
    }
}

/// The tasks of a final `status` that ended before the newest `keep`.
fn oldest_beyond(state: &State, status: TaskStatus, keep: usize) -> Vec<TaskId> {
    let ids = state.ids(status);
    let surplus = ids.len().saturating_sub(keep);
    if surplus == 0 {
        return Vec::new();
    }
    let mut ended: Vec<(Option<Millis>, TaskId)> = ids
        .iter()
        .filter_map(|&id| Some((state.get(id)?.task.completed_at, id)))
        .collect();
    ended.sort_unstable();
    ended.into_iter().take(surplus).map(|(_, id)| id).collect()
}
