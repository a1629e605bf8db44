//! Clock values. Nothing below `sys` reads a clock: the loop reads it once a turn, and once more for what is measured, and hands the
//! reading down.

use std::ops::Add;

/// A moment of the monotonic clock, in milliseconds since some start of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Milliseconds from `earlier` to this moment; 0 if it is not earlier.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Tick {
    type Output = Tick;
    fn add(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms))
    }
}

/// One reading of both clocks: deadlines use the monotonic one, timestamps that people see the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// The monotonic clock.
    pub tick: Tick,
    /// The same, in nanoseconds: for measuring.
    pub ns: u64,
    /// Milliseconds since the Unix epoch. May jump, also backwards.
    pub unix_ms: u64,
}

impl Now {
    /// Readings of both clocks, of the monotonic one in nanoseconds.
    pub fn new(ns: u64, unix_ms: u64) -> Self {
        Now { tick: Tick(ns / 1_000_000), ns, unix_ms }
    }

    /// Readings of clocks that only know milliseconds.
    pub fn of_ms(tick_ms: u64, unix_ms: u64) -> Self {
        Now { tick: Tick(tick_ms), ns: tick_ms.saturating_mul(1_000_000), unix_ms }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_added_is_what_has_passed_since(at: u64, ms: u64, unix_ms: u64) {
            let later = Tick(at) + ms;
            prop_assert_eq!(later.since(Tick(at)), ms.min(u64::MAX - at), "at the end of time it stands still");
            prop_assert_eq!(Tick(at).since(later), 0);
            let now = Now::of_ms(at >> 24, unix_ms);
            prop_assert_eq!(now, Now::new(now.ns, unix_ms), "both clocks are one");
            prop_assert_eq!((now.tick, now.unix_ms), (Tick(at >> 24), unix_ms));
            prop_assert_eq!(Now::new(now.ns + 999_999, unix_ms).tick, now.tick, "a millisecond that is not over does not count");
        }
    }
}
