//! Nicknames, sessions, nodes, and what nodes say to each other.

use std::time::{Duration, Instant};

use starling::chat::user::SessionRef;
use starling::config::{Config, Secret};
use starling::shard::backplane::{
    Ask, BackplaneNews, BackplaneRequest, ClaimOutcome, NodeMessage, TakeOutcome,
};

use super::node::{CORES, Node, config, nickname, wait};
use super::server::Server;

/// A node's lease is soon over, and so are the claims of one that is gone.
fn hasty(server: &Server) -> Config {
    let mut config = config(&[server.url()]);
    config.cluster.lease_ms = 600;
    config.session.grace_ms = 300;
    config
}

/// Two nodes with leases that are soon over, of which the first comes as a user of its own, who can be shut out; and for how long sessions
/// of a node that is gone are held, in ms.
fn one_to_be_shut_out(server: &Server) -> (Node, Node, u64) {
    let _: String = server.ask("ACL SETUSER node on >secret ~* &* +@all");
    let mut config = config(&[server.url()]);
    config.cluster.lease_ms = 600;
    let two = Node::start(&config);
    config.cluster.redis.0 = vec![Secret(format!("redis://node:secret@127.0.0.1:{}", server.port))];
    (Node::start(&config), two, config.cluster.lease_ms + config.session.grace_ms)
}

/// Cuts the first off, without a word, until it is taken for lost.
fn shut_out(server: &Server, one: &mut Node, two: &mut Node) {
    let _: String = server.ask("ACL SETUSER node off");
    let _: u64 = server.ask("CLIENT KILL USER node");
    one.down();
    two.nodes(&[two.id], &[one.id]);
}

#[test]
fn a_nickname_is_one_users_on_all_nodes() {
    let server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    let (a, b, c) = (one.session(1), two.session(1), two.session(2));
    assert_eq!(one.find("ann"), None);
    assert_eq!(one.claim("Ann", a, false), Ok(ClaimOutcome::Granted));
    assert_eq!(two.claim("aNN", b, false), Ok(ClaimOutcome::Taken));
    assert_eq!(two.claim("aNN", b, true), Ok(ClaimOutcome::Taken), "the other has shown no token");
    assert_eq!(two.find("ANN"), Some(("Ann".to_owned(), vec![a])));
    assert_eq!(one.claim("ANN", a, false), Ok(ClaimOutcome::Granted), "in another spelling");
    assert_eq!(two.find("ann"), Some(("ANN".to_owned(), vec![a])));
    one.ask(0, BackplaneRequest::Release { nickname: nickname("ann"), session: a });
    assert_eq!(one.find("ann"), None);
    // A user with a token has several sessions, and not too many.
    assert_eq!(two.claim("Ann", b, true), Ok(ClaimOutcome::Granted));
    assert_eq!(one.claim("ann", a, false), Ok(ClaimOutcome::Taken));
    assert_eq!(one.claim("ann", a, true), Ok(ClaimOutcome::Granted));
    assert_eq!(one.find("ann").unwrap().0, "Ann", "the one who is there decides");
    assert_eq!(two.claim("ann", c, true), Ok(ClaimOutcome::Full));
    // In the place of another.
    let (old, session, has_token) = (b, c, true);
    two.ask(0, BackplaneRequest::Replace { nickname: nickname("ann"), old, session, has_token });
    let mut both = vec![a, c];
    both.sort();
    assert_eq!(two.find("ann"), Some(("Ann".to_owned(), both)));
}

