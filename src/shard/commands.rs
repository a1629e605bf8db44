//! What a session may ask. Every command passes the same four steps, in this order:
//!
//! 1. limits: has the connection, its user or its address asked too much lately (`limits.rs`);
//! 2. authentication: has it said hello, and who is it;
//! 3. permission: may this user do this at all, by its token (what depends on a room, its home decides);
//! 4. the command: is it well formed, is it its turn; then it goes to the home of the room or nickname.

use std::sync::Arc;

use super::Shard;
use super::backplane::Publish;
use super::closing::Closing;
use super::connection::Pause;
use super::encode::Encoding;
use super::input::Flow;
use super::mail::{self, ReplyTo, Request, RoomKey, Since};
use super::resume::SESSION_BYTES;
use super::session::{JoinOptions, Membership, Receipt, Step, Then};
use crate::base::slots::Id;
use crate::chat::idempotency::Seen;
use crate::chat::name::{ContentError, Nickname, RoomName, check_content};
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{Farewell, LeaveReason, Reason, Refusal};
use crate::chat::room::{Action, Role};
use crate::config::AckLevel;
use crate::proto::wire::{Ack, Command, Error, Event, Join, Moderate, Moderation};

/// Longest time of a ban or mute, in seconds: a hundred years, which is for ever, and of which `retry_after_ms` stays below
/// 2^53, where the numbers of JavaScript stop being exact.
const SENTENCE_SECONDS_MAX: u64 = 36_500 * 86_400;

/// Longest tag in a broadcast, in bytes.
const TAG_BYTES_MAX: usize = 64;

/// A command's asker, and how the answer is to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The connection.
    pub by: Id,
    /// The id that the client gave the command.
    pub id: Option<&'a str>,
    /// The encoding that it came in.
    pub encoding: Encoding,
    /// How many bytes it came in.
    pub bytes: usize,
}

impl<'a> Asked<'a> {
    /// What tells the command from others of its session. An empty id is only repeated in the answer: who fills it in by
    /// rote does not mean that all of its messages are one.
    fn key(&self) -> Option<&'a str> {
        self.id.filter(|id| !id.is_empty())
    }

    /// The same, for an answer that comes from elsewhere.
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo { id: self.id.map(Box::from), encoding: Some(self.encoding) }
    }
}

impl Shard {
    /// Takes a command through the four steps.
    pub(super) fn command(&mut self, asked: Asked, command: &Command) -> Flow {
        self.remarks.command(command.name(), asked.by);
        if let Command::Pong = command {
            self.note_answer(asked.by);
            return Flow::Next;
        }
        self.note_command(asked.by);
        let may_join_others = matches!(command, Command::Message { .. } | Command::Typing { .. });
        if !may_join_others && !self.is_free(asked.by) {
            return Flow::Hold(Pause::Reply);
        }
        let limits = self.check_limits(asked, command);
        let begun = limits
            .clone()
            .and_then(|()| self.authenticate(asked.by, command))
            .and_then(|session| self.permit(session, command).map(|()| session))
            .and_then(|session| self.carry_out(asked, session, command));
        let flow = match begun {
            Ok(flow) => flow,
            Err(_) if !self.is_free(asked.by) => Flow::Hold(Pause::Reply),
            Err(refusal) => {
                self.refuse(asked, &refusal);
                Flow::Next
            }
        };
        if let Flow::Hold(_) = flow
            && let Some(connection) = self.connections.get_mut(asked.by)
        {
            connection.admitted = Some(Box::new(limits)); // it is not to be counted again when its turn has come
        }
        flow
    }

