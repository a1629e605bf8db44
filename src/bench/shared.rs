//! What the threads of a run share: the plan, and a few numbers by which they and whoever directs them keep in step.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::cast::Cast;
use super::plan::Plan;
use super::target::Target;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connections are made.
    Gathering,
    /// Messages are sent, from a moment that is told.
    Talking,
    /// Nothing new is sent; what is under way arrives.
    Settling,
    /// Farewells.
    Leaving,
    /// The threads end.
    Over,
}

const PHASES: [Phase; 5] = [Phase::Gathering, Phase::Talking, Phase::Settling, Phase::Leaving, Phase::Over];

/// The run's clock: nanoseconds since its epoch.
#[derive(Debug, Clone, Copy)]
pub struct Clock(pub Instant);

impl Clock {
    /// Now.
    #[inline]
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What one thread tells while it runs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauges {
    /// Members who have come as far as they should in this phase.
    pub ready: AtomicU64,
    /// Connections that broke without having been asked to.
    pub lost: AtomicU64,
    /// Messages sent.
    pub sent: AtomicU64,
    /// Messages received.
    pub received: AtomicU64,
    /// Deliveries that are still to come; `u64::MAX`: not known yet.
    pub unsettled: AtomicU64,
    /// Whether all of the thread's publishers have said how much they sent.
    pub has_told: AtomicU8,
    /// Connections that are still to be closed, once leaving.
    pub open: AtomicU64,
}

/// All that is shared.
pub struct Shared {
    /// What is to be done.
    pub plan: Plan,
    /// By whom.
    pub cast: Cast,
    /// To what.
    pub target: Target,
    /// Since when.
    pub clock: Clock,
    /// When talking begins.
    pub begin_ns: AtomicU64,
    /// When talking ends: earlier than planned if it was cut short.
    pub end_ns: AtomicU64,
    /// How many messages each publisher has sent, once settling.
    pub published: Vec<AtomicU32>,
    /// A set a thread.
    pub gauges: Vec<Gauges>,
    /// Whether the run is cut short: what is due is no longer to be sent.
    pub is_cut_short: AtomicBool,
    phase: AtomicU8,
}

impl Shared {
    /// At the beginning.
    pub fn new(plan: Plan, cast: Cast, target: Target) -> Shared {
        Shared {
            clock: Clock(Instant::now()),
            begin_ns: AtomicU64::new(u64::MAX),
            end_ns: AtomicU64::new(u64::MAX),
            published: (0..plan.publishers).map(|_| AtomicU32::new(0)).collect(),
            gauges: (0..plan.threads).map(|_| Gauges::default()).collect(),
            is_cut_short: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Gathering as u8),
            plan,
            cast,
            target,
        }
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(std::sync::atomic::Ordering::Acquire))]
    }

    /// Goes on to a phase. What was stored before is seen by whoever sees it.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, std::sync::atomic::Ordering::Release);
    }

    /// The sum of a gauge over the threads.
    pub fn sum(&self, gauge: impl Fn(&Gauges) -> &AtomicU64) -> u64 {
        self.gauges.iter().map(|gauges| gauge(gauges).load(Relaxed)).fold(0, u64::saturating_add)
    }
}
