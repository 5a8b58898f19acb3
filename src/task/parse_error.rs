//! Text that cannot be read.

use std::fmt;

/// A text is not what it was read as: a session key, a status or a share link's token.
///
/// ```
/// use async_task_system::SessionKey;
///
/// let error = "no spaces".parse::<SessionKey>().unwrap_err();
/// assert_eq!(error.to_string(), "not 1 to 128 characters of A-Z a-z 0-9 . _ : -");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError(pub(crate) &'static str);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}", self.0)
    }
}

impl std::error::Error for ParseError {}
