//! Registered users: whose nicknames are theirs, and whose private messages wait in the store.

use serde_json::{Value, json};
use starling::config::{Config, ListenKind};
use starling::record::AccountState;
use starling::shard::reading::StoreNews;

use crate::cores::{Client, Cores, token};

/// Cores with a store, that take tokens. Bob is registered, alice is a guest.
fn cores_of(cores: u16, set: impl FnOnce(&mut Config)) -> (Cores, Client) {
    let mut cores = Cores::made(cores, set, |flock| {
        flock.has_store = true;
    });
    cores.register("Bob");
    let alice = cores.enter(0, "alice", &[]);
    (cores, alice)
}

/// A session of a registered user, and its welcome.
fn log_in(cores: &mut Cores, core: usize, nickname: &str) -> (Client, Value) {
    let (client, welcome) = cores.greet(core, &json!({ "token": token(nickname, |_| {}) }));
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    (client, welcome)
}

/// The private messages that somebody has heard: what they say, and the places of those that had been kept.
fn private(cores: &mut Cores, client: Client) -> Vec<(String, u64)> {
    let events = cores.events(client).into_iter().filter(|event| event["type"] == "private");
    let place = |event: &Value| event["offset"].as_u64().unwrap_or_default();
    events.map(|event| (event["content"].as_str().unwrap_or_default().to_owned(), place(&event))).collect()
}

fn heard(messages: &[(&str, u64)]) -> Vec<(String, u64)> {
    messages.iter().map(|(content, place)| ((*content).to_owned(), *place)).collect()
}

fn receive(cores: &mut Cores, client: Client, offset: u64) {
    let answer = cores.call(client, &json!({ "type": "received", "offset": offset, "id": "r" }).to_string());
    assert_eq!(answer, json!({ "type": "ack", "id": "r" }));
}

/// A private message, the answer to which may have to wait.
fn send(cores: &mut Cores, from: Client, target: &str, content: &str) {
    let line = json!({ "type": "private", "target": target, "content": content, "id": "" });
    cores.say(from, &line.to_string());
}

/// How many sessions have been told, and whether it has been stored.
fn told(cores: &mut Cores, from: Client, target: &str, content: &str) -> (u64, bool) {
    let answer = cores.whisper(from, target, content);
    match (answer["delivered"].as_u64(), answer["stored"].as_bool()) {
        (Some(delivered), Some(is_stored)) => (delivered, is_stored),
        _ => panic!("{answer}"),
    }
}

#[test]
fn what_nobody_of_a_user_hears_waits_until_one_session_has_received_it() {
    let (mut cores, alice) = cores_of(2, |_| {});
    assert_eq!(cores.whisper(alice, "nobody", "psst")["reason"], "no_such_user");
    let answer = cores.whisper(alice, "bob", "one");
    let at = 1_700_000_001_000_u64;
    let expected =
        json!({ "type": "ack", "id": "", "target": "Bob", "delivered": 0, "stored": true, "timestamp": at });
    assert_eq!(answer, expected);
    assert_eq!(told(&mut cores, alice, "bob", "two"), (0, true));
    assert_eq!(cores.total(|counters| &counters.private_kept), 2);
    for core in [0, 1] {
        let (bob, _) = log_in(&mut cores, core, "bob");
        assert_eq!(private(&mut cores, bob), heard(&[("one", 1), ("two", 2)]));
        cores.say(bob, r#"{"type":"quit"}"#);
    }
    let mut cores = cores.restarted(2, |_| {}, |_| {});
    let (bob, _) = log_in(&mut cores, 1, "bob");
    assert_eq!(private(&mut cores, bob), heard(&[("one", 1), ("two", 2)]));
    receive(&mut cores, bob, 1);
    let (other, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, other), heard(&[("two", 2)]));
    // What has no place yet is not received before it comes.
    receive(&mut cores, other, 99);
    let (third, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, third), []);
    for client in [bob, other, third] {
        cores.say(client, r#"{"type":"quit"}"#);
    }
    let dora = cores.enter(0, "dora", &[]);
    assert_eq!(told(&mut cores, dora, "bob", "three"), (0, true));
    let mut cores = cores.restarted(1, |_| {}, |_| {});
    let (bob, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, bob), heard(&[("three", 3)]));
}

