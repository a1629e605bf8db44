//! What a core asks of somebody who sees all of them: it has no other core's numbers, and reads no files.

use std::net::IpAddr;

use super::mail::ConnectionRef;
use crate::base::tcp::TcpInfo;
use crate::chat::name::{Nickname, RoomName};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The numbers of the whole server, as Prometheus reads them, or in the form of OpenMetrics.
    Metrics {
        /// Whether it is the latter.
        is_open_metrics: bool,
    },
}

/// What is answered: a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The value of its `Content-Type`.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// Whoever sees all cores.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// Asks something for a connection, whose core is told by [`super::mail::Mail::ApiReply`]. Says whether there was place for it; never
    /// waits.
    #[must_use]
    fn ask(&self, from: ConnectionRef, question: Question) -> bool;

    /// A dashboard is to be opened on a core. Says whether there is place for it; if so [`Observer::end_watch`] follows.
    #[must_use]
    fn begin_watch(&self, core: u16) -> bool;

    /// It is over.
    fn end_watch(&self, core: u16);

    /// What a core was asked for by [`super::mail::Mail::Look`]. Never waits.
    fn report(&self, report: Box<Report>);
}

/// What a core tells of itself while somebody looks at a dashboard, beside its counters.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The core.
    pub core: u16,
    /// Sessions, those that are away among them.
    pub sessions: usize,
    /// Timers that are set.
    pub timers: usize,
    /// Requests that wait because some mailbox is full.
    pub deferred: usize,
    /// How long the longest turn since the last report took, in nanoseconds.
    pub longest_turn_ns: u64,
    /// Whether the store is down; `None`: there is none.
    pub store_is_down: Option<bool>,
    /// Acks that wait for the store.
    pub store_waits: usize,
    /// Why the backplane is down, if it is; `None` around that: there is none.
    pub backplane: Option<Option<Box<str>>>,
    /// The connections with most bytes to send, most first.
    pub slow: Vec<SlowClient>,
    /// Rooms at home here with most members, most first.
    pub crowded: Vec<RoomFigures>,
    /// Those with most messages, most first.
    pub lively: Vec<RoomFigures>,
}

/// A client that has not taken what it is sent.
#[derive(Debug, Clone)]
pub struct SlowClient {
    /// Its user, if it has said hello.
    pub nickname: Option<Nickname>,
    /// Where it connects from.
    pub peer: IpAddr,
    /// What it speaks.
    pub transport: &'static str,
    /// Bytes that wait for it in the server.
    pub queued_bytes: usize,
    /// What the kernel knows of its connection; `None` where it does not tell, and of calls of gRPC, which share one.
    pub tcp: Option<TcpInfo>,
}

/// A room in numbers.
#[derive(Debug, Clone)]
pub struct RoomFigures {
    /// Which.
    pub room: RoomName,
    /// How many members it has.
    pub members: usize,
    /// Messages a second since it was last looked at; 0 when that is the first time.
    pub messages_per_s: f64,
}
