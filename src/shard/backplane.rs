//! What the cores of a node ask of the backplane, and what they hear from it.
//!
//! The backplane is the Redis or Valkey server (or Redis Cluster) that the nodes of a cluster share. A core never talks to it: it asks
//! the link, whose threads have the mailbox behind those of the cores, and is told what became of it.
//!
//! # A shared room
//!
//! The backplane keeps two sequences of each room: its messages, numbered by their offset, and its changes (who comes, goes, is moderated,
//! and what its state is), numbered by themselves. An entry of either says how many of the other came before it ([`Position`]), so that
//! together they have one order. Each node that has members of a room has a copy of it, which applies the entries in that order. A change
//! is a list of [`RoomOp`]s, and what they mean is decided when they are applied, alike on every node, because each copy is in the same
//! state then. Messages are decided before: a node asks for a place only for one that its copy lets pass; if the copy is behind the
//! last change that may forbid something (a *guard*), it is told so and looks again.
//!
//! # What was lost
//!
//! A server that has failed may come back, or another take its place, without what was written last, or without anything. A room's epoch
//! changes then: no offset is given twice. Who notices: the copy of a room that knows of more than the backplane has ([`RoomAt::known`]);
//! and for rooms of which nobody has a copy, any link whose last writes are missing. All rooms are doubtful then, until a copy has
//! vouched for them (by asking for what it has missed), or they begin anew when they are opened next. After a link has found another
//! server than before, or the same one restarted, nothing gets a place for a while, so that all nodes have looked before. For so long
//! whoever wants a session or a nickname waits, and nodes say again which they have: what the backplane has of them from before the
//! loss counts for nothing against that.
//!
//! # What happens when
//!
//! Requests of one room are carried out in the order in which they are made, and answered in that order. Every request that says so is
//! answered exactly once; while the backplane does not answer, with [`Failed::Down`], after `cluster.deadline_ms` at the latest (and as
//! long as whatever is lost is looked for). Whether something was done is not known then. Nicknames that are released or replaced and sessions that are forgotten meanwhile are so when
//! the backplane is back; whatever else is not answered is not done.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::slots::Id;
use crate::chat::history::Entry;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::user::{NodeId, SessionRef};
use crate::record::HistoryPage;

/// How far somebody has got in a room: the last change and the last message that have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The number of the last change.
    pub change: u64,
    /// The offset of the last message.
    pub offset: u64,
}

/// A room as its copy on this node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomAt {
    /// The room's folded name.
    pub room: Arc<str>,
    /// The history that is meant.
    pub epoch: Arc<str>,
    /// What the copy has applied.
    pub position: Position,
    /// What this node knows to be there, because it has been told so: never less. Where the backplane has less, it has lost something.
    pub known: Position,
}

