//! SQLite, in a file.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::migrate::{Migration, Migrator, VERSIONS_TABLE, migrations};
use super::pool::{Breaks, Pool, Pooled};
use super::{Database, DatabaseError, Dialect, Duty, PerDuty, Rows, Session, Work};

const MIGRATIONS: &[Migration] = migrations!(
    "sqlite",
    "2026-11-26-000003_pauses",
    "2026-12-01-000000_job_log"
);

/// The settings of each connection. Commits are not synced (`synchronous=NORMAL`).
const SETUP: &str = "\
    PRAGMA synchronous = NORMAL; PRAGMA cache_size = -2000; PRAGMA journal_size_limit = 67108864";

/// How long a start waits for other processes that start.
const START_WITHIN: Duration = Duration::from_secs(30);

/// The most prepared statements of a connection.
const MAX_PREPARED: usize = 100;

/// The time limit of a statement is checked after this many steps.
const STEPS: i32 = 10_000;

/// A longer write-ahead log is emptied. With frequent readers SQLite does not do it on its own.
const MAX_LOG: u64 = 32 << 20;

/// The most free pages returned to the file system at once.
const PAGES: u32 = 2_000;

/// SQLite has one writer at a time. Writers of this process queue for a lock instead of sleeping and retrying.
/// [`sync`](Database::sync) syncs the log outside that lock, so that writers do not wait for the disk.
pub(super) struct SqliteDatabase {
    connections: PerDuty<Connections>,
    writing: Mutex<()>,
    file: Arc<OpenFile>,
    log: PathBuf,
}

/// The connections of one duty, and the time limit of its statements.
struct Connections {
    pool: Pool<Timed>,
    within: Duration,
}

/// The identity of the open file. Another file of the same name has other jobs in it.
struct OpenFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// A connection with the time limit of its duty.
struct Timed {
    connection: Connection,
    within: Duration,
    is_broken: bool,
}

impl SqliteDatabase {
    pub(super) fn open(
        path: &Path,
        worker_within: Duration,
    ) -> Result<SqliteDatabase, DatabaseError> {
        let first = Starter::open(path)?;
        let log = first.log()?;
        Starter::migrate_all(first)?;
        let file = Arc::new(OpenFile::of(path)?);
        let breaks = Breaks::default();
        let connections = |duty| {
            let (most, within) = match duty {
                Duty::Request => (4, Duration::from_secs(4)),
                Duty::List => (2, Duration::from_secs(5)),
                Duty::Watch => (1, Duration::from_secs(4)),
                _ => (1, worker_within),
            };
            let patience = within.min(Duration::from_secs(4));
            Connections {
                pool: Pool::new(file.opening(within), breaks.clone(), most, patience),
                within,
            }
        };
        Ok(SqliteDatabase {
            connections: PerDuty::new(connections),
            writing: Mutex::new(()),
            file: file.clone(),
            log,
        })
    }

    /// Runs `work` as the only writer of this process.
    fn as_writer<T>(
        &self,
        duty: Duty,
        work: impl FnOnce(&mut Timed) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        self.file.check()?;
        let connections = self.connections.of(duty);
        connections.pool.with(|connection| {
            let writing = self.writing.try_lock_for(connections.within);
            let _guard = writing.ok_or_else(|| {
                let text = "earlier writers take too long";
                DatabaseError::Busy(text.to_owned())
            })?;
            work(connection)
        })
    }
}

