//! The transport: HTTP/1.1 over the sockets of the standard library. It hands [messages](crate::http) on.
//!
//! One thread accepts the connections of each address. Each connection has a thread that reads a request, has it answered
//! in place and writes the response, with no queue between. Connection threads are reused, and their number is bounded.
//! [`connection`] is where to begin to read.

mod chunks;
mod connection;
mod encode;
mod framing;
pub(crate) mod head;
mod input;
mod listener;
mod open;
mod overload;
mod socket;
#[cfg(feature = "tiny-http")]
pub(crate) mod tiny;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::open::OpenConnections;
use self::overload::Overload;
use crate::http::meter::StatusCounts;
use crate::http::{Problem, Request, Response};
use crate::metrics::{Counter, Exposition};
use crate::threads::{self, panic_text};

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
pub(crate) trait Service: Send + Sync {
    fn answer(&self, request: &Request<'_>) -> Response;

    /// The response to a request that the transport refuses, with the headers that every response has.
    fn refuse(&self, request: &Request<'_>, problem: Problem) -> Response;
}

fn write_refused(refused: &StatusCounts, out: &mut Exposition) {
    let name = "task_system_http_refused_total";
    let help = "Refused before any route, and handlers that panicked, by status.";
    out.family(name, "counter", help);
    refused.write(name, &[], out);
}

/// Writes a transport's numbers as long as it is there.
type Metrics = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// A transport that serves.
pub(crate) trait RunningTransport: Send + Sync {
    fn local_addr(&self) -> SocketAddr;

    fn metrics(&self) -> Metrics;

    /// From now on a response is its connection's last, and only connections that have been made
    /// already are accepted.
    fn stop_accepting(&self);

    /// Stops accepting, lets requests in hand finish until `deadline`, and closes the rest.
    /// Harmless when repeated.
    fn stop(&self, deadline: Instant);
}

/// Has the service answer. A panic costs this request alone.
fn call(service: &dyn Service, refused: &StatusCounts, request: &Request<'_>) -> Response {
    let response = catch_unwind(AssertUnwindSafe(|| service.answer(request)));
    response.unwrap_or_else(|panic| {
        let text = panic_text(&*panic).to_owned();
        log::error!("A handler panicked: {}", crate::log_safe::LogSafe(&text));
        let message = "Something went wrong here; the server's log has the details";
        let problem = Problem::new(500, "internal_error", message);
        refused.count(problem.status);
        service.refuse(request, problem)
    })
}

/// How often the stop looks whether all connections have ended.
const STOP_TICK: Duration = Duration::from_millis(2);

/// At the stop, a connection may still send the request that it was about to send: every one for
/// this long,
const GRACE: Duration = Duration::from_millis(300);

/// and this long after its last response.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Open files that everything but connections may take.
const OTHER_FILES: u64 = 32;

/// What the threads of a transport share.
struct Shared {
    options: TransportOptions,
    service: Box<dyn Service>,
    open: OpenConnections,
    overload: Overload,
    stopping: AtomicBool,
    ids: (RandomState, AtomicU64),
    /// What was answered here, before or instead of the service.
    refused: StatusCounts,
    not_accepted: Counter,
}

impl Shared {
    fn new(options: TransportOptions, service: Box<dyn Service>, overload: usize) -> Shared {
        Shared {
            options,
            service,
            open: OpenConnections::default(),
            overload: Overload::new(overload),
            stopping: AtomicBool::new(false),
            ids: Default::default(),
            refused: StatusCounts::default(),
            not_accepted: Counter::default(),
        }
    }

    fn write_metrics(&self, out: &mut Exposition) {
        write_refused(&self.refused, out);
        let open = self.open.count();
        out.gauge("task_system_connections", "Open connections.", open);
        let max = self.options.max_connections;
        let help = "How many there may be.";
        out.gauge("task_system_connections_limit", help, max);
        let name = "task_system_accept_failures_total";
        let help = "Connections that could not be accepted, since files or threads were lacking.";
        out.family(name, "counter", help);
        out.sample(name, &[], self.not_accepted.value());
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A request id that nobody can guess from another.
    fn new_id(&self) -> String {
        let number = self.ids.1.fetch_add(1, Ordering::Relaxed);
        let hash = self.ids.0.hash_one(number).to_be_bytes();
        // Every request has one, and `format!` would take several times as long.
        let mut id = String::with_capacity(16);
        for digit in hash.into_iter().flat_map(|byte| [byte >> 4, byte & 15]) {
            id.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
        id
    }

    /// The client's own request id, if it is sane; else a new one.
    fn id_or_new(&self, id: Option<&str>) -> String {
        head::sane_id(id).map_or_else(|| self.new_id(), str::to_owned)
    }
}

/// The running transport.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    local: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Transport {
    /// Takes the addresses of `host`. Who connects waits until [`start`](Self::start).
    pub(crate) fn bind(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
        listener::bind(host, port).map_err(|error| {
            let text = format!("HOST={host} PORT={port}: {error}");
            io::Error::new(error.kind(), text)
        })
    }

    /// Starts to serve.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        mut options: TransportOptions,
        service: Box<dyn Service>,
    ) -> io::Result<Transport> {
        let (places, overload) = places();
        let wanted = options.max_connections;
        if places < wanted {
            log::warn!(
                "The limit of open files leaves room for {places} connections, not for {wanted} \
                 (MAX_CONNECTIONS); raise it with ulimit -n"
            );
            options.max_connections = places;
        }
        let first = listeners.first().ok_or(io::ErrorKind::NotFound)?;
        let transport = Transport {
            local: first.local_addr()?,
            shared: Arc::new(Shared::new(options, service, overload)),
            threads: Mutex::default(),
        };
        let shared = transport.shared.clone();
        transport.spawn("overload", move || shared.overload.run(&shared.stopping))?;
        for listener in listeners {
            let shared = transport.shared.clone();
            transport.spawn("accept", move || listener::accept(&shared, &listener))?;
        }
        Ok(transport)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.lock().push(threads::spawn(name, body)?);
        Ok(())
    }
}

impl RunningTransport for Transport {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn metrics(&self) -> Metrics {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move |out| {
            if let Some(shared) = shared.upgrade() {
                shared.write_metrics(out);
            }
        })
    }

    fn stop_accepting(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
    }

    fn stop(&self, deadline: Instant) {
        self.stop_accepting();
        let threads = std::mem::take(&mut *self.threads.lock());
        let begun = Instant::now();
        loop {
            let is_late = Instant::now() >= deadline;
            if is_late {
                self.shared.open.close_all();
            } else if begun.elapsed() >= GRACE {
                self.shared.open.close_idle(LAST_REQUEST);
            }
            let is_empty = self.shared.open.count() == 0;
            if is_late || is_empty && threads.iter().all(JoinHandle::is_finished) {
                break;
            }
            std::thread::sleep(STOP_TICK);
        }
        for thread in threads {
            threads::join_until(thread, deadline);
        }
    }
}

/// How many connections the limit of open files leaves room for, and how many that are refused.
fn places() -> (usize, usize) {
    let files = socket::raise_file_limit().saturating_sub(OTHER_FILES);
    let refused = overload::MAX_FILES.min(files / 4);
    let places = usize::try_from(files - refused).unwrap_or(usize::MAX);
    (places.max(1), refused as usize)
}
