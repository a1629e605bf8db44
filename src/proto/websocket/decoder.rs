//! A client's bytes to messages and control frames, strict throughout (RFC 6455, 5 and 8.1).
//!
//! A message that lies in the input as one whole frame is unmasked where it lies and borrowed. Everything else is
//! collected in the decoder's buffer, which grows with the bytes that came and never with those that a header announces.

use std::ops::Range;

use super::deflate::deflated_bytes_max;
use super::frame::{HEADER_BYTES_MAX, Header, Opcode, RESERVED_BITS, RSV1, unmask};
use super::utf8::Validator;
use super::{Fault, Violation};

/// A buffer that grew beyond this is freed once its message is done instead of being kept for the next one: one long
/// message must not cost its memory for as long as the peer keeps talking.
const BUFFER_BYTES_KEPT: usize = 4096;

/// What a client said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A whole compressed message, for an [`Inflater`](super::Inflater).
    Deflated {
        /// Whether it is a text, which has to be UTF-8 once inflated.
        is_text: bool,
        /// The frames' payloads, one after the other.
        payload: &'a [u8],
    },
    /// To be answered by a pong with these bytes.
    Ping(&'a [u8]),
    /// An answer to a ping, or a sign of life.
    Pong(&'a [u8]),
    /// The last thing the client says; what it sends afterwards is swallowed.
    Close {
        /// Its status code, if it gave one.
        code: Option<u16>,
        /// Its reason, often empty.
        reason: &'a str,
    },
}

/// Decodes the frames of one client.
#[derive(Debug)]
pub struct Decoder {
    /// The payload of the message under way, unmasked. Behind it, until the call after, that of a control frame that
    /// came in parts: it may interrupt a message, never a frame, so one buffer does for both.
    buffer: Vec<u8>,
    stage: Stage,
    message_bytes_max: u32,
    fragments_max: u32,
    /// The bits of a header that must not be set: one less where compression was negotiated.
    reserved: u8,
    /// Whether the message under way is compressed.
    is_deflated: bool,
    /// Frames of the message under way; 0 when there is none.
    fragments: u32,
    /// Text or binary: the message under way.
    message: Opcode,
    /// Where the message under way stands, if it is a text.
    utf8: Validator,
    spent: Spent,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Between two frames, or within a header of which the first `count` bytes have come.
    Header { bytes: [u8; HEADER_BYTES_MAX], count: u8 },
    /// Within a payload.
    Payload(Frame),
    /// The client has said its last.
    Closed,
    /// It broke the protocol.
    Failed(Fault),
}

impl Stage {
    const START: Stage = Stage::Header { bytes: [0; HEADER_BYTES_MAX], count: 0 };
}

/// A frame whose header has been admitted.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// That of the whole message where the frame continues one.
    opcode: Opcode,
    is_final: bool,
    /// Turned so that it begins with the byte for the payload's next one.
    mask: [u8; 4],
    length: u32,
    /// How much of the payload is still to come.
    missing: u32,
}

/// What of the buffer has been handed out and goes at the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spent {
    Nothing,
    Message,
    /// So many bytes at its end.
    Control(u8),
}

/// A whole message or control frame: where it lies.
struct Found {
    opcode: Opcode,
    is_deflated: bool,
    place: Place,
}

enum Place {
    Input(Range<usize>),
    Buffer(Range<usize>),
}

impl Decoder {
    /// A decoder of messages of at most `message_bytes_max` bytes (and never over 4 GiB) in at most `fragments_max`
    /// frames.
    pub fn new(message_bytes_max: usize, fragments_max: u32) -> Decoder {
        Decoder {
            buffer: Vec::new(),
            stage: Stage::START,
            message_bytes_max: u32::try_from(message_bytes_max).unwrap_or(u32::MAX),
            fragments_max,
            reserved: RESERVED_BITS,
            is_deflated: false,
            fragments: 0,
            message: Opcode::Binary,
            utf8: Validator::new(),
            spent: Spent::Nothing,
        }
    }

    /// The same decoder where compression was negotiated. The bound on a message is then the inflater's; here a compressed
    /// one may have as many bytes as an incompressible message of that length takes.
    #[must_use]
    pub fn with_deflate(mut self) -> Decoder {
        self.reserved = RESERVED_BITS & !RSV1;
        self
    }

