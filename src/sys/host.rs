//! What of this machine no file tells: free space, whether the clock is set by others, whether a thread may have a
//! table of its own.

use std::io;
use std::path::Path;

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What it holds at most.
    pub total: u64,
    /// What those who are not root can still write.
    pub free: u64,
}

/// The room on the file system that `path` is on (statvfs(3)).
///
/// # Errors
/// When there is nothing at the path, or the kernel does not tell.
pub fn space(path: &Path) -> io::Result<Space> {
    let facts = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
    Ok(Space { total: bytes(facts.f_blocks), free: bytes(facts.f_bavail) })
}

/// Bytes of a page of memory (getpagesize(2)), in which the kernel counts some limits.
pub fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Whether something keeps the clock right (adjtimex(2)). Only asks.
///
/// # Errors
/// When the kernel does not tell.
#[cfg(target_os = "linux")]
pub fn is_clock_synchronised() -> io::Result<bool> {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeroes are a value, whose `modes` of 0 has the call change nothing and fill it in.
    let result = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result != libc::TIME_ERROR) }
}

/// Elsewhere the kernel is asked otherwise.
#[cfg(not(target_os = "linux"))]
pub fn is_clock_synchronised() -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Tries whether a thread may have a descriptor table of its own, with a thread that ends at once
/// ([`super::descriptors::own_table`]).
///
/// # Errors
/// When it may not, or no thread can be made.
pub fn try_own_table() -> io::Result<()> {
    let tried = super::threads::spawn("try-table".into(), || super::descriptors::own_table(&[]))?;
    tried.join().unwrap_or_else(|_| Err(io::Error::other("the thread that tried it failed")))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.total > 0 && space.free <= space.total, "{space:?}");
        assert!(super::space(Path::new("/does/not/exist")).is_err());
        assert!(page_bytes() >= 4096 && page_bytes().is_power_of_two());
        // Either answer is one; that it is asked must change nothing.
        let _ = is_clock_synchronised();
    }

    #[test]
    fn trying_leaves_what_is_open_alone() {
        use std::io::Read as _;
        let mut open = std::fs::File::open("/proc/self/stat").unwrap();
        let _ = try_own_table();
        assert!(open.read(&mut [0; 8]).is_ok());
    }
}
