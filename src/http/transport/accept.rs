//! Taking connections in, or refusing them.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use crate::executor::panic_text;
use crate::http::connection::Connection;
use crate::http::transport::Shared;
use crate::http::transport::serve::{Requests, refuse, serve};
use crate::http::{Problem, sys};
use crate::threads::spawn_with_stack;

/// How long an idle connection thread waits for the next connection before it ends.
const THREAD_IDLE: Duration = Duration::from_secs(10);

const CONNECTION_STACK: usize = 256 * 1024;

/// As much as a large answer is made at once.
const SEND_BUFFER: usize = 64 * 1024;

/// How often the accept loop looks whether it is to end.
const ACCEPT_TICK: Duration = Duration::from_millis(100);

/// How long, at the stop, connections that have been made already are still taken in.
const LAST_ONES: Duration = Duration::from_millis(500);

/// The pause after a connection that could not be accepted.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Listens on the first address of `host` that allows it.
pub(super) fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
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
            // What is accepted inherits it: a client that does not read holds no more of the
            // kernel's memory, which would otherwise grow to four megabytes for each.
            socket.set_send_buffer_size(SEND_BUFFER)?;
            // What is accepted inherits this too, and is set free of it.
            socket.set_read_timeout(Some(ACCEPT_TICK))?;
            Ok(socket.into())
        };
        match bound() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The accept loop. At the stop it takes in what has been made already, and ends.
pub(super) fn accept(shared: &Arc<Shared>, listener: TcpListener, local: SocketAddr) {
    let entrance = match Entrance::new(listener, local) {
        Ok(entrance) => entrance,
        Err(error) => return log::error!("The listening socket cannot be used: {error}"),
    };
    // Rendezvous: a send succeeds only where a thread is waiting for work.
    let threads = crossbeam_channel::bounded(0);
    let mut failing = false;
    let mut end = None;
    loop {
        if shared.is_stopping() && Instant::now() >= *end.get_or_insert_with(last_ones_until) {
            return;
        }
        let trouble = match entrance.next(shared) {
            Came::One(requests, socket, peer) => {
                match admit(shared, requests, socket, peer, &threads) {
                    Ok(()) => None,
                    Err(error) => Some(format!("no thread can be started for it: {error}")),
                }
            }
            Came::Nobody if end.is_some() => return,
            Came::Nobody | Came::Gone => continue,
            Came::Lost(why) => {
                std::thread::sleep(BACK_OFF);
                Some(why)
            }
        };
        // Once for a bad time, however long it lasts.
        if let (Some(trouble), false) = (&trouble, failing) {
            log::warn!("Cannot take a connection, and go on trying: {trouble}");
        }
        failing = trouble.is_some();
    }
}

fn last_ones_until() -> Instant {
    Instant::now() + LAST_ONES
}

/// The listening socket, as the crate sees it and as we do.
struct Entrance {
    listener: tiny_http::Listener,
    plain: tiny_http::SslContextWrap,
    probe: TcpListener,
    local: SocketAddr,
}

enum Came {
    One(Requests, TcpStream, SocketAddr),
    /// For a while nobody has come.
    Nobody,
    /// Someone came and went.
    Gone,
    Lost(String),
}

impl Entrance {
    fn new(listener: TcpListener, local: SocketAddr) -> io::Result<Entrance> {
        Ok(Entrance {
            probe: listener.try_clone()?,
            listener: listener.into(),
            plain: tiny_http::SslContextWrap::build_ssl_capabilities(None)
                .map_err(io::Error::other)?,
            local,
        })
    }

    fn next(&self, shared: &Shared) -> Came {
        let hint = sys::next_descriptor(&self.probe);
        // Out of descriptors the crate may panic while it duplicates the socket.
        let accepted = catch_unwind(AssertUnwindSafe(|| {
            tiny_http::Server::accept_connection(&self.listener, &self.plain)
        }));
        let client = match accepted {
            Ok(Ok(Some(client))) => client,
            Ok(Ok(None)) => return Came::Gone,
            Ok(Err(error)) if is_timeout(&error) => return Came::Nobody,
            Ok(Err(error)) => return Came::Lost(error.to_string()),
            Err(_) => return Came::Lost(NO_DESCRIPTOR.to_owned()),
        };
        let known = |peer: &SocketAddr| shared.open.lock().contains_key(peer);
        match sys::accepted_socket(hint, self.local, known) {
            Some((socket, peer)) => {
                let requests = client.map(|next| next.map_err(|error| error.to_string()));
                Came::One(Box::new(requests), socket, peer)
            }
            None if hint.is_some() => Came::Gone,
            None => Came::Lost(NO_DESCRIPTOR.to_owned()),
        }
    }
}

