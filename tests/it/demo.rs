use serde_json::{Value, json};

use crate::support::{Client, TestServer, id_of};

const NOTE: &str = "Task is running in the background. Use the task ID to check progress.";

/// The route, a body that is quickly done, the message, and the type.
fn demos() -> [(&'static str, Value, &'static str, &'static str); 5] {
    [
        (
            "/demo/tasks/sample",
            json!({ "delayMs": 100, "speed": 100 }),
            "Sample task created and started",
            "sample",
        ),
        (
            "/demo/tasks/file-processing",
            json!({
                "filePath": "/data/report.csv", "fileSize": 4096, "processingType": "import",
                "speed": 500,
            }),
            "File processing task created and started",
            "file-processing",
        ),
        (
            "/demo/tasks/api-call",
            json!({
                "endpoint": "https://example.invalid/x", "method": "POST",
                "data": { "a": 1 }, "headers": { "x-a": "b" }, "speed": 500,
            }),
            "API call task created and started",
            "api-call",
        ),
        (
            "/demo/tasks/batch",
            json!({ "items": ["a", 2, { "c": 3 }, null], "itemDelayMs": 10, "speed": 10 }),
            "Batch processing task created and started",
            "batch-processing",
        ),
        (
            "/demo/tasks/workflow",
            json!({ "name": "Ship it", "speed": 100, "steps": [
                { "name": "Pack", "description": "into a box", "durationMs": 200, "progress": 30 },
                { "name": "Send", "durationMs": 100 },
            ] }),
            "Workflow task created and started",
            "workflow",
        ),
    ]
}

/// Starts a demo and waits for its end: the task, its distinct percents, its distinct steps.
fn play(client: &Client, path: &str, body: Value) -> (Value, Vec<u64>, Vec<String>) {
    let id = id_of(&client.post(path, body).expect(201));
    let task = client.wait_status(&id, "completed");
    let history = client.history(&id);
    let percents = history
        .iter()
        .filter_map(|entry| entry["progress"].as_u64());
    let mut percents: Vec<u64> = percents.collect();
    percents.dedup();
    let steps = history.iter().filter_map(|entry| entry["step"].as_str());
    let mut steps: Vec<String> = steps.map(str::to_owned).collect();
    steps.dedup();
    (task, percents, steps)
}

#[test]
fn each_demo_answers_at_once_and_runs_to_a_result() {
    let server = TestServer::start(&[]);
    for (path, body, message, kind) in demos() {
        let reply = server.post(path, body).expect(201);
        let answer = reply.json();
        let members: Vec<_> = answer.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["message", "note", "success", "task"], "{path}");
        assert_eq!(answer["success"], true);
        assert_eq!(answer["message"], message);
        assert_eq!(answer["note"], NOTE);
        let task = &answer["task"];
        assert_eq!(task["status"], "pending", "{path}");
        assert_eq!(task["type"], kind);
        assert_eq!(task["metadata"]["type"], kind);
        let own = task["links"]["self"].as_str();
        assert_eq!(reply.header("Location"), own, "{path}");
        let done = server.wait_status(&id_of(&reply), "completed");
        assert_eq!(
            (&done["progress"], &done["attempt"]),
            (&json!(100), &json!(1))
        );
        let result = done["result"].as_object();
        assert!(result.is_some_and(|result| !result.is_empty()), "{done}");
    }
    assert_eq!(server.total(), 5);
}

#[test]
fn the_sample_shows_ten_equal_slices() {
    let server = TestServer::start(&[]);
    let body = json!({ "delayMs": 1000, "speed": 10 });
    let (task, percents, steps) = play(&server, "/demo/tasks/sample", body);
    assert_eq!(task["name"], "Sample Long-Running Task");
    assert_eq!(percents, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    assert!(steps.len() >= 10, "{steps:?}");
    for step in steps {
        let number = step
            .strip_prefix("Step ")
            .and_then(|n| n.parse::<u8>().ok());
        assert!(number.is_some(), "{step}");
    }
}

#[test]
fn every_field_of_the_sample_is_optional_and_so_is_its_body() {
    let server = TestServer::start(&[]);
    for call in [
        server.call("POST", "/demo/tasks/sample"),
        server.call("POST", "/demo/tasks/sample").json(&json!({})),
    ] {
        let id = id_of(&call.send().expect(201));
        server.wait_status(&id, "running");
        server.act(&format!("/tasks/{id}/cancel")).expect(200);
    }
}

#[test]
fn file_processing_shows_six_named_steps() {
    let server = TestServer::start(&[]);
    let body = json!({ "filePath": "/etc/passwd", "speed": 500 });
    let (task, percents, steps) = play(&server, "/demo/tasks/file-processing", body);
    assert_eq!(percents, [0, 10, 25, 50, 75, 90, 100]);
    assert_eq!(steps.len(), 6, "{steps:?}");
    let told = task["result"].to_string();
    assert!(
        told.contains("/etc/passwd"),
        "says what was simulated: {told}"
    );
    assert!(!told.contains("root:"), "opens no file: {told}");
}

#[test]
fn an_api_call_shows_four_named_steps_and_calls_nobody() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("can be nonblocking");
    let address = listener.local_addr().expect("an address");
    let server = TestServer::start(&[]);
    let body = json!({ "endpoint": format!("http://{address}/"), "speed": 500 });
    let (task, percents, steps) = play(&server, "/demo/tasks/api-call", body);
    assert_eq!(percents, [0, 20, 40, 60, 80, 100]);
    assert!((4..=5).contains(&steps.len()), "{steps:?}");
    let told = task["result"].to_string();
    assert!(told.contains(&address.to_string()), "{told}");
    assert!(listener.accept().is_err(), "somebody called the address");
}

