//! What signals ask for.

use std::io::{self, IsTerminal, stdin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator;
use signal_hook::low_level::exit as exit_at_once;

/// What a signal asks a running server for.
pub(super) enum Asked {
    ToStop,
    /// To open its files anew: somebody has moved them.
    ToReopen,
}

/// The way of the signals to the main thread. A thread of its own receives them: the start may wait
/// for a database for minutes, and nobody else could end it then.
pub(super) struct Signals {
    is_serving: Arc<AtomicBool>,
    asked: Receiver<Asked>,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Signals> {
        // A file that may not grow is an error to its writer, not the end of the process.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
        let signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
        let is_serving = Arc::<AtomicBool>::default();
        let (ask, asked) = channel();
        let inside = is_serving.clone();
        let body = move || receive(signals, &inside, &ask);
        thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(Signals { is_serving, asked })
    }

    /// From now on a stop is a graceful one.
    pub(super) fn serve(&self) {
        self.is_serving.store(true, SeqCst);
    }

    /// Waits for what is asked next.
    pub(super) fn next(&self) -> Asked {
        self.asked.recv().unwrap_or(Asked::ToStop)
    }
}

fn receive(mut signals: iterator::Signals, is_serving: &AtomicBool, ask: &Sender<Asked>) {
    let terminal = stdin().is_terminal();
    let mut is_stopping = false;
    for signal in signals.forever() {
        let is_reopening = match signal {
            SIGUSR1 => true,
            // The terminal that it was started from has been closed: nobody else will stop it.
            SIGHUP => !terminal || stdin().is_terminal(),
            _ => false,
        };
        match (is_serving.load(SeqCst), is_reopening) {
            // A start opens its files for the first time.
            (false, true) => {}
            (true, true) => drop(ask.send(Asked::ToReopen)),
            (false, false) => {
                ::log::info!("Stopping before the start was complete");
                exit_at_once(0);
            }
            (true, false) if is_stopping => {
                ::log::warn!("A second signal: the stop is not waited for");
                exit_at_once(1);
            }
            (true, false) => {
                is_stopping = true;
                let _ = ask.send(Asked::ToStop);
            }
        }
    }
}
