//! One connection, from its first request to its end.

use std::io::Read;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::executor::panic_text;
use crate::http::chunks::Broken;
use crate::http::connection::{Connection, Intake, Next, Phase};
use crate::http::head::{self, BodyLength, Head, body_too_large, malformed};
use crate::http::request::{Client, Headers};
use crate::http::response::Body;
use crate::http::transport::Shared;
use crate::http::wire::{self, Framing, write};
use crate::http::{Method, Problem, Request, sys};

/// A connection's requests, as the parser yields them.
pub(super) type Requests = Box<dyn Iterator<Item = Result<tiny_http::Request, String>> + Send>;

/// Serves one connection to its end.
pub(super) fn serve(shared: &Shared, mut requests: Requests, connection: &Connection) {
    let mut intake = Intake::new(connection);
    let opened = shared.clock();
    let mut first = Some(opened);
    while serve_next(shared, &mut requests, connection, &mut intake, first.take()) {
        let keep_alive = shared.options.keep_alive_timeout;
        connection.enter(Phase::Idle, shared.clock(), keep_alive);
    }
    // First the socket, then the crate's writer: what it still holds was not asked for.
    close(connection);
    drop(requests);
}

/// Answers the next request; false where the connection ends with it. A connection's first
/// request began when it was `opened`, a later one with its first byte.
fn serve_next(
    shared: &Shared,
    requests: &mut Requests,
    connection: &Connection,
    intake: &mut Intake<'_>,
    opened: Option<u64>,
) -> bool {
    let options = &shared.options;
    let mut begun = 0;
    let next = intake.next_head(options.max_body_bytes, || {
        begun = opened.unwrap_or_else(|| shared.clock());
        connection.enter(Phase::Reading, begun, options.head_timeout);
    });
    let head = match next {
        Next::Head(head) => head,
        Next::Refused(problem) => {
            refuse(shared, connection, problem);
            return false;
        }
        Next::Gone => {
            if intake.has_begun() && connection.is_late(shared.clock()) {
                refuse(shared, connection, too_slow());
            }
            return false;
        }
    };
    connection.enter(Phase::Reading, begun, options.request_timeout);
    match intake.take(&head) {
        Ok(false) => {}
        Ok(true) => {
            let keep = exchange_head(shared, connection, intake.bytes_of(&head), &head);
            intake.pass(&head);
            return keep;
        }
        Err(_) => return false,
    }
    let body = match head.body {
        BodyLength::Bytes(length) => length,
        BodyLength::None => 0,
        BodyLength::Chunked => {
            exchange_chunked(shared, connection, intake, &head);
            return false;
        }
    };
    let length = head.length + body;
    intake.look_behind(length);
    let raw = match requests.next() {
        Some(Ok(raw)) => raw,
        Some(Err(error)) => {
            log::debug!("A request could not be read: {}", crate::LogSafe(&error));
            refuse(shared, connection, not_whole(shared, connection));
            return false;
        }
        None => return false,
    };
    exchange(shared, raw, connection, body, || {
        intake.finish(length) && !head.is_last
    })
}

/// Says no to what is not a request, or not yet.
pub(super) fn refuse(shared: &Shared, connection: &Connection, problem: Problem) {
    let within = shared.options.request_timeout;
    connection.enter(Phase::Writing, shared.clock(), within);
    shared.refused.count(problem.status);
    let id = shared.new_id();
    let response = problem.into_response(&id);
    write(&connection.socket, response, &id, Framing::CLOSE);
}

fn too_slow() -> Problem {
    let message = "The request took too long to arrive";
    Problem::new(408, "request_timeout", message)
}

fn not_whole(shared: &Shared, connection: &Connection) -> Problem {
    match connection.is_late(shared.clock()) {
        true => too_slow(),
        false => malformed("The body did not arrive whole"),
    }
}

