use std::collections::HashSet;

use serde_json::json;

use super::{Db, User, id};
use crate::support::{TestServer, pluck};

on_both! {
    a_job_is_added_run_and_shown
    the_same_key_is_the_same_job
    a_key_twice_in_one_bulk_is_one_job
    a_repeated_request_is_answered_again
    a_thousand_requests_with_one_key_add_one_job
    retries_that_race_for_a_key_are_answered
    a_bulk_is_all_or_none
    what_is_wrong_with_a_job_is_named
    a_job_is_its_users_own
    pages_follow_the_cursor
    a_cancelled_job_stays_so_until_it_is_retried
    a_stream_tells_all_in_order_and_resumes
    a_dummy_waits_between_its_delays
    a_demo_gives_the_same_result_as_a_task
    arguments_are_checked_when_a_job_is_added
}

fn a_job_is_added_run_and_shown(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let body = json!({ "type": "quick", "arguments": { "a": [1, "ü"] }, "priority": -3 });
    let reply = alice.post("/jobs", body).expect(201);
    let added = reply.json();
    let place = format!("/api/v1/jobs/{}", id(&added));
    assert_eq!(reply.header("Location"), Some(&*place));
    assert_eq!(added["status"], "pending");
    assert_eq!(added["userId"], "alice");
    assert_eq!(added["meta"], json!({ "a": [1, "ü"] }));
    assert_eq!(added["attempts"], 0);
    assert_eq!(added["startedAt"], json!(null));
    let job = alice.wait(&id(&added), "completed");
    assert_eq!(job["result"], json!({ "ok": true }));
    assert_eq!(
        (&job["attempts"], &job["progress"]),
        (&json!(1), &json!(100))
    );
    assert_eq!(
        (&job["priority"], &job["error"]),
        (&json!(-3), &json!(null))
    );
    assert!(job["startedAt"].is_string() && job["completedAt"].is_string());
    assert_eq!(alice.events(&id(&job)), ["created", "started", "completed"]);
    assert_eq!(alice.stats()["completed"], 1);
    assert_eq!(alice.stats()["total"], 1);
}

fn a_repeated_request_is_answered_again(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let ask = |user: &User, delay: u32| {
        let call = user.call("POST", "/jobs").header("Idempotency-Key", "once");
        call.json(&json!({ "type": "dummy", "delaySec": delay }))
            .send()
    };
    let first = ask(&alice, 60).expect(201);
    let again = ask(&alice, 60).expect(201);
    assert_eq!(again.header("Idempotency-Replayed"), Some("true"));
    assert_eq!(
        (first.header("Location"), &first.body),
        (again.header("Location"), &again.body)
    );
    assert_eq!(alice.stats()["total"], 1);
    ask(&alice, 61).expect_problem(422, "idempotency_key_reused");
    // Keys are a user's own.
    let other = ask(&User::of(&server, "bob"), 60).expect(201);
    assert_ne!(id(&other.json()), id(&first.json()));
}

fn the_same_key_is_the_same_job(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let body = json!({ "type": "held", "uniqueKey": "k" });
    let first = alice.post("/jobs", body.clone()).expect(201).json();
    let again = alice.post("/jobs", body.clone()).expect(200).json();
    assert_eq!(id(&first), id(&again));
    // Keys are a user's own.
    User::of(&server, "bob")
        .post("/jobs", body.clone())
        .expect(201);
    let bulk = json!({ "jobs": [body, body, { "type": "quick", "uniqueKey": "new" },
        { "type": "quick", "uniqueKey": "new" }] });
    let reply = alice.post("/jobs/bulk", bulk).expect(201).json();
    let ids = pluck(reply["jobs"].as_array().expect("a list"), "id");
    assert_eq!((&ids[0], &ids[1]), (&id(&first), &id(&first)));
    assert_eq!(ids[2], ids[3]);
    assert_eq!(alice.stats()["total"], 2);
    server.gate.open();
    alice.wait(&id(&first), "completed");
    // Free again.
    alice.post("/jobs", body).expect(201);
}

/// However fast the first is run: both are added at one moment.
fn a_key_twice_in_one_bulk_is_one_job(db: &Db) {
    let server = db.serve();
    let twice = |round: usize| {
        let alice = User::of(&server, "alice");
        let job = json!({ "type": "quick", "uniqueKey": format!("k{round}") });
        let reply = alice.post("/jobs/bulk", json!({ "jobs": [job, job] }));
        let jobs = reply.expect(201).json();
        let ids = pluck(jobs["jobs"].as_array().expect("a list"), "id");
        assert_eq!(ids[0], ids[1], "in round {round}");
    };
    std::thread::scope(|scope| {
        let rounds = scope.spawn(|| (0..200).for_each(twice));
        // The workers are at work all the time.
        let bob = User::of(&server, "bob");
        while !rounds.is_finished() {
            bob.post("/jobs", json!({ "type": "quick" })).expect(201);
        }
    });
    assert_eq!(User::of(&server, "alice").stats()["total"], 200);
}

