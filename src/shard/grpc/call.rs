//! The life of a call: begun by a request, ended by a status.

use bytes::Bytes;
use http::{Method as Verb, Request};

use super::{Http2, Open};
use crate::base::bucket::SharedBucket;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::refusal::{Farewell, Reason, Refusal};
use crate::proto::grpc::{self, Code, Decoder, Method, NoTime, Status, Violation};
use crate::proto::http2::{self, Stream};
use crate::shard::Shard;
use crate::shard::closing::Closing;
use crate::shard::connection::{Connection, Pause, Protocol, Stage};
use crate::shard::encode::Encoding;
use crate::shard::limits::Cost;
use crate::shard::mail::ReplyTo;

/// What is told to a client whose call comes after the server has begun to leave.
const LEAVING: &str = "the server is about to stop";

/// What a connection is besides, if it is a call.
#[derive(Debug)]
pub struct Call {
    /// The connection of HTTP/2 that it is on.
    pub parent: Id,
    /// The place of its stream there.
    pub stream: u32,
    /// What is called.
    pub method: Method,
    /// What the request's metadata says of who calls.
    pub metadata: Metadata,
    /// When the client gives it up.
    pub deadline: Option<Tick>,
    /// How it ends, when all that is queued has been said.
    pub status: Option<Status>,
    /// Whether its stream has got all of the answer.
    pub is_answered: bool,
    /// Whether the one message of a unary call has come.
    pub has_asked: bool,
    /// Whether another core or thread has been asked, and has not replied.
    pub is_asking: bool,
    /// The room to join when the hello has been answered.
    pub enters: Option<Box<str>>,
    /// How often its nickname was refused.
    pub tries: u8,
    /// Whether anything was said: an empty message before that only tells who comes.
    pub has_spoken: bool,
    /// Whether what it says next costs no command: the first is what was paid for when the call began.
    pub is_prepaid: bool,
    /// Whether what it says now has been paid for: it may have to wait, and is heard again then.
    pub is_paid: bool,
}

/// What metadata may say.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Metadata {
    pub nickname: Option<Box<str>>,
    pub token: Option<Box<str>>,
    pub api_key: Option<Box<str>>,
    pub room: Option<Box<str>>,
    pub idempotency_key: Option<Bytes>,
}

impl Metadata {
    fn of(request: &Request<()>) -> Self {
        let text = |name: &str| grpc::text(request.headers(), name).map(Box::from);
        let bearer = grpc::text(request.headers(), "authorization").and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' ').into())
        });
        Metadata {
            nickname: text("nickname"),
            token: bearer,
            api_key: text("x-api-key"),
            room: text("room"),
            idempotency_key: request
                .headers()
                .get("idempotency-key")
                .map(|key| Bytes::copy_from_slice(key.as_bytes())),
        }
    }
}

/// The status that a refusal ends a call with.
pub(super) fn status_of(refusal: &Refusal) -> Status {
    let code = match refusal.reason {
        Reason::AlreadyJoined | Reason::AlreadySaidHello => Code::FailedPrecondition,
        reason => Code::of_http(reason.code()),
    };
    let status = Status::new(code, refusal.reason.as_str(), refusal.message.clone());
    Status { retry_after_ms: refusal.retry_after_ms, ..status }
}

/// The status that a call ends with when its connection would be told good-bye.
fn status_of_farewell(farewell: Farewell) -> Status {
    let (code, message) = match farewell {
        Farewell::Quit => return Status::OK,
        Farewell::BadProtocol => (Code::InvalidArgument, "what came is no message"),
        Farewell::Unauthenticated => {
            (Code::Unauthenticated, "the token is void, or guests are not let in any more")
        }
        Farewell::Banned => (Code::PermissionDenied, "you are banned"),
        Farewell::Kicked => (Code::PermissionDenied, "you were put out"),
        Farewell::Replaced => (Code::Cancelled, "your session goes on elsewhere"),
        Farewell::TooManyErrors => (Code::InvalidArgument, "too many malformed commands"),
        Farewell::TooManyConnections => (Code::ResourceExhausted, "there is no place for another"),
        Farewell::NoHello => (Code::DeadlineExceeded, "no hello came"),
        Farewell::Internal => (Code::Internal, "the server failed"),
        Farewell::SlowConsumer => (Code::ResourceExhausted, "you read too slowly"),
        Farewell::RateLimited => (Code::ResourceExhausted, "you ask too much"),
        Farewell::Timeout => (Code::Unavailable, "no sign of life came"),
        Farewell::Overloaded => (Code::Unavailable, "the server is overloaded"),
        Farewell::ExpiredToken => (Code::Unauthenticated, "your token has expired"),
        Farewell::Draining => (Code::Unavailable, LEAVING),
    };
    Status::new(code, farewell.as_str(), message)
}

