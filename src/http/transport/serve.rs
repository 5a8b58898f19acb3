//! One connection, from its first request to its end.

use std::io::Read;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::executor::panic_text;
use crate::http::chunks::Broken;
use crate::http::connection::{Connection, Intake, Next, Phase};
use crate::http::head::{self, BodyLength, Head, body_too_large, malformed};
use crate::http::request::Client;
use crate::http::response::Body;
use crate::http::transport::Shared;
use crate::http::wire::{self, Framing, write};
use crate::http::{Method, Problem, Request, sys};

/// A connection's requests, as the parser yields them.
pub(super) type Requests = Box<dyn Iterator<Item = Result<tiny_http::Request, String>> + Send>;

/// Serves one connection to its end.
pub(super) fn serve(shared: &Shared, requests: Requests, connection: &Connection) {
    let mut conversation = Conversation {
        shared,
        connection,
        requests,
        intake: Intake::new(connection),
    };
    let mut head = Vec::new();
    let mut first = Some(shared.clock());
    while conversation.exchange(&mut head, first.take()) {
        let keep_alive = shared.options.keep_alive_timeout;
        connection.enter(Phase::Idle, shared.clock(), keep_alive);
    }
    // First the socket, then the crate's writer: what it still holds was not asked for.
    close(connection);
    drop(conversation);
}

/// A connection with what has come on it.
struct Conversation<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    requests: Requests,
    intake: Intake<'a>,
}

impl Conversation<'_> {
    /// Answers the next request, whose head is read into `bytes`; false where the connection ends
    /// with it. A connection's first request began when it was `opened`, a later one with its first
    /// byte.
    fn exchange(&mut self, bytes: &mut Vec<u8>, opened: Option<u64>) -> bool {
        let (shared, connection) = (self.shared, self.connection);
        let options = &shared.options;
        let mut begun = 0;
        let next = self.intake.next_head(bytes, || {
            begun = opened.unwrap_or_else(|| shared.clock());
            connection.enter(Phase::Reading, begun, options.head_timeout);
        });
        let head = match next {
            Next::Head => head::parse(bytes, options.max_body_bytes),
            Next::Refused(problem) => Err(problem),
            Next::Gone => {
                if self.intake.has_begun() && connection.is_late(shared.now()) {
                    refuse(shared, connection, None, too_slow());
                }
                return false;
            }
        };
        let head = match head {
            Ok(head) => head,
            Err(problem) => {
                refuse(shared, connection, head::request_id(bytes), problem);
                return false;
            }
        };
        connection.enter(Phase::Reading, begun, options.request_timeout);
        match head.body {
            BodyLength::None if !self.intake.is_parsers() => {
                self.intake.take(bytes.len()).is_ok()
                    && answer(shared, connection, &head, &[], !head.is_last)
            }
            BodyLength::None => self.exchange_parsed(&head, bytes.len(), 0),
            BodyLength::Bytes(body) if self.intake.reads() || self.is_beyond_parser(&head) => {
                self.exchange_read(&head, bytes.len(), body)
            }
            BodyLength::Bytes(body) => self.exchange_parsed(&head, bytes.len(), body),
            BodyLength::Chunked => {
                self.exchange_chunked(&head, bytes.len());
                false
            }
        }
    }

    /// Whether the parser would get it wrong: it refuses header names with more signs than it knows,
    /// and puts headers into its `100 Continue`.
    fn is_beyond_parser(&self, head: &Head<'_>) -> bool {
        let suits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let odd = |name: &str| !name.bytes().all(suits) || name.eq_ignore_ascii_case("Expect");
        let mut headers = head.headers.0.iter();
        !self.intake.is_parsers() && headers.any(|(name, _)| odd(name))
    }

    /// Answers a request whose body the gate reads.
    fn exchange_read(&mut self, head: &Head<'_>, head_length: usize, body: usize) -> bool {
        let (shared, connection) = (self.shared, self.connection);
        if !self.lets_send(head) {
            return false;
        }
        match self.intake.take_body(head_length, body) {
            Ok(body) => answer(shared, connection, head, &body, !head.is_last),
            Err(_) => {
                refuse_cut(shared, connection, head);
                false
            }
        }
    }

    /// Tells a client that waits for it to send its body; false where it is gone.
    fn lets_send(&self, head: &Head<'_>) -> bool {
        head.headers.get("Expect").is_none()
            || wire::tell_to_continue(&self.connection.socket).is_ok()
    }

    /// Answers a request whose body the parser reads.
    fn exchange_parsed(&mut self, head: &Head<'_>, head_length: usize, body: usize) -> bool {
        let (shared, connection) = (self.shared, self.connection);
        let length = head_length + body;
        self.intake.look_behind(length);
        let mut raw = match self.requests.next() {
            Some(Ok(raw)) => raw,
            Some(Err(error)) => {
                log::debug!(
                    "A request could not be read: {}",
                    crate::log_safe::LogSafe(&error)
                );
                refuse_cut(shared, connection, head);
                return false;
            }
            None => return false,
        };
        let Some(body) = read_body(&mut raw, body) else {
            refuse_cut(shared, connection, head);
            // `raw` waits for the rest of the body, unless that cannot come any more.
            close(connection);
            return false;
        };
        let go_on = self.intake.finish(length) && !head.is_last;
        let keep = answer(shared, connection, head, &body, go_on);
        // Takes the crate's writer away, which would answer 500 where nobody used it.
        drop(raw.into_writer());
        keep
    }

    /// Answers a request whose body comes in chunks, the last of its connection: where it ends,
    /// the parser cannot know.
    fn exchange_chunked(&self, head: &Head<'_>, head_length: usize) {
        let (shared, connection) = (self.shared, self.connection);
        if !self.lets_send(head) {
            return;
        }
        let id = head.headers.get("X-Request-Id");
        let max = shared.options.max_body_bytes;
        match self.intake.read_chunked(head_length, max) {
            Ok(body) => {
                answer(shared, connection, head, &body, false);
            }
            Err(Broken::TooLarge) => refuse(shared, connection, id, body_too_large(max)),
            Err(Broken::Malformed) => {
                refuse(shared, connection, id, malformed("A chunk is malformed"));
            }
            Err(Broken::Cut) => refuse_cut(shared, connection, head),
        }
    }
}

