//! Accepts connections, or refuses them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::http::Problem;
use crate::net::connection::serve;
use crate::net::encode::{self, Framing};
use crate::net::open::Open;
use crate::net::service::Shared;
use crate::threads::{panic_text, spawn_with_stack};

/// How long an idle connection thread waits for the next connection before it ends.
const THREAD_IDLE: Duration = Duration::from_secs(10);

const CONNECTION_STACK: usize = 256 * 1024;

/// As much as a large response is made at once.
const SEND_BUFFER: usize = 64 * 1024;

/// How often the accept loop checks for the stop.
const ACCEPT_TICK: Duration = Duration::from_millis(100);

/// How long, at the stop, connections that have been made already are still accepted.
const LAST_ONES: Duration = Duration::from_millis(500);

/// The pause after a connection that could not be accepted.
const BACK_OFF: Duration = Duration::from_millis(20);

/// The addresses of a name, of an address, or of an address in brackets. `localhost` has two, whatever the system's
/// table of hosts says.
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.eq_ignore_ascii_case("localhost") {
        let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(both.map(|ip: IpAddr| (ip, port).into()).to_vec());
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    Ok((bare.unwrap_or(host), port).to_socket_addrs()?.collect())
}

/// Listens on all addresses of `host` that allow it, on one port.
pub(super) fn bind(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for mut address in addresses(host, port)? {
        if let Some(first) = listeners.first() {
            address.set_port(first.local_addr()?.port());
        }
        match bind_one(address) {
            Ok(listener) => listeners.push(listener),
            // Another program has this address. Its clients and ours must not be mixed up.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => {
                return Err(error);
            }
            Err(error) => failure = error,
        }
    }
    match listeners.is_empty() {
        true => Err(failure),
        false => Ok(listeners),
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Bursts of a thousand connections do not wait for a retransmission.
    socket.listen(1_024)?;
    // Accepted sockets inherit it: a client that does not read holds no more of the
    // kernel's memory, which would otherwise grow to four megabytes for each.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Where connection threads without a connection wait for one.
type HandOver = (Sender<Arc<Open>>, Receiver<Arc<Open>>);

/// The accept loop. At the stop it accepts what has been made already, and ends.
pub(super) fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    // Rendezvous: a send succeeds only if a thread waits for a connection.
    let threads = crossbeam_channel::bounded(0);
    let mut is_failing = false;
    let mut end = None;
    loop {
        let is_stopping = shared.is_stopping();
        if is_stopping && Instant::now() >= *end.get_or_insert_with(|| Instant::now() + LAST_ONES) {
            return;
        }
        let accepted = match listener.accept() {
            Ok((socket, peer)) => admit(shared, socket, peer, &threads),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if is_stopping {
                    return;
                }
                wait(listener);
                continue;
            }
            // The client was gone before it was accepted.
            Err(error) if is_of_client(&error) => continue,
            Err(error) => Err(error),
        };
        if let Err(error) = &accepted {
            shared.not_accepted.increment();
            // Once for a bad time, however long it lasts.
            if !is_failing {
                log::warn!("A connection cannot be accepted, and the next ones are tried: {error}");
            }
            std::thread::sleep(BACK_OFF);
        }
        is_failing = accepted.is_err();
    }
}

