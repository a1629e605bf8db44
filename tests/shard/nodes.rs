//! The other nodes of a cluster: what is said of them, and what comes of it.

use starling::base::slots::Id;
use starling::chat::name::Nickname;
use starling::chat::refusal::LeaveReason;
use starling::chat::user::SessionRef;
use starling::config::{Config, ListenKind};
use starling::shard::backplane::{
    Ask, BackplaneNews, BackplaneRequest, Failed, NodeMessage, RoomOp, TakeOutcome,
};

use crate::cores::Client;
use crate::link::{Node, OTHER, THIRD, join, session};

fn lease_ms() -> u64 {
    Config::default().cluster.lease_ms
}

fn grace_ms() -> u64 {
    Config::default().session.grace_ms
}

/// What other nodes have been told that wait for an answer: to whom, and what they are to answer.
pub fn asks(node: &mut Node) -> Vec<(u32, Ask)> {
    let told = node.told().into_iter();
    let ask = |message: &NodeMessage| match message {
        NodeMessage::Private { ask, .. }
        | NodeMessage::Broadcast { ask, .. }
        | NodeMessage::PutOut { ask, .. }
        | NodeMessage::GiveUp { ask, .. } => Some(*ask),
        _ => None,
    };
    told.filter_map(|(to, message)| Some((to.unwrap_or(0), ask(&message)?))).collect()
}

