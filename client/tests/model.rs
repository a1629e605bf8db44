//! The machine against a small model of a server, on connections that lose, repeat and delay: whatever happens, each message is told
//! once and in order or is part of a gap that is told, and each message that is sent is published once or has failed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use starling_client::machine::{Config, ConnectFailure, Machine, Output};
use starling_client::{Delivery, Event, Failure, JoinOptions, Link, Reason, Reply, Ticket};

/// What a person or the world does next.
#[derive(Debug, Clone)]
enum Op {
    /// The user sends something.
    Send,
    /// Somebody else does.
    Other,
    /// So many commands reach the server.
    Up(usize),
    /// So many events reach the client.
    Down(usize),
    /// The connection breaks, with everything on its way.
    Break,
    /// The server ends the connection.
    Bye(u16),
    /// The next event comes twice.
    Repeat,
    /// The next event is lost, and the connection goes on.
    Lose,
    /// The server leaves these out and says so.
    Gap,
    /// The room forgets all but its last messages.
    Forget(usize),
    /// The session ends.
    EndSession,
    /// The server begins anew, with nothing.
    Restart,
    /// The next message is refused: for its rate, or by a store that may have it all the same, or for good.
    Refuse(Refusal),
    Pass(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Refusal {
    Rate,
    StoreHasNot,
    StoreHas,
    Muted,
}

fn op() -> impl Strategy<Value = Op> {
    use Refusal::{Muted, Rate, StoreHas, StoreHasNot};
    prop_oneof![
        6 => Just(Op::Send),
        6 => Just(Op::Other),
        12 => (1_usize..4).prop_map(Op::Up),
        12 => (1_usize..6).prop_map(Op::Down),
        2 => Just(Op::Break),
        1 => prop_oneof![Just(4200), Just(4201), Just(4300)].prop_map(Op::Bye),
        1 => Just(Op::Repeat),
        1 => Just(Op::Lose),
        1 => Just(Op::Gap),
        1 => (0_usize..4).prop_map(Op::Forget),
        1 => Just(Op::EndSession),
        1 => Just(Op::Restart),
        2 => prop_oneof![Just(Rate), Just(StoreHasNot), Just(StoreHas), Just(Muted)].prop_map(Op::Refuse),
        4 => prop_oneof![Just(1_u64), Just(100), Just(2000), Just(400_000)].prop_map(Op::Pass),
    ]
}

/// A server with one room, and one session of the client.
#[derive(Default)]
struct Server {
    epoch: u64,
    /// What was said in this epoch: the sender and the content.
    log: Vec<(String, String)>,
    /// The offset of the first message that is remembered.
    first: usize,
    session: u64,
    has_session: bool,
    is_member: bool,
    ids: HashMap<String, Value>,
    /// On this connection.
    is_listening: bool,
    said_hello: bool,
    echo: bool,
    refuse: Option<Refusal>,
    /// Everything that was ever said by the client, with its place.
    published: Vec<(String, String, usize)>,
}

impl Server {
    fn epoch(&self) -> String {
        format!("e{}", self.epoch)
    }

    fn event(&self, offset: usize) -> Value {
        let (sender, content) = &self.log[offset - 1];
        json!({"type": "message", "room": "den", "sender": sender, "content": content, "offset": offset, "timestamp": 1})
    }

    fn publish(&mut self, sender: &str, content: &str, down: &mut VecDeque<Value>) {
        self.log.push((sender.to_owned(), content.to_owned()));
        if sender == "alice" {
            self.published.push((content.to_owned(), self.epoch(), self.log.len()));
        }
        if self.is_listening && (self.echo || sender != "alice") {
            down.push_back(self.event(self.log.len()));
        }
    }

    fn obey(&mut self, command: &Value, down: &mut VecDeque<Value>) {
        let mut reply = self.answer(command, down);
        if reply != Value::Null {
            reply["id"] = command["id"].clone();
            // What a reply brings with it follows it.
            let follows = reply.as_object_mut().and_then(|reply| reply.remove("follows"));
            down.push_back(reply);
            down.extend(follows.iter().flat_map(|follows| follows.as_array().unwrap()).cloned());
        }
    }

    fn answer(&mut self, command: &Value, down: &mut VecDeque<Value>) -> Value {
        let error = |code: u16, reason: &str, retryable: bool| json!({"type": "error", "code": code, "reason": reason, "message": "", "retryable": retryable});
        match command["type"].as_str().unwrap() {
            "hello" => {
                let resumed = self.has_session && command["resume"] == json!(self.session.to_string());
                if !resumed {
                    self.session += 1;
                    self.ids.clear();
                    self.is_member = false;
                }
                self.has_session = true;
                self.said_hello = true;
                json!({"type": "welcome", "nickname": "alice", "resume": self.session.to_string(), "resumed": resumed})
            }
            "ping" => json!({"type": "pong", "timestamp": 1}),
            "join" => {
                assert!(!self.is_listening);
                self.is_listening = true;
                self.is_member = true;
                self.echo = command["echo"] != json!(false);
                let head = self.log.len();
                let mut joined =
                    json!({"type": "joined", "room": "den", "epoch": self.epoch(), "offset": head});
                if let Some(since) = command.get("since") {
                    let offset = usize::try_from(since["offset"].as_u64().unwrap()).unwrap();
                    let recovers =
                        since["epoch"] == json!(self.epoch()) && offset <= head && offset + 1 >= self.first;
                    joined["recovered"] = json!(recovers);
                    if recovers {
                        joined["follows"] = (offset + 1..=head).map(|offset| self.event(offset)).collect();
                    }
                }
                joined
            }
            "message" => {
                let id = command["id"].as_str().unwrap().to_owned();
                if let Some(ack) = self.ids.get(&id) {
                    return ack.clone();
                }
                let content = command["content"].as_str().unwrap().to_owned();
                match self.refuse.take() {
                    Some(Refusal::Rate) => error(429, "rate_limited", true),
                    Some(Refusal::StoreHasNot) => error(503, "store_down", true),
                    Some(Refusal::Muted) => error(403, "muted", false),
                    refusal => {
                        if !self.is_member {
                            return error(403, "not_a_member", false);
                        }
                        self.publish("alice", &content, down);
                        let ack = json!({"type": "ack", "room": "den", "epoch": self.epoch(), "offset": self.log.len()});
                        self.ids.insert(id, ack.clone());
                        if refusal.is_some() {
                            return error(503, "store_down", true);
                        }
                        ack
                    }
                }
            }
            "history" => {
                let after = usize::try_from(command["after"].as_u64().unwrap()).unwrap();
                let limit = usize::try_from(command["limit"].as_u64().unwrap()).unwrap().min(3);
                let from = (after + 1).max(self.first);
                let messages: Vec<Value> =
                    (from..=self.log.len()).take(limit).map(|offset| self.event(offset)).collect();
                json!({"type": "history", "room": "den", "epoch": self.epoch(), "messages": messages})
            }
            other => panic!("{other}"),
        }
    }
}

/// What the client has told of the room, held against what the server has.
#[derive(Default)]
struct Told {
    epoch: String,
    /// The last offset that is accounted for.
    at: usize,
    joined: bool,
    messages: Vec<(String, usize, String, String)>,
}

struct World {
    machine: Machine,
    no_echo: bool,
    in_flight: usize,
    now: Duration,
    server: Server,
    is_connected: bool,
    is_connecting: bool,
    up: VecDeque<Value>,
    down: VecDeque<Value>,
    told: Told,
    sent: BTreeMap<Ticket, (String, Delivery)>,
    joins: usize,
}

impl World {
    fn new(no_echo: bool, fill_gaps: bool, in_flight: usize, seed: u64) -> World {
        let mut config = Config::default();
        config.nickname = Some("alice".to_owned());
        config.fill_gaps = fill_gaps;
        config.in_flight = in_flight;
        let mut machine = Machine::new(config, seed);
        machine.start(Duration::ZERO);
        let options = if no_echo { JoinOptions::default().no_echo() } else { JoinOptions::default() };
        machine.join(Duration::ZERO, "den", options).unwrap();
        let mut world = World {
            machine,
            no_echo,
            in_flight,
            now: Duration::ZERO,
            server: Server { first: 1, ..Server::default() },
            is_connected: false,
            is_connecting: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            told: Told::default(),
            sent: BTreeMap::new(),
            joins: 0,
        };
        world.obey();
        world
    }

    fn obey(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Connect => {
                    assert!(!self.is_connected && !self.is_connecting);
                    self.is_connecting = true;
                }
                Output::Write(frame) => {
                    assert!(self.is_connected, "{frame:?}");
                    self.up.push_back(serde_json::from_str(&frame.text).unwrap());
                }
                Output::Close => self.cut(),
                Output::Event(event) => self.hear(event),
            }
        }
    }

