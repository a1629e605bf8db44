//! Fan-out: what happened in a room in one turn goes to each of its members on this core.
//!
//! The home core encodes a turn's events once for each encoding that any member wants, and sends the same batch to each
//! core that has members. Here a delivery is a range of shared bytes put into a member's queue.
//!
//! # Members that are behind
//!
//! Most members are live: they get every batch. Two kinds are not, and get everything but messages:
//!
//! - one that resumes is sent what it missed a page at a time, the next one when it has taken the last; when nothing is
//!   missing any more, it is live. What is published meanwhile comes with the pages.
//! - one that joined with `"overflow":"gap"` and does not keep up has messages left out, until its queue is empty; then it
//!   is told which, and is live.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Shard;
use super::closing::Closing;
use super::connection::Connection;
use super::deflate::Deflaters;
use super::encode::{ENCODINGS, Encoding};
use super::ledger::Followed;
use super::mail::{Page, Request, RoomKey};
use super::queue::{Frames, SendPool, Shared};
use crate::base::slots::Id;
use crate::chat::refusal::Farewell;
use crate::chat::user::{NodeId, SessionRef};
use crate::proto::wire::Event;

/// What happened in a room in one turn.
#[derive(Debug)]
pub struct RoomBatch {
    /// The room.
    pub room: RoomKey,
    /// How many events there are: each is one frame in each encoding.
    pub events: u32,
    /// Those among them that are no messages, in order.
    pub others: Vec<u32>,
    /// The offset of the last message before the first one here: the messages follow without a gap.
    pub after: u64,
    /// The events in each encoding that some member wants: few, in most rooms.
    pub frames: SmallVec<[(Encoding, Frames); 3]>,
    /// Events that some do not hear, in order.
    pub exceptions: Vec<Exception>,
    /// Messages whose way is followed to one member: mostly none.
    pub followed: Vec<Followed>,
}

impl RoomBatch {
    /// How many messages there are.
    pub(super) fn messages(&self) -> u64 {
        u64::from(self.events) - self.others.len() as u64
    }
}

/// An event that some members do not hear.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    /// Which event of the batch.
    pub event: u32,
    /// Who does not.
    pub who: Deaf,
}

/// Who does not hear an event.
#[derive(Debug, Clone, Copy)]
pub enum Deaf {
    /// The session that caused it.
    Origin(SessionRef),
    /// The session that caused it, and whoever is behind with reading: a typing notice is not worth waiting for.
    OriginAndSlow(SessionRef),
}

/// The members of one room on this core.
#[derive(Debug)]
pub struct LocalRoom {
    epoch: Arc<str>,
    members: Vec<LocalMember>,
}

impl LocalRoom {
    /// Its members here.
    pub(super) fn members(&self) -> &[LocalMember] {
        &self.members
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LocalMember {
    pub(super) connection: Id,
    pub(super) session: Id,
    encoding: Encoding,
    /// Whether messages are left out when it does not keep up.
    skips: bool,
    /// Whether it is sent what was compressed for it alone.
    is_alone: bool,
    hears: Hears,
}

impl LocalMember {
    /// Whether a message of a batch that has just been delivered is one that it got.
    pub(super) fn hears_message(&self, batch: &RoomBatch, event: u32, node: NodeId, core: u16) -> bool {
        let me = SessionRef { node, core, session: self.session };
        let is_deaf = batch.exceptions.iter().any(|e| e.event == event && e.who.includes(me, false));
        let frames = batch.frames.iter().find(|(encoding, _)| *encoding == self.encoding);
        let is_shown = frames.is_some_and(|(_, frames)| !frames.range(event as usize).is_empty());
        self.hears == Hears::All && !is_deaf && is_shown
    }
}

/// Which of a room's messages a member gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hears {
    /// All, as they come.
    All,
    /// None for now: it does not keep up. These have been left out, both ends included.
    Gap { from: u64, to: u64 },
    /// Those that it missed, up to here so far; more has been asked for or not.
    Missed { through: u64, is_asked: bool },
}

/// The rooms that have members on this core. Their keys are not chosen by peers, so a fast hash will do.
pub type LocalRooms = HashMap<RoomKey, LocalRoom>;

impl Shard {
    /// Lets a session hear a room from now on, first what it missed.
    pub(super) fn listen_in(
        &mut self,
        session: Id,
        connection: Id,
        room: RoomKey,
        epoch: &Arc<str>,
        skips: bool,
        replay: Option<Page>,
    ) {
        let Some(state) = self.connections.get_mut(connection) else { return };
        let hears = match &replay {
            Some(Page { through, is_last: false, .. }) => {
                Hears::Missed { through: *through, is_asked: false }
            }
            _ => Hears::All,
        };
        state.skips |= skips;
        let encoding = state.encoding;
        let is_alone = self.scratch.deflaters.whom(connection, encoding).keeps_context();
        let member = LocalMember { connection, session, encoding, skips, is_alone, hears };
        let local = self
            .local_rooms
            .entry(room)
            .or_insert_with(|| LocalRoom { epoch: epoch.clone(), members: Vec::new() });
        local.members.push(member);
        let position = local.members.len() as u32 - 1;
        let membership = self.sessions[session].memberships.iter_mut().find(|m| m.key == room);
        membership.expect("whoever listens is a member").position = Some(position);
        if hears != Hears::All {
            self.connections.get_mut(connection).expect("looked at above").behind += 1;
        }
        if let Some(page) = replay {
            self.push_page(connection, page);
        }
    }

