//! What members are sent, and what they miss.

use serde_json::{Value, json};

use crate::cores::{Client, Cores};

/// As long as each other, whoever says them.
fn message(number: u64) -> String {
    format!("{number:04}{}", "x".repeat(96))
}

/// Bytes of such a message, as a member on a JSON line gets it.
fn bytes_of_message() -> usize {
    let mut cores = Cores::new(|_| {});
    let (alice, bob) = (cores.enter(0, "alice", &["den"]), cores.enter(0, "bobby", &["den"]));
    cores.heard(bob);
    cores.speak(alice, "den", &message(1));
    cores.heard(bob).len()
}

/// Somebody who would rather miss messages than be sent away.
fn skipper(cores: &mut Cores, nickname: &str, room: &str) -> Client {
    let client = cores.enter(0, nickname, &[]);
    let joined = cores.call(client, &format!(r#"{{"type":"join","room":"{room}","overflow":"gap"}}"#));
    assert_eq!(joined["type"], "joined");
    client
}

fn speak(cores: &mut Cores, client: Client, room: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        cores.speak(client, room, &message(number));
    }
}

/// What a client has heard: offsets of messages, the ends of gaps, and the names of everything else.
fn heard(cores: &mut Cores, client: Client) -> Vec<Value> {
    let of = |event: Value| match event["type"].as_str().unwrap() {
        "message" => event["offset"].clone(),
        "gap" => json!([event["from"], event["to"]]),
        kind => json!(kind),
    };
    cores.events(client).into_iter().map(of).collect()
}

#[test]
fn whoever_has_as_much_waiting_as_it_may_misses_messages_and_is_told_which() {
    let one = bytes_of_message();
    for (places, spare) in [(4, 0), (4, 1), (3, one - 1)] {
        let mut cores = Cores::new(|config| config.limits.send_queue_bytes = places * one + spare);
        let alice = cores.enter(0, "alice", &["den"]);
        let bobby = skipper(&mut cores, "bobby", "den");
        cores.stall(bobby, true);
        speak(&mut cores, alice, "den", 1..=9);
        let places = places as u64;
        assert_eq!(cores.total(|counters| &counters.left_out), 9 - places);
        assert_eq!(cores.total(|counters| &counters.gaps), 0);
        cores.stall(bobby, false);
        let mut expected: Vec<Value> = (1..=places).map(Value::from).collect();
        expected.push(json!([places + 1, 9]));
        assert_eq!(heard(&mut cores, bobby), expected);
        assert_eq!(cores.total(|counters| &counters.gaps), 1);
        // From there on it hears everything again.
        speak(&mut cores, alice, "den", 10..=11);
        assert_eq!(heard(&mut cores, bobby), [json!(10), json!(11)]);
        assert_eq!(
            (cores.total(|counters| &counters.gaps), cores.total(|counters| &counters.left_out)),
            (1, 9 - places)
        );
    }
}

#[test]
fn a_message_that_is_more_than_all_that_may_wait_is_a_gap_at_once() {
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 2000);
    let alice = cores.enter(0, "alice", &["den"]);
    let bobby = skipper(&mut cores, "bobby", "den");
    cores.say(
        alice,
        &json!({ "type": "message", "room": "den", "content": "x".repeat(3000), "echo": false }).to_string(),
    );
    assert_eq!(heard(&mut cores, bobby), [json!([1, 1])]);
    cores.speak(alice, "den", "y");
    assert_eq!(heard(&mut cores, bobby), [json!(2)]);
}

