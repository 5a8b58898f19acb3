//! A worker: takes a run, calls its executor with no lock held, and decides where the run goes next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::value::to_raw_value;

use crate::engine::remote::OverReason;
use crate::engine::run::{AttemptHandle, Held, Run, Work};
use crate::engine::scheduler::Scheduler;
use crate::executor::{Outcome, TaskContext, TaskError};
use crate::log_safe::LogSafe;
use crate::nesting::{MAX_DEPTH, limited};
use crate::task::{AttemptResult, later};
use crate::threads::panic_text;

/// A paused attempt is looked at again after this time, if nobody resumes it.
const HELD_FOR: Duration = Duration::from_secs(86_400);

/// A worker's thread: takes runs until `next_run` returns `None`.
pub(super) fn work(scheduler: &Arc<Scheduler>, mut next_run: impl FnMut() -> Option<Box<Run>>) {
    let heartbeat = scheduler.watchdog.join();
    let paced_step = |run| {
        scheduler.watchdog.begin(&heartbeat);
        step(scheduler, run);
        scheduler.watchdog.end(&heartbeat);
    };
    while let Some(run) = next_run() {
        let ready = with_place(scheduler, run).and_then(|run| scheduler.offer(run));
        let Some(run) = ready else { continue };
        if !is_blocking(scheduler, &run) {
            paced_step(run);
            continue;
        }
        let mut turn = scheduler.blocking_limit.enter(run);
        while let Some(run) = turn {
            paced_step(run);
            turn = scheduler.blocking_limit.leave();
        }
    }
    scheduler.watchdog.leave(&heartbeat);
}

/// Returns the run if it may begin, or leaves it with its type's limit until then.
fn with_place(scheduler: &Arc<Scheduler>, run: Box<Run>) -> Option<Box<Run>> {
    if run.work.is_some() || run.place.is_some() {
        return Some(run);
    }
    let attempt = run.attempt.clone();
    let Some(limit) = scheduler.type_limit(&*attempt) else {
        return Some(run);
    };
    let queue: Weak<Scheduler> = Arc::downgrade(scheduler);
    let entered = limit.enter(run, queue);
    // A cancel may have come before the limit had the run.
    if entered.is_none() && attempt.is_over() {
        scheduler.forget(attempt.id(), OverReason::Ended);
    }
    entered
}

fn is_blocking(scheduler: &Scheduler, run: &Run) -> bool {
    match &run.work {
        // A run that is over is only dropped, and need not wait for a place.
        Some(work) => work.blocking && !run.attempt.is_stopped(),
        None => run
            .attempt
            .kind()
            .and_then(|kind| scheduler.registration(&kind))
            .is_some_and(|registration| registration.blocking),
    }
}

/// One call of the executor.
fn step(scheduler: &Arc<Scheduler>, mut run: Box<Run>) {
    let held = run.attempt.held();
    if held.is_paused && run.work.is_some() {
        return hold(scheduler, run);
    }
    let work = match run.work.take() {
        Some(work) if !run.attempt.is_stopped() && run.attempt.resume() => Some(work),
        Some(stale) => {
            stale.drop_quietly();
            None
        }
        None => begin(scheduler, &mut run),
    };
    let Some(mut work) = work else { return };
    run.wakes.clear();
    let called = catch_unwind(AssertUnwindSafe(|| {
        let waker = || scheduler.waker(&run);
        let mut ctx = TaskContext::with_waker(&work.input, &*run.attempt, &waker);
        work.executor.run(&mut ctx)
    }));
    match called.unwrap_or_else(|panic| Err(panicked(&*run.attempt, &*panic))) {
        Ok(Outcome::Again(after)) => {
            run.work = Some(work);
            pause(scheduler, run, after);
        }
        Ok(Outcome::Wait(at_most)) => {
            run.work = Some(work);
            wait(scheduler, run, at_most, held);
        }
        Ok(Outcome::Done(result)) => {
            work.drop_quietly();
            scheduler.finish(&*run.attempt, ending(scheduler, result));
        }
        Err(error) => {
            work.drop_quietly();
            scheduler.finish(&*run.attempt, failure(&error));
        }
    }
}

