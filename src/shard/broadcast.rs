//! What an admin says to many: to every session of this core, or to those in matching rooms or with one of the tags.

use super::Shard;
use super::doubt::Delivery;
use super::mail::Broadcast;
use super::session::Session;
use crate::base::slots::Id;
use crate::chat::inbox::Kept;

impl Broadcast {
    fn is_for(&self, session: &Session) -> bool {
        if self.rooms.is_none() && self.tags.is_empty() {
            return true;
        }
        let is_in_room = self.rooms.as_ref().is_some_and(|rooms| {
            session.memberships.iter().any(|membership| rooms.matches(&membership.room))
        });
        let tags = session.identity.as_ref().map_or(&[][..], |identity| &identity.claims.tags);
        is_in_room || self.tags.iter().any(|tag| tags.iter().any(|own| **own == **tag))
    }
}

impl Shard {
    /// Says it to the sessions here, and returns how many heard it. Those that are away hear it when they are back.
    pub(super) fn tell_everybody(&mut self, broadcast: &Broadcast) -> u64 {
        let is_meant = |(_, session): &(Id, &Session)| {
            session.nickname.is_some() && !session.is_ending() && broadcast.is_for(session)
        };
        let meant: Vec<Id> = self.sessions.iter().filter(is_meant).map(|(id, _)| id).collect();
        let mut heard = 0;
        for id in meant {
            let kept = Kept::System {
                sender: broadcast.sender.clone(),
                content: broadcast.content.clone(),
                timestamp_ms: broadcast.timestamp_ms,
            };
            match self.tell_user(id, kept) {
                Delivery::Told => heard += 1,
                Delivery::Kept => {}
                Delivery::Dropped => self.counters.private_not_kept.add(1),
            }
        }
        heard
    }
}
