//! HTTP/2 (RFC 9113) for one peer, without a socket: bytes go in and come out, and in between are streams.
//!
//! The framing, the flow control and the compression of headers are those of the h2 crate. It wants to be polled by a runtime;
//! here it is polled by whoever has given it bytes or taken some, and what it would wake is a list of streams to look at. It
//! reads from and writes to buffers, of which the one that it writes to is bounded: while that is full it does not read
//! either, and so a peer that does not take its answers is not obeyed.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Buf, Bytes};
use h2::server::{self, Connection, Handshake, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod fields;
mod meter;

pub use fields::is_malformed;
pub use h2::Reason;
pub use meter::Flood;
use meter::Meter;

/// h2 takes for small what has less, and counts by how much (its `DEFAULT_DATA_FRAME_OVERHEAD_THRESHOLD`).
const SMALL_FRAME_BYTES: usize = 256;

/// What the peer may have under way. Told to it in our SETTINGS, and held to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Streams at a time; more are refused (REFUSED_STREAM).
    pub streams: u32,
    /// Bytes of a request's header fields, as RFC 9113, 10.5.1 counts them.
    pub header_bytes: u32,
    /// Bytes that one stream may send before they have been looked at.
    pub stream_window_bytes: u32,
    /// Bytes that all streams together may.
    pub connection_window_bytes: u32,
    /// Bytes of one stream that are handed over before the peer's windows have taken them.
    pub send_buffer_bytes: usize,
    /// Streams that the peer may reset before we have looked at them (CVE-2023-44487).
    pub pending_resets: usize,
    /// Frames that carry nothing, in each window of time.
    pub control_frames: u32,
    /// Frames of DATA that carry little and wait to be looked at. The windows bound what such frames carry, and not what it takes to
    /// keep each.
    pub small_frames: usize,
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words, for the log.
    pub why: String,
    /// Whether the peer had more under way than [`Settings`] allow, or reset more streams.
    pub is_flood: bool,
}

/// Bytes to be sent that may be shared with other streams and connections.
#[derive(Debug)]
pub enum Chunk {
    /// A part of what was encoded once for many.
    Shared {
        /// All of it.
        bytes: Arc<[u8]>,
        /// Where the part begins, which moves as it is written.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Bytes of one stream alone.
    Own(Bytes),
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Chunk::Shared { start, end, .. } => end - start,
            Chunk::Own(bytes) => bytes.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Chunk::Shared { bytes, start, end } => &bytes[*start..*end],
            Chunk::Own(bytes) => bytes.chunk(),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Chunk::Shared { start, end, .. } => *start = (*start + count).min(*end),
            Chunk::Own(bytes) => bytes.advance(count),
        }
    }
}

/// The server's side of a connection.
pub struct Server {
    state: State,
    wire: Rc<RefCell<Wire>>,
    ready: Arc<Ready>,
    meter: Meter,
    pings: Option<PingPong>,
    is_leaving: bool,
    /// What ends the connection once what came before it is obeyed.
    fault: Option<Reason>,
    is_aborted: bool,
}

enum State {
    /// The peer's preface has not come.
    Greeting(Box<Handshake<Io, Chunk>>),
    Open(Box<Connection<Io, Chunk>>),
    Over,
}

/// What came of turning a connection.
#[derive(Debug)]
pub enum Turned {
    /// A stream was opened by the peer.
    Opened(Box<Request<()>>, Stream),
    /// There is nothing more to do until bytes come or go.
    Waits,
    /// It is over: what has been written is all that will be. Says what was wrong, if anything was.
    Over(Option<Failure>),
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Greeting(_) => "Greeting",
            State::Open(_) => "Open",
            State::Over => "Over",
        };
        out.debug_tuple("http2::Server").field(&state).finish()
    }
}

