//! `/tasks/events` and `/tasks/:id/events`: what happens, as it happens.

use std::time::Duration;

use super::call::Call;
use super::tasks::StatsAnswer;
use super::view::StatusView;
use crate::events::TaskEvent;
use crate::http::Response;
use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::sse::EventFormat;
use crate::http::streaming::{format, last_event_id, permit, stream_events};
use crate::semaphore::Semaphore;
use crate::store::{SessionUpdate, SessionWatch, TaskWatch, WatchUpdate};

/// The most bytes of events written at once.
const BATCH: usize = 32 * 1024;

/// One task's events.
pub(super) fn task_events(call: &Call<'_>) -> Answer {
    Query::new(call.request, &[]).finish()?;
    let after = last_event_id(call.request);
    let tasks = &call.api.tasks;
    let watch = tasks.watch(&call.session, call.id()?, after)?;
    let answer = stream_task(&call.api.streams, watch, format(call.request))?;
    Ok(answer.with("Vary", "Accept"))
}

/// A task's events to their end; 204 tells a client that has them all not to come back.
pub(super) fn stream_task(
    streams: &Semaphore,
    mut watch: TaskWatch,
    format: EventFormat,
) -> Answer {
    if watch.is_over() {
        return Ok(Response::empty(204));
    }
    let permit = permit(streams)?;
    Ok(Response::stream(format.content_type(), move |out| {
        let _permit = permit;
        stream_events(out, format, |buffer, patience| {
            match watch.next(patience) {
                WatchUpdate::Events(events) => {
                    for event in &events {
                        write(buffer, format, event.seq.into(), event);
                    }
                }
                WatchUpdate::Nothing | WatchUpdate::Log(_) => {}
                WatchUpdate::Over => return false,
            }
            true
        })
    }))
}

/// The events of all of the session's tasks.
pub(super) fn session_events(call: &Call<'_>) -> Answer {
    Query::new(call.request, &[]).finish()?;
    let permit = permit(&call.api.streams)?;
    let mut watch = call.api.tasks.watch_session(&call.session)?;
    let format = format(call.request);
    let answer = Response::stream(format.content_type(), move |out| {
        let _permit = permit;
        let mut number = 0;
        stream_events(out, format, |buffer, patience| {
            fill(buffer, patience, &mut watch, format, &mut number)
        })
    });
    Ok(answer.with("Vary", "Accept"))
}

/// Waits for the session's next event, and takes those that are there already with it.
fn fill(
    buffer: &mut Vec<u8>,
    mut patience: Duration,
    watch: &mut SessionWatch,
    format: EventFormat,
    number: &mut u64,
) -> bool {
    while buffer.len() < BATCH {
        *number += 1;
        match watch.next(patience) {
            SessionUpdate::Event(event) => write(buffer, format, *number, &event),
            SessionUpdate::State(stats) => {
                let success = true;
                format.write(buffer, *number, "state", &StatsAnswer { success, stats });
            }
            SessionUpdate::Nothing => {
                *number -= 1;
                return true;
            }
            SessionUpdate::Over => return false,
        }
        patience = Duration::ZERO;
    }
    true
}

fn write(buffer: &mut Vec<u8>, format: EventFormat, number: u64, event: &TaskEvent) {
    let data = StatusView::at(event);
    format.write(buffer, number, event.kind.as_str(), &data);
}
