use std::hash::{BuildHasher, RandomState};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use async_task_system::{Outcome, TaskContext, TaskInput};
use serde_json::{Value, json};
use socket2::SockRef;

use crate::support::{API, Client, Dial, Event, Reply, Stream, TestServer, wait_until};

fn events_of(client: &Client, id: &str) -> Stream {
    client.call("GET", &format!("/tasks/{id}/events")).open()
}

fn resume(client: &Client, id: &str, last: u64) -> Stream {
    let call = client.call("GET", &format!("/tasks/{id}/events"));
    call.header("Last-Event-ID", &last.to_string()).open()
}

fn session_events(client: &Client) -> Stream {
    client.call("GET", "/tasks/events").open()
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

#[test]
fn a_stream_tells_the_state_now_and_ends_after_the_final_event() {
    let server = TestServer::start(&[]);
    let id = server.run("held");
    server.wait_step(&id, "Holding");
    let mut stream = events_of(&server, &id);
    let header = |name| stream.head.header(name);
    assert_eq!(header("Content-Type"), Some("text/event-stream"));
    assert_eq!(header("X-Accel-Buffering"), Some("no"));
    assert_eq!(header("Vary"), Some("Accept"));
    assert_eq!(stream.until("\n").as_deref(), Some("retry: 2000\n"));
    let first = stream.event().expect("the state now");
    assert_eq!((first.id, first.name.as_str()), (4, "progress"));
    let mut status = server.get(&format!("/tasks/{id}/status")).json();
    status["taskId"] = json!(id);
    assert_eq!(first.data, status);
    server.gate.open();
    let rest = stream.events();
    assert_eq!(names(&rest), ["completed"]);
    assert_eq!(rest[0].id, 5);
    assert_eq!(rest[0].data["progress"], 100);
    assert!(rest[0].data["completedAt"].is_u64());
}

#[test]
fn the_stream_is_the_history() {
    let server = TestServer::start(&[]);
    let id = server.run_to("fails", "failed");
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    server.wait_status(&id, "failed");
    let events = resume(&server, &id, 0).events();
    let history = server.history(&id);
    assert_eq!(events.len(), history.len());
    let told = ["created", "queued", "started", "progress", "failed"];
    let again = ["retried", "queued", "started", "progress", "failed"];
    assert_eq!(names(&events), [told, again].concat());
    for (event, entry) in events.iter().zip(&history) {
        assert_eq!(event.id, entry["seq"]);
        assert_eq!(event.name, entry["event"]);
        assert_eq!(event.data["status"], entry["status"]);
        assert_eq!(event.data["progress"], entry["progress"]);
    }
    let failed = &events[4].data;
    assert_eq!(failed["error"], "the disk is full");
    assert_eq!(failed["currentStep"], "Trying");
    assert_eq!(failed["completedAt"], history[4]["at"]);
    let retried = &events[5].data;
    assert_eq!(retried["error"], Value::Null);
    assert_eq!(retried["startedAt"], Value::Null);
    assert!(retried.get("currentStep").is_none());
}

#[test]
fn who_has_seen_the_end_is_asked_not_to_come_back() {
    let server = TestServer::start(&[]);
    let id = server.run_to("quick", "completed");
    let path = format!("/tasks/{id}/events");
    let last = server.history(&id).len();
    let ask = |last: &str| server.call("GET", &path).header("Last-Event-ID", last);
    ask(&last.to_string()).send().expect(204);
    // Without the id, or with one that this task never had, the state now is told once more.
    for events in [
        events_of(&server, &id).events(),
        ask("999").open().events(),
        ask("nonsense").open().events(),
    ] {
        assert_eq!(names(&events), ["completed"]);
        assert_eq!(events[0].id, last as u64);
    }
}

#[test]
fn two_hundred_random_reconnects_lose_and_double_nothing() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let id = server.run("driven");
    let random = RandomState::new();
    let mut seen: Vec<Event> = Vec::new();
    for round in 0..200_u64 {
        let number = random.hash_one(round);
        let last = seen.last().map_or(0, |event| event.id);
        let mut stream = resume(&server, &id, last);
        // Some leave before they have read anything, some while the task moves on.
        let wanted = number % 4;
        dial.turn_to((round / 2) as usize);
        for _ in 0..wanted {
            let known = server.history(&id).len() as u64;
            if seen.last().map_or(0, |event| event.id) >= known {
                break;
            }
            seen.push(stream.event().expect("an event that has happened"));
        }
    }
    dial.turn_to(100);
    let last = seen.last().map_or(0, |event| event.id);
    seen.extend(resume(&server, &id, last).events());
    let history = server.history(&id);
    assert!(history.len() > 50, "{}", history.len());
    let ids: Vec<u64> = seen.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=history.len() as u64).collect::<Vec<_>>());
    for (event, entry) in seen.iter().zip(&history) {
        assert_eq!(event.name, entry["event"]);
        assert_eq!(event.data["progress"], entry["progress"]);
        if entry["event"] == "progress" {
            assert_eq!(event.data["currentStep"], entry["step"]);
        }
    }
}

