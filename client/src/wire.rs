//! Commands and events as the server speaks them, in JSON.
//!
//! Fields and events that this version does not know are no errors: fields are ignored, events are kept as [`Incoming::Unknown`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A place in a room's history. Offsets compare only within one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The history that the offset counts in.
    pub epoch: String,
    /// The last message that is known.
    pub offset: u64,
}

/// What an `ack` of a message is to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The message has its offset.
    Sequenced,
    /// It is in the store's file.
    Stored,
    /// It is on the disk.
    Synced,
}

/// What somebody may do in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Moderates.
    Host,
    /// Speaks.
    Member,
    /// Reads.
    Guest,
    /// A role of a later version.
    #[serde(other)]
    Other,
}

/// Everything that a client can say.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
#[allow(missing_docs)] // The fields are those of the protocol's document.
pub enum Command {
    Hello {
        #[serde(skip_serializing_if = "Option::is_none")]
        nickname: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<String>,
    },
    Nick {
        nickname: String,
    },
    Join {
        room: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        history: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<Position>,
        #[serde(skip_serializing_if = "Option::is_none")]
        echo: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        overflow: Option<&'static str>,
    },
    Leave {
        room: String,
    },
    Message {
        room: String,
        content: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        ack: Option<Level>,
    },
    Private {
        target: String,
        content: String,
    },
    Received {
        offset: u64,
    },
    Broadcast {
        content: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        rooms: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tags: Option<Vec<String>>,
    },
    Members {
        room: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Rooms {
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    History {
        room: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    State {
        room: String,
        key: String,
        value: Value,
    },
    Role {
        room: String,
        target: String,
        role: Role,
    },
    Kick {
        room: String,
        target: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    Ban {
        room: String,
        target: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
    },
    Unban {
        room: String,
        target: String,
    },
    Mute {
        room: String,
        target: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds: Option<u64>,
    },
    Unmute {
        room: String,
        target: String,
    },
    Typing {
        room: String,
    },
    Ping,
    Pong,
    Quit,
}

impl Command {
    /// The name in `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Hello { .. } => "hello",
            Command::Nick { .. } => "nick",
            Command::Join { .. } => "join",
            Command::Leave { .. } => "leave",
            Command::Message { .. } => "message",
            Command::Private { .. } => "private",
            Command::Received { .. } => "received",
            Command::Broadcast { .. } => "broadcast",
            Command::Members { .. } => "members",
            Command::Rooms { .. } => "rooms",
            Command::History { .. } => "history",
            Command::State { .. } => "state",
            Command::Role { .. } => "role",
            Command::Kick { .. } => "kick",
            Command::Ban { .. } => "ban",
            Command::Unban { .. } => "unban",
            Command::Mute { .. } => "mute",
            Command::Unmute { .. } => "unmute",
            Command::Typing { .. } => "typing",
            Command::Ping => "ping",
            Command::Pong => "pong",
            Command::Quit => "quit",
        }
    }

    /// The room that it is about.
    pub fn room(&self) -> Option<&str> {
        match self {
            Command::Join { room, .. }
            | Command::Leave { room }
            | Command::Message { room, .. }
            | Command::Members { room, .. }
            | Command::History { room, .. }
            | Command::State { room, .. }
            | Command::Role { room, .. }
            | Command::Kick { room, .. }
            | Command::Ban { room, .. }
            | Command::Unban { room, .. }
            | Command::Mute { room, .. }
            | Command::Unmute { room, .. }
            | Command::Typing { room } => Some(room),
            _ => None,
        }
    }

    /// Whether it only asks, so that it may be asked again.
    pub fn is_query(&self) -> bool {
        matches!(self, Command::Members { .. } | Command::Rooms { .. } | Command::History { .. })
    }

    /// The frame of this command with its `id`.
    pub fn to_frame(&self, id: Option<&str>) -> Frame {
        #[derive(Serialize)]
        struct Tagged<'a> {
            #[serde(flatten)]
            command: &'a Command,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a str>,
        }
        let text = serde_json::to_string(&Tagged { command: self, id }).expect("strings and numbers only");
        Frame { kind: self.name(), text }
    }
}

/// What is to be written to the connection: one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its `type`, for transports that say it in another place.
    pub kind: &'static str,
    /// The JSON object.
    pub text: String,
}

/// Who one is now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Welcome {
    /// One's nickname.
    pub nickname: String,
    /// The session.
    #[serde(default)]
    pub session: String,
    /// What resumes it.
    #[serde(default)]
    pub resume: String,
    /// Whether it is the session of before.
    #[serde(default)]
    pub resumed: bool,
    /// After how much silence the server probes.
    #[serde(default)]
    pub heartbeat_ms: u64,
    /// After how much silence it closes.
    #[serde(default)]
    pub timeout_ms: u64,
    /// The server and its version.
    #[serde(default)]
    pub server: String,
}

