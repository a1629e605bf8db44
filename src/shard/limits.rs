//! How fast commands may come: token buckets of the connection, its user and its address; that of a room is at its home.
//!
//! Buckets that several cores share are atomic, and found once, when a connection opens or a session begins: a command costs
//! no lock.

use super::Shard;
use super::commands::Asked;
use super::connection::Pause;
use crate::base::bucket::{Rate, SharedBucket};
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::refusal::{Reason, Refusal};
use crate::config;
use crate::proto::grpc::Method;
use crate::proto::wire::Command;

/// How many commands of one connection are refused for their rate in each window. What comes beyond that waits in its socket:
/// refusing costs time too, which others would have to wait for.
const REFUSALS_PER_WINDOW: u32 = 64;
const REFUSAL_WINDOW_MS: u64 = 100;

const ADDRESS_TOO_FAST: &str = "your address sends too many commands";
const USER_TOO_FAST: &str = "you send too many commands";

/// The configured rates.
#[derive(Debug, Clone)]
pub(super) struct Rates {
    /// Commands of a connection.
    pub commands: Rate,
    /// Bytes of a connection's commands.
    pub bytes: Rate,
    /// Joins of a connection.
    pub joins: Rate,
    /// Commands of a user, all sessions together.
    pub user: Rate,
    /// Commands from an address.
    pub address: Rate,
    /// Messages into a room.
    pub room: Rate,
}

impl Rates {
    pub fn new(rate: &config::Rate) -> Self {
        let of = |per_second, burst| Rate { per_second, burst };
        Rates {
            commands: of(rate.commands_per_second, rate.burst),
            bytes: of(rate.bytes_per_second, rate.bytes_burst),
            joins: of(rate.joins_per_second, rate.joins_burst),
            user: of(rate.user_commands_per_second, rate.user_burst),
            address: of(rate.address_commands_per_second, rate.address_burst),
            room: of(rate.room_messages_per_second, rate.room_burst),
        }
    }
}

/// What something takes from the buckets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Of the connection and its address.
    pub commands: u64,
    /// Of its user, as far as it is known.
    pub of_user: u64,
    pub bytes: u64,
    pub joins: u64,
}

impl Cost {
    /// A command without a body.
    pub const COMMAND: Cost = Cost { commands: 1, of_user: 1, bytes: 0, joins: 0 };
}

/// How a connection has taken it that it was refused for asking too much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ignoring {
    /// For how many milliseconds it has gone on asking when it was to wait, less those for which it has waited as it was told. Not since when:
    /// whoever asks all the time waits now and then without meaning to, where the wait is short and its machine is busy.
    ignored_ms: u64,
    /// When it was refused last, or would have been, had it been read.
    last: Tick,
    /// The longest that it was told to wait, and until when. Not the last: before something is let through that is short, and whoever
    /// asks all the time is in time for it.
    longest_ms: u64,
    until: Tick,
}

impl Ignoring {
    /// One more refusal, that tells to wait for so long.
    fn refused(before: Option<Ignoring>, wait_ms: u64, now: Tick) -> Ignoring {
        let until = now + wait_ms;
        let Some(before) = before else {
            return Ignoring { ignored_ms: 0, last: now, longest_ms: wait_ms, until };
        };
        let passed_ms = now.since(before.last);
        if passed_ms >= before.longest_ms {
            // Who has waited as it was told may still find that others were faster.
            let ignored_ms = before.ignored_ms.saturating_sub(passed_ms);
            return Ignoring { ignored_ms, last: now, longest_ms: wait_ms, until };
        }
        let (longest_ms, until) = match now < before.until {
            true => (wait_ms.max(before.longest_ms), until.max(before.until)),
            false => (wait_ms, until),
        };
        Ignoring { ignored_ms: before.ignored_ms.saturating_add(passed_ms), last: now, longest_ms, until }
    }

    /// It is not heard until then: that is not to be silent.
    fn is_not_heard(&mut self, until: Tick) {
        self.ignored_ms = self.ignored_ms.saturating_add(until.since(self.last));
        self.last = until;
    }
}

