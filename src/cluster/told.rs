//! What the answers mean, and who is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use super::answer::{self, counted, list, number, parse, text};
use super::ask::{CATCH_UP, PAST};
use super::job::{Claimed, Job, Listing, TakenFrom, Taking, Then};
use super::link::{LEFT, Link, Looked};
use super::wire::{Answer, Command, Trouble};
use crate::chat::name::Nickname;
use crate::chat::user::{NodeId, SessionRef};
use crate::shard::backplane::{
    BackplaneNews, ClaimOutcome, Failed, KnownSession, NodeMessage, OpenedRoom, Placed, Position, TakeOutcome,
};

/// Messages of other nodes that are read at once.
const INBOX: usize = 256;

/// The words for something whose answer makes no sense: then somebody else has written to the keys.
const SENSELESS: &str = "an answer that makes no sense";

impl Link {
    /// Tells what came of a job.
    pub(super) fn finish(&mut self, from: u16, then: Then, until: Instant, answers: &[Answer]) {
        let what = then.name();
        let understood = match answers.iter().find_map(|answer| answer.as_ref().err()) {
            Some(trouble) => {
                // Of a beat that is refused it is told when the backplane is down by that.
                if !matches!(then, Then::Beat) {
                    self.complain(what, trouble);
                }
                None
            }
            None => Some(answers),
        };
        let first = answers.first().and_then(|answer| answer.as_ref().ok());
        match then {
            Then::Nothing(_) => {}
            // What may have been done is waited for.
            Then::Tell { nodes, wait, past } => {
                for (node, answer) in nodes.into_iter().zip(answers) {
                    // Of a Redis Cluster the server is away that has the inbox. The others announce what they are told all the same.
                    if let (Some(past), Err(Trouble::Lost(_)), true) = (&past, answer, self.wire.is_some()) {
                        let channel = self.settings.keys.inbox_channel(node);
                        let command = Command::anywhere("PUBLISH").arg(channel).arg(&**past);
                        self.push_urgent(0, command, Then::Nothing("tell a node past its inbox"));
                    }
                    if let (Some(wait), Err(Trouble::Refused(_))) = (wait, answer) {
                        self.tell(from, BackplaneNews::NotTold { node, wait });
                    }
                }
            }
            // The list of rooms is not what was asked for: without it they are open all the same.
            Then::Open { room } => {
                let outcome = self.sense(what, first.map(|value| answer::opened(value, &room)));
                self.told_opened(from, room, outcome.and_then(|outcome| outcome), true);
            }
            Then::Close { room } => {
                self.rooms.remove(&room);
                self.to_hear.retain(|(heard, _)| *heard != room);
                let mut state = self.shared.state();
                if state.rooms.remove(&room).is_some() {
                    state.changed.insert(room);
                }
            }
            Then::Publish { room, epoch, tag } => {
                let outcome = self.sense(what, first.map(|value| placed(value, &epoch)));
                let outcome = outcome.and_then(|outcome| outcome);
                self.tell(from, BackplaneNews::Published { room, tag, outcome });
            }
            Then::Append { room, epoch, tag } => {
                let outcome = self.sense(what, first.map(appended)).and_then(|outcome| outcome);
                self.tell(from, BackplaneNews::Appended { room, epoch, tag, outcome });
            }
            Then::CatchUp { room, epoch, seen } => self.told_entries(from, room, epoch, seen, first),
            Then::Keep { wait, number, session, nickname } => {
                let outcome = self.sense(
                    what,
                    first.map(|value| if let Value::Int(kept) = value { Some(*kept == 1) } else { None }),
                );
                // It cannot be given up or taken back: another node has it by now.
                if matches!(outcome, Ok(false)) {
                    self.let_go_soon(number, session, &nickname);
                }
                self.tell(from, BackplaneNews::Kept { wait, outcome });
            }
            Then::Marks => self.told_marks(understood),
            Then::NewLine => self.told_new_line(first.and_then(text)),
            Then::Line => self.told_line(first.map(|value| text(value).unwrap_or(""))),
            Then::Page { wait, is_ascending, bytes_max } => {
                let page = first.map(|value| answer::page(value, is_ascending, bytes_max));
                let entries = self.sense(what, page).ok();
                self.tell(from, BackplaneNews::Page { wait, entries });
            }
            Then::RoomNames(listing) => self.told_names(from, listing, until, first),
            Then::RoomHeads(listing, names) => self.told_heads(from, listing, names, until, understood),
            Then::RoomsGone(names) => {
                let heads = understood.and_then(|answers| answers.split_first());
                for (name, head) in names.iter().zip(heads.map_or(&[][..], |(_, heads)| heads)) {
                    if matches!(head, Ok(value) if text(value).is_some()) {
                        let command = self.list_room(name);
                        self.push_urgent(0, command, Then::Nothing("list a room"));
                    }
                }
            }
            Then::Claim { wait, held } => {
                let outcome = self.sense(what, first.map(claimed));
                if outcome == Ok(ClaimOutcome::Granted) {
                    self.hold_nickname(&held);
                }
                let Claimed { nickname, session, .. } = held;
                self.tell(from, BackplaneNews::Claimed { wait, nickname, session, outcome });
            }
            Then::HoldNickname(held) => self.told_held(held, first),
            Then::Release { nickname, session } => {
                self.nicknames.remove(&(nickname.folded().into(), session));
            }
            Then::Find { wait } => {
                let found = self.sense(what, first.map(found));
                // Whoever had it has perhaps not said so again.
                let outcome = found.and_then(|found| match found {
                    None if !self.is_settled() => Err(Failed::Down),
                    found => Ok(found),
                });
                self.tell(from, BackplaneNews::Found { wait, outcome });
            }
            Then::LookForSession { room, session } => {
                if let Some([place, ended, kept_at, body]) = first.and_then(list) {
                    let known = known_session(session, [text(place), text(ended), text(kept_at), text(body)]);
                    self.tell(from, BackplaneNews::SessionKnown { room, session, known });
                }
            }
            Then::Seek(taking) => self.told_where(from, taking, until, first),
            Then::Judge(taking, old) => {
                // Its lease counts by the clock of the backplane, which was this when it was last told.
                let (then_ms, at) = self.clock;
                let now_ms = then_ms + at.elapsed().as_millis() as u64;
                let lease = first.map(|value| text(value).and_then(|over_ms| over_ms.parse::<f64>().ok()));
                match lease {
                    None => self.tell_taken(from, taking, Err(Failed::Down)),
                    // It is asked; should it be gone after all, that takes a while, and nothing is lost.
                    Some(over_ms)
                        if over_ms.is_some_and(|over_ms| over_ms >= now_ms as f64)
                            || over_ms.is_none_or(|over_ms| over_ms.fract() < LEFT)
                                && self.roster.may_live(self.settings.lease_ms, old.node, now_ms) =>
                    {
                        self.tell_taken(from, taking, Ok(TakeOutcome::Held { node: old.node }));
                    }
                    Some(_) => self.push_take(from, taking, old, until),
                }
            }
            Then::LookIfPutOut(taking, outcome) => self.told_if_put_out(from, taking, *outcome, first),
            Then::PutOut { wait } => {
                let outcome = self.sense(what, first.map(number));
                self.tell(from, BackplaneNews::PutOut { wait, outcome });
            }
            Then::Take(taking, old) => self.told_taken(from, taking, old, until, first),
            Then::HoldSession { number, session } => {
                let is_current = self.sessions.get(&number) == Some(&session);
                match first {
                    Some(Value::Int(0)) if is_current && self.is_settled() => {
                        self.lose_session(number, session);
                    }
                    Some(Value::Int(-1)) if is_current => {
                        self.tell(session.core, BackplaneNews::Unkept { session });
                    }
                    _ => {}
                }
            }
            Then::KeepOn { number, session } => {
                if let Some(Value::Int(-1)) = first
                    && self.is_settled()
                    && self.sessions.get(&number) == Some(&session)
                {
                    self.lose_session(number, session);
                }
            }
            Then::Look { room } => {
                let Some(core) = self.rooms.get(&room).map(|looked| looked.core) else { return };
                let Some(value) = first else {
                    return self.tell(core, BackplaneNews::Unseen { room });
                };
                let line = list(value).and_then(|parts| text(parts.get(3)?)).unwrap_or("");
                let (at, is_doubtful) = (where_it_is(value), line != self.line);
                self.tell(core, BackplaneNews::At { room, at, is_doubtful });
            }
            Then::Beat => match answers.first() {
                Some(Err(Trouble::Refused(why))) => self.refused_beat = Some(why.clone()),
                // In a Redis Cluster one server may be away.
                Some(Err(Trouble::Lost(_))) => {
                    self.tell_all(|| BackplaneNews::NodesUnheard);
                    self.beat_soon();
                }
                _ => self.told_nodes(first),
            },
            Then::Secrets => self.told_secrets(understood),
            Then::Inbox => self.told_inbox(first),
        }
    }

