//! Text that no log shows.

use std::fmt;
use std::ops::Deref;

/// A secret, or an address that may hold one: it reads as a `str`, and its `Debug` shows nothing of it.
///
/// ```
/// use async_task_system::config::Secret;
///
/// let secret = Secret::from("open sesame".to_owned());
/// assert_eq!((&*secret, format!("{secret:?}")), ("open sesame", "…".to_owned()));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
