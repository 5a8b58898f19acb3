//! A small pool of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::DatabaseError;

/// An idle connection is closed after this time.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// A connection that was used within this time is not checked again.
const TRUSTED_FOR: Duration = Duration::from_millis(50);

/// After a failed connect, callers fail at once for this long.
const FAIL_FAST_FOR: Duration = Duration::from_millis(300);

/// What the pool asks a connection.
pub(super) trait Pooled: Send + Sized {
    /// Whether it must not be used again.
    fn is_broken(&self) -> bool;

    /// Whether it seems usable, without a round trip.
    fn is_alive(&mut self) -> bool;
}

/// Counts broken connections of a database. When one breaks, all idle connections that were opened before it are
/// discarded, because their host may be gone.
#[derive(Clone, Default)]
pub(super) struct Breaks(Arc<AtomicU64>);

/// Opens a connection.
pub(super) type Opening<C> = dyn Fn() -> Result<C, DatabaseError> + Send + Sync;

pub(super) struct Pool<C> {
    open: Box<Opening<C>>,
    breaks: Breaks,
    most: usize,
    /// How long a caller waits for a connection.
    patience: Duration,
    state: Mutex<State<C>>,
    freed: Condvar,
}

struct State<C> {
    idle: Vec<Idle<C>>,
    /// All connections: in use, idle, and being opened.
    count: usize,
    /// When the last connect failed, and its error.
    failed: Option<(Instant, DatabaseError)>,
}

struct Idle<C> {
    connection: C,
    /// The count of breaks before this connection was opened.
    breaks: u64,
    used: Instant,
}

impl<C: Pooled> Pool<C> {
    pub(super) fn new(
        open: Box<Opening<C>>,
        breaks: Breaks,
        most: usize,
        patience: Duration,
    ) -> Pool<C> {
        Pool {
            open,
            breaks,
            most,
            patience,
            state: Mutex::new(State {
                idle: Vec::new(),
                count: 0,
                failed: None,
            }),
            freed: Condvar::new(),
        }
    }

    /// Runs `work` on a connection.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&mut C) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let mut place = Place {
            idle: self.take()?,
            pool: self,
        };
        let idle = match &mut place.idle {
            Some(idle) => idle,
            None => place.idle.insert(self.connect()?),
        };
        let done = work(&mut idle.connection);
        idle.used = Instant::now();
        done
    }

    /// Reserves one of the `most` connections, and returns an idle one if there is a good one.
    fn take(&self) -> Result<Option<Idle<C>>, DatabaseError> {
        let deadline = Instant::now() + self.patience;
        let mut state = self.state.lock();
        loop {
            // The newest first, so that surplus connections stay idle until they are closed.
            while let Some(mut idle) = state.idle.pop() {
                if self.is_good(&mut idle) {
                    return Ok(Some(idle));
                }
                state.count -= 1;
            }
            if let Some((at, error)) = &state.failed
                && at.elapsed() < FAIL_FAST_FOR
            {
                return Err(error.clone());
            }
            if state.count < self.most {
                state.count += 1;
                return Ok(None);
            }
            if self.freed.wait_until(&mut state, deadline).timed_out() {
                let text = "all connections are in use";
                return Err(DatabaseError::Busy(text.to_owned()));
            }
        }
    }

    fn is_good(&self, idle: &mut Idle<C>) -> bool {
        let unused = idle.used.elapsed();
        idle.breaks == self.breaks.count()
            && unused < IDLE_FOR
            && (unused < TRUSTED_FOR || idle.connection.is_alive())
    }

    fn connect(&self) -> Result<Idle<C>, DatabaseError> {
        let breaks = self.breaks.count();
        let opened = (self.open)();
        let mut state = self.state.lock();
        state.failed = opened
            .as_ref()
            .err()
            .map(|error| (Instant::now(), error.clone()));
        drop(state);
        Ok(Idle {
            connection: opened?,
            breaks,
            used: Instant::now(),
        })
    }
}

impl Breaks {
    fn count(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// A reserved connection. Dropping it returns it to the pool.
struct Place<'a, C: Pooled> {
    pool: &'a Pool<C>,
    idle: Option<Idle<C>>,
}

impl<C: Pooled> Drop for Place<'_, C> {
    fn drop(&mut self) {
        let mut idle = self.idle.take();
        if let Some(broken) = idle.take_if(|idle| idle.connection.is_broken()) {
            self.pool.breaks.0.fetch_add(1, SeqCst);
            drop(broken);
        }
        let mut state = self.pool.state.lock();
        match idle {
            Some(idle) => state.idle.push(idle),
            None => state.count -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}
