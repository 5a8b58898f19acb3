//! Both directions of the DevTools protocol.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// The pipe to a browser.
pub(super) struct Pipe {
    input: Mutex<ChildStdin>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    last_id: u64,
    /// Who waits for which answer.
    waiting: HashMap<u64, Sender<Value>>,
    /// What each tab had to complain about, by its session in the protocol.
    pub(super) complaints: HashMap<String, Vec<String>>,
    pub(super) is_over: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipe {
    pub(super) fn new(input: ChildStdin) -> Pipe {
        Pipe {
            input: Mutex::new(input),
            state: Mutex::default(),
        }
    }

    pub(super) fn send(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Receiver<Value> {
        let (sender, receiver) = channel();
        let mut state = lock(&self.state);
        assert!(!state.is_over, "the browser has ended");
        state.last_id += 1;
        let id = state.last_id;
        state.waiting.insert(id, sender);
        drop(state);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        lock(&self.input)
            .write_all(&bytes)
            .expect("the browser listens");
        receiver
    }

    /// Hands every message to whom it concerns, until the browser ends.
    pub(super) fn read(&self, output: ChildStdout) {
        for message in BufReader::new(output).split(0) {
            let Ok(message) = message else { break };
            let message: Value = serde_json::from_slice(&message).unwrap_or_default();
            let mut state = lock(&self.state);
            if let Some(id) = message["id"].as_u64() {
                if let Some(sender) = state.waiting.remove(&id) {
                    // Who no longer waits has failed already.
                    let _ = sender.send(message);
                }
            } else if let Some(complaint) = complaint(&message) {
                let session = message["sessionId"].as_str().unwrap_or_default();
                let complaints = state.complaints.entry(session.to_owned());
                complaints.or_default().push(complaint);
            }
        }
        let mut state = lock(&self.state);
        state.is_over = true;
        state.waiting.clear();
    }
}

/// What an event of the protocol says against its page: an exception, an error in the console,
/// a violation of the page's policy, a request that failed.
fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    let is_bad = |level: &Value| {
        ["error", "warning", "assert"]
            .iter()
            .any(|bad| level == bad)
    };
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if is_bad(&params["type"]) => Some(params["args"].to_string()),
        "Log.entryAdded" if is_bad(&params["entry"]["level"]) => Some(params["entry"].to_string()),
        "Inspector.targetCrashed" => Some("the tab crashed".to_owned()),
        _ => None,
    }
}
