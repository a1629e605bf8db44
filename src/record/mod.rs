//! What is to outlive the process: facts that the cores write down, and what is known of them when a server starts again.
//!
//! A core appends [`Record`]s to its journal in the turn in which they happen, all of one turn as one [`frame`](Frame). The
//! storage thread applies frames in order, each whole or not at all, and every record says what holds from then on, so that
//! nobody who reads them has to know what was before.

mod restored;

use serde::{Deserialize, Serialize};

pub use restored::{
    AccountState, KeptPrivate, Restored, RestoredInbox, RestoredMembership, RestoredReceipt, RestoredRoom,
    RestoredSession, RestoredState, RestoredUser, SessionBody, WaitingPrivate, WrittenClaims,
};

/// How much of a room's history is kept; the tightest bound counts, and 0 is none of its own, but for `count`: 0 keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Messages.
    pub count: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Milliseconds.
    pub age_ms: u64,
}

/// The client's name for the command that a message came by: the same again is to get the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandKey<'a> {
    /// The session's number; 0 for HTTP requests, whose keys are the sender's in that room.
    pub session: u64,
    /// The id or idempotency key.
    pub id: &'a str,
}

/// Whose inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Owner<'a> {
    /// That of a session, by its number.
    Session(u64),
    /// That of a registered user, by the folded name.
    User(&'a str),
    /// The same, for one of the user's sessions: what is kept is for that one alone; what is received, by that one.
    SessionOf {
        /// The folded name.
        user: &'a str,
        /// The session's number.
        session: u64,
    },
}

impl Owner<'_> {
    /// The one session of a user that something in the user's inbox is for, or comes from, as the database writes numbers.
    pub fn one_session(&self) -> Option<i64> {
        if let Owner::SessionOf { session, .. } = self { Some(*session as i64) } else { None }
    }
}

/// As far as the database counts: its numbers have a sign. (What is only a name, as a session's number, goes beyond that.)
const COUNT_MAX: u64 = i64::MAX as u64;

