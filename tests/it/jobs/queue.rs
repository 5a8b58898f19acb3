use std::sync::Arc;
use std::time::Duration;

use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskInput};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Db, User};
use crate::execution::nesting;
use crate::support::{Dial, Gate, execute, pluck, wait_until};

on_both! {
    an_executor_of_the_embedding_program_runs_as_a_job
    a_job_whose_arguments_do_not_fit_its_type_is_refused
    a_result_nested_deeper_than_readers_bear_fails_the_job
    a_job_waits_for_its_time_and_no_longer
    higher_priority_runs_first_and_then_age
    a_job_that_fails_once_completes_on_its_second_attempt
    a_job_fails_when_its_attempts_are_used_up
    a_job_that_takes_too_long_fails
    an_executor_hears_that_its_job_is_cancelled
    a_job_is_cancelled_at_a_server_that_does_not_run_it
    a_stopped_server_gives_all_its_claims_back
}

fn an_executor_of_the_embedding_program_runs_as_a_job(db: &Db) {
    let server = db.serve_with(&[], |registry| {
        registry.register("own", |_: &TaskInput| {
            Ok(|_: &mut TaskContext<'_>| Ok(Outcome::done(json!({ "own": 1 }))))
        });
    });
    let alice = User::of(&server, "alice");
    let job = alice.add_type("own");
    assert_eq!(alice.wait(&job, "completed")["result"], json!({ "own": 1 }));
}

fn a_job_whose_arguments_do_not_fit_its_type_is_refused(db: &Db) {
    #[derive(serde::Deserialize)]
    struct Sum {
        numbers: Vec<u32>,
    }
    let server = db.serve_with(&[], |registry| {
        registry.typed("sum", |sum: &mut Sum, _: &mut TaskContext<'_>| {
            Ok(Outcome::done(sum.numbers.iter().sum::<u32>().into()))
        });
    });
    let alice = User::of(&server, "alice");
    let job = |numbers: Value| json!({ "type": "sum", "arguments": { "numbers": numbers } });
    let refused = alice.post("/jobs", job(json!([1, "2"]))).expect(400).json();
    assert_eq!(refused["errors"][0]["field"], "arguments.numbers[1]");
    let bulk = json!({ "jobs": [job(json!([1])), { "type": "sum" }] });
    let refused = alice.post("/jobs/bulk", bulk).expect(400).json();
    assert_eq!(
        refused["errors"],
        json!([{ "field": "jobs[1].arguments.numbers", "message": "numbers is required" }])
    );
    let id = alice.add(job(json!([1, 2])));
    assert_eq!(alice.wait(&id, "completed")["result"], 3);
}

fn a_result_nested_deeper_than_readers_bear_fails_the_job(db: &Db) {
    let server = db.serve_with(&[], nesting);
    let alice = User::of(&server, "alice");
    let add = |depth: usize| {
        let arguments = json!({ "depth": depth });
        alice.add(json!({ "type": "nested", "arguments": arguments, "maxAttempts": 1 }))
    };
    let (just, over) = (add(100), add(200_000));
    assert!(alice.wait(&just, "completed")["result"].is_array());
    let message = alice.wait(&over, "failed")["error"]["message"].clone();
    assert_eq!(message, "the result is nested more than 100 deep");
}

fn a_job_waits_for_its_time_and_no_longer(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(1);
    let format = &time::format_description::well_known::Rfc3339;
    let soon = soon.format(format).expect("a time");
    let late = "2100-01-01T00:00:00Z";
    let later = alice.add(json!({ "type": "quick", "runAt": late, "priority": 9 }));
    let timed = alice.add(json!({ "type": "quick", "runAt": soon }));
    let delayed = alice.add(json!({ "type": "quick", "delaySec": 0.7 }));
    for job in [&timed, &delayed] {
        let job = alice.wait(job, "completed");
        // Both by the database's clock, and in the same form.
        let at = |field: &str| job[field].as_str().expect("a time").to_owned();
        assert!(at("createdAt") < at("runAt"), "{job}");
        assert!(at("runAt") <= at("startedAt"), "{job}");
        assert_eq!(job["attempts"], 1);
    }
    let later = alice.job(&later);
    assert_eq!(later["runAt"], "2100-01-01T00:00:00.000Z");
    assert_eq!(
        (&later["status"], &later["attempts"]),
        (&json!("pending"), &json!(0))
    );
}

