//! What programs hear: events as JSON objects, in lines or in frames, and HTTP responses before the first frame.

use serde_json::Value;
use starling::config::AckLevel;

use crate::client::{Client, Kind, Membership, Sent, What, Whereabouts};
use crate::coverage::Part;
use crate::kernel::Kernel;
use crate::model::{Entry, Model, fold};
use crate::wire;

impl Client {
    pub fn hear_response(&mut self, kernel: &mut Kernel, model: &mut Model, status: u16, body: &[u8]) {
        let sent = self.outstanding.pop_front();
        model.tally.refused(body);
        let error = || -> Value { serde_json::from_slice(body).expect("an error is a JSON object") };
        match (sent.as_ref().map(|sent| &sent.what), status) {
            (Some(What::Health), 200) => {
                let moment = sent.as_ref().expect("matched").moment;
                let may_be_down = self.terms.has_store && model.store.may_be_down(moment);
                assert!(body == b"OK" || may_be_down && body == b"OK store_down", "{}", body.escape_ascii());
            }
            (Some(What::Upgrade { nickname, room }), 101) => {
                self.is_upgraded = true;
                let moment = sent.as_ref().expect("matched").moment;
                let mut expect = |what| self.outstanding.push_back(Sent { id: None, what, moment });
                if let Some(nickname) = nickname {
                    expect(What::Hello { nickname: nickname.clone() });
                }
                if let Some(room) = room {
                    expect(What::Join {
                        room: room.clone(),
                        hears_itself: true,
                        since: None,
                        history: None,
                        skips: false,
                    });
                }
            }
            (Some(What::Upgrade { nickname: Some(nickname), .. }), 409) => {
                assert_eq!(error()["reason"], "nickname_in_use");
                model.check_conflict(self.number, nickname, sent.as_ref().expect("matched").moment);
                model.give_up(self.number, nickname);
                self.end(kernel);
            }
            (Some(What::Upgrade { nickname: Some(_), room }), 403 | 429) => {
                let reason = error()["reason"].clone();
                let is_banned = room.as_ref().is_some_and(|room| model.may_be_banned(room, self.number));
                let may_be =
                    reason == "banned" && is_banned || reason == "rate_limited" && self.terms.has_rates;
                assert!(may_be, "client {}: {reason} for {room:?}", self.number);
                model.give_up_all(self.number);
                self.end(kernel);
            }
            (Some(What::Upgrade { .. }), 503) if error()["reason"] == "store_down" => {
                let moment = sent.as_ref().expect("matched").moment;
                assert!(self.is_refused_by_store(model, moment), "client {}: {body:?}", self.number);
                model.give_up_all(self.number);
                self.end(kernel);
            }
            (Some(What::Upgrade { .. }), 503) if model.may_drain(self.conn) => {
                model.give_up_all(self.number);
                self.end(kernel);
            }
            (_, 503) => {
                assert!(self.terms.has_connection_limit, "503 {error:?}", error = error());
                model.give_up_all(self.number);
                self.outstanding.clear();
                self.is_silent = true;
            }
            (_, 408) => {
                // Its request did not come whole in time.
                self.outstanding.clear();
                self.is_silent = true;
            }
            (sent, status) => panic!("client {}: {status} in answer to {sent:?}", self.number),
        }
    }

