//! A kernel without a machine: sockets, edge-triggered readiness and two clocks, all of them driven by the run's seed.
//!
//! # Edges
//!
//! As in epoll(7), something that *happens* puts its source on a core's ready list: bytes or the end of input arrive,
//! a full send buffer has drained, a client connects, a connection is registered, somebody wakes the core. What a poll
//! then reports is what the source is ready for at that moment (or, for a kernel like kqueue(2), what has happened to
//! it), so that several edges become one event. Nothing that has been reported is reported again.
//!
//! # A connection
//!
//! ```text
//! client --send--> wire --deliver--> incoming --read--> server      outgoing <--write-- server
//!                  (any length)      (bounded)          client <--receive-- (bounded)
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use starling::base::rng::Rng;
use starling::base::slots::Id;
use starling::base::time::Now;
use starling::config::Limits;
use starling::reactor::{Event, Os, Source};
use starling::sys::ring::Ring;

use crate::faults::{Faults, Shape, happens};
use crate::secure::Secure;
use crate::trace::Trace;

/// The world outside of the cores.
pub struct Kernel {
    pub clock_ms: u64,
    /// What the wall clock shows more than the other.
    pub unix_offset_ms: u64,
    pub rng: Rng,
    pub faults: Faults,
    pub trace: Trace,
    pub conns: Vec<Conn>,
    shape: Shape,
    events_per_turn: usize,
    linger_ms: u64,
    cores: Vec<CoreSide>,
    listeners: usize,
    /// Whether a core has rung for the thread that reads the store.
    pub is_store_woken: bool,
    /// Whether time leaps while the server drains: who has not taken its last words by then is cut off.
    pub is_hurried: bool,
    /// Whether a journal has been so full that messages may have been refused for it.
    pub is_journal_tight: bool,
}

/// What the kernel knows of a core.
struct CoreSide {
    ready: VecDeque<Source>,
    /// For each listener, the connections that nobody has accepted.
    backlogs: Vec<VecDeque<usize>>,
    /// Until when there is no descriptor left.
    exhausted_until_ms: u64,
    /// The connections of the core that are registered and open.
    by_id: BTreeMap<Id, usize>,
    is_next_poll_interrupted: bool,
}

/// One connection.
#[derive(Default)]
pub struct Conn {
    pub core: usize,
    id: Option<Id>,
    wire: VecDeque<u8>,
    wire_ends: bool,
    incoming: VecDeque<u8>,
    has_ended: bool,
    outgoing: VecDeque<u8>,
    /// Bytes of these that were lost in a reset.
    lost_bytes: usize,
    outgoing_ends: bool,
    /// When the server ended its side.
    output_ended_ms: Option<u64>,
    /// Whether a write has found the buffer full: when it has drained, that is an edge.
    is_blocked: bool,
    /// Whether that has ever been so.
    pub was_blocked: bool,
    is_reset: bool,
    /// Whether the server has been told of the reset.
    reset_told: bool,
    /// Whether the server has closed it. It may do so once.
    pub is_closed: bool,
    pub is_accepted: bool,
    pub accepted_ms: u64,
    /// When the server last read a byte.
    pub last_read_ms: u64,
    /// The longest time between two such reads.
    pub longest_silence_ms: u64,
    /// How much of what is on the wire is what a client has said, and not a frame that its library sends by itself, and what comes
    /// before that; when such bytes arrived last, and the longest time between two such arrivals.
    pub words_on_wire: usize,
    pub last_word_ms: u64,
    pub longest_wordless_ms: u64,
    /// What has happened since the last event, for a kernel that reports only that.
    happened: Readiness,
    is_listed: bool,
    /// The client's end of TLS, where the listener is encrypted, and whether anything has come through it.
    secure: Option<Box<Secure>>,
    has_heard_plaintext: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Readiness {
    readable: bool,
    writable: bool,
    read_closed: bool,
}

/// What a client finds when it reads.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Bytes(Vec<u8>),
    Nothing,
    End,
    Reset,
}

/// One core's handle on the kernel.
pub struct SimOs {
    core: usize,
    kernel: Rc<RefCell<Kernel>>,
    /// Where the core writes down what is to outlive it.
    journal: Option<Arc<Ring>>,
}

