//! Open-file limits, and a descriptor table a core.
//!
//! Linux gives each thread the table of its process, so that accept and close on different cores take turns at one
//! lock, and RLIMIT_NOFILE bounds the process. A thread may have its own instead (CLONE_FILES, unshare(2)): then there
//! is no such lock, and the limit holds a core.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether any thread has a table of its own.
static HAS_OWN_TABLES: AtomicBool = AtomicBool::new(false);

/// The soft limit on open files, which bounds each table.
pub fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Whether any thread has a table of its own.
pub fn has_own_tables() -> bool {
    HAS_OWN_TABLES.load(Relaxed)
}

/// Raises the soft limit on open files to the hard one, and returns it.
pub fn raise_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: `raised` is initialised.
    if limit.rlim_cur < limit.rlim_max && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
        limit = raised;
    }
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Gives the calling thread a descriptor table of its own, with nothing in it but the standard streams and `keep`.
#[cfg(target_os = "linux")]
pub fn own_table(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: takes no pointers. Descriptors stay open under the same numbers.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        return Err(io::Error::last_os_error());
    }
    HAS_OWN_TABLES.store(true, Relaxed);
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([RawFd::MAX]) {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = fd.saturating_add(1).max(from);
    }
    Ok(())
}

/// Elsewhere all threads share one table.
#[cfg(not(target_os = "linux"))]
pub fn own_table(_keep: &[RawFd]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Closes descriptors of the calling thread's table whose owners have taken them along into tables of their own.
pub fn close_all(descriptors: &[RawFd]) {
    for fd in descriptors {
        // SAFETY: the values that own these descriptors live on threads with other tables, so that nothing on this
        // table refers to them any more.
        unsafe { libc::close(*fd) };
    }
}

#[cfg(target_os = "linux")]
fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers. What is closed was opened for other cores, in this thread's own copy of the table; the
    // values that own it live on other threads, whose tables are not touched.
    if unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0) } == 0 {
        return Ok(());
    }
    // Before Linux 5.9: one by one, by what the table says of itself.
    let open: Vec<RawFd> = std::fs::read_dir("/proc/thread-self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| (first..=last).contains(fd))
        .collect();
    close_all(&open);
    Ok(())
}
