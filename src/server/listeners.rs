//! Listeners, opened for all cores, and why one cannot be.

use std::io;

use super::{ServeError, failure};
use crate::config::{Address, Listen, Mode};
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
) -> Result<Opened, ServeError> {
    let kind = listen.kind.word();
    let place = &listen.address;
    let address = match place {
        Address::Socket(address) => *address,
        Address::Unix(path) => {
            let mode = listen.mode.unwrap_or(Mode::DEFAULT).bits();
            let (listeners, file) = listen::listen_on_path(path, mode, cores, accepting, backlog)
                .map_err(|error| failure(path_failure(kind, place, error)))?;
            return Ok(Opened { listeners, address: place.clone(), file: Some(file) });
        }
    };
    let listeners = listen::listen(address, cores, backlog, processors).map_err(|error| {
        failure(match error.kind() {
            io::ErrorKind::AddrInUse => {
                let owner = owner::of_port(address).unwrap_or_else(|| "another process".into());
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
    Ok(Opened { listeners, address: Address::Socket(address), file: None })
}

fn has_directory(place: &Address) -> bool {
    let Address::Unix(path) = place else { return true };
    path.parent().is_none_or(|parent| parent.as_os_str().is_empty() || parent.is_dir())
}

/// Why a path cannot be listened on, and what to do, in a line.
fn path_failure(kind: &str, place: &Address, error: PathError) -> String {
    match error {
        PathError::Live(Some(owner)) if owner.ends_with(&format!("(process {})", std::process::id())) => {
            format!("{place} is the path of another listener, by another name")
        }
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
