//! Events into the bytes of each kind of connection: where the wire's vocabulary meets its transports.

use super::deflate::Deflaters;
use crate::config::Config;
use crate::proto::wire::Event;
use crate::proto::{frame, grpc, json, protobuf, sse, text, websocket};

/// How a connection wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// A line for people.
    Text,
    /// A JSON object a line.
    JsonLine,
    /// A JSON object a WebSocket text frame.
    JsonMessage,
    /// A Protobuf message a WebSocket binary frame.
    ProtobufMessage,
    /// A JSON object a binary frame.
    JsonFrame,
    /// A Protobuf message a binary frame.
    ProtobufFrame,
    /// A compressed [`Encoding::JsonMessage`].
    JsonDeflated,
    /// A compressed [`Encoding::ProtobufMessage`].
    ProtobufDeflated,
    /// A [`Encoding::JsonDeflated`] for those who asked for a shorter window than the longest.
    JsonDeflatedNarrow,
    /// The same of a [`Encoding::ProtobufMessage`].
    ProtobufDeflatedNarrow,
    /// An `Event` a message of gRPC.
    GrpcEvent,
    /// A `Message` a message of gRPC; what it has no place for is not told.
    GrpcMessage,
    /// A message a Server-Sent Event, in JSON; nothing else is told.
    EventStream,
    /// The response to a call of gRPC with one, of which no room ever hears.
    GrpcResponse,
}

/// How many encodings rooms may be heard in.
pub const ENCODINGS: usize = 13;

/// Those encodings, in the order of their numbers.
pub const ALL: [Encoding; ENCODINGS] = [
    Encoding::Text,
    Encoding::JsonLine,
    Encoding::JsonMessage,
    Encoding::ProtobufMessage,
    Encoding::JsonFrame,
    Encoding::ProtobufFrame,
    Encoding::JsonDeflated,
    Encoding::ProtobufDeflated,
    Encoding::JsonDeflatedNarrow,
    Encoding::ProtobufDeflatedNarrow,
    Encoding::GrpcEvent,
    Encoding::GrpcMessage,
    Encoding::EventStream,
];

/// How much memory the buffers may keep after a large event.
const KEPT_BYTES: usize = 64 * 1024;

/// The payloads of one event, each made once, when the first encoding needs it.
#[derive(Debug)]
pub struct Scratch {
    json: Vec<u8>,
    protobuf: Vec<u8>,
    protobuf_message: Vec<u8>,
    /// What compresses them.
    pub(super) deflaters: Deflaters,
}

impl Scratch {
    /// Empty buffers, and what compresses as the configuration has it.
    pub fn new(config: &Config) -> Self {
        Scratch {
            json: Vec::new(),
            protobuf: Vec::new(),
            protobuf_message: Vec::new(),
            deflaters: Deflaters::new(config),
        }
    }

    /// Forgets the payloads of the event before.
    pub fn begin(&mut self) {
        for payload in [&mut self.json, &mut self.protobuf, &mut self.protobuf_message] {
            payload.clear();
            payload.shrink_to(KEPT_BYTES);
        }
    }

    fn json(&mut self, event: &Event) -> &[u8] {
        if self.json.is_empty() {
            json::write(event, &mut self.json);
        }
        &self.json
    }

    /// The message of the event's kind. It may be empty; making it again then costs nothing.
    fn protobuf(&mut self, event: &Event) -> &[u8] {
        if self.protobuf.is_empty() {
            protobuf::write_as(event, &mut self.protobuf);
        }
        &self.protobuf
    }

    fn protobuf_message(&mut self, event: &Event) -> &[u8] {
        if self.protobuf_message.is_empty() {
            protobuf::write(event, &mut self.protobuf_message);
        }
        &self.protobuf_message
    }
}

impl Encoding {
    /// Appends `event`, which is not of a room.
    pub fn put(self, event: &Event, scratch: &mut Scratch, out: &mut Vec<u8>) {
        scratch.begin();
        self.put_with("", event, scratch, out);
    }

