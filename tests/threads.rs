//! What cores share, between real threads: mailboxes with their doorbells and wakers, the journal's ring, and the end of all cores. The models of
//! `*_loom.rs` try every order of a few steps; here are a great many steps, and `scripts/sanitize` looks at each of their accesses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use mio::{Events, Poll, Token};
use starling::reactor::mailbox::Exchange;
use starling::sys::bell::Bell;
use starling::sys::ring::Ring;
use starling::sys::waker::Waker;

/// Long after anything here has happened: a core that sleeps for so long was not woken.
const PATIENCE: Duration = Duration::from_secs(60);

const SENDERS: usize = 3;
const PARCELS: usize = 20_000;
const FRAMES: usize = 20_000;

/// Waits for threads one by one: how a scope waits for all of them, a sanitizer does not see.
fn join<'scope>(threads: impl IntoIterator<Item = ScopedJoinHandle<'scope, ()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_core_gets_the_parcels_of_each_sender_in_order_and_sleeps_beside_none() {
    let exchange: Exchange<(usize, usize)> = Exchange::new(1, 8);
    let mailbox = exchange.mailbox(0);
    let mut poll = Poll::new().unwrap();
    let waker = Waker::new(poll.registry(), Token(0)).unwrap();
    std::thread::scope(|scope| {
        let waker = &waker;
        let senders = (0..SENDERS).map(|sender| {
            scope.spawn(move || {
                for number in 0..PARCELS {
                    let mut parcel = (sender, number);
                    while let Err(back) = mailbox.push(parcel) {
                        parcel = back;
                        std::thread::yield_now(); // its owner is awake
                    }
                    if mailbox.doorbell.ring() {
                        waker.wake().unwrap();
                    }
                }
            })
        });
        let senders: Vec<_> = senders.collect();
        let mut next = [0; SENDERS];
        let mut events = Events::with_capacity(8);
        while next.iter().sum::<usize>() < SENDERS * PARCELS {
            if mailbox.doorbell.park(|| !mailbox.is_empty()) {
                poll.poll(&mut events, Some(PATIENCE)).unwrap();
                assert!(!events.is_empty(), "asleep beside {} parcels", mailbox.len());
            }
            mailbox.doorbell.unpark();
            while let Some((sender, number)) = mailbox.pop() {
                assert_eq!(number, next[sender], "out of order");
                next[sender] += 1;
            }
        }
        join(senders);
    });
}

#[test]
fn frames_are_read_as_they_were_pushed_while_more_are_pushed() {
    let ring = Ring::create(None, 4096, 1).unwrap();
    let frame = |number: usize| vec![number as u8; 1 + number * 7 % 900];
    let bell = Bell::default();
    std::thread::scope(|scope| {
        let pusher = scope.spawn(|| {
            for number in 0..FRAMES {
                while ring.push(&frame(number)).is_none() {
                    std::thread::yield_now();
                }
                bell.ring();
            }
        });
        let (mut at, mut read) = (0, 0);
        while read < FRAMES {
            bell.wait(|| ring.tail() > at, PATIENCE);
            let mut frames = Vec::new();
            at = ring.read(at, 2048, &mut frames).unwrap();
            for got in frames {
                assert_eq!(got, frame(read));
                read += 1;
            }
            ring.release(at);
        }
        join([pusher]);
    });
    assert_eq!(ring.tail(), ring.head());
}

/// Each core sends so many parcels on, each of which is sent on as often as it says; all end when the last has been taken.
#[test]
fn cores_end_together_when_the_last_parcel_has_been_taken() {
    const CORES: usize = 3;
    const HOPS: usize = 2000;
    let exchange: Arc<Exchange<usize>> = Arc::new(Exchange::new(CORES, 64));
    let bells: Vec<Bell> = (0..CORES).map(|_| Bell::default()).collect();
    let taken = AtomicUsize::new(0);
    (0..CORES).for_each(|_| exchange.quiescence.enter());
    std::thread::scope(|scope| {
        let (exchange, bells, taken) = (&exchange, &bells, &taken);
        let cores = (0..CORES).map(|core| {
            scope.spawn(move || {
                let (mailbox, quiescence) = (exchange.mailbox(core), &exchange.quiescence);
                let send = |hops: usize| {
                    let to = (core + 1) % CORES;
                    exchange.mailbox(to).push(hops).expect("there are fewer parcels than places");
                    bells[to].ring();
                };
                let mut is_at_rest = false;
                (0..4).for_each(|_| send(HOPS));
                loop {
                    bells[core]
                        .wait(|| !mailbox.is_empty() || (is_at_rest && quiescence.is_reached()), PATIENCE);
                    if is_at_rest {
                        quiescence.set_out();
                    }
                    while let Some(hops) = mailbox.pop() {
                        taken.fetch_add(1, Ordering::Relaxed);
                        if hops > 1 {
                            send(hops - 1);
                        }
                    }
                    is_at_rest = true;
                    if quiescence.rest(|| (0..CORES).all(|core| exchange.mailbox(core).is_empty())) {
                        bells.iter().for_each(Bell::ring);
                    }
                    if quiescence.is_reached() {
                        return;
                    }
                }
            })
        });
        join(cores.collect::<Vec<_>>());
    });
    assert_eq!(taken.into_inner(), CORES * 4 * HOPS);
}
