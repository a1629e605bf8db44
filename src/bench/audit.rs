//! Whether everything came that should have, once and in order.
//!
//! A stream is what one member hears of one publisher (by the sequence in the marker), or of its room (by the server's
//! offsets). Each message of a stream has a number, one more than the one before. What is in order costs one comparison; only
//! what is not is looked at closely.

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What was wrong. All zero: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Times that a number was ahead of the one that was expected.
    pub gaps: u64,
    /// Messages that came after later ones.
    pub reordered: u64,
    /// Messages that came again.
    pub repeated: u64,
    /// Messages that never came.
    pub missing: u64,
}

impl Faults {
    /// Whether there was anything.
    pub fn any(&self) -> bool {
        *self != Faults::default()
    }

    /// Adds those of another thread.
    pub fn add(&mut self, other: &Faults) {
        self.gaps += other.gaps;
        self.reordered += other.reordered;
        self.repeated += other.repeated;
        self.missing += other.missing;
    }
}

/// What was wrong with acknowledgements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckFaults {
    /// Messages that were never acknowledged.
    pub lost: u64,
    /// Acknowledgements that came again.
    pub repeated: u64,
    /// Those of another level than was asked for, with another offset than the message had when its publisher heard it, or of
    /// something that was not said.
    pub wrong: u64,
    /// All that came.
    pub looked_at: u64,
}

impl AckFaults {
    /// Whether there was anything.
    pub fn any(&self) -> bool {
        self.lost + self.repeated + self.wrong > 0
    }

    /// Adds another publisher's.
    pub fn add(&mut self, other: &AckFaults) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.wrong += other.wrong;
        self.looked_at += other.looked_at;
    }
}

/// Which stream: the member, and the publisher or [`OFFSETS`].
pub type StreamKey = (u32, u32);

/// In the place of a publisher: the stream of the server's own offsets.
pub const OFFSETS: u32 = u32::MAX;

/// A stream whose first number is not known: whatever comes first is.
pub const UNKNOWN: u64 = u64::MAX;

/// Watches streams. The next number of each is kept by whoever has the stream.
#[derive(Debug, Default)]
pub struct Audit {
    faults: Faults,
    /// What has been jumped over, by stream: it may still come.
    holes: HashMap<StreamKey, Vec<Range<u64>>>,
}

impl Audit {
    /// A message came. Returns the number that is expected next.
    #[inline]
    #[must_use]
    pub fn see(&mut self, key: StreamKey, expected: u64, number: u64) -> u64 {
        if number == expected { expected + 1 } else { self.see_other(key, expected, number) }
    }

    #[cold]
    fn see_other(&mut self, key: StreamKey, expected: u64, number: u64) -> u64 {
        if expected == UNKNOWN {
            return number + 1;
        }
        if number > expected {
            self.faults.gaps += 1;
            self.holes.entry(key).or_default().push(expected..number);
            return number + 1;
        }
        let holes = self.holes.entry(key).or_default();
        match holes.iter().position(|hole| hole.contains(&number)) {
            Some(index) => {
                self.faults.reordered += 1;
                let hole = holes.swap_remove(index);
                let parts = [hole.start..number, number + 1..hole.end];
                holes.extend(parts.into_iter().filter(|part| !part.is_empty()));
            }
            None => self.faults.repeated += 1,
        }
        expected
    }

    /// How many came again until now.
    pub fn repeated(&self) -> u64 {
        self.faults.repeated
    }

    /// A stream is over: it should have gone on to before `end`.
    pub fn end(&mut self, expected: u64, end: u64) {
        if expected != UNKNOWN {
            self.faults.missing += end.saturating_sub(expected);
        }
    }

    /// Nothing more will come.
    pub fn finish(mut self) -> Faults {
        self.faults.missing += self.holes.values().flatten().map(|hole| hole.end - hole.start).sum::<u64>();
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn audited(numbers: &[u64], end: u64) -> Faults {
        let mut audit = Audit::default();
        let mut expected = 0;
        for number in numbers {
            expected = audit.see((0, 0), expected, *number);
        }
        audit.end(expected, end);
        audit.finish()
    }

    #[test]
    fn planted_faults_are_found() {
        let none = Faults::default();
        assert_eq!(audited(&[0, 1, 2, 3], 4), none);
        assert_eq!(audited(&[0, 1, 3], 4), Faults { gaps: 1, missing: 1, ..none });
        assert_eq!(audited(&[1, 2, 3], 4), Faults { gaps: 1, missing: 1, ..none });
        assert_eq!(audited(&[0, 1, 1, 2, 3], 4), Faults { repeated: 1, ..none });
        assert_eq!(audited(&[0, 2, 1, 3], 4), Faults { gaps: 1, reordered: 1, ..none });
        assert_eq!(audited(&[0, 2, 1, 1, 3], 4), Faults { gaps: 1, reordered: 1, repeated: 1, ..none });
        assert_eq!(audited(&[0, 1, 2], 5), Faults { missing: 2, ..none });
        assert_eq!(audited(&[0, 5, 3, 6], 7), Faults { gaps: 1, reordered: 1, missing: 3, ..none });
        assert_eq!(audited(&[], 3), Faults { missing: 3, ..none });
    }

    #[test]
    fn who_comes_later_begins_with_what_comes_first() {
        let mut audit = Audit::default();
        let expected = audit.see((0, 0), UNKNOWN, 17);
        assert_eq!(audit.see((0, 0), expected, 18), 19);
        audit.end(UNKNOWN, 100);
        assert!(!audit.finish().any());
    }

    proptest! {
        #[test]
        fn every_message_is_accounted_for(numbers in prop::collection::vec(0u64..30, 0..80)) {
            let faults = audited(&numbers, 30);
            let mut distinct = numbers.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(faults.missing, 30 - distinct.len() as u64);
            prop_assert_eq!(faults.repeated, (numbers.len() - distinct.len()) as u64);
            prop_assert_eq!(faults.any(), numbers != (0..30).collect::<Vec<_>>());
        }
    }
}
