//! Records whether an attempt's executor is running or paused, and which of the two the database knows.
//!
//! A paused executor keeps its claim but uses no thread, so it cannot have killed a worker that is lost meanwhile.
//! The database therefore has to know about pauses and begins. They are written with a short delay, so that short
//! steps and pauses cost nothing. For a suspect (a job whose worker was lost before) they are written at once, and
//! its executor is called only after the database records that it runs.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long an executor must run before that is written separately.
pub(super) const WORK_AFTER: Duration = Duration::from_millis(30);

/// How often a waiting run checks whether it was stopped.
const LOOK: Duration = Duration::from_millis(50);

/// The state of an attempt in the database, as far as this process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Claimed, not begun.
    Ahead,
    Working,
    Paused,
    /// A write of `Working` or `Paused` is in progress or has failed.
    Unsure,
}

pub(super) struct Presence {
    state: Mutex<State>,
    is_written: Condvar,
}

struct State {
    is_paused: bool,
    /// When the executor started or paused.
    since: Instant,
    written: Written,
    /// The completer has the run on its list.
    is_listed: bool,
}

impl State {
    fn has_changed(&self) -> bool {
        match self.written {
            // The begin entry will record that it runs.
            Written::Ahead => self.is_paused,
            Written::Working => self.is_paused,
            Written::Paused => !self.is_paused,
            Written::Unsure => true,
        }
    }
}

impl Presence {
    pub(super) fn new() -> Presence {
        Presence {
            state: Mutex::new(State {
                is_paused: false,
                since: Instant::now(),
                written: Written::Ahead,
                is_listed: false,
            }),
            is_written: Condvar::new(),
        }
    }

    pub(super) fn is_begin_written(&self) -> bool {
        self.state.lock().written != Written::Ahead
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state.lock().is_paused
    }

    /// The executor has paused or is about to be called again. Returns whether the completer must be notified.
    pub(super) fn set_paused(&self, is_paused: bool) -> bool {
        let mut state = self.state.lock();
        state.is_paused = is_paused;
        state.since = Instant::now();
        state.has_changed() && !std::mem::replace(&mut state.is_listed, true)
    }

    /// Waits until the database records that the executor runs, or until `is_over`.
    pub(super) fn wait(&self, is_over: impl Fn() -> bool) {
        let mut state = self.state.lock();
        while state.written != Written::Working && !is_over() {
            self.is_written.wait_for(&mut state, LOOK);
        }
    }

    /// Returns the state to write: whether the executor is paused. Short work is skipped, except for a suspect.
    pub(super) fn take(&self, is_suspect: bool) -> Option<bool> {
        let mut state = self.state.lock();
        let is_short = !state.is_paused && state.since.elapsed() < WORK_AFTER;
        let is_early = state.written == Written::Ahead || is_short && !is_suspect;
        if is_early || !state.has_changed() {
            return None;
        }
        state.written = Written::Unsure;
        Some(state.is_paused)
    }

    /// The database now has this state.
    pub(super) fn is_written(&self, is_paused: bool) {
        self.state.lock().written = match is_paused {
            true => Written::Paused,
            false => Written::Working,
        };
        self.is_written.notify_all();
    }

    /// Returns whether the completer must look at the run again. If not, the next change notifies the completer.
    pub(super) fn stays(&self) -> bool {
        let mut state = self.state.lock();
        state.is_listed = state.has_changed();
        state.is_listed
    }
}
