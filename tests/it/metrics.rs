use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::browser::skip;
use crate::support::{TestServer, wait_until};

const ON: (&str, &str) = ("METRICS", "true");

fn text(server: &TestServer) -> String {
    let reply = server.call_exact("GET", "/metrics").send().expect(200);
    let kind = reply.header("Content-Type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(reply.header("X-App-Session"), None, "it is of no session");
    reply.text()
}

/// Every sample with its labels.
fn samples(server: &TestServer) -> BTreeMap<String, f64> {
    let text = text(server);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    pairs.collect()
}

#[test]
fn without_metrics_there_are_none() {
    let server = TestServer::start(&[]);
    let reply = server.call_exact("GET", "/metrics").send();
    let reply = reply.expect_problem(404, "metrics_disabled");
    assert!(reply.message().contains("METRICS=true"), "{reply}");
}

#[test]
fn tasks_are_counted_by_type_and_status() {
    let server = TestServer::start(&[ON, ("MAX_COMPLETED_TASKS", "1")]);
    let other = server.session("another");
    for client in [&*server, &other] {
        client.run_to("quick", "completed");
        client.run_to("quick", "completed");
        client.create(json!({ "name": "n", "type": "quick" }));
    }
    let failed = server.run_to("fails", "failed");
    server.act(&format!("/tasks/{failed}/retry")).expect(200);
    wait_until(|| {
        server.task(&failed)["attempt"] == 2 && server.task(&failed)["status"] == "failed"
    });
    let held = server.run("held");
    server.wait_step(&held, "Holding");
    server.act(&format!("/tasks/{held}/cancel")).expect(200);
    let waiting = server.create(json!({ "name": "n", "type": "held" }));
    server.act(&format!("/tasks/{waiting}/cancel")).expect(200);
    server.act("/tasks/cleanup/run").expect(200);

    let now = samples(&server);
    let tasks = |kind: &str, status: &str| {
        now[&format!("task_system_tasks{{type=\"{kind}\",status=\"{status}\"}}")]
    };
    // One was cleaned away; what has happened stays counted.
    assert_eq!(tasks("quick", "completed"), 3.0);
    assert_eq!(tasks("quick", "pending"), 2.0);
    assert_eq!(tasks("fails", "failed"), 1.0);
    assert_eq!(tasks("held", "cancelled"), 2.0);
    let ended = |kind: &str, status: &str| {
        now[&format!("task_system_tasks_finished_total{{type=\"{kind}\",status=\"{status}\"}}")]
    };
    assert_eq!(ended("quick", "completed"), 4.0);
    assert_eq!(ended("fails", "failed"), 2.0);
    assert_eq!(ended("held", "cancelled"), 2.0);
    let of = |name: &str, kind: &str| now[&format!("task_system_tasks_{name}{{type=\"{kind}\"}}")];
    assert_eq!(of("created_total", "quick"), 6.0);
    assert_eq!(of("wait_seconds_count", "quick"), 4.0);
    assert_eq!(of("run_seconds_count", "quick"), 4.0);
    // The one that never ran took no time.
    assert_eq!(of("run_seconds_count", "held"), 1.0);
    assert_eq!(now["task_system_sessions"], 2.0);
    assert!(now["task_system_store_bytes"] > 2_048.0);
    // A slice counts once it is over, a moment after what it did is seen.
    assert!(now["task_system_slices_total"] >= 6.0);
}

#[test]
fn clients_cannot_make_the_page_grow() {
    let server = TestServer::start(&[ON]);
    let before = samples(&server);
    for n in 0..50 {
        let metadata = json!({ "type": format!("type-{n}") });
        server.create(json!({ "name": "n", "metadata": metadata }));
        server.session(&format!("s{n}")).get("/tasks").expect(200);
        server.get(&format!("/nowhere/{n}")).expect(404);
        server.get(&format!("/tasks/{n}")).expect(404);
        server.call(&format!("M{n}"), "/tasks").send().expect(405);
    }
    let after = samples(&server);
    let new: Vec<_> = after
        .keys()
        .filter(|name| !before.contains_key(*name))
        .collect();
    // Each route's own statuses, and no more.
    assert!(new.len() <= 6, "{new:#?}");
    assert_eq!(
        after["task_system_tasks_created_total{type=\"other\"}"],
        50.0
    );
    assert_eq!(
        after["task_system_tasks{type=\"other\",status=\"pending\"}"],
        50.0
    );
}

#[test]
fn requests_are_counted_by_route_method_and_status() {
    let server = TestServer::start(&[ON]);
    let id = server.create(json!({ "name": "n" }));
    for _ in 0..3 {
        server.get(&format!("/tasks/{id}/status")).expect(200);
    }
    server.get("/tasks/none/status").expect(404);
    server.call("HEAD", "/tasks/stats").send().expect(200);
    let mut socket = server.connect();
    socket.write_all(b"NO REQUEST\r\n\r\n").expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let now = samples(&server);
    let requests = |route: &str, method: &str, code: &str| {
        now[&format!(
            "task_system_http_requests_total{{route=\"{route}\",method=\"{method}\",code=\"{code}\"}}"
        )]
    };
    let status = "/api/v1/tasks/:id/status";
    assert_eq!(requests(status, "GET", "200"), 3.0);
    assert_eq!(requests(status, "GET", "404"), 1.0);
    assert_eq!(requests("/api/v1/tasks", "POST", "201"), 1.0);
    assert_eq!(requests("/api/v1/tasks/stats", "HEAD", "200"), 1.0);
    let took = format!("task_system_http_request_duration_seconds_count{{route=\"{status}\"}}");
    assert_eq!(now[&took], 4.0);
    assert_eq!(now["task_system_http_refused_total{code=\"400\"}"], 1.0);
}

#[test]
fn what_is_in_use_is_shown_and_given_back() {
    let server = TestServer::start(&[ON, ("WORKER_THREADS", "2")]);
    let stream = server.call("GET", "/tasks/events").open();
    // One holds its worker, the next waits in the lane of those that do.
    let first = server.run("blocked");
    server.wait_step(&first, "Blocking");
    let second = server.run("blocked");
    wait_until(|| samples(&server)["task_system_queue_depth"] == 1.0);
    let now = samples(&server);
    assert_eq!(now["task_system_streams"], 1.0);
    assert_eq!(now["task_system_workers"], 2.0);
    assert_eq!(now["task_system_workers_busy"], 1.0);
    assert_eq!(now["task_system_spare_workers"], 0.0);
    assert_eq!(now["task_system_active_tasks"], 2.0);
    assert!(now["task_system_connections"] >= 2.0);
    server.gate.open();
    server.wait_status(&first, "completed");
    server.wait_status(&second, "completed");
    drop(stream);
    for name in ["streams", "workers_busy", "active_tasks", "queue_depth"] {
        wait_until(|| samples(&server)[&format!("task_system_{name}")] == 0.0);
    }
}

#[test]
fn promtool_finds_nothing_wrong() {
    let server = TestServer::start(&[ON]);
    server.run_to("quick", "completed");
    server.get("/nowhere").expect(404);
    check(&text(&server));
}

/// Has promtool look at it, where there is one.
fn check(text: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        return skip("there is no promtool on the PATH (Debian's package prometheus)");
    };
    let mut input = promtool.stdin.take().expect("it reads");
    input.write_all(text.as_bytes()).expect("it takes it");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// The Job API's numbers.
#[cfg(feature = "jobs")]
mod jobs {
    use std::time::Duration;

    use async_task_system::Config;
    use serde_json::{Value, json};

    use super::{ON, check, samples, text};
    use crate::support::{Reply, TempDir, TestServer, wait_until};

    const SECRET: (&str, &str) = ("JWT_SECRET", "a secret of the tests, long enough");

    fn start(dir: &TempDir, more: &[(&str, &str)]) -> TestServer {
        let url = format!("sqlite://{}", dir.file("jobs.db").display());
        let own = [ON, SECRET, ("STORAGE", "sqlite"), ("DATABASE_URL", &url)];
        TestServer::start(&[&own, more].concat())
    }

    fn post(server: &TestServer, path: &str, body: &Value) -> Reply {
        let config = Config::from_pairs([SECRET]).expect("valid");
        let token = async_task_system::token(&config, "ada", None, Duration::from_secs(600));
        let bearer = format!("Bearer {}", token.expect("a token"));
        let call = server.call("POST", path).header("Authorization", &bearer);
        call.json(body).send()
    }

    #[test]
    fn jobs_are_counted_by_type_and_end() {
        let dir = TempDir::new();
        let server = start(&dir, &[("ENABLE_QUEUE", "true")]);
        let short = json!({ "delayMinSec": 0, "delayMaxSec": 0 });
        let add = |body| post(&server, "/jobs", &body);
        add(json!({ "type": "dummy", "arguments": short })).expect(201);
        add(json!({ "type": "fails", "maxAttempts": 1 })).expect(201);
        let held = json!({ "type": "held", "uniqueKey": "k" });
        let held = post(&server, "/jobs/bulk", &json!({ "jobs": [held, held] })).expect(201);
        let ended = |kind, status| {
            format!("task_system_jobs_finished_total{{type=\"{kind}\",status=\"{status}\"}}")
        };
        wait_until(|| {
            let now = samples(&server);
            now[&ended("dummy", "completed")] == 1.0
                && now[&ended("fails", "failed")] == 1.0
                && now["task_system_jobs_wait_seconds_count{type=\"held\"}"] == 1.0
                && now["task_system_jobs_held"] == 1.0
        });
        let held = held.json()["jobs"][0]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        post(&server, &format!("/jobs/{held}/cancel"), &json!({})).expect(200);
        wait_until(|| samples(&server)["task_system_jobs_held"] == 0.0);

        let now = samples(&server);
        let of =
            |name: &str, kind: &str| now[&format!("task_system_jobs_{name}{{type=\"{kind}\"}}")];
        for kind in ["dummy", "fails", "held"] {
            // One that had its key already is not new.
            assert_eq!(of("created_total", kind), 1.0, "{kind}");
            assert_eq!(of("wait_seconds_count", kind), 1.0, "{kind}");
        }
        assert_eq!(now[&ended("held", "cancelled")], 1.0);
        assert_eq!(now[&ended("fails", "completed")], 0.0);
        assert_eq!(of("run_seconds_count", "dummy"), 1.0);
        assert_eq!(of("run_seconds_count", "fails"), 1.0);
        assert_eq!(now["task_system_jobs_ahead"], 0.0);
        assert_eq!(now["task_system_jobs_database_away"], 0.0);
        check(&text(&server));
    }

    #[test]
    fn what_others_run_is_not_counted_as_held() {
        let dir = TempDir::new();
        let server = start(&dir, &[("ENABLE_QUEUE", "false")]);
        post(&server, "/jobs", &json!({ "type": "quick" })).expect(201);
        let now = samples(&server);
        assert_eq!(now["task_system_jobs_created_total{type=\"quick\"}"], 1.0);
        assert!(!now.contains_key("task_system_jobs_held"));
    }
}
