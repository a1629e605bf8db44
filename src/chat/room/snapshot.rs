//! A room as one value that another node can go on from, and what happens to it when nodes come and go.
//!
//! Copies of a room on several nodes apply the same changes in the same order, and are alike after each: nothing here or in what a
//! change does may depend on a clock, on chance, or on the order of a hash table.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::members::Member;
use super::moderation::{Held, Role};
use super::{Departure, Room, RoomBounds, Stamp};
use crate::chat::history::Entry;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::user::{NodeId, SessionRef};

/// Who is in a room, what is held against whom, and the state. The messages are elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The members, in folded order of their nicknames.
    members: Vec<SnapshotMember>,
    /// How many have come so far.
    arrivals: u64,
    /// What is held against nicknames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    held: Vec<Held>,
    /// The state: each key's value (JSON) and version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    state: BTreeMap<Box<str>, (Arc<str>, u64)>,
    /// The counter of its changes.
    state_version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotMember {
    nickname: Nickname,
    role: Role,
    last_active_ms: u64,
    seniority: u64,
    sessions: Vec<SnapshotSession>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotSession {
    session: SessionRef,
    is_connected: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_admin: bool,
}

impl Room {
    /// The room without its messages. What is over by `now_ms` is left out.
    pub fn snapshot(&self, now_ms: u64) -> Snapshot {
        let members = self.list(None, usize::MAX).map(|member| SnapshotMember {
            nickname: member.nickname.clone(),
            role: member.role,
            last_active_ms: member.last_active_ms,
            seniority: member.seniority(),
            sessions: member
                .places()
                .map(|(session, is_connected, is_admin)| SnapshotSession { session, is_connected, is_admin })
                .collect(),
        });
        Snapshot {
            members: members.collect(),
            arrivals: self.members.arrivals(),
            held: self.rules(now_ms).held,
            state: self.state().map(|(key, value, version)| (key.into(), (value.clone(), version))).collect(),
            state_version: self.state.version(),
        }
    }

    /// A room that goes on from a snapshot, without messages, after the place `stamp`.
    pub fn from_snapshot(
        name: RoomName,
        epoch: Arc<str>,
        bounds: RoomBounds,
        stamp: Stamp,
        snapshot: Snapshot,
    ) -> Self {
        let mut room = Room::new(name, epoch, bounds);
        room.restore(stamp.offset, stamp.timestamp_ms);
        let Snapshot { members, arrivals, held, state, state_version } = snapshot;
        for SnapshotMember { nickname, role, last_active_ms, seniority, sessions } in members {
            let sessions =
                sessions.into_iter().map(|place| (place.session, place.is_connected, place.is_admin));
            room.members.insert_member(Member::from_parts(
                nickname,
                role,
                last_active_ms,
                seniority,
                sessions,
            ));
        }
        room.members.set_arrivals(arrivals);
        room.restore_restrictions(held);
        for (key, (value, version)) in state {
            room.restore_state(key, value, version);
        }
        room.restore_state_version(state_version);
        room
    }

    /// Takes in a message that has its place, which is the next one.
    pub fn place(&mut self, stamp: Stamp, sender: Nickname, content: Arc<str>, now_ms: u64) {
        debug_assert_eq!(stamp.offset, self.offset + 1, "messages have no gap");
        let Stamp { offset, timestamp_ms } = stamp;
        self.restore(offset, timestamp_ms.max(self.timestamp_ms));
        if self.bounds.history.count > 0 {
            self.history.push(Entry { offset, timestamp_ms: self.timestamp_ms, sender, content }, now_ms);
        }
    }

    /// The sessions that live on a node, in folded order of their nicknames.
    pub fn sessions_on(&self, node: NodeId) -> Vec<SessionRef> {
        let members = self.list(None, usize::MAX);
        members.flat_map(Member::sessions).filter(|session| session.node == node).collect()
    }

    /// The nodes that any of its sessions live on, each with whether one of them has a connection.
    pub fn nodes(&self) -> BTreeMap<NodeId, bool> {
        let mut nodes = BTreeMap::new();
        for (session, is_connected, _) in self.list(None, usize::MAX).flat_map(Member::places) {
            *nodes.entry(session.node).or_default() |= is_connected;
        }
        nodes
    }

    /// Ends the memberships of several sessions together: who becomes host is decided when all of them have gone.
    pub fn leave_together(&mut self, sessions: &[SessionRef]) -> (Vec<Departure>, Option<Nickname>) {
        let mut departures = Vec::new();
        for session in sessions {
            if let Some(departure) = self.leave_without_heir(*session) {
                departures.push(departure);
            }
        }
        (departures, self.find_heir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slots::Id;
    use crate::chat::history;
    use crate::chat::refusal::Reason;
    use crate::chat::room::{Action, Entrant};

    const BOUNDS: RoomBounds = RoomBounds {
        history: history::Bounds { count: 5, bytes: 0, age_ms: 0 },
        state_keys: 4,
        state_key_bytes: 8,
        state_value_bytes: 16,
        restrictions: 10,
    };

    fn session(node: NodeId, index: u32) -> SessionRef {
        SessionRef { node, core: 0, session: Id { index, generation: 0 } }
    }

    fn name(text: &str) -> Nickname {
        Nickname::parse(text).unwrap()
    }

    fn enter(room: &mut Room, node: NodeId, index: u32, nickname: &str) {
        let entrant = Entrant { session: session(node, index), nickname: name(nickname), is_admin: false };
        room.join(entrant, u64::from(index)).unwrap();
    }

    fn lived_in() -> Room {
        let mut room = Room::new(RoomName::parse("Den").unwrap(), "e1".into(), BOUNDS);
        enter(&mut room, 1, 1, "Ann");
        enter(&mut room, 2, 2, "bob");
        enter(&mut room, 2, 3, "cyd");
        enter(&mut room, 1, 4, "dan");
        room.detach(session(2, 2));
        room.moderate(session(1, 1), Action::Mute, &name("cyd"), Some("loud".into()), Some(100), 5).unwrap();
        room.set_role(session(1, 1), &name("dan"), Role::Guest, 6).unwrap();
        room.set_state(session(1, 1), "topic", Some("\"x\"".into()), 7).unwrap();
        room.set_state(session(1, 1), "gone", Some("1".into()), 7).unwrap();
        room.set_state(session(1, 1), "gone", None, 8).unwrap();
        room
    }

    #[test]
    fn a_room_goes_on_elsewhere_as_it_was() {
        let mut room = lived_in();
        let snapshot = room.snapshot(9);
        let stamp = Stamp { offset: 7, timestamp_ms: 8 };
        let mut copy =
            Room::from_snapshot(room.name().clone(), room.epoch().clone(), BOUNDS, stamp, snapshot.clone());
        assert_eq!(copy.snapshot(9), snapshot);
        assert_eq!((copy.offset(), copy.len()), (7, 4));
        // What comes next does the same to both.
        for room in [&mut room, &mut copy] {
            assert_eq!(room.speaker(session(2, 3), 50).unwrap_err().reason, Reason::Muted);
            assert_eq!(room.speaker(session(1, 4), 50).unwrap_err().reason, Reason::Forbidden);
            let left = room.leave(session(1, 1)).unwrap();
            assert_eq!(left.heir, Some(name("cyd")), "bob is away, dan only reads");
            enter(room, 3, 9, "eve");
            assert_eq!(room.set_state(session(3, 9), "new", Some("1".into()), 60).unwrap().version, 4);
        }
        assert_eq!(copy.snapshot(60), room.snapshot(60));
    }

    #[test]
    fn who_came_first_is_known_elsewhere_too() {
        let mut room = Room::new(RoomName::parse("den").unwrap(), "e1".into(), BOUNDS);
        for (index, nickname) in [(1, "host"), (2, "zed"), (3, "ann"), (4, "moe")] {
            enter(&mut room, 1, index, nickname);
        }
        let stamp = Stamp { offset: 1, timestamp_ms: 1 };
        let (name_of_room, epoch, snapshot) = (room.name().clone(), room.epoch().clone(), room.snapshot(9));
        let mut copy = Room::from_snapshot(name_of_room, epoch, BOUNDS, stamp, snapshot);
        for (index, heir) in [(1, "zed"), (2, "ann"), (3, "moe")] {
            assert_eq!(copy.leave(session(1, index)).unwrap().heir, Some(name(heir)));
        }
    }

    #[test]
    fn what_has_its_place_is_taken_in_there() {
        let mut room = lived_in();
        room.place(Stamp { offset: 1, timestamp_ms: 30 }, name("Ann"), "hi".into(), 30);
        room.place(Stamp { offset: 2, timestamp_ms: 20 }, name("bob"), "ho".into(), 30);
        let entries: Vec<_> = room.history().after(0).map(|e| (e.offset, e.timestamp_ms)).collect();
        assert_eq!(entries, [(1, 30), (2, 30)], "time does not go back within a room");
    }

    #[test]
    fn a_node_goes_with_all_of_its_sessions() {
        let mut room = lived_in();
        assert_eq!(room.nodes().into_iter().collect::<Vec<_>>(), [(1, true), (2, true)]);
        let (gone, heir) = room.leave_together(&room.sessions_on(1));
        let names: Vec<_> = gone.iter().map(|d| d.nickname.as_str()).collect();
        assert_eq!((names, heir), (vec!["Ann", "dan"], Some(name("cyd"))));
        assert_eq!(room.nodes().into_iter().collect::<Vec<_>>(), [(2, true)]);
    }
}
