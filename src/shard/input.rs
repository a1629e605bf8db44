//! Bytes to commands: which protocol a connection speaks, and when a command has to wait.
//!
//! While a connection's protocol is at work it is taken out of the connection, so that what it decoded may borrow from
//! its buffer while the command changes the shard. A command that has to wait is kept as the bytes it came in, and
//! understood anew when its turn has come; the input behind it is kept undecoded, and the connection is not read from
//! until both are used up. So a connection never holds more than one read's worth of input.

use super::Shard;
use super::closing::Closing;
use super::commands::Asked;
use super::connection::{Pause, Protocol, Security, Stage};
use super::encode::Encoding;
use super::mail::ReplyTo;
use crate::base::slots::Id;
use crate::chat::refusal::{Farewell, Reason, Refusal};
use crate::config::ListenKind;
use crate::proto::frame::{self, Frame};
use crate::proto::json::{self, Envelope, Malformed};
use crate::proto::line::{self, Line};
use crate::proto::websocket::{self, Item, Opcode};
use crate::proto::{protobuf, wire};

/// What becomes of a connection's input after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next command may be looked at.
    Next,
    /// The next command waits for the reply to this one.
    Wait,
    /// This command cannot begin yet.
    Hold(Pause),
}

impl Shard {
    /// Takes in what was read from a connection.
    pub(super) fn take_in(&mut self, id: Id, input: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let is_greeted = matches!(&connection.protocol, Protocol::Text(lines) if !lines.has_heard);
        if is_greeted || matches!(connection.protocol, Protocol::Detect) {
            // A program that was slow to begin, or that this core was slow to hear, has been greeted like a person.
            // There is no mistaking it: no nickname begins with a brace.
            if input.first() == Some(&b'{') {
                connection.protocol = Protocol::JsonLines(line::Decoder::new(self.limits.inbound_bytes));
                connection.encoding = Encoding::JsonLine;
                connection.awaited_since = self.now.tick;
                let turned_away = connection.turned_away;
                self.log_protocol(id);
                match turned_away {
                    Some(farewell) => return self.close(id, Closing::Bye(farewell)),
                    None => self.arm(id),
                }
            } else if !is_greeted {
                self.greet(id);
            }
        }
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        let length = match &mut connection.protocol {
            Protocol::Text(lines) => {
                lines.has_heard = true;
                lines.telnet.filter(input)
            }
            _ => input.len(),
        };
        self.decode(id, &mut input[..length]);
    }

