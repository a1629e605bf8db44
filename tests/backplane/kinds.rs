//! The kinds of servers, and the ways to them.

use std::time::{Duration, Instant};

use starling::config::Config;
use starling::shard::backplane::{
    BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, TakeOutcome, Utterance,
};

use super::node::{Node, at, config, nickname, say, short};
use super::server::{Server, free_port};

/// Whether a room can be opened, and heard.
#[track_caller]
fn works(config: &Config) {
    let mut node = Node::start(config);
    node.open("r", "e").unwrap();
    node.looked_at("r");
    let offset = node.publish(&at("r", "e", 0, 0), "x", 1).unwrap().offset;
    assert_eq!(short(&node.entries("r")), [format!("m{offset} x")]);
}

#[track_caller]
fn refusal(config: &Config) -> String {
    let refused = Node::try_start(config, "").err().expect("it is refused").message;
    assert!(!refused.contains("hush") && refused.lines().count() == 1, "{refused}");
    refused
}

#[test]
fn by_port_and_by_path_and_with_a_password() {
    let server = Server::start(&["--requirepass", "hush p@ss"]);
    let port = server.port;
    works(&config(&[format!("redis://:hush%20p%40ss@127.0.0.1:{port}")]));
    works(&config(&[format!("redis://default:hush%20p%40ss@localhost:{port}/3")]));
    works(&config(&[format!("unix://{}?pass=hush%20p%40ss", server.path().display())]));
    let wrong = refusal(&config(&[format!("redis://:hush@127.0.0.1:{port}")]));
    assert!(wrong.contains("password"), "{wrong}");
    let none = refusal(&config(&[format!("redis://127.0.0.1:{port}")]));
    assert!(none.contains("password"), "{none}");
    let nobody = refusal(&config(&[format!("redis://:hush@127.0.0.1:{}", free_port())]));
    assert!(nobody.contains("is it running?"), "{nobody}");
    let nowhere = refusal(&config(&["redis://:hush@h:port".to_owned()]));
    assert!(nowhere.contains("URL 1"), "{nowhere}");
    // The first that can be used.
    works(&config(&[
        format!("redis://127.0.0.1:{}", free_port()),
        format!("redis://:hush%20p%40ss@127.0.0.1:{port}"),
    ]));
}

#[test]
fn by_tls_with_an_authority_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let write = |name: &str, text: String| std::fs::write(path(name), text).unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&ca_key).unwrap().pem());
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let named = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    write("cert.pem", named.signed_by(&key, &issuer).unwrap().pem());
    write("key.pem", key.serialize_pem());
    let port = free_port();
    let _server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("cert.pem"),
        "--tls-key-file",
        &path("key.pem"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let mut config = config(&[format!("rediss://localhost:{port}")]);
    assert!(refusal(&config).contains("cluster.ca"), "{}", refusal(&config));
    config.cluster.ca = Some(path("missing.pem").into());
    assert!(refusal(&config).contains("missing.pem"));
    config.cluster.ca = Some(path("key.pem").into());
    assert!(refusal(&config).contains("no certificate in"), "{}", refusal(&config));
    config.cluster.ca = Some(path("ca.pem").into());
    works(&config);
    config.cluster.redis.0[0].0 = format!("rediss://127.0.0.1:{port}");
    assert!(refusal(&config).contains("certificate"), "that is not its name");
}

