//! `/tasks/events` and `/tasks/:id/events`: what happens, as it happens.

use std::time::Duration;

use serde::Serialize;

use super::call::Call;
use super::tasks::StatsAnswer;
use super::view::StatusView;
use crate::events::TaskEvent;
use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::sse::{EventFormat, EventId};
use crate::http::streaming::{format, last_event, last_event_id, permit, stream_events};
use crate::http::{Request, Response};
use crate::semaphore::Semaphore;
use crate::store::{
    LogPart, SessionUpdate, SessionWatch, StoreError, TaskManager, TaskWatch, WatchUpdate,
};
use crate::task::{LogLine, SessionKey, TaskId};

/// The most bytes of events written at once.
const BATCH: usize = 32 * 1024;

/// One task's events, with its log where `log` asks for it.
pub(super) fn task_events(call: &Call<'_>) -> Answer {
    let mut query = Query::new(call.request, &["log"]);
    let with_log = query.flag("log");
    query.finish()?;
    let watch = watch(
        &call.api.tasks,
        &call.session,
        call.id()?,
        call.request,
        with_log,
    )?;
    let answer = stream_task(&call.api.streams, watch, format(call.request))?;
    Ok(answer.with("Vary", "Accept"))
}

/// A watch from where the client says that it has seen the task.
pub(super) fn watch(
    tasks: &TaskManager,
    session: &SessionKey,
    id: TaskId,
    request: &Request<'_>,
    with_log: bool,
) -> Result<TaskWatch, StoreError> {
    let watch = tasks.watch(session, id, last_event_id(request))?;
    Ok(match with_log {
        true => watch.with_log(last_event(request).and_then(|id| id.line).unwrap_or(0)),
        false => watch,
    })
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
    let mut told = EventId {
        number: watch.seq().into(),
        line: watch.line(),
    };
    Ok(Response::stream(format.content_type(), move |out| {
        let _permit = permit;
        stream_events(out, format, |buffer, patience| {
            match watch.next(patience) {
                WatchUpdate::Events(events) => {
                    for event in &events {
                        told.number = event.seq.into();
                        write(buffer, format, told, event);
                    }
                }
                WatchUpdate::Log(part) => {
                    write_lines(buffer, format, &mut told, watch.task(), &part);
                }
                WatchUpdate::Nothing => {}
                WatchUpdate::Over => return false,
            }
            true
        })
    }))
}

/// A line of a task's log, as an event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LineView<'a> {
    task_id: TaskId,
    #[serde(flatten)]
    line: &'a LogLine<'a>,
}

/// That lines are missing here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DroppedView {
    task_id: TaskId,
    dropped: u64,
}

fn write_lines(
    buffer: &mut Vec<u8>,
    format: EventFormat,
    told: &mut EventId,
    task_id: TaskId,
    part: &LogPart,
) {
    let dropped = part.dropped;
    if dropped > 0 {
        told.line = told.line.map(|line| line + dropped);
        format.write(buffer, *told, "dropped", &DroppedView { task_id, dropped });
    }
    for line in &part.lines {
        told.line = Some(line.n);
        format.write(buffer, *told, "log", &LineView { task_id, line });
    }
}

/// The events of all of the session's tasks.
pub(super) fn session_events(call: &Call<'_>) -> Answer {
    let mut query = Query::new(call.request, &["log"]);
    let with_log = query.flag("log");
    query.finish()?;
    let permit = permit(&call.api.streams)?;
    let mut watch = call.api.tasks.watch_session(&call.session)?;
    if with_log {
        watch = watch.with_log();
    }
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
            SessionUpdate::Lines(of) => {
                let task_id = of.task;
                *number -= 1;
                for line in &of.lines {
                    *number += 1;
                    format.write(buffer, *number, "log", &LineView { task_id, line });
                }
            }
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

fn write(buffer: &mut Vec<u8>, format: EventFormat, id: impl Into<EventId>, event: &TaskEvent) {
    let data = StatusView::at(event);
    format.write(buffer, id, event.kind.as_str(), &data);
}
