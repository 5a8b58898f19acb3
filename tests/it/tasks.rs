use serde_json::{Value, json};

use crate::support::{TestServer, id_of, keys, pluck, wait_until};

fn is_millis(value: &Value) -> bool {
    value.as_u64().is_some_and(|at| at > 1_600_000_000_000)
}

#[test]
fn a_created_task_has_the_contracts_fields_and_nothing_else() {
    let server = TestServer::start(&[]);
    let reply = server
        .post("/tasks", json!({ "name": "Plain" }))
        .expect(201);
    let body = reply.json();
    assert_eq!(keys(&body), ["message", "success", "task"]);
    assert_eq!(body["success"], true);
    assert_eq!(body["message"], "Task created successfully");
    let task = &body["task"];
    let expected = [
        "attempt",
        "completedAt",
        "createdAt",
        "error",
        "id",
        "links",
        "name",
        "progress",
        "sessionKey",
        "startedAt",
        "status",
        "timeoutMs",
        "type",
        "updatedAt",
    ];
    assert_eq!(keys(task), expected);
    let id = task["id"].as_str().expect("an id");
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "a UUID v7: {id}");
    assert_eq!(task["name"], "Plain");
    assert_eq!(task["status"], "pending");
    assert_eq!(
        (&task["progress"], &task["attempt"]),
        (&json!(0), &json!(1))
    );
    assert!(is_millis(&task["createdAt"]) && is_millis(&task["updatedAt"]));
    for null in ["startedAt", "completedAt", "error", "timeoutMs"] {
        assert!(task[null].is_null(), "{null}: {task}");
    }
    assert_eq!(task["sessionKey"].as_str(), reply.header("X-App-Session"));
    let path = format!("/api/v1/tasks/{id}");
    let links = json!({
        "self": path,
        "status": format!("{path}/status"),
        "events": format!("{path}/events"),
        "watch": format!("{path}/watch"),
        "history": format!("{path}/history"),
    });
    assert_eq!(task["links"], links);
    assert_eq!(reply.header("Location"), Some(&*path));
    let read = server.get(&format!("/tasks/{id}")).expect(200).json();
    assert_eq!(keys(&read), ["success", "task"]);
    assert_eq!(&read["task"], task);
}

#[test]
fn what_is_given_at_creation_comes_back() {
    let server = TestServer::start(&[]);
    let name = "ä".repeat(200);
    let description = "ü".repeat(2_000);
    let id = server.create(json!({
        "name": name, "description": description, "type": "held", "timeoutMs": 60_000,
        "metadata": { "type": "other", "deep": [1, { "x": null }] }, "start": false,
    }));
    let task = server.task(&id);
    assert_eq!(task["name"], name);
    assert_eq!(task["description"], description);
    assert_eq!(task["type"], "held");
    assert_eq!(task["timeoutMs"], 60_000);
    assert_eq!(task["metadata"]["deep"][1]["x"], Value::Null);
    assert_eq!(task["status"], "pending");
}

#[test]
fn metadata_comes_back_to_the_letter() {
    let server = TestServer::start(&[]);
    let metadata = r#"{"z":1.10,"a":[],"n":123456789012345678901234567890,"é":"\u00e9"}"#;
    let reply = server
        .call("POST", "/tasks")
        .header("Content-Type", "application/json")
        .body(format!(r#"{{"name":"raw","metadata":{metadata}}}"#))
        .send()
        .expect(201);
    assert!(reply.text().contains(metadata), "{reply}");
    let again = server.get(&format!("/tasks/{}", id_of(&reply)));
    assert!(again.text().contains(metadata), "{again}");
}

#[test]
fn the_type_is_the_field_then_the_metadatas_then_the_sample() {
    let server = TestServer::start(&[]);
    for (body, executed) in [
        (
            json!({ "name": "n", "type": "quick", "metadata": { "type": "fails" } }),
            "quick",
        ),
        (
            json!({ "name": "n", "metadata": { "type": "quick" } }),
            "quick",
        ),
    ] {
        let task = server.task(&server.create(body));
        assert_eq!(task["type"], executed);
    }
    let unknown = json!({
        "name": "n", "start": true,
        "metadata": { "type": "nobody-knows", "delayMs": 0, "speed": 1000 },
    });
    let id = server.create(unknown);
    let task = server.wait_step(&id, "Step 10");
    assert_eq!(task["type"], "nobody-knows");
    let none = server.create(json!({ "name": "n", "start": true }));
    server.wait_step(&none, "Step 1");
}

#[test]
fn a_task_made_with_two_requests_runs_the_sample_workflow() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "two lines of curl" }));
    let reply = server.act(&format!("/tasks/{id}/start")).expect(200).json();
    let expected = json!({
        "success": true, "message": "Task started successfully", "taskId": id,
    });
    assert_eq!(reply, expected);
    server.wait_status(&id, "running");
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
}

