//! What commands may ask, and what they are answered.

use serde_json::{Value, json};
use starling::config::AckLevel;

use crate::cores::{Client, Cores};

/// The type of what a command is answered, or the reason for which it is refused.
fn outcome(cores: &mut Cores, client: Client, command: Value) -> String {
    let answer = cores.call(client, &command.to_string());
    let key = if answer["type"] == "error" { "reason" } else { "type" };
    answer[key].as_str().unwrap().to_owned()
}

#[test]
fn what_is_too_long_by_one_is_refused() {
    let mut cores = Cores::new(|config| {
        config.limits.reason_bytes = 10;
        config.limits.broadcast_patterns = 3;
    });
    let alice = cores.enter_admin(0, "alice", &["den"]);
    let kick = |bytes: usize| json!({ "type": "kick", "room": "den", "target": "nobody", "reason": "x".repeat(bytes), "id": "k" });
    assert_eq!(outcome(&mut cores, alice, kick(10)), "no_such_user");
    assert_eq!(cores.total(|counters| &counters.too_large), 0);
    assert_eq!(outcome(&mut cores, alice, kick(11)), "too_large");
    assert_eq!(cores.total(|counters| &counters.too_large), 1);

    let broadcast = |rooms: &[&str], tags: &[&str]| {
        let mut command = json!({ "type": "broadcast", "content": "x", "id": "b" });
        for (name, list) in
            [("rooms", rooms), ("tags", tags)].into_iter().filter(|(_, list)| !list.is_empty())
        {
            command[name] = json!(list);
        }
        command
    };
    assert_eq!(outcome(&mut cores, alice, broadcast(&["a", "b"], &["c"])), "ack");
    assert_eq!(outcome(&mut cores, alice, broadcast(&[], &["a", "b", "c", "d"])), "bad_request");
    assert_eq!(outcome(&mut cores, alice, broadcast(&["a", "b"], &["c", "d"])), "bad_request");
    let tag = "t".repeat(65);
    assert_eq!(outcome(&mut cores, alice, broadcast(&[], &[&tag[..64]])), "ack");
    assert_eq!(outcome(&mut cores, alice, broadcast(&[], &[&tag])), "bad_request");
    assert_eq!(outcome(&mut cores, alice, broadcast(&[], &[""])), "bad_request");
}