    /// Lets a connection go on whose pause is over: first the command that waited, then the input behind it.
    pub(super) fn resume(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        if connection.pause.is_some() || self.pause_if_unread(id) {
            return;
        }
        if self.connections[id].call.is_some() && self.enter_first_room(id) {
            return;
        }
        let connection = self.connections.get_mut(id).expect("looked at above");
        if let Some(held) = connection.held.take() {
            match connection.encoding.uncompressed() {
                Encoding::Text => self.hear_text(id, &held),
                Encoding::JsonLine | Encoding::JsonMessage => self.hear_json(id, &held),
                Encoding::ProtobufMessage => self.hear_protobuf(id, &held),
                Encoding::GrpcEvent | Encoding::GrpcMessage | Encoding::GrpcResponse => {
                    held.is_empty() || self.obey_call(id, &held)
                }
                Encoding::JsonFrame | Encoding::ProtobufFrame => {
                    let (encoding, kind) = connection.held_frame;
                    self.hear_frame(id, Frame { encoding, kind, payload: &held })
                }
                _ => unreachable!("without compression there are these"),
            };
        }
        self.resume_held(id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let mut unread = std::mem::take(&mut connection.unread);
        self.decode(id, &mut unread);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stage == Stage::Open && connection.pause.is_none() {
            if connection.input_ended {
                self.finish_input(id);
            } else if connection.call.is_some() {
                self.resumed_calls.push(id);
            } else {
                self.resumed.push(id);
            }
        }
    }

    /// The peer will say no more. What it has said is obeyed and answered first.
    pub(super) fn finish_input(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.pause.is_some() || connection.has_backlog() {
            return;
        }
        if connection.call.is_some() {
            return self.finish_call_input(id);
        }
        let is_torn = connection.security == Security::Torn;
        let mut protocol = std::mem::replace(&mut connection.protocol, Protocol::Ended);
        match &mut protocol {
            Protocol::Http2(http2) => return self.end_http2_input(id, http2),
            _ if is_torn => {} // what stands behind the last line break may be the beginning of a line
            Protocol::Text(text) => {
                if let Some(rest) = text.lines.finish() {
                    self.hear_text(id, rest);
                }
            }
            Protocol::JsonLines(lines) => {
                if let Some(rest) = lines.finish() {
                    self.hear_json(id, rest);
                }
            }
            _ => {}
        }
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        connection.protocol = protocol;
        if connection.pause.is_some() {
            return;
        }
        let session = connection.session.and_then(|session| self.sessions.get(session));
        if connection.is_asking() || session.is_some_and(|session| !session.is_idle()) {
            connection.pause = Some(Pause::Reply);
        } else {
            self.close(id, Closing::InputEnded);
        }
    }

    fn decode(&mut self, id: Id, input: &mut [u8]) {
        self.decode_all(id, input);
        self.count_input(id);
    }

    /// Counts what a connection keeps of its input.
    fn count_input(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let bytes = connection.input_bytes() as u32;
        if bytes != connection.kept_input {
            let before = std::mem::replace(&mut connection.kept_input, bytes);
            self.counters.input_bytes.sub(before.into());
            self.counters.input_bytes.add(bytes.into());
        }
    }

    fn decode_all(&mut self, id: Id, mut input: &mut [u8]) {
        while !input.is_empty() {
            let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
                return;
            };
            if connection.pause.is_some() {
                connection.unread.extend_from_slice(input);
                return;
            }
            let mut protocol = std::mem::replace(&mut connection.protocol, Protocol::Ended);
            let mut next = None;
            let used = match &mut protocol {
                Protocol::Text(text) => self.decode_lines(id, &mut text.lines, input, Self::hear_text),
                Protocol::JsonLines(lines) => self.decode_lines(id, lines, input, Self::hear_json),
                Protocol::Frames(decoder) => self.decode_frames(id, decoder, input),
                Protocol::WebSocket(decoder) => self.decode_websocket(id, decoder, input, Self::hear_message),
                Protocol::Echo(decoder) => self.decode_websocket(id, decoder, input, Self::echo),
                Protocol::Watch(decoder) => self.decode_websocket(id, decoder, input, Self::hear_watcher),
                Protocol::Http(http) => self.decode_http(id, http, input, &mut next),
                Protocol::Http2(http2) => self.decode_http2(id, http2, input),
                Protocol::Messages(decoder) => self.decode_messages(id, decoder, input),
                // An event stream has said all that it had to with its request.
                Protocol::EventStream(_) | Protocol::Detect | Protocol::Ended => input.len(),
            };
            input = &mut input[used..];
            let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
                return;
            };
            let (is_web, is_new) =
                (matches!(connection.kind, ListenKind::Web | ListenKind::Grpc), next.is_some());
            connection.protocol = next.unwrap_or(protocol);
            if is_new {
                self.log_protocol(id);
            }
            if is_web {
                self.arm(id);
            }
        }
    }

    fn decode_lines(
        &mut self,
        id: Id,
        lines: &mut line::Decoder,
        input: &[u8],
        hear: fn(&mut Self, Id, &[u8]) -> bool,
    ) -> usize {
        let mut used = 0;
        while used < input.len() {
            let (taken, line) = lines.decode(&input[used..]);
            used += taken;
            let goes_on = match line {
                None => break,
                Some(Line::Text(line)) => hear(self, id, line),
                Some(Line::TooLong) => self.hear_too_long(id),
            };
            if !goes_on {
                break;
            }
        }
        lines.release();
        used
    }

    fn decode_frames(&mut self, id: Id, frames: &mut frame::Decoder, input: &[u8]) -> usize {
        let mut used = 0;
        while used < input.len() {
            let frame = match frames.decode(&input[used..]) {
                Ok((taken, frame)) => {
                    used += taken;
                    frame
                }
                Err(violation) => {
                    self.counters.too_large.add(u64::from(violation == frame::Violation::TooLarge));
                    self.log_violation(id, violation.why());
                    self.close(id, Closing::Bye(Farewell::BadProtocol));
                    return input.len();
                }
            };
            let Some(frame) = frame else { break };
            if !self.hear_frame(id, frame) {
                break;
            }
        }
        frames.release();
        used
    }

    fn decode_websocket(
        &mut self,
        id: Id,
        decoder: &mut websocket::Decoder,
        input: &mut [u8],
        hear: fn(&mut Self, Id, Item) -> bool,
    ) -> usize {
        let (mut used, mut inflated_bytes) = (0, 0);
        let bytes_max = decoder.message_bytes_max();
        while used < input.len() {
            let item = match decoder.decode(&mut input[used..]) {
                Ok((taken, item)) => {
                    used += taken;
                    item
                }
                Err(violation) => {
                    return self.refuse_violation(id, violation, input.len());
                }
            };
            let goes_on = match item {
                None => break,
                Some(Item::Deflated { is_text, payload }) => {
                    match self.hear_deflated(id, is_text, payload, bytes_max, hear) {
                        Ok((bytes, goes_on)) => {
                            inflated_bytes += bytes;
                            if inflated_bytes > self.limits.read_bytes_per_turn {
                                self.pause_after_inflating(id);
                                break;
                            }
                            goes_on
                        }
                        Err(violation) => return self.refuse_violation(id, violation, input.len()),
                    }
                }
                Some(Item::Ping(payload)) => {
                    self.say_raw(id, |out| websocket::put_pong(out, payload));
                    !self.pause_if_unread(id)
                }
                Some(Item::Pong(payload)) => {
                    self.note_pong(id, payload);
                    true
                }
                Some(Item::Close { code, .. }) => {
                    self.close(id, Closing::PeerClosed(code));
                    return input.len();
                }
                Some(data) => hear(self, id, data),
            };
            if !goes_on {
                break;
            }
        }
        decoder.release();
        used
    }

    /// Ends a connection whose client broke the protocol; all of its input is used up.
    fn refuse_violation(&mut self, id: Id, violation: websocket::Violation, all: usize) -> usize {
        self.counters.too_large.add(u64::from(violation.code == 1009));
        self.close(id, Closing::Violation(violation));
        all
    }

    /// Hears a message of the chat, and says whether the next one may be looked at.
    fn hear_message(&mut self, id: Id, item: Item) -> bool {
        let encoding = self.connections.get(id).map(|connection| connection.encoding.uncompressed());
        match (item, encoding) {
            (Item::Text(text), Some(Encoding::JsonMessage)) => self.hear_json(id, text.as_bytes()),
            (Item::Binary(bytes), Some(Encoding::ProtobufMessage)) => self.hear_protobuf(id, bytes),
            (Item::Text(_), _) => {
                let message = "this subprotocol speaks in binary frames";
                self.refuse_malformed(id, Refusal::new(Reason::BadRequest, message))
            }
            _ => {
                let message = "this subprotocol speaks in text frames";
                self.refuse_malformed(id, Refusal::new(Reason::BadRequest, message))
            }
        }
    }

    /// Sends a message back, and says whether the next one may be looked at.
    fn echo(&mut self, id: Id, item: Item) -> bool {
        match item {
            Item::Text(text) => self.say_websocket(id, Opcode::Text, text.as_bytes()),
            Item::Binary(bytes) => self.say_websocket(id, Opcode::Binary, bytes),
            Item::Deflated { .. } => unreachable!("it has been inflated"),
            Item::Ping(_) | Item::Pong(_) | Item::Close { .. } => unreachable!("control frames are not data"),
        }
        !self.pause_if_unread(id)
    }

    /// Stops reading from a peer that does not read the answers to what it sends, and says whether it did.
    pub(super) fn pause_if_unread(&mut self, id: Id) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return true };
        let most = self.limits.output_pause_bytes.min(self.limits.send_queue_bytes);
        if connection.queue.bytes() > most && connection.pause.is_none() {
            (connection.pause, connection.last_seen) = (Some(Pause::Output), self.now.tick);
            self.counters.output_pauses.add(1);
            self.arm(id);
            return true;
        }
        connection.pause.is_some()
    }

    fn hear_json(&mut self, id: Id, bytes: &[u8]) -> bool {
        let Some(encoding) = self.connections.get(id).map(|connection| connection.encoding) else {
            return false;
        };
        if bytes.is_empty() && encoding == Encoding::JsonLine {
            return true; // an empty line is nothing, to programs as to people
        }
        let flow = self.understand(id, encoding, bytes.len(), json::parse(bytes));
        self.follow(id, flow, bytes)
    }

    fn hear_protobuf(&mut self, id: Id, bytes: &[u8]) -> bool {
        let Some(encoding) = self.connections.get(id).map(|connection| connection.encoding) else {
            return false;
        };
        let flow = self.understand(id, encoding, bytes.len(), protobuf::parse(bytes));
        self.follow(id, flow, bytes)
    }

    fn hear_frame(&mut self, id: Id, frame: Frame) -> bool {
        let Frame { encoding, kind, payload } = frame;
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let is_new = connection.session.is_none();
        let answer_in = match encoding {
            frame::ENCODING_JSON => Encoding::JsonFrame,
            frame::ENCODING_PROTOBUF => Encoding::ProtobufFrame,
            _ => connection.encoding,
        };
        if is_new {
            connection.encoding = answer_in; // whatever has to be said before the hello is said as the client speaks
        }
        let unknown = |message: String| {
            Err(Malformed { id: None, reason: json::Reason::UnknownType, message: message.into() })
        };
        let name = kind.checked_sub(1).and_then(|index| wire::COMMANDS.get(usize::from(index)));
        let parsed = match (encoding, name) {
            (frame::ENCODING_JSON, Some(name)) => json::parse_as(name, payload),
            (frame::ENCODING_PROTOBUF, Some(_)) => protobuf::parse_as(kind, payload),
            (frame::ENCODING_JSON | frame::ENCODING_PROTOBUF, None) => {
                unknown(format!("there is no command of kind {kind}"))
            }
            _ => unknown(format!("there is no encoding {encoding}")),
        };
        let flow = self.understand(id, answer_in, payload.len(), parsed);
        if let Flow::Hold(_) = flow
            && let Some(connection) = self.connections.get_mut(id)
        {
            connection.held_frame = (encoding, kind);
        }
        self.follow(id, flow, payload)
    }

    pub(super) fn understand(
        &mut self,
        id: Id,
        encoding: Encoding,
        bytes: usize,
        parsed: Result<Envelope, Malformed>,
    ) -> Flow {
        match parsed {
            Ok(envelope) => {
                let asked = Asked { by: id, id: envelope.id.as_deref(), encoding, bytes };
                self.command(asked, &envelope.command)
            }
            Err(malformed) if self.is_free(id) => {
                let asked = Asked { by: id, id: malformed.id.as_deref(), encoding, bytes };
                self.refuse(asked, &Refusal::new(reason_of(malformed.reason), malformed.message));
                Flow::Next
            }
            Err(_) => Flow::Hold(Pause::Reply),
        }
    }

    fn hear_too_long(&mut self, id: Id) -> bool {
        self.counters.too_large.add(1);
        let message = format!("a line may have {} bytes", self.limits.inbound_bytes);
        self.refuse_malformed(id, Refusal::new(Reason::TooLarge, message))
    }

    /// Refuses input that is no command at all. It cannot wait its turn, having no place in the order of replies.
    fn refuse_malformed(&mut self, id: Id, refusal: Refusal) -> bool {
        self.refuse_later(id, &ReplyTo::default(), &refusal);
        self.connections.get(id).is_some_and(|c| c.stage == Stage::Open && c.pause.is_none())
    }

    /// Does what `flow` says, and says whether the next command may be looked at.
    pub(super) fn follow(&mut self, id: Id, flow: Flow, command: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return false;
        };
        match flow {
            // A command may have ended its session, for one mistake too many.
            Flow::Next => return connection.pause.is_none() && !self.pause_if_unread(id),
            Flow::Wait => connection.pause = Some(Pause::Reply),
            Flow::Hold(pause) => {
                connection.pause = Some(pause);
                connection.held = Some(command.into());
                if let Pause::Window(_) = pause {
                    self.window_waiters.push(id);
                }
            }
        }
        false
    }

    /// Whether no command of the connection is under way.
    pub(super) fn is_free(&self, id: Id) -> bool {
        let session =
            self.connections.get(id).and_then(|c| c.session).and_then(|session| self.sessions.get(session));
        session.is_none_or(|session| session.is_idle())
    }
}

