//! The configuration: one table of variables, read once into a typed [`Config`].
//!
//! `--help`, the checks and `.env.example` all follow [`VARIABLES`]; a new variable is one row
//! here and one field below.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::task::SessionKey;

/// One variable: its name, default, what is allowed, and one line of meaning.
#[derive(Debug)]
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
#[derive(Clone, Copy, Debug)]
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
    fn accepts(self, value: &str) -> bool {
        let number = || value.parse::<u64>().ok();
        match self {
            Kind::Count(min, max) => number().is_some_and(|n| (min..=max).contains(&n)),
            Kind::Millis => number().is_some_and(|n| (100..=MAX_MILLIS).contains(&n)),
            Kind::Flag => matches!(value, "true" | "false"),
            Kind::Text => true,
            Kind::Session => SessionKey::parse(value).is_some(),
            Kind::OneOf(words) => words.contains(&value),
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
    "TASK_CLEANUP_INTERVAL" "300000" Kind::Millis, "ms between two cleanups";
    "MAX_COMPLETED_TASKS" "50" Kind::Count(0, MANY), "completed tasks that a cleanup keeps in a session";
    "MAX_FAILED_TASKS" "20" Kind::Count(0, MANY), "failed tasks that a cleanup keeps in a session";
    "MAX_CANCELLED_TASKS" "20" Kind::Count(0, MANY), "cancelled tasks that a cleanup keeps in a session";
    "AUDIT_LOG" "" Kind::Text, "file to which every history entry is appended as a line of JSON";
    "MAX_CONNECTIONS" "1024" Kind::Count(1, 1_000_000), "connections at once";
    "MAX_CONNECTIONS_PER_IP" "128" Kind::Count(1, 1_000_000), "connections at once from one address, loopback excepted";
    "HEAD_TIMEOUT" "10000" Kind::Millis, "ms within which a request's head must have come, from the connection's opening or its first byte";
    "REQUEST_TIMEOUT" "30000" Kind::Millis, "ms within which a request must have been received whole";
    "KEEP_ALIVE_TIMEOUT" "30000" Kind::Millis, "ms after which an idle connection is closed";
    "MAX_STREAMS" "1000" Kind::Count(1, 1_000_000), "open event streams at once";
    "ALLOWED_HOSTS" "" Kind::Text, "comma-separated Host names to answer to; all where not set";
    "CORS_ALLOWED_ORIGINS" "" Kind::Text, "comma-separated origins whose pages may use the API";
    "METRICS" "false" Kind::Flag, "count, and show it to Prometheus at /metrics";
    "STORAGE" "memory" Kind::OneOf(&["memory", "sqlite", "postgres", "prisma"]), "where the Job API keeps its jobs; memory: no Job API";
    "ENABLE_QUEUE" "false" Kind::Flag, "run the Job API's workers in this process";
    "DATABASE_URL" "" Kind::Text, "the Job API's database; sqlite://jobs.db where STORAGE=sqlite and none is given";
    "JWT_SECRET" "" Kind::Text, "secret of the Job API's tokens (HS256), at least 32 bytes";
    "JWT_PUBLIC_KEY_FILE" "" Kind::Text, "PEM file of the key that tokens are signed with instead (RS256, ES256, EdDSA)";
    "JWT_ISSUER" "" Kind::Text, "issuer that tokens must name, where set";
    "JWT_AUDIENCE" "" Kind::Text, "audience that tokens must name, where set";
    "JOB_LEASE_SECONDS" "30" Kind::Count(1, 86_400), "a job whose worker died is run again within so many seconds";
    "JOB_RETENTION_DAYS" "7" Kind::Count(1, 36_500), "days that finished jobs are kept";
}

/// The configuration, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct Config {
    pub host: String,
    pub port: u16,
    pub log_level: LevelFilter,
    pub worker_threads: usize,
    pub enable_session_isolation: bool,
    pub auto_map_session_by_ip: bool,
    pub default_session: SessionKey,
    pub trusted_proxies: usize,
    pub session_timeout: Duration,
    pub max_sessions: usize,
    pub max_tasks_per_session: usize,
    pub max_active_tasks: usize,
    pub max_store_bytes: usize,
    pub max_body_bytes: usize,
    pub max_result_bytes: usize,
    pub max_streams: usize,
    pub task_cleanup_interval: Duration,
    pub max_completed_tasks: usize,
    pub max_failed_tasks: usize,
    pub max_cancelled_tasks: usize,
    pub audit_log: Option<PathBuf>,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub head_timeout: Duration,
    pub request_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub allowed_hosts: Vec<String>,
    pub cors_allowed_origins: Vec<String>,
    pub metrics: bool,
    pub enable_queue: bool,
    /// Where the Job API keeps its jobs; `None`: there is no Job API.
    pub database_url: Option<String>,
    pub jwt_secret: Option<String>,
    pub jwt_public_key_file: Option<PathBuf>,
    pub jwt_issuer: Option<String>,
    pub jwt_audience: Option<String>,
    pub job_lease: Duration,
    pub job_retention: Duration,
}

