use std::time::Instant;

use serde_json::json;

use crate::support::{NO_TASK, Reply, TestServer};

fn create_raw(server: &TestServer, kind: Option<&str>, body: impl Into<Vec<u8>>) -> Reply {
    let call = server.call("POST", "/tasks").body(body);
    match kind {
        Some(kind) => call.header("Content-Type", kind).send(),
        None => call.send(),
    }
}

#[test]
fn a_body_that_is_not_json_is_refused_with_line_and_column() {
    let server = TestServer::start(&[]);
    let json = Some("application/json");
    let body = "{\n  \"name\": oops\n}";
    let reply = create_raw(&server, json, body).expect_problem(400, "invalid_json");
    let message = reply.message();
    assert!(message.contains("line 2"), "{message}");
    assert!(message.contains("column 1"), "{message}");
    let deep = "[".repeat(30_000);
    for body in [
        "{",
        "{}{}",
        "{\"name\":\"a\",}",
        "nul",
        "'a'",
        "{name:1}",
        &deep,
    ] {
        create_raw(&server, json, body).expect_problem(400, "invalid_json");
    }
    let invalid_utf8 = b"{\"name\":\"\xff\"}".to_vec();
    create_raw(&server, json, invalid_utf8).expect_problem(400, "invalid_json");
    let deep = format!("{{\"name\":\"n\",\"metadata\":{}", "{\"a\":".repeat(10_000));
    create_raw(&server, json, deep).expect(400);
    assert_eq!(server.total(), 0);
}

#[test]
fn a_body_that_is_not_an_object_or_missing_is_refused() {
    let server = TestServer::start(&[]);
    for body in ["[]", "null", "\"name\"", "5", "true", ""] {
        create_raw(&server, Some("application/json"), body).expect(400);
    }
    server.act("/tasks").expect(400);
    assert_eq!(server.total(), 0);
}

#[test]
fn every_bad_field_is_named_at_once() {
    let server = TestServer::start(&[]);
    let body = json!({
        "name": "n".repeat(201), "description": "d".repeat(2_001), "metadata": [1],
        "type": 5, "timeoutMs": -1, "start": "yes", "progress": 50, "status": "completed",
    });
    let reply = server
        .post("/tasks", body)
        .expect_problem(400, "invalid_request");
    let expected = [
        "description",
        "metadata",
        "name",
        "progress",
        "start",
        "status",
        "timeoutMs",
        "type",
    ];
    assert_eq!(reply.bad_fields(), expected, "{reply}");
    assert_eq!(server.total(), 0);
}

#[test]
fn a_flood_of_bad_fields_costs_little_and_gets_a_short_answer() {
    let server = TestServer::start(&[]);
    let many: serde_json::Map<_, _> = (0..5_000).map(|i| (format!("{i}"), 1.into())).collect();
    let reply = server.post("/tasks", serde_json::Value::Object(many));
    let problem = reply.expect_problem(400, "invalid_request");
    let told = |problem: &crate::support::Reply| problem.json()["errors"].as_array().map(Vec::len);
    assert_eq!(told(&problem), Some(100));
    let reply = server.get(&format!("/tasks?{}", "a&".repeat(7_000)));
    let problem = reply.expect_problem(400, "invalid_request");
    assert_eq!(told(&problem), Some(100));
}

#[test]
fn metadata_nested_so_deep_that_readers_would_choke_is_refused() {
    let server = TestServer::start(&[]);
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!(r#"{{"name":"n","metadata":{{"a":{open}{close}}}}}"#)
    };
    let kind = Some("application/json");
    create_raw(&server, kind, nested(100)).expect(201);
    for depth in [101, 30_000] {
        create_raw(&server, kind, nested(depth)).expect_problem(400, "invalid_request");
    }
    // Brackets in a text are no nesting.
    let text = format!(
        r#"{{"name":"n","metadata":{{"a":"{}"}}}}"#,
        "[{\\\"".repeat(1_000)
    );
    create_raw(&server, kind, text).expect(201);
}

#[test]
fn each_field_is_checked() {
    let server = TestServer::start(&[]);
    for (field, body) in [
        ("name", json!({})),
        ("name", json!({ "name": null })),
        ("name", json!({ "name": "" })),
        ("name", json!({ "name": 5 })),
        ("name", json!({ "name": "ä".repeat(201) })),
        (
            "description",
            json!({ "name": "n", "description": "ü".repeat(2_001) }),
        ),
        ("description", json!({ "name": "n", "description": {} })),
        ("metadata", json!({ "name": "n", "metadata": "x" })),
        ("metadata", json!({ "name": "n", "metadata": [] })),
        ("type", json!({ "name": "n", "type": true })),
        ("timeoutMs", json!({ "name": "n", "timeoutMs": "soon" })),
        ("timeoutMs", json!({ "name": "n", "timeoutMs": 1.5 })),
        ("timeoutMs", json!({ "name": "n", "timeoutMs": 0 })),
        ("start", json!({ "name": "n", "start": 1 })),
        ("Name", json!({ "name": "n", "Name": "n" })),
        ("id", json!({ "name": "n", "id": NO_TASK })),
    ] {
        let reply = server.post("/tasks", body);
        let reply = reply.expect_problem(400, "invalid_request");
        assert_eq!(reply.bad_fields(), [field], "{reply}");
        assert!(!reply.message().is_empty());
    }
    assert_eq!(server.total(), 0);
}

#[test]
fn only_json_is_taken_as_a_body() {
    let server = TestServer::start(&[]);
    let body = r#"{"name":"n"}"#;
    let form = "application/x-www-form-urlencoded";
    for kind in [
        "text/plain",
        form,
        "application/jsonp",
        "multipart/form-data",
        "json",
    ] {
        create_raw(&server, Some(kind), body).expect_problem(415, "unsupported_media_type");
    }
    create_raw(&server, None, body).expect(415);
    for kind in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/json",
    ] {
        create_raw(&server, Some(kind), body).expect(201);
    }
    assert_eq!(server.total(), 3);
}

#[test]
fn a_huge_body_is_refused_before_it_is_sent() {
    let server = TestServer::start(&[]);
    let start = Instant::now();
    for length in [65_537, 10_000_000_000, u64::MAX] {
        let call = server.call("POST", "/tasks").announce(length);
        let reply = call.header("Content-Type", "application/json").send();
        reply.expect_problem(413, "body_too_large");
    }
    let expecting = server.call("POST", "/tasks").announce(1_000_000);
    let expecting = expecting.header("Content-Type", "application/json");
    expecting
        .header("Expect", "100-continue")
        .send()
        .expect(413);
    assert!(start.elapsed().as_secs() < 5, "it waited for the body");
    assert_eq!(server.total(), 0);
}

#[test]
fn a_body_of_just_the_limit_is_taken() {
    let server = TestServer::start(&[("MAX_BODY_BYTES", "200")]);
    let body = |length: usize| {
        let name = r#"{"name":"n"}"#;
        format!("{name}{}", " ".repeat(length - name.len()))
    };
    let json = Some("application/json");
    create_raw(&server, json, body(200)).expect(201);
    create_raw(&server, json, body(201)).expect(413);
    let chunked = |text: String| {
        let body = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
        let call = server.call("POST", "/tasks").body(body);
        let call = call.header("Transfer-Encoding", "chunked");
        call.header("Content-Type", "application/json").send()
    };
    chunked(body(200)).expect(201);
    chunked(body(201)).expect(413);
    assert_eq!(server.total(), 2);
}
