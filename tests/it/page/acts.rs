use std::process::Command;

use serde_json::{Value, json};

use super::scene::{SAMPLE, Scene, button, is, on, row};
use crate::browser::skip;
use crate::support::pluck;

#[test]
fn a_click_starts_a_task_whose_bar_moves_to_its_end() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    tab.wait_for("document.querySelector('#empty').innerText.includes('Nothing here yet')");
    tab.eval(
        "window.seen = [];
         new MutationObserver((changes) => {
             for (const { target } of changes) seen.push(Number(target.ariaValueNow));
         }).observe(document.querySelector('#list'), { subtree: true, attributeFilter: ['aria-valuenow'] }); 0",
    );
    tab.fill(&on("#delayMs"), "1");
    tab.click(&on("#first"));
    tab.wait_for(&is(SAMPLE, "completed"));
    let seen: Vec<u64> = serde_json::from_value(tab.eval("seen")).expect("numbers");
    assert!(seen.is_sorted(), "{seen:?}");
    let mut moves = seen;
    moves.dedup();
    assert!(moves.len() > 3 && moves.last() == Some(&100), "{moves:?}");
    assert_eq!(scene.only_task()["metadata"]["delayMs"], 1000);
    tab.wait_for(&format!(
        "({}).querySelector('.time').textContent.endsWith(' s')",
        row(SAMPLE)
    ));
    tab.wait_for("document.querySelector('#tiles [data-status=completed] b').textContent === '1'");
    tab.wait_for("document.querySelector('#said').textContent.includes('completed')");
    tab.expect_no_complaint();
}

#[test]
fn a_task_that_fails_is_retried_by_a_click() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    tab.fill(&on("#delayMs"), "0.3");
    tab.fill(&on("#failAt"), "40");
    tab.click(&on("#demo-sample"));
    tab.wait_for(&is(SAMPLE, "failed"));
    let shown = tab.text(&format!("({}).innerText", row(SAMPLE)));
    assert!(shown.contains("simulated failure at 40%"), "{shown}");
    assert!(shown.contains("40 %"), "{shown}");
    tab.click(&button(&row(SAMPLE), "Retry"));
    tab.wait_for(&is(SAMPLE, "completed"));
    // Events do not tell the attempt: the page asks for it, and shows it when it is told.
    tab.wait_for(&format!(
        "({}).innerText.includes('attempt 2')",
        row(SAMPLE)
    ));
    assert_eq!(scene.only_task()["attempt"], 2);
    tab.expect_no_complaint();
}

#[test]
fn a_running_task_is_cancelled_by_a_click() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    scene.mine.run("held");
    tab.wait_for(&is("held", "running"));
    tab.wait_for(&format!(
        "({}).querySelector('[role=progressbar]').ariaValueNow === '40'",
        row("held")
    ));
    tab.click(&button(&row("held"), "Cancel"));
    tab.wait_for(&is("held", "cancelled"));
    assert_eq!(scene.only_task()["status"], "cancelled");
    tab.wait_for(&button(&row("held"), "Retry"));
    tab.expect_no_complaint();
}

#[test]
fn a_task_made_in_the_form_waits_until_it_is_started() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    tab.click(&on("#open-create"));
    tab.fill(&on("#create [name=name]"), "For later");
    tab.fill(&on("#create [name=description]"), "when there is time");
    tab.fill(&on("#create [name=type]"), "quick");
    tab.click(&on("#create [name=start]"));
    tab.click(&button(&on("#create"), "Create"));
    tab.wait_for("!document.querySelector('#create').open");
    tab.wait_for(&is("For later", "pending"));
    let task = scene.only_task();
    assert_eq!(task["status"], "pending");
    assert_eq!(task["description"], "when there is time");
    tab.click(&button(&row("For later"), "Start"));
    tab.wait_for(&is("For later", "completed"));
    tab.expect_no_complaint();
}

#[test]
fn a_refusal_is_shown_where_it_happened() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    tab.fill(&on("#failAt"), "300");
    tab.click(&on("#demo-sample"));
    tab.wait_for("document.querySelector('#launch-error').textContent.includes('failAt')");
    tab.wait_for("document.querySelector('#failAt').getAttribute('aria-invalid') === 'true'");
    assert_eq!(scene.mine.total(), 0);
    // It is forgotten with the mistake.
    tab.fill(&on("#failAt"), "30");
    tab.wait_for("document.querySelector('#launch-error').textContent === ''");
    tab.wait_for("!document.querySelector('[aria-invalid]')");
    // Somebody else was faster: the row says so.
    let id = scene.mine.run("held");
    tab.wait_for(&is("held", "running"));
    tab.eval(
        "window.realFetch = fetch;
         window.fetch = async (url, ...rest) => {
             if (url.endsWith('/cancel')) await new Promise((go) => window.go = go);
             return realFetch(url, ...rest);
         }; 0",
    );
    tab.click(&button(&row("held"), "Cancel"));
    tab.wait_for("window.go");
    scene.server.gate.open();
    scene.mine.wait_status(&id, "completed");
    tab.eval("window.fetch = realFetch; window.go(); 0");
    tab.wait_for(&format!(
        "({}).querySelector('.error').textContent.includes('already')",
        row("held")
    ));
}

