//! How often the log hears of a failure that goes on.

use std::time::{Duration, Instant};

/// How often a failure that goes on is logged.
const LOG_AGAIN: Duration = Duration::from_secs(10);

/// Says when a failure that goes on is to be logged again.
#[derive(Debug, Default)]
pub struct Complaint(Option<Instant>);

impl Complaint {
    /// Whether it is to be logged now; if so it is taken as logged.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|at| at.elapsed() >= LOG_AGAIN);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}
