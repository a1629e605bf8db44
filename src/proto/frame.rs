//! Binary frames: what the `frame` listener speaks, for programs that would rather count bytes than look for line ends.
//!
//! ```text
//! magic CA FE BA BE | version 1 | payload length (32) | encoding (8) | kind (8) | payload
//! ```
//!
//! Numbers are big-endian. The kind is a command's place in [`wire::COMMANDS`](super::wire::COMMANDS), from 1, or an
//! event's in [`wire::EVENTS`](super::wire::EVENTS), from 129; the encoding says how the payload is written.

use std::ops::Range;

/// The four bytes that every frame begins with.
pub const MAGIC: [u8; 4] = 0xCAFE_BABE_u32.to_be_bytes();

/// The version of the frame's header, which is all that it speaks of.
pub const VERSION: u8 = 1;

/// The length of a header: all of a frame but its payload.
pub const HEADER_BYTES: usize = 11;

/// An event's kind is its number ([`Event::number`](super::wire::Event::number)) and this.
pub const EVENT_KIND_BASE: u8 = 128;

/// The encoding of a payload in JSON.
pub const ENCODING_JSON: u8 = 0;

/// The encoding of a payload in Protobuf.
pub const ENCODING_PROTOBUF: u8 = 1;

/// Where the length ends, and with it all that may be wrong in a header.
const LENGTH_END: usize = 9;

/// A buffer that grew beyond this is freed once its frame is done instead of being kept for the next one: one long frame
/// must not cost its memory for as long as the peer keeps talking.
const BUFFER_BYTES_KEPT: usize = 4096;

/// A whole frame. Its encoding and kind are as the peer wrote them, known or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// How the payload is written: [`ENCODING_JSON`] or [`ENCODING_PROTOBUF`].
    pub encoding: u8,
    /// Which command or event it is.
    pub kind: u8,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Why a connection must be closed: what comes is no frame, or too long a one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A frame does not begin with [`MAGIC`].
    Magic,
    /// Its version is not [`VERSION`].
    Version,
    /// Its payload is longer than the decoder takes.
    TooLarge,
}

impl Violation {
    /// What was wrong, for people.
    pub fn why(self) -> &'static str {
        match self {
            Violation::Magic => "a frame begins with the bytes CA FE BA BE",
            Violation::Version => "the version of frames is 1",
            Violation::TooLarge => "the frame is too long",
        }
    }
}

/// Decodes the frames of one peer.
///
/// A payload that lies whole in the input is borrowed from it. Any other is collected in the decoder's buffer, which
/// grows with the bytes that came and never with those that a header announces.
#[derive(Debug)]
pub struct Decoder {
    /// The payload under way, as far as it came.
    buffer: Vec<u8>,
    stage: Stage,
    bytes_max: u32,
    /// Whether the buffer has been handed out, and goes at the next call.
    is_spent: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Between two frames, or within a header of which the first `count` bytes have come.
    Header { bytes: [u8; HEADER_BYTES], count: u8 },
    /// Within a payload.
    Payload(Header),
    /// The peer broke the protocol.
    Failed(Violation),
}

impl Stage {
    const START: Stage = Stage::Header { bytes: [0; HEADER_BYTES], count: 0 };
}

/// What a header says.
#[derive(Debug, Clone, Copy)]
struct Header {
    length: u32,
    encoding: u8,
    kind: u8,
}

/// Where a whole payload lies.
enum Place {
    Input(Range<usize>),
    Buffer,
}

impl Decoder {
    /// A decoder of frames with payloads of at most `bytes_max` bytes (and never over 4 GiB).
    pub fn new(bytes_max: usize) -> Decoder {
        Decoder {
            buffer: Vec::new(),
            stage: Stage::START,
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            is_spent: false,
        }
    }

