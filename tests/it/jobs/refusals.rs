//! What the database refuses for good, unlike an outage, is no reason to try again, and none for others to wait.

use std::time::Duration;

use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskInput};
use serde_json::{Value, json};

use super::{Db, User, once};
use crate::support::{pluck, wait_until};

on_both! {
    an_addition_that_the_database_refuses_is_told_apart_from_an_outage
    a_report_or_an_end_that_the_database_refuses_holds_up_no_other
}

/// From now on the database takes no row with this text in that column.
fn refuse(db: &Db, column: &str, event: &str) {
    let is_bad = format!("coalesce(NEW.{column}, '') LIKE '%poison%'");
    db.execute(&match db.is_sqlite() {
        true => format!(
            "CREATE TRIGGER no_{column} BEFORE {event} ON jobs WHEN {is_bad} \
             BEGIN SELECT RAISE(ABORT, 'no such {column} here'); END"
        ),
        false => format!(
            "CREATE FUNCTION no_{column}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               IF {is_bad} THEN RAISE EXCEPTION 'no such {column} here'; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER no_{column} BEFORE {event} ON jobs FOR EACH ROW EXECUTE FUNCTION no_{column}()"
        ),
    });
}

fn an_addition_that_the_database_refuses_is_told_apart_from_an_outage(db: &Db) {
    let server = db.start(&[]);
    let alice = User::of(&server.client, "alice");
    refuse(db, "unique_key", "INSERT");
    let job = |key: &str| {
        let mut job = once(0.0);
        job["uniqueKey"] = json!(key);
        job
    };
    let refused = alice.post("/jobs", job("poison")).expect(500).json();
    assert_eq!(refused["code"], "database_refused", "{refused}");
    wait_until(|| server.has("no such unique_key here"));
    alice.add(job("honey"));
    assert_eq!(alice.settle(), (1, 0));
    server.client.get("/health").expect(200);
}

/// Reports its word as a step, pauses for so long that the report is written, and ends with its word.
fn saying(registry: &mut ExecutorRegistry) {
    registry.register("saying", |input: &TaskInput| {
        let word = input.arguments::<Value>()?["word"].clone();
        let mut has_said = false;
        Ok(move |context: &mut TaskContext<'_>| {
            if std::mem::replace(&mut has_said, true) {
                return Ok(Outcome::done(word.clone()));
            }
            context.progress(50, word.as_str().unwrap_or_default(), "")?;
            Ok(Outcome::Again(Duration::from_millis(1_500)))
        })
    });
}

fn a_report_or_an_end_that_the_database_refuses_holds_up_no_other(db: &Db) {
    let server = db.serve_with(&[], saying);
    let alice = User::of(&server, "alice");
    refuse(db, "result", "UPDATE");
    refuse(db, "step", "UPDATE");
    let job =
        |word: &str| json!({ "type": "saying", "arguments": { "word": word }, "maxAttempts": 1 });
    let mut jobs = vec![job("honey"); 40];
    jobs[20] = job("poison");
    let added = alice.post("/jobs/bulk", json!({ "jobs": jobs }));
    let mut ids = pluck(
        added.expect(201).json()["jobs"].as_array().expect("a list"),
        "id",
    );
    assert_eq!(alice.settle(), (39, 1));
    let failed = alice.job(&ids.remove(20));
    let message = failed["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("the database refuses") && message.contains("no such"),
        "{message}"
    );
    for id in ids {
        let history = alice.get(&format!("/jobs/{id}/history")).expect(200).json();
        assert!(history.to_string().contains("honey"), "{history}");
    }
}
