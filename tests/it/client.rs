use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use async_task_system::{Outcome, TaskContext, TaskInput};
use serde_json::{Value, json};

use crate::support::tour::{blocks, run as run_blocks};
use crate::support::{BINARY, Client, Gate, TestServer, stderr, stdout, wait_until};

pub(crate) const TOKEN: &str = "a token of workers";

pub(crate) fn serve(port: &str) -> TestServer {
    TestServer::start(&[("WORKER_TOKEN", TOKEN), ("PORT", port)])
}

/// The program as a client of this server.
pub(crate) fn program(server: SocketAddr, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ATS_URL", format!("http://{server}"))
        .env("ATS_SESSION", "me")
        .env("WORKER_TOKEN", TOKEN)
        .stdin(Stdio::null());
    command
}

pub(crate) fn run(server: &Client, words: &[&str]) -> Output {
    program(server.addr(), words)
        .output()
        .expect("the program runs")
}

#[track_caller]
pub(crate) fn is(output: &Output, code: i32) -> String {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        stdout(output),
        stderr(output)
    );
    stdout(output)
}

/// The newest task of the session, once there is one.
pub(crate) fn newest(me: &Client) -> Value {
    let mut newest = Value::Null;
    wait_until(|| {
        newest = me.get("/tasks?limit=1").expect(200).json()["tasks"][0].clone();
        !newest.is_null()
    });
    newest
}

#[test]
fn tasks_are_started_listed_and_waited_for() {
    let server = serve("0");
    let me = server.session("me");
    let id = is(
        &run(&server, &["run", "sample", "delayMs=0", "--name", "Mine"]),
        0,
    );
    let id = id.trim();
    assert_eq!(me.task(id)["name"], "Mine");
    assert_eq!(me.task(id)["metadata"], json!({ "delayMs": 0 }));
    is(&run(&server, &["wait", id, "latest"]), 0);
    let bar = is(
        &run(&server, &["run", "sample", "delayMs=20", "--watch"]),
        0,
    );
    let in_columns = |line: &str| line.get(3..5) == Some(" %");
    assert!(bar.lines().all(in_columns), "{bar}");
    assert!(bar.ends_with("\n100 %  completed  Step 10\n"), "{bar}");
    let list = is(&run(&server, &["ls"]), 0);
    assert!(
        list.contains(id) && list.contains("Mine") && list.contains("completed"),
        "{list}"
    );
    let list = is(&run(&server, &["ls", "--status", "failed", "--json"]), 0);
    assert_eq!(
        serde_json::from_str::<Value>(&list).expect("JSON")["total"],
        0
    );

    let held = is(&run(&server, &["run", "held"]), 0);
    let held = held.trim();
    assert_eq!(
        is(&run(&server, &["cancel", held]), 0),
        format!("{held} cancelled\n")
    );
    is(&run(&server, &["wait", held]), 3);
    assert_eq!(
        is(&run(&server, &["retry", held]), 0),
        format!("{held} pending\n")
    );
    server.gate.open();
    is(&run(&server, &["watch", held]), 0);
    let failing = run(&server, &["run", "fails", "--watch"]);
    is(&failing, 1);
    let id = newest(&me)["id"].clone();
    is(
        &run(&server, &["wait", id.as_str().expect("an id"), held]),
        1,
    );
}

#[test]
fn what_is_wrong_is_told_with_a_code() {
    let server = serve("0");
    for (words, said) in [
        (&["run"][..], "run needs a type"),
        (&["run", "sample", "x"], "x must be KEY=VALUE"),
        (&["run", "sampel"], "did you mean sample?"),
        (&["wait"], "wait needs an id"),
        (&["watch", "a", "b"], "one id is needed"),
        (&["ls", "--nmae"], "--nmae"),
        (&["exec", "--"], "exec needs a command"),
        (&["cancel", crate::support::NO_TASK], "Task not found"),
        (&["wait", "no id/at all"], "Task not found"),
        (&["cancel", ""], "must not be empty"),
        (&["ls", "--status", "done&x=1"], "status"),
        (
            &["ls", "--url", "https://127.0.0.1"],
            "must begin with http://",
        ),
        (&["ls", "--session", "a\nb: c"], "control characters"),
    ] {
        let output = run(&server, words);
        is(&output, 2);
        assert!(
            stderr(&output).contains(said),
            "{words:?}: {}",
            stderr(&output)
        );
    }
    let gone = program(server.addr(), &["ls", "--url", "http://127.0.0.1:1"])
        .output()
        .expect("it runs");
    is(&gone, 4);
    assert!(
        stderr(&gone).contains("cannot reach http://127.0.0.1:1"),
        "{}",
        stderr(&gone)
    );
}

#[test]
fn each_command_tells_what_it_takes() {
    let server = serve("0");
    for command in [
        "run", "wait", "watch", "ls", "logs", "cancel", "retry", "exec", "token", "migrate",
    ] {
        for flag in ["--help", "-h"] {
            let help = is(&run(&server, &[command, flag]), 0);
            let usage = format!("Usage: async-task-system {command}");
            assert!(
                help.contains(&usage) && help.lines().all(|line| line.len() <= 120),
                "{help}"
            );
        }
    }
    assert_eq!(server.total(), 0);
}

