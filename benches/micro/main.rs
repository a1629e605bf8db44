//! Micro-benchmarks: what a codec, the timer wheel, a mailbox and a turn of a whole core cost.
//!
//! One binary has two harnesses over the same works, so that what is timed and what is counted is the same machine code:
//! criterion takes the time, and callgrind counts the instructions of one work that `--count` names (`scripts/counts`
//! does that for all of them). docs/microbench.md tells how to read both.

mod codecs;
mod mailbox;
mod turn;
mod wheel;
mod works;

#[path = "../../tests/common/core.rs"]
mod cores;
// What tests look at besides.
#[allow(dead_code)]
#[path = "../../tests/common/memory.rs"]
mod memory;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;

use works::{WORKS, Work};

/// How often a work is done before it is counted: every buffer has its size then, and every page is there.
const WARM_UP_CALLS: u64 = 5;

/// How long each work is timed, and how long it is done before that. All of them are to take a minute or two.
const MEASUREMENT: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(300);
const SAMPLES: usize = 50;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--count"] => {
            WORKS.iter().filter(|work| work.counted_calls > 0).for_each(|work| println!("{}", work.name))
        }
        ["--count", name] => {
            count(WORKS.iter().find(|work| work.name == name).expect("there is such a work"))
        }
        _ => time(),
    }
}

fn time() {
    let defaults =
        Criterion::default().measurement_time(MEASUREMENT).warm_up_time(WARM_UP).sample_size(SAMPLES);
    let mut criterion = defaults.configure_from_args();
    for work in WORKS {
        let (group, name) = work.name.split_once('/').expect("a name is a path");
        let mut group = criterion.benchmark_group(group);
        group.throughput(work.throughput.clone());
        let mut run = None;
        group.bench_function(name, |bencher| {
            let run = run.get_or_insert_with(work.make);
            bencher.iter_custom(|calls| {
                let began = Instant::now();
                run(calls);
                began.elapsed()
            });
        });
    }
    criterion.final_summary();
}

/// Does a work as often as it is to be counted, and says how often that is.
fn count(work: &Work) {
    let mut run = (work.make)();
    run(WARM_UP_CALLS);
    counted_by_callgrind(&mut run, work.counted_calls);
    println!("{}", work.counted_calls);
}

/// What callgrind counts, which it is told by this name: everything within this call, and nothing else.
#[inline(never)]
fn counted_by_callgrind(run: &mut works::Run, calls: u64) {
    run(calls);
    // Something is left to do: a jump in place of the call would be no entry to be seen, and no return.
    black_box(calls);
}
