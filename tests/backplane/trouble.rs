//! What becomes of it when the server fails, stops, forgets, is full or is not the one that it was.

use std::time::{Duration, Instant};

use starling::config::Secret;
use starling::shard::backplane::{
    BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, LogEntry, Position, RoomAt, TakeOutcome,
};

use super::node::{Node, at, config, join_of, nickname, renewal, say, short, wait};
use super::server::Server;

/// Ends a server at once and starts it again, with what it keeps, if anything; until all nodes are back.
fn restart(server: &mut Server, mut nodes: [&mut Node; 2]) {
    server.kill();
    nodes.iter_mut().for_each(|node| _ = node.down());
    server.restart();
    nodes.iter_mut().for_each(|node| node.back());
}

#[test]
fn scripts_that_are_flushed_are_loaded_again() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    let start = at("r", "e", 0, 0);
    for round in 0..5 {
        let _: String = server.ask("SCRIPT FLUSH");
        let tags = round * 100 + 1..=round * 100 + 100;
        node.ask_all(0, tags.clone().map(|tag| say(&start, node.id, "x", tag)).collect());
        for tag in tags {
            assert_eq!(node.published(tag).unwrap().offset, tag, "in order all the same");
        }
    }
    assert!(!node.take(0).iter().any(|news| matches!(news, BackplaneNews::Down(_))));
}

#[test]
fn a_connection_that_is_cut_is_made_anew() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    let mut other = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    node.looked_at("r");
    for round in 1..=3 {
        let _: u64 = server.ask("CLIENT KILL TYPE normal SKIPME yes");
        // Nothing is lost, and so nothing has to settle.
        let placed = node.publish_at_last(&at("r", "e", 0, 0), "x", round).unwrap();
        assert!(placed.offset >= round);
        node.down();
        node.back();
        // So is that of the other one, which notices when it asks.
        while other.open("r", "").is_err() {}
    }
    assert_eq!(node.claim("ann", node.session(1), false), Ok(ClaimOutcome::Granted));
}

#[test]
fn what_was_announced_in_vain_is_found_by_a_look() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    let mut other = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    node.looked_at("r");
    other.open("r", "e").unwrap();
    let mut entries: Vec<LogEntry> = Vec::new();
    for tag in 1..=300 {
        if tag % 100 == 50 {
            let _: u64 = server.ask("CLIENT KILL TYPE pubsub");
        }
        other.publish(&at("r", "e", 0, 0), "x", tag).unwrap();
    }
    // As a copy does it: what does not follow is passed over, and where a look says more it is asked for.
    while entries.len() < 300 {
        let have = entries.len() as u64;
        let (announced, is_more) = node.expect(0, |news| match news {
            BackplaneNews::Entries { entries, .. } => Some((entries.clone(), false)),
            BackplaneNews::At { at: Some((_, position)), .. } => Some((Vec::new(), position.offset > have)),
            _ => None,
        });
        let more = match is_more {
            true => node.catch_up(&at("r", "e", 0, have)).unwrap(),
            false => announced,
        };
        for entry in more {
            if let LogEntry::Message { position, .. } = &entry
                && position.offset == entries.len() as u64 + 1
            {
                entries.push(entry);
            }
        }
    }
    let tags = entries.iter().map(|entry| match entry {
        LogEntry::Message { message, .. } => message.tag,
        LogEntry::Change { .. } => 0,
    });
    assert!(tags.eq(1..=300));
}