#[test]
fn a_process_composed_in_the_form_runs_its_steps() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    tab.click(&on("#open-workflow"));
    tab.fill(&on("#workflow [name=name]"), "New customer");
    // Two of the steps that are proposed stay, and one is added.
    for _ in 0..2 {
        tab.click("document.querySelector('#steps .step:last-child button')");
    }
    tab.click(&on("#add-step"));
    tab.wait_for("document.querySelectorAll('#steps .step').length === 3");
    for (i, name) in ["Check papers", "Open account", "Send card"]
        .iter()
        .enumerate()
    {
        let input = |k| {
            format!("document.querySelectorAll('#steps .step')[{i}].querySelectorAll('input')[{k}]")
        };
        tab.fill(&input(0), name);
        tab.fill(&input(1), "0.1");
    }
    tab.click(&button(&on("#workflow"), "Start it"));
    tab.wait_for("!document.querySelector('#workflow').open");
    tab.wait_for(&is("New customer", "completed"));
    let task = scene.only_task();
    let steps = task["metadata"]["steps"].as_array().expect("steps").clone();
    assert_eq!(
        pluck(&steps, "name"),
        ["Check papers", "Open account", "Send card"]
    );
    assert_eq!(pluck(&steps, "durationMs"), ["100", "100", "100"]);
    let id = task["id"].as_str().expect("an id");
    let mut ran = pluck(&scene.mine.history(id), "step");
    ran.retain(|step| step != "null");
    ran.dedup();
    assert_eq!(ran, ["Check papers", "Open account", "Send card"]);
    tab.expect_no_complaint();
}

/// Runs a command that the page gave, as a user would; its output.
#[track_caller]
fn run_in_shell(command: &str) -> Value {
    assert!(command.starts_with("curl "), "{command}");
    let output = Command::new("sh")
        .args(["-c", command])
        .env("NO_PROXY", "*")
        .env("no_proxy", "*")
        .output()
        .expect("a shell runs");
    assert!(output.status.success(), "{command}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {command}: {output:?}"))
}

#[test]
fn the_command_behind_a_button_does_what_the_button_does() {
    let Some(scene) = Scene::open() else { return };
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("no curl in PATH");
    }
    let tab = &scene.tab;
    let copied = |words: &str| {
        let code = "document.querySelector('#toast:popover-open code').textContent";
        tab.wait_for(&format!("{code}.includes({})", json!(words)));
        tab.text(code)
    };
    // As it is in a network without https.
    tab.eval("Object.defineProperty(navigator, 'clipboard', { value: undefined }); 0");
    tab.fill(&on("#delayMs"), "0.2");
    tab.click("document.querySelector('#demo-sample').parentElement.querySelector('.icon')");
    let answer = run_in_shell(&copied("/demo/tasks/sample"));
    assert_eq!(answer["task"]["metadata"]["delayMs"], 200);
    assert_eq!(answer["task"]["sessionKey"], "mine");
    tab.wait_for(&is(SAMPLE, "completed"));

    // Nothing in a name is special to the shell.
    let name = r#"it's "50 %" of $HOME `id` \ & more"#;
    tab.click(&on("#open-create"));
    tab.fill(&on("#create [name=name]"), name);
    tab.fill(&on("#create [name=type]"), "held");
    tab.click(&on("#create [data-curl]"));
    let answer = run_in_shell(&copied("/api/v1/tasks'"));
    assert_eq!(answer["task"]["name"], name);
    tab.press("Escape", 27, "");
    tab.wait_for(&is(name, "running"));
    tab.click(&format!("({}).querySelector('.acts .icon')", row(name)));
    let answer = run_in_shell(&copied("/cancel"));
    assert_eq!(answer["task"]["status"], "cancelled");
    tab.wait_for(&is(name, "cancelled"));
    tab.click("document.querySelector('#clean').parentElement.querySelector('.icon')");
    let answer = run_in_shell(&copied("/cleanup/run"));
    assert_eq!(answer["cleanedCount"], 0);
    tab.expect_no_complaint();
}
