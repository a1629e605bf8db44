//! Copies of rooms that nodes share: opened, replaced, begun anew and given up.

use std::sync::Arc;

use starling::chat::name::Nickname;
use starling::config::ListenKind;
use starling::shard::backplane::{BackplaneNews, BackplaneRequest, LogEntry, Position, Renew, RoomOp};

use crate::cores::{Client, programs};
use crate::link::{Node, OTHER, OWN, join, session};

/// How long a copy stays that nobody needs.
const UNUSED_MS: u64 = 5_000;

/// A node with ann in a room.
fn den() -> (Node, Client) {
    let mut node = Node::new(|_| {});
    let ann = node.enter("ann", &["den"]);
    node.log.clear();
    (node, ann)
}

/// Somebody elsewhere says these words.
pub fn say(node: &mut Node, room: &str, contents: &[&str]) {
    for content in contents {
        let entry = node.place(room, "zoe", content);
        node.announce(room, vec![entry]);
    }
}

pub fn held_renewal(node: &mut Node) -> Renew {
    match node.held.pop_front() {
        Some((_, BackplaneRequest::Renew(renew))) => *renew,
        other => panic!("{other:?}"),
    }
}

fn holds_renewals(request: &BackplaneRequest) -> bool {
    matches!(request, BackplaneRequest::Renew(_))
}

