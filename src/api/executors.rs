//! `/executors`: the types that tasks and jobs can have here.

use serde::Serialize;
use serde_json::Value;

use super::call::Api;
use crate::executor::Source;
use crate::http::router::Answer;
use crate::http::{Request, Response};
use crate::task::Millis;

#[derive(Serialize)]
struct Executors<'a> {
    success: bool,
    executors: Vec<ExecutorView<'a>>,
}

#[derive(Serialize)]
struct ExecutorView<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<usize>,
    /// Attempts of tasks and jobs that run now in this process.
    running: usize,
    /// Of a remote type.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<Vec<WorkerView>>,
}

/// A worker that has asked for a type by name.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkerView {
    name: String,
    last_call_at: Millis,
}

pub(super) fn list(api: &Api, _: &Request<'_>, _: &str) -> Answer {
    let execution = api.system.execution();
    let registry = execution.registry();
    let listed = registry.listed().into_iter();
    let executors = listed.map(|(kind, one)| ExecutorView {
        kind,
        source: one.source,
        description: one.description.as_deref(),
        example: one.example.as_ref(),
        concurrency: one.concurrency,
        running: execution.pool().running(kind),
        workers: one.remote.map(|_| workers(api, kind)),
    });
    let executors = executors.collect();
    let success = true;
    Ok(Response::json(200, &Executors { success, executors }))
}

fn workers(api: &Api, kind: &str) -> Vec<WorkerView> {
    let seen = api.system.execution().pool().remote().workers(kind);
    let view = |(name, last_call_at)| WorkerView { name, last_call_at };
    seen.into_iter().map(view).collect()
}
