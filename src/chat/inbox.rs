//! What was said to a user alone while the connection was gone, to be told when it is back.
//!
//! Private messages are numbered and stay until the client says that it has received them: the connection that they are
//! told on may break before it reads them. What else there is to tell is told once.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::{Nickname, RoomName};
use super::refusal::LeaveReason;

/// What a kept item costs beside its text: the item itself and its bookkeeping.
const ITEM_BYTES: usize = 128;

/// Something kept for a user who is away.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Kept {
    /// A private message.
    Private {
        /// Its place in the inbox, from 1; none while it is in none.
        offset: Option<u64>,
        /// Who sent it.
        sender: Nickname,
        /// Whom it is for.
        target: Nickname,
        /// What it says.
        content: Arc<str>,
        /// When it came, in milliseconds since the Unix epoch.
        timestamp_ms: u64,
        /// What tells its command from all others, where it may come by two ways.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Box<str>>,
    },
    /// A word of an admin to many.
    System {
        /// Who said it.
        sender: Nickname,
        /// What it says.
        content: Arc<str>,
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
    /// The place of a private message.
    pub fn offset(&self) -> Option<u64> {
        if let Kept::Private { offset, .. } = self { *offset } else { None }
    }

    /// How many bytes it counts.
    pub fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Kept::Private { content, key, .. } => content.len() + key.as_ref().map_or(0, |key| key.len()),
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
    /// How many of the items the present connection has been told.
    told: usize,
    /// How many of them are an admin's words.
    systems: usize,
}

/// How an inbox was at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    items: usize,
    last_offset: u64,
}

impl Inbox {
    /// How it is now, as long as nothing is told or received.
    pub fn mark(&self) -> Mark {
        Mark { items: self.items.len(), last_offset: self.last_offset }
    }

    /// Keeps `items` as if they had come at the moment of the mark, before all that came since, of which nobody has been told.
    /// They are kept whatever the bounds: the caller has its own.
    pub fn keep_at(&mut self, mark: Mark, items: impl IntoIterator<Item = Kept>) {
        let before = self.items.len();
        for item in items {
            self.push(item);
        }
        let kept = self.items.len() - before;
        let since = &mut self.items.make_contiguous()[mark.items..];
        since.rotate_right(kept);
        let offsets = since.iter_mut().filter_map(|item| match item {
            Kept::Private { offset, .. } => Some(offset),
            _ => None,
        });
        for (offset, place) in offsets.zip(mark.last_offset + 1..) {
            *offset = Some(place);
        }
    }

    /// Keeps something, and says whether there was place for it. A private message gets its own place. Words of admins take
    /// at most half of the places, so that they cannot keep private messages out.
    pub fn keep(&mut self, item: Kept, bounds: Bounds) -> bool {
        let bytes = item.bytes();
        let is_system = matches!(item, Kept::System { .. });
        if self.items.len() >= bounds.items
            || self.bytes + bytes > bounds.bytes
            || is_system && self.systems >= bounds.items.div_ceil(2)
        {
            return false;
        }
        self.push(item);
        true
    }

    /// The inbox that a session had before the server was started: its last place, and what has not been received.
    pub fn restored(last_offset: u64, items: impl IntoIterator<Item = Kept>) -> Self {
        let mut inbox = Inbox::default();
        for item in items {
            inbox.bytes += item.bytes();
            inbox.systems += usize::from(matches!(item, Kept::System { .. }));
            inbox.items.push_back(item);
        }
        inbox.last_offset = last_offset;
        inbox
    }

    /// Puts what has been read of its user's inbox before everything else, of which the connection has been told nothing yet. What came by
    /// [`Inbox::put`] meanwhile may have been read too.
    pub fn put_read(&mut self, items: Vec<Kept>) {
        debug_assert_eq!(self.told, 0, "what is read comes first");
        let Some(last) = items.last().and_then(Kept::offset) else { return };
        self.received(last);
        self.last_offset = self.last_offset.max(last);
        for item in items.into_iter().rev() {
            self.bytes += item.bytes();
            self.items.push_front(item);
        }
    }

