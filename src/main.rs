//! The program: arguments, configuration, log, signals.

use std::io::{LineWriter, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_task_system::{Config, ExecutorRegistry, Server, config};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use simplelog::{ConfigBuilder, LevelFilter, WriteLogger};

const USAGE: &str = "\
Background tasks with progress over HTTP.

Usage: async-task-system [OPTION]

  token --sub NAME [--role admin] [--ttl 1h]
              print a token for the Job API, signed with JWT_SECRET
  --check     check the configuration and exit
  --help      print this and exit
  --version   print the version and exit

Variables, from the environment and from .env in the current directory, with their defaults:
";

/// What a wrong argument or configuration exits with.
const MISUSE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    match words.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
        [] => serve(false),
        ["--check"] => serve(true),
        ["token", ref options @ ..] => token(options),
        ["--help" | "-h"] => {
            print!("{USAGE}\n{}", config::help());
            ExitCode::SUCCESS
        }
        ["--version" | "-V"] => {
            println!("async-task-system {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            let given = words.join(" ").escape_debug().to_string();
            fail(&format!("{given} is not understood; see --help"), MISUSE)
        }
    }
}

fn serve(check: bool) -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), MISUSE),
    };
    if check {
        return match Server::check(&config) {
            Ok(()) => {
                println!("The configuration is valid.");
                // Perhaps another program's; perhaps meant for this one.
                for name in Config::unknown_in_file().unwrap_or_default() {
                    let name = name.escape_debug();
                    println!(
                        "{name} in .env is not a variable of this program: it does nothing here."
                    );
                }
                ExitCode::SUCCESS
            }
            Err(why) => fail(&why, MISUSE),
        };
    }
    start_log(config.log_level);
    // A file that may not grow is an error to its writer, not the end of the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    // Before any thread starts, so that no signal is missed.
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen to signals: {error}"), 1),
    };
    let server = match Server::start(config, ExecutorRegistry::new()) {
        Ok(server) => server,
        Err(error) => return fail(&format!("cannot start: {error}"), 1),
    };
    if signals.forever().next().is_some() {
        log::info!("Stopping");
    }
    server.stop();
    log::info!("Stopped");
    ExitCode::SUCCESS
}

/// Prints a token for a test of the Job API with curl.
fn token(options: &[&str]) -> ExitCode {
    let usage = "usage: async-task-system token --sub NAME [--role admin] [--ttl 1h]";
    let (mut subject, mut role, mut lifetime) = (None, None, Some(Duration::from_secs(3_600)));
    for pair in options.chunks(2) {
        match *pair {
            ["--sub", name] => subject = Some(name),
            ["--role", "admin"] => role = Some("admin"),
            ["--role", _] => return fail("the only role is admin", MISUSE),
            ["--ttl", text] => lifetime = parse_lifetime(text),
            _ => return fail(usage, MISUSE),
        }
    }
    let (Some(subject), Some(lifetime)) = (subject.filter(|s| !s.is_empty()), lifetime) else {
        return fail(usage, MISUSE);
    };
    let made = Config::from_env()
        .map_err(|error| error.to_string())
        .and_then(|config| async_task_system::token(&config, subject, role, lifetime));
    match made {
        Ok(token) => {
            println!("{token}");
            ExitCode::SUCCESS
        }
        Err(why) => fail(&why, MISUSE),
    }
}

/// `90`, `90s`, `15m`, `1h`, `7d`.
fn parse_lifetime(text: &str) -> Option<Duration> {
    let (number, unit) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (number, "s") => (number, 1),
        (number, "m") => (number, 60),
        (number, "h") => (number, 3_600),
        (number, "d") => (number, 86_400),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=u64::from(u32::MAX))
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("async-task-system: {message}");
    ExitCode::from(code)
}

/// One line an event on standard error, each in one write.
fn start_log(level: LevelFilter) {
    let config = ConfigBuilder::new()
        .set_time_format_custom(time::macros::format_description!(
            "[year]-[month]-[day] [hour]:[minute]:[second]"
        ))
        .set_time_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    let _ = WriteLogger::init(level, config, LineWriter::new(stderr()));
    // A panic is told where it is caught, in one line like everything else.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        log::debug!("A panic at {}", place.unwrap_or_default());
    }));
}
