//! What a page from elsewhere may do through its visitor's browser: nothing.

use serde_json::json;

use crate::support::{Call, TestServer};

const ATTACKER: &str = "https://evil.example";

fn from(call: Call, origin: &str) -> Call {
    call.header("Origin", origin)
}

#[test]
fn a_page_from_elsewhere_changes_nothing() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "mine" }));
    for origin in [ATTACKER, "null", "http://127.0.0.1", "http://localhost:1"] {
        for path in [
            "/tasks".to_owned(),
            format!("/tasks/{id}/start"),
            format!("/tasks/{id}/cancel"),
            format!("/tasks/{id}/share"),
            "/tasks/cleanup/run".to_owned(),
            "/demo/tasks/sample".to_owned(),
        ] {
            let call = from(server.call("POST", &path), origin);
            call.send().expect_problem(403, "origin_not_allowed");
        }
    }
    // What a form can send without asking first is no JSON, whoever sends it.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let call = server.call("POST", "/tasks").header("Content-Type", kind);
        let call = call.body(r#"{"name":"forged"}"#);
        call.send().expect_problem(415, "unsupported_media_type");
    }
    assert_eq!(server.total(), 1);
    assert_eq!(server.task(&id)["status"], "pending");
    let own = format!("http://{}", server.addr());
    from(server.call("POST", "/demo/tasks/sample"), &own)
        .send()
        .expect(201);
}

#[test]
fn no_other_origin_may_read_unless_it_is_listed() {
    let closed = TestServer::start(&[]);
    for method in ["GET", "OPTIONS"] {
        let reply = from(closed.call(method, "/tasks"), ATTACKER).send();
        assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
    }
    let friend = "https://app.example";
    let origins = "https://app.example,http://localhost:5173";
    let server = TestServer::start(&[("CORS_ALLOWED_ORIGINS", origins)]);
    let allowed = |reply: &crate::support::Reply| {
        let header = reply.header("Access-Control-Allow-Origin");
        header.map(str::to_owned)
    };
    for origin in [friend, "http://localhost:5173"] {
        let reply = from(server.call("GET", "/tasks"), origin)
            .send()
            .expect(200);
        assert_eq!(allowed(&reply).as_deref(), Some(origin));
        assert_eq!(reply.header("Vary"), Some("Origin"));
        assert_eq!(reply.header("Access-Control-Allow-Credentials"), None);
        let preflight = from(server.call("OPTIONS", "/tasks"), origin)
            .send()
            .expect(204);
        assert_eq!(allowed(&preflight).as_deref(), Some(origin));
        let headers = preflight.header("Access-Control-Allow-Headers");
        for name in [
            "Content-Type",
            "X-App-Session",
            "Idempotency-Key",
            "Last-Event-ID",
        ] {
            assert!(headers.is_some_and(|list| list.contains(name)), "{name}");
        }
        let call = from(server.call("POST", "/tasks"), origin);
        call.json(&json!({ "name": "n" })).send().expect(201);
    }
    for origin in [
        ATTACKER,
        "https://app.example.evil.example",
        "http://app.example",
        "null",
    ] {
        let reply = from(server.call("GET", "/tasks"), origin).send();
        assert_eq!(allowed(&reply), None, "{origin}");
        let call = from(server.call("POST", "/tasks"), origin);
        call.json(&json!({ "name": "n" }))
            .send()
            .expect_problem(403, "origin_not_allowed");
    }
}

#[test]
fn a_name_that_is_not_ours_is_not_answered_to() {
    let server = TestServer::start(&[("ALLOWED_HOSTS", "demo.example,127.0.0.1")]);
    let ask = |host: &str| {
        let request =
            format!("GET /api/v1/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut socket = server.connect();
        std::io::Write::write_all(&mut socket, request.as_bytes()).expect("sent");
        crate::support::Reply::read(&mut std::io::BufReader::new(socket), "GET")
    };
    for host in [
        "demo.example",
        "DEMO.example:8080",
        "127.0.0.1",
        "127.0.0.1:3000",
    ] {
        ask(host).expect(200);
    }
    for host in [
        "rebound.evil.example",
        "demo.example.evil.example",
        "xdemo.example",
        "",
        "localhost",
    ] {
        ask(host).expect_problem(421, "host_not_allowed");
    }
}

#[test]
fn nothing_of_ours_can_be_framed_sniffed_or_leak_its_address() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "<script>alert(1)</script>" }));
    let url = server.act(&format!("/tasks/{id}/share")).json()["url"].clone();
    let url = url.as_str().expect("a url").to_owned();
    for target in ["/", &url] {
        let reply = server
            .call_exact("GET", target)
            .header("Accept", "text/html")
            .send();
        assert_eq!(reply.header("X-Frame-Options"), Some("DENY"));
        assert_eq!(reply.header("Referrer-Policy"), Some("no-referrer"));
        let policy = reply.header("Content-Security-Policy").unwrap_or_default();
        for rule in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!reply.text().contains("<script>alert"));
    }
    for target in [
        "/",
        &url,
        &format!("{url}.svg"),
        &format!("/api/v1/tasks/{id}"),
    ] {
        let reply = server
            .call_exact("GET", target)
            .header("Accept", "application/json")
            .send();
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
        let kind = reply.header("Content-Type").unwrap_or_default();
        assert!(!kind.starts_with("text/html"), "{target}: {kind}");
    }
}

#[test]
fn a_front_end_on_any_port_of_this_machine_can_be_allowed() {
    let origins = [("CORS_ALLOWED_ORIGINS", "http://localhost:*")];
    let server = TestServer::start(&origins);
    for origin in [
        "http://localhost:5173",
        "http://localhost:3001",
        "http://localhost",
    ] {
        let reply = from(server.call("POST", "/demo/tasks/sample"), origin).send();
        let reply = reply.expect(201);
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(origin));
    }
    for origin in [
        "http://localhost.evil.example",
        "https://localhost:5173",
        ATTACKER,
    ] {
        from(server.call("POST", "/demo/tasks/sample"), origin)
            .send()
            .expect_problem(403, "origin_not_allowed");
    }
}

#[test]
fn a_refusal_names_the_variable_that_helps() {
    let server = TestServer::start(&[]);
    let call = server.call("DELETE", "/session");
    let refused = from(call, "http://localhost:5173").send();
    let refused = refused.expect_problem(403, "origin_not_allowed").json();
    let message = refused["message"].as_str().expect("a message");
    let helps = "CORS_ALLOWED_ORIGINS=http://localhost:5173, or http://localhost:* for every port";
    assert!(message.ends_with(helps), "{message}");

    let server = TestServer::start(&[("ALLOWED_HOSTS", "demo.example.com,localhost")]);
    let refused = server.call("GET", "/health").send();
    let refused = refused.expect_problem(421, "host_not_allowed").json();
    let host = server.addr().to_string();
    let named = format!("Host {host} is not in ALLOWED_HOSTS");
    assert_eq!(refused["message"], named);
}
