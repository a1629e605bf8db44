//! What the keys and channels are called.
//!
//! What stands in braces decides the slot of a Redis Cluster: all that one script touches has the same. A room's name has no braces,
//! and no colon, so that no room's key is that of something else.

/// Makes the names, all of which begin with the configured prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Box<str>,
}

/// The keys of a room that its scripts are given, in this order.
const ROOM_PARTS: [&str; 5] = ["meta", "messages", "changes", "snapshot", "by"];

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.into() }
    }

    /// Those of a room.
    pub(super) fn room(&self, room: &str) -> [String; 5] {
        ROOM_PARTS.map(|part| format!("{}:{{{room}}}:{part}", self.prefix))
    }

    /// What a room is in a few words: a hash of epoch, name, change, offset, time, guard and members.
    pub(super) fn meta(&self, room: &str) -> String {
        format!("{}:{{{room}}}:meta", self.prefix)
    }

    /// A room's messages: a stream, numbered by their offsets.
    pub(super) fn messages(&self, room: &str) -> String {
        format!("{}:{{{room}}}:messages", self.prefix)
    }

    /// The place of a message that may come again.
    pub(super) fn message_key(&self, room: &str, key: &str) -> String {
        format!("{}:{{{room}}}:key:{key}", self.prefix)
    }

    /// The channel of a room.
    pub(super) fn room_channel(&self, room: &str) -> String {
        format!("{}:{{{room}}}:live", self.prefix)
    }

    /// The room of a channel; `None`: it is that of no room.
    pub(super) fn room_of<'c>(&self, channel: &'c str) -> Option<&'c str> {
        let rest = channel.strip_prefix(&*self.prefix)?;
        rest.strip_prefix(":{")?.strip_suffix("}:live").filter(|room| !room.contains(':'))
    }

    /// The channel on which nodes say that they have come or are gone.
    pub(super) fn nodes_channel(&self) -> String {
        format!("{}:{{nodes}}:live", self.prefix)
    }

    /// Names the line that everything is of, until something is found to be lost.
    pub(super) fn line(&self) -> String {
        format!("{}:{{nodes}}:line", self.prefix)
    }

    /// The run of the server in which that was begun.
    pub(super) fn begun(&self) -> String {
        format!("{}:{{nodes}}:begun", self.prefix)
    }

    /// The run of the server of which somebody has seen that nothing is lost, or has begun another line.
    pub(super) fn run(&self) -> String {
        format!("{}:{{nodes}}:run", self.prefix)
    }

    /// The last write of each node.
    pub(super) fn marks(&self) -> String {
        format!("{}:{{nodes}}:marks", self.prefix)
    }

    /// The names of all rooms that there may be: a sorted set, all with the score 0, which is in order then.
    pub(super) fn rooms(&self) -> String {
        format!("{}:rooms", self.prefix)
    }

    /// Who has a nickname.
    pub(super) fn nickname(&self, folded: &str) -> String {
        format!("{}:{{k:{folded}}}", self.prefix)
    }

    /// What the scripts of a nickname are given: itself, and who has been put out that had it.
    pub(super) fn claims(&self, folded: &str) -> [String; 2] {
        [self.nickname(folded), self.put_out(folded)]
    }

    /// Sessions that had a nickname and were ended by an admin while their node was lost.
    pub(super) fn put_out(&self, folded: &str) -> String {
        format!("{}:{{k:{folded}}}:out", self.prefix)
    }

    /// What a session is.
    pub(super) fn session(&self, number: u64) -> String {
        format!("{}:{{s:{number:016x}}}", self.prefix)
    }

    /// The nodes: a sorted set by when their leases are over.
    pub(super) fn nodes(&self) -> String {
        format!("{}:{{nodes}}", self.prefix)
    }

    /// What all nodes are configured with.
    pub(super) fn config(&self) -> String {
        format!("{}:{{nodes}}:config", self.prefix)
    }

    /// Says that a node's number has been given out.
    pub(super) fn node_id(&self, node: u32) -> String {
        format!("{}:{{nodes}}:id:{node}", self.prefix)
    }

    /// What all nodes sign tokens with.
    pub(super) fn secret(&self) -> String {
        format!("{}:{{secret}}", self.prefix)
    }

    /// A node's messages from others.
    pub(super) fn inbox(&self, node: u32) -> String {
        format!("{}:{{n:{node}}}:inbox", self.prefix)
    }

    /// The channel that says that there is one.
    pub(super) fn inbox_channel(&self, node: u32) -> String {
        format!("{}:{{n:{node}}}:live", self.prefix)
    }

    /// The channel by which a node's link wakes the thread that hears.
    pub(super) fn wake_channel(&self, node: u32) -> String {
        format!("{}:{{n:{node}}}:wake", self.prefix)
    }
}

/// Slots of a Redis Cluster.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: CRC16 (XMODEM) of what stands in its first braces, or of all of it (Redis Cluster specification, "Key distribution
/// model").
pub(super) fn slot_of(key: &str) -> u16 {
    let bytes = key.as_bytes();
    let tag = memchr::memchr(b'{', bytes).and_then(|open| {
        let rest = &bytes[open + 1..];
        memchr::memchr(b'}', rest).filter(|close| *close > 0).map(|close| &rest[..close])
    });
    let crc = tag.unwrap_or(bytes).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => crc << 1 ^ 0x1021,
        })
    });
    crc % SLOTS as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of("123456789"), 0x31c3, "the example of the specification");
        assert_eq!(slot_of("foo"), 12_182, "as CLUSTER KEYSLOT says");
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("foo{}{bar}"), slot_of("foo{}{bar}"), "empty braces are none");
        assert_ne!(slot_of("foo{}{bar}"), slot_of("bar"));
    }

    #[test]
    fn channels_of_rooms_are_told_from_others() {
        let keys = Keys::new("p");
        assert_eq!(keys.room_of(&keys.room_channel("a.b")), Some("a.b"));
        assert_eq!(keys.room_of(&keys.inbox_channel(7)), None);
        assert_eq!(Keys::new("q").room_of(&keys.room_channel("a")), None);
        let slots: Vec<u16> = keys.room("a").iter().map(|key| slot_of(key)).collect();
        assert!(slots.iter().all(|slot| *slot == slot_of(&keys.room_channel("a"))));
    }
}
