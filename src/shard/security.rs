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
        self.arm(id);
        id
    }

    /// The proxy has told for whom: from now on they are as if they had connected themselves.
    pub fn introduced(&mut self, id: Id, client: IpAddr) {
        let now = self.now.tick;
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        connection.security = Security::Plain;
        connection.peer = client;
        (connection.awaited_since, connection.last_seen) = (now, now);
        if let Protocol::Http(http) = &mut connection.protocol {
            http.restart(now);
        }
        self.let_in(id, client);
        self.arm(id);
        self.settle();
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
        let now = self.now.tick;
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.security = Security::Secure;
        (connection.awaited_since, connection.last_seen) = (now, now);
        if let Protocol::Http(http) = &mut connection.protocol {
            http.restart(now);
        }
        self.arm(id);
    }

    /// Something has come from a peer, which so is alive, if it is not known yet what it says.
    pub fn heard(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.last_seen = self.now.tick;
            connection.probed_at = None;
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
