//! What a client tells its user.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::wire::{
    Ack, Bye, Gap, History, Joined, Left, Members, Message, Presence, Private, Rooms, ServerError, State,
    System, Typing, Welcome,
};

/// Names something that was asked of a client: what becomes of it is told with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What has become of a message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// It waits for the connection, for its room, or for those before it.
    Queued,
    /// It has been written to the connection; nothing has come back yet.
    Sent,
    /// The server has it. For a room's message `epoch` and `offset` tell its place.
    Acknowledged(Ack),
    /// It will not be tried any more.
    Failed(Failure),
}

impl Delivery {
    /// Whether this is the last that is told of a message.
    pub fn is_final(&self) -> bool {
        matches!(self, Delivery::Acknowledged(_) | Delivery::Failed(_))
    }
}

/// Why something that was asked was not done, as far as one knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The server has refused it.
    Refused(ServerError),
    /// The connection broke before the answer came: it may or may not have been done.
    Lost,
    /// A message was under way in a session that is gone, or for longer than the server remembers: it may or may not have
    /// been published. To send it again could publish it twice.
    Unsure,
    /// One has left the room, or was put out of it, before the message was sent.
    Left,
    /// The client has stopped before it was sent.
    Stopped,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(error) => error.fmt(f),
            Failure::Lost => f.write_str("the connection broke before the answer came"),
            Failure::Unsure => {
                f.write_str("nobody knows whether it was published: the session that sent it is gone")
            }
            Failure::Left => f.write_str("the room was left before it was sent"),
            Failure::Stopped => f.write_str("the client has stopped"),
        }
    }
}

impl std::error::Error for Failure {}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// It was done.
    Ack(Ack),
    /// One is in the room; [`Event::Joined`] came before it.
    Joined(String),
    /// One is no more in the room; [`Event::Left`] came before it.
    Left(String),
    /// Who is in a room.
    Members(Members),
    /// Which rooms there are.
    Rooms(Rooms),
    /// What was said.
    History(History),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The server could not be reached.
    Unreachable(String),
    /// The address is wrong: what answers there speaks something else, or has a certificate for another name. When it is so
    /// on the first connection, the client stops, unless [`Options::keep_trying`](crate::Options::keep_trying) says otherwise.
    Misaddressed(String),
    /// The server's certificate is not one that is trusted: see [`Options::certificates`](crate::Options::certificates). The client stops as for
    /// [`Reason::Misaddressed`].
    Untrusted(String),
    /// It answered with a status of HTTP instead of a WebSocket.
    Rejected {
        /// The status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It refused the hello: `nickname_in_use` or `expired_token`, for example.
    Refused(ServerError),
    /// It said why it closed.
    Bye(Bye),
    /// The connection ended without a word, or with a code of WebSocket's own.
    Closed {
        /// WebSocket's code.
        code: Option<u16>,
        /// What was said with it, or the error of the socket.
        reason: String,
    },
    /// Nothing was heard for too long.
    Silent,
    /// The journal cannot be written, and without it a message could be published twice.
    Journal(String),
    /// The client's thread has ended without being told to: a callback has panicked, or the system's poll has failed. It does not
    /// come back.
    Died,
    /// The user has ended it.
    Quit,
}

impl Reason {
    /// Whether another attempt would end in the same way, unless somebody changes the server or the options.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Reason::Misaddressed(_) | Reason::Untrusted(_))
    }

    /// Whether the hello was refused because somebody else has the nickname.
    pub fn is_nickname_in_use(&self) -> bool {
        matches!(self, Reason::Refused(error) if error.reason == "nickname_in_use")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unreachable(why) => write!(f, "the server cannot be reached: {why}"),
            Reason::Misaddressed(why) => f.write_str(why),
            Reason::Untrusted(why) => {
                write!(f, "the server's certificate is of an issuer that is not known here ({why})")
            }
            Reason::Rejected { status, message } => write!(f, "the server answered with {status}: {message}"),
            Reason::Refused(error) => error.fmt(f),
            Reason::Bye(bye) => write!(f, "the server said {} {}", bye.code, bye.reason),
            Reason::Closed { code: Some(code), reason } => {
                write!(f, "the connection was closed: {code} {reason}")
            }
            Reason::Closed { code: None, reason } => write!(f, "the connection is lost: {reason}"),
            Reason::Silent => f.write_str("the server has been silent for too long"),
            Reason::Journal(why) => write!(f, "the journal cannot be written: {why}"),
            Reason::Died => f.write_str("the client's thread has ended: a callback has panicked"),
            Reason::Quit => f.write_str("ended by its user"),
        }
    }
}

/// Where a client stands with its server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Link {
    /// It connects, or has connected and says hello.
    Connecting,
    /// It has a session.
    Online,
    /// It has none and will connect after a pause.
    Waiting,
    /// It does nothing until it is told to reconnect.
    Stopped(Reason),
}

/// What happens to a client.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// It connects, for the how manieth time since it was online (from 1).
    Connecting {
        /// From 1.
        attempt: u32,
    },
    /// It has a session: `resumed` tells whether the one of before.
    Online(Welcome),
    /// How long a ping took there and back. Told after [`Event::Online`] and then every so often.
    Latency(Duration),
    /// It has no connection, and will try again after this time.
    Waiting {
        /// How long, from now.
        delay: Duration,
        /// Why.
        reason: Reason,
    },
    /// It has no connection, and does nothing until it is told to reconnect, with another nickname perhaps.
    Stopped(Reason),
    /// One is in a room: for the first time, or again after the connection was lost.
    Joined(Joined),
    /// One is no more in a room: one has left, was put out, or was refused when one came back.
    Left(Left),
    /// A message in a room; of each room in order, each once.
    Message(Message),
    /// Messages of a room that are missing between those that were told, and that the server does not have any more.
    Gap(Gap),
    /// A room's history has begun afresh: what was said after the position before is lost, and messages go on from this one.
    Restarted {
        /// The room.
        room: String,
        /// The new history.
        epoch: String,
        /// The next message has the offset after this one.
        offset: u64,
    },
    /// A message to oneself.
    Private(Private),
    /// An admin's word to many.
    System(System),
    /// Somebody came, went or changed.
    Presence(Presence),
    /// A key of a room's state has changed.
    State(State),
    /// Somebody is typing.
    Typing(Typing),
    /// One's nickname is another one now.
    Renamed(String),
    /// A part of the journal could not be read. Messages in it are lost, or may be published twice if it is their acknowledgement that is; all
    /// others come as [`Event::Restored`]. It comes before those.
    JournalDamaged {
        /// How many bytes could not be read.
        bytes: u64,
        /// Where the file is as it was found.
        copy: PathBuf,
    },
    /// A message of an earlier run of the program was found in the journal, and will be sent.
    Restored {
        /// What is told of it from now on.
        ticket: Ticket,
        /// The room, or the person for a private one.
        to: String,
        /// Whether it is a private one.
        private: bool,
        /// What is to be said.
        content: String,
    },
    /// What has become of a message: [`Delivery::Queued`] is not told, as sending it returned its ticket.
    Delivery {
        /// Which message.
        ticket: Ticket,
        /// What has become of it.
        delivery: Delivery,
    },
    /// The answer to a request. There is exactly one.
    Reply {
        /// Which request.
        ticket: Ticket,
        /// The answer.
        reply: Result<Reply, Failure>,
    },
    /// The server refused something that has no ticket, or said what this version does not understand.
    Other(serde_json::Value),
}
