//! Several nodes that share a backplane, which lags, fails, hangs and forgets; nodes that are killed and started; and clients that go
//! from node to node, and check everything they hear. Cores are driven without their loop: what matters here is what nodes say to each
//! other, not how bytes come.

pub mod backplane;
mod client;
mod rolling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use starling::auth::Authority;
use starling::auth::Claims;
use starling::auth::api_key::ApiKeys;
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::auth::resume::ResumeKey;
use starling::base::census::Census;
use starling::base::rng::Rng;
use starling::base::slots::Id;
use starling::base::time::Now;
use starling::chat::name::Nickname;
use starling::chat::user::NodeId;
use starling::config::{Config, JwtAlgorithm, ListenKind};
use starling::shard::backplane::{BackplaneNews, TakeOutcome};
use starling::shard::mail::Mail;
use starling::shard::{Flock, Shard};

use crate::coverage::Tally;
use crate::faults::{happens, pick, plain};
use crate::swarm::{self, OfCluster};
use backplane::{Backplane, LEASE_MS, Mishaps};
use client::{Client, Ledger};
use rolling::other_limits;

/// How many known seeds are run each time.
const SEEDS: u64 = 300;

/// Seeds that have failed once.
pub const REGRESSIONS: [u64; 12] = [
    4829, 6779, 22_378, 42_400, 924_472, 928_610, 930_206, 2_045_227, 3_008_414, 3_041_605, 4_026_989,
    8_225_578,
];

/// Seeds of the second generation that have failed once.
///
/// 1796094994341361797: a session was taken from a node that had taken it and not kept it yet. 1796099088302757212: it could not be taken
/// back into a room, as the backplane was away, and its node had gone. 1796099088302763971: it had gone on on the node that it was taken
/// from, which could not say so any more, and had its nickname there. 1796099755469793590: the room was behind on the node to which it came.
/// 1796099755469795861: so it was, and there the session had left it, and come again since. 1796100345430888835: it went on from an older place
/// than it could, and was left at the last one. 1796100857337476260: it was taken, long after it had been asked for, from a node where its user
/// was by then, and left a room: a wrong expectation of the simulator's. 1796101464107109650: whoever read what was left of a room, to begin it
/// anew, changed it, and so found that it had changed, again and again.
pub const SWARM_REGRESSIONS: [u64; 11] = [
    1_796_018_243_934_093_283,
    1_796_018_243_934_093_352,
    1_796_018_243_934_094_509,
    1_796_094_994_341_361_797,
    1_796_099_088_302_757_212,
    1_796_099_088_302_763_971,
    1_796_099_755_469_793_590,
    1_796_099_755_469_795_861,
    1_796_100_345_430_888_835,
    1_796_100_857_337_476_260,
    1_796_101_464_107_109_650,
];

/// And how many that nobody has seen.
const FRESH_SEEDS: u64 = 5;

/// Steps of a stretch between two moments of rest.
const STEPS: u64 = 3000;

/// What the tokens of admins are signed with.
const SECRET: &str = "of the simulator";

/// Rounds after which a world that should come to rest is taken to spin.
const ROUNDS_MAX: usize = 200_000;

/// What must happen in some of the known runs.
const HAPPENS: &[&str] = &[
    "acks",
    "announcements_lost",
    "backplane_refused",
    "broadcasts",
    "catch_ups",
    "comebacks",
    "copies_replaced",
    "downs",
    "forgotten",
    "forgotten_partly",
    "interrupted",
    "kicked",
    "nodes_killed",
    "not_recovered",
    "private_delivered",
    "private_stored",
    "recovered",
    "recovered_elsewhere",
    "renewed",
    "repeated",
    "returned",
    "sessions_moved",
    "sessions_taken",
    "snapshots",
    "timeouts_heard",
];

/// One node.
struct Node {
    id: NodeId,
    cores: Vec<Core>,
    home_seed: u64,
}

struct Core {
    shard: Shard,
    /// Mail from other cores of the node, by sender.
    mail: VecDeque<Mail>,
}

