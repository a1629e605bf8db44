//! Calls that carry `Message`s: what somebody says who needs to know nothing but who speaks and what.
//!
//! Such a client says no hello and joins no room. Its first message, or the metadata, tells its nickname, and it is in the lobby
//! from then on, or in the room that it names; naming another room joins that too. What is refused ends the call, with the
//! reason in its status: a `Message` has no place for it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::base::slots::Id;
use crate::chat::name::{Nickname, RoomName, fold};
use crate::chat::refusal::{Reason, Refusal};
use crate::proto::grpc::{self, Method, Said, Status};
use crate::proto::json::ID_BYTES_MAX;
use crate::proto::protobuf;
use crate::proto::wire::{Ack, Command, Join};
use crate::shard::Shard;
use crate::shard::commands::{Asked, not_for_this_room, parse_room};
use crate::shard::connection::Pause;
use crate::shard::encode::Encoding;
use crate::shard::input::Flow;
use crate::shard::mail::{ApiRequest, ConnectionRef, Mail, Push, Reply};
use crate::shard::session::Identity;

/// The room of whoever names none.
const LOBBY: &str = "lobby";

/// How often a call asks for its nickname again.
const TRIES_MAX: u8 = 3;

/// Who a message is from, and by which credentials.
type Sender = (Nickname, Option<Arc<Identity>>);

/// An id that is answered and not remembered: who sends one message by one call repeats it by its idempotency key, if at all.
const UNNAMED: &str = "";

impl Shard {
    /// Says hello for a client of whom the metadata tells who it is, so that it hears the others before it has said anything.
    pub(super) fn begin_chat(&mut self, id: Id) {
        let Some(call) = self.call_mut(id).filter(|call| call.method == Method::StreamMessages) else {
            return;
        };
        if call.metadata.nickname.is_none() && call.metadata.token.is_none() {
            return;
        }
        let room = call.metadata.room.clone();
        let flow = self.enter_as(id, None, room);
        self.follow(id, flow, b"");
    }

    /// Hears a `Command`, and says whether the next one may be looked at. A token in the metadata is that of a hello without one.
    pub(super) fn hear_event_command(&mut self, id: Id, bytes: &[u8]) -> bool {
        let mut parsed = protobuf::parse(bytes);
        if let Ok(envelope) = &mut parsed
            && let Command::Hello { nickname, token, .. } = &mut envelope.command
            && let Some(call) = self.call_mut(id)
        {
            if token.is_none() {
                *token = call.metadata.token.as_deref().map(|token| Cow::Owned(token.to_owned()));
            }
            if nickname.is_none() {
                *nickname = call.metadata.nickname.as_deref().map(|name| Cow::Owned(name.to_owned()));
            }
        }
        let flow = self.understand(id, Encoding::GrpcEvent, bytes.len(), parsed);
        self.follow(id, flow, bytes)
    }

    /// Hears a message of `StreamMessages`.
    pub(super) fn hear_said(&mut self, id: Id, bytes: &[u8]) -> Flow {
        let said = match grpc::read_message(bytes) {
            Ok(said) => said,
            Err(why) => return self.refuse_said(id, &Refusal::new(Reason::BadRequest, why)),
        };
        if !self.is_free(id) {
            return Flow::Hold(Pause::Reply);
        }
        let Some(session) = self.connections.get(id).and_then(|connection| connection.session) else {
            let room = (!said.room.is_empty()).then(|| said.room.as_str().into());
            let flow = self.enter_as(id, Some(&said.user_id), room);
            // It is heard again when the hello has been answered.
            return if flow == Flow::Wait { Flow::Hold(Pause::Reply) } else { flow };
        };
        let is_private = match self.check_said(session, &said) {
            Ok(is_private) => is_private,
            Err(refusal) => return self.refuse_said(id, &refusal),
        };
        let Some(call) = self.call_mut(id) else { return Flow::Next };
        if !std::mem::replace(&mut call.has_spoken, true) && said.content.is_empty() {
            return Flow::Next; // it only told who comes
        }
        let asked = Asked { by: id, id: None, encoding: Encoding::GrpcMessage, bytes: bytes.len() };
        let content = Cow::Borrowed(said.content.as_str());
        let room = Cow::Borrowed(if said.room.is_empty() { LOBBY } else { &said.room });
        let joins = !is_private && self.sessions[session].membership(&room).is_none();
        if let Err(refusal) = self.pay(id, bytes.len(), joins.into(), None) {
            return self.refuse_said(id, &refusal);
        }
        if is_private {
            let target = Cow::Borrowed(said.target.as_str());
            return self.command(asked, &Command::Private { target, content });
        }
        if joins {
            let flow = self.command(asked, &Command::Join(Join { room, ..Join::default() }));
            return if flow == Flow::Wait { Flow::Hold(Pause::Reply) } else { flow };
        }
        self.command(asked, &Command::Message { room, content, ack: None })
    }

