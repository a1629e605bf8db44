//! The HTTP API: what requests ask of homes, and in which order they are answered.
//!
//! Such a request has no session: it shows who it is of, and the home's reply comes back to its connection. Requests to one home
//! may be under way together, because mail between two cores keeps its order; every other request waits until those before it
//! have been answered. It is held then, whole, and what follows it is not looked at.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::closing::Closing;
use super::connection::{Pause, Protocol, Stage};
use super::home::no_such_user;
use super::http::{Answer, Http, What};
use super::input::reason_of;
use super::limits::Cost;
use super::mail::{ApiRequest, ConnectionRef, Mail, Push, Reply};
use super::observer::Question;
use super::session::Identity;
use crate::auth;
use crate::base::bucket::SharedBucket;
use crate::base::slots::Id;
use crate::chat::name::RoomName;
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{Reason, Refusal};
use crate::config::Secret;
use crate::proto::http1::{self, Body, Head};
use crate::proto::json;

/// What clients are told to wait where too many questions about the whole server wait, in milliseconds.
const OBSERVER_RETRY_MS: u64 = 1000;

/// Who asks on a connection: remembered, because the next request on it is nearly always of the same.
#[derive(Debug)]
pub(super) struct Caller {
    credentials: Secret,
    is_key: bool,
    identity: Arc<Identity>,
    /// The reading of the keys that this was found out with ([`Authority`](crate::auth::Authority)).
    reading: u64,
    user_bucket: Option<Arc<SharedBucket>>,
}

/// What a request shows.
#[derive(Debug, Clone, Copy)]
enum Credentials<'a> {
    Token(&'a str),
    Key(&'a str),
}

impl<'a> Credentials<'a> {
    fn of(head: &Head<'a>) -> Result<Self, Refusal> {
        if let Some(value) = head.header("authorization") {
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            // Another scheme may be a proxy's.
            if scheme.eq_ignore_ascii_case("bearer") {
                return Ok(Credentials::Token(token.trim_start_matches(' ')));
            }
        }
        match head.header("x-api-key") {
            Some(key) => Ok(Credentials::Key(key)),
            None => {
                let message = "this needs `Authorization: Bearer` with a token, or `X-API-Key`";
                Err(Refusal::new(Reason::Unauthenticated, message))
            }
        }
    }

    fn are_of(self, caller: &Caller) -> bool {
        let (text, is_key) = self.parts();
        // By another's connection, behind a proxy that shares one among its clients, nobody is to find out piece by piece what was shown before.
        caller.is_key == is_key && auth::is_same_secret(&caller.credentials.0, text)
    }

    fn parts(self) -> (&'a str, bool) {
        match self {
            Credentials::Token(token) => (token, false),
            Credentials::Key(key) => (key, true),
        }
    }
}

/// The requests of a connection that homes have been asked about, and the one that waits for them.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// How each will be answered, in their order.
    answers: VecDeque<Answer>,
    /// The home of all of them.
    home: u16,
    /// Whether nothing may be under way beside it: its answer does not keep the order.
    is_alone: bool,
    /// A request that has been read whole and cannot begin yet.
    held: Option<Box<Answer>>,
}

impl UnderWay {
    /// Whether no home has been asked and nothing is held.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.held.is_none()
    }

    /// A home has replied to a request that is under way alone.
    pub fn end_asking(&mut self) -> Option<Answer> {
        debug_assert!(self.is_alone);
        self.answers.pop_front()
    }

    /// Whether a request waits for its turn.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Whether a home has been asked.
    pub fn is_asking(&self) -> bool {
        !self.answers.is_empty()
    }
}

impl Shard {
    /// Decides what is to be done about a request to publish, of which the body has not come.
    pub(super) fn consider_push(
        &mut self,
        id: Id,
        head: &Head,
        room: &str,
        caller: &mut Option<Box<Caller>>,
    ) -> What {
        if let Some(refused) = refuse_body(head) {
            return refused;
        }
        match self.begin_push(id, head, room, caller) {
            Ok(push) => What::Unread {
                push: Box::new(push),
                body: Vec::new(),
                is_charged: matches!(head.body, Body::Length(_)),
            },
            Err(refusal) => What::Refusal(refusal),
        }
    }

