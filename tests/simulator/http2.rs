//! What a client must know of HTTP/2 (RFC 9113) and gRPC, in its own hand: one call on stream 1, whose windows for what it hears
//! are as large as they can be, and which keeps to the server's for what it says. Commands and events are in the JSON
//! shape for the client, and in Protobuf on the wire.

use std::collections::VecDeque;

use prost::Message;
use serde_json::{Map, Value, json};
use starling::base::rng::Rng;
use starling::proto::protobuf::schema::{self, command, event};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PRIORITY: u8 = 2;

const HEADER_BYTES: usize = 9;
const PREFIX_BYTES: usize = 5;
const FRAME_BYTES_MAX: usize = 16_384;
const WINDOW_MAX: u32 = (1 << 31) - 1;
const WINDOW_INITIAL: i64 = 65_535;

/// The client's side of a call.
#[derive(Debug)]
pub struct Call {
    /// What the windows have no place for yet.
    waiting: VecDeque<u8>,
    stream_window: i64,
    connection_window: i64,
    /// What the server lets a stream begin with.
    initial_window: i64,
    has_ended: bool,
    is_end_said: bool,
    /// The beginning of a message.
    partial: Vec<u8>,
    /// Whether the head of the answer has come.
    has_begun: bool,
}

/// What was heard.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// An event, in the JSON shape.
    Event(Value),
    /// The call is over; whether it never began.
    Over { is_refused: bool },
    /// The server wants no more calls, for this reason if it gives one.
    GoAway(String),
}