/// What a core asks of the backplane.
#[derive(Debug)]
pub enum BackplaneRequest {
    /// To hear a room from now on, and to be told what it is now. If it is not there it begins with this epoch, or is not made without
    /// one. Where it is doubtful it is not heard yet. Answered by [`BackplaneNews::Opened`]. Entries that are announced before the answer are heard after it.
    Open {
        /// The room, spelled as it will be if it is made.
        room: RoomName,
        /// Its epoch then.
        make: Option<Arc<str>>,
    },
    /// To hear a room no more. Not answered.
    Close {
        /// Its folded name.
        room: Arc<str>,
    },
    /// To give a message its place. Answered by [`BackplaneNews::Published`].
    Publish(Box<Publish>),
    /// To append a change. Answered by [`BackplaneNews::Appended`].
    Append(Box<Append>),
    /// For all entries after a position, of a room for which the copy vouches by that; and for the last ones up to it, which tell whether
    /// it is still the same room. Answered by [`BackplaneNews::CaughtUp`], or by [`BackplaneNews::Opened`] where they are not there any
    /// more, the room has another epoch or is not there, or it has not got as far.
    CatchUp(RoomAt),
    /// To begin a room anew whose data was lost: the backplane does not have it, has not got as far, or it is doubtful. Whoever asks
    /// first has its way: where it has another epoch already, that one stays. Answered by [`BackplaneNews::Opened`].
    Renew(Box<Renew>),
    /// To keep a room's members, rules and state as they are after a change, and to forget the changes up to it, if no later one is kept.
    /// Not answered.
    Keep(Box<Keep>),
    /// For messages. Answered by [`BackplaneNews::Page`].
    Page {
        /// Comes back.
        wait: Id,
        /// The room's folded name.
        room: Arc<str>,
        /// The history that is meant: of another one there is nothing.
        epoch: Arc<str>,
        /// Which; its number of a room means nothing here.
        page: HistoryPage,
    },
    /// To tell all nodes that have a room something that has no place in it and is not kept. Not answered.
    Utter {
        /// The room's folded name.
        room: Arc<str>,
        /// What.
        utterance: Utterance,
    },
    /// For the rooms that there are, in folded order. Answered by [`BackplaneNews::Rooms`].
    Rooms {
        /// Comes back.
        wait: Id,
        /// After this folded name.
        after: Option<Box<str>>,
        /// At most so many.
        limit: usize,
    },
    /// To have a nickname. Answered by [`BackplaneNews::Claimed`]. It is held until it is released, or the node has not been heard of for
    /// `cluster.lease_ms` and the time of grace. Sessions of the same node are not in its way, but for those that it has given up: which of the others
    /// may have it the node knows itself.
    Claim {
        /// Comes back.
        wait: Id,
        /// The nickname.
        nickname: Nickname,
        /// Who is to have it.
        session: SessionRef,
        /// Whether its user has shown a token: only such may have several sessions.
        has_token: bool,
        /// How many sessions a user may have.
        sessions_max: usize,
    },
    /// To have a nickname in the place of another session. Not answered.
    Replace {
        /// The nickname, in the spelling of its user.
        nickname: Nickname,
        /// Who had it, on this node or another.
        old: SessionRef,
        /// Who has it now.
        session: SessionRef,
        /// Whether its user has shown a token.
        has_token: bool,
    },
    /// To have a nickname no more. Not answered; it ends by itself where this is lost.
    Release {
        /// The nickname.
        nickname: Nickname,
        /// Who had it.
        session: SessionRef,
    },
    /// For the sessions that have a nickname. Answered by [`BackplaneNews::Found`].
    Find {
        /// Comes back.
        wait: Id,
        /// The nickname.
        nickname: Nickname,
    },
    /// To end the sessions that have a nickname and whose nodes are lost: they cannot come back. Answered by [`BackplaneNews::PutOut`].
    PutOut {
        /// Comes back.
        wait: Id,
        /// The nickname.
        nickname: Nickname,
    },
    /// To keep what a session is, so that it outlives the node by the time of grace. Answered by [`BackplaneNews::Kept`] where somebody
    /// waits. A later revision replaces an
    /// earlier one, never the other way round; a node keeps only what no other node has.
    KeepSession {
        /// The number that it keeps for life.
        number: u64,
        /// Where it is.
        session: SessionRef,
        /// Whose it is.
        nickname: Nickname,
        /// How often it has been kept.
        revision: u64,
        /// What it is: a [`crate::record::SessionBody`] as JSON.
        body: String,
        /// Who waits for it to be kept. If it is not given up then it is taken back, unless somebody has taken it since.
        wait: Option<Id>,
        /// Whether another node may have it from now on, although this one lives. Its nickname is not released then, and not held on to.
        is_given_up: bool,
    },
    /// To forget a session of this node. Not answered.
    ForgetSession {
        /// Its number.
        number: u64,
        /// Where it was.
        session: SessionRef,
    },
    /// To let go of a session that was taken and is not gone on with: another node may have it. Not answered.
    FreeSession {
        /// Its number.
        number: u64,
        /// For whom it was taken.
        session: SessionRef,
    },
    /// To find out whether there still is a session that has gone on elsewhere and is not heard of in a room. Answered by
    /// [`BackplaneNews::SessionKnown`], if that can be said.
    LookForSession {
        /// Its number.
        number: u64,
        /// The room. Comes back.
        room: Id,
        /// Where it was. Comes back.
        session: SessionRef,
    },
    /// To go on in the place of a session of another node. Answered by [`BackplaneNews::Taken`].
    TakeSession {
        /// Comes back.
        wait: Id,
        /// Its number.
        number: u64,
        /// Where it goes on.
        session: SessionRef,
        /// A node that may be said to have it, and has not, as it says itself: then it is taken too.
        gone_from: Option<NodeId>,
    },
    /// To tell another node something. Not answered: the other answers, or the asker's time is over.
    Tell {
        /// Which node.
        node: NodeId,
        /// What.
        message: Box<NodeMessage>,
    },
    /// To tell all other nodes something. Not answered.
    TellAll {
        /// What.
        message: Box<NodeMessage>,
    },
}

