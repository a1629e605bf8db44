//! Rooms whose server does not answer, although the backplane is not down.

use starling::shard::backplane::BackplaneNews;

use crate::link::Node;

#[test]
fn a_room_is_tried_when_the_backplane_is_not_down_itself() {
    let mut node = Node::new(|_| {});
    let clients = ["ann", "bob", "carol"].map(|name| node.enter(name, &["den"]));
    node.log.clear();
    node.down(Some("it does not answer"));
    node.say(clients[0], r#"{"type":"leave","room":"den"}"#);
    assert_eq!(node.asked("catch"), [""; 0]);
    node.tell(BackplaneNews::Unseen { room: "den".into() });
    node.say(clients[1], r#"{"type":"leave","room":"den"}"#);
    assert_eq!(node.asked("catch"), [""; 0]);
    // When it is back no room is known to be away.
    node.down(None);
    node.hears(clients[2]);
    node.say(clients[2], r#"{"type":"state","room":"den","key":"k","value":1,"id":"1"}"#);
    assert_eq!(node.hears(clients[2])[0], "ack");
    assert_eq!(node.asked("catch"), [""; 0]);
    // Where it is, whoever wants something of it has it tried.
    node.tell(BackplaneNews::Unseen { room: "den".into() });
    node.say(clients[2], r#"{"type":"leave","room":"den"}"#);
    assert_eq!(node.asked("catch").len(), 1);
}
