//! Swarm testing (Groce, Zhang, Eide, Chen and Regehr, "Swarm Testing", ISSTA 2012): a run that may do everything does little of each,
//! and what it does seldom hides what only many of them, or the absence of others, would show. So a seed draws a *subset* of what can
//! be done, of what can go wrong and of what can be configured, and how often the rest happens. All three are named here, each once.
//!
//! # Generations
//!
//! A seed means a run only as long as all that is drawn from it is drawn in the same order. Seeds that have shown something are kept
//! (`REGRESSIONS`), so what they mean must not change. Seeds below [`FIRST`] are therefore of the first generation, which knows nothing of
//! this file: in it each fault is left out as often as not, operations have the fixed weights of `talk`, and nothing is drawn from other
//! dice than then. Seeds from [`FIRST`] on are of the second: the same, and then what a generator of its own ([`dice`]) says is put over
//! it. Whoever changes what is drawn here gives the next seeds another beginning, as `FIRST` has done.
//!
//! Seeds that nobody has seen are taken from the clock, and are of the latest generation.

use starling::base::rng::Rng;
use starling::config::{Config, Limits};

use crate::cluster::backplane::Mishaps;
use crate::faults::{Faults, Shape, pick, plain};

/// The first seed of the second generation.
pub const FIRST: u64 = 1_000_000_000;

/// Whether a seed is of the second generation.
pub fn is_swarm(seed: u64) -> bool {
    seed >= FIRST
}

/// What decides about a swarm, and about nothing else.
pub fn dice(seed: u64) -> Rng {
    Rng::new(seed ^ 0x0053_5741_524D)
}

/// The weights of what clients do: of each so many in their sum.
#[derive(Debug, Clone)]
pub struct Mix {
    weights: Vec<(Op, u64)>,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $op:ident,)+) => {
        /// What clients do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Op { $($(#[$doc])* $op,)+ }

        impl Op {
            pub const ALL: &[Op] = &[$(Op::$op),+];
        }
    };
}

operations! {
    Message,
    Join,
    Leave,
    Switch,
    Private,
    Members,
    History,
    Received,
    Rooms,
    Typing,
    Nick,
    /// A hello after the hello.
    Hello,
    State,
    /// A role given, somebody put out, banned, muted, and the undoing of that.
    Moderation,
    /// What only admins may.
    Broadcast,
    Ping,
    Quit,
    /// What is no command.
    Garbage,
}

/// How often what is in a swarm is done: seldom, as often as others, or nearly always.
const WEIGHTS: [u64; 3] = [1, 6, 40];

impl Mix {
    /// A subset of the operations with weights. Without joins there would be nothing to do for most of the others.
    pub fn draw(rng: &mut Rng) -> Mix {
        let mut weights = Vec::new();
        for op in Op::ALL {
            let weight = if rng.chance(50) { pick(rng, &WEIGHTS) } else { 0 };
            let weight = match op {
                Op::Join => weight.max(6),
                // Each ends a connection, so that nothing else comes to pass where there are many.
                Op::Quit | Op::Garbage => weight.min(1),
                _ => weight,
            };
            if weight > 0 {
                weights.push((*op, weight));
            }
        }
        Mix { weights }
    }

    /// What comes next.
    pub fn next(&self, rng: &mut Rng) -> Op {
        let mut left = rng.below(self.weights.iter().map(|(_, weight)| weight).sum());
        for (op, weight) in &self.weights {
            if left < *weight {
                return *op;
            }
            left -= weight;
        }
        unreachable!("less than the sum is left")
    }

    pub fn has(&self, op: Op) -> bool {
        self.weights.iter().any(|(other, _)| *other == op)
    }
}

/// A chance of a fault among those of a run.
type Chance = fn(&mut Faults) -> &mut u64;

/// What goes wrong, by name, and its highest chance in a thousand where few things go wrong in great number.
pub const FAULTS: &[(&str, Chance, u64)] = &[
    ("a poll is interrupted", |f| &mut f.interrupted_poll, 500),
    ("a read, write or accept is interrupted", |f| &mut f.interrupted_io, 300),
    ("an event reports nothing new", |f| &mut f.spurious_event, 500),
    ("bytes arrive in the middle of a turn", |f| &mut f.late_arrival, 900),
    ("a client is gone when it is accepted", |f| &mut f.aborted_accept, 500),
    ("descriptors run out", |f| &mut f.descriptors_run_out, 300),
    ("the network resets a connection", |f| &mut f.network_reset, 12),
    ("a reset destroys what was not read", |f| &mut f.reset_discards, 1000),
    ("a core is not scheduled", |f| &mut f.frozen_core, 150),
    ("both clocks jump", |f| &mut f.jump, 100),
    ("the wall clock is set", |f| &mut f.clock_set, 100),
    ("a client stops reading", |f| &mut f.stall, 80),
    ("a client ends its side after its commands", |f| &mut f.half_close, 60),
    ("a client resets its connection", |f| &mut f.abrupt_reset, 40),
    ("a session is taken over", |f| &mut f.takeover, 40),
];

