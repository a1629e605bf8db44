//! Encrypted connections: what steps 6 and 8 of the turn do where TLS stands between the socket and the world.
//!
//! # Reading
//!
//! One read of the socket goes into the core's buffer for ciphertext, and all that it says into the other, which has place for it. So
//! nothing that a world would want waits inside of a [`Tls`], and what holds of plain connections holds here: whatever is unread
//! is in the socket, and the link's `readable` bit tells of it.
//!
//! # Writing
//!
//! One record at a time is encrypted ahead of what the socket takes. What the world was told as sent may wait there: so the
//! world is asked whether it has said all, and its end is said behind that (`close_notify`), before the loop tells it that
//! everything is out. A connection that was spoiled says its alert in the same way.
//!
//! # Handshakes
//!
//! A step is what makes this end compute with public keys: a read that something is to be answered to. A turn has time for so many
//! of them; the connections that it had no time for stand in a queue of their own, before all others of the next turn.

use std::io::{self, ErrorKind, IoSlice, Write};

use super::os::Os;
use super::turn::{Link, Reactor, enqueue, link_mut};
use super::world::World;
use crate::base::slots::Id;

/// How many ranges are encrypted at a time.
const SLICES: usize = 64;

impl<O: Os, W: World> Reactor<O, W> {
    /// The handshakes that the last turn had no time for.
    pub(super) fn run_handshakes(&mut self) {
        self.handshake_steps = self.limits.tls_handshakes_per_turn;
        for _ in 0..self.handshakes.len() {
            if self.handshake_steps == 0 {
                break;
            }
            let id = self.handshakes.pop_front().expect("counted before");
            let Some(link) = link_mut(&mut self.links, id) else { continue };
            link.is_queued = false;
            self.run_secure_connection(id);
        }
    }