impl Call {
    /// Appends what a connection begins with, and the call.
    pub fn begin(out: &mut Vec<u8>) -> Call {
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut settings = vec![0, 4];
        settings.extend_from_slice(&WINDOW_MAX.to_be_bytes());
        put(SETTINGS, 0, 0, &settings, out);
        put(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW_INITIAL as u32).to_be_bytes(), out);
        let mut block = vec![0x83, 0x86]; // `:method POST`, `:scheme http`
        for (name, value) in [
            (":path", "/chat.ChatService/Connect"),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.extend([0, name.len() as u8]);
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        }
        put(HEADERS, END_HEADERS, 1, &block, out);
        Call {
            waiting: VecDeque::new(),
            stream_window: WINDOW_INITIAL,
            connection_window: WINDOW_INITIAL,
            initial_window: WINDOW_INITIAL,
            has_ended: false,
            is_end_said: false,
            partial: Vec::new(),
            has_begun: false,
        }
    }

    /// Says a message, as far as the windows have place, in frames that have nothing to do with it.
    pub fn say(&mut self, message: &[u8], out: &mut Vec<u8>, rng: &mut Rng) {
        self.waiting.push_back(0);
        self.waiting.extend((message.len() as u32).to_be_bytes());
        self.waiting.extend(message);
        self.go_on(out, rng);
        if rng.chance(3) {
            put(PING, 0, 0, b"are you?", out);
        }
        if rng.chance(2) {
            put(PRIORITY, 0, 1, &[0, 0, 0, 0, 16], out);
        }
    }

    /// Takes the call back.
    pub fn cancel(&self, out: &mut Vec<u8>) {
        put(RST_STREAM, 0, 1, &8_u32.to_be_bytes(), out); // CANCEL
    }

    /// Says that no more will be said.
    pub fn end(&mut self, out: &mut Vec<u8>, rng: &mut Rng) {
        self.has_ended = true;
        self.go_on(out, rng);
    }

    fn go_on(&mut self, out: &mut Vec<u8>, rng: &mut Rng) {
        while !self.waiting.is_empty() {
            let place =
                self.stream_window.min(self.connection_window).clamp(0, FRAME_BYTES_MAX as i64) as usize;
            let most = if rng.chance(20) { 1 + rng.below(40) as usize } else { FRAME_BYTES_MAX };
            let count = place.min(most).min(self.waiting.len());
            if count == 0 {
                return;
            }
            let part: Vec<u8> = self.waiting.drain(..count).collect();
            self.stream_window -= count as i64;
            self.connection_window -= count as i64;
            put(DATA, 0, 1, &part, out);
        }
        if self.has_ended && !std::mem::replace(&mut self.is_end_said, true) {
            put(DATA, END_STREAM, 1, b"", out);
        }
    }

    /// Takes from the front of what a server sent, up to something that was heard; what is to be answered goes to `out`.
    pub fn take(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>, rng: &mut Rng) -> Option<Heard> {
        loop {
            if let Some(message) = self.take_message() {
                let event = schema::Event::decode(&message[..]).expect("an Event");
                return Some(Heard::Event(to_json(event)));
            }
            let header: [u8; HEADER_BYTES] = input.get(..HEADER_BYTES)?.try_into().expect("nine");
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            assert!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
            if input.len() < HEADER_BYTES + length {
                return None;
            }
            let payload: Vec<u8> = input.drain(..HEADER_BYTES + length).skip(HEADER_BYTES).collect();
            let (kind, flags) = (header[3], header[4]);
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four"));
            match kind {
                DATA => {
                    assert_eq!(stream, 1);
                    self.partial.extend_from_slice(&payload);
                    assert_eq!(flags & END_STREAM, 0, "a call ends with trailers");
                }
                HEADERS => {
                    assert_eq!((stream, flags & END_HEADERS), (1, END_HEADERS));
                    let is_first = !std::mem::replace(&mut self.has_begun, true);
                    if flags & END_STREAM != 0 {
                        return Some(Heard::Over { is_refused: is_first });
                    }
                }
                RST_STREAM => return Some(Heard::Over { is_refused: false }),
                SETTINGS if flags & ACK == 0 => {
                    for setting in payload.chunks(6) {
                        if setting[..2] == [0, 4] {
                            let initial =
                                i64::from(u32::from_be_bytes(setting[2..].try_into().expect("four")));
                            self.stream_window += initial - self.initial_window;
                            self.initial_window = initial;
                        }
                    }
                    put(SETTINGS, ACK, 0, b"", out);
                }
                PING if flags & ACK == 0 => put(PING, ACK, 0, &payload, out),
                WINDOW_UPDATE => {
                    let window =
                        if stream == 0 { &mut self.connection_window } else { &mut self.stream_window };
                    *window += i64::from(number(0));
                    self.go_on(out, rng);
                }
                GOAWAY => {
                    let why = String::from_utf8_lossy(&payload[8..]).into_owned();
                    return Some(Heard::GoAway(why));
                }
                SETTINGS | PING => {}
                _ => panic!("a frame of kind {kind}"),
            }
        }
    }

    fn take_message(&mut self) -> Option<Vec<u8>> {
        let prefix = self.partial.first_chunk::<PREFIX_BYTES>()?;
        assert_eq!(prefix[0], 0, "not compressed");
        let length = u32::from_be_bytes(prefix[1..].try_into().expect("four")) as usize;
        if self.partial.len() < PREFIX_BYTES + length {
            return None;
        }
        Some(self.partial.drain(..PREFIX_BYTES + length).skip(PREFIX_BYTES).collect())
    }

    /// Whether a message has come in part.
    pub fn is_within(&self) -> bool {
        !self.partial.is_empty()
    }
}

fn put(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A command in Protobuf, from the JSON shape; what is none in that shape goes as it is.
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    let command = serde_json::from_slice(bytes).ok().and_then(|command: Value| to_command(&command));
    command.map_or_else(|| bytes.to_vec(), |command| command.encode_to_vec())
}