/// Notes its argument `n`, holding its worker.
fn noting(registry: &mut ExecutorRegistry, noted: &Arc<Mutex<Vec<u64>>>) {
    let noted = noted.clone();
    registry.register_blocking("noting", move |input: &TaskInput| {
        let n = input.arguments::<Value>()?["n"].as_u64();
        let noted = noted.clone();
        Ok(move |_: &mut TaskContext<'_>| {
            noted.lock().extend(n);
            Ok(Outcome::Done(None))
        })
    });
}

fn higher_priority_runs_first_and_then_age(db: &Db) {
    let noted = Arc::<Mutex<Vec<u64>>>::default();
    // What is claimed ahead does not wait for what comes later: all are there before the worker.
    let idle = [("ENABLE_QUEUE", "false")];
    let server = db.serve_with(&idle, |registry| noting(registry, &noted));
    let alice = User::of(&server, "alice");
    let priority = |n: &u64| [7, i32::MIN, 0, i32::MAX, -1][(*n as usize * 7) % 5];
    let mut expected: Vec<u64> = (0..60).collect();
    for n in &expected {
        let body = json!({ "type": "noting", "arguments": { "n": n }, "priority": priority(n) });
        alice.add(body);
    }
    expected.sort_by_key(|n| std::cmp::Reverse(priority(n)));
    assert_eq!(alice.stats()["pending"], expected.len());
    server.stop();
    let one = [("WORKER_THREADS", "1")];
    let _server = db.serve_with(&one, |registry| noting(registry, &noted));
    wait_until(|| noted.lock().len() == expected.len());
    assert_eq!(*noted.lock(), expected);
}

fn a_job_that_fails_once_completes_on_its_second_attempt(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let arguments = json!({ "delayMs": 20, "failAt": 50 });
    let id = alice.add(json!({ "type": "sample", "arguments": arguments }));
    let job = alice.wait(&id, "completed");
    assert_eq!((&job["attempts"], &job["error"]), (&json!(2), &json!(null)));
    let expected = [
        "created",
        "started",
        "failed",
        "retried",
        "started",
        "completed",
    ];
    assert_eq!(alice.events(&id), expected);
}

fn a_job_fails_when_its_attempts_are_used_up(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let arguments = json!({ "delayMs": 20, "failAt": 50, "failAttempts": 5 });
    let body = json!({ "type": "sample", "arguments": arguments, "maxAttempts": 2 });
    let id = alice.add(body);
    let job = alice.wait(&id, "failed");
    assert_eq!(job["attempts"], job["maxAttempts"]);
    assert_eq!(job["error"]["message"], "simulated failure at 50%");
    assert!(job["completedAt"].is_string() && job["result"].is_null());
    let expected = [
        "created", "started", "failed", "retried", "started", "failed",
    ];
    assert_eq!(alice.events(&id), expected);
    let history = alice.get(&format!("/jobs/{id}/history")).expect(200).json();
    let history = history["history"].as_array().expect("a list").clone();
    let failures = history.iter().filter(|entry| entry["event"] == "failed");
    let failures: Vec<_> = failures.cloned().collect();
    assert_eq!(pluck(&failures, "attempt"), ["1", "2"]);
    assert_eq!(
        pluck(&failures, "message"),
        ["simulated failure at 50%", "simulated failure at 50%"]
    );
    // Asked for once more, it has all its attempts again.
    alice.act(&format!("/jobs/{id}/retry")).expect(200);
    alice.wait(&id, "failed");
    let again = [
        "retried", "started", "failed", "retried", "started", "failed",
    ];
    assert_eq!(alice.events(&id)[expected.len()..], again);
}

fn a_job_that_takes_too_long_fails(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    for kind in ["held", "blocked"] {
        let id = alice.add(json!({ "type": kind, "timeoutMs": 150, "maxAttempts": 1 }));
        let job = alice.wait(&id, "failed");
        assert_eq!(job["error"]["message"], "timed out after 150 ms");
        assert_eq!(job["timeoutMs"], 150);
        assert_eq!(alice.events(&id), ["created", "started", "failed"]);
    }
}

