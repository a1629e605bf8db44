//! Step 7 of the turn: new connections, those that come and those that the world wants made.

use std::io::ErrorKind;

use super::os::Os;
use super::stall::Step;
use super::turn::Reactor;
use super::world::World;
use crate::base::time::Tick;
use crate::config::{ListenKind, Networks};
use crate::tls::{ServerSettings, Tls};

/// What clients find at a listener.
#[derive(Debug, Clone)]
pub struct Door {
    /// What is spoken there.
    pub kind: ListenKind,
    /// What its connections are made from, if it is encrypted.
    pub tls: Option<ServerSettings>,
    /// The proxies that alone may connect, and tell for whom they do, if it is for proxies.
    pub proxies: Option<Networks>,
    /// Whether it stays open when this process has ended: who comes when the others have been told to go waits there for the next one.
    pub outlives_us: bool,
}

impl From<ListenKind> for Door {
    /// One that is not encrypted.
    fn from(kind: ListenKind) -> Self {
        Door { kind, tls: None, proxies: None, outlives_us: false }
    }
}

/// What the kernel has said about a listener.
#[derive(Debug)]
pub struct Listening {
    door: Door,
    /// Whether there may be connections to accept.
    pub is_ready: bool,
    /// When to try again after accept has failed. An edge-triggered listener stays silent until another client comes,
    /// so the ones that wait already would wait for ever.
    retry_at: Option<Tick>,
    /// Whether the last accept failed: told once, not at every try.
    is_failing: bool,
    /// Whether somebody who is no proxy has come to a listener for proxies: told once, because there is no end of them.
    has_told_stranger: bool,
}

impl Listening {
    /// A listener of which nothing is known. Clients may have come before it was registered, so it counts as ready.
    pub fn new(door: Door) -> Self {
        Listening { door, is_ready: true, retry_at: None, is_failing: false, has_told_stranger: false }
    }
}

impl<O: Os, W: World> Reactor<O, W> {
    /// Accepts from each listener in turn, up to a budget, and backs off where the system has run out of something.
    pub(super) fn accept_connections(&mut self) {
        if self.has_ready_listener() {
            self.begin_step(Step::Accept);
        }
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.door.outlives_us && self.world.is_leaving() {
                (listener.is_ready, listener.retry_at) = (false, None);
                continue;
            }
            if listener.retry_at.is_some_and(|at| at <= self.now) {
                listener.retry_at = None;
                listener.is_ready = true;
            }
            for _ in 0..self.limits.accepts_per_turn {
                if !self.listeners[index].is_ready || self.listeners[index].retry_at.is_some() {
                    break;
                }
                self.accept_one(index);
            }
        }
    }

    fn accept_one(&mut self, index: usize) {
        match self.os.accept(index) {
            Ok(None) => {
                self.listeners[index].is_failing = false;
                self.world.counters().handed_on.add(1);
            }
            Ok(Some((socket, peer))) => {
                let listener = &mut self.listeners[index];
                listener.is_failing = false;
                let kind = listener.door.kind;
                // Those of the moment: they may have been read again since the last client came.
                let settings = listener.door.tls.as_ref().map(|settings| settings.load_full());
                let proxies = listener.door.proxies.as_ref();
                let (is_proxied, is_stranger) =
                    (proxies.is_some(), proxies.is_some_and(|proxies| !proxies.contain(peer)));
                self.world.counters().accepted.add(1);
                if is_stranger {
                    // There is no telling whose words these are, nor in which language to refuse them.
                    let level = match std::mem::replace(&mut listener.has_told_stranger, true) {
                        false => log::Level::Warn,
                        true => log::Level::Debug,
                    };
                    log::log!(level, "{peer} is not among the proxies of the {} listener", kind.word());
                    self.world.counters().proxy_strangers.add(1);
                    return self.os.close(socket);
                }
                let is_path = self.os.is_path(index);
                self.take_in(socket, peer, kind, settings, is_proxied, is_path);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => self.listeners[index].is_ready = false,
                // The client has gone, or a signal came: the next one may be there.
                ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted => {}
                _ => {
                    // EMFILE, ENFILE, ENOBUFS, ENOMEM: no descriptor or memory until somebody goes.
                    self.world.counters().accept_backoffs.add(1);
                    let retry_ms = self.limits.accept_backoff_ms;
                    let listener = &mut self.listeners[index];
                    if !std::mem::replace(&mut listener.is_failing, true) {
                        log::warn!("accept failed, trying again every {retry_ms} ms: {error}");
                    }
                    listener.retry_at = Some(self.now + retry_ms);
                }
            },
        }
    }

    /// Begins as many connections as one turn accepts. Each is written to when the kernel says that it can be: that is when
    /// it is there. One that fails is read to its error, as any other.
    pub(super) fn make_connections(&mut self) {
        for _ in 0..self.limits.accepts_per_turn {
            let Some(connect) = self.world.next_connect() else { return };
            match self.os.connect(connect.to, connect.from) {
                Ok(socket) => {
                    let tls = self.client_settings.as_ref().map(Tls::connect);
                    self.link(connect.id, socket, false, tls);
                }
                Err(error) => {
                    log::debug!("cannot connect to {}: {error}", connect.to);
                    self.world.broken(connect.id);
                }
            }
        }
    }

    /// When a listener that failed is tried again.
    pub(super) fn accept_retry_at(&self) -> Option<Tick> {
        self.listeners.iter().filter_map(|listener| listener.retry_at).min()
    }

    /// Whether a listener had more clients than one turn accepts.
    pub(super) fn has_ready_listener(&self) -> bool {
        self.listeners.iter().any(|listener| listener.is_ready && listener.retry_at.is_none())
    }
}
