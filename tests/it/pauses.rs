use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_task_system::{Outcome, TaskContext, TaskInput};
use serde_json::json;

use crate::support::{Gate, TestServer, pluck, wait_until};

#[test]
fn what_a_cancelled_run_still_reports_changes_nothing_even_after_a_retry() {
    let (late, second) = (Gate::default(), Gate::default());
    let refused = Arc::new(AtomicU8::new(0));
    let gates = (late.clone(), second.clone(), refused.clone());
    let server = TestServer::start_with(&[("WORKER_THREADS", "4")], move |registry| {
        registry.register_blocking("stale", move |input: &TaskInput| {
            let (late, second, refused) = gates.clone();
            let attempt = input.attempt;
            Ok(move |ctx: &mut TaskContext<'_>| {
                if attempt == 1 {
                    ctx.progress(5, "First", "")?;
                    late.block();
                    let stopped = ctx.progress(90, "Late", "").is_err_and(|e| e.is_stopped());
                    let told = stopped && ctx.is_stopped();
                    refused.store(1 + u8::from(told), Ordering::SeqCst);
                    return Ok(Outcome::done(json!("late")));
                }
                ctx.progress(10, "Second", "")?;
                second.block();
                Ok(Outcome::done(json!("second")))
            })
        });
    });
    let id = server.run("stale");
    server.wait_step(&id, "First");
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    let running = server.wait_step(&id, "Second");
    late.open();
    wait_until(|| refused.load(Ordering::SeqCst) > 0);
    assert_eq!(
        refused.load(Ordering::SeqCst),
        2,
        "the late report is refused"
    );
    server.run_to("quick", "completed");
    assert_eq!(server.task(&id), running);
    second.open();
    let task = server.wait_status(&id, "completed");
    assert_eq!(
        (&task["result"], &task["attempt"]),
        (&json!("second"), &json!(2))
    );
    let history = server.history(&id);
    assert!(
        !pluck(&history, "step").contains(&"Late".to_owned()),
        "{history:?}"
    );
    let ends = pluck(&history, "event");
    assert_eq!(ends.iter().filter(|event| *event == "completed").count(), 1);
}

#[test]
fn a_cancelled_wait_ends_at_once_and_drops_its_executor() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    let server = TestServer::start_with(&[], move |registry| {
        registry.register("sleeper", move |_: &TaskInput| {
            let counted = Counted(count.clone());
            Ok(move |ctx: &mut TaskContext<'_>| {
                let _ = &counted;
                ctx.progress(10, "Asleep", "")?;
                Ok(Outcome::Again(Duration::from_secs(3_600)))
            })
        });
    });
    let id = server.run("sleeper");
    server.wait_step(&id, "Asleep");
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    wait_until(|| dropped.load(Ordering::SeqCst) == 1);
    server.run("sleeper");
    wait_until(|| server.get("/tasks/stats").json()["stats"]["running"] == 1);
    server.stop();
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

#[test]
fn an_executor_called_off_in_its_pause_is_dropped_by_a_worker_and_frees_its_place_at_once() {
    struct Witness(Arc<Mutex<Option<String>>>);
    impl Drop for Witness {
        fn drop(&mut self) {
            let name = std::thread::current().name().map(str::to_owned);
            *self.0.lock().expect("not poisoned") = name;
        }
    }
    let dropped_on = Arc::<Mutex<Option<String>>>::default();
    let inside = dropped_on.clone();
    let variables = [("WORKER_THREADS", "1"), ("MAX_ACTIVE_TASKS", "2")];
    let server = TestServer::start_with(&variables, move |registry| {
        registry.register("sleeper", move |_: &TaskInput| {
            let witness = Witness(inside.clone());
            Ok(move |_: &mut TaskContext<'_>| {
                let _ = &witness;
                Ok(Outcome::Again(Duration::from_secs(3_600)))
            })
        });
    });
    let sleeper = server.run("sleeper");
    // It pauses once its worker, the only one, is at this.
    let blocked = server.run("blocked");
    server.wait_status(&blocked, "running");
    server.act(&format!("/tasks/{sleeper}/cancel")).expect(200);
    let next = server.run("quick");
    server.gate.open();
    server.wait_status(&next, "completed");
    let name = || dropped_on.lock().expect("not poisoned").clone();
    wait_until(|| name().is_some());
    let name = name().unwrap_or_default();
    let works = name.starts_with("worker-") || name.starts_with("spare-");
    assert!(works, "{name}");
}

#[test]
fn what_pauses_at_the_stop_is_dropped_by_workers_too() {
    struct Witness(Arc<Mutex<Vec<String>>>);
    impl Drop for Witness {
        fn drop(&mut self) {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            self.0.lock().expect("not poisoned").push(name);
            panic!("a Drop that fails");
        }
    }
    let dropped_on = Arc::<Mutex<Vec<String>>>::default();
    let inside = dropped_on.clone();
    let server = TestServer::start_with(&[], move |registry| {
        registry.register_blocking("sleeper", move |_: &TaskInput| {
            let witness = Witness(inside.clone());
            Ok(move |ctx: &mut TaskContext<'_>| {
                let _ = &witness;
                ctx.progress(10, "Asleep", "")?;
                Ok(Outcome::Again(Duration::from_secs(3_600)))
            })
        });
    });
    for _ in 0..10 {
        let id = server.run("sleeper");
        server.wait_step(&id, "Asleep");
    }
    server.stop();
    let names = dropped_on.lock().expect("not poisoned").clone();
    assert_eq!(names.len(), 10);
    assert!(
        names.iter().all(|name| name.starts_with("worker-")),
        "{names:?}"
    );
}

#[test]
fn a_pause_without_end_is_not_none() {
    let calls = Arc::new(AtomicUsize::new(0));
    let inside = calls.clone();
    let server = TestServer::start_with(&[("WORKER_THREADS", "1")], move |registry| {
        registry.register("patient", move |_: &TaskInput| {
            let calls = inside.clone();
            Ok(move |_: &mut TaskContext<'_>| {
                calls.fetch_add(1, Ordering::SeqCst);
                Ok(Outcome::Again(Duration::MAX))
            })
        });
    });
    let id = server.run("patient");
    server.wait_status(&id, "running");
    for _ in 0..2 {
        // The only worker would come back to the other task before it takes the second of these.
        server.run_to("quick", "completed");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(server.task(&id)["status"], "running");
}
