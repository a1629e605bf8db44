//! What happens in the rooms at home here: members come and go, speak, and are moderated. What a room decides is in
//! `chat`; here it is told to those who are in it.
//!
//! Whoever joins is not told of what happened before: the gathered batch is sent first, then the reply to the join.

use std::sync::Arc;

use super::Shard;
use super::fanout::Deaf;
use super::home::{HomeRoom, no_such_room, not_a_member};
use super::journal::{Asker, Pending};
use super::ledger::Sample;
use super::limits::too_fast;
use super::mail::{
    ApiRequest, ConnectionRef, Join, Joined, Mail, MemberEntry, Page, Push, Reply, ReplyTo, RoomEntry,
    RoomKey,
};
use super::reading::with_older;
use super::resume::SESSION_BYTES;
use super::shared::Knock;
use super::timers::Timer;
use crate::base::slots::Id;
use crate::chat::history::{self, Entry};
use crate::chat::idempotency::Seen;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::pattern::{Pattern, Patterns};
use crate::chat::refusal::{LeaveReason, Reason, Refusal};
use crate::chat::room::{
    Action, Departure, Entered, Entrant, Expelled, LOBBY, Role, Room, RoomBounds, Stamp,
};
use crate::chat::user::SessionRef;
use crate::config::{AckLevel, Config};
use crate::proto::wire::{Event, Json};
use crate::record::{CommandKey, Record, Retention};

/// How much rooms remember, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoomRules {
    retention: Retention,
    bounds: RoomBounds,
    /// The first that matches counts.
    rules: Vec<(Pattern, (Retention, history::Bounds))>,
    /// Bytes of all histories of one core.
    pub history_bytes_max: usize,
}

impl RoomRules {
    pub fn new(config: &Config, cores: usize, has_store: bool) -> Self {
        let limits = &config.limits;
        let all = &config.history;
        let memory_count = if has_store { all.memory_count } else { usize::MAX };
        // What is kept at all, and what of it is in memory.
        let of = |count: usize, bytes, age_s: u64| {
            let age_ms = age_s.saturating_mul(1000);
            let kept = Retention { count: count as u64, bytes: bytes as u64, age_ms };
            (kept, history::Bounds { count: count.min(memory_count), bytes, age_ms })
        };
        let (retention, history) = of(all.count, all.bytes, all.age_s);
        let rules = all.rooms.iter().filter_map(|rule| {
            let count = rule.count.unwrap_or(all.count);
            let (bytes, age_s) = (rule.bytes.unwrap_or(all.bytes), rule.age_s.unwrap_or(all.age_s));
            Some((Pattern::parse(&rule.pattern).ok()?, of(count, bytes, age_s)))
        });
        RoomRules {
            retention,
            bounds: RoomBounds {
                history,
                state_keys: limits.state_keys,
                state_key_bytes: limits.state_key_bytes,
                state_value_bytes: limits.state_value_bytes,
                restrictions: limits.restrictions_per_room,
            },
            rules: rules.collect(),
            history_bytes_max: all.memory_bytes / cores,
        }
    }

    pub fn of(&self, room: &RoomName) -> (Retention, RoomBounds) {
        let rule = self.rules.iter().find(|(pattern, _)| pattern.matches(room));
        let (retention, history) = rule.map_or((self.retention, self.bounds.history), |(_, bounds)| *bounds);
        (retention, RoomBounds { history, ..self.bounds })
    }
}

/// The place of a message that came by an HTTP request.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    pub room: RoomName,
    pub epoch: Arc<str>,
    pub stamp: Stamp,
}

/// Which rooms without members may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forget {
    Any,
    /// To forget the lobby makes no place for another room.
    NotTheLobby,
}

