//! The thread that hears: what is announced in the rooms that this node has, and to the node itself.
//!
//! It waits in a read, and so it can be told something only by what it reads: the link announces something to it, on a channel of its
//! own, when rooms have come or gone, and once in a while in any case. That is also how it notices that it hears nothing any more. What
//! is announced may be lost at any time; then the copies find by what comes next, or by the link's looks at each room, that they lack
//! something.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::{Connection, Value};

use super::address::{self, Address};
use super::answer::{counted, message, ops, parse, text};
use super::keys::Keys;
use super::shared::Shared;
use crate::chat::user::NodeId;
use crate::reactor::teller::Teller;
use crate::shard::backplane::{BackplaneNews, LogEntry, Position};
use crate::shard::mail::Mail;
use crate::sys::complaint::Complaint;
use crate::sys::waker;

/// How often the link says something to this thread, whether there is something to say or not.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// For how long it may hear nothing at all.
const SILENCE: Duration = Duration::from_secs(3);

/// How soon it is tried again to hear: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LAST: Duration = Duration::from_secs(1);

/// How long a core whose mailbox is full is left alone. Meanwhile nothing is read; if that takes too long the server hangs up, which is what
/// bounds what it keeps for this node.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Channels in one command.
const CHANNELS: usize = 256;

/// The thread.
pub(super) struct Hearer {
    shared: Arc<Shared>,
    keys: Keys,
    wake: String,
    inbox: String,
    nodes: String,
    timeout: Duration,
    teller: Teller,
    /// What has been asked to be heard, on this connection.
    subscribed: HashSet<Arc<str>>,
    complaint: Complaint,
}

impl Hearer {
    pub(super) fn new(shared: Arc<Shared>, keys: Keys, node: NodeId, timeout: Duration) -> Self {
        let teller = Teller::new(shared.exchange.clone(), shared.cores);
        let (wake, inbox, nodes) = (keys.wake_channel(node), keys.inbox_channel(node), keys.nodes_channel());
        Hearer {
            shared,
            keys,
            wake,
            inbox,
            nodes,
            timeout,
            teller,
            subscribed: HashSet::new(),
            complaint: Complaint::default(),
        }
    }

    /// The life of the thread.
    pub(super) fn run(mut self) {
        let mut retry = RETRY_FIRST;
        let mut next = 0;
        while !self.shared.is_stopping() {
            let servers = self.shared.state().servers.clone();
            let Some(server) = servers.get(next % servers.len().max(1)) else { return };
            next = next.wrapping_add(1);
            match self.connect(server) {
                Ok(mut connection) => {
                    retry = RETRY_FIRST;
                    let why = self.listen(&mut connection);
                    if self.shared.is_stopping() {
                        return;
                    }
                    // While the backplane is down nothing is announced that could be heard, and it is said why it is down.
                    let is_known = self.shared.is_down();
                    let level = if is_known { log::Level::Debug } else { log::Level::Warn };
                    if is_known || self.complaint.is_due() {
                        log::log!(
                            level,
                            "{}: announcements are not heard any more: {why}; trying again",
                            server.name
                        );
                    }
                }
                // The link meets with the same, and says so.
                Err(why) => log::debug!("announcements cannot be heard: {why}"),
            }
            std::thread::park_timeout(retry);
            retry = (retry * 2).min(RETRY_LAST);
        }
    }

    fn connect(&mut self, server: &Address) -> Result<Connection, String> {
        let mut connection = server.connect(self.timeout)?;
        let failed = |error: redis::RedisError| address::explain(&error);
        connection.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        connection.set_write_timeout(Some(self.timeout)).map_err(failed)?;
        self.subscribed = {
            let mut state = self.shared.state();
            state.changed.clear();
            state.rooms.keys().cloned().collect()
        };
        let mut channels = vec![self.wake.clone(), self.inbox.clone(), self.nodes.clone()];
        channels.extend(self.subscribed.iter().map(|room| self.keys.room_channel(room)));
        send(&mut connection, "SUBSCRIBE", &channels).map_err(failed)?;
        Ok(connection)
    }

    /// Hears until that is not possible any more. Returns why.
    fn listen(&mut self, connection: &mut Connection) -> String {
        loop {
            let said = match connection.recv_response() {
                Ok(value) => value,
                Err(error) => return address::explain_broken(&error),
            };
            if self.shared.is_stopping() {
                return "the node stops".to_owned();
            }
            if let Value::ServerError(error) = &said {
                return error.to_string();
            }
            let Value::Array(parts) = said else { continue };
            let [kind, channel, payload] = &parts[..] else { continue };
            let (Some(kind), Some(channel)) = (text(kind), text(channel)) else { continue };
            match kind {
                "message" if channel == self.wake => {
                    if let Err(error) = self.change_rooms(connection) {
                        return address::explain_broken(&error);
                    }
                }
                "message" => self.hear(channel, text(payload).unwrap_or("")),
                "subscribe" => self.confirm(channel),
                _ => {}
            }
        }
    }

