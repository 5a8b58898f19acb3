//! `/tasks/:id/status`: polls, conditional and long.

use super::call::Call;
use super::view;
use crate::http::polling::{self, Polled, long_poll};
use crate::http::router::Answer;
use crate::http::{Problem, Response};
use crate::store::StoreError;
use crate::task::TaskId;

pub(super) fn status(call: &Call<'_>) -> Answer {
    let id = call.id()?;
    let Some(patience) = polling::wait(call.request)? else {
        return poll(call, id).map(Polled::response);
    };
    match call.api.tasks.change_signal(&call.session, id) {
        // The server stops, so nothing changes any more.
        Err(StoreError::Stopping) => poll(call, id).map(Polled::response),
        signal => {
            let signal = signal?;
            long_poll(
                call.request,
                patience,
                || poll(call, id),
                |left| signal.wait(left),
            )
        }
    }
}

fn poll(call: &Call<'_>, id: TaskId) -> Result<Polled, Problem> {
    let polled = call.api.tasks.inspect(&call.session, id, |task| {
        Polled::new(call.request, task.version, task.status.is_final(), || {
            Response::object(200, |object| view::status(object, task))
        })
    });
    Ok(polled?)
}
