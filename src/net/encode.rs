//! Writes responses as bytes.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use crate::http::Peer;
use crate::http::response::{Body, BodyWriter, Parts, Response, Stream, reason_phrase};
use crate::net::socket;
use crate::threads::panic_text;

/// Where a response goes: the socket of a connection, as a rule.
pub(super) trait Sink: Write {
    /// What is known of the client, without sending anything.
    fn peer(&self) -> Peer;
}

/// How a response is framed, and what happens to the connection after it.
#[derive(Clone, Copy)]
pub(super) struct Framing {
    pub(super) head_only: bool,
    /// Whether the client understands chunks; if not, the end of the connection ends a body of unknown length.
    pub(super) chunks: bool,
    pub(super) connection: After,
}

/// What happens to the connection after a response.
#[derive(Clone, Copy)]
pub(super) enum After {
    Close,
    /// It is kept for so many seconds. HTTP/1.0 has to be `told`, since closing is its default.
    Keep {
        seconds: u64,
        told: bool,
    },
    /// Somebody else decides and tells.
    #[cfg(feature = "tiny-http")]
    Unsaid,
}

impl Sink for &TcpStream {
    fn peer(&self) -> Peer {
        socket::peer(self)
    }
}

impl Framing {
    pub(super) const CLOSE: Framing = Framing {
        head_only: false,
        chunks: true,
        connection: After::Close,
    };
}

/// A body up to this size goes out with the head. A larger one goes as fast as its client reads.
const WITH_HEAD: usize = 16 * 1024;

/// What a thread keeps of its buffer between two responses: a head, and a small body behind it.
const KEPT_BUFFER: usize = 2 * 1024;

/// A client that reads an answer slower than this, in bytes a second, only holds it.
const MIN_SPEED: u64 = 4 * 1024;

/// Writes a response; whether the connection can take another. The time a response may take begins with `within`, and
/// grows with what the client has read.
pub(super) fn write(
    out: &mut dyn Sink,
    response: Response,
    id: &str,
    framing: Framing,
    within: Duration,
) -> bool {
    thread_local! {
        /// Each connection thread renders into one buffer, again and again.
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let bodiless = framing.head_only || matches!(response.status, 204 | 304);
    let written = BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        render_head(buffer, &response, id, framing);
        let written = match &response.body {
            Body::Bytes(body) if !bodiless && body.len() <= WITH_HEAD => {
                write_both(out, buffer, body)
            }
            _ => out.write_all(buffer),
        };
        let written = written.and_then(|()| out.flush()).is_ok();
        buffer.clear();
        buffer.shrink_to(KEPT_BUFFER);
        written
    });
    if !written || bodiless {
        return written;
    }
    match response.body {
        Body::Bytes(body) if body.len() > WITH_HEAD => {
            let mut paced = Paced::new(out, within);
            let written = paced.write_all(&body);
            written.and_then(|()| paced.flush()).is_ok()
        }
        Body::Bytes(_) => true,
        Body::Parts(first, parts) => {
            let all = move |out: &mut dyn BodyWriter| send_parts(out, first, parts);
            send_stream(&mut Paced::new(out, within), Box::new(all), framing.chunks)
        }
        // Its pace is that of the events.
        Body::Stream(stream) => send_stream(out, stream, framing.chunks),
    }
}

/// Writes head and body with one system call, as a rule. A copy of a small body is cheaper than a call with two parts.
fn write_both(out: &mut dyn Sink, head: &mut Vec<u8>, body: &[u8]) -> io::Result<()> {
    if head.len() + body.len() <= KEPT_BUFFER {
        head.extend_from_slice(body);
        return out.write_all(head);
    }
    let written = match out.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
        Err(error) if error.kind() == ErrorKind::Interrupted => 0,
        written => written?,
    };
    out.write_all(&head[written.min(head.len())..])?;
    out.write_all(&body[written.saturating_sub(head.len())..])
}

/// A whole response in one piece. Its body must not be a stream.
pub(super) fn to_bytes(response: Response, id: &str, framing: Framing) -> Vec<u8> {
    let mut out = Vec::new();
    render_head(&mut out, &response, id, framing);
    if let Body::Bytes(body) = &response.body {
        out.extend_from_slice(body);
    }
    out
}

/// Lets a client go on that waits to be told before it sends its body.
pub(super) fn tell_to_continue(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
}

/// Writes as long as the client reads on at some speed.
struct Paced<'a> {
    out: &'a mut dyn Sink,
    begun: Instant,
    within: Duration,
    written: u64,
}

