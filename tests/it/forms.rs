use serde_json::json;

use crate::support::TestServer;

#[test]
fn a_type_that_nobody_registered_is_refused() {
    let server = TestServer::start(&[]);
    for start in [false, true] {
        let body = json!({ "name": "n", "type": "quik", "start": start });
        let reply = server
            .post("/tasks", body)
            .expect_problem(400, "unknown_type");
        let message = reply.message();
        assert!(
            message.contains("held, ") && message.contains("workflow"),
            "{message}"
        );
        assert!(message.ends_with("did you mean quick?"), "{message}");
        assert_eq!(reply.bad_fields(), ["type"]);
    }
    let body = json!({ "name": "n", "type": "nothing like it" });
    let reply = server
        .post("/tasks", body)
        .expect_problem(400, "unknown_type");
    assert!(!reply.message().contains("did you mean"), "{reply}");
    assert_eq!(server.total(), 0, "nothing was created");
}

#[test]
fn an_unknown_type_is_named_with_the_other_mistakes() {
    let server = TestServer::start(&[]);
    let body = json!({ "type": "quik", "timeoutMs": -1 });
    let reply = server
        .post("/tasks", body)
        .expect_problem(400, "invalid_request");
    let mut fields = reply.bad_fields();
    fields.sort();
    assert_eq!(fields, ["name", "timeoutMs", "type"]);
}

#[test]
fn metadata_is_the_clients_own() {
    let server = TestServer::start(&[]);
    let metadata = json!({ "type": "invoice", "delayMs": 0 });
    let body = json!({ "name": "n", "metadata": metadata, "start": true });
    let id = server.create(body);
    server.wait_status(&id, "completed");
}

#[test]
fn a_whole_number_comes_back_whole() {
    let server = TestServer::start(&[]);
    for (given, written) in [
        ("1024", "1024"),
        ("0", "0"),
        ("0.5", "0.5"),
        ("1e15", "1000000000000000"),
    ] {
        let body = format!(r#"{{"filePath":"a","fileSize":{given},"speed":1000}}"#);
        let call = server.call("POST", "/demo/tasks/file-processing");
        let call = call.header("Content-Type", "application/json").body(body);
        let text = call.send().expect(201).text();
        let wanted = format!("\"fileSize\":{written},");
        assert!(text.contains(&wanted), "{text}");
        assert!(text.contains("\"speed\":1000"), "{text}");
        assert!(!text.contains("1000.0"), "{text}");
    }
}

#[test]
fn answers_end_with_a_line_end() {
    let server = TestServer::start(&[]);
    let id = server.run_to("quick", "completed");
    for path in [
        "/health".to_owned(),
        "/tasks".to_owned(),
        "/tasks/stats".to_owned(),
        format!("/tasks/{id}"),
        format!("/tasks/{id}/status"),
        format!("/tasks/{id}/history"),
        "/nowhere".to_owned(),
        "/openapi.json".to_owned(),
    ] {
        let text = server.get(&path).text();
        assert!(
            text.ends_with("}\n") && !text.ends_with("\n\n"),
            "{path}: {text}"
        );
    }
    let call = server.call("POST", "/tasks").header("Idempotency-Key", "k");
    let first = call.json(&json!({ "name": "n" })).send().expect(201).text();
    let call = server.call("POST", "/tasks").header("Idempotency-Key", "k");
    let again = call.json(&json!({ "name": "n" })).send().expect(201).text();
    assert!(first == again && first.ends_with("}\n"), "{again}");
}

#[test]
fn a_share_link_is_told_with_its_host() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    let call = server.call("POST", &format!("/tasks/{id}/share"));
    let reply = call.send().expect(201).json();
    let path = reply["url"].as_str().expect("a path");
    assert_eq!(reply["link"], format!("http://{}{path}", server.addr()));

    let proxied = TestServer::start(&[("TRUSTED_PROXIES", "1")]);
    let id = proxied.create(json!({ "name": "n" }));
    let call = proxied.call("POST", &format!("/tasks/{id}/share"));
    let reply = call.header("X-Forwarded-Proto", "https").send().expect(201);
    let link = reply.json()["link"].clone();
    assert!(
        link.as_str()
            .is_some_and(|link| link.starts_with("https://")),
        "{link}"
    );
}
