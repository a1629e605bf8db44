//! The end of connections and sessions.

use std::collections::BTreeSet;

use serde_json::json;
use starling::config::ListenKind;

use crate::cores::{Client, Cores};

#[test]
fn others_are_told_why_somebody_has_left() {
    let mut cores = Cores::new(|config| {
        config.session.grace_ms = 0;
        config.limits.send_queue_bytes = 2000;
        (config.heartbeat.probe_ms, config.heartbeat.timeout_ms) = (1000, 3000);
    });
    let alice = cores.enter(0, "alice", &["den"]);
    let reason = |cores: &mut Cores| cores.told(alice, "presence", "reason").pop().unwrap();
    let silent = cores.enter(0, "bob", &["den"]);
    for _ in 0..30 {
        cores.pass(100);
        cores.say(alice, r#"{"type":"pong"}"#);
    }
    assert!(cores.is_over(silent));
    assert_eq!(reason(&mut cores), "timeout");
    let broken = cores.enter(0, "carol", &["den"]);
    cores.broken(broken);
    assert_eq!(reason(&mut cores), "lost");
    let quits = cores.enter(0, "dora", &["den"]);
    cores.say(quits, r#"{"type":"quit"}"#);
    assert_eq!(reason(&mut cores), "quit");
    let slow = cores.enter(0, "eve", &["den"]);
    cores.stall(slow, true);
    for _ in 0..3 {
        cores.speak(alice, "den", &"x".repeat(900));
    }
    assert_eq!(reason(&mut cores), "slow_consumer");
}

#[test]
fn whoever_says_goodbye_does_not_come_back() {
    let mut cores = Cores::new(|config| config.session.grace_ms = 60_000);
    let resumes = |cores: &mut Cores, says_goodbye: bool| {
        let client = cores.connect(0, ListenKind::Line);
        let welcome = cores.call(client, r#"{"type":"hello","nickname":"alice"}"#);
        match says_goodbye {
            true => cores.say(client, r#"{"type":"quit"}"#),
            false => cores.broken(client),
        }
        let again = cores.connect(0, ListenKind::Line);
        let hello = json!({ "type": "hello", "nickname": "alice", "resume": welcome["resume"] });
        let welcome = cores.call(again, &hello.to_string());
        cores.say(again, r#"{"type":"quit"}"#);
        welcome["resumed"].clone()
    };
    assert_eq!(resumes(&mut cores, false), true);
    assert_eq!(resumes(&mut cores, true), false);
}

#[test]
fn a_queue_may_be_as_long_as_it_may_be() {
    let one = {
        let mut cores = Cores::new(|_| {});
        let (alice, bob) = (cores.enter(0, "alice", &["den"]), cores.enter(0, "bob", &["den"]));
        cores.heard(bob);
        cores.speak(alice, "den", &"x".repeat(100));
        cores.heard(bob).len()
    };
    for (spare, is_over) in [(0, false), (1, true)] {
        let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 5 * one - spare);
        let (alice, bob) = (cores.enter(0, "alice", &["den"]), cores.enter(0, "bob", &["den"]));
        cores.heard(bob);
        cores.stall(bob, true);
        for _ in 0..5 {
            cores.speak(alice, "den", &"x".repeat(100));
        }
        assert_eq!(cores.total(|counters| &counters.slow_consumers), u64::from(is_over));
        cores.take(bob);
        let bye = cores.told(bob, "bye", "code");
        assert_eq!(bye, if is_over { vec![json!(4201)] } else { vec![] });
    }
}

/// Tells everybody to go, and what they are told.
fn drained(cores: &mut Cores, clients: &[Client]) -> Vec<(bool, u64)> {
    for shard in &mut cores.shards {
        shard.drain();
    }
    cores.pass(10);
    let told = |client: &Client| {
        let bye = cores.events(*client).into_iter().find(|event| event["type"] == "bye").unwrap();
        assert_eq!((&bye["code"], &bye["reason"]), (&json!(4300), &json!("draining")));
        (bye["resumable"].as_bool().unwrap(), bye["after_ms"].as_u64().unwrap())
    };
    clients.iter().map(told).collect()
}

#[test]
fn whoever_is_told_to_go_is_told_when_to_come_back_and_whether_as_the_same() {
    for (is_stored, spread_ms) in [(false, 0), (false, 5000), (true, 5000)] {
        let set = |config: &mut starling::config::Config| {
            config.drain.delay_ms = 10;
            config.drain.spread_ms = spread_ms;
        };
        let mut cores = if is_stored { Cores::stored(2, set) } else { Cores::of(2, set) };
        let clients: Vec<Client> =
            (0..30).map(|number| cores.enter(number % 2, &format!("user{number}"), &["den"])).collect();
        clients.iter().for_each(|client| drop(cores.events(*client)));
        assert!(cores.shards.iter().all(|shard| !shard.is_draining()));
        let told = drained(&mut cores, &clients);
        assert!(cores.shards.iter().all(|shard| shard.is_draining() && shard.is_drained()));
        assert!(told.iter().all(|(resumable, _)| *resumable == is_stored));
        let moments: BTreeSet<u64> = told.iter().map(|(_, after_ms)| *after_ms).collect();
        match spread_ms {
            0 => assert_eq!(moments, BTreeSet::from([0])),
            _ => assert!(moments.len() > 25 && moments.iter().all(|ms| *ms < spread_ms), "{moments:?}"),
        }
    }
}

#[test]
fn who_does_not_go_is_cut_off() {
    let mut cores = Cores::new(|config| {
        config.drain.delay_ms = 10;
        config.drain.timeout_ms = 1000;
        config.limits.close_ms = 60_000;
    });
    let (gone, stays) = (cores.enter(0, "alice", &[]), cores.enter(0, "bob", &[]));
    cores.stall(stays, true);
    cores.shards[0].drain();
    cores.pass(10);
    assert!(cores.is_over(gone) && !cores.is_over(stays));
    assert_eq!((cores.shards[0].cut_off(), cores.shards[0].connection_count()), (0, 1));
    cores.pass(999);
    assert!(!cores.shards[0].is_over());
    cores.pass(2);
    assert!(cores.shards[0].is_over() && !cores.shards[0].is_drained());
    assert_eq!(cores.shards[0].cut_off(), 1);
}

#[test]
fn whoever_finds_no_place_is_told_and_waited_for() {
    // Who is refused has places in a reserve; when half of it is taken nobody is waited for longer than a round trip takes.
    let lingered = |places: usize, refused_linger_ms: u64| {
        let mut cores = Cores::made(
            1,
            |config| config.limits.refused_linger_ms = refused_linger_ms,
            |flock| (flock.core_connections, flock.core_reserve) = (2, 8),
        );
        cores.are_deaf_to_the_end = true;
        for name in ["alice", "bob"] {
            cores.enter(0, name, &[]);
        }
        for _ in 0..places {
            let refused = cores.connect(0, ListenKind::Frame);
            assert!(cores.heard(refused).contains("too_many_connections"));
        }
        assert_eq!(cores.total(|counters| &counters.refused_connections), places as u64);
        let mut gone = Vec::new();
        for ms in 1..=1000 {
            let before = cores.shards[0].connection_count();
            cores.pass(1);
            gone.extend((cores.shards[0].connection_count()..before).map(|_| ms));
        }
        gone
    };
    assert_eq!(lingered(3, 500), [500, 500, 500]);
    assert_eq!(lingered(5, 500), [20, 20, 500, 500, 500]);
    assert_eq!(lingered(5, 7), [7, 7, 7, 7, 7]);
}

#[test]
fn people_who_find_no_place_are_told_in_their_language() {
    let told = |places: usize| {
        let mut cores = Cores::made(
            1,
            |config| config.limits.detect_ms = 300,
            |flock| (flock.core_connections, flock.core_reserve) = (1, 8),
        );
        cores.are_deaf_to_the_end = true;
        cores.enter(0, "alice", &[]);
        let clients: Vec<Client> = (0..places).map(|_| cores.connect(0, ListenKind::Line)).collect();
        let at_once = clients.iter().filter(|client| !cores.heard(**client).is_empty()).count();
        if let Some(program) = clients.first() {
            cores.receive(*program, b"{\n");
            assert_eq!(cores.told(*program, "bye", "reason"), ["too_many_connections"]);
        }
        cores.pass(300);
        let later = clients[1..].iter().map(|client| cores.heard(*client));
        let later: Vec<String> = later.filter(|heard| !heard.is_empty()).collect();
        assert!(
            later.iter().all(|heard| heard.starts_with("! 4206 ") || heard.starts_with("! ")),
            "{later:?}"
        );
        (at_once, later.len())
    };
    assert_eq!(told(4), (0, 3));
    assert_eq!(told(6), (2, 3), "the last two find it crowded, and get no time to show which that is");
}

#[test]
fn who_goes_while_a_join_is_on_its_way_is_in_no_room() {
    for is_resumable in [false, true] {
        let mut cores = Cores::of(2, |config| config.session.grace_ms = if is_resumable { 1000 } else { 0 });
        let watcher = cores.enter(0, "watcher", &["den"]);
        let home = (0..2).find(|core| cores.counters[*core].rooms.value() == 1).unwrap();
        let alice = cores.enter(1 - home, "alice", &[]);
        let mut join = b"{\"type\":\"join\",\"room\":\"den\"}\n".to_vec();
        cores.shards[alice.core].receive(alice.id, &mut join);
        cores.shards[alice.core].broken(alice.id);
        cores.settle();
        cores.pass(2000);
        assert_eq!(cores.call(watcher, r#"{"type":"members","room":"den"}"#)["total"], 1);
        // And the nickname is free.
        let again = cores.connect(0, ListenKind::Line);
        assert_eq!(cores.call(again, r#"{"type":"hello","nickname":"alice"}"#)["type"], "welcome");
    }
}

/// Somebody says hello with a nickname, on a connection that is there: in this turn, of which others hear when it is over.
fn hello_in_this_turn(cores: &mut Cores, client: Client, nickname: &str) {
    let hello = json!({ "type": "hello", "nickname": nickname }).to_string() + "\n";
    cores.shards[client.core].receive(client.id, &mut hello.into_bytes());
}

#[test]
fn a_nickname_is_free_when_its_session_has_left_its_rooms() {
    let mut cores = Cores::of(2, |_| {});
    let (name, room) = (cores.name_at(0, "alice"), cores.name_at(1, "den"));
    let alice = cores.enter(0, &name, &[&room]);
    let (early, late) = (cores.connect(0, ListenKind::Line), cores.connect(0, ListenKind::Line));
    // The other core has not heard yet that alice leaves the room.
    cores.shards[0].receive(alice.id, &mut b"{\"type\":\"quit\"}\n".to_vec());
    hello_in_this_turn(&mut cores, early, &name);
    cores.settle();
    assert_eq!(cores.told(early, "error", "reason"), ["nickname_in_use"]);
    hello_in_this_turn(&mut cores, late, &name);
    cores.settle();
    assert_eq!(cores.told(late, "welcome", "nickname"), [name]);
}

#[test]
fn a_nickname_is_free_when_all_that_its_session_has_asked_is_answered() {
    let mut cores = Cores::stored(1, |config| {
        config.history.memory_count = 1;
        config.limits.replay_page_bytes = 300;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    for number in 0..10 {
        cores.speak(alice, "den", &number.to_string());
    }
    let epoch = cores.call(alice, r#"{"type":"history","room":"den"}"#)["epoch"].clone();
    let bob = cores.enter(0, "bob", &[]);
    cores.slow_store(true);
    let since = json!({ "epoch": epoch, "offset": 0 });
    cores.say(bob, &json!({ "type": "join", "room": "den", "since": since }).to_string());
    assert_eq!(cores.told(bob, "joined", "recovered"), [true]);
    cores.say(bob, r#"{"type":"quit"}"#);
    assert_eq!(cores.told(alice, "presence", "event"), ["join", "leave"], "it has left the room");
    let again = cores.connect(0, ListenKind::Line);
    let hello = r#"{"type":"hello","nickname":"bob"}"#;
    assert_eq!(cores.call(again, hello)["reason"], "nickname_in_use", "the store has not answered");
    cores.slow_store(false);
    assert_eq!(cores.call(again, hello)["type"], "welcome");
}

#[test]
fn who_waits_for_a_session_that_is_put_out_begins_anew_with_its_nickname() {
    for is_guest in [true, false] {
        let mut cores = Cores::stored(2, |config| {
            config.auth.api_keys = vec![crate::tokens::admin_key("root")];
            config.store.ack = starling::config::AckLevel::Stored;
        });
        let name = cores.name_at(1, "alice");
        let hello = match is_guest {
            true => json!({ "nickname": name }),
            false => json!({ "token": crate::cores::token(&name, |_| {}) }),
        };
        let (alice, welcome) = cores.greet(0, &hello);
        cores.say(alice, r#"{"type":"join","room":"den"}"#);
        cores.slow_store(true);
        cores.say(alice, r#"{"type":"message","room":"den","content":"x","id":"1"}"#);
        let next = cores.connect(0, ListenKind::Line);
        let mut again = hello.clone();
        (again["type"], again["resume"]) = (json!("hello"), welcome["resume"].clone());
        cores.say(next, &again.to_string());
        assert_eq!(cores.events(next), [json!(null); 0], "the message is not stored");
        let request = format!("DELETE /api/sessions/{name} HTTP/1.1\r\nHost: a\r\nX-API-Key: root\r\n\r\n");
        let put_out = cores.http(0, &request);
        assert!(put_out.starts_with("HTTP/1.1 204 "), "{put_out}");
        assert_eq!(cores.events(next), [json!(null); 0], "the nickname is not free");
        cores.slow_store(false);
        let told = cores.events(next);
        let [told] = &told[..] else { panic!("one answer, is_guest {is_guest}: {told:?}") };
        assert_eq!((&told["type"], &told["resumed"]), (&json!("welcome"), &json!(false)), "{told}");
        assert_eq!(told["nickname"], name);
    }
}

#[test]
fn who_is_put_out_on_the_way_from_core_to_core_is_put_out_there() {
    for [from, to] in [[0, 1], [1, 0]] {
        let mut cores = Cores::of(2, |config| config.auth.api_keys = vec![crate::tokens::admin_key("root")]);
        let (alice, welcome) = cores.greet(from, &json!({ "nickname": "alice" }));
        cores.broken(alice);
        cores.settle();
        let (next, admin) = (cores.connect(to, ListenKind::Line), cores.connect(to, ListenKind::Web));
        // In one turn, so that the session has left its core when that is asked, and is not here yet when this one is.
        let hello = json!({ "type": "hello", "resume": welcome["resume"] }).to_string() + "\n";
        cores.shards[to].receive(next.id, &mut hello.into_bytes());
        let request = b"DELETE /api/sessions/Alice HTTP/1.1\r\nHost: a\r\nX-API-Key: root\r\n\r\n";
        cores.shards[to].receive(admin.id, &mut request.to_vec());
        cores.settle();
        let answer = cores.heard(admin);
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        assert_eq!(cores.told(next, "bye", "reason"), ["kicked"]);
        assert!(cores.is_over(next));
        let again = json!({ "resume": welcome["resume"], "nickname": "alice" });
        assert_eq!(cores.greet(from, &again).1["resumed"], false);
        assert_eq!(cores.total(|counters| &counters.put_out), 1);
    }
}
