//! What this core writes down, and the answers that wait until it has been.
//!
//! All records of one turn are one frame. The reactor puts it into the core's journal before anything of that turn is written to a
//! connection or sent to another core: whatever anybody has heard is written down, and is found again after the process has been killed.
//! The storage thread takes it from there, and tells how far it has come ([`StoreNews::Progress`]); acks that promise more than a place
//! in the room's order wait for that, but not for ever.
//!
//! The journal is bounded. While the disk does not keep up it fills, and past three quarters of it messages wait, and other commands are
//! refused; the rest is for what cannot be refused: the ends of sessions and rooms, and what was received.

mod place;

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::mail::{ConnectionRef, Mail, Overdue, Reply, ReplyTo};
use super::registered::Unstored;
use super::timers::Timer;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::name::RoomName;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::room::Stamp;
use crate::chat::user::SessionRef;
use crate::config::AckLevel;
use crate::record::{Frame, Record};

/// The part of a journal that only what cannot be refused may use: one in so many bytes.
const RESERVED_PART: usize = 4;

/// What a record takes beside the texts in it, at most.
const RECORD_BYTES: usize = 128;

/// What clients are told to wait while the store is down, in milliseconds. When it is back nobody knows.
const STORE_RETRY_MS: u64 = 1000;

/// Who waits for the answer to something that a home was asked.
#[derive(Debug, Clone)]
pub enum Asker {
    /// A session, for one of its commands.
    Session(SessionRef, ReplyTo),
    /// An HTTP request.
    Api(ConnectionRef),
}

/// An answer that waits for the store.
#[derive(Debug)]
struct Waiting {
    /// The position in the journal that has to be reached.
    end: u64,
    since: Tick,
    asker: Asker,
    what: Pending,
}

/// What the answer will be.
#[derive(Debug)]
pub(super) enum Pending {
    /// A message has its place.
    Published { room: RoomName, epoch: Arc<str>, stamp: Stamp, level: AckLevel },
    /// Something else, which is as good as not done if the store does not come back.
    Other(Reply),
}

/// The journal as the core sees it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Whether there is a store.
    pub is_on: bool,
    /// The records of this turn, and earlier ones that found no place or were too many for one frame.
    frame: Vec<u8>,
    earlier: VecDeque<Vec<u8>>,
    /// How many bytes the journal holds, and how many had place in it at the beginning of the turn.
    capacity: usize,
    room: usize,
    /// The position behind the last frame.
    end: u64,
    /// What the store has of it, and what is on the disk.
    stored: u64,
    synced: u64,
    /// Rooms with messages in this frame, and in those that are not stored yet, with the last offset in each.
    noted: Vec<Id>,
    unstored: VecDeque<(u64, Id, u64)>,
    /// Answers that wait for this frame, and for earlier ones: to be stored, to be on the disk.
    begun: Vec<(AckLevel, Asker, Pending)>,
    stored_waits: VecDeque<Waiting>,
    synced_waits: VecDeque<Waiting>,
    /// Why the store is down, if it says so.
    down: Option<Box<str>>,
    /// Whether somebody has waited in vain since it last got on.
    is_stalled: bool,
    has_timer: bool,
    /// Messages that wait for place, and whether those for which there is some are being handled.
    held: VecDeque<place::Held>,
    is_letting_in: bool,
}

impl Journal {
    /// One for a core that has a store, or has none.
    pub fn new(is_on: bool, capacity: usize) -> Self {
        Journal { is_on, capacity, room: capacity, ..Journal::default() }
    }

    /// Whether a message with `bytes` of text may be taken on.
    pub(super) fn has_place(&self, bytes: usize) -> bool {
        let reserve = self.capacity / RESERVED_PART;
        self.earlier.is_empty() && self.frame.len() + bytes + RECORD_BYTES + reserve <= self.room
    }

    /// Whether all that there was to be written down has been.
    fn is_written(&self) -> bool {
        self.frame.is_empty() && self.earlier.is_empty()
    }