pub(super) fn reason_of(reason: json::Reason) -> Reason {
    match reason {
        json::Reason::BadJson => Reason::BadJson,
        json::Reason::BadRequest => Reason::BadRequest,
        json::Reason::UnknownType => Reason::UnknownType,
        json::Reason::BadUtf8 => Reason::BadUtf8,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::Config;
    use crate::shard::Flock;

    #[test]
    fn an_echo_that_is_not_read_from_is_not_read_either() {
        let config = Arc::new(Config::default());
        let (bytes_max, chunk) = (config.limits.output_pause_bytes, config.limits.read_buffer_bytes);
        let census = Arc::new(Census::new(0, 0));
        let flock = Flock::of_one(config, census);
        let text = [&[0x81, 0x84, 0, 0, 0, 0][..], b"ping"].concat();
        let ping = [&[0x89, 0x84, 0, 0, 0, 0][..], b"ping"].concat();
        for frame in [text, ping] {
            let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
            let id = shard.open([127, 0, 0, 1].into(), ListenKind::Web);
            let request = "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            shard.receive(id, &mut request.as_bytes().to_vec());
            let mut turns = 0;
            while shard.wants_input(id) {
                shard.receive(id, &mut frame.repeat(chunk / frame.len()));
                assert!(!shard.flushed(id), "it is not to be closed for that");
                turns += 1;
                assert!(turns < 1000, "reads without end");
            }
            assert!((bytes_max..bytes_max + chunk).contains(&shard.inventory().queued_bytes_max));
        }
    }
}
