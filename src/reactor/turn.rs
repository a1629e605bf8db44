//! The turn.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;

use super::accept::{Door, Listening};
use super::mailbox::Exchange;
use super::os::{Event, Os, Source};
use super::proxied::Announcement;
use super::stall::{Stalls, Step};
use super::world::World;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::config::{Limits, ListenKind};
use crate::shard::Shard;
use crate::shard::mail::{ConnectionRef, Parcel};
use crate::tls::{ClientSettings, INPUT_OVERHEAD, Tls};

/// How many ranges the first `writev` of a flush takes, and how many each further one. The second is larger than the number of
/// rooms that a connection commonly hears from in one turn, and small enough for the stack; the kernel's own bound is 1,024
/// (IOV_MAX).
const FEW_SLICES: usize = 8;
const SLICES: usize = 128;

/// How soon mail is offered again to a mailbox that was full. Its owner is busy, and will not ring when it has room.
const FULL_MAILBOX_RETRY_MS: u64 = 1;

/// How long mail is offered to a full mailbox when all else is over.
const LAST_MAIL_MS: u64 = 1000;

/// For how long one turn closes sockets, in nanoseconds: everybody else waits meanwhile.
const CLOSING_NS: u64 = 1_000_000;

/// One core: its connections' sockets, and the loop that serves them.
pub struct Reactor<O: Os, W: World = Shard> {
    pub(super) core: usize,
    pub(super) os: O,
    pub(super) world: W,
    pub(super) limits: Limits,
    /// Whether the loop polls without sleeping.
    spins: bool,
    pub(super) now: Tick,
    /// When the turn began, in nanoseconds.
    began_ns: u64,
    /// How long its steps take.
    pub(super) stalls: Stalls,
    /// The sockets, by the index of the connection's Id.
    pub(super) links: Vec<Option<Link<O::Socket>>>,
    pub(super) listeners: Vec<Listening>,
    /// Connections that may have input to read.
    pub(super) run_queue: VecDeque<Id>,
    /// Connections whose handshake has a step to make for which the turn had no time left, in order.
    pub(super) handshakes: VecDeque<Id>,
    /// How many more steps this turn has time for.
    pub(super) handshake_steps: usize,
    /// What connections are made from that the world wants to have, if they are to be encrypted.
    pub(super) client_settings: Option<ClientSettings>,
    events: Vec<Event>,
    /// Input is read into this one buffer and decoded there: a connection at rest owns none.
    pub(super) buffer: Box<[u8]>,
    /// Where any connection is encrypted, its input is read into this one, and decrypted into the other.
    pub(super) ciphertext: Box<[u8]>,
    pub(super) to_flush: Vec<Id>,
    /// Sockets of connections that are over, and whether what the kernel has not sent goes with them.
    to_close: VecDeque<(O::Socket, bool)>,
    exchange: Arc<Exchange<Parcel<W::Mail>>>,
    /// Mail for each core that found its mailbox full.
    kept: Vec<Option<Parcel<W::Mail>>>,
    has_kept: bool,
    /// Whether this core has nothing left to do, and waits for the others.
    is_at_rest: bool,
    /// Since when there need not be another turn but for mail that has no place.
    stuck_since: Option<Tick>,
    /// Whether something that was announced had no place in the journal yet.
    is_journal_behind: bool,
}

/// A connection's socket, and what the kernel has said about it.
pub(super) struct Link<S> {
    pub(super) id: Id,
    pub(super) socket: S,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) read_closed: bool,
    /// Whether it is in the run queue, or in that of handshakes.
    pub(super) is_queued: bool,
    /// What stands between the socket and the world, if it is encrypted.
    pub(super) tls: Option<Box<Tls>>,
    /// What a proxy says first, until it has.
    pub(super) announcement: Option<Box<Announcement>>,
}

/// Bytes that a loop has for one connection with a socket of this type.
pub const fn link_bytes<S>() -> usize {
    size_of::<Option<Link<S>>>()
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There will be another.
    Done,
    /// There need not be another: the server has drained.
    Over,
}

