//! The client: commands that speak to a server, for people, scripts and crontabs.

mod api;
mod commands;
mod exec;
mod exit;
mod http;
mod options;
mod reporter;

use std::ffi::OsString;
use std::process::ExitCode;

use self::exit::{MISUSE, fail};
use self::options::Options;

/// Each command: its name, its arguments, what it does, and what else its `--help` tells.
const COMMANDS: [[&str; 4]; 8] = [
    [
        "run",
        "TYPE [KEY=VALUE...] [--name N] [--watch]",
        "start a task and print its id; --watch shows it",
        "A VALUE is read as JSON where it is JSON, else as text: n=3 on=true list=[1,2] file=a.txt\n\
         With --jobs the pairs are the job's arguments. GET /api/v1/executors lists the types.\n",
    ],
    ["wait", "ID...", "wait until all have ended", ""],
    ["watch", "ID", "show how it goes until it has ended", ""],
    [
        "ls",
        "[--status S]",
        "list the newest tasks",
        "S is one status or several: failed,cancelled\n",
    ],
    [
        "logs",
        "ID [-f]",
        "print the log; -f goes on until it has ended",
        "",
    ],
    ["cancel", "ID", "cancel it", ""],
    [
        "retry",
        "ID",
        "start it once more, after a failure or a cancel",
        "",
    ],
    [
        "exec",
        "[--name N] [--type T] [--user U] -- COMMAND...",
        "run a command here and show it there as a task",
        "T is the task's type (exec). The token is WORKER_TOKEN, else ATS_TOKEN. Without --name the whole command line is shown.\n\
         With --user it is a job of that user, instead of a task of a session.\n\
         Output, signals and the exit code are the command's own. It runs all the same where the server cannot be reached.\n",
    ],
];

const OPTIONS: &str = "  --url U         where the server is (ATS_URL, else http://127.0.0.1:3000)
  --session S     whose tasks (ATS_SESSION)
  --token T       the bearer token (ATS_TOKEN)
";

const MORE_OPTIONS: &str = "  --jobs          jobs instead of tasks
  --json          what the server says, as it says it

ID may be `latest`. Exit codes: 0 done, or completed; 1 failed, or refused; 2 wrong arguments; 3 cancelled;
4 the server cannot be reached.
";

/// The usage of the client's commands.
///
/// ```
/// assert!(async_task_system::client::usage().contains("KEY=VALUE"));
/// ```
pub fn usage() -> String {
    let lines = COMMANDS.map(|[name, arguments, what, _]| match arguments.len() {
        ..9 => format!("  {name:<6} {arguments:<9}{what}\n"),
        _ => format!("  {name:<6} {arguments}\n                  {what}\n"),
    });
    let lines = lines.concat();
    format!("Commands for a server that runs:\n\n{lines}\n{OPTIONS}{MORE_OPTIONS}")
}

/// The `--help` of one command.
fn help(command: &str) -> String {
    let found = COMMANDS.iter().find(|[name, ..]| *name == command);
    let [name, arguments, what, more] = found.copied().unwrap_or_default();
    let (first, rest) = what.split_at(1);
    let gap = if more.is_empty() { "" } else { "\n" };
    let options = if name == "exec" { "" } else { MORE_OPTIONS };
    let first = first.to_uppercase();
    format!(
        "{first}{rest}.\n\nUsage: async-task-system {name} {arguments}\n\n{more}{gap}{OPTIONS}{options}"
    )
}

/// Whether `name` is one of the client's commands.
///
/// ```
/// assert!(async_task_system::client::is_command("wait"));
/// assert!(!async_task_system::client::is_command("serve"));
/// ```
pub fn is_command(name: &str) -> bool {
    COMMANDS.iter().any(|[own, ..]| *own == name)
}

/// Runs one of the client's commands, for the `main` of a program that embeds the server and wants to have them too.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     let words: Vec<_> = std::env::args_os().skip(1).collect();
///     async_task_system::client::run("ls", &words)
/// }
/// ```
pub fn run(command: &str, words: &[OsString]) -> ExitCode {
    let options = match Options::read(command, words) {
        Ok(options) => options,
        Err(why) => return fail(&format!("{why}; see --help"), MISUSE),
    };
    if options.wants_help {
        print!("{}", help(command));
        return ExitCode::SUCCESS;
    }
    match command {
        "exec" => exec::exec(options),
        _ => commands::run(command, &options),
    }
}