/// Ends a connection after its last answer. Closing over unread bytes would reset it and take
/// the answer with it, so what the client still sends is read away, for a moment.
fn close(connection: &Connection) {
    let mut socket = &connection.socket;
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
    let mut scrap = [0; 4096];
    for _ in 0..32 {
        if !matches!(socket.read(&mut scrap), Ok(n) if n > 0) {
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
    }
    connection.reset();
}

/// Answers one request; false where the connection ends with it. `can_go_on` tells, once the
/// body is read, whether the next request can be found.
fn exchange(
    shared: &Shared,
    mut raw: tiny_http::Request,
    connection: &Connection,
    length: usize,
    can_go_on: impl FnOnce() -> bool,
) -> bool {
    let Some(body) = read_body(&mut raw, length) else {
        refuse(shared, connection, not_whole(shared, connection));
        // `raw` waits for the rest of the body, unless that cannot come any more.
        close(connection);
        return false;
    };
    let headers = TinyHeaders(raw.headers());
    let asked = Asked {
        method: Method::parse(raw.method().as_str()),
        target: raw.url(),
        headers: &headers,
        is_old: *raw.http_version() <= (1, 0),
    };
    let keep = answer(shared, connection, &asked, &body, can_go_on());
    // Takes the crate's writer away, which would answer 500 where nobody used it.
    drop(raw.into_writer());
    keep
}

/// Answers a request that is its head alone: the gate has read it, and the parser need not.
fn exchange_head(shared: &Shared, connection: &Connection, bytes: &[u8], head: &Head) -> bool {
    let Some((method, target, headers)) = head::split(bytes) else {
        return false;
    };
    let asked = Asked {
        method: Method::parse(method),
        target,
        headers: &headers,
        is_old: head.is_old,
    };
    answer(shared, connection, &asked, &[], !head.is_last)
}

/// Answers a request whose body comes in chunks, the last of its connection: where it ends, the
/// parser cannot know.
fn exchange_chunked(shared: &Shared, connection: &Connection, intake: &Intake<'_>, head: &Head) {
    let Some((method, target, headers)) = head::split(intake.bytes_of(head)) else {
        return;
    };
    if headers.get("Expect").is_some() && wire::tell_to_continue(&connection.socket).is_err() {
        return;
    }
    match intake.read_chunked(head, shared.options.max_body_bytes) {
        Ok(body) => {
            let asked = Asked {
                method: Method::parse(method),
                target,
                headers: &headers,
                is_old: false,
            };
            answer(shared, connection, &asked, &body, false);
        }
        Err(Broken::TooLarge) => {
            let problem = body_too_large(shared.options.max_body_bytes);
            refuse(shared, connection, problem);
        }
        Err(Broken::Malformed) => refuse(shared, connection, malformed("A chunk is malformed")),
        Err(Broken::Cut) => refuse(shared, connection, not_whole(shared, connection)),
    }
}

/// A request without its body, whoever has read it.
struct Asked<'a> {
    method: Method,
    target: &'a str,
    headers: &'a dyn Headers,
    /// Whether it is HTTP/1.0.
    is_old: bool,
}

/// Has a request answered; false where the connection ends with it, as it does where it cannot
/// `go_on`.
fn answer(
    shared: &Shared,
    connection: &Connection,
    asked: &Asked<'_>,
    body: &[u8],
    go_on: bool,
) -> bool {
    let id = match asked.headers.get("X-Request-Id") {
        Some(id) if is_sane_id(id) => id.to_owned(),
        _ => shared.new_id(),
    };
    let last = !go_on || shared.is_stopping();
    connection.work();
    let (keep, word) = persistence(asked);
    let framing = Framing {
        head_only: asked.method == Method::Head,
        chunks: !asked.is_old,
        connection: if last { Some("close") } else { word },
    };
    let client = Client {
        peer: Some(connection.peer.ip().to_canonical()),
        request_id: &id,
        is_open: &|| sys::is_open(&connection.socket),
    };
    let request = Request::new(asked.method, asked.target, asked.headers, body, client);
    let response = catch_unwind(AssertUnwindSafe(|| (shared.service)(&request)));
    let response = response.unwrap_or_else(|panic| {
        let text = panic_text(&*panic).to_owned();
        log::error!("A handler panicked: {}", crate::LogSafe(&text));
        shared.refused.count(500);
        let message = "Something went wrong here; the server's log has the details";
        Problem::new(500, "internal_error", message).into_response(&id)
    });
    if !matches!(response.body, Body::Stream(_)) {
        let within = shared.options.request_timeout;
        connection.enter(Phase::Writing, shared.clock(), within);
    }
    write(&connection.socket, response, &id, framing) && keep && !last
}

/// Whether the connection stays open (as the crate sees it), and the word to say about it.
fn persistence(asked: &Asked<'_>) -> (bool, Option<&'static str>) {
    let wish = asked.headers.get("Connection");
    let wish = wish.map(str::to_ascii_lowercase);
    let has = |word| wish.as_deref().is_some_and(|wish| wish.contains(word));
    if has("close") || has("upgrade") || asked.is_old && !has("keep-alive") {
        (false, Some("close"))
    } else {
        (true, asked.is_old.then_some("keep-alive"))
    }
}

/// The client's own request id is used where it can do no harm in a header or a log.
fn is_sane_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    (1..=128).contains(&id.len()) && id.bytes().all(allowed)
}

/// The body; `None` where it has not arrived whole.
fn read_body(raw: &mut tiny_http::Request, length: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if length > 0 {
        let mut reader = raw.as_reader().take(length as u64);
        reader.read_to_end(&mut body).ok()?;
    }
    (body.len() == length).then_some(body)
}

struct TinyHeaders<'a>(&'a tiny_http::Headers);

impl Headers for TinyHeaders<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        // The crate lends only the first of a name: rename each one that was seen.
        let mut rest = self.0.clone();
        let mut values = Vec::new();
        while let Some(header) = rest.get_header_mut(name) {
            values.push(header.value.as_str().to_owned());
            match tiny_http::HeaderField::try_from("Seen") {
                Ok(seen) => header.field = seen,
                Err(_) => break,
            }
        }
        values
    }
}
