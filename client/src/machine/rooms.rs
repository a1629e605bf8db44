//! Rooms and their messages: of each room in order, each once, or a gap that is told. And private messages, each once.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{Machine, Waits};
use crate::error::Error;
use crate::event::{Event, Failure, Reply, Ticket};
use crate::name::fold;
use crate::wire::{Command, Gap, History, Joined, Left, Message, Position, Private, ServerError};

/// How many messages wait behind a gap that is being filled, before it is told instead.
const HELD_MAX: usize = 4096;

/// How many messages one question for missing ones asks for.
const FILL_PAGE: u32 = 500;

/// For how long is waited whether more private messages come, before they are said to have come.
const RECEIVED_DELAY: Duration = Duration::from_millis(100);

/// How many private messages are remembered, in order to know those that come again.
const PRIVATES_REMEMBERED: usize = 1024;

/// How a room is joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinOptions {
    /// How many of the last messages [`Event::Joined`] shall have. Only the first time: afterwards what was missed comes.
    pub history: Option<u32>,
    /// Where one was, in another run of the program: what came after it is told.
    pub since: Option<Position>,
    /// That one does not hear one's own messages.
    pub no_echo: bool,
    /// That the server leaves messages out for a connection that cannot keep up, instead of closing it.
    pub overflow_gap: bool,
}

impl JoinOptions {
    /// With the last messages.
    pub fn history(mut self, count: u32) -> Self {
        self.history = Some(count);
        self
    }

    /// With everything after this position.
    pub fn since(mut self, position: Position) -> Self {
        self.since = Some(position);
        self
    }

    /// Without one's own messages.
    pub fn no_echo(mut self) -> Self {
        self.no_echo = true;
        self
    }

    /// With gaps, which are filled from the history, instead of an end of the connection if one cannot keep up.
    pub fn overflow_gap(mut self) -> Self {
        self.overflow_gap = true;
        self
    }
}

/// What a room is known by here: names that are one room for the server are one here.
pub(super) fn key_of(room: &str) -> String {
    fold(room).into_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not yet asked for on this connection.
    Wanted,
    /// Asked for.
    Asked,
    Joined,
    /// To be left, or asked to be.
    Leaving,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Filling {
    /// The last missing message.
    to: u64,
    /// The question whose answer counts.
    question: u64,
}

/// A room that the user wants to be in.
#[derive(Debug)]
pub(super) struct Room {
    options: JoinOptions,
    state: State,
    /// Who asked to join, until it is answered.
    joins: Vec<Ticket>,
    leave: Option<Ticket>,
    /// As the server writes it, or as it was asked for.
    shown: String,
    position: Option<Position>,
    retry_at: Option<Duration>,
    /// What is missing and being asked for.
    filling: Option<Filling>,
    /// What came meanwhile.
    held: VecDeque<Message>,
    /// Places of one's own messages that do not come here, unless a resume brings them.
    own: BTreeSet<u64>,
}

impl Room {
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.retry_at
    }

    fn forget_place(&mut self) {
        self.filling = None;
        self.held.clear();
    }
}

/// Private messages that have been heard.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    heard: VecDeque<Private>,
    /// The last one that was kept and has come.
    offset: u64,
    /// When that is to be said, if it has not been.
    due: Option<Duration>,
}

impl Inbox {
    /// Offsets are those of another inbox from now on, perhaps.
    pub(super) fn forget(&mut self) {
        self.offset = 0;
        self.due = None;
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// What is to be said to have come.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<u64> {
        self.due.take_if(|due| now >= *due).map(|_| self.offset)
    }

    pub(super) fn say_at(&mut self, due: Duration) {
        self.due.get_or_insert(due);
    }

    /// Whether it has been heard before.
    fn knows(&mut self, private: &Private) -> bool {
        if private.offset.is_some_and(|offset| offset <= self.offset) {
            return true;
        }
        let found = self.heard.iter().position(|heard| {
            (heard.offset.is_none() || heard.offset == private.offset)
                && heard.sender == private.sender
                && heard.timestamp == private.timestamp
                && heard.content == private.content
        });
        // Two that are the same in all of this are two, if both were told as they came.
        match found.filter(|_| private.offset.is_some()) {
            Some(at) if self.heard[at].offset.is_none() => self.heard.remove(at).is_some(),
            Some(_) => true,
            None => false,
        }
    }
}

