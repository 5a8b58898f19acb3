use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use async_task_system::ExecutorRegistry;
use serde_json::{Value, json};

use crate::support::{NO_TASK, Reply, TestServer, pluck, wait_until};

const TOKEN: &str = "a token of workers";

/// A worker: whoever knows the token.
struct Worker<'a>(&'a TestServer);

impl Worker<'_> {
    fn post(&self, path: &str, body: &Value) -> Reply {
        let call = self.0.call("POST", &format!("/work/{path}"));
        let call = call.header("Authorization", &format!("Bearer {TOKEN}"));
        call.json(body).send()
    }

    /// Claims up to `limit` attempts of `ocr`, waiting for the first if need be.
    fn claims(&self, limit: usize) -> Vec<Value> {
        let body = json!({ "types": ["ocr"], "limit": limit, "waitMs": 20_000, "worker": "w1" });
        let reply = self.post("claim", &body).expect(200).json();
        reply["claims"].as_array().expect("a list").clone()
    }

    fn claim(&self) -> Value {
        self.claims(1).pop().expect("a claim")
    }

    fn end(&self, claim: &Value, how: &str, body: &Value) -> Reply {
        let lease = claim["lease"].as_str().expect("a lease");
        self.post(&format!("{lease}/{how}"), body)
    }

    #[track_caller]
    fn is_over(&self, claim: &Value, reason: &str) {
        for (how, body) in [
            ("progress", json!({})),
            ("complete", json!({ "result": 1 })),
            ("fail", json!({ "error": "late" })),
            ("release", json!({})),
        ] {
            let refusal = self.end(claim, how, &body).expect(410).json();
            assert_eq!(
                (&refusal["code"], &refusal["reason"]),
                (&json!("lease_over"), &json!(reason))
            );
        }
    }
}

fn start_with(variables: &[(&str, &str)], lease: Duration) -> TestServer {
    let token = [("WORKER_TOKEN", TOKEN)];
    let variables: Vec<_> = variables.iter().chain(&token).copied().collect();
    TestServer::start_with(&variables, move |registry: &mut ExecutorRegistry| {
        registry.register_remote("ocr", lease);
        registry
            .register_remote("one-at-a-time", lease)
            .concurrency(1);
    })
}

fn start() -> TestServer {
    start_with(&[("WORKER_THREADS", "1")], Duration::from_secs(30))
}

#[test]
fn a_worker_claims_reports_and_completes() {
    let server = start();
    let worker = Worker(&server);
    let metadata = json!({ "page": 3, "type": "other" });
    let body = json!({ "name": "Scan", "type": "ocr", "metadata": metadata, "timeoutMs": 60_000, "start": true });
    let id = server.create(body);
    let claim = worker.claim();
    assert_eq!(claim["id"], id);
    assert_eq!(claim["input"], metadata);
    assert_eq!(
        (&claim["kind"], &claim["type"], &claim["name"]),
        (&json!("task"), &json!("ocr"), &json!("Scan"))
    );
    assert_eq!(
        (&claim["attempt"], &claim["timeoutMs"], &claim["leaseMs"]),
        (&json!(1), &json!(60_000), &json!(30_000))
    );
    assert_eq!(server.task(&id)["status"], "running");
    let report = json!({ "progress": 40, "step": "Reading", "description": "page 3", "log": ["one", "two"] });
    let extended = worker.end(&claim, "progress", &report).expect(200).json();
    assert!(extended["leaseUntil"].as_u64() >= claim["leaseUntil"].as_u64());
    worker
        .end(&claim, "progress", &json!({ "progress": 50 }))
        .expect(200);
    worker
        .end(&claim, "progress", &json!({ "progress": 20 }))
        .expect(200);
    worker.end(&claim, "progress", &json!({})).expect(200);
    let task = server.task(&id);
    assert_eq!(
        (
            &task["progress"],
            &task["currentStep"],
            &task["currentStepDescription"]
        ),
        (&json!(50), &json!("Reading"), &json!("page 3"))
    );
    let result = json!({ "result": { "words": 7 } });
    worker.end(&claim, "complete", &result).expect(200);
    worker.end(&claim, "complete", &result).expect(200);
    let task = server.task(&id);
    assert_eq!(
        (&task["status"], &task["result"]),
        (&json!("completed"), &json!({ "words": 7 }))
    );
    worker.is_over(&claim, "ended");
    let events = pluck(&server.history(&id), "event");
    assert_eq!(
        events,
        [
            "created",
            "queued",
            "started",
            "progress",
            "progress",
            "completed"
        ]
    );
}