#[test]
fn the_same_events_come_as_lines_of_json() {
    let server = TestServer::start(&[]);
    let id = server.run_to("fails", "failed");
    let call = server.call("GET", &format!("/tasks/{id}/events"));
    let call = call.header("Accept", "application/x-ndjson");
    let mut stream = call.header("Last-Event-ID", "0").open();
    let kind = stream.head.header("Content-Type");
    assert_eq!(kind, Some("application/x-ndjson"));
    let text = stream.rest();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let events = resume(&server, &id, 0).events();
    assert_eq!(lines.len(), events.len());
    for (line, event) in lines.iter().zip(events) {
        let mut expected = event.data;
        expected["id"] = json!(event.id);
        expected["event"] = json!(event.name);
        assert_eq!(*line, expected);
    }
}

#[test]
fn the_form_is_the_one_that_the_client_wants_most() {
    let server = TestServer::start(&[]);
    let id = server.run_to("quick", "completed");
    for (accept, kind) in [
        ("*/*", "text/event-stream"),
        (
            "text/event-stream, application/x-ndjson;q=0.5",
            "text/event-stream",
        ),
        (
            "text/event-stream;q=0.1, application/x-ndjson",
            "application/x-ndjson",
        ),
        ("application/x-ndjson;q=0", "text/event-stream"),
    ] {
        for path in [format!("/tasks/{id}/events"), "/tasks/events".to_owned()] {
            let stream = server.call("GET", &path).header("Accept", accept).open();
            assert_eq!(stream.head.header("Content-Type"), Some(kind), "{accept}");
            assert_eq!(stream.head.header("Vary"), Some("Accept"));
        }
    }
}

#[test]
fn a_sessions_stream_tells_its_own_tasks_and_no_others() {
    let server = TestServer::start(&[]);
    let (mine, theirs) = (server.session("mine"), server.session("theirs"));
    mine.run_to("quick", "completed");
    let mut stream = session_events(&mine);
    let first = stream.event().expect("the state now");
    assert_eq!((first.id, first.name.as_str()), (1, "state"));
    assert_eq!(first.data, mine.get("/tasks/stats").json());
    theirs.run_to("fails", "failed");
    let a = mine.run_to("fails", "failed");
    theirs.run_to("fails", "failed");
    let b = mine.run_to("quick", "completed");
    let events: Vec<Event> = (0..9).map(|_| stream.event().expect("an event")).collect();
    assert_eq!(
        names(&events),
        [
            "created",
            "queued",
            "started",
            "progress",
            "failed",
            "created",
            "queued",
            "started",
            "completed"
        ]
    );
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event.id, i as u64 + 2);
        assert_eq!(event.data["taskId"], if i < 5 { &*a } else { &*b });
    }
}

#[test]
fn a_cleanup_tells_the_sessions_watchers_that_tasks_have_gone() {
    let server = TestServer::start(&[("MAX_COMPLETED_TASKS", "1")]);
    for _ in 0..3 {
        server.run_to("quick", "completed");
    }
    let mut stream = session_events(&server);
    assert_eq!(stream.event().expect("state").data["stats"]["total"], 3);
    server.act("/tasks/cleanup/run").expect(200);
    let again = stream.event().expect("state again");
    assert_eq!(again.name, "state");
    assert_eq!(again.data["stats"]["total"], 1);
}

