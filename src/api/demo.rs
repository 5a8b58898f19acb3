//! `/demo/tasks`: each checks its body, and submits a task whose metadata is the executor's
//! arguments. A job of the same type is checked the same way.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::tasks::{description, name};
use super::view::{path, task_answer};
use super::watch;
use crate::demo::recording::Recording;
use crate::demo::{self, MAX_DELAY_MS, MAX_ITEMS, REPLAY, SPEEDS};
use crate::executor::{ExecutorRegistry, TaskInput};
use crate::http::Response;
use crate::http::fields::Fields;
use crate::http::router::Answer;
use crate::store::NewTask;
use crate::task::Task;

const NOTE: &str = "Task is running in the background. Use the task ID to check progress.";

/// The longest path, address or name of a step.
const MAX_TEXT: usize = 1_000;

/// Reads a demo's own fields into the metadata; gives the task's name where the presenter chose one.
type Read = fn(&mut Fields<'_>, &mut Map<String, Value>) -> Option<String>;

/// A demo's route, its type, its tasks' name, what its answer says, and its own fields.
pub(super) struct Demo {
    pub(super) route: &'static str,
    name: &'static str,
    pub(super) kind: &'static str,
    message: &'static str,
    read: Read,
}

static SAMPLE: Demo = Demo {
    route: "sample",
    name: "Sample Long-Running Task",
    kind: "sample",
    message: "Sample task created and started",
    read: |fields, metadata| {
        let delay = fields.whole("delayMs", 0..=MAX_DELAY_MS).unwrap_or(5_000);
        metadata.insert("delayMs".to_owned(), json!(delay));
        None
    },
};

static FILE_PROCESSING: Demo = Demo {
    route: "file-processing",
    name: "File Processing Task",
    kind: "file-processing",
    message: "File processing task created and started",
    read: |fields, metadata| {
        let file_path = fields.required_text("filePath", MAX_TEXT);
        metadata.insert("filePath".to_owned(), json!(file_path));
        let size = fields.number("fileSize", 0.0..=1e15).map(demo::plain);
        keep(metadata, "fileSize", size);
        let processing = fields.text("processingType", 200);
        keep(metadata, "processingType", processing);
        None
    },
};

static API_CALL: Demo = Demo {
    route: "api-call",
    name: "API Call Task",
    kind: "api-call",
    message: "API call task created and started",
    read: |fields, metadata| {
        let endpoint = fields.required_text("endpoint", MAX_TEXT);
        metadata.insert("endpoint".to_owned(), json!(endpoint));
        keep(metadata, "method", fields.text("method", 20));
        let data = fields.any("data");
        keep_json(fields, metadata, "data", data);
        let headers = fields.object("headers");
        keep_json(fields, metadata, "headers", headers);
        None
    },
};

static BATCH: Demo = Demo {
    route: "batch",
    name: "Batch Processing Task",
    kind: "batch-processing",
    message: "Batch processing task created and started",
    read: |fields, metadata| {
        let count = fields.array("items").map_or(0, |items| items.len());
        if count == 0 {
            fields.fault("items", "items array is required and must not be empty");
        } else if count > MAX_ITEMS {
            let message = format!("items must have at most {MAX_ITEMS} entries");
            fields.fault("items", message);
        }
        metadata.insert("itemCount".to_owned(), json!(count));
        let delay = fields.whole("itemDelayMs", 0..=MAX_DELAY_MS).unwrap_or(100);
        metadata.insert("itemDelayMs".to_owned(), json!(delay));
        None
    },
};

static WORKFLOW: Demo = Demo {
    route: "workflow",
    name: "",
    kind: "workflow",
    message: "Workflow task created and started",
    read: |fields, metadata| {
        let name = name(fields);
        let given = fields.array("steps").unwrap_or_default();
        if !(1..=100).contains(&given.len()) {
            fields.fault("steps", "steps must be an array of 1 to 100 steps");
        }
        let mut steps = Vec::new();
        let mut reached = 0;
        for (i, value) in given.into_iter().enumerate().take(100) {
            if let Some(mut step) = fields.element(&format!("steps[{i}]"), value) {
                steps.push(workflow_step(&mut step, &mut reached));
                fields.adopt(step);
            }
        }
        metadata.insert("steps".to_owned(), Value::Array(steps));
        Some(name)
    },
};

pub(super) static REPLAYED: Demo = Demo {
    route: "replay",
    name: "Replay",
    kind: REPLAY,
    message: "Replay created and started",
    read: |fields, metadata| {
        let Some(recording) = fields.object("recording") else {
            fields.fault("recording", "recording is required");
            return None;
        };
        match Recording::parse(recording.get()) {
            Err(error) => fields.fault("recording", format!("recording: {error}")),
            Ok(read) => {
                keep(metadata, "recording", Some(&read));
                return Some(read.name).filter(|name| !name.trim().is_empty());
            }
        }
        None
    },
};

pub(super) static DEMOS: [&Demo; 6] = [
    &SAMPLE,
    &FILE_PROCESSING,
    &API_CALL,
    &BATCH,
    &WORKFLOW,
    &REPLAYED,
];

/// Registers the demo types that `registry` does not have; their jobs' arguments are checked as
/// the demo routes' bodies are.
pub(crate) fn register(registry: &mut ExecutorRegistry) {
    for kind in demo::register(registry) {
        let demo = DEMOS.into_iter().find(|demo| demo.kind == kind);
        if let Some((demo, registration)) = demo.zip(registry.get_mut(kind)) {
            let check = |input: &TaskInput| {
                let mut fields = Fields::of(input.arguments.as_deref())?;
                demo.read(&mut fields, 1.0);
                let arguments = input.arguments.as_deref().map_or("", |json| json.get());
                if waits(arguments) {
                    let message =
                        "a step of a job cannot wait for a person: only tasks can be advanced";
                    fields.fault("steps", message);
                }
                fields.check()
            };
            registration.check(check).only_jobs();
        }
    }
}

/// Whether a step of these arguments waits for a person.
fn waits(arguments: &str) -> bool {
    #[derive(Deserialize)]
    struct Steps {
        steps: Vec<Step>,
    }
    #[derive(Deserialize)]
    struct Step {
        wait: Option<bool>,
    }
    let read: Result<Steps, _> = serde_json::from_str(arguments);
    read.is_ok_and(|read| read.steps.iter().any(|step| step.wait == Some(true)))
}

pub(super) fn sample(call: &Call<'_>) -> Answer {
    submit(call, &SAMPLE)
}

pub(super) fn file_processing(call: &Call<'_>) -> Answer {
    submit(call, &FILE_PROCESSING)
}

pub(super) fn api_call(call: &Call<'_>) -> Answer {
    submit(call, &API_CALL)
}

pub(super) fn batch(call: &Call<'_>) -> Answer {
    submit(call, &BATCH)
}

pub(super) fn workflow(call: &Call<'_>) -> Answer {
    submit(call, &WORKFLOW)
}

fn workflow_step(fields: &mut Fields<'_>, reached: &mut u64) -> Value {
    let mut step = Map::new();
    step.insert("name".to_owned(), json!(fields.required_text("name", 200)));
    keep(&mut step, "description", description(fields));
    let wait = fields.flag("wait");
    keep(&mut step, "wait", wait);
    let faults = fields.faults();
    let duration = fields.whole("durationMs", 0..=MAX_DELAY_MS);
    if duration.is_none() && wait != Some(true) && fields.faults() == faults {
        fields.fault("durationMs", "durationMs is required");
    }
    keep(&mut step, "durationMs", duration);
    let progress = fields.whole("progress", 0..=100);
    if progress.is_some_and(|progress| progress < *reached) {
        let message = "progress must not be less than that of a step before";
        fields.fault("progress", message);
    }
    *reached = progress.unwrap_or(*reached).max(*reached);
    keep(&mut step, "progress", progress);
    Value::Object(step)
}

impl Demo {
    /// Reads its own fields and those that all demos take, into the task that they ask for, `faster` times as fast.
    pub(super) fn read(&self, fields: &mut Fields<'_>, faster: f64) -> NewTask {
        let mut metadata = Map::new();
        metadata.insert("type".to_owned(), json!(self.kind));
        let own_name = (self.read)(fields, &mut metadata);
        let description = description(fields);
        let speed = fields.number("speed", SPEEDS);
        let speed = match faster {
            1.0 => speed,
            _ => Some((speed.unwrap_or(1.0) * faster).clamp(*SPEEDS.start(), *SPEEDS.end())),
        };
        keep(&mut metadata, "speed", speed.map(demo::plain));
        keep(&mut metadata, "failAt", fields.whole("failAt", 0..=100));
        let attempts = fields.whole("failAttempts", 1..=1_000);
        keep(&mut metadata, "failAttempts", attempts);
        let new = NewTask::new(own_name.as_deref().unwrap_or(self.name))
            .kind(self.kind)
            .metadata(&Value::Object(metadata));
        match description {
            Some(description) => new.description(&description),
            None => new,
        }
    }
}

fn submit(call: &Call<'_>, demo: &Demo) -> Answer {
    watch::create(call, |_| {
        let mut fields = call.fields()?;
        let new = demo.read(&mut fields, 1.0);
        fields.finish()?;
        let task = call
            .api
            .system
            .execution()
            .submit_checked(&call.session, new)?;
        Ok(created(demo, &task))
    })
}

/// The answer to who has created a demo's task.
pub(super) fn created(demo: &Demo, task: &Task) -> Response {
    let answer = task_answer(201, Some(demo.message), task, Some(NOTE));
    answer.with("Location", path(task.id))
}

fn keep(metadata: &mut Map<String, Value>, name: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value {
        metadata.insert(name.to_owned(), json!(value));
    }
}

fn keep_json(
    fields: &mut Fields<'_>,
    metadata: &mut Map<String, Value>,
    name: &str,
    value: Option<&RawValue>,
) {
    match value.map(|value| serde_json::from_str::<Value>(value.get())) {
        None => {}
        Some(Ok(value)) => drop(metadata.insert(name.to_owned(), value)),
        Some(Err(error)) => fields.fault(name, format!("{name} cannot be kept: {error}")),
    }
}
