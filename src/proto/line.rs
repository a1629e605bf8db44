//! Lines of text: what people type into `nc` or telnet, and JSON objects, one a line.
//!
//! A line ends with LF or CRLF. [`Decoder`] cuts the stream into lines, [`Telnet`] takes a terminal's negotiation out
//! of it beforehand.

use memchr::memchr;

/// A buffer that grew beyond this is freed once its line is done instead of being kept for the next one: one long
/// line must not cost its memory for as long as the peer keeps talking.
const BUFFER_BYTES_KEPT: usize = 4096;

/// One line, without what ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes, not checked to be UTF-8.
    Text(&'a [u8]),
    /// It passed the limit. Told once, as soon as that is certain; the rest of the line is skipped.
    TooLong,
}

/// Cuts a stream of bytes into lines of bounded length. It cannot fail: every stream is a sequence of lines.
#[derive(Debug)]
pub struct Decoder {
    /// The beginning of a line whose end has not come, or a line that came in parts and has been handed out.
    kept: Vec<u8>,
    limit: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `kept` is the beginning of the line under way.
    Collecting,
    /// `kept` has been handed out and goes at the next call.
    Spent,
    /// The line under way is too long, which has been told.
    Skipping,
}

impl Decoder {
    /// A decoder of lines of at most `limit` bytes, their end not counted.
    pub fn new(limit: usize) -> Decoder {
        Decoder { kept: Vec::new(), limit, state: State::Collecting }
    }

    /// Takes bytes from the front of `input` up to the end of a line; returns how many, and the line. Without a line
    /// all of `input` was taken.
    pub fn decode<'a>(&'a mut self, input: &'a [u8]) -> (usize, Option<Line<'a>>) {
        self.forget_spent();
        let mut start = 0;
        if self.state == State::Skipping {
            let Some(newline) = memchr(b'\n', input) else { return (input.len(), None) };
            self.state = State::Collecting;
            start = newline + 1;
        }
        let rest = &input[start..];
        match memchr(b'\n', rest) {
            Some(newline) => (start + newline + 1, Some(self.complete(&rest[..newline]))),
            None => (input.len(), self.keep(rest)),
        }
    }

    /// The last line, if the stream ended without the newline that it lacks. What half a CRLF left behind is not part
    /// of it.
    pub fn finish(&mut self) -> Option<&[u8]> {
        self.forget_spent();
        self.state = State::Spent;
        let line = without_return(&self.kept);
        (!line.is_empty()).then_some(line)
    }

    /// How many bytes it holds back, the free ones of its buffer among them.
    pub fn kept_bytes(&self) -> usize {
        self.kept.capacity()
    }

    /// Frees what is no longer needed. To be called when the input is used up, so that a connection that waits between
    /// two lines owns no buffer.
    pub fn release(&mut self) {
        self.forget_spent();
        if self.kept.is_empty() {
            self.kept = Vec::new();
        }
    }

    /// The line that ends with `tail`, its newline cut off.
    fn complete<'a>(&'a mut self, tail: &'a [u8]) -> Line<'a> {
        let line = if self.kept.is_empty() {
            tail
        } else {
            self.state = State::Spent;
            // `keep` bounds only itself: a tail of any length may follow.
            if self.kept.len() + tail.len() > self.limit.saturating_add(1) {
                return Line::TooLong;
            }
            self.kept.extend_from_slice(tail);
            &self.kept
        };
        let line = without_return(line);
        if line.len() > self.limit { Line::TooLong } else { Line::Text(line) }
    }

    /// Keeps a part of a line that has no end yet. One byte over the limit is kept if it may turn out to be half a CRLF.
    fn keep(&mut self, part: &[u8]) -> Option<Line<'static>> {
        let line_bytes = self.kept.len() + part.len();
        let ends_in_return = part.last() == Some(&b'\r');
        if line_bytes - usize::from(ends_in_return) > self.limit {
            self.kept = Vec::new();
            self.state = State::Skipping;
            return Some(Line::TooLong);
        }
        self.kept.extend_from_slice(part);
        None
    }

    fn forget_spent(&mut self) {
        if self.state == State::Spent {
            self.state = State::Collecting;
            if self.kept.capacity() > BUFFER_BYTES_KEPT {
                self.kept = Vec::new();
            }
            self.kept.clear();
        }
    }
}

/// The line without the return of a CRLF.
fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Interpret As Command: the byte that begins every telnet sequence (RFC 854). It never occurs in UTF-8.
const IAC: u8 = 255;
/// Ends a subnegotiation.
const SE: u8 = 240;
/// Begins a subnegotiation.
const SB: u8 = 250;
/// WILL, WON'T, DO and DON'T, which an option follows, are this and the three above it.
const WILL: u8 = 251;

/// Takes telnet's sequences out of a stream and answers none: a terminal whose offers stay unanswered falls back to
/// sending plain lines. A state and no buffer: the longest subnegotiation costs nothing.
#[derive(Debug, Default)]
pub struct Telnet {
    state: TelnetState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum TelnetState {
    #[default]
    Text,
    Command,
    Option,
    Subnegotiation,
    SubnegotiationCommand,
}

impl Telnet {
    /// Moves the text in `bytes` to their front and returns how many bytes of it there are.
    pub fn filter(&mut self, bytes: &mut [u8]) -> usize {
        let clean_bytes = match self.state {
            TelnetState::Text => memchr(IAC, bytes).unwrap_or(bytes.len()),
            _ => 0,
        };
        let mut text_bytes = clean_bytes;
        for at in clean_bytes..bytes.len() {
            let byte = bytes[at];
            if self.is_text(byte) {
                bytes[text_bytes] = byte;
                text_bytes += 1;
            }
        }
        text_bytes
    }

