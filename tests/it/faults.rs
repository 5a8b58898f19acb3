use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    API, Client, FREE_PORT, Process, Reply, TempDir, id_of, json_lines, wait_until,
};

/// Sets a limit of a running process; false where this machine does not allow it.
fn limit(process: &Process, what: &str) -> bool {
    let mut command = Command::new("prlimit");
    command.args([&format!("--pid={}", process.pid()), what]);
    let done = command.status().is_ok_and(|status| status.success());
    if !done {
        eprintln!("skipped: prlimit {what} does not work here");
    }
    done
}

/// Runs the demo's sample to its end.
fn run_a_task(client: &Client) -> String {
    let reply = client.post("/demo/tasks/sample", json!({ "delayMs": 5 }));
    let id = id_of(&reply.expect(201));
    client.wait_status(&id, "completed");
    id
}

/// Whether a new connection is served, by now.
fn is_served(client: &Client) -> bool {
    let mut socket = client.connect();
    let request = format!("GET {API}/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    socket.write_all(request.as_bytes()).is_ok()
        && socket.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200 ")
}

/// The answer on a connection on which nothing was asked.
fn unasked(mut socket: TcpStream) -> Option<Reply> {
    let patience = Some(Duration::from_millis(200));
    socket.set_read_timeout(patience).expect("a timeout");
    let mut first = [0];
    match socket.peek(&mut first) {
        Ok(1) => {
            let mut text = Vec::new();
            let _ = socket.read_to_end(&mut text);
            Some(Reply::read(&mut &text[..], "GET"))
        }
        _ => None,
    }
}

#[test]
fn few_descriptors_leave_few_places_and_everyone_else_is_told() {
    let dir = TempDir::new();
    let process = Process::start_by("ulimit -n 64; exec \"$0\"", &dir, &[FREE_PORT]);
    assert!(process.has("leaves room for 24 connections, not for 1024"));
    let client = &process.client;
    let crowd: Vec<_> = (0..60).map(|_| client.connect()).collect();
    let refused: Vec<_> = crowd.into_iter().filter_map(unasked).collect();
    assert!(refused.len() >= 36, "{}", refused.len());
    for reply in refused {
        reply.expect_problem(503, "too_many_connections");
    }
    wait_until(|| is_served(client));
    run_a_task(client);
}

#[test]
fn out_of_descriptors_the_server_waits_for_better_times() {
    let dir = TempDir::new();
    let process = Process::start(&dir, &[FREE_PORT, ("WORKER_THREADS", "1")]);
    let client = &process.client;
    let reply = client.post("/demo/tasks/sample", json!({ "delayMs": 50 }));
    let id = id_of(&reply.expect(201));
    if !limit(&process, "--nofile=3:4096") {
        return;
    }
    let crowd: Vec<_> = (0..20).map(|_| client.connect()).collect();
    wait_until(|| process.has("A connection cannot be accepted"));
    assert!(limit(&process, "--nofile=4096:4096"));
    drop(crowd);
    wait_until(|| is_served(client));
    // What was running never noticed.
    client.wait_status(&id, "completed");
    run_a_task(client);
    let told = process.log();
    let told = told
        .iter()
        .filter(|line| line.contains("cannot be accepted"))
        .count();
    assert!(told <= 20, "one line a bad time, not {told}");
}

#[test]
fn where_no_thread_can_be_started_the_client_is_told() {
    // Limits do not hold for root: become someone whom nobody else is.
    let nobody = 1_000_000 + std::process::id();
    let as_nobody = format!(
        "cp \"$0\" server && chmod 755 . server && exec setpriv --reuid {nobody} --regid \
         {nobody} --clear-groups prlimit --nproc=15 ./server"
    );
    let mut become_nobody = Command::new("setpriv");
    become_nobody.args(["--reuid", &nobody.to_string(), "true"]);
    if !become_nobody.status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: this test must be root to become someone else");
    }
    let dir = TempDir::new();
    let variables = [FREE_PORT, ("WORKER_THREADS", "2")];
    let process = Process::start_by(&as_nobody, &dir, &variables);
    let client = &process.client;
    let id = run_a_task(client);
    let crowd: Vec<_> = (0..30).map(|_| client.connect()).collect();
    wait_until(|| process.has("no thread can be started for it"));
    let mut refused = crowd.into_iter().filter_map(unasked);
    let first = refused.next().expect("somebody is refused");
    first.expect_problem(503, "too_many_connections");
    for reply in refused {
        reply.expect_problem(503, "too_many_connections");
    }
    wait_until(|| is_served(client));
    assert_eq!(client.task(&id)["status"], "completed");
    run_a_task(client);
}

