//! The timer wheel, with as many timers as a core with many connections has.

use std::hint::black_box;

use starling::base::time::Tick;
use starling::base::wheel::Wheel;

use crate::works::{Run, repeat};

/// How many timers are set.
pub const TIMERS: u64 = 10_000;

/// How far ahead they are: like heartbeats, one after the other.
const PERIOD_MS: u64 = 30_000;

/// A wheel whose timers are spread over one period.
fn wheel() -> Wheel<u64> {
    let mut wheel = Wheel::new(Tick(0));
    for timer in 0..TIMERS {
        wheel.insert(Tick(1 + timer * PERIOD_MS / TIMERS), timer);
    }
    wheel
}

/// One more timer, which is not needed after all.
pub fn insert_and_cancel() -> Run {
    let mut wheel = wheel();
    let mut deadline = 0;
    repeat(move || {
        deadline = deadline % PERIOD_MS + 7;
        let key = wheel.insert(Tick(black_box(deadline)), 0);
        black_box(wheel.cancel(key));
    })
}

/// The next timer fires, and is set for one period later: all that a heartbeat asks of the wheel, the way down its levels
/// included.
pub fn insert_and_expire() -> Run {
    let mut wheel = wheel();
    let mut now = Tick(0);
    repeat(move || {
        loop {
            if let Some((deadline, timer)) = wheel.expire(now) {
                wheel.insert(deadline + PERIOD_MS, timer);
                break;
            }
            now = wheel.next_deadline().expect("there are timers");
        }
    })
}

/// A turn in which no timer is due: what every turn asks of the wheel.
pub fn advance_idle() -> Run {
    let mut wheel = wheel();
    let now = Tick(0);
    repeat(move || {
        assert!(wheel.expire(black_box(now)).is_none());
        black_box(wheel.next_deadline());
    })
}

/// All timers are due at once, as after a core was held up for a period; each is set again.
pub fn advance_over_all() -> Run {
    let mut wheel = wheel();
    let mut now = Tick(0);
    repeat(move || {
        now = now + PERIOD_MS;
        for _ in 0..TIMERS {
            let (deadline, timer) = wheel.expire(now).expect("all are due");
            wheel.insert(deadline + PERIOD_MS, timer);
        }
        assert!(wheel.expire(now).is_none());
    })
}
