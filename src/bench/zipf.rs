//! Room sizes as they are in life: a few large ones, and a long tail.

/// How many members each of `rooms` rooms has, of `members` in all, when the n-th largest has one n-th of the largest
/// (Zipf's law), but every room at least one as far as they go.
pub fn sizes(members: usize, rooms: usize) -> Vec<usize> {
    let harmonic: f64 = (1..=rooms).map(|rank| 1.0 / rank as f64).sum();
    let spare = members.saturating_sub(rooms);
    let mut sizes: Vec<usize> = (1..=rooms)
        .map(|rank| usize::from(rank <= members) + (spare as f64 / rank as f64 / harmonic) as usize)
        .collect();
    // What rounding has left over goes to the largest, one each.
    let left = members - sizes.iter().sum::<usize>().min(members);
    for size in sizes.iter_mut().take(left) {
        *size += 1;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_second_is_half_the_first() {
        let sizes = sizes(10_000, 100);
        assert!(sizes[0].abs_diff(2 * sizes[1]) < 10, "{sizes:?}");
        assert!(sizes[0].abs_diff(10 * sizes[9]) < 100, "{sizes:?}");
        assert!(sizes[99] >= 1);
    }

    proptest! {
        #[test]
        fn everybody_has_a_room(members in 0usize..5000, rooms in 1usize..500) {
            let sizes = sizes(members, rooms);
            prop_assert_eq!(sizes.len(), rooms);
            prop_assert_eq!(sizes.iter().sum::<usize>(), members);
            prop_assert!(sizes.is_sorted_by(|a, b| a >= b), "{:?}", sizes);
        }
    }
}
