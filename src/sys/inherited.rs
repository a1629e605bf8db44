//! Listening sockets that whoever started this process has opened for it (sd_listen_fds(3)): they outlive it, so that who comes while it is
//! started anew waits in their queues instead of being refused.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Socket, Type};

/// One of them.
#[derive(Debug)]
pub struct Inherited {
    /// Where it listens.
    pub address: SocketAddr,
    socket: Socket,
}

/// Looks whether they are all there. It is asked before this process has opened anything, which would be taken for one of them.
///
/// # Errors
/// One line: LISTEN_FDS tells of some that are not.
pub fn check() -> Result<(), String> {
    sd_notify::listen_fds().map(drop).map_err(refusal)
}

fn refusal(error: io::Error) -> String {
    if error.raw_os_error() != Some(libc::EBADF) {
        return format!("LISTEN_FDS: {error}");
    }
    let count = std::env::var("LISTEN_FDS").unwrap_or_default();
    format!(
        "LISTEN_FDS={count} says that so many sockets were passed, as descriptors from 3 on, and they are not there: have a socket unit start \
         the server, or unset LISTEN_FDS and LISTEN_PID"
    )
}

/// Takes those that there are, once: a second time there are none.
///
/// # Errors
/// One line: what was passed cannot be used.
pub fn take() -> Result<Vec<Inherited>, String> {
    static ARE_TAKEN: AtomicBool = AtomicBool::new(false);
    if ARE_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds().map_err(refusal)?;
    passed
        .map(|fd| {
            // SAFETY: whoever set LISTEN_FDS for this process says that these are its own from 3 on, and sd_notify has found that they are
            // open. They are taken once.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            understand(socket)
                .map_err(|why| format!("the socket that was passed as descriptor {fd} (LISTEN_FDS) {why}"))
        })
        .collect()
}

fn understand(socket: Socket) -> Result<Inherited, String> {
    let failed = |error: io::Error| format!("cannot be used: {error}");
    if socket.r#type().map_err(failed)? != Type::STREAM || !is_listening(&socket).map_err(failed)? {
        return Err("is none that listens for streams (ListenStream=, Accept=no)".to_owned());
    }
    let address = socket.local_addr().map_err(failed)?;
    let address = address.as_socket().ok_or("has no port: paths are not taken over")?;
    Ok(Inherited { address, socket })
}

#[cfg(target_os = "linux")]
fn is_listening(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

#[cfg(not(target_os = "linux"))]
fn is_listening(_: &Socket) -> io::Result<bool> {
    Ok(true)
}

impl Inherited {
    /// The listener for one core. It can be asked for by several, which then accept from one queue.
    ///
    /// # Errors
    /// When there are no descriptors.
    pub fn listener(&self) -> io::Result<TcpListener> {
        let socket = self.socket.try_clone()?;
        // As of our own: see `listen`.
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::Domain;

    #[test]
    fn what_does_not_listen_is_none() {
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(understand(stream).unwrap_err().contains("ListenStream"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inherited = understand(Socket::from(listener)).unwrap();
        assert_eq!(inherited.address, address);
        let (one, other) = (inherited.listener().unwrap(), inherited.listener().unwrap());
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert!(one.accept().is_ok() || other.accept().is_ok());
    }
}
