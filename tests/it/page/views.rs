//! Every view has an address.

use serde_json::json;

use super::scene::{Scene, address, button, is, on, row};
use crate::support::{TestServer, quiet_port};

const DRAWER: &str = "document.querySelector('#drawer').open";

fn names(names: &[&str]) -> String {
    format!(
        "JSON.stringify([...document.querySelectorAll('#list > li .name')].map((name) => name.textContent)) === {}",
        json!(json!(names).to_string())
    )
}

#[test]
fn back_forward_and_reload_do_what_they_say() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    mine.create(json!({ "name": "Apple" }));
    mine.run_to("fails", "failed");
    tab.wait_for(&names(&["fails", "Apple"]));
    tab.click(&on("#tiles [data-status=failed]"));
    tab.wait_for(&names(&["fails"]));
    tab.click(&format!("({}).querySelector('.name')", row("fails")));
    tab.wait_for(DRAWER);
    tab.wait_for("location.search.includes('status=failed') && location.search.includes('task=')");
    tab.eval("void setTimeout(() => history.back())");
    tab.wait_for(&format!("!{DRAWER}"));
    tab.wait_for("location.search === '?session=mine&status=failed'");
    tab.eval("void setTimeout(() => history.forward())");
    tab.wait_for(DRAWER);
    tab.wait_for("document.querySelector('#drawer').innerText.includes('the disk is full')");
    // The same again in another tab, or after a reload.
    tab.go(&tab.text("location.href"));
    tab.wait_for(DRAWER);
    tab.wait_for("document.querySelector('#drawer-name').textContent === 'fails'");
    tab.wait_for("document.querySelector('#trail li')");
    tab.wait_for(&names(&["fails"]));
    tab.press("Escape", 27, "");
    tab.wait_for("location.search === '?session=mine&status=failed'");
    tab.fill(&on("#search"), "Apple");
    tab.wait_for("document.querySelector('#empty').innerText.includes('No task matches')");
    tab.click(&on("#tiles [data-status='']"));
    tab.wait_for(&names(&["Apple"]));
    tab.go(&tab.text("location.href"));
    tab.wait_for(&names(&["Apple"]));
    assert_eq!(tab.eval("document.querySelector('#search').value"), "Apple");
    tab.go(&format!("{}&view=jobs", address(&scene.server, "mine")));
    tab.wait_for("document.querySelector('#jobs').open");
    tab.eval("void setTimeout(() => history.back())");
    tab.wait_for(&names(&["Apple"]));
}

#[test]
fn a_task_that_is_gone_says_so_where_its_address_leads() {
    let Some(scene) = Scene::open() else { return };
    let (tab, server) = (&scene.tab, &scene.server);
    let gone = "00000000-0000-7000-8000-000000000000";
    tab.go(&format!("{}&task={gone}", address(server, "mine")));
    tab.wait_for("document.querySelector('#drawer-error').textContent.length > 10");
}

#[test]
fn the_api_page_leads_back_to_the_same_session() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    mine.create(json!({ "name": "Mine" }));
    tab.wait_for(&row("Mine"));
    tab.click(&on("#api"));
    let back =
        "[...document.querySelectorAll('#intro a')].find((a) => a.textContent.includes('Back'))";
    tab.wait_for(back);
    tab.click(back);
    tab.wait_for(&row("Mine"));
}

#[test]
fn filter_and_search_find_what_is_far_below() {
    let server = TestServer::start(&[("MAX_TASKS_PER_SESSION", "20000")]);
    let mine = server.session("mine");
    let id = mine.create(json!({ "name": "The needle", "metadata": { "order": "Q-77" }, "type": "fails", "start": true }));
    mine.wait_status(&id, "failed");
    for i in 0..1_200 {
        mine.create(json!({ "name": format!("Hay {i}") }));
    }
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let tab = &scene.tab;
    tab.wait_for("document.querySelector('#shown').textContent === '1 to 100 of 1,201'");
    tab.wait_for("document.querySelectorAll('#list > li').length === 100");
    tab.click(&on("#tiles [data-status=failed]"));
    tab.wait_for(&names(&["The needle"]));
    tab.click(&on("#tiles [data-status='']"));
    for text in ["NEEDLE", "q-77", &id] {
        tab.fill(&on("#search"), text);
        tab.wait_for(&names(&["The needle"]));
        tab.fill(&on("#search"), "");
        tab.wait_for("document.querySelectorAll('#list > li').length === 100");
    }
    // Page by page, there and back.
    tab.click(&on("#older"));
    tab.wait_for("document.querySelector('#shown').textContent === '101 to 200 of 1,201'");
    tab.wait_for(&row("Hay 1099"));
    tab.click(&on("#older"));
    tab.wait_for(&row("Hay 999"));
    tab.click(&on("#newer"));
    tab.wait_for(&row("Hay 1099"));
    tab.eval("void setTimeout(() => history.back())");
    tab.wait_for(&row("Hay 999"));
    tab.click(&on("#newest"));
    tab.wait_for(&row("Hay 1199"));
    // What is new comes to the first page, and none is there that has been cleaned away.
    scene.mine.create(json!({ "name": "New" }));
    tab.wait_for(&row("New"));
    tab.wait_for("document.querySelectorAll('#list > li').length === 100");
    tab.expect_no_complaint();
}

