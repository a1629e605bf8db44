//! Messages that are sent: each is published once, or told as failed; those to one room in the order they were sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::rooms::key_of;
use super::{Machine, Waits};
use crate::backoff;
use crate::error::Error;
use crate::event::{Delivery, Event, Failure, Ticket};
use crate::wire::{Ack, Command, Frame, Level, ServerError};

/// How many messages of all rooms may be under way: fewer than the ids that the server remembers, and than the
/// commands that it takes of a session at a time.
const UNDER_WAY_MAX: usize = 128;

/// Where a message goes. Messages of one lane are sent in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// By the folded name, which is the room's for the server too.
    Room(String),
    Private(String),
}

/// A message that waits or is under way.
#[derive(Debug, Clone)]
struct Send {
    ticket: Ticket,
    id: String,
    content: String,
    level: Option<Level>,
    /// On this connection.
    written: bool,
    /// When the server may have forgotten its id, once it has been written anywhere.
    expires: Option<Duration>,
    /// It has been written before and the answer did not tell that it was not published.
    doubt: bool,
    /// It is from an earlier run, and has not been written in this one.
    restored: bool,
}

#[derive(Debug, Default)]
struct Queue {
    sends: VecDeque<Send>,
    /// The first one was refused for a while.
    retry_at: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Sends {
    lanes: BTreeMap<Lane, Queue>,
    count: usize,
    bytes: usize,
    under_way: usize,
    records: Vec<Record>,
}

/// What a journal keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The session, for a later run of the program.
    Session {
        /// What resumes it.
        resume: String,
    },
    /// A message waits.
    Queued(Saved),
    /// A message is about to be written for the first time, or anew after it was certainly refused.
    Written {
        /// Which one.
        id: String,
    },
    /// A message has been acknowledged, or has failed.
    Done {
        /// Which one.
        id: String,
    },
}

/// A message that waits, in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its id, which stays the same.
    pub id: String,
    /// The room or the person.
    pub to: String,
    /// Whether it is a private one.
    pub private: bool,
    /// What is to be said.
    pub content: String,
    /// What its `ack` is to promise.
    pub level: Option<Level>,
    /// How long ago it was written first, if it was.
    pub written: Option<Duration>,
}

impl Lane {
    fn command(&self, send: &Send) -> Command {
        match self {
            Lane::Room(room) => {
                Command::Message { room: room.clone(), content: send.content.clone(), ack: send.level }
            }
            Lane::Private(target) => {
                Command::Private { target: target.clone(), content: send.content.clone() }
            }
        }
    }

    fn frame(&self, send: &Send) -> Frame {
        self.command(send).to_frame(Some(&send.id))
    }
}

