//! Compressed messages (RFC 7692, 7.2): a message's payload is a run of DEFLATE blocks (RFC 1951) that ends with an empty one,
//! of which the last four bytes are left out.
//!
//! A message is inflated when all of it has come, so that one [`Inflater`] does for any number of connections: what a
//! connection needs from one message to the next, if it was agreed that the client may refer to what it said before, is the end
//! of that, and a [`Window`] holds it. A [`Deflater`] is another matter: it takes some hundred KiB, and one that may refer to
//! earlier messages serves one connection alone.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::decoder::Item;
use super::frame::{Opcode, put_deflated_header, split_message};
use super::{Fault, Violation};

/// What ends each message and is left out of it (7.2.1): an empty block without compression, less its first byte.
const MESSAGE_TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// The same, and behind it an empty block that is the last: where the inflater does not come to its end, the message ended
/// within a block.
const CLOSING_TAIL: [u8; 6] = [0x00, 0x00, 0xFF, 0xFF, 0x03, 0x00];

/// The longest window, as a power of two, and what is meant where none is named.
pub(super) const WINDOW_BITS_MAX: u8 = 15;

/// The shortest window that the library knows. It never refers further back than the window less 262 bytes, and so a window of
/// 256 bytes, the shortest that may be agreed on, is kept to as well.
const WINDOW_BITS_MIN: u8 = 9;

/// Bytes of output that an inflater begins with, and of which it keeps its buffer for the next message.
const OUTPUT_BYTES_MIN: usize = 1024;
const OUTPUT_BYTES_KEPT: usize = 64 * 1024;

/// Blocks within one message that say that they are the last (7.2.3.4). Each is a new beginning, which costs more than the two
/// bytes that it takes.
const FINAL_BLOCKS_MAX: usize = 4096;

/// The least that a deflater has room for beyond what a message without any order in it needs: less would make it write its
/// tail twice.
const OUTPUT_BYTES_SPARE: usize = 64;

/// How long a compressed message may be if the message may have `message_bytes_max`: what cannot be compressed becomes longer, by
/// five bytes a block, and compressors with little memory have blocks of some hundred bytes.
pub(super) fn deflated_bytes_max(message_bytes_max: u32) -> u32 {
    message_bytes_max.saturating_add(message_bytes_max / 16 + 64)
}

/// The end of what a client has said, to which its next message may refer.
#[derive(Debug)]
pub struct Window {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Window {
    /// The window of a client that refers back by at most `2^bits` bytes. It takes memory when something has been said.
    pub fn new(bits: u8) -> Window {
        Window { bytes: Vec::new(), bytes_max: 1 << bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX) }
    }

    fn add(&mut self, message: &[u8]) {
        let new = &message[message.len().saturating_sub(self.bytes_max)..];
        let over = (self.bytes.len() + new.len()).saturating_sub(self.bytes_max);
        self.bytes.drain(..over);
        self.bytes.reserve_exact(new.len());
        self.bytes.extend_from_slice(new);
    }
}

/// Inflates messages, one after the other, of any connection.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    out: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater { stream: Decompress::new_with_window_bits(false, WINDOW_BITS_MAX), out: Vec::new() }
    }
}

/// How far a part of a message has led.
enum Reached {
    /// A block that says it is the last.
    FinalBlock,
    /// The end of the part.
    End,
}

