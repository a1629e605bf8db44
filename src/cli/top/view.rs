//! What is shown: lines made of the snapshots that have come.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Value;

use super::text::{
    Line, Style, bytes, count, duration, foreign, left, micros, percent, rate, right, sparkline,
};

/// How many snapshots lines over time are made of: five minutes, a second each.
const KEPT: usize = 300;

/// What is kept of each for them.
const SERIES: usize = 6;

/// Columns of a text that is printed and not drawn.
const PLAIN_COLUMNS: usize = 120;

/// Columns of names.
const NAME: usize = 24;

/// What is told of each core, and in how many columns: all of it has place in 80.
const CORE_COLUMNS: [(&str, usize); 10] = [
    ("busy", 7),
    ("turns/s", 8),
    ("events", 7),
    ("turn", 8),
    ("longest", 8),
    ("conns", 8),
    ("sessions", 9),
    ("rooms", 7),
    ("mail", 5),
    ("timers", 7),
];

/// Since when nothing has come, and it is called stale, in seconds.
const STALE_S: u64 = 3;

/// What is known of a server.
#[derive(Debug)]
pub struct View {
    url: String,
    last: Option<(Value, Instant)>,
    series: [VecDeque<f64>; SERIES],
    trouble: Option<String>,
}

impl View {
    /// Nothing yet.
    pub fn new(url: String) -> Self {
        View { url, last: None, series: Default::default(), trouble: None }
    }

    /// A snapshot has come.
    ///
    /// # Errors
    /// When it is none.
    pub fn add(&mut self, snapshot: &str) -> Result<(), String> {
        let snapshot: Value = serde_json::from_str(snapshot)
            .map_err(|why| format!("{}: what it sends is no snapshot: {why}", self.url))?;
        let cores = list(&snapshot, "cores");
        let of_cores = |name: &'static str| cores.iter().map(move |core| number(&core[name]));
        let values = [
            number(&snapshot["rates"]["messages"]),
            number(&snapshot["rates"]["deliveries"]),
            number(&snapshot["connections"]["all"]),
            number(&snapshot["memory"]["resident_bytes"]),
            of_cores("busy").sum::<f64>() / cores.len().max(1) as f64,
            of_cores("turn_max_us").fold(0.0, f64::max),
        ];
        for (series, value) in self.series.iter_mut().zip(values) {
            series.push_back(value);
            if series.len() > KEPT {
                series.pop_front();
            }
        }
        self.last = Some((snapshot, Instant::now()));
        self.trouble = None;
        Ok(())
    }

    /// The connection is lost, or cannot be made.
    pub fn set_trouble(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// All of it, as text without sequences.
    pub fn plain(&self) -> String {
        let mut out = String::new();
        for line in self.lines_with(PLAIN_COLUMNS, false) {
            out.push_str(line.text().trim_end());
            out.push('\n');
        }
        out
    }

    /// All of it, for so many columns.
    pub fn lines(&self, columns: usize) -> Vec<Line> {
        self.lines_with(columns, true)
    }

    fn lines_with(&self, columns: usize, has_past: bool) -> Vec<Line> {
        let mut lines = vec![self.head(has_past)];
        let Some((snapshot, _)) = &self.last else {
            lines.push(Line::default().with(Style::Soft, "waiting for the first snapshot"));
            return lines;
        };
        lines.push(states(snapshot));
        lines.push(Line::default());
        lines.extend(totals(snapshot));
        if has_past {
            lines.push(Line::default());
            lines.extend(self.past(columns));
        }
        lines.extend(cores(snapshot));
        lines.extend(latency(snapshot));
        lines.extend(slow(snapshot));
        lines.extend(rooms(snapshot));
        lines.extend(limits(snapshot));
        lines
    }

    fn head(&self, is_live: bool) -> Line {
        let name = match &self.last {
            Some((snapshot, _)) => {
                let up_ms = whole(&snapshot["time_ms"]).saturating_sub(whole(&snapshot["started_ms"]));
                let node = match whole(&snapshot["node"]) {
                    0 => String::new(),
                    node => format!(", node {node}"),
                };
                let version = foreign(snapshot["version"].as_str().unwrap_or("?"), 16);
                format!("starling {version}{node}, up {}", duration(up_ms))
            }
            None => "starling".into(),
        };
        let line = Line::default().with(Style::Strong, name).with(Style::Soft, format!("  {}  ", self.url));
        let silent_s = self.last.as_ref().map_or(0, |(_, at)| at.elapsed().as_secs());
        match &self.trouble {
            Some(why) => line.with(Style::Bad, foreign(why, 200)),
            None if !is_live => line,
            None if silent_s >= STALE_S => {
                line.with(Style::Bad, format!("stale: nothing has come for {silent_s} s"))
            }
            None => line.with(Style::Good, "live").with(Style::Soft, "  q ends"),
        }
    }

    fn past(&self, columns: usize) -> Vec<Line> {
        let now = |index: usize| self.series[index].back().copied().unwrap_or_default();
        let rows: [(&str, String, f64); SERIES] = [
            ("messages / s", rate(now(0)), 10.0),
            ("deliveries / s", rate(now(1)), 10.0),
            ("connections", count(now(2)), 10.0),
            ("memory", bytes(now(3)), 1.0),
            ("busy, on average", percent(now(4)), 1.0),
            ("longest turn", micros(now(5)), 1000.0),
        ];
        let room = columns.saturating_sub(30).min(KEPT);
        let row = |(index, (name, figure, ceiling)): (usize, (&str, String, f64))| {
            Line::default()
                .with(Style::Plain, left(name, 17))
                .with(Style::Strong, right(&figure, 11))
                .with(Style::Plain, "  ")
                .with(Style::Accent, sparkline(self.series[index].iter().copied(), room, ceiling))
        };
        rows.into_iter().enumerate().map(row).collect()
    }
}

fn list<'a>(snapshot: &'a Value, name: &str) -> &'a [Value] {
    snapshot[name].as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// A figure that may not be known.