/// Three servers that are one, and so many replicas of each.
fn redis_cluster(replicas: usize) -> Vec<Server> {
    let settings = [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-require-full-coverage",
        "no",
        "--cluster-replica-validity-factor",
        "0",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let servers: Vec<Server> = (0..3 * (1 + replicas)).map(|_| Server::start(&settings)).collect();
    for (index, server) in servers.iter().enumerate() {
        let _: String = server.ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
        if index < 3 {
            let (first, last) = (index * 16_384 / 3, (index + 1) * 16_384 / 3 - 1);
            let _: String = server.ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
        } else {
            let _: String = server.ask(&format!("CLUSTER MEET 127.0.0.1 {}", servers[0].port));
        }
    }
    for server in &servers[1..3] {
        let _: String = server.ask(&format!("CLUSTER MEET 127.0.0.1 {}", servers[0].port));
    }
    let knows_all = |server: &Server| {
        let nodes = server.ask::<String>("CLUSTER NODES");
        nodes.lines().filter(|line| !line.contains("handshake")).count() == servers.len()
    };
    let is_up = |server: &Server| {
        let info = server.ask::<String>("CLUSTER INFO");
        info.contains("cluster_slots_ok:16384") && info.contains("cluster_state:ok")
    };
    let (began, mut met_at) = (Instant::now(), Instant::now());
    while !servers.iter().all(|server| knows_all(server) && is_up(server)) {
        assert!(began.elapsed() < Duration::from_secs(60), "the servers do not find each other");
        // Where servers were too slow to shake hands, they have forgotten that they were to: that takes them their timeout.
        if met_at.elapsed() > Duration::from_secs(5) {
            met_at = Instant::now();
            for server in servers[1..].iter().filter(|server| !knows_all(server)) {
                let _: String = server.ask(&format!("CLUSTER MEET 127.0.0.1 {}", servers[0].port));
            }
        }
    }
    for (index, server) in servers.iter().enumerate().skip(3) {
        let primary: String = servers[index % 3].ask("CLUSTER MYID");
        let _: String = server.ask(&format!("CLUSTER REPLICATE {primary}"));
    }
    let follows =
        |server: &Server| server.ask::<String>("INFO replication").contains("master_link_status:up");
    while !servers[3..].iter().all(follows) {
        assert!(began.elapsed() < Duration::from_secs(90), "the replicas do not follow");
    }
    servers
}

#[test]
fn a_redis_cluster_is_one_server() {
    let mut servers = redis_cluster(0);
    let mut node = Node::start(&config(&[servers[1].tcp_url()]));
    let mut other = Node::start(&config(&[servers[2].tcp_url(), servers[0].tcp_url()]));
    let names: Vec<String> = (0..12).map(|index| format!("room{index}")).collect();
    for name in &names {
        node.open(name, "e").unwrap().unwrap();
        node.looked_at(name);
        other.open(name, "e").unwrap().unwrap();
        other.looked_at(name);
    }
    // In order in each room, over all of them.
    const EACH: u64 = 50;
    let requests = (1..=EACH).flat_map(|round| {
        let node = node.id;
        names
            .iter()
            .enumerate()
            .map(move |(room, name)| say(&at(name, "e", 0, 0), node, "x", room as u64 * 100 + round))
    });
    node.ask_all(0, requests.collect());
    for round in 1..=EACH {
        for room in 0..names.len() as u64 {
            assert_eq!(node.published(room * 100 + round).unwrap().offset, round);
        }
    }
    // Heard on whatever server. A connection may break in between: then what was not heard is asked for.
    let mut asked = 0;
    for name in &names {
        let mut heard = 0;
        while heard < EACH {
            let entries = other.entries_within(name, Duration::from_secs(10)).unwrap_or_else(|| {
                asked += 1;
                other.catch_up(&at(name, "e", 0, heard)).expect("it is there")
            });
            for entry in short(&entries) {
                heard += 1;
                assert_eq!(entry, format!("m{heard} x"));
            }
        }
    }
    assert!(asked <= 1, "{asked} rooms were not heard of");
    assert_eq!(node.rooms(None, 100).len(), names.len());
    assert_eq!(node.claim("ann", node.session(1), false), Ok(ClaimOutcome::Granted));
    assert_eq!(other.claim("ann", other.session(1), false), Ok(ClaimOutcome::Taken));
    let utterance = Utterance::Typing { session: node.session(1), nickname: nickname("ann") };
    node.ask(0, BackplaneRequest::Utter { room: "room3".into(), utterance });
    other.expect(0, |news| matches!(news, BackplaneNews::Uttered { .. }).then_some(()));

    // A slot moves.
    let moved = &names[0];
    let key = format!("starling:{{{moved}}}:meta");
    let slot: u64 = servers[0].ask(&format!("CLUSTER KEYSLOT {key}"));
    let from = servers
        .iter()
        .position(|server| server.ask::<u64>(&format!("CLUSTER COUNTKEYSINSLOT {slot}")) > 0)
        .unwrap();
    let to = (from + 1) % 3;
    let id = |server: &Server| server.ask::<String>("CLUSTER MYID");
    let (from_id, to_id) = (id(&servers[from]), id(&servers[to]));
    let _: String = servers[to].ask(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
    let _: String = servers[from].ask(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
    let keys: Vec<String> = servers[from].ask(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
    let mut migrate =
        vec!["MIGRATE".to_owned(), "127.0.0.1".to_owned(), servers[to].port.to_string(), String::new()];
    migrate.extend(["0", "5000", "KEYS"].map(str::to_owned));
    migrate.extend(keys);
    let _: String = servers[from].ask_all(&migrate.iter().map(String::as_str).collect::<Vec<_>>());
    // While it moves, a server says no to a script for keys of which only some are there (TRYAGAIN): some rooms wait.
    let moving = node.publish(&at(moved, "e", 0, EACH), "y", 1);
    assert!(matches!(moving, Ok(_) | Err(Failed::Down)), "{moving:?}");
    for server in &servers {
        let _: String = server.ask(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
    }
    let last = EACH + u64::from(moving.is_ok()) + 1;
    assert_eq!(node.publish(&at(moved, "e", 0, EACH), "z", 2).unwrap().offset, last);
    while short(&other.entries(moved)) != [format!("m{last} z")] {}

    // One server is gone: what is on the others goes on.
    let dead = 2;
    let is_on = |server: &Server, name: &String| {
        let slot: u64 = server.ask(&format!("CLUSTER KEYSLOT starling:{{{name}}}:meta"));
        server.ask::<u64>(&format!("CLUSTER COUNTKEYSINSLOT {slot}")) > 0
    };
    let (gone, stay): (Vec<_>, Vec<_>) = names.iter().partition(|name| is_on(&servers[dead], name));
    assert!(!gone.is_empty() && !stay.is_empty());
    servers[dead].kill();
    assert!(node.publish(&at(gone[0], "e", 0, 0), "x", 3).is_err());
    let placed = node.publish(&at(stay[0], "e", 0, 0), "x", 4);
    assert!(placed.unwrap().offset > EACH);
    assert!(!node.take(0).iter().any(|news| matches!(news, BackplaneNews::Down(_))), "not all of it");
}

#[test]
fn what_takes_the_place_of_a_server_of_a_redis_cluster_is_found() {
    let mut servers = redis_cluster(1);
    let urls: Vec<String> = servers[..3].iter().map(Server::tcp_url).collect();
    let mut node = Node::start(&config(&urls));
    let mut other = Node::start(&config(&urls[1..]));
    // A room on each.
    let slot_of = |name: &str| servers[0].ask::<u64>(&format!("CLUSTER KEYSLOT starling:{{{name}}}:meta"));
    let on = |index: usize| {
        (0..).map(|n| format!("r{n}")).find(|name| slot_of(name) as usize * 3 / 16_384 == index)
    };
    let rooms: Vec<String> = (0..3).map(|index| on(index).unwrap()).collect();
    for name in &rooms {
        node.open(name, "e").unwrap().unwrap();
        other.open(name, "e").unwrap().unwrap();
        other.looked_at(name);
        node.publish(&at(name, "e", 0, 0), "one", 1).unwrap();
        assert_eq!(short(&other.entries(name)), ["m1 one"]);
    }
    // The one that dies is also the one that the other hears on, as it names it first.
    let number = |server: &Server, field: &str| {
        let info = server.ask::<String>("INFO replication");
        let line = info.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
        line.parse::<u64>().unwrap()
    };
    let written = number(&servers[1], "master_repl_offset:");
    while number(&servers[4], "slave_repl_offset:") < written {}
    servers[1].kill();
    // The others go on meanwhile.
    assert_eq!(node.publish(&at(&rooms[0], "e", 0, 1), "two", 2).unwrap().offset, 2);
    assert_eq!(node.publish_at_last(&at(&rooms[1], "e", 0, 1), "two", 3).unwrap().offset, 2);
    assert_eq!(other.publish_at_last(&at(&rooms[1], "e", 0, 1), "three", 4).unwrap().offset, 3);
    // It is heard again, from a server that is there.
    for tag in 5.. {
        node.publish(&at(&rooms[1], "e", 0, 1), "again", tag).unwrap();
        let is_heard = |news: &BackplaneNews| match news {
            BackplaneNews::Entries { entries, .. } => short(entries)[0].ends_with("again"),
            _ => false,
        };
        if other.take(0).iter().any(is_heard) {
            break;
        }
    }
    assert!(!node.take(0).iter().any(|news| matches!(news, BackplaneNews::Down(_))), "not all of it");
}

#[test]
fn a_server_of_a_redis_cluster_that_hangs_holds_up_the_others_once() {
    let servers = redis_cluster(0);
    let config = config(&[servers[0].tcp_url()]);
    let deadline = Duration::from_millis(config.cluster.deadline_ms);
    let mut node = Node::start(&config);
    let slot_of = |name: &str| servers[0].ask::<u64>(&format!("CLUSTER KEYSLOT starling:{{{name}}}:meta"));
    let on = |index: u64| (0..).map(|n| format!("r{n}")).find(|name| slot_of(name) * 3 / 16_384 == index);
    let rooms: Vec<String> = (0..3).map(|index| on(index).unwrap()).collect();
    for name in &rooms {
        node.open(name, "e").unwrap().unwrap();
        node.looked_at(name);
    }
    let id = node.id;
    let say_in_all = |first: u64| {
        let say_in =
            |(index, name): (usize, &String)| say(&at(name, "e", 0, 0), id, "x", first + index as u64);
        rooms.iter().enumerate().map(say_in).collect::<Vec<_>>()
    };
    // The first that is asked, and the one that is asked what any may be asked. It may just be asked something else: then all wait for that.
    let mut is_asked_itself = |tag: &u64| {
        servers[0].signal(libc::SIGSTOP);
        node.ask_all(0, say_in_all(*tag));
        assert_eq!(node.published(*tag), Err(Failed::Down));
        if [1, 2].map(|index| node.published(tag + index).is_ok()) == [true, true] {
            return true;
        }
        servers[0].signal(libc::SIGCONT);
        while node.publish(&at(&rooms[0], "e", 0, 0), "y", 9).is_err() {}
        false
    };
    assert!((1000..).step_by(10).take(10).any(|tag| is_asked_itself(&tag)), "their servers have answered");
    let mut slowest = Duration::ZERO;
    for round in 1..40 {
        let asked_at = Instant::now();
        node.ask_all(0, say_in_all(round * 10));
        for (outcome, room) in [1, 2].map(|index| (node.published(round * 10 + index), index)) {
            assert!(
                outcome.is_ok(),
                "round {round}, room {room}: {outcome:?} after {:?}",
                asked_at.elapsed()
            );
        }
        slowest = slowest.max(asked_at.elapsed());
        assert_eq!(node.published(round * 10), Err(Failed::Down));
        // It is tried again and again meanwhile.
        while asked_at.elapsed() < deadline / 20 {
            node.open(&rooms[1], "e").unwrap().unwrap();
        }
    }
    assert!(slowest < deadline / 3, "{slowest:?}");
    servers[0].signal(libc::SIGCONT);
    let is_back = |node: &mut Node, tag| node.publish(&at(&rooms[0], "e", 0, 0), "y", tag).is_ok();
    let until = Instant::now() + Duration::from_secs(20);
    assert!((2000..).take_while(|_| Instant::now() < until).any(|tag| is_back(&mut node, tag)));
    assert!(!node.take(0).iter().any(|news| matches!(news, BackplaneNews::Down(_))), "not all of it");
}

#[test]
fn a_server_of_a_redis_cluster_that_comes_back_is_away_until_it_does_what_it_is_asked() {
    let mut servers = redis_cluster(0);
    let with_nodes = servers[0].ask::<u64>("CLUSTER KEYSLOT starling:{nodes}") as usize * 3 / 16_384;
    let other = (with_nodes + 1) % 3;
    let mut config = config(&[servers[other].tcp_url()]);
    // Longer than this test takes: by itself nobody says for a third of it that he lives.
    config.cluster.lease_ms = 90_000;
    let mut node = Node::start(&config);
    node.nodes(&[node.id], &[]);
    servers[with_nodes].kill();
    let killed_at = Instant::now();
    // As if somebody new said so; whether it hears that already is not known.
    while !node.take(1).iter().any(|news| matches!(news, BackplaneNews::NodesUnheard)) {
        assert!(killed_at.elapsed() < Duration::from_secs(20), "it does not say that nobody hears it");
        let _: u64 = servers[other].ask("PUBLISH starling:{nodes}:live x");
    }
    servers[with_nodes].restart();
    let (back_at, mut is_clusterdown) = (Instant::now(), false);
    let looked = || {
        let score = redis::cmd("ZSCORE").arg("starling:{nodes}").arg(node.id).to_owned();
        score.query::<Option<f64>>(&mut servers[with_nodes].connect())
    };
    loop {
        match looked() {
            Ok(Some(_)) => break,
            Ok(None) => {}
            Err(error) => is_clusterdown |= error.code() == Some("CLUSTERDOWN"),
        }
        assert!(back_at.elapsed() < Duration::from_secs(20), "it does not hear that the node lives");
    }
    assert!(is_clusterdown, "it has refused nothing");
    node.take(1).iter().for_each(|news| assert!(!matches!(news, BackplaneNews::Down(_)), "not all of it"));
}

#[test]
fn nobody_is_robbed_because_the_server_that_knows_who_lives_was_away() {
    let mut servers = redis_cluster(0);
    let with_nodes = servers[0].ask::<u64>("CLUSTER KEYSLOT starling:{nodes}") as usize * 3 / 16_384;
    let mut config = config(&[servers[(with_nodes + 1) % 3].tcp_url()]);
    config.cluster.lease_ms = 1500;
    let lease = Duration::from_millis(config.cluster.lease_ms);
    let (mut one, mut two) = (Node::start(&config), Node::start(&config));
    two.nodes(&[one.id, two.id], &[]);
    // Sessions on all servers.
    let numbers = 1..=20;
    for number in numbers.clone() {
        assert!(one.keep(number, one.session(number as u32), 1, false));
    }
    let _: String = servers[with_nodes].ask("SAVE");
    servers[with_nodes].kill();
    let killed_at = Instant::now();
    // Until all leases are over. Neither link is down: two servers answer.
    while killed_at.elapsed() < lease * 3 / 2 {
        two.expect(1, |news| matches!(news, BackplaneNews::NodesUnheard).then_some(()));
    }
    servers[with_nodes].restart();
    let back_at = Instant::now();
    let mut open: Vec<u64> = numbers.clone().collect();
    while !open.is_empty() {
        assert!(back_at.elapsed() < Duration::from_secs(20), "{open:?} are not known of");
        open.retain(|number| match two.try_to_take(*number, two.session(*number as u32)) {
            Err(failed) => failed == Failed::Down,
            Ok(TakeOutcome::Held { node }) => node != one.id,
            Ok(taken) => panic!("{number}: {taken:?} from a node that lives"),
        });
    }
    for node in [&mut one, &mut two] {
        assert!(!node.take(1).iter().any(|news| matches!(news, BackplaneNews::Down(_))));
    }
}

#[test]
fn who_starts_on_a_redis_cluster_that_is_not_complete_is_told_what_may_help() {
    let server = Server::start(&["--cluster-enabled", "yes"]);
    // Nobody has any slot; and all is refused as long as somebody does not have all.
    let mut said = vec![refusal(&config(&[server.tcp_url()]))];
    let _: String = server.ask("CLUSTER ADDSLOTSRANGE 0 16382");
    said.push(refusal(&config(&[server.tcp_url()])));
    assert!(said[1].contains("CLUSTERDOWN"), "{said:?}");
    assert!(
        said.iter().all(|said| said.contains("some seconds") && said.contains("--cluster check")),
        "{said:?}"
    );
}

#[test]
fn who_starts_on_a_redis_cluster_that_lacks_a_server_is_told_which_and_why() {
    let mut servers = redis_cluster(0);
    let with_nodes = servers[0].ask::<u64>("CLUSTER KEYSLOT starling:{nodes}") as usize * 3 / 16_384;
    servers[with_nodes].kill();
    let said = refusal(&config(&[servers[(with_nodes + 1) % 3].tcp_url()]));
    let port = servers[with_nodes].port;
    assert!(said.contains(&format!(":{port}: ")) && said.contains("is it running?"), "{said}");
}

#[test]
fn a_redis_cluster_that_refuses_everything_is_down_until_it_is_whole() {
    let mut servers = redis_cluster(0);
    for server in &servers {
        let _: String = server.ask("CONFIG SET cluster-require-full-coverage yes");
    }
    let mut node = Node::start(&config(&servers.iter().map(Server::tcp_url).collect::<Vec<_>>()));
    // A room on each.
    let slot_of = |name: &str| servers[0].ask::<u64>(&format!("CLUSTER KEYSLOT starling:{{{name}}}:meta"));
    let on = |index: u64| (0..).map(|n| format!("r{n}")).find(|name| slot_of(name) * 3 / 16_384 == index);
    let rooms: Vec<String> = (0..3).map(|index| on(index).unwrap()).collect();
    for name in &rooms {
        node.open(name, "e").unwrap().unwrap();
    }
    let id = node.id;
    let say_in_all = || {
        let say_in = |(tag, name): (usize, &String)| say(&at(name, "e", 0, 0), id, "x", tag as u64);
        rooms.iter().enumerate().map(say_in).collect::<Vec<_>>()
    };
    servers[1].kill();
    let killed_at = Instant::now();
    let is_down = |news: &BackplaneNews| matches!(news, BackplaneNews::Down(Some(_)));
    while !node.take(0).iter().any(is_down) {
        assert!(killed_at.elapsed() < Duration::from_secs(20), "it is not down");
        node.ask_all(0, say_in_all());
        _ = [0, 1, 2].map(|tag| node.published(tag));
    }
    let down_at = Instant::now();
    while down_at.elapsed() < Duration::from_secs(1) {
        node.ask_all(0, say_in_all());
        assert!([0, 1, 2].iter().all(|tag| node.published(*tag) == Err(Failed::Down)));
    }
    let is_back = |news: &BackplaneNews| matches!(news, BackplaneNews::Down(None));
    assert!(!node.take(0).iter().any(is_back), "it is not back in between");
    servers[1].restart();
    node.back();
    assert!(node.publish_at_last(&at(&rooms[0], "e", 0, 0), "x", 4).is_ok());
}