#[test]
fn a_server_that_hangs_is_noticed_in_time() {
    let server = Server::start(&[]);
    let config = config(&[server.url()]);
    let mut node = Node::start(&config);
    node.open("r", "e").unwrap();
    let deadline = Duration::from_millis(config.cluster.deadline_ms);
    server.signal(libc::SIGSTOP);
    let asked = Instant::now();
    node.ask(0, say(&at("r", "e", 0, 0), node.id, "x", 1));
    assert_eq!(node.published(1), Err(Failed::Down));
    let waited = asked.elapsed();
    // Twice: the machine may be busy. It is never less than most of it.
    assert!(waited > deadline / 2 && waited < deadline * 2, "{waited:?}");
    assert_eq!(&*node.down(), "it does not answer");
    // As long as it hangs requests are answered, soon.
    let asked = Instant::now();
    node.ask(0, say(&at("r", "e", 0, 0), node.id, "x", 2));
    assert_eq!(node.published(2), Err(Failed::Down));
    assert!(asked.elapsed() < deadline * 2);
    server.signal(libc::SIGCONT);
    node.back();
    // Whether it was done is not known; what comes now is.
    let placed = node.publish_at_last(&at("r", "e", 0, 0), "y", 3).unwrap();
    let said = node.catch_up(&at("r", "e", 0, 0)).unwrap();
    assert_eq!(said.len() as u64, placed.offset);
    assert_eq!(short(&said).last(), Some(&format!("m{} y", placed.offset)));
}

#[test]
fn threads_end_although_the_server_hangs() {
    let server = Server::start(&[]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    server.signal(libc::SIGSTOP);
    let asked = Instant::now();
    node.stop();
    let waited = asked.elapsed();
    server.signal(libc::SIGCONT);
    assert!(waited < Duration::from_secs(10), "{waited:?}");
}

#[test]
fn a_server_that_comes_back_with_its_data_goes_on() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    node.looked_at("r");
    node.publish(&at("r", "e", 0, 0), "one", 1).unwrap();
    assert_eq!(node.claim("ann", node.session(1), false), Ok(ClaimOutcome::Granted));
    server.kill();
    node.down();
    node.ask(0, say(&at("r", "e", 0, 1), node.id, "lost", 2));
    assert_eq!(node.published(2), Err(Failed::Down));
    server.restart();
    node.back();
    assert_eq!(node.looked_at("r"), Some(("e".into(), Position { change: 0, offset: 1 })));
    assert_eq!(node.publish_at_last(&at("r", "e", 0, 1), "two", 3).unwrap().offset, 2);
    let mut other = Node::start(&config(&[server.url()]));
    assert_eq!(other.claim("ann", other.session(1), false), Ok(ClaimOutcome::Taken));
    let opened = other.open("r", "").unwrap().unwrap();
    assert_eq!(
        (short(&opened.entries), opened.is_doubtful),
        (vec!["m1 one".to_owned(), "m2 two".to_owned()], false)
    );
}

#[test]
fn a_server_that_comes_back_without_data_is_told_what_it_has_lost() {
    let mut server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    let copy = at("r", "e", 1, 1);
    one.open("r", "e").unwrap();
    one.looked_at("r");
    two.open("r", "e").unwrap();
    two.looked_at("r");
    one.append(&at("r", "e", 0, 0), join_of(one.session(1), "ann"), 1, false).unwrap();
    one.publish(&at("r", "e", 1, 0), "x", 2).unwrap();
    assert_eq!(one.claim("ann", one.session(1), false), Ok(ClaimOutcome::Granted));
    assert!(one.keep(7, one.session(1), 1, false));
    restart(&mut server, [&mut one, &mut two]);
    one.expect(0, |news| matches!(news, BackplaneNews::Returned).then_some(()));
    // The room is not there, and so nothing gets a place in it.
    assert_eq!(one.publish_at_last(&copy, "y", 3), Err(Failed::Lost));
    // Both begin it anew; the first has its way.
    one.ask(0, renewal(&copy, "e1", "{\"of\":1}"));
    two.ask(0, renewal(&copy, "e2", "{\"of\":2}"));
    let (first, second) = (one.opened("r").unwrap().unwrap(), two.opened("r").unwrap().unwrap());
    assert_eq!((&first.epoch, &first.snapshot), (&second.epoch, &second.snapshot));
    // What the copy has of its messages is there, and keeps its offsets.
    assert_eq!(first.position, Position { change: 0, offset: 1 });
    assert_eq!(short(&first.entries), ["m1 of the copy 1"]);
    let (epoch, body) = if &*first.epoch == "e1" { ("e1", "{\"of\":1}") } else { ("e2", "{\"of\":2}") };
    assert_eq!(first.snapshot, Some((0, body.to_owned())));
    assert_eq!(one.publish_at_last(&at("r", epoch, 0, 1), "z", 4).unwrap().offset, 2);
    assert_eq!(two.publish_at_last(&copy, "y", 5), Err(Failed::Lost), "the old epoch is over");
    // What a node holds is claimed anew without having been asked for.
    assert_eq!(two.claim("ann", two.session(1), false), Ok(ClaimOutcome::Taken));
    // What a session was only its core knows.
    let unkept = one.expect(0, |news| match news {
        BackplaneNews::Unkept { session } => Some(*session),
        _ => None,
    });
    assert_eq!(unkept, one.session(1));
}