fn private(node: &mut Node, client: Client, id: &str) {
    node.say(client, &format!(r#"{{"type":"private","target":"ann","content":"psst","id":"{id}"}}"#));
}

fn private_done(ask: Ask, delivered: u64) -> NodeMessage {
    NodeMessage::PrivateDone { ask, delivered, is_stored: false, is_full: false }
}

#[test]
fn a_node_without_its_backplane_is_ready_for_as_long_as_a_lease() {
    let mut node = Node::new(|_| {});
    let status = |node: &mut Node| {
        let answer = node.http(0, "GET /ready HTTP/1.1\r\nHost: a\r\n\r\n");
        answer[9..12].to_owned()
    };
    assert_eq!(status(&mut node), "200");
    node.down(Some("it does not answer"));
    node.pass(4_000);
    // Another reason is no other beginning.
    node.down(Some("it refuses"));
    node.pass(lease_ms() - 4_001);
    assert_eq!(status(&mut node), "200");
    node.pass(1);
    assert_eq!(status(&mut node), "503");
    node.down(None);
    assert_eq!(status(&mut node), "200");
    node.pass(100);
    node.down(Some("it does not answer"));
    node.pass(lease_ms() - 1);
    assert_eq!(status(&mut node), "200", "counted anew");
    node.pass(1);
    assert_eq!(status(&mut node), "503");
}

#[test]
fn the_first_core_counts_whether_the_backplane_is_up() {
    let mut node = Node::of(2, |_| {});
    let up = |node: &Node| {
        let counters = node.cores.counters.iter();
        counters.map(|counters| counters.backplane_up.value()).collect::<Vec<_>>()
    };
    node.down(None);
    assert_eq!(up(&node), [1, 0]);
    node.down(Some("it does not answer"));
    assert_eq!(up(&node), [0, 0]);
}

#[test]
fn what_the_backplane_may_have_forgotten_of_sessions_is_said_again() {
    let mut node = Node::of(2, |_| {});
    node.enter_on(0, "ann", &[]);
    node.enter_on(1, "bob", &[]);
    assert_eq!(node.asked("keep session").len(), 2);
    node.down(Some("it does not answer"));
    assert!(node.asked("keep session").is_empty());
    node.down(None);
    assert_eq!(node.asked("keep session"), ["keep session of ann", "keep session of bob"]);
    node.tell_core(1, BackplaneNews::Returned);
    assert_eq!(node.asked("keep session"), ["keep session of bob"]);
    let (ann, bob) = (node.session("ann"), node.session("bob"));
    node.tell_core(1, BackplaneNews::Unkept { session: bob });
    assert_eq!(node.asked("keep session"), ["keep session of bob"]);
    node.tell_core(1, BackplaneNews::Unkept { session: ann });
    assert!(node.asked("keep session").is_empty(), "it is of the other core");
}

#[test]
fn a_nickname_that_may_have_been_granted_is_let_go_of() {
    let mut node = Node::new(|_| {});
    node.holds = |request| matches!(request, BackplaneRequest::Claim { .. });
    let client = node.cores.connect(0, ListenKind::Line);
    node.say(client, r#"{"type":"hello","nickname":"ann"}"#);
    let refuse = |node: &mut Node| {
        let Some((_, BackplaneRequest::Claim { wait, nickname, session, .. })) = node.held.pop_front() else {
            panic!("nothing is claimed")
        };
        let outcome = Err(Failed::Down);
        node.tell(BackplaneNews::Claimed { wait, nickname, session, outcome });
    };
    refuse(&mut node);
    assert_eq!(node.hears(client), ["error backplane_down 503"]);
    assert_eq!(node.asked("release"), ["release ann"]);
    node.holds = |_| false;
    node.say(client, r#"{"type":"hello","nickname":"ann"}"#);
    assert_eq!(node.hears(client), ["welcome ann"]);
}

#[test]
fn whose_nickname_is_lost_is_closed() {
    let mut node = Node::new(|_| {});
    let nickname = |name: &str| Nickname::parse(name).unwrap();
    let clients = ["ann", "bob"].map(|name| node.enter(name, &[]));
    let lose = |node: &mut Node, session, name: &str, is_put_out| {
        node.tell(BackplaneNews::NicknameLost { session, nickname: nickname(name), is_put_out });
    };
    let (ann, bob) = (node.session("ann"), node.session("bob"));
    lose(&mut node, SessionRef { node: OTHER, ..ann }, "ann", false);
    lose(&mut node, SessionRef { core: 1, ..ann }, "ann", false);
    lose(&mut node, ann, "bob", false);
    let nobody = SessionRef { session: Id { index: 99, generation: 1 }, ..ann };
    lose(&mut node, nobody, "ann", false);
    assert!(clients.iter().all(|client| node.hears(*client).is_empty()));
    lose(&mut node, ann, "ann", false);
    assert_eq!(node.hears(clients[0]), ["bye internal 4200"]);
    assert!(node.cores.is_over(clients[0]) && !node.cores.is_over(clients[1]));
    assert_eq!(node.cores.total(|counters| &counters.put_out), 0);
    lose(&mut node, bob, "bob", true);
    assert_eq!(node.hears(clients[1]), ["bye kicked 4107"]);
    assert_eq!(node.cores.total(|counters| &counters.put_out), 1);
}

#[test]
fn who_has_gone_on_elsewhere_is_replaced_if_that_was_after_the_connection_here() {
    let mut node = Node::new(|_| {});
    let early = node.enter("early", &[]);
    node.pass(1);
    let meanwhile = node.enter("meanwhile", &[]);
    node.down(Some("it does not answer"));
    node.pass(1);
    node.down(None);
    // Told although nothing was wrong, this is no silence.
    node.pass(1);
    let late = node.enter("late", &[]);
    node.pass(1);
    node.down(None);
    for (name, client, farewell) in [
        ("early", early, "bye replaced 4103"),
        ("meanwhile", meanwhile, "bye internal 4200"),
        ("late", late, "bye internal 4200"),
    ] {
        let (number, session) = (node.numbers[name], node.session(name));
        let elsewhere = SessionRef { node: OTHER, ..session };
        let other_core = SessionRef { core: 1, ..session };
        for (number, session) in [(number, elsewhere), (number, other_core), (number ^ 1, session)] {
            node.tell(BackplaneNews::SessionMoved { number, session });
            assert!(node.hears(client).is_empty(), "{name}");
        }
        node.tell(BackplaneNews::SessionMoved { number, session });
        assert_eq!(node.hears(client), [farewell], "{name}");
    }
}

#[test]
fn what_is_not_told_to_a_node_is_refused_when_the_others_have_answered() {
    let mut node = Node::new(|_| {});
    node.nodes(&[OTHER, THIRD], &[]);
    let bob = node.enter("bob", &[]);
    node.places.insert("ann".into(), vec![session("2.0.0.1"), session("3.0.0.1")]);
    for (id, delivered, answer) in [("1", 1, "ack 1"), ("2", 0, "error backplane_down 503")] {
        private(&mut node, bob, id);
        let asks = asks(&mut node);
        assert_eq!(asks.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [OTHER, THIRD]);
        let ask = asks[0].1;
        node.tell(BackplaneNews::NotTold { node: OTHER, wait: ask.wait });
        assert!(node.hears(bob).is_empty(), "the other is waited for");
        node.hear(THIRD, private_done(ask, delivered));
        assert_eq!(node.hears(bob), [answer]);
    }
    node.places.insert("ann".into(), vec![session("2.0.0.1")]);
    private(&mut node, bob, "3");
    let ask = asks(&mut node)[0].1;
    node.tell(BackplaneNews::NotTold { node: OTHER, wait: ask.wait });
    assert_eq!(node.hears(bob), ["error backplane_down 503"]);
    // Whoever wants to go on from a session there hears the same.
    node.holds = |request| matches!(request, BackplaneRequest::TakeSession { .. });
    let roamer = node.come_back("roamer", 7);
    let Some((_, BackplaneRequest::TakeSession { wait, number, session, .. })) = node.held.pop_front() else {
        panic!("it is not asked for")
    };
    let outcome = Ok(TakeOutcome::Held { node: OTHER });
    node.tell(BackplaneNews::Taken { wait, number, session, outcome });
    let ask = asks(&mut node)[0].1;
    assert!(node.hears(roamer).is_empty());
    node.tell(BackplaneNews::NotTold { node: OTHER, wait: ask.wait });
    assert_eq!(node.hears(roamer), ["error backplane_down 503"]);
}

#[test]
fn a_session_that_comes_when_nobody_waits_for_it_is_let_go_of() {
    let mut node = Node::new(|_| {});
    node.holds = |request| matches!(request, BackplaneRequest::TakeSession { .. });
    let roamer = node.come_back("roamer", 7);
    node.pass(2 * Config::default().cluster.deadline_ms);
    assert_eq!(node.hears(roamer), ["error backplane_down 503"]);
    let Some((_, BackplaneRequest::TakeSession { wait, number, session, .. })) = node.held.pop_front() else {
        panic!("it is not asked for")
    };
    node.tell(BackplaneNews::Taken { wait, number, session, outcome: Ok(TakeOutcome::Gone) });
    assert!(node.asked("free").is_empty());
    let old = SessionRef { node: OTHER, ..session };
    let outcome = Ok(TakeOutcome::Taken { old, places: vec![], revision: 1, body: "{}".into() });
    node.tell(BackplaneNews::Taken { wait, number, session, outcome });
    assert_eq!(node.asked("free"), ["free session 7"]);
}

#[test]
fn rooms_are_asked_for_until_there_are_as_many_as_are_wanted() {
    let mut node = Node::of(2, |_| {});
    for room in ["a", "b1", "b2", "c1", "d1"] {
        node.make(room);
    }
    let only: &[&str] = &["a", "d*"];
    let ann = node.enter_with_token("ann", Some(only), &[]);
    let mut rooms = |limit: usize| {
        node.log.clear();
        let answer = node.call(ann, &format!(r#"{{"type":"rooms","limit":{limit}}}"#));
        let rooms = answer["rooms"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let names = rooms.iter().map(|room| room["room"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        (names.join(" "), node.asked("rooms").join(", "))
    };
    assert_eq!(rooms(1), ("a".into(), "rooms after none up to 1".into()));
    let pages = "rooms after none up to 2, rooms after b1 up to 2, rooms after c1 up to 2";
    assert_eq!(rooms(2), ("a d1".into(), pages.into()));
    assert_eq!(rooms(3), ("a d1".into(), "rooms after none up to 3, rooms after b2 up to 3".into()));
    assert_eq!(rooms(9), ("a d1".into(), "rooms after none up to 9".into()));
}

fn rooms_without_backplane(cores: u16) -> Vec<String> {
    let mut node = Node::of(cores, |_| {});
    let ann = node.enter("ann", &[]);
    node.down(Some("it does not answer"));
    node.say(ann, r#"{"type":"rooms","id":"1"}"#);
    node.hears(ann)
}

#[test]
fn without_the_backplane_nobody_knows_the_rooms() {
    assert_eq!(rooms_without_backplane(1), ["error backplane_down 503"]);
}

#[test]
fn whoever_asks_several_cores_for_rooms_hears_one_answer() {
    assert_eq!(rooms_without_backplane(2), ["error backplane_down 503"]);
}

#[test]
fn what_an_admin_of_another_node_says_is_for_whom_it_is_meant_for() {
    let mut node = Node::new(|_| {});
    let (ann, bob) = (node.enter("ann", &["den"]), node.enter("bob", &["hall"]));
    let ask = Ask { core: 3, wait: Id { index: 5, generation: 1 } };
    for (rooms, ann_hears, bob_hears) in [
        (&["den"][..], true, false),
        (&["d*", "hall"], true, true),
        (&[], true, true),
        // Of a newer version, perhaps, and not for everybody.
        (&["d?n"], false, false),
    ] {
        let rooms = rooms.iter().map(|room| (*room).to_owned()).collect();
        let sender = Nickname::parse("root").unwrap();
        let timestamp_ms = node.unix_ms();
        let message = NodeMessage::Broadcast {
            ask,
            sender,
            content: "all".into(),
            rooms,
            tags: Vec::new(),
            timestamp_ms,
        };
        node.hear(OTHER, message);
        let expected = |hears: bool| if hears { vec!["system all"] } else { Vec::new() };
        assert_eq!(
            (node.hears(ann), node.hears(bob)),
            (
                expected(ann_hears).into_iter().map(str::to_owned).collect(),
                expected(bob_hears).into_iter().map(str::to_owned).collect()
            )
        );
        let sessions = u64::from(ann_hears) + u64::from(bob_hears);
        assert_eq!(node.told(), [(Some(OTHER), NodeMessage::BroadcastDone { ask, sessions, cores: 1 })]);
    }
}

#[test]
fn what_waits_for_a_node_does_not_wait_when_it_is_lost() {
    let mut node = Node::new(|_| {});
    node.nodes(&[OTHER, THIRD], &[]);
    let (root, bob) = (node.enter_with_token("root", None, &[]), node.enter("bob", &[]));
    node.places.insert("ann".into(), vec![session("2.0.0.1"), session("3.0.0.1")]);
    private(&mut node, bob, "1");
    let to_ann = asks(&mut node)[0].1;
    node.say(root, r#"{"type":"broadcast","content":"all","id":"2"}"#);
    let to_all = asks(&mut node)[0].1;
    node.holds = |request| matches!(request, BackplaneRequest::TakeSession { .. });
    let roamer = node.come_back("roamer", 7);
    let Some((_, BackplaneRequest::TakeSession { wait, number, session, .. })) = node.held.pop_front() else {
        panic!("it is not asked for")
    };
    node.tell(BackplaneNews::Taken { wait, number, session, outcome: Ok(TakeOutcome::Held { node: OTHER }) });
    assert_eq!(node.asked("take").len(), 1);
    // That a third node is lost is no news to whoever waits for the second.
    node.hear(THIRD, private_done(to_ann, 0));
    node.hear(THIRD, NodeMessage::BroadcastDone { ask: to_all, sessions: 5, cores: 1 });
    node.nodes(&[OTHER], &[(THIRD, 0)]);
    assert_eq!(node.hears(root), ["system all"]);
    assert_eq!(node.hears(bob), ["system all"]);
    assert!(node.asked("take").is_empty());
    node.nodes(&[], &[(OTHER, 0), (THIRD, 0)]);
    assert_eq!(node.asked("take"), ["take session 7"]);
    assert_eq!(node.hears(root), ["ack 7"]);
    assert_eq!(node.hears(bob), ["error unavailable 503"]);
    assert!(node.hears(roamer).is_empty());
}

#[test]
fn who_is_not_found_where_all_have_answered_is_looked_for_again() {
    let mut node = Node::new(|_| {});
    node.nodes(&[OTHER, THIRD], &[]);
    let bob = node.enter("bob", &[]);
    node.places.insert("ann".into(), vec![session("2.0.0.1")]);
    private(&mut node, bob, "1");
    let ask = asks(&mut node)[0].1;
    node.nodes(&[OTHER], &[(THIRD, 0)]);
    node.hear(OTHER, private_done(ask, 0));
    assert!(node.hears(bob).is_empty(), "nobody has let it wait");
    node.pass(1);
    let ask = asks(&mut node)[0].1;
    node.hear(OTHER, private_done(ask, 1));
    assert_eq!(node.hears(bob), ["ack 1"]);
}

/// A room with ann, who is here, and carol, who is on another node.
fn den() -> (Node, Client) {
    let mut node = Node::new(|_| {});
    node.pass(2 * grace_ms());
    let ann = node.enter("ann", &["den"]);
    node.change("den", OTHER, 1, vec![join("2.0.0.1", "carol")]);
    assert_eq!(node.hears(ann), ["presence join carol"]);
    node.log.clear();
    (node, ann)
}

#[test]
fn members_of_a_lost_node_are_away_and_leave_after_the_time_of_grace() {
    let (mut node, ann) = den();
    node.nodes(&[OTHER], &[]);
    assert!(node.asked("append").is_empty());
    node.nodes(&[], &[(OTHER, 1_000)]);
    assert_eq!(node.asked("append"), ["append den: lose node 2"]);
    assert_eq!(node.hears(ann), ["presence away carol"]);
    node.nodes(&[], &[(OTHER, 1_000)]);
    assert!(node.asked("append").is_empty(), "they are away already");
    node.pass(grace_ms() - 1_000);
    assert!(node.hears(ann).is_empty());
    node.pass(1);
    assert_eq!(node.asked("append"), ["append den: forget node 2"]);
    assert_eq!(node.hears(ann), ["presence leave carol timeout"]);
}

#[test]
fn what_is_over_at_the_moment_when_a_node_is_told_lost_is_over() {
    for (lost_ms, what) in [(grace_ms() - 1, "lose"), (grace_ms(), "forget")] {
        let (mut node, _) = den();
        node.nodes(&[], &[(THIRD, 0), (OTHER, lost_ms)]);
        assert_eq!(node.asked("append"), [format!("append den: {what} node 2")]);
    }
}

#[test]
fn a_node_of_which_nothing_is_known_is_lost_after_a_lease() {
    // Told again, it is no longer for that.
    let (mut node, ann) = den();
    node.nodes(&[THIRD], &[]);
    node.pass(lease_ms() - 1);
    node.nodes(&[THIRD], &[]);
    assert!(node.asked("append").is_empty());
    node.pass(1);
    node.nodes(&[], &[(THIRD, 0)]);
    assert_eq!(node.asked("append"), ["append den: lose node 2"]);
    assert_eq!(node.hears(ann), ["presence away carol"]);
    node.pass(grace_ms());
    assert!(node.asked("append").is_empty());
    node.pass(1);
    assert_eq!(node.asked("append"), ["append den: forget node 2"]);
    // By itself it is noticed a moment later.
    let (mut node, _) = den();
    node.nodes(&[THIRD], &[]);
    node.pass(lease_ms());
    assert!(node.asked("append").is_empty());
    node.pass(1);
    assert_eq!(node.asked("append"), ["append den: lose node 2"]);
}

#[test]
fn a_node_that_was_unknown_long_ago_is_noticed_anew() {
    let (mut node, _) = den();
    node.nodes(&[THIRD], &[]);
    let reason = LeaveReason::Left;
    node.change("den", OTHER, 2, vec![RoomOp::Leave { session: session("2.0.0.1"), reason }]);
    node.pass(lease_ms() + grace_ms() + 1);
    node.nodes(&[THIRD], &[]);
    node.change("den", OTHER, 3, vec![join("2.0.0.2", "dora")]);
    node.log.clear();
    node.nodes(&[THIRD], &[]);
    assert!(node.asked("append").is_empty());
    // One that is heard of is not unknown, and would be so anew.
    node.nodes(&[OTHER], &[]);
    node.pass(2 * lease_ms());
    node.nodes(&[THIRD], &[]);
    assert!(node.asked("append").is_empty());
}

#[test]
fn that_the_backplane_answers_is_no_news_as_long_as_it_does() {
    let mut node = Node::new(|_| {});
    let ann = node.enter("ann", &["den"]);
    node.cores.broken(ann);
    node.settle();
    let ask = Ask { core: 0, wait: Id { index: 5, generation: 1 } };
    let number = node.numbers["ann"];
    node.hear(OTHER, NodeMessage::GiveUp { number, ask });
    assert_eq!(node.told(), [(Some(OTHER), NodeMessage::GivenUp { ask, is_gone: false })]);
    node.pass(1);
    node.down(None);
    node.log.clear();
    node.pass(lease_ms() - 2);
    assert!(node.asked("look").is_empty());
    node.pass(1);
    assert_eq!(node.asked("look"), ["look for session"]);
    // When it has been away, others may have been so for a lease more.
    node.down(Some("it does not answer"));
    node.pass(1);
    node.down(None);
    node.log.clear();
    node.pass(lease_ms() - 1);
    assert!(node.asked("look").is_empty());
    node.pass(1);
    assert_eq!(node.asked("look"), ["look for session"]);
}
