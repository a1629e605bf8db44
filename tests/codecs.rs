//! The codecs against their contract: whatever the bytes and however they are cut, the same is told; and against
//! libraries that others wrote.

use proptest::collection::vec;
use proptest::prelude::*;
use starling::proto::frame::{self, Frame as BinaryFrame};
use starling::proto::http1::{self, BodyDecoder, HeadDecoder, Piece};
use starling::proto::line::{self, Telnet};
use starling::proto::websocket::{self, Item};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

const LINE_LIMIT: usize = 20;
const TARGET_LIMIT: usize = 30;
const HEAD_LIMIT: usize = 300;
const CONTENT_LIMIT: u64 = 40;
const MESSAGE_LIMIT: usize = 300;
const FRAGMENTS_LIMIT: u32 = 5;

/// What all decoders have in common, their items told as text.
trait Codec {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String>;
    fn release(&mut self);
}

impl Codec for line::Decoder {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let (taken, line) = self.decode(input);
        Ok((taken, line.map(|line| format!("{line:?}"))))
    }

    fn release(&mut self) {
        self.release();
    }
}

impl Codec for websocket::Decoder {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let (taken, item) = self.decode(input).map_err(|violation| format!("{violation:?}"))?;
        Ok((taken, item.map(|item| format!("{item:?}"))))
    }

    fn release(&mut self) {
        self.release();
    }
}

impl Codec for frame::Decoder {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let (taken, frame) = self.decode(input).map_err(|violation| format!("{violation:?}"))?;
        Ok((taken, frame.map(|frame| format!("{frame:?}"))))
    }

    fn release(&mut self) {
        self.release();
    }
}

/// Requests one after the other, as a server reads them: a head, then its body.
struct Requests {
    heads: HeadDecoder,
    /// The body under way, behind the head it belongs to.
    body: Option<(String, BodyDecoder, Vec<u8>)>,
}

impl Requests {
    fn new() -> Requests {
        Requests { heads: HeadDecoder::new(TARGET_LIMIT, HEAD_LIMIT), body: None }
    }
}

impl Codec for Requests {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let mut at = 0;
        loop {
            let Some((head, body, content)) = &mut self.body else {
                let (taken, head) = self.heads.decode(&input[at..]).map_err(|error| format!("{error:?}"))?;
                at += taken;
                let Some(head) = head else { return Ok((at, None)) };
                let body = BodyDecoder::new(head.body, CONTENT_LIMIT);
                self.body = Some((format!("{head:?}"), body, Vec::new()));
                continue;
            };
            let (taken, piece) = body.decode(&input[at..]).map_err(|error| format!("{error:?}"))?;
            at += taken;
            match piece {
                Some(Piece::Data(data)) => content.extend_from_slice(data),
                Some(Piece::End) => {
                    let request = format!("{head} {content:?}");
                    self.body = None;
                    return Ok((at, Some(request)));
                }
                None => return Ok((at, None)),
            }
        }
    }

    fn release(&mut self) {
        self.heads.release();
    }
}

/// All that a codec tells of `input`, which comes in chunks of `sizes` over and over. An error is the last thing told,
/// and must stay the last.
fn told(mut codec: impl Codec, input: &[u8], sizes: &[usize]) -> Vec<String> {
    let mut told = Vec::new();
    let mut rest = input;
    for size in sizes.iter().cycle() {
        let (chunk, behind) = rest.split_at((*size).min(rest.len()));
        let mut chunk = chunk.to_vec();
        let mut at = 0;
        while at < chunk.len() {
            let chunk_bytes = chunk.len();
            match codec.step(&mut chunk[at..]) {
                Ok((taken, item)) => {
                    at += taken;
                    assert!(item.is_some() || at == chunk_bytes, "without an item all is taken");
                    told.extend(item);
                }
                Err(error) => {
                    codec.release();
                    assert_eq!(codec.step(&mut [b'a'; 9]), Err(error.clone()), "an error is final");
                    told.push(error);
                    return told;
                }
            }
        }
        codec.release();
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    told
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), vec(1..8usize, 1..6), vec(1..100usize, 1..6)]
}