impl Shard {
    /// Takes a session in.
    pub(super) fn join_room(&mut self, from: SessionRef, join: Join, older: Vec<Entry>) -> Reply {
        match self.enter(from, join, older) {
            Ok(joined) => Reply::Joined(Box::new(joined)),
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    fn enter(&mut self, from: SessionRef, join: Join, older: Vec<Entry>) -> Result<Joined, Refusal> {
        self.check_store(AckLevel::Sequenced, SESSION_BYTES)?;
        let key = self.find_or_make_room(join.room.clone())?;
        let (nickname, is_admin) = (join.nickname.clone(), join.is_admin);
        let entered = self.enter_member(key, Entrant { session: from, nickname, is_admin })?;
        Ok(self.introduce(key, from, entered.role, join, older))
    }

    /// Makes a session a member, and tells the others.
    pub(super) fn enter_member(&mut self, key: Id, entrant: Entrant) -> Result<Entered, Refusal> {
        let nickname = entrant.nickname.clone();
        let now_ms = self.now.unix_ms;
        let is_exact = self.home.rooms[key].room.len() < self.presence.exact_members;
        if is_exact {
            self.tell_presence_batch(key); // before its count would include the newcomer, who is told by itself
        }
        let entry = &mut self.home.rooms[key];
        let entered = entry.room.join(entrant, now_ms)?;
        if let Some(place) = entry.idle.take() {
            self.home.idle.remove(&place);
        }
        if entered.is_new_user && !is_exact {
            self.note_presence(key, |batch, names_max| batch.join(nickname, names_max));
        } else if entered.is_new_user {
            self.tell_presence(key, "join", &nickname, |_| {}, None);
            if entered.role == Role::Host {
                // Only told where there is somebody to hear it: those who only read.
                self.tell_presence(key, "role", &nickname, |p| p.role = Some(Role::Host.as_str()), None);
            }
        } else if entered.was_away {
            self.tell_back(key, &nickname);
        }
        self.note_rules(key);
        Ok(entered)
    }

    /// Lets a member hear the room from now on, and tells it what there is. `older` are messages from before those in memory.
    pub(super) fn introduce(
        &mut self,
        key: Id,
        from: SessionRef,
        role: Role,
        join: Join,
        older: Vec<Entry>,
    ) -> Joined {
        let Join { encoding, since, history, replay_bytes, .. } = join;
        // The newcomer's core must hear what came before without taking it for the newcomer's.
        self.send_room(key);
        let entry = &mut self.home.rooms[key];
        entry.listen(from, encoding);
        self.expire_history(key);
        let entry = &self.home.rooms[key];
        let room = &entry.room;
        let (epoch, offset) = (room.epoch().clone(), room.offset());
        let recovered =
            since.as_ref().map(|since| *since.epoch == *epoch && entry.reaches_back_to(since.offset));
        let messages = history.map(|limit| {
            let mut messages = room.history().page(None, None, limit, self.limits.history_page_bytes);
            let first = entry.first_available();
            let older = older.into_iter().filter(|message| message.offset >= first).collect();
            messages.retain(|message| message.offset >= first);
            with_older(older, messages, room.offset(), limit)
        });
        let joined = Joined {
            room: room.name().clone(),
            key,
            epoch,
            offset,
            role,
            members: room.len() as u64,
            state: room.state().map(|(key, value, version)| (key.into(), value.clone(), version)).collect(),
            recovered,
            messages,
            replay: None,
        };
        let replay = match since {
            Some(since) if recovered == Some(true) && since.offset < offset => {
                // What is not in memory is asked for by the member's core, a page at a time.
                // It is compressed where it is sent from.
                let page = self.page(key, since.offset, encoding.uncompressed(), replay_bytes);
                page.or_else(|| Some(Page::nothing_after(since.offset)))
            }
            _ => None,
        };
        Joined { replay, ..joined }
    }

    pub(super) fn find_or_make_room(&mut self, name: RoomName) -> Result<Id, Refusal> {
        if let Some(key) = self.home.by_name.get(name.folded()) {
            return Ok(*key);
        }
        // The lobby is on top of the limit: whoever comes by a text line starts there, and a full server is to say so to
        // people who want one more room, not to all who come.
        let is_lobby = name.folded() == LOBBY;
        let others = self.home.rooms.len() - usize::from(self.home.by_name.contains_key(LOBBY));
        if !is_lobby && others >= self.limits.rooms && !self.forget_idle_room(Forget::NotTheLobby) {
            self.counters.rooms_full.add(1);
            let message = "the server has as many rooms as it may have";
            return Err(Refusal::new(Reason::TooManyRooms, message));
        }
        self.check_store(AckLevel::Sequenced, 0)?;
        let epoch: Arc<str> = format!("{:016x}", self.rng.next_u64()).into();
        let folded: Arc<str> = name.folded().into();
        let (retention, bounds) = self.room_rules.of(&name);
        // Positive as SQLite sees it, and not 0, which stands for none.
        let number = if self.journal.is_on { self.rng.next_u64() >> 1 | 1 } else { 0 };
        self.write_down(&Record::Room { room: number, name: name.as_str(), epoch: &epoch, retention });
        let mut room = Room::new(name, epoch, bounds);
        if self.journal.is_on {
            room.history_mut().pin_after(0, 0);
        }
        let key = self.home.rooms.insert(HomeRoom::new(room, self.cores(), number, retention));
        self.home.by_name.insert(folded, key);
        self.note_number(key);
        self.counters.rooms.set(self.home.rooms.len() as u64);
        Ok(key)
    }

    pub(super) fn note_number(&mut self, key: Id) {
        let number = self.home.rooms[key].number;
        if number != 0 {
            self.home.by_number.insert(number, key);
        }
    }

    /// Writes down who moderates a room and what is held against whom, if that has changed.
    pub(super) fn note_rules(&mut self, key: Id) {
        let now_ms = self.now.unix_ms;
        let is_written = self.journal.is_on;
        let Some(entry) = self.home.rooms.get_mut(key).filter(|_| is_written) else { return };
        let version = entry.room.rules_version();
        if std::mem::replace(&mut entry.rules_written, version) != version {
            let rules = serde_json::to_string(&entry.room.rules(now_ms)).expect("plain values become JSON");
            let room = entry.number;
            self.write_down(&Record::Rules { room, rules: &rules });
        }
    }

    /// Forgets the room that has been without members longest, and says whether there was one.
    fn forget_idle_room(&mut self, which: Forget) -> bool {
        let is_meant = |key: &Id| which == Forget::Any || self.home.rooms[*key].room.name().folded() != LOBBY;
        let Some(key) = self.home.idle.values().copied().find(is_meant) else { return false };
        self.counters.rooms_forgotten.add(1);
        self.remove_room(key);
        true
    }

    pub(super) fn remove_room(&mut self, key: Id) {
        let entry = self.home.rooms.remove(key).expect("only rooms that exist are removed");
        if let Some(place) = entry.idle {
            self.home.idle.remove(&place);
        }
        self.home.by_number.remove(&entry.number);
        self.counters.latency_unfollowed.add(entry.samples() as u64); // what it has not sent nobody hears
        self.write_down(&Record::RoomEnded { room: entry.number });
        self.count_forgotten(entry.room.history().bytes());
        self.home.by_name.remove(entry.room.name().folded());
        self.counters.rooms.set(self.home.rooms.len() as u64);
    }

    /// Forgets the messages of a room that are too old.
    pub(super) fn expire_history(&mut self, key: Id) {
        let history = self.home.rooms[key].room.history_mut();
        let before = history.bytes();
        history.expire(self.now.unix_ms);
        let expired = before - history.bytes();
        self.count_forgotten(expired);
    }

    /// So many bytes of histories are in memory no more.
    pub(super) fn count_forgotten(&mut self, bytes: usize) {
        self.home.history_bytes -= bytes;
        self.counters.history_bytes.set(self.home.history_bytes as u64);
    }

    /// A room's last member may have left: it goes, unless it has a history to keep.
    pub(super) fn consider_room(&mut self, key: Id) {
        if self.is_clustered() {
            return self.consider_shared(key);
        }
        let now_ms = self.now.unix_ms;
        let entry = &mut self.home.rooms[key];
        if !entry.is_deserted() {
            return;
        }
        let before = entry.room.history().bytes();
        let is_stored = entry.number != 0 && entry.first_available() <= entry.room.offset();
        let is_kept = entry.room.is_worth_keeping(now_ms) || is_stored;
        let expired = before - entry.room.history().bytes();
        self.count_forgotten(expired);
        if !is_kept {
            return self.remove_room(key);
        }
        let entry = &mut self.home.rooms[key];
        if entry.idle.is_none() {
            self.home.idle_count += 1;
            entry.idle = Some(self.home.idle_count);
            self.home.idle.insert(self.home.idle_count, key);
        }
        if let Some(at_ms) = entry.room.history().next_expiry_ms() {
            self.wheel.insert(self.now.tick + at_ms.saturating_sub(now_ms).max(1), Timer::Room(key));
        }
    }

    /// A room without members may have nothing to remember any more.
    pub(super) fn look_at_room(&mut self, key: Id) {
        if self.is_clustered() {
            self.look_at_shared(key);
        } else if self.home.rooms.get(key).is_some_and(HomeRoom::is_deserted) {
            self.consider_room(key);
        }
    }

    pub(super) fn leave_room(&mut self, from: SessionRef, key: Id, reason: LeaveReason) -> Reply {
        let Some(members_before) =
            self.home.rooms.get(key).filter(|e| e.room.member(from).is_some()).map(|e| e.room.len())
        else {
            return Reply::Refused(not_a_member());
        };
        let is_exact = members_before - 1 <= self.presence.exact_members;
        if is_exact {
            self.tell_presence_batch(key); // while its count includes the leaver, who is told by itself
        }
        let entry = &mut self.home.rooms[key];
        let room = entry.room.name().clone();
        entry.unlisten(from);
        let Departure { nickname, is_gone, heir } = entry.room.leave(from).expect("looked at above");
        if is_gone {
            self.tell_gone(key, &nickname, reason, heir.as_ref(), is_exact);
            self.note_rules(key);
            self.consider_room(key);
        }
        Reply::Left { room, reason }
    }

    /// A member's connection is gone.
    pub(super) fn detach_member(&mut self, from: SessionRef, key: Id) -> Reply {
        if let Some(entry) = self.home.rooms.get_mut(key) {
            entry.unlisten(from);
        }
        self.note_detached(from, key)
    }

    /// The others hear that a member has no connection.
    pub(super) fn note_detached(&mut self, from: SessionRef, key: Id) -> Reply {
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Noted };
        if entry.room.detach(from) == Some(true) {
            let nickname = entry.room.member(from).expect("it was detached").nickname.clone();
            if entry.room.len() <= self.presence.exact_members {
                self.tell_presence(key, "away", &nickname, |_| {}, None);
            }
        }
        Reply::Noted
    }

    /// A member goes on in another session.
    pub(super) fn attach_member(
        &mut self,
        from: SessionRef,
        key: Id,
        name: RoomName,
        nickname: &Nickname,
        old: SessionRef,
    ) -> Reply {
        let now_ms = self.now.unix_ms;
        let Some(entry) = self.home.rooms.get_mut(key) else {
            return Reply::NotAttached { room: key, name, reason: LeaveReason::Kicked };
        };
        entry.unlisten(old);
        match entry.room.attach(old, from) {
            Some(was_away) => {
                let nickname = entry.room.member(from).expect("it was attached").nickname.clone();
                if was_away {
                    self.tell_back(key, &nickname);
                }
                Reply::Noted
            }
            // Put out while it was on its way here.
            None => {
                let is_banned = entry.room.is_banned(nickname.folded(), now_ms);
                let reason = if is_banned { LeaveReason::Banned } else { LeaveReason::Kicked };
                Reply::NotAttached { room: key, name, reason }
            }
        }
    }

    /// Publishes a message. Without a reply it comes when the store has the message.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn publish(
        &mut self,
        from: SessionRef,
        key: Id,
        content: Arc<str>,
        echo: bool,
        level: AckLevel,
        number: u64,
        sample: &mut Option<Arc<Sample>>,
        reply_to: &ReplyTo,
    ) -> Option<Reply> {
        let now_ms = self.now.unix_ms;
        let Some(entry) = self.home.rooms.get_mut(key) else { return Some(Reply::Refused(not_a_member())) };
        let sender = match entry.room.speaker(from, now_ms) {
            Ok(sender) => sender,
            Err(refusal) => return Some(Reply::Refused(refusal)),
        };
        let id = reply_to.id().filter(|id| !id.is_empty() && number != 0);
        let command = id.map(|id| CommandKey { session: number, id });
        let deaf = (!echo).then_some(Deaf::Origin(from));
        match self.put_message(key, sender, content, deaf, level, command, sample) {
            Ok(_) if reply_to.id.is_none() => Some(Reply::Done { times: 1 }),
            Ok(Pushed { room, epoch, stamp }) if level == AckLevel::Sequenced => {
                Some(Reply::Published { room, epoch, stamp, level })
            }
            Ok(Pushed { room, epoch, stamp }) => {
                let asker = Asker::Session(from, reply_to.clone());
                self.answer_at(level, asker, Pending::Published { room, epoch, stamp, level });
                None
            }
            Err(refusal) => Some(Reply::Refused(refusal)),
        }
    }

