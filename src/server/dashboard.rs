//! What dashboards are sent: a snapshot a second of what all cores count and tell, as JSON. Made while somebody looks, on the thread that
//! sees all cores.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::histogram::Snapshot;
use crate::base::latency::{HOPS, Hop};
use crate::base::stats::Counters;
use crate::observe::metrics::{Sizes, memory_classes};
use crate::reactor::mailbox::Exchange;
use crate::reactor::teller::Teller;
use crate::shard::mail::{Mail, Parcel};
use crate::shard::observer::{Report, RoomFigures, SlowClient};
use crate::sys::process::Figures;

/// How often dashboards are sent something.
const INTERVAL: Duration = Duration::from_secs(1);

/// How soon the first dashboard gets its first snapshot, which so tells of a shorter time.
const FIRST_INTERVAL: Duration = Duration::from_millis(250);

/// How long the cores may take to tell of themselves; the snapshot goes out without those that take longer.
const REPORT_TIME: Duration = Duration::from_millis(200);

/// A core with so many parcels in its mailbox is not asked: it has other things to do, and no place to waste.
const PARCELS_MAX: usize = 512;

/// Entries of each list of a snapshot.
const ENTRIES: usize = 10;

/// Over how many snapshots percentiles are taken.
const PERCENTILE_SNAPSHOTS: usize = 10;

/// What is counted when somebody is refused, closed, made to wait or left out for a limit.
const LIMITS: &[&str] = &[
    "refused_connections",
    "accept_backoffs",
    "tls_handshakes_put_off",
    "too_large",
    "inflated_too_large",
    "too_many_rooms",
    "too_many_sessions",
    "rooms_full",
    "rooms_forgotten",
    "history_forgotten",
    "rate_limited_logins",
    "rate_limited_connections",
    "rate_limited_bytes",
    "rate_limited_users",
    "rate_limited_addresses",
    "rate_limited_joins",
    "rate_limited_rooms",
    "rate_limit_pauses",
    "rate_limits_ignored",
    "slow_consumers",
    "output_pauses",
    "left_out",
    "typing_dropped",
    "timeouts",
    "no_hello",
    "too_many_errors",
    "grace_refused",
    "private_not_kept",
    "store_refused",
    "store_overdue",
    "journal_waits",
    "journal_full",
    "backplane_refused",
    "http2_floods",
    "mailbox_full",
    "in_flight_waits",
    "window_waits",
    "dashboard_watchers_refused",
    "stalls",
];

/// How many dashboards there are, told by the cores that have them.
#[derive(Debug)]
pub struct Watchers {
    most: usize,
    all: AtomicUsize,
    of_cores: Vec<AtomicUsize>,
}

impl Watchers {
    /// None yet, and at most so many.
    pub fn new(cores: usize, most: usize) -> Self {
        let of_cores = (0..cores).map(|_| AtomicUsize::new(0)).collect();
        Watchers { most, all: AtomicUsize::new(0), of_cores }
    }

    /// One more on a core, if there is place for it.
    pub fn enter(&self, core: usize) -> bool {
        let more = |all| (all < self.most).then_some(all + 1);
        let has_entered = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if has_entered {
            self.of_cores[core].fetch_add(1, Ordering::Relaxed);
        }
        has_entered
    }

    /// One less.
    pub fn leave(&self, core: usize) {
        self.of_cores[core].fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }

    fn are_any(&self) -> bool {
        self.all.load(Ordering::Relaxed) > 0
    }

    fn are_on(&self, core: usize) -> bool {
        self.of_cores[core].load(Ordering::Relaxed) > 0
    }
}

/// What is told beside what cores count and tell.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// When the server was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// The node; 0: it stands alone.
    pub node: u32,
    /// What tells how much memory is used for what.
    pub sizes: Sizes,
}

/// The making of snapshots.
#[derive(Debug)]
pub struct Dashboard {
    counters: Vec<Arc<Counters>>,
    exchange: Arc<Exchange<Parcel>>,
    watchers: Arc<Watchers>,
    about: About,
    /// What the numbers are compared with; `None` while nobody looks.
    before: Option<Reading>,
    /// When the cores are asked next, and since when they have been asked.
    due: Option<Instant>,
    asked_at: Option<Instant>,
    /// What each core told last, and whether it owes another report.
    reports: Vec<Option<Box<Report>>>,
    owes: Vec<bool>,
    durations: VecDeque<Durations>,
}

