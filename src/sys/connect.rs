//! Outgoing connections, and what the kernel knows of any.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::tcp::TcpInfo;

/// Begins to connect to `to`, from the address `from` where that is given. The socket does not block; it can be written to
/// when the connection is there.
pub fn begin(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // What is written is whole: waiting for more (Nagle) would only delay it.
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        choose_port_late(&socket)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Has the port chosen when the other end is known, so that each pair of addresses has all of them: `IP_BIND_ADDRESS_NO_PORT`
/// of ip(7).
#[cfg(target_os = "linux")]
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the kernel reads an int of the given size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn choose_port_late(_: &Socket) -> io::Result<()> {
    Ok(())
}

/// How many of the bytes written the peer has not acknowledged: `SIOCOUTQ` of tcp(7). Works on a connection that has been reset,
/// too. 0 where the kernel does not tell; and on a connection by a path, where bytes are with the peer as soon as they are written,
/// and the kernel tells what memory they take.
#[cfg(target_os = "linux")]
pub fn unacknowledged(socket: &Socket) -> usize {
    use std::os::fd::AsRawFd;

    if socket.domain().is_ok_and(|domain| domain == Domain::UNIX) {
        return 0;
    }
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes an int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// How many of the bytes written the peer has not acknowledged, which this system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn unacknowledged(_: &Socket) -> usize {
    0
}

/// What the kernel knows of a connection by TCP: `TCP_INFO` of tcp(7). `None` where it does not tell, and of any other connection.
#[cfg(target_os = "linux")]
pub fn tcp_info(socket: &Socket) -> Option<TcpInfo> {
    use std::os::fd::AsRawFd;

    // SAFETY: it is a plain C structure of numbers, for all of which zero is one.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most so many bytes there.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut bytes,
        )
    };
    (result == 0).then_some(TcpInfo {
        rtt_us: info.tcpi_rtt,
        rtt_var_us: info.tcpi_rttvar,
        retransmits: info.tcpi_total_retrans,
        unacked: info.tcpi_unacked,
    })
}

/// What the kernel knows of a connection by TCP, which is asked on Linux alone.
#[cfg(not(target_os = "linux"))]
pub fn tcp_info(_: &Socket) -> Option<TcpInfo> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_tells_of_tcp_and_of_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap();
        let info = tcp_info(&stream.into()).expect("figures");
        // A fresh connection has measured its handshake, and lost nothing.
        assert!(info.rtt_us > 0, "{info:?}");
        assert_eq!((info.retransmits, info.unacked), (0, 0));
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(tcp_info(&one.into()), None);
    }

    #[test]
    fn connects_from_the_address_that_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let streams: Vec<TcpStream> =
            ["127.0.0.2", "127.0.0.3"].map(|from| begin(to, Some(from.parse().unwrap())).unwrap()).into();
        let from: Vec<String> = (0..2).map(|_| listener.accept().unwrap().1.ip().to_string()).collect();
        assert_eq!(from, ["127.0.0.2", "127.0.0.3"]);
        drop(streams);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_peer_does_not_take_is_unacknowledged_even_after_a_reset() {
        use std::io::Write;

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = begin(listener.local_addr().unwrap(), None).unwrap();
        let mut stream = Socket::from(listener.accept().unwrap().0);
        stream.set_nonblocking(true).unwrap();
        // More than the peer's kernel takes for it: the rest waits in ours.
        let mut written = 0;
        while let Ok(bytes) = stream.write(&[0; 65_536]) {
            written += bytes;
        }
        let waiting = unacknowledged(&stream);
        assert!(waiting > 0 && waiting < written, "{waiting} of {written}");
        socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        stream.set_nonblocking(false).unwrap();
        assert!(stream.read(&mut [0]).is_err(), "the reset has come");
        assert!(unacknowledged(&stream) > 0);
    }

    #[test]
    fn a_refused_connection_fails_when_it_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        // Loopback refuses at once; other networks after a round trip.
        let refused = begin(to, None).and_then(|mut stream| {
            stream.set_nonblocking(false)?;
            stream.read(&mut [0])
        });
        assert!(refused.is_err(), "{refused:?}");
    }
}
