//! A hierarchical timer wheel with a resolution of one millisecond.
//!
//! | level | slots | a slot spans | the level spans |
//! |-------|-------|--------------|-----------------|
//! | 0     | 64    | 1 ms         | 64 ms           |
//! | 1     | 64    | 64 ms        | 4.1 s           |
//! | 2     | 64    | 4.1 s        | 4.4 min         |
//! | 3     | 64    | 4.4 min      | 4.7 h           |
//! | 4     | 64    | 4.7 h        | 12.4 days       |
//! | 5     | 64    | 12.4 days    | 2.2 years       |
//!
//! An entry lies at the level of the highest six-bit digit in which its deadline differs from the wheel's own time, in
//! the slot that this digit names. When time reaches a slot of a higher level, its entries move down, each at most once
//! a level. A 64-bit map a level finds the next busy slot in one instruction. Deadlines beyond the last level wait in
//! its farthest slot and are sorted in again when it comes up.
//!
//! Entries are linked lists through one slab, so that setting and cancelling are O(1) and allocate nothing once the
//! slab has grown. Users are lazy all the same: traffic only notes when it was last seen, and the entry looks at that
//! when it fires and moves on.

use std::num::NonZeroU32;

use slab::Slab;

use super::slots::Slots;
use super::time::Tick;

const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = 6;
const SPAN_MS: u64 = 1 << (DIGIT_BITS * LEVELS as u32);
const NONE: u32 = u32::MAX;

/// Timers that each carry a `T`.
#[derive(Debug)]
pub struct Wheel<T> {
    entries: Slab<Entry<T>>,
    levels: [Level; LEVELS],
    /// Every entry due at or before this moment has fired or stands in `due`.
    now: u64,
    /// Entries whose moment has come, in order of deadline, not yet taken by [`Wheel::expire`].
    due: List,
}

/// Names one timer of a [`Wheel`] until it fires or is cancelled. One more than the place of its entry, so that an `Option` of it is
/// no larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey(NonZeroU32);

#[derive(Debug)]
struct Entry<T> {
    value: T,
    deadline: u64,
    place: Place,
    previous: u32,
    next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Slot { level: u8, slot: u8 },
    Due,
}

#[derive(Debug)]
struct Level {
    busy: u64,
    slots: [List; SLOTS],
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NONE, tail: NONE };

impl<T> Wheel<T> {
    /// A wheel without timers whose time is `now`.
    pub fn new(now: Tick) -> Self {
        Wheel {
            entries: Slab::new(),
            levels: std::array::from_fn(|_| Level { busy: 0, slots: [EMPTY; SLOTS] }),
            now: now.0,
            due: EMPTY,
        }
    }

    /// Bytes of one timer.
    pub const ENTRY_BYTES: usize = Slots::<Entry<T>>::PLACE_BYTES - size_of::<u32>();

    /// Sets a timer. A `deadline` that has passed fires at the next [`Wheel::expire`].
    pub fn insert(&mut self, deadline: Tick, value: T) -> TimerKey {
        let entry = Entry { value, deadline: deadline.0, place: Place::Due, previous: NONE, next: NONE };
        let key = self.entries.insert(entry) as u32;
        self.link(key);
        TimerKey(NonZeroU32::new(key + 1).expect("fewer than 2^32 timers"))
    }

    /// Removes a timer that has not fired.
    ///
    /// # Panics
    /// When it has: the owner of a key forgets it when its timer fires.
    pub fn cancel(&mut self, key: TimerKey) -> T {
        let key = key.0.get() - 1;
        self.unlink(key);
        self.entries.remove(key as usize).value
    }

    /// The moment of the next timer, or an earlier one: at a higher level only the slot is known, and looking again
    /// when its time has come costs one short turn.
    pub fn next_deadline(&self) -> Option<Tick> {
        if self.due.head != NONE {
            return Some(Tick(self.now));
        }
        self.next_slot().map(|(_, _, at)| Tick(at))
    }

    /// Moves time to `now` and takes the next timer that is due, in order of deadline; `None` when there is no more.
    pub fn expire(&mut self, now: Tick) -> Option<(Tick, T)> {
        self.advance(now.0);
        if self.due.head == NONE {
            return None;
        }
        let key = self.due.head;
        self.unlink(key);
        let entry = self.entries.remove(key as usize);
        Some((Tick(entry.deadline), entry.value))
    }

