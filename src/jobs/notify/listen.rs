//! Receives notifications from other processes through PostgreSQL.

use std::time::{Duration, Instant};

use crate::jobs::database::{Connection, with_time_limits};

/// The time limit for `LISTEN`.
const BEGIN_WITHIN: Duration = Duration::from_secs(3);

pub(crate) struct Listener(Connection);

impl Listener {
    /// Connects and listens. Returns `None` if either fails.
    pub(crate) fn open(url: &str) -> Option<Listener> {
        let mut connection = Connection::open(&with_time_limits(url)).ok()?;
        let deadline = Instant::now() + BEGIN_WITHIN;
        connection
            .listen("async_task_jobs", deadline)
            .then_some(Listener(connection))
    }

    /// Returns the messages that arrive within `patience`, or `None` if the connection is lost.
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<Vec<String>> {
        self.0.notified(patience)
    }
}
