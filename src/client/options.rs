//! The arguments of the client's commands, and the variables behind them.

use std::ffi::OsString;

use lexopt::prelude::*;

use super::api::Api;

/// Where the server listens by default.
const DEFAULT_URL: &str = "http://127.0.0.1:3000";

/// What was asked for.
#[derive(Default)]
pub(super) struct Options {
    url: Option<String>,
    session: Option<String>,
    token: Option<String>,
    /// Whose job `exec` shows; without, it shows a task.
    pub(super) user: Option<String>,
    pub(super) name: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) status: Option<String>,
    pub(super) watches: bool,
    pub(super) follows: bool,
    pub(super) of_jobs: bool,
    pub(super) as_json: bool,
    pub(super) wants_help: bool,
    /// The words that are no options.
    pub(super) words: Vec<String>,
    /// The command of `exec`.
    pub(super) command: Vec<OsString>,
}

impl Options {
    pub(super) fn read(command: &str, words: &[OsString]) -> Result<Options, lexopt::Error> {
        let mut options = Options::default();
        let mut parser = lexopt::Parser::from_args(words);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("url") => options.url = Some(parser.value()?.string()?),
                Long("session") => options.session = Some(parser.value()?.string()?),
                Long("token") => options.token = Some(parser.value()?.string()?),
                Long("name") if ["run", "exec"].contains(&command) => {
                    options.name = Some(parser.value()?.string()?);
                }
                Long("user") if command == "exec" => options.user = Some(parser.value()?.string()?),
                Long("type") if command == "exec" => options.kind = Some(parser.value()?.string()?),
                Long("status") if command == "ls" => {
                    options.status = Some(parser.value()?.string()?);
                }
                Long("watch") if command == "run" => options.watches = true,
                Short('f') | Long("follow") if command == "logs" => options.follows = true,
                Long("job" | "jobs") if command != "exec" => options.of_jobs = true,
                Long("json") if command != "exec" => options.as_json = true,
                Short('h') | Long("help") => options.wants_help = true,
                // The command begins here, and all its options are its own.
                Value(word) if command == "exec" => {
                    options.command.push(word);
                    options.command.extend(parser.raw_args()?);
                }
                Value(word) => options.words.push(word.string()?),
                other => return Err(other.unexpected()),
            }
        }
        if !options.wants_help {
            options.check(command)?;
        }
        Ok(options)
    }

    fn check(&self, command: &str) -> Result<(), lexopt::Error> {
        let words = self.words.len();
        let wanted = match command {
            "exec" if self.command.is_empty() => "exec needs a command, as in exec -- make",
            "exec" if self.user.is_some() && self.session.is_some() => {
                "give either --session, for a task, or --user, for a job"
            }
            _ if self.words.iter().any(String::is_empty) => "an id or a type must not be empty",
            "run" if words == 0 => "run needs a type, as in run sample delayMs=100",
            "wait" if words == 0 => "wait needs an id, or latest",
            "watch" | "logs" | "cancel" | "retry" if words != 1 => "one id is needed, or latest",
            "ls" if words > 0 => "ls takes no id; --status S chooses",
            _ => return Ok(()),
        };
        Err(wanted.into())
    }

    /// The server that is meant. `token` names the variables of the token.
    pub(super) fn api(&self, token: &[&str]) -> Api {
        let url = self.url.clone().or_else(|| variable("ATS_URL"));
        let url = url.unwrap_or_else(|| DEFAULT_URL.to_owned());
        let of_variables = || token.iter().find_map(|name| variable(name));
        let token = self.token.clone().or_else(of_variables);
        Api::new(&url, self.session(), token)
    }

    pub(super) fn session(&self) -> Option<String> {
        self.session.clone().or_else(|| variable("ATS_SESSION"))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
