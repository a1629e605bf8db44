//! Requests: everything that is asked once and answered once, but for joining, leaving and messages.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::rooms::key_of;
use super::{Machine, Phase, TYPING_INTERVAL, Waits};
use crate::error::Error;
use crate::event::{Event, Failure, Reply, Ticket};
use crate::wire::{Command, Incoming};

#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: VecDeque<(Ticket, Command)>,
    /// Written and not answered.
    written: BTreeMap<Ticket, Command>,
}

impl Machine {
    /// Asks the server something: `members`, `rooms`, `history`, `state`, `role`, `kick`, `ban`, `unban`, `mute`, `unmute`, `broadcast`.
    /// The answer is an [`Event::Reply`]. Without a connection it waits for one. If the connection is lost before the answer, questions
    /// are asked again, and all else is answered with [`Failure::Lost`].
    pub fn request(&mut self, now: Duration, command: Command) -> Result<Ticket, Error> {
        match command {
            Command::Members { .. }
            | Command::Rooms { .. }
            | Command::History { .. }
            | Command::State { .. }
            | Command::Role { .. }
            | Command::Kick { .. }
            | Command::Ban { .. }
            | Command::Unban { .. }
            | Command::Mute { .. }
            | Command::Unmute { .. }
            | Command::Broadcast { .. } => {}
            Command::Nick { nickname } => return self.nick(now, &nickname),
            Command::Hello { .. }
            | Command::Join { .. }
            | Command::Leave { .. }
            | Command::Message { .. }
            | Command::Private { .. }
            | Command::Received { .. }
            | Command::Typing { .. }
            | Command::Ping
            | Command::Pong
            | Command::Quit => return Err(Error::OwnMethod(command.name())),
        }
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        self.enqueue(now, command)
    }

    fn enqueue(&mut self, now: Duration, command: Command) -> Result<Ticket, Error> {
        if self.requests.waiting.len() + self.requests.written.len() >= self.config.requests {
            return Err(Error::QueueFull);
        }
        if command.to_frame(Some(&"-".repeat(64))).text.len() > self.config.frame_bytes {
            return Err(Error::TooLarge);
        }
        let ticket = self.ticket();
        self.requests.waiting.push_back((ticket, command));
        self.flush(now);
        Ok(ticket)
    }

    /// Takes another nickname: in the session if there is one, else with the next hello, which is said at once if the machine has
    /// stopped because the nickname was in use.
    pub fn nick(&mut self, now: Duration, nickname: &str) -> Result<Ticket, Error> {
        if matches!(self.phase, Phase::Quitting { .. }) {
            return Err(Error::Stopped);
        }
        let stopped = matches!(self.phase, Phase::Stopped(_));
        if stopped {
            self.resume = None;
        }
        // A hello that is under way says the old one; what asked for it before is overtaken.
        if self.is_online() || self.resume.is_some() || matches!(self.phase, Phase::Hello { .. }) {
            return self.enqueue(now, Command::Nick { nickname: nickname.to_owned() });
        }
        let ticket = self.ticket();
        self.nickname = Some(nickname.to_owned());
        if let Some(overtaken) = self.nick_asked.replace(ticket) {
            self.tell(Event::Reply { ticket: overtaken, reply: Err(Failure::Lost) });
        }
        match &mut self.phase {
            Phase::Stopped(_) => self.start(now),
            // What was refused with the old one need not be waited for.
            Phase::Waiting { until } => *until = now,
            _ => {}
        }
        Ok(ticket)
    }

    /// Tells a room that one is typing: at most once a second, and only while one is in it. Never stored, never repeated.
    pub fn typing(&mut self, now: Duration, room: &str) {
        let key = key_of(room);
        if !self.is_online() || !self.wants(&key) || self.is_joining(&key) {
            return;
        }
        if self.typed.get(&key).is_some_and(|last| now < *last + TYPING_INTERVAL) {
            return;
        }
        self.typed.insert(key, now);
        self.write(Command::Typing { room: room.to_owned() }.to_frame(None));
    }

    pub(super) fn flush_requests(&mut self) {
        let mut kept = VecDeque::new();
        while let Some((ticket, command)) = self.requests.waiting.pop_front() {
            if command.room().is_some_and(|room| self.is_joining(&key_of(room))) {
                kept.push_back((ticket, command));
                continue;
            }
            let id = self.id();
            self.replies.insert(id.clone(), Waits::Request(ticket));
            self.write(command.to_frame(Some(&id)));
            if let Command::Nick { nickname } = &command {
                self.nick_under_way = Some((ticket, nickname.clone()));
            }
            self.requests.written.insert(ticket, command);
        }
        self.requests.waiting = kept;
    }

    pub(super) fn replied(&mut self, ticket: Ticket, event: Incoming) {
        let Some(_) = self.requests.written.remove(&ticket) else { return };
        let nick = self.nick_under_way.take_if(|(of, _)| *of == ticket);
        let reply = match event {
            Incoming::Ack(ack) => {
                if let Some((_, nickname)) = nick {
                    self.renamed(nickname);
                }
                Ok(Reply::Ack(ack))
            }
            Incoming::Members(members) => Ok(Reply::Members(members)),
            Incoming::Rooms(rooms) => Ok(Reply::Rooms(rooms)),
            Incoming::History(mut history) => {
                for message in &mut history.messages {
                    message.room.clone_from(&history.room);
                    message.epoch.clone_from(&history.epoch);
                }
                Ok(Reply::History(history))
            }
            Incoming::Error(error) => Err(Failure::Refused(error)),
            _ => Err(Failure::Lost),
        };
        self.tell(Event::Reply { ticket, reply });
    }

    pub(super) fn requests_lost(&mut self) {
        self.nick_under_way = None;
        for (ticket, command) in std::mem::take(&mut self.requests.written).into_iter().rev() {
            if command.is_query() {
                self.requests.waiting.push_front((ticket, command));
            } else {
                self.tell(Event::Reply { ticket, reply: Err(Failure::Lost) });
            }
        }
    }

    /// Answers everything that has not been answered: the machine ends.
    pub(super) fn abandon_requests(&mut self) {
        let waiting = std::mem::take(&mut self.requests.waiting);
        let written = std::mem::take(&mut self.requests.written);
        for (ticket, _) in written {
            self.tell(Event::Reply { ticket, reply: Err(Failure::Lost) });
        }
        for (ticket, _) in waiting {
            self.tell(Event::Reply { ticket, reply: Err(Failure::Stopped) });
        }
    }
}
