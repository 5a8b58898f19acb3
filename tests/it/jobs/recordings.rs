//! Recordings of jobs, which the Task System replays.

use serde_json::{Value, json};

use super::{Db, User};

on_both! {
    a_job_is_recorded_without_its_data_and_replayed_as_a_task
}

fn a_job_is_recorded_without_its_data_and_replayed_as_a_task(db: &Db) {
    let server = db.serve_with(&[], |_| {});
    let alice = User::of(&server, "alice");
    let arguments =
        json!({ "filePath": "secret.csv", "speed": 50, "failAt": 75, "failAttempts": 1 });
    let id = alice.add(json!({ "type": "file-processing", "arguments": arguments }));
    alice.wait(&id, "completed");
    let recording = alice
        .get(&format!("/jobs/{id}/recording"))
        .expect(200)
        .json();
    assert_eq!(recording["type"], "file-processing");
    assert!(!recording.to_string().contains("secret.csv"), "{recording}");
    let cast = alice.get(&format!("/jobs/{id}/recording.cast")).expect(200);
    assert_eq!(cast.header("Content-Type"), Some("application/x-asciicast"));

    let client = server.session("on-stage");
    let body = json!({ "recording": recording, "speed": 10 });
    let task = crate::support::id_of(&client.post("/demo/tasks/replay", body).expect(201));
    let ended = client.wait_status(&task, "completed");
    assert_eq!(ended["attempt"], 2);
    let entry = |entry: &Value| {
        let field = |name: &str| entry[name].clone();
        (
            field("event"),
            field("attempt"),
            field("progress"),
            field("step"),
            field("message"),
        )
    };
    let replayed: Vec<_> = client.history(&task).iter().map(entry).collect();
    let recorded: Vec<_> = recording["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(entry)
        .collect();
    assert_eq!(replayed, recorded);
    let bob = User::of(&server, "bob");
    bob.get(&format!("/jobs/{id}/recording")).expect(403);
}