fn to_command(from: &Value) -> Option<schema::Command> {
    let text = |name: &str| from[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| from[name].as_u64().unwrap_or_default();
    let count = |name: &str| number(name) as u32;
    let join = |room: &str| schema::Join {
        room: text(room),
        history: count("history"),
        since: from.get("since").map(|since| schema::Position {
            epoch: since["epoch"].as_str().unwrap_or_default().to_owned(),
            offset: since["offset"].as_u64().unwrap_or_default(),
        }),
        no_echo: from["echo"] == false,
        overflow: i32::from(from["overflow"] == "gap"),
    };
    let moderate = || schema::Moderate {
        room: text("room"),
        target: text("target"),
        reason: text("reason"),
        seconds: count("seconds"),
    };
    use command::Kind;
    let kind = match from["type"].as_str()? {
        "hello" => Kind::Hello(schema::Hello {
            nickname: text("nickname"),
            token: text("token"),
            resume: text("resume"),
        }),
        "nick" => Kind::Nick(schema::Nick { nickname: text("nickname") }),
        "join" if from["room"].is_string() => Kind::Join(join("room")),
        "leave" => Kind::Leave(schema::Leave { room: text("room") }),
        "switch" => Kind::Switch(schema::Switch { from: text("from"), to: Some(join("to")) }),
        "message" if from["room"].is_string() => Kind::Message(schema::Say {
            room: text("room"),
            content: text("content"),
            ack: match from["ack"].as_str() {
                None => 0,
                Some("sequenced") => 1,
                Some("stored") => 2,
                Some(_) => 3,
            },
        }),
        "private" => Kind::Private(schema::Private { target: text("target"), content: text("content") }),
        "received" => Kind::Received(schema::Received { offset: number("offset") }),
        "members" => {
            Kind::Members(schema::Members { room: text("room"), limit: count("limit"), after: text("after") })
        }
        "rooms" => Kind::Rooms(schema::Rooms { limit: count("limit"), after: text("after") }),
        "history" => Kind::History(schema::History {
            room: text("room"),
            before: from["before"].as_u64(),
            after: from["after"].as_u64(),
            limit: count("limit"),
        }),
        "state" => Kind::State(schema::State {
            room: text("room"),
            key: text("key"),
            value_json: from["value"].to_string(),
        }),
        "role" => Kind::Role(schema::SetRole {
            room: text("room"),
            target: text("target"),
            role: match from["role"].as_str() {
                Some("host") => 1,
                Some("member") => 2,
                Some("guest") => 3,
                _ => 0,
            },
        }),
        "kick" => Kind::Kick(moderate()),
        "ban" => Kind::Ban(moderate()),
        "unban" => Kind::Unban(moderate()),
        "mute" => Kind::Mute(moderate()),
        "unmute" => Kind::Unmute(moderate()),
        "typing" => Kind::Typing(schema::Typing { room: text("room") }),
        "ping" => Kind::Ping(schema::Ping {}),
        "pong" => Kind::Pong(schema::Pong {}),
        "quit" => Kind::Quit(schema::Quit {}),
        _ => return None,
    };
    Some(schema::Command { id: text("id"), kind: Some(kind) })
}

fn role(number: i32) -> &'static str {
    ["", "host", "member", "guest"][number as usize]
}

fn history(messages: &[schema::HistoryMessage]) -> Value {
    let message = |m: &schema::HistoryMessage| json!({"sender": m.sender, "content": m.content, "offset": m.offset, "timestamp": m.timestamp});
    messages.iter().map(message).collect()
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON")
}