/// One key of a room's state.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Keyed {
    /// Its value.
    #[serde(default)]
    pub value: Value,
    /// The room's counter when it was set.
    #[serde(default)]
    pub version: u64,
}

/// One is in a room.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Joined {
    /// The room, as the server writes it.
    pub room: String,
    /// The history that offsets count in.
    #[serde(default)]
    pub epoch: String,
    /// The room's last message then: later ones follow.
    #[serde(default)]
    pub offset: u64,
    /// What one may do there.
    #[serde(default = "member")]
    pub role: Role,
    /// How many are there.
    #[serde(default)]
    pub members: u64,
    /// Its state, the `topic` for example.
    #[serde(default)]
    pub state: BTreeMap<String, Keyed>,
    /// The last messages, if history was asked for.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// Whether exactly the missed messages follow, if a position was given.
    #[serde(default)]
    pub recovered: Option<bool>,
}

fn member() -> Role {
    Role::Member
}

/// One is in a room no more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Left {
    /// The room.
    pub room: String,
    /// Why: `left`, `kicked`, `banned`.
    #[serde(default)]
    pub reason: String,
}

/// A message in a room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// The room; filled in also where the server leaves it out.
    #[serde(default)]
    pub room: String,
    /// The history that the offset counts in; filled in by the machine.
    #[serde(default)]
    pub epoch: String,
    /// Whose it is.
    #[serde(default)]
    pub sender: String,
    /// What was said.
    #[serde(default)]
    pub content: String,
    /// Its place.
    pub offset: u64,
    /// When, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub timestamp: u64,
}

/// A message to oneself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Private {
    /// Whose it is.
    pub sender: String,
    /// To whom: oneself.
    #[serde(default)]
    pub target: String,
    /// What was said.
    #[serde(default)]
    pub content: String,
    /// When, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub timestamp: u64,
    /// Its place in one's inbox, if it had been kept there.
    #[serde(default)]
    pub offset: Option<u64>,
}

/// An admin's word to many.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct System {
    /// What was said.
    #[serde(default)]
    pub content: String,
    /// Who said it.
    #[serde(default)]
    pub sender: String,
    /// When, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub timestamp: u64,
}

/// Somebody in a room came, went or changed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Presence {
    /// The room.
    pub room: String,
    /// When, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub timestamp: u64,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

/// What happened to somebody in a room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[non_exhaustive]
#[allow(missing_docs)] // The fields are those of the protocol's document.
pub enum Change {
    Join {
        nickname: String,
    },
    Leave {
        nickname: String,
        #[serde(default)]
        reason: String,
    },
    /// The connection is lost, the session waits.
    Away {
        nickname: String,
    },
    /// The session goes on.
    Back {
        nickname: String,
    },
    /// `from` is `nickname` now.
    Nick {
        nickname: String,
        #[serde(default)]
        from: String,
    },
    Role {
        nickname: String,
        role: Role,
    },
    Mute {
        nickname: String,
    },
    Unmute {
        nickname: String,
    },
    /// What happened within a second in a large room; the lists may be cut, `members` is exact.
    Batch {
        #[serde(default)]
        joined: Vec<String>,
        #[serde(default)]
        left: Vec<String>,
        #[serde(default)]
        members: u64,
    },
    /// A change of a later version.
    #[serde(other)]
    Other,
}

/// A key of a room's state has changed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct State {
    /// The room.
    pub room: String,
    /// The key, `topic` for example.
    pub key: String,
    /// Its value; null if it was deleted.
    #[serde(default)]
    pub value: Value,
    /// The room's counter.
    #[serde(default)]
    pub version: u64,
    /// Who set it.
    #[serde(default)]
    pub sender: String,
}

/// Somebody is typing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Typing {
    /// The room.
    pub room: String,
    /// Who.
    pub nickname: String,
}

/// Messages that are left out, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Gap {
    /// The room.
    pub room: String,
    /// The history that the offsets count in.
    #[serde(default)]
    pub epoch: String,
    /// The first one.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

/// One who is in a room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// Who.
    pub nickname: String,
    /// What he may do.
    #[serde(default = "member")]
    pub role: Role,
    /// False for one who is away.
    #[serde(default)]
    pub connected: bool,
    /// When he was heard last, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub last_active: u64,
}