    /// Answers when a message that has its place has reached a level.
    pub(super) fn confirm(
        &mut self,
        asker: Asker,
        room: RoomName,
        epoch: Arc<str>,
        stamp: Stamp,
        level: AckLevel,
    ) {
        if level == AckLevel::Sequenced {
            return self.reply_to_asker(asker, Reply::Published { room, epoch, stamp, level });
        }
        match self.check_store(level, 0) {
            Ok(()) => self.answer_at(level, asker, Pending::Published { room, epoch, stamp, level }),
            Err(refusal) => self.reply_to_asker(asker, Reply::Refused(refusal)),
        }
    }

    /// Publishes what came by an HTTP request, and makes the room for it if it is missing.
    pub(super) fn push(&mut self, from: ConnectionRef, push: Push) {
        let asker = Asker::Api(from);
        if self.is_clustered() {
            let (name, knock) =
                (push.room.clone(), Knock::Api(from, Box::new(ApiRequest::Publish(Box::new(push)))));
            if let Some((key, Knock::Api(from, request))) = self.open_or_wait(&name, true, knock)
                && let ApiRequest::Publish(push) = *request
            {
                self.push_shared(from, key, *push);
            }
            return;
        }
        let Push { room: name, sender, is_admin, content, level, idempotency_key, mut sample } = push;
        // Names have no line ends, so that no two senders and rooms make the same text.
        let known_as = idempotency_key.as_ref().map(|key| pushed_as(&sender, &name, key));
        if let Some(known_as) = &known_as
            && let Seen::Done(pushed) =
                self.home.pushed.look(known_as, self.now.tick, self.limits.idempotency_ms)
        {
            let Pushed { room, epoch, stamp } = pushed.clone();
            self.give_up_sample(sample);
            self.counters.repeated_commands.add(1);
            return self.confirm(asker, room, epoch, stamp, level);
        }
        let key = match self.find_or_make_room(name) {
            Ok(key) => key,
            Err(refusal) => {
                self.give_up_sample(sample);
                return self.reply_to_asker(asker, Reply::Refused(refusal));
            }
        };
        let checked = self.home.rooms[key].room.check_push(&sender, is_admin, self.now.unix_ms);
        let command = idempotency_key.as_deref().map(|id| CommandKey { session: 0, id });
        let pushed =
            checked.and_then(|()| self.put_message(key, sender, content, None, level, command, &mut sample));
        self.give_up_sample(sample);
        self.note_use(key);
        match pushed {
            Ok(pushed) => {
                self.counters.pushed.add(1);
                if let Some(known_as) = known_as {
                    self.remember_pushed(&known_as, pushed.clone());
                }
                let Pushed { room, epoch, stamp } = pushed;
                if level == AckLevel::Sequenced {
                    return self.reply_to_asker(asker, Reply::Published { room, epoch, stamp, level });
                }
                self.answer_at(level, asker, Pending::Published { room, epoch, stamp, level });
            }
            Err(refusal) => self.reply_to_asker(asker, Reply::Refused(refusal)),
        }
    }

