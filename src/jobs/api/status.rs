//! `/jobs/:id/status`: polls, conditional and long.

use super::call::Call;
use crate::http::Response;
use crate::http::polling::{self, Polled, long_poll};
use crate::http::router::Answer;
use crate::jobs::job::Job;
use crate::store::Wait;

pub(super) fn status(call: &Call<'_>) -> Answer {
    let wait = polling::wait(call.request)?;
    let job = call.job()?;
    let Some(patience) = wait else {
        return Ok(polled(call, &job).response());
    };
    let watcher = call.system.watch.watch(job.id, job.seq, None);
    let poll = || Ok(polled(call, &call.job_of(job.id)?));
    let changed = |left| match watcher.changed(left) {
        Ok(true) => Wait::Changed,
        Ok(false) => Wait::Quiet,
        Err(_) => Wait::Over,
    };
    long_poll(call.request, patience, poll, changed)
}

fn polled(call: &Call<'_>, job: &Job) -> Polled {
    Polled::new(call.request, job.seq.into(), job.status.is_final(), || {
        Response::json(200, &job.status_view())
    })
}
