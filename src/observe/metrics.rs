//! What cores count, as Prometheus reads it: the text format 0.0.4, or OpenMetrics 1.0 for those who ask for it.
//!
//! Names follow the conventions of both: base units (seconds, bytes), `_total` for what only grows. Numbers of all cores are added here, on
//! a thread of its own, when somebody asks; cores only ever write their own.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::base::histogram::{BOUNDS_NS, Snapshot};
use crate::base::latency::HOPS;
use crate::base::stats::{Counters, Kind};
use crate::sys::process::Figures;

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Of these the number of each core is told too: by them one sees whether the load is spread.
const OF_CORES: &[&str] =
    &["turns", "events", "busy_ns", "connections", "rooms", "deliveries", "parcels", "wakes", "stalls"];

/// These make one family, by class.
const OF_MEMORY: &[&str] =
    &["history_bytes", "send_queue_bytes", "input_bytes", "connection_places", "session_places"];

/// These are told by the nodes of a cluster alone.
const OF_CLUSTERS: &[&str] = &["backplane_up"];

/// What of memory is known by its size alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    /// Bytes of a place in the table of connections, with what belongs to it.
    pub connection_bytes: usize,
    /// Bytes of a place in the table of sessions, with what belongs to it.
    pub session_bytes: usize,
    /// Bytes of the journals of all cores; 0: there are none.
    pub journal_bytes: usize,
}

/// Bytes of memory by what they are for, on all of these cores.
pub fn memory_classes(cores: &[Arc<Counters>], sizes: &Sizes) -> [(&'static str, u64); 6] {
    let sum = |of: fn(&Counters) -> u64| cores.iter().map(|core| of(core)).sum::<u64>();
    [
        ("histories", sum(|core| core.history_bytes.value())),
        ("send_queues", sum(|core| core.send_queue_bytes.value())),
        ("input", sum(|core| core.input_bytes.value())),
        ("connections", sum(|core| core.connection_places.value()) * sizes.connection_bytes as u64),
        ("sessions", sum(|core| core.session_places.value()) * sizes.session_bytes as u64),
        ("journals", sizes.journal_bytes as u64),
    ]
}

/// What is told beside the numbers of the cores.
#[derive(Debug, Clone)]
pub struct About {
    /// When the server was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// What the kernel knows of the process.
    pub process: Figures,
    /// The node among those of a cluster; 0: it stands alone.
    pub node: u32,
    /// How many bytes an idle client takes, by how it speaks.
    pub idle_bytes: &'static [(&'static str, usize)],
    /// What tells how much memory is used for what.
    pub sizes: Sizes,
    /// What the log has not got.
    pub log: LogLines,
}

/// Lines that are missing in the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogLines {
    /// They found a full queue, or could not be written.
    pub left_out: u64,
    /// Their place in the program had logged enough.
    pub suppressed: u64,
}

/// The document.
pub fn render(cores: &[Arc<Counters>], about: &About, format: Format) -> String {
    let mut out = Document { text: String::with_capacity(32 * 1024), format };
    out.family("starling_build_info", Kind::Gauge, "Which program this is; always 1.");
    let _ = writeln!(
        out.text,
        "starling_build_info{{version=\"{}\",cores=\"{}\",node=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION"),
        cores.len(),
        about.node
    );
    out.process(about);
    out.idle(about.idle_bytes);
    out.memory(&memory_classes(cores, &about.sizes));
    out.log(&about.log);
    // In the order in which they are described.
    let readings: Vec<Vec<u64>> =
        cores.iter().map(|core| core.values().map(|(_, value)| value).collect()).collect();
    let is_told =
        |name: &str| !OF_MEMORY.contains(&name) && (about.node != 0 || !OF_CLUSTERS.contains(&name));
    let told = Counters::DESCRIBED.iter().enumerate();
    for (index, described) in told.filter(|(_, described)| is_told(described.name)) {
        let values: Vec<u64> = readings.iter().map(|of_core| of_core[index]).collect();
        let sum = values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value));
        let (name, is_time) = match described.name.strip_suffix("_ns") {
            Some(stem) => (format!("{stem}_seconds"), true),
            None => (described.name.to_owned(), false),
        };
        let help = described.help.trim();
        let full = format!("starling_{name}");
        out.family(&full, described.kind, help);
        out.sample(&full, described.kind, "", sum, is_time);
        if OF_CORES.contains(&described.name) {
            let full = format!("starling_core_{name}");
            out.family(&full, described.kind, &format!("The same of each core. {help}"));
            for (core, value) in values.iter().enumerate() {
                out.sample(&full, described.kind, &format!("{{core=\"{core}\"}}"), *value, is_time);
            }
        }
    }
    out.http(cores);
    out.hops(cores);
    if format == Format::OpenMetrics {
        out.text.push_str("# EOF\n");
    }
    out.text
}

