use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use async_task_system::{FieldError, Outcome, TaskContext};
use serde_json::json;

use crate::support::{FREE_PORT, Process, TempDir, TestServer};

#[test]
fn a_terminal_gets_a_text_with_its_session_and_commands_that_work() {
    let server = TestServer::start(&[]);
    for accept in ["*/*", "text/plain", "application/json", "text/html;q=0"] {
        let reply = server
            .call_exact("GET", "/")
            .header("Accept", accept)
            .send()
            .expect(200);
        assert_eq!(
            reply.header("Content-Type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(reply.header("Vary"), Some("Accept"));
        assert!(
            reply
                .text()
                .contains(&format!("Your session: {}", server.key()))
        );
        assert_eq!(reply.header("X-App-Session"), Some(&*server.key()));
        // A type of the program's own, before the demos.
        let start = format!(
            "curl -N 'http://{}/api/v1/tasks?watch=1' -H 'Content-Type: application/json' \
             -d '{{\"name\":\"blocked\",\"type\":\"blocked\"}}'\n",
            server.addr()
        );
        assert!(reply.text().contains(&start), "{}", reply.text());
        assert!(reply.text().lines().count() <= 30, "short");
    }
}

#[test]
fn the_commands_stay_in_the_session_that_was_named() {
    let server = TestServer::start(&[]);
    let reply = server
        .call_exact("GET", "/?session=team-7")
        .send()
        .expect(200);
    let text = reply.text();
    let commands = text.lines().filter(|line| line.contains("http://"));
    for command in commands {
        assert!(command.contains("team-7"), "{command}");
    }
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("skipped: no curl in PATH");
    }
    let mut lines = text.lines().map(str::trim);
    let start = lines.find(|line| line.starts_with("curl -N"));
    server.gate.open();
    let shown = shell(start.expect("a start"));
    assert!(shown.starts_with("blocked\n"), "{shown}");
    assert!(shown.contains("✔ completed in "), "{shown}");
    let task = server.session("team-7").task("latest");
    assert_eq!(task["type"], "blocked");
}

fn shell(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("{command} 2>/dev/null")])
        .env("NO_PROXY", "*")
        .env("no_proxy", "*")
        .output()
        .expect("a shell runs");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_first_command_starts_what_the_server_has() {
    let dir = TempDir::new();
    let bare = Process::start(&dir, &[FREE_PORT]);
    let text = bare.client.call_exact("GET", "/").send().expect(200).text();
    let demo = format!(
        "curl -N -X POST 'http://{}/api/v1/demo/tasks/sample?watch=1'\n",
        bare.client.addr()
    );
    assert!(text.contains(&demo), "{text}");

    let server = TestServer::start_with(&[], |registry| {
        // A worker may never come for this one, and the next does not take its example.
        registry.register_remote("a-remote", Duration::from_secs(30));
        registry
            .register("a-strict", |_| {
                Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None)))
            })
            .check(|_| Err(vec![FieldError::new("width", "width is required")]));
        registry
            .register("b-own", |_| {
                Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None)))
            })
            .example(json!({ "title": "it's 'quoted' $HOME" }));
    });
    let text = server.call_exact("GET", "/").send().expect(200).text();
    let mut lines = text.lines().map(str::trim);
    let start = lines.find(|line| line.starts_with("curl -N"));
    let start = start.expect("a start");
    assert!(start.contains("b-own"), "{text}");
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("skipped: no curl in PATH");
    }
    assert!(shell(start).contains("✔ completed in "), "{start}");
    let metadata = &server.task("latest")["metadata"];
    assert_eq!(metadata["title"], "it's 'quoted' $HOME");
}

#[test]
fn a_host_that_could_run_in_a_shell_is_not_repeated() {
    let server = TestServer::start(&[]);
    let request = "GET / HTTP/1.1\r\nHost: x;$(reboot)\r\nConnection: close\r\n\r\n";
    let mut socket = server.connect();
    std::io::Write::write_all(&mut socket, request.as_bytes()).expect("sent");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut socket, &mut answer).expect("an answer");
    assert!(!answer.contains("reboot"), "{answer}");
}