impl Sends {
    /// No message is under way any more: those that were are written again.
    pub(super) fn unwrite(&mut self) {
        self.under_way = 0;
        for queue in self.lanes.values_mut() {
            queue.retry_at = None;
            for send in &mut queue.sends {
                send.doubt |= send.written;
                send.written = false;
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.lanes.values().filter_map(|queue| queue.retry_at).min()
    }

    /// Takes a message out that has been answered.
    fn take(&mut self, lane: &Lane, at: usize) -> Option<Send> {
        let queue = self.lanes.get_mut(lane)?;
        let send = queue.sends.remove(at)?;
        if queue.sends.is_empty() {
            self.lanes.remove(lane);
        }
        self.count -= 1;
        self.bytes -= send.content.len();
        self.under_way -= usize::from(send.written);
        Some(send)
    }
}

impl Machine {
    /// Sends a message to a room that one has joined, or is joining.
    pub fn send(
        &mut self,
        now: Duration,
        room: &str,
        content: &str,
        level: Option<Level>,
    ) -> Result<Ticket, Error> {
        let key = key_of(room);
        if !self.is_stopped() && !self.wants(&key) {
            return Err(Error::NotInRoom(room.to_owned()));
        }
        self.push(now, Lane::Room(key), room, content, level)
    }

    /// Sends a message to one person.
    pub fn private(&mut self, now: Duration, target: &str, content: &str) -> Result<Ticket, Error> {
        self.push(now, Lane::Private(target.to_owned()), target, content, None)
    }

    fn push(
        &mut self,
        now: Duration,
        lane: Lane,
        to: &str,
        content: &str,
        level: Option<Level>,
    ) -> Result<Ticket, Error> {
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        if content.is_empty() {
            return Err(Error::Empty);
        }
        if content.len() > self.config.content_bytes {
            return Err(Error::TooLarge);
        }
        if self.sends.count >= self.config.queue_messages
            || self.sends.bytes + content.len() > self.config.queue_bytes
        {
            return Err(Error::QueueFull);
        }
        let ticket = self.ticket();
        let send = Send {
            ticket,
            id: self.id(),
            content: content.to_owned(),
            level,
            written: false,
            expires: None,
            doubt: false,
            restored: false,
        };
        // Escapes can make a short content a long command, which would cost the connection.
        if lane.frame(&send).text.len() > self.config.frame_bytes {
            return Err(Error::TooLarge);
        }
        let saved = self.config.journal.then(|| Saved {
            id: send.id.clone(),
            to: to.to_owned(),
            private: matches!(lane, Lane::Private(_)),
            content: content.to_owned(),
            level,
            written: None,
        });
        if let Some(saved) = saved {
            self.sends.records.push(Record::Queued(saved));
        }
        self.enter(lane, send);
        self.flush(now);
        Ok(ticket)
    }

    fn enter(&mut self, lane: Lane, send: Send) {
        self.sends.count += 1;
        self.sends.bytes += send.content.len();
        self.sends.lanes.entry(lane).or_default().sends.push_back(send);
    }

    /// Takes over what an earlier run of the program left, in its order; before the start. What goes to a room waits until that room
    /// is joined.
    pub fn restore(&mut self, now: Duration, saved: Vec<Saved>) {
        for saved in saved {
            let ticket = self.ticket();
            let lane =
                if saved.private { Lane::Private(saved.to.clone()) } else { Lane::Room(key_of(&saved.to)) };
            let send = Send {
                ticket,
                id: saved.id,
                content: saved.content.clone(),
                level: saved.level,
                written: false,
                expires: saved.written.map(|ago| now + self.config.idempotency.saturating_sub(ago)),
                doubt: saved.written.is_some(),
                restored: true,
            };
            self.enter(lane, send);
            self.tell(Event::Restored {
                ticket,
                to: saved.to,
                private: saved.private,
                content: saved.content,
            });
        }
    }

    /// Takes a message back that has not been written. Whether it was there.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let found = self.sends.lanes.iter().find_map(|(lane, queue)| {
            let at = queue.sends.iter().position(|send| {
                send.ticket == ticket && !send.written && send.expires.is_none() && !send.doubt
            })?;
            Some((lane.clone(), at))
        });
        let Some((lane, at)) = found else { return false };
        if let Some(send) = self.sends.take(&lane, at) {
            self.record(|| Record::Done { id: send.id });
        }
        true
    }

    /// How many messages have not been answered.
    pub fn unanswered(&self) -> usize {
        self.sends.count
    }

    /// What is to be kept, in order, before any output that comes after it is carried out.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.sends.records)
    }

    pub(super) fn record(&mut self, record: impl FnOnce() -> Record) {
        if self.config.journal {
            self.sends.records.push(record());
        }
    }

    pub(super) fn flush_sends(&mut self, now: Duration) {
        let lanes: Vec<Lane> = self.sends.lanes.keys().cloned().collect();
        for lane in lanes {
            if let Lane::Room(room) = &lane
                && (self.is_joining(room) || (!self.wants(room) && !self.was_written(&lane)))
            {
                continue;
            }
            self.flush_lane(now, &lane);
        }
    }

    /// Whether the first message of a room that one is in no more may have been published: its id finds out. What an
    /// earlier run left waits until the room is joined.
    fn was_written(&self, lane: &Lane) -> bool {
        let first = self.sends.lanes.get(lane).and_then(|queue| queue.sends.front());
        first.is_some_and(|send| send.expires.is_some() && !send.restored)
    }

    fn flush_lane(&mut self, now: Duration, lane: &Lane) {
        let mut at = 0;
        while self.sends.under_way < UNDER_WAY_MAX && at < self.config.in_flight {
            let Some(queue) = self.sends.lanes.get_mut(lane) else { return };
            if queue.retry_at.is_some_and(|retry| now < retry) {
                return;
            }
            queue.retry_at = None;
            let Some(send) = queue.sends.get_mut(at) else { return };
            if send.written {
                at += 1;
                continue;
            }
            if send.expires.is_some_and(|expires| now >= expires) && !self.config.resend_unsure {
                self.fail(lane, at, Failure::Unsure);
                continue;
            }
            let first = send.expires.is_none();
            if first {
                send.expires = Some(now + self.config.idempotency);
            }
            send.written = true;
            send.restored = false;
            let (ticket, id) = (send.ticket, send.id.clone());
            let frame = lane.frame(send);
            self.sends.under_way += 1;
            if first {
                self.record(|| Record::Written { id: id.clone() });
            }
            self.replies.insert(id, Waits::Send(lane.clone()));
            self.write(frame);
            self.tell(Event::Delivery { ticket, delivery: Delivery::Sent });
            at += 1;
        }
    }

    fn find(&self, lane: &Lane, id: &str) -> Option<usize> {
        self.sends.lanes.get(lane)?.sends.iter().position(|send| send.id == id)
    }

    pub(super) fn acknowledged(&mut self, lane: &Lane, id: &str, ack: Ack) {
        let Some(send) = self.find(lane, id).and_then(|at| self.sends.take(lane, at)) else { return };
        self.record(|| Record::Done { id: send.id });
        if let (Lane::Room(room), Some(epoch), Some(offset)) = (lane, &ack.epoch, ack.offset) {
            self.own_message(room, epoch, offset);
        }
        self.tell(Event::Delivery { ticket: send.ticket, delivery: Delivery::Acknowledged(ack) });
    }

    pub(super) fn send_refused(&mut self, now: Duration, lane: &Lane, id: &str, error: ServerError) {
        let Some(at) = self.find(lane, id) else { return };
        if !error.retryable {
            // Another node than the one that took it may look whether one may speak before it looks for the id.
            let in_doubt = self.sends.lanes[lane].sends[at].doubt && matches!(error.code, 403 | 404);
            self.fail(lane, at, if in_doubt { Failure::Unsure } else { Failure::Refused(error) });
            return;
        }
        let after = Duration::from_millis(error.retry_after_ms.unwrap_or_default());
        let delay = self.retry_pause().max(after);
        let is_unpublished = error.code == 429 && !self.sends.lanes[lane].sends[at].doubt;
        if let Lane::Room(room) = lane
            && !self.wants(room)
        {
            // One has left the room meanwhile: it will not be tried again.
            return self.fail(lane, at, if is_unpublished { Failure::Left } else { Failure::Unsure });
        }
        let queue = self.sends.lanes.get_mut(lane).expect("it was found");
        let send = &mut queue.sends[at];
        send.written = false;
        if is_unpublished {
            // It has not come as far as to be published.
            send.expires = None;
        } else {
            send.doubt = true;
        }
        queue.retry_at = Some(now + delay);
        self.sends.under_way -= 1;
    }

    fn fail(&mut self, lane: &Lane, at: usize, failure: Failure) {
        let Some(send) = self.sends.take(lane, at) else { return };
        self.record(|| Record::Done { id: send.id });
        self.tell(Event::Delivery { ticket: send.ticket, delivery: Delivery::Failed(failure) });
    }

    /// The session is another one: it does not know the ids of the one before.
    pub(super) fn doubt(&mut self, _now: Duration) {
        let lanes: Vec<Lane> = self.sends.lanes.keys().cloned().collect();
        for lane in lanes {
            let mut at = 0;
            while let Some(send) = self.sends.lanes.get_mut(&lane).and_then(|queue| queue.sends.get_mut(at)) {
                if send.expires.is_none() {
                    at += 1;
                } else if self.config.resend_unsure {
                    send.expires = None;
                    send.doubt = false;
                    at += 1;
                } else {
                    self.fail(&lane, at, Failure::Unsure);
                }
            }
        }
    }

    /// A room is left: what has not been written will not be.
    pub(super) fn abandon_lane(&mut self, room: &str) {
        let lane = Lane::Room(room.to_owned());
        let mut at = 0;
        while let Some(send) = self.sends.lanes.get(&lane).and_then(|queue| queue.sends.get(at)) {
            if send.written || send.expires.is_some() {
                at += 1;
            } else {
                self.fail(&lane, at, Failure::Left);
            }
        }
    }

    /// The machine ends: everything that waits is answered.
    pub(super) fn abandon(&mut self) {
        let lanes: Vec<Lane> = self.sends.lanes.keys().cloned().collect();
        for lane in lanes {
            while let Some(send) = self.sends.lanes.get(&lane).and_then(|queue| queue.sends.front()) {
                let failure = if send.expires.is_some() { Failure::Unsure } else { Failure::Stopped };
                self.fail(&lane, 0, failure);
            }
        }
        self.abandon_requests();
        self.abandon_rooms();
    }

    /// A pause before something that was refused is tried again on the same connection.
    pub(super) fn retry_pause(&mut self) -> Duration {
        backoff::pause(&mut self.random, self.config.backoff_base, self.config.backoff_max, 2)
    }
}