#[test]
fn the_sender_hears_of_it_when_it_is_stored_and_the_user_may_come_before_that() {
    let (mut cores, alice) = cores_of(1, |_| {});
    cores.register("carol");
    let [dora, emil] = ["dora", "emil"].map(|nickname| cores.enter(0, nickname, &[]));
    cores.slow_store(true);
    send(&mut cores, alice, "bob", "one");
    send(&mut cores, dora, "carol", "not for bob");
    send(&mut cores, emil, "bob", "two");
    assert_eq!(cores.heard(alice), "");
    // What is not in the store yet comes along.
    let (bob, _) = log_in(&mut cores, 0, "bob");
    assert!(cores.read());
    cores.settle();
    assert_eq!(private(&mut cores, bob), heard(&[("one", 1), ("two", 2)]));
    // It is stored while it is read for another session.
    let (second, _) = log_in(&mut cores, 0, "bob");
    assert!(cores.write());
    cores.settle();
    for sender in [alice, dora, emil] {
        assert_eq!(cores.told(sender, "ack", "stored"), [true]);
    }
    // The second hears it when its inbox has been read.
    send(&mut cores, alice, "bob", "three");
    assert_eq!(cores.told(alice, "ack", "delivered"), [1]);
    assert!(cores.read());
    cores.settle();
    assert_eq!(private(&mut cores, bob), heard(&[("three", 0)]));
    assert_eq!(private(&mut cores, second), heard(&[("one", 1), ("two", 2), ("three", 3)]));
    let (carol, _) = log_in(&mut cores, 0, "carol");
    assert!(cores.read());
    cores.settle();
    assert_eq!(private(&mut cores, carol), heard(&[("not for bob", 1)]));
}

/// The records of what has been received that have been written down since somebody looked.
fn received(cores: &mut Cores) -> Vec<String> {
    let written = std::mem::take(&mut cores.written);
    written.into_iter().filter(|record| record.starts_with("Received ")).collect()
}

/// The number of a session.
fn number(welcome: &Value) -> u64 {
    u64::from_str_radix(welcome["session"].as_str().unwrap_or_default(), 16).unwrap_or_default()
}

#[test]
fn what_has_been_received_before_it_was_stored_does_not_come_again() {
    let (mut cores, alice) = cores_of(1, |_| {});
    cores.register("carol");
    let senders = ["dora", "emil", "fritz"].map(|nickname| cores.enter(0, nickname, &[]));
    cores.slow_store(true);
    for (sender, content) in senders.into_iter().zip(["one", "two", "three"]) {
        send(&mut cores, sender, "bob", content);
    }
    send(&mut cores, alice, "carol", "hers");
    let (bob, welcome) = log_in(&mut cores, 0, "bob");
    assert!(cores.read());
    cores.settle();
    assert_eq!(private(&mut cores, bob).len(), 3);
    // It is written down once, however often it is said.
    for offset in [2, 1, 2] {
        receive(&mut cores, bob, offset);
    }
    let record = format!(
        "Received {{ owner: SessionOf {{ user: \"bob\", session: {} }}, through: 2 }}",
        number(&welcome)
    );
    assert_eq!(received(&mut cores), [record]);
    for (nickname, message) in [("bob", ("three", 3)), ("carol", ("hers", 1))] {
        let (client, _) = log_in(&mut cores, 0, nickname);
        assert!(cores.read());
        cores.settle();
        assert_eq!(private(&mut cores, client), heard(&[message]));
    }
}

#[test]
fn the_inbox_of_a_user_has_bounds() {
    let (mut cores, alice) = cores_of(1, |config| {
        config.limits.private_kept = 3;
        config.limits.private_kept_bytes = 10;
    });
    assert_eq!(told(&mut cores, alice, "bob", "12345"), (0, true));
    let refused = cores.whisper(alice, "bob", "123456");
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(503), &json!("unavailable")), "{refused}");
    assert_eq!(told(&mut cores, alice, "bob", "123"), (0, true));
    assert_eq!(told(&mut cores, alice, "bob", "12"), (0, true), "ten bytes");
    assert_eq!(cores.whisper(alice, "bob", "1")["reason"], "unavailable");
    assert_eq!(cores.total(|counters| &counters.private_kept), 3);
    assert_eq!(cores.total(|counters| &counters.private_not_kept), 2);
    let (bob, _) = log_in(&mut cores, 0, "bob");
    receive(&mut cores, bob, 2);
    cores.say(bob, r#"{"type":"quit"}"#);
    assert_eq!(told(&mut cores, alice, "bob", "1"), (0, true));
    assert_eq!(told(&mut cores, alice, "bob", "1"), (0, true));
    assert_eq!(cores.whisper(alice, "bob", "1")["reason"], "unavailable", "three messages");
}

