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

/// How long a reason has to be another one before that is logged.
const OTHER_REASON: Duration = Duration::from_secs(60);

/// Says when something that lasts is to be logged: once when it begins, and again when its reason has been another one for a while. What
/// begins and ends again and again is logged no more often than a failure that goes on.
#[derive(Debug, Default)]
pub struct Lasting {
    began: Option<Instant>,
    /// The reason that was logged; whether that was since it began; and when.
    said: String,
    is_said: bool,
    said_at: Option<Instant>,
    /// Another one, and since when there has been no other than that.
    other: Option<(String, Instant)>,
}

impl Lasting {
    /// It goes on, for this reason. Returns whether that is to be logged now; if so it is taken as logged.
    pub fn goes_on(&mut self, why: &str, now: Instant) -> bool {
        self.began.get_or_insert(now);
        if !self.is_said {
            if self.said_at.is_some_and(|at| now.duration_since(at) < LOG_AGAIN) {
                return false;
            }
        } else if self.said == why {
            self.other = None;
            return false;
        } else {
            match &self.other {
                Some((other, since)) if other == why => {
                    if now.duration_since(*since) < OTHER_REASON {
                        return false;
                    }
                }
                _ => {
                    self.other = Some((why.to_owned(), now));
                    return false;
                }
            }
        }
        (self.is_said, self.said_at, self.other) = (true, Some(now), None);
        why.clone_into(&mut self.said);
        true
    }

    /// It is over. Returns for how long it has lasted, if it was logged.
    pub fn ends(&mut self, now: Instant) -> Option<Duration> {
        let began = self.began.take();
        let is_said = std::mem::take(&mut self.is_said);
        self.other = None;
        began.filter(|_| is_said).map(|began| now.duration_since(began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_once_and_again_when_it_is_something_else() {
        let began = Instant::now();
        let at = |s: u64| began + Duration::from_secs(s);
        let mut lasting = Lasting::default();
        assert!(lasting.goes_on("refused", at(0)));
        // Two reasons in turn are the same lasting.
        for s in 1..500 {
            assert!(!lasting.goes_on(if s % 2 == 0 { "refused" } else { "reset" }, at(s)));
        }
        for s in 500..560 {
            assert!(!lasting.goes_on("full", at(s)));
        }
        assert!(lasting.goes_on("full", at(560)));
        assert!(!lasting.goes_on("full", at(5000)));
        assert_eq!(lasting.ends(at(5001)), Some(Duration::from_secs(5001)));
        assert_eq!(lasting.ends(at(5001)), None);
    }

    #[test]
    fn what_comes_and_goes_is_not_said_each_time() {
        let began = Instant::now();
        let at = |s: u64| began + Duration::from_secs(s);
        let mut lasting = Lasting::default();
        assert!(lasting.goes_on("refused", at(0)));
        assert!(lasting.ends(at(1)).is_some());
        for s in 2..10 {
            assert!(!lasting.goes_on("refused", at(s)));
            assert_eq!(lasting.ends(at(s)), None);
        }
        // It has gone on for as long as that takes.
        assert!(!lasting.goes_on("refused", at(9)));
        assert!(lasting.goes_on("refused", at(10)));
        assert_eq!(lasting.ends(at(11)), Some(Duration::from_secs(2)));
    }
}
