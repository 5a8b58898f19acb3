use std::sync::Barrier;
use std::time::Duration;

use serde_json::{Value, json};

use super::crash::QUICKLY;
use super::{Db, User, once};
use crate::support::{Gate, Process, wait_until, wait_until_every};

on_both! {
    a_worker_that_was_frozen_for_longer_than_its_lease_completes_its_jobs
    jobs_that_are_cancelled_and_retried_at_one_moment_all_complete
    what_is_claimed_ahead_has_not_started
    a_job_that_is_cancelled_and_retried_for_ever_has_a_short_trail
    an_end_that_cannot_be_written_for_longer_than_the_lease_is_the_only_one
    many_who_list_at_once_are_all_answered_and_hold_up_no_addition
}

/// Longer than the lease of [`QUICKLY`].
const FREEZE: Duration = Duration::from_secs(4);

/// Waits until so many of this user's jobs are processing.
fn wait_for_processing(user: &User, count: usize) {
    wait_until_every(Duration::from_millis(20), || {
        user.stats()["processing"] == count
    });
}

fn freeze(process: &Process) {
    process.signal("STOP");
    std::thread::sleep(FREEZE);
    process.signal("CONT");
}

fn a_worker_that_was_frozen_for_longer_than_its_lease_completes_its_jobs(db: &Db) {
    let server = db.start(&QUICKLY);
    let alice = User::of(&server.client, "alice");
    let jobs = alice.add_bulk(10, &once(1.5));
    wait_for_processing(&alice, 10);
    freeze(&server);
    assert_eq!(alice.settle(), (10, 0));
    for job in jobs {
        assert!(alice.job(&job)["attempts"].as_u64() <= Some(2));
    }
}

/// Here another worker has taken the jobs over meanwhile.
#[test]
fn a_worker_that_wakes_finds_its_jobs_taken_over() {
    let Some(db) = Db::postgres() else { return };
    let (first, second) = (db.start(&QUICKLY), db.start(&[("ENABLE_QUEUE", "false")]));
    let alice = User::of(&second.client, "alice");
    let jobs = alice.add_bulk(10, &once(1.5));
    wait_for_processing(&alice, 10);
    let _third = db.start(&QUICKLY);
    freeze(&first);
    assert_eq!(alice.settle(), (10, 0));
    for job in jobs {
        assert!(alice.job(&job)["attempts"].as_u64() <= Some(2));
    }
}

fn jobs_that_are_cancelled_and_retried_at_one_moment_all_complete(db: &Db) {
    let count = 60;
    let server = db.start(&QUICKLY);
    let alice = User::of(&server.client, "alice");
    let jobs = alice.add_bulk(count, &once(3.0));
    wait_for_processing(&alice, count);
    let moment = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for job in &jobs {
                moment.wait();
                alice.act(&format!("/jobs/{job}/cancel"));
            }
        });
        scope.spawn(|| {
            for job in &jobs {
                moment.wait();
                // On a slow machine a job may complete before its cancel comes.
                let is_over = || alice.job(job)["status"] == "completed";
                wait_until(|| alice.act(&format!("/jobs/{job}/retry")).status == 200 || is_over());
            }
        });
    });
    assert_eq!(alice.settle(), (count as u64, 0));
}

/// One that holds the only worker, and one that is claimed ahead.
fn what_is_claimed_ahead_has_not_started(db: &Db) {
    let one = [("WORKER_THREADS", "1"), ("JOB_LEASE_SECONDS", "2")];
    let server = db.serve_with(&one, |_| {});
    let alice = User::of(&server, "alice");
    let running = alice.add_type("blocked");
    alice.wait(&running, "processing");
    let waiting = alice.add_type("quick");
    wait_until(|| db.rows(&format!("SELECT ahead FROM jobs WHERE id = '{waiting}'")) == ["1"]);
    let job = alice.job(&waiting);
    assert_eq!(
        (&job["status"], &job["attempts"]),
        (&json!("pending"), &json!(0))
    );
    assert_eq!(job["startedAt"], Value::Null);
    assert_eq!(alice.events(&waiting), ["created"]);
    assert_eq!(
        (&alice.stats()["pending"], &alice.stats()["processing"]),
        (&json!(1), &json!(1))
    );
    let count = |query: &str| alice.get(query).expect(200).json()["count"].clone();
    assert_eq!(count("/jobs?status=pending"), 1);
    assert_eq!(count("/jobs?status=processing"), 1);
    server.gate.open();
    assert_eq!(alice.wait(&waiting, "completed")["attempts"], 1);
    assert_eq!(alice.events(&waiting), ["created", "started", "completed"]);
}

#[test]
fn a_killed_worker_costs_no_attempt_of_what_it_had_claimed_ahead() {
    let Some(db) = Db::postgres() else { return };
    let front = db.start(&[("ENABLE_QUEUE", "false"), ("MAX_BODY_BYTES", "1000000")]);
    let alice = User::of(&front.client, "alice");
    let mut worker = db.start(&QUICKLY);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| alice.add_bulk(1_000, &once(0.0)));
        }
        wait_until(|| alice.stats()["completed"].as_u64() > Some(200));
        worker.signal("KILL");
        worker.ended();
    });
    let begun_ahead = "SELECT count(*) FROM jobs WHERE ahead = 1 AND attempts > 0";
    assert_eq!(db.rows(begun_ahead), ["0"]);
    let _other = db.start(&QUICKLY);
    assert_eq!(alice.settle(), (3_000, 0));
    // At most its threads' jobs, and those whose begin was written as they ran for a while.
    let twice = db.rows("SELECT count(*) FROM jobs WHERE attempts > 1");
    assert!(
        twice[0].parse::<usize>().expect("a number") <= 4,
        "{twice:?}"
    );
    assert_eq!(db.rows("SELECT max(attempts) <= 2 FROM jobs"), ["t"]);
}

