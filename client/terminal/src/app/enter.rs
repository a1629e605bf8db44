//! What is entered.

use starling_client::{Command, Ticket};

use super::{App, Ask, Asked, FIRST_PAGE, LIST, Mode, PAGE, Server};
use crate::buffer::{Kind, Line, Own, What};
use crate::commands::{self, Typed};
use crate::text::harmless;

impl App {
    pub(super) fn enter(&mut self, server: &mut dyn Server) {
        if let Mode::Nickname { .. } = self.mode {
            return self.enter_nickname(server);
        }
        let text = self.editor.text().trim_end_matches('\n').to_owned();
        if text.trim().is_empty() {
            self.editor.clear();
            return;
        }
        let room =
            Some(self.shown()).filter(|buffer| buffer.kind == Kind::Room).map(|buffer| buffer.name.clone());
        let done = commands::parse(&text, room.as_deref()).and_then(|typed| self.carry_out(typed, server));
        match done {
            Ok(()) => {
                self.editor.take();
            }
            // What was typed stays, to be put right.
            Err(why) => self.trouble_here(&why),
        }
    }

    fn enter_nickname(&mut self, server: &mut dyn Server) {
        let nickname = self.editor.text().trim().to_owned();
        if nickname.is_empty() {
            return;
        }
        self.editor.clear();
        self.nickname = Some(nickname);
        self.mode = Mode::Chat;
        self.connect(server);
    }

    fn carry_out(&mut self, typed: Typed, server: &mut dyn Server) -> Result<(), String> {
        let here = self.current;
        let (kind, name, id) = {
            let buffer = self.shown();
            (buffer.kind, buffer.name.clone(), buffer.id)
        };
        let a_room =
            || if kind == Kind::Room { Ok(name.clone()) } else { Err("go to a room first".to_owned()) };
        match typed {
            Typed::Say(text) => match kind {
                Kind::Server => return Err("nobody hears you here: /join ROOM, or /msg NAME".to_owned()),
                Kind::Room => self.say(here, Ask::Say(name, text.clone()), &text, server)?,
                Kind::Private => self.say(here, Ask::Private(name, text.clone()), &text, server)?,
            },
            Typed::Join(room) => {
                let at = match self.buffer(Kind::Room, &room) {
                    Some(at) if self.buffers[at].is_joined => at,
                    _ => self.join(&room, server),
                };
                self.go(at);
            }
            Typed::Leave(room) => {
                let at = match room {
                    Some(room) => {
                        self.buffer(Kind::Room, &room).or_else(|| self.buffer(Kind::Private, &room))
                    }
                    None => Some(here),
                };
                let at = at.filter(|at| *at > 0).ok_or("go to a room first")?;
                if self.buffers[at].kind == Kind::Room {
                    let room = self.buffers[at].name.clone();
                    // That one was put out of it before is no trouble.
                    let _ = server.ask(Ask::Leave(room));
                }
                self.close(at);
            }
            Typed::Private(nickname, text) => {
                let is_new = self.buffer(Kind::Private, &nickname).is_none();
                let at = self.open(Kind::Private, &nickname);
                let nickname = self.buffers[at].name.clone();
                if is_new {
                    self.buffers[at].opened_from = Some(id);
                }
                if let Some(text) = text
                    && let Err(why) = self.say(at, Ask::Private(nickname, text.clone()), &text, server)
                {
                    if is_new {
                        self.close(at);
                    }
                    return Err(why);
                }
                self.go(at);
            }
            Typed::Nick(nickname) => self.ask(here, Ask::Nick(nickname), Asked::Nick(id), server),
            Typed::Topic(None) => {
                a_room()?;
                let topic = match self.shown().topic.clone() {
                    topic if topic.is_empty() => "there is no topic".to_owned(),
                    topic => format!("the topic is: {topic}"),
                };
                self.notice(here, &topic);
            }
            Typed::Topic(Some(topic)) => {
                let value = if topic.is_empty() { starling_client::Value::Null } else { topic.into() };
                let command = Command::State { room: a_room()?, key: "topic".to_owned(), value };
                self.ask(
                    here,
                    Ask::Command(command),
                    Asked::Done { buffer: id, what: String::new() },
                    server,
                );
            }
            Typed::Who(room) => {
                let room = match room {
                    Some(room) => room,
                    None => a_room()?,
                };
                let command = Command::Members { room, limit: Some(LIST), after: None };
                self.ask(here, Ask::Command(command), Asked::Who(id), server);
            }
            Typed::Rooms => {
                let command = Command::Rooms { limit: Some(LIST), after: None };
                self.ask(here, Ask::Command(command), Asked::Rooms { is_shown: true }, server);
            }
            Typed::History(count) => {
                a_room()?;
                let count = count.unwrap_or(FIRST_PAGE).clamp(1, 10 * PAGE);
                self.ask_for_older(count, server);
                // Where what comes is to be seen.
                self.scroll(isize::MIN / 2, server);
            }
            Typed::Moderate(command) => {
                let what = what_is_done(&command);
                self.ask(here, Ask::Command(command), Asked::Done { buffer: id, what }, server);
            }
            Typed::Reconnect => {
                server.ask(Ask::Reconnect).map_err(|error| error.to_string())?;
            }
            Typed::Help => self.help = Some(0),
            Typed::Quit => self.ask_to_quit(),
        }
        Ok(())
    }

    fn say(&mut self, at: usize, ask: Ask, text: &str, server: &mut dyn Server) -> Result<(), String> {
        let ticket = server.ask(ask).map_err(|error| error.to_string())?;
        self.await_delivery(at, ticket, text);
        let buffer = &mut self.buffers[at];
        buffer.scroll = None;
        buffer.new_from = None;
        buffer.seen();
        Ok(())
    }

    /// Shows one's own message, until more is known of it.
    pub(super) fn await_delivery(&mut self, at: usize, ticket: Ticket, text: &str) {
        let (id, at_ms) = (self.id(), self.now_ms);
        let sender = self.nickname.clone().unwrap_or_default();
        let what =
            What::Message { sender, content: harmless(text), is_mention: false, own: Some(Own::Queued) };
        let buffer = &mut self.buffers[at];
        buffer.put(Line { id, at_ms, place: None, what });
        self.unsent.insert(ticket, (buffer.id, id));
    }
}

/// What is told when it has been done.
fn what_is_done(command: &Command) -> String {
    match command {
        Command::Kick { target, .. } => format!("{target} is put out"),
        Command::Ban { target, .. } => format!("{target} is banned"),
        Command::Unban { target, .. } => format!("{target} may come back"),
        // The room hears of mutes and roles.
        _ => String::new(),
    }
}
