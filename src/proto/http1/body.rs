//! A request's body: counted bytes, or chunks (RFC 9112, 7.1) read with no tolerance at all, since a body whose end two
//! readers see in different places is how requests are smuggled.

use super::{Body, HttpError, Refused, is_control, is_token_byte};

/// Digits of a chunk's size: as many as a 64-bit number has, so that no size can overflow.
const SIZE_DIGITS_MAX: u8 = 16;

/// Bytes of chunk extensions in a body. They mean nothing here. Together with the digits' limit and that of the
/// content, every part of a body's framing is bounded.
const EXTENSION_BYTES_MAX: u16 = 4096;

/// Bytes of trailers, which are checked and dropped.
const TRAILER_BYTES_MAX: u16 = 4096;

static TOO_LONG: HttpError = HttpError { status: 413, message: "the content is too long" };
static CHUNK_SIZE: HttpError = HttpError { status: 400, message: "a chunk's size is malformed" };
static CHUNK_EXTENSION: HttpError = HttpError { status: 400, message: "a chunk's extension is malformed" };
static EXTENSION_LENGTH: HttpError = HttpError { status: 400, message: "the chunk extensions are too long" };
static CHUNK_END: HttpError = HttpError { status: 400, message: "a chunk does not end where its size says" };
static TRAILER: HttpError = HttpError { status: 400, message: "a trailer is malformed" };
static TRAILER_LENGTH: HttpError = HttpError { status: 431, message: "the trailers are too long" };

/// A part of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of the content, cut as they came.
    Data(&'a [u8]),
    /// The body is complete. What follows is the next request.
    End,
}

/// Decodes one body. It owns no memory: the content is handed on as it comes.
#[derive(Debug)]
pub struct BodyDecoder {
    stage: Stage,
    /// Bytes that the content may still grow by.
    room: u64,
    extension_bytes: u16,
    trailer_bytes: u16,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Within a body of known length, of which so much is missing.
    Counted {
        missing: u64,
    },
    /// Within the size of a chunk.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a size, in white space that only an extension may follow.
    Gap {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// Behind the CR of a size.
    SizeReturn {
        size: u64,
    },
    /// Within a chunk's content.
    Chunk {
        missing: u64,
    },
    /// Behind it.
    ChunkEnd,
    ChunkReturn,
    /// Behind the last chunk: a trailer, or the empty line that ends the body.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerReturn,
    EndReturn,
    Done,
    Failed(Refused),
}

impl BodyDecoder {
    /// A decoder of the body that a head announces, of at most `limit_bytes` of content. A body announced to be longer
    /// is refused by the first call, which may be made with no input.
    pub fn new(body: Body, limit_bytes: u64) -> BodyDecoder {
        let stage = match body {
            Body::None | Body::Length(0) => Stage::Done,
            Body::Length(length) if length > limit_bytes => Stage::Failed(&TOO_LONG),
            Body::Length(length) => Stage::Counted { missing: length },
            Body::Chunked => Stage::Size { size: 0, digits: 0 },
        };
        BodyDecoder { stage, room: limit_bytes, extension_bytes: 0, trailer_bytes: 0 }
    }

    /// Takes bytes from the front of `input` up to the end of a piece; returns how many, and the piece. Without a piece
    /// all of `input` was taken. Behind the end nothing is taken and [`Piece::End`] is returned again.
    ///
    /// After an error every further call returns the same one.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Piece<'a>>), HttpError> {
        let mut at = 0;
        loop {
            match self.stage {
                Stage::Done => return Ok((at, Some(Piece::End))),
                Stage::Failed(refused) => return Err(*refused),
                // An empty body never gets here, so that this cannot be an empty piece of it.
                Stage::Counted { missing } | Stage::Chunk { missing } if at < input.len() => {
                    let piece = &input[at..];
                    let piece = &piece[..piece.len().min(usize::try_from(missing).unwrap_or(usize::MAX))];
                    self.stage = self.stage.less(piece.len() as u64);
                    return Ok((at + piece.len(), Some(Piece::Data(piece))));
                }
                _ => {}
            }
            let Some(&byte) = input.get(at) else { return Ok((at, None)) };
            at += 1;
            self.stage = self.behind(byte).unwrap_or_else(Stage::Failed);
        }
    }

