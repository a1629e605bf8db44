//! How long things take: counted in buckets whose bounds are the same everywhere, so that those of all cores can be added.
//!
//! The bounds go from a microsecond to ten seconds, seven to a decade: a percentile read off them is at most half too high, and mostly
//! less. Like a [`Counter`] a histogram has one writer.

use super::stats::Counter;

/// Buckets of a decade, in tenths of its beginning.
const STEPS: [u64; 7] = [10, 15, 20, 30, 40, 50, 70];

/// Decades, from a microsecond on.
const DECADES: usize = 7;

/// How many bounds there are.
pub const BOUNDS: usize = STEPS.len() * DECADES + 1;

/// The upper bounds of the buckets, in nanoseconds, each part of its bucket. What is longer has a bucket of its own.
pub const BOUNDS_NS: [u64; BOUNDS] = bounds();

const fn bounds() -> [u64; BOUNDS] {
    let mut bounds = [0; BOUNDS];
    let (mut decade, mut begin) = (0, 1000);
    while decade < DECADES {
        let mut step = 0;
        while step < STEPS.len() {
            bounds[decade * STEPS.len() + step] = begin / 10 * STEPS[step];
            step += 1;
        }
        begin *= 10;
        decade += 1;
    }
    bounds[BOUNDS - 1] = begin;
    bounds
}

/// Counts durations.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BOUNDS + 1],
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [const { Counter::new() }; BOUNDS + 1], sum_ns: Counter::new() }
    }
}

impl Histogram {
    /// Something took so long, in nanoseconds. Only the owner may call this.
    pub fn record(&self, ns: u64) {
        self.buckets[BOUNDS_NS.partition_point(|bound| *bound < ns)].add(1);
        self.sum_ns.add(ns);
    }

    /// Adds what has been counted to a snapshot, which may be that of others.
    pub fn add_to(&self, snapshot: &mut Snapshot) {
        for (count, bucket) in snapshot.counts.iter_mut().zip(&self.buckets) {
            *count += bucket.value();
        }
        snapshot.sum_ns += self.sum_ns.value();
    }
}

/// What histograms have counted at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// How many were in each bucket.
    pub counts: [u64; BOUNDS + 1],
    /// How long all took together, in nanoseconds.
    pub sum_ns: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot { counts: [0; BOUNDS + 1], sum_ns: 0 }
    }
}

impl Snapshot {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What has come since an earlier snapshot of the same.
    #[must_use]
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let mut since = self.clone();
        for (count, before) in since.counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        since.sum_ns = since.sum_ns.saturating_sub(earlier.sum_ns);
        since
    }

    /// A duration that a share `q` (0 to 1) of all did not exceed, in nanoseconds: the bound of the bucket. `None` if there were none, or
    /// if it is beyond the last bound.
    pub fn quantile_ns(&self, q: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let place = self.counts.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        });
        BOUNDS_NS.get(place?).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_round_and_grow() {
        assert_eq!(BOUNDS_NS[..8], [1000, 1500, 2000, 3000, 4000, 5000, 7000, 10_000]);
        assert_eq!(BOUNDS_NS[BOUNDS - 1], 10_000_000_000);
        assert!(BOUNDS_NS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn an_empty_one_has_no_percentiles() {
        assert_eq!(Snapshot::default().quantile_ns(0.5), None);
    }

    #[test]
    fn what_is_too_long_has_no_bound() {
        let histogram = Histogram::default();
        histogram.record(11_000_000_000);
        let mut snapshot = Snapshot::default();
        histogram.add_to(&mut snapshot);
        assert_eq!((snapshot.count(), snapshot.quantile_ns(0.5)), (1, None));
    }

    #[test]
    fn a_bound_is_in_what_it_bounds() {
        for bound in BOUNDS_NS {
            let histogram = Histogram::default();
            histogram.record(bound);
            let mut snapshot = Snapshot::default();
            histogram.add_to(&mut snapshot);
            assert_eq!(snapshot.quantile_ns(1.0), Some(bound));
        }
    }

    proptest! {
        #[test]
        fn a_percentile_is_the_bound_above_it(mut times in prop::collection::vec(1u64..10_000_000_000, 1..200), q in 0.0f64..=1.0) {
            let (one, other) = (Histogram::default(), Histogram::default());
            for (index, ns) in times.iter().enumerate() {
                if index % 2 == 0 { one.record(*ns) } else { other.record(*ns) }
            }
            let mut snapshot = Snapshot::default();
            one.add_to(&mut snapshot);
            other.add_to(&mut snapshot);
            prop_assert_eq!(snapshot.count(), times.len() as u64);
            prop_assert_eq!(snapshot.sum_ns, times.iter().sum::<u64>());
            times.sort_unstable();
            let rank = ((times.len() as f64 * q).ceil() as usize).max(1);
            let exact = times[rank - 1];
            let told = snapshot.quantile_ns(q).expect("all are below the last bound");
            prop_assert!(told >= exact && (told <= 1000 || told * 2 <= exact * 3 + 2), "{} for {}", told, exact);
        }

        #[test]
        fn what_has_come_since_is_what_was_added(before in prop::collection::vec(1u64..1 << 34, 0..50), after in prop::collection::vec(1u64..1 << 34, 0..50)) {
            let (all, new) = (Histogram::default(), Histogram::default());
            before.iter().for_each(|ns| all.record(*ns));
            let mut earlier = Snapshot::default();
            all.add_to(&mut earlier);
            after.iter().for_each(|ns| { all.record(*ns); new.record(*ns); });
            let (mut now, mut expected) = (Snapshot::default(), Snapshot::default());
            all.add_to(&mut now);
            new.add_to(&mut expected);
            prop_assert_eq!(now.since(&earlier), expected);
        }
    }
}
