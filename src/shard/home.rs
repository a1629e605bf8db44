//! The rooms and nicknames whose home is this core: the only place that changes them.
//!
//! A room's events of one turn are gathered, encoded as they happen, and sent as one batch at the end of the turn.
//! Whoever joins is not told of what happened before: the gathered batch is sent first, then the reply to the join.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Shard;
use super::doubt::Delivery;
use super::encode::{ALL, ENCODINGS, Encoding, Scratch};
use super::event_streams::Audience;
use super::fanout::{Deaf, Exception, RoomBatch};
use super::journal::Asker;
use super::ledger::Sample;
use super::mail::{ConnectionRef, Handover, Mail, Private, Reply, ReplyTo, Request, RoomKey};
use super::nodes::private::PrivateDone;
use super::queue::Frames;
use super::reading::READS_MAX;
use super::registered::{Registered, Unstored};
use super::rooms::Pushed;
use super::session::Successor;
use super::shared::{Opening, Shared};
use super::timers::Timer;
use crate::base::bucket::Bucket;
use crate::base::slots::{Id, Slots};
use crate::chat::idempotency::Window;
use crate::chat::inbox::Kept;
use crate::chat::name::Nickname;
use crate::chat::presence::Batch;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::room::Room;
use crate::chat::user::{Claim, Registry, SessionRef};
use crate::proto::wire::Event;
use crate::record::Retention;

/// How much memory a buffer for what happens in a room in one turn keeps for another room and turn.
const KEPT_BUFFER_BYTES: usize = 8 * 1024;

/// How many rooms' buffers are kept for that. Of more rooms with events in one turn, the others' are made anew.
const KEPT_BUFFERS: usize = 1024;

/// How often the target of a private message is looked for again, when its session has just moved to another core. Each time is a turn
/// of some core later, or more.
const HANDOVER_TRIES_MAX: u8 = 64;

/// What a sender is told to wait when that was in vain, in milliseconds.
pub(super) const MOVING_RETRY_MS: u64 = 250;

/// What a user with as many sessions as one may have is told to wait, in milliseconds. When one of them will end nobody knows:
/// this is how often it is worth looking.
pub(super) const SESSIONS_RETRY_MS: u64 = 1000;

/// What this core is the home of.
#[derive(Debug, Default)]
pub struct Home {
    pub(super) nicknames: Registry,
    pub(super) rooms: Slots<HomeRoom>,
    /// The rooms in folded order of their names.
    pub(super) by_name: BTreeMap<Arc<str>, Id>,
    /// Rooms without members that are kept for their history, those that have been so longest first.
    pub(super) idle: BTreeMap<u64, Id>,
    /// The rooms that are in the store, by their numbers there.
    pub(super) by_number: HashMap<u64, Id>,
    /// Rooms that are to get the bounds of another configuration.
    pub(super) bounded_anew: Vec<Id>,
    /// The registered users, by the folded nickname. Keyed by text that peers choose, so with the standard library's keyed hash.
    pub(super) registered: std::collections::HashMap<Arc<str>, Registered>,
    /// What waits for them and is not in the store yet.
    pub(super) unstored_private: VecDeque<Unstored>,
    /// Rooms of other nodes' that are being opened here, by the folded name, which peers choose.
    pub(super) opening: std::collections::HashMap<Arc<str>, Opening>,
    /// Counts the rooms that became idle.
    pub(super) idle_count: u64,
    /// Bytes of all rooms' histories.
    pub(super) history_bytes: usize,
    /// The rooms that have events to be sent at the end of the turn.
    dirty: Vec<Id>,
    /// Buffers for them, kept from earlier turns: a room has none while nothing happens in it.
    #[expect(clippy::vec_box, reason = "they move between here and the rooms, as pointers")]
    spare: Vec<Box<[Gathered; ENCODINGS]>>,
    /// The places of messages that came by HTTP requests, by the sender, the room and the idempotency key.
    pub(super) pushed: Window<Pushed>,
    /// What became of private messages of other nodes, by the commands that they came by.
    pub(super) told_private: Window<PrivateDone>,
    /// Bytes gathered in this turn: when it is enough for one turn, no more input is read before it has been sent.
    pub(super) gathered_bytes: usize,
}

