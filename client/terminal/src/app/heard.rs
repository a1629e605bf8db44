//! What the client hears.

use std::time::Duration;

use starling_client::wire::{Change, Joined, Member, Message, Role};
use starling_client::{Command, Delivery, Event, Failure, Reason, Reply, Ticket};

use super::{App, Ask, Asked, FIRST_PAGE, LIST, Link, Mode, Server};
use crate::buffer::{Kind, Line, Older, Own, What};
use crate::flags::damaged;
use crate::text::{harmless, mentions, seconds};

/// How many names a line tells.
const NAMES: usize = 100;

impl App {
    /// Something has happened.
    pub fn heard(&mut self, event: Event, server: &mut dyn Server) {
        match event {
            Event::Connecting { attempt } => self.link = Link::Connecting(attempt),
            Event::Online(welcome) => {
                self.link = Link::Online;
                self.nickname = Some(welcome.nickname.clone());
                let text = match (self.was_online, welcome.resumed) {
                    (false, _) => format!(
                        "online as {} at {} ({})",
                        welcome.nickname, self.settings.url, welcome.server
                    ),
                    (true, true) => "online again; nothing is lost".to_owned(),
                    (true, false) => "online again, in a new session".to_owned(),
                };
                self.was_online = true;
                self.hint_told = None;
                self.notice(0, &text);
                let rooms = Command::Rooms { limit: Some(LIST), after: None };
                self.ask(0, Ask::Command(rooms), Asked::Rooms { is_shown: false }, server);
            }
            Event::Latency(latency) => self.latency = Some(latency),
            Event::Waiting { delay, reason } => self.wait(delay, &reason),
            Event::Stopped(reason) => self.stopped(&reason),
            Event::Joined(joined) => self.joined(joined, server),
            Event::Left(left) => {
                if let Some(at) = self.buffer(Kind::Room, &left.room) {
                    let buffer = &mut self.buffers[at];
                    buffer.is_joined = false;
                    buffer.members.clear();
                    buffer.total = 0;
                    let why = match left.reason.as_str() {
                        "kicked" => "you were put out of this room: /join comes back".to_owned(),
                        "banned" => "you are banned from this room".to_owned(),
                        reason => format!("you are no more in this room ({reason})"),
                    };
                    self.trouble(at, &why);
                }
            }
            Event::Message(message) => self.message(message),
            Event::Gap(gap) => {
                if let Some(at) = self.buffer(Kind::Room, &gap.room) {
                    let count = gap.to.saturating_sub(gap.from) + 1;
                    let text = match count {
                        1 => "a message is missing here, and the server does not have it any more".to_owned(),
                        count => format!(
                            "{count} messages are missing here, and the server does not have them any more"
                        ),
                    };
                    self.trouble(at, &text);
                }
            }
            Event::Restarted { room, epoch, offset } => {
                if let Some(at) = self.buffer(Kind::Room, &room) {
                    self.buffers[at].set_epoch(&epoch);
                    self.buffers[at].older = Older::None;
                    self.trouble(
                        at,
                        "the room's history has begun afresh: what was said meanwhile may be lost",
                    );
                    if offset > 0 {
                        let id = self.buffers[at].id;
                        let last =
                            Command::History { room, before: None, after: None, limit: Some(FIRST_PAGE) };
                        self.ask(at, Ask::Command(last), Asked::Last(id), server);
                    }
                }
            }
            Event::Private(private) => {
                let at = self.open(Kind::Private, &private.sender);
                let content = harmless(&private.content);
                let id = self.add(
                    at,
                    private.timestamp,
                    What::Message {
                        sender: harmless(&private.sender),
                        content,
                        is_mention: false,
                        own: None,
                    },
                );
                self.unseen(at, id, true);
            }
            Event::System(system) => {
                let text = format!("{} says to all: {}", system.sender, system.content);
                self.add(0, system.timestamp, What::Notice(harmless(&text)));
                if self.current != 0 {
                    // It is for everybody, wherever they look.
                    self.add(self.current, system.timestamp, What::Notice(harmless(&text)));
                }
                self.ring();
            }
            Event::Presence(presence) => {
                if let Change::Nick { nickname, from } = &presence.change {
                    self.rename_conversation(from, nickname);
                }
                if let Some(at) = self.buffer(Kind::Room, &presence.room)
                    && let Some(told) = self.buffers[at].change(&presence.change)
                {
                    self.add(at, presence.timestamp, What::Notice(harmless(&told)));
                }
            }
            Event::State(state) => {
                if let Some(at) = self.buffer(Kind::Room, &state.room)
                    && state.key == "topic"
                {
                    let topic = harmless(&as_text(&state.value));
                    let told = match topic.as_str() {
                        "" => format!("{} took the topic away", state.sender),
                        topic => format!("{} set the topic: {topic}", state.sender),
                    };
                    self.buffers[at].topic = topic;
                    self.notice(at, &told);
                }
            }
            Event::Typing(typing) => {
                let now = self.now;
                if let Some(at) = self.buffer(Kind::Room, &typing.room)
                    && self.nickname.as_ref() != Some(&typing.nickname)
                {
                    self.buffers[at].types(&typing.nickname, now);
                }
            }
            Event::Renamed(nickname) => {
                let text = format!("you are {nickname} now");
                if let Some(from) = self.nickname.replace(nickname.clone()) {
                    let change = Change::Nick { nickname, from };
                    for buffer in self.buffers.iter_mut().filter(|buffer| buffer.kind == Kind::Room) {
                        buffer.change(&change);
                    }
                }
                self.notice(self.current, &text);
            }
            Event::JournalDamaged { bytes, copy } => {
                let damaged = damaged(bytes, &copy);
                self.trouble_here(&damaged);
                self.lost = Some(damaged);
            }
            Event::Restored { ticket, to, private, content } => {
                let at = self.open(if private { Kind::Private } else { Kind::Room }, &to);
                self.await_delivery(at, ticket, &content);
            }
            Event::Delivery { ticket, delivery } => self.delivered(ticket, delivery),
            Event::Reply { ticket, reply } => self.replied(ticket, reply, server),
            Event::Other(value) if value["type"] == "error" => {
                let text = value["message"].as_str().unwrap_or("the server refuses something").to_owned();
                self.trouble(self.current, &text);
            }
            _ => {}
        }
    }