    /// Authentication: whose command it is. Some are for everybody.
    fn authenticate(&self, by: Id, command: &Command) -> Result<Option<Id>, Refusal> {
        let session = self.connections.get(by).and_then(|connection| connection.session);
        match (session, command) {
            (Some(_), Command::Hello { .. }) => {
                Err(Refusal::new(Reason::AlreadySaidHello, "this connection has said hello"))
            }
            (None, Command::Hello { .. } | Command::Ping | Command::Quit) => Ok(None),
            (None, _) => Err(Refusal::new(Reason::Unauthenticated, "say hello first")),
            (Some(session), _) => Ok(Some(session)),
        }
    }

    /// Permission: what the user's token allows.
    fn permit(&self, session: Option<Id>, command: &Command) -> Result<(), Refusal> {
        let Some(session) = session.and_then(|session| self.sessions.get(session)) else { return Ok(()) };
        match command {
            Command::Nick { .. } if session.identity.is_some() => {
                return Err(Refusal::new(Reason::Forbidden, "your token gives you your nickname"));
            }
            Command::Broadcast { .. } if !session.is_admin() => {
                return Err(Refusal::new(Reason::Forbidden, "only admins broadcast"));
            }
            _ => {}
        }
        let is_bound = session.identity.as_ref().is_some_and(|identity| identity.rooms.is_some());
        if is_bound
            && let Some(room) = room_of(command)
            // A name that is none is refused as such by the command itself.
            && let Ok(room) = RoomName::parse(room)
            && !session.may_enter(&room)
        {
            return Err(not_for_this_room());
        }
        Ok(())
    }

    /// The command itself.
    fn carry_out(&mut self, asked: Asked, session: Option<Id>, command: &Command) -> Result<Flow, Refusal> {
        match (session, command) {
            (_, Command::Ping) => {
                self.say_as(
                    asked.by,
                    asked.encoding,
                    &Event::Pong { id: asked.id, timestamp: self.now.unix_ms },
                );
                Ok(Flow::Next)
            }
            (None, Command::Quit) => {
                self.close(asked.by, Closing::Quit(asked.reply_to()));
                Ok(Flow::Next)
            }
            (None, Command::Hello { nickname, token, resume }) => {
                let who = self.identify(nickname.as_deref(), token.as_deref(), resume.as_deref())?;
                Ok(self.hello(asked, who, Then::default()))
            }
            (None, _) => unreachable!("refused for want of a hello"),
            (Some(session), command) => self.session_command(asked, session, command),
        }
    }

