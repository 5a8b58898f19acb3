//! `/tasks/events` and `/tasks/:id/events`: what happens, as it happens.

use std::io;
use std::time::{Duration, Instant};

use super::Call;
use super::tasks::{StatsAnswer, id};
use super::view::StatusView;
use crate::events::TaskEvent;
use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::sse::EventFormat;
use crate::http::{Outlet, Problem, Request, Response};
use crate::permits::{Permit, Permits};
use crate::store::{Heard, SessionHeard, SessionWatch, TaskWatch};

/// How often a stream that has nothing to say looks whether its client is still there.
const LOOK: Duration = Duration::from_millis(1_500);

/// How long a stream is silent at most.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The most bytes of events written at once.
const BATCH: usize = 32 * 1024;

/// A place among the open streams.
pub(super) fn permit(streams: &Permits) -> Result<Permit, Problem> {
    streams.take().ok_or_else(|| {
        let max = streams.max();
        let message = format!("All {max} streams are taken (MAX_STREAMS); poll, or try again");
        Problem::new(503, "too_many_streams", message).with("Retry-After", "5")
    })
}

/// The format that the client asks for.
pub(super) fn format(request: &Request<'_>) -> EventFormat {
    let (sse, lines) = (EventFormat::SSE_TYPE, EventFormat::NDJSON_TYPE);
    match request.wanted(&[sse, lines], sse) == lines {
        true => EventFormat::NdJson,
        false => EventFormat::Sse,
    }
}

/// The number of the last event that a returning client has seen.
pub(super) fn last_event_id(request: &Request<'_>) -> Option<u32> {
    request.header("Last-Event-ID")?.trim().parse().ok()
}

/// One task's events.
pub(super) fn task_events(call: &Call<'_>) -> Answer {
    Query::new(call.request, &[]).finish()?;
    let after = last_event_id(call.request);
    let tasks = call.api.system.tasks();
    let watch = tasks.watch(&call.session, id(call)?, after)?;
    let answer = stream_task(&call.api.streams, watch, format(call.request))?;
    Ok(answer.with("Vary", "Accept"))
}

/// A task's events to their end; 204 tells a client that has them all not to come back.
pub(super) fn stream_task(streams: &Permits, mut watch: TaskWatch, format: EventFormat) -> Answer {
    if watch.is_over() {
        return Ok(Response::empty(204));
    }
    let permit = permit(streams)?;
    Ok(Response::stream(format.content_type(), move |out| {
        let _permit = permit;
        pump(out, format, |buffer, patience| {
            match watch.next(patience) {
                Heard::Events(events) => {
                    for event in &events {
                        write(buffer, format, event.seq.into(), event);
                    }
                }
                Heard::Nothing => {}
                Heard::Over => return false,
            }
            true
        })
    }))
}

/// The events of all of the session's tasks.
pub(super) fn session_events(call: &Call<'_>) -> Answer {
    Query::new(call.request, &[]).finish()?;
    let permit = permit(&call.api.streams)?;
    let mut watch = call.api.system.tasks().watch_session(&call.session)?;
    let format = format(call.request);
    let answer = Response::stream(format.content_type(), move |out| {
        let _permit = permit;
        let mut number = 0;
        pump(out, format, |buffer, patience| {
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
            SessionHeard::Event(event) => write(buffer, format, *number, &event),
            SessionHeard::State(stats) => {
                let success = true;
                format.write(buffer, *number, "state", &StatsAnswer { success, stats });
            }
            SessionHeard::Nothing => {
                *number -= 1;
                return true;
            }
            SessionHeard::Over => return false,
        }
        patience = Duration::ZERO;
    }
    true
}

fn write(buffer: &mut Vec<u8>, format: EventFormat, number: u64, event: &TaskEvent) {
    let data = StatusView::at(event);
    format.write(buffer, number, event.kind.as_str(), &data);
}

fn pump(
    out: &mut dyn Outlet,
    format: EventFormat,
    next: impl FnMut(&mut Vec<u8>, Duration) -> bool,
) -> io::Result<()> {
    out.send(format.opening())?;
    pour(out, LOOK, format.heartbeat(), next)
}

/// Sends what `next` appends within the patience it is given, until it returns false or the
/// client has gone. `heartbeat` breaks a long silence.
pub(super) fn pour(
    out: &mut dyn Outlet,
    patience: Duration,
    heartbeat: &[u8],
    mut next: impl FnMut(&mut Vec<u8>, Duration) -> bool,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut sent = Instant::now();
    let mut more = true;
    while more {
        let silence = HEARTBEAT.saturating_sub(sent.elapsed());
        more = next(&mut buffer, patience.min(silence));
        if buffer.is_empty() {
            if !out.is_open() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if sent.elapsed() < HEARTBEAT {
                continue;
            }
            buffer.extend_from_slice(heartbeat);
        }
        out.send(&buffer)?;
        buffer.clear();
        buffer.shrink_to(2_048);
        sent = Instant::now();
    }
    Ok(())
}
