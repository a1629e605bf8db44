//! HTTP requests, and how one of them becomes a WebSocket.
//!
//! What a request is answered is decided when its head is complete; it is said when its body has been read. A body that a route
//! does not take is thrown away.

use std::sync::Arc;

use super::Shard;
use super::accounts::{AccountAction, AccountRequest};
use super::api::{Caller, UnderWay};
use super::closing::Closing;
use super::connection::Protocol;
use super::deflate;
use super::encode::Encoding;
use super::mail::{ApiRequest, Push};
use super::observer::{Document, Question};
use super::session::Identity;
use super::upgrade::{Hello, PendingUpgrade, with_deflate};
use crate::base::census::Full;
use crate::base::slots::Id;
use crate::base::stats;
use crate::base::time::Tick;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::room::Stamp;
use crate::config::Limits;
use crate::proto::http1::{self, BodyDecoder, Content, Head, HeadDecoder, Piece, Reply, is_known_method};
use crate::proto::json;
use crate::proto::websocket::extension::Offer;
use crate::proto::websocket::{self, handshake};
use crate::proto::wire::{Error, Event};
use crate::web::{self, Asset, Route};

/// How long a client that found the server full is asked to stay away, in seconds.
const RETRY_AFTER_S: &str = "5";

const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The HTTP side of a connection.
#[derive(Debug)]
pub struct Http {
    phase: Phase,
    /// When the present phase began.
    since: Tick,
    /// Whether no request has come yet.
    is_fresh: bool,
    /// Whether a client waits to be told to send its body, until what it asked before has been answered.
    pub(super) owes_continue: bool,
    /// Requests that homes have been asked about, and the one behind them.
    pub(super) under_way: UnderWay,
    /// Who sent the last request that had to tell.
    caller: Option<Box<Caller>>,
}

#[derive(Debug)]
enum Phase {
    Head(HeadDecoder),
    Body(BodyDecoder, Answer),
}

/// What a request will be answered when it has been read.
#[derive(Debug)]
pub(super) struct Answer {
    pub what: What,
    pub is_keep_alive: bool,
    pub is_head: bool,
    pub version_minor: u8,
    pub request_id: Option<String>,
    /// Which it was, and when its head was complete, in nanoseconds of the monotonic clock.
    pub method: usize,
    pub began_ns: u64,
}

/// A request of HTTP that has been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub method: usize,
    pub status: u16,
    pub began_ns: u64,
}

