//! The program as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Client, PATIENCE, TempDir, wait_until};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_async-task-system");

fn binary(dir: &Path) -> Command {
    program(Path::new(BINARY), dir)
}

fn program(path: &Path, dir: &Path) -> Command {
    let mut command = Command::new(path);
    command.env_clear().current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn run(dir: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = binary(dir.path());
    command.args(arguments).envs(variables.iter().copied());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("the binary starts");
    let start = Instant::now();
    while child.try_wait().expect("its state can be asked").is_none() {
        if start.elapsed() > Duration::from_secs(10) {
            let _ = child.kill();
            panic!("{arguments:?} {variables:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The running binary; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    pub(crate) client: Client,
}

impl Process {
    pub(crate) fn start(dir: &TempDir, variables: &[(&str, &str)]) -> Process {
        Process::launch(binary(dir.path()), variables)
    }

    /// One of the examples; `cargo test` builds them along.
    #[cfg(feature = "jobs")]
    pub(crate) fn example(name: &str, dir: &TempDir, variables: &[(&str, &str)]) -> Process {
        let path = Path::new(BINARY).with_file_name("examples").join(name);
        assert!(path.exists(), "cargo build --features jobs --examples");
        Process::launch(program(&path, dir.path()), variables)
    }

    /// Started by a shell command that ends with the program in `$0`, such as
    /// `ulimit -n 64; exec "$0"`.
    pub(crate) fn start_by(script: &str, dir: &TempDir, variables: &[(&str, &str)]) -> Process {
        let mut command = Command::new("sh");
        command.current_dir(dir.path()).stdin(Stdio::null());
        command.args(["-c", script, BINARY]);
        Process::launch(command, variables)
    }

    fn launch(command: Command, variables: &[(&str, &str)]) -> Process {
        let mut process = Process::spawn(command, variables);
        // A worker may meet a job that ends it before it has said that it listens.
        wait_until(|| process.address().is_some() || process.has_ended());
        if let Some(address) = process.address() {
            process.client = Client::new(address);
        }
        wait_until(|| {
            process.has("Task system initialized successfully")
                || process.has("The Task System is off")
                || process.has_ended()
        });
        process
    }

    /// One that may never come to listen; its client has no address.
    #[cfg(feature = "jobs")]
    pub(crate) fn begin(dir: &TempDir, variables: &[(&str, &str)]) -> Process {
        Process::spawn(binary(dir.path()), variables)
    }

    fn spawn(mut command: Command, variables: &[(&str, &str)]) -> Process {
        command.envs(variables.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the binary starts");
        let mut stream = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let sink = lines.clone();
        let reader = std::thread::spawn(move || {
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line);
                let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
                sink.lock().expect("no poison").push(text);
                line.clear();
            }
        });
        Process {
            child,
            lines,
            reader: Some(reader),
            client: Client::new(([127, 0, 0, 1], 0).into()),
        }
    }

    /// Where it says that it listens.
    fn address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let said =
            |line: &String| Some(line.split_once("Listening on http://")?.1.trim().to_owned());
        let address = log.iter().find_map(said)?;
        Some(address.parse().expect("an address"))
    }

    fn has_ended(&mut self) -> bool {
        let state = self.child.try_wait().expect("its state can be asked");
        state.is_some()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.lines.lock().expect("no poison").clone()
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.log().iter().any(|line| line.contains(text))
    }

    /// The level of the line that ends with `text`.
    #[track_caller]
    pub(crate) fn level_of(&self, text: &str) -> String {
        wait_until(|| self.log().iter().any(|line| line.ends_with(text)));
        let log = self.log();
        let line = log.iter().find(|line| line.ends_with(text));
        let level = line.and_then(|line| line.split(['[', ']']).nth(1));
        level.expect("a level").to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status();
        assert!(status.expect("sh runs").success(), "{command}");
    }

    /// Waits for its end, or until there is something else; whether it has ended.
    #[cfg(feature = "jobs")]
    pub(crate) fn ends_unless(&mut self, other: impl Fn() -> bool) -> bool {
        let mut has_ended = false;
        super::wait_until_every(Duration::from_millis(20), || {
            has_ended = self.has_ended();
            has_ended || other()
        });
        has_ended
    }

    /// Waits for its end: the exit code and how long it took.
    pub(crate) fn ended(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("its state can be asked") {
                break status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it does not end: {:?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log was read");
        }
        (status.code(), start.elapsed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

pub(crate) const FREE_PORT: (&str, &str) = ("PORT", "0");
