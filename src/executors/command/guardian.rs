//! Ends the commands of a server that was killed.
//!
//! A shell waits beside the server. It reads from a pipe which process groups there are, and at the pipe's end it kills
//! those that are left. A command writes its own number to the pipe before its program is executed. So there is no
//! moment at which the server can be killed and the command is not known: until then the command itself keeps the pipe
//! open.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, setrlimit};

/// Lines are `+GROUP` and `-GROUP`; its arguments are the groups that there are. For any POSIX shell.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
groups=" $* "
while read -r line; do
  group=${line#?}
  case "$line$groups" in
    +*" $group "*) ;;
    +*) groups="$groups$group " ;;
    -*" $group "*) groups="${groups%% "$group" *} ${groups#* "$group" }" ;;
  esac
done
for group in $groups; do kill -9 "-$group"; done 2>/dev/null
"#;

/// The groups, and the way to the shell.
pub(super) struct Guardian {
    lines: Arc<PipeWriter>,
    /// The shell's end. It is kept, so that the pipe stays when the shell is gone.
    read_end: PipeReader,
    groups: Mutex<BTreeSet<i32>>,
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
            started: AtomicU32::new(0),
            is_stuck: AtomicBool::new(false),
        })
    }

    /// Has the command tell its number before its program is executed, and gives it the limit of open files `files`.
    #[allow(unsafe_code)]
    pub(super) fn enroll(&self, command: &mut Command, files: Rlimit) {
        let lines = self.lines.clone();
        let enroll = move || {
            let mut line = [0_u8; 16];
            let mut rest = &mut line[..];
            let _ = writeln!(rest, "+{}", rustix::process::getpid());
            let length = 16 - rest.len();
            let _ = rustix::io::write(&lines, &line[..length]);
            let _ = setrlimit(Resource::Nofile, files);
            close_others_at_exec();
            Ok(())
        };
        // SAFETY: it runs between fork and exec, where only async-signal-safe calls are allowed: it allocates nothing,
        // takes no lock and cannot panic; write, getpid, setrlimit and close_range are plain system calls.
        unsafe { command.pre_exec(enroll) };
    }

    /// How many shells were started up to now.
    pub(super) fn started(&self) -> u32 {
        self.started.load(SeqCst)
    }

    /// Notes a group that has told its number when `started` shells were started. A shell that was started since then
    /// may not know it.
    pub(super) fn add(&self, group: Pid, started: u32) {
        self.groups.lock().insert(group.as_raw_nonzero().get());
        if self.started() != started {
            self.write(&format!("+{group}\n"));
        }
    }

    /// Forgets a group. Its number may be another's afterwards.
    pub(super) fn remove(&self, group: Pid) {
        self.groups.lock().remove(&group.as_raw_nonzero().get());
        self.write(&format!("-{group}\n"));
    }

    fn write(&self, line: &str) {
        if (&*self.lines).write(line.as_bytes()).is_err() {
            self.is_stuck.store(true, SeqCst);
        }
    }
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
    let groups: Vec<String> = guardian.groups.lock().iter().map(i32::to_string).collect();
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
