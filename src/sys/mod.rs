//! The kernel: what the loops ask of it, threads and their processors, signals, descriptors, files; and all `unsafe`. Everything
//! below is handed time, bytes and randomness as values.

pub mod bell;
pub mod complaint;
pub mod connect;
pub mod descriptors;
pub mod files;
pub mod host;
pub mod inherited;
pub mod kernel;
pub mod listen;
pub mod notify;
pub mod owner;
pub mod path;
pub mod privileges;
pub mod process;
pub mod ring;
pub mod signals;
pub mod terminal;
pub mod threads;
pub mod waker;

use std::time::{SystemTime, UNIX_EPOCH};

/// The name of this machine (uname(2)).
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Milliseconds since this was first asked, by a clock that nobody sets.
pub fn monotonic_ms() -> u64 {
    static STARTED: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(std::time::Instant::now).elapsed().as_millis() as u64
}

/// The wall clock: milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A random number from the kernel: see getrandom(2).
///
/// # Panics
/// When the kernel has none to give, which it never says once it has started.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    u64::from_ne_bytes(bytes)
}
