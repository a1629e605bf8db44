//! Messages of shared rooms, from the command to their place; and what is said that has none.

use std::sync::Arc;

use starling::chat::refusal::LeaveReason;
use starling::config::ListenKind;
use starling::shard::backplane::{
    BackplaneNews, BackplaneRequest, Failed, LogEntry, Placed, Position, Publish, RoomOp, SharedMessage,
};

use crate::cores::{Client, programs};
use crate::link::{Node, OTHER, join};
use crate::shared::say;

/// A node with ann in a room, which asks for places that the test gives.
fn den() -> (Node, Client) {
    let mut node = Node::new(|config| config.auth.api_keys = programs(&["ci"]));
    let ann = node.enter("ann", &["den"]);
    node.log.clear();
    node.holds = |request| {
        matches!(
            request,
            BackplaneRequest::Publish(_) | BackplaneRequest::Renew(_) | BackplaneRequest::CatchUp(_)
        )
    };
    (node, ann)
}

fn publish(node: &mut Node, client: Client, content: &str, id: Option<&str>) -> Publish {
    let line = serde_json::json!({ "type": "message", "room": "den", "content": content, "id": id });
    node.say(client, &line.to_string());
    match node.held.pop_front() {
        Some((_, BackplaneRequest::Publish(publish))) => *publish,
        other => panic!("{other:?}"),
    }
}

/// The place that a message is given: in this epoch of the room, if not in that which it has.
fn place(node: &mut Node, publish: &Publish, epoch: Option<&str>, offset: u64, is_repeated: bool) {
    let epoch = epoch.map_or_else(|| node.rooms["den"].epoch.clone(), Arc::from);
    let outcome = Ok(Placed { epoch, offset, timestamp_ms: node.unix_ms(), is_repeated });
    node.tell(BackplaneNews::Published { room: "den".into(), tag: publish.message.tag, outcome });
}

#[test]
fn only_what_has_an_id_may_come_again() {
    let (mut node, ann) = den();
    let number = node.numbers["ann"];
    for (id, key) in [(Some("x"), Some(format!("{number:x} x"))), (Some(""), None), (None, None)] {
        let publish = publish(&mut node, ann, "hi", id);
        assert_eq!(publish.key.as_deref(), key.as_deref(), "{id:?}");
    }
}

#[test]
fn a_place_that_is_anothers_is_a_loss() {
    // The copy has two messages; what is placed where, in which epoch, and whether it had come before.
    for (content, epoch, offset, is_repeated, is_lost, words) in [
        ("3", None, 3, false, false, "the next place"),
        ("9", None, 9, false, false, "one that lies ahead"),
        ("2", None, 2, false, false, "its own, which was heard before"),
        ("3", None, 2, false, true, "that of another message"),
        ("3", None, 1, false, true, "that of an older one"),
        ("3", None, 2, true, false, "that of the first time, when something else was said"),
        ("3", Some("before"), 2, false, false, "one of another history"),
    ] {
        let (mut node, ann) = den();
        say(&mut node, "den", &["1", "2"]);
        node.hears(ann);
        let publish = publish(&mut node, ann, content, Some("x"));
        place(&mut node, &publish, epoch, offset, is_repeated);
        assert_eq!(node.asked("renew").len(), usize::from(is_lost), "{words}");
        let answer = if is_lost { "error backplane_down 503" } else { "ack" };
        assert_eq!(node.hears(ann), [answer], "{words}");
        let [published, repeated] = [!is_lost && !is_repeated, is_repeated].map(u64::from);
        assert_eq!(node.cores.total(|counters| &counters.published), published, "{words}");
        assert_eq!(node.cores.total(|counters| &counters.repeated_commands), repeated, "{words}");
    }
}

#[test]
fn a_place_before_those_that_are_kept_is_no_loss() {
    let mut node = Node::new(|_| {});
    node.make("den");
    for content in ["1", "2", "3"] {
        node.place("den", "zoe", content);
    }
    node.rooms.get_mut("den").unwrap().entries.remove(0);
    let ann = node.enter("ann", &["den"]);
    node.holds = |request| matches!(request, BackplaneRequest::Publish(_));
    let publish = publish(&mut node, ann, "1", Some("x"));
    place(&mut node, &publish, None, 1, false);
    assert_eq!(node.hears(ann), ["ack"]);
    assert_eq!(node.asked("renew"), [""; 0]);
}

#[test]
fn what_was_said_before_or_in_another_history_promises_no_place() {
    for (epoch, is_repeated) in [(None, true), (Some("before"), false), (Some("before"), true)] {
        let (mut node, ann) = den();
        let publish = publish(&mut node, ann, "1", Some("x"));
        place(&mut node, &publish, epoch, 1, is_repeated);
        assert_eq!(node.hears(ann), ["ack"]);
        say(&mut node, "den", &["1"]);
        assert_eq!(node.asked("renew"), [""; 0]);
        assert_eq!(node.hears(ann), ["message 1"]);
    }
}

