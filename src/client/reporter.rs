//! Shows a command of this machine on a server, beside the command: nothing here delays it or fails it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use super::api::{Api, Trouble};
use crate::executors::output::Said;

/// How many bytes of the log wait for the server. The oldest lines are dropped.
const MAX_WAITING: usize = 256 * 1024;

/// How many bytes of the log one report carries; the server takes bodies of 64 KiB.
const MAX_PART: usize = 32 * 1024;

/// How long reports are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(200);

const RETRY: Duration = Duration::from_secs(1);

/// How long the last report is tried for.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How the command has ended.
pub(super) enum End {
    /// With the words for its failure, unless its output has said why.
    Failed(String),
    Completed,
}

/// What is to be told.
#[derive(Default)]
struct News {
    progress: Option<u8>,
    step: Option<String>,
    description: Option<String>,
    log: VecDeque<String>,
    log_bytes: usize,
    dropped: u64,
    result: Option<Value>,
    error: Option<String>,
    retry: Option<bool>,
    end: Option<End>,
}

#[derive(Default)]
struct Shared {
    news: Mutex<News>,
    changed: Condvar,
}

/// Takes what the command says.
#[derive(Clone)]
pub(super) struct Reporter(Arc<Shared>);

/// The task to create.
pub(super) struct TaskToAdopt {
    pub(super) api: Api,
    pub(super) body: Value,
}

impl Reporter {
    /// Starts the thread that speaks to the server. `cancel` gets a message if somebody cancels the task there.
    pub(super) fn start(task: TaskToAdopt, cancel: Sender<()>) -> (Reporter, JoinHandle<()>) {
        let shared = Arc::<Shared>::default();
        let inside = shared.clone();
        let body = move || {
            let speaker = Speaker {
                task,
                cancel,
                shared: inside,
                has_warned: false,
            };
            speaker.run();
        };
        (Reporter(shared), thread::spawn(body))
    }

    /// Takes what a line says. Never waits for the server.
    pub(super) fn say(&self, said: Said) {
        let mut news = self.0.news.lock();
        match said {
            Said::Progress { percent, step } => {
                news.progress = Some(percent);
                if !step.is_empty() {
                    news.step = Some(step);
                    news.description = None;
                }
            }
            Said::Log(line) => news.log(line),
            Said::Report(report) => {
                let percent = report
                    .progress
                    .map(|percent| percent.clamp(0.0, 100.0) as u8);
                news.progress = percent.or(news.progress);
                news.step = report.step.or(news.step.take());
                news.description = report.description.or(news.description.take());
                report.log.into_iter().for_each(|text| news.log(text));
                news.result = report.result.or(news.result.take());
                news.error = report.error.or(news.error.take());
                news.retry = report.retry.or(news.retry);
            }
        }
        drop(news);
        self.0.changed.notify_one();
    }

    /// The command has ended.
    pub(super) fn end(&self, end: End) {
        self.0.news.lock().end = Some(end);
        self.0.changed.notify_one();
    }
}

impl News {
    fn log(&mut self, line: String) {
        self.log_bytes += line.len();
        self.log.push_back(line);
        while self.log_bytes > MAX_WAITING {
            let Some(oldest) = self.log.pop_front() else {
                break;
            };
            self.log_bytes -= oldest.len();
            self.dropped += 1;
        }
    }

    fn is_empty(&self) -> bool {
        let says_nothing =
            self.progress.is_none() && self.step.is_none() && self.description.is_none();
        says_nothing && self.log.is_empty() && self.dropped == 0
    }

    /// The next report. What is not taken stays for the one after it.
    fn take_report(&mut self) -> Value {
        let mut lines = Vec::new();
        if self.dropped > 0 {
            lines.push(format!(
                "({} lines were not sent: the server was too slow)",
                self.dropped
            ));
            self.dropped = 0;
        }
        let mut size = 0;
        while let Some(line) = self
            .log
            .pop_front_if(|line| size == 0 || size + line.len() <= MAX_PART)
        {
            size += line.len() + 8;
            self.log_bytes -= line.len();
            lines.push(line);
        }
        let mut report = json!({});
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                report[name] = value;
            }
        };
        put("progress", self.progress.take().map(Value::from));
        put("step", self.step.take().map(Value::from));
        put("description", self.description.take().map(Value::from));
        put("log", (!lines.is_empty()).then(|| Value::from(lines)));
        report
    }
}

/// The thread that speaks to the server.
struct Speaker {
    task: TaskToAdopt,
    cancel: Sender<()>,
    shared: Arc<Shared>,
    has_warned: bool,
}

/// What the server has granted.
struct Held {
    lease: String,
    beat: Duration,
}

