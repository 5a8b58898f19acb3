//! The program: its arguments.

use std::process::ExitCode;
use std::time::Duration;

use async_task_system::{Config, ExecutorRegistry, Server, client, config};

const USAGE: &str = "\
Background tasks with progress over HTTP.

Usage: async-task-system [OPTION]

  token --sub NAME [--role admin] [--ttl 1h]
              print a token for the Job API, signed with JWT_SECRET
  migrate [--sql]
              bring the Job API's tables up to date and exit, as a start does it;
              with --sql only print what would be run
  --check     check the configuration and exit
  --help      print this and exit
  --version   print the version and exit
";

const VARIABLES: &str = "Variables, from the environment and from .env in the current directory, with their defaults:\n";

/// What a wrong argument or configuration exits with.
const MISUSE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    match words.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
        [] => async_task_system::run(ExecutorRegistry::new()),
        [command, ..] if client::is_command(command) => client::run(command, &arguments[1..]),
        ["--check"] => async_task_system::check(),
        ["token", ref options @ ..] => token(options),
        ["migrate"] => migrate(false),
        ["migrate", "--sql"] => migrate(true),
        ["--help" | "-h"] => {
            print!(
                "{USAGE}\n{}\n{VARIABLES}\n{}",
                client::usage(),
                config::help()
            );
            ExitCode::SUCCESS
        }
        ["--version" | "-V"] => {
            println!("async-task-system {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            let given = words.join(" ").escape_debug().to_string();
            let hint = "settings are variables, as in PORT=3000; see --help";
            fail(&format!("unknown option {given}: {hint}"), MISUSE)
        }
    }
}

/// Brings the tables up to date, or prints what that would run.
fn migrate(only_print: bool) -> ExitCode {
    let judged = Config::from_env().and_then(|config| {
        Server::check(&config)?;
        Ok(config)
    });
    let config = match judged {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), MISUSE),
    };
    let printed = match only_print {
        true => async_task_system::migration_sql(&config),
        false => async_task_system::migrate(&config).map(|applied| {
            let lines = applied.iter().map(|name| format!("Applied {name}.\n"));
            lines.collect()
        }),
    };
    match printed {
        Ok(text) if text.is_empty() && only_print => println!("-- The schema is current."),
        Ok(text) if text.is_empty() => println!("The schema is current."),
        Ok(text) => print!("{text}"),
        Err(why) if config.database_url.is_none() => return fail(&why, MISUSE),
        Err(why) => return fail(&why, 1),
    }
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