impl Machine {
    /// Joins a room, and again after every connection that is lost, until it is left.
    pub fn join(&mut self, now: Duration, room: &str, options: JoinOptions) -> Result<Ticket, Error> {
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        let key = key_of(room);
        if let Some(room) = self.rooms.get(&key)
            && room.joins.len() >= self.config.requests
        {
            return Err(Error::QueueFull);
        }
        let ticket = self.ticket();
        if let Some(room) = self.rooms.get_mut(&key)
            && room.state != State::Leaving
        {
            // It is joined already, or by somebody who asked before: this is answered with that.
            if room.state == State::Joined {
                let name = room.shown.clone();
                self.tell(Event::Reply { ticket, reply: Ok(Reply::Joined(name)) });
            } else {
                room.joins.push(ticket);
            }
            return Ok(ticket);
        }
        // Left and joined at once: the server obeys the first before the second.
        self.left(&key, "left");
        let position = options.since.clone();
        let shown = room.to_owned();
        let room = Room {
            options,
            state: State::Wanted,
            joins: vec![ticket],
            leave: None,
            shown,
            position,
            retry_at: None,
            filling: None,
            held: VecDeque::new(),
            own: BTreeSet::new(),
        };
        self.rooms.insert(key, room);
        self.flush(now);
        Ok(ticket)
    }

    /// Leaves a room. What waits to be sent there is told as [`Failure::Left`].
    pub fn leave(&mut self, now: Duration, room: &str) -> Result<Ticket, Error> {
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        let key = key_of(room);
        let Some(entry) = self.rooms.get_mut(&key) else { return Err(Error::NotInRoom(room.to_owned())) };
        if entry.state == State::Leaving {
            return Err(Error::NotInRoom(room.to_owned()));
        }
        entry.state = State::Leaving;
        let joins = std::mem::take(&mut entry.joins);
        let ticket = self.ticket();
        self.rooms.get_mut(&key).expect("it is there").leave = Some(ticket);
        self.answer_all(joins, &Err(Failure::Left));
        self.abandon_lane(&key);
        if self.is_online() {
            self.write_leave(&key);
        }
        self.flush(now);
        Ok(ticket)
    }