const NO_DESCRIPTOR: &str = "there is no descriptor left for it";

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// Where connection threads without a connection wait for one.
type Handover = (Requests, Arc<Connection>);

/// Gives a new connection to a thread, or refuses it. Fails where no thread can be started.
fn admit(
    shared: &Arc<Shared>,
    requests: Requests,
    socket: TcpStream,
    peer: SocketAddr,
    (hand_over, waiting): &(Sender<Handover>, Receiver<Handover>),
) -> io::Result<()> {
    let options = &shared.options;
    let full = {
        let open = shared.open.lock();
        let same = || open.keys().filter(|p| p.ip() == peer.ip()).count();
        open.len() >= options.max_connections
            || !peer.ip().to_canonical().is_loopback() && same() >= options.max_connections_per_ip
    };
    let _ = socket.set_read_timeout(None);
    let _ = socket.set_nodelay(true);
    let _ = socket.set_write_timeout(Some(options.request_timeout));
    let connection = Connection::new(socket, peer, shared.clock(), options.head_timeout);
    let connection = Arc::new(connection);
    if full {
        turn_away(shared, &connection);
        return Ok(());
    }
    shared.open.lock().insert(peer, connection.clone());
    let Err(refused) = hand_over.try_send((requests, connection.clone())) else {
        return Ok(());
    };
    // Kept here as well: dropped with a thread that cannot be started, it would close the socket
    // before the client is told.
    let first = Arc::new(Mutex::new(Some(refused.into_inner())));
    let (theirs, inside, waiting) = (first.clone(), shared.clone(), waiting.clone());
    let serve = move || {
        let first = theirs.lock().take();
        serve_all(&inside, first, &waiting);
    };
    spawn_with_stack("connection", CONNECTION_STACK, serve)
        .map(drop)
        .inspect_err(|_| {
            turn_away(shared, &connection);
            drop(first);
            shared.forget(connection);
        })
}

/// A connection thread: serves one connection after the other as long as some come.
fn serve_all(shared: &Shared, first: Option<Handover>, waiting: &Receiver<Handover>) {
    let mut next = first;
    while let Some((requests, connection)) = next.take() {
        // The place must come back, whatever the parser thinks of what it reads.
        let served = AssertUnwindSafe(|| serve(shared, requests, &connection));
        if let Err(panic) = catch_unwind(served) {
            let text = panic_text(&*panic);
            log::error!(
                "A connection's thread panicked: {}",
                crate::log_safe::LogSafe(text)
            );
            connection.reset();
        }
        shared.forget(connection);
        if !shared.is_stopping() {
            next = waiting.recv_timeout(THREAD_IDLE).ok();
        }
    }
}

/// There is no room for it: says so, without waiting for a request.
fn turn_away(shared: &Shared, connection: &Connection) {
    let _ = connection
        .socket
        .set_write_timeout(Some(Duration::from_millis(100)));
    let message = "There are too many connections; try again in a moment";
    let problem = Problem::new(503, "too_many_connections", message).with("Retry-After", "1");
    refuse(shared, connection, None, problem);
    let _ = connection.socket.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_client_that_does_not_read_holds_little_of_the_kernels_memory() {
        let listener = bind("127.0.0.1", 0).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        deaf.set_recv_buffer_size(4_096).expect("a small buffer");
        deaf.connect(&address.into()).expect("a connection");
        let (mut socket, _) = listener.accept().expect("a connection");
        socket.set_nonblocking(true).expect("set");
        let mut taken = 0;
        while let Ok(length) = socket.write(&[0; 4_096]) {
            taken += length;
        }
        assert!((1..8 * SEND_BUFFER).contains(&taken), "{taken}");
    }

    #[test]
    fn a_parser_that_panics_costs_its_own_connection_alone() {
        let minute = Duration::from_secs(60);
        let shared = Shared::of_one(Box::new(|_| unreachable!("no request comes through")));
        let listener = bind("127.0.0.1", 0).expect("a free port");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (socket, peer) = listener.accept().expect("a connection");
        // One with a body: a head alone is no matter for the parser.
        let request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
        client.write_all(request).expect("sent");
        let connection = Arc::new(Connection::new(socket, peer, 0, minute));
        shared.open.lock().insert(peer, connection.clone());
        let parser: Requests = Box::new(std::iter::from_fn(|| panic!("this head")));
        let (hand_over, waiting) = crossbeam_channel::bounded(0);
        drop(hand_over);
        serve_all(&shared, Some((parser, connection)), &waiting);
        assert!(shared.open.lock().is_empty());
        let end = client.read(&mut [0]);
        let is_reset = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionReset;
        assert!(end.as_ref().map_or_else(is_reset, |&n| n == 0), "{end:?}");
    }
}
