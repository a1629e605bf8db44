//! What the loop believes about the kernel, asked of the kernel itself, and the loop beside it.
//!
//! Each fact has cost some server a connection that hung, or a core that spun. That wake-ups between cores are not lost is
//! one more: it is a matter of memory order, and proved by a model checker in `doorbell_loom.rs`.

#![cfg(target_os = "linux")]

#[path = "common/core.rs"]
mod core;

mod common;

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{SockAddr, Socket, Type};
use starling::base::slots::Id;
use starling::base::time::Now;
use starling::config::ListenKind;
use starling::reactor::{Event, Os, Reactor, Source};
use starling::sys::kernel::{Kernel, Sleeper, read_clocks};
use starling::sys::listen::{self, Listener};

use common::{Client, DEADLINE, Server, limited};

/// How long nothing must happen for it to be silence.
const SILENCE: Duration = Duration::from_millis(100);

const ANY: &str = "127.0.0.1:0";

#[derive(Debug, PartialEq, Eq)]
struct Edge {
    readable: bool,
    writable: bool,
    read_closed: bool,
}

/// What a poll reports within `wait`, in one go.
fn edges(poll: &mut Poll, wait: Duration) -> Vec<Edge> {
    let mut events = Events::with_capacity(16);
    poll.poll(&mut events, Some(wait)).unwrap();
    let edge = |event: &mio::event::Event| Edge {
        readable: event.is_readable(),
        writable: event.is_writable(),
        read_closed: event.is_read_closed(),
    };
    events.iter().map(edge).collect()
}

