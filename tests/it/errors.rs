use std::io::{BufReader, Write};

use serde_json::json;

use crate::support::{DOCUMENT, NO_TASK, Reply, TestServer, id_of};

/// Every route in scope, with the methods it has; `ID` stands for a task's id.
const ROUTES: [(&str, &str); 17] = [
    ("/tasks", "GET, HEAD, POST, OPTIONS"),
    ("/tasks/ID", "GET, HEAD, OPTIONS"),
    ("/tasks/ID/start", "POST, OPTIONS"),
    ("/tasks/ID/cancel", "POST, OPTIONS"),
    ("/tasks/ID/retry", "POST, OPTIONS"),
    ("/tasks/ID/status", "GET, HEAD, OPTIONS"),
    ("/tasks/ID/history", "GET, HEAD, OPTIONS"),
    ("/tasks/stats", "GET, HEAD, OPTIONS"),
    ("/tasks/cleanup/status", "GET, HEAD, OPTIONS"),
    ("/tasks/cleanup/run", "POST, OPTIONS"),
    ("/health", "GET, HEAD, OPTIONS"),
    ("/demo/tasks/sample", "POST, OPTIONS"),
    ("/demo/tasks/file-processing", "POST, OPTIONS"),
    ("/demo/tasks/api-call", "POST, OPTIONS"),
    ("/demo/tasks/batch", "POST, OPTIONS"),
    ("/demo/tasks/workflow", "POST, OPTIONS"),
    ("/tasks/", "GET, HEAD, POST, OPTIONS"),
];

fn methods(list: &str) -> Vec<&str> {
    let mut methods: Vec<_> = list.split(',').map(str::trim).collect();
    methods.sort_unstable();
    methods
}

#[test]
fn a_method_that_a_route_lacks_is_refused_with_those_it_has() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    for (route, allow) in ROUTES {
        let path = route.replace("ID", &id);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if methods(allow).contains(&method) {
                continue;
            }
            let reply = server.call(method, &path).send();
            let reply = reply.expect_problem(405, "method_not_allowed");
            let told = reply.header("Allow").expect("Allow");
            assert_eq!(methods(told), methods(allow), "{method} {path}");
        }
    }
    assert_eq!(server.task(&id)["status"], "pending");
}

#[test]
fn a_task_is_immutable_to_clients() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    let before = server.task(&id);
    for method in ["PUT", "PATCH", "DELETE"] {
        let call = server.call(method, &format!("/tasks/{id}"));
        let call = call.json(&json!({ "progress": 99, "status": "completed" }));
        let reply = call.send().expect_problem(405, "method_not_allowed");
        assert!(
            reply
                .header("Allow")
                .is_some_and(|allow| allow.contains("GET"))
        );
    }
    assert_eq!(server.task(&id), before);
}

#[test]
fn options_answers_with_allow() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    for (route, allow) in ROUTES {
        let reply = server.call("OPTIONS", &route.replace("ID", &id)).send();
        assert!(matches!(reply.status, 200 | 204), "{route}: {reply}");
        let told = reply.header("Allow").expect("Allow");
        assert_eq!(methods(told), methods(allow), "{route}");
    }
    assert_eq!(server.total(), 1);
}

#[test]
fn head_works_wherever_get_does_and_has_no_body() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    for (route, allow) in ROUTES
        .into_iter()
        .filter(|(_, allow)| allow.contains("GET"))
    {
        let path = route.replace("ID", &id);
        let get = server.get(&path).expect(200);
        let target = format!("/api/v1{path}");
        let mut stream = server.connect();
        let request = format!("HEAD {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut bytes).expect("read to its end");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 200"), "{path} {allow}: {text}");
        assert!(text.ends_with("\r\n\r\n"), "{path} has a body: {text}");
        let head = server.call("HEAD", &path).send().expect(200);
        assert_eq!(
            head.header("Content-Type"),
            get.header("Content-Type"),
            "{path}"
        );
    }
    server
        .call("HEAD", &format!("/tasks/{NO_TASK}"))
        .send()
        .expect(404);
    let reply = server.call("HEAD", &format!("/tasks/{id}/start")).send();
    assert_eq!(reply.status, 405);
}

