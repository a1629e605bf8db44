//! A core of a node of a cluster: what Redis and other nodes say, in any order, between what its clients do.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use serde_json::{Value, json};
use starling::base::census::Census;
use starling::base::slots::Id;
use starling::base::time::Now;
use starling::chat::name::{Nickname, RoomName};
use starling::chat::user::{NodeId, SessionRef};
use starling::cluster::fuzzing;
use starling::config::{Config, ListenKind};
use starling::shard::backplane::{
    Append, BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, KnownSession, LogEntry, LostNode, Placed,
    Position, Publish, RoomAt, TakeOutcome,
};
use starling::shard::mail::Mail;
use starling::shard::{Flock, Shard};
use starling_client::wire::{Incoming, parse};

/// The node, and where what it asks is put: behind its one core.
const NODE: NodeId = 1;
const LINK: usize = 1;

/// No number that the link reads is greater: Redis does not count further.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// The epoch of every room, but for those that the core begins anew.
const EPOCH: &str = "e";

/// Rounds of mail to oneself, in which everything comes to rest.
const ROUNDS_MAX: usize = 10_000;

/// Lines that may be in an input, and requests that may wait to be answered: of more the oldest are refused.
const LINES_MAX: usize = 200;
const PENDING_MAX: usize = 256;

/// For how long the witness waits for an answer, in seconds.
const PATIENCE_S: usize = 600;

/// The last moment of a run, from which on a day must still have place.
const LATEST_MS: u64 = 1 << 40;

/// Who is there, and asks at the end whether it is served.
const ASKING: &str = r#"{"type":"ping","id":"still here"}"#;
const WITNESS: usize = 0;

/// A line each. What begins as JSON is a command of the client that is on; of the others the first word says what happens:
///
/// | | |
/// |---|---|
/// | `c <n>` | client n is on, and connects if it is not there |
/// | `x` | its connection breaks |
/// | `t <ms>` | time passes |
/// | `+ <words>` | the oldest request is answered as it is wished, with these numbers |
/// | `-`, `!`, `<` | it is answered: down, lost, behind |
/// | `.` | it is left for later |
/// | `a <room> <payload>` | something is announced |
/// | `o <room> <json>`, `O ..` | what a script says about a room, unasked or to whoever catches up |
/// | `e <room> <change> <offset> <json>` | what comes behind a position |
/// | `p <json>` | a page of history, for whoever has asked for one last |
/// | `w <room> <epoch> <change> <offset>` | where a room is; without an epoch it is not there |
/// | `n <node> <json>` | another node says something |
/// | `s <letter> <session> <nickname>` | something has become of a session |
/// | `b`, `B`, `l <node> ..`, `R`, `U` | the backplane is down, is back, knows these other nodes, has missed this one, knows of none |
///
/// Whatever is said, the core comes to rest, its clients hear what a client understands, and who is there is served.
pub fn run(input: &[u8]) {
    let mut world = World::new();
    for line in input.split(|byte| *byte == b'\n').take(LINES_MAX) {
        if let Ok(line) = std::str::from_utf8(line) {
            world.happens(line);
            world.settle();
        }
    }
    world.end();
}

struct World {
    shard: Shard,
    now_ms: u64,
    clients: Vec<Client>,
    /// Whose commands come.
    speaker: usize,
    pending: VecDeque<BackplaneRequest>,
    /// Who has asked for a page, or for something else that can be answered late.
    waits: Vec<Id>,
    /// The rooms that the core has asked for, and those of them that the link still has to look at: all, when the backplane is back.
    rooms: BTreeSet<Arc<str>>,
    unseen: BTreeSet<Arc<str>>,
}

#[derive(Default)]
struct Client {
    connection: Option<Id>,
    heard: Vec<u8>,
}

