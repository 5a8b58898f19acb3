//! `/jobs`: each handler authenticates the user, parses the request, calls the storage and responds.

pub(crate) mod auth;
mod body;
mod call;
mod line;
mod live;
mod logs;
mod public_key;
mod recordings;
mod status;

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::http::fields::{Fields, Query};
use crate::http::router::{Answer, Handler, Route};
use crate::http::{Problem, Response};
use crate::jobs::api::call::Call;
use crate::jobs::database::Duty;
use crate::jobs::entry::Entry;
use crate::jobs::job::{Job, JobStatus};
use crate::jobs::storage::Claim;
use crate::jobs::storage::lists::JobQuery;
use crate::jobs::system::JobSystem;
use crate::semaphore::Semaphore;

type Authorized = fn(&Call<'_>) -> Answer;

/// All routes of the Job API.
pub(crate) fn routes(system: &Arc<JobSystem>, streams: &Semaphore) -> Vec<Route> {
    let on = |handler: Authorized| -> Handler {
        let (system, streams) = (system.clone(), streams.clone());
        Box::new(move |request, parameter| {
            handler(&Call {
                system: &system,
                streams: &streams,
                request,
                user: system.verifier.verify(request)?,
                parameter,
            })
        })
    };
    let get = |pattern, handler: Authorized| Route::get(pattern, on(handler));
    let post = |pattern, handler: Authorized| Route::post(pattern, on(handler));
    vec![
        get("/api/v1/jobs", list).and_post(on(create)).with_query(),
        post("/api/v1/jobs/bulk", bulk),
        post("/api/v1/jobs/start-dummy-job", start_dummy).with_query(),
        get("/api/v1/jobs/stats", stats),
        get("/api/v1/jobs/:id", show),
        get("/api/v1/jobs/:id/history", history),
        get("/api/v1/jobs/:id/recording", recordings::recording),
        get(
            "/api/v1/jobs/:id/recording.cast",
            recordings::recording_cast,
        ),
        get("/api/v1/jobs/:id/status", status::status).with_query(),
        get("/api/v1/jobs/:id/log", logs::log).with_query(),
        get("/api/v1/jobs/:id/events", live::events).with_query(),
        get("/api/v1/jobs/:id/watch", live::watch).with_query(),
        post("/api/v1/jobs/:id/cancel", cancel),
        post("/api/v1/jobs/:id/retry", retry),
    ]
}

fn location(job: &Job) -> String {
    format!("/api/v1/jobs/{}", job.id)
}

fn create(call: &Call<'_>) -> Answer {
    live::create(call, || {
        call.add(|parser, fields| Ok(vec![parser.job(fields)?]), one)
    })
}

fn start_dummy(call: &Call<'_>) -> Answer {
    live::create(call, || {
        call.add(|parser, fields| Ok(vec![parser.dummy(fields)]), one)
    })
}

fn one(added: &[(Job, bool)]) -> Option<Response> {
    let (job, is_new) = added.first()?;
    let status = if *is_new { 201 } else { 200 };
    Some(Response::json(status, job).with("Location", location(job)))
}

#[derive(Serialize)]
struct BulkResponse<'a> {
    jobs: Vec<&'a Job>,
    count: usize,
}

fn bulk(call: &Call<'_>) -> Answer {
    call.add(|parser, fields| parser.bulk(fields), all)
}

fn all(added: &[(Job, bool)]) -> Option<Response> {
    let response = BulkResponse {
        count: added.len(),
        jobs: added.iter().map(|(job, _)| job).collect(),
    };
    Some(Response::json(201, &response))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListResponse<'a> {
    jobs: &'a [Job],
    count: usize,
    total: u64,
    total_is_exact: bool,
    next_cursor: Option<Uuid>,
}

fn list(call: &Call<'_>) -> Answer {
    let query = list_query(call)?;
    let (mut jobs, total) = call.system.storage.list(&call.user, &query)?;
    let more = jobs.len() > query.limit;
    jobs.truncate(query.limit);
    let last = jobs.last().map(|job| job.id);
    let response = ListResponse {
        count: jobs.len(),
        jobs: &jobs,
        total,
        // The total comes from counters that are updated with the jobs.
        total_is_exact: true,
        next_cursor: last.filter(|_| more),
    };
    Ok(Response::json(200, &response))
}

fn list_query(call: &Call<'_>) -> Result<JobQuery, Problem> {
    let mut query = Query::new(call.request, &["status", "type", "limit", "cursor"]);
    let listed = JobQuery {
        statuses: query.any_of("status", &JobStatus::ALL, JobStatus::as_str),
        kind: query.parse("type", "without NUL", |kind| {
            (!kind.contains('\0')).then(|| kind.to_owned())
        }),
        limit: query.limit(),
        cursor: query.parse("cursor", "the nextCursor of a page before", |text| {
            text.parse().ok()
        }),
    };
    query.finish()?;
    Ok(listed)
}

#[derive(Default, Serialize)]
struct Stats {
    total: u64,
    pending: u64,
    processing: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
}

#[derive(Serialize)]
struct StatsResponse {
    stats: Stats,
}

fn stats(call: &Call<'_>) -> Answer {
    let mut stats = Stats::default();
    for (status, count) in call.system.storage.stats(&call.user)? {
        stats.total += count;
        *match status {
            JobStatus::Pending => &mut stats.pending,
            JobStatus::Processing => &mut stats.processing,
            JobStatus::Completed => &mut stats.completed,
            JobStatus::Failed => &mut stats.failed,
            JobStatus::Cancelled => &mut stats.cancelled,
        } = count;
    }
    Ok(Response::json(200, &StatsResponse { stats }))
}

fn show(call: &Call<'_>) -> Answer {
    Ok(Response::json(200, &call.job()?))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryResponse {
    job_id: Uuid,
    history: Vec<Entry>,
    count: usize,
}

fn history(call: &Call<'_>) -> Answer {
    let job_id = call.job()?.id;
    let history = call.system.storage.history(Duty::Request, job_id, 0)?;
    let count = history.len();
    let response = HistoryResponse {
        job_id,
        history,
        count,
    };
    Ok(Response::json(200, &response))
}

fn cancel(call: &Call<'_>) -> Answer {
    Fields::parse(call.request)?.finish()?;
    let id = call.job()?.id;
    let Some(job) = call.system.storage.cancel(id)? else {
        let message = "Job is already finished";
        return Err(Problem::new(409, "job_already_finished", message));
    };
    call.system.meter.cancelled(&job);
    // The cancel increased the claim's token by one.
    call.system.cancel_run(Claim {
        id,
        token: job.claim - 1,
    });
    Ok(Response::json(200, &job))
}

fn retry(call: &Call<'_>) -> Answer {
    Fields::parse(call.request)?.finish()?;
    let job = call.job()?;
    if call.system.pool.registry().unknown(&job.kind).is_some() {
        let message = "No executor here has this type, so nobody would run the job again: start it once more \
                       where it came from";
        return Err(Problem::new(409, "job_not_retryable", message));
    }
    let Some(job) = call.system.storage.retry(job.id)? else {
        let message = "Only a failed or cancelled job can be retried, and only while no other \
                       job with its uniqueKey is pending or processing";
        return Err(Problem::new(409, "job_not_retryable", message));
    };
    call.system.wake();
    Ok(Response::json(200, &job))
}
