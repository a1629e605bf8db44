//! Clients that lose their connection and come back: what they keep of their session, and what becomes of the connection
//! that they have left behind.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::client::{Client, Kind, Membership, What};
use crate::http2::{self, Call};
use crate::kernel::{Kernel, Received};
use crate::model::{Model, fold};
use crate::talk::ROOMS;
use crate::wire;

/// A grace time that no run outlasts, in milliseconds.
pub const LONG_GRACE_MS: u64 = 3_600_000;

/// How many ids the server is sure to remember. Other things than ids have numbers of the same sequence.
const IDS_REMEMBERED: u64 = 1000;

/// What a client knows of its session beyond the connection.
#[derive(Default)]
pub struct Session {
    /// The last resume token heard, and the nickname that the welcome gave with it.
    pub token: Option<(String, String)>,
    /// The session's name for itself.
    pub name: String,
    /// Rooms that the session is in and that this connection has not joined yet.
    pub kept: BTreeMap<String, Membership>,
    /// Rooms that the session may be in: what was asked last was not answered.
    pub unsure: BTreeSet<String>,
    /// The last offset heard in each room, by epoch.
    pub latest: BTreeMap<String, (String, u64)>,
    /// Whether it has been told that it has missed something.
    pub has_missed: bool,
    /// Whether a session of it has ended with what was kept for it.
    pub was_forgotten: bool,
    /// Messages that were not answered, or not lately, by their ids: the room and the content.
    pub repeatable: Vec<(String, String, String)>,
    /// How many times it has come back.
    pub comebacks: u64,
    /// Whether two of its connections have asked for the session at once: the one left behind may get it last.
    pub was_raced: bool,
    /// Whether the server may have lost it, or what happened in it of late.
    pub may_be_lost: bool,
    /// How many mistakes it has made, on all connections.
    pub mistakes: usize,
    /// The private messages kept for it that it has heard, by offset.
    pub inbox: BTreeMap<u64, String>,
    /// Up to where it knows that the server knows that it has heard them.
    pub received: u64,
}

/// A connection whose client has gone on with another one.
pub struct Ghost {
    pub number: usize,
    conn: usize,
    kind: Kind,
    input: Vec<u8>,
    is_upgraded: bool,
    call: Option<Box<Call>>,
    deflate: Option<wire::Deflate>,
    pub bye: Option<u16>,
    pub is_over: bool,
    /// Whether there may be no farewell.
    was_reset: bool,
}

impl Session {
    /// It is known now whether the session is in a room: unless a connection left behind may still have a say.
    pub fn be_sure_of(&mut self, room: &str) -> bool {
        if self.was_raced { self.unsure.contains(room) } else { self.unsure.remove(room) }
    }
}

impl Client {
    /// Whether it has lost its connection and may have a session to come back to.
    pub fn may_come_back(&self) -> bool {
        let goes_on = |code: u16| {
            matches!(code, 4103 | 4105) || code / 100 == 42 || code == 4300 && self.terms.has_upgrades
        };
        let was_told_to_stop = self.bye.is_some_and(|code| !goes_on(code));
        self.terms.grace_ms > 0
            && self.is_gone
            && !was_told_to_stop
            && self.session.token.is_some()
            && !self.has_quit()
    }

    /// Whether it may take its session over from the connection that it has.
    pub fn may_take_over(&self) -> bool {
        self.terms.grace_ms > 0
            && !self.terms.has_connection_limit
            && !self.is_gone
            && self.bye.is_none()
            && self.session.token.is_some()
            && !self.has_quit()
    }

    /// Whether its connection neither has the session nor has asked for it.
    pub fn is_without_session(&self) -> bool {
        let is_asked = self.outstanding.iter().any(|sent| matches!(sent.what, What::Resume { .. }));
        self.is_gone || (self.nickname.is_none() && !is_asked)
    }

    fn has_quit(&self) -> bool {
        // On a call the end of what is said is one.
        self.outstanding.iter().any(|sent| matches!(sent.what, What::Quit))
            || self.call.is_some() && self.has_ended
    }

