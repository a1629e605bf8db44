//! One frame (RFC 6455, 5.2): its header read and written, its payload unmasked.
//!
//! ```text
//! FIN RSV1-3 opcode(4) | MASK length(7) | length(16 or 64)? | masking key(32)? | payload
//! ```

use super::Fault;

/// The longest header a client can send: two bytes, a length of eight, a masking key of four.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// The longest payload of a control frame (5.5), and the longest length that needs no bytes of its own.
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// The longest reason: a close frame's payload less its status code.
const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

const FIN: u8 = 0x80;
/// The bits that must not be set where no extension gives them a meaning.
pub(super) const RESERVED_BITS: u8 = 0x70;
/// The first of them: the message is compressed (RFC 7692, 6).
pub(super) const RSV1: u8 = 0x40;
const MASK: u8 = 0x80;
const LENGTH_IN_16_BITS: u8 = 126;
const LENGTH_IN_64_BITS: u8 = 127;

/// What a frame is (RFC 6455, 5.2). The others are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message that is under way.
    Continuation = 0,
    /// A text message, or its beginning.
    Text = 1,
    /// A binary message, or its beginning.
    Binary = 2,
    /// The last frame of its sender.
    Close = 8,
    /// To be answered by a pong with the same payload.
    Ping = 9,
    /// The answer to a ping, or a sign of life.
    Pong = 10,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        self as u8 >= 8
    }

    fn from_bits(bits: u8) -> Option<Opcode> {
        use Opcode::*;
        [Continuation, Text, Binary, Close, Ping, Pong].into_iter().find(|&opcode| opcode as u8 == bits)
    }
}

/// A client's frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: Opcode,
    pub(super) is_final: bool,
    /// Whether it begins a compressed message.
    pub(super) is_deflated: bool,
    pub(super) length: u64,
    pub(super) mask: [u8; 4],
}

impl Header {
    /// Reads the header at the front of `bytes`: it and its length, or `None` if it is not all there. What is wrong
    /// is told as soon as the byte is there that makes it so. None of the bits in `reserved` may be set.
    pub(super) fn read(bytes: &[u8], reserved: u8) -> Result<Option<(Header, usize)>, Fault> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & RESERVED_BITS != 0 {
            check_reserved(first, reserved)?;
        }
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(Fault::ReservedOpcode)?;
        let is_deflated = first & RSV1 != 0;
        let is_final = first & FIN != 0;
        if opcode.is_control() && !is_final {
            return Err(Fault::ControlFragmented);
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & MASK == 0 {
            return Err(Fault::Unmasked);
        }
        let short_length = second & !MASK;
        if opcode.is_control() && short_length > CONTROL_BYTES_MAX as u8 {
            return Err(Fault::ControlLength);
        }
        let rest = &bytes[2..];
        let (length, rest) = match short_length {
            LENGTH_IN_16_BITS => {
                let Some((field, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*field)), rest)
            }
            LENGTH_IN_64_BITS => {
                let Some((field, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from_be_bytes(*field), rest)
            }
            short => (u64::from(short), rest),
        };
        if length >> 63 != 0 {
            return Err(Fault::LengthSign);
        }
        let is_shortest = match short_length {
            LENGTH_IN_16_BITS => length > CONTROL_BYTES_MAX as u64,
            LENGTH_IN_64_BITS => length > u64::from(u16::MAX),
            _ => true,
        };
        if !is_shortest {
            return Err(Fault::LengthForm);
        }
        let Some((&mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Header { opcode, is_final, is_deflated, length, mask }, bytes.len() - rest.len())))
    }
}

/// Whether the bits that are set may be, of which most frames have none.
#[cold]
fn check_reserved(first: u8, reserved: u8) -> Result<(), Fault> {
    match Opcode::from_bits(first & 0x0F) {
        _ if first & reserved != 0 => Err(Fault::ReservedBits),
        Some(Opcode::Text | Opcode::Binary) => Ok(()),
        Some(_) => Err(Fault::CompressedBit),
        None => Err(Fault::ReservedOpcode),
    }
}

