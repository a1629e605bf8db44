//! What a room is told of its members: who came, went, and what was done to them.

use super::Shard;
use super::fanout::Deaf;
use crate::base::slots::Id;
use crate::chat::name::Nickname;
use crate::chat::refusal::LeaveReason;
use crate::chat::room::Role;
use crate::proto::wire::{Event, Presence};

impl Shard {
    /// Tells a room that a user is no longer in it, and who has become host for that.
    pub(super) fn tell_gone(
        &mut self,
        key: Id,
        nickname: &Nickname,
        reason: LeaveReason,
        heir: Option<&Nickname>,
        is_exact: bool,
    ) {
        if self.home.rooms[key].room.is_empty() {
            return;
        }
        if is_exact {
            self.tell_presence(key, "leave", nickname, |p| p.reason = Some(reason.as_str()), None);
        } else {
            self.note_presence(key, |batch, names_max| batch.leave(nickname.clone(), names_max));
        }
        if let Some(heir) = heir {
            self.tell_presence(key, "role", heir, |p| p.role = Some(Role::Host.as_str()), None);
        }
    }

    pub(super) fn tell_back(&mut self, key: Id, nickname: &Nickname) {
        if self.home.rooms[key].room.len() <= self.presence.exact_members {
            self.tell_presence(key, "back", nickname, |_| {}, None);
        }
    }

    /// Tells a large room who came and went lately.
    pub(super) fn tell_presence_batch(&mut self, key: Id) {
        if let Some(entry) = self.home.rooms.get(key) {
            self.tell_presence_batch_of(key, entry.room.len());
        }
    }

    pub(super) fn tell_presence_batch_of(&mut self, key: Id, members: usize) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        if !entry.room.presence.is_pending() {
            return;
        }
        let (joined, left) = entry.room.presence.take();
        let (joined, left) = (spellings(&joined), spellings(&left));
        let name = entry.room.name().clone();
        let event = Event::Presence(Presence {
            room: name.as_str(),
            event: "batch",
            joined: Some(&joined),
            left: Some(&left),
            members: Some(members as u64),
            timestamp: Some(self.now.unix_ms),
            ..Presence::default()
        });
        self.note_event(key, &event, None);
    }

    /// Tells a room that somebody has another role.
    pub(super) fn tell_role(&mut self, key: Id, nickname: &Nickname, role: Role) {
        self.tell_presence(key, "role", nickname, |p| p.role = Some(role.as_str()), None);
    }

    /// Tells a room what one of its members did, or what was done to it.
    pub(super) fn tell_presence<'a>(
        &mut self,
        key: Id,
        event: &'static str,
        nickname: &'a Nickname,
        fill: impl FnOnce(&mut Presence<'a>),
        deaf: Option<Deaf>,
    ) {
        let room = self.home.rooms[key].room.name().clone();
        let mut presence = Presence {
            event,
            nickname: Some(nickname.as_str()),
            timestamp: Some(self.now.unix_ms),
            ..Presence::default()
        };
        fill(&mut presence);
        let presence = Presence { room: room.as_str(), ..presence };
        self.note_event(key, &Event::Presence(presence), deaf);
    }
}

fn spellings(names: &[Nickname]) -> Vec<&str> {
    names.iter().map(Nickname::as_str).collect()
}
