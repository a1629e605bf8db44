//! A node of a cluster, and its backplane: what it is asked it does at once, unless the test keeps that back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use starling::auth::Authority;
use starling::auth::Claims;
use starling::auth::api_key::ApiKeys;
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::auth::resume::{ResumeKey, Ticket};
use starling::chat::name::{Nickname, RoomName};
use starling::chat::user::{NodeId, SessionRef};
use starling::config::{Config, JwtAlgorithm, ListenKind};
use starling::shard::backplane::{
    BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, LogEntry, LostNode, NodeMessage, OpenedRoom,
    Placed, Position, RoomAt, RoomOp, SharedMessage, TakeOutcome,
};
use starling::shard::mail::Mail;

use crate::cores::{Client, Cores};

/// This node, and two others.
pub const OWN: NodeId = 1;
pub const OTHER: NodeId = 2;
pub const THIRD: NodeId = 3;

const BEGIN_MS: u64 = 1_000;
const BEGIN_UNIX_MS: u64 = 1_700_000_000_000;

const SECRET: &str = "what tokens of tests are signed with";

/// A room as the backplane has it.
pub struct Kept {
    pub epoch: Arc<str>,
    pub at: Position,
    pub entries: Vec<LogEntry>,
    pub snapshot: Option<(u64, String)>,
    pub is_doubtful: bool,
    /// The core that has the copy.
    core: u16,
}

pub struct Node {
    pub cores: Cores,
    pub rooms: BTreeMap<Arc<str>, Kept>,
    /// Where the sessions of a nickname are.
    pub places: BTreeMap<String, Vec<SessionRef>>,
    /// The numbers of sessions that are kept, by their nicknames.
    pub numbers: BTreeMap<String, u64>,
    /// Sessions that can be taken, by their numbers: where each was when it was kept, where else it has been, and what it was.
    elsewhere: BTreeMap<u64, (SessionRef, Vec<SessionRef>, String)>,
    /// What is not done by itself, and was asked.
    pub holds: fn(&BackplaneRequest) -> bool,
    pub held: VecDeque<(u16, BackplaneRequest)>,
    /// What was asked, in few words.
    pub log: Vec<String>,
    /// What was told to other nodes; `None`: to all.
    pub told: Vec<(Option<NodeId>, NodeMessage)>,
    now_ms: u64,
}

impl Node {
    pub fn new(set: impl FnOnce(&mut Config)) -> Node {
        Node::of(1, set)
    }

