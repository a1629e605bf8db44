//! What each request is in commands.

use std::sync::Arc;
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use super::job::{Claimed, Job, Listing, Taking, Then};
use super::keys::Keys;
use super::link::Link;
use super::script::Script;
use super::wire::Command;
use crate::chat::name::Nickname;
use crate::chat::user::{NodeId, SessionRef};
use crate::record::HistoryPage;
use crate::shard::backplane::{
    Append, BackplaneRequest, Keep, LogEntry, NodeMessage, Publish, Renew, RoomAt, SharedMessage,
};

/// Messages, and changes, of one answer to somebody who catches up. Where there are more, more is asked for.
pub(super) const CATCH_UP: usize = 512;

/// What stands where the id of the message before would, if a message has no place in an inbox.
pub(super) const PAST: &str = "past";

/// Places where a session was before that are remembered.
const BEFORE_MAX: usize = 8;

/// Names of rooms that are looked at together.
const NAMES: usize = 128;

/// JSON of one of our own types, which has no keys but texts.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Places, as scripts read them.
fn written(places: &[SessionRef]) -> String {
    places.iter().map(SessionRef::to_string).collect::<Vec<_>>().join(" ")
}

impl Link {
    /// The commands for a request; `None`: there are none.
    pub(super) fn job_of(&mut self, from: u16, request: BackplaneRequest, until: Instant) -> Option<Job> {
        let hold_ms = self.settings.hold_ms;
        let (command, then) = match request {
            BackplaneRequest::Open { room, make } => {
                let folded: Arc<str> = room.folded().into();
                let open = Command::script(Script::Open, &self.settings.keys.room(&folded))
                    .arg(make.as_deref().unwrap_or(""))
                    .arg(room.as_str())
                    .arg(self.settings.room_ttl_ms)
                    .arg(&self.line);
                let mut job = Job::one(from, open, Then::Open { room: folded.clone() }, until);
                if make.is_some() {
                    // After it: whoever takes names of the list because there are no such rooms looks again afterwards.
                    job.commands.push(self.list_room(&folded));
                }
                return Some(job);
            }
            // In its turn: an answer to whoever opened it may still come.
            BackplaneRequest::Close { room } => {
                return Some(Job { from, commands: smallvec![], then: Then::Close { room }, until });
            }
            BackplaneRequest::Publish(publish) => {
                let until = if self.is_settled() { until } else { Instant::now() };
                let (command, then) = self.publish(*publish);
                return Some(Job::one(from, command, then, until));
            }
            BackplaneRequest::Append(append) => {
                let until = if self.is_settled() { until } else { Instant::now() };
                let (command, then) = self.append(*append);
                return Some(Job::one(from, command, then, until));
            }
            BackplaneRequest::CatchUp(at) => self.catch_up(at),
            BackplaneRequest::Renew(renew) => {
                let folded: Arc<str> = renew.room.folded().into();
                let renewed = self.renew(*renew);
                let list = self.list_room(&folded);
                let commands = smallvec![renewed, list];
                return Some(Job { from, commands, then: Then::Open { room: folded }, until });
            }
            BackplaneRequest::Keep(keep) => (self.keep(*keep), Then::Nothing("keep a room")),
            BackplaneRequest::Page { wait, room, epoch, page } => {
                let HistoryPage { after, before, is_ascending, limit, bytes_max, .. } = page;
                let keys = [self.settings.keys.meta(&room), self.settings.keys.messages(&room)];
                let command = Command::script(Script::Page, &keys)
                    .arg(&*epoch)
                    .arg(after)
                    .arg(before)
                    .arg(u8::from(is_ascending))
                    .arg(limit);
                (command, Then::Page { wait, is_ascending, bytes_max })
            }
            BackplaneRequest::Utter { room, utterance } => {
                let channel = self.settings.keys.room_channel(&room);
                let command =
                    Command::anywhere("PUBLISH").arg(channel).arg(format!("u {}", json(&utterance)));
                (command, Then::Nothing("utter"))
            }
            BackplaneRequest::Rooms { wait, after, limit } => {
                let listing = Listing { wait, limit, found: Vec::new(), is_end: false };
                (self.names_after(after.as_deref(), limit), Then::RoomNames(Box::new(listing)))
            }
            BackplaneRequest::Claim { wait, nickname, session, has_token, sessions_max } => {
                let held = Claimed { nickname, session, has_token, sessions_max, before: smallvec![] };
                let command = self.claim_for(&held, hold_ms, false);
                (command, Then::Claim { wait, held })
            }
            BackplaneRequest::Replace { nickname, old, session, has_token } => {
                let keys = self.settings.keys.claims(nickname.folded());
                let held_before = self.nicknames.remove(&(nickname.folded().into(), old));
                self.given_up.remove(nickname.folded());
                let sessions_max = held_before.as_ref().map_or(usize::MAX, |held| held.sessions_max);
                let taken = self.taken_from.remove(&session);
                let taken_from = taken.as_ref().map_or(old.node, |taken| taken.node);
                let taken = taken.map(|taken| taken.places);
                let mut before = held_before.map(|held| held.before).or(taken).unwrap_or_default();
                if !before.contains(&old) {
                    before.insert(0, old);
                }
                before.truncate(BEFORE_MAX);
                let held = Claimed { nickname, session, has_token, sessions_max, before };
                self.hold_nickname(&held);
                let command = Command::script(Script::Replace, &keys)
                    .arg(session.to_string())
                    .arg(u8::from(has_token))
                    .arg(old.to_string())
                    .arg(hold_ms)
                    .arg(held.nickname.as_str())
                    .arg(&self.line)
                    .arg(written(&held.before))
                    .arg(taken_from);
                (command, Then::HoldNickname(held))
            }
            BackplaneRequest::Release { nickname, session } => {
                let key = self.settings.keys.nickname(nickname.folded());
                let command = Command::keyed("HDEL", &key).arg(session.to_string());
                (command, Then::Release { nickname, session })
            }
            BackplaneRequest::Find { wait, nickname } => {
                let key = self.settings.keys.nickname(nickname.folded());
                (Command::script(Script::Find, &[key]), Then::Find { wait })
            }
            BackplaneRequest::PutOut { wait, nickname } => {
                let keys = self.settings.keys.claims(nickname.folded());
                let command = Command::script(Script::PutOut, &keys).arg(hold_ms).arg(self.settings.node);
                (command.arg(&**self.roster.living()), Then::PutOut { wait })
            }
            BackplaneRequest::KeepSession {
                number,
                session,
                nickname,
                revision,
                body,
                wait,
                is_given_up,
            } => {
                let held = self.nicknames.get(&(nickname.folded().into(), session));
                let before = held.map(|held| written(&held.before)).unwrap_or_default();
                match is_given_up {
                    true => self.let_go(number, session, &nickname),
                    false => self.sessions.insert(number, session, Instant::now()),
                }
                let command = Command::script(Script::KeepSession, &[self.settings.keys.session(number)])
                    .arg(session.to_string())
                    .arg(revision)
                    .arg(body)
                    .arg(u8::from(is_given_up))
                    .arg(hold_ms)
                    .arg(u8::from(wait.is_some() && !is_given_up))
                    .arg(&self.line)
                    .arg(before);
                let then = wait.map(|wait| Then::Keep { wait, number, session, nickname });
                (command, then.unwrap_or(Then::KeepOn { number, session }))
            }
            BackplaneRequest::ForgetSession { number, session } => {
                self.sessions.remove(&number);
                (self.forget_session(number, session), Then::Nothing("forget a session"))
            }
            BackplaneRequest::FreeSession { number, session } => {
                self.sessions.remove(&number);
                let key = self.settings.keys.session(number);
                let command = Command::script(Script::FreeSession, &[key]).arg(session.to_string());
                (command, Then::Nothing("let go of a session"))
            }
            BackplaneRequest::LookForSession { number, room, session } => {
                let command = Command::keyed("HMGET", &self.settings.keys.session(number));
                (
                    command.arg("ref").arg("ended").arg("as").arg("body"),
                    Then::LookForSession { room, session },
                )
            }
            BackplaneRequest::TakeSession { wait, number, session, gone_from } => {
                let taking = Taking { wait, number, session, gone_from, is_second: false };
                (self.seek(taking), Then::Seek(taking))
            }
            BackplaneRequest::Tell { node, message } => {
                let wait = message.wait_here();
                let past = message.may_come_twice().then(|| self.past_inboxes(&message).into());
                (self.message_to(node, &message), Then::Tell { nodes: smallvec![node], wait, past })
            }
            BackplaneRequest::TellAll { message } => {
                let others = self.roster.living().iter().filter(|node| **node != self.settings.node);
                let nodes: SmallVec<[NodeId; 1]> = others.copied().collect();
                let commands = nodes.iter().map(|node| self.message_to(*node, &message)).collect();
                let wait = message.wait_here();
                return Some(Job { from, commands, then: Then::Tell { nodes, wait, past: None }, until });
            }
        };
        Some(Job::one(from, command, then, until))
    }

