//! Which run goes on when: the queue, the timer, and the limits on workers.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendError, Sender};
use parking_lot::RwLock;

use crate::engine::blocking_limit::BlockingLimit;
use crate::engine::remote::{OverReason, Remote};
use crate::engine::run::{AttemptHandle, Run, RunQueue};
use crate::engine::running::Running;
use crate::engine::timer::{Due, Timer};
use crate::engine::type_limit::TypeLimit;
use crate::engine::watchdog::Watchdog;
use crate::executor::{ExecutorRegistry, Registration, Waker};
use crate::task::{AttemptResult, TaskId};

impl RunQueue for Scheduler {
    fn send(&self, run: Box<Run>) {
        Scheduler::send(self, run);
    }
}

/// The queue of runs, and all that decides which run goes on when. The pool's threads share it.
pub(super) struct Scheduler {
    registry: RwLock<Arc<ExecutorRegistry>>,
    pub(super) workers: usize,
    pub(super) max_result_bytes: usize,
    /// `None` after the stop: the workers end when the channel closes.
    pub(super) runs: RwLock<Option<Sender<Box<Run>>>>,
    pub(super) timer: Timer,
    pub(super) blocking_limit: BlockingLimit<Box<Run>>,
    /// Of the types that have a limit.
    type_limits: RwLock<HashMap<Box<str>, Arc<TypeLimit>>>,
    pub(super) watchdog: Watchdog,
    pub(super) running: Running,
    pub(super) remote: Remote,
}

impl Scheduler {
    /// Returns also the receiving end of the channel, for the workers.
    pub(super) fn new(
        registry: ExecutorRegistry,
        workers: usize,
        max_result_bytes: usize,
    ) -> (Scheduler, Receiver<Box<Run>>) {
        let (runs, queue) = crossbeam_channel::unbounded();
        let type_limits = registry
            .limits()
            .map(|(kind, places)| (kind.into(), Arc::new(TypeLimit::new(places))));
        let scheduler = Scheduler {
            type_limits: RwLock::new(type_limits.collect()),
            registry: RwLock::new(Arc::new(registry)),
            workers,
            max_result_bytes,
            runs: RwLock::new(Some(runs)),
            timer: Timer::default(),
            blocking_limit: BlockingLimit::new(workers),
            watchdog: Watchdog::default(),
            running: Running::default(),
            remote: Remote::default(),
        };
        (scheduler, queue)
    }

    /// The executors by type, as they are now.
    pub(super) fn registry(&self) -> Arc<ExecutorRegistry> {
        self.registry.read().clone()
    }

    /// The registration of this type, or else that of the default type.
    pub(super) fn registration(&self, kind: &str) -> Option<Arc<Registration>> {
        self.registry.read().for_attempt(kind).cloned()
    }

    /// Lets attempts that begin from now on use these executors.
    pub(super) fn replace_registry(self: &Arc<Scheduler>, registry: ExecutorRegistry) {
        let registry = Arc::new(registry);
        *self.registry.write() = registry.clone();
        let mut limits = self.type_limits.write();
        for (kind, places) in registry.limits() {
            let new = || Arc::new(TypeLimit::new(places));
            limits.entry(kind.into()).or_insert_with(new);
        }
        let limits = limits.clone();
        let me: Weak<Scheduler> = Arc::downgrade(self);
        let queue: Weak<dyn RunQueue> = me;
        for (kind, limit) in limits {
            let places = registry.get(&kind).and_then(|one| one.concurrency);
            limit.set_places(places.unwrap_or(usize::MAX), &queue);
        }
        // The type of what waits for workers may not be theirs any more.
        for run in self.remote.clear() {
            self.send(run);
        }
    }

    /// The time limit of an attempt: its own, or that of its type where this is shorter.
    pub(super) fn time_limit(&self, kind: &str, own: Option<Duration>) -> Option<Duration> {
        let registration = self.registry.read().get(kind).cloned();
        let of_type = registration.and_then(|one| one.time_limit);
        own.into_iter().chain(of_type).min()
    }

    /// Hands a run to the workers. After the stop the run is dropped, since its attempt is cancelled
    /// by then.
    pub(super) fn send(&self, run: Box<Run>) {
        let runs = self.runs.read();
        let refused = match &*runs {
            // Never blocks: the channel is unbounded.
            Some(runs) => runs.send(run).err().map(SendError::into_inner),
            None => Some(run),
        };
        drop(runs);
        if let Some(work) = refused.and_then(|run| run.work) {
            work.drop_quietly();
        }
    }

    /// Cancels what waits for this attempt, which is over.
    pub(super) fn forget(&self, id: (TaskId, u32), why: OverReason) {
        let at_its_limit = || self.limits().iter().find_map(|limit| limit.forget(id));
        let elsewhere = || self.remote.forget(id, why);
        let run = self
            .timer
            .forget(id)
            .or_else(at_its_limit)
            .or_else(elsewhere);
        if let Some(run) = run {
            self.drop_on_worker(run);
        }
    }