/// Why the configuration cannot be used: one line, for the person who wrote it.
///
/// ```
/// use async_task_system::Config;
///
/// let error = Config::from_pairs([("PORT", "many")]).expect_err("no port");
/// assert!(error.to_string().contains("PORT"));
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the environment and, where it exists, the file `.env` in the current directory;
    /// the environment wins.
    ///
    /// # Errors
    ///
    /// The first variable that does not parse, is out of range or is misspelt.
    pub fn from_env() -> Result<Config, ConfigError> {
        let mut pairs = read_file(Path::new(".env"))?;
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            let lossy = value.to_string_lossy().into_owned();
            if value.to_str().is_none() && find(&name).is_some() {
                return Err(refuse(&name, &lossy, "text in UTF-8"));
            }
            pairs.push((name, lossy));
        }
        Config::from_pairs(pairs)
    }

    /// Reads `pairs` of names and values, as if they were the environment; a later pair wins.
    ///
    /// ```
    /// use async_task_system::Config;
    ///
    /// let config = Config::from_pairs([("PORT", "8080")])?;
    /// assert_eq!(config.port, 8080);
    /// # Ok::<(), async_task_system::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Config, ConfigError> {
        let mut given = HashMap::new();
        for (name, value) in pairs {
            let (name, value) = (name.into(), value.into());
            match find(&name) {
                Some(variable) => drop(given.insert(variable.name, value)),
                None => check_spelling(&name)?,
            }
        }
        Values::check(given)?.into_config()
    }
}

