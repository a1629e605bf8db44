//! Private messages between nodes.

use starling::base::slots::Id;
use starling::chat::name::Nickname;
use starling::config::Config;
use starling::shard::backplane::{Ask, BackplaneNews, BackplaneRequest, Failed, NodeMessage};

use crate::cores::Client;
use crate::link::{Node, OTHER, THIRD, session};
use crate::nodes::asks;

fn write(node: &mut Node, client: Client, to: &str) {
    node.say(client, &format!(r#"{{"type":"private","target":"{to}","content":"psst","id":"{to}"}}"#));
}

/// Another node has a private message for somebody here, by this key.
fn hear(node: &mut Node, to: &str, key: &str) -> NodeMessage {
    let ask = Ask { core: 0, wait: Id { index: 5, generation: 1 } };
    let (sender, target) = (Nickname::parse("bob").unwrap(), Nickname::parse(to).unwrap());
    let key = (!key.is_empty()).then(|| key.into());
    let timestamp_ms = node.unix_ms();
    node.hear(OTHER, NodeMessage::Private { ask, sender, target, content: "psst".into(), key, timestamp_ms });
    let mut told = node.told();
    assert_eq!(told.len(), 1, "{told:?}");
    let (to, answer) = told.pop().unwrap();
    assert_eq!(to, Some(OTHER));
    answer
}

fn answer(delivered: u64, is_stored: bool, is_full: bool) -> NodeMessage {
    NodeMessage::PrivateDone {
        ask: Ask { core: 0, wait: Id { index: 5, generation: 1 } },
        delivered,
        is_stored,
        is_full,
    }
}

#[test]
fn somebody_who_is_on_the_way_is_looked_for_for_a_quarter_of_a_second() {
    let mut node = Node::new(|_| {});
    let bob = node.enter("bob", &[]);
    // This node is said to have her, and does not.
    let own = node.session("bob");
    node.places.insert("ann".into(), vec![own]);
    node.log.clear();
    write(&mut node, bob, "ann");
    assert_eq!(node.asked("find").len(), 1);
    for wait_ms in [1, 2, 4, 8, 16, 32, 64, 128] {
        node.pass(wait_ms - 1);
        assert!(node.asked("find").is_empty(), "{wait_ms}");
        assert!(node.hears(bob).is_empty());
        node.pass(1);
        assert_eq!(node.asked("find").len(), 1, "{wait_ms}");
    }
    assert_eq!(node.hears(bob), ["error unavailable 503"]);
}

#[test]
fn nodes_that_are_lost_are_not_asked() {
    let mut node = Node::new(|_| {});
    let bob = node.enter("bob", &[]);
    node.nodes(&[OTHER], &[(THIRD, 0)]);
    node.places.insert("ann".into(), vec![session("2.0.0.1"), session("3.0.0.1")]);
    node.places.insert("carol".into(), vec![session("3.0.0.1")]);
    write(&mut node, bob, "ann");
    let asks = asks(&mut node);
    assert_eq!(asks.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [OTHER]);
    let dora = node.enter("dora", &[]);
    write(&mut node, dora, "carol");
    assert_eq!(node.hears(dora), ["error unavailable 503"]);
    assert!(node.told().is_empty());
}

#[test]
fn all_cores_know_which_nodes_do_not_answer() {
    let mut node = Node::of(2, |_| {});
    let names = ["a", "b", "c", "d", "e", "f"];
    let clients = names.map(|name| {
        node.places.insert(name.into(), vec![session("2.0.0.1")]);
        node.places.insert(format!("{name}3"), vec![session("3.0.0.1")]);
        node.enter(&format!("to-{name}"), &[])
    });
    let hear_all =
        |node: &mut Node| clients.iter().flat_map(|client| node.hears(*client)).collect::<Vec<_>>();
    for (client, name) in clients.iter().zip(names) {
        write(&mut node, *client, name);
    }
    let asked = asks(&mut node);
    assert_eq!(asked.len(), 6);
    assert!((0..2).all(|core| asked.iter().any(|(_, ask)| ask.core == core)), "homes on both cores");
    for (_, ask) in &asked[1..] {
        let done = NodeMessage::PrivateDone { ask: *ask, delivered: 1, is_stored: false, is_full: false };
        node.tell_core(ask.core.into(), BackplaneNews::Told { from: OTHER, message: Box::new(done) });
    }
    assert_eq!(hear_all(&mut node), ["ack 1"; 5]);
    let wait_ms = 2 * Config::default().cluster.deadline_ms;
    node.pass(wait_ms - 1);
    assert!(hear_all(&mut node).is_empty());
    node.pass(1);
    assert_eq!(hear_all(&mut node), ["error unavailable 503"]);
    // The next are not kept waiting, whichever core looks for them.
    let write_all = |node: &mut Node| {
        for (client, name) in clients.iter().zip(names) {
            node.say(*client, &format!(r#"{{"type":"private","target":"{name}","content":"psst"}}"#));
        }
    };
    write_all(&mut node);
    assert_eq!(hear_all(&mut node), ["error unavailable 503"; 6]);
    assert!(node.told().is_empty());
    // That another one does not answer either makes no difference to that.
    write(&mut node, clients[0], "a3");
    assert_eq!(asks(&mut node).len(), 1);
    node.pass(wait_ms);
    assert_eq!(hear_all(&mut node), ["error unavailable 503"]);
    write_all(&mut node);
    write(&mut node, clients[0], "b3");
    assert_eq!(hear_all(&mut node), ["error unavailable 503"; 7]);
    assert!(node.told().is_empty());
    // After a lease it may be asked again.
    node.pass(Config::default().cluster.lease_ms - wait_ms - 1);
    write_all(&mut node);
    assert_eq!(hear_all(&mut node), ["error unavailable 503"; 6]);
    node.pass(1);
    write_all(&mut node);
    assert_eq!(asks(&mut node).len(), 6);
}

#[test]
fn what_other_nodes_say_of_a_message_is_put_together() {
    let mut node = Node::new(|_| {});
    let bob = node.enter("bob", &[]);
    for (second, third, ack) in [
        ((1, false, false), (2, false, false), serde_json::json!(["ack", 3, false])),
        ((0, true, false), (1, false, false), serde_json::json!(["ack", 1, true])),
        ((0, true, false), (0, false, true), serde_json::json!(["ack", 0, true])),
        ((0, false, true), (0, false, false), serde_json::json!(["error", null, null])),
    ] {
        node.places.insert("ann".into(), vec![session("2.0.0.1"), session("3.0.0.1")]);
        node.say(bob, r#"{"type":"private","target":"ann","content":"psst","id":""}"#);
        let asks = asks(&mut node);
        for ((to, ask), (delivered, is_stored, is_full)) in asks.into_iter().zip([second, third]) {
            node.hear(to, NodeMessage::PrivateDone { ask, delivered, is_stored, is_full });
        }
        let event = node.events(bob).pop().expect("an answer");
        assert_eq!(serde_json::json!([event["type"], event["delivered"], event["stored"]]), ack, "{event}");
        if event["type"] == "error" {
            assert_eq!(event["reason"], "unavailable");
            assert!(node.asked("find").len() <= 4, "it is not looked for again");
        }
    }
}

#[test]
fn a_session_here_hears_what_another_node_may_not_have_heard() {
    let mut node = Node::new(|_| {});
    let (bob, ann) = (node.enter("bob", &[]), node.enter("ann", &[]));
    node.places.get_mut("ann").unwrap().push(session("2.0.0.1"));
    write(&mut node, bob, "ann");
    assert!(node.hears(ann).is_empty(), "the others are first");
    node.pass(2 * Config::default().cluster.deadline_ms);
    assert_eq!(node.hears(ann), ["private psst"]);
    assert_eq!(node.hears(bob), ["ack 1"]);
}

#[test]
fn a_message_of_another_node_that_comes_again_is_told_once() {
    let mut node = Node::new(|config| config.limits.private_kept = 1);
    assert_eq!(hear(&mut node, "ann", "k"), answer(0, false, false));
    let ann = node.enter("ann", &[]);
    // It was for nobody, and is not remembered.
    for repeated in 0..2 {
        assert_eq!(hear(&mut node, "ann", "k"), answer(1, false, false));
        assert_eq!(node.hears(ann), vec!["private psst"; 1 - repeated]);
        assert_eq!(node.cores.total(|counters| &counters.repeated_commands), repeated as u64);
    }
    for _ in 0..2 {
        // What she says shows that she has what she was told: there is place for one more.
        node.say(ann, r#"{"type":"pong"}"#);
        assert_eq!(hear(&mut node, "ann", ""), answer(1, false, false));
        assert_eq!(node.hears(ann), ["private psst"]);
    }
    node.say(ann, r#"{"type":"pong"}"#);
    // Kept for somebody who is away, as long as there is place.
    node.cores.broken(ann);
    node.settle();
    assert_eq!(hear(&mut node, "ann", "l"), answer(0, true, false));
    assert_eq!(hear(&mut node, "ann", "l"), answer(0, true, false));
    assert_eq!(node.cores.total(|counters| &counters.private_kept), 1);
    assert_eq!(hear(&mut node, "ann", "m"), answer(0, false, true));
    assert_eq!(node.cores.total(|counters| &counters.repeated_commands), 2);
}

#[test]
fn what_a_node_has_kept_for_a_session_that_went_on_elsewhere_is_left_to_it() {
    // The link hears of the session's number first, or of its nickname, or cannot give it up; or its user has been put out; or it may have
    // been given up with what was kept, and cannot be taken back.
    for heard in ["number", "nickname", "given up", "put out", "not taken back"] {
        let mut node = Node::new(|_| {});
        let ann = node.enter("ann", &[]);
        let bob = node.enter("bob", &[]);
        let (number, session) = (node.numbers["ann"], node.session("ann"));
        let bob_number = node.numbers["bob"];
        node.cores.broken(ann);
        node.settle();
        let sent_ms = node.unix_ms();
        for content in ["one", "two"] {
            let line =
                format!(r#"{{"type":"private","target":"ann","content":"{content}","id":"{content}"}}"#);
            let ack = node.call(bob, &line);
            assert_eq!((&ack["delivered"], &ack["stored"]), (&0.into(), &true.into()));
        }
        node.pass(5_000);
        node.told();
        let kept = |node: &mut Node| match node.held.pop_front() {
            Some((_, BackplaneRequest::KeepSession { wait, .. })) => wait,
            _ => None,
        };
        let lost = |node: &mut Node| {
            let (nickname, is_put_out) = (Nickname::parse("ann").unwrap(), heard == "put out");
            let news = match heard {
                "number" => BackplaneNews::SessionMoved { number, session },
                "given up" | "not taken back" => {
                    node.holds = |request| matches!(request, BackplaneRequest::KeepSession { .. });
                    let ask = Ask { core: 0, wait: Id { index: 5, generation: 1 } };
                    node.hear(OTHER, NodeMessage::GiveUp { number, ask });
                    if heard == "not taken back" {
                        let Some(wait) = kept(node) else { return };
                        node.tell(BackplaneNews::Kept { wait, outcome: Err(Failed::Down) });
                        node.pass(500);
                    }
                    let Some(wait) = kept(node) else { return };
                    BackplaneNews::Kept { wait, outcome: Ok(false) }
                }
                _ => BackplaneNews::NicknameLost { session, nickname, is_put_out },
            };
            node.tell(news);
        };
        lost(&mut node);
        let left = node.told().into_iter().filter_map(|(to, message)| match message {
            NodeMessage::Left { number: of, sender, target, content, timestamp_ms, key, .. } => {
                assert_eq!((to, of, timestamp_ms), (None, number, sent_ms), "it is told to all, once");
                assert_eq!(key, Some(format!("{bob_number:016x} {content}").into()));
                Some(format!("{} to {}: {content}", sender.as_str(), target.as_str()))
            }
            NodeMessage::GivenUp { .. } => None,
            other => panic!("{other:?}"),
        });
        let expected = match heard {
            "put out" | "not taken back" => vec![],
            _ => vec!["bob to ann: one", "bob to ann: two"],
        };
        assert_eq!(left.collect::<Vec<_>>(), expected, "{heard}");
        lost(&mut node);
        assert!(
            node.told().iter().all(|(_, message)| matches!(message, NodeMessage::GivenUp { .. })),
            "it is gone"
        );
    }
}

#[test]
fn what_was_left_for_a_session_is_told_where_it_is_and_nowhere_else() {
    let mut node = Node::new(|_| {});
    let ann = node.come_from("2.0.0.1", "ann", 77, "den");
    node.hears(ann);
    let left = |number| NodeMessage::Left {
        ask: Ask { core: 0, wait: Id { index: 5, generation: 1 } },
        number,
        sender: Nickname::parse("bob").unwrap(),
        target: Nickname::parse("ann").unwrap(),
        content: "psst".into(),
        key: None,
        timestamp_ms: 1_234,
    };
    node.hear(OTHER, left(78));
    node.hear(crate::link::OWN, left(77));
    assert!(node.hears(ann).is_empty() && node.told().is_empty());
    node.hear(OTHER, left(77));
    let events = node.events(ann);
    let said = |event: &serde_json::Value| {
        ["type", "sender", "content", "timestamp"].map(|field| event[field].clone())
    };
    let expected: [serde_json::Value; 4] = ["private".into(), "bob".into(), "psst".into(), 1_234.into()];
    assert_eq!(events.iter().map(said).collect::<Vec<_>>(), [expected]);
    assert_eq!(node.told(), [(Some(OTHER), answer(1, false, false))]);
    // While its user is away it is kept.
    node.cores.broken(ann);
    node.settle();
    node.told();
    node.hear(OTHER, left(77));
    assert_eq!(node.told(), [(Some(OTHER), answer(0, true, false))]);
}

#[test]
fn what_was_said_again_because_a_node_did_not_answer_is_told_once() {
    let mut node = Node::new(|_| {});
    let bob = node.enter("bob", &[]);
    let ann = node.come_from("2.0.0.1", "ann", 77, "den");
    node.hears(ann);
    let key = |id: &str| Some(format!("{:016x} {id}", node.numbers["bob"]).into());
    let left = |number, key| NodeMessage::Left {
        ask: Ask { core: 0, wait: Id { index: 5, generation: 1 } },
        number,
        sender: Nickname::parse("bob").unwrap(),
        target: Nickname::parse("ann").unwrap(),
        content: "psst".into(),
        key,
        timestamp_ms: 1_234,
    };
    let [first, second, third] = ["1", "2", "3"].map(key);
    let say = |node: &mut Node, id: &str| {
        let line = format!(r#"{{"type":"private","target":"ann","content":"psst","id":"{id}"}}"#);
        node.call(bob, &line)
    };
    // The sender was faster than the node that comes back, or that one was.
    assert_eq!(say(&mut node, "1")["delivered"], 1);
    assert_eq!(node.hears(ann), ["private psst"]);
    node.hear(OTHER, left(77, first.clone()));
    assert!(node.hears(ann).is_empty());
    assert_eq!(node.cores.total(|counters| &counters.repeated_commands), 1);
    node.hear(OTHER, left(77, second));
    assert_eq!(node.hears(ann), ["private psst"]);
    assert_eq!(say(&mut node, "2")["delivered"], 1);
    assert!(node.hears(ann).is_empty());
    // What is kept for somebody who is away is as good as told.
    node.cores.broken(ann);
    node.settle();
    node.hear(OTHER, left(77, third));
    let ack = say(&mut node, "3");
    assert_eq!((&ack["delivered"], &ack["stored"]), (&0.into(), &true.into()));
    assert_eq!(node.cores.total(|counters| &counters.private_kept), 1);
    let ann = node.come_back("ann", 77);
    // With the two of which nobody knows whether they had arrived when the connection broke.
    assert_eq!(node.hears(ann).iter().filter(|heard| *heard == "private psst").count(), 3);
    // Another session of hers has not got it.
    let other = node.come_from("2.0.0.2", "ann", 78, "den");
    node.hears(other);
    node.hears(ann);
    node.hear(OTHER, left(78, first));
    assert_eq!(node.hears(other), ["private psst"]);
    assert!(node.hears(ann).is_empty());
}
