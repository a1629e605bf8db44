//! What a session hears back when it is ending.

use serde_json::json;
use starling::config::{AckLevel, ListenKind};
use starling::shard::backplane::BackplaneRequest;

use crate::cores::{Cores, programs};
use crate::link::{Node, OTHER, join};
use crate::tokens::admin_key;

#[test]
fn who_goes_before_it_has_the_session_that_it_came_for_leaves_it_in_no_room() {
    let mut cores = Cores::stored(1, |config| config.store.ack = AckLevel::Stored);
    let watcher = cores.enter(0, "watcher", &["den"]);
    let (alice, welcome) = cores.greet(0, &json!({ "nickname": "alice" }));
    cores.say(alice, r#"{"type":"join","room":"den"}"#);
    cores.slow_store(true);
    cores.say(alice, r#"{"type":"message","room":"den","content":"x","id":"1"}"#);
    let next = cores.connect(0, ListenKind::Line);
    cores.say(next, &json!({ "type": "hello", "resume": welcome["resume"] }).to_string());
    assert!(cores.is_over(alice));
    // Nobody waits for those who go from now on.
    cores.reconfigure(|config| config.session.grace_ms = 0);
    cores.broken(next);
    assert_eq!(cores.call(watcher, r#"{"type":"members","room":"den"}"#)["total"], 2);
    cores.slow_store(false);
    assert_eq!(cores.call(watcher, r#"{"type":"members","room":"den"}"#)["total"], 1);
    assert_eq!(cores.total(|counters| &counters.nicknames), 1);
    assert_eq!(cores.shards[0].inventory().sessions, 1);
}

#[test]
fn who_is_put_out_while_it_comes_from_another_node_is_in_no_room() {
    let mut node = Node::new(|config| {
        config.auth.api_keys = programs(&["ci"]);
        config.auth.api_keys.push(admin_key("root"));
    });
    node.make("den");
    node.append("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    // The room is not known here yet.
    node.holds = |request| matches!(request, BackplaneRequest::Open { .. });
    let carol = node.come_from("2.0.0.1", "carol", 7, "den");
    assert_eq!(node.hears(carol), [""; 0]);
    let put_out = node.http(0, "DELETE /api/sessions/carol HTTP/1.1\r\nHost: a\r\nX-API-Key: root\r\n\r\n");
    assert!(put_out.starts_with("HTTP/1.1 204 "), "{put_out}");
    assert!(node.cores.is_over(carol));
    let session = node.session("carol");
    node.log.clear();
    node.release();
    let appended = node.asked("append");
    let expected =
        [format!("append den: attach 2.0.0.1 as {session}"), format!("append den: leave {session} lost")];
    assert_eq!(appended, expected);
}

#[test]
fn a_nickname_that_is_claimed_again_by_who_has_it_is_released_once() {
    let mut node = Node::new(|config| config.session.grace_ms = 0);
    let ann = node.enter("ann", &[]);
    node.log.clear();
    node.holds = |request| matches!(request, BackplaneRequest::Claim { .. });
    node.say(ann, r#"{"type":"nick","nickname":"ann"}"#);
    assert_eq!(node.held.len(), 1);
    node.cores.broken(ann);
    node.settle();
    assert_eq!(node.asked("release"), [""; 0], "its claim has not been answered");
    node.release();
    assert_eq!(node.asked("release"), ["release ann"]);
}