#[derive(Debug)]
pub(super) enum What {
    Text(u16, &'static str),
    Asset(&'static Asset),
    /// What may be done here, for OPTIONS.
    Methods(&'static str),
    Error {
        status: u16,
        message: &'static str,
        headers: Vec<(&'static str, &'static str)>,
    },
    Refusal(Refusal),
    /// A message to be published when its body has come.
    Unread {
        push: Box<Push>,
        body: Vec<u8>,
        is_charged: bool,
    },
    /// A request about an account, when its body has come.
    UnreadAccount {
        action: AccountAction,
        body: Vec<u8>,
    },
    /// A request about an account.
    Account(Box<AccountRequest>),
    /// A token for its user.
    Token {
        token: String,
        expires_at_ms: u64,
    },
    /// A question to whoever sees all cores, and the answer.
    Observe(Question),
    Document(Box<Document>),
    /// A message to be published.
    Publish(Box<Push>),
    /// What an admin says to all, when its body has come.
    UnreadBroadcast {
        sender: Nickname,
        body: Vec<u8>,
        is_charged: bool,
    },
    /// An event stream that ends at once, because the clients are told to go.
    EventStreamEnd,
    /// What homes are asked, and the answer in JSON.
    Query(ApiRequest),
    Body(Vec<u8>),
    /// It has been done, and there is nothing to say.
    Done,
    /// What a home says.
    Asked,
    /// A message that has been published.
    Published {
        epoch: Arc<str>,
        stamp: Stamp,
    },
    Echo {
        key: String,
        deflate: Option<Offer>,
    },
    Chat(Box<PendingUpgrade>, Option<Hello>),
    /// A dashboard, and who looks at it if that is known.
    Watch {
        key: String,
        identity: Option<Arc<Identity>>,
    },
}

impl What {
    pub fn error(status: u16, message: &'static str) -> Self {
        What::Error { status, message, headers: Vec::new() }
    }

    /// The status of the answer; `None` while it is not known.
    fn status(&self) -> Option<u16> {
        Some(match self {
            What::Text(status, _) | What::Error { status, .. } => *status,
            What::Asset(_) | What::Token { .. } | What::Document(_) | What::Body(_) => 200,
            What::Published { .. } | What::EventStreamEnd => 200,
            What::Methods(_) | What::Done => 204,
            What::Refusal(refusal) => refusal.reason.code(),
            What::Echo { .. } | What::Chat(_, None) => 101,
            What::Unread { .. }
            | What::UnreadAccount { .. }
            | What::UnreadBroadcast { .. }
            | What::Account(_)
            | What::Observe(_)
            | What::Publish(_)
            | What::Query(_)
            | What::Asked
            | What::Watch { .. }
            | What::Chat(_, Some(_)) => return None,
        })
    }
}

/// The present second as HTTP writes it, made anew when it has passed.
#[derive(Debug, Default)]
pub(super) struct DateCache {
    second: u64,
    text: String,
}

impl Http {
    /// How many bytes of a request that is not complete it holds back, the free ones of its buffer among them.
    pub(super) fn kept_bytes(&self) -> usize {
        match &self.phase {
            Phase::Head(head) => head.kept_bytes(),
            Phase::Body(_, answer) => match &answer.what {
                What::Unread { body, .. }
                | What::UnreadAccount { body, .. }
                | What::UnreadBroadcast { body, .. } => body.capacity(),
                _ => 0,
            },
        }
    }

    /// A connection that no request has come on.
    pub fn new(limits: &Limits, now: Tick) -> Self {
        let head = HeadDecoder::new(limits.http_target_bytes, limits.http_head_bytes);
        Http {
            phase: Phase::Head(head),
            since: now,
            is_fresh: true,
            owes_continue: false,
            under_way: UnderWay::default(),
            caller: None,
        }
    }

    /// When the present phase has taken too long. While the client waits for an answer it cannot.
    pub fn deadline(&self, limits: &Limits) -> Option<Tick> {
        if !self.under_way.is_empty() {
            return None;
        }
        let ms = if self.is_between_requests() && !self.is_fresh {
            limits.http_idle_ms
        } else {
            limits.http_head_ms
        };
        Some(self.since + ms)
    }

    /// Begins to count the time for the next request.
    pub(super) fn restart(&mut self, now: Tick) {
        self.since = now;
    }

    /// Whether nothing of a request has come.
    pub fn is_between_requests(&self) -> bool {
        matches!(&self.phase, Phase::Head(head) if head.is_idle())
    }
}

impl Shard {
    /// Takes requests from `input`; `next` is set when the last of them made the connection something else.
    pub(super) fn decode_http(
        &mut self,
        id: Id,
        http: &mut Http,
        input: &[u8],
        next: &mut Option<Protocol>,
    ) -> usize {
        let mut used = 0;
        while used < input.len() && next.is_none() {
            let answer = match &mut http.phase {
                Phase::Head(decoder) => {
                    let was_idle = decoder.is_idle();
                    let (taken, head) = match decoder.decode(&input[used..]) {
                        Ok(decoded) => decoded,
                        Err(error) => {
                            let is_head = decoder.has_refused_head();
                            return self.end_http(id, http, error, is_head, input.len());
                        }
                    };
                    used += taken;
                    if was_idle {
                        http.since = self.now.tick;
                    }
                    let Some(head) = head else { break };
                    let mut body = BodyDecoder::new(head.body, self.limits.http_body_bytes as u64);
                    if let Err(error) = body.decode(b"") {
                        let is_head = head.method == "HEAD";
                        self.counters.too_large.add(1);
                        return self.end_http(id, http, error, is_head, input.len());
                    }
                    let answer = self.consider(id, &head, &mut http.caller);
                    http.is_fresh = false;
                    if !body.is_done() {
                        http.owes_continue = head.expects_continue && !http.under_way.is_empty();
                        if head.expects_continue && !http.owes_continue {
                            self.say_raw(id, |out| out.extend_from_slice(http1::CONTINUE));
                        }
                        http.since = self.now.tick;
                        http.phase = Phase::Body(body, answer);
                        continue;
                    }
                    decoder.release();
                    answer
                }
                Phase::Body(body, answer) => {
                    let (taken, piece) = match body.decode(&input[used..]) {
                        Ok(decoded) => decoded,
                        Err(error) => {
                            self.counters.too_large.add(u64::from(error.status == 413));
                            let is_head = answer.is_head;
                            return self.end_http(id, http, error, is_head, input.len());
                        }
                    };
                    used += taken;
                    if let (
                        Some(Piece::Data(data)),
                        What::Unread { body, .. }
                        | What::UnreadAccount { body, .. }
                        | What::UnreadBroadcast { body, .. },
                    ) = (piece, &mut answer.what)
                    {
                        body.extend_from_slice(data);
                    }
                    if !matches!(piece, Some(Piece::End)) && !body.is_done() {
                        continue;
                    }
                    let head = HeadDecoder::new(self.limits.http_target_bytes, self.limits.http_head_bytes);
                    match std::mem::replace(&mut http.phase, Phase::Head(head)) {
                        Phase::Body(_, answer) => answer,
                        Phase::Head(_) => unreachable!("the body was matched above"),
                    }
                }
            };
            http.owes_continue = false;
            let answer = match answer.what {
                What::Unread { push, body, is_charged } => {
                    Answer { what: self.complete_push(id, push, &body, is_charged), ..answer }
                }
                What::UnreadAccount { action, body } => {
                    let what = self.complete_account(id, action, &body, answer.request_id.as_deref());
                    Answer { what, ..answer }
                }
                What::UnreadBroadcast { sender, body, is_charged } => {
                    Answer { what: self.complete_broadcast(id, sender, &body, is_charged), ..answer }
                }
                _ => answer,
            };
            if !self.take_turn(id, http, answer, next) {
                break;
            }
        }
        if let Phase::Head(decoder) = &mut http.phase {
            decoder.release();
        }
        used
    }

    /// Decides what a request is answered.
    fn consider(&mut self, id: Id, head: &Head, caller: &mut Option<Box<Caller>>) -> Answer {
        let request_id = match head.request_id {
            Some(request_id) => request_id.to_owned(),
            None => format!("{:016x}", self.rng.next_u64()),
        };
        self.log_request(id, &request_id, head.method, head.path);
        let what = self.consider_what(id, head, &request_id, caller);
        // It has no end but the connection's.
        let is_event_stream = matches!(&what, What::EventStreamEnd | What::Query(ApiRequest::Listen(_)));
        Answer {
            what,
            is_keep_alive: head.is_keep_alive && !is_event_stream && !self.is_leaving(),
            is_head: head.method == "HEAD",
            version_minor: head.version_minor,
            request_id: Some(request_id),
            method: stats::method(head.method),
            began_ns: self.now.ns,
        }
    }

    fn consider_what(
        &mut self,
        id: Id,
        head: &Head,
        request_id: &str,
        caller: &mut Option<Box<Caller>>,
    ) -> What {
        let route = match web::route(head.path) {
            Route::Echo if !self.is_echo_on => Route::NotFound,
            Route::Metrics if !self.has_metrics() => Route::NotFound,
            route if !self.has_dashboard() && web::is_of_dashboard(&route) => Route::NotFound,
            route => route,
        };
        if !is_known_method(head.method) {
            return What::error(501, "this method is not known here");
        }
        let methods = web::allowed_methods(&route);
        if head.method == "OPTIONS" {
            return What::Methods(if head.path == "*" { "GET, HEAD, OPTIONS" } else { methods });
        }
        if route == Route::NotFound {
            return What::error(404, "there is nothing at this path");
        }
        if !methods.split(", ").any(|method| method == head.method) {
            let headers = vec![("Allow", methods)];
            return What::Error { status: 405, message: "this path does not take this method", headers };
        }
        match route {
            // It serves, if only from memory; whoever looks closer sees it.
            Route::Health if self.journal.is_down() => What::Text(200, "OK store_down"),
            Route::Health if self.nodes.down.is_some() => What::Text(200, "OK backplane_down"),
            Route::Health => What::Text(200, "OK"),
            Route::Ready if self.drain.is_some() => What::Text(503, "draining"),
            // The others take it for lost by then: so does whoever sends clients here.
            Route::Ready if self.is_cut_off() => What::Text(503, "backplane_down"),
            Route::Ready => What::Text(200, "ready"),
            Route::Metrics if self.observer.is_none() => What::error(503, "nobody here counts"),
            Route::Metrics => match self.admit_scraper(id, head, caller) {
                Ok(()) => {
                    let is_open_metrics = head.names_accepted(OPEN_METRICS); // who names it can read it
                    What::Observe(Question::Metrics { is_open_metrics })
                }
                Err(refusal) => What::Refusal(refusal),
            },
            Route::Asset(asset) => What::Asset(asset),
            Route::Register => self.consider_account(id, head, AccountAction::Register),
            Route::Login => self.consider_account(id, head, AccountAction::Login),
            Route::Messages(room) => self.consider_push(id, head, room, caller),
            Route::Broadcast => self.consider_broadcast(id, head, caller),
            Route::Sessions(nickname) => self.consider_put_out(id, head, nickname, caller),
            Route::Rooms | Route::Members(_) | Route::History(_) => {
                self.consider_query(id, head, &route, caller)
            }
            Route::Stream(room) => self.consider_event_stream(id, head, room, caller),
            Route::WebSocket | Route::Echo => self.consider_upgrade(id, head, request_id, route),
            Route::Dashboard => self.consider_watch(id, head, caller),
            Route::NotFound => unreachable!("answered above"),
        }
    }

    /// Says an answer, and whether the next request may be looked at.
    pub(super) fn answer(&mut self, id: Id, answer: Answer, next: &mut Option<Protocol>) -> bool {
        let date = self.date();
        if let Some(status) = answer.what.status() {
            self.note_answered(id, answer.request_id.as_deref(), answer.method, status, answer.began_ns);
        }
        let reply = Reply {
            is_keep_alive: answer.is_keep_alive,
            is_head: answer.is_head,
            version_minor: answer.version_minor,
            request_id: answer.request_id.as_deref(),
            date: Some(&date),
            ..Reply::last(200)
        };
        match answer.what {
            What::Text(status, text) => self.say_raw(id, |out| {
                http1::put(
                    out,
                    &Reply {
                        status,
                        content_type: Some(PLAIN),
                        content: Content::Bytes(text.as_bytes()),
                        ..reply
                    },
                );
            }),
            What::Asset(asset) => self.say_raw(id, |out| {
                let content = Content::Bytes(asset.body);
                let content_type = Some(asset.content_type);
                http1::put(out, &Reply { content_type, headers: web::SECURITY_HEADERS, content, ..reply });
            }),
            What::Methods(methods) => self.say_raw(id, |out| {
                http1::put(out, &Reply { status: 204, headers: &[("Allow", methods)], ..reply });
            }),
            What::Error { status, message, headers } => {
                let body = error_body(status, reason_of(status), message, false, None);
                self.say_raw(id, |out| put_error(out, &Reply { headers: &headers, ..reply }, status, &body));
            }
            What::Refusal(refusal) => return self.answer_with_refusal(id, refusal, &reply),
            What::Published { epoch, stamp } => {
                let mut body = Vec::new();
                json::write_place(&epoch, stamp.offset, stamp.timestamp_ms, &mut body);
                self.say_raw(id, |out| {
                    let content = Content::Bytes(&body);
                    http1::put(out, &Reply { content_type: Some(JSON), content, ..reply });
                });
            }
            What::Token { token, expires_at_ms } => {
                let body = serde_json::json!({ "token": token, "expires_at": expires_at_ms }).to_string();
                self.say_fresh(id, JSON, body.as_bytes(), &reply);
            }
            What::Document(document) => self.say_fresh(id, document.content_type, &document.body, &reply),
            What::Body(body) => self.say_fresh(id, JSON, &body, &reply),
            What::EventStreamEnd => self.end_event_stream_at_once(id, &reply),
            What::Done => self.say_raw(id, |out| http1::put(out, &Reply { status: 204, ..reply })),
            What::Unread { .. }
            | What::UnreadAccount { .. }
            | What::UnreadBroadcast { .. }
            | What::Account(_)
            | What::Observe(_)
            | What::Publish(_)
            | What::Query(_)
            | What::Asked => {
                unreachable!("somebody is asked before this is answered")
            }
            What::Echo { key, deflate } => {
                let agreement = self.agree_on_deflate(id, deflate);
                let limits = &self.limits;
                // A sender that cuts a message evenly may end it with an empty fragment, which is one more.
                let fragments =
                    u32::try_from(limits.echo_fragments).map_or(u32::MAX, |n| n.saturating_add(1));
                let decoder = websocket::Decoder::new(limits.echo_message_bytes, fragments);
                *next = Some(Protocol::Echo(with_deflate(decoder, agreement.as_ref())));
                self.say_raw(id, |out| {
                    handshake::put_response(out, &key, None, agreement.as_ref(), reply.request_id);
                });
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.encoding = deflate::encoding_of(agreement.as_ref(), Encoding::JsonMessage);
                }
                return false;
            }
            What::Watch { key, identity } => {
                let refused = self.begin_watch(id, &key, identity, &reply, next).err();
                let status = refused.as_ref().map_or(101, |refusal| refusal.reason.code());
                self.note_answered(id, answer.request_id.as_deref(), answer.method, status, answer.began_ns);
                return refused.is_some_and(|refusal| self.answer_with_refusal(id, refusal, &reply));
            }
            What::Chat(mut pending, None) => {
                pending.agreement = self.agree_on_deflate(id, pending.offer);
                *next = Some(self.chat_protocol(&pending));
                self.say_switching(id, &pending);
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.encoding = pending.encoding();
                }
                return false;
            }
            What::Chat(pending, Some(hello)) => {
                self.hello_by_query(id, pending, &hello);
                return false;
            }
        }
        true
    }

    /// Says what is true only now.
    fn say_fresh(&mut self, id: Id, content_type: &'static str, body: &[u8], reply: &Reply) {
        self.say_raw(id, |out| {
            let (content, headers) = (Content::Bytes(body), &[("Cache-Control", "no-store")]);
            http1::put(out, &Reply { content_type: Some(content_type), headers, content, ..*reply });
        });
    }

    /// Refuses a request, and says whether the next one may be looked at. A client that is deaf to being told to wait is closed.
    fn answer_with_refusal(&mut self, id: Id, mut refusal: Refusal, reply: &Reply) -> bool {
        self.counters.errors.add(1);
        let mut is_deaf = false;
        if refusal.reason == Reason::RateLimited {
            // What a room refuses was paid for here already, and the next try is to be paid for again.
            let ms = refusal.retry_after_ms.unwrap_or_default().max(self.next_command_ms(id));
            refusal.retry_after_ms = Some(ms);
            is_deaf = self.note_rate_limited(id, ms);
        }
        let is_keep_alive = reply.is_keep_alive && !is_deaf;
        self.say_raw(id, |out| put_refusal(out, &Reply { is_keep_alive, ..*reply }, &refusal));
        if is_deaf {
            self.close(id, Closing::LastResponse);
        }
        !is_deaf
    }

    /// Counts a request that is answered in this turn.
    pub(super) fn note_answered(
        &mut self,
        id: Id,
        request_id: Option<&str>,
        method: usize,
        status: u16,
        began_ns: u64,
    ) {
        self.log_answered(id, request_id, status, began_ns);
        self.answered.push(Answered { method, status, began_ns });
    }

    /// Answers a client that the server has no room for, without waiting for what it wants.
    pub(super) fn refuse_http(&mut self, id: Id, full: Full) {
        let message = match full {
            Full::Server => "the server has as many connections as it may have",
            Full::Address => "your address has as many connections as it may have",
        };
        let date = self.date();
        self.note_answered(id, None, stats::OTHER_METHOD, 503, self.now.ns);
        let body = error_body(503, Reason::Unavailable.as_str(), message, true, None);
        let reply =
            Reply { headers: &[("Retry-After", RETRY_AFTER_S)], date: Some(&date), ..Reply::last(503) };
        self.say_raw(id, |out| put_error(out, &reply, 503, &body));
        self.close(id, Closing::LastResponse);
    }

    /// Answers a request that cannot be answered in any other way; the connection closes after it.
    pub(super) fn say_http_error(&mut self, id: Id, status: u16, refusal: &Refusal) {
        let date = self.date();
        self.note_answered(id, None, stats::OTHER_METHOD, status, self.now.ns);
        let body = error_body(status, reason_of(status), &refusal.message, false, None);
        let reply = Reply { date: Some(&date), ..Reply::last(status) };
        self.say_raw(id, |out| put_error(out, &reply, status, &body));
    }

    /// Ends a connection on which it is no longer certain where requests begin, when those before have been answered.
    fn end_http(
        &mut self,
        id: Id,
        http: &mut Http,
        error: http1::HttpError,
        is_head: bool,
        all: usize,
    ) -> usize {
        self.counters.errors.add(1);
        let answer = Answer {
            what: What::error(error.status, error.message),
            is_keep_alive: false,
            is_head,
            version_minor: 1,
            request_id: None,
            method: stats::OTHER_METHOD,
            began_ns: self.now.ns,
        };
        self.take_turn(id, http, answer, &mut None);
        all
    }

    /// Refuses what a request had to wait for.
    pub(super) fn say_http_refusal(&mut self, id: Id, request_id: &str, refusal: Refusal) {
        let date = self.date();
        let (request_id, date) = (Some(request_id), Some(date.as_str()));
        let reply = Reply { is_keep_alive: true, request_id, date, ..Reply::last(refusal.reason.code()) };
        self.answer_with_refusal(id, refusal, &reply);
    }

    pub(super) fn date(&mut self) -> String {
        let second = self.now.unix_ms / 1000;
        if self.date_cache.second != second || self.date_cache.text.is_empty() {
            self.date_cache = DateCache { second, text: http1::date(second) };
        }
        self.date_cache.text.clone()
    }
}

fn put_error(out: &mut Vec<u8>, reply: &Reply, status: u16, body: &[u8]) {
    http1::put(out, &Reply { status, content_type: Some(JSON), content: Content::Bytes(body), ..*reply });
}

fn put_refusal(out: &mut Vec<u8>, reply: &Reply, refusal: &Refusal) {
    let (code, reason) = (refusal.reason.code(), refusal.reason.as_str());
    let body =
        error_body(code, reason, &refusal.message, refusal.reason.is_retryable(), refusal.retry_after_ms);
    // In whole seconds (RFC 9110, 10.2.3), not less than it takes.
    let after_s = refusal.retry_after_ms.map(|ms| ms.div_ceil(1000).to_string());
    let mut headers = Vec::new();
    if let Some(after_s) = &after_s {
        headers.push(("Retry-After", after_s.as_str()));
    }
    if code == 401 {
        headers.push(("WWW-Authenticate", "Bearer")); // RFC 9110, 11.6.1
    }
    put_error(out, &Reply { headers: &headers, ..*reply }, code, &body);
}

/// The JSON of an error, the same as on any other transport.
fn error_body(
    status: u16,
    reason: &str,
    message: &str,
    retryable: bool,
    retry_after_ms: Option<u64>,
) -> Vec<u8> {
    let mut body = Vec::new();
    let error = Error { id: None, code: status, reason, message, retryable, retry_after_ms };
    json::write(&Event::Error(error), &mut body);
    body
}

fn reason_of(status: u16) -> &'static str {
    match status {
        403 => Reason::Forbidden.as_str(),
        404 => Reason::NotFound.as_str(),
        413 => Reason::TooLarge.as_str(),
        503 => Reason::Unavailable.as_str(),
        _ => Reason::BadRequest.as_str(),
    }
}