    /// With so many cores.
    pub fn of(cores: u16, set: impl FnOnce(&mut Config)) -> Node {
        let verifier = Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), None, None);
        let mut config = Config::default();
        set(&mut config);
        let authority = Authority {
            verifier: Some(verifier.expect("a secret verifies")),
            accounts: None,
            api_keys: ApiKeys::new(&config.auth.api_keys).expect("names of keys are nicknames"),
            resume: ResumeKey::new([0; 32]),
            reading: 0,
        };
        let unlimited = |given: &mut Config| {
            *given = config;
            given.rate.commands_per_second = 0;
            given.heartbeat.timeout_ms = 86_400_000;
            given.heartbeat.probe_ms = 86_400_000;
        };
        let cores = Cores::made(cores, unlimited, |flock| {
            (flock.node, flock.has_backplane) = (OWN, true);
            flock.authority = Arc::new(authority);
        });
        Node {
            cores,
            rooms: BTreeMap::new(),
            places: BTreeMap::new(),
            numbers: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            holds: |_| false,
            held: VecDeque::new(),
            log: Vec::new(),
            told: Vec::new(),
            now_ms: BEGIN_MS,
        }
    }

    /// Somebody is here, and in these rooms, and has read all that came.
    pub fn enter(&mut self, nickname: &str, rooms: &[&str]) -> Client {
        self.enter_on(0, nickname, rooms)
    }

    pub fn enter_on(&mut self, core: usize, nickname: &str, rooms: &[&str]) -> Client {
        let client = self.cores.enter(core, nickname, rooms);
        self.settle();
        let events = self.cores.events(client);
        assert!(events.iter().all(|event| event["type"] != "error"), "{events:?}");
        client
    }

    /// An admin, or a user who may enter these rooms alone, by their token.
    pub fn enter_with_token(&mut self, nickname: &str, only: Option<&[&str]>, rooms: &[&str]) -> Client {
        let signer = Signer::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET)).expect("a secret signs");
        let nickname = Nickname::parse(nickname).expect("a nickname");
        let claims = Claims {
            nickname,
            is_admin: only.is_none(),
            rooms: only.map(|rooms| rooms.iter().map(|room| (*room).to_owned()).collect()),
            tags: Vec::new(),
            expires_at_ms: None,
            account_at_ms: None,
        };
        let token = signer.sign(&claims, &Options::default()).expect("a secret signs");
        let client = self.cores.connect(0, ListenKind::Line);
        self.say(client, &format!(r#"{{"type":"hello","token":"{token}"}}"#));
        for room in rooms {
            self.say(client, &format!(r#"{{"type":"join","room":"{room}"}}"#));
        }
        let events = self.cores.events(client);
        assert!(events.iter().all(|event| event["type"] != "error"), "{events:?}");
        client
    }

    /// Somebody comes back whose session has this number, here or on another node.
    pub fn come_back(&mut self, nickname: &str, number: u64) -> Client {
        let nickname = Nickname::parse(nickname).expect("a nickname");
        let token = ResumeKey::new([0; 32]).issue(&Ticket { session: number, nickname, claims: None });
        let client = self.cores.connect(0, ListenKind::Line);
        self.say(client, &format!(r#"{{"type":"hello","resume":"{token}"}}"#));
        client
    }

    /// Somebody comes from another node who was in a room there.
    pub fn come_from(&mut self, at: &str, nickname: &str, number: u64, room: &str) -> Client {
        self.come_by_way_of(&[], at, nickname, number, room)
    }

    /// The same, and meanwhile it has been at these places.
    pub fn come_by_way_of(
        &mut self,
        places: &[&str],
        at: &str,
        nickname: &str,
        number: u64,
        room: &str,
    ) -> Client {
        self.come_to(&[room.to_owned()], places, at, nickname, number)
    }

    /// The same, and it was in all these rooms.
    pub fn come_to(
        &mut self,
        rooms: &[String],
        places: &[&str],
        at: &str,
        nickname: &str,
        number: u64,
    ) -> Client {
        let rooms: Vec<Value> = rooms.iter().map(|room| json!({ "room": room, "echo": true })).collect();
        let body = json!({ "nickname": nickname, "rooms": rooms });
        let places = places.iter().map(|place| session(place)).collect();
        self.elsewhere.insert(number, (session(at), places, body.to_string()));
        self.come_back(nickname, number)
    }

    pub fn say(&mut self, client: Client, line: &str) {
        self.cores.say(client, line);
        self.settle();
    }

    /// The last event that a client hears upon a command.
    pub fn call(&mut self, client: Client, line: &str) -> Value {
        self.cores.events(client);
        self.say(client, line);
        let mut events = self.cores.events(client);
        events.pop().unwrap_or_else(|| panic!("no answer to {line}"))
    }

    pub fn events(&mut self, client: Client) -> Vec<Value> {
        self.cores.events(client)
    }

    /// What the client hears but for pings, each event in few words: its type, and what tells it from others.
    pub fn hears(&mut self, client: Client) -> Vec<String> {
        let word = |event: &Value| {
            let fields = ["event", "nickname", "content", "reason", "code", "delivered", "sessions"];
            let of = |field: &&str| match &event[*field] {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            let mut words = vec![event["type"].as_str().unwrap_or("?").to_owned()];
            words.extend(fields.iter().filter_map(of));
            words.join(" ")
        };
        self.cores.events(client).iter().map(word).filter(|word| word != "ping").collect()
    }

    pub fn http(&mut self, core: usize, request: &str) -> String {
        let client = self.cores.connect(core, ListenKind::Web);
        self.cores.receive(client, request.as_bytes());
        self.settle();
        let heard = self.cores.heard(client);
        self.cores.broken(client);
        self.settle();
        heard
    }

    /// The session of a nickname, as others know it.
    pub fn session(&self, nickname: &str) -> SessionRef {
        self.places[nickname][0]
    }

    /// What was asked since somebody looked, of those things whose words begin so.
    pub fn asked(&mut self, begin: &str) -> Vec<String> {
        std::mem::take(&mut self.log).into_iter().filter(|words| words.starts_with(begin)).collect()
    }

    /// What other nodes were told since somebody looked.
    pub fn told(&mut self) -> Vec<(Option<NodeId>, NodeMessage)> {
        std::mem::take(&mut self.told)
    }

    pub fn tell_core(&mut self, core: usize, news: BackplaneNews) {
        self.cores.mail(core, Mail::Backplane(news));
        self.settle();
    }

    pub fn tell(&mut self, news: BackplaneNews) {
        self.tell_core(0, news);
    }

    /// Another node says something to the first core.
    pub fn hear(&mut self, from: NodeId, message: NodeMessage) {
        self.tell(BackplaneNews::Told { from, message: Box::new(message) });
    }

    /// The backplane is down, or back.
    pub fn down(&mut self, why: Option<&str>) {
        for core in 0..self.cores.shards.len() {
            self.cores.mail(core, Mail::Backplane(BackplaneNews::Down(why.map(Into::into))));
        }
        self.settle();
    }

    /// Which other nodes live, and which are lost, and for how long.
    pub fn nodes(&mut self, living: &[NodeId], lost: &[(NodeId, u64)]) {
        let living: Arc<[NodeId]> = living.iter().copied().chain([OWN]).collect();
        let lost: Arc<[LostNode]> =
            lost.iter().map(|(node, lost_ms)| LostNode { node: *node, lost_ms: *lost_ms }).collect();
        for core in 0..self.cores.shards.len() {
            let (living, lost) = (living.clone(), lost.clone());
            self.cores.mail(core, Mail::Backplane(BackplaneNews::Nodes { living, lost }));
        }
        self.settle();
    }

    /// Time passes, and what is asked meanwhile is done at once.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            let due =
                self.cores.shards.iter().filter_map(|shard| shard.next_deadline()).map(|tick| tick.0).min();
            let next = due.unwrap_or(until).clamp(self.now_ms + 1, until);
            self.cores.pass(next - self.now_ms);
            self.now_ms = next;
            self.settle();
        }
    }

    /// By the wall.
    pub fn unix_ms(&self) -> u64 {
        BEGIN_UNIX_MS + self.now_ms
    }

    /// Whatever is asked is done, or held.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.cores.settle();
            let Some((core, mail)) = self.cores.asked.pop_front() else { return };
            let Mail::BackplaneRequest { request, .. } = mail else { panic!("{mail:?} to a backplane") };
            self.log.extend(words(&request));
            if (self.holds)(&request) {
                self.held.push_back((core, request));
            } else {
                self.answer(core, request);
            }
        }
        panic!("the node asks for ever");
    }

    /// What was held is done, and nothing is held any more.
    pub fn release(&mut self) {
        self.holds = |_| false;
        while let Some((core, request)) = self.held.pop_front() {
            self.answer(core, request);
            self.settle();
        }
    }

    /// Somebody else changes a room. Returns the entry, which is announced.
    pub fn change(&mut self, room: &str, node: NodeId, tag: u64, ops: Vec<RoomOp>) -> LogEntry {
        let entry = self.append(room, node, tag, ops);
        self.announce(room, vec![entry.clone()]);
        entry
    }

    /// The same, and this node does not hear of it.
    pub fn append(&mut self, room: &str, node: NodeId, tag: u64, ops: Vec<RoomOp>) -> LogEntry {
        let timestamp_ms = self.unix_ms();
        let kept = self.rooms.get_mut(room).expect("the room is there");
        kept.at.change += 1;
        let entry = LogEntry::Change { position: kept.at, timestamp_ms, node, tag, ops };
        kept.entries.push(entry.clone());
        entry
    }

    /// Somebody elsewhere says something, of which this node does not hear yet.
    pub fn place(&mut self, room: &str, sender: &str, content: &str) -> LogEntry {
        let message = SharedMessage {
            sender: Nickname::parse(sender).expect("a nickname"),
            content: content.into(),
            from: None,
            node: OTHER,
            tag: 1_000,
        };
        self.place_message(room, message)
    }

    fn place_message(&mut self, room: &str, message: SharedMessage) -> LogEntry {
        let timestamp_ms = self.unix_ms();
        let kept = self.rooms.get_mut(room).expect("the room is there");
        kept.at.offset += 1;
        let entry = LogEntry::Message { position: kept.at, timestamp_ms, message };
        kept.entries.push(entry.clone());
        entry
    }

    /// This node hears of entries.
    pub fn announce(&mut self, room: &str, entries: Vec<LogEntry>) {
        let kept = &self.rooms[room];
        let (core, epoch) = (kept.core, kept.epoch.clone());
        self.tell_core(core.into(), BackplaneNews::Entries { room: room.into(), epoch, entries });
    }

    /// The link tells where a room is.
    pub fn tell_where(&mut self, room: &str) {
        let kept = &self.rooms[room];
        let (core, at, is_doubtful) = (kept.core, Some((kept.epoch.clone(), kept.at)), kept.is_doubtful);
        self.tell_core(core.into(), BackplaneNews::At { room: room.into(), at, is_doubtful });
    }

    /// A room as it is opened now.
    pub fn opened(&self, room: &str) -> OpenedRoom {
        let kept = &self.rooms[room];
        let first_kept = kept.entries.iter().find_map(|entry| match entry {
            LogEntry::Message { position, .. } => Some(position.offset),
            LogEntry::Change { .. } => None,
        });
        let after = kept.snapshot.as_ref().map_or(0, |(change, _)| *change);
        let is_after = |entry: &&LogEntry| match entry {
            LogEntry::Message { .. } => true,
            LogEntry::Change { position, .. } => position.change > after,
        };
        OpenedRoom {
            room: RoomName::parse(room).expect("a room"),
            epoch: kept.epoch.clone(),
            position: kept.at,
            timestamp_ms: self.unix_ms(),
            first_kept: first_kept.unwrap_or(kept.at.offset + 1),
            snapshot: kept.snapshot.clone(),
            entries: kept.entries.iter().filter(is_after).cloned().collect(),
            is_doubtful: kept.is_doubtful,
        }
    }

    /// A room that this node has not heard of.
    pub fn make(&mut self, room: &str) {
        let epoch = format!("epoch of {room}").into();
        let kept = Kept {
            epoch,
            at: Position::default(),
            entries: Vec::new(),
            snapshot: None,
            is_doubtful: false,
            core: 0,
        };
        self.rooms.insert(room.into(), kept);
    }

    fn tell_opened(&mut self, core: u16, room: &Arc<str>, is_catch_up: bool) {
        if let Some(kept) = self.rooms.get_mut(room) {
            kept.core = core;
        }
        let opened = self.rooms.contains_key(room).then(|| Box::new(self.opened(room)));
        let news = BackplaneNews::Opened { room: room.clone(), outcome: Ok(opened), is_catch_up };
        self.tell_core(core.into(), news);
    }

    /// Does what was asked.
    pub fn answer(&mut self, core: u16, request: BackplaneRequest) {
        let news = match request {
            BackplaneRequest::Open { room, make } => {
                let folded: Arc<str> = room.folded().into();
                if let Some(epoch) = make
                    && !self.rooms.contains_key(&folded)
                {
                    self.make(&folded);
                    self.rooms.get_mut(&folded).expect("just made").epoch = epoch;
                }
                return self.tell_opened(core, &folded, false);
            }
            BackplaneRequest::Publish(publish) => {
                let (room, tag) = (publish.at.room, publish.message.tag);
                let entry = self.place_message(&room, publish.message);
                let (offset, timestamp_ms) = (entry.position().offset, self.unix_ms());
                let epoch = self.rooms[&room].epoch.clone();
                let placed = Placed { epoch, offset, timestamp_ms, is_repeated: false };
                self.tell_core(
                    core.into(),
                    BackplaneNews::Published { room: room.clone(), tag, outcome: Ok(placed) },
                );
                return self.announce(&room, vec![entry]);
            }
            BackplaneRequest::Append(append) => {
                let (RoomAt { room, epoch, .. }, tag) = (append.at, append.tag);
                if self.rooms[&room].epoch != epoch {
                    let outcome = Err(Failed::Lost);
                    return self
                        .tell_core(core.into(), BackplaneNews::Appended { room, epoch, tag, outcome });
                }
                let is_it = |entry: &&LogEntry| matches!(entry, LogEntry::Change { node: OWN, tag: of, .. } if *of == tag);
                if let Some(entry) = self.rooms[&room].entries.iter().find(is_it) {
                    // The same again is not appended twice.
                    let outcome = Ok(entry.position());
                    return self
                        .tell_core(core.into(), BackplaneNews::Appended { room, epoch, tag, outcome });
                }
                let entry = self.append(&room, OWN, tag, append.ops);
                let outcome = Ok(entry.position());
                self.tell_core(
                    core.into(),
                    BackplaneNews::Appended { room: room.clone(), epoch, tag, outcome },
                );
                return self.announce(&room, vec![entry]);
            }
            BackplaneRequest::CatchUp(at) => {
                let RoomAt { room, epoch, position, .. } = at;
                let kept = &self.rooms[&room];
                if kept.epoch != epoch || !kept.at.reaches(position) || kept.is_doubtful {
                    return self.tell_opened(core, &room, true);
                }
                let is_missing = |entry: &&LogEntry| match entry {
                    LogEntry::Message { position: of, .. } => of.offset > position.offset,
                    LogEntry::Change { position: of, .. } => of.change > position.change,
                };
                let entries = kept.entries.iter().filter(is_missing).cloned().collect();
                BackplaneNews::CaughtUp { room, epoch, outcome: Ok(entries) }
            }
            BackplaneRequest::Renew(renew) => {
                let room = renew.lost.room.clone();
                let kept = self.rooms.get_mut(&room).expect("the room is there");
                if kept.epoch == renew.lost.epoch {
                    if let Some(snapshot) = renew.snapshot {
                        (kept.at, kept.entries) = (renew.lost.position, renew.messages);
                        kept.snapshot = Some((kept.at.change, snapshot));
                    }
                    (kept.epoch, kept.is_doubtful) = (renew.epoch, false);
                }
                return self.tell_opened(core, &room, false);
            }
            BackplaneRequest::Utter { room, utterance } => BackplaneNews::Uttered { room, utterance },
            BackplaneRequest::Rooms { wait, after, limit } => {
                let rooms = self
                    .rooms
                    .iter()
                    .filter(|(name, _)| after.as_ref().is_none_or(|after| ***name > **after));
                let entry = |(name, kept): (&Arc<str>, &Kept)| {
                    (RoomName::parse(name).expect("a room"), 1, kept.at.offset)
                };
                BackplaneNews::Rooms { wait, rooms: Some(rooms.take(limit).map(entry).collect()) }
            }
            BackplaneRequest::Claim { wait, nickname, session, .. } => {
                self.places.entry(nickname.folded().into()).or_default().push(session);
                BackplaneNews::Claimed { wait, nickname, session, outcome: Ok(ClaimOutcome::Granted) }
            }
            BackplaneRequest::Release { nickname, session } => {
                if let Some(places) = self.places.get_mut(nickname.folded()) {
                    places.retain(|at| *at != session);
                }
                return;
            }
            BackplaneRequest::Replace { nickname, old, session, .. } => {
                let places = self.places.entry(nickname.folded().into()).or_default();
                places.retain(|at| *at != old);
                return places.push(session);
            }
            BackplaneRequest::Find { wait, nickname } => {
                let places = self.places.get(nickname.folded()).filter(|places| !places.is_empty());
                BackplaneNews::Found { wait, outcome: Ok(places.map(|places| (nickname, places.clone()))) }
            }
            BackplaneRequest::PutOut { wait, .. } => BackplaneNews::PutOut { wait, outcome: Ok(0) },
            BackplaneRequest::KeepSession { number, nickname, wait, .. } => {
                self.numbers.insert(nickname.folded().into(), number);
                let Some(wait) = wait else { return };
                BackplaneNews::Kept { wait, outcome: Ok(true) }
            }
            BackplaneRequest::TakeSession { wait, number, session, .. } => {
                let taken = |(old, places, body)| TakeOutcome::Taken { old, places, revision: 1, body };
                let outcome = self.elsewhere.remove(&number).map_or(TakeOutcome::Gone, taken);
                BackplaneNews::Taken { wait, number, session, outcome: Ok(outcome) }
            }
            BackplaneRequest::Tell { node, message } => return self.told.push((Some(node), *message)),
            BackplaneRequest::TellAll { message } => return self.told.push((None, *message)),
            BackplaneRequest::Page { wait, .. } => BackplaneNews::Page { wait, entries: Some(Vec::new()) },
            _ => return,
        };
        self.tell_core(core.into(), news);
    }
}

/// A request in few words.
fn words(request: &BackplaneRequest) -> Option<String> {
    let at = |at: &RoomAt| format!("{} at {}.{}", at.room, at.position.change, at.position.offset);
    Some(match request {
        BackplaneRequest::Open { room, make } => {
            format!("{} {}", if make.is_some() { "make" } else { "open" }, room.as_str())
        }
        BackplaneRequest::Close { room } => format!("close {room}"),
        BackplaneRequest::Publish(publish) => format!("publish {}", publish.message.content),
        BackplaneRequest::Append(append) => {
            let ops: Vec<String> = append.ops.iter().map(op_words).collect();
            format!("append {}: {}", append.at.room, ops.join(", "))
        }
        BackplaneRequest::CatchUp(seen) => format!("catch up {}", at(seen)),
        BackplaneRequest::Renew(renew) => format!("renew {}", at(&renew.lost)),
        BackplaneRequest::Keep(keep) => {
            format!(
                "keep {} with {}{}",
                at(&keep.at),
                keep.members,
                if keep.snapshot.is_some() { ", all" } else { "" }
            )
        }
        BackplaneRequest::KeepSession { nickname, is_given_up, .. } => {
            format!("{} session of {}", if *is_given_up { "give up" } else { "keep" }, nickname.as_str())
        }
        BackplaneRequest::Release { nickname, .. } => format!("release {}", nickname.as_str()),
        BackplaneRequest::FreeSession { number, .. } => format!("free session {number}"),
        BackplaneRequest::TakeSession { number, .. } => format!("take session {number}"),
        BackplaneRequest::LookForSession { .. } => "look for session".to_owned(),
        BackplaneRequest::Find { nickname, .. } => format!("find {}", nickname.as_str()),
        BackplaneRequest::PutOut { nickname, .. } => format!("put out {}", nickname.as_str()),
        BackplaneRequest::Rooms { after, limit, .. } => {
            format!("rooms after {} up to {limit}", after.as_deref().unwrap_or("none"))
        }
        _ => return None,
    })
}

fn op_words(op: &RoomOp) -> String {
    match op {
        RoomOp::Join { nickname, .. } => format!("join {}", nickname.as_str()),
        RoomOp::Leave { session, reason } => format!("leave {session} {}", reason.as_str()),
        RoomOp::Detach { session } => format!("detach {session}"),
        RoomOp::Attach { old, session } => format!("attach {old} as {session}"),
        RoomOp::Rename { nickname, .. } => format!("rename {}", nickname.as_str()),
        RoomOp::SetState { key, .. } => format!("set {key}"),
        RoomOp::SetRole { target, .. } => format!("role of {}", target.as_str()),
        RoomOp::Moderate { target, .. } => format!("moderate {}", target.as_str()),
        RoomOp::LoseNode { node } => format!("lose node {node}"),
        RoomOp::ForgetNode { node } => format!("forget node {node}"),
    }
}

/// A session of another node.
pub fn session(written: &str) -> SessionRef {
    written.parse().expect("a session")
}

/// Somebody joins elsewhere.
pub fn join(written: &str, nickname: &str) -> RoomOp {
    RoomOp::Join {
        session: session(written),
        nickname: Nickname::parse(nickname).expect("a nickname"),
        is_admin: false,
    }
}