#[test]
fn what_nobody_has_claimed_is_pending_and_a_waiting_claim_gets_it_at_once() {
    let server = start();
    let worker = Worker(&server);
    let none = worker
        .post("claim", &json!({ "types": ["ocr"] }))
        .expect(200)
        .json();
    assert_eq!(none["claims"], json!([]));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..20).map(|_| scope.spawn(|| worker.claim())).collect();
        let ids: Vec<String> = (0..20).map(|_| server.run("ocr")).collect();
        let claims: Vec<Value> = waiting
            .into_iter()
            .map(|claim| claim.join().expect("no panic"))
            .collect();
        let mut claimed = pluck(&claims, "id");
        claimed.sort();
        let mut wanted = ids.clone();
        wanted.sort();
        assert_eq!(claimed, wanted, "each once");
    });
    let ids: Vec<String> = (0..5).map(|_| server.run("ocr")).collect();
    assert_eq!(server.task(&ids[4])["status"], "pending");
    server.run_to("quick", "completed");
    assert_eq!(pluck(&worker.claims(3), "id"), ids[..3], "the oldest first");
    assert_eq!(pluck(&worker.claims(3), "id"), ids[3..]);
}

#[test]
fn a_lease_that_runs_out_fails_its_task_which_can_be_retried() {
    let server = start_with(&[], Duration::from_millis(300));
    let worker = Worker(&server);
    let id = server.run("ocr");
    let claim = worker.claim();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(900) {
        // Heartbeats keep it.
        worker.end(&claim, "progress", &json!({})).expect(200);
        std::thread::sleep(Duration::from_millis(20));
    }
    let task = server.wait_status(&id, "failed");
    assert_eq!(task["error"], "its worker was lost");
    worker.is_over(&claim, "expired");
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    let second = worker.claim();
    assert_eq!((&second["id"], &second["attempt"]), (&json!(id), &json!(2)));
    assert_ne!(second["lease"], claim["lease"]);
    worker.is_over(&claim, "expired");
    worker.end(&second, "complete", &json!({})).expect(200);
    assert_eq!(server.task(&id)["status"], "completed");
}

#[test]
fn a_cancel_and_a_time_limit_end_the_lease_and_say_so() {
    let server = start();
    let worker = Worker(&server);
    let id = server.run("ocr");
    let claim = worker.claim();
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    worker.is_over(&claim, "cancelled");
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    worker.is_over(&claim, "cancelled");
    worker
        .end(&worker.claim(), "fail", &json!({ "error": "no text" }))
        .expect(200);
    assert_eq!(server.task(&id)["error"], "no text");
    let body = json!({ "name": "Late", "type": "ocr", "timeoutMs": 100, "start": true });
    let id = server.create(body);
    let claim = worker.claim();
    server.wait_status(&id, "failed");
    worker.is_over(&claim, "timed_out");
    let id = server.run("ocr");
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    let none = worker
        .post("claim", &json!({ "types": ["ocr"] }))
        .expect(200)
        .json();
    assert_eq!(
        none["claims"],
        json!([]),
        "a cancelled one is not handed out"
    );
}

#[test]
fn what_is_released_goes_to_another_worker_as_the_same_attempt() {
    let server = start();
    let worker = Worker(&server);
    let id = server.run("ocr");
    let first = worker.claim();
    worker
        .end(&first, "progress", &json!({ "progress": 30 }))
        .expect(200);
    worker.end(&first, "release", &json!({})).expect(200);
    worker.end(&first, "release", &json!({})).expect(200);
    assert_eq!(
        worker
            .end(&first, "progress", &json!({}))
            .expect(410)
            .json()["reason"],
        "ended"
    );
    let second = worker.claim();
    assert_eq!((&second["id"], &second["attempt"]), (&json!(id), &json!(1)));
    worker.end(&second, "complete", &json!({})).expect(200);
    server.wait_status(&id, "completed");
    // A cancel finds it in the queue, too.
    let id = server.run("ocr");
    worker
        .end(&worker.claim(), "release", &json!({}))
        .expect(200);
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    let none = worker
        .post("claim", &json!({ "types": ["ocr"] }))
        .expect(200)
        .json();
    assert_eq!(none["claims"], json!([]));
}

