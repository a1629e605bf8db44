//! What every message's content begins with, so that whoever receives it knows where it comes from and when it was due.
//!
//! ```text
//! ~ | publisher, 6 hex digits | sequence, 8 | intended send time in ns since the run's epoch, 14 | padding
//! ```
//!
//! It is plain text of a fixed width, so that any protocol carries it, and has a first byte that neither names nor the
//! syntax of any target's messages contain, so that it is found without parsing what is around it.

/// The first byte of every marker.
pub const SIGN: u8 = b'~';

/// Bytes of a marker, which is also the least that a message can have.
pub const MARKER_BYTES: usize = 1 + PUBLISHER_DIGITS + SEQUENCE_DIGITS + TIME_DIGITS;

/// Publishers that can be told apart.
pub const PUBLISHERS_MAX: usize = 1 << (4 * PUBLISHER_DIGITS);

const PUBLISHER_DIGITS: usize = 6;
const SEQUENCE_DIGITS: usize = 8;
const TIME_DIGITS: usize = 14;

/// Which message it is, and when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Who sent it.
    pub publisher: u32,
    /// Its place among the publisher's messages, from 0.
    pub sequence: u32,
    /// When it was to be sent, in nanoseconds since the run's epoch.
    pub due_ns: u64,
}

impl Marker {
    /// Appends the marker alone.
    pub fn put(self, out: &mut Vec<u8>) {
        let mut text = [SIGN; MARKER_BYTES];
        let (publisher, rest) = text[1..].split_at_mut(PUBLISHER_DIGITS);
        let (sequence, time) = rest.split_at_mut(SEQUENCE_DIGITS);
        put_hex(publisher, u64::from(self.publisher));
        put_hex(sequence, u64::from(self.sequence));
        put_hex(time, self.due_ns);
        out.extend_from_slice(&text);
    }

    /// Appends a whole content of `bytes` bytes.
    pub fn put_content(self, bytes: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        self.put(out);
        out.resize(begin + bytes.max(MARKER_BYTES), b'.');
    }

    /// Reads the marker that `text` begins with.
    #[inline]
    pub fn read(text: &[u8]) -> Option<Marker> {
        let text: &[u8; MARKER_BYTES] = text.first_chunk()?;
        if text[0] != SIGN {
            return None;
        }
        let (publisher, rest) = text[1..].split_at(PUBLISHER_DIGITS);
        let (sequence, time) = rest.split_at(SEQUENCE_DIGITS);
        let (publisher, a) = hex(publisher);
        let (sequence, b) = hex(sequence);
        let (due_ns, c) = hex(time);
        // Checked once for all digits: no branch a digit.
        (a | b | c < NO_DIGIT).then_some(Marker {
            publisher: publisher as u32,
            sequence: sequence as u32,
            due_ns,
        })
    }

    /// Finds the first marker in `text`, and where it begins.
    #[inline]
    pub fn find(text: &[u8]) -> Option<(usize, Marker)> {
        let mut at = 0;
        loop {
            at += memchr::memchr(SIGN, &text[at..])?;
            if let Some(marker) = Marker::read(&text[at..]) {
                return Some((at, marker));
            }
            at += 1;
        }
    }
}

const NO_DIGIT: u8 = 16;

const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

fn put_hex(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// The number, and all digits' values together: at least [`NO_DIGIT`] if one of them is none.
#[inline]
fn hex(text: &[u8]) -> (u64, u8) {
    text.iter().fold((0, 0), |(number, all), byte| {
        let digit = DIGITS[usize::from(*byte)];
        (number << 4 | u64::from(digit & 15), all | digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_found_as_it_was_put(publisher in 0u32..1 << 24, sequence: u32, due_ns in 0u64..1 << 56, before in "[a-z~\"]{0,60}", bytes in 0usize..300) {
            let marker = Marker { publisher, sequence, due_ns };
            let mut text = before.clone().into_bytes();
            marker.put_content(bytes, &mut text);
            prop_assert_eq!(text.len(), before.len() + bytes.max(MARKER_BYTES));
            prop_assert_eq!(Marker::find(&text), Some((before.len(), marker)));
            prop_assert_eq!(Marker::find(&text[..before.len() + MARKER_BYTES - 1]), None);
        }

        #[test]
        fn any_bytes_are_a_marker_or_none(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Marker::find(&bytes);
        }
    }
}
