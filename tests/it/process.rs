use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    FREE_PORT, Process, TempDir, id_of, json_lines, run, stderr, stdout, wait_until,
};

/// A refused start: its one line.
fn refused(dir: &TempDir, variables: &[(&str, &str)]) -> String {
    let output = run(dir, &[], variables);
    assert!(!output.status.success(), "{variables:?} starts");
    let text = stderr(&output);
    assert_eq!(text.trim_end().lines().count(), 1, "one line: {text}");
    assert_eq!(stdout(&output), "");
    text
}

/// `2025-08-12 05:56:10 [INFO] text`: the level, where the line has this form.
fn level(line: &str) -> Option<&str> {
    let (time, rest) = line.split_at_checked(19)?;
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let (level, text) = rest.strip_prefix(" [")?.split_once("] ")?;
    let known = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level);
    let is_plain = !text.is_empty() && !text.contains(char::is_control);
    (shape == "0000-00-00 00:00:00" && known && is_plain).then_some(level)
}

#[test]
fn help_names_every_variable_and_version_the_version() {
    let dir = TempDir::new();
    for flag in ["--help", "-h"] {
        let output = run(&dir, &[flag], &[]);
        assert!(output.status.success(), "{flag}");
        let text = stdout(&output);
        for name in [
            "--check",
            "--version",
            "PORT",
            "MAX_SESSIONS",
            "AUDIT_LOG",
            "TRUSTED_PROXIES",
            "WORKER_THREADS",
            "MAX_STORE_BYTES",
            "ENABLE_SESSION_ISOLATION",
            "STORAGE",
        ] {
            assert!(text.contains(name), "{name} is missing: {text}");
        }
    }
    let output = run(&dir, &["--version"], &[]);
    assert!(output.status.success());
    assert!(stdout(&output).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_works_even_where_the_configuration_does_not() {
    let dir = TempDir::new();
    for flag in ["--help", "--version"] {
        assert!(
            run(&dir, &[flag], &[("PORT", "x")]).status.success(),
            "{flag}"
        );
    }
}

#[test]
fn an_unknown_argument_is_refused_by_name() {
    let dir = TempDir::new();
    let output = run(&dir, &["--chekc"], &[FREE_PORT]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("--chekc"), "{}", stderr(&output));
}

#[test]
fn check_validates_the_configuration_and_exits() {
    let dir = TempDir::new();
    let good = run(&dir, &["--check"], &[("PORT", "8080")]);
    assert!(good.status.success(), "{}", stderr(&good));
    let bad = run(&dir, &["--check"], &[("MAX_SESSIONS", "none")]);
    assert!(!bad.status.success());
    assert!(stderr(&bad).contains("MAX_SESSIONS"), "{}", stderr(&bad));
}

#[test]
fn a_bad_value_stops_the_start_with_one_line() {
    let dir = TempDir::new();
    for (name, value, allowed) in [
        ("PORT", "65536", "65535"),
        ("SESSION_TIMEOUT", "99", "100"),
        ("METRICS", "maybe", "true"),
        ("MAX_STORE_BYTES", "1000", "1048576"),
    ] {
        let text = refused(&dir, &[FREE_PORT, (name, value)]);
        for part in [name, value, allowed] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
    let forged = refused(
        &dir,
        &[("LOG_LEVEL", "x\n2025-08-12 05:56:10 [INFO] forged")],
    );
    assert!(forged.contains("LOG_LEVEL"), "{forged}");
}

#[test]
fn a_port_in_use_stops_the_start() {
    let dir = TempDir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = run(&dir, &[], &[("PORT", &port)]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains(&port), "{}", stderr(&output));
}

#[test]
fn the_env_file_is_read_and_the_environment_wins() {
    let dir = TempDir::new();
    let text = "PORT=0\n# comment\nMAX_COMPLETED_TASKS=7\nMAX_FAILED_TASKS=8\n";
    std::fs::write(dir.file(".env"), text).expect("the file can be written");
    let process = Process::start(&dir, &[("MAX_FAILED_TASKS", "9")]);
    let reply = process
        .client
        .get("/tasks/cleanup/status")
        .expect(200)
        .json();
    let options = &reply["status"]["options"];
    assert_eq!(options["maxCompletedTasks"], 7);
    assert_eq!(options["maxFailedTasks"], 9);
}

#[test]
fn check_names_what_in_the_env_file_does_nothing() {
    let dir = TempDir::new();
    let text = "PORT=0\nREDIS_URL=redis://cache\nMAX_CONCURRENT_TASKS=4\n";
    std::fs::write(dir.file(".env"), text).expect("the file can be written");
    let output = run(&dir, &["--check"], &[("FOO", "not of the file")]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    let named = |name| said.contains(&format!("{name} in .env is not a variable"));
    assert!(
        named("REDIS_URL") && named("MAX_CONCURRENT_TASKS"),
        "{said}"
    );
    assert!(!named("PORT") && !named("FOO"), "{said}");
}

#[test]
fn mistakes_in_the_env_file_stop_the_start_too() {
    let dir = TempDir::new();
    for (text, named) in [
        ("MAX_SESSIONS=0\n", "MAX_SESSIONS"),
        ("MAX_COMPLETED_TASK=5\n", "MAX_COMPLETED_TASKS"),
        ("what is this\n", ".env"),
    ] {
        std::fs::write(dir.file(".env"), text).expect("the file can be written");
        let line = refused(&dir, &[FREE_PORT]);
        assert!(line.contains(named), "{line}");
    }
}

#[test]
fn the_example_file_starts_the_binary() {
    let dir = TempDir::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example");
    std::fs::copy(example, dir.file(".env")).expect("the file can be copied");
    let process = Process::start(&dir, &[FREE_PORT]);
    process.client.get("/health").expect(200);
}

#[test]
fn a_signal_cancels_what_runs_and_ends_the_process_well() {
    for signal in ["TERM", "INT"] {
        let dir = TempDir::new();
        let variables = [
            FREE_PORT,
            ("AUDIT_LOG", "audit.log"),
            ("WORKER_THREADS", "2"),
        ];
        let mut process = Process::start(&dir, &variables);
        let client = process.client.session("me");
        let sample = || id_of(&client.post("/demo/tasks/sample", json!({})).expect(201));
        let running: Vec<_> = (0..3).map(|_| sample()).collect();
        for id in &running {
            client.wait_status(id, "running");
        }
        let pending = client.create(json!({ "name": "n" }));
        let done = json!({ "delayMs": 0 });
        let done = id_of(&client.post("/demo/tasks/sample", done).expect(201));
        client.wait_status(&done, "completed");
        let idle = client.connect();
        process.signal(signal);
        let (code, took) = process.ended();
        drop(idle);
        assert_eq!(code, Some(0), "{signal}: {:?}", process.log());
        assert!(took < Duration::from_secs(5), "{signal}: {took:?}");
        let audit = json_lines(&dir.file("audit.log"));
        let last = |id: &str| {
            let mut lines = audit.iter().rev();
            lines
                .find(|line| line["taskId"] == id)
                .expect("an entry")
                .clone()
        };
        for id in &running {
            let line = last(id);
            assert_eq!(line["event"], "cancelled", "{line}");
            assert_eq!(line["status"], "cancelled", "{line}");
            assert_eq!(line["message"], "server stopped", "{line}");
            assert_eq!(line["sessionKey"], "me", "{line}");
        }
        assert_eq!(last(&pending)["event"], "created");
        assert_eq!(last(&done)["event"], "completed");
        for id in running.iter().chain([&pending, &done]) {
            let own = audit.iter().filter(|line| line["taskId"] == **id);
            for (place, line) in own.enumerate() {
                assert_eq!(line["seq"], place + 1, "no gap: {line}");
            }
        }
    }
}

#[test]
fn a_second_signal_ends_a_stop_that_takes_its_time() {
    let dir = TempDir::new();
    let mut process = Process::start(&dir, &[FREE_PORT]);
    // A request in hand, whose body does not come.
    let mut stream = process.client.connect();
    let head = "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{";
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    process.signal("TERM");
    wait_until(|| process.has("[INFO] Stopping"));
    process.signal("INT");
    let (code, took) = process.ended();
    assert_eq!(code, Some(1), "{:?}", process.log());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(process.has("[WARN] A second signal"), "{:?}", process.log());
    assert!(!process.has("Stopped"), "{:?}", process.log());
}

#[test]
fn no_refused_start_repeats_a_secret() {
    let dir = TempDir::new();
    let url = "postgres://hugo:hunter2@db.example/jobs";
    let env = format!("DATABASE_URL={url} and more\n");
    let mut lines = vec![refused(&dir, &[FREE_PORT, ("STORAGE", url)])];
    std::fs::write(dir.file(".env"), env).expect("the file can be written");
    lines.push(refused(&dir, &[FREE_PORT]));
    for line in lines {
        assert!(
            !line.contains("hunter2") && !line.contains("hugo"),
            "{line}"
        );
    }
}

#[test]
fn the_log_tells_a_tasks_life_at_the_right_levels() {
    let dir = TempDir::new();
    let process = Process::start(&dir, &[FREE_PORT, ("LOG_LEVEL", "debug")]);
    let client = process.client.session("me");
    let good = json!({ "delayMs": 10 });
    let good = id_of(&client.post("/demo/tasks/sample", good).expect(201));
    client.wait_status(&good, "completed");
    let bad = json!({ "delayMs": 10, "failAt": 50 });
    let bad = id_of(&client.post("/demo/tasks/sample", bad).expect(201));
    let reason = client.wait_status(&bad, "failed")["error"].clone();
    let start = format!("Starting execution of task {good} for session me");
    let end = format!("Completed execution of task {good} for session me");
    assert_eq!(process.level_of(&start), "INFO");
    assert_eq!(process.level_of(&end), "INFO");
    assert_eq!(
        process.level_of(&format!("Task {good} progress: 50%")),
        "DEBUG"
    );
    assert_eq!(
        process.level_of("Task system initialized successfully"),
        "INFO"
    );
    assert_eq!(process.level_of(reason.as_str().expect("a reason")), "WARN");
    let log = process.log();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("Task system initialized successfully"), 1);
    assert_eq!((count(&start), count(&end)), (1, 1));
    for line in &log {
        assert!(level(line).is_some(), "not a log line: {line:?}");
    }
}

#[test]
fn progress_is_not_logged_where_debug_is_not_asked_for() {
    let dir = TempDir::new();
    let mut process = Process::start(&dir, &[FREE_PORT]);
    let body = json!({ "delayMs": 10 });
    let id = id_of(&process.client.post("/demo/tasks/sample", body).expect(201));
    process.client.wait_status(&id, "completed");
    process.signal("TERM");
    process.ended();
    assert!(process.has("Completed execution of task"));
    assert!(!process.has("progress: "), "{:?}", process.log());
}

#[test]
fn nothing_that_a_client_sends_can_forge_a_log_line() {
    let dir = TempDir::new();
    let mut process = Process::start(&dir, &[FREE_PORT, ("LOG_LEVEL", "trace")]);
    let client = &process.client;
    let forged = "2025-08-12 05:56:10 [INFO] forged";
    let nasty = format!("x\n{forged}\r{forged}\u{1b}[2J\u{0}\u{7f}\u{85}\u{2028}{forged}");
    let body = json!({
        "name": nasty, "description": nasty, "metadata": { "a": nasty, "type": nasty },
        "start": true,
    });
    client.post("/tasks", body).expect(201);
    let body = json!({ "name": "n", "type": nasty });
    client.post("/tasks", body).expect(400);
    let step = json!({ "name": nasty, "description": nasty, "durationMs": 1 });
    let body = json!({ "name": nasty, "description": nasty, "steps": [step], "failAt": 0 });
    client.post("/demo/tasks/workflow", body);
    let body = json!({ "filePath": nasty, "processingType": nasty, "speed": 1000, "failAt": 50 });
    client.post("/demo/tasks/file-processing", body);
    let body = json!({ "endpoint": nasty, "method": "GET", "speed": 1000, "failAt": 50 });
    client.post("/demo/tasks/api-call", body);
    let field: Value =
        serde_json::from_str(r#"{"\n2025-08-12 05:56:10 [INFO] forged":1}"#).expect("an object");
    client.post("/tasks", field).expect(400);
    let escaped = "%0A2025-08-12%2005:56:10%20%5BINFO%5D%20forged";
    for target in [
        format!("/{escaped}"),
        format!("/api/v1/tasks/{escaped}"),
        format!("/api/v1/tasks?session={escaped}"),
        format!("/api/v1/tasks?status={escaped}&cursor={escaped}"),
    ] {
        client.call_exact("GET", &target).send();
    }
    let header = "x\t\u{1b}[31m2025-08-12 05:56:10 [INFO] forged";
    for name in [
        "X-Request-Id",
        "X-App-Session",
        "Idempotency-Key",
        "X-Forwarded-For",
        "Cookie",
    ] {
        let mut stream = client.connect();
        let request = format!("GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\n{name}: {header}\r\n");
        let request = format!("{request}Connection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            !answer.contains('\u{1b}'),
            "{name} comes back raw: {answer}"
        );
    }
    client.get("/health").expect(200);
    wait_until(|| {
        let stats = client.get("/tasks/stats").json()["stats"].clone();
        stats["failed"].as_u64().unwrap_or_default() >= 2
    });
    process.signal("TERM");
    process.ended();
    for line in process.log() {
        assert!(level(&line).is_some(), "not a log line: {line:?}");
        assert!(!line.starts_with(forged), "forged: {line:?}");
    }
}
