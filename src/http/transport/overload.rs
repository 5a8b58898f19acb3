//! Connections that there is no room for: they are told so, and read away for a moment.
//!
//! Closing over bytes that are still coming would reset the connection, and the client would never see why. One thread does
//! this for all of them, so that none keeps a place or holds up the next one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// How many there may be at once. Beyond that they are closed at once.
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
}

/// A connection that has been told.
struct Refused {
    socket: TcpStream,
    until: Instant,
    read: usize,
}

impl Default for Overload {
    fn default() -> Overload {
        let (refuse, refused) = bounded(MAX_FILES as usize);
        Overload { refuse, refused }
    }
}

impl Overload {
    /// Sends `response`, the last one of this connection. Never blocks.
    pub(super) fn refuse(&self, socket: TcpStream, response: &[u8]) {
        let _ = socket.set_nonblocking(true);
        let _ = (&socket).write_all(response);
        let _ = socket.shutdown(Shutdown::Write);
        let refused = Refused {
            socket,
            until: Instant::now() + PATIENCE,
            read: 0,
        };
        let _ = self.refuse.try_send(refused);
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
            all.retain_mut(Refused::goes_on);
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
