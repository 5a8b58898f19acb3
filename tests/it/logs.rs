use std::time::Duration;

use async_task_system::{LogStream, Outcome, TaskContext, TaskError, TaskInput};
use serde_json::{Value, json};

use crate::support::{Client, Event, Gate, Reply, Stream, TestServer, keys, pluck, wait_until};

/// A server with `speaks`, which logs the text in its metadata `said`, `times` times, and `fails` where that says so;
/// and `talks`, which says `line 1`, `line 2` and so on, until the gate opens.
fn start(variables: &[(&str, &str)]) -> TestServer {
    let gate = Gate::default();
    start_with(variables, &gate)
}

fn start_with(variables: &[(&str, &str)], gate: &Gate) -> TestServer {
    TestServer::start_with(variables, |registry| {
        let gate = gate.clone();
        registry.register("talks", move |_: &TaskInput| {
            let (gate, mut n) = (gate.clone(), 0);
            Ok(move |ctx: &mut TaskContext<'_>| {
                n += 1;
                ctx.progress(n as u8 % 100, "", "")?;
                ctx.log(&format!("line {n}"))?;
                Ok(match gate.is_open() {
                    true => Outcome::Done(None),
                    false => Outcome::Again(Duration::from_millis(2)),
                })
            })
        });
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

/// That these are the lines `line 1`, `line 2` and so on, to the last of the task.
#[track_caller]
fn expect_all(client: &Client, id: &str, lines: &[String]) {
    for (line, n) in lines.iter().zip(1..) {
        assert_eq!(line, &format!("line {n}"));
    }
    assert_eq!(lines, texts(&log_json(client, id, "")));
}

#[test]
fn a_followed_log_goes_on_to_the_tasks_end() {
    let gate = Gate::default();
    let server = start_with(&[], &gate);
    let id = server.run("talks");
    let mut stream = server
        .call("GET", &format!("/tasks/{id}/log?follow=1&after=0"))
        .open();
    for n in 1..20 {
        assert_eq!(stream.until("\n"), Some(format!("line {n}\n")));
    }
    gate.open();
    let rest = stream.rest();
    server.wait_status(&id, "completed");
    let all: Vec<String> = (1..20).map(|n| format!("line {n}")).collect();
    let all = [all, rest.lines().map(str::to_owned).collect()].concat();
    expect_all(&server, &id, &all);
    // It has ended: what there is comes at once.
    let call = server.call("GET", &format!("/tasks/{id}/log?follow=1&after=3"));
    assert!(call.open().rest().starts_with("line 4\n"));
    let pending = server.create(json!({ "name": "n" }));
    let call = server.call("GET", &format!("/tasks/{pending}/log?follow=1"));
    let mut stream = call.open();
    server.act(&format!("/tasks/{pending}/cancel")).expect(200);
    assert_eq!(stream.rest(), "");
}

fn events_of(client: &Client, id: &str, last: Option<&Event>) -> Stream {
    let call = client.call("GET", &format!("/tasks/{id}/events?log=1"));
    match last {
        Some(event) => {
            let last = format!("{}.{}", event.id, event.line.expect("two numbers"));
            call.header("Last-Event-ID", &last).open()
        }
        None => call.open(),
    }
}

#[test]
fn events_carry_the_log_and_reconnects_lose_and_double_nothing() {
    let gate = Gate::default();
    let server = start_with(&[], &gate);
    let id = server.run("talks");
    let mut seen: Vec<Event> = Vec::new();
    for round in 0..60 {
        let mut stream = events_of(&server, &id, seen.last());
        for _ in 0..round % 7 {
            seen.push(stream.event().expect("it goes on"));
        }
    }
    gate.open();
    seen.extend(events_of(&server, &id, seen.last()).events());
    server.wait_status(&id, "completed");
    let (lines, others): (Vec<_>, Vec<_>) = seen.iter().partition(|event| event.name == "log");
    let told: Vec<String> = lines
        .iter()
        .map(|event| event.data["text"].to_string())
        .collect();
    let told: Vec<String> = told
        .iter()
        .map(|text| text.trim_matches('"').to_owned())
        .collect();
    expect_all(&server, &id, &told);
    let first = &lines[0].data;
    assert_eq!(
        keys(first),
        ["at", "attempt", "n", "stream", "taskId", "text"]
    );
    assert_eq!(seen.last().expect("some").name, "completed");
    let told: Vec<u64> = others.iter().map(|event| event.id).collect();
    let history = server.history(&id).len() as u64;
    assert_eq!(told, (told[0]..=history).collect::<Vec<_>>());
    // Who has it all is asked not to come back.
    let last = seen.last().expect("some");
    let last = format!("{}.{}", last.id, last.line.expect("two numbers"));
    let call = server.call("GET", &format!("/tasks/{id}/events?log=1"));
    call.header("Last-Event-ID", &last).send().expect(204);
    // Who comes for the first time after the end gets the lines, and the end last.
    let events = events_of(&server, &id, None).events();
    assert_eq!(events.len(), lines.len() + 1);
    assert_eq!(events.last().expect("some").name, "completed");
    // Without the log, nothing of it is told.
    let mut plain = server.call("GET", &format!("/tasks/{id}/events")).open();
    assert_eq!(plain.events().len(), 1);
}

#[test]
fn lines_of_json_carry_the_log_and_a_gap_is_told() {
    let server = start(&[("MAX_LOG_BYTES", "1000")]);
    let id = speak(&server, json!({ "said": "x".repeat(90), "times": 100 }));
    server.wait_status(&id, "completed");
    let call = server.call("GET", &format!("/tasks/{id}/events?log=1"));
    let mut stream = call
        .header("Accept", "application/x-ndjson")
        .header("Last-Event-ID", "1.50")
        .open();
    let lines: Vec<Value> = stream
        .rest()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        lines[0],
        json!({ "id": "1.90", "event": "dropped", "taskId": id, "dropped": 40 })
    );
    assert_eq!(
        (&lines[1]["id"], &lines[1]["event"]),
        (&json!("1.91"), &json!("log"))
    );
    let end = lines.last().expect("some");
    assert_eq!(
        (&end["event"], &end["id"]),
        (&json!("completed"), &json!("4.100"))
    );
    let text = server
        .call("GET", &format!("/tasks/{id}/log?follow=1"))
        .open()
        .rest();
    assert!(text.starts_with("[90 lines were dropped]\nxxx"), "{text}");
}

#[test]
fn a_reader_that_is_slow_is_told_what_it_missed() {
    let gate = Gate::default();
    let server = start_with(&[("MAX_LOG_BYTES", "2000")], &gate);
    let id = server.run("talks");
    let mut stream = server
        .call("GET", &format!("/tasks/{id}/log?follow=1"))
        .open();
    assert_eq!(stream.until("\n").as_deref(), Some("line 1\n"));
    // The connection's buffers take a while to fill.
    wait_until(|| log_json(&server, &id, "")["dropped"].as_u64() > Some(200));
    gate.open();
    let mut next = 2;
    for line in stream.rest().lines() {
        let gap = line
            .strip_prefix('[')
            .and_then(|rest| rest.split(' ').next());
        match gap {
            Some(dropped) => next += dropped.parse::<u64>().expect("a number"),
            None => {
                assert_eq!(line, format!("line {next}"));
                next += 1;
            }
        }
    }
    server.wait_status(&id, "completed");
    let kept = log_json(&server, &id, "");
    let last = kept["lines"]
        .as_array()
        .and_then(|lines| lines.last())
        .expect("a line");
    assert_eq!(last["n"], next - 1);
}

#[test]
fn the_terminal_shows_lines_above_the_bar() {
    let server = start(&[]);
    let id = speak(&server, json!({ "said": "one\ttwo\nthree" }));
    server.wait_status(&id, "completed");
    let watch = |query: &str| {
        let call = server.call("GET", &format!("/tasks/{id}/watch{query}"));
        call.open().rest()
    };
    let text = watch("?log=1");
    assert!(text.starts_with("speaks\none    two\nthree\n"), "{text}");
    assert!(
        text.ends_with(" s\n") && text.contains("✔ completed"),
        "{text}"
    );
    let plain = watch("?log=1&plain=1");
    let lines: Vec<&str> = plain.lines().collect();
    assert!(
        lines[1].ends_with("Z  out              one\ttwo"),
        "{plain}"
    );
    assert!(!watch("").contains("three"));
}

#[test]
fn a_share_link_shows_the_log_only_where_its_owner_says_so() {
    let server = start(&[]);
    let id = speak(&server, json!({ "said": "a secret" }));
    server.wait_status(&id, "completed");
    let share = |body: Value| {
        let reply = server.post(&format!("/tasks/{id}/share"), body);
        reply.expect(201).json()["url"]
            .as_str()
            .expect("a url")
            .to_owned()
    };
    let (without, with) = (share(json!({})), share(json!({ "log": true })));
    assert_eq!(
        (
            share(json!({ "log": false })),
            share(json!({ "log": true }))
        ),
        (without.clone(), with.clone())
    );
    assert_ne!(without, with);
    let show = |url: &str, accept: &str| {
        let call = server.call_exact("GET", url).header("Accept", accept);
        call.open().rest()
    };
    for accept in ["*/*", "text/event-stream", "application/x-ndjson"] {
        assert!(show(&with, accept).contains("a secret"), "{accept}");
        assert!(!show(&without, accept).contains("a secret"), "{accept}");
    }
    server
        .post(&format!("/tasks/{id}/share"), json!({ "log": 1 }))
        .expect(400);
}

#[test]
fn a_sessions_events_carry_the_log_of_its_tasks_where_that_is_asked_for() {
    let server = start(&[]);
    let mine = server.session("mine");
    let mut with = mine.call("GET", "/tasks/events?log=1").open();
    let mut without = mine.call("GET", "/tasks/events").open();
    let ids = [(); 2].map(|()| speak(&mine, json!({ "said": "one\ntwo\n" })));
    speak(&server.session("other"), json!({ "said": "of another" }));
    let mut lines = Vec::new();
    let mut ended = 0;
    while ended < ids.len() {
        let event = with.event().expect("it goes on");
        match event.name.as_str() {
            "log" => lines.push((
                event.data["taskId"].clone(),
                event.data["n"].clone(),
                event.data["text"].clone(),
            )),
            "completed" => ended += 1,
            _ => {}
        }
    }
    for id in &ids {
        let own: Vec<_> = lines.iter().filter(|(of, ..)| of == id).collect();
        assert_eq!(
            own,
            [
                &(json!(id), json!(1), json!("one")),
                &(json!(id), json!(2), json!("two"))
            ]
        );
    }
    assert_eq!(lines.len(), 4);
    let mut ended = 0;
    while ended < ids.len() {
        let event = without.event().expect("it goes on");
        assert_ne!(event.name, "log");
        ended += usize::from(event.name == "completed");
    }
}
