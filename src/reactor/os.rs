//! What the loop needs of the kernel, and nothing more. `sys` implements it over mio, the simulator over a kernel of its
//! own that is edge-triggered in the same way, and full of faults.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};

use crate::base::slots::Id;
use crate::base::tcp::TcpInfo;
use crate::base::time::Now;

/// A kernel, as one core sees it. Every call but [`Os::poll`] returns at once.
pub trait Os {
    /// A connection.
    type Socket;

    /// Reads both clocks.
    fn now(&mut self) -> Now;

    /// Reads the monotonic one, in nanoseconds.
    fn monotonic_ns(&mut self) -> u64 {
        self.now().ns
    }

    /// Waits until something is ready, [`Os::wake`] was called for this core, or `wait_ms` milliseconds have passed
    /// (`None`: for ever; 0: not at all), and appends what is ready to `events`. Edge-triggered: what has been
    /// reported is not reported again until it has changed. Fails with `Interrupted` when a signal came.
    fn poll(&mut self, events: &mut Vec<Event>, wait_ms: Option<u64>) -> io::Result<()>;

    /// Accepts a connection on listener number `listener`. `None`: there was one, which is another core's now.
    fn accept(&mut self, listener: usize) -> io::Result<Option<(Self::Socket, IpAddr)>>;

    /// Begins to connect to `to`, from `from` if that matters: the socket can be written to when the connection is there.
    /// Kernels that only serve do without.
    fn connect(&mut self, _to: SocketAddr, _from: Option<IpAddr>) -> io::Result<Self::Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Has the events of a connection reported under `id`, for reading and writing, once and for all.
    fn register(&mut self, socket: &mut Self::Socket, id: Id) -> io::Result<()>;

    /// Reads into `buffer`. 0 bytes is the end of input.
    fn read(&mut self, socket: &mut Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes from `slices`, in order, and returns how many bytes.
    fn write(&mut self, socket: &mut Self::Socket, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether clients of listener number `listener` come by a path, so that their address tells nothing.
    fn is_path(&self, _listener: usize) -> bool {
        false
    }

    /// What the kernel knows of a connection by TCP, if it tells.
    fn tcp_info(&mut self, _socket: &mut Self::Socket) -> Option<TcpInfo> {
        None
    }

    /// How many of the bytes written the peer's kernel has not acknowledged.
    fn unacknowledged(&mut self, _socket: &mut Self::Socket) -> usize {
        0
    }

    /// Ends our side of a connection.
    fn end_output(&mut self, socket: &mut Self::Socket) -> io::Result<()>;

    /// Has the close that follows drop what the kernel has not sent yet, and reset the connection. For peers that have
    /// been given up: the kernel would keep up to megabytes for each of them, for a quarter of an hour.
    fn abort(&mut self, _socket: &mut Self::Socket) {}

    /// Closes a connection.
    fn close(&mut self, socket: Self::Socket);

    /// Wakes another core out of its poll, or the thread that reads the mailbox behind those of the cores.
    fn wake(&mut self, core: usize);

    /// Puts a frame into this core's journal, from where it outlives the process, and returns the position behind it; `None` if it has no
    /// place, which is noted in the journal too: what was announced is not all in it. Never waits for a disk. Without a store there is no
    /// journal, and nothing to put into it.
    fn write_journal(&mut self, _frame: &[u8]) -> Option<u64> {
        None
    }

    /// All that had no place in the journal is in it now.
    fn note_journal_whole(&mut self) {}

    /// How many bytes of one more frame have place in the journal.
    fn journal_room(&mut self) -> usize {
        0
    }
}

/// Something became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub source: Source,
    /// It may be read from, or accepted on.
    pub readable: bool,
    /// It may be written to.
    pub writable: bool,
    /// The peer has ended its side, or the connection has failed: a read will come to an end.
    pub read_closed: bool,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A connection.
    Connection(Id),
    /// A listener, by its number.
    Listener(usize),
    /// Another core has woken this one.
    Wake,
}