impl<'a> Paced<'a> {
    fn new(out: &'a mut dyn Sink, within: Duration) -> Paced<'a> {
        Paced {
            out,
            begun: Instant::now(),
            within,
            written: 0,
        }
    }
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let earned = Duration::from_secs(self.written / MIN_SPEED);
        if self.begun.elapsed() > self.within + earned {
            return Err(ErrorKind::TimedOut.into());
        }
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Sink for Paced<'_> {
    fn peer(&self) -> Peer {
        self.out.peer()
    }
}

fn send_parts(out: &mut dyn BodyWriter, first: Vec<u8>, mut parts: Box<Parts>) -> io::Result<()> {
    let (mut part, mut more) = (first, true);
    while more {
        out.send(&part)?;
        part.clear();
        more = parts(&mut part);
    }
    out.send(&part)
}

fn render_head(out: &mut Vec<u8>, response: &Response, id: &str, framing: Framing) {
    let status = response.status;
    let mut put = |parts: &[&str]| {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
    };
    let date = http_date();
    let mut digits = itoa::Buffer::new();
    put(&[
        "HTTP/1.1 ",
        digits.format(status),
        " ",
        reason_phrase(status),
    ]);
    put(&["\r\nDate: ", &date, "\r\nX-Request-Id: ", id]);
    if response.header("Cache-Control").is_none() {
        put(&["\r\nCache-Control: no-store"]);
    }
    put(&["\r\nX-Content-Type-Options: nosniff"]);
    for (name, value) in &response.headers {
        // Nothing a handler hands on can end the line early.
        debug_assert!(!value.contains(['\r', '\n']));
        put(&["\r\n", name, ": ", value]);
    }
    let mut after = framing.connection;
    match &response.body {
        _ if matches!(status, 204 | 304) => {}
        Body::Bytes(body) => put(&["\r\nContent-Length: ", digits.format(body.len())]),
        _ if framing.chunks => put(&["\r\nTransfer-Encoding: chunked"]),
        _ => after = After::Close,
    }
    match after {
        After::Close => put(&["\r\nConnection: close"]),
        After::Keep { seconds, told } => {
            if told {
                put(&["\r\nConnection: keep-alive"]);
            }
            put(&["\r\nKeep-Alive: timeout=", digits.format(seconds)]);
        }
        #[cfg(feature = "tiny-http")]
        After::Unsaid => {}
    }
    put(&["\r\n\r\n"]);
}

/// The time for the `Date` header, written anew once a second.
fn http_date() -> Rc<str> {
    thread_local! {
        static LAST: RefCell<(u64, Rc<str>)> = RefCell::new((0, "".into()));
    }
    // No date before that can be told.
    let now = SystemTime::now().max(SystemTime::UNIX_EPOCH);
    let second = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second {
            *text = httpdate::fmt_http_date(now).into();
            *last = second;
        }
        text.clone()
    })
}

/// Runs a stream to its end; whether the connection can take another response.
fn send_stream(out: &mut dyn Sink, stream: Box<Stream>, chunks: bool) -> bool {
    let mut body = StreamBody {
        out,
        chunks,
        buffer: Vec::new(),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| stream(&mut body)));
    match ended {
        Ok(Ok(())) => chunks && body.put(b"0\r\n\r\n").is_ok(),
        // The client is gone.
        Ok(Err(_)) => false,
        Err(panic) => {
            let text = panic_text(&*panic);
            log::error!("A stream panicked: {}", crate::log_safe::LogSafe(text));
            false
        }
    }
}

struct StreamBody<'a> {
    out: &'a mut dyn Sink,
    chunks: bool,
    buffer: Vec<u8>,
}

impl StreamBody<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }
}

impl BodyWriter for StreamBody<'_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A chunk of no bytes would end the body.
        if bytes.is_empty() || !self.chunks {
            return self.put(bytes);
        }
        self.buffer.clear();
        write!(self.buffer, "{:x}\r\n", bytes.len())?;
        if bytes.len() > WITH_HEAD {
            // Copied, it would be held twice for as long as the client does not read.
            self.out.write_all(&self.buffer)?;
            self.out.write_all(bytes)?;
            return self.put(b"\r\n");
        }
        self.buffer.extend_from_slice(bytes);
        self.buffer.extend_from_slice(b"\r\n");
        self.out.write_all(&self.buffer)?;
        self.out.flush()
    }

    fn peer(&self) -> Peer {
        self.out.peer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Anywhere;

    impl Write for Anywhere {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Anywhere {
        fn peer(&self) -> Peer {
            Peer::Open
        }
    }

    #[test]
    fn a_reader_below_the_least_speed_is_cut_off_once_the_time_is_over() {
        let ten_seconds_ago = Instant::now() - Duration::from_secs(10);
        for (seconds_read, within, goes_on) in [(3, 5, false), (6, 5, true), (0, 11, true)] {
            let mut out = Anywhere;
            let mut paced = Paced::new(&mut out, Duration::from_secs(within));
            paced.begun = ten_seconds_ago;
            paced.written = seconds_read * MIN_SPEED;
            assert_eq!(paced.write(b"more").is_ok(), goes_on, "{seconds_read}");
        }
    }
}
