//! What a client must know of the transports: HTTP responses and WebSocket frames (RFC 6455), in its own hand, so that
//! the server's codecs are not tested against themselves.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use starling::base::rng::Rng;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const FIN: u8 = 0x80;
const COMPRESSED: u8 = 0x40;

/// What clients offer, one like the other (RFC 7692, 7.1).
const OFFERS: [Option<&str>; 7] = [
    None,
    Some("permessage-deflate"),
    Some("permessage-deflate; client_max_window_bits"),
    Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
    Some("permessage-deflate; server_max_window_bits=9; client_max_window_bits=10"),
    Some(
        "permessage-deflate; mystery, permessage-deflate; server_no_context_takeover; server_max_window_bits=\"12\"",
    ),
    Some("permessage-deflate; client_no_context_takeover; server_max_window_bits=11"),
];

/// Offers of compression, as a field of the request of that client.
pub fn extensions(client: usize) -> String {
    let field = |offer| format!("Sec-WebSocket-Extensions: {offer}\r\n");
    OFFERS[client % OFFERS.len()].map(field).unwrap_or_default()
}

/// One side's end of the compression that was agreed on (RFC 7692, 7.2).
#[derive(Debug)]
pub struct Deflate {
    compress: Compress,
    keeps_own_context: bool,
    decompress: Decompress,
    keeps_their_context: bool,
}

impl Deflate {
    /// As the server's answer to a client says.
    pub fn agreed(client: usize, answer: &str) -> Deflate {
        let offer = OFFERS[client % OFFERS.len()].expect("what is answered was offered");
        let parameters: Vec<&str> = answer.split(';').map(str::trim).collect();
        assert_eq!(parameters[0], "permessage-deflate");
        let says = |name: &str| parameters.contains(&name);
        for name in ["server_no_context_takeover", "client_no_context_takeover"] {
            assert!(says(name) || !offer.contains(name), "{answer} to {offer}");
        }
        let bits = |name: &str| {
            let value = parameters.iter().find_map(|parameter| parameter.strip_prefix(name));
            value.map_or(15, |value| value.trim_start_matches('=').parse().expect("a number of bits"))
        };
        let (own_bits, their_bits) = (bits("client_max_window_bits"), bits("server_max_window_bits"));
        assert!(their_bits == 15 || offer.contains("server_max_window_bits"), "{answer} to {offer}");
        Deflate {
            compress: Compress::new_with_window_bits(Compression::new(client as u32 % 10), false, own_bits),
            keeps_own_context: !says("client_no_context_takeover"),
            decompress: Decompress::new_with_window_bits(false, their_bits),
            keeps_their_context: !says("server_no_context_takeover"),
        }
    }

    fn compressed(&mut self, message: &[u8]) -> Vec<u8> {
        if !self.keeps_own_context {
            self.compress.reset();
        }
        let mut out = Vec::with_capacity(2 * message.len() + 100);
        self.compress.compress_vec(message, &mut out, FlushCompress::Sync).expect("no failure");
        assert!(out.ends_with(&[0, 0, 0xFF, 0xFF]), "there is room for all");
        out.truncate(out.len() - 4);
        out
    }

    fn inflated(&mut self, payload: &[u8]) -> Vec<u8> {
        if !self.keeps_their_context {
            self.decompress.reset(false);
        }
        let mut out = Vec::with_capacity(1 << 20);
        let input = [payload, &[0, 0, 0xFF, 0xFF]].concat();
        let before = self.decompress.total_in();
        self.decompress.decompress_vec(&input, &mut out, FlushDecompress::None).expect("compressed data");
        assert_eq!(self.decompress.total_in() - before, input.len() as u64, "all is read");
        out
    }
}

/// One frame from a client: masked, as it has to be.
pub fn put_frame(out: &mut Vec<u8>, opcode: u8, is_final: bool, payload: &[u8], rng: &mut Rng) {
    put_frame_of(out, opcode | if is_final { FIN } else { 0 }, payload, rng);
}

fn put_frame_of(out: &mut Vec<u8>, first: u8, payload: &[u8], rng: &mut Rng) {
    out.push(first);
    match payload.len() {
        short @ ..126 => out.push(0x80 | short as u8),
        middle @ ..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = (rng.next_u64() as u32).to_be_bytes();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// A text message, in one frame or in several with a ping between them, most of them compressed where that was agreed on.
pub fn put_message(out: &mut Vec<u8>, payload: &[u8], deflate: Option<&mut Deflate>, rng: &mut Rng) {
    let compressed = deflate.and_then(|deflate| rng.chance(80).then(|| deflate.compressed(payload)));
    let first = TEXT | if compressed.is_some() { COMPRESSED } else { 0 };
    let payload = compressed.as_deref().unwrap_or(payload);
    if payload.len() < 4 || !rng.chance(10) {
        return put_frame_of(out, FIN | first, payload, rng);
    }
    let cut = 1 + rng.below(payload.len() as u64 - 1) as usize;
    put_frame_of(out, first, &payload[..cut], rng);
    if rng.chance(30) {
        put_frame(out, PING, true, b"between", rng);
    }
    put_frame(out, 0, true, &payload[cut..], rng);
}

/// Takes one frame from the front of what a server sent.
pub fn take_frame(input: &mut Vec<u8>, deflate: Option<&mut Deflate>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    let may_be_compressed = deflate.is_some() && first & 0x0F == TEXT;
    let reserved = if may_be_compressed { 0x30 } else { 0x70 };
    assert_eq!(first & (FIN | reserved), FIN, "a server's frame is whole and has no reserved bits");
    assert_eq!(second & 0x80, 0, "a server's frame is not masked");
    let number = |bytes: &[u8]| bytes.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte));
    let (header, length) = match second {
        126 => (4, number(input.get(2..4)?)),
        127 => (10, number(input.get(2..10)?)),
        short => (2, usize::from(short)),
    };
    let shortest = match length {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    assert_eq!(header, shortest, "a length is in its shortest form");
    if input.len() < header + length {
        return None;
    }
    let mut payload = input[header..header + length].to_vec();
    input.drain(..header + length);
    if let Some(deflate) = deflate.filter(|_| first & COMPRESSED != 0) {
        payload = deflate.inflated(&payload);
    }
    Some((first & 0x0F, payload))
}

/// Takes one line from the front, without its end.
pub fn take_line(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let mut line: Vec<u8> = input.drain(..=end).collect();
    line.pop();
    Some(line)
}

/// Takes one HTTP response from the front: its status, its body, and the extensions that were agreed on.
pub fn take_response(input: &mut Vec<u8>) -> Option<(u16, Vec<u8>, Option<String>)> {
    let head_bytes = input.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&input[..head_bytes]).expect("a head is ASCII").to_ascii_lowercase();
    let status = head
        .strip_prefix("http/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status line: {head:?}"));
    let extensions = head.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
    let extensions = extensions.map(str::to_owned);
    let body_bytes = if status == 101 {
        assert!(head.contains("sec-websocket-accept: "), "{head:?}");
        0
    } else {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        length.map_or(0, |length| length.parse().expect("a length is a number"))
    };
    if input.len() < head_bytes + body_bytes {
        return None;
    }
    let body = input[head_bytes..head_bytes + body_bytes].to_vec();
    input.drain(..head_bytes + body_bytes);
    Some((status, body, extensions))
}
