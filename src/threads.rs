//! The program's own threads: one that panics says so, and the stop waits for each.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::log_safe::LogSafe;

/// What a thread that ends on its own may take past the stop's deadline.
const GRACE: Duration = Duration::from_millis(500);

/// Starts a thread. Its panics are caught and logged here, because the program's panic hook logs at
/// debug level only.
pub(crate) fn spawn(
    name: impl Into<String>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    launch(Builder::new(), name.into(), body)
}

/// As [`spawn`], with a stack of this many bytes.
pub(crate) fn spawn_with_stack(
    name: impl Into<String>,
    stack: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    launch(Builder::new().stack_size(stack), name.into(), body)
}

fn launch(
    builder: Builder,
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    builder.name(name).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("?");
            log::error!("Thread {name} panicked: {}", LogSafe(panic_text(&*panic)));
        }
    })
}

/// The message of a panic. It is for the log only: clients never see it.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Joins a thread that ends by itself soon after the stop. It gets [`GRACE`] more, because an
/// executor may have used up the time until `deadline`.
pub(crate) fn join_until(thread: JoinHandle<()>, deadline: Instant) {
    join_by(thread, deadline + GRACE);
}

/// Joins `thread`, or leaves it behind if it has not ended by `deadline`.
pub(crate) fn join_by(thread: JoinHandle<()>, deadline: Instant) {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            let name = thread.thread().name().unwrap_or("?");
            log::warn!("Thread {name} did not end in time and is left behind");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // It has told of its panic itself.
    let _ = thread.join();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;
    use crate::log_notes;

    #[test]
    fn a_thread_that_ends_on_its_own_is_waited_for_though_the_time_is_up() {
        let (tell, told) = crossbeam_channel::bounded::<()>(0);
        let ended = Arc::<AtomicBool>::default();
        let inside = ended.clone();
        let thread = spawn("ends", move || {
            let _ = told.recv();
            std::thread::sleep(Duration::from_millis(20));
            inside.store(true, SeqCst);
        });
        drop(tell);
        join_until(thread.expect("a thread"), Instant::now());
        assert!(ended.load(SeqCst));
    }

    #[test]
    fn a_thread_that_panics_says_so_and_with_which_words() {
        log_notes::begin();
        let started = spawn("fragile", || panic!("so\nmuch"));
        assert!(started.expect("a thread").join().is_ok());
        let small = spawn_with_stack("small", 64 * 1024, || panic!("less"));
        assert!(small.expect("a thread").join().is_ok());
        for line in [
            "Thread fragile panicked: so\\nmuch",
            "Thread small panicked: less",
        ] {
            let said = log_notes::with(line);
            assert_eq!(said, [(log::Level::Error, line.to_owned())]);
        }
    }
}
