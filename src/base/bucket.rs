//! Token buckets, kept as one number: the moment at which the bucket will be full again.
//!
//! This is the generic cell rate algorithm (ITU-T I.371): a take moves that moment on by the time in which as much is
//! refilled, and is refused while the moment lies further ahead than the time that fills a whole bucket. One number can be
//! changed atomically, so that several cores can share a bucket without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::time::Tick;

/// Parts of a millisecond in which moments are counted: a nanosecond, so that a rate of 1e9 a second is still exact.
const PARTS: u64 = 1_000_000;

/// How much may be taken from a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Refilled a second. 0: unlimited.
    pub per_second: u64,
    /// What a full bucket holds. 0: what is refilled in a second.
    pub burst: u64,
}

impl Rate {
    /// Whether everything passes.
    pub fn is_unlimited(&self) -> bool {
        self.per_second == 0
    }

    /// The time that refills `amount`.
    fn time_of(&self, amount: u64) -> u64 {
        let parts = u128::from(amount) * u128::from(1000 * PARTS) / u128::from(self.per_second);
        u64::try_from(parts).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
    }

    fn capacity(&self) -> u64 {
        if self.burst == 0 { self.per_second } else { self.burst }
    }

    /// The moment `full_at` after a take, or after how many milliseconds the same take will pass.
    fn take(&self, full_at: u64, cost: u64, now: Tick) -> Result<u64, u64> {
        let now = now.0.saturating_mul(PARTS);
        // Whoever takes more than a full bucket has to wait for a full one, and leaves it in debt.
        let allowed = self.time_of(self.capacity()) - self.time_of(cost.min(self.capacity()));
        let ahead = full_at.saturating_sub(now);
        if ahead > allowed {
            return Err((ahead - allowed).div_ceil(PARTS));
        }
        Ok(full_at.max(now) + self.time_of(cost))
    }
}

/// A bucket that one core has for itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket(u64);

impl Bucket {
    /// After how many milliseconds a take of `cost` will pass: 0 if it passes now.
    pub fn wait_ms(&self, rate: &Rate, cost: u64, now: Tick) -> u64 {
        if rate.is_unlimited() { 0 } else { rate.take(self.0, cost, now).err().unwrap_or(0) }
    }

    /// Takes `cost`, or tells after how many milliseconds the same take will pass if nobody takes meanwhile. A refused take
    /// costs nothing.
    pub fn take(&mut self, rate: &Rate, cost: u64, now: Tick) -> Result<(), u64> {
        if !rate.is_unlimited() {
            self.0 = rate.take(self.0, cost, now)?;
        }
        Ok(())
    }
}

