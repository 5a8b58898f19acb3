use std::time::Duration;

use serde_json::{Value, json};

use super::{Db, User};
use crate::commands::{Folder, is_alive, is_there, shell};
use crate::support::{Process, TestServer, wait_until};

on_both! {
    a_job_runs_a_command_and_the_document_names_its_user
    an_error_can_be_for_good
    a_cancelled_jobs_command_is_ended
    a_job_is_given_back_when_its_command_has_ended_at_the_stop
    types_that_come_with_sighup_run_jobs
}

fn start(db: &Db, folder: &Folder) -> TestServer {
    let path = folder.path();
    let variables = [
        ("EXECUTORS", &*path),
        ("EXECUTORS_TOKEN", "not asked of jobs"),
    ];
    TestServer::start(&db.variables(&variables))
}

fn start_process(db: &Db, folder: &Folder) -> Process {
    let path = folder.path();
    db.start(&[
        ("EXECUTORS", &*path),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ])
}

fn job(kind: &str) -> Value {
    json!({ "type": kind, "maxAttempts": 2 })
}

fn a_job_runs_a_command_and_the_document_names_its_user(db: &Db) {
    let script = "printf '{\"result\":%s}\\n' \"$(cat)\"; echo '50% Half'";
    let folder = Folder::new(&json!({ "echo": shell(script) }));
    let server = start(db, &folder);
    let alice = User::of(&server, "ali\"ce");
    let id = alice.add(json!({ "type": "echo", "arguments": { "a": [1] } }));
    let done = alice.wait(&id, "completed");
    let expected = json!({
        "id": id, "type": "echo", "name": "echo", "attempt": 1, "user": "ali\"ce", "input": { "a": [1] },
    });
    assert_eq!(done["result"], expected);
    let root = User::admin(&server);
    let id = root.add(json!({ "type": "echo", "system": true }));
    let done = root.wait(&id, "completed");
    assert_eq!(
        (&done["result"]["user"], &done["result"]["input"]),
        (&Value::Null, &Value::Null)
    );
}

fn an_error_can_be_for_good(db: &Db) {
    let folder = Folder::new(&json!({
        "for-good": shell("echo '{\"error\": \"no such customer\", \"retry\": false}'; exit 1"),
        "again": shell("echo '{\"error\": \"busy\"}'; exit 1"),
    }));
    let server = start(db, &folder);
    let alice = User::of(&server, "alice");
    for (kind, why, attempts) in [("for-good", "no such customer", 1), ("again", "busy", 2)] {
        let id = alice.add(job(kind));
        let failed = alice.wait(&id, "failed");
        assert_eq!(
            (&failed["error"]["message"], &failed["attempts"]),
            (&json!(why), &json!(attempts))
        );
    }
}

fn a_cancelled_jobs_command_is_ended(db: &Db) {
    let folder = Folder::new(&json!({ "long": shell("echo $$ >> pids; sleep 1000 & wait") }));
    let server = start(db, &folder);
    let alice = User::of(&server, "alice");
    let id = alice.add(job("long"));
    let pids = folder.wait_pids("pids", 1);
    alice.act(&format!("/jobs/{id}/cancel")).expect(200);
    wait_until(|| !is_there(pids[0]));
}

/// The command says goodbye for half a second. Nobody may run the job before that.
fn a_job_is_given_back_when_its_command_has_ended_at_the_stop(db: &Db) {
    let script = "trap 'sleep 0.5; echo $$ >> ended; exit 1' TERM; echo $$ >> pids; while :; do sleep 0.05; done";
    let folder = Folder::new(&json!({ "long": shell(script) }));
    let mut process = start_process(db, &folder);
    let alice = User::of(&process.client, "alice");
    let id = alice.add(job("long"));
    let first = folder.wait_pids("pids", 1)[0];
    process.signal("TERM");
    assert_eq!(process.ended().0, Some(0), "{:?}", process.log());
    assert_eq!(folder.pids("ended"), [first]);
    assert!(!is_alive(first));
    let process = start_process(db, &folder);
    let alice = User::of(&process.client, "alice");
    // It is pending at once, not only when its lease is over.
    folder.wait_pids("pids", 2);
    let again = alice.wait(&id, "processing");
    assert!(again["attempts"].as_u64() <= Some(2), "{again}");
    alice.act(&format!("/jobs/{id}/cancel")).expect(200);
}

fn types_that_come_with_sighup_run_jobs(db: &Db) {
    let folder = Folder::new(&json!({ "old": shell("echo old"), "gone": shell("true") }));
    let process = start_process(db, &folder);
    let alice = User::of(&process.client, "alice");
    let long = alice.add(json!({ "type": "gone", "delaySec": 1 }));
    folder.set(&json!({ "old": shell("echo old"), "new": { "command": "echo '{\"result\": 7}'", "concurrency": 2 } }));
    process.signal("HUP");
    wait_until(|| process.has("was read anew: 2 types"));
    let ids: Vec<_> = (0..5).map(|_| alice.add(job("new"))).collect();
    for id in ids {
        assert_eq!(alice.wait(&id, "completed")["result"], 7);
    }
    assert_eq!(
        alice.post("/jobs", job("gone")).expect(400).bad_fields(),
        ["type"]
    );
    // Other processes may run it: here it stays pending.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(alice.job(&long)["status"], "pending");
}
