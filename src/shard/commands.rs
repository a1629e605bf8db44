//! What a session may ask, in the order in which it is checked: has it said hello, is the command well formed, is it
//! its turn; then it goes to the home of the room or nickname.

use super::Shard;
use super::connection::Pause;
use super::input::Flow;
use super::mail::{CommandId, Request, Since};
use super::session::{Session, Step, Then};
use crate::base::slots::Id;
use crate::chat::name::{ContentError, Nickname, RoomName, check_content};
use crate::chat::refusal::{Farewell, LeaveReason, Reason, Refusal};
use crate::proto::wire::{Ack, Command, Error, Event, Join};

use super::closing::Closing;

impl Shard {
    /// Begins a command. `command_id` is the id that its sender gave it.
    pub(super) fn command(&mut self, id: Id, command_id: Option<&str>, command: &Command) -> Flow {
        if let Command::Pong = command {
            return Flow::Next;
        }
        let may_join_others = matches!(command, Command::Message { .. } | Command::Typing { .. });
        if !may_join_others && !self.is_free(id) {
            return Flow::Hold(Pause::Reply);
        }
        let begun = match (self.connections.get(id).and_then(|c| c.session), command) {
            (_, Command::Ping) => {
                self.say(id, &Event::Pong { id: command_id, timestamp: self.now.unix_ms });
                Ok(Flow::Next)
            }
            (None, Command::Quit) => {
                self.close(id, Closing::Quit(command_id.map(Box::from)));
                Ok(Flow::Next)
            }
            (None, Command::Hello { nickname, token, resume }) => self
                .check_hello(nickname.as_deref(), token.as_deref(), resume.as_deref())
                .map(|nickname| self.hello(id, command_id, nickname, Then::default())),
            (None, _) => Err(Refusal::new(Reason::Unauthenticated, "say hello first")),
            (Some(_), Command::Hello { .. }) => {
                Err(Refusal::new(Reason::AlreadySaidHello, "this connection has said hello"))
            }
            (Some(session), command) => self.session_command(session, command_id, command),
        };
        match begun {
            Ok(flow) => flow,
            Err(_) if !self.is_free(id) => Flow::Hold(Pause::Reply),
            Err(refusal) => {
                self.refuse(id, command_id, &refusal);
                Flow::Next
            }
        }
    }

    /// Begins a session: its nickname is claimed, and `then` says what comes after.
    pub(super) fn hello(&mut self, id: Id, command_id: Option<&str>, nickname: Nickname, then: Then) -> Flow {
        let command_id: CommandId = command_id.map(Box::from);
        let connection = self.connections.get_mut(id).expect("a connection says hello");
        let step = Step::Hello { id: command_id, then };
        let session = self.sessions.insert(Session::new(id, connection.encoding, step));
        connection.session = Some(session);
        let home = self.home_of(nickname.folded());
        self.request(session, home, None, Request::Claim { nickname });
        Flow::Wait
    }

    /// Checks who a hello says it is.
    pub(super) fn check_hello(
        &self,
        nickname: Option<&str>,
        token: Option<&str>,
        resume: Option<&str>,
    ) -> Result<Nickname, Refusal> {
        if self.drain.is_some_and(|drain| drain.told_at.is_some()) {
            return Err(Refusal::new(Reason::Draining, "the server is about to stop"));
        }
        if token.is_some() {
            return Err(Refusal::new(Reason::BadToken, "this server has no key to check tokens with"));
        }
        if resume.is_some() {
            return Err(Refusal::new(Reason::BadToken, "this server did not give out this token"));
        }
        if !self.config.auth.guests {
            return Err(Refusal::new(Reason::Unauthenticated, "this server does not admit guests"));
        }
        let nickname =
            nickname.ok_or_else(|| Refusal::new(Reason::BadRequest, "a hello needs the field `nickname`"))?;
        parse_nickname(nickname)
    }

