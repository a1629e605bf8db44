//! Another configuration, while the server runs.

use starling::config::ListenKind;

use crate::cores::{Cores, programs, token};

fn rooms_written(cores: &Cores) -> usize {
    cores.written.iter().filter(|record| record.starts_with("Room {")).count()
}

#[test]
fn rooms_forget_what_is_over_their_new_bounds() {
    let mut cores = Cores::stored(1, |_| {});
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    let one = {
        cores.speak(alice, "den", "0");
        cores.total(|counters| &counters.history_bytes)
    };
    for _ in 0..3 {
        cores.speak(alice, "den", "1");
        cores.speak(alice, "hall", "2");
    }
    assert_eq!(cores.total(|counters| &counters.history_bytes), 7 * one);
    let written = rooms_written(&cores);
    // The same once more changes nothing.
    cores.reconfigure(|_| {});
    cores.pass(100);
    assert_eq!((cores.total(|c| &c.history_bytes), rooms_written(&cores)), (7 * one, written));
    // What is in memory is no matter of the store.
    cores.reconfigure(|config| config.history.memory_count = 3);
    cores.pass(1);
    assert_eq!((cores.total(|c| &c.history_bytes), rooms_written(&cores)), (6 * one, written));
    cores.reconfigure(|config| config.history.count = 2);
    cores.pass(1);
    assert_eq!((cores.total(|c| &c.history_bytes), rooms_written(&cores)), (4 * one, written + 2));
    let history = cores.call(alice, r#"{"type":"history","room":"den"}"#);
    assert_eq!(history["messages"].as_array().unwrap().len(), 2);
    // Nothing grows by it.
    cores.reconfigure(|config| config.history.count = 5);
    cores.pass(1);
    assert_eq!((cores.total(|c| &c.history_bytes), rooms_written(&cores)), (4 * one, written + 4));
}

#[test]
fn many_rooms_get_their_new_bounds_some_at_a_time() {
    let mut cores = Cores::stored(1, |config| config.limits.rooms_per_session = 1000);
    let rooms: Vec<String> = (0..150).map(|number| format!("room-{number}")).collect();
    let alice = cores.enter(0, "alice", &rooms.iter().map(String::as_str).collect::<Vec<_>>());
    cores.events(alice);
    cores.reconfigure(|config| config.history.count = 7);
    let mut written = Vec::new();
    for ms in [1, 9, 1, 10, 100] {
        cores.pass(ms);
        written.push(rooms_written(&cores) - 150);
    }
    assert_eq!(written, [64, 64, 128, 150, 150]);
    // Read again before that is done, it begins with all of them, and by the same clock.
    cores.reconfigure(|config| config.history.count = 8);
    cores.pass(1);
    cores.reconfigure(|config| config.history.count = 9);
    written.clear();
    for ms in [9, 1, 10, 10, 100] {
        cores.pass(ms);
        written.push(rooms_written(&cores) - 364);
    }
    assert_eq!(written, [0, 64, 128, 150, 150]);
    // A journal without place is waited for.
    cores.journal_bytes = 0;
    cores.turn();
    cores.reconfigure(|config| config.history.count = 10);
    cores.pass(100);
    assert_eq!(rooms_written(&cores), 364 + 150);
    cores.journal_bytes = 1 << 24;
    cores.pass(100);
    assert_eq!(rooms_written(&cores), 364 + 300);
}

#[test]
fn rates_hold_for_those_who_are_here() {
    let mut cores = Cores::new(|_| {});
    let (alice, bob) = (cores.enter(0, "alice", &[]), cores.enter(0, "bob", &[]));
    cores.reconfigure(|config| (config.rate.user_commands_per_second, config.rate.user_burst) = (1, 1));
    for client in [alice, bob] {
        assert_eq!(cores.call(client, r#"{"type":"ping"}"#)["type"], "pong");
        assert_eq!(cores.call(client, r#"{"type":"ping"}"#)["reason"], "rate_limited");
    }
    assert_eq!(cores.total(|counters| &counters.rate_limited_users), 2);
    let mut cores = Cores::new(|_| {});
    let (alice, bob) = (cores.enter(0, "alice", &[]), cores.enter(0, "bob", &[]));
    cores.reconfigure(|config| {
        (config.rate.address_commands_per_second, config.rate.address_burst) = (1, 1);
    });
    assert_eq!(cores.call(alice, r#"{"type":"ping"}"#)["type"], "pong");
    assert_eq!(cores.call(bob, r#"{"type":"ping"}"#)["reason"], "rate_limited");
    assert_eq!(cores.total(|counters| &counters.rate_limited_addresses), 1);
}

#[test]
fn limits_hold_from_then_on() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["one"]);
    cores.reconfigure(|config| {
        config.limits.rooms_per_session = 1;
        config.limits.connections_per_address = 1;
    });
    assert_eq!(cores.call(alice, r#"{"type":"join","room":"two"}"#)["reason"], "too_many_rooms");
    let refused = cores.connect(0, ListenKind::Frame);
    assert!(cores.heard(refused).contains("too_many_connections"));
}

#[test]
fn guests_go_when_guests_may_not_be_there() {
    let mut cores = Cores::new(|config| config.auth.api_keys = programs(&["ci"]));
    let guest = cores.enter(0, "guest", &["den"]);
    let away = cores.enter(0, "away", &["den"]);
    cores.broken(away);
    let user = cores.connect(0, ListenKind::Line);
    cores.say(user, &format!(r#"{{"type":"hello","token":"{}"}}"#, token("user", |_| {})));
    cores.say(user, r#"{"type":"join","room":"den"}"#);
    let stream = |cores: &mut Cores, key: &str| {
        let client = cores.connect(0, ListenKind::Web);
        let request = format!("GET /api/rooms/den/stream HTTP/1.1\r\nHost: a\r\n{key}\r\n");
        cores.receive(client, request.as_bytes());
        client
    };
    let (anonymous, of_key) = (stream(&mut cores, ""), stream(&mut cores, "X-API-Key: ci\r\n"));
    cores.reconfigure(|config| config.limits.rooms_per_session = 50);
    assert!(![guest, user, anonymous, of_key].iter().any(|client| cores.is_over(*client)));
    cores.events(user);
    cores.reconfigure(|config| config.auth.guests = false);
    assert_eq!(
        [guest, anonymous, user, of_key].map(|client| cores.is_over(client)),
        [true, true, false, false]
    );
    assert_eq!(cores.told(guest, "bye", "code"), [4101]);
    let mut left: Vec<String> = cores
        .told(user, "presence", "nickname")
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    left.sort();
    left.dedup();
    assert!(left.contains(&"away".to_owned()) && left.contains(&"guest".to_owned()), "{left:?}");
    assert_eq!(cores.call(user, r#"{"type":"members","room":"den"}"#)["total"], 1);
    // They are not put out once more by whatever changes next, and a key that is gone takes its streams with it.
    cores.reconfigure(|config| config.auth.api_keys.clear());
    assert_eq!([user, of_key].map(|client| cores.is_over(client)), [false, true]);
}
