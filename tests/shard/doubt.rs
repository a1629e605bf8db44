//! What was told to one user alone, and may not have arrived when the connection broke.

use std::io::IoSlice;

use serde_json::{Value, json};
use starling::config::ListenKind;

use crate::cores::{Client, Cores, token};
use crate::sockets;

/// Alice, and bob, of whom nobody knows what he reads, with bob's welcome. For him so much is kept.
fn two(items: usize, bytes: usize) -> (Cores, Client, Client, Value) {
    let mut cores = Cores::new(|config| {
        config.limits.private_kept = items;
        config.limits.private_kept_bytes = bytes;
    });
    let alice = cores.enter(0, "alice", &[]);
    let (bob, welcome) = cores.greet(0, &json!({ "nickname": "bob" }));
    (cores, alice, bob, welcome)
}

/// The types of all that somebody has heard.
fn types(cores: &mut Cores, client: Client) -> Vec<String> {
    cores.events(client).iter().map(|event| event["type"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The private messages that somebody has heard, with the offsets of those that had been kept.
fn private(cores: &mut Cores, client: Client) -> Vec<(String, Option<u64>)> {
    let events = cores.events(client).into_iter().filter(|event| event["type"] == "private");
    events
        .map(|event| (event["content"].as_str().unwrap_or_default().to_owned(), event["offset"].as_u64()))
        .collect()
}

/// So many messages to bob are told at once, and another one is refused.
fn tells_no_more_than(cores: &mut Cores, alice: Client, contents: &[&str]) {
    for content in contents {
        let told = cores.whisper(alice, "bob", content);
        assert_eq!((&told["delivered"], &told["stored"]), (&json!(1), &json!(false)), "{content}: {told}");
    }
    let refused = cores.whisper(alice, "bob", "no");
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(503), &json!("unavailable")), "{refused}");
}

#[test]
fn who_gives_no_sign_of_life_is_asked_for_one_and_then_told_no_more() {
    let (mut cores, alice, bob, _) = two(8, 1 << 20);
    cores.whisper(alice, "bob", "1");
    assert_eq!(types(&mut cores, bob), ["private"]);
    cores.whisper(alice, "bob", "2");
    assert_eq!(types(&mut cores, bob), ["private", "ping"], "a quarter is taken");
    tells_no_more_than(&mut cores, alice, &["3", "4", "5", "6", "7", "8"]);
    assert_eq!(types(&mut cores, bob), ["private"; 6], "it is asked once");
    assert_eq!(cores.total(|counters| &counters.private_not_kept), 1);
    // He has read as far as the ping.
    cores.say(bob, r#"{"type":"pong"}"#);
    tells_no_more_than(&mut cores, alice, &["9", "10"]);
    assert_eq!(types(&mut cores, bob), ["private", "ping", "private"]);
    cores.say(bob, r#"{"type":"pong"}"#);
    tells_no_more_than(&mut cores, alice, &["11", "12", "13", "14", "15", "16", "17"]);
    assert_eq!(types(&mut cores, bob).iter().filter(|kind| *kind == "ping").count(), 1);
    // A command of his own, later than all that, says that he listens.
    cores.pass(1);
    cores.say(bob, r#"{"type":"ping"}"#);
    tells_no_more_than(&mut cores, alice, &["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(cores.total(|counters| &counters.private_not_kept), 4);
}

#[test]
fn who_has_said_something_too_early_is_asked_again_when_there_is_no_more_place() {
    let (mut cores, alice, bob, _) = two(4, 1 << 20);
    cores.whisper(alice, "bob", "1");
    cores.whisper(alice, "bob", "2");
    assert_eq!(types(&mut cores, bob), ["private", "ping", "private"]);
    // In the same millisecond: he may have said it before he was told.
    cores.say(bob, r#"{"type":"ping"}"#);
    cores.events(bob);
    cores.whisper(alice, "bob", "3");
    assert_eq!(types(&mut cores, bob), ["private", "ping"]);
    cores.say(bob, r#"{"type":"ping"}"#);
    cores.events(bob);
    tells_no_more_than(&mut cores, alice, &["4"]);
    assert_eq!(types(&mut cores, bob), ["private", "ping"]);
    cores.say(bob, r#"{"type":"ping"}"#);
    cores.events(bob);
    tells_no_more_than(&mut cores, alice, &[]);
    assert_eq!(types(&mut cores, bob), ["ping"], "refused, but he is asked");
    tells_no_more_than(&mut cores, alice, &[]);
    assert_eq!(types(&mut cores, bob), [""; 0], "once");
}

#[test]
fn as_many_bytes_may_be_on_their_way_as_may_be_kept() {
    // Four messages of two bytes, as an inbox counts them.
    let (mut cores, alice, bob, _) = two(1000, 4 * 130);
    cores.whisper(alice, "bob", "hi");
    assert_eq!(types(&mut cores, bob), ["private"], "no more than a quarter is taken");
    cores.whisper(alice, "bob", "hi");
    assert_eq!(types(&mut cores, bob), ["private", "ping"]);
    cores.whisper(alice, "bob", "hi");
    assert_eq!(cores.whisper(alice, "bob", "hi!")["reason"], "unavailable", "one byte too many");
    tells_no_more_than(&mut cores, alice, &["hi"]);
    assert_eq!(types(&mut cores, bob), ["private", "private"]);
    cores.say(bob, r#"{"type":"pong"}"#);
    tells_no_more_than(&mut cores, alice, &["hi", "hi"]);
}

#[test]
fn what_a_peer_is_not_known_to_have_read_is_told_again_after_a_reset() {
    let (mut cores, alice, bob, welcome) = two(8, 1 << 20);
    for content in ["1", "2", "3"] {
        cores.whisper(alice, "bob", content);
    }
    assert_eq!(types(&mut cores, bob), ["private", "private", "ping", "private"]);
    cores.say(bob, r#"{"type":"pong"}"#);
    cores.whisper(alice, "bob", "4");
    cores.broken(bob);
    cores.whisper(alice, "bob", "5");
    let bob = cores.come_back(0, &welcome);
    let again = [("3", Some(1)), ("4", Some(2)), ("5", Some(3))];
    assert_eq!(private(&mut cores, bob), again.map(|(content, offset)| (content.to_owned(), offset)));
    assert_eq!(cores.total(|counters| &counters.retold), 2);
    // They stay until they are received, and are no more in doubt than they were.
    cores.broken(bob);
    let bob = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, bob).len(), 3);
    assert_eq!(cores.total(|counters| &counters.retold), 2);
}

#[test]
fn after_an_orderly_end_only_what_was_not_written_is_told_again() {
    let (mut cores, alice, bob, welcome) = two(8, 1 << 20);
    cores.whisper(alice, "bob", "arrives");
    cores.stall(bob, true);
    cores.whisper(alice, "bob", "waits");
    cores.ends(bob);
    // His connection is still being written to when he comes back, and what is said meanwhile comes behind it.
    assert_eq!(cores.whisper(alice, "bob", "later")["stored"], true);
    let again = cores.come_back(0, &welcome);
    let told = [("waits".to_owned(), Some(1)), ("later".to_owned(), Some(2))];
    assert_eq!(private(&mut cores, again), told);
    assert_eq!(cores.total(|counters| &counters.retold), 1);
    // Taken over while it is there, and everything has been written.
    cores.call(again, r#"{"type":"received","offset":2,"id":"r"}"#);
    cores.whisper(alice, "bob", "live");
    let third = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, third), []);
    assert_eq!(cores.total(|counters| &counters.retold), 1);
}

/// Bob has lost four messages twice, and has been told all eight with their offsets.
fn bob_with_eight(items: usize, bytes: usize) -> (Cores, Client, Client) {
    let (mut cores, alice, bob, welcome) = two(items, bytes);
    tells_no_more_than(&mut cores, alice, &["1a", "1b", "1c", "1d"]);
    cores.broken(bob);
    let bob = cores.come_back(0, &welcome);
    tells_no_more_than(&mut cores, alice, &["2a", "2b", "2c", "2d"]);
    cores.broken(bob);
    let bob = cores.come_back(0, &welcome);
    let told: Vec<u64> = private(&mut cores, bob).into_iter().filter_map(|(_, offset)| offset).collect();
    assert_eq!(told, [1, 2, 3, 4, 5, 6, 7, 8]);
    (cores, alice, bob)
}

#[test]
fn twice_as_much_may_be_told_and_not_received_as_may_be_kept() {
    for (items, bytes) in [(4, 1 << 20), (1000, 4 * 130)] {
        let (mut cores, alice, bob) = bob_with_eight(items, bytes);
        tells_no_more_than(&mut cores, alice, &[]);
        cores.call(bob, r#"{"type":"received","offset":1,"id":"a"}"#);
        tells_no_more_than(&mut cores, alice, &["3a"]);
        cores.call(bob, r#"{"type":"received","offset":3,"id":"b"}"#);
        tells_no_more_than(&mut cores, alice, &["3b", "3c"]);
    }
}

#[test]
fn an_answer_is_to_the_first_ping_that_has_none() {
    for (answers, is_told_again) in [(1, true), (2, false)] {
        let (mut cores, alice, bob, welcome) = two(4, 1 << 20);
        while types(&mut cores, bob) != ["ping"] {
            cores.pass(1_000);
        }
        cores.whisper(alice, "bob", "psst");
        assert_eq!(types(&mut cores, bob), ["private", "ping"]);
        for _ in 0..answers {
            cores.say(bob, r#"{"type":"pong"}"#);
        }
        cores.broken(bob);
        let bob = cores.come_back(0, &welcome);
        assert_eq!(private(&mut cores, bob).len(), usize::from(is_told_again), "{answers}");
    }
}

#[test]
fn who_leaves_ever_so_many_pings_unanswered_may_stay() {
    let (mut cores, alice, bob, welcome) = two(4, 1 << 20);
    for _ in 0..300 {
        while !types(&mut cores, bob).contains(&"ping".to_owned()) {
            cores.pass(1_000);
        }
        cores.say(bob, r#"{"type":"ping"}"#);
        cores.say(alice, r#"{"type":"pong"}"#);
    }
    cores.whisper(alice, "bob", "psst");
    assert!(types(&mut cores, bob).contains(&"private".to_owned()));
    // 255 are remembered: the last of these was before the message.
    for _ in 0..255 {
        cores.say(bob, r#"{"type":"pong"}"#);
    }
    cores.broken(bob);
    let bob = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, bob), [("psst".to_owned(), Some(1))]);
}

#[test]
fn who_is_in_a_room_again_is_not_told_that_it_was_put_out() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den", "attic"]);
    let (bob, welcome) = cores.greet(0, &json!({ "nickname": "bob" }));
    for room in ["den", "attic"] {
        cores.say(bob, &json!({ "type": "join", "room": room }).to_string());
        cores.say(alice, &json!({ "type": "kick", "room": room, "target": "bob" }).to_string());
    }
    assert_eq!(cores.told(bob, "left", "room"), ["den", "attic"]);
    cores.say(bob, r#"{"type":"join","room":"den"}"#);
    cores.broken(bob);
    let bob = cores.come_back(0, &welcome);
    let events = cores.events(bob);
    assert_eq!(events, [json!({ "type": "left", "room": "attic", "reason": "kicked" })]);
    assert_eq!(cores.total(|counters| &counters.retold), 1);
}

#[test]
fn what_was_kept_is_told_as_fast_as_it_is_taken() {
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 4096);
    let alice = cores.enter(0, "alice", &[]);
    let (bob, welcome) = cores.greet(0, &json!({ "nickname": "bob" }));
    cores.broken(bob);
    let long = "x".repeat(900);
    for _ in 0..12 {
        assert_eq!(cores.whisper(alice, "bob", &long)["stored"], true);
    }
    let bob = cores.connect(0, ListenKind::Line);
    cores.stall(bob, true);
    cores.say(bob, &json!({ "type": "hello", "resume": welcome["resume"] }).to_string());
    // He has not been told all that came before it.
    assert_eq!(cores.whisper(alice, "bob", "last")["stored"], true);
    // There is place for what happens in rooms beside it.
    cores.say(bob, r#"{"type":"join","room":"den"}"#);
    cores.say(alice, r#"{"type":"join","room":"den"}"#);
    cores.speak(alice, "den", "hi");
    assert_eq!((cores.is_over(bob), cores.total(|counters| &counters.slow_consumers)), (false, 0));
    cores.stall(bob, false);
    let told = private(&mut cores, bob);
    let offsets: Vec<u64> = told.iter().filter_map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, (1..=13).collect::<Vec<u64>>());
    assert_eq!(told[12].0, "last");
}

#[test]
fn what_may_not_have_arrived_outlives_the_process() {
    let mut cores = Cores::stored(1, |_| {});
    let alice = cores.enter(0, "alice", &[]);
    let (bob, welcome) = cores.greet(0, &json!({ "nickname": "bob" }));
    cores.stall(bob, true);
    cores.whisper(alice, "bob", "one");
    cores.ends(bob);
    cores.whisper(alice, "bob", "two");
    cores.broken(bob);
    let mut cores = cores.restarted(2, |_| {}, |_| {});
    let bob = cores.come_back(1, &welcome);
    let told = [("one".to_owned(), Some(1)), ("two".to_owned(), Some(2))];
    assert_eq!(private(&mut cores, bob), told);
    cores.call(bob, r#"{"type":"received","offset":1,"id":"r"}"#);
    let mut cores = cores.restarted(1, |_| {}, |_| {});
    let bob = cores.come_back(0, &welcome);
    assert_eq!(private(&mut cores, bob), [("two".to_owned(), Some(2))]);
}

#[test]
fn a_websocket_says_which_ping_it_answers() {
    for (is_it, again) in [(true, vec!["two"]), (false, vec!["one", "two"])] {
        let (mut cores, alice, bob, _) = two(4, 1 << 20);
        cores.say(bob, r#"{"type":"quit"}"#);
        let bob = sockets::open(&mut cores, 0, "nickname=bob");
        let welcome = sockets::events(&mut cores, bob).remove(0);
        cores.whisper(alice, "bob", "one");
        let first = sockets::frames(&mut cores, bob);
        let pinged =
            first.iter().find(|(opcode, _)| *opcode == sockets::PING).expect("it is asked").1.clone();
        assert_eq!(pinged.len(), 12);
        // An answer to something else proves nothing.
        let answer = if is_it { pinged } else { vec![1; 12] };
        cores.receive(bob, &sockets::frame(sockets::PONG, &answer));
        cores.stall(bob, true);
        cores.whisper(alice, "bob", "two");
        cores.stall(bob, false);
        let second = sockets::frames(&mut cores, bob);
        assert_eq!(second.iter().filter(|(opcode, _)| *opcode == sockets::PING).count(), usize::from(is_it));
        cores.broken(bob);
        let bob = cores.come_back(0, &welcome);
        let told: Vec<String> = private(&mut cores, bob).into_iter().map(|(content, _)| content).collect();
        assert_eq!(told, again);
    }
}

#[test]
fn nothing_is_said_on_a_websocket_before_it_is_one() {
    let mut homes = None;
    let mut cores = Cores::made(
        2,
        |_| {},
        |flock| {
            homes = Some(flock.clone());
        },
    );
    let homes = homes.expect("the cores have been made");
    let named = |home: u16| ["a", "b", "c", "d", "e"].into_iter().find(|name| homes.home_of(name) == home);
    let (nickname, room) = (named(0).expect("one of five"), named(1).expect("one of five"));
    let (admin, _) = cores.greet(0, &json!({ "token": token("ops", |claims| claims.is_admin = true) }));
    let bob = cores.connect(0, ListenKind::Web);
    // The room is asked on the other core, and an admin speaks meanwhile.
    let request = sockets::request(&format!("nickname={nickname}&room={room}"));
    cores.shards[0].receive(bob.id, &mut request.into_bytes());
    cores.shards[0].receive(admin.id, &mut b"{\"type\":\"broadcast\",\"content\":\"soon\"}\n".to_vec());
    cores.settle();
    let events = sockets::events(&mut cores, bob);
    let types: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(types, ["welcome", "system", "joined"], "{events:?}");
}

#[test]
fn where_nobody_can_come_back_nothing_is_remembered() {
    let mut cores = Cores::new(|config| {
        config.session.grace_ms = 0;
        config.limits.private_kept = 2;
    });
    let alice = cores.enter(0, "alice", &[]);
    cores.enter(0, "bob", &[]);
    for n in 0..5 {
        assert_eq!(cores.whisper(alice, "bob", "hey")["delivered"], 1, "{n}");
    }
}

#[test]
fn what_was_thrown_away_has_not_arrived_however_much_is_written_after_it() {
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 4096);
    let alice = cores.enter(0, "alice", &["den", "x"]);
    let (bob, welcome) = cores.greet(0, &json!({ "nickname": "bob" }));
    for room in ["den", "x"] {
        cores.say(bob, &json!({ "type": "join", "room": room }).to_string());
    }
    cores.pass(29_500);
    cores.events(bob);
    cores.stall(bob, true);
    cores.say(alice, r#"{"type":"kick","room":"x","target":"bob"}"#);
    // He says something after he was told, but has not taken what he was told.
    cores.pass(1);
    cores.say(bob, r#"{"type":"typing","room":"den"}"#);
    for _ in 0..5 {
        cores.speak(alice, "den", &"x".repeat(1000));
    }
    assert_eq!(cores.total(|counters| &counters.slow_consumers), 1);
    // The farewell is written, and the connection looked at once more before it is closed.
    let mut slices = [IoSlice::new(&[]); 8];
    let filled = cores.shards[0].gather(bob.id, &mut slices);
    let written = slices[..filled].iter().map(|slice| slice.len()).sum();
    assert_eq!(
        written,
        r#"{"type":"bye","code":4201,"reason":"slow_consumer","resumable":true,"after_ms":0}"#.len() + 1
    );
    cores.shards[0].sent(bob.id, written);
    cores.pass(4_900);
    assert!(!cores.is_over(bob));
    cores.pass(100);
    assert!(cores.is_over(bob));
    let bob = cores.come_back(0, &welcome);
    assert_eq!(cores.told(bob, "left", "room"), ["x"]);
}
