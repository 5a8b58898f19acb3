//! The program: its arguments.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use async_task_system::{Config, ExecutorRegistry, Server, client, config};
use lexopt::prelude::*;

const USAGE: &str = "\
Background tasks with progress over HTTP.

Usage: async-task-system [OPTION | COMMAND]

Without any, the server starts. Its settings are variables, listed below.

  --check         check the configuration and exit
  --help          print this and exit; after a command, print what it takes
  --version       print the version and exit
  token --sub NAME [--role admin] [--ttl 1h]
                  print a token for the Job API, signed with JWT_SECRET
  migrate [--sql]
                  bring the Job API's tables up to date and exit, as a start does it;
                  with --sql only print what would be run
";

const TOKEN_USAGE: &str = "\
Prints a token for the Job API, signed with JWT_SECRET.

Usage: async-task-system token --sub NAME [--role admin] [--ttl 1h]

  --sub NAME      whose jobs it is for
  --role admin    for the jobs of all
  --ttl TIME      how long it is valid: 90s, 15m, 1h (default), 7d
";

const MIGRATE_USAGE: &str = "\
Brings the Job API's tables up to date, as a start does it.

Usage: async-task-system migrate [--sql]

  --sql           only print what would be run
";

const VARIABLES: &str = "Variables, from the environment and from .env in the current directory, with their defaults:\n";

/// What a wrong argument or configuration exits with.
const MISUSE: u8 = 2;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((first, rest)) = words.split_first() else {
        return async_task_system::run(ExecutorRegistry::new());
    };
    let done = match (first.to_str().unwrap_or_default(), rest) {
        ("token", _) => token(rest),
        ("migrate", _) => migrate(rest),
        (command, _) if client::is_command(command) => Ok(client::run(command, rest)),
        ("--check", []) => Ok(async_task_system::check()),
        ("--help" | "-h", []) => {
            print!(
                "{USAGE}\n{}\n{VARIABLES}\n{}",
                client::usage(),
                config::help()
            );
            Ok(ExitCode::SUCCESS)
        }
        ("--version" | "-V", []) => {
            println!("async-task-system {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            let given = words.join(" ").escape_debug().to_string();
            Err(format!("unknown option {given}: settings are variables, as in PORT=3000").into())
        }
    };
    done.unwrap_or_else(|why| fail(&format!("{why}; see --help"), MISUSE))
}

/// Brings the tables up to date, or prints what that would run.
fn migrate(words: &[OsString]) -> Result<ExitCode, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(words);
    let mut only_print = false;
    while let Some(word) = parser.next()? {
        match word {
            Long("sql") => only_print = true,
            Short('h') | Long("help") => return Ok(tell(MIGRATE_USAGE)),
            other => return Err(other.unexpected()),
        }
    }
    Ok(bring_up_to_date(only_print))
}

fn bring_up_to_date(only_print: bool) -> ExitCode {
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
fn token(words: &[OsString]) -> Result<ExitCode, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(words);
    let (mut subject, mut role, mut lifetime) = (String::new(), None, Duration::from_secs(3_600));
    while let Some(word) = parser.next()? {
        match word {
            Long("sub") => subject = parser.value()?.string()?,
            Long("role") => match &*parser.value()?.string()? {
                "admin" => role = Some("admin"),
                _ => return Err("the only role is admin".into()),
            },
            Long("ttl") => lifetime = parser.value()?.parse_with(parse_lifetime)?,
            Short('h') | Long("help") => return Ok(tell(TOKEN_USAGE)),
            other => return Err(other.unexpected()),
        }
    }
    if subject.is_empty() {
        return Err("token needs --sub NAME".into());
    }
    let made = Config::from_env()
        .map_err(|error| error.to_string())
        .and_then(|config| async_task_system::token(&config, &subject, role, lifetime));
    Ok(match made {
        Ok(token) => tell(&format!("{token}\n")),
        Err(why) => fail(&why, MISUSE),
    })
}

/// `90`, `90s`, `15m`, `1h`, `7d`.
fn parse_lifetime(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    let is_fit = |seconds: &u64| (1..=u64::from(u32::MAX)).contains(seconds);
    let seconds = seconds.filter(is_fit);
    seconds
        .map(Duration::from_secs)
        .ok_or("it must be a time as 90s, 15m, 1h or 7d")
}

fn tell(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("async-task-system: {message}");
    ExitCode::from(code)
}