/// What the program of that name makes of it, checksum and all.
fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), bytes).expect("sent");
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "gzip finds fault with it");
    output.stdout
}

#[test]
fn a_browser_gets_a_small_page_of_files_that_it_keeps() {
    let server = TestServer::start(&[]);
    let page = server
        .call_exact("GET", "/?session=guest")
        .header("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
        .send()
        .expect(200);
    let kind = page.header("Content-Type");
    assert_eq!(kind, Some("text/html; charset=utf-8"));
    assert_eq!(page.header("X-App-Session"), Some("guest"));
    assert_eq!(page.header("X-Frame-Options"), Some("DENY"));
    assert_eq!(page.header("Referrer-Policy"), Some("no-referrer"));
    let html = page.text();
    assert!(html.contains("guest") && !html.contains("{{"), "filled in");
    let policy = page.header("Content-Security-Policy").expect("a policy");
    let rules = "default-src 'none'; script-src 'self'; style-src 'self'";
    assert!(policy.starts_with(rules), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"));
    assert!(!html.contains("<style") && !html.contains("<script>"));

    // The same, compressed, as curl and browsers unpack it.
    let small = server
        .call_exact("GET", "/?session=guest")
        .header("Accept", "text/html");
    let small = small.header("Accept-Encoding", "gzip").send().expect(200);
    assert_eq!(gunzip(&small.body), page.body);
    let mut weight = small.body.len();
    let parts = html.split('"').filter(|part| part.starts_with("/assets/"));
    for file in parts.collect::<BTreeSet<_>>() {
        let ask = |codings: &str| {
            let call = server.call_exact("GET", file);
            call.header("Accept-Encoding", codings).send().expect(200)
        };
        let (small, plain) = (ask("deflate, gzip;q=0.5, br"), ask("gzip;q=0, br"));
        assert_eq!(small.header("Content-Encoding"), Some("gzip"));
        assert_eq!(plain.header("Content-Encoding"), None);
        for reply in [&small, &plain] {
            let keep = Some("public, max-age=31536000, immutable");
            assert_eq!(reply.header("Cache-Control"), keep, "{file}");
            assert_eq!(reply.header("Vary"), Some("Accept-Encoding"));
        }
        assert!(small.body.starts_with(&[0x1f, 0x8b]), "{file}");
        assert!(!plain.text().contains("{{"), "{file}");
        weight += small.body.len();
    }
    assert!(weight <= 45 * 1024, "{weight} bytes");
    for gone in [
        "/assets/0000000000000000/style.css",
        "/assets/style.css",
        "/assets",
    ] {
        let reply = server.call_exact("GET", gone).send();
        reply.expect_problem(404, "not_found");
    }
}

#[test]
fn a_wrong_address_is_a_page_for_who_reads_and_a_problem_for_a_program() {
    let server = TestServer::start(&[]);
    for (target, status, words, code) in [
        ("/typo", 404, "There is nothing at this path", "not_found"),
        (
            "/?session=a<b",
            400,
            "A session key has 1 to 128",
            "invalid_session_key",
        ),
    ] {
        let read = server
            .call_exact("GET", target)
            .header("Accept", "text/html,*/*;q=0.8");
        let page = read.send().expect(status);
        assert_eq!(
            page.header("Content-Type"),
            Some("text/html; charset=utf-8")
        );
        assert!(page.text().contains(words), "{}", page.text());
        let program = server.call_exact("GET", target).send();
        program.expect_problem(status, code);
    }
    // Some programs say that they take HTML.
    let call = server.call_exact("GET", "/api/v1/typo");
    let reply = call.header("Accept", "text/html, */*; q=.2").send();
    reply.expect_problem(404, "not_found");
}
