//! A worker: takes a run, calls its executor with no lock held, and sees where it goes next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::to_raw_value;

use crate::engine::pool::{AttemptHandle, Run, Shared, Work};
use crate::executor::{Outcome, TaskContext, TaskError, panic_text};
use crate::nesting::{MAX_DEPTH, limited};
use crate::store::AttemptResult;
use crate::task::later;

/// Takes runs as long as there is a next one.
pub(super) fn work(pool: &Shared, mut next_run: impl FnMut() -> Option<Box<Run>>) {
    let heartbeat = pool.watchdog.join();
    let paced_step = |run| {
        pool.watchdog.begin(&heartbeat);
        step(pool, run);
        pool.watchdog.end(&heartbeat);
    };
    while let Some(run) = next_run() {
        if !is_blocking(pool, &run) {
            paced_step(run);
            continue;
        }
        let mut turn = pool.blocking_limit.enter(run);
        while let Some(run) = turn {
            paced_step(run);
            turn = pool.blocking_limit.leave();
        }
    }
    pool.watchdog.leave(&heartbeat);
}

fn is_blocking(pool: &Shared, run: &Run) -> bool {
    match &run.work {
        // One that is over is only dropped, and need not wait for that.
        Some(work) => work.blocking && !run.attempt.is_stopped(),
        None => run
            .attempt
            .kind()
            .and_then(|kind| pool.registration(&kind))
            .is_some_and(|registration| registration.blocking),
    }
}

/// One call of the executor.
fn step(pool: &Shared, mut run: Box<Run>) {
    let work = match run.work.take() {
        Some(work) if !run.attempt.is_stopped() && run.attempt.resume() => Some(work),
        Some(stale) => {
            drop_quietly(stale);
            None
        }
        None => begin(pool, &run.attempt),
    };
    let Some(mut work) = work else { return };
    let called = catch_unwind(AssertUnwindSafe(|| {
        work.executor
            .run(&mut TaskContext::new(&work.input, &*run.attempt))
    }));
    match called.unwrap_or_else(|panic| Err(panicked(&*run.attempt, &*panic))) {
        Ok(Outcome::Again(after)) => {
            run.work = Some(work);
            pause(pool, run, after);
        }
        Ok(Outcome::Done(result)) => {
            drop_quietly(work);
            pool.finish(&*run.attempt, ending(pool, result));
        }
        Err(error) => {
            drop_quietly(work);
            pool.finish(&*run.attempt, AttemptResult::Failed(reason(&error)));
        }
    }
}

/// Takes the task up and makes its executor.
fn begin(pool: &Shared, attempt: &Arc<dyn AttemptHandle>) -> Option<Work> {
    let (input, limit) = attempt.begin()?;
    if let Some(limit) = limit {
        pool.timer.limit(attempt.clone(), limit);
        // It may have ended before its limit was noted.
        if attempt.is_stopped() {
            pool.forget(attempt.id());
        }
    }
    let made = match pool.registration(&input.kind) {
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
            pool.finish(&**attempt, AttemptResult::Failed(reason(&error)));
            None
        }
    }
}

/// Puts the run back into the channel, now or when its pause is over.
fn pause(pool: &Shared, mut run: Box<Run>, after: Duration) {
    run.attempt.pause();
    let now = Instant::now();
    run.due = later(run.due, after).max(now);
    if run.due <= now {
        run.due = now;
        return pool.send(run);
    }
    let attempt = run.attempt.clone();
    if let Some(work) = pool.timer.wait(run).and_then(|run| run.work) {
        // The stop has come before it.
        return drop_quietly(work);
    }
    // A cancel that came before the timer had the run did not find it there.
    if attempt.is_stopped() {
        pool.forget(attempt.id());
    }
}

fn ending(pool: &Shared, result: Option<serde_json::Value>) -> AttemptResult {
    let Some(value) = result else {
        return AttemptResult::Completed(None);
    };
    let Some(value) = limited(value) else {
        let why = format!("the result is nested more than {MAX_DEPTH} deep");
        return AttemptResult::Failed(why);
    };
    let max = pool.max_result_bytes;
    match to_raw_value(&value) {
        Ok(json) if json.get().len() <= max => AttemptResult::Completed(Some(json)),
        Ok(json) => AttemptResult::Failed(format!(
            "the result of {} bytes is larger than MAX_RESULT_BYTES ({max})",
            json.get().len()
        )),
        Err(_) => AttemptResult::Failed("the result cannot be written as JSON".to_owned()),
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
fn panicked(attempt: &dyn AttemptHandle, panic: &(dyn std::any::Any + Send)) -> TaskError {
    let text = crate::log_safe::LogSafe(panic_text(panic));
    log::error!("The executor of task {} panicked: {text}", attempt.id().0);
    TaskError::new("the executor failed unexpectedly; the server's log has the details")
}

/// A user's `Drop` may panic like any of its code.
pub(super) fn drop_quietly(work: Work) {
    if catch_unwind(AssertUnwindSafe(move || drop(work))).is_err() {
        log::error!("An executor panicked while it was dropped");
    }
}
