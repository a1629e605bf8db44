//! Clock values. Nothing below `sys` reads a clock: the loop reads it once a turn and hands the reading down.

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
    /// Milliseconds since the Unix epoch. May jump, also backwards.
    pub unix_ms: u64,
}
