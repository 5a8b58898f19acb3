//! One connection, from its first request to its end: read a head, judge it, read the body, answer, go on or close.

use std::cell::{OnceCell, RefCell};
use std::io::{BufRead, Read};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::http::request::{Client, RequestBody};
use crate::http::response::Response;
use crate::http::{Method, Problem, Request};
use crate::net::chunks::{self, Broken};
use crate::net::encode::{self, After, Framing};
use crate::net::framing::{BodyLength, Version, body_too_large, malformed};
use crate::net::head::{self, Head};
use crate::net::input::{End, Input};
use crate::net::open::Open;
use crate::net::service::{Shared, call};
use crate::net::socket;

/// How long, and how much, is read away after the last response. Closing over unread bytes would reset the connection,
/// and take the response with it.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 32 * 1024 * 1024;

/// The same at the stop, which has little time.
const LINGER_AT_STOP: Duration = Duration::from_millis(200);

/// Serves one connection to its end.
pub(super) fn serve(shared: &Shared, open: &Open) {
    let mut connection = Connection {
        shared,
        open,
        input: Input::new(&open.socket),
    };
    let mut go_on = connection.exchange(true);
    while go_on {
        open.set_idle();
        go_on = connection.exchange(false);
    }
    connection.close();
}

struct Connection<'c> {
    shared: &'c Shared,
    open: &'c Open,
    input: Input<'c>,
}

/// What comes next on a connection.
enum Next {
    /// A whole head.
    Head(Vec<u8>),
    /// What is no head, and why.
    Refused(Vec<u8>, Problem),
    /// The client is gone, or was idle for too long.
    Nothing,
}

impl Connection<'_> {
    /// Waits for a request, and answers it; whether another may follow.
    fn exchange(&mut self, is_first: bool) -> bool {
        let bytes = match self.next_head(is_first) {
            Next::Head(bytes) => bytes,
            Next::Refused(bytes, problem) => return self.refuse(&head::text_of(&bytes), problem),
            Next::Nothing => return false,
        };
        let text = head::text_of(&bytes);
        match head::parse(&text, self.shared.options.max_body_bytes) {
            Ok(head) => self.answer(&head),
            Err(problem) => self.refuse(&text, problem),
        }
    }

    /// Waits for a whole head, and takes it out of the input. The time for the first one begins with the connection, for
    /// any other with its first byte.
    fn next_head(&mut self, is_first: bool) -> Next {
        let head_within = self.head_within();
        self.input.allow(match is_first {
            true => head_within,
            false => self.shared.options.keep_alive_timeout,
        });
        loop {
            // Some clients end a body with an empty line too many (RFC 9112, 2.2).
            while self.input.buffered().starts_with(b"\r\n") {
                self.input.consume(2);
            }
            if !matches!(self.input.buffered(), [] | [b'\r']) {
                break;
            }
            if self.input.wait().is_err() {
                return Next::Nothing;
            }
        }
        self.open.set_busy();
        if !is_first {
            self.input.allow(head_within);
        }
        loop {
            match head::find_end(self.input.buffered()) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    let head = self.input.buffered()[..end].to_vec();
                    self.input.consume(end);
                    return Next::Head(head);
                }
                Err(problem) => return Next::Refused(self.input.buffered().to_vec(), problem),
            }
            match self.input.more() {
                Ok(()) => {}
                Err(End::Late) => {
                    return Next::Refused(self.input.buffered().to_vec(), too_slow());
                }
                Err(End::Closed) => return Next::Nothing,
            }
        }
    }

    fn head_within(&self) -> Duration {
        let options = &self.shared.options;
        options.head_timeout.min(options.request_timeout)
    }

    /// Has a request answered; whether another may follow.
    fn answer(&mut self, head: &Head<'_>) -> bool {
        let (shared, open) = (self.shared, self.open);
        // The time for the whole request began with its head.
        let used = self.head_within().saturating_sub(self.input.left());
        let within = shared.options.request_timeout;
        self.input.allow(within.saturating_sub(used));
        let body = Body {
            shared,
            open,
            head,
            input: RefCell::new(&mut self.input),
            read: OnceCell::new(),
        };
        // A client that waits for `100 Continue` is asked for the body only by a handler that wants it.
        let early = match head.expects_continue && head.body.is_ok() {
            true => None,
            false => body.get().as_ref().err(),
        };
        if matches!(early, Some(Unread::Cut)) && open.is_shut() {
            return false;
        }
        let id = shared.ids.own_or_next(head.headers.get("X-Request-Id"));
        let client = Client {
            address: Some(open.peer.ip().to_canonical()),
            request_id: &id,
            state: &|| socket::peer(&open.socket),
        };
        let method = Method::parse(head.method);
        let request = Request::new(method, head.target, &head.headers, &body, client);
        let response = match early {
            Some(unread) => refuse_request(shared, &request, unread.problem()),
            None => call(&*shared.service, &shared.refused, &request),
        };
        let is_read = matches!(body.read.get(), Some(Ok(_)));
        let keep = head.keep_alive && is_read && !shared.is_stopping();
        let framing = Framing {
            head_only: method == Method::Head,
            chunks: head.version == Version::Http11,
            connection: match keep {
                true => After::Keep {
                    seconds: shared.options.keep_alive_timeout.as_secs(),
                    told: head.version == Version::Http10,
                },
                false => After::Close,
            },
        };
        encode::write(&mut &open.socket, response, &id, framing, within) && keep
    }

    /// Refuses what is no request. The head may be a part of one. No other request may follow.
    fn refuse(&self, head: &str, problem: Problem) -> bool {
        self.shared.refused.count(problem.status);
        let id = self.shared.ids.own_or_next(head::request_id(head));
        let response = problem.into_response(&id);
        let within = self.shared.options.request_timeout;
        encode::write(
            &mut &self.open.socket,
            response,
            &id,
            Framing::CLOSE,
            within,
        );
        false
    }

    /// Ends the connection after its last response.
    fn close(mut self) {
        let socket = &self.open.socket;
        let _ = socket.shutdown(Shutdown::Write);
        let end = Instant::now() + LINGER;
        let mut scrap = [0; 4 * 1024];
        let mut read = 0;
        while read < LINGER_BYTES && Instant::now() < end {
            self.input.allow(LINGER_AT_STOP);
            match self.input.read(&mut scrap) {
                Ok(0) => return,
                Ok(length) => read += length,
                Err(_) if self.shared.is_stopping() => break,
                Err(_) => {}
            }
        }
        self.open.reset();
    }
}

