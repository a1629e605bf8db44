//! The life of each connection in the log, at level debug: who came, what it speaks, who it is, what it was refused, why and when it ended.
//!
//! Every line has the connection's name in the field `conn`, so that looking for one name finds one life. All lines are written here, so
//! that the level of this one module decides whether they are. While it is above debug nothing of them is made. No line has what
//! somebody says, or shows to be let in: see `tests/e2e/test_logs.py`.

use super::Shard;
use super::closing::{Closing, Kind};
use super::connection::{Connection, Life, Protocol};
use super::mail::ConnectionRef;
use crate::base::slots::Id;
use crate::chat::refusal::Refusal;

impl Shard {
    /// The name of a connection, or of a call.
    pub(super) fn name_of(&self, id: Id) -> ConnectionRef {
        ConnectionRef { core: self.core, connection: id }
    }

    /// A peer has connected: a proxy, if it has to tell for whom.
    pub(super) fn log_accepted(&mut self, id: Id) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        self.connections[id].life =
            Some(Box::new(Life { began_at: self.now.tick, received_bytes: 0, sent_bytes: 0 }));
        let Connection { peer, kind, .. } = &self.connections[id];
        log::debug!(conn:% = self.name_of(id), peer:% = peer, listener = kind.word(); "accepted");
    }

    /// A proxy has told for whom a connection is.
    pub(super) fn log_introduced(&self, id: Id) {
        log::debug!(conn:% = self.name_of(id), peer:% = self.connections[id].peer; "introduced");
    }

    /// The handshake of TLS is over.
    pub(super) fn log_secured(&self, id: Id) {
        log::debug!(conn:% = self.name_of(id); "encrypted");
    }

    /// It is known what a connection speaks, or it speaks something else from now on.
    pub(super) fn log_protocol(&self, id: Id) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let Some(connection) = self.connections.get(id) else { return };
        let protocol = match &connection.protocol {
            Protocol::Text(_) => "text_lines",
            Protocol::JsonLines(_) => "json_lines",
            Protocol::Frames(_) => "frames",
            Protocol::Http(_) => "http",
            Protocol::WebSocket(_) => "websocket",
            Protocol::Echo(_) => "echo",
            Protocol::Watch(_) => "dashboard",
            Protocol::EventStream(_) => "event_stream",
            Protocol::Http2(_) => "http2",
            Protocol::Messages(_) => "grpc",
            Protocol::Detect | Protocol::Ended => return,
        };
        log::debug!(conn:% = self.name_of(id), protocol; "speaks");
    }

    /// A call has begun on a connection of HTTP/2: it has a life of its own.
    pub(super) fn log_call(&self, id: Id, on: Id, method: &str) {
        log::debug!(conn:% = self.name_of(id), on:% = self.name_of(on), method; "call begun");
    }

    /// A connection has a session from now on: a new one, or one that goes on.
    pub(super) fn log_welcome(&self, session: Id, resumed: bool) {
        let session = &self.sessions[session];
        let (Some(id), Some(nickname)) = (session.connection, &session.nickname) else { return };
        log::debug!(
            conn:% = self.name_of(id),
            session:% = format_args!("{:016x}", session.number),
            nickname = nickname.as_str(),
            resumed;
            "welcomed"
        );
    }

    /// A command is refused. Without the words of the refusal, which may quote it.
    pub(super) fn log_refused(&self, id: Id, refusal: &Refusal) {
        let (code, reason) = (refusal.reason.code(), refusal.reason.as_str());
        log::debug!(conn:% = self.name_of(id), code, reason; "refused");
    }

    /// What came is not what the connection speaks.
    pub(super) fn log_violation(&self, id: Id, why: &str) {
        log::debug!(conn:% = self.name_of(id), why; "not understood");
    }

    /// Nothing is heard or queued on a connection any more.
    pub(super) fn log_closing(&self, id: Id, closing: &Closing) {
        let (conn, reason) = (self.name_of(id), closing.kind().as_str());
        match closing {
            Closing::PeerClosed(Some(code)) => log::debug!(conn:%, reason, code; "closing"),
            Closing::Violation(violation) => {
                log::debug!(conn:%, reason, code = violation.code, why = violation.why; "closing");
            }
            _ => log::debug!(conn:%, reason; "closing"),
        }
    }

    /// A connection, or a call, is no more.
    pub(super) fn log_closed(&self, id: Id, connection: &Connection) {
        let (conn, cut_off) = (self.name_of(id), connection.is_cut_off);
        let reason = connection.ends_for.map_or("none", Kind::as_str);
        match &connection.life {
            Some(life) => {
                let Life { began_at, received_bytes, sent_bytes } = **life;
                let lived_ms = self.now.tick.since(began_at);
                log::debug!(conn:%, reason, cut_off, received_bytes, sent_bytes, lived_ms; "closed");
            }
            None => log::debug!(conn:%, reason, cut_off; "closed"),
        }
    }
}
