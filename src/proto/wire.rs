//! The vocabulary of the protocol: commands and events as every encoding carries them, borrowed from the bytes they
//! were read from or from the state they tell of. Nothing here is checked: a [`Command`] holds what the peer wrote.
//!
//! Field names are those of the JSON encoding. `None` is an absent field.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// The commands by their numbers in binary frames and in Protobuf, from 1.
pub const COMMANDS: [&str; 23] = [
    "hello",
    "join",
    "leave",
    "switch",
    "message",
    "private",
    "received",
    "broadcast",
    "members",
    "rooms",
    "history",
    "state",
    "role",
    "kick",
    "ban",
    "unban",
    "mute",
    "unmute",
    "typing",
    "ping",
    "quit",
    "pong",
    "nick",
];

/// The events by their numbers in binary frames, from 129; in Protobuf, from 1.
pub const EVENTS: [&str; 18] = [
    "welcome", "joined", "left", "presence", "message", "ack", "private", "system", "members", "rooms",
    "history", "state", "typing", "pong", "bye", "error", "ping", "gap",
];

/// A command as a client wrote it, its fields of the right type and otherwise unchecked.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Command<'a> {
    Hello {
        nickname: Option<Cow<'a, str>>,
        token: Option<Cow<'a, str>>,
        resume: Option<Cow<'a, str>>,
    },
    Nick {
        nickname: Cow<'a, str>,
    },
    Join(Join<'a>),
    Leave {
        room: Cow<'a, str>,
    },
    Switch {
        from: Cow<'a, str>,
        to: Join<'a>,
    },
    Message {
        room: Cow<'a, str>,
        content: Cow<'a, str>,
        ack: Option<Cow<'a, str>>,
    },
    Private {
        target: Cow<'a, str>,
        content: Cow<'a, str>,
    },
    Received {
        offset: u64,
    },
    Broadcast {
        content: Cow<'a, str>,
        rooms: Vec<Cow<'a, str>>,
        tags: Vec<Cow<'a, str>>,
    },
    Members {
        room: Cow<'a, str>,
        limit: Option<u64>,
        after: Option<Cow<'a, str>>,
    },
    Rooms {
        limit: Option<u64>,
        after: Option<Cow<'a, str>>,
    },
    History {
        room: Cow<'a, str>,
        before: Option<u64>,
        after: Option<u64>,
        limit: Option<u64>,
    },
    /// `value` is JSON; none deletes the key.
    State {
        room: Cow<'a, str>,
        key: Cow<'a, str>,
        value: Option<Cow<'a, str>>,
    },
    Role {
        room: Cow<'a, str>,
        target: Cow<'a, str>,
        role: Cow<'a, str>,
    },
    Moderate(Moderate<'a>),
    Typing {
        room: Cow<'a, str>,
    },
    Ping,
    Pong,
    Quit,
}

impl Command<'_> {
    /// What it is called on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Hello { .. } => "hello",
            Command::Nick { .. } => "nick",
            Command::Join(_) => "join",
            Command::Leave { .. } => "leave",
            Command::Switch { .. } => "switch",
            Command::Message { .. } => "message",
            Command::Private { .. } => "private",
            Command::Received { .. } => "received",
            Command::Broadcast { .. } => "broadcast",
            Command::Members { .. } => "members",
            Command::Rooms { .. } => "rooms",
            Command::History { .. } => "history",
            Command::State { .. } => "state",
            Command::Role { .. } => "role",
            Command::Moderate(Moderate { action, .. }) => match action {
                Moderation::Kick => "kick",
                Moderation::Ban => "ban",
                Moderation::Unban => "unban",
                Moderation::Mute => "mute",
                Moderation::Unmute => "unmute",
            },
            Command::Typing { .. } => "typing",
            Command::Ping => "ping",
            Command::Pong => "pong",
            Command::Quit => "quit",
        }
    }
}

/// What hosts do to others.
#[derive(Debug, Clone, PartialEq)]
pub struct Moderate<'a> {
    /// What.
    pub action: Moderation,
    /// Where.
    pub room: Cow<'a, str>,
    /// To whom.
    pub target: Cow<'a, str>,
    /// Why, for people.
    pub reason: Option<Cow<'a, str>>,
    /// For how many seconds a ban or mute holds; none: until it is undone.
    pub seconds: Option<u64>,
}

/// The commands of a room's hosts that share one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Moderation {
    Kick,
    Ban,
    Unban,
    Mute,
    Unmute,
}

/// The options of `join`, and of the room that `switch` goes to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Join<'a> {
    /// The room's name.
    pub room: Cow<'a, str>,
    /// How many of the last messages are wanted in the reply.
    pub history: Option<u64>,
    /// The position after which missed messages are wanted.
    pub since: Option<Position<'a>>,
    /// Whether the sender hears its own messages; absent means yes.
    pub echo: Option<bool>,
    /// What to do when the client cannot keep up: `close` or `gap`.
    pub overflow: Option<Cow<'a, str>>,
}