/// One run.
struct World {
    rng: Rng,
    nodes: Vec<Node>,
    backplane: Backplane,
    mishaps: Mishaps,
    clients: Vec<Client>,
    ledger: Ledger,
    /// How much the backplane has lost, as far as that has been noted.
    losses: [u64; 3],
    config: Arc<Config>,
    clock_ms: u64,
    last_node: NodeId,
    kills: u64,
    swarm: Option<OfCluster>,
    /// The nodes that are to be replaced, and until which moment the first of them may drain, if it does.
    outdated: VecDeque<NodeId>,
    drains_until: Option<u64>,
    /// When it began to, in milliseconds of the clock.
    drains_since_ms: u64,
    trace: Option<Vec<String>>,
}

/// A token by which somebody is an admin.
fn admin_token(nickname: &str) -> String {
    let signer = Signer::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET)).expect("a secret signs");
    let claims = Claims {
        nickname: Nickname::parse(nickname).expect("a nickname"),
        is_admin: true,
        rooms: None,
        tags: Vec::new(),
        expires_at_ms: None,
        account_at_ms: None,
    };
    signer.sign(&claims, &Options::default()).expect("a secret signs")
}

/// What the nodes check tokens with.
fn authority() -> Authority {
    let verifier = Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), None, None);
    Authority {
        verifier: Some(verifier.expect("a secret verifies")),
        accounts: None,
        api_keys: ApiKeys::default(),
        resume: ResumeKey::new([0; 32]),
        reading: 0,
    }
}

/// The core of a name, on any node: the same on all, so that the backplane can find it without asking.
pub fn home_of(node: NodeId, cores: usize, folded: &str) -> u16 {
    let flock = Flock {
        cores: cores as u16,
        home_seed: u64::from(node),
        ..Flock::of_one(Arc::default(), Arc::new(Census::new(0, 0)))
    };
    flock.home_of(folded)
}

