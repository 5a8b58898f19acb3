//! The transport: the only module that names `tiny_http`.
//!
//! One thread accepts; each connection has a thread that reads a request, has it answered in
//! place and writes the answer, with no queue between. Connection threads are reused and
//! bounded. A guard closes connections that miss a deadline.
//!
//! `tiny_http` accepts, and parses requests with a body up to the connection's first without one;
//! from there on the gate, which looks at every head anyway, reads what it has looked at.
//!
//! Answers are written here, through a second handle on the socket, because the crate's own cannot
//! say `Connection: close`, answers what nobody asked when an idle connection ends, and reads a
//! refused body to its end before the refusal goes out. What it has buffered to write meanwhile is
//! discarded by shutting the socket down first.

mod accept;
mod serve;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::http::connection::Connection;
use crate::http::meter::StatusCounts;
use crate::http::{Request, Response, sys};
use crate::metrics::Exposition;
use crate::threads;

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

/// How often the guard looks at the deadlines.
const GUARD_TICK: Duration = Duration::from_millis(100);

/// How often the stop looks whether all connections have ended.
const STOP_TICK: Duration = Duration::from_millis(2);

/// At the stop, a connection may still send the request that it was about to send: every one for
/// this long,
const GRACE: Duration = Duration::from_millis(300);

/// and this long after its last answer.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Descriptors that a connection takes: the parser's two and ours.
const PER_CONNECTION: u64 = 3;

/// Descriptors that everything else may take.
const OTHERS: u64 = 32;

struct Shared {
    options: TransportOptions,
    service: Box<Service>,
    /// Guards which connections are open. No other lock is taken under it.
    open: Mutex<HashMap<SocketAddr, Arc<Connection>>>,
    stopping: AtomicBool,
    /// Milliseconds that the guard has waited so far.
    now: AtomicU64,
    ids: (RandomState, AtomicU64),
    /// What was answered here, before or instead of the service.
    refused: StatusCounts,
}

impl Shared {
    fn new(options: TransportOptions, service: Box<Service>) -> Shared {
        Shared {
            options,
            service,
            open: Mutex::default(),
            stopping: AtomicBool::new(false),
            now: AtomicU64::new(0),
            ids: Default::default(),
            refused: StatusCounts::default(),
        }
    }

    /// A connection is over. Its socket is closed under the lock: as long as a descriptor of it can
    /// be found, it is known ([`sys::accepted_socket`]).
    fn forget(&self, connection: Arc<Connection>) {
        let mut open = self.open.lock();
        open.remove(&connection.peer);
        drop(connection);
    }

    /// The time for deadlines, in milliseconds, up to a tick slow. It is the guard's own: each request
    /// needs it three times, and would pay more for the system's than for all else about deadlines.
    /// And time in which the whole process was halted is nobody's fault.
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// A moment that has not passed yet, from which deadlines are reckoned.
    fn clock(&self) -> u64 {
        self.now() + millis(GUARD_TICK)
    }

    /// Waits, and moves the clock on; the time then.
    fn tick(&self, wait: Duration) -> u64 {
        std::thread::sleep(wait);
        self.now.fetch_add(millis(wait), Ordering::Relaxed) + millis(wait)
    }

    fn write_metrics(&self, out: &mut Exposition) {
        let open = self.open.lock().len();
        out.gauge("task_system_connections", "Open connections.", open);
        let max = self.options.max_connections;
        let help = "How many there may be.";
        out.gauge("task_system_connections_limit", help, max);
        let name = "task_system_http_refused_total";
        let help = "Refused before any route, and handlers that panicked, by status.";
        out.family(name, "counter", help);
        self.refused.write(name, &[], out);
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
}

/// The running transport.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    local: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Transport {
    /// Takes the address. Who connects waits until [`start`](Self::start).
    pub(crate) fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
        accept::bind(host, port).map_err(|error| {
            let text = format!("HOST={host} PORT={port}: {error}");
            io::Error::new(error.kind(), text)
        })
    }

    /// Starts to serve.
    pub(crate) fn start(
        listener: TcpListener,
        mut options: TransportOptions,
        service: Box<Service>,
    ) -> io::Result<Transport> {
        let (wanted, places) = (options.max_connections, places());
        if places < wanted {
            log::warn!(
                "The limit of open files leaves room for {places} connections, not for {wanted} \
                 (MAX_CONNECTIONS); raise it with ulimit -n"
            );
            options.max_connections = places;
        }
        let local = listener.local_addr()?;
        let transport = Transport {
            shared: Arc::new(Shared::new(options, service)),
            local,
            threads: Mutex::default(),
        };
        let shared = transport.shared.clone();
        transport.spawn("guard", move || guard(&shared))?;
        let shared = transport.shared.clone();
        transport.spawn("accept", move || accept::accept(&shared, listener, local))?;
        Ok(transport)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.lock().push(threads::spawn(name, body)?);
        Ok(())
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Writes its numbers as long as it is there.
    pub(crate) fn metrics(&self) -> impl Fn(&mut Exposition) + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move |out| {
            if let Some(shared) = shared.upgrade() {
                shared.write_metrics(out);
            }
        }
    }

    /// From now on an answer is its connection's last, and only connections that have been made
    /// already are taken in.
    pub(crate) fn stop_accepting(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
    }

    /// Stops accepting, lets requests in hand finish until `deadline`, and closes the rest.
    /// Harmless when repeated.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.stop_accepting();
        let threads = std::mem::take(&mut *self.threads.lock());
        let begun = Instant::now();
        loop {
            let late = Instant::now() >= deadline;
            // The guard has ended.
            let now = self.shared.tick(STOP_TICK);
            let quiet = now.saturating_sub(millis(LAST_REQUEST));
            let open = self.shared.open.lock();
            for connection in open.values() {
                if late {
                    let _ = connection.socket.shutdown(Shutdown::Both);
                } else if begun.elapsed() >= GRACE && connection.is_idle_since(quiet) {
                    // A request that has just come in whole can still be answered.
                    connection.shut();
                }
            }
            let is_empty = open.is_empty();
            drop(open);
            if late || is_empty && threads.iter().all(JoinHandle::is_finished) {
                break;
            }
        }
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many connections the limit of open descriptors leaves room for.
fn places() -> usize {
    let limit = sys::raise_descriptor_limit().unwrap_or(u64::MAX);
    let places = limit.saturating_sub(OTHERS) / PER_CONNECTION;
    usize::try_from(places).unwrap_or(usize::MAX).max(1)
}

/// Closes connections whose deadline has passed.
fn guard(shared: &Shared) {
    while !shared.is_stopping() {
        let now = shared.tick(GUARD_TICK);
        for connection in shared.open.lock().values() {
            connection.guard(now);
        }
    }
}

#[cfg(test)]
impl Shared {
    /// For one connection, in no hurry.
    fn of_one(service: Box<Service>) -> Shared {
        let minute = Duration::from_secs(60);
        let options = TransportOptions {
            max_connections: 1,
            max_connections_per_ip: 1,
            head_timeout: minute,
            request_timeout: minute,
            keep_alive_timeout: minute,
            max_body_bytes: 1_000,
        };
        Shared::new(options, service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Response;

    /// A process that was halted comes back with a clock that has stood still.
    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let shared = Shared::of_one(Box::new(|_| Response::empty(204)));
        let tick = Duration::from_millis(1);
        assert_eq!(shared.tick(tick), 1);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(shared.tick(tick), 2);
        assert_eq!(shared.clock(), 2 + millis(GUARD_TICK));
    }
}