    /// Moves time to `now`, and says whether a timer is due.
    pub fn is_due(&mut self, now: Tick) -> bool {
        self.advance(now.0);
        self.due.head != NONE
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn advance(&mut self, now: u64) {
        while let Some((level, slot, at)) = self.next_slot() {
            if at > now {
                break;
            }
            self.now = self.now.max(at);
            let mut key = std::mem::replace(&mut self.levels[level].slots[slot], EMPTY).head;
            self.levels[level].busy &= !(1 << slot);
            while key != NONE {
                let next = self.entries[key as usize].next;
                self.link(key);
                key = next;
            }
        }
        self.now = self.now.max(now);
    }

    /// The first busy slot and the moment at which it comes up. Levels are looked at from the finest: everything in a
    /// lower level lies before the next slot of a higher one.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        for (level, Level { busy, .. }) in self.levels.iter().enumerate() {
            if *busy == 0 {
                continue;
            }
            let shift = DIGIT_BITS * level as u32;
            let digit = (self.now >> shift) as usize % SLOTS;
            // The slot of the digit itself, bit 0 now, is busy in the top level only, where it is the farthest of all.
            let ahead = match busy.rotate_right(digit as u32) & !1 {
                0 => SLOTS,
                others => others.trailing_zeros() as usize,
            };
            let at = ((self.now >> shift) + ahead as u64) << shift;
            return Some((level, (digit + ahead) % SLOTS, at));
        }
        None
    }

    fn link(&mut self, key: u32) {
        let deadline = self.entries[key as usize].deadline;
        let place = if deadline <= self.now { Place::Due } else { place_of(self.now, deadline) };
        let list = match place {
            Place::Due => &mut self.due,
            Place::Slot { level, slot } => {
                let level = &mut self.levels[level as usize];
                level.busy |= 1 << slot;
                &mut level.slots[slot as usize]
            }
        };
        let tail = std::mem::replace(&mut list.tail, key);
        if tail == NONE {
            list.head = key;
        } else {
            self.entries[tail as usize].next = key;
        }
        let entry = &mut self.entries[key as usize];
        (entry.place, entry.previous, entry.next) = (place, tail, NONE);
    }

    fn unlink(&mut self, key: u32) {
        let Entry { place, previous, next, .. } = self.entries[key as usize];
        if previous != NONE {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        let list = match place {
            Place::Due => &mut self.due,
            Place::Slot { level, slot } => &mut self.levels[level as usize].slots[slot as usize],
        };
        if list.head == key {
            list.head = next;
        }
        if list.tail == key {
            list.tail = previous;
        }
        if let (NONE, Place::Slot { level, slot }) = (list.head, place) {
            self.levels[level as usize].busy &= !(1 << slot);
        }
    }
}

