//! One connection: what it is doing, by when that must be done, and where its requests begin.

use std::io::{self, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::time::Duration;

use socket2::SockRef;

use crate::http::chunks::{self, Broken};
use crate::http::head;
use crate::http::{Problem, sys};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// A request has begun to come in.
    Reading,
    /// A handler has it; nothing is waited for.
    Working,
    /// An answer goes out.
    Writing,
}

/// One open connection, as its thread, the guard and the stop see it. Everything here is atomic:
/// the guard looks while the thread moves on.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    phase: AtomicU8,
    /// When the phase began, in milliseconds of the transport's clock.
    since: AtomicU64,
    /// By when it must be over, likewise.
    deadline: AtomicU64,
    /// Whether bytes that have not arrived yet will be ignored.
    is_shut: AtomicBool,
}

impl Connection {
    /// A connection that was opened `now` and whose first request must have come `within` a time.
    pub(super) fn new(
        socket: TcpStream,
        peer: SocketAddr,
        now: u64,
        within: Duration,
    ) -> Connection {
        let connection = Connection {
            socket,
            peer,
            phase: AtomicU8::new(Phase::Idle as u8),
            since: AtomicU64::new(now),
            deadline: AtomicU64::new(u64::MAX),
            is_shut: AtomicBool::new(false),
        };
        connection.enter(Phase::Idle, now, within);
        connection
    }

    /// Enters a phase that began at `since` and must be over `within` a time.
    pub(super) fn enter(&self, phase: Phase, since: u64, within: Duration) {
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.since.store(since, Release);
        self.deadline.store(since.saturating_add(within), Release);
        // Last: who sees the phase sees its times, or those of a later one.
        self.phase.store(phase as u8, Release);
    }

    /// A handler has the request: it takes what it takes.
    pub(super) fn work(&self) {
        self.enter(Phase::Working, 0, Duration::MAX);
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        self.phase.load(Acquire) == phase as u8
    }

    /// Whether it has been between two requests since `moment`.
    pub(super) fn is_idle_since(&self, moment: u64) -> bool {
        self.is(Phase::Idle) && self.since.load(Acquire) <= moment
    }

    pub(super) fn is_late(&self, now: u64) -> bool {
        self.deadline.load(Acquire) < now
    }

    /// Closes what is late. Its thread reads the end of the stream, says what is
    /// to be said, and lets go.
    pub(super) fn guard(&self, now: u64) {
        let is_writing = self.is(Phase::Writing);
        match self.is_late(now) {
            true if is_writing => drop(self.socket.shutdown(Shutdown::Both)),
            true => self.shut(),
            false => {}
        }
    }

    /// Reads no more than what has come. A request that was on its way may find itself cut, which
    /// [`is_shut`](Self::is_shut) tells from one that its client has not finished.
    pub(super) fn shut(&self) {
        self.is_shut.store(true, Release);
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.is_shut.load(Acquire)
    }

    /// Ends a connection whose client goes on sending: it hears of it at once, and what it has
    /// sent is not read to its end.
    pub(super) fn reset(&self) {
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// What comes next on a connection.
pub(super) enum Next {
    /// A whole head.
    Head,
    Refused(Problem),
    /// The client is gone, or has kept an idle connection for too long.
    Gone,
}

/// Looks at each head before anything else does: first while it is still in the kernel's buffer,
/// where the parser finds it again, and from the connection's first request without a body on by
/// reading it. A client that polls goes on polling, and a look is one system call more than a read.
///
/// The parser reads ahead, up to a kilobyte beyond a request's end. What it holds of the next
/// request was seen here before, except when it came between the look and the read; then
/// [`finish`](Intake::finish) tells that the connection cannot go on.
pub(super) struct Intake<'c> {
    connection: &'c Connection,
    /// Bytes from the start of the next request on. The first of them are `taken` out of the
    /// kernel: by the parser, or by the gate where it `reads`, and then they are all.
    seen: Vec<u8>,
    taken: usize,
    /// Whether the gate reads: the parser has nothing of this connection any more.
    reads: bool,
    /// Bytes of the requests that are over.
    over: u64,
}

/// How much the parser reads at once.
const READ_AHEAD: usize = 1_024;

/// Enough for nearly every head.
const FIRST_LOOK: usize = 1_024;

impl<'c> Intake<'c> {
    pub(super) fn new(connection: &'c Connection) -> Intake<'c> {
        Intake {
            connection,
            seen: Vec::new(),
            taken: 0,
            reads: false,
            over: 0,
        }
    }

    /// Waits for a whole head, and copies it into `head`. `begun` is called when its first byte is
    /// there.
    pub(super) fn next_head(&mut self, head: &mut Vec<u8>, begun: impl FnOnce()) -> Next {
        let mut begun = Some(begun);
        loop {
            if !self.seen.is_empty()
                && let Some(begun) = begun.take()
            {
                begun();
            }
            match head::find_end(&self.seen) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    head.clear();
                    head.shrink_to(FIRST_LOOK);
                    head.extend_from_slice(&self.seen[..end]);
                    return Next::Head;
                }
                Err(problem) => return Next::Refused(problem),
            }
            if !self.look() {
                return Next::Gone;
            }
        }
    }