/// What all cores had counted at some moment.
#[derive(Debug)]
struct Reading {
    at: Instant,
    /// For each number those of the cores, in the order in which the numbers are described.
    values: Vec<Vec<u64>>,
    durations: Durations,
}

/// How long things took, on all cores.
#[derive(Debug, Clone, Default)]
struct Durations {
    http: Snapshot,
    hops: [Snapshot; HOPS.len()],
}

impl Reading {
    fn take(counters: &[Arc<Counters>]) -> Self {
        let mut values = vec![Vec::with_capacity(counters.len()); Counters::DESCRIBED.len()];
        let mut durations = Durations::default();
        for core in counters {
            core.http.durations.add_to(&mut durations.http);
            for (hop, _) in HOPS {
                core.hops.of(hop).add_to(&mut durations.hops[hop as usize]);
            }
            for (of_number, (_, value)) in values.iter_mut().zip(core.values()) {
                of_number.push(value);
            }
        }
        Reading { at: Instant::now(), values, durations }
    }

    fn of_cores(&self, name: &str) -> &[u64] {
        let place = Counters::DESCRIBED.iter().position(|described| described.name == name);
        &self.values[place.expect("a number that is counted")]
    }

    fn sum(&self, name: &str) -> u64 {
        self.of_cores(name).iter().fold(0, |sum, value| sum.wrapping_add(*value))
    }
}

impl Dashboard {
    /// Of these cores, nobody looking.
    pub fn new(
        counters: Vec<Arc<Counters>>,
        exchange: Arc<Exchange<Parcel>>,
        watchers: Arc<Watchers>,
        about: About,
    ) -> Self {
        let cores = counters.len();
        Dashboard {
            counters,
            exchange,
            watchers,
            about,
            before: None,
            due: None,
            asked_at: None,
            reports: (0..cores).map(|_| None).collect(),
            owes: vec![false; cores],
            durations: VecDeque::new(),
        }
    }

