//! Every variable: its name, its default, what it takes and what it means.

use std::fmt;

use crate::task::SessionKey;

/// One variable: its name, default, what is allowed, and one line of meaning.
///
/// ```
/// use async_task_system::config::VARIABLES;
///
/// let port = VARIABLES.iter().find(|variable| variable.name == "PORT").expect("there is one");
/// assert_eq!(port.default, "3000");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// Its value where none is given; empty for "not set" or "decided at start".
    pub default: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// One line of meaning.
    pub help: &'static str,
}

/// What values a variable takes.
///
/// ```
/// use async_task_system::config::Kind;
///
/// assert_eq!(Kind::Count(1, 9).to_string(), "a whole number from 1 to 9");
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A whole number within bounds.
    Count(u64, u64),
    /// Whole milliseconds, from 100 up.
    Millis,
    /// `true` or `false`.
    Flag,
    /// Any text.
    Text,
    /// A session key.
    Session,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// The longest duration, in milliseconds: a year.
const MAX_MILLIS: u64 = 31_536_000_000;

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Count(min, max) => write!(f, "a whole number from {min} to {max}"),
            Kind::Millis => write!(f, "whole milliseconds from 100 to {MAX_MILLIS}"),
            Kind::Flag => f.write_str("true or false"),
            Kind::Text => f.write_str("text"),
            Kind::Session => f.write_str("1 to 128 characters of A-Z a-z 0-9 . _ : -"),
            Kind::OneOf(words) => f.write_str(&words.join(", ")),
        }
    }
}

impl Kind {
    pub(super) fn accepts(self, value: &str) -> bool {
        let number = || value.parse::<u64>().ok();
        match self {
            Kind::Count(min, max) => number().is_some_and(|n| (min..=max).contains(&n)),
            Kind::Millis => number().is_some_and(|n| (100..=MAX_MILLIS).contains(&n)),
            Kind::Flag => matches!(value, "true" | "false"),
            Kind::Text => true,
            Kind::Session => SessionKey::parse(value).is_some(),
            Kind::OneOf(words) => words.iter().any(|word| word.eq_ignore_ascii_case(value)),
        }
    }
}

const MANY: u64 = 1_000_000_000;

macro_rules! variables {
    ($($name:literal $default:literal $kind:expr, $help:literal;)*) => {
        /// Every variable, in the order of the documentation.
        pub const VARIABLES: &[Variable] = &[
            $(Variable { name: $name, default: $default, kind: $kind, help: $help },)*
        ];
    };
}