    /// Hears the message of a `SendMessage`.
    pub(super) fn hear_sent(&mut self, id: Id, bytes: &[u8]) -> Flow {
        let said = match grpc::read_sent(bytes) {
            Ok(said) => said,
            Err(why) => return self.refuse_said(id, &Refusal::new(Reason::BadRequest, why)),
        };
        if !self.is_free(id) {
            return Flow::Hold(Pause::Reply);
        }
        let sent = self.send(id, &said, bytes.len());
        sent.unwrap_or_else(|refusal| self.refuse_said(id, &refusal))
    }

    fn send(&mut self, id: Id, said: &Said, bytes: usize) -> Result<Flow, Refusal> {
        let session = self.connections.get(id).and_then(|connection| connection.session);
        let is_private = match session {
            Some(session) => self.check_said(session, said)?,
            None => said.is_private()?,
        };
        let asked = Asked { by: id, id: Some(UNNAMED), encoding: Encoding::GrpcResponse, bytes };
        if is_private {
            // Such a message is from a session: one that lasts as long as the call.
            if session.is_none() {
                return Ok(self.enter_for_one(id, &said.user_id));
            }
            self.pay(id, bytes, 0, None)?;
            let target = Cow::Borrowed(said.target.as_str());
            let private = Command::Private { target, content: Cow::Borrowed(&said.content) };
            return Ok(self.command(asked, &private));
        }
        self.check_content(&said.content)?;
        let room = parse_room(if said.room.is_empty() { LOBBY } else { &said.room })?;
        let Some((sender, identity)) = self.sender(id, session, said)? else {
            return Ok(self.enter_for_one(id, &said.user_id));
        };
        if identity.as_ref().and_then(|it| it.rooms.as_ref()).is_some_and(|rooms| !rooms.matches(&room)) {
            return Err(not_for_this_room());
        }
        let user_bucket = self.user_bucket(&sender);
        self.pay(id, bytes, 0, user_bucket.as_deref())?;
        let is_admin = identity.is_some_and(|identity| identity.claims.is_admin);
        self.push_for(id, room, sender, is_admin, &said.content)
    }

    /// Who a message is from: who the credentials say, or a session that has the nickname. `None` if there is none yet.
    fn sender(&mut self, id: Id, session: Option<Id>, said: &Said) -> Result<Option<Sender>, Refusal> {
        if let Some(session) = session {
            let state = &self.sessions[session];
            return Ok(state.nickname.clone().map(|nickname| (nickname, state.identity.clone())));
        }
        let Some(call) = self.call_mut(id) else { return Ok(None) };
        let (token, key, parent) = (call.metadata.token.clone(), call.metadata.api_key.clone(), call.parent);
        let named = call.metadata.nickname.clone();
        let identity = match (token, key) {
            (Some(token), _) => Some(self.verify(&token)?),
            (None, Some(key)) => Some(self.find_key(&key)?),
            (None, None) => None,
        };
        if let Some(identity) = identity {
            let nickname = identity.claims.nickname.clone();
            check_user(&nickname, &said.user_id)?;
            return Ok(Some((nickname, Some(identity))));
        }
        // Whoever chats by another call on the same connection is known by that.
        Ok(self.sender_beside(parent, &fold(named.as_deref().unwrap_or(&said.user_id))))
    }

