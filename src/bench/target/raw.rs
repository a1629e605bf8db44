//! Lines of raw bytes, for echo servers and for floors: programs that do the least a fan-out needs. A line that comes in on
//! one connection goes out on every other, or back on the same.

use super::{Heard, Persona, Protocol, Stage, Traits};
use crate::bench::marker::{Content, Marker};

/// The protocol.
#[derive(Debug)]
pub struct Raw {
    /// Whether each connection gets back what it sent; else all get what any one sent, publishers left out.
    pub is_echo: bool,
}

impl Protocol for Raw {
    fn traits(&self) -> Traits {
        Traits {
            hears_itself: self.is_echo,
            is_split: !self.is_echo,
            is_echo: self.is_echo,
            ..Traits::default()
        }
    }

    fn publish(
        &self,
        _me: &Persona<'_>,
        marker: Marker,
        bytes: usize,
        _ack: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        marker.put_content(bytes, out);
        out.push(b'\n');
    }

    fn decode(&self, _stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some(bytes) = memchr::memchr(b'\n', &input[at..]) {
            let content = Content::read(&input[at..at + bytes]).ok_or("a line that nobody sent")?;
            heard.push(Heard::content(content));
            at += bytes + 1;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{content, heard, marker, persona};
    use super::*;

    proptest! {
        #[test]
        fn what_is_sent_is_heard_in_any_pieces(pieces in prop::collection::vec(1usize..60, 1..10), bytes in 0usize..200) {
            let raw = Raw { is_echo: false };
            let mut input = Vec::new();
            for _ in 0..3 {
                raw.publish(&persona(), marker(), bytes, None, &mut input);
            }
            prop_assert_eq!(heard(&raw, 0, &input, &pieces), vec![Heard::content(content(bytes).1); 3]);
        }
    }
}
