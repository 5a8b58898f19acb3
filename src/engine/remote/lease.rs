//! One attempt in the hands of a worker outside this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::engine::run::{AttemptHandle, Run};
use crate::executor::{TaskError, TaskInput};
use crate::task::{AttemptResult, LogStream, Millis, TaskId, now_ms};

/// A lease. Its name is random, so only who was told it can report on the attempt.
pub(crate) struct Lease {
    pub(crate) name: Uuid,
    id: (TaskId, u32),
    length: Duration,
    state: Mutex<State>,
}

struct State {
    until: Instant,
    /// `None` once the lease is over.
    run: Option<Box<Run>>,
    over: Option<OverReason>,
    /// What ends the attempt at this moment, if it is known before the attempt's end.
    expected: Option<OverReason>,
    /// How the worker has ended it.
    said: Option<Said>,
    /// The step and the description that the worker has reported last.
    shown: (String, String),
}

/// How a worker ends an attempt. The same said again is answered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// With the result, as JSON.
    Completed(Option<String>),
    Failed(String),
    /// Another attempt would not mend it.
    FailedForGood(String),
    Released,
}

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OverReason {
    Cancelled,
    TimedOut,
    Expired,
    /// The worker has ended it.
    Ended,
}

/// What a worker is given.
pub(crate) struct Claimed {
    pub(crate) lease: Uuid,
    pub(crate) lease_for: Duration,
    /// `task` or `job`.
    pub(crate) noun: &'static str,
    pub(crate) input: Arc<TaskInput>,
    pub(crate) timeout: Option<Duration>,
}

/// What a worker reports. An empty report only extends the lease.
#[derive(Debug, Default)]
pub(crate) struct WorkerReport {
    pub(crate) progress: Option<u8>,
    pub(crate) step: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) log: Vec<String>,
}

impl Said {
    /// How the attempt ends; `None` if it does not.
    pub(crate) fn ending(&self) -> Option<AttemptResult> {
        match self {
            Said::Completed(result) => {
                let json = |json: &String| RawValue::from_string(json.clone()).ok();
                Some(AttemptResult::Completed(result.as_ref().and_then(json)))
            }
            Said::Failed(why) => Some(AttemptResult::Failed(why.clone())),
            Said::FailedForGood(why) => Some(AttemptResult::FailedForGood(why.clone())),
            Said::Released => None,
        }
    }
}

impl OverReason {
    /// Its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            OverReason::Cancelled => "cancelled",
            OverReason::TimedOut => "timed_out",
            OverReason::Expired => "expired",
            OverReason::Ended => "ended",
        }
    }
}

impl Lease {
    /// A lease from now on of an attempt that has begun.
    pub(super) fn new(run: Box<Run>, length: Duration) -> Lease {
        Lease {
            name: Uuid::new_v4(),
            id: run.attempt.id(),
            length,
            state: Mutex::new(State {
                until: Instant::now() + length,
                run: Some(run),
                over: None,
                expected: None,
                said: None,
                shown: Default::default(),
            }),
        }
    }

    /// The attempt.
    pub(crate) fn id(&self) -> (TaskId, u32) {
        self.id
    }

    /// When it ends, unless its worker reports before.
    pub(crate) fn until(&self) -> Instant {
        self.state.lock().until
    }

    /// Takes a report, and extends the lease. Returns its new end.
    pub(crate) fn report(&self, report: WorkerReport) -> Result<Millis, OverReason> {
        let mut state = self.state.lock();
        state.check()?;
        state.pass_on(report)?;
        state.until = Instant::now() + self.length;
        Ok(now_ms() + self.length.as_millis() as Millis)
    }

    /// Ends the lease as its worker says. `finish` ends the attempt; it returns false if the attempt was over.
    pub(crate) fn finish(
        &self,
        said: Said,
        finish: impl FnOnce(&dyn AttemptHandle) -> bool,
    ) -> Result<(), OverReason> {
        let mut state = self.state.lock();
        if state.said.as_ref() == Some(&said) {
            return Ok(());
        }
        state.check()?;
        let is_finished = state.run.as_ref().is_some_and(|run| finish(&*run.attempt));
        if !is_finished {
            return Err(state.stopped());
        }
        state.said = Some(said);
        state.over = Some(OverReason::Ended);
        Ok(())
    }

    /// Its attempt is about to be ended, for this reason.
    pub(crate) fn expect(&self, why: OverReason) {
        self.state.lock().expected = Some(why);
    }

    /// Ends the lease, unless it is over. Returns its run.
    pub(super) fn end(&self, why: OverReason) -> Option<Box<Run>> {
        let mut state = self.state.lock();
        state.over.get_or_insert(why);
        state.run.take()
    }

    /// Ends the lease if its time is over, and returns its attempt. Otherwise returns when it ends.
    pub(crate) fn expire(&self) -> Result<Option<Arc<dyn AttemptHandle>>, Instant> {
        let mut state = self.state.lock();
        if state.over.is_some_and(|why| why != OverReason::Expired) {
            return Ok(None);
        }
        if Instant::now() < state.until {
            return Err(state.until);
        }
        state.over = Some(OverReason::Expired);
        Ok(state.run.as_ref().map(|run| run.attempt.clone()))
    }
}

impl State {
    fn check(&mut self) -> Result<(), OverReason> {
        if Instant::now() >= self.until {
            self.over.get_or_insert(OverReason::Expired);
        }
        self.over.map_or(Ok(()), Err)
    }

    /// The attempt is over. What has ended it says so to the lease a moment later.
    fn stopped(&mut self) -> OverReason {
        let is_job = self
            .run
            .as_ref()
            .is_some_and(|run| run.attempt.noun() == "job");
        let likely = match is_job {
            true => OverReason::Expired,
            false => OverReason::Cancelled,
        };
        let why = self.expected.unwrap_or(likely);
        *self.over.get_or_insert(why)
    }

    fn pass_on(&mut self, report: WorkerReport) -> Result<(), OverReason> {
        let Some(attempt) = self.run.as_ref().map(|run| run.attempt.clone()) else {
            return Err(self.stopped());
        };
        let taken = self.report_to(&*attempt, report);
        taken.map_err(|_| self.stopped())
    }

    fn report_to(
        &mut self,
        attempt: &dyn AttemptHandle,
        report: WorkerReport,
    ) -> Result<(), TaskError> {
        if attempt.is_stopped() {
            return Err(TaskError::stopped());
        }
        for text in &report.log {
            attempt.log(LogStream::Log, text)?;
        }
        if let Some(step) = report.step {
            // A new step begins without a description.
            self.shown = (step, String::new());
        } else if report.progress.is_none() && report.description.is_none() {
            return Ok(());
        }
        if let Some(description) = report.description {
            self.shown.1 = description;
        }
        // A percent below the one that was reached changes nothing.
        attempt.progress(report.progress.unwrap_or(0), &self.shown.0, &self.shown.1)
    }
}