/// A connection as the server holds it. It cannot be copied, as a descriptor cannot.
pub struct SimSocket(usize);

impl Kernel {
    pub fn new(
        rng: Rng,
        faults: Faults,
        shape: &Shape,
        listeners: usize,
        limits: &Limits,
        trace: Trace,
    ) -> Kernel {
        Kernel {
            clock_ms: 1000,
            unix_offset_ms: 1_700_000_000_000,
            rng,
            faults,
            trace,
            conns: Vec::new(),
            shape: shape.clone(),
            events_per_turn: limits.events_per_turn,
            linger_ms: limits.linger_ms,
            cores: (0..shape.cores).map(|_| CoreSide::new(listeners)).collect(),
            listeners,
            is_hurried: false,
            is_store_woken: false,
            is_journal_tight: false,
        }
    }

    /// The process of the server is gone, with all its sockets; another one begins with so many cores. What was on its way to the
    /// clients may still reach them (`delivers`, a chance in a hundred for each), or not.
    pub fn restart(&mut self, cores: usize, delivers: u64, limits: &Limits) {
        (self.events_per_turn, self.linger_ms) = (limits.events_per_turn, limits.linger_ms);
        for number in 0..self.conns.len() {
            let reaches = self.conns[number].is_closed && delivers > 0 || self.rng.chance(delivers);
            let c = &mut self.conns[number];
            if c.is_closed && reaches {
                continue;
            }
            (c.is_closed, c.is_reset, c.outgoing_ends, c.id) = (true, true, true, None);
            c.wire.clear();
            c.incoming.clear();
            if !reaches {
                c.outgoing.clear();
            }
        }
        self.cores = (0..cores).map(|_| CoreSide::new(self.listeners)).collect();
        (self.is_store_woken, self.is_journal_tight, self.is_hurried) = (false, false, false);
    }

    /// Wakes a core from outside, as whoever asks it to drain does.
    pub fn wake_core(&mut self, core: usize) {
        self.list(core, Source::Wake);
    }

    /// A client connects to an encrypted listener of a core, and begins with its handshake.
    pub fn connect_securely(&mut self, core: usize, listener: usize) -> usize {
        let number = self.connect(core, listener);
        self.conns[number].secure = Some(Box::new(Secure::new()));
        self.send_ciphertext(number);
        number
    }

    /// Puts onto the wire what the client's end of TLS has to say.
    fn send_ciphertext(&mut self, conn: usize) {
        let c = &mut self.conns[conn];
        let Some(secure) = &mut c.secure else { return };
        let (bytes, ends) = secure.take_output();
        if !c.wire_ends && !c.is_reset {
            c.wire.extend(bytes);
            c.wire_ends = ends;
        }
    }

    /// A client connects to a listener of a core.
    pub fn connect(&mut self, core: usize, listener: usize) -> usize {
        let number = self.conns.len();
        let now = self.clock_ms;
        self.conns.push(Conn { core, last_read_ms: now, last_word_ms: now, ..Conn::default() });
        self.cores[core].backlogs[listener].push_back(number);
        self.list(core, Source::Listener(listener));
        number
    }

    /// A client sends bytes. They arrive when they are delivered.
    pub fn send(&mut self, conn: usize, bytes: &[u8]) {
        debug_assert!(!self.conns[conn].wire_ends);
        match &mut self.conns[conn].secure {
            None => self.conns[conn].wire.extend(bytes),
            Some(secure) => {
                secure.say(bytes);
                self.send_ciphertext(conn);
            }
        }
    }

    /// What has been sent up to here was said by the client itself.
    pub fn note_words(&mut self, conn: usize) {
        let c = &mut self.conns[conn];
        c.words_on_wire = c.wire.len();
    }

    /// A client ends its side, behind what it has sent.
    pub fn end_input(&mut self, conn: usize) {
        match &mut self.conns[conn].secure {
            None => self.conns[conn].wire_ends = true,
            Some(secure) => {
                secure.end();
                self.send_ciphertext(conn);
            }
        }
    }

    /// The connection is reset: by the client, or by the network between.
    pub fn reset(&mut self, conn: usize) {
        let discards = happens(&mut self.rng, self.faults.reset_discards);
        let c = &mut self.conns[conn];
        if c.is_reset {
            return;
        }
        c.is_reset = true;
        c.wire.clear();
        c.lost_bytes += c.outgoing.len();
        c.outgoing.clear();
        if discards {
            c.incoming.clear();
        }
        c.happened = Readiness { readable: true, writable: true, read_closed: true };
        self.note_edge(conn);
    }

