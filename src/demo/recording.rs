//! Recordings: what a task's history says, without arguments and result, so that it can be shown again elsewhere.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::events::{TaskEvent, TaskSnapshot};
use crate::task::{EventKind, HistoryEvent, Millis, TaskId};

/// The most entries of a recording.
const MAX_EVENTS: usize = 100_000;

/// The longest recording: a week.
const MAX_MS: u64 = 604_800_000;

/// The only form there is so far.
const VERSION: u8 = 1;

/// A history that can be run again by the type `replay`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recording {
    version: u8,
    #[serde(default)]
    pub(crate) name: String,
    /// The type that made it.
    #[serde(rename = "type")]
    kind: String,
    events: Vec<Recorded>,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recorded {
    /// Milliseconds since the task was created.
    pub(crate) at: u64,
    #[serde(rename = "event", deserialize_with = "kind")]
    pub(crate) kind: EventKind,
    pub(crate) attempt: u32,
    pub(crate) progress: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

fn kind<'de, D: serde::Deserializer<'de>>(from: D) -> Result<EventKind, D::Error> {
    let name = String::deserialize(from)?;
    let known = EventKind::ALL.iter().find(|kind| kind.as_str() == name);
    let error = || serde::de::Error::custom(format_args!("{name:?} is not the name of an event"));
    known.copied().ok_or_else(error)
}

/// Why something is no recording that can be run.
#[derive(Debug, PartialEq)]
pub(crate) struct NotARecording(String);

impl fmt::Display for NotARecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Recording {
    /// Records a task's history.
    pub(crate) fn of<'e>(
        name: &str,
        kind: &str,
        history: impl Iterator<Item = HistoryEvent<'e>>,
    ) -> Recording {
        let mut begun = None;
        let events = history.map(|event| Recorded {
            at: event.at - *begun.get_or_insert(event.at),
            kind: event.kind,
            attempt: event.attempt,
            progress: event.progress,
            step: event.step.map(str::to_owned),
            message: event.message.map(str::to_owned),
        });
        Recording::new(name, kind, events.collect())
    }

    pub(crate) fn new(name: &str, kind: &str, events: Vec<Recorded>) -> Recording {
        Recording {
            version: VERSION,
            name: name.to_owned(),
            kind: kind.to_owned(),
            events,
        }
    }

    /// Reads and checks one.
    pub(crate) fn parse(json: &str) -> Result<Recording, NotARecording> {
        let recording: Recording =
            serde_json::from_str(json).map_err(|error| NotARecording(error.to_string()))?;
        recording.check().map_err(NotARecording)?;
        Ok(recording)
    }

    fn check(&self) -> Result<(), String> {
        let events = &self.events;
        if self.version != VERSION {
            return Err(format!("version must be {VERSION}"));
        }
        if !(1..=MAX_EVENTS).contains(&events.len()) {
            return Err(format!(
                "events must be an array of 1 to {MAX_EVENTS} entries"
            ));
        }
        let mut last = &events[0];
        for (i, event) in events.iter().enumerate() {
            let wrong = |what: &str| Err(format!("events[{i}]: {what}"));
            if !may_follow(i, last, event) {
                return wrong("this cannot follow the event before it");
            }
            if event.at < last.at || event.at > MAX_MS {
                return wrong("at must rise, up to 604800000");
            }
            if event.progress > 100 {
                return wrong("progress must be at most 100");
            }
            last = event;
        }
        Ok(())
    }

    pub(crate) fn events(&self) -> &[Recorded] {
        &self.events
    }

    /// The entries of one attempt from its start on, or of the last attempt that was started.
    pub(crate) fn attempt(&self, number: u32) -> &[Recorded] {
        let is_start = |event: &Recorded| event.kind == EventKind::Started;
        let own = |event: &Recorded| is_start(event) && event.attempt == number;
        let place = self.events.iter().position(own);
        let Some(from) = place.or_else(|| self.events.iter().rposition(is_start)) else {
            return &[];
        };
        let attempt = self.events[from].attempt;
        let events = &self.events[from..];
        let to = events.iter().position(|event| event.attempt != attempt);
        &events[..to.unwrap_or(events.len())]
    }

    /// What a watcher of the task was told, as if it had been created at the moment 0.
    pub(crate) fn told(&self) -> impl Iterator<Item = TaskEvent> + '_ {
        let mut snapshot = TaskSnapshot::initial();
        self.events.iter().zip(1..).map(move |(recorded, seq)| {
            let event = recorded.entry(seq);
            snapshot.follow(&event);
            TaskEvent::new(TaskId::nil(), &event, snapshot.clone())
        })
    }
}

