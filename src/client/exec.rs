//! `exec`: runs a command here, and shows it on a server. Output, signals and exit code are the command's own.

use std::fs::File;
use std::io::{ErrorKind, Read, Write, stderr, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_process, kill_process_group, waitid,
};
use rustix::termios::tcgetpgrp;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::exit::{MISUSE, fail};
use super::options::Options;
use super::reporter::{END_WITHIN, End, Notice, Reporter};
use crate::executors::output::{OutputParser, Said};

const FORWARDED: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// How long a command that was cancelled on the server has for its own end.
const GRACE: Duration = Duration::from_secs(5);

/// How long output may pause after the command's end: a process that it has left behind may keep the pipe open.
const LATE_OUTPUT: Duration = Duration::from_secs(2);

/// What a shell exits with where there is no such program, or where it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// What the threads tell the main one.
enum Event {
    OutputEnded,
    Signal(i32),
    Server(Notice),
    Exited,
}

pub(super) fn exec(options: Options) -> ExitCode {
    let (program, arguments) = (&options.command[0], &options.command[1..]);
    let signals = FORWARDED.into_iter().filter(|signal| !is_ignored(*signal));
    let signals = match Signals::new(signals) {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen to signals: {error}"), MISUSE),
    };
    // With a terminal the command stays in its group, where the terminal's signals and input reach it.
    let terminal = File::open("/dev/tty").ok();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if terminal.is_none() {
        command.process_group(0);
    }
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let is_missing = error.kind() == ErrorKind::NotFound;
            let code = if is_missing { NOT_FOUND } else { NOT_RUN };
            let message = format!("cannot run {}: {error}", program.to_string_lossy());
            return fail(&message, code);
        }
    };
    Run::start(child, terminal, &options, signals).finish()
}

/// Whether whoever started us wants this signal to be ignored, as `nohup` does. The command inherits that.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// A command that runs.
struct Run {
    child: Child,
    /// Without one, the command has a process group of its own.
    terminal: Option<File>,
    reporter: Reporter,
    events: Receiver<Event>,
    output: Arc<Output>,
}

/// How far the output is passed on.
#[derive(Default)]
struct Output {
    /// How often output has come.
    parts: AtomicUsize,
    /// How many threads wait until somebody reads our output.
    writing: AtomicUsize,
    /// The last line of standard error.
    last_error: Mutex<Option<String>>,
}

impl Run {
    fn start(
        mut child: Child,
        terminal: Option<File>,
        options: &Options,
        mut signals: Signals,
    ) -> Run {
        let (tell, events) = channel();
        let of_server = tell.clone();
        let api = options.api(&["WORKER_TOKEN", "ATS_TOKEN"]);
        let reporter = Reporter::start(api, task_body(options), move |notice| {
            let _ = of_server.send(Event::Server(notice));
        });
        let output = Arc::<Output>::default();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        output.pass_on(
            false,
            out.map(OwnedFd::from),
            stdout().as_fd(),
            &reporter,
            &tell,
        );
        output.pass_on(
            true,
            err.map(OwnedFd::from),
            stderr().as_fd(),
            &reporter,
            &tell,
        );
        let of_signals = tell.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                let _ = of_signals.send(Event::Signal(signal));
            }
        });
        let pid = Pid::from_child(&child);
        thread::spawn(move || {
            // Its number stays its own until it is waited for once more.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
            let _ = tell.send(Event::Exited);
        });
        Run {
            child,
            terminal,
            reporter,
            events,
            output,
        }
    }

    fn finish(mut self) -> ExitCode {
        self.pass_signals();
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(error) => return fail(&format!("cannot wait for the command: {error}"), 1),
        };
        self.reporter
            .end(ending(status, self.output.last_error.lock().take()));
        let deadline = Instant::now() + END_WITHIN + Duration::from_secs(1);
        // Whoever sends a signal now waits for us only.
        while let Ok(event) = self
            .events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if matches!(event, Event::Signal(_) | Event::Server(Notice::Finished)) {
                break;
            }
        }
        exit_code(status)
    }

    /// Passes signals on until the command and its output have ended.
    fn pass_signals(&self) {
        let (mut outputs, mut has_exited, mut was_cancelled) = (2, false, false);
        let mut limit: Option<Instant> = None;
        let mut parts = 0;
        while !has_exited || outputs > 0 {
            let wait = limit.map_or(Duration::from_secs(3_600), |limit| {
                limit.saturating_duration_since(Instant::now())
            });
            match self.events.recv_timeout(wait) {
                Ok(Event::OutputEnded) => outputs -= 1,
                Ok(Event::Signal(_)) if has_exited => break,
                Ok(Event::Signal(SIGINT | SIGQUIT)) if self.has_typed_it() => {}
                Ok(Event::Signal(signal)) => self.send(signal),
                Ok(Event::Server(Notice::Cancelled)) => {
                    was_cancelled = true;
                    self.send(SIGTERM);
                    limit = Some(Instant::now() + GRACE);
                }
                Ok(Event::Server(Notice::Finished)) => {}
                Ok(Event::Exited) => {
                    has_exited = true;
                    limit = limit.or(Some(Instant::now() + LATE_OUTPUT));
                }
                Err(_) if !has_exited => {
                    limit = None;
                    if was_cancelled {
                        self.send(signal_hook::consts::SIGKILL);
                    }
                }
                Err(_) => {
                    let now = self.output.parts.load(Ordering::Relaxed);
                    if now == parts && self.output.writing.load(Ordering::Relaxed) == 0 {
                        break;
                    }
                    parts = now;
                    limit = Some(Instant::now() + LATE_OUTPUT);
                }
            }
        }
        if was_cancelled && self.terminal.is_none() {
            // What the command has left behind.
            self.send(signal_hook::consts::SIGKILL);
        }
    }

    /// Whether the terminal has sent the signal to the command as well.
    fn has_typed_it(&self) -> bool {
        let group = self.terminal.as_ref().map(tcgetpgrp);
        group.is_some_and(|group| group == Ok(getpgrp()))
    }

    fn send(&self, signal: i32) {
        let (pid, signal) = (
            Pid::from_child(&self.child),
            Signal::from_named_raw(signal).unwrap_or(Signal::KILL),
        );
        // It may have ended in this moment.
        let _ = match self.terminal {
            None => kill_process_group(pid, signal),
            Some(_) => kill_process(pid, signal),
        };
    }
}

