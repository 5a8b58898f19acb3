//! A few connections that some callers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::DatabaseError;

/// How long a connection stays open that nobody uses.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// How long a connection is believed to be good after it was.
const TRUSTED_FOR: Duration = Duration::from_millis(50);

/// How long nobody tries to connect after somebody did in vain.
const FAIL_FAST_FOR: Duration = Duration::from_millis(300);

/// What a pool needs to know of a connection.
pub(super) trait Pooled: Send + Sized {
    /// Whether it must not be used again.
    fn is_broken(&self) -> bool;

    /// Whether it can be used, as far as is known without asking the other side.
    fn is_alive(&mut self) -> bool;
}

/// Counts the connections of a database that have broken. What was opened before the newest one broke, and is
/// not in use, is not trusted any more: its host is gone, perhaps.
#[derive(Clone, Default)]
pub(super) struct Breaks(Arc<AtomicU64>);

/// What opens a connection.
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
    /// In use and idle ones, and those that are being opened.
    count: usize,
    /// When it was tried to connect in vain, and what was said then.
    failed: Option<(Instant, DatabaseError)>,
}

struct Idle<C> {
    connection: C,
    /// The breaks before it was opened.
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

    /// Does `work` on a connection of its own.
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

    /// Takes a place among the `most`, perhaps with a connection that was idle.
    fn take(&self) -> Result<Option<Idle<C>>, DatabaseError> {
        let deadline = Instant::now() + self.patience;
        let mut state = self.state.lock();
        loop {
            // The newest first: those that are not needed stay idle, and are closed in the end.
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

/// A caller's place; given back when it is dropped.
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
