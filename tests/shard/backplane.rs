//! What nodes say to each other.

use starling::base::slots::Id;
use starling::chat::name::Nickname;
use starling::shard::backplane::{Ask, NodeMessage};

#[test]
fn what_is_told_to_people_or_counted_is_told_once_and_what_is_asked_is_waited_for() {
    let wait = Id { index: 5, generation: 1 };
    let ask = Ask { core: 0, wait };
    let (sender, target) = (Nickname::parse("ann").unwrap(), Nickname::parse("bob").unwrap());
    let (nickname, content, key) = (target.clone(), "hi".into(), None);
    let private = NodeMessage::Private { ask, sender: sender.clone(), target, content, key, timestamp_ms: 0 };
    let (rooms, tags) = (Vec::new(), Vec::new());
    let broadcast =
        NodeMessage::Broadcast { ask, sender, content: "hi".into(), rooms, tags, timestamp_ms: 0 };
    // Whether it may come twice, and whether somebody waits for the answer.
    for (message, may_come_twice, is_asked) in [
        (private, false, true),
        (NodeMessage::PrivateDone { ask, delivered: 1, is_stored: false, is_full: false }, true, false),
        (broadcast, false, true),
        (NodeMessage::PutOut { ask, nickname, lost: Vec::new() }, false, true),
        // Each core of a node says so: one that says it twice would count for another.
        (NodeMessage::BroadcastDone { ask, sessions: 1, cores: 2 }, false, false),
        (NodeMessage::GiveUp { number: 7, ask }, true, true),
        (NodeMessage::GivenUp { ask, is_gone: true }, true, false),
    ] {
        assert_eq!(message.may_come_twice(), may_come_twice, "{message:?}");
        assert_eq!(message.wait_here(), is_asked.then_some(wait), "{message:?}");
    }
}
