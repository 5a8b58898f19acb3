//! The file of `EXECUTORS`: which types it adds, and what runs them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::log_safe::LogSafe;
use crate::spelling::nearest;

const MAX_FILE: u64 = 4 << 20;
const MAX_TYPE: usize = 64;
const MAX_TEXT: usize = 2_000;
/// The longest program or argument that Linux takes.
const MAX_WORD: usize = 128 * 1024;
const WEEK_MS: u64 = 604_800_000;
const HOUR_MS: u64 = 3_600_000;
/// A client must not be able to fill the machine with processes of a type whose entry says nothing about it.
const DEFAULT_CONCURRENCY: u64 = 500;

/// The type of tasks that their own programs run.
const ADOPTED: &str = "exec";

/// Members of both kinds of types, and of each kind.
const SHARED: [&str; 4] = ["description", "example", "concurrency", "timeoutMs"];
const OF_COMMANDS: [&str; 5] = ["command", "graceMs", "cwd", "env", "percent"];
const OF_REMOTE: [&str; 2] = ["remote", "leaseMs"];

/// A type of the operator's.
#[derive(Debug)]
pub(super) struct OwnType {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) example: Option<Value>,
    pub(super) concurrency: usize,
    pub(super) time_limit: Option<Duration>,
    pub(super) runs_as: RunsAs,
}

#[derive(Debug)]
pub(super) enum RunsAs {
    Command(Arc<CommandLine>),
    /// By workers outside this process, with leases of this length.
    Remote(Duration),
}

/// What is run, and how.
#[derive(Debug)]
pub(super) struct CommandLine {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) folder: PathBuf,
    pub(super) env: Vec<(String, String)>,
    /// From SIGTERM to SIGKILL.
    pub(super) grace: Duration,
    /// Every line with one percent is progress.
    pub(super) is_percent_anywhere: bool,
}

/// Reads the file. `is_taken` knows the types that the program has.
///
/// # Errors
///
/// Every mistake in it.
pub(super) fn read(
    path: &Path,
    is_taken: impl Fn(&str) -> bool,
) -> Result<Vec<OwnType>, Vec<String>> {
    let named = |text: &dyn fmt::Display| {
        let (path, text) = (path.display().to_string(), text.to_string());
        format!("EXECUTORS={}: {}", LogSafe(&path), LogSafe(&text))
    };
    let pairs = parse(path).map_err(|error| vec![named(&error)])?;
    let folder = std::path::absolute(path).ok();
    let folder = folder.as_deref().and_then(Path::parent);
    let folder = folder.unwrap_or(Path::new("/"));
    let mut mistakes = Vec::new();
    let mut types: Vec<OwnType> = Vec::new();
    for (name, value) in pairs {
        if let Some(mistake) = name_mistake(&name, &types, &is_taken) {
            mistakes.push(mistake);
        }
        match value {
            Value::Object(members) => {
                types.extend(Entry::read(name, members, folder, &mut mistakes))
            }
            _ => mistakes.push(format!("{name} must be an object")),
        }
    }
    match mistakes.is_empty() {
        true => Ok(types),
        false => Err(mistakes.iter().map(|text| named(text)).collect()),
    }
}

/// The members of the outermost object, also those that are there twice.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of types")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(Reader)
    }
}

fn parse(path: &Path) -> Result<Vec<(String, Value)>, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("the file is larger than {MAX_FILE} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let Pairs(pairs) = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(pairs)
}

fn name_mistake(
    name: &str,
    before: &[OwnType],
    is_taken: &impl Fn(&str) -> bool,
) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > MAX_TYPE || !name.bytes().all(fits) {
        let allowed = format!("1 to {MAX_TYPE} characters of A-Z a-z 0-9 . _ -");
        return Some(format!("the type \"{name}\" must have {allowed}"));
    }
    if is_taken(name) || name == ADOPTED {
        return Some(format!(
            "{name} is a type that the program has: choose another name"
        ));
    }
    let is_twice = before.iter().any(|one| one.name == name);
    is_twice.then(|| format!("{name} is there twice"))
}

/// The members of one type, each of which is taken once.
struct Entry<'a> {
    name: String,
    members: Map<String, Value>,
    mistakes: &'a mut Vec<String>,
}

