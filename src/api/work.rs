//! `/work`: workers outside this process claim attempts, report on them and end them.
//!
//! These routes belong to no session: the token is the operator's, and workers see the tasks of all sessions.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::call::{Api, is_same};
use super::view::path;
use crate::engine::remote::{ClaimQuery, Claimed, Lease, OverReason, Said, WorkerReport};
use crate::http::fields::Fields;
use crate::http::router::Answer;
use crate::http::{Peer, Problem, Request, Response};
use crate::nesting::{MAX_DEPTH, depth};
use crate::spelling::nearest;
use crate::store::NewTask;
use crate::task::{Millis, SessionKey, TaskId, now_ms};

const MAX_TYPES: usize = 100;
const MAX_CLAIMS: usize = 100;
const MAX_WAIT_MS: u64 = 60_000;
const MAX_NAME: usize = 200;
const MAX_TYPE: usize = 64;
const MAX_USER: usize = 255;
/// Longer steps, descriptions and errors are cut by the store, as those of any executor.
const MAX_TEXT: usize = 10_000;
const MAX_LOG_LINES: usize = 10_000;

/// The type of a task that its worker has brought, where it says none.
const ADOPTED_TYPE: &str = "exec";

/// A claim as workers see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClaimView<'a> {
    lease: String,
    lease_ms: u64,
    lease_until: Millis,
    kind: &'static str,
    id: TaskId,
    #[serde(rename = "type")]
    task_type: &'a str,
    name: &'a str,
    attempt: u32,
    input: &'a RawValue,
    timeout_ms: Option<u64>,
}