fn known(value: &Value, show: fn(f64) -> String) -> String {
    value.as_f64().map_or("-".into(), show)
}

fn states(snapshot: &Value) -> Line {
    let state = |line: Line, name: &str, state: &Value, more: String| match state["is_down"].as_bool() {
        None => line.with(Style::Soft, format!("no {name}  ")),
        Some(true) => line.with(Style::Bad, format!("{name} down{more}  ")),
        Some(false) => line.with(Style::Good, format!("{name} up  ")),
    };
    let why = snapshot["backplane"]["why"].as_str().map(|why| format!(": {}", foreign(why, 80)));
    let line = state(Line::default(), "store", &snapshot["store"], String::new());
    state(line, "backplane", &snapshot["backplane"], why.unwrap_or_default())
}

fn totals(snapshot: &Value) -> Vec<Line> {
    let (connections, rates, memory) = (&snapshot["connections"], &snapshot["rates"], &snapshot["memory"]);
    let figure = |line: Line, name: &str, figure: String| {
        line.with(Style::Soft, format!("{name} ")).with(Style::Strong, figure).with(Style::Plain, "  ")
    };
    let row = |figures: Vec<(&str, String)>| {
        figures.into_iter().fold(Line::default(), |line, (name, value)| figure(line, name, value))
    };
    let number_of = |value: &Value| known(value, count);
    let mut lines = vec![
        row(vec![
            ("connections", number_of(&connections["all"])),
            ("web", number_of(&connections["web"])),
            ("line", number_of(&connections["line"])),
            ("frame", number_of(&connections["frame"])),
            ("grpc", number_of(&connections["grpc"])),
            ("calls", number_of(&connections["grpc_calls"])),
            ("event streams", number_of(&connections["event_streams"])),
        ]),
        row(vec![
            ("sessions", number_of(&snapshot["sessions"])),
            ("away", number_of(&snapshot["away"])),
            ("rooms", number_of(&snapshot["rooms"])),
            ("nicknames", number_of(&snapshot["nicknames"])),
            ("dashboards", number_of(&snapshot["dashboards"])),
        ]),
        row(vec![
            ("messages/s", known(&rates["messages"], rate)),
            ("deliveries/s", known(&rates["deliveries"], rate)),
            ("in/s", known(&rates["received_bytes"], bytes)),
            ("out/s", known(&rates["sent_bytes"], bytes)),
            ("errors/s", known(&rates["errors"], rate)),
            ("http/s", known(&rates["http_requests"], rate)),
        ]),
        row(vec![
            ("memory", known(&memory["resident_bytes"], bytes)),
            ("histories", known(&memory["classes"]["histories"], bytes)),
            ("send queues", known(&memory["classes"]["send_queues"], bytes)),
            ("input", known(&memory["classes"]["input"], bytes)),
            ("connections", known(&memory["classes"]["connections"], bytes)),
            ("sessions", known(&memory["classes"]["sessions"], bytes)),
            ("journals", known(&memory["classes"]["journals"], bytes)),
        ]),
    ];
    let http = &snapshot["http"];
    if whole(&http["count"]) > 0 {
        let ms = |value| known(value, |ms| micros(ms * 1000.0));
        lines.push(row(vec![("http p50", ms(&http["p50_ms"])), ("p99", ms(&http["p99_ms"]))]));
    }
    lines
}

