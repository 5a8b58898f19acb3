//! The file of `EXECUTORS`, and who may start what it names.

use serde_json::json;

use super::{Folder, is_alive, log, run, shell};
use crate::support::{
    FREE_PORT, Process, TempDir, TestServer, id_of, run as program, stderr, stdout, wait_until,
};

#[test]
fn check_tells_every_mistake_and_a_start_refuses_them() {
    let folder = Folder::new(&json!({
        "sample": shell("true"),
        "work": { "comand": "true", "graceMs": "5s" },
    }));
    let path = folder.path();
    for arguments in [&["--check"][..], &[]] {
        let output = program(
            &folder.dir,
            arguments,
            &[FREE_PORT, ("EXECUTORS", "executors.json")],
        );
        assert_eq!(output.status.code(), Some(2));
        let told = stderr(&output);
        for mistake in [
            "EXECUTORS=executors.json: sample is a type that the program has",
            "EXECUTORS=executors.json: work.comand is not known; did you mean command?",
            "EXECUTORS=executors.json: work.command is required",
        ] {
            assert!(told.contains(mistake), "{mistake} is not in {told}");
        }
    }
    folder.set(&json!({ "work": shell("true") }));
    let output = program(&folder.dir, &["--check"], &[("EXECUTORS", &*path)]);
    assert!(
        stdout(&output).starts_with("The configuration is valid."),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_type_of_the_embedding_program_is_not_replaced() {
    let folder = Folder::new(&json!({ "quick": shell("true") }));
    let started = std::panic::catch_unwind(|| folder.start(&[]));
    assert!(started.is_err(), "the tests' servers have a type quick");
}

#[test]
fn sighup_reads_the_file_anew_and_what_runs_goes_on() {
    let folder = Folder::new(&json!({
        "work": shell("echo before"),
        "long": shell("echo $$ >> pids; while [ ! -e go ]; do sleep 0.02; done; echo 'long before'"),
        "gone": { "command": "echo $$ >> gone; sleep 1000", "concurrency": 1 },
    }));
    let process = folder.start_process(&[("METRICS", "true")]);
    let client = &process.client;
    let long = client.run("long");
    let gone = [client.run("gone"), client.run("gone")];
    folder.wait_pids("pids", 1);
    folder.wait_pids("gone", 1);

    std::fs::write(folder.dir.file("executors.json"), "{").expect("written");
    process.signal("HUP");
    wait_until(|| process.has("[ERROR] The types of EXECUTORS stay as they were before"));
    assert!(
        process.has("executors.json: EOF while parsing"),
        "{:?}",
        process.log()
    );
    assert_eq!(log(client, &run(client, "work")), "before\n");

    folder.set(&json!({
        "work": shell("echo after"),
        "long": shell("echo 'long after'"),
        "new": { "command": "echo new", "concurrency": 7 },
    }));
    process.signal("HUP");
    wait_until(|| process.has("[INFO] The file of EXECUTORS was read anew: 3 types"));
    assert_eq!(log(client, &run(client, "work")), "after\n");
    assert_eq!(log(client, &run(client, "new")), "new\n");
    let refused = json!({ "name": "x", "type": "gone", "start": true });
    client
        .post("/tasks", refused)
        .expect_problem(400, "unknown_type");
    // What had begun goes on; what had not has nothing to run it any more.
    assert!(is_alive(folder.pids("gone")[0]));
    assert_eq!(client.task(&gone[0])["status"], "running");
    let failed = client.wait_status(&gone[1], "failed");
    assert_eq!(failed["error"], "no executor is registered for this type");
    std::fs::write(folder.dir.file("go"), "").expect("written");
    let task = client.wait_status(&long, "completed");
    assert_eq!(log(client, &task), "long before\n");
    let listed = client.get("/executors").expect(200).json();
    let new = listed["executors"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["type"] == "new");
    assert_eq!(new.expect("it is listed")["concurrency"], 7);
    // A type that has come is counted by its name from then on; one that has gone keeps its counts.
    let reply = client.call_exact("GET", "/metrics").send().expect(200);
    let metrics = String::from_utf8(reply.body.clone()).expect("UTF-8");
    for (line, value) in [
        ("created_total{type=\"new\"}", 1),
        ("created_total{type=\"gone\"}", 2),
    ] {
        let line = format!("task_system_tasks_{line} {value}\n");
        assert!(metrics.contains(&line), "{line} {metrics}");
    }
}

#[test]
fn a_limit_can_be_raised_and_lowered_while_the_server_runs() {
    let entry = |limit: u32| json!({ "work": { "command": "echo $$ >> pids; while [ ! -e go$TASK_NAME ]; do sleep 0.02; done", "concurrency": limit } });
    let folder = Folder::new(&entry(1));
    let process = folder.start_process(&[]);
    let run = |name: &str| {
        let body = json!({ "name": name, "type": "work", "start": true });
        id_of(&process.client.post("/tasks", body).expect(201))
    };
    let ids: Vec<_> = ["1", "2", "3", "4", "5"].map(run).to_vec();
    folder.wait_pids("pids", 1);
    folder.set(&entry(3));
    process.signal("HUP");
    folder.wait_pids("pids", 3);
    folder.set(&entry(1));
    process.signal("HUP");
    wait_until(|| {
        process
            .log()
            .iter()
            .filter(|line| line.contains("read anew"))
            .count()
            == 2
    });
    for done in ["1", "2"] {
        std::fs::write(folder.dir.file(&format!("go{done}")), "").expect("written");
    }
    process.client.wait_status(&ids[0], "completed");
    process.client.wait_status(&ids[1], "completed");
    assert_eq!(
        process.client.task(&ids[3])["status"],
        "pending",
        "one runs still"
    );
    for done in ["3", "4", "5"] {
        std::fs::write(folder.dir.file(&format!("go{done}")), "").expect("written");
    }
    for id in &ids {
        process.client.wait_status(id, "completed");
    }
}

const TOKEN: &str = "an operator's token";

fn with_token() -> (Folder, TestServer) {
    let folder = Folder::new(&json!({ "work": shell("exit 1") }));
    let server = folder.start(&[("EXECUTORS_TOKEN", TOKEN)]);
    (folder, server)
}

#[test]
fn tasks_of_commands_need_the_operators_token_where_there_is_one() {
    let (_folder, server) = with_token();
    let call = |path: &str, token: &str| {
        let call = server.call("POST", path);
        match token {
            "" => call,
            token => call.header("Authorization", &format!("Bearer {token}")),
        }
    };
    let typed = json!({ "name": "x", "type": "work" });
    let hidden = json!({ "name": "x", "metadata": { "type": "work" } });
    for body in [&typed, &hidden] {
        for token in ["", "wrong", "an operator's tokem"] {
            let refused = call("/tasks", token).json(body).send();
            let refused = refused.expect_problem(401, "unauthorized");
            assert_eq!(refused.header("WWW-Authenticate"), Some("Bearer"));
            assert!(refused.message().contains("EXECUTORS_TOKEN"));
        }
    }
    let id = id_of(&call("/tasks", TOKEN).json(&typed).send().expect(201));
    let act = |what: &str, token: &str| call(&format!("/tasks/{id}/{what}"), token).send();
    act("start", "").expect_problem(401, "unauthorized");
    act("start", TOKEN).expect(200);
    server.wait_status(&id, "failed");
    act("retry", "wrong").expect_problem(401, "unauthorized");
    act("retry", TOKEN).expect(200);
    server.wait_status(&id, "failed");
    // Other types are free, and a refusal creates nothing.
    server.run_to("quick", "completed");
    assert_eq!(server.total(), 2);
}

#[test]
fn an_open_listener_is_warned_of() {
    let folder = Folder::new(&json!({ "work": shell("true") }));
    let warning = "everybody there can start the commands of EXECUTORS";
    let open = folder.start_process(&[("HOST", "0.0.0.0")]);
    assert!(open.has(warning), "{:?}", open.log());
    for calm in [
        &[("HOST", "127.0.0.1")][..],
        &[("HOST", "0.0.0.0"), ("EXECUTORS_TOKEN", TOKEN)],
    ] {
        let process = folder.start_process(calm);
        assert!(!process.has(warning), "{:?}", process.log());
    }
    let without = Process::start(&TempDir::new(), &[FREE_PORT, ("HOST", "0.0.0.0")]);
    assert!(!without.has(warning));
}
