//! What a session remembers of its commands, and where its token lets it go.

use serde_json::json;

use crate::cores::{Cores, token};
use crate::sockets;

#[test]
fn errors_are_not_remembered() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let bob = cores.enter(0, "bob", &["den"]);
    cores.say(alice, r#"{"type":"mute","room":"den","target":"bob"}"#);
    let message = r#"{"type":"message","room":"den","content":"hi","id":"m"}"#;
    assert_eq!(cores.call(bob, message)["reason"], "muted");
    assert_eq!(cores.call(bob, message)["reason"], "muted");
    cores.say(alice, r#"{"type":"unmute","room":"den","target":"bob"}"#);
    cores.events(bob);
    cores.say(bob, message);
    cores.say(bob, message);
    assert_eq!(cores.told(bob, "ack", "offset"), [1, 1], "its answer is");
    let private = r#"{"type":"private","target":"carol","content":"hi","id":"p"}"#;
    assert_eq!(cores.call(bob, private)["reason"], "no_such_user");
    let carol = cores.enter(0, "carol", &[]);
    for _ in 0..2 {
        assert_eq!(cores.call(bob, private)["delivered"], 1);
    }
    assert_eq!(cores.told(carol, "private", "content"), ["hi"]);
}

#[test]
fn a_token_is_for_its_rooms() {
    let mut cores = Cores::made(1, |_| {}, |_| {});
    let token = token("bob", |claims| claims.rooms = Some(vec!["team-*".to_owned()]));
    cores.enter(0, "alice", &["den", "team-1"]);
    let (bob, _) = cores.greet(0, &json!({ "token": token }));
    let refused = cores.call(bob, r#"{"type":"join","room":"den"}"#);
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(403), &json!("forbidden")));
    assert_eq!(cores.call(bob, r#"{"type":"history","room":"den"}"#)["reason"], "forbidden");
    assert_eq!(cores.call(bob, r#"{"type":"join","room":"Team-1"}"#)["type"], "joined");
    let bob = sockets::open(&mut cores, 0, &format!("token={token}&room=den"));
    assert!(cores.heard(bob).starts_with("HTTP/1.1 403 "));
    let bob = sockets::open(&mut cores, 0, &format!("token={token}&room=team-2"));
    let events = sockets::events(&mut cores, bob);
    assert_eq!(events.iter().filter(|event| event["type"] == "joined").count(), 1, "{events:?}");
}