    pub(super) fn remember_pushed(&mut self, known_as: &str, pushed: Pushed) {
        let window = &mut self.home.pushed;
        let before = window.len();
        window.begin(known_as, self.now.tick, self.limits.idempotency_keys);
        window.finish(known_as, pushed);
        self.counters.idempotency_keys_forgotten.add((before + 1 - window.len()) as u64);
    }

    /// A room without members was spoken in: it is the last of those to be forgotten, if it has anything to be kept for.
    fn note_use(&mut self, key: Id) {
        // To make place for its message it may have been forgotten itself.
        let Some(entry) = self.home.rooms.get_mut(key).filter(|entry| entry.room.is_empty()) else { return };
        let Some(place) = entry.idle else { return self.consider_room(key) };
        self.home.idle_count += 1;
        entry.idle = Some(self.home.idle_count);
        self.home.idle.remove(&place);
        self.home.idle.insert(self.home.idle_count, key);
    }

    /// Gives a message its place, and tells the members.
    #[allow(clippy::too_many_arguments)]
    fn put_message(
        &mut self,
        key: Id,
        sender: Nickname,
        content: Arc<str>,
        deaf: Option<Deaf>,
        level: AckLevel,
        command: Option<CommandKey>,
        sample: &mut Option<Arc<Sample>>,
    ) -> Result<Pushed, Refusal> {
        self.check_store(level, content.len())?;
        let entry = self.home.rooms.get_mut(key).expect("looked at by the caller");
        if let Err(ms) = entry.bucket.take(&self.rates.room, 1, self.now.tick) {
            self.counters.rate_limited_rooms.add(1);
            return Err(too_fast("this room gets too many messages", ms));
        }
        let room = entry.room.name().clone();
        let epoch = entry.room.epoch().clone();
        let before = entry.room.history().bytes();
        let stamp = entry.room.publish(sender.clone(), content.clone(), self.now.unix_ms);
        let after = entry.room.history().bytes();
        self.home.history_bytes = self.home.history_bytes + after - before;
        self.counters.published.add(1);
        if self.journal.is_on {
            let (room, is_noted) = (entry.number, std::mem::replace(&mut entry.is_noted, true));
            if !is_noted {
                self.journal.note(key);
            }
            let Stamp { offset, timestamp_ms } = stamp;
            let (sender, content) = (sender.as_str(), &*content);
            self.write_down(&Record::Message { room, offset, timestamp_ms, sender, content, command });
        }
        let event = Event::Message {
            room: room.as_str(),
            sender: sender.as_str(),
            content: &content,
            offset: stamp.offset,
            timestamp: stamp.timestamp_ms,
        };
        self.note_event(key, &event, deaf);
        if let Some(sample) = sample.take() {
            self.note_sequenced(key, sample);
        }
        self.bound_histories(key);
        Ok(Pushed { room, epoch, stamp })
    }