#[test]
fn nobody_waits_for_a_slow_reader_and_it_is_told_that_it_missed_something() {
    const TASKS: u64 = 100;
    let server = TestServer::start_with(&[], |registry| {
        registry.register("wordy", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                for percent in 1..=100 {
                    ctx.progress(percent, "Talking", &"word ".repeat(390))?;
                }
                Ok(Outcome::Done(None))
            })
        });
    });
    // Some twenty megabytes of events; the socket's buffer may not grow to hold them.
    let mut slow = session_events(&server);
    let _ = SockRef::from(slow.socket()).set_recv_buffer_size(65_536);
    let mut follower = events_of(&server, &server.run("wordy"));
    for _ in 1..TASKS {
        server.run("wordy");
    }
    wait_until(|| server.get("/tasks/stats").json()["stats"]["completed"] == TASKS);
    let mut events = Vec::new();
    loop {
        let event = slow.event().expect("the stream goes on");
        let is_state = event.name == "state";
        events.push(event);
        let done = |event: &Event| event.data["stats"]["completed"] == TASKS;
        if is_state && events.last().is_some_and(done) {
            break;
        }
    }
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    // It goes on as before.
    let id = server.run_to("quick", "completed");
    let more: Vec<Event> = (0..4).map(|_| slow.event().expect("an event")).collect();
    assert!(more.iter().all(|event| event.data["taskId"] == *id));
    assert_eq!(more[3].name, "completed");
    // The reader of one task was as slow, and has missed nothing from where it began.
    let told = follower.events();
    let ids: Vec<u64> = told.iter().map(|event| event.id).collect();
    let first = ids[0];
    assert_eq!(ids, (first..first + ids.len() as u64).collect::<Vec<_>>());
    assert_eq!(
        told.last().map(|event| event.name.as_str()),
        Some("completed")
    );
}

#[test]
fn streams_are_counted_and_a_vanished_reader_gives_its_place_back() {
    let server = TestServer::start(&[("MAX_STREAMS", "2")]);
    let id = server.run("held");
    let first = events_of(&server, &id);
    let mut second = session_events(&server);
    for path in [
        format!("/tasks/{id}/events"),
        format!("/tasks/{id}/watch"),
        "/tasks/events".to_owned(),
    ] {
        let reply = server.get(&path).expect_problem(503, "too_many_streams");
        assert!(reply.retry_after() > 0);
    }
    // Polls are no streams.
    server
        .get(&format!("/tasks/{id}/status?wait=0"))
        .expect(200);
    // Nothing happens on this stream, so nothing is written that could fail.
    drop(first);
    wait_until(|| server.call("GET", "/tasks/events").try_open().is_some());
    assert_eq!(second.event().expect("still there").name, "state");
}

#[test]
fn a_silent_stream_says_that_it_is_there() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    let mut one = events_of(&server, &id);
    let mut all = session_events(&server);
    let mut screen = server.call("GET", &format!("/tasks/{id}/watch")).open();
    screen.set_patience(Duration::from_secs(20));
    screen.until("waiting to be started").expect("the bar");
    for stream in [&mut one, &mut all] {
        stream.set_patience(Duration::from_secs(20));
        stream.until("\n").expect("retry");
        stream.event().expect("the state now");
    }
    for stream in [&mut one, &mut all] {
        let heartbeat = stream.until("\n").expect("a heartbeat");
        assert!(heartbeat.starts_with(':'), "{heartbeat:?}");
    }
    // On a screen it must not show.
    let rest = screen.until("\r").expect("a heartbeat");
    assert_eq!(rest.trim_start_matches(' '), "\r");
    // It is part of the next event, so that nobody takes it for one.
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    assert_eq!(one.event().expect("an event").name, "cancelled");
}

