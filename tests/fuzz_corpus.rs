//! What the fuzz targets have been given before, on an ordinary build: every file of `fuzz/corpus` and `fuzz/regressions`, through the very bodies that
//! the fuzzer drives. The simulator's own are replayed by the simulator.

#[path = "../fuzz/src/lib.rs"]
#[allow(unused_imports)]
mod fuzz;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The target whose body is the simulator.
const SIMULATOR: &str = "simulator";

/// A corpus is for replaying at every test run, and for people to look at: the fuzzer keeps what it finds elsewhere.
const FILES_MAX: usize = 64;
const BYTES_MAX: u64 = 16_384;

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a directory, in order; none if it is not there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = directory.read_dir() else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Replays all that is kept for a target.
fn replay(target: &str) {
    let (_, body) = fuzz::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let corpus = files(&fuzz_directory().join("corpus").join(target));
    assert!(!corpus.is_empty(), "{target} has no corpus");
    let regressions = files(&fuzz_directory().join("regressions").join(target));
    let mut failed = Vec::new();
    for path in corpus.iter().chain(&regressions) {
        let input = std::fs::read(path).expect("a file");
        if catch_unwind(AssertUnwindSafe(|| body(&input))).is_err() {
            failed.push(path);
        }
    }
    assert!(failed.is_empty(), "{target} fails with {failed:?}");
}

/// A test for each target.
macro_rules! replays {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
    };
}

replays! {
    backplane client client_journal commands database deflate frames http1 http2 journal lines proxy session tokens websocket
}

#[test]
fn every_target_is_replayed_and_has_a_small_corpus() {
    let targets: BTreeSet<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        targets,
        REPLAYED.iter().copied().collect(),
        "targets without a test, or tests without a target"
    );
    let manifest = std::fs::read_to_string(fuzz_directory().join("Cargo.toml")).expect("a manifest");
    let built: BTreeSet<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| *name != "starling-fuzz")
        .collect();
    let expected: BTreeSet<&str> = targets.iter().copied().chain([SIMULATOR]).collect();
    assert_eq!(built, expected, "fuzz/Cargo.toml builds other targets");
    for target in &expected {
        let corpus = files(&fuzz_directory().join("corpus").join(target));
        assert!((1..=FILES_MAX).contains(&corpus.len()), "{target} has a corpus of {} files", corpus.len());
        let regressions = files(&fuzz_directory().join("regressions").join(target));
        for path in corpus.iter().chain(&regressions) {
            assert!(path.metadata().expect("a file").len() <= BYTES_MAX, "{} is long", path.display());
        }
    }
    for kept in ["corpus", "regressions"].map(|kept| files(&fuzz_directory().join(kept))).concat() {
        let name = kept.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(expected.contains(name), "{} is of no target", kept.display());
    }
}
