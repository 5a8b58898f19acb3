use std::time::Duration;

use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskInput};
use serde_json::{Value, json};

use super::{Db, User};
use crate::support::{Reply, TestServer, wait_until};

on_both! {
    a_worker_runs_jobs
    a_job_whose_worker_is_silent_is_run_again_by_another
    a_released_job_costs_no_attempt_and_goes_to_any_process
    a_cancelled_job_ends_its_lease
    a_job_that_was_fetched_for_nobody_goes_to_the_process_where_a_worker_waits
    of_two_workers_of_a_job_one_completes_it
    a_job_that_its_worker_has_brought_is_run_by_nobody_else
    a_job_that_its_worker_has_brought_fails_when_it_is_left
    a_backlog_of_other_jobs_leaves_room_for_workers_and_for_limited_types
}

const TOKEN: &str = "a token of workers";

fn start(db: &Db, lease: Duration) -> TestServer {
    let more = [
        ("WORKER_TOKEN", TOKEN),
        ("JOB_LEASE_SECONDS", "5"),
        ("WORKER_THREADS", "2"),
    ];
    TestServer::start_with(
        &db.variables(&more),
        move |registry: &mut ExecutorRegistry| {
            registry.register_remote("ocr", lease);
        },
    )
}

const LONG: Duration = Duration::from_secs(30);

fn call(server: &TestServer, path: &str, body: &Value) -> Reply {
    let call = server.call("POST", &format!("/work/{path}"));
    call.header("Authorization", &format!("Bearer {TOKEN}"))
        .json(body)
        .send()
}

/// Claims up to `limit` jobs, waiting for the first.
fn claims(server: &TestServer, limit: usize) -> Vec<Value> {
    let body = json!({ "types": ["ocr"], "limit": limit, "waitMs": 20_000 });
    let reply = call(server, "claim", &body).expect(200).json();
    reply["claims"].as_array().expect("a list").clone()
}

fn claim(server: &TestServer) -> Value {
    claims(server, 1).pop().expect("a claim")
}

fn end(server: &TestServer, claim: &Value, how: &str, body: &Value) -> Reply {
    let lease = claim["lease"].as_str().expect("a lease");
    call(server, &format!("{lease}/{how}"), body)
}

fn job(page: u32) -> Value {
    json!({ "type": "ocr", "arguments": { "page": page }, "maxAttempts": 1 })
}

fn a_worker_runs_jobs(db: &Db) {
    let server = start(db, LONG);
    let alice = User::of(&server, "alice");
    let id = alice.add(job(3));
    let given = claim(&server);
    assert_eq!((&given["kind"], &given["id"]), (&json!("job"), &json!(id)));
    assert_eq!(
        (&given["input"], &given["attempt"]),
        (&json!({ "page": 3 }), &json!(1))
    );
    let report = json!({ "progress": 40, "step": "Reading" });
    end(&server, &given, "progress", &report).expect(200);
    wait_until(|| alice.job(&id)["currentStep"] == "Reading");
    end(
        &server,
        &given,
        "complete",
        &json!({ "result": { "words": 7 } }),
    )
    .expect(200);
    end(
        &server,
        &given,
        "complete",
        &json!({ "result": { "words": 7 } }),
    )
    .expect(200);
    let done = alice.wait(&id, "completed");
    assert_eq!(
        (&done["result"], &done["attempts"]),
        (&json!({ "words": 7 }), &json!(1))
    );
    assert_eq!(
        end(&server, &given, "progress", &json!({}))
            .expect(410)
            .json()["reason"],
        "ended"
    );
    for page in 0..50 {
        alice.add(job(page));
    }
    let mut seen = 0;
    while seen < 50 {
        for given in claims(&server, 20) {
            end(&server, &given, "complete", &json!({})).expect(200);
            seen += 1;
        }
    }
    let id = alice.add(job(9));
    end(
        &server,
        &claim(&server),
        "fail",
        &json!({ "error": "no text" }),
    )
    .expect(200);
    assert_eq!(alice.wait(&id, "failed")["error"]["message"], "no text");
}

fn a_job_whose_worker_is_silent_is_run_again_by_another(db: &Db) {
    let server = start(db, Duration::from_millis(500));
    let alice = User::of(&server, "alice");
    let id = alice.add(job(1));
    let lost = claim(&server);
    let second = claim(&server);
    assert_eq!(second["id"], id);
    assert_ne!(second["lease"], lost["lease"]);
    let refusal = end(&server, &lost, "complete", &json!({ "result": 1 })).expect(410);
    assert_eq!(refusal.json()["reason"], "expired");
    end(&server, &second, "complete", &json!({ "result": 2 })).expect(200);
    assert_eq!(alice.wait(&id, "completed")["result"], 2);
}