/// Takes the mask off `payload`, whose first byte is masked by `mask[0]` (RFC 6455, 5.3).
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word_mask = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
    }
    for (byte, mask_byte) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask_byte;
    }
}

/// How many bytes the header of a server's frame takes that has `payload_bytes` of payload.
pub fn header_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=CONTROL_BYTES_MAX => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Writes the header of an unfragmented server's frame: FIN set, no mask (RFC 6455, 5.1).
pub fn put_header(out: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize) {
    put_header_of(out, FIN | opcode as u8, payload_bytes);
}

/// Writes the header of a frame that is a whole compressed message.
pub(super) fn put_deflated_header(out: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize) {
    put_header_of(out, FIN | RSV1 | opcode as u8, payload_bytes);
}

/// Takes an uncompressed server's frame apart that has been written here: what it is, and where its payload begins.
pub(super) fn split_message(frame: &[u8]) -> Option<(Opcode, usize)> {
    let &[first, length, ..] = frame else { return None };
    let header = match length {
        LENGTH_IN_16_BITS => 4,
        LENGTH_IN_64_BITS => 10,
        _ => 2,
    };
    let opcode = Opcode::from_bits(first ^ FIN)?;
    (header <= frame.len() && !opcode.is_control()).then_some((opcode, header))
}

fn put_header_of(out: &mut Vec<u8>, first: u8, payload_bytes: usize) {
    match payload_bytes {
        0..=CONTROL_BYTES_MAX => out.extend_from_slice(&[first, payload_bytes as u8]),
        126..=0xFFFF => {
            let [high, low] = (payload_bytes as u16).to_be_bytes();
            out.extend_from_slice(&[first, LENGTH_IN_16_BITS, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first, LENGTH_IN_64_BITS]);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

/// Writes a text message. `text` must be UTF-8; bytes, because encoders hold it as such.
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_frame(out, Opcode::Text, text);
}

/// Writes a binary message.
pub fn put_binary(out: &mut Vec<u8>, payload: &[u8]) {
    put_frame(out, Opcode::Binary, payload);
}

/// Writes a ping of at most 125 bytes.
pub fn put_ping(out: &mut Vec<u8>, payload: &[u8]) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a ping carries at most 125 bytes");
    put_frame(out, Opcode::Ping, payload);
}

/// Writes a pong of at most 125 bytes: the payload of the ping that it answers.
pub fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a pong carries at most 125 bytes");
    put_frame(out, Opcode::Pong, payload);
}

/// Writes a close frame. A reason that does not fit is cut between two characters; without a code there is none.
pub fn put_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let Some(code) = code else { return put_header(out, Opcode::Close, 0) };
    let mut reason_bytes = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(reason_bytes) {
        reason_bytes -= 1;
    }
    put_header(out, Opcode::Close, 2 + reason_bytes);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..reason_bytes]);
}