    /// What was understood; otherwise that it could not be done.
    fn sense<T>(&mut self, what: &str, answer: Option<Option<T>>) -> Result<T, Failed> {
        match answer {
            Some(Some(sense)) => Ok(sense),
            Some(None) => {
                self.complain(what, &Trouble::Refused(SENSELESS.to_owned()));
                Err(Failed::Down)
            }
            None => Err(Failed::Down),
        }
    }

    fn told_opened(
        &mut self,
        from: u16,
        room: Arc<str>,
        outcome: Result<Option<Box<OpenedRoom>>, Failed>,
        is_to_be_heard: bool,
    ) {
        let is_heard = match &outcome {
            Ok(Some(opened)) => !opened.is_doubtful,
            Err(failed) => *failed == Failed::Lost,
            Ok(None) => false,
        };
        if is_to_be_heard && is_heard {
            // At once where it is heard already: the core knows from the answer where it is.
            let touch_at = Instant::now() + Duration::from_millis(self.settings.room_ttl_ms) / 4;
            self.rooms.insert(room.clone(), Looked { core: from, touch_at }, Instant::now());
            self.to_hear.push((room.clone(), from));
        }
        self.tell(from, BackplaneNews::Opened { room, outcome, is_catch_up: !is_to_be_heard });
    }

