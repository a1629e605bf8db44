//! The end of all cores while they sleep, under a model checker: doorbell and quiescence together, in the order in which a turn of the loop
//! (`src/reactor/turn.rs`) uses them. A core that sleeps when all may end has to be woken for it, or the process never ends. The sources are the
//! server's own, built from the checker's atomics.

mod checker;
#[allow(dead_code)] // what only proves that a fence is needed is not needed here
#[path = "../src/reactor/doorbell.rs"]
mod doorbell;
#[path = "../src/reactor/quiescence.rs"]
mod quiescence;

/// What they are built from here.
mod sync {
    pub use loom::sync::atomic::{AtomicUsize, Ordering, fence};

    pub use crate::checker::AtomicBool;
}

// Not the checker's: it would find a deadlock while one of its own is dropped, and a panic there ends the process.
use std::sync::Arc;

use loom::sync::Notify;
use loom::thread;

use doorbell::Doorbell;
use quiescence::Quiescence;
use sync::{AtomicUsize, Ordering};

/// What a model leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Whoever finds that all may end wakes nobody.
    WakingAll,
    /// A core that is about to sleep does not look whether all may end.
    LookingAtTheEnd,
    /// Who has put mail into a mailbox does not ring.
    Ringing,
}

/// A core, as the others see it: its mailbox is the weakest one that can hand anything over.
struct Core {
    doorbell: Doorbell,
    waker: Notify,
    mail: AtomicUsize,
}

struct Cores {
    quiescence: Quiescence,
    cores: [Core; 2],
    without: Without,
}

impl Cores {
    fn has_mail(&self, core: usize) -> bool {
        self.cores[core].mail.load(Ordering::Acquire) > 0
    }

    fn wake(&self, core: usize) {
        if self.cores[core].doorbell.ring() {
            self.cores[core].waker.notify();
        }
    }

    fn send(&self, to: usize) {
        self.cores[to].mail.fetch_add(1, Ordering::AcqRel);
        if self.without != Without::Ringing {
            self.wake(to);
        }
    }

    /// The loop of a core that has so many parcels to send, and answers the first ones that come. It has been told to drain.
    fn run(&self, number: usize, mut sends: usize, mut answers: usize) {
        let core = &self.cores[number];
        let mut is_at_rest = false;
        loop {
            // Step 1: the plan to sleep. A core with something to send does not.
            let is_ending =
                || self.without != Without::LookingAtTheEnd && is_at_rest && self.quiescence.is_reached();
            if sends == 0 && core.doorbell.park(|| self.has_mail(number) || is_ending()) {
                core.waker.wait();
            }
            // Step 2: it is awake.
            core.doorbell.unpark();
            if is_at_rest {
                self.quiescence.set_out();
            }
            let taken = core.mail.load(Ordering::Acquire);
            core.mail.fetch_sub(taken, Ordering::AcqRel);
            let answered = taken.min(answers);
            answers -= answered;
            for _ in 0..std::mem::take(&mut sends) + answered {
                self.send(1 - number);
            }
            // The end of the turn: nothing is left to do.
            is_at_rest = true;
            if self.quiescence.rest(|| !self.has_mail(0) && !self.has_mail(1))
                && self.without != Without::WakingAll
            {
                self.wake(1 - number);
            }
            if self.quiescence.is_reached() {
                return;
            }
        }
    }
}

/// Both cores end, and no mail is left. A core that sleeps for ever is a deadlock, which the checker reports. `switches_max` bounds how often a thread
/// may be stopped where it could have gone on.
fn all_end(sends: [usize; 2], answers: [usize; 2], without: Without, switches_max: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches_max);
    model.check(move || {
        let core = || Core { doorbell: Doorbell::new(), waker: Notify::new(), mail: AtomicUsize::new(0) };
        let cores = Arc::new(Cores { quiescence: Quiescence::new(), cores: [core(), core()], without });
        cores.quiescence.enter();
        cores.quiescence.enter();
        let other = cores.clone();
        let other = thread::spawn(move || other.run(1, sends[1], answers[1]));
        // Who drains is woken for it.
        cores.cores[0].waker.notify();
        cores.cores[1].waker.notify();
        cores.run(0, sends[0], answers[0]);
        other.join().unwrap();
        assert!(!cores.has_mail(0) && !cores.has_mail(1), "an end with mail on its way");
    });
}

#[test]
fn cores_that_have_nothing_to_say_end() {
    all_end([0, 0], [0, 0], Without::Nothing, 3);
}

#[test]
fn a_core_that_sleeps_gets_the_last_mail_and_the_end() {
    all_end([1, 0], [0, 0], Without::Nothing, 3);
}

#[test]
fn an_answer_is_taken_before_the_end() {
    all_end([1, 0], [0, 1], Without::Nothing, 3);
}

#[test]
fn mail_that_crosses_is_taken() {
    all_end([1, 1], [0, 0], Without::Nothing, 2);
}

/// The proof is worth something only if it fails where it should.
mod without {
    use super::*;

    #[test]
    #[should_panic(expected = "deadlock")]
    fn waking_all_one_sleeps_beside_the_end() {
        all_end([0, 0], [0, 0], Without::WakingAll, 2);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn looking_at_the_end_one_goes_to_sleep_behind_it() {
        all_end([0, 0], [0, 0], Without::LookingAtTheEnd, 2);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn ringing_one_sleeps_beside_its_mail() {
        all_end([1, 0], [0, 0], Without::Ringing, 2);
    }
}