/// Bytes changed, dropped or doubled in a valid stream: garbage that gets further than noise does.
fn damaged(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (valid, vec((any::<prop::sample::Index>(), any::<u8>(), 0..8u8), 0..3)).prop_map(
        |(mut bytes, damages)| {
            for (at, byte, kind) in damages {
                if bytes.is_empty() {
                    continue;
                }
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, byte),
                    3 => bytes[at] ^= 1 << (byte % 8),
                    4 => bytes.truncate(at),
                    5 => bytes.insert(at, b"\r\n \t\0,;:"[usize::from(byte % 8)]),
                    _ => {}
                }
            }
            bytes
        },
    )
}

// Lines

fn line_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![2 => Just(b'\n'), 2 => Just(b'\r'), 20 => any::<u8>()], 0..200)
}

/// Lines as the standard library splits them.
fn expected_lines(input: &[u8]) -> Vec<String> {
    let mut lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let rest = lines.pop().unwrap_or_default();
    let without_return = |line| <[u8]>::strip_suffix(line, b"\r").unwrap_or(line);
    let mut told: Vec<_> = lines
        .into_iter()
        .map(without_return)
        .map(|line| if line.len() > LINE_LIMIT { line::Line::TooLong } else { line::Line::Text(line) })
        .map(|line| format!("{line:?}"))
        .collect();
    if without_return(rest).len() > LINE_LIMIT {
        told.push(format!("{:?}", line::Line::TooLong));
    }
    told
}

/// Telnet's text, as a parser finds it that has everything before it (RFC 854, 855).
fn expected_text(input: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut rest = input;
    loop {
        rest = match rest {
            [255, 255, rest @ ..] => {
                text.push(255);
                rest
            }
            [255, 250, inner @ ..] => {
                let mut inner = inner;
                loop {
                    inner = match inner {
                        [255, 240, rest @ ..] => break rest,
                        [255, _, rest @ ..] | [_, rest @ ..] => rest,
                        [] => return text,
                    };
                }
            }
            [255, 251..=254, _, rest @ ..] => rest,
            [255, 251..=254] | [255] | [] => return text,
            [255, _, rest @ ..] => rest,
            [byte, rest @ ..] => {
                text.push(*byte);
                rest
            }
        };
    }
}

proptest! {
    #[test]
    fn lines_are_those_of_the_standard_library_however_they_are_cut(input in line_bytes(), sizes in sizes()) {
        prop_assert_eq!(told(line::Decoder::new(LINE_LIMIT), &input, &sizes), expected_lines(&input));
    }

    #[test]
    fn telnet_leaves_the_same_text_however_it_is_cut(
        input in vec(prop_oneof![3 => Just(255), 2 => 240..=255u8, 4 => any::<u8>()], 0..100),
        sizes in sizes(),
    ) {
        let mut telnet = Telnet::default();
        let mut text = Vec::new();
        let mut rest = &input[..];
        for size in sizes.iter().cycle().take(input.len()) {
            let (chunk, behind) = rest.split_at((*size).min(rest.len()));
            let mut chunk = chunk.to_vec();
            let text_bytes = telnet.filter(&mut chunk);
            text.extend_from_slice(&chunk[..text_bytes]);
            rest = behind;
        }
        prop_assert_eq!(text, expected_text(&input));
    }
}

// WebSocket

/// A message in fragments, or a control frame, as tungstenite writes it for a client.
fn client_frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = || prop_oneof![vec(any::<u8>(), 0..200), "\\PC{0,60}".prop_map(String::into_bytes)];
    let message = (any::<bool>(), vec((payload(), any::<[u8; 4]>()), 1..4));
    let control = (0..3u8, vec(any::<u8>(), 0..126), any::<[u8; 4]>());
    prop_oneof![
        6 => message.prop_map(|(is_text, fragments)| {
            let last = fragments.len() - 1;
            let data = |at| match (at, is_text) {
                (0, true) => Data::Text,
                (0, false) => Data::Binary,
                _ => Data::Continue,
            };
            let frames = fragments.into_iter().enumerate();
            frames
                .flat_map(|(at, (payload, mask))| client_frame(OpCode::Data(data(at)), at == last, payload, mask))
                .collect()
        }),
        3 => control.prop_map(|(kind, payload, mask)| {
            let control = [Control::Ping, Control::Pong, Control::Close][usize::from(kind)];
            client_frame(OpCode::Control(control), true, payload, mask)
        }),
    ]
}

