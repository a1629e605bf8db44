//! What is done for a request: commands, and what is told of their answers.

use std::sync::Arc;
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use super::wire::Command;
use crate::base::slots::Id;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::user::{NodeId, SessionRef};
use crate::shard::backplane::{Position, TakeOutcome};

/// Commands that go into the same pipeline, one after the other, and what their answers are for.
#[derive(Debug)]
pub(super) struct Job {
    /// The core that is answered.
    pub(super) from: u16,
    pub(super) commands: SmallVec<[Command; 1]>,
    pub(super) then: Then,
    /// The answers are worth nothing after this.
    pub(super) until: Instant,
}

impl Job {
    pub(super) fn one(from: u16, command: Command, then: Then, until: Instant) -> Self {
        Job { from, commands: smallvec![command], then, until }
    }
}

/// What the answers are for.
#[derive(Debug)]
pub(super) enum Then {
    /// Nobody waits for them; what fails is logged as this.
    Nothing(&'static str),
    Open {
        room: Arc<str>,
    },
    Close {
        room: Arc<str>,
    },
    Publish {
        room: Arc<str>,
        epoch: Arc<str>,
        tag: u64,
    },
    Append {
        room: Arc<str>,
        epoch: Arc<str>,
        tag: u64,
    },
    CatchUp {
        room: Arc<str>,
        epoch: Arc<str>,
        seen: Position,
    },
    Page {
        wait: Id,
        is_ascending: bool,
        bytes_max: usize,
    },
    /// Names of rooms, of which some may be gone.
    RoomNames(Box<Listing>),
    /// What is known of them.
    RoomHeads(Box<Listing>, Vec<String>),
    /// Whether those that were gone still are, after they have been taken off the list.
    RoomsGone(Vec<String>),
    Claim {
        wait: Id,
        held: Claimed,
    },
    /// A session goes on having its nickname.
    HoldNickname(Claimed),
    Release {
        nickname: Nickname,
        session: SessionRef,
    },
    Find {
        wait: Id,
    },
    /// Something was said to other nodes, a command for each, for which that wait waits.
    Tell {
        nodes: SmallVec<[NodeId; 1]>,
        wait: Option<Id>,
        /// What is said to them past their inboxes where these cannot be reached, if it may be.
        past: Option<Box<str>>,
    },
    /// A session is given up, or taken back.
    Keep {
        wait: Id,
        number: u64,
        session: SessionRef,
        nickname: Nickname,
    },
    /// A session goes on.
    KeepOn {
        number: u64,
        session: SessionRef,
    },
    /// Whether this node's last write is there, and which line is going on.
    Marks,
    /// That line is to be another one, for all nodes.
    NewLine,
    /// Which line is going on.
    Line,
    /// Whether there is a session that has gone on elsewhere, and has not been heard of in a room.
    LookForSession {
        room: Id,
        session: SessionRef,
    },
    /// Where a session is that is to be taken.
    Seek(Taking),
    /// Whether the node that has it lives.
    Judge(Taking, SessionRef),
    Take(Taking, SessionRef),
    /// Whether a session that was taken has been put out.
    LookIfPutOut(Taking, Box<TakeOutcome>),
    PutOut {
        wait: Id,
    },
    /// A session goes on being kept.
    HoldSession {
        number: u64,
        session: SessionRef,
    },
    Look {
        room: Arc<str>,
    },
    Beat,
    /// What all nodes sign with.
    Secrets,
    Inbox,
}

/// A list of rooms that is being made.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) wait: Id,
    pub(super) limit: usize,
    pub(super) found: Vec<(RoomName, u64, u64)>,
    /// Whether there are no more names.
    pub(super) is_end: bool,
}

/// A nickname that a session has or wants.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    pub(super) nickname: Nickname,
    pub(super) session: SessionRef,
    pub(super) has_token: bool,
    pub(super) sessions_max: usize,
    /// Where it was before it was here, the last place first, as far as this node knows: who is said to have the nickname there is this
    /// session too, as it was before a loss that nobody has noticed.
    pub(super) before: SmallVec<[SessionRef; 1]>,
}

/// Where a session that was taken has been.
#[derive(Debug)]
pub(super) struct TakenFrom {
    /// The node that had it.
    pub(super) node: NodeId,
    /// Where it has been, as the backplane says it ([`TakeOutcome::Taken`]).
    pub(super) places: SmallVec<[SessionRef; 1]>,
    /// Until when that is known.
    pub(super) until: Instant,
}

/// A session that is to go on somewhere else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taking {
    pub(super) wait: Id,
    pub(super) number: u64,
    pub(super) session: SessionRef,
    /// The node that does not have it, whatever is said.
    pub(super) gone_from: Option<NodeId>,
    /// Whether it has moved once already while it was to be taken.
    pub(super) is_second: bool,
}
