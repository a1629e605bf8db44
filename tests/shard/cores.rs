//! Cores without an event loop, and clients of theirs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use serde_json::Value;
use starling::auth::Authority;
use starling::auth::api_key::ApiKeys;
use starling::auth::resume::ResumeKey;
use starling::base::census::Census;
use starling::base::slots::Id;
use starling::base::stats::{Counter, Counters};
use starling::base::time::Now;
use starling::config::{ApiKey, Config, ListenKind, Secret};
use starling::record::Frame;
use starling::shard::mail::Mail;
use starling::shard::reading::{StoreNews, StoreRequest};
use starling::shard::{Flock, Shard};
use starling::store::engine::{Engine, Part};
use starling::store::read::{read_inbox, read_page};

/// Rounds of mail in which everything comes to rest.
const ROUNDS_MAX: usize = 10_000;

/// Bytes of a journal: more than any test writes.
const JOURNAL_BYTES: usize = 1 << 24;

/// When a test begins, on the clock that deadlines are of, and on the wall, in milliseconds.
const BEGIN_MS: u64 = 1_000;
const BEGIN_UNIX_MS: u64 = 1_700_000_000_000;

/// A connection of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client {
    pub core: usize,
    pub id: Id,
}

/// The cores of a server, or of a node.
pub struct Cores {
    pub shards: Vec<Shard>,
    pub counters: Vec<Arc<Counters>>,
    /// What has been asked of the store or the backplane, and by which core, and is not answered yet.
    pub asked: VecDeque<(u16, Mail)>,
    /// What the cores have written down, in order: the records of their journals, as `Debug` shows them.
    pub written: Vec<String>,
    /// How many bytes the journals have place for, beside those that are being written.
    pub journal_bytes: usize,
    now_ms: u64,
    store: Option<Store>,
    /// Who has a socket: all but calls of gRPC, whose connection has it.
    sockets: BTreeSet<Client>,
    /// What a client has been sent and nobody has looked at.
    heard: BTreeMap<Client, Vec<u8>>,
    /// Who takes nothing of what is sent.
    stalled: BTreeSet<Client>,
    /// Whose our side has ended, and whose connection is over.
    ended: BTreeSet<Client>,
    closed: BTreeSet<Client>,
}

/// A real database in memory, which writes when the test says so.
struct Store {
    engine: Engine,
    frames: Vec<Vec<Vec<u8>>>,
    ends: Vec<u64>,
    is_slow: bool,
}

impl Cores {
    /// One core that keeps nothing, with a configuration that `set` changes. Nobody is too fast for it.
    pub fn new(set: impl FnOnce(&mut Config)) -> Cores {
        Cores::made(1, set, |_| {})
    }

    /// So many.
    pub fn of(cores: u16, set: impl FnOnce(&mut Config)) -> Cores {
        Cores::made(cores, set, |_| {})
    }

    /// So many, with a store.
    pub fn stored(cores: u16, set: impl FnOnce(&mut Config)) -> Cores {
        Cores::made(cores, set, |flock| flock.has_store = true)
    }

    /// One core of a node, whose backplane is the test.
    pub fn node(set: impl FnOnce(&mut Config)) -> Cores {
        Cores::made(1, set, |flock| (flock.node, flock.has_backplane) = (1, true))
    }

