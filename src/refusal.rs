//! What the store and the engine refuse, as an answer.

use crate::http::Problem;
use crate::store::StoreError;
use crate::task::TransitionError;

impl From<StoreError> for Problem {
    fn from(refused: StoreError) -> Problem {
        let message = match &refused {
            StoreError::SessionTaskLimit(max) => format!(
                "This session already has {max} tasks; clean up with POST \
                 /api/v1/tasks/cleanup/run or use another session"
            ),
            other => other.to_string(),
        };
        let plain = |status, code| Problem::new(status, code, message.clone());
        let later =
            |status, code, seconds: &'static str| plain(status, code).with("Retry-After", seconds);
        match refused {
            StoreError::TaskNotFound => plain(404, "task_not_found"),
            StoreError::TransitionError(TransitionError::NotStartable(_)) => {
                plain(409, "task_not_startable")
            }
            StoreError::TransitionError(TransitionError::AlreadyFinished(_)) => {
                plain(409, "task_already_finished")
            }
            StoreError::TransitionError(TransitionError::NotRetryable(_)) => {
                plain(409, "task_not_retryable")
            }
            StoreError::TransitionError(TransitionError::NotWaiting) => {
                plain(409, "task_not_waiting")
            }
            StoreError::TransitionError(TransitionError::NotRunning(_)) => {
                plain(409, "task_not_running")
            }
            StoreError::TransitionError(TransitionError::NotPaused) => {
                plain(409, "task_not_paused")
            }
            StoreError::InvalidArguments(errors) => {
                let errors = errors.into_iter().map(|error| error.under("metadata"));
                Problem::invalid(errors.collect())
            }
            StoreError::SessionTaskLimit(_) => later(429, "session_task_limit", "60"),
            StoreError::StoreFull(_) => later(503, "store_full", "60"),
            StoreError::QueueFull(_) => later(503, "queue_full", "5"),
            StoreError::TooManySessions(_) => later(503, "too_many_sessions", "30"),
            StoreError::IdempotencyKeyReused => plain(422, "idempotency_key_reused"),
            StoreError::IdempotencyKeyInUse => later(409, "idempotency_key_in_use", "1"),
            StoreError::Stopping => later(503, "server_stopping", "5"),
        }
    }
}
