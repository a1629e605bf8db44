//! The client's side of WebSocket (RFC 6455), as far as a load generator needs it: it reads compressed messages (RFC 7692), and writes
//! none.

use std::cell::RefCell;

use super::{Heard, Stage};
use crate::proto::websocket::{Inflater, Item};

/// The key by which payloads are masked. The RFC wants unpredictable ones, against proxies in between that are not here.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x3c];

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// Of a compressed message.
const RSV1: u8 = 0x40;
const MASKED: u8 = 0x80;

/// The most bytes that a compressed message may become: a target that sends more is broken.
const INFLATED_BYTES_MAX: usize = 64 << 20;

/// A frame of the server's.
pub struct Frame<'a> {
    /// All of it, header included.
    pub bytes: usize,
    /// What is in it.
    pub payload: &'a [u8],
    opcode: u8,
    is_deflated: bool,
}

/// What is offered where messages are to be compressed, each by itself.
const DEFLATE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Appends the request that makes a connection a WebSocket, and offers compression if that is wanted.
pub fn put_request(host: &str, path: &str, protocol: Option<&str>, deflates: bool, out: &mut Vec<u8>) {
    let mut offer = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    if deflates {
        offer.push_str(&format!("Sec-WebSocket-Extensions: {DEFLATE}\r\n"));
    }
    out.extend_from_slice(
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        )
        .as_bytes(),
    );
}

/// A connection whose request has not been answered, and one that is a WebSocket.
pub const REQUESTED: Stage = 0;
pub const OPEN: Stage = 1;

/// Reads the answer to the request, if it has not come yet. How much of the input that was; `None` while it is not whole. Without a
/// word of compression it is none where that was wanted.
pub fn hear_answer(
    stage: &mut Stage,
    deflates: bool,
    input: &[u8],
    heard: &mut Vec<Heard>,
) -> Result<Option<usize>, String> {
    if *stage != REQUESTED {
        return Ok(Some(0));
    }
    let taken = read_answer(input)?;
    if let Some(bytes) = taken {
        if deflates && memchr::memmem::find(&input[..bytes], b"permessage-deflate").is_none() {
            return Err("the target does not compress: starling does with web.deflate = true".to_owned());
        }
        *stage = OPEN;
        heard.push(Heard::Open);
    }
    Ok(taken)
}

/// Reads the answer to the request: its length, once it is whole.
fn read_answer(input: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
    if input.starts_with(b"HTTP/1.1 101") {
        return Ok(Some(end + 4));
    }
    let line = input.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(format!("no WebSocket there: the answer was {:?}", String::from_utf8_lossy(line)))
}

/// Appends a frame whose payload `put` appends.
pub fn put_frame(is_text: bool, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    put_any(if is_text { TEXT } else { BINARY }, out, put);
}

/// Appends the answer to a ping.
pub fn put_pong(payload: &[u8], out: &mut Vec<u8>) {
    put_any(PONG, out, |out| out.extend_from_slice(payload));
}

/// Appends a farewell.
pub fn put_close(out: &mut Vec<u8>) {
    put_any(CLOSE, out, |out| out.extend_from_slice(&1000_u16.to_be_bytes()));
}

