//! What the store and the engine refuse, as an answer.

use crate::http::Problem;
use crate::store::Refused;
use crate::task::Forbidden;

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let message = match &refused {
            Refused::SessionTaskLimit(max) => format!(
                "This session already has {max} tasks; clean up with POST \
                 /api/v1/tasks/cleanup/run or use another session"
            ),
            other => other.to_string(),
        };
        let plain = |status, code| Problem::new(status, code, message.clone());
        let later =
            |status, code, seconds: &'static str| plain(status, code).with("Retry-After", seconds);
        match refused {
            Refused::TaskNotFound => plain(404, "task_not_found"),
            Refused::Forbidden(Forbidden::NotStartable(_)) => plain(409, "task_not_startable"),
            Refused::Forbidden(Forbidden::AlreadyFinished(_)) => {
                plain(409, "task_already_finished")
            }
            Refused::Forbidden(Forbidden::NotRetryable(_)) => plain(409, "task_not_retryable"),
            Refused::SessionTaskLimit(_) => later(429, "session_task_limit", "60"),
            Refused::StoreFull(_) => later(503, "store_full", "60"),
            Refused::QueueFull(_) => later(503, "queue_full", "5"),
            Refused::TooManySessions(_) => later(503, "too_many_sessions", "30"),
            Refused::IdempotencyKeyReused => plain(422, "idempotency_key_reused"),
            Refused::IdempotencyKeyInUse => later(409, "idempotency_key_in_use", "1"),
            Refused::Stopping => later(503, "server_stopping", "5"),
        }
    }
}