    fn wait(&mut self, delay: Duration, reason: &Reason) {
        let why = Self::reason(reason);
        // A token says who one is, whatever one would rather be called.
        let hint =
            (reason.is_nickname_in_use() && !self.settings.has_token).then_some("nickname taken: /nick NAME");
        let is_news = !matches!(self.link, Link::Connecting(attempt) if attempt > 1);
        if is_news {
            self.trouble(0, &format!("{why}; again in {}", seconds(delay)));
        }
        if hint.is_some() && hint != self.hint_told {
            self.trouble_here(&format!("{why}: /nick NAME takes another nickname, or wait until it is free"));
        }
        self.hint_told = hint;
        self.link = Link::Waiting { until: self.now + delay, why, hint };
        self.lost();
    }

    fn stopped(&mut self, reason: &Reason) {
        let why = Self::reason(reason);
        self.link = Link::Stopped(why.clone());
        self.lost();
        let is_name_wrong = reason.is_nickname_in_use()
            || matches!(reason, Reason::Refused(error) if error.reason == "bad_name");
        if is_name_wrong && !self.settings.has_token {
            self.trouble(self.current, &format!("{why}. Who are you?"));
            self.mode = Mode::Nickname { why: Some(why) };
            self.mode_before = Mode::Chat;
            // What was typed meanwhile is no nickname; it is among what was entered.
            self.editor.take();
        } else if *reason != Reason::Quit {
            self.trouble(self.current, &format!("{why}. /reconnect tries again"));
        }
    }

    fn lost(&mut self) {
        self.latency = None;
        for buffer in &mut self.buffers {
            buffer.typing.clear();
        }
    }

    fn joined(&mut self, joined: Joined, server: &mut dyn Server) {
        let at = self.open(Kind::Room, &joined.room);
        let lines: Vec<Line> = {
            let is_new = self.buffers[at].set_epoch(&joined.epoch);
            let buffer = &mut self.buffers[at];
            buffer.name.clone_from(&joined.room);
            buffer.is_joined = true;
            buffer.total = joined.members;
            buffer.topic =
                joined.state.get("topic").map_or(String::new(), |topic| harmless(&as_text(&topic.value)));
            if is_new || joined.offset == 0 {
                buffer.older = Older::None;
            }
            joined.messages.into_iter().map(|message| self.line(at, message)).collect()
        };
        for line in lines {
            self.buffers[at].put(line);
        }
        self.ask_for_members(at, None, server);
    }

