//! Rooms and nicknames at their home: what a turn gathers, and the way of private messages to sessions that move.

use serde_json::{Value, json};
use starling::config::{Config, ListenKind};
use starling::shard::Flock;
use starling::shard::mail::{Mail, Reply};

use crate::cores::{Client, Cores, token};

/// As much as one turn should gather before it is sent, in bytes.
const ENOUGH: usize = 256 * 1024;

/// What a client says is handled, and nothing that other cores are asked by that.
fn begin(cores: &mut Cores, client: Client, command: &Value) {
    cores.shards[client.core].receive(client.id, &mut format!("{command}\n").into_bytes());
}

/// Cores that take tokens, and a nickname whose home is this one.
fn cores_and_name(cores: u16, has_store: bool, home: u16) -> (Cores, &'static str) {
    let mut name = None;
    let arrange = |flock: &mut Flock| {
        flock.has_store = has_store;
        name = ["bob", "carol", "dora", "emil", "fritz", "gil"]
            .into_iter()
            .find(|name| flock.home_of(name) == home);
    };
    let cores = Cores::made(cores, |_: &mut Config| {}, arrange);
    (cores, name.expect("one of six has its home there"))
}

fn log_in(cores: &mut Cores, core: usize, nickname: &str) -> (Client, Value) {
    cores.greet(core, &json!({ "token": token(nickname, |_| {}) }))
}

fn private(target: &str) -> Value {
    json!({ "type": "private", "target": target, "content": "psst", "id": "p" })
}

#[test]
fn a_turn_has_gathered_enough_with_so_many_bytes_for_one_listener() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let message = json!({ "type": "message", "room": "den", "content": "x".repeat(1000) });
    begin(&mut cores, alice, &message);
    assert!(cores.shards[0].has_unsent() && !cores.shards[0].has_gathered_enough());
    cores.settle();
    assert!(!cores.shards[0].has_unsent());
    let bytes = cores.heard(alice).len();
    for _ in 0..ENOUGH.div_ceil(bytes + 1) - 1 {
        begin(&mut cores, alice, &message);
    }
    assert!(!cores.shards[0].has_gathered_enough());
    // The offsets get longer by a digit or two.
    begin(&mut cores, alice, &message);
    begin(&mut cores, alice, &message);
    assert!(cores.shards[0].has_gathered_enough());
    cores.settle();
    assert!(!cores.shards[0].has_gathered_enough());
}

#[test]
fn a_gap_begins_with_the_first_message_of_the_turn_whatever_else_was_in_it() {
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 4096);
    let alice = cores.enter(0, "alice", &[]);
    cores.call(alice, r#"{"type":"join","room":"den","echo":false}"#);
    let bob = cores.enter(0, "bob", &[]);
    cores.call(bob, r#"{"type":"join","room":"den","overflow":"gap"}"#);
    cores.speak(alice, "den", "first");
    cores.events(bob);
    cores.stall(bob, true);
    let message = json!({ "type": "message", "room": "den", "content": "x".repeat(1500) });
    let state = json!({ "type": "state", "room": "den", "key": "topic", "value": "birds" });
    for command in [&state, &message, &state, &message, &message] {
        begin(&mut cores, alice, command);
    }
    cores.settle();
    assert_eq!(cores.total(|counters| &counters.left_out), 3);
    cores.stall(bob, false);
    let events = cores.events(bob);
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["state", "state", "gap"]);
    assert_eq!((&events[2]["from"], &events[2]["to"]), (&json!(2), &json!(4)));
}

#[test]
fn in_a_large_room_comings_and_goings_are_told_together() {
    let mut cores = Cores::new(|config| {
        (config.presence.exact_members, config.presence.batch_ms) = (1, 700);
    });
    let alice = cores.enter(0, "alice", &["den"]);
    cores.enter(0, "bob", &["den"]);
    cores.pass(700);
    cores.events(alice);
    for (nicknames, members) in [(["carol", "dave"], 4), (["emil", "fritz"], 6)] {
        cores.enter(0, nicknames[0], &["den"]);
        cores.pass(300);
        cores.enter(0, nicknames[1], &["den"]);
        cores.pass(399);
        assert_eq!(cores.heard(alice), "");
        cores.pass(1);
        let batch = &cores.events(alice)[..];
        let [batch] = batch else { panic!("{batch:?}") };
        assert_eq!((&batch["event"], &batch["members"]), (&json!("batch"), &json!(members)));
        assert_eq!(batch["joined"], json!(nicknames));
    }
}