    /// How long nothing has to be done; `None`: until somebody looks, or a core tells something.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let until = self.asked_at.map(|at| at + REPORT_TIME).or(self.due)?;
        Some(until.saturating_duration_since(now))
    }

    /// A core has told of itself.
    pub fn hear(&mut self, report: Box<Report>) {
        let core = usize::from(report.core);
        self.owes[core] = false;
        self.reports[core] = Some(report);
    }

    /// Does what is due. `process` asks the kernel about the process.
    pub fn go_on(&mut self, now: Instant, teller: &mut Teller, process: impl FnOnce() -> Figures) {
        if !self.watchers.are_any() {
            (self.before, self.due, self.asked_at) = (None, None, None);
            self.durations.clear();
            return;
        }
        let Some(before) = &self.before else {
            self.before = Some(Reading::take(&self.counters));
            self.due = Some(now + FIRST_INTERVAL);
            return;
        };
        if let Some(asked_at) = self.asked_at {
            if self.owes.contains(&true) && now < asked_at + REPORT_TIME {
                return;
            }
            self.asked_at = None;
            let reading = Reading::take(&self.counters);
            self.durations.push_back(before.durations.clone());
            if self.durations.len() > PERCENTILE_SNAPSHOTS {
                self.durations.pop_front();
            }
            let snapshot: Arc<[u8]> =
                self.render(before, &reading, &process()).to_string().into_bytes().into();
            self.before = Some(reading);
            for core in (0..self.owes.len()).filter(|core| !self.owes[*core] && self.watchers.are_on(*core)) {
                teller.tell(core, Mail::Snapshot(snapshot.clone()));
            }
        } else if self.due.is_none_or(|due| due <= now) {
            self.asked_at = Some(now);
            // Not from now: it would be later each time.
            self.due = self.due.map(|due| due + INTERVAL).filter(|due| *due > now).or(Some(now + INTERVAL));
            for core in 0..self.owes.len() {
                if !self.owes[core] && self.exchange.mailbox(core).len() < PARCELS_MAX {
                    self.owes[core] = true;
                    teller.tell(core, Mail::Look);
                }
            }
        }
    }

    fn render(&self, before: &Reading, now: &Reading, process: &Figures) -> Value {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
        let grown = |name: &str| now.sum(name).wrapping_sub(before.sum(name));
        let rate = |name: &str| round(grown(name) as f64 / seconds);
        let reports = || self.reports.iter().flatten();
        let oldest = self.durations.front().unwrap_or(&before.durations);
        let http = now.durations.http.since(&oldest.http);
        let millis = |q| http.quantile_ns(q).map(|ns| ns as f64 / 1e6);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "node": self.about.node,
            "time_ms": crate::sys::unix_ms(),
            "started_ms": self.about.started_ms,
            "interval_s": round(seconds),
            "cores": self.cores(before, now, seconds),
            "connections": {
                "all": now.sum("connections"),
                "web": now.sum("web_connections"),
                "line": now.sum("line_connections"),
                "frame": now.sum("frame_connections"),
                "grpc": now.sum("grpc_connections"),
                "event_streams": now.sum("event_streams"),
                "grpc_calls": now.sum("calls_open"),
            },
            "sessions": reports().map(|report| report.sessions).sum::<usize>(),
            "away": now.sum("away"),
            "rooms": now.sum("rooms"),
            "nicknames": now.sum("nicknames"),
            "dashboards": now.sum("dashboard_watchers"),
            "rates": {
                "messages": rate("published"),
                "deliveries": rate("deliveries"),
                "received_bytes": rate("received_bytes"),
                "sent_bytes": rate("sent_bytes"),
                "accepted": rate("accepted"),
                "errors": rate("errors"),
                "http_requests": round(now.durations.http.since(&before.durations.http).count() as f64 / seconds),
            },
            "http": { "count": http.count(), "p50_ms": millis(0.5), "p99_ms": millis(0.99) },
            "latency": latency(&now.durations, oldest),
            "memory": {
                "resident_bytes": process.resident_bytes,
                "classes": memory_classes(&self.counters, &self.about.sizes).into_iter().collect::<HashMap<_, _>>(),
            },
            "store": self.store(),
            "backplane": self.backplane(),
            "limits": limits(before, now),
            "slow": self.slow(),
            "rooms_by_members": self.rooms(|report| &report.crowded, |room| room.members as f64),
            "rooms_by_messages": self.rooms(|report| &report.lively, |room| room.messages_per_s),
        })
    }

    fn cores(&self, before: &Reading, now: &Reading, seconds: f64) -> Vec<Value> {
        let of_core = |core: usize| {
            let grown = |name| now.of_cores(name)[core].wrapping_sub(before.of_cores(name)[core]) as f64;
            let (turns, busy_ns) = (grown("turns"), grown("busy_ns"));
            let per_turn = |n: f64| if turns > 0.0 { n / turns } else { 0.0 };
            let report = self.reports[core].as_ref();
            json!({
                "core": core,
                // A turn that began before the interval counts wholly where it ends.
                "busy": round((busy_ns / seconds / 1e9).min(1.0)),
                "turns": round(turns / seconds),
                "events_per_turn": round(per_turn(grown("events"))),
                "turn_us": round(per_turn(busy_ns) / 1e3),
                "turn_max_us": report.map(|report| round(report.longest_turn_ns as f64 / 1e3)),
                "connections": now.of_cores("connections")[core],
                "sessions": report.map(|report| report.sessions),
                "rooms": now.of_cores("rooms")[core],
                "mailbox": self.exchange.mailbox(core).len(),
                "deferred": report.map(|report| report.deferred),
                "timers": report.map(|report| report.timers),
                "is_silent": self.owes[core],
            })
        };
        (0..self.counters.len()).map(of_core).collect()
    }

    fn store(&self) -> Value {
        let states = || self.reports.iter().flatten().filter_map(|report| report.store_is_down);
        let is_there = states().next().is_some();
        is_there
            .then(|| {
                let waits: usize = self.reports.iter().flatten().map(|report| report.store_waits).sum();
                json!({ "is_down": states().any(|is_down| is_down), "acks_waiting": waits })
            })
            .into()
    }

    fn backplane(&self) -> Value {
        let mut states = self.reports.iter().flatten().filter_map(|report| report.backplane.as_ref());
        let first = states.next();
        let down = first.and_then(|down| down.as_ref().or_else(|| states.find_map(Option::as_ref)));
        first.map(|_| json!({ "is_down": down.is_some(), "why": down })).into()
    }

    fn slow(&self) -> Vec<Value> {
        let mut slow: Vec<&SlowClient> =
            self.reports.iter().flatten().flat_map(|report| &report.slow).collect();
        slow.sort_by_key(|client| std::cmp::Reverse(client.queued_bytes));
        let entry = |client: &&SlowClient| {
            let tcp = client.tcp.map(|tcp| {
                json!({
                    "rtt_ms": f64::from(tcp.rtt_us) / 1e3,
                    "rtt_var_ms": f64::from(tcp.rtt_var_us) / 1e3,
                    "retransmits": tcp.retransmits,
                    "unacked": tcp.unacked,
                })
            });
            json!({
                "nickname": client.nickname.as_ref().map(|nickname| nickname.as_str()),
                "peer": client.peer,
                "transport": client.transport,
                "queued_bytes": client.queued_bytes,
                "tcp": tcp,
            })
        };
        slow.iter().take(ENTRIES).map(entry).collect()
    }

    fn rooms(&self, list: fn(&Report) -> &Vec<RoomFigures>, by: fn(&RoomFigures) -> f64) -> Vec<Value> {
        let mut rooms: Vec<&RoomFigures> =
            self.reports.iter().flatten().flat_map(|report| list(report)).collect();
        rooms.sort_by(|a, b| by(b).total_cmp(&by(a)));
        let entry = |room: &&RoomFigures| {
            json!({
                "room": room.room.as_str(),
                "members": room.members,
                "messages": round(room.messages_per_s),
            })
        };
        rooms.iter().take(ENTRIES).map(entry).collect()
    }
}

