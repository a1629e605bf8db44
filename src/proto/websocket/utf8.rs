//! UTF-8 that arrives in parts, refused at the first byte that no valid text could have in its place.

/// Checks a text part by part. Between two parts it remembers only what the last, unfinished character still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validator {
    /// How many bytes the character under way still needs.
    needed: u8,
    /// The least value its next byte may have. Only the second byte of a character is ever bound closer than 80..BF,
    /// and that is what shuts out overlong forms, surrogates and what lies beyond U+10FFFF (RFC 3629, section 4).
    least: u8,
    /// The greatest value its next byte may have.
    greatest: u8,
}

impl Validator {
    pub(super) const fn new() -> Validator {
        Validator { needed: 0, least: 0x80, greatest: 0xBF }
    }

    /// Whether the text so far, `part` included, is the beginning of a valid one. Whether its last character is whole is
    /// found by whoever reads the whole text.
    pub(super) fn accepts(&mut self, part: &[u8]) -> bool {
        let mut rest = part;
        while self.needed > 0 {
            let Some((&byte, behind)) = rest.split_first() else { return true };
            if !self.accepts_byte(byte) {
                return false;
            }
            rest = behind;
        }
        // Whole characters are the vector code's business; the state machine sees at most the three bytes of a
        // character that `part` cuts off.
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => rest[error.valid_up_to()..].iter().all(|&byte| self.accepts_byte(byte)),
        }
    }

    fn accepts_byte(&mut self, byte: u8) -> bool {
        if self.needed > 0 {
            let is_valid = (self.least..=self.greatest).contains(&byte);
            *self = Validator { needed: self.needed - 1, ..Validator::new() };
            return is_valid;
        }
        let (needed, least, greatest) = match byte {
            0x00..=0x7F => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return false,
        };
        *self = Validator { needed, least, greatest };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are accepted one at a time, and whether the text could end there.
    fn accepted(bytes: &[u8]) -> (usize, bool) {
        let mut validator = Validator::new();
        let count = bytes.iter().take_while(|&&byte| validator.accepts(&[byte])).count();
        (count, validator.needed == 0)
    }

    /// The same, as the standard library has it: a byte is wrong when the text up to it is not even a beginning.
    fn expected(bytes: &[u8]) -> (usize, bool) {
        let is_beginning = |count: &usize| match std::str::from_utf8(&bytes[..*count]) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        };
        let count = (1..=bytes.len()).take_while(is_beginning).count();
        (count, std::str::from_utf8(&bytes[..count]).is_ok())
    }

    #[test]
    fn every_pair_of_bytes_is_judged_as_the_standard_library_does() {
        for first in 0..=255 {
            for second in 0..=255 {
                for tail in [&[][..], &[0x80, 0x80], &[0xBF, 0xBF], &[0x80, b'a']] {
                    let bytes = [&[first, second], tail].concat();
                    let (count, is_complete) = accepted(&bytes);
                    let (expected_count, expected_complete) = expected(&bytes);
                    assert_eq!(count, expected_count, "{bytes:x?}");
                    if count == bytes.len() {
                        assert_eq!(is_complete, expected_complete, "{bytes:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_character_beyond_the_last_one_fails_at_its_second_byte() {
        assert_eq!(accepted(b"\xce\xba\xf4\x90\x80\x80").0, 3);
        assert_eq!(accepted(b"\xed\xa0\x80").0, 1);
        assert_eq!(accepted(b"\xc0\xaf").0, 0);
    }

    #[test]
    fn any_split_of_a_text_is_accepted() {
        let text = "κόσμε 😀 \u{10FFFF}\u{D7FF}\u{E000} und ASCII, lang genug für die Vektoren: ".repeat(3);
        for split in 0..=text.len() {
            let mut validator = Validator::new();
            assert!(validator.accepts(&text.as_bytes()[..split]));
            assert_eq!(validator.needed == 0, text.is_char_boundary(split));
            assert!(validator.accepts(&text.as_bytes()[split..]));
            assert!(validator.needed == 0);
        }
    }
}