/// Says no to what is not a request, or not yet; `id` is what the client calls it.
pub(super) fn refuse(shared: &Shared, connection: &Connection, id: Option<&str>, problem: Problem) {
    let within = shared.options.request_timeout;
    connection.enter(Phase::Writing, shared.clock(), within);
    shared.refused.count(problem.status);
    let id = id_or_new(shared, id);
    let response = problem.into_response(&id);
    write(&connection.socket, response, &id, Framing::CLOSE);
}

fn too_slow() -> Problem {
    let message = "The request took too long to arrive";
    Problem::new(408, "request_timeout", message)
}

/// Says no to a request that has not come whole; nothing where that is not its client's fault, as
/// where it met the end of an idle connection.
fn refuse_cut(shared: &Shared, connection: &Connection, head: &Head<'_>) {
    let id = head.headers.get("X-Request-Id");
    if connection.is_late(shared.now()) {
        refuse(shared, connection, id, too_slow());
    } else if !connection.is_shut() {
        let problem = malformed("The body did not arrive whole");
        refuse(shared, connection, id, problem);
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

/// Has a request answered; false where the connection ends with it, as it does where it cannot
/// `go_on`.
fn answer(
    shared: &Shared,
    connection: &Connection,
    head: &Head<'_>,
    body: &[u8],
    go_on: bool,
) -> bool {
    let id = id_or_new(shared, head.headers.get("X-Request-Id"));
    let last = !go_on || shared.is_stopping();
    connection.work();
    let method = Method::parse(head.method);
    let (keep, word) = persistence(head);
    let framing = Framing {
        head_only: method == Method::Head,
        chunks: !head.is_old,
        connection: if last { Some("close") } else { word },
    };
    let client = Client {
        peer: Some(connection.peer.ip().to_canonical()),
        request_id: &id,
        is_open: &|| sys::is_open(&connection.socket),
    };
    let request = Request::new(method, head.target, &head.headers, body, client);
    let response = catch_unwind(AssertUnwindSafe(|| (shared.service)(&request)));
    let response = response.unwrap_or_else(|panic| {
        let text = panic_text(&*panic).to_owned();
        log::error!("A handler panicked: {}", crate::log_safe::LogSafe(&text));
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
fn persistence(head: &Head<'_>) -> (bool, Option<&'static str>) {
    let wish = head.headers.get("Connection");
    let wish = wish.map(str::to_ascii_lowercase);
    let has = |word| wish.as_deref().is_some_and(|wish| wish.contains(word));
    if has("close") || has("upgrade") || head.is_old && !has("keep-alive") {
        (false, Some("close"))
    } else {
        (true, head.is_old.then_some("keep-alive"))
    }
}

/// The client's own request id, where it can do no harm in a header or a log.
fn id_or_new(shared: &Shared, id: Option<&str>) -> String {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    let is_sane = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(allowed);
    id.filter(is_sane)
        .map_or_else(|| shared.new_id(), str::to_owned)
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::http::Response;

    /// What a client gets that has sent `bytes` before the guard shut its idle connection.
    fn answer_to(bytes: &str) -> String {
        let minute = Duration::from_secs(60);
        let shared = Shared::of_one(Box::new(|_| Response::empty(204)));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).expect("a connection");
        let (socket, peer) = listener.accept().expect("a connection");
        client.write_all(bytes.as_bytes()).expect("sent");
        let connection = Connection::new(socket, peer, 0, minute);
        let mut queue = [0; 1_000];
        let sent = crate::http::sys::peek_all(&connection.socket, &mut queue[..bytes.len()]);
        assert_eq!(sent.ok(), Some(bytes.len()));
        connection.shut();
        let parser = std::iter::once(Err("cut".to_owned()));
        serve(&shared, Box::new(parser), &connection);
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn who_is_cut_by_the_end_of_an_idle_connection_is_not_to_blame() {
        let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nHost: h\r\n";
        for cut in [
            "Content-Length: 9\r\n\r\nhalf",
            "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf",
        ] {
            assert_eq!(answer_to(&format!("{post}{cut}")), "");
            let answer = answer_to(&format!("{get}{post}{cut}"));
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
            assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        }
    }
}
