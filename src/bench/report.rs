//! What a run came to, as it is written and read: JSON.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::audit::{AckFaults, Faults};
use super::fingerprint::Fingerprint;
use super::plan::{Load, Plan, Profile};
use super::run::Outcome;
use super::search::Try;
use super::subject::Usage;

/// The version of the format.
pub const FORMAT: u32 = 1;

/// A generator that sent later than this against its own schedule measured itself.
const LATE_NS: u64 = 1_000_000;

/// With fewer of the kernel's ticks the division of CPU time into user and system is chance: of 100, it is off by some 5 %.
const TICKS_MIN: f64 = 100.0;

/// As did one that was at work for longer than this part of the time.
const BUSY_MAX: f64 = 0.9;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything came that should have.
    Ok,
    /// Something did not, or came twice, or out of order, or somebody was lost.
    Failed,
    /// It was cut short, and says nothing about what was under way.
    Interrupted,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this format.
    pub format: u32,
    /// What the run is called in a picture.
    pub label: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it failed.
    pub reasons: Vec<String>,
    /// What to keep in mind when reading the figures.
    pub warnings: Vec<String>,
    /// What was measured.
    pub target: String,
    /// What it says of its version, where it does.
    #[serde(default)]
    pub target_version: Option<String>,
    /// What was done to it.
    pub plan: Plan,
    /// Where, and with what.
    pub fingerprint: Fingerprint,
    /// The measured time.
    pub seconds: f64,
    /// Messages due in it.
    pub sent: u64,
    /// Messages that arrived in it.
    pub received: u64,
    /// The same a second.
    pub sent_per_second: f64,
    /// The same a second.
    pub received_per_second: f64,
    /// Deliveries that one read of the generator brought, on average: what the cost of a delivery depends on most.
    pub deliveries_per_read: Option<f64>,
    /// Due to arrival.
    pub latency: Times,
    /// Due to sending: the generator's own delay.
    pub lateness: Times,
    /// Connection begun to being where one should.
    pub entry: Times,
    /// Due to acknowledgement.
    pub acknowledged: Times,
    /// Connection cut to being back.
    pub recovery: Times,
    /// Seconds from the first connection to the last one's being there.
    pub gathering_seconds: f64,
    /// What the offsets and the sequences show.
    pub audit: Audited,
    /// Connections that broke, by reason.
    pub lost: BTreeMap<String, u64>,
    /// What was refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Sessions that came back whole, and that did not.
    pub recovered: u64,
    /// See `recovered`.
    pub unrecovered: u64,
    /// Members who do not read that the target has closed.
    pub slow_closed: u64,
    /// Moves between rooms.
    pub moves: u64,
    /// The highest rate that held, where it was searched.
    pub highest_rate: Option<f64>,
    /// The rates that were tried, where it was searched.
    #[serde(default)]
    pub tries: Vec<Try>,
    /// System calls of the target in the measured time, where they were counted.
    pub syscalls: Option<BTreeMap<String, u64>>,
    /// The target's processes, where they could be seen.
    pub server: Option<Server>,
    /// The generator itself.
    pub generator: Busy,
}

/// What the audit found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    /// By the target's offsets.
    pub offsets: Faults,
    /// By the publishers' own sequences.
    pub sequences: Faults,
    /// Messages whose content was not the one that was sent.
    #[serde(default)]
    pub damaged: u64,
    /// Messages under another name than their publisher's.
    #[serde(default)]
    pub misattributed: u64,
    /// Acknowledgements (`acks`).
    #[serde(default)]
    pub acks: AckFaults,
    /// Messages to those who should not have them.
    pub strays: u64,
    /// Messages that could not be sent, because their publisher had no connection.
    pub unsent: u64,
    /// All messages that were received, warm-up included.
    pub looked_at: u64,
}

/// A distribution of times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean_ns: f64,
    /// The least.
    pub min_ns: u64,
    /// Percentiles.
    pub p50_ns: u64,
    /// 90 %.
    pub p90_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// 99.99 %.
    pub p9999_ns: u64,
    /// The most.
    pub max_ns: u64,
    /// Times at many quantiles, for pictures: `[quantile, ns]`.
    pub curve: Vec<(f64, u64)>,
}