fn wait(listener: &TcpListener) {
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: ACCEPT_TICK.as_nanos() as _,
    };
    let mut look = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut look, Some(&tick)).is_err() {
        // If `poll` fails at once, do not spin.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

/// Gives a new connection to a thread, or refuses it.
///
/// # Errors
///
/// No thread can be started.
fn admit(
    shared: &Arc<Shared>,
    socket: TcpStream,
    peer: SocketAddr,
    threads: &HandOver,
) -> io::Result<()> {
    let options = &shared.options;
    // Some systems let it inherit this from the listener.
    #[cfg(any(not(target_os = "linux"), portable))]
    socket.set_nonblocking(false)?;
    let _ = socket.set_nodelay(true);
    let _ = socket.set_write_timeout(Some(options.request_timeout));
    let (max, max_per_ip) = (options.max_connections, options.max_connections_per_ip);
    match shared.open.add(socket, peer, max, max_per_ip) {
        Ok(connection) => start(shared, connection, threads),
        Err(socket) => {
            turn_away(shared, socket);
            Ok(())
        }
    }
}

/// Gives the connection to a thread that waits for one, or to a new one.
fn start(
    shared: &Arc<Shared>,
    connection: Arc<Open>,
    (hand_over, waiting): &HandOver,
) -> io::Result<()> {
    let Err(not_taken) = hand_over.try_send(connection) else {
        return Ok(());
    };
    let connection = not_taken.into_inner();
    // Keep a handle here: if no thread can be started, its closure drops the other.
    let (first, inside, waiting) = (connection.clone(), shared.clone(), waiting.clone());
    let serve = move || serve_all(&inside, first, &waiting);
    spawn_with_stack("connection", CONNECTION_STACK, serve)
        .map(drop)
        .map_err(|error| {
            shared.open.remove(&connection);
            if let Some(connection) = Arc::into_inner(connection) {
                turn_away(shared, connection.socket);
            }
            io::Error::other(format!("no thread can be started for it: {error}"))
        })
}

/// A connection thread: serves one connection after the other as long as some come.
fn serve_all(shared: &Shared, first: Arc<Open>, waiting: &Receiver<Arc<Open>>) {
    let mut next = Some(first);
    while let Some(connection) = next.take() {
        let served = catch_unwind(AssertUnwindSafe(|| serve(shared, &connection)));
        // Release the place even if the thread panicked.
        shared.open.remove(&connection);
        if let Err(panic) = served {
            let text = panic_text(&*panic);
            log::error!(
                "A connection's thread panicked: {}",
                crate::log_safe::LogSafe(text)
            );
            connection.reset();
        }
        drop(connection);
        if !shared.is_stopping() {
            next = waiting.recv_timeout(THREAD_IDLE).ok();
        }
    }
}

/// Sends 503 without waiting for a request.
fn turn_away(shared: &Shared, socket: TcpStream) {
    let message = "There are too many connections; try again in a moment";
    let problem = Problem::new(503, "too_many_connections", message).with("Retry-After", "1");
    shared.refused.count(problem.status);
    let id = shared.ids.next();
    let response = encode::to_bytes(problem.into_response(&id), &id, Framing::CLOSE);
    shared.overload.refuse(socket, &response);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_client_that_does_not_read_holds_little_of_the_kernels_memory() {
        let listeners = bind("127.0.0.1", 0).expect("a free port");
        let listener = &listeners[0];
        let address = listener.local_addr().expect("an address");
        let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        deaf.set_recv_buffer_size(4_096).expect("a small buffer");
        deaf.connect(&address.into()).expect("a connection");
        wait(listener);
        let (mut socket, _) = listener.accept().expect("a connection");
        socket.set_nonblocking(true).expect("set");
        let mut taken = 0;
        while let Ok(length) = socket.write(&[0; 4_096]) {
            taken += length;
        }
        assert!((1..8 * SEND_BUFFER).contains(&taken), "{taken}");
    }

    #[test]
    fn a_host_may_be_an_address_in_brackets_or_a_name_with_several() {
        let has_v6 = bind("::1", 0).is_ok();
        for (host, count) in [
            ("[::1]", usize::from(has_v6)),
            ("localhost", 1 + usize::from(has_v6)),
            ("127.0.0.1", 1),
        ] {
            let listeners = bind(host, 0).unwrap_or_default();
            assert_eq!(listeners.len(), count, "{host}");
            let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
            assert!(listeners.iter().all(|l| port(l) == port(&listeners[0])));
        }
        assert!(bind("[::1", 0).is_err());
    }
}
