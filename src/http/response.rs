//! An answer, before it becomes bytes.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use uuid::Uuid;

use crate::http::json::Object;

/// Status, headers and body. The transport adds what every answer carries.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, Cow<'static, str>)>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Bytes(Vec<u8>),
    /// Too large to be held at once: the first part, and what makes the others.
    Parts(Vec<u8>, Box<Parts>),
    /// Sent piece by piece, until the function returns or the client has gone.
    Stream(Box<Stream>),
}

/// Appends the next part, about [`PART`] bytes; false where it is the last.
pub(crate) type Parts = dyn FnMut(&mut Vec<u8>) -> bool + Send;

/// A body that is larger is made in parts of this size.
pub(crate) const PART: usize = 64 * 1024;

pub(crate) type Stream = dyn FnOnce(&mut dyn BodyWriter) -> io::Result<()> + Send;

/// The client's side of a connection, as far as it is known without sending anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Open,
    /// The client sends no more. It may still read, or have closed the connection.
    HalfClosed,
    Gone,
}

/// Where a stream goes.
pub(crate) trait BodyWriter {
    /// Sends `bytes` at once.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// What is known of the client, without sending anything.
    fn peer(&self) -> Peer;
}

impl Response {
    fn new(status: u16, content_type: &'static str, body: Body) -> Response {
        // Room for what most answers carry.
        let mut headers = Vec::with_capacity(8);
        headers.push(("Content-Type", content_type.into()));
        Response {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn empty(status: u16) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Body::Bytes(Vec::new()),
        }
    }

    pub(crate) fn bytes(content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response::new(200, content_type, Body::Bytes(body.into()))
    }

    pub(crate) fn stream(
        content_type: &'static str,
        stream: impl FnOnce(&mut dyn BodyWriter) -> io::Result<()> + Send + 'static,
    ) -> Response {
        Response::new(200, content_type, Body::Stream(Box::new(stream)))
            // Proxies that buffer would hold back what is meant to be seen now.
            .with("X-Accel-Buffering", "no")
    }

    /// A JSON object with these fields.
    pub(crate) fn object(status: u16, fields: impl FnOnce(&mut Object<'_>)) -> Response {
        let mut bytes = Vec::with_capacity(1_000);
        Object::write(&mut bytes, fields);
        bytes.push(b'\n');
        Response::json_bytes(status, bytes)
    }

    pub(crate) fn json(status: u16, body: &impl Serialize) -> Response {
        let mut bytes = Vec::with_capacity(1_000);
        // Our own types write into memory: there is nothing in it that can fail.
        let written = serde_json::to_writer(&mut bytes, body);
        debug_assert!(written.is_ok());
        // A prompt begins on a line of its own.
        bytes.push(b'\n');
        Response::json_bytes(status, bytes)
    }

    /// JSON that `parts` makes; in one piece where it is small.
    pub(crate) fn json_parts(
        mut parts: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static,
    ) -> Response {
        Response::parts("application/json", move |out| {
            let more = parts(out);
            if !more {
                out.push(b'\n');
            }
            more
        })
    }

    /// What `parts` makes; in one piece where it is small.
    pub(crate) fn parts(
        content_type: &'static str,
        mut parts: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static,
    ) -> Response {
        // Room for what most lists take.
        let mut first = Vec::with_capacity(8 * 1024);
        let body = match parts(&mut first) {
            true => Body::Parts(first, Box::new(parts)),
            false => Body::Bytes(first),
        };
        Response::new(200, content_type, body)
    }

    pub(crate) fn json_bytes(status: u16, body: Vec<u8>) -> Response {
        Response::new(status, "application/json", Body::Bytes(body))
    }

    pub(crate) fn with(
        mut self,
        name: &'static str,
        value: impl Into<Cow<'static, str>>,
    ) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The id of what was created: `Location` ends with it.
    pub(crate) fn created_id(&self) -> Option<Uuid> {
        self.header("Location")?.rsplit('/').next()?.parse().ok()
    }

    /// The same answer in another form.
    pub(crate) fn with_body_of(mut self, other: Response) -> Response {
        self.headers.retain(|(name, _)| *name != "Content-Type");
        self.headers.extend(other.headers);
        self.body = other.body;
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(n, _)| *n == name).map(|(_, v)| &**v)
    }
}

/// The phrase of a status, for the status line and a problem's title.
pub(crate) fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
