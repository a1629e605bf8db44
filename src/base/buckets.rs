//! Buckets that all cores share, by whom they are of.
//!
//! A bucket is found when a connection opens or a session begins, and held from then on, so that this table's locks are
//! never on the way of a message. Buckets that nobody holds and that are full again are swept out, a few at each call.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use super::bucket::SharedBucket;
use super::time::Tick;

/// Locks, so that cores seldom meet at one.
const SHARDS: usize = 16;

/// Buckets that are compared when one has to be given up, so that it is one of those that are missed least.
const COMPARED: usize = 8;

/// Buckets that are looked at for sweeping at each call that makes a new one: more than are made, so that the table
/// shrinks when its users have gone.
const SWEPT: usize = 2;

/// A table of buckets.
#[derive(Debug)]
pub struct SharedBuckets<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
    /// Buckets in each shard; a new one beyond that takes the place of another.
    shard_max: usize,
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<K> {
    buckets: HashMap<K, Arc<SharedBucket>>,
    /// The keys in the order in which they are looked at next, last first.
    to_sweep: Vec<K>,
}

impl<K: Hash + Eq + Clone> Default for SharedBuckets<K> {
    fn default() -> Self {
        Self::bounded(usize::MAX)
    }
}

impl<K: Hash + Eq + Clone> SharedBuckets<K> {
    /// An empty table of at most `buckets_max` buckets, besides those that somebody holds. When it is full, the bucket that is
    /// given up is one of which little has been taken.
    pub fn bounded(buckets_max: usize) -> Self {
        let shard = |_| Mutex::new(Shard { buckets: HashMap::new(), to_sweep: Vec::new() });
        SharedBuckets {
            shards: std::array::from_fn(shard),
            shard_max: (buckets_max / SHARDS).max(1),
            hasher: RandomState::new(),
        }
    }

    /// The bucket of `key`, a full one if it has none.
    pub fn get(&self, key: K, now: Tick) -> Arc<SharedBucket> {
        let place = self.hasher.hash_one(&key) as usize % SHARDS;
        let mut shard = self.shards[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = shard.buckets.get(&key) {
            return bucket.clone();
        }
        for _ in 0..SWEPT {
            let Some(key) = shard.to_sweep.pop() else {
                shard.to_sweep = shard.buckets.keys().cloned().collect();
                break;
            };
            let is_idle = |bucket: &Arc<SharedBucket>| Arc::strong_count(bucket) == 1 && bucket.is_full(now);
            if shard.buckets.get(&key).is_some_and(is_idle) {
                shard.buckets.remove(&key);
            }
        }
        if shard.buckets.len() >= self.shard_max {
            shard.give_one_up();
        }
        shard.buckets.entry(key).or_default().clone()
    }

    /// How many buckets there are.
    pub fn len(&self) -> usize {
        let count =
            |shard: &Mutex<Shard<K>>| shard.lock().unwrap_or_else(PoisonError::into_inner).buckets.len();
        self.shards.iter().map(count).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq + Clone> Shard<K> {
    /// Makes room for one more bucket, if nobody holds all that are looked at.
    fn give_one_up(&mut self) {
        let mut least: Option<(u64, K)> = None;
        for _ in 0..COMPARED {
            if self.to_sweep.is_empty() {
                self.to_sweep = self.buckets.keys().cloned().collect();
            }
            let Some(key) = self.to_sweep.pop() else { break };
            let Some(bucket) = self.buckets.get(&key).filter(|bucket| Arc::strong_count(bucket) == 1) else {
                continue;
            };
            let full_at = bucket.full_at();
            if least.as_ref().is_none_or(|(earliest, _)| full_at < *earliest) {
                least = Some((full_at, key));
            }
        }
        if let Some((_, key)) = least {
            self.buckets.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bucket::Rate;

    #[test]
    fn a_key_has_one_bucket_while_it_is_held_or_not_full() {
        let table = SharedBuckets::default();
        let rate = Rate { per_second: 1, burst: 1 };
        assert!(table.is_empty());
        let held = table.get(1, Tick(0));
        assert_eq!((table.len(), table.is_empty()), (1, false));
        held.take(&rate, 1, Tick(1)).unwrap();
        assert!(table.get(1, Tick(1)).take(&rate, 1, Tick(1)).is_err(), "the same bucket");
        drop(held);
        assert!(
            table.get(1, Tick(2)).take(&rate, 1, Tick(2)).is_err(),
            "not forgotten before it is full again"
        );
    }

    #[test]
    fn a_full_table_gives_up_what_is_missed_least() {
        let table = SharedBuckets::bounded(SHARDS * 16);
        let rate = Rate { per_second: 1, burst: 1000 };
        let held: Vec<_> = (0..4).map(|key| table.get(key, Tick(1))).collect();
        let spent = |key| table.get(key, Tick(1)).take(&rate, 100, Tick(1)).unwrap();
        (10..20).for_each(spent);
        for key in 100..100_000 {
            table.get(key, Tick(1)).take(&rate, 1, Tick(1)).unwrap();
        }
        assert!(table.len() <= SHARDS * 16, "{} are left", table.len());
        for (key, bucket) in held.iter().enumerate() {
            assert!(Arc::ptr_eq(bucket, &table.get(key, Tick(1))), "{key} was held");
        }
        for key in 10..20 {
            assert!(table.get(key, Tick(1)).wait_ms(&rate, 950, Tick(1)) > 0, "{key} was given up");
        }
    }

    #[test]
    fn the_table_is_bounded_by_those_who_are_there() {
        let table = SharedBuckets::default();
        let held: Vec<_> = (0..100).map(|key| table.get(key, Tick(0))).collect();
        for key in 100..100_000 {
            table.get(key, Tick(1));
        }
        // Each sweep takes as long as the table was when it began, at two a call.
        assert!(table.len() < 2000, "{} are left", table.len());
        for (key, bucket) in held.iter().enumerate() {
            assert!(Arc::ptr_eq(bucket, &table.get(key, Tick(1))), "{key} was held");
        }
    }
}
