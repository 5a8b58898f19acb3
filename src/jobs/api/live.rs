//! A job's history as it happens: as events, and drawn in a terminal.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::call::Call;
use super::line::JobLine;
use crate::events::{TaskEvent, TaskSnapshot};
use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::sse::{EventFormat, EventId};
use crate::http::streaming::{format, last_event, last_event_id, permit};
use crate::http::{Problem, Response};
use crate::jobs::database::Duty;
use crate::jobs::entry::Entry;
use crate::jobs::job::Job;
use crate::jobs::notify::watch::{Stopped, Watcher};
use crate::jobs::storage::Done;
use crate::jobs::system::JobSystem;
use crate::semaphore::Permit;
use crate::store::LogPart;
use crate::streams::{self, Draw, News, Part, Watch};
use crate::task::{EventKind, HistoryEvent};
use crate::terminal::Screen;

/// Streams the job's history, whichever process runs the job; with its log if `log` asks for it.
pub(super) fn events(call: &Call<'_>) -> Answer {
    let mut query = Query::new(call.request, &["log"]);
    let with_log = query.flag("log");
    query.finish()?;
    let job = call.job()?;
    // A number above the job's newest entry belongs to another job, so the stream starts at the first entry.
    let last_sent = last_event_id(call.request).filter(|&last_sent| last_sent <= job.seq);
    let last_sent = last_sent.unwrap_or(0);
    let last_line = with_log.then(|| last_event(call.request).and_then(|id| id.line).unwrap_or(0));
    let has_lines = || match last_line {
        Some(line) => has_lines(call, &job, line),
        None => Ok(false),
    };
    if job.status.is_final() && last_sent >= job.seq && !has_lines()? {
        return Ok(Response::empty(204));
    }
    let watch = JobWatch::new(call, &job, last_sent, last_line);
    Ok(streams::events(
        permit(call.streams)?,
        format(call.request),
        watch,
    ))
}

fn has_lines(call: &Call<'_>, job: &Job, after: u64) -> Result<bool, Problem> {
    let lines = call
        .system
        .storage
        .log_after(Duty::Request, job.id, after)?;
    Ok(!lines.is_empty())
}

type JobNews = News<Entry>;

/// The position of a stream in a job's history and log.
pub(super) struct JobWatch {
    watcher: Watcher,
    system: Arc<JobSystem>,
    id: Uuid,
    /// The newest entry that the client has.
    last_sent: u32,
    /// The newest line that the client has, if it gets the log.
    last_line: Option<u64>,
    /// There may be newer entries or lines.
    is_behind: bool,
    /// There will be no more of them.
    has_ended: bool,
    /// How the job stands after the entries that were drawn; `None` before the first.
    drawn: Option<TaskSnapshot>,
}

impl JobWatch {
    pub(super) fn new(
        call: &Call<'_>,
        job: &Job,
        last_sent: u32,
        last_line: Option<u64>,
    ) -> JobWatch {
        JobWatch {
            watcher: call.system.watch.watch(job.id, job.seq, last_line),
            system: call.system.clone(),
            id: job.id,
            last_sent,
            last_line,
            is_behind: true,
            has_ended: false,
            drawn: None,
        }
    }

    /// Returns what happens within `patience`: either lines or entries.
    fn news(&mut self, patience: Duration) -> JobNews {
        if !self.is_behind && !self.has_changed(patience) {
            return JobNews::default();
        }
        self.read().unwrap_or_else(|_| {
            // The database is away. The stream goes on once it is back.
            self.is_behind = true;
            self.has_changed(patience);
            JobNews::default()
        })
    }

    /// The history is read first and told last: whatever ends the job was written with the last lines.
    fn read(&mut self) -> Done<JobNews> {
        let storage = &self.system.storage;
        let mut history = storage.history(Duty::Watch, self.id, self.last_sent)?;
        if let Some(last_line) = self.last_line {
            let lines = storage.log_after(Duty::Watch, self.id, last_line)?;
            if let (Some(first), Some(last)) = (lines.first(), lines.last()) {
                // There may be more of them, and the history is to be read again.
                self.is_behind = true;
                self.last_line = Some(last.n);
                let dropped = first.n - 1 - last_line;
                let log = LogPart { dropped, lines };
                return Ok(JobNews {
                    log,
                    ..JobNews::default()
                });
            }
        }
        self.is_behind = false;
        // The history is empty if retention has deleted the job.
        self.has_ended = history.last().is_none_or(Entry::is_end);
        history.retain(|entry| entry.seq > self.last_sent);
        self.last_sent = history.last().map_or(self.last_sent, |last| last.seq);
        Ok(JobNews {
            events: history,
            ..JobNews::default()
        })
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

/// A line or a gap of the log, as an event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogEvent<'a, T> {
    job_id: Uuid,
    event: &'a str,
    #[serde(flatten)]
    data: T,
}

#[derive(Serialize)]
struct Dropped {
    dropped: u64,
}

impl Watch for JobWatch {
    type Event = Entry;

    fn seen(&self) -> EventId {
        EventId {
            number: self.last_sent.into(),
            line: self.last_line,
        }
    }

    fn next(&mut self, patience: Duration) -> JobNews {
        let news = self.news(patience);
        JobNews {
            is_over: self.has_ended,
            ..news
        }
    }

    fn number(entry: &Entry) -> u64 {
        entry.seq.into()
    }

    fn write(&self, out: &mut Vec<u8>, format: EventFormat, id: EventId, part: Part<'_, Entry>) {
        let job_id = self.id;
        match part {
            Part::Event(entry) => write_event(format, out, id, &entry.event, &entry.of(job_id)),
            Part::Dropped(dropped) => {
                let (event, data) = ("dropped", Dropped { dropped });
                write_event(
                    format,
                    out,
                    id,
                    event,
                    &LogEvent {
                        job_id,
                        event,
                        data,
                    },
                );
            }
            Part::Line(line) => {
                let (event, data) = ("log", JobLine::new(line));
                write_event(
                    format,
                    out,
                    id,
                    event,
                    &LogEvent {
                        job_id,
                        event,
                        data,
                    },
                );
            }
        }
    }
}

impl Draw for JobWatch {
    fn picture(&mut self, entries: Vec<Entry>) -> Vec<TaskEvent> {
        let is_first = self.drawn.is_none();
        let mut now = self.drawn.take().unwrap_or_else(TaskSnapshot::initial);
        let entries = entries.iter();
        let mut events: Vec<_> = entries
            .filter_map(|entry| follow(entry, self.id, &mut now))
            .collect();
        // What was before the watch began is told by the newest of them.
        if is_first {
            events.drain(..events.len().saturating_sub(1));
        }
        if !is_first || !events.is_empty() {
            self.drawn = Some(now);
        }
        events
    }
}

/// Writes an event. A line of NDJSON needs no envelope, because what it tells has its number and event.
fn write_event(
    format: EventFormat,
    buffer: &mut Vec<u8>,
    id: EventId,
    event: &str,
    data: &impl Serialize,
) {
    match format {
        EventFormat::Sse => format.write(buffer, id, event, data),
        EventFormat::NdJson => {
            let _ = serde_json::to_writer(&mut *buffer, data);
            buffer.push(b'\n');
        }
    }
}

/// Draws the job until it has ended.
pub(super) fn watch(call: &Call<'_>) -> Answer {
    let job = call.job()?;
    let screen = Screen::parse_with_log(call.request)?;
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
    let watch = JobWatch::new(call, job, 0, screen.log.then_some(0));
    streams::terminal(permit, &job.kind, screen, watch)
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
