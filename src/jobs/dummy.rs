//! `dummy`: a job that waits for a random time, to see the queue work.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::executor::{Outcome, TaskContext, TaskError, TaskExecutor, TaskInput};

/// The longest wait, in seconds.
pub(super) const MAX_DELAY_S: f64 = 3_600.0;

/// How often it reports.
const STEP: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Arguments {
    delay_min_sec: f64,
    delay_max_sec: f64,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments {
            delay_min_sec: 1.0,
            delay_max_sec: 5.0,
        }
    }
}

pub(super) struct Dummy {
    begun: Instant,
    wait: Duration,
}

impl Dummy {
    pub(super) fn new(input: &TaskInput) -> Result<Dummy, TaskError> {
        let arguments: Arguments = input.arguments()?;
        let least = arguments.delay_min_sec.clamp(0.0, MAX_DELAY_S);
        let most = arguments.delay_max_sec.clamp(least, MAX_DELAY_S);
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
