//! Members that nobody is any more, as their session came here and could not be taken back into the room.

use starling::shard::backplane::{BackplaneNews, BackplaneRequest, Failed};

use crate::cores::Client;
use crate::link::{Node, OTHER, join};
use crate::logs;

/// Somebody comes from another node, and the room where it was is not there, or cannot be reached.
fn come_to_a_room_that_is_away(is_there: bool) -> (Node, Client) {
    let mut node = Node::new(|_| {});
    if is_there {
        node.make("den");
        node.append("den", OTHER, 1, vec![join("2.0.0.1", "carol"), join("2.0.0.2", "dora")]);
    }
    node.holds = |request| matches!(request, BackplaneRequest::Open { .. });
    let carol = node.come_from("2.0.0.1", "carol", 77, "den");
    node.down(Some("it is played"));
    let outcome = Err(Failed::Down);
    node.tell(BackplaneNews::Opened { room: "den".into(), outcome, is_catch_up: false });
    assert_eq!(node.hears(carol), ["welcome carol"]);
    node.held.clear();
    node.holds = |_| false;
    node.log.clear();
    (node, carol)
}

/// What is asked of the room in so many milliseconds.
fn asked_in(node: &mut Node, ms: u64) -> Vec<String> {
    node.pass(ms);
    node.asked("")
        .into_iter()
        .filter(|words| words.starts_with("append den") || words == "open den")
        .collect()
}

/// A fault: whoever had come from another node, and could not be taken back into a room, was shown there, away, after it had left, if the
/// other node was gone.
#[test]
fn whoever_could_not_be_taken_back_into_a_room_is_no_member_when_that_is_reached() {
    let (mut node, carol) = come_to_a_room_that_is_away(true);
    assert_eq!(asked_in(&mut node, 5_000), [""; 0], "it is away");
    node.down(None);
    assert_eq!(asked_in(&mut node, 1_000), ["open den", "append den: leave 2.0.0.1 timeout"]);
    assert_eq!(asked_in(&mut node, 10_000), [""; 0], "once");
    node.say(carol, r#"{"type":"join","room":"den"}"#);
    assert_eq!(node.cores.told(carol, "joined", "members"), [2]);

    let (mut node, _) = come_to_a_room_that_is_away(false);
    node.down(None);
    assert_eq!(asked_in(&mut node, 10_000), ["open den"], "there is none");

    // After the time of grace it is no member in any case.
    let (mut node, _) = come_to_a_room_that_is_away(true);
    node.pass(131_000);
    node.down(None);
    assert_eq!(asked_in(&mut node, 10_000), [""; 0]);
}

#[test]
fn whoever_joins_a_room_anew_where_it_could_not_be_taken_back_is_there_once() {
    let (mut node, carol) = come_to_a_room_that_is_away(true);
    node.down(None);
    node.say(carol, r#"{"type":"join","room":"den"}"#);
    assert_eq!(asked_in(&mut node, 0), ["append den: join carol"]);
    assert_eq!(asked_in(&mut node, 1_000), ["append den: leave 2.0.0.1 timeout"]);
    node.say(carol, r#"{"type":"leave","room":"den"}"#);
    let bob = node.enter("bob", &[]);
    node.say(bob, r#"{"type":"join","room":"den"}"#);
    assert_eq!(node.cores.told(bob, "joined", "members"), [2], "dora is there too");
}

/// A room of which there is a copy that does not know carol, who comes from there.
fn come_to_a_copy_that_is_behind() -> Node {
    let mut node = Node::new(|_| {});
    node.enter("ann", &["den"]);
    let carol = node.come_from("2.0.0.1", "carol", 77, "den");
    assert_eq!(node.hears(carol), ["welcome carol"]);
    node.log.clear();
    node
}

#[test]
fn what_is_heard_late_of_where_somebody_was_leaves_as_long_as_a_copy_may_be_behind() {
    let mut node = come_to_a_copy_that_is_behind();
    assert_eq!(asked_in(&mut node, 9_000), [""; 0], "there is nobody");
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    assert_eq!(asked_in(&mut node, 1_000), ["append den: leave 2.0.0.1 timeout"]);

    let mut node = come_to_a_copy_that_is_behind();
    node.pass(12_000);
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    assert_eq!(asked_in(&mut node, 5_000), [""; 0]);
}

#[test]
fn whoever_leaves_a_room_that_it_could_not_be_taken_back_into_leaves_it_once() {
    let (mut node, _) = come_to_a_room_that_is_away(true);
    node.down(None);
    node.holds = |request| matches!(request, BackplaneRequest::Append(_));
    node.pass(5_000);
    node.release();
    assert_eq!(asked_in(&mut node, 0), ["open den", "append den: leave 2.0.0.1 timeout"]);
}

#[test]
fn as_many_members_are_remembered_as_is_said_and_it_is_said_when_there_are_more() {
    let warnings = || logs::logged("shared::strays").len();
    for (rooms, remembered, warned) in [(4_095, 4_095, 0), (4_096, 4_096, 1), (4_097, 4_096, 1)] {
        warnings();
        let mut node = Node::new(|_| {});
        let rooms: Vec<String> = (0..rooms).map(|index| format!("r{index}")).collect();
        node.holds = |request| matches!(request, BackplaneRequest::Open { .. });
        node.come_to(&rooms, &[], "2.0.0.1", "carol", 77);
        for room in &rooms {
            let outcome = Err(Failed::Down);
            node.tell(BackplaneNews::Opened { room: room.as_str().into(), outcome, is_catch_up: false });
        }
        assert_eq!(warnings(), warned);
        node.log.clear();
        node.pass(1_000);
        assert_eq!(node.asked("open").len(), remembered);
    }
}
