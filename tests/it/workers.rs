use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::browser::{has, skip};
use crate::support::{Client, TempDir, TestServer};

const TOKEN: &str = "a token of workers";

/// A worker's process, ended with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let _ = self.0.wait();
    }
}

fn start(program: &str, arguments: &[&str]) -> Option<Worker> {
    let child = Command::new(program)
        .args(arguments)
        .env("WORKER_TOKEN", TOKEN)
        .env("NO_PROXY", "*")
        .env("no_proxy", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A pipeline is ended as a whole.
        .process_group(0)
        .spawn();
    match child {
        Ok(child) => Some(Worker(child)),
        Err(_) => {
            skip(&format!("no {program} in PATH"));
            None
        }
    }
}

fn serve(port: &str) -> TestServer {
    let variables = [("WORKER_TOKEN", TOKEN), ("PORT", port)];
    TestServer::start_with(&variables, |registry| {
        registry.register_remote("count", Duration::from_secs(2));
    })
}

fn create(client: &Client, input: &Value) -> String {
    client.create(json!({ "name": "Count", "type": "count", "metadata": input, "start": true }))
}

/// What every example worker must do: work, heed a cancel, and go on after a restart of the server.
fn check(program: &str, file: &str) {
    let server = serve("0");
    let port = server.addr().port().to_string();
    let client = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(file);
    let address = format!("http://{}", server.addr());
    let client = client.display().to_string();
    let Some(_worker) = start(program, &[&client, &address, "count"]) else {
        return;
    };
    let id = create(&server, &json!({ "steps": 4, "delayMs": 50 }));
    let task = server.wait_status(&id, "completed");
    assert_eq!(task["result"], json!({ "steps": 4 }));
    // Two seconds without a report are longer than its lease: heartbeats keep it.
    let id = create(&server, &json!({ "steps": 1, "delayMs": 2_600 }));
    server.wait_status(&id, "completed");
    let id = create(&server, &json!({ "steps": 1_000, "delayMs": 50 }));
    server.wait_status(&id, "running");
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    let id = create(&server, &json!({ "steps": 1, "delayMs": 50 }));
    server.wait_status(&id, "completed");
    // The restart: what it works on is lost with the server's memory, and it goes on with new tasks.
    let id = create(&server, &json!({ "steps": 1_000, "delayMs": 50 }));
    server.wait_status(&id, "running");
    drop(server);
    let server = serve(&port);
    let id = create(&server, &json!({ "steps": 1, "delayMs": 50 }));
    server.wait_status(&id, "completed");
}

#[test]
fn the_python_worker_works() {
    check("python3", "worker.py");
}

#[test]
fn the_node_worker_works() {
    check("node", "worker.js");
}

#[test]
fn the_shell_worker_works() {
    if has("curl") && has("jq") {
        check("sh", "worker.sh");
    }
}

/// A worker from the line that the server's own script tells, with a script of ours.
fn one_line(server: &TestServer, shell: &str, script: &str) -> Option<(Worker, TempDir)> {
    let dir = TempDir::new();
    let path: PathBuf = dir.file("work.sh");
    std::fs::write(&path, script).expect("it is written");
    let address = format!("http://{}", server.addr());
    let line = format!(
        "curl -s --noproxy '*' {address}/worker.sh | exec {shell} -s -- count sh {}",
        path.display()
    );
    Some((start("sh", &["-c", &line])?, dir))
}

fn script_works_in(shell: &str) {
    if !has("curl") {
        return;
    }
    let server = serve("0");
    let script = r#"
        input=$(cat)
        case $input in *'"fail":true'*) echo 'no "text" here' >&2; exit 3 ;; esac
        case $input in *'"long":true'*) sleep 1000 & wait ;; esac
        echo '10% Reading \ "page" 1'
        printf '55%%\r'
        printf 'wörds \377 and more\n'
        echo "$input" | grep -q '"n":7' && echo '90% Found'
        sleep 1
    "#;
    let Some(_worker) = one_line(&server, shell, script) else {
        return;
    };
    let id = create(&server, &json!({ "n": 7 }));
    server.wait_step(&id, "Found");
    let task = server.wait_status(&id, "completed");
    assert_eq!(task["progress"], 100);
    let id = create(&server, &json!({ "fail": true }));
    assert_eq!(server.wait_status(&id, "failed")["error"], "exit status 3");
    // Longer than its lease, and then cancelled.
    let id = create(&server, &json!({ "long": true }));
    server.wait_status(&id, "running");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.task(&id)["status"], "running");
    server.act(&format!("/tasks/{id}/cancel")).expect(200);
    let id = create(&server, &json!({ "n": 7 }));
    server.wait_status(&id, "completed");
}

#[test]
fn the_servers_own_script_makes_a_worker_in_dash() {
    script_works_in("dash");
}

#[test]
fn the_servers_own_script_makes_a_worker_in_busybox() {
    match Command::new("busybox").output() {
        Ok(_) => script_works_in("busybox sh"),
        Err(_) => skip("no busybox in PATH"),
    }
}

#[test]
fn the_servers_own_script_says_what_it_lacks() {
    let server = serve("0");
    let script = server
        .call_exact("GET", "/worker.sh")
        .send()
        .expect(200)
        .text();
    assert!(
        script.contains(&format!("http://{}/worker.sh", server.addr())),
        "{script}"
    );
    assert!(script.lines().count() <= 60);
    let dir = TempDir::new();
    let path = dir.file("worker.sh");
    std::fs::write(&path, script).expect("it is written");
    let run = |arguments: &[&str], token: &str| {
        let output = Command::new("sh")
            .arg(&path)
            .args(arguments)
            .env("WORKER_TOKEN", token)
            .output();
        let output = output.expect("a shell");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said) = run(&["count"], TOKEN);
    assert!(code == Some(2) && said.starts_with("usage:"), "{said}");
    let (code, said) = run(&["count", "true"], "");
    assert!(code == Some(2) && said.contains("WORKER_TOKEN"), "{said}");
    if has("curl") {
        let (code, said) = run(&["count", "true"], "another token of workers");
        assert!(code == Some(1) && said.contains("unauthorized"), "{said}");
        let (code, said) = run(&["cuont", "true"], TOKEN);
        assert!(
            code == Some(1) && said.contains("did you mean count?"),
            "{said}"
        );
    }
}