fn client_frame(opcode: OpCode, is_final: bool, payload: Vec<u8>, mask: [u8; 4]) -> Vec<u8> {
    let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
    let mut bytes = Vec::new();
    Frame::from_payload(header, payload.into()).format(&mut bytes).expect("a vector takes everything");
    bytes
}

fn client_stream() -> impl Strategy<Value = Vec<u8>> {
    vec(client_frames(), 1..6).prop_map(|frames| frames.concat())
}

fn websocket_decoder() -> websocket::Decoder {
    websocket::Decoder::new(MESSAGE_LIMIT, FRAGMENTS_LIMIT)
}

/// What came before the end of a stream: a reader that then has nothing, and a writer to nowhere.
struct Stream<'a>(&'a [u8]);

impl std::io::Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() { Err(std::io::ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
    }
}

impl std::io::Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The messages that tungstenite's server reads, as items, and whether it then found a violation.
fn told_by_tungstenite(input: &[u8]) -> (Vec<String>, bool) {
    use tungstenite::{Error, Message, protocol::Role, protocol::WebSocketConfig};
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    let mut server = tungstenite::WebSocket::from_raw_socket(Stream(input), Role::Server, Some(config));
    let mut told = Vec::new();
    loop {
        let message = match server.read() {
            Ok(message) => message,
            Err(Error::Io(_) | Error::ConnectionClosed) => return (told, false),
            Err(_) => return (told, true),
        };
        told.push(match &message {
            Message::Text(text) => format!("{:?}", Item::Text(text)),
            Message::Binary(bytes) => format!("{:?}", Item::Binary(bytes)),
            Message::Ping(bytes) => format!("{:?}", Item::Ping(bytes)),
            Message::Pong(bytes) => format!("{:?}", Item::Pong(bytes)),
            Message::Close(None) => format!("{:?}", Item::Close { code: None, reason: "" }),
            Message::Close(Some(frame)) => {
                format!("{:?}", Item::Close { code: Some(frame.code.into()), reason: &frame.reason })
            }
            Message::Frame(_) => unreachable!("reading yields no raw frames"),
        });
        if message.is_close() {
            return (told, false);
        }
    }
}

proptest! {
    #[test]
    fn websocket_tells_the_same_however_it_is_cut(
        input in prop_oneof![3 => damaged(client_stream()), 1 => vec(any::<u8>(), 0..100)],
        sizes in sizes(),
    ) {
        let whole = told(websocket_decoder(), &input, &[usize::MAX]);
        prop_assert_eq!(told(websocket_decoder(), &input, &sizes), whole);
    }

    /// What tungstenite refuses is refused, and what is not refused is told as tungstenite tells it. (It lets through
    /// what is refused here: long forms of lengths, codes that must not be sent, too many fragments.)
    #[test]
    fn websocket_agrees_with_tungstenite(input in damaged(client_stream())) {
        let mut told = told(websocket_decoder(), &input, &[usize::MAX]);
        let is_refused = told.last().is_some_and(|last| last.starts_with("Violation"));
        told.truncate(told.len() - usize::from(is_refused));
        let (expected, is_refused_there) = told_by_tungstenite(&input);
        prop_assert!(is_refused || !is_refused_there, "{expected:?}");
        prop_assert_eq!(&told[..], &expected[..told.len().min(expected.len())]);
        prop_assert!(is_refused || told.len() == expected.len(), "{expected:?}");
    }

    #[test]
    fn tungstenite_reads_what_is_written(
        payload in vec(any::<u8>(), 0..70_000),
        text in "\\PC{0,200}",
        code in 1000..1004u16,
    ) {
        let mut out = Vec::new();
        websocket::put_binary(&mut out, &payload);
        websocket::put_text(&mut out, text.as_bytes());
        websocket::put_ping(&mut out, &payload[..payload.len().min(125)]);
        websocket::put_pong(&mut out, b"");
        websocket::put_close(&mut out, Some(code), &text);
        let mut client =
            tungstenite::WebSocket::from_raw_socket(Stream(&out), tungstenite::protocol::Role::Client, None);
        let mut read = || client.read().expect("a frame");
        prop_assert_eq!(&read().into_data()[..], &payload[..]);
        prop_assert_eq!(read().into_text().expect("text").to_string(), text.clone());
        prop_assert_eq!(&read().into_data()[..], &payload[..payload.len().min(125)]);
        prop_assert!(read().is_pong());
        let tungstenite::Message::Close(Some(close)) = read() else { panic!("a close frame") };
        prop_assert_eq!(u16::from(close.code), code);
        prop_assert!(text.starts_with(close.reason.as_str()) && close.reason.len() + 3 >= text.len().min(123));
    }

    /// A text fails at the very byte with which the standard library finds that no text can begin so.
    #[test]
    fn invalid_text_fails_at_its_first_wrong_byte(
        text in damaged("\\PC{1,40}".prop_map(String::into_bytes)),
        fragment_bytes in 1..50usize,
    ) {
        let mut decoder = websocket::Decoder::new(1000, 1000);
        let mut expected_failure = (1..=text.len()).find(|&count| {
            std::str::from_utf8(&text[..count]).is_err_and(|error| error.error_len().is_some())
        });
        let mut fed_bytes = 0;
        'text: for (at, fragment) in text.chunks(fragment_bytes).enumerate() {
            let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
            let mut frame = client_frame(opcode, false, fragment.to_vec(), [1, 2, 3, 4]);
            let header_bytes = frame.len() - fragment.len();
            prop_assert_eq!(decoder.decode(&mut frame[..header_bytes]), Ok((header_bytes, None)));
            for byte in &mut frame[header_bytes..] {
                fed_bytes += 1;
                if let Err(violation) = decoder.decode(std::slice::from_mut(byte)) {
                    prop_assert_eq!(violation.code, 1007);
                    prop_assert_eq!(expected_failure.take(), Some(fed_bytes));
                    break 'text;
                }
            }
        }
        prop_assert_eq!(expected_failure, None);
    }
}

