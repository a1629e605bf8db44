//! The languages of clients.

use serde_json::{Value, json};
use starling::config::ListenKind;
use starling::proto::wire::COMMANDS;

use crate::cores::{Client, Cores};

/// The languages in which programs say commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Lines,
    JsonFrames,
    ProtobufFrames,
    WebSocket,
    ProtobufWebSocket,
}

pub const CARRIERS: [Carrier; 5] = [
    Carrier::Lines,
    Carrier::JsonFrames,
    Carrier::ProtobufFrames,
    Carrier::WebSocket,
    Carrier::ProtobufWebSocket,
];

/// Fields of the messages in starling.proto, by their numbers.
fn field_number(kind: u8, name: &str) -> u64 {
    match (kind, name) {
        (_, "id") => 100,
        (_, "nickname" | "room" | "target") => 1,
        (5 | 6, "content") => 2,
        (2, "echo") => 4, // no_echo
        _ => panic!("no field {name} of {kind}"),
    }
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A command with its kind, or as it is in a frame that tells the kind.
fn protobuf(kind: u8, fields: &Value, is_framed: bool) -> Vec<u8> {
    let (mut body, mut id) = (Vec::new(), Vec::new());
    for (name, value) in fields.as_object().unwrap() {
        let out = if name == "id" { &mut id } else { &mut body };
        match value {
            Value::String(text) => {
                varint(field_number(kind, name) << 3 | 2, out);
                varint(text.len() as u64, out);
                out.extend_from_slice(text.as_bytes());
            }
            Value::Bool(false) => {
                varint(field_number(kind, name) << 3, out);
                varint(1, out);
            }
            other => panic!("{other}"),
        }
    }
    if is_framed {
        return [body, id].concat();
    }
    let mut command = Vec::new();
    varint(u64::from(kind) << 3 | 2, &mut command);
    varint(body.len() as u64, &mut command);
    command.extend(body);
    command.extend(id);
    command
}

impl Carrier {
    pub fn connect(self, cores: &mut Cores, core: usize) -> Client {
        let kind = match self {
            Carrier::Lines => ListenKind::Line,
            Carrier::JsonFrames | Carrier::ProtobufFrames => ListenKind::Frame,
            Carrier::WebSocket | Carrier::ProtobufWebSocket => ListenKind::Web,
        };
        let client = cores.connect(core, kind);
        if kind == ListenKind::Web {
            let protocol = match self {
                Carrier::WebSocket => "starling.json.v1",
                _ => "starling.proto.v1",
            };
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
            );
            cores.receive(client, request.as_bytes());
            let answer = cores.heard(client);
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        }
        client
    }

    pub fn command(self, kind: u8, fields: &str) -> Vec<u8> {
        let fields: Value = serde_json::from_str(fields).unwrap();
        let mut as_json = fields.clone();
        as_json["type"] = json!(COMMANDS[usize::from(kind) - 1]);
        match self {
            Carrier::Lines => format!("{as_json}\n").into_bytes(),
            Carrier::WebSocket => websocket(1, as_json.to_string().as_bytes()),
            Carrier::ProtobufWebSocket => websocket(2, &protobuf(kind, &fields, false)),
            Carrier::JsonFrames => frame(0, kind, fields.to_string().as_bytes()),
            Carrier::ProtobufFrames => frame(1, kind, &protobuf(kind, &fields, true)),
        }
    }
}

/// A client's frame with a mask of zeros.
pub fn websocket(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

pub fn frame(encoding: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xCA, 0xFE, 0xBA, 0xBE, 1];
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend([encoding, kind]);
    frame.extend(payload);
    frame
}
