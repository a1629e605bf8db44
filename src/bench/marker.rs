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

    /// Finds the first one in `text` where nothing tells how long it is: it ends with its filler. And where it ends.
    pub fn find(text: &[u8]) -> Option<(Content, usize)> {
        let (at, _) = Marker::find(text)?;
        let behind = &text[at + MARKER_BYTES..];
        let fill_bytes = behind.iter().take_while(|byte| **byte == FILL).count();
        let end = at + MARKER_BYTES + fill_bytes;
        Content::read(&text[at..end]).map(|content| (content, end))
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
        let (publisher, rest) = text[1..].split_at(PUBLISHER_DIGITS);
        let (sequence, rest) = rest.split_at(SEQUENCE_DIGITS);
        let (time, check) = rest.split_at(TIME_DIGITS);
        let (publisher, a) = hex(publisher);
        let (sequence, b) = hex(sequence);
        let (due_ns, c) = hex(time);
        let (check, d) = hex(check);
        // Checked once for all digits: no branch a digit.
        let marker = Marker { publisher: publisher as u32, sequence: sequence as u32, due_ns };
        (a | b | c | d < NO_DIGIT).then_some((marker, check == marker.check()))
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
        fn a_change_is_seen(sequence: u32, due_ns in 0u64..1 << 56, bytes in 0usize..3000, at: prop::sample::Index, to in 1u8..128) {
            let marker = Marker { publisher: 3, sequence, due_ns };
            let mut text = Vec::new();
            marker.put_content(bytes, &mut text);
            let whole = Content { marker, bytes: Some(text.len() as u32) };
            prop_assert_eq!(Content::read(&text), Some(whole));
            prop_assert_eq!(Content::find(&text), Some((whole, text.len())));
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
        fn any_bytes_are_a_marker_or_none(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Marker::find(&bytes);
        }
    }
}
