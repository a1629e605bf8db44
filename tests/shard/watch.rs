//! Dashboards and metrics: who may see them, and what a core tells of itself.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use starling::auth::Claims;
use starling::config::{AckLevel, Config, DashboardAccess, ListenKind, MetricsAccess};
use starling::shard::Flock;
use starling::shard::mail::{ConnectionRef, Mail, Reply};
use starling::shard::observer::{Document, Observer, Question, Report, RoomFigures};

use crate::answers::{Answer, browser, request};
use crate::cores::{Client, Cores, programs};
use crate::tokens::{self, admin_key, claims, token};

/// What makes a request one for a WebSocket.
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Somebody who sees all cores, and answers when the test says so.
#[derive(Debug, Default)]
struct Overseer {
    asked: Mutex<Vec<(ConnectionRef, Question)>>,
    reports: Mutex<Vec<Report>>,
    watchers: AtomicUsize,
    is_busy: bool,
}

impl Observer for Overseer {
    fn ask(&self, from: ConnectionRef, question: Question) -> bool {
        self.asked.lock().unwrap().push((from, question));
        !self.is_busy
    }

    fn begin_watch(&self, _: u16) -> bool {
        self.watchers.fetch_add(1, Relaxed);
        true
    }

    fn end_watch(&self, _: u16) {
        self.watchers.fetch_sub(1, Relaxed);
    }

    fn report(&self, report: Box<Report>) {
        self.reports.lock().unwrap().push(*report);
    }
}

/// One core with such an overseer, two programs and an admin's.
fn overseen(overseer: &Arc<Overseer>, set: impl FnOnce(&mut Config)) -> Cores {
    let observer: Arc<dyn Observer> = overseer.clone();
    let set = |config: &mut Config| {
        config.auth.api_keys = programs(&["ci"]);
        config.auth.api_keys.push(admin_key("ops"));
        set(config);
    };
    Cores::made(1, set, |flock: &mut Flock| {
        tokens::arrange(flock);
        flock.observer = Some(observer);
    })
}

