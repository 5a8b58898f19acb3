//! `/demo/scenes`: plays of several demo tasks, written down as JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::call::Call;
use super::demo::DEMOS;
use super::recordings::Replay;
use crate::demo::{SPEEDS, plain};
use crate::field_error::FieldError;
use crate::http::fields::Fields;
use crate::http::router::Answer;
use crate::http::{Problem, Response};
use crate::player::{Act, Deed, Script, Touch};
use crate::store::Scenes;

const MAX_NAME: usize = 100;
const MAX_ACTS: usize = 1_000;
const MAX_SCENES: usize = 100;
/// A day.
const MAX_AFTER_MS: u64 = 86_400_000;

/// Those that every server has.
const SHIPPED: [(&str, &str); 3] = [
    ("import", include_str!("../../scenes/import.json")),
    ("onboarding", include_str!("../../scenes/onboarding.json")),
    ("order", include_str!("../../scenes/order.json")),
];

/// A scene that has been read.
struct Scene {
    name: String,
    speed: f64,
    script: Script,
}

impl Scene {
    fn read(fields: &mut Fields<'_>) -> Scene {
        let name = fields.required_text("name", MAX_NAME);
        if !name.trim().is_empty() && !is_name(&name) {
            let message =
                "name may have letters, digits and - _ . (it is part of the scene's address)";
            fields.fault("name", message);
        }
        let is_loop = fields.flag("loop").unwrap_or(false);
        let speed = fields.number("speed", SPEEDS).unwrap_or(1.0);
        let given = fields.array("acts").unwrap_or_default();
        if !(1..=MAX_ACTS).contains(&given.len()) {
            let message = format!("acts must be an array of 1 to {MAX_ACTS} acts");
            fields.fault("acts", message);
        }
        let mut acts = Vec::new();
        let mut places = Vec::new();
        for (place, value) in (1..=MAX_ACTS).zip(given) {
            if let Some(mut fields_of_act) = fields.element(&format!("acts[{}]", place - 1), value)
            {
                let read = read_act(&mut fields_of_act, place, speed, &mut places);
                fields.adopt(fields_of_act);
                acts.extend(read);
            }
        }
        acts.sort_by_key(|act| act.at);
        let script = Script { acts, is_loop };
        Scene {
            name,
            speed,
            script,
        }
    }

    fn parse(document: &str) -> Result<Scene, Vec<FieldError>> {
        let object: &RawValue = serde_json::from_str(document)
            .map_err(|error| vec![FieldError::new("", error.to_string())])?;
        let mut fields = Fields::of(Some(object))?;
        let scene = Scene::read(&mut fields);
        fields.check()?;
        Ok(scene)
    }
}

/// Reads the act of this number. `tasks` are the numbers of those before it that create a task.
fn read_act(
    fields: &mut Fields<'_>,
    number: usize,
    speed: f64,
    tasks: &mut Vec<usize>,
) -> Vec<Act> {
    let after = fields.whole("afterMs", 0..=MAX_AFTER_MS).unwrap_or(0);
    let at = Duration::from_millis(after).div_f64(speed);
    let faults = fields.faults();
    let demo = fields.text("demo", MAX_NAME);
    let retry = fields.whole("retry", 1..=MAX_ACTS);
    let cancel = fields.whole("cancel", 1..=MAX_ACTS);
    let advance = fields.whole("advance", 1..=MAX_ACTS);
    let (field, place, how) = match (demo, retry, cancel, advance) {
        (Some(demo), None, None, None) => {
            tasks.push(number);
            return create(fields, &demo, number, at, speed);
        }
        (None, Some(place), None, None) => ("retry", place, Touch::Retry),
        (None, None, Some(place), None) => ("cancel", place, Touch::Cancel(String::new())),
        (None, None, None, Some(place)) => ("advance", place, Touch::Advance(String::new())),
        _ => {
            if fields.faults() == faults {
                fields.fault(
                    "demo",
                    "an act has one of demo (with its body), retry, advance and cancel",
                );
            }
            return Vec::new();
        }
    };
    if !tasks.contains(&place) {
        let message = format!("{field} must be the number of an earlier act that creates a task");
        fields.fault(field, message);
    }
    let deed = Deed::Touch {
        place,
        entries: 0,
        how,
    };
    vec![Act { at, deed }]
}

fn create(fields: &mut Fields<'_>, demo: &str, place: usize, at: Duration, speed: f64) -> Vec<Act> {
    let body = fields.object("body");
    let Some(demo) = DEMOS.iter().find(|one| one.route == demo) else {
        let names = DEMOS.map(|demo| demo.route).join(", ");
        fields.fault("demo", format!("demo must be one of {names}"));
        return Vec::new();
    };
    let read = Fields::of(body).and_then(|mut own| {
        let task = demo.read(&mut own, speed);
        own.check().map(|()| task)
    });
    let task = match read {
        Ok(task) => task,
        Err(errors) => {
            fields.fault_all("body", Err(errors));
            return Vec::new();
        }
    };
    let touches = Replay::of(&task).map_or_else(Vec::new, |replay| replay.acts(place, at));
    let deed = Deed::Create { place, task };
    std::iter::once(Act { at, deed }).chain(touches).collect()
}

pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The scenes that all sessions have: those of the program, and over them those of the folder `SCENES`.
///
/// # Errors
///
/// All mistakes in the folder's files.
pub(crate) fn load(folder: Option<&Path>) -> Result<Scenes, Vec<String>> {
    let mut scenes: Scenes = SHIPPED
        .iter()
        .map(|(name, document)| ((*name).into(), (*document).into()))
        .collect();
    let Some(folder) = folder else {
        return Ok(scenes);
    };
    let cannot = |error| {
        vec![format!(
            "SCENES: {} cannot be read: {error}",
            folder.display()
        )]
    };
    let entries = std::fs::read_dir(folder).map_err(cannot)?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_scene = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
    let mut mistakes = Vec::new();
    for path in paths.filter(is_scene) {
        match read_file(&path) {
            Ok((name, document)) => drop(scenes.insert(name, document)),
            Err(of_file) => mistakes.extend(
                of_file
                    .into_iter()
                    .map(|mistake| format!("SCENES: {}: {mistake}", path.display())),
            ),
        }
    }
    mistakes.is_empty().then_some(scenes).ok_or(mistakes)
}

/// The name and the document of a file.
fn read_file(path: &Path) -> Result<(Box<str>, Box<str>), Vec<String>> {
    let document = std::fs::read_to_string(path).map_err(|error| vec![error.to_string()])?;
    let told = |FieldError { field, message }: FieldError| match &*field {
        "" => message.to_string(),
        _ => format!("{field}: {message}"),
    };
    match Scene::parse(&document) {
        Ok(scene) => Ok((scene.name.into(), document.into())),
        Err(errors) => Err(errors.into_iter().map(told).collect()),
    }
}

/// A scene as lists show it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    /// `session`, or `server` for one that all sessions have.
    source: &'static str,
    #[serde(rename = "loop")]
    is_loop: bool,
    speed: Value,
    acts: usize,
    /// When the last act is performed.
    duration_ms: u64,
    playing: bool,
}

#[derive(Serialize)]
struct ListAnswer {
    success: bool,
    scenes: Vec<Listed>,
    count: usize,
}

#[derive(Serialize)]
struct SceneAnswer {
    success: bool,
    scene: Option<Listed>,
}

fn listed(call: &Call<'_>, document: &str, source: &'static str) -> Option<Listed> {
    let scene = Scene::parse(document).ok()?;
    let acts = &scene.script.acts;
    Some(Listed {
        source,
        is_loop: scene.script.is_loop,
        speed: plain(scene.speed),
        acts: acts.len(),
        duration_ms: acts.last().map_or(0, |act| act.at.as_millis() as u64),
        playing: call.api.player.is_playing(&call.session, &scene.name),
        name: scene.name,
    })
}

pub(super) fn list(call: &Call<'_>) -> Answer {
    let own = call.api.tasks.scenes(&call.session);
    let is_shown = |name: &str| !own.contains_key(name);
    let shared = call.api.scenes.iter().filter(|(name, _)| is_shown(name));
    let shared = shared.filter_map(|(_, document)| listed(call, document, "server"));
    let scenes = own
        .values()
        .filter_map(|document| listed(call, document, "session"));
    let scenes: Vec<_> = scenes.chain(shared).collect();
    let answer = ListAnswer {
        success: true,
        count: scenes.len(),
        scenes,
    };
    Ok(Response::json(200, &answer))
}

pub(super) fn create_scene(call: &Call<'_>) -> Answer {
    call.once(|| {
        let mut fields = call.fields()?;
        let name = Scene::read(&mut fields).name;
        fields.finish()?;
        let tasks = &call.api.tasks;
        let own = tasks.scenes(&call.session);
        if own.len() >= MAX_SCENES && !own.contains_key(&*name) {
            let message = format!("A session has at most {MAX_SCENES} scenes: delete one");
            return Err(Problem::new(409, "scene_limit", message));
        }
        let document = String::from_utf8_lossy(call.request.body()?);
        tasks.keep_scene(&call.session, &name, &document)?;
        let location = format!("/api/v1/demo/scenes/{name}");
        Ok(answer(201, call, &name)?.with("Location", location))
    })
}

/// The scene of the path: its name, its document and whose it is.
fn find(call: &Call<'_>) -> Result<(Box<str>, &'static str), Problem> {
    let name = call.parameter;
    let own = call.api.tasks.scene(&call.session, name);
    let own = own.map(|document| (document, "session"));
    own.or_else(|| Some((call.api.scenes.get(name)?.clone(), "server")))
        .ok_or_else(|| Problem::new(404, "scene_not_found", "Scene not found"))
}

fn answer(status: u16, call: &Call<'_>, name: &str) -> Result<Response, Problem> {
    let named = Call {
        parameter: name,
        session: call.session.clone(),
        ..*call
    };
    let (document, source) = find(&named)?;
    let scene = listed(call, &document, source);
    let success = true;
    Ok(Response::json(status, &SceneAnswer { success, scene }))
}

/// The scene as it was written.
pub(super) fn show(call: &Call<'_>) -> Answer {
    Ok(Response::bytes(
        "application/json",
        find(call)?.0.into_string(),
    ))
}

/// Plays it from its begin, also where it is playing.
pub(super) fn start(call: &Call<'_>) -> Answer {
    call.no_fields()?;
    let (document, _) = find(call)?;
    let scene = Scene::parse(&document).map_err(Problem::invalid)?;
    call.api
        .play(&call.session, call.parameter, scene.script, None)?;
    answer(200, call, call.parameter)
}

/// Performs no further act. What is running goes on.
pub(super) fn stop(call: &Call<'_>) -> Answer {
    call.no_fields()?;
    find(call)?;
    call.api.player.end(&call.session, call.parameter);
    answer(200, call, call.parameter)
}

pub(super) fn remove(call: &Call<'_>) -> Answer {
    call.no_fields()?;
    if let (_, "server") = find(call)? {
        let message = "This scene belongs to the server: all sessions have it";
        return Err(Problem::new(409, "scene_of_server", message));
    }
    call.api.player.end(&call.session, call.parameter);
    call.api.tasks.remove_scene(&call.session, call.parameter);
    Ok(Response::empty(204))
}