#[test]
fn what_has_no_place_on_a_connection_waits_in_the_inbox_of_its_user() {
    let mut cores = Cores::made(
        1,
        |config| config.limits.private_kept = 2,
        |flock| {
            flock.has_store = true;
        },
    );
    cores.register("bob");
    let alice = cores.enter(0, "alice", &[]);
    let (bob, _) = log_in(&mut cores, 0, "bob");
    let mut outcome = || {
        let answer = cores.whisper(alice, "bob", "psst");
        (answer["delivered"].as_u64(), answer["stored"].as_bool())
    };
    assert_eq!(outcome(), (Some(1), Some(false)));
    assert_eq!(outcome(), (Some(1), Some(false)));
    // He has given no sign of life.
    assert_eq!(outcome(), (Some(0), Some(true)));
    assert_eq!(cores.told(bob, "private", "offset"), [json!(null), json!(null), json!(1)]);
}

#[test]
fn a_session_that_moves_while_it_is_written_to_does_not_hear_it_twice_nor_do_others() {
    let (mut cores, name) = cores_and_name(2, false, 0);
    let alice = cores.enter(0, "alice", &[]);
    let (here, _) = log_in(&mut cores, 0, name);
    let (_, welcome) = log_in(&mut cores, 1, name);
    let moving = cores.connect(0, ListenKind::Line);
    begin(&mut cores, moving, &json!({ "type": "hello", "resume": welcome["resume"] }));
    cores.carry(0, 1);
    // The session is on its way to this core, whose registry still has it on the other one.
    begin(&mut cores, alice, &private(name));
    cores.carry(0, 1);
    cores.settle();
    assert_eq!(cores.told(alice, "ack", "delivered"), [2]);
    assert_eq!(cores.told(here, "private", "content"), ["psst"]);
    assert_eq!(cores.told(moving, "private", "content"), ["psst"]);
}

#[test]
fn whom_a_message_has_reached_is_told_to_its_sender_though_another_session_is_never_found() {
    for (is_away, outcome) in [(false, (1, false)), (true, (0, true))] {
        let (mut cores, name) = cores_and_name(2, false, 1);
        let alice = cores.enter(0, "alice", &[]);
        let (here, here_welcome) = log_in(&mut cores, 0, name);
        let (_, welcome) = log_in(&mut cores, 1, name);
        if is_away {
            cores.broken(here);
        }
        let moving = cores.connect(0, ListenKind::Line);
        begin(&mut cores, moving, &json!({ "type": "hello", "resume": welcome["resume"] }));
        cores.carry(0, 1);
        begin(&mut cores, alice, &private(name));
        // What makes the session over to the other core does not arrive.
        let mut estates = Vec::new();
        for _ in 0..100 {
            cores.carry(0, 1);
            cores.shards[1].set_congested(false);
            for mail in std::mem::take(&mut cores.shards[1].outboxes()[0]) {
                match mail {
                    Mail::Reply { reply: Reply::Surrendered(_), .. } => estates.push(mail),
                    mail => cores.shards[0].mail(mail),
                }
            }
        }
        cores.settle();
        let answers = cores.events(alice);
        let [answer] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(
            (&answer["delivered"], &answer["stored"]),
            (&json!(outcome.0), &json!(outcome.1)),
            "{answer}"
        );
        assert_eq!(estates.len(), 1);
        for estate in estates {
            cores.mail(0, estate);
        }
        assert_eq!(cores.told(moving, "welcome", "resumed"), [true]);
        let here = if is_away { cores.come_back(0, &here_welcome) } else { here };
        assert_eq!(cores.told(here, "private", "content"), ["psst"]);
    }
}

#[test]
fn who_is_being_welcomed_gets_no_copy_of_what_another_session_has_been_told() {
    let (mut cores, name) = cores_and_name(3, true, 0);
    cores.register(name);
    let alice = cores.enter(0, "alice", &[]);
    let (here, _) = log_in(&mut cores, 1, name);
    let new = cores.connect(2, ListenKind::Line);
    begin(&mut cores, new, &json!({ "type": "hello", "token": token(name, |_| {}) }));
    cores.carry(2, 0);
    // The answer to its hello is slower than the message, which comes by way of the other session.
    begin(&mut cores, alice, &private(name));
    cores.carry(0, 1);
    cores.carry(1, 2);
    cores.settle();
    let answers = cores.events(alice);
    assert_eq!((&answers[0]["delivered"], &answers[0]["stored"]), (&json!(1), &json!(false)), "{answers:?}");
    assert_eq!(cores.told(here, "private", "content"), ["psst"]);
    assert_eq!(cores.total(|counters| &counters.private_kept), 0);
    let kinds: Vec<Value> = cores.events(new).iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["welcome"]);
}
