//! Who is in which room, who speaks, and which thread has whom.

use super::plan::{Plan, Profile};
use super::target::Traits;
use super::zipf;

/// No room, or no publisher.
pub const NONE: u32 = u32::MAX;

/// The roles of all connections of a run.
#[derive(Debug)]
pub struct Cast {
    /// The room of each connection.
    pub room_of: Vec<u32>,
    /// Each connection's place in its room.
    place_of: Vec<u32>,
    /// The rooms' names.
    pub rooms: Vec<String>,
    /// The room of each publisher, and its place among the room's publishers. Publisher n is connection n.
    pub publishers: Vec<(u32, u32)>,
    /// The publishers of each room, in the order of their places.
    pub speakers_of: Vec<Vec<u32>>,
    /// How many members a room has at the beginning.
    pub sizes: Vec<u32>,
    threads: usize,
    tag: String,
}

impl Cast {
    /// The cast of a plan. `tag` makes names unique among runs.
    pub fn new(plan: &Plan, tag: String) -> Cast {
        let room_of: Vec<u32> = match plan.profile {
            Profile::Mix => mixed(plan.connections, plan.rooms),
            _ if plan.rooms == 0 => vec![NONE; plan.connections],
            _ => (0..plan.connections).map(|number| (number % plan.rooms) as u32).collect(),
        };
        let mut sizes = vec![0; plan.rooms];
        let mut speakers_of: Vec<Vec<u32>> = vec![Vec::new(); plan.rooms];
        let mut publishers = Vec::with_capacity(plan.publishers);
        let mut place_of = Vec::with_capacity(plan.connections);
        for (number, room) in room_of.iter().enumerate() {
            let Some(size) = sizes.get_mut(*room as usize) else {
                place_of.push(number as u32);
                continue;
            };
            place_of.push(*size);
            *size += 1;
            if number < plan.publishers {
                let speakers = &mut speakers_of[*room as usize];
                publishers.push((*room, speakers.len() as u32));
                speakers.push(number as u32);
            }
        }
        let rooms = (0..plan.rooms).map(|room| format!("{tag}-r{room}")).collect();
        Cast { room_of, place_of, rooms, publishers, speakers_of, sizes, threads: plan.threads, tag }
    }

    /// The connections of one thread, ascending.
    pub fn of_thread(&self, thread: usize) -> impl Iterator<Item = u32> + '_ {
        (0..self.room_of.len() as u32).filter(move |number| self.thread_of(*number) == thread)
    }

    /// The name of a room; empty for none.
    pub fn room(&self, room: u32) -> &str {
        self.rooms.get(room as usize).map_or("", String::as_str)
    }

    /// The nickname of a connection. `visit` tells one's visits apart.
    pub fn nickname(&self, number: u32, visit: u32) -> String {
        if visit == 0 { format!("{}-{number}", self.tag) } else { format!("{}-{number}-{visit}", self.tag) }
    }

    /// Who on the publisher's thread tells that a message has arrived: itself, or where it does not hear itself, the last
    /// member of the room that does.
    pub fn witness_of(&self, publisher: u32, traits: &Traits, is_alone: bool) -> Option<u32> {
        if traits.hears_itself || is_alone {
            return Some(publisher);
        }
        let room = self.room_of[publisher as usize];
        let first = if traits.is_split { self.publishers.len() } else { 0 };
        let thread = self.thread_of(publisher);
        (first as u32..self.room_of.len() as u32).rev().find(|number| {
            *number != publisher
                && self.room_of[*number as usize] == room
                && self.thread_of(*number) == thread
        })
    }

    /// Members of one room are dealt to the threads in turn, and rooms begin with one thread after the other.
    fn thread_of(&self, number: u32) -> usize {
        let room = match self.room_of[number as usize] {
            NONE => 0,
            room => room as usize,
        };
        (self.place_of[number as usize] as usize + room) % self.threads
    }
}

/// One member for each room, and then the others, so that whoever speaks is spread over the rooms.
fn mixed(connections: usize, rooms: usize) -> Vec<u32> {
    let sizes = zipf::sizes(connections, rooms);
    let mut room_of: Vec<u32> = (0..rooms.min(connections)).map(|room| room as u32).collect();
    for (room, size) in sizes.iter().enumerate() {
        room_of.extend(std::iter::repeat_n(room as u32, size.saturating_sub(1)));
    }
    room_of
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::plan::Load;
    use super::*;

    /// A plan to begin with.
    pub fn plan(
        profile: Profile,
        connections: usize,
        rooms: usize,
        publishers: usize,
        threads: usize,
    ) -> Plan {
        Plan {
            profile,
            connections,
            rooms,
            publishers,
            load: Load::InFlight(1),
            bytes: 64,
            warmup_ns: 0,
            duration_ns: 1,
            threads,
            cpus: Vec::new(),
            sources: Vec::new(),
            seed: 1,
            handshakes: 16,
            moves: 0.0,
            slow: 0,
            ack: None,
            counts_syscalls: false,
        }
    }

    proptest! {
        #[test]
        fn everybody_is_cast_once(
            profile in prop_oneof![Just(Profile::Rooms), Just(Profile::Mix)],
            rooms in 1usize..20, more in 0usize..100, threads in 1usize..4,
        ) {
            let connections = rooms + more;
            let cast = Cast::new(&plan(profile, connections, rooms, rooms, threads), "t".into());
            prop_assert_eq!(cast.room_of.len(), connections);
            let mut all: Vec<u32> = (0..threads).flat_map(|thread| cast.of_thread(thread)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..connections as u32).collect::<Vec<_>>());
            prop_assert_eq!(cast.sizes.iter().sum::<u32>() as usize, connections);
            // One publisher a room.
            prop_assert!(cast.speakers_of.iter().all(|speakers| speakers.len() == 1));
            // Whoever is a witness is on the publisher's thread, in its room.
            for publisher in 0..rooms as u32 {
                if let Some(witness) = cast.witness_of(publisher, &Traits::default(), false) {
                    prop_assert_eq!(cast.thread_of(witness), cast.thread_of(publisher));
                    prop_assert_eq!(cast.room_of[witness as usize], cast.room_of[publisher as usize]);
                }
            }
        }
    }
}
