//! `/jobs/:id/log`: what a job's executor says besides its progress.

use std::sync::Arc;

use uuid::Uuid;

use super::call::Call;
use super::line::JobLine;
use super::live::JobWatch;
use crate::http::Response;
use crate::http::response::PART;
use crate::http::router::Answer;
use crate::http::streaming::permit;
use crate::jobs::database::Duty;
use crate::jobs::job::Job;
use crate::jobs::storage::Done;
use crate::jobs::system::JobSystem;
use crate::log_form::{LogQuery, TEXT_UTF8, write_gap};
use crate::streams;
use crate::task::LogLine;

pub(super) fn log(call: &Call<'_>) -> Answer {
    let query = LogQuery::parse(call.request)?;
    let job = call.job()?;
    let response = match query.follow {
        true => follow(call, query, &job)?,
        false => show(call, query, job.id)?,
    };
    Ok(response.with("Vary", "Accept"))
}

/// A log that is read and sent in parts.
struct ShownLog {
    system: Arc<JobSystem>,
    id: Uuid,
    query: LogQuery,
    /// The number of the last line that was read.
    last: u64,
    /// Lines that were read and not sent yet.
    lines: Vec<LogLine<'static>>,
    count: usize,
}

fn show(call: &Call<'_>, query: LogQuery, id: Uuid) -> Answer {
    let mut log = ShownLog {
        system: call.system.clone(),
        id,
        last: query.after,
        query,
        lines: Vec::new(),
        count: 0,
    };
    log.read()?;
    if !log.query.is_json {
        return Ok(Response::parts(TEXT_UTF8, move |out| log.text(out)));
    }
    let dropped = call.system.storage.log_dropped(id)?;
    let mut opening = Some(format!("{{\"jobId\":\"{id}\",\"lines\":["));
    Ok(Response::json_parts(move |out| {
        out.extend_from_slice(opening.take().unwrap_or_default().as_bytes());
        let more = log.json(out);
        if !more {
            let rest = format!("],\"count\":{},\"dropped\":{dropped}}}", log.count);
            out.extend_from_slice(rest.as_bytes());
        }
        more
    }))
}

impl ShownLog {
    fn read(&mut self) -> Done<()> {
        let storage = &self.system.storage;
        self.lines = storage.log_after(Duty::Request, self.id, self.last)?;
        Ok(())
    }

    /// Calls `write` for the lines of a part, each with the number of the line before. Returns whether there are more.
    fn part(
        &mut self,
        out: &mut Vec<u8>,
        mut write: impl FnMut(&mut ShownLog, &mut Vec<u8>, &LogLine<'_>),
    ) -> bool {
        while out.len() < PART {
            if self.lines.is_empty() {
                return false;
            }
            for line in std::mem::take(&mut self.lines) {
                write(self, out, &line);
                self.last = line.n;
            }
            // The answer has begun: if the database goes away now, it ends here.
            if let Err(error) = self.read() {
                log::warn!(
                    "The log of job {} cannot be read to its end: {error}",
                    self.id
                );
            }
        }
        true
    }

    fn text(&mut self, out: &mut Vec<u8>) -> bool {
        self.part(out, |log, out, line| {
            write_gap(out, line.n - 1 - log.last);
            log.query.write_text(out, line);
        })
    }

    fn json(&mut self, out: &mut Vec<u8>) -> bool {
        self.part(out, |log, out, line| {
            if log.query.takes(line) {
                if log.count > 0 {
                    out.push(b',');
                }
                log.count += 1;
                // Our own types write into memory: there is nothing in it that can fail.
                let _ = serde_json::to_writer(&mut *out, &JobLine::new(line));
            }
        })
    }
}

/// The log until the job's end.
fn follow(call: &Call<'_>, query: LogQuery, job: &Job) -> Answer {
    let watch = JobWatch::new(call, job, job.seq, Some(query.after));
    Ok(streams::log(permit(call.streams)?, query, watch))
}
