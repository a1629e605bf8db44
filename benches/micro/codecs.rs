//! Bytes to commands, and events to bytes.

use std::hint::black_box;

use prost::Message as _;
use starling::proto::protobuf::schema;
use starling::proto::websocket::{self, Deflater, Inflater, Opcode, handshake};
use starling::proto::wire::{Ack, Event};
use starling::proto::{frame, http1, json, line, protobuf, text};

use crate::works::{CONTENT_BYTES, Run, prose, repeat, words};

/// More than any input here is long.
const BYTES_MAX: usize = 1 << 20;

/// As much as the server compresses where nobody says otherwise.
const LEVEL: u32 = 6;

/// A client's masking key. Of ASCII, so that masked ASCII is ASCII too: a frame that is decoded again and again in place
/// is masked every other time, and must be UTF-8 all the same.
const MASK: [u8; 4] = *b"mask";

/// What `curl` sends.
pub const CURL: &[u8] =
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n";

/// What a browser sends to open a WebSocket.
pub const BROWSER: &[u8] = b"GET /ws?nickname=alice&room=lobby HTTP/1.1\r\n\
    Host: 127.0.0.1:8080\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: http://127.0.0.1:8080\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// A frame as a client sends it.
pub fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    const MASK_BIT: u8 = 0x80;
    let mut frame = Vec::new();
    websocket::put_header(&mut frame, opcode, payload.len());
    frame[1] |= MASK_BIT;
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub fn websocket_decode(bytes: usize) -> Run {
    let mut frame = masked(Opcode::Text, words(bytes).as_bytes());
    let mut decoder = websocket::Decoder::new(BYTES_MAX, 1);
    repeat(move || {
        let decoded = decoder.decode(black_box(&mut frame)).expect("it is a frame");
        assert!(matches!(black_box(decoded).1, Some(websocket::Item::Text(_))));
    })
}

pub fn websocket_encode(bytes: usize) -> Run {
    let payload = words(bytes);
    into_buffer(move |out| websocket::put_text(out, black_box(payload.as_bytes())))
}

/// The event `message` of so many bytes, in a frame.
fn event_frame(bytes: usize) -> Vec<u8> {
    let head = r#"{"type":"message","room":"lobby","sender":"alice","content":""#;
    let tail = r#"","offset":12345,"timestamp":1795259281741}"#;
    let content = prose(bytes.saturating_sub(head.len() + tail.len()));
    let mut frame = Vec::new();
    websocket::put_text(&mut frame, format!("{head}{content}{tail}").as_bytes());
    frame
}

/// Compresses a frame that is there, as it is done once for all members of a room.
pub fn websocket_deflate(bytes: usize) -> Run {
    let frame = event_frame(bytes);
    let (mut deflater, mut buffer) = (Deflater::new(LEVEL, 15, false), Vec::new());
    into_buffer(move |out| {
        out.extend_from_slice(black_box(&frame));
        assert!(deflater.compress_last(out, 0, 0, &mut buffer).is_some());
    })
}

/// Reads it again.
pub fn websocket_inflate(bytes: usize) -> Run {
    let mut frame = event_frame(bytes);
    let (_, after) = Deflater::new(LEVEL, 15, false)
        .compress_last(&mut frame, 0, 0, &mut Vec::new())
        .expect("it becomes shorter");
    let payload = frame.split_off(frame.len() - after);
    let mut inflater = Inflater::default();
    repeat(move || {
        black_box(inflater.inflate(true, black_box(&payload), None, BYTES_MAX).expect("compressed"));
    })
}

