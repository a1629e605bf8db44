//! Stalls: turns that took longer than `observe.stall_ms`, in which everybody on the core has waited.
//!
//! Which step it was is known because a step that has something to do reads the clock when one before it had, too: a turn that only reads and
//! writes does so once more than it would. What the step was about is for the world to tell, when it is asked.
//!
//! The time is that of the wall, from the end of the poll on. A process that was stopped in a turn, or had to wait for a processor, has
//! stalled as well: its clients cannot tell the difference. One that was stopped in its poll has slept a little longer.

use super::os::Os;
use super::turn::Reactor;
use super::world::World;
use crate::base::time::Tick;

/// How often a core tells of stalls in the log; of those between it tells the number. All of them are counted.
const TELL_MS: u64 = 10_000;

/// The steps of a turn that can take long, by their numbers there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing in particular was to be done.
    Readiness = 3,
    Mailbox = 4,
    Timers = 5,
    Input = 6,
    Accept = 7,
    Flush = 8,
    Outboxes = 9,
    Reap = 10,
}

impl Step {
    fn what(self) -> &'static str {
        match self {
            Step::Readiness => "noting what is ready",
            Step::Mailbox => "mail from other cores",
            Step::Timers => "timers",
            Step::Input => "input of connections",
            Step::Accept => "new connections",
            Step::Flush => "fan-out and writing to connections",
            Step::Outboxes => "the journal and mail to other cores",
            Step::Reap => "closing connections",
        }
    }
}

/// The steps of this turn, and the stalls of late.
#[derive(Debug)]
pub(super) struct Stalls {
    /// How long a turn may take; 0: as long as it likes.
    limit_ns: u64,
    /// The step that is being done, and since when.
    now: Option<Step>,
    since_ns: u64,
    /// The one that took longest, and how long.
    longest: (Step, u64),
    /// When the log was last told, and how many stalls there have been since.
    told_at: Option<Tick>,
    untold: u64,
}

impl Default for Stalls {
    fn default() -> Self {
        let longest = (Step::Readiness, 0);
        Stalls { limit_ns: 0, now: None, since_ns: 0, longest, told_at: None, untold: 0 }
    }
}

impl Stalls {
    pub(super) fn begin_turn(&mut self, limit_ns: u64, now_ns: u64) {
        (self.limit_ns, self.now, self.since_ns) = (limit_ns, None, now_ns);
        self.longest = (Step::Readiness, 0);
    }

    fn end_step(&mut self, step: Step, now_ns: u64) {
        let took_ns = now_ns.saturating_sub(self.since_ns);
        if took_ns > self.longest.1 {
            self.longest = (step, took_ns);
        }
        self.since_ns = now_ns;
    }

    /// One more stall, and how many there have been that the log was not told of, if it is to be told of this one.
    fn note(&mut self, now: Tick) -> Option<u64> {
        if self.told_at.is_some_and(|at| now.since(at) < TELL_MS) {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    /// How many stalls the log is still to be told of, when there has been none for a while.
    fn leftover(&mut self, now: Tick) -> Option<u64> {
        let is_over = self.untold > 0 && self.told_at.is_none_or(|at| now.since(at) >= TELL_MS);
        is_over.then(|| std::mem::take(&mut self.untold))
    }
}

impl<O: Os, W: World> Reactor<O, W> {
    /// A step begins that has something to do.
    #[inline]
    pub(super) fn begin_step(&mut self, step: Step) {
        if self.stalls.limit_ns > 0
            && let Some(before) = self.stalls.now.replace(step)
        {
            let now_ns = self.os.monotonic_ns();
            self.stalls.end_step(before, now_ns);
        }
    }

    /// The turn ends: whether it was a stall.
    #[inline]
    pub(super) fn check_stall(&mut self, began_ns: u64, now_ns: u64) {
        let (took_ns, limit_ns) = (now_ns.saturating_sub(began_ns), self.stalls.limit_ns);
        if limit_ns > 0 && took_ns > limit_ns {
            self.note_stall(took_ns, now_ns);
        } else if self.stalls.untold > 0
            && let Some(untold) = self.stalls.leftover(self.now)
        {
            log::warn!("core {}: {untold} more stalls, the last of them a while ago", self.core);
        }
    }

    #[cold]
    fn note_stall(&mut self, took_ns: u64, now_ns: u64) {
        self.world.counters().stalls.add(1);
        if let Some(step) = self.stalls.now.take() {
            self.stalls.end_step(step, now_ns);
        }
        let Some(untold) = self.stalls.note(self.now) else { return };
        let (step, step_ns) = self.stalls.longest;
        let ms = |ns: u64| ns as f64 / 1e6;
        let before = match untold {
            0 => String::new(),
            _ => format!("; {untold} more stalls since the last that was told"),
        };
        log::warn!(
            "core {}: a turn took {:.1} ms, {:.1} ms of it step {}: {}{}{before}",
            self.core,
            ms(took_ns),
            ms(step_ns),
            step as usize,
            step.what(),
            self.world.describe_turn(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_once_in_a_while_and_then_of_all() {
        let mut stalls = Stalls::default();
        assert_eq!(stalls.note(Tick(5)), Some(0));
        for ms in 6..16 {
            assert_eq!(stalls.note(Tick(ms)), None);
            assert_eq!(stalls.leftover(Tick(ms)), None);
        }
        assert_eq!(stalls.note(Tick(5 + TELL_MS)), Some(10));
        assert_eq!(stalls.note(Tick(6 + TELL_MS)), None);
        assert_eq!(stalls.leftover(Tick(5 + 2 * TELL_MS)), Some(1));
        assert_eq!(stalls.leftover(Tick(6 + 2 * TELL_MS)), None);
    }

    #[test]
    fn the_longest_step_is_told() {
        let mut stalls = Stalls::default();
        stalls.begin_turn(1, 100);
        stalls.end_step(Step::Input, 150);
        stalls.end_step(Step::Flush, 300);
        stalls.end_step(Step::Reap, 310);
        assert_eq!(stalls.longest, (Step::Flush, 150));
        stalls.begin_turn(1, 400);
        assert_eq!(stalls.longest, (Step::Readiness, 0));
    }
}