struct Document {
    text: String,
    format: Format,
}

impl Document {
    /// Begins a family. OpenMetrics names counters there without the end that their samples have.
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.begin(name, kind, help);
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let end = if kind == "counter" && self.format == Format::Text { "_total" } else { "" };
        let help = help
            .replace('\\', "\\\\")
            .replace('\n', " ")
            .replace('"', if self.format == Format::OpenMetrics { "\\\"" } else { "\"" });
        let _ = writeln!(self.text, "# HELP {name}{end} {help}\n# TYPE {name}{end} {kind}");
    }

    fn sample(&mut self, name: &str, kind: Kind, labels: &str, value: u64, is_time: bool) {
        let end = if kind == Kind::Counter { "_total" } else { "" };
        let _ = match is_time {
            true => writeln!(self.text, "{name}{end}{labels} {}", seconds(value)),
            false => writeln!(self.text, "{name}{end}{labels} {value}"),
        };
    }

    /// The names that clients of Prometheus give these by custom.
    fn process(&mut self, about: &About) {
        let Figures { cpu_s, resident_bytes, virtual_bytes, open_files, files_max, threads } = about.process;
        self.family(
            "process_start_time_seconds",
            Kind::Gauge,
            "When the process was started, since the Unix epoch.",
        );
        let _ = writeln!(self.text, "process_start_time_seconds {}", about.started_ms as f64 / 1000.0);
        if let Some(cpu_s) = cpu_s {
            self.family("process_cpu_seconds", Kind::Counter, "Time on processors.");
            let _ = writeln!(self.text, "process_cpu_seconds_total {cpu_s}");
        }
        let gauges = [
            ("process_resident_memory_bytes", resident_bytes, "Memory in use."),
            ("process_virtual_memory_bytes", virtual_bytes, "Address space."),
            ("process_open_fds", open_files, "Open files, in the tables of all threads."),
            (
                "process_max_fds",
                files_max,
                "How many open files a table may have; on Linux each core has one.",
            ),
            ("process_threads", threads, "Threads."),
        ];
        for (name, value, help) in gauges {
            if let Some(value) = value {
                self.family(name, Kind::Gauge, help);
                self.sample(name, Kind::Gauge, "", value, false);
            }
        }
    }

    fn idle(&mut self, idle_bytes: &[(&str, usize)]) {
        let help = "Memory that one idle client takes of this process, by how it speaks, by the sizes of what is kept for it; not what the kernel has for its socket, and not TLS, compression, rooms, free places in tables, or what the store takes for its session.";
        self.family("starling_bytes_per_idle_connection", Kind::Gauge, help);
        for (transport, bytes) in idle_bytes {
            let _ = writeln!(
                self.text,
                "starling_bytes_per_idle_connection{{transport=\"{transport}\"}} {bytes}"
            );
        }
    }

    fn memory(&mut self, classes: &[(&str, u64)]) {
        let help = "Memory by what it is for, by the sizes of what is kept: histories of rooms; send queues, where what many wait for counts once; input that is not complete or waits; the tables of connections and of sessions, free places in them too; the journals to the storage thread, which are shared memory. The rest of what the process has is code, stacks, the store's cache, TLS, compression, members of rooms, private messages that wait for those who are away, and what the allocator keeps for later.";
        self.family("starling_memory_bytes", Kind::Gauge, help);
        for (class, bytes) in classes {
            let _ = writeln!(self.text, "starling_memory_bytes{{class=\"{class}\"}} {bytes}");
        }
    }

    fn log(&mut self, lines: &LogLines) {
        let families = [
            (
                "starling_log_lines_left_out",
                lines.left_out,
                "Lines left out of the log because they could not be written, or not as fast as they came (limits.log_lines).",
            ),
            (
                "starling_log_lines_suppressed",
                lines.suppressed,
                "Warnings and errors left out of the log because their place had logged as many as it may (log.repeats).",
            ),
        ];
        for (name, lines, help) in families {
            self.family(name, Kind::Counter, help);
            self.sample(name, Kind::Counter, "", lines, false);
        }
    }

    fn http(&mut self, cores: &[Arc<Counters>]) {
        self.family("http_requests", Kind::Counter, "Requests of HTTP that were answered, by method and status; `other` and 0 stand for all that have no name here.");
        let mut sums = std::collections::BTreeMap::new();
        for core in cores {
            for (method, status, count) in core.http.answered() {
                *sums.entry((method, status)).or_insert(0u64) += count;
            }
        }
        for ((method, status), count) in sums {
            let _ =
                writeln!(self.text, "http_requests_total{{method=\"{method}\",code=\"{status}\"}} {count}");
        }
        let mut durations = Snapshot::default();
        cores.iter().for_each(|core| core.http.durations.add_to(&mut durations));
        let help = "How long requests took, from the turn in which the head was complete to the end of that in which the answer was written.";
        let name = "http_request_duration_seconds";
        self.begin(name, "histogram", help);
        self.histogram(name, "", &durations, |_| true);
    }

    /// Of each core and hop. With all bounds a machine of many cores would tell tens of thousands of lines.
    fn hops(&mut self, cores: &[Arc<Counters>]) {
        let name = "starling_message_latency_seconds";
        let help = "How long messages took on each part of their way, those that were followed, counted by the core where that part ended.";
        self.begin(name, "histogram", help);
        for (hop, hop_name) in HOPS {
            for (number, core) in cores.iter().enumerate() {
                let mut durations = Snapshot::default();
                core.hops.of(hop).add_to(&mut durations);
                let labels = format!("hop=\"{hop_name}\",core=\"{number}\"");
                self.histogram(name, &labels, &durations, is_coarse);
            }
        }
    }

    /// The samples of a histogram, whose buckets tell how many were not longer than each bound, of those that are told.
    fn histogram(&mut self, name: &str, labels: &str, durations: &Snapshot, is_told: fn(u64) -> bool) {
        let (before_le, all) = match labels {
            "" => (String::new(), String::new()),
            _ => (format!("{labels},"), format!("{{{labels}}}")),
        };
        let mut below = 0;
        for (bound_ns, count) in BOUNDS_NS.iter().zip(&durations.counts) {
            below += count;
            if is_told(*bound_ns) {
                let bound = seconds(*bound_ns);
                let _ = writeln!(self.text, "{name}_bucket{{{before_le}le=\"{bound}\"}} {below}");
            }
        }
        let count = durations.count();
        let _ = writeln!(self.text, "{name}_bucket{{{before_le}le=\"+Inf\"}} {count}");
        let _ =
            writeln!(self.text, "{name}_sum{all} {}\n{name}_count{all} {count}", seconds(durations.sum_ns));
    }
}

