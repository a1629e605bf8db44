//! The client as it is seen, without a terminal and without a connection: keys and events go in; what is asked of the server, and of
//! the terminal, comes out.

mod enter;
mod heard;
mod keys;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::time::Duration;

use starling_client::name::fold;
use starling_client::{Command, Error, Reason, Ticket};

use crate::buffer::{Buffer, Kind, Line, What};
use crate::clock::ToLocal;
use crate::complete::{Completion, Known};
use crate::editor::Editor;
use crate::flags;
use crate::text::harmless;
use crate::view;

/// How many of the last messages are asked for when a room is joined.
pub const FIRST_PAGE: u32 = 50;

/// How many older ones are asked for at a time.
pub const PAGE: u32 = 100;

/// How many members, and rooms, are asked for at a time.
const LIST: u32 = 1_000;

/// What is asked of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Connect under this nickname; or go on with it, if the one of before is taken.
    Connect(Option<String>),
    /// Connect now.
    Reconnect,
    /// Join a room.
    Join(String),
    /// Leave a room.
    Leave(String),
    /// Say something in a room.
    Say(String, String),
    /// Say something to one person.
    Private(String, String),
    /// Take another nickname.
    Nick(String),
    /// Tell a room that one is typing.
    Typing(String),
    /// Anything else.
    Command(Command),
}

/// Who is asked. What is answered comes later, by the ticket.
pub trait Server {
    /// Asks. What has no answer has no ticket that counts.
    fn ask(&mut self, ask: Ask) -> Result<Ticket, Error>;
}

/// What the terminal is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Ring.
    Bell,
    /// Draw everything anew.
    Redraw,
    /// End.
    Quit,
}

/// Where one stands with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Nothing has been tried.
    None,
    /// It connects, for the how manieth time.
    Connecting(u32),
    /// There is a session.
    Online,
    /// There will be another attempt then.
    Waiting {
        /// When.
        until: Duration,
        /// Why there is no connection.
        why: String,
        /// What one can do, which is told first: there may be no place for the rest.
        hint: Option<&'static str>,
    },
    /// There will be none.
    Stopped(String),
}

/// What the line that is typed is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Messages and commands.
    Chat,
    /// A nickname.
    Nickname {
        /// What is wrong with the one of before.
        why: Option<String>,
    },
    /// Whether to quit although messages are unsent.
    Quit,
}

/// What was asked, until it is answered.
#[derive(Debug, Clone, PartialEq)]
enum Asked {
    Join(u64),
    Members { buffer: u64, is_first: bool },
    Who(u64),
    Rooms { is_shown: bool },
    Older(u64),
    Last(u64),
    Nick(u64),
    Done { buffer: u64, what: String },
}

/// How a client is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the server is.
    pub url: String,
    /// Who one is.
    pub nickname: Option<String>,
    /// Whether a token says who one is.
    pub has_token: bool,
    /// Whether what is unsent at the end is kept for another run.
    pub has_journal: bool,
    /// Rooms to join.
    pub rooms: Vec<String>,
    /// Whether there are colours.
    pub is_coloured: bool,
    /// Whether the terminal rings.
    pub has_bell: bool,
    /// How times are shown.
    pub to_local: ToLocal,
}

/// The client.
#[derive(Debug)]
pub struct App {
    /// How it is set up.
    pub settings: Settings,
    /// One's nickname, as far as it is known.
    pub nickname: Option<String>,
    /// Where one stands with the server.
    pub link: Link,
    /// How long the last ping took.
    pub latency: Option<Duration>,
    /// The server's own first, then rooms and conversations.
    pub buffers: Vec<Buffer>,
    /// Which one is shown.
    pub current: usize,
    /// The line that is typed.
    pub editor: Editor,
    /// What it is for.
    pub mode: Mode,
    /// What it was for before it was asked whether to quit.
    mode_before: Mode,
    /// Whether keys and commands are shown, and from which row on.
    pub help: Option<u16>,
    /// Whether members are shown, where there is place.
    pub has_members: bool,
    /// What is lost of an earlier run, to be told at the end too.
    pub lost: Option<String>,
    /// Columns and rows.
    pub size: (u16, u16),
    /// The time since any moment that stays the same.
    pub now: Duration,
    /// The same for people, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    effects: Vec<Effect>,
    completion: Option<Completion>,
    asked: HashMap<Ticket, Asked>,
    /// One's own messages that are not answered: the buffer and the line.
    unsent: HashMap<Ticket, (u64, u64)>,
    rooms_known: Vec<String>,
    last_id: u64,
    was_online: bool,
    /// What one can do, as it was told last.
    hint_told: Option<&'static str>,
}

