//! The parked flag of a core, and the fences that keep wake-ups from getting lost.
//!
//! A core that is about to sleep says so, and then looks at its mailbox once more. Another core that has put something
//! into the mailbox looks at the flag. Each writes one place and then reads the other's; without a fence in between,
//! both processors may do the read first (a store buffer is enough for that), both see the old value, and the core
//! sleeps beside a full mailbox. The fences make at least one of them see the other.
//!
//! A model checker tries all interleavings of this file, and finds the lost wake-up when a fence is taken out.

use super::sync::{AtomicBool, Ordering, fence};

/// Tells whether a core sleeps and has to be woken.
#[derive(Debug)]
pub struct Doorbell {
    is_parked: AtomicBool,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

impl Doorbell {
    /// The doorbell of a core that is awake.
    pub fn new() -> Self {
        Doorbell { is_parked: AtomicBool::new(false) }
    }

    /// Called by the owner before it sleeps. `has_mail` looks at the mailbox; if it is empty the owner may sleep, and
    /// whoever brings something from now on rings. Returns whether it may.
    pub fn park(&self, has_mail: impl FnOnce() -> bool) -> bool {
        self.park_with(|| fence(Ordering::SeqCst), has_mail)
    }

    /// Called by the owner when it is awake again. A plain store is enough: the owner looks into its mailbox after
    /// this, so that whoever sees it awake need not ring.
    pub fn unpark(&self) {
        self.is_parked.store(false, Ordering::Relaxed);
    }

    /// Called by another core after it has put something into the mailbox. Returns whether it has to wake the owner;
    /// of several that ring at once, one has.
    pub fn ring(&self) -> bool {
        self.ring_with(|| fence(Ordering::SeqCst))
    }

    pub(crate) fn park_with(&self, fence: impl FnOnce(), has_mail: impl FnOnce() -> bool) -> bool {
        self.is_parked.store(true, Ordering::Relaxed);
        fence();
        if has_mail() {
            self.unpark();
            return false;
        }
        true
    }

    pub(crate) fn ring_with(&self, fence: impl FnOnce()) -> bool {
        fence();
        self.is_parked.load(Ordering::Relaxed) && self.is_parked.swap(false, Ordering::Relaxed)
    }
}