    /// Whether some bytes of a request have come.
    pub(super) fn has_begun(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Waits for more bytes than were seen so far; false where none will come.
    fn look(&mut self) -> bool {
        let mut socket = &self.connection.socket;
        let known = self.seen.len() - self.taken;
        let room = (known + 1).max(FIRST_LOOK).next_power_of_two();
        self.seen.resize(self.taken + room, 0);
        let queue = &mut self.seen[self.taken..];
        // With nothing known, any byte is news; else one more than there are.
        let more =
            known == 0 || sys::peek_all(socket, &mut queue[..=known]).is_ok_and(|n| n > known);
        let length = match more {
            true if self.reads => socket.read(queue).unwrap_or(0),
            true => socket.peek(queue).unwrap_or(0),
            false => 0,
        };
        self.seen.truncate(self.taken + length.max(known));
        if self.reads {
            self.taken = self.seen.len();
        }
        length > known
    }

    /// Looks at what has come behind a head already: the rest of its request, and as much more as
    /// the parser may read ahead.
    pub(super) fn look_behind(&mut self, request: usize) {
        let known = self.seen.len() - self.taken;
        let is_all = !known.is_multiple_of(FIRST_LOOK) && self.seen.len() >= request;
        if is_all || request > head::MAX_HEAD {
            return;
        }
        self.seen.resize(request + READ_AHEAD, 0);
        let queue = &mut self.seen[self.taken..];
        let length = sys::peek_now(&self.connection.socket, queue).unwrap_or(0);
        self.seen.truncate(self.taken + length.max(known));
    }

    /// Marks a request of so many bytes as taken by the parser; false where it has taken more
    /// than was seen, and nobody can tell what the next request is.
    pub(super) fn finish(&mut self, request: usize) -> bool {
        self.over += request as u64;
        let ahead = self.taken_ahead().unwrap_or(u64::MAX);
        let beyond = self.seen.len().saturating_sub(request);
        if ahead > beyond as u64 {
            return false;
        }
        self.taken = ahead as usize;
        self.seen.drain(..request.min(self.seen.len()));
        self.seen.truncate(self.taken);
        self.seen.shrink_to(FIRST_LOOK);
        true
    }

    /// How many bytes the parser holds of what follows the requests that are over.
    fn taken_ahead(&self) -> io::Result<u64> {
        let socket = &self.connection.socket;
        // Mostly nothing has come that it could have taken.
        if sys::bytes_received(socket)? <= self.over {
            return Ok(0);
        }
        Ok(sys::bytes_taken(socket)?.saturating_sub(self.over))
    }

    /// Whether the gate reads, and the parser must not be asked.
    pub(super) fn reads(&self) -> bool {
        self.reads
    }

    /// Whether the parser holds some of what comes next, and must be asked for it.
    pub(super) fn is_parsers(&self) -> bool {
        !self.reads && self.taken > 0
    }

    /// Takes a request that is its head alone, none of which the parser holds.
    ///
    /// # Errors
    ///
    /// The connection broke meanwhile.
    pub(super) fn take(&mut self, request: usize) -> io::Result<()> {
        self.begin_to_read(request)?;
        self.pass(request);
        Ok(())
    }

    /// From here on the gate reads: first the head, which it has only looked at.
    fn begin_to_read(&mut self, head: usize) -> io::Result<()> {
        if !self.reads {
            // The same bytes once more, which were seen to be there. Those behind them come again.
            self.seen.truncate(head);
            (&self.connection.socket).read_exact(&mut self.seen)?;
            self.taken = head;
            self.reads = true;
        }
        Ok(())
    }

    /// Takes a request with a body, none of which the parser holds; the body.
    ///
    /// # Errors
    ///
    /// It has not come whole.
    pub(super) fn take_body(&mut self, head: usize, length: usize) -> io::Result<Vec<u8>> {
        self.begin_to_read(head)?;
        let held = &self.seen[head..];
        let mut body = held[..held.len().min(length)].to_vec();
        let rest = (length - body.len()) as u64;
        self.pass(head + body.len());
        let mut socket = (&self.connection.socket).take(rest);
        match socket.read_to_end(&mut body)? as u64 == rest {
            true => Ok(body),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Goes on behind so many bytes that the gate has read.
    fn pass(&mut self, bytes: usize) {
        self.seen.drain(..bytes);
        self.seen.shrink_to(FIRST_LOOK);
        self.taken = self.seen.len();
    }

    /// Reads the chunked body behind a head, without the parser: the connection cannot go on.
    pub(super) fn read_chunked(&self, head: usize, max: usize) -> Result<Vec<u8>, Broken> {
        // What the parser holds of it was all seen.
        let held = &self.seen[..self.taken];
        let mut whole = BufReader::new(held.chain(&self.connection.socket));
        let mut head = (&mut whole).take(head as u64);
        io::copy(&mut head, &mut io::sink()).map_err(|_| Broken::Cut)?;
        chunks::read_chunks(&mut whole, max)
    }
}
