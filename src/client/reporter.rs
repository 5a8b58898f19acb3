//! Shows a command of this machine on a server, beside the command: nothing here delays it or fails it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use super::api::{Api, Trouble};
use crate::executors::output::Said;
use crate::plain_text::plain;

/// How many bytes of the log wait for the server. The oldest lines are dropped.
const MAX_WAITING: usize = 256 * 1024;

/// What a line that waits costs besides its bytes.
const LINE_COST: usize = 64;

/// How many bytes of the log one report carries. The server takes bodies of 64 KiB, and JSON may double each byte.
const MAX_PART: usize = 20 * 1024;

/// How long reports are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(200);

/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// Between two tries to reach the server.
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(8);

/// How long the server is told of the end.
pub(super) const END_WITHIN: Duration = Duration::from_secs(10);

/// What the command's side hears.
pub(super) enum Notice {
    /// The server wants the command to end.
    Cancelled,
    /// There is nothing more to tell the server.
    Finished,
}

/// How the command has ended.
#[derive(Clone)]
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
    /// How and when the command has ended.
    end: Option<(End, Instant)>,
}

#[derive(Default)]
struct Shared {
    news: Mutex<News>,
    changed: Condvar,
}

/// Takes what the command says.
#[derive(Clone)]
pub(super) struct Reporter(Arc<Shared>);

impl Reporter {
    /// Starts the thread that speaks to the server. `task` is what it asks the server to adopt.
    pub(super) fn start(api: Api, task: Value, tell: impl Fn(Notice) + Send + 'static) -> Reporter {
        let shared = Arc::<Shared>::default();
        let inside = shared.clone();
        thread::spawn(move || {
            let api = api.only_within(CALL_WITHIN);
            let mut speaker = Speaker {
                api,
                task,
                shared: inside,
                was_reached: false,
                has_warned: false,
            };
            if let Err(Over::Cancelled(reason)) = speaker.speak() {
                eprintln!("async-task-system: the server ends the command: {reason}");
                tell(Notice::Cancelled);
            }
            tell(Notice::Finished);
        });
        Reporter(shared)
    }

    /// Takes what a line says. Never waits for the server.
    pub(super) fn say(&self, said: Said) {
        let mut news = self.0.news.lock();
        let was_empty = news.is_empty();
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
        // A wake for each of a million lines would cost more than the lines.
        if was_empty {
            self.0.changed.notify_one();
        }
    }

    /// The command has ended.
    pub(super) fn end(&self, end: End) {
        self.0.news.lock().end = Some((end, Instant::now()));
        self.0.changed.notify_one();
    }
}

impl News {
    fn log(&mut self, line: String) {
        self.log_bytes += line.len() + LINE_COST;
        self.log.push_back(line);
        while self.log_bytes > MAX_WAITING {
            let Some(oldest) = self.log.pop_front() else {
                break;
            };
            self.log_bytes -= oldest.len() + LINE_COST;
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
                "[not sent to a server that was slow or away: {} lines]",
                self.dropped
            ));
            self.dropped = 0;
        }
        let mut size = 0;
        while let Some(line) = self.log.front()
            && (size == 0 || size + line.len() <= MAX_PART)
        {
            size += line.len() + 8;
            self.log_bytes -= line.len() + LINE_COST;
            lines.extend(self.log.pop_front());
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
    api: Api,
    task: Value,
    shared: Arc<Shared>,
    was_reached: bool,
    has_warned: bool,
}

/// What the server has granted.
struct Held {
    lease: String,
    beat: Duration,
}

/// Why there is no more to say.
enum Over {
    /// The server wants the command to end, for this reason.
    Cancelled(String),
    /// The server was restarted or away for too long: it knows the task no more.
    Lost,
    /// The server refuses this body, not the next one.
    Unfit,
    /// The server refuses, or the time after the command's end is up.
    GivenUp,
}

