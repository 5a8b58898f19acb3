//! The Job API, on both databases.

/// Runs each test on both databases.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name(&crate::jobs::Db::sqlite()); })*
        }
        mod postgres {
            $(#[test] fn $name() {
                if let Some(db) = crate::jobs::Db::postgres() {
                    super::$name(&db);
                }
            })*
        }
    };
}

/// The routes: what they take and what they answer.
mod api;
/// The commands of the client, with `--jobs`.
mod client;
/// Machines whose clocks disagree.
mod clock;
/// Jobs that commands of `EXECUTORS` run.
mod commands;
/// What is kept of how many jobs there are, and databases of the last version.
mod counts;
/// Processes that are killed or frozen.
mod crash;
/// Additions that are watched, `latest`, and jobs at `GET /executors`.
mod discovery;
/// What the document tells its reader to type.
mod docs;
/// Logs of jobs.
mod logs;
/// A network that goes silent, between the process and PostgreSQL.
mod network;
/// A database that goes away.
mod outage;
/// That no job is lost, stuck, or run twice.
mod promises;
/// Order, attempts, back-off, limits, and executors of the embedding program.
mod queue;
/// Recordings, which the Task System replays.
mod recordings;
/// What the database refuses for good.
mod refusals;
/// Idempotency keys.
mod repeats;
/// What a run leaves in the log, and how its executor learns of a cancel.
mod runs;
/// What the program says before it serves, and the migrations by hand.
mod start;
mod status;
/// Who is let in.
mod tokens;
/// Workers over HTTP.
mod workers;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_task_system::{Config, ExecutorRegistry};
use serde_json::{Value, json};

use crate::support::{
    Call, Client, Cluster, Process, Reply, TempDir, TestServer, execute, pluck, query,
    wait_until_every,
};

pub(crate) const SECRET: &str = "a secret of the tests, long enough";

/// A database of one test's own.
pub(crate) struct Db {
    dir: TempDir,
    storage: &'static str,
    url: String,
    /// Where it is to be dropped at the end.
    server: Option<(String, String)>,
}

/// An address of the server that the tests share.
fn shared_server() -> Option<String> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    if let Ok(url) = std::env::var("DATABASE_URL") {
        return Some(url);
    }
    let cluster = CLUSTER.get_or_init(Cluster::start);
    cluster.as_ref().map(|cluster| cluster.url("postgres"))
}

/// Says that a test is skipped; in CI it fails.
fn skip(what: &str, package: &str) {
    let is_ci = std::env::var_os("CI").is_some();
    assert!(!is_ci, "CI must have {what} (Debian: {package})");
    eprintln!("skipped: {what} is not installed");
}

impl Db {
    pub(crate) fn sqlite() -> Db {
        let dir = TempDir::new();
        let url = format!("sqlite://{}", dir.file("jobs.db").display());
        Db {
            dir,
            storage: "sqlite",
            url,
            server: None,
        }
    }

    pub(crate) fn postgres() -> Option<Db> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let Some(server) = shared_server() else {
            skip("PostgreSQL, or DATABASE_URL,", "postgresql");
            return None;
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("it_{}_{number}", std::process::id());
        execute(
            &server,
            &format!("CREATE DATABASE {name} TEMPLATE template0"),
        );
        let (address, query) = server.split_once('?').unwrap_or((&server, ""));
        let (host, _) = address.rsplit_once('/').expect("a database in the address");
        let url = format!("{host}/{name}?{query}");
        Some(Db {
            dir: TempDir::new(),
            storage: "postgres",
            url: url.trim_end_matches('?').to_owned(),
            server: Some((server, name)),
        })
    }

    /// On a cluster that is stopped and started; dropped with it.
    pub(crate) fn on(cluster: &Cluster) -> Db {
        Db {
            dir: TempDir::new(),
            storage: "postgres",
            url: cluster.url("postgres"),
            server: None,
        }
    }

    pub(crate) fn variables<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![
            ("PORT", "0"),
            ("STORAGE", self.storage),
            ("DATABASE_URL", &self.url),
            ("ENABLE_QUEUE", "true"),
            ("JWT_SECRET", SECRET),
        ];
        all.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
        all.extend(more);
        all
    }

    /// The rows of one statement; columns with `|` between.
    #[track_caller]
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        if self.storage != "sqlite" {
            return query(&self.url, sql);
        }
        let file = self.sqlite_file();
        let mut statement = file.prepare(sql).expect("a statement");
        let count = statement.column_count();
        let text = |row: &rusqlite::Row<'_>| {
            let column = |n| match row.get::<_, rusqlite::types::Value>(n)? {
                rusqlite::types::Value::Null => Ok(String::new()),
                rusqlite::types::Value::Integer(number) => Ok(number.to_string()),
                rusqlite::types::Value::Text(text) => Ok(text),
                other => Ok(format!("{other:?}")),
            };
            let columns: rusqlite::Result<Vec<String>> = (0..count).map(column).collect();
            Ok(columns?.join("|"))
        };
        let rows = statement.query_map([], text).expect("it runs");
        rows.collect::<Result<_, _>>().expect("rows")
    }

    /// Runs statements.
    #[track_caller]
    pub(crate) fn execute(&self, sql: &str) {
        match self.storage {
            "sqlite" => self.sqlite_file().execute_batch(sql).expect("it runs"),
            _ => execute(&self.url, sql),
        }
    }

    fn sqlite_file(&self) -> rusqlite::Connection {
        let path = self.dir.file("jobs.db");
        let file = rusqlite::Connection::open(path).expect("the file opens");
        file.busy_timeout(Duration::from_secs(10)).expect("a limit");
        file
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.storage == "sqlite"
    }

    pub(crate) fn start(&self, more: &[(&str, &str)]) -> Process {
        Process::start(&self.dir, &self.variables(more))
    }

    pub(crate) fn serve(&self) -> TestServer {
        TestServer::start(&self.variables(&[]))
    }

    pub(crate) fn serve_with(
        &self,
        more: &[(&str, &str)],
        register: impl FnOnce(&mut ExecutorRegistry),
    ) -> TestServer {
        TestServer::start_with(&self.variables(more), register)
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if let Some((server, name)) = &self.server {
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            // A second panic would hide the first.
            if !std::thread::panicking() {
                execute(server, &sql);
            }
        }
    }
}