/// An event in the JSON shape. What may be absent there is absent where Protobuf has its default.
fn to_json(event: schema::Event) -> Value {
    use event::Kind;
    let kind = event.kind.expect("an event of a kind");
    let (name, mut shape) = match kind {
        Kind::Welcome(e) => (
            "welcome",
            json!({"nickname": e.nickname, "session": e.session, "resume": e.resume, "resumed": e.resumed,
                   "heartbeat_ms": e.heartbeat_ms, "timeout_ms": e.timeout_ms, "server": e.server}),
        ),
        Kind::Joined(e) => {
            let state: Map<String, Value> = e
                .state
                .iter()
                .map(|(key, entry)| {
                    (key.clone(), json!({"value": value(&entry.value_json), "version": entry.version}))
                })
                .collect();
            let mut shape = json!({"room": e.room, "epoch": e.epoch, "offset": e.offset, "role": role(e.role),
                                   "members": e.members, "state": state});
            if !e.messages.is_empty() {
                shape["messages"] = history(&e.messages);
            }
            if let Some(recovered) = e.recovered {
                shape["recovered"] = json!(recovered);
            }
            ("joined", shape)
        }
        Kind::Left(e) => ("left", json!({"room": e.room, "reason": e.reason})),
        Kind::Presence(e) => {
            let mut shape = json!({"room": e.room, "event": e.event});
            for (field, text) in [("nickname", &e.nickname), ("reason", &e.reason), ("from", &e.from)] {
                if !text.is_empty() {
                    shape[field] = json!(text);
                }
            }
            if e.timestamp != 0 {
                shape["timestamp"] = json!(e.timestamp);
            }
            if e.role != 0 {
                shape["role"] = json!(role(e.role));
            }
            if e.event == "batch" {
                (shape["joined"], shape["left"]) = (json!(e.joined), json!(e.left));
                shape["members"] = json!(e.members);
            }
            ("presence", shape)
        }
        Kind::Message(e) => (
            "message",
            json!({"room": e.room, "sender": e.sender, "content": e.content, "offset": e.offset,
                   "timestamp": e.timestamp}),
        ),
        Kind::Ack(e) => {
            let mut shape = json!({});
            for (field, text) in [("room", &e.room), ("epoch", &e.epoch), ("key", &e.key)] {
                if !text.is_empty() {
                    shape[field] = json!(text);
                }
            }
            for (field, number) in [("offset", e.offset), ("version", e.version)] {
                if number != 0 {
                    shape[field] = json!(number);
                }
            }
            if e.timestamp != 0 {
                shape["timestamp"] = json!(e.timestamp);
            }
            if e.level != 0 {
                shape["level"] = json!(["", "sequenced", "stored", "synced"][e.level as usize]);
            }
            if !e.target.is_empty() {
                (shape["target"], shape["delivered"], shape["stored"]) =
                    (json!(e.target), json!(e.delivered), json!(e.stored));
            }
            ("ack", shape)
        }
        Kind::Private(e) => {
            let mut shape = json!({"sender": e.sender, "target": e.target, "content": e.content,
                                   "timestamp": e.timestamp});
            if let Some(offset) = e.offset {
                shape["offset"] = json!(offset);
            }
            ("private", shape)
        }
        Kind::System(e) => {
            ("system", json!({"content": e.content, "sender": e.sender, "timestamp": e.timestamp}))
        }
        Kind::Members(e) => {
            let member = |m: &schema::Member| json!({"nickname": m.nickname, "role": role(m.role), "connected": m.connected, "last_active": m.last_active});
            let members: Value = e.members.iter().map(member).collect();
            ("members", json!({"room": e.room, "total": e.total, "members": members}))
        }
        Kind::Rooms(e) => {
            let room =
                |r: &schema::RoomInfo| json!({"room": r.room, "members": r.members, "offset": r.offset});
            ("rooms", json!({"rooms": e.rooms.iter().map(room).collect::<Value>()}))
        }
        Kind::History(e) => {
            ("history", json!({"room": e.room, "epoch": e.epoch, "messages": history(&e.messages)}))
        }
        Kind::State(e) => (
            "state",
            json!({"room": e.room, "key": e.key, "value": value(&e.value_json), "version": e.version,
                   "sender": e.sender}),
        ),
        Kind::Typing(e) => ("typing", json!({"room": e.room, "nickname": e.nickname})),
        Kind::Pong(e) => ("pong", json!({"timestamp": e.timestamp})),
        Kind::Bye(e) => (
            "bye",
            json!({"code": e.code, "reason": e.reason, "resumable": e.resumable, "after_ms": e.after_ms}),
        ),
        Kind::Error(e) => {
            let mut shape =
                json!({"code": e.code, "reason": e.reason, "message": e.message, "retryable": e.retryable});
            if let Some(ms) = e.retry_after_ms {
                shape["retry_after_ms"] = json!(ms);
            }
            ("error", shape)
        }
        Kind::Ping(_) => ("ping", json!({})),
        Kind::Gap(e) => ("gap", json!({"room": e.room, "epoch": e.epoch, "from": e.from, "to": e.to})),
    };
    shape["type"] = json!(name);
    if !event.id.is_empty() {
        shape["id"] = json!(event.id);
    }
    shape
}
