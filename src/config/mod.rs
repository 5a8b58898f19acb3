//! The configuration: one table of variables, read once into a typed [`Config`].
//!
//! `--help`, the checks and `.env.example` all follow [`VARIABLES`]; a new variable is one row
//! there and one field here.

mod file;
mod secret;
mod variables;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::task::SessionKey;
pub use secret::Secret;
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

    /// `ALLOWED_HOSTS`: names without scheme and path, as `Host` has them.
    fn hosts(&self) -> Result<Vec<String>, ConfigError> {
        let hosts = self.words("ALLOWED_HOSTS");
        match hosts.iter().find(|host| !is_host(host)) {
            None => Ok(hosts),
            Some(wrong) => {
                let allowed = "host names such as demo.example, comma-separated";
                Err(refuse("ALLOWED_HOSTS", wrong, allowed))
            }
        }
    }

    /// `CORS_ALLOWED_ORIGINS`, as browsers write them: in small letters, without the usual port.
    fn origins(&self) -> Result<Vec<String>, ConfigError> {
        let origin = |word: &String| {
            let word = word.to_ascii_lowercase();
            let (scheme, host) = word.split_once("://").filter(|(_, host)| is_host(host))?;
            Some(format!("{scheme}://{}", without_usual_port(scheme, host)))
        };
        let words = self.words("CORS_ALLOWED_ORIGINS");
        let origins = words.iter().map(|word| {
            let allowed = "origins such as https://app.example, without a path, comma-separated";
            origin(word).ok_or_else(|| refuse("CORS_ALLOWED_ORIGINS", word, allowed))
        });
        origins.collect()
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// `STORAGE` and `DATABASE_URL`, which must fit together.
    fn database_url(&self) -> Result<Option<Secret>, ConfigError> {
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
            Some(url) if schemes.iter().any(|scheme| url.starts_with(scheme)) => {
                Ok(Some(url.into()))
            }
            url => Err(refuse("DATABASE_URL", &url.unwrap_or_default(), &wanted)),
        }
    }

    /// The Job API's secret; it does without only where there is a key file.
    fn jwt_secret(&self) -> Result<Option<Secret>, ConfigError> {
        let secret = self.optional("JWT_SECRET");
        let is_needed =
            self.text("STORAGE") != "memory" && self.text("JWT_PUBLIC_KEY_FILE").is_empty();
        match &secret {
            Some(secret) if secret.len() < 32 => {
                Err(refuse("JWT_SECRET", secret, "at least 32 bytes"))
            }
            None if is_needed => {
                let allowed = "at least 32 bytes, or else JWT_PUBLIC_KEY_FILE must be set";
                Err(refuse("JWT_SECRET", "", allowed))
            }
            _ => Ok(secret.map(Secret::from)),
        }
    }

    fn into_config(self) -> Result<Config, ConfigError> {
        let default_session = self.text("DEFAULT_SESSION");
        Ok(Config {
            host: self.text("HOST").to_owned(),
            port: self.count("PORT") as u16,
            log_level: self.text("LOG_LEVEL").parse().unwrap_or(LevelFilter::Info),
            worker_threads: match self.count("WORKER_THREADS") {
                0 => default_workers(),
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
            allowed_hosts: self.hosts()?,
            cors_allowed_origins: self.origins()?,
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

/// The host as browsers write it in an origin of this scheme.
pub(crate) fn without_usual_port<'a>(scheme: &str, host: &'a str) -> &'a str {
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    host.strip_suffix(usual).unwrap_or(host)
}

/// A name or an address, perhaps with a port.
fn is_host(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}

fn refuse(name: &str, value: &str, allowed: &str) -> ConfigError {
    let value = match may_be_secret(name, value) {
        true => "…",
        false => value,
    };
    let value = crate::log_safe::LogSafe(value);
    ConfigError(format!(
        "{name}=\"{value}\" is not valid: allowed is {allowed}"
    ))
}

/// Whether a value is not to be repeated; an address may have come to the wrong name.
fn may_be_secret(name: &str, value: &str) -> bool {
    let is_address = value.contains("://") && value.contains('@');
    is_address || (["DATABASE_URL", "JWT_SECRET"].contains(&name) && !value.is_empty())
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