impl World {
    fn new(seed: u64, is_traced: bool) -> World {
        let mut rng = Rng::new(seed ^ 0xC1_0573);
        let mut config = plain();
        config.session.grace_ms = pick(&mut rng, &[1500, 4000, 60_000]);
        config.history.count = pick(&mut rng, &[0, 3, 1000]);
        config.history.memory_count = pick(&mut rng, &[1, 5, 1000]);
        config.limits.commands_in_flight = pick(&mut rng, &[1, 3, 100]);
        config.presence.exact_members = pick(&mut rng, &[2, 200]);
        config.presence.batch_ms = 50;
        config.cluster.lease_ms = LEASE_MS;
        config.cluster.deadline_ms = pick(&mut rng, &[150, 1500]);
        let mut mishaps = Mishaps::draw(&mut rng);
        let mut kills = if rng.chance(50) { 0 } else { 1 + rng.below(3) };
        let swarm = swarm::apply_to_cluster(seed, &mut mishaps, &mut kills, &mut config);
        let mut world = World {
            backplane: Backplane::new(config.session.grace_ms),
            ledger: Ledger::new(mishaps.is_late),
            losses: [0; 3],
            nodes: Vec::new(),
            clients: Vec::new(),
            config: Arc::new(config),
            clock_ms: 1000,
            last_node: 0,
            kills,
            swarm,
            outdated: VecDeque::new(),
            drains_until: None,
            drains_since_ms: 0,
            mishaps,
            rng,
            trace: is_traced.then(Vec::new),
        };
        for _ in 0..2 + world.rng.below(2) {
            world.start_node();
        }
        for number in 0..3 + world.rng.below(6) as usize {
            world.clients.push(Client::new(number));
        }
        if world.rng.chance(50) {
            world.clients[0].user_token = Some(admin_token("c0"));
        }
        world
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("[{}] {}", self.clock_ms, what()));
        }
    }

    fn now(&self) -> Now {
        Now::of_ms(self.clock_ms, 1_700_000_000_000 + self.clock_ms)
    }

    fn start_node(&mut self) {
        self.last_node += 1;
        let id = self.last_node;
        let cores = 1 + self.rng.below(3) as u16;
        let config = match self.swarm.is_some() {
            true => Arc::new(other_limits(&mut self.rng, &self.config)),
            false => self.config.clone(),
        };
        let flock = Flock {
            node: id,
            cores,
            core_connections: usize::MAX,
            core_reserve: 64,
            home_seed: u64::from(id),
            has_backplane: true,
            authority: Arc::new(authority()),
            ..Flock::of_one(config, Arc::new(Census::new(0, 0)))
        };
        self.note(|| format!("node {id} starts with {cores} cores"));
        self.backplane.join(id, usize::from(cores), self.clock_ms);
        let cores = (0..cores).map(|core| {
            let seed = self.rng.next_u64();
            let now = Now::of_ms(self.clock_ms, 1_700_000_000_000 + self.clock_ms);
            Core { shard: Shard::new(core, &flock, Arc::default(), seed, now), mail: VecDeque::new() }
        });
        let cores = cores.collect();
        self.nodes.push(Node { id, cores, home_seed: u64::from(id) });
    }

    fn kill_node(&mut self) {
        let index = self.rng.below(self.nodes.len() as u64) as usize;
        self.kill(index);
    }

    fn kill(&mut self, index: usize) {
        self.add_counts_of(index);
        let node = self.nodes.remove(index);
        debug_assert_eq!(node.home_seed, u64::from(node.id));
        self.note(|| format!("node {} is killed", node.id));
        self.forget_outdated(node.id);
        self.backplane.leave(node.id);
        self.ledger.is_late |= self.backplane.is_orphaned;
        self.ledger.count("nodes_killed");
        for client in &mut self.clients {
            client.lose_node(node.id, &mut self.ledger);
        }
        self.start_node();
    }

    fn add_counts_of(&mut self, index: usize) {
        for core in &self.nodes[index].cores {
            for (name, value) in core.shard.counters().values() {
                *self.ledger.counts.entry(name).or_default() += value;
            }
        }
    }

    /// A stretch in which everything may happen.
    fn run(&mut self) {
        for _ in 0..STEPS {
            self.ledger.moment += 1;
            match self.rng.below(100) {
                0..40 => self.run_some_client(),
                40..70 => self.run_some_core(),
                70..85 => self.run_backplane(),
                85..95 => self.tell_news(),
                _ => self.pass_time(),
            }
            self.upgrade_perhaps();
            if self.kills > 0 && happens(&mut self.rng, 1) {
                self.kills -= 1;
                self.kill_node();
            }
        }
    }

    fn pass_time(&mut self) {
        self.clock_ms += self.rng.below(30);
        if happens(&mut self.rng, 20) {
            self.clock_ms += self.rng.below(LEASE_MS);
        }
    }

    fn run_backplane(&mut self) {
        let mishaps = self.mishaps.clone();
        if !mishaps.is_late && self.backplane.is_time_to_look(self.clock_ms) {
            self.look_what_is_lost();
        }
        self.backplane.step(&mut self.rng, &mishaps, self.clock_ms);
        self.ledger.is_late |= self.backplane.is_orphaned;
        self.note_losses();
        for link in self.backplane.links.iter_mut().filter(|link| link.is_down) {
            self.ledger.down_at = self.ledger.moment;
            link.down_at_ms = self.clock_ms;
        }
        let since_ms = self.clock_ms.saturating_sub(2 * self.config.cluster.deadline_ms);
        let is_cut_off = |link: &&backplane::Link| link.down_at_ms > since_ms;
        self.ledger.cut_off = self.backplane.links.iter().filter(is_cut_off).map(|link| link.node).collect();
    }

    /// Whether the backplane has forgotten something, or somebody who comes late finds something lost that all others have gone on without.
    fn note_losses(&mut self) {
        let count = |what| self.backplane.counts.get(what).copied().unwrap_or(0);
        let losses = [count("forgotten"), count("forgotten_partly"), count("losses_noticed")];
        if std::mem::replace(&mut self.losses, losses) != losses {
            self.note(|| format!("the backplane forgets, or that is noticed: {losses:?}"));
            self.ledger.forgets += 1;
            self.ledger.forgot_at = self.ledger.moment;
            self.clients.iter_mut().for_each(Client::forget_leaves);
        }
    }

    /// All nodes look what is lost, and do what follows from it.
    fn look_what_is_lost(&mut self) {
        self.note(|| "all look what is lost".into());
        for round in 0..20 {
            // No core is so far behind that it has not heard by now what its link was told before the loss.
            if round > 0 {
                self.backplane.settle(self.clock_ms);
                self.note_losses();
            }
            while let Some((node, core, news)) = self.backplane.next_news(&mut self.rng) {
                self.deliver(node, core, news);
            }
            for node in 0..self.nodes.len() {
                for core in 0..self.nodes[node].cores.len() {
                    self.turn(node, core);
                }
            }
        }
    }

    fn tell_news(&mut self) {
        let Some((node, core, news)) = self.backplane.next_news(&mut self.rng) else { return };
        self.deliver(node, core, news);
    }

    fn deliver(&mut self, node: NodeId, core: u16, news: BackplaneNews) {
        self.note(|| format!("node {node} core {core} is told {news:?}"));
        if let BackplaneNews::Taken { outcome: Ok(TakeOutcome::Taken { old, body, .. }), session, .. } = &news
            && old.node != session.node
        {
            let body: serde_json::Value = serde_json::from_str(body).expect("a session is JSON");
            let nickname = body["nickname"].as_str().expect("whose it is").to_owned();
            *self.ledger.moves.entry(nickname).or_default() += 1;
        }
        let index = self.nodes.iter().position(|other| other.id == node).expect("it has a link");
        self.nodes[index].cores[usize::from(core)].mail.push_back(Mail::Backplane(news));
    }

    fn run_some_core(&mut self) {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let core = self.rng.below(self.nodes[node].cores.len() as u64) as usize;
        self.turn(node, core);
    }

    /// What a turn of a core does, as far as it is not about bytes. Says whether anything has happened.
    fn turn(&mut self, node: usize, core: usize) -> bool {
        let now = self.now();
        let Core { shard, mail } = &mut self.nodes[node].cores[core];
        let mut has_moved = !mail.is_empty();
        shard.tick(now);
        for mail in std::mem::take(mail) {
            shard.mail(mail);
        }
        while shard.expire() {
            has_moved = true;
        }
        // Mailboxes are never full here; what was put off to this turn goes on.
        has_moved |= shard.has_deferred();
        shard.set_congested(false);
        shard.send_gathered_events();
        self.flush(node, core) | has_moved
    }

    /// Hands out what a core has for others.
    fn flush(&mut self, node: usize, core: usize) -> bool {
        let mut has_moved = false;
        let id = self.nodes[node].id;
        let cores = self.nodes[node].cores.len();
        let outboxes: Vec<Vec<Mail>> =
            self.nodes[node].cores[core].shard.outboxes().iter_mut().map(std::mem::take).collect();
        for (to, outbox) in outboxes.into_iter().enumerate() {
            has_moved |= !outbox.is_empty();
            for mail in outbox {
                if to < cores {
                    self.nodes[node].cores[to].mail.push_back(mail);
                } else if let Mail::BackplaneRequest { from, request } = mail {
                    self.note(|| format!("node {id} core {from} asks {request:?}"));
                    self.backplane.ask(id, from, request);
                } else {
                    panic!("{mail:?} is not for the backplane");
                }
            }
        }
        let mut touched = Vec::new();
        let mut said: Vec<(Id, Vec<u8>)> = Vec::new();
        let mut closed = Vec::new();
        {
            let shard = &mut self.nodes[node].cores[core].shard;
            shard.take_touched(&mut touched);
            for connection in touched {
                let mut slices = [IoSlice::new(&[]); 64];
                loop {
                    let filled = shard.gather(connection, &mut slices);
                    let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                    if bytes.is_empty() {
                        break;
                    }
                    shard.sent(connection, bytes.len());
                    said.push((connection, bytes));
                    slices = [IoSlice::new(&[]); 64];
                }
                if shard.flushed(connection) {
                    // Its end has been said; the client ends its side too.
                    shard.input_ended(connection);
                }
            }
            while let Some(doubt) = shard.next_doubt() {
                shard.settle_doubt(doubt, 0);
            }
            shard.take_closed(|connection, _| closed.push(connection));
            let _ = shard.take_resumed().count();
        }
        for (connection, bytes) in said {
            has_moved = true;
            for client in &mut self.clients {
                if client.is_at(id, core, connection) {
                    if let Some(trace) = &mut self.trace {
                        let text = String::from_utf8_lossy(&bytes);
                        trace.push(format!("[{}] client {} hears {text}", self.clock_ms, client.number));
                    }
                    client.hear(&bytes, &mut self.ledger);
                }
            }
        }
        for connection in closed {
            has_moved = true;
            for client in &mut self.clients {
                if client.is_at(id, core, connection) {
                    client.lose_connection(&mut self.ledger);
                }
            }
        }
        has_moved
    }

    fn run_some_client(&mut self) {
        let number = self.rng.below(self.clients.len() as u64) as usize;
        if self.clients[number].connection.is_none() {
            return self.connect(number);
        }
        let rng = &mut self.rng;
        if happens(rng, self.swarm.as_ref().map_or(8, |swarm| swarm.breaks)) {
            return self.break_off(number);
        }
        let mix = self.swarm.as_ref().map(|swarm| &swarm.mix);
        let line = self.clients[number].act(rng, mix, &mut self.ledger);
        if let Some(line) = line {
            self.say(number, &line);
        }
    }

    fn connect(&mut self, number: usize) {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let core = self.rng.below(self.nodes[node].cores.len() as u64) as usize;
        self.connect_to(number, node, core);
    }

    fn connect_to(&mut self, number: usize, node: usize, core: usize) {
        let id = self.nodes[node].id;
        let now = self.now();
        let shard = &mut self.nodes[node].cores[core].shard;
        shard.tick(now);
        let connection = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let line = self.clients[number].begin(id, core, connection, &mut self.ledger);
        self.note(|| format!("client {number} connects to node {id} core {core}"));
        self.say(number, &line);
    }

    fn say(&mut self, number: usize, line: &str) {
        self.note(|| format!("client {number} says {line}"));
        self.ledger.tally.said_line(line);
        let Some((id, core, connection)) = self.clients[number].connection else { return };
        let Some(node) = self.nodes.iter().position(|node| node.id == id) else { return };
        let now = self.now();
        let shard = &mut self.nodes[node].cores[core].shard;
        shard.tick(now);
        shard.receive(connection, &mut format!("{line}\n").into_bytes());
        self.flush(node, core);
    }

    /// A client's connection breaks.
    fn break_off(&mut self, number: usize) {
        let Some((id, core, connection)) = self.clients[number].connection else { return };
        self.note(|| format!("the connection of client {number} breaks"));
        let now = self.now();
        let Some(node) = self.nodes.iter().position(|node| node.id == id) else { return };
        let shard = &mut self.nodes[node].cores[core].shard;
        shard.tick(now);
        shard.broken(connection);
        self.clients[number].lose_connection(&mut self.ledger);
        self.flush(node, core);
    }

    /// Lets everything go through that is under way, and all clients be there.
    fn come_to_rest(&mut self, rest_ms: u64) {
        let until = self.clock_ms + rest_ms;
        let mut next_beat = 0;
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "the world does not come to rest");
            self.ledger.moment += 1;
            let mut has_moved = false;
            for number in 0..self.clients.len() {
                if self.clients[number].connection.is_none() && self.clients[number].may_retry(self.clock_ms)
                {
                    self.clients[number].retry_at_ms = self.clock_ms + 300;
                    self.connect(number);
                    has_moved = true;
                } else if let Some(line) = self.clients[number].settle(self.clock_ms, &mut self.ledger) {
                    self.say(number, &line);
                    has_moved = true;
                }
            }
            self.backplane.settle(self.clock_ms);
            self.note_losses();
            while !self.nodes.is_empty() {
                let Some((node, core, news)) = self.backplane.next_news(&mut self.rng) else { break };
                self.deliver(node, core, news);
                has_moved = true;
            }
            for node in 0..self.nodes.len() {
                for core in 0..self.nodes[node].cores.len() {
                    has_moved |= self.turn(node, core);
                }
            }
            if !has_moved || next_beat <= self.clock_ms {
                if self.clock_ms >= until && !has_moved {
                    break;
                }
                self.clock_ms += 20;
                next_beat = self.clock_ms + 20;
            }
            if self.clock_ms > until + 60_000 {
                panic!("the world does not come to rest in a minute");
            }
        }
    }

    /// Compares what clients and nodes know when nothing happens any more.
    fn check_rest(&mut self) {
        for client in &mut self.clients {
            client.may_be_taken = false;
            assert!(client.nickname.is_some(), "client {} is not let in", client.number);
            assert!(client.is_answered(), "client {} waits: {:?}", client.number, client.waits_for());
        }
        let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for client in &self.clients {
            for room in client.rooms.keys() {
                rooms.entry(room.clone()).or_default().insert(client.nickname.clone().expect("let in"));
            }
        }
        // Each node tells the same members, roles and state; each client has heard all there is.
        for index in 0..self.nodes.len() {
            let probe = self.clients.len();
            let mut client = Client::new(1000 + self.ledger.moment as usize + index);
            client.is_probe = true;
            self.clients.push(client);
            self.connect_to(probe, index, 0);
            self.come_to_rest(100);
            for room in rooms.keys().cloned().collect::<Vec<_>>() {
                let line = self.clients[probe].ask_members(&room);
                self.say(probe, &line);
                self.come_to_rest(100);
                let line = self.clients[probe].ask_history(&room);
                self.say(probe, &line);
                self.come_to_rest(100);
            }
            let probe = self.clients.pop().expect("it was pushed");
            let (told, node) = (probe.told_members, self.nodes[index].id);
            for (room, members) in &rooms {
                let may_be = |name: &String| {
                    let client = self.clients.iter().find(|client| client.nickname.as_ref() == Some(name));
                    client.is_some_and(|client| client.perhaps_in.contains(room)) && !members.contains(name)
                };
                let names = told[room].iter().map(|member| member.0.clone());
                let names: BTreeSet<String> = names.filter(|name| !may_be(name)).collect();
                assert_eq!(names, *members, "members of {room} on node {node}: {:?}", told[room]);
                assert!(told[room].iter().all(|member| member.2), "somebody is away: {:?}", told[room]);
                let hosts = told[room].iter().filter(|member| member.1 == "host").count();
                let has_heir = told[room].iter().any(|member| member.1 == "member");
                assert!(
                    hosts > 0 || !has_heir || room == "lobby",
                    "nobody moderates {room}: {:?}",
                    told[room]
                );
                // What Redis has forgotten its node says when it opens the room.
                let mut certain = told[room].clone();
                certain.retain(|(name, ..)| !may_be(name));
                let known = self.ledger.members.entry(room.clone()).or_insert_with(|| certain.clone());
                assert_eq!(*known, certain, "nodes disagree on {room}");
            }
            if let Some((id, core, connection)) = probe.connection {
                let node = self.nodes.iter().position(|node| node.id == id).expect("still there");
                self.nodes[node].cores[core]
                    .shard
                    .receive(connection, &mut b"{\"type\":\"quit\"}\n".to_vec());
                self.come_to_rest(100);
            }
        }
        self.ledger.members.clear();
        let positions = self.backplane.redis.positions();
        for client in &self.clients {
            client.check_rest(&positions, &self.ledger);
        }
        self.ledger.check_acks(&positions);
    }
}

