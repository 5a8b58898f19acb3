//! `/tasks/:id/advance`, `/pause`, `/resume` and `/fail`: a running task in a person's hands.

use super::call::Call;
use super::view::task_answer;
use crate::executor::{Registration, Source};
use crate::http::Problem;
use crate::http::router::Answer;
use crate::store::{Hold, StoreError};
use crate::task::{TaskId, TaskStatus, TransitionError};

const MAX_NOTE: usize = 2_000;

pub(super) fn advance(call: &Call<'_>) -> Answer {
    hold(
        call,
        call.id()?,
        Hold::Advance,
        "Task advanced successfully",
    )
}

pub(super) fn pause(call: &Call<'_>) -> Answer {
    let id = call.id()?;
    let is_sliced =
        |one: &Registration| !one.blocking && one.remote.is_none() && one.source != Source::Command;
    if !is_of_type(call, id, is_sliced)? {
        let message = "Only a task whose executor works in slices can be paused: this type has none to hold it between";
        return Err(Problem::new(409, "task_not_pausable", message));
    }
    hold(call, id, Hold::Pause, "Task paused successfully")
}

pub(super) fn resume(call: &Call<'_>) -> Answer {
    hold(call, call.id()?, Hold::Resume, "Task resumed successfully")
}

fn hold(call: &Call<'_>, id: TaskId, hold: Hold, message: &str) -> Answer {
    let mut fields = call.fields()?;
    let note = fields.text("note", MAX_NOTE).unwrap_or_default();
    fields.finish()?;
    let execution = call.api.system.execution();
    let task = execution.hold(&call.session, id, &note, hold)?;
    Ok(task_answer(200, Some(message), &task, None))
}

pub(super) fn fail(call: &Call<'_>) -> Answer {
    let mut fields = call.fields()?;
    let error = fields
        .text("error", MAX_NOTE)
        .filter(|text| !text.trim().is_empty());
    fields.finish()?;
    let id = call.id()?;
    if !is_of_type(call, id, |one| one.source == Source::Demo)? {
        let message = "Only a task of a demo type can be failed by hand";
        return Err(Problem::new(409, "not_a_demo", message));
    }
    let error = error.unwrap_or_else(|| "failed by hand".to_owned());
    let task = call
        .api
        .system
        .execution()
        .fail(&call.session, id, &error)?;
    Ok(task_answer(200, Some("Task failed as asked"), &task, None))
}

/// Whether a running task's type is such a one. A task that does not run is refused.
fn is_of_type(
    call: &Call<'_>,
    id: TaskId,
    is_such: impl FnOnce(&Registration) -> bool,
) -> Result<bool, Problem> {
    let seen = |task: &crate::task::Task| (task.status, task.kind.clone());
    let (status, kind) = call.api.tasks.inspect(&call.session, id, seen)?;
    if status != TaskStatus::Running {
        return Err(StoreError::TransitionError(TransitionError::NotRunning(status)).into());
    }
    let registration = call.api.system.execution().pool().own_registration(&kind);
    Ok(registration.is_some_and(|one| is_such(&one)))
}