impl Inflater {
    /// What a compressed message says. Where it has more than `bytes_max` bytes that is a violation, and no more than these are
    /// ever held.
    pub fn inflate(
        &mut self,
        is_text: bool,
        payload: &[u8],
        window: Option<&mut Window>,
        bytes_max: usize,
    ) -> Result<Item<'_>, Violation> {
        self.read(payload, window.as_deref(), bytes_max).map_err(Fault::violation)?;
        if let Some(window) = window {
            window.add(&self.out);
        }
        if !is_text {
            return Ok(Item::Binary(&self.out));
        }
        simdutf8::basic::from_utf8(&self.out).map(Item::Text).map_err(|_| Fault::Utf8.violation())
    }

    /// Frees what a long message took.
    pub fn release(&mut self) {
        if self.out.capacity() > OUTPUT_BYTES_KEPT {
            self.out = Vec::new();
        }
    }

    fn read(&mut self, payload: &[u8], window: Option<&Window>, bytes_max: usize) -> Result<(), Fault> {
        self.out.clear();
        self.stream.reset(false);
        if let Some(window) = window.filter(|window| !window.bytes.is_empty()) {
            self.stream.set_dictionary(&window.bytes).map_err(|_| Fault::Deflate)?;
        }
        // A compressor that is asked to flush twice in a row writes nothing the second time, and its message is empty
        // rather than an empty block.
        if payload.is_empty() {
            return Ok(());
        }
        let mut rest = payload;
        let mut final_blocks = 0;
        while let Reached::FinalBlock = self.read_part(&mut rest, bytes_max)? {
            if rest.is_empty() {
                return Ok(());
            }
            final_blocks += 1;
            if final_blocks == FINAL_BLOCKS_MAX {
                return Err(Fault::FinalBlockCount);
            }
            // Whoever ends a stream begins the next one with nothing to refer to.
            self.stream.reset(false);
        }
        let mut tail = &CLOSING_TAIL[..];
        match self.read_part(&mut tail, bytes_max)? {
            Reached::FinalBlock if tail.is_empty() => Ok(()),
            _ => Err(Fault::Deflate),
        }
    }

    /// Inflates from the front of `input` up to the end of a final block, or of all.
    fn read_part(&mut self, input: &mut &[u8], bytes_max: usize) -> Result<Reached, Fault> {
        loop {
            if self.out.len() == self.out.capacity() {
                // One byte more than a message may have: that there is more is known when it is there.
                let wanted = (2 * self.out.len()).max(OUTPUT_BYTES_MIN).max(2 * input.len());
                self.out.reserve_exact(wanted.min(bytes_max + 1) - self.out.len());
            }
            let (read, written) = (self.stream.total_in(), self.out.len());
            let status = self.stream.decompress_vec(input, &mut self.out, FlushDecompress::None);
            let status = status.map_err(|_| Fault::Deflate)?;
            let taken = (self.stream.total_in() - read) as usize;
            *input = &input[taken..];
            if self.out.len() > bytes_max {
                return Err(Fault::MessageLength);
            }
            if status == Status::StreamEnd {
                return Ok(Reached::FinalBlock);
            }
            if self.out.len() < self.out.capacity() {
                if input.is_empty() {
                    return Ok(Reached::End);
                }
                if taken == 0 && self.out.len() == written {
                    return Err(Fault::Deflate);
                }
            }
        }
    }
}

/// Compresses messages: those of one connection, where they may refer to each other, or else any.
#[derive(Debug)]
pub struct Deflater {
    level: Compression,
    window_bits: u8,
    keeps_context: bool,
    /// Made with the first message: many connections are never told anything long.
    stream: Option<Compress>,
}

impl Deflater {
    /// A deflater of that level, 1 to 9, whose output refers back by less than `2^window_bits` bytes: within a message, or also
    /// to those before it if it `keeps_context`.
    pub fn new(level: u32, window_bits: u8, keeps_context: bool) -> Deflater {
        let level = Compression::new(level.clamp(1, 9));
        let window_bits = window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        Deflater { level, window_bits, keeps_context, stream: None }
    }