    fn session_command(&mut self, asked: Asked, session: Id, command: &Command) -> Result<Flow, Refusal> {
        // What they bring about is written down by the cores of sessions, whatever homes write. Messages are looked at by their homes
        // alone.
        match command {
            Command::Join(_) | Command::Switch { .. } | Command::Nick { .. } => {
                self.check_store(AckLevel::Sequenced, SESSION_BYTES)?;
            }
            Command::Private { content, .. } => {
                self.check_store(AckLevel::Sequenced, SESSION_BYTES + content.len())?;
            }
            _ => {}
        }
        match command {
            Command::Message { room, content, ack } => {
                self.check_content(content)?;
                let level = self.check_ack(ack.as_deref())?;
                if let Some(flow) = self.repeat_answer(asked, session, level) {
                    return Ok(flow);
                }
                let state = &self.sessions[session];
                let number = if state.is_durable() { state.number } else { 0 };
                let flow = self.publish_command(asked, session, room, |key, echo| Request::Publish {
                    room: key,
                    content: (&**content).into(),
                    echo,
                    level,
                    number,
                    sample: None,
                })?;
                if flow == Flow::Next {
                    self.remember(session, asked.key());
                }
                Ok(flow)
            }
            Command::Typing { room } => {
                self.publish_command(asked, session, room, |key, _| Request::Typing { room: key })
            }
            Command::Private { target, content } => {
                self.check_content(content)?;
                let target = parse_nickname(target)?;
                if let Some(flow) = self.repeat_answer(asked, session, AckLevel::Sequenced) {
                    return Ok(flow);
                }
                self.remember(session, asked.key());
                let sender = self.nickname(session);
                let home = self.home_of(target.folded());
                // Where one home decides, what its session remembers is enough.
                let number = self.sessions[session].number;
                let key = asked.key().filter(|_| self.is_clustered()).map(|id| Publish::key(number, id));
                let private =
                    mail::Private { target, sender, content: (&**content).into(), key, tries: 0, finds: 0 };
                let request = Request::Private(Box::new(private));
                Ok(self.begin(session, home, asked.reply_to(), Step::Query, request))
            }
            Command::Received { offset } => Ok(match self.receive_private(session, *offset) {
                Some((home, request)) => self.begin(session, home, asked.reply_to(), Step::Query, request),
                None => {
                    self.acknowledge(asked, Ack::default());
                    Flow::Next
                }
            }),
            Command::Nick { nickname } => {
                let nickname = parse_nickname(nickname)?;
                let home = self.home_of(nickname.folded());
                let request = Request::Claim { nickname, has_token: false };
                Ok(self.begin(session, home, asked.reply_to(), Step::Nick, request))
            }
            Command::Join(join) => {
                let room = parse_room(&join.room)?;
                let options = self.check_join(session, &room, join, 0)?;
                let request = self.join_request(session, room, join);
                let step = Step::Join { options, leave: None, then: Box::default() };
                Ok(self.ask_to_join(session, asked.reply_to(), step, request))
            }
            Command::Switch { from, to } => {
                let room = parse_room(&to.room)?;
                let Some(left) = self.sessions[session].membership(from).map(|m| m.room.clone()) else {
                    return self.explain_not_a_member(asked, session, from);
                };
                // Also before the room is joined again after a resume: it would be joined, and then left.
                if left == room {
                    return Err(already_joined());
                }
                let options = self.check_join(session, &room, to, 1)?;
                let request = self.join_request(session, room, to);
                let step = Step::Join { options, leave: Some(Box::new(left)), then: Box::default() };
                Ok(self.ask_to_join(session, asked.reply_to(), step, request))
            }
            Command::Leave { room } => {
                let is_listening = true;
                self.member_command(asked, session, room, Step::Leave { is_told: true }, |key| {
                    Request::Leave { room: key, reason: LeaveReason::Left, is_listening }
                })
            }
            Command::State { room, key, value } => {
                self.member_command(asked, session, room, Step::Query, |room| Request::SetState {
                    room,
                    key: (&**key).into(),
                    value: value.as_deref().map(Arc::from),
                })
            }
            Command::Role { room, target, role } => {
                let target = parse_nickname(target)?;
                let role = Role::parse(role).ok_or_else(|| {
                    Refusal::new(Reason::BadRequest, "`role` is \"host\", \"member\" or \"guest\"")
                })?;
                self.member_command(asked, session, room, Step::Query, |room| Request::SetRole {
                    room,
                    target,
                    role,
                })
            }
            Command::Moderate(moderate) => self.moderate_command(asked, session, moderate),
            Command::Members { room, limit, after } => {
                let room = parse_room(room)?;
                let home = self.home_of(room.folded());
                let after = after.as_deref().map(|name| crate::chat::name::fold(name).into());
                let request = Request::Members { room, after, limit: self.clamp_limit(*limit) };
                Ok(self.begin(session, home, asked.reply_to(), Step::Query, request))
            }
            Command::History { room, before, after, limit } => {
                let room = parse_room(room)?;
                let home = self.home_of(room.folded());
                let limit = self.clamp_limit(*limit);
                let request = Request::History { room, before: *before, after: *after, limit };
                Ok(self.begin(session, home, asked.reply_to(), Step::Query, request))
            }
            Command::Rooms { limit, after } => {
                let limit = self.clamp_limit(*limit);
                let after: Option<Box<str>> =
                    after.as_deref().map(|name| crate::chat::name::fold(name).into());
                let allowed = self.sessions[session].identity.as_ref().and_then(|i| i.rooms.clone());
                for home in 0..self.cores() as u16 {
                    let request = Request::Rooms { after: after.clone(), limit, allowed: allowed.clone() };
                    self.request(session, home, asked.reply_to(), request);
                }
                self.sessions[session].step = Step::Rooms { limit, found: Vec::new(), refusal: None };
                Ok(Flow::Wait)
            }
            Command::Broadcast { content, rooms, tags } => {
                let broadcast = Arc::new(self.check_broadcast(session, content, rooms, tags)?);
                self.check_backplane()?;
                for core in 0..self.cores() as u16 {
                    self.request(session, core, asked.reply_to(), Request::Broadcast(broadcast.clone()));
                }
                self.sessions[session].step = Step::Broadcast { sessions: 0, refusal: None };
                Ok(Flow::Wait)
            }
            Command::Quit => {
                self.close_after_session(asked.by, Closing::Quit(asked.reply_to()));
                Ok(Flow::Wait)
            }
            Command::Hello { .. } | Command::Ping | Command::Pong => {
                unreachable!("handled before any session")
            }
        }
    }

