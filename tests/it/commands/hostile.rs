//! Commands whose output or behaviour would harm a server that trusts them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Folder, is_alive, log, run, shell};
use crate::support::wait_until;

fn logged(script: &str) -> (Value, String) {
    let folder = Folder::new(&json!({ "work": shell(script) }));
    let server = folder.start(&[]);
    let task = run(&server, "work");
    let text = log(&server, &task);
    (task, text)
}

#[test]
fn carriage_returns_end_lines() {
    let (task, text) = logged("printf '1%% a\\r50%% b\\r\\nx\\r'; sleep 0.1; exit 1");
    assert_eq!(
        (&task["progress"], &task["currentStep"]),
        (&json!(50), &json!("b"))
    );
    assert_eq!(text, "x\n");
}

#[test]
fn half_lines_are_put_together() {
    let (task, text) = logged(
        "printf '4'; sleep 0.1; printf '2%% ste'; sleep 0.1; printf 'p\\nha'; sleep 0.1; echo lf; exit 1",
    );
    assert_eq!(
        (&task["progress"], &task["currentStep"]),
        (&json!(42), &json!("step"))
    );
    assert_eq!(text, "half\n");
}

#[test]
fn invalid_utf8_and_binary_are_replaced() {
    let (task, text) = logged("head -c 2000 /dev/urandom; printf '\\na\\377b\\000c\\n'");
    assert_eq!(task["status"], "completed");
    assert!(text.ends_with("\na\u{fffd}bc\n"), "{text:?}");
}

#[test]
fn terminal_codes_are_left_out() {
    let (task, text) = logged(
        "printf '\\033[2K\\033[1;32m30%% Painting\\033[0m\\n\\033]0;title\\007plain\\n'; exit 1",
    );
    assert_eq!(
        (&task["progress"], &task["currentStep"]),
        (&json!(30), &json!("Painting"))
    );
    assert_eq!(text, "plain\n");
}

#[test]
fn huge_output_without_a_line_end_is_read_and_cut() {
    let (task, text) = logged("head -c 300000000 /dev/zero | tr '\\0' x; echo; echo end");
    assert_eq!(task["status"], "completed");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[1]), (2, "end"));
    assert!(lines[0].len() <= 8 * 1024 && lines[0].ends_with("x…"));
}

#[test]
fn a_flood_of_lines_leaves_room_for_others() {
    let folder = Folder::new(
        &json!({ "flood": shell("yes 'a line of a flood'"), "quick": shell("echo quick") }),
    );
    let path = folder.path();
    let variables = [("WORKER_THREADS", "1"), ("EXECUTORS", &*path)];
    // The type `quick` of the tests' own is not there, since this is the program.
    let process = folder.start_process(&variables);
    let client = &process.client;
    let floods: Vec<_> = (0..3).map(|_| client.run("flood")).collect();
    for id in &floods {
        client.wait_status(id, "running");
    }
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(log(client, &run(client, "quick")), "quick\n");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    for id in &floods {
        let dropped = || {
            let call = client.call("GET", &format!("/tasks/{id}/log"));
            let log = call.header("Accept", "application/json").send().json();
            log["dropped"].as_u64()
        };
        // Old lines leave.
        wait_until(|| dropped() > Some(0));
        client.act(&format!("/tasks/{id}/cancel")).expect(200);
    }
}

#[test]
fn many_different_steps_do_not_fill_the_store() {
    let script =
        "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); echo \"$((i % 100))% step $i\"; done";
    let folder = Folder::new(&json!({ "work": shell(script) }));
    let server = folder.start(&[("MAX_STORE_BYTES", "2097152")]);
    let task = run(&server, "work");
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!(
        run(&server, "work")["status"],
        "completed",
        "there is room for another"
    );
}

#[test]
fn one_that_closes_its_output_and_lives_on_is_waited_for() {
    let folder = Folder::new(
        &json!({ "work": shell("echo last; exec >&- 2>&-; echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done") }),
    );
    let server = folder.start(&[]);
    let id = server.run("work");
    let pid = folder.wait_pids("pid", 1)[0];
    assert_eq!(server.task(&id)["status"], "running");
    assert!(is_alive(pid));
    std::fs::write(folder.dir.file("go"), "").expect("written");
    server.wait_status(&id, "completed");
}

