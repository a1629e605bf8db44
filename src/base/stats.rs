//! Per-core counters: each core writes its own, everybody may read them.
//!
//! A core is the only writer of its [`Counters`], so that an increment is a plain load and store, with no locked
//! instruction and no cache line that two cores write. Readers sum over the cores and see values that may be a moment old.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::histogram::Histogram;
use super::latency::HopCounters;

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One that has counted nothing.
    pub const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    /// Adds `n`. Only the owning core may call this: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the value: for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Takes `n` away: for gauges. Only the owning core may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value as last written.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Whether a number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does: how often something has happened, or how many bytes it was.
    Counter,
    /// It goes up and down: how many there are now.
    Gauge,
}

/// What a number is about.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// What it says, in a sentence.
    pub help: &'static str,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident),* $(,)?) => {
        /// What one core counts. Aligned so that no two cores share a cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)*
            /// Requests of HTTP, and how long their answers took.
            pub http: HttpCounters,
            /// How long the hops took of the messages that were followed.
            pub hops: HopCounters,
        }

        impl Counters {
            /// What each of the numbers is about, in the order of declaration.
            pub const DESCRIBED: &[Described] =
                &[$(Described { name: stringify!($name), kind: Kind::$kind, help: concat!($($doc),+) },)*];

            /// Each counter's name and value, in the order of declaration.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.value()),)*].into_iter()
            }
        }
    };
}

/// The methods that requests are counted by, and one for all others.
pub const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "other"];

/// The statuses that answers are counted by, and 0 for all others.
pub const STATUSES: [u16; 23] = [
    101, 200, 204, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 426, 429, 431, 500, 501, 503, 504,
    505, 0,
];

/// Requests of HTTP by method and status, and how long their answers took: from the end of the head to the answer in the send queue.
#[derive(Debug, Default)]
pub struct HttpCounters {
    answered: [[Counter; STATUSES.len()]; METHODS.len()],
    /// How long it took.
    pub durations: Histogram,
}

/// The place of `GET` among [`METHODS`].
pub const GET: usize = 0;

/// The place of all methods that have none of their own.
pub const OTHER_METHOD: usize = METHODS.len() - 1;

/// The place of a method among [`METHODS`].
pub fn method(name: &str) -> usize {
    METHODS.iter().position(|known| *known == name).unwrap_or(OTHER_METHOD)
}

impl HttpCounters {
    /// A request has been answered, of the method at this place.
    pub fn note(&self, method: usize, status: u16, took_ns: u64) {
        let status = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        self.answered[method][status].add(1);
        self.durations.record(took_ns);
    }