impl Shard {
    /// Limits: whether the connection, its user or its address has asked too much lately. A command that had to wait its
    /// turn was counted when it came.
    pub(super) fn check_limits(&mut self, asked: Asked, command: &Command) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get_mut(asked.by) else { return Ok(()) };
        if let Some(admitted) = connection.admitted.take() {
            return *admitted;
        }
        if connection.call.as_ref().is_some_and(|call| call.method != Method::Connect) {
            return Ok(()); // it has paid for what it says, and for what follows from that (Shard::pay)
        }
        if let Command::Quit = command {
            return Ok(()); // whoever goes asks for nothing more
        }
        let cost = Cost {
            bytes: asked.bytes as u64,
            joins: u64::from(matches!(command, Command::Join(_) | Command::Switch { .. })),
            ..Cost::COMMAND
        };
        self.charge(asked.by, cost, None)
    }

    /// Takes what something costs from all buckets that it concerns, or nothing from any: then the refusal tells when all of
    /// them will have it. The user's bucket is that of the session, or `user_bucket` where there is none.
    pub(super) fn charge(
        &mut self,
        id: Id,
        cost: Cost,
        user_bucket: Option<&SharedBucket>,
    ) -> Result<(), Refusal> {
        let now = self.now.tick;
        let (rates, counters) = (&self.rates, &self.counters);
        let Some(connection) = self.connections.get(id) else { return Ok(()) };
        let session = connection.session.and_then(|id| self.sessions.get(id));
        // Calls on one connection share what that may ask.
        let payer = connection.call.as_ref().map_or(id, |call| call.parent);
        let Some(connection) = self.connections.get_mut(payer) else { return Ok(()) };
        let user_bucket = session.and_then(|session| session.user_bucket.as_deref()).or(user_bucket);
        let address_bucket = connection.address_bucket.as_ref();
        // What the connection has for itself is taken from copies, which count only if nobody refuses.
        let (mut commands, mut bytes, mut joins) = (connection.commands, connection.bytes, connection.joins);
        let waits = [
            (
                wait_ms(commands.take(&rates.commands, cost.commands, now)),
                &counters.rate_limited_connections,
                "this connection sends too many commands",
            ),
            (
                wait_ms(bytes.take(&rates.bytes, cost.bytes, now)),
                &counters.rate_limited_bytes,
                "this connection sends too many bytes",
            ),
            (
                if cost.joins == 0 { 0 } else { wait_ms(joins.take(&rates.joins, cost.joins, now)) },
                &counters.rate_limited_joins,
                "this connection joins rooms too often",
            ),
            (
                address_bucket.map_or(0, |bucket| bucket.wait_ms(&rates.address, cost.commands, now)),
                &counters.rate_limited_addresses,
                ADDRESS_TOO_FAST,
            ),
            (
                user_bucket.map_or(0, |bucket| bucket.wait_ms(&rates.user, cost.of_user, now)),
                &counters.rate_limited_users,
                USER_TOO_FAST,
            ),
        ];
        let (longest_ms, counter, message) =
            waits.into_iter().max_by_key(|(wait_ms, ..)| *wait_ms).expect("not empty");
        if longest_ms > 0 {
            counter.add(1);
            return Err(too_fast(message, longest_ms));
        }
        // Other cores may have taken the last of these since they were looked at.
        if let Some(Err(ms)) = address_bucket.map(|bucket| bucket.take(&rates.address, cost.commands, now)) {
            counters.rate_limited_addresses.add(1);
            return Err(too_fast(ADDRESS_TOO_FAST, ms));
        }
        if let Some(Err(ms)) = user_bucket.map(|bucket| bucket.take(&rates.user, cost.of_user, now)) {
            counters.rate_limited_users.add(1);
            return Err(too_fast(USER_TOO_FAST, ms));
        }
        (connection.commands, connection.bytes, connection.joins) = (commands, bytes, joins);
        Ok(())
    }

    /// Takes a command from the bucket of a user who was not known when the rest was charged.
    pub(super) fn charge_user(&self, user_bucket: &SharedBucket) -> Result<(), Refusal> {
        user_bucket.take(&self.rates.user, 1, self.now.tick).map_err(|ms| {
            self.counters.rate_limited_users.add(1);
            too_fast(USER_TOO_FAST, ms)
        })
    }

    /// After how many milliseconds the connection itself may send another command.
    pub(super) fn next_command_ms(&self, id: Id) -> u64 {
        self.own_wait_ms(id, Cost::COMMAND)
    }

    /// After how many milliseconds the connection itself may ask for something that costs so much.
    pub(super) fn own_wait_ms(&self, id: Id, cost: Cost) -> u64 {
        let (now, rates) = (self.now.tick, &self.rates);
        let payer = self.connections.get(id).and_then(|c| c.call.as_ref()).map_or(id, |call| call.parent);
        let Some(connection) = self.connections.get(payer) else { return 0 };
        let commands = connection.commands.wait_ms(&rates.commands, cost.commands, now);
        let bytes = connection.bytes.wait_ms(&rates.bytes, cost.bytes, now);
        let joins = if cost.joins == 0 { 0 } else { connection.joins.wait_ms(&rates.joins, cost.joins, now) };
        commands.max(bytes).max(joins)
    }

    /// Notes that a client was told to wait, and says whether it is to be closed: for going on asking too much, whatever it is told.
    #[must_use]
    pub(super) fn note_rate_limited(&mut self, id: Id, retry_after_ms: u64) -> bool {
        let now = self.now.tick;
        let ignored_ms = self.limits.rate_ignored_ms;
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let record = connection.record.get_or_insert_default();
        let mut ignoring = Ignoring::refused(record.ignoring, retry_after_ms, now);
        if now.since(record.refused_since) >= REFUSAL_WINDOW_MS {
            (record.refused, record.refused_since) = (0, now);
        }
        record.refused += 1;
        let is_to_pause = record.refused >= REFUSALS_PER_WINDOW && connection.pause.is_none();
        if is_to_pause {
            let until = record.refused_since + REFUSAL_WINDOW_MS;
            ignoring.is_not_heard(until);
            connection.pause = Some(Pause::Limited(until));
        }
        record.ignoring = Some(ignoring);
        if is_to_pause {
            self.counters.rate_limit_pauses.add(1);
            self.arm(id);
        }
        // Of the time in which it is not heard nothing has passed yet.
        let is_deaf = ignoring.ignored_ms.saturating_sub(ignoring.last.since(now)) >= ignored_ms;
        self.counters.rate_limits_ignored.add(u64::from(is_deaf));
        is_deaf
    }
}

fn wait_ms(taken: Result<(), u64>) -> u64 {
    taken.err().unwrap_or(0)
}

/// The refusal of something that may be asked again in `ms` milliseconds.
pub(super) fn too_fast(message: &'static str, ms: u64) -> Refusal {
    Refusal::with_retry(Reason::RateLimited, message, ms)
}
