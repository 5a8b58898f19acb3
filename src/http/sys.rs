//! The little that neither the standard library nor `tiny_http` offers, and all `unsafe` there
//! is: finding the socket of a connection that was just accepted, looking into its queue, and
//! raising the limit of open descriptors.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use socket2::SockRef;

/// A second handle on the connection accepted last: `tiny_http` gives out neither its address
/// nor its socket.
///
/// The kernel hands out the lowest free descriptor, so it is nearly always `hint`; else all
/// descriptors are looked through. It is recognised by its two addresses, which no other open
/// connection shares: `known` tells the peers of those that were there before, and knows each until
/// its last descriptor is closed.
pub(crate) fn accepted_socket(
    hint: Option<RawFd>,
    listener: SocketAddr,
    known: impl Fn(&SocketAddr) -> bool,
) -> Option<(TcpStream, SocketAddr)> {
    let peer_of = |socket: SockRef<'_>| -> io::Result<Option<SocketAddr>> {
        let local = socket.local_addr()?.as_socket();
        if local.is_none_or(|local| local.port() != listener.port()) {
            return Ok(None);
        }
        Ok(socket.peer_addr()?.as_socket())
    };
    let duplicate = |descriptor: RawFd| -> io::Result<Option<(TcpStream, SocketAddr)>> {
        // SAFETY: the borrow ends with this closure. Where the number is not open, or another
        // thread closes or reuses it meanwhile, the calls on it fail or tell another
        // connection's addresses, and it is passed over; the one that matches is held open by
        // the caller, who has just accepted it.
        let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let Some(peer) = peer_of(SockRef::from(&socket))?.filter(|peer| !known(peer)) else {
            return Ok(None);
        };
        // In this order: what was known a moment ago and is not now cannot be duplicated any more,
        // and what the number stands for now may be another's.
        let own = TcpStream::from(SockRef::from(&socket).try_clone()?);
        let is_same = peer_of(SockRef::from(&own))? == Some(peer);
        Ok(is_same.then_some((own, peer)))
    };
    match hint.map(&duplicate) {
        Some(Ok(Some(found))) => return Some(found),
        // Most probably it, and its client has gone already. Looking at all descriptors for it
        // would give those who come and go a lever.
        Some(Err(error)) if error.kind() == io::ErrorKind::NotConnected => return None,
        _ => {}
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").ok()?;
    descriptors
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find_map(|descriptor| duplicate(descriptor).ok()?)
}

/// The descriptor that the next accepted connection will probably get; `None`: there is none left.
pub(crate) fn next_descriptor(listener: &TcpListener) -> Option<RawFd> {
    Some(listener.try_clone().ok()?.as_raw_fd())
}

/// Fills `buffer` with the first bytes of the socket's queue, and leaves them there. Waits until
/// there are as many; fewer mean that no more will come.
pub(crate) fn peek_all(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    receive(socket, buffer, libc::MSG_PEEK | libc::MSG_WAITALL)
}

fn receive(socket: &TcpStream, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length into it.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            flags,
        )
    };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// As many of the first bytes of the socket's queue as are there now, without waiting.
pub(crate) fn peek_now(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    receive(socket, buffer, libc::MSG_PEEK | libc::MSG_DONTWAIT)
}

/// Whether the other side has neither closed nor reset its end, whatever of it is still unread.
pub(crate) fn is_open(socket: &TcpStream) -> bool {
    let mut look = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: the call reads and writes the one struct it is given, and does not wait.
    let count = unsafe { libc::poll(&raw mut look, 1, 0) };
    count <= 0 || look.revents == 0
}

/// How many bytes have been taken out of the socket's queue since it was opened.
pub(crate) fn bytes_taken(socket: &TcpStream) -> io::Result<u64> {
    let mut received = bytes_received(socket)?;
    // The two numbers belong together where nothing came in between.
    for _ in 0..16 {
        let waiting = queued(socket)?;
        let again = bytes_received(socket)?;
        if again == received {
            return Ok(received.saturating_sub(waiting));
        }
        received = again;
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// How many bytes have come since the socket was opened, taken or not.
pub(crate) fn bytes_received(socket: &TcpStream) -> io::Result<u64> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the call writes at most what the pointers lead to, and a `tcp_info` of zeros is a
    // valid one.
    let info = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        let place = info.as_mut_ptr().cast();
        if libc::getsockopt(socket.as_raw_fd(), level, name, place, &raw mut size) != 0 {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    // The end of a stream counts as a byte.
    const CLOSE_WAIT: u8 = 8;
    let end = u64::from(info.tcpi_state == CLOSE_WAIT);
    Ok(info.tcpi_bytes_received.saturating_sub(end))
}

/// How many bytes wait in the socket's queue.
fn queued(socket: &TcpStream) -> io::Result<u64> {
    let mut queued: libc::c_int = 0;
    // SAFETY: the call writes one number.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut queued) } {
        0 => Ok(u64::try_from(queued).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises this process's limit of open descriptors as far as it may; how many that are.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read or write only the struct they are given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return None;
        }
        let before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
            0 => Some(limit.rlim_cur),
            _ => Some(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn an_end_is_seen_behind_unread_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).expect("a connection");
        let (socket, _) = listener.accept().expect("a connection");
        client.write_all(b"nobody reads this").expect("sent");
        assert!(is_open(&socket));
        client.shutdown(Shutdown::Write).expect("half closed");
        let start = std::time::Instant::now();
        while is_open(&socket) {
            assert!(start.elapsed().as_secs() < 30, "its end was not seen");
        }
    }
}