    fn session_command(&mut self, session: Id, id: Option<&str>, command: &Command) -> Result<Flow, Refusal> {
        let command_id: CommandId = id.map(Box::from);
        match command {
            Command::Message { room, content, ack } => {
                self.check_content(content)?;
                check_ack(ack.as_deref())?;
                self.publish_command(session, command_id, room, |key, echo| Request::Publish {
                    room: key,
                    content: (&**content).into(),
                    echo,
                })
            }
            Command::Typing { room } => {
                self.publish_command(session, command_id, room, |key, _| Request::Typing { room: key })
            }
            Command::Private { target, content } => {
                self.check_content(content)?;
                let target = parse_nickname(target)?;
                let sender = self.nickname(session);
                let home = self.home_of(target.folded());
                let request = Request::Private { target, sender, content: (&**content).into() };
                Ok(self.begin(session, home, command_id, Step::Query, request))
            }
            Command::Nick { nickname } => {
                let nickname = parse_nickname(nickname)?;
                let home = self.home_of(nickname.folded());
                let step = Step::Nick { id: command_id };
                Ok(self.begin(session, home, None, step, Request::Claim { nickname }))
            }
            Command::Join(join) => {
                let room = parse_room(&join.room)?;
                self.check_join(session, &room, join, 0)?;
                Ok(self.join(session, command_id, room, join, None))
            }
            Command::Switch { from, to } => {
                let room = parse_room(&to.room)?;
                let Some(left) = self.sessions[session].membership(from).map(|m| m.room.clone()) else {
                    return self.explain_not_a_member(session, command_id, from);
                };
                // Switching to the room one is in already, or leaving and joining the same one, is a repeated join.
                self.check_join(session, &room, to, 1)?;
                Ok(self.join(session, command_id, room, to, Some(left)))
            }
            Command::Leave { room } => {
                let Some(membership) = self.sessions[session].membership(room).cloned() else {
                    return self.explain_not_a_member(session, command_id, room);
                };
                let encoding = self.sessions[session].encoding;
                let (room, reason) = (membership.key, LeaveReason::Left);
                let request = Request::Leave { room, encoding, reason, is_listening: true };
                let step = Step::Leave { is_told: true };
                Ok(self.begin(session, membership.home, command_id, step, request))
            }
            Command::Members { room, limit, after } => {
                let room = parse_room(room)?;
                let home = self.home_of(room.folded());
                let after = after.as_deref().map(|name| crate::chat::name::fold(name).into());
                let request = Request::Members { room, after, limit: self.clamp_limit(*limit) };
                Ok(self.begin(session, home, command_id, Step::Query, request))
            }
            Command::Rooms { limit, after } => {
                let limit = self.clamp_limit(*limit);
                let after: Option<Box<str>> =
                    after.as_deref().map(|name| crate::chat::name::fold(name).into());
                let awaited = self.cores() as u16;
                for home in 0..awaited {
                    self.request(
                        session,
                        home,
                        command_id.clone(),
                        Request::Rooms { after: after.clone(), limit },
                    );
                }
                self.sessions[session].step = Step::Rooms { awaited, limit, found: Vec::new() };
                Ok(Flow::Wait)
            }
            Command::Quit => {
                let connection = self.sessions[session].connection.expect("it says quit");
                self.close_after_session(connection, Closing::Quit(command_id));
                Ok(Flow::Wait)
            }
            Command::Received { .. }
            | Command::Broadcast { .. }
            | Command::History { .. }
            | Command::State { .. }
            | Command::Role { .. }
            | Command::Moderate(_) => {
                Err(Refusal::new(Reason::UnknownType, "this server does not do that yet"))
            }
            Command::Hello { .. } | Command::Ping | Command::Pong => {
                unreachable!("handled before any session")
            }
        }
    }

    /// Sends a message or typing notice on its way, together with others to the same home core.
    fn publish_command(
        &mut self,
        session: Id,
        id: CommandId,
        room: &str,
        request: impl FnOnce(Id, bool) -> Request,
    ) -> Result<Flow, Refusal> {
        let state = &mut self.sessions[session];
        if !matches!(state.step, Step::Idle) {
            return Ok(Flow::Hold(Pause::Reply));
        }
        let Some((home, key, echo)) = state.membership(room).map(|m| (m.home, m.key, m.echo)) else {
            if state.under_way > 0 {
                return Ok(Flow::Hold(Pause::Reply));
            }
            return self.explain_not_a_member(session, id, room);
        };
        if state.under_way > 0 && state.publishing_to != home {
            return Ok(Flow::Hold(Pause::Reply));
        }
        if state.under_way as usize >= self.limits.commands_in_flight {
            self.counters.in_flight_waits.add(1);
            return Ok(Flow::Hold(Pause::Reply));
        }
        if self.window[usize::from(home)] >= self.limits.peer_window {
            self.counters.window_waits.add(1);
            return Ok(Flow::Hold(Pause::Window(home)));
        }
        state.publishing_to = home;
        self.request(session, home, id, request(key, echo));
        Ok(Flow::Next)
    }

    /// Begins a command that everything after it waits for.
    fn begin(&mut self, session: Id, home: u16, id: CommandId, step: Step, request: Request) -> Flow {
        self.sessions[session].step = step;
        self.request(session, home, id, request);
        Flow::Wait
    }

    fn join(
        &mut self,
        session: Id,
        id: CommandId,
        room: RoomName,
        join: &Join,
        leave: Option<RoomName>,
    ) -> Flow {
        let since = join.since.as_ref().map(|s| Since { epoch: (&*s.epoch).into(), offset: s.offset });
        let step = Step::Join { echo: join.echo.unwrap_or(true), leave, then: Then::default() };
        self.ask_to_join(session, id, room, step, since, join.history.is_some_and(|n| n > 0))
    }

