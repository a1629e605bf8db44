//! The highest rate that holds: up in powers of two until it does not, then halving what is between.

use serde::{Deserialize, Serialize};

use super::report::{Report, Times, Verdict};

/// The search ends when the rate is known to this part.
const PRECISION: f64 = 0.05;

/// How many times are to be beyond the percentile of an objective before it is said that it holds.
const SAMPLES_BEYOND: f64 = 10.0;

/// One rate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// Messages a second.
    pub rate: f64,
    /// Whether it held.
    pub has_held: bool,
    /// Why it did not.
    pub why_not: Option<String>,
    /// How many times it was judged by.
    pub samples: u64,
    /// How long they were taken.
    pub seconds: f64,
    /// Percentiles of them.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// The most.
    pub max_ns: u64,
}

impl Try {
    /// What a run at a rate came to.
    pub fn of(rate: f64, report: &Report, objective: &Objective) -> Try {
        let times = report.main_times().1;
        let why_not = why_not(report, objective);
        Try {
            rate,
            has_held: why_not.is_none(),
            why_not,
            samples: times.count,
            seconds: report.seconds,
            p50_ns: times.p50_ns,
            p99_ns: times.p99_ns,
            p999_ns: times.p999_ns,
            max_ns: times.max_ns,
        }
    }
}

/// What must hold: bounds on percentiles of the profile's times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    bounds: Vec<(f64, u64)>,
}

impl Objective {
    /// Reads `p99=5ms` or `p50=200us,p99.9=20ms`.
    ///
    /// # Errors
    /// One line on what is wrong with it.
    pub fn parse(text: &str) -> Result<Objective, String> {
        let wrong = || format!("{text:?} is no objective: write p99=5ms, or several with commas between");
        let bound = |part: &str| {
            let (name, limit) = part.split_once('=')?;
            let percentile: f64 = match name.trim() {
                "max" => 100.0,
                name => name.strip_prefix('p')?.parse().ok()?,
            };
            let is_possible = percentile > 0.0 && percentile <= 100.0;
            is_possible.then_some((percentile, parse_time_ns(limit.trim())?))
        };
        let bounds: Option<Vec<_>> = text.split(',').map(bound).collect();
        bounds.map(|bounds| Objective { bounds }).ok_or_else(wrong)
    }

    /// How many times there have to be, so that some are beyond each percentile: of fewer, chance decides.
    pub fn samples_needed(&self) -> u64 {
        let beyond = |percentile: f64| (SAMPLES_BEYOND * 100.0 / (100.0 - percentile)).round();
        // The maximum is that of however many there are.
        let percentiles = self.bounds.iter().map(|(percentile, _)| *percentile).filter(|at| *at < 100.0);
        percentiles.map(beyond).fold(1.0, f64::max) as u64
    }

    /// Whether the times are within all bounds.
    pub fn holds(&self, times: &Times) -> bool {
        self.bounds.iter().all(|(percentile, limit_ns)| {
            // The next point of the curve, but for what rounding has done.
            let quantile = percentile / 100.0 - 1e-9;
            let at = times.curve.iter().find(|(at, _)| *at >= quantile).map_or(times.max_ns, |point| point.1);
            times.count > 0 && at <= *limit_ns
        })
    }
}

/// Reads `200us`, `5ms`, `1.5s`, `2m` as nanoseconds.
pub fn parse_time_ns(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text[..text.len() - unit.len()].parse().ok()?;
    let factor = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        _ => return None,
    };
    let ns = number * factor;
    (ns.is_finite() && ns < 1e17).then_some(ns as u64)
}

/// Why a run at a rate did not hold: something was wrong, or slow, or there is too little to tell.
fn why_not(report: &Report, objective: &Objective) -> Option<String> {
    let times = report.main_times().1;
    let needed = objective.samples_needed();
    if report.verdict != Verdict::Ok {
        Some(report.reasons.first().cloned().unwrap_or_else(|| "interrupted".into()))
    } else if !objective.holds(times) {
        Some(match report.generator.is_bottleneck {
            true => "slower than the objective, but the generator was the bottleneck".into(),
            false => "slower than the objective".into(),
        })
    } else if times.count < needed {
        Some(format!(
            "{} samples, of which the objective needs {needed}: give --duration more time",
            times.count
        ))
    } else {
        None
    }
}