impl<O: Os, W: World> Reactor<O, W> {
    /// A core with its listeners, in the order of their numbers in `os`, and no connection.
    pub fn new(
        core: usize,
        os: O,
        world: W,
        limits: &Limits,
        spins: bool,
        listeners: impl IntoIterator<Item = impl Into<Door>>,
        exchange: Arc<Exchange<Parcel<W::Mail>>>,
    ) -> Self {
        let doors: Vec<Door> = listeners.into_iter().map(Into::into).collect();
        let is_secure = doors.iter().any(|door| door.tls.is_some());
        exchange.quiescence.enter();
        let mut reactor = Reactor {
            core,
            os,
            world,
            limits: limits.clone(),
            spins,
            now: Tick::default(),
            began_ns: 0,
            stalls: Stalls::default(),
            links: Vec::new(),
            listeners: doors.into_iter().map(Listening::new).collect(),
            run_queue: VecDeque::new(),
            handshakes: VecDeque::new(),
            handshake_steps: 0,
            client_settings: None,
            events: Vec::with_capacity(limits.events_per_turn),
            buffer: vec![0; limits.read_buffer_bytes].into(),
            ciphertext: Box::default(),
            to_flush: Vec::new(),
            to_close: VecDeque::new(),
            kept: (0..exchange.cores()).map(|_| None).collect(),
            has_kept: false,
            is_at_rest: false,
            stuck_since: None,
            is_journal_behind: false,
            exchange,
        };
        if is_secure {
            reactor.make_place_for_ciphertext();
        }
        reactor
    }

    /// Has the connections that the world wants made encrypted.
    pub fn encrypt_connections(&mut self, settings: ClientSettings) {
        self.client_settings = Some(settings);
        self.make_place_for_ciphertext();
    }

    fn make_place_for_ciphertext(&mut self) {
        self.ciphertext = vec![0; self.limits.read_buffer_bytes].into();
        self.buffer = vec![0; self.limits.read_buffer_bytes + INPUT_OVERHEAD].into();
    }

    /// One turn of the loop. Every step is bounded, and only the poll may block.
    pub fn turn(&mut self) -> Turn {
        let wait_ms = self.plan_sleep();
        self.poll(wait_ms);
        self.note_readiness();
        self.drain_mailbox(); // before our own input, so that its fan-out joins this turn's flush
        self.expire_timers();
        self.run_ready_connections();
        self.accept_connections(); // step 7: see accept.rs
        self.make_connections(); // a generator of load's: a server makes none
        self.flush_connections();
        self.flush_outboxes(); // after the writes: whoever is woken by this finds nothing of ours unwritten
        self.reap();
        self.end_turn();
        if self.is_over() { Turn::Over } else { Turn::Done }
    }

    /// The last mail may be what matters most: a core goes on as long as another may ask it for something, and a full mailbox is waited
    /// for, though not for ever.
    fn is_over(&mut self) -> bool {
        if !self.world.is_over() {
            self.stuck_since = None;
            return false;
        }
        // What sockets that were closed at the end of this turn had to say has not been sent yet.
        let is_stuck = self.has_kept || self.world.has_deferred() || self.has_work();
        if !is_stuck {
            self.stuck_since = None;
        }
        let is_news = if is_stuck {
            let since = *self.stuck_since.get_or_insert(self.now);
            self.now.since(since) >= LAST_MAIL_MS && self.exchange.quiescence.end()
        } else {
            self.is_at_rest = true;
            let (quiescence, exchange) = (&self.exchange.quiescence, &self.exchange);
            quiescence.rest(|| (0..quiescence.cores()).all(|core| exchange.mailbox(core).is_empty()))
        };
        if is_news {
            self.wake_all();
        }
        self.exchange.quiescence.is_reached()
    }

    /// All may end: those who sleep are to see it.
    fn wake_all(&mut self) {
        for core in (0..self.exchange.quiescence.cores()).filter(|core| *core != self.core) {
            if self.exchange.mailbox(core).doorbell.ring() {
                self.os.wake(core);
            }
        }
    }