    fn moderate_command(&mut self, asked: Asked, session: Id, moderate: &Moderate) -> Result<Flow, Refusal> {
        let target = parse_nickname(&moderate.target)?;
        let reason: Option<Box<str>> = moderate.reason.as_deref().map(Box::from);
        if reason.as_ref().is_some_and(|reason| reason.len() > self.limits.reason_bytes) {
            self.counters.too_large.add(1);
            let message = format!("`reason` may have {} bytes", self.limits.reason_bytes);
            return Err(Refusal::new(Reason::TooLarge, message));
        }
        let action = match moderate.action {
            Moderation::Kick => Action::Kick,
            Moderation::Ban => Action::Ban,
            Moderation::Unban => Action::Unban,
            Moderation::Mute => Action::Mute,
            Moderation::Unmute => Action::Unmute,
        };
        let seconds = moderate.seconds.map(|seconds| seconds.min(SENTENCE_SECONDS_MAX));
        self.member_command(asked, session, &moderate.room, Step::Query, |room| Request::Moderate {
            room,
            action,
            target,
            reason,
            seconds,
        })
    }

    fn check_broadcast(
        &self,
        session: Id,
        content: &str,
        rooms: &[std::borrow::Cow<str>],
        tags: &[std::borrow::Cow<str>],
    ) -> Result<mail::Broadcast, Refusal> {
        self.check_content(content)?;
        let count_max = self.limits.broadcast_patterns;
        if rooms.len() + tags.len() > count_max {
            let message = format!("`rooms` and `tags` may be {count_max} together");
            return Err(Refusal::new(Reason::BadRequest, message));
        }
        if tags.iter().any(|tag| tag.is_empty() || tag.len() > TAG_BYTES_MAX) {
            return Err(Refusal::new(Reason::BadRequest, "a tag has 1 to 64 bytes"));
        }
        let patterns = Patterns::parse(rooms)
            .map_err(|error| Refusal::new(Reason::BadName, format!("rooms: {error}")))?;
        Ok(mail::Broadcast {
            sender: self.nickname(session),
            content: content.into(),
            rooms: (!rooms.is_empty()).then_some(patterns),
            tags: tags.iter().map(|tag| (&**tag).into()).collect(),
            timestamp_ms: self.now.unix_ms,
        })
    }

