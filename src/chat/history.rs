//! What a room remembers: its last messages, bounded by their number, their bytes and their age.

use std::collections::VecDeque;
use std::sync::Arc;

use super::name::Nickname;

/// What an entry costs beside its content: the entry, the content's header and the allocator's share.
pub const ENTRY_BYTES: usize = 96;

/// How much a room remembers; the tightest bound counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Messages. 0: none are remembered.
    pub count: usize,
    /// Bytes, with a fixed cost a message. 0: no bound of its own.
    pub bytes: usize,
    /// Milliseconds. 0: no bound of its own.
    pub age_ms: u64,
}

/// One message.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place.
    pub offset: u64,
    /// When it came, in milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Who sent it.
    pub sender: Nickname,
    /// What it says.
    pub content: Arc<str>,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.content.len()
    }
}

/// The last messages of a room, their offsets without a gap.
#[derive(Debug)]
pub struct History {
    bounds: Bounds,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Messages after this offset are in no store yet, and stay whatever the bounds.
    pinned_after: u64,
}

impl History {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        History { bounds, entries: VecDeque::new(), bytes: 0, pinned_after: u64::MAX }
    }

    /// Goes on within other bounds, and forgets what is over them.
    pub fn set_bounds(&mut self, bounds: Bounds, now_ms: u64) {
        self.bounds = bounds;
        self.trim(now_ms);
    }

    /// Keeps what comes after offset `stored`, whatever the bounds, until it has been stored too.
    pub fn pin_after(&mut self, stored: u64, now_ms: u64) {
        self.pinned_after = stored;
        self.trim(now_ms);
    }

    /// The first offset that is here.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|oldest| oldest.offset)
    }

    fn may_drop_oldest(&self) -> bool {
        self.first().is_some_and(|first| first <= self.pinned_after)
    }

    /// Adds the next message, and forgets those that are over the bounds.
    pub fn push(&mut self, entry: Entry, now_ms: u64) {
        debug_assert!(self.entries.back().is_none_or(|last| last.offset + 1 == entry.offset));
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        self.trim(now_ms);
    }

    fn trim(&mut self, now_ms: u64) {
        self.expire(now_ms);
        while (self.entries.len() > self.bounds.count
            || (self.bounds.bytes > 0 && self.bytes > self.bounds.bytes))
            && self.drop_oldest()
        {}
    }

    /// Forgets the messages that are too old.
    pub fn expire(&mut self, now_ms: u64) {
        while self.next_expiry_ms().is_some_and(|at| at <= now_ms) && self.drop_oldest() {}
    }

    /// When the oldest message will be too old.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        let oldest = self.entries.front().filter(|_| self.bounds.age_ms > 0)?;
        Some(oldest.timestamp_ms.saturating_add(self.bounds.age_ms))
    }

    /// Forgets the oldest message, and says whether there was one that may be forgotten.
    pub fn drop_oldest(&mut self) -> bool {
        if !self.may_drop_oldest() {
            return false;
        }
        let oldest = self.entries.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, Entry::bytes);
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        oldest.is_some()
    }

    /// How much memory the messages take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether every message after offset `after` up to `head`, the room's last, is here.
    pub fn reaches_back_to(&self, after: u64, head: u64) -> bool {
        after == head
            || (after < head && self.entries.front().is_some_and(|oldest| oldest.offset <= after + 1))
    }

    /// The messages after an offset, in order.
    pub fn after(&self, offset: u64) -> impl Iterator<Item = &Entry> + '_ {
        self.entries.range(self.place_after(offset)..)
    }

    /// Up to `limit` messages in order, with at most `bytes_max` of content but at least one. After `after` the first ones
    /// that follow it; otherwise the last ones, before `before` if that is given. Both bounds are exclusive.
    pub fn page(
        &self,
        before: Option<u64>,
        after: Option<u64>,
        limit: usize,
        bytes_max: usize,
    ) -> Vec<Entry> {
        let end = before.map_or(self.entries.len(), |before| self.place_after(before.saturating_sub(1)));
        let start = after.map_or(0, |after| self.place_after(after)).min(end);
        let (mut bytes, mut is_first) = (0, true);
        let mut fits = |entry: &&Entry| {
            bytes += entry.content.len();
            std::mem::take(&mut is_first) || bytes <= bytes_max
        };
        let entries = self.entries.range(start..end);
        if after.is_some() {
            return entries.take(limit).take_while(|entry| fits(entry)).cloned().collect();
        }
        let mut page: Vec<Entry> =
            entries.rev().take(limit).take_while(|entry| fits(entry)).cloned().collect();
        page.reverse();
        page
    }

    /// Where the first message after `offset` is, in the ring.
    fn place_after(&self, offset: u64) -> usize {
        let first = self.entries.front().map_or(0, |oldest| oldest.offset);
        // Clients choose this offset, so it may be the largest number that there is.
        let place = offset.saturating_add(1).saturating_sub(first);
        usize::try_from(place).map_or(self.entries.len(), |place| place.min(self.entries.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(offset: u64, timestamp_ms: u64, bytes: usize) -> Entry {
        let content = "x".repeat(bytes.max(1)).into();
        Entry { offset, timestamp_ms, sender: Nickname::parse("alice").unwrap(), content }
    }

    proptest! {
        #[test]
        fn remembers_the_last_within_all_bounds(
            count in 0usize..20, bytes in 0usize..3000, age_ms in 0u64..50, first in 1u64..5,
            messages in prop::collection::vec((0u64..10, 1usize..300), 0..60), later in 0u64..100,
        ) {
            let mut history = History::new(Bounds { count, bytes, age_ms });
            let mut model: Vec<(u64, u64, usize)> = Vec::new();
            let mut now = 0;
            let fits = |model: &[(u64, u64, usize)], now: u64| {
                model.len() <= count
                    && (bytes == 0 || model.iter().map(|m| m.2 + ENTRY_BYTES).sum::<usize>() <= bytes)
                    && (age_ms == 0 || model.first().is_none_or(|m| m.1 + age_ms > now))
            };
            for (index, (pause, size)) in messages.iter().enumerate() {
                now += pause;
                let offset = first + index as u64;
                history.push(entry(offset, now, *size), now);
                model.push((offset, now, *size));
                while !fits(&model, now) { model.remove(0); }
                let offsets: Vec<u64> = history.after(0).map(|e| e.offset).collect();
                prop_assert_eq!(offsets, model.iter().map(|m| m.0).collect::<Vec<_>>());
                prop_assert_eq!(history.bytes(), model.iter().map(|m| m.2 + ENTRY_BYTES).sum::<usize>());
            }
            now += later;
            history.expire(now);
            while !fits(&model, now) { model.remove(0); }
            prop_assert_eq!(history.len(), model.len());
        }

        #[test]
        fn pages_are_cut_at_the_far_end(
            held in 0u64..30, first in 1u64..10, before in prop::option::of(0u64..45), after in prop::option::of(0u64..45),
            limit in 1usize..12, bytes_max in 1usize..900,
        ) {
            let mut history = History::new(Bounds { count: 100, bytes: 0, age_ms: 0 });
            for offset in first..first + held { history.push(entry(offset, 0, 100), 0); }
            let within: Vec<u64> = (first..first + held)
                .filter(|o| before.is_none_or(|b| *o < b) && after.is_none_or(|a| *o > a)).collect();
            let fit = limit.min((bytes_max / 100).max(1)).min(within.len());
            let expected = if after.is_some() { &within[..fit] } else { &within[within.len() - fit..] };
            let page: Vec<u64> = history.page(before, after, limit, bytes_max).iter().map(|e| e.offset).collect();
            prop_assert_eq!(page, expected);
        }

        #[test]
        fn reaches_back_only_without_a_gap(held in 0u64..10, first in 1u64..10, after in 0u64..25) {
            let mut history = History::new(Bounds { count: 100, bytes: 0, age_ms: 0 });
            for offset in first..first + held { history.push(entry(offset, 0, 1), 0); }
            let head = first + held - 1;
            let missed: Vec<u64> = (after + 1..=head).collect();
            let is_whole = after <= head && missed.iter().all(|o| history.after(0).any(|e| e.offset == *o));
            prop_assert_eq!(history.reaches_back_to(after, head), is_whole);
        }
    }

    #[test]
    fn other_bounds_hold_at_once_and_for_what_comes() {
        let mut history = History::new(Bounds { count: 4, bytes: 0, age_ms: 0 });
        let offsets = |history: &History| history.after(0).map(|e| e.offset).collect::<Vec<_>>();
        (1..=4).for_each(|offset| history.push(entry(offset, offset, 1), offset));
        history.set_bounds(Bounds { count: 3, bytes: 0, age_ms: 10 }, 5);
        assert_eq!(offsets(&history), [2, 3, 4]);
        history.set_bounds(Bounds { count: 5, bytes: 0, age_ms: 10 }, 12);
        assert_eq!(offsets(&history), [3, 4], "too old by now");
        (5..=8).for_each(|offset| history.push(entry(offset, 12, 1), 12));
        assert_eq!(offsets(&history), [4, 5, 6, 7, 8]);
        assert!(!history.is_empty());
    }

    #[test]
    fn what_is_not_stored_yet_is_kept_whatever_the_bounds() {
        let mut history = History::new(Bounds { count: 2, bytes: 0, age_ms: 10 });
        history.pin_after(0, 0);
        for offset in 1..=5 {
            history.push(entry(offset, 0, 1), 0);
        }
        history.expire(1000);
        assert_eq!((history.len(), history.first()), (5, Some(1)));
        assert!(!history.drop_oldest());
        history.pin_after(4, 5);
        assert_eq!((history.len(), history.first()), (2, Some(4)));
        history.pin_after(5, 1000);
        assert_eq!(history.first(), None);
    }

    #[test]
    fn no_offset_is_too_large_to_ask_for() {
        let mut history = History::new(Bounds { count: 100, bytes: 0, age_ms: 0 });
        for last in [0, 3] {
            for offset in 1..=last {
                history.push(entry(offset, 0, 1), 0);
            }
            let page = |before, after| history.page(before, after, 50, 1000).len() as u64;
            assert_eq!(history.after(u64::MAX).count(), 0);
            assert_eq!(page(None, Some(u64::MAX)), 0);
            assert_eq!(page(Some(u64::MAX), None), last);
            assert_eq!((page(Some(0), None), page(Some(0), Some(u64::MAX))), (0, 0));
            assert!(!history.reaches_back_to(u64::MAX, last));
        }
    }

    #[test]
    fn an_empty_history_owns_no_memory() {
        let mut history = History::new(Bounds { count: 100, bytes: 0, age_ms: 10 });
        for offset in 1..=50 {
            history.push(entry(offset, 5, 10), 5);
        }
        assert_eq!(history.next_expiry_ms(), Some(15));
        history.expire(14);
        assert_eq!(history.len(), 50);
        history.expire(15);
        assert!(history.is_empty() && !history.drop_oldest());
        assert_eq!((history.bytes(), history.entries.capacity()), (0, 0));
        assert_eq!(history.next_expiry_ms(), None);
        history.push(entry(51, 20, 10), 20);
        assert_eq!(history.after(0).map(|e| e.offset).collect::<Vec<_>>(), [51], "offsets count on");
    }
}
