//! Listeners, opened for all cores, and why one cannot be.

use std::io;
use std::net::SocketAddr;

use super::{Maker, ServeError, failure, places};
use crate::config::{Address, Listen, Mode};
use crate::sys::inherited::Inherited;
use crate::sys::listen::{self, Listener};
use crate::sys::owner;
use crate::sys::path::{self, PathError, SocketFile};

/// An address that is listened on, by each core.
pub struct Opened {
    /// What each core has of it.
    pub listeners: Vec<Listener>,
    /// Where, with the port that was given to it if any was asked for.
    pub address: Address,
    /// The file of a path.
    pub file: Option<SocketFile>,
    /// Whether the sockets are those of whoever has started the server, and outlive it.
    pub is_inherited: bool,
}

/// Takes the sockets of an address out of those that were passed, and shares them out to the cores.
///
/// # Errors
/// One line: there are more than cores, and nobody would accept from some.
pub fn inherit(
    listen: &Listen,
    cores: usize,
    inherited: &mut Vec<Inherited>,
) -> Result<Option<Opened>, ServeError> {
    let Address::Socket(address) = listen.address else { return Ok(None) };
    let (passed, others) = std::mem::take(inherited).into_iter().partition(|one| one.address == address);
    *inherited = others;
    let passed: Vec<Inherited> = passed;
    if passed.is_empty() {
        return Ok(None);
    }
    if passed.len() > cores {
        return Err(failure(format!(
            "{} sockets were passed for {address} (LISTEN_FDS), and there are {cores} cores: pass one for each core",
            passed.len()
        )));
    }
    if passed.len() < cores {
        log::warn!(
            "{} of {cores} cores share a socket for {address}: with ReusePort=yes and ListenStream={address} once a core each has its own",
            if passed.len() == 1 { "all".to_owned() } else { "some".to_owned() }
        );
    }
    let listener = |core: usize| passed[core % passed.len()].listener().map(Listener::Port);
    let listeners = (0..cores).map(listener).collect::<io::Result<_>>();
    let listeners = listeners.map_err(|error| failure(format!("cannot take over {address}: {error}")))?;
    Ok(Some(Opened { listeners, address: listen.address.clone(), file: None, is_inherited: true }))
}

/// Says of sockets that were passed and that nothing is configured for: their clients would wait for ever.
///
/// # Errors
/// One line that names the address.
pub fn none_left(inherited: &[Inherited]) -> Result<(), ServeError> {
    let Some(one) = inherited.first() else { return Ok(()) };
    Err(failure(format!(
        "a socket for {} was passed (LISTEN_FDS), and no listener has that address: add one with --listen KIND={}, or take it out of the socket unit",
        one.address, one.address
    )))
}

/// Opens an address for each of the `cores`, of which `accepting` accepts where only one can.
///
/// # Errors
/// One line for a person: who has it, or what the kernel says, and what to do.
pub fn open(
    listen: &Listen,
    cores: usize,
    accepting: usize,
    backlog: usize,
    processors: Option<&[usize]>,
    maker: &Maker,
) -> Result<Opened, ServeError> {
    let kind = listen.kind.word();
    let place = &listen.address;
    let address = match place {
        Address::Socket(address) => *address,
        Address::Unix(path) => {
            let mode = listen.mode.unwrap_or(Mode::DEFAULT).bits();
            let listening =
                maker.make(path, || match listen::listen_on_path(path, mode, cores, accepting, backlog) {
                    Err(PathError::Io(error)) => Err(error),
                    done => Ok(done),
                });
            let (listeners, file) = listening
                .unwrap_or_else(|error| Err(error.into()))
                .map_err(|error| failure(path_failure(kind, place, error)))?;
            return Ok(Opened { listeners, address: place.clone(), file: Some(file), is_inherited: false });
        }
    };
    let listeners = listen::listen(address, cores, backlog, processors).map_err(|error| {
        failure(match error.kind() {
            io::ErrorKind::AddrInUse => {
                let owner = owner::of_port(address).unwrap_or_else(|| "another process".into());
                if is_this_process(&owner) {
                    return failure(shares(address));
                }
                format!("{address} is taken by {owner}: stop it, or choose another address with --listen {kind}=ADDRESS")
            }
            io::ErrorKind::PermissionDenied => {
                format!("{address}: ports below 1024 need privileges; choose another with --listen {kind}=ADDRESS")
            }
            _ => format!("cannot listen on {address}: {error}"),
        })
    })?;
    let address = listeners[0].local_addr().map_err(|e| failure(e.to_string()))?;
    let listeners = listeners.into_iter().map(Listener::Port).collect();
    Ok(Opened { listeners, address: Address::Socket(address), file: None, is_inherited: false })
}

/// Looks whether an address could be listened on, if nobody does but those before it.
///
/// # Errors
/// As [`open`].
pub fn check(listen: &Listen, earlier: &[Listen]) -> Result<(), String> {
    let place = &listen.address;
    match place {
        Address::Socket(address) => {
            listen::check(*address).map_err(|error| format!("cannot listen on {address}: {error}"))?;
            let overlaps = |earlier: &Listen| match earlier.address {
                Address::Socket(earlier) => overlap(*address, earlier),
                Address::Unix(_) => false,
            };
            if earlier.iter().any(overlaps) { Err(shares(*address)) } else { Ok(()) }
        }
        Address::Unix(path) => {
            path::check(path).map_err(|error| path_failure(listen.kind.word(), place, error))
        }
    }
}

/// Whether a listener has a place that there may be on some machine.
///
/// # Errors
/// As [`open`].
pub fn check_value(listen: &Listen) -> Result<(), String> {
    match &listen.address {
        Address::Unix(path) if path.as_os_str().len() > path::BYTES_MAX => {
            Err(path_failure(listen.kind.word(), &listen.address, PathError::TooLong))
        }
        _ => Ok(()),
    }
}

/// Whether two addresses cannot both be listened on, as one of them is, or has, the other. IPv6 is that alone: see [`listen::listen`].
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn shares(address: SocketAddr) -> String {
    format!("{address} is the address of another listener of this server, or part of it")
}

fn has_directory(place: &Address) -> bool {
    let Address::Unix(path) = place else { return true };
    path.parent().is_none_or(|parent| parent.as_os_str().is_empty() || parent.is_dir())
}

/// Whether whoever has something is this server itself.
fn is_this_process(owner: &str) -> bool {
    owner.ends_with(&format!("(process {})", std::process::id()))
}

/// Why a path cannot be listened on, and what to do, in a line.
fn path_failure(kind: &str, place: &Address, error: PathError) -> String {
    match error {
        PathError::Live(Some(owner)) if is_this_process(&owner) => places::of_another_listener(place),
        PathError::Live(owner) => {
            let owner = owner.unwrap_or_else(|| "another process".into());
            format!(
                "{place} is taken by {owner}: stop it, or choose another path with --listen {kind}=unix:PATH"
            )
        }
        PathError::NoSocket => {
            format!(
                "{place}: what is there is a link, or no socket, and is left alone: remove it, or choose another path"
            )
        }
        PathError::TooLong => {
            format!(
                "{place}: the path of a socket has at most {} bytes: choose a shorter one",
                path::BYTES_MAX
            )
        }
        PathError::Io(error) => match error.kind() {
            io::ErrorKind::NotFound if !has_directory(place) => {
                format!("{place}: its directory does not exist: make it, or choose another path")
            }
            _ => format!("cannot listen on {place}: {error}"),
        },
    }
}
