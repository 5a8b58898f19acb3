//! What the variables are set to, checked, and what the configuration makes of it.

use std::collections::HashMap;
use std::time::Duration;

use super::secret::Secret;
use super::variables::{Kind, VARIABLES};
use crate::log_safe::LogSafe;

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
    pub(super) fn noted<T: Default>(&mut self, read: Result<T, String>) -> T {
        read.unwrap_or_else(|mistake| {
            self.mistakes.push(mistake);
            T::default()
        })
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// A number that [`check`](Self::check) has accepted.
    pub(super) fn count(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or_default()
    }

    pub(super) fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.count(name) as u64)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
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
    pub(super) fn hosts(&self) -> Result<Vec<String>, String> {
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
    pub(super) fn origins(&self) -> Result<Vec<String>, String> {
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

    pub(super) fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// `HTTP_SERVER`, as far as this build has it.
    pub(super) fn is_tiny_http(&self) -> Result<bool, String> {
        match self.text("HTTP_SERVER") {
            "tiny_http" if cfg!(not(feature = "tiny-http")) => {
                let allowed = "std in this build; build with --features tiny-http for more";
                Err(refuse("HTTP_SERVER", "tiny_http", allowed))
            }
            name => Ok(name == "tiny_http"),
        }
    }

    /// `STORAGE` and `DATABASE_URL`, which must fit together.
    pub(super) fn database_url(&self) -> Result<Option<Secret>, String> {
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
    pub(super) fn jwt_secret(&self) -> Result<Option<Secret>, String> {
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

    /// A token that is compared as it is.
    pub(super) fn token(&self, name: &str) -> Result<Option<Secret>, String> {
        match self.optional(name) {
            Some(token) if token.len() < 16 => Err(refuse(name, &token, "16 bytes or more")),
            token => Ok(token.map(Secret::from)),
        }
    }

    /// Settings that fit, but not together.
    pub(super) fn warnings(&self) -> Vec<String> {
        let is_set = |name| !self.text(name).is_empty();
        let has_jobs = self.text("STORAGE") != "memory";
        let found = [
            (
                is_set("EXECUTORS_TOKEN") && !is_set("EXECUTORS"),
                "EXECUTORS_TOKEN does nothing without EXECUTORS",
            ),
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
    let are_secret = [
        "DATABASE_URL",
        "JWT_SECRET",
        "EXECUTORS_TOKEN",
        "WORKER_TOKEN",
    ];
    is_address || (are_secret.contains(&name) && !value.is_empty())
}

/// The number of cores, at least 4.
///
/// ```
/// assert!(async_task_system::engine::default_workers() >= 4);
/// ```
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4))
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