#[test]
fn start_true_creates_and_starts_in_one_request() {
    let server = TestServer::start(&[]);
    let body = json!({ "name": "n", "type": "quick", "start": true });
    let reply = server.post("/tasks", body).expect(201);
    assert_eq!(reply.json()["task"]["status"], "pending");
    let task = server.wait_status(&id_of(&reply), "completed");
    assert_eq!(task["result"], json!({ "ok": true }));
    assert_eq!(task["progress"], 100);
    assert!(is_millis(&task["startedAt"]) && is_millis(&task["completedAt"]));
    assert!(task["error"].is_null());
}

#[test]
fn start_is_refused_unless_the_task_waits_to_be_started() {
    let server = TestServer::start(&[("WORKER_THREADS", "1")]);
    let refused = |id: &str| {
        let reply = server.act(&format!("/tasks/{id}/start"));
        reply.expect_problem(409, "task_not_startable").message()
    };
    let finished = server.run_to("quick", "completed");
    let failed = server.run_to("fails", "failed");
    let cancelled = server.create(json!({ "name": "n" }));
    server
        .act(&format!("/tasks/{cancelled}/cancel"))
        .expect(200);
    for id in [&finished, &failed, &cancelled] {
        assert_ne!(refused(id), "Task is already running");
    }
    let running = server.run("blocked");
    server.wait_status(&running, "running");
    let queued = server.run("blocked");
    assert_eq!(server.task(&queued)["status"], "pending");
    for id in [&running, &queued] {
        assert_eq!(refused(id), "Task is already running");
    }
    server.gate.open();
    server.wait_status(&queued, "completed");
}

#[test]
fn a_pending_a_queued_and_a_running_task_can_be_cancelled() {
    let server = TestServer::start(&[("WORKER_THREADS", "1")]);
    let running = server.run("blocked");
    server.wait_step(&running, "Blocking");
    let queued = server.run("blocked");
    let pending = server.create(json!({ "name": "n", "type": "quick" }));
    for (id, progress) in [(&pending, 0), (&queued, 0), (&running, 40)] {
        let reply = server
            .act(&format!("/tasks/{id}/cancel"))
            .expect(200)
            .json();
        assert_eq!(keys(&reply), ["message", "success", "task"]);
        assert_eq!(reply["success"], true);
        assert_eq!(reply["message"], "Task cancelled successfully");
        let task = &reply["task"];
        assert_eq!(task["id"], **id);
        assert_eq!(task["status"], "cancelled");
        assert_eq!(
            task["progress"], progress,
            "keeps the progress it had reached"
        );
        assert!(is_millis(&task["completedAt"]), "{task}");
        assert!(task["links"].is_object());
        server
            .act(&format!("/tasks/{id}/cancel"))
            .expect_problem(409, "task_already_finished");
        server
            .act(&format!("/tasks/{id}/start"))
            .expect_problem(409, "task_not_startable");
    }
    assert_eq!(server.task(&running)["currentStep"], "Blocking");
    server.gate.open();
    let next = server.run_to("quick", "completed");
    assert_eq!(server.task(&next)["status"], "completed");
    assert_eq!(server.task(&queued)["startedAt"], Value::Null);
    assert_eq!(server.task(&running)["status"], "cancelled");
}

#[test]
fn a_finished_task_cannot_be_cancelled() {
    let server = TestServer::start(&[]);
    for (kind, end) in [("quick", "completed"), ("fails", "failed")] {
        let id = server.run_to(kind, end);
        server
            .act(&format!("/tasks/{id}/cancel"))
            .expect_problem(409, "task_already_finished");
        assert_eq!(server.task(&id)["status"], end);
    }
}