fn run(seed: u64, is_traced: bool, keep: &mut Option<World>) {
    let world = keep.insert(World::new(seed, is_traced));
    for _ in 0..1 + seed % 3 {
        world.run();
        world.end_upgrades();
        // Longer than leases and the time of grace: who is lost has gone, who is here has come back.
        // What waits for a node that does not answer has its deadline before that.
        let wait_ms = 4 * world.config.cluster.deadline_ms;
        let rest_ms = 2 * LEASE_MS + world.config.session.grace_ms.min(10_000) + wait_ms + 500;
        world.come_to_rest(rest_ms);
        // Whose session is lost with its node or with the data waits for the nickname as long as the time of grace; who has a token may
        // have a session that lasts as long.
        // So may who was given up while the node that drained did not reach the backplane: nobody has heard of it.
        let is_whole = world.ledger.forgets == 0
            && !world.ledger.counts.contains_key("drains_unheard")
            && !world.ledger.counts.contains_key("nodes_killed")
            && world.clients.iter().all(|client| client.user_token.is_none());
        // Who has left a room is in it again if only that node knew.
        let is_known = !world.backplane.is_orphaned;
        if (world.config.session.grace_ms < 10_000 || is_whole) && is_known {
            world.check_rest();
        }
    }
    for index in 0..world.nodes.len() {
        world.add_counts_of(index);
    }
    let counts = std::mem::take(&mut world.backplane.counts);
    for (name, value) in counts {
        *world.ledger.counts.entry(name).or_default() += value;
    }
}

