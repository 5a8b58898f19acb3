//! What the scheduler and the workers hand to each other: runs, and the attempts that they are of.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::running::Counted;
use crate::engine::wakes::Wakes;
use crate::executor::{Report, TaskExecutor, TaskInput};
use crate::semaphore::Permit;
use crate::task::{AttemptResult, TaskId};

/// One attempt. A task's is in memory, a job's in a database.
pub(crate) trait AttemptHandle: Report + Send + Sync {
    /// The task or job, and the number of the attempt.
    fn id(&self) -> (TaskId, u32);

    /// The type; `None` if the task is gone.
    fn kind(&self) -> Option<Arc<str>>;

    /// Whether it is cancelled or has ended. Unlike [`Report::is_stopped`], this is false before the begin.
    fn is_over(&self) -> bool;

    /// Called before the first slice. Returns the input and the time limit, or `None` if the attempt
    /// is already over.
    fn begin(&self) -> Option<(TaskInput, Option<Duration>)>;

    /// Called when the executor has returned and asks to be called again.
    fn pause(&self) {}

    /// Called before a further slice. Returns false if the attempt is already over.
    fn resume(&self) -> bool {
        true
    }

    /// What people do with it now.
    fn held(&self) -> Held {
        Held::default()
    }

    /// Ends the attempt. Returns false, and does nothing, if it is already over.
    fn finish(&self, ending: AttemptResult) -> bool;

    /// `task` or `job`.
    fn noun(&self) -> &'static str {
        "task"
    }

    /// Its worker, which is not of this process, is lost.
    fn lose(&self) {
        self.finish(AttemptResult::Failed("its worker was lost".to_owned()));
    }

    /// Whether other processes could run it as well.
    fn can_be_put_back(&self) -> bool {
        false
    }

    /// Leaves it to any process that can run it.
    fn put_back(&self) {}
}

/// What people do with an attempt.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held {
    /// It is held between two slices.
    pub(crate) is_paused: bool,
    /// Something was said that its executor has not heard yet.
    pub(crate) has_signal: bool,
}

/// One attempt as it passes through channel, worker and timer.
pub(super) struct Run {
    pub(super) attempt: Arc<dyn AttemptHandle>,
    /// When this slice is due.
    pub(super) due: Instant,
    /// `None` until the first slice.
    pub(super) work: Option<Work>,
    /// Its place among the active tasks, until the run is over.
    pub(super) permit: Option<Permit>,
    /// Its place among the attempts of its type, if the type has a limit. Set before the first slice.
    pub(super) place: Option<Arc<dyn Any + Send + Sync>>,
    /// Set once the attempt has begun.
    pub(super) counted: Option<Counted>,
    /// It waits for a wake, not only for its time.
    pub(super) waits: bool,
    pub(super) wakes: Wakes,
    /// Set while a worker outside this process has it, and when that has released it.
    pub(super) begun: Option<Begun>,
}

/// Where runs go that a worker can take.
pub(super) trait RunQueue: Send + Sync {
    fn send(&self, run: Box<Run>);
}

/// What the begin of an attempt has returned.
#[derive(Clone)]
pub(super) struct Begun {
    pub(super) input: Arc<TaskInput>,
    pub(super) timeout: Option<Duration>,
}

/// An executor and what it works on.
pub(super) struct Work {
    pub(super) input: TaskInput,
    pub(super) executor: Box<dyn TaskExecutor>,
    pub(super) blocking: bool,
}

impl Run {
    pub(super) fn new(attempt: Arc<dyn AttemptHandle>, permit: Option<Permit>) -> Box<Run> {
        Box::new(Run {
            attempt,
            due: Instant::now(),
            work: None,
            permit,
            place: None,
            counted: None,
            waits: false,
            wakes: Wakes::default(),
            begun: None,
        })
    }
}

impl Work {
    /// Drops the executor: a user's `Drop` may panic like any of its code.
    pub(super) fn drop_quietly(self) {
        if catch_unwind(AssertUnwindSafe(move || drop(self))).is_err() {
            log::error!("An executor panicked while it was dropped");
        }
    }
}
