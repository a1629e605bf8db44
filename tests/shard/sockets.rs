//! WebSockets of clients.

use serde_json::Value;
use starling::config::ListenKind;

use crate::cores::{Client, Cores};

pub const TEXT: u8 = 1;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// What asks for a WebSocket, with this query.
pub fn request(query: &str) -> String {
    format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Somebody has opened a WebSocket, with this query.
pub fn open(cores: &mut Cores, core: usize, query: &str) -> Client {
    let client = cores.connect(core, ListenKind::Web);
    cores.receive(client, request(query).as_bytes());
    client
}

/// A short frame of a client, whose mask is zero.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

/// The frames that a client has been sent, by opcode, behind the answer to its request if that has come.
pub fn frames(cores: &mut Cores, client: Client) -> Vec<(u8, Vec<u8>)> {
    let bytes = cores.bytes(client);
    let mut rest = match bytes.starts_with(b"HTTP/1.1 101 ") {
        true => {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
            &bytes[end.expect("a head ends") + 4..]
        }
        false => &bytes[..],
    };
    let mut frames = Vec::new();
    while let [first, length, ..] = rest {
        let (length, at) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
            length => (usize::from(*length), 2),
        };
        frames.push((first & 15, rest[at..at + length].to_vec()));
        rest = &rest[at + length..];
    }
    frames
}

/// The events in it.
pub fn events(cores: &mut Cores, client: Client) -> Vec<Value> {
    let texts = frames(cores, client).into_iter().filter(|(opcode, _)| *opcode == TEXT);
    texts.map(|(_, payload)| serde_json::from_slice(&payload).expect("events are JSON")).collect()
}