    /// Takes bytes from the front of `input` up to the end of a frame; returns how many, and the frame. Without a frame
    /// all of `input` was taken. After a violation every further call returns the same one.
    pub fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<Frame<'a>>), Violation> {
        self.forget_spent();
        match self.advance(input) {
            Ok((taken, None)) => Ok((taken, None)),
            Ok((taken, Some((Header { encoding, kind, .. }, place)))) => {
                let payload = match place {
                    Place::Input(range) => &input[range],
                    Place::Buffer => &self.buffer[..],
                };
                Ok((taken, Some(Frame { encoding, kind, payload })))
            }
            Err(violation) => {
                self.stage = Stage::Failed(violation);
                Err(violation)
            }
        }
    }

    /// How many bytes it holds back, the free ones of its buffer among them.
    pub fn kept_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Frees what is no longer needed. To be called when the input is used up, so that a connection that waits between
    /// two frames owns no buffer.
    pub fn release(&mut self) {
        self.forget_spent();
        if self.buffer.is_empty() || matches!(self.stage, Stage::Failed(_)) {
            self.buffer = Vec::new();
        }
    }

    /// Goes on to the end of the next frame, or of the input.
    fn advance(&mut self, input: &[u8]) -> Result<(usize, Option<(Header, Place)>), Violation> {
        let (at, header) = match self.stage {
            Stage::Failed(violation) => return Err(violation),
            Stage::Payload(header) => (0, header),
            Stage::Header { bytes, count } => match self.read_header(bytes, count, input)? {
                (taken, Some(header)) => (taken, header),
                (taken, None) => return Ok((taken, None)),
            },
        };
        let missing = header.length as usize - self.buffer.len();
        let part = &input[at..][..missing.min(input.len() - at)];
        let end = at + part.len();
        let lies_in_input = self.buffer.is_empty();
        if part.len() == missing && lies_in_input {
            self.stage = Stage::START;
            return Ok((end, Some((header, Place::Input(at..end)))));
        }
        self.buffer.extend_from_slice(part);
        if part.len() < missing {
            self.stage = Stage::Payload(header);
            return Ok((end, None));
        }
        self.stage = Stage::START;
        self.is_spent = true;
        Ok((end, Some((header, Place::Buffer))))
    }

    /// Reads on in a header of which `count` bytes are known. Returns how many more were taken; without a header, all.
    fn read_header(
        &mut self,
        mut bytes: [u8; HEADER_BYTES],
        count: u8,
        input: &[u8],
    ) -> Result<(usize, Option<Header>), Violation> {
        let known = usize::from(count);
        let added = input.len().min(HEADER_BYTES - known);
        bytes[known..known + added].copy_from_slice(&input[..added]);
        let header = read(&bytes, known + added, self.bytes_max)?;
        if header.is_none() {
            self.stage = Stage::Header { bytes, count: (known + added) as u8 };
        }
        Ok((added, header))
    }

    fn forget_spent(&mut self) {
        if !std::mem::take(&mut self.is_spent) {
            return;
        }
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        } else {
            self.buffer.clear();
        }
    }
}

