//! What the models of loom are built from.

use loom::sync::atomic::Ordering;

/// The checker's flag, with its stores made by swaps. The checker derives the order of stores to one place from what
/// happened before what, and so forgets a rule of the memory model: nothing comes between a swap and the store whose
/// value it took. Without it, a sender could take `false` from the flag although the owner has stored `true` after
/// the last `false`, and the checker would report a sleep that no machine can fall into. A relaxed swap whose
/// result nobody looks at orders nothing but this one place: every other place stays as weak as before.
#[derive(Debug)]
pub struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    pub fn new(value: bool) -> Self {
        AtomicBool(loom::sync::atomic::AtomicBool::new(value))
    }

    pub fn load(&self, ordering: Ordering) -> bool {
        self.0.load(ordering)
    }

    pub fn store(&self, value: bool, ordering: Ordering) {
        self.0.swap(value, ordering);
    }

    pub fn swap(&self, value: bool, ordering: Ordering) -> bool {
        self.0.swap(value, ordering)
    }
}
