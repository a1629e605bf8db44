//! Per-core counters: each core writes its own, everybody may read them.
//!
//! A core is the only writer of its [`Counters`], so that an increment is a plain load and store, with no locked
//! instruction and no cache line that two cores write. Readers sum over the cores and see values that may be a moment old.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning core may call this: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the value: for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value as last written.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What one core counts. Aligned so that no two cores share a cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// Each counter's name and value, in the order of declaration.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.value()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Turns of the loop.
    turns,
    /// Events that the kernel reported.
    events,
    /// Connections accepted.
    accepted,
    /// Connections that are open now.
    connections,
    /// Connections refused because a connection limit was reached.
    refused_connections,
    /// Times that accept failed for want of descriptors or memory, and was put off.
    accept_backoffs,
    /// Bytes read from connections.
    received_bytes,
    /// Bytes written to connections.
    sent_bytes,
    /// `writev` calls.
    writes,
    /// Messages given an offset here.
    published,
    /// Room events queued on a member's connection.
    deliveries,
    /// Commands answered with an error.
    errors,
    /// Content, lines, frames or bodies over their size limit.
    too_large,
    /// Joins refused because the session is in as many rooms as it may be.
    too_many_rooms,
    /// Connections closed because their send queue went over its limit.
    slow_consumers,
    /// Connections closed because they stayed silent.
    timeouts,
    /// Connections closed because they never said hello or never completed a request.
    no_hello,
    /// Connections closed after too many malformed commands.
    too_many_errors,
    /// Typing notices dropped because the reader was behind.
    typing_dropped,
    /// Times that a parcel found the mailbox of its core full and was kept.
    mailbox_full,
    /// Times that a session waited because its commands under way reached their limit.
    in_flight_waits,
    /// Times that a session waited because its core's commands under way to another core reached their limit.
    window_waits,
    /// Requests put off because a mailbox was full.
    deferred_requests,
    /// Parcels sent to other cores.
    parcels,
    /// Wake-ups sent to other cores.
    wakes,
    /// Turns that left timers for the next one.
    timers_put_off,
    /// Turns that left input of some connection for the next one.
    reads_put_off,
    /// Rooms whose home is this core.
    rooms,
    /// Nicknames whose home is this core.
    nicknames,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_counter_is_a_sum(adds in prop::collection::vec(0u64..1 << 40, 0..50), set: u32) {
            let counters = Counters::default();
            counters.turns.set(u64::from(set));
            for n in &adds {
                counters.turns.add(*n);
            }
            let expected = u64::from(set) + adds.iter().sum::<u64>();
            prop_assert_eq!(counters.turns.value(), expected);
            prop_assert!(counters.values().any(|pair| pair == ("turns", expected)));
        }
    }

    #[test]
    fn cores_do_not_share_cache_lines() {
        assert!(align_of::<Counters>() >= 128 && size_of::<Counters>().is_multiple_of(128));
    }
}