    /// Compresses the message that is the last thing in `out`, from `at` on, in one uncompressed frame. Returns how many bytes
    /// of payload it had and has, unless it stays as it is because it has less than `min_bytes` or would not become shorter.
    /// `buffer` is for its use.
    pub fn compress_last(
        &mut self,
        out: &mut Vec<u8>,
        at: usize,
        min_bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<(usize, usize)> {
        let (opcode, header_bytes) = split_message(&out[at..])?;
        let payload = &out[at + header_bytes..];
        if payload.len() < min_bytes {
            return None;
        }
        buffer.clear();
        self.compress(payload, buffer);
        let (before, after) = (payload.len(), buffer.len());
        // What the client's inflater is to know it has to be sent.
        if after >= before && !self.keeps_context {
            return None;
        }
        out.truncate(at);
        put_deflated(out, opcode, buffer);
        Some((before, after))
    }

    /// Appends the payload of a compressed message.
    fn compress(&mut self, message: &[u8], out: &mut Vec<u8>) {
        if message.is_empty() {
            return out.push(0); // an empty block, of which the tail is left out
        }
        let new = || Compress::new_with_window_bits(self.level, false, self.window_bits);
        let stream = self.stream.get_or_insert_with(new);
        if !self.keeps_context {
            stream.reset();
        }
        let begin = stream.total_in();
        out.reserve(message.len() + message.len() / 8 + OUTPUT_BYTES_SPARE);
        loop {
            let taken = (stream.total_in() - begin) as usize;
            let status = stream.compress_vec(&message[taken..], out, FlushCompress::Sync);
            status.expect("raw streams do not fail where they have memory");
            // It is done when it has room left.
            if out.len() < out.capacity() {
                break;
            }
            out.reserve(message.len() / 8 + OUTPUT_BYTES_SPARE);
        }
        debug_assert!(out.ends_with(&MESSAGE_TAIL));
        out.truncate(out.len() - MESSAGE_TAIL.len());
    }
}

fn put_deflated(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    put_deflated_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::put_text;
    use super::*;

    const BYTES_MAX: usize = 10_000;

    fn inflated(payload: &[u8], window: Option<&mut Window>) -> Result<Vec<u8>, u16> {
        let mut inflater = Inflater::default();
        match inflater.inflate(false, payload, window, BYTES_MAX) {
            Ok(Item::Binary(bytes)) => Ok(bytes.to_vec()),
            Ok(_) => unreachable!("it was said to be binary"),
            Err(violation) => Err(violation.code),
        }
    }

    fn compressed(deflater: &mut Deflater, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        deflater.compress(message, &mut out);
        out
    }

    /// Bytes with some order in them, the same for the same seed.
    fn prose(bytes: usize, seed: u64) -> Vec<u8> {
        let words = [&b"the server "[..], b"says ", b"hello ", b"to ", b"everybody, ", b"and once more: "];
        let mut state = seed;
        let mut text = Vec::new();
        while text.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.extend_from_slice(words[(state >> 33) as usize % words.len()]);
        }
        text.truncate(bytes);
        text
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // 7.2.3.1: one compressed block.
        let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        assert_eq!(inflated(&hello, None), Ok(b"Hello".to_vec()));
        // 7.2.3.2: the second message refers to the first.
        let mut window = Window::new(15);
        assert_eq!(inflated(&hello, Some(&mut window)), Ok(b"Hello".to_vec()));
        let again = [0xF2, 0x00, 0x11, 0x00, 0x00];
        assert_eq!(inflated(&again, Some(&mut window)), Ok(b"Hello".to_vec()));
        assert_eq!(inflated(&again, None), Err(1007), "there is nothing to refer to");
        // 7.2.3.3: a block without compression.
        let stored = [0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00];
        assert_eq!(inflated(&stored, None), Ok(b"Hello".to_vec()));
        // 7.2.3.4: a block that says that it is the last, and an empty one behind it.
        let last = [0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00];
        assert_eq!(inflated(&last, None), Ok(b"Hello".to_vec()));
        assert_eq!(inflated(&last[..7], None), Ok(b"Hello".to_vec()), "without the empty one it is as clear");
        assert_eq!(
            inflated(&last[..6], None),
            Err(1007),
            "what is left out of a message does not end a block of it"
        );
        // 7.2.3.5: two blocks in one message.
        let two = [0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00];
        assert_eq!(inflated(&two, None), Ok(b"Hello".to_vec()));
        // 7.2.3.6: an empty message.
        assert_eq!(inflated(&[0x00], None), Ok(vec![]));
        assert_eq!(inflated(&[], None), Ok(vec![]), "as some compressors write it");
    }