#[test]
fn a_message_that_has_no_place_is_refused() {
    for (why, asks) in [(Failed::Down, 0), (Failed::Lost, 1)] {
        let (mut node, ann) = den();
        let publish = publish(&mut node, ann, "1", None);
        let tag = publish.message.tag;
        node.tell(BackplaneNews::Published { room: "den".into(), tag, outcome: Err(why) });
        assert_eq!(node.hears(ann), ["error backplane_down 503"]);
        assert_eq!(node.asked("catch").len(), asks, "{why:?}");
        assert_eq!(node.cores.total(|counters| &counters.backplane_refused), 1);
    }
}

#[test]
fn nothing_gets_a_place_while_a_room_begins_anew() {
    let (mut node, _) = den();
    say(&mut node, "den", &["1"]);
    let LogEntry::Message { position, timestamp_ms, message } = node.rooms["den"].entries[1].clone() else {
        panic!()
    };
    let message = SharedMessage { content: "otherwise".into(), ..message };
    node.announce("den", vec![LogEntry::Message { position, timestamp_ms, message }]);
    assert_eq!(node.asked("renew").len(), 1);
    let web = node.cores.connect(0, ListenKind::Web);
    let request = "POST /api/rooms/den/messages HTTP/1.1\r\nHost: a\r\nX-API-Key: ci\r\n\
                   Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"content\":\"x\"}";
    node.cores.receive(web, request.as_bytes());
    node.settle();
    assert_eq!(node.asked("publish"), [""; 0]);
    node.release();
    assert_eq!(node.asked("publish"), ["publish x"]);
    assert!(node.cores.heard(web).starts_with("HTTP/1.1 200"));
    assert_eq!(node.cores.total(|counters| &counters.pushed), 1);
}

#[test]
fn whoever_comes_from_another_node_may_speak_at_once() {
    let (mut node, ann) = den();
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    node.change("den", OTHER, 2, vec![join("2.0.0.2", "dora")]);
    node.holds = |request| matches!(request, BackplaneRequest::Append(_));
    let carol = node.come_from("2.0.0.1", "carol", 7, "den");
    let dora = node.come_from("2.0.0.2", "dora", 8, "den");
    node.hears(ann);
    for (client, name) in [(carol, "carol"), (dora, "dora")] {
        assert_eq!(node.hears(client), [format!("welcome {name}")]);
        node.say(client, r#"{"type":"typing","room":"den"}"#);
        node.say(client, &format!(r#"{{"type":"message","room":"den","content":"{name}"}}"#));
        let events = node.events(ann);
        let said: Vec<_> =
            events.iter().map(|event| (&event["type"], &event["nickname"], &event["sender"])).collect();
        let expected = serde_json::json!(["typing", name, null, "message", null, name]);
        let said: Vec<_> = said.into_iter().flat_map(|(a, b, c)| [a.clone(), b.clone(), c.clone()]).collect();
        assert_eq!(serde_json::Value::from(said), expected);
    }
}

#[test]
fn a_message_that_came_too_early_is_looked_at_again() {
    let (mut node, ann) = den();
    let bob = node.enter("bob", &["den"]);
    node.hears(ann);
    let tags = [(ann, "1"), (bob, "2")]
        .map(|(client, content)| publish(&mut node, client, content, None).message.tag);
    let refuse = |node: &mut Node| {
        node.log.clear();
        node.held.clear();
        for tag in tags {
            let outcome = Err(Failed::Behind);
            node.tell(BackplaneNews::Published { room: "den".into(), tag, outcome });
        }
    };
    // The backplane knows of a change that this node has not heard of: it is asked for that, and then for the places, in their order.
    refuse(&mut node);
    assert_eq!(node.asked(""), ["catch up den at 2.0", "publish 1", "publish 2"]);
    let op = RoomOp::Leave { session: node.session("bob"), reason: LeaveReason::Left };
    node.change("den", OTHER, 1, vec![op]);
    assert_eq!(node.hears(bob), ["left left"]);
    refuse(&mut node);
    assert_eq!(node.asked("publish"), ["publish 1"]);
    let Some((_, BackplaneRequest::Publish(again))) = node.held.pop_back() else { panic!() };
    assert_eq!((again.message.tag, again.at.position), (tags[0], Position { change: 3, offset: 0 }));
    assert_eq!(node.hears(bob), ["error not_a_member 403"]);
    place(&mut node, &again, None, 1, false);
    assert_eq!(node.hears(ann), ["presence leave bob left"]);
}

#[test]
fn a_place_where_something_else_has_come_before_its_turn_is_a_loss() {
    for (offset, is_lost) in [(2, true), (3, false)] {
        let (mut node, ann) = den();
        let publish = publish(&mut node, ann, "mine", Some("x"));
        say_nothing_of_the_first(&mut node);
        assert_eq!(node.asked("renew"), [""; 0]);
        place(&mut node, &publish, None, offset, false);
        assert_eq!(node.asked("renew").len(), usize::from(is_lost), "{offset}");
    }
}

/// Two messages of another node have their places, and only the second has come.
fn say_nothing_of_the_first(node: &mut Node) {
    node.place("den", "zoe", "first");
    let second = node.place("den", "zoe", "second");
    node.announce("den", vec![second]);
}
