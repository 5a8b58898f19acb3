//! Errors of the database.

use std::fmt;

use crate::log_safe::LogSafe;

/// The texts are the database's own. They are for the log and never reach clients.
#[derive(Clone, Debug)]
pub(in crate::jobs) enum DatabaseError {
    /// The database was unavailable or did not respond in time. The statement may or may not have been executed.
    Unavailable(String),
    /// A lock or a connection was not free in time. Nothing was changed.
    Busy(String),
    /// A unique value already exists.
    Duplicate(String),
    /// The database refuses this statement, and will refuse it again.
    Refused(String),
    /// A bug in this program.
    Internal(String),
    /// Too many requests wait.
    Overloaded,
    Stopping,
}

impl DatabaseError {
    /// Adds where the error happened.
    pub(in crate::jobs) fn within(self, place: &str) -> DatabaseError {
        let placed = |text: String| format!("{place}: {text}");
        match self {
            DatabaseError::Unavailable(text) => DatabaseError::Unavailable(placed(text)),
            DatabaseError::Busy(text) => DatabaseError::Busy(placed(text)),
            DatabaseError::Duplicate(text) => DatabaseError::Duplicate(placed(text)),
            DatabaseError::Refused(text) => DatabaseError::Refused(placed(text)),
            DatabaseError::Internal(text) => DatabaseError::Internal(placed(text)),
            own => own,
        }
    }

    /// Whether a later attempt may succeed.
    pub(in crate::jobs) fn is_outage(&self) -> bool {
        matches!(self, DatabaseError::Unavailable(_) | DatabaseError::Busy(_))
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseError::Unavailable(text)
            | DatabaseError::Busy(text)
            | DatabaseError::Duplicate(text)
            | DatabaseError::Refused(text)
            | DatabaseError::Internal(text) => LogSafe(text).fmt(f),
            DatabaseError::Overloaded => f.write_str("too many requests wait for the database"),
            DatabaseError::Stopping => f.write_str("the server is stopping"),
        }
    }
}

impl std::error::Error for DatabaseError {}

impl From<serde_json::Error> for DatabaseError {
    fn from(error: serde_json::Error) -> DatabaseError {
        DatabaseError::Internal(error.to_string())
    }
}

impl From<uuid::Error> for DatabaseError {
    fn from(error: uuid::Error) -> DatabaseError {
        DatabaseError::Internal(error.to_string())
    }
}

impl From<std::io::Error> for DatabaseError {
    fn from(error: std::io::Error) -> DatabaseError {
        DatabaseError::Unavailable(error.to_string())
    }
}
