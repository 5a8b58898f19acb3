use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};

use crate::browser::{Browser, Page};
use crate::support::{Client, TestServer, wait_until};

const NO_COMPLAINT: [String; 0] = [];

fn visit(browser: &std::sync::Arc<Browser>, client: &Client, session: &str) -> Page {
    let page = browser.visit(&format!("http://{}/?session={session}", client.addr()));
    page.wait_for("document.querySelector('#live').dataset.live === 'yes' && loaded");
    page
}

fn row(status: &str) -> String {
    format!("document.querySelector('.task[data-status={status}]')")
}

#[test]
fn a_click_makes_a_task_whose_bar_moves_to_its_end() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let page = visit(&browser, &server, "clicks");
    page.wait_for("document.querySelector('#empty').checkVisibility()");
    page.fill("#delayMs", "2");
    page.click("#first");
    page.wait_for(&row("running"));
    let now = "Number(document.querySelector('.task .meter').ariaValueNow)";
    page.wait_for(&format!("{now} > 0 && {now} < 100"));
    let first = page.eval(now).as_u64().expect("a number");
    page.wait_for(&format!("{now} > {first}"));
    page.wait_for(&row("completed"));
    page.wait_for("document.querySelector('.tile[data-status=completed] b').textContent === '1'");
    page.wait_for("document.querySelector('#said').textContent.includes('completed')");
    assert_eq!(server.session("clicks").total(), 1);
    assert_eq!(page.complaints(), NO_COMPLAINT);
}

#[test]
fn a_task_fails_as_asked_is_retried_and_completes() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let page = visit(&browser, &server, "retry");
    page.fill("#delayMs", "0.4");
    page.fill("#failAt", "60");
    page.click("#demo-sample");
    page.wait_for(&row("failed"));
    page.wait_for(&format!(
        "{}.textContent.includes('simulated failure at 60%')",
        row("failed")
    ));
    page.click(".task .acts button");
    page.wait_for(&row("completed"));
    page.wait_for(&format!(
        "{}.textContent.includes('attempt 2')",
        row("completed")
    ));
    page.click(".task .name");
    page.wait_for("document.querySelectorAll('#trail li').length > 20");
    let trail = page.eval("document.querySelector('#trail').textContent");
    let trail = trail.as_str().unwrap_or_default();
    for word in [
        "created",
        "failed: simulated failure at 60%",
        "retried (attempt 2)",
        "completed",
    ] {
        assert!(trail.contains(word), "{trail}");
    }
    let facts = page.eval("document.querySelector('#drawer-facts').textContent");
    assert!(facts.to_string().contains("failAt"), "{facts}");
    page.press("Escape");
    page.wait_for("!document.querySelector('#drawer').open");
    assert_eq!(page.complaints(), NO_COMPLAINT);
}

#[test]
fn a_task_is_created_started_and_cancelled_by_keyboard() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let client = server.session("keys");
    let page = visit(&browser, &server, "keys");
    page.eval("document.querySelector('#open-create').focus()");
    page.press("Enter");
    page.wait_for("document.querySelector('#create').open");
    page.fill("#create [name=name]", "By hand");
    page.fill("#create [name=type]", "held");
    page.eval("document.querySelector('#create [name=start]').checked = false");
    page.eval("document.querySelector('#create [name=name]').focus()");
    page.press("Enter");
    page.wait_for("!document.querySelector('#create').open");
    page.wait_for(&row("pending"));
    for (status, next) in [("pending", "running"), ("running", "cancelled")] {
        page.eval(&format!(
            "{}.querySelector('.acts button').focus()",
            row(status)
        ));
        page.press("Enter");
        page.wait_for(&row(next));
        // The focus stays in the row, whose buttons have changed.
        page.wait_for("document.activeElement.closest('.task')");
    }
    let tasks = client.get("/tasks").json()["tasks"].clone();
    assert_eq!(
        (&tasks[0]["name"], &tasks[0]["status"]),
        (&json!("By hand"), &json!("cancelled"))
    );
    assert_eq!(page.complaints(), NO_COMPLAINT);
}

