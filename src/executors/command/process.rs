//! A command's process, and the group that it leads.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::{
    Pid, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group,
    test_kill_process_group, waitid, waitpgid,
};

use super::groups::LiveGroups;
use super::guardian::{Enrolled, Guardian};
use crate::executor::{TaskError, TaskInput};
use crate::executors::file::CommandLine;

/// What a command finds in its environment, where the server has it. `LC_*` comes with it.
const VARIABLES: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A process group. It is not signalled once its leader is reaped: the number may be another's then.
pub(super) struct Process {
    group: Pid,
    guardian: Arc<Guardian>,
    enrolled: Enrolled,
    is_reaped: bool,
}

/// Our ends of a command's pipes. None of them blocks.
pub(super) struct Pipes {
    pub(super) input: OwnedFd,
    pub(super) out: OwnedFd,
    pub(super) err: OwnedFd,
}

/// How a command has ended.
#[derive(Clone, Copy)]
pub(super) enum Exit {
    Status(i32),
    Signal(i32),
    /// Somebody else has reaped it.
    Unknown,
}

impl Process {
    /// Starts a command as the leader of a group of its own.
    ///
    /// # Errors
    ///
    /// What cannot be run, and why.
    pub(super) fn spawn(
        line: &CommandLine,
        input: &TaskInput,
        guardian: &Arc<Guardian>,
        files: Rlimit,
    ) -> Result<(Process, Pipes), TaskError> {
        let mut command = Command::new(&line.program);
        command
            .args(&line.arguments)
            .current_dir(&line.folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        set_environment(&mut command, line, input);
        let enrolled = guardian.enroll(&mut command, files);
        let mut child = command.spawn().map_err(|error| {
            guardian.remove(enrolled);
            failure(line, &error)
        })?;
        let process = Process {
            group: Pid::from_child(&child),
            guardian: guardian.clone(),
            enrolled,
            is_reaped: false,
        };
        guardian.add(enrolled, process.group);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(out), Some(err)) = pipes else {
            return Err(TaskError::new("the command has no pipes"));
        };
        let pipes = Pipes {
            input: input.into(),
            out: out.into(),
            err: err.into(),
        };
        for pipe in [&pipes.input, &pipes.out, &pipes.err] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok((process, pipes))
    }

    pub(super) fn group(&self) -> Pid {
        self.group
    }

    pub(super) fn signal(&self, signal: Signal) {
        if !self.is_reaped {
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// How the process has ended, if it has. It is not reaped by this, so its number stays its own.
    pub(super) fn exit(&mut self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.group), options) {
            Ok(status) => {
                let status = status?;
                let signal = status.terminating_signal().map(Exit::Signal);
                status.exit_status().map(Exit::Status).or(signal)
            }
            Err(rustix::io::Errno::CHILD) => {
                self.forget();
                Some(Exit::Unknown)
            }
            Err(_) => None,
        }
    }

    /// Reaps the process, which has ended, and those of its group that have become children of this process (as all
    /// orphans do where it is the first one of a container).
    pub(super) fn reap(&mut self) {
        self.forget();
        while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
    }

    /// Whether nothing of the group is left. It was killed and reaped.
    pub(super) fn is_gone(&self, groups: &LiveGroups) -> bool {
        test_kill_process_group(self.group).is_err() || !groups.has(self.group)
    }

    fn forget(&mut self) {
        if !std::mem::replace(&mut self.is_reaped, true) {
            self.guardian.remove(self.enrolled);
        }
    }
}

/// Becomes readable when the process ends, where the system has this.
#[cfg(all(target_os = "linux", not(portable)))]
pub(super) fn end_of(process: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(all(target_os = "linux", not(portable))))]
pub(super) fn end_of(_: Pid) -> Option<OwnedFd> {
    None
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.signal(Signal::KILL);
            self.reap();
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exit status {status}"),
            Exit::Signal(signal) => write!(f, "killed by signal {signal}"),
            Exit::Unknown => f.write_str("its exit status is not known: another has waited for it"),
        }
    }
}

/// Nothing else of the server's environment reaches a command, and nothing of a client but the task's type and name.
fn set_environment(command: &mut Command, line: &CommandLine, input: &TaskInput) {
    command.env_clear().env("PATH", DEFAULT_PATH);
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if VARIABLES.contains(&&*text) || text.starts_with("LC_") {
            command.env(name, value);
        }
    }
    command
        .envs(line.env.iter().map(|(name, value)| (name, value)))
        .env("TASK_ID", input.id.to_string())
        .env("TASK_TYPE", input.kind.replace('\0', ""))
        .env("TASK_NAME", input.name.replace('\0', ""))
        .env("TASK_ATTEMPT", input.attempt.to_string());
}

fn failure(line: &CommandLine, error: &io::Error) -> TaskError {
    let (program, folder) = (&line.program, &line.folder);
    TaskError::new(match error.kind() {
        io::ErrorKind::NotFound if !Path::is_dir(folder) => {
            format!("the folder {} of {program} is not there", folder.display())
        }
        io::ErrorKind::NotFound => format!("the program {program} is not there"),
        _ => format!("the program {program} cannot be run: {error}"),
    })
}
