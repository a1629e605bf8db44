//! Who says hello, and sessions that go on in another connection.

use serde_json::{Value, json};
use starling::auth::Claims;
use starling::config::{Config, ListenKind};

use crate::cores::{Client, Cores, token};
use crate::sockets;

/// When tests begin, in milliseconds since the Unix epoch.
const BEGIN_UNIX_MS: u64 = 1_700_000_001_000;

/// Cores that take tokens.
fn cores_of(cores: u16, set: impl FnOnce(&mut Config)) -> Cores {
    Cores::made(cores, set, |_| {})
}

/// The same, with a store.
fn stored(cores: u16, set: impl FnOnce(&mut Config)) -> Cores {
    Cores::made(cores, set, |flock| {
        flock.has_store = true;
    })
}

/// What a hello is answered: its type, and the reason if it is refused.
fn hello(cores: &mut Cores, hello: &Value) -> (String, String) {
    let (client, answer) = cores.greet(0, hello);
    cores.broken(client);
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
    (text("type"), text("reason"))
}

fn refused(reason: &str) -> (String, String) {
    ("error".to_owned(), reason.to_owned())
}

fn welcome() -> (String, String) {
    ("welcome".to_owned(), String::new())
}

fn plain(_: &mut Claims) {}

#[test]
fn a_hello_says_who_it_is_in_one_way_only() {
    let mut cores = cores_of(1, |_| {});
    let (bob, carol) = (token("bob", plain), token("carol", plain));
    assert_eq!(hello(&mut cores, &json!({ "nickname": "carol", "token": bob })), refused("bad_token"));
    assert_eq!(hello(&mut cores, &json!({})), refused("bad_request"));
    let (_, bobs) = cores.greet(0, &json!({ "nickname": "bob", "token": bob }));
    assert_eq!(bobs["type"], "welcome");
    let (guest, guests) = cores.greet(0, &json!({ "nickname": "dora" }));
    // A session goes on by its own user's token, if by any.
    assert_eq!(hello(&mut cores, &json!({ "resume": bobs["resume"], "token": carol })), refused("bad_token"));
    let doras = token("dora", plain);
    assert_eq!(
        hello(&mut cores, &json!({ "resume": guests["resume"], "token": doras })),
        refused("bad_token")
    );
    assert_eq!(hello(&mut cores, &json!({ "resume": bobs["resume"], "token": bob })), welcome());
    assert_eq!(hello(&mut cores, &json!({ "resume": guests["resume"] })), welcome());
    assert_eq!(cores.told(guest, "bye", "code"), [4103]);
    assert_eq!(hello(&mut cores, &json!({ "resume": "made up" })), refused("bad_token"));
}

#[test]
fn a_token_has_as_many_bytes_as_one_may_have() {
    let token = token("bob", plain);
    let mut cores = cores_of(1, |config| config.limits.token_bytes = token.len());
    assert_eq!(hello(&mut cores, &json!({ "token": token })), welcome());
    let mut cores = cores_of(1, |config| config.limits.token_bytes = token.len() - 1);
    assert_eq!(hello(&mut cores, &json!({ "token": token })), refused("bad_token"));
    assert_eq!(cores.total(|counters| &counters.too_large), 1);
}

#[test]
fn a_session_goes_on_without_a_token_while_the_one_it_began_with_is_valid() {
    let mut cores = cores_of(1, |_| {});
    let expiring = |at_ms: u64| token("bob", |claims| claims.expires_at_ms = Some(BEGIN_UNIX_MS + at_ms));
    let (bob, welcomed) = cores.greet(0, &json!({ "token": expiring(10_000) }));
    cores.broken(bob);
    cores.pass(9_999);
    let again = json!({ "resume": welcomed["resume"] });
    assert_eq!(hello(&mut cores, &again), welcome());
    cores.pass(1);
    assert_eq!(hello(&mut cores, &again), refused("expired_token"));
    // What the new one says is what counts from then on.
    let fresh = json!({ "resume": welcomed["resume"], "token": expiring(30_000) });
    let (bob, answer) = cores.greet(0, &fresh);
    assert_eq!(answer["resumed"], true);
    cores.pass(19_999);
    assert_eq!(cores.told(bob, "bye", "code"), [0; 0]);
    cores.pass(1);
    assert_eq!(cores.told(bob, "bye", "code"), [4205]);
    assert_eq!(cores.total(|counters| &counters.expired_tokens), 1);
}

#[test]
fn the_number_of_a_session_names_the_core_that_it_began_on() {
    let mut cores = Cores::of(3, |_| {});
    for n in 0..60 {
        let (_, welcome) = cores.greet(n % 3, &json!({ "nickname": format!("guest-{n}") }));
        let number =
            u64::from_str_radix(welcome["session"].as_str().unwrap_or_default(), 16).unwrap_or_default();
        assert_eq!(number % 3, n as u64 % 3);
        assert!((1..1 << 63).contains(&number), "{number:x}: a store has whole numbers with a sign");
    }
}

