//! A report for people.

use std::fmt::Write as _;

use super::plan::{Load, Profile};
use super::report::{Report, Times, Verdict};
use super::search::Try;

/// The report as lines.
pub fn print(report: &Report) -> String {
    let mut out = String::new();
    let plan = &report.plan;
    let load = match plan.load {
        _ if matches!(plan.profile, Profile::Idle | Profile::Storm) => String::new(),
        Load::Rate(rate) if plan.profile == Profile::Churn => format!(", {rate} visits/s"),
        Load::Rate(rate) => format!(", {} publishers, {rate} messages/s together", plan.publishers),
        Load::InFlight(count) => format!(", {} publishers, {count} under way each", plan.publishers),
    };
    let ack = plan.ack.as_ref().map(|level| format!(", ack {level}")).unwrap_or_default();
    let version = report.target_version.as_ref().map(|version| format!(" ({version})")).unwrap_or_default();
    row(&mut out, plan.profile.word(), &format!("{}{version}", report.target));
    row(
        &mut out,
        "load",
        &format!("{} connections, {} rooms{load}, {} bytes{ack}", plan.connections, plan.rooms, plan.bytes),
    );
    if report.received > 0 || report.sent > 0 {
        let figures = format!(
            "{} sent, {} received in {:.1} s: {} and {} a second",
            report.sent,
            report.received,
            report.seconds,
            count(report.sent_per_second),
            count(report.received_per_second)
        );
        row(&mut out, "messages", &figures);
    }
    let (what, main) = report.main_times();
    let all = [
        (what, main),
        ("due to heard", &report.latency),
        ("connect to joined", &report.entry),
        ("due to sent (generator)", &report.lateness),
    ];
    for (index, (what, times)) in all.iter().enumerate() {
        let is_shown_before = all[..index].iter().any(|(_, before)| std::ptr::eq(*before, *times));
        let is_own = std::ptr::eq(*times, &report.lateness) && matches!(plan.load, Load::InFlight(_));
        if times.count > 0 && !is_shown_before && !is_own {
            put_times(&mut out, what, times);
        }
    }
    put_profile(&mut out, report);
    if let Some(rate) = report.highest_rate {
        row(&mut out, "highest rate", &format!("{rate:.0} messages/s hold"));
    }
    for tried in &report.tries {
        row(&mut out, "tried", self::tried(tried).trim_start());
    }
    if let Some(server) = &report.server {
        let divided = match (server.user_seconds, server.system_seconds) {
            (Some(user), Some(system)) => format!("{user:.1} user, {system:.1} system"),
            _ => "too little to divide into user and system".to_owned(),
        };
        let mut figures = format!(
            "{:.2} s of CPU ({divided}), {} resident, {} private",
            server.cpu_seconds,
            bytes(server.resident_bytes as f64),
            bytes(server.private_bytes as f64)
        );
        if let Some(all) = server.cpu_us_per_delivery {
            let _ = write!(figures, "; {all:.3} us a delivery");
        }
        if let Some(user) = server.user_us_per_delivery {
            let digits = if user < 1.0 { 2 } else { 1 };
            let _ = write!(figures, " ({user:.digits$} user)");
        }
        if let Some(deliveries) = report.deliveries_per_read {
            let _ = write!(figures, "; {deliveries:.1} deliveries a read");
        }
        row(&mut out, "server", &figures);
    } else {
        row(&mut out, "server", "not seen: name its processes with --pid");
    }
    if let Some(syscalls) = &report.syscalls {
        let all: u64 = syscalls.values().sum();
        let mut each: Vec<_> = syscalls.iter().map(|(name, count)| (count, name)).collect();
        each.sort_unstable_by(|a, b| b.cmp(a));
        let each: Vec<String> = each.iter().take(5).map(|(count, name)| format!("{name} {count}")).collect();
        let (count, what) = match plan.profile {
            Profile::Storm => (report.entry.count, "connection"),
            _ => (report.received, "delivery"),
        };
        let per_one = all as f64 / count.max(1) as f64;
        row(&mut out, "system calls", &format!("{all}: {}; {per_one:.3} a {what}", each.join(", ")));
    }
    let busy = report.generator;
    row(
        &mut out,
        "generator",
        &format!("{:.0} % busy, {:.2} s of CPU", busy.busy_share * 100.0, busy.cpu_seconds),
    );
    let verdict = match report.verdict {
        Verdict::Ok if report.audit.looked_at > 0 => {
            let acks = match report.audit.acks.looked_at {
                0 => String::new(),
                count => format!("; {count} acknowledgements, each once and right"),
            };
            format!(
                "ok: {} deliveries, none missing, repeated, out of order or changed{acks}",
                report.audit.looked_at
            )
        }
        Verdict::Ok => "ok".to_owned(),
        Verdict::Failed => "FAILED".to_owned(),
        Verdict::Interrupted => "INTERRUPTED: the figures above are of the time until then".to_owned(),
    };
    row(&mut out, "audit", &verdict);
    for reason in &report.reasons {
        row(&mut out, "", reason);
    }
    for warning in &report.warnings {
        row(&mut out, "warning", warning);
    }
    out
}

