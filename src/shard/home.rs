//! The rooms and nicknames whose home is this core: the only place that changes them.
//!
//! A room's events of one turn are gathered, encoded as they happen, and sent as one batch at the end of the turn.
//! Whoever joins is not told of what happened before: the gathered batch is sent first, then the reply to the join.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Shard;
use super::encode::{ALL, ENCODINGS, Encoding};
use super::fanout::{Deaf, Exception, RoomBatch};
use super::mail::{CommandId, Joined, Mail, MemberEntry, Reply, Request, RoomEntry, Since};
use super::queue::Frames;
use super::timers::Timer;
use crate::base::slots::{Id, Slots};
use crate::chat::name::{Nickname, RoomName};
use crate::chat::refusal::{LeaveReason, Reason, Refusal};
use crate::chat::room::Room;
use crate::chat::user::{Registry, SessionRef};
use crate::proto::json;
use crate::proto::wire::{Event, Presence};

/// How much memory a room's gathering buffers may keep between turns.
const KEPT_BUFFER_BYTES: usize = 16 * 1024;

/// What this core is the home of.
#[derive(Debug, Default)]
pub struct Home {
    pub(super) nicknames: Registry,
    pub(super) rooms: Slots<HomeRoom>,
    /// The rooms in folded order of their names.
    by_name: BTreeMap<Arc<str>, Id>,
    /// The rooms that have events to be sent at the end of the turn.
    dirty: Vec<Id>,
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
    /// How many members each core has, by encoding.
    shares: Vec<[u32; ENCODINGS]>,
    gathered: [Gathered; ENCODINGS],
    events: u32,
    exceptions: Vec<Exception>,
    is_dirty: bool,
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl HomeRoom {
    fn new(room: Room, cores: usize) -> Self {
        HomeRoom {
            room,
            shares: vec![[0; ENCODINGS]; cores],
            gathered: Default::default(),
            events: 0,
            exceptions: Vec::new(),
            is_dirty: false,
        }
    }

    fn wants(&self, encoding: Encoding) -> bool {
        self.shares.iter().any(|share| share[encoding as usize] > 0)
    }

    /// Encodes an event for everybody who will hear it.
    fn gather(&mut self, event: &Event, deaf: Option<Deaf>, scratch: &mut Vec<u8>) -> usize {
        if let Some(who) = deaf {
            self.exceptions.push(Exception { event: self.events, who });
        }
        self.events += 1;
        scratch.clear();
        if ALL.into_iter().any(|encoding| encoding.is_json() && self.wants(encoding)) {
            json::write(event, scratch);
        }
        let mut bytes = 0;
        for encoding in ALL {
            if !self.wants(encoding) {
                continue;
            }
            let gathered = &mut self.gathered[encoding as usize];
            let before = gathered.bytes.len();
            encoding.put_with(event, scratch, &mut gathered.bytes);
            bytes += gathered.bytes.len() - before;
            gathered.ends.push(gathered.bytes.len() as u32);
        }
        bytes
    }

    fn take_batch(&mut self, home: u16, key: Id) -> RoomBatch {
        self.is_dirty = false;
        let frames = std::array::from_fn(|encoding| {
            let gathered = &mut self.gathered[encoding];
            let frames = (!gathered.ends.is_empty()).then(|| Frames {
                bytes: gathered.bytes.as_slice().into(),
                ends: gathered.ends.as_slice().into(),
            });
            gathered.bytes.clear();
            gathered.ends.clear();
            gathered.bytes.shrink_to(KEPT_BUFFER_BYTES);
            frames
        });
        let events = std::mem::take(&mut self.events);
        RoomBatch { home, room: key, events, frames, exceptions: std::mem::take(&mut self.exceptions) }
    }
}

impl Shard {
    /// Does what a session asks of this home, and replies.
    pub(super) fn handle_request(&mut self, from: SessionRef, id: CommandId, request: Request) {
        let reply = match request {
            Request::Claim { nickname } => {
                let is_free = self.home.nicknames.claim(&nickname, from);
                self.counters.nicknames.set(self.home.nicknames.len() as u64);
                if is_free {
                    Reply::Claimed { nickname }
                } else {
                    Reply::Refused(Refusal::new(Reason::NicknameInUse, "somebody else has this nickname"))
                }
            }
            Request::Release { nickname } => {
                self.home.nicknames.release(&nickname, from);
                self.counters.nicknames.set(self.home.nicknames.len() as u64);
                Reply::Released
            }
            Request::Private { target, sender, content } => match self.home.nicknames.find(&target) {
                Some((holder, spelled)) => {
                    let (to, target) = (holder.session, spelled.clone());
                    let request = Request::Handover { to, target, sender, content, home: self.core };
                    return self.post(holder.core, Mail::Request { from, id, request });
                }
                None => Reply::Refused(no_such_user()),
            },
            Request::Handover { to, target, sender, content, home } => {
                let reply = self.hand_over(to, target, &sender, &content);
                return self.post(from.core, Mail::Reply { to: from.session, home, id, reply });
            }
            Request::Join { room, nickname, encoding, since, wants_history } => {
                match self.join_room(from, room, nickname, encoding, since) {
                    Ok(mut joined) => {
                        joined.wants_history = wants_history;
                        Reply::Joined(Box::new(joined))
                    }
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
            Request::Leave { room, encoding, reason, is_listening } => {
                if is_listening {
                    self.send_room(room);
                }
                self.leave_room(from, room, encoding, reason)
            }
            Request::Publish { room, content, echo } => {
                self.publish(from, room, &content, echo, id.is_some())
            }
            Request::Typing { room } => self.tell_typing(from, room),
            Request::Rename { room, nickname } => self.rename_member(from, room, nickname),
            Request::Members { room, after, limit } => self.list_members(&room, after.as_deref(), limit),
            Request::ExplainNotAMember { room } => {
                let is_there = self.home.by_name.contains_key(room.folded());
                Reply::Refused(if is_there { not_a_member() } else { no_such_room() })
            }
            Request::Rooms { after, limit } => self.list_rooms(after.as_deref(), limit),
        };
        self.post(from.core, Mail::Reply { to: from.session, home: self.core, id, reply });
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

    /// Tells a large room who came and went lately.
    pub(super) fn tell_presence_batch(&mut self, key: Id) {
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        if !entry.room.presence.is_pending() {
            return;
        }
        let (joined, left) = entry.room.presence.take();
        let (joined, left) = (spellings(&joined), spellings(&left));
        let name = entry.room.name().clone();
        let event = Event::Presence(Presence {
            room: name.as_str(),
            event: "batch",
            joined: Some(&joined),
            left: Some(&left),
            members: Some(entry.room.len() as u64),
            timestamp: Some(self.now.unix_ms),
            ..Presence::default()
        });
        self.note_event(key, &event, None);
    }

    fn join_room(
        &mut self,
        from: SessionRef,
        name: RoomName,
        nickname: Nickname,
        encoding: Encoding,
        since: Option<Since>,
    ) -> Result<Joined, Refusal> {
        let key = match self.home.by_name.get(name.folded()) {
            Some(key) => *key,
            None if self.home.rooms.len() >= self.limits.rooms => {
                return Err(Refusal::new(
                    Reason::TooManyRooms,
                    "the server has as many rooms as it may have",
                ));
            }
            None => {
                let epoch: Arc<str> = format!("{:016x}", self.rng.next_u64()).into();
                let folded: Arc<str> = name.folded().into();
                let key = self.home.rooms.insert(HomeRoom::new(Room::new(name, epoch), self.cores()));
                self.home.by_name.insert(folded, key);
                self.counters.rooms.set(self.home.rooms.len() as u64);
                key
            }
        };
        let is_exact = self.home.rooms[key].room.len() < self.presence.exact_members;
        if is_exact {
            self.tell_presence_batch(key); // before its count would include the newcomer, who is told by itself
        }
        let entry = self.home.rooms.get_mut(key).expect("listed rooms exist");
        let room = entry.room.name().clone();
        let role = entry.room.join(from, nickname.clone(), self.now.unix_ms);
        let members = entry.room.len();
        if !is_exact {
            self.note_presence(key, |batch, names_max| batch.join(nickname, names_max));
        } else {
            let event = Event::Presence(Presence {
                room: room.as_str(),
                event: "join",
                nickname: Some(nickname.as_str()),
                timestamp: Some(self.now.unix_ms),
                ..Presence::default()
            });
            self.note_event(key, &event, None);
        }
        // The newcomer's core must hear what came before without taking it for the newcomer's.
        self.send_room(key);
        let entry = self.home.rooms.get_mut(key).expect("just joined");
        entry.shares[from.core as usize][encoding as usize] += 1;
        let (epoch, offset) = (entry.room.epoch().clone(), entry.room.offset());
        // Without a history to replay, nothing was missed only if the head is where the client left it.
        let recovered = since.map(|since| *since.epoch == *epoch && since.offset == offset);
        Ok(Joined {
            room,
            key,
            epoch,
            offset,
            role,
            members: members as u64,
            recovered,
            wants_history: false,
        })
    }

    fn leave_room(&mut self, from: SessionRef, key: Id, encoding: Encoding, reason: LeaveReason) -> Reply {
        let members_before = match self.home.rooms.get(key) {
            Some(entry) if entry.room.member(from).is_some() => entry.room.len(),
            _ => return Reply::Refused(not_a_member()),
        };
        let is_exact = members_before - 1 <= self.presence.exact_members;
        if is_exact {
            self.tell_presence_batch(key); // while its count includes the leaver, who is told by itself
        }
        let entry = self.home.rooms.get_mut(key).expect("looked at above");
        let member = entry.room.leave(from).expect("looked at above");
        let room = entry.room.name().clone();
        entry.shares[from.core as usize][encoding as usize] -= 1;
        let members = entry.room.len();
        if members == 0 {
            self.home.rooms.remove(key);
            self.home.by_name.remove(room.folded());
            self.counters.rooms.set(self.home.rooms.len() as u64);
            return Reply::Left { room, reason };
        }
        if !is_exact {
            self.note_presence(key, |batch, names_max| batch.leave(member.nickname, names_max));
        } else {
            let event = Event::Presence(Presence {
                room: room.as_str(),
                event: "leave",
                nickname: Some(member.nickname.as_str()),
                reason: Some(reason.as_str()),
                timestamp: Some(self.now.unix_ms),
                ..Presence::default()
            });
            self.note_event(key, &event, None);
        }
        Reply::Left { room, reason }
    }

    fn publish(&mut self, from: SessionRef, key: Id, content: &str, echo: bool, is_told: bool) -> Reply {
        let now_ms = self.now.unix_ms;
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        let Some(member) = entry.room.active_member(from, now_ms) else {
            return Reply::Refused(not_a_member());
        };
        let sender = member.nickname.clone();
        let room = entry.room.name().clone();
        let epoch = entry.room.epoch().clone();
        let stamp = entry.room.publish(now_ms);
        self.counters.published.add(1);
        let event = Event::Message {
            room: room.as_str(),
            sender: sender.as_str(),
            content,
            offset: stamp.offset,
            timestamp: stamp.timestamp_ms,
        };
        self.note_event(key, &event, (!echo).then_some(Deaf::Origin(from)));
        if is_told { Reply::Published { room, epoch, stamp } } else { Reply::Done { times: 1 } }
    }

    fn tell_typing(&mut self, from: SessionRef, key: Id) -> Reply {
        let Some(entry) = self.home.rooms.get_mut(key) else { return Reply::Refused(not_a_member()) };
        let Some(member) = entry.room.active_member(from, self.now.unix_ms) else {
            return Reply::Refused(not_a_member());
        };
        let nickname = member.nickname.clone();
        let room = entry.room.name().clone();
        let event = Event::Typing { room: room.as_str(), nickname: nickname.as_str() };
        self.note_event(key, &event, Some(Deaf::OriginAndSlow(from)));
        Reply::Done { times: 1 }
    }

    fn rename_member(&mut self, from: SessionRef, key: Id, nickname: Nickname) -> Reply {
        if self.home.rooms.get(key).is_some_and(|entry| entry.room.presence.has_left(&nickname)) {
            // That somebody of this name has left must be told before that there is one again.
            self.tell_presence_batch(key);
        }
        let renamed = self
            .home
            .rooms
            .get_mut(key)
            .and_then(|e| e.room.rename(from, nickname.clone()).map(|old| (e, old)));
        let Some((entry, old)) = renamed else { return Reply::Refused(not_a_member()) };
        if entry.room.presence.rename(&old, &nickname) {
            return Reply::Done { times: 1 }; // nobody has been told of the old nickname
        }
        let room = entry.room.name().clone();
        let event = Event::Presence(Presence {
            room: room.as_str(),
            event: "nick",
            nickname: Some(nickname.as_str()),
            from: Some(old.as_str()),
            timestamp: Some(self.now.unix_ms),
            ..Presence::default()
        });
        self.note_event(key, &event, Some(Deaf::Origin(from)));
        Reply::Done { times: 1 }
    }

    fn list_members(&self, name: &RoomName, after: Option<&str>, limit: usize) -> Reply {
        let Some(key) = self.home.by_name.get(name.folded()) else { return Reply::Refused(no_such_room()) };
        let room = &self.home.rooms.get(*key).expect("listed rooms exist").room;
        let members = room.list(after, limit).map(|member| MemberEntry {
            nickname: member.nickname.clone(),
            role: member.role,
            last_active_ms: member.last_active_ms,
        });
        Reply::Members { room: room.name().clone(), total: room.len() as u64, members: members.collect() }
    }

    fn list_rooms(&self, after: Option<&str>, limit: usize) -> Reply {
        use std::ops::Bound::{Excluded, Unbounded};
        let keys = self.home.by_name.range::<str, _>((after.map_or(Unbounded, Excluded), Unbounded));
        let rooms = keys.take(limit).map(|(_, key)| {
            let room = &self.home.rooms.get(*key).expect("listed rooms exist").room;
            RoomEntry { room: room.name().clone(), members: room.len() as u64, offset: room.offset() }
        });
        Reply::Rooms { rooms: rooms.collect() }
    }

    fn hand_over(&mut self, to: Id, target: Nickname, sender: &Nickname, content: &str) -> Reply {
        let timestamp_ms = self.now.unix_ms;
        let session = self.sessions.get(to).filter(|s| !s.is_ending() && !s.is_upgrading());
        let Some(connection) = session.and_then(|s| s.connection) else {
            return Reply::Refused(no_such_user());
        };
        let event = Event::Private {
            sender: sender.as_str(),
            target: target.as_str(),
            content,
            timestamp: timestamp_ms,
            offset: None,
        };
        self.say(connection, &event);
        Reply::Delivered { target, sessions: 1, timestamp_ms }
    }

    fn note_presence(&mut self, key: Id, note: impl FnOnce(&mut crate::chat::presence::Batch, usize)) {
        let entry = self.home.rooms.get_mut(key).expect("presence of a room that exists");
        let was_pending = entry.room.presence.is_pending();
        note(&mut entry.room.presence, self.presence.batch_names);
        if !was_pending {
            self.wheel.insert(self.now.tick + self.presence.batch_ms, Timer::Presence(key));
        }
    }

    fn note_event(&mut self, key: Id, event: &Event, deaf: Option<Deaf>) {
        let entry = self.home.rooms.get_mut(key).expect("events of a room that exists");
        self.home.gathered_bytes += entry.gather(event, deaf, &mut self.scratch);
        if !entry.is_dirty {
            entry.is_dirty = true;
            self.home.dirty.push(key);
        }
    }

    fn send_room(&mut self, key: Id) {
        let core = self.core;
        let Some(entry) = self.home.rooms.get_mut(key).filter(|entry| entry.is_dirty) else { return };
        let batch = Arc::new(entry.take_batch(core, key));
        let cores: Vec<u16> = (0..entry.shares.len() as u16)
            .filter(|core| entry.shares[*core as usize].iter().any(|members| *members > 0))
            .collect();
        for core in cores {
            self.post(core, Mail::Room(batch.clone()));
        }
    }
}

fn spellings(names: &[Nickname]) -> Vec<&str> {
    names.iter().map(Nickname::as_str).collect()
}

fn not_a_member() -> Refusal {
    Refusal::new(Reason::NotAMember, "you are not in this room")
}

fn no_such_room() -> Refusal {
    Refusal::new(Reason::NoSuchRoom, "there is no such room")
}

fn no_such_user() -> Refusal {
    Refusal::new(Reason::NoSuchUser, "nobody here has this nickname")
}
