//! The mailboxes between cores: one bounded queue a core, which all others write to.

use crossbeam::queue::ArrayQueue;

use super::doorbell::Doorbell;
use super::quiescence::Quiescence;

/// The mailboxes of all cores.
#[derive(Debug)]
pub struct Exchange<T> {
    mailboxes: Vec<Mailbox<T>>,
    /// When the cores may end.
    pub quiescence: Quiescence,
}

/// One core's mailbox. Parcels of one sender come out in the order in which it put them in.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: ArrayQueue<T>,
    /// Whether the owner has to be woken.
    pub doorbell: Doorbell,
}

impl<T> Exchange<T> {
    /// Empty mailboxes for so many cores, each for so many parcels.
    pub fn new(cores: usize, capacity: usize) -> Self {
        let mailbox = || Mailbox { queue: ArrayQueue::new(capacity), doorbell: Doorbell::new() };
        Exchange { mailboxes: (0..cores).map(|_| mailbox()).collect(), quiescence: Quiescence::new() }
    }

    /// The mailbox of one core.
    pub fn mailbox(&self, core: usize) -> &Mailbox<T> {
        &self.mailboxes[core]
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.mailboxes.len()
    }
}

impl<T> Mailbox<T> {
    /// Puts a parcel in, or gives it back when there is no room.
    pub fn push(&self, parcel: T) -> Result<(), T> {
        self.queue.push(parcel)
    }

    /// Takes the oldest parcel out. Only the owner calls this.
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many parcels there are.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}