    /// A script of a room, with where a copy of it is.
    fn at(&self, script: Script, at: &RoomAt, more: Option<String>) -> Command {
        let keys = self.settings.keys.room(&at.room);
        let command = match more {
            None => Command::script(script, &keys),
            Some(key) => {
                let [meta, messages, changes, snapshot, by] = keys;
                Command::script(script, &[meta, messages, changes, snapshot, by, key])
            }
        };
        let RoomAt { epoch, position, known, .. } = at;
        let command = command.arg(&**epoch).arg(position.change).arg(position.offset);
        command.arg(known.change).arg(known.offset)
    }

    fn publish(&self, publish: Publish) -> (Command, Then) {
        let Publish { at, message, kept, key } = publish;
        let keys = &self.settings.keys;
        let key = key.map(|key| keys.message_key(&at.room, &key));
        let command = self
            .at(Script::Publish, &at, key)
            .arg(kept)
            .arg(self.settings.idempotency_ms.max(1))
            .arg(self.settings.room_ttl_ms)
            .arg(keys.room_channel(&at.room))
            .arg(json(&message));
        let SharedMessage { tag, .. } = message;
        (command, Then::Publish { room: at.room, epoch: at.epoch, tag })
    }

    fn append(&self, append: Append) -> (Command, Then) {
        let Append { at, ops, tag, is_guard } = append;
        let command = self
            .at(Script::Append, &at, None)
            .arg(self.settings.node)
            .arg(tag)
            .arg(u8::from(is_guard))
            .arg(self.settings.room_ttl_ms)
            .arg(self.settings.keys.room_channel(&at.room))
            .arg(json(&ops));
        (command, Then::Append { room: at.room, epoch: at.epoch, tag })
    }