/// What the target used in the measured time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its processes.
    pub pids: Vec<u32>,
    /// Processor time.
    pub cpu_seconds: f64,
    /// The part of it outside the kernel; none where the kernel has seen too few ticks to divide it.
    pub user_seconds: Option<f64>,
    /// The part of it within.
    pub system_seconds: Option<f64>,
    /// A delivery.
    pub cpu_us_per_delivery: Option<f64>,
    /// A delivery, outside the kernel.
    pub user_us_per_delivery: Option<f64>,
    /// Memory at the end.
    pub resident_bytes: u64,
    /// Memory of its own at the end.
    pub private_bytes: u64,
    /// What a connection made of it: private memory at the beginning of the measured time, less that without connections.
    pub private_bytes_per_connection: f64,
    /// The machine's kernel, both ends of each connection where both are here, and whatever else it did.
    pub kernel_bytes_per_connection: f64,
    /// Readings before the first connection, and at both ends of the measured time.
    pub usage: [Usage; 3],
}

/// How busy the generator was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Busy {
    /// The part of the time that its busiest thread was at work.
    pub busy_share: f64,
    /// Processor time of all threads.
    pub cpu_seconds: f64,
    /// Whether it, rather than the target, may have been what was measured.
    pub is_bottleneck: bool,
}

impl Report {
    /// The report of a run.
    pub fn new(plan: &Plan, target: &str, label: String, outcome: Outcome, pids: &[u32]) -> Report {
        let Outcome {
            fingerprint,
            target_version,
            tally,
            measured_ns,
            gathering_ns,
            usage,
            syscalls,
            is_interrupted,
            problems,
        } = outcome;
        let seconds = measured_ns as f64 / 1e9;
        let audit = Audited {
            offsets: tally.offsets,
            sequences: tally.sequences,
            damaged: tally.damaged,
            misattributed: tally.misattributed,
            acks: tally.acks,
            strays: tally.strays,
            unsent: tally.unsent,
            looked_at: tally.received_in_all,
        };
        let mut reasons = problems;
        reasons.extend(audit.reasons());
        reasons.extend(tally.lost.iter().map(|(why, count)| format!("{count} connections lost: {why}")));
        reasons.extend(tally.refused.iter().map(|(why, count)| format!("{count} commands refused: {why}")));
        if tally.absent > 0 {
            reasons.push(format!("{} members were not where they should be in the end", tally.absent));
        }
        if tally.unrecovered > 0 {
            reasons.push(format!("{} sessions came back without what they had missed", tally.unrecovered));
        }
        let verdict = match (is_interrupted, reasons.is_empty()) {
            (true, _) => Verdict::Interrupted,
            (false, true) => Verdict::Ok,
            (false, false) => Verdict::Failed,
        };
        let lateness = Times::of(&tally.lateness);
        let busy_share = if measured_ns == 0 { 0.0 } else { tally.busy_ns as f64 / measured_ns as f64 };
        let mut warnings = Vec::new();
        match &syscalls {
            Some(Ok(_)) => {
                warnings.push("counting system calls slowed the target down: use no other figure".to_owned());
            }
            Some(Err(why)) => warnings.push(format!("system calls were not counted: {why}")),
            None => {}
        }
        let is_open_loop = matches!(plan.load, Load::Rate(_));
        let is_late = is_open_loop && lateness.p99_ns > LATE_NS;
        if is_late {
            warnings.push(format!(
                "the generator was the bottleneck: 1 % of its sends were over {:.1} ms late, while its busiest thread was at work {:.0} % of the time; {}",
                lateness.p99_ns as f64 / 1e6,
                busy_share * 100.0,
                if busy_share > 0.5 {
                    "give it more --threads or --cpus, or a lower --rate"
                } else {
                    "others may have had its processors: measure on a quiet machine, or with other --cpus"
                }
            ));
        }
        let is_busy = busy_share > BUSY_MAX;
        if is_busy {
            warnings.push(format!(
                "the generator was the bottleneck: its busiest thread was at work {:.0} % of the time; give it more --threads and --cpus",
                busy_share * 100.0
            ));
        }
        if plan.profile == Profile::Slow && tally.slow_closed == 0 && !is_interrupted {
            warnings.push(
                "none of those who do not read was closed: perhaps all that they were sent had room in buffers on its way; \
                 more --rate, --size or --duration shows what the target does about them"
                    .to_owned(),
            );
        }
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Report {
            format: FORMAT,
            label,
            verdict,
            reasons,
            warnings,
            target: target.to_owned(),
            target_version,
            plan: plan.clone(),
            fingerprint,
            seconds,
            sent: tally.sent,
            received: tally.received,
            sent_per_second: per_second(tally.sent),
            received_per_second: per_second(tally.received),
            deliveries_per_read: (tally.reads > 0).then(|| tally.received as f64 / tally.reads as f64),
            latency: Times::of(&tally.latency),
            lateness,
            entry: Times::of(&tally.entry),
            acknowledged: Times::of(&tally.acknowledged),
            recovery: Times::of(&tally.recovery),
            gathering_seconds: gathering_ns as f64 / 1e9,
            audit,
            lost: tally.lost,
            refused: tally.refused,
            recovered: tally.recovered,
            unrecovered: tally.unrecovered,
            slow_closed: tally.slow_closed,
            moves: tally.moves,
            highest_rate: None,
            tries: Vec::new(),
            syscalls: syscalls.and_then(Result::ok),
            server: usage.map(|usage| Server::of(usage, tally.entry.len(), tally.received, pids)),
            generator: Busy {
                busy_share,
                cpu_seconds: tally.cpu_ns as f64 / 1e9,
                is_bottleneck: is_late || is_busy,
            },
        }
    }