impl Shard {
    /// Begins a call, or refuses it.
    pub(super) fn begin_call(
        &mut self,
        parent: Id,
        http2: &mut Http2,
        request: &Request<()>,
        mut stream: Stream,
    ) {
        if http2::is_malformed(request) {
            self.log_violation(parent, "a malformed request");
            return stream.reset(http2::Reason::PROTOCOL_ERROR);
        }
        if request.method() != Verb::POST || !grpc::is_call(request.headers()) {
            return stream.answer(grpc::not_a_call());
        }
        let (method, deadline) = match self.consider_call(parent, request) {
            Ok(considered) => considered,
            Err(status) => return stream.answer(status.answer()),
        };
        self.counters.calls.add(1);
        let encoding = match method {
            Method::Connect => Encoding::GrpcEvent,
            Method::StreamMessages => Encoding::GrpcMessage,
            _ => Encoding::GrpcResponse,
        };
        let number = http2.streams.vacant_key();
        http2.server.watch(&mut stream, number as u32);
        let Some(state) = self.connections.get(parent) else { return };
        let protocol = Protocol::Messages(Decoder::new(self.limits.inbound_bytes));
        let mut connection = Connection::new(state.peer, state.kind, protocol, encoding, self.now.tick);
        connection.address_bucket = state.address_bucket.clone();
        connection.call = Some(Box::new(Call {
            parent,
            stream: number as u32,
            method,
            metadata: Metadata::of(request),
            deadline,
            status: None,
            is_answered: false,
            has_asked: false,
            is_asking: false,
            enters: None,
            tries: 0,
            has_spoken: false,
            is_prepaid: true,
            is_paid: false,
        }));
        let id = self.connections.insert(connection);
        self.counters.connections.set(self.connections.len() as u64);
        self.counters.connection_places.set(self.connections.places() as u64);
        self.log_call(id, parent, request.uri().path());
        let open = &self.counters.calls_open;
        open.set(open.value() + 1);
        self.calls.entry(parent).or_default().push(id);
        http2.streams.insert(Open { stream, call: id });
        self.arm(id);
        self.touch(id); // its head is sent at once, so that the client knows that it is heard
        self.begin_chat(id);
        if let Some(open) = http2.streams.get_mut(number) {
            self.read_call(&mut open.stream, id);
        }
    }

    /// What can be said of a call by its request alone.
    fn consider_call(&mut self, parent: Id, request: &Request<()>) -> Result<(Method, Option<Tick>), Status> {
        let path = request.uri().path();
        let method = Method::at(path);
        // Who has commands of its own pays for those.
        if method != Some(Method::Connect) {
            let joins = method.map_or(0, joins_at_first);
            self.charge(parent, Cost { joins, ..Cost::COMMAND }, None).map_err(|mut refusal| {
                let again = self.new_call_cost(parent, joins);
                refusal.retry_after_ms = refusal.retry_after_ms.max(Some(self.own_wait_ms(parent, again)));
                self.note_call_limited(parent, refusal.retry_after_ms.unwrap_or_default());
                status_of(&refusal)
            })?;
        }
        let method = method.ok_or_else(|| {
            Status::new(Code::Unimplemented, "not_found", format!("there is no method {path}"))
        })?;
        let timeout_ms = grpc::timeout_ms(request.headers()).map_err(|NoTime| {
            let message = "grpc-timeout has up to eight digits and one of H, M, S, m, u and n";
            Status::new(Code::InvalidArgument, "bad_request", message)
        })?;
        if let Some(coding) = grpc::text(request.headers(), "grpc-encoding")
            && !coding.eq_ignore_ascii_case("identity")
        {
            let message = format!("the only coding of messages known here is identity, not {coding}");
            return Err(Status::new(Code::Unimplemented, "bad_request", message));
        }
        if self.is_leaving() && !matches!(method, Method::HealthCheck | Method::HealthList) {
            return Err(Status::new(Code::Unavailable, Reason::Draining.as_str(), LEAVING));
        }
        if self.connections.len() >= self.core_connections {
            self.counters.refused_connections.add(1);
            return Err(status_of_farewell(Farewell::TooManyConnections));
        }
        Ok((method, timeout_ms.map(|ms| self.now.tick + ms)))
    }