    /// Answers a command whose id has been answered before as it was then, or has it wait while the first waits.
    fn repeat_answer(&mut self, asked: Asked, session: Id, level: AckLevel) -> Option<Flow> {
        let id = asked.key()?;
        let remembered = self.sessions[session].remembered.as_mut()?;
        let receipt = match remembered.look(id, self.now.tick, self.limits.idempotency_ms) {
            Seen::New => return None,
            Seen::Waiting => return Some(Flow::Hold(Pause::Reply)),
            Seen::Done(receipt) => receipt.clone(),
        };
        if !self.is_free(asked.by) {
            return Some(Flow::Hold(Pause::Reply)); // answers come in order
        }
        self.counters.repeated_commands.add(1);
        // The first may have been told that the store is down, and the message may have got there since.
        if let Receipt::Published { room, epoch, stamp, level: reached } = &receipt
            && *reached < level
        {
            let (room, epoch, stamp) = (room.clone(), epoch.clone(), *stamp);
            let home = self.home_of(room.folded());
            let request = Request::Confirm { room, epoch, stamp, level };
            return Some(self.begin(session, home, asked.reply_to(), Step::Query, request));
        }
        self.say_receipt(Some(asked.by), &asked.reply_to(), &receipt);
        Some(Flow::Next)
    }

    fn remember(&mut self, session: Id, id: Option<&str>) {
        if let Some(id) = id {
            let ids_max = self.limits.idempotency_ids;
            self.sessions[session].remembered.get_or_insert_default().begin(id, self.now.tick, ids_max);
        }
    }

    /// Acknowledges a message.
    pub(super) fn say_receipt(&mut self, connection: Option<Id>, reply_to: &ReplyTo, receipt: &Receipt) {
        let ack = match receipt {
            Receipt::Published { room, epoch, stamp, level } => Ack {
                id: reply_to.id(),
                room: Some(room.as_str()),
                epoch: Some(epoch),
                offset: Some(stamp.offset),
                timestamp: Some(stamp.timestamp_ms),
                level: Some(level.word()),
                ..Ack::default()
            },
            Receipt::Delivered { target, sessions, is_stored, timestamp_ms } => Ack {
                id: reply_to.id(),
                target: Some(target.as_str()),
                delivered: Some(*sessions),
                stored: Some(*is_stored),
                timestamp: Some(*timestamp_ms),
                ..Ack::default()
            },
        };
        self.reply(connection, reply_to, &Event::Ack(ack));
    }

