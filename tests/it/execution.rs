use std::time::Duration;

use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskError, TaskInput};
use serde_json::{Value, json};

use crate::support::{Gate, TestServer, id_of, wait_until};

/// An executor that is a plain function.
type Body = fn(&mut TaskContext<'_>) -> Result<Outcome, TaskError>;

fn panicking(registry: &mut ExecutorRegistry) {
    registry.register("panics", |_: &TaskInput| {
        Ok(|ctx: &mut TaskContext<'_>| -> Result<Outcome, TaskError> {
            ctx.progress(20, "About to", "")?;
            panic!("secret boom at /etc/shadow")
        })
    });
    registry.register("panics-at-birth", |_: &TaskInput| {
        let stillborn = || -> Result<Body, TaskError> { panic!("secret boom") };
        stillborn()
    });
    registry.register("panics-in-drop", |_: &TaskInput| {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("secret boom");
            }
        }
        let bomb = Bomb;
        Ok(move |_: &mut TaskContext<'_>| {
            let _ = &bomb;
            Ok(Outcome::Done(None))
        })
    });
    registry.register("refuses", |_: &TaskInput| {
        Err::<Body, _>(TaskError::new("no such month"))
    });
}

#[test]
fn a_panic_fails_the_task_and_keeps_its_words_to_itself() {
    let server = TestServer::start_with(&[("WORKER_THREADS", "1")], panicking);
    for kind in ["panics", "panics-at-birth"] {
        let id = server.run_to(kind, "failed");
        let error = server.task(&id)["error"].clone();
        let error = error.as_str().expect("an error");
        assert!(!error.is_empty(), "{kind}");
        for secret in ["boom", "secret", "/etc", "execution.rs"] {
            assert!(!error.contains(secret), "{kind}: {error}");
            let history = format!("{:?}", server.history(&id));
            assert!(!history.contains(secret), "{kind}: {history}");
        }
    }
    let task = server.run("panics-in-drop");
    wait_until(|| server.task(&task)["completedAt"].is_u64());
    server.run_to("quick", "completed");
}

#[test]
fn an_executor_that_cannot_be_made_fails_the_attempt_with_its_reason() {
    let server = TestServer::start_with(&[], panicking);
    let id = server.run_to("refuses", "failed");
    let task = server.task(&id);
    assert_eq!(task["error"], "no such month");
    assert!(task["startedAt"].is_u64());
}

#[test]
fn a_run_past_its_time_limit_fails() {
    let server = TestServer::start(&[]);
    for kind in ["held", "blocked"] {
        let body = json!({ "name": "n", "type": kind, "start": true, "timeoutMs": 150 });
        let id = id_of(&server.post("/tasks", body).expect(201));
        let task = server.wait_status(&id, "failed");
        assert_eq!(task["error"], "timed out after 150 ms", "{kind}");
        assert_eq!(task["progress"], 40, "keeps the progress it had reached");
        let ran = task["completedAt"].as_u64().zip(task["startedAt"].as_u64());
        let (end, start) = ran.expect("both times");
        assert!(
            (149..2_000).contains(&(end - start)),
            "{kind}: {} ms",
            end - start
        );
    }
    server.gate.open();
    let body = json!({ "name": "n", "type": "held", "start": true, "timeoutMs": 60_000 });
    let id = id_of(&server.post("/tasks", body).expect(201));
    server.wait_status(&id, "completed");
}

#[test]
fn the_time_limit_holds_for_each_attempt_anew() {
    let server = TestServer::start(&[]);
    let body = json!({ "name": "n", "type": "held", "start": true, "timeoutMs": 150 });
    let id = id_of(&server.post("/tasks", body).expect(201));
    for attempt in 1..=2 {
        wait_until(|| {
            let task = server.task(&id);
            task["attempt"] == attempt && task["status"] == "failed"
        });
        server.act(&format!("/tasks/{id}/retry")).expect(200);
    }
    server.wait_status(&id, "running");
    server.gate.open();
    assert_eq!(server.wait_status(&id, "completed")["attempt"], 3);
}

#[test]
fn waiting_for_a_worker_is_not_part_of_the_time_limit() {
    let server = TestServer::start(&[("WORKER_THREADS", "1")]);
    let first = server.run("blocked");
    server.wait_status(&first, "running");
    let body = json!({ "name": "n", "type": "quick", "start": true, "timeoutMs": 100 });
    let queued = id_of(&server.post("/tasks", body).expect(201));
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(server.task(&queued)["status"], "pending");
    server.gate.open();
    server.wait_status(&queued, "completed");
}

#[test]
fn one_worker_carries_two_hundred_paced_tasks_side_by_side() {
    let server = TestServer::start(&[("WORKER_THREADS", "1")]);
    for _ in 0..200 {
        server.run("held");
    }
    let stats = || server.get("/tasks/stats").json()["stats"].clone();
    // One after the other, no more than one would ever run.
    wait_until(|| stats()["running"] == 200);
    server.gate.open();
    wait_until(|| stats()["completed"] == 200);
}

