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
    "2026-11-30-000000_counted"
);

/// What a session sets for itself, whatever the server, the database or the role has as its default.
///
/// A queue fills and empties faster than statistics follow. Every statement has its index, and
/// whatever the planner believes about the table's size, that is the way to go; and statements this
/// short gain nothing from being compiled, or planned anew each time. Who is halted within a transaction loses it, with the rows that it holds.
const SETUP: &str = "\
    SET default_transaction_isolation = 'read committed'; SET client_encoding = 'UTF8'; \
    SET standard_conforming_strings = on; SET idle_in_transaction_session_timeout = '5s'; \
    SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan;";

/// How often a statement is tried again that stood in another's way.
const CONFLICTS: u32 = 8;

/// Whether the address can be used, as far as that is seen without a connection.
pub(super) fn check(url: &str) -> Result<(), String> {
    libpq::check(&with_time_limits(url))
        .map_err(|why| format!("DATABASE_URL cannot be used: {why}"))
}

pub(super) struct PostgresDatabase(PerDuty<Connections>);

/// The connections of one duty, and how long its statements may take.
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
        start::judge(url)?;
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
        // The server gives up first, and says why.
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

    /// Does `work` on a connection, and once more where it stood in another's way.
    fn run<T>(
        &self,
        mut work: impl FnMut(&mut Timed<'_>) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        self.pool.with(|connection| {
            let mut tries = 0;
            loop {
                let mut session = Timed {
                    connection: &mut *connection,
                    within: self.within,
                    is_conflict: false,
                };
                let done = work(&mut session);
                tries += 1;
                if done.is_ok() || !session.is_conflict || tries > CONFLICTS {
                    return done;
                }
                std::thread::sleep(some_time(tries));
            }
        })
    }
}

/// Longer each time, and never the same for two that stood in each other's way.
fn some_time(tries: u32) -> Duration {
    let part = u32::from(uuid::Uuid::new_v4().as_bytes()[0]) + 32;
    Duration::from_micros(u64::from(tries * part * 40))
}

/// A connection whose every statement has the duty's time.
struct Timed<'a> {
    connection: &'a mut Connection,
    within: Duration,
    /// The newest failure was that somebody was in the way.
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

    /// A commit is durable as far as the server's settings have it.
    fn sync(&self) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn notify(&self, duty: Duty, message: &str) -> Result<(), DatabaseError> {
        let sql = "SELECT pg_notify('async_task_jobs', {in})::text";
        self.read(duty, sql, message).map(drop)
    }

    /// Autovacuum does it.
    fn tidy(&self) -> Result<(), DatabaseError> {
        Ok(())
    }
}

/// The names of the migrations that were applied.
pub(super) fn migrate(url: &str) -> Result<Vec<String>, DatabaseError> {
    let url = with_time_limits(url);
    start::judge(&url)?;
    start::Server::open(&url)?.migrate(MIGRATIONS)
}

/// The SQL of what is pending.
pub(super) fn migration_sql(url: &str) -> Result<String, DatabaseError> {
    start::Server::open(&with_time_limits(url))?.pending_sql(MIGRATIONS)
}

/// A host that has gone without a word is noticed in time; what the URL says itself holds.
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