fn put_any(opcode: u8, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    // The length is not known before the payload is there: room for the longest header is left, and closed up.
    const HEADER_MAX: usize = 14;
    let begin = out.len();
    out.resize(begin + HEADER_MAX, 0);
    put(out);
    let payload_bytes = out.len() - begin - HEADER_MAX;
    for (byte, key) in out[begin + HEADER_MAX..].iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= key;
    }
    let mut header = [0; HEADER_MAX];
    header[0] = FIN | opcode;
    let length_end = match payload_bytes {
        0..126 => {
            header[1] = MASKED | payload_bytes as u8;
            2
        }
        126..65_536 => {
            header[1] = MASKED | 126;
            header[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = MASKED | 127;
            header[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    };
    header[length_end..length_end + 4].copy_from_slice(&MASK);
    let header_bytes = length_end + 4;
    out[begin..begin + header_bytes].copy_from_slice(&header[..header_bytes]);
    out.copy_within(begin + HEADER_MAX.., begin + header_bytes);
    out.truncate(begin + header_bytes + payload_bytes);
}

/// The frame that `input` begins with, once it is whole.
#[inline]
pub fn read_frame(input: &[u8]) -> Result<Option<Frame<'_>>, String> {
    let &[first, second, ..] = input else { return Ok(None) };
    if second & MASKED != 0 || first & RESERVED & !RSV1 != 0 {
        return Err("a frame that servers do not send: masked, or with reserved bits".to_owned());
    }
    let (header_bytes, payload_bytes) = match second {
        127 => match input.get(2..10) {
            Some(length) => (
                10,
                usize::try_from(u64::from_be_bytes(length.try_into().expect("eight"))).unwrap_or(usize::MAX),
            ),
            None => return Ok(None),
        },
        126 => match input.get(2..4) {
            Some(length) => (4, usize::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    let bytes = header_bytes + payload_bytes.min(usize::MAX / 2);
    let Some(payload) = input.get(header_bytes..bytes) else { return Ok(None) };
    Ok(Some(Frame { bytes, payload, opcode: first & 15, is_deflated: first & RSV1 != 0 }))
}

impl Frame<'_> {
    /// Whether the payload is a message, or a part of one. Otherwise what the frame says has been noted.
    #[inline]
    pub fn is_data(&self, heard: &mut Vec<Heard>) -> bool {
        match self.opcode {
            PING => heard.push(Heard::Ping(self.payload.into())),
            CLOSE => {
                let code = self.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(self.payload.get(2..).unwrap_or_default());
                heard.push(Heard::Bye(format!("{code} {reason}").trim_end().into()));
            }
            PONG => {}
            _ => return true,
        }
        false
    }

    /// Has `hear` look at the message that is the payload, inflated if it is compressed.
    #[inline]
    pub fn read<R>(
        &self,
        deflates: bool,
        hear: impl FnOnce(&[u8]) -> Result<R, String>,
    ) -> Result<R, String> {
        if !self.is_deflated {
            return hear(self.payload);
        }
        if !deflates {
            return Err("a compressed message, and nobody has offered to read any".to_owned());
        }
        // One does for all connections of a thread: no message refers to another.
        thread_local!(static INFLATER: RefCell<Inflater> = RefCell::default());
        INFLATER.with_borrow_mut(|inflater| {
            match inflater.inflate(self.opcode == TEXT, self.payload, None, INFLATED_BYTES_MAX) {
                Ok(Item::Text(text)) => hear(text.as_bytes()),
                Ok(Item::Binary(bytes)) => hear(bytes),
                Ok(item) => unreachable!("a message becomes none of {item:?}"),
                Err(why) => Err(format!("a compressed message cannot be read: {}", why.why)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::websocket::{Decoder, Deflater, put_text};

    #[test]
    fn the_server_reads_what_is_put() {
        for bytes in [0, 1, 125, 126, 65_535, 65_536] {
            let mut out = Vec::new();
            let payload = vec![b'x'; bytes];
            put_frame(true, &mut out, |out| out.extend_from_slice(&payload));
            let mut decoder = Decoder::new(1 << 20, 10);
            match decoder.decode(&mut out).unwrap() {
                (_, Some(Item::Text(text))) => assert_eq!(text.len(), bytes),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn compressed_messages_are_read_where_they_were_asked_for() {
        let mut frame = Vec::new();
        put_text(&mut frame, b"one message, one message");
        Deflater::new(6, 15, false)
            .compress_last(&mut frame, 0, 0, &mut Vec::new())
            .expect("it becomes shorter");
        let frame = read_frame(&frame).unwrap().unwrap();
        let read =
            |deflates| frame.read(deflates, |message| Ok(String::from_utf8_lossy(message).into_owned()));
        assert_eq!(read(true).unwrap(), "one message, one message");
        assert!(read(false).unwrap_err().contains("nobody has offered"));
        let mut stage = REQUESTED;
        let why = hear_answer(&mut stage, true, b"HTTP/1.1 101 X\r\n\r\n", &mut Vec::new()).unwrap_err();
        assert!(why.contains("web.deflate"), "{why}");
    }

    #[test]
    fn only_101_is_a_websocket() {
        assert_eq!(read_answer(b"HTTP/1.1 101 X\r\n\r"), Ok(None));
        assert_eq!(read_answer(b"HTTP/1.1 101 X\r\n\r\nz"), Ok(Some(18)));
        assert!(read_answer(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().contains("404"));
    }
}
