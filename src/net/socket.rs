//! What the standard library does not offer: is the client still there, and how many files may be open.

use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::http::Peer;

/// Sees the end of the stream behind bytes that are still unread.
#[cfg(all(target_os = "linux", not(portable)))]
pub(crate) fn peer(socket: &TcpStream) -> Peer {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut look = [PollFd::new(socket, PollFlags::RDHUP)];
    if poll(&mut look, Some(&Timespec::default())).is_err() {
        return Peer::Open;
    }
    let seen = look[0].revents();
    if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
        Peer::Gone
    } else if seen.contains(PollFlags::RDHUP) {
        Peer::HalfClosed
    } else {
        Peer::Open
    }
}

/// Sees the end of the stream where no unread bytes stand before it.
#[cfg(not(all(target_os = "linux", not(portable))))]
pub(crate) fn peer(socket: &TcpStream) -> Peer {
    use rustix::io::Errno;
    use rustix::net::{RecvFlags, recv};

    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recv(socket, &mut [0_u8; 1][..], flags) {
        Ok((_, 0)) => Peer::HalfClosed,
        Ok(_) | Err(Errno::WOULDBLOCK | Errno::INTR) => Peer::Open,
        Err(_) => Peer::Gone,
    }
}

/// Raises this process's limit of open files as far as it may; how many that are.
pub(super) fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, highest) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener};
    use std::time::{Duration, Instant};

    use super::*;

    fn becomes(socket: &TcpStream, state: Peer) -> bool {
        let start = Instant::now();
        while peer(socket) != state {
            if start.elapsed() > Duration::from_secs(30) {
                return false;
            }
        }
        true
    }

    #[test]
    fn a_client_that_sends_no_more_is_told_from_one_that_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).expect("a connection");
        let (mut socket, _) = listener.accept().expect("a connection");
        assert_eq!(peer(&socket), Peer::Open);
        client.shutdown(Shutdown::Write).expect("half closed");
        assert!(becomes(&socket, Peer::HalfClosed));
        drop(client);
        socket.write_all(b"probe").expect("sent");
        assert!(becomes(&socket, Peer::Gone));
    }

    #[cfg(all(target_os = "linux", not(portable)))]
    #[test]
    fn an_end_is_seen_behind_unread_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).expect("a connection");
        let (socket, _) = listener.accept().expect("a connection");
        client.write_all(b"never read").expect("sent");
        assert_eq!(peer(&socket), Peer::Open);
        client.shutdown(Shutdown::Write).expect("half closed");
        assert!(becomes(&socket, Peer::HalfClosed));
    }
}
