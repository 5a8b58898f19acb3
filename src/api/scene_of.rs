//! `/demo/scene`: a session's own tasks, written down as a scene that can be played again.

use serde_json::{Map, Value, json};

use super::call::Call;
use super::demo::DEMOS;
use super::recordings;
use super::scenes::is_name;
use crate::demo::recording::Recording;
use crate::http::fields::{Fields, Query};
use crate::http::router::Answer;
use crate::http::{Problem, Response};
use crate::store::ListQuery;
use crate::task::{EventKind, Task};

/// The most tasks that are written down: the newest.
const MAX_TASKS: usize = 300;

const DEFAULT_NAME: &str = "recorded";

pub(super) fn write(call: &Call<'_>) -> Answer {
    let mut query = Query::new(call.request, &["name"]);
    let name = query.parse("name", "letters, digits and - _ .", |text| {
        is_name(text).then(|| text.to_owned())
    });
    query.finish()?;
    let acts = acts(call);
    if acts.is_empty() {
        let message =
            "This session has no task that was started, so there is nothing to write down";
        return Err(Problem::new(409, "nothing_to_record", message));
    }
    let name = name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
    Ok(Response::json(200, &json!({ "name": name, "acts": acts })))
}

/// First the acts that create tasks, then what was done to these.
fn acts(call: &Call<'_>) -> Vec<Value> {
    let query = ListQuery {
        limit: MAX_TASKS,
        ..ListQuery::default()
    };
    let mut tasks = call
        .api
        .tasks
        .list(&call.session, &query, Task::clone)
        .items;
    tasks.reverse();
    let first = tasks.first().map_or(0, |task| task.created_at);
    let mut creates = Vec::new();
    let mut touches = Vec::new();
    for task in tasks {
        let Ok(recording) = recordings::of(call.api, &call.session, task.id) else {
            continue;
        };
        let since = task.created_at - first;
        let mut events = recording.events().iter();
        let Some(started) = events.find(|event| event.kind == EventKind::Queued) else {
            continue;
        };
        let after = since + started.at;
        match body(&task) {
            None => creates.push(replay(after, &recording)),
            Some((demo, body)) => {
                creates.push(json!({ "afterMs": after, "demo": demo, "body": body }));
                let number = creates.len();
                touches.extend(recording.events().iter().filter_map(|event| {
                    let act = match event.kind {
                        EventKind::Retried => "retry",
                        EventKind::Cancelled => "cancel",
                        EventKind::Advanced => "advance",
                        _ => return None,
                    };
                    Some(json!({ "afterMs": since + event.at, act: number }))
                }));
            }
        }
    }
    creates.extend(touches);
    creates
}

/// A task that is no demo's is shown from its recording.
fn replay(after: u64, recording: &Recording) -> Value {
    json!({ "afterMs": after, "demo": "replay", "body": { "recording": recording } })
}

/// The demo's route and the body that make such a task; `None` for a task that no demo route has made.
fn body(task: &Task) -> Option<(&'static str, Value)> {
    let demo = DEMOS.iter().find(|demo| demo.kind == &*task.kind)?;
    let mut body: Map<String, Value> = serde_json::from_str(task.metadata.as_ref()?.get()).ok()?;
    body.remove("type")?;
    if let Some(count) = body.remove("itemCount") {
        let items: Vec<u64> = (1..=count.as_u64()?).collect();
        body.insert("items".to_owned(), json!(items));
    }
    if demo.route == "workflow" {
        body.insert("name".to_owned(), json!(task.name));
    }
    if let Some(description) = &task.description {
        body.insert("description".to_owned(), json!(description));
    }
    let body = serde_json::value::to_raw_value(&body).ok()?;
    let mut fields = Fields::of(Some(&body)).ok()?;
    demo.read(&mut fields, 1.0);
    fields.check().ok()?;
    Some((demo.route, json!(body)))
}
