//! Checks a server before it is used, and migrates its tables.

use std::time::{Duration, Instant};

use super::Connection;
use crate::jobs::database::migrate::{Migrator, VERSIONS_TABLE};
use crate::jobs::database::{DatabaseError, Rows};

/// The time limit of a query at the start.
const QUERY_WITHIN: Duration = Duration::from_secs(10);

/// A migration of a large table takes long.
const MIGRATE_WITHIN: Duration = Duration::from_secs(6 * 3_600);

/// The key of the advisory lock, which lets one process at a time run migrations. The number is arbitrary, but no
/// other program may use it.
const LOCK: i64 = 0x6174_735f_6a6f_6273;

/// How often the lock is tried, and how often a waiting start logs that.
const TRY_EVERY: Duration = Duration::from_millis(250);
const LOG_EVERY: Duration = Duration::from_secs(5);

/// A pooler in transaction mode may give two sessions the same backend. It gets this many chances to do so.
const POOLER_TRIES: usize = 3;

fn refused(why: String) -> DatabaseError {
    DatabaseError::Refused(why)
}

/// Checks whether this server can hold the queue.
///
/// # Errors
///
/// Why it cannot, and what to do.
pub(super) fn check_server(url: &str) -> Result<(), DatabaseError> {
    let mut server = Server::open(url)?;
    let encoding = server.one("SHOW server_encoding")?;
    if encoding != "UTF8" {
        return Err(refused(format!(
            "its encoding is {encoding}, which cannot store every character; create a database in UTF8: \
             createdb -E UTF8 -T template0 NAME"
        )));
    }
    if server.one("SHOW transaction_read_only")? == "on" {
        return Err(refused(
            "it is read-only: name the primary server, or ALTER DATABASE … RESET default_transaction_read_only"
                .to_owned(),
        ));
    }
    match is_shared_session(&mut server, url)? {
        true => Err(refused(
            "it is behind a pooler in transaction mode, but the Job API needs its own sessions: \
             set pool_mode = session, or name the server itself"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Whether two open sessions share one backend.
fn is_shared_session(first: &mut Server, url: &str) -> Result<bool, DatabaseError> {
    // If a pooler has only one connection, the second session fails, which proves nothing.
    let Ok(mut second) = Server::open(url) else {
        return Ok(false);
    };
    for _ in 0..POOLER_TRIES {
        let own = first.one("SELECT pg_backend_pid()")?;
        if second.execute("BEGIN", QUERY_WITHIN).is_err() {
            return Ok(false);
        }
        let other = second.one("SELECT pg_backend_pid()")?;
        second.execute("ROLLBACK", QUERY_WITHIN)?;
        if own == other {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The connection that is used at the start.
pub(super) struct Server(Connection);

impl Server {
    pub(super) fn open(url: &str) -> Result<Server, DatabaseError> {
        let mut server = Server(Connection::open(url)?);
        server.execute("SET client_min_messages = 'warning'", QUERY_WITHIN)?;
        Ok(server)
    }

    fn execute(&mut self, sql: &str, within: Duration) -> Result<(), DatabaseError> {
        let done = self.0.execute(sql, Instant::now() + within);
        done.map_err(|failure| failure.error)
    }

    /// Does not prepare the statement, because a pooler may lose prepared statements.
    fn query(&mut self, sql: &str) -> Result<Rows, DatabaseError> {
        let rows = self.0.query(sql, Instant::now() + QUERY_WITHIN);
        rows.map_err(|failure| failure.error)
    }

    fn one(&mut self, sql: &str) -> Result<String, DatabaseError> {
        Ok(self.query(sql)?.pop().unwrap_or_default())
    }

    /// Tries to take the lock.
    fn try_lock(&mut self) -> Result<bool, DatabaseError> {
        Ok(self.one(&format!("SELECT pg_try_advisory_lock({LOCK})"))? == "t")
    }

    fn holder(&mut self) -> String {
        let sql = format!(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
             AND (classid::bigint << 32 | objid::bigint) = {LOCK} \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        self.one(&sql).unwrap_or_default()
    }
}

impl Migrator for Server {
    fn versions(&mut self) -> Result<Vec<String>, DatabaseError> {
        let sql = format!("SELECT to_regclass('{VERSIONS_TABLE}') IS NOT NULL");
        match self.one(&sql)? == "t" {
            true => self.query(&format!("SELECT version FROM {VERSIONS_TABLE}")),
            false => Ok(Vec::new()),
        }
    }

    /// Closing the connection releases the lock.
    fn lock(&mut self) -> Result<(), DatabaseError> {
        let mut logged = Instant::now() - LOG_EVERY / 2;
        while !self.try_lock()? {
            if logged.elapsed() >= LOG_EVERY {
                logged = Instant::now();
                let holder = self.holder();
                log::warn!("Waiting for the migration lock, which backend {holder} holds");
            }
            std::thread::sleep(TRY_EVERY);
        }
        self.execute(
            "SET statement_timeout = 0; SET lock_timeout = 0",
            QUERY_WITHIN,
        )
    }

    fn run(&mut self, sql: &str) -> Result<(), DatabaseError> {
        let begun = Instant::now();
        let mut logged = begun;
        let done = self
            .0
            .execute_patiently(sql, begun + MIGRATE_WITHIN, &mut || {
                if logged.elapsed() >= LOG_EVERY {
                    logged = Instant::now();
                    log::warn!(
                        "A migration has been running for {} s",
                        begun.elapsed().as_secs()
                    );
                }
            });
        if done.is_err() && !self.0.is_broken() {
            // Outside a transaction this is harmless.
            self.execute("ROLLBACK", QUERY_WITHIN)?;
        }
        done.map_err(|failure| failure.error)
    }

    fn record_sql(&self, version: &str) -> String {
        format!("INSERT INTO {VERSIONS_TABLE} (version) VALUES ('{version}');")
    }
}