    /// Lets up to `most` bytes of what a client has sent arrive, and the end of its input behind them. Returns whether
    /// anything did.
    pub fn deliver(&mut self, conn: usize, most: usize) -> bool {
        let room = self.shape.receive_buffer_bytes.saturating_sub(self.conns[conn].incoming.len());
        let c = &mut self.conns[conn];
        if c.is_reset || (c.wire.is_empty() && (!c.wire_ends || c.has_ended)) {
            return false;
        }
        if c.is_closed {
            // Nobody is there to read it, which the client is told by a reset.
            let has_bytes = !c.wire.is_empty();
            c.wire.clear();
            c.has_ended = c.wire_ends;
            if has_bytes {
                self.refuse_late_bytes(conn);
            }
            return true;
        }
        let bytes = c.wire.len().min(most).min(room);
        match bytes == c.wire.len() {
            true => c.incoming.append(&mut c.wire),
            false => c.incoming.extend(c.wire.drain(..bytes)),
        }
        if c.words_on_wire > 0 {
            c.words_on_wire = c.words_on_wire.saturating_sub(bytes);
            c.longest_wordless_ms = c.longest_wordless_ms.max(self.clock_ms - c.last_word_ms);
            c.last_word_ms = self.clock_ms;
        }
        let ends = c.wire.is_empty() && c.wire_ends && !c.has_ended && (bytes == 0 || self.rng.chance(50));
        c.has_ended |= ends;
        if bytes == 0 && !ends {
            return false;
        }
        c.happened.readable = true;
        c.happened.read_closed |= ends;
        self.trace.note(&[1, conn as u64, bytes as u64, u64::from(ends)], || {
            format!("conn {conn}: {bytes} bytes arrive{}", if ends { ", the end behind them" } else { "" })
        });
        self.note_edge(conn);
        true
    }

    /// A client reads up to `most` bytes.
    pub fn receive(&mut self, conn: usize, most: usize) -> Received {
        let c = &mut self.conns[conn];
        if c.is_reset && c.outgoing.is_empty() {
            return Received::Reset;
        }
        let mut bytes = vec![0; most.min(c.outgoing.len())];
        c.outgoing.read_exact(&mut bytes).expect("there are so many");
        let has_drained = c.is_blocked && c.outgoing.len() * 3 <= self.shape.send_buffer_bytes * 2;
        if has_drained && !c.is_closed && !c.is_reset {
            c.is_blocked = false;
            c.happened.writable = true;
            self.note_edge(conn);
        }
        let c = &mut self.conns[conn];
        let has_bytes = !bytes.is_empty();
        let bytes = match &mut c.secure {
            Some(secure) if has_bytes => secure.hear(&bytes),
            _ => bytes,
        };
        self.send_ciphertext(conn);
        let c = &mut self.conns[conn];
        c.has_heard_plaintext |= !bytes.is_empty();
        if has_bytes {
            self.trace.note(&[2, conn as u64, bytes.len() as u64], || {
                format!("conn {conn}: client reads {}", bytes.escape_ascii())
            });
            self.trace.hash_bytes(&bytes);
            Received::Bytes(bytes)
        } else if c.outgoing.is_empty() && c.outgoing_ends {
            if let Some(secure) = &mut c.secure {
                let is_said = secure.has_heard_end() || secure.is_handshaking();
                assert!(is_said || c.output_ended_ms.is_none(), "conn {conn}: the end of TLS was not said");
            }
            Received::End
        } else {
            Received::Nothing
        }
    }

    /// Whether a poll of this core would return at once.
    pub fn has_pending(&self, core: usize) -> bool {
        !self.cores[core].ready.is_empty() || self.cores[core].is_next_poll_interrupted
    }

    /// Interrupts the sleep of a core, as a signal does.
    pub fn interrupt(&mut self, core: usize) {
        self.cores[core].is_next_poll_interrupted = true;
    }

