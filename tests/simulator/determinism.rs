//! A seed is its run: all that happens in it, not only what comes of it, is the same in every run, and in every process. What would
//! break that is what differs between two of them: the order of a hash table with random keys, an address, a clock, a thread.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::trace::Mode;
use crate::{cluster, machines, scenario, swarm};

/// How many seeds of each generation of each kind of run are compared.
const SINGLE: u64 = 12;
const CLUSTERS: u64 = 6;
const MACHINES: u64 = 3;

/// Says to a process that it is to tell its traces, and of which runs.
const TELLS: &str = "STARLING_SIM_TELLS";

/// What every line of a trace begins with, unlike what else a test prints.
const MARK: char = '\u{1F}';

/// The kinds of runs, and one that is not deterministic, so that it is known that this would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Cluster,
    Machines,
    Broken,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Single, Kind::Cluster, Kind::Machines, Kind::Broken];

    fn seeds(self) -> Vec<u64> {
        let of_each = match self {
            Kind::Single => SINGLE,
            Kind::Cluster => CLUSTERS,
            Kind::Machines => MACHINES,
            Kind::Broken => 1,
        };
        (0..of_each).chain(swarm::FIRST..swarm::FIRST + of_each).collect()
    }

    /// All that happens in a run, a line each.
    fn trace(self, seed: u64) -> Vec<String> {
        match self {
            Kind::Single => {
                let mut world = None;
                let outcome = scenario::run(seed, Mode::Whole, &mut world);
                let world = world.expect("a run leaves its world");
                let mut lines = world.kernel.borrow_mut().trace.take_lines();
                lines.push(format!("hash {:016x}", outcome.hash));
                lines
            }
            Kind::Cluster => cluster::trace_of(seed),
            Kind::Machines => machines::trace_of(seed),
            Kind::Broken => {
                let mut lines: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
                // In the order of keys that are drawn anew in every process, and for every table.
                lines.push(format!("{:?}", (0..100).collect::<HashSet<u32>>()));
                lines
            }
        }
    }
}

/// Where two traces begin to differ: the number of the line, and the line in each that has it.
fn difference<'a>(
    one: &'a [String],
    other: &'a [String],
) -> Option<(usize, Option<&'a str>, Option<&'a str>)> {
    let line = |lines: &'a [String], at: usize| lines.get(at).map(String::as_str);
    (0..one.len().max(other.len()))
        .find(|at| one.get(*at) != other.get(*at))
        .map(|at| (at, line(one, at), line(other, at)))
}

/// Runs each seed twice here, and once in another process, and says where the runs differ.
fn compare(kind: Kind) -> Result<(), String> {
    let mut child = Telling::begin(kind);
    for seed in kind.seeds() {
        let one = kind.trace(seed);
        assert!(one.len() > 100, "{kind:?}, seed {seed}: only {} things happened", one.len());
        if let Some(difference) = difference(&one, &kind.trace(seed)) {
            return Err(format!("{kind:?}, seed {seed}, in one process: {difference:?}"));
        }
        if let Some(difference) = difference(&one, &child.trace()) {
            return Err(format!("{kind:?}, seed {seed}, in two processes: {difference:?}"));
        }
    }
    Ok(())
}

/// Another process, which runs the same seeds and tells its traces.
struct Telling {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Telling {
    fn begin(kind: Kind) -> Telling {
        let program = std::env::current_exe().expect("a test runs in a program");
        let mut command = Command::new(program);
        command.args(["determinism::tells", "--exact", "--nocapture"]).env(TELLS, format!("{kind:?}"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("this program can be run again");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Telling { child, lines }
    }

    /// The trace of its next seed.
    fn trace(&mut self) -> Vec<String> {
        let mut trace = Vec::new();
        for line in &mut self.lines {
            let line = line.expect("it tells text");
            // What else is printed may stand before the first one.
            match line.split_once(MARK) {
                Some((_, "end")) => return trace,
                Some((_, text)) => trace.push(unescape(text)),
                None => {}
            }
        }
        panic!("the other process has ended after {} lines of a trace", trace.len());
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn escape(line: &str) -> String {
    line.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars();
    while let Some(next) = chars.next() {
        out.push(match next {
            '\\' => match chars.next().expect("something is escaped") {
                'n' => '\n',
                'r' => '\r',
                other => other,
            },
            other => other,
        });
    }
    out
}

/// Not a test: what the other process does.
#[test]
fn tells() {
    let Ok(name) = std::env::var(TELLS) else { return };
    let kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == name).expect("a kind of run");
    for seed in kind.seeds() {
        for line in kind.trace(seed) {
            println!("{MARK}{}", escape(&line));
        }
        println!("{MARK}end");
    }
}

#[test]
fn a_single_node_does_the_same_again() {
    assert_eq!(compare(Kind::Single), Ok(()));
}

#[test]
fn a_cluster_does_the_same_again() {
    assert_eq!(compare(Kind::Cluster), Ok(()));
}

#[test]
fn clients_by_the_library_do_the_same_again() {
    assert_eq!(compare(Kind::Machines), Ok(()));
}

#[test]
fn what_is_not_the_same_again_is_found() {
    let why = compare(Kind::Broken).expect_err("a table with random keys has another order each time");
    assert!(why.contains("in one process: (100, "), "{why}");
    // Nor is it the same in another process.
    let one = Kind::Broken.trace(0);
    let other = Telling::begin(Kind::Broken).trace();
    assert_eq!(difference(&one, &other).map(|(at, ..)| at), Some(100));
    // A line that is not there is a difference as well.
    let lines = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(difference(&lines(&["a"]), &lines(&["a", "b"])), Some((1, None, Some("b"))));
    assert_eq!(difference(&lines(&["a", "b"]), &lines(&["a", "b"])), None);
}

#[test]
fn lines_come_through_the_pipe_as_they_are() {
    for line in ["", "plain", "a\\nb", "a\nb\r\n", "\\", "鳥\t\\\n"] {
        assert_eq!(unescape(&escape(line)), line);
    }
}