#[test]
fn a_composed_workflow_runs_its_own_steps() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let client = server.session("compose");
    let page = visit(&browser, &server, "compose");
    page.click("#open-workflow");
    page.fill("#workflow [name=name]", "Tea");
    for _ in 0..2 {
        page.click("#steps .step:last-child button");
    }
    page.click("#add-step");
    for (i, (name, seconds)) in [("Boil", "0.05"), ("Pour", "0"), ("Wait", "0.1")]
        .iter()
        .enumerate()
    {
        let step = format!("#steps .step:nth-child({})", i + 1);
        page.fill(&format!("{step} label:nth-child(1) input"), name);
        page.fill(&format!("{step} label:nth-child(2) input"), seconds);
    }
    page.click("#workflow .main");
    page.wait_for(&row("completed"));
    let task = client.get("/tasks").json()["tasks"][0].clone();
    assert_eq!(task["name"], "Tea");
    let steps = json!([
        { "name": "Boil", "durationMs": 50 }, { "name": "Pour", "durationMs": 0 },
        { "name": "Wait", "durationMs": 100 },
    ]);
    assert_eq!(task["metadata"]["steps"], steps);
    assert_eq!(page.complaints(), NO_COMPLAINT);
}

#[test]
fn what_is_wrong_is_said_where_it_happened() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let page = visit(&browser, &server, "wrong");
    page.fill("#speed", "0.001");
    page.click("#demo-sample");
    page.wait_for(
        "document.querySelector('#launch-error').textContent.startsWith('speed must be')",
    );
    assert_eq!(
        page.eval("document.querySelector('#speed').ariaInvalid"),
        "true"
    );
    page.fill("#speed", "1");
    page.click("#session");
    page.fill("#switch [name=key]", "no spaces");
    page.click("#switch .main");
    page.wait_for("document.querySelector('#switch .error').textContent.startsWith('A key has')");
    assert_eq!(server.session("wrong").total(), 0);
}

#[test]
fn another_sessions_tasks_never_appear_and_a_session_can_be_switched() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let (mine, theirs) = (server.session("mine"), server.session("theirs"));
    theirs.create(json!({ "name": "Not yours", "type": "quick", "start": true }));
    let page = visit(&browser, &server, "mine");
    for _ in 0..5 {
        theirs.create(json!({ "name": "Not yours", "type": "quick", "start": true }));
    }
    mine.create(json!({ "name": "Yours", "type": "quick", "start": true }));
    page.wait_for(&row("completed"));
    assert_eq!(page.eval("document.querySelectorAll('.task').length"), 1);
    assert!(!page.text().contains("Not yours"));
    page.click("#session");
    page.fill("#switch [name=key]", "theirs");
    page.click("#switch .main");
    page.wait_for("document.querySelectorAll('.task').length === 6");
    assert!(!page.text().contains("Yours"));
    assert_eq!(page.eval("location.search"), "?session=theirs");
    page.eval("history.back()");
    page.wait_for("document.querySelectorAll('.task').length === 1");
    assert_eq!(page.complaints(), NO_COMPLAINT);
}

#[test]
fn what_clients_store_is_shown_as_text_and_never_runs() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start_with(&[], |registry| {
        registry.register("evil", |_| {
            Ok(|ctx: &mut async_task_system::TaskContext<'_>| {
                ctx.progress(50, EVIL, EVIL)?;
                Ok(async_task_system::Outcome::done(json!({ "result": EVIL })))
            })
        });
    });
    const EVIL: &str = "<img src=x onerror=hacked=1><script>hacked=1</script>\"'{{nonce}}${1}";
    let client = server.session("evil");
    let page = visit(&browser, &server, "evil");
    let body = json!({
        "name": EVIL, "description": EVIL, "metadata": { EVIL: EVIL }, "type": "evil", "start": true,
    });
    let id = client.create(body);
    page.wait_for(&row("completed"));
    page.click(".task .name");
    page.wait_for("document.querySelectorAll('#trail li').length === 5");
    page.wait_for("document.querySelectorAll('#drawer pre').length === 2");
    assert!(page.text().contains(EVIL));
    let url = client.act(&format!("/tasks/{id}/share")).json()["url"].clone();
    let shared = browser.visit(&format!(
        "http://{}{}",
        client.addr(),
        url.as_str().expect("a url")
    ));
    shared.wait_for("document.querySelector('#percent').textContent === '100 %'");
    assert!(shared.text().contains(EVIL));
    for page in [&page, &shared] {
        assert_eq!(page.eval("typeof hacked"), "undefined");
        assert_eq!(
            page.eval("document.querySelectorAll('main img, dialog img').length"),
            0
        );
        assert_eq!(page.complaints(), NO_COMPLAINT);
    }
}

