use std::time::Duration;

use async_task_system::{Outcome, TaskContext};
use serde_json::{Value, json};

use crate::support::{Client, Stream, TestServer, id_of, keys, pluck, wait_until};

fn executors(client: &Client) -> Vec<Value> {
    let reply = client.get("/executors").expect(200).json();
    reply["executors"].as_array().expect("a list").clone()
}

fn executor(client: &Client, kind: &str) -> Value {
    let mut all = executors(client).into_iter();
    let found = all.find(|one| one["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

/// Sends a request that creates a task and watches it.
fn watch(client: &Client, target: &str, body: Value) -> Stream {
    let stream = client.call("POST", target).json(&body).open();
    assert_eq!(stream.head.status, 201, "{}", stream.head);
    let kind = stream.head.header("Content-Type");
    assert_eq!(kind, Some("text/plain; charset=utf-8"));
    stream
}

fn place(stream: &Stream) -> String {
    let place = stream.head.header("Location").expect("a Location");
    place.rsplit('/').next().unwrap_or_default().to_owned()
}

#[test]
fn types_are_listed_the_operators_first_and_the_demos_last() {
    let server = TestServer::start_with(&[], |registry| {
        registry
            .register_remote("zip", Duration::from_secs(30))
            .concurrency(3);
        registry
            .register("thumbnails", |_| {
                Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None)))
            })
            .description("Makes thumbnails")
            .example(json!({ "width": 200 }));
    });
    let all = executors(&server);
    let sources = pluck(&all, "source");
    let of = |source: &str| -> Vec<String> {
        let own = all.iter().filter(|one| one["source"] == source);
        pluck(&own.cloned().collect::<Vec<_>>(), "type")
    };
    assert!(sources.is_sorted_by_key(|source| {
        let order = ["command", "remote", "program", "demo"];
        order.iter().position(|one| one == source)
    }));
    assert_eq!(of("remote"), ["zip"]);
    let own = ["blocked", "fails", "held", "quick", "thumbnails"];
    assert_eq!(of("program"), own);
    let mut demos = vec!["api-call", "batch-processing"];
    demos.extend(cfg!(feature = "jobs").then_some("dummy"));
    demos.extend(["file-processing", "replay", "sample", "workflow"]);
    assert_eq!(of("demo"), demos);

    let expected = json!({
        "type": "thumbnails", "source": "program", "description": "Makes thumbnails",
        "example": { "width": 200 }, "running": 0,
    });
    assert_eq!(executor(&server, "thumbnails"), expected);
    let expected = json!({
        "type": "zip", "source": "remote", "concurrency": 3, "running": 0, "workers": [],
    });
    assert_eq!(executor(&server, "zip"), expected);
    assert_eq!(
        keys(&executor(&server, "quick")),
        ["running", "source", "type"]
    );
    server
        .get("/executors?a=1")
        .expect_problem(400, "invalid_request");
}

#[test]
fn the_example_of_each_demo_is_a_body_that_its_route_takes() {
    let server = TestServer::start(&[]);
    for one in executors(&server) {
        if one["source"] != "demo" {
            continue;
        }
        let (kind, example) = (one["type"].as_str().expect("a type"), &one["example"]);
        assert!(one["description"].is_string(), "{one}");
        if kind != "dummy" {
            let route = kind.trim_end_matches("-processing");
            let route = if route == "file" { kind } else { route };
            let reply = server.post(&format!("/demo/tasks/{route}"), example.clone());
            server
                .act(&format!("/tasks/{}/cancel", id_of(&reply.expect(201))))
                .expect(200);
        }
        let body = json!({ "name": "n", "type": kind, "metadata": example, "start": true });
        let id = server.create(body);
        wait_until(|| server.task(&id)["status"] == "running");
        server.act(&format!("/tasks/{id}/cancel")).expect(200);
    }
}

#[test]
fn running_counts_what_runs_now_of_all_sessions() {
    let server = TestServer::start(&[]);
    let running = |kind: &str| {
        executor(&server, kind)["running"]
            .as_u64()
            .expect("a number")
    };
    let ids: Vec<_> = ["ann", "bob"]
        .map(|name| server.session(name).run("held"))
        .into();
    server.run("blocked");
    server.run_to("quick", "completed");
    wait_until(|| running("held") == 2 && running("blocked") == 1);
    wait_until(|| running("quick") == 0);
    server
        .session("ann")
        .act(&format!("/tasks/{}/cancel", ids[0]))
        .expect(200);
    wait_until(|| running("held") == 1);
    server.gate.open();
    wait_until(|| running("held") == 0 && running("blocked") == 0);
}

