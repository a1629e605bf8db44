//! Pauses between attempts, with full jitter: clients that lost a server together do not come back together.

use std::time::Duration;

/// A small generator (SplitMix64): its numbers follow from its seed alone.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Anything from nothing to `base * 2^attempt`, at most `max`.
pub(crate) fn pause(random: &mut Random, base: Duration, max: Duration, attempt: u32) -> Duration {
    let bound = base.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(max);
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX - 1);
    Duration::from_nanos(random.next() % (nanos + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_and_grow_to_their_bound() {
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(30));
        for attempt in [0, 1, 5, 8, 9, 31, 32, 1000] {
            let bound = if attempt < 9 { base * (1 << attempt) } else { max };
            let mut random = Random::new(7);
            let pauses: Vec<_> = (0..200).map(|_| pause(&mut random, base, max, attempt)).collect();
            assert!(pauses.iter().all(|pause| *pause <= bound), "attempt {attempt}");
            assert!(pauses.iter().any(|pause| *pause < bound / 4), "attempt {attempt}");
            assert!(pauses.iter().any(|pause| *pause > bound / 4 * 3), "attempt {attempt}");
        }
    }
}