fn a_thousand_requests_with_one_key_add_one_job(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let ask = |_| {
        let body = json!({ "type": "held", "uniqueKey": "one" });
        let reply = alice.post("/jobs", body);
        assert!(matches!(reply.status, 200 | 201), "{reply}");
        (reply.status, id(&reply.json()))
    };
    let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| (0..50).map(ask).collect::<Vec<_>>()))
            .collect();
        let joined = clients.into_iter();
        joined.flat_map(|c| c.join().expect("no panic")).collect()
    });
    let ids: HashSet<_> = answers.iter().map(|(_, id)| id).collect();
    let created = answers.iter().filter(|(status, _)| *status == 201);
    assert_eq!((answers.len(), ids.len(), created.count()), (1_000, 1, 1));
    assert_eq!(alice.stats()["total"], 1);
}

/// Of eight jobs that want the same key, one gets it; the others are told so.
fn retries_that_race_for_a_key_are_answered(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    for round in 0..10 {
        let body = json!({ "type": "held", "uniqueKey": format!("k{round}"), "delaySec": 600 });
        let jobs: Vec<_> = (0..8)
            .map(|_| {
                let job = alice.add(body.clone());
                alice.act(&format!("/jobs/{job}/cancel")).expect(200);
                job
            })
            .collect();
        let retry = |job: &String| alice.act(&format!("/jobs/{job}/retry")).status;
        let mut answers: Vec<u16> = std::thread::scope(|scope| {
            let racing: Vec<_> = jobs.iter().map(|job| scope.spawn(|| retry(job))).collect();
            let answers = racing.into_iter().map(|thread| thread.join());
            answers.map(|answer| answer.expect("no panic")).collect()
        });
        answers.sort_unstable();
        assert_eq!(answers, [200, 409, 409, 409, 409, 409, 409, 409]);
    }
}

fn a_bulk_is_all_or_none(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let bad = json!({ "jobs": [{ "type": "quick" }, { "type": "nothing" }] });
    let reply = alice.post("/jobs/bulk", bad).expect(400);
    assert_eq!(reply.bad_fields(), ["jobs[1].type"]);
    assert_eq!(alice.stats()["total"], 0);
    alice.post("/jobs/bulk", json!({ "jobs": [] })).expect(400);
    let many: Vec<_> = (0..500).map(|_| json!({ "type": "quick" })).collect();
    let reply = alice
        .post("/jobs/bulk", json!({ "jobs": many }))
        .expect(201);
    assert_eq!(reply.json()["count"], 500);
    crate::support::wait_until(|| alice.stats()["completed"] == 500);
}

fn what_is_wrong_with_a_job_is_named(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    for (body, field) in [
        (json!({}), "type"),
        (json!({ "type": "nothing" }), "type"),
        (json!({ "type": "quick", "runAt": "tomorrow" }), "runAt"),
        (json!({ "type": "quick", "delaySec": -1 }), "delaySec"),
        (
            json!({ "type": "quick", "delaySec": 1, "runAt": "2030-01-01T00:00:00Z" }),
            "delaySec",
        ),
        (json!({ "type": "quick", "priority": 0.5 }), "priority"),
        (json!({ "type": "quick", "maxAttempts": 0 }), "maxAttempts"),
        (json!({ "type": "quick", "timeoutMs": 0 }), "timeoutMs"),
        (json!({ "type": "quick", "arguments": 1 }), "arguments"),
        (json!({ "type": "quick", "wrong": 1 }), "wrong"),
    ] {
        let reply = alice.post("/jobs", body.clone()).expect(400);
        assert_eq!(reply.bad_fields(), [field], "{body}");
    }
    let query = "/jobs?status=gone&limit=0&cursor=x&wrong=1";
    let reply = alice.get(query).expect(400);
    assert_eq!(reply.bad_fields(), ["cursor", "limit", "status", "wrong"]);
    alice.get("/jobs/stats?x=1").expect(400);
    assert_eq!(alice.stats()["total"], 0);
}

