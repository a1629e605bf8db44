//! A kernel in memory for one core: clients whose words come in the chunks in which they were said, and who hear all that is written.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr};

use starling::base::slots::Id;
use starling::base::time::Now;
use starling::reactor::{Event, Os, Source};

/// The kernel.
#[derive(Default)]
pub struct Kernel {
    now_ms: u64,
    pub peers: Vec<Peer>,
    /// For each listener, who waits to be accepted.
    waiting: Vec<VecDeque<usize>>,
    events: Vec<Event>,
}

/// A client.
#[derive(Default)]
pub struct Peer {
    id: Option<Id>,
    input: VecDeque<u8>,
    has_ended: bool,
    is_reset: bool,
    pub output: Vec<u8>,
    /// The server has ended its side.
    pub output_ended: bool,
    pub is_closed: bool,
}

impl Kernel {
    pub fn new(listeners: usize) -> Self {
        Kernel { now_ms: 1000, waiting: vec![VecDeque::new(); listeners], ..Kernel::default() }
    }

    pub fn connect(&mut self, listener: usize) -> usize {
        self.peers.push(Peer::default());
        self.waiting[listener].push_back(self.peers.len() - 1);
        self.note(Source::Listener(listener), false);
        self.peers.len() - 1
    }

    pub fn say(&mut self, peer: usize, bytes: &[u8]) {
        self.peers[peer].input.extend(bytes);
        self.note_peer(peer);
    }

    pub fn end_input(&mut self, peer: usize) {
        self.peers[peer].has_ended = true;
        self.note_peer(peer);
    }

    pub fn reset(&mut self, peer: usize) {
        self.peers[peer].is_reset = true;
        self.note_peer(peer);
    }

    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn note_peer(&mut self, peer: usize) {
        let Peer { id, is_closed, has_ended, is_reset, .. } = self.peers[peer];
        if let (Some(id), false) = (id, is_closed) {
            self.note(Source::Connection(id), has_ended || is_reset);
        }
    }

    fn note(&mut self, source: Source, read_closed: bool) {
        self.events.push(Event { source, readable: true, writable: false, read_closed });
    }
}

impl Os for Kernel {
    type Socket = usize;

    fn now(&mut self) -> Now {
        Now::of_ms(self.now_ms, 1_700_000_000_000 + self.now_ms)
    }

    fn poll(&mut self, events: &mut Vec<Event>, _wait_ms: Option<u64>) -> io::Result<()> {
        events.append(&mut self.events);
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<Option<(usize, IpAddr)>> {
        let peer = self.waiting[listener].pop_front().ok_or(ErrorKind::WouldBlock)?;
        Ok(Some((peer, Ipv4Addr::LOCALHOST.into())))
    }

    fn register(&mut self, socket: &mut usize, id: Id) -> io::Result<()> {
        self.peers[*socket].id = Some(id);
        // What has come before is an edge, too.
        self.note_peer(*socket);
        Ok(())
    }

    fn read(&mut self, socket: &mut usize, buffer: &mut [u8]) -> io::Result<usize> {
        let peer = &mut self.peers[*socket];
        if peer.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if peer.input.is_empty() && !peer.has_ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let bytes = peer.input.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(peer.input.drain(..bytes)) {
            *place = byte;
        }
        Ok(bytes)
    }

    fn write(&mut self, socket: &mut usize, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let peer = &mut self.peers[*socket];
        if peer.is_reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        assert!(!peer.output_ended, "something is written behind the end");
        slices.iter().for_each(|slice| peer.output.extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn end_output(&mut self, socket: &mut usize) -> io::Result<()> {
        self.peers[*socket].output_ended = true;
        Ok(())
    }

    fn close(&mut self, socket: usize) {
        assert!(!self.peers[socket].is_closed, "a socket is closed twice");
        self.peers[socket].is_closed = true;
    }

    fn wake(&mut self, _core: usize) {}
}