    #[test]
    fn what_is_compressed_here_is_what_the_rfc_has() {
        let mut deflater = Deflater::new(6, 15, true);
        assert_eq!(compressed(&mut deflater, b"Hello"), [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]);
        assert_eq!(compressed(&mut deflater, b"Hello"), [0xF2, 0x00, 0x11, 0x00, 0x00]);
        assert_eq!(compressed(&mut deflater, b""), [0x00]);
    }

    #[test]
    fn what_is_no_deflate_data_or_ends_too_soon_is_1007() {
        let whole = compressed(&mut Deflater::new(6, 15, false), &prose(500, 1));
        for bytes in 1..whole.len() - 1 {
            assert_eq!(inflated(&whole[..bytes], None), Err(1007), "of {} only {bytes}", whole.len());
        }
        for wrong in
            [&b"\xff"[..], b"\x07", b"Hello", &[0x00, 0x05, 0x00, 0xFA, 0xFE], &[0x02, 0x00, 0x11, 0x00]]
        {
            assert_eq!(inflated(wrong, None), Err(1007), "{wrong:x?}");
        }
    }

    #[test]
    fn what_cannot_be_compressed_has_room_in_blocks_of_a_hundred_bytes() {
        for bytes in [0, 1, 15, 16, 99, 100, 101, 4096, 65_536, 1 << 20, 1 << 31] {
            let most = u64::from(deflated_bytes_max(bytes));
            let bytes = u64::from(bytes);
            assert!(most >= bytes + 5 * bytes.div_ceil(100) + 5, "{bytes}: {most}");
            assert!(most <= bytes + bytes / 10 + 100, "{bytes}: {most}");
        }
        assert_eq!(deflated_bytes_max(u32::MAX), u32::MAX);
    }

    #[test]
    fn a_text_is_checked_once_inflated() {
        let mut deflater = Deflater::new(6, 15, false);
        let mut inflater = Inflater::default();
        let good = compressed(&mut deflater, "κόσμε".as_bytes());
        assert_eq!(inflater.inflate(true, &good, None, 100), Ok(Item::Text("κόσμε")));
        let bad = compressed(&mut deflater, b"\xce\xba\xe1\xbd\xb9\xff");
        assert_eq!(inflater.inflate(true, &bad, None, 100).unwrap_err().code, 1007);
        assert!(inflater.inflate(false, &bad, None, 100).is_ok());
    }

    #[test]
    fn a_bomb_is_refused_and_costs_no_more_than_a_message() {
        let bomb = compressed(&mut Deflater::new(9, 15, false), &vec![0; 64 << 20]);
        assert!(bomb.len() < 70_000);
        let mut inflater = Inflater::default();
        for bytes_max in [1, 1000, 100_000] {
            assert_eq!(inflater.inflate(false, &bomb, None, bytes_max).unwrap_err().code, 1009);
            assert!(inflater.out.capacity() <= (bytes_max + 1).max(OUTPUT_BYTES_KEPT));
            inflater.release();
        }
        assert_eq!(inflater.out.capacity(), 0, "nothing is kept of it");
        let most = compressed(&mut Deflater::new(9, 15, false), &[7; BYTES_MAX]);
        assert_eq!(inflated(&most, None), Ok(vec![7; BYTES_MAX]));
        let one_more = compressed(&mut Deflater::new(9, 15, false), &[7; BYTES_MAX + 1]);
        assert_eq!(inflated(&one_more, None), Err(1009));
    }

    #[test]
    fn final_blocks_without_end_are_refused() {
        assert_eq!(inflated(&[3, 0].repeat(FINAL_BLOCKS_MAX), None), Ok(vec![]));
        assert_eq!(inflated(&[3, 0].repeat(FINAL_BLOCKS_MAX + 1), None), Err(1009));
    }

