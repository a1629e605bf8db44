//! Who says hello, and how a session outlives its connection.
//!
//! ```text
//!  hello --> Claim at the nickname's home --> welcome
//!  connection breaks --> away: Detach in each room, a time of grace --> end
//!  hello with `resume` --> Resume at the core where the session began (it knows where the session is now)
//!                      --> Surrender at that core: the old connection hears 4103, what is under way is waited for
//!                      --> the estate comes to the new session: Reclaim the nickname, Attach in each room --> welcome
//! ```
//!
//! A session has one number for life and one core, that of its birth, which knows where it is. Each resume goes through that
//! core, so that two at once have an order: the second takes over from the first, wherever that has got to.

use std::sync::Arc;

use super::Shard;
use super::backplane::BackplaneRequest;
use super::closing::Closing;
use super::commands::Asked;
use super::input::Flow;
use super::mail::{Mail, Reply, ReplyTo, Request};
use super::session::{Estate, Identity, Session, Step, Successor, Then};
use super::timers::Timer;
use crate::auth::TokenError;
use crate::auth::resume::Ticket;
use crate::base::bucket::SharedBucket;
use crate::base::slots::Id;
use crate::chat::inbox::Bounds;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{Farewell, LeaveReason, Reason, Refusal};
use crate::chat::user::{NodeId, SessionRef};
use crate::config::AckLevel;
use crate::proto::wire::Event;
use crate::record::{Record, RestoredMembership, SessionBody, WrittenClaims};

/// Bytes of the journal that a session wants for what it is, and a room for its rules: without so many nobody new is taken in, and
/// nobody enters a room or decides anything there.
pub(super) const SESSION_BYTES: usize = 1024;

/// Who a hello says it is, as far as that can be told without asking.
#[derive(Debug)]
pub(super) struct Who {
    /// The nickname of the new session, if there is to be one.
    nickname: Nickname,
    /// What the token says.
    identity: Option<Arc<Identity>>,
    /// Whether the hello itself brought that token.
    has_token: bool,
    /// The session that is to go on.
    ticket: Option<Ticket>,
}

impl Shard {
    /// Authentication: finds out who a hello says it is.
    pub(super) fn identify(
        &self,
        nickname: Option<&str>,
        token: Option<&str>,
        resume: Option<&str>,
    ) -> Result<Who, Refusal> {
        if self.is_leaving() {
            return Err(Refusal::new(Reason::Draining, "the server is about to stop"));
        }
        self.check_store(AckLevel::Sequenced, SESSION_BYTES)?;
        let nickname = nickname.map(super::commands::parse_nickname).transpose()?;
        let fresh = token.map(|token| self.verify(token)).transpose()?;
        let has_token = fresh.is_some();
        let ticket = resume.map(|resume| self.check_ticket(resume)).transpose()?;
        let identity = match (&ticket, fresh) {
            (Some(ticket), Some(identity)) => {
                if ticket.claims.is_none() || ticket.nickname.folded() != identity.claims.nickname.folded() {
                    return Err(Refusal::new(Reason::BadToken, "`resume` is of somebody else's session"));
                }
                Some(identity)
            }
            (None, fresh) => fresh,
            (Some(Ticket { claims: Some(claims), .. }), None) => {
                self.check_account_of(claims)?;
                if claims.expires_at_ms.is_some_and(|at| at <= self.now.unix_ms) {
                    let message =
                        "the session's token has expired: say hello with `resume` and a new `token`";
                    return Err(Refusal::new(Reason::ExpiredToken, message));
                }
                Some(Arc::new(identity_of(claims.clone())?))
            }
            (Some(Ticket { claims: None, .. }), None) => None,
        };
        let nickname = match (&identity, nickname, &ticket) {
            (Some(identity), Some(nickname), _) if nickname != identity.claims.nickname => {
                let message = format!("the token is for {}", identity.claims.nickname.as_str());
                return Err(Refusal::new(Reason::BadToken, message));
            }
            (Some(identity), ..) => identity.claims.nickname.clone(),
            (None, Some(nickname), _) => nickname,
            (None, None, Some(ticket)) => ticket.nickname.clone(),
            (None, None, None) => {
                let message = "a hello needs one of `nickname`, `token` and `resume`";
                return Err(Refusal::new(Reason::BadRequest, message));
            }
        };
        if identity.is_none() && !self.config.auth.guests {
            return Err(Refusal::new(Reason::Unauthenticated, "this server admits nobody without a token"));
        }
        Ok(Who { nickname, identity, has_token, ticket })
    }

