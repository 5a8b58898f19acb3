//! The configuration: one table of variables, read once into a typed [`Config`].
//!
//! `--help`, the checks and `.env.example` all follow [`VARIABLES`]; a new variable is one row
//! there and one field here.

mod file;
mod secret;
mod values;
mod variables;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::task::SessionKey;
pub use secret::Secret;
use values::{Values, refuse};
pub use variables::{Kind, VARIABLES, Variable, help};
use variables::{find, meant_by};

/// Read from the current directory, where it is there.
const ENV_FILE: &str = ".env";

/// The configuration, checked.
///
/// ```
/// use async_task_system::Config;
/// use std::time::Duration;
///
/// let config = Config::from_pairs([("SESSION_TIMEOUT", "60000"), ("METRICS", "true")])?;
/// assert_eq!((config.session_timeout, config.metrics), (Duration::from_secs(60), true));
/// assert_eq!(config.max_sessions, Config::default().max_sessions);
/// # Ok::<(), async_task_system::ConfigError>(())
/// ```
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
    /// Whether `tiny_http` speaks HTTP: `HTTP_SERVER`.
    pub is_tiny_http: bool,
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
    pub database_url: Option<Secret>,
    pub jwt_secret: Option<Secret>,
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
    /// ```no_run
    /// # use async_task_system::Config;
    /// let config = Config::from_env()?;
    /// println!("port {}", config.port);
    /// # Ok::<(), async_task_system::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first variable that does not parse, is out of range or is misspelt.
    pub fn from_env() -> Result<Config, ConfigError> {
        let mut pairs = file::read(Path::new(ENV_FILE))?;
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

    /// The names in the file `.env` of the current directory that are none of this program's
    /// variables, and do nothing.
    ///
    /// ```
    /// # use async_task_system::Config;
    /// for name in Config::unknown_in_file()? {
    ///     println!("{name} does nothing");
    /// }
    /// # Ok::<(), async_task_system::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn unknown_in_file() -> Result<Vec<String>, ConfigError> {
        let names = file::read(Path::new(ENV_FILE))?.into_iter();
        Ok(names
            .map(|(name, _)| name)
            .filter(|name| find(name).is_none())
            .collect())
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

/// The number of cores, at least 4.
///
/// ```
/// assert!(async_task_system::engine::default_workers() >= 4);
/// ```
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4))
}

impl Default for Config {
    /// Every variable at its default.
    fn default() -> Config {
        Config::from_pairs(std::iter::empty::<(String, String)>())
            .expect("the defaults are valid: a test holds them to it")
    }
}

/// The host as browsers write it in an origin of this scheme.
pub(crate) fn without_usual_port<'a>(scheme: &str, host: &'a str) -> &'a str {
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    host.strip_suffix(usual).unwrap_or(host)
}

/// Refuses a name that is almost one of ours.
fn check_spelling(name: &str) -> Result<(), ConfigError> {
    match meant_by(name) {
        None => Ok(()),
        Some(meant) => Err(ConfigError(format!(
            "{} is not a variable of this program: did you mean {}?",
            crate::log_safe::LogSafe(name),
            meant.name
        ))),
    }
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

    const URL: &str = "postgres://hugo:hunter2@db.example/jobs";

    #[test]
    fn no_secret_stands_in_the_configurations_debug_text() {
        let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
        let pairs = [("JWT_SECRET", secret), ("METRICS", "true")];
        let mut config = Config::from_pairs(pairs).expect("valid");
        config.database_url = Some(URL.to_owned().into());
        let text = format!("{config:?}");
        assert!(
            !text.contains("hunter2") && !text.contains("hugo"),
            "{text}"
        );
        assert!(text.contains("metrics: true"), "{text}");
    }

    #[test]
    fn no_refusal_repeats_what_may_be_a_secret() {
        let wrong = [
            ("STORAGE", URL),
            ("DATABASE_URL", URL),
            ("JWT_SECRET", "hunter2"),
            ("ALLOWED_HOSTS", URL),
            ("PORT", URL),
        ];
        for (name, value) in wrong {
            let pairs = [("STORAGE", "sqlite"), (name, value)];
            let error = Config::from_pairs(pairs).expect_err("must be refused");
            let text = error.to_string();
            assert!(
                !text.contains("hunter2") && !text.contains("hugo"),
                "{text}"
            );
            assert!(text.contains("is not valid"), "{text}");
        }
    }

    #[test]
    fn the_example_file_names_every_variable_with_its_default() {
        let example = include_str!("../../.env.example");
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
