//! The commands that ask a server about tasks and jobs.

use std::io::{IsTerminal, Read, Write, stdout};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use serde_json::{Map, Value, json};

use super::api::{Api, Trouble};
use super::exit::{CANCELLED, FAILED, MISUSE, UNREACHABLE, fail};
use super::options::Options;
use crate::plain_text::plain;

/// How long the server waits with an answer that says nothing new.
const WAIT_S: u32 = 30;

/// The pause before a stream that told nothing is asked for again.
const LOOK: Duration = Duration::from_millis(500);

/// What the commands are about.
#[derive(Clone, Copy)]
struct Noun {
    path: &'static str,
    is_job: bool,
}

const TASKS: Noun = Noun {
    path: "/tasks",
    is_job: false,
};
const JOBS: Noun = Noun {
    path: "/jobs",
    is_job: true,
};

pub(super) fn run(command: &str, options: &Options) -> ExitCode {
    let noun = if options.of_jobs { JOBS } else { TASKS };
    let client = Client {
        api: options.api(&["ATS_TOKEN"]),
        noun,
        as_json: options.as_json,
    };
    let done = match command {
        "run" => client.start(options),
        "wait" => client.wait_for_all(&options.words),
        "watch" => client.watch(&options.words[0]),
        "ls" => client.list(options.status.as_deref()),
        "logs" => client.logs(&options.words[0], options.follows),
        // Cancel or retry.
        action => client.act(action, &options.words[0]),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(Trouble::Unreachable(message)) => fail(&message, UNREACHABLE),
        Err(Trouble::Refused(status, _, message)) => {
            let is_misuse = matches!(status, 400 | 401 | 403 | 404);
            fail(&message, if is_misuse { MISUSE } else { FAILED })
        }
    }
}

/// The exit code.
type Done = Result<u8, Trouble>;

struct Client {
    api: Api,
    noun: Noun,
    as_json: bool,
}

impl Client {
    fn start(&self, options: &Options) -> Done {
        let (kind, pairs) = (&options.words[0], &options.words[1..]);
        let input =
            input(pairs).map_err(|word| Trouble::misuse(format!("{word} must be KEY=VALUE")))?;
        let name = options.name.as_ref().unwrap_or(kind);
        let body = match self.noun.is_job {
            true => json!({ "type": kind, "arguments": input }),
            false => json!({ "name": name, "type": kind, "metadata": input, "start": true }),
        };
        let created = self.api.post(self.noun.path, &body)?;
        let id = self.of(&created)["id"].as_str().unwrap_or_default();
        match self.as_json {
            true => say(&created.to_string()),
            false if !options.watches => say(id),
            false => {}
        }
        match options.watches {
            true => self.watch(id),
            false => Ok(0),
        }
    }

