//! A room: its members, its messages, its rules and its state.
//!
//! A member is a user, with one or more sessions; a session may be away, and comes back in the same place.
//!
//! | file | what |
//! |---|---|
//! | `members` | who is in the room |
//! | `moderation` | roles, bans, mutes |
//! | `snapshot` | a room that goes on on another node |
//! | `state` | keys that all members see |

mod members;
#[cfg(test)]
mod model;
mod moderation;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::history::{self, Entry, History};
use super::name::{Nickname, RoomName};
use super::presence;
use super::refusal::{Reason, Refusal};
use super::user::SessionRef;
use members::Members;
pub use members::{Departure, Entered, Entrant, Member};
use moderation::Restrictions;
pub use moderation::{Action, Expelled, Held, HeldSentence, Renamed, Role, RoleChange, Rules, Verdict};
pub use snapshot::Snapshot;
use state::State;
pub use state::StateChange;

/// The room that everybody on a text line starts in, and that only admins moderate.
pub const LOBBY: &str = "lobby";

/// How much a room may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomBounds {
    /// Messages.
    pub history: history::Bounds,
    /// Keys of the state.
    pub state_keys: usize,
    /// Bytes of a key.
    pub state_key_bytes: usize,
    /// Bytes of a value.
    pub state_value_bytes: usize,
    /// Nicknames that are banned, muted or only read.
    pub restrictions: usize,
}

/// A room.
#[derive(Debug)]
pub struct Room {
    name: RoomName,
    epoch: Arc<str>,
    bounds: RoomBounds,
    offset: u64,
    timestamp_ms: u64,
    members: Members,
    restrictions: Restrictions,
    state: State,
    history: History,
    /// Joins and leaves not yet told, while the room is large.
    pub presence: presence::Batch,
}

/// The place of a message: its offset and the time that the room gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The offset, 1 for the room's first message.
    pub offset: u64,
    /// Milliseconds since the Unix epoch, never less than the message before.
    pub timestamp_ms: u64,
}

impl Room {
    /// An empty room whose history begins now, under an `epoch` that no other history has.
    pub fn new(name: RoomName, epoch: Arc<str>, bounds: RoomBounds) -> Self {
        Room {
            name,
            epoch,
            bounds,
            offset: 0,
            timestamp_ms: 0,
            members: Members::default(),
            restrictions: Restrictions::default(),
            state: State::default(),
            history: History::new(bounds.history),
            presence: presence::Batch::default(),
        }
    }

    /// Goes on within other bounds. What is over those of the state and of restrictions stays until it is taken away.
    pub fn set_bounds(&mut self, bounds: RoomBounds, now_ms: u64) {
        self.bounds = bounds;
        self.history.set_bounds(bounds.history, now_ms);
    }

    /// Goes on after a message that it had before the server was started.
    pub fn restore(&mut self, offset: u64, timestamp_ms: u64) {
        (self.offset, self.timestamp_ms) = (offset, timestamp_ms);
    }

    /// The name, as first written.
    pub fn name(&self) -> &RoomName {
        &self.name
    }

    /// Names the history that the offsets count in.
    pub fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// The offset of the last message; 0 before the first.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many members there are: users, not sessions.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.len() == 0
    }

    /// Whether the room is more than a name: it has members, or messages to remember.
    pub fn is_worth_keeping(&mut self, now_ms: u64) -> bool {
        self.history.expire(now_ms);
        !self.is_empty() || !self.history.is_empty()
    }

    /// The messages it remembers.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The same, to forget some.
    pub fn history_mut(&mut self) -> &mut History {
        &mut self.history
    }

    /// Gives the next message its place, and remembers it.
    pub fn publish(&mut self, sender: Nickname, content: Arc<str>, now_ms: u64) -> Stamp {
        self.offset += 1;
        self.timestamp_ms = self.timestamp_ms.max(now_ms);
        let stamp = Stamp { offset: self.offset, timestamp_ms: self.timestamp_ms };
        if self.bounds.history.count > 0 {
            let Stamp { offset, timestamp_ms } = stamp;
            self.history.push(Entry { offset, timestamp_ms, sender, content }, now_ms);
        }
        stamp
    }

    /// Who says something in the room, noted as active now. Nothing keeps an admin from it: what hosts hold against a
    /// nickname may have been meant for somebody who had it before.
    ///
    /// # Errors
    /// `not_a_member`; `muted`; `forbidden` to those who only read.
    pub fn speaker(&mut self, session: SessionRef, now_ms: u64) -> Result<Nickname, Refusal> {
        if self.members.touch(session, now_ms).is_none() {
            return Err(not_a_member());
        }
        self.check_speaker(session, now_ms)
    }

    /// The same without a note of it, for a room whose copies must be alike: what is only asked changes nothing.
    ///
    /// # Errors
    /// As of [`Room::speaker`].
    pub fn check_speaker(&self, session: SessionRef, now_ms: u64) -> Result<Nickname, Refusal> {
        let Some(member) = self.members.get(session) else { return Err(not_a_member()) };
        self.check_member(member, session, now_ms)
    }

    /// Notes that a member has done something.
    pub fn note_activity(&mut self, session: SessionRef, now_ms: u64) {
        self.members.touch(session, now_ms);
    }

    fn check_member(&self, member: &Member, session: SessionRef, now_ms: u64) -> Result<Nickname, Refusal> {
        if member.is_admin_in(session) {
            return Ok(member.nickname.clone());
        }
        if member.role == Role::Guest {
            return Err(only_reads());
        }
        // Few rooms have anybody muted, and this is on the way of each message.
        if !self.restrictions.is_empty()
            && let Some(refusal) = self.restrictions.refusal_to_speak(member.nickname.folded(), now_ms)
        {
            return Err(refusal);
        }
        Ok(member.nickname.clone())
    }

    /// Whether somebody who need not be a member may say something in the room. What hosts hold against a nickname holds here too,
    /// but for admins.
    ///
    /// # Errors
    /// `banned`; `muted`; `forbidden` to those who only read.
    pub fn check_push(&self, sender: &Nickname, is_admin: bool, now_ms: u64) -> Result<(), Refusal> {
        if is_admin || self.restrictions.is_empty() {
            return Ok(());
        }
        let folded = sender.folded();
        if self.restrictions.only_reads(folded) {
            return Err(only_reads());
        }
        let banned = self.restrictions.refusal_to_enter(folded, now_ms);
        banned.or_else(|| self.restrictions.refusal_to_speak(folded, now_ms)).map_or(Ok(()), Err)
    }

    /// Whether somebody may hear what is said in the room without being a member.
    ///
    /// # Errors
    /// `banned`.
    pub fn check_reader(&self, nickname: &Nickname, now_ms: u64) -> Result<(), Refusal> {
        self.restrictions.refusal_to_enter(nickname.folded(), now_ms).map_or(Ok(()), Err)
    }

    fn is_lobby(&self) -> bool {
        self.name.folded() == LOBBY
    }
}

fn only_reads() -> Refusal {
    Refusal::new(Reason::Forbidden, "you only read in this room")
}

fn not_a_member() -> Refusal {
    Refusal::new(Reason::NotAMember, "you are not in this room")
}