    fn cut(&mut self) {
        self.is_connected = false;
        self.is_connecting = false;
        self.up.clear();
        self.down.clear();
        self.server.is_listening = false;
        self.server.said_hello = false;
    }

    fn break_off(&mut self) {
        if self.is_connected {
            self.cut();
            self.machine.closed(self.now, None, "reset");
        } else if self.is_connecting {
            self.cut();
            let reason = Reason::Unreachable("no".to_owned());
            self.machine.connect_failed(self.now, ConnectFailure { reason, retry_after: None });
        }
        self.obey();
    }

    /// The offsets in between may be missing only if they are one's own, and one does not hear oneself.
    fn account(&mut self, from: usize, to: usize) {
        assert!(self.told.joined);
        assert!(from <= to && from > self.told.at, "{from}..={to} after {}", self.told.at);
        if self.told.epoch == self.server.epoch() {
            for missing in self.told.at + 1..from {
                assert!(self.no_echo && self.server.log[missing - 1].0 == "alice", "{missing} was not told");
            }
        }
        self.told.at = to;
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Joined(joined) if !self.told.joined => {
                self.told.joined = true;
                self.told.epoch = joined.epoch;
                self.told.at = usize::try_from(joined.offset).unwrap();
            }
            Event::Restarted { epoch, offset, .. } => {
                assert_ne!(epoch, self.told.epoch);
                self.told.epoch = epoch;
                self.told.at = usize::try_from(offset).unwrap();
            }
            Event::Message(message) => {
                assert_eq!(message.epoch, self.told.epoch);
                let offset = usize::try_from(message.offset).unwrap();
                self.account(offset, offset);
                self.told.messages.push((message.epoch, offset, message.sender, message.content));
            }
            Event::Gap(gap) => {
                assert_eq!(gap.epoch, self.told.epoch);
                self.account(usize::try_from(gap.from).unwrap(), usize::try_from(gap.to).unwrap());
            }
            Event::Delivery { ticket, delivery } => {
                let (_, last) = self.sent.get_mut(&ticket).expect("it was sent");
                assert!(!last.is_final(), "{last:?}, then {delivery:?}");
                *last = delivery;
            }
            Event::Reply { reply, .. } => {
                assert_eq!(reply, Ok(Reply::Joined("den".to_owned())));
                self.joins += 1;
            }
            Event::Other(value) => panic!("{value}"),
            _ => {}
        }
    }

    fn up(&mut self) -> bool {
        if self.is_connecting {
            self.is_connecting = false;
            self.is_connected = true;
            self.machine.connected(self.now);
            self.obey();
            return true;
        }
        let Some(command) = self.up.pop_front() else { return false };
        self.server.obey(&command, &mut self.down);
        true
    }

    fn down(&mut self) -> bool {
        let Some(event) = self.down.pop_front() else { return false };
        self.machine.frame(self.now, &event.to_string());
        self.obey();
        true
    }

    /// Only what is of the room may come twice or be lost: a server does not do that to replies.
    fn next_is_message(&self) -> bool {
        self.down.front().is_some_and(|event| event["type"] == "message")
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Send => {
                let content = format!("mine {}", self.sent.len());
                if let Ok(ticket) = self.machine.send(self.now, "den", &content, None) {
                    self.sent.insert(ticket, (content, Delivery::Queued));
                }
                self.obey();
            }
            Op::Other => {
                let content = format!("theirs {}", self.server.log.len());
                self.server.publish("bob", &content, &mut self.down);
            }
            Op::Up(count) => _ = (0..*count).all(|_| self.up()),
            Op::Down(count) => _ = (0..*count).all(|_| self.down()),
            Op::Break => self.break_off(),
            Op::Bye(code) if self.is_connected => {
                let bye =
                    json!({"type": "bye", "code": code, "reason": "", "resumable": true, "after_ms": 50});
                self.machine.frame(self.now, &bye.to_string());
                self.obey();
            }
            Op::Bye(_) => {}
            Op::Repeat if self.next_is_message() => self.down.push_front(self.down[0].clone()),
            Op::Repeat => {}
            // Who does not hear himself cannot know.
            Op::Lose if self.next_is_message() && !self.no_echo => _ = self.down.pop_front(),
            Op::Lose => {}
            Op::Gap => {
                // Only what is live, and has not been written yet, is left out.
                let tail =
                    self.down.iter().rev().take_while(|event| event["type"] == "message").count().min(3);
                let left_out = self.down.split_off(self.down.len() - tail);
                if let (Some(first), Some(last)) = (left_out.front(), left_out.back()) {
                    self.down.push_back(json!({"type": "gap", "room": "den", "epoch": self.server.epoch(),
                        "from": first["offset"], "to": last["offset"]}));
                }
            }
            Op::Forget(count) => {
                self.server.first = self.server.first.max((self.server.log.len() + 1).saturating_sub(*count))
            }
            Op::EndSession => {
                self.server.has_session = false;
                self.server.is_member = false;
                self.break_off();
            }
            Op::Restart => {
                self.check_messages();
                self.server.epoch += 1;
                self.server.log.clear();
                self.server.first = 1;
                self.server.has_session = false;
                self.server.is_member = false;
                self.break_off();
            }
            Op::Refuse(refusal) => self.server.refuse = Some(*refusal),
            Op::Pass(ms) => {
                self.now += Duration::from_millis(*ms);
                self.machine.tick(self.now);
                self.obey();
            }
        }
    }

    /// What was told is what was said.
    fn check_messages(&mut self) {
        for (epoch, offset, sender, content) in self.told.messages.drain(..) {
            if epoch == self.server.epoch() {
                assert_eq!(self.server.log[offset - 1], (sender, content));
            }
        }
    }

    /// Nothing more goes wrong, and everything comes to rest.
    fn rest(&mut self) {
        self.server.refuse = None;
        let mut was_followed = false;
        for _ in 0..10_000 {
            while self.up() || self.down() {}
            let is_done = self.machine.unanswered() == 0 && self.machine.link() == Link::Online;
            // A retry, a pause or a hole that is asked for.
            if is_done && self.told.joined && self.is_level() {
                return;
            }
            if is_done && self.server.is_listening && !was_followed {
                was_followed = true;
                // That the last one was lost is not known before there is another one.
                self.step(&Op::Other);
                continue;
            }
            self.now = self.machine.deadline().expect("something is waited for").max(self.now);
            self.machine.tick(self.now);
            self.obey();
        }
        panic!("it does not come to rest");
    }

    /// Whether everything has been told that was said.
    fn is_level(&self) -> bool {
        self.server.is_listening && {
            let mut rest = self.server.log.iter().skip(self.told.at);
            self.told.epoch == self.server.epoch()
                && rest.all(|(sender, _)| self.no_echo && sender == "alice")
        }
    }

    fn check(&mut self) {
        self.check_messages();
        assert_eq!(self.joins, 1);
        let mut last = None;
        for (content, epoch, offset) in &self.server.published {
            let same = self.server.published.iter().filter(|(other, ..)| other == content).count();
            assert_eq!(same, 1, "{content} was published {same} times");
            let number: usize = content.strip_prefix("mine ").unwrap().parse().unwrap();
            let (_, delivery) = self.sent.values().find(|(sent, _)| sent == content).expect("it was sent");
            match delivery {
                Delivery::Acknowledged(ack) => {
                    assert_eq!((ack.epoch.as_ref(), ack.offset), (Some(epoch), Some(*offset as u64)));
                }
                Delivery::Failed(Failure::Unsure) => {}
                delivery => panic!("{content} was published: {delivery:?}"),
            }
            assert!(self.in_flight > 1 || Some(number) > last, "{number} after {last:?}");
            last = Some(number);
        }
        for (content, delivery) in self.sent.values() {
            assert!(delivery.is_final(), "{content}: {delivery:?}");
            if let Delivery::Acknowledged(_) = delivery {
                assert!(
                    self.server.published.iter().any(|(published, ..)| published == content),
                    "{content}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn each_message_comes_once_or_is_told_as_missing(
        ops in vec(op(), 0..120),
        no_echo: bool,
        fill_gaps: bool,
        in_flight in 1_usize..4,
        seed: u64,
    ) {
        let mut world = World::new(no_echo, fill_gaps, in_flight, seed);
        for op in &ops {
            world.step(op);
        }
        world.rest();
        world.check();
    }
}