    pub(super) fn catch_up(&self, at: RoomAt) -> (Command, Then) {
        let command = self.at(Script::CatchUp, &at, None).arg(CATCH_UP).arg(&self.line);
        let RoomAt { room, epoch, position: seen, .. } = at;
        (command, Then::CatchUp { room, epoch, seen })
    }

    fn renew(&self, renew: Renew) -> Command {
        let Renew { room, lost, epoch, snapshot, messages } = renew;
        let command = self
            .at(Script::Renew, &lost, None)
            .arg(&*epoch)
            .arg(room.as_str())
            .arg(snapshot.unwrap_or_default())
            .arg(self.settings.room_ttl_ms)
            .arg(self.settings.keys.room_channel(room.folded()))
            .arg(&self.line);
        messages.iter().fold(command, |command, entry| match entry {
            LogEntry::Message { position, timestamp_ms, message } => {
                command.arg(position.offset).arg(*timestamp_ms).arg(json(message))
            }
            LogEntry::Change { .. } => command,
        })
    }

    fn keep(&self, keep: Keep) -> Command {
        let Keep { at, snapshot, members } = keep;
        Command::script(Script::Keep, &self.settings.keys.room(&at.room))
            .arg(&*at.epoch)
            .arg(at.position.change)
            .arg(snapshot.unwrap_or_default())
            .arg(members)
            .arg(self.settings.room_ttl_ms)
    }

    /// Puts a room on the list of those that there may be.
    pub(super) fn list_room(&self, room: &str) -> Command {
        Command::keyed("ZADD", &self.settings.keys.rooms()).arg(0).arg(room)
    }

    /// Names of rooms after one, for a list that lacks so many.
    pub(super) fn names_after(&self, after: Option<&str>, lacking: usize) -> Command {
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        let key = self.settings.keys.rooms();
        Command::keyed("ZRANGEBYLEX", &key)
            .arg(from)
            .arg("+")
            .arg("LIMIT")
            .arg(0)
            .arg(lacking.clamp(1, NAMES))
    }

    /// How many names are looked for at once by somebody who lacks so many.
    pub(super) fn is_last(lacking: usize, names: usize) -> bool {
        names < lacking.clamp(1, NAMES)
    }

    /// Says again that a session has a nickname.
    pub(super) fn claim_again(&self, held: &Claimed) -> Command {
        self.claim_for(held, self.settings.hold_ms, true)
    }

    fn claim_for(&self, held: &Claimed, hold_ms: u64, is_held: bool) -> Command {
        let is_given_up =
            self.given_up.get(held.nickname.folded()).is_some_and(|(until, _)| *until > Instant::now());
        Command::script(Script::Claim, &self.settings.keys.claims(held.nickname.folded()))
            .arg(held.session.to_string())
            .arg(u8::from(held.has_token))
            .arg(held.sessions_max)
            .arg(hold_ms)
            .arg(held.nickname.as_str())
            .arg(u8::from(is_given_up))
            .arg(&self.line)
            .arg(u8::from(is_held))
            .arg(written(&held.before))
    }

    /// A session has been given up, and its nickname with it, which waits for it where it is.
    fn let_go(&mut self, number: u64, session: SessionRef, nickname: &Nickname) {
        if self.sessions.get(&number) == Some(&session) {
            self.sessions.remove(&number);
        }
        let key = (nickname.folded().into(), session);
        if let Some(held) = self.nicknames.remove(&key) {
            let until = Instant::now() + std::time::Duration::from_millis(self.settings.hold_ms);
            self.given_up.insert(key.0, (until, held));
        }
    }