    /// Asks a room to take a session in.
    pub(super) fn ask_to_join(
        &mut self,
        session: Id,
        id: CommandId,
        room: RoomName,
        step: Step,
        since: Option<Since>,
        wants_history: bool,
    ) -> Flow {
        let home = self.home_of(room.folded());
        let (nickname, encoding) = (self.nickname(session), self.sessions[session].encoding);
        let request = Request::Join { room, nickname, encoding, since, wants_history };
        self.begin(session, home, id, step, request)
    }

    /// Checks what can be known here of a join after which `left` rooms will be left.
    fn check_join(&self, session: Id, room: &RoomName, join: &Join, left: usize) -> Result<(), Refusal> {
        match join.overflow.as_deref() {
            None | Some("close") => {}
            Some("gap") => {
                return Err(Refusal::new(
                    Reason::BadRequest,
                    "this version does not support `overflow`: \"gap\"",
                ));
            }
            Some(_) => return Err(Refusal::new(Reason::BadRequest, "`overflow` is \"close\" or \"gap\"")),
        }
        let state = &self.sessions[session];
        if state.membership(room.as_str()).is_some() {
            return Err(Refusal::new(Reason::AlreadyJoined, "you are in this room"));
        }
        if state.memberships.len() - left >= self.limits.rooms_per_session {
            self.counters.too_many_rooms.add(1);
            let message = format!("a session may be in {} rooms", self.limits.rooms_per_session);
            return Err(Refusal::new(Reason::TooManyRooms, message));
        }
        Ok(())
    }

    /// Asks the home of a room whether it exists, to answer a command from somebody who is not in it.
    fn explain_not_a_member(&mut self, session: Id, id: CommandId, room: &str) -> Result<Flow, Refusal> {
        let room = parse_room(room)?;
        let home = self.home_of(room.folded());
        Ok(self.begin(session, home, id, Step::Query, Request::ExplainNotAMember { room }))
    }

    fn check_content(&self, content: &str) -> Result<(), Refusal> {
        check_content(content, self.limits.content_bytes).map_err(|error| match error {
            ContentError::Empty => Refusal::new(Reason::BadRequest, "`content` is empty"),
            ContentError::TooLong { .. } => {
                self.counters.too_large.add(1);
                Refusal::new(
                    Reason::TooLarge,
                    format!("`content` may have {} bytes", self.limits.content_bytes),
                )
            }
        })
    }

    fn clamp_limit(&self, limit: Option<u64>) -> usize {
        let limit =
            limit.map_or(self.limits.query_limit_default, |n| usize::try_from(n).unwrap_or(usize::MAX));
        limit.min(self.limits.query_limit_max)
    }

    fn nickname(&self, session: Id) -> Nickname {
        self.sessions[session].nickname.clone().expect("commands come after the hello")
    }

    /// Answers a command with an error. Too many malformed ones in a short time end the connection.
    pub(super) fn refuse(&mut self, id: Id, command_id: Option<&str>, refusal: &Refusal) {
        self.counters.errors.add(1);
        let event = Event::Error(Error {
            id: command_id,
            code: refusal.reason.code(),
            reason: refusal.reason.as_str(),
            message: &refusal.message,
            retryable: refusal.reason.is_retryable(),
            retry_after_ms: refusal.retry_after_ms,
        });
        self.say(id, &event);
        if refusal.reason.code() == 400 {
            self.count_mistake(id);
        }
    }

    /// Tells that a command has been carried out.
    pub(super) fn acknowledge(&mut self, id: Id, ack: Ack) {
        self.say(id, &Event::Ack(ack));
    }

    fn count_mistake(&mut self, id: Id) {
        let now = self.now.tick;
        let Some(connection) = self.connections.get_mut(id) else { return };
        if now.since(connection.mistakes_since) >= self.limits.errors_window_ms {
            (connection.mistakes, connection.mistakes_since) = (0, now);
        }
        connection.mistakes += 1;
        if connection.mistakes as usize > self.limits.errors_per_window {
            self.counters.too_many_errors.add(1);
            self.close_after_session(id, Closing::Bye(Farewell::TooManyErrors));
        }
    }
}

pub(super) fn parse_nickname(nickname: &str) -> Result<Nickname, Refusal> {
    Nickname::parse(nickname).map_err(|error| Refusal::new(Reason::BadName, format!("nickname: {error}")))
}

pub(super) fn parse_room(room: &str) -> Result<RoomName, Refusal> {
    RoomName::parse(room).map_err(|error| Refusal::new(Reason::BadName, format!("room: {error}")))
}

fn check_ack(ack: Option<&str>) -> Result<(), Refusal> {
    match ack {
        None | Some("sequenced") => Ok(()),
        Some("stored" | "synced") => Err(Refusal::new(
            Reason::AckUnavailable,
            "this server keeps messages in memory: `ack` can be \"sequenced\"",
        )),
        Some(_) => Err(Refusal::new(Reason::BadRequest, "`ack` is \"sequenced\", \"stored\" or \"synced\"")),
    }
}