    /// Appends `event` of a room with this epoch, whose payloads are in `scratch` as far as they have been made.
    pub fn put_with(self, epoch: &str, event: &Event, scratch: &mut Scratch, out: &mut Vec<u8>) {
        match self {
            Encoding::Text => text::write(event, out),
            Encoding::JsonLine => {
                out.extend_from_slice(scratch.json(event));
                out.push(b'\n');
            }
            Encoding::JsonMessage => websocket::put_text(out, scratch.json(event)),
            Encoding::ProtobufMessage => websocket::put_binary(out, scratch.protobuf_message(event)),
            Encoding::JsonDeflated
            | Encoding::ProtobufDeflated
            | Encoding::JsonDeflatedNarrow
            | Encoding::ProtobufDeflatedNarrow => {
                let at = out.len();
                self.uncompressed().put_with(epoch, event, scratch, out);
                scratch.deflaters.compress_last(self, out, at);
            }
            Encoding::JsonFrame => {
                frame::put(
                    out,
                    frame::ENCODING_JSON,
                    frame::EVENT_KIND_BASE + event.number(),
                    scratch.json(event),
                );
            }
            Encoding::ProtobufFrame => {
                frame::put(
                    out,
                    frame::ENCODING_PROTOBUF,
                    frame::EVENT_KIND_BASE + event.number(),
                    scratch.protobuf(event),
                );
            }
            Encoding::GrpcEvent => {
                grpc::put(out, |out| out.extend_from_slice(scratch.protobuf_message(event)));
            }
            Encoding::GrpcMessage => {
                let start = out.len();
                let mut is_shown = false;
                grpc::put(out, |out| is_shown = grpc::write_event(event, out));
                if !is_shown {
                    out.truncate(start);
                }
            }
            Encoding::EventStream => {
                if let Event::Message { offset, .. } = event {
                    sse::put_event(out, "message", epoch, *offset, scratch.json(event));
                }
            }
            Encoding::GrpcResponse => {
                if let Event::Ack(ack) = event {
                    grpc::put(out, |out| grpc::write_sent(ack, out));
                }
            }
        }
    }

    /// Whether events come in frames of a WebSocket.
    pub fn is_websocket(self) -> bool {
        matches!(self.uncompressed(), Encoding::JsonMessage | Encoding::ProtobufMessage)
    }

    /// The same without compression.
    pub fn uncompressed(self) -> Encoding {
        match self {
            Encoding::JsonDeflated | Encoding::JsonDeflatedNarrow => Encoding::JsonMessage,
            Encoding::ProtobufDeflated | Encoding::ProtobufDeflatedNarrow => Encoding::ProtobufMessage,
            plain => plain,
        }
    }

    /// A WebSocket's encoding with compression, which refers to nothing outside the message.
    pub fn deflated(self, is_narrow: bool) -> Encoding {
        match (self, is_narrow) {
            (Encoding::JsonMessage, false) => Encoding::JsonDeflated,
            (Encoding::JsonMessage, true) => Encoding::JsonDeflatedNarrow,
            (Encoding::ProtobufMessage, false) => Encoding::ProtobufDeflated,
            (Encoding::ProtobufMessage, true) => Encoding::ProtobufDeflatedNarrow,
            (other, _) => other,
        }
    }

    /// Whether events come in binary frames.
    pub fn is_frame(self) -> bool {
        matches!(self, Encoding::JsonFrame | Encoding::ProtobufFrame)
    }

    /// Whether a session goes on for a while without its connection: not where its client could not say that it is back.
    pub fn can_resume(self) -> bool {
        !matches!(
            self,
            Encoding::Text | Encoding::GrpcMessage | Encoding::GrpcResponse | Encoding::EventStream
        )
    }

    /// Whether a connection that speaks `other` can hear this one too: only binary frames tell their encoding.
    pub fn is_beside(self, other: Encoding) -> bool {
        self == other || (self.is_frame() && other.is_frame())
    }
}
