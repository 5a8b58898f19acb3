use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{TOKEN, is, newest, program, run, serve};
use crate::support::{TempDir, TestServer, stderr};

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
    let mut command = program(
        server.addr(),
        &["exec", "--", "sh", "-c", "echo done; exit 5"],
    );
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

/// The program as a crontab starts it: without the terminal, and the ignored signals, that the tests may have.
fn apart(command: Command) -> Command {
    let python = "import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT): signal.signal(number, signal.SIG_DFL)
os.setsid()
os.execv(sys.argv[1], sys.argv[1:])";
    wrapped("python3", &["-c", python], &command)
}

/// A program that starts this one.
fn wrapped(program: &str, words: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(program);
    wrapped
        .args(words)
        .arg(command.get_program())
        .args(command.get_args());
    wrapped.env_clear().stdin(Stdio::null());
    wrapped.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    wrapped
}

/// A running `exec` of a script that prints `ready` first.
fn exec(server: SocketAddr, script: &str) -> (Child, BufReader<ChildStdout>) {
    let words = ["exec", "--", "sh", "-c", script];
    let child = apart(program(server, &words))
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

pub(crate) fn kill(signal: &str, pid: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), pid])
        .status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn signals_are_passed_on() {
    let server = serve("0");
    let me = server.session("me");
    for (signal, code) in [("TERM", 11), ("INT", 12), ("HUP", 13), ("USR1", 14)] {
        let script = "exec 2>/dev/null; trap 'exit 11' TERM; trap 'exit 12' INT; trap 'exit 13' HUP; trap 'exit 14' USR1; echo ready; while :; do sleep 0.05; done";
        let (mut child, _output) = exec(server.addr(), script);
        let pid = child.id().to_string();
        kill(signal, &pid);
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
    let (mut child, _output) = exec(server.addr(), &script);
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
    let (mut child, mut output) = exec(server.addr(), &script);
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

#[test]
fn a_command_that_heeds_no_sigterm_is_killed_after_a_cancel() {
    let server = serve("0");
    let me = server.session("me");
    let (mut child, _output) = exec(
        server.addr(),
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    );
    let id = newest(&me)["id"].as_str().expect("an id").to_owned();
    me.act(&format!("/tasks/{id}/cancel")).expect(200);
    let begun = Instant::now();
    assert_eq!(child.wait().expect("it ends").code(), Some(137));
    assert!(begun.elapsed() >= Duration::from_secs(4), "it had its time");
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_is_ignored_stays_ignored() {
    let server = serve("0");
    let words = [
        "exec",
        "--",
        "sh",
        "-c",
        "echo ready; read line; echo $line",
    ];
    let exec = program(server.addr(), &words);
    let mut shell = wrapped("sh", &["-c", "trap '' HUP; exec \"$0\" \"$@\""], &exec);
    let mut child = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    kill("HUP", &child.id().to_string());
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"alive\n")
        .expect("it reads");
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\nalive\n");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn output_is_passed_on_byte_for_byte() {
    let server = serve("0");
    let dir = TempDir::new();
    let mut x = 1_u32;
    let bytes: Vec<u8> = (0..3_000_000)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .collect();
    let file = dir.file("bytes").display().to_string();
    std::fs::write(&file, &bytes).expect("it is written");
    let both = run(
        &server,
        &[
            "exec",
            "--",
            "sh",
            "-c",
            &format!("cat {file}; cat {file} >&2"),
        ],
    );
    assert!(both.status.success());
    assert!(both.stdout == bytes && both.stderr == bytes);
    server.session("me").wait_status(
        newest(&server.session("me"))["id"].as_str().expect("an id"),
        "completed",
    );
}

#[test]
fn a_reader_that_is_slow_and_non_blocking_gets_all() {
    let server = serve("0");
    let (mut reader, theirs) = UnixStream::pair().expect("a pair");
    theirs.set_nonblocking(true).expect("it is set");
    let mut child = program(server.addr(), &["exec", "--", "seq", "100000"])
        .stdout(OwnedFd::from(theirs))
        .spawn()
        .expect("it runs");
    let mut first = [0; 1];
    reader.read_exact(&mut first).expect("a byte");
    // Longer than output may pause once the command has ended.
    std::thread::sleep(Duration::from_millis(2_500));
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("text");
    assert_eq!(rest.lines().count(), 100_000);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_process_that_is_left_behind_does_not_hold_it() {
    let server = serve("0");
    let begun = Instant::now();
    assert_eq!(
        is(
            &run(&server, &["exec", "--", "sh", "-c", "sleep 20 & echo done"]),
            0
        ),
        "done\n"
    );
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_result_that_is_refused_does_not_hide_the_end() {
    let server = TestServer::start(&[("WORKER_TOKEN", TOKEN), ("MAX_RESULT_BYTES", "100")]);
    let me = server.session("me");
    let script = format!("echo '{{\"result\": \"{}\"}}'", "x".repeat(200));
    is(&run(&server, &["exec", "--", "sh", "-c", &script]), 0);
    let task = newest(&me);
    assert_eq!(
        (&task["status"], &task["result"]),
        (&json!("completed"), &Value::Null)
    );
    let log = me
        .get(&format!(
            "/tasks/{}/log",
            task["id"].as_str().expect("an id")
        ))
        .text();
    assert!(log.contains("refused"), "{log}");
}

/// What a command in a terminal asks of the person there.
#[test]
fn a_command_reads_from_the_terminal_while_its_input_is_a_pipe() {
    let server = serve("0");
    let python = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.dup2(os.open('/dev/null', os.O_RDONLY), 0)
    os.execv(sys.argv[1], sys.argv[1:])
os.write(terminal, b'secret\n')
said = b''
try:
    while part := os.read(terminal, 1000): said += part
except OSError:
    pass
print(said.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let words = [
        "exec",
        "--",
        "sh",
        "-c",
        "read word </dev/tty; echo got $word",
    ];
    let exec = program(server.addr(), &words);
    let mut terminal = wrapped("timeout", &["20", "python3", "-c", python], &exec);
    let output = terminal.output().expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("got secret") && said.trim_end().ends_with(" 0"),
        "{said}"
    );
}