    /// Step 1: how long to sleep. Not at all when anything is left to do; else until the next deadline. A core that is
    /// going to sleep says so, so that others ring. Planning again changes nothing: the simulator, which runs all cores
    /// in one thread, asks for the plan of each before it knows whose turn comes next.
    pub fn plan_sleep(&mut self) -> Option<u64> {
        let has_work = self.has_work();
        let mailbox = self.exchange.mailbox(self.core);
        let is_ending = || self.is_at_rest && self.exchange.quiescence.is_reached();
        if self.spins || has_work || !mailbox.doorbell.park(|| !mailbox.is_empty() || is_ending()) {
            return Some(0);
        }
        let retry = (self.has_kept || self.world.has_deferred()).then(|| self.now + FULL_MAILBOX_RETRY_MS);
        let deadlines = [self.world.next_deadline(), self.accept_retry_at(), retry];
        let deadline = deadlines.into_iter().flatten().min()?;
        // Not from when the turn began: what it took would be slept on top.
        Some(deadline.since(Tick(self.os.monotonic_ns() / 1_000_000)))
    }

    /// Step 2: sleep, then read the clock once for the whole turn. An interrupted poll is an empty turn.
    fn poll(&mut self, wait_ms: Option<u64>) {
        if let Err(error) = self.os.poll(&mut self.events, wait_ms)
            && error.kind() != ErrorKind::Interrupted
        {
            panic!("poll cannot fail on descriptors of our own: {error}");
        }
        self.exchange.mailbox(self.core).doorbell.unpark();
        if std::mem::take(&mut self.is_at_rest) {
            self.exchange.quiescence.set_out();
        }
        let now = self.os.now();
        (self.now, self.began_ns) = (now.tick, now.ns);
        self.stalls.begin_turn(self.world.stall_ns(), now.ns);
        self.world.tick(now);
        self.world.set_journal_room(self.os.journal_room());
        self.world.counters().turns.add(1);
        self.world.counters().events.add(self.events.len() as u64);
    }

    /// Reads the clock once more: how long the turn took is known, and how long what was answered in it.
    fn end_turn(&mut self) {
        let ns = self.os.monotonic_ns();
        self.world.counters().busy_ns.add(ns.saturating_sub(self.began_ns));
        if self.world.wants_stamp() {
            self.world.stamp(ns);
        }
        self.check_stall(self.began_ns, ns);
        self.world.turn_ended(ns);
    }

    /// Reads the clock once more, if something has happened of which the world wants to know when: to one message in so many.
    #[inline]
    pub(super) fn stamp(&mut self) {
        if self.world.wants_stamp() {
            let ns = self.os.monotonic_ns();
            self.world.stamp(ns);
        }
    }

    /// The world has understood what was read, and goes on with it.
    pub(super) fn settle(&mut self) {
        self.stamp();
        self.world.settle();
        self.stamp();
    }

    /// Step 3: events become bits on connections and places in the run queue. No input or output happens here, so
    /// that a connection is served once a turn, whatever was reported of it.
    fn note_readiness(&mut self) {
        for event in self.events.drain(..) {
            match event.source {
                Source::Wake => {}
                Source::Listener(listener) => self.listeners[listener].is_ready = true,
                Source::Connection(id) => {
                    let Some(link) = link_mut(&mut self.links, id) else { continue };
                    link.read_closed |= event.read_closed;
                    if event.readable || event.read_closed {
                        link.readable = true;
                        enqueue(&mut self.run_queue, link);
                    }
                    if event.writable && !link.writable {
                        link.writable = true;
                        self.to_flush.push(id);
                    }
                }
            }
        }
    }

    /// Step 4: mail from other cores. A parcel is taken whole: what is in it is bounded by what its sender may have under
    /// way to this core.
    fn drain_mailbox(&mut self) {
        for _ in 0..self.limits.parcels_per_turn {
            if self.world.has_gathered_enough() {
                break;
            }
            let Some(parcel) = self.exchange.mailbox(self.core).pop() else { break };
            self.begin_step(Step::Mailbox);
            for mail in parcel.mail {
                self.world.note_mail(&mail);
                self.stamp();
                self.world.mail(mail);
                self.stamp();
            }
        }
    }