    pub(super) fn run_secure_connection(&mut self, id: Id) {
        let mut budget = self.limits.read_bytes_per_turn;
        while self.world.wants_input(id) {
            let Some(link) = link_mut(&mut self.links, id).filter(|link| link.readable) else { return };
            let Some(tls) = &mut link.tls else { return };
            if tls.is_handshaking() && self.handshake_steps == 0 {
                self.world.counters().tls_handshakes_put_off.add(1);
                if !std::mem::replace(&mut link.is_queued, true) {
                    self.handshakes.push_back(id);
                }
                return;
            }
            if budget == 0 {
                enqueue(&mut self.run_queue, link);
                self.world.counters().reads_put_off.add(1);
                return;
            }
            match self.os.read(&mut link.socket, &mut self.ciphertext) {
                Ok(0) => {
                    link.readable = false;
                    let is_secure = !tls.is_handshaking();
                    self.end_secure_input(id, is_secure);
                }
                Ok(bytes) => {
                    // As on plain connections: see `run_connection`.
                    if bytes < self.ciphertext.len() && !link.read_closed {
                        link.readable = false;
                    }
                    budget = budget.saturating_sub(bytes);
                    self.take_ciphertext(id, bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => link.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    link.readable = false;
                    self.world.broken(id);
                }
            }
        }
    }

    /// Decrypts what has been read.
    pub(super) fn take_ciphertext(&mut self, id: Id, bytes: usize) {
        let Some(link) = link_mut(&mut self.links, id) else { return };
        let Some(tls) = &mut link.tls else { return };
        if tls.failure().is_some() || tls.has_said_end() {
            return; // nothing is answered any more; it is read so that what was said last arrives
        }
        let was_handshaking = tls.is_handshaking();
        let plain = tls.decrypt(&self.ciphertext[..bytes], &mut self.buffer);
        let (has_output, is_handshaking, has_heard_end) =
            (tls.has_output(), tls.is_handshaking(), tls.has_heard_end());
        let failure = tls.failure().cloned();
        if has_output {
            self.to_flush.push(id);
        }
        if was_handshaking {
            let is_step = has_output || !is_handshaking || failure.is_some();
            // What came together with a proxy's header is looked at whatever is left.
            self.handshake_steps = self.handshake_steps.saturating_sub(usize::from(is_step));
            if !is_handshaking {
                let counters = self.world.counters();
                counters.tls_handshakes.add(1);
                counters.tls_resumed.add(u64::from(tls.is_resumed()));
                self.world.secured(id);
                self.to_flush.push(id); // what was queued meanwhile can be said now
            }
        }
        match plain {
            0 => self.world.heard(id), // a part of something
            _ => {
                self.world.receive(id, &mut self.buffer[..plain]);
                self.settle();
            }
        }
        if let Some(failure) = failure {
            log::debug!(conn:% = self.name_of(id), why:% = failure; "TLS has failed");
            self.world.counters().tls_failures.add(1);
            self.world.spoiled(id);
        } else if has_heard_end {
            self.world.input_ended(id);
        }
    }

    /// The peer has ended its side of the socket, without having ended that of TLS.
    fn end_secure_input(&mut self, id: Id, is_secure: bool) {
        if is_secure {
            return self.world.input_torn(id);
        }
        // It will not come to the point where something could be said.
        self.world.counters().tls_unfinished.add(1);
        self.world.broken(id);
    }

    /// Writes what an encrypted connection has to say.
    pub(super) fn flush_secure_connection(&mut self, id: Id) {
        let Some(link) = link_mut(&mut self.links, id) else { return };
        if write_secure(&mut self.os, &mut self.world, link).is_err() {
            return self.world.broken(id);
        }
        let Some(tls) = link.tls.as_mut().filter(|tls| tls.is_output_over || !tls.has_output()) else {
            // Part of what was told as sent waits here. The world may still look at what waits there.
            if !self.world.has_said_all(id) && link.tls.as_ref().is_some_and(|tls| !tls.is_handshaking()) {
                let _ = self.world.flushed(id);
            }
            return;
        };
        let is_said = tls.has_said_end() || !self.world.has_said_all(id);
        if is_said && (!tls.is_handshaking() || tls.has_said_end()) && self.world.flushed(id) {
            let Some(link) = link_mut(&mut self.links, id) else { return };
            link.tls.as_mut().expect("looked at above").is_output_over = true;
            // Fails only if the peer has reset the connection, which the next read will tell.
            let _ = self.os.end_output(&mut link.socket);
        }
    }

    /// Whether what is queued on a connection could be written, as far as its handshake has come. For the simulator.
    pub fn may_speak(&self, id: Id) -> bool {
        let link = self.links.get(id.index as usize).and_then(Option::as_ref).filter(|link| link.id == id);
        let tls = link.and_then(|link| link.tls.as_ref());
        tls.is_none_or(|tls| !tls.is_handshaking() && !tls.has_said_end())
    }
}

/// Encrypts and writes until there is nothing more, or the socket takes nothing more.
fn write_secure<O: Os, W: World>(os: &mut O, world: &mut W, link: &mut Link<O::Socket>) -> io::Result<()> {
    let Some(tls) = &mut link.tls else { return Ok(()) };
    while link.writable && !tls.is_output_over {
        if tls.has_output() {
            let mut outlet = Outlet { os, socket: &mut link.socket, is_full: false };
            match tls.write_output(&mut outlet) {
                Ok(_) => link.writable = !outlet.is_full,
                Err(error) if error.kind() == ErrorKind::WouldBlock => link.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        } else if world.has_said_all(link.id) {
            if tls.has_said_end() {
                break;
            }
            tls.say_end();
        } else if tls.is_handshaking() {
            break;
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = world.gather(link.id, &mut slices);
            if filled == 0 {
                break;
            }
            let taken = tls.encrypt(&slices[..filled]);
            world.sent(link.id, taken);
            if taken == 0 {
                break; // a connection that has failed takes nothing
            }
        }
    }
    Ok(())
}

/// The socket, for TLS to write to.
struct Outlet<'a, O: Os> {
    os: &'a mut O,
    socket: &'a mut O::Socket,
    /// Whether it has taken less than it was given: the edge comes when it has drained.
    is_full: bool,
}

impl<O: Os> Write for Outlet<'_, O> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = self.os.write(self.socket, slices)?;
        self.is_full = written < wanted;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
