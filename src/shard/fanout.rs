//! Fan-out: what happened in a room in one turn goes to each of its members on this core.
//!
//! The home core encodes a turn's events once for each encoding that any member wants, and sends the same batch to each
//! core that has members. Here a delivery is a range of shared bytes put into a member's queue.

use hashbrown::HashMap;

use super::Shard;
use super::encode::{ENCODINGS, Encoding};
use super::queue::{Frames, SendPool, SendQueue, Shared};
use crate::base::slots::Id;
use crate::chat::user::SessionRef;

/// What happened in a room in one turn.
#[derive(Debug)]
pub struct RoomBatch {
    /// The room's home core.
    pub home: u16,
    /// The room's key there.
    pub room: Id,
    /// How many events there are: each is one frame in each encoding.
    pub events: u32,
    /// The events in each encoding that some member wants.
    pub frames: [Option<Frames>; ENCODINGS],
    /// Events that some do not hear, in order.
    pub exceptions: Vec<Exception>,
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
#[derive(Debug, Default)]
pub struct LocalRoom {
    members: Vec<LocalMember>,
}

#[derive(Debug, Clone, Copy)]
struct LocalMember {
    connection: Id,
    session: Id,
    encoding: Encoding,
}

/// The rooms that have members on this core, by home and key there. Neither is chosen by peers, so a fast hash will do.
pub type LocalRooms = HashMap<(u16, Id), LocalRoom>;

impl Shard {
    /// Lets a session hear a room from now on, and returns its place in the list.
    pub(super) fn listen_in(&mut self, room: (u16, Id), connection: Id, session: Id) -> u32 {
        let encoding = self.connections.get(connection).map_or(Encoding::JsonFrame, |c| c.encoding);
        let members = &mut self.local_rooms.entry(room).or_default().members;
        members.push(LocalMember { connection, session, encoding });
        members.len() as u32 - 1
    }

    /// Lets the session at `position` hear the room no longer. The last of the list takes its place.
    pub(super) fn stop_listening(&mut self, room: (u16, Id), position: u32) {
        let local = self.local_rooms.get_mut(&room).expect("a membership has its place in the list");
        local.members.swap_remove(position as usize);
        if let Some(moved) = local.members.get(position as usize) {
            let moved = self.sessions.get_mut(moved.session).expect("listed sessions are alive");
            let membership = moved.memberships.iter_mut().find(|m| (m.home, m.key) == room);
            membership.expect("listed sessions are members").position = position;
        } else if local.members.is_empty() {
            self.local_rooms.remove(&room);
        }
    }

    /// Queues a batch on every member's connection.
    pub(super) fn deliver(&mut self, batch: &RoomBatch) {
        let Some(local) = self.local_rooms.get(&(batch.home, batch.room)) else {
            return; // its last member here has left while the batch was on its way
        };
        let shared: [Option<(Shared, &Frames)>; ENCODINGS] = std::array::from_fn(|encoding| {
            batch.frames[encoding].as_ref().map(|frames| (self.pool.share(frames.clone()), frames))
        });
        let slow_bytes = self.limits.send_queue_bytes / SLOW_FRACTION;
        let mut deliveries = 0;
        for member in &local.members {
            let Some(connection) = self.connections.get_mut(member.connection) else { continue };
            let Some((shared, frames)) = &shared[member.encoding as usize] else { continue };
            let before = connection.queue.bytes();
            if batch.exceptions.is_empty() {
                self.pool.push(&mut connection.queue, shared, 0..frames.bytes.len() as u32);
                deliveries += u64::from(batch.events);
            } else {
                let me = SessionRef { core: self.core, session: member.session };
                let is_slow = before > slow_bytes;
                let mut typing_dropped = 0;
                let mut is_deaf_to = |who: Deaf| match who {
                    Deaf::Origin(origin) => origin == me,
                    Deaf::OriginAndSlow(origin) => {
                        typing_dropped += u64::from(origin != me && is_slow);
                        origin == me || is_slow
                    }
                };
                let deaf = batch.exceptions.iter().filter(|e| is_deaf_to(e.who)).map(|e| e.event);
                deliveries += u64::from(batch.events)
                    - push_without(&mut self.pool, &mut connection.queue, shared, frames, deaf);
                self.counters.typing_dropped.add(typing_dropped);
            }
            if connection.queue.bytes() != before && !connection.is_touched {
                connection.is_touched = true;
                self.touched.push(member.connection);
            }
        }
        self.counters.deliveries.add(deliveries);
        for (shared, _) in shared.into_iter().flatten() {
            self.pool.done(shared);
        }
    }
}

/// Typing notices are dropped for members whose queue is fuller than this part of its limit.
const SLOW_FRACTION: usize = 8;

/// Queues all frames but those `left_out`, in as few ranges as they make, and returns how many were left out.
fn push_without(
    pool: &mut SendPool,
    queue: &mut SendQueue,
    shared: &Shared,
    frames: &Frames,
    left_out: impl Iterator<Item = u32>,
) -> u64 {
    let mut from = 0;
    let mut count = 0;
    for event in left_out {
        let hole = frames.range(event as usize);
        pool.push(queue, shared, from..hole.start);
        from = hole.end;
        count += 1;
    }
    pool.push(queue, shared, from..frames.bytes.len() as u32);
    count
}