#[test]
fn what_one_session_misses_waits_for_that_one_alone() {
    let (mut cores, alice) = cores_of(2, |config| config.limits.private_kept = 2);
    let (here, _) = log_in(&mut cores, 0, "bob");
    let (away, welcome) = log_in(&mut cores, 1, "bob");
    cores.broken(away);
    assert_eq!(told(&mut cores, alice, "bob", "one"), (1, true));
    assert_eq!(told(&mut cores, alice, "bob", "two"), (1, true));
    // There is no more place for it, which is no reason not to tell the other one.
    cores.say(here, r#"{"type":"pong"}"#);
    cores.say(here, r#"{"type":"pong"}"#);
    assert_eq!(told(&mut cores, alice, "bob", "three"), (1, false));
    assert_eq!(cores.total(|counters| &counters.private_not_kept), 1);
    assert_eq!(private(&mut cores, here), heard(&[("one", 0), ("two", 0), ("three", 0)]));
    let (new, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, new), []);
    let back = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, back), heard(&[("one", 1), ("two", 2)]));
    // It is as it was after a restart, and other sessions cannot receive it.
    let mut cores = cores.restarted(2, |config| config.limits.private_kept = 2, |_| {});
    let (new, _) = log_in(&mut cores, 1, "bob");
    assert_eq!(private(&mut cores, new), []);
    receive(&mut cores, new, 2);
    let back = cores.come_back(1, &welcome);
    assert_eq!(private(&mut cores, back), heard(&[("one", 1), ("two", 2)]));
    receive(&mut cores, back, 1);
    cores.broken(back);
    let back = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, back), heard(&[("two", 2)]));
}

#[test]
fn copies_for_one_session_go_with_it_and_leave_the_user_s_place_alone() {
    let (mut cores, alice) = cores_of(1, |config| config.limits.private_kept = 2);
    cores.register("carol");
    let (here, _) = log_in(&mut cores, 0, "bob");
    let (away, welcome) = log_in(&mut cores, 0, "bob");
    cores.broken(away);
    assert_eq!(told(&mut cores, alice, "bob", "one"), (1, true));
    cores.say(here, r#"{"type":"quit"}"#);
    // Nobody is there any more: it waits for any of them, and there is place for two.
    assert_eq!(told(&mut cores, alice, "bob", "two"), (0, true));
    assert_eq!(told(&mut cores, alice, "bob", "three"), (0, true));
    assert_eq!(cores.whisper(alice, "bob", "four")["reason"], "unavailable");
    let back = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, back), heard(&[("one", 1), ("two", 2), ("three", 3)]));
    cores.slow_store(true);
    let (other, _) = log_in(&mut cores, 0, "bob");
    assert!(cores.read());
    cores.settle();
    assert_eq!(private(&mut cores, other), heard(&[("two", 2), ("three", 3)]));
    receive(&mut cores, other, 3);
    cores.broken(back);
    let dora = cores.enter(0, "dora", &[]);
    send(&mut cores, dora, "carol", "hers");
    send(&mut cores, alice, "bob", "four");
    assert_eq!(private(&mut cores, other), heard(&[("four", 0)]));
    let inventory = cores.shards[0].inventory();
    let back = cores.come_back(0, &welcome);
    cores.say(back, r#"{"type":"quit"}"#);
    assert_eq!(cores.shards[0].inventory().unstored, inventory.unstored - 1, "the copy for it is forgotten");
    let (carol, _) = log_in(&mut cores, 0, "carol");
    while cores.read() {}
    cores.settle();
    assert_eq!(private(&mut cores, carol), heard(&[("hers", 1)]));
}

#[test]
fn a_registered_nickname_is_for_its_user() {
    let (mut cores, _) = cores_of(2, |_| {});
    for core in [0, 1] {
        let (guest, refused) = cores.greet(core, &json!({ "nickname": "BOB" }));
        assert_eq!((&refused["code"], &refused["reason"]), (&json!(409), &json!("nickname_in_use")));
        let welcome = cores.say_hello(guest, &json!({ "nickname": "bobby" }));
        assert_eq!(welcome["type"], "welcome");
        cores.say(guest, r#"{"type":"quit"}"#);
        let (bob, _) = log_in(&mut cores, core, "bob");
        cores.say(bob, r#"{"type":"quit"}"#);
    }
    cores.note_account("bob", Some(AccountState { is_disabled: true, since_ms: 0 }));
    let (_, refused) = cores.greet(0, &json!({ "token": token("bob", |_| {}) }));
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(401), &json!("bad_credentials")));
    let (_, refused) = cores.greet(0, &json!({ "nickname": "bob" }));
    assert_eq!(refused["reason"], "nickname_in_use");
    cores.note_account("bob", None);
    let (_, welcome) = cores.greet(0, &json!({ "nickname": "bob" }));
    assert_eq!(welcome["type"], "welcome");
}

