//! What cores say to each other.
//!
//! A [`Mail::Request`] asks the home of a room or nickname for something and is answered by exactly one [`Mail::Reply`]; so is a
//! [`Mail::ApiRequest`], which an HTTP request makes and no session, by one [`Mail::ApiReply`].
//! A request makes mail for everybody in a room, or for all sessions of a user. A reply makes at most the next requests of its own session, of which there
//! are never more than a few a room; a batch makes none. That is what keeps the mailboxes from deadlock and the
//! outboxes bounded: while some mailbox is full, requests wait, and everything else is still taken in.

use std::sync::Arc;

use super::Shard;
use super::backplane::{BackplaneNews, BackplaneRequest};
use super::encode::Encoding;
use super::fanout::RoomBatch;
use super::ledger::Sample;
use super::nodes::private::PrivateDone;
use super::observer::Document;
use super::queries::Round;
use super::queue::Frames;
use super::reading::{StoreNews, StoreRequest};
use super::reconfigure::Reconfigured;
use super::session::{Estate, Identity};
use crate::base::slots::Id;
use crate::chat::history::Entry;
use crate::chat::inbox::Kept;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{LeaveReason, Refusal};
use crate::chat::room::{Action, Role, Stamp};
use crate::chat::user::{NodeId, SessionRef};
use crate::config::AckLevel;

/// How the answer to a command finds its asker: the `id` that the client gave the command, if it did, and the encoding that
/// the command came in, where a connection speaks several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplyTo {
    /// The command's `id`.
    pub id: Option<Box<str>>,
    /// The encoding of the answer; `None`: the connection's own.
    pub encoding: Option<Encoding>,
}