    /// Goes on with another connection. Returns the one left behind.
    pub fn come_back(&mut self, kernel: &mut Kernel, model: &mut Model, kind: Kind, conn: usize) -> Ghost {
        model.count(if self.is_gone { "comebacks" } else { "takeovers" });
        model.losers.insert(self.number);
        let is_raced = self.outstanding.iter().any(|sent| matches!(sent.what, What::Resume { .. }));
        if !self.is_gone && self.nickname.is_none() && !is_raced {
            kernel.reset(self.conn); // nothing depends on it
            self.is_gone = true;
        }
        let ghost = Ghost {
            number: self.number,
            conn: self.conn,
            kind: self.kind,
            input: std::mem::take(&mut self.input),
            is_upgraded: self.is_upgraded,
            call: self.call.take(),
            deflate: self.deflate.take(),
            bye: self.bye,
            is_over: self.is_gone,
            was_reset: self.is_gone || self.is_silent,
        };
        let session = &mut self.session;
        session.comebacks += 1;
        for (room, membership) in std::mem::take(&mut self.rooms) {
            if !membership.is_being_left {
                session.kept.insert(room, membership);
            } else if model.restarts > 0 {
                session.unsure.insert(room); // a kill may have cut the switch in two
            }
        }
        // Each of these may have been obeyed or not.
        for sent in self.outstanding.drain(..) {
            if let (Some(id), What::Message { room, content, .. } | What::Repeat { room, content, .. }) =
                (&sent.id, &sent.what)
            {
                session.repeatable.push((id.clone(), room.clone(), content.clone()));
            }
            let touched = match sent.what {
                What::Join { room, .. } | What::Leave { room } => vec![room],
                What::Switch { from, to, .. } => vec![from, to],
                What::Resume { .. } => {
                    session.was_raced = true;
                    vec![]
                }
                _ => vec![],
            };
            session.unsure.extend(touched);
        }
        if session.was_raced {
            // Whatever was asked on any of the connections may come to pass behind this one's back, in any room.
            session.unsure.extend(ROOMS.iter().map(|room| fold(room)));
        }
        for (room, membership) in &session.kept {
            session.latest.insert(room.clone(), (membership.epoch.clone(), membership.next - 1));
        }
        let unsure = &session.unsure;
        session.kept.retain(|room, _| !unsure.contains(room));
        (self.kind, self.conn, self.connected_ms) = (kind, conn, kernel.clock_ms);
        (self.nickname, self.bye, self.is_upgraded) = (None, None, false);
        self.deflate = None;
        (self.has_ended, self.is_silent, self.is_cut_off, self.is_gone) = (false, false, false, false);
        (self.is_stalled, self.has_stalled, self.dawdles, self.is_deaf) = (false, false, false, false);
        (self.errors_400, self.quiet_until_ms, self.entitled) = (0, None, None);
        self.doubt_rooms(model);
        ghost
    }

    /// Says hello as the session that it had, and perhaps without waiting that it is back in its rooms.
    pub fn say_resume(&mut self, kernel: &mut Kernel, model: &mut Model) {
        let (token, nickname) = self.session.token.clone().expect("there is something to resume");
        model.claim(self.number, &nickname);
        let object = json!({"type": "hello", "resume": token});
        let has_id = kernel.rng.chance(70);
        self.say(kernel, model, What::Resume { nickname }, has_id, object);
        if kernel.rng.chance(50) {
            self.rejoin_all(kernel, model);
        }
    }

    /// Joins the rooms again that its session is or may be in, from where it heard them last.
    pub fn rejoin_all(&mut self, kernel: &mut Kernel, model: &Model) {
        let rooms: Vec<String> = self.session.kept.keys().chain(&self.session.unsure).cloned().collect();
        for room in rooms {
            let is_asked = |sent: &crate::client::Sent| matches!(&sent.what, What::Join { room: other, .. } if *other == room);
            if self.outstanding.iter().any(is_asked) {
                continue;
            }
            let hears_itself = self.session.kept.get(&room).is_none_or(|kept| kept.hears_itself);
            self.say_join(kernel, model, room.clone(), &room, hears_itself, 95);
        }
    }