#[test]
fn what_waits_for_a_place_does_not_run() {
    let server = TestServer::start_with(&[], |registry| {
        let hour = Duration::from_secs(3_600);
        registry
            .register("one", move |_| {
                Ok(move |_: &mut TaskContext<'_>| Ok(Outcome::Again(hour)))
            })
            .concurrency(1);
    });
    let ids = [server.run("one"), server.run("one")];
    let is_running = |id: &String| server.task(id)["status"] == "running";
    wait_until(|| ids.iter().any(is_running));
    let one = executor(&server, "one");
    assert_eq!(
        (&one["running"], &one["concurrency"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn a_watched_creation_starts_the_task_and_shows_it_to_its_end() {
    let server = TestServer::start(&[]);
    for (target, body) in [
        ("/tasks?watch=1", json!({ "name": "n", "type": "quick" })),
        (
            "/tasks?watch=1",
            json!({ "name": "n", "type": "quick", "start": true }),
        ),
        ("/demo/tasks/sample?watch=1", json!({ "delayMs": 0 })),
        (
            "/demo/tasks/file-processing?watch=true",
            json!({ "filePath": "f", "speed": 1000 }),
        ),
        (
            "/demo/tasks/api-call?watch=1",
            json!({ "endpoint": "e", "speed": 1000 }),
        ),
        (
            "/demo/tasks/batch?watch=1",
            json!({ "items": [1], "itemDelayMs": 0 }),
        ),
        (
            "/demo/tasks/workflow?watch=1",
            json!({ "name": "w", "steps": [{ "name": "a", "durationMs": 0 }] }),
        ),
    ] {
        let mut stream = watch(&server, target, body);
        let task = server.task(&place(&stream));
        let text = stream.rest();
        let name = task["name"].as_str().expect("a name");
        assert!(text.starts_with(&format!("{name}\n")), "{target}: {text}");
        assert!(text.contains("\n✔ completed in "), "{target}: {text}");
    }
    let body = json!({ "name": "n", "type": "fails" });
    let text = watch(&server, "/tasks?watch=1&plain=1", body).rest();
    assert!(
        !text.contains('\r') && text.contains("  failed  "),
        "{text}"
    );
    assert!(text.ends_with(": the disk is full\n"), "{text}");
}

#[test]
fn a_watched_creation_that_is_refused_creates_nothing() {
    let server = TestServer::start(&[("MAX_STREAMS", "1")]);
    let named = json!({ "name": "n" });
    for (target, body, field) in [
        ("/tasks?watch=2", &named, "watch"),
        ("/tasks?watch=1&wide=1", &named, "wide"),
        ("/tasks?watch=1&width=5", &named, "width"),
        (
            "/tasks?watch=1",
            &json!({ "name": "n", "start": false }),
            "start",
        ),
        ("/demo/tasks/sample?watch=1", &json!({ "a": 1 }), "a"),
    ] {
        let reply = server.post(target, body.clone());
        assert_eq!(reply.expect(400).bad_fields(), [field], "{target}");
    }
    let held = json!({ "name": "n", "type": "held" });
    let mut stream = watch(&server, "/tasks?watch=1", held.clone());
    let reply = server.post("/tasks?watch=1", held.clone());
    reply.expect_problem(503, "too_many_streams");
    assert_eq!(server.total(), 1);
    server.gate.open();
    stream.rest();
    // Without a watch nothing is started that was not to be.
    let reply = server.post("/tasks?watch=0", held).expect(201);
    assert_eq!(reply.json()["task"]["status"], "pending");
    assert_eq!(server.history(&id_of(&reply)).len(), 1);
}

#[test]
fn a_repeated_watched_creation_shows_the_task_of_the_first() {
    let server = TestServer::start(&[]);
    let body = json!({ "name": "n", "type": "held" });
    let call = |target: &str| {
        let call = server.call("POST", target).header("Idempotency-Key", "k");
        call.json(&body)
    };
    let mut first = call("/tasks?watch=1").open();
    let mut again = call("/tasks?watch=1").open();
    assert_eq!((first.head.status, again.head.status), (201, 201));
    assert_eq!(again.head.header("Idempotency-Replayed"), Some("true"));
    assert_eq!(place(&first), place(&again));
    server.gate.open();
    for stream in [&mut first, &mut again] {
        assert!(stream.rest().contains("✔ completed"));
    }
    // A plain creation would not have started it: it is another request.
    call("/tasks")
        .send()
        .expect_problem(422, "idempotency_key_reused");
    server
        .post("/tasks/cleanup/run", json!({ "all": true }))
        .expect(200);
    let late = call("/tasks?watch=1").send().expect(201);
    assert_eq!(id_of(&late), place(&first), "what was answered first");
    assert_eq!(server.total(), 0);
}

#[test]
fn latest_is_the_newest_task_of_the_session_in_every_route() {
    let server = TestServer::start(&[]);
    for path in ["", "/status", "/history", "/events", "/watch"] {
        let reply = server.get(&format!("/tasks/latest{path}"));
        assert!(reply.message().contains("no task yet"), "{reply}");
        reply.expect_problem(404, "task_not_found");
    }
    let ann = server.session("ann");
    ann.run("held");
    let newest = ann.create(json!({ "name": "newest", "type": "held" }));
    server.session("bob").run("held");
    let act = |verb: &str| ann.act(&format!("/tasks/latest/{verb}")).expect(200).json();
    assert_eq!(act("start")["taskId"], newest);
    ann.wait_step(&newest, "Holding");
    assert_eq!(ann.task("latest")["id"], newest);
    let status = ann.get("/tasks/latest/status").expect(200).json();
    assert_eq!(status["progress"], 40);
    assert_eq!(act("cancel")["task"]["id"], newest);
    assert_eq!(act("retry")["task"]["id"], newest);
    act("cancel");
    let history = ann.get("/tasks/latest/history").expect(200).json();
    assert_eq!(history["taskId"], newest);
    let events = ann.call("GET", "/tasks/latest/events").open().events();
    assert_eq!(events[0].data["taskId"], newest);
    let watch = ann.call("GET", "/tasks/latest/watch").open().rest();
    assert!(watch.starts_with("newest\n"), "{watch}");
    let share = ann.act("/tasks/latest/share").expect(201).json();
    let link = share["url"].as_str().expect("a link");
    let call = ann.call_exact("GET", link);
    let shown = call.header("Accept", "application/json").send().expect(200);
    assert_eq!(shown.json()["task"]["id"], newest);
}
