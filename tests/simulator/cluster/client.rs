//! A client that goes from node to node and believes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use starling::base::rng::Rng;
use starling::base::slots::Id;
use starling::chat::user::NodeId;
use starling::shard::backplane::Position;

use crate::coverage::Tally;
use crate::faults::{happens, pick};
use crate::swarm::{Mix, Op};

const ROOMS: &[&str] = &["lobby", "den", "attic"];

/// A history of a room, by its epoch: who said what at each offset.
type Log = BTreeMap<u64, (String, String)>;

/// What all clients know together.
#[derive(Debug, Default)]
pub struct Ledger {
    pub moment: u64,
    pub counts: BTreeMap<&'static str, u64>,
    /// How often the backplane has forgotten something, and when it last did; when one was last down.
    pub forgets: u64,
    pub forgot_at: u64,
    pub down_at: u64,
    /// Whether nodes may learn of a loss so late that others have given its places again, or never.
    pub is_late: bool,
    /// The nodes that have lately not reached the backplane: what they say is done has perhaps no place yet.
    pub cut_off: BTreeSet<NodeId>,
    logs: BTreeMap<(String, String), Log>,
    /// Acknowledged messages: room, epoch, offset, content, and how often the backplane had forgotten when it was said, and by then.
    acks: Vec<(String, String, u64, String, [u64; 2])>,
    /// Private messages by their content: whom they are for, how often each was heard, whether it was acknowledged as told or kept.
    private: BTreeMap<String, Private>,
    /// How often the session of each has gone to another node, and how often each has come back to it.
    pub moves: BTreeMap<String, u64>,
    resumes: BTreeMap<String, u64>,
    /// What was said to all.
    broadcasts: BTreeMap<String, Broadcast>,
    /// The members that some node has told.
    pub members: BTreeMap<String, Vec<(String, String, bool)>>,
    /// What of the protocol was said and heard.
    pub tally: Tally,
}

