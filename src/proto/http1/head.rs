//! A request's head, cut out of the stream.
//!
//! A scanner looks at every byte once, as it comes: it finds the head's end, and refuses at once what can no longer
//! become a request. Only a whole head is taken apart.

use super::request::{self, Head};
use super::{HttpError, Refused, is_control, is_token_byte};
use crate::proto::scan::plain_bytes;

/// Empty lines that may come before a request. RFC 9112, 2.2 asks for one, for clients that end a body with a CRLF too
/// many.
const EMPTY_LINES_MAX: u8 = 4;

/// How a request begins whose answer has no content.
const HEAD: &[u8] = b"HEAD ";

static EMPTY_LINES: HttpError = HttpError { status: 400, message: "too many empty lines before the request" };
static LINE_END: HttpError = HttpError { status: 400, message: "a CR or LF stands alone in the head" };
static CONTROL: HttpError = HttpError { status: 400, message: "a control character stands in the head" };
static METHOD: HttpError = HttpError { status: 400, message: "the method is not a token" };
static TARGET: HttpError = HttpError { status: 400, message: "a character must not stand in a target" };
static VERSION: HttpError =
    HttpError { status: 400, message: "the request line does not end with a version" };
static FOLDED: HttpError = HttpError { status: 400, message: "a field begins with white space" };
static TARGET_LENGTH: HttpError = HttpError { status: 414, message: "the target is too long" };
static HEAD_LENGTH: HttpError = HttpError { status: 431, message: "the head is too long" };

/// Cuts request heads out of a stream. After each head it waits for the next one: the bytes of a body must go to a
/// [`BodyDecoder`](super::BodyDecoder) instead.
#[derive(Debug)]
pub struct HeadDecoder {
    /// The beginning of a head whose end has not come, or a head that came in parts and has been handed out.
    kept: Vec<u8>,
    target_bytes_max: usize,
    head_bytes_max: u32,
    target_bytes: u32,
    failure: Option<Refused>,
    place: Place,
    empty_lines: u8,
    /// `kept` has been handed out and goes at the next call.
    is_spent: bool,
    /// What has failed began as a HEAD does.
    is_head: bool,
}

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a request.
    Start,
    /// Behind the CR of an empty line before a request.
    StartReturn,
    Method,
    Target,
    Version,
    /// Behind the CR of the request line or a field.
    LineReturn,
    /// A field, or the empty line that ends the head.
    LineStart,
    Line,
    /// Behind the CR of the empty line.
    EndReturn,
    End,
}

impl HeadDecoder {
    /// A decoder of heads of at most `head_bytes_max` bytes with targets of at most `target_bytes_max`.
    pub fn new(target_bytes_max: usize, head_bytes_max: usize) -> HeadDecoder {
        HeadDecoder {
            kept: Vec::new(),
            target_bytes_max,
            head_bytes_max: u32::try_from(head_bytes_max).unwrap_or(u32::MAX),
            target_bytes: 0,
            failure: None,
            place: Place::Start,
            empty_lines: 0,
            is_spent: false,
            is_head: false,
        }
    }