impl World {
    fn new() -> World {
        let mut config = Config::default();
        config.rate.commands_per_second = 0;
        config.session.grace_ms = 5000;
        config.history.count = 16;
        config.history.memory_count = 8;
        let flock = Flock {
            node: NODE,
            core_connections: 100,
            core_reserve: 10,
            has_backplane: true,
            ..Flock::of_one(Arc::new(config), Arc::new(Census::new(0, 0)))
        };
        let now_ms = 1000;
        let shard = Shard::new(0, &flock, Arc::default(), 1, Self::moment(now_ms));
        let mut world = World {
            shard,
            now_ms,
            clients: Vec::new(),
            speaker: WITNESS,
            pending: VecDeque::new(),
            waits: Vec::new(),
            rooms: BTreeSet::new(),
            unseen: BTreeSet::new(),
        };
        for line in
            ["c 0", r#"{"type":"hello","nickname":"witness"}"#, "+", r#"{"type":"join","room":"den"}"#]
        {
            world.happens(line);
            world.settle();
        }
        for _ in 0..4 {
            world.happens("+");
            world.settle();
        }
        world
    }

    fn moment(ms: u64) -> Now {
        Now::of_ms(ms, 1_700_000_000_000 + ms)
    }

    fn happens(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.splitn(4, ' ');
        let mut next = || words.next().unwrap_or_default();
        match word {
            "c" => self.connect(rest.parse().unwrap_or(0) % 4),
            "x" => {
                if self.speaker != WITNESS
                    && let Some(id) = self.clients[self.speaker].connection.take()
                {
                    self.shard.broken(id);
                }
            }
            "t" => self.pass(rest.parse::<u32>().unwrap_or(1000).into()),
            "+" => self.answer(rest),
            "-" => self.refuse(Failed::Down),
            "!" => self.refuse(Failed::Lost),
            "<" => self.refuse(Failed::Behind),
            "." if !self.pending.is_empty() => self.pending.rotate_left(1),
            "a" => {
                let (room, payload) = rest.split_once(' ').unwrap_or((rest, ""));
                self.tell_if(fuzzing::announced(&room.into(), payload));
            }
            "o" | "O" => {
                let (room, answer) = rest.split_once(' ').unwrap_or((rest, ""));
                self.tell_if(fuzzing::opened(&room.into(), &read(answer), word == "O"));
            }
            "e" => {
                let room = next().into();
                let seen = Position { change: number(next()), offset: number(next()) };
                self.tell_if(fuzzing::caught_up(&room, seen, &read(next()), 3));
            }
            "p" => {
                if let Some(wait) = self.waits.pop() {
                    self.tell(fuzzing::page(wait, &read(rest), self.now_ms.is_multiple_of(2)));
                }
            }
            "w" => {
                let (room, epoch) = (next().into(), next());
                let position = Position { change: number(next()), offset: number(next()) };
                let at = (!epoch.is_empty()).then(|| (epoch.into(), position));
                self.tell(BackplaneNews::At { room, at, is_doubtful: position.change == 1 });
            }
            "n" => {
                let (from, message) = rest.split_once(' ').unwrap_or((rest, ""));
                if let Ok(message) = serde_json::from_str(message) {
                    self.tell(BackplaneNews::Told {
                        from: number(from) as NodeId,
                        message: Box::new(message),
                    });
                }
            }
            "s" => {
                let what = next();
                let (session, nickname) = (next().parse(), Nickname::parse(next()));
                if let (Ok(session), Ok(nickname)) = (session, nickname) {
                    self.session(what, session, nickname);
                }
            }
            "b" => self.tell(BackplaneNews::Down(Some("it is away".into()))),
            "B" => {
                self.unseen.clone_from(&self.rooms);
                self.tell(BackplaneNews::Down(None));
            }
            "l" => {
                let others: Vec<NodeId> =
                    rest.split(' ').filter_map(|word| word.parse().ok()).take(8).collect();
                let (living, lost): (Vec<_>, Vec<_>) = others.into_iter().partition(|node| node % 2 == 0);
                let lost: Vec<_> = lost.into_iter().filter(|node| *node != NODE).collect();
                let living = std::iter::once(NODE).chain(living).collect();
                let lost = lost.into_iter().map(|node| LostNode { node, lost_ms: u64::from(node) * 100 });
                self.tell(BackplaneNews::Nodes { living, lost: lost.collect() });
            }
            "R" => self.tell(BackplaneNews::Returned),
            "U" => self.tell(BackplaneNews::NodesUnheard),
            _ if line.starts_with('{') => self.say(self.speaker, line),
            _ => {}
        }
    }

    fn connect(&mut self, client: usize) {
        self.clients.resize_with(self.clients.len().max(client + 1), Client::default);
        self.speaker = client;
        if self.clients[client].connection.is_none() {
            self.clients[client].connection = Some(self.shard.open([127, 0, 0, 1].into(), ListenKind::Line));
        }
    }

    fn say(&mut self, client: usize, line: &str) {
        if let Some(id) = self.clients[client].connection {
            self.shard.receive(id, &mut format!("{line}\n").into_bytes());
        }
    }

    /// Time passes, with what happens at its moments. The witness is heard of.
    fn pass(&mut self, ms: u64) {
        let until = (self.now_ms + ms).min(LATEST_MS);
        while self.now_ms < until {
            self.now_ms = (self.now_ms + 20_000).min(until);
            self.shard.tick(Self::moment(self.now_ms));
            self.say(WITNESS, r#"{"type":"pong"}"#);
            self.settle();
            if until - self.now_ms > 600_000 {
                self.now_ms = until - 600_000; // nothing lasts longer
            }
        }
    }

    fn tell(&mut self, news: BackplaneNews) {
        self.shard.mail(Mail::Backplane(news));
    }

    fn tell_if(&mut self, news: Option<BackplaneNews>) {
        if let Some(news) = news {
            self.tell(news);
        }
    }

    /// The oldest request is done. Numbers that matter are those of the words, or what fits.
    fn answer(&mut self, words: &str) {
        let numbers: Vec<u64> = words.split(' ').filter_map(|word| word.parse().ok()).collect();
        let given = |at: usize, usual: u64| numbers.get(at).copied().unwrap_or(usual).min(NUMBER_MAX);
        // As the link reads it: entries begin with 1.
        let place = |at: usize, usual: u64| given(at, usual).max(1);
        let Some(request) = self.pending.pop_front() else { return };
        let news = match request {
            BackplaneRequest::Open { room, .. } => {
                let number = |at| given(at, 0).to_string();
                let [change, offset, time, doubt] = [0, 1, 2, 3].map(number);
                let none: [u8; 0] = [];
                // Somebody else has made it before, with a name that inputs know.
                let answer = json!([
                    "opened",
                    EPOCH,
                    room.as_str(),
                    change,
                    offset,
                    time,
                    null,
                    null,
                    null,
                    none,
                    none,
                    doubt
                ]);
                return self.tell_if(fuzzing::opened(&room.folded().into(), &answer, false));
            }
            BackplaneRequest::Publish(publish) => {
                let Publish { at, message, .. } = *publish;
                let RoomAt { room, epoch, position, .. } = at;
                let (offset, timestamp_ms) = (place(0, position.offset + 1), given(1, 1_700_000_000_000));
                let place =
                    Placed { epoch: epoch.clone(), offset, timestamp_ms, is_repeated: given(2, 0) == 1 };
                self.tell(BackplaneNews::Published {
                    room: room.clone(),
                    tag: message.tag,
                    outcome: Ok(place),
                });
                let position = Position { offset, ..position };
                self.announce(room, epoch, LogEntry::Message { position, timestamp_ms, message });
                return;
            }
            BackplaneRequest::Append(append) => {
                let Append { at, ops, tag, .. } = *append;
                let RoomAt { room, epoch, position, .. } = at;
                let change = place(0, position.change + 1);
                let position = Position { change, offset: given(1, position.offset) };
                let outcome = Ok(position);
                self.tell(BackplaneNews::Appended { room: room.clone(), epoch: epoch.clone(), tag, outcome });
                let timestamp_ms = 1_700_000_000_000;
                let node = given(2, NODE.into()) as NodeId;
                self.announce(room, epoch, LogEntry::Change { position, timestamp_ms, node, tag, ops });
                return;
            }
            BackplaneRequest::CatchUp(at) => {
                BackplaneNews::CaughtUp { room: at.room, epoch: at.epoch, outcome: Ok(Vec::new()) }
            }
            BackplaneRequest::Renew(renew) => {
                let at = renew.lost.position;
                let [change, offset] =
                    [given(0, at.change), given(1, at.offset)].map(|number| number.to_string());
                let answer = json!([
                    "opened",
                    *renew.epoch,
                    renew.room.as_str(),
                    change,
                    offset,
                    "0",
                    null,
                    change,
                    renew.snapshot,
                    [],
                    [],
                    "0"
                ]);
                return self.tell_if(fuzzing::opened(&renew.lost.room, &answer, false));
            }
            BackplaneRequest::Page { wait, .. } => BackplaneNews::Page { wait, entries: Some(Vec::new()) },
            BackplaneRequest::Rooms { wait, .. } => {
                let names = ["den", "hall"].into_iter().filter_map(|name| RoomName::parse(name).ok());
                let rooms = names.map(|name| (name, given(0, 1), given(1, 1))).collect();
                BackplaneNews::Rooms { wait, rooms: Some(rooms) }
            }
            BackplaneRequest::Claim { wait, nickname, session, .. } => {
                let outcome = match given(0, 0) {
                    0 => ClaimOutcome::Granted,
                    1 => ClaimOutcome::Taken,
                    2 => ClaimOutcome::Full,
                    _ => ClaimOutcome::PutOut,
                };
                BackplaneNews::Claimed { wait, nickname, session, outcome: Ok(outcome) }
            }
            BackplaneRequest::Find { wait, nickname } => {
                let node = given(0, 2) as NodeId;
                let session =
                    SessionRef { node, core: given(1, 0) as u16, session: Id { index: 0, generation: 0 } };
                BackplaneNews::Found { wait, outcome: Ok(Some((nickname, vec![session]))) }
            }
            BackplaneRequest::PutOut { wait, .. } => BackplaneNews::PutOut { wait, outcome: Ok(given(0, 1)) },
            BackplaneRequest::KeepSession { wait: Some(wait), .. } => {
                BackplaneNews::Kept { wait, outcome: Ok(given(0, 1) == 1) }
            }
            BackplaneRequest::LookForSession { number: _, room, session } => {
                let known = match given(0, 0) {
                    0 => KnownSession::Ended,
                    1 => KnownSession::OnItsWay,
                    _ => KnownSession::Kept { body: behind(words) },
                };
                BackplaneNews::SessionKnown { room, session, known }
            }
            BackplaneRequest::TakeSession { wait, number, session, .. } => {
                let outcome = match given(0, 0) {
                    0 => TakeOutcome::Gone,
                    1 => TakeOutcome::Held { node: given(1, 2) as NodeId },
                    _ => {
                        let node = given(1, 2) as NodeId;
                        let old = SessionRef { node, core: 0, session: Id { index: 0, generation: 0 } };
                        // One of this node, or of another one.
                        let places = vec![SessionRef { node: given(2, 1) as NodeId, ..old }];
                        TakeOutcome::Taken { old, places, revision: given(2, 1), body: behind(words) }
                    }
                };
                BackplaneNews::Taken { wait, number, session, outcome: Ok(outcome) }
            }
            BackplaneRequest::Tell { node, message } => {
                let Some(wait) = message.wait_here() else { return };
                BackplaneNews::NotTold { node, wait }
            }
            _ => return,
        };
        self.tell(news);
    }

    fn announce(&mut self, room: Arc<str>, epoch: Arc<str>, entry: LogEntry) {
        self.tell(BackplaneNews::Entries { room, epoch, entries: vec![entry] });
    }

    /// The oldest request is not done.
    fn refuse(&mut self, why: Failed) {
        let Some(request) = self.pending.pop_front() else { return };
        let news = match request {
            BackplaneRequest::Open { room, .. } => {
                BackplaneNews::Opened { room: room.folded().into(), outcome: Err(why), is_catch_up: false }
            }
            BackplaneRequest::Publish(publish) => BackplaneNews::Published {
                room: publish.at.room,
                tag: publish.message.tag,
                outcome: Err(why),
            },
            BackplaneRequest::Append(append) => {
                let (room, epoch) = (append.at.room, append.at.epoch);
                BackplaneNews::Appended { room, epoch, tag: append.tag, outcome: Err(why) }
            }
            BackplaneRequest::CatchUp(at) => {
                BackplaneNews::CaughtUp { room: at.room, epoch: at.epoch, outcome: Err(why) }
            }
            BackplaneRequest::Renew(renew) => {
                BackplaneNews::Opened { room: renew.lost.room, outcome: Err(why), is_catch_up: false }
            }
            BackplaneRequest::Page { wait, .. } => BackplaneNews::Page { wait, entries: None },
            BackplaneRequest::Rooms { wait, .. } => BackplaneNews::Rooms { wait, rooms: None },
            BackplaneRequest::Claim { wait, nickname, session, .. } => {
                BackplaneNews::Claimed { wait, nickname, session, outcome: Err(why) }
            }
            BackplaneRequest::Find { wait, .. } => BackplaneNews::Found { wait, outcome: Err(why) },
            BackplaneRequest::PutOut { wait, .. } => BackplaneNews::PutOut { wait, outcome: Err(why) },
            BackplaneRequest::KeepSession { wait: Some(wait), .. } => {
                BackplaneNews::Kept { wait, outcome: Err(why) }
            }
            BackplaneRequest::TakeSession { wait, number, session, .. } => {
                BackplaneNews::Taken { wait, number, session, outcome: Err(why) }
            }
            _ => return,
        };
        self.tell(news);
    }

    /// Something has become of a session that may be here.
    fn session(&mut self, what: &str, session: SessionRef, nickname: Nickname) {
        let news = match what {
            "u" => BackplaneNews::Unkept { session },
            "m" => BackplaneNews::SessionMoved { number: self.now_ms, session },
            "n" => BackplaneNews::NicknameLost { session, nickname, is_put_out: false },
            "p" => BackplaneNews::NicknameLost { session, nickname, is_put_out: true },
            _ => return,
        };
        self.tell(news);
    }

    /// All that the core says to itself is heard; what it asks of the backplane is kept.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut has_moved = false;
            while self.shard.expire() {
                has_moved = true;
            }
            has_moved |= self.shard.has_deferred();
            self.shard.set_congested(false);
            self.shard.send_gathered_events();
            let outboxes: Vec<Vec<Mail>> = self.shard.outboxes().iter_mut().map(std::mem::take).collect();
            for (to, mail) in outboxes
                .into_iter()
                .enumerate()
                .flat_map(|(to, box_)| box_.into_iter().map(move |mail| (to, mail)))
            {
                has_moved = true;
                match mail {
                    Mail::BackplaneRequest { request, .. } => {
                        assert_eq!(to, LINK);
                        self.note(request);
                    }
                    mail => self.shard.mail(mail),
                }
            }
            has_moved |= self.hand_out();
            if !has_moved {
                return;
            }
        }
        panic!("the core does not come to rest");
    }

