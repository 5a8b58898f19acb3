//! A task's progress drawn in a terminal: `/tasks/:id/watch`, and `?watch=1` where a task is created.

use super::call::{Api, Call};
use crate::http::Response;
use crate::http::router::Answer;
use crate::http::streaming::permit;
use crate::semaphore::Permit;
use crate::store::StoreError;
use crate::streams;
use crate::task::{SessionKey, TaskId};
use crate::terminal::Screen;

pub(super) fn watch(call: &Call<'_>) -> Answer {
    let id = call.id()?;
    call.api.tasks.inspect(&call.session, id, |_| ())?;
    let screen = Screen::parse_with_log(call.request)?;
    let permit = permit(&call.api.streams)?;
    Ok(view(call.api, &call.session, id, screen, permit)?)
}

/// Draws a task until it has ended.
pub(super) fn view(
    api: &Api,
    session: &SessionKey,
    id: TaskId,
    screen: Screen,
    permit: Permit,
) -> Result<Response, StoreError> {
    let name = api.tasks.inspect(session, id, |task| task.name.clone())?;
    let mut watch = api.tasks.watch(session, id, None)?;
    if screen.log {
        watch = watch.with_log(0);
    }
    Ok(streams::terminal(permit, &name, screen, watch))
}

/// Runs a handler that creates a task, once for each idempotency key; it is told whether the task is watched. If it is,
/// the answer is the task's view.
pub(super) fn create(call: &Call<'_>, create: impl FnOnce(bool) -> Answer) -> Answer {
    let Some(screen) = Screen::wanted(call.request)? else {
        return call.once(|| create(false));
    };
    let permit = permit(&call.api.streams)?;
    let answer = call.once(|| create(true))?;
    let view = |id| view(call.api, &call.session, id, screen, permit).ok();
    // The task of a repeated request may have been cleaned up: then its first answer is all there is.
    Ok(match answer.created_id().and_then(view) {
        Some(view) => answer.with_body_of(view),
        None => answer,
    })
}
