//! Which connections are open, for the limits and the stop.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;

/// An open connection: its thread owns it, the stop sees it.
pub(super) struct Open {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    number: u64,
    opened: Instant,
    /// Milliseconds after `opened` at which it became idle; [`BUSY`] during a request.
    idle_since: AtomicU64,
    /// Whether bytes that have not arrived yet will be ignored.
    is_shut: AtomicBool,
}

const BUSY: u64 = u64::MAX;

impl Open {
    /// It waits for its next request.
    pub(super) fn set_idle(&self) {
        self.idle_since.store(self.age(), SeqCst);
    }

    /// The first bytes of a request have come.
    pub(super) fn set_busy(&self) {
        self.idle_since.store(BUSY, SeqCst);
    }

    fn age(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    fn is_idle_for(&self, time: Duration) -> bool {
        let since = self.idle_since.load(SeqCst);
        since != BUSY && self.age().saturating_sub(since) >= time.as_millis() as u64
    }

    /// Reads no more than what has come. A request that was on its way may find itself cut, which
    /// [`is_shut`](Self::is_shut) tells from one that its client has not finished.
    pub(super) fn shut(&self) {
        self.is_shut.store(true, SeqCst);
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.is_shut.load(SeqCst)
    }

    /// Ends a connection whose client goes on sending: it hears of it at once, and what it has
    /// sent is not read to its end.
    pub(super) fn reset(&self) {
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// All open connections.
#[derive(Default)]
pub(super) struct OpenConnections(Mutex<Table>);

/// No other lock is taken under this one's.
#[derive(Default)]
struct Table {
    open: HashMap<u64, Arc<Open>>,
    opened: u64,
}

impl OpenConnections {
    /// Adds a connection where there is room: for so many in all, and for so many of one address. This machine's own
    /// addresses are not limited.
    ///
    /// # Errors
    ///
    /// The socket, if there is no room.
    pub(super) fn add(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        max: usize,
        max_per_ip: usize,
    ) -> Result<Arc<Open>, TcpStream> {
        let mut table = self.0.lock();
        let is_ours = peer.ip().to_canonical().is_loopback();
        if table.open.len() >= max || !is_ours && table.of(peer.ip()) >= max_per_ip {
            return Err(socket);
        }
        table.opened += 1;
        let open = Arc::new(Open {
            socket,
            peer,
            number: table.opened,
            opened: Instant::now(),
            idle_since: AtomicU64::new(0),
            is_shut: AtomicBool::new(false),
        });
        table.open.insert(open.number, open.clone());
        Ok(open)
    }

    pub(super) fn remove(&self, connection: &Open) {
        let removed = self.0.lock().open.remove(&connection.number);
        // The last one closes the socket, not under the lock.
        drop(removed);
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().open.len()
    }

    /// Ends the connections that have been idle for so long. A request that has just come in whole is still answered.
    pub(super) fn close_idle(&self, time: Duration) {
        for connection in self.all() {
            if connection.is_idle_for(time) {
                connection.shut();
            }
        }
    }

    pub(super) fn close_all(&self) {
        for connection in self.all() {
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
    }

    fn all(&self) -> Vec<Arc<Open>> {
        self.0.lock().open.values().cloned().collect()
    }
}

impl Table {
    fn of(&self, ip: IpAddr) -> usize {
        self.open.values().filter(|c| c.peer.ip() == ip).count()
    }
}
