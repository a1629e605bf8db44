//! What clients say: names from small sets, so that they are often taken and rooms often shared.

use serde_json::{Value, json};
use starling::config::AckLevel;

use crate::client::{Client, Kind, Sent, What};
use crate::faults::{Shape, happens, pick};
use crate::http2;
use crate::kernel::Kernel;
use crate::model::{Model, Said, fold};
use crate::swarm::Op;
use crate::wire;

const NICKNAMES: &[&str] = &["ann", "Ann", "bob", "cy", "Dée", "dée", "eve", "flo", "gil"];
/// The rooms that clients talk in, some of them spelled in several ways.
pub const ROOMS: &[&str] = &["lobby", "den", "Den", "ops", "Straße", "x-1", "LOBBY"];

/// What content is made of: what JSON escapes, what terminals must not see, what is not ASCII.
const FILLER: &[&str] =
    &["a", "b", " ", "\"", "\\", "é", "鳥", "\u{1F426}", "</script>", "\n", "\u{7}", "\r\n", "\t"];

/// A client that has so many bytes on their way waits: else small buffers would make for endless runs.
const WIRE_BYTES_MAX: usize = 5000;

/// The place of an operation among what programs say.
fn place_of(op: Op) -> u64 {
    match op {
        Op::Message => 0,
        Op::Join => 50,
        Op::Leave => 64,
        Op::Switch => 70,
        Op::Private => 75,
        Op::Members => 82,
        Op::History => 86,
        Op::Received => 87,
        Op::Rooms => 88,
        Op::Typing => 89,
        Op::Nick => 94,
        Op::Hello => 99,
        // Said before, or by others.
        Op::State | Op::Moderation | Op::Broadcast | Op::Ping | Op::Quit | Op::Garbage => 0,
    }
}

/// The same among what people type.
fn place_of_people(op: Op) -> u64 {
    match op {
        Op::Message => 0,
        Op::Join => 60,
        Op::Leave | Op::Switch => 72,
        Op::Members => 78,
        Op::Rooms => 82,
        Op::Private => 84,
        Op::Nick => 90,
        Op::Moderation => 97,
        Op::Garbage | Op::Hello => 99,
        Op::History | Op::Received | Op::Typing | Op::State | Op::Broadcast | Op::Ping | Op::Quit => 93,
    }
}

impl Client {
    /// Says something, or goes.
    pub fn talk(&mut self, kernel: &mut Kernel, model: &mut Model, shape: &Shape) {
        if self.is_silent || kernel.conns[self.conn].wire_bytes() > WIRE_BYTES_MAX {
            return;
        }
        if happens(&mut kernel.rng, kernel.faults.abrupt_reset) {
            return self.reset(kernel);
        }
        if let Some(until_ms) = self.quiet_until_ms {
            if kernel.clock_ms >= until_ms && self.nickname.is_some() {
                self.quiet_until_ms = None;
                self.say(kernel, model, What::Ping, true, json!({"type": "ping"}));
                self.entitled = Some(self.sequence.to_string());
            }
            return;
        }
        match self.kind {
            Kind::Web if !self.is_upgraded => {
                if self.outstanding.is_empty() {
                    self.request_upgrade(kernel, model);
                }
            }
            Kind::Json | Kind::Web | Kind::Grpc => {
                for _ in 0..1 + kernel.rng.below(shape.burst) {
                    if !self.is_silent {
                        self.say_something(kernel, model, shape);
                    }
                }
            }
            Kind::Text => {
                for _ in 0..1 + kernel.rng.below(shape.burst) {
                    if !self.is_silent {
                        self.type_something(kernel, model, shape);
                    }
                }
            }
        }
        if happens(&mut kernel.rng, kernel.faults.half_close) {
            self.end(kernel);
        }
    }

    /// Says one command as a program.
    pub fn say(&mut self, kernel: &mut Kernel, model: &Model, what: What, has_id: bool, mut object: Value) {
        let id = has_id.then(|| {
            self.sequence += 1;
            format!("{}", self.sequence)
        });
        if let Some(id) = &id {
            object["id"] = json!(id);
        }
        self.say_as(kernel, model, what, id, &object);
    }

    /// Says one command as it stands.
    pub fn say_as(
        &mut self,
        kernel: &mut Kernel,
        model: &Model,
        what: What,
        id: Option<String>,
        object: &Value,
    ) {
        model.tally.said(object);
        let bytes = object.to_string().into_bytes();
        kernel.trace.note(&[30, self.number as u64, bytes.len() as u64], || {
            format!("client {} says {object}", self.number)
        });
        self.outstanding.push_back(Sent { id, what, moment: model.moment });
        self.say_bytes(kernel, bytes);
    }

