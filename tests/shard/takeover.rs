//! Sessions that go on on another node.

use serde_json::{Value, json};
use starling::auth::resume::{ResumeKey, Ticket};
use starling::base::slots::Id;
use starling::chat::name::Nickname;
use starling::chat::user::SessionRef;
use starling::config::ListenKind;
use starling::shard::backplane::{
    Ask, BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, LogEntry, NodeMessage, OpenedRoom, Position,
    RoomOp, TakeOutcome,
};
use starling::shard::mail::Mail;

use crate::cores::{Client, Cores};

/// Another node, and one of its sessions.
const OTHER: u32 = 9;
const ELSEWHERE: SessionRef = SessionRef { node: OTHER, core: 0, session: Id { index: 3, generation: 1 } };

/// A session that is to be kept: its revision, whether it is given up, and whether somebody waits for that.
type Kept = (u64, bool, bool);

/// A node of one core, and the backplane, which does what it is asked at once.
struct Node {
    cores: Cores,
    /// The number of the last session that was kept, where it was, and how all were.
    number: u64,
    session: SessionRef,
    kept: Vec<Kept>,
    /// What becomes of sessions that are kept, where somebody waits for that; `None`: nobody knows yet.
    outcome: Option<Result<bool, Failed>>,
    /// What becomes of the wish to take a session.
    taken: Option<TakeOutcome>,
    forgotten: Vec<u64>,
    /// The sessions that have the nickname which somebody writes to.
    found: Vec<SessionRef>,
    /// Whether rooms answer, and how far they have got.
    is_answering: bool,
    unanswered: Vec<BackplaneRequest>,
    change: u64,
    /// Who is in a room from before.
    members: Vec<RoomOp>,
}

impl Node {
    fn new() -> Self {
        Node {
            cores: Cores::node(|config| config.drain.timeout_ms = 1_000),
            number: 0,
            session: ELSEWHERE,
            kept: Vec::new(),
            outcome: None,
            taken: None,
            forgotten: Vec::new(),
            found: Vec::new(),
            is_answering: true,
            unanswered: Vec::new(),
            change: 1,
            members: Vec::new(),
        }
    }

    fn settle(&mut self) {
        while let Some((core, mail)) = self.cores.asked.pop_front() {
            let Mail::BackplaneRequest { request, .. } = mail else { continue };
            for news in self.answer(request) {
                self.cores.mail(usize::from(core), Mail::Backplane(news));
            }
        }
    }

