//! The clock for leases.

use std::time::Duration;

/// Milliseconds of a clock that nobody can set.
pub(in crate::jobs) type Millis = u64;

/// The time since boot. It continues while the process is frozen or the machine is suspended.
pub(in crate::jobs) trait LeaseClock: Send + Sync {
    fn now(&self) -> Millis;
}

/// The system's boot clock.
pub(in crate::jobs) struct BootClock;

impl LeaseClock for BootClock {
    fn now(&self) -> Millis {
        since_boot().as_millis() as Millis
    }
}

/// The time since boot, including time in suspend.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(in crate::jobs) fn since_boot() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer refers to a timespec that lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// On other systems: the time since the first call, by the standard library's clock.
#[cfg(not(target_os = "linux"))]
pub(in crate::jobs) fn since_boot() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;

    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed()
}

/// Identifies this boot of the system; `None` if the system does not tell.
pub(in crate::jobs) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}
