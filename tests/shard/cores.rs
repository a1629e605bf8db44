//! Cores without an event loop, and clients of theirs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use serde_json::Value;
use starling::auth::api_key::ApiKeys;
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::auth::resume::ResumeKey;
use starling::auth::{Authority, Claims};
use starling::base::census::Census;
use starling::base::slots::Id;
use starling::base::stats::{Counter, Counters};
use starling::base::time::Now;
use starling::chat::name::Nickname;
use starling::config::{ApiKey, Config, JwtAlgorithm, ListenKind, Secret};
use starling::record::{AccountState, Frame};
use starling::shard::mail::Mail;
use starling::shard::reading::{StoreNews, StoreRequest};
use starling::shard::reconfigure::Reconfigured;
use starling::shard::restore::share_out;
use starling::shard::{Flock, Shard};
use starling::store::engine::{Engine, Part};
use starling::store::read::{read_inbox, read_page};
use starling::store::{accounts, load};

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
    /// Whether clients go on when our side has ended.
    pub are_deaf_to_the_end: bool,
    config: Config,
    now_ms: u64,
    store: Option<Store>,
    /// What has come from clients that are not to be read now.
    unread: BTreeMap<Client, Vec<u8>>,
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
    /// Where each of them ends.
    frame_ends: Vec<Vec<u64>>,
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
        let mut flock = Flock {
            cores,
            core_connections: 1000,
            authority: authority(&config),
            ..Flock::of_one(Arc::new(config.clone()), census)
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
            frame_ends: vec![Vec::new(); cores.into()],
            ends: vec![0; cores.into()],
            is_slow: false,
        });
        Cores {
            shards: shards.collect(),
            counters,
            asked: VecDeque::new(),
            written: Vec::new(),
            journal_bytes: JOURNAL_BYTES,
            are_deaf_to_the_end: false,
            config,
            now_ms: BEGIN_MS,
            store,
            unread: BTreeMap::new(),
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

    /// Somebody has connected in another way than these.
    pub fn connected(&mut self, core: usize, id: Id) -> Client {
        let client = Client { core, id };
        self.sockets.insert(client);
        client
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

    /// The same with a token of an admin.
    pub fn enter_admin(&mut self, core: usize, nickname: &str, rooms: &[&str]) -> Client {
        let client = self.connect(core, ListenKind::Line);
        self.say(
            client,
            &format!(r#"{{"type":"hello","token":"{}"}}"#, token(nickname, |claims| claims.is_admin = true)),
        );
        for room in rooms {
            self.say(client, &format!(r#"{{"type":"join","room":"{room}"}}"#));
        }
        self.events(client);
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
        self.unread.entry(client).or_default().extend(bytes);
        self.settle();
    }

    /// How much of what has come from a client has not been read, because it has to wait.
    pub fn unread(&self, client: Client) -> usize {
        self.unread.get(&client).map_or(0, Vec::len)
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

    /// A client that is stalled takes what it has been sent by now, and nothing of what comes then.
    pub fn take(&mut self, client: Client) {
        self.flush(client);
        self.settle();
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
                shard.set_journal_room(self.journal_bytes);
            }
            self.settle();
        }
    }

    /// The cores do nothing for so long, and then find it all late.
    pub fn held_up(&mut self, ms: u64) {
        self.now_ms += ms;
        self.turn();
    }

    /// What the clock on the wall says.
    pub fn unix_ms(&self) -> u64 {
        BEGIN_UNIX_MS + self.now_ms
    }

    /// A turn in which nothing comes in.
    pub fn turn(&mut self) {
        for shard in &mut self.shards {
            shard.tick(Self::moment(self.now_ms));
            shard.set_journal_room(self.journal_bytes);
        }
        self.settle();
    }

    /// The configuration is read again, with what `set` changes.
    pub fn reconfigure(&mut self, set: impl FnOnce(&mut Config)) {
        set(&mut self.config);
        let (config, authority) = (Arc::new(self.config.clone()), authority(&self.config));
        let new = Arc::new(Reconfigured { config, authority });
        for core in 0..self.shards.len() {
            self.mail(core, Mail::Reconfigured(new.clone()));
        }
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
        let written: Vec<bool> = (0..self.shards.len()).map(|core| self.write_of(core, usize::MAX)).collect();
        written.contains(&true)
    }

    /// Of the journal of one core so many frames, each of which is what a turn has written down. Says whether there were any.
    pub fn write_of(&mut self, core: usize, frames: usize) -> bool {
        let Some(store) = &mut self.store else { return false };
        let count = frames.min(store.frames[core].len());
        let frames: Vec<Vec<u8>> = store.frames[core].drain(..count).collect();
        let Some(end) = store.frame_ends[core].drain(..count).next_back() else { return false };
        let part = Part { ring: core, frames: &frames, end };
        store.engine.apply(&[part], true).expect("it can be written");
        assert_eq!(store.engine.rejected(), 0, "a record contradicts what is there");
        self.shards[core].mail(Mail::Store(StoreNews::Progress { stored: end, synced: end }));
        true
    }

    /// The oldest request to the store is answered, if there is one.
    pub fn read(&mut self) -> bool {
        let Some(store) = &self.store else { return false };
        let Some((_, Mail::StoreRequest { from, request })) = self.asked.pop_front() else { return false };
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
        self.shards[usize::from(from)].mail(Mail::Store(news));
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
        let readable = self.unread.keys().find(|client| client.core == core && shard.wants_input(client.id));
        if let Some(client) = readable.copied() {
            has_moved = true;
            let mut bytes = self.unread.remove(&client).expect("found before");
            shard.receive(client.id, &mut bytes);
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
                store.frame_ends[core].push(store.ends[core]);
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
        let unique: BTreeSet<Id> = touched.iter().copied().collect();
        assert_eq!(unique.len(), touched.len(), "a connection is to be flushed twice");
        for id in touched {
            let client = Client { core, id };
            match self.stalled.contains(&client) {
                true => self.flushed(client),
                false => self.flush(client),
            }
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
        if !self.sockets.contains(&client) {
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
        self.flushed(client);
    }

    /// What the client takes has been written.
    fn flushed(&mut self, client: Client) {
        let shard = &mut self.shards[client.core];
        if shard.flushed(client.id) {
            self.ended.insert(client);
            if !self.are_deaf_to_the_end {
                shard.input_ended(client.id);
            }
        }
    }

    /// A name that begins so, whose home is this core.
    pub fn name_at(&self, home: u16, prefix: &str) -> String {
        let flock = Flock::of_one(Arc::default(), Arc::new(Census::new(0, 0)));
        let flock = Flock { cores: self.shards.len() as u16, ..flock };
        let mut names = (0..).map(|number| format!("{prefix}{number}"));
        names.find(|name| flock.home_of(name) == home).expect("there is one")
    }

    /// Somebody says hello so, and what comes first of it.
    pub fn greet(&mut self, core: usize, hello: &Value) -> (Client, Value) {
        let client = self.connect(core, ListenKind::Line);
        let answer = self.say_hello(client, hello);
        (client, answer)
    }

    /// The same on a connection that is there. What comes after the first answer is left to be looked at.
    pub fn say_hello(&mut self, client: Client, hello: &Value) -> Value {
        let mut line = serde_json::json!({ "type": "hello" });
        line.as_object_mut().expect("an object").extend(hello.as_object().expect("an object").clone());
        self.say(client, &line.to_string());
        let heard = self.heard(client);
        let (first, rest) = heard.split_once('\n').expect("an answer to the hello");
        self.heard.insert(client, rest.as_bytes().to_vec());
        serde_json::from_str(first).expect("an event is JSON")
    }

    /// A session goes on in a new connection, by the welcome of the last one.
    pub fn come_back(&mut self, core: usize, welcome: &Value) -> Client {
        let (client, answer) = self.greet(core, &serde_json::json!({ "resume": welcome["resume"] }));
        assert_eq!((&answer["type"], &answer["resumed"]), (&"welcome".into(), &true.into()), "{answer}");
        client
    }

    /// A private message, and the answer to it.
    pub fn whisper(&mut self, from: Client, target: &str, content: &str) -> Value {
        // Each message under the empty id is another one.
        let line = serde_json::json!({ "type": "private", "target": target, "content": content, "id": "" });
        self.call(from, &line.to_string())
    }

    /// The mail of one core to another arrives, and nothing else happens.
    pub fn carry(&mut self, from: usize, to: usize) {
        for mail in std::mem::take(&mut self.shards[from].outboxes()[to]) {
            self.shards[to].mail(mail);
        }
    }

    /// Somebody registers this nickname, as all cores are told.
    pub fn register(&mut self, nickname: &str) {
        let name = Nickname::parse(nickname).expect("a nickname");
        let store = self.store.as_ref().expect("there is a store");
        accounts::add(store.engine.connection(), &name, "", BEGIN_UNIX_MS).expect("it can be registered");
        self.note_account(nickname, Some(AccountState { is_disabled: false, since_ms: BEGIN_UNIX_MS }));
    }

    /// All cores are told of the account of a nickname.
    pub fn note_account(&mut self, nickname: &str, account: Option<AccountState>) {
        let name = Nickname::parse(nickname).expect("a nickname");
        for core in 0..self.shards.len() {
            self.tell(core, StoreNews::Users(vec![(name.clone(), account)]));
        }
    }

    /// The process is killed, and another one goes on with what is in the store.
    pub fn restarted(
        mut self,
        cores: u16,
        set: impl FnOnce(&mut Config),
        arrange: impl Fn(&mut Flock),
    ) -> Cores {
        while self.write() {}
        let store = self.store.take().expect("there is a store");
        let mut engine = store.engine.restarted().expect("it goes on");
        let restored = load::load(&mut engine, 0, usize::MAX).expect("it can be loaded");
        let mut shares = Vec::new();
        let mut next = Cores::made(cores, set, |flock| {
            arrange(flock);
            flock.has_store = true;
            shares = share_out(restored, flock);
        });
        next.store.as_mut().expect("there is a store").engine = engine;
        next.now_ms = self.now_ms;
        for (shard, share) in next.shards.iter_mut().zip(shares) {
            shard.tick(Self::moment(next.now_ms));
            shard.restore(share);
        }
        next.settle();
        next
    }
}

/// What checks tokens and keys.
pub fn authority(config: &Config) -> Arc<Authority> {
    let verifier = Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), None, None);
    Arc::new(Authority {
        verifier: Some(verifier.expect("a secret")),
        accounts: None,
        api_keys: ApiKeys::new(&config.auth.api_keys).expect("names of keys are nicknames"),
        resume: ResumeKey::new([0; 32]),
        reading: 0,
    })
}

/// What users' tokens are signed with.
const SECRET: &str = "a secret of at least 32 bytes, for tests";

/// A token of a user, with claims that `set` changes.
pub fn token(nickname: &str, set: impl FnOnce(&mut Claims)) -> String {
    let mut claims = claims(nickname);
    set(&mut claims);
    sign(&claims)
}

/// What a token says that says no more than whose it is.
pub fn claims(nickname: &str) -> Claims {
    Claims {
        nickname: Nickname::parse(nickname).expect("a nickname"),
        is_admin: false,
        rooms: None,
        tags: Vec::new(),
        expires_at_ms: None,
        account_at_ms: None,
    }
}

/// A token that says this.
pub fn sign(claims: &Claims) -> String {
    let signer = Signer::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET)).expect("a secret");
    signer.sign(claims, &Options::default()).expect("it can be signed")
}

/// Programs that may use the HTTP API, each with its name as its key.
pub fn programs(names: &[&str]) -> Vec<ApiKey> {
    let key =
        |name: &&str| ApiKey { name: (*name).to_owned(), key: Secret((*name).to_owned()), admin: false };
    names.iter().map(key).collect()
}
