//! What a person sees while a run goes on: one line that changes on a terminal, a line every few seconds elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

use super::shared::Shared;

const TERMINAL_NS: u64 = 200_000_000;
const LOG_NS: u64 = 5_000_000_000;

/// Tells how a run goes.
#[derive(Debug)]
pub struct Progress {
    is_quiet: bool,
    is_terminal: bool,
    shown_ns: u64,
    received: u64,
}

impl Progress {
    /// Tells on standard error, or nothing.
    pub fn new(is_quiet: bool) -> Progress {
        Progress { is_quiet, is_terminal: io::stderr().is_terminal(), shown_ns: 0, received: 0 }
    }

    /// Tells, if it is time to.
    pub fn show(&mut self, shared: &Shared, what: &str) {
        let now_ns = shared.clock.now_ns();
        // A run of its own has a clock of its own.
        if now_ns < self.shown_ns {
            (self.shown_ns, self.received) = (0, 0);
        }
        let interval_ns = if self.is_terminal { TERMINAL_NS } else { LOG_NS };
        if self.is_quiet || now_ns < self.shown_ns + interval_ns {
            return;
        }
        let (ready, lost) = (shared.sum(|gauges| &gauges.ready), shared.sum(|gauges| &gauges.lost));
        let (sent, received) = (shared.sum(|gauges| &gauges.sent), shared.sum(|gauges| &gauges.received));
        let per_second =
            (received - self.received.min(received)) as f64 / (now_ns - self.shown_ns) as f64 * 1e9;
        (self.shown_ns, self.received) = (now_ns, received);
        let lost = if lost > 0 { format!(", {lost} lost") } else { String::new() };
        let line = format!(
            "{:5.1} s  {what}: {ready} connected{lost}, {sent} sent, {received} received, {per_second:.0}/s",
            now_ns as f64 / 1e9
        );
        self.tell(&line);
    }

    /// Says one thing.
    pub fn say(&mut self, line: &str) {
        self.clear();
        if !self.is_quiet {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Takes the changing line away.
    pub fn clear(&mut self) {
        if self.is_terminal && !self.is_quiet {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn tell(&self, line: &str) {
        // Where nobody can be told, the run goes on.
        let mut err = io::stderr().lock();
        let _ = if self.is_terminal {
            write!(err, "\r\x1b[K{line}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{line}")
        };
    }
}