    /// How many bytes a message may have.
    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes_max as usize
    }

    /// Takes bytes from the front of `input` up to the end of a message or control frame; returns how many, and what it
    /// says. Without an item all of `input` was taken. Bytes taken have been unmasked in place.
    ///
    /// After a violation every further call returns the same one.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8]) -> Result<(usize, Option<Item<'a>>), Violation> {
        self.forget_spent();
        let item = match self.advance(input) {
            Ok((taken, None)) => return Ok((taken, None)),
            Ok((taken, Some(Found { opcode, is_deflated, place }))) => {
                let payload = match place {
                    Place::Input(range) => &input[range],
                    Place::Buffer(range) => &self.buffer[range],
                };
                item(opcode, is_deflated, payload).map(|item| (taken, Some(item)))
            }
            Err(fault) => Err(fault),
        };
        item.map_err(|fault| {
            self.stage = Stage::Failed(fault);
            fault.violation()
        })
    }

    /// How many bytes it holds back, the free ones of its buffer among them.
    pub fn kept_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Frees what is no longer needed. To be called when the input is used up, so that a connection that waits between
    /// two messages owns no buffer.
    pub fn release(&mut self) {
        self.forget_spent();
        if self.buffer.is_empty() || matches!(self.stage, Stage::Closed | Stage::Failed(_)) {
            self.buffer = Vec::new();
        }
    }

    /// Goes on to the end of the next item, or of the input.
    fn advance(&mut self, input: &mut [u8]) -> Result<(usize, Option<Found>), Fault> {
        let mut at = 0;
        loop {
            let mut frame = match self.stage {
                Stage::Payload(frame) => frame,
                Stage::Closed => return Ok((input.len(), None)),
                Stage::Failed(fault) => return Err(fault),
                Stage::Header { bytes, count } => {
                    let (taken, header) = self.read_header(bytes, count, &input[at..])?;
                    at += taken;
                    let Some(header) = header else { return Ok((at, None)) };
                    self.admit(header)?
                }
            };
            let part_bytes = (frame.missing as usize).min(input.len() - at);
            let place = at..at + part_bytes;
            at = place.end;
            let part = &mut input[place.clone()];
            unmask(part, frame.mask);
            if part_bytes < frame.missing as usize {
                self.keep(frame.opcode, part)?;
                frame.mask.rotate_left(part_bytes % 4);
                frame.missing -= part_bytes as u32;
                self.stage = Stage::Payload(frame);
                return Ok((at, None));
            }
            self.stage = if frame.opcode == Opcode::Close { Stage::Closed } else { Stage::START };
            if let Some(found) = self.complete(frame, part, place)? {
                return Ok((at, Some(found)));
            }
        }
    }

    /// Reads on in a header of which `count` bytes are known. Returns how many more were taken; without a header, all.
    fn read_header(
        &mut self,
        mut bytes: [u8; HEADER_BYTES_MAX],
        count: u8,
        input: &[u8],
    ) -> Result<(usize, Option<Header>), Fault> {
        let known = usize::from(count);
        if known == 0
            && let Some((header, header_bytes)) = Header::read(input, self.reserved)?
        {
            return Ok((header_bytes, Some(header)));
        }
        let added = input.len().min(HEADER_BYTES_MAX - known);
        bytes[known..known + added].copy_from_slice(&input[..added]);
        match Header::read(&bytes[..known + added], self.reserved)? {
            Some((header, header_bytes)) => Ok((header_bytes - known, Some(header))),
            None => {
                self.stage = Stage::Header { bytes, count: (known + added) as u8 };
                Ok((added, None))
            }
        }
    }

    /// Decides whether a frame may come now, by the rules of fragmentation (5.4) and the bounds on a message.
    fn admit(&mut self, header: Header) -> Result<Frame, Fault> {
        let Header { mut opcode, is_final, is_deflated, length, mask } = header;
        if !opcode.is_control() {
            match (opcode, self.fragments) {
                (Opcode::Continuation, 0) => return Err(Fault::ContinuationOfNothing),
                (Opcode::Continuation, _) => opcode = self.message,
                (_, 0) => (self.message, self.is_deflated) = (opcode, is_deflated),
                (_, _) => return Err(Fault::MessageInterrupted),
            }
            let room = u64::from(self.message_bytes_max).saturating_sub(self.buffer.len() as u64);
            if length > room && !self.has_room_if_deflated(length) {
                return Err(Fault::MessageLength);
            }
            if self.fragments == self.fragments_max {
                return Err(Fault::FragmentCount);
            }
            self.fragments += 1;
        }
        // It fits: a control frame's length is at most 125, and a message's at most one of 32 bits.
        let length = length as u32;
        Ok(Frame { opcode, is_final, mask, length, missing: length })
    }

    /// Whether a frame that is more than the bound on a message has left may come, because its message is compressed.
    #[cold]
    fn has_room_if_deflated(&self, length: u64) -> bool {
        let bytes_max = u64::from(deflated_bytes_max(self.message_bytes_max));
        self.is_deflated && length <= bytes_max.saturating_sub(self.buffer.len() as u64)
    }

    /// Keeps a part of a payload, unless it spoils the text.
    fn keep(&mut self, opcode: Opcode, part: &[u8]) -> Result<(), Fault> {
        // Of a compressed text that is known when it has been inflated.
        if opcode == Opcode::Text && !self.is_deflated && !self.utf8.accepts(part) {
            return Err(Fault::Utf8);
        }
        self.buffer.extend_from_slice(part);
        Ok(())
    }

    /// Ends a frame, whose last part lies at `place` in the input.
    fn complete(&mut self, frame: Frame, part: &[u8], place: Range<usize>) -> Result<Option<Found>, Fault> {
        let Frame { opcode, is_final, length, missing, .. } = frame;
        let lies_in_input = missing == length;
        if opcode.is_control() {
            if lies_in_input {
                return Ok(Some(Found { opcode, is_deflated: false, place: Place::Input(place) }));
            }
            self.keep(opcode, part)?;
            self.spent = Spent::Control(length as u8);
            let end = self.buffer.len();
            let place = Place::Buffer(end - length as usize..end);
            return Ok(Some(Found { opcode, is_deflated: false, place }));
        }
        let is_deflated = self.is_deflated;
        if is_final && lies_in_input && self.buffer.is_empty() {
            self.fragments = 0;
            return Ok(Some(Found { opcode, is_deflated, place: Place::Input(place) }));
        }
        self.keep(opcode, part)?;
        if !is_final {
            return Ok(None);
        }
        self.fragments = 0;
        self.spent = Spent::Message;
        Ok(Some(Found { opcode, is_deflated, place: Place::Buffer(0..self.buffer.len()) }))
    }

    fn forget_spent(&mut self) {
        match std::mem::replace(&mut self.spent, Spent::Nothing) {
            Spent::Nothing => {}
            Spent::Control(count) => self.buffer.truncate(self.buffer.len() - usize::from(count)),
            Spent::Message if self.buffer.capacity() > BUFFER_BYTES_KEPT => self.buffer = Vec::new(),
            Spent::Message => self.buffer.clear(),
        }
    }
}

