use std::time::Duration;

use async_task_system::{Outcome, TaskContext, TaskInput};
use serde_json::json;

use super::{Db, User, once};
use crate::support::{Gate, TestServer, wait_until};

#[test]
fn each_run_leaves_one_line_at_info_or_a_warning() {
    let db = Db::sqlite();
    let process = db.start(&[]);
    let alice = User::of(&process.client, "alice");
    let good = alice.add(once(0.0));
    let bad = alice.add(json!({
        "type": "sample", "arguments": { "delayMs": 0, "failAt": 60 }, "maxAttempts": 1,
    }));
    assert_eq!(alice.settle(), (1, 1));
    let line = format!("Completed execution of job {good} (dummy), attempt 1 of 1");
    assert_eq!(process.level_of(&line), "INFO");
    let line =
        format!("Failed execution of job {bad} (sample), attempt 1 of 1: simulated failure at 60%");
    assert_eq!(process.level_of(&line), "WARN");
}

#[test]
fn a_thread_that_waits_for_a_job_learns_of_its_cancel() {
    let db = Db::sqlite();
    let heard = Gate::default();
    let inside = heard.clone();
    let server = TestServer::start_with(&db.variables(&[]), |registry| {
        registry.register_blocking("waits", move |_: &TaskInput| {
            let heard = inside.clone();
            Ok(move |ctx: &mut TaskContext<'_>| {
                let stop = ctx.stop_handle();
                if stop.wait(Duration::from_secs(60)) {
                    heard.open();
                }
                Ok(Outcome::Done(None))
            })
        });
    });
    let alice = User::of(&server, "alice");
    let job = alice.add_type("waits");
    alice.wait(&job, "processing");
    assert!(!heard.is_open());
    alice.act(&format!("/jobs/{job}/cancel")).expect(200);
    wait_until(|| heard.is_open());
}
