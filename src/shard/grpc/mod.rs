//! gRPC: one connection of HTTP/2, and the calls on it.
//!
//! A call is a [`Connection`] like any other, but for its socket: it has a session of its own, a send queue and a timer, is paused
//! and resumed, and ends through the same entry. What is read from its stream is taken in as if it came from a socket,
//! and what is queued on it is handed to its stream when the turn flushes. So nothing that chats knows that there is gRPC.
//!
//! ```text
//! socket --> connection, Protocol::Http2 --> streams --> calls, Protocol::Messages --> sessions
//!        <-- send queue <-- frames of HTTP/2 <-- what the streams' windows take <-- the calls' send queues
//! ```
//!
//! The connection is at work while its [`Http2`] is taken out of it. Calls may be read, written and closed then, but none of this
//! reaches the connection: what a call says goes to the list of what is to be flushed, as everything does.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the connection: its streams, what is read from them and written to them |
//! | `call` | the life of a call |
//! | `chat` | what calls say that carry `Message`s |
//! | `services` | logging in, health, reflection |

mod call;
mod chat;
mod services;

use slab::Slab;

use super::Shard;
use super::closing::Closing;
use super::connection::{Connection, Pause, Protocol, Stage};
use super::encode::Encoding;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::refusal::Farewell;
use crate::config::Limits;
use crate::proto::http2::{self, Failure, Flood, Read, Reason, Server, Settings, Stream, Turned};

pub use call::Call;

/// A connection's HTTP/2.
#[derive(Debug)]
pub struct Http2 {
    server: Server,
    streams: Slab<Open>,
    /// The streams that have news, between two looks at them.
    ready: Vec<u32>,
    /// Whether it has begun a call.
    has_called: bool,
    /// When its calls must have ended, once the server has told it to go.
    pub(super) leaves_by: Option<Tick>,
}

/// A stream, and the call on it.
#[derive(Debug)]
struct Open {
    stream: Stream,
    call: Id,
}

impl Http2 {
    pub(super) fn new(limits: &Limits) -> Self {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let settings = Settings {
            streams: count(limits.http2_streams),
            header_bytes: count(limits.http2_header_bytes),
            stream_window_bytes: count(limits.http2_stream_bytes),
            connection_window_bytes: count(limits.http2_connection_bytes),
            send_buffer_bytes: limits.http2_output_bytes,
            pending_resets: limits.http2_pending_resets,
            control_frames: count(limits.http2_control_frames),
            small_frames: limits.http2_small_frames,
        };
        Http2 {
            server: Server::new(&settings),
            streams: Slab::new(),
            ready: Vec::new(),
            has_called: false,
            leaves_by: None,
        }
    }

    /// Whether the peer has begun a call: it is somebody then, and otherwise one who holds a slot.
    pub(super) fn has_called(&self) -> bool {
        self.has_called
    }

    /// Whether the peer has begun as HTTP/2 begins.
    pub(super) fn is_greeted(&self) -> bool {
        self.server.is_greeted()
    }
}

/// How long a connection without calls is there after it has been told that the server leaves: a round trip in any network.
const IDLE_LEAVE_MS: u64 = 1000;

impl Shard {
    /// Takes in what was read from a connection of HTTP/2.
    pub(super) fn decode_http2(&mut self, id: Id, http2: &mut Http2, input: &[u8]) -> usize {
        match http2.server.receive(input, self.now.tick.0) {
            Ok(true) => self.note_signs_of_life(id),
            Ok(false) => {}
            Err(Flood) => {
                self.counters.http2_floods.add(1);
                self.log_violation(id, "a flood of frames that carry nothing");
                http2.server.abort(Reason::ENHANCE_YOUR_CALM);
            }
        }
        self.turn_http2(id, http2);
        input.len()
    }