#[test]
fn whoever_misses_messages_hears_all_else() {
    let one = bytes_of_message();
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 4 * one);
    let alice = cores.enter(0, "alice", &["den"]);
    let bobby = skipper(&mut cores, "bobby", "den");
    cores.stall(bobby, true);
    speak(&mut cores, alice, "den", 1..=6);
    let before = cores.total(|counters| &counters.deliveries);
    let carol = cores.enter(0, "carol", &["den"]);
    assert_eq!(
        cores.total(|counters| &counters.deliveries),
        before + 2,
        "alice and bobby hear that she is there"
    );
    cores.say(carol, r#"{"type":"typing","room":"den"}"#);
    assert_eq!(cores.total(|counters| &counters.deliveries), before + 3, "a notice is not worth waiting for");
    cores.stall(bobby, false);
    assert_eq!(
        heard(&mut cores, bobby),
        [json!(1), json!(2), json!(3), json!(4), json!("presence"), json!([5, 6])]
    );
}

#[test]
fn a_room_that_is_left_in_a_gap_is_heard_again_from_then_on() {
    let one = bytes_of_message();
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 4 * one);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    let bobby = skipper(&mut cores, "bobby", "den");
    cores.call(bobby, r#"{"type":"join","room":"hall","overflow":"gap"}"#);
    cores.stall(bobby, true);
    speak(&mut cores, alice, "den", 1..=5);
    speak(&mut cores, alice, "hall", 1..=2);
    cores.say(bobby, r#"{"type":"leave","room":"den"}"#);
    cores.stall(bobby, false);
    assert_eq!(
        heard(&mut cores, bobby),
        [json!(1), json!(2), json!(3), json!(4), json!("left"), json!([1, 2])]
    );
    cores.say(bobby, r#"{"type":"join","room":"den","overflow":"gap"}"#);
    assert_eq!(heard(&mut cores, bobby), ["joined"]);
    speak(&mut cores, alice, "den", 6..=6);
    speak(&mut cores, alice, "hall", 3..=3);
    assert_eq!(heard(&mut cores, bobby), [6, 3]);
    assert_eq!(cores.total(|counters| &counters.gaps), 1);
}

#[test]
fn typing_is_kept_from_whoever_has_more_than_an_eighth_waiting() {
    let one = bytes_of_message();
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 2 * 8 * one);
    let (alice, bobby) = (cores.enter(0, "alice", &["den"]), cores.enter(0, "bobby", &["den"]));
    for client in [alice, bobby] {
        cores.heard(client);
        cores.stall(client, true);
    }
    let counted = |cores: &mut Cores| {
        let before = (cores.total(|c| &c.typing_dropped), cores.total(|c| &c.deliveries));
        cores.say(alice, r#"{"type":"typing","room":"den"}"#);
        let after = (cores.total(|c| &c.typing_dropped), cores.total(|c| &c.deliveries));
        (after.0 - before.0, after.1 - before.1)
    };
    assert_eq!(counted(&mut cores), (0, 1), "nobody is told of itself");
    cores.stall(bobby, false);
    assert_eq!(heard(&mut cores, bobby), ["typing"]);
    cores.stall(bobby, true);
    speak(&mut cores, alice, "den", 1..=2);
    assert_eq!(counted(&mut cores), (0, 1), "an eighth, exactly");
    assert_eq!(counted(&mut cores), (1, 0), "and the notice itself");
    // Who types is slow too, and was not to hear of it anyway.
    cores.stall(bobby, false);
    cores.stall(bobby, true);
    speak(&mut cores, alice, "den", 3..=5);
    assert_eq!(counted(&mut cores), (1, 0));
    assert_eq!(counted(&mut cores), (1, 0));
    cores.stall(bobby, false);
    assert_eq!(heard(&mut cores, bobby), [json!(1), json!(2), json!("typing"), json!(3), json!(4), json!(5)]);
    assert_eq!(counted(&mut cores), (0, 1));
}

#[test]
fn deliveries_are_events_times_those_who_hear_them() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    cores.enter(0, "bob", &["den"]);
    cores.enter(0, "carol", &["den"]);
    let count = |cores: &Cores| cores.total(|counters| &counters.deliveries);
    let before = count(&cores);
    let mut lines = String::new();
    for number in 0..3 {
        lines += &format!("{{\"type\":\"message\",\"room\":\"den\",\"content\":\"{number}\"}}\n");
    }
    cores.receive(alice, lines.as_bytes());
    assert_eq!(count(&cores), before + 9);
    // In one turn some that alice does not hear, and one that she does.
    let quiet = "{\"type\":\"message\",\"room\":\"den\",\"content\":\"quiet\"}\n".to_owned();
    cores.say(alice, r#"{"type":"leave","room":"den"}"#);
    cores.say(alice, r#"{"type":"join","room":"den","echo":false}"#);
    let before = count(&cores);
    cores.receive(alice, quiet.repeat(4).as_bytes());
    assert_eq!(count(&cores), before + 8);
}

#[test]
fn what_was_missed_comes_in_pages_of_half_of_what_may_wait() {
    let one = bytes_of_message();
    let mut cores = Cores::new(|config| {
        config.limits.send_queue_bytes = 8 * (one + 2); // offsets have two digits from 10 on
        config.limits.replay_page_bytes = 1 << 20;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    let epoch = cores.call(alice, r#"{"type":"history","room":"den"}"#)["epoch"].clone();
    speak(&mut cores, alice, "den", 1..=30);
    let bobby = cores.enter(0, "bobby", &[]);
    let since = json!({ "type": "join", "room": "den", "since": { "epoch": epoch, "offset": 0 } });
    cores.stall(bobby, true);
    cores.say(bobby, &since.to_string());
    let mut all = Vec::new();
    let mut pages = Vec::new();
    for round in 0.. {
        assert!(round < 100, "it comes to an end");
        cores.take(bobby);
        let page = heard(&mut cores, bobby);
        if page.is_empty() {
            break;
        }
        pages.push(page.iter().filter(|event| event.is_u64()).count());
        all.extend(page);
        if round == 2 {
            speak(&mut cores, alice, "den", 31..=31);
        }
    }
    cores.stall(bobby, false);
    assert_eq!(all.remove(0), "joined");
    assert_eq!(all, (1..=31).map(Value::from).collect::<Vec<_>>());
    assert_eq!(pages, [4, 4, 4, 4, 4, 4, 4, 3]);
    speak(&mut cores, alice, "den", 32..=32);
    assert_eq!(heard(&mut cores, bobby), [32]);
    assert_eq!(cores.total(|counters| &counters.replayed), 31);
}

#[test]
fn what_comes_of_several_rooms_in_one_turn_is_flushed_once() {
    // The harness fails when a connection is to be flushed twice.
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 2000);
    let alice = cores.enter(0, "alice", &["den", "hall"]);
    let bobby = skipper(&mut cores, "bobby", "den");
    cores.call(bobby, r#"{"type":"join","room":"hall","overflow":"gap"}"#);
    for (bytes, expected) in [(100, vec![json!(1), json!(1)]), (3000, vec![json!([2, 2]), json!([2, 2])])] {
        let line =
            |room| json!({ "type": "message", "room": room, "content": "x".repeat(bytes) }).to_string();
        cores.receive(alice, format!("{}\n{}\n", line("den"), line("hall")).as_bytes());
        assert_eq!(heard(&mut cores, bobby), expected);
    }
}

#[test]
fn whoever_may_miss_messages_in_one_room_has_twice_the_place_for_all() {
    let one = bytes_of_message();
    for (overflow, places) in [("gap", 8), ("close", 4)] {
        let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 4 * one);
        let alice = cores.enter(0, "alice", &["den", "hall"]);
        let bobby = cores.enter(0, "bobby", &[]);
        cores.call(bobby, &format!(r#"{{"type":"join","room":"den","overflow":"{overflow}"}}"#));
        cores.call(bobby, r#"{"type":"join","room":"hall"}"#);
        cores.stall(bobby, true);
        speak(&mut cores, alice, "hall", 1..=places);
        assert_eq!(cores.total(|counters| &counters.connections), 2);
        speak(&mut cores, alice, "hall", 9..=9);
        cores.take(bobby);
        assert_eq!(heard(&mut cores, bobby).last().unwrap(), "bye");
    }
}
