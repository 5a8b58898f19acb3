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
/// Machines whose clocks disagree.
mod clock;
/// Processes that are killed or frozen.
mod crash;
/// What the document tells its reader to type.
mod docs;
/// A database that goes away.
mod outage;
/// Order, attempts, back-off, limits, and executors of the embedding program.
mod queue;
/// Idempotency keys.
mod repeats;
/// Who is let in.
mod tokens;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_task_system::{Config, ExecutorRegistry};
use serde_json::{Value, json};

use crate::support::{
    Call, Client, Cluster, Reply, TempDir, TestServer, execute, wait_until_every,
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

#[track_caller]
pub(crate) fn id(job: &Value) -> String {
    job["id"].as_str().expect("an id").to_owned()
}