    /// So many, with what else is to be as `arrange` says.
    pub fn made(cores: u16, set: impl FnOnce(&mut Config), arrange: impl FnOnce(&mut Flock)) -> Cores {
        let mut config = Config::default();
        config.rate.commands_per_second = 0;
        set(&mut config);
        let census = Arc::new(Census::new(config.limits.connections, config.limits.connections_per_address));
        let authority = Authority {
            verifier: None,
            accounts: None,
            api_keys: ApiKeys::new(&config.auth.api_keys).expect("names of keys are nicknames"),
            resume: ResumeKey::new([0; 32]),
            reading: 0,
        };
        let mut flock = Flock {
            cores,
            core_connections: 1000,
            authority: Arc::new(authority),
            ..Flock::of_one(Arc::new(config), census)
        };
        arrange(&mut flock);
        let counters: Vec<Arc<Counters>> = (0..cores).map(|_| Arc::default()).collect();
        let shards = (0..cores).zip(&counters).map(|(core, counters)| {
            let mut shard =
                Shard::new(core, &flock, counters.clone(), u64::from(core) + 1, Self::moment(BEGIN_MS));
            shard.set_journal_room(JOURNAL_BYTES);
            shard
        });
        let store = flock.has_store.then(|| Store {
            engine: Engine::in_memory(),
            frames: vec![Vec::new(); cores.into()],
            ends: vec![0; cores.into()],
            is_slow: false,
        });
        Cores {
            shards: shards.collect(),
            counters,
            asked: VecDeque::new(),
            written: Vec::new(),
            journal_bytes: JOURNAL_BYTES,
            now_ms: BEGIN_MS,
            store,
            sockets: BTreeSet::new(),
            heard: BTreeMap::new(),
            stalled: BTreeSet::new(),
            ended: BTreeSet::new(),
            closed: BTreeSet::new(),
        }
    }

    fn moment(ms: u64) -> Now {
        Now::of_ms(ms, BEGIN_UNIX_MS + ms)
    }

    /// The sum of what the cores count: `total(|counters| &counters.rooms_full)`.
    pub fn total(&self, of: impl Fn(&Counters) -> &Counter) -> u64 {
        self.counters.iter().map(|counters| of(counters).value()).sum()
    }

    /// Somebody connects.
    pub fn connect(&mut self, core: usize, kind: ListenKind) -> Client {
        self.connect_from(core, kind, [127, 0, 0, 1])
    }

    /// Somebody connects, from this address.
    pub fn connect_from(&mut self, core: usize, kind: ListenKind, address: [u8; 4]) -> Client {
        let id = self.shards[core].open(address.into(), kind);
        self.sockets.insert(Client { core, id });
        self.settle();
        Client { core, id }
    }