/// Works on until it hears that it is over; then opens `heard`.
fn listening(registry: &mut ExecutorRegistry, heard: &Gate) {
    let heard = heard.clone();
    registry.register_blocking("listening", move |_: &TaskInput| {
        let heard = heard.clone();
        Ok(move |ctx: &mut TaskContext<'_>| {
            loop {
                if let Err(over) = ctx.progress(10, "Working", "") {
                    heard.open();
                    return Err(over);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    });
}

/// Cancels a job that runs; its executor hears of it, and it stays cancelled.
#[track_caller]
fn cancel(alice: &User, heard: &Gate) {
    let id = alice.add_type("listening");
    alice.wait(&id, "processing");
    let cancelled = alice.act(&format!("/jobs/{id}/cancel")).expect(200).json();
    wait_until(|| heard.is_open());
    // The worker that heard of it is free again, and has said whatever it had to say.
    alice.wait(&alice.add_type("quick"), "completed");
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(alice.job(&id), cancelled);
    assert_eq!(alice.events(&id), ["created", "started", "cancelled"]);
}

fn an_executor_hears_that_its_job_is_cancelled(db: &Db) {
    let heard = Gate::default();
    let one = [("WORKER_THREADS", "1")];
    let server = db.serve_with(&one, |registry| listening(registry, &heard));
    cancel(&User::of(&server, "alice"), &heard);
}

fn a_job_is_cancelled_at_a_server_that_does_not_run_it(db: &Db) {
    let heard = Gate::default();
    let one = [("WORKER_THREADS", "1"), ("JOB_LEASE_SECONDS", "2")];
    let _worker = db.serve_with(&one, |registry| listening(registry, &heard));
    let idle = [("ENABLE_QUEUE", "false")];
    let server = db.serve_with(&idle, |registry| listening(registry, &Gate::default()));
    cancel(&User::of(&server, "alice"), &heard);
}

/// The one that runs, and the one that was claimed ahead.
fn a_stopped_server_gives_all_its_claims_back(db: &Db) {
    let one = [("WORKER_THREADS", "1")];
    let server = db.serve_with(&one, |registry| {
        registry.register("spinning", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                loop {
                    ctx.progress(10, "Spinning", "")?;
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        });
    });
    let alice = User::of(&server, "alice");
    let jobs = [alice.add_type("spinning"), alice.add_type("spinning")];
    for job in &jobs {
        alice.wait(job, "processing");
    }
    server.stop();
    let idle = db.serve_with(&[("ENABLE_QUEUE", "false")], |_| {});
    let alice = User::of(&idle, "alice");
    for job in &jobs {
        assert_eq!(alice.job(job)["attempts"], 0);
        assert_eq!(alice.events(job), ["created", "started", "retried"]);
    }
}

/// Transitions are all kept, and of the reports the newest.
#[test]
fn a_history_is_bounded() {
    let Some(db) = Db::postgres() else { return };
    let dial = Dial::default();
    let server = db.serve_with(&[], |registry| dial.register(registry));
    let alice = User::of(&server, "alice");
    let job = alice.add_type("driven");
    alice.wait(&job, "processing");
    let told = |text: &str| {
        let step = format!("At {text}");
        wait_until(|| alice.job(&job)["currentStep"] == *step);
    };
    told("0");
    // As if it had reported for a long time; the next report has a round number.
    let many = format!(
        "UPDATE jobs SET seq = 4999 WHERE id = '{job}'; \
         INSERT INTO job_progress SELECT '{job}', n, 0, 1, 0, 'Before', NULL \
         FROM generate_series(4, 4999) AS n"
    );
    execute(&db.url, &many);
    dial.turn_to(50);
    told("50");
    alice.act(&format!("/jobs/{job}/cancel")).expect(200);
    let history = alice
        .get(&format!("/jobs/{job}/history"))
        .expect(200)
        .json();
    assert_eq!(history["count"], 2_000 + 3);
    assert_eq!(alice.events(&job), ["created", "started", "cancelled"]);
}
