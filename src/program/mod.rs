//! A whole program around the server: configuration, log, signals, exit code.

mod heaps;
mod log;
mod signals;

use std::io;
use std::process::ExitCode;

use self::signals::{Asked, Signals};
use crate::config::Config;
use crate::executor::ExecutorRegistry;
use crate::server::Server;

/// The exit code of what no later start could do better: a service manager need not try again.
const MISUSE: u8 = 2;

/// The exit code of what may heal: an address in use, a database that is away.
const TRY_AGAIN: u8 = 1;

/// Runs a server with executors of your own, as the program of this package does: it reads
/// the environment and `.env`, logs to standard error, stops gracefully at SIGTERM and SIGINT, and
/// opens `AUDIT_LOG` anew at SIGHUP and SIGUSR1. It returns when the server has stopped.
///
/// ```no_run
/// use async_task_system::{ExecutorRegistry, Outcome, TaskContext};
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     let mut registry = ExecutorRegistry::new();
///     registry.register("greet", |_input| Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None))));
///     async_task_system::run(registry)
/// }
/// ```
///
/// The exit code is 0 after a stop, 2 for a configuration that cannot work, and 1 for what may heal.
pub fn run(registry: ExecutorRegistry) -> ExitCode {
    // As long as the configuration stays the same, another start would fare no better.
    let config = match Config::from_env().and_then(|config| {
        Server::check_settings(&config)?;
        Ok(config)
    }) {
        Ok(config) => config,
        Err(error) => return refuse(error.mistakes()),
    };
    log::start(config.log_level);
    heaps::share();
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen to signals: {error}"), TRY_AGAIN),
    };
    let server = match Server::start(config, registry) {
        Ok(server) => server,
        Err(error) => return fail(&format!("cannot start: {error}"), code_of(&error)),
    };
    signals.serve();
    while let Asked::ToReopen = signals.next() {
        server.reopen_files();
    }
    ::log::info!("Stopping");
    server.stop();
    ::log::info!("Stopped");
    ExitCode::SUCCESS
}

/// Checks the configuration as a start would, names every mistake, and starts nothing. Run it
/// before a restart.
///
/// The exit code is 0 for a configuration that a start could use, else 2.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     async_task_system::check()
/// }
/// ```
pub fn check() -> ExitCode {
    let judged = Config::judge_env();
    let mut mistakes = judged.mistakes;
    if let Err(more) = Server::check(&judged.config) {
        mistakes.extend_from_slice(more.mistakes());
    }
    if !mistakes.is_empty() {
        return refuse(&mistakes);
    }
    println!("The configuration is valid.");
    for warning in &judged.config.warnings {
        println!("{warning}");
    }
    // Perhaps another program's; perhaps meant for this one.
    for name in Config::unknown_in_file().unwrap_or_default() {
        let name = name.escape_debug();
        println!("{name} in .env is not a variable of this program: it does nothing here.");
    }
    ExitCode::SUCCESS
}

fn refuse(mistakes: &[String]) -> ExitCode {
    for mistake in mistakes {
        eprintln!("async-task-system: {mistake}");
    }
    ExitCode::from(MISUSE)
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("async-task-system: {message}");
    ExitCode::from(code)
}

/// A start may lack a right or a file, which it will lack again, or find something not there yet.
fn code_of(error: &io::Error) -> u8 {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    match error.kind() {
        InvalidInput | IsADirectory | NotADirectory | NotFound | PermissionDenied => MISUSE,
        _ => TRY_AGAIN,
    }
}