    /// Takes bytes from the front of `input` up to the end of a head; returns how many, and the head. Without a head all
    /// of `input` was taken.
    ///
    /// After an error every further call returns the same one.
    pub fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<Head<'a>>), HttpError> {
        self.forget_spent();
        let (start, end) = match self.find(input) {
            Ok(place) => place,
            Err(refused) => {
                if self.failure.is_none() {
                    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
                    let front = self.kept.iter().chain(input).skip_while(|byte| is_line_end(byte));
                    self.is_head = front.take(HEAD.len()).eq(HEAD);
                    self.failure = Some(refused);
                }
                return Err(*refused);
            }
        };
        let Some(end) = end else {
            self.kept.extend_from_slice(&input[start..]);
            return Ok((input.len(), None));
        };
        let head = if self.kept.is_empty() {
            &input[start..end]
        } else {
            self.is_spent = true;
            self.kept.extend_from_slice(&input[start..end]);
            &self.kept
        };
        match request::parse(head) {
            Ok(head) => Ok((end, Some(head))),
            Err(refused) => {
                self.is_head = head.starts_with(HEAD);
                self.failure = Some(refused);
                Err(*refused)
            }
        }
    }

    /// Whether nothing of a next request has come: a connection may be closed here without cutting anything off.
    pub fn is_idle(&self) -> bool {
        self.failure.is_none() && matches!(self.place, Place::Start | Place::StartReturn)
    }

    /// Whether what was refused began as a HEAD does: its answer has no content even so (RFC 9110, 9.3.2).
    pub fn has_refused_head(&self) -> bool {
        self.is_head
    }

    /// How many bytes it holds back, the free ones of its buffer among them.
    pub fn kept_bytes(&self) -> usize {
        self.kept.capacity()
    }

    /// Frees what is no longer needed. To be called when the input is used up, so that a connection that waits between
    /// two requests owns no buffer. (A head's buffer is never worth keeping: nearly every head comes in one piece.)
    pub fn release(&mut self) {
        self.forget_spent();
        if self.failure.is_some() {
            self.kept = Vec::new();
        }
    }

    /// Where the head, or what there is of it, begins in `input`, and where it ends.
    fn find(&mut self, input: &[u8]) -> Result<(usize, Option<usize>), Refused> {
        if let Some(refused) = self.failure {
            return Err(refused);
        }
        let start = self.skip_empty_lines(input)?;
        let input = &input[start..];
        // Bytes beyond the limit stay unseen, so that what is refused first does not depend on how they were cut.
        let room = self.head_bytes_max as usize - self.kept.len();
        match self.scan(&input[..room.min(input.len())])? {
            Some(end) => {
                self.place = Place::Start;
                self.empty_lines = 0;
                self.target_bytes = 0;
                Ok((start, Some(start + end)))
            }
            None if input.len() > room => Err(&HEAD_LENGTH),
            None => Ok((start, None)),
        }
    }

    fn skip_empty_lines(&mut self, input: &[u8]) -> Result<usize, Refused> {
        for (at, &byte) in input.iter().enumerate() {
            self.place = match (self.place, byte) {
                (Place::Start, b'\r') => Place::StartReturn,
                (Place::Start, _) => Place::Method,
                (Place::StartReturn, b'\n') if self.empty_lines == EMPTY_LINES_MAX => {
                    return Err(&EMPTY_LINES);
                }
                (Place::StartReturn, b'\n') => {
                    self.empty_lines += 1;
                    Place::Start
                }
                (Place::StartReturn, _) => return Err(&LINE_END),
                (place, _) => place,
            };
            if !matches!(self.place, Place::Start | Place::StartReturn) {
                return Ok(at);
            }
        }
        Ok(input.len())
    }

    /// Goes on to the end of the head, or of the input.
    fn scan(&mut self, input: &[u8]) -> Result<Option<usize>, Refused> {
        let mut at = 0;
        loop {
            let run_bytes = self.place.run_bytes(&input[at..]);
            if self.place == Place::Target {
                self.target_bytes += run_bytes as u32;
                if self.target_bytes as usize > self.target_bytes_max {
                    return Err(&TARGET_LENGTH);
                }
            }
            at += run_bytes;
            let Some(&byte) = input.get(at) else { return Ok(None) };
            at += 1;
            self.place = self.place.behind(byte)?;
            if self.place == Place::End {
                return Ok(Some(at));
            }
        }
    }

    fn forget_spent(&mut self) {
        if std::mem::take(&mut self.is_spent) {
            self.kept = Vec::new();
        }
    }
}

impl Place {
    /// How many bytes at the front of `rest` belong to this place and change nothing.
    fn run_bytes(self, rest: &[u8]) -> usize {
        let end = match self {
            Place::Method => rest.iter().position(|&byte| !is_token_byte(byte)),
            // A fragment must not be sent (RFC 9112, 3.2), and a URI is ASCII.
            Place::Target => rest.iter().position(|&byte| !byte.is_ascii_graphic() || byte == b'#'),
            Place::Version => rest.iter().position(|&byte| !byte.is_ascii_graphic()),
            // The only one of them that is often longer than a chunk.
            Place::Line => Some(plain_bytes(rest, is_control)),
            _ => Some(0),
        };
        end.unwrap_or(rest.len())
    }

