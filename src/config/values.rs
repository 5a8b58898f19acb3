//! What the variables are set to, checked, and what the configuration makes of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::variables::{Kind, VARIABLES};
use super::{Config, Secret, default_workers, without_usual_port};
use crate::log_safe::LogSafe;
use crate::task::SessionKey;

/// Values that have passed their variable's check; what has not is at its default.
pub(super) struct Values {
    values: HashMap<&'static str, String>,
    pub(super) mistakes: Vec<String>,
}

impl Values {
    pub(super) fn check(mut given: HashMap<&'static str, String>, mistakes: Vec<String>) -> Values {
        let mut mistakes = mistakes;
        for variable in VARIABLES {
            let value = given.entry(variable.name).or_default();
            // An empty value is none: `AUDIT_LOG=` in a file switches the log off.
            *value = value.trim().to_owned();
            if !value.is_empty() && !variable.kind.accepts(value) {
                let allowed = variable.kind.to_string();
                mistakes.push(refuse(variable.name, value, &allowed));
                value.clear();
            }
            if value.is_empty() {
                *value = variable.default.to_owned();
            }
            if matches!(variable.kind, Kind::OneOf(_)) {
                value.make_ascii_lowercase();
            }
        }
        Values {
            values: given,
            mistakes,
        }
    }

    /// What was read, or nothing and a mistake more.
    fn noted<T: Default>(&mut self, read: Result<T, String>) -> T {
        read.unwrap_or_else(|mistake| {
            self.mistakes.push(mistake);
            T::default()
        })
    }

    fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
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
    fn hosts(&self) -> Result<Vec<String>, String> {
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
    fn origins(&self) -> Result<Vec<String>, String> {
        let origin = |word: &String| {
            let word = word.to_ascii_lowercase();
            let (scheme, host) = word.split_once("://")?;
            // Any port, as in http://localhost:*
            let name = host.strip_suffix(":*").unwrap_or(host);
            is_host(name).then(|| format!("{scheme}://{}", without_usual_port(scheme, host)))
        };
        let words = self.words("CORS_ALLOWED_ORIGINS");
        let origins = words.iter().map(|word| {
            let allowed = "origins such as https://app.example or http://localhost:*, without a path, comma-separated";
            origin(word).ok_or_else(|| refuse("CORS_ALLOWED_ORIGINS", word, allowed))
        });
        origins.collect()
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// `HTTP_SERVER`, as far as this build has it.
    fn is_tiny_http(&self) -> Result<bool, String> {
        match self.text("HTTP_SERVER") {
            "tiny_http" if cfg!(not(feature = "tiny-http")) => {
                let allowed = "std in this build; build with --features tiny-http for more";
                Err(refuse("HTTP_SERVER", "tiny_http", allowed))
            }
            name => Ok(name == "tiny_http"),
        }
    }

    /// `STORAGE` and `DATABASE_URL`, which must fit together.
    fn database_url(&self) -> Result<Option<Secret>, String> {
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
        let wanted = match storage {
            "sqlite" => "an address such as sqlite://jobs.db or sqlite:///folder/jobs.db",
            _ => "an address such as postgres://user:password@host/database",
        };
        match url.or(default) {
            Some(url) if schemes.iter().any(|scheme| url.starts_with(scheme)) => {
                Ok(Some(url.into()))
            }
            url => Err(refuse("DATABASE_URL", &url.unwrap_or_default(), wanted)),
        }
    }

    /// The Job API's secret. It is judged where it is what tokens are checked with.
    fn jwt_secret(&self) -> Result<Option<Secret>, String> {
        let secret = self.optional("JWT_SECRET");
        let is_needed = cfg!(feature = "jobs")
            && self.text("STORAGE") != "memory"
            && self.text("JWT_PUBLIC_KEY_FILE").is_empty();
        match secret.as_deref().unwrap_or_default() {
            secret if is_needed && secret.len() < 32 => {
                let allowed = "at least 32 bytes, or else JWT_PUBLIC_KEY_FILE must be set";
                Err(refuse("JWT_SECRET", secret, allowed))
            }
            _ => Ok(secret.map(Secret::from)),
        }
    }

    /// Settings that fit, but not together.
    fn warnings(&self) -> Vec<String> {
        let is_set = |name| !self.text(name).is_empty();
        let has_jobs = self.text("STORAGE") != "memory";
        let found = [
            (
                self.flag("ENABLE_QUEUE") && !has_jobs,
                "ENABLE_QUEUE=true does nothing without STORAGE=sqlite or postgres",
            ),
            (
                has_jobs && is_set("JWT_SECRET") && is_set("JWT_PUBLIC_KEY_FILE"),
                "JWT_SECRET checks no token: JWT_PUBLIC_KEY_FILE is set too, and wins",
            ),
            (
                self.count("HEAD_TIMEOUT") > self.count("REQUEST_TIMEOUT"),
                "HEAD_TIMEOUT is longer than REQUEST_TIMEOUT, which ends a request first",
            ),
        ];
        let found = found.into_iter().filter(|(is_so, _)| *is_so);
        found.map(|(_, text)| text.to_owned()).collect()
    }

    /// The configuration, and in `mistakes` what is wrong with it.
    pub(super) fn config(&mut self) -> Config {
        let (hosts, origins) = (self.hosts(), self.origins());
        let is_tiny_http = self.is_tiny_http();
        let is_tiny_http = self.noted(is_tiny_http);
        let (database_url, jwt_secret) = (self.database_url(), self.jwt_secret());
        let allowed_hosts = self.noted(hosts);
        let cors_allowed_origins = self.noted(origins);
        let database_url = self.noted(database_url);
        let jwt_secret = self.noted(jwt_secret);
        let session = SessionKey::parse(self.text("DEFAULT_SESSION"));
        Config {
            host: self.text("HOST").to_owned(),
            port: self.count("PORT") as u16,
            log_level: self.text("LOG_LEVEL").parse().unwrap_or(LevelFilter::Info),
            worker_threads: match self.count("WORKER_THREADS") {
                0 => default_workers(),
                threads => threads,
            },
            enable_session_isolation: self.flag("ENABLE_SESSION_ISOLATION"),
            auto_map_session_by_ip: self.flag("AUTO_MAP_SESSION_BY_IP"),
            default_session: session.expect("the variable's kind has judged it"),
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
            is_tiny_http,
            max_connections: self.count("MAX_CONNECTIONS"),
            max_connections_per_ip: self.count("MAX_CONNECTIONS_PER_IP"),
            head_timeout: self.millis("HEAD_TIMEOUT"),
            request_timeout: self.millis("REQUEST_TIMEOUT"),
            keep_alive_timeout: self.millis("KEEP_ALIVE_TIMEOUT"),
            allowed_hosts,
            cors_allowed_origins,
            metrics: self.flag("METRICS"),
            enable_queue: self.flag("ENABLE_QUEUE"),
            database_url,
            jwt_secret,
            jwt_public_key_file: self.optional("JWT_PUBLIC_KEY_FILE").map(PathBuf::from),
            jwt_issuer: self.optional("JWT_ISSUER"),
            jwt_audience: self.optional("JWT_AUDIENCE"),
            job_lease: Duration::from_secs(self.count("JOB_LEASE_SECONDS") as u64),
            job_retention: Duration::from_secs(self.count("JOB_RETENTION_DAYS") as u64 * 86_400),
            warnings: self.warnings(),
        }
    }
}

/// A name or an address, perhaps with a port.
fn is_host(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}

/// Repeats the value where it cannot be a secret.
pub(super) fn refuse(name: &str, value: &str, allowed: &str) -> String {
    let value = match may_be_secret(name, value) {
        true => "…",
        false => value,
    };
    let shown = LogSafe(value);
    match value.is_empty() {
        true => format!("{name} must be set: {allowed}"),
        false => format!("{name}=\"{shown}\" is not valid: allowed is {allowed}"),
    }
}

/// Whether a value is not to be repeated; an address may have come to the wrong name.
fn may_be_secret(name: &str, value: &str) -> bool {
    let is_address = value.contains("://") && value.contains('@');
    is_address || (["DATABASE_URL", "JWT_SECRET"].contains(&name) && !value.is_empty())
}
