//! Lines of a task's log.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use super::Millis;

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
    /// All of them; a stream's place is its number in the stored form.
    pub(crate) const ALL: [LogStream; 3] = [LogStream::Log, LogStream::Out, LogStream::Err];

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

impl Serialize for LogStream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A line of a task's log.
///
/// ```
/// # use async_task_system::{ExecutorRegistry, NewTask, Outcome, SessionKey, TaskContext, TaskSystem};
/// # use async_task_system::store::WatchUpdate;
/// let mut registry = ExecutorRegistry::new();
/// registry.register("greet", |_| {
///     Ok(|ctx: &mut TaskContext<'_>| {
///         ctx.log("hello")?;
///         Ok(Outcome::Done(None))
///     })
/// });
/// let system = TaskSystem::start(&Default::default(), registry)?;
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = system.execution().submit(&session, NewTask::new("Greet").kind("greet"))?.id;
/// # let mut watch = system.tasks().watch(&session, id, Some(0))?;
/// # while let WatchUpdate::Events(_) = watch.next(std::time::Duration::from_secs(10)) {}
/// // Once it has ended:
/// let lines = system.tasks().log(&session, id, |lines| {
///     lines.map(|line| (line.n, line.text.into_owned())).collect::<Vec<_>>()
/// })?;
/// assert_eq!(lines, [(1, "hello".to_owned())]);
/// # system.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogLine<'a> {
    /// 1 for the task's first line, one more for each that follows, over all attempts.
    pub n: u64,
    /// When it came; never before the line ahead of it.
    pub at: Millis,
    /// The attempt that it belongs to.
    pub attempt: u32,
    /// Where it comes from.
    pub stream: LogStream,
    /// One line, without terminal codes and control characters other than tabs.
    pub text: Cow<'a, str>,
}

impl LogLine<'_> {
    /// The line with a text of its own.
    pub(crate) fn into_owned(self) -> LogLine<'static> {
        LogLine {
            text: Cow::Owned(self.text.into_owned()),
            ..self
        }
    }
}
