//! What this node holds on the backplane for a while, and has to say again before the while is over: nicknames, sessions, and the look at
//! each open room. All of one kind have the same period, so that a queue in order of time is enough.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Things that are due again and again.
///
/// Whoever is taken out leaves a stale place in the queue, which is dropped when its time comes: so the queue is bounded by what
/// comes and goes within one period.
#[derive(Debug)]
pub(super) struct Periodic<K, V> {
    period: Duration,
    held: HashMap<K, Held<V>>,
    queue: VecDeque<(Instant, K, u64)>,
    /// What tells one stay from the next.
    stays: u64,
}

#[derive(Debug)]
struct Held<V> {
    value: V,
    stay: u64,
}

impl<K: Hash + Eq + Clone, V> Periodic<K, V> {
    pub(super) fn new(period: Duration) -> Self {
        Periodic { period, held: HashMap::new(), queue: VecDeque::new(), stays: 0 }
    }

    /// Puts something in, or in the place of what has the key. It is due after one period.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant) {
        if let Some(held) = self.held.get_mut(&key) {
            held.value = value;
            return;
        }
        self.stays += 1;
        self.queue.push_back((now + self.period, key.clone(), self.stays));
        self.held.insert(key, Held { value, stay: self.stays });
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.held.remove(key).map(|held| held.value)
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.held.get(key).map(|held| &held.value)
    }

    /// The next that is due, and due again after a period.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(K, &mut V)> {
        loop {
            if self.queue.front()?.0 > now {
                return None;
            }
            let (_, key, stay) = self.queue.pop_front()?;
            if self.held.get(&key).is_some_and(|held| held.stay == stay) {
                self.queue.push_back((now + self.period, key.clone(), stay));
                let held = self.held.get_mut(&key)?;
                return Some((key, &mut held.value));
            }
        }
    }

    /// When the next is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|(at, _, _)| *at)
    }

    /// All are due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.queue.iter_mut().for_each(|(at, _, _)| *at = now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_once_a_period() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut held = Periodic::new(Duration::from_millis(10));
        held.insert("a", 1, at(0));
        held.insert("b", 2, at(5));
        held.insert("a", 3, at(9));
        assert_eq!(held.pop_due(at(9)), None);
        assert_eq!(held.pop_due(at(10)), Some(("a", &mut 3)), "not later because it was put in again");
        assert_eq!(held.pop_due(at(10)), None);
        assert_eq!(held.next_due(), Some(at(15)));
        assert_eq!(held.remove(&"b"), Some(2));
        held.insert("b", 4, at(12));
        assert_eq!(held.pop_due(at(21)), Some(("a", &mut 3)), "the first stay of b is over");
        assert_eq!(held.pop_due(at(21)), None);
        assert_eq!(held.pop_due(at(22)), Some(("b", &mut 4)));
        held.hurry(at(23));
        assert_eq!(held.pop_due(at(23)), Some(("a", &mut 3)));
        assert_eq!(held.pop_due(at(23)), Some(("b", &mut 4)));
    }
}
