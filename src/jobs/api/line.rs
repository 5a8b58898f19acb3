//! A line of a job's log, as clients see it.

use serde::Serialize;

use crate::jobs::job::{DbMillis, rfc3339};
use crate::task::{LogLine, LogStream};

/// A line as clients see it.
#[derive(Serialize)]
pub(super) struct JobLine<'a> {
    n: u64,
    at: String,
    attempt: u32,
    stream: LogStream,
    text: &'a str,
}

impl<'a> JobLine<'a> {
    pub(super) fn new(line: &'a LogLine<'_>) -> JobLine<'a> {
        JobLine {
            n: line.n,
            at: rfc3339(line.at as DbMillis),
            attempt: line.attempt,
            stream: line.stream,
            text: &line.text,
        }
    }
}
