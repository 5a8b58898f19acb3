//! Attempts of tasks, as the pool runs them.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::run::{AttemptHandle, Held};
use crate::executor::{Report, Signal, StopHandle, TaskError, TaskInput};
use crate::log_safe::LogSafe;
use crate::store::{Attempt, TaskManager};
use crate::task::{AttemptResult, LogStream, TaskId};

/// An attempt of a task in the store.
pub(super) struct TaskAssignment {
    pub(super) tasks: TaskManager,
    pub(super) attempt: Attempt,
}

impl AttemptHandle for TaskAssignment {
    fn id(&self) -> (TaskId, u32) {
        (self.attempt.task, self.attempt.number)
    }

    fn kind(&self) -> Option<Arc<str>> {
        self.tasks.kind_of(&self.attempt)
    }

    fn is_over(&self) -> bool {
        !self.tasks.is_active(&self.attempt)
    }

    fn begin(&self) -> Option<(TaskInput, Option<Duration>)> {
        let begun = self.tasks.begin(&self.attempt)?;
        let (task, session) = (self.attempt.task, self.attempt.session());
        log::info!("Starting execution of task {task} for session {session}");
        Some(begun)
    }

    fn held(&self) -> Held {
        let (is_paused, has_signal) = self.tasks.held(&self.attempt);
        Held {
            is_paused,
            has_signal,
        }
    }

    fn finish(&self, ending: AttemptResult) -> bool {
        let Some(task) = self.tasks.finish(&self.attempt, ending) else {
            return false;
        };
        let session = self.attempt.session();
        match task.error {
            Some(why) => log::warn!("Task {} failed: {}", task.id, LogSafe(&why)),
            None => log::info!(
                "Completed execution of task {} for session {session}",
                task.id
            ),
        }
        true
    }
}

impl Report for TaskAssignment {
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError> {
        self.tasks
            .report(&self.attempt, percent, step, description)?;
        log::debug!("Task {} progress: {percent}%", self.attempt.task);
        Ok(())
    }

    fn log(&self, stream: LogStream, text: &str) -> Result<(), TaskError> {
        self.tasks.add_log(&self.attempt, stream, text)
    }

    fn signal(&self) -> Option<Signal> {
        self.tasks
            .signal(&self.attempt)
            .map(|note| Signal::new(&note))
    }

    fn is_stopped(&self) -> bool {
        !self.tasks.is_running(&self.attempt)
    }

    fn stop_handle(&self) -> StopHandle {
        let (tasks, attempt) = (self.tasks.clone(), self.attempt.clone());
        StopHandle::new(move || !tasks.is_running(&attempt))
    }
}