/// Values that have passed their variable's check.
struct Values(HashMap<&'static str, String>);

impl Values {
    fn check(mut given: HashMap<&'static str, String>) -> Result<Values, ConfigError> {
        for variable in VARIABLES {
            let value = given.entry(variable.name).or_default();
            // An empty value is none: `AUDIT_LOG=` in a file switches the log off.
            *value = value.trim().to_owned();
            if value.is_empty() {
                *value = variable.default.to_owned();
            } else if !variable.kind.accepts(value) {
                return Err(refuse(variable.name, value, &variable.kind.to_string()));
            }
        }
        Ok(Values(given))
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A number that [`check`](Self::check) has accepted.
    fn count(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or_default()
    }

    fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.count(name) as u64)
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    fn words(&self, name: &str) -> Vec<String> {
        let words = self.text(name).split(',').map(str::trim);
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// `STORAGE` and `DATABASE_URL`, which must fit together.
    fn database_url(&self) -> Result<Option<String>, ConfigError> {
        let storage = self.text("STORAGE");
        if storage == "memory" {
            return Ok(None);
        }
        if cfg!(not(feature = "jobs")) {
            let allowed = "memory in this build; build with --features jobs for more";
            return Err(refuse("STORAGE", storage, allowed));
        }
        let url = self.optional("DATABASE_URL");
        let (schemes, default): (&[_], _) = match storage {
            "sqlite" => (&["sqlite:"], Some("sqlite://jobs.db".to_owned())),
            _ => (&["postgres://", "postgresql://"], None),
        };
        let wanted = format!("an address that begins with {}", schemes.join(" or "));
        match url.or(default) {
            Some(url) if schemes.iter().any(|scheme| url.starts_with(scheme)) => Ok(Some(url)),
            // It may hold a password.
            _ => Err(refuse("DATABASE_URL", "…", &wanted)),
        }
    }

    /// The Job API's secret; it does without only where there is a key file.
    fn jwt_secret(&self) -> Result<Option<String>, ConfigError> {
        let secret = self.optional("JWT_SECRET");
        let is_needed =
            self.text("STORAGE") != "memory" && self.text("JWT_PUBLIC_KEY_FILE").is_empty();
        match &secret {
            // What was given is not repeated: it may be a secret all the same.
            Some(secret) if secret.len() < 32 => {
                Err(refuse("JWT_SECRET", "…", "at least 32 bytes"))
            }
            None if is_needed => {
                let allowed = "at least 32 bytes, or else JWT_PUBLIC_KEY_FILE must be set";
                Err(refuse("JWT_SECRET", "", allowed))
            }
            _ => Ok(secret),
        }
    }

    fn into_config(self) -> Result<Config, ConfigError> {
        let default_session = self.text("DEFAULT_SESSION");
        Ok(Config {
            host: self.text("HOST").to_owned(),
            port: self.count("PORT") as u16,
            log_level: self.text("LOG_LEVEL").parse().unwrap_or(LevelFilter::Info),
            worker_threads: match self.count("WORKER_THREADS") {
                0 => crate::engine::default_workers(),
                threads => threads,
            },
            enable_session_isolation: self.flag("ENABLE_SESSION_ISOLATION"),
            auto_map_session_by_ip: self.flag("AUTO_MAP_SESSION_BY_IP"),
            default_session: SessionKey::parse(default_session)
                .ok_or_else(|| refuse("DEFAULT_SESSION", default_session, "a session key"))?,
            trusted_proxies: self.count("TRUSTED_PROXIES"),
            session_timeout: self.millis("SESSION_TIMEOUT"),
            max_sessions: self.count("MAX_SESSIONS"),
            max_tasks_per_session: self.count("MAX_TASKS_PER_SESSION"),
            max_active_tasks: self.count("MAX_ACTIVE_TASKS"),
            max_store_bytes: self.count("MAX_STORE_BYTES"),
            max_body_bytes: self.count("MAX_BODY_BYTES"),
            max_result_bytes: self.count("MAX_RESULT_BYTES"),
            max_streams: self.count("MAX_STREAMS"),
            task_cleanup_interval: self.millis("TASK_CLEANUP_INTERVAL"),
            max_completed_tasks: self.count("MAX_COMPLETED_TASKS"),
            max_failed_tasks: self.count("MAX_FAILED_TASKS"),
            max_cancelled_tasks: self.count("MAX_CANCELLED_TASKS"),
            audit_log: self.optional("AUDIT_LOG").map(PathBuf::from),
            max_connections: self.count("MAX_CONNECTIONS"),
            max_connections_per_ip: self.count("MAX_CONNECTIONS_PER_IP"),
            head_timeout: self.millis("HEAD_TIMEOUT"),
            request_timeout: self.millis("REQUEST_TIMEOUT"),
            keep_alive_timeout: self.millis("KEEP_ALIVE_TIMEOUT"),
            allowed_hosts: self.words("ALLOWED_HOSTS"),
            cors_allowed_origins: self.words("CORS_ALLOWED_ORIGINS"),
            metrics: self.flag("METRICS"),
            enable_queue: self.flag("ENABLE_QUEUE"),
            database_url: self.database_url()?,
            jwt_secret: self.jwt_secret()?,
            jwt_public_key_file: self.optional("JWT_PUBLIC_KEY_FILE").map(PathBuf::from),
            jwt_issuer: self.optional("JWT_ISSUER"),
            jwt_audience: self.optional("JWT_AUDIENCE"),
            job_lease: Duration::from_secs(self.count("JOB_LEASE_SECONDS") as u64),
            job_retention: Duration::from_secs(self.count("JOB_RETENTION_DAYS") as u64 * 86_400),
        })
    }
}

impl Default for Config {
    /// Every variable at its default.
    fn default() -> Config {
        Config::from_pairs(std::iter::empty::<(String, String)>())
            .expect("the defaults are valid: a test holds them to it")
    }
}

/// The table as `--help` prints it.
pub fn help() -> String {
    let rows = VARIABLES.iter().map(|v| {
        let default = if v.default.is_empty() { "-" } else { v.default };
        format!("  {:<25} {:<10} {}\n", v.name, default, v.help)
    });
    rows.collect()
}

fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

fn refuse(name: &str, value: &str, allowed: &str) -> ConfigError {
    let value = crate::LogSafe(value);
    ConfigError(format!(
        "{name}=\"{value}\" is not valid: allowed is {allowed}"
    ))
}

fn read_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let broken = |error: dotenvy::Error| {
        let text = error.to_string();
        let reason = crate::LogSafe(&text);
        ConfigError(format!("{} cannot be read: {reason}", path.display()))
    };
    if !path.exists() {
        return Ok(Vec::new());
    }
    dotenvy::from_path_iter(path)
        .map_err(broken)?
        .collect::<Result<_, _>>()
        .map_err(broken)
}

/// Refuses a name that is almost one of ours.
fn check_spelling(name: &str) -> Result<(), ConfigError> {
    let meant = VARIABLES.iter().find(|variable| {
        // Two letters off a name of four is another word: HOME is not a misspelt HOST.
        let tolerance = if variable.name.len() <= 4 { 1 } else { 2 };
        distance(name, variable.name) <= tolerance
    });
    match meant {
        None => Ok(()),
        Some(meant) => Err(ConfigError(format!(
            "{} is not a variable of this program: did you mean {}?",
            crate::LogSafe(name),
            meant.name
        ))),
    }
}

/// How many letters to insert, remove, replace or swap with a neighbour, to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, value: &str) -> String {
        Config::from_pairs([(name, value)])
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = Config::default();
        assert_eq!((config.port, config.max_sessions), (3000, 1_000));
        assert!(config.worker_threads >= 4);
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (name, value) in [
            ("PORT", "65536"),
            ("SESSION_TIMEOUT", "99"),
            ("SESSION_TIMEOUT", "1.5"),
            ("MAX_SESSIONS", "0"),
            ("MAX_STORE_BYTES", "1048575"),
            ("METRICS", "yes"),
            ("LOG_LEVEL", "loud"),
            ("DEFAULT_SESSION", "a b"),
        ] {
            let text = error(name, value);
            assert!(text.contains(name) && text.contains(value), "{text}");
            assert!(text.contains("allowed") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_misspelt_name_is_refused_with_the_one_that_was_meant() {
        for (typo, meant) in [
            ("MAX_COMPLETED_TASK", "MAX_COMPLETED_TASKS"),
            ("WORKER_THREDS", "WORKER_THREADS"),
            ("PROT", "PORT"),
        ] {
            assert!(error(typo, "1").contains(meant), "{typo}");
        }
        for other in ["HOME", "PATH", "USER", "CARGO_HOME"] {
            assert!(Config::from_pairs([(other, "/x")]).is_ok(), "{other}");
        }
    }

    #[test]
    fn the_example_file_names_every_variable_with_its_default() {
        let example = include_str!("../.env.example");
        for variable in VARIABLES {
            let line = format!("{}={}", variable.name, variable.default);
            assert!(
                example.lines().any(|l| l.trim_start_matches("# ") == line),
                "{line} is missing"
            );
        }
        let pairs = dotenvy::from_read_iter(example.as_bytes());
        let pairs: Vec<_> = pairs.map(|pair| pair.expect("parses")).collect();
        assert!(Config::from_pairs(pairs).is_ok());
    }
}