#[test]
fn one_that_never_reads_its_input_is_not_waited_for() {
    let types = json!({
        "deaf": shell("sleep 0.1; echo done"),
        "closes": shell("exec <&-; sleep 0.1; echo done"),
        "slow": shell("sleep 0.2; wc -c"),
    });
    let folder = Folder::new(&types);
    let server = folder.start(&[("MAX_BODY_BYTES", "2000000")]);
    let metadata = json!({ "text": "x".repeat(1_000_000) });
    for kind in ["deaf", "closes"] {
        let task = super::finish(&server, kind, &metadata);
        assert_eq!(
            (&task["status"], &*log(&server, &task)),
            (&json!("completed"), "done\n")
        );
    }
    let count = log(&server, &super::finish(&server, "slow", &metadata));
    let count: usize = count.trim().parse().expect("a number");
    assert!(count > 1_000_000, "all of it is read: {count}");
}

/// It leaves the group, so it is not killed; but nobody waits for it.
#[test]
fn a_grandchild_that_keeps_the_pipe_open_is_not_waited_for() {
    let script = "setsid sh -c 'echo $$ > pid; exec sleep 1000' & while [ ! -s pid ]; do sleep 0.01; done; echo done";
    let folder = Folder::new(&json!({ "work": shell(script) }));
    let server = folder.start(&[]);
    let begun = Instant::now();
    let task = run(&server, "work");
    assert_eq!(task["status"], "completed");
    assert_eq!(log(&server, &task), "done\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
    kill(folder.pids("pid")[0]);
}

/// Nor does its flood count.
#[test]
fn one_that_daemonizes_and_floods_is_not_read() {
    let script = "echo begun; setsid sh -c 'echo $$ > pid; exec yes daemon' & while [ ! -s pid ]; do sleep 0.01; done";
    let folder = Folder::new(&json!({ "work": shell(script) }));
    let server = folder.start(&[]);
    let task = run(&server, "work");
    assert_eq!(task["status"], "completed");
    // Without a reader it gets SIGPIPE.
    let pid = folder.pids("pid")[0];
    wait_until(|| !is_alive(pid));
}

#[test]
fn output_after_the_end_does_not_count_and_its_writer_is_ended() {
    let script = "sh -c 'echo $$ > pid; sleep 0.2; echo late; touch late; sleep 1000' & while [ ! -s pid ]; do sleep 0.01; done; echo early";
    let folder = Folder::new(&json!({ "work": shell(script) }));
    let server = folder.start(&[]);
    let task = run(&server, "work");
    assert_eq!(log(&server, &task), "early\n");
    assert!(
        !is_alive(folder.pids("pid")[0]),
        "the rest of the group ends with its leader"
    );
    assert!(!folder.dir.file("late").exists());
}

#[test]
fn processes_are_bounded_by_concurrency_also_while_they_end() {
    let script = "trap '' TERM; echo $$ >> pids; sleep 1000";
    let folder = Folder::new(&json!({
        "bomb": { "command": script, "concurrency": 3, "graceMs": 300 },
    }));
    let server = folder.start(&[("WORKER_THREADS", "4")]);
    let ids: Vec<_> = (0..20).map(|_| server.run("bomb")).collect();
    for round in 1..=4 {
        let pids = folder.wait_pids("pids", 3 * round);
        let alive = || pids.iter().filter(|pid| is_alive(**pid)).count();
        assert!(alive() <= 3, "{} run at once", alive());
        // They are called off, and three others begin when their processes have ended.
        for id in &ids {
            if server.task(id)["status"] == "running" {
                server.act(&format!("/tasks/{id}/cancel"));
            }
        }
        assert!(pids.len() <= 3 * round);
    }
    let listed = server.get("/executors").expect(200).json();
    assert!(listed["executors"][0]["running"].as_u64() <= Some(3));
}

pub(super) fn kill(pid: u32) {
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
}
