//! Slots with generations: a table whose keys go stale instead of going wrong.
//!
//! A bare index into a table is a promise that nobody took the place in between. Indices here travel through the
//! kernel (as event tokens), through timers and through other cores, so every [`Id`] carries the generation of its
//! slot, which is bumped when the slot is freed: a late message for a closed connection finds nothing, rather than the
//! stranger who has the slot now. The storage is the `slab` crate's.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};
use slab::Slab;

/// A key into a [`Slots`]: the place, and which of its successive tenants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// The place in the table.
    pub index: u32,
    /// How often the place had been freed before this tenant came.
    pub generation: u32,
}

impl Id {
    /// Both halves in one word, for event tokens.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The inverse of [`Id::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Id { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// A table of values with stable, reusable places.
#[derive(Debug)]
pub struct Slots<T> {
    slab: Slab<T>,
    /// The generation of each place, kept while the place is free. Wraps around after 2^32 tenants of one place.
    generations: Vec<u32>,
}

/// As a place of the slab is, which tells nobody its size: a value, or the next free place.
#[allow(dead_code, reason = "it is only measured")]
enum Place<T> {
    Free(usize),
    Taken(T),
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl<T> Slots<T> {
    /// Bytes of one place, whether it is free or not.
    pub const PLACE_BYTES: usize = size_of::<Place<T>>() + size_of::<u32>();

    /// An empty table with room for `capacity` values. A table that must never stall its core is given its limit here,
    /// because growing moves every value.
    pub fn with_capacity(capacity: usize) -> Self {
        Slots { slab: Slab::with_capacity(capacity), generations: Vec::with_capacity(capacity) }
    }

    /// Puts `value` into a free place.
    ///
    /// # Panics
    /// When the table has 2^32 places: callers bound it far below.
    pub fn insert(&mut self, value: T) -> Id {
        let index = self.slab.insert(value);
        if index == self.generations.len() {
            self.generations.push(0);
        }
        Id { index: u32::try_from(index).expect("table over its bound"), generation: self.generations[index] }
    }

    /// The value of `id`, unless it has been removed.
    pub fn get(&self, id: Id) -> Option<&T> {
        if self.is_current(id) { self.slab.get(id.index as usize) } else { None }
    }

    /// The value of `id`, to be changed, unless it has been removed.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        if self.is_current(id) { self.slab.get_mut(id.index as usize) } else { None }
    }

    /// Takes the value of `id` out and bumps the generation of its place, so that every copy of `id` is stale.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        if !self.is_current(id) {
            return None;
        }
        let value = self.slab.try_remove(id.index as usize)?;
        let generation = &mut self.generations[id.index as usize];
        *generation = generation.wrapping_add(1);
        Some(value)
    }

    /// Whether `id` still has its place.
    pub fn contains(&self, id: Id) -> bool {
        self.is_current(id) && self.slab.contains(id.index as usize)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// All values with their keys, in order of place.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.slab
            .iter()
            .map(|(index, value)| (Id { index: index as u32, generation: self.generations[index] }, value))
    }

    /// How many places there are, free ones among them.
    pub fn places(&self) -> usize {
        self.generations.len()
    }

    /// The values in so many places from one on, with their keys, as [`Slots::iter`] would tell them: for who looks at a large
    /// table in parts.
    pub fn iter_places(&self, from: usize, places: usize) -> impl Iterator<Item = (Id, &T)> {
        let end = self.generations.len().min(from.saturating_add(places));
        (from..end).filter_map(|index| {
            let id = Id { index: index as u32, generation: self.generations[index] };
            Some((id, self.slab.get(index)?))
        })
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut T)> {
        let generations = &self.generations;
        self.slab
            .iter_mut()
            .map(|(index, value)| (Id { index: index as u32, generation: generations[index] }, value))
    }

    fn is_current(&self, id: Id) -> bool {
        self.generations.get(id.index as usize) == Some(&id.generation)
    }
}

/// For keys that are known to be alive.
impl<T> Index<Id> for Slots<T> {
    type Output = T;
    fn index(&self, id: Id) -> &T {
        self.get(id).expect("a key that is alive")
    }
}

impl<T> IndexMut<Id> for Slots<T> {
    fn index_mut(&mut self, id: Id) -> &mut T {
        self.get_mut(id).expect("a key that is alive")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_map_whose_keys_are_never_reused(
            ops in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..200), part in 1usize..9,
        ) {
            let mut slots = Slots::default();
            let mut model: Vec<(Id, Option<usize>)> = Vec::new();
            let mut most = 0;
            for (step, (op, pick)) in ops.into_iter().enumerate() {
                if op == 0 || model.is_empty() {
                    let id = slots.insert(step);
                    prop_assert!(model.iter().all(|(known, _)| *known != id), "{id:?} came twice");
                    model.push((id, Some(step)));
                } else {
                    let (id, value) = model[pick.index(model.len())];
                    prop_assert_eq!(slots.get(id).copied(), value);
                    prop_assert_eq!(slots.contains(id), value.is_some());
                    let kept = &mut model.iter_mut().find(|(known, _)| *known == id).unwrap().1;
                    match op {
                        1 => {
                            prop_assert_eq!(slots.remove(id), value);
                            *kept = None;
                        }
                        2 => {
                            prop_assert_eq!(slots.get_mut(id).map(|place| std::mem::replace(place, step)), value);
                            *kept = value.map(|_| step);
                        }
                        _ => {
                            slots.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, place)| *place = step);
                            *kept = value.map(|_| step);
                        }
                    }
                }
                let mut alive: Vec<_> = model.iter().filter_map(|(id, value)| value.map(|v| (*id, v))).collect();
                alive.sort();
                prop_assert_eq!(slots.len(), alive.len());
                prop_assert_eq!(slots.is_empty(), alive.is_empty());
                most = most.max(alive.len());
                prop_assert_eq!(slots.places(), most, "a place is made only when none is free");
                prop_assert_eq!(slots.iter().map(|(id, v)| (id, *v)).collect::<Vec<_>>(), &alive[..]);
                let parts = (0..=slots.places()).step_by(part).flat_map(|from| slots.iter_places(from, part));
                prop_assert_eq!(parts.map(|(id, v)| (id, *v)).collect::<Vec<_>>(), &alive[..]);
            }
        }

        #[test]
        fn bits_round_trip(index: u32, generation: u32) {
            let id = Id { index, generation };
            prop_assert_eq!(Id::from_bits(id.to_bits()), id);
        }
    }

    #[test]
    fn a_place_is_its_value_its_generation_and_whether_it_is_free() {
        // A number has no value to spare that could say so: it takes a word more.
        assert_eq!(
            Slots::<[u64; 8]>::PLACE_BYTES,
            size_of::<[u64; 8]>() + size_of::<u64>() + size_of::<u32>()
        );
    }
}