/// Writes an uncompressed frame of any kind.
pub fn put_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.reserve(header_bytes(payload.len()) + payload.len());
    put_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_refused_at_the_byte_that_is_wrong() {
        for (bytes, fault) in [
            (&[0xC1][..], Fault::ReservedBits),
            (&[0x91], Fault::ReservedBits),
            (&[0x83], Fault::ReservedOpcode),
            (&[0x8B], Fault::ReservedOpcode),
            (&[0x09], Fault::ControlFragmented),
            (&[0x81, 0x05], Fault::Unmasked),
            (&[0x89, 0xFE], Fault::ControlLength),
            (&[0x82, 0xFE, 0, 125], Fault::LengthForm),
            (&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Fault::LengthForm),
            (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], Fault::LengthSign),
        ] {
            assert_eq!(Header::read(bytes, RESERVED_BITS), Err(fault), "{bytes:x?}");
            assert_eq!(Header::read(&bytes[..bytes.len() - 1], RESERVED_BITS), Ok(None), "{bytes:x?}");
        }
    }

    #[test]
    fn the_bit_for_compression_stands_where_a_message_begins_and_nowhere_else() {
        for (first, outcome) in [
            (0xC1, Ok(None)),
            (0x42, Ok(None)),
            (0xC0, Err(Fault::CompressedBit)),
            (0xC9, Err(Fault::CompressedBit)),
            (0xC8, Err(Fault::CompressedBit)),
            (0xE1, Err(Fault::ReservedBits)),
            (0xD1, Err(Fault::ReservedBits)),
        ] {
            assert_eq!(Header::read(&[first], RESERVED_BITS & !RSV1), outcome, "{first:x}");
        }
        let bytes = [0x41, 0x80, 1, 2, 3, 4];
        let (header, _) = Header::read(&bytes, RESERVED_BITS & !RSV1).unwrap().unwrap();
        assert!(header.is_deflated && !header.is_final);
    }

    #[test]
    fn lengths_at_the_edges_of_their_forms_are_read() {
        let mask = [1, 2, 3, 4];
        for (form, length) in [
            (&[0xFD][..], 125),
            (&[0xFE, 0, 126], 126),
            (&[0xFE, 0xFF, 0xFF], 65_535),
            (&[0xFF, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
            (&[0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], i64::MAX as u64),
        ] {
            let bytes = [&[0x02], form, &mask, b"payload"].concat();
            let header = Header { opcode: Opcode::Binary, is_final: false, is_deflated: false, length, mask };
            assert_eq!(Header::read(&bytes, RESERVED_BITS), Ok(Some((header, 1 + form.len() + 4))));
        }
        let longest_ping = [0x89, 0xFD, 1, 2, 3, 4];
        let (header, _) = Header::read(&longest_ping, RESERVED_BITS).unwrap().unwrap();
        assert_eq!((header.opcode, header.length), (Opcode::Ping, 125));
    }

    #[test]
    fn unmasking_is_the_same_at_every_length_and_alignment() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        for start in 0..8 {
            for length in 0..40 {
                let mut bytes: Vec<u8> = (0..start + length).collect();
                unmask(&mut bytes[usize::from(start)..], mask);
                for (at, byte) in bytes[usize::from(start)..].iter().enumerate() {
                    assert_eq!(*byte, (start + at as u8) ^ mask[at % 4]);
                }
            }
        }
    }

    #[test]
    fn written_headers_have_the_length_they_announce() {
        for payload_bytes in [0, 1, 125, 126, 65_535, 65_536, 1 << 24] {
            let mut out = Vec::new();
            put_header(&mut out, Opcode::Binary, payload_bytes);
            assert_eq!(out.len(), header_bytes(payload_bytes));
        }
    }

    #[test]
    fn a_written_message_is_taken_apart_where_its_payload_begins() {
        for payload_bytes in [0, 1, 125, 126, 65_535, 65_536] {
            let mut out = Vec::new();
            put_binary(&mut out, &vec![b'x'; payload_bytes]);
            assert_eq!(split_message(&out), Some((Opcode::Binary, out.len() - payload_bytes)));
        }
        let mut ping = Vec::new();
        put_ping(&mut ping, b"still there?");
        for no_message in
            [&ping[..], &[], &[0x82], &[0x82, LENGTH_IN_16_BITS, 1], &[0x83, 1, b'x'], &[0xC1, 1, 0]]
        {
            assert_eq!(split_message(no_message), None, "{no_message:x?}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        put_close(&mut out, Some(1000), &"é".repeat(100));
        assert_eq!(out[..4], [0x88, 124, 0x03, 0xE8]);
        assert_eq!(std::str::from_utf8(&out[4..]), Ok("é".repeat(61).as_str()));
        out.clear();
        put_close(&mut out, None, "unheard");
        assert_eq!(out, [0x88, 0]);
    }
}