#[test]
fn what_one_node_finds_lost_all_know_before_anything_gets_a_place() {
    let mut server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    for name in ["forsaken", "other"] {
        one.open(name, "e").unwrap();
        one.ask(0, BackplaneRequest::Close { room: name.into() });
    }
    one.publish(&at("forsaken", "e", 0, 0), "kept", 1).unwrap();
    two.publish(&at("other", "e", 0, 0), "kept", 1).unwrap();
    // What comes after this is lost: it is the first node's, and nobody has a copy of the room.
    let _: String = server.ask("SAVE");
    one.publish(&at("forsaken", "e", 0, 1), "lost", 2).unwrap();
    restart(&mut server, [&mut one, &mut two]);
    // As soon as the second can give places, it must know: offset 2 would be given again.
    assert_eq!(two.publish_at_last(&at("other", "e", 0, 1), "x", 3).unwrap().offset, 2);
    assert!(two.open("forsaken", "").unwrap().unwrap().is_doubtful);
    // Somebody begins it anew, and it is as good as any.
    two.ask(0, renewal(&at("forsaken", "e", 0, 1), "e2", "{}"));
    let renewed = two.opened("forsaken").unwrap().unwrap();
    assert_eq!((&*renewed.epoch, renewed.is_doubtful), ("e2", false));
    assert!(!one.open("forsaken", "").unwrap().unwrap().is_doubtful);
}

#[test]
fn who_has_gone_to_another_node_since_what_redis_comes_back_with_stays_there() {
    let mut server = Server::start(&[]);
    let mut settings = config(&[server.url()]);
    settings.cluster.lease_ms = 600;
    let mut one = Node::start(&settings);
    let mut two = Node::start(&settings);
    let (a, b) = (one.session(1), two.session(1));
    assert_eq!(one.claim("s7", a, false), Ok(ClaimOutcome::Granted));
    assert!(one.keep(7, a, 1, false));
    // What comes after this is lost: the session goes from the first to the second, with its nickname.
    let _: String = server.ask("SAVE");
    assert!(one.keep(7, a, 2, true));
    assert!(matches!(two.take_session(7, b), TakeOutcome::Taken { .. }));
    let replaced =
        BackplaneRequest::Replace { nickname: nickname("s7"), old: a, session: b, has_token: false };
    two.ask(0, replaced);
    assert_eq!(two.find("s7").unwrap().1, [b]);
    restart(&mut server, [&mut one, &mut two]);
    // The node that has it is asked to say what it is, and says it.
    let kept = |revision, wait| {
        let (number, session, body, nickname) = (7, b, format!("body {revision}"), nickname("s7"));
        let is_given_up = false;
        BackplaneRequest::KeepSession { number, session, nickname, revision, body, wait, is_given_up }
    };
    two.expect(0, |news| matches!(news, BackplaneNews::Unkept { session } if *session == b).then_some(()));
    two.ask(0, kept(3, None));
    // Whoever wants it waits until that is known; and the first, which does not have it, does not get it.
    assert_eq!(one.take_session(7, one.session(2)), TakeOutcome::Held { node: two.id });
    assert_eq!(one.claim("s7", one.session(2), false), Ok(ClaimOutcome::Taken));
    assert_eq!(one.find("s7").unwrap().1, [b], "the first has it no more");
    // It is said again, more than once, and the second hears nothing against it.
    let lease = || -> u64 { server.ask(&format!("ZSCORE starling:{{nodes}} {}", two.id)) };
    let first = lease();
    let until = Instant::now() + Duration::from_secs(30);
    while lease() < first + 1000 {
        assert!(Instant::now() < until, "the node lives");
    }
    two.ask(0, kept(4, None));
    assert_eq!(two.find("s7").unwrap().1, [b]);
    let against = |news: &BackplaneNews| {
        matches!(news, BackplaneNews::SessionMoved { .. } | BackplaneNews::NicknameLost { .. })
    };
    assert!(!two.take(0).iter().any(against));
    assert!(two.keep(7, b, 5, true), "it is given up as what it is now");
    let taken = one.take_session(7, one.session(2));
    assert_eq!(taken, TakeOutcome::Taken { old: b, places: vec![a], revision: 5, body: "body 5".to_owned() });
}

