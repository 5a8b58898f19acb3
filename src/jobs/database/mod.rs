//! One narrow interface for both databases. A statement takes one JSON document and returns rows of one text each, so
//! that the callers need not know the database.
//!
//! Each duty has its own connections. Every statement has a time limit on this side too.

mod error;
mod interface;
mod migrate;
mod pool;
mod postgres;
mod sqlite;
pub(super) mod url;

use std::time::Duration;

pub(super) use error::DatabaseError;
use interface::PerDuty;
pub(super) use interface::{Database, Dialect, Duty, Rows, Session, Work};
pub(super) use postgres::{Connection, with_time_limits};
use url::Address;

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
