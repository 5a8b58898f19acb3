//! What calls a waiting executor again.

use std::fmt;
use std::sync::Arc;

/// Calls an executor again that has returned [`Outcome::Wait`](crate::Outcome::Wait). A cheap handle;
/// any thread may keep one and wake at any time.
///
/// A wake is never lost: if the executor is still at work, its next wait ends at once. So an executor may be
/// called once more than there was something to do. A wake after the attempt does nothing.
///
/// ```
/// use async_task_system::testing::TestRun;
/// use async_task_system::{Outcome, TaskContext};
/// use std::sync::mpsc;
/// use std::thread;
/// use std::time::Duration;
///
/// let mut answer = None;
/// let run = TestRun::of(move |ctx: &mut TaskContext<'_>| {
///     let answer = answer.get_or_insert_with(|| {
///         let (tell, answer) = mpsc::channel();
///         let waker = ctx.waker();
///         // Whatever takes its time outside: a device, a callback, another program.
///         thread::spawn(move || {
///             let _ = tell.send(42);
///             waker.wake();
///         });
///         answer
///     });
///     Ok(match answer.try_recv() {
///         Ok(answer) => Outcome::done(answer.into()),
///         Err(_) => Outcome::Wait(Duration::from_secs(60)),
///     })
/// });
/// assert_eq!(run.run().result?, Some(42.into()));
/// # Ok::<(), async_task_system::TaskError>(())
/// ```
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`; for whoever calls executors.
    ///
    /// ```
    /// # use async_task_system::Waker;
    /// let (woken, wakes) = std::sync::mpsc::channel();
    /// Waker::new(move || { let _ = woken.send(()); }).wake();
    /// assert!(wakes.try_recv().is_ok());
    /// ```
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Waker {
        Waker(Arc::new(wake))
    }

    /// Has the executor called again. Never blocks.
    ///
    /// ```
    /// # use async_task_system::Waker;
    /// let waker = Waker::new(|| {});
    /// waker.clone().wake();
    /// waker.wake();
    /// ```
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}