    /// A message has come in a room, for which others may have to go.
    pub(super) fn bound_histories(&mut self, key: Id) {
        if self.home.history_bytes > self.room_rules.history_bytes_max {
            self.forget_history(key);
        }
        self.counters.history_bytes.set(self.home.history_bytes as u64);
    }

    /// All histories together have grown too large by one message in a room.
    fn forget_history(&mut self, key: Id) {
        while self.home.history_bytes > self.room_rules.history_bytes_max {
            // With a store nothing is lost by it: the messages are there.
            if !self.journal.is_on && self.forget_idle_room(Forget::Any) {
                continue;
            }
            // It may have been without members, and forgotten itself.
            let Some(entry) = self.home.rooms.get_mut(key) else { break };
            let history = entry.room.history_mut();
            let before = history.bytes();
            if !history.drop_oldest() {
                return;
            }
            self.counters.history_forgotten.add(1);
            self.home.history_bytes -= before - history.bytes();
        }
    }

    pub(super) fn tell_typing(&mut self, from: SessionRef, key: Id) -> Reply {
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        let nickname = match entry.room.speaker(from, self.now.unix_ms) {
            Ok(nickname) => nickname,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let room = entry.room.name().clone();
        let event = Event::Typing { room: room.as_str(), nickname: nickname.as_str() };
        self.note_event(key, &event, Some(Deaf::OriginAndSlow(from)));
        Reply::Done { times: 1 }
    }

    pub(super) fn rename_member(&mut self, from: SessionRef, key: Id, nickname: Nickname) -> Reply {
        if self.home.rooms.get(key).is_some_and(|entry| entry.room.presence.has_left(&nickname)) {
            // That somebody of this name has left must be told before that there is one again.
            self.tell_presence_batch(key);
        }
        let now_ms = self.now.unix_ms;
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        let Some(renamed) = entry.room.rename(from, nickname.clone(), now_ms) else {
            return Reply::Refused(not_a_member());
        };
        if !entry.room.presence.rename(&renamed.old, &nickname) {
            // Otherwise nobody has been told of the old nickname.
            let old = renamed.old;
            self.tell_presence(
                key,
                "nick",
                &nickname,
                |p| p.from = Some(old.as_str()),
                Some(Deaf::Origin(from)),
            );
        }
        if let Some(expelled) = renamed.expelled {
            self.expel(key, expelled, LeaveReason::Banned);
        }
        self.note_rules(key);
        Reply::Done { times: 1 }
    }

    pub(super) fn set_state(
        &mut self,
        from: SessionRef,
        key: Id,
        name: &str,
        value: Option<Arc<str>>,
    ) -> Reply {
        let now_ms = self.now.unix_ms;
        let bytes = name.len() + value.as_ref().map_or(0, |value| value.len());
        if let Err(refusal) = self.check_store(AckLevel::Sequenced, bytes) {
            return Reply::Refused(refusal);
        }
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        let change = match entry.room.set_state(from, name, value.clone(), now_ms) {
            Ok(change) => change,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let room = entry.room.name().clone();
        let version = change.version;
        let number = entry.number;
        if change.is_changed {
            self.write_down(&Record::State { room: number, key: name, value: value.as_deref(), version });
            let event = Event::State {
                room: room.as_str(),
                key: name,
                value: Json(value.as_deref().unwrap_or("null")),
                version,
                sender: change.sender.as_str(),
            };
            self.note_event(key, &event, None);
        }
        Reply::StateSet { room, key: name.into(), version }
    }

    pub(super) fn get_state(&self, key: Id, name: &'static str) -> Reply {
        let Some(entry) = self.home.rooms.get(key) else { return Reply::Refused(not_a_member()) };
        let (room, value) = (entry.room.name().clone(), entry.room.state_of(name).cloned());
        Reply::State { room, key: name, value }
    }

    pub(super) fn set_role(&mut self, from: SessionRef, key: Id, target: &Nickname, role: Role) -> Reply {
        let now_ms = self.now.unix_ms;
        if let Err(refusal) = self.check_store(AckLevel::Sequenced, SESSION_BYTES) {
            return Reply::Refused(refusal);
        }
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        match entry.room.set_role(from, target, role, now_ms) {
            Ok(change) => {
                if change.is_changed {
                    self.tell_presence_batch(key); // it may have come unseen
                    self.tell_presence(key, "role", &change.nickname, |p| p.role = Some(role.as_str()), None);
                    self.note_rules(key);
                }
                Reply::Done { times: 1 }
            }
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    pub(super) fn moderate(
        &mut self,
        from: SessionRef,
        key: Id,
        action: Action,
        target: &Nickname,
        reason: Option<Box<str>>,
        seconds: Option<u64>,
    ) -> Reply {
        let now_ms = self.now.unix_ms;
        let until_ms = seconds.map(|seconds| now_ms.saturating_add(seconds.saturating_mul(1000)));
        if let Err(refusal) = self.check_store(AckLevel::Sequenced, SESSION_BYTES) {
            return Reply::Refused(refusal);
        }
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        let verdict = match entry.room.moderate(from, action, target, reason, until_ms, now_ms) {
            Ok(verdict) => verdict,
            Err(refusal) => return Reply::Refused(refusal),
        };
        self.counters.moderated.add(1);
        if matches!(action, Action::Mute | Action::Unmute) {
            self.tell_presence_batch(key); // the one concerned may have come unseen
        }
        match action {
            Action::Mute => self.tell_presence(key, "mute", &verdict.nickname, |_| {}, None),
            Action::Unmute => self.tell_presence(key, "unmute", &verdict.nickname, |_| {}, None),
            Action::Kick | Action::Ban | Action::Unban => {}
        }
        if matches!(action, Action::Kick | Action::Ban) {
            self.expel_event_streams(key, &verdict.nickname, action == Action::Ban);
        }
        if let Some(expelled) = verdict.expelled {
            let reason = if action == Action::Ban { LeaveReason::Banned } else { LeaveReason::Kicked };
            self.expel(key, expelled, reason);
        }
        self.note_rules(key);
        Reply::Done { times: 1 }
    }

    /// A user has been put out: its sessions are told, having heard what came before, and the room.
    fn expel(&mut self, key: Id, expelled: Expelled, reason: LeaveReason) {
        // While the count includes whoever has been put out, who is told by itself. Not before it was decided: what is
        // refused must not make a large room hear of each newcomer.
        let members_before = self.home.rooms[key].room.len() + 1;
        self.tell_presence_batch_of(key, members_before);
        self.send_room(key);
        let room = RoomKey { home: self.core, key };
        let name = self.home.rooms[key].room.name().clone();
        for session in expelled.sessions {
            self.forget_attaching(key, session);
            if session.node != self.node {
                continue; // its own node tells it
            }
            self.home.rooms[key].unlisten(session);
            self.forget_local(key, session);
            let (to, name) = (session.session, name.clone());
            self.post(session.core, Mail::Expelled { to, room, name, reason });
        }
        self.tell_gone(key, &expelled.nickname, reason, expelled.heir.as_ref(), true);
        self.note_rules(key);
        self.consider_room(key);
    }

    pub(super) fn list_members(&self, name: &RoomName, after: Option<&str>, limit: usize) -> Reply {
        let Some(key) = self.home.by_name.get(name.folded()) else { return Reply::Refused(no_such_room()) };
        let room = &self.home.rooms[*key].room;
        let members = room.list(after, limit).map(|member| MemberEntry {
            nickname: member.nickname.clone(),
            role: member.role,
            is_connected: member.is_connected(),
            last_active_ms: member.last_active_ms,
        });
        Reply::Members { room: room.name().clone(), total: room.len() as u64, members: members.collect() }
    }

    pub(super) fn list_rooms(&self, after: Option<&str>, limit: usize, allowed: Option<&Patterns>) -> Reply {
        use std::ops::Bound::{Excluded, Unbounded};
        let keys = self.home.by_name.range::<str, _>((after.map_or(Unbounded, Excluded), Unbounded));
        let rooms = keys.map(|(_, key)| &self.home.rooms[*key].room);
        let rooms = rooms.filter(|room| allowed.is_none_or(|allowed| allowed.matches(room.name())));
        let rooms = rooms.take(limit).map(|room| RoomEntry {
            room: room.name().clone(),
            members: room.len() as u64,
            offset: room.offset(),
        });
        Reply::Rooms { rooms: rooms.collect() }
    }
}

/// What a message by an HTTP request is remembered by.
pub(super) fn pushed_as(sender: &Nickname, room: &RoomName, key: &str) -> String {
    format!("{}\n{}\n{key}", sender.folded(), room.folded())
}
