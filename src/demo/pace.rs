//! What all demos take: how fast an attempt goes, and where it fails.

use serde::Deserialize;

use crate::executor::{TaskError, TaskInput};

/// What `speed` may be.
pub(crate) const SPEEDS: std::ops::RangeInclusive<f64> = 0.1..=1000.0;

/// What all demos take. Here and below, a number may be whole and yet written `5000.0`, and
/// `null` is nothing: so does the check of a body read them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pacing {
    speed: Option<f64>,
    fail_at: Option<f64>,
    fail_attempts: Option<f64>,
}

/// How fast an attempt goes, and where it fails.
pub(super) struct Pace {
    pub(super) speed: f64,
    fail_at: Option<u8>,
}

impl Pace {
    pub(super) fn of(input: &TaskInput) -> Pace {
        // Metadata of a task that merely fell back to the sample may mean anything.
        let pacing: Pacing = input.arguments().unwrap_or_default();
        let fails = f64::from(input.attempt) <= pacing.fail_attempts.unwrap_or(1.0);
        let speed = pacing.speed.unwrap_or(1.0);
        let fail_at = pacing.fail_at.filter(|_| fails);
        Pace {
            speed: speed.clamp(*SPEEDS.start(), *SPEEDS.end()),
            fail_at: fail_at.map(|percent| percent as u8),
        }
    }

    /// The percent at which the attempt is to fail, once it would get there.
    pub(super) fn failure(&self, percent: u8) -> Option<u8> {
        self.fail_at.filter(|&at| at <= percent)
    }
}

pub(super) fn simulated_failure(percent: u8) -> TaskError {
    TaskError::new(format!("simulated failure at {percent}%"))
}
