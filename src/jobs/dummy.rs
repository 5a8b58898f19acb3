//! `dummy`: a job that waits for a random time, to try the queue.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::executor::{FieldError, Outcome, TaskContext, TaskError, TaskExecutor, TaskInput};
use crate::http::fields::Fields;

const MAX_DELAY_S: f64 = 3_600.0;

/// The interval between two reports.
const STEP: Duration = Duration::from_millis(500);

/// Reads the shortest and the longest delay, in seconds, from a request body or from a job's arguments. The defaults
/// are 1 and 5, moved if the other value needs it.
pub(super) fn delays(fields: &mut Fields<'_>) -> (f64, f64) {
    let least = fields.number("delayMinSec", 0.0..=MAX_DELAY_S);
    let most = fields.number("delayMaxSec", 0.0..=MAX_DELAY_S);
    let least = least.unwrap_or(1.0_f64.min(most.unwrap_or(1.0)));
    let most = most.unwrap_or(5.0_f64.max(least));
    if least > most {
        let message = "delayMaxSec must not be less than delayMinSec";
        fields.fault("delayMaxSec", message);
    }
    (least, most)
}

fn arguments(input: &TaskInput) -> Result<(f64, f64), Vec<FieldError>> {
    let mut fields = Fields::of(input.arguments.as_deref())?;
    let delays = delays(&mut fields);
    fields.check().map(|()| delays)
}

pub(super) fn check(input: &TaskInput) -> Result<(), Vec<FieldError>> {
    arguments(input).map(drop)
}

pub(super) struct Dummy {
    begun: Instant,
    wait: Duration,
}

impl Dummy {
    pub(super) fn new(input: &TaskInput) -> Result<Dummy, TaskError> {
        let wrong = |faults: Vec<FieldError>| {
            let faults = faults.into_iter().map(|fault| fault.message);
            TaskError::new(faults.collect::<Vec<_>>().join("; "))
        };
        let (least, most) = arguments(input).map_err(wrong)?;
        let chance = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
        Ok(Dummy {
            begun: Instant::now(),
            wait: Duration::from_secs_f64(least + (most - least) * chance),
        })
    }
}

impl TaskExecutor for Dummy {
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        let waited = self.begun.elapsed();
        if waited >= self.wait {
            let seconds = (self.wait.as_secs_f64() * 1_000.0).round() / 1_000.0;
            return Ok(Outcome::done(json!({ "waitedSeconds": seconds })));
        }
        let percent = waited.as_secs_f64() / self.wait.as_secs_f64() * 100.0;
        ctx.progress(percent as u8, "Waiting", "")?;
        Ok(Outcome::Again((self.wait - waited).min(STEP)))
    }
}
