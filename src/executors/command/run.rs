//! The executor of a command: each slice reads what has come, and then it waits for more.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;
use serde::Serialize;
use serde_json::value::RawValue;

use super::groups::LiveGroups;
use super::process::{Exit, Pipes, Process, end_of};
use super::readiness::{For, Watch};
use super::reaper::{Ending, Reaper};
use super::told::Told;
use crate::executor::{Outcome, TaskContext, TaskError, TaskExecutor, TaskInput};
use crate::executors::file::CommandLine;
use crate::executors::output::OutputParser;
use crate::task::{LogStream, SessionKey, TaskId};

/// How much is read of a stream in one slice. So a flood of output is fair to others, and its writer waits meanwhile.
const SLICE: usize = 64 * 1024;

/// How often a command is looked at whose end the system does not tell: soon while it writes, and ever less often while
/// it is silent.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// A wake ends the wait.
const LONG: Duration = Duration::from_secs(3_600);

/// How often, and how many times, it is looked whether the rest of a killed group is gone.
const GONE_LOOK: Duration = Duration::from_millis(2);
const GONE_LOOKS: u32 = 100;

/// A command's document on its standard input.
#[derive(Serialize)]
struct Document<'a> {
    id: TaskId,
    #[serde(rename = "type")]
    kind: &'a str,
    name: &'a str,
    attempt: u32,
    #[serde(flatten)]
    owner: Owner<'a>,
    input: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Owner<'a> {
    Session(&'a SessionKey),
    /// `null` for a job of the system.
    User(Option<&'a str>),
}

/// One attempt of a command.
pub(super) struct CommandRun {
    line: Arc<CommandLine>,
    reaper: Arc<Reaper>,
    longest_report: usize,
    /// The process takes a place of its type until it has ended, which may be later than its attempt.
    place: Option<Arc<dyn Any + Send + Sync>>,
    running: Option<Running>,
}

struct Running {
    process: Process,
    watch: Watch,
    /// `None` where the system does not tell the end.
    end: Option<OwnedFd>,
    input: Option<Input>,
    outputs: [Output; 2],
    told: Told,
    exit: Option<Exit>,
    look: Duration,
    /// How often the rest of the group was looked for.
    looks: u32,
    /// Nothing of the group is left.
    is_gone: bool,
}

/// The document, as far as the command has not taken it.
struct Input {
    pipe: OwnedFd,
    document: Vec<u8>,
    written: usize,
}

struct Output {
    /// `None` after its end.
    pipe: Option<OwnedFd>,
    stream: LogStream,
    parser: OutputParser,
    /// Bytes that were written before the command's end, and are not read yet. Later ones are another's.
    left: Option<u64>,
    /// It was read since it was last armed.
    may_have_fired: bool,
    /// There was something to read in the last slice.
    has_read: bool,
}

impl CommandRun {
    pub(super) fn new(
        line: Arc<CommandLine>,
        reaper: Arc<Reaper>,
        longest_report: usize,
        input: &TaskInput,
    ) -> CommandRun {
        CommandRun {
            line,
            reaper,
            longest_report,
            place: input.place.clone(),
            running: None,
        }
    }

    fn start(&self, ctx: &TaskContext<'_>) -> Result<Running, TaskError> {
        let reaper = &self.reaper;
        let (process, pipes) =
            Process::spawn(&self.line, ctx.input(), &reaper.guardian, reaper.files)?;
        let Pipes { input, out, err } = pipes;
        let output = |pipe, stream| Output {
            pipe: Some(pipe),
            stream,
            parser: OutputParser::new(self.line.is_percent_anywhere)
                .with_reports_of(self.longest_report),
            left: None,
            may_have_fired: false,
            has_read: false,
        };
        let mut running = Running {
            watch: reaper.readiness.watch(ctx.waker()),
            end: end_of(process.group()),
            input: Some(Input {
                pipe: input,
                document: document(ctx.input())?,
                written: 0,
            }),
            outputs: [output(out, LogStream::Out), output(err, LogStream::Err)],
            told: Told::default(),
            exit: None,
            look: FIRST_LOOK,
            looks: 0,
            is_gone: false,
            process,
        };
        running.arm()?;
        Ok(running)
    }
}

impl TaskExecutor for CommandRun {
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        let running = match self.running.take() {
            Some(running) => running,
            None => self.start(ctx)?,
        };
        self.running.insert(running).step(ctx)
    }
}

/// What is left of an attempt that is over is ended elsewhere: this runs on a worker, and must not wait.
impl Drop for CommandRun {
    fn drop(&mut self) {
        if let Some(running) = self.running.take().filter(|running| !running.is_gone) {
            let outputs = running.outputs.into_iter().filter_map(|output| output.pipe);
            let (outputs, place) = (outputs.collect(), self.place.take());
            let ending = Ending::new(running.process, outputs, self.line.grace, place);
            self.reaper.end(ending);
        }
    }
}