/// Starts the attempt and makes its executor.
fn begin(scheduler: &Scheduler, run: &mut Run) -> Option<Work> {
    let attempt = &run.attempt;
    let (mut input, limit) = attempt.begin()?;
    run.counted = Some(scheduler.running.count(input.kind.clone()));
    input.place = run.place.clone();
    if let Some(limit) = scheduler.time_limit(&input.kind, limit) {
        scheduler.timer.limit(attempt.clone(), limit);
        // The attempt may have ended before the timer had its limit.
        if attempt.is_stopped() {
            scheduler.forget(attempt.id(), OverReason::Ended);
        }
    }
    let made = match scheduler.registration(&input.kind) {
        _ if scheduler.is_adopted(&input.kind) => {
            let why = "its own program ran it; run that again, where it was run";
            Err(TaskError::new(why))
        }
        None => Err(TaskError::new("no executor is registered for this type")),
        Some(registration) => {
            let make = AssertUnwindSafe(|| (registration.factory)(&input));
            catch_unwind(make)
                .unwrap_or_else(|panic| Err(panicked(&**attempt, &*panic)))
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
            scheduler.finish(&**attempt, failure(&error));
            None
        }
    }
}

/// Puts the run back into the channel, now or after its pause.
fn pause(scheduler: &Scheduler, mut run: Box<Run>, after: Duration) {
    run.attempt.pause();
    let now = Instant::now();
    run.waits = false;
    run.due = later(run.due, after).max(now);
    if run.due <= now {
        run.due = now;
        return scheduler.send(run);
    }
    park(scheduler, run);
}

/// Keeps the run until it is woken, for at most this long.
fn wait(scheduler: &Scheduler, mut run: Box<Run>, at_most: Duration, before: Held) {
    run.attempt.pause();
    run.waits = true;
    run.due = later(Instant::now(), at_most);
    let (id, attempt) = (run.attempt.id(), run.attempt.clone());
    let wakes = run.wakes.clone();
    park(scheduler, run);
    // The wake may have come before the timer had the run, and so may what a person says.
    let is_new = || attempt.held().has_signal && !before.has_signal;
    if wakes.is_woken() || is_new() {
        scheduler.wake(id);
    }
}

/// Keeps the run until it is resumed. Who resumes it says so first, then looks for the run in the timer.
fn hold(scheduler: &Scheduler, mut run: Box<Run>) {
    run.waits = true;
    run.due = later(Instant::now(), HELD_FOR);
    let attempt = run.attempt.clone();
    park(scheduler, run);
    if !attempt.held().is_paused {
        scheduler.wake(attempt.id());
    }
}

/// Gives the run to the timer.
fn park(scheduler: &Scheduler, run: Box<Run>) {
    let attempt = run.attempt.clone();
    if let Some(work) = scheduler.timer.wait(run).and_then(|run| run.work) {
        // The timer has stopped.
        return work.drop_quietly();
    }
    // A cancel may have come before the timer had the run.
    if attempt.is_stopped() {
        scheduler.forget(attempt.id(), OverReason::Ended);
    }
}

fn ending(scheduler: &Scheduler, result: Option<serde_json::Value>) -> AttemptResult {
    let Some(value) = result else {
        return AttemptResult::Completed(None);
    };
    let Some(value) = limited(value) else {
        let why = format!("the result is nested more than {MAX_DEPTH} deep");
        return AttemptResult::Failed(why);
    };
    let max = scheduler.max_result_bytes;
    match to_raw_value(&value) {
        Ok(json) if json.get().len() <= max => AttemptResult::Completed(Some(json)),
        Ok(json) => AttemptResult::Failed(format!(
            "the result of {} bytes is larger than MAX_RESULT_BYTES ({max})",
            json.get().len()
        )),
        Err(_) => AttemptResult::Failed("the result cannot be written as JSON".to_owned()),
    }
}

fn failure(error: &TaskError) -> AttemptResult {
    let text = match error.to_string() {
        text if text.is_empty() => "failed without a reason".to_owned(),
        text => text,
    };
    match error.is_permanent() {
        true => AttemptResult::FailedForGood(text),
        false => AttemptResult::Failed(text),
    }
}

/// Clients see only that there was a panic; the log has its message.
fn panicked(attempt: &dyn AttemptHandle, panic: &(dyn std::any::Any + Send)) -> TaskError {
    let text = LogSafe(panic_text(panic));
    log::error!("The executor of task {} panicked: {text}", attempt.id().0);
    TaskError::new("the executor failed unexpectedly; the server's log has the details")
}
