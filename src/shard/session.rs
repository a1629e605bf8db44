//! A session: who speaks on a connection, the rooms it is in, and the command it waits for.
//!
//! # Order
//!
//! Replies to one connection come in the order of its commands, although rooms and nicknames have their homes on
//! different cores. The rule that gives this without a reorder buffer: messages and typing notices to one home core may
//! be under way together, because mail between two cores keeps its order; every other command waits until nothing is
//! under way, and makes what follows wait for its reply.
//!
//! # End
//!
//! A session ends in two steps: first its rooms are left, and only when all of them have answered is the nickname
//! released. So whoever takes the nickname next finds no trace of it in any room. A change of nickname takes the same
//! two steps. The session keeps its slot until every request has been answered; no reply ever goes astray.

use super::closing::Closing;
use super::encode::Encoding;
use super::http::PendingUpgrade;
use super::mail::{CommandId, RoomEntry};
use crate::base::slots::Id;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::refusal::Refusal;

/// One user's presence on the server.
#[derive(Debug)]
pub struct Session {
    /// Its connection, while there is one.
    pub connection: Option<Id>,
    /// How its connection wants events.
    pub encoding: Encoding,
    /// Its nickname, once the hello has succeeded.
    pub nickname: Option<Nickname>,
    /// The nickname it had, until all rooms know the new one and it has been released.
    pub former: Option<Nickname>,
    /// The rooms it is in, the one joined or chosen last at the end: the current room of a text line.
    pub memberships: Vec<Membership>,
    /// Requests that have not been answered.
    pub under_way: u32,
    /// The core that all messages under way went to.
    pub publishing_to: u16,
    /// The command that everything waits for, if any.
    pub step: Step,
}

/// A room that a session is in.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The room, spelled as it was first.
    pub room: RoomName,
    /// Its home core.
    pub home: u16,
    /// Its key there.
    pub key: Id,
    /// Whether the session hears its own messages.
    pub echo: bool,
    /// This session's place in the list of the room's members on this core.
    pub position: u32,
}

/// The command that a session waits for.
#[derive(Debug)]
pub enum Step {
    /// None: messages may be under way, nothing else is.
    Idle,
    /// A nickname was claimed. What comes after it: a room to join, and an HTTP request to answer.
    Hello { id: CommandId, then: Then },
    /// A new nickname was claimed.
    Nick { id: CommandId },
    /// The rooms are being told of it, and after them the old one is released: `former` says that it is not yet.
    Rename { id: CommandId },
    /// A room was asked to take the session in.
    Join { echo: bool, leave: Option<RoomName>, then: Then },
    /// A room was left, silently for the second half of a switch.
    Leave { is_told: bool },
    /// A private message, or a list of members.
    Query,
    /// All homes were asked for their rooms.
    Rooms { awaited: u16, limit: usize, found: Vec<RoomEntry> },
    /// The session is ending, and this is what its connection waits for.
    Ending { then: Option<AfterEnd> },
}

/// What a connection hears when its session has ended and the nickname is free.
#[derive(Debug)]
pub enum AfterEnd {
    /// The connection is closed.
    Close(Closing),
    /// The request that would have made it a WebSocket is refused, and the connection is ready for another.
    RefuseUpgrade(Box<PendingUpgrade>, Refusal),
}

/// What a hello leads to.
#[derive(Debug, Default)]
pub struct Then {
    /// A room to join at once.
    pub room: Option<RoomName>,
    /// The WebSocket request that waits for the outcome.
    pub upgrade: Option<Box<PendingUpgrade>>,
}

impl Session {
    /// A session whose hello is under way.
    pub fn new(connection: Id, encoding: Encoding, step: Step) -> Self {
        Session {
            connection: Some(connection),
            encoding,
            nickname: None,
            former: None,
            memberships: Vec::new(),
            under_way: 0,
            publishing_to: 0,
            step,
        }
    }

    /// The membership in the room that a peer calls `name`.
    pub fn membership(&self, name: &str) -> Option<&Membership> {
        self.memberships.iter().find(|m| m.room.as_str() == name).or_else(|| {
            let folded = crate::chat::name::fold(name);
            self.memberships.iter().find(|m| m.room.folded() == folded)
        })
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0 && matches!(self.step, Step::Idle)
    }

    /// Whether its connection still waits for the answer to the request that makes it a WebSocket: no event may be
    /// written before that.
    pub fn is_upgrading(&self) -> bool {
        matches!(&self.step, Step::Hello { then, .. } | Step::Join { then, .. } if then.upgrade.is_some())
    }

    /// Whether the session is on its way out.
    pub fn is_ending(&self) -> bool {
        matches!(self.step, Step::Ending { .. })
    }
}