#[test]
fn a_broadcast_is_heard_on_all_cores_and_counted_once() {
    let mut cores = Cores::of(3, |_| {});
    let alice = cores.enter_admin(1, "alice", &[]);
    let others: Vec<Client> =
        (0..5).map(|number| cores.enter(number % 3, &format!("user{number}"), &[])).collect();
    let ack = cores.call(alice, r#"{"type":"broadcast","content":"to all","id":"b"}"#);
    assert_eq!((&ack["type"], &ack["sessions"]), (&json!("ack"), &json!(6)));
    for other in others {
        assert_eq!(cores.told(other, "system", "content"), ["to all"]);
    }
    // Somebody who has not said hello hears nothing.
    let silent = cores.connect(0, starling::config::ListenKind::Line);
    cores.say(alice, r#"{"type":"broadcast","content":"to all"}"#);
    assert_eq!(cores.heard(silent), "");
}

#[test]
fn a_command_that_comes_again_is_answered_as_before() {
    let mut cores = Cores::stored(2, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    cores.slow_store(true);
    let message =
        |ack: &str| json!({ "type": "message", "room": "den", "content": "x", "id": "m", "ack": ack });
    let ack = |cores: &mut Cores, level: &str| {
        cores.events(alice);
        cores.say(alice, &message(level).to_string());
        cores.events(alice).into_iter().find(|event| event["type"] == "ack")
    };
    let first = ack(&mut cores, "sequenced").unwrap();
    assert_eq!((&first["offset"], &first["level"]), (&json!(1), &json!("sequenced")));
    assert_eq!(ack(&mut cores, "sequenced").unwrap(), first);
    assert_eq!(ack(&mut cores, "stored"), None, "that it is stored is not known yet");
    cores.write();
    cores.settle();
    assert_eq!(cores.told(alice, "ack", "level"), ["stored"]);
    assert_eq!(ack(&mut cores, "synced").unwrap()["level"], "synced");
    assert_eq!(cores.total(|counters| &counters.repeated_commands), 3);
    assert_eq!(cores.total(|counters| &counters.published), 1);
    // Answers come in the order of commands.
    let lines = [json!({ "type": "members", "room": "den", "id": "q" }), message("sequenced")];
    cores.receive(alice, format!("{}\n{}\n", lines[0], lines[1]).as_bytes());
    let ids: Vec<Value> = cores.events(alice).iter().map(|event| event["id"].clone()).collect();
    assert_eq!(ids, ["q", "m"]);
}

#[test]
fn a_level_that_cannot_be_had_is_refused() {
    let message =
        |ack: &str| json!({ "type": "message", "room": "den", "content": "x", "id": "m", "ack": ack });
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &[]);
    cores.say(alice, r#"{"type":"join","room":"den","echo":false}"#);
    for (ack, expected) in [
        ("sequenced", "ack"),
        ("stored", "ack_unavailable"),
        ("synced", "ack_unavailable"),
        ("soon", "bad_request"),
    ] {
        assert_eq!(outcome(&mut cores, alice, message(ack)), expected);
    }
    let mut cores = Cores::stored(1, |config| config.store.ack = AckLevel::Synced);
    let alice = cores.enter(0, "alice", &[]);
    cores.say(alice, r#"{"type":"join","room":"den","echo":false}"#);
    let ack = cores.call(alice, r#"{"type":"message","room":"den","content":"x","id":"n"}"#);
    assert_eq!(ack["level"], "synced");
}

#[test]
fn too_many_mistakes_in_a_window_are_the_end() {
    let mistakes = |every_ms: u64| {
        let mut cores = Cores::new(|config| {
            config.limits.errors_per_window = 3;
            config.limits.errors_window_ms = 1000;
        });
        let alice = cores.enter(0, "alice", &[]);
        for count in 1..20 {
            cores.say(alice, "{}");
            if cores.is_over(alice) {
                assert_eq!(cores.total(|counters| &counters.too_many_errors), 1);
                return Some(count);
            }
            cores.pass(every_ms);
        }
        None
    };
    assert_eq!(mistakes(0), Some(4));
    assert_eq!(mistakes(333), Some(4), "at 999 ms");
    assert_eq!(mistakes(334), None);
}

#[test]
fn as_many_commands_are_under_way_as_may_be() {
    let mut cores = Cores::stored(1, |config| {
        config.limits.commands_in_flight = 4;
        config.store.ack = AckLevel::Stored;
    });
    let alice = cores.enter(0, "alice", &[]);
    cores.say(alice, r#"{"type":"join","room":"den","echo":false}"#);
    cores.slow_store(true);
    cores.events(alice);
    let line =
        |number: u64| json!({ "type": "message", "room": "den", "content": "x", "id": number.to_string() });
    for number in 1..=10 {
        cores.say(alice, &line(number).to_string());
    }
    assert_eq!(cores.total(|counters| &counters.published), 4);
    let read = |cores: &mut Cores| {
        cores.write();
        cores.settle();
        (cores.told(alice, "ack", "id").len(), cores.total(|counters| &counters.published))
    };
    assert_eq!(read(&mut cores), (4, 8));
    assert_eq!(read(&mut cores), (4, 10));
    assert_eq!(read(&mut cores), (2, 10));
}

#[test]
fn no_more_is_asked_of_a_core_than_it_may_be_asked_at_once() {
    let mut cores = Cores::stored(2, |config| {
        config.limits.peer_window = 4;
        config.store.ack = AckLevel::Stored;
    });
    // Rooms of both cores.
    let others: Vec<Client> =
        (0..6).map(|number| cores.enter(0, &format!("user{number}"), &["den"])).collect();
    let home = (0..2).find(|core| cores.counters[*core].rooms.value() == 1).unwrap();
    let elsewhere = (0..)
        .map(|number| format!("room-{number}"))
        .find(|room| {
            let mut probe = Cores::of(2, |_| {});
            probe.enter(0, "alice", &[room]);
            probe.counters[home].rooms.value() == 0
        })
        .unwrap();
    let carol = cores.enter(0, "carol", &[&elsewhere]);
    cores.slow_store(true);
    for (number, other) in others.iter().enumerate() {
        let message = json!({ "type": "message", "room": "den", "content": "x", "id": number.to_string() });
        cores.say(*other, &message.to_string());
    }
    assert_eq!(cores.total(|counters| &counters.published), 4, "the others wait for the window");
    cores.say(carol, &json!({ "type": "members", "room": elsewhere, "id": "q" }).to_string());
    assert_eq!(cores.told(carol, "members", "id"), ["q"], "the other core has a window of its own");
    cores.write();
    cores.settle();
    assert_eq!(cores.total(|counters| &counters.published), 6);
    cores.slow_store(false);
    let acks = others.iter().map(|other| cores.told(*other, "ack", "id").len());
    assert_eq!(acks.collect::<Vec<_>>(), [1; 6]);
}

#[test]
fn what_is_missed_is_no_more_than_half_of_what_is_left() {
    let mut cores = Cores::new(|config| {
        config.limits.send_queue_bytes = 10_000;
        config.limits.replay_page_bytes = 1 << 20;
        config.limits.output_pause_bytes = 1 << 20;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    let epoch = cores.call(alice, r#"{"type":"history","room":"den"}"#)["epoch"].clone();
    for _ in 0..100 {
        cores.speak(alice, "den", &"x".repeat(100));
    }
    let bob = cores.enter(0, "bob", &[]);
    cores.stall(bob, true);
    // Something waits already.
    for _ in 0..60 {
        cores.say(bob, r#"{"type":"ping"}"#);
    }
    let join = json!({ "type": "join", "room": "den", "since": { "epoch": epoch, "offset": 0 } });
    cores.say(bob, &join.to_string());
    let gone = {
        cores.take(bob);
        cores.heard(bob)
    };
    let pings: usize = gone.lines().filter(|line| line.contains("pong")).map(|line| line.len() + 1).sum();
    let page: usize =
        gone.lines().filter(|line| line.contains("\"message\"")).map(|line| line.len() + 1).sum();
    let half = (10_000 - pings) / 2;
    assert!(page <= half && page > half - 200, "{page} of {half}");
}

#[test]
fn the_core_of_a_session_has_to_have_place_for_what_it_writes_down() {
    let mut cores = Cores::stored(2, |_| {});
    let alice = cores.enter(1, "alice", &["den"]);
    cores.enter(0, "bob", &[]);
    let commands = [
        json!({ "type": "join", "room": "hall", "id": "j" }),
        json!({ "type": "nick", "nickname": "alicia", "id": "n" }),
        json!({ "type": "private", "target": "bob", "content": "x", "id": "p" }),
        json!({ "type": "members", "room": "den", "id": "m" }),
    ];
    for (command, expected) in commands.iter().zip(["store_down", "store_down", "store_down", "members"]) {
        cores.shards[1].set_journal_room(0);
        assert_eq!(outcome(&mut cores, alice, command.clone()), expected, "{command}");
    }
    assert_eq!(cores.counters[1].store_refused.value(), 3);
    // A message is looked at by its room's home alone.
    let home = (0..2).find(|core| cores.counters[*core].rooms.value() == 1).unwrap();
    cores.turn();
    cores.shards[1 - home].set_journal_room(0);
    cores.events(alice);
    cores.speak(alice, "den", "x");
    assert_eq!(cores.told(alice, "message", "content"), ["x"]);
}

#[test]
fn a_history_of_no_messages_is_none() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    cores.speak(alice, "den", "1");
    cores.speak(alice, "den", "2");
    for (asked, expected) in [(0, Value::Null), (1, json!(["2"])), (9, json!(["1", "2"]))] {
        let bob = cores.enter(0, "bob", &[]);
        let joined = cores.call(bob, &json!({ "type": "join", "room": "den", "history": asked }).to_string());
        let contents = joined["messages"]
            .as_array()
            .map(|messages| messages.iter().map(|m| m["content"].clone()).collect());
        assert_eq!(contents.map_or(Value::Null, Value::Array), expected);
        cores.say(bob, r#"{"type":"quit"}"#);
    }
}

#[test]
fn who_is_in_no_room_is_told_whether_there_is_one() {
    let mut cores = Cores::of(2, |_| {});
    cores.enter(0, "alice", &["den"]);
    let bob = cores.enter(1, "bob", &[]);
    for action in ["kick", "ban", "unban", "mute", "unmute"] {
        for (room, expected) in [("den", "not_a_member"), ("nowhere", "no_such_room")] {
            let command = json!({ "type": action, "room": room, "target": "alice", "id": "k" });
            assert_eq!(outcome(&mut cores, bob, command), expected);
        }
    }
}

#[test]
fn a_room_that_a_token_is_not_for_is_not_spoken_of() {
    let mut cores = Cores::new(|_| {});
    cores.enter(0, "alice", &["hall"]);
    let only_dens = crate::cores::token("bob", |claims| claims.rooms = Some(vec!["den*".to_owned()]));
    let bob = cores.connect(0, starling::config::ListenKind::Line);
    cores.say(bob, &json!({ "type": "hello", "token": only_dens }).to_string());
    for command in [
        json!({ "type": "join", "room": "hall", "id": "j" }),
        json!({ "type": "kick", "room": "hall", "target": "alice", "id": "k" }),
        json!({ "type": "members", "room": "hall", "id": "m" }),
    ] {
        let refused = cores.call(bob, &command.to_string());
        assert_eq!(
            (&refused["code"], &refused["reason"]),
            (&json!(403), &json!("forbidden")),
            "{command}: {refused}"
        );
    }
}

#[test]
fn who_may_not_be_in_the_lobby_is_not_put_there() {
    let mut cores = Cores::new(|_| {});
    let only_dens = crate::cores::token("alice", |claims| {
        claims.rooms = Some(vec!["den*".to_owned()]);
    });
    let person = cores.connect(0, starling::config::ListenKind::Line);
    cores.say(person, &format!("/token {only_dens}"));
    let heard = cores.heard(person);
    assert!(heard.contains("! 403 ") && !heard.contains("joined"), "{heard}");
    assert_eq!(cores.total(|counters| &counters.rooms), 0);
}

/// How many messages have been published before the store has written one more frame each time.
fn published_by_frames(cores: &mut Cores) -> [u64; 4] {
    [(); 4].map(|()| {
        let published = cores.total(|counters| &counters.published);
        cores.write_of(0, 1);
        cores.settle();
        published
    })
}

#[test]
fn answers_to_half_of_what_is_under_way_let_more_come() {
    let mut cores = Cores::stored(1, |config| {
        config.limits.commands_in_flight = 4;
        config.store.ack = AckLevel::Stored;
    });
    let alice = cores.enter(0, "alice", &[]);
    cores.say(alice, r#"{"type":"join","room":"den","echo":false}"#);
    cores.slow_store(true);
    let line =
        |number: u64| json!({ "type": "message", "room": "den", "content": "x", "id": number.to_string() });
    for number in 1..=10 {
        cores.say(alice, &line(number).to_string());
    }
    // Each was a turn, and so a frame, of its own.
    assert_eq!(published_by_frames(&mut cores), [4, 4, 6, 6]);
}

#[test]
fn half_of_a_window_lets_those_go_on_who_wait_for_it() {
    let mut cores = Cores::stored(1, |config| {
        config.limits.peer_window = 4;
        config.store.ack = AckLevel::Stored;
    });
    let members: Vec<Client> =
        (0..12).map(|number| cores.enter(0, &format!("user{number}"), &["den"])).collect();
    cores.slow_store(true);
    for (number, member) in members.iter().enumerate() {
        let message = json!({ "type": "message", "room": "den", "content": "x", "id": number.to_string() });
        cores.say(*member, &message.to_string());
    }
    assert_eq!(published_by_frames(&mut cores), [4, 4, 6, 6]);
}

#[test]
fn what_came_of_a_private_message_is_written_down_by_its_id() {
    let mut cores = Cores::stored(1, |_| {});
    let alice = cores.enter(0, "alice", &[]);
    cores.enter(0, "bob", &[]);
    for (id, receipts) in [("7", 1), ("", 1), ("8", 2)] {
        let private = json!({ "type": "private", "target": "bob", "content": "x", "id": id });
        assert_eq!(outcome(&mut cores, alice, private), "ack");
        let written = cores.written.iter().filter(|record| record.starts_with("Receipt {")).count();
        assert_eq!(written, receipts, "{id:?}");
    }
}
