//! Text lines: what people type means one of the commands that programs send, in the room that is current.
//!
//! A session's memberships double as the person's stack of rooms: the last one is the current room, leaving it makes the
//! one before current, joining a room that one is in already brings it to the end.

use super::Shard;
use super::closing::Closing;
use super::commands::Asked;
use super::connection::Pause;
use super::encode::Encoding;
use super::input::Flow;
use super::mail::{ReplyTo, Request};
use super::session::{Step, Then};
use crate::base::slots::Id;
use crate::chat::name::RoomName;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::room::LOBBY;
use crate::proto::text::{self, Line};
use crate::proto::wire::{Command, Join, Moderate, Moderation};

/// The key of a room's state that people set with /topic.
const TOPIC: &str = "topic";

impl Shard {
    /// Hears one line, and says whether the next one may be looked at.
    pub(super) fn hear_text(&mut self, id: Id, bytes: &[u8]) -> bool {
        let flow = if !self.is_free(id) && !self.is_message(bytes) {
            Flow::Hold(Pause::Reply)
        } else {
            match std::str::from_utf8(bytes) {
                Err(_) => self.refuse_line(id, Reason::BadUtf8, "this line is not UTF-8"),
                Ok(line) => match self.connections.get(id).and_then(|c| c.session) {
                    None => self.hear_nickname(id, line),
                    Some(session) => self.hear_line(id, session, line),
                },
            }
        };
        self.follow(id, flow, bytes)
    }

    /// Whether a line is said in a room, so that several may be under way together.
    fn is_message(&self, bytes: &[u8]) -> bool {
        std::str::from_utf8(bytes).is_ok_and(|line| matches!(text::parse(line), Line::Say(_)))
    }

    /// The first line, and every one until a nickname is accepted.
    fn hear_nickname(&mut self, id: Id, line: &str) -> Flow {
        let hello = match text::parse(line) {
            Line::Empty => return Flow::Next,
            Line::Quit => {
                self.close(id, Closing::Quit(ReplyTo::default()));
                return Flow::Next;
            }
            Line::Help => {
                self.say_raw(id, |out| out.extend_from_slice(text::HELP.as_bytes()));
                return Flow::Next;
            }
            Line::Token(token) => self.identify(None, Some(token), None),
            _ => self.identify(Some(line.trim()), None, None),
        };
        match hello {
            Ok(who) => {
                let room = RoomName::parse(LOBBY).expect("the lobby has a proper name");
                self.hello(said(id, line), who, Then { room: Some(room), upgrade: None })
            }
            Err(refusal) => {
                self.refuse(said(id, line), &refusal);
                self.ask_for_nickname(id);
                Flow::Next
            }
        }
    }

    /// Asks a person for a nickname, after one was refused.
    pub(super) fn ask_for_nickname(&mut self, id: Id) {
        let connection = self.connections.get(id);
        if connection
            .is_some_and(|c| c.encoding == Encoding::Text && c.pause.is_none_or(|p| p == Pause::Reply))
        {
            self.say_raw(id, |out| out.extend_from_slice(text::GREETING.as_bytes()));
        }
    }

