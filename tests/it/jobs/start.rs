use std::net::TcpListener;
use std::time::Duration;

use async_task_system::Config;

use super::{Db, User};
use crate::support::{Pooler, Process, TempDir, execute, run, stderr, stdout, wait_until};

on_both! {
    the_migrations_are_listed_once_and_then_the_schema_is_current
    many_first_starts_at_once_all_serve
    a_newer_schema_is_refused_naming_both_versions
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
    let url = "postgres://hugo:hunter2@127.0.0.1:1/jobs?colour=blue";
    let line = refused(&db, &[("STORAGE", "postgres"), ("DATABASE_URL", url)]);
    assert!(
        line.contains("DATABASE_URL") && line.contains("\"colour\""),
        "{line}"
    );
    assert!(
        !line.contains("hunter2") && !line.contains("hugo"),
        "{line}"
    );
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
        assert!(
            !text.contains("\\n") && !text.contains("\\t"),
            "no line ends: {text}"
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

/// Starts one process of each, at once, on a database that has nothing yet; all serve.
fn many_first_starts_at_once_all_serve(db: &Db) {
    let count = if db.is_sqlite() { 12 } else { 6 };
    let variables = db.variables(&[("ENABLE_QUEUE", "false")]);
    std::thread::scope(|scope| {
        let start = || Process::start(&db.dir, &variables);
        let starts: Vec<_> = (0..count).map(|_| scope.spawn(start)).collect();
        for started in starts {
            let process = started.join().expect("it serves");
            User::of(&process.client, "alice").add_type("dummy");
        }
    });
}

/// What a start says, and its code.
fn judged(db: &Db, url: &str) -> String {
    let output = run(
        &TempDir::new(),
        &[],
        &db.variables(&[("DATABASE_URL", url)]),
    );
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_database_that_cannot_carry_the_queue_is_refused_with_what_to_do() {
    let Some(db) = Db::postgres() else { return };
    let name = db.rows("SELECT current_database()").remove(0);
    db.execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on"
    ));
    assert!(judged(&db, &db.url).contains("it is read-only: name the primary"));
    db.execute(&format!(
        "COMMIT; BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT"
    ));
    let latin = format!("{name}_latin1");
    db.execute(&format!(
        "CREATE DATABASE {latin} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    ));
    let said = judged(&db, &db.url.replace(&name, &latin));
    db.execute(&format!("DROP DATABASE {latin}"));
    assert!(
        said.contains("LATIN1") && said.contains("createdb -E UTF8 -T template0"),
        "{said}"
    );
}

fn a_newer_schema_is_refused_naming_both_versions(db: &Db) {
    drop(db.start(&[]));
    db.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('20991231000000')");
    let said = judged(db, &db.url);
    assert!(
        said.contains("20991231000000") && said.contains("supports versions up to 2026"),
        "{said}"
    );
}

#[test]
fn a_start_says_which_lock_it_waits_for_and_stops_when_told() {
    const LOCK: i64 = 0x6174_735f_6a6f_6273;
    let Some(db) = Db::postgres() else { return };
    std::thread::scope(|scope| {
        let hold = format!("SELECT pg_advisory_lock({LOCK}), pg_sleep(600)");
        let url = db.url.clone();
        scope.spawn(move || crate::support::succeeds(&url, &hold));
        let held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        wait_until(|| !db.rows(held).is_empty());
        let holder = db.rows(held).remove(0);
        let mut process = Process::begin(&db.dir, &db.variables(&[]));
        wait_until(|| process.has(&format!("the migration lock, which backend {holder} holds")));
        process.signal("TERM");
        let (code, took) = process.ended();
        db.execute(&format!("SELECT pg_terminate_backend({holder})"));
        assert_eq!(code, Some(0), "{:?}", process.log());
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

/// Once the tables are there, a start needs no right to make any.
#[test]
fn a_role_without_the_right_to_create_serves_a_current_schema() {
    let Some(db) = Db::postgres() else { return };
    drop(db.start(&[]));
    let role = db.rows("SELECT current_database() || '_role'").remove(0);
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    ));
    let (_, host) = db.url.split_once('@').expect("a user in the address");
    let url = format!("postgres://{role}@{host}");
    let process = Process::start(&TempDir::new(), &db.variables(&[("DATABASE_URL", &url)]));
    let alice = User::of(&process.client, "alice");
    alice.add(super::once(0.0));
    assert_eq!(alice.settle(), (1, 0));
    drop(process);
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Serializable is what one transaction sets, not what the queue is told by the database.
#[test]
fn a_database_whose_isolation_is_serializable_serves_all() {
    let Some(db) = Db::postgres() else { return };
    let name = db.rows("SELECT current_database()").remove(0);
    db.execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"
    ));
    let server = db.start(&[]);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let user = User::of(&server.client, &format!("user{n}"));
            scope.spawn(move || {
                (0..40).for_each(|_| drop(user.add(super::once(0.0))));
                assert_eq!(user.settle(), (40, 0));
            });
        }
    });
}

#[test]
fn a_file_that_was_replaced_is_noticed_and_nothing_is_acknowledged() {
    let db = Db::sqlite();
    let server = db.start(&[]);
    let alice = User::of(&server.client, "alice");
    alice.add_type("dummy");
    std::fs::rename(db.dir.file("jobs.db"), db.dir.file("elsewhere.db")).expect("renamed");
    let refused = alice.post("/jobs", super::once(0.0)).expect(503).json();
    assert_eq!(refused["code"], "database_unavailable", "{refused}");
    std::fs::rename(db.dir.file("elsewhere.db"), db.dir.file("jobs.db")).expect("renamed");
    wait_until(|| alice.post("/jobs", super::once(0.0)).status == 201);
}

fn pooled(db: &Db, mode: &str) -> Option<Pooler> {
    let pooler = Pooler::before(&db.url, mode);
    if pooler.is_none() {
        super::skip("PgBouncer", "pgbouncer");
    }
    pooler
}

/// Two transactions of one session may be two backends', of which one has the session's settings.
#[test]
fn a_pooler_in_transaction_mode_is_refused() {
    let Some(db) = Db::postgres() else { return };
    let Some(pooler) = pooled(&db, "transaction") else {
        return;
    };
    let said = judged(&db, &pooler.url);
    assert!(said.contains("pool_mode = session"), "{said}");
}

#[test]
fn a_pooler_in_session_mode_serves_all() {
    let Some(db) = Db::postgres() else { return };
    let Some(pooler) = pooled(&db, "session") else {
        return;
    };
    let server = db.start(&[("DATABASE_URL", &pooler.url)]);
    let alice = User::of(&server.client, "alice");
    alice.add_bulk(50, &super::once(0.0));
    assert_eq!(alice.settle(), (50, 0));
}