    /// The peer will say no more: whatever it has under way is lost to it.
    pub(super) fn end_http2_input(&mut self, id: Id, http2: &mut Http2) {
        http2.server.end_input();
        self.turn_http2(id, http2);
        self.close_calls(id);
        self.close(id, Closing::InputEnded);
    }

    /// Goes on with a connection as far as that is possible now.
    fn turn_http2(&mut self, id: Id, http2: &mut Http2) {
        let queued = self.connections.get(id).map_or(0, |connection| connection.queue.bytes());
        let place = self.limits.http2_output_bytes.saturating_sub(queued);
        let over = loop {
            match http2.server.turn(place) {
                Turned::Opened(request, stream) => {
                    http2.has_called = true;
                    if self.drain.is_none() {
                        http2.leaves_by = None; // it has called just when it was told to go: the connection ends with its calls
                    }
                    self.begin_call(id, http2, &request, stream);
                }
                Turned::Waits => {
                    let mut ready = std::mem::take(&mut http2.ready);
                    http2.server.take_ready(&mut ready);
                    if ready.is_empty() {
                        http2.ready = ready;
                        if self.sends_away(id, http2) {
                            continue;
                        }
                        break None;
                    }
                    for number in ready.drain(..) {
                        self.look_at_stream(http2, number);
                    }
                    http2.ready = ready;
                }
                Turned::Over(failure) => break Some(failure),
            }
        };
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        if http2.server.has_output() {
            self.pool.push_frame(&mut connection.queue, |out| http2.server.take_output(out));
            self.touch(id);
        }
        match over {
            Some(failure) => {
                if let Some(Failure { why, is_flood }) = failure {
                    self.counters.http2_floods.add(is_flood.into());
                    self.log_violation(id, &why);
                }
                self.close_calls(id);
                self.close(id, Closing::LastResponse);
            }
            None if http2.server.has_unread() => {
                let connection = self.connections.get_mut(id).expect("looked at above");
                if connection.pause.is_none() {
                    (connection.pause, connection.last_seen) = (Some(Pause::Output), self.now.tick);
                    self.counters.output_pauses.add(1);
                    self.arm(id);
                }
            }
            None => {}
        }
    }

    /// Whether a connection is told now to open no more streams, and its calls end: it has called on and on, whatever it was told.
    fn sends_away(&mut self, id: Id, http2: &mut Http2) -> bool {
        let record = self.connections.get(id).and_then(|connection| connection.record.as_ref());
        if http2.leaves_by.is_some() || !record.is_some_and(|record| record.is_deaf) {
            return false;
        }
        http2.leaves_by = Some(self.now.tick + self.limits.close_ms);
        http2.server.leave();
        for call in self.calls.get(&id).cloned().unwrap_or_default() {
            self.close_after_session(call, Closing::Bye(Farewell::RateLimited));
        }
        true
    }

    /// Lets a connection go on that had more to say than its peer had taken.
    pub(super) fn continue_http2(&mut self, id: Id) {
        let waits = |http2: &Http2| http2.server.has_unwritten() || http2.server.has_unread();
        let is_waiting =
            |connection: &Connection| matches!(&connection.protocol, Protocol::Http2(http2) if waits(http2));
        if self.connections.get(id).is_some_and(is_waiting) {
            self.with_http2(id, |shard, http2| shard.turn_http2(id, http2));
        }
    }

    /// Asks the peer for a sign of life.
    pub(super) fn ping_http2(&mut self, id: Id) {
        self.with_http2(id, |shard, http2| {
            http2.server.ping();
            shard.turn_http2(id, http2);
        });
    }

    /// Tells the peer to open no more streams: when the calls that are under way have ended, the connection is closed, or when they
    /// have had the time for it that a slow consumer has.
    pub(super) fn leave_http2(&mut self, id: Id) {
        // Without a call there is only one answer to wait for: that the peer has heard of it.
        let ms = if self.calls.contains_key(&id) {
            self.limits.close_ms
        } else {
            IDLE_LEAVE_MS.min(self.limits.close_ms)
        };
        let leaves_by = self.now.tick + ms;
        self.with_http2(id, |shard, http2| {
            if http2.leaves_by.is_none() {
                http2.leaves_by = Some(leaves_by);
                http2.server.leave();
                shard.turn_http2(id, http2);
            }
        });
    }