    fn line(&mut self, at: usize, message: Message) -> Line {
        let is_own = self.nickname.as_ref() == Some(&message.sender);
        let content = harmless(&message.content);
        let is_mention =
            !is_own && self.nickname.as_ref().is_some_and(|nickname| mentions(&content, nickname));
        Line {
            id: self.id(),
            at_ms: message.timestamp,
            place: self.buffers[at].place(&message.epoch, message.offset),
            what: What::Message { sender: harmless(&message.sender), content, is_mention, own: None },
        }
    }

    fn message(&mut self, message: Message) {
        let Some(at) = self.buffer(Kind::Room, &message.room) else { return };
        let is_own = self.nickname.as_ref() == Some(&message.sender);
        self.buffers[at].typing.retain(|(nickname, _)| *nickname != message.sender);
        let line = self.line(at, message);
        let (id, is_mention) = (line.id, matches!(line.what, What::Message { is_mention: true, .. }));
        if self.buffers[at].put(line) && !is_own {
            self.unseen(at, id, is_mention);
        }
    }

    /// A message has come; unless somebody sees it, it is counted.
    fn unseen(&mut self, at: usize, line: u64, is_mention: bool) {
        let is_seen = at == self.current && self.shown().scroll.is_none();
        let buffer = &mut self.buffers[at];
        if !is_seen {
            buffer.unread += 1;
            buffer.mentions += usize::from(is_mention);
            buffer.new_from.get_or_insert(line);
        }
        if is_mention {
            self.ring();
        }
    }

    fn rename_conversation(&mut self, from: &str, to: &str) {
        if self.buffer(Kind::Private, to).is_none()
            && let Some(at) = self.buffer(Kind::Private, from)
        {
            to.clone_into(&mut self.buffers[at].name);
            self.notice(at, &format!("{from} is {to} now"));
        }
    }

    fn delivered(&mut self, ticket: Ticket, delivery: Delivery) {
        let Some((buffer, line)) = self.unsent.get(&ticket).copied() else { return };
        if delivery.is_final() {
            self.unsent.remove(&ticket);
        }
        if self.unsent.is_empty() && self.mode == Mode::Quit {
            // All of it has been sent while it was asked.
            self.quit();
        }
        let Some(at) = self.buffer_by_id(buffer) else {
            if let Delivery::Failed(failure) = delivery {
                self.trouble(0, &format!("a message was not sent: {}", why(&failure)));
            }
            return;
        };
        let buffer = &mut self.buffers[at];
        match delivery {
            Delivery::Queued => {}
            Delivery::Sent => buffer.settle(line, Own::Sent, None, None),
            Delivery::Acknowledged(ack) => {
                let place = ack
                    .epoch
                    .as_deref()
                    .zip(ack.offset)
                    .and_then(|(epoch, offset)| buffer.place(epoch, offset));
                buffer.settle(line, Own::Acknowledged, place, ack.timestamp);
                if buffer.kind == Kind::Private && ack.delivered == Some(0) {
                    let text = match ack.stored {
                        Some(true) => format!("{} is away, and will get it", buffer.name),
                        _ => format!("{} is away, and does not get it", buffer.name),
                    };
                    self.notice(at, &text);
                }
            }
            Delivery::Failed(failure) => {
                buffer.settle(line, Own::Failed(why(&failure)), None, None);
                let is_nobody = matches!(&failure, Failure::Refused(error) if error.code == 404);
                if is_nobody && buffer.kind == Kind::Private {
                    self.nobody(at, &why(&failure));
                }
            }
        }
    }

    /// There is nobody of this name. A conversation in which nothing has been said is closed, as what is typed there next would
    /// fail too.
    fn nobody(&mut self, at: usize, why: &str) {
        let buffer = &self.buffers[at];
        let mut unsent = Vec::new();
        for line in &buffer.lines {
            match &line.what {
                What::Message { own: Some(Own::Failed(_)), content, .. } => unsent.push(content.clone()),
                What::Message { .. } => return,
                What::Notice(_) | What::Trouble(_) => {}
            }
        }
        let is_shown = at == self.current;
        if is_shown && !self.editor.text().is_empty() {
            // What is being typed is for nobody else to hear: it must not end up in the next room.
            return;
        }
        let told = format!("not sent to {}: {} ({why})", buffer.name, unsent.join(" ⏎ "));
        let back = buffer.opened_from;
        self.close(at);
        if is_shown && let Some(back) = back.and_then(|id| self.buffer_by_id(id)) {
            self.go(back);
        }
        self.trouble_here(&told);
    }

