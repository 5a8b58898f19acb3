use serde_json::json;

use super::scene::{Scene, address, button, is, on, row};
use crate::browser::{Browser, Tab};
use crate::support::{TestServer, quiet_port};

#[test]
fn tasks_of_another_session_never_appear() {
    let Some(scene) = Scene::open() else { return };
    let theirs = scene.server.session("theirs");
    let id = theirs.create(json!({ "name": "Theirs", "type": "quick", "start": true }));
    theirs.wait_status(&id, "completed");
    // What comes after in our own stream proves that theirs is not on its way.
    scene
        .mine
        .create(json!({ "name": "Mine", "type": "quick", "start": true }));
    let tab = &scene.tab;
    tab.wait_for(&is("Mine", "completed"));
    assert_eq!(
        tab.eval("document.querySelectorAll('#list > li').length"),
        1
    );
    assert!(!tab.text("document.body.innerText").contains("Theirs"));
    tab.wait_for("document.querySelector('#tiles b').textContent === '1'");
    tab.expect_no_complaint();
}

#[test]
fn a_switch_of_session_changes_the_address_and_back_returns() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    scene.mine.create(json!({ "name": "Mine" }));
    let theirs = scene.server.session("team-7");
    theirs.create(json!({ "name": "Theirs" }));
    tab.wait_for(&row("Mine"));
    tab.click(&on("#session"));
    tab.fill(&on("#switch [name=key]"), "not a key");
    tab.click(&button(&on("#switch"), "Switch"));
    tab.wait_for("document.querySelector('#switch .error').textContent.includes('128')");
    tab.fill(&on("#switch [name=key]"), "team-7");
    tab.click(&button(&on("#switch"), "Switch"));
    tab.wait_for(&row("Theirs"));
    tab.wait_for(&format!("!({})", row("Mine")));
    tab.wait_for("location.search === '?session=team-7'");
    // Its stream is that of the new session.
    theirs.create(json!({ "name": "Later" }));
    tab.wait_for(&row("Later"));
    tab.eval("void setTimeout(() => history.back())");
    tab.wait_for(&row("Mine"));
    tab.wait_for(&format!("!({})", row("Theirs")));
    tab.wait_for("location.search === '?session=mine'");
    tab.expect_no_complaint();
}

/// Holds back the page's requests for a list before they are sent (`asked`), or their answers
/// (`answered`), until each is let go by `held[i]()`.
fn hold_lists(tab: &Tab, when: &str) {
    tab.eval(&format!(
        "window.held = [];
         window.realFetch ??= fetch;
         window.fetch = async (url, ...rest) => {{
             if (!url.includes('/tasks?')) return realFetch(url, ...rest);
             const release = new Promise((go) => held.push(go));
             if ('{when}' === 'asked') await release;
             const answer = await realFetch(url, ...rest);
             await release;
             return answer;
         }}; 0"
    ));
}

/// Waits until all that the page knows is drawn.
fn wait_for_frame(tab: &Tab) {
    tab.eval(
        "new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(() => go(0))))",
    );
}

#[test]
fn a_late_list_of_the_session_before_is_not_shown() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    hold_lists(tab, "answered");
    mine.create(json!({ "name": "Mine" }));
    tab.wait_for("held.length === 1");
    tab.eval("window.fetch = realFetch; 0");
    let theirs = scene.server.session("team-7");
    theirs.create(json!({ "name": "Theirs" }));
    tab.click(&on("#session"));
    tab.fill(&on("#switch [name=key]"), "team-7");
    tab.click(&button(&on("#switch"), "Switch"));
    tab.wait_for(&row("Theirs"));
    tab.eval("held[0]()");
    // A further list comes after the late one, and ends the wait for it.
    theirs.create(json!({ "name": "Later" }));
    tab.wait_for(&row("Later"));
    wait_for_frame(tab);
    assert_eq!(
        tab.eval("document.querySelectorAll('#list > li').length"),
        2
    );
    tab.expect_no_complaint();
}