/// A bucket that cores share.
#[derive(Debug, Default)]
pub struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// As [`Bucket::wait_ms`].
    pub fn wait_ms(&self, rate: &Rate, cost: u64, now: Tick) -> u64 {
        if rate.is_unlimited() { 0 } else { rate.take(self.0.load(Relaxed), cost, now).err().unwrap_or(0) }
    }

    /// As [`Bucket::take`].
    pub fn take(&self, rate: &Rate, cost: u64, now: Tick) -> Result<(), u64> {
        if rate.is_unlimited() {
            return Ok(());
        }
        // Nothing else is published by the number, so no order with other memory is needed.
        let mut full_at = self.0.load(Relaxed);
        loop {
            let after = rate.take(full_at, cost, now)?;
            match self.0.compare_exchange_weak(full_at, after, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => full_at = seen,
            }
        }
    }

    /// The moment at which it will be full: the later, the more has been taken.
    pub(super) fn full_at(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Whether it is full: as good as new.
    pub fn is_full(&self, now: Tick) -> bool {
        self.0.load(Relaxed) <= now.0.saturating_mul(PARTS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_bucket_of_tokens(
            per_second in 1u64..5000,
            burst in 1u64..500,
            steps in prop::collection::vec((0u64..200, 1u64..20), 1..200),
        ) {
            let rate = Rate { per_second, burst };
            let (mut bucket, shared) = (Bucket::default(), SharedBucket::default());
            // Tokens in thousandths, refilled by the millisecond: exact in whole numbers.
            let mut tokens = burst * 1000;
            let mut now = 1_000_000u64;
            for (pause, cost) in steps {
                now += pause;
                tokens = (tokens + pause * per_second).min(burst * 1000);
                let waits = [bucket.wait_ms(&rate, cost, Tick(now)), shared.wait_ms(&rate, cost, Tick(now))];
                let taken = bucket.take(&rate, cost, Tick(now));
                prop_assert_eq!(waits, [taken.err().unwrap_or(0); 2]);
                prop_assert_eq!(taken, shared.take(&rate, cost, Tick(now)));
                // Rounding of nanoseconds may decide when the model is within a thousandth of a token of the border.
                let needed = cost.min(burst) * 1000;
                match taken {
                    Ok(()) => {
                        prop_assert!(tokens + 2 >= needed, "{} of {}", tokens, needed);
                        if cost > burst { return Ok(()); }
                        tokens = tokens.saturating_sub(cost * 1000);
                    }
                    Err(ms) => {
                        prop_assert!(tokens < needed + 2);
                        let (mut early, mut late) = (bucket, bucket);
                        prop_assert!(late.take(&rate, cost, Tick(now + ms)).is_ok(), "{} ms are not enough", ms);
                        prop_assert!(early.take(&rate, cost, Tick(now + ms - 1)).is_err(), "{} ms are too many", ms);
                    }
                }
            }
        }

        #[test]
        fn no_more_than_a_burst_and_the_rate_passes(per_second in 1u64..100, burst in 1u64..50, seconds in 1u64..20) {
            let (rate, mut bucket) = (Rate { per_second, burst }, Bucket::default());
            let passed = (0..seconds * 1000).filter(|ms| bucket.take(&rate, 1, Tick(5000 + ms)).is_ok()).count() as u64;
            prop_assert!(passed <= burst + per_second * seconds);
            // A bucket of one token, looked at once in a millisecond, is full for the rest of that one.
            let refilled = if burst == 1 {
                (seconds - 1) * 1000 / 1000u64.div_ceil(per_second)
            } else {
                per_second * (seconds - 1)
            };
            prop_assert!(passed + 1 >= burst + refilled, "{} is too few", passed);
        }
    }

    #[test]
    fn nothing_is_impossible_for_ever() {
        let (rate, mut bucket) = (Rate { per_second: 10, burst: 5 }, Bucket::default());
        assert_eq!(bucket.take(&rate, 1000, Tick(1)), Ok(()), "from a full bucket");
        let ms = bucket.take(&rate, 1, Tick(1)).unwrap_err();
        assert_eq!(ms, 99_600, "the debt is paid first");
        assert_eq!(bucket.take(&Rate { per_second: 0, burst: 0 }, u64::MAX, Tick(1)), Ok(()));
    }

    #[test]
    fn a_burst_that_no_clock_can_count_is_one_without_end() {
        let (rate, mut bucket) = (Rate { per_second: 1, burst: u64::MAX }, Bucket::default());
        assert!((0..1000).all(|_| bucket.take(&rate, 1_000_000, Tick(1)).is_ok()));
    }

    #[test]
    fn extreme_rates_are_exact_enough() {
        let mut bucket = Bucket::default();
        let fast = Rate { per_second: 1_000_000_000, burst: 1 };
        assert_eq!(bucket.take(&fast, 1, Tick(1)), Ok(()));
        assert_eq!(bucket.take(&fast, 1, Tick(1)), Err(1));
        let slow = Rate { per_second: 1, burst: 0 };
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(&slow, 1, Tick(1)), Ok(()));
        assert_eq!(bucket.take(&slow, 1, Tick(500)), Err(501));
        assert_eq!(bucket.take(&slow, 1, Tick(1001)), Ok(()));
    }
}
