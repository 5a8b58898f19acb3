//! The allocator's heaps.

/// As many heaps as there are cores. By default glibc makes eight for each, and what 40 readers of long lists have freed stays
/// in all of them. `MALLOC_ARENA_MAX` says otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub(super) fn share() {
    if std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 64));
    // SAFETY: it sets a number that the allocator reads when it next makes a heap.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, cores as libc::c_int) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn share() {}
