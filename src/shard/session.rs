//! A session: who speaks on a connection, the rooms it is in, and the command it waits for.
//!
//! # Order
//!
//! Replies to one connection come in the order of its commands, although rooms and nicknames have their homes on
//! different cores. The rule that gives this without a reorder buffer: messages and typing notices to one home core may
//! be under way together, because mail between two cores keeps its order; every other command waits until nothing is
//! under way, and makes what follows wait for its reply. What a session asks by itself (more of what it missed, a note that
//! its connection has gone) is counted apart, and waits for nothing.
//!
//! # Away
//!
//! A session whose connection broke is away: its nickname and its places in the rooms are kept for a time of grace, and
//! nothing is delivered. The client comes back on any core, with a signed token, in a new session there, to which the old
//! one is made over: nickname, rooms, remembered commands and kept messages (`resume.rs`).
//!
//! # End
//!
//! A session ends in two steps: first its rooms are left, and only when all of them have answered is the nickname
//! released. So whoever takes the nickname next finds no trace of it in any room. A change of nickname takes the same
//! two steps. The session keeps its slot until every request has been answered; no reply ever goes astray.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::closing::Closing;
use super::encode::Encoding;
use super::mail::{ReplyTo, RoomEntry, RoomKey};
use super::upgrade::PendingUpgrade;
use crate::auth::Claims;
use crate::auth::api_key::KeyId;
use crate::base::bucket::SharedBucket;
use crate::base::slots::Id;
use crate::base::wheel::TimerKey;
use crate::chat::idempotency::Window;
use crate::chat::inbox::Inbox;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::pattern::Patterns;
use crate::chat::refusal::Refusal;
use crate::chat::room::Stamp;
use crate::chat::user::SessionRef;
use crate::config::AckLevel;
use crate::record::RestoredMembership;

/// One user's presence on the server.
#[derive(Debug)]
pub struct Session {
    /// Its connection, while there is one.
    pub connection: Option<Id>,
    /// How its connection wants events.
    pub encoding: Encoding,
    /// The number that it keeps for life; the core that knows where the session of this number is follows from it.
    pub number: u64,
    /// How often it has been written down; 0: never, it does not outlive the process.
    pub revision: u32,
    /// Its nickname, once claimed.
    pub nickname: Option<Nickname>,
    /// The nickname that a change is about to release. Whoever ends the session releases both: it stays here until all
    /// rooms have heard of the change and it has been released.
    pub former: Option<Box<Nickname>>,
    /// What its token says, if it came with one.
    pub identity: Option<Arc<Identity>>,
    /// The rooms it is in, the one joined or chosen last at the end: the current room of a text line.
    pub memberships: Vec<Membership>,
    /// Requests for commands of the client that have not been answered.
    pub under_way: u32,
    /// Other requests that have not been answered.
    pub background: u32,
    /// The core that all messages under way went to.
    pub publishing_to: u16,
    /// The command that everything waits for, if any.
    pub step: Step,
    /// What became of the commands that had an id.
    pub remembered: Option<Box<Window<Receipt>>>,
    /// What is to be told when the user is back.
    pub inbox: Option<Box<Inbox>>,
    /// Whether its user is registered: private messages that cannot be told at once are in the user's inbox then, and in this one only while
    /// there is a connection to tell them on.
    pub is_registered: bool,
    /// Whether the user's inbox is being read for it; and whether that has come, or is not waited for any more.
    pub awaits_inbox: bool,
    pub has_inbox: bool,
    /// The connection that it had last, while it is not known whether all that was told on it has arrived.
    pub doubtful: Option<Id>,
    /// Ends the session when it has been away for too long.
    pub grace: Option<TimerKey>,
    /// The session that continues this one, and is waiting for it to have no more under way.
    pub successor: Option<Box<Successor>>,
    /// What the user may do in a time, over all of its sessions, if that is limited.
    pub user_bucket: Option<Arc<SharedBucket>>,
}

/// Who somebody is by a token, or by the key of a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// What the token says.
    pub claims: Claims,
    /// The rooms it is for; `None`: all.
    pub rooms: Option<Patterns>,
    /// The key that was shown, if it was the key of a program and no token.
    pub key: Option<Box<KeyId>>,
}

/// A session that takes over another one.
#[derive(Debug)]
pub struct Successor {
    /// Which; on another node it is what that node knows its wish by.
    pub session: SessionRef,
    /// The number that both have.
    pub number: u64,
    /// The core that it asked.
    pub home: u16,
    /// The hello that it answers.
    pub reply_to: ReplyTo,
}

/// What a session leaves to the one that continues it.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Estate {
    pub old: SessionRef,
    /// Where a session of another node has been, the last place first, and before all these at `old`, unless that is one of them.
    pub places: Vec<SessionRef>,
    pub number: u64,
    pub revision: u32,
    pub nickname: Nickname,
    pub identity: Option<Arc<Identity>>,
    pub memberships: Vec<Membership>,
    /// The rooms of a session of another node, whose copies are not known here yet.
    pub rooms: Vec<RestoredMembership>,
    pub remembered: Option<Box<Window<Receipt>>>,
    pub inbox: Option<Box<Inbox>>,
}

/// The answer to a command that may be asked for again by its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Receipt {
    Published { room: RoomName, epoch: Arc<str>, stamp: Stamp, level: AckLevel },
    Delivered { target: Nickname, sessions: u64, is_stored: bool, timestamp_ms: u64 },
}

