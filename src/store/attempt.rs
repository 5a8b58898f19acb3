//! One attempt's life, as the engine drives it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::executor::{TaskError, TaskInput};
use crate::store::budget::Budget;
use crate::store::record::Record;
use crate::store::session::{Attempt, Session, State};
use crate::store::{StoreError, TaskManager};
use crate::task::{
    AttemptResult, Millis, SessionKey, Task, TaskId, TaskStatus, TransitionError, now_ms,
};

/// What a person does to a running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Advance,
    Pause,
    Resume,
}

impl TaskManager {
    pub(crate) fn queue(&self, key: &SessionKey, id: TaskId) -> Result<Attempt, StoreError> {
        self.requeue(key, id, Record::queue).map(|(_, run)| run)
    }

    pub(crate) fn retry(
        &self,
        key: &SessionKey,
        id: TaskId,
    ) -> Result<(Task, Attempt), StoreError> {
        self.requeue(key, id, Record::retry)
    }

    fn requeue(
        &self,
        key: &SessionKey,
        id: TaskId,
        transition: fn(&mut Record, Millis, &Budget) -> Result<bool, TransitionError>,
    ) -> Result<(Task, Attempt), StoreError> {
        let (session, task) = self.change(key, id, |record| {
            self.check_open()?;
            if transition(record, now_ms(), &self.shared.budget)? {
                Ok(record.task.clone())
            } else {
                Err(StoreError::StoreFull(self.shared.limits.max_store_bytes))
            }
        })?;
        let attempt = Attempt {
            session,
            task: id,
            number: task.attempt,
        };
        Ok((task, attempt))
    }

    pub(crate) fn cancel(
        &self,
        key: &SessionKey,
        id: TaskId,
        reason: &str,
    ) -> Result<Task, StoreError> {
        let cancel = |record: &mut Record| {
            record.cancel(now_ms(), reason, &self.shared.budget)?;
            Ok(record.task.clone())
        };
        self.change(key, id, cancel).map(|(_, task)| task)
    }

    /// Holds a task or lets it go on, as `hold` says; with a note for the history.
    pub(crate) fn hold(
        &self,
        key: &SessionKey,
        id: TaskId,
        note: &str,
        hold: Hold,
    ) -> Result<Task, StoreError> {
        let change = |record: &mut Record| {
            let (now, budget) = (now_ms(), &self.shared.budget);
            let has_room = match hold {
                Hold::Advance => record.advance(now, note, budget)?,
                Hold::Pause => record.pause(now, note, budget)?,
                Hold::Resume => record.resume(now, note, budget)?,
            };
            let full = StoreError::StoreFull(self.shared.limits.max_store_bytes);
            has_room.then(|| record.task.clone()).ok_or(full)
        };
        self.change(key, id, change).map(|(_, task)| task)
    }

    /// Fails the running attempt of a task.
    pub(crate) fn fail(&self, key: &SessionKey, id: TaskId, why: &str) -> Result<Task, StoreError> {
        let fail = |record: &mut Record| {
            if record.task.status != TaskStatus::Running {
                return Err(TransitionError::NotRunning(record.task.status).into());
            }
            let ending = AttemptResult::Failed(why.to_owned());
            record.finish(now_ms(), ending, &self.shared.budget);
            Ok(record.task.clone())
        };
        self.change(key, id, fail).map(|(_, task)| task)
    }

    /// What the attempt is told since it waits for a person; it waits from now on if it is told nothing.
    pub(crate) fn signal(&self, attempt: &Attempt) -> Option<Box<str>> {
        self.on_attempt(attempt, |record| {
            let counts = record.task.is_running(attempt.number);
            counts.then(|| record.signal(now_ms(), &self.shared.budget))?
        })
        .flatten()
    }

    /// Whether the attempt is held, and whether a person has let it go on.
    pub(crate) fn held(&self, attempt: &Attempt) -> (bool, bool) {
        let state = attempt.session.state.read();
        let record = state.get(attempt.task);
        let record = record.filter(|record| record.task.is_running(attempt.number));
        record.map_or((false, false), |record| {
            (record.task.paused, record.has_signal())
        })
    }

