use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_task_system::{ExecutorRegistry, LogStream, Outcome, TaskContext, TaskError, TaskInput};
use serde_json::{Value, json};

use super::{Db, User};
use crate::support::{Cluster, Event, Gate, keys, pluck, wait_until};

on_both! {
    a_jobs_log_comes_as_text_and_as_json_while_it_runs_and_after
    a_jobs_log_is_bounded_and_leaves_with_the_job
    a_jobs_log_is_followed_as_text_as_events_and_in_a_terminal
    an_attempt_that_lost_its_claim_writes_no_more_lines
}

/// Opens its gate when it is dropped.
struct OpensAtItsEnd(Gate);

impl Drop for OpensAtItsEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Registers `speaks`, which logs what its arguments say and fails where they do; and `talks`, which logs a line in each
/// slice until the first gate opens, and opens the second one when it is dropped.
fn register(registry: &mut ExecutorRegistry, [gate, stopped]: [&Gate; 2]) {
    registry.register("speaks", |_: &TaskInput| {
        Ok(|ctx: &mut TaskContext<'_>| {
            let said: Value = ctx.arguments()?;
            for _ in 0..said["times"].as_u64().unwrap_or(1) {
                ctx.log_from(LogStream::Err, said["said"].as_str().unwrap_or_default())?;
            }
            match said["fails"] == ctx.input().attempt {
                true => Err(TaskError::new("as asked")),
                false => Ok(Outcome::Done(None)),
            }
        })
    });
    let (gate, stopped) = (gate.clone(), stopped.clone());
    registry.register("talks", move |_: &TaskInput| {
        let (gate, end, mut n) = (gate.clone(), OpensAtItsEnd(stopped.clone()), 0);
        Ok(move |ctx: &mut TaskContext<'_>| {
            let _ = &end;
            n += 1;
            ctx.log(&format!("line {n}"))?;
            Ok(match gate.is_open() {
                true => Outcome::Done(None),
                false => Outcome::Again(Duration::from_millis(2)),
            })
        })
    });
}

fn log(user: &User, id: &str, query: &str) -> String {
    let reply = user.get(&format!("/jobs/{id}/log{query}")).expect(200);
    let kind = reply.header("Content-Type");
    assert_eq!(kind, Some("text/plain; charset=utf-8"));
    reply.text()
}

fn log_json(user: &User, id: &str) -> Value {
    let call = user.call("GET", &format!("/jobs/{id}/log"));
    let reply = call.header("Accept", "application/json").send();
    reply.expect(200).json()
}

fn a_jobs_log_comes_as_text_and_as_json_while_it_runs_and_after(db: &Db) {
    let (gate, stopped) = <(Gate, Gate)>::default();
    let server = db.serve_with(&[], |registry| register(registry, [&gate, &stopped]));
    let alice = User::of(&server, "alice");

    let said = json!({ "said": "one\n\u{1b}[1mt\u{0}wo\u{1b}[0m 'ü' \\n {}", "fails": 1 });
    let id = alice.add(json!({ "type": "speaks", "arguments": said }));
    alice.wait(&id, "completed");
    let two = "two 'ü' \\n {}";
    assert_eq!(log(&alice, &id, ""), format!("one\n{two}\n").repeat(2));
    assert_eq!(log(&alice, &id, "?attempt=2&after=3"), format!("{two}\n"));
    let stamped = log(&alice, &id, "?timestamps=1&after=3");
    assert!(
        stamped.starts_with("20") && stamped.ends_with(&format!("Z {two}\n")),
        "{stamped}"
    );
    let shown = log_json(&alice, &id);
    assert_eq!(keys(&shown), ["count", "dropped", "jobId", "lines"]);
    assert_eq!((&shown["count"], &shown["dropped"]), (&json!(4), &json!(0)));
    let lines = shown["lines"].as_array().expect("a list");
    assert_eq!(pluck(lines, "n"), ["1", "2", "3", "4"]);
    assert_eq!(pluck(lines, "attempt"), ["1", "1", "2", "2"]);
    assert_eq!(pluck(lines, "stream"), ["err"; 4]);

    let running = alice.add_type("talks");
    wait_until(|| log(&alice, &running, "").lines().count() > 3);
    assert_eq!(alice.job(&running)["status"], "processing");
    gate.open();
    alice.wait(&running, "completed");
    let all = log(&alice, &running, "");
    for (line, n) in all.lines().zip(1..) {
        assert_eq!(line, format!("line {n}"));
    }

    let empty = alice.add(json!({ "type": "speaks", "runAt": "2099-01-01T00:00:00Z" }));
    assert_eq!(log(&alice, &empty, ""), "");
    assert_eq!(log_json(&alice, &empty)["dropped"], 0);
    let path = format!("/jobs/{id}/log");
    User::of(&server, "bob")
        .get(&path)
        .expect_problem(403, "access_denied");
}