    fn answer(&mut self, request: BackplaneRequest) -> Vec<BackplaneNews> {
        let position = Position { change: self.change, offset: 0 };
        match request {
            BackplaneRequest::Claim { wait, nickname, session, .. } => {
                vec![BackplaneNews::Claimed { wait, nickname, session, outcome: Ok(ClaimOutcome::Granted) }]
            }
            BackplaneRequest::Find { wait, nickname } => {
                let found = Some((nickname, self.found.clone()));
                vec![BackplaneNews::Found { wait, outcome: Ok(found) }]
            }
            BackplaneRequest::Open { room, .. } if self.is_answering => {
                let folded = room.folded().into();
                let ops = self.members.clone();
                let entry = LogEntry::Change { position, timestamp_ms: 0, node: OTHER, tag: 1, ops };
                let opened = OpenedRoom {
                    room,
                    epoch: "e".into(),
                    position,
                    timestamp_ms: 0,
                    first_kept: 1,
                    snapshot: None,
                    entries: vec![entry],
                    is_doubtful: false,
                };
                let outcome = Ok(Some(Box::new(opened)));
                vec![BackplaneNews::Opened { room: folded, outcome, is_catch_up: false }]
            }
            BackplaneRequest::Open { .. } | BackplaneRequest::Append(_) if !self.is_answering => {
                self.unanswered.push(request);
                Vec::new()
            }
            BackplaneRequest::Append(append) => {
                self.change += 1;
                let position = Position { change: self.change, offset: 0 };
                let (room, epoch, tag) = (append.at.room, append.at.epoch, append.tag);
                let entry = LogEntry::Change { position, timestamp_ms: 0, node: 1, tag, ops: append.ops };
                vec![
                    BackplaneNews::Appended {
                        room: room.clone(),
                        epoch: epoch.clone(),
                        tag,
                        outcome: Ok(position),
                    },
                    BackplaneNews::Entries { room, epoch, entries: vec![entry] },
                ]
            }
            BackplaneRequest::KeepSession { number, session, revision, wait, is_given_up, .. } => {
                (self.number, self.session) = (number, session);
                self.kept.push((revision, is_given_up, wait.is_some()));
                let outcome = self.outcome.zip(wait);
                outcome.map(|(outcome, wait)| BackplaneNews::Kept { wait, outcome }).into_iter().collect()
            }
            BackplaneRequest::ForgetSession { number, .. } => {
                self.forgotten.push(number);
                Vec::new()
            }
            BackplaneRequest::TakeSession { wait, number, session, .. } => {
                self.session = session;
                let taken = self.taken.clone();
                let news = |outcome| BackplaneNews::Taken { wait, number, session, outcome: Ok(outcome) };
                taken.map(news).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn say(&mut self, client: Client, line: &Value) {
        self.cores.say(client, &line.to_string());
        self.settle();
    }

    fn pass(&mut self, ms: u64) {
        self.cores.pass(ms);
        self.settle();
    }

    /// Somebody says hello, and how it is answered, if it is.
    fn hello(&mut self, hello: &Value) -> (Client, Vec<Value>) {
        let client = self.cores.connect(0, ListenKind::Line);
        self.say(client, hello);
        let events = self.cores.events(client);
        (client, events)
    }

    fn enter(&mut self, nickname: &str, rooms: &[&str]) -> (Client, Value) {
        let (client, mut events) = self.hello(&json!({ "type": "hello", "nickname": nickname }));
        let welcome = events.remove(0);
        for room in rooms {
            self.say(client, &json!({ "type": "join", "room": room }));
        }
        assert_eq!(self.cores.told(client, "joined", "room").len(), rooms.len());
        (client, welcome)
    }

    /// The other node wants the session that was kept last.
    fn is_wanted(&mut self) {
        let ask = Ask { core: ELSEWHERE.core, wait: ELSEWHERE.session };
        let message = Box::new(NodeMessage::GiveUp { number: self.number, ask });
        self.cores.mail(0, Mail::Backplane(BackplaneNews::Told { from: OTHER, message }));
        self.settle();
    }

    fn kept(&mut self) -> Vec<Kept> {
        std::mem::take(&mut self.kept)
    }
}

#[test]
fn a_session_that_may_have_been_given_up_is_taken_back_until_it_is_known() {
    let mut node = Node::new();
    let (ann, welcome) = node.enter("ann", &["den"]);
    assert_eq!(node.kept(), [(1, false, false), (2, false, false)]);
    node.cores.broken(ann);
    node.settle();
    node.outcome = Some(Err(Failed::Down));
    node.is_wanted();
    assert_eq!(node.kept(), [(3, true, true)]);
    node.pass(499);
    assert_eq!(node.kept(), []);
    node.pass(1);
    assert_eq!(node.kept(), [(4, false, true)]);
    node.outcome = Some(Ok(true));
    node.pass(500);
    assert_eq!(node.kept(), [(4, false, true)], "the same once more");
    assert_eq!(node.cores.total(|counters| &counters.away), 1);
    // It stays, and goes on here.
    let resume = json!({ "type": "hello", "resume": welcome["resume"] });
    let (ann, events) = node.hello(&resume);
    assert_eq!((&events[0]["type"], &events[0]["resumed"]), (&json!("welcome"), &json!(true)));
    assert_eq!(node.kept(), [(5, false, false)]);
    node.say(ann, &json!({ "type": "quit" }));
    assert_eq!(node.forgotten, [node.number]);
}

#[test]
fn who_is_on_the_way_to_another_node_cannot_be_written_to_meanwhile() {
    let mut node = Node::new();
    let (bob, _) = node.enter("bob", &[]);
    let (carol, _) = node.enter("carol", &[]);
    node.found = vec![node.session];
    // Nobody knows yet whether it has been: it is on its way.
    node.is_wanted();
    assert_eq!(node.cores.told(carol, "bye", "code"), [4103]);
    node.say(bob, &json!({ "type": "private", "target": "carol", "content": "psst", "id": "1" }));
    for _ in 0..20 {
        node.pass(100);
    }
    let events = node.cores.events(bob);
    let [refused] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (&refused["reason"], &refused["retry_after_ms"]),
        (&json!("unavailable"), &json!(250)),
        "{refused}"
    );
    assert_eq!(node.cores.total(|counters| &counters.private_kept), 0);
}

#[test]
fn who_comes_back_while_it_is_not_known_whether_the_session_stays_waits_for_that() {
    let mut node = Node::new();
    let (ann, welcome) = node.enter("ann", &[]);
    node.cores.broken(ann);
    node.settle();
    node.is_wanted();
    let resume = json!({ "type": "hello", "resume": welcome["resume"] });
    let (early, events) = node.hello(&resume);
    assert_eq!(events, [json!(null); 0]);
    let mut waited = 0;
    let refused = loop {
        node.pass(1);
        waited += 1;
        assert!(waited <= 10_000, "it is answered");
        if let Some(answer) = node.cores.events(early).pop() {
            break answer;
        }
    };
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!(503)), "{refused}");
    let (late, events) = node.hello(&resume);
    assert_eq!(events, [json!(null); 0]);
    node.outcome = Some(Ok(true));
    node.pass(500);
    assert_eq!(node.cores.told(late, "welcome", "resumed"), [true]);
}