fn a_released_job_costs_no_attempt_and_goes_to_any_process(db: &Db) {
    let (one, other) = (start(db, LONG), start(db, LONG));
    let alice = User::of(&one, "alice");
    let id = alice.add(job(1));
    let given = claim(&one);
    end(&one, &given, "release", &json!({})).expect(200);
    let again = claim(&other);
    assert_eq!((&again["id"], &again["attempt"]), (&json!(id), &json!(1)));
    end(&other, &again, "complete", &json!({})).expect(200);
    assert_eq!(alice.wait(&id, "completed")["attempts"], 1);
}

fn a_cancelled_job_ends_its_lease(db: &Db) {
    let server = start(db, LONG);
    let alice = User::of(&server, "alice");
    let id = alice.add(job(1));
    let given = claim(&server);
    alice.act(&format!("/jobs/{id}/cancel")).expect(200);
    wait_until(|| end(&server, &given, "progress", &json!({})).status == 410);
    let refusal = end(&server, &given, "complete", &json!({})).expect(410);
    assert_eq!(refusal.json()["reason"], "cancelled");
    assert_eq!(alice.job(&id)["status"], "cancelled");
}

fn a_job_that_was_fetched_for_nobody_goes_to_the_process_where_a_worker_waits(db: &Db) {
    let (one, other) = (start(db, LONG), start(db, LONG));
    let alice = User::of(&one, "alice");
    // A call whose client goes away: the first process may fetch the job for it.
    for _ in 0..3 {
        let body = json!({ "types": ["ocr"], "waitMs": 60_000, "limit": 100 }).to_string();
        let mut gone = one.connect();
        let head = format!(
            "POST /api/v1/work/claim HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        std::io::Write::write_all(&mut gone, head.as_bytes()).expect("it is read");
    }
    let id = alice.add(job(1));
    assert_eq!(claim(&other)["id"], id);
}

fn of_two_workers_of_a_job_one_completes_it(db: &Db) {
    let server = start(db, Duration::from_millis(200));
    let alice = User::of(&server, "alice");
    let ids: Vec<String> = (0..10).map(|page| alice.add(job(page))).collect();
    let mut completed = Vec::new();
    let mut silent = Vec::new();
    while completed.len() < ids.len() {
        let mut given = claims(&server, 3);
        // Some workers are silent for too long.
        if silent.len() < ids.len() / 2 {
            silent.push(given.remove(0));
        }
        for given in given {
            // On a slow machine the time of a lease may be over by now.
            if end(&server, &given, "complete", &json!({ "result": 1 })).status == 200 {
                completed.push(given["id"].as_str().expect("an id").to_owned());
            }
        }
    }
    for given in silent {
        let refusal = end(&server, &given, "complete", &json!({ "result": 2 })).expect(410);
        assert_eq!(refusal.json()["reason"], "expired");
    }
    completed.sort();
    let mut ids = ids;
    ids.sort();
    assert_eq!(completed, ids, "each once");
    assert!(ids.iter().all(|id| alice.job(id)["result"] == 1));
}

fn a_backlog_of_other_jobs_leaves_room_for_workers_and_for_limited_types(db: &Db) {
    let more = [("WORKER_TOKEN", TOKEN), ("WORKER_THREADS", "2")];
    let server = TestServer::start_with(&db.variables(&more), move |registry| {
        registry.register_remote("ocr", LONG);
        let nothing = |_: &TaskInput| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None)));
        registry.register("limited", nothing).concurrency(1);
    });
    let alice = User::of(&server, "alice");
    // They hold both workers until the gate opens, and all claims ahead are of their type.
    alice.add_bulk(50, &json!({ "type": "blocked" }));
    wait_until(|| alice.stats()["processing"] != 0);
    let id = alice.add(job(1));
    let given = claim(&server);
    assert_eq!(given["id"], id);
    end(&server, &given, "complete", &json!({})).expect(200);
    alice.wait(&id, "completed");
    let ids: Vec<String> = (0..3).map(|_| alice.add_type("limited")).collect();
    server.gate.open();
    for id in ids {
        alice.wait(&id, "completed");
    }
}