    /// Whether the whole body has been decoded.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// The stage behind a byte of the framing.
    fn behind(&mut self, byte: u8) -> Result<Stage, Refused> {
        Ok(match (self.stage, byte) {
            (Stage::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(&CHUNK_SIZE);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Stage::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Stage::Size { digits: 0, .. }, _) => return Err(&CHUNK_SIZE),
            (Stage::Size { size, .. }, b'\r' | b';' | b' ' | b'\t') => {
                self.room = self.room.checked_sub(size).ok_or(&TOO_LONG)?;
                match byte {
                    b'\r' => Stage::SizeReturn { size },
                    b';' => Stage::Extension { size },
                    _ => Stage::Gap { size },
                }
            }
            (Stage::Size { .. }, _) => return Err(&CHUNK_SIZE),
            (Stage::Gap { size }, b' ' | b'\t' | b';') => {
                count(&mut self.extension_bytes, EXTENSION_BYTES_MAX, &EXTENSION_LENGTH)?;
                if byte == b';' { Stage::Extension { size } } else { Stage::Gap { size } }
            }
            (Stage::Gap { .. }, _) => return Err(&CHUNK_SIZE),
            (Stage::Extension { size }, b'\r') => Stage::SizeReturn { size },
            (Stage::Extension { .. }, _) if is_control(byte) => return Err(&CHUNK_EXTENSION),
            (Stage::Extension { .. }, _) => {
                count(&mut self.extension_bytes, EXTENSION_BYTES_MAX, &EXTENSION_LENGTH)?;
                self.stage
            }
            (Stage::SizeReturn { size: 0 }, b'\n') => Stage::TrailerStart,
            (Stage::SizeReturn { size }, b'\n') => Stage::Chunk { missing: size },
            (Stage::SizeReturn { .. }, _) => return Err(&CHUNK_SIZE),
            (Stage::ChunkEnd, b'\r') => Stage::ChunkReturn,
            (Stage::ChunkReturn, b'\n') => Stage::Size { size: 0, digits: 0 },
            (Stage::ChunkEnd | Stage::ChunkReturn, _) => return Err(&CHUNK_END),
            (Stage::TrailerStart, b'\r') => Stage::EndReturn,
            (Stage::EndReturn, b'\n') => Stage::Done,
            (trailer, _) => {
                count(&mut self.trailer_bytes, TRAILER_BYTES_MAX, &TRAILER_LENGTH)?;
                match (trailer, byte) {
                    (Stage::TrailerStart | Stage::TrailerName, _) if is_token_byte(byte) => {
                        Stage::TrailerName
                    }
                    (Stage::TrailerName, b':') => Stage::TrailerValue,
                    (Stage::TrailerValue, b'\r') => Stage::TrailerReturn,
                    (Stage::TrailerValue, _) if !is_control(byte) => Stage::TrailerValue,
                    (Stage::TrailerReturn, b'\n') => Stage::TrailerStart,
                    _ => return Err(&TRAILER),
                }
            }
        })
    }
}

impl Stage {
    /// The stage behind so many bytes of content.
    fn less(self, bytes: u64) -> Stage {
        match self {
            Stage::Counted { missing } if missing == bytes => Stage::Done,
            Stage::Counted { missing } => Stage::Counted { missing: missing - bytes },
            Stage::Chunk { missing } if missing == bytes => Stage::ChunkEnd,
            Stage::Chunk { missing } => Stage::Chunk { missing: missing - bytes },
            other => other,
        }
    }
}

