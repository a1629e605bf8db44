//! What can go wrong at once, before anything is asked of the server.

use std::fmt;
use std::io;

use crate::event::{Failure, Reason};

/// Why a client does not take something.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The address or another option is wrong.
    Options(String),
    /// Certificates cannot be read, or TLS cannot be set up.
    Tls(String),
    /// The journal cannot be read or written, or another client has it open.
    Journal(io::Error),
    /// A thread, a poll or a socket cannot be made.
    Io(io::Error),
    /// As much waits as may wait.
    QueueFull,
    /// The content, or the whole command, is longer than the server takes.
    TooLarge,
    /// There is nothing in it.
    Empty,
    /// One has not joined this room.
    NotInRoom(String),
    /// The client has stopped: see [`Event::Stopped`](crate::Event::Stopped).
    Stopped,
    /// This command has a method of its own.
    OwnMethod(&'static str),
    /// What was waited for has failed.
    Failed(Failure),
    /// There is no session, and this is why.
    Offline(Reason),
    /// It did not happen in the time given, and the client waits for its events to be taken: see
    /// [`Options::event_queue`](crate::Options::event_queue) and [`Options::without_events`](crate::Options::without_events).
    EventsFull,
    /// It did not happen in the time given.
    Timeout,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Options(why) => write!(f, "the options are wrong: {why}"),
            Error::Tls(why) => write!(f, "no TLS: {why}"),
            Error::Journal(error) => write!(f, "the journal: {error}"),
            Error::Io(error) => error.fmt(f),
            Error::QueueFull => {
                f.write_str("as much waits as may wait: try again when some of it is answered")
            }
            Error::TooLarge => f.write_str("it is longer than the server takes"),
            Error::Empty => f.write_str("there is nothing in it"),
            Error::NotInRoom(room) => write!(f, "join {room} first"),
            Error::Stopped => f.write_str("the client has stopped"),
            Error::OwnMethod(name) => write!(f, "`{name}` has a method of its own"),
            Error::Failed(failure) => failure.fmt(f),
            Error::Offline(reason) => reason.fmt(f),
            Error::EventsFull => f.write_str("the client waits for its events to be taken"),
            Error::Timeout => f.write_str("it did not happen in time"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Journal(error) | Error::Io(error) => Some(error),
            _ => None,
        }
    }
}