    /// Says a message again that has been answered or not: it must not be published twice.
    pub fn repeat_something(&mut self, kernel: &mut Kernel, model: &mut Model) {
        let nth = kernel.rng.below(self.session.repeatable.len() as u64) as usize;
        let (id, room, content) = self.session.repeatable.swap_remove(nth);
        let age = self.sequence - id.parse::<u64>().expect("ids are numbers");
        if content.len() > self.terms.content_bytes || age > IDS_REMEMBERED {
            return;
        }
        model.count(if self.session.comebacks > 0 { "repeats_after_comeback" } else { "repeats" });
        let said = model.said(&content);
        said.is_repeated = true;
        if said.was_member == Some(false) {
            said.was_member = None;
        }
        let mut object = json!({"type": "message", "room": room, "content": content, "id": id});
        let level = self.pick_level(kernel, &mut object);
        self.say_as(kernel, model, What::Repeat { room, content, level }, Some(id), &object);
    }

    /// Joins a room, so many times in a hundred from where it heard it last.
    pub fn say_join(
        &mut self,
        kernel: &mut Kernel,
        model: &Model,
        room: String,
        written: &str,
        hears_itself: bool,
        since_percent: u64,
    ) {
        let mut object = json!({"type": "join", "room": written});
        if !hears_itself {
            object["echo"] = json!(false);
        }
        let mut since = kernel.rng.chance(3).then(|| ("nowhere".to_owned(), kernel.rng.below(3)));
        if since.is_none()
            && kernel.rng.chance(since_percent)
            && let Some((epoch, offset)) = self.session.latest.get(&room)
        {
            since = Some((epoch.clone(), *offset));
        }
        if let Some((epoch, offset)) = &since {
            object["since"] = json!({"epoch": epoch, "offset": offset});
        }
        let history = (kernel.rng.chance(20)).then(|| 1 + kernel.rng.below(5));
        if let Some(history) = history {
            object["history"] = json!(history);
        }
        let skips = kernel.rng.chance(25);
        if skips {
            object["overflow"] = json!("gap");
        }
        let has_id = kernel.rng.chance(70);
        self.say(kernel, model, What::Join { room, hears_itself, since, history, skips }, has_id, object);
    }

    /// The answer to a hello with a resume token.
    pub fn hear_resumed(&mut self, model: &mut Model, event: &Value) {
        let client = self.number;
        let nickname = event["nickname"].as_str().expect("a welcome has a nickname");
        assert!(model.has_asked_for(client, nickname), "client {client} was never called {nickname}");
        if event["resumed"] == true {
            model.count("resumes");
            assert_eq!(
                event["session"],
                self.session.name.as_str(),
                "client {client}: another session goes on"
            );
        } else {
            // A grace time without end ends only for those who have made too many mistakes.
            let may_have_ended = self.terms.grace_ms < LONG_GRACE_MS
                || self.session.mistakes > self.terms.errors_per_window
                || self.session.was_raced
                || self.session.may_be_lost;
            assert!(may_have_ended, "client {client}: a session ended before its time");
            model.count("resumes_too_late");
            self.forget_session();
        }
    }

    /// The session is no more, and its client knows it.
    pub fn forget_session(&mut self) {
        let session = &mut self.session;
        session.token = None;
        session.kept.clear();
        session.unsure.clear();
        session.inbox.clear();
        session.repeatable.clear();
        (session.received, session.has_missed, session.was_forgotten) = (0, true, true);
        session.may_be_lost = false;
    }

    /// Keeps what a welcome says of the session.
    pub fn note_welcome(&mut self, event: &Value) {
        let text = |field: &str| event[field].as_str().expect("a welcome has all its fields").to_owned();
        self.session.token = Some((text("resume"), text("nickname")));
        self.session.name = text("session");
    }

    /// Checks whether a join with `since` was answered by the truth, and says where the member's messages begin.
    pub fn check_recovered(&mut self, since: Option<&(String, u64)>, event: &Value) -> Option<u64> {
        let (epoch, head) = (event["epoch"].as_str(), event["offset"].as_u64().expect("a number"));
        let recovered = since.map(|(known, offset)| {
            epoch == Some(known) && *offset <= head && head - offset <= self.terms.history_count
        });
        assert_eq!(
            event["recovered"].as_bool(),
            recovered,
            "client {}: {event} since {since:?}",
            self.number
        );
        since.filter(|_| recovered == Some(true)).map(|(_, offset)| offset + 1)
    }
}

