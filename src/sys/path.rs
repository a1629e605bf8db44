//! Listening on a path: Unix domain sockets (unix(7)).
//!
//! Cores cannot share a path as they share a port. One of them accepts, and hands on in turn: each core has its own table of
//! descriptors, so that a connection goes through a socket between the two (SCM_RIGHTS), of which the other core's end looks like one
//! more listener.

use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{files, owner, threads};

/// Between cores a connection is a message. What has no place waits at the core that has accepted it.
#[cfg(target_os = "linux")]
const BETWEEN_CORES: SocketType = SocketType::SEQPACKET;
#[cfg(not(target_os = "linux"))]
const BETWEEN_CORES: SocketType = SocketType::DGRAM;

/// The most bytes of a path: one less than `sun_path` of unix(7) has, for its end.
pub const BYTES_MAX: usize =
    std::mem::size_of::<libc::sockaddr_un>() - std::mem::offset_of!(libc::sockaddr_un, sun_path) - 1;

/// For how long one server waits for another that looks at a path in the same directory, in milliseconds. A look takes less than one.
const TURN_MS: usize = 1000;

/// Why a path cannot be listened on.
#[derive(Debug)]
pub enum PathError {
    /// Somebody listens there; by name, if that can be found out.
    Live(Option<String>),
    /// There is something else, which is not ours to replace.
    NoSocket,
    /// The kernel has no place for so long a path.
    TooLong,
    /// Whatever the kernel says.
    Io(io::Error),
}

impl From<io::Error> for PathError {
    fn from(error: io::Error) -> Self {
        PathError::Io(error)
    }
}

/// The file of a socket that is listened on. It goes when this is dropped, if it is still the same one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|facts| files::id(&facts) == self.id);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Looks whether a socket could be made at `path`, if nobody listens there.
///
/// # Errors
/// Where something else than a socket is, or nothing can be made.
pub fn check(path: &Path) -> Result<(), PathError> {
    SockAddr::unix(path).map_err(|_| PathError::TooLong)?;
    match fs::symlink_metadata(path) {
        Ok(facts) if !facts.file_type().is_socket() => Err(PathError::NoSocket),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(files::check_directory(files::directory_of(path))?),
    }
}

/// Opens a listening socket at `path` with a queue of `backlog` clients, for those whom `mode` (chmod(2)) lets write. A socket there that
/// nobody listens on any more is replaced.
///
/// # Errors
/// Where somebody listens, or there is something else than a socket.
pub fn listen(path: &Path, mode: u32, backlog: usize) -> Result<(UnixListener, SocketFile), PathError> {
    let address = SockAddr::unix(path).map_err(|_| PathError::TooLong)?;
    let _turn = take_turn(files::directory_of(path));
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    // Nobody can connect before the socket listens, and so not before it has its mode.
    let id = files::id(&fs::symlink_metadata(path)?);
    let file = SocketFile { path: path.to_owned(), id };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok((OwnedFd::from(socket).into(), file))
}

/// Two servers that look at the same time must not both find nobody: they take turns, by a lock of the directory. Not for longer than a
/// second, as others may lock it for reasons of their own, and where it cannot be opened not at all.
fn take_turn(directory: &Path) -> Option<fs::File> {
    let lock = fs::File::open(directory).ok()?;
    for _ in 0..TURN_MS {
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => threads::sleep_ms(1),
            Err(fs::TryLockError::Error(_)) => return None,
            Ok(()) => return Some(lock),
        }
    }
    None
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), PathError> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(PathError::NoSocket);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Ok(()) => Err(PathError::Live(owner_of(&probe))),
        // So many clients wait for whoever it is that there is no place for one more; or it is no stream.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(PathError::Live(None)),
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => Err(PathError::Live(None)),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Err(error) => Err(error.into()),
    }
}

/// The process at the other end of a connection, as `name (process n)`: SO_PEERCRED of unix(7).
fn owner_of(socket: &Socket) -> Option<String> {
    #[cfg(target_os = "linux")]
    if let Ok(peer) = rustix::net::sockopt::socket_peercred(socket) {
        return Some(owner::describe(&peer.pid.as_raw_nonzero().to_string()));
    }
    let _ = socket;
    None
}

