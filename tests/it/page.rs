use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use async_task_system::{Outcome, TaskContext, TaskError, TaskInput};
use serde_json::{Value, json};

use crate::browser::{Browser, Tab, skip};
use crate::support::{Client, Dial, TestServer, pluck, wait_until};

/// Text that would run, were it ever read as markup.
const HOSTILE: &str = "<script>window.hit = 1</script><img src=x onerror=\"window.hit = 2\">";

/// A server, one session of it, and a tab that shows that session live.
struct Scene {
    tab: Tab,
    mine: Client,
    server: TestServer,
    browser: Arc<Browser>,
}

impl Scene {
    /// `None` where there is no browser to see it with.
    fn open() -> Option<Scene> {
        Scene::with(TestServer::start(&[]))
    }

    #[track_caller]
    fn with(server: TestServer) -> Option<Scene> {
        let browser = Browser::get()?;
        let tab = browser.open(&address(&server, "mine"));
        tab.wait_for("document.querySelector('#live').dataset.live === 'yes'");
        tab.wait_for(
            "document.querySelector('#list li') || !document.querySelector('#empty').hidden",
        );
        Some(Scene {
            tab,
            mine: server.session("mine"),
            server,
            browser,
        })
    }

    /// The only task of the session, as the server has it.
    #[track_caller]
    fn only_task(&self) -> Value {
        let list = self.mine.get("/tasks").expect(200).json();
        assert_eq!(list["total"], 1, "{list}");
        list["tasks"][0].clone()
    }
}

fn address(server: &TestServer, session: &str) -> String {
    format!("http://{}/?session={session}", server.addr())
}

/// The row of the task of that name, in the page's language.
fn row(name: &str) -> String {
    let name = json!(name);
    format!(
        "[...document.querySelectorAll('#list > li')]
            .find((row) => row.querySelector('.name').textContent === {name})"
    )
}

/// The button that says `word`, within an element.
fn button(within: &str, word: &str) -> String {
    let word = json!(word);
    format!("[...({within}).querySelectorAll('button')].find((b) => b.innerText.trim() === {word})")
}

fn on(selector: &str) -> String {
    format!("document.querySelector({})", json!(selector))
}

/// The condition that the row of that task is in that status, and looks it.
fn is(name: &str, status: &str) -> String {
    let row = row(name);
    let word = status[..1].to_uppercase() + &status[1..];
    format!(
        "({row}).dataset.status === '{status}' && ({row}).querySelector('.status').textContent.startsWith('{word}')"
    )
}

const SAMPLE: &str = "Sample Long-Running Task";

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
    tab.eval("history.back()");
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
fn what_clients_store_is_shown_as_text() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("hostile", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                ctx.progress(50, HOSTILE, HOSTILE)?;
                Ok(Outcome::done(json!({ "made": HOSTILE })))
            })
        });
        registry.register("hostile-failure", |_: &TaskInput| {
            Ok(|_: &mut TaskContext<'_>| Err::<Outcome, _>(TaskError::new(HOSTILE)))
        });
    });
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let steps = json!([{ "name": HOSTILE, "description": HOSTILE, "durationMs": 1 }]);
    let body = json!({ "name": "steps", "description": HOSTILE, "steps": steps });
    mine.post("/demo/tasks/workflow", body).expect(201);
    mine.create(json!({ "name": "type", "type": HOSTILE, "metadata": { HOSTILE: HOSTILE } }));
    mine.create(json!({ "name": "error", "type": "hostile-failure", "start": true }));
    let id = mine.create(json!({ "name": HOSTILE, "type": "hostile", "start": true }));
    for (name, status) in [
        ("steps", "completed"),
        ("type", "pending"),
        ("error", "failed"),
        (HOSTILE, "completed"),
    ] {
        tab.wait_for(&is(name, status));
        tab.click(&format!("({}).querySelector('.name')", row(name)));
        tab.wait_for("document.querySelector('#drawer').open");
        tab.wait_for("document.querySelector('#trail li')");
        tab.wait_for("document.querySelector('#drawer').innerText.includes('<img src=x')");
        tab.press("Escape", 27, "");
        tab.wait_for("!document.querySelector('#drawer').open");
    }
    let url = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let url = url["url"].as_str().expect("a link");
    let shared = scene
        .browser
        .open(&format!("http://{}{url}", scene.server.addr()));
    shared.wait_for("document.body.innerText.includes('<img src=x')");
    for tab in [tab, &shared] {
        assert_eq!(tab.eval("window.hit ?? null"), Value::Null);
        assert_eq!(tab.eval("document.querySelectorAll('img').length"), 0);
        assert_eq!(tab.eval("document.querySelectorAll('script').length"), 1);
        tab.expect_no_complaint();
    }
}