impl Entry<'_> {
    /// A type that has mistakes is returned all the same where that is possible.
    fn read(
        name: String,
        members: Map<String, Value>,
        folder: &Path,
        mistakes: &mut Vec<String>,
    ) -> Option<OwnType> {
        let mut entry = Entry {
            name,
            members,
            mistakes,
        };
        entry.refuse_unknown();
        let description = entry.text("description");
        let example = entry.take("example", "an object", |value| {
            value.is_object().then_some(value)
        });
        let concurrency = entry.whole("concurrency", 1, 10_000);
        let time_limit = entry
            .whole("timeoutMs", 1, WEEK_MS)
            .map(Duration::from_millis);
        let runs_as = entry.runs_as(folder)?;
        Some(OwnType {
            name: entry.name,
            description,
            example,
            concurrency: concurrency.unwrap_or(DEFAULT_CONCURRENCY) as usize,
            time_limit,
            runs_as,
        })
    }

    fn runs_as(&mut self, folder: &Path) -> Option<RunsAs> {
        let has = |members: &[&'static str]| {
            let mut given = members.iter().copied();
            given.find(|name| self.members.contains_key(*name))
        };
        match (has(&OF_COMMANDS), has(&OF_REMOTE)) {
            (Some(one), Some(other)) => {
                self.fault(
                    other,
                    &format!("cannot stand beside {one}: a type is a command, or remote"),
                );
                None
            }
            (None, None) => {
                self.fault("command", "is required, or remote");
                None
            }
            (Some(_), None) => {
                let line = self.command_line(folder)?;
                Some(RunsAs::Command(Arc::new(line)))
            }
            (None, Some(_)) => {
                let is_remote = |value| matches!(value, Value::Bool(true)).then_some(());
                if !self.members.contains_key("remote") {
                    self.fault("remote", "is required beside leaseMs");
                }
                let is_remote = self.take("remote", "true", is_remote);
                let lease = self.whole("leaseMs", 1_000, 24 * HOUR_MS).unwrap_or(30_000);
                is_remote.map(|()| RunsAs::Remote(Duration::from_millis(lease)))
            }
        }
    }

    fn command_line(&mut self, folder: &Path) -> Option<CommandLine> {
        if !self.members.contains_key("command") {
            self.fault("command", "is required");
        }
        let wanted = "a text for /bin/sh, or a list of a program and its arguments";
        let words = self.take("command", wanted, words);
        let grace = self.whole("graceMs", 0, HOUR_MS).unwrap_or(5_000);
        let cwd = self.text("cwd");
        let folder = cwd.map_or(folder.to_owned(), |cwd| folder.join(cwd));
        if !folder.is_dir() {
            let shown = folder.display();
            self.fault("cwd", &format!("must be a folder: {shown} is not there"));
        }
        let env = self.take("env", "an object of names and texts", env);
        let percent = self.take("percent", "\"anywhere\"", |value| {
            (value == "anywhere").then_some(())
        });
        let mut words = words?.into_iter();
        Some(CommandLine {
            program: words.next()?,
            arguments: words.collect(),
            folder,
            env: env.unwrap_or_default(),
            grace: Duration::from_millis(grace),
            is_percent_anywhere: percent.is_some(),
        })
    }

    fn refuse_unknown(&mut self) {
        let known = || SHARED.iter().chain(&OF_COMMANDS).chain(&OF_REMOTE).copied();
        let given: Vec<String> = self.members.keys().cloned().collect();
        for name in given
            .iter()
            .filter(|name| !known().any(|own| own == **name))
        {
            let hint = match nearest(name, known()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known are {}", known().collect::<Vec<_>>().join(", ")),
            };
            self.fault(name, &format!("is not known; {hint}"));
        }
    }

    fn fault(&mut self, member: &str, what: &str) {
        self.mistakes.push(format!("{}.{member} {what}", self.name));
    }

    /// The member, if it is there and `read` takes it.
    fn take<T>(
        &mut self,
        member: &str,
        wanted: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Option<T> {
        let taken = read(self.members.remove(member)?);
        if taken.is_none() {
            self.fault(member, &format!("must be {wanted}"));
        }
        taken
    }

    fn whole(&mut self, member: &str, least: u64, most: u64) -> Option<u64> {
        let wanted = format!("a whole number from {least} to {most}");
        self.take(member, &wanted, |value| {
            value.as_u64().filter(|n| (least..=most).contains(n))
        })
    }

    fn text(&mut self, member: &str) -> Option<String> {
        let wanted = format!("a text of 1 to {MAX_TEXT} characters");
        self.take(member, &wanted, |value| {
            let text = value.as_str()?;
            let fits = !text.contains('\0') && (1..=MAX_TEXT).contains(&text.chars().count());
            fits.then(|| text.to_owned())
        })
    }
}

/// A command as the list that is run.
fn words(command: Value) -> Option<Vec<String>> {
    let words: Vec<String> = match command {
        Value::String(line) if !line.trim().is_empty() => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
        }
        list => serde_json::from_value(list).ok()?,
    };
    let fits = |word: &String| word.len() < MAX_WORD && !word.contains('\0');
    let has_program = words.first().is_some_and(|program| !program.is_empty());
    (has_program && words.iter().all(fits)).then_some(words)
}