fn history(node: &mut Node, client: Client, room: &str) -> Vec<String> {
    let answer = node.call(client, &format!(r#"{{"type":"history","room":"{room}"}}"#));
    let messages = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
    messages.iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

/// Another epoch of a room is found: everybody here is interrupted, and comes back by another name.
fn change_epoch(node: &mut Node, epoch: &str) {
    node.rooms.get_mut("den").unwrap().epoch = epoch.into();
    node.tell_where("den");
}

#[test]
fn a_copy_that_nobody_needs_is_given_up() {
    let (mut node, ann) = den();
    // It has been looked at once since it was opened.
    node.pass(UNUSED_MS);
    node.say(ann, r#"{"type":"leave","room":"den"}"#);
    let timers = node.cores.shards[0].inventory().timers;
    // What is said elsewhere is no use here.
    say(&mut node, "den", &["1", "2", "3"]);
    assert_eq!(node.cores.shards[0].inventory().timers, timers);
    node.pass(UNUSED_MS - 1);
    assert!(node.asked("close").is_empty());
    node.pass(1);
    assert_eq!(node.asked("close"), ["close den"]);
    assert_eq!(node.cores.total(|counters| &counters.rooms), 0);
    // Whoever asks for its members uses it.
    node.say(ann, r#"{"type":"members","room":"den"}"#);
    node.pass(3_000);
    node.say(ann, r#"{"type":"members","room":"den"}"#);
    assert_eq!(node.asked("open").len(), 1);
    node.pass(2 * UNUSED_MS - 3_000 - 1);
    assert!(node.asked("close").is_empty());
    node.pass(1);
    assert_eq!(node.asked("close"), ["close den"]);
    // A member needs it for ever.
    node.say(ann, r#"{"type":"join","room":"den"}"#);
    node.pass(4 * UNUSED_MS);
    assert!(node.asked("close").is_empty());
}

#[test]
fn what_waits_for_its_place_waits_behind_what_may_be_looked_at_again() {
    let (mut node, ann) = den();
    let bob = node.enter("bob", &["den"]);
    node.log.clear();
    node.holds = |request| matches!(request, BackplaneRequest::Publish(_));
    let speak = |node: &mut Node, client, content: &str| {
        node.say(client, &format!(r#"{{"type":"message","room":"den","content":"{content}"}}"#));
    };
    for content in ["1", "2"] {
        speak(&mut node, ann, content);
    }
    assert_eq!(node.asked("publish"), ["publish 1", "publish 2"]);
    // Somebody is muted, perhaps; until it is known whether these have their places nobody else asks for one.
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    speak(&mut node, bob, "3");
    assert_eq!(node.asked("publish"), ["publish 3"]);
    let op = RoomOp::Rename { session: session("2.0.0.1"), nickname: Nickname::parse("carla").unwrap() };
    node.change("den", OTHER, 2, vec![op]);
    speak(&mut node, bob, "4");
    assert!(node.asked("publish").is_empty());
    for number in 1..=3 {
        let (core, request) = node.held.pop_front().unwrap();
        node.answer(core, request);
        assert_eq!(node.asked("publish").len(), usize::from(number == 3), "{number}");
    }
    node.release();
    assert_eq!(node.hears(bob).iter().filter(|word| word.starts_with("message")).count(), 4);
}

#[test]
fn nobody_speaks_to_all_while_the_others_would_not_hear_it() {
    let mut node = Node::new(|_| {});
    let root = node.enter_with_token("root", None, &[]);
    let ann = node.enter("ann", &[]);
    node.down(Some("it does not answer"));
    node.say(root, r#"{"type":"broadcast","content":"all","id":"1"}"#);
    assert_eq!(node.hears(root), ["error backplane_down 503"]);
    assert!(node.hears(ann).is_empty());
}

/// Which of these rooms can be joined on a node that may have two, if they are opened at once, or all later.
fn joined(is_opened: bool, rooms: &[&'static str]) -> Vec<&'static str> {
    let mut node = Node::new(|config| config.limits.rooms = 2);
    if !is_opened {
        node.holds = |request| matches!(request, BackplaneRequest::Open { .. });
    }
    let clients: Vec<_> = rooms.iter().map(|room| (*room, node.enter(&format!("in-{room}"), &[]))).collect();
    for (room, client) in &clients {
        node.say(*client, &format!(r#"{{"type":"join","room":"{room}"}}"#));
    }
    node.release();
    let mut joined = Vec::new();
    for (room, client) in clients {
        match &node.hears(client)[..] {
            [heard] if heard == "joined" => joined.push(room),
            heard => assert_eq!(heard, ["error too_many_rooms 429"]),
        }
    }
    let refused = rooms.len() - joined.len();
    assert_eq!(node.cores.total(|counters| &counters.rooms_full), refused as u64);
    joined
}

#[test]
fn a_node_has_copies_of_so_many_rooms_and_of_the_lobby() {
    for is_opened in [true, false] {
        assert_eq!(joined(is_opened, &["lobby", "a", "b", "c", "d"]), ["lobby", "a", "b"]);
        assert_eq!(joined(is_opened, &["a", "b", "c", "d", "lobby"]).last(), Some(&"lobby"), "on top of it");
    }
}

#[test]
fn a_node_has_no_room_more_where_nobody_is_in_the_lobby() {
    for is_opened in [true, false] {
        assert_eq!(joined(is_opened, &["a", "b", "c"]), ["a", "b"]);
    }
}

#[test]
fn who_may_make_a_room_does_so_although_somebody_has_asked_who_may_not() {
    let mut node = Node::new(|config| config.auth.api_keys = programs(&["ci"]));
    let clients = ["ann", "bob", "carol"].map(|name| node.enter(name, &[]));
    let [ann, bob, carol] = clients;
    node.holds = |request| matches!(request, BackplaneRequest::Open { .. });
    node.say(bob, r#"{"type":"members","room":"den"}"#);
    node.say(ann, r#"{"type":"join","room":"den"}"#);
    node.say(carol, r#"{"type":"members","room":"hall"}"#);
    let web = node.cores.connect(0, ListenKind::Web);
    let request = "POST /api/rooms/hall/messages HTTP/1.1\r\nHost: a\r\nX-API-Key: ci\r\n\
                   Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"content\":\"x\"}";
    node.cores.receive(web, request.as_bytes());
    node.settle();
    assert_eq!(node.asked("").iter().filter(|words| words.contains("hall")).count(), 1);
    node.release();
    assert_eq!(node.hears(bob), ["error no_such_room 404"]);
    assert_eq!(node.hears(carol), ["error no_such_room 404"]);
    assert_eq!(node.hears(ann), ["joined"]);
    assert!(node.cores.heard(web).starts_with("HTTP/1.1 200"));
    assert_eq!(node.asked("make"), ["make den", "make hall"]);
    // Whoever was to make it and is told that it is not there does not ask for ever.
    node.holds = |request| matches!(request, BackplaneRequest::Open { .. });
    node.say(bob, r#"{"type":"join","room":"attic"}"#);
    let web = node.cores.connect(0, ListenKind::Web);
    node.cores.receive(web, request.replace("hall", "attic").as_bytes());
    node.settle();
    let room: Arc<str> = "attic".into();
    node.tell(BackplaneNews::Opened { room, outcome: Ok(None), is_catch_up: false });
    assert_eq!(node.hears(bob), ["error no_such_room 404"]);
    assert!(node.cores.heard(web).starts_with("HTTP/1.1 404"));
}

#[test]
fn a_copy_begins_with_the_messages_that_are_kept() {
    let mut node = Node::new(|_| {});
    node.make("den");
    for content in ["1", "2", "3", "4"] {
        node.place("den", "zoe", content);
    }
    let kept = node.rooms.get_mut("den").unwrap();
    kept.entries.drain(..2);
    let ann = node.enter("ann", &["den"]);
    assert_eq!(history(&mut node, ann, "den"), ["3", "4"]);
    say(&mut node, "den", &["5"]);
    assert_eq!(node.events(ann)[0]["offset"], 5);
    assert_eq!(history(&mut node, ann, "den"), ["3", "4", "5"]);
}

#[test]
fn a_copy_is_as_far_as_it_is_told_to_be() {
    let mut node = Node::new(|_| {});
    node.make("den");
    // Changes that have no effect are not among the entries, perhaps.
    node.rooms.get_mut("den").unwrap().at = Position { change: 5, offset: 0 };
    let ann = node.enter("ann", &["den"]);
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    assert_eq!(node.hears(ann), ["presence join carol"]);
    assert!(node.asked("catch").is_empty());
    // What it was told when it was opened it knows again.
    let mut node = Node::new(|_| {});
    node.make("den");
    let entry = node.append("den", OTHER, 7, vec![join("2.0.0.1", "carol")]);
    node.enter("ann", &[]);
    let bob = node.enter("bob", &[]);
    node.say(bob, r#"{"type":"members","room":"den"}"#);
    node.announce("den", vec![entry.clone()]);
    assert!(node.asked("renew").is_empty());
    let LogEntry::Change { position, timestamp_ms, node: of, ops, .. } = entry else { unreachable!() };
    node.announce("den", vec![LogEntry::Change { position, timestamp_ms, node: of, tag: 8, ops }]);
    assert_eq!(node.asked("renew"), ["renew den at 1.0"]);
}

#[test]
fn an_epoch_that_a_room_has_left_is_not_gone_back_to() {
    // So many are remembered, and no more.
    for (epochs, is_known) in [(1, true), (8, true), (9, false)] {
        let (mut node, ann) = den();
        say(&mut node, "den", &["kept"]);
        node.hears(ann);
        let first = node.rooms["den"].epoch.clone();
        for number in 1..=epochs {
            change_epoch(&mut node, &format!("epoch {number}"));
        }
        assert_eq!(node.cores.total(|counters| &counters.copies_replaced), epochs);
        assert_eq!(node.hears(ann), ["bye internal 4200"]);
        node.log.clear();
        node.holds = holds_renewals;
        change_epoch(&mut node, &first);
        if !is_known {
            assert!(node.asked("renew").is_empty());
            continue;
        }
        let renew = held_renewal(&mut node);
        assert_eq!(renew.lost.epoch, first);
        assert_eq!(renew.lost.known, Position { change: u64::MAX, offset: u64::MAX });
        assert!(renew.epoch != first && renew.snapshot.is_some_and(|snapshot| snapshot.contains("ann")));
        let [LogEntry::Message { position, message, .. }] = &renew.messages[..] else { panic!() };
        assert_eq!((position.offset, &*message.content), (1, "kept"));
    }
}

#[test]
fn what_nobody_has_vouched_for_is_not_taken_for_what_there_is() {
    let (mut node, _) = den();
    say(&mut node, "den", &["1"]);
    node.holds = holds_renewals;
    let kept = node.rooms.get_mut("den").unwrap();
    (kept.is_doubtful, kept.at) = (true, Position { change: 7, offset: 9 });
    change_epoch(&mut node, "doubtful");
    let renew = held_renewal(&mut node);
    assert_eq!((&*renew.lost.epoch, renew.lost.known), ("doubtful", Position { change: 7, offset: 9 }));
    assert_eq!(renew.lost.position, Position { change: 1, offset: 1 }, "where the copy is");
}

#[test]
fn a_copy_that_has_got_further_since_it_asked_asks_again() {
    let (mut node, _) = den();
    node.holds = |request| matches!(request, BackplaneRequest::CatchUp(_));
    let before = node.opened("den");
    node.rooms.get_mut("den").unwrap().is_doubtful = true;
    node.tell_where("den");
    assert_eq!(node.asked("catch"), ["catch up den at 1.0"]);
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    let opened = |opened| BackplaneNews::Opened {
        room: "den".into(),
        outcome: Ok(Some(Box::new(opened))),
        is_catch_up: true,
    };
    node.tell(opened(before.clone()));
    assert_eq!(node.asked("renew"), [""; 0]);
    assert_eq!(node.held.len(), 2);
    // It has asked with all that it knows, and the answer is less than that: it is lost.
    node.tell(opened(before));
    assert_eq!(node.asked("renew"), ["renew den at 2.0"]);
}

#[test]
fn a_room_that_nobody_has_a_copy_of_begins_anew_with_what_is_left() {
    let mut node = Node::new(|_| {});
    node.make("den");
    let kept = node.rooms.get_mut("den").unwrap();
    let snapshot = r#"{"members":[{"nickname":"carol","role":"host","last_active_ms":0,"seniority":1,
        "sessions":[{"session":"2.0.0.1","is_connected":true}]}],"arrivals":1,"state_version":0}"#;
    (kept.snapshot, kept.is_doubtful) = (Some((3, snapshot.into())), true);
    kept.at = Position { change: 3, offset: 4 };
    node.append("den", OTHER, 1, vec![join("2.0.0.2", "dora")]);
    // Somebody who was here once, of which nothing is to be undone before it has begun anew.
    node.append("den", OWN, 900, vec![join("1.0.99.0", "eve")]);
    node.place("den", "carol", "5");
    node.place("den", "dora", "6");
    // Of two more messages nothing is left.
    node.rooms.get_mut("den").unwrap().at.offset = 8;
    node.holds = holds_renewals;
    let ann = node.enter("ann", &["den"]);
    let of_den = |words: &String| words.contains("den");
    let asked: Vec<String> = node.asked("").into_iter().filter(of_den).collect();
    assert_eq!(asked, ["make den", "renew den at 5.6"]);
    let renew = held_renewal(&mut node);
    assert_eq!(renew.lost.position, Position { change: 5, offset: 6 });
    assert_eq!(renew.lost.known, Position { change: 5, offset: 8 });
    let snapshot = renew.snapshot.as_ref().expect("its members");
    assert!(snapshot.contains("carol") && snapshot.contains("dora"), "{snapshot}");
    assert_eq!(renew.messages.len(), 2);
    let inventory = node.cores.shards[0].inventory();
    assert_eq!((inventory.rooms, inventory.history_bytes), (0, 0), "it is no copy");
    let number = node.cores.total(|counters| &counters.rooms_renewed);
    assert_eq!(number, 1);
    node.holds = |_| false;
    node.answer(0, BackplaneRequest::Renew(Box::new(renew)));
    assert_eq!(node.hears(ann), ["joined"]);
    assert_eq!(history(&mut node, ann, "den"), ["5", "6"]);
}

#[test]
fn a_room_that_is_contradicted_begins_anew_once() {
    let (mut node, ann) = den();
    say(&mut node, "den", &["so"]);
    node.hears(ann);
    node.holds = holds_renewals;
    let LogEntry::Message { position, timestamp_ms, mut message } = node.rooms["den"].entries[1].clone()
    else {
        panic!()
    };
    message.content = "otherwise".into();
    for _ in 0..2 {
        let message = message.clone();
        node.announce("den", vec![LogEntry::Message { position, timestamp_ms, message }]);
    }
    let renew = held_renewal(&mut node);
    assert!(node.held.is_empty());
    assert_eq!(renew.lost.known, Position { change: u64::MAX, offset: u64::MAX });
    assert_eq!(renew.lost.position, Position { change: 1, offset: 1 });
    assert!(renew.snapshot.is_none() && renew.messages.is_empty(), "others have heard how it goes on");
}

#[test]
fn what_is_replaced_takes_no_memory() {
    let (mut node, _) = den();
    let bytes = |node: &Node| node.cores.shards[0].inventory().history_bytes;
    say(&mut node, "den", &["1"]);
    let one = bytes(&node);
    assert!(one > 0);
    say(&mut node, "den", &["2", "3"]);
    assert_eq!(bytes(&node), 3 * one);
    node.rooms.get_mut("den").unwrap().entries.truncate(3);
    node.rooms.get_mut("den").unwrap().at.offset = 2;
    change_epoch(&mut node, "another");
    assert_eq!(bytes(&node), 2 * one);
}

#[test]
fn whoever_has_left_while_the_backplane_was_away_hears_no_more_of_the_room() {
    let (mut node, ann) = den();
    node.enter("bob", &["den"]);
    let reached = |node: &Node| node.cores.total(|counters| &counters.deliveries);
    node.hears(ann);
    node.down(Some("it does not answer"));
    node.say(ann, r#"{"type":"leave","room":"den","id":"1"}"#);
    assert_eq!(node.hears(ann), ["left left"]);
    let before = reached(&node);
    say(&mut node, "den", &["1"]);
    assert_eq!(reached(&node), before + 1);
    assert!(node.hears(ann).is_empty());
}