    pub fn say_bytes(&mut self, kernel: &mut Kernel, mut bytes: Vec<u8>) {
        if let Some(call) = &mut self.call {
            let mut frames = Vec::new();
            if !self.has_ended {
                call.say(&http2::encode(&bytes), &mut frames, &mut kernel.rng);
            }
            bytes = frames;
        } else if self.kind == Kind::Web {
            let mut frames = Vec::new();
            wire::put_message(&mut frames, &bytes, self.deflate.as_mut(), &mut kernel.rng);
            bytes = frames;
        } else {
            bytes.extend(if kernel.rng.chance(10) { &b"\r\n"[..] } else { b"\n" });
        }
        self.send(kernel, &bytes);
    }

    pub fn request_upgrade(&mut self, kernel: &mut Kernel, model: &mut Model) {
        let mut request = String::new();
        model.tally.requested("/ws");
        let mut expect = |what| self.outstanding.push_back(Sent { id: None, what, moment: model.moment });
        for _ in 0..kernel.rng.below(3) {
            request.push_str("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
            model.tally.requested("/health");
            expect(What::Health);
        }
        let has_session = self.session.token.is_some();
        let nickname = (!has_session && kernel.rng.chance(40))
            .then(|| pick(&mut kernel.rng, &["bob", "cy", "eve", "flo", "gil"]));
        let room =
            (nickname.is_some() && kernel.rng.chance(60)).then(|| pick(&mut kernel.rng, &["den", "lobby"]));
        let mut query = String::new();
        for (key, value) in [("?nickname=", nickname), ("&room=", room)] {
            query.extend(value.map(|value| format!("{key}{value}")));
        }
        request.push_str(&format!(
            "GET /ws{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
            wire::extensions(self.number)
        ));
        expect(What::Upgrade { nickname: nickname.map(str::to_owned), room: room.map(fold) });
        if let Some(nickname) = nickname {
            model.claim(self.number, nickname);
        }
        kernel.trace.note(&[31, self.number as u64], || format!("client {} requests {query:?}", self.number));
        self.send(kernel, request.as_bytes());
    }

    fn say_something(&mut self, kernel: &mut Kernel, model: &mut Model, shape: &Shape) {
        let has_hello =
            self.outstanding.iter().any(|sent| matches!(sent.what, What::Hello { .. } | What::Resume { .. }));
        if self.nickname.is_none() && !has_hello && !kernel.rng.chance(5) {
            return self.say_hello(kernel, model, None);
        }
        let is_apart = !self.session.kept.is_empty() || !self.session.unsure.is_empty();
        if is_apart && self.nickname.is_some() && kernel.rng.chance(30) {
            return self.rejoin_all(kernel, model);
        }
        if self.nickname.is_some() && !self.session.repeatable.is_empty() && kernel.rng.chance(8) {
            return self.repeat_something(kernel, model);
        }
        let op = shape.mix.as_ref().map(|mix| mix.next(&mut kernel.rng));
        if happens(&mut kernel.rng, kernel.faults.garbage) || op == Some(Op::Garbage) {
            return self.say_garbage(kernel, model);
        }
        if happens(&mut kernel.rng, kernel.faults.moderation) || op == Some(Op::Moderation) {
            return self.say_moderation(kernel, model);
        }
        if happens(&mut kernel.rng, kernel.faults.state) || op == Some(Op::State) {
            return self.say_state(kernel, model);
        }
        if happens(&mut kernel.rng, kernel.faults.ping) || op == Some(Op::Ping) {
            if self.kind == Kind::Web {
                let mut ping = Vec::new();
                wire::put_frame(&mut ping, wire::PING, true, b"?", &mut kernel.rng);
                self.send(kernel, &ping);
            }
            return self.say(kernel, model, What::Ping, true, json!({"type": "ping"}));
        }
        if happens(&mut kernel.rng, kernel.faults.quit) || op == Some(Op::Quit) {
            if self.kind == Kind::Web && kernel.rng.chance(30) {
                let mut close = Vec::new();
                wire::put_frame(&mut close, wire::CLOSE, true, &1000u16.to_be_bytes(), &mut kernel.rng);
                self.send(kernel, &close);
                // It does not wait for what it has asked.
                self.is_cut_off = true;
            } else {
                let has_id = kernel.rng.chance(50);
                self.say(kernel, model, What::Quit, has_id, json!({"type": "quit"}));
            }
            self.is_silent = true;
            return;
        }
        let rng = &mut kernel.rng;
        let written = pick(rng, ROOMS);
        let room = fold(written);
        let has_id = rng.chance(70) || self.terms.may_be_refused;
        let kind = match op {
            Some(op) => place_of(op),
            None => match rng.below(100) {
                _ if happens(rng, kernel.faults.nick) => 97,
                _ if happens(rng, kernel.faults.join) => 60,
                kind => kind,
            },
        };
        match kind {
            0..50 => {
                // Mostly in a room that it is in, as far as it knows by now.
                let here: Vec<String> = self.rooms.keys().cloned().collect();
                let room = if here.is_empty() || rng.chance(10) { room } else { pick(rng, &here) };
                let content = self.make_content(kernel, shape);
                let has_id = has_id || self.session.unsure.contains(&room);
                self.note_said(model, &content, Some(room.clone()), None);
                let mut object = json!({"type": "message", "room": room, "content": content});
                let level = self.pick_level(kernel, &mut object);
                self.say(
                    kernel,
                    model,
                    What::Message { room: room.clone(), content: content.clone(), level },
                    has_id,
                    object,
                );
                if has_id && kernel.rng.chance(5) {
                    // Impatient: perhaps again before the answer comes.
                    self.session.repeatable.push((self.sequence.to_string(), room, content));
                }
            }
            50..64 => {
                let hears_itself = !rng.chance(25);
                self.say_join(kernel, model, room, written, hears_itself, 50);
            }
            64..70 => {
                self.say(
                    kernel,
                    model,
                    What::Leave { room },
                    has_id,
                    json!({"type": "leave", "room": written}),
                );
            }
            70..75 => {
                let from = fold(pick(rng, ROOMS));
                let object = json!({"type": "switch", "from": from, "to": written});
                self.say(kernel, model, What::Switch { from, to: room, hears_itself: true }, has_id, object);
            }
            75..82 => {
                let target = pick(rng, NICKNAMES);
                let content = self.make_content(kernel, shape);
                if content.len() <= self.terms.content_bytes {
                    self.note_said(model, &content, None, Some(target));
                    let object = json!({"type": "private", "target": target, "content": content});
                    self.say(kernel, model, What::Private { content }, true, object);
                }
            }
            82..86 => {
                let object = json!({"type": "members", "room": written});
                self.say(kernel, model, What::Members { room, after: None }, has_id, object);
            }
            86..87 => {
                let limit = 1 + rng.below(10);
                let mut bound = || rng.chance(40).then(|| rng.below(30));
                let (before, after) = (bound(), bound());
                let mut object = json!({"type": "history", "room": written, "limit": limit});
                for (field, bound) in [("before", before), ("after", after)] {
                    if let Some(bound) = bound {
                        object[field] = json!(bound);
                    }
                }
                self.say(kernel, model, What::History { room, before, after, limit }, has_id, object);
            }
            87..89 if !self.session.inbox.is_empty() => {
                let (offset, _) = self.session.inbox.last_key_value().expect("looked at above");
                let (what, object) =
                    (What::Received { offset: *offset }, json!({"type": "received", "offset": offset}));
                self.say(kernel, model, what, true, object);
            }
            87..89 => self.say(kernel, model, What::Rooms, has_id, json!({"type": "rooms"})),
            89..94 => {
                let has_id = has_id || self.session.unsure.contains(&room);
                self.say(
                    kernel,
                    model,
                    What::Typing { room },
                    has_id,
                    json!({"type": "typing", "room": written}),
                );
            }
            94..98 => {
                let nickname = self.pick_nickname(kernel);
                model.claim(self.number, &nickname);
                let object = json!({"type": "nick", "nickname": nickname});
                self.say(kernel, model, What::Nick { nickname }, true, object);
            }
            _ => self.say_hello(kernel, model, None),
        }
    }

    pub fn say_hello(&mut self, kernel: &mut Kernel, model: &mut Model, nickname: Option<&str>) {
        if self.session.token.is_some() && self.nickname.is_none() {
            return self.say_resume(kernel, model);
        }
        let nickname = match nickname {
            Some(nickname) => nickname.to_owned(),
            None => self.pick_nickname(kernel),
        };
        model.claim(self.number, &nickname);
        let object = json!({"type": "hello", "nickname": nickname});
        let has_id = kernel.rng.chance(70);
        self.say(kernel, model, What::Hello { nickname }, has_id, object);
    }

    /// A nickname. Where those who have gone without a word keep theirs, there are more of them.
    pub fn pick_nickname(&self, kernel: &mut Kernel) -> String {
        if self.terms.grace_ms > 0 && kernel.rng.chance(60) {
            return format!("guest-{}", kernel.rng.below(60));
        }
        pick(&mut kernel.rng, NICKNAMES).to_owned()
    }

    /// When a message is to be acknowledged.
    pub fn pick_level(&self, kernel: &mut Kernel, object: &mut Value) -> AckLevel {
        if !self.terms.has_store || kernel.rng.chance(40) {
            return self.terms.ack;
        }
        let level = pick(&mut kernel.rng, &[AckLevel::Sequenced, AckLevel::Stored, AckLevel::Synced]);
        object["ack"] = json!(level.word());
        level
    }

    fn say_garbage(&mut self, kernel: &mut Kernel, model: &Model) {
        self.session.mistakes += 1;
        let garbage: &[u8] = match kernel.rng.below(6) {
            0 => b"{\"type\":\"dance\"}",
            1 => b"{\"type\":\"join\"}",
            2 => b"{\"type\":\"message\",\"room\":7,\"content\":\"x\"}",
            3 if self.kind == Kind::Json => b"{\"type\":\"\xff\"}",
            4 if self.kind == Kind::Json => {
                let line = vec![b'{'; self.terms.inbound_bytes + 1 + kernel.rng.below(5000) as usize];
                self.outstanding.push_back(Sent { id: None, what: What::TooLong, moment: model.moment });
                return self.say_bytes(kernel, line);
            }
            _ => b"{oops",
        };
        kernel.trace.note(&[32, self.number as u64], || {
            format!("client {} says {}", self.number, garbage.escape_ascii())
        });
        self.outstanding.push_back(Sent { id: None, what: What::Garbage, moment: model.moment });
        self.say_bytes(kernel, garbage.to_vec());
    }

    fn type_something(&mut self, kernel: &mut Kernel, model: &mut Model, shape: &Shape) {
        let line = if self.nickname.is_none() {
            if !self.asked_names.is_empty() {
                return;
            }
            let name = self.pick_nickname(kernel);
            model.claim(self.number, &name);
            self.asked_names.push_back(name.clone());
            name
        } else if happens(&mut kernel.rng, kernel.faults.quit) {
            self.is_silent = true;
            "/quit".to_owned()
        } else {
            let kind = match &shape.mix {
                Some(mix) => place_of_people(mix.next(&mut kernel.rng)),
                None => kernel.rng.below(100),
            };
            match kind {
                0..60 => {
                    let content = self.make_content(kernel, shape).replace(['\n', '\r'], "_");
                    if content.len() > self.terms.content_bytes {
                        return;
                    }
                    self.note_said(model, &content, None, None);
                    content
                }
                60..72 => format!("/join {}", pick(&mut kernel.rng, ROOMS)),
                72..78 => "/leave".to_owned(),
                78..82 => "/who".to_owned(),
                82..84 => "/rooms".to_owned(),
                84..90 => {
                    let target = pick(&mut kernel.rng, NICKNAMES);
                    let content = self.make_content(kernel, shape).replace(['\n', '\r'], "_");
                    if content.len() > self.terms.content_bytes {
                        return;
                    }
                    self.note_said(model, &content, None, Some(target));
                    format!("/msg {target} {content}")
                }
                90..93 if !self.terms.has_rates && !self.terms.has_store => {
                    let name = self.pick_nickname(kernel);
                    model.claim(self.number, &name);
                    self.asked_names.push_back(name.clone());
                    format!("/nick {name}")
                }
                93..96 => "/ping".to_owned(),
                96..97 => String::new(),
                97..98 if kernel.faults.moderation > 0 || shape.mix.is_some() => {
                    self.type_kick(kernel, model)
                }
                _ => "/dance".to_owned(),
            }
        };
        kernel.trace.note(&[33, self.number as u64], || format!("client {} types {line:?}", self.number));
        self.say_bytes(kernel, line.into_bytes());
    }

    /// Content that nobody else says: its first word is a key.
    fn make_content(&mut self, kernel: &mut Kernel, shape: &Shape) -> String {
        self.sequence += 1;
        let mut content = format!("{}.{} ", self.number, self.sequence);
        let rng = &mut kernel.rng;
        let most = if rng.chance(2) { self.terms.content_bytes * 2 } else { shape.content_bytes };
        let bytes = rng.below(most as u64) as usize;
        while content.len() < bytes {
            let piece = pick(rng, FILLER);
            for _ in 0..1 + rng.below(20) {
                content.push_str(piece);
            }
        }
        content.push('.'); // text lines may lose spaces at their end
        content
    }

    fn note_said(&self, model: &mut Model, content: &str, room: Option<String>, target: Option<&str>) {
        model.say(Said {
            author: self.number,
            moment: model.moment,
            content: content.to_owned(),
            room,
            is_private: target.is_some(),
            was_member: None,
            is_unheard: false,
            place: None,
            offset: None,
            acked: None,
            is_kept: false,
            receivers: Vec::new(),
            was_delivered: false,
            was_heard_behind: false,
            is_repeated: false,
            target: target.map(fold).unwrap_or_default(),
        });
    }
}
