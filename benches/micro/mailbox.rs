//! A mailbox between two cores.

use std::hint::black_box;
use std::thread;

use starling::reactor::mailbox::Exchange;
use starling::shard::mail::Parcel;

use crate::works::{Run, repeat};

/// As many parcels as a mailbox has room for unless it is configured otherwise.
const CAPACITY: usize = 1024;

/// The core that gets the mail.
const OWNER: usize = 0;

/// A parcel as heavy as any: its mail is elsewhere.
fn parcel() -> Parcel<()> {
    Parcel { from: 1, mail: Vec::new() }
}

/// So many parcels in, with a ring each, and all of them out, as in one turn of the owner.
pub fn push_and_pop(parcels: usize) -> Run {
    let exchange = Exchange::new(2, CAPACITY);
    repeat(move || {
        let mailbox = exchange.mailbox(OWNER);
        for _ in 0..parcels {
            mailbox.push(black_box(parcel())).expect("there is room");
            black_box(mailbox.doorbell.ring());
        }
        while let Some(parcel) = mailbox.pop() {
            black_box(parcel);
        }
    })
}

/// One thread puts parcels in as fast as there is room, another takes them out.
pub fn across_threads() -> Run {
    let exchange = Exchange::new(2, CAPACITY);
    Box::new(move |calls| {
        let mailbox = exchange.mailbox(OWNER);
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..calls {
                    let mut kept = parcel();
                    while let Err(refused) = mailbox.push(kept) {
                        kept = refused;
                        thread::yield_now();
                    }
                    black_box(mailbox.doorbell.ring());
                }
            });
            for _ in 0..calls {
                while black_box(mailbox.pop()).is_none() {
                    thread::yield_now();
                }
            }
        });
    })
}
