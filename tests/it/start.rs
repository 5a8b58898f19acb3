//! How a start, and `--check`, judge what they are given.

use std::net::TcpListener;
use std::process::Output;

use async_task_system::Config;

use crate::support::{FREE_PORT, Process, TempDir, run, stderr, stdout};

fn check(dir: &TempDir, variables: &[(&str, &str)]) -> Output {
    run(dir, &["--check"], variables)
}

/// The code and the one line of a start that is refused.
fn start(dir: &TempDir, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = run(dir, &[], variables);
    let text = stderr(&output);
    let lines = text.lines().filter(|line| line.starts_with("async-"));
    assert_eq!(lines.count(), 1, "one line: {text}");
    (output.status.code(), text)
}

#[test]
fn the_environments_own_names_do_not_stop_the_start() {
    let dir = TempDir::new();
    let foreign = ["HOSTS", "PORTS", "STORE", "METRIC", "SPORT"];
    let mut variables = vec![FREE_PORT];
    variables.extend(foreign.map(|name| (name, "theirs")));
    variables.push(("MAX_COMPLETED_TASK", "5"));
    let process = Process::start(&dir, &variables);
    for name in foreign {
        assert!(process.has(&format!("[WARN] {name} is not a variable")));
    }
    let meant =
        "MAX_COMPLETED_TASK is not a variable of this program: did you mean MAX_COMPLETED_TASKS?";
    assert_eq!(process.level_of(meant), "WARN");
    let said = stdout(&check(&dir, &variables));
    assert!(said.contains(meant), "{said}");
}

#[test]
fn a_misspelt_name_in_the_file_stops_the_start() {
    let dir = TempDir::new();
    std::fs::write(dir.file(".env"), "MAX_COMPLETED_TASK=5\n").expect("written");
    let (code, line) = start(&dir, &[FREE_PORT]);
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("did you mean MAX_COMPLETED_TASKS?"), "{line}");
}

#[test]
fn protection_that_is_not_there_stops_the_start() {
    let dir = TempDir::new();
    for (name, value, instead) in [
        ("AUTH_MODE", "full", "a login in a proxy"),
        ("IP_RESTRICTION_ENABLED", "true", "a firewall"),
        ("ALLOWED_IPS", "10.0.0.1", "HOST=127.0.0.1"),
        ("ALLOW_LOCAL_ADDRESSES", "true", "a firewall"),
        ("SESSION_HEADER", "X-Tenant", "X-App-Session"),
    ] {
        let (code, line) = start(&dir, &[FREE_PORT, (name, value)]);
        assert_eq!(code, Some(2), "{line}");
        assert!(line.contains(name) && line.contains(instead), "{line}");
        assert!(Config::from_pairs([(name, "")]).is_ok(), "{name}");
    }
    let asks_for_nothing = [
        ("AUTH_MODE", "none"),
        ("IP_RESTRICTION_ENABLED", "false"),
        ("SESSION_HEADER", "x-app-session"),
    ];
    Config::from_pairs(asks_for_nothing).expect("nothing is missing");
}

/// As the original's example has it.
#[test]
fn what_nothing_uses_is_not_judged() {
    let dir = TempDir::new();
    let text =
        "JWT_SECRET=short\nDATABASE_URL=postgresql://u:p@db:5432/x?schema=public\nLOG_LEVEL=INFO\n";
    std::fs::write(dir.file(".env"), text).expect("written");
    Process::start(&dir, &[FREE_PORT]);
    let good = check(&dir, &[]);
    assert!(good.status.success(), "{}", stderr(&good));
}

#[test]
fn check_and_start_name_every_mistake() {
    let dir = TempDir::new();
    let variables = [
        ("PORT", "80x"),
        ("MAX_SESSIONS", "abc"),
        ("METRICS", "on"),
        ("CORS_ALLOWED_ORIGINS", "app"),
        ("AUDIT_LOG", "/nowhere/a.log"),
    ];
    for arguments in [&[][..], &["--check"]] {
        let output = run(&dir, arguments, &variables);
        assert_eq!(output.status.code(), Some(2));
        let text = stderr(&output);
        let named = |name: &str| text.lines().filter(|line| line.contains(name)).count();
        for (name, _) in &variables[..4] {
            assert_eq!(named(name), 1, "{name}: {text}");
        }
        assert_eq!(named("AUDIT_LOG"), arguments.len(), "{text}");
    }
}