impl Ghost {
    /// Lets through what is on its way, and hears the server. Returns whether anything happened.
    pub fn pump(&mut self, kernel: &mut Kernel, model: &mut Model, most: usize) -> bool {
        if self.is_over {
            return kernel.deliver(self.conn, most);
        }
        let arrived = kernel.deliver(self.conn, most);
        match kernel.receive(self.conn, most) {
            Received::Nothing => arrived,
            Received::Bytes(bytes) => {
                self.input.extend(bytes);
                self.understand(kernel, model);
                true
            }
            Received::End => {
                kernel.end_input(self.conn);
                self.is_over = true;
                true
            }
            Received::Reset => {
                (self.is_over, self.was_reset) = (true, true);
                true
            }
        }
    }

    /// Its client has no other connection, and is not there to keep this one.
    pub fn give_up(&mut self, kernel: &mut Kernel) {
        if !self.is_over {
            kernel.reset(self.conn);
            (self.is_over, self.was_reset) = (true, true);
        }
    }

    /// What must be true when nothing is under way.
    pub fn check_rest(&self, kernel: &Kernel, model: &Model) {
        assert!(self.is_over, "conn {}, which client {} has left behind, is kept", self.conn, self.number);
        assert!(
            self.bye.is_some()
                || self.was_reset
                || model.has_jumped
                || kernel.conns[self.conn].was_blocked
                || kernel.conns[self.conn].may_be_unfinished(),
            "conn {}, client {}: no bye",
            self.conn,
            self.number
        );
    }

    fn understand(&mut self, kernel: &mut Kernel, model: &mut Model) {
        loop {
            let event = match self.kind {
                Kind::Web if !self.is_upgraded => match wire::take_response(&mut self.input) {
                    Some((status, _, extensions)) => {
                        self.is_upgraded = status == 101;
                        let agreed = |answer: String| wire::Deflate::agreed(self.number, &answer);
                        self.deflate = extensions.map(agreed);
                        continue;
                    }
                    None => return,
                },
                Kind::Web => match wire::take_frame(&mut self.input, self.deflate.as_mut()) {
                    Some((wire::TEXT, payload)) => payload,
                    // The answer to a close of its own, if there has been no farewell.
                    Some((wire::CLOSE, _)) => {
                        self.was_reset = true;
                        continue;
                    }
                    Some(_) => continue,
                    None => return,
                },
                Kind::Grpc => {
                    let Some(call) = &mut self.call else { return };
                    let mut out = Vec::new();
                    let heard = call.take(&mut self.input, &mut out, &mut kernel.rng);
                    if !out.is_empty() {
                        kernel.send(self.conn, &out);
                    }
                    match heard {
                        Some(http2::Heard::Event(event)) => event.to_string().into_bytes(),
                        Some(http2::Heard::Over { .. }) => {
                            // Nothing more comes; the connection was for this call alone.
                            self.was_reset |= self.bye.is_none();
                            self.call = None;
                            kernel.end_input(self.conn);
                            return;
                        }
                        Some(http2::Heard::GoAway(_)) => continue,
                        None => return,
                    }
                }
                Kind::Json | Kind::Text => match wire::take_line(&mut self.input) {
                    Some(line) => line,
                    None => return,
                },
            };
            // Programs that are greeted like people hear lines that are no events.
            let Ok(event) = serde_json::from_slice::<Value>(&event) else { continue };
            assert!(self.bye.is_none(), "client {}, left behind: {event} after bye", self.number);
            match event["type"].as_str() {
                Some("bye") => {
                    let code = event["code"].as_u64().expect("a bye has a code") as u16;
                    assert!(matches!(code, 1000 | 4103..=4106 | 4201..=4203 | 4300), "{event}");
                    self.bye = Some(code);
                    if code == 4103 {
                        model.count("replacements_heard");
                    }
                }
                // What has come with an offset comes again.
                Some("private") if event["offset"].is_null() => {
                    model.said(event["content"].as_str().expect("a text")).was_heard_behind = true;
                }
                // It has the session, which its client goes for with another connection, or will not get it.
                Some("welcome") | Some("error")
                    if event["type"] == "welcome"
                        || event["reason"] == "nickname_in_use"
                        || event["reason"] == "store_down"
                        || event["reason"] == "rate_limited" =>
                {
                    // What it has read by then is as good as heard: its client lets go of it.
                    kernel.reset(self.conn);
                    (self.is_over, self.was_reset) = (true, true);
                }
                _ => {}
            }
        }
    }
}