/// What a whole message or control frame says.
fn item(opcode: Opcode, is_deflated: bool, payload: &[u8]) -> Result<Item<'_>, Fault> {
    Ok(match opcode {
        Opcode::Text | Opcode::Binary if is_deflated => {
            Item::Deflated { is_text: opcode == Opcode::Text, payload }
        }
        // Of a text that came in parts only its end is in doubt. To look at all of it once more costs little next to
        // the copies it took, and spares an `unsafe`.
        Opcode::Text => Item::Text(simdutf8::basic::from_utf8(payload).map_err(|_| Fault::Utf8)?),
        // `admit` lets no continuation through under its own name.
        Opcode::Binary | Opcode::Continuation => Item::Binary(payload),
        Opcode::Ping => Item::Ping(payload),
        Opcode::Pong => Item::Pong(payload),
        Opcode::Close => close(payload)?,
    })
}

/// Reads a close frame's payload (5.5.1): nothing, or a status code and a reason.
fn close(payload: &[u8]) -> Result<Item<'_>, Fault> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        let is_empty = payload.is_empty();
        return if is_empty { Ok(Item::Close { code: None, reason: "" }) } else { Err(Fault::CloseLength) };
    };
    let code = u16::from_be_bytes(code);
    if !may_be_sent(code) {
        return Err(Fault::CloseCode);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Fault::CloseReason)?;
    Ok(Item::Close { code: Some(code), reason })
}

