//! When all cores may end: together, once no core has anything left to do and no mail is on its way.
//!
//! A core without connections may still be asked by one that has some, for a room or a nickname whose home it is. If it ended before,
//! whoever asks would wait for nothing, and what is to be kept for somebody would be lost. So a core that is over rests: it goes on
//! taking mail, until all rest. That is known by two counts, of cores at rest and of how often one has set out again: between two looks at
//! them that say the same, with every mailbox empty in between, no core was at work that could still have sent something.
//!
//! This is the detection of termination by counting (Mattern, "Algorithms for distributed termination detection", 1987), simplified by
//! memory that is shared.

use super::sync::{AtomicBool, AtomicUsize, Ordering};

/// What the cores of a process know of each other's end. All of it is rarely touched, so every access is sequentially consistent.
#[derive(Debug)]
pub struct Quiescence {
    cores: AtomicUsize,
    at_rest: AtomicUsize,
    /// How often a core that was at rest has set out again.
    departures: AtomicUsize,
    is_reached: AtomicBool,
}

impl Default for Quiescence {
    fn default() -> Self {
        Self::new()
    }
}

impl Quiescence {
    /// That of no cores yet.
    pub fn new() -> Self {
        Quiescence {
            cores: AtomicUsize::new(0),
            at_rest: AtomicUsize::new(0),
            departures: AtomicUsize::new(0),
            is_reached: AtomicBool::new(false),
        }
    }

    /// One more core is there, and at work.
    pub fn enter(&self) {
        self.cores.fetch_add(1, Ordering::SeqCst);
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.cores.load(Ordering::SeqCst)
    }

    /// Called by a core at rest before it takes mail, or does anything else.
    pub fn set_out(&self) {
        // In this order: whoever looks in between sees fewer at rest, and whoever has looked before sees a departure afterwards.
        self.at_rest.fetch_sub(1, Ordering::SeqCst);
        self.departures.fetch_add(1, Ordering::SeqCst);
    }

    /// Called by a core that has nothing left to do, after what it had to send has been put into mailboxes. `are_empty` looks at the
    /// mailboxes of all cores. Returns whether this is the end, of which the others are to be told.
    pub fn rest(&self, are_empty: impl FnOnce() -> bool) -> bool {
        self.at_rest.fetch_add(1, Ordering::SeqCst);
        let departures = self.departures.load(Ordering::SeqCst);
        let all_rest = || self.at_rest.load(Ordering::SeqCst) == self.cores();
        let is_end =
            all_rest() && are_empty() && self.departures.load(Ordering::SeqCst) == departures && all_rest();
        is_end && self.end()
    }

    /// Ends without further ado: somebody does not take what is sent to him any more. Returns whether the others are to be told.
    pub fn end(&self) -> bool {
        !self.is_reached.swap(true, Ordering::SeqCst)
    }

    /// Whether the cores may end.
    pub fn is_reached(&self) -> bool {
        self.is_reached.load(Ordering::SeqCst)
    }
}
