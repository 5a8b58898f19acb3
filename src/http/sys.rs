//! The little that neither the standard library nor `tiny_http` offers, and all `unsafe` there
//! is: finding the socket of a connection that was just accepted, and raising the limit of
//! open descriptors.
#![allow(unsafe_code)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use socket2::SockRef;

/// A second handle on the connection accepted last: `tiny_http` gives out neither its address
/// nor its socket.
///
/// The kernel hands out the lowest free descriptor, so it is nearly always `hint`; else all
/// descriptors are looked through. It is recognised by its two addresses, which no other open
/// connection shares: `known` tells the peers of those that were there before.
pub(crate) fn accepted_socket(
    hint: RawFd,
    listener: SocketAddr,
    known: impl Fn(&SocketAddr) -> bool,
) -> Option<(TcpStream, SocketAddr)> {
    let scan = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let candidates = std::iter::once(hint).chain(scan);
    candidates.filter(|&fd| fd >= 0).find_map(|descriptor| {
        // SAFETY: the borrow ends with this closure. Where the number is not open, or another
        // thread closes or reuses it meanwhile, the calls on it fail or tell another
        // connection's addresses, and it is passed over; the one that matches is held open by
        // the caller, who has just accepted it.
        let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let socket = SockRef::from(&socket);
        let local = socket.local_addr().ok()?.as_socket()?;
        let peer = socket.peer_addr().ok()?.as_socket()?;
        let ours = local.port() == listener.port() && !known(&peer);
        ours.then(|| Some((socket.try_clone().ok()?.into(), peer)))?
    })
}

/// The descriptor that the next accepted connection will probably get.
pub(crate) fn next_descriptor(listener: &TcpListener) -> RawFd {
    listener.try_clone().map_or(-1, |probe| probe.as_raw_fd())
}

/// Raises this process's limit of open descriptors as far as it may. A connection takes three.
pub(crate) fn raise_descriptor_limit() {
    // SAFETY: both calls read or write only the struct they are given.
    unsafe {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