    /// What wakes this run's executor.
    pub(super) fn waker(self: &Arc<Scheduler>, run: &Run) -> Waker {
        let (id, scheduler) = (run.attempt.id(), Arc::downgrade(self));
        run.wakes.waker(move || {
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.wake(id);
            }
        })
    }

    /// Ends the wait of this attempt, if it waits.
    pub(super) fn wake(&self, id: (TaskId, u32)) {
        if let Some(mut run) = self.timer.wake(id) {
            // A pause that follows counts from now, and not from when the wait would have ended.
            run.due = Instant::now();
            self.send(run);
        }
    }

    /// The limit of this attempt's type, if it has one.
    pub(super) fn type_limit(&self, attempt: &dyn AttemptHandle) -> Option<Arc<TypeLimit>> {
        let limits = self.type_limits.read();
        if limits.is_empty() {
            return None;
        }
        limits.get(&*attempt.kind()?).cloned()
    }

    fn limits(&self) -> Vec<Arc<TypeLimit>> {
        self.type_limits.read().values().cloned().collect()
    }

    /// Takes out all runs that wait for a place of their type.
    pub(super) fn clear_type_limits(&self) -> impl Iterator<Item = Box<Run>> {
        self.limits().into_iter().flat_map(|limit| limit.clear())
    }

    /// How many runs wait for a place of their type or among blocking executors, or for a worker outside.
    pub(super) fn waiting_for_places(&self) -> usize {
        let of_types = self.limits().into_iter().map(|limit| limit.waiting());
        self.blocking_limit.waiting() + of_types.sum::<usize>() + self.remote.queued()
    }

    /// Sends a finished run to a worker, which drops its executor; its permit is released now.
    pub(super) fn drop_on_worker(&self, mut run: Box<Run>) {
        run.permit = None;
        if run.work.is_some() {
            self.send(run);
        }
    }

    /// Order matters: finish first, then cancel the timer. A pause that starts in between sees the
    /// finished state or is cancelled here.
    pub(super) fn finish(&self, attempt: &dyn AttemptHandle, ending: AttemptResult) {
        attempt.finish(ending);
        self.forget(attempt.id(), OverReason::Ended);
    }

    pub(super) fn time_out(&self, attempt: &dyn AttemptHandle, limit: Duration) {
        let why = format!("timed out after {} ms", limit.as_millis());
        self.remote.expect(attempt.id(), OverReason::TimedOut);
        attempt.finish(AttemptResult::Failed(why));
        self.forget(attempt.id(), OverReason::TimedOut);
    }

    /// The timer's thread.
    pub(super) fn run_timer(&self) {
        while let Some(due) = self.timer.next() {
            for due in due {
                match due {
                    Due::Slice(run) => self.send(run),
                    Due::Limit(attempt, limit) => self.time_out(&*attempt, limit),
                    Due::Lease(lease) => self.expire_lease(lease),
                    Due::Unclaimed(id) => self.put_back_unclaimed(id),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Instant;

    use super::*;
    use crate::engine::run::Work;
    use crate::executor::{Outcome, Report, TaskContext, TaskError, TaskInput};
    use crate::store::NewTask;

    /// An attempt whose pause reaches the timer just before it ends.
    struct Late {
        me: Weak<Late>,
        pool: Arc<Scheduler>,
        over: AtomicBool,
    }

    impl AttemptHandle for Late {
        fn id(&self) -> (TaskId, u32) {
            (TaskId::nil(), 1)
        }

        fn kind(&self) -> Option<Arc<str>> {
            None
        }

        fn is_over(&self) -> bool {
            self.over.load(SeqCst)
        }

        fn begin(&self) -> Option<(TaskInput, Option<Duration>)> {
            None
        }

        fn finish(&self, _: AttemptResult) -> bool {
            let mut run = Run::new(self.me.upgrade().expect("it is in use"), None);
            run.due = Instant::now() + Duration::from_secs(3_600);
            run.work = Some(Work {
                input: TaskInput::from(&NewTask::new("Late")),
                executor: Box::new(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))),
                blocking: false,
            });
            assert!(self.pool.timer.wait(run).is_none());
            self.over.store(true, SeqCst);
            true
        }
    }

    impl Report for Late {
        fn progress(&self, _: u8, _: &str, _: &str) -> Result<(), TaskError> {
            Ok(())
        }

        fn is_stopped(&self) -> bool {
            self.over.load(SeqCst)
        }
    }

    #[test]
    fn a_pause_that_begins_while_the_attempt_ends_is_cancelled() {
        let (shared, queue) = Scheduler::new(ExecutorRegistry::new(), 1, 0);
        let pool = Arc::new(shared);
        let attempt = Arc::new_cyclic(|me| Late {
            me: me.clone(),
            pool: pool.clone(),
            over: AtomicBool::new(false),
        });
        pool.time_out(&*attempt, Duration::ZERO);
        let run = queue.try_recv().expect("a worker is to drop it");
        assert!(run.attempt.is_stopped());
    }
}
