//! A connection: the protocol it speaks, what waits to be written, and where it is in its life.
//!
//! ```text
//! Open --close--> Flushing --queue empty--> Lingering --end of input, or time--> Closed --reap--> gone
//!                    |  peer has ended its side ------------------------------------^
//!                    |  deadline, or the socket broke ------------------------------^
//! ```
//!
//! The write side ends first, then what the peer still sends is read and thrown away for a while, and only then is
//! the socket closed: closing one with unread input makes the kernel send a reset, which can destroy the last words
//! that are still on their way.

use std::net::IpAddr;

use super::closing;
use super::encode::Encoding;
use super::event_streams::EventStream;
use super::grpc::{Call, Http2};
use super::http::Http;
use super::limits::Ignoring;
use super::queue::SendQueue;
use std::sync::Arc;

use super::doubt::Told;
use crate::base::bucket::{Bucket, SharedBucket};
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::base::wheel::TimerKey;
use crate::chat::refusal::{Farewell, Refusal};
use crate::config::ListenKind;
use crate::proto::{frame, grpc, line, websocket};

/// One open socket, or a call on another connection, as the shard sees it.
#[derive(Debug)]
pub struct Connection {
    /// The peer's address.
    pub peer: IpAddr,
    /// The listener it came through.
    pub kind: ListenKind,
    /// Whether it is encrypted, and how far that has come.
    pub security: Security,
    /// What it speaks.
    pub protocol: Protocol,
    /// How its events are written.
    pub encoding: Encoding,
    /// Who speaks, once a hello is under way.
    pub session: Option<Id>,
    /// What waits to be written.
    pub queue: SendQueue,
    /// How many of these bytes are still HTTP, on a WebSocket: the answer that made it one is their end.
    pub http_bytes: u32,
    /// Input that was read and could not be looked at while the connection was paused. At most one read's worth,
    /// because a paused connection is not read from.
    pub unread: Vec<u8>,
    /// A command that was decoded and has to wait its turn.
    pub held: Option<Box<[u8]>>,
    /// How many bytes of input it keeps, as far as they are counted.
    pub kept_input: u32,
    /// The kind and encoding of a binary frame that waits.
    pub held_frame: (u8, u8),
    /// What the limits said of the command that waits: it is counted once.
    pub admitted: Option<Box<Result<(), Refusal>>>,
    /// Why no further command may be looked at now.
    pub pause: Option<Pause>,
    /// Where it is in its life.
    pub stage: Stage,
    /// Why it ends, when it does.
    pub ends_for: Option<closing::Kind>,
    /// What the log tells of its life in the end, if it was to be told of when it began.
    pub life: Option<Box<Life>>,
    /// Its only timer, and when that fires.
    pub timer: Option<(TimerKey, Tick)>,
    /// Since when its first word, or its hello, has been awaited.
    pub awaited_since: Tick,
    /// When its last byte came.
    pub last_seen: Tick,
    /// When it was asked for a sign of life, if it was since then.
    pub probed_at: Option<Tick>,
    /// Pings on lines and frames that have not been answered, as far as they are counted.
    pub pings_owed: u8,
    /// Whether it is in the list of connections to flush.
    pub is_touched: bool,
    /// Whether it was given up with bytes that could not be written.
    pub is_cut_off: bool,
    /// Whether its peer's address is that of a proxy or stands for a path, or somebody else has told it.
    pub is_indirect: bool,
    /// Whether it is counted in the census.
    pub is_counted: bool,
    /// Why it may not stay: told as soon as it is known in which language.
    pub turned_away: Option<Farewell>,
    /// Whether the peer has ended its side.
    pub input_ended: bool,
    /// What is held against it, if anything ever was.
    pub record: Option<Box<Record>>,
    /// How many commands it may send.
    pub commands: Bucket,
    /// How many bytes of commands it may send.
    pub bytes: Bucket,
    /// How often it may join.
    pub joins: Bucket,
    /// How many commands its address may send, if that is limited.
    pub address_bucket: Option<Arc<SharedBucket>>,
    /// Whether it is in a room whose messages are left out rather than the connection closed.
    pub skips: bool,
    /// In how many rooms it is behind: an event stream in its one, while it gets what it missed.
    pub behind: u32,
    /// What was told to its user alone, of late.
    pub told: Option<Box<Told>>,
    /// Whether more of what was kept for its user is to be told.
    pub is_telling: bool,
    /// The call that it is, if it is a stream of another connection and has no socket.
    pub call: Option<Box<Call>>,
}

/// What the loop has said of a connection's encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// There is none.
    Plain,
    /// A proxy has not told yet for whom the connection is: nothing else comes before that.
    Announced,
    /// Both ends do not have their keys yet: nothing comes, and nothing can be written.
    Handshaking,
    /// They have.
    Secure,
    /// The peer's side ended without saying so (RFC 8446 section 6.1): somebody between may have cut off what it said.
    Torn,
}

/// What a connection has had: counted only where the log has its beginning, so that others do not pay for it.
#[derive(Debug)]
pub struct Life {
    /// When it was accepted.
    pub began_at: Tick,
    /// Bytes that have come, without encryption.
    pub received_bytes: u64,
    /// Bytes that were written, without encryption.
    pub sent_bytes: u64,
}

/// What is held against a connection: most never have one, so that they do not pay for it.
#[derive(Debug, Default)]
pub struct Record {
    /// Malformed commands since `mistakes_since`.
    pub mistakes: u32,
    /// When the present window of mistakes began.
    pub mistakes_since: Tick,
    /// For how long it has gone on although it was refused for asking too much.
    pub ignoring: Option<Ignoring>,
    /// Whether it has gone on for so long that it is to be sent away, with all that it carries.
    pub is_deaf: bool,
    /// How many commands have been refused for that since `refused_since`.
    pub refused: u32,
    /// When the present window of such refusals began.
    pub refused_since: Tick,
    /// The bytes of the last message of a call on it, which is what a call is thought to say that has not said it yet.
    pub call_bytes: u32,
}

