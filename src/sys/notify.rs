//! Sockets in the abstract namespace, by which supervisors may be told something: unix(7), sd_notify(3).

use std::io;

/// Sends a message to a socket that has a name and no path.
///
/// # Errors
/// When nobody listens there, or this kernel has no such sockets.
#[cfg(target_os = "linux")]
pub fn send_to_abstract(name: &[u8], message: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// There are none.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn send_to_abstract(_: &[u8], _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