impl Output {
    /// Copies the output as it comes, and reads what it says, on a thread of its own.
    fn pass_on(
        self: &Arc<Output>,
        is_error: bool,
        pipe: Option<OwnedFd>,
        to: BorrowedFd<'_>,
        reporter: &Reporter,
        tell: &Sender<Event>,
    ) {
        let (output, reporter, tell) = (self.clone(), reporter.clone(), tell.clone());
        // Past the buffers of the standard library.
        let to = to.try_clone_to_owned();
        thread::spawn(move || {
            let note = |said: Said| {
                if let (true, Said::Log(line)) = (is_error, &said) {
                    *output.last_error.lock() = Some(line.clone());
                }
                reporter.say(said);
            };
            if let (Some(pipe), Ok(to)) = (pipe, to) {
                output.copy(pipe.into(), to.into(), note);
            }
            let _ = tell.send(Event::OutputEnded);
        });
    }

    fn copy(&self, mut pipe: File, mut to: File, mut note: impl FnMut(Said)) {
        let mut parser = OutputParser::new(false);
        let mut part = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = pipe.read(&mut part) {
            self.parts.fetch_add(1, Ordering::Relaxed);
            self.writing.fetch_add(1, Ordering::Relaxed);
            let is_written = write_all(&mut to, &part[..length]);
            self.writing.fetch_sub(1, Ordering::Relaxed);
            parser.feed(&part[..length], &mut note);
            // Whoever reads our output has gone. The command learns it as it would without us.
            if !is_written {
                break;
            }
        }
        parser.finish(&mut note);
    }
}

/// Writes all, also where somebody else has made the output non-blocking. Whether anybody reads it.
fn write_all(to: &mut File, mut part: &[u8]) -> bool {
    while !part.is_empty() {
        match to.write(part) {
            Ok(length) => part = &part[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(to, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

fn task_body(options: &Options) -> serde_json::Value {
    let words = options.command.iter().map(|word| word.to_string_lossy());
    let line: Vec<_> = words.collect();
    let name = options.name.clone().unwrap_or_else(|| line.join(" "));
    let name: String = name.chars().take(200).collect();
    let mut body = json!({ "name": name });
    if let Some(kind) = &options.kind {
        body["type"] = json!(kind);
    }
    match &options.user {
        Some(user) => body["user"] = json!(user),
        None => body["session"] = json!(options.session()),
    }
    body
}

fn ending(status: ExitStatus, last_error: Option<String>) -> End {
    if status.success() {
        return End::Completed;
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "it failed".to_owned(),
    };
    End::Failed(last_error.unwrap_or(how))
}

/// The command's, as a shell tells it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