fn a_job_is_its_users_own(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let (bob, admin) = (User::of(&server, "bob"), User::admin(&server));
    let own = alice.add_type("held");
    let refused = alice.post("/jobs", json!({ "type": "held", "system": true }));
    refused.expect_problem(403, "access_denied");
    let system = admin.add(json!({ "type": "held", "system": true }));
    assert_eq!(admin.job(&system)["userId"], json!(null));
    for (user, job) in [(&bob, &own), (&bob, &system), (&alice, &system)] {
        for path in ["", "/history", "/events"] {
            let reply = user.get(&format!("/jobs/{job}{path}"));
            reply.expect_problem(403, "access_denied");
        }
        for path in ["cancel", "retry"] {
            let reply = user.act(&format!("/jobs/{job}/{path}"));
            reply.expect_problem(403, "access_denied");
        }
    }
    let totals = [&alice, &bob, &admin].map(|user| {
        let list = user.get("/jobs").expect(200).json();
        assert_eq!(list["total"], user.stats()["total"]);
        list["total"].as_u64().expect("a number")
    });
    assert_eq!(totals, [1, 0, 2]);
    for missing in ["00000000-0000-7000-8000-000000000000", "x"] {
        let reply = alice.get(&format!("/jobs/{missing}"));
        reply.expect_problem(404, "job_not_found");
    }
    admin.act(&format!("/jobs/{own}/cancel")).expect(200);
}

fn pages_follow_the_cursor(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let added: Vec<_> = (0..5).map(|_| alice.add_type("held")).collect();
    alice.act(&format!("/jobs/{}/cancel", added[0])).expect(200);
    let mut seen = Vec::new();
    let mut path = "/jobs?limit=2".to_owned();
    loop {
        let page = alice.get(&path).expect(200).json();
        assert_eq!(page["total"], 5);
        seen.extend(pluck(page["jobs"].as_array().expect("a list"), "id"));
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        path = format!("/jobs?limit=2&cursor={cursor}");
    }
    let newest_first: Vec<_> = added.iter().rev().cloned().collect();
    assert_eq!(seen, newest_first);
    let count = |query: &str| alice.get(query).expect(200).json()["count"].clone();
    assert_eq!(count("/jobs?status=cancelled"), 1);
    assert_eq!(count("/jobs?status=cancelled,pending,processing"), 5);
    assert_eq!(count("/jobs?type=quick"), 0);
    assert_eq!(count("/jobs?type=held"), 5);
}

fn a_cancelled_job_stays_so_until_it_is_retried(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let job = alice.add_type("held");
    alice.wait(&job, "processing");
    let cancelled = alice.act(&format!("/jobs/{job}/cancel")).expect(200).json();
    assert_eq!(cancelled["status"], "cancelled");
    let reply = alice.act(&format!("/jobs/{job}/cancel"));
    reply.expect_problem(409, "job_already_finished");
    server.gate.open();
    let other = alice.add_type("held");
    alice.wait(&other, "completed");
    assert_eq!(alice.job(&job)["status"], "cancelled");
    alice.act(&format!("/jobs/{job}/retry")).expect(200);
    alice.wait(&job, "completed");
    let reply = alice.act(&format!("/jobs/{job}/retry"));
    reply.expect_problem(409, "job_not_retryable");
}

fn a_stream_tells_all_in_order_and_resumes(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let job = alice.add_type("held");
    let path = format!("/jobs/{job}/events");
    let mut stream = alice.call("GET", &path).open();
    let first = stream.event().expect("an event");
    assert_eq!((first.id, &*first.name), (1, "created"));
    assert_eq!(first.data["jobId"], *job);
    server.gate.open();
    let rest = stream.events();
    let last = rest.last().expect("an end");
    assert_eq!(last.name, "completed");
    let ids: Vec<u64> = rest.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b) && ids[0] > 1, "{ids:?}");
    let resume = |id: u64| {
        alice
            .call("GET", &path)
            .header("Last-Event-ID", &id.to_string())
    };
    assert_eq!(resume(1).open().events(), rest);
    resume(last.id).send().expect(204);
    let mut lines = alice
        .call("GET", &path)
        .header("Accept", "application/x-ndjson")
        .open();
    let text = lines.rest();
    let told = text.lines().filter(|line| !line.is_empty());
    let told: Vec<serde_json::Value> = told
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let data: Vec<_> = [&first].into_iter().chain(&rest).map(|e| &e.data).collect();
    assert_eq!(told.iter().collect::<Vec<_>>(), data);
    assert_eq!(text.matches("\"event\":").count(), told.len(), "{text}");
}