#[test]
fn a_batch_shows_one_step_an_item() {
    let server = TestServer::start(&[]);
    let body = json!({ "items": [1, 2, 3, 4], "itemDelayMs": 5 });
    let (task, percents, steps) = play(&server, "/demo/tasks/batch", body);
    assert_eq!(task["metadata"]["itemCount"], 4);
    let expected: Vec<_> = (1..=4).map(|i| format!("Item {i} of 4")).collect();
    assert_eq!(steps, expected);
    assert_eq!(percents.last(), Some(&100));
    assert!(percents.contains(&50), "{percents:?}");
}

#[test]
fn a_workflow_runs_the_presenters_own_steps() {
    let server = TestServer::start(&[]);
    let body = json!({ "name": "Ship it", "description": "today", "steps": [
        { "name": "Pack", "description": "into a box", "durationMs": 20, "progress": 30 },
        { "name": "Send", "durationMs": 20, "progress": 80 },
    ] });
    let (task, percents, steps) = play(&server, "/demo/tasks/workflow", body);
    assert_eq!(
        (&task["name"], &task["description"]),
        (&json!("Ship it"), &json!("today"))
    );
    assert_eq!(steps, ["Pack", "Send"]);
    assert!(
        percents.contains(&30) && percents.contains(&80),
        "{percents:?}"
    );
    let id = task["id"].as_str().expect("an id");
    let history = server.history(id);
    assert!(
        history.iter().any(|e| e["message"] == "into a box"),
        "{history:?}"
    );
}

#[test]
fn speed_divides_every_delay() {
    let server = TestServer::start(&[]);
    let slow = json!({ "delayMs": 50, "speed": 0.1 });
    let slow = id_of(&server.post("/demo/tasks/sample", slow).expect(201));
    let fast = json!({ "delayMs": 3_600_000, "speed": 1000 });
    let fast = id_of(&server.post("/demo/tasks/sample", fast).expect(201));
    let task = server.wait_status(&slow, "completed");
    let took = |task: &Value| task["completedAt"].as_u64().zip(task["startedAt"].as_u64());
    let (end, start) = took(&task).expect("both times");
    assert!((400..5_000).contains(&(end - start)), "{} ms", end - start);
    assert_eq!(server.task(&fast)["status"], "running");
    server.act(&format!("/tasks/{fast}/cancel")).expect(200);
}

#[test]
fn fail_at_and_fail_attempts_show_failure_and_retry() {
    let server = TestServer::start(&[]);
    let own = [
        ("failAt", json!(50)),
        ("failAttempts", json!(2)),
        ("description", json!("d")),
    ];
    for (path, mut body, _, _) in demos() {
        for (name, value) in &own {
            body[*name] = value.clone();
        }
        let id = id_of(&server.post(path, body).expect(201));
        for attempt in 1..=2 {
            let task = server.wait_status(&id, "failed");
            assert_eq!(task["attempt"], attempt, "{path}");
            assert_eq!(task["description"], "d", "{path}");
            let reached = task["progress"].as_u64().expect("a percent");
            assert!(reached <= 60, "{path} fails at 50 %, not {reached}");
            let error = task["error"].as_str().unwrap_or_default();
            assert!(!error.is_empty(), "{path}");
            server.act(&format!("/tasks/{id}/retry")).expect(200);
        }
        let task = server.wait_status(&id, "completed");
        assert_eq!(
            (&task["attempt"], &task["progress"]),
            (&json!(3), &json!(100)),
            "{path}"
        );
        assert!(task["error"].is_null(), "{path}");
    }
}

