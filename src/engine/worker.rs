//! A worker: takes a run, calls its executor with no lock held, and sees where it goes next.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::value::to_raw_value;

use crate::engine::{Engine, Run, Work};
use crate::executor::{Outcome, Report, TaskContext, TaskError, panic_text};
use crate::store::{Attempt, DEFAULT_KIND, Ending, TaskManager};

/// Runs jobs as long as there is a next one.
pub(super) fn work(engine: &Engine, mut next_job: impl FnMut() -> Option<Box<Run>>) {
    let pulse = engine.overseer.join();
    let paced_step = |run| {
        engine.overseer.begin(&pulse);
        step(engine, run);
        engine.overseer.end(&pulse);
    };
    while let Some(run) = next_job() {
        let mut next = Some(run);
        while let Some(run) = next.take() {
            if is_blocking(engine, &run) {
                if let Some(run) = engine.lane.enter(run) {
                    paced_step(run);
                    next = engine.lane.leave();
                }
            } else {
                paced_step(run);
            }
        }
    }
    engine.overseer.leave(&pulse);
}

fn is_blocking(engine: &Engine, run: &Run) -> bool {
    match &run.work {
        Some(work) => work.blocking,
        None => engine
            .tasks
            .kind_of(&run.attempt)
            .and_then(|kind| engine.registry.get(&kind).map(|r| r.blocking))
            .unwrap_or(false),
    }
}

/// One call of the executor.
fn step(engine: &Engine, mut run: Box<Run>) {
    let work = match run.work.take() {
        Some(work) if engine.tasks.is_running(&run.attempt) => Some(work),
        Some(stale) => {
            drop_quietly(stale);
            None
        }
        None => begin(engine, &run.attempt),
    };
    let Some(mut work) = work else { return };
    let live = Live {
        tasks: &engine.tasks,
        attempt: &run.attempt,
    };
    let called = catch_unwind(AssertUnwindSafe(|| {
        work.executor.run(&mut TaskContext::new(&work.input, &live))
    }));
    match called.unwrap_or_else(|panic| Err(panicked(&run.attempt, &*panic))) {
        Ok(Outcome::Again(after)) => {
            run.work = Some(work);
            pause(engine, run, after);
        }
        Ok(Outcome::Done(result)) => {
            drop_quietly(work);
            engine.finish(&run.attempt, ending(engine, result));
        }
        Err(error) => {
            drop_quietly(work);
            engine.finish(&run.attempt, Ending::Failed(reason(&error)));
        }
    }
}

/// Takes the task up and makes its executor.
fn begin(engine: &Engine, attempt: &Attempt) -> Option<Work> {
    let (input, limit) = engine.tasks.begin(attempt)?;
    log::info!(
        "Starting execution of task {} for session {}",
        attempt.task,
        attempt.session()
    );
    if let Some(limit) = limit {
        engine.timer.limit(attempt.clone(), limit);
        // It may have ended before its limit was noted.
        if !engine.tasks.is_running(attempt) {
            engine.timer.forget(attempt);
        }
    }
    let registry = &engine.registry;
    let made = match registry.get(&input.kind).or(registry.get(DEFAULT_KIND)) {
        None => Err(TaskError::new("no executor is registered for this type")),
        Some(registration) => {
            let make = AssertUnwindSafe(|| (registration.factory)(&input));
            catch_unwind(make)
                .unwrap_or_else(|panic| Err(panicked(attempt, &*panic)))
                .map(|executor| (executor, registration.blocking))
        }
    };
    match made {
        Ok((executor, blocking)) => Some(Work {
            input,
            executor,
            blocking,
        }),
        Err(error) => {
            engine.finish(attempt, Ending::Failed(reason(&error)));
            None
        }
    }
}

/// Puts the run back into the channel, now or when its pause is over.
fn pause(engine: &Engine, mut run: Box<Run>, after: Duration) {
    let now = Instant::now();
    run.due = run.due.checked_add(after).unwrap_or(run.due).max(now);
    if run.due <= now {
        run.due = now;
        return engine.send(run);
    }
    let attempt = run.attempt.clone();
    engine.timer.wait(run);
    // A cancel that came before the timer had the run did not find it there.
    if !engine.tasks.is_running(&attempt) {
        engine.timer.forget(&attempt);
    }
}

fn ending(engine: &Engine, result: Option<serde_json::Value>) -> Ending {
    let max = engine.options.max_result_bytes;
    match result.map(|value| to_raw_value(&value)) {
        None => Ending::Completed(None),
        Some(Ok(json)) if json.get().len() <= max => Ending::Completed(Some(json)),
        Some(Ok(json)) => Ending::Failed(format!(
            "the result of {} bytes is larger than MAX_RESULT_BYTES ({max})",
            json.get().len()
        )),
        Some(Err(_)) => Ending::Failed("the result cannot be written as JSON".to_owned()),
    }
}

fn reason(error: &TaskError) -> String {
    let text = error.to_string();
    if text.is_empty() {
        "failed without a reason".to_owned()
    } else {
        text
    }
}

/// What clients see of a panic is that there was one; the log has its words.
fn panicked(attempt: &Attempt, panic: &(dyn std::any::Any + Send)) -> TaskError {
    let text = crate::LogSafe(panic_text(panic));
    log::error!("The executor of task {} panicked: {text}", attempt.task);
    TaskError::new("the executor failed unexpectedly; the server's log has the details")
}

/// A user's `Drop` may panic like any of its code.
pub(super) fn drop_quietly(work: Work) {
    if catch_unwind(AssertUnwindSafe(move || drop(work))).is_err() {
        log::error!("An executor panicked while it was dropped");
    }
}

struct Live<'a> {
    tasks: &'a TaskManager,
    attempt: &'a Attempt,
}

impl Report for Live<'_> {
    fn progress(&self, percent: u8, step: &str, description: &str) -> Result<(), TaskError> {
        self.tasks
            .report(self.attempt, percent, step, description)?;
        log::debug!("Task {} progress: {percent}%", self.attempt.task);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        !self.tasks.is_running(self.attempt)
    }
}

/// Keeps blocking executors from taking the last worker: at most all but one (and at least
/// one) run at a time, the others wait here, in order.
pub(super) struct BlockingLane {
    places: usize,
    state: Mutex<Lane>,
}

#[derive(Default)]
struct Lane {
    busy: usize,
    waiting: VecDeque<Box<Run>>,
}

impl BlockingLane {
    pub(super) fn new(workers: usize) -> BlockingLane {
        BlockingLane {
            places: workers.saturating_sub(1).max(1),
            state: Mutex::default(),
        }
    }

    /// The run back where there is a place for it; else it waits.
    fn enter(&self, run: Box<Run>) -> Option<Box<Run>> {
        let mut lane = self.state.lock();
        if lane.busy < self.places {
            lane.busy += 1;
            return Some(run);
        }
        lane.waiting.push_back(run);
        None
    }

    /// Gives the place back; the run that waited longest, to be entered next.
    fn leave(&self) -> Option<Box<Run>> {
        let mut lane = self.state.lock();
        lane.busy -= 1;
        lane.waiting.pop_front()
    }

    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        drop(waiting);
    }
}
