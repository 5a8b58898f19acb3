//! `/jobs/:id/recording`: a job's trail without its data, as the history of a task that can be replayed.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::call::Call;
use crate::cast;
use crate::demo::recording::{Recorded, Recording};
use crate::http::Response;
use crate::http::router::Answer;
use crate::jobs::database::Duty;
use crate::jobs::entry::Entry;
use crate::jobs::storage::Done;
use crate::task::{EventKind, TaskStatus};

pub(super) fn recording(call: &Call<'_>) -> Answer {
    let job = call.job()?;
    Ok(Response::json(200, &of(call, job.id, &job.kind)?))
}

pub(super) fn recording_cast(call: &Call<'_>) -> Answer {
    let job = call.job()?;
    Ok(cast::response(&of(call, job.id, &job.kind)?))
}

fn of(call: &Call<'_>, id: uuid::Uuid, kind: &str) -> Done<Recording> {
    let history = call.system.storage.history(Duty::Request, id, 0)?;
    Ok(Recording::new(kind, kind, events(&history)))
}

/// A task's history differs from a job's trail: what is created or retried is queued by an entry, attempts are counted from 1 and by
/// retries, and only what has failed or was cancelled is retried.
fn events(history: &[Entry]) -> Vec<Recorded> {
    let mut events: Vec<Recorded> = Vec::with_capacity(history.len() + 1);
    let millis = |entry: &Entry| {
        let at = OffsetDateTime::parse(&entry.at, &Rfc3339).ok()?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
    };
    let begun = history.first().and_then(millis).unwrap_or_default();
    let mut attempt = 1;
    for entry in history {
        let mut kinds = EventKind::ALL.iter().copied();
        let Some(kind) = kinds.find(|kind| kind.as_str() == entry.event) else {
            continue;
        };
        let last_at = events.last().map_or(0, |last| last.at);
        let at = millis(entry)
            .map_or(0, |at| at.saturating_sub(begun))
            .max(last_at);
        let recorded = |kind, attempt, progress, message| Recorded {
            at,
            kind,
            attempt,
            progress,
            step: None,
            message,
        };
        let message = entry.message.clone();
        match kind {
            EventKind::Retried => {
                if let Some(last) = events.last().filter(|last| !last.kind.status().is_final()) {
                    let progress = last.progress;
                    events.push(recorded(EventKind::Failed, attempt, progress, message));
                }
                attempt += 1;
                events.push(recorded(kind, attempt, 0, None));
            }
            // A job's last report may be told by its end alone.
            EventKind::Failed
                if events
                    .last()
                    .is_some_and(|last| last.progress < entry.progress) =>
            {
                events.push(recorded(EventKind::Progress, attempt, entry.progress, None));
                events.push(recorded(kind, attempt, entry.progress, message));
            }
            _ => events.push(Recorded {
                step: entry.step.clone(),
                ..recorded(kind, attempt, entry.progress, message)
            }),
        }
        if kind.status() == TaskStatus::Pending {
            events.push(recorded(EventKind::Queued, attempt, 0, None));
        }
    }
    events
}
