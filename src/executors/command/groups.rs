//! Which process groups have a process that has not ended.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::io;

use rustix::process::Pid;

/// Read when first asked for. One that has ended, and is only to be waited for by its parent, does not count.
#[derive(Default)]
pub(super) struct LiveGroups(OnceCell<HashSet<i32>>);

impl LiveGroups {
    pub(super) fn has(&self, group: Pid) -> bool {
        let groups = self.0.get_or_init(live_groups);
        groups.contains(&group.as_raw_nonzero().get())
    }
}

/// Where `/proc` is not as on Linux there are none: a group then ends with its leader.
fn live_groups() -> HashSet<i32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return HashSet::new();
    };
    let group = |process: io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read(process.ok()?.path().join("stat")).ok()?;
        // PID (NAME) STATE PARENT GROUP …, and the name may be anything.
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let text = String::from_utf8_lossy(&stat[after_name..]);
        let mut words = text.split_ascii_whitespace();
        let is_alive = !matches!(words.next()?, "Z" | "X");
        words.nth(1)?.parse().ok().filter(|_| is_alive)
    };
    processes.filter_map(group).collect()
}
