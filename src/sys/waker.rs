//! What wakes a core out of its poll: an eventfd(2), which every core may write to.
//!
//! mio has one of its own, but does not tell its descriptor, and a core that has a descriptor table of its own must
//! know which of the descriptors in it to keep.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// Wakes one core.
#[derive(Debug)]
pub struct Waker {
    counter: File,
}

impl Waker {
    /// A waker whose wake-ups come up in the poll of `registry` under `token`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor has just been opened, and nothing else owns it.
        let counter = unsafe { File::from_raw_fd(fd) };
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        Ok(Waker { counter })
    }

    /// Wakes the core. The counter is never read: each write is an edge of its own.
    pub fn wake(&self) -> io::Result<()> {
        let write = || (&self.counter).write_all(&1u64.to_ne_bytes());
        match write() {
            // It would take 2^64 - 2 wake-ups to fill the counter; then it is emptied.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = (&self.counter).read(&mut [0; 8]);
                write()
            }
            other => other,
        }
    }

    /// Its descriptor, which has the same number in every core's table.
    pub fn descriptor(&self) -> RawFd {
        self.counter.as_raw_fd()
    }
}

/// Wakes one of several cores. If that fails it is logged: whoever wakes can do no more about it.
pub fn wake(wakers: &[Waker], core: usize) {
    if let Err(error) = wakers[core].wake() {
        log::error!("core {core} could not be woken: {error}");
    }
}