    #[test]
    fn a_window_holds_no_more_than_the_end_of_what_was_said() {
        let mut window = Window::new(9);
        window.add(&[1; 300]);
        window.add(&[2; 300]);
        assert_eq!(window.bytes, [[1; 212].as_slice(), &[2; 300]].concat());
        window.add(&[3; 5000]);
        assert_eq!(window.bytes, [3; 512]);
        assert!(window.bytes.capacity() <= 1024);
    }

    #[test]
    fn what_does_not_become_shorter_stays_as_it_was() {
        let mut out = b"before".to_vec();
        put_text(&mut out, b"qx7");
        let unchanged = out.clone();
        let mut buffer = Vec::new();
        assert_eq!(Deflater::new(6, 15, false).compress_last(&mut out, 6, 3, &mut buffer), None);
        assert_eq!(out, unchanged);
        assert_eq!(Deflater::new(6, 15, true).compress_last(&mut out, 6, 4, &mut buffer), None);
        assert_eq!(Deflater::new(6, 15, true).compress_last(&mut out, 6, 3, &mut buffer), Some((3, 5)));
        assert_eq!(out[6..8], [0xC1, 5], "what is in the context is sent");
    }

    /// How far the farthest reference of a payload goes back, by an inflater that does nothing else (RFC 1951, 3.2).
    fn farthest_reference(payload: &[u8]) -> usize {
        let mut bits = Bits { bytes: payload, at: 0 };
        let mut farthest = 0;
        loop {
            bits.take(1); // is never the last
            match bits.take(2) {
                0 => {
                    bits.at = bits.at.next_multiple_of(8);
                    if bits.at / 8 >= payload.len() {
                        return farthest;
                    }
                    let length = bits.take(16);
                    bits.at += 16 + 8 * length;
                }
                1 => {
                    let lengths: Vec<u8> = (0..288)
                        .map(|symbol| {
                            [8, 9, 7, 8][[144, 256, 280, 288].partition_point(|end| *end <= symbol)]
                        })
                        .collect();
                    farthest = farthest.max(bits.block(&codes(&lengths), &codes(&[5; 30])));
                }
                2 => {
                    let (literals, distances, count) =
                        (257 + bits.take(5), 1 + bits.take(5), 4 + bits.take(4));
                    let mut lengths = [0; 19];
                    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
                        .into_iter()
                        .take(count)
                    {
                        lengths[symbol] = bits.take(3) as u8;
                    }
                    let code = codes(&lengths);
                    let mut lengths: Vec<u8> = Vec::new();
                    while lengths.len() < literals + distances {
                        let (length, times) = match bits.symbol(&code) {
                            16 => (*lengths.last().unwrap(), 3 + bits.take(2)),
                            17 => (0, 3 + bits.take(3)),
                            18 => (0, 11 + bits.take(7)),
                            length => (length as u8, 1),
                        };
                        lengths.extend(std::iter::repeat_n(length, times));
                    }
                    let (literals, distances) = lengths.split_at(literals);
                    farthest = farthest.max(bits.block(&codes(literals), &codes(distances)));
                }
                _ => panic!("no such block"),
            }
        }
    }

