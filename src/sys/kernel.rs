//! The real kernel, through mio: epoll(7) or kqueue(2), edge-triggered.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, UnixListener};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Socket, TcpKeepalive};

use super::bell::Bell;
use super::listen::Listener;
use super::ring::Ring;
use super::waker::Waker;
use super::{connect, path};
use crate::base::slots::Id;
use crate::base::tcp::TcpInfo;
use crate::base::time::Now;
use crate::config::{ListenKind, PEER_ON_PATH};
use crate::reactor::{Event, Os, Source};

/// The token of the core's waker. No [`Id`] has it: a table never has that many slots.
const WAKE: Token = Token(usize::MAX);

/// Listener number n has the token this many below the highest.
const LISTENERS: usize = usize::MAX - 1;

/// TCP keepalive of text lines, whose silence is no sign of death: seconds of silence before the first probe, and
/// between probes.
const KEEPALIVE_IDLE_S: u64 = 60;
const KEEPALIVE_INTERVAL_S: u64 = 15;

/// One core's share of the kernel.
#[derive(Debug)]
pub struct Kernel {
    poll: Poll,
    ready: Events,
    listeners: Vec<(ListenKind, Registered)>,
    wakers: Arc<Vec<Waker>>,
    journal: Option<Journal>,
    started: Instant,
}

/// A listener whose readiness is reported.
#[derive(Debug)]
enum Registered {
    Port(TcpListener),
    /// With what leads to each of the cores, and the number of the one that gets the next client.
    Path(UnixListener, Vec<Option<OwnedFd>>, usize),
    Passage(OwnedFd),
}

/// A core's journal, and the bell of the thread that reads it.
#[derive(Debug, Clone)]
pub struct Journal {
    /// The journal, into which this core alone writes.
    pub ring: Arc<Ring>,
    /// The bell.
    pub bell: Arc<Bell>,
}

/// The poll of one core and the waker that interrupts it, made before the threads are: every core needs every waker.
#[derive(Debug)]
pub struct Sleeper {
    poll: Poll,
}

impl Sleeper {
    /// A poll and its waker.
    pub fn new() -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        Ok((Sleeper { poll }, waker))
    }

    /// Sleeps until the waker is used, or the time is over: for a thread that has nothing else to wait for.
    pub fn sleep(&mut self, timeout: Option<Duration>) {
        let mut events = Events::with_capacity(1);
        // An interruption is as good as an event: the caller looks for work, and sleeps again.
        let _ = self.poll.poll(&mut events, timeout);
    }

    /// The descriptor of the poll.
    #[cfg(unix)]
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.poll)
    }
}

impl Kernel {
    /// The kernel of one core. `started` is the zero of its monotonic clock, the same for all cores.
    pub fn new(
        sleeper: Sleeper,
        listeners: Vec<(ListenKind, Listener)>,
        wakers: Arc<Vec<Waker>>,
        journal: Option<Journal>,
        events_per_turn: usize,
        started: Instant,
    ) -> io::Result<Self> {
        let poll = sleeper.poll;
        let mut registered = Vec::with_capacity(listeners.len());
        for (index, (kind, listener)) in listeners.into_iter().enumerate() {
            let token = Token(LISTENERS - index);
            let register = |source: &mut dyn mio::event::Source| {
                poll.registry().register(source, token, Interest::READABLE)
            };
            let listener = match listener {
                Listener::Port(listener) => {
                    let mut listener = TcpListener::from_std(listener);
                    register(&mut listener)?;
                    Registered::Port(listener)
                }
                Listener::Path(acceptor) => {
                    let mut listener = UnixListener::from_std(acceptor.listener);
                    register(&mut listener)?;
                    Registered::Path(listener, acceptor.passages, 0)
                }
                Listener::Passage(passage) => {
                    register(&mut SourceFd(&passage.as_raw_fd()))?;
                    Registered::Passage(passage)
                }
            };
            registered.push((kind, listener));
        }
        Ok(Kernel {
            poll,
            ready: Events::with_capacity(events_per_turn),
            listeners: registered,
            wakers,
            journal,
            started,
        })
    }
}

/// Reads both clocks, the monotonic one as time since `started`.
pub fn read_clocks(started: Instant) -> Now {
    Now::new(started.elapsed().as_nanos() as u64, super::unix_ms())
}

