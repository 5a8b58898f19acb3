mod docs;
mod ending;
mod file;
mod hostile;
mod output;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Client, FREE_PORT, Process, TempDir, TestServer, wait_until};

/// A folder with an `executors.json`.
pub(crate) struct Folder {
    pub(crate) dir: TempDir,
}

impl Folder {
    pub(crate) fn new(types: &Value) -> Folder {
        let folder = Folder {
            dir: TempDir::new(),
        };
        folder.set(types);
        folder
    }

    pub(crate) fn set(&self, types: &Value) {
        fs::write(self.path(), types.to_string()).expect("written");
    }

    pub(crate) fn path(&self) -> String {
        self.dir.file("executors.json").display().to_string()
    }

    pub(crate) fn start(&self, variables: &[(&str, &str)]) -> TestServer {
        let path = self.path();
        let own = [("EXECUTORS", &*path)];
        let all: Vec<_> = own.iter().chain(variables).copied().collect();
        TestServer::start(&all)
    }

    pub(crate) fn start_process(&self, variables: &[(&str, &str)]) -> Process {
        let path = self.path();
        let own = [
            FREE_PORT,
            ("EXECUTORS", &*path),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ];
        let all: Vec<_> = own.iter().chain(variables).copied().collect();
        Process::start(&self.dir, &all)
    }

    /// The numbers of the processes that have written them into this file: `echo $$ >> NAME`.
    pub(crate) fn pids(&self, name: &str) -> Vec<u32> {
        let text = fs::read_to_string(self.dir.file(name)).unwrap_or_default();
        let lines = text.lines().map(str::trim);
        lines.filter_map(|line| line.parse().ok()).collect()
    }

    /// Waits until so many have.
    pub(crate) fn wait_pids(&self, name: &str, count: usize) -> Vec<u32> {
        wait_until(|| self.pids(name).len() >= count);
        self.pids(name)
    }
}

/// Whether the process is there, and not only to be waited for.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default();
    !state.trim_start().starts_with(['Z', 'X']) && !state.is_empty()
}

/// Whether it is there in any state.
pub(crate) fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) fn shell(script: &str) -> Value {
    json!({ "command": script })
}

/// Runs a task of this type with this metadata to its end; the task.
pub(crate) fn finish(client: &Client, kind: &str, metadata: &Value) -> Value {
    let body = json!({ "name": kind, "type": kind, "start": true, "metadata": metadata });
    let id = client.create(body);
    let is_final = |task: &Value| {
        ["completed", "failed"]
            .iter()
            .any(|end| task["status"] == *end)
    };
    wait_until(|| is_final(&client.task(&id)));
    client.task(&id)
}

pub(crate) fn run(client: &Client, kind: &str) -> Value {
    finish(client, kind, &json!({}))
}

pub(crate) fn log(client: &Client, task: &Value) -> String {
    let id = task["id"].as_str().expect("an id");
    client.get(&format!("/tasks/{id}/log")).expect(200).text()
}

pub(crate) fn error(task: &Value) -> &str {
    assert_eq!(task["status"], "failed", "{task}");
    task["error"].as_str().expect("an error")
}
