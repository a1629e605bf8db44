//! Strangers: they do what the clients of the model do not. They show tokens, good and bad, ask over HTTP, break the rules of their
//! transports, put each other out, and say things to everybody as admins do. They keep to rooms and nicknames of their own, so that
//! they are in nobody's way; of what they hear it is checked that it may be the answer to what they have asked.

use serde_json::{Value, json};
use starling::auth::Authority;
use starling::auth::Claims;
use starling::auth::api_key::ApiKeys;
use starling::auth::jwt::{KeySource, Options, Signer, Verifier};
use starling::auth::resume::ResumeKey;
use starling::base::rng::Rng;
use starling::chat::name::Nickname;
use starling::config::JwtAlgorithm;
use starling::proto::frame;
use starling::proto::wire::COMMANDS;

use crate::client::Terms;
use crate::coverage::Part;
use crate::faults::{happens, pick};
use crate::kernel::{Kernel, Received};
use crate::model::Model;
use crate::wire;

/// What tokens are signed with.
const SECRET: &str = "of the simulator, among strangers";

/// What the names of their rooms and their nicknames begin with, and those of nobody else.
pub const PREFIX: &str = "odd-";

const ROOMS: [&str; 2] = ["odd-0", "odd-1"];

/// How many users there are among them.
const USERS: u64 = 2;

/// How they come. Each way has a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Lines,
    Requests,
    WebSocket,
    Stream,
    Frames,
}

impl Way {
    /// The number of its listener.
    fn listener(self, frames: usize) -> usize {
        match self {
            Way::Lines => 0,
            Way::Requests | Way::WebSocket | Way::Stream => 1,
            Way::Frames => frames,
        }
    }
}

/// Who somebody says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Guest,
    User,
    Admin,
}

/// What is waited for: the words or statuses that may answer, and the id if there is one.
#[derive(Debug)]
struct Asked {
    what: String,
    id: Option<String>,
    answers: Vec<&'static str>,
}

/// One of them, visit after visit.
pub struct Stranger {
    number: usize,
    conn: usize,
    /// Connections that it has left: what it said last on them is still on its way.
    left: Vec<usize>,
    way: Way,
    who: Who,
    is_welcome: bool,
    is_upgraded: bool,
    /// Whether it has broken the rules of its transport, and is to be sent away for it.
    has_broken: bool,
    has_token_that_ends: bool,
    is_over: bool,
    has_ended: bool,
    input: Vec<u8>,
    asked: Vec<Asked>,
    sequence: u64,
    visits: u64,
}

/// What tokens are checked with, where there are strangers.
pub fn authority() -> Authority {
    let verifier = Verifier::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET), None, None);
    Authority {
        verifier: Some(verifier.expect("a secret verifies")),
        accounts: None,
        api_keys: ApiKeys::default(),
        resume: ResumeKey::new([0; 32]),
        reading: 0,
    }
}

fn token(nickname: &str, is_admin: bool, rooms: Option<Vec<String>>, expires_at_ms: Option<u64>) -> String {
    let signer = Signer::new(JwtAlgorithm::Hs256, KeySource::Secret(SECRET)).expect("a secret signs");
    let nickname = Nickname::parse(nickname).expect("a nickname");
    let claims =
        Claims { nickname, is_admin, rooms, tags: vec!["odd".into()], expires_at_ms, account_at_ms: None };
    signer.sign(&claims, &Options::default()).expect("a secret signs")
}

/// One of the users, of whom each may be here several times.
fn user(rng: &mut Rng) -> String {
    format!("odd-user-{}", rng.below(USERS))
}

/// Somebody who may be let in or not, and what may be said to that.
struct Shown {
    token: Option<String>,
    /// The reason of the refusal, if it is no good.
    refused: Option<&'static str>,
    is_admin: bool,
}