    /// Another node has a session that was to be given up or taken back. Should that have ended meanwhile, nobody waits longer for its
    /// nickname than for a node that is silent.
    pub(super) fn let_go_soon(&mut self, number: u64, session: SessionRef, nickname: &Nickname) {
        let held = self.nicknames.get(&(nickname.folded().into(), session));
        let given_up = self.given_up.get(nickname.folded()).map(|(_, held)| held);
        if let Some(held) = held.or(given_up.filter(|held| held.session == session)).cloned() {
            let command = self.claim_for(&held, self.settings.lease_ms, true);
            self.push_urgent(0, command, Then::Nothing("let go of a nickname"));
        }
        self.let_go(number, session, nickname);
    }

    pub(super) fn hold_nickname(&mut self, held: &Claimed) {
        let key = (held.nickname.folded().into(), held.session);
        self.nicknames.insert(key, held.clone(), Instant::now());
    }

    pub(super) fn hold_session(&self, number: u64, session: SessionRef) -> Command {
        Command::script(Script::RenewSession, &[self.settings.keys.session(number)])
            .arg(session.to_string())
            .arg(self.settings.hold_ms)
            .arg(&self.line)
    }

    pub(super) fn seek(&self, taking: Taking) -> Command {
        let key = self.settings.keys.session(taking.number);
        Command::keyed("HMGET", &key).arg("ref").arg("free").arg("ended")
    }

    pub(super) fn take(&self, taking: Taking, old: SessionRef) -> Command {
        Command::script(Script::TakeSession, &[self.settings.keys.session(taking.number)])
            .arg(old.to_string())
            .arg(taking.session.to_string())
            .arg(self.settings.hold_ms)
            .arg(&self.line)
            .arg(BEFORE_MAX)
    }

    pub(super) fn forget_session(&self, number: u64, session: SessionRef) -> Command {
        let key = self.settings.keys.session(number);
        Command::script(Script::ForgetSession, &[key])
            .arg(session.to_string())
            .arg(self.settings.hold_ms)
            .arg(&self.line)
    }

    /// Whether a session has been put out that is or was at one of these places.
    pub(super) fn look_if_put_out(&self, folded: &str, places: &[SessionRef]) -> Command {
        let command = Command::keyed("HMGET", &self.settings.keys.put_out(folded));
        places.iter().fold(command, |command, place| command.arg(place.to_string()))
    }

    /// A message to another node.
    fn message_to(&self, node: NodeId, message: &NodeMessage) -> Command {
        Command::script(Script::Send, &[self.settings.keys.inbox(node)])
            .arg(self.settings.keys.inbox_channel(node))
            .arg(format!("{} {}", self.settings.node, json(message)))
            .arg(self.settings.hold_ms)
    }

    /// A message as it is announced without a place in the inbox. It is heard once at most, and in no order.
    fn past_inboxes(&self, message: &NodeMessage) -> String {
        format!("{PAST} - {} {}", self.settings.node, json(message))
    }

    /// Says that this node lives.
    pub(super) fn beat(&mut self) {
        let now = Instant::now();
        self.given_up.retain(|_, (until, _)| *until > now);
        self.taken_from.retain(|_, taken| taken.until > now);
        let command = beat(&self.settings);
        self.push_urgent(0, command, Then::Beat);
    }

    pub(super) fn look_at(&mut self, room: Arc<str>) {
        let command = Command::keyed("HMGET", &self.settings.keys.meta(&room));
        let command = command.arg("epoch").arg("change").arg("offset").arg("line");
        self.push_urgent(0, command, Then::Look { room });
    }

    /// The same, and lets the room last; and puts it on the list, from which it may have got lost.
    pub(super) fn touch(&mut self, room: Arc<str>) {
        let keys = self.settings.keys.room(&room);
        let list = self.list_room(&room);
        self.push_urgent(0, list, Then::Nothing("list a room"));
        let command = Command::script(Script::Touch, &keys).arg(self.settings.room_ttl_ms);
        self.push_urgent(0, command, Then::Look { room });
    }
}

/// Has all go on under another line, as something is lost.
pub(super) fn begin_line(keys: &Keys, run: &str) -> Command {
    let new = format!("{:016x}", crate::sys::random_u64());
    Command::script(Script::BeginLine, &[keys.line(), keys.begun()]).arg(new).arg(run)
}

/// Says that a node lives.
pub(super) fn beat(settings: &super::link::Settings) -> Command {
    Command::script(Script::Beat, &[settings.keys.nodes(), settings.keys.config(), settings.keys.line()])
        .arg(settings.node)
        .arg(settings.lease_ms)
        .arg(settings.hold_ms)
        .arg(&settings.digest)
}