impl ReplyTo {
    /// The command's `id`.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

/// All that one core has for another at the end of a turn.
#[derive(Debug)]
pub struct Parcel<M = Mail> {
    /// The sending core.
    pub from: u16,
    /// In the order in which it was said.
    pub mail: Vec<M>,
}

/// One thing said by one core to another, or to itself.
#[derive(Debug)]
pub enum Mail {
    /// Asks something of the home of a room or nickname, or of a core about its sessions.
    Request {
        /// Who asks.
        from: SessionRef,
        /// Whose command it is, which comes back with the reply.
        reply_to: ReplyTo,
        /// What.
        request: Request,
    },
    /// Answers a request.
    Reply {
        /// The session that asked, on the core that gets this.
        to: Id,
        /// The core that was asked: commands under way are counted by it.
        home: u16,
        /// Whose command it was.
        reply_to: ReplyTo,
        /// What became of it.
        reply: Reply,
    },
    /// Asks something of a room's home for an HTTP request.
    ApiRequest {
        /// The connection that the request came on.
        from: ConnectionRef,
        /// What.
        request: ApiRequest,
    },
    /// Answers it.
    ApiReply {
        /// The connection, which may be gone.
        to: Id,
        /// The core that was asked.
        home: u16,
        /// What became of it.
        reply: Reply,
    },
    /// Asks the storage threads for something; they have a mailbox behind those of the cores.
    StoreRequest {
        /// The core that is answered.
        from: u16,
        /// What.
        request: StoreRequest,
    },
    /// Asks a core what it tells of itself, for dashboards: answered by [`super::observer::Observer::report`].
    Look,
    /// What dashboards are sent, as JSON.
    Snapshot(Arc<[u8]>),
    /// What the storage threads say.
    Store(StoreNews),
    /// Asks the link to the backplane for something; it has the mailbox of the storage threads, which a node of a cluster does not have.
    BackplaneRequest {
        /// The core that is answered.
        from: u16,
        /// What.
        request: BackplaneRequest,
    },
    /// What it says.
    Backplane(BackplaneNews),
    /// The configuration has been read again.
    Reconfigured(Arc<Reconfigured>),
    /// Members of a room on the core that gets this have missed something that cannot be told any more.
    Interrupted {
        /// The room.
        room: RoomKey,
        /// The history that it goes on with.
        epoch: Arc<str>,
    },
    /// A session has been given up to another node.
    HandedOn {
        /// Its nickname, whose home gets this.
        nickname: Nickname,
        /// Where it was.
        session: SessionRef,
    },
    /// What became of a private message of another node, for the core that it came to.
    PrivateDone {
        /// Who waits for it there.
        from: SessionRef,
        /// What the command is known by.
        reply_to: ReplyTo,
        /// What.
        reply: Box<Reply>,
    },
    /// Which sessions of this node have been asked to take a private message, for the home of its target.
    PrivateKnown {
        /// What tells its command from all others.
        key: Box<str>,
        /// Which, and what became of it.
        done: Box<PrivateDone>,
    },
    /// A session that was to be given up stays, for the core that knows where the session of its number is.
    Stays {
        /// Its number.
        number: u64,
        /// Where it is.
        session: SessionRef,
    },
    /// A session has been given up, or is gone, for the core that knows where the session of its number is.
    HandedOnNumber {
        /// Its number.
        number: u64,
        /// Who wanted it.
        session: SessionRef,
    },
    /// The same, for a room that it is in, until it goes on there.
    HandedOnIn {
        /// The room's key, at its home, which gets this.
        room: Id,
        /// Where it was.
        session: SessionRef,
        /// Its number.
        number: u64,
        /// Whether another node has it already.
        is_taken: bool,
    },
    /// What happened in a room in one turn, for its members on the core that gets this.
    Room(Arc<RoomBatch>),
    /// An event stream of a room has ended, for the room's home.
    EventStreamEnded {
        /// The room's key, at its home, which gets this.
        room: Id,
        /// The connection that it was.
        from: ConnectionRef,
    },
    /// A host has put somebody out of a room who listens to it on the core that gets this.
    EventStreamExpelled {
        /// The connection, which may be gone.
        to: Id,
        /// The room.
        room: RoomKey,
        /// Whether for good.
        is_banned: bool,
    },
    /// A session on the core that gets this is no longer in a room, by a host's decision.
    Expelled {
        /// The session.
        to: Id,
        /// Which room.
        room: RoomKey,
        /// Its name.
        name: RoomName,
        /// Why.
        reason: LeaveReason,
    },
    /// A node has let somebody on another core wait in vain, or has said something since. Told to all cores.
    Silent {
        /// Which node.
        node: NodeId,
        /// Whether it says nothing.
        is_silent: bool,
    },
    /// A private message has been put into the inbox of a registered user.
    PutIntoInbox {
        /// A session of the user, on the core that gets this.
        to: Id,
        /// The number of the session that it is for; 0: all.
        number: u64,
        /// What.
        kept: Box<Kept>,
    },
}

impl Shard {
    /// Gives mail to a core, which may be this one. Replies to commands without an id that follow each other are one: a
    /// publisher that wants no acknowledgement costs the way back a number.
    pub(super) fn post(&mut self, core: u16, mail: Mail) {
        if core == self.core {
            self.local.push_back(mail);
            return;
        }
        let outbox = &mut self.outboxes[usize::from(core)];
        // Only where nobody asked to be told: each command with an id has an answer of its own.
        if let (
            Mail::Reply { to, reply_to: ReplyTo { id: None, .. }, reply: Reply::Done { times }, .. },
            Some(Mail::Reply {
                to: last_to,
                reply_to: ReplyTo { id: None, .. },
                reply: Reply::Done { times: last_times },
                ..
            }),
        ) = (&mail, outbox.last_mut())
            && to == last_to
        {
            *last_times += times;
            return;
        }
        outbox.push(mail);
    }
}

/// Names a room anywhere in this process: its home core, and its key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomKey {
    /// The home core.
    pub home: u16,
    /// The key in that core's table of rooms.
    pub key: Id,
}

/// Names a connection anywhere in this process: the core it is on, and its key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionRef {
    /// The core.
    pub core: u16,
    /// The key in that core's table of connections.
    pub connection: Id,
}

/// As the log has it: no other connection of this process has or had the same, unless 2^32 others had the same place meanwhile.
impl std::fmt::Display for ConnectionRef {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}.{}", self.core, self.connection.index, self.connection.generation)
    }
}

/// What an HTTP request may ask of a home. Nobody is a member by it.
#[derive(Debug)]
pub enum ApiRequest {
    /// Publish a message.
    Publish(Box<Push>),
    /// List members, those after a folded nickname.
    Members {
        /// The room.
        room: RoomName,
        /// The nickname.
        after: Option<Box<str>>,
        /// How many at most.
        limit: usize,
    },
    /// Tell messages between two offsets: the first after `after`, or the last before `before`.
    History {
        /// The room.
        room: RoomName,
        /// The offset that follows them.
        before: Option<u64>,
        /// The offset before them.
        after: Option<u64>,
        /// How many at most.
        limit: usize,
    },
    /// Hear a room from now on, until [`Mail::EventStreamEnded`].
    Listen(Box<Listen>),
    /// Send more of what an event stream missed, that which follows offset `after`.
    Missed {
        /// The room.
        room: RoomKey,
        /// The offset.
        after: u64,
        /// How many bytes at most.
        bytes_max: usize,
    },
    /// What every core has a part in.
    Round(Box<Round>),
}

