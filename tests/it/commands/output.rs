//! What a command is given, and what becomes of its output.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Folder, error, finish, log, run, shell};
use crate::support::pluck;

#[test]
fn output_becomes_progress_log_and_result() {
    let script = r#"
        echo '10% Reading'; echo a line; echo '{"progress": 55.5, "description": "half", "log": "said"}'
        echo 'to err' >&2; echo '70 %'; echo '30% Going back'
        echo '{"result": {"first": 1}}'; echo '{"result": {"rows": 3}}'; printf 'no end'
    "#;
    let folder = Folder::new(&json!({ "work": shell(script) }));
    let server = folder.start(&[]);
    let task = run(&server, "work");
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!(task["result"], json!({ "rows": 3 }));
    assert_eq!(task["progress"], 100);
    let id = task["id"].as_str().expect("an id");
    let history = server.history(id);
    let told: Vec<_> = history
        .iter()
        .map(|event| (event["progress"].clone(), event["step"].clone()))
        .filter(|(_, step)| !step.is_null())
        .collect();
    let at = |percent: u64, step: &str| (json!(percent), json!(step));
    for one in [at(10, "Reading"), at(55, "Reading"), at(70, "Going back")] {
        assert!(told.contains(&one), "{one:?} is not in {told:?}");
    }
    let call = server.call("GET", &format!("/tasks/{id}/log"));
    let log = call.header("Accept", "application/json").send().json();
    let lines = log["lines"].as_array().expect("a list");
    let mut said: Vec<_> = pluck(lines, "stream")
        .into_iter()
        .zip(pluck(lines, "text"))
        .collect();
    let err = said
        .iter()
        .position(|(stream, _)| stream == "err")
        .expect("a line");
    assert_eq!(said.remove(err).1, "to err");
    let expected = [("out", "a line"), ("log", "said"), ("out", "no end")];
    assert_eq!(
        said,
        expected.map(|(stream, text)| (stream.to_owned(), text.to_owned()))
    );
}