#[test]
fn what_a_new_token_says_is_written_down_at_once_and_nothing_otherwise() {
    let mut cores = stored(1, |_| {});
    let (_, welcomed) = cores.greet(0, &json!({ "token": token("bob", plain) }));
    let sessions = |cores: &mut Cores| {
        let written = std::mem::take(&mut cores.written);
        written.into_iter().filter(|record| record.starts_with("Session {")).collect::<Vec<String>>()
    };
    assert_eq!(sessions(&mut cores).len(), 1);
    let again = cores.come_back(0, &welcomed);
    assert_eq!(sessions(&mut cores), [""; 0]);
    cores.broken(again);
    let tagged = token("bob", |claims| claims.tags = vec!["on-call".to_owned()]);
    let (_, answer) = cores.greet(0, &json!({ "resume": welcomed["resume"], "token": tagged }));
    assert_eq!(answer["resumed"], true);
    let written = sessions(&mut cores);
    assert!(
        matches!(&written[..], [one] if one.contains("on-call") && one.contains("revision: 2")),
        "{written:?}"
    );
}

#[test]
fn only_sessions_that_can_go_on_are_written_down() {
    for (grace_ms, is_text, is_written) in [(0, false, false), (1, true, false), (1, false, true)] {
        let mut cores = Cores::stored(1, |config| config.session.grace_ms = grace_ms);
        let bob = cores.connect(0, ListenKind::Line);
        match is_text {
            true => cores.say(bob, "bob"),
            false => cores.say(bob, r#"{"type":"hello","nickname":"bob"}"#),
        }
        cores.say(bob, if is_text { "/quit" } else { r#"{"type":"quit"}"# });
        assert!(cores.is_over(bob));
        let of_sessions = cores.written.iter().filter(|record| record.starts_with("Session"));
        let kinds: Vec<&str> = of_sessions.filter_map(|record| record.split(' ').next()).collect();
        let expected: &[&str] = if is_written { &["Session", "SessionEnded"] } else { &[] };
        assert_eq!(kinds, expected);
    }
}

/// What the others in the room hear of bob from now on: what happens, and why.
fn heard_of_bob(cores: &mut Cores, alice: Client) -> Vec<(String, String)> {
    let events = cores.events(alice).into_iter().filter(|event| event["type"] == "presence");
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    events.map(|event| (text(&event, "event"), text(&event, "reason"))).collect()
}

fn heard(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(event, reason)| ((*event).to_owned(), (*reason).to_owned())).collect()
}

#[test]
fn without_a_time_of_grace_sessions_end_with_their_connections() {
    for (grace_ms, is_text) in [(0, false), (1000, true)] {
        let mut cores = Cores::new(|config| (config.session.grace_ms, config.session.away) = (grace_ms, 0));
        let alice = cores.enter(0, "alice", &["lobby"]);
        let bob = cores.connect(0, ListenKind::Line);
        match is_text {
            true => cores.say(bob, "bob"),
            false => {
                cores.say(bob, r#"{"type":"hello","nickname":"bob"}"#);
                cores.say(bob, r#"{"type":"join","room":"lobby"}"#);
            }
        }
        cores.broken(bob);
        assert_eq!(heard_of_bob(&mut cores, alice), heard(&[("join", ""), ("leave", "lost")]));
        // There was nobody whom that was refused.
        assert_eq!(cores.total(|counters| &counters.grace_refused), u64::from(is_text));
        assert_eq!(cores.greet(0, &json!({ "nickname": "bob" })).1["type"], "welcome");
    }
}

#[test]
fn so_many_are_away_at_once_and_no_more() {
    let mut cores = Cores::new(|config| config.session.away = 2);
    let alice = cores.enter(0, "alice", &["den"]);
    let welcomes = ["bob", "carol", "dave"].map(|nickname| {
        let (client, welcome) = cores.greet(0, &json!({ "nickname": nickname }));
        cores.say(client, r#"{"type":"join","room":"den"}"#);
        cores.events(alice);
        cores.broken(client);
        (heard_of_bob(&mut cores, alice), welcome)
    });
    assert_eq!(welcomes[0].0, heard(&[("away", "")]));
    assert_eq!(welcomes[1].0, heard(&[("away", "")]));
    assert_eq!(welcomes[2].0, heard(&[("leave", "lost")]));
    assert_eq!(cores.total(|counters| &counters.grace_refused), 1);
    assert_eq!(cores.total(|counters| &counters.away), 2);
    assert_eq!(cores.greet(0, &json!({ "resume": welcomes[2].1["resume"] })).1["resumed"], false);
    cores.come_back(0, &welcomes[0].1);
    assert_eq!(cores.total(|counters| &counters.away), 1);
    cores.pass(120_000);
    assert_eq!(cores.total(|counters| &counters.grace_expired), 1);
}

#[test]
fn who_goes_before_a_websocket_is_one_leaves_nothing() {
    let mut homes = None;
    let mut cores = Cores::made(2, |_| {}, |flock| homes = Some(flock.clone()));
    let homes = homes.expect("the cores have been made");
    let named = |home: u16| ["a", "b", "c", "d", "e"].into_iter().find(|name| homes.home_of(name) == home);
    let (nickname, room) = (named(0).expect("one of five"), named(1).expect("one of five"));
    let alice = cores.enter(1, "alice", &[room]);
    let bob = cores.connect(0, ListenKind::Web);
    let request = sockets::request(&format!("nickname={nickname}&room={room}"));
    cores.shards[0].receive(bob.id, &mut request.into_bytes());
    cores.broken(bob);
    assert_eq!(heard_of_bob(&mut cores, alice).last().map(|(event, _)| event.as_str()), Some("leave"));
    assert_eq!(cores.total(|counters| &counters.away), 0);
    assert_eq!(cores.greet(0, &json!({ "nickname": nickname })).1["type"], "welcome");
}

#[test]
fn a_user_is_limited_over_all_sessions_and_after_a_resume() {
    let mut cores = cores_of(1, |config| {
        (config.rate.user_commands_per_second, config.rate.user_burst) = (1, 3);
    });
    let token = json!({ "token": token("bob", plain) });
    let ((one, _), (_, welcomed)) = (cores.greet(0, &token), cores.greet(0, &token));
    let ping = r#"{"type":"ping","id":"p"}"#;
    let mut passed = 0;
    while cores.call(one, ping)["type"] == "pong" {
        passed += 1;
    }
    assert!((1..=3).contains(&passed), "{passed}");
    let two = cores.come_back(0, &welcomed);
    assert_eq!(cores.call(two, ping)["reason"], "rate_limited");
    let alice = cores.enter(0, "alice", &[]);
    assert_eq!(cores.call(alice, ping)["type"], "pong", "others are not concerned");
    cores.pass(1_000);
    assert_eq!(cores.call(two, ping)["type"], "pong");
    assert_eq!(cores.call(one, ping)["reason"], "rate_limited");
}

#[test]
fn a_session_that_is_waited_for_already_is_not_told_to_be_away() {
    let mut cores = Cores::stored(2, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let (bob, welcomed) = cores.greet(0, &json!({ "nickname": "bob" }));
    cores.say(bob, r#"{"type":"join","room":"den"}"#);
    cores.slow_store(true);
    cores.say(bob, r#"{"type":"message","room":"den","content":"hi","ack":"stored","id":"m"}"#);
    cores.events(alice);
    // Two come for it, one after the other, while its message waits; the first is gone when it could have it.
    let again = json!({ "type": "hello", "resume": welcomed["resume"] }).to_string();
    let second = cores.connect(1, ListenKind::Line);
    cores.say(second, &again);
    cores.broken(second);
    let third = cores.connect(0, ListenKind::Line);
    cores.say(third, &again);
    assert_eq!(cores.heard(third), "");
    cores.slow_store(false);
    assert_eq!(cores.told(third, "welcome", "resumed"), [true]);
    assert_eq!(heard_of_bob(&mut cores, alice), []);
    let ack = cores.call(third, r#"{"type":"message","room":"den","content":"hi","ack":"stored","id":"m"}"#);
    assert_eq!((&ack["type"], &ack["offset"]), (&json!("ack"), &json!(1)), "{ack}");
}

#[test]
fn of_two_who_come_back_to_a_session_that_has_ended_none_gets_that_of_the_other() {
    let mut homes = None;
    let mut cores = Cores::made(3, |_| {}, |flock| homes = Some(flock.clone()));
    let homes = homes.expect("the cores have been made");
    let named = ["a", "b", "c", "d", "e", "f"].into_iter().find(|name| homes.home_of(name) == 1);
    let (bob, welcomed) = cores.greet(0, &json!({ "nickname": named.expect("one of six") }));
    cores.broken(bob);
    let bob = cores.come_back(1, &welcomed);
    let (second, third) = (cores.connect(2, ListenKind::Line), cores.connect(0, ListenKind::Line));
    // He goes, of which the core where his session began has not heard when two come for it.
    cores.shards[1].receive(bob.id, &mut b"{\"type\":\"quit\"}\n".to_vec());
    let again = |nickname: &str| {
        let line = json!({ "type": "hello", "resume": welcomed["resume"], "nickname": nickname });
        format!("{line}\n").into_bytes()
    };
    cores.shards[2].receive(second.id, &mut again("carol"));
    cores.carry(2, 0);
    cores.carry(0, 1);
    cores.carry(1, 2);
    // The second has heard that the session is no more, and is about to get another one.
    cores.shards[0].receive(third.id, &mut again("dora"));
    cores.carry(0, 2);
    cores.settle();
    for (client, nickname) in [(second, "carol"), (third, "dora")] {
        let events = cores.events(client);
        let [welcome] = &events[..] else { panic!("{nickname}: {events:?}") };
        assert_eq!((&welcome["nickname"], &welcome["resumed"]), (&json!(nickname), &json!(false)));
    }
}