#[test]
fn blocking_executors_never_take_the_last_worker() {
    let server = TestServer::start(&[("WORKER_THREADS", "2")]);
    let blocked: Vec<_> = (0..4).map(|_| server.run("blocked")).collect();
    server.wait_status(&blocked[0], "running");
    server.run_to("quick", "completed");
    let sample = json!({ "delayMs": 50 });
    let sample = id_of(&server.post("/demo/tasks/sample", sample).expect(201));
    server.wait_status(&sample, "completed");
    server.gate.open();
    for id in &blocked {
        server.wait_status(id, "completed");
    }
}

#[test]
fn tasks_of_other_types_block_where_the_default_type_does() {
    let gate = Gate::default();
    let inside = gate.clone();
    let server = TestServer::start_with(&[("WORKER_THREADS", "2")], |registry| {
        registry.register_blocking("sample", move |_: &TaskInput| {
            let gate = inside.clone();
            Ok(move |_: &mut TaskContext<'_>| {
                gate.block();
                Ok(Outcome::Done(None))
            })
        });
    });
    let body = json!({ "name": "n", "metadata": { "type": "unheard-of" }, "start": true });
    let tasks: Vec<_> = (0..2).map(|_| server.create(body.clone())).collect();
    server.wait_status(&tasks[0], "running");
    server.run_to("quick", "completed");
    assert_eq!(server.task(&tasks[1])["status"], "pending");
    gate.open();
    for id in &tasks {
        server.wait_status(id, "completed");
    }
}

#[test]
fn a_blocking_task_that_is_gone_does_not_keep_those_behind_it() {
    let server = TestServer::start(&[("WORKER_THREADS", "2"), ("MAX_CANCELLED_TASKS", "0")]);
    let first = server.run("blocked");
    server.wait_status(&first, "running");
    let (gone, last) = (server.run("blocked"), server.run("blocked"));
    // The free worker has put both aside before it came to this one.
    server.run_to("quick", "completed");
    server.act(&format!("/tasks/{gone}/cancel")).expect(200);
    let cleaned = server.act("/tasks/cleanup/run").expect(200).json();
    assert_eq!(cleaned["cleanedCount"], 1);
    server.gate.open();
    server.wait_status(&last, "completed");
}

#[test]
fn a_result_larger_than_the_limit_fails_the_task() {
    let variables = [("MAX_RESULT_BYTES", "100")];
    let server = TestServer::start_with(&variables, |registry| {
        registry.register("sized", |input: &TaskInput| {
            let arguments: Value = input.arguments()?;
            let length = arguments["length"].as_u64().unwrap_or_default() as usize;
            // The quotes count too.
            let text = "x".repeat(length.saturating_sub(2));
            Ok(move |_: &mut TaskContext<'_>| Ok(Outcome::done(json!(text))))
        });
    });
    let run = |length| {
        server.create(json!({
            "name": "n", "type": "sized", "start": true, "metadata": { "length": length },
        }))
    };
    let just = server.wait_status(&run(100), "completed");
    assert_eq!(just["result"].as_str().map(str::len), Some(98));
    let over = server.wait_status(&run(101), "failed");
    assert!(over.get("result").is_none(), "{over}");
    let error = over["error"].as_str().unwrap_or_default();
    assert!(error.contains("MAX_RESULT_BYTES"), "{error}");
}

/// Its result is nested as deep as its argument `depth` says.
pub(crate) fn nesting(registry: &mut ExecutorRegistry) {
    registry.register("nested", |input: &TaskInput| {
        let depth = input.arguments::<Value>()?["depth"].as_u64();
        Ok(move |_: &mut TaskContext<'_>| {
            let levels = 0..depth.unwrap_or_default();
            Ok(Outcome::done(
                levels.fold(Value::Null, |v, _| Value::Array(vec![v])),
            ))
        })
    });
}

#[test]
fn a_result_nested_deeper_than_readers_bear_fails_the_task() {
    let server = TestServer::start_with(&[], nesting);
    for (depth, status) in [(100, "completed"), (101, "failed"), (200_000, "failed")] {
        let id = server.create(json!({
            "name": "n", "type": "nested", "start": true, "metadata": { "depth": depth },
        }));
        let task = server.wait_status(&id, status);
        if status == "failed" {
            assert_eq!(task["error"], "the result is nested more than 100 deep");
        }
    }
}

#[test]
fn an_error_is_told_with_its_causes() {
    #[derive(Debug)]
    struct NoReport(std::num::ParseIntError);
    impl std::fmt::Display for NoReport {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no report")
        }
    }
    impl std::error::Error for NoReport {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let server = TestServer::start_with(&[], |registry| {
        registry.register("reports", |_: &TaskInput| {
            Ok(|_: &mut TaskContext<'_>| -> Result<Outcome, TaskError> {
                let number: i64 = "x".parse().map_err(NoReport)?;
                Ok(Outcome::done(json!(number)))
            })
        });
    });
    let id = server.run_to("reports", "failed");
    let error = &server.task(&id)["error"];
    assert_eq!(error, "no report: invalid digit found in string");
}