    /// Reports something of a connection of this core that is not new.
    pub fn report_spuriously(&mut self, core: usize) {
        let open = self.cores[core].by_id.len() as u64;
        if open > 0 {
            let nth = self.rng.below(open) as usize;
            let conn = *self.cores[core].by_id.values().nth(nth).expect("counted");
            self.conns[conn].happened.readable = true;
            self.note_edge(conn);
        }
    }

    /// Leaves a core without descriptors for a while.
    pub fn exhaust_descriptors(&mut self, core: usize, for_ms: u64) {
        self.cores[core].exhausted_until_ms = self.clock_ms + for_ms;
    }

    /// The clients that a core has not accepted.
    pub fn waiting_clients(&self, core: usize) -> usize {
        self.cores[core].backlogs.iter().map(VecDeque::len).sum()
    }

    /// The registered connections of a core: what can be read, and whether its buffer takes a write of which no edge
    /// will tell.
    pub fn registered(&self, core: usize) -> impl Iterator<Item = (usize, Id, bool, bool)> {
        self.cores[core].by_id.iter().map(|(id, number)| {
            let c = &self.conns[*number];
            (*number, *id, c.is_readable(), !c.is_blocked && !c.is_reset)
        })
    }

    fn refuse_late_bytes(&mut self, conn: usize) {
        let discards = happens(&mut self.rng, self.faults.reset_discards);
        let c = &mut self.conns[conn];
        c.is_reset = true;
        if discards {
            c.outgoing.clear();
        }
    }

    fn note_edge(&mut self, conn: usize) {
        let c = &mut self.conns[conn];
        if let (Some(id), false) = (c.id, c.is_closed) {
            let core = c.core;
            if !c.is_listed {
                c.is_listed = true;
                self.cores[core].ready.push_back(Source::Connection(id));
            }
        }
    }

    fn list(&mut self, core: usize, source: Source) {
        let ready = &mut self.cores[core].ready;
        if !ready.contains(&source) {
            ready.push_back(source);
        }
    }

    fn harvest(&mut self, core: usize, source: Source) -> Option<Event> {
        let nothing = Event { source, readable: false, writable: false, read_closed: false };
        match source {
            Source::Wake => Some(Event { readable: true, ..nothing }),
            Source::Listener(listener) => (!self.cores[core].backlogs[listener].is_empty())
                .then_some(Event { readable: true, ..nothing }),
            Source::Connection(id) => {
                let conn = *self.cores[core].by_id.get(&id)?;
                let c = &mut self.conns[conn];
                c.is_listed = false;
                let happened = std::mem::take(&mut c.happened);
                let ready = if self.shape.reports_levels {
                    let writable = c.is_reset || c.outgoing.len() * 3 <= self.shape.send_buffer_bytes * 2;
                    if !writable {
                        (c.is_blocked, c.was_blocked) = (true, true);
                    }
                    Readiness { readable: c.is_readable(), writable, read_closed: c.has_ended || c.is_reset }
                } else {
                    happened
                };
                let is_empty = !(ready.readable || ready.writable || ready.read_closed);
                let Readiness { readable, writable, read_closed } = ready;
                (!is_empty).then_some(Event { source, readable, writable, read_closed })
            }
        }
    }
}

impl CoreSide {
    fn new(listeners: usize) -> CoreSide {
        CoreSide {
            ready: VecDeque::new(),
            backlogs: vec![VecDeque::new(); listeners],
            exhausted_until_ms: 0,
            by_id: BTreeMap::new(),
            is_next_poll_interrupted: false,
        }
    }
}

impl Conn {
    fn is_readable(&self) -> bool {
        !self.incoming.is_empty() || self.has_ended || (self.is_reset && !self.reset_told)
    }

    /// Whether the connection was reset because the server had closed it with bytes unread, or on their way.
    pub fn is_discarding(&self) -> bool {
        self.is_reset
    }

    /// Whether the handshake may never have been completed on the server's side, which gives it up without a word that a client
    /// would understand.
    pub fn may_be_unfinished(&self) -> bool {
        self.secure.is_some() && !self.has_heard_plaintext
    }

    /// Bytes that the client has sent and that have not arrived.
    pub fn wire_bytes(&self) -> usize {
        self.wire.len()
    }
}

impl SimOs {
    pub fn new(core: usize, kernel: Rc<RefCell<Kernel>>, journal: Option<Arc<Ring>>) -> SimOs {
        SimOs { core, kernel, journal }
    }
}