    /// A call may say much at a time, of which nothing is known until all of a frame is there. Bytes of it are a sign of life all
    /// the same; those by which the client's library answers ours are not, as the program may hang.
    pub(super) fn note_signs_of_life(&mut self, id: Id) {
        for call in self.calls.get(&id).into_iter().flatten() {
            if let Some(connection) = self.connections.get_mut(*call) {
                connection.note_sign_of_life(self.now.tick);
            }
        }
    }

    /// Takes a connection's HTTP/2 out of it while `work` is done. Does nothing if it is out already, or has none any more.
    fn with_http2(&mut self, id: Id, work: impl FnOnce(&mut Self, &mut Http2)) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !matches!(connection.protocol, Protocol::Http2(_)) {
            return;
        }
        let mut protocol = std::mem::replace(&mut connection.protocol, Protocol::Ended);
        let mut leaves = false;
        if let Protocol::Http2(http2) = &mut protocol {
            let before = http2.leaves_by;
            work(self, http2);
            leaves = http2.leaves_by != before;
        }
        if let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) {
            connection.protocol = protocol;
            if leaves {
                self.arm(id);
            }
        }
    }

    /// h2 has news of a stream: bytes to read, place to write, or its end.
    fn look_at_stream(&mut self, http2: &mut Http2, number: u32) {
        let Some(Open { stream, call }) = http2.streams.get_mut(number as usize) else { return };
        let call = *call;
        if stream.is_reset() {
            self.counters.calls_cancelled.add(1);
            return self.close(call, Closing::Broken);
        }
        self.touch(call);
        self.read_call(stream, call);
    }

    /// Takes in what a call's client has said, as far as the call may be read.
    fn read_call(&mut self, stream: &mut Stream, id: Id) {
        while self.wants_input(id) {
            match stream.read() {
                Read::Data(bytes) => {
                    let connection = self.connections.get_mut(id).expect("it wants input");
                    connection.note_sign_of_life(self.now.tick);
                    if connection.stage == Stage::Open {
                        self.take_in(id, &mut Vec::from(bytes));
                    }
                }
                Read::End => {
                    let connection = self.connections.get_mut(id).expect("it wants input");
                    connection.input_ended = true;
                    if connection.stage == Stage::Open {
                        self.finish_input(id);
                    }
                }
                Read::Reset => {
                    self.counters.calls_cancelled.add(1);
                    self.close(id, Closing::Broken);
                }
                Read::Waits => break,
            }
        }
    }

    /// Reads on from the calls whose pause is over, and hands what is queued on those of `touched` that are calls to their streams.
    #[inline(never)]
    pub(super) fn flush_calls(&mut self, touched: &[Id]) {
        let mut resumed = std::mem::take(&mut self.resumed_calls);
        for id in resumed.drain(..) {
            let Some((parent, number)) = self.stream_of(id) else { continue };
            self.with_http2(parent, |shard, http2| {
                if let Some(open) = http2.streams.get_mut(number).filter(|open| open.call == id) {
                    shard.read_call(&mut open.stream, id);
                }
                shard.turn_http2(parent, http2);
            });
        }
        if self.resumed_calls.is_empty() {
            self.resumed_calls = resumed;
        }
        // What a room hears goes to many calls of one connection: it is turned once for all of them.
        let mut parents = std::mem::take(&mut self.flushed_parents);
        for id in touched.iter().copied() {
            let Some((parent, number)) = self.stream_of(id) else { continue };
            self.with_http2(parent, |shard, http2| {
                if let Some(open) = http2.streams.get_mut(number).filter(|open| open.call == id) {
                    shard.flush_call(&mut open.stream, id);
                }
            });
            parents.push(parent);
        }
        parents.sort_unstable();
        parents.dedup();
        for parent in parents.drain(..) {
            self.with_http2(parent, |shard, http2| shard.turn_http2(parent, http2));
        }
        self.flushed_parents = parents;
        self.settle();
    }

    /// The connection of a call, and the place of its stream there.
    fn stream_of(&self, id: Id) -> Option<(Id, usize)> {
        self.connections.get(id)?.call.as_ref().map(|call| (call.parent, call.stream as usize))
    }

    /// Hands as much of what is queued on a call to its stream as that takes, and when nothing is left, ends it if it is to end.
    fn flush_call(&mut self, stream: &mut Stream, id: Id) {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage != Stage::Closed) else {
            return;
        };
        let call = connection.call.as_mut().expect("it is one");
        if !stream.has_begun() {
            match call.status.take_if(|_| connection.queue.is_empty()) {
                // Nothing but the status: head and trailers are one.
                Some(status) => {
                    stream.answer(status.answer());
                    call.is_answered = true;
                    return self.end(id);
                }
                None => stream.begin(crate::proto::grpc::head()),
            }
        }
        while !connection.queue.is_empty() {
            let place = stream.place_for(connection.queue.bytes());
            if place == 0 {
                break;
            }
            let Some(chunk) = self.pool.take(&mut connection.queue, place) else { break };
            let bytes = bytes::Buf::remaining(&chunk);
            if let Some(told) = &mut connection.told {
                told.sent(bytes);
            }
            if connection.pause == Some(Pause::Output) {
                connection.last_seen = self.now.tick;
            }
            stream.send(chunk);
        }
        if connection.queue.is_empty()
            && let Stage::Flushing(_) = connection.stage
        {
            let call = connection.call.as_mut().expect("it is one");
            stream.finish(call.status.take().unwrap_or(crate::proto::grpc::Status::OK).trailers());
            call.is_answered = true;
            return self.end(id);
        }
        if connection.stage == Stage::Open {
            self.check_output(id);
        }
    }

    /// Ends the calls of a connection that is no more.
    pub(super) fn close_calls(&mut self, id: Id) {
        let Some(calls) = self.calls.remove(&id) else { return };
        for call in calls {
            self.close(call, Closing::Broken);
        }
    }

    /// A call is over: its stream goes. One that was not answered in full is reset.
    pub(super) fn drop_call(&mut self, id: Id, call: &Call) {
        let open = &self.counters.calls_open;
        open.set(open.value() - 1);
        if let Some(calls) = self.calls.get_mut(&call.parent) {
            calls.retain(|other| *other != id);
            if calls.is_empty() {
                self.calls.remove(&call.parent);
            }
        }
        let (parent, number) = (call.parent, call.stream as usize);
        self.with_http2(parent, |shard, http2| {
            if http2.streams.get(number).is_some_and(|open| open.call == id) {
                let mut open = http2.streams.remove(number);
                if !call.is_answered {
                    open.stream.reset(Reason::CANCEL);
                }
            }
            shard.turn_http2(parent, http2);
        });
    }

    /// Tells a client that there is no place for it.
    pub(super) fn refuse_http2(&mut self, id: Id, why: &str) {
        self.say_raw(id, |out| out.extend_from_slice(&http2::refusal(why)));
        self.close(id, Closing::LastResponse);
    }

    /// Whether a connection carries calls.
    pub(super) fn is_http2(&self, id: Id) -> bool {
        self.connections.get(id).is_some_and(|c| matches!(c.protocol, Protocol::Http2(_)))
    }
}

/// How a connection of HTTP/2 would want its events, if it were told any.
pub(super) const NO_ENCODING: Encoding = Encoding::GrpcResponse;