/// A table's heading: an empty line, and the names of the columns.
fn heading(name: &str, columns: &str) -> [Line; 2] {
    [Line::default(), Line::default().with(Style::Strong, name).with(Style::Soft, columns)]
}

fn cores(snapshot: &Value) -> Vec<Line> {
    let columns: String = CORE_COLUMNS.iter().map(|(name, width)| right(name, *width)).collect();
    let mut lines: Vec<Line> = heading("CORE", &columns).into();
    for core in list(snapshot, "cores") {
        let busy = number(&core["busy"]);
        let style = match busy {
            _ if busy >= 0.9 => Style::Bad,
            _ if busy >= 0.7 => Style::Warn,
            _ => Style::Plain,
        };
        let figures = [
            known(&core["turns"], count),
            known(&core["events_per_turn"], |events| format!("{events:.2}")),
            known(&core["turn_us"], micros),
            known(&core["turn_max_us"], micros),
            known(&core["connections"], count),
            known(&core["sessions"], count),
            known(&core["rooms"], count),
            known(&core["mailbox"], count),
            known(&core["timers"], count),
        ];
        let widths = CORE_COLUMNS[1..].iter().map(|(_, width)| *width);
        let figures: Vec<String> =
            figures.iter().zip(widths).map(|(figure, width)| right(figure, width)).collect();
        let mut line = Line::default()
            .with(Style::Plain, left(&whole(&core["core"]).to_string(), 4))
            .with(style, right(&percent(busy), CORE_COLUMNS[0].1))
            .with(Style::Plain, figures.concat());
        if core["is_silent"].as_bool() == Some(true) {
            line = line.with(Style::Bad, "  does not answer");
        }
        lines.push(line);
    }
    lines
}

fn latency(snapshot: &Value) -> Vec<Line> {
    let hops = list(snapshot, "latency");
    if !hops.iter().any(|hop| whole(&hop["count"]) > 0) {
        return Vec::new();
    }
    let columns = ["p50", "p99", "p99.9"].map(|name| right(name, 10)).concat();
    let columns = format!("{columns}{}", right("followed", 10));
    let mut lines: Vec<Line> = heading(&left("MESSAGE, EACH PART", NAME + 2), &columns).into();
    for hop in hops {
        let name = foreign(hop["hop"].as_str().unwrap_or("-"), NAME).replace('_', " ");
        let figures = ["p50_us", "p99_us", "p999_us"].map(|q| right(&known(&hop[q], micros), 10)).concat();
        lines.push(
            Line::default()
                .with(Style::Plain, left(&name, NAME + 2))
                .with(Style::Plain, figures)
                .with(Style::Plain, right(&known(&hop["count"], count), 10)),
        );
    }
    lines
}

fn slow(snapshot: &Value) -> Vec<Line> {
    let clients = list(snapshot, "slow");
    if clients.is_empty() {
        return Vec::new();
    }
    let columns = format!(
        "{}{}{}{}{}",
        left("transport", 13),
        right("waits", 11),
        right("round trip", 12),
        right("resent", 8),
        right("unacked", 9)
    );
    let mut lines: Vec<Line> = heading(&left("SLOW CLIENT", NAME + 2), &columns).into();
    for client in clients {
        let name = client["nickname"].as_str().or(client["peer"].as_str()).unwrap_or("-");
        let tcp = &client["tcp"];
        let figures = [
            left(&foreign(client["transport"].as_str().unwrap_or("-"), 12), 13),
            right(&known(&client["queued_bytes"], bytes), 11),
            right(&known(&tcp["rtt_ms"], |ms| micros(ms * 1000.0)), 12),
            right(&known(&tcp["retransmits"], count), 8),
            right(&known(&tcp["unacked"], count), 9),
        ];
        lines.push(
            Line::default()
                .with(Style::Plain, left(&foreign(name, NAME), NAME + 2))
                .with(Style::Plain, figures.concat()),
        );
    }
    lines
}