impl Kernel {
    fn interrupted(&mut self) -> io::Result<()> {
        if happens(&mut self.rng, self.faults.interrupted_io) {
            Err(ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    }

    fn deliver_late(&mut self, conn: usize) {
        if happens(&mut self.rng, self.faults.late_arrival) {
            let most = 1 + self.rng.below(self.shape.chunk_bytes as u64) as usize;
            self.deliver(conn, most);
        }
    }
}

impl Os for SimOs {
    type Socket = SimSocket;

    fn now(&mut self) -> Now {
        let kernel = self.kernel.borrow();
        Now::of_ms(kernel.clock_ms, kernel.clock_ms + kernel.unix_offset_ms)
    }

    /// Never blocks: whoever drives the core calls its turn only when this would return.
    fn poll(&mut self, events: &mut Vec<Event>, _wait_ms: Option<u64>) -> io::Result<()> {
        let kernel = &mut *self.kernel.borrow_mut();
        if std::mem::take(&mut kernel.cores[self.core].is_next_poll_interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        while events.len() < kernel.events_per_turn {
            let Some(source) = kernel.cores[self.core].ready.pop_front() else { break };
            let Some(event) = kernel.harvest(self.core, source) else { continue };
            let core = self.core as u64;
            let bits =
                u64::from(event.readable) + 2 * u64::from(event.writable) + 4 * u64::from(event.read_closed);
            kernel.trace.note(&[3, core, bits], || format!("core {core}: {event:?}"));
            events.push(event);
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<Option<(SimSocket, IpAddr)>> {
        let kernel = &mut *self.kernel.borrow_mut();
        kernel.interrupted()?;
        let (now, aborted) = (kernel.clock_ms, kernel.faults.aborted_accept);
        let core = &mut kernel.cores[self.core];
        if core.backlogs[listener].is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        if now < core.exhausted_until_ms {
            const EMFILE: i32 = 24;
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let conn = core.backlogs[listener].pop_front().expect("looked at above");
        if happens(&mut kernel.rng, aborted) {
            kernel.conns[conn].is_closed = true;
            kernel.reset(conn);
            return Err(ErrorKind::ConnectionAborted.into());
        }
        (kernel.conns[conn].is_accepted, kernel.conns[conn].accepted_ms) = (true, now);
        kernel
            .trace
            .note(&[4, self.core as u64, conn as u64], || format!("core {}: accepts conn {conn}", self.core));
        let [_, _, high, low] = (conn as u32).to_be_bytes();
        Ok(Some((SimSocket(conn), IpAddr::V4(Ipv4Addr::new(10, 0, high, low)))))
    }

    fn register(&mut self, socket: &mut SimSocket, id: Id) -> io::Result<()> {
        let kernel = &mut *self.kernel.borrow_mut();
        let c = &mut kernel.conns[socket.0];
        assert!(c.id.is_none(), "registered twice");
        c.id = Some(id);
        c.happened =
            Readiness { readable: c.is_readable(), writable: true, read_closed: c.has_ended || c.is_reset };
        assert!(kernel.cores[self.core].by_id.insert(id, socket.0).is_none(), "two connections have one Id");
        kernel.note_edge(socket.0);
        Ok(())
    }

    fn read(&mut self, socket: &mut SimSocket, buffer: &mut [u8]) -> io::Result<usize> {
        let kernel = &mut *self.kernel.borrow_mut();
        kernel.interrupted()?;
        kernel.deliver_late(socket.0);
        let now = kernel.clock_ms;
        let c = &mut kernel.conns[socket.0];
        let bytes = buffer.len().min(c.incoming.len());
        if bytes == 0 {
            if c.is_reset && !std::mem::replace(&mut c.reset_told, true) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            return if c.has_ended || c.is_reset { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        c.incoming.read_exact(&mut buffer[..bytes])?;
        c.longest_silence_ms = c.longest_silence_ms.max(now - c.last_read_ms);
        c.last_read_ms = now;
        kernel.deliver_late(socket.0);
        Ok(bytes)
    }

    fn write(&mut self, socket: &mut SimSocket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let kernel = &mut *self.kernel.borrow_mut();
        kernel.interrupted()?;
        let c = &mut kernel.conns[socket.0];
        assert!(!c.outgoing_ends, "written to after its output has ended");
        if c.is_reset {
            c.reset_told = true;
            return Err(ErrorKind::BrokenPipe.into());
        }
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = kernel.shape.send_buffer_bytes.saturating_sub(c.outgoing.len());
        let written = wanted.min(room);
        let mut left = written;
        for slice in slices {
            let taken = left.min(slice.len());
            c.outgoing.extend(&slice[..taken]);
            left -= taken;
        }
        if written < wanted {
            (c.is_blocked, c.was_blocked) = (true, true);
        }
        kernel.trace.note(&[5, socket.0 as u64, wanted as u64, written as u64], || {
            format!("conn {}: server writes {written} of {wanted}", socket.0)
        });
        if written == 0 && wanted > 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(written) }
    }

    fn unacknowledged(&mut self, socket: &mut SimSocket) -> usize {
        let c = &self.kernel.borrow().conns[socket.0];
        c.outgoing.len() + c.lost_bytes
    }

    fn end_output(&mut self, socket: &mut SimSocket) -> io::Result<()> {
        let kernel = &mut *self.kernel.borrow_mut();
        let c = &mut kernel.conns[socket.0];
        if c.is_reset {
            return Err(ErrorKind::NotConnected.into());
        }
        (c.outgoing_ends, c.output_ended_ms) = (true, Some(kernel.clock_ms));
        kernel.trace.note(&[7, socket.0 as u64], || format!("conn {}: server ends its side", socket.0));
        Ok(())
    }

    fn close(&mut self, socket: SimSocket) {
        let kernel = &mut *self.kernel.borrow_mut();
        let c = &mut kernel.conns[socket.0];
        assert!(!c.is_closed, "closed twice");
        // A client that has said the end of TLS sends nothing that could be lost, even if the end of the stream is still on its way.
        let has_said_end = c.secure.is_some() && c.wire_ends && c.wire.is_empty();
        if !c.has_ended && !c.is_reset && !has_said_end {
            // Whoever may still be sending gets time to read the last words, and to end its side.
            let lingered_ms = c.output_ended_ms.map(|at_ms| kernel.clock_ms - at_ms);
            let is_due =
                lingered_ms.map_or(c.was_blocked || c.may_be_unfinished(), |ms| ms >= kernel.linger_ms);
            assert!(
                is_due || kernel.is_hurried,
                "conn {}: closed after it lingered for {lingered_ms:?} ms",
                socket.0
            );
        }
        (c.is_closed, c.outgoing_ends) = (true, true);
        let id = c.id.take().expect("registered when it was accepted");
        let has_unread = !c.incoming.is_empty();
        kernel.cores[self.core].by_id.remove(&id);
        kernel.cores[self.core].ready.retain(|source| *source != Source::Connection(id));
        kernel.trace.note(&[6, socket.0 as u64], || format!("conn {}: server closes", socket.0));
        if has_unread {
            kernel.refuse_late_bytes(socket.0);
        }
    }

    fn wake(&mut self, core: usize) {
        let kernel = &mut *self.kernel.borrow_mut();
        match core < kernel.cores.len() {
            true => kernel.list(core, Source::Wake),
            false => kernel.is_store_woken = true,
        }
    }

    fn write_journal(&mut self, frame: &[u8]) -> Option<u64> {
        let ring = self.journal.as_ref()?;
        let kernel = &mut *self.kernel.borrow_mut();
        let end = ring.push(frame);
        if end.is_none() {
            ring.set_behind(true);
        }
        // Messages are refused before their frame is here, and what it would have held is not known.
        kernel.is_journal_tight |= ring.room() < ring.capacity() / 4 * 3 || frame.len() > ring.capacity() / 8;
        let core = self.core as u64;
        kernel.trace.note(&[8, core, frame.len() as u64, end.unwrap_or(0)], || {
            format!("core {core}: writes {} bytes down, to {end:?}", frame.len())
        });
        end
    }

    fn note_journal_whole(&mut self) {
        if let Some(ring) = &self.journal {
            ring.set_behind(false);
        }
    }

    fn journal_room(&mut self) -> usize {
        self.journal.as_ref().map_or(0, |ring| ring.room())
    }
}