    /// Whether nothing can be promised of the disk now.
    pub fn is_down(&self) -> bool {
        self.down.is_some() || self.is_stalled
    }

    /// Notes that a room has a message in this turn's frame.
    pub fn note(&mut self, room: Id) {
        self.noted.push(room);
    }

    /// How many answers wait, and messages for place.
    pub fn waiting(&self) -> usize {
        self.held.len() + self.begun.len() + self.stored_waits.len() + self.synced_waits.len()
    }

    /// How many notes there are of rooms' messages that are not stored yet.
    pub fn unstored(&self) -> usize {
        self.unstored.len() + self.noted.len()
    }

    /// How many frames are not in the journal.
    pub fn unwritten(&self) -> usize {
        self.earlier.len() + usize::from(!self.frame.is_empty())
    }

    fn overdue(&self, before: Tick) -> bool {
        [&self.stored_waits, &self.synced_waits]
            .into_iter()
            .any(|waits| waits.front().is_some_and(|first| first.since <= before))
    }
}

impl Shard {
    /// Tells how many bytes have place in the journal now.
    pub fn set_journal_room(&mut self, bytes: usize) {
        self.journal.room = bytes;
    }

    /// Takes the next frame to be written.
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        let journal = &mut self.journal;
        let earlier = journal.earlier.pop_front();
        earlier.or_else(|| (!journal.frame.is_empty()).then(|| std::mem::take(&mut journal.frame)))
    }

    /// The frame is in the journal, and ends there; `room` bytes are left. Without `end` it had no place, and is kept until it has.
    pub fn journaled(&mut self, mut frame: Vec<u8>, end: Option<u64>, room: usize) {
        self.journal.room = room;
        let Some(end) = end else {
            self.counters.journal_full.add(1);
            return self.journal.earlier.push_front(frame);
        };
        self.journal.end = end;
        if self.journal.is_written() {
            self.wait_for_frame(end);
        }
        frame.clear();
        if self.journal.frame.is_empty() {
            self.journal.frame = frame; // its memory
        }
    }

    /// All that has happened is written down, and what waits for it waits until the store has come so far.
    fn wait_for_frame(&mut self, end: u64) {
        for key in std::mem::take(&mut self.journal.noted) {
            let Some(entry) = self.home.rooms.get_mut(key) else { continue };
            entry.is_noted = false;
            self.journal.unstored.push_back((end, key, entry.room.offset()));
        }
        for unstored in self.home.unstored_private.iter_mut().rev() {
            if unstored.end.is_some() {
                break;
            }
            unstored.end = Some(end);
        }
        let since = self.now.tick;
        for (level, asker, what) in std::mem::take(&mut self.journal.begun) {
            self.wait_for(level, Waiting { end, since, asker, what });
        }
    }

    /// Writes something down that cannot be refused.
    pub(super) fn write_down(&mut self, record: &Record) {
        if !self.journal.is_on {
            return;
        }
        if self.journal.frame.is_empty() {
            Frame::begin(&mut self.journal.frame);
        }
        record.put(&mut self.journal.frame);
        // One that is larger than the journal would never have place.
        if self.journal.frame.len() >= self.journal.capacity / RESERVED_PART {
            self.journal.earlier.push_back(std::mem::take(&mut self.journal.frame));
        }
    }

    /// Whether something of so many bytes can be written down now, and at this level.
    ///
    /// # Errors
    /// `store_down`.
    pub(super) fn check_store(&self, level: AckLevel, bytes: usize) -> Result<(), Refusal> {
        if !self.journal.is_on {
            return Ok(());
        }
        if level > AckLevel::Sequenced && self.journal.is_down() {
            self.counters.store_refused.add(1);
            return Err(self.store_down());
        }
        if !self.journal.has_place(bytes) {
            self.counters.store_refused.add(1);
            let message = "the store does not keep up, and no more can be queued for it";
            return Err(Refusal::with_retry(Reason::StoreDown, message, STORE_RETRY_MS));
        }
        Ok(())
    }

    pub(super) fn store_down(&self) -> Refusal {
        let why = self.journal.down.as_deref().unwrap_or("the disk does not answer");
        Refusal::with_retry(Reason::StoreDown, format!("the store is down: {why}"), STORE_RETRY_MS)
    }

    /// What is not in memory could not be read: the disk does not answer, or the file is damaged.
    pub(super) fn store_unreadable(&self) -> Refusal {
        if self.journal.down.is_some() {
            return self.store_down();
        }
        let message = "what the store has cannot be read now";
        Refusal::with_retry(Reason::StoreDown, message, STORE_RETRY_MS)
    }

    /// Lets an answer wait until this turn's frame has reached a level.
    pub(super) fn answer_at(&mut self, level: AckLevel, asker: Asker, what: Pending) {
        if level == AckLevel::Synced {
            match (self.journal.frame.is_empty(), self.journal.earlier.back_mut()) {
                (false, _) => Frame::want_sync(&mut self.journal.frame),
                (true, Some(last)) => Frame::want_sync(last),
                (true, None) => {}
            }
        }
        // What is asked for once more may have been written long ago, with nothing in this turn's frame.
        if self.journal.is_written() {
            let reached = if level == AckLevel::Synced { self.journal.synced } else { self.journal.stored };
            let end = self.journal.end;
            if reached >= end {
                return self.answer_pending(asker, what);
            }
            let since = self.now.tick;
            return self.wait_for(level, Waiting { end, since, asker, what });
        }
        self.journal.begun.push((level, asker, what));
    }

    fn wait_for(&mut self, level: AckLevel, waiting: Waiting) {
        if !std::mem::replace(&mut self.journal.has_timer, true) {
            self.wheel.insert(self.now.tick + self.config.store.deadline_ms, Timer::Store);
        }
        match level {
            AckLevel::Synced => self.journal.synced_waits.push_back(waiting),
            _ => self.journal.stored_waits.push_back(waiting),
        }
    }

    /// The store has got so far.
    pub(super) fn note_progress(&mut self, stored: u64, synced: u64) {
        let journal = &mut self.journal;
        if stored > journal.stored || synced > journal.synced {
            journal.is_stalled = false;
        }
        (journal.stored, journal.synced) = (stored.max(journal.stored), synced.max(journal.synced));
        let (stored, synced, now_ms) = (journal.stored, journal.synced, self.now.unix_ms);
        while let Some((_, key, offset)) = pop_if(&mut self.journal.unstored, |(end, ..)| *end <= stored) {
            let Some(entry) = self.home.rooms.get_mut(key) else { continue };
            let before = entry.room.history().bytes();
            entry.room.history_mut().pin_after(offset, now_ms);
            self.home.history_bytes -= before - entry.room.history().bytes();
            // What was not stored yet could not go for the bound of all rooms; and perhaps nothing more comes in this one.
            self.bound_histories(key);
        }
        let is_stored = |unstored: &Unstored| unstored.end.is_some_and(|end| end <= stored);
        while pop_if(&mut self.home.unstored_private, is_stored).is_some() {}
        while let Some(waiting) = pop_if(&mut self.journal.stored_waits, |waiting| waiting.end <= stored) {
            self.answer_pending(waiting.asker, waiting.what);
        }
        while let Some(waiting) = pop_if(&mut self.journal.synced_waits, |waiting| waiting.end <= synced) {
            self.answer_pending(waiting.asker, waiting.what);
        }
    }

    /// The store fails, or is back.
    pub(super) fn note_store(&mut self, down: Option<Box<str>>) {
        self.journal.down = down;
    }

    /// Answers those who have waited for too long.
    pub(super) fn expire_store_waits(&mut self) {
        self.journal.has_timer = false;
        let now = self.now.tick;
        let deadline_ms = self.config.store.deadline_ms;
        let is_late = |waiting: &Waiting| now.since(waiting.since) >= deadline_ms;
        let mut late = Vec::new();
        for waits in [&mut self.journal.stored_waits, &mut self.journal.synced_waits] {
            late.extend(std::iter::from_fn(|| pop_if(waits, is_late)));
        }
        self.journal.is_stalled |= !late.is_empty();
        let refusal = self.store_down();
        for Waiting { asker, what, .. } in late {
            self.counters.store_overdue.add(1);
            let reply = match what {
                // It has its place, and may be stored yet: the same command again is to find it.
                Pending::Published { room, epoch, stamp, .. } => {
                    Reply::Overdue(Box::new(Overdue { room, epoch, stamp, refusal: refusal.clone() }))
                }
                Pending::Other(_) => Reply::Refused(refusal.clone()),
            };
            self.reply_to_asker(asker, reply);
        }
        let fronts = [&self.journal.stored_waits, &self.journal.synced_waits];
        if let Some(since) = fronts.iter().filter_map(|waits| waits.front()).map(|first| first.since).min() {
            self.journal.has_timer = true;
            self.wheel.insert(since + deadline_ms, Timer::Store);
        }
        debug_assert!(!self.journal.overdue(Tick(now.0.saturating_sub(deadline_ms))));
    }

    fn answer_pending(&mut self, asker: Asker, what: Pending) {
        let reply = match what {
            Pending::Published { room, epoch, stamp, level } => {
                Reply::Published { room, epoch, stamp, level }
            }
            Pending::Other(reply) => reply,
        };
        self.reply_to_asker(asker, reply);
    }

    /// Sends an answer to whoever asked.
    pub(super) fn reply_to_asker(&mut self, asker: Asker, reply: Reply) {
        let home = self.core;
        match asker {
            // Only what is private is asked by other nodes.
            Asker::Session(from, reply_to) if from.node != self.node => {
                self.answer_private(from, reply_to, home, reply);
            }
            Asker::Session(from, reply_to) => {
                self.post(from.core, Mail::Reply { to: from.session, home, reply_to, reply });
            }
            Asker::Api(from) => self.post(from.core, Mail::ApiReply { to: from.connection, home, reply }),
        }
    }
}

