//! The two databases behind one narrow interface: a statement takes one JSON document and gives
//! rows of one text each, so that nothing above knows which database it is.
//!
//! Each duty has connections of its own, and every statement has an end on this side too.

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

/// What a connection is used for. Duties do not share what one of them can use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// What requests read and write.
    Request,
    /// Lists and counts.
    List,
    /// What streams look for, and what other processes are told.
    Watch,
    Claim,
    Complete,
    Renew,
    Maintain,
}

/// One of something for each duty.
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

/// The rows of one statement: of each the first column.
pub(super) type Rows = Vec<String>;

/// Runs statements; in each, `{in}` is where its document goes.
pub(super) trait Session {
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError>;
}

/// What is done within one transaction. It may be done more than once.
pub(super) type Work<'a> = dyn FnMut(&mut dyn Session) -> Result<(), DatabaseError> + 'a;

/// Which words the statements use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

pub(super) trait Database: Send + Sync {
    fn dialect(&self) -> Dialect;

    /// Whether other processes may work on it.
    fn is_shared(&self) -> bool {
        self.dialect() == Dialect::Postgres
    }

    /// Runs a statement that changes nothing.
    fn read(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs one statement; whoever asks sees what it did, and it survives the end of this process.
    fn write(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs several, all or none: what an error of `work` leaves undone was never there.
    fn transact(&self, duty: Duty, work: &mut Work<'_>) -> Result<(), DatabaseError>;

    /// Returns when what was written before survives a power failure as well.
    fn sync(&self) -> Result<(), DatabaseError>;

    /// Tells the other processes, where there can be any.
    fn notify(&self, duty: Duty, message: &str) -> Result<(), DatabaseError>;

    /// Gives back what is not needed any more. To be called now and then.
    fn tidy(&self) -> Result<(), DatabaseError>;
}

/// Whether the address can be used, as far as that is seen without a connection.
///
/// # Errors
///
/// What to write instead, for the person at the terminal.
pub(super) fn check(address: &Address) -> Result<(), String> {
    match address {
        Address::Sqlite(_) => Ok(()),
        Address::Postgres(url) => postgres::check(url),
    }
}

/// Opens a database, and brings its tables up to date. `worker_within` is how long a statement of a worker may take.
pub(super) fn open(
    address: &Address,
    worker_within: Duration,
) -> Result<Box<dyn Database>, DatabaseError> {
    Ok(match address {
        Address::Sqlite(path) => Box::new(sqlite::SqliteDatabase::open(path, worker_within)?),
        Address::Postgres(url) => Box::new(postgres::PostgresDatabase::open(url, worker_within)?),
    })
}

/// Brings the tables up to date; the names of the migrations that were pending.
pub(super) fn migrate(address: &Address) -> Result<Vec<String>, DatabaseError> {
    match address {
        Address::Sqlite(path) => sqlite::migrate(path),
        Address::Postgres(url) => postgres::migrate(url),
    }
}

/// The SQL of the migrations that are pending; changes nothing.
pub(super) fn migration_sql(address: &Address) -> Result<String, DatabaseError> {
    match address {
        Address::Sqlite(path) => sqlite::migration_sql(path),
        Address::Postgres(url) => postgres::migration_sql(url),
    }
}
