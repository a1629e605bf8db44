//! Seeded randomness: the same seed gives the same numbers, so that a simulation can be replayed.
//!
//! The generator is xoshiro256** (Blackman and Vigna, 2018), seeded through SplitMix64. It is fast and small, and not
//! for secrets: whoever sees enough of its output can tell the rest.

/// A stream of pseudo-random numbers.
#[derive(Debug, Clone)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        let state = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        });
        Rng { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..bound`.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no number");
        // Multiply and shift (Lemire): the bias is below bound / 2^64, which no use here can see.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn known_answers() {
        // From the reference implementation with the state 1, 2, 3, 4.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let first: [u64; 10] = std::array::from_fn(|_| rng.next_u64());
        let expected = [
            11520,
            0,
            1509978240,
            1215971899390074240,
            1216172134540287360,
            607988272756665600,
            16172922978634559625,
            8476171486693032832,
            10595114339597558777,
            2904607092377533576,
        ];
        assert_eq!(first, expected);
        // And of SplitMix64.
        let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        assert_eq!(Rng::new(1234567).state, expected);
    }

    #[test]
    fn chances_are_percents() {
        let mut rng = Rng::new(7);
        let mut hits = |percent| (0..10_000).filter(|_| rng.chance(percent)).count();
        assert_eq!((hits(0), hits(100)), (0, 10_000));
        let third = hits(30);
        assert!((2_800..3_200).contains(&third), "{third}");
    }

    #[test]
    fn a_range_is_covered_evenly() {
        let mut rng = Rng::new(7);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[rng.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|n| (9_500..10_500).contains(n)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_seed_is_its_stream_and_ranges_hold(seed in any::<u64>(), bound in 1u64..) {
            let (mut a, mut b) = (Rng::new(seed), Rng::new(seed));
            for _ in 0..32 {
                let n = a.below(bound);
                prop_assert!(n < bound);
                prop_assert_eq!(n, b.below(bound));
            }
        }
    }
}
