//! Many tabs of one browser, and what they take from the server.

use std::collections::BTreeSet;

use serde_json::json;

use super::scene::{Scene, address, is, row};
use crate::browser::Tab;
use crate::support::{Dial, Process, TempDir, TestServer, quiet_port, wait_until};

/// How many streams the server has open, as its own numbers say.
fn streams(server: &TestServer) -> u64 {
    let text = server
        .call_exact("GET", "/metrics")
        .send()
        .expect(200)
        .text();
    let line = text
        .lines()
        .find(|line| line.starts_with("task_system_streams "));
    let value = line.and_then(|line| line.split(' ').nth(1));
    value.expect("the number").parse().expect("a number")
}

fn hide(tab: &Tab, hidden: bool) {
    tab.eval(&format!(
        "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
         document.dispatchEvent(new Event('visibilitychange')); 0"
    ));
}

#[test]
fn ten_tabs_of_which_six_are_share_pages_are_live_at_once() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[("METRICS", "true")], |registry| dial.register(registry));
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let Scene {
        tab,
        mine,
        server,
        browser,
    } = &scene;
    dial.turn_to(10);
    let mut links = BTreeSet::new();
    for i in 0..6 {
        let id =
            mine.create(json!({ "name": format!("Driven {i}"), "type": "driven", "start": true }));
        let link = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
        links.insert(link["link"].as_str().expect("a link").to_owned());
    }
    let mut shared = Vec::new();
    for link in &links {
        let page = browser.open_beside(tab, link);
        page.wait_for("document.body.innerText.includes('10 %')");
        shared.push(page);
    }
    let mut own = Vec::new();
    for _ in 0..3 {
        let page = browser.open_beside(tab, &address(server, "mine"));
        page.wait_for(&is("Driven 5", "running"));
        page.wait_for("document.querySelector('#live').dataset.live === 'yes'");
        own.push(page);
    }
    // All tabs of a session share one stream, and no more than four are open in all.
    assert!(streams(server) <= 4, "{} streams", streams(server));
    dial.turn_to(70);
    for page in &shared {
        page.wait_for("document.querySelector('[role=progressbar]').ariaValueNow === '70'");
        page.wait_for("document.querySelector('#note').textContent.startsWith('Live')");
        page.expect_no_complaint();
    }
    for page in own.iter().chain([tab]) {
        page.wait_for(&format!(
            "({}).querySelector('[role=progressbar]').ariaValueNow === '70'",
            row("Driven 5")
        ));
        page.expect_no_complaint();
    }
}

#[test]
fn a_page_that_nobody_sees_gives_its_stream_back() {
    let server = TestServer::start(&[("METRICS", "true")]);
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let Scene {
        tab,
        mine,
        server,
        browser,
    } = &scene;
    let id = mine.run("held");
    let link = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let shared = browser.open(link["link"].as_str().expect("a link"));
    shared.wait_for("document.querySelector('#note').textContent.startsWith('Live')");
    wait_until(|| streams(server) == 2);
    hide(&shared, true);
    hide(tab, true);
    wait_until(|| streams(server) == 0);
    tab.wait_for("document.querySelector('#live').textContent === 'Paused'");
    shared.wait_for("document.querySelector('#note').textContent.startsWith('Paused')");
    server.gate.open();
    mine.wait_status(&id, "completed");
    hide(&shared, false);
    hide(tab, false);
    tab.wait_for(&is("held", "completed"));
    shared.wait_for("document.body.innerText.includes('It is done.')");
}

#[test]
fn a_share_page_says_what_has_become_of_it() {
    let Some(scene) = Scene::open() else { return };
    let (port, dir) = (quiet_port().to_string(), TempDir::new());
    let variables = [("PORT", &*port)];
    let server = Process::start(&dir, &variables);
    let mine = server.client.session("mine");
    let steps = json!([
        { "name": "Pick", "durationMs": 10 }, { "name": "Pack", "durationMs": 600_000 },
        { "name": "Ship", "durationMs": 10 },
    ]);
    let made = mine.post(
        "/demo/tasks/workflow",
        json!({ "name": "Order", "steps": steps }),
    );
    let id = made.expect(201).json()["task"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let link = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let shared = scene.browser.open(link["link"].as_str().expect("a link"));
    let states = "JSON.stringify([...document.querySelectorAll('#checklist li')].map((li) => [li.querySelector('.what').textContent, li.dataset.state]))";
    shared.wait_for(&format!(
        r#"{states} === '[["Pick","done"],["Pack","running"],["Ship","todo"]]'"#
    ));
    // Its steps' names are all of the metadata that it tells.
    assert!(
        !mine
            .call_exact("GET", link["url"].as_str().expect("a path"))
            .header("Accept", "application/json")
            .send()
            .expect(200)
            .text()
            .contains("durationMs")
    );
    // Killed: it has no last word.
    server.signal("KILL");
    drop(server);
    shared.wait_for(
        "document.querySelector('#note').textContent.includes('This is how it stood at')",
    );
    let clock = "document.querySelector('#time').textContent";
    let stands = shared.text(clock);
    shared.wait_for("document.querySelector('#note').textContent.includes('cannot be reached')");
    assert_eq!(shared.text(clock), stands, "no clock goes on");
    let _server = Process::start(&dir, &variables);
    shared.wait_for("document.body.innerText.includes('This link has ended')");
    shared.wait_for("document.body.innerText.includes('was restarted')");
}
