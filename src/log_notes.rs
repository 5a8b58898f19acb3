//! What this process has logged, for tests; other tests may add theirs.

use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

struct Notes(Mutex<Vec<(Level, String)>>);

static NOTES: Notes = Notes(Mutex::new(Vec::new()));

impl Log for Notes {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = (record.level(), record.args().to_string());
        self.0.lock().push(line);
    }

    fn flush(&self) {}
}

/// From now on lines are noted.
pub(crate) fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        log::set_logger(&NOTES).expect("no other logger");
        log::set_max_level(LevelFilter::Debug);
    });
}

/// The lines so far that have `text` in them.
pub(crate) fn with(text: &str) -> Vec<(Level, String)> {
    let lines = NOTES.0.lock();
    let found = lines.iter().filter(|(_, line)| line.contains(text));
    found.cloned().collect()
}