    /// Finds messages in what a call's client has said.
    pub(in crate::shard) fn decode_messages(&mut self, id: Id, decoder: &mut Decoder, input: &[u8]) -> usize {
        let mut used = 0;
        while used < input.len() {
            let message = match decoder.decode(&input[used..]) {
                Ok((taken, message)) => {
                    used += taken;
                    message
                }
                Err(violation) => {
                    self.counters.too_large.add(u64::from(violation == Violation::TooLarge));
                    self.end_call(id, status_of_violation(violation, self.limits.inbound_bytes));
                    return input.len();
                }
            };
            let Some(message) = message else { break };
            if !self.hear_call(id, message) {
                break;
            }
        }
        decoder.release();
        used
    }

    /// Hears a message of a call, and says whether the next one may be looked at.
    fn hear_call(&mut self, id: Id, message: &[u8]) -> bool {
        let Some(call) = self.call_mut(id) else { return false };
        let is_first = !std::mem::replace(&mut call.has_asked, true);
        if call.method.is_unary() && !is_first {
            return true; // one message is asked for, and has come
        }
        call.is_paid = false;
        self.obey_call(id, message)
    }

    /// Does what a message of a call asks for, also if it had to wait, and says whether the next one may be looked at.
    pub(in crate::shard) fn obey_call(&mut self, id: Id, message: &[u8]) -> bool {
        let Some(call) = self.call_mut(id) else { return false };
        match call.method {
            Method::Connect => self.hear_event_command(id, message),
            Method::StreamMessages => {
                let flow = self.hear_said(id, message);
                self.follow(id, flow, message)
            }
            Method::SendMessage => {
                let flow = self.hear_sent(id, message);
                self.follow(id, flow, message)
            }
            Method::Login => self.hear_login(id, message),
            method @ (Method::HealthCheck | Method::HealthList | Method::HealthWatch) => {
                self.hear_health(id, method, message)
            }
            Method::Reflection => self.hear_reflection(id, message),
        }
    }

    /// The client will say no more on this call.
    pub(in crate::shard) fn finish_call_input(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        let is_within = matches!(&connection.protocol, Protocol::Messages(decoder) if decoder.is_within());
        let session = connection.session.and_then(|session| self.sessions.get(session));
        if connection.is_asking() || session.is_some_and(|session| !session.is_idle()) {
            connection.pause = Some(Pause::Reply); // what was said before is answered first
            return;
        }
        let Some(call) = &connection.call else { return };
        if is_within {
            let message = "the last message is not complete";
            return self.end_call(id, Status::new(Code::InvalidArgument, "bad_request", message));
        }
        match call.method {
            method if method.is_unary() && !call.has_asked => {
                let message = "this call wants one message";
                self.end_call(id, Status::new(Code::InvalidArgument, "bad_request", message));
            }
            // The answer is on its way; who watches is told what changes for as long as it listens.
            method if method.is_unary() => {}
            // What was said last is still heard by whoever said it.
            _ => self.close_after_session(id, Closing::Quit(ReplyTo::default())),
        }
    }

    /// Ends a call with a status, when what is queued has been said.
    pub(in crate::shard) fn end_call(&mut self, id: Id, status: Status) {
        if let Some(call) = self.call_mut(id) {
            call.status = Some(status);
            self.close(id, Closing::LastResponse);
        }
    }

    /// Ends a call with a status, when its session has ended too.
    pub(super) fn end_call_after_session(&mut self, id: Id, status: Status) {
        if let Some(call) = self.call_mut(id) {
            call.status = Some(status);
            self.close_after_session(id, Closing::LastResponse);
        }
    }