#[test]
fn a_message_may_come_in_65536_fragments_and_no_more() {
    const FRAGMENTS: u32 = 65_536;
    let fragment = |opcode, is_final| client_frame(OpCode::Data(opcode), is_final, b"x".to_vec(), [0; 4]);
    let mut stream = fragment(Data::Text, false);
    for _ in 2..FRAGMENTS {
        stream.extend(fragment(Data::Continue, false));
    }
    let mut too_many = stream.clone();
    stream.extend(fragment(Data::Continue, true));
    let mut decoder = websocket::Decoder::new(1 << 24, FRAGMENTS);
    let (taken, item) = decoder.decode(&mut stream).expect("a message");
    assert_eq!(item, Some(Item::Text(&"x".repeat(65_536))));
    assert_eq!(taken, 7 * 65_536);

    too_many.extend([fragment(Data::Continue, false), fragment(Data::Continue, true)].concat());
    let mut decoder = websocket::Decoder::new(1 << 24, FRAGMENTS);
    assert_eq!(decoder.decode(&mut too_many).expect_err("one too many").code, 1009);
}

// Binary frames

/// A frame's encoding, kind and payload.
fn binary_frame() -> impl Strategy<Value = (u8, u8, Vec<u8>)> {
    (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..60))
}

fn binary_stream(frames: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (encoding, kind, payload) in frames {
        frame::put(&mut stream, *encoding, *kind, payload);
    }
    stream
}