    /// The task or the job in an answer.
    fn of<'a>(&self, answer: &'a Value) -> &'a Value {
        if self.noun.is_job {
            answer
        } else {
            &answer["task"]
        }
    }

    fn path(&self, id: &str) -> String {
        format!("{}/{}", self.noun.path, encoded(id))
    }

    /// The path of one that stays the same: `latest` may mean another one a moment later.
    fn fixed(&self, id: &str) -> Result<String, Trouble> {
        if id != "latest" {
            return Ok(self.path(id));
        }
        let found = self.api.get(&self.path(id))?;
        Ok(self.path(self.of(&found)["id"].as_str().unwrap_or(id)))
    }

    /// Waits for all, and tells the worst: failed, cancelled, completed.
    fn wait_for_all(&self, ids: &[String]) -> Done {
        let paths: Result<Vec<_>, _> = ids.iter().map(|id| self.fixed(id)).collect();
        let codes: Result<Vec<_>, _> = paths?.iter().map(|path| self.wait(path)).collect();
        let codes = codes?;
        let worst = [FAILED, CANCELLED]
            .into_iter()
            .find(|code| codes.contains(code));
        Ok(worst.unwrap_or(0))
    }

    fn wait(&self, path: &str) -> Done {
        loop {
            if let Some(code) = self.ended(path, WAIT_S)? {
                return Ok(code);
            }
        }
    }

    /// The exit code, once it has ended. The server is given some seconds to wait for that.
    fn ended(&self, path: &str, wait_s: u32) -> Result<Option<u8>, Trouble> {
        let now = self.api.get(&format!("{path}/status?wait={wait_s}"))?;
        let code = match now["status"].as_str() {
            Some("completed") => 0,
            Some("cancelled") => CANCELLED,
            Some("failed") => FAILED,
            _ => return Ok(None),
        };
        if self.as_json {
            say(&now.to_string());
        } else if code == FAILED {
            let error = &now["error"];
            let why = error.as_str().or_else(|| error["message"].as_str());
            let id = path.rsplit('/').next().unwrap_or_default();
            eprintln!(
                "{id} failed: {}",
                plain(why.unwrap_or("no reason is known"))
            );
        }
        Ok(Some(code))
    }

    /// Shows it to its end: as a bar on a terminal, else a line for each change.
    fn watch(&self, id: &str) -> Done {
        let path = self.fixed(id)?;
        if self.as_json || !stdout().is_terminal() {
            self.follow(&path, "", |line, event| match self.as_json {
                true => say(line),
                false => say(&change(event)),
            })?;
            return self.wait(&path);
        }
        let columns = tcgetwinsize(stdout()).map_or(80, |size| size.ws_col.clamp(20, 500));
        let color = std::env::var_os("NO_COLOR").map_or("&color=1", |_| "");
        loop {
            copy(
                self.api
                    .text(&format!("{path}/watch?width={columns}{color}"))?,
            );
            // The bar of a server that is being restarted ends early.
            if let Some(code) = self.ended(&path, 0)? {
                return Ok(code);
            }
        }
    }

    /// Calls `each` with each event until there are no more to come, over restarts of the server.
    fn follow(
        &self,
        path: &str,
        query: &str,
        mut each: impl FnMut(&str, &Value),
    ) -> Result<(), Trouble> {
        let (mut number, mut line) = (0, 0);
        let mut last = None;
        loop {
            let before = last.clone();
            let path = format!("{path}/events{query}");
            let is_over = self.api.events(&path, before.as_deref(), |text| {
                let event: Value = serde_json::from_str(text).unwrap_or_default();
                number = seq(&event).unwrap_or(number);
                line = event["n"]
                    .as_u64()
                    .unwrap_or(line + event["dropped"].as_u64().unwrap_or(0));
                last = Some(format!("{number}.{line}"));
                each(text, &event);
            })?;
            if is_over {
                return Ok(());
            }
            if last == before {
                sleep(LOOK);
            }
        }
    }

    fn list(&self, status: Option<&str>) -> Done {
        let status = status.map(|status| format!("&status={}", encoded(status)));
        let page = self.api.get(&format!(
            "{}?limit=50{}",
            self.noun.path,
            status.unwrap_or_default()
        ))?;
        if self.as_json {
            say(&page.to_string());
            return Ok(0);
        }
        let rows = page[&self.noun.path[1..]]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for row in rows {
            let member = |name: &str| plain(row[name].as_str().unwrap_or_default());
            let name = member(if self.noun.is_job { "type" } else { "name" });
            let (id, status, step) = (member("id"), member("status"), member("currentStep"));
            let percent = row["progress"].to_string();
            let line = format!("{id}  {status:<10} {percent:>3} %  {name}  {step}");
            say(line.trim_end());
        }
        let total = page["total"].as_u64().unwrap_or_default();
        if total > rows.len() as u64 {
            say(&format!("The newest {} of {total}.", rows.len()));
        }
        Ok(0)
    }

    fn logs(&self, id: &str, follows: bool) -> Done {
        match (follows, self.as_json) {
            (true, as_json) => {
                self.follow(
                    &self.fixed(id)?,
                    "?log=1",
                    |line, event| match event["event"].as_str() {
                        Some("log" | "dropped") if as_json => say(line),
                        Some("log") => say(event["text"].as_str().unwrap_or_default()),
                        Some("dropped") => say(&format!("[dropped lines: {}]", event["dropped"])),
                        _ => {}
                    },
                )?
            }
            (false, true) => say(&self.api.get(&format!("{}/log", self.path(id)))?.to_string()),
            (false, false) => copy(self.api.text(&format!("{}/log", self.path(id)))?),
        }
        Ok(0)
    }

    fn act(&self, action: &str, id: &str) -> Done {
        let done = self
            .api
            .post(&format!("{}/{action}", self.path(id)), &json!({}))?;
        let task = self.of(&done);
        match self.as_json {
            true => say(&done.to_string()),
            false => say(&format!(
                "{} {}",
                task["id"].as_str().unwrap_or(id),
                task["status"].as_str().unwrap_or_default()
            )),
        }
        Ok(0)
    }
}

/// `n=3 on=true name=x list=[1,2]`: JSON where it is JSON, else text. The word that is no pair, otherwise.
fn input(pairs: &[String]) -> Result<Map<String, Value>, &String> {
    let pair = |word| {
        let (key, value) = String::as_str(word).split_once('=').ok_or(word)?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        Ok((key.to_owned(), value))
    };
    pairs.iter().map(pair).collect()
}

/// An id or a status as a part of an address.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b',' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The number of an event. A task's is in its `id`, before that of the line.
fn seq(event: &Value) -> Option<u64> {
    let id = &event["id"];
    let first = || id.as_str()?.split('.').next()?.parse().ok();
    event["seq"].as_u64().or(id.as_u64()).or_else(first)
}

/// A change of a task or a job, in one line.
fn change(event: &Value) -> String {
    let member = |names: [&str; 2]| names.into_iter().find_map(|name| event[name].as_str());
    let state = member(["status", "event"]).unwrap_or_default();
    let step = member(["currentStep", "step"]).unwrap_or_default();
    let percent = event["progress"].to_string();
    let line = format!("{percent:>3} %  {state:<9}  {step}");
    plain(line.trim_end()).into_owned()
}

/// Copies a text to standard output as it comes.
fn copy(mut from: impl Read) {
    let mut part = [0; 8 * 1024];
    while let Ok(length @ 1..) = from.read(&mut part) {
        print_all(&part[..length]);
    }
}

fn say(line: &str) {
    print_all(format!("{line}\n").as_bytes());
}

/// Prints it. Whoever has read our output may have seen enough.
fn print_all(bytes: &[u8]) {
    let mut out = stdout();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_json_where_they_are_json() {
        let words = [
            "n=3",
            "on=true",
            "a={\"x\":[1]}",
            "name=x y",
            "empty=",
            "sum=1+1=2",
            "id=007",
        ];
        let words = words.map(str::to_owned);
        let read = input(&words).expect("pairs");
        let wanted = json!({
            "n": 3, "on": true, "a": { "x": [1] }, "name": "x y", "empty": "", "sum": "1+1=2", "id": "007",
        });
        assert_eq!(Value::from(read), wanted);
        assert_eq!(input(&["x".to_owned()]), Err(&"x".to_owned()));
    }
}
