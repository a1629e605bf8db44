//! How fast commands may come.

use serde_json::Value;

use crate::cores::{Client, Cores};

/// What comes of a command: how long one is to wait, or nothing if it is carried out.
fn wait_ms(cores: &mut Cores, client: Client, command: &str) -> Option<u64> {
    let answer = cores.call(client, command);
    (answer["type"] == "error").then(|| {
        assert_eq!(
            (&answer["code"], &answer["reason"], &answer["retryable"]),
            (&429.into(), &"rate_limited".into(), &true.into())
        );
        answer["retry_after_ms"].as_u64().unwrap()
    })
}

const PING: &str = r#"{"type":"ping"}"#;

#[test]
fn a_connection_may_send_a_burst_and_then_what_its_rate_is() {
    let mut cores = Cores::new(|config| (config.rate.commands_per_second, config.rate.burst) = (10, 3));
    let alice = cores.enter(0, "alice", &[]);
    let waits = |cores: &mut Cores| wait_ms(cores, alice, PING);
    assert_eq!((waits(&mut cores), waits(&mut cores)), (None, None), "hello was the first");
    for _ in 0..2 {
        assert_eq!(waits(&mut cores), Some(100), "what is refused costs nothing");
    }
    cores.pass(99);
    assert_eq!(waits(&mut cores), Some(1));
    cores.pass(1);
    assert_eq!(waits(&mut cores), None);
    assert_eq!(waits(&mut cores), Some(100));
    assert_eq!(cores.total(|counters| &counters.rate_limited_connections), 4);
    cores.pass(1000);
    for _ in 0..3 {
        assert_eq!(waits(&mut cores), None);
    }
    // Whoever goes may do so at once.
    assert_eq!(waits(&mut cores), Some(100));
    cores.say(alice, r#"{"type":"quit"}"#);
    assert!(cores.is_over(alice));
}

#[test]
fn joins_and_bytes_are_counted_apart() {
    let mut cores = Cores::new(|config| (config.rate.joins_per_second, config.rate.joins_burst) = (2, 2));
    let alice = cores.enter(0, "alice", &["one", "two"]);
    assert_eq!(wait_ms(&mut cores, alice, r#"{"type":"join","room":"three"}"#), Some(500));
    assert_eq!(wait_ms(&mut cores, alice, PING), None, "no join");
    assert_eq!(cores.total(|counters| &counters.rate_limited_joins), 1);
    cores.pass(500);
    assert_eq!(wait_ms(&mut cores, alice, r#"{"type":"join","room":"three"}"#), None);

    let mut cores =
        Cores::new(|config| (config.rate.bytes_per_second, config.rate.bytes_burst) = (1000, 500));
    let alice = cores.enter(0, "alice", &["den"]);
    cores.pass(1000);
    let say = |bytes: usize| {
        let line = r#"{"type":"message","room":"den","content":""}"#;
        line.replace(r#""""#, &format!("\"{}\"", "x".repeat(bytes - line.len())))
    };
    assert_eq!(wait_ms(&mut cores, alice, &say(400)), None);
    assert_eq!(wait_ms(&mut cores, alice, &say(200)), Some(100));
    assert_eq!(wait_ms(&mut cores, alice, &say(100)), None);
    assert_eq!(cores.total(|counters| &counters.rate_limited_bytes), 1);
}

#[test]
fn users_and_addresses_have_one_rate_for_all_that_they_do() {
    let mut cores = Cores::of(2, |config| {
        (config.rate.address_commands_per_second, config.rate.address_burst) = (10, 4);
    });
    let from = |cores: &mut Cores, core, name: &str, address| {
        let client = cores.connect_from(core, starling::config::ListenKind::Line, address);
        cores.say(client, &format!(r#"{{"type":"hello","nickname":"{name}"}}"#));
        client
    };
    let alice = from(&mut cores, 0, "alice", [10, 0, 0, 1]);
    let bob = from(&mut cores, 1, "bob", [10, 0, 0, 1]);
    let carol = from(&mut cores, 0, "carol", [10, 0, 0, 2]);
    assert_eq!((wait_ms(&mut cores, alice, PING), wait_ms(&mut cores, bob, PING)), (None, None));
    assert_eq!((wait_ms(&mut cores, alice, PING), wait_ms(&mut cores, bob, PING)), (Some(100), Some(100)));
    assert_eq!(wait_ms(&mut cores, carol, PING), None);
    assert_eq!(cores.total(|counters| &counters.rate_limited_addresses), 2);

    let mut cores = Cores::new(|config| {
        (config.rate.user_commands_per_second, config.rate.user_burst) = (4, 2);
        config.rate.commands_per_second = 100;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    assert_eq!(wait_ms(&mut cores, alice, PING), None);
    assert_eq!(wait_ms(&mut cores, alice, PING), Some(250));
    assert_eq!(cores.total(|counters| &counters.rate_limited_users), 1);
    cores.pass(250);
    assert_eq!(wait_ms(&mut cores, alice, PING), None);
    // What the session had asked is its user's, whoever comes next under the name.
    cores.say(alice, r#"{"type":"quit"}"#);
    let again = cores.connect(0, starling::config::ListenKind::Line);
    assert_eq!(cores.call(again, r#"{"type":"hello","nickname":"alice"}"#)["type"], "welcome");
    assert_eq!(wait_ms(&mut cores, again, PING), Some(250));
}

#[test]
fn the_longest_wait_is_told() {
    let mut cores = Cores::new(|config| {
        (config.rate.commands_per_second, config.rate.burst) = (10, 2);
        (config.rate.user_commands_per_second, config.rate.user_burst) = (1, 1);
    });
    let alice = cores.enter(0, "alice", &[]);
    assert_eq!(wait_ms(&mut cores, alice, PING), None);
    let refused = cores.call(alice, PING);
    assert_eq!(
        (&refused["retry_after_ms"], &refused["message"]),
        (&1000.into(), &"you send too many commands".into())
    );
    let counted = |cores: &Cores| {
        (cores.total(|c| &c.rate_limited_connections), cores.total(|c| &c.rate_limited_users))
    };
    assert_eq!(counted(&cores), (0, 1));

    // What a room refuses has been paid for by the connection.
    let mut cores = Cores::new(|config| {
        (config.rate.commands_per_second, config.rate.burst) = (1, 5);
        (config.rate.room_messages_per_second, config.rate.room_burst) = (1, 1);
    });
    let (alice, bob) = (cores.enter(0, "alice", &["den"]), cores.enter(0, "bob", &["den"]));
    cores.pass(10_000);
    cores.speak(bob, "den", "first");
    cores.pass(900);
    let message = r#"{"type":"message","room":"den","content":"second"}"#;
    assert_eq!(wait_ms(&mut cores, alice, message), Some(100));
    for expected in [100, 100, 100] {
        assert_eq!(wait_ms(&mut cores, alice, message), Some(expected));
    }
    assert_eq!(wait_ms(&mut cores, alice, message), Some(1000), "its own bucket is empty now");
    assert_eq!(cores.total(|counters| &counters.rate_limited_rooms), 5);
}

/// The reason that a client was sent away with.
fn bye(events: &[Value]) -> Option<&str> {
    events.iter().find(|event| event["type"] == "bye").map(|bye| bye["reason"].as_str().unwrap())
}

/// Alice is there, who may say something every 100 ms and ignore that for 2 s.
fn of_little_patience() -> (Cores, Client) {
    let mut cores = Cores::new(|config| {
        (config.rate.commands_per_second, config.rate.burst) = (10, 1);
        config.limits.rate_ignored_ms = 2000;
    });
    let alice = cores.enter(0, "alice", &[]);
    (cores, alice)
}

/// Says something every so many milliseconds, until it is sent away, and tells after how many that was.
fn sent_away_ms(every_ms: u64, at_once: usize, longest_ms: u64) -> Option<u64> {
    let (mut cores, alice) = of_little_patience();
    for ms in (0..longest_ms).step_by(every_ms as usize) {
        for _ in 0..at_once {
            cores.say(alice, PING);
        }
        if cores.is_over(alice) {
            assert_eq!(bye(&cores.events(alice)), Some("rate_limited"));
            assert_eq!(cores.total(|counters| &counters.rate_limits_ignored), 1);
            return Some(ms);
        }
        cores.pass(every_ms);
    }
    assert_eq!(cores.total(|counters| &counters.rate_limits_ignored), 0);
    None
}

#[test]
fn whoever_never_waits_as_told_is_sent_away() {
    // Whether it comes before each wait is over, with what is let through in between, or so often that it is not read for a while.
    assert_eq!(sent_away_ms(20, 1, 60_000), Some(2000 + 20));
    assert_eq!(sent_away_ms(5, 100, 60_000), Some(2000));
    // Every second one is refused, and the next comes when it was told.
    assert_eq!(sent_away_ms(100, 2, 60_000), None);
    assert_eq!(sent_away_ms(1000, 50, 60_000), None);
}

/// Alice asks every 20 ms for so long, whatever she is told.
fn goes_on(cores: &mut Cores, alice: Client, ms: u64) {
    for _ in 0..ms / 20 {
        cores.say(alice, PING);
        cores.pass(20);
    }
}

#[test]
fn who_has_waited_as_long_as_it_has_not_begins_anew() {
    let (mut cores, alice) = of_little_patience();
    for _ in 0..5 {
        goes_on(&mut cores, alice, 1900);
        assert!(!cores.is_over(alice));
        cores.pass(2000);
    }
    goes_on(&mut cores, alice, 2020);
    assert!(!cores.is_over(alice));
    cores.say(alice, PING);
    assert!(cores.is_over(alice));
}

#[test]
fn who_waits_now_and_then_as_busy_machines_do_is_sent_away_later() {
    let (mut cores, alice) = of_little_patience();
    let mut ms = 0;
    while !cores.is_over(alice) {
        goes_on(&mut cores, alice, 500);
        cores.pass(100);
        ms += 600;
    }
    assert!((2400..=3600).contains(&ms), "it was sent away after {ms} ms");
}

#[test]
fn who_has_been_refused_too_often_is_not_read_for_a_while() {
    let mut cores = Cores::new(|config| (config.rate.commands_per_second, config.rate.burst) = (1, 1));
    let alice = cores.enter(0, "alice", &[]);
    let refused = |cores: &mut Cores, times: usize| {
        for _ in 0..times {
            cores.say(alice, PING);
        }
        cores.events(alice).len()
    };
    assert_eq!(refused(&mut cores, 63), 63);
    cores.pass(100);
    assert_eq!(refused(&mut cores, 64), 64, "a new window");
    assert_eq!(cores.total(|counters| &counters.rate_limit_pauses), 1);
    assert_eq!(refused(&mut cores, 3), 0);
    assert_eq!(cores.unread(alice), 3 * (PING.len() + 1));
    cores.pass(99);
    assert_eq!(cores.events(alice).len(), 0);
    cores.pass(1);
    assert_eq!(cores.events(alice).len(), 3);
    assert_eq!(cores.total(|counters| &counters.rate_limit_pauses), 1);
}

#[test]
fn whoever_waits_for_the_last_that_it_was_told_begins_anew_however_long_another_wait_was() {
    let mut cores = Cores::new(|config| {
        (config.rate.commands_per_second, config.rate.burst) = (10, 2);
        (config.rate.joins_per_second, config.rate.joins_burst) = (1, 1);
        config.limits.rate_ignored_ms = 1_050;
    });
    let alice = cores.enter(0, "alice", &["one"]);
    cores.pass(200);
    assert_eq!(wait_ms(&mut cores, alice, r#"{"type":"join","room":"two"}"#), Some(800));
    cores.pass(790);
    assert_eq!(wait_ms(&mut cores, alice, r#"{"type":"join","room":"two"}"#), Some(10));
    // It comes when that is over, and then with more than it may say.
    cores.pass(10);
    assert_eq!([0; 3].map(|_| wait_ms(&mut cores, alice, PING)), [None, None, Some(100)]);
    // Having waited, it does so again, long after the first refusal.
    for _ in 0..5 {
        cores.pass(100);
        assert_eq!([0; 2].map(|_| wait_ms(&mut cores, alice, PING)), [None, Some(100)]);
    }
    assert!(!cores.is_over(alice));
    assert_eq!(cores.total(|counters| &counters.rate_limits_ignored), 0);
}