#[test]
fn unknown_routes_and_unknown_tasks_are_told_apart() {
    let server = TestServer::start(&[]);
    for path in [
        "/api",
        "/api/v1",
        "/api/v2/tasks",
        "/api/v1/task",
        "/API/V1/tasks",
    ] {
        let reply = server.call_exact("GET", path).send();
        reply.expect_problem(404, "not_found");
    }
    let id = server.create(json!({ "name": "n" }));
    for path in [
        format!("/tasks/{id}/nothing"),
        format!("/tasks/{id}/status/x"),
    ] {
        server.get(&path).expect_problem(404, "not_found");
    }
    server
        .post("/demo/tasks/none", json!({}))
        .expect_problem(404, "not_found");
    for id in [NO_TASK, "nothing", "%00", "..", "0198a1b2"] {
        for path in ["", "/status", "/history"] {
            let reply = server.call("GET", &format!("/tasks/{id}{path}")).send();
            let reply = reply.expect_problem(404, "task_not_found");
            assert_eq!(reply.message(), "Task not found");
        }
        for action in ["start", "cancel", "retry"] {
            server
                .act(&format!("/tasks/{id}/{action}"))
                .expect_problem(404, "task_not_found");
        }
    }
}

#[test]
fn a_malformed_query_is_refused_by_name() {
    let server = TestServer::start(&[]);
    for (field, query) in [
        ("status", "status=done"),
        ("status", "status=completed,done"),
        ("status", "status=Completed"),
        ("limit", "limit=0"),
        ("limit", "limit=1001"),
        ("limit", "limit=-1"),
        ("limit", "limit=ten"),
        ("limit", "limit=1.5"),
        ("limit", "limit="),
        ("limit", "limit=99999999999999999999999"),
        ("cursor", "cursor=garbage"),
        ("cursor", "cursor="),
    ] {
        let reply = server.get(&format!("/tasks?{query}")).expect(400);
        assert_eq!(reply.bad_fields(), [field], "{query}: {reply}");
    }
    let reply = server.get("/tasks?status=x&limit=x&cursor=x").expect(400);
    assert_eq!(reply.bad_fields(), ["cursor", "limit", "status"], "{reply}");
}

#[test]
fn a_sane_request_id_is_kept_and_another_is_replaced() {
    let server = TestServer::start(&[]);
    let ask = |id: &str| {
        let reply = server
            .call("GET", "/nothing")
            .header("X-Request-Id", id)
            .send();
        reply.header("X-Request-Id").expect("an id").to_owned()
    };
    assert_eq!(ask("abc-123_X.9"), "abc-123_X.9");
    let long = "x".repeat(5_000);
    for bad in ["a\tb", "a b", "ä", "<script>", "a\"b", "", &long] {
        let id = ask(bad);
        assert_ne!(id, bad);
        assert!(id.len() < 200, "{id}");
    }
    // Also by what refuses a request before anybody has read it.
    let large = server.call("POST", "/tasks").header("X-Request-Id", "mine");
    let large = large.body(vec![b'x'; 70_000]).send();
    assert_eq!(large.expect(413).header("X-Request-Id"), Some("mine"));
    let odd = server.call("GET", "/tasks").header("X-Request-Id", "mine");
    let odd = odd.header("Expect", "a miracle").send();
    assert_eq!(odd.expect(417).header("X-Request-Id"), Some("mine"));
    let fresh = || {
        server
            .get("/health")
            .header("X-Request-Id")
            .map(str::to_owned)
    };
    assert_ne!(fresh(), fresh());
}

#[test]
fn a_full_session_refuses_more_tasks() {
    let variables = [("MAX_TASKS_PER_SESSION", "2"), ("MAX_COMPLETED_TASKS", "0")];
    let server = TestServer::start(&variables);
    server.run_to("quick", "completed");
    server.create(json!({ "name": "n" }));
    for (path, body) in [
        ("/tasks", json!({ "name": "n" })),
        ("/tasks", json!({ "name": "n", "start": true })),
        ("/demo/tasks/sample", json!({})),
    ] {
        let reply = server
            .post(path, body)
            .expect_problem(429, "session_task_limit");
        assert!(reply.retry_after() >= 1);
    }
    assert_eq!(server.total(), 2);
    server.session("other").create(json!({ "name": "n" }));
    server.act("/tasks/cleanup/run").expect(200);
    server.create(json!({ "name": "n" }));
}

#[test]
fn a_full_queue_refuses_more_work_and_creates_nothing() {
    let server = TestServer::start(&[("MAX_ACTIVE_TASKS", "1")]);
    let waiting = server.create(json!({ "name": "n", "type": "quick" }));
    let failed = server.run_to("fails", "failed");
    let mut held = server.post(
        "/tasks",
        json!({ "name": "n", "type": "held", "start": true }),
    );
    // The place of a task that has just ended may be free a moment later.
    crate::support::wait_until(|| {
        if held.status == 503 {
            held = server.post(
                "/tasks",
                json!({ "name": "n", "type": "held", "start": true }),
            );
        }
        held.status == 201
    });
    let total = server.total();
    for reply in [
        server.post("/tasks", json!({ "name": "n", "start": true })),
        server
            .session("other")
            .post("/demo/tasks/sample", json!({})),
        server.act(&format!("/tasks/{waiting}/start")),
        server.act(&format!("/tasks/{failed}/retry")),
    ] {
        assert!(reply.expect_problem(503, "queue_full").retry_after() >= 1);
    }
    assert_eq!(server.total(), total);
    assert_eq!(server.session("other").total(), 0);
    assert_eq!(server.task(&waiting)["status"], "pending");
    assert_eq!(server.task(&failed)["attempt"], 1);
    assert_eq!(server.history(&waiting).len(), 1);
    server.gate.open();
    server.wait_status(&id_of(&held), "completed");
    crate::support::wait_until(|| server.act(&format!("/tasks/{waiting}/start")).status == 200);
    server.wait_status(&waiting, "completed");
}