/// Where a `deadline` after `now` belongs.
fn place_of(now: u64, deadline: u64) -> Place {
    let top = LEVELS as u32 - 1;
    let shift = DIGIT_BITS * top;
    // Farther than the top level reaches from here: its slot just behind the present one comes up last.
    if (deadline >> shift) - (now >> shift) >= SLOTS as u64 {
        return Place::Slot { level: top as u8, slot: ((now >> shift) as usize % SLOTS) as u8 };
    }
    let differs = (now ^ deadline) & (SPAN_MS - 1);
    // Within the top level's reach but across its end: the digit wraps, the level stays the top one.
    let crosses = (now ^ deadline) >= SPAN_MS;
    let level = if crosses { top } else { (63 - differs.leading_zeros()) / DIGIT_BITS };
    let slot = (deadline >> (DIGIT_BITS * level)) as usize % SLOTS;
    Place::Slot { level: level as u8, slot: slot as u8 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u64),
        Cancel(prop::sample::Index),
        Advance(u64),
    }

    fn spread() -> impl Strategy<Value = u64> {
        prop_oneof![
            0u64..3,
            0u64..100,
            0u64..10_000,
            0u64..10_000_000,
            0..SPAN_MS * 2,
            Just(SPAN_MS),
            Just(SPAN_MS - 1)
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => spread().prop_map(Op::Insert),
            1 => any::<prop::sample::Index>().prop_map(Op::Cancel),
            2 => spread().prop_map(Op::Advance),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn behaves_like_a_sorted_map(start in prop_oneof![0u64..1000, SPAN_MS - 100..SPAN_MS + 100, 0..SPAN_MS * 3, 0u64..1 << 50], ops in prop::collection::vec(op(), 1..80)) {
            let mut wheel = Wheel::new(Tick(start));
            let mut now = start;
            // deadline -> how many; keys of those still set
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            let mut keys: Vec<(TimerKey, u64)> = Vec::new();
            for op in ops {
                match op {
                    Op::Insert(ahead) => {
                        let at = now + ahead;
                        keys.push((wheel.insert(Tick(at), at), at));
                        *model.entry(at).or_default() += 1;
                    }
                    Op::Cancel(pick) if !keys.is_empty() => {
                        let (key, at) = keys.swap_remove(pick.index(keys.len()));
                        prop_assert_eq!(wheel.cancel(key), at);
                        let n = model.get_mut(&at).unwrap();
                        *n -= 1;
                        if *n == 0 { model.remove(&at); }
                    }
                    Op::Cancel(_) => {}
                    Op::Advance(by) => {
                        now += by;
                        let is_due = model.keys().next().is_some_and(|first| *first <= now);
                        prop_assert_eq!(wheel.is_due(Tick(now)), is_due);
                        while let Some((deadline, at)) = wheel.expire(Tick(now)) {
                            prop_assert_eq!(deadline, Tick(at));
                            let (&first, n) = model.iter_mut().next().expect("fired without being set");
                            prop_assert_eq!(at, first, "fired out of order");
                            prop_assert!(at <= now, "fired early");
                            *n -= 1;
                            if *n == 0 { model.remove(&first); }
                            let known = keys.iter().position(|(_, a)| *a == at).unwrap();
                            // Equal deadlines fire in order of insertion.
                            keys.remove(known);
                        }
                        prop_assert!(model.keys().next().is_none_or(|first| *first > now), "did not fire");
                    }
                }
                prop_assert_eq!((wheel.len(), wheel.is_empty()), (keys.len(), keys.is_empty()));
                match (wheel.next_deadline(), model.keys().next()) {
                    (None, None) => {}
                    (Some(Tick(told)), Some(&first)) => {
                        prop_assert!(told <= first.max(now), "would sleep through {first}: told {told}");
                        prop_assert!(told > now || first <= now, "would spin: told {told} at {now}");
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_slot_across_the_end_comes_up_before_the_farthest() {
        // Found by the property above: both lie in the top level, and the farther one in the slot of the present.
        let mut wheel = Wheel::new(Tick(0));
        wheel.insert(Tick(SPAN_MS), "near");
        assert!(wheel.expire(Tick(SPAN_MS - 1)).is_none());
        wheel.insert(Tick(2 * SPAN_MS - 1_073_741_824), "far");
        assert_eq!(wheel.next_deadline(), Some(Tick(SPAN_MS)));
    }

    #[test]
    fn a_long_sleep_visits_only_busy_slots() {
        let mut wheel = Wheel::new(Tick(0));
        wheel.insert(Tick(SPAN_MS - 1), ());
        let mut looks = 0;
        let mut now = Tick(0);
        while let Some(next) = wheel.next_deadline() {
            now = next;
            looks += 1;
            if wheel.expire(now).is_some() {
                break;
            }
        }
        assert_eq!((now, looks), (Tick(SPAN_MS - 1), LEVELS));
    }

    #[test]
    fn a_timer_beyond_the_last_level_is_not_looked_at_for_a_whole_turn() {
        for start in [0, SPAN_MS / 3, 7 * SPAN_MS / 2, SPAN_MS * 1000 + 1] {
            let mut wheel = Wheel::new(Tick(start));
            wheel.insert(Tick(start + 3 * SPAN_MS), ());
            let waits = wheel.next_deadline().unwrap().since(Tick(start));
            assert!(waits > SPAN_MS - SPAN_MS / SLOTS as u64, "{waits} from {start}");
        }
    }

    #[test]
    fn a_timer_takes_no_more_than_its_entry() {
        // That a place is free is told by a value that no entry has, and a generation it has none.
        assert_eq!(Wheel::<u64>::ENTRY_BYTES, size_of::<Entry<u64>>());
    }
}
