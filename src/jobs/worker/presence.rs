//! Whether an attempt's executor is at work, and what the database knows of that.
//!
//! An executor that pauses holds its job, and is on no thread meanwhile: a worker that ends then was not ended by it. So the
//! database is told of pauses, as it is of the begin; a little later, so that short steps and pauses cost nothing. Of a
//! suspect, a job whose worker was lost before, it is told at once: its executor is called only after it is written that
//! it is at work.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long an executor is at work before that is written apart from what follows.
pub(super) const WORK_AFTER: Duration = Duration::from_millis(30);

/// How often one that waits looks whether it may go on.
const LOOK: Duration = Duration::from_millis(50);

/// What the database has of an attempt, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Claimed ahead.
    Ahead,
    Working,
    Paused,
    /// A write of one of the last two is under way, or has failed.
    Unsure,
}

pub(super) struct Presence {
    state: Mutex<State>,
    is_written: Condvar,
}

struct State {
    is_paused: bool,
    /// Since when it is at work, or paused.
    since: Instant,
    written: Written,
    /// The completer has it on its list.
    is_told: bool,
}

impl State {
    fn is_news(&self) -> bool {
        match self.written {
            // The begin says that it is at work.
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
                is_told: false,
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

    /// The executor has returned, and is to be called again; or is to be called now. Whether the completer is to be told.
    pub(super) fn set_paused(&self, is_paused: bool) -> bool {
        let mut state = self.state.lock();
        state.is_paused = is_paused;
        state.since = Instant::now();
        state.is_news() && !std::mem::replace(&mut state.is_told, true)
    }

    /// Returns when it is written that the executor is at work, or `is_over`.
    pub(super) fn wait(&self, is_over: impl Fn() -> bool) {
        let mut state = self.state.lock();
        while state.written != Written::Working && !is_over() {
            self.is_written.wait_for(&mut state, LOOK);
        }
    }

    /// What is to be written: whether it is paused. Of a suspect however short its work has been.
    pub(super) fn take(&self, is_suspect: bool) -> Option<bool> {
        let mut state = self.state.lock();
        let is_short = !state.is_paused && state.since.elapsed() < WORK_AFTER;
        let is_early = state.written == Written::Ahead || is_short && !is_suspect;
        if is_early || !state.is_news() {
            return None;
        }
        state.written = Written::Unsure;
        Some(state.is_paused)
    }

    /// This is what the database has now.
    pub(super) fn is_written(&self, is_paused: bool) {
        self.state.lock().written = match is_paused {
            true => Written::Paused,
            false => Written::Working,
        };
        self.is_written.notify_all();
    }

    /// Whether the completer is to look at it again; if not, it is told of the next change.
    pub(super) fn stays(&self) -> bool {
        let mut state = self.state.lock();
        state.is_told = state.is_news();
        state.is_told
    }
}
