//! The two databases behind one narrow interface: a statement takes one JSON document and gives
//! rows of one JSON text each, so that nothing above knows which database it is.

mod pool;
mod postgres;
mod sqlite;
mod statement;

use std::any::Any;
use std::fmt;

use diesel::backend::Backend;
use diesel::r2d2::PoolError;
use diesel::result::{DatabaseErrorKind as Kind, Error as QueryError};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness};

pub(super) use postgres::with_time_limits;

/// The database did not do what it was asked; in its own words, for the log alone.
#[derive(Clone, Debug)]
pub(super) struct DatabaseError {
    text: String,
    /// No connection could be had.
    is_away: bool,
    /// Another row has what must be there once.
    is_taken: bool,
    /// Said by this program, and no fault of the database.
    is_own: bool,
}

impl DatabaseError {
    pub(super) fn new(text: &str) -> DatabaseError {
        DatabaseError {
            text: text.to_owned(),
            is_away: false,
            is_taken: false,
            is_own: true,
        }
    }

    /// Whether asking again at once would only wait again.
    pub(super) fn is_away(&self) -> bool {
        self.is_away
    }

    /// Whether the connection is to blame, perhaps.
    fn is_of_database(&self) -> bool {
        !self.is_own
    }

    /// Whether another row has the key.
    pub(super) fn is_taken(&self) -> bool {
        self.is_taken
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::log_safe::LogSafe(&self.text).fmt(f)
    }
}

impl<E: std::error::Error + 'static> From<E> for DatabaseError {
    fn from(error: E) -> DatabaseError {
        let any = &error as &dyn Any;
        DatabaseError {
            text: error.to_string(),
            is_away: any.is::<PoolError>(),
            is_taken: matches!(
                any.downcast_ref(),
                Some(QueryError::DatabaseError(Kind::UniqueViolation, _))
            ),
            is_own: false,
        }
    }
}

/// The rows of one statement.
pub(super) type Rows = Vec<String>;

/// Runs statements; in each, `{in}` is where its document goes.
pub(super) trait Session {
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError>;
}

/// What is done within one transaction.
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
    fn read(&self, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs one statement; whoever asks sees what it did, and it survives the end of this process.
    fn write(&self, sql: &str, document: &str) -> Result<Rows, DatabaseError>;

    /// Runs several, all or none: what an error of `work` leaves undone was never there.
    fn transact(&self, work: &mut Work<'_>) -> Result<(), DatabaseError>;

    /// Returns when what was written before survives a power failure as well.
    fn settle(&self) -> Result<(), DatabaseError>;

    /// Tells the other processes, where there can be any.
    fn notify(&self, message: &str) -> Result<(), DatabaseError>;
}

/// Opens `sqlite://PATH` or `postgres://…`, and brings its tables up to date.
pub(super) fn open(url: &str) -> Result<Box<dyn Database>, DatabaseError> {
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Box::new(sqlite::SqliteDatabase::open(path)?))
        }
        None => Ok(Box::new(postgres::PostgresDatabase::open(url)?)),
    }
}

fn migrate<C, DB>(connection: &mut C, migrations: EmbeddedMigrations) -> Result<(), DatabaseError>
where
    DB: Backend,
    C: MigrationHarness<DB>,
{
    match connection.run_pending_migrations(migrations) {
        Ok(_) => Ok(()),
        Err(error) => Err(DatabaseError::new(&format!("a migration failed: {error}"))),
    }
}