/// A port that no connection of this machine is given by itself.
fn quiet_port() -> u16 {
    let first = 20_000 + (std::process::id() % 8_000) as u16;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..first + 2_000).find(free).expect("a free port")
}

#[test]
fn a_page_recovers_from_a_restart_of_the_server_and_says_so() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let port = quiet_port().to_string();
    let server = TestServer::start(&[("PORT", &port)]);
    server.session("s").create(json!({ "name": "Before" }));
    let page = visit(&browser, &server, "s");
    page.wait_for("document.querySelector('#list').textContent.includes('Before')");
    drop(server);
    page.wait_for("document.querySelector('#live').textContent === 'Reconnecting…'");
    page.click("#demo-sample");
    page.wait_for(
        "document.querySelector('#launch-error').textContent.includes('cannot be reached')",
    );
    let server = TestServer::start(&[("PORT", &port)]);
    page.wait_for("document.querySelector('#live').textContent === 'Live again'");
    page.wait_for("!document.querySelector('#list').textContent.includes('Before')");
    server
        .session("s")
        .create(json!({ "name": "After", "type": "quick", "start": true }));
    page.wait_for(&row("completed"));
    assert!(page.text().contains("After"));
}

#[test]
fn the_copied_command_does_what_its_button_does() {
    let Some(browser) = Browser::get() else {
        return;
    };
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI must have curl");
        return eprintln!("skipped: no curl found");
    }
    let server = TestServer::start(&[]);
    let client = server.session("curl");
    let page = visit(&browser, &server, "curl");
    page.eval(
        "localStorage.x = 1, Object.defineProperty(navigator, 'clipboard', { value: undefined })",
    );
    let run = |page: &Page| -> Value {
        page.wait_for("document.querySelector('#toast code')");
        let command = page.eval("document.querySelector('#toast code').textContent");
        let command = command.as_str().expect("a command").to_owned();
        page.eval("document.querySelector('#toast').replaceChildren()");
        let output = Command::new("sh")
            .arg("-c")
            .arg(command)
            .output()
            .expect("sh runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    page.fill("#delayMs", "0");
    page.click("#demo-sample + button");
    assert_eq!(run(&page)["message"], "Sample task created and started");
    page.wait_for(&row("completed"));
    page.click("#open-create");
    page.fill("#create [name=name]", "it's \"quoted\" $HOME `id`");
    page.click("#create [data-curl]");
    let created = run(&page);
    assert_eq!(created["task"]["name"], "it's \"quoted\" $HOME `id`");
    page.press("Escape");
    page.click("#clean + button");
    assert_eq!(run(&page)["message"], "Cleanup completed successfully");
    assert_eq!(client.total(), 2);
}

#[test]
fn a_bystander_sees_the_bar_move_and_has_no_control() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let dial = crate::support::Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let owner = server.session("owner-secret");
    let id = owner.run("driven");
    let url = owner.act(&format!("/tasks/{id}/share")).json()["url"].clone();
    let page = browser.visit(&format!(
        "http://{}{}",
        server.addr(),
        url.as_str().expect("a url")
    ));
    for percent in [10, 55, 99] {
        dial.turn_to(percent);
        page.wait_for(&format!(
            "document.querySelector('#percent').textContent === '{percent} %'"
        ));
        let step = format!("document.querySelector('#step').textContent === 'At {percent}'");
        page.wait_for(&step);
    }
    dial.turn_to(100);
    page.wait_for("document.querySelector('#status').textContent === 'Completed'");
    let controls = page.eval("document.querySelectorAll('button, input, a, form').length");
    assert_eq!(controls, 0);
    let html = page.eval("document.documentElement.outerHTML + document.cookie");
    assert!(!html.to_string().contains("owner-secret"));
    assert_eq!(page.complaints(), NO_COMPLAINT);
}

