//! Live events on the wire: `text/event-stream`, and one JSON object a line.

use std::fmt;

use serde::{Serialize, Serializer};

/// An event's number. A stream that tells the log too adds the number of the newest line told: `12.345`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(crate) number: u64,
    pub(crate) line: Option<u64>,
}

impl EventId {
    pub(crate) fn parse(text: &str) -> Option<EventId> {
        let (number, line) = match text.split_once('.') {
            Some((number, line)) => (number, Some(line.parse().ok()?)),
            None => (text, None),
        };
        let number = number.parse().ok()?;
        Some(EventId { number, line })
    }
}

impl From<u64> for EventId {
    fn from(number: u64) -> EventId {
        EventId { number, line: None }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}.{line}", self.number),
            None => self.number.fmt(f),
        }
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.line {
            Some(_) => to.collect_str(self),
            None => to.serialize_u64(self.number),
        }
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventFormat {
    /// Server-sent events, as browsers read them.
    Sse,
    /// One JSON object a line, for `jq`.
    NdJson,
}

#[derive(Serialize)]
struct Line<'a, D> {
    id: EventId,
    event: &'a str,
    #[serde(flatten)]
    data: &'a D,
}

impl EventFormat {
    pub(crate) const SSE_TYPE: &str = "text/event-stream";
    pub(crate) const NDJSON_TYPE: &str = "application/x-ndjson";

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            EventFormat::Sse => Self::SSE_TYPE,
            EventFormat::NdJson => Self::NDJSON_TYPE,
        }
    }

    /// What a stream begins with: after how many milliseconds a browser comes back. No empty line
    /// ends it, nor a heartbeat: some clients hand on an empty event for each that does.
    pub(crate) fn opening(self) -> &'static [u8] {
        match self {
            EventFormat::Sse => b"retry: 2000\n",
            EventFormat::NdJson => b"",
        }
    }

    /// What says nothing and keeps proxies awake: a comment, or an empty line.
    pub(crate) fn heartbeat(self) -> &'static [u8] {
        match self {
            EventFormat::Sse => b": still here\n",
            EventFormat::NdJson => b"\n",
        }
    }

    /// Appends one event. `data` is an object of ours, which writes into memory without fail.
    pub(crate) fn write(
        self,
        out: &mut Vec<u8>,
        id: impl Into<EventId>,
        event: &str,
        data: &impl Serialize,
    ) {
        let id = id.into();
        match self {
            EventFormat::Sse => {
                out.extend_from_slice(format!("id: {id}\nevent: {event}\ndata: ").as_bytes());
                let _ = serde_json::to_writer(&mut *out, data);
                out.extend_from_slice(b"\n\n");
            }
            EventFormat::NdJson => {
                let _ = serde_json::to_writer(&mut *out, &Line { id, event, data });
                out.push(b'\n');
            }
        }
    }
}
