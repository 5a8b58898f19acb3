//! The program: arguments, configuration, log, signals.

use std::io::{self, LineWriter, stderr};
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use async_task_system::{Config, ExecutorRegistry, Server, config};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::exit as exit_at_once;
use simplelog::{ConfigBuilder, LevelFilter, WriteLogger};

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
        ["migrate"] => migrate(false),
        ["migrate", "--sql"] => migrate(true),
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
    // As long as the configuration stays the same, another start would fare no better.
    if let Err(why) = Server::check(&config) {
        return fail(&why, MISUSE);
    }
    start_log(config.log_level);
    share_heaps();
    // A file that may not grow is an error to its writer, not the end of the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    let is_serving = Arc::<AtomicBool>::default();
    let asked_to_stop = match heed_signals(is_serving.clone()) {
        Ok(asked_to_stop) => asked_to_stop,
        Err(error) => return fail(&format!("cannot listen to signals: {error}"), 1),
    };
    let server = match Server::start(config, ExecutorRegistry::new()) {
        Ok(server) => server,
        Err(error) => return fail(&format!("cannot start: {error}"), 1),
    };
    is_serving.store(true, SeqCst);
    if asked_to_stop.recv().is_ok() {
        log::info!("Stopping");
    }
    server.stop();
    log::info!("Stopped");
    ExitCode::SUCCESS
}

/// As many heaps as there are cores. By default glibc makes eight for each, and what 40 readers of long lists have freed stays
/// in all of them. `MALLOC_ARENA_MAX` says otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn share_heaps() {
    if std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return;
    }
    let cores = thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 64));
    // SAFETY: it sets a number that the allocator reads when it next makes a heap.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, cores as libc::c_int) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn share_heaps() {}

/// What is received is the request for a graceful stop. A thread has the signals: the start may wait
/// for a database for minutes, and nobody else could end it then.
fn heed_signals(is_serving: Arc<AtomicBool>) -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (ask, asked) = std::sync::mpsc::channel();
    let body = move || {
        let mut signals = signals.forever();
        signals.next();
        if !is_serving.load(SeqCst) {
            log::info!("Stopping before the start was complete");
            exit_at_once(0);
        }
        let _ = ask.send(());
        signals.next();
        log::warn!("A second signal: the stop is not waited for");
        exit_at_once(1);
    };
    thread::Builder::new().name("signals".into()).spawn(body)?;
    Ok(asked)
}

/// Brings the tables up to date, or prints what that would run.
fn migrate(only_print: bool) -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), MISUSE),
    };
    if let Err(why) = Server::check(&config) {
        return fail(&why, MISUSE);
    }
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
    std::panic::set_hook(Box::new(tell_panic));
}

/// A panic is told where it is caught, in one line like everything else; nobody catches the main
/// thread's.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_default();
    if thread::current().name() == Some("main") {
        let text = panic.payload_as_str().unwrap_or("no message");
        log::error!("The program failed at {place}: {}", text.escape_debug());
    } else {
        log::debug!("A panic at {place}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static TOLD: Mutex<Vec<(log::Level, String)>> = Mutex::new(Vec::new());

    struct Notes;

    impl log::Log for Notes {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            let line = (record.level(), record.args().to_string());
            TOLD.lock().expect("no poison").push(line);
        }

        fn flush(&self) {}
    }

    #[test]
    fn a_panic_of_the_main_thread_is_an_error_in_one_line() {
        log::set_logger(&Notes).expect("the only logger");
        log::set_max_level(LevelFilter::Trace);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(tell_panic));
        for name in ["main", "worker"] {
            let thread = thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(|| panic!("two\nlines")).expect("a thread");
            assert!(thread.join().is_err());
        }
        std::panic::set_hook(usual);
        let told = TOLD.lock().expect("no poison");
        let [main, worker] = &told[..] else {
            panic!("two lines: {told:?}");
        };
        assert_eq!((main.0, worker.0), (log::Level::Error, log::Level::Debug));
        assert!(
            main.1.contains("main.rs") && main.1.contains(r"two\nlines"),
            "{}",
            main.1
        );
        assert!(!worker.1.contains("two"), "{}", worker.1);
    }
}