#[test]
fn a_thousand_tasks_are_drawn_row_by_row() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let client = server.session("many");
    for i in 0..1_000 {
        client.create(json!({ "name": format!("Task {i}") }));
    }
    let page = visit(&browser, &server, "many");
    page.wait_for("document.querySelectorAll('.task').length === 1000");
    let in_order = "[...document.querySelectorAll('.task')].every((row, i, rows) => \
                    !i || row.dataset.id < rows[i - 1].dataset.id)";
    assert_eq!(page.eval(in_order), true);
    // Rows that nothing happened to are not touched while another one moves.
    page.eval(
        "touched = 0; new MutationObserver((changes) => touched += changes.filter((change) => \
         !change.target.closest?.('.task:first-child') && change.target.closest?.('.task')).length)\
         .observe(document.querySelector('#list'), { subtree: true, childList: true, attributes: true })",
    );
    client.run("quick");
    page.wait_for(&row("completed"));
    assert_eq!(page.eval("touched"), 0);
    page.fill("#search", "task 99");
    page.wait_for(
        "[...document.querySelectorAll('.task')].filter((row) => !row.hidden).length === 11",
    );
    assert_eq!(page.complaints(), NO_COMPLAINT);
}

#[test]
fn nothing_on_the_pages_shuts_people_out() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let Some(axe) = std::env::var_os("AXE_JS") else {
        return eprintln!("skipped: AXE_JS names no axe.min.js");
    };
    let axe = std::fs::read_to_string(axe).expect("AXE_JS can be read");
    let server = TestServer::start(&[]);
    let client = server.session("axe");
    let page = visit(&browser, &server, "axe");
    let check = |page: &Page, what: &str| {
        page.eval(&format!("{axe};0"));
        let serious = page.eval(
            "axe.run().then(({ violations }) => violations.filter(({ impact }) => \
             ['serious', 'critical'].includes(impact)).map(({ id, nodes }) => [id, nodes[0].html]))",
        );
        assert_eq!(serious, json!([]), "{what}");
    };
    check(&page, "empty");
    for kind in ["held", "quick", "fails"] {
        client.run(kind);
    }
    let id = client.create(json!({ "name": "waits" }));
    wait_until(|| client.get("/tasks?status=completed,failed").json()["total"] == 2);
    page.wait_for("document.querySelectorAll('.task').length === 4");
    for theme in ["light", "dark"] {
        page.eval(&format!(
            "document.documentElement.dataset.theme = '{theme}'"
        ));
        check(&page, theme);
        for (button, dialog) in [
            ("[data-status=failed] .name", "drawer"),
            ("#open-workflow", "workflow"),
            ("#open-create", "create"),
            ("#session", "switch"),
        ] {
            page.click(button);
            page.wait_for(&format!("document.querySelector('#{dialog}').open"));
            page.wait_for("!opened || document.querySelector('#trail li')");
            check(&page, &format!("{dialog}, {theme}"));
            page.press("Escape");
            page.wait_for("!document.querySelector('dialog[open]')");
        }
    }
    let url = client.act(&format!("/tasks/{id}/share")).json()["url"].clone();
    let shared = browser.visit(&format!(
        "http://{}{}",
        server.addr(),
        url.as_str().expect("a url")
    ));
    shared.wait_for("document.querySelector('#status').textContent === 'Waiting'");
    check(&shared, "shared");
}