    fn note(&mut self, request: BackplaneRequest) {
        match &request {
            BackplaneRequest::Page { wait, .. } => self.waits.push(*wait),
            BackplaneRequest::Open { room, .. } => drop(self.rooms.insert(room.folded().into())),
            _ => {}
        }
        self.pending.push_back(request);
        if self.pending.len() > PENDING_MAX {
            self.refuse(Failed::Down);
        }
    }

    fn hand_out(&mut self) -> bool {
        let (mut touched, mut closed) = (Vec::new(), Vec::new());
        self.shard.take_touched(&mut touched);
        let has_moved = !touched.is_empty();
        for connection in touched {
            loop {
                let mut slices = [IoSlice::new(&[]); 64];
                let filled = self.shard.gather(connection, &mut slices);
                let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                if bytes.is_empty() {
                    break;
                }
                self.shard.sent(connection, bytes.len());
                if let Some(client) =
                    self.clients.iter_mut().find(|client| client.connection == Some(connection))
                {
                    client.heard.extend_from_slice(&bytes);
                }
            }
            if self.shard.flushed(connection) {
                self.shard.input_ended(connection);
            }
        }
        while let Some(doubt) = self.shard.next_doubt() {
            self.shard.settle_doubt(doubt, 0);
        }
        self.shard.take_closed(|connection, _| closed.push(connection));
        let _ = self.shard.take_resumed().count();
        for client in &mut self.clients {
            if client.connection.is_some_and(|connection| closed.contains(&connection)) {
                client.connection = None;
            }
        }
        has_moved || !closed.is_empty()
    }

