use std::time::Duration;

use async_task_system::{Config, token};
use serde_json::json;

use crate::browser::{Browser, Tab};
use crate::support::{TempDir, TestServer};

const SECRET: &str = "a secret for tests, of 32 bytes or more";

/// Where the first job's row is, in the page's language.
const ROW: &str = "document.querySelector('#job-list > li')";

/// A server with its jobs in a file of `dir`, and a token of one who uses it.
fn server(dir: &TempDir) -> (TestServer, String) {
    let url = format!("sqlite://{}", dir.path().join("jobs.db").display());
    let variables = [
        ("STORAGE", "sqlite"),
        ("DATABASE_URL", &url),
        ("ENABLE_QUEUE", "true"),
        ("JWT_SECRET", SECRET),
    ];
    let config = Config::from_pairs(variables).expect("valid");
    let token = token(&config, "alice", None, Duration::from_secs(600)).expect("a token");
    (TestServer::start(&variables), token)
}

/// The page of the server, its panel of jobs open, with `token` typed in.
fn panel(server: &TestServer, token: &str) -> Option<Tab> {
    let tab = open(server)?;
    enter(&tab, token);
    Some(tab)
}

fn open(server: &TestServer) -> Option<Tab> {
    let tab = Browser::get()?.open(&format!("http://{}/?session=mine", server.addr()));
    tab.wait_for("document.querySelector('#live').dataset.live === 'yes'");
    tab.click("document.querySelector('#open-jobs')");
    Some(tab)
}

fn enter(tab: &Tab, token: &str) {
    tab.fill("document.querySelector('#jobs [name=token]')", token);
    tab.click("document.querySelector('#jobs form .main')");
}

fn add(server: &TestServer, token: &str, kind: &str) {
    let body = json!({ "type": kind, "maxAttempts": 1 });
    let call = server.call("POST", "/jobs").json(&body);
    let bearer = format!("Bearer {token}");
    call.header("Authorization", &bearer).send().expect(201);
}

/// The condition that the first job is in that status, and looks it.
fn is(status: &str, word: &str) -> String {
    format!(
        "{ROW}?.dataset.status === '{status}' && {ROW}.querySelector('.status').textContent.startsWith('{word}')"
    )
}

#[test]
fn a_job_is_seen_running_to_its_end_by_who_has_a_token() {
    let dir = TempDir::new();
    let (server, token) = server(&dir);
    let Some(tab) = panel(&server, &token) else {
        return;
    };
    tab.wait_for("document.querySelector('#job-stats').textContent.includes('0 total')");
    add(&server, &token, "held");
    tab.wait_for(&is("running", "Processing, attempt 1 of 1"));
    tab.wait_for(&format!(
        "{ROW}.querySelector('[role=progressbar]').ariaValueNow === '40' && {ROW}.innerText.includes('Holding')"
    ));
    tab.resize(320, 640);
    tab.wait_for(
        "((panel) => panel.scrollWidth === panel.clientWidth)(document.querySelector('#jobs'))",
    );
    server.gate.open();
    tab.wait_for(&is("completed", "Completed"));
    tab.wait_for(&format!(
        "{ROW}.querySelector('[role=progressbar]').ariaValueNow === '100' && !{ROW}.querySelector('.acts button')"
    ));
    tab.wait_for("document.querySelector('#job-stats').textContent.includes('1 completed')");
    tab.wait_for("document.querySelector('#said').textContent === 'job held completed'");
    // The tab keeps the token, its address does not.
    assert_eq!(tab.text("sessionStorage.token"), token);
    assert!(
        !tab.text("location.href + JSON.stringify(localStorage)")
            .contains(&token)
    );
    tab.click("document.querySelector('#forget-token')");
    tab.wait_for(
        "!document.querySelector('#job-list li') && !document.querySelector('#jobs form').hidden",
    );
    assert_eq!(tab.eval("sessionStorage.length"), 0);
    tab.expect_no_complaint();
}

#[test]
fn a_job_is_cancelled_and_retried_by_clicks() {
    let dir = TempDir::new();
    let (server, token) = server(&dir);
    let Some(tab) = panel(&server, &token) else {
        return;
    };
    add(&server, &token, "held");
    tab.wait_for(&is("running", "Processing"));
    let button = format!("{ROW}.querySelector('.acts button')");
    tab.click(&button);
    tab.wait_for(&is("cancelled", "Cancelled"));
    tab.wait_for(&format!("{button}.innerText.trim() === 'Retry'"));
    tab.click(&button);
    server.gate.open();
    tab.wait_for(&is("completed", "Completed"));
    tab.expect_no_complaint();
}

#[test]
fn a_job_has_an_address_where_it_tells_when_it_is_due_and_all_else() {
    let dir = TempDir::new();
    let (server, token) = server(&dir);
    let Some(tab) = panel(&server, &token) else {
        return;
    };
    let body = json!({ "type": "held", "delaySec": 3_600, "arguments": { "order": 77 } });
    let call = server.call("POST", "/jobs").json(&body);
    let bearer = format!("Bearer {token}");
    let job = call.header("Authorization", &bearer).send().expect(201);
    let id = job.json()["id"].as_str().expect("an id").to_owned();
    // So many newer ones that the list alone does not have it.
    for _ in 0..20 {
        add(&server, &token, "quick");
    }
    tab.go(&format!(
        "http://{}/?session=mine&view=jobs&job={id}",
        server.addr()
    ));
    let row = format!("document.querySelector('#job-list > li[data-id=\"{id}\"]')");
    for text in ["Due at", "in 59:", "runAt", "{\"order\":77}"] {
        tab.wait_for(&format!("{row}.innerText.includes({})", json!(text)));
    }
    tab.click(&format!("{row}.querySelector('.name')"));
    tab.wait_for("location.search === '?session=mine&view=jobs'");
    tab.eval("void setTimeout(() => history.back())");
    tab.wait_for(&format!("{row}.innerText.includes('runAt')"));
    tab.expect_no_complaint();
}

#[test]
fn a_wrong_token_is_refused_in_words_and_not_kept() {
    let dir = TempDir::new();
    let (server, token) = server(&dir);
    let wrong = format!("{}x", &token[..token.len() - 4]);
    let Some(tab) = panel(&server, &wrong) else {
        return;
    };
    let refused = "document.querySelector('#jobs-error').textContent.includes('not valid')
                   && document.activeElement.name === 'token'";
    tab.wait_for(refused);
    assert_eq!(tab.eval("sessionStorage.length"), 0);
    // Nor what cannot even be sent; then the right one is taken.
    enter(&tab, "ключ");
    tab.wait_for(refused);
    enter(&tab, &format!("Bearer {token}"));
    tab.wait_for("document.querySelector('#job-stats').textContent.includes('0 total')");
    assert_eq!(
        tab.text("document.querySelector('#jobs-error').textContent"),
        ""
    );
}

#[test]
fn a_server_without_a_database_says_what_to_set() {
    let server = TestServer::start(&[]);
    let Some(tab) = open(&server) else {
        return;
    };
    tab.wait_for("document.querySelector('#jobs-error').textContent.includes('STORAGE=sqlite')");
    // No token would help.
    assert_eq!(
        tab.eval("document.querySelector('#jobs form').hidden"),
        true
    );
}