impl Speaker {
    fn run(mut self) {
        while let Some(held) = self.adopt() {
            let why = match self.report_all(&held) {
                Ok(()) => return,
                Err(why) => why,
            };
            match &*why {
                "cancelled" | "timed_out" => {
                    self.warn(&format!("the server ends the task: {why}"));
                    let _ = self.cancel.send(());
                    return;
                }
                // The server was restarted, or away for too long: its task is lost, so it gets another.
                "expired" => {}
                why => return self.warn(&format!("the server takes no more reports: {why}")),
            }
        }
    }

    /// Creates the task. `None` if the server refuses, or the command ends before the server can be reached.
    fn adopt(&mut self) -> Option<Held> {
        loop {
            match self.task.api.post("/work/adopt", &self.task.body) {
                Ok(adopted) => {
                    let claim = &adopted["claim"];
                    let beat = claim["leaseMs"].as_u64().unwrap_or(30_000) / 3;
                    return Some(Held {
                        lease: claim["lease"].as_str()?.to_owned(),
                        beat: Duration::from_millis(beat.max(100)),
                    });
                }
                Err(Trouble::Unreachable(why)) => {
                    self.warn(&format!("{why}; the command runs all the same"))
                }
                Err(trouble) => {
                    self.warn(&format!(
                        "{}; the command runs all the same",
                        trouble.message()
                    ));
                    return None;
                }
            }
            if self.wait(RETRY, |news| news.end.is_some()) {
                return None;
            }
        }
    }

    /// Reports until the command has ended. The error says why the lease is over.
    fn report_all(&mut self, held: &Held) -> Result<(), String> {
        let mut last = Instant::now();
        loop {
            self.wait(held.beat.saturating_sub(last.elapsed()), |news| {
                news.end.is_some() || !news.is_empty()
            });
            if !self.wait(GATHER, |news| news.end.is_some()) {
                self.send(held, None)?;
                last = Instant::now();
                continue;
            }
            let deadline = Instant::now() + END_WITHIN;
            while !self.shared.news.lock().is_empty() {
                self.send(held, Some(deadline))?;
            }
            return self.end(held, deadline);
        }
    }

    /// Sends one report, and the same again while the server cannot be reached.
    fn send(&mut self, held: &Held, deadline: Option<Instant>) -> Result<(), String> {
        let report = self.shared.news.lock().take_report();
        self.post(&format!("/work/{}/progress", held.lease), &report, deadline)
    }

    fn end(&mut self, held: &Held, deadline: Instant) -> Result<(), String> {
        let (how, body) = {
            let mut news = self.shared.news.lock();
            let said = news.error.take();
            match news.end.take() {
                Some(End::Failed(why)) => {
                    let error = said.unwrap_or(why);
                    (
                        "fail",
                        json!({ "error": error, "retry": news.retry.unwrap_or(true) }),
                    )
                }
                _ => ("complete", json!({ "result": news.result.take() })),
            }
        };
        self.post(
            &format!("/work/{}/{how}", held.lease),
            &body,
            Some(deadline),
        )
    }

    fn post(&mut self, path: &str, body: &Value, deadline: Option<Instant>) -> Result<(), String> {
        loop {
            match self.task.api.post(path, body) {
                Ok(_) => return Ok(()),
                Err(Trouble::Refused(410, reason, _)) => return Err(reason),
                Err(Trouble::Refused(_, _, message)) => {
                    // One report that does not fit is no reason to give up.
                    self.warn(&message);
                    return Ok(());
                }
                Err(Trouble::Unreachable(why)) => self.warn(&why),
            }
            // Once the command has ended, the last report has its time and no more.
            let deadline = deadline.or_else(|| {
                let has_ended = self.shared.news.lock().end.is_some();
                has_ended.then(|| Instant::now() + RETRY)
            });
            if deadline.is_some_and(|deadline| Instant::now() + RETRY > deadline) {
                return Err("it cannot be reached".to_owned());
            }
            thread::sleep(RETRY);
        }
    }

    /// Waits until `is_there`, for at most `timeout`; whether it is.
    fn wait(&self, timeout: Duration, is_there: impl Fn(&News) -> bool) -> bool {
        let mut news = self.shared.news.lock();
        let mut waits = |news: &mut News| !is_there(news);
        let waited = self
            .shared
            .changed
            .wait_while_for(&mut news, &mut waits, timeout);
        !waited.timed_out() || is_there(&news)
    }

    /// Warns once: the output is the command's.
    fn warn(&mut self, message: &str) {
        if !std::mem::replace(&mut self.has_warned, true) {
            eprintln!("async-task-system: {message}");
        }
    }
}
