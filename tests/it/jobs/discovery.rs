use serde_json::json;

use super::{Db, User, id, waiting};
use crate::support::{NO_TASK, wait_until};

on_both! {
    a_job_is_added_and_watched_in_one_request
    a_watched_job_shows_all_its_attempts
    a_watched_addition_that_is_refused_adds_nothing
    a_repeated_watched_addition_shows_the_job_of_the_first
    latest_is_the_users_own_newest_job
    running_counts_jobs_too
}

fn a_job_is_added_and_watched_in_one_request(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    for (path, body) in [
        ("/jobs?watch=1", waiting(0.1)),
        (
            "/jobs/start-dummy-job?watch=1",
            json!({ "delayMinSec": 0, "delayMaxSec": 0 }),
        ),
    ] {
        let mut stream = alice.call("POST", path).json(&body).open();
        assert_eq!(stream.head.status, 201, "{}", stream.head);
        let text = stream.rest();
        assert!(text.starts_with("dummy\n"), "{text}");
        assert!(text.contains("\n✔ completed in "), "{text}");
        let place = stream.head.header("Location").expect("a place");
        let job = id(&alice.get("/jobs/latest").expect(200).json());
        assert_eq!(place, format!("/api/v1/jobs/{job}"));
        let again = alice
            .call("GET", "/jobs/latest/watch?plain=1")
            .open()
            .rest();
        let lines: Vec<_> = again.lines().collect();
        assert!(
            lines[1].ends_with("completed 100 %  Waiting") || lines[1].ends_with("completed 100 %")
        );
        assert!(lines[2].starts_with("✔ completed in "), "{again}");
    }
    // The job that is there already is shown, with the status of the plain answer.
    let unique = json!({ "type": "held", "uniqueKey": "k" });
    let first = alice.add(unique.clone());
    let mut stream = alice.call("POST", "/jobs?watch=1").json(&unique).open();
    assert_eq!(stream.head.status, 200);
    alice.act(&format!("/jobs/{first}/cancel")).expect(200);
    assert!(stream.rest().contains("■ cancelled at "));
}

fn a_watched_job_shows_all_its_attempts(db: &Db) {
    let front = db.serve_with(&[("ENABLE_QUEUE", "false")], |_| {});
    let alice = User::of(&front, "alice");
    let body = json!({
        "type": "sample", "arguments": { "delayMs": 0, "failAt": 60 }, "maxAttempts": 2,
    });
    let mut stream = alice
        .call("POST", "/jobs?watch=1&plain=1")
        .json(&body)
        .open();
    // What was before the watch is told by its newest entry alone, so the worker comes after that.
    stream.until("queued\n").expect("the entry so far");
    let worker = db.serve();
    let text = stream.rest();
    for part in [
        "failed     60 %",
        "retried     0 %  next attempt in ",
        "✔ completed in ",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains('\r'), "{text}");
    drop(worker);
}

fn a_watched_addition_that_is_refused_adds_nothing(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    for (path, body) in [
        ("/jobs?watch=2", json!({ "type": "quick" })),
        ("/jobs?watched=1", json!({ "type": "quick" })),
        ("/jobs?watch=1", json!({ "type": "quik" })),
    ] {
        let reply = alice.post(path, body);
        reply.expect_problem(400, "invalid_request");
    }
    let reply = alice.post("/jobs", json!({ "type": "quik" }));
    assert!(reply.message().contains("did you mean quick?"), "{reply}");
    assert_eq!(alice.stats()["total"], 0);
}

fn a_repeated_watched_addition_shows_the_job_of_the_first(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let call = |path: &str| {
        let call = alice.call("POST", path).header("Idempotency-Key", "k");
        call.json(&json!({ "type": "held" }))
    };
    let mut first = call("/jobs?watch=1").open();
    let mut again = call("/jobs?watch=1").open();
    assert_eq!(again.head.header("Idempotency-Replayed"), Some("true"));
    let place = |stream: &crate::support::Stream| stream.head.header("Location").map(str::to_owned);
    assert_eq!(place(&first), place(&again));
    server.gate.open();
    for stream in [&mut first, &mut again] {
        assert!(stream.rest().contains("✔ completed in "));
    }
    let other = call("/jobs").send();
    other.expect_problem(422, "idempotency_key_reused");
    assert_eq!(alice.stats()["total"], 1);
}

fn latest_is_the_users_own_newest_job(db: &Db) {
    let server = db.serve();
    let (alice, admin) = (User::of(&server, "alice"), User::admin(&server));
    let none = alice.get("/jobs/latest");
    assert!(none.message().contains("no job yet"), "{none}");
    none.expect_problem(404, "job_not_found");
    alice.add_type("quick");
    alice.settle();
    let newest = alice.add_type("held");
    // Neither another user's nor the system's, though an admin sees them all.
    User::of(&server, "bob").add_type("quick");
    admin.add(json!({ "type": "quick", "system": true }));
    admin
        .get("/jobs/latest")
        .expect_problem(404, "job_not_found");
    for path in ["", "/history"] {
        let reply = alice.get(&format!("/jobs/latest{path}")).expect(200);
        assert!(reply.text().contains(&newest), "{reply}");
    }
    alice.wait("latest", "processing");
    let cancelled = alice.act("/jobs/latest/cancel").expect(200).json();
    assert_eq!(id(&cancelled), newest);
    let events = alice.call("GET", "/jobs/latest/events").open().events();
    assert_eq!(events[0].data["jobId"], newest);
    let retried = alice.act("/jobs/latest/retry").expect(200).json();
    assert_eq!(id(&retried), newest);
    let other = alice.get(&format!("/jobs/{NO_TASK}/watch"));
    other.expect_problem(404, "job_not_found");
    let other = User::of(&server, "bob").get(&format!("/jobs/{newest}/watch"));
    other.expect_problem(403, "access_denied");
}

fn running_counts_jobs_too(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let running = || {
        let reply = server.get("/executors").expect(200).json();
        let all = reply["executors"].as_array().expect("a list").clone();
        let held = all.into_iter().find(|one| one["type"] == "held");
        held.expect("it is there")["running"].clone()
    };
    alice.add_type("held");
    server.run("held");
    wait_until(|| running() == 2);
    alice.act("/jobs/latest/cancel").expect(200);
    wait_until(|| running() == 1);
}
