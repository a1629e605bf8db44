//! The simulator: the real loop on a simulated, faulty, edge-triggered kernel, several cores in one thread, and clients
//! that check everything they hear. A run follows from its seed alone, so that what it finds can be looked at again:
//!
//! ```text
//! STARLING_SIM_SEED=7 cargo test --test simulator replay -- --nocapture     one seed, again
//! STARLING_SIM_TRACE=1 ...                                                  and everything that happens in it
//! STARLING_SIM_SEEDS=5000 cargo test --test simulator fresh                 that many seeds that nobody has seen
//! ```

mod client;
mod faults;
mod kernel;
mod model;
mod person;
mod program;
mod scenario;
mod talk;
mod trace;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use scenario::{Outcome, run};
use trace::Mode;

/// How many seeds are run every time, the same ones.
const SEEDS: u64 = 200;

/// How many are run that nobody has seen, where the environment does not say.
const FRESH_SEEDS: u64 = 40;

#[test]
fn known_seeds() {
    for seed in 0..SEEDS {
        try_seed(seed);
    }
}

#[test]
fn fresh_seeds() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let seeds = environment("STARLING_SIM_SEEDS").unwrap_or(FRESH_SEEDS);
    println!("{seeds} seeds from {clock} on");
    for seed in clock..clock + seeds {
        try_seed(seed);
    }
}

/// Runs the seed that the environment names, with its trace if that is asked for.
#[test]
fn replay() {
    let Some(seed) = environment("STARLING_SIM_SEED") else { return };
    let is_traced = environment("STARLING_SIM_TRACE").is_some_and(|trace| trace > 0);
    let outcome = run(seed, if is_traced { Mode::Print } else { Mode::Keep }, &mut None);
    println!("seed {seed}: {} things happened, hash {:016x}", outcome.count, outcome.hash);
}

#[test]
fn a_seed_is_its_run() {
    for seed in [1, 22, 333, 4444] {
        let [one, other] = [(); 2].map(|()| run(seed, Mode::Hash, &mut None));
        assert!(one.count > 1000, "seed {seed}: only {} things happened", one.count);
        assert_eq!((one.hash, one.count), (other.hash, other.count), "seed {seed} is not the same run twice");
    }
    let [one, other] = [5, 6].map(|seed| run(seed, Mode::Hash, &mut None));
    assert_ne!(one.hash, other.hash, "two seeds are one run");
}

/// Runs a seed. If it fails it is run again for its trace, and the end of that is printed.
fn try_seed(seed: u64) -> Outcome {
    if let Ok(outcome) = catch_unwind(|| run(seed, Mode::Hash, &mut None)) {
        return outcome;
    }
    let mut world = None;
    let _ = catch_unwind(AssertUnwindSafe(|| run(seed, Mode::Keep, &mut world)));
    if let Some(world) = world {
        println!("the end of the trace of seed {seed}:");
        for line in world.kernel.borrow().trace.lines() {
            println!("{line}");
        }
    }
    panic!("seed {seed} fails; STARLING_SIM_SEED={seed} cargo test --test simulator replay -- --nocapture");
}

fn environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}
