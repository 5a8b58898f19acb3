//! `/tasks`: create, list, read, start, cancel, retry, clean up.

use serde::Serialize;
use serde_json::value::RawValue;

use super::call::Call;
use super::view::{path, task, task_answer};
use super::watch;
use crate::http::fields::{Fields, Query};
use crate::http::json::Object;
use crate::http::response::PART;
use crate::http::router::Answer;
use crate::http::{Problem, Response};
use crate::store::{ListQuery, NewTask, Stats, TaskManager};
use crate::task::{Millis, SessionKey, Task, TaskId, TaskStatus};

const MAX_NAME: usize = 200;
const MAX_DESCRIPTION: usize = 2_000;
const MAX_TYPE: usize = 128;
/// A week.
const MAX_TIMEOUT_MS: u64 = 604_800_000;

pub(super) fn create(call: &Call<'_>) -> Answer {
    watch::create(call, |is_watched| {
        let mut fields = call.fields()?;
        let name = fields.required_text("name", MAX_NAME);
        let mut new = NewTask::new(&name);
        if let Some(description) = description(&mut fields) {
            new = new.description(&description);
        }
        let faults = fields.faults();
        let metadata = fields.object("metadata");
        let readable = fields.faults() == faults;
        let named = fields
            .text("type", MAX_TYPE)
            .filter(|kind| !kind.is_empty());
        let registry = call.api.system.execution().registry();
        let unknown = named.as_deref().and_then(|kind| registry.unknown(kind));
        if let Some(kind) = named.or_else(|| metadata.and_then(type_in)) {
            new = new.kind(&kind);
        }
        new.metadata = metadata.map(ToOwned::to_owned);
        if readable && unknown.is_none() {
            fields.fault_all("metadata", call.api.system.execution().check(&new));
        }
        new.timeout_ms = fields.whole("timeoutMs", 1..=MAX_TIMEOUT_MS);
        let start = fields.flag("start");
        if is_watched && start == Some(false) {
            let message = "start must not be false with ?watch=1: a task that is not started \
                           has nothing to show";
            fields.fault("start", message);
        }
        match unknown {
            Some(message) if fields.faults() > 0 => fields.fault("type", message),
            Some(message) => return Err(Problem::new(400, "unknown_type", message).about("type")),
            None => {}
        }
        fields.finish()?;
        call.may_start(&new.kind)?;
        let system = &call.api.system;
        let created = match start.unwrap_or(is_watched) {
            true => system.execution().submit_checked(&call.session, new)?,
            false => system.tasks().create(&call.session, new)?,
        };
        let answer = task_answer(201, Some("Task created successfully"), &created, None);
        Ok(answer.with("Location", path(created.id)))
    })
}

pub(super) fn description(fields: &mut Fields<'_>) -> Option<String> {
    fields.text("description", MAX_DESCRIPTION)
}

pub(super) fn name(fields: &mut Fields<'_>) -> String {
    fields.required_text("name", MAX_NAME)
}

/// The text under `type` in the metadata, if it can be a type.
fn type_in(metadata: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: serde_json::Value,
    }
    let typed: Typed = serde_json::from_str(metadata.get()).ok()?;
    let kind = typed.kind.as_str()?;
    let usable = (1..=MAX_TYPE).contains(&kind.chars().count());
    usable.then(|| kind.to_owned())
}

pub(super) fn list(call: &Call<'_>) -> Answer {
    let mut page = ListedPage {
        tasks: call.api.tasks.clone(),
        key: call.session.clone(),
        query: list_query(call)?,
        count: 0,
        total: None,
    };
    Ok(Response::json_parts(move |out| page.part(out)))
}

/// A page that is sent in parts. Tasks may change between two parts.
struct ListedPage {
    tasks: TaskManager,
    key: SessionKey,
    query: ListQuery,
    count: usize,
    total: Option<usize>,
}

impl ListedPage {
    fn part(&mut self, out: &mut Vec<u8>) -> bool {
        if self.total.is_none() {
            out.extend_from_slice(b"{\"success\":true,\"tasks\":[");
        }
        let before = self.count;
        let part = self
            .tasks
            .list_part(&self.key, &self.query, self.total.is_none(), |listed| {
                if self.count > 0 {
                    out.push(b',');
                }
                self.count += 1;
                Object::write(out, |object| task(object, listed));
                out.len() < PART
            });
        let total = *self.total.get_or_insert(part.total);
        self.query.limit -= self.count - before;
        self.query.cursor = part.last.or(self.query.cursor);
        if part.more && self.query.limit > 0 {
            return true;
        }
        let next = part.last.filter(|_| part.more);
        let next = next.map_or("null".to_owned(), |id| format!("\"{id}\""));
        let count = self.count;
        let rest = format!("],\"count\":{count},\"total\":{total},\"nextCursor\":{next}}}");
        out.extend_from_slice(rest.as_bytes());
        false
    }
}

fn list_query(call: &Call<'_>) -> Result<ListQuery, Problem> {
    let known = ["status", "type", "currentStep", "search", "limit", "cursor"];
    let mut query = Query::new(call.request, &known);
    let listed = ListQuery {
        statuses: query.any_of("status", &TaskStatus::ALL, TaskStatus::as_str),
        kind: query.get("type").map(str::to_owned),
        step: query.get("currentStep").map(str::to_owned),
        search: query.get("search").map(str::to_lowercase),
        limit: query.limit(),
        cursor: query.parse("cursor", "the nextCursor of a page before", |text| {
            text.parse().ok()
        }),
    };
    query.finish()?;
    Ok(listed)
}