    fn replied(&mut self, ticket: Ticket, reply: Result<Reply, Failure>, server: &mut dyn Server) {
        let Some(asked) = self.asked.remove(&ticket) else { return };
        let at_of = |buffer: u64| self.buffer_by_id(buffer);
        match (asked, reply) {
            (Asked::Join(id), Err(failure)) => {
                if let Some(at) = at_of(id)
                    && failure != Failure::Stopped
                {
                    self.buffers[at].is_joined = false;
                    self.trouble(at, &format!("{}. /leave closes this", why(&failure)));
                }
            }
            (Asked::Members { buffer, is_first }, Ok(Reply::Members(members))) => {
                let Some(at) = at_of(buffer) else { return };
                let last = members.members.last().map(|member| member.nickname.clone());
                let is_more = members.members.len() >= LIST as usize && is_first;
                self.buffers[at].set_members(members.members, members.total, is_first);
                if is_more {
                    self.ask_for_members(at, last, server);
                }
            }
            (Asked::Who(buffer), Ok(Reply::Members(members))) => {
                let at = at_of(buffer).unwrap_or(self.current);
                let names: Vec<String> = members.members.iter().take(NAMES).map(named).collect();
                let more = if members.total as usize > names.len() { ", ..." } else { "" };
                self.notice(
                    at,
                    &format!("{} in {}: {}{more}", members.total, members.room, names.join(", ")),
                );
            }
            (Asked::Rooms { is_shown }, Ok(Reply::Rooms(rooms))) => {
                self.rooms_known = rooms.rooms.iter().map(|room| room.room.clone()).collect();
                if is_shown {
                    let rooms: Vec<String> = rooms
                        .rooms
                        .iter()
                        .take(NAMES)
                        .map(|room| format!("{} ({})", room.room, room.members))
                        .collect();
                    let text = if rooms.is_empty() {
                        "there are no rooms".to_owned()
                    } else {
                        format!("rooms: {}", rooms.join(", "))
                    };
                    self.notice(self.current, &text);
                }
            }
            (Asked::Older(buffer), Ok(Reply::History(history))) => {
                let Some(at) = at_of(buffer) else { return };
                let lines: Vec<Line> =
                    history.messages.into_iter().map(|message| self.line(at, message)).collect();
                let any = self.buffers[at].put_older(lines);
                self.buffers[at].older = if any { Older::Unknown } else { Older::None };
            }
            (Asked::Last(buffer), Ok(Reply::History(history))) => {
                let Some(at) = at_of(buffer) else { return };
                for message in history.messages {
                    let line = self.line(at, message);
                    if line.place.is_some() {
                        self.buffers[at].put(line);
                    }
                }
            }
            (Asked::Older(buffer), Err(failure)) => {
                if let Some(at) = at_of(buffer) {
                    self.buffers[at].older = Older::Unknown;
                    self.trouble(at, &why(&failure));
                }
            }
            (Asked::Done { buffer, what }, Ok(_)) if !what.is_empty() => {
                let at = at_of(buffer).unwrap_or(self.current);
                self.notice(at, &what);
            }
            (Asked::Done { buffer, .. } | Asked::Who(buffer) | Asked::Nick(buffer), Err(failure)) => {
                let at = at_of(buffer).unwrap_or(self.current);
                self.trouble(at, &why(&failure));
            }
            (Asked::Rooms { is_shown: true }, Err(failure)) => self.trouble(self.current, &why(&failure)),
            _ => {}
        }
    }
}

/// Why something failed, for people.
fn why(failure: &Failure) -> String {
    match failure {
        Failure::Refused(error) if !error.message.is_empty() => error.message.clone(),
        failure => failure.to_string(),
    }
}

fn as_text(value: &starling_client::Value) -> String {
    match value {
        starling_client::Value::Null => String::new(),
        starling_client::Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn named(member: &Member) -> String {
    let mark = match member.role {
        Role::Host => "@",
        Role::Guest => "-",
        _ => "",
    };
    let away = if member.connected { "" } else { " (away)" };
    format!("{mark}{}{away}", member.nickname)
}