#[test]
fn what_waits_for_a_user_outlives_another_password_but_not_the_account() {
    let (mut cores, alice) = cores_of(2, |_| {});
    assert_eq!(told(&mut cores, alice, "bob", "one"), (0, true));
    cores.note_account("bob", Some(AccountState { is_disabled: false, since_ms: 5 }));
    let (bob, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, bob), heard(&[("one", 1)]));
    cores.say(bob, r#"{"type":"quit"}"#);
    cores.note_account("bob", None);
    assert_eq!(cores.whisper(alice, "bob", "two")["reason"], "no_such_user");
    cores.note_account("bob", Some(AccountState { is_disabled: false, since_ms: 9 }));
    let (bob, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, bob), []);
}

#[test]
fn what_was_kept_before_somebody_registered_comes_to_the_user_s_inbox() {
    let (mut cores, alice) = cores_of(2, |_| {});
    let (carol, welcome) = log_in(&mut cores, 1, "carol");
    cores.broken(carol);
    assert_eq!(told(&mut cores, alice, "carol", "one"), (0, true));
    cores.register("carol");
    assert_eq!(told(&mut cores, alice, "carol", "two"), (0, true));
    let (new, _) = log_in(&mut cores, 0, "carol");
    assert_eq!(private(&mut cores, new), heard(&[("one", 1), ("two", 2)]));
    let back = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, back), heard(&[("one", 1), ("two", 2)]));
}

#[test]
fn what_a_user_may_not_have_heard_waits_before_what_comes_later() {
    let (mut cores, alice) = cores_of(2, |_| {});
    let (bob, welcome) = log_in(&mut cores, 1, "bob");
    cores.stall(bob, true);
    assert_eq!(told(&mut cores, alice, "bob", "one"), (1, false));
    cores.ends(bob);
    assert_eq!(told(&mut cores, alice, "bob", "two"), (0, true));
    assert_eq!(cores.total(|counters| &counters.retold), 1);
    let back = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, back), heard(&[("one", 1), ("two", 2)]));
    let (new, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, new), heard(&[("one", 1), ("two", 2)]));
}

#[test]
fn what_comes_while_somebody_still_hears_what_was_kept_comes_behind_it() {
    let (mut cores, alice) = cores_of(1, |config| config.limits.send_queue_bytes = 4096);
    let long = "x".repeat(900);
    for _ in 0..5 {
        assert_eq!(told(&mut cores, alice, "bob", &long), (0, true));
    }
    let bob = cores.connect(0, ListenKind::Line);
    cores.stall(bob, true);
    cores.say(bob, &json!({ "type": "hello", "token": token("bob", |_| {}) }).to_string());
    assert_eq!(told(&mut cores, alice, "bob", "last"), (0, true));
    cores.stall(bob, false);
    let places: Vec<u64> = private(&mut cores, bob).into_iter().map(|(_, place)| place).collect();
    assert_eq!(places, [1, 2, 3, 4, 5, 6]);
    assert_eq!(told(&mut cores, alice, "bob", "live"), (1, false));
}

#[test]
fn an_inbox_that_cannot_be_read_in_time_is_not_waited_for() {
    let (mut cores, alice) = cores_of(1, |_| {});
    assert_eq!(told(&mut cores, alice, "bob", "one"), (0, true));
    cores.slow_store(true);
    let (bob, welcome) = log_in(&mut cores, 0, "bob");
    send(&mut cores, alice, "bob", "two");
    cores.pass(4_999);
    assert_eq!(private(&mut cores, bob), []);
    cores.pass(1);
    assert_eq!(private(&mut cores, bob), heard(&[("two", 2)]));
    assert!(cores.read());
    cores.settle();
    assert_eq!(private(&mut cores, bob), [], "the answer comes too late");
    cores.broken(bob);
    cores.slow_store(false);
    let bob = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, bob), heard(&[("one", 1), ("two", 2)]));
}

