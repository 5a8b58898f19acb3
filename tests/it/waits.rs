use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_task_system::{ExecutorRegistry, Outcome, Registration, TaskContext, TaskInput, Waker};
use serde_json::json;

use crate::support::{TestServer, wait_until};

const HOUR: Duration = Duration::from_secs(3_600);

/// The wakers of the executors that wait, in the order in which they began, and how often one was called.
#[derive(Clone, Default)]
struct Waits {
    wakers: Arc<Mutex<Vec<Waker>>>,
    calls: Arc<AtomicUsize>,
}

impl Waits {
    /// Registers `waits`: it is done when it is called for the second time.
    fn register<'a>(&self, registry: &'a mut ExecutorRegistry) -> &'a mut Registration {
        let waits = self.clone();
        registry.register("waits", move |input: &TaskInput| {
            let (waits, attempt, mut slices) = (waits.clone(), input.attempt, 0);
            Ok(move |ctx: &mut TaskContext<'_>| {
                slices += 1;
                waits.calls.fetch_add(1, SeqCst);
                if slices == 2 {
                    return Ok(Outcome::done(json!(attempt)));
                }
                waits.wakers.lock().expect("not poisoned").push(ctx.waker());
                Ok(Outcome::Wait(HOUR))
            })
        })
    }

    fn wait_for(&self, count: usize) -> Vec<Waker> {
        wait_until(|| self.wakers.lock().expect("not poisoned").len() == count);
        self.wakers.lock().expect("not poisoned").clone()
    }
}

fn start(waits: &Waits, variables: &[(&str, &str)]) -> TestServer {
    let waits = waits.clone();
    TestServer::start_with(variables, move |registry| {
        waits.register(registry);
    })
}

#[test]
fn waits_hold_no_worker_and_each_ends_with_its_own_wake() {
    let waits = Waits::default();
    let server = start(&waits, &[("WORKER_THREADS", "1")]);
    let ids: Vec<String> = (0..50).map(|_| server.run("waits")).collect();
    let wakers = waits.wait_for(50);
    server.run_to("quick", "completed");
    for (id, waker) in ids.iter().zip(wakers) {
        assert_eq!(server.task(id)["status"], "running");
        waker.wake();
        waker.wake();
        server.wait_status(id, "completed");
    }
    assert_eq!(waits.calls.load(SeqCst), 100);
}

#[test]
fn a_pause_after_a_wake_counts_from_the_wake() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("pauses", |_: &TaskInput| {
            let mut slices = 0;
            Ok(move |ctx: &mut TaskContext<'_>| {
                slices += 1;
                ctx.waker().wake();
                Ok(match slices {
                    1 => Outcome::Wait(HOUR),
                    2 => Outcome::Again(Duration::from_millis(1)),
                    _ => Outcome::Done(None),
                })
            })
        });
    });
    server.run_to("pauses", "completed");
}

#[test]
fn a_wake_before_the_wait_is_not_lost() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("early", |_: &TaskInput| {
            let mut slices = 0;
            Ok(move |ctx: &mut TaskContext<'_>| {
                slices += 1;
                if slices == 100 {
                    return Ok(Outcome::Done(None));
                }
                ctx.waker().wake();
                Ok(Outcome::Wait(HOUR))
            })
        });
    });
    server.run_to("early", "completed");
}

#[test]
fn wakes_that_race_with_waits_are_never_lost() {
    // Each call takes one token and has another thread bring the next one: a lost wake would wait for an hour.
    let server = TestServer::start_with(&[("WORKER_THREADS", "4")], |registry| {
        registry.register("tokens", |_: &TaskInput| {
            let (brought, mut taken) = (Arc::new(AtomicUsize::new(1)), 0);
            let (order, orders) = std::sync::mpsc::channel::<Waker>();
            let carrier = brought.clone();
            std::thread::spawn(move || {
                for waker in orders {
                    carrier.fetch_add(1, SeqCst);
                    waker.wake();
                }
            });
            Ok(move |ctx: &mut TaskContext<'_>| {
                while taken < brought.load(SeqCst) {
                    taken += 1;
                    let _ = order.send(ctx.waker());
                }
                Ok(match taken < 2_000 {
                    true => Outcome::Wait(HOUR),
                    false => Outcome::Done(None),
                })
            })
        });
    });
    let ids: Vec<String> = (0..8).map(|_| server.run("tokens")).collect();
    for id in ids {
        server.wait_status(&id, "completed");
    }
}

#[test]
fn a_wait_ends_by_itself_when_nobody_wakes_it() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("short", |_: &TaskInput| {
            let mut slices = 0;
            Ok(move |ctx: &mut TaskContext<'_>| {
                let _kept = ctx.waker();
                slices += 1;
                Ok(match slices {
                    3 => Outcome::Done(None),
                    _ => Outcome::Wait(Duration::from_millis(10)),
                })
            })
        });
    });
    server.run_to("short", "completed");
}

#[test]
fn a_wake_of_an_older_attempt_does_nothing() {
    let waits = Waits::default();
    let server = start(&waits, &[]);
    let id = server.run("waits");
    let old = waits.wait_for(1).remove(0);
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    let new = waits.wait_for(2).remove(1);
    old.wake();
    server.run_to("quick", "completed");
    assert_eq!(waits.calls.load(SeqCst), 2, "the new attempt still waits");
    new.wake();
    assert_eq!(server.wait_status(&id, "completed")["result"], 2);
    old.wake();
    new.wake();
    server.run_to("quick", "completed");
    assert_eq!(waits.calls.load(SeqCst), 3);
}

#[test]
fn a_time_limit_ends_a_wait() {
    let waits = Waits::default();
    let server = start(&waits, &[]);
    let body = json!({ "name": "Late", "type": "waits", "timeoutMs": 50, "start": true });
    let id = server.create(body);
    let task = server.wait_status(&id, "failed");
    assert_eq!(task["error"], "timed out after 50 ms");
    waits.wait_for(1).remove(0).wake();
    server.run_to("quick", "completed");
    assert_eq!(waits.calls.load(SeqCst), 1);
}

#[test]
fn a_type_with_a_limit_leaves_the_others_pending_and_hands_its_place_on() {
    let waits = Waits::default();
    let inside = waits.clone();
    let variables = [("WORKER_THREADS", "1"), ("MAX_ACTIVE_TASKS", "5")];
    let server = TestServer::start_with(&variables, move |registry| {
        inside.register(registry).concurrency(2);
    });
    let ids: Vec<String> = (0..4).map(|_| server.run("waits")).collect();
    let wakers = waits.wait_for(2);
    server.run_to("quick", "completed");
    assert_eq!(server.task(&ids[2])["status"], "pending");
    // A cancelled one waits no more, and its place in the queue is free at once.
    server.act(&format!("/tasks/{}/cancel", ids[2])).expect(200);
    let last = server.run("waits");
    wakers[0].wake();
    server.wait_status(&ids[0], "completed");
    let wakers = waits.wait_for(3);
    server.wait_status(&ids[3], "running");
    assert_eq!(server.task(&last)["status"], "pending");
    server.act(&format!("/tasks/{}/cancel", ids[3])).expect(200);
    waits.wait_for(4);
    wakers[1].wake();
    server.wait_status(&ids[1], "completed");
    assert_eq!(server.task(&last)["status"], "running");
}