    /// Lets the session at `position` hear the room no longer. The last of the list takes its place.
    pub(super) fn stop_listening(&mut self, room: RoomKey, position: u32) {
        let local = self.local_rooms.get_mut(&room).expect("a membership has its place in the list");
        let member = local.members.swap_remove(position as usize);
        if member.hears != Hears::All
            && let Some(connection) = self.connections.get_mut(member.connection)
        {
            connection.behind -= 1;
        }
        if let Some(moved) = local.members.get(position as usize) {
            let moved = self.sessions.get_mut(moved.session).expect("listed sessions are alive");
            let membership = moved.memberships.iter_mut().find(|m| m.key == room);
            membership.expect("listed sessions are members").position = Some(position);
        } else if local.members.is_empty() {
            self.local_rooms.remove(&room);
        }
    }

    /// The members of a room have missed something. Those who can come back are sent away, and told then what it was; whoever cannot
    /// goes on with what comes.
    pub(super) fn interrupt(&mut self, room: RoomKey, epoch: &Arc<str>) {
        self.interrupt_event_streams(room);
        let Some(local) = self.local_rooms.get_mut(&room) else { return };
        local.epoch = epoch.clone();
        let members = local.members.iter().filter(|member| member.encoding.can_resume());
        let connections: Vec<Id> = members.map(|member| member.connection).collect();
        for connection in connections {
            self.counters.interrupted.add(1);
            self.close(connection, Closing::Bye(Farewell::Internal));
        }
    }

    /// A session whose connection is gone hears its rooms no longer.
    pub(super) fn stop_listening_to_all(&mut self, id: Id) {
        for index in 0..self.sessions[id].memberships.len() {
            let membership = &mut self.sessions[id].memberships[index];
            if let Some(position) = membership.position.take() {
                let key = membership.key;
                self.stop_listening(key, position);
            }
        }
    }

