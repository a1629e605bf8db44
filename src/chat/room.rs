//! A room as its home core knows it: its members, its epoch and its offsets.
//!
//! The home core is the only writer, so that there is one order of everything that happens in a room, and no lock.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::name::{Nickname, RoomName};
use super::presence;
use super::user::SessionRef;

/// The room that everybody on a text line starts in, and that only admins moderate.
pub const LOBBY: &str = "lobby";

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Moderates.
    Host,
    /// Speaks.
    Member,
}

impl Role {
    /// The word of the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Host => "host",
            Role::Member => "member",
        }
    }
}

/// One member of a room.
#[derive(Debug, Clone)]
pub struct Member {
    /// The nickname, as its owner spells it.
    pub nickname: Nickname,
    /// The role.
    pub role: Role,
    /// When the member last did something here, in milliseconds since the Unix epoch.
    pub last_active_ms: u64,
}

/// A room.
#[derive(Debug)]
pub struct Room {
    name: RoomName,
    epoch: Arc<str>,
    offset: u64,
    timestamp_ms: u64,
    members: HashMap<SessionRef, Member>,
    /// The members in folded order of their nicknames, for lists that are read a page at a time.
    order: BTreeMap<Arc<str>, SessionRef>,
    /// Joins and leaves not yet told, while the room is large.
    pub presence: presence::Batch,
}

/// The place of a message: its offset and the time that the room gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The offset, 1 for the room's first message.
    pub offset: u64,
    /// Milliseconds since the Unix epoch, never less than the message before.
    pub timestamp_ms: u64,
}

impl Room {
    /// An empty room whose history begins now, under an `epoch` that no other history has.
    pub fn new(name: RoomName, epoch: Arc<str>) -> Self {
        Room {
            name,
            epoch,
            offset: 0,
            timestamp_ms: 0,
            members: HashMap::new(),
            order: BTreeMap::new(),
            presence: presence::Batch::default(),
        }
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

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member that `session` is.
    pub fn member(&self, session: SessionRef) -> Option<&Member> {
        self.members.get(&session)
    }

    /// The member that `session` is, noted as active now.
    pub fn active_member(&mut self, session: SessionRef, now_ms: u64) -> Option<&Member> {
        let member = self.members.get_mut(&session)?;
        member.last_active_ms = now_ms;
        Some(member)
    }

    /// Makes `session` a member and returns its role: the first one is the host, but in the lobby.
    ///
    /// # Panics
    /// When the session or the nickname is a member: nicknames are unique, and the caller checks for repeated joins.
    pub fn join(&mut self, session: SessionRef, nickname: Nickname, now_ms: u64) -> Role {
        let role = if self.is_empty() && self.name.folded() != LOBBY { Role::Host } else { Role::Member };
        let before = self.order.insert(nickname.folded().into(), session);
        assert!(before.is_none(), "two members with one nickname");
        let before = self.members.insert(session, Member { nickname, role, last_active_ms: now_ms });
        assert!(before.is_none(), "joined twice");
        role
    }

    /// Ends the membership of `session`.
    pub fn leave(&mut self, session: SessionRef) -> Option<Member> {
        let member = self.members.remove(&session)?;
        self.order.remove(member.nickname.folded());
        Some(member)
    }

    /// Renames the member that `session` is, and returns the nickname it had.
    pub fn rename(&mut self, session: SessionRef, nickname: Nickname) -> Option<Nickname> {
        let member = self.members.get_mut(&session)?;
        self.order.remove(member.nickname.folded());
        self.order.insert(nickname.folded().into(), session);
        Some(std::mem::replace(&mut member.nickname, nickname))
    }

    /// Gives the next message its place.
    pub fn publish(&mut self, now_ms: u64) -> Stamp {
        self.offset += 1;
        self.timestamp_ms = self.timestamp_ms.max(now_ms);
        Stamp { offset: self.offset, timestamp_ms: self.timestamp_ms }
    }

    /// Up to `limit` members in folded order of their nicknames, those after the folded name `after`.
    pub fn list(&self, after: Option<&str>, limit: usize) -> impl Iterator<Item = &Member> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.order
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, session)| &self.members[session])
            .take(limit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::slots::Id;

    fn session(index: u32) -> SessionRef {
        SessionRef { core: 0, session: Id { index, generation: 0 } }
    }

    fn nickname(n: u32) -> Nickname {
        Nickname::parse(&format!("user{n:03}")).unwrap()
    }

    fn room(name: &str) -> Room {
        Room::new(RoomName::parse(name).unwrap(), "e1".into())
    }

    #[test]
    fn the_first_member_is_host_but_in_the_lobby() {
        let mut den = room("den");
        assert_eq!(den.join(session(1), nickname(1), 0), Role::Host);
        assert_eq!(den.join(session(2), nickname(2), 0), Role::Member);
        assert_eq!(room("Lobby").join(session(1), nickname(1), 0), Role::Member);
    }

    proptest! {
        #[test]
        fn offsets_count_and_timestamps_never_fall(clock in prop::collection::vec(0u64..100, 1..50)) {
            let mut room = room("den");
            let mut last = Stamp { offset: 0, timestamp_ms: 0 };
            for now_ms in clock {
                let stamp = room.publish(now_ms);
                prop_assert_eq!(stamp.offset, last.offset + 1);
                prop_assert!(stamp.timestamp_ms >= last.timestamp_ms && stamp.timestamp_ms >= now_ms);
                last = stamp;
            }
        }

        #[test]
        fn membership_behaves_like_a_sorted_map(ops in prop::collection::vec((0u8..3, 0u32..12), 0..100), limit in 0usize..15, after in 0u32..12) {
            let mut room = room("den");
            let mut model: BTreeMap<u32, u32> = BTreeMap::new(); // nickname -> session
            for (op, n) in ops {
                let is_member = model.values().any(|s| *s == n);
                match op {
                    0 if !is_member && !model.contains_key(&n) => {
                        room.join(session(n), nickname(n), 0);
                        model.insert(n, n);
                    }
                    1 => {
                        prop_assert_eq!(room.leave(session(n)).is_some(), is_member);
                        model.retain(|_, s| *s != n);
                    }
                    2 if is_member && !model.contains_key(&(n + 100)) => {
                        room.rename(session(n), nickname(n + 100));
                        model.retain(|_, s| *s != n);
                        model.insert(n + 100, n);
                    }
                    _ => {}
                }
                prop_assert_eq!(room.len(), model.len());
            }
            let after_name = nickname(after);
            let listed: Vec<String> = room.list(Some(after_name.folded()), limit).map(|m| m.nickname.as_str().to_owned()).collect();
            let expected: Vec<String> = model.keys().filter(|n| **n > after).take(limit).map(|n| nickname(*n).as_str().to_owned()).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