fn rooms(snapshot: &Value) -> Vec<Line> {
    let mut lines = Vec::new();
    let lists = [("ROOM, MOST MESSAGES", "rooms_by_messages"), ("ROOM, MOST MEMBERS", "rooms_by_members")];
    for (name, key) in lists {
        let rooms = list(snapshot, key);
        if rooms.is_empty() {
            continue;
        }
        let columns = format!("{}{}", right("members", 10), right("messages/s", 12));
        lines.extend(heading(&left(name, NAME + 2), &columns));
        for room in rooms {
            let room_name = foreign(room["room"].as_str().unwrap_or("-"), NAME);
            let figures =
                right(&known(&room["members"], count), 10) + &right(&known(&room["messages"], rate), 12);
            lines.push(
                Line::default().with(Style::Plain, left(&room_name, NAME + 2)).with(Style::Plain, figures),
            );
        }
    }
    lines
}

fn limits(snapshot: &Value) -> Vec<Line> {
    let limits = list(snapshot, "limits");
    if limits.is_empty() {
        return Vec::new();
    }
    let columns = format!("{}{}", right("new", 8), right("all", 10));
    let mut lines: Vec<Line> = heading(&left("LIMIT HIT", NAME + 6), &columns).into();
    for limit in limits {
        let style = if number(&limit["new"]) > 0.0 { Style::Warn } else { Style::Plain };
        let name = foreign(limit["name"].as_str().unwrap_or("-"), NAME + 4);
        lines.push(
            Line::default()
                .with(style, left(&name, NAME + 6))
                .with(style, right(&known(&limit["new"], count), 8))
                .with(Style::Plain, right(&known(&limit["all"], count), 10)),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: &str = r#"{
        "version": "0.1.0", "node": 0, "time_ms": 61000, "started_ms": 1000, "sessions": 3, "rooms": 2,
        "connections": {"all": 5, "web": 4, "line": 1, "frame": 0, "grpc": 0, "grpc_calls": 0, "event_streams": 2},
        "rates": {"messages": 12.5, "deliveries": 100.0, "received_bytes": 2048.0, "sent_bytes": 4096.0},
        "memory": {"resident_bytes": 1048576, "classes": {"histories": 10, "send_queues": null}},
        "store": {"is_down": true, "acks_waiting": 2}, "backplane": null,
        "cores": [{"core": 0, "busy": 0.95, "turns": 10.0, "events_per_turn": 1.5, "turn_us": 20.0,
            "turn_max_us": 1500.0, "connections": 5, "sessions": null, "rooms": 2, "mailbox": 0, "is_silent": true}],
        "latency": [{"hop": "read_to_parsed", "count": 3, "p50_us": 2.0, "p99_us": 1500.0, "p999_us": null},
            {"hop": "total", "count": 0, "p50_us": null, "p99_us": null, "p999_us": null}],
        "slow": [{"nickname": "a\u001b[2Jb", "peer": "10.0.0.1", "transport": "websocket", "queued_bytes": 2048,
            "tcp": {"rtt_ms": 1.5, "rtt_var_ms": 0.1, "retransmits": 3, "unacked": 4}}],
        "rooms_by_messages": [{"room": "den", "members": 2, "messages": 12.5}],
        "limits": [{"name": "too_large", "about": "", "all": 7, "new": 1}]
    }"#;

    fn view() -> View {
        let mut view = View::new("http://a".into());
        view.add(SNAPSHOT).unwrap();
        view
    }

    #[test]
    fn a_snapshot_is_told_as_text() {
        let text = view().plain();
        for part in [
            "starling 0.1.0, up 1 min  http://a",
            "store down  no backplane",
            "connections 5  web 4  line 1",
            "messages/s 12  deliveries/s 100  in/s 2.0 KiB",
            "send queues -",
            "0      95 %",
            "does not answer",
            "read to parsed",
            "1.5 ms         -         3",
            "a[2Jb",
            "1.5 ms",
            "den",
            "too_large",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains('\x1b') && !text.contains("q ends"), "{text}");
    }

    #[test]
    fn what_is_drawn_tells_of_the_past_and_of_trouble() {
        let mut view = view();
        view.add(SNAPSHOT).unwrap();
        let lines = |view: &View| view.lines(80).iter().map(Line::text).collect::<Vec<_>>().join("\n");
        assert!(lines(&view).contains("██"), "{}", lines(&view));
        assert!(lines(&view).contains("live  q ends"));
        view.set_trouble("gone".into());
        assert!(lines(&view).contains("gone") && !lines(&view).contains("q ends"));
        assert!(view.add("nonsense").is_err());
    }

    #[test]
    fn a_snapshot_of_another_version_does_no_harm() {
        let mut view = View::new("http://a".into());
        view.add("{}").unwrap();
        assert!(view.plain().contains("connections -"));
        view.add("[1]").unwrap();
    }
}