impl Speaker {
    /// Shows the command to its end. A task that is lost is followed by another.
    fn speak(&mut self) -> Result<(), Over> {
        loop {
            let held = self.adopt()?;
            match self.report_all(&held) {
                Err(Over::Lost) => self.pause(RETRY)?,
                other => return other,
            }
        }
    }

    fn adopt(&mut self) -> Result<Held, Over> {
        let task = self.task.clone();
        let adopted = self.post("/work/adopt", &task)?;
        let claim = &adopted["claim"];
        let beat = claim["leaseMs"].as_u64().unwrap_or(30_000) / 3;
        Ok(Held {
            lease: claim["lease"].as_str().unwrap_or_default().to_owned(),
            beat: Duration::from_millis(beat.max(100)),
        })
    }

    fn report_all(&mut self, held: &Held) -> Result<(), Over> {
        let path = format!("/work/{}/progress", held.lease);
        loop {
            self.wait(held.beat, |news| news.end.is_some() || !news.is_empty());
            let has_ended = self.wait(GATHER, |news| news.end.is_some());
            let report = self.shared.news.lock().take_report();
            let says_nothing = report.as_object().is_some_and(serde_json::Map::is_empty);
            if has_ended && says_nothing {
                return self.end(held);
            }
            match self.post(&path, &report) {
                Ok(_) | Err(Over::Unfit) => {}
                Err(over) => return Err(over),
            }
            // The end matters more than the last lines.
            if self.has_ended_for(END_WITHIN / 2) {
                return self.end(held);
            }
        }
    }

    fn end(&mut self, held: &Held) -> Result<(), Over> {
        let (how, body) = {
            let news = self.shared.news.lock();
            match &news.end {
                Some((End::Failed(why), _)) => {
                    let error = news.error.as_ref().unwrap_or(why);
                    (
                        "fail",
                        json!({ "error": error, "retry": news.retry.unwrap_or(true) }),
                    )
                }
                _ => ("complete", json!({ "result": news.result })),
            }
        };
        let path = format!("/work/{}", held.lease);
        match self.post(&format!("{path}/{how}"), &body) {
            // A result that is refused, since it is too large or too deep, must not hide that the command has completed.
            Err(Over::Unfit) if body["result"] != Value::Null => {
                let log = json!({ "log": "[the result was refused by the server]" });
                self.post(&format!("{path}/progress"), &log)?;
                self.post(&format!("{path}/complete"), &json!({}))?;
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Sends until the server answers.
    fn post(&mut self, path: &str, body: &Value) -> Result<Value, Over> {
        let mut pause = RETRY;
        loop {
            match self.api.post(path, body) {
                Ok(answer) => {
                    self.was_reached = true;
                    return Ok(answer);
                }
                Err(Trouble::Refused(410, reason, _)) if reason == "expired" => {
                    return Err(Over::Lost);
                }
                Err(Trouble::Refused(410, reason, _)) if reason != "ended" => {
                    return Err(Over::Cancelled(reason));
                }
                Err(trouble) => {
                    self.warn(trouble.message());
                    match trouble {
                        Trouble::Refused(400 | 413, ..) => return Err(Over::Unfit),
                        Trouble::Refused(..) => return Err(Over::GivenUp),
                        Trouble::Unreachable(_) => {}
                    }
                }
            }
            self.pause(pause)?;
            pause = (pause * 2).min(MAX_RETRY);
        }
    }

    /// Waits before the next try, but not past the time that there is after the command's end. A server that was never
    /// reached gets none.
    fn pause(&self, pause: Duration) -> Result<(), Over> {
        if self.wait(pause, |news| news.end.is_some()) && self.was_reached {
            thread::sleep(RETRY);
        }
        let patience = if self.was_reached {
            END_WITHIN
        } else {
            Duration::ZERO
        };
        match self.has_ended_for(patience) {
            true => Err(Over::GivenUp),
            false => Ok(()),
        }
    }

    fn has_ended_for(&self, time: Duration) -> bool {
        let news = self.shared.news.lock();
        news.end
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() >= time)
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
            eprintln!(
                "async-task-system: {}; the command runs all the same",
                plain(message)
            );
        }
    }
}