    pub fn hear_frame(&mut self, kernel: &mut Kernel, model: &mut Model, opcode: u8, payload: &[u8]) {
        match opcode {
            wire::TEXT => self.hear_json(kernel, model, payload),
            wire::PING => {
                let mut pong = Vec::new();
                wire::put_frame(&mut pong, wire::PONG, true, payload, &mut kernel.rng);
                self.send(kernel, &pong);
            }
            wire::PONG => {}
            wire::CLOSE => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                match self.bye {
                    Some(bye) => assert_eq!(code, Some(bye), "bye and close frame differ"),
                    None => assert!(self.is_silent, "closed with {code:?} and no bye"),
                }
                self.is_silent = true;
                self.send(kernel, &[0x88, 0x80, 1, 2, 3, 4]);
            }
            _ => panic!("a frame with opcode {opcode}"),
        }
    }

    pub fn hear_json(&mut self, kernel: &mut Kernel, model: &mut Model, bytes: &[u8]) {
        assert!(self.bye.is_none(), "client {}: {} after bye", self.number, bytes.escape_ascii());
        if self.kind == Kind::Json && bytes.first() != Some(&b'{') {
            // What people read: the server has not seen the first byte yet.
            let line = std::str::from_utf8(bytes).expect("people read UTF-8");
            match line.strip_prefix("! ").and_then(|rest| rest.get(..4)) {
                Some(code) => self.hear_bye(kernel, model, code.parse().expect("a code of its own")),
                None => assert!(line.starts_with("* welcome to"), "a program hears {line:?}"),
            }
            return;
        }
        let event: Value =
            serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", bytes.escape_ascii()));
        kernel.trace.note(&[24, self.number as u64], || format!("client {} hears {event}", self.number));
        model.tally.heard(&event);
        model.bench.clock_ms = kernel.clock_ms;
        self.doubt_rooms(model);
        let is_too_fast = event["type"] == "error" && event["reason"] == "rate_limited";
        match text(&event, "type") {
            "left" if matches!(text(&event, "reason"), "kicked" | "banned") => {
                self.hear_expelled(model, &event)
            }
            "state" => self.hear_state(model, &event),
            "message" => self.hear_message(model, &event),
            "presence" => self.hear_presence(model, &event),
            "gap" => self.hear_gap(model, &event),
            "private" => {
                let content = text(&event, "content");
                let offset = event["offset"].as_u64();
                // What was on its way when a connection ended may come again: it was not acknowledged then.
                let is_again = offset.is_some() && model.said(content).receivers == [self.number];
                if is_again {
                    model.count("private_heard_again");
                }
                if !self.has_heard_kept(model, offset, content) && !is_again {
                    self.hear_private(model, text(&event, "target"), content);
                }
            }
            "system" => assert!(self.terms.has_strangers, "client {}: {event}", self.number),
            "typing" => {
                let room = fold(text(&event, "room"));
                assert!(self.rooms.contains_key(&room), "client {}: typing in {room}", self.number);
                let is_own = self.is_own_name(text(&event, "nickname")) && !self.rooms[&room].was_renamed;
                assert!(!is_own, "client {} hears itself typing", self.number);
            }
            "ping" => {
                assert!(matches!(self.kind, Kind::Json | Kind::Grpc));
                model.tally.count(Part::Command, "pong");
                self.say_bytes(kernel, b"{\"type\":\"pong\"}".to_vec());
            }
            "bye" => {
                let code = number(&event, "code") as u16;
                // Whoever says no more on a call says goodbye.
                let has_quit = self.outstanding.iter().any(|sent| matches!(sent.what, What::Quit));
                let is_half_close = self.call.is_some() && self.has_ended && event["id"].is_null();
                if code == 1000 && (has_quit || !is_half_close) {
                    self.hear_reply(model, &event);
                }
                self.hear_bye(kernel, model, code);
            }
            "welcome" | "joined" | "left" | "ack" | "members" | "rooms" | "history" | "pong" | "error" => {
                self.hear_reply(model, &event);
            }
            kind => panic!("an event of type {kind}"),
        }
        if is_too_fast && self.terms.rate_is_own && self.outstanding.is_empty() && kernel.rng.chance(50) {
            self.quiet_until_ms = Some(kernel.clock_ms + number(&event, "retry_after_ms"));
        }
    }

    /// Whether a name is the client's, or may be for a moment because a change of it is under way.
    fn is_own_name(&self, name: &str) -> bool {
        let is_changing = self.outstanding.iter().any(|sent| matches!(sent.what, What::Nick { .. }));
        !is_changing && self.nickname.as_deref().is_some_and(|own| fold(own) == fold(name))
    }

    fn hear_message(&mut self, model: &mut Model, event: &Value) {
        let room = fold(text(event, "room"));
        let client = self.number;
        let Some(membership) = self.rooms.get_mut(&room) else {
            panic!("client {client} is not in {room} and hears {event}");
        };
        let offset = number(event, "offset");
        while membership.next < offset {
            assert!(!membership.hears_itself, "client {client} has missed {room} {}", membership.next);
            membership.skipped.push(membership.next);
            membership.next += 1;
        }
        assert_eq!(membership.next, offset, "client {client} hears {room} {offset} again");
        membership.next += 1;
        let entry = entry_of(event);
        let author = model.said(&entry.content).author;
        // A connection left behind may have begun a session of its own, in which it obeys what it was told before.
        let is_other = author != client || self.session.was_raced;
        let may_hear = membership.hears_itself || membership.was_replayed || is_other;
        assert!(may_hear, "client {client} asked for no echo");
        model.place(&room, &membership.epoch, offset, entry);
    }

    /// Messages were left out, because the client did not keep up.
    fn hear_gap(&mut self, model: &mut Model, event: &Value) {
        let (client, room) = (self.number, fold(text(event, "room")));
        let (from, to) = (number(event, "from"), number(event, "to"));
        let membership = self.rooms.get_mut(&room).expect("a gap is in a room that it is in");
        assert!(membership.skips, "client {client} has not agreed to {event}");
        assert_eq!(text(event, "epoch"), membership.epoch);
        while membership.next < from && !membership.hears_itself {
            membership.skipped.push(membership.next);
            membership.next += 1;
        }
        assert!(membership.next == from && from <= to, "client {client}, next {}: {event}", membership.next);
        membership.next = to + 1;
        self.session.has_missed = true;
        model.count("gaps_heard");
    }

    /// Somebody has told this client something in private.
    pub fn hear_private(&mut self, model: &mut Model, target: &str, content: &str) {
        let said = model.said(content);
        assert!(said.is_private && fold(target) == said.target, "{said:?} was told as if to {target}");
        said.receivers.push(self.number);
        assert_eq!(said.receivers.len(), 1, "{said:?} came twice");
        if self.kind != Kind::Text {
            assert_eq!(said.content, content);
        }
    }

    fn hear_presence(&mut self, model: &mut Model, event: &Value) {
        let room = fold(text(event, "room"));
        let is_own = |client: &Client, name: &str| {
            client.nickname.as_deref().is_some_and(|own| fold(own) == fold(name))
        };
        assert!(self.rooms.contains_key(&room), "client {} is not in {room} and hears {event}", self.number);
        let kind = text(event, "event");
        if kind == "batch" {
            assert!(!self.terms.tells_presence_at_once, "a batch in a small room");
            return;
        }
        match kind {
            // Told to everybody, whom they concern included.
            "role" => return self.hear_role(model, &room, event),
            "mute" | "unmute" => return,
            _ => {}
        }
        let nickname = text(event, "nickname");
        let is_changing = self.outstanding.iter().any(|sent| matches!(sent.what, What::Nick { .. }));
        if is_own(self, nickname) {
            assert!(
                is_changing || self.rooms[&room].was_renamed,
                "client {} hears of itself: {event}",
                self.number
            );
        }
        if !self.terms.tells_presence_at_once {
            return;
        }
        let client = self.number;
        self.rooms.get_mut(&room).expect("looked at above").follow_roles(model, &room, event);
        let others = &mut self.rooms.get_mut(&room).expect("looked at above").others;
        // Who was where before, where that is known, and is where now.
        let mut set = |name: &str, before: &[Whereabouts], now: Whereabouts| {
            let known = others.insert(fold(name), now);
            let is_possible = known.is_none_or(|known| before.contains(&known));
            assert!(is_possible, "client {client}, who knew {known:?}: {event}");
            known
        };
        use Whereabouts::{Away, Gone, Here};
        match kind {
            "join" => drop(set(nickname, &[Gone], Here)),
            "leave" => drop(set(nickname, &[Here, Away], Gone)),
            "away" => drop(set(nickname, &[Here], Away)),
            "back" => drop(set(nickname, &[Away], Here)),
            "nick" => {
                let from = text(event, "from");
                if fold(from) != fold(nickname) {
                    let known = set(from, &[Here, Away], Gone);
                    set(nickname, &[Gone], known.unwrap_or(Here));
                    if known.is_none() {
                        others.remove(&fold(nickname)); // here or away
                    }
                }
            }
            kind => panic!("presence {kind}"),
        }
    }

    /// An answer to the oldest command that has one.
    fn hear_reply(&mut self, model: &mut Model, event: &Value) {
        self.finish_leaving();
        let (kind, id) = (text(event, "type"), event["id"].as_str());
        if event["code"] == 400 {
            self.errors_400 += 1;
        }
        if event["message"].as_str().is_some_and(|message| message.starts_with("a line may have")) {
            let place = self.outstanding.iter().position(|sent| matches!(sent.what, What::TooLong));
            self.outstanding.remove(place.expect("a line is called too long that was not"));
            return;
        }
        self.take_early_answer(model, id);
        let sent = loop {
            let Some(sent) = self.outstanding.pop_front() else {
                panic!("client {} asked nothing and hears {event}", self.number)
            };
            if !self.is_silent_command(&sent) {
                break sent;
            }
            self.note_silent(model, &sent);
        };
        let client = self.number;
        assert_eq!(sent.id.as_deref(), id, "client {client} hears {event} in answer to {sent:?}");
        let reason = event["reason"].as_str().unwrap_or_default();
        let expect_refusal = |reasons: &[&str]| {
            assert!(
                kind == "error" && reasons.contains(&reason),
                "client {client}: {event} in answer to {sent:?}, not {reasons:?}"
            );
        };
        let expect =
            |wanted: &str| assert_eq!(kind, wanted, "client {client}: {event} in answer to {sent:?}");
        if let What::Hello { nickname } | What::Nick { nickname } | What::Resume { nickname } = &sent.what
            && kind == "error"
        {
            if reason == "nickname_in_use" {
                model.check_conflict(client, nickname, sent.moment);
            }
            model.give_up(client, nickname);
        }
        if reason == "rate_limited" {
            let is_early = sent.id.is_none() || sent.id != self.entitled;
            assert!(is_early, "client {client} waited as long as it was told: {event}");
            return self.hear_too_fast(model, &sent, event);
        }
        if sent.id.is_some() && self.entitled == sent.id {
            self.entitled = None;
            model.count("retries_in_time");
        }
        let is_verdict = matches!(sent.what, What::Moderate { .. } | What::Role { .. } | What::State { .. });
        if reason == "store_down" && !is_verdict {
            assert!(self.is_refused_by_store(model, sent.moment), "client {client}: {event} for nothing");
            return self.hear_store_down(model, sent);
        }
        match (&sent.what, &self.nickname) {
            (What::Ping, _) => expect("pong"),
            (What::Quit, _) => expect("bye"),
            (What::Garbage, _) => assert_eq!((kind, number(event, "code")), ("error", 400), "{sent:?}"),
            (What::Hello { .. } | What::Resume { .. }, Some(_)) => expect_refusal(&["already_said_hello"]),
            (What::Hello { .. }, None) if kind == "error" => {
                expect_refusal(&[
                    "nickname_in_use",
                    if model.may_drain(self.conn) { "draining" } else { "nickname_in_use" },
                ]);
            }
            (What::Hello { nickname }, None) => {
                expect("welcome");
                assert_eq!((text(event, "nickname"), &event["resumed"]), (&**nickname, &Value::Bool(false)));
                self.note_welcome(event);
                self.nickname = Some(nickname.clone());
            }
            (What::Resume { .. }, None) if kind == "error" => {
                expect_refusal(&["nickname_in_use", "draining"]);
                assert!(reason != "draining" || model.may_drain(self.conn));
                self.forget_session();
            }
            (What::Resume { .. }, None) => {
                expect("welcome");
                self.hear_resumed(model, event);
                self.nickname = Some(text(event, "nickname").to_owned());
                self.note_welcome(event);
            }
            (_, None) => expect_refusal(&["unauthenticated"]),
            (What::Nick { .. }, _) if kind == "error" => expect_refusal(&["nickname_in_use"]),
            (What::Nick { nickname }, Some(old)) => {
                expect("ack");
                model.give_up(client, old);
                self.renamed_at = model.moment;
                for membership in self.rooms.values_mut() {
                    membership.was_renamed = true;
                    membership.roles.clear();
                    membership.others.remove(&fold(nickname));
                    // Somebody else may have taken the old one and come here before this answer did.
                    membership.others.remove(&fold(old));
                }
                self.nickname = Some(nickname.clone());
            }
            (What::Join { room, .. }, _) if self.is_in(room) => expect_refusal(&["already_joined"]),
            (What::Join { room, .. }, Some(_)) if reason == "banned" => {
                assert!(model.may_be_banned(room, client), "client {client} is not banned: {event}");
                self.session.be_sure_of(room);
                model.count("bans_met");
            }
            (What::Switch { from, .. }, _) if !self.is_member(from) && !self.is_unsure(from) => {
                expect_refusal(&["not_a_member", "no_such_room"])
            }
            (What::Switch { from, .. }, _)
                if self.is_unsure(from) && ["not_a_member", "no_such_room"].contains(&reason) =>
            {
                self.session.be_sure_of(from);
            }
            (What::Switch { from, to, .. }, _) if self.is_in(to) || from == to => {
                expect_refusal(&["already_joined"]);
            }
            // A switch that a kill has cut in two leaves a session in both rooms.
            (What::Switch { .. }, _) if reason == "too_many_rooms" => {
                let rooms = self.rooms.len() + self.session.kept.len() + self.session.unsure.len();
                assert!(
                    model.restarts > 0 && rooms > self.terms.rooms_per_session,
                    "client {client}: {event}"
                );
            }
            (What::Switch { to, .. }, _) if reason == "banned" => {
                assert!(model.may_be_banned(to, client), "client {client} is not banned: {event}");
                model.count("bans_met");
            }
            // A switch leaves a room for the one it enters.
            (What::Join { room, .. }, _)
                if self.is_unsure(room) || !self.session.unsure.is_empty() && kind == "error" =>
            {
                if kind == "error" {
                    expect_refusal(&["too_many_rooms"]);
                    let rooms = self.rooms.len() + self.session.kept.len() + self.session.unsure.len();
                    assert!(rooms >= self.terms.rooms_per_session && !self.is_member(room), "{event}");
                    self.session.be_sure_of(room);
                } else {
                    self.enter(model, &sent, event);
                }
            }
            (What::Join { room, .. }, _)
                if !self.is_member(room)
                    && self.rooms.len() + self.session.kept.len() >= self.terms.rooms_per_session =>
            {
                expect_refusal(&["too_many_rooms"]);
            }
            (What::Join { .. }, Some(_)) => {
                expect("joined");
                self.enter(model, &sent, event);
            }
            (What::Switch { from, .. }, Some(_)) => {
                expect("joined");
                self.enter(model, &sent, event);
                self.session.be_sure_of(from);
                self.session.has_missed |= self.session.kept.remove(from).is_some();
                if let Some(membership) = self.rooms.get_mut(from) {
                    membership.is_being_left = true;
                }
            }
            (What::Leave { room }, _) if self.is_in(room) => {
                expect("left");
                assert_eq!((fold(text(event, "room")).as_str(), reason), (room.as_str(), "left"));
                let membership = self.rooms.remove(room).expect("looked at above");
                self.check_skipped(model, room, &membership);
            }
            (What::Leave { room }, _) if self.session.kept.contains_key(room) => {
                expect("left");
                self.session.kept.remove(room);
                self.session.has_missed = true;
            }
            (What::Leave { room }, _) => {
                if !self.session.be_sure_of(room) || kind == "error" {
                    expect_refusal(&["not_a_member", "no_such_room"]);
                }
            }
            (What::Message { content, .. }, _) if content.len() > self.terms.content_bytes => {
                expect_refusal(&["too_large"]);
                model.said(content).was_member = Some(false);
            }
            (What::Message { room, content, .. }, Some(_))
                if matches!(reason, "muted" | "forbidden")
                    && (self.is_member(room) || self.is_unsure(room)) =>
            {
                self.hear_silenced(model, room, reason);
                let said = model.said(content);
                said.was_member = Some(false).filter(|_| !said.is_repeated);
            }
            (What::Repeat { room, .. } | What::Typing { room }, Some(_))
                if matches!(reason, "muted" | "forbidden")
                    && (self.is_member(room) || self.is_unsure(room)) =>
            {
                self.hear_silenced(model, room, reason);
            }
            (What::Moderate { .. } | What::Role { .. } | What::State { .. }, Some(_)) => {
                self.hear_verdict(model, &sent, event);
            }
            (What::Message { room, content, level }, Some(nickname))
                if self.is_member(room) || kind == "ack" && self.may_have_been_in(model, room, *level) =>
            {
                expect("ack");
                let said = model.said(content);
                said.was_member = Some(true);
                let entry = Entry {
                    sender: nickname.clone(),
                    content: content.clone(),
                    timestamp: number(event, "timestamp"),
                };
                if let Some(known) = self.rooms.get(room).or(self.session.kept.get(room)) {
                    assert_eq!(text(event, "epoch"), known.epoch);
                }
                assert_eq!(text(event, "level"), level.word());
                self.check_level(model, content, *level);
                model.place(room, text(event, "epoch"), number(event, "offset"), entry);
            }
            (What::Message { content, .. }, _) => {
                expect_refusal(&["not_a_member", "no_such_room"]);
                let said = model.said(content);
                assert!(said.place.is_none() || said.is_repeated, "{said:?} was published and refused");
                said.was_member = Some(false).filter(|_| !said.is_repeated);
            }
            (What::Repeat { content, level, .. }, _) if kind == "ack" => {
                model.count("repeats_answered");
                // One that had been answered at a higher level is answered as it was then.
                let is_as_high = |reached: &&AckLevel| reached.word() == text(event, "level");
                let levels = [AckLevel::Sequenced, AckLevel::Stored, AckLevel::Synced];
                let reached = *levels.iter().find(is_as_high).expect("a level");
                assert!(reached >= *level, "client {client}: {event} in answer to {sent:?}");
                self.check_level(model, content, reached);
                model.check_repeated(
                    content,
                    reached,
                    text(event, "epoch"),
                    number(event, "offset"),
                    number(event, "timestamp"),
                );
            }
            (What::Repeat { content, .. }, _) => {
                expect_refusal(&["not_a_member", "no_such_room"]);
                let said = model.said(content);
                // What a connection left behind has said may be obeyed after this, and so may the next repetition.
                let is_same = |sent: &Sent| matches!(&sent.what, What::Repeat { content: other, .. } if other == content);
                let may_be_later = self.session.was_raced || self.outstanding.iter().any(is_same);
                let is_new = said.place.is_none() || may_be_later;
                assert!(is_new, "{said:?} was published and is not remembered");
            }
            (What::Typing { room }, _) if self.is_member(room) => expect("ack"),
            (What::Typing { room }, _) if self.is_unsure(room) && kind == "ack" => {}
            (What::Typing { .. }, _) => expect_refusal(&["not_a_member", "no_such_room"]),
            (What::Private { .. }, _) if reason == "unavailable" => model.count("private_refused"),
            (What::Private { .. }, _) if kind == "error" => expect_refusal(&["no_such_user"]),
            (What::Private { content, .. }, _) => {
                expect("ack");
                let is_stored = event["stored"] == true;
                assert_eq!(number(event, "delivered"), u64::from(!is_stored), "{event}");
                assert!(!is_stored || self.terms.grace_ms > 0, "{event}");
                model.count(if is_stored { "private_stored" } else { "private_delivered" });
                let said = model.said(content);
                (said.was_delivered, said.is_kept) = (true, is_stored);
            }
            (What::Members { .. }, _) if kind == "error" => expect_refusal(&["no_such_room"]),
            (What::Members { room, after }, _) => {
                expect("members");
                let of = |member: &Value| {
                    (
                        fold(text(member, "nickname")),
                        member["connected"] == true,
                        text(member, "role").to_owned(),
                    )
                };
                let page: Vec<(String, bool, String)> = list(event, "members").iter().map(of).collect();
                let heard = self.members_heard.entry(room.clone()).or_default();
                if after.is_none() {
                    heard.clear();
                }
                heard.extend(page);
                assert!(heard.windows(2).all(|pair| pair[0].0 < pair[1].0), "{event}");
                self.members_total = number(event, "total");
            }
            (What::Rooms, _) => {
                expect("rooms");
                let rooms: Vec<(String, u64, u64)> = list(event, "rooms")
                    .iter()
                    .map(|room| (fold(text(room, "room")), number(room, "members"), number(room, "offset")))
                    .collect();
                assert!(rooms.windows(2).all(|pair| pair[0].0 < pair[1].0), "{event}");
                self.rooms_heard = Some(rooms);
            }
            (What::History { .. }, _) if kind == "error" => expect_refusal(&["no_such_room"]),
            (What::History { room, before, after, limit }, _) => {
                expect("history");
                let page = list(event, "messages");
                let offsets = self.check_page(model, room, text(event, "epoch"), page);
                assert!(page.len() as u64 <= (*limit).min(self.terms.history_count), "{event}");
                let is_between = |offset: &u64| {
                    before.is_none_or(|before| *offset < before) && after.is_none_or(|after| *offset > after)
                };
                assert!(offsets.iter().all(is_between), "{event} in answer to {sent:?}");
                model.count(if page.is_empty() { "empty_histories" } else { "histories" });
            }
            (What::Received { offset }, _) => {
                expect("ack");
                // It may have been said of another session's inbox, before this one began in its place.
                if self.session.inbox.contains_key(offset) {
                    self.session.received = self.session.received.max(*offset);
                }
                model.count("received");
            }
            (What::TooLong | What::Health | What::Upgrade { .. }, _) => {
                panic!("{event} in answer to {sent:?}")
            }
        }
    }

    /// Messages that wait for the store may be answered later than what was said after them.
    fn take_early_answer(&mut self, model: &Model, id: Option<&str>) {
        let place = self.outstanding.iter().position(|sent| sent.id.is_some() && sent.id.as_deref() == id);
        let Some(place) = place.filter(|place| *place > 0 && self.terms.has_store) else { return };
        let waits = |sent: &Sent| match sent.what {
            What::Message { level, .. } | What::Repeat { level, .. } => {
                level > AckLevel::Sequenced || model.store.may_be_held(sent.moment)
            }
            _ => false,
        };
        if self.outstanding.iter().take(place).any(waits) {
            let sent = self.outstanding.remove(place).expect("looked at above");
            self.outstanding.push_front(sent);
        }
    }

    /// What was acknowledged at a level has reached it.
    fn check_level(&self, model: &mut Model, content: &str, level: AckLevel) {
        assert!(
            model.store.has(content, level),
            "client {}: {content:?} is not {}",
            self.number,
            level.word()
        );
        model.count(["acked_sequenced", "acked_stored", "acked_synced"][level as usize]);
        let said = model.said(content);
        said.acked = said.acked.max(Some(level));
    }

    /// A command was refused because the store is down. A message may have got its place all the same: the same command again tells.
    fn hear_store_down(&mut self, model: &mut Model, sent: Sent) {
        match sent.what {
            What::Message { room, content, .. } | What::Repeat { room, content, .. } => {
                let said = model.said(&content);
                (said.was_member, said.is_repeated) = (None, true);
                model.count("messages_refused_store_down");
                self.session.repeatable.push((sent.id.expect("with a store all have one"), room, content));
            }
            What::Resume { .. } | What::Hello { .. } | What::Nick { .. } => {}
            What::Join { .. } | What::Switch { .. } | What::Private { .. } => {}
            What::History { .. } => model.count("histories_unread"),
            what => panic!("client {}: the store is down for {what:?}", self.number),
        }
    }

    /// A command was refused for coming too fast, and has not happened.
    fn hear_too_fast(&mut self, model: &mut Model, sent: &Sent, event: &Value) {
        assert!(self.terms.has_rates && number(event, "retry_after_ms") > 0, "{event}");
        model.count("rate_refusals");
        if let What::Message { content, .. } = &sent.what {
            let said = model.said(content);
            said.was_member = Some(false).filter(|_| !said.is_repeated);
        }
    }

    /// Whether it may have been in a room when it said something there. Whoever is put out may hear later that what was said before is
    /// stored.
    fn may_have_been_in(&self, model: &Model, room: &str, level: AckLevel) -> bool {
        self.is_unsure(room) || level > AckLevel::Sequenced && model.may_be_expelled(room, self.number)
    }

    fn is_unsure(&self, room: &str) -> bool {
        self.session.unsure.contains(room)
    }

    /// The client is in a room, by a `join` or a `switch`.
    fn enter(&mut self, model: &mut Model, sent: &Sent, event: &Value) {
        let what = &sent.what;
        let skips = matches!(what, What::Join { skips: true, .. });
        let (room, hears_itself, since) = match what {
            What::Join { room, hears_itself, since, .. } => (room, *hears_itself, since.as_ref()),
            What::Switch { to, hears_itself, .. } => (to, *hears_itself, None),
            _ => unreachable!("only these two enter rooms"),
        };
        assert_eq!(fold(text(event, "room")), *room);
        let (epoch, offset) = (text(event, "epoch").to_owned(), number(event, "offset"));
        let own = self.nickname.clone().expect("who joins has said hello");
        let is_renaming = self.outstanding.iter().any(|sent| matches!(sent.what, What::Nick { .. }));
        if !is_renaming && self.renamed_at < sent.moment {
            let ban = model.bench.sentence("ban", room, &epoch, &fold(&own), sent.moment);
            assert!(ban.is_none(), "client {} has joined {room} in spite of {ban:?}", self.number);
        }
        let next = self.check_recovered(since, event);
        let kept = self.session.kept.remove(room);
        self.session.unsure.remove(room);
        if let Some(kept) = &kept {
            assert_eq!(kept.epoch, epoch, "client {}: {room} died under its member", self.number);
            assert!(offset + 1 >= kept.next, "client {}: {room} has lost its end: {event}", self.number);
        }
        if number(event, "members") == 1 && self.session.comebacks == 0 {
            if self.terms.history_count == 0 && !self.terms.has_listeners {
                assert_eq!(offset, 0, "a room without members has a history: {event}");
            }
            if offset == 0 && !self.terms.has_listeners {
                // A room lives as long as its members: whoever is alone there has just made it.
                model.begin_epoch(room, &epoch);
            }
            let role = text(event, "role");
            let is_usual = role == if room == "lobby" { "member" } else { "host" };
            assert!(is_usual || role == "guest" && model.bench.has_guests(room), "{event}");
        }
        if let Some(page) = event["messages"].as_array() {
            let offsets = self.check_page(model, room, &epoch, page);
            assert_eq!(offsets.last().copied().unwrap_or(offset), offset, "{event}");
            let What::Join { history: Some(wanted), .. } = what else { panic!("{event}: not asked for") };
            let there = offset.min(self.terms.history_count);
            // What cannot be read is left out; and where next to nothing is in memory, it may always be gone when the rest was read.
            let is_left_out = model.store.was_unread(sent.moment) || self.terms.memory_count == 1;
            let is_left_out = self.terms.has_store && is_left_out;
            let is_all = offsets.len() as u64 == there.min(*wanted);
            assert!(is_all || is_left_out, "client {} is told {offsets:?}: {event}", self.number);
        }
        let (was_replayed, was_told) = (next.is_some_and(|next| next <= offset), next.is_some());
        if was_replayed {
            model.count("replays");
        }
        if since.is_some() && !was_told {
            model.count("unrecovered");
        }
        let next = next.unwrap_or(offset + 1);
        // Its own messages are among what it is told now, but for those that it skipped before.
        let skipped = kept.filter(|kept| kept.next == next).map(|kept| kept.skipped).unwrap_or_default();
        // Whoever leaves with something left out is not told of it.
        self.session.has_missed |= skips || self.session.comebacks > 0 && !was_told;
        let mut membership =
            Membership { epoch, next, hears_itself, skips, was_replayed, skipped, ..Membership::default() };
        membership.begin(model, room, &own, event);
        assert!(self.rooms.insert(room.to_owned(), membership).is_none());
    }

    /// Checks messages that were asked for: in order, without a gap, and those that everybody knows. Returns their offsets.
    fn check_page(&self, model: &mut Model, room: &str, epoch: &str, page: &[Value]) -> Vec<u64> {
        let offsets: Vec<u64> = page.iter().map(|message| number(message, "offset")).collect();
        assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{room}: {offsets:?}");
        for message in page {
            model.place(room, epoch, number(message, "offset"), entry_of(message));
        }
        offsets
    }

    /// Whether a private message was kept for this client and told it before. Those that it has said it received must not
    /// come again.
    fn has_heard_kept(&mut self, model: &mut Model, offset: Option<u64>, content: &str) -> bool {
        let Some(offset) = offset else { return false };
        let session = &mut self.session;
        assert!(offset > session.received, "client {} has received {offset}", self.number);
        if let Some(known) = session.inbox.get(&offset) {
            assert_eq!(known, content, "client {}: another message {offset}", self.number);
            model.count("private_repeated");
            return true;
        }
        let last = session.inbox.last_key_value().map(|(offset, _)| *offset);
        assert!(last.is_none_or(|last| last < offset), "client {}: {offset} after {last:?}", self.number);
        session.inbox.insert(offset, content.to_owned());
        model.count("private_kept_heard");
        false
    }

    /// Checks that what a member did not hear was its own.
    pub fn check_skipped(&self, model: &Model, room: &str, membership: &Membership) {
        for offset in &membership.skipped {
            let author = model.author_at(room, &membership.epoch, *offset);
            assert!(
                author.is_none_or(|author| author == self.number),
                "client {} has missed {room} {offset}",
                self.number
            );
        }
    }
}

fn entry_of(message: &Value) -> Entry {
    Entry {
        sender: text(message, "sender").to_owned(),
        content: text(message, "content").to_owned(),
        timestamp: number(message, "timestamp"),
    }
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_else(|| panic!("no text {field:?} in {event}"))
}

fn number(event: &Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_else(|| panic!("no number {field:?} in {event}"))
}

fn list<'a>(event: &'a Value, field: &str) -> &'a Vec<Value> {
    event[field].as_array().unwrap_or_else(|| panic!("no list {field:?} in {event}"))
}
