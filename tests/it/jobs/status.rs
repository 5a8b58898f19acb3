//! `GET /jobs/:id/status`: the polls of tasks, for jobs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Db, User, once};
use crate::support::{Dial, Reply};

on_both! {
    a_jobs_status_that_has_not_changed_is_not_sent_again
    a_long_poll_ends_with_the_job_whichever_process_runs_it
    a_long_poll_that_knows_the_status_ends_with_the_next_change
    a_status_is_told_to_those_who_may_see_the_job
}

fn poll(user: &User, id: &str, query: &str, known: Option<&str>) -> Reply {
    let call = user.call("GET", &format!("/jobs/{id}/status{query}"));
    match known {
        Some(tag) => call.header("If-None-Match", tag).send(),
        None => call.send(),
    }
}

fn tag(reply: &Reply) -> String {
    reply.header("ETag").expect("an ETag").to_owned()
}

fn a_jobs_status_that_has_not_changed_is_not_sent_again(db: &Db) {
    let front = db.serve_with(&[("ENABLE_QUEUE", "false")], |_| {});
    let alice = User::of(&front, "alice");
    let id = alice.add(once(0.0));
    let first = poll(&alice, &id, "", None).expect(200);
    assert_eq!(first.header("Retry-After"), Some("1"));
    let now = first.json();
    assert_eq!(
        (&now["jobId"], &now["status"]),
        (&json!(id), &json!("pending"))
    );
    assert_eq!(
        (&now["attempts"], &now["completedAt"]),
        (&json!(0), &json!(null))
    );
    poll(&alice, &id, "", Some(&tag(&first))).expect(304);
    // A poll that waits for what does not come waits that long, and no longer.
    let begun = Instant::now();
    poll(&alice, &id, "?wait=1", Some(&tag(&first))).expect(304);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    alice.act(&format!("/jobs/{id}/cancel")).expect(200);
    let last = poll(&alice, &id, "", Some(&tag(&first))).expect(200);
    assert_eq!(last.header("Retry-After"), None);
    assert_eq!(last.json()["status"], "cancelled");
    assert!(last.json()["completedAt"].is_string());
    poll(&alice, &id, "?wait=61", None).expect(400);
}

fn a_long_poll_ends_with_the_job_whichever_process_runs_it(db: &Db) {
    let front = db.serve_with(&[("ENABLE_QUEUE", "false")], |_| {});
    let alice = User::of(&front, "alice");
    let id = alice.add(once(0.0));
    let worker = db.serve();
    let ended = poll(&alice, &id, "?wait=60", None).expect(200);
    assert_eq!(ended.json()["status"], "completed");
    assert_eq!(ended.json()["progress"], 100);
    drop(worker);
}

fn a_long_poll_that_knows_the_status_ends_with_the_next_change(db: &Db) {
    let dial = Dial::default();
    let server = db.serve_with(&[], |registry| dial.register(registry));
    let alice = User::of(&server, "alice");
    let id = alice.add_type("driven");
    alice.wait(&id, "processing");
    let mut last = poll(&alice, &id, "", None).expect(200);
    for percent in [20, 60] {
        dial.turn_to(percent);
        while last.json()["progress"] != percent {
            last = poll(&alice, &id, "?wait=60", Some(&tag(&last))).expect(200);
        }
    }
    assert_eq!(last.json()["status"], "processing");
}

fn a_status_is_told_to_those_who_may_see_the_job(db: &Db) {
    let server = db.serve();
    let (alice, bob) = (User::of(&server, "alice"), User::of(&server, "bob"));
    let id = alice.add(once(0.0));
    poll(&bob, &id, "", None).expect(403);
    poll(&bob, "latest", "", None).expect(404);
    poll(&alice, "latest", "", None).expect(200);
    poll(&alice, "00000000-0000-0000-0000-000000000000", "", None).expect(404);
}
