//! Entries of shared rooms: each is applied in its place, or shows that something is wrong.

use starling::config::Config;
use starling::shard::backplane::{
    BackplaneNews, BackplaneRequest, Failed, LogEntry, Placed, Position, RoomOp, SharedMessage,
};

use crate::cores::Client;
use crate::link::{Node, OTHER, OWN, THIRD, join};
use crate::shared::say;

/// How many entries that came before their turn are kept.
const EARLY_MAX: u64 = 1_024;

/// A node with ann in a room.
fn den() -> (Node, Client) {
    let mut node = Node::new(|_| {});
    let ann = node.enter("ann", &["den"]);
    node.log.clear();
    (node, ann)
}

fn holds_questions(request: &BackplaneRequest) -> bool {
    matches!(request, BackplaneRequest::CatchUp(_) | BackplaneRequest::Renew(_))
}

fn set(node: &mut Node, client: Client, key: &str) -> Vec<String> {
    node.say(client, &format!(r#"{{"type":"state","room":"den","key":"{key}","value":1,"id":"{key}"}}"#));
    node.hears(client)
}

/// A change of nothing.
fn nothing() -> Vec<RoomOp> {
    vec![RoomOp::LoseNode { node: THIRD }]
}

#[test]
fn a_copy_asks_for_what_it_misses_and_no_more() {
    // Doubtful, another epoch, another change, another offset; and then how often it asks.
    for (is_doubtful, is_other, change, offset, asked) in [
        (false, false, 1, 1, 0),
        (true, false, 1, 1, 1),
        (false, true, 1, 1, 1),
        (true, true, 1, 1, 1),
        (false, false, 2, 1, 1),
        (false, false, 1, 2, 1),
        (false, false, 0, 1, 1),
        (false, true, 7, 7, 1),
    ] {
        let (mut node, _) = den();
        say(&mut node, "den", &["1"]);
        node.holds = holds_questions;
        let epoch = if is_other { "another".into() } else { node.rooms["den"].epoch.clone() };
        // Told twice, it asks once.
        for _ in 0..2 {
            let at = Some((epoch.clone(), Position { change, offset }));
            node.tell(BackplaneNews::At { room: "den".into(), at, is_doubtful });
        }
        assert_eq!(node.held.len(), asked, "{is_doubtful} {is_other} {change} {offset}");
        if let Some((_, BackplaneRequest::CatchUp(at))) = node.held.pop_front() {
            assert_eq!(at.position, Position { change: 1, offset: 1 });
            let known = match is_other {
                true => at.position,
                false => Position { change: change.max(1), offset: offset.max(1) },
            };
            assert_eq!(at.known, known, "what it has been told of this history");
        }
    }
}

#[test]
fn a_change_that_nobody_has_heard_of_is_asked_for_again() {
    let (mut node, ann) = den();
    node.holds = |request| matches!(request, BackplaneRequest::Append(_) | BackplaneRequest::CatchUp(_));
    assert_eq!(set(&mut node, ann, "a"), [""; 0]);
    assert_eq!(node.asked("append"), ["append den: set a"]);
    node.tell_where("den");
    assert_eq!(node.asked("append"), ["append den: set a"]);
    // Not before it is known what has come before it.
    let epoch = node.rooms["den"].epoch.clone();
    let at = Some((epoch.clone(), Position { change: 2, offset: 0 }));
    node.tell(BackplaneNews::At { room: "den".into(), at, is_doubtful: false });
    node.tell_where("den");
    assert_eq!(node.asked("append"), [""; 0]);
    node.tell(BackplaneNews::CaughtUp { room: "den".into(), epoch, outcome: Ok(Vec::new()) });
    assert_eq!(node.asked("append"), ["append den: set a"]);
    // Nor twice where it is in its place.
    node.release();
    assert_eq!(node.hears(ann), ["ack", "state"]);
    node.asked("");
    node.tell_where("den");
    assert_eq!(node.asked(""), [""; 0]);
}

#[test]
fn whoever_has_left_without_a_backplane_leaves_when_it_is_back() {
    let (mut node, ann) = den();
    let anns = node.session("ann");
    node.down(Some("it does not answer"));
    node.say(ann, r#"{"type":"leave","room":"den"}"#);
    assert_eq!(node.hears(ann), ["left left"]);
    node.down(None);
    assert_eq!(node.asked("append"), [""; 0], "the link tells first where the room is");
    node.tell_where("den");
    assert_eq!(node.asked("append"), [format!("append den: leave {anns} left")]);
}

#[test]
fn a_room_that_is_away_is_tried_until_it_answers() {
    let (mut node, ann) = den();
    let down = ["error backplane_down 503"];
    node.tell(BackplaneNews::Unseen { room: "den".into() });
    node.holds = |request| matches!(request, BackplaneRequest::CatchUp(_));
    assert_eq!(set(&mut node, ann, "a"), down);
    let epoch = node.rooms["den"].epoch.clone();
    let outcome = Err(Failed::Down);
    node.tell(BackplaneNews::CaughtUp { room: "den".into(), epoch, outcome });
    assert_eq!(set(&mut node, ann, "b"), down);
    assert_eq!(node.asked("catch").len(), 2);
    node.release();
    assert_eq!(set(&mut node, ann, "c"), ["ack", "state"]);
}

#[test]
fn entries_that_come_too_early_wait_for_their_turn() {
    let (mut node, ann) = den();
    node.holds = holds_questions;
    let names = ["bob", "carol", "dora", "erin"];
    let entries: Vec<LogEntry> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            node.append("den", OTHER, number as u64, vec![join(&format!("2.0.0.{number}"), name)])
        })
        .collect();
    node.announce("den", vec![entries[1].clone()]);
    node.announce("den", vec![entries[3].clone(), entries[2].clone()]);
    assert_eq!(node.asked("catch"), ["catch up den at 1.0"]);
    assert_eq!(node.hears(ann), [""; 0]);
    node.announce("den", vec![entries[0].clone()]);
    assert_eq!(node.hears(ann), names.map(|name| format!("presence join {name}")));
    // What has come is over.
    node.announce("den", entries);
    assert_eq!(node.hears(ann), [""; 0]);
}

#[test]
fn of_what_comes_too_early_so_much_is_kept() {
    let mut node = Node::new(|config| config.limits.send_queue_bytes = 1 << 24);
    let ann = node.enter("ann", &["den"]);
    node.holds = holds_questions;
    let mut entries: Vec<LogEntry> = (0..EARLY_MAX + 3).map(|_| node.place("den", "zoe", "x")).collect();
    let first = entries.remove(0);
    node.announce("den", entries);
    node.announce("den", vec![first]);
    let events = node.events(ann);
    assert_eq!(events.last().unwrap()["offset"], EARLY_MAX + 1);
}

#[test]
fn whoever_wants_no_echo_hears_all_but_its_own() {
    let (mut node, ann) = den();
    let bob = node.enter("bob", &[]);
    node.say(bob, r#"{"type":"join","room":"den","echo":false}"#);
    node.holds = |request| matches!(request, BackplaneRequest::Publish(_));
    node.hears(bob);
    node.hears(ann);
    let ask = |node: &mut Node, client: Client, content: &str| {
        node.say(client, &format!(r#"{{"type":"message","room":"den","content":"{content}"}}"#));
        let Some((_, BackplaneRequest::Publish(publish))) = node.held.pop_front() else { panic!() };
        publish.message
    };
    let placed = |node: &mut Node, tag: u64, offset: u64| {
        let (epoch, timestamp_ms) = (node.rooms["den"].epoch.clone(), node.unix_ms());
        let outcome = Ok(Placed { epoch, offset, timestamp_ms, is_repeated: false });
        node.tell(BackplaneNews::Published { room: "den".into(), tag, outcome });
    };
    let entry = |node: &Node, message: SharedMessage, offset: u64| LogEntry::Message {
        position: Position { offset, ..node.rooms["den"].at },
        timestamp_ms: node.unix_ms(),
        message,
    };
    let hear = |node: &mut Node, message: SharedMessage, offset: u64| {
        let entry = entry(node, message, offset);
        node.announce("den", vec![entry]);
    };
    let [one, three, five] = ["1", "3", "5"].map(|content| ask(&mut node, bob, content));
    // Heard before it is acknowledged, and behind that, with one between of another node, which has tags of its own.
    let (tag_of_one, tag_of_three) = (one.tag, three.tag);
    hear(&mut node, one, 1);
    placed(&mut node, tag_of_one, 1);
    placed(&mut node, tag_of_three, 3);
    let two = SharedMessage { node: OTHER, content: "2".into(), ..three.clone() };
    hear(&mut node, two, 2);
    hear(&mut node, three, 3);
    // Whose it is is known where several are under way.
    let four = ask(&mut node, ann, "4");
    hear(&mut node, four, 4);
    hear(&mut node, five, 5);
    node.rooms.get_mut("den").unwrap().at.offset = 5;
    say(&mut node, "den", &["6"]);
    let heard = |node: &mut Node, client| {
        node.events(client)
            .iter()
            .filter_map(|event| event["content"].as_str().map(str::to_owned))
            .collect::<String>()
    };
    assert_eq!(heard(&mut node, ann), "123456");
    assert_eq!(heard(&mut node, bob), "246");
    assert_eq!(node.asked("renew"), [""; 0]);
}

#[test]
fn what_a_room_is_is_kept_after_its_changes() {
    let (mut node, ann) = den();
    let (mut changes, mut members) = (1, 1);
    let mut go_on = |node: &mut Node, until: u64| {
        while changes < until {
            changes += 1;
            node.change("den", OTHER, changes, nothing());
        }
    };
    // Those who have brought it about say how many there are.
    node.enter("bob", &["den"]);
    members += 1;
    assert_eq!(node.asked("keep den"), [format!("keep den at 2.0 with {members}")]);
    set(&mut node, ann, "k");
    assert_eq!(node.asked("keep den"), [""; 0], "there are no more and no fewer");
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    assert_eq!(node.asked("keep den"), [""; 0], "that is said there");
    members += 1;
    go_on(&mut node, 62 - 2);
    assert_eq!(node.asked("keep den"), [""; 0]);
    let at = |node: &Node| node.rooms["den"].at.change;
    while at(&node) < 63 {
        node.change("den", OTHER, 1, nothing());
    }
    assert_eq!(node.asked("keep den"), [""; 0]);
    node.change("den", OTHER, 1, nothing());
    assert_eq!(node.asked("keep den"), [format!("keep den at 64.0 with {members}, all")]);
    while at(&node) < 127 {
        node.change("den", OTHER, 1, nothing());
    }
    assert_eq!(node.asked("keep den"), [""; 0]);
    node.change("den", OTHER, 1, nothing());
    assert_eq!(node.asked("keep den"), [format!("keep den at 128.0 with {members}, all")]);
    assert!(Config::default().presence.exact_members > members, "each is told by itself");
}

#[test]
fn entries_that_cannot_have_their_place_begin_the_room_anew() {
    let epoch = |node: &Node| node.rooms["den"].epoch.clone();
    // The copy has one change and two messages.
    let message = |change, offset, content: &str| (change, offset, Some(content.to_owned()));
    for ((change, offset, content), is_noticed, words) in [
        (message(1, 3, "3"), false, "the next message"),
        (message(0, 3, "3"), true, "with a change less before it"),
        (message(2, 3, "3"), false, "with a change more before it, which has yet to come"),
        (message(1, 1, "1"), false, "the first again"),
        (message(1, 2, "2"), false, "the second again"),
        (message(1, 1, "2"), true, "another first"),
        (message(1, 2, "1"), true, "another second"),
        (message(1, 4, "4"), false, "one too early"),
        ((2, 2, None), false, "the next change"),
        ((2, 1, None), true, "with a message less before it"),
        ((2, 3, None), false, "with a message more before it, which has yet to come"),
        ((1, 0, None), true, "another first change"),
    ] {
        let (mut node, _) = den();
        say(&mut node, "den", &["1", "2"]);
        node.holds = holds_questions;
        let position = Position { change, offset };
        let timestamp_ms = node.unix_ms();
        let entry = match content {
            Some(content) => {
                let LogEntry::Message { message, .. } = node.rooms["den"].entries[1].clone() else {
                    panic!()
                };
                let message = SharedMessage { content: content.as_str().into(), ..message };
                LogEntry::Message { position, timestamp_ms, message }
            }
            None => LogEntry::Change { position, timestamp_ms, node: OTHER, tag: 77, ops: nothing() },
        };
        let (room, epoch) = ("den".into(), epoch(&node));
        node.tell(BackplaneNews::Entries { room, epoch, entries: vec![entry] });
        assert_eq!(node.asked("renew").len(), usize::from(is_noticed), "{words}");
    }
}

#[test]
fn a_place_that_was_promised_to_somebody_is_nobody_elses() {
    for (is_same_tag, node_of, is_noticed) in [(true, OWN, false), (false, OWN, true), (true, OTHER, true)] {
        let (mut node, ann) = den();
        node.holds = |request| !matches!(request, BackplaneRequest::Open { .. });
        node.say(ann, r#"{"type":"message","room":"den","content":"1","id":"1"}"#);
        let Some((_, BackplaneRequest::Publish(publish))) = node.held.pop_front() else { panic!() };
        let (epoch, timestamp_ms) = (node.rooms["den"].epoch.clone(), node.unix_ms());
        let tag = publish.message.tag;
        let outcome = Ok(Placed { epoch: epoch.clone(), offset: 1, timestamp_ms, is_repeated: false });
        node.tell(BackplaneNews::Published { room: "den".into(), tag, outcome });
        assert_eq!(node.hears(ann), ["ack"]);
        let tag = if is_same_tag { tag } else { tag + 1 };
        let message = SharedMessage { tag, node: node_of, ..publish.message };
        let position = Position { change: 1, offset: 1 };
        let entries = vec![LogEntry::Message { position, timestamp_ms, message }];
        node.tell(BackplaneNews::Entries { room: "den".into(), epoch, entries });
        assert_eq!(node.asked("renew").len(), usize::from(is_noticed), "{is_same_tag} {node_of}");
        assert_eq!(node.hears(ann).len(), usize::from(!is_noticed));
    }
}
