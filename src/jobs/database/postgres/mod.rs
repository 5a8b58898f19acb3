//! PostgreSQL, over the network.

mod libpq;
mod start;

use std::time::{Duration, Instant};

use super::migrate::{Migration, Migrator, migrations};
use super::pool::{Breaks, Pool, Pooled};
use super::{Database, DatabaseError, Dialect, Duty, PerDuty, Rows, Session, Work};

pub(in crate::jobs) use libpq::Connection;
use libpq::Failure;

const MIGRATIONS: &[Migration] = migrations!(
    "postgres",
    "2026-11-26-000002_counts",
    "2026-11-26-000003_pauses",
    "2026-11-30-000000_counted",
    "2026-12-01-000000_job_log"
);

/// Settings of each session, whatever the defaults of the server, the database or the role are.
///
/// A queue fills and empties faster than the statistics are updated. Each statement has its index, so the planner is
/// told to use indexes whatever size it expects. Short statements gain nothing from JIT or from a new plan each time.
/// A process that freezes within a transaction loses it, so that its row locks are released.
const SETUP: &str = "\
    SET default_transaction_isolation = 'read committed'; SET client_encoding = 'UTF8'; \
    SET standard_conforming_strings = on; SET idle_in_transaction_session_timeout = '5s'; \
    SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan;";

/// How often a statement is retried after a conflict with another transaction.
const MAX_RETRIES: u32 = 8;

/// Checks an address without connecting.
pub(super) fn check(url: &str) -> Result<(), String> {
    libpq::check(&with_time_limits(url))
        .map_err(|why| format!("DATABASE_URL cannot be used: {why}"))
}

pub(super) struct PostgresDatabase(PerDuty<Connections>);

/// The connections of one duty, and the time limit of its statements.
struct Connections {
    pool: Pool<Connection>,
    within: Duration,
}

impl Pooled for Connection {
    fn is_broken(&self) -> bool {
        Connection::is_broken(self)
    }

    fn is_alive(&mut self) -> bool {
        Connection::is_alive(self)
    }
}

impl PostgresDatabase {
    pub(super) fn open(
        url: &str,
        worker_within: Duration,
    ) -> Result<PostgresDatabase, DatabaseError> {
        let url = &with_time_limits(url);
        start::check_server(url)?;
        start::Server::open(url)?.migrate(MIGRATIONS)?;
        let breaks = Breaks::default();
        let connections = |duty| {
            let (most, within, patience) = match duty {
                Duty::Request => (4, Duration::from_secs(4), Duration::from_secs(2)),
                Duty::List => (2, Duration::from_secs(5), Duration::from_secs(4)),
                Duty::Watch => (1, Duration::from_secs(3), Duration::from_secs(1)),
                _ => (1, worker_within, Duration::from_secs(1)),
            };
            Connections::new(url, breaks.clone(), most, within, patience)
        };
        Ok(PostgresDatabase(PerDuty::new(connections)))
    }
}

impl Connections {
    fn new(
        url: &str,
        breaks: Breaks,
        most: usize,
        within: Duration,
        patience: Duration,
    ) -> Connections {
        let url = url.to_owned();
        // The server's limit is shorter, so that the server cancels the statement and gives the reason.
        let millis = within.as_millis() * 8 / 10;
        let limits = format!(
            "SET statement_timeout = {millis}; SET lock_timeout = {};",
            millis * 8 / 10
        );
        let open = move || {
            let mut connection = Connection::open(&url)?;
            let deadline = Instant::now() + within;
            for sql in [SETUP, &limits] {
                connection
                    .execute(sql, deadline)
                    .map_err(|failure| failure.error)?;
            }
            Ok(connection)
        };
        Connections {
            pool: Pool::new(Box::new(open), breaks, most, patience),
            within,
        }
    }

