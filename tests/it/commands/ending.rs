//! How commands end: cancels, time limits, the stop, and a server that is killed.

use std::time::{Duration, Instant};

use serde_json::json;

use super::hostile::kill;
use super::{Folder, error, is_alive, is_there, shell};
use crate::support::{Client, Process, wait_until};

/// A tree of three generations, of which each has written its number into `pids`.
fn tree(before: &str) -> String {
    format!(
        "{before}; sh -c '{before}; sh -c \"{before}; echo \\$\\$ >> pids; sleep 1000 & wait\" & echo $$ >> pids; wait' & echo $$ >> pids; wait"
    )
}

fn cancel(client: &Client, id: &str) -> Instant {
    client.act(&format!("/tasks/{id}/cancel")).expect(200);
    Instant::now()
}

/// The descendants of a command are not the server's children: that they are waited for is the system's matter.
fn none_is_alive(pids: &[u32]) -> bool {
    !pids.iter().any(|pid| is_alive(*pid))
}

/// The children of a process, by name.
fn children(process: &Process) -> Vec<(u32, String)> {
    let of = process.pid().to_string();
    let found = std::process::Command::new("ps")
        .args(["-o", "pid=,args=", "--ppid", &of])
        .output();
    let text = String::from_utf8(found.expect("ps runs").stdout).expect("text");
    let read = |line: &str| {
        let (pid, name) = line.trim().split_once(' ')?;
        Some((pid.parse().ok()?, name.to_owned()))
    };
    text.lines().filter_map(read).collect()
}

fn guardian(process: &Process) -> Option<u32> {
    let mut shells = children(process).into_iter();
    shells
        .find(|(_, name)| name.contains("async-task-system-guardian"))
        .map(|(pid, _)| pid)
}