fn adopt(server: &TestServer, user: &str, kind: &str) -> Value {
    let body =
        json!({ "name": "Nightly backup", "type": kind, "user": user, "metadata": { "disk": 3 } });
    let reply = call(server, "adopt", &body).expect(201);
    let claim = reply.json()["claim"].clone();
    let id = claim["id"].as_str().expect("an id");
    assert_eq!(
        reply.header("Location"),
        Some(&*format!("/api/v1/jobs/{id}"))
    );
    assert_eq!(
        (&claim["kind"], &claim["attempt"]),
        (&json!("job"), &json!(1))
    );
    claim
}

fn id(claim: &Value) -> &str {
    claim["id"].as_str().expect("an id")
}

fn a_job_that_its_worker_has_brought_is_run_by_nobody_else(db: &Db) {
    let server = start(db, LONG);
    let alice = User::of(&server, "alice");
    // Also not by workers of its type.
    let given = adopt(&server, "alice", "ocr");
    let job = alice.job(id(&given));
    assert_eq!(
        (&job["status"], &job["attempts"]),
        (&json!("processing"), &json!(1))
    );
    assert_eq!(given["input"], json!({ "disk": 3 }));
    wait_until(|| alice.job(id(&given))["currentStep"] == "Nightly backup");
    let body = json!({ "types": ["ocr"], "waitMs": 1_000 });
    let reply = call(&server, "claim", &body).expect(200).json();
    assert_eq!(reply["claims"], json!([]));
    let report = json!({ "progress": 40, "step": "Reading", "log": "12 files" });
    end(&server, &given, "progress", &report).expect(200);
    wait_until(|| alice.job(id(&given))["currentStep"] == "Reading");
    let result = json!({ "result": { "files": 12 } });
    end(&server, &given, "complete", &result).expect(200);
    end(&server, &given, "complete", &result).expect(200);
    let done = alice.wait(id(&given), "completed");
    assert_eq!(
        (&done["result"], &done["attempts"]),
        (&json!({ "files": 12 }), &json!(1))
    );
    assert_eq!(
        alice.events(id(&given)),
        ["created", "started", "completed"]
    );

    let failing = adopt(&server, "alice", "exec");
    end(
        &server,
        &failing,
        "fail",
        &json!({ "error": "exit status 3" }),
    )
    .expect(200);
    let failed = alice.wait(id(&failing), "failed");
    assert_eq!(failed["error"]["message"], "exit status 3");
    // Only the program that has brought it could run it again.
    let retried = alice
        .act(&format!("/jobs/{}/retry", id(&failing)))
        .expect(409);
    assert_eq!(retried.json()["code"], "job_not_retryable");

    let cancelled = adopt(&server, "alice", "exec");
    alice
        .act(&format!("/jobs/{}/cancel", id(&cancelled)))
        .expect(200);
    let told = end(&server, &cancelled, "progress", &json!({}))
        .expect(410)
        .json();
    assert_eq!(told["reason"], "cancelled");
    let both = json!({ "name": "n", "user": "alice", "session": "me" });
    let refused = call(&server, "adopt", &both).expect(400).json();
    assert_eq!(refused["errors"][0]["field"], "user");
    // A front end that runs no jobs cannot hold one either.
    let variables = db.variables(&[("WORKER_TOKEN", TOKEN), ("ENABLE_QUEUE", "false")]);
    let front = TestServer::start(&variables);
    let refused = call(&front, "adopt", &json!({ "name": "n", "user": "alice" }));
    let message = refused.expect(400).json()["message"].to_string();
    assert!(message.contains("ENABLE_QUEUE=true"), "{message}");
}

fn a_job_that_its_worker_has_brought_fails_when_it_is_left(db: &Db) {
    let first = start(db, LONG);
    let alice = User::of(&first, "alice");
    let released = adopt(&first, "alice", "exec");
    end(&first, &released, "release", &json!({})).expect(200);
    let lost = alice.wait(id(&released), "failed");
    assert_eq!(lost["error"]["message"], "its worker was lost");
    assert_eq!(lost["attempts"], 1);
    let left = adopt(&first, "alice", "exec");
    drop(first);
    // After the restart nobody runs it, and it is not pending for ever.
    let second = start(db, LONG);
    let alice = User::of(&second, "alice");
    let lost = alice.wait(id(&left), "failed");
    assert_eq!(lost["error"]["message"], "its worker was lost");
    let events = alice.events(id(&left));
    assert!(
        events.starts_with(&["created".to_owned(), "started".to_owned()])
            && events.ends_with(&["failed".to_owned()]),
        "{events:?}"
    );
    let told = end(&second, &left, "progress", &json!({}))
        .expect(410)
        .json();
    assert_eq!(told["reason"], "expired");
}