    /// Takes what a message costs from all buckets that it concerns, once, also if it has to wait and is heard again. Its user's is that of
    /// its session, or this one.
    ///
    /// # Errors
    ///
    /// When it may be tried again, by another call.
    pub(super) fn pay(
        &mut self,
        id: Id,
        bytes: usize,
        joins: u64,
        user_bucket: Option<&SharedBucket>,
    ) -> Result<(), Refusal> {
        let Some(call) = self.call_mut(id).filter(|call| !call.is_paid) else { return Ok(()) };
        let (commands, at_first) = (u64::from(!call.is_prepaid), joins_at_first(call.method));
        let parent = call.parent;
        if !self.rates.bytes.is_unlimited()
            && let Some(connection) = self.connections.get_mut(parent)
        {
            let record = connection.record.get_or_insert_default();
            record.call_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
        let bytes = bytes as u64;
        match self.charge(id, Cost { commands, of_user: 1, bytes, joins }, user_bucket) {
            Ok(()) => {
                if let Some(call) = self.call_mut(id) {
                    (call.is_paid, call.is_prepaid) = (true, false);
                }
                Ok(())
            }
            Err(mut refusal) => {
                let again = self.new_call_cost(parent, joins + at_first);
                refusal.retry_after_ms = refusal.retry_after_ms.max(Some(self.own_wait_ms(id, again)));
                Err(refusal)
            }
        }
    }

    /// What a new call on a connection takes from its buckets, with its first message, if that is like the last one.
    fn new_call_cost(&self, parent: Id, joins: u64) -> Cost {
        let record = self.connections.get(parent).and_then(|connection| connection.record.as_ref());
        Cost { bytes: record.map_or(0, |record| record.call_bytes.into()), joins, ..Cost::COMMAND }
    }

    /// Notes that a call on a connection was refused for its rate: who goes on and on is sent away, with all its calls.
    fn note_call_limited(&mut self, parent: Id, retry_after_ms: u64) {
        if self.note_rate_limited(parent, retry_after_ms)
            && let Some(connection) = self.connections.get_mut(parent)
        {
            connection.record.get_or_insert_default().is_deaf = true;
        }
    }

    /// Ends a call for a refusal, which has no other way to be told where a call carries no events. Says whether it did.
    pub(in crate::shard) fn refuse_call(&mut self, id: Id, refusal: &Refusal) -> bool {
        if self.may_ask_again(id, refusal) {
            return true; // its message is held, and is heard again
        }
        let Some(call) = self.call_mut(id).filter(|call| call.method != Method::Connect) else {
            return false;
        };
        let (parent, at_first) = (call.parent, joins_at_first(call.method));
        self.log_refused(id, refusal);
        self.counters.errors.add(1);
        let mut status = status_of(refusal);
        if refusal.reason == Reason::RateLimited {
            // What a room or a user is refused was paid for here already, and the next call is to be paid for again.
            let again = self.own_wait_ms(id, self.new_call_cost(parent, at_first));
            status.retry_after_ms = status.retry_after_ms.max(Some(again));
            self.note_call_limited(parent, status.retry_after_ms.unwrap_or_default());
        }
        self.end_call_after_session(id, status);
        true
    }

    /// Notes with which status a call ends that is being closed.
    pub(in crate::shard) fn note_status(&mut self, id: Id, closing: &Closing) {
        let Some(call) = self.call_mut(id) else { return };
        if call.status.is_none() {
            call.status = Some(match closing {
                Closing::Bye(farewell) => status_of_farewell(*farewell),
                Closing::RequestTimeout => {
                    Status::new(Code::DeadlineExceeded, "deadline", "the time for this call is over")
                }
                _ => Status::OK,
            });
        }
    }

    /// When something has to be done about a call, whatever its client says.
    pub(in crate::shard) fn call_deadline(&self, connection: &Connection, call: &Call) -> Option<Tick> {
        let is_late = call.method.is_unary() && !call.has_asked;
        let first = is_late.then(|| connection.awaited_since + self.limits.hello_ms);
        [call.deadline, first].into_iter().flatten().min()
    }

    /// Whether a call has a session, or is to have one.
    pub(in crate::shard) fn is_chat(call: &Call) -> bool {
        matches!(call.method, Method::Connect | Method::StreamMessages)
    }

    pub(super) fn call_mut(&mut self, id: Id) -> Option<&mut Call> {
        let connection = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open)?;
        connection.call.as_deref_mut()
    }

    /// Has a call wait for a reply.
    pub(super) fn await_reply(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) {
            connection.pause = Some(Pause::Reply);
            if let Some(call) = &mut connection.call {
                call.is_asking = true;
            }
        }
    }
}

/// How many rooms a call joins by itself, when it has a session.
fn joins_at_first(method: Method) -> u64 {
    u64::from(method == Method::StreamMessages)
}

fn status_of_violation(violation: Violation, bytes_max: usize) -> Status {
    match violation {
        Violation::TooLarge => {
            let message = format!("a message may have {bytes_max} bytes");
            Status::new(Code::ResourceExhausted, Reason::TooLarge.as_str(), message)
        }
        Violation::Compressed => {
            Status::new(Code::Unimplemented, "bad_request", "messages are not to be compressed")
        }
    }
}
