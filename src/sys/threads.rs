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

/// The processors that this process may run on, in order.
pub fn processors() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Keeps the calling thread on one processor, and says whether that worked.
pub fn pin(processor: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: processor })
}