/// A room that a session is in.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The room, spelled as it was first.
    pub room: RoomName,
    /// Its home, and its key there.
    pub key: RoomKey,
    /// Whether the session hears its own messages.
    pub echo: bool,
    /// This session's place in the list of the room's members on this core; `None`: it does not hear the room now.
    pub position: Option<u32>,
}

/// The command that a session waits for.
#[derive(Debug)]
pub enum Step {
    /// None: messages may be under way, nothing else is.
    Idle,
    /// The session that a hello resumes was asked for. If it has ended, the hello goes on with this nickname;
    /// if not, a token that the hello itself brought is the one that counts. What an admin has put out meanwhile is put out when it is here.
    Resume { nickname: Box<Nickname>, has_token: bool, is_put_out: bool, then: Box<Then> },
    /// The session of another node goes on here, as soon as it is a member of its rooms again.
    Return { reply_to: ReplyTo },
    /// A nickname was claimed. What comes after it: a room to join, and an HTTP request to answer.
    Hello { then: Box<Then> },
    /// A new nickname was claimed.
    Nick,
    /// The rooms are being told of it, and after them the old one is released: `former` says that it is not yet.
    Rename { reply_to: ReplyTo },
    /// A room was asked to take the session in.
    Join { options: JoinOptions, leave: Option<Box<RoomName>>, then: Box<Then> },
    /// A room was left, silently for the second half of a switch.
    Leave { is_told: bool },
    /// A private message, a query, or a host's decision.
    Query,
    /// All homes were asked for their rooms.
    Rooms { limit: usize, found: Vec<RoomEntry>, refusal: Option<Box<Refusal>> },
    /// All cores were asked to say something to their sessions.
    Broadcast { sessions: u64, refusal: Option<Box<Refusal>> },
    /// It has been given up to another node, as soon as that is known to be kept.
    GivingUp,
    /// The session is ending, and this is what its connection waits for.
    Ending { then: Option<AfterEnd> },
}

/// How a member wants to hear a room.
#[derive(Debug, Clone, Copy)]
pub struct JoinOptions {
    /// Whether it hears its own messages.
    pub echo: bool,
    /// Whether messages are left out rather than the connection closed when it cannot keep up.
    pub skips: bool,
}

/// What a connection hears when its session has ended and the nickname is free.
#[derive(Debug)]
pub enum AfterEnd {
    /// The connection is closed.
    Close(Closing),
    /// The request that would have made it a WebSocket is refused, and the connection is ready for another.
    RefuseUpgrade(Box<PendingUpgrade>, Box<Refusal>),
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
    /// A session whose hello is under way, or one that is restored.
    pub fn new(
        connection: Option<Id>,
        encoding: Encoding,
        identity: Option<Arc<Identity>>,
        step: Step,
    ) -> Self {
        Session {
            connection,
            encoding,
            number: 0,
            revision: 0,
            nickname: None,
            former: None,
            identity,
            memberships: Vec::new(),
            under_way: 0,
            background: 0,
            publishing_to: 0,
            step,
            remembered: None,
            inbox: None,
            is_registered: false,
            awaits_inbox: false,
            has_inbox: false,
            doubtful: None,
            grace: None,
            successor: None,
            user_bucket: None,
        }
    }

    /// The membership in the room that a peer calls `name`.
    pub fn membership(&self, name: &str) -> Option<&Membership> {
        self.memberships.iter().find(|m| m.room.as_str() == name).or_else(|| {
            let folded = crate::chat::name::fold(name);
            self.memberships.iter().find(|m| m.room.folded() == folded)
        })
    }

    /// Forgets a command that was refused.
    pub fn forget_id(&mut self, id: &str) {
        if let Some(remembered) = &mut self.remembered {
            remembered.forget(id);
        }
    }

    /// Whether nothing that the client asked for is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0 && matches!(self.step, Step::Idle)
    }

    /// Whether nothing at all is under way.
    pub fn is_quiet(&self) -> bool {
        self.is_idle() && self.background == 0
    }

    /// Whether its connection still waits for the answer to the request that makes it a WebSocket: no event may be
    /// written before that.
    pub fn is_upgrading(&self) -> bool {
        matches!(
            &self.step,
            Step::Resume { then, .. } | Step::Hello { then, .. } | Step::Join { then, .. } if then.upgrade.is_some()
        )
    }

    /// Whether it has come from another node and is not in all of its rooms yet: its welcome is still to be said.
    pub fn is_returning(&self) -> bool {
        matches!(self.step, Step::Return { .. })
    }

    /// Whether the session is on its way out.
    pub fn is_ending(&self) -> bool {
        matches!(self.step, Step::Ending { .. })
    }

    /// Whether it is on its way to another node.
    pub fn is_given_up(&self) -> bool {
        matches!(self.step, Step::GivingUp)
    }

    /// Whether it has a connection on which a private message may be told before all else.
    pub fn may_be_told(&self) -> bool {
        self.connection.is_some()
            && !self.awaits_inbox
            && self.nickname.is_some()
            && !self.is_returning()
            && !self.inbox.as_ref().is_some_and(|inbox| inbox.has_untold())
    }

    /// Whether it outlives the process.
    pub fn is_durable(&self) -> bool {
        self.revision > 0
    }

    /// Whether it may do everything.
    pub fn is_admin(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.claims.is_admin)
    }

    /// Whether its token, if it has one, is for this room.
    pub fn may_enter(&self, room: &RoomName) -> bool {
        self.identity
            .as_ref()
            .and_then(|identity| identity.rooms.as_ref())
            .is_none_or(|rooms| rooms.matches(room))
    }
}