/// Whether a bound is 1, 2 or 5 times a power of ten.
fn is_coarse(bound_ns: u64) -> bool {
    let unit = 10u64.pow(bound_ns.ilog10());
    bound_ns.is_multiple_of(unit) && matches!(bound_ns / unit, 1 | 2 | 5)
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    let (whole, part) = (ns / 1_000_000_000, ns % 1_000_000_000);
    if part == 0 {
        return format!("{whole}.0");
    }
    format!("{whole}.{}", format!("{part:09}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::latency::Hop;

    fn rendered(format: Format) -> String {
        rendered_by(format, 0)
    }

    fn rendered_by(format: Format, node: u32) -> String {
        let cores: Vec<Arc<Counters>> = vec![Arc::default(), Arc::default()];
        cores[0].published.add(3);
        cores[1].published.add(4);
        cores[1].busy_ns.add(1_500_000_000);
        cores[0].http.note(0, 200, 900);
        cores[1].http.note(0, 200, 1_200_000);
        cores[1].http.note(2, 404, 20_000_000_000);
        cores[0].connection_places.set(2);
        cores[1].connection_places.set(1);
        cores[1].send_queue_bytes.set(70);
        cores[1].hops.record(Hop::ReadToParsed, 1600);
        cores[1].hops.record(Hop::ReadToParsed, 11_000_000_000);
        let process = Figures { cpu_s: Some(1.5), resident_bytes: Some(4096), ..Figures::default() };
        render(
            &cores,
            &About {
                started_ms: 1_700_000_000_500,
                process,
                node,
                idle_bytes: &[],
                sizes: Sizes { connection_bytes: 400, session_bytes: 300, journal_bytes: 4096 },
                log: LogLines::default(),
            },
            format,
        )
    }

    #[test]
    fn numbers_of_all_cores_are_added() {
        let text = rendered(Format::Text);
        for line in [
            "# TYPE starling_published_total counter",
            "starling_published_total 7",
            "starling_busy_seconds_total 1.5",
            "starling_core_busy_seconds_total{core=\"0\"} 0.0",
            "starling_core_busy_seconds_total{core=\"1\"} 1.5",
            "# TYPE starling_connections gauge",
            "http_requests_total{method=\"GET\",code=\"200\"} 2",
            "http_requests_total{method=\"POST\",code=\"404\"} 1",
            "http_request_duration_seconds_bucket{le=\"0.000001\"} 1",
            "http_request_duration_seconds_bucket{le=\"0.001\"} 1",
            "http_request_duration_seconds_bucket{le=\"0.0015\"} 2",
            "http_request_duration_seconds_bucket{le=\"10.0\"} 2",
            "http_request_duration_seconds_bucket{le=\"+Inf\"} 3",
            "http_request_duration_seconds_sum 20.0012009",
            "http_request_duration_seconds_count 3",
            "starling_message_latency_seconds_bucket{hop=\"read_to_parsed\",core=\"1\",le=\"0.000001\"} 0",
            "starling_message_latency_seconds_bucket{hop=\"read_to_parsed\",core=\"1\",le=\"0.000002\"} 1",
            "starling_message_latency_seconds_bucket{hop=\"read_to_parsed\",core=\"1\",le=\"10.0\"} 1",
            "starling_message_latency_seconds_bucket{hop=\"read_to_parsed\",core=\"1\",le=\"+Inf\"} 2",
            "starling_message_latency_seconds_sum{hop=\"read_to_parsed\",core=\"1\"} 11.0000016",
            "starling_message_latency_seconds_count{hop=\"read_to_parsed\",core=\"1\"} 2",
            "starling_message_latency_seconds_count{hop=\"total\",core=\"0\"} 0",
            "starling_memory_bytes{class=\"connections\"} 1200",
            "starling_memory_bytes{class=\"send_queues\"} 70",
            "starling_memory_bytes{class=\"journals\"} 4096",
            "process_cpu_seconds_total 1.5",
            "process_resident_memory_bytes 4096",
            "process_start_time_seconds 1700000000.5",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(!text.contains("# EOF") && !text.contains("process_open_fds "));
    }

    #[test]
    fn whether_the_backplane_is_reached_is_told_by_nodes_of_a_cluster_alone() {
        assert!(!rendered(Format::Text).contains("backplane_up"));
        assert!(rendered_by(Format::Text, 7).contains("\nstarling_backplane_up 0\n"));
    }

    #[test]
    fn open_metrics_names_families_of_counters_without_their_end() {
        let text = rendered(Format::OpenMetrics);
        assert!(text.contains("# TYPE starling_published counter\nstarling_published_total 7\n"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_family_is_told_of_once_before_its_samples() {
        for format in [Format::Text, Format::OpenMetrics] {
            let text = rendered(format);
            let families: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
            let distinct: std::collections::BTreeSet<&&str> = families.iter().collect();
            assert_eq!(distinct.len(), families.len());
            let mut last = "";
            for line in text.lines().filter(|line| *line != "# EOF") {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    last = rest.split(' ').next().expect("a name");
                } else if !line.starts_with('#') {
                    assert!(line.starts_with(last), "{line} under {last}");
                }
            }
        }
    }
}