#[derive(Debug, Default)]
struct Broadcast {
    /// Which clients have heard it, on which of their connections.
    heard: BTreeSet<(usize, u64)>,
    /// How often each had gone to another node when it was said, and come back.
    moves: BTreeMap<String, u64>,
    resumes: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Private {
    target: String,
    heard: u64,
    /// How often its sender and whom it is for had gone to another node when it was said first.
    moves: u64,
}

/// The place of an operation among what clients do here.
fn place_of(op: Op) -> u64 {
    match op {
        Op::Join => 0,
        Op::Leave => 2,
        Op::State => 3,
        Op::Moderation => 4,
        Op::Typing => 5,
        Op::Private => 6,
        Op::History => 8,
        Op::Broadcast => 20,
        Op::Members => 21,
        Op::Ping => 22,
        // Not done here.
        Op::Message
        | Op::Switch
        | Op::Received
        | Op::Rooms
        | Op::Nick
        | Op::Hello
        | Op::Quit
        | Op::Garbage => 9,
    }
}

impl Ledger {
    pub fn new(is_late: bool) -> Self {
        Ledger { is_late, ..Ledger::default() }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn moves_of(&self, one: &str, other: &str) -> u64 {
        [one, other].iter().filter_map(|name| self.moves.get(*name)).sum()
    }

    /// Somebody has heard that something has this place.
    fn place(&mut self, room: &str, epoch: &str, offset: u64, sender: &str, content: &str) {
        let log = self.logs.entry((room.into(), epoch.into())).or_default();
        let said = (sender.to_lowercase(), content.to_owned());
        let known = log.entry(offset).or_insert_with(|| said.clone());
        assert!(
            *known == said || self.is_late,
            "{room} {epoch} {offset} is two messages: {known:?} {said:?}"
        );
        // What a room takes along when data is lost may be said again: nobody knows any more that it was said under that id.
        let again = log.iter().find(|(at, (_, other))| **at != offset && *other == content);
        assert!(
            again.is_none() || self.forgets > 0,
            "{content} is twice in {room} {epoch}: {offset} and {again:?}"
        );
    }

    /// What was acknowledged is what everybody heard.
    pub fn check_acks(&self, positions: &BTreeMap<String, (Arc<str>, Position)>) {
        for (room, epoch, offset, content, forgets) in &self.acks {
            if let Some((_, said)) =
                self.logs.get(&(room.clone(), epoch.clone())).and_then(|log| log.get(offset))
            {
                // An answer may come after what it is about has been lost, to a node that has not heard of that.
                let is_same = said == content || self.is_late || forgets[0] != forgets[1];
                assert!(is_same, "{room} {epoch} {offset} was acknowledged as another message");
            }
            if forgets[0] == self.forgets {
                let (now, position) = &positions[room];
                // It goes on under another epoch if somebody has found only now that something else was lost before.
                let told = self.logs.get(&(room.clone(), now.to_string())).and_then(|log| log.get(offset));
                let is_kept = **now == **epoch || told.is_none_or(|(_, told)| told == content);
                assert!(
                    is_kept && position.offset >= *offset,
                    "{room} {epoch} {offset} is lost: {now} {position:?}"
                );
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Hello { resumes: bool },
    Join { room: String, since: Option<(String, u64)> },
    Leave { room: String },
    Message { room: String, content: String, forgets: u64 },
    Private { content: String, target: usize },
    Broadcast { content: String },
    Other,
    Ping,
    Members { room: String },
    History { room: String },
}

#[derive(Debug, Clone)]
pub struct Membership {
    epoch: String,
    next: u64,
    hears_itself: bool,
}

pub struct Client {
    pub number: usize,
    pub connection: Option<(NodeId, usize, Id)>,
    pub nickname: Option<String>,
    pub rooms: BTreeMap<String, Membership>,
    pub is_probe: bool,
    pub retry_at_ms: u64,
    pub told_members: BTreeMap<String, Vec<(String, String, bool)>>,
    /// By which it is an admin.
    pub user_token: Option<String>,
    token: Option<String>,
    /// The node of the last session.
    last_node: NodeId,
    /// Whether it has asked another node for its session since.
    has_asked_elsewhere: bool,
    /// Whether it had done so when it was let in, since all was at rest last: that node may take the session after that.
    pub may_be_taken: bool,
    /// Where it was in each room when the connection ended.
    kept: BTreeMap<String, Membership>,
    /// The rooms that it has left, as nodes told it that had perhaps told nobody else; and those of nodes that are gone since: it may be
    /// a member there again.
    left_on: BTreeMap<String, NodeId>,
    /// All rooms that it has left: a session that goes on elsewhere after a loss may do so from before that.
    left: BTreeSet<String>,
    pub perhaps_in: BTreeSet<String>,
    waits: BTreeMap<String, What>,
    /// Commands that were not answered before the connection ended, to be said again.
    again: Vec<(String, What)>,
    input: Vec<u8>,
    last_id: u64,
    /// How many it has had, and on which node the last one was.
    connections: u64,
    connection_before: Option<NodeId>,
    bye: Option<u64>,
    /// Whether it is to say hello once more on the same connection, and when.
    hello_at_ms: Option<u64>,
    wishes: Vec<(u64, What)>,
}

impl Client {
    pub fn new(number: usize) -> Client {
        Client {
            number,
            connection: None,
            nickname: None,
            rooms: BTreeMap::new(),
            is_probe: false,
            retry_at_ms: 0,
            told_members: BTreeMap::new(),
            user_token: None,
            token: None,
            last_node: 0,
            has_asked_elsewhere: false,
            may_be_taken: false,
            kept: BTreeMap::new(),
            left_on: BTreeMap::new(),
            left: BTreeSet::new(),
            perhaps_in: BTreeSet::new(),
            waits: BTreeMap::new(),
            again: Vec::new(),
            input: Vec::new(),
            last_id: 0,
            connections: 0,
            connection_before: None,
            bye: None,
            hello_at_ms: None,
            wishes: Vec::new(),
        }
    }

    fn name(&self) -> String {
        format!("c{}", self.number)
    }

    pub fn is_at(&self, node: NodeId, core: usize, connection: Id) -> bool {
        self.connection == Some((node, core, connection))
    }

    pub fn may_retry(&self, now_ms: u64) -> bool {
        self.retry_at_ms <= now_ms
    }

    pub fn is_answered(&self) -> bool {
        self.waits.is_empty() && self.again.is_empty() && self.kept.is_empty()
    }

    pub fn waits_for(&self) -> String {
        format!("{:?} {:?} {:?}", self.waits, self.again, self.kept)
    }

    fn next_id(&mut self) -> String {
        self.last_id += 1;
        format!("{}-{}", self.number, self.last_id)
    }

    fn hello(&mut self) -> String {
        let id = self.next_id();
        self.waits.insert(id.clone(), What::Hello { resumes: self.token.is_some() });
        match (&self.token, &self.user_token) {
            (Some(token), _) => json!({"type": "hello", "resume": token, "id": id}).to_string(),
            (None, Some(token)) => json!({"type": "hello", "token": token, "id": id}).to_string(),
            (None, None) => json!({"type": "hello", "nickname": self.name(), "id": id}).to_string(),
        }
    }

    /// Begins on a new connection, with a hello.
    pub fn begin(&mut self, node: NodeId, core: usize, connection: Id, ledger: &mut Ledger) -> String {
        // Whether it is let in there or not: it may begin anew there.
        if self.connection_before.replace(node).is_some_and(|before| before != node) {
            *ledger.moves.entry(self.name()).or_default() += 1;
        }
        self.has_asked_elsewhere |= node != self.last_node;
        self.connection = Some((node, core, connection));
        self.connections += 1;
        self.input.clear();
        self.bye = None;
        self.hello_at_ms = None;
        self.hello()
    }

    /// What nodes knew alone is perhaps lost, as the data is.
    pub fn forget_leaves(&mut self) {
        self.perhaps_in.extend(std::mem::take(&mut self.left_on).into_keys());
    }

    pub fn lose_node(&mut self, node: NodeId, ledger: &mut Ledger) {
        self.left_on.retain(|room, at| {
            if *at == node {
                self.perhaps_in.insert(room.clone());
            }
            *at != node
        });
        if self.connection.is_some_and(|(at, ..)| at == node) {
            self.lose_connection(ledger);
        }
    }

    /// The connection is gone: what was not answered is not known.
    pub fn lose_connection(&mut self, _ledger: &mut Ledger) {
        self.connection = None;
        self.nickname = None;
        self.wishes.clear();
        self.kept.append(&mut self.rooms);
        for (id, what) in std::mem::take(&mut self.waits) {
            match what {
                What::Message { .. } | What::Private { .. } if self.token.is_some() => {
                    self.again.push((id, what))
                }
                // Perhaps it is a member there now.
                What::Join { room, .. } => {
                    let unknown = Membership { epoch: "?".into(), next: 1, hears_itself: true };
                    self.kept.entry(room).or_insert(unknown);
                }
                What::Leave { room } => {
                    self.kept.remove(&room);
                    let unknown = Membership { epoch: "?".into(), next: 1, hears_itself: true };
                    self.kept.insert(room, unknown);
                }
                _ => {}
            }
        }
    }

    /// What it does next, if anything.
    pub fn act(&mut self, rng: &mut Rng, mix: Option<&Mix>, ledger: &mut Ledger) -> Option<String> {
        if self.bye.is_some() {
            return None;
        }
        if self.nickname.is_none() {
            if self.waits.is_empty() && happens(rng, 100) {
                return Some(self.hello());
            }
            return None;
        }
        if !self.kept.is_empty() || !self.again.is_empty() {
            return self.go_on();
        }
        if self.waits.len() > 4 {
            return None;
        }
        let id = self.next_id();
        let room = (*pick(rng, ROOMS)).to_owned();
        let others = rng.below(9);
        let is_member = self.rooms.contains_key(&room);
        let is_busy = self.waits.values().any(|what| matches!(what, What::Join { .. } | What::Leave { .. }));
        if is_busy {
            return None;
        }
        let roll = match mix {
            Some(mix) => place_of(mix.next(rng)),
            None => rng.below(20),
        };
        Some(match roll {
            0..2 if !is_member => self.join(id, room, None),
            _ if !is_member => return None,
            2 if mix.is_some() || happens(rng, 300) => {
                self.waits.insert(id.clone(), What::Leave { room: room.clone() });
                json!({"type": "leave", "room": room, "id": id}).to_string()
            }
            3 => {
                self.waits.insert(id.clone(), What::Other);
                let key = pick(rng, &["topic", "mood"]);
                json!({"type": "state", "room": room, "key": key, "value": rng.below(9), "id": id})
                    .to_string()
            }
            4 => {
                self.waits.insert(id.clone(), What::Other);
                let target = format!("c{others}");
                let kind = pick(rng, &["kick", "mute", "unmute", "role"]);
                match kind {
                    "role" => {
                        let role = pick(rng, &["host", "member", "guest"]);
                        json!({"type": "role", "room": room, "target": target, "role": role, "id": id})
                            .to_string()
                    }
                    kind => json!({"type": kind, "room": room, "target": target, "id": id}).to_string(),
                }
            }
            5 if mix.is_none() && self.user_token.is_some() && happens(rng, 300) => {
                self.broadcast(id, ledger)
            }
            20 if self.user_token.is_some() => self.broadcast(id, ledger),
            20 => {
                self.waits.insert(id.clone(), What::Other);
                json!({"type": "broadcast", "content": "of a guest", "id": id}).to_string()
            }
            21 => self.ask_members(&room),
            22 => {
                self.waits.insert(id.clone(), What::Ping);
                json!({"type": "ping", "id": id}).to_string()
            }
            5 => json!({"type": "typing", "room": room}).to_string(),
            6 | 7 => {
                let content = format!("p{id}");
                let target = format!("c{others}");
                let moves = ledger.moves_of(&self.name(), &target);
                ledger.private.insert(content.clone(), Private { target: target.clone(), heard: 0, moves });
                self.waits
                    .insert(id.clone(), What::Private { content: content.clone(), target: others as usize });
                json!({"type": "private", "target": target, "content": content, "id": id}).to_string()
            }
            8 => {
                self.waits.insert(id.clone(), What::History { room: room.clone() });
                json!({"type": "history", "room": room, "limit": 1 + rng.below(20), "id": id}).to_string()
            }
            _ => {
                let content = format!("m{id}");
                self.waits.insert(
                    id.clone(),
                    What::Message { room: room.clone(), content: content.clone(), forgets: ledger.forgets },
                );
                json!({"type": "message", "room": room, "content": content, "id": id}).to_string()
            }
        })
    }

    fn broadcast(&mut self, id: String, ledger: &mut Ledger) -> String {
        let content = format!("b{id}");
        self.waits.insert(id.clone(), What::Broadcast { content: content.clone() });
        let (moves, resumes) = (ledger.moves.clone(), ledger.resumes.clone());
        let said = Broadcast { moves, resumes, ..Broadcast::default() };
        ledger.broadcasts.insert(content.clone(), said);
        json!({"type": "broadcast", "content": content, "id": id}).to_string()
    }

    fn join(&mut self, id: String, room: String, since: Option<(String, u64)>) -> String {
        let line = match &since {
            Some((epoch, offset)) => json!({"type": "join", "room": room, "id": id,
                                            "since": {"epoch": epoch, "offset": offset}}),
            None => json!({"type": "join", "room": room, "id": id}),
        };
        self.waits.insert(id, What::Join { room, since });
        line.to_string()
    }

    /// Goes on where it was: joins its rooms again, and says again what was not answered.
    fn go_on(&mut self) -> Option<String> {
        if !self.waits.is_empty() {
            return None;
        }
        if let Some((room, membership)) = self.kept.pop_first() {
            let id = self.next_id();
            let since = (membership.epoch != "?").then(|| (membership.epoch, membership.next - 1));
            return Some(self.join(id, room, since));
        }
        let (id, what) = self.again.pop()?;
        let line = match &what {
            What::Message { room, content, .. } => {
                json!({"type": "message", "room": room, "content": content, "id": id}).to_string()
            }
            What::Private { content, target } => {
                json!({"type": "private", "target": format!("c{target}"), "content": content, "id": id})
                    .to_string()
            }
            _ => unreachable!("only those are said again"),
        };
        self.waits.insert(id, what);
        Some(line)
    }

    /// What it says so that it comes to rest.
    pub fn settle(&mut self, now_ms: u64, _ledger: &mut Ledger) -> Option<String> {
        if self.connection.is_none()
            || self.bye.is_some()
            || !self.waits.is_empty()
            || now_ms < self.retry_at_ms
        {
            return None;
        }
        if self.nickname.is_none() {
            self.retry_at_ms = now_ms + 200;
            return Some(self.hello());
        }
        let line = self.go_on();
        if line.is_some() {
            self.retry_at_ms = now_ms + 100;
        }
        line
    }

    pub fn ask_members(&mut self, room: &str) -> String {
        let id = self.next_id();
        self.waits.insert(id.clone(), What::Members { room: room.into() });
        json!({"type": "members", "room": room, "limit": 1000, "id": id}).to_string()
    }

    pub fn ask_history(&mut self, room: &str) -> String {
        let id = self.next_id();
        self.waits.insert(id.clone(), What::History { room: room.into() });
        json!({"type": "history", "room": room, "limit": 1000, "id": id}).to_string()
    }

    pub fn hear(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        self.input.extend_from_slice(bytes);
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            if line.first() == Some(&b'{') {
                let event: Value = serde_json::from_slice(&line).expect("an event is JSON");
                self.hear_event(&event, ledger);
            }
        }
    }

    fn hear_event(&mut self, event: &Value, ledger: &mut Ledger) {
        assert!(self.bye.is_none(), "client {} hears {event} after bye", self.number);
        ledger.tally.heard(event);
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        match text("type").as_str() {
            "message" => self.hear_message(event, ledger),
            "private" => {
                let content = text("content");
                let moves = ledger.moves_of(&text("sender"), &text("target"));
                let private = ledger.private.get_mut(&content).expect("somebody said it");
                assert_eq!(private.target, self.name(), "not for client {}", self.number);
                private.heard += 1;
                // It may come again over a resume, with its place; or if it was said again, somebody has gone elsewhere meanwhile, and the
                // first answer was lost.
                let may_repeat = !event["offset"].is_null() || moves > private.moves;
                assert!(private.heard == 1 || may_repeat, "{content} is heard again");
            }
            "system" => {
                let Some(Broadcast { heard, moves, resumes }) = ledger.broadcasts.get_mut(&text("content"))
                else {
                    return;
                };
                // One of which it is not known whether it was received comes again on the next connection; and it may have come to both
                // nodes, or cores, while a session went from one to the other.
                let is_new = heard.insert((self.number, self.connections));
                let name = self.name();
                let has_moved = moves.get(&name) != ledger.moves.get(&name)
                    || resumes.get(&name) != ledger.resumes.get(&name);
                assert!(is_new || has_moved, "client {} hears {event} again", self.number);
            }
            "bye" => self.bye = event["code"].as_u64(),
            "left" if event["id"].is_null() => {
                ledger.count("kicked");
                self.rooms.remove(&text("room"));
                self.kept.remove(&text("room"));
            }
            "presence" if text("reason") == "timeout" => ledger.count("timeouts_heard"),
            "presence" | "typing" | "state" | "ping" => {}
            // To what has no id: a typing notice.
            "error" if event["id"].is_null() => {}
            _ => self.hear_reply(event, ledger),
        }
    }

    fn hear_message(&mut self, event: &Value, ledger: &mut Ledger) {
        let room = event["room"].as_str().expect("a room").to_owned();
        let offset = event["offset"].as_u64().expect("an offset");
        let Some(membership) = self.rooms.get_mut(&room) else {
            panic!("client {} is not in {room} and hears {event}", self.number);
        };
        assert!(membership.hears_itself);
        assert_eq!(membership.next, offset, "client {} in {room} {}", self.number, membership.epoch);
        membership.next += 1;
        let epoch = membership.epoch.clone();
        let (sender, content) = (event["sender"].as_str().unwrap(), event["content"].as_str().unwrap());
        ledger.place(&room, &epoch, offset, sender, content);
    }

    fn hear_reply(&mut self, event: &Value, ledger: &mut Ledger) {
        let id = event["id"].as_str().unwrap_or_else(|| panic!("{event} has no id")).to_owned();
        let Some(what) = self.waits.remove(&id) else {
            panic!("client {} did not wait for {event}", self.number);
        };
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "error" {
            return self.hear_error(what, id, event, ledger);
        }
        match (what, kind) {
            (What::Hello { resumes }, "welcome") => {
                self.nickname = event["nickname"].as_str().map(str::to_owned);
                self.token = event["resume"].as_str().map(str::to_owned);
                let is_resumed = event["resumed"] == true;
                assert!(resumes || !is_resumed);
                let node = self.connection.expect("it hears").0;
                if node != self.last_node && is_resumed {
                    ledger.count("resumed_elsewhere");
                    if ledger.forgets > 0 {
                        self.perhaps_in.extend(self.left.iter().cloned());
                    }
                }
                // Another node may have taken the session, as the backplane had it, before this one got it, or got it back.
                let has_asked_elsewhere = std::mem::take(&mut self.has_asked_elsewhere);
                self.may_be_taken |= has_asked_elsewhere;
                if self.may_be_taken && is_resumed {
                    self.forget_leaves();
                }
                if !is_resumed {
                    self.kept.clear();
                    self.again.clear();
                }
                if is_resumed {
                    *ledger.resumes.entry(self.name()).or_default() += 1;
                }
                self.last_node = node;
            }
            (What::Join { room, since }, "joined") => {
                let (epoch, offset) = (event["epoch"].as_str().unwrap(), event["offset"].as_u64().unwrap());
                let mut next = offset + 1;
                match (&since, event["recovered"].as_bool()) {
                    (Some((since_epoch, since)), Some(true)) => {
                        assert_eq!(since_epoch, epoch, "recovered over an epoch");
                        assert!(*since <= offset, "recovered from the future: {event}");
                        next = since + 1;
                        ledger.count("recovered");
                        ledger.count("recovered_elsewhere");
                    }
                    (Some(_), Some(false)) => ledger.count("not_recovered"),
                    (None, None) => {}
                    other => panic!("{other:?}: {event}"),
                }
                let membership = Membership { epoch: epoch.into(), next, hears_itself: true };
                self.left_on.remove(&room);
                self.left.remove(&room);
                self.perhaps_in.remove(&room);
                self.rooms.insert(room, membership);
            }
            (What::Leave { room }, "left") => {
                self.rooms.remove(&room);
                self.left.insert(room.clone());
                let node = self.connection.expect("it hears").0;
                if ledger.cut_off.contains(&node) || self.may_be_taken {
                    self.left_on.insert(room, node);
                }
            }
            (What::Message { room, content, forgets }, "ack") => {
                ledger.count("acks");
                let (epoch, offset) = (event["epoch"].as_str().unwrap(), event["offset"].as_u64().unwrap());
                ledger.acks.push((room, epoch.into(), offset, content, [forgets, ledger.forgets]));
            }
            (What::Private { .. }, "ack") => {
                if event["delivered"].as_u64() > Some(0) {
                    ledger.count("private_delivered");
                } else {
                    assert_eq!(event["stored"], true, "{event}");
                    ledger.count("private_stored");
                }
            }
            (What::Members { room }, "members") => {
                let members = event["members"].as_array().unwrap().iter().map(|member| {
                    let text = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
                    (text("nickname"), text("role"), member["connected"] == true)
                });
                self.told_members.insert(room, members.collect());
            }
            (What::History { room }, "history") => {
                let epoch = event["epoch"].as_str().unwrap();
                let mut last = None;
                for message in event["messages"].as_array().unwrap() {
                    let offset = message["offset"].as_u64().unwrap();
                    assert!(last.is_none_or(|last| last + 1 == offset), "a hole in {event}");
                    last = Some(offset);
                    let (sender, content) =
                        (message["sender"].as_str().unwrap(), message["content"].as_str().unwrap());
                    ledger.place(&room, epoch, offset, sender, content);
                }
            }
            (What::Broadcast { content }, "ack") => {
                ledger.count("broadcasts");
                let sessions = event["sessions"].as_u64().expect("how many have heard it");
                let heard = ledger.broadcasts[&content].heard.len() as u64;
                if sessions > 1 {
                    ledger.count("broadcasts_heard");
                }
                // Others hear it from nodes of which nothing comes back in time, or on connections that are broken already.
                assert!(sessions > 0 || heard > 0, "not even its sender has heard {content}");
            }
            (What::Other, "ack") | (What::Ping, "pong") => {}
            (what, _) => panic!("client {}: {event} in answer to {what:?}", self.number),
        }
    }

    fn hear_error(&mut self, what: What, id: String, event: &Value, ledger: &mut Ledger) {
        let reason = event["reason"].as_str().unwrap_or_default();
        match (&what, reason) {
            (_, "backplane_down") | (What::Hello { .. }, "unavailable") => {
                ledger.count("refused_down");
                match what {
                    What::Message { .. } | What::Private { .. } => self.again.push((id, what)),
                    What::Join { room, since } => {
                        let (epoch, offset) = since.unwrap_or(("?".into(), 0));
                        let membership = Membership { epoch, next: offset + 1, hears_itself: true };
                        self.kept.insert(room, membership);
                    }
                    What::Members { .. } | What::History { .. } => {}
                    _ => {}
                }
            }
            // The node is being replaced.
            (What::Hello { .. }, "draining") if ledger.counts.contains_key("upgrades_begun") => {}
            // Whoever has lost its sessions with the data of the backplane may have as many as there may be.
            (What::Hello { .. }, "nickname_in_use" | "too_many_connections") => {}
            (What::Private { .. }, "no_such_user" | "unavailable") => {}
            // Perhaps not everybody has heard it.
            (What::Broadcast { .. }, "unavailable") => ledger.count("broadcasts_unanswered"),
            (What::Message { .. }, "muted" | "forbidden" | "not_a_member") => {}
            (What::Join { room, .. }, "already_joined") => panic!("client {} is in {room}", self.number),
            (What::Other, "forbidden" | "no_such_user" | "bad_request" | "muted" | "not_a_member") => {}
            (What::Leave { .. } | What::History { .. }, "not_a_member" | "no_such_room") => {}
            (What::Members { room }, "no_such_room") => {
                drop(self.told_members.insert(room.clone(), Vec::new()))
            }
            _ => panic!("client {}: {event} in answer to {what:?}", self.number),
        }
    }

    /// It has heard all that there is in its rooms.
    pub fn check_rest(&self, positions: &BTreeMap<String, (Arc<str>, Position)>, _ledger: &Ledger) {
        let known: BTreeSet<&String> = positions.keys().collect();
        for (room, membership) in &self.rooms {
            assert!(known.contains(room), "client {} is in {room}, which is nowhere", self.number);
            let (epoch, position) = &positions[room];
            let heard = (membership.epoch.as_str(), membership.next - 1);
            assert_eq!(heard, (&**epoch, position.offset), "client {} in {room}", self.number);
        }
    }
}