    /// The four steps of every command, as far as they go without the body: limits, authentication, permission, form.
    fn begin_push(
        &mut self,
        id: Id,
        head: &Head,
        room: &str,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<Push, Refusal> {
        let identity = self.admit(id, head, caller)?;
        Ok(Push {
            room: room_in_path(room, identity.rooms.as_ref())?,
            sender: identity.claims.nickname.clone(),
            is_admin: identity.claims.is_admin,
            content: Arc::default(),
            sample: None,
            level: self.config.store.ack,
            idempotency_key: idempotency_key(head)?,
        })
    }

    /// Limits and authentication: finds out who asks.
    pub(super) fn admit(
        &mut self,
        id: Id,
        head: &Head,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<Arc<Identity>, Refusal> {
        self.admit_by(id, head, Credentials::of(head), caller)
    }

    /// The same, where a page shows a token in the query: it can give a WebSocket no header.
    pub(super) fn admit_token(
        &mut self,
        id: Id,
        head: &Head,
        token: &str,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<Arc<Identity>, Refusal> {
        self.admit_by(id, head, Ok(Credentials::Token(token)), caller)
    }

    fn admit_by(
        &mut self,
        id: Id,
        head: &Head,
        credentials: Result<Credentials<'_>, Refusal>,
        caller: &mut Option<Box<Caller>>,
    ) -> Result<Arc<Identity>, Refusal> {
        if self.is_leaving() {
            return Err(Refusal::new(Reason::Draining, "the server is about to stop"));
        }
        let known = caller.as_ref().filter(|caller| credentials.as_ref().is_ok_and(|it| it.are_of(caller)));
        // Before anything is computed with what it shows. Chunks are charged when they have come.
        let bytes = if let Body::Length(length) = head.body { length } else { 0 };
        let user_bucket = known.and_then(|caller| caller.user_bucket.as_deref());
        self.charge(id, Cost { bytes, ..Cost::COMMAND }, user_bucket)?;
        let credentials = credentials?;
        if let Some(caller) = known
            && caller.reading == self.authority.reading
            && caller.identity.claims.expires_at_ms.is_none_or(|at| at > self.now.unix_ms)
            && self.check_account_of(&caller.identity.claims).is_ok()
        {
            return Ok(caller.identity.clone());
        }
        let identity = match credentials {
            Credentials::Token(token) => self.verify(token)?,
            Credentials::Key(key) => self.find_key(key)?,
        };
        let user_bucket = self.user_bucket(&identity.claims.nickname);
        if let Some(user_bucket) = &user_bucket {
            self.charge_user(user_bucket)?;
        }
        let (text, is_key) = credentials.parts();
        let credentials = Secret(text.to_owned());
        let reading = self.authority.reading;
        let found = Caller { credentials, is_key, identity: identity.clone(), reading, user_bucket };
        *caller = Some(Box::new(found));
        Ok(identity)
    }

    /// Who shows the key of a program.
    pub(super) fn find_key(&self, key: &str) -> Result<Arc<Identity>, Refusal> {
        let found = self.authority.api_keys.find(key);
        let (key, claims) =
            found.ok_or_else(|| Refusal::new(Reason::BadCredentials, "this API key is not known"))?;
        Ok(Arc::new(Identity { claims: claims.clone(), rooms: None, key: Some(Box::new(key)) }))
    }

    /// Whether somebody is known by a key that has been taken away since, or stands for something else.
    pub(super) fn is_key_void(&self, identity: &Identity) -> bool {
        identity.key.as_ref().is_some_and(|key| !self.authority.api_keys.has(key, &identity.claims))
    }

    /// The body of a request to publish has come: what is in it decides what is left to be done.
    pub(super) fn complete_push(
        &mut self,
        id: Id,
        mut push: Box<Push>,
        body: &[u8],
        is_charged: bool,
    ) -> What {
        match self.read_content(id, body, is_charged) {
            Ok(content) => {
                push.content = content;
                What::Publish(push)
            }
            Err(refusal) => What::Refusal(refusal),
        }
    }

    /// The content in a body that has come, which is paid for unless that has been done.
    pub(super) fn read_content(
        &mut self,
        id: Id,
        body: &[u8],
        is_charged: bool,
    ) -> Result<Arc<str>, Refusal> {
        if !is_charged {
            self.charge(id, Cost { commands: 0, of_user: 0, bytes: body.len() as u64, joins: 0 }, None)?;
        }
        let content = json::parse_content(body)
            .map_err(|malformed| Refusal::new(reason_of(malformed.reason), malformed.message))?;
        self.check_content(&content)?;
        Ok((&*content).into())
    }

    /// Does what a request asks when all before it have been answered or are under way to the same home; else it is held. Says
    /// whether the next request may be looked at.
    pub(super) fn take_turn(
        &mut self,
        id: Id,
        http: &mut Http,
        answer: Answer,
        next: &mut Option<Protocol>,
    ) -> bool {
        let (pause, home) = match &answer.what {
            What::Publish(push) => {
                let home = self.home_of(push.room.folded());
                (self.pause_before(&http.under_way, home), home)
            }
            What::Account(_) => {
                let store = self.store();
                (self.pause_before(&http.under_way, store), store)
            }
            // No core is asked: what is under way counts as this one's.
            What::Observe(_) => (self.pause_before_all(&http.under_way, self.core), self.core),
            What::Query(request) => {
                let home = self.home_of_query(request);
                (self.pause_before_all(&http.under_way, home), home)
            }
            _ => ((!http.under_way.answers.is_empty()).then_some(Pause::Reply), self.core),
        };
        if let Some(pause) = pause {
            http.under_way.held = Some(Box::new(answer));
            if let Pause::Window(_) = pause {
                self.window_waiters.push(id);
            }
            self.pause(id, pause);
            return false;
        }
        http.restart(self.now.tick);
        let is_last = !answer.is_keep_alive;
        let is_alone = matches!(answer.what, What::Observe(_) | What::Query(_));
        if !is_alone && !matches!(answer.what, What::Publish(_) | What::Account(_)) {
            let goes_on = self.answer(id, answer, next);
            // What has become a WebSocket, or is about to, has no last response.
            if is_last && goes_on {
                self.close(id, Closing::LastResponse);
            }
            return goes_on && !is_last && !self.pause_if_unread(id);
        }
        (http.under_way.home, http.under_way.is_alone) = (home, is_alone);
        let Answer { what, .. } = answer;
        http.under_way.answers.push_back(Answer { what: What::Asked, ..answer });
        self.window[usize::from(home)] += 1;
        let from = ConnectionRef { core: self.core, connection: id };
        match what {
            What::Account(request) => self.ask_about_account(from, *request),
            What::Observe(question) => self.ask_observer(from, question),
            What::Publish(mut push) => {
                push.sample = self.choose_sample(id);
                self.post(home, Mail::ApiRequest { from, request: ApiRequest::Publish(push) });
            }
            What::Query(request) => self.post(home, Mail::ApiRequest { from, request }),
            _ => unreachable!("answered above"),
        }
        if is_last {
            self.pause(id, Pause::Reply);
        }
        !is_last
    }

    fn ask_observer(&mut self, from: ConnectionRef, question: Question) {
        if self.observer.as_ref().is_some_and(|observer| observer.ask(from, question)) {
            return;
        }
        let message = "too many ask the same";
        let reply = Reply::Refused(Refusal::with_retry(Reason::Unavailable, message, OBSERVER_RETRY_MS));
        self.post(self.core, Mail::ApiReply { to: from.connection, home: self.core, reply });
    }

    /// What a request to a home has to wait for.
    fn pause_before(&self, under_way: &UnderWay, home: u16) -> Option<Pause> {
        if !under_way.answers.is_empty() && (under_way.home != home || under_way.is_alone) {
            return Some(Pause::Reply);
        }
        if under_way.answers.len() >= self.limits.commands_in_flight {
            self.counters.in_flight_waits.add(1);
            return Some(Pause::Reply);
        }
        if self.window[usize::from(home)] >= self.limits.peer_window {
            self.counters.window_waits.add(1);
            return Some(Pause::Window(home));
        }
        None
    }

    /// What a request has to wait for whose answer may come later than that of one behind it.
    fn pause_before_all(&self, under_way: &UnderWay, home: u16) -> Option<Pause> {
        if under_way.answers.is_empty() { self.pause_before(under_way, home) } else { Some(Pause::Reply) }
    }

    fn pause(&mut self, id: Id, pause: Pause) {
        if let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) {
            connection.pause = Some(pause);
        }
    }

    /// Lets the request that was held have its turn.
    pub(super) fn resume_held(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.is_holding_request() {
            return;
        }
        let mut protocol = std::mem::replace(&mut connection.protocol, Protocol::Ended);
        let Protocol::Http(http) = &mut protocol else { unreachable!("only requests are held so") };
        let held = http.under_way.held.take().expect("looked at above");
        let mut next = None;
        self.take_turn(id, http, *held, &mut next);
        if let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) {
            connection.protocol = next.unwrap_or(protocol);
            self.arm(id);
        }
    }

    /// A home has replied to the first of the requests under way.
    pub(super) fn handle_api_reply(&mut self, id: Id, home: u16, reply: Reply) {
        self.return_window(home, 1);
        let is_leaving = self.is_leaving();
        let half = self.limits.commands_in_flight / 2;
        let now = self.now.tick;
        let reply = match reply {
            Reply::Listening(listening) => return self.begin_event_stream(id, *listening),
            Reply::Replayed { after, page, .. } => return self.hear_missed(id, after, page),
            reply => reply,
        };
        // The connection may have gone, or be on its way out.
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.call.is_some() {
            return self.hear_call_reply(id, reply);
        }
        let Protocol::Http(http) = &mut connection.protocol else { return };
        http.restart(now);
        let answers = &mut http.under_way.answers;
        let mut answer = answers.pop_front().expect("a reply for each request under way");
        // While the server drains nothing is begun any more: what is held is not either.
        answer.is_keep_alive &= !(is_leaving && answers.is_empty());
        let may_follow = answers.is_empty()
            || (answers.len() == half && answers.back().is_some_and(|last| last.is_keep_alive));
        answer.what = match reply {
            Reply::Published { epoch, stamp, .. } => What::Published { epoch, stamp },
            Reply::Token { token, expires_at_ms } => What::Token { token, expires_at_ms },
            Reply::Document(document) => What::Document(document),
            Reply::Overdue(overdue) => What::Refusal(overdue.refusal),
            Reply::Refused(refusal) => What::Refusal(refusal),
            Reply::PutOut { ended: 0 } => What::Refusal(no_such_user()),
            Reply::PutOut { .. } => What::Done,
            reply => match super::queries::body_of(&reply) {
                Some(body) => What::Body(body),
                None => unreachable!("{reply:?} in answer to a request of HTTP"),
            },
        };
        let owes_continue = answers.is_empty() && std::mem::take(&mut http.owes_continue);
        let before = connection.queue.bytes();
        let is_last = !answer.is_keep_alive;
        self.answer(id, answer, &mut None);
        let Some(connection) = self.connections.get(id).filter(|c| c.stage == Stage::Open) else { return };
        self.answered_bytes += connection.queue.bytes() - before;
        if is_last {
            return self.close(id, Closing::LastResponse);
        }
        if owes_continue {
            self.say_raw(id, |out| out.extend_from_slice(http1::CONTINUE));
        }
        if may_follow {
            self.let_go_on(id);
        }
        self.pause_if_unread(id);
        self.arm(id);
    }
}

/// The room that a path names, if a token that is for some rooms is for this one.
pub(super) fn room_in_path(escaped: &str, allowed: Option<&Patterns>) -> Result<RoomName, Refusal> {
    let room = http1::percent_decode(escaped)
        .ok_or_else(|| Refusal::new(Reason::BadName, "room: it is not well escaped"))?;
    let room = super::commands::parse_room(&room)?;
    match allowed.is_none_or(|allowed| allowed.matches(&room)) {
        true => Ok(room),
        false => Err(super::commands::not_for_this_room()),
    }
}

/// Refuses a request for what is said of its body, before that has come.
pub(super) fn refuse_body(head: &Head) -> Option<What> {
    if head.body == Body::None && head.header("content-length").is_none() {
        return Some(What::error(411, "this needs a body, and its length or chunks"));
    }
    if head.headers_named("content-encoding").any(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Some(What::error(415, "the only content coding known here is identity"));
    }
    None
}

/// What tells a request from the sender's others in the room. An empty key is none, as an empty id is.
fn idempotency_key(head: &Head) -> Result<Option<Box<str>>, Refusal> {
    let mut fields = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"idempotency-key"));
    let Some((_, key)) = fields.next() else { return Ok(None) };
    match std::str::from_utf8(key) {
        Ok(key) if key.len() <= json::ID_BYTES_MAX && fields.next().is_none() => {
            Ok((!key.is_empty()).then(|| key.into()))
        }
        _ => {
            let message =
                format!("`Idempotency-Key` stands once and has at most {} bytes", json::ID_BYTES_MAX);
            Err(Refusal::new(Reason::BadRequest, message))
        }
    }
}
