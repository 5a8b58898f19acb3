//! A database that is away.

use std::fmt::Display;
use std::time::Duration;

/// The longest pause between two tries at a database that is away.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Said once, and tried again after longer and longer pauses.
pub(super) struct Outage {
    who: &'static str,
    pause: Option<Duration>,
}

impl Outage {
    pub(super) fn new(who: &'static str) -> Outage {
        Outage { who, pause: None }
    }

    /// The answer, or how long to wait before the next try.
    pub(super) fn check<T, E: Display>(&mut self, answer: Result<T, E>) -> Result<T, Duration> {
        match answer {
            Ok(answer) => {
                if self.pause.take().is_some() {
                    log::info!("{} has its database again", self.who);
                }
                Ok(answer)
            }
            Err(error) => {
                if self.pause.is_none() {
                    log::error!("{} waits for its database: {error}", self.who);
                }
                let pause = self.pause.unwrap_or(Duration::from_millis(50)) * 2;
                self.pause = Some(pause.min(MAX_PAUSE));
                Err(pause.min(MAX_PAUSE))
            }
        }
    }
}
