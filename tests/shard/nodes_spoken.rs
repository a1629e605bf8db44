//! What an admin says to all nodes, or has all of them do.

use starling::base::slots::Id;
use starling::chat::name::Nickname;
use starling::config::{ApiKey, Config, Secret};
use starling::shard::backplane::{Ask, BackplaneNews, BackplaneRequest, NodeMessage};

use crate::cores::Client;
use crate::link::{Node, OTHER, THIRD, join};
use crate::nodes::asks;

/// A node of three, with an admin.
fn admin() -> (Node, Client) {
    let mut node = Node::of(2, |config| {
        let key = |name: &str| ApiKey { name: name.to_owned(), key: Secret(name.to_owned()), admin: true };
        config.auth.api_keys = vec![key("ops")];
    });
    node.nodes(&[OTHER, THIRD], &[]);
    let root = node.enter_with_token("root", None, &[]);
    (node, root)
}

fn broadcast(node: &mut Node, root: Client) -> Ask {
    node.say(root, r#"{"type":"broadcast","content":"all","id":"1"}"#);
    let asks = asks(node);
    assert_eq!(asks.len(), 1, "one of the cores tells all nodes");
    assert_eq!((asks[0].0, node.hears(root)), (0, vec!["system all".to_owned()]));
    asks[0].1
}

fn done(ask: Ask, sessions: u64, cores: u16) -> NodeMessage {
    NodeMessage::BroadcastDone { ask, sessions, cores }
}

/// An admin has a user put out: the connection of the request, whose answer may have to be waited for.
fn put_out(node: &mut Node, nickname: &str) -> Client {
    let client = node.cores.connect(0, starling::config::ListenKind::Web);
    let request = format!("DELETE /api/sessions/{nickname} HTTP/1.1\r\nHost: a\r\nX-API-Key: ops\r\n\r\n");
    node.cores.receive(client, request.as_bytes());
    node.settle();
    client
}

fn status(node: &mut Node, client: Client) -> String {
    node.cores.heard(client).get(9..12).unwrap_or_default().to_owned()
}

#[test]
fn a_broadcast_is_acknowledged_when_all_cores_of_all_nodes_have_heard_it() {
    let (mut node, root) = admin();
    node.enter_on(1, "ann", &[]);
    let ask = broadcast(&mut node, root);
    node.hear(OTHER, done(ask, 3, 2));
    node.hear(THIRD, done(ask, 4, 1));
    assert!(node.hears(root).is_empty(), "a core of the second has not answered");
    node.hear(OTHER, done(ask, 5, 2));
    assert_eq!(node.hears(root), ["ack 14"]);
    // Where this node lives alone, nobody else is asked.
    node.nodes(&[], &[]);
    node.say(root, r#"{"type":"broadcast","content":"all","id":"2"}"#);
    assert_eq!(node.hears(root), ["system all", "ack 2"]);
    assert!(node.told().is_empty());
}

#[test]
fn a_broadcast_that_some_node_may_not_have_heard_is_refused() {
    let (mut node, root) = admin();
    let ask = broadcast(&mut node, root);
    node.tell(BackplaneNews::NotTold { node: OTHER, wait: ask.wait });
    assert!(node.hears(root).is_empty(), "the third is waited for");
    node.hear(THIRD, done(ask, 4, 1));
    assert_eq!(node.hears(root), ["error backplane_down 503"]);
    let ask = broadcast(&mut node, root);
    node.hear(THIRD, done(ask, 4, 1));
    node.tell(BackplaneNews::NotTold { node: OTHER, wait: ask.wait });
    assert_eq!(node.hears(root), ["error backplane_down 503"]);
    // It does not answer.
    let ask = broadcast(&mut node, root);
    node.hear(THIRD, done(ask, 4, 1));
    let wait_ms = 2 * Config::default().cluster.deadline_ms;
    node.pass(wait_ms - 1);
    assert!(node.hears(root).is_empty());
    node.pass(1);
    assert_eq!(node.hears(root), ["error unavailable 503"]);
    // The backplane goes down meanwhile.
    broadcast(&mut node, root);
    node.down(Some("it does not answer"));
    assert_eq!(node.hears(root), ["error backplane_down 503"]);
    // All that had been asked have answered before.
    node.down(None);
    let ask = broadcast(&mut node, root);
    node.hear(OTHER, done(ask, 1, 1));
    node.hear(THIRD, done(ask, 1, 1));
    assert_eq!(node.hears(root), ["ack 3"]);
}

#[test]
fn whoever_is_put_out_is_so_on_all_nodes_and_where_nodes_are_lost() {
    let (mut node, _) = admin();
    for (is_here, elsewhere, lost, answer) in
        [(false, 0, 0, "404"), (false, 0, 2, "204"), (false, 1, 0, "204"), (true, 0, 0, "204")]
    {
        let ann = is_here.then(|| node.enter("ann", &[]));
        node.log.clear();
        let request = put_out(&mut node, "ann");
        let ask = asks(&mut node)[0].1;
        node.holds = |request| matches!(request, BackplaneRequest::PutOut { .. });
        node.hear(OTHER, done(ask, elsewhere, 1));
        assert!(node.asked("put out").is_empty(), "all that live are first");
        node.hear(THIRD, done(ask, 0, 1));
        assert_eq!(node.asked("put out"), ["put out ann"]);
        assert_eq!(status(&mut node, request), "");
        let Some((_, BackplaneRequest::PutOut { wait, .. })) = node.held.pop_front() else { panic!() };
        let before = node.cores.total(|counters| &counters.put_out);
        node.tell(BackplaneNews::PutOut { wait, outcome: Ok(lost) });
        assert_eq!(status(&mut node, request), answer);
        assert_eq!(node.cores.total(|counters| &counters.put_out), before + lost);
        if let Some(ann) = ann {
            assert_eq!(node.hears(ann), ["bye kicked 4107"]);
        }
    }
}

#[test]
fn whoever_is_put_out_leaves_rooms_where_the_nodes_are_lost() {
    let (mut node, _) = admin();
    let root = node.enter("ann", &["den"]);
    let sessions = ["2.0.0.1", "3.0.0.1", "4.0.0.1", "4.0.0.2"];
    let names = ["carol", "dora", "erin", "frank"];
    for (number, (at, name)) in sessions.iter().zip(names).enumerate() {
        node.change("den", OTHER, number as u64, vec![join(at, name)]);
    }
    node.nodes(&[OTHER, THIRD], &[(4, 0)]);
    node.hears(root);
    node.log.clear();
    for (name, orders) in
        [("carol", &[][..]), ("dora", &[]), ("nobody", &[]), ("ERIN", &["append den: leave 4.0.0.1 lost"])]
    {
        put_out(&mut node, name);
        assert_eq!(node.asked("append"), orders, "{name}");
    }
    assert_eq!(node.hears(root), ["presence leave erin lost"]);
    // Once is enough.
    node.holds = |request| matches!(request, BackplaneRequest::Append(_));
    put_out(&mut node, "frank");
    put_out(&mut node, "frank");
    node.release();
    assert_eq!(node.asked("append"), ["append den: leave 4.0.0.2 lost"]);
    // A node that has just started does not know yet who lives.
    let (mut node, _) = admin();
    node.enter("ann", &["den"]);
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    node.log.clear();
    node.tell(BackplaneNews::Nodes { living: Vec::new().into(), lost: Vec::new().into() });
    node.tell_core(1, BackplaneNews::Nodes { living: Vec::new().into(), lost: Vec::new().into() });
    put_out(&mut node, "carol");
    assert!(node.asked("append").is_empty());
}

#[test]
fn whoever_is_put_out_leaves_where_others_know_that_a_node_is_lost() {
    let (mut node, _) = admin();
    let root = node.enter("ann", &["den"]);
    node.change("den", OTHER, 1, vec![join("3.0.0.1", "carol")]);
    node.hears(root);
    let ask = Ask { core: 0, wait: Id { index: 5, generation: 1 } };
    for (lost, orders) in
        [(vec![], &[][..]), (vec![4], &[]), (vec![4, THIRD], &["append den: leave 3.0.0.1 lost"])]
    {
        node.log.clear();
        for core in 0..2 {
            let nickname = Nickname::parse("carol").unwrap();
            let message = Box::new(NodeMessage::PutOut { ask, nickname, lost: lost.clone() });
            node.tell_core(core, BackplaneNews::Told { from: OTHER, message });
        }
        assert_eq!(node.asked("append"), orders, "{lost:?}");
    }
    assert_eq!(node.hears(root), ["presence leave carol lost"]);
    // This node tells others as much.
    node.nodes(&[OTHER], &[(4, 0), (THIRD, 5)]);
    node.told();
    put_out(&mut node, "nobody");
    let told = node.told();
    let told = told.iter().filter_map(|(_, message)| match message {
        NodeMessage::PutOut { lost, .. } => Some(lost.clone()),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [[THIRD, 4]]);
}