    /// Who a token is of.
    pub(super) fn verify(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        if token.len() > self.limits.token_bytes {
            self.counters.too_large.add(1);
            let message = format!("a token may have {} bytes", self.limits.token_bytes);
            return Err(Refusal::new(Reason::BadToken, message));
        }
        if !self.authority.can_verify() {
            return Err(Refusal::new(Reason::BadToken, "this server has no key to check tokens with"));
        }
        match self.authority.verify(token, self.now.unix_ms) {
            Ok(claims) => {
                self.check_account_of(&claims)?;
                Ok(Arc::new(identity_of(claims)?))
            }
            Err(TokenError::Expired) => Err(Refusal::new(Reason::ExpiredToken, "the token has expired")),
            Err(TokenError::Bad(why)) => Err(Refusal::new(Reason::BadToken, why)),
        }
    }

    fn check_ticket(&self, resume: &str) -> Result<Ticket, Refusal> {
        let ticket = self.authority.resume.check(resume);
        ticket.ok_or_else(|| Refusal::new(Reason::BadToken, "this server did not give out this resume token"))
    }

    /// Begins a session, or asks for the one that is to go on; `then` says what comes after the welcome.
    pub(super) fn hello(&mut self, asked: Asked, who: Who, then: Then) -> Flow {
        let connection = self.connections.get_mut(asked.by).expect("a connection says hello");
        connection.encoding = asked.encoding;
        let reply_to = asked.reply_to();
        let Who { nickname, identity, has_token, ticket } = who;
        let step = match &ticket {
            Some(_) => Step::Resume {
                nickname: Box::new(nickname.clone()),
                has_token,
                is_put_out: false,
                then: Box::new(then),
            },
            None => Step::Hello { then: Box::new(then) },
        };
        let session = self.sessions.insert(Session::new(Some(asked.by), asked.encoding, identity, step));
        self.counters.session_places.set(self.sessions.places() as u64);
        self.connections.get_mut(asked.by).expect("it was there just now").session = Some(session);
        match ticket {
            Some(ticket) => {
                let state = &mut self.sessions[session];
                state.number = ticket.session;
                let core = self.birth_core(ticket.session);
                self.request(session, core, reply_to, Request::Resume { number: ticket.session });
            }
            None => self.claim(session, reply_to, nickname),
        }
        Flow::Wait
    }

    fn claim(&mut self, session: Id, reply_to: ReplyTo, nickname: Nickname) {
        let has_token = self.sessions[session].identity.is_some();
        let home = self.home_of(nickname.folded());
        self.request(session, home, reply_to, Request::Claim { nickname, has_token });
    }

    /// The nickname is the new session's.
    pub(super) fn welcome(&mut self, id: Id, reply_to: &ReplyTo, nickname: Nickname, then: Then) {
        // The number names the core; it is not 0, which stands for none.
        let cores = self.cores() as u64;
        let number = (self.rng.next_u64() >> 1 | 1 << 40) / cores * cores + u64::from(self.core);
        let me = SessionRef { node: self.node, core: self.core, session: id };
        self.directory.insert(number, me);
        let session = &mut self.sessions[id];
        session.number = number;
        session.nickname = Some(nickname);
        self.find_user_bucket(id);
        self.write_session(id);
        let connection = self.sessions[id].connection;
        match then {
            Then { room: Some(room), upgrade } => {
                // A WebSocket request is answered when all that it asks for has been decided.
                if upgrade.is_none() {
                    self.say_welcome(id, reply_to, false);
                }
                self.join_after_hello(id, reply_to, room, upgrade);
            }
            Then { room: None, upgrade } => {
                if let (Some(upgrade), Some(connection)) = (upgrade, connection) {
                    self.finish_upgrade(connection, &upgrade);
                }
                self.say_welcome(id, reply_to, false);
            }
        }
        if let Some(connection) = connection {
            self.arm(connection);
        }
        self.put_out_if_void(id);
    }