/// A message that wants its place.
#[derive(Debug)]
pub struct Publish {
    /// The room, and what its copy has seen: with less than the room's last guard the message is not taken.
    pub at: RoomAt,
    /// What is said.
    pub message: SharedMessage,
    /// How many messages the room keeps.
    pub kept: u64,
    /// What tells it from others of the same session or program, if it may come again; see [`Publish::key`].
    pub key: Option<Box<str>>,
}

/// A message of a shared room, without its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMessage {
    /// Who says it.
    pub sender: Nickname,
    /// What.
    pub content: Arc<str>,
    /// The session that says it; `None`: it came by an HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SessionRef>,
    /// The node that asked for its place.
    pub node: NodeId,
    /// What the node knows it by.
    pub tag: u64,
}

/// A change that wants its place.
#[derive(Debug)]
pub struct Append {
    /// The room, and what its copy has seen.
    pub at: RoomAt,
    /// What happens.
    pub ops: Vec<RoomOp>,
    /// What the node knows the change by: more than that of any earlier change of this node in this room. The same again is not appended
    /// twice, but answered with the place that it has.
    pub tag: u64,
    /// Whether it may forbid somebody to speak who may now.
    pub is_guard: bool,
}

/// A room that begins anew.
#[derive(Debug)]
pub struct Renew {
    /// The room, spelled as it is.
    pub room: RoomName,
    /// What its copy had seen before it was lost.
    pub lost: RoomAt,
    /// Its new epoch.
    pub epoch: Arc<str>,
    /// Its members, rules and state (JSON of the room's own); `None`: it is to go on as the backplane has it, under the new epoch.
    pub snapshot: Option<String>,
    /// Its last messages, as far as the copy has them, without a gap up to where the copy is: they keep their offsets.
    pub messages: Vec<LogEntry>,
}

/// What a room is after a change.
#[derive(Debug)]
pub struct Keep {
    /// The room, its epoch, and the change.
    pub at: RoomAt,
    /// How many members it has.
    pub members: u64,
    /// Its members, rules and state (JSON of the room's own); `None`: only their number is to be known.
    pub snapshot: Option<String>,
}

/// Something that happens in a room and is no message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum RoomOp {
    /// A session becomes a member, or has a connection again.
    Join { session: SessionRef, nickname: Nickname, is_admin: bool },
    /// A session stops being a member.
    Leave { session: SessionRef, reason: crate::chat::refusal::LeaveReason },
    /// A session has lost its connection.
    Detach { session: SessionRef },
    /// A session goes on as another one, which has a connection.
    Attach { old: SessionRef, session: SessionRef },
    /// A session's user has another nickname.
    Rename { session: SessionRef, nickname: Nickname },
    /// A key of the state is set (JSON), or deleted.
    SetState { session: SessionRef, key: Box<str>, value: Option<Arc<str>> },
    /// Somebody gets a role.
    SetRole { session: SessionRef, target: Nickname, role: crate::chat::room::Role },
    /// Somebody is kicked, banned or muted, or that is undone.
    Moderate {
        session: SessionRef,
        action: crate::chat::room::Action,
        target: Nickname,
        reason: Option<Box<str>>,
        seconds: Option<u64>,
    },
    /// A node is not heard of any more: its sessions have no connection.
    LoseNode { node: NodeId },
    /// It has not come back, and the time of grace of its sessions is over.
    ForgetNode { node: NodeId },
}

