//! How tasks look on the wire.

use serde::Serialize;

use crate::events::TaskEvent;
use crate::http::Response;
use crate::http::json::{Object, name};
use crate::task::{Millis, Task, TaskId, TaskStatus};

/// Where a task is found.
pub(super) fn path(id: TaskId) -> String {
    let mut text = [0; 36];
    ["/api/v1/tasks/", id.hyphenated().encode_lower(&mut text)].concat()
}

/// A task as it stands in a list, as the contract has it.
pub(super) fn task(object: &mut Object<'_>, task: &Task) {
    object.plain(name!("id"), task.id.hyphenated().encode_lower(&mut [0; 36]));
    object.field(name!("name"), &*task.name);
    object.if_some(name!("description"), task.description.as_deref());
    object.plain(name!("status"), task.status.as_str());
    object.field(name!("progress"), u64::from(task.progress));
    object.if_some(name!("currentStep"), task.step.as_deref());
    object.if_some(
        name!("currentStepDescription"),
        task.step_description.as_deref(),
    );
    object.field(name!("createdAt"), task.created_at);
    object.field(name!("updatedAt"), task.updated_at);
    object.field(name!("startedAt"), task.started_at);
    object.field(name!("completedAt"), task.completed_at);
    object.field(name!("error"), task.error.as_deref());
    held(object, task);
    object.if_some(name!("result"), task.result.as_deref());
    object.if_some(name!("metadata"), task.metadata.as_deref());
    object.field(name!("type"), &*task.kind);
    object.field(name!("attempt"), u64::from(task.attempt));
    object.field(name!("timeoutMs"), task.timeout_ms);
    object.plain(name!("sessionKey"), task.session.as_str());
}

/// A success that carries a task with its links.
pub(super) fn task_answer(
    status: u16,
    message: Option<&str>,
    of: &Task,
    note: Option<&str>,
) -> Response {
    Response::object(status, |answer| {
        answer.field(name!("success"), true);
        answer.if_some(name!("message"), message);
        answer.object(name!("task"), |object| {
            task(object, of);
            object.object(name!("links"), |links| {
                let path = path(of.id);
                links.plain(name!("self"), &path);
                links.field(name!("status"), [&path, "/status"]);
                links.field(name!("events"), [&path, "/events"]);
                links.field(name!("watch"), [&path, "/watch"]);
                links.field(name!("history"), [&path, "/history"]);
            });
        });
        answer.if_some(name!("note"), note);
    })
}

/// What a poll tells.
pub(super) fn status(object: &mut Object<'_>, task: &Task) {
    object.field(name!("success"), true);
    object.plain(name!("status"), task.status.as_str());
    object.field(name!("progress"), u64::from(task.progress));
    object.if_some(name!("currentStep"), task.step.as_deref());
    object.if_some(
        name!("currentStepDescription"),
        task.step_description.as_deref(),
    );
    object.field(name!("startedAt"), task.started_at);
    object.field(name!("completedAt"), task.completed_at);
    object.field(name!("error"), task.error.as_deref());
    held(object, task);
}

/// Whether it waits for a person or is paused; nothing where it is not.
fn held(object: &mut Object<'_>, task: &Task) {
    object.if_some(name!("waiting"), task.waiting.then_some(true));
    object.if_some(name!("paused"), task.paused.then_some(true));
}

/// The same as an event of a stream left it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusView<'a> {
    success: bool,
    task_id: TaskId,
    status: TaskStatus,
    progress: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step_description: Option<&'a str>,
    started_at: Option<Millis>,
    completed_at: Option<Millis>,
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "is_not")]
    waiting: bool,
    #[serde(skip_serializing_if = "is_not")]
    paused: bool,
}

fn is_not(flag: &bool) -> bool {
    !flag
}

impl<'a> StatusView<'a> {
    pub(super) fn at(event: &'a TaskEvent) -> StatusView<'a> {
        let now = &event.snapshot;
        StatusView {
            success: true,
            task_id: event.task,
            status: now.status,
            progress: now.progress,
            current_step: now.step.as_deref(),
            current_step_description: now.step_description.as_deref(),
            started_at: now.started_at,
            completed_at: now.completed_at,
            error: now.error.as_deref(),
            waiting: now.waiting,
            paused: now.paused,
        }
    }
}
