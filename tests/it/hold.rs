//! Tasks in a person's hands: steps that wait, pause and resume, failure by hand.

use std::time::Duration;

use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskInput};
use serde_json::{Value, json};

use crate::support::{Client, TestServer, id_of, wait_until};

/// Starts a workflow whose second step waits.
fn approval(client: &Client, more: &Value) -> String {
    let mut body = json!({ "name": "Onboarding", "steps": [
        { "name": "Contract", "durationMs": 1 },
        { "name": "Approval", "wait": true, "progress": 50 },
        { "name": "Accounts", "durationMs": 1 },
    ] });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    id_of(&client.post("/demo/tasks/workflow", body).expect(201))
}

fn wait_until_waiting(client: &Client, id: &str) {
    wait_until(|| client.task(id)["waiting"] == true);
}

fn act(client: &Client, id: &str, verb: &str, body: &Value) -> crate::support::Reply {
    client.post(&format!("/tasks/{id}/{verb}"), body.clone())
}

/// The entries since the last report.
fn events(client: &Client, id: &str) -> Vec<String> {
    let history = client.history(id);
    let names = history
        .iter()
        .map(|entry| entry["event"].as_str().expect("a name").to_owned());
    names.filter(|name| name != "progress").collect()
}

#[test]
fn a_step_waits_until_a_person_lets_it_go_on() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    let id = approval(&client, &json!({}));
    act(&client, &id, "resume", &json!({})).expect_problem(409, "task_not_paused");
    wait_until_waiting(&client, &id);
    let status = client
        .get(&format!("/tasks/{id}/status"))
        .expect(200)
        .json();
    assert_eq!(
        (
            &status["status"],
            &status["waiting"],
            &status["currentStep"]
        ),
        (&json!("running"), &json!(true), &json!("Approval"))
    );
    let advanced = act(&client, &id, "advance", &json!({ "note": "fine, Kim" }))
        .expect(200)
        .json();
    assert_eq!(advanced["task"]["waiting"], json!(null));
    let done = client.wait_status(&id, "completed");
    assert_eq!(done["waiting"], json!(null));
    // What was advanced once is not advanced again.
    act(&client, &id, "advance", &json!({})).expect_problem(409, "task_not_waiting");
    assert_eq!(
        events(&client, &id),
        [
            "created",
            "queued",
            "started",
            "waiting",
            "advanced",
            "completed"
        ]
    );
    let note = client
        .history(&id)
        .into_iter()
        .find(|entry| entry["event"] == "advanced");
    assert_eq!(note.expect("an entry")["message"], "fine, Kim");
    act(&client, &id, "advance", &json!({ "notes": 1 })).expect_problem(400, "invalid_request");
}

#[test]
fn a_waiting_task_is_ended_by_cancel_and_time_limit_and_its_retry_waits_again() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    let id = approval(&client, &json!({}));
    wait_until_waiting(&client, &id);
    client.act(&format!("/tasks/{id}/cancel")).expect(200);
    act(&client, &id, "advance", &json!({})).expect_problem(409, "task_not_waiting");
    client.act(&format!("/tasks/{id}/retry")).expect(200);
    wait_until_waiting(&client, &id);
    act(&client, &id, "advance", &json!({})).expect(200);
    client.wait_status(&id, "completed");

    let steps = json!([{ "name": "Approval", "wait": true }]);
    let body = json!({
        "name": "Late", "type": "workflow", "metadata": { "steps": steps }, "timeoutMs": 300, "start": true
    });
    let late = client.create(body);
    let failed = client.wait_status(&late, "failed");
    assert_eq!(failed["error"], "timed out after 300 ms");
    assert_eq!(failed["waiting"], json!(null));
}

#[test]
fn thousands_wait_and_hold_no_worker() {
    let server = TestServer::start(&[("WORKER_THREADS", "2"), ("MAX_COMPLETED_TASKS", "2000")]);
    let client = server.session("many");
    let ids: Vec<_> = (0..500).map(|_| approval(&client, &json!({}))).collect();
    for id in &ids {
        wait_until_waiting(&client, id);
    }
    client.run_to("quick", "completed");
    for id in &ids {
        act(&client, id, "advance", &json!({})).expect(200);
    }
    wait_until(|| client.get("/tasks/stats").json()["stats"]["completed"] == 501);
}

#[test]
fn a_paused_task_does_nothing_until_it_is_resumed() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    let id = id_of(
        &client
            .post("/demo/tasks/sample", json!({ "delayMs": 500 }))
            .expect(201),
    );
    wait_until(|| client.task(&id)["status"] == "running");
    let paused = act(&client, &id, "pause", &json!({ "note": "a question" }))
        .expect(200)
        .json();
    assert_eq!(
        (&paused["task"]["paused"], &paused["task"]["status"]),
        (&json!(true), &json!("running"))
    );
    // Once more changes nothing.
    act(&client, &id, "pause", &json!({})).expect(200);
    let before = client.history(&id);
    // Longer than the whole task would have taken.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(client.history(&id), before);
    act(&client, &id, "resume", &json!({})).expect(200);
    client.wait_status(&id, "completed");
    act(&client, &id, "resume", &json!({})).expect_problem(409, "task_not_paused");
    act(&client, &id, "pause", &json!({})).expect_problem(409, "task_not_running");
    let events = events(&client, &id);
    assert_eq!(
        events,
        [
            "created",
            "queued",
            "started",
            "paused",
            "resumed",
            "completed"
        ]
    );
}

