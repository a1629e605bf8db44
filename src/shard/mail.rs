//! What cores say to each other.
//!
//! A [`Mail::Request`] asks the home of a room or nickname for something and is answered by exactly one [`Mail::Reply`].
//! A request makes mail for everybody in a room. A reply makes at most the next requests of its own session, of which there
//! are never more than it has rooms; a batch makes none. That is what keeps the mailboxes from deadlock and the
//! outboxes bounded: while some mailbox is full, requests wait, and everything else is still taken in.

use std::sync::Arc;

use super::encode::Encoding;
use super::fanout::RoomBatch;
use crate::base::slots::Id;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::refusal::{LeaveReason, Refusal};
use crate::chat::room::{Role, Stamp};
use crate::chat::user::SessionRef;

/// The `id` that a client gave its command, if it did.
pub type CommandId = Option<Box<str>>;

/// All that one core has for another at the end of a turn.
#[derive(Debug)]
pub struct Parcel {
    /// The sending core.
    pub from: u16,
    /// In the order in which it was said.
    pub mail: Vec<Mail>,
}

/// One thing said by one core to another, or to itself.
#[derive(Debug)]
pub enum Mail {
    /// Asks something of the home of a room or nickname.
    Request {
        /// Who asks.
        from: SessionRef,
        /// The command's id, which comes back with the reply.
        id: CommandId,
        /// What.
        request: Request,
    },
    /// Answers a request.
    Reply {
        /// The session that asked, on the core that gets this.
        to: Id,
        /// The core that was asked: commands under way are counted by it.
        home: u16,
        /// The command's id.
        id: CommandId,
        /// What became of it.
        reply: Reply,
    },
    /// What happened in a room in one turn, for its members on the core that gets this.
    Room(Arc<RoomBatch>),
}

/// What may be asked of a home core.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Request {
    /// Reserve a nickname for the session.
    Claim { nickname: Nickname },
    /// Free a nickname.
    Release { nickname: Nickname },
    /// Find who holds the target's nickname, and pass the message on.
    Private { target: Nickname, sender: Nickname, content: Box<str> },
    /// A private message on its last leg, to the core of its target. `home` is the core that was asked first.
    Handover { to: Id, target: Nickname, sender: Nickname, content: Box<str>, home: u16 },
    /// Become a member.
    Join { room: RoomName, nickname: Nickname, encoding: Encoding, since: Option<Since>, wants_history: bool },
    /// Stop being a member. The room is named by its key at its home. Whoever still listens hears all that came before.
    Leave { room: Id, encoding: Encoding, reason: LeaveReason, is_listening: bool },
    /// Publish a message, which its sender hears too if `echo`.
    Publish { room: Id, content: Box<str>, echo: bool },
    /// Tell the others that the member is writing.
    Typing { room: Id },
    /// Tell the others that the member's nickname has changed.
    Rename { room: Id, nickname: Nickname },
    /// List members.
    Members { room: RoomName, after: Option<Box<str>>, limit: usize },
    /// Tell somebody who is not in a room why not: because it does not exist, or merely so.
    ExplainNotAMember { room: RoomName },
    /// List the rooms whose home is asked.
    Rooms { after: Option<Box<str>>, limit: usize },
}

/// A position that a joining client says it has reached.
#[derive(Debug)]
pub struct Since {
    /// The history that the offset counts in.
    pub epoch: Box<str>,
    /// The last message known.
    pub offset: u64,
}

/// What became of a request.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Reply {
    /// The nickname is the session's.
    Claimed { nickname: Nickname },
    /// The nickname is free.
    Released,
    /// The private message was handed to this many sessions.
    Delivered { target: Nickname, sessions: u64, timestamp_ms: u64 },
    /// The session is a member.
    Joined(Box<Joined>),
    /// It no longer is.
    Left { room: RoomName, reason: LeaveReason },
    /// The message has its place.
    Published { room: RoomName, epoch: Arc<str>, stamp: Stamp },
    /// Done, this many times, where nobody asked to be told.
    Done { times: u32 },
    /// The members asked for.
    Members { room: RoomName, total: u64, members: Vec<MemberEntry> },
    /// The rooms asked for, of one home.
    Rooms { rooms: Vec<RoomEntry> },
    /// No.
    Refused(Refusal),
}

/// What a new member is told.
#[derive(Debug)]
pub struct Joined {
    /// The room, as it was first spelled.
    pub room: RoomName,
    /// Its key at its home.
    pub key: Id,
    /// The history that offsets count in.
    pub epoch: Arc<str>,
    /// The last offset given: everything after it will be heard.
    pub offset: u64,
    /// The member's role.
    pub role: Role,
    /// How many members there are, the new one among them.
    pub members: u64,
    /// Whether nothing was missed since the position that was named, if one was.
    pub recovered: Option<bool>,
    /// Whether the last messages were asked for.
    pub wants_history: bool,
}

/// One line of a list of members.
#[derive(Debug)]
pub struct MemberEntry {
    /// The nickname.
    pub nickname: Nickname,
    /// The role.
    pub role: Role,
    /// When the member last did something in the room.
    pub last_active_ms: u64,
}

/// One line of a list of rooms.
#[derive(Debug, Clone)]
pub struct RoomEntry {
    /// The room.
    pub room: RoomName,
    /// How many members it has.
    pub members: u64,
    /// Its last offset.
    pub offset: u64,
}