#[test]
fn events_stand_over_a_list_that_is_older() {
    let server = TestServer::start(&[("MAX_COMPLETED_TASKS", "0")]);
    let mine = server.session("mine");
    mine.run_to("quick", "completed");
    let id = mine.run("held");
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let tab = &scene.tab;
    tab.wait_for(&is("held", "running"));
    tab.wait_for(&is("quick", "completed"));
    hold_lists(tab, "answered");
    // Two lists are on their way: for a new task, and after a cleanup.
    mine.create(json!({ "name": "Another" }));
    tab.wait_for("held.length === 1");
    mine.act("/tasks/cleanup/run").expect(200);
    tab.wait_for("held.length === 2");
    tab.eval("held[0]()");
    tab.wait_for(&row("Another"));
    mine.act(&format!("/tasks/{id}/cancel")).expect(200);
    tab.wait_for(&is("held", "cancelled"));
    // In this one it still runs.
    tab.eval("window.fetch = realFetch; held[1]()");
    tab.wait_for(&format!("!({})", row("quick")));
    wait_for_frame(tab);
    assert_eq!(tab.eval(&is("held", "cancelled")), true);
    tab.expect_no_complaint();
}

#[test]
fn a_retry_that_a_list_counts_already_is_not_counted_twice() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let id = mine.run("held");
    tab.wait_for(&is("held", "running"));
    hold_lists(tab, "asked");
    mine.create(json!({ "name": "Another" }));
    tab.wait_for("held.length === 1");
    for action in ["cancel", "retry"] {
        mine.act(&format!("/tasks/{id}/{action}")).expect(200);
    }
    mine.wait_step(&id, "Holding");
    tab.wait_for(&is("held", "running"));
    tab.eval("window.fetch = realFetch; held[0]()");
    tab.wait_for(&row("Another"));
    wait_for_frame(tab);
    // One thing more in the stream, after which all of it has been heard.
    mine.create(json!({ "name": "Last" }));
    tab.wait_for(&row("Last"));
    let status = format!("({}).querySelector('.status').textContent", row("held"));
    tab.wait_for(&format!("{status} === 'Running, attempt 2'"));
    wait_for_frame(tab);
    assert_eq!(tab.text(&status), "Running, attempt 2");
    tab.expect_no_complaint();
}

#[test]
fn the_page_finds_a_restarted_server_and_says_so() {
    let port = quiet_port().to_string();
    let Some(scene) = Scene::with(TestServer::start(&[("PORT", &port)])) else {
        return;
    };
    let Scene {
        tab, mine, server, ..
    } = scene;
    mine.create(json!({ "name": "Before" }));
    tab.wait_for(&row("Before"));
    drop(server);
    tab.wait_for("document.querySelector('#live').dataset.live === 'no'");
    tab.wait_for("document.querySelector('#live').textContent.includes('Reconnecting')");
    tab.click(&on("#demo-sample"));
    tab.wait_for(
        "document.querySelector('#launch-error').textContent.includes('cannot be reached')",
    );
    let server = TestServer::start(&[("PORT", &port)]);
    tab.wait_for("document.querySelector('#live').dataset.live === 'yes'");
    tab.wait_for("document.querySelector('#toast').textContent.includes('Reconnected')");
    // The server has forgotten all: so has the page.
    tab.wait_for("!document.querySelector('#list li')");
    tab.wait_for("!document.querySelector('#empty').hidden");
    tab.wait_for("document.querySelector('#tiles b').textContent === '0'");
    let mine = server.session("mine");
    mine.create(json!({ "name": "After", "type": "quick", "start": true }));
    tab.wait_for(&is("After", "completed"));
    // A connection that is refused is complained about by the browser itself.
    let mut complaints = tab.complaints();
    complaints.retain(|text| !text.contains("net::ERR_"));
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn without_a_stream_to_spare_the_page_still_shows_what_is() {
    let server = TestServer::start(&[("MAX_STREAMS", "1")]);
    let mine = server.session("mine");
    mine.create(json!({ "name": "Before" }));
    let taken = mine.call("GET", "/tasks/events").open();
    let Some(browser) = Browser::get() else {
        return;
    };
    let tab = browser.open(&address(&server, "mine"));
    tab.wait_for(&is("Before", "pending"));
    tab.wait_for("document.querySelector('#list-error').textContent.includes('no live stream')");
    tab.wait_for("document.querySelector('#tiles b').textContent === '1'");
    // What nobody tells is found by looking again.
    mine.create(json!({ "name": "Meanwhile" }));
    tab.wait_for(&row("Meanwhile"));
    drop(taken);
    tab.wait_for("document.querySelector('#live').dataset.live === 'yes'");
    tab.wait_for("document.querySelector('#list-error').textContent === ''");
}