/// Whether a status code may stand in a close frame (7.4.1, 7.4.2, and those registered since: 1012 to 1014).
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0xA1, 0x02, 0x7F, 0x80];

    /// A client's frame, `first` being its first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        super::super::put_header(&mut bytes, Opcode::Text, payload.len());
        bytes[0] = first;
        bytes[1] |= 0x80;
        bytes.extend(MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// All that a decoder says to `input` in chunks of `chunk_bytes`, as text.
    fn told(decoder: &mut Decoder, input: &[u8], chunk_bytes: usize) -> Vec<String> {
        let mut told = Vec::new();
        for chunk in input.to_vec().chunks_mut(chunk_bytes) {
            let mut at = 0;
            while at < chunk.len() {
                let chunk_len = chunk.len();
                match decoder.decode(&mut chunk[at..]) {
                    Ok((taken, item)) => {
                        at += taken;
                        assert!(item.is_some() || at == chunk_len);
                        told.extend(item.map(|item| format!("{item:?}")));
                    }
                    Err(violation) => {
                        told.push(format!("{}", violation.code));
                        return told;
                    }
                }
            }
            decoder.release();
        }
        told
    }

    /// The same for every way to cut `input` into equal chunks; they must agree.
    fn told_in_any_chunks(input: &[u8]) -> Vec<String> {
        let whole = told(&mut Decoder::new(1000, 4), input, input.len());
        for chunk_bytes in 1..input.len() {
            let told = told(&mut Decoder::new(1000, 4), input, chunk_bytes);
            assert_eq!(told, whole, "in chunks of {chunk_bytes}");
        }
        whole
    }

    #[test]
    fn messages_and_control_frames_are_told_in_their_order() {
        let input = [
            frame(0x81, "héllo".as_bytes()),
            frame(0x01, b"\xf0\x9f"),
            frame(0x89, b"are you there?"),
            frame(0x00, b""),
            frame(0x8A, b""),
            frame(0x80, b"\x98\x80"),
            frame(0x82, &[9; 300]),
            frame(0x82, b""),
            frame(0x88, b"\x03\xe8bye"),
            frame(0x81, b"unheard"),
        ];
        assert_eq!(
            told_in_any_chunks(&input.concat()),
            [
                r#"Text("héllo")"#,
                &format!("{:?}", Item::Ping(b"are you there?")),
                "Pong([])",
                r#"Text("😀")"#,
                &format!("Binary({:?})", [9; 300]),
                "Binary([])",
                r#"Close { code: Some(1000), reason: "bye" }"#,
            ]
        );
    }

    #[test]
    fn violations_have_their_codes() {
        for (code, frames) in [
            ("1002", vec![frame(0x80, b"nothing to continue")]),
            ("1002", vec![frame(0x01, b"a"), frame(0x81, b"b")]),
            ("1002", vec![frame(0x88, b"\x03")]),
            ("1007", vec![frame(0x88, b"\x03\xe8\xff")]),
            ("1007", vec![frame(0x81, b"\xff")]),
            ("1007", vec![frame(0x81, b"a\xf0\x9f")]),
            ("1007", vec![frame(0x01, b"a\xf0\x9f"), frame(0x00, b"a"), frame(0x80, b"\x98\x80")]),
            ("1007", vec![frame(0x01, b"a\xf0\x9f"), frame(0x80, b"")]),
            ("1009", vec![frame(0x82, &[0; 1001])]),
            ("1009", vec![frame(0x02, &[0; 600]), frame(0x80, &[0; 401])]),
            ("1009", vec![frame(0x02, b""), frame(0, b""), frame(0, b""), frame(0, b""), frame(0x80, b"")]),
        ] {
            assert_eq!(told_in_any_chunks(&frames.concat()).last().unwrap(), code, "{frames:x?}");
        }
        let largest = [frame(0x02, &[1; 600]), frame(0, b""), frame(0, b""), frame(0x80, &[1; 400])].concat();
        assert_eq!(told_in_any_chunks(&largest), [format!("Binary({:?})", [1; 1000])]);
    }

    #[test]
    fn close_codes_are_those_that_may_be_sent() {
        for code in 0..=u16::MAX {
            let mut input = frame(0x88, &code.to_be_bytes());
            let is_valid = match code {
                1004..=1006 | 1015 => false,
                1000..1015 | 3000..5000 => true,
                _ => false,
            };
            assert_eq!(Decoder::new(9, 9).decode(&mut input).is_ok(), is_valid, "{code}");
        }
        assert_eq!(told_in_any_chunks(&frame(0x88, b"")), [r#"Close { code: None, reason: "" }"#]);
    }

    #[test]
    fn invalid_text_fails_at_the_byte_that_spoils_it() {
        // Autobahn's 6.4: the fourth byte can only lead beyond U+10FFFF, and more of the frame is yet to come.
        let mut input = frame(0x81, b"\xce\xba\xf4\x90\x80\x80edited");
        let mut decoder = Decoder::new(1000, 4);
        assert_eq!(decoder.decode(&mut input[..6 + 3]), Ok((9, None)));
        let violation = decoder.decode(&mut input[9..10]).unwrap_err();
        assert_eq!(violation.code, 1007);
        assert_eq!(decoder.decode(&mut input[10..]), Err(violation), "a violation is final");
        decoder.release();
        assert_eq!(decoder.buffer.capacity(), 0);
    }

    #[test]
    fn too_long_a_message_fails_at_its_header() {
        let mut input = frame(0x82, &[0; 1001]);
        assert_eq!(Decoder::new(1000, 4).decode(&mut input[..8]).unwrap_err().code, 1009);
    }

    #[test]
    fn a_compressed_message_may_be_as_much_longer_as_compression_can_make_it() {
        assert_eq!(Decoder::new(1000, 4).message_bytes_max(), 1000);
        let most = deflated_bytes_max(1000) as usize;
        let taken = |frames: &[Vec<u8>]| {
            let told = told(&mut Decoder::new(1000, 4).with_deflate(), &frames.concat(), 4096);
            told.last().expect("an answer").starts_with("Deflated")
        };
        assert!(taken(&[frame(0xC2, &vec![0; most])]));
        assert!(taken(&[frame(0x41, &[0; 900]), frame(0x80, &vec![0; most - 900])]));
        assert!(!taken(&[frame(0xC2, &vec![0; most + 1])]));
        assert!(!taken(&[frame(0x41, &[0; 900]), frame(0x80, &vec![0; most - 899])]));
        for (first, is_text) in [(0xC1, true), (0xC2, false)] {
            let told = told(&mut Decoder::new(1000, 4).with_deflate(), &frame(first, &[7]), 4096);
            assert_eq!(told, [format!("Deflated {{ is_text: {is_text}, payload: [7] }}")]);
        }
        // What is not compressed has no such room, not even behind a compressed message.
        assert!(!taken(&[frame(0xC2, b"x"), frame(0x82, &[0; 1001])]));
    }

    #[test]
    fn a_whole_message_is_borrowed_from_the_input() {
        let mut input = [frame(0x01, b""), frame(0x80, b"in place")].concat();
        let end = input.as_ptr_range().end;
        let mut decoder = Decoder::new(1000, 4);
        let Ok((taken, Some(Item::Text(text)))) = decoder.decode(&mut input) else {
            panic!("a text is there")
        };
        assert_eq!((text, text.as_bytes().as_ptr_range().end), ("in place", end));
        assert_eq!(taken, 6 + 6 + 8);
        assert_eq!(decoder.buffer.capacity(), 0);
    }

    #[test]
    fn memory_grows_with_what_came_and_goes_when_idle() {
        let mut decoder = Decoder::new(16 << 20, 4);
        let mut input = frame(0x82, &[7; 1 << 20]);
        decoder.decode(&mut input[..14 + 100]).unwrap();
        assert!(decoder.buffer.capacity() < 1000, "a header alone reserves nothing");
        decoder.decode(&mut input[114..50_114]).unwrap();
        assert!(decoder.buffer.capacity() < 110_000);
        let (_, item) = decoder.decode(&mut input[50_114..]).unwrap();
        assert_eq!(item, Some(Item::Binary(&[7; 1 << 20])));
        decoder.decode(&mut frame(0x02, b"the next")).unwrap();
        assert!(decoder.buffer.capacity() <= BUFFER_BYTES_KEPT, "a long message does not cost the next one");
        assert!(decoder.kept_bytes() >= 8, "what has come of it is kept");
        decoder.decode(&mut frame(0x80, b"")).unwrap();
        decoder.decode(&mut frame(0x02, b"")).unwrap();
        assert_ne!(decoder.kept_bytes(), 0, "an ordinary buffer serves the next message as well");
        decoder.decode(&mut frame(0x80, b"")).unwrap();
        decoder.release();
        assert_eq!(decoder.kept_bytes(), 0);
        assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
    }
}