#[test]
fn a_full_store_refuses_more_tasks_until_there_is_room() {
    let variables = [("MAX_STORE_BYTES", "1048576"), ("MAX_CANCELLED_TASKS", "0")];
    let server = TestServer::start(&variables);
    let big = json!({ "name": "n", "metadata": { "fill": "x".repeat(60_000) } });
    let mut made = Vec::new();
    let refused = loop {
        let reply = server.post("/tasks", big.clone());
        if reply.status != 201 {
            break reply;
        }
        made.push(id_of(&reply));
        assert!(made.len() < 20, "20 × 60 kB do not fit in 1 MiB");
    };
    assert!(refused.expect_problem(503, "store_full").retry_after() >= 1);
    assert!(made.len() > 10, "{} tasks fit", made.len());
    assert_eq!(server.total(), made.len() as u64);
    server
        .act(&format!("/tasks/{}/cancel", made[0]))
        .expect(200);
    server.act("/tasks/cleanup/run").expect(200);
    server.create(big);
}

#[test]
fn the_job_api_is_off_and_says_how_to_switch_it_on() {
    let server = TestServer::start(&[]);
    for (method, path) in [
        ("GET", "/jobs"),
        ("POST", "/jobs"),
        ("POST", "/jobs/bulk"),
        ("GET", "/jobs/stats"),
        ("POST", "/jobs/start-dummy-job"),
        ("GET", "/jobs/1"),
        ("POST", "/jobs/1/cancel"),
        ("POST", "/jobs/1/retry"),
        ("GET", "/jobs/1/history"),
        ("GET", "/jobs/1/events"),
    ] {
        let reply = server.call(method, path).send();
        let reply = reply.expect_problem(503, "jobs_disabled");
        let message = reply.message();
        assert!(
            message.contains("STORAGE") && message.contains("ENABLE_QUEUE"),
            "{message}"
        );
    }
}

#[test]
fn a_connection_serves_one_request_after_the_other_also_after_a_refusal() {
    let server = TestServer::start(&[]);
    let mut stream = server.connect();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    for (path, status) in [("health", 200), ("nothing", 404), ("tasks", 200)] {
        let request = format!("GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let reply = Reply::read(&mut reader, "GET");
        assert_eq!(reply.status, status, "{reply}");
    }
}

#[test]
fn what_is_not_http_does_no_harm() {
    let server = TestServer::start(&[]);
    for garbage in [
        "\r\n\r\n",
        "hello\r\n\r\n",
        "GET\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
    ] {
        let mut stream = server.connect();
        stream.write_all(garbage.as_bytes()).expect("sent");
        drop(stream);
    }
    server.get("/health").expect(200);
}

#[test]
fn a_query_parameter_that_a_route_does_not_know_is_refused_on_every_route() {
    let server = TestServer::start(&[("WORKER_TOKEN", "a token of workers"), ("METRICS", "true")]);
    let id = server.run("held");
    let share = server.act(&format!("/tasks/{id}/share")).expect(201).json();
    let token = share["url"]
        .as_str()
        .and_then(|url| url.strip_prefix("/s/"))
        .expect("a link");
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    for (path, methods) in paths {
        // Without the feature their routes answer that they are off.
        if path.starts_with("/api/v1/jobs") {
            continue;
        }
        let target = path
            .replace("{id}", &id)
            .replace("{token}", token)
            .replace("{lease}", &id);
        for method in methods.as_object().expect("methods").keys() {
            let call = server.call_exact(&method.to_uppercase(), &format!("{target}?nonsense=1"));
            // A worker's call is judged by its token first.
            let refusal = match target.contains("/work/") {
                true => call
                    .header("Authorization", "Bearer a token of workers")
                    .send(),
                false => call.send(),
            };
            let message = refusal.expect(400).json()["message"].to_string();
            assert!(
                message.contains("unknown query parameter nonsense"),
                "{method} {path}: {message}"
            );
        }
    }
    // A page's address may carry what other sites hang on it.
    for page in ["/", "/docs", &format!("/s/{token}")] {
        let call = server.call_exact("GET", &format!("{page}?utm_source=x"));
        call.header("Accept", "text/html").send().expect(200);
    }
}