    fn hear_line(&mut self, id: Id, session: Id, line: &str) -> Flow {
        let Some(state) = self.sessions.get(session) else { return Flow::Next };
        let current = state.memberships.last().map(|m| m.room.clone());
        let in_current = |command: fn(&RoomName) -> Command<'_>| current.as_ref().map(command);
        let command = match text::parse(line) {
            Line::Empty => return Flow::Next,
            Line::Say(content) => {
                let Some(room) = &current else { return self.refuse_without_room(id) };
                Command::Message { room: room.as_str().into(), content: content.into(), ack: None }
            }
            Line::Nick(nickname) => Command::Nick { nickname: nickname.into() },
            Line::Join(room) => {
                if self.choose_room(id, session, room) {
                    return Flow::Next;
                }
                Command::Join(Join { room: room.into(), echo: Some(false), ..Join::default() })
            }
            Line::Leave => match in_current(|room| Command::Leave { room: room.as_str().into() }) {
                Some(command) => command,
                None => return self.refuse_without_room(id),
            },
            Line::Who => match in_current(|room| Command::Members {
                room: room.as_str().into(),
                limit: None,
                after: None,
            }) {
                Some(command) => command,
                None => return self.refuse_without_room(id),
            },
            Line::Rooms => Command::Rooms { limit: None, after: None },
            Line::Msg { target, text } => Command::Private { target: target.into(), content: text.into() },
            Line::Ping => Command::Ping,
            Line::Quit => Command::Quit,
            Line::Help => {
                self.say_raw(id, |out| out.extend_from_slice(text::HELP.as_bytes()));
                return Flow::Next;
            }
            Line::History(count) => match in_current(|room| Command::History {
                room: room.as_str().into(),
                before: None,
                after: None,
                limit: None,
            }) {
                Some(Command::History { room, .. }) => {
                    Command::History { room, before: None, after: None, limit: count }
                }
                _ => return self.refuse_without_room(id),
            },
            Line::Topic(None) => return self.ask_for_topic(id, session, line),
            Line::Topic(Some(topic)) => {
                let Some(room) = &current else { return self.refuse_without_room(id) };
                let value = serde_json::Value::from(topic).to_string();
                let (room, key) = (room.as_str().into(), TOPIC.into());
                Command::State { room, key, value: Some(value.into()) }
            }
            Line::Kick(target) => {
                let Some(room) = &current else { return self.refuse_without_room(id) };
                Command::Moderate(Moderate {
                    action: Moderation::Kick,
                    room: room.as_str().into(),
                    target: target.into(),
                    reason: None,
                    seconds: None,
                })
            }
            Line::Token(_) => {
                return self.refuse_line(id, Reason::AlreadySaidHello, "you have a nickname; see /help");
            }
            Line::Unknown(word) => {
                let message = format!("there is no /{word}; see /help");
                self.refuse(said(id, line), &Refusal::new(Reason::UnknownType, message));
                return Flow::Next;
            }
            Line::Usage(usage) => return self.refuse_line(id, Reason::BadRequest, usage),
        };
        self.command(said(id, line), &command)
    }

    /// Asks the current room for its topic.
    fn ask_for_topic(&mut self, id: Id, session: Id, line: &str) -> Flow {
        let Some(key) = self.sessions[session].memberships.last().map(|m| m.key) else {
            return self.refuse_without_room(id);
        };
        let request = Request::GetState { room: key.key, key: TOPIC };
        self.begin(session, key.home, said(id, line).reply_to(), Step::Query, request)
    }

    /// Tells a person what a room's state says.
    pub(super) fn say_state(&mut self, id: Id, room: &RoomName, key: &str, value: Option<&str>) {
        let value = value.unwrap_or("null");
        let topic = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
        let note = match value {
            "null" => format!("{} has no {key}", room.as_str()),
            _ => format!("{} has the {key}: {topic}", room.as_str()),
        };
        self.say_raw(id, |out| text::put_note(out, &note));
    }

    /// Makes a room current that the session is in, and says whether it is.
    fn choose_room(&mut self, id: Id, session: Id, room: &str) -> bool {
        let state = &mut self.sessions[session];
        let Some(chosen) = state.membership(room).map(|m| m.room.clone()) else { return false };
        let index = state.memberships.iter().position(|m| m.room == chosen).expect("just found");
        let membership = state.memberships.remove(index);
        state.memberships.push(membership);
        self.say_raw(id, |out| {
            out.extend_from_slice(format!("* you are in {}\n", chosen.as_str()).as_bytes());
        });
        true
    }

    /// Tells a person what a program learns from the acknowledgement of its `nick`.
    pub(super) fn say_own_nickname(&mut self, id: Id, nickname: &str) {
        self.say_raw(id, |out| out.extend_from_slice(format!("* you are now {nickname}\n").as_bytes()));
    }

    fn refuse_without_room(&mut self, id: Id) -> Flow {
        self.refuse_line(id, Reason::NotAMember, "you are in no room; join one with /join ROOM")
    }

    fn refuse_line(&mut self, id: Id, reason: Reason, message: &'static str) -> Flow {
        self.refuse_later(id, &ReplyTo::default(), &Refusal::new(reason, message));
        Flow::Next
    }
}

/// A line as a command without an id.
fn said(by: Id, line: &str) -> Asked<'static> {
    Asked { by, id: None, encoding: Encoding::Text, bytes: line.len() }
}