    /// The place behind `byte`, which ends a run.
    fn behind(self, byte: u8) -> Result<Place, Refused> {
        match (self, byte) {
            (Place::Method, b' ') => Ok(Place::Target),
            (Place::Target, b' ') => Ok(Place::Version),
            (Place::Version | Place::Line, b'\r') => Ok(Place::LineReturn),
            (Place::LineReturn, b'\n') => Ok(Place::LineStart),
            (Place::LineStart, b'\r') => Ok(Place::EndReturn),
            (Place::EndReturn, b'\n') => Ok(Place::End),
            (Place::LineStart, b' ' | b'\t') => Err(&FOLDED),
            (_, b'\r' | b'\n') | (Place::LineReturn | Place::EndReturn, _) => Err(&LINE_END),
            (_, byte) if is_control(byte) => Err(&CONTROL),
            (Place::LineStart, _) => Ok(Place::Line),
            (Place::Method, _) => Err(&METHOD),
            (Place::Target, _) => Err(&TARGET),
            (_, _) => Err(&VERSION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    #[test]
    fn a_whole_head_is_borrowed_and_an_idle_decoder_owns_nothing() {
        let mut decoder = HeadDecoder::new(10, 100);
        let input = [b"\r\n", GET, GET].concat();
        let (taken, head) = decoder.decode(&input).unwrap();
        assert_eq!((taken, head.unwrap().method.as_ptr()), (2 + GET.len(), input[2..].as_ptr()));
        assert_eq!(decoder.kept.capacity(), 0);
        assert_eq!(decoder.decode(b"\r"), Ok((1, None)));
        assert!(decoder.is_idle());
        assert_eq!(decoder.kept.capacity(), 0, "an empty line is not kept");
        assert_eq!(decoder.decode(b"\nGET"), Ok((4, None)));
        assert!(!decoder.is_idle());
        decoder.release();
        assert!(decoder.kept_bytes() >= 3, "what is held back is told");
        assert!(matches!(decoder.decode(&GET[3..]), Ok((_, Some(Head { method: "GET", .. })))));
        decoder.release();
        assert_eq!(decoder.kept_bytes(), 0);
        assert!(size_of::<HeadDecoder>() <= 64);
    }

    #[test]
    fn what_cannot_become_a_request_is_refused_at_the_byte_that_shows_it() {
        for (status, head) in [
            (400, &b"\x16"[..]),
            (400, b"GET / HTTP/1.1\n"),
            (400, b"GET / HTTP/1.1\r\nA: b\n"),
            (400, b"GET / HTTP/1.1\r\nA: b\rc"),
            (400, b"GET / HTTP/1.1\r\nA: \0"),
            (400, b"GET / HTTP/1.1\r\n "),
            (400, b"GET /\r"),
            (400, b"GET /#"),
            (400, b"GET /\xc3"),
            (400, b"GET / HTTP/1.1 "),
            (400, b"\r\n\n"),
            (400, b"\rG"),
            (400, b"\r\n\r\n\r\n\r\n\r\n"),
            (414, b"GET /123456789a"),
        ] {
            let text = head.escape_ascii().to_string();
            let mut decoder = HeadDecoder::new(10, 100);
            let (last, front) = head.split_last().unwrap();
            assert_eq!(decoder.decode(front), Ok((front.len(), None)), "{text}");
            let error = decoder.decode(&[*last]).unwrap_err();
            assert_eq!(error.status, status, "{text}");
            decoder.release();
            assert_eq!(decoder.kept.capacity(), 0);
            assert_eq!(decoder.decode(GET), Err(error), "an error is final");
        }
    }

    #[test]
    fn a_head_may_be_exactly_as_long_as_the_limit() {
        assert!(HeadDecoder::new(1, GET.len()).decode(GET).is_ok());
        let mut decoder = HeadDecoder::new(1, GET.len() - 1);
        assert_eq!(decoder.decode(GET).unwrap_err().status, 431);
        let mut decoder = HeadDecoder::new(1, GET.len() - 1);
        assert_eq!(decoder.decode(&GET[..GET.len() - 1]), Ok((GET.len() - 1, None)));
        assert_eq!(decoder.decode(b"\n").unwrap_err().status, 431);
    }

    #[test]
    fn a_control_character_is_named_wherever_it_stands() {
        for head in
            ["G\0", "GET /\x1b", "GET / HTTP/1.1\x7f", "GET / HTTP/1.1\r\n\0", "GET / HTTP/1.1\r\nA: \0"]
        {
            let error = HeadDecoder::new(10, 100).decode(head.as_bytes()).unwrap_err();
            assert_eq!(error, CONTROL, "{head:?}");
        }
    }

    #[test]
    fn a_head_that_is_refused_is_known_for_one() {
        for (is_head, text) in [
            (true, "HEAD / HTTP/1.1\n"),
            (true, "\r\nHEAD / HTTP/1.1\r\n folded"),
            (true, "HEAD / HTTP/1.1\r\n\r\n"),
            (true, "HEAD /12345678901"),
            (false, "HEADS / HTTP/1.1\r\n\r\n"),
            (false, "GET /HEAD HTTP/1.1\r\n\r\n"),
            (false, "\n"),
        ] {
            for cut in 0..text.len() {
                let mut decoder = HeadDecoder::new(10, 100);
                let (front, back) = text.as_bytes().split_at(cut);
                let _ = decoder.decode(front);
                assert!(decoder.decode(back).is_err(), "{text:?}");
                assert_eq!(decoder.has_refused_head(), is_head, "{text:?} cut at {cut}");
            }
        }
    }
}
