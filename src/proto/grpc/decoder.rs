//! Finds the messages in a stream of bytes.

use super::PREFIX_BYTES;

/// A buffer that grew beyond this is freed once its message is done.
const BUFFER_BYTES_KEPT: usize = 4096;

/// Why a call must end: what comes is no message that can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// It is longer than the decoder takes.
    TooLarge,
    /// It says that it is compressed, which nobody has offered to read.
    Compressed,
}

/// Decodes the messages of one call. A message that lies whole in the input is borrowed from it; any other is collected, in a
/// buffer that grows with the bytes that came and never with those that a prefix announces.
#[derive(Debug)]
pub struct Decoder {
    /// The message under way with its prefix, as far as it came.
    buffer: Vec<u8>,
    bytes_max: usize,
    /// Whether the buffer has been handed out, and goes at the next call.
    is_spent: bool,
}

impl Decoder {
    /// A decoder of messages of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Decoder {
        Decoder { buffer: Vec::new(), bytes_max, is_spent: false }
    }

    /// How many bytes it holds back, the free ones of its buffer among them.
    pub fn kept_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether a part of a message has come.
    pub fn is_within(&self) -> bool {
        !self.is_spent && !self.buffer.is_empty()
    }

    /// Takes bytes from the front of `input` up to the end of a message; returns how many, and the message. Without one all of
    /// `input` was taken. After a violation nothing more is to be decoded.
    pub fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<&'a [u8]>), Violation> {
        self.release();
        if self.buffer.is_empty()
            && let Some(length) = self.length(input)?
            && let Some(message) = input[PREFIX_BYTES..].get(..length)
        {
            return Ok((PREFIX_BYTES + length, Some(message)));
        }
        let mut taken = 0;
        loop {
            let whole = self.length(&self.buffer)?.map_or(PREFIX_BYTES, |length| PREFIX_BYTES + length);
            let part = &input[taken..][..(whole - self.buffer.len()).min(input.len() - taken)];
            self.buffer.extend_from_slice(part);
            taken += part.len();
            if self.buffer.len() < whole {
                return Ok((taken, None));
            }
            if self.length(&self.buffer)?.is_some_and(|length| PREFIX_BYTES + length == self.buffer.len()) {
                self.is_spent = true;
                return Ok((taken, Some(&self.buffer[PREFIX_BYTES..])));
            }
        }
    }

    /// Frees what has been handed out.
    pub fn release(&mut self) {
        if std::mem::take(&mut self.is_spent) {
            self.buffer.clear();
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }

    /// The length that the prefix says, if it is there.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        match bytes {
            [0, a, b, c, d, ..] => {
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if length > self.bytes_max { Err(Violation::TooLarge) } else { Ok(Some(length)) }
            }
            [0, ..] | [] => Ok(None),
            _ => Err(Violation::Compressed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::put;
    use super::*;

    fn decoded(bytes_max: usize, bytes: &[u8], chunk: usize) -> Result<Vec<Vec<u8>>, Violation> {
        let mut decoder = Decoder::new(bytes_max);
        let mut messages = Vec::new();
        for mut part in bytes.chunks(chunk) {
            while !part.is_empty() {
                let (taken, message) = decoder.decode(part)?;
                messages.extend(message.map(<[u8]>::to_vec));
                part = &part[taken..];
            }
        }
        Ok(messages)
    }

    proptest! {
        #[test]
        fn any_chunking_decodes_alike(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
            chunk in 1usize..60,
        ) {
            let mut bytes = Vec::new();
            messages.iter().for_each(|message| put(&mut bytes, |out| out.extend_from_slice(message)));
            prop_assert_eq!(decoded(40, &bytes, chunk), Ok(messages));
        }

        #[test]
        fn garbage_is_refused_alike(bytes in prop::collection::vec(0u8..4, 0..60), chunk in 1usize..20) {
            prop_assert_eq!(decoded(1 << 18, &bytes, chunk), decoded(1 << 18, &bytes, 60));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_prefix() {
        assert_eq!(decoded(3, &[0, 0, 0, 0, 4], 1), Err(Violation::TooLarge));
        assert_eq!(decoded(3, &[1], 1), Err(Violation::Compressed));
        let mut decoder = Decoder::new(1 << 30);
        assert_eq!(decoder.decode(&[0, 0x3F, 0xFF, 0xFF, 0xFF, 1]), Ok((6, None)));
        assert!(decoder.buffer.capacity() < 1024 && decoder.is_within());
    }

    #[test]
    fn a_part_of_a_message_is_told_from_none() {
        let mut decoder = Decoder::new(b"message".len());
        assert!(!decoder.is_within());
        assert_eq!(decoder.kept_bytes(), 0);
        let mut bytes = Vec::new();
        put(&mut bytes, |out| out.extend_from_slice(b"message"));
        assert_eq!(decoder.decode(&bytes[..8]), Ok((8, None)));
        assert!(decoder.is_within() && decoder.kept_bytes() >= 8);
        assert_eq!(decoder.decode(&bytes[8..]), Ok((4, Some(&b"message"[..]))));
        assert!(!decoder.is_within());
        decoder.release();
        assert_eq!(decoder.kept_bytes(), 0);
        assert_eq!(decoder.decode(&bytes), Ok((12, Some(&b"message"[..]))));
        assert!(!decoder.is_within());
    }
}