/// In the room `r`, which both have opened, after somebody has joined it.
fn say_three_things(one: &mut Node, two: &mut Node) {
    one.open("r", "e").unwrap();
    two.open("r", "").unwrap().unwrap();
    one.append(&at("r", "e", 0, 0), join_of(one.session(1), "ann"), 1, false).unwrap();
    for (tag, said) in [(1, "one"), (2, "two"), (3, "three")] {
        one.publish(&at("r", "e", 1, tag - 1), said, tag).unwrap();
    }
}

#[test]
fn what_is_said_before_a_loss_is_found_out_is_taken_along() {
    let server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    say_three_things(&mut one, &mut two);
    // The second has seen a change that is gone, and had come to the first message.
    let copy = at("r", "e", 2, 1);
    two.ask(0, renewal(&copy, "e2", "{}"));
    let renewed = two.opened("r").unwrap().unwrap();
    assert_eq!((&*renewed.epoch, renewed.position), ("e2", Position { change: 0, offset: 3 }));
    assert_eq!(short(&renewed.entries), ["m1 of the copy 1", "m2 two", "m3 three"]);
    assert_eq!(one.publish_at_last(&at("r", "e2", 0, 3), "four", 4).unwrap().offset, 4);
}

#[test]
fn a_room_that_contradicts_somebody_goes_on_under_another_epoch() {
    let server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    say_three_things(&mut one, &mut two);
    // A copy that has seen other things, of which the backplane knows nothing, vouches for none of them.
    let nowhere = Position { change: u64::MAX, offset: u64::MAX };
    two.ask(0, renewal(&RoomAt { known: nowhere, ..at("r", "e", 1, 1) }, "e2", ""));
    let renewed = two.opened("r").unwrap().unwrap();
    assert_eq!((&*renewed.epoch, renewed.position), ("e2", Position { change: 1, offset: 3 }));
    let mut entries = short(&renewed.entries);
    entries.sort();
    assert_eq!(entries, ["c1", "m1 one", "m2 two", "m3 three"]);
    // Once is enough, and a room that is gone is not made of nothing.
    two.ask(0, renewal(&RoomAt { known: nowhere, ..at("r", "e", 1, 1) }, "e3", ""));
    assert_eq!(&*two.opened("r").unwrap().unwrap().epoch, "e2");
    assert_eq!(one.publish_at_last(&at("r", "e2", 1, 3), "four", 4).unwrap().offset, 4);
    two.ask(0, renewal(&RoomAt { known: nowhere, ..at("gone", "e", 1, 1) }, "e3", ""));
    assert!(two.opened("gone").unwrap().is_none());
}

