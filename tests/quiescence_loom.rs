//! The end of all cores under a model checker: they end when no core has anything left to do and no mail is on its way, and not before.
//! The source is the server's own, built from the checker's atomics.

#[path = "../src/reactor/quiescence.rs"]
mod quiescence;

/// What it is built from here.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
}

use loom::sync::Arc;
use loom::thread;

use quiescence::Quiescence;
use sync::{AtomicUsize, Ordering};

/// Two cores, and how many parcels are in the mailbox of each: the weakest one that can hand anything over.
struct Cores {
    quiescence: Quiescence,
    mailboxes: [AtomicUsize; 2],
}

impl Cores {
    fn send(&self, to: usize) {
        self.mailboxes[to].fetch_add(1, Ordering::AcqRel);
    }

    fn has_mail(&self, core: usize) -> bool {
        self.mailboxes[core].load(Ordering::Acquire) > 0
    }

    fn take(&self, core: usize) {
        self.mailboxes[core].fetch_sub(1, Ordering::AcqRel);
    }

    /// A core that sends `sends` parcels of its own, answers the first `answers` that come to it, and ends when all may.
    fn run(&self, core: usize, sends: usize, mut answers: usize, is_said_first: bool) {
        for _ in 0..sends {
            self.send(1 - core);
        }
        let rest = || self.quiescence.rest(|| !self.has_mail(0) && !self.has_mail(1));
        rest();
        while !self.quiescence.is_reached() {
            if !self.has_mail(core) {
                thread::yield_now();
                continue;
            }
            if is_said_first {
                self.quiescence.set_out();
            }
            self.take(core);
            if !is_said_first {
                self.quiescence.set_out();
            }
            if answers > 0 {
                answers -= 1;
                self.send(1 - core);
            }
            rest();
        }
    }
}

fn all_mail_is_taken(sends: [usize; 2], answers: [usize; 2], is_said_first: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let cores = Arc::new(Cores {
            quiescence: Quiescence::new(),
            mailboxes: [AtomicUsize::new(0), AtomicUsize::new(0)],
        });
        cores.quiescence.enter();
        cores.quiescence.enter();
        let other = cores.clone();
        let other = thread::spawn(move || other.run(1, sends[1], answers[1], is_said_first));
        cores.run(0, sends[0], answers[0], is_said_first);
        other.join().unwrap();
        assert!(!cores.has_mail(0) && !cores.has_mail(1), "an end with mail on its way");
    });
}

#[test]
fn cores_that_have_nothing_to_say_end() {
    all_mail_is_taken([0, 0], [0, 0], true);
}

#[test]
fn mail_of_both_is_taken() {
    all_mail_is_taken([1, 1], [0, 0], true);
}

#[test]
fn what_is_answered_late_is_taken() {
    all_mail_is_taken([1, 0], [0, 1], true);
}

#[test]
fn answers_to_answers_are_taken() {
    all_mail_is_taken([1, 0], [1, 1], true);
}

/// The proof is worth something only if it fails where it should.
#[test]
#[should_panic(expected = "an end with mail on its way")]
fn a_core_that_takes_mail_and_sets_out_afterwards_is_passed_over() {
    all_mail_is_taken([1, 0], [1, 1], false);
}