    /// Who has a nickname by a call on this connection. One that is ending has it until its home is told otherwise, and then whoever
    /// asks for it next comes behind that.
    fn sender_beside(&self, parent: Id, folded: &str) -> Option<Sender> {
        let calls = self.calls.get(&parent).map(Vec::as_slice).unwrap_or_default();
        let sessions = calls.iter().filter_map(|call| self.connections.get(*call)?.session);
        let mut sessions = sessions.filter_map(|session| self.sessions.get(session));
        sessions.find_map(|session| {
            let nickname = session.nickname.clone().filter(|nickname| nickname.folded() == folded)?;
            Some((nickname, session.identity.clone()))
        })
    }

    /// Whether a call that was refused its nickname is to try once more: another call on its connection, that asked for it at the
    /// same moment, may have been the one that got it.
    pub(super) fn may_ask_again(&mut self, id: Id, refusal: &Refusal) -> bool {
        if refusal.reason != Reason::NicknameInUse {
            return false;
        }
        let Some(call) = self.call_mut(id).filter(|call| call.method == Method::SendMessage) else {
            return false;
        };
        call.tries += 1;
        call.tries <= TRIES_MAX
            && self.connections.get(id).is_some_and(|connection| connection.held.is_some())
    }

    /// Publishes a message of somebody who need not be in the room.
    fn push_for(
        &mut self,
        id: Id,
        room: RoomName,
        sender: Nickname,
        is_admin: bool,
        content: &str,
    ) -> Result<Flow, Refusal> {
        let home = self.home_of(room.folded());
        if self.window[usize::from(home)] >= self.limits.peer_window {
            self.counters.window_waits.add(1);
            return Ok(Flow::Hold(Pause::Window(home)));
        }
        let key = self.call_mut(id).and_then(|call| call.metadata.idempotency_key.clone());
        let idempotency_key = match key.as_deref().map(std::str::from_utf8) {
            None | Some(Ok("")) => None,
            Some(Ok(key)) if key.len() <= ID_BYTES_MAX => Some(Box::from(key)),
            Some(_) => {
                let message = format!("`idempotency-key` has at most {ID_BYTES_MAX} bytes");
                return Err(Refusal::new(Reason::BadRequest, message));
            }
        };
        let level = self.config.store.ack;
        let (content, sample) = (Arc::from(content), self.choose_sample(id));
        let push = Push { room, sender, is_admin, content, level, idempotency_key, sample };
        self.window[usize::from(home)] += 1;
        let from = ConnectionRef { core: self.core, connection: id };
        self.post(home, Mail::ApiRequest { from, request: ApiRequest::Publish(Box::new(push)) });
        self.await_reply(id);
        Ok(Flow::Wait)
    }

    /// A home, or the threads that look at passwords, have replied to a call.
    pub(in crate::shard) fn hear_call_reply(&mut self, id: Id, reply: Reply) {
        let Some(call) = self.call_mut(id) else { return };
        call.is_asking = false;
        match reply {
            Reply::Published { epoch, stamp, .. } => {
                let ack = Ack { epoch: Some(&epoch), offset: Some(stamp.offset), ..Ack::default() };
                self.say_raw(id, |out| grpc::put(out, |out| grpc::write_sent(&ack, out)));
                self.end_call_after_session(id, Status::OK);
            }
            Reply::Token { token, expires_at_ms } => {
                self.say_raw(id, |out| grpc::put(out, |out| grpc::write_login(&token, expires_at_ms, out)));
                self.end_call(id, Status::OK);
            }
            Reply::Overdue(overdue) => drop(self.refuse_call(id, &overdue.refusal)),
            Reply::Refused(refusal) => drop(self.refuse_call(id, &refusal)),
            reply => unreachable!("{reply:?} in answer to a call"),
        }
    }

    /// A command was acknowledged: a call that was for it alone is over.
    pub(in crate::shard) fn complete_call(&mut self, id: Id) {
        if self.call_mut(id).is_some_and(|call| call.method == Method::SendMessage) {
            self.end_call_after_session(id, Status::OK);
        }
    }