    /// Step 5: timers that are due.
    fn expire_timers(&mut self) {
        if !self.world.has_due_timer() {
            return;
        }
        self.begin_step(Step::Timers);
        for _ in 0..self.limits.timers_per_turn {
            if !self.world.expire() {
                return;
            }
        }
        self.world.counters().timers_put_off.add(1);
    }

    /// Step 6: read from the connections in the run queue, each until it has nothing more or its budget is used up.
    fn run_ready_connections(&mut self) {
        if !self.run_queue.is_empty() || !self.handshakes.is_empty() {
            self.begin_step(Step::Input);
        }
        self.run_handshakes();
        for _ in 0..self.run_queue.len() {
            if self.world.has_gathered_enough() {
                self.world.counters().reads_put_off.add(1);
                break;
            }
            let id = self.run_queue.pop_front().expect("counted before");
            let Some(link) = link_mut(&mut self.links, id) else { continue };
            link.is_queued = false;
            match (&link.announcement, &link.tls) {
                (None, None) => self.run_connection(id),
                (None, Some(_)) => self.run_secure_connection(id),
                (Some(_), _) => self.run_announcement(id),
            }
        }
        self.run_resumed();
    }

    fn run_connection(&mut self, id: Id) {
        let mut budget = self.limits.read_bytes_per_turn;
        // A paused connection keeps its readable bit, and comes back here when it is resumed.
        while self.world.wants_input(id) {
            let Some(link) = link_mut(&mut self.links, id).filter(|link| link.readable) else { return };
            if budget == 0 {
                enqueue(&mut self.run_queue, link);
                self.world.counters().reads_put_off.add(1);
                return;
            }
            match self.os.read(&mut link.socket, &mut self.buffer) {
                Ok(0) => {
                    link.readable = false;
                    self.world.input_ended(id);
                }
                Ok(bytes) => {
                    // A short read has emptied the socket, and the next byte is a new edge. But an end of input that
                    // came together with these bytes was reported with them, and will not be again.
                    if bytes < self.buffer.len() && !link.read_closed {
                        link.readable = false;
                    }
                    budget = budget.saturating_sub(bytes);
                    self.world.receive(id, &mut self.buffer[..bytes]);
                    self.settle();
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

    /// Connections whose pause is over go back into the run queue, if they have something to read.
    fn run_resumed(&mut self) {
        for id in self.world.take_resumed() {
            if let Some(link) = link_mut(&mut self.links, id).filter(|link| link.readable) {
                enqueue(&mut self.run_queue, link);
            }
        }
    }

    /// Step 8: what rooms gathered in this turn is queued on their members, and each connection that has something
    /// queued is written to, once, however many messages it is.
    fn flush_connections(&mut self) {
        self.begin_step(Step::Flush);
        self.stamp();
        self.world.send_gathered_events();
        self.stamp();
        self.world.deliver_gathered_events();
        let mut to_flush = std::mem::take(&mut self.to_flush);
        loop {
            for id in to_flush.drain(..) {
                self.flush_connection(id);
                self.stamp();
            }
            self.world.take_touched(&mut to_flush);
            if to_flush.is_empty() {
                break;
            }
        }
        self.to_flush = to_flush;
        self.run_resumed();
    }

    fn flush_connection(&mut self, id: Id) {
        self.write_journal(); // what was done while others were flushed is heard from here on
        let Some(link) = link_mut(&mut self.links, id) else { return };
        if link.tls.is_some() {
            return self.flush_secure_connection(id);
        }
        // Most have one range or two. A large array costs more to make than what is in it costs to write.
        let mut wrote = Wrote::All;
        if link.writable {
            wrote = write_gathered::<O, W, FEW_SLICES>(&mut self.os, &mut self.world, link);
            while wrote == Wrote::Some {
                wrote = write_gathered::<O, W, SLICES>(&mut self.os, &mut self.world, link);
            }
        }
        if wrote == Wrote::Broken {
            return self.world.broken(id);
        }
        if self.world.flushed(id)
            && let Some(link) = link_mut(&mut self.links, id)
        {
            // Fails only if the peer has reset the connection, which the next read will tell.
            let _ = self.os.end_output(&mut link.socket);
        }
    }

    /// Writes down what is to outlive the process, before anybody hears of it.
    fn write_journal(&mut self) {
        while let Some(frame) = self.world.take_frame() {
            let end = self.os.write_journal(&frame);
            self.world.journaled(frame, end, self.os.journal_room());
            if end.is_none() {
                self.is_journal_behind = true;
                return;
            }
        }
        if std::mem::take(&mut self.is_journal_behind) {
            self.os.note_journal_whole();
        }
    }

    /// Answers what the world asks of the kernel about connections that are over.
    fn settle_doubts(&mut self) {
        while let Some(id) = self.world.next_doubt() {
            let link = link_mut(&mut self.links, id);
            let unacknowledged = link.map_or(0, |link| {
                let bytes = self.os.unacknowledged(&mut link.socket);
                link.tls.as_ref().map_or(bytes, |tls| tls.unacknowledged(bytes))
            });
            self.world.settle_doubt(id, unacknowledged);
        }
    }

    /// The same of what it wants to know of connections that are there.
    fn settle_inquiries(&mut self) {
        while let Some(id) = self.world.next_inquiry() {
            let tcp = link_mut(&mut self.links, id).and_then(|link| self.os.tcp_info(&mut link.socket));
            self.world.settle_inquiry(id, tcp);
        }
    }

    /// Step 9: one parcel to each core that there is mail for, and a wake-up to those that sleep.
    fn flush_outboxes(&mut self) {
        self.settle_inquiries();
        self.settle_doubts(); // their mail goes with this
        self.write_journal();
        self.stamp(); // before what it is about belongs to another core
        let mut has_kept = false;
        for core in 0..self.exchange.cores() {
            let outbox = &mut self.world.outboxes()[core];
            let mail = std::mem::take(outbox);
            let parcel = match (self.kept[core].take(), mail.is_empty()) {
                (None, true) => continue,
                (None, false) => Parcel { from: self.core as u16, mail },
                (Some(mut kept), _) => {
                    kept.mail.extend(mail);
                    kept
                }
            };
            self.begin_step(Step::Outboxes);
            let mailbox = self.exchange.mailbox(core);
            match mailbox.push(parcel) {
                Ok(()) => {
                    self.world.counters().parcels.add(1);
                    if mailbox.doorbell.ring() {
                        self.world.counters().wakes.add(1);
                        self.os.wake(core);
                    }
                }
                Err(parcel) => {
                    self.world.counters().mailbox_full.add(1);
                    self.kept[core] = Some(parcel);
                    has_kept = true;
                }
            }
        }
        self.has_kept = has_kept;
        self.world.set_congested(has_kept);
    }

    /// Step 10: the slots of connections that are over are freed, and their sockets closed, as many as one turn closes.
    fn reap(&mut self) {
        self.settle_doubts();
        let (links, to_close) = (&mut self.links, &mut self.to_close);
        self.world.take_closed(|id, is_cut_off| {
            if let Some(link) = links.get_mut(id.index as usize).and_then(Option::take) {
                let is_aborted = is_cut_off || link.tls.is_some_and(|tls| tls.has_output());
                to_close.push_back((link.socket, is_aborted));
            }
        });
        if self.to_close.is_empty() {
            return;
        }
        self.begin_step(Step::Reap);
        let until_ns = self.os.monotonic_ns() + CLOSING_NS;
        for _ in 0..self.limits.closes_per_turn {
            let Some((mut socket, is_aborted)) = self.to_close.pop_front() else { return };
            if is_aborted {
                self.os.abort(&mut socket);
            }
            self.os.close(socket);
            if self.os.monotonic_ns() >= until_ns {
                return;
            }
        }
    }

    /// Takes in a socket that has been accepted.
    pub(super) fn take_in(
        &mut self,
        socket: O::Socket,
        peer: IpAddr,
        kind: ListenKind,
        settings: Option<Arc<ServerConfig>>,
        is_proxied: bool,
        is_path: bool,
    ) {
        let id = match is_proxied {
            true => self.world.open_for_another(peer, kind),
            false => self.world.open(peer, kind),
        };
        if is_path {
            self.world.indirect(id);
        }
        if settings.is_some() && !is_proxied {
            self.world.securing(id);
        }
        // Written to at once, without waiting for the edge that says it can be: a new socket's buffer is empty.
        self.link(id, socket, true, settings.map(Tls::accept));
        if is_proxied && let Some(link) = link_mut(&mut self.links, id) {
            link.announcement = Some(Box::new(Announcement::new(peer)));
        }
    }

    /// The name of a connection in the log.
    pub(super) fn name_of(&self, id: Id) -> ConnectionRef {
        ConnectionRef { core: self.core as u16, connection: id }
    }

    /// Has a socket's events reported under the connection's Id from now on.
    pub(super) fn link(
        &mut self,
        id: Id,
        mut socket: O::Socket,
        writable: bool,
        tls: Option<Result<Tls, rustls::Error>>,
    ) {
        let tls = tls.transpose();
        if self.os.register(&mut socket, id).is_err() || tls.is_err() {
            self.world.broken(id); // the end of the turn closes it, as any other
        }
        let index = id.index as usize;
        if index >= self.links.len() {
            self.links.resize_with(index + 1, || None);
        }
        debug_assert!(self.links[index].is_none(), "a slot was reused before its socket was closed");
        let tls = tls.ok().flatten().map(Box::new);
        let link = Link {
            id,
            socket,
            readable: false,
            writable,
            read_closed: false,
            is_queued: false,
            tls,
            announcement: None,
        };
        self.links[index] = Some(link);
    }

    /// Whether something is left that needs no event to go on.
    fn has_work(&mut self) -> bool {
        self.run_resumed();
        !self.run_queue.is_empty()
            || !self.handshakes.is_empty()
            || !self.to_flush.is_empty()
            || !self.to_close.is_empty()
            || self.world.has_unsent()
            || self.has_ready_listener()
    }

    /// The core's world, to be asked and told.
    pub fn world(&mut self) -> &mut W {
        &mut self.world
    }

    /// The core's kernel.
    pub fn os(&mut self) -> &mut O {
        &mut self.os
    }

    /// What must hold when nothing happens any more. For the simulator.
    pub fn is_quiescent(&self) -> bool {
        self.run_queue.is_empty()
            && self.handshakes.is_empty()
            && self.to_flush.is_empty()
            && self.to_close.is_empty()
            && !self.has_kept
            && !self.world.has_deferred()
            && !self.world.has_unsent()
    }
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrote {
    /// Nothing is left that could be written now.
    All,
    /// There may be more.
    Some,
    /// The socket has failed.
    Broken,
}

/// Writes what a connection has to say, up to `N` ranges of it.
fn write_gathered<O: Os, W: World, const N: usize>(
    os: &mut O,
    world: &mut W,
    link: &mut Link<O::Socket>,
) -> Wrote {
    let mut slices = [IoSlice::new(&[]); N];
    let filled = world.gather(link.id, &mut slices);
    if filled == 0 {
        return Wrote::All;
    }
    let wanted: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
    match os.write(&mut link.socket, &slices[..filled]) {
        Ok(written) => {
            world.sent(link.id, written);
            // A short write has filled the socket: the edge comes when it has drained.
            link.writable = written == wanted;
            if link.writable && filled == N { Wrote::Some } else { Wrote::All }
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            link.writable = false;
            Wrote::All
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Wrote::Some,
        Err(_) => Wrote::Broken,
    }
}

pub(super) fn link_mut<S>(links: &mut [Option<Link<S>>], id: Id) -> Option<&mut Link<S>> {
    links.get_mut(id.index as usize)?.as_mut().filter(|link| link.id == id)
}

pub(super) fn enqueue<S>(run_queue: &mut VecDeque<Id>, link: &mut Link<S>) {
    if !link.is_queued {
        link.is_queued = true;
        run_queue.push_back(link.id);
    }
}