/// One try of a search, as a line.
pub fn tried(tried: &Try) -> String {
    format!(
        "{:10.0}/s  p50 {}  p99 {}  max {}  {} samples  {}",
        tried.rate,
        time(tried.p50_ns),
        time(tried.p99_ns),
        time(tried.max_ns),
        tried.samples,
        tried.why_not.as_ref().map_or("holds".to_owned(), |why| format!("does not hold: {why}"))
    )
}

/// With fewer connections, pages and what else a process does hide what one of them takes.
const FEW_CONNECTIONS: usize = 1000;

fn put_profile(out: &mut String, report: &Report) {
    let plan = &report.plan;
    match plan.profile {
        Profile::Storm => {
            let rate = report.entry.count as f64 / report.gathering_seconds.max(1e-9);
            let mut figures = format!(
                "{} came in {:.2} s: {} a second",
                report.entry.count,
                report.gathering_seconds,
                count(rate)
            );
            if let Some(server) = &report.server {
                let each_us = server.cpu_seconds * 1e6 / report.entry.count.max(1) as f64;
                let _ = write!(figures, "; {each_us:.1} us of the server's CPU each");
            }
            row(out, "storm", &figures);
        }
        Profile::Idle => {
            if let Some(server) = &report.server {
                let cpu = server.cpu_seconds / report.seconds.max(1e-9) * 100.0;
                let each = if plan.connections < FEW_CONNECTIONS {
                    "too few connections to tell what one takes".to_owned()
                } else {
                    format!(
                        "{:.0} bytes of the server's own a connection, {:.0} of the kernel (both ends, and what else it did)",
                        server.private_bytes_per_connection, server.kernel_bytes_per_connection
                    )
                };
                let figures = format!("{each}; {cpu:.2} % of a processor while holding");
                row(out, "memory", &figures);
            }
        }
        Profile::Resume => {
            let figures = format!("{} whole, {} not", report.recovered, report.unrecovered);
            row(out, "came back", &figures);
        }
        Profile::Slow => {
            let figures =
                format!("{} of {} who do not read were closed by the target", report.slow_closed, plan.slow);
            row(out, "slow", &figures);
        }
        Profile::Mix => row(out, "moves", &report.moves.to_string()),
        _ => {}
    }
}

fn put_times(out: &mut String, what: &str, times: &Times) {
    // Beyond which one of so many lies: of fewer it would be the slowest, by another name.
    let at = |many: u64, ns: u64| if times.count >= many { time(ns) } else { "-".to_owned() };
    let figures = format!(
        "p50 {}  p90 {}  p99 {}  p99.9 {}  p99.99 {}  max {}",
        at(2, times.p50_ns),
        at(10, times.p90_ns),
        at(100, times.p99_ns),
        at(1000, times.p999_ns),
        at(10_000, times.p9999_ns),
        time(times.max_ns)
    );
    row(out, what, &figures);
}

fn row(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:24} {text}");
}

/// A time with three digits and a unit.
pub fn time(ns: u64) -> String {
    let (number, unit) = match ns {
        0..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if number < 10.0 { 2 } else { usize::from(number < 100.0) };
    format!("{number:.digits$} {unit}")
}

fn count(number: f64) -> String {
    match number {
        1e6.. => format!("{:.2} million", number / 1e6),
        1e4.. => format!("{:.1} thousand", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

fn bytes(number: f64) -> String {
    if number >= 1e6 { format!("{:.1} MB", number / 1e6) } else { format!("{:.0} kB", number / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::super::tally::Tally;
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(time(950), "0.95 us");
        assert_eq!(time(15_300), "15.3 us");
        assert_eq!(time(2_000_000), "2.00 ms");
        assert_eq!(time(300_000_000), "300 ms");
        assert_eq!(time(1_500_000_000), "1.50 s");
    }

    #[test]
    fn a_failure_is_not_to_be_overlooked() {
        let mut tally = Tally::new();
        tally.offsets.repeated = 1;
        let table = print(&report(tally));
        assert!(table.contains("FAILED") && table.contains("1 repeated"), "{table}");
    }
}