    /// Puts a private message behind everything else that has its place in the user's inbox already, unless it is here.
    pub fn put(&mut self, item: Kept) {
        if let Some(offset) = item.offset().filter(|offset| *offset > self.last_offset) {
            self.last_offset = offset;
            self.bytes += item.bytes();
            self.items.push_back(item);
        }
    }

    /// Takes all private messages out, and begins anew with their places.
    pub fn take_private(&mut self) -> Vec<Kept> {
        let (private, others): (VecDeque<Kept>, VecDeque<Kept>) =
            self.items.drain(..).partition(|item| matches!(item, Kept::Private { .. }));
        (self.items, self.bytes) = (others, self.bytes - private.iter().map(Kept::bytes).sum::<usize>());
        (self.last_offset, self.told) = (0, 0);
        private.into()
    }

    /// All that is kept, in order.
    pub fn items(&self) -> impl Iterator<Item = &Kept> {
        self.items.iter()
    }

    /// The last place given.
    pub fn last_offset(&self) -> u64 {
        self.last_offset
    }

    /// The private messages.
    pub fn private(&self) -> impl Iterator<Item = &Kept> {
        self.items.iter().filter(|item| matches!(item, Kept::Private { .. }))
    }

    fn push(&mut self, mut item: Kept) {
        if let Kept::Private { offset, .. } = &mut item {
            self.last_offset += 1;
            *offset = Some(self.last_offset);
        }
        self.systems += usize::from(matches!(item, Kept::System { .. }));
        self.bytes += item.bytes();
        self.items.push_back(item);
    }

    /// A connection is there that has been told nothing yet.
    pub fn begin_telling(&mut self) {
        self.told = 0;
    }

    /// The next item that the present connection is to be told, in order. Private messages stay, everything else is told once.
    pub fn tell_next(&mut self) -> Option<Kept> {
        let next = self.items.get(self.told)?.clone();
        if let Kept::Private { .. } = next {
            self.told += 1;
        } else {
            self.remove(self.told);
        }
        Some(next)
    }

    /// Whether there is something that the present connection has not been told.
    pub fn has_untold(&self) -> bool {
        self.told < self.items.len()
    }

    /// The client has received the private messages up to `offset`. Returns whether there were any that it had not.
    pub fn received(&mut self, offset: u64) -> bool {
        let before = self.items.len();
        let is_received = |item: &Kept| matches!(item, Kept::Private { offset: o, .. } if *o <= Some(offset));
        while let Some(place) = self.items.iter().position(is_received) {
            self.remove(place);
        }
        self.items.len() < before
    }

    /// The user is in a room again: takes out that it was put out before, if it has not been told so, which is not true any more behind
    /// everything else.
    pub fn take_expelled(&mut self, room: &RoomName) -> Option<Kept> {
        let is_about = |item: &Kept| matches!(item, Kept::Expelled { room: other, .. } if other == room);
        let mut last = None;
        while let Some(place) = self.items.iter().position(is_about) {
            last = self.items.get(place).cloned();
            self.remove(place);
        }
        last
    }

