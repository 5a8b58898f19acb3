//! Connections that handlers and workers share.

use std::time::{Duration, Instant};

use diesel::r2d2::{ConnectionManager, ManageConnection, Pool, R2D2Connection};

use super::DatabaseError;

/// How many there are at most.
const MAX_CONNECTIONS: u32 = 6;

/// How long a caller waits for a connection before the database counts as away.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long a connection is believed to be good after it was.
const TRUSTED_FOR: Duration = Duration::from_millis(50);

pub(super) type Connections<C> = Pool<Manager<C>>;

/// Opens connections, and lets go of those that have failed. Only one that has been idle for a
/// while is asked whether it still answers.
pub(super) struct Manager<C: R2D2Connection + 'static> {
    connections: ConnectionManager<C>,
    /// Run on each new connection.
    setup: &'static str,
}

pub(super) struct Tracked<C> {
    connection: C,
    used: Instant,
    failed: bool,
}

impl<C> Tracked<C> {
    pub(super) fn with<T>(
        &mut self,
        f: impl FnOnce(&mut C) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let done = f(&mut self.connection);
        self.used = Instant::now();
        self.failed |= done.as_ref().is_err_and(DatabaseError::is_of_database);
        done
    }
}

impl<C: R2D2Connection + 'static> ManageConnection for Manager<C> {
    type Connection = Tracked<C>;
    type Error = diesel::r2d2::Error;

    fn connect(&self) -> Result<Tracked<C>, diesel::r2d2::Error> {
        let mut connection = self.connections.connect()?;
        connection
            .batch_execute(self.setup)
            .map_err(diesel::r2d2::Error::QueryError)?;
        Ok(Tracked {
            connection,
            used: Instant::now(),
            failed: false,
        })
    }

    fn is_valid(&self, tracked: &mut Tracked<C>) -> Result<(), diesel::r2d2::Error> {
        if tracked.used.elapsed() < TRUSTED_FOR {
            return Ok(());
        }
        let answer = tracked.connection.ping();
        answer.map_err(diesel::r2d2::Error::QueryError)
    }

    fn has_broken(&self, tracked: &mut Tracked<C>) -> bool {
        tracked.failed || tracked.connection.is_broken()
    }
}

pub(super) fn pool<C: R2D2Connection + 'static>(url: &str, setup: &'static str) -> Connections<C> {
    let connections = ConnectionManager::new(url);
    Pool::builder()
        .max_size(MAX_CONNECTIONS)
        .min_idle(Some(0))
        .idle_timeout(Some(Duration::from_secs(60)))
        .test_on_check_out(true)
        .connection_timeout(CONNECT_WITHIN)
        .error_handler(Box::new(Quiet))
        .build_unchecked(Manager { connections, setup })
}

/// Whoever asked for the connection reports the error.
#[derive(Debug)]
struct Quiet;

impl<E> diesel::r2d2::HandleError<E> for Quiet {
    fn handle_error(&self, _: E) {}
}
