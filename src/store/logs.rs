//! Logs of tasks: how lines come in, and how they are read.

use crate::executor::TaskError;
use crate::plain_text::log_lines;
use crate::store::session::Attempt;
use crate::store::task_log::{LogMark, TaskLog};
use crate::store::{StoreError, TaskManager};
use crate::task::{LogLine, LogStream, SessionKey, TaskId};

/// The most lines added or read under one hold of the session's lock.
const BATCH: usize = 256;

/// Lines of a log, in order.
///
/// ```
/// # use async_task_system::store::{TaskWatch, WatchUpdate};
/// # use std::time::Duration;
/// fn follow(watch: &mut TaskWatch) {
///     if let WatchUpdate::Log(part) = watch.next(Duration::from_secs(15)) {
///         println!("{} lines are missing here", part.dropped);
///         part.lines.iter().for_each(|line| println!("{} {}", line.n, line.text));
///     }
/// }
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogPart {
    /// How many lines ahead of these were dropped before they could be told.
    pub dropped: u64,
    /// The lines, one or more unless some were dropped.
    pub lines: Vec<LogLine<'static>>,
}

impl LogPart {
    /// The next lines behind `mark`, which moves on; and whether there are more.
    pub(super) fn read(log: &TaskLog, mark: &mut LogMark) -> (LogPart, bool) {
        let mut unread = log.since(*mark);
        let dropped = unread.mark().n().saturating_sub(mark.n());
        let lines = unread.by_ref().take(BATCH);
        let lines = lines.map(LogLine::into_owned).collect();
        *mark = unread.mark();
        (LogPart { dropped, lines }, log.is_behind(*mark))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dropped == 0 && self.lines.is_empty()
    }
}

/// What a part of a log came to.
#[derive(Default)]
pub(crate) struct LogRead {
    /// The place behind the line read last.
    pub(crate) mark: LogMark,
    /// Whether `read` stopped before the end.
    pub(crate) more: bool,
    /// How many of the task's lines are no longer kept.
    pub(crate) dropped: u64,
}

impl TaskManager {
    /// Reads a task's log in place, oldest line first; as [`inspect`](Self::inspect).
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let id = tasks.create(&session, NewTask::new("Report"))?.id;
    /// assert_eq!(tasks.log(&session, id, |lines| lines.count())?, 0, "nobody has said anything");
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn log<R>(
        &self,
        key: &SessionKey,
        id: TaskId,
        read: impl FnOnce(&mut dyn Iterator<Item = LogLine<'_>>) -> R,
    ) -> Result<R, StoreError> {
        self.with_record(key, id, |record| match record.task_log() {
            Some(log) => read(&mut log.since(log.start())),
            None => read(&mut std::iter::empty()),
        })
    }

    /// The place behind line `n` of a task's log.
    pub(crate) fn log_mark(
        &self,
        key: &SessionKey,
        id: TaskId,
        n: u64,
    ) -> Result<LogMark, StoreError> {
        self.with_record(key, id, |record| {
            let log = record.task_log();
            log.map_or(LogMark::default(), |log| log.mark_after(n))
        })
    }

    /// Part of a task's log, from `mark` on: calls `read` under the session's lock until it returns false.
    pub(crate) fn log_part(
        &self,
        key: &SessionKey,
        id: TaskId,
        mark: LogMark,
        mut read: impl FnMut(&LogLine<'_>) -> bool,
    ) -> Result<LogRead, StoreError> {
        self.with_record(key, id, |record| {
            let Some(log) = record.task_log() else {
                return LogRead {
                    mark,
                    more: false,
                    dropped: 0,
                };
            };
            let mut lines = log.since(mark);
            let more = lines.by_ref().any(|line| !read(&line));
            LogRead {
                mark: lines.mark(),
                more,
                dropped: log.dropped(),
            }
        })
    }

    /// Adds the lines of `text` to the log of a running attempt.
    pub(crate) fn add_log(
        &self,
        attempt: &Attempt,
        stream: LogStream,
        text: &str,
    ) -> Result<(), TaskError> {
        let session = &attempt.session;
        let mut lines = log_lines(text);
        loop {
            let batch: Vec<_> = lines.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            session.touch(self.clock());
            let mut state = session.state.write();
            if !state.add_lines(&self.shared, attempt, stream, &batch) {
                return Err(TaskError::stopped());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::races::{check, key, running, store};
    use crate::store::{Limits, NewTask};

    #[test]
    fn a_full_store_makes_a_log_forget_and_takes_no_reserve() {
        let tasks = store(Limits {
            max_store_bytes: 1 << 20,
            ..Limits::default()
        });
        let attempts = [running(&tasks), running(&tasks)];
        let filler = NewTask::new("n").description(&"x".repeat(1_000));
        while tasks.create(&key(), filler.clone()).is_ok() {}
        while tasks.create(&key(), NewTask::new("n")).is_ok() {}
        for n in 0..3_000 {
            for attempt in &attempts {
                let line = format!("{n} {}", "y".repeat(n % 500));
                let added = tasks.add_log(attempt, LogStream::Out, &line);
                added.expect("a full store fails no attempt");
            }
        }
        for attempt in &attempts {
            let kept = tasks.log(&key(), attempt.task, |lines| lines.count());
            let read = tasks.log_part(&key(), attempt.task, LogMark::default(), |_| true);
            let dropped = read.map(|read| read.dropped);
            assert_eq!(dropped.map(|n| n as usize + kept.unwrap_or(0)), Ok(3_000));
            (0..=100).for_each(|percent| {
                let reported = tasks.report(attempt, percent, "", "");
                reported.expect("it has its reserve");
            });
            let told = tasks.history(&key(), attempt.task, |events| events.count());
            assert_eq!(told, Ok(3 + 100));
        }
        check(&tasks);
    }
}