impl App {
    /// A client that has not begun.
    pub fn new(settings: Settings, size: (u16, u16)) -> App {
        let mut app = App {
            nickname: settings.nickname.clone().filter(|_| !settings.has_token),
            settings,
            link: Link::None,
            latency: None,
            buffers: Vec::new(),
            current: 0,
            editor: Editor::default(),
            mode: Mode::Chat,
            mode_before: Mode::Chat,
            help: None,
            has_members: true,
            lost: None,
            size,
            now: Duration::ZERO,
            now_ms: 0,
            effects: Vec::new(),
            completion: None,
            asked: HashMap::new(),
            unsent: HashMap::new(),
            rooms_known: Vec::new(),
            last_id: 0,
            was_online: false,
            hint_told: None,
        };
        let id = app.id();
        app.buffers.push(Buffer::new(id, Kind::Server, "server"));
        app
    }

    /// Begins: connects, or asks for a nickname.
    pub fn start(&mut self, server: &mut dyn Server) {
        if self.nickname.is_none() && !self.settings.has_token {
            self.mode = Mode::Nickname { why: None };
            self.notice(
                0,
                &format!("{}: who are you? A nickname is all that is needed.", self.settings.url.clone()),
            );
            return;
        }
        self.connect(server);
        if let Some(nickname) = self.settings.nickname.clone().filter(|_| self.settings.has_token) {
            self.trouble(self.current, &flags::token_counts(&nickname));
        }
    }

