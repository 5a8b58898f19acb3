//! What a client sends: the bytes of a connection, read within a time.

use std::io::{self, BufRead, ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How much is read at once. Nearly every request fits.
const READ: usize = 1_024;

/// The longest wait in one piece, as far as more of a request has to come.
const SLICE: Duration = Duration::from_secs(1);

/// A wait that takes so much longer than it was to take shows that the process was halted.
const HALTED: Duration = Duration::from_millis(250);

/// Why no more bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed the connection or its side of it, or the connection broke.
    Closed,
    /// The time is over.
    Late,
}

/// A connection's incoming bytes, and how long to wait for more of them.
pub(super) struct Input<'c> {
    socket: &'c TcpStream,
    buffer: Vec<u8>,
    /// What the socket's time-out is now.
    timeout: Option<Duration>,
    /// How much longer the client has for what is being read.
    left: Duration,
    /// Why the last attempt to read failed.
    end: End,
}

impl<'c> Input<'c> {
    pub(super) fn new(socket: &'c TcpStream) -> Input<'c> {
        Input {
            socket,
            buffer: Vec::new(),
            timeout: None,
            left: Duration::ZERO,
            end: End::Closed,
        }
    }

    /// The bytes that have come and were not consumed.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// From now on, what is read has to come within this time.
    pub(super) fn allow(&mut self, time: Duration) {
        self.left = time;
    }

    /// How much of that time is left.
    pub(super) fn left(&self) -> Duration {
        self.left
    }

    /// Waits for the first bytes of a request, in one piece: this is what nearly every wait is.
    pub(super) fn wait(&mut self) -> Result<(), End> {
        let whole = self.left;
        self.receive(whole)
    }

    /// Waits for more bytes of a request.
    pub(super) fn more(&mut self) -> Result<(), End> {
        self.receive(SLICE)
    }

    fn receive(&mut self, slice: Duration) -> Result<(), End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let known = buffer.len();
        buffer.resize((known + 1).next_multiple_of(READ), 0);
        let read = self.read_into(&mut buffer[known..], slice);
        buffer.truncate(known + read.unwrap_or(0));
        self.buffer = buffer;
        read.map(drop)
    }

    fn read_into(&mut self, into: &mut [u8], slice: Duration) -> Result<usize, End> {
        let read = self.read_in_time(into, slice);
        if let Err(end) = read {
            self.end = end;
        }
        read
    }

    fn read_in_time(&mut self, into: &mut [u8], slice: Duration) -> Result<usize, End> {
        while !self.left.is_zero() {
            let wait = self.left.min(slice);
            if self.timeout != Some(wait) {
                let set = self.socket.set_read_timeout(Some(wait));
                set.map_err(|_| End::Closed)?;
                self.timeout = Some(wait);
            }
            let begun = Instant::now();
            let read = self.socket.read(into);
            // A wait that was much too long was that of a halted process, not that of the client.
            let waited = begun.elapsed();
            if waited <= wait + HALTED {
                self.left = self.left.saturating_sub(waited.min(wait));
            }
            match read {
                Ok(0) => return Err(End::Closed),
                Ok(length) => return Ok(length),
                // The time-out, or a process that was halted and goes on.
                Err(error) if is_pause(&error) => {}
                Err(_) => return Err(End::Closed),
            }
        }
        Err(End::Late)
    }

    /// Why the last attempt to read failed, for who has seen an [`io::Error`] alone.
    pub(super) fn end(&self) -> End {
        self.end
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.buffer.is_empty() {
            match self.more() {
                Ok(()) => {}
                Err(End::Closed) => return Ok(&[]),
                Err(End::Late) => return Err(ErrorKind::TimedOut.into()),
            }
        }
        Ok(&self.buffer)
    }

    fn consume(&mut self, amount: usize) {
        self.buffer.drain(..amount);
        self.buffer.shrink_to(READ);
    }
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // A large body goes where it is wanted at once.
        if self.buffer.is_empty() && into.len() > READ {
            return match self.read_into(into, SLICE) {
                Err(End::Late) => Err(ErrorKind::TimedOut.into()),
                read => Ok(read.unwrap_or(0)),
            };
        }
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}