#[test]
fn nodes_that_come_back_together_do_not_take_each_other_for_lost() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut config = config(&[server.url()]);
    config.cluster.lease_ms = 900;
    let lease = Duration::from_millis(config.cluster.lease_ms);
    let mut node = Node::start(&config);
    // It lives and says so, as far as anybody knows; but it is slower to find the server again.
    let slow = 1;
    let _: u64 = server.ask(&format!("ZADD starling:{{nodes}} {} {slow}", far_ms(lease)));
    node.nodes(&[node.id, slow], &[]);
    let _: u64 = server.ask(&format!("ZADD starling:{{nodes}} {} {slow}", far_ms(lease)));
    server.kill();
    node.down();
    node.take(0);
    let silent = Instant::now();
    while silent.elapsed() < lease + lease / 3 {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.restart();
    node.back();
    let back = Instant::now();
    node.expect(0, |news| matches!(news, BackplaneNews::Returned).then_some(()));
    // It comes back in time: then nobody has ever missed it.
    let _: u64 = server.ask(&format!("ZADD starling:{{nodes}} {} {slow}", far_ms(Duration::from_secs(2))));
    let third = 2;
    let _: u64 =
        server.ask(&format!("ZADD starling:{{nodes}} {} {third}", far_ms(Duration::from_secs(3600))));
    let told = node.expect(0, |news| match news {
        BackplaneNews::Nodes { living, lost } => Some((living.to_vec(), lost.to_vec())),
        _ => None,
    });
    assert_eq!(told, ([vec![slow, third], vec![node.id]].concat(), vec![]));
    // It is silent after that: then it is lost, when it has had its time.
    let lost_ms = node.expect(0, |news| match news {
        BackplaneNews::Nodes { lost, .. } => lost.first().map(|lost| lost.lost_ms),
        _ => None,
    });
    assert!(back.elapsed() >= lease, "{:?}", back.elapsed());
    assert!(lost_ms < 2000, "{lost_ms}");
}

/// The time then, as the server counts it.
fn far_ms(ahead: Duration) -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (now + ahead).as_millis()
}

#[test]
fn who_is_new_gives_those_their_time_who_have_been_silent() {
    let server = Server::start(&[]);
    let mut config = config(&[server.url()]);
    config.cluster.lease_ms = 900;
    // The server was away, perhaps: who was silent may come back in this moment.
    let silent = 1;
    let over = far_ms(Duration::ZERO) - 100;
    let _: u64 = server.ask(&format!("ZADD starling:{{nodes}} {over} {silent}"));
    let started = Instant::now();
    let mut node = Node::start(&config);
    node.nodes(&[node.id], &[]);
    node.nodes(&[node.id], &[silent]);
    assert!(started.elapsed() >= Duration::from_millis(config.cluster.lease_ms));
}

#[test]
fn who_starts_on_a_server_that_has_lost_everything_waits_for_those_who_know() {
    let mut server = Server::start(&[]);
    // It cannot come back before its user is there again.
    let user = "ACL SETUSER node on >secret ~* &* +@all";
    let _: String = server.ask(user);
    let mut as_user = config(&[server.url()]);
    as_user.cluster.redis.0 = vec![Secret(format!("redis://node:secret@127.0.0.1:{}", server.port))];
    let mut one = Node::start(&as_user);
    assert_eq!(one.claim("ann", one.session(1), false), Ok(ClaimOutcome::Granted));
    server.kill();
    one.down();
    server.restart();
    let url = server.url();
    let starting = std::thread::spawn(move || {
        let mut two = Node::start(&config(&[url]));
        let outcome = two.claim("ann", two.session(1), false);
        let known = two.accepted.lock().unwrap().clone();
        (two, outcome, known)
    });
    let until = Instant::now() + Duration::from_secs(30);
    while !server.ask::<bool>("EXISTS starling:{nodes}:line") {
        assert!(Instant::now() < until, "it starts");
    }
    let _: String = server.ask(user);
    one.back();
    let (two, outcome, known) = starting.join().unwrap();
    assert_eq!(outcome, Ok(ClaimOutcome::Taken));
    assert!(two.resume_secret == one.resume_secret || known.contains(&one.resume_secret));
    // Both have found the same loss, and another line began once.
    let line: String = server.ask("GET starling:{nodes}:line");
    one.claim("bob", one.session(2), false).unwrap();
    assert_eq!(server.ask::<String>("GET starling:{nodes}:line"), line);
}