/// A fact. Numbers of rooms are given out by their homes and never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Record<'a> {
    /// A room has this name, epoch and bounds from now on. It may have had others before.
    Room { room: u64, name: &'a str, epoch: &'a str, retention: Retention },
    /// The room is no more, with all that is in it.
    RoomEnded { room: u64 },
    /// A message has its place.
    Message {
        room: u64,
        offset: u64,
        timestamp_ms: u64,
        sender: &'a str,
        content: &'a str,
        command: Option<CommandKey<'a>>,
    },
    /// A key of the room's state has this value (JSON), or none.
    State { room: u64, key: &'a str, value: Option<&'a str>, version: u64 },
    /// Roles and restrictions in the room, as a whole (JSON of the room's own).
    Rules { room: u64, rules: &'a str },
    /// A session is so: a [`SessionBody`] as JSON. Only a later revision replaces one: a session may move between cores, whose
    /// journals have no order among each other.
    Session { number: u64, revision: u64, body: &'a str },
    /// A session is no more.
    SessionEnded { number: u64, revision: u64 },
    /// What a session's private message was answered, by the id of its command.
    Receipt { session: u64, id: &'a str, timestamp_ms: u64, target: &'a str, delivered: u64, stored: bool },
    /// A private message is kept at this place of an inbox.
    Kept {
        owner: Owner<'a>,
        offset: u64,
        sender: &'a str,
        target: &'a str,
        content: &'a str,
        timestamp_ms: u64,
    },
    /// The inbox's owner has received all up to this place.
    Received { owner: Owner<'a>, through: u64 },
}

impl<'a> Record<'a> {
    /// What it is about, in a word, without anything of what is in it.
    pub fn kind(&self) -> String {
        format!("{self:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect()
    }

    /// Appends it to a frame.
    pub fn put(&self, frame: &mut Vec<u8>) {
        let buffer = std::mem::take(frame);
        *frame = postcard::to_extend(self, buffer).expect("a growing buffer has place");
    }

    /// Takes the first record of `bytes`.
    ///
    /// # Errors
    /// When there is none: the bytes are not of this version's records, or have a place, time or bound to which nothing counts.
    pub fn take(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BadRecord> {
        let (record, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|error| BadRecord(error.to_string()))?;
        match record.counts().into_iter().find(|count| *count > COUNT_MAX) {
            Some(count) => Err(BadRecord(format!("a count of {count}"))),
            None => Ok((record, rest)),
        }
    }

    /// What it counts, and what nobody counts as far as the database has place for.
    fn counts(&self) -> [u64; 3] {
        match *self {
            Record::Room { retention: Retention { count, bytes, age_ms }, .. } => [count, bytes, age_ms],
            Record::Message { offset, timestamp_ms, .. } | Record::Kept { offset, timestamp_ms, .. } => {
                [offset, timestamp_ms, 0]
            }
            Record::State { version, .. } => [version, 0, 0],
            Record::Session { revision, .. } | Record::SessionEnded { revision, .. } => [revision, 0, 0],
            Record::Receipt { timestamp_ms, delivered, .. } => [timestamp_ms, delivered, 0],
            // Who has received something says how far, which may be any number.
            Record::RoomEnded { .. } | Record::Rules { .. } | Record::Received { .. } => [0; 3],
        }
    }
}

/// Bytes in a journal that are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord(pub String);

impl std::fmt::Display for BadRecord {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "not a record: {}", self.0)
    }
}

impl std::error::Error for BadRecord {}

/// The records of one turn of a core: a byte that says whether some of them are to be on the disk soon, then the records.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a>(&'a [u8]);

impl<'a> Frame<'a> {
    /// The bytes of a frame that has no record yet.
    pub fn begin(frame: &mut Vec<u8>) {
        frame.clear();
        frame.push(0);
    }

    /// Says that some record in a frame is to be on the disk before its core is told.
    pub fn want_sync(frame: &mut [u8]) {
        frame[0] = 1;
    }

    /// Whether one is.
    pub fn wants_sync(frame: &[u8]) -> bool {
        frame.first() == Some(&1)
    }

    /// The records of a frame.
    pub fn records(frame: &'a [u8]) -> Self {
        Frame(frame.get(1..).unwrap_or_default())
    }
}

/// Which messages of a room are wanted. Both bounds are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryPage {
    /// The room's number.
    pub room: u64,
    /// After this offset.
    pub after: u64,
    /// Before this one.
    pub before: u64,
    /// Whether the first ones are meant, not the last.
    pub is_ascending: bool,
    /// At most so many.
    pub limit: usize,
    /// At most so many bytes of content, but at least one message.
    pub bytes_max: usize,
}

impl<'a> Iterator for Frame<'a> {
    type Item = Result<Record<'a>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = Record::take(self.0);
        // What follows something that is no record cannot be found.
        self.0 = taken.as_ref().map_or(&[], |(_, rest)| rest);
        Some(taken.map(|(record, _)| record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_back_its_records() {
        let command = Some(CommandKey { session: u64::MAX, id: "7" });
        let retention = Retention { count: 1, bytes: 2, age_ms: 3 };
        let records = [
            Record::Room { room: 9, name: "Lobby", epoch: "0af", retention },
            Record::Message {
                room: 9,
                offset: 1,
                timestamp_ms: 5,
                sender: "alice",
                content: "hé\n",
                command,
            },
            Record::State { room: 9, key: "topic", value: None, version: 4 },
            Record::Kept {
                owner: Owner::User("bob"),
                offset: 300,
                sender: "a",
                target: "Bob",
                content: "psst",
                timestamp_ms: 1,
            },
            Record::Received { owner: Owner::Session(3), through: 8 },
            Record::Received { owner: Owner::SessionOf { user: "bob", session: 3 }, through: 8 },
            Record::SessionEnded { number: 3, revision: 2 },
            Record::RoomEnded { room: 9 },
        ];
        let mut frame = Vec::new();
        Frame::begin(&mut frame);
        records.iter().for_each(|record| record.put(&mut frame));
        assert!(!Frame::wants_sync(&frame));
        Frame::want_sync(&mut frame);
        assert!(Frame::wants_sync(&frame));
        let back: Vec<Record> = Frame::records(&frame).map(Result::unwrap).collect();
        assert_eq!(back, records);
    }

    #[test]
    fn what_nothing_counts_to_is_no_record() {
        let most = i64::MAX as u64;
        let retention = |count, bytes, age_ms| Retention { count, bytes, age_ms };
        let room = |retention| Record::Room { room: u64::MAX, name: "r", epoch: "e", retention };
        let message = |offset, timestamp_ms| {
            let (sender, content) = ("alice", "hi");
            Record::Message { room: u64::MAX, offset, timestamp_ms, sender, content, command: None }
        };
        let kept = |offset, timestamp_ms| {
            let (owner, sender, target, content) = (Owner::Session(u64::MAX), "a", "b", "psst");
            Record::Kept { owner, offset, sender, target, content, timestamp_ms }
        };
        let state = |version| Record::State { room: u64::MAX, key: "k", value: None, version };
        let session = |revision| Record::Session { number: u64::MAX, revision, body: "{}" };
        let ended = |revision| Record::SessionEnded { number: u64::MAX, revision };
        let receipt = |timestamp_ms, delivered| {
            let (id, target, stored) = ("1", "bob", true);
            Record::Receipt { session: u64::MAX, id, timestamp_ms, target, delivered, stored }
        };
        let is_taken = |record: Record| {
            let mut bytes = Vec::new();
            record.put(&mut bytes);
            match Record::take(&bytes) {
                Ok((back, rest)) => back == record && rest.is_empty(),
                Err(error) => {
                    assert_eq!(error.to_string(), "not a record: a count of 9223372036854775808");
                    false
                }
            }
        };
        let sound = [
            room(retention(most, most, most)),
            message(most, most),
            kept(most, most),
            state(most),
            session(most),
            ended(most),
            receipt(most, most),
            Record::Received { owner: Owner::Session(u64::MAX), through: u64::MAX },
        ];
        for record in sound {
            assert!(is_taken(record), "{record:?}");
        }
        let bad = most + 1;
        let beyond = [
            room(retention(bad, 0, 0)),
            room(retention(0, bad, 0)),
            room(retention(0, 0, bad)),
            message(bad, 0),
            message(0, bad),
            kept(bad, 0),
            kept(0, bad),
            state(bad),
            session(bad),
            ended(bad),
            receipt(bad, 0),
            receipt(0, bad),
        ];
        for record in beyond {
            assert!(!is_taken(record), "{record:?}");
        }
    }

    #[test]
    fn what_is_no_record_ends_the_frame_with_an_error() {
        let mut frame = Vec::new();
        Frame::begin(&mut frame);
        Record::RoomEnded { room: 1 }.put(&mut frame);
        frame.extend([250, 1, 2]);
        let read: Vec<_> = Frame::records(&frame).collect();
        assert!(read[0].is_ok() && read[1].is_err() && read.len() == 2, "{read:?}");
    }
}
