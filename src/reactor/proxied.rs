//! Connections that a proxy makes for somebody else: what it says of that comes before everything, TLS included, and until it has
//! come the world knows nothing but that there is a connection.

use std::io::ErrorKind;
use std::net::IpAddr;

use super::os::Os;
use super::turn::{Reactor, enqueue, link_mut};
use super::world::World;
use crate::base::slots::Id;
use crate::proxy::{Decoder, Source};

/// What stands before a connection's first words.
#[derive(Debug)]
pub(super) struct Announcement {
    decoder: Decoder,
    /// The proxy.
    from: IpAddr,
}

impl Announcement {
    pub fn new(from: IpAddr) -> Self {
        Announcement { decoder: Decoder::default(), from }
    }
}

impl<O: Os, W: World> Reactor<O, W> {
    /// Reads what a proxy says, and hands on what comes behind it.
    pub(super) fn run_announcement(&mut self, id: Id) {
        while self.world.wants_input(id) {
            let Some(link) = link_mut(&mut self.links, id).filter(|link| link.readable) else { return };
            let Some(announcement) = &mut link.announcement else {
                return enqueue(&mut self.run_queue, link); // it is known now, and there may be more to read
            };
            let bytes = match self.os.read(&mut link.socket, &mut self.buffer) {
                Ok(0) => {
                    self.world.counters().proxy_violations.add(1);
                    return self.world.broken(id);
                }
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    link.readable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.world.broken(id),
            };
            match announcement.decoder.decode(&self.buffer[..bytes]) {
                Ok((_, None)) => {}
                Ok((taken, Some(source))) => {
                    let client = match source {
                        Source::Client(client) => client,
                        Source::Proxy => announcement.from,
                    };
                    link.announcement = None;
                    let is_secure = link.tls.is_some();
                    self.introduce(id, client, is_secure, taken..bytes);
                }
                Err(_) => {
                    let proxy = announcement.from;
                    log::debug!(conn:% = self.name_of(id), peer:% = proxy; "no PROXY header");
                    self.world.counters().proxy_violations.add(1);
                    return self.world.broken(id);
                }
            }
        }
    }

    /// It is known for whom a connection is; what lies in this place of the buffer was said behind that.
    fn introduce(&mut self, id: Id, client: IpAddr, is_secure: bool, rest: std::ops::Range<usize>) {
        self.world.introduced(id, client);
        if is_secure {
            self.world.securing(id);
        }
        if rest.is_empty() || !self.world.wants_input(id) {
            return;
        }
        if is_secure {
            let bytes = rest.len();
            self.ciphertext[..bytes].copy_from_slice(&self.buffer[rest]);
            self.take_ciphertext(id, bytes);
        } else {
            self.world.receive(id, &mut self.buffer[rest]);
            self.settle();
        }
    }
}
