//! A PostgreSQL of the tests' own: a private cluster, gone when the test process is.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use super::{TempDir, quiet_port, wait_until};

/// The shell that runs the server as its child: it obeys lines, and when its input closes, however
/// the test process ended, it stops the server and removes the directory.
const GUARDIAN: &str = r#"
start() { "$0/postgres" -D "$1/data" -p "$2" >>"$1/log" 2>&1 & server=$!; }
halt() { kill -"$1" "$server" 2>/dev/null; wait "$server"; }
start "$@"
while read -r word; do
    case $word in
        stop) halt INT ;;
        start) start "$@" ;;
    esac
done
halt QUIT
rm -rf "$1"
"#;

/// Settings for many short tests; nothing of it needs to survive the machine.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
shared_buffers = 32MB
fsync = off
";

/// A running cluster.
pub(crate) struct Cluster {
    bin: PathBuf,
    port: u16,
    orders: Mutex<Option<ChildStdin>>,
    guardian: Mutex<Child>,
}

/// Where PostgreSQL's programs are, the newest first.
fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop()
}

/// PostgreSQL does not run as root: whom to run it as then.
pub(super) fn user() -> Option<u32> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    match id(&["-u"])? {
        0 => id(&["-u", "postgres"]),
        _ => None,
    }
}

fn program(path: &Path, user: Option<u32>) -> Command {
    let mut command = Command::new(path);
    command.current_dir("/").stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user);
    }
    command
}

impl Cluster {
    /// `None` where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Cluster> {
        let bin = installed()?;
        let user = user();
        // Not removed here: the guardian does it.
        let dir = std::mem::ManuallyDrop::new(TempDir::new());
        std::os::unix::fs::chown(dir.path(), user, None).expect("the directory's owner");
        let mut initdb = program(&bin.join("initdb"), user);
        initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8"]);
        initdb.args(["--locale=C", "-D"]).arg(dir.file("data"));
        let made = initdb.output().expect("initdb runs");
        assert!(made.status.success(), "{made:?}");
        let file = std::fs::OpenOptions::new()
            .append(true)
            .open(dir.file("data/postgresql.conf"));
        let written = file.and_then(|mut file| file.write_all(SETTINGS.as_bytes()));
        written.expect("settings");
        let port = quiet_port();
        let mut guardian = program(Path::new("/bin/sh"), user);
        guardian.arg("-c").arg(GUARDIAN).arg(&bin).arg(dir.path());
        guardian.arg(port.to_string()).stdin(Stdio::piped());
        // In a group of its own, so that Ctrl-C does not keep it from its duty.
        guardian.stdout(Stdio::null()).process_group(0);
        let mut guardian = guardian.spawn().expect("sh runs");
        let orders = guardian.stdin.take();
        let cluster = Cluster {
            bin,
            port,
            orders: Mutex::new(orders),
            guardian: Mutex::new(guardian),
        };
        cluster.wait();
        Some(cluster)
    }

    fn wait(&self) {
        wait_until(|| self.try_run(&self.url("postgres"), "SELECT 1"));
    }

    fn order(&self, word: &str) {
        let mut orders = self.orders.lock().expect("no poison");
        let sent = orders
            .as_mut()
            .map(|to| to.write_all(format!("{word}\n").as_bytes()));
        sent.expect("it has not ended").expect("the guardian hears");
    }

    /// Stops the server; its data stays.
    pub(crate) fn go_away(&self) {
        self.order("stop");
        wait_until(|| !self.try_run(&self.url("postgres"), "SELECT 1"));
    }

    pub(crate) fn come_back(&self) {
        self.order("start");
        self.wait();
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let port = self.port;
        format!("postgres://postgres@127.0.0.1:{port}/{database}")
    }

    fn try_run(&self, url: &str, sql: &str) -> bool {
        psql(&self.bin.join("psql"), url, sql).is_some()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.orders.lock().expect("no poison").take();
        let _ = self.guardian.lock().expect("no poison").wait();
    }
}

/// Runs one statement; what it said, where it succeeded.
fn psql(program: &Path, url: &str, sql: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    let output = command.stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(said)
}

/// The `psql` of the installed version.
fn client() -> PathBuf {
    installed().map_or_else(|| "psql".into(), |bin| bin.join("psql"))
}

/// Runs one statement on any server; whether it succeeded.
pub(crate) fn succeeds(url: &str, sql: &str) -> bool {
    psql(&client(), url, sql).is_some()
}

/// The rows of one statement; columns with `|` between.
#[track_caller]
pub(crate) fn query(url: &str, sql: &str) -> Vec<String> {
    let said = psql(&client(), url, sql).unwrap_or_else(|| panic!("refused: {sql}"));
    said.lines().map(str::to_owned).collect()
}

/// Runs one statement on any server.
pub(crate) fn execute(url: &str, sql: &str) {
    assert!(succeeds(url, sql), "refused: {sql}");
}
