//! `DELETE /session`, and a cleanup of all: a clean stage for the next audience.

use serde_json::json;

use crate::support::{TempDir, TestServer, json_lines, wait_until};

#[test]
fn a_session_is_emptied_and_its_tasks_are_cancelled() {
    let server = TestServer::start(&[]);
    let (me, other) = (server.session("me"), server.session("other"));
    let running = me.run("held");
    me.create(json!({ "name": "waits" }));
    me.run_to("quick", "completed");
    let link = me.act(&format!("/tasks/{running}/share")).expect(201);
    let link = link.json()["url"].as_str().expect("a path").to_owned();
    let kept = other.run("held");
    let reply = me.call("DELETE", "/session").send().expect(204);
    assert_eq!(reply.header("X-App-Session"), Some("me"));
    assert_eq!(me.total(), 0);
    me.get(&format!("/tasks/{running}/status"))
        .expect_problem(404, "task_not_found");
    let shared = me.call_exact("GET", &link);
    let shared = shared.header("Accept", "application/json");
    shared.send().expect_problem(404, "share_not_found");
    assert_eq!(other.task(&kept)["status"], "running");
    // It is gone already, and can be used again.
    me.call("DELETE", "/session").send().expect(204);
    me.run_to("quick", "completed");
    assert_eq!(me.total(), 1);
}

#[test]
fn emptying_gives_back_room_workers_and_places() {
    let variables = [
        ("MAX_SESSIONS", "2"),
        ("MAX_ACTIVE_TASKS", "2"),
        ("WORKER_THREADS", "2"),
    ];
    let server = TestServer::start(&variables);
    for round in 0..5 {
        let me = server.session(&format!("s{round}"));
        for _ in 0..2 {
            // A run in its slice gives its place back a moment later.
            wait_until(|| me.post("/demo/tasks/sample", json!({})).status == 201);
        }
        me.call("DELETE", "/session").send().expect(204);
    }
    let me = server.session("last");
    wait_until(|| {
        me.post("/tasks", json!({ "name": "n", "start": true }))
            .status
            == 201
    });
}

#[test]
fn streams_of_an_emptied_session_end() {
    let server = TestServer::start(&[]);
    let me = server.session("me");
    let id = me.run("held");
    let mut tasks = me.call("GET", "/tasks/events").open();
    let mut one = me.call("GET", &format!("/tasks/{id}/events")).open();
    me.call("DELETE", "/session").send().expect(204);
    tasks.rest();
    one.rest();
}

#[test]
fn only_delete_is_for_a_session() {
    let server = TestServer::start(&[]);
    for method in ["GET", "POST", "PUT"] {
        let reply = server.call(method, "/session").send();
        let reply = reply.expect_problem(405, "method_not_allowed");
        assert_eq!(reply.header("Allow"), Some("DELETE, OPTIONS"));
    }
    let off = TestServer::start(&[("ENABLE_SESSION_ISOLATION", "false")]);
    let reply = off.call("DELETE", "/session").send();
    reply.expect_problem(503, "task_system_disabled");
}

#[test]
fn a_cleanup_of_all_removes_what_has_ended_and_nothing_else() {
    let server = TestServer::start(&[]);
    for _ in 0..3 {
        server.run_to("quick", "completed");
    }
    server.run_to("fails", "failed");
    let running = server.run("held");
    let waiting = server.create(json!({ "name": "waits" }));
    assert_eq!(server.act("/tasks/cleanup/run").json()["cleanedCount"], 0);
    let reply = server.post("/tasks/cleanup/run", json!({ "all": true }));
    assert_eq!(reply.expect(200).json()["cleanedCount"], 4);
    assert_eq!(server.total(), 2);
    assert_eq!(server.task(&running)["status"], "running");
    assert_eq!(server.task(&waiting)["status"], "pending");
    let wrong = server.post("/tasks/cleanup/run", json!({ "all": "yes" }));
    wrong.expect_problem(400, "invalid_request");
}

#[test]
fn the_audit_log_says_when_who_asked_and_what_was_removed() {
    let dir = TempDir::new();
    let file = dir.file("audit.log");
    let path = file.display().to_string();
    let server = TestServer::start(&[("AUDIT_LOG", &path), ("MAX_CANCELLED_TASKS", "0")]);
    let me = server.session("me");
    let cancelled = me.create(json!({ "name": "n" }));
    let call = me.call("POST", &format!("/tasks/{cancelled}/cancel"));
    call.header("X-Request-Id", "who-did-it").send().expect(200);
    me.act("/tasks/cleanup/run").expect(200);
    let dropped = me.run("held");
    me.call("DELETE", "/session").send().expect(204);
    let of = |id: &str, event: &str| {
        let lines = json_lines(&file);
        let mut lines = lines.into_iter();
        lines.find(|line| line["taskId"] == id && line["event"] == event)
    };
    wait_until(|| of(&dropped, "removed").is_some());
    let line = of(&cancelled, "cancelled").expect("an entry");
    assert_eq!(line["requestId"], "who-did-it", "{line}");
    assert_eq!(line["client"], "127.0.0.1", "{line}");
    let time = line["time"].as_str().expect("a time");
    assert!(
        time.len() == 24 && time.ends_with('Z') && time.starts_with("20"),
        "{line}"
    );
    let started = of(&dropped, "started").expect("an entry");
    assert!(
        started.get("requestId").is_none(),
        "a worker did it: {started}"
    );
    assert_eq!(
        of(&cancelled, "removed").expect("an entry")["message"],
        "cleanup"
    );
    assert_eq!(
        of(&dropped, "cancelled").expect("an entry")["message"],
        "session removed"
    );
    assert_eq!(
        of(&dropped, "removed").expect("an entry")["message"],
        "session removed"
    );
}