fn a_jobs_log_is_followed_as_text_as_events_and_in_a_terminal(db: &Db) {
    let (gate, stopped) = <(Gate, Gate)>::default();
    let server = db.serve_with(&[], |registry| register(registry, [&gate, &stopped]));
    let alice = User::of(&server, "alice");
    let id = alice.add_type("talks");
    let open = |path: &str| alice.call("GET", &format!("/jobs/{id}{path}")).open();
    let mut text = open("/log?follow=1");
    assert_eq!(text.until("\n").as_deref(), Some("line 1\n"));
    let mut events = open("/events?log=1");
    let mut screen = open("/watch?log=1&plain=1");
    let mut seen: Vec<Event> = Vec::new();
    while seen.iter().filter(|event| event.name == "log").count() < 30 {
        seen.push(events.event().expect("it goes on"));
    }
    // It comes back, and goes on where it was.
    let last = seen.last().expect("some");
    let last = format!("{}.{}", last.id, last.line.expect("two numbers"));
    let call = alice.call("GET", &format!("/jobs/{id}/events?log=1"));
    let mut events = call.header("Last-Event-ID", &last).open();
    gate.open();
    seen.extend(events.events());
    let all = log(&alice, &id, "");
    assert_eq!(
        text.rest(),
        all.strip_prefix("line 1\n").expect("the first line")
    );
    let (lines, others): (Vec<_>, Vec<_>) = seen.iter().partition(|event| event.name == "log");
    for (event, line) in lines.iter().zip(all.lines()) {
        assert_eq!(event.data["text"], line);
        assert_eq!(event.data["jobId"], id);
    }
    assert_eq!(lines.len(), all.lines().count());
    assert_eq!(seen.last().expect("some").name, "completed");
    let told: Vec<u64> = others.iter().map(|event| event.id).collect();
    assert_eq!(told, (1..=told.len() as u64).collect::<Vec<_>>());
    let drawn = screen.rest();
    let shown = drawn.lines().filter(|line| line.contains("Z  log  "));
    assert_eq!(shown.count(), all.lines().count(), "{drawn}");
    // It has ended, so all comes at once; and whoever has it all is asked not to come back.
    assert_eq!(open("/log?follow=1").rest(), all);
    let call = alice.call("GET", &format!("/jobs/{id}/events?log=1"));
    let mut again = call.header("Accept", "application/x-ndjson").open();
    assert_eq!(again.rest().lines().count(), seen.len());
    let last = seen.last().expect("some");
    let last = format!("{}.{}", last.id, last.line.expect("two numbers"));
    let call = alice.call("GET", &format!("/jobs/{id}/events?log=1"));
    call.header("Last-Event-ID", &last).send().expect(204);
}

fn a_jobs_log_is_bounded_and_leaves_with_the_job(db: &Db) {
    let variables = [("MAX_LOG_BYTES", "4000"), ("JOB_RETENTION_DAYS", "1")];
    let server = db.serve_with(&variables, |registry| {
        register(registry, [&Gate::default(); 2])
    });
    let alice = User::of(&server, "alice");
    let said = json!({ "said": "x".repeat(90), "times": 500, "fails": 1 });
    let id = alice.add(json!({ "type": "speaks", "arguments": said }));
    alice.wait(&id, "completed");
    let shown = log_json(&alice, &id);
    let (count, dropped) = (shown["count"].as_u64(), shown["dropped"].as_u64());
    let (count, dropped) = (count.expect("a number"), dropped.expect("a number"));
    assert!(
        count + dropped == 1_000 && (30..=42).contains(&count),
        "{count} {dropped}"
    );
    let lines = shown["lines"].as_array().expect("a list");
    assert_eq!(lines[lines.len() - 1]["n"], 1_000);
    let text = log(&alice, &id, "");
    assert!(
        text.starts_with(&format!("[{dropped} lines were dropped]\nx")),
        "{text}"
    );
    drop(server);
    db.execute("DELETE FROM jobs");
    assert_eq!(db.rows("SELECT count(*) || '' FROM job_log"), ["0"]);
}

fn an_attempt_that_lost_its_claim_writes_no_more_lines(db: &Db) {
    let (gate, stopped) = <(Gate, Gate)>::default();
    let server = db.serve_with(&[], |registry| register(registry, [&gate, &stopped]));
    let alice = User::of(&server, "alice");
    let id = alice.add_type("talks");
    wait_until(|| log(&alice, &id, "").lines().count() > 3);
    // As another worker would take it.
    db.execute("UPDATE jobs SET claim = claim + 1");
    let sql = "SELECT max(n + lines) || '' FROM job_log";
    let before = db.rows(sql);
    // The completer finds out at its next write.
    wait_until(|| stopped.is_open());
    assert_eq!(db.rows(sql), before);
}

#[test]
fn lines_that_an_outage_leaves_no_room_for_are_dropped_and_told() {
    let Some(cluster) = Cluster::start() else {
        return super::skip("PostgreSQL", "postgresql");
    };
    let db = Db::on(&cluster);
    let (end, said) = (Gate::default(), Arc::<AtomicU64>::default());
    let (inside, count) = (end.clone(), said.clone());
    let server = db.serve_with(&[("MAX_LOG_BYTES", "3000")], |registry| {
        registry.register("counts", move |_: &TaskInput| {
            let (end, said) = (inside.clone(), count.clone());
            Ok(move |ctx: &mut TaskContext<'_>| {
                ctx.log(&format!("line {}", said.fetch_add(1, SeqCst) + 1))?;
                Ok(match end.is_open() {
                    true => Outcome::Done(None),
                    false => Outcome::Again(Duration::from_millis(1)),
                })
            })
        });
    });
    let alice = User::of(&server, "alice");
    let id = alice.add_type("counts");
    wait_until(|| !log(&alice, &id, "").is_empty());
    cluster.go_away();
    let before = said.load(SeqCst);
    wait_until(|| said.load(SeqCst) > before + 500);
    cluster.come_back();
    end.open();
    wait_until(|| alice.get(&format!("/jobs/{id}")).status == 200);
    alice.wait(&id, "completed");
    let shown = log_json(&alice, &id);
    let lines = shown["lines"].as_array().expect("a list");
    for line in lines {
        assert_eq!(line["text"], format!("line {}", line["n"]));
    }
    let total = said.load(SeqCst);
    assert_eq!(lines[lines.len() - 1]["n"], total);
    let kept = lines.len() as u64;
    assert!(
        kept > 50 && shown["dropped"] == total - kept,
        "{kept} of {total}"
    );
}
