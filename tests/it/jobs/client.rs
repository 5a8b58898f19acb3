use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use async_task_system::{ExecutorRegistry, Outcome, TaskContext, TaskInput};
use serde_json::json;

use super::{Db, User, token};
use crate::client::{is, program};
use crate::support::{Gate, stderr};

on_both! {
    jobs_are_started_and_followed_over_a_restart
    exec_shows_a_command_as_a_job_of_a_user
}

fn exec_shows_a_command_as_a_job_of_a_user(db: &Db) {
    const WORKERS: &str = "a token of workers";
    let server = db.serve_with(&[("WORKER_TOKEN", WORKERS)], |_| {});
    let alice = User::of(&server, "alice");
    let exec = |user: &str, script: &str| -> Output {
        let words = [
            "exec",
            "--user",
            user,
            "--name",
            "Nightly backup",
            "--",
            "sh",
            "-c",
            script,
        ];
        let mut command = program(server.addr(), &words);
        command.env("ATS_TOKEN", WORKERS).output().expect("it runs")
    };
    assert_eq!(
        is(&exec("alice", "echo '45% Copying'; echo 12 files"), 0),
        "45% Copying\n12 files\n"
    );
    let done = alice.wait("latest", "completed");
    assert_eq!(
        (&done["type"], &done["attempts"]),
        (&json!("exec"), &json!(1))
    );
    let log = alice.get("/jobs/latest/log").expect(200);
    assert_eq!(log.text(), "12 files\n");
    is(&exec("alice", "echo 'no disk' >&2; exit 3"), 3);
    assert_eq!(
        alice.wait("latest", "failed")["error"]["message"],
        "no disk"
    );
    // The command runs also where its job is refused.
    let refused = exec("", "echo all the same");
    assert_eq!(is(&refused, 0), "all the same\n");
    assert!(
        stderr(&refused).contains("user must be"),
        "{}",
        stderr(&refused)
    );
}

/// `talks` logs a line in each slice until the gate opens.
fn register(registry: &mut ExecutorRegistry, gate: &Gate) {
    let gate = gate.clone();
    registry.register("talks", move |_: &TaskInput| {
        let (gate, mut n) = (gate.clone(), 0);
        Ok(move |ctx: &mut TaskContext<'_>| {
            n += 1;
            ctx.log(&format!("line {n}"))?;
            Ok(match gate.is_open() {
                true => Outcome::Done(None),
                false => Outcome::Again(Duration::from_millis(5)),
            })
        })
    });
}

fn jobs_are_started_and_followed_over_a_restart(db: &Db) {
    let gate = Gate::default();
    let serve = |port: &str| db.serve_with(&[("PORT", port)], |registry| register(registry, &gate));
    let server = serve("0");
    let address = server.addr();
    let with_token = |words: &[&str]| -> Command {
        let mut command = program(address, words);
        command.arg("--jobs").env("ATS_TOKEN", token("alice", None));
        command
    };
    let run = |words: &[&str]| with_token(words).output().expect("it runs");
    let id = is(&run(&["run", "talks", "n=1"]), 0).trim().to_owned();
    let mut waiting = with_token(&["wait", "latest"]).spawn().expect("it runs");
    let mut following = with_token(&["logs", "latest", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut followed = BufReader::new(following.stdout.take().expect("a pipe"));
    let mut first = String::new();
    followed.read_line(&mut first).expect("a line");
    assert_eq!(first, "line 1\n");

    drop(server);
    let _server = serve(&address.port().to_string());
    gate.open();
    let mut rest = String::new();
    followed.read_to_string(&mut rest).expect("text");
    assert!(following.wait().expect("it ends").success());
    assert!(waiting.wait().expect("it ends").success());
    assert_eq!(
        first + &rest,
        is(&run(&["logs", &id]), 0),
        "nothing is lost or told twice"
    );

    let watched = is(&run(&["watch", "latest"]), 0);
    assert!(watched.ends_with("100 %  completed\n"), "{watched}");
    let list = is(&run(&["ls"]), 0);
    assert!(
        list.contains(&id) && list.contains("completed") && list.contains("talks"),
        "{list}"
    );
    is(&run(&["cancel", &id]), 1);
    let slow = is(&run(&["run", "sample", "delayMs=60000"]), 0);
    let slow = slow.trim();
    assert_eq!(
        is(&run(&["cancel", slow]), 0),
        format!("{slow} cancelled\n")
    );
    is(&run(&["wait", slow, &id]), 3);
    assert_eq!(is(&run(&["retry", slow]), 0), format!("{slow} pending\n"));
    is(&run(&["cancel", slow]), 0);
    let wrong = run(&["run", "tlaks"]);
    is(&wrong, 2);
    assert!(stderr(&wrong).contains("talks"), "{}", stderr(&wrong));
    is(
        &program(address, &["ls", "--jobs"])
            .output()
            .expect("it runs"),
        2,
    );
}
