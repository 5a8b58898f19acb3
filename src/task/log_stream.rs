//! Where a line of a task's log comes from.

use std::fmt;

/// Where a line of a task's log comes from.
///
/// ```
/// use async_task_system::LogStream;
///
/// assert_eq!(LogStream::Err.to_string(), "err");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogStream {
    /// The executor said it.
    Log,
    /// A command wrote it to its standard output.
    Out,
    /// A command wrote it to its standard error.
    Err,
}

impl LogStream {
    /// Its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            LogStream::Log => "log",
            LogStream::Out => "out",
            LogStream::Err => "err",
        }
    }
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
