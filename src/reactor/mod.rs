//! The loop. One [`Reactor`] is one core: [`Reactor::turn`] is the whole of it, and everything else here is a step of it.
//!
//! A turn never blocks but in its poll, and never does an unbounded amount of work: each step has a budget, and what it
//! leaves over is found again by the next turn. The reactor moves bytes and readiness; what they mean is the shard's.
//! The kernel is behind the [`Os`] trait, so that the simulator runs this very loop.

mod accept;
pub mod doorbell;
pub mod mailbox;
pub mod os;
mod proxied;
pub mod quiescence;
mod secure;
mod stall;
pub mod teller;
mod turn;
mod world;

/// The atomics that the doorbell and the cores' end are built from. A module of its own, so that the model checker can build the same
/// source from its own.
mod sync {
    pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

pub use accept::Door;
pub use os::{Event, Os, Source};
pub use turn::{Reactor, Turn, link_bytes};
pub use world::{Connect, World};