/// Something that is said to those who are there, and nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Utterance {
    /// A member is writing.
    Typing {
        /// Whose session.
        session: SessionRef,
        /// Who.
        nickname: Nickname,
    },
}

/// An entry of a room, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEntry {
    /// A message.
    Message {
        /// Its place: the offset is its own, and so many changes came before it.
        position: Position,
        /// Milliseconds since the Unix epoch, by the clock of the backplane, never less than the entry before.
        timestamp_ms: u64,
        /// What is said.
        message: SharedMessage,
    },
    /// A change.
    Change {
        /// Its place: the number is its own, and so many messages came before it.
        position: Position,
        /// As of a message.
        timestamp_ms: u64,
        /// The node that asked for its place.
        node: NodeId,
        /// What the node knows it by.
        tag: u64,
        /// What happens.
        ops: Vec<RoomOp>,
    },
}

impl LogEntry {
    /// Its place.
    pub fn position(&self) -> Position {
        match self {
            LogEntry::Message { position, .. } | LogEntry::Change { position, .. } => *position,
        }
    }
}

/// A room as the backplane has it.
#[derive(Debug, Clone)]
pub struct OpenedRoom {
    /// The room, as it was first spelled.
    pub room: RoomName,
    /// Its epoch, and how far it has got.
    pub epoch: Arc<str>,
    /// The last change and message that it has.
    pub position: Position,
    /// The time of the last entry.
    pub timestamp_ms: u64,
    /// The offset of the first message that is kept; one more than the last if none is.
    pub first_kept: u64,
    /// Its members, rules and state (JSON of the room's own) as they were after a change, with the number of that; `None`: as a new room.
    pub snapshot: Option<(u64, String)>,
    /// All entries after that change, but for the messages before it.
    pub entries: Vec<LogEntry>,
    /// Whether some of it may be lost, and nobody has vouched for it.
    pub is_doubtful: bool,
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The backplane does not answer, or refuses everything; perhaps it was done.
    Down,
    /// The room has another epoch, is not there, or has not got as far as its copy: data was lost.
    Lost,
    /// The copy has not seen the room's last guard.
    Behind,
}

/// The place that a message has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The history that the offset counts in: that of the first time, if it came again.
    pub epoch: Arc<str>,
    /// The offset.
    pub offset: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Whether it had been given before.
    pub is_repeated: bool,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ClaimOutcome {
    Granted,
    Taken,
    Full,
    /// An admin has ended the session while its node was lost.
    PutOut,
}

/// What is known of a session that has gone on elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownSession {
    /// It has ended.
    Ended,
    /// Whoever has it has not said yet what it is there, or nobody has it.
    OnItsWay,
    /// What it was when whoever has it kept it last.
    Kept {
        /// As it was kept.
        body: String,
    },
}

/// What became of the wish to go on in the place of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakeOutcome {
    /// It is the asker's now.
    Taken {
        /// What its rooms and its nickname know it by: where it was when it was kept last.
        old: SessionRef,
        /// Where it has been, the last place first. Whoever had it may not have come to keep it, and then where it was kept is among them;
        /// otherwise these are from before that.
        places: Vec<SessionRef>,
        /// How often it had been kept.
        revision: u64,
        /// What it was.
        body: String,
    },
    /// A node that lives has it: that one is to give it up first.
    Held {
        /// Which.
        node: NodeId,
    },
    /// There is none of this number.
    Gone,
}