    /// Each code's length, bits and symbol.
    fn codes(lengths: &[u8]) -> Vec<(u8, usize, usize)> {
        let (mut code, mut table) = (0, Vec::new());
        for length in 1..=15 {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, own)| **own == length) {
                table.push((length, code, symbol));
                code += 1;
            }
            code <<= 1;
        }
        table
    }

    struct Bits<'a> {
        bytes: &'a [u8],
        at: usize,
    }

    impl Bits<'_> {
        fn take(&mut self, count: usize) -> usize {
            let mut value = 0;
            for place in 0..count {
                value |= usize::from(self.bytes[self.at / 8] >> (self.at % 8) & 1) << place;
                self.at += 1;
            }
            value
        }

        fn symbol(&mut self, table: &[(u8, usize, usize)]) -> usize {
            let (mut code, mut length) = (0, 0);
            loop {
                code = code << 1 | self.take(1);
                length += 1;
                if let Some((.., symbol)) = table.iter().find(|(l, c, _)| (*l, *c) == (length, code)) {
                    return *symbol;
                }
            }
        }

        /// The farthest reference of one block.
        fn block(&mut self, literals: &[(u8, usize, usize)], distances: &[(u8, usize, usize)]) -> usize {
            let mut farthest = 0;
            loop {
                let extra = match self.symbol(literals) {
                    ..256 => continue,
                    256 => return farthest,
                    length @ 265..285 => (length - 261) / 4,
                    _ => 0,
                };
                self.take(extra);
                let symbol = self.symbol(distances);
                let extra = (symbol / 2).saturating_sub(1);
                let base = if symbol < 4 { symbol + 1 } else { ((2 + symbol % 2) << extra) + 1 };
                farthest = farthest.max(base + self.take(extra));
            }
        }
    }

    #[test]
    fn references_are_found() {
        assert_eq!(farthest_reference(&[0xF2, 0x00, 0x11, 0x00, 0x00]), 5);
        let far = [prose(900, 3), vec![b'x'; 20_000], prose(900, 3)].concat();
        assert!(farthest_reference(&compressed(&mut Deflater::new(6, 15, false), &far)) > 20_000);
    }

    proptest! {
        #[test]
        fn whatever_is_compressed_comes_back(
            sizes in prop::collection::vec(0usize..3000, 1..6),
            level in 1u32..=9, bits in 8u8..=15, keeps_context: bool, seed: u64,
        ) {
            let mut deflater = Deflater::new(level, bits, keeps_context);
            let mut window = keeps_context.then(|| Window::new(bits));
            for (index, bytes) in sizes.into_iter().enumerate() {
                let message = prose(bytes, seed.wrapping_add(index as u64 % 2));
                let payload = compressed(&mut deflater, &message);
                prop_assert_eq!(inflated(&payload, window.as_mut()), Ok(message));
            }
        }

        #[test]
        fn a_window_that_was_agreed_on_is_kept_to(bytes in 0usize..5000, level in 1u32..=9, bits in 8u8..=15, seed: u64) {
            let message = prose(bytes, seed);
            let payload = compressed(&mut Deflater::new(level, bits, false), &message);
            prop_assert!(farthest_reference(&payload) <= 1 << bits);
        }

        #[test]
        fn any_bytes_are_inflated_or_refused(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut window = Window::new(9);
            window.add(&prose(100, 7));
            let outcome = inflated(&payload, Some(&mut window));
            prop_assert!(matches!(outcome, Ok(_) | Err(1007 | 1009)), "{:?}", outcome);
        }

        #[test]
        fn streams_of_other_makers_are_read(
            parts in prop::collection::vec((0usize..2000, 0u8..4), 1..8), level in 0u32..=9, seed: u64,
        ) {
            // As the library itself writes them, with flushes of all kinds between the parts, and ends.
            let mut stream = Compress::new(Compression::new(level), false);
            let (mut payload, mut message) = (Vec::with_capacity(1 << 16), Vec::new());
            for (bytes, flush) in parts {
                let part = prose(bytes, seed);
                let flush = [FlushCompress::None, FlushCompress::Sync, FlushCompress::Full, FlushCompress::Finish]
                    [usize::from(flush)];
                stream.compress_vec(&part, &mut payload, flush).unwrap();
                message.extend(part);
                if let FlushCompress::Finish = flush {
                    stream.reset();
                }
            }
            stream.compress_vec(b"!", &mut payload, FlushCompress::Sync).unwrap();
            message.push(b'!');
            prop_assume!(message.len() <= BYTES_MAX);
            payload.truncate(payload.len() - MESSAGE_TAIL.len());
            prop_assert_eq!(inflated(&payload, None), Ok(message));
        }
    }
}
