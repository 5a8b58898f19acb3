use serde_json::{Value, json};

use crate::support::{Client, Reply, TestServer};

fn share(client: &Client, id: &str) -> String {
    let reply = client.act(&format!("/tasks/{id}/share")).expect(201).json();
    assert_eq!(reply["success"], true);
    reply["url"].as_str().expect("a url").to_owned()
}

fn show(client: &Client, url: &str, accept: &str) -> Reply {
    client
        .call_exact("GET", url)
        .header("Accept", accept)
        .send()
}

#[test]
fn a_link_shows_one_task_in_every_form_and_no_session_key() {
    let server = TestServer::start(&[]);
    let owner = server.session("secret-session");
    let body = json!({
        "name": "Shown", "description": "to all", "type": "held", "start": true,
        "metadata": { "type": "held", "password": "hunter2" },
    });
    let id = owner.create(body);
    owner.wait_step(&id, "Holding");
    let url = share(&owner, &id);
    let token = url.strip_prefix("/s/").expect("a path below /s/");
    assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(share(&owner, &id), url, "one link a task");

    let bystander = Client::new(server.addr());
    let json = show(&bystander, &url, "application/json").expect(200);
    assert_eq!(json.json()["task"]["name"], "Shown");
    assert_eq!(json.json()["task"]["progress"], 40);
    let page = show(&bystander, &url, "text/html,*/*;q=0.8").expect(200);
    let policy = page.header("Content-Security-Policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'"), "{page}");
    let badge = show(&bystander, &format!("{url}.svg"), "*/*").expect(200);
    assert_eq!(badge.header("Content-Type"), Some("image/svg+xml"));
    assert!(badge.text().contains(">40 %</text>"), "{badge}");
    let call = bystander
        .call_exact("GET", &url)
        .header("Accept", "text/event-stream");
    let mut events = call.open();
    let mut screen = bystander
        .call_exact("GET", &url)
        .header("Accept", "*/*")
        .open();
    assert_eq!(events.event().expect("the state").data["progress"], 40);
    server.gate.open();
    let last = events.events().pop().expect("the end");
    assert_eq!(last.data["status"], "completed");
    let drawn = screen.rest();
    assert!(
        drawn.starts_with("Shown\n") && drawn.contains("✔ completed"),
        "{drawn}"
    );

    let head = |reply: &Reply| format!("{reply}");
    for text in [
        head(&json),
        head(&page),
        head(&badge),
        head(&events.head),
        head(&screen.head),
        drawn,
        last.data.to_string(),
    ] {
        assert!(!text.contains("secret-session"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_link_comes_in_the_form_that_is_wanted_most() {
    let server = TestServer::start(&[]);
    let id = server.run_to("quick", "completed");
    let url = share(&server, &id);
    for (accept, kind) in [
        ("*/*", "text/plain; charset=utf-8"),
        ("text/plain, text/html;q=0.9", "text/plain; charset=utf-8"),
        (
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/html; charset=utf-8",
        ),
        ("text/html;q=0.1, application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/event-stream", "text/event-stream"),
        (
            "application/x-ndjson, text/event-stream;q=0.9",
            "application/x-ndjson",
        ),
    ] {
        let call = server.call_exact("GET", &url).header("Accept", accept);
        let stream = call.send().expect(200);
        assert_eq!(stream.header("Content-Type"), Some(kind), "{accept}");
        assert_eq!(stream.header("Vary"), Some("Accept"));
    }
}

#[test]
fn a_bystander_can_touch_nothing() {
    let server = TestServer::start(&[]);
    let owner = server.session("owner");
    let id = owner.create(json!({ "name": "n" }));
    let url = share(&owner, &id);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let reply = server.call_exact(method, &url).send();
        let reply = reply.expect_problem(405, "method_not_allowed");
        assert_eq!(reply.header("Allow"), Some("GET, HEAD, OPTIONS"));
    }
    let reply = server.act(&format!("/tasks/{id}/cancel"));
    reply.expect_problem(404, "task_not_found");
    assert_eq!(owner.task(&id)["status"], "pending");
    server
        .act(&format!("/tasks/{id}/share"))
        .expect_problem(404, "task_not_found");
}

#[test]
fn a_link_ends_with_its_task() {
    let server = TestServer::start(&[("MAX_COMPLETED_TASKS", "0")]);
    let id = server.run_to("quick", "completed");
    let url = share(&server, &id);
    show(&server, &url, "application/json").expect(200);
    server.act("/tasks/cleanup/run").expect(200);
    for accept in ["application/json", "text/event-stream", "*/*"] {
        show(&server, &url, accept).expect_problem(404, "share_not_found");
    }
    show(&server, &format!("{url}.svg"), "text/html").expect_problem(404, "share_not_found");
    let page = show(&server, &url, "text/html").expect(404);
    assert_eq!(
        page.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
}

#[test]
fn other_tokens_lead_nowhere() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    let url = share(&server, &id);
    let upper = url.to_uppercase().replace("/S/", "/s/");
    for wrong in [
        "/s/x",
        "/s/00000000000000000000000000000000",
        &url[..url.len() - 1],
        &upper,
    ] {
        if wrong != url {
            show(&server, wrong, "*/*").expect_problem(404, "share_not_found");
        }
    }
    show(&server, "/s", "*/*").expect_problem(404, "not_found");
    show(&server, &format!("{url}/x"), "*/*").expect_problem(404, "not_found");
}

#[test]
fn a_repeat_with_the_same_key_is_a_replay() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    let ask = || {
        let call = server.call("POST", &format!("/tasks/{id}/share"));
        call.header("Idempotency-Key", "k").send().expect(201)
    };
    let (first, again) = (ask(), ask());
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("Idempotency-Replayed"), Some("true"));
}

#[test]
fn programs_are_told_of_a_wrong_query_and_a_page_shrugs() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "Shown", "type": "held", "start": true }));
    let url = share(&server, &id);
    for query in ["width=wide", "color=2", "utm_source=mail"] {
        let url = format!("{url}?{query}");
        for accept in [
            "application/json",
            "text/event-stream",
            "application/x-ndjson",
            "*/*",
        ] {
            show(&server, &url, accept).expect_problem(400, "invalid_request");
        }
        show(&server, &url, "text/html").expect(200);
    }
}

#[test]
fn shares_do_not_take_bodies() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    let reply = server.post(
        &format!("/tasks/{id}/share"),
        json!({ "with": Value::Null, "x": 1 }),
    );
    assert_eq!(
        reply.expect_problem(400, "invalid_request").bad_fields(),
        ["with", "x"]
    );
}