#[test]
fn a_server_that_refuses_to_hear_that_a_node_lives_is_down() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let mut node = Node::start(&config(&[server.url()]));
    node.open("r", "e").unwrap();
    let start = at("r", "e", 0, 0);
    node.append(&start, join_of(node.session(1), "ann"), 1, false).unwrap();
    node.publish(&start, "one", 1).unwrap();
    let _: String = server.ask("CONFIG SET maxmemory 1");
    // What finds out is refused; what comes then is answered at once.
    assert_eq!(node.publish(&start, "x", 2), Err(Failed::Down));
    assert_eq!(&*node.down(), "it is full");
    let asked = Instant::now();
    assert_eq!(node.append(&start, join_of(node.session(2), "bob"), 2, false), Err(Failed::Down));
    assert_eq!(node.open("s", "e").unwrap_err(), Failed::Down);
    assert_eq!(node.claim("ann", node.session(1), false), Err(Failed::Down));
    // A room that was lost stays whole as long as it cannot begin anew.
    node.ask(0, renewal(&at("r", "e", 9, 9), "e2", "{}"));
    assert_eq!(node.opened("r").unwrap_err(), Failed::Down);
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    let _: String = server.ask("CONFIG SET maxmemory 0");
    node.back();
    // What was refused has left no trace.
    let mut entries = short(&node.catch_up(&start).unwrap());
    entries.sort();
    assert_eq!(entries, ["c1", "m1 one"]);
    assert_eq!(node.publish(&start, "two", 3).unwrap().offset, 2);
    assert!(node.open("s", "").unwrap().is_none());
    assert!(!node.take(0).iter().any(|news| matches!(news, BackplaneNews::Down(_))));
}

#[test]
fn what_nobody_can_vouch_for_is_doubtful_after_a_start_of_everything() {
    let mut server = Server::start(&[]);
    let config = config(&[server.url()]);
    let mut node = Node::start(&config);
    node.open("r", "e").unwrap();
    node.publish(&at("r", "e", 0, 0), "one", 1).unwrap();
    // A node that ends and comes back finds the same server, which has forgotten nothing.
    node.stop();
    let mut node = Node::start(&config);
    assert!(!node.open("r", "").unwrap().unwrap().is_doubtful);
    let _: String = server.ask("SAVE");
    node.publish(&at("r", "e", 0, 1), "two", 2).unwrap();
    server.kill();
    node.stop();
    server.restart();
    // Nobody is left who knows that there was more.
    let mut node = Node::start(&config);
    assert!(node.open("r", "").unwrap().unwrap().is_doubtful);
    node.ask(0, renewal(&at("r", "e", 0, 1), "e2", "{}"));
    assert!(!node.opened("r").unwrap().unwrap().is_doubtful);
    // It is asked once: those who come after it go on.
    let mut other = Node::start(&config);
    assert!(!other.open("r", "").unwrap().unwrap().is_doubtful);
}

