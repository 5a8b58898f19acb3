use serde_json::json;

use crate::browser::Browser;
use crate::support::{DOCUMENT, TestServer};

#[test]
fn the_document_is_served_as_it_stands_in_this_version() {
    let server = TestServer::start(&[]);
    let reply = server.get("/openapi.json").expect(200);
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    assert_eq!(reply.header("X-App-Session"), None, "it is everybody's");
    let mut served = reply.json();
    assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
    served["info"]["version"] = json!("0.0.0");
    assert_eq!(served, *DOCUMENT);
}

#[test]
fn the_page_is_one_small_document_that_loads_nothing_from_elsewhere() {
    let server = TestServer::start(&[]);
    let page = server.call_exact("GET", "/docs").send().expect(200);
    assert!(page.body.len() <= 30 * 1024, "{} bytes", page.body.len());
    let policy = page.header("Content-Security-Policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let html = page.text();
    assert!(!html.contains("{{"), "all is filled in");
    for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let home = server.call_exact("GET", "/").send().expect(200).text();
    assert!(
        home.contains(&format!("http://{}/docs", server.addr())),
        "{home}"
    );
}

/// How many routes are shown, in the page's language.
const SHOWN: &str = "document.querySelectorAll('.route:not([hidden])').length";

#[test]
fn the_page_shows_every_route_and_finds_one_by_words_and_by_address() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let tab = browser.open(&format!("http://{}/docs", server.addr()));
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let operations: usize = paths
        .values()
        .map(|item| item.as_object().map_or(0, |o| o.len()))
        .sum();
    tab.wait_for(&format!("{SHOWN} === {operations}"));
    tab.press("/", 191, "/");
    tab.wait_for("document.activeElement.id === 'filter'");
    tab.fill("document.querySelector('#filter')", "post demo batch");
    tab.wait_for(&format!("{SHOWN} === 1"));
    tab.fill("document.querySelector('#filter')", "");
    tab.wait_for(&format!("{SHOWN} === {operations}"));
    // The types are the running server's own.
    tab.wait_for("document.querySelector('#types').innerText.includes('blocked')");
    tab.eval("location.hash = '#createTask'");
    tab.wait_for("document.querySelector('#createTask').open");
    let text = tab.text("document.querySelector('#createTask').innerText");
    for part in [
        "/api/v1/tasks",
        "timeoutMs",
        "Idempotency-Key",
        "invalid_session_key",
        "201",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    tab.click("document.querySelector('#all')");
    tab.wait_for(&format!(
        "document.querySelectorAll('.route[open]').length === {operations}"
    ));
    // Nothing that the document says is lost on the way to the page.
    let all = tab.text("document.querySelector('#routes').innerText");
    assert!(
        !all.contains("undefined") && !all.contains("[object"),
        "{all}"
    );
    for code in DOCUMENT["components"]["schemas"]["ErrorCode"]["enum"]
        .as_array()
        .expect("codes")
    {
        let code = code.as_str().expect("text");
        let of_any_path = ["not_found", "method_not_allowed"].contains(&code);
        assert!(of_any_path || all.contains(code), "{code}");
    }
    for width in [360, 1_400, 2_560] {
        tab.resize(width, 900);
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(tab.eval(fits), true, "{width}");
    }
    tab.expect_no_complaint();
}

#[test]
fn everyone_can_read_the_page() {
    let Ok(path) = std::env::var("AXE_JS") else {
        return eprintln!("skipped: AXE_JS names no axe.min.js");
    };
    let axe = std::fs::read_to_string(&path).expect("AXE_JS can be read");
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let tab = browser.open(&format!("http://{}/docs", server.addr()));
    tab.wait_for(&format!("{SHOWN} > 0"));
    for id in ["createTask", "taskEvents", "listTasks"] {
        tab.eval(&format!("document.getElementById('{id}').open = true"));
    }
    tab.eval("document.querySelectorAll('dd details').forEach((one) => { one.open = true; })");
    tab.eval(&format!("{axe}\n;0"));
    for theme in ["light", "dark"] {
        tab.theme(theme);
        let found = tab.eval(
            "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
                violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
                    .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]))",
        );
        assert_eq!(found, json!([]), "{theme}");
    }
}