    fn told_entries(
        &mut self,
        from: u16,
        room: Arc<str>,
        epoch: Arc<str>,
        seen: Position,
        first: Option<&Value>,
    ) {
        let Some(value) = first else {
            return self.tell(from, BackplaneNews::CaughtUp { room, epoch, outcome: Err(Failed::Down) });
        };
        let Some(caught_up) = answer::caught_up(value, seen, CATCH_UP) else {
            let outcome = self.sense("catch up", Some(answer::opened(value, &room)));
            return self.told_opened(from, room, outcome.and_then(|outcome| outcome), false);
        };
        let answer::CaughtUp { epoch, entries, position, has_more } = caught_up;
        let (same, outcome) = (room.clone(), Ok(entries));
        self.tell(from, BackplaneNews::CaughtUp { room: same, epoch: epoch.clone(), outcome });
        if has_more {
            self.tell(from, BackplaneNews::At { room, at: Some((epoch, position)), is_doubtful: false });
        }
    }

    fn told_names(&mut self, from: u16, mut listing: Box<Listing>, until: Instant, first: Option<&Value>) {
        let Some(names) = first.and_then(list) else {
            return self.tell(from, BackplaneNews::Rooms { wait: listing.wait, rooms: None });
        };
        let names: Vec<String> = names.iter().filter_map(text).map(str::to_owned).collect();
        listing.is_end = Self::is_last(listing.limit - listing.found.len(), names.len());
        if names.is_empty() {
            return self.tell(from, BackplaneNews::Rooms { wait: listing.wait, rooms: Some(listing.found) });
        }
        let head = |name: &String| {
            Command::keyed("HMGET", &self.settings.keys.meta(name)).arg("name").arg("members").arg("offset")
        };
        let commands = names.iter().map(head).collect();
        self.urgent.push_back(Job { from, commands, then: Then::RoomHeads(listing, names), until });
    }

