//! How an HTTP request becomes a WebSocket, or why it does not.

use super::Shard;
use super::commands::Asked;
use super::connection::{Pause, Protocol};
use super::deflate;
use super::encode::Encoding;
use super::http::What;
use super::limits::Cost;
use super::session::Then;
use crate::base::slots::Id;
use crate::base::stats;
use crate::chat::refusal::Refusal;
use crate::proto::http1::{self, Head};
use crate::proto::websocket::extension::{Agreement, Offer};
use crate::proto::websocket::{self, handshake};
use crate::web::Route;

/// The subprotocol of JSON text frames.
const JSON_PROTOCOL: &str = "starling.json.v1";

/// The subprotocol of Protobuf binary frames.
const PROTOBUF_PROTOCOL: &str = "starling.proto.v1";

/// How many fragments a message of the chat may come in: generous for a client that streams, and a bound on the work
/// that empty ones can make.
const CHAT_FRAGMENTS_MAX: u32 = 4096;

/// A request to become a WebSocket that has not been answered.
#[derive(Debug)]
pub struct PendingUpgrade {
    pub(super) key: String,
    protocol: Option<&'static str>,
    request_id: String,
    began_ns: u64,
    /// The compression that was offered, until it is decided on.
    pub(super) offer: Option<Offer>,
    pub(super) agreement: Option<Agreement>,
}

impl PendingUpgrade {
    /// How the WebSocket will want its events. No subprotocol, or only unknown ones, means JSON.
    pub(super) fn encoding(&self) -> Encoding {
        let encoding = match self.protocol {
            Some(PROTOBUF_PROTOCOL) => Encoding::ProtobufMessage,
            _ => Encoding::JsonMessage,
        };
        deflate::encoding_of(self.agreement.as_ref(), encoding)
    }
}

/// The hello that a WebSocket request says in its query.
#[derive(Debug, Default)]
pub(super) struct Hello {
    nickname: Option<String>,
    token: Option<String>,
    room: Option<String>,
}

impl Shard {
    pub(super) fn consider_upgrade(&self, id: Id, head: &Head, request_id: &str, route: Route) -> What {
        if !self.is_origin_allowed(head, self.connections.get(id).is_some_and(|c| c.is_secure())) {
            return What::error(403, "this origin may not connect");
        }
        let upgrade = match handshake::upgrade(head) {
            Ok(upgrade) => upgrade,
            Err(refusal) => {
                let headers = refusal.headers.to_vec();
                return What::Error { status: refusal.status, message: refusal.message, headers };
            }
        };
        let offer = match self.config.web.deflate.then(|| upgrade.deflate()).transpose() {
            Ok(offer) => offer.flatten(),
            Err(refusal) => return What::error(refusal.status, refusal.message),
        };
        if route == Route::Echo {
            return What::Echo { key: upgrade.key.to_owned(), deflate: offer };
        }
        let Some(query) = http1::query_pairs(head.query.unwrap_or_default()) else {
            return What::error(400, "the query is not well formed");
        };
        let mut hello = Hello::default();
        for (name, value) in query {
            match name.as_str() {
                "nickname" => hello.nickname = Some(value),
                "token" => hello.token = Some(value),
                "room" => hello.room = Some(value),
                _ => {}
            }
        }
        let says_hello = hello.nickname.is_some() || hello.token.is_some();
        if hello.room.is_some() && !says_hello {
            return What::error(400, "a room in the query needs a nickname or token beside it");
        }
        let pending = PendingUpgrade {
            key: upgrade.key.to_owned(),
            // A subprotocol may be named only if it was offered (RFC 6455, 4.2.2); JSON is spoken all the same.
            protocol: upgrade.protocols().find_map(|offered| {
                [JSON_PROTOCOL, PROTOBUF_PROTOCOL].into_iter().find(|own| *own == offered)
            }),
            request_id: request_id.to_owned(),
            began_ns: self.now.ns,
            offer,
            agreement: None,
        };
        if let Err(refusal) = self.check_query(&hello, says_hello) {
            return What::Refusal(refusal);
        }
        What::Chat(Box::new(pending), says_hello.then_some(hello))
    }

    fn check_query(&self, hello: &Hello, says_hello: bool) -> Result<(), Refusal> {
        if says_hello {
            self.identify(hello.nickname.as_deref(), hello.token.as_deref(), None)?;
        }
        if let Some(room) = &hello.room {
            super::commands::parse_room(room)?;
        }
        Ok(())
    }

