//! Recordings, and their replay.

use serde_json::{Value, json};

use crate::support::{Client, TestServer, id_of};

/// A history without its times.
fn shown(client: &Client, id: &str) -> Vec<Value> {
    let mut history = client.history(id);
    for entry in &mut history {
        entry.as_object_mut().expect("an object").remove("at");
    }
    history
}

fn recording(client: &Client, id: &str) -> Value {
    client
        .get(&format!("/tasks/{id}/recording"))
        .expect(200)
        .json()
}

fn replay(client: &Client, recording: &Value, speed: f64) -> String {
    let body = json!({ "recording": recording, "speed": speed });
    id_of(&client.post("/demo/tasks/replay", body).expect(201))
}

/// Fails, is retried, is cancelled, and is retried to its end.
fn eventful(client: &Client) -> String {
    let body = json!({ "delayMs": 300, "failAt": 50, "description": "not for others" });
    let id = id_of(&client.post("/demo/tasks/sample", body).expect(201));
    client.wait_status(&id, "failed");
    client.act(&format!("/tasks/{id}/retry")).expect(200);
    client.wait_step(&id, "Step 5");
    client.act(&format!("/tasks/{id}/cancel")).expect(200);
    client.act(&format!("/tasks/{id}/retry")).expect(200);
    client.wait_status(&id, "completed");
    id
}

#[test]
fn a_replay_has_the_recorded_history_at_any_speed() {
    let server = TestServer::start(&[]);
    let client = server.session("on-stage");
    let id = eventful(&client);
    let recorded = recording(&client, &id);
    assert_eq!(
        (&recorded["version"], &recorded["type"]),
        (&json!(1), &json!("sample"))
    );
    let text = recorded.to_string();
    assert!(
        !text.contains("not for others")
            && !text.contains("delayMs")
            && !text.contains("simulatedMs"),
        "{text}"
    );
    for speed in [0.5, 1.0, 20.0, 1_000.0] {
        let again = replay(&client, &recorded, speed);
        client.wait_status(&again, "completed");
        assert_eq!(shown(&client, &again), shown(&client, &id), "speed {speed}");
        let of_replay = recording(&client, &again);
        assert_eq!(of_replay["name"], recorded["name"]);
    }
}

#[test]
fn a_task_that_was_cancelled_before_it_began_is_replayed_so() {
    let server = TestServer::start(&[]);
    let client = server.session("early");
    let id = client.create(json!({ "name": "Too early" }));
    client.act(&format!("/tasks/{id}/cancel")).expect(200);
    let again = replay(&client, &recording(&client, &id), 1.0);
    client.wait_status(&again, "cancelled");
    assert_eq!(shown(&client, &again), shown(&client, &id));
}

#[test]
fn what_was_recorded_while_it_ran_ends_there() {
    let server = TestServer::start(&[]);
    let client = server.session("half");
    let id = client.run("held");
    client.wait_step(&id, "Holding");
    let again = replay(&client, &recording(&client, &id), 1.0);
    let ended = client.wait_status(&again, "failed");
    assert_eq!(ended["error"], "The recording ends here");
    // A later attempt by hand shows the last one again.
    client.act(&format!("/tasks/{again}/retry")).expect(200);
    client.wait_status(&again, "failed");
    assert_eq!(client.task(&again)["currentStep"], "Holding");
}

#[test]
fn what_is_no_recording_is_refused() {
    let server = TestServer::start(&[]);
    let client = server.session("wrong");
    let created = json!({ "at": 0, "event": "created", "attempt": 1, "progress": 0 });
    for (events, told) in [
        (
            json!([]),
            "recording: events must be an array of 1 to 100000 entries",
        ),
        (
            json!([{ "at": 0, "event": "vanished", "attempt": 1, "progress": 0 }]),
            "\"vanished\" is not the name of an event",
        ),
        (
            json!([created, created]),
            "recording: events[1]: this cannot follow the event before it",
        ),
    ] {
        let recording = json!({ "version": 1, "type": "work", "events": events });
        let refused = client
            .post("/demo/tasks/replay", json!({ "recording": recording }))
            .expect(400)
            .json();
        assert!(
            refused["errors"][0]["message"]
                .as_str()
                .is_some_and(|message| message.contains(told)),
            "{refused}"
        );
    }
    let missing = client
        .post("/demo/tasks/replay", json!({}))
        .expect(400)
        .json();
    assert_eq!(missing["errors"][0]["message"], "recording is required");
}

#[test]
fn a_cast_is_what_asciinema_plays() {
    let server = TestServer::start(&[]);
    let client = server.session("cast");
    let id = eventful(&client);
    let reply = client
        .get(&format!("/tasks/{id}/recording.cast"))
        .expect(200);
    assert_eq!(
        reply.header("Content-Type"),
        Some("application/x-asciicast")
    );
    let text = String::from_utf8(reply.body.clone()).expect("UTF-8");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        (&lines[0]["version"], &lines[0]["width"]),
        (&json!(2), &json!(80))
    );
    let times: Vec<f64> = lines[1..]
        .iter()
        .filter_map(|line| line[0].as_f64())
        .collect();
    assert_eq!(times.len() + 1, lines.len());
    assert!(
        times.is_sorted() && lines[1..].iter().all(|line| line[1] == "o"),
        "{text}"
    );
    let drawn: String = lines[1..]
        .iter()
        .filter_map(|line| line[2].as_str())
        .collect();
    assert!(
        drawn.contains("Step 6: Failing, as asked") && drawn.contains("completed in"),
        "{drawn}"
    );
    client.get("/tasks/none/recording").expect(404);
    client.get("/tasks/none/recording.cast").expect(404);
}
