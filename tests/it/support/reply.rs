//! Answers, whole or piece by piece.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::API;
use super::document::{self, Items};

/// An answer that comes piece by piece.
pub(crate) struct Stream {
    pub(crate) head: Reply,
    pub(super) reader: BufReader<TcpStream>,
    pub(super) unread: Vec<u8>,
    /// What each event must be.
    pub(super) items: Option<Items>,
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: u64,
    /// The number of the newest line, where the stream tells the log.
    pub(crate) line: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Stream {
    pub(crate) fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub(crate) fn set_patience(&self, patience: Duration) {
        let socket = self.socket();
        socket.set_read_timeout(Some(patience)).expect("a timeout");
    }

    /// The next piece of text that ends with `end`; `None` at the proper end of the stream.
    #[track_caller]
    pub(crate) fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self
                .unread
                .windows(end.len())
                .position(|w| w == end.as_bytes());
            if let Some(at) = found {
                let piece = self.unread.drain(..at + end.len()).collect();
                let piece = String::from_utf8(piece).expect("UTF-8");
                self.check_lines(&piece);
                return Some(piece);
            }
            match read_chunk(&mut self.reader) {
                Some(chunk) => self.unread.extend(chunk),
                None => {
                    assert!(self.unread.is_empty(), "the stream ends within a line");
                    return None;
                }
            }
        }
    }

    /// What is left, up to the proper end.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> String {
        while let Some(chunk) = read_chunk(&mut self.reader) {
            self.unread.extend(chunk);
        }
        let rest = String::from_utf8(std::mem::take(&mut self.unread)).expect("UTF-8");
        self.check_lines(&rest);
        rest
    }

    /// Checks each line, where this stream is one of lines.
    #[track_caller]
    fn check_lines(&self, text: &str) {
        if let Some(items) = self.items.as_ref().filter(|items| items.are_lines) {
            for line in text.lines().filter(|line| !line.is_empty()) {
                items.check(&serde_json::from_str(line).expect("JSON"));
            }
        }
    }

    /// The next event, past comments and `retry`; `None` at the proper end. Each empty line ends
    /// an event: clients differ in what they make of one that ends nothing.
    #[track_caller]
    pub(crate) fn event(&mut self) -> Option<Event> {
        let block = self.until("\n\n")?;
        let field = |name: &str| {
            let mut lines = block.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_else(|| panic!("no {name} in {block:?}"))
        };
        let (id, line) = match field("id").split_once('.') {
            Some((id, line)) => (id, Some(line.parse().expect("a number"))),
            None => (field("id"), None),
        };
        let event = Event {
            id: id.parse().expect("a number"),
            line,
            name: field("event").to_owned(),
            data: serde_json::from_str(field("data")).expect("JSON"),
        };
        if let Some(items) = &self.items {
            items.check(&event.data);
        }
        Some(event)
    }

    /// Every event to the end.
    #[track_caller]
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.event()).collect()
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    #[track_caller]
    pub(crate) fn read(stream: &mut impl BufRead, method: &str) -> Reply {
        let mut line = || {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a line of the head");
            line.trim_end().to_owned()
        };
        let first = line();
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {first:?}"));
        let mut headers = Vec::new();
        loop {
            let text = line();
            let Some((name, value)) = text.split_once(':') else {
                assert!(text.is_empty(), "not a header: {text:?}");
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply {
            status,
            headers,
            body: Vec::new(),
        };
        if status == 100 {
            return Reply::read(stream, method);
        }
        if method == "HEAD" || status == 204 || status == 304 {
            return reply;
        }
        if reply.header("Transfer-Encoding") == Some("chunked") {
            reply.body = read_chunks(stream);
        } else {
            let length = reply.header("Content-Length").expect("a Content-Length");
            let length = length.parse().expect("Content-Length is a number");
            reply.body = vec![0; length];
            stream.read_exact(&mut reply.body).expect("the whole body");
        }
        reply
    }

    /// What every answer of this server must have.
    #[track_caller]
    pub(super) fn check(&self, method: &str, target: &str) {
        self.check_head(method, target);
        self.check_body(method, target);
    }

    /// As [`check`](Self::check), of an answer whose body comes later.
    #[track_caller]
    pub(super) fn check_head(&self, method: &str, target: &str) {
        let context = format!("{method} {target} → {self}");
        let request_id = self.header("X-Request-Id");
        assert!(request_id.is_some_and(|id| !id.is_empty()), "{context}");
        // Files of the page are kept, under names that change with them.
        let is_kept = target.starts_with("/assets/") && self.status == 200;
        let caching = match is_kept {
            true => "public, max-age=31536000, immutable",
            false => "no-store",
        };
        assert_eq!(self.header("Cache-Control"), Some(caching), "{context}");
        let is_session_scoped = ["/tasks", "/demo", "/health"]
            .iter()
            .any(|route| target.starts_with(&format!("{API}{route}")));
        if self.status < 400 && is_session_scoped && method != "OPTIONS" {
            assert!(self.header("X-App-Session").is_some(), "{context}");
        }
        let kind = self.header("Content-Type").unwrap_or_default();
        if self.status >= 400 && !kind.starts_with("text/html") {
            assert_eq!(kind, "application/problem+json", "{context}");
        } else if !self.body.is_empty() && is_session_scoped && !kind.starts_with("text/plain") {
            let forms = ["application/json", "application/x-asciicast"];
            assert!(forms.contains(&kind), "{context}");
        }
        document::check(method, target, self, false);
    }

    #[track_caller]
    fn check_body(&self, method: &str, target: &str) {
        let context = format!("{method} {target} → {self}");
        let kind = self.header("Content-Type").unwrap_or_default();
        document::check(method, target, self, method != "HEAD");
        if self.status < 400 || method == "HEAD" || kind.starts_with("text/html") {
            return;
        }
        let request_id = self.header("X-Request-Id");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{context}");
        assert_eq!(body["success"], false, "{context}");
        assert_eq!(body["requestId"].as_str(), request_id, "{context}");
        for member in ["title", "message", "code"] {
            let text = body[member].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{member} is missing: {context}");
        }
        let is_snake = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        assert!(self.code().bytes().all(is_snake), "{context}");
        for secret in ["/src/", ".rs:", "panicked", "::", "serde"] {
            assert!(!self.text().contains(secret), "shows {secret}: {context}");
        }
        if let Some(errors) = body.get("errors") {
            let errors = errors.as_array().expect("errors is a list");
            assert!(!errors.is_empty(), "{context}");
            for error in errors {
                assert!(error["field"].is_string(), "{context}");
                assert!(error["message"].is_string(), "{context}");
            }
        }
    }

    /// This reply, where it has that status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Reply {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// This reply, where it is a problem of that status and code.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Reply {
        assert_eq!((self.status, &*self.code()), (status, code), "{self}");
        self
    }

    /// The first header of that name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn message(&self) -> String {
        let body = self.json();
        body["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The fields that a validation names, sorted.
    #[track_caller]
    pub(crate) fn bad_fields(&self) -> Vec<String> {
        let body = self.json();
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let mut fields: Vec<String> = errors
            .iter()
            .filter_map(|error| error["field"].as_str().map(str::to_owned))
            .collect();
        fields.sort();
        fields
    }

    /// The seconds of `Retry-After`.
    #[track_caller]
    pub(crate) fn retry_after(&self) -> u64 {
        let value = self.header("Retry-After");
        value
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or_else(|| panic!("no Retry-After in seconds: {self}"))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

fn read_chunks(stream: &mut impl BufRead) -> Vec<u8> {
    std::iter::from_fn(|| read_chunk(stream))
        .flatten()
        .collect()
}

/// The next chunk; `None` for the last one, which is empty.
#[track_caller]
fn read_chunk(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a chunk's size");
    let size = usize::from_str_radix(line.trim_end(), 16).expect("a size in hex");
    let mut chunk = vec![0; size + 2];
    stream.read_exact(&mut chunk).expect("a whole chunk");
    chunk.truncate(size);
    (size > 0).then_some(chunk)
}
