//! What every message's content begins with, so that whoever receives it knows where it comes from and when it was due. And
//! what follows up to its end, so that a change of it is seen.
//!
//! ```text
//! ~ | publisher, 6 hex digits | sequence, 8 | intended send time in ns since the run's epoch, 14 | check, 2 | filler
//! ```
//!
//! The check is a byte of a hash of the numbers before it, and the filler is dots up to the size that the run gives its
//! messages: whoever knows that size knows every byte that is to come.
//!
//! It is plain text of a fixed width, so that any protocol carries it, and has a first byte that neither names nor the
//! syntax of any target's messages contain, so that it is found without parsing what is around it.

use std::ops::Range;

/// The first byte of every marker.
pub const SIGN: u8 = b'~';

/// Bytes of a marker, which is also the least that a message can have.
pub const MARKER_BYTES: usize = 1 + PUBLISHER_DIGITS + SEQUENCE_DIGITS + TIME_DIGITS + CHECK_DIGITS;

/// Publishers that can be told apart.
pub const PUBLISHERS_MAX: usize = 1 << (4 * PUBLISHER_DIGITS);

const PUBLISHER_DIGITS: usize = 6;
const SEQUENCE_DIGITS: usize = 8;
const TIME_DIGITS: usize = 14;
const CHECK_DIGITS: usize = 2;

/// What contents are filled up with.
const FILL: u8 = b'.';

/// So much of it is compared at a time.
static FILLER: [u8; 1024] = [FILL; 1024];

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

/// A whole content, as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// What it begins with.
    pub marker: Marker,
    /// Its length, if all of it is as it was put; else `None`.
    pub bytes: Option<u32>,
}

impl Content {
    /// Reads a content. `None`: it is none of ours.
    #[inline]
    pub fn read(text: &[u8]) -> Option<Content> {
        let (marker, is_right) = Marker::read_checked(text)?;
        let is_right = is_right && is_filler(&text[MARKER_BYTES..]);
        Some(Content { marker, bytes: is_right.then_some(text.len() as u32) })
    }

    /// Finds the first one in `text`, and where it is; `end` tells where it ends, from what is behind its marker.
    #[inline]
    pub fn find(text: &[u8], end: impl FnOnce(&[u8]) -> Option<usize>) -> Option<(Content, Range<usize>)> {
        let (at, marker, is_right) = Marker::find_checked(text)?;
        let behind = &text[at + MARKER_BYTES..];
        let fill_bytes = end(behind)?;
        let bytes = MARKER_BYTES + fill_bytes;
        let is_right = is_right && is_filler(&behind[..fill_bytes]);
        Some((Content { marker, bytes: is_right.then_some(bytes as u32) }, at..at + bytes))
    }

    /// The same where nothing tells how long a content is: it ends with its filler.
    pub fn find_filled(text: &[u8]) -> Option<(Content, Range<usize>)> {
        Content::find(text, |behind| Some(behind.iter().take_while(|byte| **byte == FILL).count()))
    }
}

fn is_filler(text: &[u8]) -> bool {
    text.chunks(FILLER.len()).all(|chunk| *chunk == FILLER[..chunk.len()])
}

/// A name as a number, to compare it with another without having both at hand. It is never [`NO_NAME`].
#[inline]
pub fn name_hash(name: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    let mut words = name.chunks_exact(8);
    let mut hash = name.len() as u64;
    for word in &mut words {
        hash = mix(hash, u64::from_le_bytes(word.try_into().expect("eight")));
    }
    let rest = words.remainder().iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    mix(hash, rest) | 1
}

/// In the place of a name's hash: no name was told.
pub const NO_NAME: u64 = 0;

impl Marker {
    /// Appends the marker alone.
    pub fn put(self, out: &mut Vec<u8>) {
        let mut text = [SIGN; MARKER_BYTES];
        let (publisher, rest) = text[1..].split_at_mut(PUBLISHER_DIGITS);
        let (sequence, rest) = rest.split_at_mut(SEQUENCE_DIGITS);
        let (time, check) = rest.split_at_mut(TIME_DIGITS);
        put_hex(publisher, u64::from(self.publisher));
        put_hex(sequence, u64::from(self.sequence));
        put_hex(time, self.due_ns);
        put_hex(check, self.check());
        out.extend_from_slice(&text);
    }

    /// Appends a whole content of `bytes` bytes.
    pub fn put_content(self, bytes: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        self.put(out);
        out.resize(begin + bytes.max(MARKER_BYTES), FILL);
    }

