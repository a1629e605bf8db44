//! Rooms at their home.

use std::collections::BTreeSet;

use serde_json::json;
use starling::config::{AckLevel, Config, HistoryRule, ListenKind};

use crate::cores::{Client, Cores, programs};

fn join(cores: &mut Cores, client: Client, room: &str) -> serde_json::Value {
    cores.call(client, &format!(r#"{{"type":"join","room":"{room}"}}"#))
}

fn leave(cores: &mut Cores, client: Client, room: &str) {
    assert_eq!(cores.call(client, &format!(r#"{{"type":"leave","room":"{room}"}}"#))["type"], "left");
}

/// What is in a room's history, newest last.
fn history(cores: &mut Cores, client: Client, room: &str) -> Vec<String> {
    let page = cores.call(client, &format!(r#"{{"type":"history","room":"{room}"}}"#));
    let messages = page["messages"].as_array().unwrap_or_else(|| panic!("{page}"));
    messages.iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

/// What has been written down of this kind.
fn written(cores: &Cores, kind: &str) -> Vec<String> {
    let begin = format!("{kind} {{");
    cores.written.iter().filter(|record| record.starts_with(&begin)).cloned().collect()
}

#[test]
fn rooms_that_nobody_is_in_make_place_for_others() {
    let mut cores = Cores::new(|config| config.limits.rooms = 2);
    let alice = cores.enter(0, "alice", &["lobby", "one", "two"]);
    assert_eq!(cores.total(|counters| &counters.rooms), 3, "the lobby is on top of the limit");
    assert_eq!(join(&mut cores, alice, "three")["reason"], "too_many_rooms");
    assert_eq!(cores.total(|counters| &counters.rooms_full), 1);
    for room in ["lobby", "one", "two"] {
        cores.speak(alice, room, "what is worth keeping");
    }
    leave(&mut cores, alice, "lobby");
    assert_eq!(join(&mut cores, alice, "three")["reason"], "too_many_rooms", "the lobby makes no place");
    leave(&mut cores, alice, "two");
    assert_eq!(cores.total(|counters| &counters.rooms_forgotten), 0);
    assert_eq!(join(&mut cores, alice, "three")["type"], "joined");
    assert_eq!(cores.total(|counters| &counters.rooms_forgotten), 1);
    assert_eq!(cores.total(|counters| &counters.rooms), 3);
    assert_eq!(join(&mut cores, alice, "lobby")["offset"], 1, "it has been kept");
    assert_eq!(join(&mut cores, alice, "four")["reason"], "too_many_rooms");
}

#[test]
fn what_all_histories_take_is_counted_and_bounded() {
    let bytes_of_one = {
        let mut cores = Cores::new(|_| {});
        let alice = cores.enter(0, "alice", &["den"]);
        cores.speak(alice, "den", "0");
        cores.total(|counters| &counters.history_bytes)
    };
    for spare in [0, 1] {
        let mut cores = Cores::new(|config| config.history.memory_bytes = 3 * bytes_of_one as usize - spare);
        let alice = cores.enter(0, "alice", &["den", "hall"]);
        cores.speak(alice, "hall", "a");
        cores.speak(alice, "den", "1");
        cores.speak(alice, "den", "2");
        let (mut in_den, mut forgotten) = (vec!["1", "2"], 0);
        if spare == 1 {
            (in_den, forgotten) = (vec!["2"], 1);
        }
        assert_eq!(history(&mut cores, alice, "den"), in_den);
        assert_eq!(cores.total(|counters| &counters.history_forgotten), forgotten);
        let in_all = (1 + in_den.len() as u64) * bytes_of_one;
        assert_eq!(cores.total(|counters| &counters.history_bytes), in_all);
        // What is in other rooms stays, as long as somebody is there; a room that nobody is in goes as a whole.
        cores.speak(alice, "den", "3");
        assert_eq!(history(&mut cores, alice, "hall"), ["a"]);
        leave(&mut cores, alice, "hall");
        assert_eq!(cores.total(|counters| &counters.rooms), 2);
        cores.speak(alice, "den", "4");
        assert_eq!(cores.total(|counters| &counters.rooms), 1);
        assert_eq!(cores.total(|counters| &counters.rooms_forgotten), 1);
        assert_eq!(history(&mut cores, alice, "den").last().unwrap(), "4");
        leave(&mut cores, alice, "den");
        assert_eq!(join(&mut cores, alice, "hall")["offset"], 0, "begun anew");
    }
}

#[test]
fn with_a_store_messages_leave_the_memory_and_rooms_stay() {
    let mut cores = Cores::stored(1, |config| config.history.memory_bytes = 1000);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    cores.speak(alice, "hall", "a");
    leave(&mut cores, alice, "hall");
    for number in 0..20 {
        cores.speak(alice, "den", &number.to_string());
    }
    assert!(cores.total(|counters| &counters.history_bytes) <= 1000);
    assert!(cores.total(|counters| &counters.history_forgotten) > 5);
    assert_eq!(cores.total(|counters| &counters.rooms_forgotten), 0);
    assert_eq!(history(&mut cores, alice, "den").len(), 20, "the store has what is not in memory");
    assert_eq!(join(&mut cores, alice, "hall")["offset"], 1);
}

#[test]
fn a_room_is_kept_for_its_messages_until_they_are_too_old() {
    let mut cores = Cores::new(|config| config.history.age_s = 10);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    cores.speak(alice, "den", "old");
    cores.pass(4_000);
    cores.speak(alice, "den", "young");
    cores.pass(7_000);
    assert_eq!(history(&mut cores, alice, "den"), ["young"]);
    let one = cores.total(|counters| &counters.history_bytes);
    leave(&mut cores, alice, "den");
    cores.pass(2_900);
    assert_eq!(cores.total(|counters| &counters.rooms), 2);
    cores.pass(200);
    assert_eq!(cores.total(|counters| &counters.rooms), 1, "gone by itself");
    assert_eq!(cores.total(|counters| &counters.history_bytes), 0);
    cores.speak(alice, "hall", "young");
    assert_eq!(cores.total(|counters| &counters.history_bytes), one);
    // Somebody who looks at a room's history, or is in it when it is deserted by the last other, finds it without what is too old.
    cores.pass(11_000);
    assert_eq!(history(&mut cores, alice, "hall"), [""; 0]);
    leave(&mut cores, alice, "hall");
    assert_eq!(cores.total(|counters| &counters.rooms), 0);
    join(&mut cores, alice, "hall");
    cores.speak(alice, "hall", "young");
    assert_eq!(cores.total(|counters| &counters.history_bytes), one);
}

#[test]
fn a_room_that_is_deserted_is_counted_without_what_is_too_old() {
    let mut cores = Cores::new(|config| config.history.age_s = 10);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    cores.speak(alice, "den", "1");
    let one = cores.total(|counters| &counters.history_bytes);
    cores.pass(9_000);
    cores.speak(alice, "den", "2");
    assert_eq!(cores.total(|counters| &counters.history_bytes), 2 * one);
    cores.pass(2_000);
    leave(&mut cores, alice, "den");
    assert_eq!(cores.total(|counters| &counters.history_bytes), one);
}

#[test]
fn what_is_stored_may_leave_the_memory_at_once() {
    let mut cores = Cores::stored(1, |config| config.history.memory_bytes = 1);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    cores.speak(alice, "hall", "0");
    assert_eq!(cores.total(|counters| &counters.history_bytes), 0);
    cores.slow_store(true);
    cores.speak(alice, "den", "1");
    let one = cores.total(|counters| &counters.history_bytes);
    cores.speak(alice, "den", "2");
    assert_eq!(cores.total(|counters| &counters.history_bytes), 2 * one, "it is not stored yet");
    cores.slow_store(false);
    cores.speak(alice, "den", "3");
    cores.speak(alice, "den", "4");
    assert_eq!(cores.total(|counters| &counters.history_bytes), 0);
}

#[test]
fn who_listens_under_a_name_that_is_put_out_is_told_why() {
    let mut cores = Cores::new(|config| config.auth.api_keys = programs(&["ci"]));
    let alice = cores.enter(0, "alice", &["den"]);
    for (action, comment) in [("kick", "4107 kicked"), ("ban", "4102 banned")] {
        let ci = cores.enter(0, "ci", &["den"]);
        let stream = cores.connect(0, ListenKind::Web);
        cores.receive(stream, b"GET /api/rooms/den/stream HTTP/1.1\r\nHost: a\r\nX-API-Key: ci\r\n\r\n");
        assert!(!cores.is_over(stream));
        cores.say(alice, &format!(r#"{{"type":"{action}","room":"den","target":"ci"}}"#));
        assert!(cores.is_over(stream));
        let heard = cores.heard(stream);
        assert!(heard.contains(comment), "{heard}");
        cores.say(ci, r#"{"type":"quit"}"#);
    }
}

#[test]
fn whoever_wants_no_answer_does_not_wait_for_the_disk() {
    let mut cores = Cores::stored(1, |config| {
        config.store.ack = AckLevel::Stored;
        config.limits.peer_window = 16;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    cores.slow_store(true);
    for number in 0..40 {
        cores.speak(alice, "den", &number.to_string());
    }
    assert_eq!(cores.told(alice, "message", "content").len(), 40);
}

#[test]
fn the_first_rule_that_matches_says_what_a_room_keeps() {
    let rule = |pattern: &str, count| HistoryRule {
        pattern: pattern.to_owned(),
        count: Some(count),
        bytes: None,
        age_s: None,
    };
    let mut cores = Cores::new(|config| {
        config.history.count = 3;
        config.history.rooms = vec![rule("ops-*", 1), rule("*-chat", 2), rule("ops-all", 9)];
    });
    let alice = cores.enter(0, "alice", &["ops-all", "my-chat", "den"]);
    for number in 1..=5 {
        for room in ["ops-all", "my-chat", "den"] {
            cores.speak(alice, room, &number.to_string());
        }
    }
    assert_eq!(history(&mut cores, alice, "ops-all"), ["5"]);
    assert_eq!(history(&mut cores, alice, "my-chat"), ["4", "5"]);
    assert_eq!(history(&mut cores, alice, "den"), ["3", "4", "5"]);
}

#[test]
fn rooms_have_numbers_that_the_store_can_have() {
    let mut cores = Cores::stored(1, |_| {});
    let rooms: Vec<String> = (0..50).map(|number| format!("room-{number}")).collect();
    // What the store cannot have it rejects, which fails the test where it is written.
    cores.enter(0, "alice", &rooms.iter().map(String::as_str).collect::<Vec<_>>());
    let records = written(&cores, "Room");
    let numbers: BTreeSet<i64> = records
        .iter()
        .map(|record| record.split([' ', ',']).nth(3).unwrap().parse().expect("no more than SQLite can have"))
        .collect();
    assert!(numbers.len() == 50 && *numbers.first().unwrap() > 0);
    assert_eq!(cores.total(|counters| &counters.rooms), 50);
}

#[test]
fn who_moderates_is_written_down_when_it_changes() {
    let mut cores = Cores::stored(1, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let begun = written(&cores, "Rules").len();
    cores.enter(0, "bob", &["den"]);
    assert_eq!(written(&cores, "Rules").len(), begun, "a member is no rule");
    for times in 0..2 {
        cores.say(alice, r#"{"type":"role","room":"den","target":"bob","role":"host"}"#);
        let rules = written(&cores, "Rules");
        assert_eq!(rules.len(), begun + 1, "{times}: {rules:?}");
        assert!(rules.last().unwrap().contains("bob"));
    }
    cores.speak(alice, "den", "no rule");
    cores.say(alice, r#"{"type":"mute","room":"den","target":"bob","seconds":60}"#);
    assert_eq!(written(&cores, "Rules").len(), begun + 2);
}

#[test]
fn nobody_is_muted_for_more_than_a_hundred_years() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let bob = cores.enter(0, "bob", &["den"]);
    for (seconds, retry_after_ms) in [(3_153_600_000u64, 3_153_600_000_000u64), (1 << 60, 3_153_600_000_000)]
    {
        let mute = serde_json::json!({ "type": "mute", "room": "den", "target": "bob", "seconds": seconds });
        cores.say(alice, &mute.to_string());
        cores.events(bob);
        let answer = cores.call(bob, r#"{"type":"message","room":"den","content":"x","id":"1"}"#);
        assert_eq!((&answer["reason"], &answer["retry_after_ms"]), (&"muted".into(), &retry_after_ms.into()));
    }
}

#[test]
fn up_to_a_size_a_room_tells_each_who_comes_and_goes() {
    let mut cores =
        Cores::new(|config| (config.presence.exact_members, config.presence.batch_ms) = (2, 1000));
    let alice = cores.enter(0, "alice", &["den"]);
    let heard = |cores: &mut Cores| {
        let events = cores.events(alice);
        let of = |event: &serde_json::Value| match event["event"].as_str() {
            _ if event["timestamp"].as_u64().is_none() => panic!("no time: {event}"),
            Some("batch") => format!("batch {} {} {}", event["joined"], event["left"], event["members"]),
            what => format!("{} {}", what.unwrap(), event["nickname"].as_str().unwrap()),
        };
        events.iter().map(of).collect::<Vec<_>>()
    };
    let bob = cores.enter(0, "bob", &["den"]);
    assert_eq!(heard(&mut cores), ["join bob"]);
    let carol = cores.enter(0, "carol", &["den"]);
    assert_eq!(heard(&mut cores), [""; 0], "she is the third");
    cores.pass(1000);
    assert_eq!(heard(&mut cores), ["batch [\"carol\"] [] 3"]);
    // She leaves two behind, which is told at once; what is not told yet comes before.
    leave(&mut cores, carol, "den");
    assert_eq!(heard(&mut cores), ["leave carol"]);
    join(&mut cores, carol, "den");
    let dora = cores.enter(0, "dora", &["den"]);
    leave(&mut cores, dora, "den");
    assert_eq!(heard(&mut cores), [""; 0]);
    leave(&mut cores, carol, "den");
    assert_eq!(heard(&mut cores).last().unwrap(), "leave carol");
    leave(&mut cores, bob, "den");
    assert_eq!(heard(&mut cores), ["leave bob"]);
    // Whoever is put out has been there before.
    join(&mut cores, bob, "den");
    join(&mut cores, carol, "den");
    cores.say(alice, r#"{"type":"kick","room":"den","target":"carol"}"#);
    assert_eq!(heard(&mut cores), ["join bob", "batch [\"carol\"] [] 3", "leave carol"]);
}

#[test]
fn an_idempotency_key_is_of_one_sender_in_one_room() {
    let mut cores = Cores::new(|config| {
        config.auth.api_keys = programs(&["ci", "bot"]);
        config.limits.idempotency_keys = 3;
    });
    let mut publish = |program, room, key| {
        let (status, place) = cores.publish(0, program, room, "x", &format!("Idempotency-Key: {key}\r\n"));
        assert_eq!(status, 200, "{place}");
        let forgotten = cores.total(|counters| &counters.idempotency_keys_forgotten);
        (place["offset"].as_u64().unwrap(), cores.total(|counters| &counters.repeated_commands), forgotten)
    };
    assert_eq!(publish("ci", "den", "k"), (1, 0, 0));
    assert_eq!(publish("ci", "DEN", "k"), (1, 1, 0), "the same again");
    assert_eq!(publish("bot", "den", "k"), (2, 1, 0), "another sender");
    assert_eq!(publish("ci", "hall", "k"), (1, 1, 0), "another room");
    assert_eq!(publish("ci", "den", "l"), (3, 1, 1), "another key, for which the oldest goes");
    assert_eq!(publish("ci", "den", "m"), (4, 1, 2));
    assert_eq!(publish("ci", "den", "k"), (5, 1, 3), "forgotten");
    assert_eq!(publish("ci", "den", "m"), (4, 2, 3));
}

#[test]
fn what_is_promised_to_be_stored_is_answered_when_it_is() {
    let mut cores = Cores::stored(1, |config| {
        config.auth.api_keys = programs(&["ci"]);
        config.store.ack = AckLevel::Stored;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    cores.slow_store(true);
    let (status, _) = cores.publish(0, "ci", "den", "x", "");
    assert_eq!(status, 0, "no answer yet");
    cores.say(alice, r#"{"type":"message","room":"den","content":"y","id":"7"}"#);
    assert_eq!(cores.told(alice, "ack", "id"), [json!(null); 0]);
    cores.write();
    cores.settle();
    assert_eq!(cores.told(alice, "ack", "id"), ["7"]);
    cores.slow_store(false);
    assert_eq!(cores.publish(0, "ci", "den", "z", "").0, 200);
}

#[test]
fn commands_are_written_down_with_their_ids() {
    let mut cores = Cores::stored(1, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    cores.say(alice, r#"{"type":"message","room":"den","content":"one","id":"7"}"#);
    cores.say(alice, r#"{"type":"message","room":"den","content":"two","id":""}"#);
    cores.say(alice, r#"{"type":"message","room":"den","content":"three"}"#);
    let messages = written(&cores, "Message");
    let with_command = |record: &String| record.contains("command: Some(");
    assert_eq!(messages.iter().map(with_command).collect::<Vec<_>>(), [true, false, false], "{messages:?}");
}

#[test]
fn a_value_that_the_journal_has_place_for_is_taken() {
    let mut cores = Cores::stored(1, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let state = |bytes: usize| {
        let (key, value) = ("k".repeat(20), "v".repeat(bytes));
        json!({ "type": "state", "room": "den", "key": key, "value": value, "id": "s" }).to_string()
    };
    let place = |cores: &mut Cores, bytes: usize| {
        cores.journal_bytes = bytes;
        cores.turn();
    };
    // A part of the journal is kept for what cannot be refused.
    let reserve = Config::default().store.queue_bytes / 4;
    place(&mut cores, reserve + 8000);
    assert_eq!(cores.call(alice, &state(2000))["type"], "state");
    place(&mut cores, reserve + 1000);
    assert_eq!(cores.call(alice, &state(2000))["reason"], "store_down");
}