/// Somebody asks from this address.
fn asks(cores: &mut Cores, address: [u8; 4], said: &str) -> Client {
    let client = cores.connect_from(0, ListenKind::Web, address);
    cores.receive(client, said.as_bytes());
    client
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [10, 0, 0, 1];

/// A request for this target, whose fields are only these.
fn bare(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n")
}

/// Requests of whoever is not on this machine, or of whom that cannot be said, as the fields of their heads tell.
const FROM_AFAR: [&str; 8] = [
    "Host: example.com\r\n",
    "Host: localhost\r\nForwarded: for=10.0.0.1\r\n",
    "Host: localhost\r\nVIA: 1.1 proxy\r\n",
    "Host: localhost\r\nX-Forwarded-For: 10.0.0.1\r\n",
    "Host: localhost\r\nX-Forwarded-Host: a\r\n",
    "Host: localhost\r\nX-Forwarded-Proto: https\r\n",
    "Host: localhost\r\nX-Real-IP: 10.0.0.1\r\n",
    "Host: 127.0.0.1:8080\r\nOrigin: http://127.0.0.1:9090\r\n",
];

#[test]
fn metrics_are_for_whom_the_operator_says() {
    let ops = "X-API-Key: ops\r\n";
    let ci = "X-API-Key: ci\r\n";
    let wrong = "X-API-Key: wrong\r\n";
    let (all, local, admin) = (MetricsAccess::All, MetricsAccess::Local, MetricsAccess::Admin);
    let cases = [
        (all, ELSEWHERE, "", 200),
        (all, ELSEWHERE, wrong, 200),
        (local, HERE, "", 200),
        (local, HERE, "Origin: http://localhost\r\n", 200),
        (local, HERE, "Origin: http://example.com\r\n", 401),
        (local, ELSEWHERE, "", 401),
        (local, ELSEWHERE, ops, 200),
        (local, HERE, ops, 200),
        (local, HERE, ci, 403),
        (local, HERE, wrong, 401),
        (local, HERE, "Authorization: Bearer wrong\r\n", 401),
        (admin, HERE, "", 401),
        (admin, HERE, ci, 403),
        (admin, ELSEWHERE, ops, 200),
    ];
    for (access, address, fields, expected) in cases {
        let overseer = Arc::new(Overseer::default());
        let mut cores = overseen(&overseer, |config| config.web.metrics = access);
        let client = asks(&mut cores, address, &request("GET /metrics", fields));
        let asked = std::mem::take(&mut *overseer.asked.lock().unwrap());
        for (from, question) in asked {
            assert_eq!(question, Question::Metrics { is_open_metrics: false });
            assert_eq!(from, ConnectionRef { core: 0, connection: client.id });
            assert_eq!(cores.heard(client), "", "it waits");
            let document = Document { content_type: "text/x", body: b"numbers".to_vec() };
            let reply = Reply::Document(Box::new(document));
            cores.mail(0, Mail::ApiReply { to: client.id, home: 0, reply });
        }
        let answer = Answer::of(&cores.heard(client));
        assert_eq!(answer.status, expected, "{access:?} {address:?} {fields}");
        if expected == 200 {
            let fields = ["Content-Type", "Cache-Control"].map(|name| answer.field(name));
            assert_eq!((fields, answer.body.as_str()), ([Some("text/x"), Some("no-store")], "numbers"));
        }
    }
    let overseer = Arc::new(Overseer::default());
    let mut cores = overseen(&overseer, |config| config.web.metrics = MetricsAccess::Local);
    for fields in FROM_AFAR {
        let client = asks(&mut cores, HERE, &bare("/metrics", fields));
        assert_eq!(Answer::of(&cores.heard(client)).status, 401, "{fields}");
    }
    let behind_a_proxy = cores.connect(0, ListenKind::Web);
    cores.shards[0].indirect(behind_a_proxy.id);
    cores.receive(behind_a_proxy, request("GET /metrics", "").as_bytes());
    assert_eq!(Answer::of(&cores.heard(behind_a_proxy)).status, 401);
    assert_eq!(overseer.asked.lock().unwrap().len(), 0);
    let open = browser(&mut cores, 0, &request("GET /metrics", "Accept: application/openmetrics-text\r\n"));
    let asked = std::mem::take(&mut *overseer.asked.lock().unwrap());
    let from = ConnectionRef { core: 0, connection: open.id };
    assert_eq!(asked, [(from, Question::Metrics { is_open_metrics: true })]);
}

#[test]
fn where_too_many_ask_at_once_one_is_told_to_come_back() {
    let overseer = Arc::new(Overseer { is_busy: true, ..Overseer::default() });
    let mut cores = overseen(&overseer, |_| {});
    let client = browser(&mut cores, 0, &request("GET /metrics", "").repeat(2));
    let heard = cores.heard(client);
    assert_eq!(heard.matches("HTTP/1.1 503 ").count(), 2, "{heard}");
    let (first, _) = heard.split_at(heard.rfind("HTTP/1.1").unwrap());
    let answer = Answer::of(first);
    assert_eq!(answer.error(), (503, "unavailable".to_owned()));
    assert_eq!((answer.field("Retry-After"), &answer.json()["retry_after_ms"]), (Some("1"), &1000.into()));
    assert_eq!(cores.shards[0].inventory().under_way, 0);
}

#[test]
fn who_asks_for_metrics_waits_for_a_place_among_what_its_core_is_asked() {
    let overseer = Arc::new(Overseer::default());
    let observer: Arc<dyn Observer> = overseer.clone();
    let set = |config: &mut Config| {
        config.auth.api_keys = programs(&["ci"]);
        config.store.ack = AckLevel::Stored;
        config.limits.peer_window = 1;
    };
    let mut cores = Cores::made(1, set, |flock| (flock.has_store, flock.observer) = (true, Some(observer)));
    cores.slow_store(true);
    assert_eq!(cores.publish(0, "ci", "den", "x", "").0, 0, "it waits for the store");
    let client = browser(&mut cores, 0, &request("GET /metrics", ""));
    assert_eq!(overseer.asked.lock().unwrap().len(), 0);
    assert_eq!(cores.total(|counters| &counters.window_waits), 1);
    cores.write();
    cores.settle();
    let from = ConnectionRef { core: 0, connection: client.id };
    let question = Question::Metrics { is_open_metrics: false };
    assert_eq!(*overseer.asked.lock().unwrap(), [(from, question)]);
}

#[test]
fn dashboards_are_for_whom_the_operator_says() {
    let admin = token(&Claims { is_admin: true, ..claims("anna") });
    let user = token(&claims("dora"));
    let (local, only_admins) = (DashboardAccess::Local, DashboardAccess::Admin);
    let target = |query: &str| format!("/dashboard/live{query}");
    let cases = [
        (local, HERE, target(""), "", 101),
        (local, HERE, target("?x=wrong"), "", 101),
        (local, ELSEWHERE, target(""), "", 401),
        (local, ELSEWHERE, target(&format!("?token={admin}")), "", 101),
        (local, HERE, target(&format!("?token={user}")), "", 403),
        (local, HERE, target("?token=wrong"), "", 401),
        (local, HERE, target("?token=%zz"), "", 400),
        (local, HERE, target(""), "X-API-Key: ci\r\n", 403),
        (local, HERE, target(""), "X-API-Key: ops\r\n", 101),
        (only_admins, HERE, target(""), "", 401),
        (only_admins, ELSEWHERE, target(""), "X-API-Key: ops\r\n", 101),
    ];
    for (access, address, target, fields, expected) in cases {
        let overseer = Arc::new(Overseer::default());
        let mut cores = overseen(&overseer, |config| config.web.dashboard = access);
        let said = request(&format!("GET {target}"), &format!("{UPGRADE}{fields}"));
        let client = asks(&mut cores, address, &said);
        let status = Answer::of(&cores.heard(client)).status;
        assert_eq!(status, expected, "{access:?} {address:?} {target} {fields}");
        let watchers = u64::from(expected == 101);
        assert_eq!(cores.total(|counters| &counters.dashboard_watchers), watchers);
        assert_eq!(overseer.watchers.load(Relaxed) as u64, watchers);
        cores.broken(client);
        assert_eq!(overseer.watchers.load(Relaxed), 0);
    }
    let overseer = Arc::new(Overseer::default());
    let mut cores = overseen(&overseer, |_| {});
    for (number, fields) in FROM_AFAR.iter().enumerate() {
        let client = asks(&mut cores, HERE, &bare("/dashboard/live", &format!("{fields}{UPGRADE}")));
        let expected = if number + 1 == FROM_AFAR.len() { 403 } else { 401 };
        assert_eq!(Answer::of(&cores.heard(client)).status, expected, "{fields}");
    }
}

/// Somebody looks at a dashboard.
fn watches(cores: &mut Cores, fields: &str) -> Client {
    let client = browser(cores, 0, &request("GET /dashboard/live", &format!("{UPGRADE}{fields}")));
    assert_eq!(Answer::of(&cores.heard(client)).status, 101);
    client
}

#[test]
fn a_dashboard_says_nothing_and_hears_until_its_token_ends() {
    let overseer = Arc::new(Overseer::default());
    let mut cores = overseen(&overseer, |_| {});
    let talker = watches(&mut cores, "");
    cores.receive(talker, &[&[0x81, 0x82, 0, 0, 0, 0][..], b"hi"].concat());
    let heard = cores.bytes(talker);
    assert_eq!(heard[..4], [0x88, heard.len() as u8 - 2, 0x03, 0xeb], "1003");
    assert!(cores.is_over(talker));

    let expires_at_ms = Some(cores.unix_ms() + 2_000);
    let admin = token(&Claims { is_admin: true, expires_at_ms, ..claims("anna") });
    let anna = watches(&mut cores, &format!("Authorization: Bearer {admin}\r\n"));
    let guest = watches(&mut cores, "");
    let snapshot = |cores: &mut Cores| {
        cores.mail(0, Mail::Snapshot(Arc::from(&b"{}"[..])));
        [anna, guest].map(|client| cores.bytes(client))
    };
    let seen = b"\x81\x02{}".to_vec();
    cores.pass(1_999);
    assert_eq!(snapshot(&mut cores), [seen.clone(), seen.clone()]);
    cores.pass(1);
    let [last, guests] = snapshot(&mut cores);
    assert_eq!((&last[..4], guests), (&[0x88, last.len() as u8 - 2, 0x10, 0x6d][..], seen), "4205");
    assert!(cores.is_over(anna));
    assert_eq!(cores.total(|counters| &counters.expired_tokens), 1);
    assert_eq!(cores.total(|counters| &counters.dashboard_watchers), 1);
}

#[test]
fn connections_are_counted_by_what_is_spoken_on_them() {
    let mut cores = Cores::new(|_| {});
    let counts = |cores: &Cores| {
        let counters = &cores.counters[0];
        let all = [
            &counters.web_connections,
            &counters.line_connections,
            &counters.frame_connections,
            &counters.grpc_connections,
        ];
        all.map(|counter| counter.value())
    };
    let kinds = [ListenKind::Web, ListenKind::Line, ListenKind::Frame, ListenKind::Grpc];
    for (place, kind) in kinds.into_iter().enumerate() {
        let clients = vec![(); place + 1].into_iter().map(|()| cores.connect(0, kind)).collect::<Vec<_>>();
        assert_eq!(counts(&cores)[place], place as u64 + 1);
        cores.broken(clients[0]);
    }
    assert_eq!(counts(&cores), [0, 1, 2, 3]);
}

/// What the core reports now.
fn report(cores: &mut Cores, overseer: &Overseer) -> Report {
    cores.shards[0].mail(Mail::Look);
    while let Some(id) = cores.shards[0].next_inquiry() {
        cores.shards[0].settle_inquiry(id, None);
    }
    cores.shards[0].turn_ended(0);
    let mut reports = overseer.reports.lock().unwrap();
    assert_eq!(reports.len(), 1);
    reports.pop().unwrap()
}

#[test]
fn a_report_names_the_rooms_with_most_members_and_those_with_most_messages() {
    let overseer = Arc::new(Overseer::default());
    let mut cores = overseen(&overseer, |_| {});
    let alice = cores.enter(0, "alice", &["den", "hall", "attic"]);
    let bob = cores.enter(0, "bob", &["den", "hall"]);
    cores.enter(0, "carol", &["den"]);
    assert_eq!(cores.publish(0, "ci", "empty", "x", "").0, 200);
    let figures = |rooms: &[RoomFigures]| {
        let of = |it: &RoomFigures| (it.room.as_str().to_owned(), it.members, it.messages_per_s);
        rooms.iter().map(of).collect::<Vec<_>>()
    };
    let room = |name: &str, members: usize, rate: f64| (name.to_owned(), members, rate);
    let first = report(&mut cores, &overseer);
    assert_eq!(figures(&first.lively), [], "not known yet");
    let crowded = [room("den", 3, 0.0), room("hall", 2, 0.0), room("attic", 1, 0.0)];
    assert_eq!(figures(&first.crowded), crowded);
    for number in 0..6 {
        cores.speak(bob, "hall", &number.to_string());
        if number < 3 {
            cores.speak(alice, "attic", &number.to_string());
        }
    }
    assert_eq!(cores.publish(0, "ci", "empty", "y", "").0, 200);
    cores.pass(2_000);
    let second = report(&mut cores, &overseer);
    let lively = [room("hall", 2, 3.0), room("attic", 1, 1.5), room("empty", 0, 0.5)];
    assert_eq!(figures(&second.lively), lively);
    assert_eq!(figures(&second.crowded), [room("den", 3, 0.0), room("hall", 2, 3.0), room("attic", 1, 1.5)]);
    assert_eq!(figures(&report(&mut cores, &overseer).lively), [], "nothing since");
    let many: Vec<String> = (0..12).map(|number| format!("room-{number}")).collect();
    for name in &many {
        cores.say(alice, &format!(r#"{{"type":"join","room":"{name}"}}"#));
        cores.speak(alice, name, "x");
    }
    report(&mut cores, &overseer);
    for name in &many {
        cores.speak(alice, name, "x");
    }
    cores.pass(1_000);
    let third = report(&mut cores, &overseer);
    assert_eq!((third.crowded.len(), third.lively.len()), (10, 10));
}

#[test]
fn a_report_names_those_who_do_not_read_with_what_they_speak() {
    let overseer = Arc::new(Overseer::default());
    let mut cores = overseen(&overseer, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let stream = browser(&mut cores, 0, &request("GET /api/rooms/den/stream", "X-API-Key: ci\r\n"));
    let socket = browser(&mut cores, 0, &request("GET /ws?nickname=walter&room=den", UPGRADE));
    let echo = browser(&mut cores, 0, &request("GET /echo", UPGRADE));
    let dashboard = watches(&mut cores, "");
    let web = cores.connect(0, ListenKind::Web);
    let person = cores.connect(0, ListenKind::Line);
    let frames = cores.connect(0, ListenKind::Frame);
    let grpc = cores.connect(0, ListenKind::Grpc);
    for client in [alice, stream, socket, echo, dashboard, web, person, frames, grpc] {
        cores.heard(client);
        cores.stall(client, true);
    }
    cores.receive(web, request("GET /health", "").as_bytes());
    cores.receive(echo, &[&[0x81, 0x82, 0, 0, 0, 0][..], b"hi"].concat());
    cores.receive(frames, b"\xca\xfe\xba\xbe\x01\x00\x00\x00\x02\x00\x14{}");
    cores.receive(grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    cores.receive(person, b"peter\r\n");
    cores.mail(0, Mail::Snapshot(Arc::from(&b"{}"[..])));
    cores.speak(alice, "den", "x");
    let report = report(&mut cores, &overseer);
    let mut slow: Vec<(&str, &str)> = report
        .slow
        .iter()
        .map(|client| (client.transport, client.nickname.as_ref().map_or("", |name| name.as_str())))
        .collect();
    slow.sort_unstable();
    let expected = [
        ("dashboard", ""),
        ("echo", ""),
        ("event stream", "ci"),
        ("frames", ""),
        ("http", ""),
        ("http/2", ""),
        ("json lines", "alice"),
        ("text lines", "peter"),
        ("websocket", "walter"),
    ];
    assert_eq!(slow, expected);
    assert!(report.slow.iter().all(|client| client.queued_bytes > 0 && client.peer.is_loopback()));
}