    /// The type of an attempt's task.
    pub(crate) fn kind_of(&self, attempt: &Attempt) -> Option<Arc<str>> {
        let state = attempt.session.state.read();
        state
            .get(attempt.task)
            .map(|record| record.task.kind.clone())
    }

    /// Queued → running, if the task still waits for `attempt`. Returns its input and time limit.
    pub(crate) fn begin(&self, attempt: &Attempt) -> Option<(TaskInput, Option<Duration>)> {
        self.on_attempt(attempt, |record| {
            if !record.begin(now_ms(), attempt.number) {
                return None;
            }
            let task = &record.task;
            let mut input = TaskInput::new(
                task.id,
                task.kind.clone(),
                task.name.clone(),
                task.attempt,
                task.metadata.clone(),
            );
            input.session = Some(task.session.clone());
            Some((input, task.timeout_ms.map(Duration::from_millis)))
        })
        .flatten()
    }

    /// Takes a report of the running attempt.
    pub(crate) fn report(
        &self,
        attempt: &Attempt,
        percent: u8,
        step: &str,
        description: &str,
    ) -> Result<(), TaskError> {
        let taken = self.on_attempt(attempt, |record| {
            let counts = record.task.is_running(attempt.number);
            if counts {
                record.report(now_ms(), percent, step, description, &self.shared.budget);
            }
            counts
        });
        match taken {
            Some(true) => Ok(()),
            _ => Err(TaskError::stopped()),
        }
    }

    /// Whether `attempt` still runs, so that its reports count.
    pub(crate) fn is_running(&self, attempt: &Attempt) -> bool {
        let state = attempt.session.state.read();
        state
            .get(attempt.task)
            .is_some_and(|record| record.task.is_running(attempt.number))
    }

    /// Whether `attempt` is queued or runs.
    pub(crate) fn is_active(&self, attempt: &Attempt) -> bool {
        let state = attempt.session.state.read();
        state
            .get(attempt.task)
            .is_some_and(|record| record.task.attempt == attempt.number && record.is_active())
    }

    /// Ends the running attempt. Returns the task, or `None` if the attempt was over already.
    pub(crate) fn finish(&self, attempt: &Attempt, ending: AttemptResult) -> Option<Task> {
        self.on_attempt(attempt, |record| {
            record.task.is_running(attempt.number).then(|| {
                record.finish(now_ms(), ending, &self.shared.budget);
                record.task.clone()
            })
        })
        .flatten()
    }

    fn on_attempt<R>(&self, attempt: &Attempt, change: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let session = &attempt.session;
        let now = self.clock();
        let mut state = session.state.write();
        session.touch(now);
        state.change(&self.shared, &session.key, attempt.task, change)
    }

    /// Refuses new work from now on, and cancels all queued or running tasks, with `reason`.
    pub(crate) fn close(&self, reason: &str) -> usize {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let mut cancelled = 0;
        for session in self.sessions() {
            let mut state = session.state.write();
            cancelled += self.cancel_active(&session, &mut state, reason).len();
            state.hub.close();
        }
        cancelled
    }

    /// Cancels all queued or running tasks of a session. Returns their attempts.
    pub(super) fn cancel_active(
        &self,
        session: &Session,
        state: &mut State,
        reason: &str,
    ) -> Vec<(TaskId, u32)> {
        let active: Vec<TaskId> = [TaskStatus::Pending, TaskStatus::Running]
            .into_iter()
            .flat_map(|status| state.ids(status))
            .copied()
            .filter(|&id| state.get(id).is_some_and(Record::is_active))
            .collect();
        let cancel = |id: TaskId| {
            state.change(&self.shared, &session.key, id, |record| {
                let done = record.cancel(now_ms(), reason, &self.shared.budget);
                done.is_ok().then_some((id, record.task.attempt))
            })?
        };
        active.into_iter().filter_map(cancel).collect()
    }
}
