//! Wakes a thread that has nothing to do but what others bring: the storage thread.

use std::sync::Mutex;
use std::time::Duration;

use crossbeam::sync::{Parker, Unparker};

use crate::reactor::doorbell::Doorbell;

/// The bell of one thread. Whoever rings pays for a system call only if the thread sleeps.
#[derive(Debug)]
pub struct Bell {
    doorbell: Doorbell,
    unparker: Unparker,
    /// The owner's half; a lock, because the type does not know who the owner is. Nobody else ever takes it.
    parker: Mutex<Parker>,
}

impl Default for Bell {
    fn default() -> Self {
        let parker = Parker::new();
        Bell { doorbell: Doorbell::new(), unparker: parker.unparker().clone(), parker: Mutex::new(parker) }
    }
}

impl Bell {
    /// Called after something has been brought.
    pub fn ring(&self) {
        if self.doorbell.ring() {
            self.unparker.unpark();
        }
    }

    /// Called by the owner: waits until somebody rings, or the time is over, unless there is something already.
    pub fn wait(&self, has_work: impl FnOnce() -> bool, timeout: Duration) {
        if self.doorbell.park(has_work) {
            // A panic of the owner would end the program anyway.
            let parker = self.parker.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            parker.park_timeout(timeout);
        }
        self.doorbell.unpark();
    }
}