#[test]
fn what_a_node_holds_lasts_as_long_as_it_lives() {
    let server = Server::start(&[]);
    // The first comes as a user of its own, who can be shut out.
    let _: String = server.ask("ACL SETUSER node on >secret ~* &* +@all");
    let mut as_user = hasty(&server);
    as_user.cluster.redis.0 = vec![Secret(format!("redis://node:secret@127.0.0.1:{}", server.port))];
    let mut one = Node::start(&as_user);
    let mut two = Node::start(&hasty(&server));
    let a = one.session(1);
    assert_eq!(one.claim("ann", a, false), Ok(ClaimOutcome::Granted));
    assert!(one.keep(7, a, 1, false));
    two.nodes(&[one.id, two.id], &[]);
    // The time of several leases, told by the other's beats.
    let first: u64 = server.ask(&format!("ZSCORE starling:{{nodes}} {}", two.id));
    while server.ask::<u64>(&format!("ZSCORE starling:{{nodes}} {}", two.id)) < first + 2000 {
        assert_eq!(two.find("ann").unwrap().1, [a]);
    }
    assert!(server.ask::<bool>("EXISTS starling:{s:0000000000000007}"));
    assert_eq!(two.take_session(7, two.session(1)), TakeOutcome::Held { node: one.id });
    // It is gone without a word: as if it had been killed.
    let _: String = server.ask("ACL SETUSER node off");
    let _: u64 = server.ask("CLIENT KILL USER node");
    one.down();
    two.nodes(&[two.id], &[one.id]);
    let taken = two.take_session(7, two.session(1));
    assert_eq!(taken, TakeOutcome::Taken { old: a, places: vec![], revision: 1, body: "body 1".to_owned() });
    // Its nickname is free after the time of grace, and it is forgotten.
    while two.claim("ann", two.session(2), false) == Ok(ClaimOutcome::Taken) {}
    two.nodes(&[two.id], &[]);
    // It comes back, and hears what it has lost.
    let _: String = server.ask("ACL SETUSER node on");
    one.back();
    one.expect(0, |news| matches!(news, BackplaneNews::Returned).then_some(()));
    let lost = one.expect(0, |news| match news {
        BackplaneNews::NicknameLost { session, .. } => Some(*session),
        _ => None,
    });
    assert_eq!(lost, a);
    assert!(!one.keep(7, a, 2, false), "another node has it");
    let held = TakeOutcome::Held { node: two.id };
    assert_eq!(two.take_session(7, two.session(3)), held, "a node knows its own");
}

#[test]
fn a_nickname_does_not_wait_for_a_session_that_another_node_has() {
    let server = Server::start(&[]);
    let mut config = config(&[server.url()]);
    config.session.grace_ms = 600_000;
    let (mut one, two) = (Node::start(&config), Node::start(&config));
    let a = one.session(1);
    assert_eq!(one.claim("s7", a, false), Ok(ClaimOutcome::Granted));
    assert!(one.keep(7, a, 1, false));
    let held_ms = || {
        let [held]: [String; 1] = server.ask("HVALS starling:{k:s7}");
        let until: u64 = held.split(' ').next().unwrap().parse().unwrap();
        let [seconds, micros]: [u64; 2] = server.ask("TIME");
        until.saturating_sub(seconds * 1000 + micros / 1000)
    };
    assert!(held_ms() > 500_000);
    // As if Redis had come back as it was when the session was there.
    let _: u64 = server.ask(&format!("HSET starling:{{s:0000000000000007}} ref {}", two.session(1)));
    assert!(!one.keep(7, a, 2, true), "it cannot be given up any more");
    let until = Instant::now() + Duration::from_secs(30);
    while held_ms() > config.cluster.lease_ms {
        assert!(Instant::now() < until, "it is held for {} ms", held_ms());
    }
}