/// Everything that a poll reports until it falls silent.
fn edges_until_silence(poll: &mut Poll) -> Vec<Edge> {
    let mut all = edges(poll, DEADLINE);
    loop {
        let more = edges(poll, SILENCE);
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// A client whose kernel takes little before somebody reads, so that writing to it blocks soon.
fn connect_narrow(address: &SockAddr) -> Socket {
    let socket = Socket::new(address.domain(), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Both ends of a connection: the peer's, and ours as mio has it.
fn pair() -> (TcpStream, mio::net::TcpStream) {
    let listener = TcpListener::bind(ANY).unwrap();
    let peer = TcpStream::from(connect_narrow(&listener.local_addr().unwrap().into()));
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (peer, mio::net::TcpStream::from_std(ours))
}

/// Writes until the socket takes no more, and returns how much it took.
fn fill(ours: &mut mio::net::TcpStream) -> usize {
    let mut filled = 0;
    loop {
        match ours.write(&[b'x'; 65_536]) {
            Ok(written) => filled += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return filled,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_blocked_write_that_drains_is_one_edge() {
    let (mut peer, mut ours) = pair();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut ours, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    let writable = Edge { readable: false, writable: true, read_closed: false };
    assert_eq!(edges_until_silence(&mut poll), [writable], "a new socket may be written to, told once");
    // Registered once, for as many blocked writes as come.
    for _ in 0..3 {
        let filled = fill(&mut ours);
        assert_eq!(edges(&mut poll, SILENCE), [], "nobody has read yet");
        peer.read_exact(&mut vec![0; filled]).unwrap();
        let writable = Edge { readable: false, writable: true, read_closed: false };
        assert_eq!(edges_until_silence(&mut poll), [writable]);
    }
}

#[test]
fn data_and_the_end_that_arrive_together_are_one_event() {
    let (mut peer, mut ours) = pair();
    peer.write_all(b"last words").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    // A poll of its own tells when both have arrived.
    let mut arrival = Poll::new().unwrap();
    let descriptor = ours.as_raw_fd();
    arrival.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    while !edges(&mut arrival, DEADLINE).iter().any(|edge| edge.read_closed) {}

    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut ours, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    let both = Edge { readable: true, writable: true, read_closed: true };
    assert_eq!(edges(&mut poll, DEADLINE), [both]);
    let mut buffer = [0; 64];
    assert_eq!(ours.read(&mut buffer).unwrap(), 10, "a short read");
    assert_eq!(edges(&mut poll, SILENCE), [], "whoever stopped there would never hear of the end");
    assert_eq!(ours.read(&mut buffer).unwrap(), 0, "but it is there");
}

/// Marks the process that [`in_small_process`] starts.
const SMALL: &str = "STARLING_TEST_FEW_FILES";

/// Runs the test of this name again in a process of its own that may have few open files, and says whether this is it.
fn in_small_process(test: &str) -> bool {
    if std::env::var_os(SMALL).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let mut command = limited(40, program.as_os_str());
    let output = command.args(["--exact", test, "--nocapture"]).env(SMALL, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

#[test]
fn a_listener_that_failed_for_want_of_descriptors_stays_silent() {
    if !in_small_process("a_listener_that_failed_for_want_of_descriptors_stays_silent") {
        return;
    }
    let mut listener = mio::net::TcpListener::bind(ANY.parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut listener, Token(0), Interest::READABLE).unwrap();
    let _waiting = TcpStream::connect(address).unwrap();
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert_eq!(edges(&mut poll, DEADLINE).len(), 1, "a client waits");
    let error = listener.accept().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    assert_eq!(edges(&mut poll, SILENCE), []);
    files.truncate(files.len() - 3);
    assert_eq!(edges(&mut poll, SILENCE), [], "there is room now, but nobody tells");
    let _another = TcpStream::connect(address).unwrap();
    assert_eq!(edges(&mut poll, DEADLINE).len(), 1, "another client comes");
    assert!(listener.accept().is_ok() && listener.accept().is_ok(), "and both are there");
}

#[test]
fn the_server_accepts_those_who_wait_when_descriptors_are_freed() {
    // A core keeps 64 descriptors for those whom it refuses, so that of these it has 16 for clients who may stay. More
    // come than there are descriptors, and faster than they are freed.
    const CLIENTS: usize = 400;
    let server = Server::with_files(80, &["--cores", "1"]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(server.line).unwrap()).collect();
    server.logged("accept failed");
    // From here on nobody connects, so that no edge comes: those who wait are found by the timer alone.
    let mut stay = 0;
    for client in &mut clients {
        client.stream().set_read_timeout(Some(DEADLINE)).unwrap();
        stay += usize::from(!client.line().starts_with("! 4105 "));
    }
    assert_eq!(stay, 16, "of {CLIENTS}");
    drop(clients);
    assert_eq!(server.stop().code(), Some(0));
}

/// The real kernel, and a record of what the loop asks of it. For one connection.
struct Watched {
    kernel: Kernel,
    started: Instant,
    reads: usize,
    input_events: usize,
    /// Whether the last write took less than it was given.
    is_blocked: bool,
    blocked_writes: usize,
    edges_after_block: usize,
    closed: usize,
}

impl Os for Watched {
    type Socket = socket2::Socket;

    fn now(&mut self) -> Now {
        read_clocks(self.started)
    }

    fn poll(&mut self, events: &mut Vec<Event>, wait_ms: Option<u64>) -> io::Result<()> {
        const WAIT_MAX_MS: u64 = 5; // so that the test looks at its client now and then
        let before = events.len();
        self.kernel.poll(events, Some(wait_ms.map_or(WAIT_MAX_MS, |ms| ms.min(WAIT_MAX_MS))))?;
        for event in events[before..].iter().filter(|event| matches!(event.source, Source::Connection(_))) {
            self.input_events += usize::from(event.readable || event.read_closed);
            if self.is_blocked && event.writable {
                self.is_blocked = false;
                self.edges_after_block += 1;
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<Option<(Self::Socket, IpAddr)>> {
        self.kernel.accept(listener)
    }

    fn register(&mut self, socket: &mut Self::Socket, id: Id) -> io::Result<()> {
        self.kernel.register(socket, id)
    }

    fn read(&mut self, socket: &mut Self::Socket, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        self.kernel.read(socket, buffer)
    }

    fn write(&mut self, socket: &mut Self::Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(!self.is_blocked, "a write that cannot succeed");
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = self.kernel.write(socket, slices);
        if !matches!(written, Ok(written) if written == wanted) {
            self.is_blocked = true;
            self.blocked_writes += 1;
        }
        written
    }

    fn end_output(&mut self, socket: &mut Self::Socket) -> io::Result<()> {
        self.kernel.end_output(socket)
    }

    fn close(&mut self, socket: Self::Socket) {
        self.closed += 1;
        self.kernel.close(socket);
    }

    fn wake(&mut self, core: usize) {
        self.kernel.wake(core);
    }
}

/// Where a listener is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Port,
    Path,
}

/// A core over real sockets with one listener, and a client of it.
fn watched(kind: ListenKind, place: Place) -> (Reactor<Watched>, Socket) {
    match place {
        Place::Port => {
            let mut listeners = listen::listen(ANY.parse().unwrap(), 1, 16, None).unwrap();
            let client = connect_narrow(&listeners[0].local_addr().unwrap().into());
            (reactor_of(kind, Listener::Port(listeners.remove(0))), client)
        }
        Place::Path => {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let (mut listeners, _file) = listen::listen_on_path(&path, 0o600, 1, 0, 16).unwrap();
            let client = connect_narrow(&SockAddr::unix(&path).unwrap());
            (reactor_of(kind, listeners.remove(0)), client)
        }
    }
}

fn reactor_of(kind: ListenKind, listener: Listener) -> Reactor<Watched> {
    let started = Instant::now();
    let (sleeper, waker) = Sleeper::new().unwrap();
    let kernel =
        Kernel::new(sleeper, vec![(kind, listener)], Arc::new(vec![waker]), None, 64, started).unwrap();
    let watched = Watched {
        kernel,
        started,
        reads: 0,
        input_events: 0,
        is_blocked: false,
        blocked_writes: 0,
        edges_after_block: 0,
        closed: 0,
    };
    core::reactors(0, [watched], &[kind], read_clocks(started)).remove(0)
}

#[track_caller]
fn turn_until(reactor: &mut Reactor<Watched>, mut is_so: impl FnMut(&mut Reactor<Watched>) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so(reactor) {
        assert!(Instant::now() < deadline, "the loop did not get there");
        reactor.turn();
    }
}

#[test]
fn the_loop_writes_again_when_the_edge_comes_and_not_before() {
    writes_at_edges(Place::Port);
}

#[test]
fn on_a_path_too() {
    writes_at_edges(Place::Path);
    finds_the_end(Place::Path);
}

#[test]
fn clients_of_a_path_are_handed_on_in_turn() {
    const CORES: usize = 3;
    const CLIENTS: usize = 2 * CORES;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let (listeners, _file) = listen::listen_on_path(&path, 0o600, CORES, 1, 16).unwrap();
    let (sleepers, wakers): (Vec<_>, Vec<_>) = (0..CORES).map(|_| Sleeper::new().unwrap()).unzip();
    let wakers = Arc::new(wakers);
    let mut kernels: Vec<Kernel> = sleepers
        .into_iter()
        .zip(listeners)
        .map(|(sleeper, listener)| {
            let listeners = vec![(ListenKind::Line, listener)];
            Kernel::new(sleeper, listeners, wakers.clone(), None, 64, Instant::now()).unwrap()
        })
        .collect();
    let mut clients: Vec<Socket> =
        (0..CLIENTS).map(|_| connect_narrow(&SockAddr::unix(&path).unwrap())).collect();
    let mut accept = |core: usize| {
        let mut events = Vec::new();
        kernels[core].poll(&mut events, Some(1000)).unwrap();
        assert_eq!(events.len(), 1, "core {core} hears of its clients: {events:?}");
        assert_eq!(events[0].source, Source::Listener(0));
        let accepted = std::iter::from_fn(|| kernels[core].accept(0).ok());
        accepted.map(|accepted| accepted.map(|(socket, _)| socket)).collect::<Vec<_>>()
    };
    let own = accept(1);
    assert_eq!(own.len(), CLIENTS, "the others' are counted here as well");
    let mut served = vec![own.into_iter().flatten().collect::<Vec<_>>()];
    served.extend(
        [0, 2].map(|core| accept(core).into_iter().map(|socket| socket.expect("it is ours")).collect()),
    );
    for mut sockets in served {
        assert_eq!(sockets.len(), CLIENTS / CORES);
        for socket in &mut sockets {
            socket.write_all(b"hello").unwrap();
        }
    }
    for client in &mut clients {
        let mut heard = [0; 5];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }
}

fn writes_at_edges(place: Place) {
    /// More than both kernels hold of it.
    const REQUESTS: usize = 1000;
    const REQUEST: &[u8] = b"GET /chat.js HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut reactor, mut client) = watched(ListenKind::Web, place);
    let (go, gone) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        client.write_all(&REQUEST.repeat(REQUESTS)).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        gone.recv_timeout(DEADLINE).unwrap();
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).map(|_| answers)
    });
    turn_until(&mut reactor, |reactor| reactor.os().is_blocked);
    for _ in 0..10 {
        reactor.turn();
    }
    assert_eq!(reactor.os().blocked_writes, 1, "nobody has read, so there is nothing to try");
    go.send(()).unwrap();
    turn_until(&mut reactor, |_| reader.is_finished());
    let answers = reader.join().unwrap().unwrap();
    let page = include_bytes!("../src/web/page/chat.js");
    let bodies = answers.windows(64).filter(|window| *window == &page[..64]).count();
    assert_eq!(bodies, REQUESTS, "every answer has come");
    let os = reactor.os();
    assert!(os.blocked_writes > 1, "the client was too fast for this test");
    assert_eq!(os.blocked_writes, os.edges_after_block);
    turn_until(&mut reactor, |reactor| reactor.world().connection_count() == 0);
}

#[test]
fn the_loop_finds_the_end_behind_the_last_words() {
    finds_the_end(Place::Port);
}

fn finds_the_end(place: Place) {
    let (mut reactor, mut client) = watched(ListenKind::Line, place);
    client.write_all(b"alice\n/ping\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    turn_until(&mut reactor, |reactor| reactor.os().closed == 1);
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    assert!(answers.contains("* welcome, alice") && answers.contains("* pong"), "{answers}");
    let os = reactor.os();
    assert_eq!((os.input_events, os.reads), (1, 2), "one event, for the words and for the end");
}
