//! A server in this process, a client, and the program as a process of its own.

mod client;
mod document;
#[cfg(feature = "jobs")]
mod pooler;
#[cfg(feature = "jobs")]
mod postgres;
mod process;
#[cfg(feature = "jobs")]
mod proxy;
mod reply;
pub(crate) mod tour;

use std::net::TcpListener;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_task_system::{
    Config, ExecutorRegistry, Outcome, Server, TaskContext, TaskError, TaskInput, TaskSystem,
};
use serde_json::{Value, json};

pub(crate) use client::{Call, Client, id_of};
pub(crate) use document::DOCUMENT;
#[cfg(feature = "jobs")]
pub(crate) use pooler::Pooler;
#[cfg(feature = "jobs")]
pub(crate) use postgres::{Cluster, execute, query, succeeds};
pub(crate) use process::{BINARY, FREE_PORT, Process, run, stderr, stdout};
#[cfg(feature = "jobs")]
pub(crate) use proxy::Proxy;
pub(crate) use reply::{Event, Reply, Stream};

pub(crate) const API: &str = "/api/v1";

const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `condition` holds; fails after half a minute.
#[track_caller]
pub(crate) fn wait_until(condition: impl FnMut() -> bool) {
    wait_until_every(Duration::from_millis(5), condition);
}

/// As [`wait_until`], with a longer pause between two looks.
#[track_caller]
pub(crate) fn wait_until_every(pause: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        std::thread::sleep(pause);
    }
}

/// A port for a server that comes back to it: one that no connection of this machine is given by itself, and no
/// other test of this process.
pub(crate) fn quiet_port() -> u16 {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    let next = || first + TAKEN.fetch_add(1, Ordering::Relaxed) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(next)
        .find(is_free)
        .expect("a free port")
}

/// Opens once, for executors and tests that wait for each other.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Blocks until the gate opens, or for so long that a test has failed by then.
    pub(crate) fn block(&self) {
        let start = Instant::now();
        while !self.is_open() && start.elapsed() < 2 * PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Opens its gate when dropped, so that a failed test leaves no executor blocked.
struct Opener(Gate);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// The percent that `driven` tasks are at; a test turns it.
#[derive(Clone, Default)]
pub(crate) struct Dial(Arc<AtomicUsize>);

impl Dial {
    pub(crate) fn turn_to(&self, percent: usize) {
        self.0.store(percent, Ordering::SeqCst);
    }

    /// An executor that reports where the dial stands, and completes at 100.
    pub(crate) fn register(&self, registry: &mut ExecutorRegistry) {
        let dial = self.0.clone();
        registry.register("driven", move |_: &TaskInput| {
            let dial = dial.clone();
            Ok(move |ctx: &mut TaskContext<'_>| {
                let percent = dial.load(Ordering::SeqCst);
                ctx.progress(percent as u8, &format!("At {percent}"), "")?;
                Ok(match percent {
                    100 => Outcome::Done(None),
                    _ => Outcome::Again(Duration::from_millis(1)),
                })
            })
        });
    }
}

/// The executor types that every test server has besides the demos:
///
/// - `held` stays at 40 %, step `Holding`, until the server's gate opens;
/// - `blocked` is the same, but holds its worker;
/// - `quick` completes at once with `{"ok": true}`;
/// - `fails` gives up at 30 %, step `Trying`, on every attempt.
fn registry(gate: &Gate) -> ExecutorRegistry {
    let mut registry = ExecutorRegistry::new();
    let held = gate.clone();
    registry.register("held", move |_: &TaskInput| {
        let gate = held.clone();
        Ok(move |ctx: &mut TaskContext<'_>| {
            ctx.progress(40, "Holding", "until the gate opens")?;
            Ok(match gate.is_open() {
                true => Outcome::done(json!({ "held": true })),
                false => Outcome::Again(Duration::from_millis(5)),
            })
        })
    });
    let blocked = gate.clone();
    registry.register_blocking("blocked", move |_: &TaskInput| {
        let gate = blocked.clone();
        Ok(move |ctx: &mut TaskContext<'_>| {
            ctx.progress(40, "Blocking", "")?;
            gate.block();
            Ok(Outcome::Done(None))
        })
    });
    registry.register("quick", |_: &TaskInput| {
        Ok(|_: &mut TaskContext<'_>| Ok(Outcome::done(json!({ "ok": true }))))
    });
    registry.register("fails", |_: &TaskInput| {
        Ok(|ctx: &mut TaskContext<'_>| -> Result<Outcome, TaskError> {
            ctx.progress(30, "Trying", "in vain")?;
            Err(TaskError::new("the disk is full"))
        })
    });
    registry
}

/// A server on a free port; a [`Client`] that names no session.
pub(crate) struct TestServer {
    client: Client,
    pub(crate) gate: Gate,
    // Before the server, so that blocked executors are free when it stops.
    _opener: Opener,
    server: Server,
}

impl TestServer {
    pub(crate) fn start(variables: &[(&str, &str)]) -> TestServer {
        TestServer::start_with(variables, |_| {})
    }

    /// Starts with further executors.
    pub(crate) fn start_with(
        variables: &[(&str, &str)],
        register: impl FnOnce(&mut ExecutorRegistry),
    ) -> TestServer {
        // CI runs the tests of the API over the other transport as well.
        let transport = std::env::var("TEST_HTTP_SERVER").unwrap_or("std".to_owned());
        let defaults = [("PORT", "0"), ("HTTP_SERVER", &transport)];
        let pairs = defaults.iter().chain(variables).copied();
        let config = Config::from_pairs(pairs).expect("the test's configuration is valid");
        let gate = Gate::default();
        let mut registry = registry(&gate);
        register(&mut registry);
        let server = Server::start(config, registry).expect("the server starts");
        TestServer {
            client: Client::new(server.local_addr()),
            _opener: Opener(gate.clone()),
            gate,
            server,
        }
    }

    pub(crate) fn stop(&self) {
        self.server.stop();
    }
}

impl TestServer {
    pub(crate) fn system(&self) -> &TaskSystem {
        self.server.system()
    }
}

impl Deref for TestServer {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A directory of one test's own, removed at its end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("async-task-system-it-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The lines of a file of JSON lines; none where it is not there yet.
pub(crate) fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
        .collect()
}

/// An id as the server gives them, of no task.
pub(crate) const NO_TASK: &str = "0198a1b2-0000-7000-8000-000000000000";

/// The names of an object's members, sorted.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// One member of each value, as text.
pub(crate) fn pluck(values: &[Value], member: &str) -> Vec<String> {
    values
        .iter()
        .map(|value| match &value[member] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect()
}