#[test]
fn what_a_lost_node_has_can_be_ended_without_it() {
    let server = Server::start(&[]);
    let (mut one, mut two, hold_ms) = one_to_be_shut_out(&server);
    let (a, b) = (one.session(1), two.session(1));
    let has_token = true;
    assert_eq!(one.claim("Ann", a, has_token), Ok(ClaimOutcome::Granted));
    assert_eq!(two.claim("ann", b, has_token), Ok(ClaimOutcome::Granted));
    let (body, nickname) = (r#"{"nickname":"Ann"}"#.to_owned(), nickname("ann"));
    let (number, session, revision) = (7, a, 1);
    let (wait, is_given_up) = (Some(wait(3)), false);
    let of = nickname.clone();
    one.ask(
        0,
        BackplaneRequest::KeepSession { number, session, nickname: of, revision, body, wait, is_given_up },
    );
    one.expect(0, |news| matches!(news, BackplaneNews::Kept { outcome: Ok(true), .. }).then_some(()));
    two.nodes(&[one.id, two.id], &[]);
    assert_eq!(two.put_out("ann"), 0, "those of nodes that live are theirs to end");
    shut_out(&server, &mut one, &mut two);
    assert_eq!(two.put_out("aNN"), 1);
    assert_eq!(two.put_out("ann"), 0);
    assert_eq!(two.find("ann").unwrap().1, [b]);
    // It does not come back, wherever, and its node hears of it.
    assert_eq!(two.take_session(7, two.session(2)), TakeOutcome::Gone);
    two.find("nobody"); // answered after it
    assert!(server.ask::<bool>("HEXISTS starling:{s:0000000000000007} ended"));
    let _: String = server.ask("ACL SETUSER node on");
    one.back();
    let (lost, is_put_out) = one.expect(0, |news| match news {
        BackplaneNews::NicknameLost { session, is_put_out, .. } => Some((*session, *is_put_out)),
        _ => None,
    });
    assert_eq!((lost, is_put_out), (a, true));
    // Nor as another session of its node.
    let session = one.session(2);
    one.ask(0, BackplaneRequest::Replace { nickname, old: a, session, has_token });
    let lost = one.expect(0, |news| match news {
        BackplaneNews::NicknameLost { session, is_put_out: true, .. } => Some(*session),
        _ => None,
    });
    assert_eq!(lost, session);
    let ttl_ms: u64 = server.ask("PTTL starling:{k:ann}:out");
    assert!((1..=hold_ms).contains(&ttl_ms), "{ttl_ms}");
}

#[test]
fn a_session_that_has_ended_elsewhere_does_not_come_back_with_its_node() {
    let server = Server::start(&[]);
    let (mut one, mut two, hold_ms) = one_to_be_shut_out(&server);
    let (a, b, other) = (one.session(1), two.session(1), two.session(2));
    assert!(one.keep(7, a, 1, false) && two.keep(8, other, 1, false));
    two.nodes(&[one.id, two.id], &[]);
    shut_out(&server, &mut one, &mut two);
    assert!(matches!(two.take_session(7, b), TakeOutcome::Taken { .. }));
    two.ask(0, BackplaneRequest::ForgetSession { number: 7, session: b });
    two.ask(0, BackplaneRequest::ForgetSession { number: 8, session: other });
    assert_eq!(two.take_session(7, two.session(3)), TakeOutcome::Gone);
    assert!(!server.ask::<bool>("EXISTS starling:{s:0000000000000008}"), "nobody else had that one");
    let ttl_ms: u64 = server.ask("PTTL starling:{s:0000000000000007}");
    assert!((1..=hold_ms).contains(&ttl_ms), "{ttl_ms}");
    let _: String = server.ask("ACL SETUSER node on");
    one.back();
    let moved = one.expect(0, |news| match news {
        BackplaneNews::SessionMoved { number, session } => Some((*number, *session)),
        _ => None,
    });
    assert_eq!(moved, (7, a));
    assert!(!one.keep(7, a, 2, false), "nor is it kept again");
    assert_eq!(one.take_session(7, one.session(4)), TakeOutcome::Gone);
}

#[test]
fn a_session_is_taken_once_and_only_from_a_node_that_lets_go() {
    let server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    let (a, b) = (one.session(1), two.session(1));
    assert_eq!(two.take_session(7, b), TakeOutcome::Gone);
    assert!(one.keep(7, a, 2, false));
    assert!(!one.keep(7, a, 1, false), "a later one is kept");
    assert!(one.keep(7, one.session(5), 3, false), "it has moved within its node");
    assert_eq!(two.take_session(7, b), TakeOutcome::Held { node: one.id });
    assert!(one.keep(7, a, 4, true));
    let taken = two.take_session(7, b);
    assert_eq!(taken, TakeOutcome::Taken { old: a, places: vec![], revision: 4, body: "body 4".to_owned() });
    assert_eq!(one.take_session(7, a), TakeOutcome::Held { node: two.id });
    assert!(!one.keep(7, a, 5, false), "it is somebody else's");
    one.ask(0, BackplaneRequest::ForgetSession { number: 7, session: a });
    assert!(two.keep(7, b, 5, false), "and was not forgotten");
    two.ask(0, BackplaneRequest::ForgetSession { number: 7, session: b });
    two.find("nobody"); // answered after it
    assert_eq!(one.take_session(7, a), TakeOutcome::Gone);
    // Who leaves has no sessions any more.
    assert!(two.keep(8, b, 1, false));
    two.stop();
    let taken = one.take_session(8, a);
    assert_eq!(taken, TakeOutcome::Taken { old: b, places: vec![], revision: 1, body: "body 1".to_owned() });
}

#[test]
fn the_nickname_of_a_session_that_was_taken_is_not_held_on_to() {
    let server = Server::start(&[]);
    let mut settings = config(&[server.url()]);
    settings.cluster.lease_ms = 600;
    settings.session.grace_ms = 3_600_000;
    let mut one = Node::start(&settings);
    let mut two = Node::start(&settings);
    let (a, b) = (one.session(1), two.session(1));
    assert_eq!(one.claim("s7", a, false), Ok(ClaimOutcome::Granted));
    assert!(one.keep(7, a, 1, true));
    assert!(matches!(two.take_session(7, b), TakeOutcome::Taken { .. }));
    // It has been given up with its session, and is claimed again before that turns out to be gone.
    assert_eq!(one.claim("s7", a, false), Ok(ClaimOutcome::Granted));
    assert!(!one.keep(7, a, 3, false), "another node has it");
    let deadline = Instant::now() + Duration::from_secs(20);
    while two.claim("s7", two.session(2), false) == Ok(ClaimOutcome::Taken) {
        assert!(Instant::now() < deadline, "it is held for as long as the time of grace");
    }
}

#[test]
fn a_nickname_that_comes_back_under_where_its_session_was_is_still_its_own() {
    let server = Server::start(&[]);
    let config = hasty(&server);
    let (mut one, mut two, mut three) = (Node::start(&config), Node::start(&config), Node::start(&config));
    let key = "starling:{k:s7}";
    let (first, second, third) = (one.session(1), two.session(2), three.session(3));
    assert_eq!(one.claim("s7", first, false), Ok(ClaimOutcome::Granted));
    let earlier: Vec<String> = server.ask(&format!("HGETALL {key}"));
    let come_back = || {
        let _: u64 = server.ask(&format!("DEL {key}"));
        let mut command = redis::cmd("HSET");
        command.arg(key).arg(&earlier);
        let _: u64 = command.query(&mut server.connect()).unwrap();
    };
    let go_on = |from: &mut Node, old, to: &mut Node, session, revision, comes_back: bool| {
        assert!(from.keep(7, old, revision, true));
        assert!(matches!(to.take_session(7, session), TakeOutcome::Taken { .. }));
        if comes_back {
            come_back();
        }
        to.ask(0, BackplaneRequest::Replace { nickname: nickname("s7"), old, session, has_token: false });
        assert_eq!(to.find("s7").unwrap().1, [session]);
    };
    go_on(&mut one, first, &mut two, second, 1, false);
    // One server of a Redis Cluster comes back as it was before, which nobody notices: while it stays where it is,
    come_back();
    let began = Instant::now();
    while two.find("s7").unwrap().1 != [second] {
        assert!(began.elapsed() < Duration::from_secs(20), "it is not said again");
    }
    // and where it goes on once more at that moment.
    go_on(&mut two, second, &mut three, third, 3, true);
    for node in [&mut two, &mut three] {
        let is_lost = |news: &BackplaneNews| matches!(news, BackplaneNews::NicknameLost { .. });
        assert!(!node.take(0).iter().any(is_lost), "it is not another's");
    }
}

/// A fault: whoever took a session said in rooms that it was there, and had its nickname there, and was lost before it had kept it. The next
/// node knew only where it had been kept.
#[test]
fn a_session_is_known_by_all_places_where_it_has_been_since_it_was_kept() {
    let server = Server::start(&[]);
    let mut nodes = [0; 3].map(|_| Node::start(&config(&[server.url()])));
    let places = [0, 1, 2].map(|index| nodes[index].session(1));
    assert_eq!(nodes[0].claim("s7", places[0], false), Ok(ClaimOutcome::Granted));
    assert!(nodes[0].keep(7, places[0], 1, true));
    let go_on =
        |old, session| BackplaneRequest::Replace { nickname: nickname("s7"), old, session, has_token: false };
    let take = |nodes: &mut [Node; 3], by: usize, session: SessionRef| {
        let taken = nodes[by].take_session(7, session);
        let TakeOutcome::Taken { old, places: others, .. } = taken else { panic!("{taken:?}") };
        assert_eq!(old, places[0], "where it was kept");
        nodes[by].ask(0, go_on(old, session));
        assert_eq!(nodes[by].find("s7").unwrap().1, [session]);
        // It goes on on this node, and nobody has come to keep it.
        let then = nodes[by].session(100 + session.session.index);
        nodes[by].ask(0, go_on(session, then));
        assert_eq!(nodes[by].find("s7").unwrap().1, [then]);
        nodes[by].ask(0, BackplaneRequest::FreeSession { number: 7, session });
        nodes[by].find("nobody"); // answered after it
        others
    };
    assert_eq!(take(&mut nodes, 1, places[1]), []);
    assert_eq!(take(&mut nodes, 2, places[2]), [places[1], places[0]]);
    let last = nodes[1].session(9);
    assert_eq!(take(&mut nodes, 1, last), [places[2], places[1], places[0]]);
    for index in 10..20 {
        let session = nodes[1].session(index);
        assert!(take(&mut nodes, 1, session).len() <= 8, "as many as are kept of it");
    }
    let is_lost = |news: &BackplaneNews| matches!(news, BackplaneNews::NicknameLost { .. });
    assert!(nodes.iter_mut().all(|node| !node.take(0).iter().any(is_lost)));
}

#[test]
fn what_nodes_say_to_each_other_comes_once_and_in_order() {
    const MANY: u32 = 2000;
    let server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    one.expect(0, |news| match news {
        BackplaneNews::Nodes { living, .. } => Some(living.len()),
        _ => None,
    });
    let ask =
        |index: u32, core: u16| NodeMessage::GivenUp { ask: Ask { core, wait: wait(index) }, is_gone: false };
    let to_two = two.id;
    for index in 0..MANY {
        let message = Box::new(ask(index, 1));
        one.ask(0, BackplaneRequest::Tell { node: to_two, message });
        if index % 500 == 250 {
            // Whoever hears is cut off again and again.
            let _: u64 = server.ask("CLIENT KILL TYPE pubsub");
        }
        if index % 100 == 0 {
            one.find("nobody"); // the mailbox is bounded
        }
    }
    for index in 0..MANY {
        assert_eq!(two.told(1), (one.id, ask(index, 1)));
    }
    // Each kind comes to the core that it is for, and what is for all to all.
    let sender = nickname("ann");
    let private = NodeMessage::Private {
        ask: Ask { core: 0, wait: wait(1) },
        sender: sender.clone(),
        target: nickname("Bob"),
        content: "hé".into(),
        key: None,
        timestamp_ms: 1,
    };
    one.ask(0, BackplaneRequest::Tell { node: two.id, message: Box::new(private.clone()) });
    assert_eq!(two.told("bob".len() as u16 % CORES as u16), (one.id, private));
    let give_up = NodeMessage::GiveUp { number: 6, ask: Ask { core: 0, wait: wait(1) } };
    one.ask(0, BackplaneRequest::Tell { node: two.id, message: Box::new(give_up.clone()) });
    assert_eq!(two.told(0), (one.id, give_up));
    // The first knows of the second when it has said again that it lives.
    let broadcast = NodeMessage::Broadcast {
        ask: Ask { core: 0, wait: wait(1) },
        sender,
        content: "x".into(),
        rooms: Vec::new(),
        tags: Vec::new(),
        timestamp_ms: 1,
    };
    two.ask(0, BackplaneRequest::TellAll { message: Box::new(broadcast.clone()) });
    for core in 0..CORES as u16 {
        assert_eq!(one.told(core), (two.id, broadcast.clone()));
    }
    assert!(two.take(0).iter().all(|news| !matches!(news, BackplaneNews::Told { .. })), "not to itself");
}

#[test]
fn nodes_must_be_configured_alike_and_share_secrets() {
    let server = Server::start(&[]);
    let mut one = Node::try_start(&hasty(&server), "a = 1\nb = 2").unwrap();
    let two = Node::try_start(&hasty(&server), "a = 1\nb = 2").unwrap();
    assert_eq!(one.resume_secret, two.resume_secret);
    assert_ne!(one.resume_secret, [0; 32]);
    assert!(one.id != two.id && one.id > 0);
    let refused = Node::try_start(&hasty(&server), "a = 1\nb = 3").err().unwrap().message;
    assert!(
        refused.contains("b = 3") && refused.contains("b = 2") && !refused.contains("a = 1"),
        "{refused}"
    );
    // Under another prefix it is another cluster.
    let mut other = hasty(&server);
    other.cluster.prefix.0 = "other".to_owned();
    let other = Node::try_start(&other, "a = 1\nb = 3").unwrap();
    assert_ne!(one.resume_secret, other.resume_secret);
    // When all have stopped it may be changed.
    one.stop();
    drop(two);
    while Node::try_start(&hasty(&server), "a = 1\nb = 3").is_err() {}
}