    /// A page may connect to the server that it came from, or if it is configured. Who is no page has no origin.
    pub(super) fn is_origin_allowed(&self, head: &Head, is_secure: bool) -> bool {
        let Some(origin) = head.origin else { return true };
        let is_own = is_own_origin(origin, head, is_secure);
        is_own || self.config.web.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    pub(super) fn hello_by_query(&mut self, id: Id, mut pending: Box<PendingUpgrade>, hello: &Hello) {
        let joins = u64::from(hello.room.is_some());
        // As much as the same commands cost on their own. The rest was checked when the head was read, and nothing has changed
        // since but perhaps that the server drains.
        let charged = self.charge(id, Cost { commands: 1 + joins, of_user: 0, bytes: 0, joins }, None);
        let who =
            charged.and_then(|()| self.identify(hello.nickname.as_deref(), hello.token.as_deref(), None));
        match who {
            Ok(who) => {
                let room = hello.room.as_deref().and_then(|room| super::commands::parse_room(room).ok());
                pending.agreement = self.agree_on_deflate(id, pending.offer);
                let asked = Asked { by: id, id: None, encoding: pending.encoding(), bytes: 0 };
                self.hello(asked, who, Then { room, upgrade: Some(pending) });
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.pause = Some(Pause::Reply);
                }
            }
            Err(refusal) => {
                self.answer_refused(id, &pending, &refusal);
            }
        }
    }

    /// All that the query of a WebSocket request asked for has been done: it becomes one.
    pub(super) fn finish_upgrade(&mut self, id: Id, pending: &PendingUpgrade) {
        self.note_answered(id, Some(&pending.request_id), stats::GET, 101, pending.began_ns);
        self.say_switching(id, pending);
        let protocol = self.chat_protocol(pending);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.protocol = protocol;
            connection.encoding = pending.encoding();
        }
        self.log_protocol(id);
        self.arm(id); // the heartbeat may be due before the next look at what was an HTTP connection
    }

    /// The query of a WebSocket request asked for something that is refused: the request is answered so, and the
    /// connection is ready for another.
    pub(super) fn refuse_upgrade(&mut self, id: Id, pending: &PendingUpgrade, refusal: &Refusal) {
        self.scratch.deflaters.forget(id);
        self.answer_refused(id, pending, refusal);
        self.let_go_on(id);
    }

    fn answer_refused(&mut self, id: Id, pending: &PendingUpgrade, refusal: &Refusal) {
        let code = refusal.reason.code();
        self.note_answered(id, Some(&pending.request_id), stats::GET, code, pending.began_ns);
        self.say_http_refusal(id, &pending.request_id, refusal.clone());
    }

    pub(super) fn say_switching(&mut self, id: Id, pending: &PendingUpgrade) {
        self.say_raw(id, |out| {
            let PendingUpgrade { key, protocol, request_id, agreement, .. } = pending;
            handshake::put_response(out, key, *protocol, agreement.as_ref(), Some(request_id));
        });
        if let Some(connection) = self.connections.get_mut(id) {
            connection.http_bytes = u32::try_from(connection.queue.bytes()).unwrap_or(u32::MAX);
        }
    }

    pub(super) fn chat_protocol(&self, pending: &PendingUpgrade) -> Protocol {
        let decoder = websocket::Decoder::new(self.limits.inbound_bytes, CHAT_FRAGMENTS_MAX);
        Protocol::WebSocket(with_deflate(decoder, pending.agreement.as_ref()))
    }
}

pub(super) fn with_deflate(decoder: websocket::Decoder, agreement: Option<&Agreement>) -> websocket::Decoder {
    if agreement.is_some() { decoder.with_deflate() } else { decoder }
}

/// Whether a page comes from this server, as its browser sees it.
pub(super) fn is_own_origin(origin: &str, head: &Head, is_secure: bool) -> bool {
    head.host.is_some_and(|host| {
        let (origin, host) = (origin.to_ascii_lowercase(), host.to_ascii_lowercase());
        let (scheme, default_port) = if is_secure { ("https://", ":443") } else { ("http://", ":80") };
        let without_default_port = host.strip_suffix(default_port).unwrap_or(&host);
        origin.strip_prefix(scheme).is_some_and(|origin| origin == host || origin == without_default_port)
    })
}
