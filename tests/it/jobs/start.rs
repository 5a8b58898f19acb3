use std::net::TcpListener;
use std::time::Duration;

use async_task_system::Config;

use super::{Db, User};
use crate::support::{Process, TempDir, execute, run, stderr, stdout, wait_until};

on_both! {
    the_migrations_are_listed_once_and_then_the_schema_is_current
}

/// A refused start, and a refused check: the one line that both say.
fn refused(db: &Db, variables: &[(&str, &str)]) -> String {
    let dir = TempDir::new();
    let said = [&[][..], &["--check"], &["migrate"]].map(|arguments| {
        let output = run(&dir, arguments, &db.variables(variables));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
        text
    });
    assert!(said.iter().all(|text| *text == said[0]), "{said:?}");
    said[0].clone()
}

#[test]
fn a_wrong_address_of_the_database_stops_the_start_in_one_line() {
    let db = Db::sqlite();
    for (url, told) in [
        ("sqlite://:memory:", "write sqlite://jobs.db"),
        ("sqlite:///", "names the folder"),
        (
            "sqlite:///nowhere/jobs.db",
            "the folder /nowhere, which does not exist",
        ),
    ] {
        let line = refused(&db, &[("DATABASE_URL", url)]);
        assert!(line.contains(told), "{line}");
    }
    for password in [
        "hun@ter2", "hun/ter2", "hun?ter2", "hun#ter2", "hunter2%", "hun ter2",
    ] {
        let url = format!("postgres://hugo:{password}@127.0.0.1:1/jobs");
        let line = refused(&db, &[("STORAGE", "postgres"), ("DATABASE_URL", &url)]);
        assert!(
            line.contains("is written %")
                || line.contains("are written %")
                || line.contains("write %20"),
            "{line}"
        );
        assert!(!line.contains("ter2") && !line.contains("hugo"), "{line}");
    }
}

#[test]
fn a_database_that_is_away_ends_the_start_with_1_and_no_secret() {
    let db = Db::sqlite();
    let url = "postgres://hugo:hunter2@127.0.0.1:1/jobs";
    let variables = db.variables(&[("STORAGE", "postgres"), ("DATABASE_URL", url)]);
    for arguments in [&[][..], &["migrate"], &["migrate", "--sql"]] {
        let output = run(&TempDir::new(), arguments, &variables);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            !text.contains("hunter2") && !text.contains("hugo"),
            "{text}"
        );
        let lines = text
            .lines()
            .filter(|line| line.starts_with("async-task-system: "));
        assert_eq!(lines.count(), 1, "{text}");
    }
}

#[test]
fn a_signal_ends_a_start_that_waits_for_the_database() {
    // It accepts, and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = mute.local_addr().expect("an address").port();
    let url = format!("postgres://hugo@127.0.0.1:{port}/jobs?connect_timeout=60");
    let (db, dir) = (Db::sqlite(), TempDir::new());
    let variables = db.variables(&[("STORAGE", "postgres"), ("DATABASE_URL", &url)]);
    for signal in ["TERM", "INT"] {
        let mut process = Process::begin(&dir, &variables);
        let _connection = mute.accept().expect("it connects");
        process.signal(signal);
        let (code, took) = process.ended();
        assert_eq!(code, Some(0), "{:?}", process.log());
        assert!(took < Duration::from_secs(1), "{took:?}");
        let line = "[INFO] Stopping before the start was complete";
        assert!(process.has(line), "{:?}", process.log());
    }
}

fn the_migrations_are_listed_once_and_then_the_schema_is_current(db: &Db) {
    let dir = TempDir::new();
    let say = |arguments: &[&str]| {
        let output = run(&dir, arguments, &db.variables(&[]));
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let sql = say(&["migrate", "--sql"]);
    assert_eq!(say(&["migrate", "--sql"]), sql, "nothing was changed");
    assert!(sql.contains("CREATE TABLE jobs"), "{sql}");
    let applied = say(&["migrate"]);
    assert!(applied.lines().count() >= 2, "{applied}");
    assert!(
        applied.lines().all(|line| line.starts_with("Applied ")),
        "{applied}"
    );
    assert_eq!(say(&["migrate"]), "The schema is current.\n");
    assert_eq!(say(&["migrate", "--sql"]), "-- The schema is current.\n");
    let server = db.serve();
    User::of(&server, "alice").add_type("quick");
}

#[test]
fn the_printed_sql_is_what_a_start_would_have_run() {
    let Some(db) = Db::postgres() else {
        return;
    };
    let dir = TempDir::new();
    let sql = run(&dir, &["migrate", "--sql"], &db.variables(&[]));
    let file = dir.file("pending.sql");
    std::fs::write(&file, stdout(&sql)).expect("a file");
    execute(&db.url, &format!("\\i {}", file.display()));
    let again = run(&dir, &["migrate"], &db.variables(&[]));
    assert_eq!(
        stdout(&again),
        "The schema is current.\n",
        "{}",
        stderr(&again)
    );
    let server = db.serve();
    User::of(&server, "alice").add_type("quick");
}

/// As Prisma writes it.
#[test]
fn a_schema_of_prismas_is_where_the_tables_are() {
    let Some(db) = Db::postgres() else {
        return;
    };
    execute(&db.url, "CREATE SCHEMA queue");
    let separator = if db.url.contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}schema=queue&connection_limit=5", db.url);
    let variables = db.variables(&[("STORAGE", "prisma"), ("DATABASE_URL", &url)]);
    let process = Process::start(&TempDir::new(), &variables);
    let alice = User::of(&process.client, "alice");
    let job = alice.add_type("dummy");
    wait_until(|| alice.job(&job)["attempts"] == 1);
    execute(&db.url, "SELECT 1 / count(*) FROM queue.jobs");
}

#[test]
fn without_a_database_there_is_nothing_to_migrate() {
    let output = run(&TempDir::new(), &["migrate"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("STORAGE=sqlite"),
        "{}",
        stderr(&output)
    );
    assert!(async_task_system::migrate(&Config::default()).is_err());
}