#[derive(Serialize)]
pub(super) struct StatsAnswer {
    pub(super) success: bool,
    pub(super) stats: Stats,
}

pub(super) fn stats(call: &Call<'_>) -> Answer {
    let stats = call.api.tasks.stats(&call.session);
    let success = true;
    Ok(Response::json(200, &StatsAnswer { success, stats }))
}

pub(super) fn show(call: &Call<'_>) -> Answer {
    let answer = |task: &Task| task_answer(200, None, task, None);
    let tasks = &call.api.tasks;
    Ok(tasks.inspect(&call.session, call.id()?, answer)?)
}

pub(super) fn history(call: &Call<'_>) -> Answer {
    let task_id = call.id()?;
    let (tasks, key) = (call.api.tasks.clone(), call.session.clone());
    tasks.inspect(&key, task_id, |_| ())?;
    let (mut from, mut count) = (None, 0);
    Ok(Response::json_parts(move |out| {
        if from.is_none() {
            let start = format!("{{\"success\":true,\"taskId\":\"{task_id}\",\"history\":[");
            out.extend_from_slice(start.as_bytes());
        }
        let part = tasks.history_part(&key, task_id, from, |event| {
            if count > 0 {
                out.push(b',');
            }
            count += 1;
            let _ = serde_json::to_writer(&mut *out, event);
            out.len() < PART
        });
        // A task that is cleaned away meanwhile has no more to tell.
        let more = part.is_ok_and(|(mark, more)| {
            from = Some(mark);
            more
        });
        if !more {
            out.extend_from_slice(format!("],\"count\":{count}}}").as_bytes());
        }
        more
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StartAnswer {
    success: bool,
    message: &'static str,
    task_id: TaskId,
}

pub(super) fn start(call: &Call<'_>) -> Answer {
    call.no_fields()?;
    let task_id = call.id()?;
    call.may_start_task(task_id)?;
    call.api.system.execution().start(&call.session, task_id)?;
    let answer = StartAnswer {
        success: true,
        message: "Task started successfully",
        task_id,
    };
    Ok(Response::json(200, &answer))
}

pub(super) fn cancel(call: &Call<'_>) -> Answer {
    call.no_fields()?;
    let execution = call.api.system.execution();
    let task = execution.cancel(&call.session, call.id()?)?;
    let message = Some("Task cancelled successfully");
    Ok(task_answer(200, message, &task, None))
}

pub(super) fn retry(call: &Call<'_>) -> Answer {
    call.no_fields()?;
    let execution = call.api.system.execution();
    let task_id = call.id()?;
    call.may_start_task(task_id)?;
    let task = execution.retry(&call.session, task_id)?;
    let message = Some("Task retried successfully");
    Ok(task_answer(200, message, &task, None))
}

#[derive(Serialize)]
struct CleanupAnswer {
    success: bool,
    status: CleanupView,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CleanupView {
    is_running: bool,
    is_active: bool,
    options: CleanupOptions,
    last_run: &'static str,
    last_run_at: Option<Millis>,
    next_run_at: Option<Millis>,
    total_cleaned: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CleanupOptions {
    max_completed_tasks: usize,
    max_failed_tasks: usize,
    cleanup_interval: u64,
}

pub(super) fn cleanup_status(call: &Call<'_>) -> Answer {
    let status = call.api.system.cleanup().status();
    let tasks = &call.api.tasks;
    let cleaned = tasks.cleaned(&call.session);
    let limits = tasks.limits();
    let status = CleanupView {
        is_running: status.running,
        is_active: status.active,
        options: CleanupOptions {
            max_completed_tasks: limits.max_completed_tasks,
            max_failed_tasks: limits.max_failed_tasks,
            cleanup_interval: status.interval.as_millis() as u64,
        },
        last_run: if status.running {
            "in_progress"
        } else {
            "idle"
        },
        last_run_at: status.last_at.max(cleaned.last_at),
        next_run_at: status.next_at,
        total_cleaned: cleaned.total,
    };
    let success = true;
    Ok(Response::json(200, &CleanupAnswer { success, status }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CleanedAnswer {
    success: bool,
    message: &'static str,
    cleaned_count: usize,
}

pub(super) fn cleanup_run(call: &Call<'_>) -> Answer {
    let mut fields = call.fields()?;
    let all = fields.flag("all").unwrap_or(false);
    fields.finish()?;
    let cleanup = call.api.system.cleanup();
    let answer = CleanedAnswer {
        success: true,
        message: "Cleanup completed successfully",
        cleaned_count: match all {
            true => cleanup.run_all(&call.session),
            false => cleanup.run(&call.session),
        },
    };
    Ok(Response::json(200, &answer))
}

/// Removes the session with all its tasks. It is no error if there is no such session.
pub(super) fn remove_session(call: &Call<'_>) -> Answer {
    call.no_fields()?;
    call.api.player.end_all(&call.session);
    call.api.system.execution().remove_session(&call.session);
    Ok(Response::empty(204))
}