/// What a connection speaks.
#[derive(Debug)]
pub enum Protocol {
    /// A line connection that has not said its first byte.
    Detect,
    /// Lines for people.
    Text(Box<TextLines>),
    /// A JSON object a line.
    JsonLines(line::Decoder),
    /// Binary frames.
    Frames(frame::Decoder),
    /// HTTP requests, one of which may become a WebSocket.
    Http(Box<Http>),
    /// The chat over WebSocket.
    WebSocket(websocket::Decoder),
    /// A WebSocket that hears what it says.
    Echo(websocket::Decoder),
    /// A dashboard over WebSocket, which says nothing.
    Watch(websocket::Decoder),
    /// The answer to a request of HTTP that ends with the connection: what is said in a room.
    EventStream(Box<EventStream>),
    /// HTTP/2, which carries calls.
    Http2(Box<Http2>),
    /// A call of gRPC.
    Messages(grpc::Decoder),
    /// Nothing more is decoded; also stands here while the protocol is at work.
    Ended,
}

/// Lines for people, as they may come from a Telnet client.
#[derive(Debug)]
pub struct TextLines {
    /// Whether a byte has come. Before that it may turn out to be a program that was slow to begin.
    pub has_heard: bool,
    /// Takes the Telnet commands out.
    pub telnet: line::Telnet,
    /// Finds the lines.
    pub lines: line::Decoder,
}

/// Why a connection is not read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// A command waits for the replies to those before it.
    Reply,
    /// Too many commands are under way to the core it needs.
    Window(u16),
    /// The peer does not read the answers to its requests.
    Output,
    /// The peer goes on although it is told that it asks too much, or says much in few bytes; it is heard again at this time.
    Limited(Tick),
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In use.
    Open,
    /// Nothing more will be queued; what is queued is still written, until a deadline.
    Flushing(Tick),
    /// Our side has ended; the peer's last bytes are thrown away, until a deadline.
    Lingering(Tick),
    /// To be reaped at the end of the turn.
    Closed,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(peer: IpAddr, kind: ListenKind, protocol: Protocol, encoding: Encoding, now: Tick) -> Self {
        Connection {
            peer,
            kind,
            security: Security::Plain,
            protocol,
            encoding,
            session: None,
            queue: SendQueue::default(),
            http_bytes: 0,
            unread: Vec::new(),
            held: None,
            kept_input: 0,
            held_frame: (0, 0),
            admitted: None,
            pause: None,
            stage: Stage::Open,
            ends_for: None,
            life: None,
            timer: None,
            awaited_since: now,
            last_seen: now,
            probed_at: None,
            pings_owed: 0,
            is_touched: false,
            is_cut_off: false,
            is_indirect: false,
            is_counted: false,
            turned_away: None,
            input_ended: false,
            record: None,
            commands: Bucket::default(),
            bytes: Bucket::default(),
            joins: Bucket::default(),
            address_bucket: None,
            skips: false,
            behind: 0,
            told: None,
            is_telling: false,
            call: None,
        }
    }

    /// Notes that its peer has given a sign of life.
    pub fn note_sign_of_life(&mut self, now: Tick) {
        (self.last_seen, self.probed_at) = (now, None);
    }

    /// Whether something is to be done when nothing is left to write.
    pub fn waits_for_output(&self) -> bool {
        self.behind > 0
            || self.is_telling
            || self.pause == Some(Pause::Output)
            || matches!(self.protocol, Protocol::Http2(_))
    }

    /// Whether something can be said on it: both ends of it know each other.
    pub fn may_speak(&self) -> bool {
        !matches!(self.security, Security::Announced | Security::Handshaking)
    }

    /// Whether nobody between can read along.
    pub fn is_secure(&self) -> bool {
        !matches!(self.security, Security::Plain | Security::Announced)
    }

    /// Whether there is input that waits to be looked at.
    pub fn has_backlog(&self) -> bool {
        self.held.is_some() || self.is_holding_request() || !self.unread.is_empty()
    }

    /// Bytes of input that is not complete, or waits: what is in the buffers of HTTP/2 is not among them.
    pub fn input_bytes(&self) -> usize {
        let undecoded = match &self.protocol {
            Protocol::Text(text) => text.lines.kept_bytes(),
            Protocol::JsonLines(lines) => lines.kept_bytes(),
            Protocol::Frames(frames) => frames.kept_bytes(),
            Protocol::Http(http) => http.kept_bytes(),
            Protocol::WebSocket(decoder) | Protocol::Echo(decoder) | Protocol::Watch(decoder) => {
                decoder.kept_bytes()
            }
            Protocol::Messages(decoder) => decoder.kept_bytes(),
            Protocol::Http2(_) | Protocol::EventStream(_) | Protocol::Detect | Protocol::Ended => 0,
        };
        undecoded + self.unread.capacity() + self.held.as_ref().map_or(0, |held| held.len())
    }

    /// Whether an HTTP request waits for its turn.
    pub fn is_holding_request(&self) -> bool {
        matches!(&self.protocol, Protocol::Http(http) if http.under_way.is_holding())
    }

    /// Whether a home has been asked about an HTTP request or a call, and has not replied.
    pub fn is_asking(&self) -> bool {
        match &self.call {
            Some(call) => call.is_asking,
            None => matches!(&self.protocol, Protocol::Http(http) if http.under_way.is_asking()),
        }
    }
}
