//! What a turn was about: noted in passing, as numbers and references, and only made into words when the turn has taken too long.

use std::fmt::Write as _;

use super::Shard;
use super::mail::RoomKey;
use crate::base::slots::Id;

/// What has happened in this turn, as far as it may have taken long.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Remarks {
    /// How many commands there were, and the last one with its connection.
    commands: u32,
    command: Option<(&'static str, Id)>,
    /// How many pieces of mail have come from other cores.
    mails: u32,
    /// The room from which most was queued: bytes, and to how many members.
    room: Option<RoomKey>,
    bytes: usize,
    members: usize,
}

impl Remarks {
    #[inline]
    pub fn command(&mut self, name: &'static str, by: Id) {
        self.commands += 1;
        self.command = Some((name, by));
    }

    #[inline]
    pub fn mail(&mut self) {
        self.mails += 1;
    }

    /// A batch of so many bytes has been queued on so many members.
    #[inline]
    pub fn fan_out(&mut self, room: RoomKey, bytes: usize, members: usize) {
        let bytes = bytes * members;
        if bytes > self.bytes {
            (self.room, self.bytes, self.members) = (Some(room), bytes, members);
        }
    }
}

impl Shard {
    /// What this turn was about. Names of rooms are checked when rooms are made, and hold nothing that could forge a line; what was
    /// said in them is nobody's business.
    pub fn describe_turn(&self) -> String {
        let Remarks { commands, command, mails, room, bytes, members } = self.remarks;
        let mut text = String::new();
        if let Some((name, by)) = command {
            let _ = write!(text, "; commands: {commands}, the last {name} by conn={}", self.name_of(by));
        }
        if mails > 0 {
            let _ = write!(text, "; mail from other cores: {mails}");
        }
        if let Some(room) = room {
            let name = self.name_of_local(room).unwrap_or_else(|| "that is gone".to_owned());
            let _ = write!(text, "; most fan-out: room {name}, {bytes} bytes to {members} members here");
        }
        text
    }

    fn name_of_local(&self, room: RoomKey) -> Option<String> {
        let mut members = self.local_rooms.get(&room)?.members().iter();
        members.find_map(|member| {
            let session = self.sessions.get(member.session)?;
            let membership = session.memberships.iter().find(|membership| membership.key == room)?;
            Some(membership.room.as_str().to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::{Config, ListenKind};
    use crate::shard::{Flock, Shard};

    #[test]
    fn a_turn_is_told_by_its_commands_and_its_largest_fan_out() {
        let flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        assert_eq!(shard.describe_turn(), "");
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let said = "{\"type\":\"hello\",\"nickname\":\"ann\"}\n{\"type\":\"join\",\"room\":\"Den\"}\n\
                    {\"type\":\"message\",\"room\":\"den\",\"content\":\"secret\"}\n";
        shard.receive(id, &mut said.as_bytes().to_vec());
        shard.send_gathered_events();
        let told = shard.describe_turn();
        assert!(told.starts_with("; commands: 3, the last message by conn=0.0."), "{told}");
        assert!(
            told.contains("most fan-out: room Den, ") && told.ends_with(" bytes to 1 members here"),
            "{told}"
        );
        assert!(!told.contains("secret"));
        shard.tick(Now::default());
        assert_eq!(shard.describe_turn(), "", "another turn");
    }
}
