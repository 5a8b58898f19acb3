//! Answers, as bytes on a socket.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::SystemTime;

use crate::executor::panic_text;
use crate::http::response::{Body, Outlet, Parts, Response, Stream, reason_phrase};
use crate::http::sys;

/// How an answer is framed.
#[derive(Clone, Copy)]
pub(super) struct Framing {
    pub(super) head_only: bool,
    /// Whether the client understands a body in chunks; else its end is the connection's.
    pub(super) chunks: bool,
    /// `None` says nothing: HTTP/1.1's own default.
    pub(super) connection: Option<&'static str>,
}

impl Framing {
    pub(super) const CLOSE: Framing = Framing {
        head_only: false,
        chunks: true,
        connection: Some("close"),
    };
}

/// A body up to this size goes out with the head; a thread keeps a buffer for both.
const KEPT_BUFFER: usize = 16 * 1024;

/// Writes an answer; false where the connection cannot take another.
pub(super) fn write(socket: &TcpStream, response: Response, id: &str, framing: Framing) -> bool {
    thread_local! {
        /// Each connection thread renders into one buffer, again and again.
        static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let bodiless = framing.head_only || matches!(response.status, 204 | 304);
    let written = OUT.with_borrow_mut(|out| {
        out.clear();
        render_head(out, &response, id, framing);
        let mut socket = socket;
        if let (Body::Bytes(body), false) = (&response.body, bodiless)
            && body.len() <= KEPT_BUFFER
        {
            out.extend_from_slice(body);
        }
        socket.write_all(out).is_ok()
    });
    if !written || bodiless {
        return written;
    }
    match response.body {
        Body::Bytes(body) if body.len() > KEPT_BUFFER => (&*socket).write_all(&body).is_ok(),
        Body::Bytes(_) => true,
        Body::Parts(first, parts) => {
            let all = move |out: &mut dyn Outlet| send_parts(out, first, parts);
            send_stream(socket, Box::new(all), framing.chunks)
        }
        Body::Stream(stream) => send_stream(socket, stream, framing.chunks),
    }
}

/// Lets a client go on that waits to be told before it sends its body.
pub(super) fn tell_to_continue(mut socket: &TcpStream) -> io::Result<()> {
    socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
}

fn send_parts(out: &mut dyn Outlet, first: Vec<u8>, mut parts: Box<Parts>) -> io::Result<()> {
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
    let code = status.to_string();
    put(&["HTTP/1.1 ", &code, " ", reason_phrase(status)]);
    put(&["\r\nDate: ", &date, "\r\nX-Request-Id: ", id]);
    put(&["\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff"]);
    for (name, value) in &response.headers {
        // Nothing a handler hands on can end the line early.
        debug_assert!(!value.contains(['\r', '\n']));
        put(&["\r\n", name, ": ", value]);
    }
    let mut connection = framing.connection;
    match &response.body {
        _ if matches!(status, 204 | 304) => {}
        Body::Bytes(body) => put(&["\r\nContent-Length: ", &body.len().to_string()]),
        _ if framing.chunks => put(&["\r\nTransfer-Encoding: chunked"]),
        _ => connection = Some("close"),
    }
    if let Some(word) = connection {
        put(&["\r\nConnection: ", word]);
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

/// Runs a stream to its end; true where the connection is good for another request.
fn send_stream(socket: &TcpStream, stream: Box<Stream>, chunks: bool) -> bool {
    let mut body = StreamBody {
        socket,
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
    socket: &'a TcpStream,
    chunks: bool,
    buffer: Vec<u8>,
}

impl StreamBody<'_> {
    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let mut socket = self.socket;
        socket.write_all(bytes)
    }
}

impl Outlet for StreamBody<'_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A chunk of no bytes would end the body.
        if bytes.is_empty() || !self.chunks {
            return self.put(bytes);
        }
        self.buffer.clear();
        write!(self.buffer, "{:x}\r\n", bytes.len())?;
        if bytes.len() > KEPT_BUFFER {
            // Copied, it would be held twice for as long as the client does not read.
            self.put(&self.buffer)?;
            self.put(bytes)?;
            return self.put(b"\r\n");
        }
        self.buffer.extend_from_slice(bytes);
        self.buffer.extend_from_slice(b"\r\n");
        self.put(&self.buffer)
    }

    fn is_open(&self) -> bool {
        sys::is_open(self.socket)
    }
}