#[test]
fn a_replica_is_passed_over_and_one_that_is_promoted_is_found() {
    let mut first = Server::start(&[]);
    let second = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let _: String = second.ask(&format!("REPLICAOF 127.0.0.1 {}", first.port));
    while !second.ask::<String>("INFO replication").contains("master_link_status:up") {}
    let refused = Node::try_start(&config(&[second.url()]), "").err().unwrap().message;
    assert!(refused.contains("replica"), "{refused}");
    let mut node = Node::start(&config(&[second.url(), first.url()]));
    node.open("r", "e").unwrap();
    node.looked_at("r");
    node.publish(&at("r", "e", 0, 0), "one", 1).unwrap();
    // What it has not got is lost with the first.
    while second.ask::<Option<u64>>("HGET starling:{r}:meta offset") != Some(1) {}
    first.kill();
    node.down();
    let _: String = second.ask("REPLICAOF NO ONE");
    node.back();
    assert_eq!(node.publish_at_last(&at("r", "e", 0, 1), "two", 2).unwrap().offset, 2);
    // It is heard there too.
    while short(&node.entries("r")) != ["m2 two"] {}
    // One that has become a replica is left.
    first.restart();
    let _: String = second.ask(&format!("REPLICAOF 127.0.0.1 {}", first.port));
    node.ask(0, say(&at("r", "e", 0, 2), node.id, "x", 3));
    assert!(node.published(3).is_err());
    node.down();
    node.back();
    assert_eq!(
        node.publish_at_last(&at("r", "e", 0, 2), "x", 4),
        Err(Failed::Lost),
        "the first has lost all"
    );
}

#[test]
fn what_was_signed_with_before_a_loss_is_taken_by_those_who_come_after_it() {
    let server = Server::start(&[]);
    let mut config = config(&[server.url()]);
    config.cluster.lease_ms = 900;
    let one = Node::start(&config);
    // Somebody starts before anybody could say what was there.
    let other = format!(
        "redis.call('FLUSHALL') redis.call('HSET', 'starling:{{secret}}', 'resume', '{}')",
        "07".repeat(32)
    );
    let _: Option<String> = server.ask_all(&["EVAL", &other, "0"]);
    let two = Node::start(&config);
    assert_eq!(two.resume_secret, [7; 32]);
    let accepts = |node: &Node, of: &Node| {
        node.resume_secret == of.resume_secret || node.accepted.lock().unwrap().contains(&of.resume_secret)
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !(accepts(&one, &two) && accepts(&two, &one)) {
        assert!(Instant::now() < until, "they do not take each other's");
        std::thread::yield_now();
    }
    // Those who come later do from the beginning: a client is not to hear meanwhile that its token is worth nothing.
    let three = Node::start(&config);
    assert!([&one, &two].iter().all(|node| accepts(&three, node) && accepts(node, &three)));
    // Emptied, and nobody comes: it is there again.
    let _: String = server.ask("FLUSHALL");
    while !server.ask::<bool>("HEXISTS starling:{secret} resume") {
        assert!(Instant::now() < until, "it is not said again");
    }
    let accepted: Vec<_> = [&one, &two, &three].map(|node| node.accepted.lock().unwrap().len()).into();
    assert!(accepted.iter().all(|count| *count <= 2), "{accepted:?}");
}

#[test]
fn nobody_is_said_to_have_a_nickname_before_all_have_said_whom_they_have() {
    let mut server = Server::start(&[]);
    let mut one = Node::start(&config(&[server.url()]));
    let mut two = Node::start(&config(&[server.url()]));
    assert_eq!(one.find("ann"), None);
    restart(&mut server, [&mut one, &mut two]);
    let mut find = || {
        one.ask(0, BackplaneRequest::Find { wait: wait(77), nickname: nickname("ann") });
        one.expect(0, |news| match news {
            BackplaneNews::Found { outcome, .. } => Some(outcome.clone()),
            _ => None,
        })
    };
    assert_eq!(find(), Err(Failed::Down));
    let until = Instant::now() + Duration::from_secs(15);
    let at_last = std::iter::repeat_with(find).find(|found| found.is_ok() || Instant::now() > until);
    assert_eq!(at_last, Some(Ok(None)));
}