/// What the backplane tells a core.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum BackplaneNews {
    /// It does not answer, or refuses everything, for this reason; or it answers again (`None`). Told to all cores.
    Down(Option<Box<str>>),
    /// The nodes that live now, this one among them, and those that have not been heard of lately. Told to all cores when it changes.
    Nodes { living: Arc<[NodeId]>, lost: Arc<[LostNode]> },
    /// Nobody says which nodes live, although what is asked otherwise may be answered: the server that knows is the one of a Redis Cluster
    /// that is away. Told to all cores, and again and again until it is back.
    NodesUnheard,
    /// This node has not been heard of for so long that others may have taken it for lost. It is heard of again. Told to all cores.
    Returned,
    /// A room that was asked for; `None`: it is not there. Where entries were asked for (`is_catch_up`) that says nothing
    /// of whether it is heard.
    Opened { room: Arc<str>, outcome: Result<Option<Box<OpenedRoom>>, Failed>, is_catch_up: bool },
    /// What became of a message.
    Published { room: Arc<str>, tag: u64, outcome: Result<Placed, Failed> },
    /// What became of a change of a room with this epoch.
    Appended { room: Arc<str>, epoch: Arc<str>, tag: u64, outcome: Result<Position, Failed> },
    /// Entries of a room that were announced, in order.
    Entries { room: Arc<str>, epoch: Arc<str>, entries: Vec<LogEntry> },
    /// Entries of a room that were asked for, as many of them as one answer may have, in order.
    CaughtUp { room: Arc<str>, epoch: Arc<str>, outcome: Result<Vec<LogEntry>, Failed> },
    /// Where a room that this node hears is; `None`: it is not there. Told now and then, and when what was announced may have been missed.
    At { room: Arc<str>, at: Option<(Arc<str>, Position)>, is_doubtful: bool },
    /// It could not be found out where a room that this node hears is: its server does not answer, although others of a Redis Cluster may.
    Unseen { room: Arc<str> },
    /// Somebody has said something that has no place.
    Uttered { room: Arc<str>, utterance: Utterance },
    /// The messages that were asked for; `None`: they could not be read.
    Page { wait: Id, entries: Option<Vec<Entry>> },
    /// The rooms that were asked for: the name, how many members it has had at last word, its last offset.
    Rooms { wait: Id, rooms: Option<Vec<(RoomName, u64, u64)>> },
    /// What became of a claim.
    Claimed { wait: Id, nickname: Nickname, session: SessionRef, outcome: Result<ClaimOutcome, Failed> },
    /// The sessions that have a nickname, and how their user spells it.
    Found { wait: Id, outcome: Result<Option<(Nickname, Vec<SessionRef>)>, Failed> },
    /// Whether a session has been kept, or something later of it has been, or another node has it.
    Kept { wait: Id, outcome: Result<bool, Failed> },
    /// A session of this core was to be kept, and is not: the data was lost.
    Unkept { session: SessionRef },
    /// A session of this core has gone on on another node, while this one was taken for lost.
    SessionMoved { number: u64, session: SessionRef },
    /// What is known of a session that has gone on elsewhere.
    SessionKnown { room: Id, session: SessionRef, known: KnownSession },
    /// A session of this core has lost its nickname, while the node was taken for lost: to somebody else, or because an admin has ended it.
    NicknameLost { session: SessionRef, nickname: Nickname, is_put_out: bool },
    /// How many sessions of lost nodes have been ended.
    PutOut { wait: Id, outcome: Result<u64, Failed> },
    /// What became of the wish to take a session.
    Taken { wait: Id, number: u64, session: SessionRef, outcome: Result<TakeOutcome, Failed> },
    /// What was to be told to a node has not been, and will not be.
    NotTold { node: NodeId, wait: Id },
    /// Another node says something to this core.
    Told { from: NodeId, message: Box<NodeMessage> },
}