impl Stranger {
    /// Comes for the first time.
    pub fn begin(number: usize, kernel: &mut Kernel, core: usize, frames: usize) -> Stranger {
        let mut stranger = Stranger {
            number,
            conn: 0,
            left: Vec::new(),
            way: Way::Lines,
            who: Who::Guest,
            is_welcome: false,
            is_upgraded: false,
            has_broken: false,
            has_token_that_ends: false,
            is_over: true,
            has_ended: false,
            input: Vec::new(),
            asked: Vec::new(),
            sequence: 0,
            visits: 0,
        };
        stranger.visit(kernel, core, frames);
        stranger
    }

    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Comes on another connection.
    pub fn visit(&mut self, kernel: &mut Kernel, core: usize, frames: usize) {
        assert!(self.is_over, "one at a time");
        let ways =
            [Way::Lines, Way::Lines, Way::Requests, Way::Requests, Way::WebSocket, Way::Stream, Way::Frames];
        self.way = pick(&mut kernel.rng, &ways);
        self.who = pick(&mut kernel.rng, &[Who::Guest, Who::Guest, Who::User, Who::User, Who::Admin]);
        self.conn = kernel.connect(core, self.way.listener(frames));
        let (number, way, conn) = (self.number, self.way, self.conn);
        kernel.trace.note(&[70, number as u64, core as u64], || {
            format!("stranger {number} comes to core {core} as conn {conn}, by {way:?}")
        });
        (self.is_welcome, self.is_upgraded, self.has_broken) = (false, false, false);
        (self.is_over, self.has_ended, self.has_token_that_ends) = (false, false, false);
        self.input.clear();
        self.asked.clear();
        self.visits += 1;
    }

    /// Does something, and hears.
    pub fn act(&mut self, kernel: &mut Kernel, model: &mut Model, terms: &Terms, chunk_bytes: usize) {
        if happens(&mut kernel.rng, kernel.faults.network_reset) {
            kernel.reset(self.conn);
        }
        if !self.has_ended && !self.has_broken && self.asked.len() < 3 && kernel.rng.chance(60) {
            match self.way {
                Way::Lines => self.say(kernel, model, terms),
                Way::Requests => self.request(kernel, model),
                Way::WebSocket => self.speak_web(kernel, model),
                Way::Stream => self.stream(kernel, model),
                Way::Frames => self.say_frame(kernel, model),
            }
        }
        // Who listens stays for longer.
        if happens(&mut kernel.rng, if self.way == Way::Stream { 4 } else { 20 }) {
            self.leave(kernel);
        }
        let most = 1 + kernel.rng.below(chunk_bytes as u64) as usize;
        self.deliver(kernel, most);
        let most = 1 + kernel.rng.below(4096) as usize;
        self.listen(kernel, model, terms, most);
    }

    /// Lets everything through. Returns whether anything happened.
    pub fn pump(&mut self, kernel: &mut Kernel, model: &mut Model, terms: &Terms) -> bool {
        let arrived = self.deliver(kernel, usize::MAX);
        self.listen(kernel, model, terms, usize::MAX) || arrived
    }

    /// Goes, in order or not.
    pub fn leave(&mut self, kernel: &mut Kernel) {
        if self.is_over {
            return;
        }
        match kernel.rng.chance(50) {
            true => {
                kernel.reset(self.conn);
                self.end_visit();
            }
            false if !self.has_ended => {
                kernel.end_input(self.conn);
                self.has_ended = true;
            }
            false => {}
        }
    }

    fn end_visit(&mut self) {
        self.is_over = true;
        self.left.push(self.conn);
    }

    fn deliver(&mut self, kernel: &mut Kernel, most: usize) -> bool {
        let mut has_arrived = kernel.deliver(self.conn, most);
        for conn in &self.left {
            has_arrived |= kernel.deliver(*conn, most);
            has_arrived |= matches!(kernel.receive(*conn, most), Received::Bytes(_));
        }
        has_arrived
    }

    fn send(&self, kernel: &mut Kernel, bytes: &[u8]) {
        let number = self.number;
        kernel.trace.note(&[71, number as u64, bytes.len() as u64], || {
            format!("stranger {number} says {}", bytes.escape_ascii())
        });
        kernel.send(self.conn, bytes);
        kernel.note_words(self.conn);
    }

