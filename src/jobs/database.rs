//! The two databases behind one narrow interface: a statement takes one JSON document and gives
//! rows of one JSON text each, so that nothing above knows which database it is.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use diesel::backend::Backend;
use diesel::connection::{Connection, LoadConnection, SimpleConnection};
use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::r2d2::{ConnectionManager, ManageConnection, Pool, PoolError, R2D2Connection};
use diesel::result::{DatabaseErrorKind as Kind, Error as QueryError};
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::{QueryResult, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use parking_lot::Mutex;

const SQLITE_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Connections that handlers and workers share.
const MAX_CONNECTIONS: u32 = 6;

/// How long a caller waits for a connection before the database counts as away.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long a connection is believed to be good after it was.
const TRUSTED_FOR: Duration = Duration::from_millis(50);

/// Held while migrations run, so that of many processes one does it: any number will do, as long
/// as nobody else's program takes the same.
const MIGRATION_LOCK: i64 = 0x6174_735f_6a6f_6273;

/// The database did not do what it was asked; in its own words, for the log alone.
#[derive(Clone, Debug)]
pub(super) struct DatabaseError {
    text: String,
    /// No connection could be had.
    is_away: bool,
    /// Another row has what must be there once.
    is_taken: bool,
}

impl DatabaseError {
    pub(super) fn new(text: &str) -> DatabaseError {
        DatabaseError {
            text: text.to_owned(),
            is_away: false,
            is_taken: false,
        }
    }

    /// Whether asking again at once would only wait again.
    pub(super) fn is_away(&self) -> bool {
        self.is_away
    }

    /// Whether another row has the key.
    pub(super) fn is_taken(&self) -> bool {
        self.is_taken
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::LogSafe(&self.text).fmt(f)
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

/// SQLite has one writer at a time; here they queue for a lock, not for a sleep. It commits without a
/// sync (`synchronous=NORMAL`); [`settle`](Database::settle) syncs the log, so that nobody waits for the
/// disk under the lock.
struct SqliteDatabase {
    pool: Connections<SqliteConnection>,
    writing: Mutex<()>,
    log: PathBuf,
}

struct PostgresDatabase {
    pool: Connections<PgConnection>,
}

type Connections<C> = Pool<Manager<C>>;

/// Opens connections, and lets go of those that have failed. Only one that has been idle for a
/// while is asked whether it still answers.
struct Manager<C: R2D2Connection + 'static> {
    connections: ConnectionManager<C>,
    /// Run on each new connection.
    setup: &'static str,
}

struct Tracked<C> {
    connection: C,
    used: Instant,
    failed: bool,
}

impl<C> Tracked<C> {
    fn with<T>(
        &mut self,
        f: impl FnOnce(&mut C) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let done = f(&mut self.connection);
        self.used = Instant::now();
        self.failed |= done.is_err();
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

/// Opens `sqlite://PATH` or `postgres://…`, and brings its tables up to date.
pub(super) fn open(url: &str) -> Result<Box<dyn Database>, DatabaseError> {
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Box::new(SqliteDatabase::open(path)?))
        }
        None => {
            let url = &with_time_limits(url);
            let mut first = PgConnection::establish(url)?;
            first.batch_execute(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})"))?;
            // The lock goes with the connection.
            migrate(&mut first, POSTGRES_MIGRATIONS)?;
            drop(first);
            let pool = pool(url, POSTGRES_SETUP);
            Ok(Box::new(PostgresDatabase { pool }))
        }
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

fn pool<C: R2D2Connection + 'static>(url: &str, setup: &'static str) -> Connections<C> {
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

/// A host that has gone without a word is noticed in time; what the URL says itself holds.
pub(super) fn with_time_limits(url: &str) -> String {
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

/// Who waits for a lock, or for an answer, gives up in time.
///
/// A queue fills and empties faster than statistics follow. Every statement has its index, and
/// whatever the planner believes about the table's size, that is the way to go; and statements this
/// short gain nothing from being compiled.
const POSTGRES_SETUP: &str = "SET lock_timeout = '5s'; SET statement_timeout = '10s'; \
                              SET enable_seqscan = off; SET enable_sort = off; \
                              SET enable_bitmapscan = off; SET enable_hashjoin = off; \
                              SET enable_mergejoin = off; SET jit = off";

const SQLITE_SETUP: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                            PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4000";

impl SqliteDatabase {
    fn open(path: &str) -> Result<SqliteDatabase, DatabaseError> {
        let mut first = SqliteConnection::establish(path)?;
        first.batch_execute(SQLITE_SETUP)?;
        migrate(&mut first, SQLITE_MIGRATIONS)?;
        // SQLite itself says where: a link's log lies beside what it leads to.
        let place = "SELECT file || '-wal' FROM pragma_database_list WHERE name = 'main'";
        Ok(SqliteDatabase {
            pool: pool(path, SQLITE_SETUP),
            writing: Mutex::new(()),
            log: first.run(place, "")?.concat().into(),
        })
    }
}

impl Database for SqliteDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn read(&self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        self.pool.get()?.with(|c| c.run(sql, document))
    }

    fn write(&self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        let mut tracked = self.pool.get()?;
        let _alone = self.writing.lock();
        tracked.with(|c| c.run(sql, document))
    }

    fn transact(&self, work: &mut Work<'_>) -> Result<(), DatabaseError> {
        let mut tracked = self.pool.get()?;
        let _alone = self.writing.lock();
        tracked.with(|c| c.immediate_transaction(|c| work(c)))
    }

    /// What is not in the log any more was synced on its way into the file. The log is opened anew each
    /// time: SQLite may have made a new one.
    fn settle(&self) -> Result<(), DatabaseError> {
        match File::open(&self.log) {
            Ok(log) => Ok(log.sync_data()?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn notify(&self, _: &str) -> Result<(), DatabaseError> {
        Ok(())
    }
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

impl<C> Session for C
where
    C: LoadConnection,
    for<'s> Statement<'s>: diesel::query_dsl::LoadQuery<'s, C, String>,
{
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        Ok(Statement { sql, document }.load(self)?)
    }
}

/// A statement that diesel prepares once for each connection, unlike its own `sql_query`.
struct Statement<'a> {
    sql: &'a str,
    document: &'a str,
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    // The SQL itself is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement<'_> {
    type SqlType = Text;
}

impl<C> RunQueryDsl<C> for Statement<'_> {}

impl<DB> QueryFragment<DB> for Statement<'_>
where
    DB: Backend + HasSqlType<Text>,
    str: ToSql<Text, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let (before, after) = self.sql.split_once("{in}").unwrap_or((self.sql, ""));
        out.push_sql(before);
        if self.sql.len() > before.len() {
            out.push_bind_param::<Text, str>(self.document)?;
        }
        out.push_sql(after);
        Ok(())
    }
}

// The bounds above hold for both.
const _: fn() = || {
    fn holds<DB: Backend>()
    where
        for<'a> Statement<'a>: QueryFragment<DB>,
    {
    }
    holds::<Sqlite>();
    holds::<Pg>();
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The log that is synced is the one that SQLite writes.
    #[test]
    fn the_log_is_found_behind_a_link() {
        let name = format!("async-task-system-log-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(folder.join("real")).expect("a folder");
        let link = folder.join("link.db");
        std::os::unix::fs::symlink(folder.join("real/jobs.db"), &link).expect("a link");
        for path in [&link, &folder.join("plain.db")] {
            let database = SqliteDatabase::open(&path.display().to_string()).expect("it opens");
            let change = "UPDATE jobs SET seq = seq + 1 RETURNING id || {in}";
            database.write(change, "").expect("it writes");
            assert!(database.log.exists(), "{}", database.log.display());
            database.settle().expect("it syncs");
        }
        std::fs::remove_dir_all(&folder).expect("it is removed");
    }
}
