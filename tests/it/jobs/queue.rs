use async_task_system::{Outcome, TaskContext, TaskInput};
use serde_json::json;

use super::{Db, User};

on_both! {
    an_executor_of_the_embedding_program_runs_as_a_job
}

fn an_executor_of_the_embedding_program_runs_as_a_job(db: &Db) {
    let server = db.serve_with(&[], |registry| {
        registry.register("own", |_: &TaskInput| {
            Ok(|_: &mut TaskContext<'_>| Ok(Outcome::done(json!({ "own": 1 }))))
        });
    });
    let alice = User::of(&server, "alice");
    let job = alice.add_type("own");
    assert_eq!(alice.wait(&job, "completed")["result"], json!({ "own": 1 }));
}
