use serde_json::{Value, json};

use crate::support::{Client, TempDir, TestServer, json_lines, pluck, wait_until};

const KEEP_ONE: [(&str, &str); 3] = [
    ("MAX_COMPLETED_TASKS", "2"),
    ("MAX_FAILED_TASKS", "1"),
    ("MAX_CANCELLED_TASKS", "1"),
];

fn status(client: &Client) -> Value {
    client.get("/tasks/cleanup/status").expect(200).json()
}

fn cancelled(client: &Client) -> String {
    let id = client.create(json!({ "name": "n" }));
    client.act(&format!("/tasks/{id}/cancel")).expect(200);
    id
}

#[test]
fn a_cleanup_keeps_the_newest_of_each_final_status_and_all_others() {
    let server = TestServer::start(&KEEP_ONE);
    let completed: Vec<_> = (0..4)
        .map(|_| server.run_to("quick", "completed"))
        .collect();
    let failed: Vec<_> = (0..3).map(|_| server.run_to("fails", "failed")).collect();
    let called_off: Vec<_> = (0..2).map(|_| cancelled(&server)).collect();
    let pending: Vec<_> = (0..3)
        .map(|_| server.create(json!({ "name": "n" })))
        .collect();
    let running: Vec<_> = (0..3).map(|_| server.run("held")).collect();
    let other = server.session("other");
    for _ in 0..4 {
        other.run_to("fails", "failed");
    }
    let reply = server.act("/tasks/cleanup/run").expect(200).json();
    let expected = json!({
        "success": true, "message": "Cleanup completed successfully", "cleanedCount": 5,
    });
    assert_eq!(reply, expected);
    let kept = server.get("/tasks").json()["tasks"].clone();
    let mut kept = pluck(kept.as_array().expect("a list"), "id");
    kept.sort();
    let newest = completed[2..]
        .iter()
        .chain(&failed[2..])
        .chain(&called_off[1..]);
    let mut expected: Vec<_> = newest.chain(&pending).chain(&running).cloned().collect();
    expected.sort();
    assert_eq!(kept, expected);
    for path in ["", "/status", "/history"] {
        let reply = server.get(&format!("/tasks/{}{path}", completed[0]));
        reply.expect_problem(404, "task_not_found");
    }
    assert_eq!(other.total(), 4, "another session is not cleaned");
    assert_eq!(server.act("/tasks/cleanup/run").json()["cleanedCount"], 0);
    assert_eq!(status(&server)["status"]["totalCleaned"], 5);
    assert_eq!(status(&other)["status"]["totalCleaned"], 0);
    assert_eq!(server.get("/tasks/stats").json()["stats"]["completed"], 2);
}

#[test]
fn the_status_tells_the_options_and_the_next_run() {
    let server = TestServer::start(&[]);
    let shown = status(&server);
    assert_eq!(shown["success"], true);
    let shown = shown["status"].as_object().expect("an object").clone();
    let members: Vec<_> = shown.keys().map(String::as_str).collect();
    let expected = [
        "isActive",
        "isRunning",
        "lastRun",
        "lastRunAt",
        "nextRunAt",
        "options",
        "totalCleaned",
    ];
    assert_eq!(members, expected);
    let options = json!({
        "maxCompletedTasks": 50, "maxFailedTasks": 20, "cleanupInterval": 300_000,
    });
    assert_eq!(shown["options"], options);
    assert_eq!(
        (&shown["isRunning"], &shown["isActive"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&shown["lastRun"], &shown["totalCleaned"]),
        (&json!("idle"), &json!(0))
    );
    assert!(shown["lastRunAt"].is_null());
    assert!(shown["nextRunAt"].is_u64());
    server.run_to("quick", "completed");
    server.act("/tasks/cleanup/run").expect(200);
    assert!(status(&server)["status"]["lastRunAt"].is_u64());
}

#[test]
fn the_clock_cleans_every_session() {
    let keep_none = [
        ("TASK_CLEANUP_INTERVAL", "100"),
        ("MAX_COMPLETED_TASKS", "0"),
        ("MAX_FAILED_TASKS", "0"),
        ("MAX_CANCELLED_TASKS", "0"),
    ];
    let server = TestServer::start(&keep_none);
    let sessions = [server.session("ann"), server.session("bob")];
    let held = sessions[0].run("held");
    for client in &sessions {
        client.run("quick");
        client.run("fails");
        cancelled(client);
    }
    wait_until(|| sessions[0].total() == 1 && sessions[1].total() == 0);
    assert_eq!(sessions[0].task(&held)["status"], "running");
    let shown = status(&sessions[0])["status"].clone();
    assert_eq!(shown["totalCleaned"], 3);
    let (last, next) = (shown["lastRunAt"].as_u64(), shown["nextRunAt"].as_u64());
    assert!(last.is_some() && last < next, "{shown}");
    assert_eq!(shown["options"]["cleanupInterval"], 100);
}

#[test]
fn the_audit_log_has_the_history_and_outlives_cleanup_and_restart() {
    let dir = TempDir::new();
    let path = dir.file("audit.log");
    let text = path.to_str().expect("a path in UTF-8");
    let variables = [("AUDIT_LOG", text), ("MAX_FAILED_TASKS", "0")];
    let server = TestServer::start(&variables);
    let me = server.session("me");
    let id = me.create(json!({ "name": "n\n{\"event\":\"forged\"}", "type": "fails" }));
    me.act(&format!("/tasks/{id}/start")).expect(200);
    me.wait_status(&id, "failed");
    let history = me.history(&id);
    wait_until(|| json_lines(&path).len() == history.len());
    for (line, entry) in json_lines(&path).into_iter().zip(history) {
        let mut expected = entry.clone();
        expected["taskId"] = json!(id);
        expected["sessionKey"] = json!("me");
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&line[name], value, "{name} of {line}");
        }
    }
    let before = json_lines(&path);
    assert_eq!(me.act("/tasks/cleanup/run").json()["cleanedCount"], 1);
    server.stop();
    let mut kept = json_lines(&path);
    let removed = kept.pop().expect("the removal");
    assert_eq!(
        (&removed["event"], kept == before),
        (&json!("removed"), true)
    );
    let before = json_lines(&path);
    let again = TestServer::start(&variables);
    again.run_to("quick", "completed");
    again.stop();
    let after = json_lines(&path);
    assert_eq!(after[..before.len()], before);
    let events = pluck(&after[before.len()..], "event");
    assert_eq!(events, ["created", "queued", "started", "completed"]);
}