fn a_job_that_is_cancelled_and_retried_for_ever_has_a_short_trail(db: &Db) {
    let server = db.serve_with(&[("ENABLE_QUEUE", "false")], |_| {});
    let alice = User::of(&server, "alice");
    let job = alice.add_type("quick");
    let rounds = 400;
    for _ in 0..rounds {
        alice.act(&format!("/jobs/{job}/cancel")).expect(200);
        alice.act(&format!("/jobs/{job}/retry")).expect(200);
    }
    let reply = alice
        .get(&format!("/jobs/{job}/history"))
        .expect(200)
        .json();
    let history = reply["history"].as_array().expect("a list");
    assert!(history.len() < 300, "{}", history.len());
    let number = |entry: &Value| entry["seq"].as_u64().expect("a number");
    let numbers: Vec<u64> = history.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!(history[0]["event"], "created");
    assert_eq!(number(&history[0]), 1);
    let last = history.last().expect("an entry");
    assert_eq!(
        (&last["event"], number(last)),
        (&json!("retried"), 1 + 2 * rounds)
    );
    // One gap, between the first entries and the newest.
    let gaps = numbers.windows(2).filter(|pair| pair[1] > pair[0] + 1);
    assert_eq!(gaps.count(), 1, "{numbers:?}");
    let size = db.rows("SELECT length(trail) FROM jobs");
    assert!(
        size[0].parse::<usize>().expect("a number") < 9_000,
        "{size:?}"
    );
}

/// Somebody holds the row for longer than the lease.
fn an_end_that_cannot_be_written_for_longer_than_the_lease_is_the_only_one(db: &Db) {
    let gate = Gate::default();
    let server = db.start(&QUICKLY);
    let alice = User::of(&server.client, "alice");
    let job = alice.add_bulk(1, &once(0.7)).remove(0);
    alice.wait(&job, "processing");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            hold(db, &job);
            gate.open();
        });
        wait_until(|| gate.is_open());
    });
    let done = alice.wait(&job, "completed");
    assert_eq!(done["attempts"], 1, "{done}");
    assert_eq!(alice.events(&job), ["created", "started", "completed"]);
}

/// Holds the job's row, or the whole of SQLite's file, for longer than a lease.
fn hold(db: &Db, job: &str) {
    if db.is_sqlite() {
        let file = db.sqlite_file();
        file.execute_batch("BEGIN IMMEDIATE").expect("it runs");
        std::thread::sleep(FREEZE);
        file.execute_batch("ROLLBACK").expect("it runs");
    } else {
        db.execute(&format!(
            "BEGIN; SELECT 1 FROM jobs WHERE id = '{job}' FOR UPDATE; SELECT pg_sleep(4); COMMIT"
        ));
    }
}

/// Somebody holds the row of one that reports, for as long as the others take.
#[test]
fn a_row_that_is_held_keeps_no_other_job_from_beginning_and_reporting() {
    let Some(db) = Db::postgres() else { return };
    let server = db.start(&[]);
    let alice = User::of(&server.client, "alice");
    let held = alice.add(once(120.0));
    wait_for_processing(&alice, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let hold = format!("SELECT 1 FROM jobs WHERE id = '{held}' FOR UPDATE");
            crate::support::succeeds(&db.url, &format!("BEGIN; {hold}; SELECT pg_sleep(60)"))
        });
        let sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
             AND datname = current_database()";
        wait_until(|| !db.rows(sleeping).is_empty());
        let others: Vec<_> = (0..5).map(|_| alice.add(once(120.0))).collect();
        let has_reported = |job: &String| alice.job(job)["progress"].as_u64() > Some(0);
        wait_until_every(Duration::from_millis(50), || {
            others.iter().all(has_reported)
        });
        let holder = db.rows(sleeping).remove(0);
        db.execute(&format!("SELECT pg_terminate_backend({holder})"));
    });
    // It would have gone on after a while, too, had it waited in vain.
    let log = server.log();
    let waited = log.iter().any(|line| line.contains("The completer waits"));
    assert!(!waited, "{log:?}");
}

fn many_who_list_at_once_are_all_answered_and_hold_up_no_addition(db: &Db) {
    let server = db.start(&[("MAX_BODY_BYTES", "1000000")]);
    let alice = User::of(&server.client, "alice");
    alice.add_bulk(2_000, &once(0.0));
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                for _ in 0..5 {
                    alice.get("/jobs?limit=100").expect(200);
                    alice.get("/jobs/stats").expect(200);
                }
            });
        }
        for _ in 0..50 {
            alice.add(once(0.0));
        }
    });
    assert_eq!(alice.settle(), (2_050, 0));
}
