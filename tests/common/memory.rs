//! A kernel in memory, which does what it is asked at once, and counts.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr};

use starling::base::slots::Id;
use starling::base::time::Now;
use starling::reactor::{Event, Os, Source};

/// A kernel with clients that the test speaks for.
#[derive(Default)]
pub struct Memory {
    now: Now,
    clients: Vec<Client>,
    /// For each listener, the clients that wait to be accepted.
    waiting: Vec<VecDeque<usize>>,
    events: Vec<Event>,
    pub calls: Calls,
    /// How much later it is each time that the monotonic clock is read within a turn, and how often it was.
    pub ns_a_reading: u64,
    pub readings: u64,
}

/// How often the loop has called its kernel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    pub polls: usize,
    pub accepts: usize,
    pub reads: usize,
    pub writes: usize,
}

/// A client, as the kernel sees it.
#[derive(Default)]
pub struct Client {
    id: Option<Id>,
    input: Vec<u8>,
    read: usize,
    /// How often it was written to, and how much in all.
    pub writes: usize,
    pub written_bytes: usize,
    /// What was written, as far as there is room: it never grows while the loop runs.
    pub output: Vec<u8>,
}

impl Memory {
    pub fn new(listeners: usize) -> Self {
        Memory { waiting: vec![VecDeque::new(); listeners], ..Memory::default() }
    }

    /// A client comes, which is known by the number returned.
    pub fn connect(&mut self, listener: usize) -> usize {
        let number = self.clients.len();
        self.clients.push(Client::default());
        self.waiting[listener].push_back(number);
        let source = Source::Listener(listener);
        self.events.push(Event { source, readable: true, writable: false, read_closed: false });
        number
    }

    /// A client that has been accepted says something.
    pub fn say(&mut self, client: usize, bytes: &[u8]) {
        let client = &mut self.clients[client];
        assert_eq!(client.read, client.input.len(), "it says one thing at a time");
        client.input.clear();
        client.input.extend_from_slice(bytes);
        client.read = 0;
        let source = Source::Connection(client.id.expect("it has been accepted"));
        self.events.push(Event { source, readable: true, writable: false, read_closed: false });
    }

    pub fn pass(&mut self, ms: u64) {
        self.now = Now::of_ms(self.now.tick.0 + ms, self.now.unix_ms + ms);
    }

    /// Starts counting anew, and keeps up to `capacity` bytes of what is written to each client from here on.
    pub fn start_counting(&mut self, capacity: usize) {
        self.calls = Calls::default();
        for client in &mut self.clients {
            (client.writes, client.written_bytes) = (0, 0);
            client.output.clear();
            client.output.reserve_exact(capacity);
        }
    }

    pub fn clients(&self) -> &[Client] {
        &self.clients
    }
}

impl Os for Memory {
    type Socket = usize;

    fn now(&mut self) -> Now {
        self.now
    }

    fn monotonic_ns(&mut self) -> u64 {
        self.readings += 1;
        self.now.ns + self.readings * self.ns_a_reading
    }

    fn poll(&mut self, events: &mut Vec<Event>, _wait_ms: Option<u64>) -> io::Result<()> {
        self.calls.polls += 1;
        events.append(&mut self.events);
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<Option<(usize, IpAddr)>> {
        self.calls.accepts += 1;
        let client = self.waiting[listener].pop_front().ok_or(ErrorKind::WouldBlock)?;
        Ok(Some((client, Ipv4Addr::LOCALHOST.into())))
    }

    fn register(&mut self, socket: &mut usize, id: Id) -> io::Result<()> {
        self.clients[*socket].id = Some(id);
        Ok(())
    }

    fn read(&mut self, socket: &mut usize, buffer: &mut [u8]) -> io::Result<usize> {
        self.calls.reads += 1;
        let client = &mut self.clients[*socket];
        let rest = &client.input[client.read..];
        if rest.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        client.read += length;
        Ok(length)
    }

    fn write(&mut self, socket: &mut usize, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls.writes += 1;
        let client = &mut self.clients[*socket];
        client.writes += 1;
        let mut written = 0;
        for slice in slices {
            written += slice.len();
            let room = client.output.capacity() - client.output.len();
            client.output.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        client.written_bytes += written;
        Ok(written)
    }

    fn end_output(&mut self, _socket: &mut usize) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, socket: usize) {
        self.clients[socket].id = None;
    }

    fn wake(&mut self, _core: usize) {}
}
