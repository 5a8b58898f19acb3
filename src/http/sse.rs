//! Live events on the wire: `text/event-stream`, and one JSON object a line.

use serde::Serialize;

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
    id: u64,
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
    pub(crate) fn write(self, out: &mut Vec<u8>, id: u64, event: &str, data: &impl Serialize) {
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