fn count(bytes: &mut u16, bytes_max: u16, refused: Refused) -> Result<(), Refused> {
    if *bytes == bytes_max {
        return Err(refused);
    }
    *bytes += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, how many bytes the body took, or the status it is refused with, for every chunk size alike.
    fn decoded(body: Body, limit_bytes: u64, input: &[u8]) -> Result<(Vec<u8>, usize), u16> {
        let outcome = decoded_in(body, limit_bytes, input, input.len().max(1));
        for chunk_bytes in 1..input.len().min(40) {
            assert_eq!(
                decoded_in(body, limit_bytes, input, chunk_bytes),
                outcome,
                "in chunks of {chunk_bytes}"
            );
        }
        outcome
    }

    fn decoded_in(
        body: Body,
        limit_bytes: u64,
        input: &[u8],
        chunk_bytes: usize,
    ) -> Result<(Vec<u8>, usize), u16> {
        let mut decoder = BodyDecoder::new(body, limit_bytes);
        let (mut content, mut taken_bytes) = (Vec::new(), 0);
        // The empty chunk at the front: a body without content must end without input.
        for chunk in [&[][..]].into_iter().chain(input.chunks(chunk_bytes)) {
            let mut at = 0;
            loop {
                let (taken, piece) = decoder.decode(&chunk[at..]).map_err(|error| error.status)?;
                at += taken;
                taken_bytes += taken;
                match piece {
                    Some(Piece::Data(data)) => content.extend_from_slice(data),
                    Some(Piece::End) => {
                        assert!(decoder.is_done());
                        return Ok((content, taken_bytes));
                    }
                    None => {
                        assert!(!decoder.is_done());
                        break;
                    }
                }
            }
            assert_eq!(at, chunk.len());
        }
        Err(0)
    }

    #[test]
    fn a_counted_body_ends_where_its_length_says() {
        assert_eq!(decoded(Body::None, 0, b"GET"), Ok((vec![], 0)));
        assert_eq!(decoded(Body::Length(5), 5, b"helloGET"), Ok((b"hello".to_vec(), 5)));
        assert_eq!(decoded(Body::Length(5), 5, b"hell"), Err(0));
        assert_eq!(decoded(Body::Length(6), 5, b""), Err(413));
    }

    #[test]
    fn chunks_are_joined_and_extensions_and_trailers_dropped() {
        for input in [
            "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            "00000000000000B\r\nhello world\r\n000\r\n\r\n",
            "b;name=\"a;b\";x\r\nhello world\r\n0;last\r\n\r\n",
            "b \t; name\r\nhello world\r\n0\r\nA: b\r\nB-c:\r\n\r\n",
        ] {
            let body = [input.as_bytes(), b"GET / HTTP/1.1"].concat();
            assert_eq!(
                decoded(Body::Chunked, 11, &body),
                Ok((b"hello world".to_vec(), input.len())),
                "{input}"
            );
        }
    }

    #[test]
    fn a_chunk_has_as_many_bytes_as_its_size_says() {
        for size in [0xF, 0x10, 0x1A, 0xFF, 0x100, 0x2B7] {
            let content = vec![b'c'; size];
            let body = [format!("{size:x}\r\n").as_bytes(), &content, b"\r\n0\r\n\r\n"].concat();
            assert_eq!(decoded(Body::Chunked, 1000, &body), Ok((content, body.len())), "{size}");
        }
    }

    #[test]
    fn anything_loose_in_the_framing_is_refused() {
        for (status, input) in [
            (400, &b"\r\n"[..]),
            (400, b" 5\r\nhello\r\n"),
            (400, b"0x5\r\nhello\r\n"),
            (400, b"+5\r\nhello\r\n"),
            (400, b"-1\r\n"),
            (400, b"5 \r\nhello\r\n"),
            (400, b"5 \t\r\nhello\r\n"),
            (400, b"5 \tx\r\nhello\r\n"),
            (400, b"5\nhello\r\n"),
            (400, b"5\rhello\r\n"),
            (400, b"5\r\nhello\n"),
            (400, b"5\r\nhelloo\r\n"),
            (400, b"5\r\nhello\rx"),
            (400, b"5;a\nb\r\nhello"),
            (400, b"5;a\rb\r\nhello"),
            (400, b"5;a\0\r\n"),
            (400, b"00000000000000005\r\nhello\r\n"),
            (413, b"FFFFFFFFFFFFFFFF\r\n"),
            (413, b"b\r\nhello world\r\n1\r\n"),
            (413, b"c\r\n"),
            (400, b"0\r\n\n"),
            (400, b"0\r\n\rx"),
            (400, b"0\r\n folded: x\r\n\r\n"),
            (400, b"0\r\nname : x\r\n\r\n"),
            (400, b"0\r\n: x\r\n\r\n"),
            (400, b"0\r\nname\r\n\r\n"),
            (400, b"0\r\nname: x\n\r\n"),
            (400, b"0\r\nname: \0\r\n\r\n"),
            (0, b"5\r\nhello\r\n0\r\n"),
        ] {
            assert_eq!(
                decoded(Body::Chunked, 11, input),
                Err(status),
                "{:?}",
                input.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn the_framing_is_bounded() {
        let extension = |length| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(length)).into_bytes();
        assert!(decoded(Body::Chunked, 1, &extension(4096)).is_ok());
        assert_eq!(decoded(Body::Chunked, 1, &extension(4097)), Err(400));
        let many_extensions = "1;abcdefgh\r\nx\r\n".repeat(1000);
        assert_eq!(decoded(Body::Chunked, 1 << 20, many_extensions.as_bytes()), Err(400));
        let trailer = |length| format!("0\r\na:{}\r\n\r\n", "t".repeat(length)).into_bytes();
        assert!(decoded(Body::Chunked, 1, &trailer(4092)).is_ok());
        assert_eq!(decoded(Body::Chunked, 1, &trailer(4093)), Err(431));
    }

    #[test]
    fn an_error_is_final_and_the_decoder_small() {
        let mut decoder = BodyDecoder::new(Body::Chunked, 1);
        let error = decoder.decode(b"x").unwrap_err();
        assert_eq!(decoder.decode(b"1\r\n"), Err(error));
        assert!(size_of::<BodyDecoder>() <= 64);
    }
}