#[test]
fn one_attempt_fails_where_no_number_is_given() {
    let server = TestServer::start(&[]);
    let body = json!({ "delayMs": 10, "failAt": 30 });
    let id = id_of(&server.post("/demo/tasks/sample", body).expect(201));
    server.wait_status(&id, "failed");
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    assert_eq!(server.wait_status(&id, "completed")["attempt"], 2);
}

#[test]
fn refusals_keep_their_wording() {
    let server = TestServer::start(&[]);
    let no_items = "items array is required and must not be empty";
    for (path, body, message) in [
        ("file-processing", json!({}), "filePath is required"),
        (
            "file-processing",
            json!({ "filePath": "" }),
            "filePath is required",
        ),
        ("api-call", json!({}), "endpoint is required"),
        (
            "api-call",
            json!({ "endpoint": "" }),
            "endpoint is required",
        ),
        ("batch", json!({}), no_items),
        ("batch", json!({ "items": [] }), no_items),
        ("batch", json!({ "items": "abc" }), no_items),
    ] {
        let reply = server.post(&format!("/demo/tasks/{path}"), body.clone());
        let reply = reply.expect_problem(400, "invalid_request");
        assert_eq!(reply.message(), message, "{path} {body}");
        assert_eq!(reply.bad_fields().len(), 1, "{reply}");
    }
    let reply = server.act("/demo/tasks/file-processing").expect(400);
    assert_eq!(reply.message(), "filePath is required");
    assert_eq!(server.total(), 0, "nothing half-created");
}

#[test]
fn demo_bodies_are_checked_field_by_field() {
    let server = TestServer::start(&[]);
    let many = vec![0; 10_001];
    let step = json!({ "name": "n", "durationMs": 1 });
    let steps = vec![step.clone(); 101];
    for (path, body, fields) in [
        ("sample", json!({ "delayMs": -1 }), vec!["delayMs"]),
        ("sample", json!({ "delayMs": 3_600_001 }), vec!["delayMs"]),
        ("sample", json!({ "delayMs": "5" }), vec!["delayMs"]),
        ("sample", json!({ "speed": 0.09 }), vec!["speed"]),
        ("sample", json!({ "speed": 1000.5 }), vec!["speed"]),
        ("sample", json!({ "failAt": 101 }), vec!["failAt"]),
        ("sample", json!({ "failAt": -1 }), vec!["failAt"]),
        (
            "sample",
            json!({ "failAttempts": 0.5 }),
            vec!["failAttempts"],
        ),
        (
            "sample",
            json!({ "description": 1, "x": 1, "speed": "a" }),
            vec!["description", "speed", "x"],
        ),
        (
            "file-processing",
            json!({ "fileSize": "big", "processingType": 1 }),
            vec!["filePath", "fileSize", "processingType"],
        ),
        (
            "api-call",
            json!({ "endpoint": 1, "method": 2, "headers": 3 }),
            vec!["endpoint", "headers", "method"],
        ),
        ("batch", json!({ "items": many }), vec!["items"]),
        (
            "batch",
            json!({ "items": [1], "itemDelayMs": "x" }),
            vec!["itemDelayMs"],
        ),
        ("workflow", json!({ "steps": [step] }), vec!["name"]),
        ("workflow", json!({ "name": "n" }), vec!["steps"]),
        (
            "workflow",
            json!({ "name": "n", "steps": [] }),
            vec!["steps"],
        ),
        (
            "workflow",
            json!({ "name": "n", "steps": steps }),
            vec!["steps"],
        ),
    ] {
        let reply = server.post(&format!("/demo/tasks/{path}"), body);
        let reply = reply.expect_problem(400, "invalid_request");
        assert_eq!(reply.bad_fields(), fields, "{path}: {reply}");
    }
    for bad in [
        json!({ "durationMs": 1 }),
        json!({ "name": "n" }),
        json!({ "name": "n", "durationMs": -1 }),
        json!({ "name": "n", "durationMs": 1, "progress": 101 }),
        json!({ "name": "n", "durationMs": 1, "what": 1 }),
        json!("n"),
    ] {
        let body = json!({ "name": "n", "steps": [{ "name": "a", "durationMs": 1 }, bad] });
        let reply = server.post("/demo/tasks/workflow", body);
        let reply = reply.expect_problem(400, "invalid_request");
        let fields = reply.bad_fields();
        assert!(
            fields.iter().all(|field| field.starts_with("steps")),
            "{reply}"
        );
    }
    assert_eq!(server.total(), 0, "nothing half-created");
}

#[test]
fn ten_thousand_items_are_a_batch() {
    let server = TestServer::start(&[]);
    let body = json!({ "items": vec![0; 10_000], "itemDelayMs": 0 });
    let id = id_of(&server.post("/demo/tasks/batch", body).expect(201));
    let task = server.wait_status(&id, "completed");
    assert_eq!(task["metadata"]["itemCount"], 10_000);
}