    /// How many items are kept.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are `items` and `bytes` beside which as much as the bounds say has no place.
    pub fn is_full_beside(&self, items: usize, bytes: usize, bounds: Bounds) -> bool {
        self.items.len() + items >= bounds.items || self.bytes + bytes > bounds.bytes
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn remove(&mut self, place: usize) {
        let Some(item) = self.items.remove(place) else { return };
        self.bytes -= item.bytes();
        self.systems -= usize::from(matches!(item, Kept::System { .. }));
        self.told -= usize::from(place < self.told);
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
        let content = content.into();
        let (sender, target) = (name("alice"), name("bob"));
        inbox
            .keep(Kept::Private { offset: None, sender, target, content, timestamp_ms: 5, key: None }, BOUNDS)
    }

    fn keep_system(inbox: &mut Inbox) -> bool {
        inbox.keep(Kept::System { sender: name("ops"), content: "soon".into(), timestamp_ms: 5 }, BOUNDS)
    }

    /// The offsets of all that a new connection is told, 0 for what has none.
    fn told(inbox: &mut Inbox) -> Vec<u64> {
        inbox.begin_telling();
        let offset = |item| match item {
            Kept::Private { offset, .. } => offset.unwrap(),
            _ => 0,
        };
        std::iter::from_fn(|| inbox.tell_next()).map(offset).collect()
    }

    #[test]
    fn private_messages_stay_until_they_are_received() {
        let mut inbox = Inbox::default();
        assert!(keep(&mut inbox, "one"));
        let room = RoomName::parse("den").unwrap();
        assert!(inbox.keep(Kept::Expelled { room, reason: LeaveReason::Kicked }, BOUNDS));
        assert!(keep(&mut inbox, "two"));
        assert_eq!(told(&mut inbox), [1, 0, 2], "in order");
        assert_eq!(told(&mut inbox), [1, 2], "what is told once is gone");
        inbox.received(1);
        assert_eq!(told(&mut inbox), [2]);
        assert!(!inbox.is_empty(), "told is not received");
        inbox.received(9);
        assert!(inbox.is_empty());
        assert!(keep(&mut inbox, "three"));
        assert_eq!(told(&mut inbox), [3], "a place is never given twice");
    }

    #[test]
    fn what_comes_while_it_is_told_comes_in_its_turn() {
        let mut inbox = Inbox::default();
        assert!(keep(&mut inbox, "one") && keep(&mut inbox, "two"));
        inbox.begin_telling();
        assert!(matches!(inbox.tell_next(), Some(Kept::Private { offset: Some(1), .. })));
        inbox.received(1);
        assert!(keep(&mut inbox, "three") && inbox.has_untold());
        assert!(matches!(inbox.tell_next(), Some(Kept::Private { offset: Some(2), .. })));
        assert!(matches!(inbox.tell_next(), Some(Kept::Private { offset: Some(3), .. })));
        assert!(inbox.tell_next().is_none() && !inbox.has_untold());
    }

    #[test]
    fn what_was_in_doubt_comes_before_what_came_since() {
        let contents = |inbox: &mut Inbox| -> Vec<(Option<u64>, String)> {
            inbox.begin_telling();
            let content = |item| match item {
                Kept::Private { offset, content, .. } => (offset, content.to_string()),
                _ => (None, String::new()),
            };
            std::iter::from_fn(|| inbox.tell_next()).map(content).collect()
        };
        let private = |content: &str| {
            let (sender, target) = (name("alice"), name("bob"));
            Kept::Private {
                offset: None,
                sender,
                target,
                content: content.into(),
                timestamp_ms: 5,
                key: None,
            }
        };
        let mut inbox = Inbox::default();
        assert!(keep(&mut inbox, "old"));
        let mark = inbox.mark();
        assert!(keep(&mut inbox, "new"));
        let system = Kept::System { sender: name("ops"), content: "soon".into(), timestamp_ms: 5 };
        inbox.keep_at(mark, [private("a"), system, private("b")]);
        let expected = [(Some(1), "old"), (Some(2), "a"), (None, ""), (Some(3), "b"), (Some(4), "new")];
        assert_eq!(contents(&mut inbox), expected.map(|(offset, content)| (offset, content.to_owned())));
        inbox.keep_at(inbox.mark(), [private("c"), private("d")]);
        assert_eq!(contents(&mut inbox).last().unwrap(), &(Some(6), "d".to_owned()), "whatever the bounds");
        assert!(!inbox.keep(private("e"), BOUNDS), "but then there is no place for more");
    }

    #[test]
    fn what_is_read_of_the_users_inbox_comes_first_and_once() {
        let at = |place: u64| {
            let (sender, target) = (name("alice"), name("bob"));
            Kept::Private {
                offset: Some(place),
                sender,
                target,
                content: "x".into(),
                timestamp_ms: 5,
                key: None,
            }
        };
        let mut inbox = Inbox::default();
        assert!(keep_system(&mut inbox));
        inbox.put(at(4));
        inbox.put(at(5));
        inbox.put(at(5));
        inbox.put_read(vec![at(2), at(4)]);
        assert_eq!(told(&mut inbox), [2, 4, 0, 5]);
        inbox.put(at(3));
        inbox.put(at(7));
        assert_eq!(told(&mut inbox), [2, 4, 5, 7]);
        let bytes = inbox.bytes;
        assert_eq!(bytes, inbox.items.iter().map(Kept::bytes).sum::<usize>());
        inbox.push(Kept::System { sender: name("ops"), content: "soon".into(), timestamp_ms: 5 });
        assert_eq!(inbox.take_private().iter().filter_map(Kept::offset).collect::<Vec<_>>(), [2, 4, 5, 7]);
        inbox.put_read(vec![at(2)]);
        assert_eq!(told(&mut inbox), [2, 0], "from the beginning, after the connection was lost");
        assert!(inbox.received(2) && inbox.is_empty() && inbox.bytes == 0);
    }

    #[test]
    fn an_expulsion_that_is_over_is_not_told() {
        let mut inbox = Inbox::default();
        for room in ["den", "ops"] {
            let room = RoomName::parse(room).unwrap();
            assert!(inbox.keep(Kept::Expelled { room, reason: LeaveReason::Kicked }, BOUNDS));
        }
        let den = RoomName::parse("DEN").unwrap();
        assert!(matches!(inbox.take_expelled(&den), Some(Kept::Expelled { room, .. }) if room == den));
        assert!(inbox.take_expelled(&den).is_none());
        assert!(matches!(inbox.tell_next(), Some(Kept::Expelled { room, .. }) if room.as_str() == "ops"));
        assert!(inbox.tell_next().is_none());
    }

    #[test]
    fn it_is_bounded_in_items_and_bytes() {
        let mut inbox = Inbox::default();
        assert!(!keep(&mut inbox, &"x".repeat(1000 - ITEM_BYTES + 1)));
        assert!(keep(&mut inbox, &"x".repeat(1000 - ITEM_BYTES)));
        assert!(!keep(&mut inbox, "x"), "no bytes left");
        assert!(inbox.received(1) && !inbox.received(1), "it has been received once");
        for kept in 0..3 {
            assert_eq!(inbox.len(), kept);
            assert!(keep(&mut inbox, "x"));
        }
        assert!(!keep(&mut inbox, "x"), "no places left");
    }

    #[test]
    fn what_is_in_doubt_elsewhere_takes_places_too() {
        let mut inbox = Inbox::default();
        assert!(keep(&mut inbox, "x"));
        let left = BOUNDS.bytes - (ITEM_BYTES + 1);
        assert!(!inbox.is_full_beside(1, left, BOUNDS), "one kept, one in doubt, and place for this one");
        assert!(inbox.is_full_beside(2, 0, BOUNDS), "no place");
        assert!(inbox.is_full_beside(0, left + 1, BOUNDS), "no bytes");
    }

    #[test]
    fn words_of_admins_leave_places_for_private_messages() {
        let mut inbox = Inbox::default();
        assert!(keep_system(&mut inbox) && keep_system(&mut inbox));
        assert!(!keep_system(&mut inbox), "two of three places");
        assert!(keep(&mut inbox, "x"));
        assert_eq!(told(&mut inbox), [0, 0, 1]);
        assert!(keep_system(&mut inbox), "the places are free again");
    }

    #[test]
    fn what_is_restored_goes_on_as_it_was() {
        let mut inbox = Inbox::default();
        assert!(keep_system(&mut inbox) && keep_system(&mut inbox) && keep(&mut inbox, "one"));
        assert_eq!((inbox.last_offset(), inbox.items().count(), inbox.private().count()), (1, 3, 1));
        let mut restored = Inbox::restored(inbox.last_offset(), inbox.items().cloned());
        for inbox in [&mut inbox, &mut restored] {
            assert!(!keep(inbox, "x"), "no places left");
            assert_eq!(told(inbox), [0, 0, 1]);
            assert!(keep_system(inbox) && keep_system(inbox));
            assert_eq!(told(inbox), [1, 0, 0]);
            assert!(!keep(inbox, &"x".repeat(1000 - 2 * ITEM_BYTES - 2)), "no bytes left");
            assert!(keep(inbox, &"x".repeat(1000 - 2 * ITEM_BYTES - 3)));
            assert_eq!(told(inbox), [1, 2]);
            assert_eq!(inbox.last_offset(), 2);
        }
        let mut inbox = Inbox::default();
        assert!(keep_system(&mut inbox) && keep_system(&mut inbox));
        let mut restored = Inbox::restored(inbox.last_offset(), inbox.items().cloned());
        assert!(!keep_system(&mut restored) && keep(&mut restored, "x"), "admins have their places already");
    }
}