    /// The session that a hello was to resume has ended: the hello begins a new one.
    pub(super) fn begin_anew(&mut self, id: Id, reply_to: ReplyTo, nickname: Nickname, then: Then) {
        self.sessions[id].step = Step::Hello { then: Box::new(then) };
        self.forget_number(id);
        self.claim(id, reply_to, nickname);
    }

    /// The session of another connection goes on in this one.
    pub(super) fn adopt(&mut self, id: Id, reply_to: &ReplyTo, estate: Estate, has_token: bool) {
        let rooms = self.take_estate(id, estate, has_token);
        self.counters.resumed.add(1);
        if rooms > 0 {
            self.sessions[id].step = Step::Return { reply_to: reply_to.clone() };
            return;
        }
        self.finish_adoption(id, reply_to);
    }

    /// A session is in all of its rooms again.
    pub(super) fn finish_adoption(&mut self, id: Id, reply_to: &ReplyTo) {
        if self.is_clustered() {
            self.write_session(id); // where it is now: other nodes know it by that
        }
        self.find_user_bucket(id);
        match self.sessions[id].connection {
            Some(connection) => {
                if let Some(inbox) = &mut self.sessions[id].inbox {
                    inbox.begin_telling();
                }
                self.say_welcome(id, reply_to, true);
                self.arm(connection);
            }
            // It does not wait for its user, who waits for it already.
            None if self.sessions[id].successor.is_some() => {}
            // It was lost while the rooms of another node were asked.
            None if self.sessions[id].grace.is_some() => {}
            None => self.go_away(id),
        }
        self.put_out_if_void(id);
    }

    /// Puts a session into the place of another: in its rooms, and at its nickname.
    ///
    /// Returns how many rooms were asked to take it back, of which it has to be told what became of that.
    pub(super) fn take_estate(&mut self, id: Id, estate: Estate, has_token: bool) -> usize {
        let Estate {
            old,
            mut places,
            number,
            revision,
            nickname,
            identity,
            memberships,
            rooms: others,
            remembered,
            inbox,
        } = estate;
        let session = &mut self.sessions[id];
        (session.number, session.revision) = (number, revision);
        session.nickname = Some(nickname.clone());
        if !has_token {
            session.identity = identity;
        }
        // Until the nickname's home has said whether there is one. Nobody without a token is registered.
        session.awaits_inbox = self.journal.is_on && session.identity.is_some();
        (session.memberships, session.remembered, session.inbox) = (memberships, remembered, inbox);
        let rooms: Vec<_> = session.memberships.iter().map(|m| (m.key, m.room.clone())).collect();
        let home = self.home_of(nickname.folded());
        let is_user = self.sessions[id].identity.is_some();
        self.ask(id, home, Request::Reclaim { nickname: nickname.clone(), old, number, has_token: is_user });
        for (key, name) in rooms {
            let request =
                Request::Attach { room: key.key, name: Box::new(name), nickname: nickname.clone(), old };
            self.ask(id, key.home, request);
        }
        let mut asked = 0;
        if !places.contains(&old) {
            places.insert(0, old);
        }
        let places: Arc<[SessionRef]> = places.into();
        for RestoredMembership { room, echo } in others {
            let Ok(room) = RoomName::parse(&room) else { continue };
            let home = self.home_of(room.folded());
            let request = Request::Return { room, places: places.clone(), echo };
            self.request(id, home, ReplyTo::default(), request);
            asked += 1;
        }
        if has_token && !self.is_clustered() {
            self.write_session(id); // what the new token says
        }
        asked
    }