    /// The distribution that the profile is about.
    pub fn main_times(&self) -> (&'static str, &Times) {
        match self.plan.profile {
            Profile::Storm => ("connect to joined", &self.entry),
            Profile::Idle => ("connect to welcome", &self.entry),
            Profile::Resume => ("cut to back", &self.recovery),
            Profile::Acks => ("due to acknowledged", &self.acknowledged),
            Profile::Churn => ("due to heard, with the connecting", &self.latency),
            _ => ("due to heard", &self.latency),
        }
    }
}

impl Audited {
    /// What is wrong, a sentence each.
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for (what, faults) in [("offsets", self.offsets), ("sequences", self.sequences)] {
            if faults.any() {
                reasons.push(format!(
                    "by the {what}: {} missing, {} repeated, {} out of order, {} gaps",
                    faults.missing, faults.repeated, faults.reordered, faults.gaps
                ));
            }
        }
        if self.damaged > 0 {
            reasons.push(format!("{} messages had not the content that was sent", self.damaged));
        }
        if self.misattributed > 0 {
            reasons
                .push(format!("{} messages came under another name than their sender's", self.misattributed));
        }
        if self.acks.any() {
            reasons.push(format!(
                "acknowledgements: {} lost, {} repeated, {} wrong (offset, level, or of what was not said)",
                self.acks.lost, self.acks.repeated, self.acks.wrong
            ));
        }
        if self.strays > 0 {
            reasons.push(format!("{} messages came to members of other rooms", self.strays));
        }
        if self.unsent > 0 {
            reasons
                .push(format!("{} messages were due while their publisher had no connection", self.unsent));
        }
        reasons
    }
}

impl Times {
    /// Those of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Times {
        if histogram.is_empty() {
            return Times::default();
        }
        let at = |quantile: f64| histogram.value_at_quantile(quantile).min(histogram.max());
        // Equal steps on the axis of the picture, to the last single one.
        let steps = ((histogram.len() as f64).log10() * 20.0).ceil() as i32;
        let mut curve: Vec<(f64, u64)> = (0..=steps)
            .map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 20.0))
            // Twelve digits are enough, and read back as they were written.
            .map(|quantile| ((quantile * 1e12).round() / 1e12, at(quantile)))
            .collect();
        curve.push((1.0, histogram.max()));
        Times {
            count: histogram.len(),
            mean_ns: histogram.mean(),
            min_ns: histogram.min(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            p9999_ns: at(0.9999),
            max_ns: histogram.max(),
            curve,
        }
    }

    /// The part of them that is over `limit_ns`, as the curve tells.
    pub fn share_over(&self, limit_ns: u64) -> f64 {
        self.curve
            .iter()
            .find(|(_, ns)| *ns > limit_ns)
            .map_or(0.0, |(quantile, _)| (1.0 - quantile).max(1.0 / self.count.max(1) as f64))
    }
}