    /// How many requests of each method were answered with each status, those that there were.
    pub fn answered(&self) -> impl Iterator<Item = (&'static str, u16, u64)> + '_ {
        let rows = METHODS.iter().zip(&self.answered);
        let cells = rows.flat_map(|(method, row)| {
            STATUSES.iter().zip(row).map(move |(status, n)| (*method, *status, n.value()))
        });
        cells.filter(|(.., count)| *count > 0)
    }
}

counters! {
    /// Turns of the loop.
    Counter turns,
    /// Time that turns took, each from the end of its poll on.
    Counter busy_ns,
    /// Turns that took longer than `observe.stall_ms`.
    Counter stalls,
    /// Events that the kernel reported.
    Counter events,
    /// Connections accepted.
    Counter accepted,
    /// Connections by a path that were accepted for another core, which counts them as accepted.
    Counter handed_on,
    /// Connections that are open now, and calls of gRPC, each of which counts as one.
    Gauge connections,
    /// Connections to web listeners that are open now.
    Gauge web_connections,
    /// Connections to line listeners that are open now.
    Gauge line_connections,
    /// Connections to frame listeners that are open now.
    Gauge frame_connections,
    /// Connections to gRPC listeners that are open now, without the calls on them.
    Gauge grpc_connections,
    /// Event streams (Server-Sent Events) that are open now, which count among the connections to web listeners.
    Gauge event_streams,
    /// Event streams that went on after the last event that their clients had.
    Counter event_streams_recovered,
    /// Event streams that could not, and told so (`reset`).
    Counter event_stream_resets,
    /// Dashboards that are open now.
    Gauge dashboard_watchers,
    /// Dashboards refused because there were as many as there may be.
    Counter dashboard_watchers_refused,
    /// Calls of gRPC that are open now, which count among the connections.
    Gauge calls_open,
    /// Attempts to log in or register that came too soon after others.
    Counter rate_limited_logins,
    /// Commands refused because the store is down, too slow, or its queue is full.
    Counter store_refused,
    /// Acks that waited for the store in vain, and were answered with an error.
    Counter store_overdue,
    /// Messages that waited for place in the journal, because the store did not keep up.
    Counter journal_waits,
    /// Turns whose records had no place in the journal, and were kept for the next turn.
    Counter journal_full,
    /// What the storage threads were asked for: pages of history, inboxes, accounts.
    Counter store_requests,
    /// Whether the node reaches the backplane: 1 or 0. Of a Redis Cluster one server that answers is enough, unless the one that has `{nodes}` answers and refuses to hear that the node lives. Only where there is a backplane.
    Gauge backplane_up,
    /// What the link to the backplane was asked for.
    Counter backplane_requests,
    /// Messages refused because the backplane did not answer.
    Counter backplane_refused,
    /// Copies of rooms that asked for what they had missed.
    Counter catch_ups,
    /// Copies that were made anew because that could not be had any more.
    Counter copies_replaced,
    /// Rooms that this node wanted to begin anew, because the backplane had lost them.
    Counter rooms_renewed,
    /// Connections that were sent away because what they were to hear next had been lost.
    Counter interrupted,
    /// Connections refused because a connection limit was reached.
    Counter refused_connections,
    /// Times that accept failed for want of descriptors or memory, and was put off.
    Counter accept_backoffs,
    /// TLS handshakes that were completed.
    Counter tls_handshakes,
    /// TLS handshakes that went on from an earlier session.
    Counter tls_resumed,
    /// Connections that ended, or took too long, before their TLS handshake was complete.
    Counter tls_unfinished,
    /// Connections ended for what is no TLS, for a certificate that was missing or wrong, or by an alert of the peer.
    Counter tls_failures,
    /// Times that a step of a TLS handshake was put off to the next turn.
    Counter tls_handshakes_put_off,
    /// Connections to listeners for proxies that came from elsewhere, and were closed.
    Counter proxy_strangers,
    /// Connections of proxies closed because they did not tell for whom they are, or not in time.
    Counter proxy_violations,
    /// Bytes read from connections, where they are encrypted those that they say.
    Counter received_bytes,
    /// Bytes written to connections, where they are encrypted those that they say.
    Counter sent_bytes,
    /// Writes to connections, whatever they carry.
    Counter writes,
    /// Calls of gRPC that began.
    Counter calls,
    /// Calls that their clients took back.
    Counter calls_cancelled,
    /// Calls whose time was over before they were.
    Counter call_deadlines,
    /// Connections of HTTP/2 closed for a flood of frames that carry nothing or little, or of resets.
    Counter http2_floods,
    /// Messages compressed; one to all members of a room that share it counts once.
    Counter deflated,
    /// Bytes of messages before they were compressed.
    Counter deflated_bytes_before,
    /// Bytes of messages after they were compressed.
    Counter deflated_bytes_after,
    /// Messages of clients inflated.
    Counter inflated,
    /// Bytes of messages of clients after they were inflated.
    Counter inflated_bytes,
    /// Compressed messages refused because they would have been too long.
    Counter inflated_too_large,
    /// Times that a connection was not read from for a moment, because its messages had become many bytes.
    Counter inflate_pauses,
    /// Connections whose compression may refer to earlier messages now.
    Gauge deflate_contexts,
    /// Connections told to do without, because there were as many as there may be.
    Counter deflate_contexts_refused,
    /// Messages given an offset here.
    Counter published,
    /// Messages that were followed through the server, to tell how long each part of their way took.
    Counter latency_samples,
    /// Those of them that were refused, or had nobody to be followed to.
    Counter latency_unfollowed,
    /// Those of them whose member's connection ended before it had taken them, or that were too many to follow.
    Counter latency_lost,
    /// Room events queued on a member's connection.
    Counter deliveries,
    /// Commands answered with an error.
    Counter errors,
    /// Content, lines, frames or bodies over their size limit.
    Counter too_large,
    /// Joins refused because the session is in as many rooms as it may be.
    Counter too_many_rooms,
    /// Connections closed because their send queue went over its limit.
    Counter slow_consumers,
    /// Times that a connection was not read from for a while, because it had not taken the answers to what it asked.
    Counter output_pauses,
    /// Connections closed because they stayed silent.
    Counter timeouts,
    /// Connections closed because the token of their user expired.
    Counter expired_tokens,
    /// Sessions ended because the account of their token was disabled or removed, or got another password.
    Counter void_tokens,
    /// Sessions of guests ended because a configuration that was read again lets in nobody without a token.
    Counter void_guests,
    /// Sessions that an admin has ended.
    Counter put_out,
    /// Connections closed because they never said hello or never completed a request.
    Counter no_hello,
    /// Connections closed after too many malformed commands.
    Counter too_many_errors,
    /// Commands refused because their connection sent too many.
    Counter rate_limited_connections,
    /// Commands refused because their connection sent too many bytes.
    Counter rate_limited_bytes,
    /// Commands refused because their user sent too many.
    Counter rate_limited_users,
    /// Commands refused because their address sent too many.
    Counter rate_limited_addresses,
    /// Joins refused because their connection joins too often.
    Counter rate_limited_joins,
    /// Messages refused because their room gets too many.
    Counter rate_limited_rooms,
    /// Times that a connection was not read from for a while, because it went on after it had been told to wait.
    Counter rate_limit_pauses,
    /// Connections closed because they went on for too long when they had been told to wait.
    Counter rate_limits_ignored,
    /// Hellos refused because their user has as many sessions as a user may have.
    Counter too_many_sessions,
    /// Joins refused because a core is home to as many rooms as it may be.
    Counter rooms_full,
    /// Rooms without members forgotten to make place for others.
    Counter rooms_forgotten,
    /// Messages forgotten because all histories together were too large.
    Counter history_forgotten,
    /// Sessions resumed.
    Counter resumed,
    /// Connections closed because their session was resumed on another.
    Counter replaced,
    /// Sessions that ended because their user did not come back in time.
    Counter grace_expired,
    /// Sessions that ended with their connection because too many were away.
    Counter grace_refused,
    /// Commands answered as they were before, by their id.
    Counter repeated_commands,
    /// Messages published by HTTP requests.
    Counter pushed,
    /// Idempotency keys of HTTP requests forgotten early, because there were too many.
    Counter idempotency_keys_forgotten,
    /// What was told to users alone again, because it may not have arrived before their connections broke.
    Counter retold,
    /// Private messages kept for sessions that were away.
    Counter private_kept,
    /// Private messages and notices that could not be kept for a session that was away.
    Counter private_not_kept,
    /// Messages left out for members that did not keep up.
    Counter left_out,
    /// Gaps told to members that did not keep up.
    Counter gaps,
    /// Missed messages sent to members that resumed.
    Counter replayed,
    /// Kicks, bans, mutes, and what undoes them.
    Counter moderated,
    /// Typing notices dropped because the reader was behind.
    Counter typing_dropped,
    /// Times that a parcel found the mailbox of its core full and was kept.
    Counter mailbox_full,
    /// Times that a session waited because its commands under way reached their limit.
    Counter in_flight_waits,
    /// Times that a session waited because its core's commands under way to another core reached their limit.
    Counter window_waits,
    /// Requests put off because a mailbox was full.
    Counter deferred_requests,
    /// Parcels sent to other cores.
    Counter parcels,
    /// Wake-ups sent to other cores.
    Counter wakes,
    /// Turns that left timers for the next one.
    Counter timers_put_off,
    /// Turns that left input of some connection for the next one.
    Counter reads_put_off,
    /// Rooms, each at the core that is its home.
    Gauge rooms,
    /// Nicknames in use, each at the core that is its home.
    Gauge nicknames,
    /// Sessions that are away.
    Gauge away,
    /// Bytes of the histories of rooms that are in memory.
    Gauge history_bytes,
    /// Bytes that wait to be written to connections; those that many wait for count once.
    Gauge send_queue_bytes,
    /// Bytes of input that is not complete, or waits.
    Gauge input_bytes,
    /// Places in the table of connections, free ones among them.
    Gauge connection_places,
    /// Places in the table of sessions, free ones among them.
    Gauge session_places,
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
            if let Some(last) = adds.last() {
                counters.turns.sub(*last);
                prop_assert_eq!(counters.turns.value(), expected - last);
            }
        }
    }

    #[test]
    fn answers_are_counted_by_method_and_status() {
        let counters = HttpCounters::default();
        assert_eq!(METHODS[GET], "GET");
        for (name, status) in [("GET", 200), ("POST", 404), ("GET", 200), ("PATCH", 418), ("TRACE", 299)] {
            counters.note(method(name), status, 1000);
        }
        // What has no place of its own is counted as such: methods and statuses are chosen by peers and handlers, places are not.
        let answered: Vec<_> = counters.answered().collect();
        assert_eq!(answered, [("GET", 200, 2), ("POST", 404, 1), ("other", 0, 2)]);
        let mut durations = crate::base::histogram::Snapshot::default();
        counters.durations.add_to(&mut durations);
        assert_eq!((durations.count(), durations.sum_ns), (5, 5000));
    }

    #[test]
    fn cores_do_not_share_cache_lines() {
        assert!(align_of::<Counters>() >= 128 && size_of::<Counters>().is_multiple_of(128));
    }
}