/// A wish to hear a room without being in it.
#[derive(Debug)]
pub struct Listen {
    /// The room, which is made if it is missing.
    pub room: RoomName,
    /// The position after which missed messages are wanted, if one was named.
    pub since: Option<Since>,
    /// How many bytes of missed messages the connection can take now.
    pub replay_bytes: usize,
    /// Who listens, if that was shown. It comes back with the answer, as does what follows.
    pub identity: Option<Arc<Identity>>,
    /// The page that asks, if it is one.
    pub origin: Option<Box<str>>,
}

/// What a new event stream is told.
#[derive(Debug)]
pub struct Listening {
    /// The room.
    pub room: RoomKey,
    /// The history that offsets count in.
    pub epoch: Arc<str>,
    /// The last offset given: everything after it will be heard.
    pub offset: u64,
    /// Whether nothing was missed since the position that was named, if one was.
    pub recovered: Option<bool>,
    /// What was missed, or its beginning.
    pub replay: Option<Page>,
    /// Who listens, if that was shown.
    pub identity: Option<Arc<Identity>>,
    /// The page that asks, if it is one.
    pub origin: Option<Box<str>>,
}

/// A message that comes by an HTTP request.
#[derive(Debug)]
pub struct Push {
    /// The room, which is made if it is missing.
    pub room: RoomName,
    /// Who sends it.
    pub sender: Nickname,
    /// Whether the sender may do everything.
    pub is_admin: bool,
    /// What it says.
    pub content: Arc<str>,
    /// When it is answered.
    pub level: AckLevel,
    /// What tells it from the sender's others in this room, if it may come again.
    pub idempotency_key: Option<Box<str>>,
    /// Its way, if that is followed.
    pub sample: Option<Arc<Sample>>,
}

/// What may be asked of another core. Rooms are named by their keys where the asker is a member.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Request {
    /// Reserve a nickname for the session. Only a user with a token may have several sessions.
    Claim { nickname: Nickname, has_token: bool },
    /// Free a nickname, which the session of this number had, if it is ending; else 0.
    Release { nickname: Nickname, number: u64 },
    /// The session of this number continues `old`, and has its nickname from now on.
    Reclaim { nickname: Nickname, old: SessionRef, number: u64, has_token: bool },
    /// Be a member again of a room of which another node's session was one, which the room knows by one of these places.
    Return { room: RoomName, places: Arc<[SessionRef]>, echo: bool },
    /// Find who holds the target's nickname, and pass the message on.
    Private(Box<Private>),
    /// A private message on its way through the sessions of its target. `home` is the core that was asked first.
    Handover(Box<Handover>),
    /// A session of the target was not where it was looked for: the others that there are now are to be asked too.
    Readdress(Box<Handover>),
    /// A private message that another node has left for a session which is here.
    Left(Box<Handover>),
    /// A private message for a registered user, which some of the user's sessions, or all, could not be told.
    KeepForUser(Box<Handover>),
    /// Become a member, or hear a room again after a resume.
    Join(Box<Join>),
    /// Stop being a member. Whoever still listens hears all that came before.
    Leave { room: Id, reason: LeaveReason, is_listening: bool },
    /// The member's connection is gone; it may come back.
    Detach { room: Id },
    /// The session continues `old` as the same member.
    Attach { room: Id, name: Box<RoomName>, nickname: Nickname, old: SessionRef },
    /// Send more of what a member missed, that which follows offset `after`.
    Replay { room: Id, after: u64, encoding: Encoding, bytes_max: usize },
    /// Publish a message, which its sender hears too if `echo`. The session has this number if it outlives the process; else 0.
    Publish {
        room: Id,
        content: Arc<str>,
        echo: bool,
        level: AckLevel,
        number: u64,
        sample: Option<Arc<Sample>>,
    },
    /// Say when a message that has its place has reached a level.
    Confirm { room: RoomName, epoch: Arc<str>, stamp: Stamp, level: AckLevel },
    /// Tell the others that the member is writing.
    Typing { room: Id },
    /// Tell the others that the member's nickname has changed.
    Rename { room: Id, nickname: Nickname },
    /// Set or delete a key of the room's state.
    SetState { room: Id, key: Box<str>, value: Option<Arc<str>> },
    /// Read a key of the room's state.
    GetState { room: Id, key: &'static str },
    /// Give somebody a role.
    SetRole { room: Id, target: Nickname, role: Role },
    /// Kick, ban or mute somebody, or undo it.
    Moderate { room: Id, action: Action, target: Nickname, reason: Option<Box<str>>, seconds: Option<u64> },
    /// List members.
    Members { room: RoomName, after: Option<Box<str>>, limit: usize },
    /// List messages.
    History { room: RoomName, before: Option<u64>, after: Option<u64>, limit: usize },
    /// Tell somebody who is not in a room why not: because it does not exist, or merely so.
    ExplainNotAMember { room: RoomName },
    /// List the rooms whose home is asked, of those that the asker may know of.
    Rooms { after: Option<Box<str>>, limit: usize, allowed: Option<Patterns> },
    /// Say something to all sessions of a core, or to those in matching rooms or with one of the tags.
    Broadcast(Arc<Broadcast>),
    /// Find the session of this number, which began on the core that is asked, and make it over to the asker.
    Resume { number: u64 },
    /// Make the session `to` over to the asker. `home` is the core that was asked first.
    Surrender { to: Id, number: u64, home: u16 },
    /// The session of this number has ended where it was on this node: ask whether another node has it.
    TakeElsewhere { number: u64 },
    /// The session of this number is no more.
    Forget { number: u64 },
    /// The session of this number has received private messages of its user's inbox, up to this place. Answered as a command, or not.
    ReceivedByUser { nickname: Nickname, through: u64, number: u64, is_command: bool },
    /// A session has private messages that its user may not have heard, and that belong into the user's inbox.
    InheritInbox { nickname: Nickname, items: Vec<Kept> },
}

