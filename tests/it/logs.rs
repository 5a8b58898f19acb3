use async_task_system::{LogStream, Outcome, TaskContext, TaskError, TaskInput};
use serde_json::{Value, json};

use crate::support::{Client, Reply, TestServer, keys, pluck, wait_until};

/// A server with `speaks`, which logs the text in its metadata `said`, `times` times, and `fails` where that says so;
/// and `talks`, which says a line each few milliseconds until the gate opens.
fn start(variables: &[(&str, &str)]) -> TestServer {
    TestServer::start_with(variables, |registry| {
        registry.register("speaks", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                let said: Value = ctx.arguments()?;
                for _ in 0..said["times"].as_u64().unwrap_or(1) {
                    ctx.log_from(LogStream::Out, said["said"].as_str().unwrap_or_default())?;
                }
                match said["fails"].as_bool() {
                    Some(true) => Err(TaskError::new("as asked")),
                    _ => Ok(Outcome::Done(None)),
                }
            })
        });
    })
}

fn speak(client: &Client, metadata: Value) -> String {
    let kind = "speaks";
    client.create(json!({ "name": kind, "type": kind, "start": true, "metadata": metadata }))
}

fn log(client: &Client, id: &str, query: &str) -> Reply {
    client.get(&format!("/tasks/{id}/log{query}")).expect(200)
}

fn log_json(client: &Client, id: &str, query: &str) -> Value {
    let call = client.call("GET", &format!("/tasks/{id}/log{query}"));
    let reply = call.header("Accept", "application/json").send().expect(200);
    assert_eq!(reply.header("Vary"), Some("Accept"));
    reply.json()
}

fn texts(log: &Value) -> Vec<String> {
    pluck(log["lines"].as_array().expect("a list"), "text")
}

#[test]
fn a_log_comes_as_text_and_as_json() {
    let server = start(&[]);
    let said = "one\n\u{1b}[31mtwo\u{1b}[0m\r\nthr\u{7}ee ü\n";
    let id = speak(&server, json!({ "said": said }));
    server.wait_status(&id, "completed");
    let text = log(&server, &id, "");
    assert_eq!(
        text.header("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(text.text(), "one\ntwo\nthree ü\n");
    let log = log_json(&server, &id, "");
    assert_eq!(
        keys(&log),
        ["count", "dropped", "lines", "success", "taskId"]
    );
    assert_eq!(
        (&log["count"], &log["dropped"], &log["taskId"]),
        (&json!(3), &json!(0), &json!(id))
    );
    let first = &log["lines"][0];
    assert_eq!(keys(first), ["at", "attempt", "n", "stream", "text"]);
    assert_eq!(
        (&first["n"], &first["attempt"], &first["stream"]),
        (&json!(1), &json!(1), &json!("out"))
    );
    assert!(first["at"].as_u64() >= server.task(&id)["startedAt"].as_u64());
}

#[test]
fn a_part_of_a_log_can_be_asked_for() {
    let server = start(&[]);
    let id = speak(&server, json!({ "said": "a\nb", "fails": true }));
    server.wait_status(&id, "failed");
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    wait_until(|| server.task(&id)["attempt"] == 2 && server.task(&id)["status"] == "failed");
    assert_eq!(log(&server, &id, "").text(), "a\nb\na\nb\n");
    assert_eq!(log(&server, &id, "?after=3").text(), "b\n");
    assert_eq!(log(&server, &id, "?after=4").text(), "");
    assert_eq!(log(&server, &id, "?attempt=2&after=2").text(), "a\nb\n");
    let second = log_json(&server, &id, "?attempt=2");
    let numbers = pluck(second["lines"].as_array().expect("a list"), "n");
    assert_eq!(
        (numbers, &second["count"]),
        (vec!["3".into(), "4".into()], &json!(2))
    );
    let stamped = log(&server, &id, "?timestamps=1&after=3").text();
    let (at, line) = stamped.split_once(' ').expect("a time and a text");
    assert!(
        at.len() == 24 && at.starts_with("20") && at.ends_with('Z'),
        "{at}"
    );
    assert_eq!(line, "b\n");
}

#[test]
fn a_log_that_nobody_wrote_is_empty_and_one_of_no_task_is_not_there() {
    let server = start(&[]);
    let id = server.create(json!({ "name": "n" }));
    assert_eq!(log(&server, &id, "").text(), "");
    assert_eq!(log(&server, &id, "?after=7").text(), "");
    assert_eq!(texts(&log_json(&server, &id, "")), [""; 0]);
    let other = server.session("other");
    let refused = |path: &str| other.get(path).expect_problem(404, "task_not_found");
    refused(&format!("/tasks/{id}/log"));
    refused(&format!("/tasks/{id}/log?follow=1"));
    for (query, field) in [
        ("?after=-1", "after"),
        ("?attempt=0", "attempt"),
        ("?follow=2", "follow"),
        ("?lines=3", "lines"),
    ] {
        let reply = server.get(&format!("/tasks/{id}/log{query}"));
        assert_eq!(reply.expect(400).bad_fields(), [field]);
    }
    let call = server.call("GET", &format!("/tasks/{id}/log?follow=1"));
    let reply = call.header("Accept", "application/json").send().expect(400);
    assert!(reply.message().contains("?log=1"), "{reply}");
}

#[test]
fn the_newest_lines_are_kept_and_the_others_counted() {
    let server = start(&[("MAX_LOG_BYTES", "1000")]);
    let id = speak(&server, json!({ "said": "x".repeat(90), "times": 100 }));
    server.wait_status(&id, "completed");
    let log_of = log_json(&server, &id, "");
    let lines = log_of["lines"].as_array().expect("a list");
    assert_eq!((lines.len(), &log_of["dropped"]), (10, &json!(90)));
    assert_eq!((&lines[0]["n"], &lines[9]["n"]), (&json!(91), &json!(100)));
    let text = log(&server, &id, "?after=80").text();
    assert!(text.starts_with("[10 lines were dropped]\nxxx"), "{text}");
    assert_eq!(text.lines().count(), 11);
}

#[test]
fn a_line_is_cut_and_a_large_log_comes_whole() {
    let server = start(&[("MAX_LOG_BYTES", "4000000")]);
    let long = format!("{}\n", "ü".repeat(6_000));
    let id = speak(&server, json!({ "said": long, "times": 300 }));
    server.wait_status(&id, "completed");
    let log_of = log_json(&server, &id, "");
    assert_eq!(
        (&log_of["count"], &log_of["dropped"]),
        (&json!(300), &json!(0))
    );
    assert!(
        texts(&log_of)
            .iter()
            .all(|text| text.len() <= 8_192 && text.ends_with("ü…"))
    );
    assert_eq!(log(&server, &id, "").text().lines().count(), 300);
}