/// It holds for three days, so that also a machine whose clock is a day ahead takes it.
pub(crate) fn token(name: &str, role: Option<&str>) -> String {
    let config = Config::from_pairs([("JWT_SECRET", SECRET)]).expect("valid");
    async_task_system::token(&config, name, role, Duration::from_secs(3 * 86_400)).expect("a token")
}

/// Somebody with a token.
#[derive(Clone)]
pub(crate) struct User {
    client: Client,
    token: String,
}

impl User {
    pub(crate) fn of(client: &Client, name: &str) -> User {
        User {
            client: client.clone(),
            token: token(name, None),
        }
    }

    pub(crate) fn admin(client: &Client) -> User {
        User {
            client: client.clone(),
            token: token("root", Some("admin")),
        }
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        let bearer = format!("Bearer {}", self.token);
        self.client
            .call(method, path)
            .header("Authorization", &bearer)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.call("GET", path).send()
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path).json(&body).send()
    }

    pub(crate) fn act(&self, path: &str) -> Reply {
        self.call("POST", path).send()
    }

    /// Adds a job; its id.
    #[track_caller]
    pub(crate) fn add(&self, body: Value) -> String {
        id(&self.post("/jobs", body).expect(201).json())
    }

    /// Adds that many of one job; their ids.
    #[track_caller]
    pub(crate) fn add_bulk(&self, count: usize, job: &Value) -> Vec<String> {
        let body = json!({ "jobs": vec![job; count] });
        let reply = self.post("/jobs/bulk", body).expect(201).json();
        pluck(reply["jobs"].as_array().expect("a list"), "id")
    }

    /// Waits until none of this user's jobs is pending or processing; how many have completed and failed.
    #[track_caller]
    pub(crate) fn settle(&self) -> (u64, u64) {
        let number = |stats: &Value, status: &str| stats[status].as_u64().expect("a number");
        let mut stats = Value::Null;
        wait_until_every(Duration::from_millis(50), || {
            let reply = self.get("/jobs/stats");
            stats = match reply.status {
                200 => reply.json()["stats"].clone(),
                _ => return false,
            };
            number(&stats, "pending") + number(&stats, "processing") == 0
        });
        (number(&stats, "completed"), number(&stats, "failed"))
    }

    #[track_caller]
    pub(crate) fn add_type(&self, kind: &str) -> String {
        self.add(json!({ "type": kind }))
    }

    #[track_caller]
    pub(crate) fn job(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).expect(200).json()
    }

    /// Waits until the job has that status; the job.
    #[track_caller]
    pub(crate) fn wait(&self, id: &str, status: &str) -> Value {
        wait_until_every(Duration::from_millis(20), || {
            self.job(id)["status"] == status
        });
        self.job(id)
    }

    /// The names of what happened, without progress.
    #[track_caller]
    pub(crate) fn events(&self, id: &str) -> Vec<String> {
        let reply = self.get(&format!("/jobs/{id}/history")).expect(200).json();
        let history = reply["history"].as_array().expect("a list").clone();
        assert_eq!(reply["count"], history.len());
        assert_eq!(reply["jobId"], id);
        crate::support::pluck(&history, "event")
            .into_iter()
            .filter(|event| event != "progress")
            .collect()
    }

    #[track_caller]
    pub(crate) fn stats(&self) -> Value {
        self.get("/jobs/stats").expect(200).json()["stats"].clone()
    }
}

/// A job that takes so long.
pub(crate) fn waiting(seconds: f64) -> Value {
    let arguments = json!({ "delayMinSec": seconds, "delayMaxSec": seconds });
    json!({ "type": "dummy", "arguments": arguments })
}

/// As [`waiting`], with one attempt.
pub(crate) fn once(seconds: f64) -> Value {
    let mut job = waiting(seconds);
    job["maxAttempts"] = json!(1);
    job
}

/// The metric's value.
#[track_caller]
pub(crate) fn metric(process: &Process, name: &str) -> f64 {
    let reply = process.client.call_exact("GET", "/metrics").send();
    let text = reply.expect(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.trim().parse().expect("a number")
}

#[track_caller]
pub(crate) fn id(job: &Value) -> String {
    job["id"].as_str().expect("an id").to_owned()
}
