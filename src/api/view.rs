//! How tasks look on the wire.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::events::TaskEvent;
use crate::task::{Millis, SessionKey, Task, TaskId, TaskStatus};

/// A task, as the contract has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskView<'a> {
    id: TaskId,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    status: TaskStatus,
    progress: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step_description: Option<&'a str>,
    created_at: Millis,
    updated_at: Millis,
    started_at: Option<Millis>,
    completed_at: Option<Millis>,
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(rename = "type")]
    kind: &'a str,
    attempt: u32,
    timeout_ms: Option<u64>,
    session_key: &'a SessionKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Links>,
}

#[derive(Serialize)]
struct Links {
    #[serde(rename = "self")]
    this: String,
    status: String,
    events: String,
    watch: String,
    history: String,
}

/// Where a task is found.
pub(super) fn path(id: TaskId) -> String {
    format!("/api/v1/tasks/{id}")
}

impl<'a> TaskView<'a> {
    /// As it stands in a list.
    pub(super) fn listed(task: &'a Task) -> TaskView<'a> {
        TaskView {
            id: task.id,
            name: &task.name,
            description: task.description.as_deref(),
            status: task.status,
            progress: task.progress,
            current_step: task.step.as_deref(),
            current_step_description: task.step_description.as_deref(),
            created_at: task.created_at,
            updated_at: task.updated_at,
            started_at: task.started_at,
            completed_at: task.completed_at,
            error: task.error.as_deref(),
            result: task.result.as_deref(),
            metadata: task.metadata.as_deref(),
            kind: &task.kind,
            attempt: task.attempt,
            timeout_ms: task.timeout_ms,
            session_key: &task.session,
            links: None,
        }
    }

    /// As it stands alone, with links.
    pub(super) fn alone(task: &'a Task) -> TaskView<'a> {
        let this = path(task.id);
        TaskView {
            links: Some(Links {
                status: format!("{this}/status"),
                events: format!("{this}/events"),
                watch: format!("{this}/watch"),
                history: format!("{this}/history"),
                this,
            }),
            ..TaskView::listed(task)
        }
    }
}

/// What a poll tells.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusView<'a> {
    success: bool,
    /// In a stream, where the address does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    status: TaskStatus,
    progress: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step_description: Option<&'a str>,
    started_at: Option<Millis>,
    completed_at: Option<Millis>,
    error: Option<&'a str>,
}

impl<'a> StatusView<'a> {
    pub(super) fn new(task: &'a Task) -> StatusView<'a> {
        StatusView {
            success: true,
            task_id: None,
            status: task.status,
            progress: task.progress,
            current_step: task.step.as_deref(),
            current_step_description: task.step_description.as_deref(),
            started_at: task.started_at,
            completed_at: task.completed_at,
            error: task.error.as_deref(),
        }
    }
}

impl<'a> StatusView<'a> {
    /// As an event left the task.
    pub(super) fn at(event: &'a TaskEvent) -> StatusView<'a> {
        let now = &event.snapshot;
        StatusView {
            success: true,
            task_id: Some(event.task),
            status: now.status,
            progress: now.progress,
            current_step: now.step.as_deref(),
            current_step_description: now.step_description.as_deref(),
            started_at: now.started_at,
            completed_at: now.completed_at,
            error: now.error.as_deref(),
        }
    }
}

/// A success that carries a task.
#[derive(Serialize)]
pub(super) struct TaskAnswer<'a> {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    task: TaskView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

impl<'a> TaskAnswer<'a> {
    pub(super) fn new(task: &'a Task, message: Option<&'a str>) -> TaskAnswer<'a> {
        TaskAnswer {
            success: true,
            message,
            task: TaskView::alone(task),
            note: None,
        }
    }

    pub(super) fn with_note(mut self, note: &'a str) -> TaskAnswer<'a> {
        self.note = Some(note);
        self
    }
}
