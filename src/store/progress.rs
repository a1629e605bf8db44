//! How far a long look at the store has come: for whoever waits for it, on another thread.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What is being done. The order is that of `STAGES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The file is opened.
    Opening,
    /// SQLite looks at every page.
    Pages,
    /// Our own rules for messages.
    Messages,
    /// Our own rules for all else.
    Others,
    /// Pages are copied.
    Copying,
}

/// What people are told of each stage.
const STAGES: [&str; 5] = [
    "opening the file",
    "looking at its pages",
    "looking at messages",
    "looking at all else",
    "copying pages",
];

/// The stage, and how much of it is done.
#[derive(Debug, Default)]
pub struct Progress {
    stage: AtomicUsize,
    done: AtomicU64,
    all: AtomicU64,
}

impl Progress {
    /// A stage begins, of `all` steps; 0 if nobody knows.
    pub fn begin(&self, stage: Stage, all: u64) {
        self.done.store(0, Relaxed);
        self.all.store(all, Relaxed);
        self.stage.store(stage as usize, Relaxed);
    }

    /// So many steps are done.
    pub fn done(&self, steps: u64) {
        self.done.store(steps, Relaxed);
    }

    /// A line for a person.
    pub fn line(&self) -> String {
        let stage = STAGES[self.stage.load(Relaxed)];
        match self.all.load(Relaxed) {
            0 => stage.to_owned(),
            all => format!("{stage}: {} of {all}", self.done.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_stage_and_how_much_is_known_of_it() {
        let progress = Progress::default();
        assert_eq!(progress.line(), "opening the file");
        progress.begin(Stage::Copying, 8);
        progress.done(3);
        assert_eq!(progress.line(), "copying pages: 3 of 8");
        progress.begin(Stage::Others, 0);
        assert_eq!(progress.line(), "looking at all else");
    }
}
