//! What is known when a server starts again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Retention;
use crate::chat::name::{Nickname, RoomName};

/// Everything that a store gives back, but for the messages, which are read when somebody asks for them.
#[derive(Debug, Default, Clone)]
pub struct Restored {
    /// The rooms.
    pub rooms: Vec<RestoredRoom>,
    /// The sessions, all of them without a connection.
    pub sessions: Vec<RestoredSession>,
    /// The places of messages that came by HTTP requests with a key, the oldest first.
    pub pushed: Vec<RestoredReceipt>,
    /// Rooms that have ended, with their numbers and epochs, of which there are still receipts.
    pub ended_rooms: Vec<(u64, RoomName, Arc<str>)>,
    /// The registered users.
    pub users: Vec<RestoredUser>,
    /// Whether something that was announced may be lost: every room gets a new epoch then.
    pub is_lossy: bool,
}

/// More places than anybody gives out in an inbox in the time for which what was stored may stay off the disk.
const LOST_PLACES: u64 = 1 << 32;

impl Restored {
    /// Gives every room a new epoch, because something that was announced may be lost. Here, before anything is made of it: what
    /// commands are answered when they come again names the new ones too.
    ///
    /// Inboxes have no epochs. Their places leave out as many as can have been given and lost, so that none is given twice.
    pub fn renew_epochs(&mut self, mut random: impl FnMut() -> u64) {
        self.is_lossy = true;
        for room in &mut self.rooms {
            room.epoch = format!("{:016x}", random()).into();
        }
        let users = self.users.iter_mut().map(|user| &mut user.last_offset);
        let sessions = self.sessions.iter_mut().map(|session| &mut session.inbox.last_offset);
        for last_offset in users.chain(sessions) {
            *last_offset += LOST_PLACES;
        }
    }
}

/// A room.
#[derive(Debug, Clone)]
pub struct RestoredRoom {
    /// Its number in the store.
    pub number: u64,
    /// Its name, as first spelled.
    pub name: RoomName,
    /// Names the history that its offsets count in.
    pub epoch: Arc<str>,
    /// Its last offset.
    pub offset: u64,
    /// The time of its last message, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// The first offset that is kept; one more than the last if none is.
    pub first_kept: u64,
    /// How much is kept.
    pub retention: Retention,
    /// Roles and restrictions (JSON of the room's own), if there are any.
    pub rules: Option<String>,
    /// The counter of its state's changes.
    pub state_version: u64,
    /// Its state.
    pub state: Vec<RestoredState>,
}

/// A key of a room's state.
#[derive(Debug, Clone)]
pub struct RestoredState {
    /// The key.
    pub key: Box<str>,
    /// The value (JSON).
    pub value: Arc<str>,
    /// The change that it was set in.
    pub version: u64,
}

/// A session.
#[derive(Debug, Clone)]
pub struct RestoredSession {
    /// The number that it keeps for life.
    pub number: u64,
    /// How often it has been written down.
    pub revision: u64,
    /// Who and where.
    pub body: SessionBody,
    /// What is kept for it.
    pub inbox: RestoredInbox,
    /// What its commands were answered, the oldest first.
    pub receipts: Vec<RestoredReceipt>,
}

/// What a session is, as it is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionBody {
    /// Its nickname.
    pub nickname: String,
    /// What its token says, if it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<WrittenClaims>,
    /// The rooms it is in, the one joined last at the end.
    pub rooms: Vec<RestoredMembership>,
}

/// What a token said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenClaims {
    /// Whether it is of somebody who may do everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    /// The rooms it is for; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<String>>,
    /// What targeted broadcasts find its sessions by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// When it ends, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// When it was given out, if it is of an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_at_ms: Option<u64>,
}

/// A room that a session is in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoredMembership {
    /// Which.
    pub room: String,
    /// Whether it hears its own messages.
    pub echo: bool,
}

/// An inbox.
#[derive(Debug, Clone, Default)]
pub struct RestoredInbox {
    /// The last place given.
    pub last_offset: u64,
    /// What has not been received, in order.
    pub items: Vec<KeptPrivate>,
}

/// A private message in an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPrivate {
    /// Its place.
    pub offset: u64,
    /// Who sent it.
    pub sender: Nickname,
    /// Whom it is for.
    pub target: Nickname,
    /// What it says.
    pub content: Arc<str>,
    /// When it came, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
}

/// What a command with an id was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RestoredReceipt {
    /// A message has its place. The room is named by its number; an epoch that has changed since is the room's new one.
    Published { id: Box<str>, sender: Nickname, room: u64, offset: u64, timestamp_ms: u64 },
    /// A private message was passed on.
    Delivered { id: Box<str>, target: Nickname, delivered: u64, stored: bool, timestamp_ms: u64 },
}

/// What decides whether the tokens of an account are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountState {
    /// Whether the user may not be here.
    pub is_disabled: bool,
    /// Tokens that were given out before are void: the password, or the user, was another. In milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// A private message that waits in a user's inbox, without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingPrivate {
    /// Its place.
    pub offset: u64,
    /// Bytes of its content.
    pub bytes: usize,
    /// The number of the one session that it is for; 0: any.
    pub session: u64,
}

/// A registered user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredUser {
    /// The nickname, which nobody else may have.
    pub name: Nickname,
    /// Which of the account's tokens are good.
    pub account: AccountState,
    /// The private messages that wait in the inbox.
    pub waiting: Vec<WaitingPrivate>,
    /// The last place given in the inbox.
    pub last_offset: u64,
}
