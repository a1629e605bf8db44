//! Runs whose operations a fuzzer makes up: the first four bytes are the seed of the world, with its faults, shape and configuration; each two bytes
//! after that are the dice of one step. So what is changed in an input is one operation, and not all that come after it.

use starling::base::rng::Rng;

use crate::scenario::{end, rest_and_compare};
use crate::trace::{Mode, Trace};
use crate::world::World;

const SEED_BYTES: usize = 4;
const STEP_BYTES: usize = 2;

/// Steps that are looked at: a run has to end.
const STEPS_MAX: usize = 8192;

/// Steps between two moments of rest, at which all that the clients know is compared.
const STRETCH: usize = 2048;

/// Runs a world through these operations, and to its end. Panics where something is wrong.
pub fn run(input: &[u8]) {
    play(input, Mode::Hash);
}

fn play(input: &[u8], mode: Mode) {
    let Some((seed, steps)) = input.split_first_chunk::<SEED_BYTES>() else { return };
    let seed = u64::from(u32::from_le_bytes(*seed));
    let mut world = World::new(seed, 1 + seed as usize % 4, Trace::new(mode));
    let steps: Vec<&[u8]> = steps.chunks_exact(STEP_BYTES).take(STEPS_MAX).collect();
    for (at, stretch) in steps.chunks(STRETCH).enumerate() {
        if at > 0 {
            rest_and_compare(&mut world);
        }
        for step in stretch {
            let dice = u64::from(u16::from_le_bytes([step[0], step[1]]));
            world.kernel.borrow_mut().rng = Rng::new(dice);
            world.step();
        }
    }
    rest_and_compare(&mut world);
    end(&mut world);
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::{Path, PathBuf};

    use super::*;

    /// What the fuzzer has been given before, as the other targets replay it in `tests/fuzz_corpus.rs`.
    #[test]
    fn fuzz_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let files = |kept: &str| -> Vec<PathBuf> {
            let entries = fuzz.join(kept).join("simulator").read_dir();
            entries.into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect()
        };
        let corpus = files("corpus");
        assert!(!corpus.is_empty(), "the simulator has no corpus");
        let mut failed = Vec::new();
        for path in corpus.into_iter().chain(files("regressions")) {
            let input = std::fs::read(&path).expect("a file");
            if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
                failed.push(path);
            }
        }
        assert!(failed.is_empty(), "the simulator fails with {failed:?}");
    }

    /// `STARLING_SIM_INPUT=FILE cargo test --test simulator fuzzed -- --nocapture`: everything that happens with an input.
    #[test]
    fn replay() {
        let Ok(path) = std::env::var("STARLING_SIM_INPUT") else { return };
        play(&std::fs::read(path).expect("a file"), Mode::Print);
    }
}
