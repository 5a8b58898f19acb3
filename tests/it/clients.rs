//! The example clients in `clients/`, each run against a server.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::browser::{Browser, skip};
use crate::support::{TestServer, stderr, stdout};

const FETCH: &str = include_str!("../../clients/follow.js");

/// Runs a client to its end; `None` where this machine lacks the program for it.
fn run(program: &str, client: &str, server: &str) -> Option<Output> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let output = Command::new(program)
        .arg(folder.join(client))
        .arg(server)
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output();
    if output.is_err() {
        skip(&format!("no {program} in PATH"));
    }
    output.ok()
}

/// What a client does where all is well, where it is refused, and where nobody listens.
fn check(program: &str, client: &str) {
    let server = TestServer::start(&[]);
    let address = format!("http://{}", server.addr());
    let Some(output) = run(program, client, &address) else {
        return;
    };
    let printed = stdout(&output);
    assert!(output.status.success(), "{printed}{}", stderr(&output));
    let lines: Vec<&str> = printed.lines().collect();
    let percents = lines.iter().filter(|line| line.contains(" %")).count();
    assert!(percents > 0, "no progress in {printed}");
    let last = lines.last().expect("a last line");
    assert!(last.starts_with("completed {"), "{printed}");
    assert!(last.contains("itemsProcessed"), "{printed}");

    let full = TestServer::start(&[("ENABLE_SESSION_ISOLATION", "false")]);
    let output = run(program, client, &format!("http://{}", full.addr()));
    let output = output.expect("it ran before");
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output) + &stderr(&output);
    assert!(said.contains("The Task System is off"), "{said}");

    server.stop();
    let output = run(program, client, &address).expect("it ran before");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("onnect"), "{}", stderr(&output));
}

#[test]
fn the_python_client_follows_a_task_to_its_end() {
    check("python3", "follow.py");
}

#[test]
fn the_shell_client_follows_a_task_to_its_end() {
    let version = Command::new("curl").arg("--version").output();
    match version {
        Ok(_) => check("sh", "follow.sh"),
        Err(_) => skip("no curl in PATH"),
    }
}

#[test]
fn the_fetch_client_follows_a_task_to_its_end() {
    let Some(browser) = Browser::get() else {
        return;
    };
    let server = TestServer::start(&[]);
    let tab = browser.open(&format!("http://{}/api/v1/health", server.addr()));
    let client = FETCH.replace("export ", "");
    let follow = format!(
        "(async () => {{ {client}
            const seen = [];
            const result = await follow('', (now) => seen.push(now.progress));
            return {{ seen, result }};
        }})()"
    );
    let told = tab.eval(&follow);
    let seen = told["seen"].as_array().expect("a list");
    assert_eq!(seen.last(), Some(&Value::from(100)), "{told}");
    assert_eq!(told["result"]["itemsProcessed"], 4, "{told}");

    let off = TestServer::start(&[("ENABLE_SESSION_ISOLATION", "false")]);
    let tab = browser.open(&format!("http://{}/api/v1/health", off.addr()));
    let refused = format!(
        "(async () => {{ {client}
            return await follow('', () => {{}}).catch((error) => error.message);
        }})()"
    );
    let message = tab.text(&refused);
    assert!(message.contains("The Task System is off"), "{message}");
}
