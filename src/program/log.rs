//! The log of the program.

use std::io::{LineWriter, stderr};
use std::panic::PanicHookInfo;
use std::thread;

use simplelog::{ConfigBuilder, LevelFilter, WriteLogger};

/// One line an event on standard error, each in one write.
pub(super) fn start(level: LevelFilter) {
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
        ::log::error!("The program failed at {place}: {}", text.escape_debug());
    } else {
        ::log::debug!("A panic at {place}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_notes;

    #[test]
    fn a_panic_of_the_main_thread_is_an_error_in_one_line() {
        log_notes::begin();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(tell_panic));
        for name in ["main", "worker"] {
            let thread = thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(|| panic!("two\nlines")).expect("a thread");
            assert!(thread.join().is_err());
        }
        std::panic::set_hook(usual);
        let told = log_notes::with("program/log.rs");
        let [main, worker] = &told[..] else {
            panic!("two lines: {told:?}");
        };
        assert_eq!(
            (main.0, worker.0),
            (::log::Level::Error, ::log::Level::Debug)
        );
        assert!(main.1.contains(r"two\nlines"), "{}", main.1);
        assert!(!worker.1.contains("two"), "{}", worker.1);
    }
}