    fn connect(&mut self, server: &mut dyn Server) {
        let nickname = self.nickname.clone().filter(|_| !self.settings.has_token);
        if let Err(error) = server.ask(Ask::Connect(nickname)) {
            self.trouble(0, &error.to_string());
            self.link = Link::Stopped(error.to_string());
            return;
        }
        for room in self.settings.rooms.clone() {
            let is_awaited = self.buffer(Kind::Room, &room).is_some_and(|at| {
                let id = self.buffers[at].id;
                self.buffers[at].is_joined || self.asked.values().any(|asked| *asked == Asked::Join(id))
            });
            if !is_awaited {
                self.join(&room, server);
            }
        }
        if self.buffers.len() > 1 {
            self.go(1);
        }
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// What the terminal is to do.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How many messages are not answered.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// The buffer that is shown.
    pub fn shown(&self) -> &Buffer {
        &self.buffers[self.current]
    }

    fn shown_mut(&mut self) -> &mut Buffer {
        &mut self.buffers[self.current]
    }

    /// The buffer of this room or person, whatever its case.
    fn buffer(&self, kind: Kind, name: &str) -> Option<usize> {
        let name = fold(name);
        self.buffers.iter().position(|buffer| buffer.kind == kind && fold(&buffer.name) == name)
    }

    fn buffer_by_id(&self, id: u64) -> Option<usize> {
        self.buffers.iter().position(|buffer| buffer.id == id)
    }

    fn open(&mut self, kind: Kind, name: &str) -> usize {
        if let Some(at) = self.buffer(kind, name) {
            return at;
        }
        let id = self.id();
        self.buffers.push(Buffer::new(id, kind, name));
        self.buffers.len() - 1
    }

    /// Shows another buffer.
    pub fn go(&mut self, to: usize) {
        if to >= self.buffers.len() || to == self.current {
            return;
        }
        self.shown_mut().new_from = None;
        self.current = to;
        self.completion = None;
        if self.shown().scroll.is_none() {
            self.shown_mut().seen();
        }
    }

    fn close(&mut self, at: usize) {
        if at == 0 || at >= self.buffers.len() {
            return;
        }
        self.buffers.remove(at);
        if self.current > at {
            self.current -= 1;
        } else if self.current == at {
            self.current = at.min(self.buffers.len() - 1);
            self.shown_mut().seen();
        }
    }

    fn add(&mut self, at: usize, at_ms: u64, what: What) -> u64 {
        let id = self.id();
        self.buffers[at].put(Line { id, at_ms, place: None, what });
        id
    }

    /// Tells that something has happened.
    fn notice(&mut self, at: usize, text: &str) {
        self.add(at, self.now_ms, What::Notice(harmless(text)));
    }

    /// Tells that something has gone wrong.
    fn trouble(&mut self, at: usize, text: &str) {
        self.add(at, self.now_ms, What::Trouble(harmless(text)));
    }

    fn trouble_here(&mut self, text: &str) {
        self.trouble(self.current, text);
        self.shown_mut().scroll = None;
    }

    /// Something that nobody may miss has come.
    fn ring(&mut self) {
        if self.settings.has_bell && !self.effects.contains(&Effect::Bell) {
            self.effects.push(Effect::Bell);
        }
    }

    fn quit(&mut self) {
        self.effects.push(Effect::Quit);
    }

    /// Asks something whose answer is to be told in this buffer.
    fn ask(&mut self, at: usize, ask: Ask, asked: Asked, server: &mut dyn Server) {
        match server.ask(ask) {
            Ok(ticket) => {
                self.asked.insert(ticket, asked);
            }
            Err(error) => self.trouble(at, &error.to_string()),
        }
    }

    fn join(&mut self, room: &str, server: &mut dyn Server) -> usize {
        let at = self.open(Kind::Room, room);
        let id = self.buffers[at].id;
        self.ask(at, Ask::Join(room.to_owned()), Asked::Join(id), server);
        at
    }

    fn ask_for_members(&mut self, at: usize, after: Option<String>, server: &mut dyn Server) {
        let (buffer, room) = (self.buffers[at].id, self.buffers[at].name.clone());
        let asked = Asked::Members { buffer, is_first: after.is_none() };
        self.ask(at, Ask::Command(Command::Members { room, limit: Some(LIST), after }), asked, server);
    }

    fn ask_for_older(&mut self, count: u32, server: &mut dyn Server) {
        use crate::buffer::Older;

        let at = self.current;
        let buffer = &self.buffers[at];
        if buffer.kind != Kind::Room || !buffer.is_joined || buffer.older != Older::Unknown {
            return;
        }
        let (id, room, before) = (buffer.id, buffer.name.clone(), buffer.first_offset());
        if before == Some(1) {
            self.buffers[at].older = Older::None;
            return;
        }
        let history = Command::History { room, before, after: None, limit: Some(count) };
        match server.ask(Ask::Command(history)) {
            Ok(ticket) => {
                self.asked.insert(ticket, Asked::Older(id));
                self.buffers[at].older = Older::Asked(ticket);
            }
            Err(error) => self.trouble(at, &error.to_string()),
        }
    }

    fn known(&self) -> Known {
        let buffer = self.shown();
        let mut nicknames: Vec<String> = buffer.speakers().into_iter().map(str::to_owned).collect();
        let members = buffer.members.iter().map(|member| member.nickname.clone());
        let others = self.buffers.iter().filter(|buffer| buffer.kind == Kind::Private);
        for nickname in members.chain(others.map(|buffer| buffer.name.clone())) {
            if !nicknames.contains(&nickname) {
                nicknames.push(nickname);
            }
        }
        nicknames.retain(|nickname| Some(nickname) != self.nickname.as_ref());
        let mut rooms: Vec<String> = self
            .buffers
            .iter()
            .filter(|buffer| buffer.kind == Kind::Room)
            .map(|buffer| buffer.name.clone())
            .collect();
        for room in &self.rooms_known {
            if !rooms.contains(room) {
                rooms.push(room.clone());
            }
        }
        Known { nicknames, rooms }
    }

    /// Scrolls by so many rows, up if negative; reaching the top asks for older messages.
    pub fn scroll(&mut self, rows: isize, server: &mut dyn Server) {
        let (anchor, is_top) = view::rows::moved(self, rows);
        self.shown_mut().scroll = anchor;
        if anchor.is_none() {
            self.shown_mut().seen();
        }
        if is_top && rows < 0 {
            self.ask_for_older(PAGE, server);
        }
    }

    /// When something changes by itself, if it does: a countdown, or somebody who types no more.
    pub fn wakes(&self) -> Option<Duration> {
        let typing =
            self.shown().typing.iter().map(|(_, until)| *until).filter(|until| *until > self.now).min();
        let countdown =
            matches!(self.link, Link::Waiting { .. }).then(|| self.now + Duration::from_millis(250));
        typing.into_iter().chain(countdown).min()
    }

    /// A reason as people read it.
    fn reason(reason: &Reason) -> String {
        match reason {
            Reason::Refused(error) => error.message.clone(),
            Reason::Bye(bye) => format!("the server said: {} ({})", bye.reason.replace('_', " "), bye.code),
            other => flags::why(other),
        }
    }
}
