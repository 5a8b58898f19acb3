//! The transport: HTTP/1.1 over the sockets of the standard library. It reads and writes [messages](crate::http).
//!
//! One thread accepts the connections of each address. Each connection has a thread that reads a request, has it answered
//! in place and writes the response, with no queue between. Connection threads are reused, and their number is bounded.
//! Begin to read in [`connection`].

mod chunks;
mod connection;
mod encode;
mod framing;
pub(crate) mod head;
mod input;
mod listener;
mod open;
mod overload;
mod service;
mod socket;
#[cfg(feature = "tiny-http")]
pub(crate) mod tiny;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::service::{Metrics, Shared};
pub(crate) use self::service::{RunningTransport, Service, TransportOptions};
use crate::threads;

/// How often the stop checks whether all connections have ended.
const STOP_TICK: Duration = Duration::from_millis(2);

/// At the stop, a connection may still send the request that it was about to send: every one for
/// this long,
const GRACE: Duration = Duration::from_millis(300);

/// and this long after its last response.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Open files that everything but connections may take.
const OTHER_FILES: u64 = 32;

/// The running transport.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    local: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Transport {
    /// Listens on the addresses of `host`. Connections wait until [`start`](Self::start).
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
            let accept = move || listener::accept(&shared, &listener);
            // The threads that have started end.
            let started = transport.spawn("accept", accept);
            started.inspect_err(|_| transport.stop_accepting())?;
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

/// How many connections the limit of open files allows, and how many more to refuse at once.
fn places() -> (usize, usize) {
    let files = socket::raise_file_limit().saturating_sub(OTHER_FILES);
    let refused = overload::MAX_FILES.min(files / 4);
    let places = usize::try_from(files - refused).unwrap_or(usize::MAX);
    (places.max(1), refused as usize)
}