/// A private message that looks for whom it is for.
#[derive(Debug)]
pub struct Private {
    /// Whom it is for.
    pub target: Nickname,
    /// Who sent it.
    pub sender: Nickname,
    /// What it says.
    pub content: Arc<str>,
    /// What tells the command from all others, wherever it comes again, if it may.
    pub key: Option<Box<str>>,
    /// How often the target was looked for in vain.
    pub tries: u8,
    /// How often the backplane was asked where its sessions are.
    pub finds: u8,
}

/// A private message on its way.
#[derive(Debug)]
pub struct Handover {
    /// The core that was asked first.
    pub home: u16,
    /// The session that is next, then the others.
    pub to: Vec<SessionRef>,
    /// Whom it is for.
    pub target: Nickname,
    /// Who sent it.
    pub sender: Nickname,
    /// What it says.
    pub content: Arc<str>,
    /// How many sessions have got it.
    pub delivered: u64,
    /// Whether it has been kept for one that is away.
    pub is_stored: bool,
    /// Whether there was a session that could not keep one more.
    pub is_full: bool,
    /// Whether it is for a registered user: what cannot be told at once is not kept by the session then, but in the user's inbox.
    pub is_registered: bool,
    /// The numbers of the sessions that could not be told.
    pub untold: Vec<u64>,
    /// The numbers of all that have been asked: whoever has moved meanwhile is not asked again.
    pub asked: Vec<u64>,
    /// Whether a session was not where it was looked for: it has moved, or ended.
    pub has_missed: bool,
    /// When it came, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// What tells the command from all others, wherever it comes again, if it may.
    pub key: Option<Box<str>>,
    /// How often the target was looked for in vain.
    pub tries: u8,
    /// How often the backplane was asked where its sessions are.
    pub finds: u8,
    /// The number of the one session that another node has left it for; 0: it is for all.
    pub left_for: u64,
}

/// A wish to be in a room.
#[derive(Debug)]
pub struct Join {
    /// The room.
    pub room: RoomName,
    /// The user.
    pub nickname: Nickname,
    /// Whether it may do everything.
    pub is_admin: bool,
    /// How the member wants events.
    pub encoding: Encoding,
    /// The position after which missed messages are wanted.
    pub since: Option<Since>,
    /// How many of the last messages are wanted, if any.
    pub history: Option<usize>,
    /// How many bytes of missed messages the connection can take now.
    pub replay_bytes: usize,
}

/// A position that a joining client says it has reached.
#[derive(Debug)]
pub struct Since {
    /// The history that the offset counts in.
    pub epoch: Box<str>,
    /// The last message known.
    pub offset: u64,
}

/// Something that an admin says to many.
#[derive(Debug)]
pub struct Broadcast {
    /// Who says it.
    pub sender: Nickname,
    /// What it says.
    pub content: Arc<str>,
    /// Only to sessions in these rooms, or with one of the tags; to all if both are empty.
    pub rooms: Option<Patterns>,
    /// The tags.
    pub tags: Vec<Box<str>>,
    /// When, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
}