/// A path's listener, on the core that accepts.
#[derive(Debug)]
pub struct Acceptor {
    /// The listener.
    pub listener: UnixListener,
    /// What leads to each of the cores; nothing for the one that accepts.
    pub passages: Vec<Option<OwnedFd>>,
}

/// Makes what passes connections from core `own` to each of the `cores`: its ends and theirs, in the order of their numbers.
///
/// # Errors
/// When there are no descriptors for it.
pub fn passages(cores: usize, own: usize) -> io::Result<Vec<Option<(OwnedFd, OwnedFd)>>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let passage = |core| match core == own {
        true => Ok(None),
        false => Ok(Some(socketpair(AddressFamily::UNIX, BETWEEN_CORES, flags, None)?)),
    };
    (0..cores).map(passage).collect()
}

/// Hands a connection on, and closes it here.
///
/// # Errors
/// Gives it back when it cannot be: the other core does not keep up with what comes, or the system has no place.
pub fn pass(passage: &OwnedFd, connection: OwnedFd) -> Result<(), OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [connection.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    // A message has at least a byte.
    let sent =
        sendmsg(passage, &[IoSlice::new(&[0])], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    sent.map(|_| ()).map_err(|_| connection)
}

/// Takes a connection that another core has handed on.
///
/// # Errors
/// `WouldBlock` when there is none; EMFILE when there was one for which this core had no descriptor: it is lost.
pub fn receive(passage: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(passage, &mut [IoSliceMut::new(&mut [0])], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(connection) = descriptors.next()
        {
            return Ok(connection);
        }
    }
    match received.bytes == 0 && !received.flags.contains(ReturnFlags::CTRUNC) {
        true => Err(ErrorKind::WouldBlock.into()), // the other core has ended
        false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_handed_on_is_the_same_connection() {
        let mut passages = passages(2, 0).unwrap();
        assert!(passages[0].is_none());
        let (ours, theirs) = passages[1].take().unwrap();
        assert_eq!(receive(&theirs).unwrap_err().kind(), ErrorKind::WouldBlock);
        let (mut client, server) = UnixStream::pair().unwrap();
        pass(&ours, server.into()).unwrap();
        let mut server = UnixStream::from(receive(&theirs).unwrap());
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        drop(ours);
        assert_eq!(receive(&theirs).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_core_that_does_not_keep_up_gets_no_more_than_there_is_place_for() {
        let (ours, theirs) = passages(2, 0).unwrap()[1].take().unwrap();
        let (client, _server) = UnixStream::pair().unwrap();
        let mut passed = 0;
        let kept = loop {
            match pass(&ours, client.try_clone().unwrap().into()) {
                Ok(()) => passed += 1,
                Err(kept) => break kept,
            }
            assert!(passed < 100_000);
        };
        drop(kept);
        assert!(passed > 0);
        for _ in 0..passed {
            receive(&theirs).unwrap();
        }
        assert_eq!(receive(&theirs).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, file) = listen(&path, 0o600, 16).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let me = format!("(process {})", std::process::id());
        match listen(&path, 0o600, 16).unwrap_err() {
            PathError::Live(Some(owner)) => assert!(owner.ends_with(&me), "{owner}"),
            other => panic!("{other:?}"),
        }
        // As after a kill: the file is there, and nobody listens.
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = listen(&path, 0o660, 16).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path, 0o600, 16), Err(PathError::NoSocket)));
        let dangling = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &dangling).unwrap();
        assert!(matches!(listen(&dangling, 0o600, 16), Err(PathError::NoSocket)));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = directory.path().join("s".repeat(200));
        assert!(matches!(listen(&long, 0o600, 16), Err(PathError::TooLong)));
    }

    #[test]
    fn a_directory_that_somebody_else_has_locked_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let lock = fs::File::open(directory.path()).unwrap();
        lock.lock().unwrap();
        listen(&directory.path().join("s"), 0o600, 16).unwrap();
    }

    #[test]
    fn the_file_of_the_next_server_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (_listener, file) = listen(&path, 0o600, 16).unwrap();
        fs::remove_file(&path).unwrap();
        let (_next, _next_file) = listen(&path, 0o600, 16).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