    /// A token as it is shown, or none, good or bad.
    fn show(&mut self, kernel: &mut Kernel) -> Shown {
        let now_ms = kernel.clock_ms + kernel.unix_offset_ms;
        let refused =
            |token: String, reason| Shown { token: Some(token), refused: Some(reason), is_admin: false };
        match (kernel.rng.below(10), self.who) {
            (0, _) => refused("no.token.atall".into(), "bad_token"),
            (1, _) => {
                refused(token("odd-late", false, None, Some(now_ms.saturating_sub(200_000))), "expired_token")
            }
            (_, Who::Guest) => Shown { token: None, refused: Some("unauthenticated"), is_admin: false },
            (2 | 3, Who::User) => {
                self.has_token_that_ends = true;
                // To the second.
                let at_ms = now_ms + 1000 + kernel.rng.below(3000);
                let shown = token(&user(&mut kernel.rng), false, None, Some(at_ms));
                Shown { token: Some(shown), refused: None, is_admin: false }
            }
            (_, Who::User) => {
                let rooms = kernel.rng.chance(20).then(|| vec!["odd-1".to_owned()]);
                let shown = token(&user(&mut kernel.rng), false, rooms, None);
                Shown { token: Some(shown), refused: None, is_admin: false }
            }
            (_, Who::Admin) => {
                let shown = token(&format!("odd-admin-{}", self.number), true, None, None);
                Shown { token: Some(shown), refused: None, is_admin: true }
            }
        }
    }

