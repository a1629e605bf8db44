//! A picture of runs: time by percentile, on an axis on which each nine takes the same room. One HTML file that loads nothing.

use std::fmt::Write as _;

use super::report::{Report, Verdict};
use super::table::time;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const BOTTOM: f64 = 50.0;
const TOP: f64 = 20.0;
const RIGHT: f64 = 40.0;
const COLOURS: [&str; 8] =
    ["#1b6ca8", "#c8553d", "#3a7d44", "#8e44ad", "#d4a017", "#16a2a2", "#7f4f24", "#555555"];

/// The page.
pub fn page(reports: &[Report]) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>starling bench</title>\n<style>\
         body{font:14px sans-serif;margin:2em;max-width:960px}table{border-collapse:collapse}\
         td,th{padding:2px 10px;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
         .failed{color:#b00020;font-weight:bold}</style></head>\n<body><h1>starling bench</h1>\n",
    );
    put_picture(&mut out, reports);
    put_table(&mut out, reports);
    out.push_str("</body></html>\n");
    out
}

fn put_picture(out: &mut String, reports: &[Report]) {
    let curves: Vec<Vec<(f64, f64)>> = reports.iter().map(points).collect();
    let all = || curves.iter().flatten();
    let nines = all().map(|point| point.0).fold(1.0, f64::max).ceil();
    let low = all().map(|point| point.1).fold(f64::INFINITY, f64::min).min(9.0).floor();
    let high = all().map(|point| point.1).fold(low + 1.0, f64::max).ceil();
    let x = |nine: f64| LEFT + nine / nines * (WIDTH - LEFT - RIGHT);
    let y = |magnitude: f64| HEIGHT - BOTTOM - (magnitude - low) / (high - low) * (HEIGHT - BOTTOM - TOP);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">"
    );
    for nine in 0..=nines as i32 {
        let at = x(f64::from(nine));
        let name = match nine {
            0 => "0 %".to_owned(),
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            more => format!("99.{} %", "9".repeat(more as usize - 2)),
        };
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    for magnitude in low as i32..=high as i32 {
        let at = y(f64::from(magnitude));
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            time(10_f64.powi(magnitude) as u64)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">percentile</text>",
        (LEFT + WIDTH) / 2.0,
        HEIGHT - 8.0
    );
    for (index, (report, curve)) in reports.iter().zip(&curves).enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<String> =
            curve.iter().map(|(nine, magnitude)| format!("{:.1},{:.1}", x(*nine), y(*magnitude))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"><title>{}</title></polyline>",
            path.join(" "),
            escaped(&report.label)
        );
    }
    out.push_str("</svg>\n");
}

/// A run's curve: how many nines, and the power of ten of the nanoseconds.
fn points(report: &Report) -> Vec<(f64, f64)> {
    let times = report.main_times().1;
    let last = (times.count.max(1) as f64).log10();
    let nines = |quantile: f64| (-(1.0 - quantile).log10()).min(last);
    times
        .curve
        .iter()
        .map(|(quantile, ns)| (nines(*quantile).max(0.0), (*ns.max(&1) as f64).log10()))
        .collect()
}

fn put_table(out: &mut String, reports: &[Report]) {
    out.push_str(
        "<table><tr><th>run</th><th>what</th><th>sent/s</th><th>received/s</th><th>p50</th><th>p99</th><th>p99.9</th><th>max</th>\
         <th>us of CPU a delivery</th><th>verdict</th></tr>\n",
    );
    for (index, report) in reports.iter().enumerate() {
        let (what, times) = report.main_times();
        let cpu = report.server.as_ref().and_then(|server| server.cpu_us_per_delivery);
        let verdict = match report.verdict {
            Verdict::Ok if report.generator.is_bottleneck => "generator-bound",
            Verdict::Ok => "ok",
            Verdict::Failed => "<span class=\"failed\">FAILED</span>",
            Verdict::Interrupted => "interrupted",
        };
        let _ = writeln!(
            out,
            "<tr><td><span style=\"color:{}\">&#9632;</span> {}</td><td>{what}</td><td>{:.0}</td><td>{:.0}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{verdict}</td></tr>",
            COLOURS[index % COLOURS.len()],
            escaped(&report.label),
            report.sent_per_second,
            report.received_per_second,
            time(times.p50_ns),
            time(times.p99_ns),
            time(times.p999_ns),
            time(times.max_ns),
            cpu.map_or("-".to_owned(), |us| format!("{us:.3}")),
        );
    }
    out.push_str("</table>\n");
    for report in reports {
        let print = &report.fingerprint;
        let _ = writeln!(
            out,
            "<p><b>{}</b>: {} on {}, {}, {} processors, governor {}, starling {}<br/><code>{}</code></p>",
            escaped(&report.label),
            escaped(&report.target),
            escaped(&print.cpu),
            escaped(&print.kernel),
            print.cpus,
            escaped(&print.governor),
            escaped(&print.version),
            escaped(&print.command.join(" "))
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::super::tally::Tally;
    use super::*;

    /// Whether every element is closed by its own name, and no text holds a bare sign.
    fn is_well_formed(page: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
        while let Some(begin) = rest.find('<') {
            let end = begin + rest[begin..].find('>').unwrap();
            let tag = &rest[begin + 1..end];
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name.to_owned()) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap().to_owned());
            }
            rest = &rest[end + 1..];
        }
        open.is_empty()
    }

    #[test]
    fn the_page_is_well_formed() {
        let mut tally = Tally::new();
        for ns in 1..100_000 {
            tally.latency.record(ns * 1000).unwrap();
        }
        let page = page(&[report(tally), report(Tally::new())]);
        assert!(is_well_formed(&page), "{page}");
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("99.99 %") && page.contains("a &lt;label&gt;"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        assert!(!page.contains("src=") && !page.contains("href="));
    }
}
