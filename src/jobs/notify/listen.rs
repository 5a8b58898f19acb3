//! Hears what other processes notify through PostgreSQL.

use std::time::{Duration, Instant};

use crate::jobs::database::{Connection, with_time_limits};

/// How long it may take to begin.
const BEGIN_WITHIN: Duration = Duration::from_secs(3);

/// A connection that listens.
pub(crate) struct Listener(Connection);

impl Listener {
    /// Connects and listens; `None` where that fails.
    pub(crate) fn open(url: &str) -> Option<Listener> {
        let mut connection = Connection::open(&with_time_limits(url)).ok()?;
        let deadline = Instant::now() + BEGIN_WITHIN;
        connection
            .listen("async_task_jobs", deadline)
            .then_some(Listener(connection))
    }

    /// What was notified within `patience`, perhaps nothing; `None` where the connection is lost.
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<Vec<String>> {
        self.0.notified(patience)
    }
}
