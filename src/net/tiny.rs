//! A second transport: `tiny_http`, used as its documentation shows, for trusted networks.
//!
//! The crate accepts, parses and frames. What it does not bound, this transport does not: see [`WARNING`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::encode::{self, After, Framing, Sink};
use super::framing::{body_too_large, malformed};
use super::service::{self, Metrics, RunningTransport, Service, TransportOptions};
use crate::http::meter::StatusCounts;
use crate::http::request::{Client, Headers};
use crate::http::{Method, Peer, Problem, Request};
use crate::threads::{self, spawn_with_stack};

/// What is said at the start.
const WARNING: &str = "HTTP_SERVER=tiny_http is for trusted networks, or behind a proxy: it bounds neither the size of a \
     head, nor how long a client may send or read, nor how many connections one address has";

const STACK: usize = 256 * 1024;

/// The headers that are read: the crate gives out a header by its name, and of several of one name the first.
const HEADERS: [&str; 14] = [
    "Accept",
    "Accept-Encoding",
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Host",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Origin",
    "X-App-Session",
    "X-Forwarded-For",
    "X-Request-Id",
];

/// How often the stop looks whether all requests are answered.
const STOP_TICK: Duration = Duration::from_millis(5);

struct Shared {
    server: tiny_http::Server,
    service: Box<dyn Service>,
    options: TransportOptions,
    stopping: AtomicBool,
    /// Requests in hand.
    busy: AtomicUsize,
    ids: service::RequestIds,
    refused: StatusCounts,
}

pub(crate) struct TinyTransport {
    shared: Arc<Shared>,
    local: SocketAddr,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl TinyTransport {
    /// Serves on the first of the addresses.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        options: TransportOptions,
        service: Box<dyn Service>,
    ) -> io::Result<TinyTransport> {
        let first = listeners.into_iter().next();
        let listener = first.ok_or(io::ErrorKind::NotFound)?;
        listener.set_nonblocking(false)?;
        let local = listener.local_addr()?;
        let config = tiny_http::ServerConfig::new_http(local)?;
        let server = tiny_http::Server::from_listener(listener, local.into(), config);
        let server = server.map_err(io::Error::other)?;
        log::warn!("{WARNING}");
        let shared = Arc::new(Shared {
            server,
            service,
            options,
            stopping: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            ids: service::RequestIds::default(),
            refused: StatusCounts::default(),
        });
        let serving = shared.clone();
        let thread = threads::spawn("accept", move || serve(&serving))?;
        Ok(TinyTransport {
            shared,
            local,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl RunningTransport for TinyTransport {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn metrics(&self) -> Metrics {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move |out| {
            if let Some(shared) = shared.upgrade() {
                service::write_refused(&shared.refused, out);
            }
        })
    }

    fn stop_accepting(&self) {
        self.shared.stopping.store(true, SeqCst);
        let _ = self.shared.server.unblock();
    }

    fn stop(&self, deadline: Instant) {
        self.stop_accepting();
        while self.shared.busy.load(SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(STOP_TICK);
        }
        if let Some(thread) = self.thread.lock().take() {
            threads::join_until(thread, deadline);
        }
    }
}

/// Each request has a thread, since it may become a stream.
fn serve(shared: &Arc<Shared>) {
    while !shared.stopping.load(SeqCst) {
        let raw = match shared.server.recv() {
            Ok(Ok(raw)) => raw,
            // Not a request, or the stop.
            Ok(Err(_)) | Err(_) => continue,
        };
        shared.busy.fetch_add(1, SeqCst);
        let inside = shared.clone();
        let answer = move || {
            answer(&inside, raw);
            inside.busy.fetch_sub(1, SeqCst);
        };
        if let Err(error) = spawn_with_stack("request", STACK, answer) {
            shared.busy.fetch_sub(1, SeqCst);
            log::warn!("A request cannot be answered: no thread can be started for it: {error}");
        }
    }
}

fn answer(shared: &Shared, mut raw: tiny_http::Request) {
    let body = read_body(&mut raw, shared.options.max_body_bytes);
    let values = HEADERS.map(|name| Some((name, raw.headers().get(name)?.as_str().to_owned())));
    let pairs = values.iter().flatten();
    let headers = Headers(pairs.map(|(name, value)| (*name, value.as_str())).collect());
    let id = shared.ids.own_or_next(headers.get("X-Request-Id"));
    let client = Client {
        address: raw.remote_addr().map(|address| address.ip().to_canonical()),
        request_id: &id,
        state: &|| Peer::Open,
    };
    let method = Method::parse(raw.method().as_str());
    let whole = body.clone().unwrap_or_default();
    let request = Request::new(method, raw.url(), &headers, &whole, client);
    let response = match &body {
        Ok(_) => service::call(&*shared.service, &shared.refused, &request),
        Err(problem) => {
            shared.refused.count(problem.status);
            shared.service.refuse(&request, problem.clone())
        }
    };
    let framing = Framing {
        head_only: method == Method::Head,
        chunks: raw.http_version() >= &(1, 1),
        connection: After::Unsaid,
    };
    let mut out = Out(raw.into_writer());
    encode::write(
        &mut out,
        response,
        &id,
        framing,
        shared.options.request_timeout,
    );
}

fn read_body(raw: &mut tiny_http::Request, max: usize) -> Result<Vec<u8>, Problem> {
    if raw.body_length().is_some_and(|length| length > max) {
        return Err(body_too_large(max));
    }
    let mut body = Vec::new();
    let mut reader = raw.as_reader().take(max as u64 + 1);
    let read = reader.read_to_end(&mut body);
    match read.is_ok() {
        true if body.len() > max => Err(body_too_large(max)),
        true => Ok(body),
        false => Err(malformed("The body did not arrive whole")),
    }
}

/// The crate's way to the client, which tells nothing of it.
struct Out(Box<dyn Write + Send>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Out {
    fn peer(&self) -> Peer {
        Peer::Open
    }
}
