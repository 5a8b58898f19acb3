//! Applies migrations: each one once and in order, by one process at a time.

use std::time::{Duration, Instant};

use super::DatabaseError;

/// A migration's name, which begins with its date, and its SQL.
pub(super) type Migration = (&'static str, &'static str);

/// The migrations that both databases have, followed by `$more` for one of them.
macro_rules! migrations {
    ($database:literal $(, $more:literal)*) => {
        migrations!(@ $database,
            "2026-11-24-000000_jobs",
            "2026-11-24-000001_job_receipts",
            "2026-11-26-000000_claims_and_counts",
            "2026-11-26-000001_indexes"
            $(, $more)*)
    };
    (@ $database:literal, $($name:literal),*) => {
        &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $database, "/", $name, "/up.sql")),
        )),*]
    };
}
pub(super) use migrations;

/// The table of applied versions. The name comes from a library that did this earlier.
pub(super) const VERSIONS_TABLE: &str = "__diesel_schema_migrations";

/// A file that begins with this line runs without a transaction, statement by statement. Empty lines separate the
/// statements.
const NO_TRANSACTION: &str = "-- no transaction";

/// How long a migration is retried if other sessions hold its locks.
const BUSY_FOR: Duration = Duration::from_secs(600);

/// A database that can be migrated.
pub(super) trait Migrator {
    /// Returns the versions that are applied.
    fn versions(&mut self) -> Result<Vec<String>, DatabaseError>;

    /// Waits until no other process migrates the database. Closing the connection releases the lock.
    fn lock(&mut self) -> Result<(), DatabaseError>;

    /// Runs statements without a time limit. After an error, no transaction is open.
    fn run(&mut self, sql: &str) -> Result<(), DatabaseError>;

    /// The SQL that records a version.
    fn record_sql(&self, version: &str) -> String;

    /// The SQL that begins a migration's transaction.
    fn begin_sql(&self) -> &'static str {
        "BEGIN;"
    }

    /// Applies pending migrations and returns their names. If there are none, it locks and creates nothing.
    fn migrate(&mut self, known: &'static [Migration]) -> Result<Vec<String>, DatabaseError> {
        if pending(&self.versions()?, known)?.is_empty() {
            return Ok(Vec::new());
        }
        self.lock()?;
        // Another process may have applied them before this one got the lock.
        let pending = pending(&self.versions()?, known)?;
        self.run(&table_sql())?;
        for (name, sql) in &pending {
            log::info!("Migrating the database: {name}");
            self.apply(name, sql)
                .map_err(|error| error.within(&format!("migration {name}")))?;
        }
        Ok(pending.iter().map(|(name, _)| (*name).to_owned()).collect())
    }

    fn apply(&mut self, name: &str, sql: &str) -> Result<(), DatabaseError> {
        let begun = Instant::now();
        for part in parts(name, sql, self) {
            loop {
                match self.run(&part) {
                    // Another process was faster.
                    Err(_)
                        if self
                            .versions()
                            .is_ok_and(|all| all.contains(&version(name))) =>
                    {
                        return Ok(());
                    }
                    Err(DatabaseError::Busy(why)) if begun.elapsed() < BUSY_FOR => {
                        log::warn!(
                            "Migration {name} is blocked by other sessions, retrying: {why}"
                        );
                        std::thread::sleep(Duration::from_millis(500));
                    }
                    done => break done?,
                }
            }
        }
        Ok(())
    }

    /// Returns the SQL of pending migrations, to read it or to run it by hand. It is empty if there are none.
    fn pending_sql(&mut self, known: &'static [Migration]) -> Result<String, DatabaseError> {
        let pending = pending(&self.versions()?, known)?;
        let mut sql = String::new();
        if !pending.is_empty() {
            sql += &table_sql();
        }
        for (name, body) in pending {
            let body = parts(name, body, self).join("\n\n");
            sql += &format!("\n-- {name}\n{body}\n");
        }
        Ok(sql)
    }
}

fn table_sql() -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {VERSIONS_TABLE} (\
         version VARCHAR(50) PRIMARY KEY NOT NULL, run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);\n"
    )
}

/// Splits a migration into parts. Each part is applied entirely or not at all.
fn parts(name: &str, sql: &str, migrator: &(impl Migrator + ?Sized)) -> Vec<String> {
    let record = migrator.record_sql(&version(name));
    if !sql.starts_with(NO_TRANSACTION) {
        return vec![format!(
            "{}\n{sql}\n{record}\nCOMMIT;",
            migrator.begin_sql()
        )];
    }
    let statements = sql.split("\n\n").map(str::trim).flat_map(|part| {
        // A comment of the file may stand between two statements.
        part.split_inclusive(";\n")
    });
    let statements = statements.map(|part| part.trim().to_owned());
    statements
        .filter(|part| !part.is_empty())
        .chain([record])
        .collect()
}

/// `2026-11-24-000000_jobs` has version `20261124000000`.
fn version(name: &str) -> String {
    let date = name.split('_').next().unwrap_or_default();
    date.replace('-', "")
}

fn pending(
    versions: &[String],
    known: &'static [Migration],
) -> Result<Vec<&'static Migration>, DatabaseError> {
    let newest = known
        .last()
        .map(|(name, _)| version(name))
        .unwrap_or_default();
    let theirs = versions.iter().max();
    if let Some(theirs) = theirs.filter(|theirs| **theirs > newest) {
        return Err(DatabaseError::Refused(format!(
            "its schema has version {theirs}, but this program supports versions up to {newest}: run a newer program"
        )));
    }
    let is_pending = |(name, _): &&Migration| !versions.contains(&version(name));
    Ok(known.iter().filter(is_pending).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Migration] = &[("2026-01-01-000000_a", ""), ("2026-01-02-000000_b", "")];

    #[test]
    fn an_applied_migration_is_not_pending() {
        let names = |versions: &[&str]| -> Vec<&str> {
            let versions: Vec<_> = versions.iter().map(|v| (*v).to_owned()).collect();
            let pending = pending(&versions, KNOWN).expect("known");
            pending.iter().map(|(name, _)| *name).collect()
        };
        assert_eq!(names(&[]), ["2026-01-01-000000_a", "2026-01-02-000000_b"]);
        assert_eq!(names(&["20260101000000"]), ["2026-01-02-000000_b"]);
        assert_eq!(names(&["20260102000000", "20260101000000"]), [""; 0]);
    }

    #[test]
    fn a_newer_schema_is_refused_with_both_versions() {
        let error = pending(&["20270101000000".to_owned()], KNOWN).expect_err("newer");
        let message = error.to_string();
        assert!(
            message.contains("20270101000000") && message.contains("20260102000000"),
            "{message}"
        );
    }
}