/// A port that no connection of this machine is given by itself between two servers.
fn quiet_port() -> u16 {
    let first = 20_000 + (std::process::id() % 8_000) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..first + 2_000).find(is_free).expect("a free port")
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

#[test]
fn the_drawer_tells_the_whole_story() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let body = json!({
        "name": "Tale", "description": "of two attempts", "metadata": { "customer": "Ada" },
        "type": "fails", "start": true,
    });
    let id = mine.create(body);
    mine.wait_status(&id, "failed");
    tab.wait_for(&is("Tale", "failed"));
    let name = format!("({}).querySelector('.name')", row("Tale"));
    tab.click(&name);
    tab.wait_for("document.querySelector('#drawer').open");
    let told = |count: usize| {
        format!("document.querySelectorAll('#trail > li:not([hidden])').length === {count}")
    };
    tab.wait_for(&told(mine.history(&id).len()));
    // What is told is drawn in a later frame.
    for text in [
        "Tale",
        "of two attempts",
        "Ada",
        "the disk is full",
        "Trying",
    ] {
        tab.wait_for(&format!(
            "document.querySelector('#drawer').innerText.includes({})",
            json!(text)
        ));
    }
    // It goes on while it is open.
    let before = mine.history(&id).len();
    tab.click(&button(&on("#drawer"), "Retry"));
    wait_until(|| mine.history(&id).len() >= 2 * before);
    mine.wait_status(&id, "failed");
    tab.wait_for(&told(mine.history(&id).len()));
    tab.press("Escape", 27, "");
    tab.wait_for("!document.querySelector('#drawer').open");
    tab.wait_for(&format!("document.activeElement === {name}"));

    let id = mine.run_to("quick", "completed");
    tab.wait_for(&is("quick", "completed"));
    tab.click(&format!("({}).querySelector('.name')", row("quick")));
    tab.wait_for(&told(mine.history(&id).len()));
    tab.wait_for("document.querySelector('#drawer').innerText.includes('\"ok\": true')");
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

#[test]
fn a_bystander_sees_the_bar_and_nothing_to_press() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let (tab, mine) = (&scene.tab, &scene.mine);
    dial.turn_to(25);
    mine.create(json!({ "name": "Shown", "type": "driven", "start": true }));
    tab.wait_for(&is("Shown", "running"));
    tab.click(&format!("({}).querySelector('.name')", row("Shown")));
    tab.click(&on("#share"));
    let code = "document.querySelector('#toast:popover-open code').textContent";
    tab.wait_for(&format!("{code}.includes('/s/')"));
    let link = tab.text(code);

    let shared = scene.browser.open(&link);
    let at = |percent: u32| {
        format!(
            "document.querySelector('[role=progressbar]').ariaValueNow === '{percent}'
             && document.body.innerText.includes('{percent} %')"
        )
    };
    for percent in [25, 60, 80] {
        dial.turn_to(percent as usize);
        shared.wait_for(&at(percent));
        let shown = shared.text("document.body.innerText");
        assert!(
            shown.contains("Shown") && shown.contains("Running"),
            "{shown}"
        );
    }
    dial.turn_to(100);
    shared.wait_for("document.body.innerText.includes('Completed')");
    let html = shared.text("document.documentElement.outerHTML");
    assert!(!html.contains("mine"), "{html}");
    let controls = "document.querySelectorAll('button, input, form, a, [tabindex]').length";
    assert_eq!(shared.eval(controls), 0);
    shared.expect_no_complaint();
    tab.expect_no_complaint();

    let link = format!("http://{}/s/{}", scene.server.addr(), "0".repeat(32));
    shared.go(&link);
    shared.wait_for("document.body.innerText.includes('This link has ended')");
}