/// A node that has not been heard of for longer than its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostNode {
    /// Which.
    pub node: NodeId,
    /// For how long its lease has been over, in milliseconds, when this was told.
    pub lost_ms: u64,
}

/// What one node says to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NodeMessage {
    /// A private message for sessions of the node that hears this. Answered by `PrivateDone`.
    Private {
        /// What the asker knows it by.
        ask: Ask,
        /// Who sends it.
        sender: Nickname,
        /// To whom.
        target: Nickname,
        /// What.
        content: Arc<str>,
        /// What tells the command from all others, wherever it comes again, if it may.
        key: Option<Box<str>>,
        /// When, in milliseconds since the Unix epoch.
        timestamp_ms: u64,
    },
    /// What became of it.
    PrivateDone {
        /// What was asked.
        ask: Ask,
        /// How many sessions got it.
        delivered: u64,
        /// Whether it is kept for one that is away.
        is_stored: bool,
        /// Whether there was one that could not keep one more.
        is_full: bool,
    },
    /// What an admin says to many. Answered by `BroadcastDone`, by each core of the node.
    Broadcast {
        /// What the asker knows it by.
        ask: Ask,
        /// Who says it.
        sender: Nickname,
        /// What.
        content: Arc<str>,
        /// Only to sessions in rooms of these patterns, or with one of the tags; to all if both are empty.
        rooms: Vec<String>,
        /// The tags.
        tags: Vec<Box<str>>,
        /// When, in milliseconds since the Unix epoch.
        timestamp_ms: u64,
    },
    /// An admin ends the sessions and event streams of a user. Answered by `BroadcastDone`, by each core of the node.
    PutOut {
        /// What the asker knows it by.
        ask: Ask,
        /// Whose.
        nickname: Nickname,
        /// Nodes that the asker knows to be lost, and others may not yet: whoever was there leaves at once.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lost: Vec<NodeId>,
    },
    /// What became of one of these on one core.
    BroadcastDone {
        /// What was asked.
        ask: Ask,
        /// How many sessions it was for, or how many sessions and event streams it has ended.
        sessions: u64,
        /// How many cores the node has: so many answers come.
        cores: u16,
    },
    /// A private message that the node that says this has kept for a session which has gone on on another one, while this one was taken for
    /// lost: the node that has the session now tells it. Answered by `PrivateDone`, for which nobody waits.
    Left {
        /// What nobody waits for.
        ask: Ask,
        /// The session's number.
        number: u64,
        /// Who has sent it.
        sender: Nickname,
        /// To whom.
        target: Nickname,
        /// What.
        content: Arc<str>,
        /// What tells the command from all others, if it has an id.
        #[serde(default)]
        key: Option<Box<str>>,
        /// When, in milliseconds since the Unix epoch.
        timestamp_ms: u64,
    },
    /// A session is wanted by the node that says this. Answered by `GivenUp`.
    GiveUp {
        /// Its number.
        number: u64,
        /// What the asker knows it by.
        ask: Ask,
    },
    /// It can be taken now, or is gone.
    GivenUp {
        /// What was asked.
        ask: Ask,
        /// Whether there is no such session here.
        is_gone: bool,
    },
}

impl NodeMessage {
    /// Whether it may be heard twice.
    pub fn may_come_twice(&self) -> bool {
        match self {
            NodeMessage::Private { .. }
            | NodeMessage::Left { .. }
            | NodeMessage::Broadcast { .. }
            | NodeMessage::PutOut { .. }
            | NodeMessage::BroadcastDone { .. } => false,
            NodeMessage::PrivateDone { .. } | NodeMessage::GiveUp { .. } | NodeMessage::GivenUp { .. } => {
                true
            }
        }
    }