/// Those of the chances that are operations: where there is a mix, it decides about them.
const OPERATIONS_BY_CHANCE: &[Chance] = &[
    |f| &mut f.garbage,
    |f| &mut f.nick,
    |f| &mut f.join,
    |f| &mut f.moderation,
    |f| &mut f.state,
    |f| &mut f.quit,
    |f| &mut f.ping,
];

/// Something that can be tight, or switched on: how it is made roomy, or switched off.
type Ease = fn(&mut Shape, &mut Config);

/// What is configured, by name. What a swarm leaves out is as if it had no limit, or were not there.
pub const CONFIGURATION: &[(&str, Ease)] = &[
    ("small send queues", |_, c| {
        let d = Limits::default();
        (c.limits.send_queue_bytes, c.limits.output_pause_bytes) = (d.send_queue_bytes, d.output_pause_bytes);
    }),
    ("short turns", |_, c| {
        let (limits, d) = (&mut c.limits, Limits::default());
        (limits.accepts_per_turn, limits.events_per_turn) = (d.accepts_per_turn, d.events_per_turn);
        limits.closes_per_turn = d.closes_per_turn;
        (limits.timers_per_turn, limits.parcels_per_turn) = (d.timers_per_turn, d.parcels_per_turn);
        (limits.read_bytes_per_turn, limits.read_buffer_bytes) = (d.read_bytes_per_turn, d.read_buffer_bytes);
    }),
    ("small windows", |_, c| {
        let d = Limits::default();
        (c.limits.commands_in_flight, c.limits.peer_window) = (d.commands_in_flight, d.peer_window);
    }),
    ("few places for rooms", |_, c| c.limits.rooms_per_session = Limits::default().rooms_per_session),
    ("few places for private messages", |_, c| c.limits.private_kept = Limits::default().private_kept),
    ("few connections", |_, c| c.limits.connections = 0),
    ("small pages", |_, c| c.limits.replay_page_bytes = Limits::default().replay_page_bytes),
    ("small mailboxes", |s, _| s.mailbox_parcels = 64),
    ("small socket buffers", |s, _| {
        (s.receive_buffer_bytes, s.send_buffer_bytes, s.chunk_bytes) = (65_536, 65_536, 65_536);
    }),
    ("batched presence", |_, c| c.presence.exact_members = plain().presence.exact_members),
    ("short heartbeats", |_, c| {
        (c.heartbeat.probe_ms, c.heartbeat.timeout_ms) = (30_000, 90_000);
    }),
    ("sessions", |_, c| c.session.grace_ms = 0),
    ("history", |_, c| c.history.count = 0),
    ("rates", |_, c| c.rate = plain().rate),
    ("store", |s, c| {
        (s.storage, s.upgrades) = (None, 0);
        (c.store, c.history.memory_count) = (plain().store, plain().history.memory_count);
    }),
    ("failures of the store", |s, _| {
        if let Some(storage) = &mut s.storage {
            (storage.fail, storage.hang, storage.read_fails) = (0, 0, 0);
        }
    }),
    ("kills", |s, _| {
        if let Some(storage) = &mut s.storage {
            (storage.kill, storage.machine) = (0, 0);
        }
    }),
    ("upgrades", |s, _| s.upgrades = 0),
    ("compression", |_, c| c.web.deflate = false),
    ("encryption", |s, _| s.secure_percent = 0),
    ("event streams", |s, _| s.listeners = 0),
    ("strangers", |s, _| s.strangers = 0),
    ("gRPC", |s, _| s.has_grpc = false),
    ("a drain at the end", |s, _| s.ends_by_drain = false),
];

