//! A job's history as it happens: as events, and drawn in a terminal.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::Call;
use crate::events::{TaskEvent, TaskSnapshot};
use crate::http::Response;
use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::sse::EventFormat;
use crate::http::streaming::{format, last_event_id, permit, stream_events};
use crate::jobs::database::Duty;
use crate::jobs::job::{Entry, Job};
use crate::jobs::notify::watch::{Stopped, Watcher};
use crate::jobs::system::JobSystem;
use crate::semaphore::Permit;
use crate::task::{EventKind, HistoryEvent};
use crate::terminal::{Screen, draw};

/// Streams the job's history, whichever process runs the job.
pub(super) fn events(call: &Call<'_>) -> Answer {
    Query::new(call.request, &[]).finish()?;
    let job = call.job()?;
    // A number above the job's newest entry belongs to another job, so the stream starts at the first entry.
    let last_sent = last_event_id(call.request).filter(|&last_sent| last_sent <= job.seq);
    let last_sent = last_sent.unwrap_or(0);
    if job.status.is_final() && last_sent >= job.seq {
        return Ok(Response::empty(204));
    }
    let permit = permit(call.streams)?;
    let format = format(call.request);
    let mut follower = JobEventStream::new(call, &job, last_sent);
    let response = Response::stream(format.content_type(), move |out| {
        let _permit = permit;
        stream_events(out, format, |buffer, patience| {
            for entry in follower.news(patience) {
                write_entry(format, buffer, &entry, follower.id);
            }
            !follower.has_ended
        })
    });
    Ok(response.with("Vary", "Accept"))
}

/// The position of a stream in a job's history.
struct JobEventStream {
    watcher: Watcher,
    system: Arc<JobSystem>,
    id: Uuid,
    /// The newest entry that the client has.
    last_sent: u32,
    /// There may be newer entries.
    is_behind: bool,
    /// There will be no more entries.
    has_ended: bool,
}

impl JobEventStream {
    fn new(call: &Call<'_>, job: &Job, last_sent: u32) -> JobEventStream {
        JobEventStream {
            watcher: call.system.watch.watch(job.id, job.seq),
            system: call.system.clone(),
            id: job.id,
            last_sent,
            is_behind: true,
            has_ended: false,
        }
    }

    /// Returns the entries that arrive within `patience`.
    fn news(&mut self, patience: Duration) -> Vec<Entry> {
        if !self.is_behind && !self.has_changed(patience) {
            return Vec::new();
        }
        let Ok(mut history) = self
            .system
            .storage
            .history(Duty::Watch, self.id, self.last_sent)
        else {
            // Read-only: the server may have become a standby. 25P02, 25P03 and no code: the session must not be used
            // again.
            self.is_behind = true;
            self.has_changed(patience);
            return Vec::new();
        };
        self.is_behind = false;
        // The history is empty if retention has deleted the job.
        self.has_ended = history.last().is_none_or(Entry::is_end);
        history.retain(|entry| entry.seq > self.last_sent);
        self.last_sent = history.last().map_or(self.last_sent, |last| last.seq);
        history
    }

    fn has_changed(&mut self, patience: Duration) -> bool {
        match self.watcher.changed(patience) {
            Ok(changed) => changed,
            Err(Stopped) => {
                self.has_ended = true;
                false
            }
        }
    }
}

/// Writes an entry as an event. A line of NDJSON needs no envelope, because the entry has its number and event.
fn write_entry(format: EventFormat, buffer: &mut Vec<u8>, entry: &Entry, job: Uuid) {
    let data = entry.of(job);
    match format {
        EventFormat::Sse => format.write(buffer, entry.seq.into(), &entry.event, &data),
        EventFormat::NdJson => {
            let _ = serde_json::to_writer(&mut *buffer, &data);
            buffer.push(b'\n');
        }
    }
}

/// Draws the job until it has ended.
pub(super) fn watch(call: &Call<'_>) -> Answer {
    let job = call.job()?;
    let screen = Screen::parse(call.request)?;
    Ok(view(call, &job, screen, permit(call.streams)?))
}

/// Runs a handler that adds a job. With `?watch=1` the response is the job's view.
pub(super) fn create(call: &Call<'_>, create: impl FnOnce() -> Answer) -> Answer {
    let Some(screen) = Screen::wanted(call.request)? else {
        return create();
    };
    let permit = permit(call.streams)?;
    let response = create()?;
    let get = |id| call.system.storage.get(id).ok().flatten();
    // The job of a repeated request may be deleted by now: then its first response is all there is.
    Ok(match response.created_id().and_then(get) {
        Some(job) => response.with_body_of(view(call, &job, screen, permit)),
        None => response,
    })
}

fn view(call: &Call<'_>, job: &Job, screen: Screen, permit: Permit) -> Response {
    let mut stream = JobEventStream::new(call, job, 0);
    let mut now = TaskSnapshot::initial();
    let mut has_begun = false;
    draw(permit, &job.kind, screen, move |patience| {
        let entries = stream.news(patience);
        let mut events: Vec<_> = entries
            .iter()
            .filter_map(|entry| follow(entry, stream.id, &mut now))
            .collect();
        // What was before is told by the newest of them.
        if !has_begun {
            events.drain(..events.len().saturating_sub(1));
            has_begun = !events.is_empty();
        }
        (events, !stream.has_ended)
    })
}

/// Applies an entry to how the job stood before it. Returns it as a task's event, to be drawn.
fn follow(entry: &Entry, job: Uuid, now: &mut TaskSnapshot) -> Option<TaskEvent> {
    let mut kinds = EventKind::ALL.iter().copied();
    let kind = match kinds.find(|kind| kind.as_str() == entry.event)? {
        // Unlike a task, a job that is created is queued.
        EventKind::Created => EventKind::Queued,
        kind => kind,
    };
    let at = OffsetDateTime::parse(&entry.at, &Rfc3339).ok()?;
    let event = HistoryEvent {
        seq: entry.seq,
        at: u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()?,
        kind,
        attempt: entry.attempt,
        status: kind.status(),
        progress: entry.progress,
        step: entry.step.as_deref(),
        message: entry.message.as_deref(),
    };
    now.follow(&event);
    if kind == EventKind::Retried {
        now.step_description = entry.message.as_deref().map(Into::into);
    }
    Some(TaskEvent::new(job, &event, now.clone()))
}