    /// Says hello for a client that does not say it itself, and has it join a room then.
    fn enter_as(&mut self, id: Id, user_id: Option<&str>, room: Option<Box<str>>) -> Flow {
        let Some(call) = self.call_mut(id) else { return Flow::Next };
        call.enters = Some(room.unwrap_or_else(|| LOBBY.into()));
        self.say_hello_for(id, user_id.unwrap_or_default())
    }

    /// The same for a client that sends one message and goes.
    fn enter_for_one(&mut self, id: Id, user_id: &str) -> Flow {
        let flow = self.say_hello_for(id, user_id);
        if flow == Flow::Wait { Flow::Hold(Pause::Reply) } else { flow }
    }

    fn say_hello_for(&mut self, id: Id, user_id: &str) -> Flow {
        let Some(call) = self.call_mut(id) else { return Flow::Next };
        let (named, token) = (call.metadata.nickname.clone(), call.metadata.token.clone());
        if let (Some(named), false) = (&named, user_id.is_empty())
            && fold(named) != fold(user_id)
        {
            let message = format!("`user_id` is {user_id}, and the metadata says {named}");
            return self.refuse_said(id, &Refusal::new(Reason::BadRequest, message));
        }
        let nickname = named.as_deref().or((!user_id.is_empty()).then_some(user_id)).map(Cow::Borrowed);
        if nickname.is_none() && token.is_none() {
            let message = "say who you are: by `user_id`, or by the metadata `nickname` or `authorization`";
            return self.refuse_said(id, &Refusal::new(Reason::BadRequest, message));
        }
        let hello = Command::Hello { nickname, token: token.as_deref().map(Cow::Borrowed), resume: None };
        let encoding = self.connections.get(id).map_or(Encoding::GrpcMessage, |it| it.encoding);
        self.command(Asked { by: id, id: None, encoding, bytes: 0 }, &hello)
    }

    /// The hello has been answered: the room is joined. Says whether something else is to wait for that.
    pub(in crate::shard) fn enter_first_room(&mut self, id: Id) -> bool {
        if self.connections.get(id).is_none_or(|connection| connection.session.is_none()) {
            return false;
        }
        let Some(room) = self.call_mut(id).and_then(|call| call.enters.take()) else { return false };
        let asked = Asked { by: id, id: None, encoding: Encoding::GrpcMessage, bytes: 0 };
        let join = Command::Join(Join { room: Cow::Borrowed(&room), ..Join::default() });
        match self.command(asked, &join) {
            Flow::Wait => {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.pause = Some(Pause::Reply);
                }
                true
            }
            Flow::Hold(_) => {
                // Nothing else is under way, but the room may have been asked for already.
                if let Some(call) = self.call_mut(id) {
                    call.enters = Some(room);
                }
                true
            }
            Flow::Next => false,
        }
    }

    fn refuse_said(&mut self, id: Id, refusal: &Refusal) -> Flow {
        self.refuse_call(id, refusal);
        Flow::Next
    }

    /// Whether what is said on a call is from its user, and private.
    fn check_said(&self, session: Id, said: &Said) -> Result<bool, Refusal> {
        if let Some(nickname) = &self.sessions[session].nickname {
            check_user(nickname, &said.user_id)?;
        }
        said.is_private()
    }
}

/// Later `user_id`s are empty or equal.
fn check_user(nickname: &Nickname, user_id: &str) -> Result<(), Refusal> {
    if user_id.is_empty() || fold(user_id) == nickname.folded() {
        return Ok(());
    }
    let message = format!("you are {}, and cannot speak as {user_id}", nickname.as_str());
    Err(Refusal::new(Reason::BadRequest, message))
}

impl Said {
    fn is_private(&self) -> Result<bool, Refusal> {
        match self.kind.as_str() {
            "" | "message" => Ok(!self.target.is_empty()),
            "private" => Ok(true),
            _ => Err(Refusal::new(Reason::BadRequest, "`type` is \"message\" or \"private\"")),
        }
    }
}