fn a_dummy_waits_between_its_delays(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let body = json!({ "delayMinSec": 0.05, "delayMaxSec": 0.1 });
    let job = id(&alice.post("/jobs/start-dummy-job", body).expect(201).json());
    let waited = &alice.wait(&job, "completed")["result"]["waitedSeconds"];
    let waited = waited.as_f64().expect("a number");
    assert!((0.05..=0.1).contains(&waited), "{waited}");
    let wrong = json!({ "delayMinSec": 2, "delayMaxSec": 1 });
    alice.post("/jobs/start-dummy-job", wrong).expect(400);
}

fn a_demo_gives_the_same_result_as_a_task(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let job = alice.add(json!({ "type": "sample", "arguments": { "delayMs": 50 } }));
    let session = server.session("demo");
    let body = json!({ "delayMs": 50 });
    let task = crate::support::id_of(&session.post("/demo/tasks/sample", body).expect(201));
    let task = session.wait_status(&task, "completed");
    let shape = |result: &serde_json::Value| -> Vec<String> {
        result
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    assert_eq!(
        shape(&alice.wait(&job, "completed")["result"]),
        shape(&task["result"])
    );
}

#[test]
fn without_a_database_the_routes_say_what_is_missing() {
    let server = TestServer::start(&[]);
    for path in ["/jobs", "/jobs/stats", "/jobs/x/history"] {
        let reply = server.get(path).expect_problem(503, "jobs_disabled");
        assert!(reply.message().contains("STORAGE") && reply.message().contains("ENABLE_QUEUE"));
    }
}

fn arguments_are_checked_when_a_job_is_added(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let fields = |path: &str, body: serde_json::Value| -> Vec<String> {
        let answer = alice.post(path, body).expect(400).json();
        let errors = answer["errors"].as_array().expect("errors").clone();
        let names = errors.iter().map(|error| error["field"].as_str());
        names.map(|name| name.expect("a name").to_owned()).collect()
    };
    let wrong = json!({ "type": "sample", "arguments": { "delayMs": -1 } });
    assert_eq!(fields("/jobs", wrong.clone()), ["arguments.delayMs"]);
    // What is no object is one fault, not also that of a field that it lacks.
    let text = json!({ "type": "file-processing", "arguments": "x" });
    assert_eq!(fields("/jobs", text), ["arguments"]);
    let delays = json!({ "delayMinSec": 2, "delayMaxSec": 1 });
    let dummy = json!({ "type": "dummy", "arguments": delays });
    let steps = json!({ "name": "Mine", "steps": [{ "name": "One" }] });
    let workflow = json!({ "type": "workflow", "arguments": steps });
    let bulk =
        json!({ "jobs": [{ "type": "quick" }, wrong, dummy, workflow, { "type": "api-call" }] });
    assert_eq!(
        fields("/jobs/bulk", bulk),
        [
            "jobs[1].arguments.delayMs",
            "jobs[2].arguments.delayMaxSec",
            "jobs[3].arguments.steps[0].durationMs",
            "jobs[4].arguments.endpoint",
        ]
    );
    assert_eq!(alice.stats()["total"], 0);

    // A whole number may look like a fraction, and null is nothing, to the executor as well.
    let arguments = json!({ "delayMs": 10.0, "speed": null });
    let job = alice.add(json!({ "type": "sample", "arguments": arguments }));
    assert_eq!(alice.wait(&job, "completed")["result"]["simulatedMs"], 10);
}

/// In whatever order their keys come, and through whichever process.
#[test]
fn bulks_whose_keys_overlap_are_all_answered() {
    let Some(db) = Db::postgres() else { return };
    let fronts = [
        db.start(&[("ENABLE_QUEUE", "false")]),
        db.start(&[("ENABLE_QUEUE", "false")]),
    ];
    std::thread::scope(|scope| {
        for n in 0..8 {
            let alice = User::of(&fronts[n % 2].client, "alice");
            scope.spawn(move || {
                for round in 0..15 {
                    // Every number once, in an order of this client's own.
                    let step = [1, 7, 11, 13, 17, 19, 23, 29][n];
                    let key = |k: usize| format!("{round}-{}", k * step % 60);
                    let job = |k| json!({ "type": "dummy", "uniqueKey": key(k) });
                    let jobs: Vec<_> = (0..60).map(job).collect();
                    alice
                        .post("/jobs/bulk", json!({ "jobs": jobs }))
                        .expect(201);
                }
            });
        }
    });
    let total = db.rows("SELECT count(*) || ' ' || count(DISTINCT unique_key) FROM jobs");
    assert_eq!(total, ["900 900"]);
}