    /// Queues a batch on every member's connection.
    pub(super) fn deliver(&mut self, batch: &RoomBatch) {
        self.deliver_to_event_streams(batch);
        let Some(local) = self.local_rooms.get_mut(&batch.room) else {
            // Its last member here has left while the batch was on its way.
            return if !batch.followed.is_empty() {
                self.follow_batch(batch)
            };
        };
        let mut shared: [Option<(Shared, &Frames)>; ENCODINGS] = [const { None }; ENCODINGS];
        for (encoding, frames) in &batch.frames {
            if *encoding == Encoding::EventStream {
                continue; // no member's
            }
            shared[*encoding as usize] = Some((self.pool.share(frames.clone()), frames));
        }
        let bytes = batch.frames.iter().map(|(_, frames)| frames.bytes.len()).max().unwrap_or_default();
        self.remarks.fan_out(batch.room, bytes, local.members.len());
        let bytes_max = self.limits.send_queue_bytes;
        let slow_bytes = bytes_max / SLOW_FRACTION;
        let mut deliveries = 0;
        for member in &mut local.members {
            let Some(connection) = self.connections.get_mut(member.connection) else { continue };
            let Some((shared, frames)) = &shared[member.encoding as usize] else { continue };
            let before = connection.queue.bytes();
            let (id, is_alone) = (member.connection, member.is_alone);
            let mut hand_out = |range: Range<u32>, connection: &mut Connection| match is_alone {
                false => self.pool.push(&mut connection.queue, shared, range),
                true => {
                    let deflaters = &mut self.scratch.deflaters;
                    push_alone(&mut self.pool, deflaters, id, connection, frames, range);
                }
            };
            let is_over = member.skips && before + frames.bytes.len() > bytes_max;
            if is_over || member.hears != Hears::All {
                // Everything but the messages; they are left out, or come with what was missed.
                let messages = batch.messages();
                if messages > 0 {
                    note_left_out(member, &mut connection.behind, batch.after, messages, is_over);
                    if connection.queue.is_empty() && !connection.is_touched {
                        // One batch was more than it may have at once: its flush tells.
                        connection.is_touched = true;
                        self.touched.push(member.connection);
                    }
                }
                if member.hears != Hears::All {
                    let me = SessionRef { node: self.node, core: self.core, session: member.session };
                    for event in &batch.others {
                        let is_deaf =
                            batch.exceptions.iter().any(|e| e.event == *event && e.who.includes(me, true));
                        if !is_deaf {
                            hand_out(frames.range(*event as usize), connection);
                            deliveries += 1;
                        }
                    }
                    self.counters.left_out.add(if matches!(member.hears, Hears::Gap { .. }) {
                        messages
                    } else {
                        0
                    });
                    mark_touched(connection, member.connection, before, &mut self.touched);
                    continue;
                }
            }
            if batch.exceptions.is_empty() {
                hand_out(0..frames.bytes.len() as u32, connection);
                deliveries += u64::from(batch.events);
            } else {
                let me = SessionRef { node: self.node, core: self.core, session: member.session };
                let is_slow = before > slow_bytes;
                let mut typing_dropped = 0;
                let mut is_deaf_to = |who: Deaf| {
                    if let Deaf::OriginAndSlow(origin) = who {
                        typing_dropped += u64::from(origin != me && is_slow);
                    }
                    who.includes(me, is_slow)
                };
                let deaf = batch.exceptions.iter().filter(|e| is_deaf_to(e.who)).map(|e| e.event);
                deliveries +=
                    u64::from(batch.events) - push_without(frames, deaf, |range| hand_out(range, connection));
                self.counters.typing_dropped.add(typing_dropped);
            }
            mark_touched(connection, member.connection, before, &mut self.touched);
        }
        self.counters.deliveries.add(deliveries);
        for (shared, _) in shared.into_iter().flatten() {
            self.pool.done(shared);
        }
        if !batch.followed.is_empty() {
            self.follow_batch(batch);
        }
    }

    /// A connection has taken all that was queued: whoever was behind is told what was left out, and gets more of what it
    /// missed, one room after the other.
    pub(super) fn catch_up(&mut self, id: Id) {
        let Some(connection) = self.connections.get(id).filter(|c| c.behind > 0) else { return };
        let Some(session) = connection.session else { return };
        let listening: Vec<_> = self.sessions[session]
            .memberships
            .iter()
            .filter_map(|m| m.position.map(|position| (m.key, position, m.room.clone())))
            .collect();
        let mut to_ask = None;
        let mut is_asked = false;
        for (key, position, room) in listening {
            let local = self.local_rooms.get_mut(&key).expect("a membership has its place in the list");
            let member = &mut local.members[position as usize];
            match member.hears {
                Hears::All => {}
                Hears::Gap { from, to } => {
                    member.hears = Hears::All;
                    let epoch = local.epoch.clone();
                    self.connections.get_mut(id).expect("looked at above").behind -= 1;
                    self.counters.gaps.add(1);
                    self.say(id, &Event::Gap { room: room.as_str(), epoch: &epoch, from, to });
                }
                Hears::Missed { is_asked: true, .. } => is_asked = true,
                Hears::Missed { through, is_asked: false } => {
                    to_ask.get_or_insert((key, position, through));
                }
            }
        }
        if let Some((key, position, through)) = to_ask.filter(|_| !is_asked) {
            let local = self.local_rooms.get_mut(&key).expect("looked at above");
            let member = &mut local.members[position as usize];
            member.hears = Hears::Missed { through, is_asked: true };
            let encoding = member.encoding.uncompressed(); // it is compressed where it is sent from
            let bytes_max = self.limits.replay_page_bytes.min(self.limits.send_queue_bytes / 2);
            self.ask(
                session,
                key.home,
                Request::Replay { room: key.key, after: through, encoding, bytes_max },
            );
        }
    }