/// A message that has its place, and whose store has not answered in time. Rare, and so not in the way of every reply.
#[derive(Debug)]
pub struct Overdue {
    /// The room.
    pub room: RoomName,
    /// Its epoch.
    pub epoch: Arc<str>,
    /// The message's place.
    pub stamp: Stamp,
    /// What its sender is told.
    pub refusal: Refusal,
}

/// What became of a request.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Reply {
    /// The nickname is the session's.
    Claimed { nickname: Nickname, registered: Option<InboxNotice> },
    /// The nickname is that of the session which continues another one.
    Reclaimed { registered: Option<InboxNotice> },
    /// The nickname is free, or the number forgotten.
    Released,
    /// What whoever sees all cores has answered.
    Document(Box<Document>),
    /// The private message was handed to this many sessions, and perhaps kept for one that is away.
    Delivered { target: Nickname, sessions: u64, is_stored: bool, timestamp_ms: u64 },
    /// The session is a member.
    Joined(Box<Joined>),
    /// It no longer is.
    Left { room: RoomName, reason: LeaveReason },
    /// The message has its place.
    Published { room: RoomName, epoch: Arc<str>, stamp: Stamp, level: AckLevel },
    /// The message has its place, but the store has not answered in time.
    Overdue(Box<Overdue>),
    /// Done, this many times, where nobody asked to be told.
    Done { times: u32 },
    /// A user may have this token.
    Token { token: String, expires_at_ms: u64 },
    /// The key has been set.
    StateSet { room: RoomName, key: Box<str>, version: u64 },
    /// A key's value, if it is set.
    State { room: RoomName, key: &'static str, value: Option<Arc<str>> },
    /// The members asked for.
    Members { room: RoomName, total: u64, members: Vec<MemberEntry> },
    /// The messages asked for.
    History { room: RoomName, epoch: Arc<str>, messages: Vec<Entry> },
    /// The connection hears a room from now on.
    Listening(Box<Listening>),
    /// The rooms asked for, of one home.
    Rooms { rooms: Vec<RoomEntry> },
    /// So many sessions of one core heard it.
    Heard { sessions: u64 },
    /// So many sessions and event streams of a user have been ended.
    PutOut { ended: u64 },
    /// The session goes on in the one that asked.
    Surrendered(Box<Estate>),
    /// There is no such session any more.
    Ended,
    /// No.
    Refused(Refusal),
    /// More of what a member missed, or `None`: it is not there any more.
    Replayed { room: Id, after: u64, page: Option<Page> },
    /// The session is a member again, with this key of the room, or the room is not there.
    Returned { room: RoomName, key: Option<Id>, echo: bool },
    /// A member's change of session or connection has been noted.
    Noted,
    /// The session that this one continues was no member any more.
    NotAttached { room: Id, name: RoomName, reason: LeaveReason },
}

impl Reply {
    /// Whether it answers something that the session did by itself, beside the commands of its client.
    pub fn is_background(&self) -> bool {
        matches!(
            self,
            Reply::Replayed { .. } | Reply::Noted | Reply::NotAttached { .. } | Reply::Reclaimed { .. }
        )
    }
}

/// What a session of a registered user is told about the user's inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxNotice {
    /// There is nothing in it for the session.
    Empty,
    /// It is being read, and comes.
    Follows,
}

/// A part of what a member missed, in its encoding.
#[derive(Debug)]
pub struct Page {
    /// The messages.
    pub frames: Frames,
    /// The last offset among them, or the one before if there is none.
    pub through: u64,
    /// Whether nothing is missing after it.
    pub is_last: bool,
}

impl Page {
    /// A page without messages, after which the first one follows `through`.
    pub fn nothing_after(through: u64) -> Self {
        let frames = Frames { bytes: Arc::default(), ends: Arc::default() };
        Page { frames, through, is_last: false }
    }
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
    /// The room's state: key, value and version.
    pub state: Vec<(Box<str>, Arc<str>, u64)>,
    /// Whether nothing was missed since the position that was named, if one was.
    pub recovered: Option<bool>,
    /// The last messages, if they were asked for.
    pub messages: Option<Vec<Entry>>,
    /// What was missed, or its beginning.
    pub replay: Option<Page>,
}

/// One line of a list of members.
#[derive(Debug)]
pub struct MemberEntry {
    /// The nickname.
    pub nickname: Nickname,
    /// The role.
    pub role: Role,
    /// Whether the user has a connection.
    pub is_connected: bool,
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
