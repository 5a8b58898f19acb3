//! Whose task it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::task::ParseError;

/// The longest session key, in characters.
///
/// ```
/// use async_task_system::{SessionKey, task::MAX_SESSION_KEY};
///
/// assert!(SessionKey::parse(&"k".repeat(MAX_SESSION_KEY)).is_some());
/// assert!(SessionKey::parse(&"k".repeat(MAX_SESSION_KEY + 1)).is_none());
/// ```
pub const MAX_SESSION_KEY: usize = 128;

/// The name of one visitor's isolated world. Every task belongs to exactly one.
///
/// 1 to 128 characters of `A-Z a-z 0-9 . _ : -`. Cheap to clone.
///
/// ```
/// use async_task_system::SessionKey;
///
/// assert!(SessionKey::parse("customer-42").is_some());
/// assert!(SessionKey::parse("no spaces").is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    /// The key, or `None` where `text` is empty, too long or has another character.
    ///
    /// ```
    /// use async_task_system::SessionKey;
    ///
    /// assert!(SessionKey::parse("team:a.b-1_2").is_some());
    /// assert!(SessionKey::parse("").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<SessionKey> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        let sane = (1..=MAX_SESSION_KEY).contains(&text.len()) && text.bytes().all(allowed);
        sane.then(|| SessionKey(text.into()))
    }

    /// The key as text.
    ///
    /// ```
    /// # use async_task_system::SessionKey;
    /// let key = SessionKey::parse("customer-42").expect("a valid key");
    /// assert_eq!(key.as_str(), "customer-42");
    /// ```
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// ```
/// # use async_task_system::SessionKey;
/// let session: SessionKey = "customer-42".parse()?;
/// assert_eq!(session.as_str(), "customer-42");
/// # Ok::<(), async_task_system::task::ParseError>(())
/// ```
impl FromStr for SessionKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<SessionKey, ParseError> {
        SessionKey::parse(text).ok_or(ParseError("1 to 128 characters of A-Z a-z 0-9 . _ : -"))
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SessionKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
