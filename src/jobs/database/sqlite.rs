//! SQLite, in a file.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;

use diesel::connection::{Connection, SimpleConnection};
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use parking_lot::Mutex;

use super::pool::{Connections, pool};
use super::{Database, DatabaseError, Dialect, Rows, Session, Work, migrate};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

const SETUP: &str = "\
    PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
    PRAGMA cache_size = -4000";

/// SQLite has one writer at a time; here they queue for a lock, not for a sleep. It commits without a
/// sync (`synchronous=NORMAL`); [`settle`](Database::settle) syncs the log, so that nobody waits for the
/// disk under the lock.
pub(super) struct SqliteDatabase {
    pool: Connections<SqliteConnection>,
    writing: Mutex<()>,
    log: PathBuf,
}

impl SqliteDatabase {
    pub(super) fn open(path: &str) -> Result<SqliteDatabase, DatabaseError> {
        let mut first = SqliteConnection::establish(path)?;
        first.batch_execute(SETUP)?;
        migrate(&mut first, MIGRATIONS)?;
        // SQLite itself says where: a link's log lies beside what it leads to.
        let place = "SELECT file || '-wal' FROM pragma_database_list WHERE name = 'main'";
        Ok(SqliteDatabase {
            pool: pool(path, SETUP),
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