#[test]
fn the_stop_ends_streams_properly_and_answers_long_polls() {
    let server = TestServer::start(&[]);
    let id = server.run("held");
    server.wait_step(&id, "Holding");
    let mut one = events_of(&server, &id);
    let mut all = session_events(&server);
    let mut screen = server.call("GET", &format!("/tasks/{id}/watch")).open();
    screen.until("\r").expect("the bar");
    // A connection that has served one request takes up the next, also at the stop.
    let path = format!("{API}/tasks/{id}/status?session={}", server.key());
    let mut socket = BufReader::new(server.connect());
    let ask = |mut socket: &TcpStream, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        socket.write_all(request.as_bytes()).expect("sent");
    };
    ask(socket.get_ref(), &path);
    Reply::read(&mut socket, "GET").expect(200);
    ask(socket.get_ref(), &format!("{path}&wait=60"));
    server.stop();
    let answer = Reply::read(&mut socket, "GET").expect(200).json();
    assert_eq!(answer["error"], "server stopped");
    let last = one.events().pop().expect("events");
    assert_eq!(last.name, "cancelled");
    assert_eq!(last.data["error"], "server stopped");
    let last = all.events().pop().expect("events");
    assert_eq!(
        (last.name.as_str(), &last.data["taskId"]),
        ("cancelled", &json!(id))
    );
    let end = screen.rest();
    assert!(end.ends_with(": server stopped\n"), "{end}");
}

#[test]
fn an_old_client_reads_a_stream_to_the_end_of_its_connection() {
    let server = TestServer::start(&[]);
    let id = server.run_to("quick", "completed");
    let key = server.key();
    let mut socket = server.connect();
    let request = format!("GET {API}/tasks/{id}/events?session={key} HTTP/1.0\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    assert!(!answer.contains("Transfer-Encoding"), "{answer}");
    assert!(answer.contains("Connection: close"), "{answer}");
    assert!(answer.contains("event: completed\ndata: {"), "{answer}");
    assert!(answer.ends_with("}\n\n"), "{answer}");
}

#[test]
fn a_connection_serves_on_after_a_stream_has_ended() {
    let server = TestServer::start(&[]);
    let id = server.run_to("quick", "completed");
    let key = server.key();
    let socket = server.connect();
    let request = |path: &str| format!("GET {API}{path}?session={key} HTTP/1.1\r\nHost: h\r\n\r\n");
    let both = request(&format!("/tasks/{id}/events")) + &request("/tasks/stats");
    (&socket).write_all(both.as_bytes()).expect("sent");
    let mut reader = BufReader::new(socket);
    let stream = Reply::read(&mut reader, "GET");
    assert!(stream.text().contains("event: completed"), "{stream}");
    let stats = Reply::read(&mut reader, "GET").expect(200);
    assert_eq!(stats.json()["stats"]["completed"], 1);
}

#[test]
fn a_head_of_a_stream_is_only_its_head() {
    let server = TestServer::start(&[]);
    let id = server.create(json!({ "name": "n" }));
    for path in [format!("/tasks/{id}/events"), "/tasks/events".to_owned()] {
        let reply = server.call("HEAD", &path).send().expect(200);
        assert_eq!(reply.header("Content-Type"), Some("text/event-stream"));
    }
}

#[test]
fn streams_of_nothing_are_refused() {
    let server = TestServer::start(&[]);
    let id = server.session("other").create(json!({ "name": "n" }));
    for id in [id.as_str(), "00000000-0000-7000-8000-000000000000", "x"] {
        for what in ["events", "watch"] {
            let reply = server.get(&format!("/tasks/{id}/{what}"));
            reply.expect_problem(404, "task_not_found");
        }
    }
    let reply = server.get("/tasks/events?sesion=x");
    reply.expect_problem(400, "invalid_request");
}

#[test]
fn a_reader_that_stalls_for_too_long_is_cut_off() {
    let server = TestServer::start_with(&[("REQUEST_TIMEOUT", "300"), ("MAX_STREAMS", "1")], |r| {
        r.register("wordy", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                for percent in 1..=100 {
                    ctx.progress(percent, "Talking", &"word ".repeat(390))?;
                }
                Ok(Outcome::Done(None))
            })
        });
    });
    let stalled = session_events(&server);
    let _ = SockRef::from(stalled.socket()).set_recv_buffer_size(4_096);
    wait_until(|| {
        server.run("wordy");
        let call = server.call("GET", "/tasks/events");
        call.try_open().is_some()
    });
}
