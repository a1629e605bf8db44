//! What is to happen in shared rooms, from the wish to the answer.

use std::sync::Arc;

use starling::chat::name::Nickname;
use starling::chat::refusal::LeaveReason;
use starling::chat::room::Action;
use starling::config::ListenKind;
use starling::shard::backplane::{BackplaneNews, BackplaneRequest, Failed, LogEntry, Position, RoomOp};

use crate::cores::Client;
use crate::link::{Node, OTHER, OWN, THIRD, join, session};

/// A node with ann in a room.
fn den() -> (Node, Client) {
    let mut node = Node::new(|_| {});
    let ann = node.enter("ann", &["den"]);
    node.log.clear();
    (node, ann)
}

/// A node with ann in a room, where carol is in these places of other nodes.
fn den_with_carol_at(places: &[&str]) -> (Node, Client) {
    let (mut node, ann) = den();
    node.change("den", OTHER, 1, places.iter().map(|place| join(place, "carol")).collect());
    node.hears(ann);
    node.log.clear();
    (node, ann)
}

/// Carol leaves, and then nobody of that name is there.
fn carol_leaves_for_good(mut node: Node, carol: Client, ann: Client) {
    node.say(carol, r#"{"type":"leave","room":"den"}"#);
    assert_eq!(node.hears(ann), ["presence leave carol left"]);
}

fn holds_changes(request: &BackplaneRequest) -> bool {
    matches!(request, BackplaneRequest::Append(_))
}

fn set(node: &mut Node, client: Client, key: &str) {
    node.say(client, &format!(r#"{{"type":"state","room":"den","key":"{key}","value":1,"id":"{key}"}}"#));
}

fn leave(written: &str, reason: LeaveReason) -> RoomOp {
    RoomOp::Leave { session: session(written), reason }
}

/// A change that is there, as another one: the same place, of somebody else.
fn contradict(node: &mut Node, change: u64) {
    let is_it =
        |entry: &&LogEntry| matches!(entry, LogEntry::Change { position, .. } if position.change == change);
    let mut entry = node.rooms["den"].entries.iter().find(is_it).expect("it is there").clone();
    if let LogEntry::Change { tag, .. } = &mut entry {
        *tag += 1_000_000;
    }
    node.announce("den", vec![entry]);
}

#[test]
fn changes_that_may_forbid_somebody_to_speak_say_so() {
    let (mut node, ann) = den();
    node.holds = holds_changes;
    let bob = node.cores.enter(0, "bob", &[]);
    node.settle();
    let mut is_guard = |client, line: &str| {
        node.say(client, line);
        let (core, request) = node.held.pop_front().expect("something is appended");
        let BackplaneRequest::Append(append) = &request else { panic!() };
        let is_guard = append.is_guard;
        node.answer(core, request);
        is_guard
    };
    assert!(!is_guard(bob, r#"{"type":"join","room":"den"}"#));
    assert!(!is_guard(ann, r#"{"type":"state","room":"den","key":"k","value":1}"#));
    assert!(is_guard(ann, r#"{"type":"role","room":"den","target":"bob","role":"host"}"#));
    assert!(is_guard(ann, r#"{"type":"mute","room":"den","target":"bob"}"#));
    assert!(is_guard(bob, r#"{"type":"leave","room":"den"}"#));
}

#[test]
fn what_is_refused_while_the_backplane_is_down_does_not_happen_later() {
    let (mut node, ann) = den();
    let bob = node.enter("bob", &["den"]);
    node.hears(ann);
    node.holds = holds_changes;
    set(&mut node, ann, "a");
    set(&mut node, bob, "b");
    node.down(Some("it does not answer"));
    for client in [ann, bob] {
        assert_eq!(node.hears(client), ["error backplane_down 503"]);
    }
    node.holds = |_| false;
    node.held.clear();
    node.down(None);
    node.log.clear();
    node.tell_where("den");
    // Of the first nobody knows whether it has its place: it is asked for again under its tag.
    assert_eq!(node.asked("append"), ["append den: set a"]);
    assert_eq!(node.hears(bob), ["state"]);
}

#[test]
fn a_node_that_has_been_away_finds_its_members_where_they_are() {
    let (mut node, ann) = den();
    let bob = node.enter("bob", &["den"]);
    node.cores.broken(bob);
    node.settle();
    node.log.clear();
    node.tell(BackplaneNews::Returned);
    assert_eq!(node.asked("append"), [""; 0], "all is as it should be");
    node.hears(ann);
    // It was taken for lost meanwhile.
    node.change("den", OTHER, 1, vec![RoomOp::LoseNode { node: OWN }]);
    assert_eq!(node.asked("append"), ["append den: join ann"]);
    assert_eq!(node.hears(ann), ["presence away ann", "presence back ann"]);
    node.change("den", OTHER, 2, vec![RoomOp::ForgetNode { node: OWN }]);
    let bobs = node.session("bob");
    assert_eq!(
        node.asked("append"),
        ["append den: join ann".to_owned(), format!("append den: join bob, detach {bobs}")]
    );
    // Whoever leaves just then is not brought back, and leaves once.
    node.holds = holds_changes;
    node.say(ann, r#"{"type":"leave","room":"den"}"#);
    let anns = node.session("ann");
    assert_eq!(node.asked("append"), [format!("append den: leave {anns} left")]);
    node.tell(BackplaneNews::Returned);
    node.release();
    assert_eq!(node.asked("append"), [""; 0]);
    assert_eq!(node.hears(ann).last().unwrap(), "left left");
}

#[test]
fn whoever_has_come_back_is_there_when_the_node_was_taken_for_lost() {
    let (mut node, ann) = den();
    node.cores.broken(ann);
    node.settle();
    let number = node.numbers["ann"];
    let ann = node.come_back("ann", number);
    assert_eq!(node.hears(ann), ["welcome ann"]);
    node.log.clear();
    node.change("den", OTHER, 1, vec![RoomOp::LoseNode { node: OWN }]);
    assert_eq!(node.asked("append"), ["append den: join ann"]);
}

#[test]
fn a_room_is_not_away_any_more_when_a_change_has_its_place() {
    let (mut node, ann) = den();
    node.holds = holds_changes;
    set(&mut node, ann, "a");
    node.tell(BackplaneNews::Unseen { room: "den".into() });
    assert_eq!(node.hears(ann), ["error backplane_down 503"]);
    node.release();
    assert_eq!(node.hears(ann), ["state"]);
    node.holds = |request| matches!(request, BackplaneRequest::CatchUp(_));
    set(&mut node, ann, "b");
    assert_eq!(node.hears(ann), ["ack", "state"]);
    assert_eq!(node.asked("catch"), [""; 0]);
}

#[test]
fn a_change_that_is_in_a_copy_made_anew_is_answered() {
    let (mut node, _) = den();
    let bob = node.enter("bob", &[]);
    node.holds = holds_changes;
    node.say(bob, r#"{"type":"join","room":"den","id":"1"}"#);
    let Some((_, BackplaneRequest::Append(append))) = node.held.pop_front() else { panic!() };
    // It has its place, and this node is told so when it has a copy that was made with it.
    node.append("den", OWN, append.tag, append.ops);
    let opened = Box::new(node.opened("den"));
    let position = Position { change: 2, offset: 0 };
    let at = Some((node.rooms["den"].epoch.clone(), position));
    node.holds = |request| matches!(request, BackplaneRequest::CatchUp(_) | BackplaneRequest::Append(_));
    node.tell(BackplaneNews::At { room: "den".into(), at, is_doubtful: false });
    let mut without_tag = opened;
    without_tag.snapshot = Some((2, snapshot_of(&["ann", "bob"], &node)));
    without_tag.entries.clear();
    node.tell(BackplaneNews::Opened {
        room: "den".into(),
        outcome: Ok(Some(without_tag)),
        is_catch_up: true,
    });
    assert!(node.hears(bob).is_empty());
    let (room, epoch): (Arc<str>, _) = ("den".into(), node.rooms["den"].epoch.clone());
    node.tell(BackplaneNews::Appended { room, epoch, tag: append.tag, outcome: Ok(position) });
    assert_eq!(node.hears(bob), ["joined"]);
}

/// A room with these members of this node, and no more.
fn snapshot_of(nicknames: &[&str], node: &Node) -> String {
    let member = |(number, nickname): (usize, &&str)| {
        serde_json::json!({
            "nickname": nickname, "role": "member", "last_active_ms": 0, "seniority": number,
            "sessions": [{ "session": node.session(nickname).to_string(), "is_connected": true }],
        })
    };
    let members: Vec<_> = nicknames.iter().enumerate().map(member).collect();
    serde_json::json!({ "members": members, "arrivals": nicknames.len(), "state_version": 0 }).to_string()
}

#[test]
fn a_message_that_was_not_asked_for_is_refused_at_once() {
    let (mut node, ann) = den();
    let bob = node.enter("bob", &["den"]);
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    node.holds = |request| matches!(request, BackplaneRequest::Publish(_));
    node.say(ann, r#"{"type":"message","room":"den","content":"sent","id":"1"}"#);
    node.change("den", OTHER, 2, vec![leave("2.0.0.1", LeaveReason::Left)]);
    node.say(bob, r#"{"type":"message","room":"den","content":"waits","id":"2"}"#);
    assert_eq!(node.asked("publish"), ["publish sent"]);
    for client in [ann, bob] {
        node.hears(client);
    }
    node.down(Some("it does not answer"));
    assert_eq!(node.hears(bob), ["error backplane_down 503"]);
    assert_eq!(node.hears(ann), [""; 0], "perhaps it has its place");
    assert_eq!(node.cores.total(|counters| &counters.backplane_refused), 1);
    let Some((_, BackplaneRequest::Publish(publish))) = node.held.pop_front() else { panic!() };
    let (room, tag) = (publish.at.room, publish.message.tag);
    node.tell(BackplaneNews::Published { room, tag, outcome: Err(Failed::Down) });
    assert_eq!(node.hears(ann), ["error backplane_down 503"]);
    node.release();
    node.down(None);
    node.tell_where("den");
    assert_eq!(node.asked("publish"), [""; 0]);
}

#[test]
fn the_last_changes_are_known_again() {
    for (changes, contradicted, is_noticed) in [
        (3, 1, true),
        (4, 3, true),
        (64, 1, true),
        (65, 1, false),
        (65, 2, true),
        (200, 137, true),
        (200, 136, false),
    ] {
        let (mut node, _) = den();
        // The first is ann's.
        for change in 2..=changes {
            node.change("den", OTHER, change, vec![RoomOp::LoseNode { node: THIRD }]);
        }
        node.holds = |request| matches!(request, BackplaneRequest::Renew(_));
        contradict(&mut node, contradicted);
        assert_eq!(node.asked("renew").len(), usize::from(is_noticed), "{contradicted} of {changes}");
    }
}

#[test]
fn whoever_has_left_elsewhere_is_told_so_here() {
    let (mut node, ann) = den();
    let anns = node.session("ann");
    let reason = LeaveReason::Left;
    node.change("den", OTHER, 1, vec![RoomOp::Leave { session: anns, reason }]);
    assert_eq!(node.hears(ann), ["left left"]);
    node.say(ann, r#"{"type":"join","room":"den"}"#);
    assert_eq!(node.hears(ann), ["joined"]);
    // Whoever leaves here is told once.
    node.say(ann, r#"{"type":"leave","room":"den"}"#);
    assert_eq!(node.hears(ann), ["left left"]);
}

/// How somebody who is in a room has left it before: not at all, by her own wish, as another node has said, or so and it is not known here.
/// When it is known she has joined again.
#[derive(Clone, Copy, PartialEq)]
enum Left {
    Never,
    Here,
    Elsewhere,
    Unheard,
}

/// What somebody on a text line, where others are interrupted, hears when the copy of the room is replaced by one with the same entries; and
/// of the next message.
fn replaced_for_text(left: Left) -> String {
    let mut node = Node::new(|_| {});
    let ann = node.cores.connect(0, ListenKind::Line);
    for line in ["ann", "/join den"] {
        node.say(ann, line);
    }
    let said = node.place("den", "zoe", "before");
    node.announce("den", vec![said]);
    if left == Left::Here {
        node.say(ann, "/leave");
    } else if left != Left::Never {
        let op = RoomOp::Leave { session: node.session("ann"), reason: LeaveReason::Left };
        let entry = node.append("den", OTHER, 5, vec![op]);
        if left == Left::Elsewhere {
            node.announce("den", vec![entry]);
        }
    }
    if [Left::Here, Left::Elsewhere].contains(&left) {
        node.say(ann, "/join den");
    }
    node.cores.heard(ann);
    let outcome = Ok(Some(Box::new(node.opened("den"))));
    node.tell(BackplaneNews::Opened { room: "den".into(), outcome, is_catch_up: true });
    let said = node.place("den", "zoe", "behind");
    node.announce("den", vec![said]);
    assert!(!node.cores.is_over(ann));
    node.cores.heard(ann)
}

#[test]
fn that_somebody_has_left_before_a_copy_was_replaced_is_not_told_again() {
    for left in [Left::Never, Left::Here, Left::Elsewhere] {
        assert!(!replaced_for_text(left).contains("left den"));
    }
    assert!(replaced_for_text(Left::Unheard).ends_with("left den\n"));
}

#[test]
fn people_on_text_lines_hear_nothing_again_when_a_copy_is_replaced() {
    assert_eq!(replaced_for_text(Left::Never), "[den] zoe: behind\n");
}

#[test]
fn people_on_text_lines_go_on_hearing_a_room_when_a_copy_is_replaced() {
    for left in [Left::Here, Left::Elsewhere] {
        let heard = replaced_for_text(left);
        assert!(heard.ends_with("[den] zoe: behind\n"), "{heard}");
    }
}

#[test]
fn whoever_is_about_to_come_here_and_has_left_there_is_told() {
    for (reason, is_told) in
        [(LeaveReason::Left, true), (LeaveReason::Quit, true), (LeaveReason::Timeout, false)]
    {
        let (mut node, _) = den();
        node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
        node.holds = holds_changes;
        let carol = node.come_from("2.0.0.1", "carol", 7, "den");
        assert_eq!(node.hears(carol), ["welcome carol"], "before the room has heard of it");
        node.change("den", OTHER, 2, vec![leave("2.0.0.1", reason)]);
        assert_eq!(node.hears(carol), [""; 0], "it may have come again there");
        if is_told {
            // Nor does it join by itself meanwhile.
            node.tell(BackplaneNews::Returned);
        }
        node.log.clear();
        node.release();
        let expected = if is_told { vec![format!("left {}", reason.as_str())] } else { Vec::new() };
        assert_eq!(node.hears(carol), expected);
        let is_back = node.asked("append").iter().any(|words| words.contains("join carol"));
        assert_eq!(is_back, !is_told, "{reason:?}");
    }
}

/// A fault: what was heard here was behind, and whoever had left, and come again, was told that it had left, and was a member all the same.
#[test]
fn whoever_is_about_to_come_here_and_has_left_there_and_come_again_is_a_member() {
    let (mut node, ann) = den();
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    node.holds = holds_changes;
    let carol = node.come_from("2.0.0.1", "carol", 7, "den");
    node.change("den", OTHER, 2, vec![leave("2.0.0.1", LeaveReason::Left)]);
    node.change("den", OTHER, 3, vec![join("2.0.0.1", "carol")]);
    node.hears(ann);
    node.release();
    assert_eq!(node.hears(carol), ["welcome carol"]);
    node.say(ann, r#"{"type":"members","room":"den","id":"1"}"#);
    assert_eq!(node.cores.told(ann, "members", "total"), [2]);
    // What is said of it here counts from now on.
    node.log.clear();
    node.change("den", OTHER, 4, vec![RoomOp::LoseNode { node: OWN }]);
    node.tell(BackplaneNews::Returned);
    assert!(node.asked("append").iter().any(|words| words.contains("join carol")));
}

#[test]
fn whoever_is_about_to_come_here_and_is_put_out_there_does_not_come_back() {
    let (mut node, ann) = den();
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    node.holds = holds_changes;
    node.come_from("2.0.0.1", "carol", 7, "den");
    let (target, session) = (Nickname::parse("carol").unwrap(), node.session("ann"));
    let action = Action::Kick;
    node.hears(ann);
    node.change(
        "den",
        OTHER,
        2,
        vec![RoomOp::Moderate { session, action, target, reason: None, seconds: None }],
    );
    assert_eq!(node.hears(ann), ["presence leave carol kicked"]);
    node.log.clear();
    node.release();
    node.tell(BackplaneNews::Returned);
    assert_eq!(node.asked("append"), [""; 0]);
    assert_eq!(node.hears(ann), [""; 0]);
}

#[test]
fn whoever_went_on_elsewhere_and_comes_back_here_is_a_member_again() {
    // So many are remembered, the last ones.
    for others in [0, 255, 256] {
        let mut node = Node::new(|config| config.limits.connections_per_address = 1_000);
        let ann = node.enter("ann", &["den"]);
        let number = node.numbers["ann"];
        node.cores.broken(ann);
        node.settle();
        let go_elsewhere = |node: &mut Node, name: &str, index: usize| {
            let (old, session) = (node.session(name), session(&format!("2.0.{index}.1")));
            node.change("den", OTHER, index as u64, vec![RoomOp::Attach { old, session }]);
        };
        go_elsewhere(&mut node, "ann", 0);
        for index in 1..=others {
            let name = format!("other-{index}");
            node.enter(&name, &["den"]);
            go_elsewhere(&mut node, &name, index);
        }
        // It ends there. Whoever has it here has not heard that it went there.
        node.change("den", OTHER, 1_000, vec![leave("2.0.0.1", LeaveReason::Timeout)]);
        node.log.clear();
        let ann = node.come_back("ann", number);
        let is_known = others < 256;
        let last = if is_known { "welcome ann" } else { "left kicked" };
        assert_eq!(node.hears(ann).last().unwrap(), last, "{others}");
        let is_back = node.asked("append").iter().any(|words| words.ends_with("join ann"));
        assert_eq!(is_back, is_known, "{others}");
    }
}

#[test]
fn whoever_has_left_goes_from_where_it_went_on_too() {
    let (mut node, ann) = den();
    node.enter("bob", &["den"]);
    let carol = node.enter("carol", &["den"]);
    node.hears(ann);
    node.log.clear();
    node.holds = holds_changes;
    node.say(ann, r#"{"type":"leave","room":"den"}"#);
    let [anns, bobs] = ["ann", "bob"].map(|name| node.session(name));
    node.change("den", OTHER, 1, vec![RoomOp::Attach { old: bobs, session: session("2.0.0.2") }]);
    node.change("den", OTHER, 2, vec![RoomOp::Attach { old: anns, session: session("2.0.0.1") }]);
    node.release();
    assert_eq!(
        node.asked("append"),
        [format!("append den: leave {anns} left"), "append den: leave 2.0.0.1 left".to_owned()]
    );
    assert_eq!(node.hears(ann), ["left left"]);
    assert_eq!(node.hears(carol), ["presence leave ann left", "presence role bob"]);
}

#[test]
fn a_session_that_has_joined_by_itself_is_there_once() {
    let (mut node, ann) = den();
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    node.change("den", OTHER, 2, vec![join("2.0.0.2", "carol")]);
    let attach = |old: &str, new: &str| vec![RoomOp::Attach { old: session(old), session: session(new) }];
    node.change("den", OTHER, 3, attach("2.0.0.1", "2.0.0.2"));
    node.hears(ann);
    node.change("den", OTHER, 4, vec![leave("2.0.0.1", LeaveReason::Timeout)]);
    assert_eq!(node.hears(ann), [""; 0]);
    // The same again is nothing.
    node.change("den", OTHER, 5, attach("2.0.0.2", "2.0.0.2"));
    assert_eq!(node.hears(ann), [""; 0]);
    node.change("den", OTHER, 6, attach("2.0.0.2", "3.0.0.1"));
    node.change("den", OTHER, 7, vec![leave("2.0.0.2", LeaveReason::Timeout)]);
    assert_eq!(node.hears(ann), [""; 0]);
    node.change("den", OTHER, 8, vec![leave("3.0.0.1", LeaveReason::Timeout)]);
    assert_eq!(node.hears(ann), ["presence leave carol timeout"]);
}

/// A fault: a session was taken by a node that said so in the room and was lost before it had kept it. Here it joined anew, and was shown
/// where it had been meanwhile, as one who is away, when it had left.
#[test]
fn whoever_comes_by_way_of_a_node_that_is_lost_is_in_the_room_once() {
    let (mut node, ann) = den_with_carol_at(&["3.0.0.1"]);
    let carol = node.come_by_way_of(&["3.0.0.1"], "2.0.0.1", "carol", 77, "den");
    assert_eq!(node.hears(carol), ["welcome carol"]);
    let here = node.session("carol");
    assert_eq!(node.asked("append"), [format!("append den: attach 3.0.0.1 as {here}")]);
    carol_leaves_for_good(node, carol, ann);
}

#[test]
fn whoever_is_in_a_room_in_two_places_goes_on_from_the_last_one_and_is_there_once() {
    // Kept at the first and taken since; kept at the first, where it had been elsewhere before.
    for (places, from, other) in
        [(["3.0.0.1", "2.0.0.1"], "3.0.0.1", "2.0.0.1"), (["3.0.0.1", "3.0.0.2"], "2.0.0.1", "3.0.0.1")]
    {
        let (mut node, ann) = den_with_carol_at(&["2.0.0.1", "3.0.0.1"]);
        let carol = node.come_by_way_of(&places, "2.0.0.1", "carol", 77, "den");
        let here = node.session("carol");
        let expected =
            [format!("append den: attach {from} as {here}"), format!("append den: leave {other} timeout")];
        assert_eq!(node.asked("append"), expected);
        carol_leaves_for_good(node, carol, ann);
    }
}

#[test]
fn whoever_is_said_to_be_elsewhere_before_it_is_here_goes_on_from_there() {
    let (mut node, ann) = den_with_carol_at(&["2.0.0.1"]);
    node.holds = holds_changes;
    let carol = node.come_by_way_of(&["3.0.0.1"], "2.0.0.1", "carol", 77, "den");
    let here = node.session("carol");
    // The node where it was meanwhile comes first.
    let (old, meanwhile) = (session("2.0.0.1"), session("3.0.0.1"));
    node.change("den", THIRD, 2, vec![RoomOp::Attach { old, session: meanwhile }]);
    node.release();
    assert_eq!(
        node.asked("append"),
        [format!("append den: attach 2.0.0.1 as {here}"), format!("append den: attach 3.0.0.1 as {here}")]
    );
    carol_leaves_for_good(node, carol, ann);
}

#[test]
fn whoever_goes_on_here_by_a_change_that_nobody_waits_for_is_here() {
    let (mut node, _) = den();
    node.enter("carol", &[]);
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    let here = node.session("carol");
    node.change("den", OWN, 999, vec![RoomOp::Attach { old: session("2.0.0.1"), session: here }]);
    node.log.clear();
    node.tell(BackplaneNews::Returned);
    assert_eq!(node.asked("append"), [""; 0]);
}

#[test]
fn another_nickname_is_acknowledged_although_a_room_is_away_and_told_there_later() {
    let (mut node, ann) = den();
    let bob = node.enter("bob", &["den"]);
    node.hears(ann);
    node.log.clear();
    node.tell(BackplaneNews::Unseen { room: "den".into() });
    node.holds = |request| matches!(request, BackplaneRequest::CatchUp(_));
    node.say(ann, r#"{"type":"nick","nickname":"anna","id":"1"}"#);
    assert_eq!(node.hears(ann), ["ack"]);
    assert_eq!(node.asked("append"), [""; 0]);
    node.release();
    assert_eq!(node.asked("append").last().unwrap(), "append den: rename anna");
    assert_eq!(node.hears(bob), ["presence nick anna"]);
}

/// A change of another node's in a place of `den`, as the backplane gives places when it has lost what it gave them to before.
fn of_another(node: &Node, change: u64) -> LogEntry {
    let position = Position { change, offset: 0 };
    let ops = vec![RoomOp::LoseNode { node: THIRD }];
    LogEntry::Change { position, timestamp_ms: node.unix_ms(), node: OTHER, tag: 77, ops }
}

#[test]
fn a_change_whose_place_is_anothers_begins_the_room_anew() {
    for comes_early in [false, true] {
        let (mut node, ann) = den();
        node.holds = holds_changes;
        set(&mut node, ann, "a");
        let Some((core, BackplaneRequest::Append(append))) = node.held.pop_front() else { panic!() };
        node.holds = |request| matches!(request, BackplaneRequest::Renew(_) | BackplaneRequest::CatchUp(_));
        let (room, epoch) = (append.at.room.clone(), append.at.epoch.clone());
        // Change 2 is what nobody here has heard of; 3 is promised, and somebody else's.
        let other = of_another(&node, 3);
        if comes_early {
            node.announce("den", vec![other.clone()]);
        }
        let outcome = Ok(Position { change: 3, offset: 0 });
        node.tell(BackplaneNews::Appended { room, epoch, tag: append.tag, outcome });
        if !comes_early {
            assert_eq!(node.asked("renew"), [""; 0]);
            node.announce("den", vec![other]);
        }
        assert_eq!(node.asked("renew"), ["renew den at 1.0"], "{comes_early}");
        node.answer(core, BackplaneRequest::Append(append));
        node.release();
        node.settle();
        // It is done again, where it has its place now; and what ann has missed she is told when she comes back.
        assert_eq!(node.hears(ann), ["ack", "state", "bye internal 4200"]);
    }
}

#[test]
fn a_change_that_is_in_the_place_it_was_promised_contradicts_nothing() {
    let (mut node, ann) = den();
    node.holds = holds_changes;
    set(&mut node, ann, "a");
    node.holds = |request| matches!(request, BackplaneRequest::Renew(_) | BackplaneRequest::CatchUp(_));
    let before = node.append("den", OTHER, 77, vec![RoomOp::LoseNode { node: THIRD }]);
    let Some((core, append)) = node.held.pop_front() else { panic!() };
    // Its own comes before the one that has its place before.
    node.answer(core, append);
    node.announce("den", vec![before]);
    assert_eq!(node.asked("renew"), [""; 0]);
    assert_eq!(node.hears(ann), ["ack", "state"]);
}

#[test]
fn who_inherits_a_room_from_those_of_a_node_that_is_forgotten_is_told_to_be_its_host() {
    let mut node = Node::new(|_| {});
    node.make("den");
    node.append("den", OTHER, 1, vec![join("2.0.0.1", "zoe")]);
    let ann = node.enter("ann", &["den"]);
    node.enter("bob", &["den"]);
    node.events(ann);
    node.change("den", THIRD, 1, vec![RoomOp::LoseNode { node: OTHER }]);
    node.events(ann);
    node.change("den", THIRD, 2, vec![RoomOp::ForgetNode { node: OTHER }]);
    let told = node.events(ann);
    let told: Vec<[&str; 4]> = told
        .iter()
        .map(|event| ["event", "nickname", "reason", "role"].map(|field| event[field].as_str().unwrap_or("")))
        .collect();
    assert_eq!(told, [["leave", "zoe", "timeout", ""], ["role", "ann", "", "host"]]);
}

#[test]
fn people_on_text_lines_go_on_hearing_a_room_that_has_forgotten_them_until_they_are_back() {
    let mut node = Node::new(|_| {});
    let ann = node.cores.connect(0, ListenKind::Line);
    for line in ["ann", "/join den"] {
        node.say(ann, line);
    }
    node.cores.heard(ann);
    // The backplane has lost what it had, but for how far it was.
    node.rooms.get_mut("den").unwrap().entries.clear();
    node.holds = holds_changes;
    node.log.clear();
    let outcome = Ok(Some(Box::new(node.opened("den"))));
    node.tell(BackplaneNews::Opened { room: "den".into(), outcome, is_catch_up: true });
    assert_eq!(node.asked("append").first().map(String::as_str), Some("append den: join ann"));
    for content in ["one", "two"] {
        let said = node.place("den", "zoe", content);
        node.announce("den", vec![said]);
        assert_eq!(node.cores.heard(ann), format!("[den] zoe: {content}\n"));
        node.release();
        node.cores.heard(ann);
    }
}
