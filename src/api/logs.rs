//! `/tasks/:id/log`: what a task's executor says besides its progress.

use super::call::Call;
use crate::http::Response;
use crate::http::response::PART;
use crate::http::router::Answer;
use crate::http::streaming::permit;
use crate::log_form::{LogQuery, TEXT_UTF8, write_gap};
use crate::store::{LogMark, TaskManager};
use crate::streams;
use crate::task::{SessionKey, TaskId};

pub(super) fn log(call: &Call<'_>) -> Answer {
    let query = LogQuery::parse(call.request)?;
    let answer = match query.follow {
        true => follow(call, query)?,
        false => show(call, query)?,
    };
    Ok(answer.with("Vary", "Accept"))
}

/// A log that is sent in parts. It may grow between two parts, and lose lines.
struct Shown {
    tasks: TaskManager,
    key: SessionKey,
    task: TaskId,
    query: LogQuery,
    mark: LogMark,
    count: usize,
}

fn show(call: &Call<'_>, query: LogQuery) -> Answer {
    let (tasks, task) = (call.api.tasks.clone(), call.id()?);
    let mut shown = Shown {
        mark: tasks.log_mark(&call.session, task, query.after)?,
        key: call.session.clone(),
        tasks,
        task,
        count: 0,
        query,
    };
    if shown.query.is_json {
        let mut is_first = true;
        return Ok(Response::json_parts(move |out| {
            if std::mem::take(&mut is_first) {
                shown.open(out);
            }
            shown.json(out)
        }));
    }
    Ok(Response::parts(TEXT_UTF8, move |out| shown.text(out)))
}

impl Shown {
    fn open(&self, out: &mut Vec<u8>) {
        let start = format!(
            "{{\"success\":true,\"taskId\":\"{}\",\"lines\":[",
            self.task
        );
        out.extend_from_slice(start.as_bytes());
    }

    fn json(&mut self, out: &mut Vec<u8>) -> bool {
        let mut count = self.count;
        let query = &self.query;
        let read = self
            .tasks
            .log_part(&self.key, self.task, self.mark, |line| {
                if query.takes(line) {
                    if count > 0 {
                        out.push(b',');
                    }
                    count += 1;
                    // Our own types write into memory: there is nothing in it that can fail.
                    let _ = serde_json::to_writer(&mut *out, line);
                }
                out.len() < PART
            });
        self.count = count;
        // A task that is cleaned away meanwhile has no more to tell.
        let read = read.unwrap_or_default();
        self.mark = read.mark;
        if !read.more {
            let rest = format!("],\"count\":{count},\"dropped\":{}}}", read.dropped);
            out.extend_from_slice(rest.as_bytes());
        }
        read.more
    }

    fn text(&mut self, out: &mut Vec<u8>) -> bool {
        let (query, mut last) = (&self.query, self.mark.n());
        let read = self
            .tasks
            .log_part(&self.key, self.task, self.mark, |line| {
                write_gap(out, line.n - 1 - last);
                last = line.n;
                query.write_text(out, line);
                out.len() < PART
            });
        let read = read.unwrap_or_default();
        self.mark = read.mark;
        read.more
    }
}

/// The log until the task's end.
fn follow(call: &Call<'_>, query: LogQuery) -> Answer {
    let watch = call.api.tasks.watch(&call.session, call.id()?, None)?;
    let watch = watch.with_log(query.after);
    Ok(streams::log(permit(&call.api.streams)?, query, watch))
}
