//! The parked flag under a model checker: every interleaving, and every stale value that the memory model lets a core
//! read. The source is the server's own, built from the checker's atomics.
//!
//! What must never happen is that a core sleeps beside a mailbox that is not empty with nobody on the way to wake it. The
//! mailbox is a counter that is stored with Release and loaded with Acquire: the weakest one that can hand anything
//! over. A stronger one (a lock, or a queue with fences of its own) would hide a fence that is missing in the doorbell.

mod checker;
#[allow(dead_code)] // each model uses what it needs
#[path = "../src/reactor/doorbell.rs"]
mod doorbell;

/// What the doorbell is built from here.
mod sync {
    pub use loom::sync::atomic::{Ordering, fence};

    pub use crate::checker::AtomicBool;
}

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Notify};
use loom::thread;

use doorbell::Doorbell;
use sync::Ordering;

/// Which of the two fences a model leaves in.
#[derive(Clone, Copy)]
struct Fences {
    owner: bool,
    sender: bool,
}

const BOTH: Fences = Fences { owner: true, sender: true };

impl Fences {
    fn park(self, doorbell: &Doorbell, has_mail: impl FnOnce() -> bool) -> bool {
        if self.owner { doorbell.park(has_mail) } else { doorbell.park_with(|| {}, has_mail) }
    }

    fn ring(self, doorbell: &Doorbell) -> bool {
        if self.sender { doorbell.ring() } else { doorbell.ring_with(|| {}) }
    }
}

/// A core's doorbell and mailbox, which has a slot for each sender: how many parcels it has put in.
struct Core {
    doorbell: Doorbell,
    sent: Vec<AtomicUsize>,
}

impl Core {
    fn new(senders: usize) -> Arc<Self> {
        Arc::new(Core {
            doorbell: Doorbell::new(),
            sent: (0..senders).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    /// Puts a parcel in. Each slot has one writer.
    fn send(&self, sender: usize) {
        let sent = self.sent[sender].load(Ordering::Relaxed);
        self.sent[sender].store(sent + 1, Ordering::Release);
    }

    fn received(&self) -> usize {
        self.sent.iter().map(|sent| sent.load(Ordering::Acquire)).sum()
    }
}

/// The owner parks once, without having looked for mail, while each sender sends one parcel. Whoever sleeps must have
/// been rung for, by exactly one.
fn parks_once(senders: usize, fences: Fences) {
    loom::model(move || {
        let core = Core::new(senders);
        let senders: Vec<_> = (0..senders)
            .map(|sender| {
                let core = core.clone();
                thread::spawn(move || {
                    core.send(sender);
                    fences.ring(&core.doorbell)
                })
            })
            .collect();
        let sleeps = fences.park(&core.doorbell, || core.received() > 0);
        let wakes = senders.into_iter().map(|sender| sender.join().unwrap());
        let wakes = wakes.filter(|woke| *woke).count();
        if sleeps {
            assert!(wakes > 0, "asleep beside mail");
        }
        assert!(wakes <= 1, "woken {wakes} times for one sleep");
    });
}

/// The owner goes on as the loop does, drain and park, until it has everything. A parked owner really sleeps: a wake-up
/// that is lost is a deadlock, which the checker reports.
///
/// `switches_max` bounds how often a thread may be stopped where it could have gone on; `None` tries everything. Each
/// of the losses below shows with two.
fn parks_until_done(senders: usize, parcels: usize, fences: Fences, switches_max: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = switches_max;
    model.check(move || {
        let core = Core::new(senders);
        let waker = Arc::new(Notify::new());
        let senders_under_way: Vec<_> = (0..senders)
            .map(|sender| {
                let (core, waker) = (core.clone(), waker.clone());
                thread::spawn(move || {
                    for _ in 0..parcels {
                        core.send(sender);
                        if fences.ring(&core.doorbell) {
                            waker.notify();
                        }
                    }
                })
            })
            .collect();
        let mut drained = 0;
        while drained < senders * parcels {
            if fences.park(&core.doorbell, || core.received() > drained) {
                waker.wait();
            }
            core.doorbell.unpark();
            drained = core.received();
        }
        for sender in senders_under_way {
            sender.join().unwrap();
        }
    });
}

#[test]
fn one_sender_wakes_a_parked_owner() {
    parks_once(1, BOTH);
}

#[test]
fn of_two_senders_one_wakes_a_parked_owner() {
    parks_once(2, BOTH);
}

#[test]
fn an_owner_that_parks_again_and_again_misses_nothing() {
    parks_until_done(1, 2, BOTH, None);
}

#[test]
fn an_owner_that_parks_for_each_of_several_parcels() {
    parks_until_done(1, 3, BOTH, Some(4));
}

#[test]
fn two_senders_to_an_owner_that_parks_again_and_again() {
    parks_until_done(2, 1, BOTH, Some(3));
}

/// The proof is worth something only if it fails where it should.
mod without_a_fence {
    use super::*;

    #[test]
    #[should_panic(expected = "asleep beside mail")]
    fn the_owner_sleeps_beside_mail() {
        parks_once(1, Fences { owner: false, sender: true });
    }

    #[test]
    #[should_panic(expected = "asleep beside mail")]
    fn the_sender_takes_a_sleeper_for_awake() {
        parks_once(1, Fences { owner: true, sender: false });
    }

    #[test]
    #[should_panic(expected = "asleep beside mail")]
    fn both_miss_each_other() {
        parks_once(1, Fences { owner: false, sender: false });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_loop_sleeps_for_ever_without_its_own() {
        parks_until_done(1, 2, Fences { owner: false, sender: true }, Some(2));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_loop_sleeps_for_ever_without_the_senders() {
        parks_until_done(1, 2, Fences { owner: true, sender: false }, Some(2));
    }
}