    fn told_heads(
        &mut self,
        from: u16,
        mut listing: Box<Listing>,
        names: Vec<String>,
        until: Instant,
        answers: Option<&[Answer]>,
    ) {
        let Some(answers) = answers else {
            return self.tell(from, BackplaneNews::Rooms { wait: listing.wait, rooms: None });
        };
        let mut gone = Vec::new();
        let mut last = None;
        for (name, answer) in names.into_iter().zip(answers) {
            let head = answer.as_ref().ok().and_then(list).unwrap_or(&[]);
            let room = match head {
                [spelled, members, offset] => text(spelled)
                    .and_then(|spelled| answer::room_name(spelled, &name))
                    .map(|room| (room, number(members).unwrap_or(0), number(offset).unwrap_or(0))),
                _ => None,
            };
            match room {
                Some(room) if listing.found.len() < listing.limit => listing.found.push(room),
                Some(_) => {}
                None => gone.push(name.clone()),
            }
            last = Some(name);
        }
        if !gone.is_empty() {
            // Whoever makes one at this moment puts it on the list after it is there, and so it is seen here or put on the list later.
            let key = self.settings.keys.rooms();
            let taken_off = gone.iter().fold(Command::keyed("ZREM", &key), |command, name| command.arg(name));
            let look = |name: &String| Command::keyed("HGET", &self.settings.keys.meta(name)).arg("epoch");
            let commands = std::iter::once(taken_off).chain(gone.iter().map(look)).collect();
            self.urgent.push_back(Job { from, commands, then: Then::RoomsGone(gone), until });
        }
        let lacking = listing.limit - listing.found.len();
        if listing.is_end || lacking == 0 {
            return self.tell(from, BackplaneNews::Rooms { wait: listing.wait, rooms: Some(listing.found) });
        }
        let command = self.names_after(last.as_deref(), lacking);
        self.urgent.push_back(Job::one(from, command, Then::RoomNames(listing), until));
    }

    /// Whether a session has its nickname still, or again.
    fn told_held(&mut self, held: Claimed, first: Option<&Value>) {
        let Some(outcome) = first.and_then(claimed) else { return };
        // Before all is known that anybody knows, that it is another's may be so no more.
        if outcome == ClaimOutcome::Granted || outcome != ClaimOutcome::PutOut && !self.is_settled() {
            return;
        }
        // Unless it has been released meanwhile.
        let Claimed { nickname, session, .. } = held;
        if self.nicknames.remove(&(nickname.folded().into(), session)).is_some() {
            let is_put_out = outcome == ClaimOutcome::PutOut;
            self.tell(session.core, BackplaneNews::NicknameLost { session, nickname, is_put_out });
        }
    }

    /// Another node has taken a session while this one was not heard of.
    fn lose_session(&mut self, number: u64, session: SessionRef) {
        self.sessions.remove(&number);
        self.tell(session.core, BackplaneNews::SessionMoved { number, session });
    }

    fn tell_taken(&mut self, from: u16, taking: Taking, outcome: Result<TakeOutcome, Failed>) {
        let Taking { wait, number, session, .. } = taking;
        self.tell(from, BackplaneNews::Taken { wait, number, session, outcome });
    }

    fn told_where(&mut self, from: u16, taking: Taking, until: Instant, first: Option<&Value>) {
        let Some([place, free, ended]) = first.and_then(list) else {
            return self.tell_taken(from, taking, Err(Failed::Down));
        };
        let place = text(place).filter(|_| text(ended).is_none());
        let Some(old) = place.and_then(|place| place.parse::<SessionRef>().ok()) else {
            return self.tell_taken(from, taking, Ok(TakeOutcome::Gone));
        };
        if text(free) == Some("1") {
            return self.push_take(from, taking, old, until);
        }
        // A node knows its own sessions.
        if taking.gone_from == Some(old.node) {
            return self.push_take(from, taking, old, until);
        }
        if old.node == self.settings.node {
            return self.tell_taken(from, taking, Ok(TakeOutcome::Held { node: old.node }));
        }
        let command = Command::keyed("ZSCORE", &self.settings.keys.nodes()).arg(old.node);
        self.urgent.push_back(Job::one(from, command, Then::Judge(taking, old), until));
    }

    fn push_take(&mut self, from: u16, taking: Taking, old: SessionRef, until: Instant) {
        let command = self.take(taking, old);
        self.urgent.push_back(Job::one(from, command, Then::Take(taking, old), until));
    }

