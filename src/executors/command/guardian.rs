//! Ends the commands of a server that was killed.
//!
//! A shell waits beside the server. It reads from a pipe which process groups there are, and at the pipe's end it kills
//! those that are left. A command writes its own number to the pipe before its program is executed. So there is no
//! moment at which the server can be killed and the command is not known: until then the command itself keeps the pipe
//! open.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, setrlimit};

/// Lines are `+NUMBER=GROUP` and `-NUMBER`; its arguments are the groups that there are, as `NUMBER=GROUP`. The numbers
/// are never used again. For any POSIX shell.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
groups=" $* "
while read -r line; do
  entry=${line#?}
  number=${entry%%=*}
  case "$line$groups" in
    +*" $number="*) ;;
    +*=*) groups="$groups$entry " ;;
    -*" $number="*) after=${groups#* "$number"=}; groups="${groups%% "$number"=*} ${after#* }" ;;
  esac
done
for entry in $groups; do kill -9 "-${entry#*=}"; done 2>/dev/null
"#;

/// The groups, and the way to the shell.
pub(super) struct Guardian {
    lines: Arc<PipeWriter>,
    /// The shell's end. It is kept, so that the pipe stays when the shell is gone.
    read_end: PipeReader,
    groups: Mutex<BTreeMap<u64, Pid>>,
    last_number: AtomicU64,
    /// How many shells were started.
    started: AtomicU32,
    /// The pipe is full: the shell does not read.
    is_stuck: AtomicBool,
}

impl Guardian {
    pub(super) fn new() -> io::Result<Guardian> {
        let (read_end, lines) = io::pipe()?;
        rustix::io::ioctl_fionbio(&lines, true)?;
        Ok(Guardian {
            lines: Arc::new(lines),
            read_end,
            groups: Mutex::default(),
            last_number: AtomicU64::new(0),
            started: AtomicU32::new(0),
            is_stuck: AtomicBool::new(false),
        })
    }

    /// Has the command tell its group before its program is executed, and gives it the limit of open files `files`.
    /// Whether it is executed or not, [`remove`](Guardian::remove) must follow.
    #[allow(unsafe_code)]
    pub(super) fn enroll(&self, command: &mut Command, files: Rlimit) -> Enrolled {
        let number = self.last_number.fetch_add(1, SeqCst) + 1;
        let lines = self.lines.clone();
        let enroll = move || {
            let mut line = [0_u8; 40];
            let mut rest = &mut line[..];
            let _ = writeln!(rest, "+{number}={}", rustix::process::getpid());
            let length = 40 - rest.len();
            let _ = rustix::io::write(&lines, &line[..length]);
            let _ = setrlimit(Resource::Nofile, files);
            close_others_at_exec();
            Ok(())
        };
        // SAFETY: it runs between fork and exec, where only async-signal-safe calls are allowed: it allocates nothing,
        // takes no lock and cannot panic; write, getpid, setrlimit and close_range are plain system calls.
        unsafe { command.pre_exec(enroll) };
        let started = self.started.load(SeqCst);
        Enrolled { number, started }
    }

    /// Notes the group of a command that was executed. A shell that was started meanwhile may not know it.
    pub(super) fn add(&self, enrolled: Enrolled, group: Pid) {
        self.groups.lock().insert(enrolled.number, group);
        if self.started.load(SeqCst) != enrolled.started {
            self.write(&format!("+{}={group}\n", enrolled.number));
        }
    }

    /// Forgets a group. Its number may be another's afterwards.
    pub(super) fn remove(&self, enrolled: Enrolled) {
        self.groups.lock().remove(&enrolled.number);
        self.write(&format!("-{}\n", enrolled.number));
    }

    fn write(&self, line: &str) {
        if (&*self.lines).write(line.as_bytes()).is_err() {
            self.is_stuck.store(true, SeqCst);
        }
    }
}

/// A command's number, and how many shells were started when it got it.
#[derive(Clone, Copy)]
pub(super) struct Enrolled {
    number: u64,
    started: u32,
}

/// Closes all descriptors but the first three when a program is executed, also those that this process was itself
/// started with. All of its own are closed then anyway.
#[cfg(all(target_os = "linux", not(portable)))]
#[allow(unsafe_code)]
fn close_others_at_exec() {
    // SAFETY: it sets a flag of descriptors. A kernel that does not have the call changes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

#[cfg(not(all(target_os = "linux", not(portable))))]
fn close_others_at_exec() {}

/// The shell. The thread that reaps commands has it.
#[derive(Default)]
pub(super) struct Shell {
    child: Option<Child>,
    is_missing: bool,
}

impl Shell {
    /// Starts the shell where none runs. Returns it if it is a new one.
    pub(super) fn look(&mut self, guardian: &Guardian) -> Option<&Child> {
        if guardian.is_stuck.swap(false, SeqCst) {
            self.end();
            guardian.discard();
        }
        let has_ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if self.is_missing || !self.child.as_mut().is_none_or(has_ended) {
            return None;
        }
        match start(guardian) {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                self.is_missing = true;
                log::warn!(
                    "Commands would outlive this process if it was killed: /bin/sh cannot be run: {error}"
                );
            }
        }
        self.child.as_ref()
    }

    /// Ends the shell. There are no groups any more.
    pub(super) fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Guardian {
    /// Reads away what no shell has read.
    fn discard(&self) {
        let unread = rustix::io::ioctl_fionread(&self.read_end).unwrap_or(0);
        let _ = io::copy(&mut (&self.read_end).take(unread), &mut io::sink());
    }
}

/// A group of its own, so that Ctrl-C is for the server only.
fn start(guardian: &Guardian) -> io::Result<Child> {
    guardian.started.fetch_add(1, SeqCst);
    let groups = guardian.groups.lock().clone().into_iter();
    let groups = groups.map(|(number, group)| format!("{number}={group}"));
    Command::new("/bin/sh")
        .args(["-c", SCRIPT, "async-task-system-guardian"])
        .args(groups)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(guardian.read_end.try_clone()?))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, kill_process};

    use super::*;

    /// A process in a group of its own, which ends within a minute.
    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        let started = command.arg("60").process_group(0).spawn();
        started.expect("sleep runs")
    }

    #[test]
    fn the_shell_kills_what_is_left_and_nothing_else() {
        let mut left = [sleeper(), sleeper(), sleeper()];
        let mut removed = [sleeper(), sleeper()];
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "guardian"])
            .args([
                format!("1={}", left[0].id()),
                format!("12={}", removed[0].id()),
            ])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut lines = shell.stdin.take().expect("a pipe");
        let text = format!(
            "+2={}\n+22={}\n-12\n+3={}\n-3\n-77\nnoise\n+\n+1={}\n",
            left[1].id(),
            left[2].id(),
            removed[1].id(),
            left[0].id(),
        );
        lines.write_all(text.as_bytes()).expect("written");
        drop(lines);
        assert!(shell.wait().is_ok());
        for child in &mut left {
            assert!(!child.wait().expect("its end").success());
        }
        for child in &mut removed {
            assert!(matches!(child.try_wait(), Ok(None)), "it was removed");
            child.kill().expect("killed");
            let _ = child.wait();
        }
    }

    #[test]
    fn a_shell_that_hangs_is_replaced_and_the_next_knows_what_is_left() {
        let guardian = Guardian::new().expect("a pipe");
        let files = rustix::process::getrlimit(Resource::Nofile);
        let mut shell = Shell::default();
        let pid = |child: &Child| Pid::from_child(child);
        let first = shell.look(&guardian).map(pid).expect("a shell");
        assert!(shell.look(&guardian).is_none(), "it runs");
        kill_process(first, Signal::STOP).expect("stopped");
        let mut left = sleeper();
        let enrolled = guardian.enroll(&mut Command::new("true"), files);
        guardian.add(enrolled, Pid::from_child(&left));
        while !guardian.is_stuck.load(SeqCst) {
            let enrolled = guardian.enroll(&mut Command::new("true"), files);
            guardian.remove(enrolled);
        }
        let next = shell.look(&guardian).map(pid).expect("another shell");
        assert_ne!(first, next);
        // As if the server was gone.
        drop(guardian);
        assert!(!left.wait().expect("its end").success());
        let ended = shell.child.take().expect("a shell").wait();
        assert!(ended.expect("its end").success());
    }
}
