//! Metrics of jobs. The process that writes a change counts it.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use crate::executor::ExecutorRegistry;
use crate::jobs::job::{Job, JobStatus};
use crate::jobs::storage::completion::Completion;
use crate::jobs::storage::work::Rescued;
use crate::metrics::{Exposition, WorkMeter};

/// Does nothing if metrics are off.
pub(super) struct JobMeter(Option<WorkMeter>);

impl JobMeter {
    pub(super) fn new(is_on: bool, registry: &ExecutorRegistry) -> JobMeter {
        JobMeter(is_on.then(|| WorkMeter::new(registry.types())))
    }

    /// Tells the types of this registry apart, too.
    pub(super) fn add_types(&self, registry: &ExecutorRegistry) {
        if let Some(meter) = &self.0 {
            meter.add(registry.types());
        }
    }

    /// Counts the committed jobs that are new.
    pub(super) fn added(&self, jobs: &[(Job, bool)]) {
        let Some(meter) = &self.0 else { return };
        for (job, _) in jobs.iter().filter(|(_, is_new)| *is_new) {
            meter.of(&job.kind).created.increment();
        }
    }

    /// Counts a begin, with the time since the job was due.
    pub(super) fn begun(&self, kind: &str, waited: Duration) {
        let Some(meter) = &self.0 else { return };
        meter.of(kind).wait.observe(waited);
    }

    /// Counts lines of logs.
    pub(super) fn logged(&self, kind: &str, lines: u64) {
        let Some(meter) = &self.0 else { return };
        meter.of(kind).lines.add(lines);
    }

    /// Counts those completions whose ids are in `written`.
    pub(super) fn finished(&self, completions: &[Completion], written: &[Uuid]) {
        let Some(meter) = &self.0 else { return };
        let mut written: HashSet<_> = written.iter().collect();
        for completion in completions
            .iter()
            .filter(|completion| written.remove(&completion.claim.id))
        {
            let kind = meter.of(&completion.kind);
            match completion.status == JobStatus::Completed {
                true => kind.completed.increment(),
                false => kind.failed.increment(),
            }
            kind.run.observe(completion.ran);
        }
    }

    /// Counts jobs as failed if they have lost their worker for the last time.
    pub(super) fn rescued(&self, lost: &[Rescued]) {
        let Some(meter) = &self.0 else { return };
        for job in lost.iter().filter(|job| job.status.is_final()) {
            meter.of(&job.kind).failed.increment();
        }
    }

    pub(super) fn cancelled(&self, job: &Job) {
        let Some(meter) = &self.0 else { return };
        meter.of(&job.kind).cancelled.increment();
    }

    /// Writes all metrics. Their names begin with `prefix`.
    pub(super) fn write(&self, noun: &str, out: &mut Exposition) {
        if let Some(meter) = &self.0 {
            meter.write(noun, out);
        }
    }
}