impl Home {
    /// Whether some room has events to be sent.
    pub fn has_gathered(&self) -> bool {
        !self.dirty.is_empty()
    }
}

/// A room with the whereabouts of its members.
#[derive(Debug)]
pub struct HomeRoom {
    pub(super) room: Room,
    /// How many messages may come in a time.
    pub(super) bucket: Bucket,
    /// The sessions that hear the room now.
    pub(super) listeners: HashMap<SessionRef, Encoding>,
    /// The event streams of it.
    pub(super) audience: Audience,
    /// Its place among the idle rooms, if it has no members.
    pub(super) idle: Option<u64>,
    /// Its number in the store; 0: there is none. What stands for it where nodes share the room means nothing to others.
    pub(super) number: u64,
    /// What there is beside the copy, where nodes share the room.
    pub(super) shared: Option<Box<Shared>>,
    /// How much of its history is kept there, and the first offset that is.
    pub(super) retention: Retention,
    pub(super) kept_from: u64,
    /// Whether it has a message in this turn's frame.
    pub(super) is_noted: bool,
    /// The version of its rules that has been written down.
    pub(super) rules_written: u64,
    /// How many of its listeners each core has.
    on_cores: Vec<u32>,
    /// How many of them hear each encoding.
    in_encodings: [u32; ENCODINGS],
    /// What has happened in this turn, encoded, if anything has.
    gathered: Option<Box<[Gathered; ENCODINGS]>>,
    events: u32,
    /// The events that are no messages.
    others: Vec<u32>,
    /// The offset before the first message gathered.
    after: u64,
    exceptions: Vec<Exception>,
    /// The messages whose way is followed.
    samples: Vec<(u32, Arc<Sample>)>,
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl HomeRoom {
    pub(super) fn new(room: Room, cores: usize, number: u64, retention: Retention) -> Self {
        HomeRoom {
            room,
            bucket: Bucket::default(),
            listeners: HashMap::new(),
            audience: Audience::default(),
            idle: None,
            number,
            shared: None,
            retention,
            kept_from: 1,
            is_noted: false,
            rules_written: 0,
            on_cores: vec![0; cores],
            in_encodings: [0; ENCODINGS],
            gathered: None,
            events: 0,
            others: Vec::new(),
            after: 0,
            exceptions: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Lets a session hear what happens from now on.
    pub(super) fn listen(&mut self, session: SessionRef, encoding: Encoding) {
        self.unlisten(session);
        self.listeners.insert(session, encoding);
        self.on_cores[usize::from(session.core)] += 1;
        self.in_encodings[encoding as usize] += 1;
    }

    /// Lets a session hear no more.
    pub(super) fn unlisten(&mut self, session: SessionRef) {
        if let Some(encoding) = self.listeners.remove(&session) {
            self.on_cores[usize::from(session.core)] -= 1;
            self.in_encodings[encoding as usize] -= 1;
        }
    }

    /// Lets an event stream hear what happens from now on, of somebody with this folded nickname if that was shown.
    pub(super) fn add_event_stream(&mut self, from: ConnectionRef, folded: Option<Arc<str>>) {
        if self.audience.add(from, folded) {
            self.on_cores[usize::from(from.core)] += 1;
            self.in_encodings[Encoding::EventStream as usize] += 1;
        }
    }

    /// Ends an event stream, and says whether there was one.
    pub(super) fn remove_event_stream(&mut self, from: ConnectionRef) -> bool {
        let was_there = self.audience.remove(from);
        if was_there {
            self.on_cores[usize::from(from.core)] -= 1;
            self.in_encodings[Encoding::EventStream as usize] -= 1;
        }
        was_there
    }

    /// Whether nobody is in it, and nobody listens.
    pub(super) fn is_deserted(&self) -> bool {
        self.room.is_empty() && self.audience.is_empty()
    }

    /// Encodes an event for everybody who will hear it, into buffers that are there.
    fn gather(&mut self, event: &Event, deaf: Option<Deaf>, scratch: &mut Scratch) -> usize {
        if let Some(who) = deaf {
            self.exceptions.push(Exception { event: self.events, who });
        }
        match event {
            // The first message of the batch tells where the messages begin.
            Event::Message { offset, .. } if self.events as usize == self.others.len() => {
                self.after = offset - 1;
            }
            Event::Message { .. } => {}
            _ => self.others.push(self.events),
        }
        self.events += 1;
        scratch.begin();
        let mut bytes = 0;
        for encoding in ALL {
            if self.in_encodings[encoding as usize] == 0 {
                continue;
            }
            let gathered = &mut self.gathered.as_mut().expect("taken before")[encoding as usize];
            let before = gathered.bytes.len();
            encoding.put_with(self.room.epoch(), event, scratch, &mut gathered.bytes);
            bytes += gathered.bytes.len() - before;
            gathered.ends.push(gathered.bytes.len() as u32);
        }
        bytes
    }

    /// The last event is a message whose way is followed.
    pub(super) fn note_sample(&mut self, sample: Arc<Sample>) {
        self.samples.push((self.events - 1, sample));
    }

    /// How many such messages have not been sent.
    pub(super) fn samples(&self) -> usize {
        self.samples.len()
    }

    /// What has happened in this turn, and the buffers that it was in.
    fn take_batch(
        &mut self,
        room: RoomKey,
        mut buffers: Box<[Gathered; ENCODINGS]>,
    ) -> (RoomBatch, Box<[Gathered; ENCODINGS]>) {
        let mut frames = SmallVec::new();
        for (encoding, gathered) in ALL.into_iter().zip(buffers.iter_mut()) {
            if gathered.ends.is_empty() {
                continue;
            }
            frames.push((
                encoding,
                Frames { bytes: gathered.bytes.as_slice().into(), ends: gathered.ends.as_slice().into() },
            ));
            gathered.bytes.clear();
            gathered.ends.clear();
            gathered.bytes.shrink_to(KEPT_BUFFER_BYTES);
        }
        let batch = RoomBatch {
            room,
            events: std::mem::take(&mut self.events),
            others: std::mem::take(&mut self.others),
            after: self.after,
            frames,
            exceptions: std::mem::take(&mut self.exceptions),
            followed: Vec::new(),
        };
        (batch, buffers)
    }
}

impl Shard {
    /// Does what a session asks of this core, and replies.
    pub(super) fn handle_request(&mut self, from: SessionRef, reply_to: ReplyTo, request: Request) {
        let (reply_to, request) = match self.is_clustered() {
            false => (reply_to, request),
            true => match self.take_shared(from, reply_to, request) {
                Some(own) => own,
                None => return,
            },
        };
        if let Request::Publish { content, .. } = &request
            && self.journal.holds_up(content.len())
        {
            return self.hold_message(from, reply_to, request);
        }
        let reply = match request {
            Request::Claim { nickname, has_token } => self.claim_nickname(from, nickname, has_token),
            Request::Release { nickname, number } => {
                self.home.nicknames.release(&nickname, from);
                self.forget_for_session(&nickname, number);
                self.counters.nicknames.set(self.home.nicknames.len() as u64);
                Reply::Released
            }
            Request::Return { room, echo, .. } => Reply::Returned { room, key: None, echo },
            Request::Reclaim { nickname, old, number, .. } => {
                self.home.nicknames.replace(&nickname, old, from);
                Reply::Reclaimed { registered: self.send_inbox(&nickname, from, number) }
            }
            Request::Private(private) => return self.route_private(from, reply_to, *private),
            Request::Handover(handover) => return self.hand_over(from, reply_to, handover),
            Request::Readdress(handover) => return self.readdress(from, reply_to, handover),
            Request::Left(handover) => return self.take_left(from, handover),
            Request::KeepForUser(handover) => return self.keep_for_user(from, reply_to, *handover),
            Request::Resume { number } => return self.find_session(from, reply_to, number),
            Request::Surrender { to, number, home } => {
                return self.surrender(to, number, Successor { session: from, number, home, reply_to });
            }
            Request::TakeElsewhere { number } => {
                return self.take_session_again(from, reply_to, number, 0, None);
            }
            Request::ReceivedByUser { nickname, through, number, is_command } => {
                self.received_by_user(&nickname, through, number);
                if is_command { Reply::Done { times: 1 } } else { Reply::Noted }
            }
            Request::InheritInbox { nickname, items } => self.inherit_inbox(from, &nickname, items),
            Request::Forget { number } => {
                self.forget_session(from, number);
                Reply::Noted
            }
            Request::Join(join) => return self.join_or_read(from, reply_to, join, Vec::new(), READS_MAX),
            Request::Leave { room, reason, is_listening } => {
                if is_listening {
                    self.send_room(room);
                }
                self.leave_room(from, room, reason)
            }
            Request::Detach { room } => self.detach_member(from, room),
            Request::Attach { room, name, nickname, old } => {
                self.attach_member(from, room, *name, &nickname, old)
            }
            Request::Replay { room, after, encoding, bytes_max } => {
                let asker = Asker::Session(from, reply_to);
                return self.replay(asker, room, after, encoding, bytes_max);
            }
            Request::Publish { room, content, echo, level, number, mut sample } => {
                let reply = self.publish(from, room, content, echo, level, number, &mut sample, &reply_to);
                self.give_up_sample(sample);
                match reply {
                    Some(reply) => reply,
                    None => return, // when the store says so
                }
            }
            Request::Confirm { room, epoch, stamp, level } => {
                return self.confirm(Asker::Session(from, reply_to), room, epoch, stamp, level);
            }
            Request::Typing { room } => self.tell_typing(from, room),
            Request::Rename { room, nickname } => self.rename_member(from, room, nickname),
            Request::SetState { room, key, value } => self.set_state(from, room, &key, value),
            Request::GetState { room, key } => self.get_state(room, key),
            Request::SetRole { room, target, role } => self.set_role(from, room, &target, role),
            Request::Moderate { room, action, target, reason, seconds } => {
                self.moderate(from, room, action, &target, reason, seconds)
            }
            Request::Members { room, after, limit } => self.list_members(&room, after.as_deref(), limit),
            Request::History { room, before, after, limit } => {
                return self.read_history(Asker::Session(from, reply_to), &room, before, after, limit);
            }
            Request::ExplainNotAMember { room } => {
                let is_there = self.home.by_name.contains_key(room.folded());
                Reply::Refused(if is_there { not_a_member() } else { no_such_room() })
            }
            Request::Rooms { after, limit, allowed } => {
                self.list_rooms(after.as_deref(), limit, allowed.as_ref())
            }
            Request::Broadcast(broadcast) => Reply::Heard { sessions: self.tell_everybody(&broadcast) },
        };
        self.post(from.core, Mail::Reply { to: from.session, home: self.core, reply_to, reply });
    }

    /// Sends what rooms have gathered in this turn.
    pub(super) fn send_gathered(&mut self) {
        let mut dirty = std::mem::take(&mut self.home.dirty);
        for key in dirty.drain(..) {
            self.send_room(key);
        }
        self.home.dirty = dirty;
        self.home.gathered_bytes = 0;
    }

    fn claim_nickname(&mut self, from: SessionRef, nickname: Nickname, has_token: bool) -> Reply {
        if let Err(refusal) = self.check_registered(&nickname, has_token) {
            return Reply::Refused(refusal);
        }
        let claimed = self.home.nicknames.claim(&nickname, from, has_token, self.limits.sessions_per_user);
        self.counters.nicknames.set(self.home.nicknames.len() as u64);
        match claimed {
            Claim::Granted => {
                let registered = self.send_inbox(&nickname, from, 0);
                Reply::Claimed { nickname, registered }
            }
            Claim::Taken => Reply::Refused(nickname_in_use()),
            Claim::Full => {
                self.counters.too_many_sessions.add(1);
                let message = "you have as many sessions as a user may have";
                Reply::Refused(Refusal::with_retry(Reason::TooManyConnections, message, SESSIONS_RETRY_MS))
            }
        }
    }

    fn route_private(&mut self, from: SessionRef, reply_to: ReplyTo, private: Private) {
        let Private { target, sender, content, tries, .. } = private;
        let mut handover = self.new_handover(target, sender, content, tries);
        match self.home.nicknames.find(&handover.target) {
            // Where all of its sessions were ending when they were asked, the inbox of the user is left.
            Some((sessions, spelled)) if tries <= HANDOVER_TRIES_MAX => {
                (handover.to, handover.target) = (sessions.to_vec(), spelled.clone());
                let first = handover.to[0].core;
                let request = Request::Handover(Box::new(handover));
                self.post(first, Mail::Request { from, reply_to, request });
            }
            _ => self.keep_for_user(from, reply_to, handover),
        }
    }

    /// A private message that begins its way here.
    pub(super) fn new_handover(
        &self,
        target: Nickname,
        sender: Nickname,
        content: Arc<str>,
        tries: u8,
    ) -> Handover {
        let is_registered = self.home.registered.contains_key(target.folded());
        Handover {
            home: self.core,
            to: Vec::new(),
            target,
            sender,
            content,
            delivered: 0,
            is_stored: false,
            is_full: false,
            is_registered,
            untold: Vec::new(),
            asked: Vec::new(),
            has_missed: false,
            timestamp_ms: self.now.unix_ms,
            key: None,
            tries,
            finds: 0,
            left_for: 0,
        }
    }

    /// Passes a private message to the next of its target's sessions, which is on this core.
    pub(super) fn hand_over(&mut self, from: SessionRef, reply_to: ReplyTo, mut handover: Box<Handover>) {
        let next = handover.to[0];
        debug_assert_eq!(next.core, self.core);
        if handover.is_registered {
            self.become_registered(next.session);
            // What its last connection may not have heard comes before this.
            if let Some(told) = self.doubt_of(next.session) {
                return told.hold(from, reply_to, handover);
            }
        }
        handover.to.remove(0);
        match self.sessions.get(next.session) {
            // It has just gone on elsewhere, or ended: its nickname's home will know.
            None => handover.has_missed = true,
            Some(session) if handover.asked.contains(&session.number) => {}
            Some(session) if session.is_ending() || session.is_upgrading() => {}
            // Another node will know.
            Some(session) if session.is_given_up() => handover.has_missed = true,
            // Its hello has not been answered: what is kept for its user comes to it too.
            Some(session) if handover.is_registered && session.number == 0 => {}
            Some(session) if handover.is_registered && !session.may_be_told() => {
                handover.asked.push(session.number);
                handover.untold.push(session.number);
            }
            Some(session) => {
                let number = session.number;
                handover.asked.push(number);
                let kept = Kept::Private {
                    offset: None,
                    sender: handover.sender.clone(),
                    target: handover.target.clone(),
                    content: handover.content.clone(),
                    timestamp_ms: handover.timestamp_ms,
                    key: handover.key.clone().filter(|_| self.nodes.is_clustered),
                };
                match self.tell_user(next.session, kept) {
                    Delivery::Told => handover.delivered += 1,
                    Delivery::Kept => {
                        handover.is_stored = true;
                        self.counters.private_kept.add(1);
                    }
                    Delivery::Dropped if handover.is_registered => handover.untold.push(number),
                    Delivery::Dropped => {
                        handover.is_full = true;
                        self.counters.private_not_kept.add(1);
                    }
                }
            }
        }
        if let Some(next) = handover.to.first() {
            let core = next.core;
            return self.post(core, Mail::Request { from, reply_to, request: Request::Handover(handover) });
        }
        if std::mem::take(&mut handover.has_missed) {
            let home = handover.home;
            if handover.tries < HANDOVER_TRIES_MAX {
                handover.tries += 1;
                let mail = Mail::Request { from, reply_to, request: Request::Readdress(handover) };
                return match home == self.core {
                    // It would be here again at once, and all tries would be over before the session has got anywhere.
                    true => self.deferred.push_back(mail),
                    false => self.post(home, mail),
                };
            }
            // In a cluster it may be on its way to another node: the backplane is asked where it is.
            let is_over = !self.is_clustered();
            if is_over && handover.delivered == 0 && !handover.is_stored && handover.untold.is_empty() {
                let message = "this user's session is on its way to another connection";
                let refusal = Refusal::with_retry(Reason::Unavailable, message, MOVING_RETRY_MS);
                return self.answer_private(from, reply_to, home, Reply::Refused(refusal));
            }
        }
        self.finish_handover(from, reply_to, handover);
    }

    /// A session of a nickname was not where it was looked for: it may be elsewhere now, or be coming there.
    fn readdress(&mut self, from: SessionRef, reply_to: ReplyTo, mut handover: Box<Handover>) {
        let sessions = self.home.nicknames.find(&handover.target).map(|(sessions, _)| sessions.to_vec());
        handover.to = sessions.unwrap_or_default();
        match handover.to.first() {
            Some(first) => {
                let core = first.core;
                self.post(core, Mail::Request { from, reply_to, request: Request::Handover(handover) });
            }
            None => self.finish_handover(from, reply_to, handover),
        }
    }

    /// All sessions have been asked: what could not be told is kept, and the sender hears what became of it.
    pub(super) fn finish_handover(&mut self, from: SessionRef, reply_to: ReplyTo, handover: Box<Handover>) {
        if !handover.untold.is_empty() {
            let home = handover.home;
            return self
                .post(home, Mail::Request { from, reply_to, request: Request::KeepForUser(handover) });
        }
        let Handover {
            home,
            target,
            sender,
            content,
            delivered: sessions,
            is_stored,
            is_full,
            timestamp_ms,
            key,
            finds,
            asked,
            ..
        } = *handover;
        let reply = match (sessions, is_stored) {
            (0, false) if is_full => Reply::Refused(inbox_full()),
            (0, false) => {
                let tries = HANDOVER_TRIES_MAX + 1;
                let private = Private { target, sender, content, key, tries, finds };
                let request = Request::Private(Box::new(private));
                return self.post(home, Mail::Request { from, reply_to, request });
            }
            _ => {
                if let Some(key) = key.filter(|_| self.is_clustered()) {
                    let done = Box::new(PrivateDone { delivered: sessions, is_stored, asked });
                    self.post(home, Mail::PrivateKnown { key, done });
                }
                Reply::Delivered { target, sessions, is_stored, timestamp_ms }
            }
        };
        self.answer_private(from, reply_to, home, reply);
    }

    pub(super) fn note_presence(&mut self, key: Id, note: impl FnOnce(&mut Batch, usize)) {
        let entry = self.home.rooms.get_mut(key).expect("presence of a room that exists");
        let was_pending = entry.room.presence.is_pending();
        note(&mut entry.room.presence, self.presence.batch_names);
        if !was_pending {
            self.wheel.insert(self.now.tick + self.presence.batch_ms, Timer::Presence(key));
        }
    }

    pub(super) fn note_event(&mut self, key: Id, event: &Event, deaf: Option<Deaf>) {
        let entry = self.home.rooms.get_mut(key).expect("events of a room that exists");
        if entry.gathered.is_none() {
            entry.gathered = Some(self.home.spare.pop().unwrap_or_default());
            self.home.dirty.push(key);
        }
        self.home.gathered_bytes += entry.gather(event, deaf, &mut self.scratch);
    }

    pub(super) fn send_room(&mut self, key: Id) {
        let room = RoomKey { home: self.core, key };
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let Some(buffers) = entry.gathered.take() else { return };
        let (mut batch, buffers) = entry.take_batch(room, buffers);
        if self.home.spare.len() < KEPT_BUFFERS {
            self.home.spare.push(buffers);
        }
        let cores: Vec<u16> =
            (0..entry.on_cores.len() as u16).filter(|core| entry.on_cores[*core as usize] > 0).collect();
        if !entry.samples.is_empty() {
            let (samples, on_cores) = (std::mem::take(&mut entry.samples), entry.on_cores.clone());
            batch.followed = self.draw_followed(samples, &on_cores);
        }
        let batch = Arc::new(batch);
        for core in cores {
            self.post(core, Mail::Room(batch.clone()));
        }
    }
}

pub(super) fn nickname_in_use() -> Refusal {
    Refusal::new(Reason::NicknameInUse, "somebody else has this nickname")
}

pub(super) fn not_a_member() -> Refusal {
    Refusal::new(Reason::NotAMember, "you are not in this room")
}

pub(super) fn no_such_room() -> Refusal {
    Refusal::new(Reason::NoSuchRoom, "there is no such room")
}

pub(super) fn inbox_full() -> Refusal {
    let message = "this user has not taken what was said before, and no more can be kept";
    Refusal::new(Reason::Unavailable, message)
}

pub(super) fn no_such_user() -> Refusal {
    Refusal::new(Reason::NoSuchUser, "nobody here has this nickname")
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::chat::history::Bounds;
    use crate::chat::name::RoomName;
    use crate::chat::room::{Entrant, RoomBounds};
    use crate::config::{Config, ListenKind};
    use crate::shard::Flock;

    #[test]
    fn a_session_that_has_moved_is_looked_for_where_it_is_now() {
        let flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        let mut hello = |name: &str| {
            let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
            shard.receive(id, &mut format!("{{\"type\":\"hello\",\"nickname\":\"{name}\"}}\n").into_bytes());
            (id, shard.connections[id].session.unwrap())
        };
        let ((alice, _), (_, bob)) = (hello("alice"), hello("bob"));
        let gone = Id { index: 77, generation: 1 };
        let nickname = |shard: &Shard, session: Id| shard.sessions[session].nickname.clone().unwrap();
        let target = nickname(&shard, shard.connections[alice].session.unwrap());
        // As if another session of alice's had been told, and this one had come back on another core since its home was asked.
        let mut handover = shard.new_handover(target, nickname(&shard, bob), "psst".into(), 0);
        handover.to = vec![SessionRef { node: 0, core: 0, session: gone }];
        (handover.delivered, handover.asked) = (1, vec![12345]);
        let from = SessionRef { node: 0, core: 0, session: bob };
        shard.sessions[bob].under_way += 1;
        shard.window[0] += 1;
        shard.hand_over(from, ReplyTo { id: Some("1".into()), encoding: None }, Box::new(handover));
        shard.set_congested(false); // a turn later
        shard.settle();
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = shard.gather(alice, &mut slices);
        let told: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told.matches("psst").count(), 1, "{told}");
        assert!(shard.sessions[bob].is_idle(), "the sender has had its answer");
    }

    /// A session of two users who are at home here, and what the first of them is told for a private message to the other.
    fn shard_with_two() -> (Shard, Id, SessionRef, Nickname) {
        let flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        let ids = ["bob", "alice"].map(|name| {
            let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
            shard.receive(id, &mut format!("{{\"type\":\"hello\",\"nickname\":\"{name}\"}}\n").into_bytes());
            id
        });
        let alice = shard.connections[ids[1]].session.unwrap();
        let nickname = shard.sessions[alice].nickname.clone().unwrap();
        (shard, ids[0], SessionRef { node: 0, core: 0, session: alice }, nickname)
    }

    fn heard(shard: &Shard, id: Id) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = shard.gather(id, &mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    }

    /// On its way from this core to another, which has not told its nickname's home yet.
    #[test]
    fn a_private_message_waits_for_a_session_that_is_on_its_way() {
        let (mut shard, bob, alice, nickname) = shard_with_two();
        let gone = SessionRef { session: Id { index: 77, generation: 1 }, ..alice };
        shard.home.nicknames.replace(&nickname, alice, gone);
        let private = "{\"type\":\"private\",\"target\":\"alice\",\"content\":\"psst\",\"id\":\"1\"}\n";
        shard.receive(bob, &mut private.as_bytes().to_vec());
        for _ in 0..3 {
            assert!(!heard(&shard, bob).contains("\"id\":\"1\""), "{}", heard(&shard, bob));
            shard.set_congested(false);
        }
        shard.home.nicknames.replace(&nickname, gone, alice);
        shard.set_congested(false);
        assert!(heard(&shard, bob).contains("\"delivered\":1"), "{}", heard(&shard, bob));
        assert!(!shard.has_deferred());
    }

    #[test]
    fn whoever_is_always_on_the_way_may_be_written_to_later() {
        let (mut shard, bob, alice, nickname) = shard_with_two();
        shard.home.nicknames.replace(
            &nickname,
            alice,
            SessionRef { session: Id { index: 77, generation: 1 }, ..alice },
        );
        let private = "{\"type\":\"private\",\"target\":\"alice\",\"content\":\"psst\",\"id\":\"1\"}\n";
        shard.receive(bob, &mut private.as_bytes().to_vec());
        let mut turns = 0;
        while shard.has_deferred() {
            shard.set_congested(false);
            turns += 1;
        }
        assert_eq!(turns, usize::from(HANDOVER_TRIES_MAX));
        assert!(heard(&shard, bob).contains("\"reason\":\"unavailable\""), "{}", heard(&shard, bob));
    }

    #[test]
    fn events_go_to_the_cores_and_in_the_encodings_of_those_who_listen_now() {
        let history = Bounds { count: 10, bytes: 0, age_ms: 0 };
        let bounds =
            RoomBounds { history, state_keys: 1, state_key_bytes: 8, state_value_bytes: 8, restrictions: 1 };
        let room = Room::new(RoomName::parse("den").unwrap(), "e".into(), bounds);
        let mut entry = HomeRoom::new(room, 3, 1, Retention { count: 10, bytes: 0, age_ms: 0 });
        let id = |index| Id { index, generation: 1 };
        let session = |core, index| SessionRef { node: 0, core, session: id(index) };
        let stream = |core, index| ConnectionRef { core, connection: id(index) };
        let listening = |entry: &HomeRoom, encoding: Encoding| entry.in_encodings[encoding as usize];
        let bob = session(0, 1);
        let nickname = Nickname::parse("bob").unwrap();
        entry.room.join(Entrant { session: bob, nickname, is_admin: false }, 0).unwrap();
        entry.listen(bob, Encoding::Text);
        entry.listen(session(1, 7), Encoding::JsonLine);
        entry.listen(session(2, 8), Encoding::ProtobufFrame);
        entry.add_event_stream(stream(1, 9), None);
        assert_eq!(entry.on_cores, [1, 2, 1]);
        // Somebody comes back in another way, and counts once.
        entry.listen(session(1, 7), Encoding::ProtobufFrame);
        assert_eq!(entry.on_cores, [1, 2, 1]);
        assert_eq!(
            (listening(&entry, Encoding::JsonLine), listening(&entry, Encoding::ProtobufFrame)),
            (0, 2)
        );
        assert!(entry.remove_event_stream(stream(1, 9)) && !entry.remove_event_stream(stream(1, 9)));
        entry.unlisten(session(1, 7));
        entry.unlisten(session(2, 8));
        entry.unlisten(session(2, 8));
        assert_eq!(entry.on_cores, [1, 0, 0]);
        assert_eq!(listening(&entry, Encoding::ProtobufFrame), 0);
        assert_eq!(listening(&entry, Encoding::EventStream), 0);
        assert!(!entry.is_deserted(), "bob is in it");
        entry.room.leave(bob);
        entry.unlisten(bob);
        assert_eq!(entry.on_cores, [0, 0, 0]);
        assert!(entry.is_deserted());
        entry.add_event_stream(stream(1, 9), None);
        assert!(!entry.is_deserted(), "somebody listens");
    }
}
