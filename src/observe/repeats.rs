//! How many lines one place of the program may log, where peers can have it log any number.
//!
//! Each warning stands for something that somebody is to see once; a thousand of them hide the others, and fill a disk. So each place that
//! logs warnings or errors has a number of lines for a period, all cores together. What is more is left out, counted, and told with the
//! next line of the same place. Everything is limited so, not only what is known to be in reach of peers: nobody has to think of it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The period in which lines are counted.
const PERIOD_MS: u64 = 10_000;

/// Where a line is logged: a file and a line of the source. There are as many as the program has, and no peer makes more.
pub(super) type Place = (&'static str, u32);

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is logged, and tells of so many that were not, in so many seconds.
    Log { left_out: u64, seconds: u64 },
    /// It is left out.
    LeaveOut,
}

/// The lines of one place in its present period.
#[derive(Debug)]
struct Lines {
    began_ms: u64,
    logged: u64,
    left_out: u64,
}

/// The lines of all places.
#[derive(Debug)]
pub(super) struct Repeats {
    /// How many lines a place may log in a period; 0: any number.
    most: AtomicU64,
    places: Mutex<HashMap<Place, Lines>>,
    suppressed: AtomicU64,
}

impl Repeats {
    pub fn new(most: u64) -> Self {
        Repeats { most: AtomicU64::new(most), places: Mutex::default(), suppressed: AtomicU64::new(0) }
    }

    pub fn set_most(&self, most: u64) {
        self.most.store(most, Relaxed);
    }

    /// Lines that were left out since the start.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Relaxed)
    }

    /// Counts a line, at a moment of a clock that only goes on.
    pub fn count(&self, place: Place, now_ms: u64) -> Verdict {
        const ALONE: Verdict = Verdict::Log { left_out: 0, seconds: 0 };
        let most = self.most.load(Relaxed);
        // Nobody waits to log: where another thread is counting at this very moment, the line goes out.
        let Ok(mut places) = self.places.try_lock() else { return ALONE };
        let lines = places.entry(place).or_insert(Lines { began_ms: now_ms, logged: 0, left_out: 0 });
        let passed_ms = now_ms.saturating_sub(lines.began_ms);
        if passed_ms >= PERIOD_MS || most == 0 {
            let left_out = lines.left_out;
            *lines = Lines { began_ms: now_ms, logged: 1, left_out: 0 };
            return Verdict::Log { left_out, seconds: passed_ms / 1000 };
        }
        if lines.logged < most {
            lines.logged += 1;
            return ALONE;
        }
        lines.left_out += 1;
        self.suppressed.fetch_add(1, Relaxed);
        Verdict::LeaveOut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = ("src/a.rs", 1);
    const THERE: Place = ("src/a.rs", 2);
    const ALONE: Verdict = Verdict::Log { left_out: 0, seconds: 0 };

    #[test]
    fn what_is_too_much_is_told_with_the_next_line() {
        let repeats = Repeats::new(2);
        assert_eq!([0, 1].map(|at_ms| repeats.count(HERE, at_ms)), [ALONE; 2]);
        for at_ms in 2..125 {
            assert_eq!(repeats.count(HERE, at_ms), Verdict::LeaveOut);
        }
        assert_eq!(repeats.count(THERE, 125), ALONE, "each place has lines of its own");
        assert_eq!(repeats.count(HERE, PERIOD_MS - 1), Verdict::LeaveOut);
        assert_eq!(repeats.count(HERE, PERIOD_MS), Verdict::Log { left_out: 124, seconds: 10 });
        assert_eq!(repeats.count(HERE, PERIOD_MS + 1), ALONE, "told once");
        assert_eq!(repeats.count(HERE, PERIOD_MS + 2), Verdict::LeaveOut);
        assert_eq!(repeats.suppressed(), 125);
        assert_eq!(repeats.count(HERE, 61_000), Verdict::Log { left_out: 1, seconds: 51 });
    }

    #[test]
    fn a_limit_that_is_lifted_lets_all_go_out_and_tells_what_did_not() {
        let repeats = Repeats::new(1);
        assert_eq!(
            [0, 1, 2].map(|at_ms| repeats.count(HERE, at_ms)),
            [ALONE, Verdict::LeaveOut, Verdict::LeaveOut]
        );
        repeats.set_most(0);
        assert_eq!(repeats.count(HERE, 1003), Verdict::Log { left_out: 2, seconds: 1 });
        assert_eq!([4, 5].map(|at_ms| repeats.count(HERE, 1000 + at_ms)), [ALONE; 2]);
    }
}
