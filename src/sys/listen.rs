//! Listening sockets: one a core for each address, and the kernel spreads the clients over them (SO_REUSEPORT,
//! socket(7)). Paths are shared otherwise: see [`path`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::path::{self, Acceptor, PathError, SocketFile};

/// Where one core hears of clients.
#[derive(Debug)]
pub enum Listener {
    /// Its own share of a port.
    Port(TcpListener),
    /// A path, of whose clients it hands most on.
    Path(Acceptor),
    /// Its end of where the core that accepts hands clients on to it.
    Passage(OwnedFd),
}

impl Listener {
    /// Its descriptors.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Listener::Port(listener) => vec![listener.as_raw_fd()],
            Listener::Path(acceptor) => {
                let passages = acceptor.passages.iter().flatten().map(AsRawFd::as_raw_fd);
                passages.chain([acceptor.listener.as_raw_fd()]).collect()
            }
            Listener::Passage(passage) => vec![passage.as_raw_fd()],
        }
    }
}

/// Looks whether this machine has an address, without taking the port.
///
/// # Errors
/// What the kernel says.
pub fn check(mut address: SocketAddr) -> io::Result<()> {
    address.set_port(0);
    socket(address)?.bind(&address.into())
}

/// Opens a path for `cores`, of which the one with the number `accepting` accepts; a queue of `backlog` clients, and `mode` as
/// of chmod(2).
///
/// # Errors
/// As [`path::listen`]; and when there are no descriptors.
pub fn listen_on_path(
    path: &Path,
    mode: u32,
    cores: usize,
    accepting: usize,
    backlog: usize,
) -> Result<(Vec<Listener>, SocketFile), PathError> {
    let (listener, file) = path::listen(path, mode, backlog)?;
    let (passages, ends): (Vec<Option<OwnedFd>>, Vec<Option<OwnedFd>>) =
        path::passages(cores, accepting)?.into_iter().map(Option::unzip).unzip();
    let mut acceptor = Some(Acceptor { listener, passages });
    let of_core = |end| match end {
        Some(end) => Listener::Passage(end),
        None => Listener::Path(acceptor.take().expect("one core accepts")),
    };
    Ok((ends.into_iter().map(of_core).collect(), file))
}

/// Opens `cores` listening sockets on one port, with a queue of `backlog` clients each. Port 0 takes a free one, the
/// same for all. With `processors`, a client goes to the socket whose processor takes in its packets (SO_INCOMING_CPU, socket(7)).
///
/// # Errors
/// `AddrInUse` when somebody listens there already, even if that one would share: two servers that share a port by
/// accident would each get half of the clients.
pub fn listen(
    address: SocketAddr,
    cores: usize,
    backlog: usize,
    processors: Option<&[usize]>,
) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        let probe = socket(address)?;
        probe.bind(&address.into())?;
        probe.listen(1)?;
    }
    let mut address = address;
    let mut listeners = Vec::with_capacity(cores);
    for core in 0..cores {
        let socket = socket(address)?;
        #[cfg(unix)]
        if cores > 1 {
            socket.set_reuse_port(true)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(processor) = processors.and_then(|processors| processors.get(core)) {
            socket.set_cpu_affinity(*processor)?;
        }
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A server that is started again must not wait for the last one's connections to be forgotten (TIME_WAIT).
    socket.set_reuse_address(true)?;
    // What is written is a turn's worth already: waiting for more to send (Nagle) would only delay it. On Linux what is
    // accepted inherits this, which saves each connection a system call.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // An IPv6 address is just that; whoever wants both families lists both.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_accepted_does_not_wait_for_more_to_send() {
        let listeners = listen("127.0.0.1:0".parse().unwrap(), 1, 16, None).unwrap();
        let _client = std::net::TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
        listeners[0].set_nonblocking(false).unwrap();
        assert!(listeners[0].accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn cores_share_a_free_port_and_strangers_do_not() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listeners = listen(any, 3, 16, None).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert!(listeners.iter().all(|l| l.local_addr().unwrap() == address));
        let error = listen(address, 2, 16, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn clients_are_steered_to_the_processor_that_takes_in_their_packets() {
        let processors = crate::sys::threads::processors();
        let listeners =
            listen("127.0.0.1:0".parse().unwrap(), processors.len(), 64, Some(&processors)).unwrap();
        let address = listeners[0].local_addr().unwrap();
        for (core, processor) in processors.into_iter().enumerate() {
            let clients = std::thread::spawn(move || {
                assert!(crate::sys::threads::pin(processor));
                // On loopback the sender's processor takes in.
                (0..16).map(|_| std::net::TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
            });
            let clients = clients.join().unwrap();
            let accepted =
                listeners.iter().map(|listener| std::iter::from_fn(|| listener.accept().ok()).count());
            let accepted: Vec<usize> = accepted.collect();
            assert_eq!(accepted[core], clients.len(), "processor {processor}: {accepted:?}");
        }
    }
}