    /// Runs `work` on a connection, and retries it after conflicts.
    fn run<T>(
        &self,
        mut work: impl FnMut(&mut Timed<'_>) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        self.pool.with(|connection| {
            let mut retries = 0;
            loop {
                let mut session = Timed {
                    connection: &mut *connection,
                    within: self.within,
                    is_conflict: false,
                };
                let done = work(&mut session);
                retries += 1;
                if done.is_ok() || !session.is_conflict || retries > MAX_RETRIES {
                    return done;
                }
                std::thread::sleep(conflict_pause(retries));
            }
        })
    }
}

/// Grows with each retry. It is random, so that two transactions do not conflict again.
fn conflict_pause(retries: u32) -> Duration {
    let part = u32::from(uuid::Uuid::new_v4().as_bytes()[0]) + 32;
    Duration::from_micros(u64::from(retries * part * 40))
}

/// A connection with the time limit of its duty.
struct Timed<'a> {
    connection: &'a mut Connection,
    within: Duration,
    /// The last failure was a conflict with another transaction.
    is_conflict: bool,
}

impl Timed<'_> {
    fn noted<T>(&mut self, done: Result<T, Failure>) -> Result<T, DatabaseError> {
        done.map_err(|failure| {
            self.is_conflict = failure.is_conflict;
            failure.error
        })
    }

    fn execute(&mut self, sql: &str) -> Result<(), DatabaseError> {
        let deadline = Instant::now() + self.within;
        let done = self.connection.execute(sql, deadline);
        self.noted(done)
    }
}

impl Session for Timed<'_> {
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        let deadline = Instant::now() + self.within;
        let done = self
            .connection
            .run(&sql.replace("{in}", "$1"), document, deadline);
        self.noted(done)
    }
}

impl Database for PostgresDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn read(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        self.0.of(duty).run(|session| session.run(sql, document))
    }

    fn write(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        self.0.of(duty).run(|session| session.run(sql, document))
    }

    fn transact(&self, duty: Duty, work: &mut Work<'_>) -> Result<(), DatabaseError> {
        self.0.of(duty).run(|session| {
            session.execute("BEGIN")?;
            let done = work(session);
            match done {
                Ok(()) => session.execute("COMMIT"),
                Err(error) => {
                    let is_conflict = session.is_conflict;
                    if !session.connection.is_broken() {
                        session.execute("ROLLBACK")?;
                    }
                    session.is_conflict = is_conflict;
                    Err(error)
                }
            }
        })
    }

    /// The server's settings determine how durable a commit is.
    fn sync(&self) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn notify(&self, duty: Duty, message: &str) -> Result<(), DatabaseError> {
        let sql = "SELECT pg_notify('async_task_jobs', {in})::text";
        self.read(duty, sql, message).map(drop)
    }

    /// Autovacuum does this.
    fn tidy(&self) -> Result<(), DatabaseError> {
        Ok(())
    }
}

/// Applies pending migrations and returns their names.
pub(super) fn migrate(url: &str) -> Result<Vec<String>, DatabaseError> {
    let url = with_time_limits(url);
    start::check_server(&url)?;
    start::Server::open(&url)?.migrate(MIGRATIONS)
}

/// Returns the SQL of pending migrations.
pub(super) fn migration_sql(url: &str) -> Result<String, DatabaseError> {
    start::Server::open(&with_time_limits(url))?.pending_sql(MIGRATIONS)
}

/// Adds time limits that detect a vanished host. Values in the URL take precedence.
pub(in crate::jobs) fn with_time_limits(url: &str) -> String {
    let limits = [
        ("connect_timeout", "3"),
        ("tcp_user_timeout", "10000"),
        ("keepalives_idle", "10"),
        ("keepalives_interval", "3"),
        ("keepalives_count", "3"),
    ];
    let mut limited = url.trim_end_matches('?').to_owned();
    for (name, value) in limits.iter().filter(|(name, _)| !url.contains(name)) {
        limited.push(if limited.contains('?') { '&' } else { '?' });
        limited.push_str(&format!("{name}={value}"));
    }
    limited
}
