//! The configuration: one table of variables, read once into a typed [`Config`].
//!
//! `--help`, the checks and `.env.example` all follow [`VARIABLES`]; a new variable is one row
//! there and one field here.

mod error;
mod file;
mod names;
mod secret;
mod values;
mod variables;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::task::SessionKey;
pub use error::ConfigError;
pub use secret::Secret;
pub use values::default_workers;
pub(crate) use values::without_usual_port;
use values::{Values, refuse};
use variables::find;
pub use variables::{Kind, VARIABLES, Variable, help};

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
    pub max_log_bytes: usize,
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
    /// The file that adds types to those of the program.
    pub executors: Option<PathBuf>,
    /// The folder of the scenes that all sessions have, besides the program's own.
    pub scenes: Option<PathBuf>,
    /// What clients must show who create or start tasks of its commands; `None`: nothing.
    pub executors_token: Option<Secret>,
    /// What workers outside this process must show; `None`: there are none.
    pub worker_token: Option<Secret>,
    pub jwt_public_key_file: Option<PathBuf>,
    pub jwt_issuer: Option<String>,
    pub jwt_audience: Option<String>,
    pub job_lease: Duration,
    pub job_retention: Duration,
    /// What may be a mistake and stops no start, each in one line. [`Server::start`](crate::Server::start) logs it.
    pub warnings: Vec<String>,
}

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
    /// Every variable that does not parse or is out of range, every misspelt name in the file, and
    /// every variable of the original that must not be ignored.
    pub fn from_env() -> Result<Config, ConfigError> {
        Config::judge_env().into_result()
    }

    /// As [`from_env`](Self::from_env); the configuration is there also where it has mistakes.
    pub(crate) fn judge_env() -> Judged {
        let mut given = Given::default();
        match file::read(Path::new(ENV_FILE)) {
            Ok(pairs) => pairs
                .iter()
                .for_each(|(name, value)| given.add(name, value, Source::File)),
            Err(mistake) => given.mistakes.push(mistake),
        }
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            let lossy = value.to_string_lossy();
            match value.to_str().is_none() && find(name).is_some() {
                true => given.mistakes.push(refuse(name, &lossy, "text in UTF-8")),
                false => given.add(name, &lossy, Source::Environment),
            }
        }
        given.judge()
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
        let names = file::read(Path::new(ENV_FILE)).map_err(ConfigError::from)?;
        Ok(names
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| find(name).is_none() && !names::is_retired(name))
            .collect())
    }

    /// Reads `pairs` of names and values, as if they stood in the file `.env`; a later pair wins.
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
        let mut given = Given::default();
        for (name, value) in pairs {
            given.add(&name.into(), &value.into(), Source::File);
        }
        given.judge().into_result()
    }

    /// The configuration, with its mistakes in `values.mistakes`.
    fn of(values: &mut Values) -> Config {
        let (hosts, origins) = (values.hosts(), values.origins());
        let is_tiny_http = values.is_tiny_http();
        let is_tiny_http = values.noted(is_tiny_http);
        let (database_url, jwt_secret) = (values.database_url(), values.jwt_secret());
        let allowed_hosts = values.noted(hosts);
        let cors_allowed_origins = values.noted(origins);
        let database_url = values.noted(database_url);
        let jwt_secret = values.noted(jwt_secret);
        let (worker_token, executors_token) = (
            values.token("WORKER_TOKEN"),
            values.token("EXECUTORS_TOKEN"),
        );
        let worker_token = values.noted(worker_token);
        let executors_token = values.noted(executors_token);
        let session = SessionKey::parse(values.text("DEFAULT_SESSION"));
        Config {
            host: values.text("HOST").to_owned(),
            port: values.count("PORT") as u16,
            log_level: values
                .text("LOG_LEVEL")
                .parse()
                .unwrap_or(LevelFilter::Info),
            worker_threads: match values.count("WORKER_THREADS") {
                0 => default_workers(),
                threads => threads,
            },
            enable_session_isolation: values.flag("ENABLE_SESSION_ISOLATION"),
            auto_map_session_by_ip: values.flag("AUTO_MAP_SESSION_BY_IP"),
            default_session: session.expect("the variable's kind has judged it"),
            trusted_proxies: values.count("TRUSTED_PROXIES"),
            session_timeout: values.millis("SESSION_TIMEOUT"),
            max_sessions: values.count("MAX_SESSIONS"),
            max_tasks_per_session: values.count("MAX_TASKS_PER_SESSION"),
            max_active_tasks: values.count("MAX_ACTIVE_TASKS"),
            max_store_bytes: values.count("MAX_STORE_BYTES"),
            max_body_bytes: values.count("MAX_BODY_BYTES"),
            max_result_bytes: values.count("MAX_RESULT_BYTES"),
            max_log_bytes: values.count("MAX_LOG_BYTES"),
            max_streams: values.count("MAX_STREAMS"),
            task_cleanup_interval: values.millis("TASK_CLEANUP_INTERVAL"),
            max_completed_tasks: values.count("MAX_COMPLETED_TASKS"),
            max_failed_tasks: values.count("MAX_FAILED_TASKS"),
            max_cancelled_tasks: values.count("MAX_CANCELLED_TASKS"),
            audit_log: values.optional("AUDIT_LOG").map(PathBuf::from),
            is_tiny_http,
            max_connections: values.count("MAX_CONNECTIONS"),
            max_connections_per_ip: values.count("MAX_CONNECTIONS_PER_IP"),
            head_timeout: values.millis("HEAD_TIMEOUT"),
            request_timeout: values.millis("REQUEST_TIMEOUT"),
            keep_alive_timeout: values.millis("KEEP_ALIVE_TIMEOUT"),
            allowed_hosts,
            cors_allowed_origins,
            metrics: values.flag("METRICS"),
            enable_queue: values.flag("ENABLE_QUEUE"),
            database_url,
            jwt_secret,
            executors: values.optional("EXECUTORS").map(PathBuf::from),
            scenes: values.optional("SCENES").map(PathBuf::from),
            executors_token,
            worker_token,
            jwt_public_key_file: values.optional("JWT_PUBLIC_KEY_FILE").map(PathBuf::from),
            jwt_issuer: values.optional("JWT_ISSUER"),
            jwt_audience: values.optional("JWT_AUDIENCE"),
            job_lease: Duration::from_secs(values.count("JOB_LEASE_SECONDS") as u64),
            job_retention: Duration::from_secs(values.count("JOB_RETENTION_DAYS") as u64 * 86_400),
            warnings: values.warnings(),
        }
    }
}