#[test]
fn a_command_gets_its_document_and_a_small_environment() {
    let types = json!({
        "document": shell("printf '{\"result\":%s}' \"$(cat)\""),
        "environment": { "command": ["env"], "env": { "QUALITY": "80", "TZ": "UTC" } },
        "arguments": { "command": ["printf", "%s\n", "a b", "$HOME", "*"] },
    });
    let folder = Folder::new(&types);
    let secrets = [
        ("JWT_SECRET", "a secret of the tests, long enough"),
        ("HOME", "/home/x"),
        ("LC_TIME", "C"),
        ("TZ", "Asia/Tokyo"),
        ("OTHER", "x"),
    ];
    let process = folder.start_process(&secrets);
    let client = process.client.session("me");
    let metadata = json!({ "width": 200, "evil": "$(touch /tmp/x) `id` \"; rm" });
    let task = finish(&client, "document", &metadata);
    let id = &task["id"];
    let expected = json!({
        "id": id, "type": "document", "name": "document", "attempt": 1, "session": "me", "input": metadata,
    });
    assert_eq!(task["result"], expected, "{task}");

    let body = json!({ "name": "a\nb", "type": "environment", "start": true });
    let id = client.create(body);
    client.wait_status(&id, "completed");
    let said = log(&client, &client.task(&id));
    let names: BTreeSet<&str> = said
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    let expected = [
        "HOME",
        "LC_TIME",
        "PATH",
        "QUALITY",
        "TASK_ATTEMPT",
        "TASK_ID",
        "TASK_NAME",
        "TASK_TYPE",
        "TZ",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    for line in [
        "TZ=UTC",
        "QUALITY=80",
        "TASK_TYPE=environment",
        "TASK_ATTEMPT=1",
        "TASK_NAME=a",
    ] {
        assert!(said.lines().any(|l| l == line), "{line} is not in {said}");
    }
    assert_eq!(log(&client, &run(&client, "arguments")), "a b\n$HOME\n*\n");
}

#[test]
fn a_command_runs_in_the_folder_of_the_file_or_its_own() {
    let types = json!({
        "here": shell("pwd"),
        "there": { "command": ["./here.sh"], "cwd": "work" },
    });
    let folder = Folder::new(&json!({}));
    let work = folder.dir.file("work");
    std::fs::create_dir(&work).expect("made");
    std::fs::write(work.join("here.sh"), "#!/bin/sh\npwd\n").expect("written");
    let status = std::process::Command::new("chmod")
        .arg("+x")
        .arg(work.join("here.sh"))
        .status();
    assert!(status.expect("chmod runs").success());
    folder.set(&types);
    let server = folder.start(&[]);
    let real = std::fs::canonicalize(folder.dir.path()).expect("it is there");
    assert_eq!(
        log(&server, &run(&server, "here")).trim(),
        real.display().to_string()
    );
    let there = log(&server, &run(&server, "there"));
    assert_eq!(there.trim(), real.join("work").display().to_string());
}

#[cfg(all(target_os = "linux", not(portable)))]
#[test]
fn no_descriptor_of_the_server_reaches_a_command() {
    let folder = Folder::new(&json!({
        "list": { "command": ["ls", "-l", "/proc/self/fd"] },
        "wait": shell("sleep 1000"),
    }));
    let process = folder.start_process(&[("AUDIT_LOG", "audit.log")]);
    let waits: Vec<_> = (0..5).map(|_| process.client.run("wait")).collect();
    for id in &waits {
        process.client.wait_status(id, "running");
    }
    let listed = log(&process.client, &run(&process.client, "list"));
    let links: Vec<_> = listed
        .lines()
        .filter(|line| line.contains(" -> "))
        .collect();
    // Its own three, and the folder that it lists.
    assert_eq!(links.len(), 4, "{listed}");
    assert_eq!(
        links.iter().filter(|link| link.contains("pipe:[")).count(),
        3,
        "{listed}"
    );
    assert!(links[3].contains("/proc/"), "{listed}");
}

#[test]
fn a_failure_says_why_in_the_commands_own_words() {
    let folder = Folder::new(&json!({
        "reported": shell("echo '{\"error\": \"no such page\"}'; echo noise >&2; exit 1"),
        "last-line": shell("echo first >&2; echo; echo 'the disk is full' >&2; echo out; exit 1"),
        "status": shell("exit 3"),
        "signal": shell("kill -9 $$"),
        "missing": { "command": ["nonesuch-program", "x"] },
        "no-interpreter": { "command": ["./script"] },
        "not-executable": { "command": ["./executors.json"] },
        "reported-yet-done": shell("echo '{\"error\": \"never mind\"}'"),
    }));
    let server = folder.start(&[]);
    for (kind, why) in [
        ("reported", "no such page"),
        ("last-line", "the disk is full"),
        ("status", "exit status 3"),
        ("signal", "killed by signal 9"),
        ("missing", "the program nonesuch-program is not there"),
        ("no-interpreter", "the program ./script is not there"),
    ] {
        assert_eq!(error(&run(&server, kind)), why, "{kind}");
    }
    let why = run(&server, "not-executable");
    assert!(
        error(&why).starts_with("the program ./executors.json cannot be run: "),
        "{why}"
    );
    assert_eq!(run(&server, "reported-yet-done")["status"], "completed");
}

#[test]
fn a_folder_that_is_gone_is_told_from_a_program_that_is() {
    let folder = Folder::new(&json!({}));
    std::fs::create_dir(folder.dir.file("work")).expect("made");
    folder.set(&json!({ "work": { "command": "true", "cwd": "work" } }));
    let server = folder.start(&[]);
    assert_eq!(run(&server, "work")["status"], "completed");
    std::fs::remove_dir(folder.dir.file("work")).expect("removed");
    let task = run(&server, "work");
    assert!(
        error(&task).ends_with("work of /bin/sh is not there"),
        "{task}"
    );
}

#[test]
fn a_result_may_be_as_long_as_max_result_bytes_and_no_longer() {
    let script = |size: u32| {
        shell(&format!(
            "printf '{{\"result\": \"'; head -c {size} /dev/zero | tr '\\0' x; printf '\"}}\\n'"
        ))
    };
    let folder = Folder::new(&json!({ "fits": script(60_000), "too-long": script(70_000) }));
    let server = folder.start(&[]);
    let task = run(&server, "fits");
    assert_eq!(task["result"].as_str().map(str::len), Some(60_000));
    let task = run(&server, "too-long");
    assert_eq!(task["status"], "completed");
    assert_eq!(
        task["result"],
        Value::Null,
        "a line that is too long is one of the log"
    );
    let folder = Folder::new(&json!({ "too-long": script(1_000) }));
    let server = folder.start(&[("MAX_RESULT_BYTES", "500")]);
    let task = run(&server, "too-long");
    assert!(
        error(&task).contains("larger than MAX_RESULT_BYTES (500)"),
        "{task}"
    );
}

#[test]
fn percent_anywhere_is_for_types_that_say_so() {
    let script = "printf 'a 10%% b\\r a 60%% b\\r'; sleep 0.1; exit 1";
    let folder = Folder::new(&json!({
        "anywhere": { "command": script, "percent": "anywhere" },
        "plain": shell(script),
    }));
    let server = folder.start(&[]);
    assert_eq!(run(&server, "anywhere")["progress"], 60);
    let plain = run(&server, "plain");
    assert_eq!(plain["progress"], 0);
    assert_eq!(log(&server, &plain), "a 10% b\n a 60% b\n");
}

#[test]
fn commands_are_listed_and_can_be_retried() {
    let folder = Folder::new(&json!({
        "resize": {
            "command": "test $TASK_ATTEMPT = 2", "description": "Makes thumbnails", "example": { "width": 200 },
            "concurrency": 2,
        },
    }));
    let server = folder.start(&[]);
    let listed = server.get("/executors").expect(200).json();
    let first = &listed["executors"][0];
    let expected = json!({
        "type": "resize", "source": "command", "description": "Makes thumbnails", "example": { "width": 200 },
        "concurrency": 2, "running": 0,
    });
    assert_eq!(first, &expected);
    let task = run(&server, "resize");
    assert_eq!(error(&task), "exit status 1");
    let id = task["id"].as_str().expect("an id");
    server.act(&format!("/tasks/{id}/retry")).expect(200);
    server.wait_status(id, "completed");
}
