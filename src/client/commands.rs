//! The commands that ask a server about tasks and jobs.

use std::io::{self, IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::api::{Api, Trouble};
use super::options::Options;
use super::{CANCELLED, FAILED, MISUSE, UNREACHABLE, fail};

/// How long the server waits with an answer that says nothing new.
const WAIT_S: u32 = 30;

/// How often a job is asked for.
const LOOK: Duration = Duration::from_millis(500);

/// What the server calls them.
#[derive(Clone, Copy)]
struct Noun {
    path: &'static str,
    is_job: bool,
}

pub(super) fn run(command: &str, options: &Options) -> ExitCode {
    let api = options.api(&["ATS_TOKEN"]);
    let noun = match options.of_jobs {
        true => Noun {
            path: "/jobs",
            is_job: true,
        },
        false => Noun {
            path: "/tasks",
            is_job: false,
        },
    };
    let done = match command {
        "run" => start(&api, noun, options),
        "wait" => wait_for_all(&api, noun, &options.words),
        "watch" => watch(&api, noun, &options.words[0]),
        "ls" => list(&api, noun, options),
        "logs" => logs(&api, noun, options),
        // Cancel or retry.
        action => act(&api, noun, action, options),
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

type Done = Result<u8, Trouble>;

fn start(api: &Api, noun: Noun, options: &Options) -> Done {
    let (kind, pairs) = options
        .words
        .split_first()
        .expect("the options were checked");
    let input = match input(pairs) {
        Ok(input) => input,
        Err(word) => {
            let why = format!("{word} must be KEY=VALUE");
            return Err(Trouble::Refused(400, String::new(), why));
        }
    };
    let body = match noun.is_job {
        true => json!({ "type": kind, "arguments": input }),
        false => {
            let name = options.name.as_ref().unwrap_or(kind);
            json!({ "name": name, "type": kind, "metadata": input, "start": true })
        }
    };
    let created = api.post(noun.path, &body)?;
    let task = if noun.is_job {
        &created
    } else {
        &created["task"]
    };
    let id = task["id"].as_str().unwrap_or_default();
    match options.as_json {
        true => say(&created.to_string()),
        false if !options.watches => say(id),
        false => {}
    }
    match options.watches {
        true => watch(api, noun, id),
        false => Ok(0),
    }
}

/// `n=3 on=true name=x list=[1,2]`: JSON where it is JSON, else text. The word that is no pair, otherwise.
fn input<'a>(pairs: &'a [String]) -> Result<Map<String, Value>, &'a String> {
    let pair = |word: &'a String| {
        let (key, value) = word.split_once('=').ok_or(word)?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        Ok((key.to_owned(), value))
    };
    pairs.iter().map(pair).collect()
}

/// Waits for all, and tells the worst: unreachable, failed, cancelled, completed.
fn wait_for_all(api: &Api, noun: Noun, ids: &[String]) -> Done {
    let mut codes = Vec::new();
    for id in ids {
        codes.push(wait(api, noun, id)?);
    }
    let worst = [FAILED, CANCELLED]
        .into_iter()
        .find(|code| codes.contains(code));
    Ok(worst.unwrap_or(0))
}

/// Waits until it has ended. Returns the exit code.
fn wait(api: &Api, noun: Noun, id: &str) -> Done {
    loop {
        let now = match noun.is_job {
            true => api.get(&format!("/jobs/{id}"))?,
            false => api.get(&format!("/tasks/{id}/status?wait={WAIT_S}"))?,
        };
        match now["status"].as_str() {
            Some("completed") => return Ok(0),
            Some("cancelled") => return Ok(CANCELLED),
            Some("failed") => {
                let error = &now["error"];
                let why = error.as_str().or_else(|| error["message"].as_str());
                eprintln!("{id} failed: {}", why.unwrap_or("no reason is known"));
                return Ok(FAILED);
            }
            _ if noun.is_job => sleep(LOOK),
            _ => {}
        }
    }
}

/// Shows it to its end. Returns the exit code.
fn watch(api: &Api, noun: Noun, id: &str) -> Done {
    if noun.is_job {
        return wait(api, noun, id);
    }
    let plain = if stdout().is_terminal() {
        ""
    } else {
        "?plain=1"
    };
    // `latest` may mean another task a moment later.
    let task = api.get(&format!("/tasks/{id}"))?;
    let id = task["task"]["id"].as_str().unwrap_or(id);
    api.copy(&format!("/tasks/{id}/watch{plain}"), &mut stdout())?;
    wait(api, noun, id)
}

fn list(api: &Api, noun: Noun, options: &Options) -> Done {
    let status = options
        .status
        .as_ref()
        .map(|status| format!("&status={status}"));
    let path = format!("{}?limit=50{}", noun.path, status.unwrap_or_default());
    let page = api.get(&path)?;
    if options.as_json {
        say(&page.to_string());
        return Ok(0);
    }
    let empty = Vec::new();
    let rows = page[&noun.path[1..]].as_array().unwrap_or(&empty);
    let mut text = String::new();
    for row in rows {
        let member = |name: &str| row[name].as_str().unwrap_or_default();
        let what = if noun.is_job {
            member("type")
        } else {
            member("name")
        };
        text += &format!(
            "{}  {:<10} {:>3}%  {what}  {}\n",
            member("id"),
            member("status"),
            row["progress"],
            member("currentStep"),
        );
    }
    let total = page["total"].as_u64().unwrap_or_default();
    if total > rows.len() as u64 {
        text += &format!("{} of {total}\n", rows.len());
    }
    let _ = stdout().write_all(text.as_bytes());
    Ok(0)
}

fn logs(api: &Api, noun: Noun, options: &Options) -> Done {
    let id = &options.words[0];
    let follow = if options.follows { "?follow=1" } else { "" };
    let path = format!("{}/{id}/log", noun.path);
    match options.as_json {
        true => say(&api.get(&path)?.to_string()),
        false => api.copy(&format!("{path}{follow}"), &mut stdout())?,
    }
    Ok(0)
}

fn act(api: &Api, noun: Noun, action: &str, options: &Options) -> Done {
    let id = &options.words[0];
    let path = format!("{}/{id}/{action}", noun.path);
    let done = api.post(&path, &json!({}))?;
    let task = if noun.is_job { &done } else { &done["task"] };
    match options.as_json {
        true => say(&done.to_string()),
        false => say(&format!(
            "{} {}",
            task["id"].as_str().unwrap_or(id),
            task["status"].as_str().unwrap_or_default()
        )),
    }
    Ok(0)
}

/// Prints a line. Whoever reads our output may have gone.
fn say(line: &str) {
    let _: io::Result<()> = writeln!(stdout(), "{line}");
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