variables! {
    "HOST" "127.0.0.1" Kind::Text, "address to listen on; 0.0.0.0 for all";
    "PORT" "3000" Kind::Count(0, 65_535), "port to listen on; 0 picks a free one";
    "LOG_LEVEL" "info" Kind::OneOf(&["off", "error", "warn", "info", "debug", "trace"]), "least important level that is logged";
    "WORKER_THREADS" "" Kind::Count(1, 1_024), "threads that run executors; the number of cores, at least 4, where not set";
    "ENABLE_SESSION_ISOLATION" "true" Kind::Flag, "false switches the Task System off";
    "AUTO_MAP_SESSION_BY_IP" "true" Kind::Flag, "give each client address a session of its own where none is named";
    "DEFAULT_SESSION" "default" Kind::Session, "the session of requests that name none, where addresses are not mapped";
    "TRUSTED_PROXIES" "0" Kind::Count(0, 100), "number of proxies in front whose X-Forwarded-For is believed";
    "SESSION_TIMEOUT" "1800000" Kind::Millis, "a session idle for so many ms is dropped with its tasks";
    "MAX_SESSIONS" "1000" Kind::Count(1, MANY), "sessions at once; the longest idle one makes room";
    "MAX_TASKS_PER_SESSION" "10000" Kind::Count(1, MANY), "tasks in one session";
    "MAX_ACTIVE_TASKS" "100000" Kind::Count(1, MANY), "queued and running tasks at once";
    "MAX_STORE_BYTES" "268435456" Kind::Count(1_048_576, 1 << 50), "bytes that all tasks and their history may take";
    "MAX_BODY_BYTES" "65536" Kind::Count(1, MANY), "largest request body";
    "MAX_RESULT_BYTES" "65536" Kind::Count(1, MANY), "largest result of a task";
    "MAX_LOG_BYTES" "65536" Kind::Count(1, MANY), "largest log of a task or job; its oldest lines leave";
    "TASK_CLEANUP_INTERVAL" "300000" Kind::Millis, "ms between two cleanups";
    "MAX_COMPLETED_TASKS" "50" Kind::Count(0, MANY), "completed tasks that a cleanup keeps in a session";
    "MAX_FAILED_TASKS" "20" Kind::Count(0, MANY), "failed tasks that a cleanup keeps in a session";
    "MAX_CANCELLED_TASKS" "20" Kind::Count(0, MANY), "cancelled tasks that a cleanup keeps in a session";
    "AUDIT_LOG" "" Kind::Text, "file to which every history entry is appended as a line of JSON";
    "HTTP_SERVER" "std" Kind::OneOf(&["std", "tiny_http"]), "what speaks HTTP: std, or tiny_http in a build with that feature, for trusted networks";
    "MAX_CONNECTIONS" "1024" Kind::Count(1, 1_000_000), "connections at once";
    "MAX_CONNECTIONS_PER_IP" "128" Kind::Count(1, 1_000_000), "connections at once from one address, loopback excepted";
    "HEAD_TIMEOUT" "10000" Kind::Millis, "ms within which a request's head must have come, from the connection's opening or its first byte";
    "REQUEST_TIMEOUT" "30000" Kind::Millis, "ms within which a request must have been received whole";
    "KEEP_ALIVE_TIMEOUT" "30000" Kind::Millis, "ms after which an idle connection is closed";
    "MAX_STREAMS" "1000" Kind::Count(1, 1_000_000), "open event streams at once";
    "ALLOWED_HOSTS" "" Kind::Text, "comma-separated Host names to answer to; all where not set";
    "CORS_ALLOWED_ORIGINS" "" Kind::Text, "comma-separated origins whose pages may use the API; http://localhost:* for every port";
    "METRICS" "false" Kind::Flag, "count, and show it to Prometheus at /metrics";
    "EXECUTORS" "" Kind::Text, "file of commands and other types of your own; docs/commands.md";
    "EXECUTORS_TOKEN" "" Kind::Text, "token that creating and starting tasks of its commands needs, at least 16 bytes; none where not set";
    "SCENES" "" Kind::Text, "folder of scenes, *.json, that all sessions can play; docs/demo.md";
    "WORKER_TOKEN" "" Kind::Text, "token of workers over HTTP, at least 16 bytes; none are let in where not set";
    "STORAGE" "memory" Kind::OneOf(&["memory", "sqlite", "postgres", "prisma"]), "where the Job API keeps its jobs: sqlite, postgres (or prisma); memory: no Job API";
    "ENABLE_QUEUE" "false" Kind::Flag, "run the Job API's workers in this process";
    "DATABASE_URL" "" Kind::Text, "the Job API's database; sqlite://jobs.db where STORAGE=sqlite and none is given";
    "JWT_SECRET" "" Kind::Text, "secret of the Job API's tokens (HS256), at least 32 bytes";
    "JWT_PUBLIC_KEY_FILE" "" Kind::Text, "PEM file of the key that tokens are signed with instead (RS256, ES256, EdDSA)";
    "JWT_ISSUER" "" Kind::Text, "issuer that tokens must name, where set";
    "JWT_AUDIENCE" "" Kind::Text, "audience that tokens must name, where set";
    "JOB_LEASE_SECONDS" "30" Kind::Count(1, 86_400), "a job whose worker died is run again within so many seconds";
    "JOB_RETENTION_DAYS" "7" Kind::Count(1, 36_500), "days that finished jobs are kept";
}

/// The table as `--help` prints it.
///
/// ```
/// // For the `--help` of a program that embeds the server.
/// println!("Variables:\n{}", async_task_system::config::help());
/// ```
pub fn help() -> String {
    let rows = VARIABLES.iter().map(|v| {
        let default = if v.default.is_empty() { "-" } else { v.default };
        format!("  {:<25} {:<10} {}\n", v.name, default, v.help)
    });
    rows.collect()
}

pub(super) fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}
