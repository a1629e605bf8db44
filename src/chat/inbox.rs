//! What was said to a user alone while the connection was gone, to be told when it is back.
//!
//! Private messages are numbered and stay until the client says that it has received them: the connection that they are
//! told on may break before it reads them. What else there is to tell is told once.

use std::collections::VecDeque;
use std::sync::Arc;

use super::name::{Nickname, RoomName};
use super::refusal::LeaveReason;

/// What a kept item costs beside its text: the item itself and its bookkeeping.
const ITEM_BYTES: usize = 128;

/// Something kept for a user who is away.
#[derive(Debug, Clone)]
pub enum Kept {
    /// A private message.
    Private {
        /// Its place in the inbox, from 1.
        offset: u64,
        /// Who sent it.
        sender: Nickname,
        /// Whom it is for.
        target: Nickname,
        /// What it says.
        content: Arc<str>,
        /// When it came, in milliseconds since the Unix epoch.
        timestamp_ms: u64,
    },
    /// A word of an admin to many.
    System {
        /// Who said it.
        sender: Nickname,
        /// What it says.
        content: Box<str>,
        /// When, in milliseconds since the Unix epoch.
        timestamp_ms: u64,
    },
    /// A host has put the user out of a room.
    Expelled {
        /// Which.
        room: RoomName,
        /// Why.
        reason: LeaveReason,
    },
}

impl Kept {
    fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Kept::Private { content, .. } => content.len(),
                Kept::System { content, .. } => content.len(),
                Kept::Expelled { .. } => 0,
            }
    }
}

/// How much may be kept for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Items.
    pub items: usize,
    /// Bytes, with a fixed cost an item.
    pub bytes: usize,
}

/// What is kept for one session. Owns no memory while it is empty.
#[derive(Debug, Default)]
pub struct Inbox {
    items: VecDeque<Kept>,
    bytes: usize,
    last_offset: u64,
}

impl Inbox {
    /// Keeps a private message, and says whether it could.
    pub fn keep_private(
        &mut self,
        sender: Nickname,
        target: Nickname,
        content: Arc<str>,
        timestamp_ms: u64,
        bounds: Bounds,
    ) -> bool {
        let offset = self.last_offset + 1;
        let is_kept = self.keep(Kept::Private { offset, sender, target, content, timestamp_ms }, bounds);
        if is_kept {
            self.last_offset = offset;
        }
        is_kept
    }

    /// Keeps something that is told once, and says whether it could.
    pub fn keep(&mut self, item: Kept, bounds: Bounds) -> bool {
        let bytes = item.bytes();
        if self.items.len() >= bounds.items || self.bytes + bytes > bounds.bytes {
            return false;
        }
        self.bytes += bytes;
        self.items.push_back(item);
        true
    }

    /// Everything kept, in order, for a connection that is there again. Private messages stay.
    pub fn tell(&mut self) -> Vec<Kept> {
        let told: Vec<Kept> = self.items.iter().cloned().collect();
        self.retain(|item| matches!(item, Kept::Private { .. }));
        told
    }

    /// The client has received the private messages up to `offset`.
    pub fn received(&mut self, offset: u64) {
        self.retain(|item| !matches!(item, Kept::Private { offset: o, .. } if *o <= offset));
    }

    /// How many items are kept.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn retain(&mut self, keep: impl Fn(&Kept) -> bool) {
        self.items.retain(|item| keep(item));
        self.bytes = self.items.iter().map(Kept::bytes).sum();
        if self.items.is_empty() {
            self.items = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { items: 3, bytes: 1000 };

    fn name(name: &str) -> Nickname {
        Nickname::parse(name).unwrap()
    }

    fn keep(inbox: &mut Inbox, content: &str) -> bool {
        inbox.keep_private(name("alice"), name("bob"), content.into(), 5, BOUNDS)
    }

    fn offsets(told: &[Kept]) -> Vec<u64> {
        told.iter()
            .map(|item| match item {
                Kept::Private { offset, .. } => *offset,
                _ => 0,
            })
            .collect()
    }

    #[test]
    fn private_messages_stay_until_they_are_received() {
        let mut inbox = Inbox::default();
        assert!(keep(&mut inbox, "one"));
        let room = RoomName::parse("den").unwrap();
        assert!(inbox.keep(Kept::Expelled { room, reason: LeaveReason::Kicked }, BOUNDS));
        assert!(keep(&mut inbox, "two"));
        assert_eq!(offsets(&inbox.tell()), [1, 0, 2], "in order");
        assert_eq!(offsets(&inbox.tell()), [1, 2], "what is told once is gone");
        inbox.received(1);
        assert_eq!(offsets(&inbox.tell()), [2]);
        inbox.received(9);
        assert!(inbox.is_empty());
        assert!(keep(&mut inbox, "three"));
        assert_eq!(offsets(&inbox.tell()), [3], "a place is never given twice");
    }

    #[test]
    fn it_is_bounded_in_items_and_bytes() {
        let mut inbox = Inbox::default();
        assert!(!keep(&mut inbox, &"x".repeat(1000 - ITEM_BYTES + 1)));
        assert!(keep(&mut inbox, &"x".repeat(1000 - ITEM_BYTES)));
        assert!(!keep(&mut inbox, "x"), "no bytes left");
        inbox.received(1);
        for _ in 0..3 {
            assert!(keep(&mut inbox, "x"));
        }
        assert!(!keep(&mut inbox, "x"), "no places left");
    }
}
