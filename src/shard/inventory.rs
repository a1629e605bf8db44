//! What a core holds for those who are connected, as numbers: nothing may be left when they have gone.

use super::Shard;

/// How much of everything a core holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Open connections.
    pub connections: usize,
    /// Sessions, those among them whose end is under way.
    pub sessions: usize,
    /// Sessions that began here, wherever they are.
    pub directory: usize,
    /// Sessions that are away.
    pub away: usize,
    /// Rooms whose home is here.
    pub rooms: usize,
    /// Those among them that are kept for their history alone.
    pub idle_rooms: usize,
    /// Bytes of the histories of rooms whose home is here.
    pub history_bytes: usize,
    /// Nicknames whose home is here.
    pub nicknames: usize,
    /// Rooms that somebody here is in.
    pub local_rooms: usize,
    /// Event streams of connections here.
    pub event_streams: usize,
    /// Rooms that these are of.
    pub streamed_rooms: usize,
    /// Event streams of rooms whose home is here.
    pub audience: usize,
    /// Ranges queued on connections.
    pub ranges: usize,
    /// Segments that ranges are of.
    pub segments: usize,
    /// Requests that have not been answered, to all cores.
    pub under_way: usize,
    /// Connections that wait for the window of some core.
    pub window_waiters: usize,
    /// Requests that wait until no mailbox is full.
    pub deferred: usize,
    /// Answers that wait for the store.
    pub store_waits: usize,
    /// Notes of messages that are not stored yet.
    pub unstored: usize,
    /// Frames that are not in the journal.
    pub unwritten: usize,
    /// Timers.
    pub timers: usize,
    /// Bytes queued on the connection that has the most.
    pub queued_bytes_max: usize,
    /// Messages that are followed and wait for a socket.
    pub samples_waiting: usize,
}

impl Shard {
    /// Counts what this core holds. It looks at every connection: for tests, not for every turn.
    pub fn inventory(&self) -> Inventory {
        let (ranges, segments) = self.pool.in_use();
        Inventory {
            connections: self.connections.len(),
            sessions: self.sessions.len(),
            directory: self.directory.len(),
            away: self.away,
            rooms: self.home.rooms.len(),
            idle_rooms: self.home.idle.len(),
            history_bytes: self.home.history_bytes,
            nicknames: self.home.nicknames.len(),
            local_rooms: self.local_rooms.len(),
            event_streams: self.event_streams.values().map(Vec::len).sum(),
            streamed_rooms: self.event_streams.len(),
            audience: self.home.rooms.iter().map(|(_, entry)| entry.audience.cores().count()).sum(),
            ranges,
            segments,
            under_way: self.window.iter().sum(),
            window_waiters: self.window_waiters.len(),
            deferred: self.deferred.len(),
            store_waits: self.journal.waiting(),
            unstored: self.journal.unstored() + self.home.unstored_private.len(),
            unwritten: self.journal.unwritten(),
            timers: self.wheel.len(),
            queued_bytes_max: self.connections.iter().map(|(_, c)| c.queue.bytes()).max().unwrap_or(0),
            samples_waiting: self.samples_waiting(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::{Config, ListenKind};
    use crate::shard::connection::Connection;
    use crate::shard::mail::Mail;
    use crate::shard::session::Session;
    use crate::shard::{Flock, Shard};

    /// Before there is too much of it as well: whoever watches it is to see that coming.
    #[test]
    fn what_histories_take_is_counted_from_the_first_message_on() {
        let flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        let said = "{\"type\":\"hello\",\"nickname\":\"ann\"}\n{\"type\":\"join\",\"room\":\"den\"}\n\
                    {\"type\":\"message\",\"room\":\"den\",\"content\":\"hi\"}\n";
        shard.receive(id, &mut said.as_bytes().to_vec());
        let bytes = shard.inventory().history_bytes;
        assert!(bytes > 0 && shard.counters().history_bytes.value() == bytes as u64);
    }

    /// What cores say to each other is moved by value, several times.
    #[test]
    fn mail_is_small() {
        assert!(size_of::<Mail>() <= 128, "{} bytes", size_of::<Mail>());
    }

    /// What each idle client costs, besides its nickname and its timer. Whoever makes these larger should know it.
    #[test]
    fn idle_clients_are_small() {
        let (connection, session) = (size_of::<Connection>(), size_of::<Session>());
        assert!(connection <= 336 && session <= 208, "connection {connection}, session {session} bytes");
    }
}