/// How long messages took on each part of their way, those that were followed.
fn latency(now: &Durations, oldest: &Durations) -> Vec<Value> {
    let of_hop = |(hop, name): (Hop, &str)| {
        let took = now.hops[hop as usize].since(&oldest.hops[hop as usize]);
        let micros = |q| took.quantile_ns(q).map(|ns| ns as f64 / 1e3);
        json!({
            "hop": name,
            "count": took.count(),
            "p50_us": micros(0.5),
            "p99_us": micros(0.99),
            "p999_us": micros(0.999),
        })
    };
    HOPS.into_iter().map(of_hop).collect()
}

/// The limits that have been hit since the server was started.
fn limits(before: &Reading, now: &Reading) -> Vec<Value> {
    let about = |name: &str| {
        let described = Counters::DESCRIBED.iter().find(|described| described.name == name);
        described.map_or("", |described| described.help.trim())
    };
    let hit = LIMITS.iter().filter(|name| now.sum(name) > 0);
    let entry = |name: &&str| {
        let (all, new) = (now.sum(name), now.sum(name).wrapping_sub(before.sum(name)));
        json!({ "name": name, "about": about(name), "all": all, "new": new })
    };
    hit.map(entry).collect()
}

/// With three digits behind the point: nobody reads more, and they would be most of what is sent.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stats::Kind;

    fn two_cores(watchers: &Arc<Watchers>) -> (Vec<Arc<Counters>>, Dashboard, Teller) {
        let counters: Vec<Arc<Counters>> = vec![Arc::default(), Arc::default()];
        let exchange = Arc::new(Exchange::new(2, 1024));
        let sizes = Sizes { connection_bytes: 400, ..Sizes::default() };
        let about = About { started_ms: 5, node: 0, sizes };
        let dashboard = Dashboard::new(counters.clone(), exchange.clone(), watchers.clone(), about);
        (counters, dashboard, Teller::new(exchange, 2))
    }

    fn mail(dashboard: &Dashboard, teller: &mut Teller, core: usize) -> Vec<Mail> {
        assert!(teller.deliver(|_| {}));
        dashboard.exchange.mailbox(core).pop().map(|parcel| parcel.mail).unwrap_or_default()
    }

    #[test]
    fn limits_are_numbers_that_only_grow() {
        for name in LIMITS {
            let described = Counters::DESCRIBED.iter().find(|described| described.name == *name);
            assert_eq!(described.map(|described| described.kind), Some(Kind::Counter), "{name}");
        }
    }

    #[test]
    fn places_for_dashboards_are_limited() {
        let watchers = Watchers::new(2, 2);
        assert!(watchers.enter(0) && watchers.enter(1) && !watchers.enter(1));
        watchers.leave(0);
        assert!(watchers.enter(1) && !watchers.are_on(0));
    }

    #[test]
    fn nothing_is_done_while_nobody_looks() {
        let watchers = Arc::new(Watchers::new(2, 1));
        let (_, mut dashboard, mut teller) = two_cores(&watchers);
        let now = Instant::now();
        dashboard.go_on(now, &mut teller, || panic!("nobody wants to know"));
        assert_eq!(dashboard.wait(now), None);
        assert!(mail(&dashboard, &mut teller, 0).is_empty());
    }

    #[test]
    fn cores_are_asked_and_dashboards_told() {
        let watchers = Arc::new(Watchers::new(2, 1));
        let (counters, mut dashboard, mut teller) = two_cores(&watchers);
        assert!(watchers.enter(1));
        let now = Instant::now();
        dashboard.go_on(now, &mut teller, Figures::default);
        let first = now + FIRST_INTERVAL;
        assert_eq!(dashboard.wait(now), Some(FIRST_INTERVAL));
        counters[0].published.add(7);
        counters[0].connection_places.set(3);
        counters[1].send_queue_bytes.set(70);
        counters[1].rate_limited_users.add(2);
        counters[0].hops.record(Hop::SequencedToReceived, 1900);
        counters[1].hops.record(Hop::SequencedToReceived, 900);
        dashboard.go_on(first, &mut teller, Figures::default);
        for core in 0..2 {
            assert!(matches!(mail(&dashboard, &mut teller, core)[..], [Mail::Look]), "core {core}");
        }
        dashboard.hear(Box::new(Report {
            core: 1,
            sessions: 3,
            store_is_down: Some(true),
            ..Report::default()
        }));
        dashboard.go_on(first, &mut teller, || panic!("core 0 has some time left"));
        dashboard.go_on(first + REPORT_TIME, &mut teller, Figures::default);
        assert!(mail(&dashboard, &mut teller, 0).is_empty(), "nobody looks there");
        let told = mail(&dashboard, &mut teller, 1);
        let [Mail::Snapshot(snapshot)] = &told[..] else { panic!("{told:?}") };
        let snapshot: Value = serde_json::from_slice(snapshot).unwrap();
        assert!(snapshot["rates"]["messages"].as_f64().unwrap() > 7.0, "{snapshot}");
        assert_eq!(snapshot["cores"][0]["is_silent"], true);
        assert_eq!(snapshot["cores"][1]["sessions"], 3);
        assert_eq!(snapshot["limits"][0]["name"], "rate_limited_users");
        assert_eq!(snapshot["limits"][0]["all"], 2);
        let hop = &snapshot["latency"][2];
        assert_eq!((&hop["hop"], &hop["count"]), (&json!("sequenced_to_received"), &json!(2)));
        assert_eq!((&hop["p50_us"], &hop["p999_us"]), (&json!(1.0), &json!(2.0)), "of both cores");
        assert_eq!(snapshot["latency"][4]["p50_us"], Value::Null, "nothing was written");
        assert_eq!(snapshot["store"]["is_down"], true);
        assert_eq!(snapshot["backplane"], Value::Null);
        assert_eq!(snapshot["memory"]["resident_bytes"], Value::Null);
        assert_eq!(snapshot["memory"]["classes"]["connections"], 3 * 400);
        assert_eq!(snapshot["memory"]["classes"]["send_queues"], 70);
        // A core that owes an answer is not asked again.
        dashboard.go_on(first + INTERVAL, &mut teller, Figures::default);
        assert!(mail(&dashboard, &mut teller, 0).is_empty());
        assert!(matches!(mail(&dashboard, &mut teller, 1)[..], [Mail::Look]));
        watchers.leave(1);
        dashboard.go_on(first + INTERVAL, &mut teller, || panic!("nobody looks any more"));
        assert_eq!(dashboard.wait(now), None);
    }

    #[test]
    fn slow_clients_and_rooms_of_all_cores_are_in_order() {
        use crate::chat::name::RoomName;
        let watchers = Arc::new(Watchers::new(2, 1));
        let (_, mut dashboard, _) = two_cores(&watchers);
        let slow = |queued_bytes| SlowClient {
            nickname: None,
            peer: [127, 0, 0, 1].into(),
            transport: "frames",
            queued_bytes,
            tcp: None,
        };
        let room = |name: &str, members| {
            let room = RoomName::try_from(name.to_owned()).unwrap();
            RoomFigures { room, members, messages_per_s: 0.0 }
        };
        dashboard.hear(Box::new(Report {
            core: 0,
            slow: vec![slow(5), slow(1)],
            crowded: vec![room("a", 2)],
            ..Report::default()
        }));
        dashboard.hear(Box::new(Report {
            core: 1,
            slow: vec![slow(3)],
            crowded: vec![room("b", 9)],
            ..Report::default()
        }));
        let queued: Vec<_> = dashboard.slow().iter().map(|client| client["queued_bytes"].clone()).collect();
        assert_eq!(queued, [5, 3, 1]);
        let rooms = dashboard.rooms(|report| &report.crowded, |room| room.members as f64);
        assert_eq!((&rooms[0]["room"], &rooms[1]["room"]), (&json!("b"), &json!("a")));
    }
}