impl Recorded {
    /// When it happens at this many times the speed.
    pub(crate) fn due(&self, speed: f64) -> Duration {
        Duration::from_millis(self.at).div_f64(speed)
    }

    fn entry(&self, seq: u32) -> HistoryEvent<'_> {
        HistoryEvent {
            seq,
            at: self.at as Millis,
            kind: self.kind,
            attempt: self.attempt,
            status: self.kind.status(),
            progress: self.progress,
            step: self.step.as_deref(),
            message: self.message.as_deref(),
        }
    }
}

/// Whether a task's history can go on so.
fn may_follow(place: usize, last: &Recorded, event: &Recorded) -> bool {
    use EventKind::*;
    if place == 0 {
        return event.kind == Created && event.attempt == 1 && event.at == 0;
    }
    let is_next = match event.kind {
        Created => false,
        Queued => matches!(last.kind, Created | Retried),
        Started => last.kind == Queued,
        Progress | Waiting | Advanced | Paused | Resumed | Completed | Failed => {
            last.kind.status() == Started.status()
        }
        Cancelled => !last.kind.status().is_final(),
        Retried => matches!(last.kind, Failed | Cancelled),
    };
    is_next && event.attempt == last.attempt + u32::from(event.kind == Retried)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, kind: &str, attempt: u32) -> serde_json::Value {
        serde_json::json!({ "at": at, "event": kind, "attempt": attempt, "progress": 0 })
    }

    fn parse(events: &[serde_json::Value]) -> Result<Recording, NotARecording> {
        let recording = serde_json::json!({ "version": 1, "type": "work", "events": events });
        Recording::parse(&recording.to_string())
    }

    #[test]
    fn an_attempt_is_found_and_a_later_one_is_as_the_last() {
        let recording = parse(&[
            event(0, "created", 1),
            event(0, "queued", 1),
            event(1, "started", 1),
            event(2, "failed", 1),
            event(3, "retried", 2),
            event(3, "queued", 2),
            event(4, "started", 2),
            event(9, "completed", 2),
        ])
        .expect("a recording");
        let times = |attempt| {
            recording
                .attempt(attempt)
                .iter()
                .map(|e| e.at)
                .collect::<Vec<_>>()
        };
        assert_eq!(times(1), [1, 2]);
        assert_eq!(times(2), [4, 9]);
        assert_eq!(times(3), [4, 9]);
    }

    #[test]
    fn what_no_history_can_be_is_refused() {
        let created = || event(0, "created", 1);
        for (events, wrong) in [
            (vec![], "events must be an array of 1 to 100000 entries"),
            (
                vec![event(0, "queued", 1)],
                "events[0]: this cannot follow the event before it",
            ),
            (
                vec![created(), created()],
                "events[1]: this cannot follow the event before it",
            ),
            (
                vec![created(), event(1, "completed", 1)],
                "events[1]: this cannot follow the event before it",
            ),
            (
                vec![created(), event(1, "queued", 2)],
                "events[1]: this cannot follow the event before it",
            ),
            (
                vec![created(), event(604_800_001, "queued", 1)],
                "events[1]: at must rise, up to 604800000",
            ),
        ] {
            assert_eq!(parse(&events), Err(NotARecording(wrong.to_owned())));
        }
        assert!(parse(&[event(0, "vanished", 1)]).is_err());
    }
}