/// Where a value comes from. The file is written for this program; the environment is everybody's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    File,
    Environment,
}

/// What was given, before the values are judged.
#[derive(Default)]
struct Given {
    values: HashMap<&'static str, String>,
    mistakes: Vec<String>,
    warnings: Vec<String>,
}

impl Given {
    fn add(&mut self, name: &str, value: &str, source: Source) {
        if let Some(variable) = find(name) {
            self.values.insert(variable.name, value.to_owned());
        } else if names::is_retired(name) {
            self.mistakes.extend(names::retired(name, value));
        } else if let Some(text) = names::misspelt(name) {
            match source {
                Source::File => self.mistakes.push(text),
                Source::Environment => self.warnings.push(text),
            }
        }
    }

    fn judge(self) -> Judged {
        let mut values = Values::check(self.values, self.mistakes);
        let mut config = Config::of(&mut values);
        config.warnings.extend(self.warnings);
        Judged {
            config,
            mistakes: values.mistakes,
        }
    }
}

/// A configuration with what is wrong in it. What could not be used is at its default.
pub(crate) struct Judged {
    pub(crate) config: Config,
    pub(crate) mistakes: Vec<String>,
}

impl Judged {
    fn into_result(self) -> Result<Config, ConfigError> {
        ConfigError::unless_none(self.mistakes).map(|()| self.config)
    }
}

impl Default for Config {
    /// Every variable at its default.
    fn default() -> Config {
        Config::from_pairs(std::iter::empty::<(String, String)>())
            .expect("the defaults are valid: a test holds them to it")
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