#[test]
fn an_executor_gets_its_tasks_metadata_and_attempt() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("echo", |input: &TaskInput| {
            let told = json!({
                "name": &*input.name, "kind": &*input.kind, "attempt": input.attempt,
                "id": input.id.to_string(), "arguments": input.arguments::<Value>()?,
            });
            Ok(move |_: &mut TaskContext<'_>| Ok(Outcome::done(told.clone())))
        });
    });
    let metadata = json!({ "a": [1, 2] });
    let body = json!({ "name": "n", "type": "echo", "metadata": metadata, "start": true });
    let id = server.create(body);
    let expected = json!({
        "name": "n", "kind": "echo", "attempt": 1, "id": id, "arguments": metadata,
    });
    assert_eq!(server.wait_status(&id, "completed")["result"], expected);
    let bare = server.wait_status(&server.run("echo"), "completed");
    assert_eq!(bare["result"]["arguments"], json!({}));
}

#[test]
fn racing_starts_cancels_and_retries_leave_counters_that_add_up() {
    let server = TestServer::start(&[("MAX_COMPLETED_TASKS", "1000")]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let body = json!({ "delayMs": 20, "speed": 10 });
                    let id = id_of(&server.post("/demo/tasks/sample", body).expect(201));
                    let cancel = server.act(&format!("/tasks/{id}/cancel"));
                    assert!(matches!(cancel.status, 200 | 409), "{cancel}");
                    let retry = server.act(&format!("/tasks/{id}/retry"));
                    assert_eq!(retry.status, cancel.status, "{retry}");
                }
            });
        }
    });
    let stats = || server.get("/tasks/stats").json()["stats"].clone();
    wait_until(|| stats()["completed"] == 200);
    let expected = json!({
        "total": 200, "pending": 0, "running": 0, "completed": 200, "failed": 0, "cancelled": 0,
    });
    assert_eq!(stats(), expected);
}

#[test]
fn executors_that_never_return_do_not_stop_the_others() {
    let gate = Gate::default();
    let inside = gate.clone();
    let server = TestServer::start_with(&[("WORKER_THREADS", "2")], |registry| {
        // Registered as one that shares its worker, which it does not.
        registry.register("stuck", move |_: &TaskInput| {
            let gate = inside.clone();
            Ok(move |_: &mut TaskContext<'_>| {
                gate.block();
                Ok(Outcome::Done(None))
            })
        });
    });
    let stuck: Vec<_> = (0..3).map(|_| server.run("stuck")).collect();
    let quick = server.run("quick");
    server.wait_status(&quick, "completed");
    // Also when the spare workers have been held in their turn.
    let paced = json!({ "delayMs": 100 });
    let paced = id_of(&server.post("/demo/tasks/sample", paced).expect(201));
    server.wait_status(&paced, "completed");
    server
        .act(&format!("/tasks/{}/cancel", stuck[0]))
        .expect(200);
    gate.open();
    for id in &stuck[1..] {
        server.wait_status(id, "completed");
    }
    assert_eq!(server.task(&stuck[0])["status"], "cancelled");
}

#[test]
fn a_million_reports_leave_a_history_of_bounded_size() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("chatty", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                for i in 0..1_000_000_u32 {
                    ctx.progress((i / 10_000) as u8, &format!("Step {i}"), "")?;
                }
                Ok(Outcome::Done(None))
            })
        });
    });
    let id = server.run("chatty");
    server.wait_status(&id, "completed");
    let history = server.history(&id);
    // A thousand steps and transitions; a hundred percents are never left out.
    assert!(history.len() <= 1_101, "{}", history.len());
    let percents: Vec<u64> = history
        .iter()
        .filter_map(|e| e["progress"].as_u64())
        .collect();
    for percent in 0..100 {
        assert!(percents.contains(&percent), "{percent}");
    }
}

#[test]
fn a_thread_that_waits_learns_of_the_cancel() {
    let heard = Gate::default();
    let inside = heard.clone();
    let server = TestServer::start_with(&[("WORKER_THREADS", "2")], |registry| {
        registry.register_blocking("waits", move |_: &TaskInput| {
            let heard = inside.clone();
            Ok(move |ctx: &mut TaskContext<'_>| {
                let stop = ctx.stop_handle();
                let heard = heard.clone();
                let waiter = std::thread::spawn(move || {
                    assert!(!stop.wait(Duration::from_millis(20)), "it runs");
                    if stop.clone().wait(Duration::from_secs(60)) {
                        heard.open();
                    }
                });
                waiter
                    .join()
                    .map_err(|_| TaskError::new("it ran no more"))?;
                Ok(Outcome::Done(None))
            })
        });
    });
    let id = server.run("waits");
    server.wait_status(&id, "running");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!heard.is_open());
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    wait_until(|| heard.is_open());
}
