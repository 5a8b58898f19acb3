//! A view of an attempt's end for other threads.

use std::fmt;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::task::later;

/// How often [`StopHandle::wait`] looks.
const LOOK: Duration = Duration::from_millis(10);

/// Tells any thread whether an attempt is over, while its executor waits for a process, a socket or
/// a computation. A cheap handle; clones tell the same.
///
/// ```
/// use async_task_system::{Outcome, TaskContext, TaskError};
/// use std::{process::Command, thread, time::Duration};
///
/// fn sleep(ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
///     let mut child = Command::new("sleep").arg("0").spawn()?;
///     let stop = ctx.stop_handle();
///     // Ends the process soon after the task was cancelled.
///     while child.try_wait()?.is_none() {
///         if stop.wait(Duration::from_millis(100)) {
///             child.kill()?;
///             child.wait()?;
///             return Err(TaskError::stopped());
///         }
///     }
///     Ok(Outcome::Done(None))
/// }
/// ```
#[derive(Clone)]
pub struct StopHandle(Arc<dyn Fn() -> bool + Send + Sync>);

impl StopHandle {
    /// A handle that asks `is_stopped`; for a [`Report`](crate::Report) of your own.
    ///
    /// ```
    /// use async_task_system::StopHandle;
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    ///
    /// let over = Arc::new(AtomicBool::new(false));
    /// let asked = over.clone();
    /// let handle = StopHandle::new(move || asked.load(SeqCst));
    /// over.store(true, SeqCst);
    /// assert!(handle.is_stopped());
    /// ```
    pub fn new(is_stopped: impl Fn() -> bool + Send + Sync + 'static) -> StopHandle {
        StopHandle(Arc::new(is_stopped))
    }

    /// Whether the attempt is over.
    ///
    /// ```
    /// # use async_task_system::StopHandle;
    /// assert!(!StopHandle::new(|| false).is_stopped());
    /// ```
    pub fn is_stopped(&self) -> bool {
        (self.0)()
    }

    /// Waits until the attempt is over, for at most `timeout`; whether it is.
    ///
    /// ```
    /// # use async_task_system::StopHandle;
    /// # use std::time::Duration;
    /// assert!(StopHandle::new(|| true).wait(Duration::from_secs(60)));
    /// ```
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = later(Instant::now(), timeout);
        loop {
            if self.is_stopped() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            sleep(left.min(LOOK));
        }
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StopHandle(stopped: {})", self.is_stopped())
    }
}
