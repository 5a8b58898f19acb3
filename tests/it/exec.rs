use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{TOKEN, is, newest, program, run, serve};
use crate::support::{Client, TempDir, TestServer, stderr, wait_until};

#[test]
fn a_command_is_run_here_and_shown_there() {
    let server = serve("0");
    let me = server.session("me");
    let script = r#"
        echo '10% Reading'; echo a line; printf 'bytes \377\n'; echo oops >&2
        echo '{"progress": 60, "step": "Writing", "log": "half", "result": {"n": 1}}'
        while [ ! -e "$1" ]; do sleep 0.05; done
        printf 'no end'
    "#;
    let dir = TempDir::new();
    let go = dir.file("go").display().to_string();
    let words = [
        "exec", "--name", "Nightly", "--type", "backup", "--", "sh", "-c", script, "x", &go,
    ];
    let mut running = program(server.addr(), &words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut output = BufReader::new(running.stdout.take().expect("a pipe"));
    let mut first = String::new();
    output
        .read_line(&mut first)
        .expect("the output comes at once");
    assert_eq!(first, "10% Reading\n");
    let id = newest(&me)["id"].as_str().expect("an id").to_owned();
    let task = me.wait_step(&id, "Writing");
    assert_eq!(
        (
            &task["name"],
            &task["type"],
            &task["progress"],
            &task["status"]
        ),
        (
            &json!("Nightly"),
            &json!("backup"),
            &json!(60),
            &json!("running")
        )
    );
    std::fs::write(&go, "").expect("it is written");
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("it ends");
    assert!(running.wait().expect("it ends").success());
    assert!(
        rest.starts_with(b"a line\nbytes \xff\n") && rest.ends_with(b"}\nno end"),
        "{rest:?}"
    );
    let task = me.wait_status(&id, "completed");
    assert_eq!(task["result"], json!({ "n": 1 }));
    let log = me.get(&format!("/tasks/{id}/log")).expect(200).text();
    for line in ["a line", "bytes \u{fffd}", "oops", "half", "no end"] {
        assert!(log.lines().any(|own| own == line), "{line}: {log}");
    }
}

#[test]
fn exit_codes_are_the_commands_own_and_told_on_the_server() {
    let server = serve("0");
    let me = server.session("me");
    for (script, code, error) in [
        ("exit 3", 3, "exit status 3"),
        ("echo broken >&2; exit 1", 1, "broken"),
        (
            "echo '{\"error\": \"no disk\"}'; echo x >&2; exit 4",
            4,
            "no disk",
        ),
        ("kill -9 $$", 137, "killed by signal 9"),
    ] {
        is(&run(&server, &["exec", "--", "sh", "-c", script]), code);
        let task = newest(&me);
        assert_eq!(
            (&task["status"], &task["error"]),
            (&json!("failed"), &json!(error)),
            "{task}"
        );
    }
    let before = me.total();
    is(&run(&server, &["exec", "--", "/no/such/program"]), 127);
    is(&run(&server, &["exec", "--", "/"]), 126);
    assert_eq!(me.total(), before, "what did not run is not shown");
}

#[test]
fn without_a_server_or_its_leave_the_command_runs_all_the_same() {
    let server = serve("0");
    let mut command = program(server.addr(), &["exec", "--", "sh", "-c", "echo done; exit 5"]);
    let refused = command
        .env("WORKER_TOKEN", "a wrong token")
        .output()
        .expect("it runs");
    assert_eq!(is(&refused, 5), "done\n");
    assert!(
        stderr(&refused).contains("the command runs all the same"),
        "{}",
        stderr(&refused)
    );
    server.stop();
    let begun = Instant::now();
    let alone = run(&server, &["exec", "--", "sh", "-c", "echo done; exit 6"]);
    assert_eq!(is(&alone, 6), "done\n");
    assert!(
        stderr(&alone).contains("cannot reach"),
        "{}",
        stderr(&alone)
    );
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "it is not delayed"
    );
}

/// A running `exec` of a script that prints `ready` first.
fn exec(server: &Client, script: &str) -> (Child, BufReader<ChildStdout>) {
    let words = ["exec", "--", "sh", "-c", script];
    let child = program(server.addr(), &words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.expect("it runs");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    (child, output)
}

#[test]
fn signals_are_passed_on() {
    let server = serve("0");
    let me = server.session("me");
    for (signal, code) in [("TERM", 11), ("INT", 12), ("HUP", 13)] {
        let script = "exec 2>/dev/null; trap 'exit 11' TERM; trap 'exit 12' INT; trap 'exit 13' HUP; echo ready; while :; do sleep 0.05; done";
        let (mut child, _output) = exec(&server, script);
        let pid = child.id().to_string();
        Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status()
            .expect("kill runs");
        assert_eq!(
            child.wait().expect("it ends").code(),
            Some(code),
            "{signal}"
        );
        assert_eq!(newest(&me)["error"], format!("exit status {code}"));
    }
}

#[test]
fn a_cancel_on_the_server_ends_the_command_with_its_children() {
    let server = serve("0");
    let me = server.session("me");
    let dir = TempDir::new();
    let mark = dir.file("alive").display().to_string();
    let script = format!("(while :; do date > {mark}; sleep 0.05; done) & echo ready; wait");
    let (mut child, _output) = exec(&server, &script);
    let id = newest(&me)["id"].as_str().expect("an id").to_owned();
    me.act(&format!("/tasks/{id}/cancel")).expect(200);
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    std::fs::remove_file(&mark).ok();
    std::thread::sleep(Duration::from_millis(300));
    assert!(std::fs::metadata(&mark).is_err(), "its child has ended");
}

#[test]
fn a_server_that_is_restarted_shows_the_command_again() {
    let server = serve("0");
    let port = server.addr().port().to_string();
    let dir = TempDir::new();
    let go = dir.file("go").display().to_string();
    let script = format!(
        "echo ready; while [ ! -e {go} ]; do sleep 0.05; echo '30% Waiting'; done; echo '80% Going'"
    );
    let (mut child, mut output) = exec(&server, &script);
    newest(&server.session("me"));
    drop(server);
    let server = serve(&port);
    let me = server.session("me");
    let id = newest(&me)["id"].as_str().expect("an id").to_owned();
    me.wait_step(&id, "Waiting");
    std::fs::write(&go, "").expect("it is written");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert!(rest.ends_with("80% Going\n"));
    assert_eq!(me.wait_status(&id, "completed")["currentStep"], "Going");
    let _ = std::io::stdout().flush();
}
