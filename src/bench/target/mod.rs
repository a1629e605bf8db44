//! What can be measured: a protocol each, as bytes to messages and back, without I/O.

mod any_websocket;
mod http;
mod http2;
mod irc;
mod mqtt;
mod nats;
mod raw;
mod redis;
mod starling;
mod text;
mod url;
mod websocket;

pub use url::{Options, Roots, Target};

use super::marker::{Content, Marker, NO_NAME};

/// Somebody who talks to the target.
#[derive(Debug, Clone, Copy)]
pub struct Persona<'a> {
    /// The number among all of them.
    pub number: u32,
    /// Unique in this run and among runs.
    pub nickname: &'a str,
    /// The room; empty for who is in none.
    pub room: &'a str,
    /// Whether messages are for oneself alone.
    pub is_alone: bool,
    /// A session to come back to, and the position in its room from which it goes on.
    pub comeback: Option<Comeback<'a>>,
}

/// Where a session was when its connection broke.
#[derive(Debug, Clone, Copy)]
pub struct Comeback<'a> {
    /// The token that the target gave out.
    pub token: &'a str,
    /// The history in which the offset counts.
    pub epoch: &'a str,
    /// The last offset that has come.
    pub offset: u64,
}

/// What a target can do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traits {
    /// Whoever publishes to a room hears it too, as the others do.
    pub hears_itself: bool,
    /// Messages have offsets.
    pub has_offsets: bool,
    /// There are rooms (channels, subjects, topics); without, all who listen hear all who publish.
    pub has_rooms: bool,
    /// A member may change rooms.
    pub can_move: bool,
    /// Publishers only send, and listeners only listen.
    pub is_split: bool,
    /// Sessions outlive connections.
    pub can_resume: bool,
    /// Messages can be acknowledged.
    pub can_acknowledge: bool,
    /// Every connection hears itself and nobody else.
    pub is_echo: bool,
    /// The most bytes that a message may have, where the protocol has such a bound.
    pub content_max: Option<usize>,
}

/// Where a connection stands in its protocol. What the values mean is the protocol's own business; all begin with 0.
pub type Stage = u8;

/// One protocol. What it must know of a connection is in its [`Stage`], so that one serves all of them.
pub trait Protocol: Send + Sync {
    /// What the target can do.
    fn traits(&self) -> Traits;

    /// What the target has said of its version, once it has; `None` where it says nothing of it.
    fn version(&self) -> Option<String> {
        None
    }

    /// Appends the first bytes on a new connection. Whether they are all that is needed before [`Protocol::enter`]; else a
    /// [`Heard::Open`] follows.
    fn open(&self, _me: &Persona<'_>, _out: &mut Vec<u8>) -> bool {
        true
    }

    /// Appends the words by which one says hello and joins one's room. Whether no [`Heard::Joined`] will follow.
    fn enter(&self, _me: &Persona<'_>, _out: &mut Vec<u8>) -> bool {
        true
    }

    /// Appends a message to one's room, of `bytes` bytes. With `ack` it is to be acknowledged at that level.
    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, ack: Option<&str>, out: &mut Vec<u8>);

    /// Appends a change of rooms, from the persona's to another; a [`Heard::Joined`] follows. Only where one can.
    fn switch(&self, _me: &Persona<'_>, _to: &str, _out: &mut Vec<u8>) {}

    /// Appends a farewell, if the protocol has one.
    fn quit(&self, _out: &mut Vec<u8>) {}

    /// Appends the answer to a sign of life that was asked for with `payload`.
    fn pong(&self, _payload: &[u8], _out: &mut Vec<u8>) {}

    /// Takes whole messages from the front of `input`, tells what they say, and returns how many bytes they were. What is
    /// left will come again, with more behind it.
    ///
    /// # Errors
    /// One line on what is wrong with the input.
    fn decode(&self, stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String>;
}

/// What was heard on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// One may enter.
    Open,
    /// One has said hello, and this token brings one back.
    Welcome(Box<str>),
    /// One is in one's room.
    Joined(Box<Joined>),
    /// A message.
    Message {
        /// What it says, and whether all of it is there.
        content: Content,
        /// Its place in the room; 0 where the target has none.
        offset: u64,
        /// The hash of its sender's name; [`NO_NAME`] where the target does not tell who that is.
        sender: u64,
    },
    /// The oldest of one's own messages that were not answered has been.
    Answered,
    /// A message of one's own has been acknowledged.
    Acknowledged(Ack),
    /// An answer is wanted to this.
    Ping(Box<[u8]>),
    /// Something was refused: the reason as the target gives it.
    Refused(Box<str>),
    /// The target ends the connection: why.
    Bye(Box<str>),
}

impl Heard {
    /// A message of a target that tells its content and nothing else.
    pub fn content(content: Content) -> Heard {
        Heard::Message { content, offset: 0, sender: NO_NAME }
    }
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Of which message: what its id says.
    pub marker: Marker,
    /// The place that the message has been given.
    pub offset: u64,
    /// Whether it is of the level that was asked for, as far as the protocol's word for it is known.
    pub level: Level,
}

/// How far a message had come when it was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The target does not say, or with a word that is none.
    Unknown,
    /// It has its place.
    Sequenced,
    /// It has been written.
    Stored,
    /// It is on the disk.
    Synced,
}

impl Level {
    /// The level of a word.
    pub fn of(word: &str) -> Level {
        match word {
            "sequenced" => Level::Sequenced,
            "stored" => Level::Stored,
            "synced" => Level::Synced,
            _ => Level::Unknown,
        }
    }
}

/// How one is in a room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joined {
    /// The offset of the last message before.
    pub offset: u64,
    /// The history in which it counts.
    pub epoch: Box<str>,
    /// Whether what was missed follows, where that was asked.
    pub recovered: Option<bool>,
}

/// Helpers for the protocols' tests.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// All that is heard of `input` when it comes in pieces of these sizes, as the generator hands it over.
    pub fn heard(protocol: &dyn Protocol, stage: Stage, input: &[u8], pieces: &[usize]) -> Vec<Heard> {
        let (mut stage, mut heard, mut carry) = (stage, Vec::new(), Vec::new());
        let mut rest = input;
        let mut sizes = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
            carry.extend_from_slice(&rest[..size]);
            rest = &rest[size..];
            let taken = protocol.decode(&mut stage, &carry, &mut heard).unwrap();
            carry.drain(..taken);
        }
        assert!(carry.is_empty(), "left over: {:?}", String::from_utf8_lossy(&carry));
        heard
    }

    /// The content of [`marker`] with so many bytes, as it is put and as it is heard.
    pub fn content(bytes: usize) -> (Vec<u8>, Content) {
        let mut text = Vec::new();
        marker().put_content(bytes, &mut text);
        let content = Content { marker: marker(), bytes: Some(text.len() as u32) };
        (text, content)
    }

    /// A persona.
    pub fn persona<'a>() -> Persona<'a> {
        Persona { number: 3, nickname: "m3", room: "r", is_alone: false, comeback: None }
    }

    /// A marker.
    pub fn marker() -> Marker {
        Marker { publisher: 7, sequence: 9, due_ns: 123_456_789 }
    }
}
