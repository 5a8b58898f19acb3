//! The transport: the only file that names `tiny_http`.
//!
//! One thread accepts; each connection has a thread that reads a request, has it answered in
//! place and writes the answer, with no queue between. Connection threads are reused and
//! bounded. A guard closes connections that miss a deadline.
//!
//! `tiny_http` parses heads and bodies. Answers are written here, through a second handle on the
//! socket, because its own cannot say `Connection: close`, answers what nobody asked when an
//! idle connection ends, and reads a refused body to its end before the refusal goes out. What
//! it has buffered to write meanwhile is discarded by shutting the socket down first.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::executor::panic_text;
use crate::http::connection::{Connection, Intake, Next, Phase};
use crate::http::head::{BodyLength, body_too_large, malformed};
use crate::http::request::{Client, Headers};
use crate::http::response::Body;
use crate::http::wire::{self, Framing, write};
use crate::http::{Method, Problem, Request, Response, sys};

/// How many connections, how long, how large.
#[derive(Clone, Debug)]
pub(crate) struct TransportOptions {
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_ip: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) max_body_bytes: usize,
}

/// What answers requests.
pub(crate) type Service = dyn Fn(&Request<'_>) -> Response + Send + Sync;

/// How long an idle connection thread waits for the next connection before it ends.
const THREAD_IDLE: Duration = Duration::from_secs(10);

/// How often the guard looks at the deadlines.
const GUARD_TICK: Duration = Duration::from_millis(100);

const CONNECTION_STACK: usize = 256 * 1024;

type Requests = Box<dyn Iterator<Item = Result<tiny_http::Request, String>> + Send>;

struct Shared {
    options: TransportOptions,
    service: Box<Service>,
    /// Guards which connections are open. No other lock is taken under it.
    open: Mutex<HashMap<SocketAddr, Arc<Connection>>>,
    stopping: AtomicBool,
    epoch: Instant,
    ids: (RandomState, AtomicU64),
}

impl Shared {
    fn clock(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn in_time(&self, span: Duration) -> u64 {
        self.clock() + span.as_millis() as u64
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A request id that nobody can guess from another.
    fn new_id(&self) -> String {
        let number = self.ids.1.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", self.ids.0.hash_one(number))
    }
}

/// The running transport.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    listener: TcpListener,
    local: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Transport {
    /// Binds and starts to serve.
    pub(crate) fn start(
        host: &str,
        port: u16,
        options: TransportOptions,
        service: Box<Service>,
    ) -> io::Result<Transport> {
        sys::raise_descriptor_limit();
        let listener = bind(host, port)?;
        let local = listener.local_addr()?;
        let transport = Transport {
            shared: Arc::new(Shared {
                options,
                service,
                open: Mutex::default(),
                stopping: AtomicBool::new(false),
                epoch: Instant::now(),
                ids: Default::default(),
            }),
            listener: listener.try_clone()?,
            local,
            threads: Mutex::default(),
        };
        let shared = transport.shared.clone();
        transport.spawn("guard", move || guard(&shared))?;
        let shared = transport.shared.clone();
        transport.spawn("accept", move || accept(&shared, listener, local))?;
        Ok(transport)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.threads.lock().push(thread.spawn(body)?);
        Ok(())
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Takes no more connections, and answers no more than one request on those it has.
    pub(crate) fn stop_accepting(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }

    /// Stops accepting, lets requests in hand finish until `deadline`, and closes the rest.
    /// Harmless when repeated.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.stop_accepting();
        loop {
            let open: Vec<_> = self.shared.open.lock().values().cloned().collect();
            let late = Instant::now() >= deadline;
            for connection in &open {
                if late {
                    let _ = connection.socket.shutdown(Shutdown::Both);
                } else if connection.is(Phase::Idle) {
                    // A request that has just come in whole can still be answered.
                    let _ = connection.socket.shutdown(Shutdown::Read);
                }
            }
            if open.is_empty() || late {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}

fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        let bound = || -> io::Result<TcpListener> {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            // Bursts of a thousand connections do not wait for a retransmission.
            socket.listen(1_024)?;
            Ok(socket.into())
        };
        match bound() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Closes connections whose deadline has passed.
fn guard(shared: &Shared) {
    while !shared.is_stopping() {
        std::thread::sleep(GUARD_TICK);
        let now = shared.clock();
        for connection in shared.open.lock().values() {
            connection.guard(now);
        }
    }
}

/// The accept loop. It ends when the listener is shut down.
fn accept(shared: &Arc<Shared>, listener: TcpListener, local: SocketAddr) {
    let Ok(probe) = listener.try_clone() else {
        return log::error!("The listening socket cannot be duplicated");
    };
    let Ok(plain) = tiny_http::SslContextWrap::build_ssl_capabilities(None) else {
        return;
    };
    let listener = tiny_http::Listener::from(listener);
    // Rendezvous: a send succeeds only where a thread is waiting for work.
    let (hand_over, waiting) = crossbeam_channel::bounded(0);
    while !shared.is_stopping() {
        let hint = sys::next_descriptor(&probe);
        // Out of descriptors the crate may panic while it duplicates the socket.
        let accepted = catch_unwind(AssertUnwindSafe(|| {
            tiny_http::Server::accept_connection(&listener, &plain)
        }));
        match accepted {
            Ok(Ok(Some(client))) => {
                let known = |peer: &SocketAddr| shared.open.lock().contains_key(peer);
                let Some((socket, peer)) = sys::accepted_socket(hint, local, known) else {
                    continue; // It went away already, or there is no descriptor left for it.
                };
                let requests = client.map(|next| next.map_err(|error| error.to_string()));
                admit(
                    shared,
                    Box::new(requests),
                    socket,
                    peer,
                    &hand_over,
                    &waiting,
                );
            }
            Ok(Ok(None)) => {}
            _ if shared.is_stopping() => {}
            Ok(Err(error)) => {
                log::warn!("Cannot accept a connection: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Gives a new connection to a thread, or refuses it.
fn admit(
    shared: &Arc<Shared>,
    requests: Requests,
    socket: TcpStream,
    peer: SocketAddr,
    hand_over: &Sender<(Requests, Arc<Connection>)>,
    waiting: &Receiver<(Requests, Arc<Connection>)>,
) {
    let options = &shared.options;
    let full = {
        let open = shared.open.lock();
        let same = || open.keys().filter(|p| p.ip() == peer.ip()).count();
        open.len() >= options.max_connections
            || !peer.ip().to_canonical().is_loopback() && same() >= options.max_connections_per_ip
    };
    let _ = socket.set_nodelay(true);
    let _ = socket.set_write_timeout(Some(options.request_timeout));
    if full {
        let _ = socket.set_write_timeout(Some(Duration::from_millis(100)));
        let message = "There are too many connections; try again in a moment";
        let problem = Problem::new(503, "too_many_connections", message).with("Retry-After", "1");
        let id = shared.new_id();
        write(&socket, problem.into_response(&id), &id, Framing::CLOSE);
        let _ = socket.shutdown(Shutdown::Both);
        return;
    }
    let deadline = shared.in_time(options.head_timeout);
    let connection = Arc::new(Connection::new(socket, peer, deadline));
    shared.open.lock().insert(peer, connection.clone());
    let Err(refused) = hand_over.try_send((requests, connection)) else {
        return;
    };
    let job = refused.into_inner();
    let (inside, waiting) = (shared.clone(), waiting.clone());
    let spawned = std::thread::Builder::new()
        .name("connection".to_owned())
        .stack_size(CONNECTION_STACK)
        .spawn(move || {
            let mut next = Some(job);
            while let Some((requests, connection)) = next.take() {
                serve(&inside, requests, &connection);
                inside.open.lock().remove(&connection.peer);
                if !inside.is_stopping() {
                    drop(connection);
                    next = waiting.recv_timeout(THREAD_IDLE).ok();
                }
            }
        });
    if let Err(error) = spawned {
        log::error!("Cannot start a connection thread: {error}");
        // The connection went with the closure that was not run.
        shared.open.lock().remove(&peer);
    }
}

/// Serves one connection to its end.
fn serve(shared: &Shared, mut requests: Requests, connection: &Connection) {
    let mut intake = Intake::new(connection);
    let opened = shared.clock();
    let mut first = Some(opened);
    while serve_next(shared, &mut requests, connection, &mut intake, first.take()) {
        let deadline = shared.in_time(shared.options.keep_alive_timeout);
        connection.enter(Phase::Idle, deadline);
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
    let after = |begun: u64, span: Duration| begun + span.as_millis() as u64;
    let mut begun = 0;
    let next = intake.next_head(options.max_body_bytes, || {
        begun = opened.unwrap_or_else(|| shared.clock());
        connection.enter(Phase::Reading, after(begun, options.head_timeout));
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
    connection.enter(Phase::Reading, after(begun, options.request_timeout));
    if head.body == BodyLength::Chunked {
        // A chunk of one byte takes six.
        let framed = 8 * options.max_body_bytes as u64 + 64 * 1024;
        connection.allow(intake.through(&head) + framed);
    }
    let length = match head.body {
        BodyLength::Bytes(length) => Some(head.length + length),
        BodyLength::None => Some(head.length),
        // Where it ends is known to its reader alone.
        BodyLength::Chunked => None,
    };
    if let Some(length) = length {
        intake.look_behind(length);
    }
    let raw = match requests.next() {
        Some(Ok(raw)) => raw,
        Some(Err(error)) => {
            log::debug!("A request could not be read: {}", crate::LogSafe(&error));
            refuse(shared, connection, not_whole(shared, connection));
            return false;
        }
        None => return false,
    };
    exchange(shared, raw, connection, head.body, || {
        length.is_some_and(|length| intake.finish(length))
    })
}

/// Says no to what is not a request, or not yet.
fn refuse(shared: &Shared, connection: &Connection, problem: Problem) {
    connection.enter(
        Phase::Writing,
        shared.in_time(shared.options.request_timeout),
    );
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
    length: BodyLength,
    can_go_on: impl FnOnce() -> bool,
) -> bool {
    let id = match TinyHeaders(raw.headers()).get("X-Request-Id") {
        Some(id) if is_sane_id(id) => id.to_owned(),
        _ => shared.new_id(),
    };
    let body = match read_body(&mut raw, length, shared.options.max_body_bytes) {
        Ok(Some(body)) => body,
        refused => {
            let problem = refused
                .err()
                .unwrap_or_else(|| not_whole(shared, connection));
            // Out with it before the rest of the body comes in; `raw` must not wait for that.
            refuse(shared, connection, problem);
            close(connection);
            return false;
        }
    };
    let last = !can_go_on() || shared.is_stopping();
    connection.work();
    let headers = TinyHeaders(raw.headers());
    let method = Method::parse(raw.method().as_str());
    let (keep, word) = persistence(&raw, &headers);
    let framing = Framing {
        head_only: method == Method::Head,
        chunks: *raw.http_version() >= (1, 1),
        connection: if last { Some("close") } else { word },
    };
    let client = Client {
        peer: Some(connection.peer.ip().to_canonical()),
        request_id: &id,
        is_open: &|| wire::is_open(&connection.socket),
    };
    let request = Request::new(method, raw.url(), &headers, &body, client);
    let response = catch_unwind(AssertUnwindSafe(|| (shared.service)(&request)));
    let response = response.unwrap_or_else(|panic| {
        let text = panic_text(&*panic).to_owned();
        log::error!("A handler panicked: {}", crate::LogSafe(&text));
        let message = "Something went wrong here; the server's log has the details";
        Problem::new(500, "internal_error", message).into_response(&id)
    });
    // Takes the crate's writer away, which would answer 500 where nobody used it.
    drop(raw.into_writer());
    if matches!(response.body, Body::Bytes(_)) {
        let deadline = shared.in_time(shared.options.request_timeout);
        connection.enter(Phase::Writing, deadline);
    }
    write(&connection.socket, response, &id, framing) && keep && !last
}

/// Whether the connection stays open (as the crate sees it), and the word to say about it.
fn persistence(
    raw: &tiny_http::Request,
    headers: &TinyHeaders<'_>,
) -> (bool, Option<&'static str>) {
    let asked = headers.get("Connection").map(str::to_ascii_lowercase);
    let has = |word| asked.as_deref().is_some_and(|asked| asked.contains(word));
    let old = *raw.http_version() <= (1, 0);
    if has("close") || has("upgrade") || old && !has("keep-alive") {
        (false, Some("close"))
    } else {
        (true, old.then_some("keep-alive"))
    }
}

/// The client's own request id is used where it can do no harm in a header or a log.
fn is_sane_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    (1..=128).contains(&id.len()) && id.bytes().all(allowed)
}

/// The body; `None` where it has not arrived whole.
fn read_body(
    raw: &mut tiny_http::Request,
    length: BodyLength,
    max: usize,
) -> Result<Option<Vec<u8>>, Problem> {
    let (least, most) = match length {
        BodyLength::None => return Ok(Some(Vec::new())),
        BodyLength::Bytes(length) => (length, length),
        BodyLength::Chunked => (0, max + 1),
    };
    let mut body = Vec::with_capacity(least);
    let read = raw.as_reader().take(most as u64).read_to_end(&mut body);
    if read.is_err() || body.len() < least {
        return Ok(None);
    }
    if body.len() > max {
        return Err(body_too_large(max));
    }
    Ok(Some(body))
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