    /// What waits for the answer, on the node that says it, if one is waited for.
    pub fn wait_here(&self) -> Option<Id> {
        match self {
            NodeMessage::Private { ask, .. }
            | NodeMessage::GiveUp { ask, .. }
            | NodeMessage::Broadcast { ask, .. }
            | NodeMessage::PutOut { ask, .. } => Some(ask.wait),
            NodeMessage::PrivateDone { .. }
            | NodeMessage::Left { .. }
            | NodeMessage::BroadcastDone { .. }
            | NodeMessage::GivenUp { .. } => None,
        }
    }
}

/// Names what one core of a node has asked of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// The core that asked, which is told the answer.
    pub core: u16,
    /// Its key there.
    pub wait: Id,
}

impl Position {
    /// Whether everything up to another position is there too.
    pub fn reaches(self, other: Position) -> bool {
        self.change >= other.change && self.offset >= other.offset
    }

    /// The position of whoever has got further in either.
    pub fn max(self, other: Position) -> Position {
        Position { change: self.change.max(other.change), offset: self.offset.max(other.offset) }
    }
}

impl Publish {
    /// What tells a command of a session from all others, wherever it comes again.
    pub fn key(session: u64, id: &str) -> Box<str> {
        format!("{session:x} {id}").into()
    }

    /// The same for a request of HTTP: the sender's own keys, in each room.
    pub fn push_key(sender: &Nickname, id: &str) -> Box<str> {
        format!("={} {id}", sender.folded()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_say_is_json_that_people_can_read() {
        let nickname = Nickname::parse("Élan").unwrap();
        let session = SessionRef { node: 7, core: 1, session: Id { index: 12, generation: 0 } };
        let op = RoomOp::Join { session, nickname: nickname.clone(), is_admin: false };
        let written = serde_json::to_string(&op).unwrap();
        assert_eq!(written, r#"{"op":"join","session":"7.1.12.0","nickname":"Élan","is_admin":false}"#);
        let RoomOp::Join { nickname: read, .. } = serde_json::from_str(&written).unwrap() else { panic!() };
        assert_eq!(read.as_str(), "Élan", "in its spelling");
        let message =
            SharedMessage { sender: nickname, content: "hé\n".into(), from: None, node: 7, tag: 3 };
        let written = serde_json::to_string(&message).unwrap();
        assert_eq!(written, r#"{"sender":"Élan","content":"hé\n","node":7,"tag":3}"#);
        assert_eq!(serde_json::from_str::<SharedMessage>(&written).unwrap(), message);
    }

    /// Nodes are replaced one after the other, so that for a while some are of a newer version than others.
    #[test]
    fn what_a_newer_version_adds_is_passed_over() {
        let nickname = Nickname::parse("ann").unwrap();
        let session = SessionRef { node: 7, core: 1, session: Id { index: 12, generation: 0 } };
        let op = RoomOp::Join { session, nickname: nickname.clone(), is_admin: true };
        let newer =
            |written: String| format!(r#"{},"mood":{{"of":"tomorrow"}}}}"#, &written[..written.len() - 1]);
        let written = serde_json::to_string(&op).unwrap();
        let read: RoomOp = serde_json::from_str(&newer(written)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{op:?}"));
        let message =
            SharedMessage { sender: nickname.clone(), content: "hello".into(), from: None, node: 7, tag: 3 };
        let written = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<SharedMessage>(&newer(written)).unwrap(), message);
        let ask = Ask { core: 1, wait: session.session };
        let message = NodeMessage::PutOut { ask, nickname, lost: vec![9] };
        let written = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<NodeMessage>(&newer(written)).unwrap(), message);
        // A kind that it does not know it cannot carry out.
        assert!(serde_json::from_str::<RoomOp>(r#"{"op":"dance","session":"7.1.12.0"}"#).is_err());
    }

    #[test]
    fn keys_of_sessions_and_of_programs_are_never_the_same() {
        let sender = Nickname::parse("ab").unwrap();
        assert_eq!(&*Publish::key(0xab, "1"), "ab 1");
        assert_eq!(&*Publish::push_key(&sender, "1"), "=ab 1");
    }
}