/// Reads a header of which `known` bytes are there. What is wrong is told as soon as the byte is there that makes it so.
fn read(bytes: &[u8; HEADER_BYTES], known: usize, bytes_max: u32) -> Result<Option<Header>, Violation> {
    let magic_known = known.min(MAGIC.len());
    if bytes[..magic_known] != MAGIC[..magic_known] {
        return Err(Violation::Magic);
    }
    let [_, _, _, _, version, a, b, c, d, encoding, kind] = *bytes;
    if known > MAGIC.len() && version != VERSION {
        return Err(Violation::Version);
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    if known >= LENGTH_END && length > bytes_max {
        return Err(Violation::TooLarge);
    }
    Ok((known == HEADER_BYTES).then_some(Header { length, encoding, kind }))
}

/// Appends a frame.
pub fn put(out: &mut Vec<u8>, encoding: u8, kind: u8, payload: &[u8]) {
    out.reserve(HEADER_BYTES + payload.len());
    put_header(out, encoding, kind, payload.len());
    out.extend_from_slice(payload);
}

/// Appends the header of a frame whose payload of `payload_bytes` follows.
pub fn put_header(out: &mut Vec<u8>, encoding: u8, kind: u8, payload_bytes: usize) {
    let length = u32::try_from(payload_bytes).expect("what we write is shorter than 4 GiB");
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[encoding, kind]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(encoding: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, encoding, kind, payload);
        out
    }

    #[test]
    fn a_frame_is_laid_out_as_the_contract_says() {
        let bytes = [0xCA, 0xFE, 0xBA, 0xBE, 1, 0, 0, 0, 2, 1, 133, b'h', b'i'];
        assert_eq!(written(ENCODING_PROTOBUF, 133, b"hi"), bytes);
        let mut decoder = Decoder::new(2);
        let frame = Frame { encoding: 1, kind: 133, payload: b"hi" };
        assert_eq!(decoder.decode(&bytes), Ok((13, Some(frame))));
    }

    #[test]
    fn a_wrong_byte_is_told_when_it_comes_and_for_good() {
        for (bytes, violation) in [
            (&[0xCB][..], Violation::Magic),
            (&[0xCA, 0xFE, 0xBA, 0xBF], Violation::Magic),
            (&[0xCA, 0xFE, 0xBA, 0xBE, 2], Violation::Version),
            (&[0xCA, 0xFE, 0xBA, 0xBE, 1, 0, 0, 0, 11], Violation::TooLarge),
            (&[0xCA, 0xFE, 0xBA, 0xBE, 1, 0xFF, 0, 0, 0], Violation::TooLarge),
        ] {
            let mut decoder = Decoder::new(10);
            let (last, before) = bytes.split_last().unwrap();
            assert_eq!(decoder.decode(before), Ok((before.len(), None)), "{bytes:x?}");
            assert_eq!(decoder.decode(&[*last]), Err(violation), "{bytes:x?}");
            assert_eq!(decoder.decode(&written(0, 1, b"")), Err(violation));
            assert_eq!(Decoder::new(10).decode(bytes), Err(violation), "in one piece");
        }
    }

    #[test]
    fn a_payload_that_lies_in_the_input_is_borrowed() {
        let bytes = written(0, 5, b"in place");
        let payload_at = bytes[HEADER_BYTES..].as_ptr();
        let mut decoder = Decoder::new(10);
        assert_eq!(decoder.decode(&bytes[..5]), Ok((5, None)));
        let (taken, frame) = decoder.decode(&bytes[5..]).unwrap();
        assert_eq!((taken, frame.unwrap().payload.as_ptr()), (bytes.len() - 5, payload_at));
        assert_eq!(decoder.buffer.capacity(), 0);
    }

    #[test]
    fn memory_grows_with_what_came_and_goes_when_idle() {
        let bytes = written(0, 5, &[7; 1 << 20]);
        let mut decoder = Decoder::new(1 << 20);
        decoder.decode(&bytes[..HEADER_BYTES + 100]).unwrap();
        assert!(decoder.buffer.capacity() < 1000, "a header alone reserves nothing");
        let (_, frame) = decoder.decode(&bytes[HEADER_BYTES + 100..]).unwrap();
        assert_eq!(frame.unwrap().payload, [7; 1 << 20]);
        let small = written(0, 5, b"small");
        decoder.decode(&small[..12]).unwrap();
        assert!(decoder.buffer.capacity() <= BUFFER_BYTES_KEPT, "a long frame does not cost the next one");
        decoder.release();
        assert_eq!(decoder.kept_bytes(), decoder.buffer.capacity());
        assert!(decoder.kept_bytes() > 1, "a frame under way is kept");
        decoder.decode(&small[12..]).unwrap();
        decoder.release();
        assert_eq!(decoder.kept_bytes(), 0);
        assert!(size_of::<Decoder>() <= 48, "{}", size_of::<Decoder>());
    }
}