    /// The rooms that one is in, or will be in again.
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.rooms.values().filter(|room| room.state != State::Leaving).map(|room| &*room.shown)
    }

    /// The last message that was told of a room.
    pub fn position(&self, room: &str) -> Option<&Position> {
        self.rooms.get(&key_of(room)).and_then(|room| room.position.as_ref())
    }

    /// As the server writes a room's name, as far as that is known.
    fn shown(&self, key: &str) -> String {
        self.rooms.get(key).map_or(key, |room| &room.shown).to_owned()
    }

    pub(super) fn wants(&self, key: &str) -> bool {
        self.rooms.get(key).is_some_and(|room| room.state != State::Leaving)
    }

    /// Whether commands for a room would come before its join.
    pub(super) fn is_joining(&self, key: &str) -> bool {
        self.rooms.get(key).is_some_and(|room| matches!(room.state, State::Wanted | State::Asked))
    }

    pub(super) fn rooms_lost(&mut self) {
        for room in self.rooms.values_mut() {
            if room.state != State::Leaving {
                room.state = State::Wanted;
            }
            room.retry_at = None;
            room.forget_place();
        }
    }

    /// A leave that was under way when the connection ended is said again, if the session is the same one.
    pub(super) fn leave_again(&mut self, resumed: bool) {
        let leaving: Vec<String> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.state == State::Leaving)
            .map(|(key, _)| key.clone())
            .collect();
        for key in leaving {
            if resumed { self.write_leave(&key) } else { self.left(&key, "left") }
        }
    }

    /// The answers to what was asked of a room before are those of a membership that is over: they say nothing of the next one.
    fn overtake(&mut self, key: &str) {
        for waits in self.replies.values_mut() {
            if matches!(waits, Waits::Join(room) | Waits::Leave(room) if room == key) {
                *waits = Waits::Stale;
            }
        }
    }

    fn write_leave(&mut self, key: &str) {
        self.overtake(key);
        let id = self.id();
        self.replies.insert(id.clone(), Waits::Leave(key.to_owned()));
        self.write(Command::Leave { room: self.shown(key) }.to_frame(Some(&id)));
    }

    /// The server does not let one go for a while: it is asked again.
    pub(super) fn leave_later(&mut self, now: Duration, key: &str, error: &ServerError) {
        let delay = self.retry_pause().max(Duration::from_millis(error.retry_after_ms.unwrap_or_default()));
        if let Some(room) = self.rooms.get_mut(key).filter(|room| room.state == State::Leaving) {
            room.retry_at = Some(now + delay);
        }
    }

    fn flush_leaves(&mut self, now: Duration) {
        let is_due = |room: &Room| room.state == State::Leaving && room.retry_at.is_some_and(|at| now >= at);
        let due: Vec<String> =
            self.rooms.iter().filter(|(_, room)| is_due(room)).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.rooms.get_mut(&key).expect("it is there").retry_at = None;
            self.write_leave(&key);
        }
    }

    pub(super) fn flush_joins(&mut self, now: Duration) {
        self.flush_leaves(now);
        let due: Vec<String> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.state == State::Wanted && room.retry_at.is_none_or(|at| now >= at))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.overtake(&key);
            let id = self.id();
            let room = self.rooms.get_mut(&key).expect("it is there");
            room.state = State::Asked;
            room.retry_at = None;
            let join = Command::Join {
                room: room.shown.clone(),
                history: if room.position.is_none() { room.options.history } else { None },
                since: room.position.clone(),
                echo: room.options.no_echo.then_some(false),
                overflow: room.options.overflow_gap.then_some("gap"),
            };
            self.replies.insert(id.clone(), Waits::Join(key));
            self.write(join.to_frame(Some(&id)));
        }
    }

    pub(super) fn joined(&mut self, _now: Duration, key: &str, mut joined: Joined) {
        // Left before the answer came: the answer to the leave follows.
        let Some(room) = self.rooms.get_mut(key).filter(|room| room.state == State::Asked) else { return };
        room.state = State::Joined;
        room.shown.clone_from(&joined.room);
        for message in &mut joined.messages {
            message.room = joined.room.clone();
            message.epoch = joined.epoch.clone();
        }
        let before = room.position.take();
        let here = Position { epoch: joined.epoch.clone(), offset: joined.offset };
        let joins = std::mem::take(&mut room.joins);
        let name = joined.room.clone();
        let recovered = joined.recovered;
        let mut missing = None;
        let mut restarted = false;
        room.position = Some(match before {
            None => here.clone(),
            // What was missed follows, from the position on.
            Some(before) if recovered == Some(true) => before,
            Some(before) if before.epoch == here.epoch && before.offset <= here.offset => {
                if before.offset < here.offset {
                    missing = Some(here.offset);
                }
                before
            }
            Some(_) => {
                room.own.clear();
                restarted = true;
                here.clone()
            }
        });
        self.tell(Event::Joined(joined));
        if restarted {
            self.tell(Event::Restarted { room: name.clone(), epoch: here.epoch, offset: here.offset });
        }
        self.answer_all(joins, &Ok(Reply::Joined(name)));
        if let Some(to) = missing {
            self.miss(key, to);
        }
    }

    pub(super) fn join_refused(&mut self, now: Duration, key: &str, error: ServerError) {
        let Some(room) = self.rooms.get_mut(key).filter(|room| room.state == State::Asked) else { return };
        if error.reason == "already_joined" {
            // A leave before this was refused. What one has heard of the room since then is not known: it is left, and joined anew.
            let leave = Command::Leave { room: room.shown.clone() };
            let id = self.id();
            self.replies.insert(id.clone(), Waits::Stale);
            self.write(leave.to_frame(Some(&id)));
            let delay = self.retry_pause();
            let room = self.rooms.get_mut(key).expect("it is there");
            (room.state, room.retry_at) = (State::Wanted, Some(now + delay));
            return;
        }
        if error.retryable {
            room.state = State::Wanted;
            let after = Duration::from_millis(error.retry_after_ms.unwrap_or_default());
            let delay = self.retry_pause().max(after);
            self.rooms.get_mut(key).expect("it is there").retry_at = Some(now + delay);
            return;
        }
        let room = self.forget_room(key).expect("it is there");
        let name = room.shown;
        if room.joins.is_empty() {
            // One was in it before the connection was lost.
            self.tell(Event::Left(Left { room: name, reason: error.reason }));
        } else {
            self.answer_all(room.joins, &Err(Failure::Refused(error)));
        }
        self.abandon_lane(key);
    }

    /// One has left a room because one wanted to.
    pub(super) fn left(&mut self, key: &str, reason: &str) {
        if self.rooms.get(key).is_none_or(|room| room.state != State::Leaving) {
            return;
        }
        let room = self.forget_room(key).expect("it is there");
        let name = room.shown;
        self.tell(Event::Left(Left { room: name.clone(), reason: reason.to_owned() }));
        if let Some(ticket) = room.leave {
            self.tell(Event::Reply { ticket, reply: Ok(Reply::Left(name)) });
        }
    }

    /// One was put out of a room.
    pub(super) fn put_out(&mut self, left: Left) {
        let key = key_of(&left.room);
        if let Some(room) = self.rooms.get(&key)
            && room.state != State::Leaving
        {
            let room = self.forget_room(&key).expect("it is there");
            self.answer_all(room.joins, &Err(Failure::Left));
            self.abandon_lane(&key);
        }
        self.tell(Event::Left(left));
    }

    /// Answers whoever still waits: the machine ends.
    pub(super) fn abandon_rooms(&mut self) {
        for room in std::mem::take(&mut self.rooms).into_values() {
            self.answer_all(room.joins, &Err(Failure::Stopped));
            if let Some(ticket) = room.leave {
                self.tell(Event::Reply { ticket, reply: Ok(Reply::Left(room.shown)) });
            }
        }
    }

    fn answer_all(&mut self, tickets: Vec<Ticket>, reply: &Result<Reply, Failure>) {
        for ticket in tickets {
            self.tell(Event::Reply { ticket, reply: reply.clone() });
        }
    }

    fn forget_room(&mut self, key: &str) -> Option<Room> {
        let room = self.rooms.remove(key)?;
        self.typed.remove(key);
        Some(room)
    }

    pub(super) fn heard_message(&mut self, mut message: Message) {
        let key = key_of(&message.room);
        let Some(room) = self.rooms.get_mut(&key).filter(|room| room.state == State::Joined) else { return };
        let Some(position) = &room.position else { return };
        message.epoch = position.epoch.clone();
        if message.offset <= position.offset {
            return;
        }
        if room.filling.is_some() {
            room.held.push_back(message);
            if room.held.len() > HELD_MAX {
                self.tell_missing(&key);
            }
            return;
        }
        // Who does not hear himself sees holes where his own messages are.
        if message.offset > position.offset + 1 && !room.options.no_echo {
            let to = message.offset - 1;
            room.held.push_back(message);
            self.miss(&key, to);
            return;
        }
        self.deliver(&key, message);
    }

    pub(super) fn heard_gap(&mut self, gap: Gap) {
        let key = key_of(&gap.room);
        let Some(room) = self.rooms.get_mut(&key).filter(|room| room.state == State::Joined) else { return };
        match &mut room.filling {
            Some(filling) => filling.to = gap.to.max(filling.to),
            None => self.miss(&key, gap.to),
        }
    }

    /// The next message of a room, which is the one after the position or leaves out only what has been told.
    fn deliver(&mut self, key: &str, message: Message) {
        let room = self.rooms.get_mut(key).expect("it is joined");
        let offset = message.offset;
        if let Some(position) = &mut room.position {
            position.offset = offset;
        }
        let own = room.own.contains(&offset);
        room.own = room.own.split_off(&(offset + 1));
        if !own {
            self.tell(Event::Message(message));
        }
    }

    /// One's own message has this place in a room.
    pub(super) fn own_message(&mut self, key: &str, epoch: &str, offset: u64) {
        if let Some(room) = self.rooms.get_mut(key)
            && room.options.no_echo
            && let Some(position) = &room.position
            && position.epoch == epoch
            && offset > position.offset
        {
            room.own.insert(offset);
            // More than a resume brings at once are of no use.
            while room.own.len() > HELD_MAX {
                room.own.pop_first();
            }
        }
    }

    /// Everything after the position up to here is missing.
    fn miss(&mut self, key: &str, to: u64) {
        let room = self.rooms.get_mut(key).expect("it is joined");
        let Some(position) = room.position.clone().filter(|position| position.offset < to) else {
            return self.release(key);
        };
        room.filling = Some(Filling { to, question: 0 });
        if self.config.fill_gaps {
            self.ask_for(key, position.offset, to - position.offset);
        } else {
            self.tell_missing(key);
        }
    }

    fn ask_for(&mut self, key: &str, after: u64, missing: u64) {
        let id = self.id();
        let question = self.last_number;
        if let Some(filling) = self.rooms.get_mut(key).and_then(|room| room.filling.as_mut()) {
            filling.question = question;
        }
        self.replies.insert(id.clone(), Waits::Fill(key.to_owned(), question));
        let limit = u32::try_from(missing).unwrap_or(FILL_PAGE).min(FILL_PAGE);
        let history =
            Command::History { room: self.shown(key), before: None, after: Some(after), limit: Some(limit) };
        self.write(history.to_frame(Some(&id)));
    }

    /// The history has answered, or will not.
    pub(super) fn filled(&mut self, key: &str, question: u64, history: Option<History>) {
        let Some(room) = self.rooms.get(key) else { return };
        let Some(Filling { to, .. }) = room.filling.filter(|filling| filling.question == question) else {
            return;
        };
        let Some(position) = room.position.clone() else { return };
        let name = room.shown.clone();
        let mut progress = false;
        if let Some(history) = history.filter(|history| history.epoch == position.epoch) {
            for mut message in history.messages {
                let at = self.offset(key);
                if message.offset <= at || message.offset > to {
                    continue;
                }
                if message.offset > at + 1 {
                    self.tell_gap(&name, &position.epoch, at + 1, message.offset - 1);
                }
                message.room.clone_from(&name);
                message.epoch.clone_from(&position.epoch);
                self.deliver(key, message);
                progress = true;
            }
        }
        let at = self.offset(key);
        if at < to && progress {
            self.ask_for(key, at, to - at);
        } else {
            self.tell_missing(key);
        }
    }

    /// What is still missing is told, and what was held goes on.
    fn tell_missing(&mut self, key: &str) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        let name = room.shown.clone();
        if let (Some(filling), Some(position)) = (room.filling, &mut room.position)
            && position.offset < filling.to
        {
            let (from, to, epoch) = (position.offset + 1, filling.to, position.epoch.clone());
            position.offset = to;
            self.tell_gap(&name, &epoch, from, to);
        }
        self.release(key);
    }

    /// What was held behind a gap goes on.
    fn release(&mut self, key: &str) {
        let room = self.rooms.get_mut(key).expect("it is joined");
        room.filling = None;
        let mut held = std::mem::take(&mut room.held);
        while let Some(message) = held.pop_front() {
            self.heard_message(message);
            let room = self.rooms.get_mut(key).expect("it is joined");
            if room.filling.is_some() {
                // Another hole behind it; a message that is already held stands before the rest.
                room.held.extend(held);
                return;
            }
        }
    }

    fn offset(&self, key: &str) -> u64 {
        self.rooms.get(key).and_then(|room| room.position.as_ref()).map_or(0, |position| position.offset)
    }

    fn tell_gap(&mut self, room: &str, epoch: &str, from: u64, to: u64) {
        self.tell(Event::Gap(Gap { room: room.to_owned(), epoch: epoch.to_owned(), from, to }));
    }

    pub(super) fn heard_private(&mut self, now: Duration, private: Private) {
        // What was kept comes again until it is said to have come; and what was told to a connection that ended then may have been
        // kept after all.
        let known = self.privates.knows(&private);
        if let Some(offset) = private.offset {
            self.privates.offset = self.privates.offset.max(offset);
            if !self.config.manual_received {
                self.privates.say_at(now + RECEIVED_DELAY);
            }
        }
        if known {
            return;
        }
        if self.privates.heard.len() == PRIVATES_REMEMBERED {
            self.privates.heard.pop_front();
        }
        self.privates.heard.push_back(private.clone());
        self.tell(Event::Private(private));
    }

    pub(super) fn flush_received(&mut self, now: Duration) {
        if let Some(offset) = self.privates.take_due(now) {
            let id = self.id();
            self.replies.insert(id.clone(), Waits::Received);
            self.write(Command::Received { offset }.to_frame(Some(&id)));
        }
    }

    /// Says that the kept private messages up to this offset have come, if the machine is not to say so itself.
    pub fn received(&mut self, offset: u64) {
        if self.is_online() {
            self.write(Command::Received { offset }.to_frame(None));
        }
    }
}