    /// Sends a message or typing notice on its way, together with others to the same home core.
    fn publish_command(
        &mut self,
        asked: Asked,
        session: Id,
        room: &str,
        request: impl FnOnce(Id, bool) -> Request,
    ) -> Result<Flow, Refusal> {
        let state = &mut self.sessions[session];
        if !matches!(state.step, Step::Idle) {
            return Ok(Flow::Hold(Pause::Reply));
        }
        let Some((RoomKey { home, key }, echo)) = state.membership(room).map(|m| (m.key, m.echo)) else {
            if state.under_way > 0 {
                return Ok(Flow::Hold(Pause::Reply));
            }
            return self.explain_not_a_member(asked, session, room);
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
        let mut request = request(key, echo);
        if let Request::Publish { sample, .. } = &mut request {
            *sample = self.choose_sample(asked.by);
        }
        self.request(session, home, asked.reply_to(), request);
        Ok(Flow::Next)
    }

    /// Asks the home of a room that the session is in for something.
    fn member_command(
        &mut self,
        asked: Asked,
        session: Id,
        room: &str,
        step: Step,
        request: impl FnOnce(Id) -> Request,
    ) -> Result<Flow, Refusal> {
        let Some(RoomKey { home, key }) = self.sessions[session].membership(room).map(|m| m.key) else {
            return self.explain_not_a_member(asked, session, room);
        };
        Ok(self.begin(session, home, asked.reply_to(), step, request(key)))
    }

    /// Begins a command that everything after it waits for.
    pub(super) fn begin(
        &mut self,
        session: Id,
        home: u16,
        reply_to: ReplyTo,
        step: Step,
        request: Request,
    ) -> Flow {
        self.sessions[session].step = step;
        self.request(session, home, reply_to, request);
        Flow::Wait
    }

    fn join_request(&self, session: Id, room: RoomName, join: &Join) -> mail::Join {
        let since = join.since.as_ref().map(|s| Since { epoch: (&*s.epoch).into(), offset: s.offset });
        let history = join.history.filter(|n| *n > 0).map(|n| self.clamp_limit(Some(n)));
        mail::Join { since, history, ..self.plain_join(session, room) }
    }

    /// A wish to join without options.
    pub(super) fn plain_join(&self, session: Id, room: RoomName) -> mail::Join {
        let state = &self.sessions[session];
        let queued = state.connection.and_then(|id| self.connections.get(id)).map_or(0, |c| c.queue.bytes());
        mail::Join {
            room,
            nickname: self.nickname(session),
            is_admin: state.is_admin(),
            encoding: state.encoding,
            since: None,
            history: None,
            // Half of what is left, so that replies and live messages still fit in.
            replay_bytes: (self.limits.send_queue_bytes.saturating_sub(queued) / 2)
                .min(self.limits.replay_page_bytes),
        }
    }

    /// Asks a room to take a session in.
    pub(super) fn ask_to_join(
        &mut self,
        session: Id,
        reply_to: ReplyTo,
        step: Step,
        request: mail::Join,
    ) -> Flow {
        let home = self.home_of(request.room.folded());
        self.begin(session, home, reply_to, step, Request::Join(Box::new(request)))
    }

    /// Checks what can be known here of a join after which `left` rooms will be left.
    fn check_join(
        &self,
        session: Id,
        room: &RoomName,
        join: &Join,
        left: usize,
    ) -> Result<JoinOptions, Refusal> {
        let skips = match join.overflow.as_deref() {
            None | Some("close") => false,
            Some("gap") => true,
            Some(_) => {
                return Err(Refusal::new(Reason::BadRequest, "`overflow` is \"close\" or \"gap\""));
            }
        };
        let options = JoinOptions { echo: join.echo.unwrap_or(true), skips };
        let state = &self.sessions[session];
        match state.membership(room.as_str()) {
            // Kept from before the connection broke: the client says how it wants to go on hearing it.
            Some(Membership { position: None, .. }) => return Ok(options),
            Some(_) => return Err(already_joined()),
            None => {}
        }
        if state.memberships.len() - left >= self.limits.rooms_per_session {
            self.counters.too_many_rooms.add(1);
            let message = format!("a session may be in {} rooms", self.limits.rooms_per_session);
            return Err(Refusal::new(Reason::TooManyRooms, message));
        }
        Ok(options)
    }

    /// Asks the home of a room whether it exists, to answer a command from somebody who is not in it.
    fn explain_not_a_member(&mut self, asked: Asked, session: Id, room: &str) -> Result<Flow, Refusal> {
        let room = parse_room(room)?;
        let home = self.home_of(room.folded());
        Ok(self.begin(session, home, asked.reply_to(), Step::Query, Request::ExplainNotAMember { room }))
    }

    pub(super) fn check_content(&self, content: &str) -> Result<(), Refusal> {
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

    /// The level at which a message is to be acknowledged.
    fn check_ack(&self, ack: Option<&str>) -> Result<AckLevel, Refusal> {
        let level = match ack {
            None => return Ok(self.config.store.ack),
            Some("sequenced") => AckLevel::Sequenced,
            Some("stored") => AckLevel::Stored,
            Some("synced") => AckLevel::Synced,
            Some(_) => {
                let message = "`ack` is \"sequenced\", \"stored\" or \"synced\"";
                return Err(Refusal::new(Reason::BadRequest, message));
            }
        };
        if level > AckLevel::Sequenced && !self.journal.is_on {
            let message = match self.is_clustered() {
                true => "this server keeps messages in Redis: `ack` can be \"sequenced\"",
                false => "this server keeps messages in memory: `ack` can be \"sequenced\"",
            };
            return Err(Refusal::new(Reason::AckUnavailable, message));
        }
        Ok(level)
    }

    pub(super) fn clamp_limit(&self, limit: Option<u64>) -> usize {
        let limit =
            limit.map_or(self.limits.query_limit_default, |n| usize::try_from(n).unwrap_or(usize::MAX));
        limit.clamp(1, self.limits.query_limit_max)
    }

    fn nickname(&self, session: Id) -> Nickname {
        self.sessions[session].nickname.clone().expect("commands come after the hello")
    }

    /// Answers a command with an error. Too many malformed ones in a short time end the connection.
    pub(super) fn refuse(&mut self, asked: Asked, refusal: &Refusal) {
        self.refuse_later(asked.by, &asked.reply_to(), refusal);
    }

    /// Answers a command with an error that came from elsewhere.
    pub(super) fn refuse_later(&mut self, id: Id, reply_to: &ReplyTo, refusal: &Refusal) {
        if self.connections.get(id).is_some_and(|c| c.call.is_some()) && self.refuse_call(id, refusal) {
            return;
        }
        self.log_refused(id, refusal);
        self.counters.errors.add(1);
        // What a room refuses was paid for here already, and the next try is to be paid for again.
        let retry_after_ms = match refusal.reason {
            Reason::RateLimited => refusal.retry_after_ms.map(|ms| ms.max(self.next_command_ms(id))),
            _ => refusal.retry_after_ms,
        };
        let event = Event::Error(Error {
            id: reply_to.id(),
            code: refusal.reason.code(),
            reason: refusal.reason.as_str(),
            message: &refusal.message,
            retryable: refusal.reason.is_retryable(),
            retry_after_ms,
        });
        self.reply(Some(id), reply_to, &event);
        match refusal.reason.code() {
            400 => self.count_mistake(id),
            429 if refusal.reason == Reason::RateLimited
                && self.note_rate_limited(id, retry_after_ms.unwrap_or_default()) =>
            {
                self.close(id, Closing::Bye(Farewell::RateLimited));
            }
            _ => {}
        }
    }

    /// Tells that a command has been carried out.
    fn acknowledge(&mut self, asked: Asked, ack: Ack) {
        if asked.id.is_some() {
            self.say_as(asked.by, asked.encoding, &Event::Ack(Ack { id: asked.id, ..ack }));
        }
    }

    fn count_mistake(&mut self, id: Id) {
        let now = self.now.tick;
        let Some(connection) = self.connections.get_mut(id) else { return };
        let record = connection.record.get_or_insert_default();
        if record.mistakes == 0 || now.since(record.mistakes_since) >= self.limits.errors_window_ms {
            (record.mistakes, record.mistakes_since) = (0, now);
        }
        record.mistakes += 1;
        if record.mistakes as usize > self.limits.errors_per_window {
            self.counters.too_many_errors.add(1);
            self.close_after_session(id, Closing::Bye(Farewell::TooManyErrors));
        }
    }
}

/// The room that a command names.
fn room_of<'a>(command: &'a Command) -> Option<&'a str> {
    Some(match command {
        Command::Join(join) | Command::Switch { to: join, .. } => &join.room,
        Command::Message { room, .. }
        | Command::Typing { room }
        | Command::Members { room, .. }
        | Command::History { room, .. }
        | Command::State { room, .. }
        | Command::Role { room, .. } => room,
        Command::Moderate(moderate) => &moderate.room,
        _ => return None,
    })
}

pub(super) fn not_for_this_room() -> Refusal {
    Refusal::new(Reason::Forbidden, "your token is not for this room")
}

fn already_joined() -> Refusal {
    Refusal::new(Reason::AlreadyJoined, "you are in this room")
}

pub(super) fn parse_nickname(nickname: &str) -> Result<Nickname, Refusal> {
    Nickname::parse(nickname).map_err(|error| Refusal::new(Reason::BadName, format!("nickname: {error}")))
}

pub(super) fn parse_room(room: &str) -> Result<RoomName, Refusal> {
    RoomName::parse(room).map_err(|error| Refusal::new(Reason::BadName, format!("room: {error}")))
}