#[test]
fn all_of_it_works_without_a_mouse() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    let tab_to = |condition: &str| {
        for _ in 0..60 {
            if tab.eval(&format!("Boolean({condition})")) == true {
                return;
            }
            tab.press("Tab", 9, "");
        }
        panic!("Tab never reaches {condition}");
    };
    let enter = || tab.press("Enter", 13, "\r");
    tab.fill(&on("#delayMs"), "0.2");
    tab.eval("document.activeElement.blur()");
    tab_to("document.activeElement.id === 'demo-sample'");
    enter();
    tab.wait_for(&is(SAMPLE, "completed"));
    tab_to("document.activeElement.classList.contains('name')");
    enter();
    tab.wait_for("document.querySelector('#drawer').open");
    // The focus stays within, however often Tab is pressed.
    for _ in 0..12 {
        tab.press("Tab", 9, "");
        tab.wait_for(
            "document.activeElement === document.body || document.activeElement.closest('#drawer')",
        );
    }
    tab.press("Escape", 27, "");
    tab.wait_for("!document.querySelector('#drawer').open");
    tab.wait_for("document.activeElement.classList.contains('name')");
    // A button that has done its work hands the focus to the next one of its row.
    let mine = &scene.mine;
    mine.create(json!({ "name": "By hand", "type": "held" }));
    tab.wait_for(&is("By hand", "pending"));
    tab.eval(&format!("({}).focus()", button(&row("By hand"), "Start")));
    for status in ["running", "cancelled"] {
        enter();
        tab.wait_for(&is("By hand", status));
        tab.wait_for(&format!(
            "document.activeElement === ({}).querySelector('.acts button')",
            row("By hand")
        ));
    }
    // Where the focus is can be seen.
    assert_ne!(
        tab.eval("getComputedStyle(document.activeElement).outlineStyle"),
        "none"
    );
    tab.expect_no_complaint();
}

#[test]
fn filters_narrow_the_list() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    mine.create(json!({ "name": "Apple" }));
    mine.create(json!({ "name": "Pear" }));
    mine.run("held");
    tab.wait_for(&is("held", "running"));
    let shown = |names: &[&str]| {
        format!(
            "JSON.stringify([...document.querySelectorAll('#list > li:not([hidden]) .name')].map((name) => name.textContent)) === {}",
            json!(json!(names).to_string())
        )
    };
    tab.wait_for(&shown(&["held", "Pear", "Apple"]));
    tab.click(&on("#tiles [data-status=pending]"));
    tab.wait_for(&shown(&["Pear", "Apple"]));
    tab.fill(&on("#search"), "APP");
    tab.wait_for(&shown(&["Apple"]));
    tab.fill(&on("#search"), "");
    tab.click(&on("#tiles [data-status=running]"));
    tab.wait_for(&shown(&["held"]));
    // Whoever leaves the filter's status leaves the list.
    scene.server.gate.open();
    tab.wait_for(&shown(&[]));
    tab.wait_for("document.querySelector('#empty').innerText.includes('No task matches')");
    tab.expect_no_complaint();
}