    pub(super) fn say_welcome(&mut self, id: Id, reply_to: &ReplyTo, resumed: bool) {
        self.log_welcome(id, resumed);
        let session = &self.sessions[id];
        let nickname = session.nickname.clone().expect("welcomed by name");
        // People on text lines have no session that could go on.
        let resume = if !session.encoding.can_resume() {
            String::new()
        } else {
            self.authority.resume.issue(&Ticket {
                session: session.number,
                nickname: nickname.clone(),
                claims: session.identity.as_ref().map(|identity| identity.claims.clone()),
            })
        };
        let event = Event::Welcome {
            id: reply_to.id(),
            nickname: nickname.as_str(),
            session: &format!("{:016x}", session.number),
            resume: &resume,
            resumed,
            heartbeat_ms: self.config.heartbeat.probe_ms,
            timeout_ms: self.config.heartbeat.timeout_ms,
            server: super::SERVER,
        };
        self.reply(session.connection, reply_to, &event);
        self.tell_inbox(id);
    }

    /// Writes down what a session is, so that it outlives the process; but for text lines, which have no time of grace.
    pub(super) fn write_session(&mut self, id: Id) {
        if !self.outlives() || self.config.session.grace_ms == 0 {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(nickname) = session.nickname.as_ref().filter(|_| session.number != 0) else { return };
        if !session.encoding.can_resume() || matches!(session.step, Step::Ending { .. } | Step::GivingUp) {
            return;
        }
        let claims = session.identity.as_ref().map(|identity| written_claims(identity));
        let rooms = session.memberships.iter();
        let rooms =
            rooms.map(|m| RestoredMembership { room: m.room.as_str().to_owned(), echo: m.echo }).collect();
        let body = SessionBody { nickname: nickname.as_str().to_owned(), claims, rooms };
        let body = serde_json::to_string(&body).expect("plain values become JSON");
        session.revision += 1;
        let (number, revision) = (session.number, u64::from(session.revision));
        if self.nodes.is_clustered {
            let (nickname, session) = (nickname.clone(), self.session_ref(id));
            let (wait, is_given_up) = (None, false);
            return self.ask_backplane(BackplaneRequest::KeepSession {
                number,
                session,
                nickname,
                revision,
                body,
                wait,
                is_given_up,
            });
        }
        self.write_down(&Record::Session { number, revision, body: &body });
    }

    /// Whether anything outlives the process.
    fn outlives(&self) -> bool {
        self.journal.is_on || self.is_clustered()
    }

    /// How others name a session of this core.
    pub(super) fn session_ref(&self, session: Id) -> SessionRef {
        SessionRef { node: self.node, core: self.core, session }
    }

    fn find_user_bucket(&mut self, id: Id) {
        let nickname = self.sessions[id].nickname.as_ref().expect("known since the welcome");
        self.sessions[id].user_bucket = self.user_bucket(nickname);
    }

    /// What the user of a nickname may do in a time, if that is limited.
    pub(super) fn user_bucket(&self, nickname: &Nickname) -> Option<Arc<SharedBucket>> {
        (!self.rates.user.is_unlimited())
            .then(|| self.user_buckets.get(nickname.folded().into(), self.now.tick))
    }

    /// The core that knows where the session of a number is. It follows from the number, so that it is known by a server that has
    /// more cores than the one that gave it out, or fewer.
    pub(super) fn birth_core(&self, number: u64) -> u16 {
        (number % self.cores() as u64) as u16
    }

    /// Finds a session that began here, for one that wants to continue it.
    pub(super) fn find_session(&mut self, from: SessionRef, reply_to: ReplyTo, number: u64) {
        let home = self.core;
        let is_clustered = self.is_clustered();
        let Some(at) = self.directory.get_mut(&number) else {
            if is_clustered {
                return self.take_session(from, reply_to, number);
            }
            return self
                .post(from.core, Mail::Reply { to: from.session, home, reply_to, reply: Reply::Ended });
        };
        let old = std::mem::replace(at, from);
        if old.node != self.node {
            return self.await_parting(from, reply_to, number, old);
        }
        let request = Request::Surrender { to: old.session, number, home };
        self.post(old.core, Mail::Request { from, reply_to, request });
    }

    /// A session is no more: so is its number.
    pub(super) fn forget_number(&mut self, id: Id) {
        let session = &mut self.sessions[id];
        let number = std::mem::take(&mut session.number);
        if number == 0 {
            return;
        }
        let revision = u64::from(std::mem::take(&mut session.revision));
        if revision > 0 && self.is_clustered() {
            let session = self.session_ref(id);
            self.ask_backplane(BackplaneRequest::ForgetSession { number, session });
        } else if revision > 0 {
            self.write_down(&Record::SessionEnded { number, revision: revision + 1 });
        }
        let birth_core = self.birth_core(number);
        if birth_core == self.core {
            self.forget_session(SessionRef { node: self.node, core: self.core, session: id }, number);
        } else {
            self.ask(id, birth_core, Request::Forget { number });
        }
    }

    /// Forgets a session that began here, unless another one continues it.
    pub(super) fn forget_session(&mut self, from: SessionRef, number: u64) {
        if self.directory.get(&number) == Some(&from) {
            self.directory.remove(&number);
        }
    }

    /// Makes a session over to the one that continues it, as soon as nothing is under way.
    pub(super) fn surrender(&mut self, id: Id, number: u64, successor: Successor) {
        let session = self.sessions.get_mut(id);
        let is_clustered = self.nodes.is_clustered;
        let Some(session) = session.filter(|s| s.number == number && (is_clustered || !s.is_ending())) else {
            return self.tell_ended(successor);
        };
        if session.successor.is_some() {
            return self.refuse_successor(successor, &super::takeover::is_on_its_way());
        }
        session.successor = Some(Box::new(successor));
        if session.is_ending() {
            return; // it is told when that is done
        }
        let connection = session.connection.take();
        self.end_grace(id);
        self.stop_listening_to_all(id);
        if let Some(connection) = connection {
            self.doubt(connection, id);
        }
        if let Some(doubtful) = self.sessions[id].doubtful {
            self.ask_kernel(doubtful);
        }
        if let Some(connection) = connection {
            self.counters.replaced.add(1);
            self.connections.get_mut(connection).expect("a session has a connection or none").session = None;
            self.close(connection, Closing::Bye(Farewell::Replaced));
        }
        self.surrender_if_quiet(id);
    }

    /// Tells a session that the one it wants to continue has ended.
    pub(super) fn tell_ended(&mut self, successor: Successor) {
        if successor.session.node != self.node {
            return self.tell_given_up(&successor, true);
        }
        let Successor { session: to, home, reply_to, number } = successor;
        if self.is_clustered() {
            // It may have ended here because it went on on another node, while this one was taken for lost.
            let request = Request::TakeElsewhere { number };
            return self.post(home, Mail::Request { from: to, reply_to, request });
        }
        self.post(to.core, Mail::Reply { to: to.session, home, reply_to, reply: Reply::Ended });
    }

    /// Hands a session over, if one waits for it and nothing is under way.
    pub(super) fn surrender_if_quiet(&mut self, id: Id) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.successor.is_none() || !session.is_quiet() {
            return;
        }
        self.end_grace(id); // it may have gone away since the successor asked for it
        if session_goes_elsewhere(&self.sessions[id], self.node) {
            return self.give_up(id);
        }
        let session = self.sessions.remove(id).expect("looked at above");
        let successor = *session.successor.expect("looked at above");
        let estate = Estate {
            old: SessionRef { node: self.node, core: self.core, session: id },
            places: Vec::new(),
            number: session.number,
            revision: session.revision,
            nickname: session.nickname.expect("a session that has an idle step has been welcomed"),
            identity: session.identity,
            memberships: session.memberships,
            rooms: Vec::new(),
            remembered: session.remembered,
            inbox: session.inbox,
        };
        let Successor { session: to, home, reply_to, .. } = successor;
        let reply = Reply::Surrendered(Box::new(estate));
        self.post(to.core, Mail::Reply { to: to.session, home, reply_to, reply });
    }

