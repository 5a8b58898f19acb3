//! `/tasks/:id/status`: polls, conditional and long.

use std::time::{Duration, Instant};

use super::call::Call;
use super::view::StatusView;
use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::{Peer, Problem, Response};
use crate::store::{StoreError, Wait};
use crate::task::{Task, TaskId};

/// The longest wait, in seconds.
const MAX_WAIT: u64 = 60;

/// How often a waiting poll checks that its client is still connected.
const LOOK: Duration = Duration::from_millis(1_500);

pub(super) fn status(call: &Call<'_>) -> Answer {
    let id = call.id()?;
    match wait(call)? {
        Some(wait) => long_poll(call, id, wait),
        None => poll(call, id).map(|(answer, _)| answer),
    }
}

fn wait(call: &Call<'_>) -> Result<Option<Duration>, Problem> {
    let mut query = Query::new(call.request, &["wait"]);
    let wait = query.parse("wait", "a whole number of seconds from 0 to 60", |text| {
        let seconds = text.parse().ok();
        seconds.filter(|seconds| (0..=MAX_WAIT).contains(seconds))
    });
    query.finish()?;
    Ok(wait.map(Duration::from_secs))
}

/// The response now, and whether it can be sent without waiting.
fn poll(call: &Call<'_>, id: TaskId) -> Result<(Response, bool), Problem> {
    let known = call.request.header("If-None-Match");
    let tasks = &call.api.tasks;
    let answer = tasks.inspect(&call.session, id, |task| {
        let tag = ["\"", &task.version.to_string(), "\""].concat();
        let same = known.is_some_and(|known| matches(known, &tag));
        let ready = task.status.is_final() || known.is_some() && !same;
        let response = match same {
            true => Response::empty(304),
            false => Response::json(200, &StatusView::new(task)),
        };
        (with_hints(response, task, tag), ready)
    });
    Ok(answer?)
}

fn with_hints(response: Response, task: &Task, tag: String) -> Response {
    let response = response.with("ETag", tag);
    match task.status.is_final() {
        true => response,
        false => response.with("Retry-After", "1"),
    }
}

/// Whether `If-None-Match` names this tag. A weak tag matches too.
fn matches(known: &str, tag: &str) -> bool {
    let mut tags = known.split(',').map(str::trim);
    tags.any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

fn long_poll(call: &Call<'_>, id: TaskId, patience: Duration) -> Answer {
    let deadline = Instant::now() + patience;
    // Subscribe first, then look: so no change is missed.
    let signal = match call.api.tasks.change_signal(&call.session, id) {
        // The server stops, so nothing changes any more.
        Err(StoreError::Stopping) => return poll(call, id).map(|(answer, _)| answer),
        signal => signal?,
    };
    loop {
        let (answer, ready) = poll(call, id)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if ready || left.is_zero() || (call.request.client)() != Peer::Open {
            return Ok(answer);
        }
        if signal.wait(left.min(LOOK)) == Wait::Over {
            return poll(call, id).map(|(answer, _)| answer);
        }
    }
}
