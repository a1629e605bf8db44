//! What a client must know of the transports: HTTP responses and WebSocket frames (RFC 6455), in its own hand, so that
//! the server's codecs are not tested against themselves.

use starling::base::rng::Rng;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One frame from a client: masked, as it has to be.
pub fn put_frame(out: &mut Vec<u8>, opcode: u8, is_final: bool, payload: &[u8], rng: &mut Rng) {
    out.push(opcode | if is_final { 0x80 } else { 0 });
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

/// A text message, in one frame or in several with a ping between them.
pub fn put_message(out: &mut Vec<u8>, payload: &[u8], rng: &mut Rng) {
    if payload.len() < 4 || !rng.chance(10) {
        return put_frame(out, TEXT, true, payload, rng);
    }
    let cut = 1 + rng.below(payload.len() as u64 - 1) as usize;
    put_frame(out, TEXT, false, &payload[..cut], rng);
    if rng.chance(30) {
        put_frame(out, PING, true, b"between", rng);
    }
    put_frame(out, 0, true, &payload[cut..], rng);
}

/// Takes one frame from the front of what a server sent.
pub fn take_frame(input: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    assert_eq!(first & 0xF0, 0x80, "a server's frame is whole and has no reserved bits");
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
    let payload = input[header..header + length].to_vec();
    input.drain(..header + length);
    Some((first & 0x0F, payload))
}

/// Takes one line from the front, without its end.
pub fn take_line(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let mut line: Vec<u8> = input.drain(..=end).collect();
    line.pop();
    Some(line)
}

/// Takes one HTTP response from the front: its status and its body.
pub fn take_response(input: &mut Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let head_bytes = input.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&input[..head_bytes]).expect("a head is ASCII").to_ascii_lowercase();
    let status = head
        .strip_prefix("http/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status line: {head:?}"));
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
    Some((status, body))
}