impl OpenFile {
    fn of(path: &Path) -> Result<OpenFile, DatabaseError> {
        let found = std::fs::metadata(path)?;
        Ok(OpenFile {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// # Errors
    ///
    /// The name now leads to another file or to none. Anything written would be lost at the next start.
    fn check(&self) -> Result<(), DatabaseError> {
        let found = std::fs::metadata(&self.path);
        let is_same =
            found.is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        match is_same {
            true => Ok(()),
            false => {
                let text = "the database file was deleted or replaced while the server was running: \
                            restore it, or restart the server";
                Err(DatabaseError::Unavailable(text.to_owned()))
            }
        }
    }

    /// Opens further connections to the same file, and never creates one.
    fn opening(self: &Arc<OpenFile>, within: Duration) -> Box<super::pool::Opening<Timed>> {
        let file = self.clone();
        Box::new(move || {
            file.check()?;
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&file.path, flags)?;
            connection.busy_timeout(within)?;
            connection.execute_batch(SETUP)?;
            connection.set_prepared_statement_cache_capacity(MAX_PREPARED);
            Ok(Timed {
                connection,
                within,
                is_broken: false,
            })
        })
    }
}

impl Pooled for Timed {
    fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn is_alive(&mut self) -> bool {
        true
    }
}

impl Timed {
    fn rows(&mut self, sql: &str, document: &str) -> Result<Rows, rusqlite::Error> {
        let deadline = Instant::now() + self.within;
        let is_late = move || Instant::now() >= deadline;
        self.connection.progress_handler(STEPS, Some(is_late))?;
        let mut statement = self.connection.prepare_cached(&sql.replace("{in}", "?1"))?;
        let mut found = match statement.parameter_count() {
            0 => statement.query([])?,
            _ => statement.query([document])?,
        };
        let mut rows = Rows::new();
        while let Some(row) = found.next()? {
            rows.push(match row.get_ref(0)? {
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Integer(number) => number.to_string(),
                _ => String::new(),
            });
        }
        Ok(rows)
    }

    fn batch(&mut self, sql: &str) -> Result<(), DatabaseError> {
        let done = self.connection.execute_batch(sql);
        self.noted(done)
    }

    fn noted<T>(&mut self, done: Result<T, rusqlite::Error>) -> Result<T, DatabaseError> {
        let done = done.map_err(DatabaseError::from);
        self.is_broken |= matches!(done, Err(DatabaseError::Unavailable(_)));
        done
    }
}

impl Session for Timed {
    fn run(&mut self, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        let done = self.rows(sql, document);
        self.noted(done)
    }
}

impl Database for SqliteDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn read(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        self.file.check()?;
        let connections = self.connections.of(duty);
        connections
            .pool
            .with(|connection| connection.run(sql, document))
    }

    fn write(&self, duty: Duty, sql: &str, document: &str) -> Result<Rows, DatabaseError> {
        self.as_writer(duty, |connection| connection.run(sql, document))
    }

    fn transact(&self, duty: Duty, work: &mut Work<'_>) -> Result<(), DatabaseError> {
        self.as_writer(duty, |connection| {
            connection.batch("BEGIN IMMEDIATE")?;
            let done = work(connection).and_then(|()| connection.batch("COMMIT"));
            if done.is_err() && !connection.connection.is_autocommit() {
                connection.batch("ROLLBACK")?;
            }
            done
        })
    }

    /// Data that has left the log was synced on its way into the file. The log is opened each time, because SQLite
    /// may have created a new one.
    fn sync(&self) -> Result<(), DatabaseError> {
        self.file.check()?;
        match File::open(&self.log) {
            Ok(log) => Ok(log.sync_data()?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn notify(&self, _: Duty, _: &str) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn tidy(&self) -> Result<(), DatabaseError> {
        let size = std::fs::metadata(&self.log).map_or(0, |log| log.len());
        self.as_writer(Duty::Maintain, |connection| {
            connection.batch(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
            match size > MAX_LOG {
                // This waits for current readers, which finish soon.
                true => connection
                    .run("PRAGMA wal_checkpoint(TRUNCATE)", "")
                    .map(drop),
                false => Ok(()),
            }
        })
    }
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> DatabaseError {
        let text = error.to_string();
        let rusqlite::Error::SqliteFailure(failure, _) = &error else {
            return DatabaseError::Refused(text);
        };
        match failure.code {
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OperationInterrupted => DatabaseError::Busy(text),
            ErrorCode::ConstraintViolation => match failure.extended_code {
                rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
                | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY => DatabaseError::Duplicate(text),
                _ => DatabaseError::Refused(text),
            },
            ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::DiskFull
            | ErrorCode::CannotOpen
            | ErrorCode::NotADatabase
            | ErrorCode::OutOfMemory => DatabaseError::Unavailable(text),
            _ => DatabaseError::Refused(text),
        }
    }
}

/// The connection that is used at the start.
struct Starter(Connection);

impl Starter {
    fn open(path: &Path) -> Result<Starter, DatabaseError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(START_WITHIN)?;
        Ok(Starter(connection))
    }

    /// If many processes start on a new file, SQLite returns "busy" for some steps without waiting.
    fn migrate_all(mut starter: Starter) -> Result<Vec<String>, DatabaseError> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let done = starter.prepare().and_then(|()| starter.migrate(MIGRATIONS));
            let Err(error) = done else { return done };
            if !error.is_outage() || Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn prepare(&mut self) -> Result<(), DatabaseError> {
        // This takes effect only before the first table is created.
        let setup = format!("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; {SETUP}");
        Ok(self.0.execute_batch(&setup)?)
    }

    fn rows(&self, sql: &str) -> Result<Rows, DatabaseError> {
        let mut statement = self.0.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Asks SQLite, because the log of a symbolic link lies beside the link's target.
    fn log(&self) -> Result<PathBuf, DatabaseError> {
        let place = "SELECT file || '-wal' FROM pragma_database_list WHERE name = 'main'";
        Ok(self.rows(place)?.concat().into())
    }
}

impl Migrator for Starter {
    fn versions(&mut self) -> Result<Vec<String>, DatabaseError> {
        let sql = format!("SELECT name FROM sqlite_schema WHERE name = '{VERSIONS_TABLE}'");
        match self.rows(&sql)?.is_empty() {
            true => Ok(Vec::new()),
            false => self.rows(&format!("SELECT version FROM {VERSIONS_TABLE}")),
        }
    }

    /// Each migration takes the lock of the file.
    fn lock(&mut self) -> Result<(), DatabaseError> {
        Ok(())
    }

    fn run(&mut self, sql: &str) -> Result<(), DatabaseError> {
        let done = self.0.execute_batch(sql);
        if done.is_err() && !self.0.is_autocommit() {
            self.0.execute_batch("ROLLBACK")?;
        }
        Ok(done?)
    }

    fn record_sql(&self, version: &str) -> String {
        format!("INSERT INTO {VERSIONS_TABLE} (version) VALUES ('{version}');")
    }

    fn begin_sql(&self) -> &'static str {
        "BEGIN IMMEDIATE;"
    }
}

/// Applies pending migrations and returns their names.
pub(super) fn migrate(path: &Path) -> Result<Vec<String>, DatabaseError> {
    Starter::migrate_all(Starter::open(path)?)
}

/// Returns the SQL of pending migrations. Does not create the file.
pub(super) fn migration_sql(path: &Path) -> Result<String, DatabaseError> {
    let connection = match path.exists() {
        true => Connection::open(path)?,
        false => Connection::open_in_memory()?,
    };
    Starter(connection).pending_sql(MIGRATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log that `sync` syncs is the log that SQLite writes.
    #[test]
    fn the_log_is_found_behind_a_link() {
        let name = format!("async-task-system-log-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(folder.join("real")).expect("a folder");
        let link = folder.join("link.db");
        std::os::unix::fs::symlink(folder.join("real/jobs.db"), &link).expect("a link");
        for path in [&link, &folder.join("plain.db")] {
            let database = SqliteDatabase::open(path, START_WITHIN).expect("it opens");
            let change = "UPDATE jobs SET seq = seq + 1 RETURNING id || {in}";
            database
                .write(Duty::Request, change, "")
                .expect("it writes");
            assert!(database.log.exists(), "{}", database.log.display());
            database.sync().expect("it syncs");
        }
        std::fs::remove_dir_all(&folder).expect("it is removed");
    }
}