#[test]
fn a_drain_waits_for_answers_to_those_who_can_come_back_and_for_nobody_else() {
    let mut node = Node::new();
    node.enter("ann", &[]);
    let ann = node.number;
    let (bea, _) = node.enter("bea", &["den"]);
    let (dora, _) = node.enter("dora", &[]);
    let doras = node.number;
    let tom = node.cores.connect(0, ListenKind::Line);
    node.cores.say(tom, "tom");
    node.settle();
    node.kept();
    // Two are ending, one is to go on from a session elsewhere, and one is on its way into a room. The backplane does not answer.
    node.is_answering = false;
    let fay = Ticket { session: 99, nickname: Nickname::parse("fay").expect("a nickname"), claims: None };
    let resume = ResumeKey::new([0; 32]).issue(&fay);
    let (fay, events) = node.hello(&json!({ "type": "hello", "resume": resume }));
    assert_eq!(events, [json!(null); 0]);
    node.cores.broken(fay);
    node.say(bea, &json!({ "type": "quit" }));
    node.cores.broken(tom);
    node.say(dora, &json!({ "type": "join", "room": "attic" }));
    node.cores.broken(dora);
    node.settle();
    node.cores.shards[0].drain();
    node.pass(1);
    node.pass(1_000);
    node.cores.turn();
    node.settle();
    assert_eq!(
        (node.number, node.kept()),
        (ann, vec![(2, true, false)]),
        "nobody waits for it, and once is enough"
    );
    assert!(!node.cores.shards[0].is_over());
    // Only what dora waits for is answered.
    node.is_answering = true;
    for request in std::mem::take(&mut node.unanswered) {
        if matches!(request, BackplaneRequest::Open { .. }) {
            for news in node.answer(request) {
                node.cores.mail(0, Mail::Backplane(news));
            }
        }
    }
    node.settle();
    assert_eq!((node.number, node.kept().last()), (doras, Some(&(3, true, false))));
    assert!(node.cores.shards[0].is_over());
}

#[test]
fn only_what_has_been_kept_is_forgotten() {
    let mut node = Node::new();
    let tom = node.cores.connect(0, ListenKind::Line);
    node.cores.say(tom, "tom");
    node.settle();
    node.cores.say(tom, "/quit");
    node.settle();
    assert!(node.cores.is_over(tom));
    assert_eq!((node.kept(), &node.forgotten[..]), (vec![], &[][..]));
}

/// Somebody comes from the other node, with what it has left there, and what it hears.
fn come(body: &Value, is_answering: bool) -> (Node, Client, Vec<Value>) {
    let mut node = Node::new();
    let nickname = Nickname::parse("ann").expect("a nickname");
    node.members = vec![RoomOp::Join { session: ELSEWHERE, nickname: nickname.clone(), is_admin: false }];
    node.taken =
        Some(TakeOutcome::Taken { old: ELSEWHERE, places: vec![], revision: 5, body: body.to_string() });
    node.is_answering = is_answering;
    let resume = ResumeKey::new([0; 32]).issue(&Ticket { session: 77, nickname, claims: None });
    let (client, events) = node.hello(&json!({ "type": "hello", "resume": resume }));
    (node, client, events)
}

#[test]
fn who_comes_from_another_node_is_welcomed_when_it_is_in_its_rooms_and_told_what_was_kept_after_that() {
    let body = json!({
        "nickname": "ann",
        "rooms": [{ "room": "den", "echo": true }],
        "inbox_offset": 3,
        "inbox": [{ "type": "private", "offset": 3, "sender": "bob", "target": "ann", "content": "kept", "timestamp_ms": 5 }],
    });
    let (_, _, events) = come(&body, false);
    assert_eq!(events, [json!(null); 0], "the room has not answered");
    let (mut node, client, events) = come(&body, true);
    let kinds: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["welcome", "private"], "{events:?}");
    assert_eq!((&events[0]["resumed"], &events[1]["offset"]), (&json!(true), &json!(3)));
    assert_eq!(node.kept(), [(6, false, false)], "others are told where it is now");
    node.say(client, &json!({ "type": "join", "room": "den" }));
    assert_eq!(node.cores.told(client, "joined", "members"), [1]);
}

#[test]
fn places_in_an_inbox_go_on_on_another_node_and_words_without_a_place_come_along() {
    let word = json!({ "type": "system", "sender": "ops", "content": "soon", "timestamp_ms": 5 });
    let body = json!({ "nickname": "ann", "rooms": [], "inbox": [word] });
    let (_, _, events) = come(&body, true);
    let kinds: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["welcome", "system"], "{events:?}");
    let (mut node, client, events) =
        come(&json!({ "nickname": "ann", "rooms": [], "inbox_offset": 3 }), true);
    node.cores.broken(client);
    node.settle();
    node.found = vec![node.session];
    let (bob, _) = node.enter("bob", &[]);
    node.say(bob, &json!({ "type": "private", "target": "ann", "content": "psst", "id": "1" }));
    assert_eq!(node.cores.told(bob, "ack", "stored"), [true]);
    let (_, again) = node.hello(&json!({ "type": "hello", "resume": events[0]["resume"] }));
    assert_eq!((&again[1]["type"], &again[1]["offset"]), (&json!("private"), &json!(4)), "{again:?}");
}
