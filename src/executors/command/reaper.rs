//! Ends commands whose attempts are over: SIGTERM at once, SIGKILL after the grace, and then they are reaped.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit};

use super::groups::LiveGroups;
use super::guardian::{Guardian, Shell};
use super::process::{Process, end_of};
use super::readiness::{For, Readiness};
use crate::executor::Waker;
use crate::task::later;

/// How often the commands are looked at that are ending.
const LOOK: Duration = Duration::from_millis(10);

/// How long after SIGKILL the stop waits for a process.
const LAST_WAIT: Duration = Duration::from_millis(400);

/// What a process may still say is read away in parts of this size.
const PART: usize = 64 * 1024;

/// What the executors of commands and the thread share that reaps them.
pub(super) struct Reaper {
    pub(super) readiness: Arc<Readiness>,
    pub(super) guardian: Arc<Guardian>,
    /// The limit of open files that commands get: the one that this process was started with.
    pub(super) files: Rlimit,
    /// What the thread has not seen yet. `None` after its end.
    handed_over: Mutex<Option<Vec<Ending>>>,
    /// At the stop: no command has more time than this.
    kill_by: Mutex<Option<Instant>>,
}

/// A command that is to end.
pub(super) struct Ending {
    process: Process,
    /// They stay open, and are read away: who says goodbye must not fail at that.
    outputs: Vec<OwnedFd>,
    kill_at: Instant,
    is_killed: bool,
    /// Its place among the processes of its type.
    _place: Option<Arc<dyn Any + Send + Sync>>,
}

impl Reaper {
    pub(super) fn new() -> io::Result<Reaper> {
        Ok(Reaper {
            readiness: Arc::new(Readiness::new()?),
            guardian: Arc::new(Guardian::new()?),
            files: getrlimit(Resource::Nofile),
            handed_over: Mutex::new(Some(Vec::new())),
            kill_by: Mutex::default(),
        })
    }

    /// Takes a command whose attempt is over. Never blocks.
    pub(super) fn end(&self, ending: Ending) {
        let late = match &mut *self.handed_over.lock() {
            Some(waiting) => {
                waiting.push(ending);
                None
            }
            None => Some(ending),
        };
        // After the stop, dropping it kills it.
        drop(late);
        self.readiness.interrupt();
    }

    /// Ends what is left by this time, and then the thread.
    pub(super) fn stop(&self, kill_by: Instant) {
        self.kill_by.lock().get_or_insert(kill_by);
        self.readiness.interrupt();
    }

    /// The thread: it wakes executors, keeps the guardian's shell, and ends commands.
    pub(super) fn run(&self) {
        let mut shell = Shell::default();
        let shell_watch = self.readiness.watch(Waker::new(|| {}));
        let mut shell_end = None;
        let mut endings: Vec<Ending> = Vec::new();
        loop {
            if let Some(child) = shell.look(&self.guardian) {
                shell_end = end_of(Pid::from_child(child));
                if let Some(end) = &shell_end {
                    let _ = shell_watch.add(end, For::Reading);
                }
            }
            self.readiness.wait((!endings.is_empty()).then_some(LOOK));
            let kill_by = *self.kill_by.lock();
            endings.extend(self.take_handed_over());
            let groups = LiveGroups::default();
            endings.retain_mut(|ending| !ending.is_over(kill_by, &groups));
            if let Some(kill_by) = kill_by
                && self.is_done(&endings, kill_by)
            {
                break;
            }
        }
        drop(shell_end);
        if !endings.is_empty() {
            log::error!(
                "{} commands did not end though they were killed",
                endings.len()
            );
        }
        shell.end();
    }

    fn take_handed_over(&self) -> Vec<Ending> {
        let mut waiting = self.handed_over.lock();
        waiting.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether the thread may end. Nothing is handed over to it afterwards.
    fn is_done(&self, endings: &[Ending], kill_by: Instant) -> bool {
        let mut waiting = self.handed_over.lock();
        let is_empty = endings.is_empty() && waiting.as_ref().is_none_or(Vec::is_empty);
        let is_done = is_empty || Instant::now() > kill_by + LAST_WAIT;
        let late = if is_done { waiting.take() } else { None };
        drop(waiting);
        drop(late);
        is_done
    }
}

impl Ending {
    /// Begins the end: SIGTERM for the whole group.
    pub(super) fn new(
        process: Process,
        outputs: Vec<OwnedFd>,
        grace: Duration,
        place: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Ending {
        process.signal(Signal::TERM);
        Ending {
            process,
            outputs,
            kill_at: later(Instant::now(), grace),
            is_killed: false,
            _place: place,
        }
    }

    /// Goes on with the end. Returns whether nothing is left.
    fn is_over(&mut self, kill_by: Option<Instant>, groups: &LiveGroups) -> bool {
        self.outputs.retain(is_open);
        let has_ended = self.process.exit().is_some();
        // Others of the group may be saying goodbye when its leader has ended.
        let is_alone = has_ended && self.outputs.is_empty() && !groups.has(self.process.group());
        let kill_at = kill_by.map_or(self.kill_at, |by| by.min(self.kill_at));
        if !self.is_killed && (is_alone || Instant::now() >= kill_at) {
            self.process.signal(Signal::KILL);
            self.is_killed = true;
        }
        if self.is_killed && has_ended {
            self.process.reap();
        }
        self.is_killed && has_ended && self.process.is_gone(groups)
    }
}

/// Reads away what is there. Returns whether there may be more.
fn is_open(output: &OwnedFd) -> bool {
    let mut part = [0; PART];
    !matches!(rustix::io::read(output, &mut part), Ok(0))
}
