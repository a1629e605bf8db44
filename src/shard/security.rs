//! What encryption changes for a connection: it takes a while before anything can be said, it can fail in ways of its own, and a page
//! that comes by it has another origin. And proxies, which say something before that.

use std::net::IpAddr;

use super::Shard;
use super::closing::Closing;
use super::connection::{Protocol, Security, Stage};
use crate::base::slots::Id;
use crate::config::ListenKind;

impl Shard {
    /// A proxy has connected for somebody else. Nothing is known of them, and so nothing is counted or limited yet.
    pub fn open_for_another(&mut self, proxy: IpAddr, kind: ListenKind) -> Id {
        let id = self.insert_connection(proxy, kind);
        self.connections[id].security = Security::Announced;
        self.connections[id].is_indirect = true;
        self.log_accepted(id);
        self.arm(id);
        id
    }

    /// The proxy has told for whom: from now on they are as if they had connected themselves.
    pub fn introduced(&mut self, id: Id, client: IpAddr) {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        connection.peer = client;
        self.log_introduced(id);
        self.begin_waiting(id, Security::Plain);
        self.let_in(id, client);
        self.settle();
    }

    /// A connection that has just been opened came by a path: it may be a proxy's, whoever that speaks for.
    pub fn indirect(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.is_indirect = true;
        }
    }

    /// A connection that has just been opened is encrypted, and its handshake begins.
    pub fn securing(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.security = Security::Handshaking;
            self.arm(id);
        }
    }

    /// The handshake is over: whoever is awaited has its time from now on.
    pub fn secured(&mut self, id: Id) {
        self.log_secured(id);
        self.begin_waiting(id, Security::Secure);
    }

    /// Whatever a peer is to say first is waited for from now on.
    fn begin_waiting(&mut self, id: Id, security: Security) {
        let now = self.now.tick;
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.security = security;
        (connection.awaited_since, connection.last_seen) = (now, now);
        if let Protocol::Http(http) = &mut connection.protocol {
            http.restart(now);
        }
        self.arm(id);
    }

    /// A part of something has come from a peer, which so is alive. It may be what any of its calls says.
    pub fn heard(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.note_sign_of_life(self.now.tick);
            self.note_signs_of_life(id);
        }
    }

    /// What comes cannot be understood any more, and nothing can be said.
    pub fn spoiled(&mut self, id: Id) {
        self.close(id, Closing::Spoiled);
        // Nor in a connection that was about to end.
        if let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage != Stage::Closed) {
            self.pool.clear(&mut connection.queue);
            self.touch(id);
        }
        self.settle();
    }

    /// The peer has ended its side without saying so. What looks like its last line may be a part of it.
    pub fn input_torn(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.security = Security::Torn;
        }
        self.input_ended(id);
    }

    /// Whether all that will ever be said on a connection has been written.
    pub fn has_said_all(&self, id: Id) -> bool {
        let connection = self.connections.get(id);
        connection.is_some_and(|c| matches!(c.stage, Stage::Flushing(_)) && c.queue.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::census::Census;
    use crate::base::time::{Now, Tick};
    use crate::config::Config;
    use crate::shard::Flock;

    /// What begins a connection of HTTP/2 (RFC 9113, 3.4), and on it a call of `chat.ChatService/Connect` (literals without
    /// indexing, RFC 7541, 6.2.2).
    fn call() -> Vec<u8> {
        let mut fields = vec![0x83, 0x86]; // POST, http
        for (name, value) in [
            (&b"\x04"[..], "/chat.ChatService/Connect"),
            (b"\x01", "chat.example"),
            (b"\x0f\x10", "application/grpc"),
        ] {
            fields.extend_from_slice(name);
            fields.push(value.len() as u8);
            fields.extend_from_slice(value.as_bytes());
        }
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        out.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
        out.extend([0, 0, fields.len() as u8, 1, 4, 0, 0, 0, 1]); // HEADERS, with END_HEADERS
        out.extend(fields);
        out
    }

    #[test]
    fn a_part_of_a_record_is_a_sign_of_life_of_the_calls_too() {
        let flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Grpc);
        shard.securing(id);
        shard.secured(id);
        shard.receive(id, &mut call());
        let call = shard.calls[&id][0];
        shard.connections[call].probed_at = Some(Tick::default());
        let later = Tick::default() + 5;
        shard.tick(Now::of_ms(later.0, 0));
        shard.heard(id);
        for id in [id, call] {
            let connection = &shard.connections[id];
            assert_eq!((connection.last_seen, connection.probed_at), (later, None));
        }
    }
}
