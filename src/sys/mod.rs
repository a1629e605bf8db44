//! The only place with system calls, clocks, threads and `unsafe`: everything below is handed time, bytes and
//! randomness as values.

pub mod descriptors;
pub mod kernel;
pub mod listen;
pub mod owner;
pub mod signals;
pub mod threads;
pub mod waker;

/// A random number from the kernel: see getrandom(2).
///
/// # Panics
/// When the kernel has none to give, which it never says once it has started.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    u64::from_ne_bytes(bytes)
}