#[test]
fn after_a_restart_the_page_tells_why_its_list_is_empty() {
    let port = quiet_port().to_string();
    let Some(scene) = Scene::with(TestServer::start(&[("PORT", &port)])) else {
        return;
    };
    let Scene {
        tab, mine, server, ..
    } = scene;
    mine.create(json!({ "name": "Before" }));
    tab.wait_for(&row("Before"));
    tab.wait_for("document.querySelector('#tiles b').textContent === '1'");
    drop(server);
    tab.wait_for("document.querySelector('#live').dataset.live === 'no'");
    let _server = TestServer::start(&[("PORT", &port)]);
    tab.wait_for("document.querySelector('#notice').innerText.includes('was restarted')");
    tab.wait_for("document.querySelector('#notice').innerText.includes('1 task')");
}

#[test]
fn the_steps_of_a_process_are_ticked_off() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let steps = json!([
        { "name": "Pick", "durationMs": 10 }, { "name": "Pack", "durationMs": 600_000 },
        { "name": "Ship", "durationMs": 10 },
    ]);
    mine.post(
        "/demo/tasks/workflow",
        json!({ "name": "Order", "steps": steps }),
    )
    .expect(201);
    tab.wait_for(&is("Order", "running"));
    tab.click(&format!("({}).querySelector('.name')", row("Order")));
    let states = "JSON.stringify([...document.querySelectorAll('#checklist li')].map((li) => li.dataset.state))";
    tab.wait_for(&format!(r#"{states} === '["done","running","todo"]'"#));
    tab.click(&button(&on("#drawer"), "Cancel"));
    tab.wait_for(&format!(r#"{states} === '["done","cancelled","todo"]'"#));
    tab.expect_no_complaint();
}

#[test]
fn a_step_that_waits_for_a_person_goes_on_by_a_click() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let steps = json!([
        { "name": "Check", "durationMs": 10 }, { "name": "Manager approves", "wait": true },
        { "name": "Send", "durationMs": 10 },
    ]);
    let body = json!({ "name": "Onboarding", "steps": steps });
    let made = mine.post("/demo/tasks/workflow", body).expect(201).json();
    let id = made["task"]["id"].as_str().expect("an id").to_owned();
    let status = format!(
        "({}).querySelector('.status').textContent",
        row("Onboarding")
    );
    tab.wait_for(&format!("{status} === 'Running, waits for a person'"));
    let link = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let shared = scene.browser.open(link["link"].as_str().expect("a link"));
    let states = "JSON.stringify([...document.querySelectorAll('#checklist li')].map((li) => li.dataset.state))";
    shared.wait_for(&format!(r#"{states} === '["done","waiting","todo"]'"#));
    shared.wait_for(
        "document.querySelector('#status').textContent === 'Running, waits for a person'",
    );
    tab.click(&button(&row("Onboarding"), "Go on"));
    tab.wait_for(&is("Onboarding", "completed"));
    shared.wait_for(&format!(r#"{states} === '["done","done","done"]'"#));
    // What is paused goes on in the same way.
    let made = mine
        .post("/demo/tasks/sample", json!({ "delayMs": 4_000 }))
        .expect(201)
        .json();
    let id = made["task"]["id"].as_str().expect("an id").to_owned();
    mine.wait_status(&id, "running");
    mine.act(&format!("/tasks/{id}/pause")).expect(200);
    let sample = row(super::scene::SAMPLE);
    tab.wait_for(&format!(
        "({sample}).querySelector('.status').textContent === 'Running, paused'"
    ));
    tab.click(&button(&sample, "Resume"));
    tab.wait_for(&is(super::scene::SAMPLE, "completed"));
    tab.expect_no_complaint();
}
