//! What a command has said so far, and what its attempt comes to.

use serde_json::Value;

use super::process::Exit;
use crate::executor::{Outcome, TaskContext, TaskError};
use crate::executors::output::{OutputParser, OutputReport, Said};
use crate::task::LogStream;

#[derive(Default)]
pub(super) struct Told {
    percent: u8,
    step: String,
    description: String,
    result: Option<Value>,
    error: Option<String>,
    /// A job must not be tried again.
    is_for_good: bool,
    /// Of standard error.
    last_line: String,
    /// Lines of one stream that the log does not have yet.
    unlogged: String,
}

impl Told {
    /// Reads a part of a stream, and reports what it says.
    pub(super) fn read(
        &mut self,
        part: &[u8],
        parser: &mut OutputParser,
        stream: LogStream,
        ctx: &mut TaskContext<'_>,
    ) -> Result<(), TaskError> {
        let mut said = Vec::new();
        parser.feed(part, &mut |one| said.push(one));
        self.take(said, stream, ctx)
    }

    /// The stream has ended, perhaps within a line.
    pub(super) fn end(
        &mut self,
        parser: &mut OutputParser,
        stream: LogStream,
        ctx: &mut TaskContext<'_>,
    ) -> Result<(), TaskError> {
        let mut said = Vec::new();
        parser.finish(&mut |one| said.push(one));
        self.take(said, stream, ctx)
    }

    fn take(
        &mut self,
        said: Vec<Said>,
        stream: LogStream,
        ctx: &mut TaskContext<'_>,
    ) -> Result<(), TaskError> {
        for one in said {
            match one {
                Said::Log(line) => {
                    self.unlogged.push_str(&line);
                    self.unlogged.push('\n');
                    if stream == LogStream::Err {
                        self.last_line = line;
                    }
                }
                Said::Progress { percent, step } => {
                    self.percent = percent;
                    self.begin_step(step);
                    self.report(ctx)?;
                }
                Said::Report(report) => {
                    self.log(stream, ctx)?;
                    self.note(report, ctx)?;
                }
            }
        }
        self.log(stream, ctx)
    }

    /// A new step has no description yet.
    fn begin_step(&mut self, step: String) {
        if !step.is_empty() && step != self.step {
            self.step = step;
            self.description.clear();
        }
    }

    fn note(&mut self, report: OutputReport, ctx: &mut TaskContext<'_>) -> Result<(), TaskError> {
        let says_where =
            report.progress.is_some() || report.step.is_some() || report.description.is_some();
        if let Some(progress) = report.progress {
            // A number that does not fit is cut: a script that counts to 101 is nobody's mistake.
            self.percent = progress as u8;
        }
        self.begin_step(report.step.unwrap_or_default());
        self.description = report
            .description
            .unwrap_or_else(|| std::mem::take(&mut self.description));
        if let Some(line) = report.log {
            ctx.log(&line)?;
        }
        self.result = report.result.or_else(|| self.result.take());
        if let Some(error) = report.error {
            self.error = Some(error);
            self.is_for_good = report.retry == Some(false);
        }
        match says_where {
            true => self.report(ctx),
            false => Ok(()),
        }
    }

    fn report(&self, ctx: &mut TaskContext<'_>) -> Result<(), TaskError> {
        ctx.progress(self.percent, &self.step, &self.description)
    }

    fn log(&mut self, stream: LogStream, ctx: &mut TaskContext<'_>) -> Result<(), TaskError> {
        if self.unlogged.is_empty() {
            return Ok(());
        }
        let logged = ctx.log_from(stream, &self.unlogged);
        self.unlogged.clear();
        logged
    }

    /// What the attempt comes to.
    pub(super) fn outcome(&mut self, exit: Exit) -> Result<Outcome, TaskError> {
        if matches!(exit, Exit::Status(0)) {
            return Ok(Outcome::Done(self.result.take()));
        }
        let last_line = Some(self.last_line.trim()).filter(|line| !line.is_empty());
        let why = match (&self.error, last_line) {
            (Some(error), _) => error.clone(),
            (None, Some(line)) => line.to_owned(),
            (None, None) => exit.to_string(),
        };
        Err(match self.is_for_good {
            true => TaskError::permanent(why),
            false => TaskError::new(why),
        })
    }
}