    /// Whether a session may wait for its user to come back.
    pub(super) fn may_go_away(&self, id: Id) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let is_known = session.nickname.is_some() || matches!(session.step, Step::Resume { .. });
        let config = &self.config.session;
        if config.grace_ms > 0 && self.away >= config.away {
            self.counters.grace_refused.add(1);
            return false;
        }
        config.grace_ms > 0
            && session.encoding.can_resume()
            && !session.is_ending()
            && !session.is_upgrading()
            && is_known
    }

    /// The session's connection is gone: its rooms are told, and it waits for its user to come back.
    pub(super) fn go_away(&mut self, id: Id) {
        let session = &mut self.sessions[id];
        session.connection = None;
        if session.nickname.is_none() {
            return; // the session that it is to continue has not come yet
        }
        self.stop_listening_to_all(id);
        let rooms: Vec<_> = self.sessions[id].memberships.iter().map(|m| m.key).collect();
        for key in rooms {
            self.ask(id, key.home, Request::Detach { room: key.key });
        }
        let deadline = self.now.tick + self.config.session.grace_ms;
        self.sessions[id].grace = Some(self.wheel.insert(deadline, Timer::Grace(id)));
        self.away += 1;
        self.counters.away.set(self.away as u64);
    }

    /// A session is no longer away: it goes on elsewhere, or ends.
    pub(super) fn end_grace(&mut self, id: Id) {
        if let Some(key) = self.sessions.get_mut(id).and_then(|session| session.grace.take()) {
            self.wheel.cancel(key);
            self.away -= 1;
            self.counters.away.set(self.away as u64);
        }
    }

    /// The user of a session that is away has not come back in time.
    pub(super) fn expire_grace(&mut self, id: Id) {
        let session = self.sessions.get_mut(id).expect("a session's timer goes with it");
        session.grace = None;
        let is_given_up = session.is_given_up();
        self.away -= 1;
        self.counters.away.set(self.away as u64);
        if is_given_up {
            return self.take_back(id);
        }
        self.counters.grace_expired.add(1);
        self.end_session(id, LeaveReason::Timeout, None);
        self.settle();
    }

    /// How much may be kept for a session that is away.
    pub(super) fn inbox_bounds(&self) -> Bounds {
        Bounds { items: self.limits.private_kept, bytes: self.limits.private_kept_bytes }
    }
}

/// Whether the session that continues one is on another node.
fn session_goes_elsewhere(session: &Session, node: NodeId) -> bool {
    session.successor.as_ref().is_some_and(|successor| successor.session.node != node)
}

/// What a session's token says, to be written down.
pub(super) fn written_claims(identity: &Identity) -> WrittenClaims {
    WrittenClaims {
        admin: identity.claims.is_admin,
        rooms: identity.claims.rooms.clone(),
        tags: identity.claims.tags.clone(),
        expires_at_ms: identity.claims.expires_at_ms,
        account_at_ms: identity.claims.account_at_ms,
    }
}

pub(super) fn identity_of(claims: crate::auth::Claims) -> Result<Identity, Refusal> {
    let rooms = claims.rooms.as_ref().map(Patterns::parse).transpose();
    let rooms =
        rooms.map_err(|error| Refusal::new(Reason::BadToken, format!("the token's `rooms`: {error}")))?;
    Ok(Identity { claims, rooms, key: None })
}