/// Why a body could not be read.
#[derive(Clone, Debug)]
enum Unread {
    Refused(Problem),
    /// The client closed the connection before its end.
    Cut,
}

impl Unread {
    fn problem(&self) -> Problem {
        match self {
            Unread::Refused(problem) => problem.clone(),
            Unread::Cut => malformed("The body did not arrive whole"),
        }
    }
}

/// The body of the request in hand, which is read once.
struct Body<'c, 'i, 'r> {
    shared: &'c Shared,
    open: &'c Open,
    head: &'r Head<'r>,
    input: RefCell<&'r mut Input<'i>>,
    read: OnceCell<Result<Vec<u8>, Unread>>,
}

impl RequestBody for Body<'_, '_, '_> {
    fn whole(&self) -> Result<&[u8], Problem> {
        self.get().as_deref().map_err(Unread::problem)
    }
}

impl Body<'_, '_, '_> {
    fn get(&self) -> &Result<Vec<u8>, Unread> {
        self.read.get_or_init(|| match &self.head.body {
            Ok(BodyLength::None) => Ok(Vec::new()),
            Ok(length) => self.receive(*length),
            Err(problem) => Err(Unread::Refused(problem.clone())),
        })
    }

    fn receive(&self, length: BodyLength) -> Result<Vec<u8>, Unread> {
        let input = &mut **self.input.borrow_mut();
        // Who sends the body at once need not be told.
        if self.head.expects_continue && input.buffered().is_empty() {
            encode::tell_to_continue(&mut &self.open.socket).map_err(|_| Unread::Cut)?;
        }
        let max = self.shared.options.max_body_bytes;
        let read = match length {
            BodyLength::None => Ok(Vec::new()),
            BodyLength::Bytes(length) => read_exactly(input, length),
            BodyLength::Chunked => chunks::read_chunks(input, max),
        };
        read.map_err(|broken| match (broken, input.end()) {
            (Broken::TooLarge, _) => Unread::Refused(body_too_large(max)),
            (Broken::Malformed, _) => Unread::Refused(malformed("A chunk is malformed")),
            (Broken::Cut, End::Late) => Unread::Refused(too_slow()),
            (Broken::Cut, End::Closed) => Unread::Cut,
        })
    }
}

fn read_exactly(input: &mut Input<'_>, length: usize) -> Result<Vec<u8>, Broken> {
    let mut body = Vec::new();
    let mut part = input.take(length as u64);
    let read = part.read_to_end(&mut body);
    match read.is_ok_and(|read| read == length) {
        true => Ok(body),
        false => Err(Broken::Cut),
    }
}

fn too_slow() -> Problem {
    let message = "The request took too long to arrive";
    Problem::new(408, "request_timeout", message)
}

fn refuse_request(shared: &Shared, request: &Request<'_>, problem: Problem) -> Response {
    shared.refused.count(problem.status);
    shared.service.refuse(request, problem)
}