impl Running {
    /// Has the executor woken when there is something to do.
    fn arm(&mut self) -> Result<(), TaskError> {
        let pipes = self
            .outputs
            .iter()
            .filter_map(|output| output.pipe.as_ref());
        for fd in pipes.chain(&self.end) {
            self.watch.add(fd, For::Reading)?;
        }
        // Most documents are taken at once.
        self.input = self.input.take().and_then(Input::write);
        if let Some(input) = &self.input {
            self.watch.add(&input.pipe, For::Writing)?;
        }
        Ok(())
    }

    fn step(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        self.input = self.input.take().and_then(Input::write);
        if let Some(input) = &self.input {
            self.watch.again(&input.pipe, For::Writing);
        }
        // The end is looked for before the output is read: what was written before the end is then read.
        if self.exit.is_none() {
            self.exit = self.process.exit();
            if self.exit.is_some() {
                self.process.signal(Signal::KILL);
                self.outputs.iter_mut().for_each(Output::seal);
            }
        }
        let mut has_more = false;
        for output in &mut self.outputs {
            has_more |= output.read(&self.watch, &mut self.told, ctx)?;
        }
        match self.exit {
            _ if has_more => Ok(Outcome::Again(Duration::ZERO)),
            Some(exit) => self.finish(exit, ctx),
            None if self.end.is_some() => Ok(Outcome::Wait(LONG)),
            None => Ok(Outcome::Wait(self.next_look())),
        }
    }

    fn next_look(&mut self) -> Duration {
        self.look = match self.outputs.iter().any(|output| output.has_read) {
            true => FIRST_LOOK,
            false => (self.look * 2).min(LAST_LOOK),
        };
        self.look
    }

    /// The process has ended, and all is read. What is left of its group was killed, and is gone in a moment.
    fn finish(&mut self, exit: Exit, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        self.process.reap();
        self.is_gone = self.process.is_gone(&LiveGroups::default());
        self.looks += 1;
        if !self.is_gone && self.looks <= GONE_LOOKS {
            return Ok(Outcome::Again(GONE_LOOK));
        }
        for output in &mut self.outputs {
            output.finish(&mut self.told, ctx)?;
        }
        self.told.outcome(exit)
    }
}

impl Input {
    /// Writes what the pipe takes. Returns itself if there is more.
    fn write(mut self) -> Option<Input> {
        loop {
            match rustix::io::write(&self.pipe, &self.document[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => return Some(self),
                Err(Errno::INTR) => continue,
                // The command reads no more.
                Err(_) => return None,
            }
            if self.written == self.document.len() {
                return None;
            }
        }
    }
}

impl Output {
    /// The command has ended: what comes later does not count.
    fn seal(&mut self) {
        let there = self
            .pipe
            .as_ref()
            .and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok());
        self.left = Some(there.unwrap_or(0));
    }

    /// Reads what is there, up to a limit. Returns whether there is more.
    fn read(
        &mut self,
        watch: &Watch,
        told: &mut Told,
        ctx: &mut TaskContext<'_>,
    ) -> Result<bool, TaskError> {
        let Some(pipe) = &self.pipe else {
            return Ok(false);
        };
        let mut part = [0; SLICE / 4];
        let (mut room, mut has_ended) = (SLICE, false);
        while room > 0 && self.left != Some(0) {
            let most = self
                .left
                .map_or(part.len(), |left| part.len().min(left as usize));
            let count = match rustix::io::read(pipe, &mut part[..most.min(room)]) {
                Ok(0) => {
                    has_ended = true;
                    break;
                }
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(_) => break,
            };
            room -= count;
            self.left = self.left.map(|left| left - count as u64);
            told.read(&part[..count], &mut self.parser, self.stream, ctx)?;
        }
        if has_ended || self.left == Some(0) {
            self.pipe = None;
            return Ok(false);
        }
        self.has_read = room < SLICE;
        // It can have fired only if there was something to read.
        self.may_have_fired |= self.has_read;
        if room > 0 && std::mem::take(&mut self.may_have_fired) {
            watch.again(pipe, For::Reading);
        }
        Ok(room == 0)
    }

    /// The last line may have no end.
    fn finish(&mut self, told: &mut Told, ctx: &mut TaskContext<'_>) -> Result<(), TaskError> {
        told.end(&mut self.parser, self.stream, ctx)
    }
}

fn document(input: &TaskInput) -> Result<Vec<u8>, TaskError> {
    let owner = match &input.session {
        Some(session) => Owner::Session(session),
        None => Owner::User(input.user.as_deref()),
    };
    let document = Document {
        id: input.id,
        kind: &input.kind,
        name: &input.name,
        attempt: input.attempt,
        owner,
        input: input.arguments.as_deref(),
    };
    let mut text = serde_json::to_vec(&document)?;
    text.push(b'\n');
    Ok(text)
}
