//! Share links: `POST /tasks/:id/share` makes one, `/s/:token` shows its task to anyone, live
//! and read-only, in the form that the client asks for.

use serde::{Deserialize, Serialize};

use super::call::{Api, Call};
use super::live::{stream_task, watch};
use super::page;
use super::watch::view;
use crate::executor::Source;
use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::sse::EventFormat;
use crate::http::streaming::{format, permit};
use crate::http::{Problem, Request, Response};
use crate::store::ShareToken;
use crate::task::{Millis, Task, TaskId, TaskStatus};
use crate::terminal::{Screen, TEXT};

const JSON: &str = "application/json";

#[derive(Serialize)]
struct ShareAnswer<'a> {
    success: bool,
    /// The path, for whoever knows where the server is.
    url: &'a str,
    /// The whole address, as this client knows the server.
    link: String,
}

pub(super) fn share(call: &Call<'_>) -> Answer {
    call.once(|| {
        let mut fields = call.fields()?;
        let with_log = fields.flag("log").unwrap_or(false);
        fields.finish()?;
        let (tasks, id) = (&call.api.tasks, call.id()?);
        let token = match with_log {
            true => tasks.share_with_log(&call.session, id)?,
            false => tasks.share(&call.session, id)?,
        };
        let url = &*format!("/s/{token}");
        let success = true;
        let link = format!("{}{url}", page::base(call.api, call.request));
        let answer = Response::json(201, &ShareAnswer { success, url, link });
        Ok(answer.with("Location", url.to_owned()))
    })
}

/// A task as a bystander sees it: neither its session nor what its owner gave it or got from it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SharedView<'a> {
    id: TaskId,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    status: TaskStatus,
    progress: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_step_description: Option<&'a str>,
    created_at: Millis,
    updated_at: Millis,
    started_at: Option<Millis>,
    completed_at: Option<Millis>,
    error: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<String>,
}

#[derive(Serialize)]
struct SharedAnswer<'a> {
    success: bool,
    task: SharedView<'a>,
}

/// The names of a demo workflow's steps, which whoever presents it means to show. What other types are given is secret.
fn steps(api: &Api, task: &Task) -> Vec<String> {
    #[derive(Deserialize)]
    struct Step {
        name: String,
    }
    #[derive(Deserialize)]
    struct Workflow {
        steps: Vec<Step>,
    }
    let registry = api.system.execution().registry();
    let source = registry.get(&task.kind).map(|one| one.source);
    if source != Some(Source::Demo) || &*task.kind != "workflow" {
        return Vec::new();
    }
    let metadata = task.metadata.as_deref().map_or("", |json| json.get());
    let workflow: Option<Workflow> = serde_json::from_str(metadata).ok();
    let steps = workflow.into_iter().flat_map(|workflow| workflow.steps);
    steps.map(|step| step.name).collect()
}

fn json(api: &Api, task: &Task) -> Response {
    let view = SharedView {
        id: task.id,
        name: &task.name,
        description: task.description.as_deref(),
        status: task.status,
        progress: task.progress,
        current_step: task.step.as_deref(),
        current_step_description: task.step_description.as_deref(),
        created_at: task.created_at,
        updated_at: task.updated_at,
        started_at: task.started_at,
        completed_at: task.completed_at,
        error: task.error.as_deref(),
        kind: &task.kind,
        attempt: task.attempt,
        waiting: task.waiting.then_some(true),
        paused: task.paused.then_some(true),
        steps: steps(api, task),
    };
    let answer = SharedAnswer {
        success: true,
        task: view,
    };
    Response::json(200, &answer)
}

/// `GET /s/:token`, and `/s/:token.svg`.
pub(super) fn show(api: &Api, request: &Request<'_>, parameter: &str) -> Answer {
    let last = parameter;
    let (token, badge) = match last.strip_suffix(".svg") {
        Some(token) => (token, true),
        None => (last, false),
    };
    let Some(shown) = ShareToken::parse(token).and_then(|token| api.tasks.shown(token)) else {
        return match wanted(request) == page::HTML && !badge {
            true => Ok(page::shared(request, 404)),
            false => Err(ended()),
        };
    };
    let (tasks, key, id) = (&api.tasks, &shown.session, shown.task);
    if badge {
        Query::new(request, &[]).finish()?;
        return tasks.inspect(key, id, svg).map_err(|_| ended());
    }
    let form = wanted(request);
    if form == page::HTML {
        return Ok(page::shared(request, 200));
    }
    // A page's address may carry what other sites hang on it; a program is told what is wrong.
    let mut screen = Screen::parse(request)?;
    screen.log = shown.with_log;
    let answer = match form {
        JSON => tasks.inspect(key, id, |task| json(api, task))?,
        TEXT => view(api, key, id, screen, permit(&api.streams)?)?,
        _ => {
            let watch = watch(tasks, key, id, request, shown.with_log)?;
            stream_task(&api.streams, watch, format(request))?
        }
    };
    Ok(answer.with("Vary", "Accept"))
}

/// The form that the client asks for.
fn wanted(request: &Request<'_>) -> &'static str {
    let (sse, lines) = (EventFormat::SSE_TYPE, EventFormat::NDJSON_TYPE);
    request.wanted(&[page::HTML, JSON, sse, lines], TEXT)
}

fn ended() -> Problem {
    let message = "This link leads nowhere, or its task has been cleaned up";
    Problem::new(404, "share_not_found", message)
}

/// A badge of two fields: `task`, and how it stands.
fn svg(task: &Task) -> Response {
    let (text, color) = match task.status {
        TaskStatus::Pending => ("pending".to_owned(), "#59636e"),
        TaskStatus::Running => (format!("{} %", task.progress), "#0b66c3"),
        TaskStatus::Completed => ("completed".to_owned(), "#1a7f37"),
        TaskStatus::Failed => (format!("failed at {} %", task.progress), "#c4292f"),
        TaskStatus::Cancelled => (format!("cancelled at {} %", task.progress), "#7d6608"),
    };
    const LABEL: usize = 40;
    // About seven units a letter at this size.
    let field = text.len() * 7 + 16;
    let width = LABEL + field;
    let middle = LABEL + field / 2;
    let progress = field * usize::from(task.progress) / 100;
    let svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="task: {text}">
<title>task: {text}</title>
<clipPath id="c"><rect width="{width}" height="20" rx="4"/></clipPath>
<g clip-path="url(#c)">
<rect width="{LABEL}" height="20" fill="#333c46"/>
<rect x="{LABEL}" width="{field}" height="20" fill="{color}"/>
<rect x="{LABEL}" y="17" width="{progress}" height="3" fill="#fff" fill-opacity=".6"/>
</g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{}" y="14">task</text>
<text x="{middle}" y="14">{text}</text>
</g>
</svg>
"##,
        LABEL / 2
    );
    Response::bytes("image/svg+xml", svg)
}
