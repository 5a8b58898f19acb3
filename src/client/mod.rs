//! The client: commands that speak to a server, for people, scripts and crontabs.

mod api;
mod commands;
mod exec;
mod options;
mod reporter;

use std::ffi::OsString;
use std::process::ExitCode;

use self::options::Options;

/// Wrong arguments, or what the server refuses because of them.
const MISUSE: u8 = 2;

/// The exit codes of commands that tell how a task ended.
const FAILED: u8 = 1;
const CANCELLED: u8 = 3;
const UNREACHABLE: u8 = 4;

const USAGE: &str = "\
Commands for a server that runs (`--url`, or ATS_URL; http://localhost:3000 by default):

  run TYPE [KEY=VALUE...] [--name N] [--watch]
                  create and start a task, and print its id; --watch shows it to its end
  wait ID...      wait until the tasks have ended
  watch ID        show a bar until the task has ended
  ls [--status S] list the newest tasks
  logs ID [-f]    print a task's log; -f goes on until the task has ended
  cancel ID, retry ID
  exec [--name N] [--type T] -- COMMAND...
                  run a command here and show it there, with WORKER_TOKEN

ID may be `latest`. Further options: --session S (ATS_SESSION), --token T (ATS_TOKEN), --jobs (for jobs instead of
tasks), --json (what the server says, as it says it).
wait, watch and run --watch exit with 0 if all have completed, 1 if one has failed, 3 if one was cancelled, 4 if the
server cannot be reached; with 2 for wrong arguments.
";

/// The usage of the client's commands.
///
/// ```
/// assert!(async_task_system::client::usage().contains("run TYPE"));
/// ```
pub fn usage() -> &'static str {
    USAGE
}

/// Whether `name` is one of the client's commands.
///
/// ```
/// assert!(async_task_system::client::is_command("wait"));
/// assert!(!async_task_system::client::is_command("serve"));
/// ```
pub fn is_command(name: &str) -> bool {
    let names = [
        "run", "wait", "watch", "ls", "logs", "cancel", "retry", "exec",
    ];
    names.contains(&name)
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
    match command {
        "exec" => exec::exec(options),
        _ => commands::run(command, &options),
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("async-task-system: {message}");
    ExitCode::from(code)
}