proptest! {
    #[test]
    fn binary_frames_tell_the_same_however_they_are_cut(
        input in prop_oneof![
            6 => damaged(vec(binary_frame(), 0..6).prop_map(|frames| binary_stream(&frames))),
            1 => vec(any::<u8>(), 0..60),
        ],
        sizes in sizes(),
    ) {
        let whole = told(frame::Decoder::new(50), &input, &[usize::MAX]);
        prop_assert_eq!(told(frame::Decoder::new(50), &input, &sizes), whole);
    }

    #[test]
    fn binary_frames_come_back_as_they_were_put(frames in vec(binary_frame(), 0..6), sizes in sizes()) {
        let expected: Vec<String> = frames
            .iter()
            .map(|(encoding, kind, payload)| {
                format!("{:?}", BinaryFrame { encoding: *encoding, kind: *kind, payload })
            })
            .collect();
        prop_assert_eq!(told(frame::Decoder::new(60), &binary_stream(&frames), &sizes), expected);
    }

    #[test]
    fn a_binary_frame_cut_short_is_waited_for((encoding, kind, payload) in binary_frame()) {
        let stream = binary_stream(&[(encoding, kind, payload.clone())]);
        for cut in 0..stream.len() {
            let mut decoder = frame::Decoder::new(60);
            prop_assert_eq!(decoder.decode(&stream[..cut]), Ok((cut, None)));
            decoder.release();
            let expected = BinaryFrame { encoding, kind, payload: &payload };
            prop_assert_eq!(decoder.decode(&stream[cut..]), Ok((stream.len() - cut, Some(expected))));
        }
    }

    /// Another byte in a header is a violation, another kind or encoding, or another length: a longer one is waited for,
    /// and behind a shorter one stands no frame.
    #[test]
    fn a_damaged_header_is_noticed((encoding, kind, payload) in binary_frame(), flipped in 1..=u8::MAX) {
        // No byte that a frame begins with.
        let payload: Vec<u8> = payload.into_iter().map(|byte| byte & 0x7F).collect();
        let whole = binary_stream(&[(encoding, kind, payload.clone())]);
        for at in 0..frame::HEADER_BYTES {
            let mut stream = whole.clone();
            stream[at] ^= flipped;
            let mut decoder = frame::Decoder::new(60);
            let told = decoder.decode(&stream);
            match at {
                0..4 => prop_assert_eq!(told, Err(frame::Violation::Magic)),
                4 => prop_assert_eq!(told, Err(frame::Violation::Version)),
                5..9 => match told {
                    Ok((taken, None)) => prop_assert_eq!(taken, stream.len()),
                    Ok((taken, Some(frame))) => {
                        prop_assert!(frame.payload.len() < payload.len());
                        prop_assert_eq!(decoder.decode(&stream[taken..]), Err(frame::Violation::Magic));
                    }
                    Err(violation) => prop_assert_eq!(violation, frame::Violation::TooLarge),
                },
                _ => {
                    let (_, frame) = told.expect("a frame");
                    let frame = frame.expect("a frame");
                    prop_assert_eq!(frame.payload, &payload[..]);
                    prop_assert_ne!((frame.encoding, frame.kind), (encoding, kind));
                }
            }
        }
    }
}

// HTTP

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("OPTIONS"), Just("BREW")];
    let target = prop_oneof![
        4 => "/[a-z0-9/%._-]{0,12}([?][a-z=&%+]{0,8})?",
        1 => Just("http://other:80/x?y".to_owned()),
        1 => Just("*".to_owned()),
    ];
    let field = prop_oneof![
        3 => "[A-Za-z-]{1,12}:[ \t]{0,2}[ -~]{0,20}[ \t]{0,2}",
        1 => Just("Connection: keep-alive, close".to_owned()),
        1 => Just("Expect: 100-continue".to_owned()),
        1 => Just("X-Request-Id: abc".to_owned()),
        1 => Just("Origin: null".to_owned()),
    ];
    let body = prop_oneof![
        4 => Just((None, String::new())),
        3 => "[a-z\r\n]{0,45}".prop_map(|content| (Some(format!("Content-Length: {}", content.len())), content)),
        3 => vec("[a-z\r\n]{1,19}", 0..3).prop_map(|chunks| {
            let chunks = chunks.iter().map(|chunk| format!("{:X};a=b\r\n{chunk}\r\n", chunk.len())).collect::<String>();
            (Some("Transfer-Encoding: chunked".to_owned()), chunks + "0\r\nTrailer: x\r\n\r\n")
        }),
    ];
    (
        0..2u8,
        method,
        target,
        prop_oneof![6 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0")],
        vec(field, 0..4),
        body,
    )
        .prop_map(|(empty_lines, method, target, version, mut fields, (body_field, content))| {
            fields.push("Host: example.org:8080".to_owned());
            fields.extend(body_field);
            let lead = "\r\n".repeat(empty_lines.into());
            format!("{lead}{method} {target} {version}\r\n{}\r\n\r\n{content}", fields.join("\r\n"))
                .into_bytes()
        })
}