impl Server {
    fn of(usage: [Usage; 3], connections: u64, received: u64, pids: &[u32]) -> Server {
        let [start, from, to] = usage;
        let cpu_seconds = (to.cpu_ns - from.cpu_ns.min(to.cpu_ns)) as f64 / 1e9;
        let ticks = |pick: fn(&Usage) -> u64| pick(&to).saturating_sub(pick(&from)) as f64;
        let (user, system) = (ticks(|usage| usage.user_ticks), ticks(|usage| usage.system_ticks));
        // Ticks are coarse: they only say how the exact sum is divided, and a few of them do not say that either.
        let user_seconds = (user + system >= TICKS_MIN).then(|| cpu_seconds * user / (user + system));
        let per_delivery = |seconds: f64| (received > 0).then(|| seconds * 1e6 / received as f64);
        let grown =
            |pick: fn(&Usage) -> u64| (pick(&from) as f64 - pick(&start) as f64) / connections.max(1) as f64;
        Server {
            pids: pids.to_vec(),
            cpu_seconds,
            user_seconds,
            system_seconds: user_seconds.map(|user| (cpu_seconds - user).max(0.0)),
            cpu_us_per_delivery: per_delivery(cpu_seconds),
            user_us_per_delivery: user_seconds.and_then(per_delivery),
            resident_bytes: to.resident_bytes,
            private_bytes: to.private_bytes,
            private_bytes_per_connection: grown(|usage| usage.private_bytes),
            kernel_bytes_per_connection: grown(|usage| usage.socket_bytes + usage.slab_bytes),
            usage,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cast::tests::plan;
    use super::super::tally::Tally;
    use super::*;

    /// A report of a run of which this was counted.
    pub fn report(tally: Tally) -> Report {
        let outcome = Outcome {
            fingerprint: Fingerprint::take(),
            target_version: None,
            tally,
            measured_ns: 1_000_000_000,
            gathering_ns: 1,
            usage: None,
            syscalls: None,
            is_interrupted: false,
            problems: Vec::new(),
        };
        Report::new(&plan(Profile::Fanout, 10, 1, 1, 1), "tcp://x", "a <label>".into(), outcome, &[])
    }

    #[test]
    fn a_fault_fails_the_run() {
        assert_eq!(report(Tally::new()).verdict, Verdict::Ok);
        let mut tally = Tally::new();
        tally.sequences.missing = 2;
        let report = report(tally);
        assert_eq!(report.verdict, Verdict::Failed);
        assert!(report.reasons[0].contains("2 missing"), "{:?}", report.reasons);
    }

    #[test]
    fn a_busy_generator_says_so() {
        let report = report(Tally { busy_ns: 950_000_000, ..Tally::new() });
        assert!(report.generator.is_bottleneck && report.verdict == Verdict::Ok);
        assert!(report.warnings[0].contains("95 %"), "{:?}", report.warnings);
    }

    #[test]
    fn a_few_ticks_divide_nothing() {
        let at = |ticks: u64| Usage {
            cpu_ns: ticks * 10_000_000,
            user_ticks: ticks / 4,
            system_ticks: ticks * 3 / 4,
            ..Usage::default()
        };
        let server = |ticks| Server::of([at(0), at(0), at(ticks)], 1, 1000, &[]);
        assert_eq!((server(40).user_seconds, server(40).user_us_per_delivery), (None, None));
        assert_eq!(server(400).user_seconds, Some(1.0));
        assert_eq!(server(400).system_seconds, Some(3.0));
    }

    #[test]
    fn slow_ones_whom_nobody_closes_are_a_warning() {
        let warnings = |slow_closed| {
            let outcome = Outcome {
                fingerprint: Fingerprint::take(),
                target_version: None,
                tally: Tally { slow_closed, ..Tally::new() },
                measured_ns: 1,
                gathering_ns: 1,
                usage: None,
                syscalls: None,
                is_interrupted: false,
                problems: Vec::new(),
            };
            let plan = Plan { slow: 2, ..plan(Profile::Slow, 10, 1, 1, 1) };
            Report::new(&plan, "tcp://x", String::new(), outcome, &[]).warnings.len()
        };
        assert_eq!((warnings(0), warnings(1)), (1, 0));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut tally = Tally::new();
        for ns in 1..10_000 {
            tally.latency.record(ns * 1000).unwrap();
        }
        let report = report(tally);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert!(report.latency.curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        assert!((report.latency.share_over(9_000_000) - 0.1).abs() < 0.02);
    }
}