#[test]
fn a_failed_task_keeps_what_it_had_reached_and_says_why() {
    let server = TestServer::start(&[]);
    let task = server.task(&server.run_to("fails", "failed"));
    assert_eq!(task["error"], "the disk is full");
    assert_eq!(
        (&task["progress"], &task["currentStep"]),
        (&json!(30), &json!("Trying"))
    );
    assert_eq!(task["currentStepDescription"], "in vain");
    assert!(is_millis(&task["completedAt"]));
    assert!(task.get("result").is_none());
}

#[test]
fn a_retry_is_a_new_attempt_with_a_clean_slate() {
    let server = TestServer::start(&[("WORKER_THREADS", "2")]);
    let failed = server.run_to("fails", "failed");
    let cancelled = server.run("held");
    server.wait_step(&cancelled, "Holding");
    server
        .act(&format!("/tasks/{cancelled}/cancel"))
        .expect(200);
    for id in [&failed, &cancelled] {
        let reply = server.act(&format!("/tasks/{id}/retry")).expect(200).json();
        assert_eq!(keys(&reply), ["message", "success", "task"]);
        assert_eq!(reply["message"], "Task retried successfully");
        let task = &reply["task"];
        assert_eq!(task["status"], "pending");
        assert_eq!(
            (&task["progress"], &task["attempt"]),
            (&json!(0), &json!(2))
        );
        for null in ["error", "startedAt", "completedAt"] {
            assert!(task[null].is_null(), "{null}: {task}");
        }
        for absent in ["currentStep", "currentStepDescription", "result"] {
            assert!(task.get(absent).is_none(), "{absent}: {task}");
        }
    }
    server.wait_status(&failed, "failed");
    server.wait_status(&cancelled, "running");
    server.gate.open();
    assert_eq!(server.wait_status(&cancelled, "completed")["attempt"], 2);
}

#[test]
fn only_a_failed_or_cancelled_task_can_be_retried() {
    let server = TestServer::start(&[]);
    let pending = server.create(json!({ "name": "n" }));
    let running = server.run("held");
    server.wait_status(&running, "running");
    let completed = server.run_to("quick", "completed");
    for id in [pending, running, completed] {
        let before = server.task(&id)["status"].clone();
        server
            .act(&format!("/tasks/{id}/retry"))
            .expect_problem(409, "task_not_retryable");
        assert_eq!(server.task(&id)["status"], before);
    }
}

#[test]
fn the_status_shows_just_the_state() {
    let server = TestServer::start(&[]);
    let status = |id: &str| {
        server
            .get(&format!("/tasks/{id}/status"))
            .expect(200)
            .json()
    };
    let pending = server.create(json!({ "name": "n" }));
    let expected = json!({
        "success": true, "status": "pending", "progress": 0,
        "startedAt": null, "completedAt": null, "error": null,
    });
    assert_eq!(status(&pending), expected);
    let running = server.run("held");
    server.wait_step(&running, "Holding");
    let shown = status(&running);
    assert_eq!(shown["status"], "running");
    assert_eq!(shown["progress"], 40);
    assert_eq!(shown["currentStep"], "Holding");
    assert_eq!(shown["currentStepDescription"], "until the gate opens");
    assert!(is_millis(&shown["startedAt"]) && shown["completedAt"].is_null());
    let failed = server.run_to("fails", "failed");
    let shown = status(&failed);
    assert_eq!(shown["error"], "the disk is full");
    assert!(is_millis(&shown["completedAt"]));
}

