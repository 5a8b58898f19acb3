//! Arguments that are read into a type are checked when their task is created.

use async_task_system::{ExecutorRegistry, FieldError, Outcome, TaskContext, TaskError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{TestServer, id_of};

#[derive(Deserialize)]
struct Checksum {
    rounds: u64,
    #[serde(default)]
    parts: Vec<Part>,
    #[serde(skip)]
    slices: u64,
}

#[derive(Deserialize)]
struct Part {
    size: u64,
}

impl Checksum {
    /// A round a slice.
    fn run(&mut self, _: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        if self.slices < self.rounds {
            self.slices += 1;
            return Ok(Outcome::Again(std::time::Duration::ZERO));
        }
        let sizes: u64 = self.parts.iter().map(|part| part.size).sum();
        Ok(Outcome::done(json!([self.slices, sizes])))
    }
}

fn register(registry: &mut ExecutorRegistry) {
    registry.typed("checksum", Checksum::run).check(|input| {
        match input.arguments::<Checksum>()?.rounds {
            0 => Err(vec![FieldError::new("rounds", "rounds must not be 0")]),
            _ => Ok(()),
        }
    });
    registry.typed_blocking("blocking", Checksum::run);
}

fn errors(server: &TestServer, body: Value) -> Vec<(String, String)> {
    let answer = server.post("/tasks", body).expect(400).json();
    assert_eq!(answer["code"], "invalid_request");
    let text = |error: &Value, name| error[name].as_str().expect("a text").to_owned();
    let errors = answer["errors"].as_array().expect("errors").iter();
    errors
        .map(|error| (text(error, "field"), text(error, "message")))
        .collect()
}

#[test]
fn arguments_that_do_not_fit_are_refused_with_their_field() {
    let server = TestServer::start_with(&[], register);
    let task = |metadata| json!({ "name": "n", "type": "checksum", "metadata": metadata });
    for (metadata, field, message) in [
        (json!(null), "metadata.rounds", "rounds is required"),
        (
            json!({ "rounds": "3" }),
            "metadata.rounds",
            "rounds: invalid type: string \"3\", expected u64",
        ),
        (
            json!({ "rounds": 3, "parts": [{ "size": 1 }, { "size": -1 }] }),
            "metadata.parts[1].size",
            "parts[1].size: invalid value: integer `-1`, expected u64",
        ),
        (
            json!({ "rounds": 0 }),
            "metadata.rounds",
            "rounds must not be 0",
        ),
    ] {
        let want = [(field.to_owned(), message.to_owned())];
        assert_eq!(errors(&server, task(metadata.clone())), want);
        // Also where the type is named in the metadata alone.
        if let Value::Object(mut metadata) = metadata {
            metadata.insert("type".to_owned(), json!("checksum"));
            let body = json!({ "name": "n", "metadata": metadata, "start": true });
            assert_eq!(errors(&server, body), want);
        }
    }
    assert_eq!(server.get("/tasks/stats").json()["stats"]["total"], 0);
}

#[test]
fn every_bad_field_is_named_at_once() {
    let server = TestServer::start_with(&[], register);
    let body = json!({ "type": "checksum", "metadata": {}, "timeoutMs": 0 });
    let fields: Vec<_> = errors(&server, body).into_iter().map(|(f, _)| f).collect();
    assert_eq!(fields, ["name", "metadata.rounds", "timeoutMs"]);
}

#[test]
fn a_value_lasts_for_an_attempt() {
    let server = TestServer::start_with(&[], register);
    for kind in ["checksum", "blocking"] {
        let metadata = json!({ "rounds": 3, "parts": [{ "size": 2 }, { "size": 5 }] });
        let body = json!({ "name": "n", "type": kind, "metadata": metadata, "start": true });
        let id = id_of(&server.post("/tasks", body).expect(201));
        assert_eq!(
            server.wait_status(&id, "completed")["result"],
            json!([3, 7])
        );
    }
}

#[test]
fn a_demo_takes_any_metadata() {
    let server = TestServer::start(&[]);
    for kind in ["sample", "workflow", "file-processing"] {
        let metadata = json!({ "steps": "none", "mine": true });
        let body = json!({ "name": "n", "type": kind, "metadata": metadata });
        server.post("/tasks", body).expect(201);
    }
}