#[test]
fn names_cannot_steer_the_terminal() {
    let server = serve("0");
    let name = "a\u{1b}[2Jb\nc";
    server.session("me").create(json!({ "name": name }));
    let list = is(&run(&server, &["ls"]), 0);
    assert!(
        list.ends_with("pending      0 %  abc\n") && list.lines().count() == 1,
        "{list:?}"
    );
}

#[test]
fn a_log_is_printed_and_followed() {
    let gate = Gate::default();
    let opened = gate.clone();
    let server = TestServer::start_with(&[], move |registry| {
        registry.register("talks", move |_: &TaskInput| {
            let (gate, mut n) = (opened.clone(), 0);
            Ok(move |ctx: &mut TaskContext<'_>| {
                n += 1;
                ctx.log(&format!("line {n}"))?;
                Ok(match gate.is_open() && n >= 300 {
                    true => Outcome::Done(None),
                    false => Outcome::Again(Duration::from_millis(1)),
                })
            })
        });
    });
    is(&run(&server, &["run", "talks"]), 0);
    let mut following = program(server.addr(), &["logs", "latest", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut followed = BufReader::new(following.stdout.take().expect("a pipe"));
    let mut first = String::new();
    followed.read_line(&mut first).expect("a line");
    assert_eq!(first, "line 1\n", "it does not wait for the end");
    gate.open();
    let mut rest = String::new();
    followed.read_to_string(&mut rest).expect("text");
    assert!(following.wait().expect("it ends").success());
    let whole = is(&run(&server, &["logs", "latest"]), 0);
    assert_eq!(first + &rest, whole);
    let json: Value =
        serde_json::from_str(&is(&run(&server, &["logs", "latest", "--json"]), 0)).expect("JSON");
    assert_eq!(json["count"], whole.lines().count());
    let lines = is(&run(&server, &["logs", "latest", "--json", "-f"]), 0);
    let last: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["event"], &last["n"]),
        (&json!("log"), &json["count"])
    );
    let watched = is(&run(&server, &["watch", "latest", "--json"]), 0);
    assert!(
        watched
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "{watched}"
    );
}

/// A server of the test: answers each connection with the next of these, and closes it without an answer for an empty
/// one. Returns what was sent to it as well.
fn scripted(answers: &[&str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut answers: VecDeque<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let calls = Arc::<AtomicUsize>::default();
    let counted = calls.clone();
    std::thread::spawn(move || {
        while let Some(answer) = answers.pop_front() {
            let (mut socket, _) = listener.accept().expect("a client");
            let _ = socket.read(&mut [0; 4_096]);
            counted.fetch_add(1, SeqCst);
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    (address, calls)
}

#[test]
fn a_server_that_is_being_restarted_is_asked_again() {
    let list = "HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{\"tasks\":[],\"total\":60}";
    let stopping =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n{\"message\":\"stopping\"}";
    let (address, calls) = scripted(&[stopping, "", "HTTP/1.1 502 Bad Gateway\r\n\r\n", list]);
    let begun = Instant::now();
    let output = program(address, &["ls"]).output().expect("it runs");
    assert_eq!(is(&output, 0), "The newest 0 of 60.\n");
    assert_eq!(calls.load(SeqCst), 4);
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "it waits as asked"
    );

    let (address, calls) = scripted(&[
        "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"message\":\"It is off\"}",
        list,
    ]);
    let output = program(address, &["ls"]).output().expect("it runs");
    is(&output, 1);
    assert!(stderr(&output).contains("It is off"));
    assert_eq!(calls.load(SeqCst), 1, "it is refused for good");
}

#[test]
fn the_document_of_the_client_does_what_it_says() {
    const DOCUMENT: &str = include_str!("../../docs/client.md");
    let server = serve("0");
    let folder = std::path::Path::new(BINARY).parent().expect("a folder");
    let setting = format!(
        "export PATH={}:$PATH ATS_URL=http://{} ATS_SESSION=me WORKER_TOKEN='{TOKEN}'\n",
        folder.display(),
        server.addr()
    );
    let mut scripts: Vec<&str> = blocks(DOCUMENT, "sh")
        .into_iter()
        .map(|(_, block)| block)
        .collect();
    assert!(scripts.len() >= 2, "{scripts:?}");
    scripts.insert(0, &setting);
    let printed = run_blocks("localhost:3000", &scripts, 0);
    assert!(
        printed[1].contains("100 %") && printed[1].contains("\ndone\n"),
        "{}",
        printed[1]
    );
    assert!(printed[2].contains("45% Copying"), "{}", printed[2]);
    let task = newest(&server.session("me"));
    assert_eq!(
        (&task["name"], &task["status"]),
        (&json!("Nightly backup"), &json!("completed"))
    );
}

#[test]
fn a_wait_outlives_a_restart_of_the_server() {
    let server = serve("0");
    let port = server.addr().port().to_string();
    drop(server);
    let nobody = Client::new(format!("127.0.0.1:{port}").parse().expect("an address"));
    let mut waiting = program(nobody.addr(), &["run", "sample", "delayMs=0", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    std::thread::sleep(Duration::from_millis(300));
    let _server = serve(&port);
    assert!(waiting.wait().expect("it ends").success());
}