#[test]
fn a_task_that_waits_and_is_paused_needs_both() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    for first in ["advance", "resume"] {
        let id = approval(&client, &json!({}));
        wait_until_waiting(&client, &id);
        act(&client, &id, "pause", &json!({})).expect(200);
        act(&client, &id, first, &json!({})).expect(200);
        let task = client.task(&id);
        assert_eq!(task["status"], "running", "{first}");
        let second = if first == "advance" {
            "resume"
        } else {
            "advance"
        };
        act(&client, &id, second, &json!({})).expect(200);
        client.wait_status(&id, "completed");
    }
}

#[test]
fn what_has_no_slices_is_not_paused_and_what_is_no_demo_not_failed() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    let id = client.run("blocked");
    client.wait_step(&id, "Blocking");
    act(&client, &id, "pause", &json!({})).expect_problem(409, "task_not_pausable");
    act(&client, &id, "fail", &json!({})).expect_problem(409, "not_a_demo");
    let sample = id_of(
        &client
            .post("/demo/tasks/sample", json!({ "delayMs": 60_000 }))
            .expect(201),
    );
    wait_until(|| client.task(&sample)["status"] == "running");
    let failed = act(&client, &sample, "fail", &json!({ "error": "the printer" }))
        .expect(200)
        .json();
    assert_eq!(
        (&failed["task"]["status"], &failed["task"]["error"]),
        (&json!("failed"), &json!("the printer"))
    );
    act(&client, &sample, "fail", &json!({})).expect_problem(409, "task_not_running");
    let pending = client.create(json!({ "name": "Later" }));
    for verb in ["fail", "pause"] {
        act(&client, &pending, verb, &json!({})).expect_problem(409, "task_not_running");
    }
    for verb in ["advance", "pause", "resume", "fail"] {
        act(&server.session("other"), &id, verb, &json!({})).expect_problem(404, "task_not_found");
    }
}

/// Asks a person twice, and logs what they say.
fn asks(registry: &mut ExecutorRegistry) {
    registry.register("asks", |_: &TaskInput| {
        let mut heard = 0;
        Ok(move |ctx: &mut TaskContext<'_>| {
            while let Some(signal) = ctx.signal() {
                ctx.log(&signal.note)?;
                heard += 1;
                if heard == 2 {
                    return Ok(Outcome::Done(None));
                }
            }
            Ok(Outcome::Wait(Duration::from_secs(60)))
        })
    });
}

#[test]
fn an_executor_is_told_each_note_once() {
    let server = TestServer::start_with(&[], asks);
    let client = server.session("own");
    let id = client.run("asks");
    for note in ["first", "second"] {
        wait_until_waiting(&client, &id);
        act(&client, &id, "advance", &json!({ "note": note })).expect(200);
    }
    client.wait_status(&id, "completed");
    let log = client.get(&format!("/tasks/{id}/log")).expect(200);
    assert_eq!(log.text(), "first\nsecond\n");
}

#[test]
fn who_watches_sees_what_is_waited_for() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    let id = approval(&client, &json!({}));
    let mut stream = client.call("GET", &format!("/tasks/{id}/events")).open();
    let mut terminal = client
        .call("GET", &format!("/tasks/{id}/watch?plain=1"))
        .open();
    let waiting = std::iter::from_fn(|| stream.event()).find(|event| event.name == "waiting");
    assert_eq!(waiting.expect("it is told").data["waiting"], true);
    act(&client, &id, "advance", &json!({})).expect(200);
    let advanced = std::iter::from_fn(|| stream.event()).find(|event| event.name == "advanced");
    assert_eq!(advanced.expect("it is told").data["waiting"], json!(null));
    let drawn = terminal.until("completed").expect("it ends");
    assert!(drawn.contains("waiting for a person: Approval"), "{drawn}");
}

#[test]
fn holds_are_recorded_and_replayed() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    let id = approval(&client, &json!({}));
    wait_until_waiting(&client, &id);
    act(&client, &id, "pause", &json!({ "note": "wait" })).expect(200);
    act(&client, &id, "advance", &json!({ "note": "fine" })).expect(200);
    act(&client, &id, "resume", &json!({})).expect(200);
    client.wait_status(&id, "completed");
    let recording = client
        .get(&format!("/tasks/{id}/recording"))
        .expect(200)
        .json();
    let again = id_of(
        &client
            .post("/demo/tasks/replay", json!({ "recording": recording }))
            .expect(201),
    );
    client.wait_status(&again, "completed");
    let shown = |id: &str| {
        let history = client.history(id);
        let entry = |entry: &Value| {
            (
                entry["event"].clone(),
                entry["progress"].clone(),
                entry["message"].clone(),
            )
        };
        history.iter().map(entry).collect::<Vec<_>>()
    };
    assert_eq!(shown(&again), shown(&id));
}
