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
    /// Connections by a path that were accepted for another core, which counts them as accepted.
    handed_on,
    /// Connections that are open now, and calls of gRPC, each of which counts as one.
    connections,
    /// Calls of gRPC among them.
    calls_open,
    /// Attempts to log in or register that came too soon after others.
    rate_limited_logins,
    /// Commands refused because the store is down, too slow, or its queue is full.
    store_refused,
    /// Acks that waited for the store in vain, and were answered with an error.
    store_overdue,
    /// Turns whose records had no place in the journal, and were kept for the next turn.
    journal_full,
    /// What the storage threads were asked for: pages of history, inboxes, accounts.
    store_requests,
    /// What the link to the backplane was asked for.
    backplane_requests,
    /// Messages refused because the backplane did not answer.
    backplane_refused,
    /// Copies of rooms that asked for what they had missed.
    catch_ups,
    /// Copies that were made anew because that could not be had any more.
    copies_replaced,
    /// Rooms that this node wanted to begin anew, because the backplane had lost them.
    rooms_renewed,
    /// Connections that were sent away because of either.
    interrupted,
    /// Connections refused because a connection limit was reached.
    refused_connections,
    /// Times that accept failed for want of descriptors or memory, and was put off.
    accept_backoffs,
    /// TLS handshakes that were completed.
    tls_handshakes,
    /// Those of them that went on from an earlier session.
    tls_resumed,
    /// Connections that ended, or took too long, before their TLS handshake was complete.
    tls_unfinished,
    /// Connections ended for what is no TLS, for a certificate that was missing or wrong, or by an alert of the peer.
    tls_failures,
    /// Times that a step of a TLS handshake was put off to the next turn.
    tls_handshakes_put_off,
    /// Connections to listeners for proxies that came from elsewhere, and were closed.
    proxy_strangers,
    /// Connections of proxies closed because they did not tell for whom they are, or not in time.
    proxy_violations,
    /// Bytes read from connections, where they are encrypted those that they say.
    received_bytes,
    /// Bytes written to connections, where they are encrypted those that they say.
    sent_bytes,
    /// Writes to connections, whatever they carry.
    writes,
    /// Calls of gRPC that began.
    calls,
    /// Calls that their clients took back.
    calls_cancelled,
    /// Calls whose time was over before they were.
    call_deadlines,
    /// Connections of HTTP/2 closed for a flood of frames that carry nothing.
    http2_floods,
    /// Messages compressed; one to all members of a room that share it counts once.
    deflated,
    /// Bytes that they had.
    deflated_bytes_before,
    /// Bytes that they were compressed to.
    deflated_bytes_after,
    /// Messages of clients inflated.
    inflated,
    /// Bytes that they had then.
    inflated_bytes,
    /// Compressed messages refused because they would have been too long.
    inflated_too_large,
    /// Times that a connection was not read from for a moment, because its messages had become many bytes.
    inflate_pauses,
    /// Connections whose compression may refer to earlier messages now.
    deflate_contexts,
    /// Connections told to do without, because there were as many as there may be.
    deflate_contexts_refused,
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
    /// Times that a connection was not read from for a while, because it had not taken the answers to what it asked.
    output_pauses,
    /// Connections closed because they stayed silent.
    timeouts,
    /// Connections closed because the token of their user expired.
    expired_tokens,
    /// Sessions ended because the account of their token was disabled or removed, or got another password.
    void_tokens,
    /// Connections closed because they never said hello or never completed a request.
    no_hello,
    /// Connections closed after too many malformed commands.
    too_many_errors,
    /// Commands refused because their connection sent too many.
    rate_limited_connections,
    /// Commands refused because their connection sent too many bytes.
    rate_limited_bytes,
    /// Commands refused because their user sent too many.
    rate_limited_users,
    /// Commands refused because their address sent too many.
    rate_limited_addresses,
    /// Joins refused because their connection joins too often.
    rate_limited_joins,
    /// Messages refused because their room gets too many.
    rate_limited_rooms,
    /// Times that a connection was not read from for a while, because it went on after such refusals.
    rate_limit_pauses,
    /// Connections closed because they went on after each such refusal.
    rate_limits_ignored,
    /// Hellos refused because their user has as many sessions as a user may have.
    too_many_sessions,
    /// Joins refused because this core is home to as many rooms as it may be.
    rooms_full,
    /// Rooms without members forgotten to make place for others.
    rooms_forgotten,
    /// Messages forgotten because all histories together were too large.
    history_forgotten,
    /// Sessions resumed.
    resumed,
    /// Connections closed because their session was resumed on another.
    replaced,
    /// Sessions that ended because their user did not come back in time.
    grace_expired,
    /// Sessions that ended with their connection because too many were away.
    grace_refused,
    /// Commands answered as they were before, by their id.
    repeated_commands,
    /// Messages published by HTTP requests.
    pushed,
    /// Idempotency keys of such requests forgotten early, because there were too many.
    idempotency_keys_forgotten,
    /// What was told to users alone again, because it may not have arrived before their connections broke.
    retold,
    /// Private messages kept for sessions that were away.
    private_kept,
    /// Private messages and notices that could not be kept for a session that was away.
    private_not_kept,
    /// Messages left out for members that did not keep up.
    left_out,
    /// Gaps told to them.
    gaps,
    /// Missed messages sent to members that resumed.
    replayed,
    /// Kicks, bans, mutes, and what undoes them.
    moderated,
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
    /// Sessions that are away.
    away,
    /// Bytes of the histories of this core's rooms.
    history_bytes,
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