/// Takes the first of a queue, if it is due.
pub(super) fn pop_if<T>(queue: &mut VecDeque<T>, is_due: impl FnOnce(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(is_due) { queue.pop_front() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::Config;
    use crate::shard::Flock;

    #[test]
    fn frames_without_place_are_kept_in_order_and_fit_later() {
        let mut config = Config::default();
        config.store.queue_bytes = 4096;
        let census = Arc::new(Census::new(0, 0));
        let flock = Flock { has_store: true, ..Flock::of_one(Arc::new(config), census) };
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        let written: Vec<u64> = (1..=2000).collect();
        for room in &written {
            shard.write_down(&Record::RoomEnded { room: *room });
            if room % 500 == 0 {
                let frame = shard.take_frame().unwrap();
                shard.journaled(frame, None, 0);
            }
        }
        let published = Pending::Other(Reply::Noted);
        let from = ConnectionRef { core: 0, connection: Id::from_bits(0) };
        shard.answer_at(AckLevel::Synced, Asker::Api(from), published);
        let (mut read, mut end, mut last) = (Vec::new(), 0, Vec::new());
        while let Some(frame) = shard.take_frame() {
            assert!(
                frame.len() < 4096
                    && shard.journal.stored_waits.len() + shard.journal.synced_waits.len() == 0
            );
            for record in Frame::records(&frame) {
                let Ok(Record::RoomEnded { room }) = record else { panic!("{record:?}") };
                read.push(room);
            }
            (end, last) = (end + frame.len() as u64, frame.clone());
            shard.journaled(frame, Some(end), 4096);
        }
        assert_eq!(read, written);
        assert!(Frame::wants_sync(&last), "the answer waits for the disk");
        assert_eq!(shard.journal.synced_waits.front().map(|waiting| waiting.end), Some(end));
        assert_eq!(shard.journal.unwritten(), 0);
    }
}