    fn ask(&mut self, what: String, id: Option<String>, answers: &[&'static str]) {
        self.asked.push(Asked { what, id, answers: answers.to_vec() });
    }

    /// Says a command, in a line.
    fn say(&mut self, kernel: &mut Kernel, model: &mut Model, terms: &Terms) {
        // One after the other: what may be answered depends on what was.
        if !self.asked.is_empty() {
            return;
        }
        let (mut object, answers) = match self.is_welcome {
            false => self.hello(kernel),
            true => self.command(kernel, terms),
        };
        model.tally.said(&object);
        if !answers.is_empty() {
            self.sequence += 1;
            let id = format!("s{}", self.sequence);
            object["id"] = json!(id);
            self.ask(object.to_string(), Some(id), &answers);
        }
        self.send(kernel, format!("{object}\n").as_bytes());
    }

    fn hello(&mut self, kernel: &mut Kernel) -> (Value, Vec<&'static str>) {
        match kernel.rng.below(12) {
            0 => (json!({"type": "hello"}), vec!["bad_request"]),
            1 => (json!({"type": "hello", "nickname": "not a name"}), vec!["bad_name"]),
            2 => (json!({"type": "hello", "resume": "nonsense"}), vec!["bad_token"]),
            3 => (json!({"type": "history", "room": ROOMS[0]}), vec!["unauthenticated"]),
            _ => {
                let shown = self.show(kernel);
                match (shown.token, shown.refused) {
                    (Some(token), Some(refused)) => (json!({"type": "hello", "token": token}), vec![refused]),
                    (Some(token), None) => (
                        json!({"type": "hello", "token": token}),
                        vec!["welcome", "nickname_in_use", "too_many_connections", "expired_token"],
                    ),
                    (None, _) => {
                        let nickname = format!("odd-{}-{}", self.number, self.visits);
                        (json!({"type": "hello", "nickname": nickname}), vec!["welcome", "nickname_in_use"])
                    }
                }
            }
        }
    }

    fn command(&mut self, kernel: &mut Kernel, terms: &Terms) -> (Value, Vec<&'static str>) {
        let rng = &mut kernel.rng;
        let room = pick(rng, &ROOMS);
        const NO_MEMBER: [&str; 2] = ["not_a_member", "no_such_room"];
        let mut answers = NO_MEMBER.to_vec();
        let object = match rng.below(20) {
            0..4 => {
                answers = vec!["joined", "already_joined", "too_many_rooms", "banned"];
                json!({"type": "join", "room": room})
            }
            4 => {
                answers = vec!["bad_name"];
                json!({"type": "join", "room": "no such name!"})
            }
            5 | 6 => {
                answers.extend(["ack", "muted", "forbidden"]);
                json!({"type": "message", "room": room, "content": format!("odd {}", self.sequence)})
            }
            7 => {
                match terms.has_store {
                    true => answers.extend(["ack", "muted", "forbidden"]),
                    false => answers = vec!["ack_unavailable", "not_a_member", "no_such_room"],
                }
                json!({"type": "message", "room": room, "content": "odd", "ack": "synced"})
            }
            8 => {
                answers.push("bad_request");
                json!({"type": "message", "room": room, "content": "", "ack": "at once"})
            }
            9 => {
                answers = vec![if self.who == Who::Admin { "ack" } else { "forbidden" }, "unavailable"];
                json!({"type": "broadcast", "content": "odd, to all"})
            }
            10 | 11 => {
                answers.extend(["ack", "forbidden", "no_such_user", "bad_request"]);
                let kind = pick(rng, &["kick", "ban", "ban", "unban", "unban", "mute", "unmute"]);
                let target = user(rng);
                json!({"type": kind, "room": room, "target": target})
            }
            12 => {
                answers.extend(["left"]);
                json!({"type": "leave", "room": room})
            }
            13 => {
                answers = vec!["members", "no_such_room", "forbidden"];
                json!({"type": "members", "room": room})
            }
            14 => {
                answers = vec!["history", "no_such_room", "forbidden", "not_a_member"];
                json!({"type": "history", "room": room})
            }
            15 => {
                answers = vec!["ack", "nickname_in_use", "forbidden"];
                json!({"type": "nick", "nickname": format!("odd-{}-{}", self.number, self.sequence)})
            }
            16 => {
                answers = vec!["bad_name"];
                json!({"type": "private", "target": "not a name", "content": "odd"})
            }
            17 => return (json!({"type": "pong"}), Vec::new()),
            18 => {
                answers = vec!["rooms"];
                json!({"type": "rooms"})
            }
            _ if rng.chance(20) => {
                answers = vec!["bye"];
                json!({"type": "quit"})
            }
            _ => {
                answers = vec!["pong"];
                json!({"type": "ping"})
            }
        };
        // Some tokens are for one room.
        answers.extend((self.who == Who::User && object["room"].is_string()).then_some("forbidden"));
        (object, answers)
    }

    /// Asks for something over HTTP.
    fn request(&mut self, kernel: &mut Kernel, model: &Model) {
        let shown = self.show(kernel);
        let rng = &mut kernel.rng;
        let room = pick(rng, &ROOMS);
        let content = r#"{"content":"odd, by HTTP"}"#;
        // Each with what it may be answered if whoever asks is let in, and whether it has to show who it is.
        let (method, path, body, statuses, has_to_show): (&str, String, Option<&str>, &[&'static str], bool) =
            match rng.below(22) {
                0 => ("GET", "/health".into(), None, &["200"], false),
                1 => ("GET", "/ready".into(), None, &["200"], false),
                2 => ("GET", "/metrics".into(), None, &["200", "403", "404"], false),
                3 => ("GET", "/nowhere".into(), None, &["404"], false),
                4 => ("PUT", "/health".into(), None, &["405", "411"], false),
                5 => ("BREW", "/health".into(), None, &["501"], false),
                6 => ("GET", "/echo".into(), None, &["426"], false),
                7 => ("GET", "/dashboard/live".into(), None, &["426", "401", "403"], false),
                8 => (
                    "POST",
                    "/api/login".into(),
                    Some(r#"{"username":"odd","password":"odd odd odd"}"#),
                    &["404"],
                    false,
                ),
                9 => ("POST", "/api/register".into(), Some("{}"), &["404"], false),
                21 => ("GET", "/openapi.json".into(), None, &["200"], false),
                10 => ("OPTIONS", "/api/rooms".into(), None, &["204"], false),
                11 => ("GET", "/api/rooms".into(), None, &["200"], true),
                12 => ("GET", format!("/api/rooms/{room}/members"), None, &["200", "404", "403"], true),
                13 => ("GET", format!("/api/rooms/{room}/history"), None, &["200", "404", "403"], true),
                14 => ("GET", "/api/rooms/no!name/history".into(), None, &["400"], true),
                15 | 16 => (
                    "POST",
                    format!("/api/rooms/{room}/messages"),
                    Some(content),
                    &["200", "404", "403"],
                    true,
                ),
                17 => {
                    ("POST", format!("/api/rooms/{room}/messages"), Some("{}"), &["400", "404", "403"], true)
                }
                18 => (
                    "POST",
                    "/api/broadcast".into(),
                    Some(content),
                    if shown.is_admin { &["200"] } else { &["403"] },
                    true,
                ),
                _ => {
                    let path = format!("/api/sessions/{}", user(rng));
                    ("DELETE", path, None, if shown.is_admin { &["204", "404"] } else { &["403"] }, true)
                }
            };
        let mut answers = statuses.to_vec();
        let has_bad_key = has_to_show && rng.chance(5);
        let is_refused = shown.refused.is_some() || has_bad_key;
        // Guests may read.
        let is_guest = method == "GET" && shown.token.is_none() && !has_bad_key;
        if has_to_show && is_refused && !is_guest {
            answers = vec!["401"];
        } else if has_to_show && self.has_token_that_ends {
            answers.push("401");
        }
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: odd\r\n");
        match shown.token.filter(|_| has_to_show && !has_bad_key) {
            Some(token) => head.push_str(&format!("Authorization: Bearer {token}\r\n")),
            None if has_bad_key => head.push_str("X-API-Key: nobody has given this\r\n"),
            None => {}
        }
        if rng.chance(2) {
            head.push_str("Odd : a space before the colon\r\n");
            (answers, self.has_broken) = (vec!["400"], true);
        }
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let request = format!("{head}\r\n{}", body.unwrap_or_default());
        model.tally.requested(&path);
        self.ask(format!("{method} {path}"), None, &answers);
        self.send(kernel, request.as_bytes());
    }

    /// Listens to a room by a token, of which others know whose it is.
    fn stream(&mut self, kernel: &mut Kernel, model: &Model) {
        if !self.asked.is_empty() || self.is_upgraded {
            return;
        }
        let shown = self.show(kernel);
        let room = pick(&mut kernel.rng, &ROOMS);
        let path = format!("/api/rooms/{room}/stream");
        let field = shown.token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let answers: &[&'static str] = match shown.refused {
            None | Some("unauthenticated") => &["200", "403", "401", "404"],
            Some(_) => &["401"],
        };
        model.tally.requested(&path);
        self.ask(format!("GET {path}"), None, answers);
        let head = format!("GET {path} HTTP/1.1\r\nHost: odd\r\n{}\r\n", field.unwrap_or_default());
        self.send(kernel, head.as_bytes());
    }

    /// Becomes a WebSocket, and does with it what may not be done.
    fn speak_web(&mut self, kernel: &mut Kernel, model: &mut Model) {
        if !self.asked.is_empty() {
            return;
        }
        if !self.is_upgraded {
            let path = pick(&mut kernel.rng, &["/ws", "/echo"]);
            model.tally.requested(path);
            self.ask(format!("GET {path}"), None, &["101"]);
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: odd\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            return self.send(kernel, request.as_bytes());
        }
        let mut bytes = Vec::new();
        let code = match kernel.rng.below(4) {
            // Not masked.
            0 => {
                bytes.extend([0x81, 0x01, b'x']);
                "1002"
            }
            // Nothing that this could continue.
            1 => {
                wire::put_frame(&mut bytes, 0, true, b"more", &mut kernel.rng);
                "1002"
            }
            2 => {
                wire::put_frame(&mut bytes, wire::TEXT, true, b"\xFF", &mut kernel.rng);
                "1007"
            }
            // A length that nobody would wait for.
            _ => {
                bytes.extend([0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
                "1009"
            }
        };
        self.has_broken = true;
        self.ask(format!("what is closed with {code}"), None, &[code]);
        self.send(kernel, &bytes);
    }

    /// Says a command in a binary frame, or what is none.
    fn say_frame(&mut self, kernel: &mut Kernel, model: &mut Model) {
        if !self.asked.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        if kernel.rng.chance(30) {
            self.has_broken = true;
            bytes.extend(b"no frame at all");
            self.ask("no frame".into(), None, &["bye"]);
        } else {
            self.sequence += 1;
            let id = format!("s{}", self.sequence);
            let object = json!({"type": "ping", "id": id});
            model.tally.said(&object);
            let payload = object.to_string();
            bytes.extend(frame::MAGIC);
            bytes.push(frame::VERSION);
            bytes.extend((payload.len() as u32).to_be_bytes());
            let kind = COMMANDS.iter().position(|name| *name == "ping").expect("a command") as u8 + 1;
            bytes.extend([frame::ENCODING_JSON, kind]);
            bytes.extend(payload.as_bytes());
            self.ask(payload, Some(id), &["pong"]);
        }
        self.send(kernel, &bytes);
    }

    fn listen(&mut self, kernel: &mut Kernel, model: &mut Model, terms: &Terms, most: usize) -> bool {
        if self.is_over {
            return false;
        }
        match kernel.receive(self.conn, most) {
            Received::Nothing => false,
            Received::Bytes(bytes) => {
                self.input.extend(bytes);
                self.understand(kernel, model, terms);
                true
            }
            Received::End => {
                if !self.has_ended {
                    kernel.end_input(self.conn);
                }
                self.end_visit();
                true
            }
            Received::Reset => {
                self.is_over = true;
                true
            }
        }
    }

    fn understand(&mut self, kernel: &mut Kernel, model: &mut Model, terms: &Terms) {
        loop {
            let before = self.input.len();
            match self.way {
                Way::Lines => {
                    if let Some(line) = wire::take_line(&mut self.input) {
                        self.hear_line(model, terms, &line);
                    }
                }
                Way::Frames => {
                    if let Some(event) = take_event(&mut self.input) {
                        self.hear(model, terms, &event);
                    }
                }
                Way::WebSocket if self.is_upgraded => {
                    if let Some((opcode, payload)) = wire::take_frame(&mut self.input, None) {
                        self.hear_frame(kernel, model, terms, opcode, &payload);
                    }
                }
                Way::Stream if self.is_upgraded => self.hear_stream(model),
                Way::Requests | Way::WebSocket | Way::Stream => {
                    if let Some((status, body)) = take_response(&mut self.input) {
                        self.hear_response(model, terms, status, &body);
                    }
                }
            }
            if self.input.len() == before {
                return;
            }
        }
    }

    fn hear_line(&mut self, model: &Model, terms: &Terms, line: &[u8]) {
        match serde_json::from_slice::<Value>(line) {
            Ok(event) => self.hear(model, terms, &event),
            // Who says nothing for too long is greeted like a person, and is told so if it is sent away.
            Err(_) => {
                let text = std::str::from_utf8(line).expect("people read UTF-8");
                assert!(
                    text.starts_with("* ") || text.starts_with("! "),
                    "stranger {} hears {text:?}",
                    self.number
                );
            }
        }
    }

    fn hear(&mut self, model: &Model, terms: &Terms, event: &Value) {
        model.tally.heard(event);
        let kind = event["type"].as_str().expect("an event has a type");
        let Some(id) = event["id"].as_str() else { return self.hear_unasked(model, event) };
        let place = self.asked.iter().position(|asked| asked.id.as_deref() == Some(id));
        let place = place.unwrap_or_else(|| panic!("stranger {} has not asked for {event}", self.number));
        let asked = self.asked.remove(place);
        let word = if kind == "error" { event["reason"].as_str().expect("a reason") } else { kind };
        let is_usual = match word {
            "rate_limited" => terms.has_rates,
            "store_down" | "unavailable" => terms.has_store,
            "draining" => model.may_drain(self.conn),
            _ => false,
        };
        assert!(
            is_usual || asked.answers.contains(&word),
            "stranger {}: {event} in answer to {}, not {:?}",
            self.number,
            asked.what,
            asked.answers
        );
        self.is_welcome |= kind == "welcome";
    }

    /// What comes without having been asked for.
    fn hear_unasked(&mut self, model: &Model, event: &Value) {
        let kind = event["type"].as_str().expect("an event has a type");
        match kind {
            "bye" => {
                let code = event["code"].as_u64().expect("a code");
                let may_be = match code {
                    4100 => self.has_broken,
                    4205 => self.has_token_that_ends,
                    4107 => self.who == Who::User,
                    4300 => model.may_drain(self.conn),
                    1000 | 4104..=4106 | 4201..=4203 => true,
                    _ => false,
                };
                assert!(may_be, "stranger {}: {event}", self.number);
                self.asked.clear();
                self.has_broken = true; // it says no more
            }
            "error" | "system" | "ping" | "private" => {}
            _ => {
                let room = event["room"].as_str().expect("what is left is of rooms");
                assert!(room.starts_with(PREFIX), "stranger {}: {event}", self.number);
            }
        }
    }

    fn hear_frame(&mut self, kernel: &mut Kernel, model: &Model, terms: &Terms, opcode: u8, payload: &[u8]) {
        match opcode {
            wire::CLOSE => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code).to_string());
                let code = code.expect("a server says why");
                let is_asked = self.asked.iter().any(|asked| asked.answers.contains(&&*code));
                // Who says no hello goes, and all go when the server does.
                let is_usual = matches!(&*code, "1001" | "4105" | "4106" | "4300" | "4203" | "4201" | "4202");
                assert!(
                    is_asked || is_usual,
                    "stranger {}: closed with {code}, not {:?}",
                    self.number,
                    self.asked
                );
                (self.has_broken, self.has_ended) = (true, true);
                self.asked.clear();
                kernel.end_input(self.conn);
            }
            wire::TEXT => {
                let event: Value = serde_json::from_slice(payload).expect("an event is JSON");
                self.hear(model, terms, &event);
            }
            wire::PING | wire::PONG => {}
            _ => panic!("a frame with opcode {opcode}"),
        }
    }

    fn hear_stream(&mut self, model: &Model) {
        while let Some(line) = wire::take_line(&mut self.input) {
            let line = std::str::from_utf8(&line).expect("a stream is text");
            // The end: a comment with a code and its word.
            if let Some((code, word)) = line.strip_prefix(": ").and_then(|rest| rest.split_once(' ')) {
                assert!(code.parse::<u16>().is_ok_and(|code| code > 4000), "{line:?}");
                model.tally.count(Part::Farewell, word);
            }
        }
    }

    fn hear_response(&mut self, model: &Model, terms: &Terms, status: u16, body: &[u8]) {
        if status >= 400 {
            model.tally.refused(body);
        }
        let word = status.to_string();
        let is_usual = match status {
            429 => terms.has_rates,
            408 | 503 => true,
            // A stream that ends at once, whoever asks for it.
            200 => self.way == Way::Stream && model.may_drain(self.conn),
            _ => false,
        };
        // A place that there is none, or a request that did not become whole, is said before anything was asked.
        if self.asked.is_empty() {
            assert!(is_usual, "stranger {}: {status}, unasked", self.number);
            return;
        }
        let asked = self.asked.remove(0);
        assert!(
            is_usual || asked.answers.contains(&&*word),
            "stranger {}: {status} {} in answer to {}, not {:?}",
            self.number,
            body.escape_ascii(),
            asked.what,
            asked.answers
        );
        self.is_upgraded = status == 101 || self.way == Way::Stream && status == 200;
    }
}

/// Takes one HTTP response from the front: its status and its body, for an event stream none.
fn take_response(input: &mut Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let head = input.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    if input[..head].windows(17).any(|bytes| bytes == b"text/event-stream") {
        input.drain(..head + 4);
        return Some((200, Vec::new()));
    }
    wire::take_response(input).map(|(status, body, _)| (status, body))
}

/// Takes one binary frame from the front, whose payload is JSON.
fn take_event(input: &mut Vec<u8>) -> Option<Value> {
    let length = input.get(5..9)?;
    assert_eq!(input[..4], frame::MAGIC);
    let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    let payload = input.get(frame::HEADER_BYTES..frame::HEADER_BYTES + length)?;
    let event = serde_json::from_slice(payload).expect("an event is JSON");
    input.drain(..frame::HEADER_BYTES + length);
    Some(event)
}

/// Which room a name is of: theirs, or one of those that the model knows.
pub fn is_theirs(name: &str) -> bool {
    name.starts_with(PREFIX)
}

#[test]
fn tokens_of_strangers_are_what_they_say() {
    let authority = authority();
    let now_ms = 1_700_000_000_000;
    assert!(authority.verify(&token("odd-1", true, None, None), now_ms).expect("it is good").is_admin);
    assert!(authority.verify(&token("odd-1", false, None, Some(now_ms - 1000)), now_ms).is_err());
}