#[test]
fn check_refuses_what_a_start_would() {
    let dir = TempDir::new();
    for (name, value) in [
        ("AUDIT_LOG", "/nowhere/at/all/a.log"),
        ("AUDIT_LOG", "."),
        ("HOST", "no-such-host.invalid"),
        ("HOST", "300.1.1.1"),
        // For documentation only: no machine has it.
        ("HOST", "192.0.2.1"),
    ] {
        let output = check(&dir, &[FREE_PORT, (name, value)]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {text}");
        assert!(text.contains(name) && text.contains(value), "{text}");
    }
    let good = check(&dir, &[FREE_PORT, ("AUDIT_LOG", "audit.log")]);
    assert!(good.status.success(), "{}", stderr(&good));
    assert!(!dir.file("audit.log").exists(), "it leaves nothing behind");
}

#[test]
fn check_passes_while_the_server_runs() {
    let dir = TempDir::new();
    let process = Process::start(&dir, &[FREE_PORT]);
    let port = process.client.addr().port().to_string();
    let good = check(&dir, &[("PORT", &port)]);
    assert!(good.status.success(), "{}", stderr(&good));
}

#[test]
fn check_tells_what_may_be_a_mistake() {
    let dir = TempDir::new();
    let variables = [
        FREE_PORT,
        ("ENABLE_QUEUE", "true"),
        ("HEAD_TIMEOUT", "50000"),
        ("REQUEST_TIMEOUT", "1000"),
    ];
    let said = stdout(&check(&dir, &variables));
    let without = "ENABLE_QUEUE=true does nothing without STORAGE=sqlite or postgres";
    assert!(said.contains(without), "{said}");
    assert!(said.contains("HEAD_TIMEOUT is longer than"), "{said}");
    let process = Process::start(&dir, &variables);
    assert_eq!(process.level_of(without), "WARN");
}

/// The service manager is told to try again after 1, and not after 2.
#[test]
fn the_exit_code_says_whether_another_start_may_do_better() {
    let dir = TempDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (code, line) = start(&dir, &[("PORT", &port)]);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("set PORT to another"), "{line}");
    let (code, line) = start(&dir, &[FREE_PORT, ("HOST", "192.0.2.1")]);
    assert_eq!(code, Some(1), "{line}");
    for (name, value) in [
        ("HOST", "300.1.1.1"),
        ("AUDIT_LOG", "/nowhere/a.log"),
        ("AUDIT_LOG", "."),
    ] {
        let (code, line) = start(&dir, &[FREE_PORT, (name, value)]);
        assert_eq!(code, Some(2), "{line}");
        assert!(line.contains(value), "{line}");
    }
}

#[test]
fn a_start_that_fails_has_initialized_nothing() {
    let dir = TempDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (_, text) = start(&dir, &[("PORT", &port)]);
    assert!(!text.contains("initialized"), "{text}");
}

#[test]
fn the_log_says_that_the_task_system_is_off() {
    let dir = TempDir::new();
    let variables = [FREE_PORT, ("ENABLE_SESSION_ISOLATION", "false")];
    let process = Process::start(&dir, &variables);
    let off = "The Task System is off (ENABLE_SESSION_ISOLATION=false): its routes answer 503";
    assert_eq!(process.level_of(off), "WARN");
    assert!(
        !process.has("Task system initialized"),
        "{:?}",
        process.log()
    );
    let home = process
        .client
        .call_exact("GET", "/")
        .send()
        .expect(200)
        .text();
    assert!(home.contains("ENABLE_SESSION_ISOLATION=true"), "{home}");
    assert!(!home.contains("demo/tasks"), "{home}");
}