    fn told_taken(
        &mut self,
        from: u16,
        taking: Taking,
        old: SessionRef,
        until: Instant,
        first: Option<&Value>,
    ) {
        match first {
            None => self.tell_taken(from, taking, Err(Failed::Down)),
            Some(Value::Array(parts)) if parts.len() == 4 => {
                let (revision, body) = (number(&parts[0]), text(&parts[1]));
                let (revision, body) = (revision.unwrap_or(0), body.unwrap_or("").to_owned());
                let node = old.node;
                let old = text(&parts[2]).and_then(|place| place.parse().ok()).unwrap_or(old);
                let places = text(&parts[3]).unwrap_or("").split(' ').filter_map(|place| place.parse().ok());
                let places: Vec<SessionRef> = places.collect();
                self.sessions.insert(taking.number, taking.session, Instant::now());
                let held_until = Instant::now() + Duration::from_millis(self.settings.hold_ms);
                let taken_from =
                    TakenFrom { node, places: places.iter().copied().collect(), until: held_until };
                self.taken_from.insert(taking.session, taken_from);
                let known = [&[old][..], &places].concat();
                let look = owner_of(&body).map(|owner| self.look_if_put_out(owner.folded(), &known));
                let outcome = TakeOutcome::Taken { old, places, revision, body };
                match look {
                    Some(look) => {
                        let then = Then::LookIfPutOut(taking, Box::new(outcome));
                        self.urgent.push_back(Job::one(from, look, then, until));
                    }
                    None => self.tell_taken(from, taking, Ok(outcome)),
                }
            }
            // It has moved meanwhile: once more, and then somebody else wants it more.
            Some(_) if taking.is_second => {
                self.tell_taken(from, taking, Ok(TakeOutcome::Held { node: old.node }));
            }
            Some(_) => {
                let taking = Taking { is_second: true, ..taking };
                let command = self.seek(taking);
                self.urgent.push_back(Job::one(from, command, Then::Seek(taking), until));
            }
        }
    }

    /// A session that was taken may have been ended by an admin while its node was lost.
    fn told_if_put_out(&mut self, from: u16, taking: Taking, taken: TakeOutcome, first: Option<&Value>) {
        let Some(found) = first.and_then(list) else {
            return self.tell_taken(from, taking, Err(Failed::Down));
        };
        if found.iter().all(|place| *place == Value::Nil) {
            return self.tell_taken(from, taking, Ok(taken));
        }
        let Taking { number, session, .. } = taking;
        self.sessions.remove(&number);
        let command = self.forget_session(number, session);
        self.push_urgent(0, command, Then::Nothing("forget a session"));
        self.tell_taken(from, taking, Ok(TakeOutcome::Gone));
    }

    /// What the others are told when this node has said that it lives.
    fn told_nodes(&mut self, first: Option<&Value>) {
        let Some(parts) = first.and_then(list) else { return };
        let [is_late, now_ms, line, nodes @ ..] = parts else { return };
        self.take_line(text(line).unwrap_or(""));
        let now_ms = number(now_ms).unwrap_or(0);
        self.clock = (now_ms, Instant::now());
        let lease = |pair: &[Value]| Some((number(&pair[0])? as NodeId, number(&pair[1])?));
        let leases: Vec<(NodeId, u64)> = nodes.chunks_exact(2).filter_map(lease).collect();
        let is_other = self.roster.take(self.settings.lease_ms, now_ms, &leases);
        if number(is_late) == Some(1) {
            self.tell_all(|| BackplaneNews::Returned);
        }
        if is_other {
            let (living, lost) = (self.roster.living().clone(), self.roster.lost());
            self.tell_all(|| BackplaneNews::Nodes { living: living.clone(), lost: lost.clone() });
        }
        self.note_refusals_over();
    }

    /// A message that was announced: the id of the one before, its own, and what it says.
    pub(super) fn hear_inbox(&mut self, payload: &str) {
        let mut parts = payload.splitn(3, ' ');
        let (Some(before), Some(id), Some(said)) = (parts.next(), parts.next(), parts.next()) else { return };
        if before == PAST {
            return self.hear_said(said);
        }
        if stream_id(id) <= stream_id(&self.inbox_last) {
            return;
        }
        match before == self.inbox_last {
            true => self.hear_message(id, said),
            false => self.read_inbox(),
        }
    }

