//! What happened in a run: always as a number that two equal runs agree on, as lines only when somebody wants to read
//! them, because writing them takes longer than the run.

use std::collections::VecDeque;

/// How many lines are kept.
const LINES: usize = 150;

/// The trace of a run.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    count: u64,
    mode: Mode,
    lines: VecDeque<String>,
}

/// Whether a trace has lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Hash,
    /// The last ones are kept.
    Keep,
    /// All are kept.
    Whole,
    /// All are printed as they come.
    Print,
}

impl Trace {
    pub fn new(mode: Mode) -> Trace {
        Trace { mode, ..Trace::default() }
    }

    /// Notes something that happened: in numbers, and in words if they are wanted.
    pub fn note(&mut self, numbers: &[u64], words: impl FnOnce() -> String) {
        self.count += 1;
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        match self.mode {
            Mode::Hash => {}
            Mode::Keep | Mode::Whole => {
                if self.mode == Mode::Keep && self.lines.len() == LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(format!("{:7} {}", self.count, words()));
            }
            Mode::Print => println!("{:7} {}", self.count, words()),
        }
    }

    pub fn hash_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    /// What equal runs agree on.
    pub fn hash(&self) -> u64 {
        self.hash ^ self.count
    }

    /// How many things have been noted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes all lines out of it.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines).into()
    }

    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
