//! `exec`: runs a command here, and shows it on a server. Output, signals and exit code are the command's own.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::options::Options;
use super::reporter::{End, Reporter, TaskToAdopt};
use super::{MISUSE, fail};
use crate::executors::output::{OutputParser, Said};

/// How long a command that was cancelled on the server has for its own end.
const GRACE: Duration = Duration::from_secs(5);

/// How long output is waited for after the command's end: a process that it has left behind may keep the pipe open.
const LATE_OUTPUT: Duration = Duration::from_secs(2);

/// What a shell exits with where there is no such program, or where it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// What the threads tell the main one.
enum Event {
    OutputEnded,
    Signal(i32),
    Cancelled,
    Exited(ExitStatus),
}

pub(super) fn exec(options: Options) -> ExitCode {
    let (program, arguments) = options
        .command
        .split_first()
        .expect("the options were checked");
    let signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen to signals: {error}"), MISUSE),
    };
    // A command of a terminal stays in its group, where the terminal's signals and input reach it.
    let is_apart = !stdin().is_terminal();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if is_apart {
        command.process_group(0);
    }
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = match error.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_RUN,
            };
            let message = format!("cannot run {}: {error}", program.to_string_lossy());
            return fail(&message, code);
        }
    };
    let status = Run::new(child, is_apart, &options).to_its_end(signals);
    exit_code(status)
}

/// A command that runs.
struct Run {
    child: Child,
    /// It has a process group of its own.
    is_apart: bool,
    reporter: Reporter,
    speaker: thread::JoinHandle<()>,
    cancelled: Receiver<()>,
    /// The last line of its standard error.
    last_error: Arc<Mutex<Option<String>>>,
}

impl Run {
    fn new(child: Child, is_apart: bool, options: &Options) -> Run {
        let (cancel, cancelled) = channel();
        let task = TaskToAdopt {
            api: options.api(&["WORKER_TOKEN", "ATS_TOKEN"]).impatient(),
            body: task_body(options),
        };
        let (reporter, speaker) = Reporter::start(task, cancel);
        Run {
            child,
            is_apart,
            reporter,
            speaker,
            cancelled,
            last_error: Arc::default(),
        }
    }

    fn to_its_end(mut self, mut signals: Signals) -> ExitStatus {
        let (tell, events) = channel();
        let outputs = [
            self.child
                .stdout
                .take()
                .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            self.child
                .stderr
                .take()
                .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ];
        for (is_error, pipe) in [false, true].into_iter().zip(outputs) {
            let Some(pipe) = pipe else { continue };
            let (reporter, last_error, tell) =
                (self.reporter.clone(), self.last_error.clone(), tell.clone());
            thread::spawn(move || {
                let note = |said: Said| {
                    if let (true, Said::Log(line)) = (is_error, &said) {
                        *last_error.lock() = Some(line.clone());
                    }
                    reporter.say(said);
                };
                match is_error {
                    false => pass_on(pipe, &mut stdout(), note),
                    true => pass_on(pipe, &mut stderr(), note),
                }
                let _ = tell.send(Event::OutputEnded);
            });
        }
        let of_signals = tell.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                let _ = of_signals.send(Event::Signal(signal));
            }
        });
        let of_server = tell.clone();
        let cancelled = std::mem::replace(&mut self.cancelled, channel().1);
        thread::spawn(move || {
            if cancelled.recv().is_ok() {
                let _ = of_server.send(Event::Cancelled);
            }
        });
        let pid = self.child.id();
        let is_apart = self.is_apart;
        let mut child = self.child;
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                let _ = tell.send(Event::Exited(status));
            }
        });
        let status = heed(&events, pid, is_apart);
        self.reporter
            .end(ending(status, self.last_error.lock().take()));
        let _ = self.speaker.join();
        status
    }
}

/// Passes signals on until the command and its output have ended.
fn heed(events: &Receiver<Event>, pid: u32, is_apart: bool) -> ExitStatus {
    let mut outputs = 2;
    let mut exited: Option<(ExitStatus, Instant)> = None;
    let mut kill_at: Option<Instant> = None;
    loop {
        if let Some((status, at)) = exited
            && (outputs == 0 || at.elapsed() >= LATE_OUTPUT)
        {
            return status;
        }
        let wait = match (exited, kill_at) {
            (Some((_, at)), _) => LATE_OUTPUT.saturating_sub(at.elapsed()),
            (None, Some(at)) => at.saturating_duration_since(Instant::now()),
            (None, None) => Duration::from_secs(3_600),
        };
        match events.recv_timeout(wait) {
            Ok(Event::OutputEnded) => outputs -= 1,
            Ok(Event::Exited(status)) => exited = Some((status, Instant::now())),
            // The process id may be another's by now.
            Ok(_) if exited.is_some() => {}
            // The terminal has sent it to the command as well.
            Ok(Event::Signal(SIGINT)) if !is_apart => {}
            Ok(Event::Signal(signal)) => send(pid, is_apart, signal),
            Ok(Event::Cancelled) => {
                send(pid, is_apart, SIGTERM);
                kill_at = Some(Instant::now() + GRACE);
            }
            Err(RecvTimeoutError::Timeout) if exited.is_none() && kill_at.is_some() => {
                send(pid, is_apart, signal_hook::consts::SIGKILL);
                kill_at = None;
            }
            Err(_) => {}
        }
    }
}

fn send(pid: u32, is_apart: bool, signal: i32) {
    let signal = match signal {
        SIGINT => Signal::INT,
        SIGHUP => Signal::HUP,
        SIGTERM => Signal::TERM,
        _ => Signal::KILL,
    };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // It may have ended in this moment.
    let _ = match is_apart {
        true => kill_process_group(pid, signal),
        false => kill_process(pid, signal),
    };
}

/// Copies the output as it comes, and reads what it says.
fn pass_on(mut pipe: impl Read, out: &mut impl Write, mut note: impl FnMut(Said)) {
    let mut parser = OutputParser::new(false);
    let mut part = vec![0; 64 * 1024];
    let mut is_read = true;
    while let Ok(length @ 1..) = pipe.read(&mut part) {
        let part = &part[..length];
        // Whoever reads our output may have gone; the command then learns it as it would without us.
        is_read = is_read && out.write_all(part).and_then(|()| out.flush()).is_ok();
        if !is_read {
            break;
        }
        parser.feed(part, &mut note);
    }
    parser.finish(&mut note);
}

fn task_body(options: &Options) -> serde_json::Value {
    let words = options
        .command
        .iter()
        .map(|word: &OsString| word.to_string_lossy());
    let line: Vec<_> = words.collect();
    let name = options.name.clone().unwrap_or_else(|| line.join(" "));
    let name: String = name.chars().take(200).collect();
    let mut body = json!({ "name": name });
    if let Some(kind) = &options.kind {
        body["type"] = json!(kind);
    }
    if let Some(session) = options.session() {
        body["session"] = json!(session);
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