proptest! {
    #[test]
    fn http_tells_the_same_however_it_is_cut(
        input in prop_oneof![
            6 => damaged(vec(request(), 1..4).prop_map(|requests| requests.concat())),
            1 => vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..60),
        ],
        sizes in sizes(),
    ) {
        let whole = told(Requests::new(), &input, &[usize::MAX]);
        prop_assert_eq!(told(Requests::new(), &input, &sizes), whole);
    }

    /// A head that is accepted is one that httparse accepts, with the same fields.
    #[test]
    fn fields_are_those_that_httparse_finds(input in damaged(request())) {
        let mut decoder = HeadDecoder::new(TARGET_LIMIT, HEAD_LIMIT);
        if let Ok((taken, Some(head))) = decoder.decode(&input) {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            prop_assert_eq!(request.parse(&input), Ok(httparse::Status::Complete(taken)));
            prop_assert_eq!((request.method, request.path), (Some(head.method), Some(head.target)));
            let expected: Vec<_> = request.headers.iter().map(|field| (field.name.as_bytes(), field.value.trim_ascii())).collect();
            prop_assert_eq!(head.headers().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn percent_decoding_reverses_encoding_and_never_panics(text in "\\PC{0,30}", garbage in "[%a-f0-9+é]{0,20}") {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        prop_assert_eq!(http1::percent_decode(&encoded), Some(text));
        let _ = http1::query_pairs(&garbage);
    }
}

/// The status that a stream of requests is refused with, or 0, and how many requests were read before.
fn refusal(input: &[u8]) -> (u16, usize) {
    let told = told(Requests::new(), input, &[usize::MAX]);
    assert_eq!(told, self::told(Requests::new(), input, &[1]));
    let status = told.last().and_then(|last| last.strip_prefix("HttpError { status: "));
    match status {
        Some(status) => (status[..3].parse().expect("a status"), told.len() - 1),
        None => (0, told.len()),
    }
}

#[test]
fn requests_that_two_readers_could_read_differently_are_refused() {
    let many_fields = |count| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a:\r\n".repeat(count));
    for (status, request) in [
        // Lengths and codings.
        (
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5 0\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\nhello"),
        (413, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551615\r\n\r\nhello"),
        (413, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 41\r\n\r\n"),
        (
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        ),
        (400, "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding\t: chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\n Transfer-Encoding: chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\n Host: h\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX y\r\n\r\n"),
        // Line ends and control characters.
        (400, "GET / HTTP/1.1\nHost: h\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\r\n"),
        (400, "GET / HTTP/1.1\r\nX: a\rContent-Length: 5\r\nHost: h\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX\0: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\n: no name\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX(y): z\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\né: z\r\n\r\n"),
        (400, "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        // Request lines.
        (400, "GET /\r\n\r\n"),
        (400, "GET / \r\n\r\n"),
        (400, "GET\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET /  HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET / HTTP/1.1 \r\nHost: h\r\n\r\n"),
        (400, "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, " GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET / http/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET / HTTP/1\r\nHost: h\r\n\r\n"),
        (400, "GET / HTTP/1.10\r\nHost: h\r\n\r\n"),
        (505, "GET / HTTP/1.2\r\nHost: h\r\n\r\n"),
        (505, "GET / HTTP/0.9\r\nHost: h\r\n\r\n"),
        (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (400, "G@T / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET /é HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n"),
        (414, "GET /123456789012345678901234567890"),
        // Hosts and other fields that may stand once.
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET http://h/ HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a,b/\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nOrigin: a\r\nOrigin: a\r\n\r\n"),
        (417, "GET / HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n"),
        // Bounds.
        (0, &many_fields(63)),
        (431, &many_fields(64)),
        (431, &format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(300))),
        // What must not be refused.
        (0, "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (0, "GET / HTTP/1.0\r\n\r\n"),
        (0, "GET / HTTP/1.1\r\nhost:\th:1 \r\nX: \t\r\nY:z\tz\r\n\r\n"),
        (0, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"),
        (0, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n"),
        (0, "GET /12345678901234567890123456789 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
    ] {
        let (told, before) = refusal(request.as_bytes());
        assert_eq!((told, before), (status, usize::from(status == 0)), "{request:?}");
    }
}

#[test]
fn pipelined_requests_are_all_read() {
    let requests = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n\
                    POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nGET /\
                    POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n\
                    GET /d HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(refusal(requests.as_bytes()), (0, 4));
    // No bound on one of them is used up by those before it.
    let long_targets = "\r\n\r\nGET /12345678901234567890 HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20);
    assert_eq!(refusal(long_targets.as_bytes()), (0, 20));
}