    /// Asks to hear the rooms that are new, and no more those that are not wanted.
    fn change_rooms(&mut self, connection: &mut Connection) -> redis::RedisResult<()> {
        let (mut new, mut old) = (Vec::new(), Vec::new());
        let mut state = self.shared.state();
        for room in std::mem::take(&mut state.changed) {
            match state.rooms.contains_key(&room) {
                true if self.subscribed.insert(room.clone()) => new.push(self.keys.room_channel(&room)),
                false if self.subscribed.remove(&room) => old.push(self.keys.room_channel(&room)),
                // Closed and opened again: it was never not heard, but something may have been said that nobody was told.
                true => state.confirmed.push(room),
                false => {}
            }
        }
        let has_confirmed = !state.confirmed.is_empty();
        drop(state);
        if has_confirmed {
            self.shared.wake_link();
        }
        send(connection, "UNSUBSCRIBE", &old)?;
        send(connection, "SUBSCRIBE", &new)
    }

    /// A channel is heard from now on.
    fn confirm(&mut self, channel: &str) {
        let mut state = self.shared.state();
        if channel == self.inbox {
            state.has_missed = true;
        } else if let Some(room) = self.keys.room_of(channel)
            && let Some((room, _)) = state.rooms.get_key_value(room)
        {
            let room = room.clone();
            state.confirmed.push(room);
        } else {
            return;
        }
        drop(state);
        self.shared.wake_link();
    }

    fn hear(&mut self, channel: &str, payload: &str) {
        if channel == self.nodes {
            self.shared.state().has_new_nodes = true;
            return self.shared.wake_link();
        }
        if channel == self.inbox {
            self.shared.state().keep_inbox(payload);
            return self.shared.wake_link();
        }
        let Some(room) = self.keys.room_of(channel) else { return };
        // Held until the core has it: what the link tells of the room afterwards comes after it.
        let shared = self.shared.clone();
        let state = shared.state();
        let Some((room, core)) = state.rooms.get_key_value(room) else { return };
        let Some(news) = read(room.clone(), payload) else {
            if self.complaint.is_due() {
                log::warn!(
                    "room {room}: an announcement that cannot be understood; has somebody else written to {channel}?"
                );
            }
            return;
        };
        self.teller.tell(usize::from(*core), Mail::Backplane(news));
        let is_told = self.deliver();
        drop(state);
        if !is_told {
            while !self.shared.is_stopping() && !self.deliver() {
                std::thread::park_timeout(FULL_PAUSE);
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let shared = &self.shared;
        self.teller.deliver(|core| waker::wake(&shared.wakers, core))
    }
}

/// Whether announcements may be heard at all: somebody may have been given the commands and not the channels, or the other way round.
///
/// # Errors
/// What the server says.
pub(super) fn check(server: &Address, keys: &Keys, timeout: Duration) -> Result<(), String> {
    let mut connection = server.connect(timeout)?;
    let failed = |error: redis::RedisError| format!("{}: {}", server.name, address::explain(&error));
    connection.set_read_timeout(Some(timeout)).map_err(failed)?;
    send(&mut connection, "SUBSCRIBE", &[keys.nodes_channel()]).map_err(failed)?;
    match connection.recv_response().map_err(failed)? {
        Value::ServerError(error) => Err(format!("{}: {error}", server.name)),
        _ => Ok(()),
    }
}

fn send(connection: &mut Connection, what: &str, channels: &[String]) -> redis::RedisResult<()> {
    channels.chunks(CHANNELS).try_for_each(|chunk| {
        connection.send_packed_command(&redis::cmd(what).arg(chunk).get_packed_command())
    })
}

/// What an announcement in a room says: a letter, and what belongs to it.
///
/// | | |
/// |---|---|
/// | `m <epoch> <offset> <change> <time> <json>` | a message |
/// | `c <epoch> <change> <offset> <time> <node> <tag> <json>` | a change |
/// | `u <json>` | something that has no place |
/// | `r <epoch>` | the room has begun anew |
pub(super) fn read(room: Arc<str>, payload: &str) -> Option<BackplaneNews> {
    let (kind, rest) = payload.split_once(' ')?;
    let (entry, epoch) = match kind {
        "m" => {
            let mut parts = rest.splitn(5, ' ');
            let epoch = parts.next()?;
            let position =
                Position { offset: next(&mut parts).and_then(counted)?, change: next(&mut parts)? };
            let timestamp_ms = next(&mut parts)?;
            let message = message(parts.next()?)?;
            (LogEntry::Message { position, timestamp_ms, message }, epoch)
        }
        "c" => {
            let mut parts = rest.splitn(7, ' ');
            let epoch = parts.next()?;
            let change = next(&mut parts).and_then(counted)?;
            let position = Position { change, offset: next(&mut parts)? };
            let timestamp_ms = next(&mut parts)?;
            let node = NodeId::try_from(next(&mut parts)?).ok()?;
            let tag = next(&mut parts)?;
            let ops = ops(parts.next()?);
            (LogEntry::Change { position, timestamp_ms, node, tag, ops }, epoch)
        }
        "u" => return Some(BackplaneNews::Uttered { room, utterance: serde_json::from_str(rest).ok()? }),
        "r" => {
            return Some(BackplaneNews::At {
                room,
                at: Some((rest.into(), Position::default())),
                is_doubtful: false,
            });
        }
        _ => return None,
    };
    Some(BackplaneNews::Entries { room, epoch: epoch.into(), entries: vec![entry] })
}

fn next<'t>(parts: &mut impl Iterator<Item = &'t str>) -> Option<u64> {
    parse(parts.next()?)
}