fn env(given: Value) -> Option<Vec<(String, String)>> {
    let Value::Object(given) = given else {
        return None;
    };
    let read = |(name, value): (String, Value)| {
        let is_name = !name.is_empty() && !name.contains(['=', '\0']);
        let value = value.as_str().filter(|text| !text.contains('\0'))?;
        is_name.then(|| (name, value.to_owned()))
    };
    given.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<OwnType>, Vec<String>> {
        let folder = std::env::temp_dir().join(format!("executors-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("work")).expect("a folder");
        let path = folder.join("executors.json");
        fs::write(&path, text).expect("written");
        let read = read(&path, |name| name == "sample");
        fs::remove_dir_all(&folder).expect("removed");
        let prefix = format!("EXECUTORS={}: ", path.display());
        read.map_err(|mistakes| {
            let cut = |mistake: String| mistake.strip_prefix(&prefix).map(str::to_owned);
            mistakes
                .into_iter()
                .map(|text| cut(text).expect("it names the file"))
                .collect()
        })
    }

    #[test]
    fn the_contracts_example_is_read() {
        let text = r#"{
            "resize":  { "command": ["python3", "resize.py"], "description": "Makes thumbnails", "example": {"width": 200},
                         "concurrency": 2, "timeoutMs": 600000, "graceMs": 50, "cwd": "work", "env": {"QUALITY": "80"} },
            "nightly": { "command": "pg_dump app | gzip > app.gz", "percent": "anywhere" },
            "ocr":     { "remote": true, "leaseMs": 20000 }
        }"#;
        let types = read_text(text).expect("valid");
        let [resize, nightly, ocr] = &types[..] else {
            panic!("three types: {types:?}");
        };
        assert_eq!((&*resize.name, resize.concurrency), ("resize", 2));
        assert_eq!(resize.time_limit, Some(Duration::from_secs(600)));
        let RunsAs::Command(line) = &resize.runs_as else {
            panic!("a command");
        };
        assert_eq!(
            (&*line.program, &*line.arguments),
            ("python3", &["resize.py".to_owned()][..])
        );
        assert!(line.folder.ends_with("work") && line.folder.is_absolute());
        assert_eq!(line.env, [("QUALITY".to_owned(), "80".to_owned())]);
        assert_eq!(
            (line.grace, line.is_percent_anywhere),
            (Duration::from_millis(50), false)
        );
        let RunsAs::Command(line) = &nightly.runs_as else {
            panic!("a command");
        };
        assert_eq!((&*line.program, &*line.arguments[0]), ("/bin/sh", "-c"));
        assert_eq!(
            (line.grace, line.is_percent_anywhere),
            (Duration::from_secs(5), true)
        );
        assert!(matches!(ocr.runs_as, RunsAs::Remote(lease) if lease == Duration::from_secs(20)));
    }

    #[test]
    fn every_mistake_is_told_at_once_with_type_and_field() {
        let text = r#"{
            "sample": { "command": "true" },
            "exec": { "command": "true" },
            "a b": { "command": "true" },
            "none": {},
            "list": ["true"],
            "twice": { "command": "true" },
            "twice": { "comand": "true", "graceMs": -1, "command": [] },
            "both": { "command": "true", "remote": true },
            "fields": { "command": ["a", 1], "concurrency": 0, "timeoutMs": "1s", "cwd": "nowhere", "env": {"A": 1},
                        "percent": true, "example": [], "description": "", "colour": "red" },
            "away": { "remote": "yes", "leaseMs": 1 }
        }"#;
        let mistakes = read_text(text).expect_err("wrong");
        let expected = [
            "sample is a type that the program has: choose another name",
            "exec is a type that the program has: choose another name",
            "the type \"a b\" must have 1 to 64 characters of A-Z a-z 0-9 . _ -",
            "none.command is required, or remote",
            "list must be an object",
            "twice is there twice",
            "twice.comand is not known; did you mean command?",
            "twice.command must be a text for /bin/sh, or a list of a program and its arguments",
            "twice.graceMs must be a whole number from 0 to 3600000",
            "both.remote cannot stand beside command: a type is a command, or remote",
            "fields.colour is not known; known are description, example, concurrency, timeoutMs, command, graceMs, cwd, env, percent, remote, leaseMs",
            "fields.description must be a text of 1 to 2000 characters",
            "fields.example must be an object",
            "fields.concurrency must be a whole number from 1 to 10000",
            "fields.timeoutMs must be a whole number from 1 to 604800000",
            "fields.command must be a text for /bin/sh, or a list of a program and its arguments",
        ];
        for (mistake, expected) in mistakes.iter().zip(expected) {
            assert_eq!(mistake, expected);
        }
        let rest = mistakes[expected.len()..].join("\n");
        for part in [
            "fields.cwd must be a folder: /",
            "fields.env must be an object of names and texts",
            "fields.percent must be \"anywhere\"",
            "away.remote must be true",
            "away.leaseMs must be a whole number from 1000 to 86400000",
        ] {
            assert!(rest.contains(part), "{part} is not in {rest}");
        }
        assert_eq!(mistakes.len(), expected.len() + 5);
    }

    #[test]
    fn a_file_that_is_no_json_is_told_with_its_line() {
        let mistakes = read_text("{\n  \"a\": {,\n}").expect_err("wrong");
        assert!(mistakes[0].contains("line 2"), "{mistakes:?}");
        let mistakes = read_text("[]").expect_err("wrong");
        assert!(mistakes[0].contains("an object of types"), "{mistakes:?}");
        let mistakes = read(Path::new("/nowhere.json"), |_| false).expect_err("wrong");
        let missing = "EXECUTORS=/nowhere.json: No such file";
        assert!(mistakes[0].starts_with(missing), "{mistakes:?}");
    }
}
