//! The type `replay`: shows a recording again, entry by entry.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::pace::{Pace, simulated_failure};
use super::recording::{Recorded, Recording};

use crate::executor::{Outcome, TaskContext, TaskError, TaskExecutor, TaskInput};
use crate::task::EventKind;

/// How long the replay waits at most for a person, before it looks again.
const LONG: Duration = Duration::from_secs(86_400);

/// How long an attempt that was cancelled in the recording waits for the cancel that belongs to it.
const CANCEL_WITHIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Arguments {
    recording: Box<RawValue>,
}

/// One attempt of a recording.
pub(super) struct Replay {
    events: Vec<Recorded>,
    next: usize,
    pace: Pace,
    begun: Instant,
}

impl Replay {
    pub(super) fn new(input: &TaskInput) -> Result<Replay, TaskError> {
        let arguments: Arguments = input.arguments()?;
        let recording = Recording::parse(arguments.recording.get())
            .map_err(|error| TaskError::new(format!("recording: {error}")))?;
        Ok(Replay {
            events: recording.attempt(input.attempt).to_vec(),
            // The first one is the start.
            next: 1,
            pace: Pace::of(input),
            begun: Instant::now(),
        })
    }

    /// How long it is until this entry.
    fn pause(&self, event: &Recorded) -> Duration {
        let first = self.events.first().map_or(0, |start| start.at);
        let due = Duration::from_millis(event.at - first).div_f64(self.pace.speed);
        due.saturating_sub(self.begun.elapsed())
    }

    fn report(&self, ctx: &mut TaskContext<'_>, event: &Recorded) -> Result<(), TaskError> {
        let step = event.step.as_deref().unwrap_or_default();
        let message = event.message.as_deref().unwrap_or_default();
        match self.pace.failure(event.progress) {
            None => ctx.progress(event.progress, step, message),
            Some(fail_at) => {
                ctx.progress(fail_at, step, "Failing, as asked")?;
                Err(simulated_failure(fail_at))
            }
        }
    }
}

impl TaskExecutor for Replay {
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        while let Some(event) = self.events.get(self.next) {
            let pause = self.pause(event);
            if !pause.is_zero() {
                return Ok(Outcome::Again(pause));
            }
            match event.kind {
                EventKind::Completed => {
                    let entries = self.events.len();
                    return Ok(Outcome::done(
                        json!({ "message": "Replayed", "entries": entries }),
                    ));
                }
                EventKind::Failed => {
                    let reason = event.message.as_deref().unwrap_or_default();
                    return Err(TaskError::new(reason));
                }
                EventKind::Waiting => {
                    if ctx.signal().is_none() {
                        return Ok(Outcome::Wait(LONG));
                    }
                }
                // Whoever plays the recording does these, too.
                EventKind::Advanced | EventKind::Paused | EventKind::Resumed => {}
                // Whoever plays the recording cancels this one, too.
                EventKind::Cancelled => {
                    self.next += 1;
                    return Ok(Outcome::Again(CANCEL_WITHIN));
                }
                _ => self.report(ctx, event)?,
            }
            self.next += 1;
        }
        Err(TaskError::new("The recording ends here"))
    }
}