    /// A client that speaks lines of JSON has said hello and joined these rooms, and has read all that came.
    pub fn enter(&mut self, core: usize, nickname: &str, rooms: &[&str]) -> Client {
        let client = self.connect(core, ListenKind::Line);
        self.say(client, &format!(r#"{{"type":"hello","nickname":"{nickname}"}}"#));
        for room in rooms {
            self.say(client, &format!(r#"{{"type":"join","room":"{room}"}}"#));
        }
        let events = self.events(client);
        assert!(events.iter().all(|event| event["type"] != "error"), "{events:?}");
        client
    }

    /// A client says a line, and everything comes of it that does.
    pub fn say(&mut self, client: Client, line: &str) {
        self.receive(client, format!("{line}\n").as_bytes());
    }

    /// A message to a room.
    pub fn speak(&mut self, client: Client, room: &str, content: &str) {
        let line = serde_json::json!({ "type": "message", "room": room, "content": content });
        self.say(client, &line.to_string());
    }

    /// What a client is answered to one command, which has to be one event, and the last that it hears.
    pub fn call(&mut self, client: Client, line: &str) -> Value {
        self.events(client);
        self.say(client, line);
        let mut events = self.events(client);
        events.pop().unwrap_or_else(|| panic!("no answer to {line}"))
    }

    /// These bytes come from a client.
    pub fn receive(&mut self, client: Client, bytes: &[u8]) {
        self.shards[client.core].receive(client.id, &mut bytes.to_vec());
        self.settle();
    }

    /// An HTTP request on a connection of its own, and what is answered.
    pub fn http(&mut self, core: usize, request: &str) -> String {
        let client = self.connect(core, ListenKind::Web);
        self.receive(client, request.as_bytes());
        let heard = self.heard(client);
        self.broken(client);
        heard
    }

    /// A program, whose key is its name, publishes this: the status of the answer, and its content.
    pub fn publish(
        &mut self,
        core: usize,
        program: &str,
        room: &str,
        content: &str,
        more: &str,
    ) -> (u16, Value) {
        let body = serde_json::json!({ "content": content }).to_string();
        let request = format!(
            "POST /api/rooms/{room}/messages HTTP/1.1\r\nHost: a\r\nX-API-Key: {program}\r\n{more}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.http(core, &request);
        let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// What a client has been sent since somebody looked.
    pub fn heard(&mut self, client: Client) -> String {
        let bytes = self.heard.remove(&client).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of it.
    pub fn bytes(&mut self, client: Client) -> Vec<u8> {
        self.heard.remove(&client).unwrap_or_default()
    }

    /// The events in it, of a client that speaks lines of JSON.
    pub fn events(&mut self, client: Client) -> Vec<Value> {
        let heard = self.heard(client);
        heard
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// The values of a field in the events of a type.
    pub fn told(&mut self, client: Client, kind: &str, field: &str) -> Vec<Value> {
        let events = self.events(client).into_iter().filter(|event| event["type"] == kind);
        events.map(|event| event[field].clone()).collect()
    }

    /// The client takes nothing any more of what it is sent, or does again.
    pub fn stall(&mut self, client: Client, is_stalled: bool) {
        match is_stalled {
            true => drop(self.stalled.insert(client)),
            false => {
                self.stalled.remove(&client);
                self.flush(client);
                self.settle();
            }
        }
    }

    /// The client's connection breaks.
    pub fn broken(&mut self, client: Client) {
        self.shards[client.core].broken(client.id);
        self.settle();
    }

    /// The client says that it will say no more.
    pub fn ends(&mut self, client: Client) {
        self.shards[client.core].input_ended(client.id);
        self.settle();
    }

    /// Whether its connection is over, or our side of it.
    pub fn is_over(&self, client: Client) -> bool {
        self.closed.contains(&client) || self.ended.contains(&client)
    }

    /// Time passes, and everything happens when it is due.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            let due = self.shards.iter().filter_map(Shard::next_deadline).map(|tick| tick.0).min();
            self.now_ms = due.unwrap_or(until).clamp(self.now_ms + 1, until);
            for shard in &mut self.shards {
                shard.tick(Self::moment(self.now_ms));
            }
            self.settle();
        }
    }

    /// A turn in which nothing comes in.
    pub fn turn(&mut self) {
        for shard in &mut self.shards {
            shard.tick(Self::moment(self.now_ms));
            shard.set_journal_room(self.journal_bytes);
        }
        self.settle();
    }

    /// Mail comes to a core.
    pub fn mail(&mut self, core: usize, mail: Mail) {
        self.shards[core].mail(mail);
        self.settle();
    }

    /// The store says something to a core.
    pub fn tell(&mut self, core: usize, news: StoreNews) {
        self.mail(core, Mail::Store(news));
    }

    /// Whether the store waits for [`Cores::write`] and [`Cores::read`] before it does anything.
    pub fn slow_store(&mut self, is_slow: bool) {
        self.store.as_mut().expect("there is a store").is_slow = is_slow;
        self.settle();
    }

    /// What is in the journals is written to the store, and cores are told how far it has come.
    pub fn write(&mut self) -> bool {
        let Some(store) = &mut self.store else { return false };
        let parts: Vec<Part> = (0..self.shards.len())
            .filter(|ring| !store.frames[*ring].is_empty())
            .map(|ring| Part { ring, frames: &store.frames[ring], end: store.ends[ring] })
            .collect();
        if parts.is_empty() {
            return false;
        }
        store.engine.apply(&parts, true).expect("it can be written");
        assert_eq!(store.engine.rejected(), 0, "a record contradicts what is there");
        for (core, shard) in self.shards.iter_mut().enumerate() {
            let end = store.ends[core];
            if !std::mem::take(&mut store.frames[core]).is_empty() {
                shard.mail(Mail::Store(StoreNews::Progress { stored: end, synced: end }));
            }
        }
        true
    }

    /// The oldest request to the store is answered, if there is one.
    pub fn read(&mut self) -> bool {
        let Some(store) = &self.store else { return false };
        let Some((core, Mail::StoreRequest { request, .. })) = self.asked.pop_front() else { return false };
        let db = store.engine.connection();
        let news = match request {
            StoreRequest::Page { page, wait } => {
                StoreNews::Page { wait, entries: Some(read_page(db, &page).expect("a page can be read")) }
            }
            StoreRequest::Inbox { user, to, offsets, recent } => {
                let inbox = read_inbox(db, user.folded(), &offsets).expect("an inbox can be read");
                StoreNews::Inbox { to, inbox: Some(inbox), recent }
            }
            StoreRequest::Account { .. } => panic!("accounts are not played here"),
        };
        self.shards[usize::from(core)].mail(Mail::Store(news));
        true
    }

    /// Everything happens that needs no time to pass.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut has_moved = false;
            for core in 0..self.shards.len() {
                has_moved |= self.turn_of(core);
            }
            if self.store.as_ref().is_some_and(|store| !store.is_slow) {
                has_moved |= self.write();
                has_moved |= self.read();
            }
            if !has_moved {
                return;
            }
        }
        panic!("the cores do not come to rest");
    }

    fn turn_of(&mut self, core: usize) -> bool {
        let shard = &mut self.shards[core];
        let mut has_moved = false;
        while shard.expire() {
            has_moved = true;
        }
        has_moved |= shard.has_deferred();
        shard.set_congested(false);
        shard.send_gathered_events();
        if let Some(store) = &mut self.store {
            while let Some(frame) = shard.take_frame() {
                has_moved = true;
                let records = Frame::records(&frame).map(|record| record.expect("cores write records"));
                self.written.extend(records.map(|record| format!("{record:?}")));
                store.ends[core] += frame.len() as u64;
                store.frames[core].push(frame.clone());
                shard.journaled(frame, Some(store.ends[core]), self.journal_bytes);
            }
        }
        let outboxes: Vec<Vec<Mail>> = shard.outboxes().iter_mut().map(std::mem::take).collect();
        for (to, mail) in
            outboxes.into_iter().enumerate().flat_map(|(to, box_)| box_.into_iter().map(move |m| (to, m)))
        {
            has_moved = true;
            match self.shards.get_mut(to) {
                Some(shard) => shard.mail(mail),
                None => self.asked.push_back((core as u16, mail)),
            }
        }
        let mut touched = Vec::new();
        self.shards[core].take_touched(&mut touched);
        has_moved |= !touched.is_empty();
        for id in touched {
            self.flush(Client { core, id });
        }
        let shard = &mut self.shards[core];
        while let Some(doubt) = shard.next_doubt() {
            has_moved = true;
            shard.settle_doubt(doubt, 0);
        }
        let _ = shard.take_resumed().count();
        let closed = &mut self.closed;
        shard.take_closed(|id, _| {
            has_moved = true;
            closed.insert(Client { core, id });
        });
        has_moved
    }

    fn flush(&mut self, client: Client) {
        if self.stalled.contains(&client) || !self.sockets.contains(&client) {
            return;
        }
        let shard = &mut self.shards[client.core];
        loop {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = shard.gather(client.id, &mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            if bytes.is_empty() {
                break;
            }
            shard.sent(client.id, bytes.len());
            self.heard.entry(client).or_default().extend(bytes);
        }
        if shard.flushed(client.id) {
            self.ended.insert(client);
            shard.input_ended(client.id);
        }
    }

    /// The wall clock.
    pub fn unix_ms(&self) -> u64 {
        Self::moment(self.now_ms).unix_ms
    }

    /// A name that begins so, whose home is this core.
    pub fn name_at(&self, home: u16, prefix: &str) -> String {
        let flock = Flock::of_one(Arc::default(), Arc::new(Census::new(0, 0)));
        let flock = Flock { cores: self.shards.len() as u16, ..flock };
        let mut names = (0..).map(|number| format!("{prefix}{number}"));
        names.find(|name| flock.home_of(name) == home).expect("there is one")
    }

    /// Time passes, and the cores do not run until it has.
    pub fn held_up(&mut self, ms: u64) {
        self.now_ms += ms;
        self.turn();
    }
}

/// Programs that may use the HTTP API, each with its name as its key.
pub fn programs(names: &[&str]) -> Vec<ApiKey> {
    let key =
        |name: &&str| ApiKey { name: (*name).to_owned(), key: Secret((*name).to_owned()), admin: false };
    names.iter().map(key).collect()
}