#[test]
fn the_history_tells_every_transition_of_every_attempt() {
    let server = TestServer::start(&[]);
    let id = server.run_to("fails", "failed");
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    wait_until(|| server.task(&id)["status"] == "failed" && server.task(&id)["attempt"] == 2);
    let reply = server
        .get(&format!("/tasks/{id}/history"))
        .expect(200)
        .json();
    assert_eq!(keys(&reply), ["count", "history", "success", "taskId"]);
    assert_eq!(
        (&reply["taskId"], &reply["success"]),
        (&json!(id), &json!(true))
    );
    let history = server.history(&id);
    assert_eq!(reply["count"], history.len());
    let told: Vec<_> = history
        .iter()
        .map(|e| {
            let event = e["event"].as_str().expect("an event");
            let status = e["status"].as_str().expect("a status");
            (event, status, e["attempt"].as_u64(), e["progress"].as_u64())
        })
        .collect();
    let attempt = |n| {
        [
            ("started", "running", Some(n), Some(0)),
            ("progress", "running", Some(n), Some(30)),
            ("failed", "failed", Some(n), Some(30)),
        ]
    };
    let before = told.iter().position(|e| e.0 == "retried").expect("a retry");
    assert_eq!(told[0], ("created", "pending", Some(1), Some(0)));
    assert_eq!(told[1], ("queued", "pending", Some(1), Some(0)));
    assert_eq!(told[2..before], attempt(1));
    assert_eq!(told[before], ("retried", "pending", Some(2), Some(0)));
    let rest = &told[before + 1..];
    let rest = rest
        .strip_prefix(&[("queued", "pending", Some(2), Some(0))])
        .unwrap_or(rest);
    assert_eq!(rest, attempt(2));
    assert_eq!(history[3]["step"], "Trying");
    assert_eq!(history[3]["message"], "in vain");
    assert_eq!(history[4]["message"], "the disk is full");
    assert_orderly(&history);
}

#[track_caller]
fn assert_orderly(history: &[Value]) {
    for (place, entry) in history.iter().enumerate() {
        assert_eq!(entry["seq"], place + 1, "no gap in seq");
        assert!(is_millis(&entry["at"]), "{entry}");
        let before = history[place.saturating_sub(1)]["at"].as_u64();
        assert!(before <= entry["at"].as_u64(), "time runs forward");
    }
}

#[test]
fn history_keeps_every_percent_and_transition_past_a_thousand_entries() {
    use async_task_system::{Outcome, TaskContext, TaskInput};
    let server = TestServer::start_with(&[], |registry| {
        registry.register("chatty", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                for step in 0..1_500 {
                    ctx.progress(1, &format!("Step {step}"), "")?;
                }
                for percent in 2..=99 {
                    ctx.progress(percent, "Counting", "")?;
                }
                Ok(Outcome::Done(None))
            })
        });
    });
    let id = server.run_to("chatty", "completed");
    let history = server.history(&id);
    assert!(
        (1_000..=1_110).contains(&history.len()),
        "{}",
        history.len()
    );
    assert_orderly(&history);
    let percents = pluck(&history, "progress");
    for percent in 0..=100 {
        assert!(
            percents.contains(&percent.to_string()),
            "{percent} % is missing"
        );
    }
    assert_eq!(history.last().expect("an entry")["event"], "completed");
    assert_eq!(server.task(&id)["currentStep"], "Counting");
}

#[test]
fn progress_never_falls_within_an_attempt() {
    use async_task_system::{Outcome, TaskContext, TaskInput};
    let server = TestServer::start_with(&[], |registry| {
        registry.register("falling", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                for percent in [50, 20, 60, 250, 10] {
                    ctx.progress(percent, "Falling", "")?;
                }
                Ok(Outcome::Done(None))
            })
        });
    });
    let id = server.run_to("falling", "completed");
    let percents: Vec<_> = server
        .history(&id)
        .iter()
        .map(|entry| entry["progress"].as_u64().expect("a percent"))
        .collect();
    assert!(percents.is_sorted(), "{percents:?}");
    assert_eq!(percents.last(), Some(&100));
}

#[test]
fn health_tells_version_session_and_uptime() {
    let server = TestServer::start(&[]);
    let reply = server.session("me").get("/health").expect(200);
    let body = reply.json();
    let members = ["sessionKey", "status", "timestamp", "uptimeMs", "version"];
    assert_eq!(keys(&body), members);
    assert_eq!(body["status"], "healthy");
    assert_eq!(body["sessionKey"], "me");
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    let uptime = || server.get("/health").json()["uptimeMs"].as_u64();
    let first = uptime();
    assert!(first.is_some());
    wait_until(|| uptime() > first);
    let at = body["timestamp"].as_str().expect("a time");
    let shape: String = at
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert!(shape.starts_with("0000-00-00T00:00:00"), "RFC 3339: {at}");
    assert!(
        at.ends_with('Z') || at.ends_with("+00:00"),
        "RFC 3339: {at}"
    );
}