/// Puts the swarm of a seed over what was drawn for it, if it is of that generation. Returns the names of what is left out of the
/// configuration, for the trace.
pub fn apply(seed: u64, faults: &mut Faults, shape: &mut Shape, config: &mut Config) -> Vec<&'static str> {
    if !is_swarm(seed) {
        return Vec::new();
    }
    let mut rng = dice(seed);
    // Not all that is new was drawn before.
    shape.strangers = 2 + rng.below(3) as usize;
    config.limits.sessions_per_user = pick(&mut rng, &[1, 2, config.limits.sessions_per_user]);
    if rng.chance(20) {
        (config.rate.commands_per_second, config.rate.burst) = (10, 3);
        config.limits.rate_ignored_ms = 20;
    }
    shape.upgrades = 1 + rng.below(3);
    let mix = Mix::draw(&mut rng);
    for chance in OPERATIONS_BY_CHANCE {
        *chance(faults) = 0;
    }
    shape.mix = Some(mix);
    match rng.below(3) {
        // As they were drawn: each of them out as often as not, the others seldom.
        0 => {}
        // None.
        1 => FAULTS.iter().for_each(|(_, chance, _)| *chance(faults) = 0),
        // Few, in great number.
        _ => {
            FAULTS.iter().for_each(|(_, chance, _)| *chance(faults) = 0);
            for _ in 0..1 + rng.below(3) {
                let (_, chance, most) = FAULTS[rng.below(FAULTS.len() as u64) as usize];
                *chance(faults) = 1 + rng.below(most);
            }
        }
    }
    let mut left_out = Vec::new();
    // Sometimes nearly all of it, so that what is tight is alone.
    let percent = pick(&mut rng, &[20, 50, 80]);
    for (name, ease) in CONFIGURATION {
        if rng.chance(percent) {
            ease(shape, config);
            left_out.push(*name);
        }
    }
    left_out
}

/// What a swarm says of a cluster.
pub struct OfCluster {
    pub mix: Mix,
    /// How often all nodes are replaced, one after the other.
    pub upgrades: u64,
    /// How often a connection breaks, in a thousand of what clients do.
    pub breaks: u64,
}

/// A chance of a mishap of the backplane.
type Mishap = fn(&mut Mishaps) -> &mut u64;

/// What goes wrong between nodes, by name, with its highest chance as above.
pub const MISHAPS: &[(&str, Mishap, u64)] = &[
    ("an announcement is lost", |m| &mut m.loses_announcement, 400),
    ("a link goes down", |m| &mut m.goes_down, 40),
    ("a link hangs", |m| &mut m.hangs, 30),
    ("all is forgotten", |m| &mut m.forgets, 10),
    ("what came lately is forgotten", |m| &mut m.forgets_partly, 10),
];

/// How something of a node is made roomy.
type EaseNode = fn(&mut Config);

/// What is configured of nodes, by name.
pub const CLUSTER_CONFIGURATION: &[(&str, EaseNode)] = &[
    ("short history", |c| c.history.count = 1000),
    ("little memory", |c| c.history.memory_count = 1000),
    ("small windows", |c| c.limits.commands_in_flight = 100),
    ("batched presence", |c| c.presence.exact_members = 200),
    ("short deadlines", |c| c.cluster.deadline_ms = 1500),
    ("short sessions", |c| c.session.grace_ms = 60_000),
];

/// The same for clusters: puts the swarm of a seed over what was drawn for it.
pub fn apply_to_cluster(
    seed: u64,
    mishaps: &mut Mishaps,
    kills: &mut u64,
    config: &mut Config,
) -> Option<OfCluster> {
    if !is_swarm(seed) {
        return None;
    }
    let mut rng = dice(seed);
    let mix = Mix::draw(&mut rng);
    if rng.chance(66) {
        MISHAPS.iter().for_each(|(_, chance, _)| *chance(mishaps) = 0);
        mishaps.is_late = false;
        *kills = 0;
        if rng.chance(50) {
            let (_, chance, most) = MISHAPS[rng.below(MISHAPS.len() as u64) as usize];
            *chance(mishaps) = 1 + rng.below(most);
        } else if rng.chance(50) {
            *kills = 1 + rng.below(6);
        }
    }
    let percent = pick(&mut rng, &[20, 50, 80]);
    for (_, ease) in CLUSTER_CONFIGURATION {
        if rng.chance(percent) {
            ease(config);
        }
    }
    let upgrades = if rng.chance(50) { 0 } else { 1 + rng.below(2) };
    Some(OfCluster { mix, upgrades, breaks: pick(&mut rng, &[0, 8, 40]) })
}

#[test]
fn kept_seeds_are_of_the_first_generation() {
    let kept = crate::REGRESSIONS.iter().chain(&crate::cluster::REGRESSIONS);
    assert!(kept.copied().all(|seed| !is_swarm(seed)), "what is drawn for them has changed");
}

#[test]
fn a_swarm_leaves_much_out_and_does_the_rest_in_great_number() {
    let mixes: Vec<Mix> = (0..400).map(|seed| Mix::draw(&mut dice(FIRST + seed))).collect();
    for op in Op::ALL {
        let having = mixes.iter().filter(|mix| mix.has(*op)).count();
        assert!(having > 100 && (having < 300 || *op == Op::Join), "{op:?} is in {having} of 400");
    }
    let share = |mix: &Mix| {
        let weights = mix.weights.iter().map(|(_, weight)| weight);
        weights.clone().max().expect("not empty") * 100 / weights.sum::<u64>()
    };
    assert!(mixes.iter().any(|mix| share(mix) > 60), "no run does mostly one thing");
}