#[test]
fn of_two_that_complete_one_is_told_that_it_is_late() {
    let server = start();
    let worker = Worker(&server);
    for _ in 0..20 {
        let id = server.run("ocr");
        let claim = worker.claim();
        let cancel = format!("/tasks/{id}/cancel");
        let (completed, cancelled) = std::thread::scope(|scope| {
            let complete = scope.spawn(|| {
                worker
                    .end(&claim, "complete", &json!({ "result": 1 }))
                    .status
            });
            let cancel = scope.spawn(|| server.act(&cancel).status);
            (
                complete.join().expect("no panic"),
                cancel.join().expect("no panic"),
            )
        });
        match (completed, cancelled) {
            (200, 409) => assert_eq!(server.task(&id)["status"], "completed"),
            (410, 200) => assert_eq!(server.task(&id)["status"], "cancelled"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_limit_of_a_type_holds_for_workers_too() {
    let server = start();
    let worker = Worker(&server);
    let claim = || {
        let body = json!({ "types": ["one-at-a-time"], "limit": 10, "waitMs": 20_000 });
        worker.post("claim", &body).expect(200).json()["claims"].clone()
    };
    let ids: Vec<String> = (0..3).map(|_| server.run("one-at-a-time")).collect();
    for id in ids {
        let claims = claim();
        assert_eq!(claims.as_array().map(Vec::len), Some(1));
        assert_eq!(claims[0]["id"], id);
        worker.end(&claims[0], "complete", &json!({})).expect(200);
    }
}

#[test]
fn a_worker_that_leaves_while_it_waits_takes_nothing_with_it() {
    let server = start();
    let worker = Worker(&server);
    let body = json!({ "types": ["ocr"], "waitMs": 60_000 }).to_string();
    let head = format!(
        "POST /api/v1/work/claim HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..3 {
        let mut gone = server.connect();
        gone.write_all(head.as_bytes()).expect("it is read");
    }
    let id = server.run("ocr");
    assert_eq!(worker.claim()["id"], id);
}

/// The answer to a heartbeat, from a server that may be gone.
fn heartbeat(server: SocketAddr, claim: &Value) -> Option<String> {
    let lease = claim["lease"].as_str().expect("a lease");
    let mut stream = TcpStream::connect(server).ok()?;
    let head = format!(
        "POST /api/v1/work/{lease}/progress HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn the_stop_ends_waiting_claims_and_is_no_cancel() {
    let server = start();
    let worker = Worker(&server);
    let id = server.run("ocr");
    let held = worker.claim();
    assert_eq!(held["id"], id);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let body = json!({ "types": ["ocr"], "waitMs": 60_000 });
            worker.post("claim", &body).json()
        });
        wait_until(|| server.get("/health").status == 200);
        std::thread::sleep(Duration::from_millis(50));
        let begun = Instant::now();
        let reports = scope.spawn(|| {
            loop {
                match heartbeat(server.addr(), &held) {
                    Some(answer) if answer.starts_with("HTTP/1.1 200 ") => {}
                    answer => return answer,
                }
            }
        });
        server.stop();
        let reason = reports.join().expect("no panic");
        // The listener may be closed before a report is refused.
        assert!(
            reason.is_none_or(|text| text.is_empty() || text.contains(r#""reason":"expired""#))
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(waiting.join().expect("no panic")["claims"], json!([]));
    });
}

#[test]
fn an_adopted_task_is_run_by_who_brought_it_and_by_nobody_else() {
    let server = start();
    let worker = Worker(&server);
    let body = json!({ "name": "Nightly backup", "type": "backup", "session": "ops", "metadata": { "host": "db1" } });
    let reply = worker.post("adopt", &body).expect(201);
    let claim = reply.json()["claim"].clone();
    let id = claim["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        reply.header("Location"),
        Some(&*format!("/api/v1/tasks/{id}"))
    );
    let ops = server.session("ops");
    let task = ops.task(&id);
    assert_eq!(
        (&task["status"], &task["type"], &task["name"]),
        (
            &json!("running"),
            &json!("backup"),
            &json!("Nightly backup")
        )
    );
    worker
        .end(&claim, "fail", &json!({ "error": "exit status 3" }))
        .expect(200);
    assert_eq!(ops.task(&id)["error"], "exit status 3");
    ops.act(&format!("/tasks/{id}/retry")).expect(200);
    let task = ops.wait_status(&id, "failed");
    assert!(
        task["error"]
            .as_str()
            .is_some_and(|why| why.contains("run that again")),
        "{task}"
    );
    for (field, body) in [
        ("type", json!({ "name": "x", "type": "sample" })),
        ("type", json!({ "name": "x", "type": "no such/type" })),
        ("session", json!({ "name": "x", "session": "no key!" })),
        ("name", json!({})),
    ] {
        let refusal = worker.post("adopt", &body).expect(400).json();
        assert_eq!(refusal["errors"][0]["field"], field, "{refusal}");
    }
}

#[test]
fn who_has_no_token_is_not_let_in_and_bad_calls_are_refused_in_words() {
    let server = start_with(&[("MAX_RESULT_BYTES", "100")], Duration::from_secs(30));
    let worker = Worker(&server);
    for token in [None, Some("Bearer wrong"), Some("Basic x"), Some(TOKEN)] {
        let call = server.call("POST", "/work/claim");
        let call = match token {
            Some(token) => call.header("Authorization", token),
            None => call,
        };
        let reply = call.json(&json!({ "types": ["ocr"] })).send().expect(401);
        assert_eq!(reply.header("WWW-Authenticate"), Some("Bearer"));
    }
    for (field, body) in [
        ("types", json!({})),
        ("types", json!({ "types": [] })),
        ("types", json!({ "types": "ocr" })),
        ("types", json!({ "types": ["ocr", 1] })),
        ("types", json!({ "types": ["orc"] })),
        ("limit", json!({ "types": ["ocr"], "limit": 101 })),
        ("waitMs", json!({ "types": ["ocr"], "waitMs": 60_001 })),
        ("worker", json!({ "types": ["ocr"], "worker": 1 })),
    ] {
        let refusal = worker.post("claim", &body).expect(400).json();
        assert_eq!(refusal["errors"][0]["field"], field, "{refusal}");
    }
    let refusal = worker.post("claim", &json!({ "types": ["orc"] })).json();
    assert!(
        refusal["message"]
            .as_str()
            .is_some_and(|text| text.ends_with("did you mean ocr?")),
        "{refusal}"
    );
    server.run("ocr");
    let claim = worker.claim();
    for (how, field, body) in [
        ("progress", "progress", json!({ "progress": 101 })),
        ("progress", "log", json!({ "log": [1] })),
        ("complete", "result", json!({ "result": "x".repeat(100) })),
        ("fail", "error", json!({})),
        ("release", "why", json!({ "why": 1 })),
    ] {
        let refusal = worker.end(&claim, how, &body).expect(400).json();
        assert_eq!(refusal["errors"][0]["field"], field, "{refusal}");
    }
    worker.end(&claim, "complete", &json!({})).expect(200);
    for lease in [NO_TASK, "nothing"] {
        let refusal = worker
            .post(&format!("{lease}/progress"), &json!({}))
            .expect(410)
            .json();
        assert_eq!(refusal["reason"], "expired");
    }
    let off = TestServer::start(&[]);
    let refusal = Worker(&off)
        .post("claim", &json!({ "types": ["ocr"] }))
        .expect(503)
        .json();
    assert_eq!(refusal["code"], "workers_disabled");
    assert!(
        refusal["message"]
            .as_str()
            .is_some_and(|text| text.contains("WORKER_TOKEN"))
    );
}
