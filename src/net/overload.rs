//! Connections that there is no room for: they are told so, and read away for a moment.
//!
//! Closing over bytes that are still coming would reset the connection, and the client would never see why. One thread does
//! this for all of them, so that none keeps a place or holds up the next one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

/// The most of them at once. Beyond that they are told and closed at once.
pub(super) const MAX_FILES: u64 = 64;

/// How long, and how much of each, is read away.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// How often it looks while there are some.
const TICK: Duration = Duration::from_millis(5);

/// How often it looks whether it is to end while there are none.
const IDLE: Duration = Duration::from_millis(100);

pub(super) struct Overload {
    refuse: Sender<Refused>,
    refused: Receiver<Refused>,
    /// How many there may be, and how many there are.
    max: usize,
    count: AtomicUsize,
}

/// A connection that has been told.
struct Refused {
    socket: TcpStream,
    until: Instant,
    read: usize,
}

impl Overload {
    pub(super) fn new(max: usize) -> Overload {
        let (refuse, refused) = unbounded();
        Overload {
            refuse,
            refused,
            max,
            count: AtomicUsize::new(0),
        }
    }

    /// Sends `response`, the last one of this connection. Never blocks.
    pub(super) fn refuse(&self, socket: TcpStream, response: &[u8]) {
        let _ = socket.set_nonblocking(true);
        let _ = (&socket).write_all(response);
        let _ = socket.shutdown(Shutdown::Write);
        if self.count.fetch_add(1, SeqCst) >= self.max {
            self.count.fetch_sub(1, SeqCst);
            return;
        }
        let _ = self.refuse.send(Refused {
            socket,
            until: Instant::now() + PATIENCE,
            read: 0,
        });
    }

    /// Reads away what these clients go on sending.
    pub(super) fn run(&self, stopping: &AtomicBool) {
        let mut all = Vec::new();
        while !stopping.load(SeqCst) {
            let wait = if all.is_empty() { IDLE } else { TICK };
            if let Ok(refused) = self.refused.recv_timeout(wait) {
                all.push(refused);
                continue;
            }
            let before = all.len();
            all.retain_mut(Refused::goes_on);
            self.count.fetch_sub(before - all.len(), SeqCst);
        }
    }
}

impl Refused {
    /// Whether more may come.
    fn goes_on(&mut self) -> bool {
        let mut scrap = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut scrap) {
                Ok(0) => return false,
                Ok(length) => self.read += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Instant::now() < self.until;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            if self.read > MAX_BYTES {
                return false;
            }
        }
    }
}
