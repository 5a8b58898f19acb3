use std::time::Duration;

use async_task_system::{ExecutorRegistry, FieldError, Outcome, TaskContext, TaskError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::scene::{HOSTILE, Scene, button, is, on};
use crate::browser::Browser;
use crate::support::{FREE_PORT, Process, TempDir, TestServer};

#[derive(Deserialize)]
struct Resize {
    width: u32,
}

impl Resize {
    fn run(&mut self, _: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        Ok(Outcome::done(json!({ "width": self.width })))
    }
}

fn register(registry: &mut ExecutorRegistry) {
    registry
        .typed("resize", Resize::run)
        .description("Makes thumbnails")
        .example(json!({
            "folder": "photos", "keep": true, "note": "two\nlines", "sizes": [1, 2], "width": 200,
            "style": { "border": 1 }, "nothing": null, "quality": 0.5,
        }))
        .check(|input| match input.arguments::<Resize>()?.width {
            1..=500 => Ok(()),
            _ => Err(vec![FieldError::new(
                "width",
                "width must be from 1 to 500",
            )]),
        });
    registry.register_remote("ocr", Duration::from_secs(30));
}

fn open() -> Option<Scene> {
    let token = [("WORKER_TOKEN", "a token of workers")];
    Scene::with(TestServer::start_with(&token, register))
}

fn field(name: &str) -> String {
    format!("document.getElementById('metadata.{name}')")
}

/// Opens the form of a type.
fn show(scene: &Scene, kind: &str) {
    let own = format!("document.getElementById('own-{kind}')");
    scene.tab.wait_for(&own);
    scene.tab.click(&own);
    scene.tab.wait_for("document.querySelector('#run').open");
}

const START: &str = "Start it";

#[test]
fn a_form_made_from_the_example_keeps_its_types() {
    let Some(scene) = open() else { return };
    let tab = &scene.tab;
    tab.wait_for("!document.querySelector('#own').hidden");
    let shown = tab.eval("[...document.querySelectorAll('#own b')].map((b) => b.textContent)");
    let own = ["ocr…", "blocked…", "fails…", "held…", "quick…", "resize…"];
    assert_eq!(shown, json!(own), "the operator's first");
    show(&scene, "resize");
    let about = tab.text("document.querySelector('#run-about').textContent");
    assert_eq!(about, "Makes thumbnails");
    tab.fill(&on("#run [name=name]"), "Small ones");
    tab.fill(&field("width"), "300");
    tab.fill(&field("folder"), "007");
    tab.click(&field("keep"));
    tab.fill(&field("style"), "{\"border\": [2]}");
    tab.click(&button(&on("#run"), START));
    tab.wait_for("!document.querySelector('#run').open");
    tab.wait_for(&is("Small ones", "completed"));
    let task = scene.only_task();
    assert_eq!(task["type"], "resize");
    let expected = json!({
        "folder": "007", "keep": false, "note": "two\nlines", "sizes": [1, 2], "width": 300,
        "style": { "border": [2] }, "nothing": null, "quality": 0.5,
    });
    assert_eq!(task["metadata"], expected);
    tab.expect_no_complaint();
}

#[test]
fn what_is_wrong_in_the_form_is_told_at_its_field() {
    let Some(scene) = open() else { return };
    let tab = &scene.tab;
    show(&scene, "resize");
    // What is no JSON is not sent.
    tab.fill(&field("sizes"), "[1,");
    tab.click(&button(&on("#run"), START));
    let message = format!("{}.validationMessage", field("sizes"));
    assert!(tab.text(&message).starts_with("This must be JSON"));
    tab.fill(&field("sizes"), "");
    tab.fill(&field("width"), "501");
    tab.click(&button(&on("#run"), START));
    tab.wait_for("document.querySelector('#run .error').textContent.includes('from 1 to 500')");
    tab.wait_for(&format!("{}.ariaInvalid === 'true'", field("width")));
    assert_eq!(scene.mine.total(), 0);
    tab.fill(&field("width"), "500");
    tab.click(&button(&on("#run"), START));
    tab.wait_for(&is("resize", "completed"));
    let metadata = &scene.only_task()["metadata"];
    assert_eq!(
        (&metadata["width"], &metadata["sizes"]),
        (&json!(500), &Value::Null)
    );
}

#[test]
fn a_type_without_an_example_takes_any_object() {
    let Some(scene) = open() else { return };
    let tab = &scene.tab;
    show(&scene, "quick");
    let metadata = on("#metadata");
    tab.fill(&metadata, "[1]");
    let message = format!("{metadata}.validationMessage");
    assert!(tab.text(&message).contains("must be a JSON object"));
    tab.fill(&metadata, "{\"a\": {\"b\": [1]}}");
    tab.click(&button(&on("#run"), START));
    tab.wait_for(&is("quick", "completed"));
    assert_eq!(scene.only_task()["metadata"], json!({ "a": { "b": [1] } }));

    // A remote type says who would run it.
    show(&scene, "ocr");
    let workers = |words: &str| {
        format!(
            "document.querySelector('#run-workers').textContent.includes({})",
            json!(words)
        )
    };
    tab.wait_for(&workers("No worker has called"));
    tab.press("Escape", 27, "");
    let claim = json!({ "types": ["ocr"], "worker": HOSTILE });
    let call = scene.server.call("POST", "/work/claim");
    let call = call.header("Authorization", "Bearer a token of workers");
    call.json(&claim).send().expect(200);
    show(&scene, "ocr");
    tab.wait_for(&workers(HOSTILE));
    assert_eq!(tab.eval("window.hit ?? 0"), 0);
    tab.expect_no_complaint();
}

#[test]
fn only_a_server_with_types_of_its_own_shows_some() {
    let dir = TempDir::new();
    let bare = Process::start(&dir, &[FREE_PORT]);
    let Some(browser) = Browser::get() else {
        return;
    };
    let tab = browser.open(&format!("http://{}/", bare.client.addr()));
    tab.wait_for("document.querySelectorAll('#types option').length > 4");
    assert_eq!(tab.eval("document.querySelector('#own').hidden"), true);
    assert_eq!(
        tab.eval("document.querySelector('#demos-title').hidden"),
        true
    );
    tab.expect_no_complaint();
}