impl Server {
    /// A connection on which nothing has come.
    pub fn new(settings: &Settings) -> Self {
        let wire = Rc::new(RefCell::new(Wire::default()));
        let handshake = server::Builder::new()
            .max_concurrent_streams(settings.streams)
            .max_header_list_size(settings.header_bytes)
            .initial_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes)
            .max_send_buffer_size(settings.send_buffer_bytes)
            .max_pending_accept_reset_streams(settings.pending_resets)
            .max_local_error_reset_streams(None) // the meter bounds them, by time
            .data_frame_budget(settings.small_frames.saturating_mul(SMALL_FRAME_BYTES))
            .handshake(Io(wire.clone()));
        Server {
            state: State::Greeting(Box::new(handshake)),
            wire,
            ready: Arc::default(),
            meter: Meter::new(settings.control_frames),
            pings: None,
            is_leaving: false,
            fault: None,
            is_aborted: false,
        }
    }

    /// Takes bytes of the peer. Says whether some of them are what a stream says.
    ///
    /// # Errors
    /// If it sends too many frames that carry nothing: the connection is not to be turned any more, but left.
    pub fn receive(&mut self, bytes: &[u8], now_ms: u64) -> Result<bool, Flood> {
        if self.fault.is_some() {
            return Ok(false); // Nothing behind it counts.
        }
        let found = self.meter.count(bytes, now_ms)?;
        let mut input = bytes;
        if let Some((end, reason)) = found.fault {
            // h2 has the frame's header at most but for its last byte, and so never sees a frame.
            input = &bytes[..end - 1];
            self.fault = Some(reason);
        }
        self.wire.borrow_mut().input.extend_from_slice(input);
        Ok(found.has_data)
    }

    /// The peer will say no more.
    pub fn end_input(&mut self) {
        self.wire.borrow_mut().input_ended = true;
    }

    /// Whether the peer's preface has come.
    pub fn is_greeted(&self) -> bool {
        !matches!(self.state, State::Greeting(_))
    }

    /// Whether bytes of the peer wait until it has taken some of ours.
    pub fn has_unread(&self) -> bool {
        self.wire.borrow().has_input()
    }

    /// Whether more is to be written than had place in the output.
    pub fn has_unwritten(&self) -> bool {
        self.wire.borrow().was_full
    }

    /// Goes on as far as the peer's bytes and `output_bytes` of place for ours allow.
    pub fn turn(&mut self, output_bytes: usize) -> Turned {
        {
            let mut wire = self.wire.borrow_mut();
            wire.output_max = output_bytes;
            wire.was_full = false;
        }
        // It is polled again whenever there is a reason to, and need not say when.
        let mut context = Context::from_waker(Waker::noop());
        loop {
            match &mut self.state {
                State::Greeting(handshake) => match Pin::new(&mut **handshake).poll(&mut context) {
                    Poll::Ready(Ok(mut connection)) => {
                        self.pings = connection.ping_pong();
                        if self.is_leaving {
                            connection.graceful_shutdown();
                        }
                        self.state = State::Open(Box::new(connection));
                    }
                    Poll::Ready(Err(error)) => return self.over(Some(error)),
                    Poll::Pending => return Turned::Waits,
                },
                State::Open(connection) => match connection.poll_accept(&mut context) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        let (head, recv) = request.into_parts();
                        let request = Box::new(Request::from_parts(head, ()));
                        return Turned::Opened(request, Stream::new(respond, recv));
                    }
                    Poll::Ready(Some(Err(error))) => return self.over(Some(error)),
                    Poll::Ready(None) => return self.over(None),
                    Poll::Pending => match self.fault {
                        Some(reason) if !self.wire.borrow().has_input() && !self.is_aborted => {
                            self.is_aborted = true;
                            connection.abrupt_shutdown(reason);
                        }
                        _ => return Turned::Waits,
                    },
                },
                State::Over => return Turned::Over(None),
            }
        }
    }

    fn over(&mut self, error: Option<h2::Error>) -> Turned {
        self.state = State::Over;
        Turned::Over(error.map(|error| Failure {
            is_flood: error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM),
            why: error.to_string(),
        }))
    }

    /// Gives a stream the number under which [`Server::take_ready`] tells of it.
    pub fn watch(&self, stream: &mut Stream, number: u32) {
        stream.waker = Waker::from(Arc::new(Watcher { number, ready: self.ready.clone() }));
    }

    /// Swaps the list of streams of which there may be news for an empty one. A stream may stand in it twice.
    pub fn take_ready(&mut self, list: &mut Vec<u32>) {
        mem::swap(&mut *self.ready.lock(), list);
    }

    /// Moves what is to be written to the end of `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        let output = &mut self.wire.borrow_mut().output;
        self.meter.wrote(output);
        if out.is_empty() {
            mem::swap(out, output);
        } else {
            out.append(output);
        }
    }

    /// Whether something is to be written.
    pub fn has_output(&self) -> bool {
        !self.wire.borrow().output.is_empty()
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self) {
        if let Some(pings) = &mut self.pings {
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop())); // so that the next may be sent
            let _ = pings.send_ping(Ping::opaque()); // fails if the last one is unanswered, which does as well
        }
    }

    /// Tells the peer to open no more streams; when those that are open have ended, the connection is over.
    pub fn leave(&mut self) {
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
        self.is_leaving = true;
    }

    /// Ends the connection with all of its streams, for `reason`.
    pub fn abort(&mut self, reason: Reason) {
        if let State::Open(connection) = &mut self.state {
            connection.abrupt_shutdown(reason);
        }
    }
}

/// What is said to a peer for which there is no place: GOAWAY with the last stream 0, the error ENHANCE_YOUR_CALM and a word why (RFC
/// 9113, 6.8). The SETTINGS that every connection begins with (3.4) are left out: a client of gRPC that has them takes the connection
/// for made, and makes the next one at once, without end; without them it waits longer from try to try.
pub fn refusal(why: &str) -> Vec<u8> {
    const FRAME_GOAWAY: u8 = 7;
    let mut out = Vec::new();
    let length = 8 + why.len() as u32;
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[FRAME_GOAWAY, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&0_u32.to_be_bytes());
    out.extend_from_slice(&u32::from(Reason::ENHANCE_YOUR_CALM).to_be_bytes());
    out.extend_from_slice(why.as_bytes());
    out
}