/// How much longer a run has to be, if it was within the objective, but with too few times to tell.
pub fn longer_by(report: &Report, objective: &Objective) -> Option<f64> {
    let times = report.main_times().1;
    let is_within = report.verdict == Verdict::Ok && objective.holds(times);
    // A little more than is needed: not every second has as many.
    (is_within && times.count < objective.samples_needed())
        .then(|| objective.samples_needed() as f64 / times.count as f64 * 1.1)
}

/// The search, by what it asks for next.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// The highest rate that held.
    pub held: Option<f64>,
    /// The lowest that did not.
    pub failed: Option<f64>,
    next: f64,
}

impl Search {
    /// Begins with a rate.
    pub fn new(first: f64) -> Search {
        Search { held: None, failed: None, next: first }
    }

    /// The next rate to try, until it is known well enough.
    pub fn next(&self) -> Option<f64> {
        match (self.held, self.failed) {
            (Some(held), Some(failed)) if failed - held <= held * PRECISION => None,
            _ if self.next < 1.0 => None,
            _ => Some(self.next),
        }
    }

    /// What came of it.
    pub fn tell(&mut self, rate: f64, has_held: bool) {
        if has_held {
            self.held = Some(self.held.unwrap_or(rate).max(rate));
        } else {
            self.failed = Some(self.failed.unwrap_or(rate).min(rate));
        }
        self.next = match (self.held, self.failed) {
            (Some(held), Some(failed)) => (held + failed) / 2.0,
            (Some(held), None) => held * 2.0,
            (None, Some(failed)) => failed / 4.0,
            (None, None) => rate,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn objectives_are_read() {
        assert_eq!(Objective::parse("p99=5ms").unwrap().bounds, [(99.0, 5_000_000)]);
        assert_eq!(
            Objective::parse("p50=200us, p99.9=1.5s,max=2m").unwrap().bounds,
            [(50.0, 200_000), (99.9, 1_500_000_000), (100.0, 120_000_000_000)]
        );
        for text in ["", "p99", "99=5ms", "p0=1ms", "p101=1ms", "p99=5", "p99=ms", "p99=5 parsec"] {
            assert!(Objective::parse(text).unwrap_err().contains("p99=5ms"), "{text}");
        }
    }

    #[test]
    fn percentiles_need_samples() {
        let needed = |text: &str| Objective::parse(text).unwrap().samples_needed();
        assert_eq!(needed("p50=1ms"), 20);
        assert_eq!(needed("p50=1ms,p99=5ms"), 1000);
        assert_eq!(needed("p99.9=5ms"), 10_000);
        assert_eq!(needed("max=1s"), 1);
    }

    #[test]
    fn a_rate_is_not_judged_by_a_few() {
        let objective = Objective::parse("p99=5ms").unwrap();
        let report = |samples: u64, ns: u64| {
            let mut tally = super::super::tally::Tally::new();
            tally.latency.record_n(ns, samples).unwrap();
            super::super::report::tests::report(tally)
        };
        let few = Try::of(7.0, &report(200, 1_000_000), &objective);
        assert!(!few.has_held && few.why_not.unwrap().contains("200 samples"));
        assert!((longer_by(&report(200, 1_000_000), &objective).unwrap() - 5.5).abs() < 0.01);
        assert!(Try::of(7.0, &report(2000, 1_000_000), &objective).has_held);
        // What is slow is slow by however few.
        assert!(!Try::of(7.0, &report(200, 9_000_000), &objective).has_held);
        assert_eq!(longer_by(&report(200, 9_000_000), &objective), None);
    }

    proptest! {
        #[test]
        fn the_limit_is_found(limit in 2.0f64..1e7, first in 1.0f64..1e6) {
            let mut search = Search::new(first);
            let mut tries = 0;
            while let Some(rate) = search.next() {
                search.tell(rate, rate <= limit);
                tries += 1;
                prop_assert!(tries < 60, "{search:?}");
            }
            if let Some(held) = search.held {
                prop_assert!(held <= limit && held >= limit * 0.93, "{} of {}", held, limit);
            } else {
                prop_assert!(limit < 4.0);
            }
        }
    }
}