/// Sets what a connection by TCP is to have. Options can fail only on one that has been reset, which the next read will tell.
fn prepare(socket: &Socket, kind: ListenKind) {
    if !cfg!(target_os = "linux") {
        let _ = socket.set_tcp_nodelay(true); // there it is inherited from the listener
    }
    if kind == ListenKind::Line {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(KEEPALIVE_IDLE_S))
            .with_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S));
        let _ = socket.set_tcp_keepalive(&keepalive);
    }
}

impl Os for Kernel {
    /// By TCP or a path: what is asked of either is the same.
    type Socket = Socket;

    fn now(&mut self) -> Now {
        read_clocks(self.started)
    }

    fn monotonic_ns(&mut self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn poll(&mut self, events: &mut Vec<Event>, wait_ms: Option<u64>) -> io::Result<()> {
        self.poll.poll(&mut self.ready, wait_ms.map(Duration::from_millis))?;
        events.extend(self.ready.iter().map(|event| {
            let source = match event.token() {
                WAKE => Source::Wake,
                Token(token) if token > LISTENERS - self.listeners.len() => {
                    Source::Listener(LISTENERS - token)
                }
                Token(token) => Source::Connection(Id::from_bits(token as u64)),
            };
            Event {
                source,
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed() || event.is_error(),
            }
        }));
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<Option<(Socket, IpAddr)>> {
        let (kind, listener) = &mut self.listeners[listener];
        match listener {
            Registered::Port(listener) => {
                let (stream, peer) = listener.accept()?;
                let socket = Socket::from(std::net::TcpStream::from(stream));
                prepare(&socket, *kind);
                Ok(Some((socket, peer.ip().to_canonical())))
            }
            Registered::Path(listener, passages, next) => {
                let (stream, _) = listener.accept()?;
                let stream = OwnedFd::from(std::os::unix::net::UnixStream::from(stream));
                let core = *next;
                *next = (core + 1) % passages.len();
                let kept = match &passages[core] {
                    Some(passage) => path::pass(passage, stream).err(),
                    None => Some(stream),
                };
                Ok(kept.map(|stream| (stream.into(), PEER_ON_PATH)))
            }
            Registered::Passage(passage) => Ok(Some((path::receive(passage)?.into(), PEER_ON_PATH))),
        }
    }

    fn connect(&mut self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<Socket> {
        Ok(connect::begin(to, from)?.into())
    }

    fn register(&mut self, socket: &mut Socket, id: Id) -> io::Result<()> {
        let token = Token(id.to_bits() as usize);
        let mut source = SourceFd(&socket.as_raw_fd());
        self.poll.registry().register(&mut source, token, Interest::READABLE | Interest::WRITABLE)
    }

    fn read(&mut self, socket: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
        socket.read(buffer)
    }

    fn write(&mut self, socket: &mut Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // send(2) spares the kernel the work of writev(2) on a list of one, which is what most writes are.
        match slices {
            [one] => socket.write(one),
            many => socket.write_vectored(many),
        }
    }

    fn is_path(&self, listener: usize) -> bool {
        !matches!(self.listeners[listener].1, Registered::Port(_))
    }

    fn tcp_info(&mut self, socket: &mut Socket) -> Option<TcpInfo> {
        super::connect::tcp_info(socket)
    }

    fn unacknowledged(&mut self, socket: &mut Socket) -> usize {
        super::connect::unacknowledged(socket)
    }

    fn end_output(&mut self, socket: &mut Socket) -> io::Result<()> {
        socket.shutdown(Shutdown::Write)
    }

    fn abort(&mut self, socket: &mut Socket) {
        // SO_LINGER of zero seconds, socket(7). Can only fail on a connection that has been reset already.
        let _ = socket.set_linger(Some(Duration::ZERO));
    }

    fn close(&mut self, socket: Socket) {
        drop(socket);
    }

    fn write_journal(&mut self, frame: &[u8]) -> Option<u64> {
        let journal = self.journal.as_ref()?;
        let end = journal.ring.push(frame);
        match end {
            Some(_) => journal.bell.ring(),
            None => journal.ring.set_behind(true),
        }
        end
    }

    fn note_journal_whole(&mut self) {
        if let Some(journal) = &self.journal {
            journal.ring.set_behind(false);
        }
    }

    fn journal_room(&mut self) -> usize {
        self.journal.as_ref().map_or(0, |journal| journal.ring.room())
    }

    fn wake(&mut self, core: usize) {
        if let Err(error) = self.wakers[core].wake() {
            log::error!("core {core} could not be woken: {error}");
        }
    }
}