/// One stream: a request, and its answer.
pub struct Stream {
    respond: SendResponse<Chunk>,
    recv: RecvStream,
    /// Once the answer has begun.
    send: Option<SendStream<Chunk>>,
    waker: Waker,
}

/// What was read from a stream.
#[derive(Debug)]
pub enum Read {
    /// These bytes.
    Data(Bytes),
    /// Nothing yet.
    Waits,
    /// The peer has said all.
    End,
    /// The stream is no more.
    Reset,
}

impl fmt::Debug for Stream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("http2::Stream").field(&self.respond.stream_id()).finish()
    }
}

impl Stream {
    fn new(respond: SendResponse<Chunk>, recv: RecvStream) -> Self {
        Stream { respond, recv, send: None, waker: Waker::noop().clone() }
    }

    /// Reads what has come. While nobody does, the peer may send no more than the stream's window.
    pub fn read(&mut self) -> Read {
        match self.recv.poll_data(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(Some(Ok(bytes))) => {
                // Fails only on a stream that has been reset, which the next read tells.
                let _ = self.recv.flow_control().release_capacity(bytes.len());
                Read::Data(bytes)
            }
            Poll::Ready(Some(Err(_))) => Read::Reset,
            Poll::Ready(None) => Read::End,
            Poll::Pending => Read::Waits,
        }
    }

    /// Whether the peer has taken the stream back.
    pub fn is_reset(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(&mut context),
            None => self.respond.poll_reset(&mut context),
        };
        reset.is_ready()
    }

    /// Whether the answer has begun.
    pub fn has_begun(&self) -> bool {
        self.send.is_some()
    }

    /// Begins the answer.
    pub fn begin(&mut self, head: Response<()>) {
        // Fails only on a stream that has been reset, and then nothing of it matters any more.
        self.send = self.respond.send_response(head, false).ok();
    }

    /// An answer of a head alone.
    pub fn answer(&mut self, head: Response<()>) {
        let _ = self.respond.send_response(head, true);
    }

    /// How many of `wanted` bytes the peer's windows and the buffer have place for. If for none, the stream is told of when there
    /// is place.
    pub fn place_for(&mut self, wanted: usize) -> usize {
        let Some(send) = &mut self.send else { return 0 };
        send.reserve_capacity(wanted);
        let capacity = send.capacity();
        if capacity < wanted {
            let _ = send.poll_capacity(&mut Context::from_waker(&self.waker));
        }
        send.capacity().min(wanted)
    }

    /// Hands bytes over, for which there must be place.
    pub fn send(&mut self, chunk: Chunk) {
        if let Some(send) = &mut self.send {
            let _ = send.send_data(chunk, false);
        }
    }

    /// Ends the answer.
    pub fn finish(&mut self, trailers: HeaderMap) {
        if let Some(send) = &mut self.send {
            let _ = send.send_trailers(trailers);
        }
    }

    /// Ends the stream, whatever is under way.
    pub fn reset(&mut self, reason: Reason) {
        match &mut self.send {
            Some(send) => send.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

/// The streams that h2 has news of.
#[derive(Debug, Default)]
struct Ready(Mutex<Vec<u32>>);

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What h2 wakes when a stream has news. One thread alone does all of this; that it could be another is what the type of a waker asks for.
struct Watcher {
    number: u32,
    ready: Arc<Ready>,
}

impl Wake for Watcher {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = self.ready.lock();
        if ready.last() != Some(&self.number) {
            ready.push(self.number);
        }
    }
}

/// What h2 reads from and writes to.
#[derive(Debug, Default)]
struct Wire {
    input: Vec<u8>,
    /// How many bytes of the input have been read.
    taken: usize,
    input_ended: bool,
    output: Vec<u8>,
    output_max: usize,
    /// Whether more was to be written than there was place for.
    was_full: bool,
}

impl Wire {
    fn has_input(&self) -> bool {
        self.taken < self.input.len()
    }
}

struct Io(Rc<RefCell<Wire>>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let rest = &wire.input[wire.taken..];
        if rest.is_empty() {
            return if wire.input_ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        wire.taken += count;
        if !wire.has_input() {
            // A connection at rest owns no buffer.
            (wire.input, wire.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        let place = wire.output_max.saturating_sub(wire.output.len());
        if place == 0 {
            wire.was_full = true;
            return Poll::Pending;
        }
        let count = bytes.len().min(place);
        wire.output.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            match self.as_mut().poll_write(context, slice) {
                Poll::Ready(Ok(count)) => written += count,
                _ if written == 0 => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
