//! How logs are asked for, and how they look: plain lines of text, or JSON.

use std::time::{Duration, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use crate::http::fields::Query;
use crate::http::{Problem, Request};
use crate::store::LogPart;
use crate::task::{LogLine, Millis};

const TEXT: &str = "text/plain";
pub(crate) const TEXT_UTF8: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const MOMENT: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// What part of a log is asked for, and how.
pub(crate) struct LogQuery {
    /// Lines up to this number are left out.
    pub(crate) after: u64,
    attempt: Option<u32>,
    /// Go on until the end.
    pub(crate) follow: bool,
    timestamps: bool,
    pub(crate) is_json: bool,
}

impl LogQuery {
    pub(crate) fn parse(request: &Request<'_>) -> Result<LogQuery, Problem> {
        let mut query = Query::new(request, &["after", "attempt", "follow", "timestamps"]);
        let after = query.parse("after", "the number of a line", |text| text.parse().ok());
        let attempt = query.parse("attempt", "a whole number from 1 up", |text| {
            text.parse().ok().filter(|&attempt| attempt > 0)
        });
        let (follow, timestamps) = (query.flag("follow"), query.flag("timestamps"));
        query.finish()?;
        let is_json = request.wanted(&[JSON], TEXT) == JSON;
        if is_json && follow {
            let message = "follow=1 is for text; for JSON take the events with ?log=1";
            return Err(Problem::new(400, "invalid_request", message).about("follow"));
        }
        Ok(LogQuery {
            after: after.unwrap_or(0),
            attempt,
            follow,
            timestamps,
            is_json,
        })
    }

    pub(crate) fn takes(&self, line: &LogLine<'_>) -> bool {
        self.attempt.is_none_or(|attempt| line.attempt == attempt)
    }

    /// Appends a part of a log.
    pub(crate) fn write_part(&self, out: &mut Vec<u8>, part: &LogPart) {
        write_gap(out, part.dropped);
        part.lines
            .iter()
            .for_each(|line| self.write_text(out, line));
    }

    /// Appends a line of text, if it is asked for.
    pub(crate) fn write_text(&self, out: &mut Vec<u8>, line: &LogLine<'_>) {
        if !self.takes(line) {
            return;
        }
        if self.timestamps {
            out.extend_from_slice(moment(line.at).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text.as_bytes());
        out.push(b'\n');
    }
}

/// Says in the text that lines are missing here.
pub(crate) fn write_gap(out: &mut Vec<u8>, dropped: u64) {
    if dropped > 0 {
        out.extend_from_slice(gap(dropped).as_bytes());
        out.push(b'\n');
    }
}

/// `[12 lines were dropped]`
pub(crate) fn gap(dropped: u64) -> String {
    match dropped {
        1 => "[1 line was dropped]".to_owned(),
        _ => format!("[{dropped} lines were dropped]"),
    }
}

/// `2026-01-31T12:00:00.123Z`
pub(crate) fn moment(at: Millis) -> String {
    let at = OffsetDateTime::from(UNIX_EPOCH + Duration::from_millis(at));
    at.format(MOMENT).unwrap_or_default()
}