impl<'a> ClaimView<'a> {
    fn new(claimed: &'a Claimed) -> ClaimView<'a> {
        let (input, lease_ms) = (&claimed.input, claimed.lease_for.as_millis() as u64);
        ClaimView {
            lease: claimed.lease.to_string(),
            lease_ms,
            lease_until: now_ms() + lease_ms as Millis,
            kind: claimed.noun,
            id: input.id,
            task_type: &input.kind,
            name: &input.name,
            attempt: input.attempt,
            input: input.arguments.as_deref().unwrap_or(RawValue::NULL),
            timeout_ms: claimed.timeout.map(|limit| limit.as_millis() as u64),
        }
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    success: bool,
    claims: Vec<ClaimView<'a>>,
}

#[derive(Serialize)]
struct Adopted<'a> {
    success: bool,
    claim: ClaimView<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Extended {
    success: bool,
    lease_until: Millis,
}

#[derive(Serialize)]
struct Done {
    success: bool,
}

pub(super) fn claim(api: &Api, request: &Request<'_>, _: &str) -> Answer {
    authorize(api, request)?;
    let mut fields = Fields::parse(request)?;
    let types = types(api, &mut fields);
    let worker = fields.text("worker", MAX_NAME);
    let limit = fields.whole("limit", 1..=MAX_CLAIMS as i64).unwrap_or(1);
    let wait = fields.whole("waitMs", 0..=MAX_WAIT_MS).unwrap_or(0);
    fields.finish()?;
    let remote = api.system.execution().pool().remote();
    if let Some(worker) = worker.filter(|name| !name.is_empty()) {
        remote.note_worker(&worker, &types);
    }
    let claimed = api.system.execution().pool().claim(&ClaimQuery {
        types: &types,
        limit: limit as usize,
        wait: Duration::from_millis(wait),
        is_gone: &|| (request.client)() != Peer::Open,
    });
    let claims = claimed.iter().map(ClaimView::new).collect();
    let success = true;
    Ok(Response::json(200, &Claims { success, claims }))
}

/// The types that a worker asks for. A typo must not wait for ever.
fn types(api: &Api, fields: &mut Fields<'_>) -> Vec<String> {
    let given = fields.array("types").unwrap_or_default();
    let read = |json: &&RawValue| serde_json::from_str(json.get()).ok();
    let types: Option<Vec<String>> = given.iter().map(read).collect();
    let types = types.unwrap_or_default();
    if types.is_empty() || types.len() > MAX_TYPES {
        let message = format!("types must be a list of 1 to {MAX_TYPES} types");
        fields.fault("types", message);
        return Vec::new();
    }
    let registry = api.system.execution().registry();
    let known: Vec<&str> = registry.remote_types().collect();
    for kind in &types {
        if known.contains(&&**kind) || kind == ADOPTED_TYPE {
            continue;
        }
        let hint = match nearest(kind, known.iter().copied()) {
            Some(name) => format!("; did you mean {name}?"),
            None => String::new(),
        };
        let message = match known.is_empty() {
            true => "no type here is run by workers: EXECUTORS must name one with \"remote\": true"
                .to_owned(),
            false => format!("types must be of {}{hint}", known.join(", ")),
        };
        fields.fault("types", message);
        break;
    }
    types
}

pub(super) fn progress(api: &Api, request: &Request<'_>, parameter: &str) -> Answer {
    authorize(api, request)?;
    let mut fields = Fields::parse(request)?;
    let report = WorkerReport {
        progress: fields
            .whole("progress", 0..=100)
            .map(|percent: i64| percent as u8),
        step: fields.text("step", MAX_TEXT),
        description: fields.text("description", MAX_TEXT),
        log: log_lines(&mut fields),
    };
    fields.finish()?;
    let lease = lease(api, parameter)?;
    let lease_until = lease.report(report).map_err(over)?;
    let success = true;
    Ok(Response::json(
        200,
        &Extended {
            success,
            lease_until,
        },
    ))
}

/// `log`: a text or a list of texts.
fn log_lines(fields: &mut Fields<'_>) -> Vec<String> {
    let Some(json) = fields.any("log") else {
        return Vec::new();
    };
    let one = serde_json::from_str::<String>(json.get()).map(|text| vec![text]);
    match one.or_else(|_| serde_json::from_str::<Vec<String>>(json.get())) {
        Ok(lines) if lines.len() <= MAX_LOG_LINES => lines,
        _ => {
            let message = format!("log must be a text, or a list of at most {MAX_LOG_LINES} texts");
            fields.fault("log", message);
            Vec::new()
        }
    }
}

pub(super) fn complete(api: &Api, request: &Request<'_>, parameter: &str) -> Answer {
    authorize(api, request)?;
    let mut fields = Fields::parse(request)?;
    let result = fields.any("result").map(RawValue::get);
    let max = api.config.max_result_bytes;
    if let Some(json) = result {
        if depth(json) > MAX_DEPTH {
            fields.fault("result", "result is nested too deeply");
        } else if json.len() > max {
            let size = json.len();
            let message = format!("result of {size} bytes is larger than MAX_RESULT_BYTES ({max})");
            fields.fault("result", message);
        }
    }
    fields.finish()?;
    end(api, parameter, &Said::Completed(result.map(str::to_owned)))
}

pub(super) fn fail(api: &Api, request: &Request<'_>, parameter: &str) -> Answer {
    authorize(api, request)?;
    let mut fields = Fields::parse(request)?;
    let error = fields.required_text("error", MAX_TEXT);
    let said = match fields.flag("retry").unwrap_or(true) {
        true => Said::Failed(error),
        false => Said::FailedForGood(error),
    };
    fields.finish()?;
    end(api, parameter, &said)
}

pub(super) fn release(api: &Api, request: &Request<'_>, parameter: &str) -> Answer {
    authorize(api, request)?;
    Fields::parse(request)?.finish()?;
    end(api, parameter, &Said::Released)
}

fn end(api: &Api, parameter: &str, said: &Said) -> Answer {
    let lease = lease(api, parameter)?;
    let pool = api.system.execution().pool();
    pool.end_lease(&lease, said).map_err(over)?;
    Ok(Response::json(200, &Done { success: true }))
}

/// Creates a task, or a job, that the caller runs itself.
pub(super) fn adopt(api: &Api, request: &Request<'_>, _: &str) -> Answer {
    authorize(api, request)?;
    let mut fields = Fields::parse(request)?;
    let name = fields.required_text("name", MAX_NAME);
    let kind = fields
        .text("type", MAX_TYPE)
        .unwrap_or_else(|| ADOPTED_TYPE.to_owned());
    if let Some(message) = unfit(api, &kind) {
        fields.fault("type", message);
    }
    let session = fields
        .text("session", 128)
        .map(|text| SessionKey::parse(&text));
    if let Some(None) = session {
        fields.fault(
            "session",
            "session must have 1 to 128 characters of A-Z a-z 0-9 . _ : -",
        );
    }
    let user = user(&mut fields);
    if user.is_some() && session.is_some() {
        let message = "give either session, for a task, or user, for a job";
        fields.fault("user", message);
    }
    let metadata = fields.object("metadata");
    fields.finish()?;
    let mut new = NewTask::new(&name).kind(&kind);
    new.metadata = metadata.map(ToOwned::to_owned);
    let Some(user) = user else {
        let session = match session.flatten() {
            Some(session) => session,
            None => api.session_of(request)?,
        };
        let claimed = api.system.execution().adopt(&session, new)?;
        let claimed = claimed.ok_or_else(|| over(OverReason::Cancelled))?;
        return Ok(adopted(&claimed, path(claimed.input.id)));
    };
    let Some(adopter) = api.job_adopter.get() else {
        return Err(Problem::new(
            503,
            "jobs_disabled",
            "The Job API is not ready yet",
        ));
    };
    let claimed = adopter(&user, new)?;
    Ok(adopted(
        &claimed,
        format!("/api/v1/jobs/{}", claimed.input.id),
    ))
}

fn adopted(claimed: &Claimed, location: String) -> Response {
    let claim = ClaimView::new(claimed);
    let success = true;
    Response::json(201, &Adopted { success, claim }).with("Location", location)
}

/// Whose the job is; `None` for a task.
fn user(fields: &mut Fields<'_>) -> Option<String> {
    let user = fields.text("user", MAX_USER)?;
    if user.is_empty() || user.len() > MAX_USER || user.contains('\0') {
        let message = format!("user must be the sub of the user's tokens, 1 to {MAX_USER} bytes");
        fields.fault("user", message);
    }
    Some(user)
}

/// Why an adopted task cannot have this type: a retry would then run something else.
fn unfit(api: &Api, kind: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if kind.is_empty() || !kind.bytes().all(fits) {
        return Some(format!(
            "type must have 1 to {MAX_TYPE} characters of A-Z a-z 0-9 . _ -"
        ));
    }
    let execution = api.system.execution();
    let Some(registration) = execution.registry().get(kind).cloned() else {
        let has_room = execution.pool().note_adopted(kind);
        return (!has_room).then(|| format!("type must not be {kind}: there are too many types"));
    };
    let is_own = registration.remote.is_none() && kind != ADOPTED_TYPE;
    is_own.then(|| format!("type must not be {kind}, which this server runs itself"))
}

/// The lease of the path. One that is not known, perhaps since the server was restarted, is over.
fn lease(api: &Api, parameter: &str) -> Result<Arc<Lease>, Problem> {
    let name = parameter.parse().ok();
    let remote = api.system.execution().pool().remote();
    name.and_then(|name| remote.find(name))
        .ok_or_else(|| over(OverReason::Expired))
}

fn over(why: OverReason) -> Problem {
    let message = match why {
        OverReason::Cancelled => "The lease is over: its task was cancelled; stop working on it",
        OverReason::TimedOut => {
            "The lease is over: its task has used up its time limit; stop working on it"
        }
        OverReason::Expired => {
            "The lease is over: no report came within its time; another worker may have the task"
        }
        OverReason::Ended => "The lease is over: its worker has ended it",
    };
    Problem::new(410, "lease_over", message).because(why.as_str())
}

fn authorize(api: &Api, request: &Request<'_>) -> Result<(), Problem> {
    let Some(token) = &api.config.worker_token else {
        let message = "Workers over HTTP are off: start the server with WORKER_TOKEN set to a \
                       secret of 16 bytes or more";
        return Err(Problem::new(503, "workers_disabled", message));
    };
    match request.bearer().is_some_and(|given| is_same(given, token)) {
        true => Ok(()),
        false => {
            let message = "A worker's token is needed: Authorization: Bearer followed by the server's WORKER_TOKEN";
            Err(Problem::new(401, "unauthorized", message).with("WWW-Authenticate", "Bearer"))
        }
    }
}