pub fn json_parse_message() -> Run {
    let command =
        format!(r#"{{"type":"message","room":"lobby","content":"{}","id":"1234"}}"#, words(CONTENT_BYTES));
    repeat(move || {
        black_box(json::parse(black_box(command.as_bytes())).expect("it is a command"));
    })
}

pub fn json_write_message() -> Run {
    of_message(json::write)
}

pub fn json_write_ack() -> Run {
    of_ack(json::write)
}

pub fn protobuf_parse_message() -> Run {
    let say = schema::Say { room: "lobby".into(), content: words(CONTENT_BYTES), ..Default::default() };
    let command = schema::Command { id: "1234".into(), kind: Some(schema::command::Kind::Message(say)) };
    let command = command.encode_to_vec();
    repeat(move || {
        black_box(protobuf::parse(black_box(&command)).expect("it is a command"));
    })
}

pub fn protobuf_write_message() -> Run {
    of_message(protobuf::write)
}

pub fn protobuf_write_ack() -> Run {
    of_ack(protobuf::write)
}

pub fn text_parse_say() -> Run {
    let line = words(CONTENT_BYTES);
    repeat(move || {
        black_box(text::parse(black_box(&line)));
    })
}

pub fn text_parse_msg() -> Run {
    let line = format!("/msg bob {}", words(CONTENT_BYTES));
    repeat(move || {
        black_box(text::parse(black_box(&line)));
    })
}

pub fn text_write_message() -> Run {
    of_message(text::write)
}

pub fn line_decode(bytes: usize) -> Run {
    let input = words(bytes) + "\n";
    let mut decoder = line::Decoder::new(BYTES_MAX);
    repeat(move || {
        let decoded = decoder.decode(black_box(input.as_bytes()));
        assert!(matches!(black_box(decoded).1, Some(line::Line::Text(_))));
    })
}

pub fn frame_decode(bytes: usize) -> Run {
    let mut input = Vec::new();
    frame::put(&mut input, frame::ENCODING_JSON, 1, words(bytes).as_bytes());
    let mut decoder = frame::Decoder::new(BYTES_MAX);
    repeat(move || {
        let decoded = decoder.decode(black_box(&input)).expect("it is a frame");
        assert!(black_box(decoded).1.is_some());
    })
}

pub fn frame_encode(bytes: usize) -> Run {
    let payload = words(bytes);
    into_buffer(move |out| frame::put(out, frame::ENCODING_JSON, 1, black_box(payload.as_bytes())))
}

pub fn http1_head(request: &'static [u8]) -> Run {
    let mut decoder = head_decoder();
    repeat(move || {
        let decoded = decoder.decode(black_box(request)).expect("it is a request");
        assert!(black_box(decoded).1.is_some());
    })
}

/// A browser's head, what it asks for, and the answer.
pub fn websocket_upgrade() -> Run {
    let mut decoder = head_decoder();
    into_buffer(move |out| {
        let (_, head) = decoder.decode(black_box(BROWSER)).expect("it is a request");
        let upgrade = handshake::upgrade(&head.expect("it is all there")).expect("it is a handshake");
        handshake::put_response(out, upgrade.key, None, None, None);
    })
}

fn head_decoder() -> http1::HeadDecoder {
    http1::HeadDecoder::new(BYTES_MAX, BYTES_MAX)
}

fn of_message(write: fn(&Event<'_>, &mut Vec<u8>)) -> Run {
    let content = words(CONTENT_BYTES);
    into_buffer(move |out| {
        let (offset, timestamp) = (1234, 1_795_259_281_741);
        let message = Event::Message { room: "lobby", sender: "alice", content: &content, offset, timestamp };
        write(black_box(&message), out);
    })
}

fn of_ack(write: fn(&Event<'_>, &mut Vec<u8>)) -> Run {
    into_buffer(move |out| {
        let ack = Ack {
            id: Some("1234"),
            room: Some("lobby"),
            epoch: Some("9f3c5d4fb3c1b3a0"),
            offset: Some(1234),
            timestamp: Some(1_795_259_281_741),
            level: Some("sequenced"),
            ..Ack::default()
        };
        write(black_box(&Event::Ack(ack)), out);
    })
}

/// Writes into a buffer that has grown, as those of a core have.
fn into_buffer(mut write: impl FnMut(&mut Vec<u8>) + 'static) -> Run {
    let mut out = Vec::with_capacity(BYTES_MAX);
    repeat(move || {
        out.clear();
        write(&mut out);
        assert!(!black_box(&out).is_empty());
    })
}