    /// Reads what came after the last message that was told.
    pub(super) fn read_inbox(&mut self) {
        if std::mem::replace(&mut self.is_reading_inbox, true) {
            return;
        }
        let inbox = self.settings.keys.inbox(self.settings.node);
        // What has been told goes; the last stays, so that whoever sends the next can say what came before it.
        let trim = Command::keyed("XTRIM", &inbox).arg("MINID").arg(&self.inbox_last);
        self.push_urgent(0, trim, Then::Nothing("trim the inbox"));
        let command = Command::keyed("XRANGE", &inbox);
        let command = command.arg(format!("({}", self.inbox_last)).arg("+").arg("COUNT").arg(INBOX);
        self.push_urgent(0, command, Then::Inbox);
    }

    fn told_inbox(&mut self, first: Option<&Value>) {
        self.is_reading_inbox = false;
        let Some(entries) = first.and_then(list) else { return };
        for entry in entries {
            let Some([id, fields]) = list(entry) else { continue };
            let said = list(fields).and_then(|fields| fields.get(1)).and_then(text);
            if let Some(id) = text(id)
                && stream_id(id) > stream_id(&self.inbox_last)
            {
                self.hear_message(id, said.unwrap_or(""));
            }
        }
        if entries.len() == INBOX {
            self.read_inbox();
        }
    }

    /// Tells a message of another node to the core that it is for.
    fn hear_message(&mut self, id: &str, said: &str) {
        self.inbox_last = id.to_owned();
        self.hear_said(said);
    }

    fn hear_said(&mut self, said: &str) {
        let read = said.split_once(' ').and_then(|(from, json)| {
            Some((from.parse::<NodeId>().ok()?, serde_json::from_str::<NodeMessage>(json).ok()?))
        });
        // This node says nothing to itself.
        let own = self.settings.node;
        let Some((from, message)) = read.filter(|(from, _)| *from != own) else {
            return self.complain(
                "hear another node",
                &Trouble::Refused("a message that makes no sense".to_owned()),
            );
        };
        let cores = self.shared.cores.max(1);
        let core = match &message {
            NodeMessage::Private { target, .. } => (self.home)(target.folded()),
            NodeMessage::Broadcast { .. } | NodeMessage::PutOut { .. } => {
                let message = Box::new(message);
                return self.tell_all(|| BackplaneNews::Told { from, message: message.clone() });
            }
            NodeMessage::GiveUp { number, .. } | NodeMessage::Left { number, .. } => {
                (number % cores as u64) as u16
            }
            NodeMessage::PrivateDone { ask, .. }
            | NodeMessage::BroadcastDone { ask, .. }
            | NodeMessage::GivenUp { ask, .. } => ask.core,
        };
        self.tell(core, BackplaneNews::Told { from, message: Box::new(message) });
    }
}

/// The parts of an id of a stream, which count one after the other.
fn stream_id(written: &str) -> (u64, u64) {
    let (ms, number) = written.split_once('-').unwrap_or((written, "0"));
    (ms.parse().unwrap_or(0), number.parse().unwrap_or(0))
}

/// What publish.lua says.
fn placed(value: &Value, epoch: &Arc<str>) -> Option<Result<Placed, Failed>> {
    let parts = list(value)?;
    Some(match (text(parts.first()?)?, &parts[1..]) {
        ("+", [offset, time]) => Ok(Placed {
            epoch: epoch.clone(),
            offset: number(offset).and_then(counted)?,
            timestamp_ms: number(time)?,
            is_repeated: false,
        }),
        ("repeated", [place]) => {
            let mut parts = text(place)?.split(' ');
            Ok(Placed {
                epoch: parts.next()?.into(),
                offset: parse(parts.next()?).and_then(counted)?,
                timestamp_ms: parse(parts.next()?)?,
                is_repeated: true,
            })
        }
        ("behind", []) => Err(Failed::Behind),
        ("lost", []) => Err(Failed::Lost),
        _ => return None,
    })
}

/// What append.lua says.
fn appended(value: &Value) -> Option<Result<Position, Failed>> {
    let parts = list(value)?;
    Some(match (text(parts.first()?)?, &parts[1..]) {
        ("+", [change, offset]) => {
            Ok(Position { change: number(change).and_then(counted)?, offset: number(offset)? })
        }
        ("lost", []) => Err(Failed::Lost),
        _ => return None,
    })
}

fn claimed(value: &Value) -> Option<ClaimOutcome> {
    Some(match text(value)? {
        "granted" => ClaimOutcome::Granted,
        "taken" => ClaimOutcome::Taken,
        "full" => ClaimOutcome::Full,
        "out" => ClaimOutcome::PutOut,
        _ => return None,
    })
}