    /// More of what a member missed has come.
    pub(super) fn take_page(&mut self, session: Id, key: RoomKey, after: u64, page: Option<Page>) {
        let Some(state) = self.sessions.get(session) else { return };
        let Some(connection) = state.connection else { return };
        let position = state.memberships.iter().find(|m| m.key == key).and_then(|m| m.position);
        let member = position.map(|position| {
            let local = self.local_rooms.get_mut(&key).expect("a membership has its place in the list");
            &mut local.members[position as usize]
        });
        // It may have left meanwhile; and an answer to an earlier membership of the same room may come late, if it was read from the store.
        // What it has yet to get of other rooms may have waited for this answer: its flush asks for that.
        let is_awaited = |member: &&mut LocalMember| matches!(member.hears, Hears::Missed { is_asked: true, through } if through == after);
        let Some(member) = member.filter(is_awaited) else { return self.touch(connection) };
        let Some(page) = page else {
            // The room has forgotten what this member has yet to get: it reads more slowly than the room speaks.
            return self.close(connection, Closing::Bye(Farewell::SlowConsumer));
        };
        member.hears = match page.is_last {
            true => Hears::All,
            false => Hears::Missed { through: page.through, is_asked: false },
        };
        if page.is_last {
            self.connections.get_mut(connection).expect("a session's connection is there").behind -= 1;
        }
        self.push_page(connection, page);
        self.touch(connection); // its flush asks for the next page
    }

    pub(super) fn push_page(&mut self, id: Id, page: Page) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if page.frames.ends.is_empty() {
            return self.touch(id); // its flush asks for the page itself
        }
        let all = 0..page.frames.bytes.len() as u32;
        self.counters.replayed.add(page.frames.ends.len() as u64);
        let deflaters = &mut self.scratch.deflaters;
        let whom = deflaters.whom(id, connection.encoding);
        if whom.is_compressed() {
            deflaters.push(&mut self.pool, &mut connection.queue, whom, &page.frames, all);
            return self.touch(id);
        }
        let shared = self.pool.share(page.frames);
        self.pool.push(&mut connection.queue, &shared, all);
        self.pool.done(shared);
        self.touch(id);
    }
}

impl Deaf {
    /// Whether a session is one of those who do not hear the event.
    fn includes(self, me: SessionRef, is_slow: bool) -> bool {
        match self {
            Deaf::Origin(origin) => origin == me,
            Deaf::OriginAndSlow(origin) => origin == me || is_slow,
        }
    }
}

/// Typing notices are dropped for members whose queue is fuller than this part of its limit.
const SLOW_FRACTION: usize = 8;

/// Notes that a member does not get the `messages` after offset `after`.
fn note_left_out(member: &mut LocalMember, behind: &mut u32, after: u64, messages: u64, is_over: bool) {
    let to = after + messages;
    match &mut member.hears {
        Hears::All if is_over => {
            member.hears = Hears::Gap { from: after + 1, to };
            *behind += 1;
        }
        Hears::Gap { to: last, .. } => *last = to,
        Hears::All | Hears::Missed { .. } => {}
    }
}

fn mark_touched(connection: &mut Connection, id: Id, before: usize, touched: &mut Vec<Id>) {
    if connection.queue.bytes() != before && !connection.is_touched {
        connection.is_touched = true;
        touched.push(id);
    }
}

/// Queues a range of whole frames on a member's connection that is alone with its compression, and so not shared.
#[cold]
fn push_alone(
    pool: &mut SendPool,
    deflaters: &mut Deflaters,
    id: Id,
    connection: &mut Connection,
    frames: &Frames,
    range: Range<u32>,
) {
    let whom = deflaters.whom(id, connection.encoding);
    deflaters.push(pool, &mut connection.queue, whom, frames, range);
}

/// Pushes all frames but those `left_out`, in as few ranges as they make, and returns how many were left out.
fn push_without(
    frames: &Frames,
    left_out: impl Iterator<Item = u32>,
    mut push: impl FnMut(Range<u32>),
) -> u64 {
    let mut from = 0;
    let mut count = 0;
    for event in left_out {
        let hole = frames.range(event as usize);
        push(from..hole.start);
        from = hole.end;
        count += 1;
    }
    push(from..frames.bytes.len() as u32);
    count
}