    /// Who is there is served: the witness, if nobody has taken its session away, and otherwise whoever comes.
    fn end(&mut self) {
        self.connect(WITNESS);
        self.say(WITNESS, ASKING);
        for room in std::mem::take(&mut self.unseen) {
            self.tell(BackplaneNews::Unseen { room });
        }
        // Replies come in order: what is waited for has to be answered first, or to be too late.
        for _ in 0..PATIENCE_S {
            self.refuse_all();
            if self.is_answered() {
                break;
            }
            if self.clients[WITNESS].connection.is_none() {
                // It was being closed when it asked, for what it had said before.
                self.connect(WITNESS);
                self.say(WITNESS, ASKING);
            }
            self.pass(1000);
        }
        assert!(
            self.is_answered(),
            "the witness hears {}",
            String::from_utf8_lossy(&self.clients[WITNESS].heard)
        );
        for client in &mut self.clients {
            let heard = std::mem::take(&mut client.heard);
            let text = String::from_utf8(heard).expect("lines are text");
            for line in text.lines().filter(|line| line.starts_with('{')) {
                let (_, event) = parse(line);
                assert!(!matches!(event, Incoming::Unknown(_)), "no event: {line}");
            }
        }
        for client in 0..self.clients.len() {
            self.say(client, r#"{"type":"quit"}"#);
            self.settle();
            if let Some(id) = self.clients[client].connection {
                self.shard.broken(id);
            }
        }
        self.settle();
        self.now_ms += 600_000;
        self.shard.tick(Self::moment(self.now_ms));
        self.settle();
        let inventory = self.shard.inventory();
        assert_eq!(inventory.connections, 0, "a connection is left: {inventory:?}");
    }

    /// Whatever is asked is refused, until nothing is.
    fn refuse_all(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.settle();
            if self.pending.is_empty() {
                return;
            }
            self.refuse(Failed::Down);
        }
        panic!("what is refused is asked again at once, for ever: {:?}", self.pending);
    }

    /// Whether the witness has heard the answer to its ping; before its hello is answered no ping is.
    fn is_answered(&self) -> bool {
        let heard = String::from_utf8_lossy(&self.clients[WITNESS].heard);
        heard.lines().any(|line| line.contains("still here") || line.contains("hello_required"))
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or(0).min(NUMBER_MAX)
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// What is JSON in an answer's words: from its first brace on.
fn behind(words: &str) -> String {
    words.find('{').map_or("", |at| &words[at..]).to_owned()
}
