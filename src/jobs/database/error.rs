//! Why a database did not do what it was asked.

use std::fmt;

use crate::log_safe::LogSafe;

/// In the database's own words, for the log alone.
#[derive(Clone, Debug)]
pub(in crate::jobs) enum DatabaseError {
    /// It was not reached, or gave no answer in time: perhaps done, perhaps not.
    Unavailable(String),
    /// A lock or a connection was waited for in vain; nothing was done.
    Busy(String),
    /// Another row has what must be there once.
    Taken(String),
    /// The database refuses this statement for good.
    Refused(String),
    /// This program's own fault.
    Broken(String),
    /// Too many requests wait.
    Overloaded,
    /// The server stops.
    Stopping,
}

impl DatabaseError {
    /// The same, and where it happened.
    pub(in crate::jobs) fn within(self, place: &str) -> DatabaseError {
        let placed = |text: String| format!("{place}: {text}");
        match self {
            DatabaseError::Unavailable(text) => DatabaseError::Unavailable(placed(text)),
            DatabaseError::Busy(text) => DatabaseError::Busy(placed(text)),
            DatabaseError::Taken(text) => DatabaseError::Taken(placed(text)),
            DatabaseError::Refused(text) => DatabaseError::Refused(placed(text)),
            DatabaseError::Broken(text) => DatabaseError::Broken(placed(text)),
            own => own,
        }
    }

    /// Whether asking again later may help.
    pub(in crate::jobs) fn is_outage(&self) -> bool {
        matches!(self, DatabaseError::Unavailable(_) | DatabaseError::Busy(_))
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseError::Unavailable(text)
            | DatabaseError::Busy(text)
            | DatabaseError::Taken(text)
            | DatabaseError::Refused(text)
            | DatabaseError::Broken(text) => LogSafe(text).fmt(f),
            DatabaseError::Overloaded => f.write_str("too many requests wait for the database"),
            DatabaseError::Stopping => f.write_str("the server is stopping"),
        }
    }
}

impl std::error::Error for DatabaseError {}

impl From<serde_json::Error> for DatabaseError {
    fn from(error: serde_json::Error) -> DatabaseError {
        DatabaseError::Broken(error.to_string())
    }
}

impl From<uuid::Error> for DatabaseError {
    fn from(error: uuid::Error) -> DatabaseError {
        DatabaseError::Broken(error.to_string())
    }
}

impl From<std::io::Error> for DatabaseError {
    fn from(error: std::io::Error) -> DatabaseError {
        DatabaseError::Unavailable(error.to_string())
    }
}
