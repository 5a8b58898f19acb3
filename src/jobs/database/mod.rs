//! One narrow interface for both databases. A statement takes one JSON document and returns rows of one text each, so
//! that the callers need not know the database.
//!
//! Each duty has its own connections. Every statement has a time limit on this side too.

mod error;
mod migrate;
mod pool;
mod postgres;
mod sqlite;
pub(super) mod url;

use std::time::Duration;

pub(super) use error::DatabaseError;
pub(super) use postgres::{Connection, with_time_limits};
use url::Address;

/// The purpose of a connection. Duties share no connections, so that one duty cannot exhaust those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Reads and writes of requests.
    Request,
    /// Lists and counts.
    List,
    /// Polling for streams, and notifications to other processes.
    Watch,
    Claim,
    Complete,
    Renew,
    Maintain,
}

/// One value for each duty.
struct PerDuty<T>([T; 7]);

impl<T> PerDuty<T> {
    fn new(make: impl FnMut(Duty) -> T) -> PerDuty<T> {
        use Duty::*;
        PerDuty([Request, List, Watch, Claim, Complete, Renew, Maintain].map(make))
    }

    fn of(&self, duty: Duty) -> &T {
        &self.0[duty as usize]
    }
}

/// The first column of each row of a statement.
pub(super) type Rows = Vec<String>;

/// Runs statements. The placeholder `{in}` stands for the document.
pub(super) trait Session {
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError>;
}

/// The work of one transaction. It may be called again after a conflict.
pub(super) type Work<'a> = dyn FnMut(&mut dyn Session) -> Result<(), DatabaseError> + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

pub(super) trait Database: Send + Sync {
    fn dialect(&self) -> Dialect;

    /// Whether other processes on other machines may use it.
    fn is_shared(&self) -> bool {
        self.dialect() == Dialect::Postgres
    }

    /// Runs a statement that changes nothing.
    fn read(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs one statement. Its changes are visible, and survive the end of this process.
    fn write(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs several statements, all or none. An error of `work` rolls them back.
    fn transact(&self, duty: Duty, work: &mut Work<'_>) -> Result<(), DatabaseError>;

    /// Makes earlier writes survive a power failure.
    fn sync(&self) -> Result<(), DatabaseError>;

    /// Notifies other processes, if there can be any.
    fn notify(&self, duty: Duty, message: &str) -> Result<(), DatabaseError>;

    /// Frees unused space. Call it from time to time.
    fn tidy(&self) -> Result<(), DatabaseError>;
}

/// Checks an address without connecting.
///
/// # Errors
///
/// What to write instead, in words for the terminal.
pub(super) fn check(address: &Address) -> Result<(), String> {
    match address {
        Address::Sqlite(_) => Ok(()),
        Address::Postgres(url) => postgres::check(url),
    }
}

/// Opens a database and migrates it. `worker_within` is the time limit of a worker's statement.
pub(super) fn open(
    address: &Address,
    worker_within: Duration,
) -> Result<Box<dyn Database>, DatabaseError> {
    Ok(match address {
        Address::Sqlite(path) => Box::new(sqlite::SqliteDatabase::open(path, worker_within)?),
        Address::Postgres(url) => Box::new(postgres::PostgresDatabase::open(url, worker_within)?),
    })
}

/// Applies pending migrations and returns their names.
pub(super) fn migrate(address: &Address) -> Result<Vec<String>, DatabaseError> {
    match address {
        Address::Sqlite(path) => sqlite::migrate(path),
        Address::Postgres(url) => postgres::migrate(url),
    }
}

/// Returns the SQL of pending migrations, and changes nothing.
pub(super) fn migration_sql(address: &Address) -> Result<String, DatabaseError> {
    match address {
        Address::Sqlite(path) => sqlite::migration_sql(path),
        Address::Postgres(url) => postgres::migration_sql(url),
    }
}
