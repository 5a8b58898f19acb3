//! Streamed responses: their format, their first event and their end.

use std::io;
use std::time::{Duration, Instant};

use crate::http::sse::{EventFormat, EventId};
use crate::http::{BodyWriter, Peer, Problem, Request};
use crate::semaphore::{Permit, Semaphore};

/// How often a stream that has nothing to say looks whether its client is still there.
pub(crate) const LOOK: Duration = Duration::from_millis(1_500);

/// How soon after a heartbeat that was a question it looks for the answer.
const PROBE: Duration = Duration::from_millis(100);

/// How long a stream is silent at most.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A place among the open streams.
pub(crate) fn permit(streams: &Semaphore) -> Result<Permit, Problem> {
    streams.take().ok_or_else(|| {
        let max = streams.max();
        let message = format!("All {max} streams are taken (MAX_STREAMS); poll, or try again");
        Problem::new(503, "too_many_streams", message).with("Retry-After", "5")
    })
}

/// The format that the client asks for.
pub(crate) fn format(request: &Request<'_>) -> EventFormat {
    let (sse, lines) = (EventFormat::SSE_TYPE, EventFormat::NDJSON_TYPE);
    match request.wanted(&[sse, lines], sse) == lines {
        true => EventFormat::NdJson,
        false => EventFormat::Sse,
    }
}

/// The last event that a returning client has seen.
pub(crate) fn last_event(request: &Request<'_>) -> Option<EventId> {
    EventId::parse(request.header("Last-Event-ID")?.trim())
}

/// Its number.
pub(crate) fn last_event_id(request: &Request<'_>) -> Option<u32> {
    u32::try_from(last_event(request)?.number).ok()
}

/// Sends what `next` appends, as events of this format.
pub(crate) fn stream_events(
    out: &mut dyn BodyWriter,
    format: EventFormat,
    next: impl FnMut(&mut Vec<u8>, Duration) -> bool,
) -> io::Result<()> {
    out.send(format.opening())?;
    stream_bytes(out, LOOK, format.heartbeat(), next)
}

/// Sends what `next` appends within the patience it is given, until it returns false or the
/// client has gone. `heartbeat` breaks a long silence.
pub(crate) fn stream_bytes(
    out: &mut dyn BodyWriter,
    patience: Duration,
    heartbeat: &[u8],
    mut next: impl FnMut(&mut Vec<u8>, Duration) -> bool,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut silence = Silence::default();
    let mut more = true;
    while more {
        more = next(&mut buffer, patience.min(silence.left()));
        if buffer.is_empty() {
            match silence.judge(out.peer(), heartbeat) {
                Judgement::Wait => continue,
                Judgement::Send => buffer.extend_from_slice(heartbeat),
                Judgement::Stop => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        out.send(&buffer)?;
        buffer.clear();
        buffer.shrink_to(2_048);
        silence.begun = Instant::now();
    }
    Ok(())
}

/// How long a stream has been silent, and whether its client is still there.
struct Silence {
    begun: Instant,
    /// A heartbeat was sent to find out whether a client that sends no more has closed the connection: then its
    /// system answers that nobody is there.
    is_probed: bool,
    is_probing: bool,
}

enum Judgement {
    Wait,
    Send,
    Stop,
}

impl Default for Silence {
    fn default() -> Silence {
        Silence {
            begun: Instant::now(),
            is_probed: false,
            is_probing: false,
        }
    }
}

impl Silence {
    /// How long to wait at most before the next judgement.
    fn left(&self) -> Duration {
        match self.is_probing {
            true => PROBE,
            false => HEARTBEAT.saturating_sub(self.begun.elapsed()),
        }
    }

    fn judge(&mut self, peer: Peer, heartbeat: &[u8]) -> Judgement {
        self.is_probing = false;
        let is_long = self.begun.elapsed() >= HEARTBEAT;
        match peer {
            Peer::Gone => Judgement::Stop,
            // There is nothing to ask it with.
            Peer::HalfClosed if is_long && heartbeat.is_empty() => Judgement::Stop,
            Peer::HalfClosed if !self.is_probed && !heartbeat.is_empty() => {
                self.is_probed = true;
                self.is_probing = true;
                Judgement::Send
            }
            _ if is_long => Judgement::Send,
            _ => Judgement::Wait,
        }
    }
}
