//! Events into the bytes of each kind of connection: where the wire's vocabulary meets its transports.

use crate::proto::wire::Event;
use crate::proto::{json, text, websocket};

/// How a connection wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// A line for people.
    Text,
    /// A JSON object a line.
    JsonLine,
    /// A JSON object a WebSocket text frame.
    JsonFrame,
}

/// How many encodings there are.
pub const ENCODINGS: usize = 3;

/// All encodings, in the order of their numbers.
pub const ALL: [Encoding; ENCODINGS] = [Encoding::Text, Encoding::JsonLine, Encoding::JsonFrame];

impl Encoding {
    /// Appends `event`. `scratch` is used for its JSON.
    pub fn put(self, event: &Event, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        scratch.clear();
        if self.is_json() {
            json::write(event, scratch);
        }
        self.put_with(event, scratch, out);
    }

    /// Appends `event`, whose JSON is at hand where this encoding needs it.
    pub fn put_with(self, event: &Event, json: &[u8], out: &mut Vec<u8>) {
        match self {
            Encoding::Text => text::write(event, out),
            Encoding::JsonLine => {
                out.extend_from_slice(json);
                out.push(b'\n');
            }
            Encoding::JsonFrame => websocket::put_text(out, json),
        }
    }

    /// Whether it is a frame around JSON.
    pub fn is_json(self) -> bool {
        self != Encoding::Text
    }
}