/// A place in a room's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Position<'a> {
    /// The history that `offset` counts in.
    pub epoch: Cow<'a, str>,
    /// The last message known.
    pub offset: u64,
}

/// What the server says. `id` is that of the command that an event answers, absent in every other event.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Event<'a> {
    Welcome {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        nickname: &'a str,
        session: &'a str,
        resume: &'a str,
        resumed: bool,
        heartbeat_ms: u64,
        timeout_ms: u64,
        server: &'a str,
    },
    Joined {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        room: &'a str,
        epoch: &'a str,
        offset: u64,
        role: &'a str,
        members: u64,
        state: State<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        messages: Option<&'a [HistoryMessage<'a>]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    Left {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        room: &'a str,
        reason: &'a str,
    },
    Presence(Presence<'a>),
    Message {
        room: &'a str,
        sender: &'a str,
        content: &'a str,
        offset: u64,
        timestamp: u64,
    },
    Ack(Ack<'a>),
    Private {
        sender: &'a str,
        target: &'a str,
        content: &'a str,
        timestamp: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    System {
        content: &'a str,
        sender: &'a str,
        timestamp: u64,
    },
    Members {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        room: &'a str,
        total: u64,
        members: &'a [Member<'a>],
    },
    Rooms {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        rooms: &'a [RoomInfo<'a>],
    },
    History {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        room: &'a str,
        epoch: &'a str,
        messages: &'a [HistoryMessage<'a>],
    },
    State {
        room: &'a str,
        key: &'a str,
        value: Json<'a>,
        version: u64,
        sender: &'a str,
    },
    Typing {
        room: &'a str,
        nickname: &'a str,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        timestamp: u64,
    },
    Bye {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        code: u16,
        reason: &'a str,
        resumable: bool,
        after_ms: u64,
    },
    Error(Error<'a>),
    Ping,
    Gap {
        room: &'a str,
        epoch: &'a str,
        from: u64,
        to: u64,
    },
}

impl Event<'_> {
    /// The event's place in [`EVENTS`], from 1: its field in Protobuf, and 128 less than its kind in binary frames.
    pub fn number(&self) -> u8 {
        match self {
            Event::Welcome { .. } => 1,
            Event::Joined { .. } => 2,
            Event::Left { .. } => 3,
            Event::Presence(_) => 4,
            Event::Message { .. } => 5,
            Event::Ack(_) => 6,
            Event::Private { .. } => 7,
            Event::System { .. } => 8,
            Event::Members { .. } => 9,
            Event::Rooms { .. } => 10,
            Event::History { .. } => 11,
            Event::State { .. } => 12,
            Event::Typing { .. } => 13,
            Event::Pong { .. } => 14,
            Event::Bye { .. } => 15,
            Event::Error(_) => 16,
            Event::Ping => 17,
            Event::Gap { .. } => 18,
        }
    }
}

/// A JSON value as it was written; the grammar has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<'a>(pub &'a str);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Checked when it came in, so this cannot fail; null is what a reader of a broken value would take it for.
        serde_json::from_str::<&RawValue>(self.0).unwrap_or(RawValue::NULL).serialize(serializer)
    }
}

/// A room's state: an object of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct State<'a>(pub &'a [StateEntry<'a>]);

/// One key of a room's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateEntry<'a> {
    /// The key.
    pub key: &'a str,
    /// Its value.
    pub value: Json<'a>,
    /// The room's counter when it was set.
    pub version: u64,
}

impl Serialize for State<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Value<'a> {
            value: Json<'a>,
            version: u64,
        }
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for StateEntry { key, value, version } in self.0 {
            object.serialize_entry(key, &Value { value: *value, version: *version })?;
        }
        object.end()
    }
}

/// Somebody came, went or changed. `event` says which, and with it which fields are there.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
#[allow(missing_docs)]
pub struct Presence<'a> {
    pub room: &'a str,
    pub event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nickname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined: Option<&'a [&'a str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<&'a [&'a str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<u64>,
}

/// What became of a command that has no richer reply. Which fields are there depends on the command.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
#[allow(missing_docs)]
pub struct Ack<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// A message as history tells it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct HistoryMessage<'a> {
    pub sender: &'a str,
    pub content: &'a str,
    pub offset: u64,
    pub timestamp: u64,
}

/// One member of a room.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Member<'a> {
    pub nickname: &'a str,
    pub role: &'a str,
    pub connected: bool,
    pub last_active: u64,
}

/// One room in the list of rooms.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct RoomInfo<'a> {
    pub room: &'a str,
    pub members: u64,
    pub offset: u64,
}

/// A command refused. `code` is that of HTTP, `reason` a word for programs, `message` a sentence for people.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Error<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    pub code: u16,
    pub reason: &'a str,
    pub message: &'a str,
    pub retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}