#[test]
fn who_has_gone_when_the_inbox_has_been_read_is_told_it_the_next_time() {
    let (mut cores, alice) = cores_of(1, |_| {});
    assert_eq!(told(&mut cores, alice, "bob", "one"), (0, true));
    cores.slow_store(true);
    let (bob, welcome) = log_in(&mut cores, 0, "bob");
    cores.broken(bob);
    assert!(cores.read());
    cores.slow_store(false);
    let bob = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, bob), heard(&[("one", 1)]));
    assert_eq!(told(&mut cores, alice, "bob", "live"), (1, false));
    cores.pass(5_000);
    assert_eq!(cores.total(|counters| &counters.store_overdue), 0, "it was read in time");
}

#[test]
fn what_is_received_while_the_inbox_is_read_does_not_come() {
    let (mut cores, alice) = cores_of(1, |_| {});
    assert_eq!(told(&mut cores, alice, "bob", "one"), (0, true));
    assert_eq!(told(&mut cores, alice, "bob", "two"), (0, true));
    let (bob, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, bob).len(), 2);
    cores.slow_store(true);
    let (second, _) = log_in(&mut cores, 0, "bob");
    cores.written.clear();
    receive(&mut cores, second, 1);
    receive(&mut cores, second, 1);
    assert_eq!(received(&mut cores).len(), 1, "it is written down once");
    assert!(cores.read());
    cores.slow_store(false);
    cores.events(second);
    let (third, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, third), heard(&[("two", 2)]));
}

#[test]
fn people_on_text_lines_have_received_what_they_are_told() {
    let (mut cores, alice) = cores_of(1, |_| {});
    assert_eq!(told(&mut cores, alice, "bob", "psst"), (0, true));
    let bob = cores.connect(0, ListenKind::Line);
    cores.say(bob, &format!("/token {}", token("bob", |_| {})));
    assert!(cores.heard(bob).contains("[private] alice: psst\n"));
    let (other, _) = log_in(&mut cores, 0, "bob");
    assert_eq!(private(&mut cores, other), []);
    // As many as one likes may be told to somebody who cannot say what has come.
    cores.say(other, r#"{"type":"quit"}"#);
    for n in 0..1001 {
        assert_eq!(told(&mut cores, alice, "bob", "hey"), (1, false), "{n}");
    }
}

#[test]
fn a_guest_s_session_writes_down_once_what_it_has_received() {
    let (mut cores, alice) = cores_of(1, |_| {});
    let (carol, welcome) = cores.greet(0, &json!({ "nickname": "carol" }));
    cores.broken(carol);
    assert_eq!(told(&mut cores, alice, "carol", "one"), (0, true));
    let carol = cores.come_back(0, &welcome);
    cores.slow_store(true);
    for offset in [9, 9, 1] {
        receive(&mut cores, carol, offset);
    }
    let record = format!("Received {{ owner: Session({}), through: 1 }}", number(&welcome));
    assert_eq!(received(&mut cores), [record]);
}

#[test]
fn what_the_store_has_trimmed_is_not_promised_to_who_comes_back() {
    let (mut cores, alice) = cores_of(1, |_| {});
    cores.say(alice, r#"{"type":"join","room":"den"}"#);
    cores.written.clear();
    cores.say(alice, r#"{"type":"join","room":"attic"}"#);
    let written = cores.written.iter().find_map(|record| record.strip_prefix("Room { room: "));
    let room = written.and_then(|rest| rest.split(',').next()).and_then(|number| number.parse().ok());
    let room = room.expect("the room has been written down");
    for content in ["one", "two", "three"] {
        cores.speak(alice, "attic", content);
    }
    cores.tell(0, StoreNews::Trimmed { room, first_kept: 3 });
    let mut is_recovered = |name: &str, offset: u64| {
        let visitor = cores.enter(0, name, &[]);
        let epoch = cores.call(visitor, r#"{"type":"join","room":"attic"}"#)["epoch"].clone();
        cores.say(visitor, r#"{"type":"leave","room":"attic"}"#);
        let since = json!({ "epoch": epoch, "offset": offset });
        cores.events(visitor);
        cores.say(visitor, &json!({ "type": "join", "room": "attic", "since": since }).to_string());
        cores.told(visitor, "joined", "recovered")
    };
    assert_eq!(is_recovered("carol", 2), [true]);
    assert_eq!(is_recovered("dave", 1), [false]);
}
