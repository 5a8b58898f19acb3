//! PostgreSQL, over the network.

use diesel::connection::{Connection, SimpleConnection};
use diesel::pg::PgConnection;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

use super::pool::{Connections, pool};
use super::{Database, DatabaseError, Dialect, Rows, Session, Work, migrate};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Held while migrations run, so that of many processes one does it: any number will do, as long
/// as nobody else's program takes the same.
const MIGRATION_LOCK: i64 = 0x6174_735f_6a6f_6273;

/// Who waits for a lock, or for an answer, gives up in time; and who is halted within a transaction
/// loses it, with the rows that it holds.
///
/// A queue fills and empties faster than statistics follow. Every statement has its index, and
/// whatever the planner believes about the table's size, that is the way to go; and statements this
/// short gain nothing from being compiled.
const SETUP: &str = "\
    SET lock_timeout = '5s'; SET statement_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '5s'; SET enable_seqscan = off; \
    SET enable_sort = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET jit = off";

pub(super) struct PostgresDatabase {
    pool: Connections<PgConnection>,
}

impl PostgresDatabase {
    pub(super) fn open(url: &str) -> Result<PostgresDatabase, DatabaseError> {
        let url = &with_time_limits(url);
        let mut first = PgConnection::establish(url)?;
        first.batch_execute(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})"))?;
        // The lock goes with the connection.
        migrate(&mut first, MIGRATIONS)?;
        drop(first);
        let pool = pool(url, SETUP);
        Ok(PostgresDatabase { pool })
    }
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
    let mut limited = url.to_owned();
    for (name, value) in limits.iter().filter(|(name, _)| !url.contains(name)) {
        limited.push(if limited.contains('?') { '&' } else { '?' });
        limited.push_str(&format!("{name}={value}"));
    }
    limited
}

impl Database for PostgresDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn read(&self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        self.pool.get()?.with(|c| c.run(sql, document))
    }

    fn write(&self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        self.pool.get()?.with(|c| c.run(sql, document))
    }

    fn transact(&self, work: &mut Work<'_>) -> Result<(), DatabaseError> {
        self.pool.get()?.with(|c| c.transaction(|c| work(c)))
    }

    /// A commit is durable as far as the server's settings have it.
    fn settle(&self) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn notify(&self, message: &str) -> Result<(), DatabaseError> {
        let sql = "SELECT pg_notify('async_task_jobs', {in})::text";
        self.read(sql, message).map(drop)
    }
}
