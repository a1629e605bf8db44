//! The floor: what the kernel alone costs. A bare epoll loop that accepts, reads and writes, and knows no protocol.
//!
//!     floor 127.0.0.1:PORT [--one-write-a-message | --echo]
//!
//! Bytes that a connection sends are a publisher's. Whole lines of them go to every connection that has never sent any. Nothing is
//! parsed but the line ends, nothing is copied but into one buffer, which at the end of each wake-up goes to each receiver with
//! one write(2): no server that keeps its connections apart can do less. `--one-write-a-message` does a write(2) for each
//! line instead, which is what a server costs that does not gather. `--echo` sends back what it reads.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Events that one wake-up takes.
const EVENTS: usize = 1024;
/// Bytes that one read(2) takes.
const READ_BYTES: usize = 64 * 1024;
/// Bytes that a receiver may be behind before it is closed.
const BEHIND_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// One write(2) a receiver and wake-up.
    Gathered,
    /// One write(2) a receiver and message.
    OneWriteAMessage,
    Echo,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().expect("usage: floor ADDRESS:PORT [--one-write-a-message | --echo]");
    let mode = match arguments.next().as_deref() {
        None => Mode::Gathered,
        Some("--one-write-a-message") => Mode::OneWriteAMessage,
        Some("--echo") => Mode::Echo,
        Some(other) => panic!("no such option: {other}"),
    };
    Floor::new(&address, mode)?.run()
}

struct Floor {
    epoll: Epoll,
    listener: TcpListener,
    mode: Mode,
    /// By descriptor: the kernel gives the smallest free one, so that there are few holes.
    connections: Vec<Option<Connection>>,
    /// What came with this wake-up: whole lines only.
    batch: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// Has sent something, so that it is not written to (except in an echo).
    is_publisher: bool,
    /// The start of a line whose end has not come yet.
    line_start: Vec<u8>,
    /// What the kernel would not take yet.
    unsent: Vec<u8>,
}

impl Floor {
    fn new(address: &str, mode: Mode) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // std listens with a backlog of 128; a storm of connects wants what the kernel allows.
        check(unsafe { libc::listen(listener.as_raw_fd(), 65_535) })?;
        let epoll = Epoll::new()?;
        epoll.control(libc::EPOLL_CTL_ADD, listener.as_raw_fd(), libc::EPOLLIN)?;
        Ok(Self { epoll, listener, mode, connections: Vec::new(), batch: Vec::new() })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = self.epoll.wait(&mut events)?;
            for event in &events[..count] {
                let libc::epoll_event { events: ready, u64: descriptor } = *event;
                let descriptor = descriptor as RawFd;
                if descriptor == self.listener.as_raw_fd() {
                    self.accept()?;
                    continue;
                }
                let is_writable = ready & libc::EPOLLOUT as u32 != 0;
                if (is_writable && self.write(descriptor, &[]).is_err())
                    || self.read(descriptor, &mut buffer).is_err()
                {
                    self.connections[descriptor as usize] = None;
                }
            }
            self.deliver();
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            self.epoll.control(libc::EPOLL_CTL_ADD, stream.as_raw_fd(), libc::EPOLLIN)?;
            let connection =
                Connection { stream, is_publisher: false, line_start: Vec::new(), unsent: Vec::new() };
            let index = connection.stream.as_raw_fd() as usize;
            if index >= self.connections.len() {
                self.connections.resize_with(index + 1, || None);
            }
            self.connections[index] = Some(connection);
        }
    }

    /// One read(2): epoll tells again if there is more.
    fn read(&mut self, descriptor: RawFd, buffer: &mut [u8]) -> Result<()> {
        let Some(connection) = &mut self.connections[descriptor as usize] else { return Ok(()) };
        let bytes = match connection.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(size) => &buffer[..size],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.mode == Mode::Echo {
            return self.write(descriptor, bytes);
        }
        connection.is_publisher = true;
        // A write never waits for the rest of a line: lines of two publishers would mix.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole > 0 {
            self.batch.append(&mut connection.line_start);
            self.batch.extend_from_slice(&bytes[..whole]);
        }
        connection.line_start.extend_from_slice(&bytes[whole..]);
        Ok(())
    }

    /// Writes what came to every receiver.
    fn deliver(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        for index in 0..self.connections.len() {
            if self.connections[index].as_ref().is_none_or(|connection| connection.is_publisher) {
                continue;
            }
            let descriptor = index as RawFd;
            let result = match self.mode {
                Mode::OneWriteAMessage => batch
                    .split_inclusive(|byte| *byte == b'\n')
                    .try_for_each(|line| self.write(descriptor, line)),
                Mode::Gathered | Mode::Echo => self.write(descriptor, &batch),
            };
            if result.is_err() {
                self.connections[descriptor as usize] = None;
            }
        }
        self.batch = batch;
        self.batch.clear();
    }

    /// One write(2) of what is unsent and then `bytes`; the rest waits until the socket is writable.
    fn write(&mut self, descriptor: RawFd, bytes: &[u8]) -> Result<()> {
        let Some(connection) = &mut self.connections[descriptor as usize] else { return Ok(()) };
        if connection.unsent.is_empty() {
            let written = write_some(&connection.stream, bytes)?;
            if written < bytes.len() {
                connection.unsent.extend_from_slice(&bytes[written..]);
                self.epoll.control(libc::EPOLL_CTL_MOD, descriptor, libc::EPOLLIN | libc::EPOLLOUT)?;
            }
            return Ok(());
        }
        connection.unsent.extend_from_slice(bytes);
        let written = write_some(&connection.stream, &connection.unsent)?;
        connection.unsent.drain(..written);
        if connection.unsent.len() > BEHIND_BYTES {
            return Err(ErrorKind::OutOfMemory.into());
        }
        if connection.unsent.is_empty() {
            connection.unsent = Vec::new();
            self.epoll.control(libc::EPOLL_CTL_MOD, descriptor, libc::EPOLLIN)?;
        }
        Ok(())
    }
}

/// How much the kernel took; nothing if it is full.
fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> Result<Self> {
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    fn control(&self, operation: i32, descriptor: RawFd, interest: i32) -> Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: descriptor as u64 };
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, descriptor, &raw mut event) }).map(drop)
    }

    /// Sleeps until something is ready; returns how many events there are.
    fn wait(&self, events: &mut [libc::epoll_event]) -> Result<usize> {
        loop {
            let count =
                unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
            match check(count) {
                Ok(count) => return Ok(count as usize),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn check(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