#[test]
fn an_audit_log_that_cannot_grow_waits_and_loses_nothing() {
    let dir = TempDir::new();
    let variables = [FREE_PORT, ("AUDIT_LOG", "audit.log")];
    let mut process = Process::start(&dir, &variables);
    let client = process.client.session("me");
    let mut ids = vec![run_a_task(&client)];
    wait_until(|| json_lines(&dir.file("audit.log")).len() >= 3);
    // A full disk, as far as the writer can tell: the file ends within a line.
    if !limit(&process, "--fsize=5000:") {
        return;
    }
    while !process.has("The audit log cannot be written") {
        ids.push(run_a_task(&client));
    }
    ids.extend((0..20).map(|_| run_a_task(&client)));
    let length = std::fs::metadata(dir.file("audit.log")).map(|file| file.len());
    assert!(length.is_ok_and(|length| length <= 5_000));
    assert!(limit(&process, "--fsize=unlimited:"));
    wait_until(|| process.has("The audit log can be written again; nothing was lost"));
    ids.push(run_a_task(&client));
    process.signal("TERM");
    assert_eq!(process.ended().0, Some(0));
    let lines = json_lines(&dir.file("audit.log"));
    for id in &ids {
        check_audit(&lines, id, "completed");
    }
}

/// Its entries are there from the first to the last.
#[track_caller]
fn check_audit(lines: &[Value], id: &str, last: &str) {
    let own: Vec<_> = lines.iter().filter(|line| line["taskId"] == *id).collect();
    for (place, line) in own.iter().enumerate() {
        assert_eq!(line["seq"], place + 1, "no gap: {line}");
    }
    let end = own.last().expect("entries");
    assert_eq!(end["event"], last, "{end}");
}

#[test]
fn an_audit_log_on_a_full_disk_stops_neither_work_nor_the_end() {
    let dir = TempDir::new();
    let mut process = Process::start(&dir, &[FREE_PORT, ("AUDIT_LOG", "/dev/full")]);
    run_a_task(&process.client);
    process.level_of("its entries wait: No space left on device (os error 28)");
    run_a_task(&process.client);
    process.signal("TERM");
    let (code, took) = process.ended();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(process.has("entries of the audit log could not be written"));
}

#[test]
fn an_audit_log_that_cannot_be_opened_stops_the_start() {
    let dir = TempDir::new();
    let variables = [FREE_PORT, ("AUDIT_LOG", "no/such/folder/audit.log")];
    let output = crate::support::run(&dir, &[], &variables);
    assert!(!output.status.success());
    let text = crate::support::stderr(&output);
    assert!(
        text.contains("AUDIT_LOG=no/such/folder/audit.log"),
        "{text}"
    );
}

/// Asks again and again on one connection until an answer says that it is the last. Fails where
/// a request is left without its answer.
fn poll_to_the_last_answer(
    client: &Client,
    path: &str,
    connected: &AtomicUsize,
    answers: &AtomicUsize,
) {
    let socket = client.connect();
    connected.fetch_add(1, Ordering::Relaxed);
    let mut reader = BufReader::new(&socket);
    let request = format!("GET {API}{path} HTTP/1.1\r\nHost: h\r\nX-App-Session: me\r\n\r\n");
    loop {
        let sent = (&socket).write_all(request.as_bytes());
        sent.expect("the server still reads");
        let reply = Reply::read(&mut reader, "GET").expect(200);
        answers.fetch_add(1, Ordering::Relaxed);
        if reply.header("Connection") == Some("close") {
            return;
        }
    }
}

#[test]
fn under_load_the_stop_answers_everyone_and_tells_every_task() {
    let dir = TempDir::new();
    let variables = [
        FREE_PORT,
        ("AUDIT_LOG", "audit.log"),
        ("WORKER_THREADS", "4"),
    ];
    let mut process = Process::start(&dir, &variables);
    let client = process.client.session("me");
    let slow = json!({ "delayMs": 60_000 });
    let running: Vec<_> = (0..20)
        .map(|_| id_of(&client.post("/demo/tasks/sample", slow.clone()).expect(201)))
        .collect();
    for id in &running {
        client.wait_status(id, "running");
    }
    let done: Vec<_> = (0..20).map(|_| run_a_task(&client)).collect();
    let path = format!("/tasks/{}/status", running[0]);
    let (connected, answers) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stopping = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let streams: Vec<_> = running
            .iter()
            .map(|id| client.call("GET", &format!("/tasks/{id}/events")).open())
            .collect();
        let session = client.call("GET", "/tasks/events").open();
        let pollers: Vec<_> = (0..200)
            .map(|_| scope.spawn(|| poll_to_the_last_answer(&client, &path, &connected, &answers)))
            .collect();
        // And clients that make a connection each time.
        let newcomers = scope.spawn(|| {
            while !stopping.load(Ordering::SeqCst) {
                client.get(&path).expect(200);
            }
        });
        wait_until(|| {
            connected.load(Ordering::Relaxed) == 200 && answers.load(Ordering::Relaxed) > 1_000
        });
        stopping.store(true, Ordering::SeqCst);
        newcomers
            .join()
            .expect("no newcomer is left without an answer");
        process.signal("TERM");
        for mut stream in streams {
            let last = stream.events().pop().expect("events");
            assert_eq!(last.data["error"], "server stopped");
        }
        // To its last chunk.
        let mut session = session;
        session.events();
        for poller in pollers {
            poller.join().expect("every request has its answer");
        }
    });
    let (code, took) = process.ended();
    assert_eq!(code, Some(0), "{:?}", process.log());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let lines = json_lines(&dir.file("audit.log"));
    for id in &running {
        check_audit(&lines, id, "cancelled");
    }
    for id in &done {
        check_audit(&lines, id, "completed");
    }
}