/// Whose a session is that was kept (JSON).
fn owner_of(body: &str) -> Option<Nickname> {
    #[derive(serde::Deserialize)]
    struct Owned {
        nickname: String,
    }
    let Owned { nickname } = serde_json::from_str(body).ok()?;
    Nickname::parse(&nickname).ok()
}

/// What is kept of a session says of where it has gone on from.
fn known_session(from: SessionRef, [place, ended, kept_at, body]: [Option<&str>; 4]) -> KnownSession {
    match (place, body) {
        _ if ended.is_some() => KnownSession::Ended,
        (None, _) => KnownSession::Ended,
        (Some(place), Some(body)) if kept_at == Some(place) && place.parse() != Ok(from) => {
            KnownSession::Kept { body: body.to_owned() }
        }
        _ => KnownSession::OnItsWay,
    }
}

/// What find.lua says.
#[allow(clippy::type_complexity)] // it is what the core is told
fn found(value: &Value) -> Option<Option<(Nickname, Vec<SessionRef>)>> {
    let Some((spelled, sessions)) = list(value)?.split_first() else { return Some(None) };
    let nickname = Nickname::parse(text(spelled)?).ok()?;
    let sessions = sessions.iter().filter_map(text).filter_map(|session| session.parse().ok()).collect();
    Some(Some((nickname, sessions)))
}

/// Epoch, change and offset of a room; `None`: it is not there.
fn where_it_is(value: &Value) -> Option<(Arc<str>, Position)> {
    let [epoch, change, offset, _] = list(value)? else { return None };
    Some((text(epoch)?.into(), Position { change: number(change)?, offset: number(offset)? }))
}

impl Then {
    /// Whether a node that has come back looks for it, to find out whether something was lost.
    pub(super) fn is_write(&self) -> bool {
        matches!(
            self,
            Then::Publish { .. }
                | Then::Append { .. }
                | Then::Claim { .. }
                | Then::Keep { .. }
                | Then::KeepOn { .. }
                | Then::Take(..)
        )
    }

    /// For the log.
    fn name(&self) -> &'static str {
        match self {
            Then::Nothing(what) => what,
            Then::Tell { .. } => "tell other nodes",
            Then::Open { .. } => "open a room",
            Then::Publish { .. } => "publish",
            Then::Append { .. } => "append",
            Then::Keep { .. } | Then::KeepOn { .. } => "keep a session",
            Then::Marks | Then::NewLine | Then::Line => "find what is lost",
            Then::CatchUp { .. } => "catch up",
            Then::Page { .. } => "read messages",
            Then::RoomNames(_) | Then::RoomHeads(..) | Then::RoomsGone(_) => "list rooms",
            Then::Claim { .. } | Then::HoldNickname(_) => "claim a nickname",
            Then::Close { .. } => "close a room",
            Then::Release { .. } => "release a nickname",
            Then::Find { .. } => "find a nickname",
            Then::Seek(_) | Then::Judge(..) | Then::Take(..) | Then::LookIfPutOut(..) => "take a session",
            Then::PutOut { .. } => "put somebody out",
            Then::HoldSession { .. } => "hold a session",
            Then::LookForSession { .. } => "look for a session",
            Then::Look { .. } => "look at a room",
            Then::Beat => "say that this node lives",
            Then::Secrets => "say what this node signs with",
            Then::Inbox => "read the inbox",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_session_is_of_whoever_has_said_what_it_is() {
        let from: SessionRef = "2.1.2.0".parse().expect("as sessions are written");
        let known = |place, ended, kept_at| known_session(from, [place, ended, kept_at, Some("{}")]);
        let (there, kept) = (Some("3.0.4.0"), KnownSession::Kept { body: "{}".to_owned() });
        assert_eq!(known(None, None, None), KnownSession::Ended, "nothing is kept");
        assert_eq!(known(there, Some("1"), there), KnownSession::Ended);
        assert_eq!(known(there, None, Some("2.1.2.0")), KnownSession::OnItsWay, "taken, and not kept since");
        assert_eq!(known(Some("2.1.2.0"), None, Some("2.1.2.0")), KnownSession::OnItsWay, "nobody has it");
        assert_eq!(known(there, None, there), kept);
    }
}
