use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Dial, Reply, TestServer};

fn poll(client: &Client, id: &str, query: &str, known: Option<&str>) -> Reply {
    let call = client.call("GET", &format!("/tasks/{id}/status{query}"));
    match known {
        Some(tag) => call.header("If-None-Match", tag).send(),
        None => call.send(),
    }
}

fn tag(reply: &Reply) -> String {
    reply.header("ETag").expect("an ETag").to_owned()
}

#[test]
fn a_status_that_has_not_changed_is_not_sent_again() {
    let server = TestServer::start(&[]);
    let id = server.run("held");
    server.wait_step(&id, "Holding");
    let first = poll(&server, &id, "", None).expect(200);
    let old = tag(&first);
    assert!(old.starts_with('"') && old.ends_with('"'), "strong: {old}");
    assert_eq!(first.header("Retry-After"), Some("1"));
    for known in [&*old, "*", &format!("\"x\", {old}"), &format!("W/{old}")] {
        let same = poll(&server, &id, "", Some(known)).expect(304);
        assert_eq!(tag(&same), old);
        assert_eq!(same.header("Retry-After"), Some("1"));
    }
    server.gate.open();
    server.wait_status(&id, "completed");
    let last = poll(&server, &id, "", Some(&old)).expect(200);
    assert_ne!(tag(&last), old);
    assert_eq!(last.header("Retry-After"), None);
    poll(&server, &id, "", Some(&tag(&last))).expect(304);
}

#[test]
fn equal_tags_mean_equal_answers() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let id = server.run("driven");
    let mut last = poll(&server, &id, "", None);
    for percent in 1..=100 {
        dial.turn_to(percent);
        loop {
            let next = poll(&server, &id, "", None);
            assert_eq!(tag(&next) == tag(&last), next.body == last.body);
            let reached = next.json()["progress"] == percent;
            last = next;
            if reached {
                break;
            }
        }
    }
}

#[test]
fn a_long_poll_answers_at_the_end() {
    let server = TestServer::start(&[]);
    let id = server.run("held");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| poll(&server, &id, "?wait=60", None));
        server.wait_step(&id, "Holding");
        assert!(!waiting.is_finished(), "progress is no final status");
        server.gate.open();
        let answer = waiting.join().expect("no panic").expect(200);
        assert_eq!(answer.json()["status"], "completed");
    });
    // It has ended: there is nothing to wait for.
    poll(&server, &id, "?wait=60", None).expect(200);
    let end = tag(&poll(&server, &id, "", None));
    poll(&server, &id, "?wait=60", Some(&end)).expect(304);
}

#[test]
fn a_long_poll_with_a_tag_answers_at_any_change() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let id = server.run("driven");
    server.wait_step(&id, "At 0");
    let mut known = tag(&poll(&server, &id, "", None));
    for percent in (10..=100).step_by(10) {
        let answer = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| poll(&server, &id, "?wait=60", Some(&known)));
            dial.turn_to(percent);
            waiting.join().expect("no panic").expect(200)
        });
        assert_eq!(answer.json()["progress"], percent);
        assert_ne!(tag(&answer), known);
        known = tag(&answer);
    }
}

#[test]
fn a_long_poll_gives_up_when_its_time_is_over() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    let begun = Instant::now();
    let answer = poll(&server, &id, "?wait=1", None).expect(200);
    assert_eq!(answer.json()["status"], "pending");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(answer.header("Retry-After"), Some("1"));
    poll(&server, &id, "?wait=1", Some(&tag(&answer))).expect(304);
    poll(&server, &id, "?wait=60", Some("\"other\"")).expect(200);
}

#[test]
fn a_wait_that_makes_no_sense_is_refused() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    for wait in ["61", "-1", "1.5", "soon", ""] {
        let reply = poll(&server, &id, &format!("?wait={wait}"), None);
        let reply = reply.expect_problem(400, "invalid_request");
        assert_eq!(reply.bad_fields(), ["wait"]);
    }
    poll(&server, &id, "?wiat=1", None).expect_problem(400, "invalid_request");
    poll(&server, "x", "?wait=1", None).expect_problem(404, "task_not_found");
}

#[test]
fn a_client_that_hangs_up_is_not_waited_for() {
    // With one connection allowed, the next is served only once the first has been let go.
    let server = TestServer::start(&[("MAX_CONNECTIONS", "2")]);
    let id = server.create(json!({ "name": "n" }));
    let key = server.key();
    let gone: Vec<_> = (0..2)
        .map(|_| {
            use std::io::Write;
            let mut socket = server.connect();
            let path = format!("/api/v1/tasks/{id}/status?wait=60&session={key}");
            let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
            socket.write_all(request.as_bytes()).expect("sent");
            socket
        })
        .collect();
    drop(gone);
    crate::support::wait_until(|| server.get("/health").status == 200);
}