#[test]
fn a_cancel_ends_a_tree_of_three_generations() {
    let folder = Folder::new(&json!({ "tree": shell(&tree(":")) }));
    let server = folder.start(&[]);
    let id = server.run("tree");
    let pids = folder.wait_pids("pids", 3);
    let since = cancel(&server, &id);
    wait_until(|| none_is_alive(&pids));
    // None of them catches SIGTERM, so nothing waits for the grace of 5 s.
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn a_tree_that_ignores_sigterm_is_killed_after_the_grace() {
    let types = json!({ "tree": { "command": tree("trap \"\" TERM"), "graceMs": 700 } });
    let folder = Folder::new(&types);
    let server = folder.start(&[]);
    let id = server.run("tree");
    let pids = folder.wait_pids("pids", 3);
    let since = cancel(&server, &id);
    while since.elapsed() < Duration::from_millis(500) {
        assert!(pids.iter().all(|pid| is_alive(*pid)), "it has its grace");
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_until(|| none_is_alive(&pids));
    assert!(
        since.elapsed() < Duration::from_millis(700 + 500),
        "{:?}",
        since.elapsed()
    );
}

/// What the shell has started has the grace too, though the shell itself ends at once, and may say much.
#[test]
fn a_goodbye_is_waited_for_though_the_leader_is_gone() {
    let inner = "trap 'head -c 300000 /dev/zero; sleep 0.3; touch bye; exit' TERM; echo $$ >> pids; while :; do sleep 0.05; done";
    let loud = format!("cd .; sh -c \"{}\"; true", inner.replace('$', "\\$"));
    let quiet = format!(
        "sh -c \"{}\" >/dev/null 2>&1; true",
        inner.replace('$', "\\$")
    );
    for script in [loud, quiet] {
        let folder = Folder::new(&json!({ "polite": { "command": script, "graceMs": 20_000 } }));
        let server = folder.start(&[]);
        let id = server.run("polite");
        let pids = folder.wait_pids("pids", 1);
        let since = cancel(&server, &id);
        wait_until(|| folder.dir.file("bye").exists());
        wait_until(|| none_is_alive(&pids));
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "{:?}",
            since.elapsed()
        );
    }
}

#[test]
fn a_time_limit_of_the_type_or_of_the_task_ends_it() {
    let types = json!({ "slow": { "command": "echo $$ >> pids; sleep 1000", "timeoutMs": 200 } });
    let folder = Folder::new(&types);
    let server = folder.start(&[]);
    for (limit, why) in [
        (100, "timed out after 100 ms"),
        (60_000, "timed out after 200 ms"),
    ] {
        let body = json!({ "name": "x", "type": "slow", "start": true, "timeoutMs": limit });
        let task = server.wait_status(&server.create(body), "failed");
        assert_eq!(error(&task), why);
    }
    let pids = folder.wait_pids("pids", 2);
    wait_until(|| none_is_alive(&pids));
}

#[test]
fn the_stop_ends_commands_also_those_that_ignore_it() {
    let types = json!({
        "deaf": { "command": "trap '' TERM; echo $$ >> pids; sleep 1000", "graceMs": 60_000 },
        "plain": shell("echo $$ >> pids; sleep 1000"),
        "polite": shell("trap 'touch bye; exit' TERM; echo $$ >> pids; while :; do sleep 0.05; done"),
    });
    let folder = Folder::new(&types);
    let mut process = folder.start_process(&[]);
    for kind in ["deaf", "plain", "polite"] {
        process.client.run(kind);
    }
    let pids = folder.wait_pids("pids", 3);
    let guardian = guardian(&process).expect("there is one");
    process.signal("TERM");
    let (code, took) = process.ended();
    assert_eq!(code, Some(0), "{:?}", process.log());
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(
        none_is_alive(&pids) && !is_there(guardian),
        "nothing is left"
    );
    assert!(folder.dir.file("bye").exists());
    let sick = |line: &&String| line.contains("[ERROR]") || line.contains("left behind");
    assert_eq!(process.log().iter().find(sick), None);
}

#[test]
fn a_library_that_stops_leaves_nothing() {
    let folder = Folder::new(&json!({ "plain": shell("echo $$ >> pids; sleep 1000 & wait") }));
    let server = folder.start(&[]);
    for _ in 0..5 {
        server.run("plain");
    }
    let pids = folder.wait_pids("pids", 5);
    server.stop();
    assert!(none_is_alive(&pids));
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_server_takes_its_commands_with_it() {
    let folder = Folder::new(&json!({
        "tree": shell(&tree("trap '' HUP TERM")),
        "short": shell("echo $$ >> short"),
    }));
    let mut process = folder.start_process(&[]);
    for _ in 0..3 {
        process.client.run("tree");
        process.client.run_to("short", "completed");
    }
    let pids = folder.wait_pids("pids", 9);
    let first = guardian(&process).expect("there is one");
    // The guardian may be killed before: another takes its place, and knows the groups.
    kill(first);
    wait_until(|| guardian(&process).is_some_and(|other| other != first));
    process.client.run("tree");
    let pids = [pids, folder.wait_pids("pids", 12)].concat();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    process.signal("KILL");
    process.ended();
    wait_until(|| !pids.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn a_retry_waits_until_the_process_of_the_attempt_before_has_ended() {
    let script = "trap 'sleep 0.4; rm lock; exit 1' TERM; mkdir lock || exit 7; echo $$ >> pids; while :; do sleep 0.02; done";
    let types =
        json!({ "one": { "command": script.replace("rm lock", "rmdir lock"), "concurrency": 1 } });
    let folder = Folder::new(&types);
    let server = folder.start(&[]);
    let id = server.run("one");
    for round in 1..4 {
        folder.wait_pids("pids", round);
        cancel(&server, &id);
        server.act(&format!("/tasks/{id}/retry")).expect(200);
    }
    folder.wait_pids("pids", 4);
    assert_eq!(
        server.task(&id)["status"],
        "running",
        "no attempt found the lock"
    );
}

#[test]
fn a_removed_session_takes_its_commands_with_it() {
    let folder = Folder::new(&json!({ "long": shell("echo $$ >> pids; sleep 1000") }));
    let server = folder.start(&[]);
    let client = server.session("gone");
    client.run("long");
    let pids = folder.wait_pids("pids", 1);
    client.call("DELETE", "/session").send().expect(204);
    wait_until(|| none_is_alive(&pids));
}