/// Who is in a room: one page.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Members {
    /// The room.
    pub room: String,
    /// How many there are.
    #[serde(default)]
    pub total: u64,
    /// The page, in order of nicknames.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// A room in a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct RoomInfo {
    /// The room.
    pub room: String,
    /// How many are there.
    #[serde(default)]
    pub members: u64,
    /// Its last message.
    #[serde(default)]
    pub offset: u64,
}

/// Which rooms there are: one page.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Rooms {
    /// The page, in order of names.
    #[serde(default)]
    pub rooms: Vec<RoomInfo>,
}

/// What was said in a room: one page, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct History {
    /// The room.
    pub room: String,
    /// The history that the offsets count in.
    #[serde(default)]
    pub epoch: String,
    /// The page.
    #[serde(default)]
    pub messages: Vec<Message>,
}

/// A command was done. Which fields there are depends on the command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[non_exhaustive]
pub struct Ack {
    /// The room of a message or a key.
    #[serde(default)]
    pub room: Option<String>,
    /// The history that a message's offset counts in.
    #[serde(default)]
    pub epoch: Option<String>,
    /// A message's place.
    #[serde(default)]
    pub offset: Option<u64>,
    /// When it was said, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub timestamp: Option<u64>,
    /// What is promised of a message.
    #[serde(default)]
    pub level: Option<Level>,
    /// To whom a private message went.
    #[serde(default)]
    pub target: Option<String>,
    /// How many sessions of his have got it.
    #[serde(default)]
    pub delivered: Option<u64>,
    /// Whether it is kept for him.
    #[serde(default)]
    pub stored: Option<bool>,
    /// The key that was set.
    #[serde(default)]
    pub key: Option<String>,
    /// Its version.
    #[serde(default)]
    pub version: Option<u64>,
    /// How many sessions a broadcast reached.
    #[serde(default)]
    pub sessions: Option<u64>,
}

/// A command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ServerError {
    /// As in HTTP.
    #[serde(default)]
    pub code: u16,
    /// One word, `nickname_in_use` for example.
    #[serde(default)]
    pub reason: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Whether it may go well later.
    #[serde(default)]
    pub retryable: bool,
    /// When.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

/// Why the server ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Bye {
    /// 41xx: stop; 42xx: come back; 43xx: come back after `after_ms`.
    #[serde(default)]
    pub code: u16,
    /// One word.
    #[serde(default)]
    pub reason: String,
    /// Whether the session waits.
    #[serde(default)]
    pub resumable: bool,
    /// When to come back.
    #[serde(default)]
    pub after_ms: u64,
}

/// Everything that the server can say.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // Each is its struct.
pub enum Incoming {
    Welcome(Welcome),
    Joined(Joined),
    Left(Left),
    Message(Message),
    Private(Private),
    System(System),
    Presence(Presence),
    State(State),
    Typing(Typing),
    Gap(Gap),
    Members(Members),
    Rooms(Rooms),
    History(History),
    Ack(Ack),
    Pong,
    Ping,
    Error(ServerError),
    Bye(Bye),
    /// What this version does not understand.
    Unknown(Value),
}

/// An event, and whose reply it is.
pub fn parse(text: &str) -> (Option<String>, Incoming) {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(rename = "type", borrow, default)]
        kind: Cow<'a, str>,
        #[serde(default)]
        id: Option<String>,
    }
    let unknown =
        || Incoming::Unknown(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())));
    let Ok(head) = serde_json::from_str::<Head>(text) else { return (None, unknown()) };
    let event = match &*head.kind {
        "welcome" => serde_json::from_str(text).map(Incoming::Welcome),
        "joined" => serde_json::from_str(text).map(Incoming::Joined),
        "left" => serde_json::from_str(text).map(Incoming::Left),
        "message" => serde_json::from_str(text).map(Incoming::Message),
        "private" => serde_json::from_str(text).map(Incoming::Private),
        "system" => serde_json::from_str(text).map(Incoming::System),
        "presence" => serde_json::from_str(text).map(Incoming::Presence),
        "state" => serde_json::from_str(text).map(Incoming::State),
        "typing" => serde_json::from_str(text).map(Incoming::Typing),
        "gap" => serde_json::from_str(text).map(Incoming::Gap),
        "members" => serde_json::from_str(text).map(Incoming::Members),
        "rooms" => serde_json::from_str(text).map(Incoming::Rooms),
        "history" => serde_json::from_str(text).map(Incoming::History),
        "ack" => serde_json::from_str(text).map(Incoming::Ack),
        "pong" => Ok(Incoming::Pong),
        "ping" => Ok(Incoming::Ping),
        "error" => serde_json::from_str(text).map(Incoming::Error),
        "bye" => serde_json::from_str(text).map(Incoming::Bye),
        _ => Ok(unknown()),
    };
    (head.id, event.unwrap_or_else(|_| unknown()))
}