    /// A byte that is another for other numbers, but for one in 256.
    #[inline]
    fn check(self) -> u64 {
        let numbers = u64::from(self.publisher) << 32 | u64::from(self.sequence);
        ((numbers ^ self.due_ns.rotate_left(19)).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 56
    }

    /// Reads the marker that `text` begins with.
    #[inline]
    pub fn read(text: &[u8]) -> Option<Marker> {
        Marker::read_checked(text).map(|(marker, _)| marker)
    }

    /// The same, and whether its check is right.
    #[inline]
    fn read_checked(text: &[u8]) -> Option<(Marker, bool)> {
        let text: &[u8; MARKER_BYTES] = text.first_chunk()?;
        if text[0] != SIGN {
            return None;
        }
        // All of the digits, eight at a time; the last eight begin with two that have been read.
        let eight = |at: usize| hex(text[at..at + 8].try_into().expect("eight"));
        let (first, a) = eight(1);
        let (second, b) = eight(9);
        let (third, c) = eight(17);
        let (last, d) = eight(MARKER_BYTES - 8);
        let marker = Marker {
            publisher: (first >> 8) as u32,
            sequence: ((first & 0xff) << 24 | second >> 8) as u32,
            due_ns: (second & 0xff) << 48 | third << 16 | (last >> 8 & 0xffff),
        };
        // Looked at once for all digits: no branch a digit.
        (a & b & c & d).then_some((marker, last & 0xff == marker.check()))
    }

    /// Finds the first marker in `text`, and where it begins.
    #[inline]
    pub fn find(text: &[u8]) -> Option<(usize, Marker)> {
        Marker::find_checked(text).map(|(at, marker, _)| (at, marker))
    }

    /// The same, and whether its check is right.
    #[inline]
    fn find_checked(text: &[u8]) -> Option<(usize, Marker, bool)> {
        let mut at = 0;
        loop {
            at += memchr::memchr(SIGN, &text[at..])?;
            if let Some((marker, is_right)) = Marker::read_checked(&text[at..]) {
                return Some((at, marker, is_right));
            }
            at += 1;
        }
    }
}

fn put_hex(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// The number that eight digits are, and whether they are digits: all at once, a byte of a word each.
#[inline]
fn hex(text: [u8; 8]) -> (u64, bool) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let text = u64::from_be_bytes(text);
    // Of the characters in question only letters have this bit; they count from 10 at `a`, which is 0x61.
    let is_letter = text >> 6 & ONES;
    let digits = (text & (0x0f * ONES)) + 9 * is_letter;
    // Written again they are what they were, if they were digits: `0` is 0x30, and `a` is 0x30 + 10 + 0x27.
    let is_same = digits + 0x30 * ONES + 0x27 * is_letter == text;
    let is_over_nine = (digits + 6 * ONES) >> 4 & ONES;
    let is_in_range = is_over_nine == is_letter && digits & (0xf0 * ONES) == 0;
    let pairs = (digits | digits >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    ((fours | fours >> 16) & 0xffff_ffff, is_same && is_in_range)
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
        fn a_change_is_seen(sequence: u32, due_ns in 0u64..1 << 56, bytes in 0usize..3000, at: prop::sample::Index, to in 1u8..128) {
            let marker = Marker { publisher: 3, sequence, due_ns };
            let mut text = Vec::new();
            marker.put_content(bytes, &mut text);
            let whole = Content { marker, bytes: Some(text.len() as u32) };
            prop_assert_eq!(Content::read(&text), Some(whole));
            prop_assert_eq!(Content::find_filled(&text), Some((whole, 0..text.len())));
            let at = at.index(text.len());
            text[at] ^= to;
            // A marker that is none, or another, or of another content: one in 256 others has the same check.
            let seen = Content::read(&text);
            let is_seen = seen.is_none_or(|seen| seen.bytes.is_none());
            prop_assert!(is_seen || (at < MARKER_BYTES && seen != Some(whole)), "{seen:?}");
        }

        #[test]
        fn names_are_told_apart(one in "[a-z0-9-]{0,20}", other in "[a-z0-9-]{0,20}") {
            prop_assert_eq!(name_hash(one.as_bytes()) == name_hash(other.as_bytes()), one == other);
            prop_assert_ne!(name_hash(one.as_bytes()), NO_NAME);
        }

        #[test]
        fn digits_are_those_that_are(text in prop::array::uniform8(prop_oneof![4 => prop::sample::select(b"0123456789abcdef".to_vec()), 1 => any::<u8>()])) {
            let is_right = text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let (number, is_number) = hex(text);
            prop_assert_eq!(is_number, is_right);
            if is_right {
                prop_assert_eq!(number, u64::from_str_radix(std::str::from_utf8(&text).unwrap(), 16).unwrap());
            }
        }

        #[test]
        fn any_bytes_are_a_marker_or_none(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Marker::find(&bytes);
        }
    }
}