pub fn try_seed(seed: u64, totals: &mut BTreeMap<&'static str, u64>, tally: &Tally) -> bool {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let mut world = None;
    if catch_unwind(AssertUnwindSafe(|| run(seed, false, &mut world))).is_ok() {
        let ledger = world.expect("a run leaves its world").ledger;
        for (name, value) in ledger.counts {
            *totals.entry(name).or_default() += value;
        }
        tally.add(&ledger.tally);
        return true;
    }
    println!(
        "seed {seed} fails; STARLING_SIM_SEED={seed} cargo test --test simulator cluster::replay -- --nocapture"
    );
    false
}

#[test]
fn known_seeds() {
    let mut totals = BTreeMap::new();
    for seed in (0..SEEDS).chain(REGRESSIONS) {
        assert!(try_seed(seed, &mut totals, &Tally::default()), "a known seed fails");
    }
    println!("{totals:?}");
    for name in HAPPENS {
        assert!(totals.get(name).is_some_and(|count| *count > 0), "no run has {name}: {totals:?}");
    }
}

#[test]
fn fresh_seeds() {
    use std::time::{SystemTime, UNIX_EPOCH};
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let first = crate::environment("STARLING_SIM_FROM").unwrap_or_else(clock);
    let seeds = crate::environment("STARLING_SIM_SEEDS").unwrap_or(FRESH_SEEDS);
    println!("{seeds} seeds from {first} on");
    let mut totals = BTreeMap::new();
    let failed: Vec<u64> =
        (first..first + seeds).filter(|seed| !try_seed(*seed, &mut totals, &Tally::default())).collect();
    println!("{totals:?}");
    assert!(failed.is_empty(), "{} of {seeds} seeds fail: {failed:?}", failed.len());
}

/// All that happens in the run of a seed.
pub fn trace_of(seed: u64) -> Vec<String> {
    let mut world = None;
    run(seed, true, &mut world);
    world.and_then(|world| world.trace).expect("it was asked for")
}

/// Runs the seed that the environment names, with its trace if that is asked for.
#[test]
fn replay() {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    let Some(seed) = crate::environment("STARLING_SIM_SEED") else { return };
    let is_traced = crate::environment("STARLING_SIM_TRACE").is_some_and(|trace| trace > 0);
    let mut world = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, is_traced, &mut world)));
    for line in world.and_then(|world| world.trace).unwrap_or_default() {
        println!("{line}");
    }
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}