    fn is_text(&mut self, byte: u8) -> bool {
        use TelnetState::*;
        let (next, is_text) = match (self.state, byte) {
            (Text, IAC) => (Command, false),
            (Text, _) => (Text, true),
            (Command, IAC) => (Text, true),
            (Command, SB) => (Subnegotiation, false),
            (Command, WILL..) => (Option, false),
            (Command | Option, _) => (Text, false),
            (Subnegotiation, IAC) => (SubnegotiationCommand, false),
            (SubnegotiationCommand, SE) => (Text, false),
            (Subnegotiation | SubnegotiationCommand, _) => (Subnegotiation, false),
        };
        self.state = next;
        is_text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line of `chunks`, `None` for one too long, and the rest at the end.
    fn lines(limit: usize, chunks: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut decoder = Decoder::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            let mut at = 0;
            while at < chunk.len() {
                let (taken, line) = decoder.decode(&chunk[at..]);
                assert!(line.is_some() || taken == chunk.len() - at);
                at += taken;
                lines.extend(line.map(|line| match line {
                    Line::Text(text) => Some(text.to_vec()),
                    Line::TooLong => None,
                }));
            }
            decoder.release();
        }
        lines.extend(decoder.finish().map(|rest| Some(rest.to_vec())));
        lines
    }

    fn texts(texts: &[&str]) -> Vec<Option<Vec<u8>>> {
        texts.iter().map(|text| Some(text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn lf_and_crlf_both_end_a_line() {
        assert_eq!(lines(9, &[b"a\nb\r\n\n\r\nc"]), texts(&["a", "b", "", "", "c"]));
        assert_eq!(lines(9, &[b"a\r", b"\nb", b"b\n"]), texts(&["a", "bb"]));
        assert_eq!(lines(9, &[b"a\rb\r\r\n"]), texts(&["a\rb\r"]));
    }

    #[test]
    fn a_line_may_be_exactly_as_long_as_the_limit() {
        for chunks in
            [&[b"abc\n".as_slice()][..], &[b"abc\r\n"], &[b"abc", b"\n"], &[b"abc\r", b"\n"], &[b"abc\r"]]
        {
            assert_eq!(lines(3, chunks), texts(&["abc"]), "{chunks:?}");
        }
    }

    #[test]
    fn a_long_line_is_told_once_and_skipped() {
        let expected = vec![None, Some(b"ok".to_vec())];
        for chunks in [
            &[b"abcd\nok\n".as_slice()][..],
            &[b"abcd", b"efgh", b"\nok\n"],
            &[b"ab", b"cd\nok"],
            &[b"abc\r", b"\r\nok"],
            &[b"a", b"bcdefgh\nok"],
            &[b"abcdefgh\r", b"\nok"],
        ] {
            assert_eq!(lines(3, chunks), expected, "{chunks:?}");
        }
    }

    #[test]
    fn a_long_line_is_told_before_its_end() {
        let mut decoder = Decoder::new(3);
        assert_eq!(decoder.decode(b"abc\r"), (4, None));
        assert_eq!(decoder.decode(b"d"), (1, Some(Line::TooLong)));
        assert_eq!(decoder.decode(b"never ending"), (12, None));
        assert_eq!(decoder.kept.capacity(), 0);
        assert_eq!(decoder.finish(), None);
    }

    #[test]
    fn a_whole_line_is_borrowed_and_an_idle_decoder_owns_nothing() {
        let mut decoder = Decoder::new(1 << 20);
        let input = b"hello\nwor";
        let (taken, Some(Line::Text(text))) = decoder.decode(input) else { panic!("a line is there") };
        assert_eq!((taken, text.as_ptr()), (6, input.as_ptr()));
        assert_eq!(decoder.decode(&input[6..]), (3, None));
        decoder.release();
        assert!(decoder.kept_bytes() >= 3, "what is held back is told");
        assert_eq!(decoder.decode(b"ld\n"), (3, Some(Line::Text(b"world"))));
        decoder.release();
        assert_eq!(decoder.kept_bytes(), 0);
        assert!(size_of::<Decoder>() <= 64);
    }

    #[test]
    fn a_long_buffer_goes_with_its_line() {
        let mut decoder = Decoder::new(1 << 20);
        decoder.decode(&[b'x'; 100_000]);
        assert!(decoder.kept.capacity() < 200_001);
        assert!(matches!(decoder.decode(b"\n"), (1, Some(Line::Text(_)))));
        decoder.decode(b"next");
        assert!(decoder.kept.capacity() <= BUFFER_BYTES_KEPT);
    }

    #[test]
    fn telnet_sequences_vanish() {
        for (input, expected) in [
            (&b"plain"[..], &b"plain"[..]),
            (b"\xff\xfb\x01hi\xff\xfd\x03\n", b"hi\n"),
            (b"a\xff\xfa\x18\x00xterm\xff\xf0b", b"ab"),
            (b"a\xff\xfa\x18\xff\xff\xf0 not yet\xff\xf0b", b"ab"),
            (b"\xff\xffdata", b"\xffdata"),
            (b"a\xff\xf4b\xff\xf1c", b"abc"),
            (b"\xff\xfa no end", b""),
        ] {
            for split in 0..=input.len() {
                let (mut head, mut tail) = (input[..split].to_vec(), input[split..].to_vec());
                let mut telnet = Telnet::default();
                let head_bytes = telnet.filter(&mut head);
                let tail_bytes = telnet.filter(&mut tail);
                let text = [&head[..head_bytes], &tail[..tail_bytes]].concat();
                assert_eq!(text, expected, "{input:?} split at {split}");
            }
        }
    }
}
