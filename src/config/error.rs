//! Why a configuration cannot be used.

use std::fmt;

/// Why the configuration cannot be used: every mistake in it, for the person who wrote it.
///
/// As text it is one line, with `; ` between two mistakes.
///
/// ```
/// use async_task_system::Config;
///
/// let error = Config::from_pairs([("PORT", "many"), ("METRICS", "on")]).expect_err("two mistakes");
/// assert!(error.to_string().contains("PORT"));
/// assert_eq!(error.mistakes().len(), 2);
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// `Ok` where there is no mistake.
    pub(crate) fn unless_none(mistakes: Vec<String>) -> Result<(), ConfigError> {
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(ConfigError(mistakes)),
        }
    }

    pub(crate) fn into_mistakes(self) -> Vec<String> {
        self.0
    }

    /// Each mistake, in one line.
    ///
    /// ```
    /// # use async_task_system::Config;
    /// let error = Config::from_pairs([("PORT", "many")]).expect_err("no port");
    /// assert!(error.mistakes()[0].starts_with("PORT="));
    /// ```
    pub fn mistakes(&self) -> &[String] {
        &self.0
    }
}

impl From<String> for ConfigError {
    fn from(mistake: String) -> ConfigError {
        ConfigError(vec![mistake])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ConfigError {}
