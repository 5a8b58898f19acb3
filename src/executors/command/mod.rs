//! Commands: processes that run attempts, each in a group of its own.
//!
//! ```text
//!  slice: spawn ──▶ read, report, arm, wait ──▶ … ──▶ the process has ended: kill its group, read the rest, reap
//!                         ▲         │
//!                         └─ wake ──┘  by the thread `commands`, which one epoll tells what is ready
//! ```
//!
//! No thread waits for a command. An attempt that is over (a cancel, a time limit, the stop) leaves its process to the
//! thread, which ends it. A shell beside the server, the guardian, ends the commands of a server that was killed.

mod groups;
mod guardian;
mod process;
#[cfg_attr(not(all(target_os = "linux", not(portable))), path = "looks.rs")]
mod readiness;
mod reaper;
mod run;
mod told;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;

use self::reaper::Reaper;
use self::run::CommandRun;
use crate::executor::{ExecutorRegistry, Registration};
use crate::executors::file::CommandLine;
use crate::threads::{self, join_until};

/// What is written beside a result in the line that reports it.
const AROUND_RESULT: usize = 4_096;

/// Runs commands. Its thread ends with [`stop`](Commands::stop).
pub(super) struct Commands {
    reaper: Arc<Reaper>,
    thread: Mutex<Option<JoinHandle<()>>>,
    longest_report: usize,
}

impl Commands {
    pub(super) fn start(max_result_bytes: usize) -> io::Result<Commands> {
        let reaper = Arc::new(Reaper::new()?);
        let inside = reaper.clone();
        let thread = threads::spawn("commands", move || inside.run())?;
        Ok(Commands {
            reaper,
            thread: Mutex::new(Some(thread)),
            longest_report: max_result_bytes.saturating_add(AROUND_RESULT),
        })
    }

    /// Has tasks of this type run by a command.
    pub(super) fn register<'r>(
        &self,
        kind: &str,
        line: &Arc<CommandLine>,
        registry: &'r mut ExecutorRegistry,
    ) -> &'r mut Registration {
        let (reaper, line) = (self.reaper.clone(), line.clone());
        let longest_report = self.longest_report;
        registry.register(kind, move |input| {
            let (reaper, line) = (reaper.clone(), line.clone());
            Ok(CommandRun::new(line, reaper, longest_report, input))
        })
    }

    /// Has all executors called: those whose attempts are over give up their processes now.
    pub(super) fn wake_all(&self) {
        self.reaper.readiness.wake_all();
    }

    /// Ends the commands that are left, at the latest by this time, and the thread.
    pub(super) fn stop(&self, kill_by: Instant) {
        self.reaper.stop(kill_by);
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, kill_by);
        }
    }
}
