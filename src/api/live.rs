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
use crate::http::streaming::{format, last_event, last_event_id, permit};
use crate::http::{Request, Response};
use crate::semaphore::Semaphore;
use crate::store::{SessionUpdate, SessionWatch, StoreError, TaskManager, TaskWatch, WatchUpdate};
use crate::streams::{self, Draw, News, Part, Watch};
use crate::task::{LogLine, SessionKey, TaskId};

/// The most updates of a session that are written at once.
const BATCH: usize = 64;

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
    stream_task(&call.api.streams, watch, format(call.request))
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
pub(super) fn stream_task(streams: &Semaphore, watch: TaskWatch, format: EventFormat) -> Answer {
    if watch.is_over() {
        return Ok(Response::empty(204));
    }
    Ok(streams::events(permit(streams)?, format, watch))
}

impl Watch for TaskWatch {
    type Event = TaskEvent;

    fn seen(&self) -> EventId {
        EventId {
            number: self.seq().into(),
            line: self.line(),
        }
    }

    fn next(&mut self, patience: Duration) -> News<TaskEvent> {
        let mut news = News::default();
        match TaskWatch::next(self, patience) {
            WatchUpdate::Events(events) => {
                news.events = events;
                news.is_over = self.is_over();
            }
            WatchUpdate::Log(part) => news.log = part,
            WatchUpdate::Nothing => {}
            WatchUpdate::Over => news.is_over = true,
        }
        news
    }

    fn number(event: &TaskEvent) -> u64 {
        event.seq.into()
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        format: EventFormat,
        id: EventId,
        part: Part<'_, TaskEvent>,
    ) {
        let task_id = self.task();
        match part {
            Part::Dropped(dropped) => {
                format.write(out, id, "dropped", &DroppedView { task_id, dropped })
            }
            Part::Line(line) => format.write(out, id, "log", &LineView { task_id, line }),
            Part::Event(event) => write_event(out, format, id, event),
        }
    }
}

impl Draw for TaskWatch {
    fn picture(&mut self, events: Vec<TaskEvent>) -> Vec<TaskEvent> {
        events
    }
}

fn write_event(out: &mut Vec<u8>, format: EventFormat, id: EventId, event: &TaskEvent) {
    format.write(out, id, event.kind.as_str(), &StatusView::at(event));
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
    let watch = NumberedSession { watch, number: 0 };
    Ok(streams::events(permit, format(call.request), watch))
}

/// A session's updates, numbered from the stream's begin.
struct NumberedSession {
    watch: SessionWatch,
    number: u64,
}

impl Watch for NumberedSession {
    type Event = (u64, SessionUpdate);

    fn seen(&self) -> EventId {
        self.number.into()
    }

    /// Waits for the session's next update, and takes those that are there already with it.
    fn next(&mut self, mut patience: Duration) -> News<Self::Event> {
        let mut news = News::default();
        while news.events.len() < BATCH {
            let update = self.watch.next(std::mem::take(&mut patience));
            self.number += match &update {
                SessionUpdate::Nothing => break,
                SessionUpdate::Over => {
                    news.is_over = true;
                    break;
                }
                SessionUpdate::Lines(of) => of.lines.len() as u64,
                SessionUpdate::Event(_) | SessionUpdate::State(_) => 1,
            };
            news.events.push((self.number, update));
        }
        news
    }

    fn number(event: &Self::Event) -> u64 {
        event.0
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        format: EventFormat,
        id: EventId,
        part: Part<'_, Self::Event>,
    ) {
        // Lines are among the updates, because each is of another task.
        let Part::Event((last, update)) = part else {
            return;
        };
        match update {
            SessionUpdate::Event(event) => write_event(out, format, id, event),
            SessionUpdate::State(stats) => {
                let (success, stats) = (true, *stats);
                format.write(out, id, "state", &StatsAnswer { success, stats });
            }
            SessionUpdate::Lines(of) => {
                let task_id = of.task;
                let first = last + 1 - of.lines.len() as u64;
                for (number, line) in (first..).zip(&of.lines) {
                    format.write(out, number, "log", &LineView { task_id, line });
                }
            }
            SessionUpdate::Nothing | SessionUpdate::Over => {}
        }
    }
}
