//! What an idle client takes of memory, by how it speaks, and whether that is more than it may.
//!
//!     cargo bench --bench idle
//!
//! Counts what is asked of the allocator while thousands come over a kernel in memory, so that the figures are the same on every machine.
//! Exit code 1 if a client takes more than [`idle::BYTES_MAX`], or more than a quarter above what the server tells of it
//! (`starling_bytes_per_idle_connection`), or less.

#[path = "../tests/common/allocator.rs"]
mod allocator;
#[path = "../tests/common/core.rs"]
mod core;
#[path = "../tests/common/idle.rs"]
mod idle;
// What tests look at besides.
#[allow(dead_code)]
#[path = "../tests/common/memory.rs"]
mod memory;

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("{:<12} {:>10} {:>10} {:>10}", "transport", "allocated", "told", "at most");
    let mut is_fine = true;
    for (transport, bytes, told) in idle::measured() {
        let is_within = bytes <= idle::BYTES_MAX && (told..=told * 5 / 4).contains(&bytes);
        is_fine &= is_within;
        let verdict = if is_within { "" } else { "  out of bounds" };
        println!("{transport:<12} {bytes:>10} {told:>10} {:>10}{verdict}", idle::BYTES_MAX.min(told * 5 / 4));
    }
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
