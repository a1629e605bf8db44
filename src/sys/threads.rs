//! Threads, and the processors they run on.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a name that debuggers and `top -H` show.
pub fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name).spawn(body)
}

/// Sleeps so many milliseconds.
pub fn sleep_ms(ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

/// The processors that this process may run on, in order.
pub fn processors() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Keeps the calling thread on one processor, and says whether that worked.
pub fn pin(processor: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: processor })
}

/// Keeps the calling thread, and whatever it starts, on these processors.
///
/// # Errors
/// When the kernel does not permit it, or there is none of them.
#[cfg(target_os = "linux")]
pub fn restrict(processors: &[usize]) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: all zeroes are an empty set; CPU_SET checks its bounds; the kernel reads a set of the given size.
    let result = unsafe {
        for processor in processors {
            libc::CPU_SET(*processor, set.assume_init_mut());
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set.as_ptr())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Elsewhere threads run where the system likes.
#[cfg(not(target_os = "linux"))]
pub fn restrict(_processors: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