#[test]
fn a_change_of_one_task_redraws_one_row_of_a_thousand() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let mine = server.session("mine");
    for i in 0..999 {
        mine.create(json!({ "name": format!("Task {i}") }));
    }
    mine.create(json!({ "name": "Driven", "type": "driven", "start": true }));
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let tab = &scene.tab;
    tab.wait_for("document.querySelectorAll('#list > li').length === 1000");
    tab.wait_for(&is("Driven", "running"));
    tab.eval(
        "window.touched = new Set();
         new MutationObserver((changes) => {
             for (const { target } of changes) {
                 const element = target.nodeType === 1 ? target : target.parentElement;
                 touched.add(element?.closest('#list > li')?.querySelector('.name').textContent ?? 'the list');
             }
         }).observe(document.querySelector('#list'), { subtree: true, attributes: true, childList: true, characterData: true }); 0",
    );
    for percent in [10, 50, 90, 100] {
        dial.turn_to(percent);
        tab.wait_for(&format!(
            "({}).querySelector('[role=progressbar]').ariaValueNow === '{percent}'",
            row("Driven")
        ));
    }
    tab.wait_for(&is("Driven", "completed"));
    assert_eq!(tab.eval("[...touched]"), json!(["Driven"]));
    let newest_first = "[...document.querySelectorAll('#list > li')]
        .every((row, i, rows) => !i || row.dataset.id < rows[i - 1].dataset.id)";
    assert_eq!(tab.eval(newest_first), true);
    tab.fill(&on("#search"), "task 99");
    tab.wait_for("document.querySelectorAll('#list > li:not([hidden])').length === 10");
    tab.expect_no_complaint();
}

#[test]
fn everyone_can_use_it() {
    let Ok(path) = std::env::var("AXE_JS") else {
        return eprintln!("skipped: AXE_JS names no axe.min.js");
    };
    let axe = std::fs::read_to_string(&path).expect("AXE_JS can be read");
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let check = |tab: &Tab, what: &str| {
        tab.eval(&format!("{axe}\n;0"));
        for theme in ["light", "dark"] {
            tab.theme(theme);
            let found = tab.eval(
                "Promise.all(document.getAnimations().filter((a) => a.effect.getTiming().iterations !== Infinity).map((a) => a.finished.catch(() => 0)))
                    .then(() => axe.run(document, { resultTypes: ['violations'] }))
                    .then(({ violations }) => violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
                        .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]))",
            );
            assert_eq!(found, json!([]), "{what}, {theme}");
        }
    };
    check(tab, "nothing there");
    mine.run_to("fails", "failed");
    mine.run_to("quick", "completed");
    mine.create(json!({ "name": "waits" }));
    let id = mine.run("held");
    let cancelled = mine.create(json!({ "name": "cancelled" }));
    mine.act(&format!("/tasks/{cancelled}/cancel")).expect(200);
    tab.wait_for(&is("cancelled", "cancelled"));
    tab.wait_for(&is("held", "running"));
    check(tab, "a list");
    for dialog in ["workflow", "create", "switch"] {
        let opener = match dialog {
            "switch" => on("#session"),
            _ => on(&format!("#open-{dialog}")),
        };
        tab.click(&opener);
        tab.wait_for(&format!("document.querySelector('#{dialog}').open"));
        check(tab, dialog);
        tab.press("Escape", 27, "");
        tab.wait_for("!document.querySelector('dialog[open]')");
    }
    for name in ["held", "fails"] {
        tab.click(&format!("({}).querySelector('.name')", row(name)));
        tab.wait_for("document.querySelector('#trail li')");
        check(tab, "the drawer");
        tab.click(&on("#share"));
        tab.wait_for("document.querySelector('#toast:popover-open code')");
        check(tab, "the toast");
        tab.press("Escape", 27, "");
        tab.wait_for("!document.querySelector('dialog[open]')");
    }
    tab.resize(360, 780);
    check(tab, "a phone");
    // Nothing is wider than the smallest phone.
    let fits = "document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(tab.eval(fits), true);

    let url = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let url = url["url"].as_str().expect("a link");
    let shared = scene
        .browser
        .open(&format!("http://{}{url}", scene.server.addr()));
    shared.wait_for("document.body.innerText.includes('40 %')");
    check(&shared, "the shared page");
}
